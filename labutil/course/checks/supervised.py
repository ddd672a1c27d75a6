"""Exercise checks: `checks.NAME(your_function)` answers with a tick, the reason for a wrong answer, or "not attempted".

A check calls the function on inputs it has chosen, compares with an independent answer, and looks for the mistakes that
people make, so that its message says what is wrong and not only that something is. A stub returns None (or raises
an empty NotImplementedError); a check never raises, so a notebook runs through with every exercise untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import Wrong as _Wrong
from labutil.course.checks.frame import call as _call
from labutil.course.checks.frame import checked as _check
from labutil.course.checks.frame import scalar as _scalar
from labutil.course.checks.frame import tensor as _tensor


@_check
def conv_parameters(function: Callable[[int, int, int, bool], int]) -> str:
    """`function(c_in, c_out, kernel, bias) -> int`: learnable numbers in a convolution with square kernels."""
    for c_in, c_out, kernel, bias in ((3, 32, 5, False), (32, 64, 3, True), (1, 1, 1, True), (7, 4, 3, True)):
        ours = sum(p.numel() for p in torch.nn.Conv2d(c_in, c_out, kernel, bias=bias).parameters())
        answer = _scalar(_call(function, c_in, c_out, kernel, bias))
        if answer == ours:
            continue
        case = f"conv_parameters({c_in}, {c_out}, {kernel}, {bias})"
        if bias and answer == ours - c_out:
            raise _Wrong(f"{case}: the biases are missing, one for each output channel")
        if not bias and answer == ours + c_out:
            raise _Wrong(f"{case}: there are no biases when bias is False")
        if answer in {ours + c_in - c_out, c_in * c_out * kernel**2 + c_in}:
            raise _Wrong(f"{case}: a bias belongs to an output channel, not to an input channel")
        if answer in {c_out * kernel**2, c_out * kernel**2 + c_out * bias}:
            raise _Wrong(f"{case}: every output channel has a kernel for each input channel")
        if answer in {c_in * c_out * kernel, c_in * c_out * kernel + c_out * bias}:
            raise _Wrong(f"{case}: a kernel has height times width numbers")
        raise _Wrong(f"{case} is {ours}, yours is {answer:g}")
    return "The image's size is not in the formula: that is why convolutions scale."


@_check
def cross_entropy(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> scalar`: mean of -log softmax(logits)[y]; logits (N, K) float, y (N,) int64."""
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(7, 5, generator=g), torch.randint(0, 5, (7,), generator=g)
    expected = F.cross_entropy(logits, y).item()
    raw = _call(function, logits.clone(), y.clone())
    if isinstance(raw, Tensor) and raw.shape == (7,):
        raise _Wrong("that is one loss an image; the batch's loss is their mean")
    answer = _scalar(raw)
    mistakes = {
        7 * expected: "that is the sum over the batch; divide by N, or the learning rate depends on the batch size",
        -expected: "the sign is wrong: a loss is -log p, and at least 0",
        expected / math.log(2): "that is in bits; use the natural logarithm",
        F.nll_loss(logits, y).item(): "the log sum exp is missing: logits are not yet log-probabilities",
        F.nll_loss(logits.softmax(1), y).item(): "that is -p of the right class, the logarithm is missing",
        F.cross_entropy(logits.softmax(1), y).item(): "softmax is applied twice",
        (logits.exp().sum().log() - logits[range(7), y].mean()).item(): "sum over the classes (dim=1), not everything",
        F.cross_entropy(logits.T.repeat(1, 1)[:, :5], y[:5]).item(): "classes are in dim 1, images in dim 0",
    }
    if not math.isclose(answer, expected, rel_tol=1e-4):
        for value, reason in mistakes.items():
            if math.isclose(answer, value, rel_tol=1e-4):
                raise _Wrong(reason)
        raise _Wrong(f"for a random batch the answer is {expected:.4f}, yours is {answer:.4f}")
    large = _scalar(_call(function, torch.tensor([[1000.0, 0.0], [0.0, -1000.0]]), torch.tensor([1, 0])))
    if not math.isclose(large, 500.0, rel_tol=1e-4):
        raise _Wrong(
            f"right for small logits, but {large:g} where a logit is 1000, and 500 is right: exp(1000) overflows "
            "(subtract each row's largest logit first), or p of the right class underflows to 0 (a small constant only "
            "hides that): never form p, compute -z_y + log sum exp z"
        )
    return "And stable: it survives logits of 1000."


