"""docs/teaching.md says of the lessons what they hold: sections, figures, numbers, minutes, exercises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
CHAPTERS = {m[1]: m[2] for m in re.finditer(r"^## Lesson (\d\d): (.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?%?")


def _cells(number: str) -> list[dict]:
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _said(number: str) -> str:
    """What a lesson says, in its text and in its committed outputs, without markup and pictures."""
    parts = []
    for cell in _cells(number):
        parts.append("".join(cell["source"]) if cell["cell_type"] == "markdown" else "")
        for output in cell.get("outputs", []):
            kinds = output.get("data", {})
            parts += ["".join(output.get("text", "")), *("".join(kinds.get(k, "")) for k in kinds if k[:5] == "text/")]
    text = re.sub(r'"data:[^"]*"', "", "\n".join(parts))
    return re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)


def _rows(chapter: str, title: str) -> list[list[str]]:
    table = re.search(rf"\*\*{title}.*?\n\n((?:\|.*\n)+)", chapter)[1].splitlines()[2:]
    return [[part.strip() for part in row.strip("|").split("|")] for row in table]


def test_every_lesson_has_its_chapter():
    assert [*CHAPTERS] == ["01", "02", "03", "04", "05", "06", "07"]
    parts = ("The one idea", "Before it", "Plan for 90 minutes", "Show live", "Misconceptions", "Discussion",
             "Expected figures", "Rubric", "Concept questions")  # fmt: skip
    for number, chapter in CHAPTERS.items():
        assert all(f"**{part}" in chapter for part in parts), number


@pytest.mark.parametrize("number", CHAPTERS)
def test_plans_take_ninety_minutes_of_sections_that_are_there(number):
    headings = "\n".join("".join(c["source"]) for c in _cells(number) if c["cell_type"] == "markdown")
    sections, exercises = (set(re.findall(p, headings, re.MULTILINE)) for p in (r"^## (\d+)\.", r"xercise (\d+)"))
    plan = _rows(CHAPTERS[number], "Plan for 90 minutes")
    assert sum(int(minutes) for minutes, *_ in plan) == 90
    assert {section for _, section, _ in plan} <= sections
    assert set(re.findall(r"exercises? (\d+)", CHAPTERS[number])) <= exercises


@pytest.mark.parametrize("number", CHAPTERS)
def test_expected_figures_are_those_that_the_lesson_shows(number):
    said, section, shown = set(NUMBER.findall(_said(number))), "", set()
    for cell in _cells(number):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = (re.findall(r"^## (\d+)\.", source, re.MULTILINE) or [section])[-1]
        shown |= {(name, section) for name in re.findall(r'"(\w+)"', source)}
        shown |= {("tsne_imagenet", section)} if 'f"tsne_{' in source else set()
    for figure, words in _rows(CHAPTERS[number], "Expected figures"):
        assert re.fullmatch(r"`(\w+)`, section (\d+)", figure).groups() in shown, figure
        missing = [n for n in NUMBER.findall(words) if len(n) > 2 and n not in said]
        assert not missing, f"{figure}: not in the lesson's outputs: {missing}"


@pytest.mark.parametrize("number", CHAPTERS)
def test_numbers_elsewhere_in_a_chapter_are_the_lessons(number):
    """Percentages, and numbers with decimals, in what is asked and discussed; concept questions make up their own."""
    said = set(NUMBER.findall(_said(number)))
    for part in ("Misconceptions", "Discussion"):
        text = re.search(rf"\*\*{part}.*?(?=\n\*\*)", CHAPTERS[number], re.DOTALL)[0]
        missing = [n for n in re.findall(r"\d[\d,]*\.\d+%?|\d+%", text) if n not in said]
        assert not missing, f"{part}: not in the lesson: {missing}"


def test_explorers_that_are_shown_exist():
    """`labutil demo NN` is told of lessons that have explorers."""
    for number in set(re.findall(r"labutil demo (\d\d)", PAGE)):
        assert any("lab.explore." in "".join(c["source"]) for c in _cells(number)), number
