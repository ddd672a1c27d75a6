"""The launcher of SLURM jobs against a queue that is a file; tests/long has a real SLURM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from labutil.runs import RunError
from labutil.runs.parameters import ParameterError

pytest.importorskip("submitit")
from labutil.sweeps import slurm

PROGRAMS = {
    # Each job of an array becomes a line of the queue.
    "sbatch": """\
last=$(grep -oP '(?<=--array=0-)[0-9]+' "$1"); id=$((100 + $(cat submissions | wc -l))); echo "$1" >> submissions
if [ -e broken ]; then echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1; fi
if [ -n "$last" ]; then for i in $(seq 0 $last); do echo ${id}_$i; done; else echo $id; fi >> queue
echo Submitted batch job $id""",
    "squeue": "if [ -e silent ]; then echo 'no answer' >&2; exit 1; fi; cat queue",
    "scancel": 'grep -vx "$1" queue > rest; mv rest queue',
    "srun": "exit 1",
}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder whose files `queue` and `submissions` are all that there is of SLURM."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\ncd {tmp_path}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").touch()
    (tmp_path / "submissions").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "QUERY_SECONDS", 0.0)
    return tmp_path


def array(cluster, *options):
    return slurm.Array(options, cluster / "grid" / "slurm")


def start(launcher, cluster, *names):
    return [launcher.start(["true"], cluster / name, {"CUDA_VISIBLE_DEVICES": "0", "A": "1"}) for name in names]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partitio=gpu", r"--slurm partitio=gpu: 'partitio' is no option of a job \(did you mean 'partition'\?\)"),
        ("partition", "--slurm partition: write KEY=VALUE"),
        ("partition=", "--slurm partition=: write KEY=VALUE"),
        ("nodes=2", "'nodes' is no option of a job"),
        ("time=10", r"--slurm time=10: whole minutes, 30 or more"),
        ("time=1:00:00", r"--slurm time=1:00:00: whole minutes"),
    ],
)
def test_options_that_cannot_be(cluster, option, message):
    with pytest.raises(ParameterError, match=message):
        array(cluster, "time=60", option)
    assert not (cluster / "submissions").read_text()


def test_no_slurm_and_no_submitit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ParameterError, match="there is no sbatch here"):
        slurm.Array([], tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"pip install 'labutil\[slurm\]'"):
        slurm.Array([], tmp_path)


def test_all_that_is_ready_is_one_array_with_the_users_options(cluster, capsys):
    options = ("partition=gpu", "gpus-per-node=1", "exclusive=true", "setup=module load cuda", "setup=ulimit -n 9999")
    jobs = start(array(cluster, *options), cluster, "a", "b", "c")
    assert not (cluster / "submissions").read_text()
    assert all(job.running() for job in jobs)
    assert [job.id for job in jobs] == ["100_0", "100_1", "100_2"]
    assert capsys.readouterr().out == "SLURM: 3 runs submitted as job 100\n"
    (script,) = (cluster / "submissions").read_text().split()
    lines = Path(script).read_text().splitlines()
    for line in ("array=0-2%3", "partition=gpu", "gpus-per-node=1", "exclusive", "time=60", "signal=USR2@90"):
        assert f"#SBATCH --{line}" in lines
    in_order = ["module load cuda", "ulimit -n 9999", "export SUBMITIT_EXECUTOR=slurm"]
    assert [line for line in lines if line in in_order] == in_order
    assert "#SBATCH --job-name=labutil-grid" in lines


def test_another_driver_finds_the_jobs_and_submits_what_is_missing(cluster):
    first, second = array(cluster), array(cluster)
    jobs = start(first, cluster, "a", "b", "c")
    assert jobs[0].running()
    jobs[1].stop()  # as scancel does
    again = start(second, cluster, "a", "b", "c", "d")
    assert all(job.running() for job in again)
    assert [job.id for job in again] == ["100_0", "101_0", "100_2", "101_1"]
    assert json.loads((cluster / "grid/slurm/jobs.json").read_text())[str(cluster / "b")] == "101_0"
    # Two drivers that have both decided to start a run before either submitted it.
    first, second = array(cluster), array(cluster)
    (one,), (other,) = start(first, cluster, "e"), start(second, cluster, "e")
    assert one.running() and other.running() and one.id == other.id == "102"


def test_a_job_has_ended_when_the_queue_says_so_and_never_for_want_of_an_answer(cluster):
    (job,) = start(array(cluster), cluster, "a")
    assert job.running()
    (cluster / "silent").touch()
    assert job.running()
    with pytest.raises(RunError, match="SLURM does not answer: no answer"):
        start(array(cluster), cluster, "b")[0].running()
    (cluster / "silent").unlink()
    (cluster / "queue").write_text("")
    assert not job.running()


def test_what_sbatch_says_is_what_the_user_reads(cluster, capsys):
    (cluster / "broken").touch()
    with pytest.raises(RunError, match=r"did not take the jobs: sbatch: error: invalid partition specified: gpuu$"):
        start(array(cluster, "partition=gpuu"), cluster, "a")[0].running()
    assert not capsys.readouterr().err
    waiting = start(array(cluster), cluster, "b")[0]
    waiting.stop()  # before it is submitted: never is
    assert not waiting.running()


@pytest.fixture
def in_a_job(monkeypatch):
    """What submitit sets up in a job: a handler for USR2. Gives the signals that it got."""
    got = []
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    monkeypatch.setenv("SLURM_JOB_ID", "100")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "3")
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_task_gives_its_run_the_jobs_cores_and_its_own_environment(in_a_job, tmp_path):
    out = tmp_path / "out"
    task = slurm.Task(["bash", "-c", f"echo $OMP_NUM_THREADS $A > {out}; kill -USR2 $$; exit 3"], {"A": "b"})
    assert task() == 3  # it has not died of submitit's signal
    assert out.read_text() == "3 b\n"


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_task_that_is_told_to_end(in_a_job, cluster, state, requeued):
    """Preempted with time of grace left, it is checkpointed and requeued; cancelled, it ends."""
    (cluster / "queue").write_text(f"{state}\n")
    task = slurm.Task(["sleep", "60"], {})

    def kill():
        while task.process is None:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        task.process.terminate()

    thread = threading.Thread(target=kill)
    thread.start()
    assert task() == -signal.SIGTERM
    thread.join()
    assert in_a_job == ([signal.SIGUSR2] if requeued else [])


def test_a_checkpoint_ends_the_run_and_holds_the_same_command():
    task = slurm.Task(["sleep", "60"], {"A": "b"})
    task.process = subprocess.Popen(task.command)
    later = task.checkpoint().function
    assert task.process.poll() == -signal.SIGTERM
    assert (later.command, later.environment, later.process) == (task.command, task.environment, None)
