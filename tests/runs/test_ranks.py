"""`torchrun ... -m labutil run`: one command decides, writes and prints; a process that fails ends all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from labutil import runs
from labutil.runs import locks

pytestmark = pytest.mark.long

OPEN = "from labutil import device\nfrom labutil.runs import open_run\nrun = open_run('99_lesson', globals())"
TRAIN = """
import os, time
import torch, torch.nn.functional as F
from types import SimpleNamespace
from torch import nn
from labutil import evaluation
from labutil.training import fit
g = torch.Generator().manual_seed(0)
data = SimpleNamespace(images=torch.randint(0, 256, (63, 1, 8, 8), generator=g, dtype=torch.uint8),
                       labels=torch.randint(0, 3, (63,), generator=g))
model = device.prepare(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)))
def step(x, y):
    time.sleep(pause)
    if fails == int(os.environ["RANK"]):
        {action}
    return F.cross_entropy(model(x), y)
fit(step, [model], data, epochs=epochs, batch_size=16, lr=0.1, run=run, name="main")
run.save_predictions(data.labels, evaluation.predict(model, data.images).softmax(1))
run.save_model(model)
run.log(val_accuracy=0.5)
"""


def lesson(folder: Path, action: str = "pass") -> Path:
    """A small notebook whose process number `fails` does something in its first step."""
    cells = [nbformat.v4.new_markdown_cell("# Title\n\n## Training")]
    parameters = "seed: int = 0  # seed\nepochs: int = 3  # passes\nfails: int = -1  # process\npause: float = 0.0  # s"
    sources = [parameters, OPEN, TRAIN.replace("{action}", action), "run.finish()"]
    for source, tags in zip(sources, (["parameters"], [], [], []), strict=True):
        cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    path = folder / "99_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def start(count: int, *arguments: object, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    program = [*command, "-m", "labutil", "run", *map(str, arguments), "--out", str(out)]
    environment = os.environ | {"LABUTIL_PRECISION": "fp32", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen, out: Path) -> tuple[str, str]:
    """What a job printed; no process of it is left."""
    text, errors = process.communicate(timeout=400)
    deadline = time.monotonic() + 10
    while left := [p for p in psutil.process_iter() if belongs(p, out)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    return text, errors


def belongs(process: psutil.Process, out: Path) -> bool:
    try:
        return process.pid != os.getpid() and str(out) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def record(out: Path) -> tuple[Path, dict]:
    (directory,) = (out / "99_lesson").iterdir()
    return directory, runs.read_record(directory)


def test_two_notebooks_on_two_processes_and_found_again(tmp_path):
    notebook = lesson(tmp_path)
    text, errors = finish(start(2, notebook, notebook, out=tmp_path / "out"), tmp_path)
    assert text.count("99_lesson: complete in ") == 1, errors
    assert text.count("99_lesson: already complete") == 1, "the same notebook a second time, in the same job"
    directory, found = record(tmp_path / "out")
    assert found["status"] == "complete"
    assert found["fits"]["main"]["processes"] == 2
    assert found["environment"]["device"].startswith("2 x cpu")
    assert {p.name for p in directory.iterdir() if p.name[0] != "."} == {
        "run.json", "history.csv", "predictions.npz", "model.safetensors", "notebook.ipynb",
    }  # fmt: skip
    assert len(np.load(directory / "predictions.npz")["y_true"]) == 63
    text, _ = finish(start(2, notebook, out=tmp_path / "out"), tmp_path)
    assert text.count("99_lesson: already complete") == 1
    with locks.acquire(directory):
        job = start(2, notebook, "--force", out=tmp_path / "out")
        text, errors = finish(job, tmp_path)
    assert job.returncode == 1
    assert errors.count("is being run by another process") == 1
    assert runs.read_record(directory) == found


@pytest.mark.parametrize(
    ("action", "who", "message"),
    [
        ("raise ValueError('here')", 1, "process 1 of 3: 99_lesson failed in cell [4] (Training): ValueError: here"),
        ("raise ValueError('here')", 0, "99_lesson failed in cell [4] (Training): ValueError: here"),
        ("os._exit(3)", 2, "process 2 of 3: 99_lesson: its kernel died"),
        ("os.kill(int(os.environ['JPY_PARENT_PID']), 9)", 1, "interrupted"),  # the command itself: torchrun stops all
    ],
)
def test_a_process_that_fails_ends_all_with_its_message(tmp_path, action, who, message):
    notebook = lesson(tmp_path, action)
    began = time.monotonic()
    job = start(3, notebook, "-p", "fails", who, out=tmp_path / "out")
    _, errors = finish(job, tmp_path)
    assert job.returncode == 1
    assert time.monotonic() - began < 120
    assert errors.count(f"labutil: {message}") == 1, errors
    directory, found = record(tmp_path / "out")
    assert found["status"] == "failed"
    assert (directory / "error.txt").read_text().startswith(message.replace("interrupted", "KeyboardInterrupt"))


def test_a_killed_job_continues_and_another_number_of_processes_refuses(tmp_path):
    notebook = lesson(tmp_path)
    arguments = [notebook, "-p", "epochs", "12", "-p", "pause", "0.05"]
    whole = start(2, *arguments, out=tmp_path / "whole")
    finish(whole, tmp_path / "whole")
    cut = start(2, *arguments, out=tmp_path / "out")
    checkpoint = "99_lesson/*/checkpoints/main.pt"
    while not list((tmp_path / "out").glob(checkpoint)):
        assert cut.poll() is None, cut.stderr.read()
        time.sleep(0.02)
    family = [*psutil.Process(cut.pid).children(recursive=True), psutil.Process(cut.pid)]
    for process in family:
        process.kill()
    finish(cut, tmp_path / "out")
    directory, _ = record(tmp_path / "out")
    reached = len(pd.read_csv(directory / "history.csv"))
    assert reached < 12
    alone = start(1, *arguments, out=tmp_path / "out")
    _, errors = finish(alone, tmp_path / "out")
    assert "cannot continue, processes was 2, now 1" in errors
    again = start(2, *arguments, out=tmp_path / "out")
    text, errors = finish(again, tmp_path / "out")
    assert "complete in" in text, errors
    other, _ = record(tmp_path / "whole")
    assert (directory / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    tables = [pd.read_csv(d / "history.csv").drop(columns=["seconds", "images_per_second"]) for d in (directory, other)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("number", ["02", "04"])
def test_a_lesson_on_two_processes_comes_to_what_it_does_on_one(tmp_path, number):
    """Its smoke recipe, with plain gradient descent: the same losses and accuracies, but for rounding and for dropout,
    which each process draws for itself (tests/test_processes.py compares fits without it)."""
    settings = ["--recipe", "smoke", "--core", "-p", "optimizer", "sgd", "-p", "lr", "0.01"]
    records = []
    for count in (1, 2):
        text, errors = finish(start(count, number, *settings, out=tmp_path / str(count)), tmp_path)
        assert "complete in" in text, errors
        (directory,) = (tmp_path / str(count)).glob("*/*")
        history = pd.read_csv(directory / "history.csv")
        records.append((json.loads((directory / "run.json").read_text())["metrics"], history))
    (alone, one), (together, two) = records
    assert set(alone) == set(together)
    assert one.train_loss.to_numpy() == pytest.approx(two.train_loss.to_numpy(), rel=0.03)
    for name, value in alone.items():
        if name.endswith("accuracy"):
            assert together[name] == pytest.approx(value, abs=0.15), name
