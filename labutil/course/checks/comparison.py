"""Exercise checks of lesson 07: how sure a comparison is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from labutil.compare import significance
from labutil.course.checks.frame import Wrong, call, checked, close, hidden, judge, scalar, seeded


def _images(only_a: int, only_b: int, both: int) -> Tensor:
    """right_a and right_b, bool (2, N), of a test set in which three images are wrong with either."""
    a = [True] * (only_a + both) + [False] * (only_b + 3)
    b = [False] * only_a + [True] * (both + only_b) + [False] * 3
    return torch.tensor([a, b])


@checked(refuses=("labutil.compare.significance.mcnemar", "scipy.stats.binomtest"))
def mcnemar(function: Callable[[Tensor, Tensor], float]) -> str:
    """`function(right_a, right_b) -> p`: McNemar's exact test, two-sided; right_a, right_b (N,) bool."""
    for only_a, only_b, both in (
        (1, 5, 30),
        (12, 3, 40),
        (4, 4, 10),
        (0, 0, 5),
        *hidden(lambda rng: rng.integers(1, 20, (3, 3)).tolist()),
    ):
        n, k = only_a + only_b, min(only_a, only_b)
        tail, seen = sum(math.comb(n, i) for i in range(k + 1)) / 2**n, math.comb(n, k) / 2**n
        case = f"a alone right {only_a} times, b alone {only_b} times"
        other = min(1, 2 * sum(math.comb(n, i) for i in range(n - k + 1)) / 2**n)  # by the larger count
        zero = {"ZeroDivisionError": "where the two never disagree there is nothing to divide: p is 1"}
        images = _images(only_a, only_b, both), _images(only_a, only_b, both + 10)
        answer, more = (scalar(call(function, *right, raised=zero)) for right in images)
        if answer > 1 + 1e-6:
            raise Wrong(f"{case}: p is {answer:.3f}; a probability is at most 1, so cut it there")
        chi_square = math.erfc(max(0, abs(only_a - only_b) - 1) / math.sqrt(2 * max(n, 1)))
        mistakes = {
            "that is one tail; before looking, either of them could have been ahead: double it": tail,
            f"that is the chance of exactly {k}; outcomes still more extreme count as well": (min(1, 2 * seen), seen),
            "k is the smaller of the two counts, whichever of the two it belongs to": other,
            "the split that was seen counts as well: range(k + 1)": (tail - seen, 2 * (tail - seen)) if k else (),
            "that is the chi-square form, made for many disagreements; here count, exactly": chi_square,
        }
        hint = "" if close(answer, more, atol=0) else "do images enter that both have right?"
        judge(answer, min(1, 2 * tail), mistakes, case, hint=hint)
    return "The images that both have right, or both wrong, never enter."


