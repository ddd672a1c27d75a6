"""`labutil grade`: which exercises of students' notebooks are solved. Their code runs elsewhere (`contained`).

A check runs here and is handed a `Remote`, which looks like the student's function. What it is called with goes to a
contained process, what comes back is data; inputs are drawn anew each time (`frame.unseen`). So nothing that the code
does there, nor what the notebook shows, can make an answer right that is wrong.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from labutil import paths
from labutil.course import checks, contained, copies, wire
from labutil.course.checks.frame import MARKS, Result, Wrong, unseen
from labutil.course.exercises import Exercise, exercises
from labutil.course.remote import Remote
from labutil.runs import RunError

LARGEST = 32 * 2**20  # bytes of a notebook
SECONDS = 30  # of an exercise; contained.SECONDS of a notebook
NOT_KEPT = (
    "submissions can read your files and use the network, and write where you can; time, memory and sizes of files are "
    "limited on Linux, elsewhere little but time"
)


def grade(where: Path, *, confined: bool = True) -> Iterator[dict[str, Any]]:
    """Grade a notebook, or every one below a folder, in the order of their names: a record each.

    {"file", "lesson", "error": what is wrong with the file, "exercises": [{"exercise", "title", "answer", "status",
    "message"}]}. confined: without namespaces nothing is run. Raises DataError where there is nothing to grade, and for
    a single file that is no notebook.

    Example:
        [record["file"] for record in grade(Path("handed_in"))]
    """
    single = not where.is_dir()
    files = [where] if single else sorted(p for p in where.rglob("*.ipynb") if not _hidden(p.relative_to(where)))
    if single and not where.exists():
        raise paths.DataError(f"{where} does not exist: give a notebook, or a folder of them")
    if not files:
        raise paths.DataError(f"{where} holds no notebook: give a folder of .ipynb files")
    read = []
    for file in files:
        try:
            read.append((file, *_read(file), ""))
        except paths.DataError as error:
            if single:
                raise
            read.append((file, "", [], str(error)))
    torch.set_num_threads(1)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        process, nursery = contained.start(confined, sorted({lesson for _, lesson, *_ in read if lesson}))
        try:
            yield from pool.map(lambda of: _grade(nursery, *of), read)
        finally:
            contained.stop(process, nursery)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)  # checkpoints of JupyterLab


def _read(file: Path) -> tuple[str, list[str]]:
    """A notebook's lesson and the code of its cells. Raises DataError for what is none, or is of no lesson."""
    try:
        with open(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode) or file.is_symlink():
                raise paths.DataError(f"{file} is no plain file")
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise paths.DataError(f"{file} is larger than {LARGEST >> 20} MB: hand it in without outputs")
        notebook = json.loads(content)
        cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
        meta = notebook.get("metadata", {}).get("labutil", {})
        named = meta.get("lesson") if isinstance(meta, dict) else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, paths.DataError):
            raise
        said = "or a damaged one: save it in Jupyter and hand in that file"
        raise paths.DataError(f"{file} is no notebook ({type(error).__name__}), {said}") from None
    except OSError as error:
        raise paths.DataError(f"{file} cannot be read ({error.strerror})") from None
    if sum(map(len, cells)) > wire.HEAD // 4:
        raise paths.DataError(f"{file} has more code than any answer needs: {sum(map(len, cells)):,} characters")
    known = _lessons()
    if named not in known:
        named = max(known, key=lambda lesson: sum(_defines(cells, e.answer) for e in known[lesson]))
        if not any(_defines(cells, exercise.answer) for exercise in known[named]):
            raise paths.DataError(f"{file} is no copy of a lesson: none of their exercises is in it")
    return named, cells


@functools.cache
def _lessons() -> dict[str, list[Exercise]]:
    return {path.stem: [exercise for exercise in exercises(path) if exercise.name] for path in copies.lessons()}


def _defines(cells: list[str], name: str) -> bool:
    return any(re.search(rf"^(def {name}\b|{name}\s*=)", cell, flags=re.MULTILINE) for cell in cells)


def _grade(nursery: socket.socket, file: Path, lesson: str, cells: list[str], error: str) -> dict[str, Any]:
    ends, rows = time.monotonic() + contained.SECONDS, []
    for exercise in _lessons().get(lesson, []):
        result = _judge(nursery, cells, exercise, min(ends, time.monotonic() + SECONDS))
        row = {"exercise": exercise.name, "title": exercise.title, "answer": exercise.answer}
        rows.append(row | {"status": result.status, "message": _plain(result.message)})
    return {"file": _plain(str(file)), "lesson": lesson, "error": _plain(error), "exercises": rows}


