"""Assignments for nbgrader: what is in them, and nbgrader itself on all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import nbformat
import pytest
import yaml

from labutil import paths
from labutil.course import assignment, copies
from labutil.course.exercises import exercises
from labutil.runs import parameters

LESSONS = copies.lessons()
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def by_grade_id(path):
    """{nbgrader's name of a cell: (its metadata, its source)} of a notebook."""
    cells = [cell for cell in parameters.read_cells(path) if "nbgrader" in cell["metadata"]]
    return {c["metadata"]["nbgrader"]["grade_id"]: (c["metadata"]["nbgrader"], "".join(c["source"])) for c in cells}


@each_lesson
def test_a_source_assignment_has_cells_to_solve_locked_checks_with_points_and_a_question(lesson, tmp_path):
    (path,) = assignment.write([lesson], tmp_path)
    assert path == tmp_path / "source" / lesson.stem / lesson.name
    nbformat.validate(nbformat.read(path, 4))
    graded = by_grade_id(path)
    asked = [exercise for exercise in exercises(lesson) if not exercise.predicted]
    names = [
        name for exercise in asked for name in (f"{exercise.name}_answer", f"{exercise.name}_check", exercise.name)
    ]
    assert sorted(graded) == sorted([*names, "setup", "small", "written"])
    assert len(graded) == sum("nbgrader" in cell["metadata"] for cell in parameters.read_cells(path))
    for exercise in asked:
        own, answer = graded[f"{exercise.name}_answer"]
        assert (own["solution"], own["grade"], own["locked"]) == (True, False, False)
        before, inside = answer.split("    ### BEGIN SOLUTION\n")
        assert f"def {exercise.answer}(" in before and "return None" not in answer
        assert inside.endswith("\n    ### END SOLUTION")
        scope = {}
        exec(compile(answer, "answer", "exec"), {}, scope)
        assert exercise.answer in scope
        own, check = graded[f"{exercise.name}_check"]
        assert (own["solution"], own["grade"], own["locked"]) == (False, False, True)
        assert f"lab.checks.{exercise.name}({exercise.answer})" in check and "assert" not in check
        own, check = graded[exercise.name]
        assert (own["solution"], own["grade"], own["locked"]) == (False, True, True)
        assert own["points"] == {"easy": 1, "medium": 2, "hard": 3}[exercise.level]
        shown, hidden = check.split("### BEGIN HIDDEN TESTS")
        assert 'assert "NBGRADER_EXECUTION" not in os.environ or' in shown and "environ" not in hidden
    text = path.read_text()
    assert "<summary>Solution" not in text and text.count("<summary>Hint") == len(asked) + 1


@each_lesson
def test_while_nbgrader_grades_every_parameter_has_its_smoke_value(lesson, tmp_path, monkeypatch):
    (path,) = assignment.write([lesson], tmp_path)
    cells = parameters.read_cells(path)
    place = next(i for i, cell in enumerate(cells) if parameters.has_tag(cell, "parameters"))
    _, source = by_grade_id(path)["small"]
    assert "".join(cells[place + 1]["source"]) == source
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    mine, graded = {}, {}
    exec(source, mine)
    assert set(mine) == {"os", "tempfile", "warnings", "__builtins__"}  # a student's run keeps what the cell above says
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    exec(source, graded)
    values = parameters.plan(lesson, "smoke", {})
    assert {name: graded[name] for name in values} == values
    assert str(paths.runs_dir()) == graded["runs_of_grading"].name


def test_every_lesson_has_a_question_with_a_rubric():
    asked = yaml.safe_load(assignment.QUESTIONS.read_text())
    assert list(asked) == [lesson.stem for lesson in LESSONS]
    for entry in asked.values():
        assert "?" in entry["question"] and len(entry["rubric"]) >= 3
        assert sum(line["points"] for line in entry["rubric"]) == 4


def test_a_source_or_a_configuration_that_was_changed_stays(tmp_path):
    (path,) = assignment.write(LESSONS[:1], tmp_path)
    config = tmp_path / "nbgrader_config.py"
    config.write_text("c = get_config()\n")
    assignment.write(LESSONS[:1], tmp_path)
    path.write_text(path.read_text().replace("(4 points)", "(40 points)"))
    before = path.read_bytes()
    with pytest.raises(paths.DataError, match="was changed and stays as it is"):
        assignment.write(LESSONS, tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob("source/*"))) == 1
    assert config.read_text() == "c = get_config()\n"