@checked(refuses=("labutil.course.answers.paired_bootstrap",))
def paired_bootstrap(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """`function(right_a, right_b, drawn) -> (B,)`: differences in accuracy on resampled test sets; drawn (B, N) int."""
    g = seeded(1)
    ease = torch.rand(40, generator=g)
    a, b = torch.rand(2, 40, generator=g) < ease * torch.tensor([[1.1], [0.9]])
    drawn = torch.randint(40, (6, 40), generator=g)  # a is ahead on five of the six, b on the other
    reasons = {"Subtraction, the": "booleans cannot be subtracted", "mean():": "only floats have a mean"}
    raised = {f"Error: {said}": f"{reason}: .float() first" for said, reason in reasons.items()}
    answer = call(function, a, b, drawn, raised=raised)
    a, b = a.double(), b.double()
    of_a, of_b = a[drawn].mean(1), b[drawn].mean(1)
    expected = of_a - of_b
    once = (a.mean() - b.mean()).expand(6)
    mistakes = {
        "that is b minus a": -expected,
        "keep the sign: below 0 where b is ahead": expected.abs(),
        "that is the difference on the test set as it is, each time: index with drawn": once,
        "those are differences in the number of images right; divide by N": 40 * expected,
        "both methods must see the same drawn images": of_a - of_b.roll(1),
    }
    judge(answer, expected, mistakes, hint="row i of drawn is one test set", atol=1e-6)
    return "Images that are hard for both come and go for both: that is what pairing saves."


NEVER = "the images alone leave too much doubt, and no number of runs is enough: the answer is math.inf"


@checked(refuses=("labutil.course.answers.seeds_needed",))
def seeds_needed(function: Callable[[float, float, float], float]) -> str:
    """`function(gap, seed_std, image_std) -> S`: how many runs each of two methods needs so that four of five
    experiments find a true gap between them, math.inf where no number does.

    A gap is found when the measured one is beyond 1.96 standard errors, so it has to be 1.96 + 0.84 of them.
    """
    cases = ((0.03, 0.02, 0.008), (0.06, 0.02, 0.01), (0.02, 0.015, 0.01), (0.1, 0.01, 0.01))
    cases += hidden(lambda rng: tuple((*rng.uniform(0.03, 0.06, 2).tolist(), 0.008) for _ in range(3)))
    for gap, seed_std, image_std in cases:
        case = f"gap {gap}, seed_std {seed_std}, image_std {image_std}"
        zero = {"OverflowError": NEVER, "ZeroDivisionError": NEVER}
        answer = scalar(call(function, gap, seed_std, image_std, raised=zero))
        error = gap / 2.8  # the largest standard error
        left = error**2 - image_std**2  # of the variance, for the seeds
        if left <= 0:
            if answer != math.inf:
                raise Wrong(f"{case}: {NEVER}, yours is {answer:g}")
            continue
        exact, of_half = (2 * seed_std**2 / ((gap / k) ** 2 - image_std**2) for k in (2.8, 1.96))
        expected = max(2, math.ceil(exact))
        mistakes = {
            "one run says nothing about the spread between runs: at least 2": () if exact > 1 else 1,
            "round up: with fewer runs the gap is found too seldom": (exact, math.floor(exact)),
            "then half of the experiments find it; four of five want 2.8 standard errors": math.ceil(of_half),
            "both methods have runs, so the variance by seeds counts twice": math.ceil(exact / 2),
            "the test images are luck as well: take image_std**2 off": math.ceil(2 * seed_std**2 / error**2),
            "variances add up, standard deviations do not": math.ceil(2 * seed_std**2 / (error - image_std) ** 2),
        }
        judge(answer, expected, mistakes, case)
    return "More runs make the seeds' part smaller. The images' part stays, whatever you train."


@checked(refuses=("labutil.compare.significance.holm",))
def holm(function: Callable[[list[float]], list[float]]) -> str:
    """`function(p) -> list`: Holm's corrected p values, in the order given."""
    for p in (
        [0.01, 0.04, 0.03],
        [0.2, 0.001, 0.9, 0.04],
        [0.6, 0.4, 0.9],
        [0.5],
        *hidden(lambda rng: (rng.random((3, 6)) ** 3).tolist()),
    ):
        answer = np.asarray(call(function, p), float)
        if answer.shape != (len(p),):
            raise Wrong(f"for {len(p)} p values there are {len(p)} corrected ones, yours has shape {answer.shape}")
        expected, back = significance.holm(p), np.argsort(np.argsort(p))
        steps = np.sort(p) * np.arange(len(p), 0, -1)
        all_times_m = "those are Bonferroni's, all times m; Holm multiplies the smallest by m, the next by m - 1"
        not_rising = "no p value may be smaller than one before it in the sorted order: take the running maximum"
        mistakes = {
            all_times_m: np.minimum(1, np.array(p) * len(p)),
            not_rising: np.minimum(1, steps)[back],
            "a probability is at most 1": np.maximum.accumulate(steps)[back],
            "right, but in sorted order: return them in the order in which they came": np.sort(expected),
        }
        judge(answer, expected, mistakes, f"for {p}")
    return "With 45 pairs of ten equal methods, two or three would pass 0.05 uncorrected."
