"""A lesson as an assignment for nbgrader (0.9.6): stubs to solve, locked cells that check them, a written question.

nbgrader hands it out without solutions, runs what comes back, and adds up points. The checks then run beside the
student's code, as everywhere in nbgrader, so run `nbgrader autograde` in a container where marks matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from labutil import paths
from labutil.course import copies
from labutil.course.exercises import Exercise, of_cells
from labutil.runs import parameters

POINTS = {"easy": 1, "medium": 2, "hard": 3}  # an exercise's, by how hard its text says it is
QUESTIONS = parameters.NOTEBOOKS / "questions.yaml"
_CONFIG = """# Settings of nbgrader for this course: `nbgrader --help-all` lists the others.
c = get_config()  # noqa: F821 (nbgrader defines it)
c.Execute.timeout = 600  # seconds a cell may take; a lesson takes half a minute, on a slow machine more
"""


def write(notebooks: list[Path], course: Path) -> list[Path]:
    """Write source/NAME/NAME.ipynb of each lesson into an nbgrader course folder, and a configuration where it has
    none. Raises DataError, before anything is written, where one of the files was changed since it was written."""
    targets = {notebook: course / "source" / notebook.stem / notebook.name for notebook in notebooks}
    for path in targets.values():
        if path.exists() and copies.has_work(path):
            raise paths.DataError(f"{path} was changed and stays as it is: move it away, or name another course folder")
    for notebook, path in targets.items():
        document = copies.read(notebook)
        cells = copies.linked(source_cells(notebook, document["cells"]), path.parent, [])
        paths.make_folder(path.parent)
        copies.write(path, document | {"cells": cells})
    if not (config := course / "nbgrader_config.py").exists():
        paths.replace_file(config, lambda temporary: temporary.write_text(_CONFIG, encoding="utf-8"))
    return list(targets.values())


def source_cells(notebook: Path, cells: list[dict]) -> list[dict]:
    """An assignment's cells, of a lesson's: see the module. Predictions carry no points, since they are no answers."""
    by_stub = {exercise.stub: exercise for exercise in of_cells(cells) if exercise.code}
    setup = next(cell["id"] for cell in cells if cell["cell_type"] == "code")
    made = []
    for cell in copies.unsolved(cells):
        if cell["source"].startswith("## Summary"):
            made.append(_written(notebook.stem))
        if cell["id"] in by_stub:
            made += _exercise(cell, by_stub[cell["id"]])
        else:
            made.append(_graded(cell, "setup", locked=True) if cell["id"] == setup else cell)
        if parameters.has_tag(cell, "parameters"):
            made.append(_small(notebook))
    return made


def _exercise(cell: dict, exercise: Exercise) -> list[dict]:
    """A stub as three cells: one to solve; the check that was below it, locked; and one with the points, locked."""
    above, stub, check = copies.split(cell["source"], exercise.answer)
    inside = stub.splitlines()[:-1]  # all but `return None`
    region = ["    ### BEGIN SOLUTION", copies.body(exercise.code, exercise.answer), "    ### END SOLUTION"]
    answer = "\n".join([*([above] if above else []), *inside, *region])
    passed = 'graded.status == "passed", graded.message'
    counted = (
        "# What is not solved is an error to nbgrader alone; you can run all cells.",
        f"graded = lab.checks.{exercise.name}({exercise.answer})",
        f'assert "NBGRADER_EXECUTION" not in os.environ or {passed}',
        *("### BEGIN HIDDEN TESTS", f"assert {passed}", "### END HIDDEN TESTS"),
    )
    tags = [tag for tag in cell["metadata"]["tags"] if tag != "exercise"]
    checked = cell | {"id": f"{cell['id']}-check", "source": check, "metadata": {"tags": tags}}
    points = checked | {"id": f"{cell['id']}-points", "source": "\n".join(counted)}
    return [
        _graded(cell | {"source": answer}, f"{exercise.name}_answer", solution=True),
        _graded(checked, f"{exercise.name}_check", locked=True),
        _graded(points, exercise.name, grade=True, locked=True, points=POINTS[exercise.level]),
    ]


def _written(lesson: str) -> dict:
    """The lesson's question to answer in words. A person marks it by the rubric, which is not handed out."""
    asked = yaml.safe_load(QUESTIONS.read_text(encoding="utf-8"))[lesson]
    points = sum(line["points"] for line in asked["rubric"])
    rubric = [f"- {line['points']}: {line['for']}" for line in asked["rubric"]]
    text = [f"### In your own words ({points} points)\n", asked["question"].strip(), "\n### BEGIN SOLUTION"]
    text += ["**Rubric**, a line for each thing that the answer says:\n", *rubric, "### END SOLUTION"]
    cell = {"cell_type": "markdown", "id": "written", "metadata": {}, "source": "\n".join(text)}
    return _graded(cell, "written", grade=True, solution=True, points=points)


def _small(notebook: Path) -> dict:
    """The cell below the parameters: while nbgrader grades, the lesson runs at smoke size, whatever stands above, and
    its runs go to a folder that vanishes with the kernel."""
    values = parameters.plan(notebook, "smoke", {})
    lines = [
        "# While nbgrader grades or validates, the lesson is small, and leaves nothing behind.",
        *("import os", "import tempfile", "import warnings", "", 'if "NBGRADER_EXECUTION" in os.environ:'),
        '    warnings.simplefilter("ignore")  # in a check it would count as an error',
        "    runs_of_grading = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)",
        '    os.environ["LABUTIL_RUNS"] = runs_of_grading.name',
        *(f"    {name} = {value!r}" for name, value in values.items()),
    ]
    cell = {"cell_type": "code", "id": "small", "metadata": {}, "source": "\n".join(lines)}
    return _graded(cell | {"outputs": [], "execution_count": None}, "small", locked=True)


def _graded(cell: dict, name: str, **roles: Any) -> dict:
    """A cell with nbgrader's metadata (its schema 3). roles: grade, solution, locked, False where they are not named;
    and points."""
    own = {"schema_version": 3, "grade_id": name, "cell_type": cell["cell_type"]}
    own |= dict.fromkeys(("grade", "solution", "locked", "task"), False) | roles
    return cell | {"metadata": cell["metadata"] | {"nbgrader": own}}
