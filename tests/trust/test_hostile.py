"""Submissions that do not want to be graded: none passes, stops the others, or leaves anything behind."""

from __future__ import annotations

import ast
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labutil.course import contained, grading
from labutil.paths import DataError
from labutil.runs import parameters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")

RIGHT = """
def my_macro_f1(confusion):
    hits = confusion.diag()
    return (2 * hits / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)).mean()
"""
SOURCE = (Path(__file__).parent / "hostile.py").read_text(encoding="utf-8")
BEFORE, *_ = SOURCE.partition("\n\n\ndef ")
ATTACKS = {node.name: ast.get_source_segment(SOURCE, node) for node in ast.parse(SOURCE).body if hasattr(node, "name")}


def notebook(*cells, lesson="02_supervised_baseline", outputs=()):
    cells = [{"cell_type": "code", "metadata": {}, "source": source, "outputs": list(outputs)} for source in cells]
    return json.dumps({"cells": cells, "metadata": {"labutil": {"lesson": lesson}}, "nbformat": 4, "nbformat_minor": 5})


def attack(name, here="", port=0):
    """Cells of a submission: imports, and the attack as the answer."""
    known = f"HERE, PORT, LESSONS = {str(here)!r}, {port}, {str(parameters.NOTEBOOKS)!r}"
    code = BEFORE.replace('HERE, PORT, LESSONS = "", 0, ""', known)
    return code, ATTACKS[name].replace(f"def {name}(", "def my_macro_f1(", 1)


def of_grading():
    """Ids of processes that run for a grader."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found |= {int(folder.name)} if b"contained.keep" in (folder / "cmdline").read_bytes() else set()
        except OSError:
            continue
    return found


def everything(*folders):
    return {path for folder in folders for path in Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All attacks and an honest copy, graded together: {name: its row of macro_f1}; and what was seen meanwhile."""
    here = tmp_path_factory.mktemp("handed in")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as other:
        port = listener.getsockname()[1]
        other.bind(f"\0{port}")
        other.listen()
        (here / "honest.ipynb").write_text(notebook("import torch", RIGHT))
        (here / "zz honest.ipynb").write_text(notebook(RIGHT))
        shown = {"output_type": "stream", "name": "stdout", "text": ["✓ macro_f1: correct.\n"]}
        for name in ATTACKS:
            (here / f"{name}.ipynb").write_text(notebook(*attack(name, here, port), outputs=[shown]))
        before, processes = everything(here), of_grading()
        began = time.monotonic()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grading, "SECONDS", 4)
            try:
                rows = {Path(r["file"]).stem: r["exercises"][-1] for r in grading.grade(here)}
            except DataError as error:
                pytest.skip(str(error))
        seconds = time.monotonic() - began
        listener.settimeout(0.1)
        other.settimeout(0.1)
        reached = []
        for server in (listener, other):
            try:
                reached.append(server.accept())
            except TimeoutError:
                continue
        left = everything(here) - before, of_grading() - processes
    return rows, {"reached": reached, "left": left, "seconds": seconds}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_passes_itself(graded, name):
    row = graded[0][name]
    assert row["status"] == "failed", row
    assert "ESCAPED" not in row["message"]


def test_attacks_change_nothing_for_others_and_leave_nothing(graded):
    rows, seen = graded
    assert rows["honest"]["status"] == rows["zz honest"]["status"] == "passed", rows
    assert seen["reached"] == []
    assert seen["left"] == (set(), set())
    for place in (Path(contained.__file__).parents[1], Path("/"), Path("/dev"), Path("/tmp")):
        assert not (place / "LEFT").exists() and not (place / "big").exists()
    assert seen["seconds"] < 120


def test_a_killed_grader_leaves_no_process(tmp_path):
    imports, code = attack("fork_2")
    (tmp_path / "a.ipynb").write_text(notebook(imports, code.replace("return 0.5", "time.sleep(600)")))
    before, files = of_grading(), everything(tmp_path)
    command = [sys.executable, "-m", "labutil", "grade", str(tmp_path / "a.ipynb")]
    grader = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while len(of_grading() - before) < 5:  # keeper, nursery, warden, student, and what it started
            if grader.poll() == 2:
                pytest.skip("nothing can be contained here")
            assert time.monotonic() < until and grader.poll() is None
            time.sleep(0.05)
    finally:
        grader.send_signal(signal.SIGKILL)
        grader.wait()
    until = time.monotonic() + 5
    while of_grading() - before and time.monotonic() < until:
        time.sleep(0.05)
    assert of_grading() - before == set()
    assert everything(tmp_path) <= files
