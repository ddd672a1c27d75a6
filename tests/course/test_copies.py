"""Copies of lessons: what a student gets and a teacher, that both run, and that no work is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat
import pytest
from click.testing import CliRunner

from labutil import cli, paths
from labutil.course import copies, grading
from labutil.course.exercises import exercises
from labutil.runs import parameters

LESSONS = copies.lessons()
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def call(*args):
    return CliRunner().invoke(cli.main, list(map(str, args)))


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def code(path):
    return ["".join(cell["source"]) for cell in parameters.read_cells(path) if cell["cell_type"] == "code"]


@each_lesson
def test_a_students_copy_is_the_lesson_without_solutions_and_outputs(lesson, tmp_path):
    """Its code is the lesson's, cell by cell, which `make test` executes at smoke size with nothing solved."""
    (copy,) = copies.start([lesson], tmp_path)
    nbformat.validate(nbformat.read(copy, 4))
    assert code(copy) == code(lesson)
    assert all(not cell["outputs"] for cell in parameters.read_cells(copy) if cell["cell_type"] == "code")
    texts = ["".join(cell["source"]) for cell in parameters.read_cells(copy)]
    assert not any("<summary>Solution" in text or "colab.research.google" in text for text in texts)
    assert sum("<summary>Hint" in text for text in texts) == len(exercises(lesson))
    assert texts[0].startswith("# ")
    assert parameters.read_parameters(copy) == parameters.read_parameters(lesson)


@each_lesson
def test_a_teachers_copy_has_every_exercise_solved(lesson, tmp_path):
    (copy,) = copies.start([lesson], tmp_path, solutions=True)
    assert copy.name == f"{lesson.stem}-solutions.ipynb"
    nbformat.validate(nbformat.read(copy, 4))
    cells = {cell["id"]: "".join(cell["source"]) for cell in parameters.read_cells(copy)}
    before = {cell["id"]: "".join(cell["source"]) for cell in parameters.read_cells(lesson)}
    found = [exercise for exercise in exercises(lesson) if exercise.code]
    for exercise in found:
        assert exercise.code.strip() in cells[exercise.stub]
        assert "return None" not in cells[exercise.stub]
        assert before[exercise.stub].splitlines()[-1] == cells[exercise.stub].splitlines()[-1]
        compile(cells[exercise.stub], "stub", "exec")
    assert set(code(copy)) - set(code(lesson)) == {cells[exercise.stub] for exercise in found}
    assert sum("<summary>Solution" in text for text in cells.values()) == len(found) + 1


