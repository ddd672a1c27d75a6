"""Decoded images on disk, memory-mapped: one folder for a source and size, written whole or not at all.

    cache/<key>/images.bin     uint8 (N, C, H, W), the source's parts one after another
    cache/<key>/labels.npy     int64 (N,)
    cache/<key>/sums.npy       int64 (2, N, C): sum of each image's values, and sum of their squares
    cache/<key>/same.npy       int64 (N,): of each image the first that is equal to it in every value
    cache/<key>/meta.json      shape, number of images in each part, class names, file names, groups, notes, checksums
    cache/stamps/<stamp>.json  what reading some files found out, so that unchanged files are not read again

All of it can be deleted at any time; it is made again when it is needed, and where a checksum says that it has changed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from labutil.data.sources import File
from labutil.device import progress_bar
from labutil.paths import DataError, data_dir, replace_file

FORMAT = 3  # part of every key: raise it when decoding, resizing or the files above change
_CHUNK = 16 << 20  # bytes of images handled at once
_FILES = ("images.bin", "labels.npy", "sums.npy", "same.npy")
COPIED = 1 << 30  # bytes of images in memory that a data set's splits may take
_CHECKED = 1 << 30  # bytes of images held against their checksums at an opening: a quarter of a second or so


@dataclass(frozen=True)
class Stored:
    """A source's images, undivided and in its order; `images` is memory-mapped."""

    images: np.ndarray  # uint8 (N, C, H, W)
    labels: np.ndarray  # int64 (N,)
    sums: np.ndarray  # int64 (2, N, C)
    same: np.ndarray  # int64 (N,), the first image that is equal in every value: itself, where there is no other
    parts: dict[str, int]  # number of images of each part (train, val, test, unlabelled: where present), in order
    classes: tuple[str, ...]
    names: tuple[str, ...] | None = None  # of the images' files, below the source's folder; None: they have none
    groups: tuple[str, ...] | None = None  # of the images, where the source itself names them; "" for unlabelled ones
    content: str = ""  # a hash of the source's content
    notes: tuple[str, ...] = ()  # what the user should know about it, a line each


def make_key(*facts: object) -> str:
    """The name of a cache folder, from everything that decides its bytes."""
    return hashlib.sha256(json.dumps([FORMAT, *facts]).encode()).hexdigest()[:32]


def stored(key: str, name: str, read: Callable[[], tuple]) -> Stored:
    """What the cache holds under `key`; if nothing, what `read()` returns (`_write`'s arguments from `blocks` on).

    name: for the progress bar. Of several processes one writes, the others wait. Raises DataError where there is no
    room, or no right to write.
    """
    folder = data_dir() / "cache" / key
    if found := _open(folder):
        return found
    temporary = folder.with_suffix(".tmp")
    with writable(folder.parent), FileLock(folder.with_suffix(".lock")):
        if found := _open(folder):
            return found
        for leftover in folder.parent.glob("*.tmp"):  # of killed writers: nobody holds their locks
            with suppress(Timeout), FileLock(leftover.with_suffix(".lock"), timeout=0):
                shutil.rmtree(leftover, ignore_errors=True)
        for damaged in (folder, temporary):
            shutil.rmtree(damaged, ignore_errors=True)
        temporary.mkdir()
        try:
            _write(temporary, name, *read())
            os.replace(temporary, folder)
        finally:  # after an interrupt too
            shutil.rmtree(temporary, ignore_errors=True)
        return _open(folder)


