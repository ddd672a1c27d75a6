"""A run that is killed at its writes, one after the other: the same command ends as one that nothing happened to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from labutil import paths, runs
from labutil.compare import results
from labutil.runs import locks

SCRIPT = Path(__file__).with_name("kill_writes.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each trial is a fork")
@pytest.mark.parametrize(
    ("task", "step"),
    [("run", 9), *(pytest.param(task, 1, marks=pytest.mark.long) for task in ("run", "clean"))],
)
def test_killed_at_a_write_the_same_command_ends_as_if_it_had_not_been(tmp_path, task, step):
    environment = os.environ | {"PYTHONPATH": str(paths.project_root()), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), task, str(tmp_path), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["writes"] > 20
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


def test_a_run_whose_command_or_kernel_is_dead_is_not_said_to_run(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owners = {"dead": dead.pid, "alive": os.getpid(), "hand-dead": None, "hand-alive": None, "planted": None}
    for name, pid in owners.items():
        folder = tmp_path / "99_lesson" / name
        folder.mkdir(parents=True)
        runs.write_json(folder / "run.json", runs.new_record("99_lesson", None, {"seed": len(name)}))
        if pid:
            created = psutil.Process().create_time()
            (folder / ".lock.000001").write_text(json.dumps({"host": locks.HOST, "pid": pid, "created": created}))
        elif name.startswith("hand"):
            FileLock(folder / ".kernel.lock").acquire().lock.release()
    with FileLock(tmp_path / "99_lesson" / "hand-alive" / ".kernel.lock"):
        status = {Path(row.path).name: row.status for row in runs.load_runs(tmp_path).itertuples()}
        why = {directory.name: text for directory, text in results.collect(tmp_path).left_out}
    assert {name for name, value in status.items() if value == "failed"} == {"dead", "hand-dead"}
    assert {name for name, text in why.items() if "cut off" in text} == {"dead", "hand-dead"}
    assert all("given again, continues it" in text for text in why.values())


def test_a_lock_that_was_never_written_is_soon_taken_over(tmp_path):
    (tmp_path / ".lock.000001").touch()
    assert locks.acquire(tmp_path) is None
    os.utime(tmp_path / ".lock.000001", (time.time() - 11,) * 2)
    locks.acquire(tmp_path).release()
