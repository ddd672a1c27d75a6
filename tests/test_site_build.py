"""The site: its start page agrees with the lessons, and it builds without a warning, without an outside request."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
START = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
# What a browser fetches by itself: scripts, styles, pictures, frames; not the links that a reader may follow.
FETCHED = re.compile(r"""<(?:script|img|source|iframe|link)\b[^>]*\s(?:src|srcset|href)=["'](?:https?:)?//[^"']*["']""")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda p: p.stem[:2])
def test_start_page_has_a_card_with_the_lessons_title_picture_and_times(lesson):
    card = re.search(rf"^:::\{{grid-item-card\}} {lesson.name[:2]} · (.*?)^:::$", START, re.MULTILINE | re.DOTALL)[1]
    first = "".join(json.loads(lesson.read_text(encoding="utf-8"))["cells"][0]["source"])
    title, *lines = card.splitlines()
    assert first.startswith(f"# {title.rstrip('?').split(', and ')[0]}") or title.split(",")[0] in first
    assert f":link: ../notebooks/{lesson.stem}" in lines and any(line.startswith(":img-alt: ") for line in lines)
    assert "**Before it:**" in card
    learn, run = re.search(r"\*\*Time:\*\* (.*?) to learn, (.*?) to run", card).groups()
    words = {
        "110 min": "about 45 minutes to read, and 65 minutes",
        "2 h": "about two hours",
        "90 min": "an hour and a half",
    }
    assert words[learn] in first
    runs = {"1 min": "about a minute", "30 s": "half a minute"}.get(run, f"{run.split()[0]} seconds")
    assert runs in first


@pytest.mark.long
@pytest.mark.skipif(not find_spec("myst_nb"), reason="pip install -e '.[site]'")
def test_site_builds_from_committed_outputs_and_asks_for_nothing_from_elsewhere(tmp_path):
    """-W: a link inside the site that leads nowhere is an error."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-b", "html", "-q", "-W", "--keep-going"]
    command += ["-d", str(tmp_path / "trees"), ".", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert built.returncode == 0, built.stderr.decode()[-3000:]
    assert sum(p.stat().st_size for p in site.rglob("*") if p.is_file()) < 40e6
    for page in site.rglob("*.html"):
        assert not FETCHED.findall(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import\s+)['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")), style
    lesson = (site / "notebooks" / "04_simclr.html").read_text(encoding="utf-8")
    assert 'random encoder’s <span class="math' in lesson  # a formula in a reading
    assert "<pre>" not in lesson  # but with a tabindex: what scrolls can be reached by keyboard
    assert lesson.count("<details") > 20 and "trained ahead of random by" in lesson