def _write(
    folder: Path,
    name: str,
    blocks: Iterable[np.ndarray],  # uint8 (n, C, H, W)
    shape: tuple[int, int, int, int],  # of all blocks together
    labels: np.ndarray,
    parts: dict[str, int],
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> None:
    need, free = math.prod(shape), shutil.disk_usage(folder).free
    if need > free:
        raise DataError(
            f"{name}: {shape[0]} images of {shape[3]}x{shape[2]} need {need / 1e9:.1f} GB in {folder.parent}, where "
            f"{free / 1e9:.1f} GB are free: give a smaller image_size, or set LABUTIL_DATA to a larger disk"
        )
    sums, same, first, greatest = [], [], {}, 0
    with open(folder / "images.bin", "wb") as file, progress_bar(shape[0], name, "image") as bar:
        for chunk in map(np.ascontiguousarray, itertools.chain.from_iterable(map(chunks, blocks))):
            file.write(chunk)
            sums.append(image_sums(chunk))
            greatest = max(greatest, int(chunk.max()))
            for image in chunk:
                same.append(first.setdefault(digest(image), len(same)))
            bar.update(len(chunk))
    np.save(folder / "labels.npy", labels.astype(np.int64))
    np.save(folder / "sums.npy", np.concatenate(sums, 1))
    np.save(folder / "same.npy", np.array(same, np.int64))
    dark = f"no value is above {greatest} of 255, so these images are dark as stored: scale them if that is wrong"
    notes = [dark] * (greatest < 128)
    meta = {"shape": shape, "parts": parts, "classes": classes, "names": names, "groups": groups, "notes": notes}
    meta["checksums"] = {name: [*_checksums(folder / name)] for name in _FILES}
    (folder / "meta.json").write_text(_sealed(meta), encoding="utf-8")


def _checksums(path: Path, every: int = 1) -> Iterator[int]:
    """Of a file's chunks, or of the first, and then each so many later."""
    with open(path, "rb") as file:
        for start in range(0, path.stat().st_size, every * _CHUNK):
            file.seek(start)
            yield zlib.crc32(file.read(_CHUNK))


def _sealed(facts: dict) -> str:
    """As JSON, with a checksum of itself."""
    return json.dumps(facts | {"checksum": zlib.crc32(json.dumps(facts).encode())})


def _unsealed(path: Path) -> dict:
    """What `_sealed` was given. Raises ValueError where the file has changed, and nearly any error on other damage."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts.pop("checksum") != zlib.crc32(json.dumps(facts).encode()):
        raise ValueError(f"{path} has changed")
    return facts


def by_split(some: Stored, rows: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The images of each split (rows, ascending), memory-mapped from a cache in this order; nothing where each is a
    block of `some`, or copies of those that are none take `COPIED` bytes of memory at most."""
    copied = sum(len(index) for index in rows.values() if not is_block(index))
    if copied * math.prod(some.images.shape[1:]) <= COPIED:
        return {}
    order, length = np.concatenate(list(rows.values())), chunk_length(some.images.shape[1:])

    def read() -> tuple:
        blocks = (some.images[order[i : i + length]] for i in range(0, len(order), length))
        parts = {part: len(index) for part, index in rows.items()}
        return blocks, (len(order), *some.images.shape[1:]), some.labels[order], parts, some.classes

    key = make_key(some.content, some.images.shape, hashlib.sha256(order.astype("<i8").tobytes()).hexdigest())
    images = stored(key, f"{name}, by split", read).images
    return dict(zip(rows, np.split(images, np.cumsum([len(index) for index in rows.values()])[:-1]), strict=True))


def is_block(rows: np.ndarray) -> bool:
    return int(rows[-1]) + 1 - int(rows[0]) == len(rows)


def digest(image: np.ndarray) -> bytes:
    """A hash of an image's values, equal for images that are equal in every one."""
    return hashlib.sha256(np.ascontiguousarray(image)).digest()


def image_sums(images: np.ndarray) -> np.ndarray:
    """Of each of some uint8 images (N, C, H, W) the sum of its values, and of their squares: int64 (2, N, C)."""
    values = images.reshape(*images.shape[:2], -1)
    squares = np.square(values, dtype=np.uint16)  # 255 ** 2 < 2 ** 16
    return np.stack([values.sum(-1, dtype=np.int64), squares.sum(-1, dtype=np.int64)])


def chunk_length(image_shape: Sequence[int]) -> int:
    """How many images of (C, H, W) to handle at once."""
    return max(1, _CHUNK // math.prod(image_shape))


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Images (N, C, H, W) in parts to be handled at once."""
    length = chunk_length(images.shape[1:])
    return (images[i : i + length] for i in range(0, len(images), length))


def content(files: Sequence[File]) -> str:
    """SHA-256 of the names and bytes of files, remembered while their sizes and times stay."""

    def digest(file: File) -> bytes:
        try:
            with open(file.path, "rb") as handle:
                return hashlib.file_digest(handle, "sha256").digest()
        except OSError as error:
            raise DataError(f"{file.path} cannot be read ({error.strerror}): check its permissions") from error

    return remember(files, lambda: {"content": combine(zip(files, in_threads(digest, files), strict=True))})["content"]


def combine(hashes: Iterable[tuple[File, bytes]]) -> str:
    """One SHA-256 of many files, from that of each."""
    total = hashlib.sha256()
    for file, digest in hashes:
        total.update(f"{file.name}\0".encode() + digest)
    return total.hexdigest()


def remember(files: Sequence[File], find: Callable[[], dict]) -> dict:
    """`find()`, or what it returned earlier for the same files unchanged. The result must be JSON."""
    # The time of the last change of status too: tools that copy times do not set that one.
    facts = (f"{file.path}\0{file.name}\0{file.size}\0{file.mtime_ns}\0{file.ctime_ns}\n" for file in files)
    key = hashlib.sha256(f"{FORMAT}\n{''.join(facts)}".encode(errors="surrogateescape")).hexdigest()[:32]
    path = data_dir() / "cache" / "stamps" / f"{key}.json"
    with suppress(Exception):  # none yet, or a damaged one
        return _unsealed(path)
    found = find()
    with writable(path.parent):
        replace_file(path, lambda temporary: temporary.write_text(_sealed(found), encoding="utf-8"))
    return found


def in_threads(function: Callable[[File], Any], files: Sequence[File]) -> Iterator[Any]:
    """`function(file)` for each file, in order, by a pool of threads."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # a task for 64 files, since a task costs as much as decoding one; and few at once, as results wait to be taken
    tasks = [files[i : i + 64] for i in range(0, len(files), 64)]
    with ThreadPoolExecutor(workers) as pool:
        for i in range(0, len(tasks), 4 * workers):
            for results in pool.map(lambda task: [function(file) for file in task], tasks[i : i + 4 * workers]):
                yield from results


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder. An OSError inside the block, of a full disk or a missing right, becomes a DataError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        advice = "make room, or set LABUTIL_DATA to a folder where there is"
        raise DataError(f"{folder} cannot be written ({error.strerror or error}): {advice}") from error


def whole(folder: Path) -> bool:
    """Whether a cache folder can be used; else `stored` makes it anew."""
    return _open(folder) is not None


def _open(folder: Path) -> Stored | None:
    """The images of a cache folder; None where there is none, or a damaged one."""
    path = folder / "images.bin"
    try:
        meta = _unsealed(folder / "meta.json")
        shape, names, groups, notes = tuple(meta["shape"]), meta["names"], meta["groups"], tuple(meta["notes"])
        if (size := path.stat().st_size) != math.prod(shape):  # a disk lost power before all was on it
            return None
        for name, known in meta["checksums"].items():  # or later lost a bit
            every = math.ceil(size / _CHECKED) if name == path.name else 1
            if [*_checksums(folder / name, every)] != known[::every]:
                return None
        labels, sums, same = (np.load(folder / f"{name}.npy") for name in ("labels", "sums", "same"))
    except Exception:  # of a damaged file nearly every kind
        return None
    try:
        # copy on write: a tensor over it may be changed in memory, the file never is
        images = np.memmap(path, np.uint8, "c", shape=shape)
    except OSError:  # Linux refuses a writable mapping that is larger than memory
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        images = np.memmap(path, np.uint8, "r", shape=shape)
    names, groups = names and tuple(names), groups and tuple(groups)
    return Stored(images, labels, sums, same, meta["parts"], tuple(meta["classes"]), names, groups, notes=notes)
