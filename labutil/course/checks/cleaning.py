"""Exercise checks of lesson 01."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, judge, scalar


@checked
def hamming(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(a, b) -> int (N, M)`: in how many bits hashes differ; a (N, 64) bool, b (M, 64) bool."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(n, 64, generator=g) < 0.5 for n in (5, 7))
    expected = (a[:, None] != b[None]).sum(2)
    mistakes = {
        "that counts the bits that agree": 64 - expected,
        "that is the share of bits; the distance is their number": expected / 64,
        "that counts the bits that are 1 in both; two that are 0 in both agree as well": a.float() @ b.float().T,
    }
    turned = {(7, 5): "rows belong to a and columns to b: yours is turned round"}
    judge(call(function, a, b), expected, mistakes, shapes=turned)
    return "Two unrelated hashes differ in about half of their 64 bits."


@checked
def robust_z(function: Callable[[Tensor], Tensor]) -> str:
    """`function(x) -> (N,)`: (x - median) / (1.4826 * median absolute deviation); x (N,) float."""
    x = torch.tensor([9.0, 1.0, 6.0, 4.0, 10.0, 3.0, 1000.0])  # median 6, median absolute deviation 3
    centred = x - x.median()
    mad, from_mean = centred.abs().median(), (x - x.mean()).abs().median()
    expected, z = centred / (1.4826 * mad), (x - x.mean()) / x.std()
    mistakes = {
        "that is the ordinary z-score: one value of 1000 drags its mean and standard deviation along": z,
        "the factor 1.4826 is missing, which makes it a standard deviation for normal data": centred / mad,
        "deviations must be taken from the median, not from the mean": centred / (1.4826 * from_mean),
        "the mean of the deviations is not robust: take their median": centred / (1.4826 * centred.abs().mean()),
        "keep the sign: small values are negative": expected.abs(),
        "divide by the deviation, do not multiply": centred * 1.4826 * mad,
        "the factor belongs below, with the deviation": 1.4826 * centred / mad,
        "the median absolute deviation is missing": centred / 1.4826,
    }
    judge(call(function, x), expected, mistakes, hint=f"x is {x.tolist()}", rtol=1e-3)
    return "One wild value moves mean and standard deviation as far as it likes, median and MAD hardly at all."


@checked
def recall_precision(function: Callable[[set, set], tuple[float, float]]) -> str:
    """`function(found, truth) -> (recall, precision)`; both are sets of numbers."""
    exchanged = "the two are exchanged: recall is a share of the truth, precision a share of what was found"
    for found, truth in (({1, 2, 3, 4}, {2, 3, 9}), (set(range(10)), {1}), ({5}, {5, 6, 7, 8})):
        hits = len(found & truth)
        recall, precision = hits / len(truth), hits / len(found)
        answer = call(function, found, truth)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("return two numbers: recall, precision")
        case = f"found {sorted(found)}, truth {sorted(truth)}"
        judge([scalar(v) for v in answer], [recall, precision], {exchanged: [precision, recall]}, case, atol=1e-6)
    zero = {"ZeroDivisionError": "a detector that finds nothing divides by zero; its precision is 1 by convention"}
    answer = [scalar(v) for v in call(function, set(), {1}, raised=zero)]
    judge(answer, [0, 1], {}, "who finds nothing of {1} has recall 0, and precision 1 by convention")
    return "Either alone is easy to make 1; only together do they mean something."


@checked
def label_quality(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(p, y) -> (N,)`: self-confidence, the probability that each image's own label has; p (N, K), y (N,)."""
    g = torch.Generator().manual_seed(2)
    p, y = torch.randn(6, 4, generator=g).softmax(1), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = p[range(6), y]
    every = {(6, 6): "p[:, y] takes every label for every image; pair them: p[range(N), y]"}
    mistakes = {
        "that is the confidence in the predicted class; the given label's is wanted": p.amax(1),
        "that is how bad the label is; quality is the probability itself": 1 - expected,
    }
    judge(call(function, p, y), expected, mistakes, shapes=every, atol=1e-6)
    return "The lowest are the labels to look at first."
