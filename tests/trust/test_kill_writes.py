"""A run that is killed at its writes, one after the other: the same command ends as one that nothing happened to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from labutil import paths

SCRIPT = Path(__file__).with_name("kill_writes.py")


def tried(folder: Path, step: int) -> dict:
    """What the script found out: how many writes there are, and what went wrong after a kill at every step-th."""
    environment = os.environ | {"PYTHONPATH": str(paths.project_root()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), str(folder), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each trial is a fork")
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.long)], ids=["some", "every one"])
def test_a_run_killed_at_a_write_ends_as_one_that_was_not(tmp_path, step):
    found = tried(tmp_path, step)
    assert found["writes"] > 60
    assert not found["wrong"]


def test_what_a_killed_writer_left_goes_with_the_next_write_and_a_living_ones_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = []
    paths.replace_file(tmp_path / "a.csv", lambda temporary: (names.append(temporary.name), temporary.touch()))
    (name,) = names
    leftover, living, other = (name.replace(f"-{os.getpid()}-", f"-{n}-") for n in (dead.pid, os.getppid(), "x"))
    foreign = ".000000-1-a.csv"  # of another machine
    for each in (leftover, living, other, foreign):
        (tmp_path / each).write_text("half")
    paths.replace_file(tmp_path / "b.csv", lambda temporary: temporary.write_text("whole"))
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", "b.csv", living, other, foreign}
