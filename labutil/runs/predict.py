"""A finished run's model on new images: find the run, rebuild its model, and make a table of what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from labutil import device, encoders, evaluation, models, paths
from labutil.data import loading, sources, store
from labutil.data.sources import Source
from labutil.paths import DataError, did_you_mean, printable
from labutil.runs.record import read_record, show_path

PARTS = ("train", "val", "test", "all")
_BATCH = 128  # a network may scale its images up, so fewer at once than stored ones would allow


def find_run(name: str) -> Path:
    """A run's directory, by its path; or below `paths.runs_dir()` by its id or the beginning of one, or as the newest
    complete run of a notebook, by the notebook's name or number. One of `encoders.SHIPPED` is its .json file, which
    says what a run's run.json does. Raises DataError when there is none, or several.

    Example:
        find_run("02")  # runs/02_supervised_baseline/1a13e63080
    """
    if name in encoders.SHIPPED:
        return encoders.find(name).with_suffix(".json")
    path, base = Path(name).expanduser(), paths.runs_dir()
    if (path / "run.json").is_file():
        return path.resolve()
    found = sorted(file.parent for file in base.glob("*/*/run.json"))
    stem = name.removesuffix(".ipynb")
    if mine := [p for p in found if p.parent.name == stem or p.parent.name.startswith(f"{stem}_")]:
        records = [(read_record(p), p) for p in mine]
        if complete := [(record["started"], p) for record, p in records if record and record["status"] == "complete"]:
            return max(complete)[1]
        lesson = mine[0].parent.name
        raise DataError(f"no run of {lesson} in {show_path(base)} is complete: labutil run {lesson}")
    fits = [p for p in found if p.name.startswith(name)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise DataError(f"run {name!r} may be {', '.join(p.name for p in fits[:5])}: write more of its id")
    hint = did_you_mean(name, {*encoders.SHIPPED, *(name for p in found for name in (p.parent.name, p.name))})
    what = "there is no run.json in it" if path.is_dir() else f"none such is in {show_path(base)}"
    raise DataError(f"no run {name!r}{hint}: {what}; give a run's directory, id, or notebook")


def load_model(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a finished run, on the device and frozen, and the run's record (run.json).

    It maps float32 images (N, C, H, W) in [0, 1], of `record["model"]`'s channels and image_size, to logits (N, K) over
    `record["dataset"]["classes"]`. Raises DataError for a run without a model that can be rebuilt.
    """
    name, file = show_path(directory), directory / "model.safetensors"
    if directory.suffix == ".json":
        record, file = encoders.facts(directory.stem), directory.with_suffix(".safetensors")
    else:
        record = read_record(directory)
    if record is None:
        raise DataError(f"{name} has no run.json that can be read: give another run")
    if record["status"] != "complete":
        raise DataError(f"{name} is not complete but {record['status']}: finish it with labutil run")
    if not record.get("model") or not file.is_file():
        raise DataError(f"{name} keeps no model that can be rebuilt: run its notebook again, or give another run")
    named, outputs = len((record.get("dataset") or {}).get("classes", ())), record["model"].get("num_classes")
    if named != outputs:
        raise DataError(f"{name} names {named} classes, but its model has {outputs}: give another run")
    try:
        model = models.load(file, kind=models.Classifier, settings=record["model"])
    except DataError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise DataError(f"the model of {name} cannot be rebuilt ({reason[:300]}): run its notebook again") from error
    return device.prepare(model.requires_grad_(False).eval()), record


