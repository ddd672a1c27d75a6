"""What a lesson goes on with where an exercise is not solved: `lab.checks.NAME(yours).or_use(answers.NAME)`.

Only those that no other module has; most lessons fall back on a loss or a metric of the core.
"""

from __future__ import annotations

import math
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


def positives(labels: Tensor) -> Tensor:
    """Which rows of torch.cat([z_a, z_b]) attract each other, as views of images with one label, int (N,): bool (2N,
    2N), False for a row with itself. Lesson 05."""
    y = labels.repeat(2)
    return (y[:, None] == y) & ~torch.eye(len(y), dtype=torch.bool)


def l_out(log_p: Tensor, mask: Tensor) -> Tensor:
    """SupCon's loss from log probabilities (M, M), anchors in rows, and their positives, bool (M, M). Lesson 05."""
    count = mask.sum(1)
    per_view = -log_p.masked_fill(~mask, 0).sum(1) / count.clamp(min=1)
    return per_view[count > 0].mean()


def lowest_loss(batch_size: int, k: int, views: int) -> float:
    """What SupCon's loss comes to when k classes of equal size are k points, far from each other. Lesson 05."""
    return math.log(views * batch_size / k - 1)


def bce_gradient(logits: Tensor, x: Tensor) -> Tensor:
    """The gradient of the mean binary cross-entropy of x, in [0, 1], with respect to the logits. Lesson 06."""
    return (logits.sigmoid() - x) / x.numel()


def pca_error(x: Tensor, k: int) -> Tensor:
    """The least mean squared error of any linear code of k numbers for x (N, D): a scalar. Lesson 06."""
    return torch.linalg.svdvals(x - x.mean(0))[k:].square().sum() / x.numel()


def fair_control(ours: dict[str, Any]) -> dict[str, Any]:
    """The rival that tells what pre-training is worth: ours but for the start, with five seeds. Lesson 06."""
    return ours | {"start": "random encoder", "seeds": [0, 1, 2, 3, 4]}


def paired_bootstrap(right_a: Tensor, right_b: Tensor, drawn: Tensor) -> Tensor:
    """Differences in accuracy, float (B,), of two methods, bool (N,), on test sets drawn (B, N) from the images.
    Lesson 07."""
    return (right_a.float() - right_b.float())[drawn].mean(1)


def seeds_needed(gap: float, seed_std: float, image_std: float) -> float:
    """Runs of each of two methods, 2 or more, with which four of five experiments find a true gap between them, inf
    where no number does. seed_std: between a method's runs. image_std: of the difference, by images. Lesson 07."""
    left = (gap / 2.8) ** 2 - image_std**2
    return max(2, math.ceil(2 * seed_std**2 / left)) if left > 0 else math.inf
