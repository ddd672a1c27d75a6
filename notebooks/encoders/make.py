"""Make the encoders of this folder: `make encoders`, or `notebooks/encoders/make.py [NAME...]`.

Each is a run of a lesson's core with its recipe `long`, in sweeps/encoders/runs/ (the same command
continues one that was cut off, and finds one that is complete). Of the run its encoder is kept,
with a linear head on it, and what it scores. It takes hours; the .json files say how many.

`make.py --fine-tune NAME` adds to NAME.json what the encoder has right after fine-tuning (recipe
`fine_tuned` of lesson 03). mnist_classifier is lesson 06's recipe `mnist_cpu`: a classifier of
digits, and the autoencoder that it began as, mnist_autoencoder.safetensors; it needs MNIST.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from labutil import device, encoders, evaluation, models, paths, representations, runs
from labutil.data import load_dataset
from labutil.images import Dataset
from labutil.runs import parameters

# name: (lesson, what is set beside the recipe, the fit that trained the encoder, the file with it)
MADE = {
    "supervised_long": ("02", {}, "supervised", "model"),
    "simclr_long": ("04", {"method": "simclr"}, "pretrain", "model"),
    "byol_long": ("04", {"method": "byol"}, "pretrain", "model"),
    "barlow_twins_long": ("04", {"method": "barlow_twins"}, "pretrain", "model"),
    "supcon_long": ("05", {}, "SupCon", "model"),
    "autoencoder_long": ("06", {}, "autoencoder", "autoencoder"),
}
FINE_TUNED = "simclr_long"  # what lessons 04 and 07 set beside training from scratch


def make(name: str) -> Path:
    """Train an encoder, or find it trained, and leave it in this folder: its .safetensors file."""
    lesson, given, fit, file = MADE[name]
    notebook = parameters.find_notebook(lesson)
    params = parameters.plan(notebook, "long", given)
    out = paths.sweeps_dir() / "encoders" / "runs"
    directory, _ = runs.run_and_tell(notebook, params, recipe="long", out=out, core=True)
    words = [
        f"labutil run {lesson} --recipe long --core",
        *(f"-p {k} {v}" for k, v in given.items()),
    ]
    return export(directory, name, fit=fit, file=file, command=" ".join(words))


def export(directory: Path, name: str, *, fit: str, file: str, command: str) -> Path:
    """The encoder of a run as NAME.safetensors in `encoders.FOLDER`, and NAME.json about it.

    Weights of layers are rounded to float16 before the head, `linear_probe` on all training images,
    is fitted. fit: the name, in the run, of what trained the encoder. file: "model", "autoencoder".
    Raises RunError where the run's images can no longer be had.
    """
    record = runs.read_record(directory)
    shape = {key: record["params"][key] for key in ("image_size", "subset", "data_seed")}
    spec = record["params"]["dataset"]
    data = load_dataset(spec, **shape)
    if data.fingerprint != record["dataset"]["fingerprint"]:
        raise runs.RunError(f"{runs.show_path(directory)} was trained on other images: delete it")
    encoder = models.load(directory / f"{file}.safetensors").encoder
    device.seed_everything(record["params"]["seed"])
    untrained = representations.untrained(encoder)  # with the very weights that the run began with
    start = representations.scores(device.prepare(untrained), data.train, whole=data.val)

    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(weight.half() if weight.ndim > 1 else weight)
    h = evaluation.predict(device.prepare(encoder), data.train.images)
    head = representations.probe_head(
        representations.linear_probe(h, data.train.labels), len(data.classes)
    )
    path = paths.make_folder(encoders.FOLDER) / f"{name}.safetensors"
    settings = models.save(models.Classifier(encoder, len(data.classes), head), path, half=True)

    history = pd.read_csv(directory / "history.csv").query("fit == @fit")
    kept = ("notebook", "label", "recipe", "params", "dataset", "environment", "started", "status")
    facts = {"name": name, "command": command} | {key: record[key] for key in kept}
    facts |= {
        "model": settings,
        "fit": record["fits"][fit],
        "epochs": len(history),
        "minutes": round(history.seconds.sum() / 60, 1),
        "precision": record["fits"][fit]["precision"],
        "parameters": models.count_parameters(encoder),
        "features": encoder.num_features,
        "curve": curve(start, history),
        "scores": scores(path, data, spec.replace("cells", "cells_shifted", 1), shape),
    }  # fmt: skip
    runs.write_json(path.with_suffix(".json"), facts)
    return path


def fine_tune(name: str) -> Path:
    """Fine-tune an encoder by each setting of the recipe and seed, and put it into its .json."""
    notebook, rows = parameters.find_notebook("03"), []
    block = parameters.read_sweep(notebook, "fine_tuned")
    out = paths.sweeps_dir() / "fine_tuned" / "runs"
    for point in block["points"]:
        for seed in block["seeds"]:
            given = {"encoder": name, "seed": seed, **point}
            params = parameters.plan(notebook, "fine_tuned", given)
            _, record = runs.run_and_tell(notebook, params, recipe="fine_tuned", out=out, core=True)
            found = {key: record["metrics"][f"{key}_accuracy"] for key in ("probe", "fine_tuned")}
            labels = record["dataset"]["sizes"]["train"]
            rows.append(
                {"labels": labels, "epochs": params["epochs"], "seed": params["seed"], **found}
            )
    path = encoders.FOLDER / f"{name}.json"
    environment = {key: record["environment"][key] for key in ("device", "processor", "torch")}
    fits = record["fits"]["fine-tune"]["precision"]
    facts = {"fine_tuned": rows, "fine_tuned_on": environment | {"precision": fits}}
    runs.write_json(path, encoders.facts(name) | facts)
    return path


def make_digits(directory: Path | None = None) -> Path:
    """Lesson 06's classifier of digits and its autoencoder, weights of layers as float16, and the
    classifier's .json. directory: of the run, where it is known."""
    if directory is None:
        notebook = parameters.find_notebook("06")
        params = parameters.plan(notebook, "mnist_cpu", {})
        out = paths.sweeps_dir() / "encoders" / "runs"
        directory, _ = runs.run_and_tell(notebook, params, recipe="mnist_cpu", out=out, core=True)
    record, (name,) = runs.read_record(directory), encoders.OTHERS
    whole, classifier = (
        models.load(directory / f"{k}.safetensors") for k in ("autoencoder", "model")
    )
    models.save(whole, encoders.FOLDER / "mnist_autoencoder.safetensors", half=True)
    path = encoders.FOLDER / f"{name}.safetensors"
    settings = models.save(classifier, path, half=True)
    test = load_dataset(record["params"]["dataset"], data_seed=record["params"]["data_seed"]).test
    right = (
        evaluation.predict(device.prepare(models.load(path)), test.images).argmax(1) == test.labels
    )
    kept = ("notebook", "label", "recipe", "params", "dataset", "environment", "started", "status")
    facts = {"name": name, "command": "labutil run 06 --recipe mnist_cpu --core"}
    facts |= {key: record[key] for key in kept} | {
        "model": settings,
        "minutes": round(record["metrics"]["train_seconds"] / 60, 1),
        "parameters": models.count_parameters(classifier),
        "autoencoder_parameters": models.count_parameters(whole),
        "scores": {"test_errors": int((~right).sum()), "test_images": len(test)},
    }
    runs.write_json(path.with_suffix(".json"), facts)
    return path


