"""Exercise checks of lesson 01."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, hidden, judge, scalar, seeded


@checked(
    refuses=(
        *("torch.cdist", "scipy.spatial.distance.cdist", "sklearn.metrics.pairwise_distances"),
        "labutil.course.answers.hamming",
    )
)
def hamming(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(a, b) -> int (N, M)`: in how many bits hashes differ; a (N, 64) bool, b (M, 64) bool."""
    g = seeded(0)
    a, b = (torch.rand(n, 64, generator=g) < 0.5 for n in (5, 7))
    expected = (a[:, None] != b[None]).sum(2)
    mistakes = {
        "that counts the bits that agree": 64 - expected,
        "that is the share of bits; the distance is their number": expected / 64,
        "that counts the bits that are 1 in both; two that are 0 in both agree as well": a.float() @ b.float().T,
    }
    shapes = {
        (7, 5): "rows belong to a and columns to b: yours is turned round",
        (): "that is a sum over everything; sum over the bits alone",
        (5, 64): "that is a sum over the rows of b; sum over the bits, the last dimension",
        (7, 64): "that is a sum over the rows of a; sum over the bits, the last dimension",
    }
    rows = {"must match the size": "a and b have different numbers of rows, and every row of a meets every row of b"}
    judge(call(function, a, b, raised=rows), expected, mistakes, shapes=shapes)
    return "Two unrelated hashes differ in about half of their 64 bits."


@checked(refuses=("scipy.stats.median_abs_deviation", "labutil.course.answers.robust_z"))
def robust_z(function: Callable[[Tensor], Tensor]) -> str:
    """`function(x) -> (N,)`: (x - median) / (1.4826 * median absolute deviation); x (N,) float."""
    x = torch.tensor([9.0, 1.0, 6.0, 4.0, 10.0, 3.0, 1000.0])  # median 6, median absolute deviation 3
    x = hidden(lambda rng: x[rng.permutation(7)] + torch.from_numpy(rng.random(7)).float() / 2, x)
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
        "the spread is still the ordinary standard deviation, which 1000 drags along": centred / x.std(),
    }
    answer = call(function, x)
    if isinstance(answer, Tensor) and not answer.isfinite().all():
        raise Wrong("that divides by 0: half of the deviations are negative; take their sizes before the median")
    judge(answer, expected, mistakes, hint=f"x is {x.tolist()}", rtol=1e-3)
    return "One wild value moves mean and standard deviation as far as it likes, median and MAD hardly at all."


def _sets(rng: np.random.Generator) -> list[tuple[set[int], set[int]]]:
    """Three cases of what is true and what was found, which meet."""
    truths = [set(rng.permutation(40)[: rng.integers(3, 20)].tolist()) for _ in range(3)]
    return [(t, {min(t), *rng.permutation(40)[: rng.integers(3, 20)].tolist()}) for t in truths]


@checked(
    refuses=(
        *("sklearn.metrics.recall_score", "sklearn.metrics.precision_score"),
        *("sklearn.metrics.precision_recall_fscore_support", "labutil.cleaning.faults.score_rows"),
    )
)
def recall_precision(function: Callable[[set, set], tuple[float, float]]) -> str:
    """`function(truth, found) -> (recall, precision)`; both are sets of numbers."""
    exchanged = "the two are exchanged: recall is a share of the truth, precision a share of what was found"
    for truth, found in (({2, 3, 9}, {1, 2, 3, 4}), ({1}, set(range(10))), ({5, 6, 7, 8}, {5}), *hidden(_sets)):
        hits = len(found & truth)
        recall, precision = hits / len(truth), hits / len(found)
        answer = call(function, truth, found)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("return two numbers: recall, precision")
        case = f"truth {sorted(truth)}, found {sorted(found)}"
        judge([scalar(v) for v in answer], [recall, precision], {exchanged: [precision, recall]}, case, atol=1e-6)
    zero = {"ZeroDivisionError": "a detector that finds nothing divides by zero; its precision is 1 by convention"}
    answer = [scalar(v) for v in call(function, {1}, set(), raised=zero)]
    judge(answer, [0, 1], {}, "who finds nothing of {1} has recall 0, and precision 1 by convention")
    return "Either alone is easy to make 1; only together do they mean something."


@checked(refuses=("labutil.course.answers.arms",))
def arms(function: Callable[[np.ndarray, np.ndarray, int], dict[str, np.ndarray]]) -> str:
    """`function(rows, removed, seed) -> {"as it came": rows, "cleaned": rows, "control": rows}`: what to train on for a
    fair test of a cleaning step; rows (N,) and removed (M,) are row numbers, some of removed not among rows."""
    rows = hidden(lambda rng: rng, np.random.default_rng(0)).permutation(200)[:60]
    removed = np.concatenate([rows[:12], [998, 999]])  # as where 80% of the rows were drawn
    names = ("as it came", "cleaned", "control")

    def ask(seed: int) -> list[np.ndarray]:
        answer = call(function, rows, removed, seed)
        if not isinstance(answer, Mapping) or set(answer) != set(names):
            raise Wrong(f"return a dictionary with the keys {', '.join(map(repr, names))}")
        found = [np.asarray(list(answer[name])) for name in names]
        for name, values in zip(names, found, strict=True):
            if not np.issubdtype(values.dtype, np.integer):
                raise Wrong(f"{name!r} must hold row numbers, not {values.dtype}")
            if len(values) != len(np.unique(values)):
                raise Wrong(
                    f"{name!r} holds a row twice: a copy, which is what cleaning takes out; draw without replacement"
                )
            if not np.isin(values, rows).all():
                raise Wrong(f"{name!r} holds rows that are not in `rows`")
        return found

    as_it_came, cleaned, control = ask(0)
    if len(as_it_came) != len(rows):
        raise Wrong("'as it came' is what you compare with: all rows, untouched")
    left = np.setdiff1d(rows, removed)
    if np.isin(cleaned, removed).all():
        raise Wrong("'cleaned' keeps what the step removes; it is everything else")
    if not np.array_equal(np.sort(cleaned), left):
        raise Wrong("'cleaned' is all of `rows` that are not in `removed`, no more and no fewer")
    if len(control) == len(rows):
        raise Wrong(
            "the control is as large as the set as it came. A cleaned set is smaller, and a smaller set alone costs "
            "accuracy: leave out as many rows, but other ones"
        )
    if len(control) == len(rows) - len(removed):
        raise Wrong("some of `removed` are not in `rows`: the control leaves out only as many as the step does")
    if np.array_equal(np.sort(control), left):
        raise Wrong("the control is the cleaned set again: leave out rows at random, faulty or not")
    if len(control) != len(left):
        raise Wrong(
            f"the control must be as large as the cleaned set, {len(left)} of {len(rows)} here, not {len(control)}"
        )
    if not np.array_equal(np.sort(ask(0)[2]), np.sort(control)):
        raise Wrong("the same seed gives another control: draw from np.random.default_rng(seed)")
    if all(np.array_equal(np.sort(ask(seed)[2]), np.sort(control)) for seed in (1, 2)):
        raise Wrong("every seed gives the same control: which rows it leaves out must be drawn at random")
    return "What the cleaned set gains over the control cannot come from its being smaller."
