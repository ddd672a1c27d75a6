"""A lesson's exercises, read from its cells: who asks, where the answer goes, what checks it, and what would be right.

An exercise is a code cell tagged `exercise` (the stub: a function that returns nothing yet, or predictions that are
None), a text above it, and a hint and a solution in cells below, tagged so. A student's copy has no solutions.
"""

from __future__ import annotations

import ast
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from labutil.runs import parameters

_TITLE = re.compile(r"^(?:#+ |> \*\*)(Exercise \d[^\n(*]*)", flags=re.MULTILINE)
_LEVEL = re.compile(r"\(\d+ minutes, (easy|medium|hard)\)")


@dataclass(frozen=True)
class Exercise:
    """An exercise of a lesson."""

    name: str  # the check's, of `lab.checks`: "info_nce"; "guess" of predictions
    title: str  # "Exercise 3: the loss", as the text has it
    level: str  # easy, medium or hard
    answer: str  # what the student defines: "my_info_nce", "my_guess"
    stub: str  # the id of the cell in which it is defined
    code: str  # Python of the solution that defines the answer; "" where that is text alone, and in a student's copy

    @property
    def predicted(self) -> bool:
        """Whether the answer is a prediction, which only the lesson's own results can judge."""
        return self.name == "guess"


def exercises(notebook: Path) -> list[Exercise]:
    """The exercises of a lesson or of a copy of one, in order. Raises ParameterError for a file that is no notebook.

    Example:
        [e.answer for e in exercises(parameters.find_notebook("04"))]
    """
    return of_cells(parameters.read_cells(notebook))


def of_cells(cells: list[dict]) -> list[Exercise]:
    """As `exercises`, of a notebook's cells."""
    found, title, level = [], "", ""
    for place, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            title = (_TITLE.findall(source) or [title])[-1].strip(" :")
            level = (_LEVEL.findall(source) or [level])[-1]
        elif parameters.has_tag(cell, "exercise"):
            answer = next((name for name in defined(source) if name.startswith("my_")), None)
            if answer is None:  # a copy whose stub is no Python any more
                continue
            # The stub's cell has the check; of predictions a later one.
            name = next(filter(None, (_check_of("".join(c["source"]), answer) for c in cells)), "")
            below = itertools.takewhile(lambda c: not parameters.has_tag(c, "exercise"), cells[place + 1 :])
            solution = next((c["source"] for c in below if parameters.has_tag(c, "solution")), "")
            blocks = re.findall(r"```python\n(.*?)```", "".join(solution), re.DOTALL)
            code = next((block for block in blocks if answer in defined(block)), "")
            found.append(Exercise(name, title, level, answer, cell["id"], code))
    return found


def defined(source: str) -> list[str]:
    """Names that a cell's code defines at its top level, in order; [] where it is no Python.

    Example:
        defined("def f(): ...\\nx = f()")  # ["f", "x"]
    """
    names = []
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return names
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return names


def _check_of(source: str, answer: str) -> str:
    """The X of a cell's `lab.checks.X(...)` whose arguments mention the answer; "" where it has none."""
    calls = re.finditer(r"\blab\.checks\.(\w+)\((.*)", source)
    return next((call[1] for call in calls if re.search(rf"\b{answer}\b", source[call.start() :])), "")
