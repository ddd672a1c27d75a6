"""Sets that come as arrays: .npz archives and MNIST's IDX files, and what such arrays must be."""

from __future__ import annotations

import gzip
import math
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labutil.data.sources import File, natural
from labutil.paths import DataError

_MIN_SIDE = 8  # pixels


@dataclass(frozen=True)
class Arrays:
    """A source in memory. Parts are train, val, test, unlabelled: where present, in this order."""

    images: dict[str, np.ndarray]  # uint8 (N, C, H, W)
    labels: dict[str, np.ndarray]  # int64 (N,), -1: none
    classes: tuple[str, ...]


def read_idx(path: Path | str, what: str) -> np.ndarray:
    """An IDX file as of MNIST (http://yann.lecun.com/exdb/mnist/), gzipped or not: big-endian sizes, then uint8 values.

    what: "images" (N, H, W) or "labels" (N,). Raises DataError for a file that is damaged, cut short, or the other of
    the two.

    Example:
        images = read_idx("train-images-idx3-ubyte.gz", "images")  # (60000, 28, 28)
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): get it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the path") from error
    magic = {"images": 2051, "labels": 2049}
    found = int.from_bytes(data[:4], "big")
    other = "labels" if what == "images" else "images"
    if found == magic[other] and len(data) >= 4:
        raise DataError(f"{path} holds {other} (magic number {found}) where {what} are expected: swap the two files")
    if found != magic[what] or len(data) < 4:
        raise DataError(
            f"{path} is no IDX file of {what}: it starts with {data[:4].hex() or 'nothing'}, not {magic[what]:08x}"
        )
    dimensions = 3 if what == "images" else 1
    shape = tuple(int.from_bytes(data[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1))
    start = 4 + 4 * dimensions
    if len(data) - start != math.prod(shape):
        sizes = " x ".join(map(str, shape))
        raise DataError(f"{path} says {sizes} in its header, but {len(data) - start} bytes follow: get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_npz(path: Path | str, classes: tuple[str, ...] | None = None, *, lenient: bool = False) -> Arrays:
    """An .npz archive with `train_images`, `train_labels`, and likewise `val_` and `test_` where present; or with
    `images` and `labels`. Without labels the images are unlabelled, as `unlabelled_images` always are.

    Images: whole numbers 0 to 255 as (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W). Labels: whole numbers or text,
    (N,) or (N, 1). `classes` names labels that are 0 to K-1; else the values themselves become the names, in order.
    `lenient`: train images may be missing, any part may lack labels, and each may have labels of its own.

    Raises DataError for a file that is no .npz, missing keys, or arrays of another kind.
    """
    path = Path(path)
    images, labels = {}, {}
    with _opened_npz(path) as archive:
        bare = "images" in archive and "train_images" not in archive
        for part in ("train", "val", "test", "unlabelled"):
            prefix = "" if bare and part == "train" else f"{part}_"
            if f"{prefix}images" in archive:
                images[part] = as_images(_member(path, archive, f"{prefix}images"), f"{path} ({prefix}images)")
                if f"{prefix}labels" in archive and part != "unlabelled":
                    array = _member(path, archive, f"{prefix}labels")
                    labels[part] = as_labels(array, len(images[part]), f"{path} ({prefix}labels)")
        if "train" not in images and not (images and lenient):
            keys = ", ".join(archive.files) or "nothing"
            raise DataError(f"{path} must have the key 'train_images' or 'images', but holds {keys}: rename a key")
    return as_arrays(str(path), images, labels, classes, lenient=lenient)


def as_images(array: np.ndarray, where: str) -> np.ndarray:
    """Check an array of images and turn it into uint8 (N, C, H, W); `where` starts the message of an error."""
    if array.dtype.kind == "f":
        if np.isnan(array).any():
            raise DataError(f"{where} has NaN: repair the images, and save them as uint8 from 0 to 255")
        scale = "(255 * images).round()" if array.size and array.min() >= 0 and array.max() <= 1 else "images.round()"
        raise DataError(f"{where} has {array.dtype} values: save {scale}.astype('uint8'), from 0 to 255")
    if array.dtype.kind not in "ui":
        raise DataError(f"{where} has values of type {array.dtype}: save the images as uint8 from 0 to 255")
    shape = "x".join(map(str, array.shape))
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in {1, 3}:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in {1, 3}:
        raise DataError(
            f"{where} has the shape {shape}: it must be N x H x W, N x H x W x 3 or N x 3 x H x W (or 1 for 3)"
        )
    if not len(array):
        raise DataError(f"{where} has no images: check how it was made")
    if min(array.shape[2:]) < _MIN_SIDE:
        raise DataError(f"{where} has the shape {shape}: sides must have at least {_MIN_SIDE} pixels")
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise DataError(f"{where} has values from {array.min()} to {array.max()}: scale them to 0 to 255, as uint8")
        array = array.astype(np.uint8)
    return array


def as_labels(array: np.ndarray, count: int, where: str) -> np.ndarray:
    """Check an array of labels and turn it into (N,); `where` starts the message of an error."""
    if array.ndim == 2 and array.shape[1] > 1:
        raise DataError(
            f"{where} has {array.shape[1]} labels an image, which no lesson handles: save one class number each"
        )
    if array.dtype.kind not in "uibUS":
        raise DataError(
            f"{where} has labels of type {array.dtype}: save class numbers (labels.astype(int)) or class names"
        )
    array = array.reshape(-1) if array.ndim == 2 else array
    if array.ndim != 1 or len(array) != count:
        raise DataError(
            f"{where} has {len(array) if array.ndim else 0} labels for {count} images: they must be as many"
        )
    array = np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    # two Unicode spellings of a name are one class
    return np.array([unicodedata.normalize("NFC", text) for text in array]) if array.dtype.kind == "U" else array


def as_arrays(
    where: str,
    images: dict[str, np.ndarray],
    labels: dict[str, np.ndarray],
    classes: tuple[str, ...] | None = None,
    *,
    lenient: bool = False,
) -> Arrays:
    """Number the labels 0 to K-1, and check that the parts fit each other; `where` starts the message of an error.
    `lenient`: labels may be missing or differ between parts."""
    shapes = {array.shape[1:] for array in images.values()}
    if len(shapes) > 1:
        sizes = ", ".join(f"{part} {'x'.join(map(str, array.shape[1:]))}" for part, array in images.items())
        raise DataError(f"{where} has images of several shapes ({sizes}): make them alike")
    numbers = {part: np.full(len(array), -1) for part, array in images.items()}
    if not labels:
        return Arrays(images, numbers, ())
    if (bare := [part for part in images if part not in labels and part != "unlabelled"]) and not lenient:
        raise DataError(f"{where} has labels for {', '.join(labels)} but not for {bare[0]}: add them")
    values = np.unique(np.concatenate(list(labels.values())) if lenient else labels["train"])
    if classes:
        values = np.arange(len(classes))
    for part, array in labels.items():
        if len(strange := np.setdiff1d(array, values)):
            known = f"the {len(classes)} classes" if classes else "the training images"
            raise DataError(f"{where}: {part} has the label {strange[0]}, which {known} do not have: check the labels")
    if values.dtype.kind == "U":
        values = np.array(sorted(values, key=natural))
    order = np.argsort(values)
    for part, array in labels.items():
        numbers[part] = order[np.searchsorted(values, array, sorter=order)].astype(np.int64)
    return Arrays(images, numbers, classes or tuple(str(value) for value in values))


@contextmanager
def _opened_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    with ExitStack() as stack:
        try:
            # opened here, since numpy leaves a file open that turns out to be no archive
            archive = np.load(stack.enter_context(open(path, "rb")), allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is not a whole .npz archive: check it, or save it again with numpy.savez"
            ) from error
        if isinstance(archive, np.ndarray):
            raise DataError(f"{path} is one array (.npy), not an .npz archive: save images and labels with numpy.savez")
        yield archive


def _member(path: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        raise DataError(
            f"{path} ({key}) holds Python objects, which are not loaded since they may run code: save plain arrays, "
            f"images all of one size"
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} ({key}) is damaged ({error}): get or save the file again") from error


def read_idx_parts(files: list[File]) -> Arrays:
    """MNIST-format files, named by part (`train_images`, `train_labels`, `test_images`, `test_labels`).

    Raises DataError as `read_idx`, and where images and labels are not as many.
    """
    paths = {file.name: Path(file.path) for file in files}
    images, labels = {}, {}
    for part in ("train", "test"):
        if (path := paths.get(f"{part}_images")) is not None:
            images[part] = as_images(read_idx(path, "images"), str(path))
            if (label_path := paths.get(f"{part}_labels")) is not None:
                labels[part] = as_labels(
                    read_idx(label_path, "labels"), len(images[part]), f"{label_path}, beside {path.name},"
                )
    return as_arrays(str(files[0].path), images, labels)
