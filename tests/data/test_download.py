"""`fetch` against a server on this machine that misbehaves on request; `unpack` against hostile archives."""

import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labutil import device
from labutil.data import download
from labutil.data.download import fetch, unpack
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
    monkeypatch.setattr(download, "_WAITS", (0, 0, 0))
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("script", ["whole", "500 429 whole", "cut cut whole", "wrong whole", "silent whole"])
@pytest.mark.parametrize("name", ["set.npz", "moved.npz"])
def test_fetch_gets_the_whole_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, script: str, name: str
) -> None:
    server.script = script.split()
    monkeypatch.setattr(download, "_TIMEOUT", 1 if "silent" in script else 30)
    path = fetch(server.url(name), tmp_path / "sub" / "set.npz", MD5)
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
    assert fetch(server.url(), tmp_path / "set.npz", MD5).read_bytes() == BODY
    assert left(tmp_path) == {"set.npz"}


@pytest.mark.parametrize(
    ("behaviour", "rounds", "says"),
    [
        ("404", 1, "the server answers 404 Not Found"),
        ("500", 3, "500"),
        ("wrong", 3, "another file, by its checksum, and was deleted"),
        ("cut", 3, "deleted"),
        ("dead", 0, "Connection refused"),
    ],
)
def test_fetch_failures_are_one_line_that_helps(
    server: Server, tmp_path: Path, capfd, behaviour: str, rounds: int, says: str
) -> None:
    server.script = [behaviour]
    url, path = DEAD if behaviour == "dead" else server.url(), tmp_path / "set.npz"
    with pytest.raises(DataError) as caught:
        fetch(url, path, MD5)
    message = str(caught.value)
    assert "\n" not in message and "urlopen" not in message
    assert all(text in message for text in (url, f"place it as {path}", says, "data/README.md"))
    assert server.met == [behaviour] * rounds
    assert left(tmp_path) == set() and capfd.readouterr() == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_fetch_on_a_full_disk(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"set\.npz\.part cannot be written \(No space left on device\): free"):
        fetch(server.url(), tmp_path / "set.npz", MD5)
    assert server.met == ["whole"] and left(tmp_path) == set()


def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(url: str, root: str, filename: str, md5: str) -> None:
        Path(root, filename).write_bytes(BODY[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.utils.download_url", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(DEAD, tmp_path / "set.npz", MD5)
    assert left(tmp_path) == set()


def test_who_watches_sees_a_bar_on_standard_output(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(device, "person_watches", lambda: True)
    fetch(server.url(), tmp_path / "set.npz", MD5)
    out, err = capfd.readouterr()
    assert "100%" in out and err == ""


def test_fetch_verifies_a_file_that_is_there(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(BODY)
    assert fetch(server.url(), path, MD5) == path
    path.write_bytes(b"placed by hand, but wrong")
    with pytest.raises(DataError, match="checksum is not"):
        fetch(server.url(), path, MD5)
    assert path.exists()  # the user's file is the user's to delete
    assert server.met == []


def test_two_fetches_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.url(), tmp_path / "set.npz", MD5), range(4)))
    assert (tmp_path / "set.npz").read_bytes() == BODY
    assert server.met == ["whole"]


def make_zip(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            file.writestr(info, "/etc/passwd")
    return path


def make_tar(path: Path, members: dict[str, bytes], special: bytes | None = None, target: str = "/etc/passwd") -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        if special is not None:
            info = tarfile.TarInfo("special")
            info.type, info.linkname = special, target
            file.addfile(info)
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("top", ["", "out/", "other/"])
def test_unpack(tmp_path: Path, make, top: str) -> None:
    archive = make(tmp_path / "archive", {f"{top}a.txt": b"A", f"{top}sub/b.txt": b"B"})
    folder = unpack(archive, tmp_path / "data" / "out")
    inside = folder / "other" if top == "other/" else folder
    assert (inside / "a.txt").read_bytes() == b"A"
    assert (inside / "sub" / "b.txt").read_bytes() == b"B"
    assert left(folder.parent) == {"out"}


def damage(archive: Path, change: Callable[[bytes], bytes]) -> None:
    archive.write_bytes(change(archive.read_bytes()))


HOSTILE = {
    "zip up": lambda path: make_zip(path, {"fine": b"", "../escaped": b"!"}),
    "zip absolute": lambda path: make_zip(path, {str(path.parent / "escaped"): b"!"}),
    "zip link": lambda path: make_zip(path, {"fine": b""}, link="escaped"),
    "tar up": lambda path: make_tar(path, {"fine": b"", "../escaped": b"!"}),
    "tar link": lambda path: make_tar(path, {}, tarfile.SYMTYPE),
    "tar hard link": lambda path: make_tar(path, {}, tarfile.LNKTYPE, "../../escaped"),
    "tar inner link": lambda path: make_tar(path, {"fine": b""}, tarfile.SYMTYPE, "fine"),
    "tar device": lambda path: make_tar(path, {}, tarfile.CHRTYPE),
    "zip cut": lambda path: damage(make_zip(path, {"a": BODY}), lambda data: data[:-100]),
    "zip flipped": lambda path: damage(make_zip(path, {"a": BODY}), lambda data: data[:500] + b"?" + data[501:]),
    "tar cut": lambda path: damage(make_tar(path, {"a": os.urandom(3000), "b": BODY}), lambda data: data[:-100]),
    "text": lambda path: path.write_bytes(b"<html>not found</html>"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_unpack_refuses_and_leaves_nothing(tmp_path: Path, make) -> None:
    archive = tmp_path / "an.archive"
    make(archive)
    with pytest.raises(DataError, match=f"^{archive} [^\n]*$"):
        unpack(archive, tmp_path / "data" / "out")
    assert left(tmp_path / "data") == set()
    assert not list(tmp_path.rglob("escaped"))


def test_unpack_keeps_tar_members_inside_that_name_an_absolute_path(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive", {str(tmp_path / "escaped"): b"!"})
    folder = unpack(archive, tmp_path / "data" / "out")
    assert not (tmp_path / "escaped").exists() and list(folder.rglob("escaped"))


def test_unpack_leaves_what_is_there_and_clears_what_was_killed(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"a": b"A"})
    (tmp_path / "out.unpacking").mkdir()
    (tmp_path / "out.unpacking" / "half").write_text("of a killed process")
    folder = unpack(archive, tmp_path / "out")
    assert left(folder) == {"a"}
    (folder / "a").write_text("mine")
    assert (unpack(archive, folder) / "a").read_text() == "mine"
    assert left(tmp_path) == {"archive", "out"}