def curve(start: dict[str, float], history: pd.DataFrame) -> list[dict[str, Any]]:
    """Epochs with their k-NN and linear accuracy on validation images, before the first one too."""
    whole = history.dropna(subset=list(start)) if set(start) <= set(history) else history[:0]
    rows = [{"epoch": 0, **start}, *whole[["epoch", *start]].to_dict("records")]
    return [{key.removeprefix("whole_"): value for key, value in row.items()} for row in rows]


def scores(path: Path, data: Dataset, shifted: str, shape: dict[str, Any]) -> dict[str, float]:
    """What the file scores, by neighbours and by its head: val, test and the second laboratory."""
    classifier = device.prepare(models.load(path))
    parts = {"val": data.val, "test": data.test, "shifted": load_dataset(shifted, **shape).test}
    found = representations.scores(classifier.encoder, data.train, **parts)
    for name, part in parts.items():
        right = evaluation.predict(classifier, part.images).argmax(1) == part.labels
        found[f"{name}_linear_accuracy"] = right.float().mean().item()
    return found


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--fine-tune"]
    for name in asked or MADE:
        if name not in {*MADE, *encoders.OTHERS}:
            near = paths.did_you_mean(name, MADE)
            sys.exit(f"make.py: no encoder {name!r}{near}; there are {', '.join(MADE)}")
        steps = [make] if name in MADE else [lambda _: make_digits()]
        if "--fine-tune" in sys.argv:
            steps = [fine_tune]
        elif name == FINE_TUNED:
            steps.append(fine_tune)
        for step in steps:
            click.echo(f"  {runs.show_path(step(name))}")
