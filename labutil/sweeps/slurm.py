"""Runs as jobs of SLURM: all that are ready go as one array, through submitit (extra `slurm`).

A job is one `labutil run`. Preempted, or near its time limit, it goes back into the queue and later continues from its
checkpoints. The driver only watches: jobs outlive it, and the same command finds them again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from filelock import FileLock

from labutil import paths
from labutil.runs.parameters import ParameterError
from labutil.runs.record import RunError, write_json

if TYPE_CHECKING:
    from submitit import SlurmExecutor
    from submitit.helpers import DelayedSubmission

QUERY_SECONDS = 10.0  # between two questions to the scheduler, which others need too
ARRAY_SIZE = 1000  # SLURM's usual limit
TIMEOUTS = 100  # how often a run may outlast the time limit of its job and continue in a new one
# A job is one process of one run. Runs over several nodes are torchrun's, in a script of one's own.
NOT_OURS = {"nodes", "ntasks_per_node", "num_gpus", "additional_parameters", "srun_args", "use_srun", "teardown"}


class Task:
    """What a job does: submitit pickles it, calls it in the job, and asks it for a checkpoint before a requeue."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command, self.environment, self.process = command, environment, None

    def __call__(self) -> int:
        """Execute the command; return its exit status."""
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "1"))
        threads = max(1, cores // int(os.environ.get("SLURM_GPUS_ON_NODE", "1")))  # torchrun: a process a GPU
        # SLURM signals every process of a job, and one that does not know submitit's signal would die of it.
        ours = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # which processes inherit
        environment = os.environ | self.environment | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(self.command, env=environment)
        signal.signal(signal.SIGUSR2, ours)
        signal.signal(signal.SIGTERM, self._terminated)
        while self.process.poll() is None:  # wait() would hold a lock that the signal handlers need
            time.sleep(0.5)
        return self.process.returncode

    def _terminated(self, *_: object) -> None:
        """SIGTERM: the job is cancelled, or preempted with time to go by itself, and then not requeued by SLURM."""
        ask = ["squeue", "--noheader", "--format=%T", "--jobs", os.environ["SLURM_JOB_ID"]]
        if subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip() == "RUNNING":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.kill(os.getpid(), signal.SIGUSR2)  # submitit: checkpoint, requeue, exit
        else:
            self.process.terminate()

    def checkpoint(self) -> DelayedSubmission:
        """Stop the run, whose checkpoints are on disk, and say what the requeued job is to do: the same."""
        from submitit.helpers import DelayedSubmission

        if self.process:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=60)
            self.process.kill()
        return DelayedSubmission(Task(self.command, self.environment))


class Job:
    """A run's place in the queue. id: SLURM's, such as "12_3"; None: not submitted yet."""

    def __init__(self, array: Array, directory: Path, task: Task) -> None:
        self.array, self.directory, self.task, self.id = array, str(directory), task, None
        self.cancelled = False

    def running(self) -> bool:
        """Whether it runs or waits in the queue. The first question submits all that have been started until then."""
        self.array.submit()
        return self.id in self.array.queue()

    def stop(self) -> None:
        """Cancel it; SLURM ends what does not end by itself."""
        if self in self.array.waiting:
            self.array.waiting.remove(self)
        elif self.id and not self.cancelled:
            self.cancelled = True
            subprocess.run(["scancel", self.id], check=False, capture_output=True)


