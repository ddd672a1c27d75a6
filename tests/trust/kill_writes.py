"""What test_kill_writes.py runs in a process of its own: small tasks that are killed at each of their writes in turn.

python kill_writes.py TASK FOLDER STEP: prints a JSON object of {"writes": how many, "wrong": {number: what}}; every
STEP-th write is tried. A trial is a fork, so that nothing is imported again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from labutil import device, models, paths, runs
from labutil.cleaning import command
from labutil.data import load_dataset
from labutil.evaluation import predict
from labutil.runs import execute
from labutil.training import fit

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.utime"}
PARAMS = {"seed": 0, "dataset": "cells:48"}


def lesson() -> None:
    """What the cells of a lesson do: data, two fits with checkpoints, a figure, predictions, a model."""
    data = load_dataset("cells:48", image_size=8)
    run = runs.open_run("99_lesson", {}, data, label="tiny")
    network = models.encoder("resnet8", image_size=8, channels=3)
    model = device.prepare(models.Classifier(network, len(data.classes)))

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x + torch.rand(x.shape, generator=device.generator("augment"))), y)

    for name in ("first", "second"):
        fit(step, [model], data.train, epochs=2, batch_size=32, lr=0.01, run=run, name=name)
    probabilities = predict(model, data.test.images).softmax(1)
    run.log(test_accuracy=(probabilities.argmax(1) == data.test.labels).float().mean().item())
    run.save_predictions(data.test.labels, probabilities)
    run.save_model(model)
    run.finish()


def papermill(notebook: Path, params: dict[str, Any], directory: Path, core: bool) -> None:
    """In place of a kernel: the lesson, here, after papermill's own write."""
    os.environ["LABUTIL_RUN_DIR"] = str(directory)
    lesson()


class Killer:
    """Kills this process before its n-th write, or in the middle of it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number, self.count = str(folder), number, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Count what Python opens for writing, renames, deletes and syncs below the folder, and files half written."""

        def hear(event: str, args: tuple) -> None:
            if event == "open":
                path, _, flags = args
                if isinstance(path, str | Path) and flags & (os.O_WRONLY | os.O_RDWR) and self.folder in str(path):
                    self()
            elif event in WRITES and self.folder in str(args[0]):
                self()

        sys.addaudithook(hear)
        fsync, replace_file = os.fsync, paths.replace_file

        def synced(file: int) -> None:
            self()
            fsync(file)

        def halved(path: Path, write: Any, **options: Any) -> None:
            def half(temporary: Path) -> None:
                write(temporary)
                self.count += 1
                if self.count == self.number:
                    os.truncate(temporary, temporary.stat().st_size // 2)
                    os.kill(os.getpid(), signal.SIGKILL)

            replace_file(path, half, **options)

        os.fsync = synced
        for module in list(sys.modules.values()):
            if module.__name__.startswith("labutil") and getattr(module, "replace_file", None) is replace_file:
                module.replace_file = halved


def run(folder: Path) -> None:
    """A notebook as a program."""
    execute._papermill = papermill
    notebook = folder.parent / "99_lesson.ipynb"
    if not notebook.exists():
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "seed: int = 0  # seed"}
        notebook.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    execute.run_notebook(notebook, PARAMS, out=folder / "out")


def clean(folder: Path) -> None:
    """A folder of images judged, which fills three kinds of cache, and a new one made by the table of decisions."""
    pictures = folder.parent / "pictures"
    for i in range(0 if pictures.exists() else 24):
        (pictures / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i // 4 * 4).integers(0, 256, (16, 16, 3), np.uint8)  # some are copies
        Image.fromarray(pixels).save(pictures / "ab"[i % 2] / f"{i}.png")
    command.clean(f"folder:{pictures}", folder / "out")
    if not (folder / "out" / "cleaned").exists():
        command.apply(folder / "out" / "decisions.csv", None, None)


TASKS = {"run": run, "clean": clean}


def once(task: str, folder: Path) -> None:
    os.environ["LABUTIL_DATA"] = str(folder / "data")
    with contextlib.redirect_stdout(io.StringIO()):
        TASKS[task](folder)


def trial(task: str, folder: Path, number: int) -> int:
    """Run the lesson in a fork that is killed at its n-th write (0: never). Returns how it ended: a signal below 0,
    else an exit code; with 0, FOLDER/writes says how many there were."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        killer = Killer(folder, number)
        killer.watch()
        once(task, folder)
        (folder.parent / "writes").write_text(str(killer.count))
        code = 0
    finally:
        os._exit(code)


def left(folder: Path) -> dict[str, Any]:
    """What is below a folder: for each file what it says, but for times."""
    found: dict[str, Any] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = re.sub(r"\.lock\.\d+$", ".lock", file.relative_to(folder).as_posix())
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        if file.name == "run.json":
            record = json.loads(file.read_text())
            found[name] = [record[key] for key in ("status", "metrics", "fits", "dataset", "params", "model")]
        elif file.suffix == ".csv":
            found[name] = pd.read_csv(file).drop(columns=["seconds", "images_per_second"], errors="ignore").to_csv()
        elif file.suffix == ".npz" and not file.name.startswith("."):
            found[name] = {key: value.tolist() for key, value in np.load(file).items() if key != "seconds"}
        elif ".lock" in name:
            found[name] = None
    return found


def main(task: str, folder: Path, step: int) -> None:
    once(task, folder / "first")  # which imports what is imported late
    whole = folder / "whole"
    assert trial(task, whole, 0) == 0
    writes, expected, wrong = int((folder / "writes").read_text()), left(whole), {}
    for number in range(1, writes + 1, step):
        cut = folder / f"cut{number}"
        first, again = trial(task, cut, number), trial(task, cut, 0)
        found = left(cut)
        differs = sorted(n for n in {*found, *expected} if found.get(n, 0) != expected.get(n, 0))
        if first != -signal.SIGKILL or again != 0 or differs:
            wrong[number] = [first, again, differs]
    print(json.dumps({"writes": writes, "wrong": wrong}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]).resolve(), int(sys.argv[3]))
