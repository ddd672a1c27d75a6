"""`fetch` against a server on this machine that misbehaves on request; `unpack` against hostile archives."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labutil.data.download import fetch, unpack
from labutil.paths import DataError

BODY = bytes(range(256)) * 4096  # 1 MiB
PART = 6 << 16
SHA = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves BODY. `script` holds one behaviour for each request, the last for all that follow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = ["range"]
        self.requests: list[str | None] = []  # Range headers as they came

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.npz"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server: Server = self.server
        server.requests.append(self.headers.get("Range"))
        assert self.headers["Accept-Encoding"] == "identity"  # else positions in the file mean nothing
        behaviour = server.script[min(len(server.requests), len(server.script)) - 1]
        if behaviour.isdigit():
            self.send_error(int(behaviour))
            return
        body = BODY[::-1] if "wrong" in behaviour else BODY
        start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if "range" in behaviour else 0
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        # "drop": 6 of the promised 16 times 64 KiB, then the connection closes
        self.wfile.write(body[start : start + PART] if "drop" in behaviour else body[start:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield running
        running.shutdown()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["range"], [None]),
        (["500", "503", "range"], [None, None, None]),
        (["range drop", "range"], [None, f"bytes={PART}-"]),
        (["range drop", "range drop", "range"], [None, f"bytes={PART}-", f"bytes={2 * PART}-"]),
        (["drop", "plain"], [None, f"bytes={PART}-"]),
    ],
)
def test_fetch_gets_the_whole_file(server: Server, tmp_path: Path, script: list[str], ranges: list) -> None:
    server.script = script
    path = fetch(server.url, tmp_path / "sub" / "set.npz", SHA, wait=0)
    assert path.read_bytes() == BODY
    assert server.requests == ranges
    assert left(path.parent) == {"set.npz"}


def test_fetch_goes_on_with_an_earlier_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(BODY[:1000])
    assert fetch(server.url, tmp_path / "set.npz", SHA).read_bytes() == BODY
    assert server.requests == ["bytes=1000-"]


def test_fetch_takes_a_part_that_was_whole_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(BODY)
    assert fetch(server.url, tmp_path / "set.npz", SHA, wait=0).read_bytes() == BODY


@pytest.mark.parametrize("stale", [b"other", BODY + b"longer", BODY[::-1]])
def test_fetch_starts_anew_after_a_part_of_another_file(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "set.npz.part").write_bytes(stale)
    assert fetch(server.url, tmp_path / "set.npz", SHA, wait=0).read_bytes() == BODY
    assert server.requests[-1] is None


@pytest.mark.parametrize(
    ("script", "requests", "says"),
    [(["404"], 1, "404"), (["500"], 3, "500"), (["wrong"], 1, "checksum sha256:"), (["drop"], 3, "set.npz")],
)
def test_fetch_failures_are_one_line_that_helps(
    server: Server, tmp_path: Path, script: list[str], requests: int, says: str
) -> None:
    server.script = script
    path = tmp_path / "set.npz"
    with pytest.raises(DataError) as caught:
        fetch(server.url, path, SHA, wait=0)
    message = str(caught.value)
    assert "\n" not in message
    assert all(text in message for text in (server.url, str(path), says, "data/README.md"))
    assert len(server.requests) == requests
    assert left(tmp_path) <= {"set.npz.part"}
    assert (
        ("deleted" in message)
        == (script == ["wrong"])
        == (left(tmp_path) == set() and script != ["404"] and requests == 1)
    )


def test_fetch_offline(tmp_path: Path, server: Server) -> None:
    server.server_close()  # now the port refuses connections
    with pytest.raises(DataError, match=r"refused.*set\.npz.*README") as caught:
        fetch(server.url, tmp_path / "set.npz", SHA, wait=0)
    assert "\n" not in str(caught.value) and "HTTPConnectionPool" not in str(caught.value)


def test_fetch_verifies_a_file_that_is_there(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(BODY)
    md5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
    assert fetch(server.url, path, md5) == path
    path.write_bytes(b"placed by hand, but wrong")
    with pytest.raises(DataError, match="checksum is not"):
        fetch(server.url, path, md5)
    assert path.exists()  # the user's file is the user's to delete
    assert server.requests == []


def test_two_fetches_download_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server.url, tmp_path / "set.npz", SHA)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "set.npz").read_bytes() == BODY
    assert len(server.requests) == 1


def make_zip(path: Path, members: dict[str, bytes], links: tuple[str, ...] = ()) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
        for name in links:
            info = zipfile.ZipInfo(name)
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


def hostile(folder: Path) -> dict[str, Path]:
    whole_zip = make_zip(folder / "whole.zip", {"a": BODY}).read_bytes()
    whole_tar = make_tar(folder / "whole.tar", {"a": hashlib.sha256(b"").digest() * 99, "b": BODY}).read_bytes()
    damaged = {"cut.zip": whole_zip[:-100], "cut.tar": whole_tar[:-100], "text.zip": b"<html>not found</html>"}
    damaged["flipped.zip"] = whole_zip[:500] + b"?" + whole_zip[501:]
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    return {
        "zip up": make_zip(folder / "1", {"fine": b"", "../escaped": b"!"}),
        "zip absolute": make_zip(folder / "2", {str(folder / "escaped"): b"!"}),
        "zip link": make_zip(folder / "3", {"fine": b""}, links=("escaped",)),
        "tar up": make_tar(folder / "4", {"fine": b"", "../escaped": b"!"}),
        "tar link": make_tar(folder / "6", {}, tarfile.SYMTYPE),
        "tar hard link": make_tar(folder / "7", {}, tarfile.LNKTYPE, "../../escaped"),
        "tar inner link": make_tar(folder / "9", {"fine": b""}, tarfile.SYMTYPE, "fine"),
        "tar device": make_tar(folder / "8", {}, tarfile.CHRTYPE),
        **{name: folder / name for name in damaged},
    }


HOSTILE = [
    *("zip up", "zip absolute", "zip link", "tar up", "tar link", "tar hard link", "tar inner link", "tar device"),
    *("cut.zip", "cut.tar", "text.zip", "flipped.zip"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_unpack_refuses_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    archive = hostile(tmp_path)[name]
    with pytest.raises(DataError, match=archive.name) as caught:
        unpack(archive, tmp_path / "data" / "out")
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "data") == set()
    assert not list(tmp_path.rglob("escaped"))


def test_unpack_keeps_tar_members_inside_that_name_an_absolute_path(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "archive", {str(tmp_path / "escaped"): b"!"})
    folder = unpack(archive, tmp_path / "data" / "out")
    assert not (tmp_path / "escaped").exists()
    assert [path for path in folder.rglob("escaped")]


def test_unpack_leaves_what_is_there_and_clears_what_was_killed(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "archive", {"a": b"A"})
    (tmp_path / "out.unpacking").mkdir()
    (tmp_path / "out.unpacking" / "half").write_text("of a killed process")
    folder = unpack(archive, tmp_path / "out")
    assert left(folder) == {"a"}
    (folder / "a").write_text("mine")
    assert (unpack(archive, folder) / "a").read_text() == "mine"
    assert left(tmp_path) == {"archive", "out"}
