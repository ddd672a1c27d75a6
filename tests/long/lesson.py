"""A notebook for sweeps that trains for real, a little: `write` leaves it in a folder.

It leaves marks in its run's directory: a line a sitting in sittings.txt, a line for every epoch computed in epochs.txt.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pandas as pd

EPOCHS = 12
PARAMETERS = f"""\
seed: int = 0  # drives the weights and the order
lr: float = 0.1  # learning rate
epochs: int = {EPOCHS}  # passes over the images
pause: float = 0.4  # seconds a batch waits, so that there is time to interrupt"""
OPEN = """\
import os
from labutil.runs import open_run

run = open_run("99_lesson", globals())
with open(run.dir / "sittings.txt", "a") as file:
    print(os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT"), file=file)"""
TRAIN = """\
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from labutil import device
from labutil.training import fit

g = torch.Generator().manual_seed(0)
images = torch.rand(64, 1, 8, 8, generator=g)
data = SimpleNamespace(images=images, labels=images.flatten(1)[:, :3].argmax(1))
model = device.prepare(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))

def step(x, y):
    time.sleep(pause)
    return F.cross_entropy(model(x), y)

def validate():
    with open(run.dir / "epochs.txt", "a") as file:
        print("epoch", file=file)
    with torch.no_grad():
        return (model(images).argmax(1) == data.labels).float().mean().item()

history = fit(step, [model], data, epochs=epochs, batch_size=16, lr=lr, validate=validate, monitor="val_accuracy",
              run=run, name="main")
run.log(val_accuracy=history.val_accuracy.iloc[-1])"""


def write(folder: Path) -> Path:
    """Leave 99_lesson.ipynb in a folder."""
    cells = [nbformat.v4.new_markdown_cell("# A lesson\n\n## Training")]
    for source in (PARAMETERS, OPEN, TRAIN, "run.finish()"):
        cells.append(nbformat.v4.new_code_cell(source))
    cells[1].metadata["tags"] = ["parameters"]
    path = folder / "99_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def sittings(run: Path) -> list[str]:
    """A line for each time that the notebook was begun: the SLURM job's id, and how often that was requeued."""
    return (run / "sittings.txt").read_text().splitlines()


def check_history(run: Path) -> None:
    """Every epoch is there once, and what was computed before an interruption was not computed again."""
    history = pd.read_csv(run / "history.csv")
    assert list(history.epoch) == list(range(1, EPOCHS + 1))
    computed = len((run / "epochs.txt").read_text().splitlines())
    # One epoch a sitting may have been cut off between its measure and its checkpoint.
    assert EPOCHS <= computed < EPOCHS + len(sittings(run))
