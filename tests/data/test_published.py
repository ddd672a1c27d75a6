"""Published sets by stand-ins of the same format: placed by hand, damaged, offline."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import urllib.request
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from labutil.data import catalogue, download, load_dataset, published
from labutil.paths import DataError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder() -> Path:
    """The data folder."""
    path = Path(os.environ["LABUTIL_DATA"])
    path.mkdir()
    return path


def write(path: Path, content: bytes) -> list[str]:
    """Its name and MD5, as torchvision lists them."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content)
    return [path.name, hashlib.md5(content).hexdigest()]


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    cls = published._torchvision_class(name)
    folder = folder / cls.base_folder
    batch = {"data": noise(9, 3072), key: [0, 1, 2] * 3}
    batches = [write(folder / f"data_batch_{i}", pickle.dumps(batch)) for i in range(2)]
    monkeypatch.setattr(cls, "train_list", batches)
    test = {"data": noise(6, 3072), key: [2, 1, 0] * 2}
    monkeypatch.setattr(cls, "test_list", [write(folder / "test_batch", pickle.dumps(test))])
    file, checksum = write(folder / "meta", pickle.dumps({"names": ["ant", "bee", "cat"]}))
    monkeypatch.setattr(cls, "meta", {"filename": file, "key": "names", "md5": checksum})
    data = load_dataset(name)
    assert data.classes == ("ant", "bee", "cat") and data.image_size == 32
    assert (len(data.train), len(data.val)) == (16, 2)
    expected = cls(folder.parent, train=False)
    for (image, label), ours, our_label in zip(expected, data.test.images, data.test.labels, strict=True):
        assert (np.asarray(image).transpose(2, 0, 1) == ours.numpy()).all() and label == our_label
    (folder / "test_batch").write_bytes(b"damaged")
    with pytest.raises(DataError, match=rf"{folder.name} is damaged or incomplete"):
        load_dataset(name)
    (folder / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch"):
        load_dataset(name)


def test_stl10_has_unlabelled_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = published._torchvision_class("stl10")
    images = {"train": noise(20, 3, 96, 96), "test": noise(4, 3, 96, 96), "unlabeled": noise(7, 3, 96, 96)}
    labels = {"train": np.arange(20, dtype=np.uint8) % 10 + 1, "test": np.array([10, 1, 2, 3], np.uint8)}
    # the format stores columns first
    files = {f"{part}_X.bin": pixels.transpose(0, 1, 3, 2).tobytes() for part, pixels in images.items()}
    files |= {f"{part}_y.bin": values.tobytes() for part, values in labels.items()}
    names = tuple(f"class {i}" for i in range(10))
    write(folder / "stl10_binary" / "class_names.txt", "\n".join(names).encode())
    listed = {name: write(folder / "stl10_binary" / name, content) for name, content in files.items()}
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [listed[name] for name, _ in getattr(cls, attribute)])
    data = load_dataset("stl10")
    assert (data.unlabelled.images.numpy() == images["unlabeled"]).all() and (data.unlabelled.labels == -1).all()
    assert (data.test.images.numpy() == images["test"]).all() and data.test.labels.tolist() == [9, 0, 1, 2]
    assert data.classes == names
    ours = {image.numpy().tobytes() for part in (data.train, data.val) for image in part.images}
    assert ours == {image.tobytes() for image in images["train"]}


