"""Folders of image files: which file belongs to which split and class, and decoding with Pillow."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labutil.data import store
from labutil.data.sources import File, is_clutter, natural, stat_file, walk
from labutil.paths import DataError, printable

if TYPE_CHECKING:
    from PIL.Image import Image

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unlabelled": "unlabelled",
    "unlabeled": "unlabelled",
}
_MIN_SIDE, _MAX_SIDE, _MAX_DEFAULT = 8, 1024, 224
_ORIENTATION = 0x0112  # EXIF tag
_TINY_LABELS, _TINY_WORDS = "val/val_annotations.txt", "words.txt"


@dataclass(frozen=True)
class Plan:
    """The images of a source, in the order in which they are stored."""

    files: dict[str, list[File]]  # train, val, test, unlabelled: where present, in this order
    labels: dict[str, list[int]]  # -1: none
    classes: tuple[str, ...]


def plan_folder(folder: Path, files: Sequence[File]) -> Plan:
    """Sort the files below `folder` into splits and classes.

    `train/`, `val/` (also `valid`, `validation`), `test/` and `unlabelled/` are splits, in small letters or capitals;
    without a `train/` all belongs to one split, to be divided later. Within a split, folders are classes, with
    everything below them; images without a class folder have no label (-1). Classes and files are in natural order.

    Raises:
        DataError: no images, images beside class folders or splits, or class names that differ between splits.
    """
    if not files:
        raise DataError(f"{folder} holds no images: check the path")
    top = {file.name.split("/")[0] for file in files if "/" in file.name}
    splits = {name: _SPLITS[name.lower()] for name in top if name.lower() in _SPLITS}
    if "train" not in splits.values():
        _check_wrapper(folder, files, top)
        return _plan_splits(folder, {"train": (folder, [(file.name, file) for file in files])})
    if len(set(splits.values())) < len(splits):
        raise DataError(f"{folder} has two folders for one split ({', '.join(sorted(splits))}): rename one")
    grouped: dict[str, list[tuple[str, File]]] = {split: [] for split in splits.values()}
    for file in files:
        name, _, inside = file.name.partition("/")
        if name not in splits:
            raise DataError(f"{file.path} lies beside train/ but in no split: move it into train/, val/, test/ or away")
        grouped[splits[name]].append((inside, file))
    order = [split for split in ("train", "val", "test", "unlabelled") if split in grouped]
    folders = {split: folder / name for name, split in splits.items()}
    return _plan_splits(folder, {split: (folders[split], grouped[split]) for split in order})


def plan_tree(folder: Path, files: Sequence[File]) -> Plan:
    """Any tree of images, in natural order, for a use that needs no labels: nothing but an empty one is refused.

    Where all lie in `train/`, `val/`, `test/` or `unlabelled/` (names as in `plan_folder`), these are parts; else all
    are one part, train. The outermost folder of an image, inside its part, is its class; an image in none has label -1.
    """
    if not files:
        raise DataError(f"{folder} holds no images: check the path")
    keys = {file: [natural(piece) for piece in file.name.split("/")] for file in files}
    splits = {file: _SPLITS.get(file.name.split("/")[0].lower()) if "/" in file.name else None for file in files}
    divided = None not in splits.values()
    grouped: dict[str, list[File]] = {part: [] for part in dict.fromkeys(_SPLITS.values())}
    for file in sorted(files, key=keys.__getitem__):
        grouped[splits[file] if divided else "train"].append(file)
    grouped = {part: found for part, found in grouped.items() if found}

    def folder_of(file: File) -> str:
        above = file.name.split("/")[1 if divided else 0 : -1]
        return above[0] if above else ""

    classes = tuple(sorted({folder_of(file) for file in files} - {""}, key=natural))
    number = {name: label for label, name in enumerate(classes)}
    labels = {part: [number.get(folder_of(file), -1) for file in found] for part, found in grouped.items()}
    return Plan(grouped, labels, classes)


def _plan_splits(folder: Path, splits: dict[str, tuple[Path, list[tuple[str, File]]]]) -> Plan:
    """`splits`: the folder of each split, and its files with their path inside it."""
    classes = {split: _classes(*split_files) for split, split_files in splits.items() if split != "unlabelled"}
    for split, names in classes.items():
        missing, extra = set(classes["train"]) - set(names), set(names) - set(classes["train"])
        if missing and not names:
            raise DataError(
                f"{splits[split][0]} has images but no class folders, as train/ has: name it unlabelled/ to use them "
                f"without labels, or make the folders"
            )
        if extra or (missing and split == "test"):
            different = "; ".join(
                f"only in {where}/: {', '.join(sorted(which, key=natural))}"
                for where, which in (("train", missing if split == "test" else ()), (split, extra))
                if which
            )
            raise DataError(
                f"{folder}: train/ and {split}/ must have the same classes ({different}): rename or add folders"
            )
    number = {name: label for label, name in enumerate(classes["train"])}
    ordered, labels = {}, {}
    for split, (_, files) in splits.items():
        files = sorted(files, key=lambda pair: [natural(part) for part in pair[0].split("/")])  # noqa: PLW2901
        ordered[split] = [file for _, file in files]
        labels[split] = [-1 if split == "unlabelled" else number.get(name.split("/")[0], -1) for name, _ in files]
    return Plan(ordered, labels, classes["train"])


def _classes(folder: Path, files: list[tuple[str, File]]) -> tuple[str, ...]:
    """Names of the class folders; none where all images lie in the folder itself."""
    names = {name.split("/")[0] for name, _ in files if "/" in name}
    loose = next((file for name, file in files if "/" not in name), None)
    if names and loose:
        raise DataError(f"{loose.path} lies beside class folders: move it into one, or away")
    if names:
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and printable(entry.name) not in names and not is_clutter(entry.name):
                raise DataError(f"{entry} is a class folder without images: fill or remove it")
    return tuple(sorted(names, key=natural))


def _check_wrapper(folder: Path, files: Sequence[File], top: set[str]) -> None:
    """Refuse a folder whose one folder holds the splits: its name would become the only class."""
    second = {file.name.split("/")[1].lower() for file in files if file.name.count("/") > 1}
    if len(top) == 1 and "train" in {_SPLITS.get(name) for name in second}:
        raise DataError(f"{folder} holds train/ one level down: write 'folder:{folder / top.pop()}'")
    if splits := sorted(name for name in top if _SPLITS.get(name.lower()) in {"val", "test", "unlabelled"}):
        raise DataError(f"{folder} has {splits[0]}/ but no train/: add one, or name a folder inside it")


def tiny_imagenet_files(folder: Path) -> list[File]:
    """The labelled images of Tiny ImageNet as unpacked, and the two tables that name their classes."""
    images = [file._replace(name=f"{part}/{file.name}") for part in ("train", "val") for file in walk(folder / part)]
    return [*sorted(images), *(stat_file(name, folder / name) for name in (_TINY_LABELS, _TINY_WORDS))]


def plan_tiny_imagenet(folder: Path, files: Sequence[File]) -> Plan:
    """Tiny ImageNet's splits. Its `val/` is our test, since the labels of its own `test/` were never published.

    Raises:
        DataError: files are missing or not as published.
    """
    train, test = ([file for file in files[:-2] if file.name.startswith(part)] for part in ("train/", "val/"))
    try:
        words = dict(line.split("\t", 1) for line in (folder / _TINY_WORDS).read_text("utf-8").splitlines())
        rows = [line.split("\t") for line in (folder / _TINY_LABELS).read_text("utf-8").splitlines()]
        wnid_of = {f"val/images/{row[0]}": row[1] for row in rows}
        wnids = sorted({file.name.split("/")[1] for file in train})
        number = {wnid: label for label, wnid in enumerate(wnids)}
        labels = {
            "train": [number[file.name.split("/")[1]] for file in train],
            "test": [number[wnid_of[file.name]] for file in test],
        }
        names = [words[wnid].split(",")[0] for wnid in wnids]
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{folder} is not Tiny ImageNet as published ({error!r}): delete it to get it again") from error
    if not test or not train:
        raise DataError(f"{folder} lacks images in train/ or val/: delete it to get it again")
    # a few share their first name: a crane is a bird and a machine
    classes = [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]
    return Plan({"train": train, "test": test}, labels, tuple(classes))


def scan(files: Sequence[File]) -> dict:
    """Read every file once: content hash, the side lengths to store if none are asked for, and whether all are gray.

    Returns:
        `{"content": hex, "height": H, "width": W, "channels": 1 or 3}`.

    Raises:
        DataError: a file is no image.
    """
    hashes, sizes, gray = [], [], True
    with store.progress(len(files), "reading", "file") as bar:
        for digest, size, is_gray in store.in_threads(_inspect, files):
            hashes.append(digest)
            sizes.append(size)
            gray &= is_gray
            bar.update()
    width, height = _default_size(sizes)
    content = store.combine(zip(files, hashes, strict=True))
    return {"content": content, "height": height, "width": width, "channels": 1 if gray else 3}


def _default_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The common (width, height) if there is one; else a square of the median shorter side, 8 to 224."""
    if len(set(sizes)) == 1 and all(_MIN_SIDE <= side <= _MAX_SIDE for side in sizes[0]):
        return sizes[0]
    side = int(np.clip(np.median([min(size) for size in sizes]), _MIN_SIDE, _MAX_DEFAULT))
    return side, side