def _judge(nursery: socket.socket, cells: list[str], exercise: Exercise, ends: float) -> Result:
    """What the check finds, or why the answer could not be asked."""
    if not any(exercise.answer in cell for cell in cells):
        return Result(exercise.name, "not attempted", f"no cell defines {exercise.answer}")
    with contextlib.closing(Remote(nursery, ends)) as remote:
        secret = unseen.set(np.random.default_rng())
        try:
            values = remote.load(cells, exercise.answer, literal=exercise.predicted)
            return _predicted(values) if exercise.predicted else getattr(checks, exercise.name)(remote)
        except NotImplementedError:
            return Result(exercise.name, "not attempted", f"no cell defines {exercise.answer}")
        except Wrong as wrong:
            return Result(exercise.name, "failed", str(wrong))
        except RunError:
            raise
        except Exception as error:
            said = f"the cell that defines {exercise.answer} raised {type(error).__name__}: {error}"
            return Result(exercise.name, "failed", said)
        finally:
            unseen.reset(secret)


def _predicted(values: Any) -> Result:
    """Predictions pass once they are made: whether they come true depends on what the lesson's own cells measure."""
    if not isinstance(values, dict) or not values:
        raise Wrong("my_guess must be a dictionary, as it was handed out")
    made = {key: value for key, value in values.items() if value is not None}
    if not made:
        return Result("guess", "not attempted", "not attempted yet")
    if wrong := [
        key for key, value in made.items() if not (paths.is_number(value) or (isinstance(value, str) and value))
    ]:
        raise Wrong(f"{', '.join(map(str, wrong))}: predict a number or a name")
    if len(made) < len(values):
        raise Wrong(
            f"{len(made)} of {len(values)} predicted, not yet {', '.join(map(str, values.keys() - made.keys()))}"
        )
    return Result("guess", "passed", f"predicted: {', '.join(f'{key} {value}' for key, value in made.items())}")


def _plain(text: str) -> str:
    """Text of unknown origin as one short line that does nothing to a terminal."""
    text = " ".join(paths.printable(text).split())
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text[:600]
    )
    return text if len(text) < 600 else f"{text[:600]}..."


def passed(record: dict[str, Any]) -> bool:
    return not record["error"] and all(row["status"] == "passed" for row in record["exercises"])


def tell(records: Iterable[dict[str, Any]], form: str | None, *, brief: bool) -> bool:
    """Print records, each as it comes (`as_text`), or all of them as "json" or "csv"; returns whether all passed."""
    told = []
    for record in records:
        told.append(record)
        if form is None:
            click.echo(as_text(record, brief=brief))
    if form is not None:
        click.echo(as_json(told) if form == "json" else as_csv(told).rstrip())
    return all(map(passed, told))


def as_text(record: dict[str, Any], *, brief: bool) -> str:
    """A record for people. brief: one line, a mark an exercise."""
    if record["error"]:
        return f"! {record['error']}"
    rows = record["exercises"]
    good = sum(row["status"] == "passed" for row in rows)
    marks = "".join(MARKS[row["status"]] for row in rows)
    if brief:
        return f"{marks:<12} {good} of {len(rows)}  {record['lesson']}  {record['file']}"
    lines = [f"  {MARKS[row['status']]} {row['title'] or row['exercise']}: {row['message']}" for row in rows]
    return "\n".join([f"{record['file']}: {good} of {len(rows)} passed ({record['lesson']})", *lines])


def as_json(records: list[dict[str, Any]]) -> str:
    return json.dumps([record | {"passed": passed(record)} for record in records], indent=1)


def as_csv(records: list[dict[str, Any]]) -> str:
    """Records as a table, a row an exercise. No cell begins as a formula would, which spreadsheets execute."""
    columns = ("file", "lesson", "exercise", "title", "status", "message")
    writer = csv.writer(text := io.StringIO(), lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        for row in record["exercises"] or [{"status": "error", "message": record["error"]}]:
            cells = [str((record | row).get(column, "")).replace("\r", " ") for column in columns]
            writer.writerow([f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") else cell for cell in cells])
    return text.getvalue()
