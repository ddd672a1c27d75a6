"""Exercise checks of lesson 01."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, look_up, scalar, tensor


@checked
def hamming(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(a, b) -> int (N, M)`: in how many bits hashes differ; a (N, 64) bool, b (M, 64) bool."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, 64, generator=g) < 0.5 for n in (5, 7))
    expected = (a[:, None] != b[None]).sum(2).double()
    raw = call(function, a.clone(), b.clone())
    if isinstance(raw, Tensor) and raw.shape == (7, 5):
        raise Wrong("rows belong to a and columns to b: yours is turned round")
    answer = tensor(raw, (5, 7))
    if torch.equal(answer, expected):
        return "Two unrelated hashes differ in about half of their 64 bits."
    mistakes = {
        "that counts the bits that agree": 64 - expected,
        "that is the share of bits; the distance is their number": expected / 64,
        "that counts the bits that are 1 in both; two that are 0 in both agree as well": a.double() @ b.double().T,
    }
    look_up(answer, mistakes)
    raise Wrong(f"the first two hashes differ in {expected[0, 0]:.0f} bits, yours says {answer[0, 0]:.0f}")


@checked
def robust_z(function: Callable[[Tensor], Tensor]) -> str:
    """`function(x) -> (N,)`: (x - median) / (1.4826 * median absolute deviation); x (N,) float."""
    x = torch.tensor([9.0, 1.0, 6.0, 4.0, 10.0, 3.0, 1000.0])  # median 6, median absolute deviation 3
    deviation = (x - x.median()).abs()
    expected = ((x - x.median()) / (1.4826 * deviation.median())).double()
    answer = tensor(call(function, x.clone()), (7,))
    if torch.allclose(answer, expected, rtol=1e-3):
        return "One wild value moves mean and standard deviation as far as it likes, median and MAD hardly at all."
    mistakes = {
        "that is the ordinary z-score: one value of 1000 drags its mean and standard deviation along": (x - x.mean())
        / x.std(),
        "the factor 1.4826 is missing, which makes it a standard deviation for normal data": (x - x.median())
        / deviation.median(),
        "deviations must be taken from the median, not from the mean": (x - x.median())
        / (1.4826 * (x - x.mean()).abs().median()),
        "the mean of the deviations is not robust: take their median": (x - x.median()) / (1.4826 * deviation.mean()),
        "keep the sign: small values are negative": expected.abs(),
        "divide by the deviation, do not multiply": (x - x.median()) * 1.4826 * deviation.median(),
        "the factor belongs below, with the deviation": 1.4826 * (x - x.median()) / deviation.median(),
        "the median absolute deviation is missing": (x - x.median()) / 1.4826,
    }
    look_up(answer, mistakes, rtol=1e-3)
    raise Wrong(f"for x = {x.tolist()} the last value is {expected[-1]:.2f}, yours is {answer[-1]:.2f}")


@checked
def recall_precision(function: Callable[[set, set], tuple[float, float]]) -> str:
    """`function(found, truth) -> (recall, precision)`; both are sets of numbers."""
    for found, truth in (({1, 2, 3, 4}, {2, 3, 9}), (set(range(10)), {1}), ({5}, {5, 6, 7, 8})):
        hits = len(found & truth)
        expected = (hits / len(truth), hits / len(found))
        answer = call(function, set(found), set(truth))
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("return two numbers: recall, precision")
        answer = tuple(map(scalar, answer))
        if all(math.isclose(a, e, abs_tol=1e-6) for a, e in zip(answer, expected, strict=True)):
            continue
        if all(math.isclose(a, e, abs_tol=1e-6) for a, e in zip(answer, expected[::-1], strict=True)):
            raise Wrong("the two are exchanged: recall is a share of the truth, precision a share of what was found")
        raise Wrong(f"found {sorted(found)}, truth {sorted(truth)}: expected {expected}, yours is {answer}")
    try:
        answer = tuple(map(scalar, function(set(), {1})))
    except ZeroDivisionError as error:
        raise Wrong("a detector that finds nothing divides by zero; its precision is 1 by convention") from error
    if answer != (0.0, 1.0):
        raise Wrong(f"who finds nothing of {{1}} has recall 0, and precision 1 by convention; yours is {answer}")
    return "Either alone is easy to make 1; only together do they mean something."


@checked
def label_quality(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(p, y) -> (N,)`: self-confidence, the probability that each image's own label has; p (N, K), y (N,)."""
    g = torch.Generator().manual_seed(2)
    p, y = torch.randn(6, 4, generator=g).softmax(1), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = p[range(6), y].double()
    raw = call(function, p.clone(), y.clone())
    if isinstance(raw, Tensor) and raw.shape == (6, 6):
        raise Wrong("p[:, y] takes every label for every image; pair them: p[range(N), y]")
    answer = tensor(raw, (6,))
    if torch.allclose(answer, expected, atol=1e-6):
        return "The lowest are the labels to look at first."
    mistakes = {
        "that is the confidence in the predicted class; the given label's is wanted": p.amax(1),
        "that is how bad the label is; quality is the probability itself": 1 - expected,
    }
    look_up(answer, mistakes, atol=1e-6)
    raise Wrong(f"for the first image it is {expected[0]:.3f}, yours is {answer[0]:.3f}")
