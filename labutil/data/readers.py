"""Sets that come as arrays: .npz archives and MNIST's IDX files, and what such arrays must be."""

from __future__ import annotations

import gzip
import math
import os
import unicodedata
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labutil.data.sources import File, natural
from labutil.paths import DataError, printable

_IDX_MAGIC = {"images": "00000803", "labels": "00000801"}
_NPY_HEADER = 10_000 + 12  # bytes at most: NumPy reads none that is longer
PARTS = ("train", "val", "test", "unlabelled")  # in the order in which they are stored


@dataclass(frozen=True)
class Arrays:
    """A source in memory, by part."""

    images: dict[str, np.ndarray]  # uint8 (N, C, H, W)
    labels: dict[str, np.ndarray]  # int64 (N,), -1: none
    classes: tuple[str, ...]
    groups: dict[str, np.ndarray] | None = None  # of each image, text (N,), "" for unlabelled ones


def read_idx(path: Path | str, what: str) -> np.ndarray:
    """An IDX file as of MNIST (http://yann.lecun.com/exdb/mnist/), gzipped or not: big-endian sizes, then uint8 values.

    what: "images" (N, H, W) or "labels" (N,). Raises DataError for a file that is damaged or holds something else.

    Example:
        images = read_idx("train-images-idx3-ubyte.gz", "images")  # (60000, 28, 28)
    """
    start = 16 if what == "images" else 8
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            unpacked = gzip.GzipFile(fileobj=file) if packed else file
            head = unpacked.read(start)
            shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4))
            told, size = math.prod(shape), os.fstat(file.fileno()).st_size
            # neither more than the header says, nor what no file of this size holds: deflate packs to 1/1032 at best
            lies = packed and told > 1032 * size
            data = b"" if lies else unpacked.read(min(told, 1032 * size) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged, cut short or not readable ({error}): check it, or get it again") from error
    magic = head[:4].hex()
    if magic != _IDX_MAGIC[what]:
        if other := [kind for kind, start in _IDX_MAGIC.items() if start == magic]:
            raise DataError(f"{path} holds {other[0]} where {what} are expected: swap the two files")
        raise DataError(f"{path} is no IDX file of {what}: it starts with {magic or 'nothing'}, not {_IDX_MAGIC[what]}")
    if len(data) != told:
        follow = "fewer bytes" if lies else "more bytes" if len(data) > told else f"{len(data)} bytes"
        sizes = " x ".join(map(str, shape))
        raise DataError(f"{path} says {sizes} in its header, but {follow} follow: get it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_idx_parts(files: list[File], classes: tuple[str, ...] | None = None) -> Arrays:
    """MNIST-format files, named by part (`train_images`, `train_labels`, `test_images`, `test_labels`).

    classes: as for `read_npz`. Raises DataError as `read_idx`, and where images and labels are not as many.
    """
    arrays = {file.name: (file.path, read_idx(file.path, file.name.partition("_")[2])) for file in files}
    return as_arrays(files[0].path, arrays, classes)


def read_npz(path: Path | str, classes: tuple[str, ...] | None = None, *, lenient: bool = False) -> Arrays:
    """An .npz archive with `train_images`, `train_labels`, and likewise `val_` and `test_` where present; or with
    `images` and `labels`. Without labels the images are unlabelled, as `unlabelled_images` always are.

    Images: whole numbers 0 to 255 as (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W). Labels: whole numbers or text,
    (N,) or (N, 1). `classes` names labels that are 0 to K-1; else the values themselves become the names, in order.
    `train_groups` and so on, or `groups`, where present: of what slide or patient each image is, numbers or text.
    `lenient`: train images may be missing, any part may lack labels or groups, and each may have labels of its own.

    Raises DataError for a file that is no .npz, missing keys, or arrays of another kind.
    """
    wanted = [f"{part}_{what}" for part in PARTS for what in ("images", "labels", "groups")][:-2]  # nor of unlabelled
    arrays, key = {}, ""
    try:
        with open(path, "rb") as file:  # numpy leaves a file open that turns out to be no archive
            archive = np.load(file, allow_pickle=False)
            keys = getattr(archive, "files", ["one array"])
            bare = "images" in keys and "train_images" not in keys
            for name in wanted:
                key = name.removeprefix("train_") if bare else name
                if key in keys:
                    arrays[name] = (f"{path} ({key})", array := archive[key])
                    if archive.zip.getinfo(f"{key}.npy").file_size > array.nbytes + _NPY_HEADER:
                        raise ValueError("it is longer than its header says")
    except Exception as error:  # NumPy and zipfile raise nearly every kind on damaged files
        if key and "allow_pickle" in str(error):
            what = "Python objects, which are not loaded since they may run code: save plain arrays, images of one size"
            raise DataError(f"{path} ({key}) holds {what}") from error
        what = "is not a whole .npz archive" if not key else f"({key}) is damaged"
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} {what} ({reason}): get it again, or save it again with numpy.savez") from error
    if "train_images" not in arrays and not (lenient and any(name.endswith("images") for name in arrays)):
        found = ", ".join(keys) or "nothing"
        advice = "save the images under one of these with numpy.savez"
        raise DataError(f"{path} must have the key 'train_images' or 'images', but holds {found}: {advice}")
    return as_arrays(str(path), arrays, classes, lenient=lenient)


def as_arrays(
    where: str,
    arrays: dict[str, tuple[str, np.ndarray]],
    classes: tuple[str, ...] | None = None,
    *,
    lenient: bool = False,
) -> Arrays:
    """Check arrays and number their labels 0 to K-1; `where`, and the texts in `arrays`, start messages of errors.

    arrays: {"train_images": (text, values), "train_labels": ..., ...}. classes, lenient: as for `read_npz`.
    """
    images = {part: _as_images(*arrays[f"{part}_images"]) for part in PARTS if f"{part}_images" in arrays}
    if len({found.shape[1:] for found in images.values()}) > 1:
        sizes = ", ".join(f"{part} {'x'.join(map(str, found.shape[1:]))}" for part, found in images.items())
        raise DataError(f"{where} has images of several shapes ({sizes}): make them alike")
    labels = {
        part: _as_labels(*arrays[f"{part}_labels"], len(found))
        for part, found in images.items()
        if f"{part}_labels" in arrays
    }
    numbers = {part: np.full(len(found), -1) for part, found in images.items()}
    groups = _groups_of(where, arrays, images, lenient=lenient)
    if not labels:
        return Arrays(images, numbers, (), groups)
    if (bare := [part for part in images if part not in labels and part != "unlabelled"]) and not lenient:
        raise DataError(f"{where} has labels for {', '.join(labels)} but not for {bare[0]}: add them")
    values = np.unique(np.concatenate(list(labels.values())) if lenient else labels["train"])
    if classes:
        values = np.arange(len(classes))
    elif values.dtype.kind == "U":
        values = np.array(sorted(values, key=natural))
    order = np.argsort(values)
    for part, found in labels.items():
        if len(strange := np.setdiff1d(found, values)):
            known = f"the {len(classes)} classes" if classes else "the training images"
            raise DataError(f"{where}: {part} has the label {strange[0]}, which {known} do not have: check the labels")
        numbers[part] = order[np.searchsorted(values, found, sorter=order)].astype(np.int64)
    return Arrays(images, numbers, classes or tuple(map(str, values)), groups)


def _groups_of(
    where: str, arrays: dict[str, tuple[str, np.ndarray]], images: dict[str, np.ndarray], *, lenient: bool
) -> dict[str, np.ndarray] | None:
    """The groups of all images, by part; None where they have none or, if `lenient`, some have none."""
    told = [part for part in images if f"{part}_groups" in arrays]
    if bare := [part for part in images if part not in told and part != "unlabelled"]:
        if told and not lenient:
            raise DataError(f"{where} has groups for {', '.join(told)} but not for {bare[0]}: add them")
        return None
    found = {part: np.full(len(some), "", object) for part, some in images.items()}
    for part in told:
        text, values = arrays[f"{part}_groups"]
        found[part] = _as_labels(text, values, len(images[part]), "groups").astype(str).astype(object)
        if (found[part] == "").any():
            raise DataError(f"{text} has no group for image {(found[part] == '').argmax()}: every image needs one")
    return found if told else None


def _as_images(where: str, array: np.ndarray) -> np.ndarray:
    """Check an array of images and turn it into uint8 (N, C, H, W); `where` starts the message of an error."""
    shape = "x".join(map(str, array.shape))
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in {1, 3}:
        array = array.transpose(0, 3, 1, 2)
    low, high = (array.min(), array.max()) if array.size and array.dtype.kind in "fui" else (0, 0)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = "has values that are NaN or infinite: repair the images, and save them as uint8 from 0 to 255"
    elif array.dtype.kind == "f":
        way = "(255 * images)" if high <= 1 else "images"
        advice = f"save {way}.round().astype('uint8')" if low >= 0 and high <= 255 else "scale them, and save uint8"
        wrong = f"has {array.dtype} values from {low:g} to {high:g}: {advice}, from 0 to 255"
    elif array.dtype.kind not in "ui":
        wrong = f"has values of type {array.dtype}: save the images as uint8 from 0 to 255"
    elif array.ndim != 4 or array.shape[1] not in {1, 3}:
        wrong = f"has the shape {shape}: it must be N x H x W, N x H x W x 3 or N x 3 x H x W (or 1 for 3)"
    elif not len(array):
        wrong = "has no images: check how it was made"
    elif min(array.shape[2:]) < 8:
        wrong = f"has the shape {shape}: sides must have at least 8 pixels"
    elif array.dtype != np.uint8 and (low < 0 or high > 255):
        wrong = f"has values from {low} to {high}: scale them to 0 to 255, as uint8"
    else:
        return array.astype(np.uint8, copy=False)
    raise DataError(f"{where} {wrong}")


def _as_labels(where: str, array: np.ndarray, count: int, what: str = "labels") -> np.ndarray:
    """Check an array of `count` labels, or of what else each image has one of, and turn it into (N,)."""
    kind = array.dtype.kind
    if array.ndim == 2 and array.shape[1] != 1:
        wrong = f"has {array.shape[1]} {what} an image, which no lesson handles: save one number or name each"
    elif kind not in "uibUS":
        wrong = f"has {what} of type {array.dtype}: save numbers ({what}.astype(int)) or names"
    elif array.ndim not in {1, 2} or len(array) != count:
        wrong = f"has {len(array) if array.ndim else 0} {what} for {count} images: they must be as many"
    else:
        array = np.char.decode(array.ravel(), "utf-8", "backslashreplace") if kind == "S" else array.ravel()
        if kind in "uib":
            return array
        if what == "labels" and (array == "").any():
            bare = f"{where} has no label for image {(array == '').argmax()}"
            raise DataError(f"{bare}: name it, or keep such images apart as unlabelled_images")
        # two Unicode spellings of a name are one class
        return np.array([unicodedata.normalize("NFC", printable(text)) for text in array])
    raise DataError(f"{where} {wrong}")