def predict_images(directory: Path, spec: str, part: str | None = None) -> pd.DataFrame:
    """What a finished run's model says of images: a table, one row an image, in the order of their source.

    Columns: name (a file's path inside its folder, or as `test_images[17]`: key and position), class (predicted), label
    (where a source has labels that the model knows; "" for images without), and p_<class> for each class, which sum to
    1. Images are scaled as by `load_dataset`, and made gray for a model of gray ones. Notes go to stderr.

    directory: as `find_run` returns it. spec: as `parse_source` takes it; folders may hold images in any way, and those
    named as classes of the model give labels. part: one of PARTS; one that the source does not bring is drawn as
    `load_dataset` draws it, with the run's data_seed. None: "test" where the source brings it, else "all".
    Raises DataError for a run without a usable model, for images that cannot be used, and as `part_rows`.

    Example:
        table = predict_images(find_run("02"), "folder:new_images")
    """
    if part is not None and part not in PARTS:
        raise DataError(f"part {part!r}{did_you_mean(part, PARTS)} is not one of {', '.join(PARTS)}")
    source = parse_source(spec)
    model, record = load_model(directory)
    size, channels = record["model"]["image_size"], record["model"]["channels"]
    size = size if isinstance(size, int) else tuple(size)
    found = loading.load_source(source, size, record["params"].get("data_seed", 0), lenient=True)
    part = part or ("test" if "test" in found.parts else "all")
    rows = part_rows(found, source, part, record)
    outputs, length = [], store.chunk_length(found.images.shape[1:])
    with device.progress_bar(len(rows), source.name, "image") as bar:
        for i in range(0, len(rows), length):
            images = loading.to_channels(found.images[rows[i : i + length]], channels)
            outputs.append(evaluation.predict(model, torch.from_numpy(images), batch_size=_BATCH).softmax(1))
            bar.update(len(images))
    probabilities = torch.cat(outputs).numpy()
    if not np.isfinite(probabilities).all():
        raise DataError(f"the model of {show_path(directory)} gives NaN: did its training diverge?")

    classes = np.array(record["dataset"]["classes"])
    labels = np.array([*found.classes, ""])[found.labels[rows]]  # label -1 is the last
    names = loading.image_names(found)
    columns = {"name": [names[row] for row in rows], "class": classes[probabilities.argmax(1)]}
    if set(labels) & set(classes):
        columns["label"] = labels
    notes = list(found.notes)
    if part in {"train", "all"} and holds_trained(source, record):
        notes.append(f"the model was trained on images of {source.name}; --part test has none of those")
    elif known := count_trained(found, rows, record):
        notes.append(
            f"{known:,} of these {len(rows):,} images are, pixel for pixel, among those of {record['dataset']['name']} "
            "that the run had to train on: on them the model answers from memory"
        )
    if channels < found.images.shape[1]:
        notes.append("the model was trained on gray images, so the colour of these is left out")
    if unknown := sorted(set(labels) - {"", *classes}, key=sources.natural):
        some = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        notes.append(f"labels that are no classes of the model are not judged: {some}")
    for note in notes:
        print(f"labutil: note: {note}", file=sys.stderr)
    return pd.DataFrame(columns).join(pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes]))


def write_table(name: str, spec: str, part: str | None, out: Path | None) -> str:
    """`labutil predict`: `predict_images` by a run of this name (`find_run`), as CSV into `out`, or into the run's
    directory. Returns what is said of it."""
    directory = find_run(name)
    folder = directory if directory.is_dir() else paths.runs_dir() / directory.stem
    file = paths.file_name("_".join(filter(None, ("predictions", parse_source(spec).name, part))))
    path = paths.target(out or paths.make_folder(folder) / f"{file}.csv")
    table = predict_images(directory, spec, part)
    paths.replace_file(path, lambda temporary: table.to_csv(temporary, index=False, float_format="%.6g"))
    images = "1 image" if len(table) == 1 else f"{len(table):,} images"
    return f"{images}: {show_path(path)}\n  {summary(table)}"


