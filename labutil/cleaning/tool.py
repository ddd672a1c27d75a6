"""`labutil clean`: lesson 01's detectors on a set of one's own, whose files are looked at and never changed."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from labutil.cleaning import detectors
from labutil.cleaning.decisions import COLUMNS, REASONS, first_reason
from labutil.cleaning.duplicates import near_duplicates
from labutil.data import decoding, folders, loading, store
from labutil.data.readers import PARTS
from labutil.data.sources import File, Source, natural, walk
from labutil.device import progress_bar
from labutil.paths import DataError, data_dir, make_folder, printable
from labutil.representations import frozen_features, signed_root

DOUBT = 0.95  # 1 - probability of the label, from which lesson 01 calls it wrong
FEW = 20  # images, of which fewer say nothing of what is typical
COMMON = 0.2  # share of a set from which a "fault" is how the set is
SIDE = 96  # pixels a side at which files are judged, at most


class Judged(NamedTuple):
    """A source as the tool sees it."""

    table: pd.DataFrame  # of COLUMNS, a row a file or image
    images: np.ndarray  # uint8 (n, C, H, W), of those that can be read
    rows: np.ndarray  # int (n,): their rows in the table
    nearest: dict[int, list[int]]  # row -> those of what looks most like it, for images without a twin
    notes: list[str]


def clean(source: Source, previous: pd.DataFrame | None = None) -> Judged:
    """Judge every file of a source. `previous`: an earlier table, whose decisions by a person stay.

    Files are decoded one by one at a working size (`SIDE` pixels, less where many are smaller) into a file on the
    disk, so memory holds what detectors compute of them: about 90 kB an image. Raises DataError where the source
    cannot be opened, or no image in it can be read.
    """
    read = _read_folder if source.kind == "folder" else _read_arrays
    table, images, rows, parts, sizes, notes = read(source)
    if not len(rows):
        raise DataError(f"none of the {len(table):,} files of {source.name} can be read as an image: check the path")
    earlier = _carried(table, previous)
    nearest = _judge(table, images, rows, parts, sizes, earlier, notes)
    first = first_reason(table)
    table["proposed"] = first.map(REASONS).fillna("keep")
    for reason in ("blank", "dark", "bright", "stranger", "blurred"):
        mine = first == reason
        if len(rows) >= FEW and mine.sum() > COMMON * len(rows):
            table.loc[mine, "proposed"] = "unsure"
            notes.append(f"{mine.sum():,} images are {reason}: perhaps the set is so, and none goes unless you say")
    table["decision"], table["reviewed"] = table["proposed"], ""
    for row, (decision, label) in earlier.items():
        table.loc[row, ["decision", "suggested label", "reviewed"]] = decision, label, "yes"
    return Judged(table[list(COLUMNS)], images, rows, nearest, notes)


def _carried(table: pd.DataFrame, previous: pd.DataFrame | None) -> dict[int, tuple[str, str]]:
    """What a person decided before: {row: (decision, label)}, where the file is the same, or has moved."""
    if previous is None:
        return {}
    own = previous[(previous["reviewed"] == "yes") | (previous["decision"] != previous["proposed"])]
    asked = own[["path", "sha256", "decision", "suggested label"]]
    said = {(path, sha): (decision, label) for path, sha, decision, label in asked.itertuples(index=False)}
    paths = set(table["path"])
    moved = {sha: answer for (path, sha), answer in said.items() if path not in paths and sha}
    known, found = set(previous["path"]), {}
    for row, (path, sha) in enumerate(zip(table["path"], table["sha256"], strict=True)):
        answer = said.get((path, sha)) or (moved.get(sha) if path not in known else None)
        if answer:
            found[row] = answer
    return found


def _table(lines: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(lines, columns=["path", "sha256", "label", "note"], dtype=object)
    if table["path"].duplicated().any():
        twice = table.loc[table["path"].duplicated(), "path"].iloc[0]
        raise DataError(f"two files are called {twice} once it is written as text: rename one")
    reason = np.where(table["note"] != "", "unreadable", "").astype(object)
    return table.assign(reason=reason, score="", twin="", **{"suggested label": ""})


# table, images, rows, place of each image's part in PARTS, (width, height) of each, notes
_Read = tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]


def _read_folder(source: Source) -> _Read:
    root, skipped = source.paths[0], []
    files = [*walk(root, skipped)]
    plan = folders.plan_folder(root, files, lenient=True)
    with progress_bar(2 * len(files), "reading", "file") as bar:

        def each(function: Callable[[File], Any], some: list[File]) -> Iterator[Any]:
            for found in decoding.try_each(function, some):
                bar.update()
                yield found

        looks = dict(enumerate(each(decoding.look, plan.files)))
        wrong = {i: look for i, look in looks.items() if isinstance(look, DataError)}
        good = [i for i in looks if i not in wrong]
        shorter = [min(looks[i].size) for i in good] or [SIDE]
        side = int(np.clip(np.percentile(shorter, 10), 32, SIDE))  # few have to be enlarged
        channels = 1 if all(looks[i].gray for i in good) else 3
        bits, notes = decoding.depth([plan.files[i] for i in good], [looks[i] for i in good])
        images, rows = _on_disk((len(good), channels, side, side)), []
        decode = partial(decoding.decode_file, height=side, width=side, channels=channels, bits=bits)
        for i, pixels in zip(good, each(decode, [plan.files[i] for i in good]), strict=True):
            if isinstance(pixels, DataError):
                wrong[i] = pixels
            else:
                images[len(rows)] = pixels.reshape(side, side, channels).transpose(2, 0, 1)
                rows.append(i)
    sizes = np.array([looks[i].size for i in rows]).reshape(-1, 2)
    lines = []  # path, sha256, label, what is wrong
    for i, (file, label) in enumerate(zip(plan.files, plan.labels, strict=True)):
        sha = _digest(file) if isinstance(looks[i], DataError) else looks[i].digest.hex()
        why = str(wrong.get(i, "")).removeprefix(f"{printable(file.path)} ")
        lines.append((file.name, sha, plan.classes[label] if label >= 0 else "", why))
    bad = [(name, "", "", why) for name, why in skipped if why]
    if others := len(skipped) - len(bad):
        notes.append(f"{others:,} other files or folders (hidden, or no images by their names) are left alone")
    parts = np.repeat([PARTS.index(part) for part in plan.parts], list(plan.parts.values()))
    return _table(lines + bad), images[: len(rows)], np.array(rows, int), parts[rows], sizes, notes


def _read_arrays(source: Source) -> _Read:
    found = loading.load_source(source, lenient=True)
    sha = [hashlib.sha256(image.tobytes()).hexdigest() for image in found.images]
    labels = [found.classes[label] if label >= 0 else "" for label in found.labels]
    table = _table([(*line, "") for line in zip(loading.image_names(found), sha, labels, strict=True)])
    images, size = found.images, found.images.shape[2:]
    if min(size) > SIDE:
        images, start = _on_disk((len(sha), images.shape[1], SIDE, SIDE)), 0
        for chunk in loading.resize(found.images, SIDE):
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
    parts = np.repeat([PARTS.index(part) for part in found.parts], list(found.parts.values()))
    return table, images, np.arange(len(sha)), parts, np.tile(size, (len(sha), 1)), list(found.notes)


def _on_disk(shape: tuple[int, ...]) -> np.ndarray:
    """Room for images: a file that is gone when nobody uses it any more."""
    folder, need = make_folder(data_dir() / "cache"), math.prod(shape)
    if need > (free := shutil.disk_usage(folder).free):  # else writing to it would end the process
        lacks = f"{free >> 20:,} MiB free, and {need >> 20:,} are needed"
        raise DataError(f"{folder} has {lacks}: make room, or set LABUTIL_DATA")
    if not need:
        return np.zeros(shape, np.uint8)
    with store.writable(folder), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # as would a disk that fills up meanwhile
            os.posix_fallocate(file.fileno(), 0, need)
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _digest(file: File) -> str:
    """Of the bytes of a file that is no image; "" where not even they can be read."""
    try:
        with open(file.path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return ""


def _judge(
    table: pd.DataFrame, images: np.ndarray, rows: np.ndarray, parts: np.ndarray, sizes: np.ndarray,
    earlier: dict[int, tuple[str, str]], notes: list[str],
) -> dict[int, list[int]]:  # fmt: skip
    """Fill in reasons, scores, twins and suggested labels; i, j and k below count images, not rows of the table."""
    n, names = len(images), table["label"].to_numpy()[rows]
    classes = sorted(set(names) - {""}, key=natural)
    labels = np.array([classes.index(name) if name else -1 for name in names])
    found: dict[str, dict[int, float]] = {reason: {} for reason in REASONS}
    quality = detectors.image_quality(images)
    quality.loc[sizes.min(1) < min(images.shape[2:]), "blurred"] = 0  # enlarged by us: no fault
    asked = ["blank", "dark", "bright", *(["blurred"] if n >= FEW else [])]
    for reason in asked:
        over = quality[quality[reason] > detectors.THRESHOLDS[reason]]
        found[reason] = dict(zip(over["index"], over[reason], strict=True))
    if n >= FEW:
        strangers = detectors.outliers(images)
        strangers = strangers[strangers["score"] > detectors.THRESHOLDS["outlier"]]
        found["stranger"] = dict(zip(strangers["index"], strangers["score"], strict=True))
    else:
        notes.append(f"fewer than {FEW} images: strangers, blur and labels are not judged")
    bad = np.isin(np.arange(n), [i for reason in [*asked, "stranger"] for i in found[reason]])

    pairs = near_duplicates(images)
    group = detectors.copies(pairs, n)
    sure = pairs[pairs["score"] > detectors.THRESHOLDS["duplicate"]]
    ends = pd.concat([sure, sure.set_axis(["reference_index", "index", "score"], axis=1)])
    best = ends.groupby("index")["score"].max()
    # That copy stays which a person wants; which is no bad picture, held out for a test, labelled, has most pixels.
    wish = np.array([{"keep": 1, "relabel": 1, "remove": -1}.get(earlier.get(row, ("", ""))[0], 0) for row in rows])
    held_out = np.where(parts == PARTS.index("unlabelled"), -1, parts)
    order = np.lexsort((np.arange(n), -sizes.prod(1), labels < 0, -held_out, bad, -wish))
    _, first, member = np.unique(group[order], return_index=True, return_inverse=True)
    kept = np.empty(n, int)
    kept[order] = order[first[member]]
    known = pd.DataFrame({"group": group, "label": labels})[labels >= 0]
    disputed = np.isin(group, known.groupby("group")["label"].nunique().loc[lambda count: count > 1].index)
    twins = {}
    for i in np.flatnonzero(np.isin(np.arange(n), best.index)):
        others = ends.loc[ends["index"] == i, "reference_index"].to_numpy() if disputed[i] else [kept[i]]
        others = [*(j for j in others if labels[j] != labels[i]), *others]
        if disputed[i] or kept[i] != i:
            twins[i] = int(others[0])
            leaked = parts[i] != parts[kept[i]] and max(held_out[i], held_out[kept[i]]) > 0
            reason = "conflict" if disputed[i] else "leak" if leaked else "duplicate"
            found[reason][i] = best[i]

    suggested = {}
    h = frozen_features(images)
    asked = np.flatnonzero((labels >= 0) & (kept == np.arange(n)) & ~bad)
    if len(np.unique(labels[asked])) < 2:
        notes.append("labels are not judged, which needs images of two classes")
    elif n >= FEW:
        p = detectors.out_of_fold_probabilities(detectors.label_features(images)[asked], labels[asked])
        issues = detectors.label_issues(images, labels[asked], p)
        issues = issues[issues["score"] > DOUBT]
        found["doubted label"] = dict(zip(asked[issues["index"]], issues["score"], strict=True))
        likely = dict(zip(asked, p.argmax(1), strict=True))
        for i in [*found["doubted label"], *found["conflict"]]:
            if (k := likely.get(kept[i], labels[i])) != labels[i]:
                suggested[i] = classes[k]

    reasons: dict[int, list[str]] = {}
    for reason, scores in found.items():
        for i in scores:
            reasons.setdefault(i, []).append(reason)
    column = {name: table.columns.get_loc(name) for name in table}
    for i, some in reasons.items():
        values = {"reason": "; ".join(some), "score": f"{found[some[0]][i]:.4f}"}
        values |= {"twin": table["path"][rows[twins[i]]] if i in twins else "", "suggested label": suggested.get(i, "")}
        for name, value in values.items():
            table.iat[rows[i], column[name]] = value
    lonely = np.array([i for i in reasons if i not in twins], int)
    look = F.normalize(torch.from_numpy(signed_root(h.numpy())), dim=1)
    near = [(look[part] @ look.T).topk(min(n, 4)).indices.tolist() for part in torch.from_numpy(lonely).split(256)]
    return {
        int(rows[i]): [int(rows[j]) for j in some if j != i][:3]
        for i, some in zip(lonely, [some for part in near for some in part], strict=True)
    }
