"""Exercise checks of lesson 02."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, judge, look_up, scalar, tensor


@checked
def conv_parameters(function: Callable[[int, int, int, bool], int]) -> str:
    """`function(c_in, c_out, kernel, bias) -> int`: learnable numbers in a convolution with square kernels."""
    for c_in, c_out, kernel, bias in ((3, 32, 5, False), (32, 64, 3, True), (1, 1, 1, True), (7, 4, 3, True)):
        ours = sum(p.numel() for p in torch.nn.Conv2d(c_in, c_out, kernel, bias=bias).parameters())
        answer = scalar(call(function, c_in, c_out, kernel, bias))
        of_bias = (
            "the biases are missing, one for each output channel" if bias else "there are no biases when bias is False"
        )
        mistakes = {
            of_bias: ours - c_out if bias else ours + c_out,
            "a bias belongs to an output channel, not to an input channel": (
                ours + c_in - c_out,
                c_in * c_out * kernel**2 + c_in,
            ),
            "every output channel has a kernel for each input channel": (
                c_out * kernel**2,
                c_out * kernel**2 + c_out * bias,
            ),
            "a kernel has height times width numbers": (c_in * c_out * kernel, c_in * c_out * kernel + c_out * bias),
        }
        judge(answer, ours, mistakes, f"conv_parameters({c_in}, {c_out}, {kernel}, {bias})", rtol=0)
    return "The image's size is not in the formula: that is why convolutions scale."


@checked
def cross_entropy(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> scalar`: mean of -log softmax(logits)[y]; logits (N, K) float, y (N,) int64."""
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(7, 5, generator=g), torch.randint(0, 5, (7,), generator=g)
    expected = F.cross_entropy(logits, y).item()
    raw = call(function, logits.clone(), y.clone())
    if isinstance(raw, Tensor) and raw.shape == (7,):
        raise Wrong("that is one loss an image; the batch's loss is their mean")
    answer = scalar(raw)
    mistakes = {
        "that is the sum over the batch; divide by N, or the learning rate depends on the batch size": 7 * expected,
        "the sign is wrong: a loss is -log p, and at least 0": -expected,
        "that is in bits; use the natural logarithm": expected / math.log(2),
        "the log sum exp is missing: logits are not yet log-probabilities": F.nll_loss(logits, y).item(),
        "that is -p of the right class, the logarithm is missing": F.nll_loss(logits.softmax(1), y).item(),
        "softmax is applied twice": F.cross_entropy(logits.softmax(1), y).item(),
        "sum over the classes (dim=1), not everything": (logits.exp().sum().log() - logits[range(7), y].mean()).item(),
        "classes are in dim 1, images in dim 0": F.cross_entropy(logits.T.repeat(1, 1)[:, :5], y[:5]).item(),
    }
    judge(answer, expected, mistakes, "for a random batch")
    large = scalar(call(function, torch.tensor([[1000.0, 0.0], [0.0, -1000.0]]), torch.tensor([1, 0])))
    if not math.isclose(large, 500.0, rel_tol=1e-4):
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
    logits, y = torch.randn(6, 4, generator=g, requires_grad=True), torch.randint(0, 4, (6,), generator=g)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    expected, p = expected.double(), logits.detach().softmax(1).double()
    answer = tensor(call(function, logits.detach().clone(), y.clone()), (6, 4))
    if torch.allclose(answer, expected, atol=1e-5):
        few = y.clamp(max=2)  # nobody is of class 3
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, few), logits)
        try:
            answer = tensor(call(function, logits.detach().clone(), few.clone()), (6, 4))
        except (IndexError, RuntimeError, ValueError, Wrong):
            answer = None
        if answer is None or not torch.allclose(answer, expected.double(), atol=1e-5):
            raise Wrong(
                "right, but not for a batch without the highest class: F.one_hot(y) lacks its column then, so say how "
                "many classes there are: F.one_hot(y, logits.shape[1])"
            )
        return "Each row sums to 0: what the right class gains, the others lose."
    mistakes = {
        "the loss is a mean over the batch, so the gradient is divided by N": 6 * expected,
        "the sign is turned round: p - onehot(y), since the right logit must rise when the loss falls": (
            -expected,
            -6 * expected,
        ),
        "that is the part of log sum exp; the right class's logit also stands alone in the loss": (p, p / 6),
    }
    look_up(answer, mistakes, atol=1e-5)
    raise Wrong(
        f"differs from autograd's by up to {(answer - expected).abs().max():.3f}; start from -logit_y + logsumexp"
    )


@checked
def macro_f1(function: Callable[[Tensor], float]) -> str:
    """`function(confusion) -> float`: mean over classes of F1; confusion (K, K) int64, rows true, columns predicted."""
    confusion = torch.tensor([[50, 3, 2], [4, 10, 1], [6, 0, 4]])
    expected, by_support, micro = _f1_variants(confusion)
    answer = scalar(call(function, confusion.clone()))
    hits = confusion.diag()
    recall, precision = hits / confusion.sum(1), hits / confusion.sum(0)
    mean_p, mean_r = precision.mean().item(), recall.mean().item()
    mistakes = {
        "that weights each class by how often it occurs; macro means every class counts the same": by_support,
        "that is the accuracy (micro F1): sum over classes comes after the ratio, not before": micro,
        "that is macro recall; F1 is the harmonic mean of precision and recall": mean_r,
        "that is macro precision; F1 is the harmonic mean of precision and recall": mean_p,
        "that is the arithmetic mean of precision and recall": ((precision + recall) / 2).mean().item(),
        "take F1 for each class first, then the mean over classes": 2 * mean_p * mean_r / (mean_p + mean_r),
    }
    judge(answer, expected, mistakes, "for the check's 3x3 matrix")
    empty = scalar(call(function, torch.tensor([[5, 0, 0], [1, 3, 0], [2, 0, 0]])))
    if not math.isfinite(empty):
        raise Wrong("a class that is never predicted divides by zero; its F1 is 0")
    if not math.isclose(empty, _f1_variants(torch.tensor([[5, 0, 0], [1, 3, 0], [2, 0, 0]]))[0], rel_tol=1e-4):
        raise Wrong("a class that is never predicted has F1 = 0 and still counts in the mean")
    absent = torch.tensor([[5, 0, 0], [1, 3, 0], [0, 0, 0]])
    try:
        answer = scalar(call(function, absent.clone()))
    except ZeroDivisionError:
        answer = math.nan
    if not math.isclose(answer, _f1_variants(absent)[0], rel_tol=1e-4):
        raise Wrong("a class with no image and no prediction is 0/0; count it as 0")
    return "A class nobody predicts costs as much as a common one."


def _f1_variants(confusion: Tensor) -> tuple[float, float, float]:
    """Macro, support-weighted and micro F1."""
    hits, support = confusion.diag().double(), confusion.sum(1).double()
    f1 = 2 * hits / (support + confusion.sum(0)).clamp(min=1)
    total = confusion.sum()
    return f1.mean().item(), (f1 * support / total).sum().item(), (hits.sum() / total).item()
