"""`kill -9` while real fits train: the same command ends with every setting once, and the same table."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pandas as pd
import psutil
import pytest
from conftest import command, sweep

FIT = ("-p", "epochs", "8", "-p", "pause", "0.3")
pytestmark = pytest.mark.long


def start(notebook, out, *options):
    return subprocess.Popen(
        command(notebook, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"STUB_LOG": str(out / "log")},
    )  # fmt: skip


def kill(process, how):
    """The driver alone, with its run, or with the run's kernel, too."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family[: {"driver": 1, "driver and run": 2, "all": 9}[how]]:
        member.kill()
    process.wait()


def until_a_fit_has_a_checkpoint(out, processes):
    """Whether one has, between its first checkpoint and its last; no: the sweep is done."""
    while not list(out.glob("s/runs/*/*/checkpoints/main.pt")):
        if all(process.poll() is not None for process in processes):
            return False
        time.sleep(0.05)
    return True


def table(out):
    return pd.read_csv(out / "s" / "sweep.csv").drop(columns=["seconds"])


@pytest.mark.parametrize(
    "options",
    [("-p", "lr", "0.01,0.03,0.1"), ("-s", "lr", "0.01:1:log", "--trials", "3")],
    ids=["grid", "search"],
)
def test_a_sweep_that_is_killed_again_and_again_ends_as_one_that_was_not(trainer, tmp_path, options):
    draw, kills = random.Random(0), ["driver", "driver and run", "all", "driver and run"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    cut.mkdir()
    assert sweep(trainer, whole, *options, *FIT).returncode == 0
    for how in kills:
        process = start(trainer, cut, *options, *FIT)
        assert until_a_fit_has_a_checkpoint(cut, [process])
        time.sleep(draw.uniform(0, 1.5))
        kill(process, how)
    done = sweep(trainer, cut, *options, *FIT)
    assert done.returncode == 0, done.stderr
    assert len(list(cut.glob("s/runs/*/*"))) == 3
    pd.testing.assert_frame_equal(table(whole), table(cut))


@pytest.mark.parametrize("how", ["driver", "driver and run", "all"])
def test_one_of_two_competing_sweeps_is_killed_and_the_other_does_the_rest(trainer, tmp_path, how):
    options = ("-p", "lr", "0.01,0.03,0.1,0.3", *FIT)
    both = [start(trainer, tmp_path, *options) for _ in range(2)]
    assert until_a_fit_has_a_checkpoint(tmp_path, both)
    time.sleep(1)
    kill(both[0], how)
    assert both[1].wait(timeout=120) == 0
    rows = table(tmp_path)
    assert rows.status.tolist() == ["complete"] * 4
    assert len(list(tmp_path.glob("s/runs/*/*"))) == 4
    assert sorted((tmp_path / "log").read_text().split()[::3]) in (
        ["0.01", "0.03", "0.1", "0.3"],  # the orphan of a killed driver went on to its end
        *(sorted(["0.01", "0.03", "0.1", "0.3", twice]) for twice in ("0.01", "0.03")),  # it was resumed
    )
