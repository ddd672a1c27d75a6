"""Fetch a file by URL and MD5, and unpack an archive, so that what lies at the final path is always whole."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import socket
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from labutil import device
from labutil.paths import DataError

_WAITS = (0, 1, 2)  # seconds before each round of asking the servers
_TIMEOUT = 30  # seconds without a byte
_OUR_DISK = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EROFS}  # not the network's fault


def fetch(urls: str | Sequence[str], path: Path | str, md5: str) -> Path:
    """Download a file to `path`, or verify the one that already lies there; returns `path`.

    urls: http or https; of several servers each is asked in turn, and all three times, as connections are lost and
    servers busy. md5: the file's checksum, in hexadecimal. Bytes arrive in `path` + `.part`, which moves to `path` when
    its checksum is right and is removed otherwise. Two processes that ask for one file download it once.

    Raises DataError when offline, or when the file is not there or another; says how to place it by hand.

    Example:
        fetch("https://zenodo.org/records/10519652/files/bloodmnist.npz", data_dir() / "bloodmnist.npz",
              "7053d0359d879ad8a5505303e11de1dc")
    """
    from torchvision.datasets.utils import check_integrity

    urls, path = [urls] if isinstance(urls, str) else list(urls), Path(path)
    if not path.exists():
        with _lock(path):
            if not path.exists():
                _download(urls, path, md5)
                return path
    if not check_integrity(path, md5):
        raise DataError(
            f"{path} is not the file of {urls[-1]}: its MD5 checksum is not {md5}; "
            f"delete it to download it again, or place the right one there"
        )
    return path


def _download(urls: list[str], path: Path, md5: str) -> None:
    """`path` from the first server that gives the right bytes."""
    from torchvision.datasets.utils import download_url

    part, failure, asked = path.with_name(path.name + ".part"), "", list(urls)
    for wait in _WAITS:
        time.sleep(wait if asked else 0)
        for url in tuple(asked):
            try:
                with _shown_and_timed():
                    download_url(url, str(part.parent), part.name, md5)
                os.replace(part, path)
                return
            except (OSError, HTTPException, RuntimeError) as error:
                failure = f"{url} cannot be downloaded ({_reason(error)})"
                if getattr(error, "errno", None) in _OUR_DISK:
                    raise DataError(f"{part} cannot be written ({error.strerror}): free or choose a place") from error
                if isinstance(error, HTTPError) and error.code < 500 and error.code not in {408, 429}:
                    asked.remove(url)  # it will say the same again
            finally:
                part.unlink(missing_ok=True)
    raise DataError(
        f"{failure}: check the connection, or get the file by other means and place it as {path}; "
        f"data/README.md lists every file"
    )


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
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _lock(path: Path) -> FileLock:
    """One process at a time for `path`, whose folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        advice = "set LABUTIL_DATA to a folder you may write"
        raise DataError(f"{path.parent} cannot be made ({error.strerror}): {advice}") from error
    return FileLock(path.with_name(path.name + ".lock"))


def unpack(archive: Path | str, folder: Path | str) -> Path:
    """Unpack a zip or tar archive as `folder`, whole or not at all; a folder that exists is left as it is.

    An archive that holds one folder of the same name gives that one, not a folder within a folder. Raises DataError
    when the archive is damaged, or has a member that is a device, links or would land elsewhere.

    Example:
        unpack(data_dir() / "tiny-imagenet-200.zip", data_dir() / "tiny-imagenet-200")
    """
    archive, folder = Path(archive), Path(folder)
    temporary = folder.with_name(folder.name + ".unpacking")
    with _lock(folder):
        if folder.exists():
            return folder
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            _extract(archive, temporary)
            inner = temporary / folder.name
            os.replace(inner if inner.is_dir() and os.listdir(temporary) == [inner.name] else temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _extract(archive: Path, folder: Path) -> None:
    damage = (zipfile.BadZipFile, tarfile.ReadError, EOFError, zlib.error, NotImplementedError, RuntimeError)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                if wrong := [member.filename for member in file.infolist() if not _is_inside(folder, member)]:
                    raise DataError(
                        f"{archive} is not safe to unpack (member {wrong[0]!r}): get it from its source again"
                    )
                file.extractall(folder)
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


def _is_inside(folder: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a member is a file or folder below `folder`; zipfile would rename one that points elsewhere."""
    inside = (folder / member.filename).resolve().is_relative_to(folder.resolve())
    return inside and stat.S_IFMT(member.external_attr >> 16) in {0, stat.S_IFREG, stat.S_IFDIR}
