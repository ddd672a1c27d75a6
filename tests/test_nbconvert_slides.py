"""`jupyter nbconvert --to slides` makes sensible slides of a lesson: heads, figures, readings; no hints, no set-up."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import SlidesExporter

LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("[0-9]*.ipynb"))


def _kind(cell: nbformat.NotebookNode) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem[:2])
def test_heads_begin_slides_figures_follow_and_answers_stay_away(lesson):
    for cell in nbformat.read(lesson, as_version=4).cells:
        tags, source = set(cell.metadata.get("tags", [])), cell.source
        pictures = any("<img" in o.get("data", {}).get("text/html", "") for o in cell.get("outputs", []))
        if cell.cell_type == "markdown" and re.search(r"^##? ", source, re.MULTILINE):
            assert _kind(cell) == "slide", source[:80]
        elif tags & {"hint", "solution", "parameters"}:
            assert _kind(cell) == "skip", source[:80]
        elif pictures:
            assert _kind(cell) == "subslide", source[:80]
        else:
            assert _kind(cell) in {"subslide", "fragment", "skip", "notes"}, source[:80]


def test_slides_are_built_and_leave_solutions_out():
    html, _ = SlidesExporter(exclude_input=True).from_filename(str(LESSONS[3]))
    heads = len(re.findall(r"<h2 id", html))
    assert html.count("<section") > 2 * heads > 10
    assert "Hint</summary>" not in html and "my_info_nce" not in html.split('<div class="slides">')[1]
    assert "What is minimised?" in html
