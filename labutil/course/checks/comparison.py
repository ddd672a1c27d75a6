"""Exercise checks of lesson 07: how sure a comparison is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from labutil.compare import significance
from labutil.course.checks.frame import Wrong, call, checked, judge, look_up, scalar, tensor


@checked
def standard_error(function: Callable[[int, int], float]) -> str:
    """`function(right, n) -> float`: the standard error of an accuracy, right of n images."""
    for right, n in ((812, 1000), (90, 100), (1, 4)):
        p = right / n
        expected = math.sqrt(p * (1 - p) / n)
        answer = scalar(call(function, right, n))
        mistakes = {
            "that is the variance; take its square root": p * (1 - p) / n,
            "that is the spread of a single image; the mean of n is sqrt(n) times as sure": math.sqrt(p * (1 - p)),
            "that is the standard error of the number right, not of the share": math.sqrt(n * p * (1 - p)),
            "the share of wrong ones is missing: p (1 - p)": math.sqrt(p / n),
            "that is in percent; the accuracy is a share, and so is its standard error": 100 * expected,
            "that is half of a 95% interval; the standard error is without the 1.96": 1.96 * expected,
        }
        if n > 20:
            mistakes["with n - 1 it is that of a sample's mean; for a share n is used"] = math.sqrt(
                p * (1 - p) / (n - 1)
            )
        judge(answer, expected, mistakes, f"{right} right of {n}", rtol=1e-6)
    return "Four times as many test images halve it."


def _images(only_a: int, only_b: int, both: int) -> tuple[Tensor, Tensor]:
    """right_a, right_b of a test set in which three images are wrong with either."""
    a = torch.tensor([True] * (only_a + both) + [False] * (only_b + 3))
    b = torch.tensor([False] * only_a + [True] * (both + only_b) + [False] * 3)
    return a, b


@checked
def mcnemar(function: Callable[[Tensor, Tensor], float]) -> str:
    """`function(right_a, right_b) -> p`: McNemar's exact test, two-sided; right_a, right_b (N,) bool."""
    for only_a, only_b, both in ((1, 5, 30), (12, 3, 40), (4, 4, 10), (0, 0, 5)):
        a, b = _images(only_a, only_b, both)
        n, k = only_a + only_b, min(only_a, only_b)
        tail, seen = sum(math.comb(n, i) for i in range(k + 1)) / 2**n, math.comb(n, k) / 2**n
        expected = min(1.0, 2 * tail)
        try:
            answer = scalar(call(function, a.clone(), b.clone()))
        except ZeroDivisionError as error:
            raise Wrong("where the two never disagree there is nothing to divide: p is 1") from error
        case = f"a alone right {only_a} times, b alone {only_b} times"
        if math.isclose(answer, expected, rel_tol=1e-6):
            continue
        if answer > 1:
            raise Wrong(f"{case}: p is {answer:.3f}; a probability is at most 1, so cut it there")
        if math.isclose(answer, tail, rel_tol=1e-6):
            raise Wrong(f"{case}: that is one tail; before looking, either of them could have been ahead: double it")
        if math.isclose(answer, min(1.0, 2 * seen), rel_tol=1e-6):
            raise Wrong(f"{case}: that is the chance of exactly {k}; outcomes still more extreme count as well")
        if k and any(math.isclose(answer, tails * (tail - seen), rel_tol=1e-6) for tails in (1, 2)):
            raise Wrong(f"{case}: the split that was seen counts as well: range(k + 1)")
        if n >= 1 and math.isclose(
            answer, math.erfc(max(0, abs(only_a - only_b) - 1) / math.sqrt(2 * n)), rel_tol=1e-4
        ):
            raise Wrong(f"{case}: that is the chi-square form, made for many disagreements; here count, exactly")
        more = scalar(call(function, *_images(only_a, only_b, both + 10)))
        hint = "" if math.isclose(answer, more, rel_tol=1e-6) else "; do images enter that both have right?"
        raise Wrong(f"{case}: expected {expected:.4f}, yours is {answer:.4f}{hint}")
    return "The images that both have right, or both wrong, never enter."


@checked
def paired_bootstrap(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """`function(right_a, right_b, drawn) -> (B,)`: differences in accuracy on resampled test sets; drawn (B, N) int."""
    g = torch.Generator().manual_seed(1)
    ease = torch.rand(40, generator=g)
    a, b = (torch.rand(2, 40, generator=g) < ease * torch.tensor([[1.1], [0.9]])).unbind()
    drawn = torch.randint(40, (6, 40), generator=g)  # a is ahead on five of the six, b on the other
    expected = a[drawn].double().mean(1) - b[drawn].double().mean(1)
    try:
        answer = tensor(call(function, a.clone(), b.clone(), drawn.clone()), (6,))
    except RuntimeError as error:  # torch's NotImplementedError is one, too
        if "Subtraction" in str(error):
            raise Wrong("booleans cannot be subtracted: .float() first") from error
        if "mean()" in str(error):
            raise Wrong("only floats have a mean: .float() first") from error
        raise
    if torch.allclose(answer, expected, atol=1e-6):
        return "Images that are hard for both come and go for both: that is what pairing saves."
    once = (a.double().mean() - b.double().mean()).expand(6)
    unpaired = a[drawn].double().mean(1) - b[drawn.roll(1, 0)].double().mean(1)
    mistakes = {
        "that is b minus a": -expected,
        "keep the sign: below 0 where b is ahead": expected.abs(),
        "that is the difference on the test set as it is, each time: index with drawn": once,
        "those are differences in the number of images right; divide by N": 40 * expected,
        "both methods must see the same drawn images": unpaired,
    }
    look_up(answer, mistakes, atol=1e-6)
    raise Wrong(f"the first is {expected[0]:+.4f}, yours is {answer[0]:+.4f}; row i of drawn is one test set")


@checked
def holm(function: Callable[[list[float]], list[float]]) -> str:
    """`function(p) -> list`: Holm's corrected p values, in the order given."""
    for p in ([0.01, 0.04, 0.03], [0.2, 0.001, 0.9, 0.04], [0.6, 0.4, 0.9], [0.5]):
        expected = significance.holm(p)
        answer = np.asarray(call(function, list(p)), float)
        if answer.shape != (len(p),):
            raise Wrong(f"for {len(p)} p values there are {len(p)} corrected ones, yours has shape {answer.shape}")
        if np.allclose(answer, expected):
            continue
        order = np.argsort(p)
        steps = np.sort(p) * np.arange(len(p), 0, -1)
        mistakes = {
            "those are Bonferroni's, all times m; Holm multiplies the smallest by m, the next by m - 1": np.minimum(
                1, np.array(p) * len(p)
            ),
            "no p value may be smaller than one before it in the sorted order: take the running maximum": np.minimum(
                1, steps
            )[np.argsort(order)],
            "a probability is at most 1": np.maximum.accumulate(steps)[np.argsort(order)],
            "right, but in sorted order: return them in the order in which they came": np.sort(expected),
        }
        look_up(answer, mistakes, f"for {p}")
        raise Wrong(f"for {p}: expected {np.round(expected, 4).tolist()}, yours is {np.round(answer, 4).tolist()}")
    return "With 45 pairs of ten equal methods, two or three would pass 0.05 uncorrected."
