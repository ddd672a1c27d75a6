"""`kill -9` at 50 random moments of lessons 02 to 06: the same command ends as one that nothing happened to.

A part of it: `pytest tests/trust/test_kill_moments.py -k 04-command`.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from labutil import runs
from labutil.runs import locks

pytestmark = pytest.mark.long
LESSONS = ("02", "03", "04", "05", "06")
VICTIMS = {"kernel": 3, "command": 3, "sweep": 2, "rank": 1, "grade": 1}  # how many moments of each lesson
SMOKE = ("--recipe", "smoke", "-p", "dataset", "cells:600")  # of 06 the recipe draws more cells than it uses


def moments() -> list[tuple[str, str, float]]:
    """Who is killed in which lesson, and when, as a share of the time that nobody is killed in."""
    draw = random.Random(19)
    each = [(lesson, victim) for lesson in LESSONS for victim, times in VICTIMS.items() for _ in range(times)]
    return [(lesson, victim, round(draw.uniform(0.02, 0.98), 2)) for lesson, victim in each]


def command(victim: str, lesson: str, folder: Path) -> list[str]:
    program, out = [sys.executable, "-m", "labutil"], ["--out", str(folder / "out")]
    if victim == "grade":
        return [*program, "grade", str(folder / "in"), "--json"]
    if victim == "sweep":
        return [*program, "sweep", lesson, *SMOKE, "--seeds", "0,1", "--name", "s", *out]
    if victim == "rank":
        program[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*program, "run", lesson, *SMOKE, "--core", *out]


def start(victim: str, lesson: str, folder: Path) -> subprocess.Popen:
    """The command, with everything that it writes below `folder`."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {"LABUTIL_DATA": folder / "data", "TMPDIR": folder / "tmp", "OMP_NUM_THREADS": "1"}
    if victim == "grade" and not (folder / "in").exists():
        copy = [sys.executable, "-m", "labutil", "start", lesson, str(folder / "in"), "--solutions"]
        subprocess.run(copy, check=True, capture_output=True)
    with open(folder / "said.txt", "wb") as out, open(folder / "errors.txt", "wb") as errors:
        return subprocess.Popen(
            command(victim, lesson, folder), stdout=out, stderr=errors,
            env=os.environ | {name: str(value) for name, value in environment.items()},
        )  # fmt: skip


def alive(folder: Path) -> list[psutil.Process]:
    """Processes that have a file of this folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            said = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(text.startswith(str(folder)) for text in said) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def kernels(folder: Path) -> list[psutil.Process]:
    return [process for process in alive(folder) if "ipykernel_launcher" in " ".join(process.cmdline())]


def ranks(folder: Path) -> list[psutil.Process]:
    found = [p for p in alive(folder) if "-u -m labutil run" in " ".join(p.cmdline())]
    return sorted(found, key=lambda process: process.environ().get("RANK", ""))


def wait_for(true, seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < ends:
        time.sleep(0.05)
    return bool(found)


def ends_well(victim: str, process: subprocess.Popen) -> bool:
    return process.wait() in ((0, 1) if victim == "grade" else (0,))  # 1: a guess is missing in a solution


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str, str], tuple[Path, float]]:
    """(victim, lesson) -> a folder in which nobody was killed, and the seconds that it took."""

    @cache
    def make(victim: str, lesson: str) -> tuple[Path, float]:
        folder = tmp_path_factory.mktemp(f"whole-{victim}-{lesson}")
        began = time.monotonic()
        assert ends_well(victim, start(victim, lesson, folder)), (folder / "errors.txt").read_text()
        return folder, time.monotonic() - began

    return make


def files(folder: Path) -> set[str]:
    """Names of all that is below a folder, but for temporary files of the system; locks without their number."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*"))
    return {re.sub(r"\.lock\.\d+$", ".lock", name) for name in found if not name.startswith("tmp/")}


def left(folder: Path) -> dict[str, object]:
    """What runs below a folder came to, without what takes time."""
    found: dict[str, object] = {}
    for file in sorted((folder / "out").rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.name == "run.json":
            record = json.loads(file.read_text())
            untimed = {k: v for k, v in record["metrics"].items() if not re.search("seconds|per_second", k)}
            found[name] = record["status"], untimed, record["fits"]
        elif file.suffix == ".safetensors":
            found[name] = file.read_bytes()
        elif file.suffix == ".npz":
            found[name] = {key: value.tobytes() for key, value in np.load(file).items()}
        elif file.suffix == ".csv":
            table = pd.read_csv(file)
            found[name] = table.drop(columns=[c for c in table if re.search("second", c)]).to_dict("list")
    return found


def verdicts(folder: Path) -> list[tuple]:
    (record,) = json.loads((folder / "said.txt").read_text())
    return [(row["exercise"], row["status"]) for row in record["exercises"]]


@pytest.mark.parametrize(("lesson", "victim", "moment"), moments())
def test_killed_at_a_random_moment(tmp_path, whole, lesson, victim, moment):
    reference, seconds = whole("command" if victim == "kernel" else victim, lesson)
    began, process = time.monotonic(), start(victim, lesson, tmp_path)
    wait_for(lambda: time.monotonic() - began > moment * seconds, 600)
    if victim == "kernel":
        wait_for(lambda: kernels(tmp_path) or process.poll() is not None, 60)
    chosen = {"kernel": kernels, "rank": ranks}.get(victim, lambda folder: [])(tmp_path)
    if process.poll() is None:
        (chosen[-1] if chosen else psutil.Process(process.pid)).kill()
    process.wait()
    if victim != "sweep":  # of which a run is a process of its own, and may go on to its end
        assert wait_for(lambda: not alive(tmp_path), 20), f"still there: {alive(tmp_path)}"
        for directory, record in runs.read_records(tmp_path / "out")[0]:
            said = {"kernel": "failed", "command": "running"}.get(victim, record["status"])
            assert record["status"] in (said, "complete")
            assert locks.holder(directory) is None
        table = runs.load_runs(tmp_path / "out")
        assert not len(table) or set(table.status) <= {"failed", "complete"}
    assert ends_well(victim, start(victim, lesson, tmp_path)), (tmp_path / "errors.txt").read_text()
    assert wait_for(lambda: not alive(tmp_path), 20), f"still there: {alive(tmp_path)}"
    assert files(tmp_path) == files(reference)
    if victim == "grade":
        assert verdicts(tmp_path) == verdicts(reference)
        return
    mine, theirs = left(tmp_path), left(reference)
    assert not [name for name in theirs if repr(mine[name]) != repr(theirs[name])]  # NaN is spelt alike
    assert {value[0] for name, value in mine.items() if name.endswith("run.json")} == {"complete"}
