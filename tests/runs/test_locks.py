"""One owner at a time: competing processes, killed owners, silent machines, and owners who come back too late."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from labutil import runs
from labutil.runs import locks

COMPETE = """
import sys, time, os
from pathlib import Path
from labutil.runs import locks
directory, log = Path(sys.argv[1]), open(sys.argv[2], "a")
for _ in range(int(sys.argv[3])):
    while (lock := locks.acquire(directory, wait=60)) is None:
        pass
    with lock:
        log.write(f"{time.monotonic_ns()} ")
        time.sleep(0.0005)
        log.write(f"{time.monotonic_ns()}\\n")
    log.flush()
"""
HOLD = """
import sys, time
from pathlib import Path
from labutil.runs import locks
locks.INTERVAL = 0.1
lock = locks.acquire(Path(sys.argv[1]), lost=lambda: print("lost", flush=True))
print("held", flush=True)
time.sleep(60)
"""


def start(code, *args):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def owner(tmp_path):
    process = start(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def disguise(directory, **changes):
    """Make the lock in a directory that of another machine."""
    (path,) = directory.glob(".lock.*")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"} | changes))
    return path


def test_eight_processes_never_hold_a_lock_at_once(tmp_path):
    competing = [start(COMPETE, tmp_path, tmp_path / f"{i}.log", 50) for i in range(8)]
    assert [process.wait() for process in competing] == [0] * 8
    times = [line.split() for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()]
    spans = sorted((int(begin), int(end)) for begin, end in times)
    assert len(spans) == 400
    assert not [second for first, second in itertools.pairwise(spans) if second[0] < first[1]]
    assert len(list(tmp_path.glob(".*"))) == 1  # nothing is left but the one that says free


def test_a_lock_is_held_until_released(tmp_path):
    with locks.acquire(tmp_path):
        assert locks.acquire(tmp_path) is None
        assert locks.holder(tmp_path)["pid"] == os.getpid()
    assert locks.holder(tmp_path) is None
    locks.acquire(tmp_path).release()


def test_a_killed_owner_of_this_machine_is_replaced_at_once(tmp_path, owner):
    assert locks.acquire(tmp_path) is None
    owner.kill()
    begun = time.monotonic()
    assert locks.acquire(tmp_path, wait=5)  # it is a zombie: nobody has asked how it ended
    assert time.monotonic() - begun < 5


def test_another_process_with_the_owners_number_is_not_the_owner(tmp_path):
    locks.acquire(tmp_path).release()
    (path,) = tmp_path.glob(".lock.*")
    path.write_text(json.dumps({"host": locks.HOST, "pid": os.getpid(), "created": 1.0}))
    assert locks.holder(tmp_path)  # clocks are set at times, so a heartbeat has to be missing too
    os.utime(path, (1, 1))
    assert locks.holder(tmp_path) is None


def test_another_machine_counts_as_dead_only_after_silence(tmp_path, monkeypatch, owner):
    path = disguise(tmp_path)
    assert locks.acquire(tmp_path) is None  # its heart beats
    monkeypatch.setattr(locks, "LIMIT", 1.0)
    time.sleep(1.5)
    assert locks.acquire(tmp_path) is None
    owner.kill()
    with locks.acquire(tmp_path, wait=10) as lock:
        assert not path.exists()
        assert lock.held()


def test_an_owner_that_slept_too_long_learns_that_it_lost(tmp_path, monkeypatch, owner):
    disguise(tmp_path)
    owner.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(locks, "LIMIT", 0.5)
    with locks.acquire(tmp_path, wait=10) as lock:
        owner.send_signal(signal.SIGCONT)
        assert owner.stdout.readline() == "lost\n"
        assert lock.held()


def test_of_two_takers_of_a_dead_lock_one_wins_however_slow_the_other(tmp_path, monkeypatch, owner):
    """The slow one finds the lock dead and sleeps; meanwhile the fast one takes it, frees it, and a third takes it."""
    disguise(tmp_path)
    owner.kill()
    monkeypatch.setattr(locks, "LIMIT", 0.0)
    judge = locks._owner

    def slow(path):
        monkeypatch.setattr(locks, "_owner", judge)
        assert judge(path) is None
        locks.acquire(tmp_path).release()
        monkeypatch.setattr(locks, "LIMIT", 90.0)
        slow.third = locks.acquire(tmp_path)

    monkeypatch.setattr(locks, "_owner", slow)
    assert locks.acquire(tmp_path) is None
    assert slow.third.held()


def test_a_run_whose_lock_was_taken_over_stops_and_writes_nothing_more(tmp_path):
    script = (
        "import sys; from pathlib import Path; from labutil import runs; from labutil.runs import locks\n"
        "locks.INTERVAL = 0.2; runs.run_notebook(Path(sys.argv[1]), {'seed': 0}, out=Path(sys.argv[2]))"
    )
    notebook = tmp_path / "99_lesson.ipynb"
    cells = [
        ("seed: int = 0  # seed", ["parameters"]),
        ("open('begun', 'w').close(); __import__('time').sleep(99)", []),
    ]
    made = [{"cell_type": "code", "source": s, "metadata": {"tags": t}, "outputs": [], "execution_count": None,
             "id": f"cell{i}"} for i, (s, t) in enumerate(cells)]  # fmt: skip
    notebook.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    process = subprocess.Popen(
        [sys.executable, "-c", script, notebook, tmp_path / "runs"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    (record,) = tmp_path.glob("runs/*/*/run.json")
    before = {path: path.stat().st_mtime_ns for path in record.parent.iterdir() if not path.name.startswith(".lock")}
    (record.parent / ".lock.000002").write_text(json.dumps({"host": "elsewhere", "pid": 1, "created": 1.0}))
    error = process.communicate(timeout=30)[1]
    assert (process.returncode, error.count("\n")) == (1, 1)
    assert "was taken over by another process; this one stops" in error
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert runs.read_record(record.parent)["status"] == "running"
