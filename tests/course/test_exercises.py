"""A lesson's exercises, as they are read from its cells."""

from __future__ import annotations

import pytest

from labutil import checks
from labutil.course import copies
from labutil.course.exercises import defined, exercises
from labutil.runs import parameters


@pytest.mark.parametrize("lesson", copies.lessons(), ids=lambda path: path.stem)
def test_every_exercise_is_read_with_all_that_belongs_to_it(lesson):
    cells = {cell["id"]: "".join(cell["source"]) for cell in parameters.read_cells(lesson)}
    found = exercises(lesson)
    stubs = [cell for cell in parameters.read_cells(lesson) if parameters.has_tag(cell, "exercise")]
    assert [exercise.stub for exercise in found] == [cell["id"] for cell in stubs]
    assert len({exercise.name for exercise in found}) == len(found) >= 4
    order = list(cells)
    for exercise in found:
        assert exercise.title.startswith("Exercise ") and exercise.minutes >= 3
        assert exercise.level in {"easy", "medium", "hard"}
        assert callable(getattr(checks, exercise.name))
        assert exercise.answer in defined(cells[exercise.stub])
        for cell in exercise.checks:
            assert f"lab.checks.{exercise.name}(" in cells[cell] and exercise.answer in cells[cell]
        assert "<summary>Hint</summary>" in cells[exercise.hint]
        assert "<summary>Solution</summary>" in cells[exercise.solution]
        below = [order.index(cell) for cell in (exercise.hint, exercise.solution)]
        assert order.index(exercise.stub) < min(below)
        # A prediction has no code that is right; every other answer has.
        assert exercise.predicted == (not exercise.code)
        assert exercise.predicted or exercise.answer in defined(exercise.code)
    assert [exercise.predicted for exercise in found] == [True] + [False] * (len(found) - 1)


def test_an_exercise_of_lesson_04_and_of_its_copy(tmp_path):
    found = exercises(parameters.find_notebook("04"))
    assert [exercise.name for exercise in found] == ["guess", "info_nce", "stop_gradient", "temperature_sweep"]
    assert (found[1].title, found[1].minutes, found[1].level) == ("Exercise 2: implement", 15, "medium")
    assert (found[1].answer, found[1].checks) == ("my_info_nce", (found[1].stub,))
    assert len(found[0].checks) == 4
    (copy,) = copies.start([parameters.find_notebook("04")], tmp_path)
    mine = exercises(copy)
    assert [(e.name, e.stub, e.hint, e.checks) for e in mine] == [(e.name, e.stub, e.hint, e.checks) for e in found]
    assert {(e.solution, e.code) for e in mine} == {(None, "")}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f():\n    x = 1\n\n\ny: int = 2", ["f", "y"]),
        ("a, (b, c) = d = 1, (2, 3)", ["a", "b", "c", "d"]),
        ("!pip install x", []),
        ("x = '\0'", []),
    ],
)
def test_names_that_a_cell_defines(source, names):
    assert defined(source) == names
