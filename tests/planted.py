"""Run directories with planted predictions, as lessons leave them: for what reads runs, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from labutil import evaluation, models, runs
from labutil.compare import results
from labutil.compare.results import Board

# What lessons call their methods (04: by its parameter `method`) and what their trainings minimise.
LABELS = {"02": "supervised", "03": "transfer", "05": "SupCon", "06": "autoencoder"}
METHODS = {
    "simclr": ("SimCLR", "InfoNCE"), "byol": ("BYOL", "BYOL"), "simsiam": ("SimSiam", "SimSiam"),
    "barlow_twins": ("Barlow Twins", "Barlow Twins"),
}  # fmt: skip
CLASSES = ("basophil", "eosinophil", "erythroblast", "lymphocyte")
Y = np.arange(240) % 4


def guesses(y_true: np.ndarray, share: float, seed: int, k: int = 4) -> np.ndarray:
    """Probabilities (N, K) of a method with about this share right; easy images are the same for all seeds."""
    n = len(y_true)
    ease, rng = np.random.default_rng(99).random(n), np.random.default_rng(seed)
    right = 0.7 * ease + 0.3 * rng.random(n) < share
    y_pred = np.where(right, y_true, (y_true + rng.integers(1, k, n)) % k)
    sure = np.full((n, k), 0.0)
    sure[np.arange(n), y_pred] = rng.uniform(1.0, 4.0, n)
    p = np.exp(sure)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def label_of(notebook: str, params: dict[str, Any]) -> str | None:
    """As the lesson gives it; None for lessons 01 and 07, which are no methods."""
    return LABELS.get(notebook[:2], METHODS.get(params.get("method"), (None,))[0])


def criterion_of(name: str, params: dict[str, Any]) -> str | None:
    """What the lesson says that the fit of this name minimises; None for those of rivals."""
    if name == "pretrain" and params.get("method") in METHODS:
        return METHODS[params["method"]][1]
    own = {"autoencoder": params.get("loss", "mse").upper(), "SupCon": "SupCon"}
    main = {"supervised", "linear", "head", "fine-tune", "everything", "linear, SupCon"}
    return own.get(name, "cross-entropy" if name in main else None)


def leave_run(
    root: Path,
    notebook: str,
    *,
    y_true: np.ndarray = Y,
    share: float = 0.7,
    seed: int = 0,
    params: dict[str, Any] | None = None,
    recipe: str | None = None,
    classes: tuple[str, ...] = CLASSES,
    dataset: str = "cells",
    fingerprint: str = "f" * 16,
    image_size: int = 16,
    fits: dict[str, dict] | None = None,
    metrics: dict[str, float] | None = None,
    probabilities: np.ndarray | None = None,
    started: str = "2026-01-01T00:00:00+00:00",
    model: str | None = None,
    label: str | None = None,
    groups: list[str] | None = None,
) -> Path:
    """One complete run below root; its directory.

    label, and a criterion in each of fits: as the notebook's lesson gives them, where they are left out; "": none.
    """
    params = {"dataset": dataset, "image_size": image_size, "data_seed": 0} | (params or {}) | {"seed": seed}
    directory = root / notebook / f"run{len(list(root.glob('*/*'))):03d}"
    directory.mkdir(parents=True)
    record = runs.new_record(notebook, recipe, params) | {"started": started}
    record["dataset"] = {
        "name": dataset, "fingerprint": fingerprint, "classes": list(classes), "image_size": image_size,
        "sizes": {"train": 4 * len(y_true), "val": len(y_true), "test": len(y_true)},
    }  # fmt: skip
    record["label"] = label_of(notebook, params) if label is None else label or None
    record["fits"] = {k: {"criterion": criterion_of(k, params)} | fit for k, fit in (fits or {}).items()}
    run = runs.Run(directory, record, groups=groups)
    k = len(classes)
    if probabilities is None:
        probabilities = guesses(y_true, share, seed + 1000 * sum(map(ord, notebook + str(params.get("method")))), k)
    found = evaluation.classification_metrics(y_true, probabilities)
    run.log(**{f"test_{name}": value for name, value in found.items()}, train_seconds=10.0 + seed)
    run.log(chance_accuracy=float(np.bincount(y_true).max() / len(y_true)), **(metrics or {}))
    run.save_predictions(y_true, probabilities)
    if model:
        run.save_model(models.rebuild({"encoder": model, "channels": 3, "image_size": image_size, "num_classes": k}))
    record["status"] = "complete"
    run.save()
    return directory


def board_of(root: Path) -> Board:
    """The one board of the runs below root."""
    (board,) = results.collect(root).boards
    return board
