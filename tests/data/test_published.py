"""Published sets by stand-ins of the same format: from a server on this machine that misbehaves on request, out of
hostile archives, placed by hand, damaged, offline."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import tarfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from labutil import device
from labutil.data import catalogue, load_dataset, published
from labutil.data.published import fetch
from labutil.paths import DataError

BODY = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(BODY).hexdigest()
DEAD = "http://127.0.0.1:9/set.npz"  # nobody listens there


class Server(ThreadingHTTPServer):
    """Serves BODY. `script` holds one behaviour for each download, the last for all that follow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = ["whole"]
        self.met: list[str] = []

    def url(self, name: str = "set.npz") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, *_: object) -> None:
        pass  # torchvision asks twice, and hangs up the first time


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server: Server = self.server
        behaviour = server.script[min(len(server.met), len(server.script) - 1)]
        if self.path == "/moved.npz":
            self.send_response(302)
            self.send_header("Location", server.url())
            self.end_headers()
            return
        asks_where = self.headers["Method"] == "HEAD"  # torchvision's first request, which follows redirects
        if behaviour.isdigit() or not asks_where:
            server.met.append(behaviour)
        if behaviour.isdigit():
            self.send_error(int(behaviour))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if behaviour == "silent" and not asks_where:
            time.sleep(2)
        self.wfile.write({"wrong": BODY[::-1], "cut": BODY[:400_000], "silent": b""}.get(behaviour, BODY))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(published, "_WAITS", (0, 0, 0))
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("script", ["whole", "500 429 whole", "cut cut whole", "wrong whole", "silent whole"])
@pytest.mark.parametrize("name", ["set.npz", "moved.npz"])
def test_fetch_gets_the_whole_file(server, tmp_path, monkeypatch, capfd, script: str, name: str) -> None:
    server.script = script.split()
    monkeypatch.setattr(published, "_TIMEOUT", 1 if "silent" in script else 30)
    path = fetch([server.url(name)], tmp_path / "sub" / "set.npz", MD5)
    assert path.read_bytes() == BODY and server.met == server.script
    assert left(path.parent) == {"set.npz"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("first", ["404", "wrong", "dead"])
def test_fetch_asks_the_next_server(server: Server, tmp_path: Path, first: str) -> None:
    server.script = [first, "whole"] if first != "dead" else ["whole"]
    urls = [DEAD if first == "dead" else server.url(), server.url("mirror.npz")]
    assert fetch(urls, tmp_path / "set.npz", MD5).read_bytes() == BODY
    assert server.met == server.script and left(tmp_path) == {"set.npz"}


@pytest.mark.parametrize("stale", [b"other", BODY[:1000], BODY + b"longer", BODY])
def test_fetch_beside_what_a_killed_process_left(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "set.npz.part").write_bytes(stale)
    assert fetch([server.url()], tmp_path / "set.npz", MD5).read_bytes() == BODY
    assert left(tmp_path) == {"set.npz"}


FAILURES = {"404": "HTTP Error 404: Not Found", "500": "500", "wrong": "another file, by its checksum, and was"}
FAILURES |= {"cut": "deleted", "dead": "Connection refused"}


@pytest.mark.parametrize(("behaviour", "says"), FAILURES.items())
def test_fetch_failures_are_one_line_that_helps(server, tmp_path, capfd, behaviour: str, says: str) -> None:
    server.script = [behaviour]
    url, path = DEAD if behaviour == "dead" else server.url(), tmp_path / "set.npz"
    with pytest.raises(DataError) as caught:
        fetch([url], path, MD5)
    message = str(caught.value)
    assert "\n" not in message and "urlopen" not in message
    assert all(text in message for text in (url, f"place it as {path}", says, "data/README.md"))
    assert server.met == [behaviour] * (0 if behaviour == "dead" else 3)
    assert left(tmp_path) == set() and capfd.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_fetch_on_a_full_disk(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): make room"):
        fetch([server.url()], tmp_path / "set.npz", MD5)
    assert server.met == ["whole"] and left(tmp_path) == set()


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(url: str, root: str, filename: str, md5: str) -> None:
        Path(root, filename).write_bytes(BODY[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.utils.download_url", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch([DEAD], tmp_path / "set.npz", MD5)
    assert left(tmp_path) == set()


def test_who_watches_sees_a_bar_on_standard_output(server, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(device, "person_watches", lambda: True)
    fetch([server.url()], tmp_path / "set.npz", MD5)
    out, err = capfd.readouterr()
    assert "100%" in out and err == ""


def test_fetch_verifies_a_file_that_is_there(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(BODY)
    assert fetch([server.url()], path, MD5) == path
    path.write_bytes(b"placed by hand, but wrong")
    with pytest.raises(DataError, match="checksum is not"):
        fetch([server.url()], path, MD5)
    assert path.exists()  # the user's file is the user's to delete
    assert server.met == []


def test_two_fetches_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch([server.url()], tmp_path / "set.npz", MD5), range(4)))
    assert (tmp_path / "set.npz").read_bytes() == BODY
    assert server.met == ["whole"]


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


def make_zip(path: Path, members: dict[str, bytes], link: str = "") -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            file.writestr(info, "/etc/passwd")


def make_tar(path: Path, members: dict[str, bytes], special: bytes = b"", target: str = "/etc/passwd") -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        if special:
            info = tarfile.TarInfo("set/special")
            info.type, info.linkname = special, target
            file.addfile(info)


def unpacked(archive: Path) -> Path:
    """The folder `set` of the data folder, out of an archive there."""
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    return published._unpacked(DEAD, archive.name, md5, "set")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_unpacks_whole_clears_what_was_killed_and_leaves_what_is_there(folder: Path, make: Callable) -> None:
    make(folder / "packed", {"set/a.txt": b"A", "set/sub/b.txt": b"B"})
    (folder / "set.unpacking" / "set").mkdir(parents=True)
    (folder / "set.unpacking" / "set" / "half").write_text("of a killed process")
    inside = unpacked(folder / "packed")
    assert (inside / "a.txt").read_bytes() == b"A" and (inside / "sub" / "b.txt").read_bytes() == b"B"
    assert left(inside) == {"a.txt", "sub"}
    (inside / "a.txt").write_text("mine")
    assert (unpacked(folder / "packed") / "a.txt").read_text() == "mine"
    assert left(folder) == {"packed", "set"}


def damage(archive: Path, change: Callable[[bytes], bytes]) -> None:
    archive.write_bytes(change(archive.read_bytes()))


REFUSED = {
    "tar up": lambda path: make_tar(path, {"set/a": b"", "../escaped": b"!"}),
    "tar link": lambda path: make_tar(path, {"set/a": b""}, tarfile.SYMTYPE),
    "tar hard link": lambda path: make_tar(path, {"set/a": b""}, tarfile.LNKTYPE, "../../escaped"),
    "tar device": lambda path: make_tar(path, {"set/a": b""}, tarfile.CHRTYPE),
    "zip cut": lambda path: (make_zip(path, {"set/a": BODY}), damage(path, lambda data: data[:-100])),
    "zip flipped": lambda path: (make_zip(path, {"set/a": BODY}), damage(path, lambda x: x[:500] + b"?" + x[501:])),
    "tar cut": lambda path: (make_tar(path, {"set/a": os.urandom(3000)}), damage(path, lambda data: data[:-100])),
    "text": lambda path: path.write_bytes(b"<html>not found</html>"),
    "another folder": lambda path: make_zip(path, {"other/a": b""}),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_unpacked_leaves_nothing(folder: Path, make: Callable) -> None:
    make(folder / "packed")
    with pytest.raises(DataError, match=f"^{folder / 'packed'} cannot be unpacked [^\n]*delete it to get it again$"):
        unpacked(folder / "packed")
    assert left(folder) == {"packed"}
    assert not list(folder.parent.rglob("escaped"))


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_members_that_name_another_place_stay_inside(folder: Path, make: Callable) -> None:
    outside = folder.parent / "escaped"
    members = {"set/a": b"", str(outside): b"!"}
    if make is make_zip:
        make(folder / "packed", members | {"set/../../escaped": b"!", "../escaped": b"!"}, link="set/link")
    else:
        make(folder / "packed", members)
    inside = unpacked(folder / "packed")
    assert not outside.exists() and left(folder) == {"packed", "set"}
    assert not any(path.is_symlink() for path in inside.rglob("*"))


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
    write_mnist(folder / place / "raw", end)
    data = load_dataset(name)
    assert len(data.test) == 10 and data.name == name and data.classes[1] == second


def test_fashion_mnist_of_debians_package_is_read_where_it_lies(folder: Path, tmp_path: Path, monkeypatch) -> None:
    assert {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")} == published._DEBIAN
    monkeypatch.setitem(published._DEBIAN, "fashion_mnist", tmp_path / "package")
    write_mnist(tmp_path / "package", ".gz")
    assert len(load_dataset("fashion_mnist").test) == 10 and not (folder / "FashionMNIST").exists()


def write_mnist(place: Path, end: str) -> None:
    for part, n in (("train", 30), ("t10k", 10)):
        images = b"\0\0\x08\x03" + np.array([n, 9, 11], ">u4").tobytes() + noise(n, 9, 11).tobytes()
        labels = b"\0\0\x08\x01" + np.array([n], ">u4").tobytes() + (np.arange(n, dtype=np.uint8) % 3).tobytes()
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            write(place / f"{part}-{kind}-ubyte{end}", gzip.compress(data) if end else data)


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
def test_offline_says_what_to_place_where(folder: Path, monkeypatch, capfd, name: str, place: str) -> None:
    asked = []

    def no_network(request: urllib.request.Request) -> None:
        asked.append(request.host)
        raise URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setattr(published, "_WAITS", (0, 0, 0))
    monkeypatch.setattr(published, "_DEBIAN", {})
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
