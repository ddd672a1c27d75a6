"""Exercise checks of lesson 06."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from labutil.course.checks.classification import AUTOGRAD
from labutil.course.checks.frame import Wrong, call, checked, hidden, judge, seeded


@checked(
    refuses=(
        *("torch.nn.functional.binary_cross_entropy_with_logits", "labutil.losses.reconstruction_loss"),
        *("labutil.course.answers.bce_gradient", *AUTOGRAD),
    )
)
def bce_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, x) -> same shape`: derivative of the mean binary cross-entropy with respect to the logits."""
    g = seeded(0)
    logits, x = 2 * torch.randn(3, 1, 4, 4, generator=g), torch.rand(3, 1, 4, 4, generator=g)
    p = logits.sigmoid()
    total, slope = p - x, p * (1 - p)
    expected = total / x.numel()
    by_p = "that is the derivative with respect to p; the chain rule's p (1 - p) cancels its denominator"
    mistakes = {
        "the loss is a mean over all pixels of all images, so divide by their number": total,
        "divide by the number of pixels in the batch, not by the number of images": total / 3,
        "divide by the number of images as well: the loss is a mean over the batch": total / 16,
        "the sign is turned round: a logit that is too high must fall": -expected,
        by_p: expected / slope,
        "that is MSE's gradient (up to a factor): for cross-entropy the p (1 - p) cancels": expected * slope,
        "p is the sigmoid of the logits": (logits - x) / x.numel(),
    }
    mistakes = {reason: (value, 2 * value) for reason, value in mistakes.items()}
    judge(call(function, logits, x), expected, mistakes, atol=1e-6)
    return "It fades only where p = x. MSE's has the factor p (1 - p) as well, and so fades where p is wrong and sure."


@checked(refuses=("labutil.course.answers.pca_error",))
def pca_error(function: Callable[[Tensor, int], Tensor]) -> str:
    """`function(x, k) -> scalar`: least mean squared error of any linear code of k numbers; x (N, D) float64."""
    g = seeded(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64) * torch.tensor([80, 60, 10, 8, 1, 0.5]) + 20
    values = torch.linalg.svdvals(x - x.mean(0))
    squares, raw = values**2, torch.linalg.svdvals(x) ** 2
    for k in (2, 4):
        left = squares[k:].sum()
        mistakes = {
            "that is what the code keeps; the error is what it leaves out": squares[:k].sum() / x.numel(),
            "the mean is over the D values as well": left / 40,
            "the mean is over N images, not N - 1": left / (39 * 6),
            "take the mean off first: it costs the code nothing": raw[k:].sum() / x.numel(),
            "the mean image is one number for each of the D values: x.mean(0)": tuple(
                (torch.linalg.svdvals(x - mean)[k:] ** 2).sum() / x.numel() for mean in (x.mean(), x.mean(1)[:, None])
            ),
            "squared errors want squared singular values": values[k:].sum() / x.numel(),
            "one component too many is kept": squares[k + 1 :].sum() / x.numel(),
            "that is the error of the mean image, k = 0": squares.sum() / x.numel(),
        }
        judge(call(function, x, k), left / x.numel(), mistakes, f"for k = {k}", rtol=1e-3)  # pca_lowrank is not exact
    return "A linear autoencoder needs no training; what a deep one gains over this line is what its layers are worth."


@checked(refuses=("labutil.course.answers.fair_control",))
def fair_control(function: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    """`function(ours) -> settings of the rival`: the control that decides whether it was pre-training that made a
    classifier good. Both have start, labels, epochs, head and seeds."""
    for ours in (
        {"start": "autoencoder", "labels": 0.1, "epochs": [2, 16], "head": [64], "seeds": [0]},
        {"start": "autoencoder", "labels": 0.5, "epochs": [1, 6], "head": [32, 16], "seeds": [7]},
        *hidden(
            lambda rng: [{"start": "autoencoder", "labels": rng.random(), "epochs": [1, 3], "head": [9], "seeds": [1]}]
        ),
    ):
        rival = call(function, ours)
        if not isinstance(rival, dict) or set(rival) != set(ours):
            raise Wrong(f"the answer is a dictionary with what ours has: {', '.join(ours)}")
        if rival["start"] != "random encoder":
            why = {
                "autoencoder": "ours once more: a rival that has learned to draw cannot say what drawing is worth",
                "SimCLR": "that asks which teacher is better; only a rival without one tells if ours is any good",
            }
            raise Wrong(why.get(str(rival["start"]), 'start is "random encoder", "autoencoder" or "SimCLR"'))
        reasons = {
            "labels": "with another share of labels a difference may be owed to the labels",
            "epochs": "with other epochs a difference may be owed to the training; that drawing took time as well is a "
            "question of its own, about costs",
            "head": "with another head a difference may be owed to the head",
        }
        for key, reason in reasons.items():
            if rival[key] != ours[key]:
                raise Wrong(f"{key}: ours has {ours[key]}, the rival {rival[key]}; {reason}")
        seeds = rival["seeds"]
        if not isinstance(seeds, list | tuple | range) or not all(isinstance(seed, Integral) for seed in seeds):
            raise Wrong("seeds is a list of whole numbers, one for each run")
        if len(seeds) != len(set(seeds)):
            raise Wrong("the same seed twice is the same run twice")
        if len(seeds) < 3:
            raise Wrong(f"{len(seeds)} of the three runs, at least, that it takes to tell a difference from luck")
    return "The rivals differ in their start alone, so a difference that is more than luck is owed to it."
