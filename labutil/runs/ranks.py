"""Several processes for one run: `torchrun --nproc-per-node N ... -m labutil run NOTEBOOK`.

torchrun starts the command N times. Each executes the notebook in a kernel of its own, and the kernels share the work
(`labutil.processes`). The first command alone decides whether there is something to do, holds the run's directory and
prints; the others hear of it through torchrun's store, and execute into a folder that is deleted. With one process
nothing here does anything.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labutil.runs.record import RunError, write_json

if TYPE_CHECKING:
    from torch.distributed import TCPStore

PATIENCE = 10.0  # seconds in which the process that failed first will have said so
# What a process says that was left alone by another in the middle of an exchange.
LEFT_ALONE = re.compile(r"Connection (closed|reset) by peer|Broken pipe|gloo|NCCL|Dist(Network|Backend|Store)Error")
_runs = 0  # that this process has begun: names what is said about each


def count() -> int:
    """How many processes torchrun started for this command."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


@contextlib.contextmanager
def lead() -> Iterator[None]:
    """Around what the first process does for a run: the others hear how it begins, and when all is written."""
    if count() == 1 or rank():
        yield
        return
    _begin()
    try:
        yield
        _say("start", "found")  # unless it was said otherwise before
    except BaseException:
        _say("start", "refused")
        raise
    finally:
        _say("end", "")


def follow(run: Callable[[Path], None], record: dict[str, Any]) -> tuple[Path, dict[str, Any], bool]:
    """What another process than the first does for a run: `run(folder)`, silently; returns as `run_notebook` does.

    record: run.json as a run begins with it. Where the first process has told why the run failed, SystemExit.
    """
    _begin()
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (as long as the process lives)
    start = _store().get(_key("start")).decode()
    if start == "refused":
        sys.exit(1)
    if start == "found":
        return Path(), record, True
    try:
        with tempfile.TemporaryDirectory(prefix="labutil-", ignore_cleanup_errors=True) as folder:
            write_json(Path(folder) / "run.json", record)
            together(lambda: run(Path(folder)))
    except BaseException:
        # torchrun ends all when one has ended; the first process has a record to write.
        if _heard("end", PATIENCE + 5):
            sys.exit(1)
        raise
    return Path(), record, False


def together(run: Callable[[], None]) -> None:
    """Execute this process's copy of a notebook. If that of any process fails, raises the error that was the reason."""
    if count() == 1:
        run()
        return
    from torch.distributed import TCPStore

    if rank() == 0:  # a store for these kernels alone: a second notebook's could not meet in the first one's
        meeting = TCPStore(os.environ["MASTER_ADDR"], 0, is_master=True, wait_for_workers=False)
        _say("start", str(meeting.port))
    port = _store().get(_key("start")).decode()
    inherited = {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    before, done = {name: os.environ.get(name, "") for name in inherited}, threading.Event()
    os.environ |= inherited
    threading.Thread(target=_watch, args=(done,), daemon=True).start()
    try:
        run()
    except (Exception, KeyboardInterrupt) as error:
        done.set()
        raise _reason(error) from error
    finally:
        done.set()
        os.environ |= before


def _watch(done: threading.Event) -> None:
    """End this process's part, as SIGTERM does, where another has failed and it would not notice: on GPUs a process
    waits for one that is gone."""
    while not done.wait(1):
        if _heard("failed"):
            if not done.wait(PATIENCE / 2):
                os.kill(os.getpid(), signal.SIGTERM)
            return


def _reason(error: BaseException) -> BaseException:
    """Why a run failed: `error` itself, or the error of the process that left this one alone, as a RunError."""
    stopped = isinstance(error, KeyboardInterrupt)
    if not stopped and not LEFT_ALONE.search(str(error)):
        said = [str(error), getattr(error, "__notes__", []), getattr(error, "diverged", False)]
        _say(f"failed/{rank()}", json.dumps(said))
        _say("failed", "")
        return error
    if _heard("failed", 0 if stopped else PATIENCE):
        other = next(i for i in range(count()) if _heard(f"failed/{i}"))
        text, notes, diverged = json.loads(_store().get(_key(f"failed/{other}")))
        reason = RunError(f"process {other} of {count()}: {text}")
        reason.diverged, reason.__notes__ = diverged, notes
        return reason
    if stopped:
        return error
    return RunError(f"another process of this run ended without a word, most often for want of memory ({error})")


def _begin() -> None:
    global _runs  # noqa: PLW0603
    _runs += 1


def _key(what: str) -> str:
    return f"labutil/{_runs}/{what}"


@functools.cache
def _store() -> TCPStore:
    """torchrun's store; without torchrun (another launcher set the same variables) one of the first process."""
    from torch.distributed import TCPStore

    host = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and rank() == 0
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(*address, is_master=host, wait_for_workers=False, timeout=timedelta(minutes=5))


def _say(what: str, text: str) -> None:
    """Tell the other processes something about this run; what was said once stays."""
    with contextlib.suppress(RuntimeError):  # torchrun is gone
        _store().compare_set(_key(what), "", text or "yes")


def _heard(what: str, seconds: float = 0) -> bool:
    """Whether a process has said something about this run, or does so within some seconds."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(RuntimeError):
        while not (found := _store().check([_key(what)])) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found
    return False
