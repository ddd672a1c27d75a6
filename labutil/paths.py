"""Where the project keeps its files, and the error for data that is wrong."""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import io
import json
import math
import numbers
import os
import platform
import re
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".*-*-*"  # the names in which `replace_file` writes: machine, process, and the file's own
# What ends a line, steers a terminal, turns the direction of writing, or is no character; but \udc80 to \udcff, bytes
_UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff]")


def printable(name: str) -> str:
    """A name as text that any file, table or screen takes: bytes in it that are no UTF-8 become `\\xe9` and so on, and
    so do characters that end a line, steer a terminal or turn the direction of writing (`\\n`, `\\x1b`, `\\u202e`)."""
    shown = _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), name)
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def file_name(text: str) -> str:
    """A text as a file's name, or a part of one, on any system: letters and digits of any script, and not too long."""
    return re.sub(r"[^\w.@-]+", "_", text).encode()[:160].decode("utf-8", "ignore")


def no_tags(text: str) -> str:
    """Text in which a page finds no tag, whatever a data set or a run calls itself: `<b>` becomes `‹b>`, for places
    that take HTML (Markdown, pandas' styled tables). `a < b` and `<5` stay."""
    return re.sub(r"<(?=[A-Za-z/!?])", "‹", text)


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`" (did you mean 'epochs'?)"` for a near miss, else `""`: goes behind the wrong name in a message."""
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return f" (did you mean {lowered[near[0]]!r}?)" if near else ""


def check_number(parameter: str, value: object, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raise ValueError, naming the parameter, unless `value` is a finite (`whole`: a whole) number in [low, high]."""
    if not is_number(value) or not low <= value <= high or (whole and not isinstance(value, numbers.Integral)):
        kind, at_most = "whole number" if whole else "number", f" and at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{parameter}={value!r} must be a {kind}, at least {low:g}{at_most}")


def is_number(value: object) -> bool:
    """Whether `value` is a whole number or a finite one, of Python or NumPy; True and False are neither."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def check_choice(parameter: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError, naming the parameter and the nearest choice, when `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{parameter}={value!r}{did_you_mean(value, choices)} is not one of {', '.join(choices)}")


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name is the better the lower it is."""
    return any(word in metric for word in ("loss", "mse", "error"))


class DataError(ValueError):
    """Data that cannot be used. The message is one line: which file or parameter, what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        # A message of another library may be quoted inside, and some of those have several lines.
        super().__init__(printable(" ".join(line.strip() for line in message.splitlines())))


@functools.cache
def project_root() -> Path:
    """The folder that holds `notebooks/`: the one above `labutil/`, where the package lies in its workbook (a clone, or
    `pip install -e .`). Installed elsewhere (`pip install .`, a wheel): `$LABUTIL_ROOT`, else the current folder or the
    nearest above it that is a workbook; where none is, the current folder. It stays what it was at first."""
    source, here = Path(__file__).resolve().parent.parent, Path.cwd()
    if not _is_workbook(source):
        named = os.environ.get("LABUTIL_ROOT")
        source = absolute(named) if named else next(filter(_is_workbook, [here, *here.parents]), here)
        os.environ["LABUTIL_ROOT"] = str(source)  # for what is started from here, a run's kernel, in other folders
    return source


def _is_workbook(folder: Path) -> bool:
    return (folder / "notebooks" / "recipes").is_dir()


def check_workbook() -> None:
    """Raise DataError where the lessons cannot be found: an installed `labutil` knows them from where it is run."""
    if not _is_workbook(project_root()):
        text = "holds no workbook: run labutil in the folder that holds notebooks/, or name that in LABUTIL_ROOT"
        raise DataError(f"{project_root()} {text}")


def data_dir() -> Path:
    """Where data sets and their caches lie: `$LABUTIL_DATA` (from the project's root, if relative), else `data/`."""
    return project_root() / Path(os.environ.get("LABUTIL_DATA") or "data").expanduser()


def runs_dir() -> Path:
    """Where run directories lie: `$LABUTIL_RUNS` (from the project's root, if relative), else `runs/`."""
    return project_root() / Path(os.environ.get("LABUTIL_RUNS") or "runs").expanduser()


def sweeps_dir() -> Path:
    """Where sweeps lie: beside the runs."""
    return runs_dir().parent / "sweeps"


def absolute(path: Path | str) -> Path:
    """A path as a person types it, made absolute: it counts from the current folder, `~` is the home folder."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def target(path: Path | str) -> Path:
    """The absolute path of a file to write. Raises DataError, before anything is computed, where none can be."""
    path = absolute(path)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"{path.parent} is no folder to write into"
        raise DataError(f"{path} cannot be written, {reason}: name another file")
    return path


def make_folder(path: Path) -> Path:
    """Make a folder with all above it, where it is not there yet. Raises DataError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be made ({error.strerror}): name another folder") from None
    return path


@functools.cache
def machine() -> str:
    """This machine, and on Linux this container: where a process number means the same process."""
    address, namespace = uuid.getnode(), Path("/proc/self/ns/pid")
    parts = [platform.node(), 0 if address >> 40 & 1 else address]  # that bit: drawn, for want of a network card
    return "/".join(map(str, [*parts, namespace.stat().st_ino if namespace.exists() else 0]))


def replace_file(path: Path, write: Callable[[Path], object], *, sync: bool = False) -> None:
    """Let `write` fill a file beside `path`, then move it there: a reader finds the old file or the new, never half.
    sync: wait until the disk has it, so that this also holds after a power cut. What processes of this machine have
    left beside it that were killed while they wrote goes."""
    here = f".{hashlib.sha256(machine().encode()).hexdigest()[:6]}-"
    for leftover in path.parent.glob(f"{here}*"):
        if not _lives(leftover.name.split("-")[1]):
            leftover.unlink(missing_ok=True)
    temporary = path.with_name(f"{here}{os.getpid()}-{path.name}")
    try:
        with errors_naming(path, temporary):
            write(temporary)
            if sync:
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _lives(process: str) -> bool:
    import psutil

    return not process.isdecimal() or psutil.pid_exists(int(process))


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def in_memory(write: Callable[[io.BytesIO], object]) -> memoryview:
    """What `write` writes into a file, for `Path.write_bytes`: PyTorch itself ends the process on a full disk, or says
    something else."""
    write(buffer := io.BytesIO())
    return buffer.getbuffer()


@contextlib.contextmanager
def errors_naming(path: Path, temporary: Path) -> Iterator[None]:
    """An OSError inside that names no file, as of a full disk, or what is temporary, names `path`."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(temporary)
        if error.errno and not named:  # an OSError of words alone shows none
            error.filename = str(path)
        raise
