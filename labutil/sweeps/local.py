"""The driver of a sweep: it takes runs from where they come from, starts a process for each, and watches.

Several drivers, on any number of machines, may have the same sweep: what another process runs is left to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from labutil.runs import locks
from labutil.runs.parameters import ParameterError
from labutil.sweeps.plan import Job, Plan

POLL = 0.2  # seconds between two looks at what runs here
PATIENCE = 2.0  # seconds between two looks at what others run
GRACE = 30.0  # seconds that a process has to end in when it is asked to
ENDS = ("complete", "pruned", "diverged")  # statuses that the same command leaves as they are


class Launcher(Protocol):
    """What starts runs, and gives a handle of each: `running()`, and `stop()`, which asks it to end and, asked again,
    makes it. outlives: whether runs go on when the driver is stopped."""

    outlives: bool

    def start(self, command: list[str], directory: Path, environment: dict[str, str]) -> Any: ...


class Processes:
    """Runs as processes of this machine; what they print goes to log.txt in their directory."""

    outlives = False

    def start(self, command: list[str], directory: Path, environment: dict[str, str]) -> Process:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "log.txt", "ab") as log:
            # A session (Windows: group) of its own: Ctrl-C is for the driver, which then stops its runs.
            return Process(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | environment,
                start_new_session=True, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )  # fmt: skip


class Process(subprocess.Popen):
    """A run's process."""

    asked = False

    def running(self) -> bool:
        return self.poll() is None

    def stop(self) -> None:
        self.kill() if self.asked else self.terminate()
        self.asked = True


class Grid:
    """Where the runs of a grid come from, in order; those that other processes have are waited for at the end.

    `search.Search` has the same methods.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._waiting, self._elsewhere, self._looked = list(jobs), deque(jobs), [], 0.0
        for job in jobs:
            job.remember()

    def take(self) -> Job | None:
        """The next run to start; None when there is none now."""
        while self._waiting:
            job = self._waiting.popleft()
            state = look(job)
            if state == "free":
                return job
            if state == "elsewhere":
                self._elsewhere.append(job)
        if self._elsewhere and time.monotonic() - self._looked > PATIENCE:
            self._looked = time.monotonic()
            self._waiting, self._elsewhere = deque(self._elsewhere), []
            return self.take()
        return None

    def hopeless(self, job: Job) -> bool:
        """Whether a run that is going on should be stopped."""
        return False

    def ended(self, job: Job) -> None:
        """Hear that a run's process is gone; what it came to is in its directory."""
        if look(job) == "elsewhere":
            self._elsewhere.append(job)

    def done(self) -> bool:
        """Whether there is nothing to start and nothing to wait for."""
        return not self._waiting and not self._elsewhere

    def jobs(self) -> list[Job]:
        """All runs that it knows of, in the order of their settings."""
        return self._jobs

    def close(self) -> None:
        """Leave to others what is open."""


def look(job: Job) -> str:
    """Whether a run has "ended", is being executed "elsewhere", or is "free" to be started. One that failed is tried
    again, unless another process has done so since the sweep began here; one that was interrupted has not ended."""
    record = job.record() or {"status": None}
    if record["status"] in ENDS:
        return "ended"
    if record["status"] == "failed" and record["started"] != job.failed_before:
        error = job.directory / "error.txt"
        if not error.exists() or not error.read_text("utf-8").startswith("KeyboardInterrupt"):
            return "ended"
    return "elsewhere" if locks.holder(job.directory) else "free"


def drive(
    plan: Plan,
    sources: Sequence[Any],
    launcher: Launcher,
    environments: Sequence[dict[str, str]],
    gpus_per_run: int = 1,
    tell: Callable[[Job], None] = lambda job: None,
) -> None:
    """Run all that the sources have, as many at a time as there are environments, and return when nothing is left.

    tell: called after each run that was executed here. When it is interrupted, it stops its runs, unless they outlive
    it, and waits for their ends.
    """
    active: dict[int, tuple[Job, Any, Any]] = {}
    try:
        while True:
            for slot, environment in enumerate(environments):
                if slot not in active:
                    for source in sources:
                        if job := source.take():
                            handle = launcher.start(command(plan, job, gpus_per_run), job.directory, environment)
                            active[slot] = job, handle, source
                            break
            before = len(active)
            for slot, (job, handle, source) in list(active.items()):
                if handle.running() and source.hopeless(job):
                    _stop([handle])
                if not handle.running():
                    del active[slot]
                    source.ended(job)
                    if look(job) != "elsewhere":  # another process was quicker to take it
                        tell(job)
            if not active and all(source.done() for source in sources):
                return
            if len(active) == before:  # else a place is free, for the next one
                time.sleep(POLL if active else PATIENCE)
    finally:
        if not launcher.outlives:
            _stop([handle for _, handle, _ in active.values()])


def _stop(handles: Sequence[Any]) -> None:
    """Ask runs to end, wait for it, and end those that have not."""
    for handle in handles:
        handle.stop()
    deadline = time.monotonic() + GRACE
    while any(handle.running() for handle in handles):
        if time.monotonic() > deadline:
            for handle in handles:
                handle.stop()
        time.sleep(0.05)


def command(plan: Plan, job: Job, gpus_per_run: int = 1) -> list[str]:
    """The command of a run's process, which finds the same directory."""
    module = ["-m", "labutil"]
    if gpus_per_run > 1:
        module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus_per_run), *module]
    where = [str(job.study.notebook), "--core", "--out", str(plan.runs)]
    return [sys.executable, *module, "run", *where, *job.options()]


def environments(workers: int, gpus_per_run: int) -> list[dict[str, str]]:
    """What each worker's runs find in their environment: their share of this machine's cores and GPUs.

    Raises ParameterError when a run wants more GPUs than there are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared: dict[str, str] = {}
    if workers * gpus_per_run > 1 and "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, cores // (workers * gpus_per_run)))
    gpus = _gpus()
    if gpus_per_run > max(1, len(gpus)):
        raise ParameterError(f"--gpus-per-run {gpus_per_run}: there are {len(gpus)} here")
    groups = [gpus[i : i + gpus_per_run] for i in range(0, len(gpus) - gpus_per_run + 1, gpus_per_run)] or [[]]
    chosen = [groups[worker % len(groups)] for worker in range(workers)]
    return [shared | ({"CUDA_VISIBLE_DEVICES": ",".join(group)} if group else {}) for group in chosen]


def _gpus() -> list[str]:
    """NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    ask = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(ask, check=False, capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else []