@pytest.mark.long
@pytest.mark.parametrize("solutions", [False, True], ids=["unsolved", "solved"])
@each_lesson
def test_copies_run_top_to_bottom(lesson, solutions, tmp_path):
    """From their own folder, by their path, and later cells use what passed."""
    (copy,) = copies.start([lesson], tmp_path / "work", solutions=solutions)
    done = subprocess.run(
        [sys.executable, "-m", "labutil", "run", copy, "--recipe", "smoke", "--out", tmp_path / "runs"],
        capture_output=True, text=True, check=False, cwd=copy.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (executed,) = tmp_path.glob(f"runs/{copy.stem}/*/notebook.ipynb")
    printed = executed.read_text()
    for exercise in exercises(lesson):
        if not exercise.predicted:
            mark = "✓" if solutions else "○"
            assert f"{mark} {exercise.name}: " in printed
    assert ("uses yours" in printed) == solutions
    assert ("uses its own" in printed) != solutions


def test_links_lead_to_copies_where_there_are_some_and_else_to_the_lessons(tmp_path):
    folder = tmp_path / "a class" / "work"
    (alone,) = copies.start(LESSONS[3:4], folder)
    assert f"]({os.path.relpath(parameters.NOTEBOOKS, folder)}/05_supcon.ipynb)" in text_of(alone)
    for path in copies.start(LESSONS, folder):
        links = set(copies._LINK.findall(text_of(path)))
        assert links and {name for name, _ in links} <= {path.name for path in LESSONS}
    (alone,) = copies.start(LESSONS[3:4], folder)  # untouched, so it may be written anew
    assert "](05_supcon.ipynb)" in text_of(alone)


def text_of(path):
    return "\n".join("".join(c["source"]) for c in parameters.read_cells(path) if c["cell_type"] == "markdown")


def solve(document):
    for cell in document["cells"]:
        cell["source"] = "".join(cell["source"]).replace("return None  # your code", "return 1").splitlines(True)


def execute(document):
    next(cell for cell in document["cells"] if cell["cell_type"] == "code")["execution_count"] = 1


def add(document):
    document["cells"].append({"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "A note."})


def save(document):
    """As a front end does that was opened and closed: lines as lists, metadata of its own."""
    for cell in document["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(True)
        cell["metadata"]["collapsed"] = False
    document["metadata"]["language_info"] = {"name": "python", "version": "3.13.1"}


@pytest.mark.parametrize("work", [solve, execute, add], ids=lambda work: work.__name__)
def test_a_file_with_work_in_it_is_never_written_over(work, tmp_path):
    assert call("start", "02", tmp_path).exit_code == 0
    path = tmp_path / "02_supervised_baseline.ipynb"
    change(path, work)
    before = path.read_bytes()
    refused = call("start", "02", tmp_path)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "has work in it and stays as it is" in refused.stderr and "02_supervised_baseline-2.ipynb" in refused.stderr
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    for number in (2, 3):
        assert call("start", "02", tmp_path, "--fresh").exit_code == 0
        assert not copies.has_work(tmp_path / f"02_supervised_baseline-{number}.ipynb")
        change(tmp_path / f"02_supervised_baseline-{number}.ipynb", work)
    told = call("start", "all", tmp_path)
    assert told.exit_code == 0 and told.stdout.count("stays as it is") == 1
    assert path.read_bytes() == before
    assert {f"{lesson.stem}.ipynb" for lesson in LESSONS} < {file.name for file in tmp_path.iterdir()}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"cells": 3}', b"\xff", b'{"cells": [], "metadata": {}}'])
def test_a_file_that_is_no_copy_counts_as_work(content, tmp_path):
    path = tmp_path / "01_data_cleaning.ipynb"
    path.write_bytes(content)
    with pytest.raises(paths.DataError, match="has work in it"):
        copies.start(LESSONS[:1], tmp_path)
    assert path.read_bytes() == content


def test_an_untouched_copy_is_brought_up_to_date(tmp_path):
    (path,) = copies.start(LESSONS[:1], tmp_path)
    fresh, when = path.read_bytes(), path.stat().st_mtime_ns
    copies.start(LESSONS[:1], tmp_path)
    assert path.stat().st_mtime_ns == when  # nothing to say, nothing written
    change(path, save)
    assert not copies.has_work(path)
    copies.start(LESSONS[:1], tmp_path)
    assert path.read_bytes() == fresh
    older = copies.read(LESSONS[0])
    copies.write(path, older | {"cells": older["cells"][:-1]})
    copies.start(LESSONS[:1], tmp_path)
    assert path.read_bytes() == fresh


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    (copy,) = copies.start(LESSONS[:1], tmp_path)
    for args in (("04", tmp_path / "file"), ("04", tmp_path / "file" / "below"), ("44",), (copy, tmp_path / "other")):
        refused = call("start", *args)
        assert refused.exit_code == 2 and "Traceback" not in refused.output
    assert call("start", "04", tmp_path, "--nbgrader", tmp_path).exit_code == 2
    assert not (tmp_path / "other").exists()


def test_a_copy_has_the_lessons_recipes(tmp_path):
    (path,) = copies.start(LESSONS[3:4], tmp_path)
    for name in ("04_simclr.ipynb", "04_simclr-2.ipynb", "04_simclr-solutions.ipynb"):
        assert parameters.read_recipe(path.rename(tmp_path / name), "smoke")["dataset"] == "cells:600"
        path = tmp_path / name


def test_where_there_is_no_workbook_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(grading, "_lessons", grading._lessons.__wrapped__)  # which would remember them
    (tmp_path / "mine.ipynb").write_text('{"cells": []}')
    for args in (("start", "all", tmp_path / "new"), ("grade", tmp_path / "mine.ipynb"), ("run", "all"), ("lab",)):
        result = call(*args)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1), args
        assert f"{tmp_path} holds no workbook" in result.stderr
    assert not (tmp_path / "new").exists()
