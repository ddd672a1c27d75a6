"""`labutil demo`: what it starts, and what it says where it cannot. Its pages: tests/browser."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from labutil.course import demo, demonstrations
from labutil.paths import DataError


def test_voila_is_started_on_this_machine_only_behind_a_token(monkeypatch):
    started = {}

    def run(command, env, check):
        notebook = next(word for word in command if word.endswith(".ipynb"))
        started.update(command=command, env=env, notebook=json.loads(Path(notebook).read_text()))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    demo.launch("04", port=8900, browser=False)
    assert {"--token", "--Voila.ip=127.0.0.1", "--port=8900", "--no-browser"} <= set(started["command"])
    (cell,) = started["notebook"]["cells"]
    assert "".join(cell["source"]).endswith("demonstrations.show('04', None)")
    template = started["env"]["JUPYTER_PATH"].split(":")[0]
    assert "http" not in Path(template, "voila", "templates", "labutil", "index.html.j2").read_text()


def test_it_says_what_is_missing(monkeypatch):
    with pytest.raises(DataError, match="no run 'nobody'"):
        demo.launch("04", "nobody")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'labutil\[demo\]'"):
        demo.launch("04")


def test_every_lesson_has_demonstrations_with_a_sentence_each():
    assert list(demonstrations.LESSONS) == [f"{k:02d}" for k in range(1, 8)]
    for make in demonstrations.LESSONS.values():
        for title, what, explorer in make(None):
            assert title and what.count(".") + what.count("?") == 1 and callable(explorer)
