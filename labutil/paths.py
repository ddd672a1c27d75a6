"""Where the project keeps its files, and the error for data that is wrong."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path


def printable(name: str) -> str:
    """A file's name as text that any file or screen takes: bytes in it that are no UTF-8 become `\\xe9` and so on."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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


def replace_file(path: Path, write: Callable[[Path], object], *, sync: bool = False) -> None:
    """Let `write` fill a file beside `path`, then move it there: a reader finds the old file or the new, never half.
    sync: wait until the disk has it, so that this also holds after a power cut."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        if sync:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