@_check
def cross_entropy_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> (N, K)`: the derivative of the mean cross-entropy with respect to the logits."""
    g = torch.Generator().manual_seed(1)
    logits, y = torch.randn(6, 4, generator=g, requires_grad=True), torch.randint(0, 4, (6,), generator=g)
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, y), logits)
    expected, p = expected.double(), logits.detach().softmax(1).double()
    answer = _tensor(_call(function, logits.detach().clone(), y.clone()), (6, 4))
    if torch.allclose(answer, expected, atol=1e-5):
        few = y.clamp(max=2)  # nobody is of class 3
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, few), logits)
        try:
            answer = _tensor(_call(function, logits.detach().clone(), few.clone()), (6, 4))
        except (IndexError, RuntimeError, ValueError, _Wrong):
            answer = None
        if answer is None or not torch.allclose(answer, expected.double(), atol=1e-5):
            raise _Wrong(
                "right, but not for a batch without the highest class: F.one_hot(y) lacks its column then, so say how "
                "many classes there are: F.one_hot(y, logits.shape[1])"
            )
        return "Each row sums to 0: what the right class gains, the others lose."
    if torch.allclose(answer, 6 * expected, atol=1e-5):
        raise _Wrong("the loss is a mean over the batch, so the gradient is divided by N")
    if torch.allclose(answer, -expected, atol=1e-5) or torch.allclose(answer, -6 * expected, atol=1e-5):
        raise _Wrong("the sign is turned round: p - onehot(y), since the right logit must rise when the loss falls")
    if torch.allclose(answer, p, atol=1e-5) or torch.allclose(answer, p / 6, atol=1e-5):
        raise _Wrong("that is the part of log sum exp; the right class's logit also stands alone in the loss")
    raise _Wrong(
        f"differs from autograd's by up to {(answer - expected).abs().max():.3f}; start from -logit_y + logsumexp"
    )


@_check
def macro_f1(function: Callable[[Tensor], float]) -> str:
    """`function(confusion) -> float`: mean over classes of F1; confusion (K, K) int64, rows true, columns predicted."""
    confusion = torch.tensor([[50, 3, 2], [4, 10, 1], [6, 0, 4]])
    expected, by_support, micro = _f1_variants(confusion)
    answer = _scalar(_call(function, confusion.clone()))
    if not math.isclose(answer, expected, rel_tol=1e-4):
        hits = confusion.diag()
        recall, precision = hits / confusion.sum(1), hits / confusion.sum(0)
        mean_p, mean_r = precision.mean().item(), recall.mean().item()
        mistakes = {
            by_support: "that weights each class by how often it occurs; macro means every class counts the same",
            micro: "that is the accuracy (micro F1): sum over classes comes after the ratio, not before",
            mean_r: "that is macro recall; F1 is the harmonic mean of precision and recall",
            mean_p: "that is macro precision; F1 is the harmonic mean of precision and recall",
            ((precision + recall) / 2).mean().item(): "that is the arithmetic mean of precision and recall",
            2 * mean_p * mean_r / (mean_p + mean_r): "take F1 for each class first, then the mean over classes",
        }
        for value, reason in mistakes.items():
            if math.isclose(answer, value, rel_tol=1e-4):
                raise _Wrong(reason)
        raise _Wrong(f"for the check's 3x3 matrix the answer is {expected:.4f}, yours is {answer:.4f}")
    empty = _scalar(_call(function, torch.tensor([[5, 0, 0], [1, 3, 0], [2, 0, 0]])))
    if not math.isfinite(empty):
        raise _Wrong("a class that is never predicted divides by zero; its F1 is 0")
    if not math.isclose(empty, _f1_variants(torch.tensor([[5, 0, 0], [1, 3, 0], [2, 0, 0]]))[0], rel_tol=1e-4):
        raise _Wrong("a class that is never predicted has F1 = 0 and still counts in the mean")
    absent = torch.tensor([[5, 0, 0], [1, 3, 0], [0, 0, 0]])
    try:
        answer = _scalar(_call(function, absent.clone()))
    except ZeroDivisionError:
        answer = math.nan
    if not math.isclose(answer, _f1_variants(absent)[0], rel_tol=1e-4):
        raise _Wrong("a class with no image and no prediction is 0/0; count it as 0")
    return "A class nobody predicts costs as much as a common one."


def _f1_variants(confusion: Tensor) -> tuple[float, float, float]:
    """Macro, support-weighted and micro F1."""
    hits, support = confusion.diag().double(), confusion.sum(1).double()
    f1 = 2 * hits / (support + confusion.sum(0)).clamp(min=1)
    total = confusion.sum()
    return f1.mean().item(), (f1 * support / total).sum().item(), (hits.sum() / total).item()
