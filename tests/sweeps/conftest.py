"""Notebooks small enough to be swept in tests: one that only computes a number, one that trains with `fit`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

PARAMETERS = """\
lr: float = 0.1  # rate
kind: str = "plain"  # plain, or how to fail: error, nan, dead
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
if kind == "nan":
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
