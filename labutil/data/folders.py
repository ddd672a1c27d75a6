"""Folders of image files: which file belongs to which split and class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labutil.data.sources import File, is_clutter, natural, stat_file, walk
from labutil.paths import DataError, printable

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test", "unlabelled": "unlabelled", "unlabeled": "unlabelled"}
_TINY_LABELS, _TINY_WORDS = "val/val_annotations.txt", "words.txt"


@dataclass(frozen=True)
class Plan:
    """The images of a source, in the order in which they are stored."""

    files: list[File]
    labels: list[int]  # -1: none
    parts: dict[str, int]  # how many belong to train, val, test, unlabelled: where present, in this order
    classes: tuple[str, ...]


def plan_folder(folder: Path, files: Sequence[File], *, lenient: bool = False) -> Plan:
    """Sort the files below `folder` into splits and classes.

    `train/`, `val/` (also `valid`, `validation`), `test/` and `unlabelled/` are splits, in small letters or capitals;
    without a `train/` all belongs to one split, to be divided later. Within a split, folders are classes, with
    everything below them; images without a class folder have no label (-1). Two Unicode spellings of a name are one
    class. Classes and files are in natural order.

    lenient: for a use that needs no labels. Nothing but an empty folder is refused, and there are splits only where
    all images lie in some.

    Raises DataError for no images, images beside class folders or splits, class names that differ between splits, and
    splits or classes that lie further down.
    """
    if not files:
        raise DataError(f"{folder} holds no images: check the path")
    top = sorted({file.name.partition("/")[0] for file in files if "/" in file.name})
    splits = {name: split for name in top if (split := split_of(name))}
    divided = "train" in splits.values()
    if lenient:
        divided = all("/" in file.name and file.name.partition("/")[0] in splits for file in files)
    else:
        _check_levels(folder, files, splits, divided)
    members: dict[str, list[tuple[File, str]]] = {split: [] for split in SPLITS.values()}
    for file in sorted(files, key=lambda file: [natural(piece) for piece in _composed(file.name).split("/")]):
        above = _composed(file.name).split("/")[:-1]
        split = splits[above.pop(0)] if divided else "train"
        members[split].append((file, above[0] if above and (lenient or split != "unlabelled") else ""))
    members = {split: pairs for split, pairs in members.items() if pairs}
    if not lenient:
        where = {split: folder / name for name, split in splits.items()} if divided else {"train": folder}
        _check_classes(where, members)
    pairs = [pair for found in members.values() for pair in found]
    classes = sorted({name for _, name in pairs} - {""}, key=natural)
    number = {"": -1} | {name: label for label, name in enumerate(classes)}
    parts = {split: len(found) for split, found in members.items()}
    return Plan([file for file, _ in pairs], [number[name] for _, name in pairs], parts, tuple(classes))


def split_of(folder: str) -> str | None:
    """The split that a folder of this name is, whatever its capitals and blanks around it; None: it is none."""
    return SPLITS.get(folder.strip().lower())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _check_levels(folder: Path, files: Sequence[File], splits: dict[str, str], divided: bool) -> None:
    """Refuse images beside splits, and a folder whose splits or classes lie further down: it would be one class."""
    if divided:
        if len(set(splits.values())) < len(splits):
            raise DataError(f"{folder} has two folders for one split ({', '.join(splits)}): rename one")
        if loose := [file for file in files if file.name.partition("/")[0] not in splits]:
            where = f"{loose[0].path} lies beside train/ but in no split"
            raise DataError(f"{where}: move it into train/, val/, test/ or away")
        return
    if splits:
        raise DataError(f"{folder} has {next(iter(splits))}/ but no train/: add one, or name a folder inside it")
    shared = os.path.commonpath([file.name.rpartition("/")[0] for file in files])
    below = [file.name[len(shared) + 1 :] for file in files]
    if shared and all("/" in name for name in below):
        inner = {split_of(name.partition("/")[0]) for name in below}
        what, levels = "train/ lies" if "train" in inner else "its classes lie", shared.count("/") + 1
        down = f"{levels} levels down" if levels > 1 else "one level down"
        raise DataError(f"{folder}: {what} {down}, in {shared}/: write 'folder:{folder / shared}'")


def _check_classes(where: dict[str, Path], members: dict[str, list[tuple[File, str]]]) -> None:
    """Refuse images beside class folders, empty ones, splits that know other classes than train, and a test split that
    lacks some. `where`: the folder of each split."""
    classes = {split: {name for _, name in pairs} - {""} for split, pairs in members.items() if split != "unlabelled"}
    known = classes["train"]
    for split, names in classes.items():
        if names and (loose := [file for file, name in members[split] if not name]):
            raise DataError(f"{loose[0].path} lies beside class folders: move it into one, or away")
        for entry in sorted(where[split].iterdir()) if names else []:
            if entry.is_dir() and _composed(printable(entry.name)) not in names and not is_clutter(entry.name):
                raise DataError(f"{entry} is a class folder without images: fill or remove it")
        if known and not names:
            advice = "name it unlabelled/ to use them without labels, or make the folders"
            raise DataError(f"{where[split]} has images but no class folders, as train/ has: {advice}")
        if names - known or (known - names and split == "test"):
            only = {"train": known - names if split == "test" else (), split: names - known}
            different = "; ".join(
                f"only in {part}/: {', '.join(sorted(few, key=natural))}" for part, few in only.items() if few
            )
            parts = f"{where['train'].parent}: train/ and {split}/"
            raise DataError(f"{parts} must have the same classes ({different}): rename or add folders")


def tiny_imagenet_files(folder: Path) -> list[File]:
    """The labelled images of Tiny ImageNet as unpacked, train/ before val/, and the two tables that name classes."""
    images = [file._replace(name=f"{part}/{file.name}") for part in ("train", "val") for file in walk(folder / part)]
    return [*sorted(images), *(stat_file(name, folder / name) for name in (_TINY_LABELS, _TINY_WORDS))]


def plan_tiny_imagenet(folder: Path, files: Sequence[File]) -> Plan:
    """Tiny ImageNet's splits. Its `val/` is our test, since the labels of its own `test/` were never published.

    Raises DataError where files are missing or not as published.
    """
    images = list(files[:-2])
    count = sum(file.name.startswith("train/") for file in images)
    try:
        labels_of, words = (
            dict(line.split("\t")[:2] for line in (folder / table).read_text("utf-8").splitlines())
            for table in (_TINY_LABELS, _TINY_WORDS)
        )
        own = [file.name.split("/")[1] for file in images[:count]]
        own += [labels_of[file.name.removeprefix("val/images/")] for file in images[count:]]
        wnids = sorted(set(own[:count]))
        labels = [wnids.index(wnid) for wnid in own]
        names = [words[wnid].split(",")[0] for wnid in wnids]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{folder} is not Tiny ImageNet as published ({error!r}): delete it to get it again") from error
    if not 0 < count < len(images):
        raise DataError(f"{folder} lacks images in train/ or val/: delete it to get it again")
    # a few share their first name: a crane is a bird and a machine
    classes = [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
    return Plan(images, labels, {"train": count, "test": len(images) - count}, tuple(classes))
