"""What a lesson goes on with where an exercise is not solved: `lab.checks.NAME(yours).or_use(answers.NAME)`.

Only those that no other module has; most lessons fall back on a loss or a metric of the core.
"""

from __future__ import annotations

import numpy as np
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


def fold(mean: Tensor, axes: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """W (K, D) and b (K,) with W @ x + b = weight @ (axes @ (x - mean)) + bias. Lesson 03; `probe_head` does it too."""
    folded = weight @ axes
    return folded, bias - folded @ mean


def search_report(val: Tensor, test: Tensor) -> Tensor:
    """Of settings with these accuracies (S,): the test accuracy of the one that is best on validation. Lesson 03."""
    return test[val.argmax()]


def grad_cam(maps: Tensor, gradients: Tensor) -> Tensor:
    """Maps (D, h, w) weighted by the mean of their gradients, added up, and cut off at 0: (h, w). Lesson 03."""
    return (maps * gradients.mean((1, 2), keepdim=True)).sum(0).relu()
