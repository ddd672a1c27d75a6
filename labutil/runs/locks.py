"""Who is at work in a directory: a lock with an owner and a heartbeat, for any number of machines on one disk.

A lock is a file `.lock.N` in the directory, and the highest N counts. It is taken by creating the next number, which
the file system lets one process do. The highest file is never deleted, only marked as free, so a taker that was too
slow always finds a higher one and steps back. Locks of the operating system are of no use here: on a shared disk those
of a crashed machine may stand for ever.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from labutil import paths

INTERVAL = 10.0  # seconds between two heartbeats
LIMIT = 90.0  # seconds of silence after which an owner counts as dead; more than a network drive keeps old times for
HOST = paths.machine()


class Lock:
    """A lock that this process holds, until `release` or the end of a `with`; a thread keeps its heart beating.

    lost: called from that thread, once, when another process has taken the lock over, as after a laptop's sleep.
    """

    def __init__(self, path: Path, lost: Callable[[], None] | None) -> None:
        self.path, self._lost, self._released = path, lost, threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def held(self) -> bool:
        """Whether the lock is still this process's own. A disk that does not answer changes nothing."""
        try:
            os.stat(self.path)
            return _files(self.path.parent)[-1] == self.path
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ESTALE)

    def release(self) -> None:
        self._released.set()
        if self.held():
            paths.replace_file(self.path, lambda temporary: temporary.write_text("{}", "utf-8"))

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self) -> None:
        while not self._released.wait(INTERVAL):
            if not self.held():
                if self._lost and not self._released.is_set():
                    self._lost()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)  # by the clock of the file server


def acquire(directory: Path, wait: float = 0, lost: Callable[[], None] | None = None) -> Lock | None:
    """Take a directory's lock, waiting for it up to so many seconds; None while another process has it.

    An owner that was silent for `LIMIT` seconds, or whose process on this machine has ended, has it no more.
    """
    deadline = time.monotonic() + wait
    while (path := _take(directory)) is None:
        if time.monotonic() >= deadline:
            return None
        time.sleep(min(0.1, wait))
    return Lock(path, lost)


def _take(directory: Path) -> Path | None:
    files = _files(directory)
    if files and _owner(files[-1]) is not None:
        return None
    number = int(files[-1].suffix[1:]) + 1 if files else 1
    path = directory / f".lock.{number:06d}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    created = psutil.Process().create_time()
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"host": HOST, "pid": os.getpid(), "created": created}, file)
    if _files(directory)[-1] != path:  # this process slept between its look at the lock and the taking
        path.unlink()
        return None
    for old in files:
        old.unlink(missing_ok=True)
    return path


def holder(directory: Path) -> dict[str, Any] | None:
    """Who holds a directory's lock, {"host", "pid", "created"}; None when nobody who is alive does."""
    files = _files(directory)
    return _owner(files[-1]) if files else None


def deserted(directory: Path) -> bool:
    """Whether a run that says it is running is not: the command that executed it has ended without a word, or the
    kernel in which it was opened by hand."""
    try:
        if _files(directory):
            return holder(directory) is None
        if kernel := next(directory.glob(".kernel.lock"), None):
            FileLock(kernel).acquire(timeout=0).lock.release()
        return kernel is not None
    except (Timeout, OSError):  # OSError: another machine's run, where nothing may be written to ask for the time
        return False


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob(".lock.*"))


def _owner(path: Path) -> dict[str, Any] | None:
    """Who holds the lock that a file stands for, None when it is free or its owner dead."""
    try:
        with open(path, encoding="utf-8") as file:  # to open is what makes a network drive fetch the present time
            text, beat = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:  # deleted for a higher one a moment ago
        return {"host": None}
    try:
        owner = json.loads(text)
    except ValueError:  # its owner has not got round to writing it
        owner = {"host": None}
    if not owner:
        return None
    if owner["host"] == HOST:
        with contextlib.suppress(psutil.Error):
            if not psutil.pid_exists(owner["pid"]):
                return None
            process = psutil.Process(owner["pid"])
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            # Times of start shift when a clock is set; if they differ, the heartbeat decides.
            if abs(process.create_time() - owner["created"]) < 2:
                return owner
    # One who has not written for so long finds, having done so, that another has taken the lock, and steps back.
    return owner if _now(path.parent) - beat < (LIMIT if owner["host"] else INTERVAL) else None


def _now(directory: Path) -> float:
    """The time of the file server behind a directory."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".clock-") as probe:
        os.utime(probe.name)
        return os.stat(probe.name).st_mtime