@pytest.mark.parametrize(
    ("name", "place", "second"), [("mnist", "MNIST", "1"), ("fashion_mnist", "FashionMNIST", "Trouser")]
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist_where_torchvision_keeps_it(folder: Path, name: str, place: str, second: str, end: str) -> None:
    for part, n in (("train", 30), ("t10k", 10)):
        images = b"\0\0\x08\x03" + np.array([n, 9, 11], ">u4").tobytes() + noise(n, 9, 11).tobytes()
        labels = b"\0\0\x08\x01" + np.array([n], ">u4").tobytes() + (np.arange(n, dtype=np.uint8) % 3).tobytes()
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            write(folder / place / "raw" / f"{part}-{kind}-ubyte{end}", gzip.compress(data) if end else data)
    data = load_dataset(name)
    assert len(data.test) == 10 and data.name == name and data.classes[1] == second


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("stl10", "stl10_binary.tar.gz"),
        ("bloodmnist", "bloodmnist.npz"),
        ("pathmnist@64", "pathmnist_64.npz"),
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
    ],
)
def test_offline_says_what_to_place_where(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd, name: str, place: str
) -> None:
    asked = []

    def no_network(request: urllib.request.Request) -> None:
        asked.append(request.host)
        raise URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(download, "_WAITS", (0, 0, 0))
    with pytest.raises(DataError, match=rf"\(Name or service not known\).* place it as {folder / place}; data/README"):
        load_dataset(name)
    assert len(set(asked)) == (2 if name == "mnist" else 1)  # its mirrors
    assert not [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert capfd.readouterr() == ("", "")


def test_medmnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("train", "val", "test")
    arrays = {f"{part}_images": noise(16, 64, 64, 3) for part in parts}
    np.savez(buffer := io.BytesIO(), **arrays, **{f"{part}_labels": np.arange(16)[:, None] % 8 for part in parts})
    path = folder / "bloodmnist_64.npz"
    _, checksum = write(path, buffer.getvalue())
    with pytest.raises(DataError, match=rf"{path} is not the file .*checksum"):  # a file placed by hand is verified
        load_dataset("bloodmnist@64")
    assert path.exists()
    monkeypatch.setitem(catalogue.MD5, "bloodmnist", ("", checksum, "", ""))
    data = load_dataset("bloodmnist@64")
    assert data.name == "bloodmnist@64" and data.classes[7] == "platelet" and len(data.val) == 16
    assert (data.test.images.numpy() == arrays["test_images"].transpose(0, 3, 1, 2)).all()


def test_tiny_imagenet_from_its_zip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wnids = {"n03": "crane", "n01": "goldfish, Carassius auratus", "n02": "crane, bird"}

    def jpeg(value: int) -> bytes:
        Image.fromarray(np.full((64, 64, 3), 50 + value, np.uint8)).save(buffer := io.BytesIO(), "JPEG")
        return buffer.getvalue()

    top, rows = "tiny-imagenet-200", []
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as file:
        file.writestr(f"{top}/words.txt", "".join(f"{wnid}\t{name}\n" for wnid, name in wnids.items()))
        for k, wnid in enumerate(wnids):
            for i in range(10):
                file.writestr(f"{top}/train/{wnid}/images/{wnid}_{i}.JPEG", jpeg(10 * k))
            file.writestr(f"{top}/train/{wnid}/{wnid}_boxes.txt", "0 0 1 1")
            file.writestr(f"{top}/val/images/val_{k}.JPEG", jpeg(10 * k))
            rows.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t1\t1\n")
        file.writestr(f"{top}/val/val_annotations.txt", "".join(rows))
        file.writestr(f"{top}/test/images/test_0.JPEG", jpeg(99))
    monkeypatch.setattr(published, "_TINY_MD5", write(folder / f"{top}.zip", packed.getvalue())[1])
    data = load_dataset("tiny_imagenet")
    assert data.classes == ("goldfish", "crane (n02)", "crane (n03)")
    assert (len(data.train), len(data.val), len(data.test)) == (27, 3, 3)
    colours = {60: 0, 70: 1, 50: 2}
    for part in (data.train, data.val, data.test):
        assert [colours[int(image[0, 0, 0])] for image in part.images] == part.labels.tolist()
    assert load_dataset("tiny_imagenet", image_size=32).image_size == 32
    (folder / top / "words.txt").write_text("")
    with pytest.raises(DataError, match="not Tiny ImageNet as published"):
        load_dataset("tiny_imagenet")
