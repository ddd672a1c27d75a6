"""A lesson's exercises, as they are read from its cells."""

from __future__ import annotations

import re

import pytest

from labutil import checks
from labutil.course import copies
from labutil.course.exercises import defined, exercises
from labutil.runs import parameters

TAGS = ("exercise", "hint", "solution")


@pytest.mark.parametrize("lesson", copies.lessons(), ids=lambda path: path.stem)
def test_every_exercise_is_read_with_all_that_belongs_to_it(lesson):
    cells = {cell["id"]: "".join(cell["source"]) for cell in parameters.read_cells(lesson)}
    found = exercises(lesson)
    kinds = [tag for cell in parameters.read_cells(lesson) for tag in TAGS if parameters.has_tag(cell, tag)]
    assert kinds == [*TAGS] * len(found)
    for tag in ("hint", "solution"):
        texts = [cells[cell["id"]] for cell in parameters.read_cells(lesson) if parameters.has_tag(cell, tag)]
        assert all(f"<summary>{tag.capitalize()}</summary>" in text for text in texts)
    minutes = re.findall(r"\((\d+) minutes, (?:easy|medium|hard)\)", "\n".join(cells.values()))
    assert minutes and all(int(number) >= 3 for number in minutes)
    stubs = [cell for cell in parameters.read_cells(lesson) if parameters.has_tag(cell, "exercise")]
    assert [exercise.stub for exercise in found] == [cell["id"] for cell in stubs]
    assert len({exercise.name for exercise in found}) == len(found) >= 4
    for exercise in found:
        assert exercise.title.startswith("Exercise ")
        assert exercise.level in {"easy", "medium", "hard"}
        assert callable(getattr(checks, exercise.name))
        assert exercise.answer in defined(cells[exercise.stub])
        call = rf"lab\.checks\.{exercise.name}\(.*\b{exercise.answer}\b"
        checked = {cell for cell, source in cells.items() if re.search(call, source, re.DOTALL)}
        assert checked if exercise.predicted else checked == {exercise.stub}
        # A prediction has no code that is right; every other answer has.
        assert exercise.predicted == (not exercise.code)
        assert exercise.predicted or exercise.answer in defined(exercise.code)
    assert [exercise.predicted for exercise in found] == [True] + [False] * (len(found) - 1)


def test_an_exercise_of_lesson_04_and_of_its_copy(tmp_path):
    found = exercises(parameters.find_notebook("04"))
    assert [exercise.name for exercise in found] == ["guess", "info_nce", "stop_gradient", "temperature_sweep"]
    assert (found[1].title, found[1].level, found[1].answer) == ("Exercise 2: implement", "medium", "my_info_nce")
    sources = ["".join(cell["source"]) for cell in parameters.read_cells(parameters.find_notebook("04"))]
    assert any("Exercise 2: implement" in text and "(15 minutes, medium)" in text for text in sources)
    assert sum("lab.checks.guess(" in text for text in sources) == 4
    (copy,) = copies.start([parameters.find_notebook("04")], tmp_path)
    hints = [
        [c["id"] for c in parameters.read_cells(path) if parameters.has_tag(c, "hint")]
        for path in (copy, parameters.find_notebook("04"))
    ]
    assert hints[0] == hints[1]
    mine = exercises(copy)
    assert [(e.name, e.stub, e.code) for e in mine] == [(e.name, e.stub, "") for e in found]


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