def part_rows(found: store.Stored, source: Source, part: str, record: dict[str, Any]) -> np.ndarray:
    """Which images of a source make up a part, ascending: int64 (n,). Parts that it does not bring are drawn anew.

    Raises DataError where the source has no such part, or where images were added, changed or removed since the run:
    some of a new test was trained on then.
    """
    if part == "all":
        return np.arange(len(found.labels))
    # What a source lacks of test and val is taken from train, so train is what they leave.
    brought = part in found.parts and (part != "train" or {"val", "test"} <= set(found.parts))
    related = "train" in found.parts and holds_trained(source, record)
    if brought and not related:
        return np.flatnonzero(np.repeat(list(found.parts), list(found.parts.values())) == part)
    if "train" not in found.parts:
        raise DataError(f"{source.name} has no part {part!r}, only {', '.join(found.parts)}: give another part")
    seed, fraction = record["params"].get("data_seed", 0), record["params"].get("val_fraction", 0.1)
    groups = record["params"].get("groups") if related else None
    rows, fingerprint, _ = loading.divide(found, source.name, fraction, seed, groups)  # what is brought stays
    trained = record["dataset"]
    if related and set(known := trained.get("classes", ())) < set(found.classes):  # the others were held out
        fingerprint = loading.class_fingerprint(fingerprint, known)
    if related and fingerprint != trained.get("fingerprint"):
        changed, advice = f"{source.name} is no longer as the run saw it", "restore it"
        if not source.paths:
            changed, advice = f"{source.name} is not {trained['name']} as the run saw it", f"use {trained['name']}"
        if not brought:
            what = f"some of what is drawn as {part} now may have been trained on"
            raise DataError(f"{changed}, and {what}: {advice}, or give --part all")
        what = f"an image that has moved to {part} since may have been trained on"
        print(f"labutil: note: {changed}: {what}", file=sys.stderr)
    return rows[part]


def count_trained(found: store.Stored, rows: np.ndarray, record: dict[str, Any]) -> int:
    """How many rows of a source equal an image in the training part of the run's own files, by whatever name; 0 where
    those are gone or are no longer what the run saw."""
    try:
        source = sources.parse(record["params"]["dataset"])
        if not source.paths:  # published and generated sets are no folders that one copies
            return 0
        seed, fraction = record["params"].get("data_seed", 0), record["params"].get("val_fraction", 0.1)
        own = loading.load_source(source, found.images.shape[2:], seed)
        trained, fingerprint, _ = loading.divide(own, source.name, fraction, seed, record["params"].get("groups"))
    except (DataError, KeyError):
        return 0
    if own.images.shape[1:] != found.images.shape[1:] or fingerprint != record["dataset"].get("fingerprint"):
        return 0
    known = {store.digest(own.images[row]) for row in trained["train"]}
    return sum(store.digest(found.images[row]) in known for row in rows)


def holds_trained(source: Source, record: dict[str, Any]) -> bool:
    """Whether a source may hold images that a run was trained on: both are generated alike, where a smaller number
    begins every larger one, or it has the name of the run's data set. A folder or file of that name in another place
    is that data set, moved, only where the run's own is gone."""
    name = record["dataset"].get("name", "")
    if source.kind in sources.GENERATED:
        return source.kind == name.partition(":")[0]
    try:
        own = sources.parse(record["params"]["dataset"]).paths
    except (DataError, KeyError):  # gone, or never named
        own = ()
    return source.name == name and (not own or own[0].samefile(source.paths[0]))


def summary(table: pd.DataFrame) -> str:
    """One line on a table of `predict_images`: how many of each class, the frequent ones first, and the accuracy."""
    counts = table["class"].value_counts()
    line = ", ".join(f"{name} {count:,}" for name, count in counts.head(12).items())
    if len(counts) > 12:
        line += f" and {len(counts) - 12} more classes"
    if "label" in table:
        judged = table[("p_" + table.label).isin(table.columns)]
        right = judged.label == judged["class"]
        line += f"; accuracy {right.mean():.4f} ({right.sum():,} of {len(right):,} labelled)"
    return line


def parse_source(spec: str) -> Source:
    """As `sources.parse`, and also the path of a folder or of an image file, without its kind."""
    try:
        return sources.parse(spec)
    except DataError:
        path = paths.absolute(spec)
        if spec.strip() and path.is_dir():
            return Source("folder", f"folder:{printable(path.name)}", paths=(path,))
        if path.is_file() and path.suffix != ".npz":
            return Source("image", printable(path.name), paths=(path,))
        raise
