"""`labutil sweep --slurm` on a real SLURM: preempted, cancelled, its driver stopped; every run is made once."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import lesson
import pandas as pd
import pytest
from parts import output, wait_for

from labutil import runs

pytestmark = pytest.mark.long
RATES = "0.01,0.02,0.05,0.1,0.2,0.5"


def options(notebook: Path, partition: str = "low") -> list[object]:
    """Six runs, as jobs of a core each: two at a time."""
    jobs = ["--slurm", f"partition={partition}", "--slurm", "cpus_per_task=1"]
    return [notebook, "-p", "lr", RATES, "--name", "grid", "--out", notebook.parent, *jobs]


def finished(process: subprocess.Popen) -> str:
    """What a sweep has said, when it has ended well; requeued jobs, which would wait two minutes, are told to start."""

    def ended() -> bool:
        for line in output("squeue", "--noheader", "--array", "--format=%i %r").splitlines():
            if line.endswith("BeginTime"):
                output("scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
        return process.poll() is not None

    wait_for("the sweep", ended, 300)
    said = process.stdout.read()
    assert process.returncode == 0, said
    return said


def jobs(notebook: Path) -> dict[str, Path]:
    """The jobs that were submitted last, SLURM's id -> the run's directory."""
    file = notebook.parent / "grid" / "slurm" / "jobs.json"
    return {id: Path(run) for run, id in json.loads(file.read_text()).items()} if file.exists() else {}


def training(notebook: Path) -> str | None:
    """A job that is in the middle of its training."""
    for id in output("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i").split():
        history = jobs(notebook).get(id, Path()) / "history.csv"
        if history.exists() and 3 <= len(pd.read_csv(history)) < lesson.EPOCHS - 3:
            return id
    return None


def check_all(notebook: Path) -> list[Path]:
    """Six runs are there and complete, with all epochs once. Returns their directories."""
    folder = notebook.parent / "grid"
    table = pd.read_csv(folder / "sweep.csv")
    assert sorted(table.lr) == [float(rate) for rate in RATES.split(",")]
    assert set(table.status) == {"complete"}
    found = [folder / path for path in table.path]
    assert sorted(found) == sorted(file.parent for file in (folder / "runs").rglob("run.json"))
    for run in found:
        assert runs.read_record(run)["status"] == "complete"
        lesson.check_history(run)
    return found


@pytest.mark.parametrize("partition", ["low", "lowest"])
def test_a_preempted_run_goes_back_into_the_queue_and_continues(slurm, sweep, tmp_path, partition):
    """With time of grace it is requeued by its own task, without by SLURM."""
    notebook = lesson.write(tmp_path)
    process = sweep(*options(notebook, partition))
    wait_for("a run that trains", lambda: training(notebook))
    urgent = ["sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 2"]
    assert "Submitted" in output(*urgent)
    wait_for("a job that is requeued", lambda: "BeginTime" in output("squeue", "--noheader", "--format=%r"))
    said = finished(process)
    found = check_all(notebook)
    assert said.count("submitted as job") == 1  # one array, and nothing a second time
    array = {id.split("_")[0] for id in jobs(notebook)}
    assert len(array) == 1
    sittings = {run: lesson.sittings(run) for run in found}
    preempted = [run for run in found if len(sittings[run]) == 2]
    assert 1 <= len(preempted) <= 2 and sum(map(len, sittings.values())) == 6 + len(preempted)
    for run in preempted:
        first, second = (line.split() for line in sittings[run])
        assert (first[0], first[1], second[1]) == (second[0], "None", "1")  # the same job, requeued once


def test_the_same_command_finds_jobs_that_run_and_submits_the_cancelled_ones(slurm, sweep, tmp_path):
    notebook = lesson.write(tmp_path)
    process = sweep(*options(notebook))
    wait_for("a run that trains", lambda: training(notebook))
    first = jobs(notebook)
    cancelled = training(notebook)
    assert output("scancel", cancelled) == ""
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command" in said, said
    queue = output("squeue", "--noheader", "--array", "--format=%i").split()
    assert len(set(queue) & set(first)) >= 4  # Ctrl-C has left them running
    wait_for("the cancelled job to end", lambda: cancelled not in output("squeue", "--noheader", "--array").split())

    said = finished(sweep(*options(notebook)))
    found = check_all(notebook)
    assert "1 run submitted as job" in said
    (again,) = set(jobs(notebook)) - set(first)
    assert jobs(notebook)[again] == first[cancelled]
    assert [len(lesson.sittings(run)) for run in found].count(2) == 1
    assert len(lesson.sittings(first[cancelled])) == 2

    done = sweep(*options(notebook))  # and once more: nothing left to do
    said, _ = done.communicate(timeout=60)
    assert done.returncode == 0 and "submitted" not in said, said
    assert sum(len(lesson.sittings(run)) for run in found) == 7


def test_a_search_submits_the_runs_of_each_trial(slurm, sweep, tmp_path):
    notebook = lesson.write(tmp_path)
    search = ["-s", "lr", "0.001:1:log", "-p", "epochs", 2, "--trials", 4, "--workers", 2, "--name", "grid"]
    said = finished(sweep(notebook, *search, "--out", tmp_path, "--slurm", "cpus_per_task=1"))
    table = pd.read_csv(tmp_path / "grid" / "sweep.csv")
    assert table.lr.nunique() == len(table) == 4
    assert set(table.status) <= {"complete", "pruned"}
    assert sum(len(lesson.sittings(tmp_path / "grid" / path)) for path in table.path) == 4
    assert 2 <= said.count("submitted as job") <= 4  # as many at once as there are workers
