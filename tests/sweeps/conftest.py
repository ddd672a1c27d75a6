"""Notebooks small enough to be swept in tests: one that only computes a number, one that trains with `fit`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from labutil import runs
from labutil.runs import parameters
from labutil.sweeps import local

PARAMETERS = """\
lr: float = 0.1  # rate
kind: str = "plain"  # plain, or how to fail: error, nonfinite, dead
sizes: list[int] = [4]  # widths
bend: bool = False  # whether
limit: int | None = None  # at most
epochs: int = 3  # passes
pause: float = 0.0  # seconds an epoch
seed: int = 0  # seed"""
COUNT = """\
import os, signal, time
from pathlib import Path
import pandas as pd
from labutil.runs import Run, read_record
directory = Path(os.environ["LABUTIL_RUN_DIR"])
run = Run(directory, read_record(directory), resume=True)
with open(os.environ.get("STUB_LOG", os.devnull), "a") as log:
    log.write(f"{lr} {kind} {seed}\\n")
if kind == "error":
    raise ValueError("asked to fail")
if kind == "nonfinite":
    raise FloatingPointError("fit 'main': train_loss is nan in epoch 1")
if kind == "dead":
    os.kill(os.getpid(), signal.SIGKILL)
rows = []
run.save_fit("main", {"epochs": epochs, "monitor": "val_accuracy", "images": 10})
for epoch in range(1, epochs + 1):
    time.sleep(pause)
    value = 1 - (lr - 0.3) ** 2 - seed / 1000 - 0.5 / epoch
    rows.append({"epoch": epoch, "val_accuracy": value})
    run.save_history("main", pd.DataFrame(rows))
run.save_fit("main", {"epochs": epochs, "epochs_run": epochs, "monitor": "val_accuracy", "images": 10})"""
TRAIN = """\
import os, time
from types import SimpleNamespace
import torch
from torch import nn
from labutil import device
from labutil.runs import open_run
from labutil.training import fit
torch.set_num_threads(1)
run = open_run("98_stub", globals())
with open(os.environ.get("STUB_LOG", os.devnull), "a") as log:
    log.write(f"{lr} {kind} {seed}\\n")
draw = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (64, 1, 8, 8), generator=draw, dtype=torch.uint8)
data = SimpleNamespace(images=images, labels=images.flatten(1).float().mean(1).gt(127.5).long())
model = device.prepare(nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 2)))
def step(x, y):
    time.sleep(pause / 4)
    return nn.functional.cross_entropy(model(x + torch.rand(x.shape, generator=device.generator("augment")) / 10), y)
def validate():
    model.eval()
    with torch.no_grad():
        logits = model(device.to_float(data.images))
    loss = nn.functional.cross_entropy(logits, data.labels).item()
    return {"val_loss": loss, "val_accuracy": 1 / (1 + loss)}
history = fit(step, [model], data, epochs=epochs, batch_size=16, lr=lr, validate=validate, run=run, name="main")
value = history.val_accuracy.iloc[-1]"""
FINISH = "run.log(val_accuracy=value, test_accuracy=value / 2)\nrun.finish()"


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    made = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    lesson = nbformat.v4.new_code_cell("raise RuntimeError('only for readers')", metadata={"tags": ["lesson"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[*made[:-1], lesson, made[-1]]), path)
    return path


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A notebook whose val_accuracy is best at lr=0.3 and falls with the seed; it imports no torch."""
    return write_notebook(tmp_path / "98_stub.ipynb", COUNT, FINISH)


@pytest.fixture
def trainer(tmp_path: Path) -> Path:
    """A notebook that trains a small model by `fit`, with a checkpoint every epoch."""
    return write_notebook(tmp_path / "98_stub.ipynb", TRAIN, FINISH)


def command(notebook: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "labutil", "sweep", str(notebook), "--out", str(out), "--name", "s", *options]


def sweep(notebook: Path, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """`labutil sweep` in a process of its own."""
    return subprocess.run(
        command(notebook, out, *options), capture_output=True, text=True, check=False, env=os.environ | environment
    )


class Instant:
    """A launcher whose runs take no time: each leaves what `outcome(params)` says, a dict that run.json is updated by.

    started: the parameters of each run, in order. A run with history leaves it as history.csv.
    """

    outlives = False

    def __init__(self, outcome: Callable[[dict], dict], stop_after: int | None = None) -> None:
        self.outcome, self.started, self.stop_after = outcome, [], stop_after

    def start(self, command: list[str], directory: Path, environment: dict[str, str]) -> Ended:
        if self.stop_after is not None and len(self.started) >= self.stop_after:
            raise KeyboardInterrupt
        at = command.index("--out") + 2
        overrides = {command[i + 1]: command[i + 2] for i in range(at, len(command), 3)}
        params = parameters.plan(Path(command[4]), None, overrides)
        self.started.append(params)
        directory.mkdir(parents=True, exist_ok=True)
        record = runs.new_record("98_stub", None, params, core=True) | {"status": "complete", "seconds": 1.0}
        record["started"] = f"{len(self.started)} of {id(self)}"
        record |= self.outcome(params)
        history = record.pop("history", [])
        rows = [f"main,{epoch},{value}" for epoch, value in enumerate(history, 1)]
        (directory / "history.csv").write_text("\n".join(["fit,epoch,val_accuracy", *rows]))
        facts = {"epochs": params["epochs"], "epochs_run": len(history), "images": 10, "monitor": "val_loss"}
        record["fits"] = {"main": facts}
        runs.write_json(directory / "run.json", record)
        return Ended()


class Ended:
    def running(self) -> bool:
        return False

    def stop(self) -> None: ...


@pytest.fixture
def instantly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Instant]:
    """Replace processes by instant runs; gives the launcher that takes their place."""

    def replace(outcome: Callable[[dict], dict], **options: int) -> Instant:
        launcher = Instant(outcome, **options)
        monkeypatch.setattr(local, "Processes", lambda: launcher)
        monkeypatch.setattr(local, "POLL", 0.0)
        monkeypatch.setattr(local, "PATIENCE", 0.01)
        return launcher

    return replace
