"""Exercise checks of lesson 02."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, equal, judge, number, scalar, tensor


@checked
def conv_parameters(function: Callable[[int, int, int, bool], int]) -> str:
    """`function(c_in, c_out, kernel, bias) -> int`: learnable numbers in a convolution with square kernels."""
    for c_in, c_out, kernel, bias in ((3, 32, 5, False), (32, 64, 3, True), (1, 1, 1, True), (7, 4, 3, True)):
        ours = sum(p.numel() for p in torch.nn.Conv2d(c_in, c_out, kernel, bias=bias).parameters())
        weights, biases = c_in * c_out * kernel**2, c_out * bias
        one_each, lines = c_out * kernel**2, c_in * c_out * kernel
        mistakes = {
            "the biases are missing, one for each output channel": weights,
            "there are no biases when bias is False": weights + c_out,
            "a bias belongs to an output channel, not to an input channel": weights + c_in,
            "every output channel has a kernel for each input channel": (one_each, one_each + biases),
            "a kernel has height times width numbers": (lines, lines + biases),
        }
        answer = number(function, c_in, c_out, kernel, bias)
        judge(answer, ours, mistakes, f"conv_parameters({c_in}, {c_out}, {kernel}, {bias})", rtol=0)
    return "The image's size is not in the formula: that is why convolutions scale."


@checked
def cross_entropy(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> scalar`: mean of -log softmax(logits)[y]; logits (N, K) float, y (N,) int64."""
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(7, 5, generator=g), torch.randint(0, 5, (7,), generator=g)
    expected, p = F.cross_entropy(logits, y), logits.softmax(1)
    answer = scalar(call(function, logits, y), {(7,): "that is one loss an image; the batch's loss is their mean"})
    mistakes = {
        "that is the sum over the batch; divide by N, or the learning rate depends on the batch size": 7 * expected,
        "the sign is wrong: a loss is -log p, and at least 0": -expected,
        "that is in bits; use the natural logarithm": expected / math.log(2),
        "the log sum exp is missing: logits are not yet log-probabilities": F.nll_loss(logits, y),
        "that is -p of the right class, the logarithm is missing": F.nll_loss(p, y),
        "softmax is applied twice": F.cross_entropy(p, y),
        "sum over the classes (dim=1), not everything": logits.exp().sum().log() - logits[range(7), y].mean(),
        "classes are in dim 1, images in dim 0": F.cross_entropy(logits.T[:, :5], y[:5]),
    }
    judge(answer, expected, mistakes, "for a random batch")
    large = number(function, torch.tensor([[1000.0, 0.0], [0.0, -1000.0]]), torch.tensor([1, 0]))
    if not equal(large, 500):
        raise Wrong(
            f"right for small logits, but {large:g} where a logit is 1000, and 500 is right: exp(1000) overflows "
            "(subtract each row's largest logit first), or p of the right class underflows to 0 (a small constant only "
            "hides that): never form p, compute -z_y + log sum exp z"
        )
    return "And stable: it survives logits of 1000."


@checked
def cross_entropy_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> (N, K)`: the derivative of the mean cross-entropy with respect to the logits."""
    g = torch.Generator().manual_seed(1)
    logits, y = torch.randn(6, 4, generator=g), torch.randint(0, 4, (6,), generator=g)
    gradient = torch.func.grad(F.cross_entropy)
    expected, p = gradient(logits, y), logits.softmax(1)
    turned = "the sign is turned round: p - onehot(y), since the right logit must rise when the loss falls"
    mistakes = {
        "the loss is a mean over the batch, so the gradient is divided by N": 6 * expected,
        turned: (-expected, -6 * expected),
        "that is the part of log sum exp; the right class's logit also stands alone in the loss": (p, p / 6),
    }
    answer = tensor(call(function, logits, y), (6, 4))
    judge(answer, expected, mistakes, hint="start from -logit_y + logsumexp", atol=1e-5)
    few = y.clamp(max=2)  # nobody is of class 3
    try:
        complete = equal(tensor(call(function, logits, few), (6, 4)), gradient(logits, few), atol=1e-5)
    except (IndexError, RuntimeError, ValueError, Wrong):
        complete = False
    if not complete:
        raise Wrong(
            "right, but not for a batch without the highest class: F.one_hot(y) lacks its column then, so say how many "
            "classes there are: F.one_hot(y, logits.shape[1])"
        )
    return "Each row sums to 0: what the right class gains, the others lose."


@checked
def macro_f1(function: Callable[[Tensor], float]) -> str:
    """`function(confusion) -> float`: mean over classes of F1; confusion (K, K) int64, rows true, columns predicted."""
    confusion = torch.tensor([[50, 3, 2], [4, 10, 1], [6, 0, 4]])
    f1, hits, support = _f1(confusion), confusion.diag(), confusion.sum(1)
    recall, precision = hits / support, hits / confusion.sum(0)
    of_means = 2 / (1 / recall.mean() + 1 / precision.mean())
    by_support = (f1 * support).sum() / support.sum()
    mistakes = {
        "that weights each class by how often it occurs; macro means every class counts the same": by_support,
        "that is the accuracy (micro F1): sum over classes comes after the ratio, not before": hits.sum()
        / support.sum(),
        "that is macro recall; F1 is the harmonic mean of precision and recall": recall.mean(),
        "that is macro precision; F1 is the harmonic mean of precision and recall": precision.mean(),
        "that is the arithmetic mean of precision and recall": (precision + recall).mean() / 2,
        "take F1 for each class first, then the mean over classes": of_means,
    }
    judge(number(function, confusion), f1.mean(), mistakes, "for the check's 3x3 matrix")
    for last, reason in (
        (2, "a class that is never predicted divides by zero; its F1 is 0, and still counts in the mean"),
        (0, "a class with no image and no prediction is 0/0; count it as 0"),
    ):
        confusion = torch.tensor([[5, 0, 0], [1, 3, 0], [last, 0, 0]])
        try:
            answer = number(function, confusion)
        except ZeroDivisionError:
            answer = math.nan
        if not equal(answer, _f1(confusion).mean()):
            raise Wrong(reason)
    return "A class nobody predicts costs as much as a common one."


def _f1(confusion: Tensor) -> Tensor:
    """F1 of each class, (K,)."""
    return 2 * confusion.diag() / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)
