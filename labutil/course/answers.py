"""What a lesson goes on with where an exercise is not solved: `lab.checks.NAME(yours).or_use(answers.NAME)`.

Only those that no other module has; most lessons fall back on a loss or a metric of the core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """In how many bits each row of a (N, D) differs from each of b (M, D), both bool: int64 (N, M). Lesson 01."""
    a, b = a.float(), b.float()
    return (a @ (1 - b).T + (1 - a) @ b.T).long()


def robust_z(x: Tensor) -> Tensor:
    """How many robust standard deviations (1.4826 median absolute deviations) each value of x (N,) lies above the
    median: float (N,). Lesson 01."""
    deviation = x - x.median()
    return deviation / (1.4826 * deviation.abs().median())


def arms(rows: np.ndarray, removed: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rows to train on for a fair test of a cleaning step: all of them, those that are left, and a control that is
    smaller by as many at random. rows, removed: int (N,), (M,), of which some may not be in rows. Lesson 01."""
    cleaned = np.setdiff1d(rows, removed)
    control = np.random.default_rng(seed).choice(rows, len(cleaned), replace=False)
    return {"as it came": rows, "cleaned": cleaned, "control": control}


def bce_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The gradient of the mean binary cross-entropy of x, in [0, 1], with respect to the logits. Lesson 06."""
    return (logits.sigmoid() - x) / x.numel()


def pca_error(x: Tensor, k: int) -> Tensor:
    """The least mean squared error of any linear code of k numbers for x (N, D): a scalar. Lesson 06."""
    return torch.linalg.svdvals(x - x.mean(0))[k:].square().sum() / x.numel()


def fair_control(ours: dict[str, Any]) -> dict[str, Any]:
    """The rival that tells what pre-training is worth: ours but for the start, with five seeds. Lesson 06."""
    return ours | {"start": "random encoder", "seeds": [0, 1, 2, 3, 4]}
