"""Fetch a file by URL and checksum, and unpack an archive, so that what lies at the final path is always whole."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from labutil.paths import DataError

if TYPE_CHECKING:
    from tqdm import tqdm

CHUNK = 1 << 16  # bytes; of a lost connection the last incomplete chunk is lost too
TIMEOUT = (10, 30)  # seconds: to connect, and without a byte


def fetch(url: str, path: Path | str, checksum: str, *, tries: int = 3, wait: float = 1.0) -> Path:
    """Download `url` to `path`, or verify the file that already lies there.

    Bytes arrive in `path` + `.part`, which a later call goes on with where the server allows it; the file moves to
    `path` when its checksum is right. Two processes that ask for one file download it once.

    Args:
        url: http or https.
        path: where the file shall lie; folders are made.
        checksum: `"md5:..."` or `"sha256:..."`, in hexadecimal.
        tries: attempts after lost connections and busy servers.
        wait: seconds before the second attempt, doubled for each further one.

    Returns:
        `path`.

    Raises:
        DataError: offline, not found, or another checksum; says how to place the file by hand.

    Example:
        fetch("https://zenodo.org/records/10519652/files/bloodmnist.npz", data_dir() / "bloodmnist.npz",
              "md5:7053d0359d879ad8a5505303e11de1dc")
    """
    from filelock import FileLock

    path = Path(path)
    if not path.exists():
        _make_folder(path.parent)
        part = path.with_name(path.name + ".part")
        with FileLock(path.with_name(path.name + ".lock")):
            if not path.exists():
                _download(url, part, path, checksum, tries, wait)
                os.replace(part, path)
                return path
    if file_checksum(path, checksum.partition(":")[0]) != checksum:
        raise DataError(
            f"{path} is not the file of {url}: its checksum is not {checksum}; "
            f"delete it to download it again, or place the right one there"
        )
    return path


def file_checksum(path: Path | str, algorithm: str) -> str:
    """`"md5:..."` or `"sha256:..."` of a file's bytes."""
    # MD5 tells damage here, not malice; without the flag some hardened systems refuse it
    new = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, new).hexdigest()}"


def _download(url: str, part: Path, path: Path, checksum: str, tries: int, wait: float) -> None:
    """Fill `part` until it has the checksum."""
    import requests

    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            resumed = _transfer(url, part)
        except passing as error:
            reason = _short(error)
            continue
        except requests.HTTPError as error:
            status = error.response.status_code
            reason = f"the server answers {status} {error.response.reason}"
            if status in {408, 429} or status >= 500:
                continue
            break
        except requests.RequestException as error:
            reason = _short(error)
            break
        except OSError as error:
            raise DataError(
                f"{part} cannot be written ({error.strerror or error}): free or choose another place"
            ) from error
        found = file_checksum(part, checksum.partition(":")[0])
        if found == checksum:
            return
        part.unlink()
        reason = f"what came has checksum {found} instead of {checksum} and was deleted"
        if not resumed:
            break  # else the first bytes may stem from an older file: once more from the start
    raise DataError(
        f"{url} cannot be downloaded ({reason}): check the connection, or get the file by other means and place it as "
        f"{path}; data/README.md lists every file"
    )


def _transfer(url: str, part: Path) -> bool:
    """One request, appended to `part` where the server agrees; returns whether it was."""
    import requests

    start = part.stat().st_size if part.exists() else 0
    # identity: a compressed transfer would make byte positions mean something else
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing after `start`: the checksum tells whether the part is whole
            return True
        response.raise_for_status()
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        )
        start = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file, progress(total, part.stem, "B", start) as bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            if total is not None and file.tell() < total:  # urllib3 before version 2 does not tell
                raise requests.ConnectionError("the connection was closed early")
    return resumed


def unpack(archive: Path | str, folder: Path | str) -> Path:
    """Unpack a zip or tar archive as `folder`, whole or not at all; a folder that exists is left as it is.

    An archive that holds one folder of the same name gives that one, not a folder within a folder.

    Raises:
        DataError: the archive is damaged, or has a member that is a device, links or would land elsewhere.

    Example:
        unpack(data_dir() / "tiny-imagenet-200.zip", data_dir() / "tiny-imagenet-200")
    """
    from filelock import FileLock

    archive, folder = Path(archive), Path(folder)
    temporary = folder.with_name(folder.name + ".unpacking")
    _make_folder(folder.parent)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.exists():
            return folder
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            _extract(archive, temporary)
            inner = temporary / folder.name
            whole = inner if inner.is_dir() and len(list(temporary.iterdir())) == 1 else temporary
            os.replace(whole, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    damage = (zipfile.BadZipFile, tarfile.ReadError, EOFError, zlib.error, NotImplementedError, RuntimeError)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    _check_member(archive, folder, member)
                    file.extract(member, folder)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as file:
                for member in file:
                    if member.issym() or member.islnk():
                        raise DataError(f"{archive} has the link {member.name!r}: unpack it by hand if you trust it")
                    file.extract(member, folder, filter="data")
        else:
            raise DataError(f"{archive} is neither a zip nor a tar archive, or is cut short: get it again")
    except tarfile.FilterError as error:
        raise DataError(f"{archive} is not safe to unpack ({error}): get it from its source again") from error
    except damage as error:
        raise DataError(f"{archive} is damaged ({error}): delete it and get it again") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked into {folder.parent} ({error.strerror or error})") from error


def _check_member(archive: Path, folder: Path, member: zipfile.ZipInfo) -> None:
    # zipfile renames members that point elsewhere; a data set that has one is wrong as a whole
    inside = (folder / member.filename).resolve().is_relative_to(folder.resolve())
    kind = stat.S_IFMT(member.external_attr >> 16)
    if not inside or kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise DataError(f"{archive} is not safe to unpack (member {member.filename!r}): get it from its source again")


def progress(total: int | None, text: str, unit: str, initial: int = 0) -> tqdm:
    """A progress bar on standard output after one second; none where nobody watches (a file, a pipe, a notebook)."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=text,
        unit=unit,
        initial=initial,
        unit_scale=unit == "B",
        delay=1,
        file=sys.stdout,
        disable=not sys.stdout.isatty(),
        leave=False,
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made ({error.strerror}): set LABUTIL_DATA to a folder you may write"
        ) from error


def _short(error: Exception) -> str:
    """The innermost reason: urllib3 wraps "Connection refused" four times, in pools and their addresses."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    error = getattr(error, "reason", error)
    return str(error).rpartition(": ")[2] or type(error).__name__
