"""Copies of lessons: a student's, without solutions and outputs, to work in; a teacher's, with the exercises solved."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import re
import textwrap
from collections.abc import Collection
from pathlib import Path

from labutil import paths
from labutil.course.exercises import Exercise, of_cells
from labutil.runs import parameters

WORK = paths.project_root() / "work"
_BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)\n*")  # it opens the lesson, which has the solutions
_LINK = re.compile(r"\]\((\w+\.ipynb)(#[^)]*)?\)")


def lessons(name: str = "all") -> list[Path]:
    """The workbook's notebooks, in order, or the one of this number or name. Raises ParameterError for any other, and
    DataError where there is no workbook."""
    paths.check_workbook()
    found = sorted(parameters.NOTEBOOKS.glob("[0-9]*.ipynb"))
    if name == "all":
        return found
    chosen = parameters.find_notebook(name)
    if chosen not in [path.resolve() for path in found]:
        raise parameters.ParameterError(f"{name} is no lesson: give one of {', '.join(path.stem for path in found)}")
    return [chosen]


def start(
    notebooks: list[Path], folder: Path, *, solutions: bool = False, fresh: bool = False, keep: bool = False
) -> dict[Path, bool]:
    """Write copies of lessons into a folder, which is made; return {path: whether it is a new copy, not kept work}.

    A student's copy NAME.ipynb has no solutions and no outputs; hints stay. solutions: NAME-solutions.ipynb, a
    teacher's, in which every exercise is solved and the solutions' texts stay. Where a file has work in it: fresh
    writes NAME-2.ipynb (-3, ...) beside it, keep leaves it alone, and otherwise DataError is raised before anything is
    written.

    Example:
        start([parameters.find_notebook("04")], copies.WORK)
    """
    targets = {notebook: folder / f"{notebook.stem}{'-solutions' * solutions}.ipynb" for notebook in notebooks}
    worked = {notebook: path for notebook, path in targets.items() if path.exists() and has_work(path)}
    for notebook, path in worked.items():
        other = _free(path)
        if not fresh and not keep:
            raise paths.DataError(
                f"{path} has work in it and stays as it is: --fresh writes {other.name} beside it, or name another "
                "folder"
            )
        targets[notebook] = other if fresh else path
    paths.make_folder(folder)
    written = {path: fresh or notebook not in worked for notebook, path in targets.items()}
    for notebook, path in targets.items():
        if written[path]:
            document = read(notebook)
            cells = solved(document["cells"]) if solutions else unsolved(document["cells"])
            write(path, document | {"cells": linked(cells, folder, [path.name for path in targets.values()])})
    return written


def has_work(path: Path) -> bool:
    """Whether somebody changed or executed a copy since it was written. A file that is no copy counts as work."""
    try:
        document = json.loads(path.read_bytes())
        ran = any(cell.get("outputs") or cell.get("execution_count") for cell in document["cells"])
        return ran or document["metadata"]["labutil"]["sources"] != _digest(document["cells"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return True


def read(notebook: Path) -> dict:
    """A lesson as JSON, without outputs."""
    cells = []
    for cell in parameters.read_cells(notebook):
        emptied = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        cells.append(cell | emptied | {"source": "".join(cell["source"])})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "labutil": {"lesson": notebook.stem}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def unsolved(cells: list[dict]) -> list[dict]:
    """A lesson's cells without its solutions, and without the button that would open them."""
    kept = [cell for cell in cells if not parameters.has_tag(cell, "solution")]
    return [cell | {"source": _BADGE.sub("", cell["source"])} for cell in kept]


def solved(cells: list[dict]) -> list[dict]:
    """A lesson's cells with each stub replaced by the solution's code."""
    by_stub = {exercise.stub: exercise for exercise in of_cells(cells) if exercise.code}
    return [
        cell | {"source": with_answer(cell["source"], by_stub[cell["id"]])} if cell["id"] in by_stub else cell
        for cell in cells
    ]


def with_answer(source: str, exercise: Exercise) -> str:
    """A stub's cell with the solution in the place of its function; what calls the check stays."""
    above, _, below = split(source, exercise.answer)
    return "\n\n\n".join(part for part in (above, exercise.code.strip(), below) if part)


def split(source: str, answer: str) -> tuple[str, str, str]:
    """A stub's cell as text above the function that is asked for, the function, and text below it, which checks it."""
    lines = source.splitlines()
    function = next(node for node in ast.parse(source).body if getattr(node, "name", None) == answer)
    parts = lines[: function.lineno - 1], lines[function.lineno - 1 : function.end_lineno], lines[function.end_lineno :]
    above, own, below = ("\n".join(part).strip("\n") for part in parts)
    return above, own, below


def body(code: str, answer: str) -> str:
    """What a solution writes inside the function that is asked for; its imports come first, inside as well."""
    tree = ast.parse(code)
    function = next(node for node in tree.body if getattr(node, "name", None) == answer)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    own = code.splitlines()[function.body[0].lineno - 1 : function.end_lineno]
    return "\n".join([*textwrap.indent("\n".join(imports), "    ").splitlines(), *own])


def linked(cells: list[dict], folder: Path, written: Collection[str]) -> list[dict]:
    """Cells whose links to other lessons lead to their copies in this folder, else to the lessons themselves."""

    def target(match: re.Match) -> str:
        name, place = match[1], match[2] or ""
        if name not in written and not (folder / name).exists() and (parameters.NOTEBOOKS / name).exists():
            name = Path(os.path.relpath(parameters.NOTEBOOKS / name, folder.resolve())).as_posix()
        return f"]({name}{place})"

    texts = {id(cell): cell["source"] for cell in cells if cell["cell_type"] == "markdown"}
    return [cell | {"source": _LINK.sub(target, texts[id(cell)])} if id(cell) in texts else cell for cell in cells]


def write(path: Path, document: dict) -> None:
    """Write a notebook, whole or not at all; it remembers its sources, so that work in it is found."""
    metadata = document["metadata"]
    metadata = metadata | {"labutil": metadata["labutil"] | {"sources": _digest(document["cells"])}}
    data = (json.dumps(document | {"metadata": metadata}, indent=1, ensure_ascii=False) + "\n").encode()
    if not path.exists() or path.read_bytes() != data:  # a front end that has it open asks about every change
        paths.replace_file(path, lambda temporary: temporary.write_bytes(data))


def _digest(cells: list[dict]) -> str:
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _free(path: Path) -> Path:
    others = (path.with_name(f"{path.stem}-{n}.ipynb") for n in itertools.count(2))
    return next(other for other in others if not other.exists())
