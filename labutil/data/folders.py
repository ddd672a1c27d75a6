"""Folders of image files: which file belongs to which split and class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labutil.data.sources import File, is_clutter, natural, stat_file, walk
from labutil.paths import DataError, printable

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
_SPLITS = {name: part for part, names in _PARTS.items() for name in names}
_TINY_LABELS, _TINY_WORDS = "val/val_annotations.txt", "words.txt"


@dataclass(frozen=True)
class Plan:
    """The images of a source, in the order in which they are stored."""

    files: list[File]
    labels: list[int]  # -1: none
    parts: dict[str, int]  # how many belong to train, val, test, unlabelled: where present, in this order
    classes: tuple[str, ...]


def plan_folder(folder: Path, files: Sequence[File]) -> Plan:
    """Sort the files below `folder` into splits and classes.

    `train/`, `val/` (also `valid`, `validation`), `test/` and `unlabelled/` are splits, in small letters or capitals;
    without a `train/` all belongs to one split, to be divided later. Within a split, folders are classes, with
    everything below them; images without a class folder have no label (-1). Two Unicode spellings of a name are one
    class. Classes and files are in natural order.

    Raises DataError for no images, images beside class folders or splits, class names that differ between splits, and
    splits or classes that lie further down.
    """
    top = _top_folders(folder, files)
    splits = {name: _SPLITS[name.lower()] for name in top if name.lower() in _SPLITS}
    divided = "train" in splits.values()
    if not divided:
        _check_levels(folder, files, sorted(splits))
    elif len(set(splits.values())) < len(splits):
        raise DataError(f"{folder} has two folders for one split ({', '.join(sorted(splits))}): rename one")
    groups: dict[str, list[tuple[File, str]]] = {}
    for file in files:
        name = file.name.partition("/")[0]
        if divided and name not in splits:
            raise DataError(f"{file.path} lies beside train/ but in no split: move it into train/, val/, test/ or away")
        groups.setdefault(splits[name] if divided else "train", []).append((file, _class_of(file, int(divided))))
    where = {split: folder / name for name, split in splits.items()} if divided else {"train": folder}
    classes = {part: _classes(where[part], pairs) for part, pairs in groups.items() if part != "unlabelled"}
    _check_classes(where, classes)
    if "unlabelled" in groups:
        groups["unlabelled"] = [(file, "") for file, _ in groups["unlabelled"]]
    return _arrange(groups, classes["train"])


def plan_tree(folder: Path, files: Sequence[File]) -> Plan:
    """Any tree of images, in natural order, for a use that needs no labels: nothing but an empty one is refused.

    Where all lie in `train/`, `val/`, `test/` or `unlabelled/` (names as in `plan_folder`), these are parts; else all
    are one part, train. The outermost folder of an image, inside its part, is its class; an image in none has label -1.
    """
    top = _top_folders(folder, files)
    divided = all("/" in file.name for file in files) and {name.lower() for name in top} <= set(_SPLITS)
    groups: dict[str, list[tuple[File, str]]] = {}
    for file in files:
        part = _SPLITS[file.name.partition("/")[0].lower()] if divided else "train"
        groups.setdefault(part, []).append((file, _class_of(file, int(divided))))
    return _arrange(groups, _classes(None, [pair for pairs in groups.values() for pair in pairs]))


def _top_folders(folder: Path, files: Sequence[File]) -> set[str]:
    if not files:
        raise DataError(f"{folder} holds no images: check the path")
    return {file.name.partition("/")[0] for file in files if "/" in file.name}


def _class_of(file: File, depth: int) -> str:
    """The name of the folder `depth` levels down that holds a file; "" for none."""
    above = unicodedata.normalize("NFC", file.name).split("/")[depth:-1]
    return above[0] if above else ""


def _classes(folder: Path | None, pairs: list[tuple[File, str]]) -> tuple[str, ...]:
    """Names of the class folders in `folder`, in order; none where all images lie in it. None: nothing is refused."""
    names = {name for _, name in pairs} - {""}
    if names and folder is not None:
        if loose := next((file for file, name in pairs if not name), None):
            raise DataError(f"{loose.path} lies beside class folders: move it into one, or away")
        for entry in sorted(folder.iterdir()):
            spelled = unicodedata.normalize("NFC", printable(entry.name))
            if entry.is_dir() and spelled not in names and not is_clutter(entry.name):
                raise DataError(f"{entry} is a class folder without images: fill or remove it")
    return tuple(sorted(names, key=natural))


def _check_classes(where: dict[str, Path], classes: dict[str, tuple[str, ...]]) -> None:
    """Refuse splits that know other classes than train, and a test split that lacks some."""
    for split, names in classes.items():
        missing, extra = set(classes["train"]) - set(names), set(names) - set(classes["train"])
        if missing and not names:
            raise DataError(
                f"{where[split]} has images but no class folders, as train/ has: name it unlabelled/ to use them "
                f"without labels, or make the folders"
            )
        if extra or (missing and split == "test"):
            only = {"train": missing if split == "test" else (), split: extra}
            different = "; ".join(
                f"only in {part}/: {', '.join(sorted(few, key=natural))}" for part, few in only.items() if few
            )
            raise DataError(
                f"{where['train'].parent}: train/ and {split}/ must have the same classes ({different}): rename or add "
                f"folders"
            )


def _check_levels(folder: Path, files: Sequence[File], splits: list[str]) -> None:
    """Refuse a folder without train/ where the splits or the classes lie further down: it would be one class."""
    if splits:
        raise DataError(f"{folder} has {splits[0]}/ but no train/: add one, or name a folder inside it")
    shared = os.path.commonpath([file.name.rpartition("/")[0] for file in files])
    below = [file.name[len(shared) + 1 :] for file in files]
    if shared and all("/" in name for name in below):
        inner = {name.partition("/")[0].lower() for name in below}
        what = "train/ lies" if "train" in {_SPLITS.get(name) for name in inner} else "its classes lie"
        levels = shared.count("/") + 1
        down = "one level" if levels == 1 else f"{levels} levels"
        raise DataError(f"{folder}: {what} {down} down, in {shared}/: write 'folder:{folder / shared}'")


def _arrange(groups: dict[str, list[tuple[File, str]]], classes: tuple[str, ...]) -> Plan:
    """`groups`: the images of each part, each with the name of its class."""
    number = {name: label for label, name in enumerate(classes)}
    parts = {part: sorted(groups[part], key=lambda pair: _pieces(pair[0])) for part in _PARTS if part in groups}
    pairs = [pair for part in parts.values() for pair in part]
    labels = [number.get(name, -1) for _, name in pairs]
    return Plan([file for file, _ in pairs], labels, {part: len(found) for part, found in parts.items()}, classes)


def _pieces(file: File) -> list[tuple]:
    return [natural(piece) for piece in unicodedata.normalize("NFC", file.name).split("/")]


def tiny_imagenet_files(folder: Path) -> list[File]:
    """The labelled images of Tiny ImageNet as unpacked, and the two tables that name their classes."""
    images = [file._replace(name=f"{part}/{file.name}") for part in ("train", "val") for file in walk(folder / part)]
    return [*sorted(images), *(stat_file(name, folder / name) for name in (_TINY_LABELS, _TINY_WORDS))]


def plan_tiny_imagenet(folder: Path, files: Sequence[File]) -> Plan:
    """Tiny ImageNet's splits. Its `val/` is our test, since the labels of its own `test/` were never published.

    Raises DataError where files are missing or not as published.
    """
    images = files[:-2]  # train/ before val/
    count = sum(file.name.startswith("train/") for file in images)
    try:
        words = dict(line.split("\t", 1) for line in (folder / _TINY_WORDS).read_text("utf-8").splitlines())
        rows = [line.split("\t") for line in (folder / _TINY_LABELS).read_text("utf-8").splitlines()]
        wnid_of = {f"val/images/{row[0]}": row[1] for row in rows}
        wnid_of |= {file.name: file.name.split("/")[1] for file in images[:count]}
        wnids = sorted({wnid_of[file.name] for file in images[:count]})
        labels = [wnids.index(wnid_of[file.name]) for file in images]
        names = [words[wnid].split(",")[0] for wnid in wnids]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{folder} is not Tiny ImageNet as published ({error!r}): delete it to get it again") from error
    if not 0 < count < len(images):
        raise DataError(f"{folder} lacks images in train/ or val/: delete it to get it again")
    # a few share their first name: a crane is a bird and a machine
    classes = [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
    return Plan(list(images), labels, {"train": count, "test": len(images) - count}, tuple(classes))