class Array:
    """A launcher of runs, like `local.Processes`, whose jobs go on without it.

    options: sbatch's, "KEY=VALUE": partition=gpu, time=120 (minutes), gpus_per_node=1, cpus_per_task=8, mem=32GB, ...;
    setup=COMMAND, as often as needed, is executed before each run. folder: for scripts, ids and output of the jobs, on
    a disk that the nodes see. Raises ParameterError for an option that cannot be, RunError when SLURM refuses the jobs.
    """

    outlives = True  # what it has started goes on when the driver stops

    def __init__(self, options: Sequence[str], folder: Path) -> None:
        self.executor = _executor(options, folder)
        self.ids = folder / "jobs.json"  # run directory -> id of the job that was last submitted for it
        self.waiting: list[Job] = []
        self._queue: set[str] = set()
        self._asked = -QUERY_SECONDS

    def start(self, command: list[str], directory: Path, environment: dict[str, str]) -> Job:
        """A job for a run; it is submitted together with those that are started before anybody asks after one."""
        # Which GPUs a job may use is SLURM's to say.
        ours = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
        self.waiting.append(Job(self, directory, Task(command, ours)))
        return self.waiting[-1]

    def submit(self) -> None:
        """Submit all that wait as one array, but those of which another driver, or an earlier one, has left a job."""
        if not self.waiting:
            return
        with FileLock(self.ids.with_suffix(".lock")):
            known = json.loads(self.ids.read_bytes()) if self.ids.exists() else {}
            queue = self.queue(now=True)
            for job in self.waiting:
                job.id = known.get(job.directory)
            ready, self.waiting = [job for job in self.waiting if job.id not in queue], []
            for first in range(0, len(ready), ARRAY_SIZE):
                part = ready[first : first + ARRAY_SIZE]
                try:
                    with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what it also raises
                        submitted = self.executor.submit_array([job.task for job in part])
                except Exception as error:  # submitit's own, and those of what it calls
                    raise RunError(f"SLURM did not take the jobs: {' '.join(str(error).split())}") from error
                for job, new in zip(part, submitted, strict=True):
                    job.id = known[job.directory] = new.job_id
                queue |= {job.id for job in part}
                write_json(self.ids, known)
                what = "1 run" if len(part) == 1 else f"{len(part)} runs"
                click.echo(f"SLURM: {what} submitted as job {part[0].id.split('_')[0]}")

    def queue(self, now: bool = False) -> set[str]:
        """Ids of the user's jobs that wait or run, at most QUERY_SECONDS old. A silent scheduler has lost none."""
        if now or time.monotonic() - self._asked >= QUERY_SECONDS:
            ask = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
            answer = subprocess.run(ask, check=False, capture_output=True, text=True)
            if answer.returncode == 0:
                self._queue = set(answer.stdout.split())
            elif now:
                raise RunError(f"SLURM does not answer: {' '.join(answer.stderr.split())}")
            self._asked = time.monotonic()
        return self._queue


def _executor(options: Sequence[str], folder: Path) -> SlurmExecutor:
    """submitit's executor with the options checked, all of them before anything is submitted."""
    if importlib.util.find_spec("submitit") is None:
        raise ParameterError("--slurm needs the extra slurm: pip install 'labutil[slurm]'")
    if shutil.which("sbatch") is None:
        raise ParameterError("--slurm: there is no sbatch here; give the command on a login node of the cluster")
    from submitit import SlurmExecutor

    parameters: dict[str, Any] = {"time": 60, "job_name": f"labutil-{folder.parent.name}"}
    valid = SlurmExecutor._valid_parameters() - NOT_OURS
    for option in options:
        key, equals, value = option.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if key not in valid:
            hint = paths.did_you_mean(key, valid) or f": {', '.join(sorted(valid))}"
            raise ParameterError(f"--slurm {option}: {key!r} is no option of a job{hint}")
        if not equals or not value:
            raise ParameterError(f"--slurm {option}: write KEY=VALUE, such as partition=gpu")
        value = int(value) if value.isascii() and value.isdigit() else {"true": True}.get(value, value)
        parameters[key] = [*parameters.get(key, []), str(value)] if key == "setup" else value
    # submitit takes a preemption for the end of the time where the limit is ten minutes or less.
    if type(parameters["time"]) is not int or parameters["time"] < 30:
        raise ParameterError(f"--slurm time={parameters['time']}: whole minutes, 30 or more (1440 are a day)")
    executor = SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
    executor.update_parameters(**parameters)
    return executor
