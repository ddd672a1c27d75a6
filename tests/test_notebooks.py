"""The committed notebooks, executed: at smoke size by `labutil run` and by nbval, and every recipe, cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image

from labutil import cli, parameters, runs

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
RECIPES = ROOT / "notebooks" / "recipes"
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


# What a lesson records beside the metrics of every lesson.
OWN_METRICS = {
    "01": ("duplicate_recall", "duplicate_precision", "outlier_recall", "outlier_precision", "label_issue_auroc"),
    "02": ("random_encoder_knn_accuracy",),
    "04": (
        "knn_accuracy",
        "random_encoder_knn_accuracy",
        "linear_accuracy",
        "retrieval_top5",
        "ood_knn_accuracy",
        "val_knn_accuracy",
        "val_linear_accuracy",
        "val_retrieval_top5",
        "supervised_accuracy",
    ),
    "05": (
        "knn_accuracy",
        "random_encoder_knn_accuracy",
        "linear_accuracy",
        "ood_knn_accuracy",
        "val_knn_accuracy",
        "val_linear_accuracy",
        "simclr_linear_accuracy",
        "supervised_accuracy",
    ),
}


def command(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "labutil", *map(str, args)],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


@each_notebook
def test_smoke_run_leaves_a_record(notebook, tmp_path):
    args = ("run", notebook.stem, "--recipe", "smoke", "--out", tmp_path)
    done = command(*args)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (directory,) = (tmp_path / notebook.stem).iterdir()
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["recipe"] == "smoke"
    assert set(record["dataset"]) == {"name", "fingerprint", "sizes", "classes", "image_size"}
    assert set(record["params"]) == set(parameters.read_parameters(notebook))
    assert {"device", "precision", "commit", "torch"} <= set(record["environment"])
    metrics = record["metrics"]
    promised = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc", "errors", "ece"}
    assert {f"test_{name}" for name in promised} <= set(metrics)
    assert {"chance_accuracy", "val_accuracy", "train_seconds", *OWN_METRICS.get(notebook.stem[:2], ())} <= set(metrics)
    with np.load(directory / "predictions.npz") as file:
        assert file["probabilities"].shape == (record["dataset"]["sizes"]["test"], len(record["dataset"]["classes"]))
        accuracy = (file["probabilities"].argmax(1) == file["y_true"]).mean()
    assert accuracy == pytest.approx(metrics["test_accuracy"])
    if notebook.stem[:2] == "01":
        assert len(pd.read_csv(directory / "cleaning_report.csv")) > 20
        with np.load(directory / "cleaned.npz") as file:
            sizes = record["dataset"]["sizes"]
            assert len(file["train_images"]) == sizes["train"] - metrics["removed_images"]
            assert len(file["test_labels"]) == sizes["test"]
    else:
        history = pd.read_csv(directory / "history.csv")
        assert {"fit", "epoch", "lr", "train_loss", "val_loss", "seconds"} <= set(history)
        assert (directory / "model.safetensors").exists()
    assert len(list((directory / "figures").glob("*.png"))) >= 4
    for cell in json.loads((directory / "notebook.ipynb").read_text())["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output
    again = command(*args)
    assert "already complete" in again.stdout
    same = command(*args, "--force")
    assert same.returncode == 0, same.stderr
    # Two identical runs differ in nothing but time.
    repeated = json.loads((directory / "run.json").read_text())["metrics"]
    timed = ("seconds", "per_second")
    assert {k: v for k, v in repeated.items() if not any(t in k for t in timed)} == {
        k: v for k, v in metrics.items() if not any(t in k for t in timed)
    }


@each_notebook
def test_nbval_agrees_with_the_committed_outputs(notebook, tmp_path):
    """Cells marked NBVAL_CHECK_OUTPUT print the same at smoke size, in a kernel that papermill did not start."""
    copy = tmp_path / notebook.name
    settings = cli.plan(notebook, "smoke", {})
    papermill.execute_notebook(str(notebook), str(copy), settings, prepare_only=True)
    marked = sum("NBVAL_CHECK_OUTPUT" in "".join(c["source"]) for c in json.loads(copy.read_text())["cells"])
    assert marked >= 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-kernel-name", "python3", "--nbval-cell-timeout", "300",
         "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, copy],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


def images(n, side, channels, classes, seed=0):
    g = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    patches = g.integers(0, 100, (n, 6, 6, channels)).repeat(-(-side // 6), 1).repeat(-(-side // 6), 2)
    pixels = patches[:, :side, :side] + g.integers(0, 28, (n, side, side, channels))
    pixels = pixels + (labels % 7 * 18)[:, None, None, None]
    return pixels.astype(np.uint8), labels


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """Data of the shape that each recipe is for: its name (or the kind of its path) -> a specification."""
    root = tmp_path_factory.mktemp("standins")
    for name, (side, classes) in {
        "cifar100": (32, 100),
        "cells": (96, 8),
        "bloodmnist@128": (128, 8),
        "tiny_imagenet": (64, 30),
    }.items():
        pixels, labels = images(4 * max(classes, 20), side, 3, classes)
        np.savez(root / f"{name}.npz", images=pixels, labels=labels)
    pixels, labels = images(75, 200, 3, 15)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / "scenes" / f"scene{label:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.jpg")
    arrays = {path.stem: f"npz:{path}" for path in root.glob("*.npz")}
    return arrays | {"folder": f"folder:{root}/scenes"}


# What makes a run of any lesson short; a lesson takes those that it has.
CUT = {
    "probe": [2, 64, 0.01],
    "supervised_epochs": 1,
    "epochs": 1,
    "seeds": 1,
    "study_epochs": 1,
    "study_seeds": 1,
    "study_subset": 40,
}


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipes_run_cut_to_a_few_steps(path, stand_ins, tmp_path):
    notebook = ROOT / "notebooks" / f"{path.stem}.ipynb"
    declared = parameters.read_parameters(notebook)
    settings = parameters.read_recipe(RECIPES, path.parent.name, path.stem)
    wanted = settings.get("dataset", declared["dataset"].default)
    cut = {k: v for k, v in CUT.items() if k in declared} | {"dataset": stand_ins[wanted.split(":")[0]]}
    _, record, _ = runs.execute(notebook, parameters.merge(notebook, settings, cut), out=tmp_path)
    assert record["status"] == "complete"