def submit(course, student, lesson, answers):
    """A student's file: what was handed out, with {cell id: source} filled in."""
    document = json.loads((course / "release" / lesson.stem / lesson.name).read_text())
    for cell in document["cells"]:
        cell["source"] = answers.get(cell["id"], cell["source"])
    folder = course / "submitted" / student / lesson.stem
    folder.mkdir(parents=True)
    (folder / lesson.name).write_text(json.dumps(document))


@pytest.mark.long
@each_lesson
def test_nbgrader_hands_it_out_grades_three_students_and_exports_marks(lesson, tmp_path):
    pytest.importorskip("nbgrader", reason="needs the extra nbgrader: pip install -e '.[nbgrader]'")
    from nbgrader.api import Gradebook

    course, temporary = tmp_path / "course", tmp_path / "temporary"
    temporary.mkdir()
    folder = os.path.dirname(sys.executable)  # nbgrader starts alembic, of the same environment
    own = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(temporary), "MPLBACKEND": "Agg"}

    def nbgrader(*args):
        command = [sys.executable, "-m", "nbgrader", *args]
        done = subprocess.run(command, cwd=course, capture_output=True, text=True, env=os.environ | own, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    assignment.write([lesson], course)
    nbgrader("generate_assignment", lesson.stem)
    released = (course / "release" / lesson.stem / lesson.name).read_text()
    for secret in ("BEGIN SOLUTION", "HIDDEN TESTS", "assert graded", "Rubric", "<summary>Solution"):
        assert secret not in released
    asked = [exercise for exercise in exercises(lesson) if not exercise.predicted]
    first, second, *_ = asked
    right = {exercise.stub: exercise.code for exercise in asked}
    header = second.code[second.code.index("def ") :].splitlines()[0]
    submit(course, "all", lesson, right | {"written": "An answer in words."})
    submit(course, "some", lesson, {first.stub: first.code, second.stub: f"{header}\n    return 12.5"})
    submit(course, "nothing", lesson, {})
    if lesson.stem[:2] == "02":  # what a student's own button says
        told = {s: nbgrader("validate", f"submitted/{s}/{lesson.stem}/{lesson.name}") for s in ("all", "some")}
        assert "Success!" in told["all"] and "VALIDATION FAILED" in told["some"], told
    nbgrader("autograde", lesson.stem)
    nbgrader("generate_feedback", lesson.stem)
    nbgrader("export")

    points = {exercise.name: assignment.POINTS[exercise.level] for exercise in asked}
    wanted = {"all": points, "some": {first.name: points[first.name]}, "nothing": {}}
    rows = [line.split(",") for line in (course / "grades.csv").read_text().splitlines()]
    exported = {row[3]: (float(row[-2]), float(row[-1])) for row in rows[1:]}
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        for student, right in wanted.items():
            grades = book.find_submission_notebook(lesson.stem, lesson.stem, student).grades
            scores = {grade.name: grade.auto_score for grade in grades}
            # What was written waits for a person; an untouched answer is worth nothing.
            assert scores.pop("written") == (None if student == "all" else 0)
            assert scores == dict.fromkeys(points, 0) | right, student
            assert exported[student] == (sum(right.values()), sum(points.values()) + 4)
            page = course / "feedback" / student / lesson.stem / f"{lesson.stem}.html"
            assert len(page.read_text()) > 50_000
            done = parameters.read_cells(course / "autograded" / student / lesson.stem / lesson.name)
            failed = [c for c in done for output in c.get("outputs", []) if output["output_type"] == "error"]
            assert len(failed) == len(points) - len(right), [c["outputs"] for c in failed]
            assert all("graded.message" in "".join(cell["source"]) for cell in failed)
    assert not paths.runs_dir().exists() and not list(temporary.glob("**/run.json"))