def _inspect(file: File) -> tuple[bytes, tuple[int, int], bool]:
    """Hash, (width, height) as shown, and whether it is stored without colour."""
    with _opened(file) as (data, image):
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5  # 5 to 8 lie on their side
        if image.mode in {"P", "PA"}:
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
            gray = bool((palette == palette[:, :1]).all())
        else:
            gray = image.mode in {"1", "L", "LA", "La", "I", "F"} or image.mode.startswith("I;16")
        return hashlib.sha256(data).digest(), (height, width) if turned else (width, height), gray


def decode(plan: Plan, height: int, width: int, channels: int) -> Iterator[np.ndarray]:
    """All images of a plan, in chunks uint8 (n, C, H, W).

    An image of another size is cut to the target's proportions around its centre and scaled, antialiased. EXIF
    rotation is applied, transparent parts become white, of 16 bits the upper 8 are kept, of an animation the first
    picture.

    Raises:
        DataError: a file cannot be decoded.
    """
    files = [file for part in plan.files.values() for file in part]
    length = store.chunk_length((channels, height, width))
    images = store.in_threads(lambda file: _decode(file, height, width, channels), files)
    while chunk := list(islice(images, length)):
        yield np.stack(chunk).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def _decode(file: File, height: int, width: int, channels: int) -> np.ndarray:
    from PIL import Image, ImageOps

    with _opened(file) as (_, image):
        if width == height and min(image.size) >= 4 * width:
            # a JPEG gives a half, quarter or eighth of its size for less work; twice the target loses nothing seen
            scale = min(image.size) / (2 * width)
            image.draft(None, (int(image.size[0] / scale), int(image.size[1] / scale)))
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)  # noqa: PLW2901
        image = _to_mode(file, image, "L" if channels == 1 else "RGB")  # noqa: PLW2901
        if image.size != (width, height):
            scale = min(image.size[0] / width, image.size[1] / height)
            cut_width, cut_height = round(width * scale), round(height * scale)
            left, top = (image.size[0] - cut_width) // 2, (image.size[1] - cut_height) // 2
            image = image.crop((left, top, left + cut_width, top + cut_height))  # noqa: PLW2901
            image = image.resize((width, height), Image.Resampling.BILINEAR)  # noqa: PLW2901
        return np.asarray(image)


def _to_mode(file: File, image: Image, mode: str) -> Image:
    """`image` as 8-bit gray ("L") or "RGB"."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{file.path} has values beyond 16 bits: convert it to 8 or 16 bits a channel")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise DataError(f"{file.path} has floating-point values: convert it to 8 or 16 bits a channel")
    if "transparency" in image.info or image.mode in {"LA", "PA", "RGBA"}:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def _opened(file: File) -> Iterator[tuple[bytes, Image]]:
    """The bytes of a file and its image, not yet decoded; whatever goes wrong with it names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open(file.path, "rb") as handle:
            data = handle.read()
        with Image.open(io.BytesIO(data)) as image:
            yield data, image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file.path} is not an image that Pillow can read: repair it, or move it out of the folder"
        ) from error
    except Exception as error:  # Pillow's readers raise nearly every kind on damaged files
        raise DataError(
            f"{file.path} cannot be decoded ({error}): repair or convert it, or move it out of the folder"
        ) from error
