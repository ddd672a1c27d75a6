"""Is one method better than another, or was it luck? Intervals and tests for methods compared on the same test images.

Two kinds of luck: which images are in the test set, resampled for all methods at once (paired), and which seeds the
networks were trained with. Predictions are class numbers (S, N), a row for each of a method's S runs (seeds).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labutil.paths import check_choice

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95  # of all intervals
REPLICATES = 2000
# Where every method has a single run. The five reports that the workbook starts from give 0.6 to 3.2 points.
ASSUMED_SEED_STD = 0.02
FEW = 30  # images: their own spread says too little of what others would give, and one image has none


class Difference(NamedTuple):
    """Score of method a minus that of b (means over seeds), its interval, and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float
    seeds: tuple[int, int]  # runs of a and of b; of a single one the spread was taken from elsewhere or assumed


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% interval for one accuracy, right of n images, that stays inside [0, 1] and holds near both (Wilson 1927).
    It covers the draw of the test images, not another training. Raises ValueError unless 0 <= right <= n and n > 0.

    Example:
        wilson(90, 100)  # (0.826, 0.945)
    """
    from scipy import stats  # here and below: slow to import

    if not 0 <= right <= n or n == 0:  # scipy from 1.18 on gives NaN
        raise ValueError(f"right={right} of n={n} images: right must lie between 0 and n, and n be above 0")
    found = stats.binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def share(right: Sequence[bool] | np.ndarray, groups: Sequence[str] | np.ndarray | None = None) -> tuple[float, float]:
    """95% interval for the share of True in bool (N,): `wilson`'s or, where the images come in groups (N,), that of the
    cluster bootstrap (`resample`), as many images of one slide say less than as many slides. Where all are alike, which
    leaves nothing to resample, Wilson's with a group for an image.

    Example:
        share(probabilities.argmax(1) == y_true, data.test.groups)
    """
    right = np.asarray(right, bool)
    if groups is None or right.all() or not right.any():
        n = len(right if groups is None else np.unique(groups))
        return wilson(round(right.mean() * n), n)
    y, p = np.ones(len(right), int), right[None].astype(int)
    return interval(score(y, p), resample(y, p, groups=np.asarray(groups)))


def mcnemar(
    right_a: Sequence[bool] | np.ndarray,
    right_b: Sequence[bool] | np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
) -> tuple[int, int, float]:
    """McNemar's test (1947): are two trained classifiers, whatever other seeds would give, equally often right?

    right_a, right_b: bool (N,), the same images in the same order; raises ValueError for other shapes. Only images on
    which they disagree count: of fewer than 25 the exact binomial test, else chi-square with Edwards' correction.
    groups: the group of each image (N,), such as its slide; then whole groups are the coins. In each, the images that
    a alone has right less those that b alone has could as well have the other sign: p is the share of all ways to set
    the signs whose sum is as far from 0 (an exact permutation test; with a group an image, the binomial test).
    Returns the number that a alone has right, the number that b alone has, and the two-sided p.

    Example:
        only_a, only_b, p = mcnemar(p_a.argmax(1) == y_true, p_b.argmax(1) == y_true, data.test.groups)
    """
    from scipy import stats

    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if a.shape != b.shape or a.ndim != 1 or (groups is not None and np.shape(groups) != a.shape):
        what = f"right_a {a.shape} and right_b {b.shape}" + ("" if groups is None else f", groups {np.shape(groups)}")
        raise ValueError(f"{what}: expected the same images, (N,) each")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if groups is not None:
        _, member = np.unique(groups, return_inverse=True)
        lead = np.bincount(member, a.astype(float) - b).astype(int)
        return only_a, only_b, _sign_flips(np.abs(lead[lead != 0]), abs(only_a - only_b))
    n = only_a + only_b
    if n < 25:
        p = stats.binomtest(min(only_a, only_b), n).pvalue if n else 1.0
    else:
        p = stats.chi2.sf(max(0, abs(only_a - only_b) - 1) ** 2 / n, df=1)
    return only_a, only_b, float(p)


def _sign_flips(sizes: np.ndarray, sum_seen: int) -> float:
    """The probability that whole numbers, each with its sign from a fair coin, add up to at least `sum_seen` from 0."""
    total = int(sizes.sum())
    ways = np.zeros(2 * total + 1)  # of the sums from -total to total, their probability
    ways[total] = 1
    for size in sizes:
        ways = (np.roll(ways, size) + np.roll(ways, -size)) / 2  # nothing leaves at an end and comes in at the other
    return float(min(1.0, ways[np.abs(np.arange(-total, total + 1)) >= sum_seen].sum()))


def score(y_true: np.ndarray, y_pred: np.ndarray, metric: str = "accuracy") -> np.ndarray:
    """Accuracy or macro F1 (over the classes in `y_true`) of each row of predictions (S, N): float64 (S,)."""
    return _weighted(y_true, y_pred, np.ones((1, len(y_true)), np.float32), metric)[:, 0]


def resample(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    *,
    metric: str = "accuracy",
    replicates: int = REPLICATES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Bootstrap (Efron 1979): scores on `replicates` test sets drawn from the images with replacement.

    The same seed draws the same test sets, so columns of two results belong together: that is what pairs them.
    y_true: labels (N,). y_pred: (S, N), a row a run. metric: accuracy or macro_f1. groups: the group of each image
    (N,), such as its slide; whole groups are then drawn, as many as there are (cluster bootstrap), since images of one
    are alike and say less than as many of others. Below some twenty groups the spread comes out too small. With fewer
    than `FEW` images noise of variance 1 / N, more than their own luck has, spreads the scores: so few show little.
    Returns float64 (S, replicates).

    Example:
        a, b = (resample(y_true, y_pred).mean(0) for y_pred in (simclr, supcon))
        np.quantile(a - b, (0.025, 0.975))
    """
    if groups is not None and np.shape(groups) != y_true.shape:
        raise ValueError(f"groups {np.shape(groups)}: expected one of each of {len(y_true)} images")
    drawn, member = np.unique(np.arange(len(y_true)) if groups is None else groups, return_inverse=True)
    n, rng = len(drawn), np.random.default_rng(seed)
    scores = []
    block = max(1, 4_000_000 // max(len(y_true), 1))  # numbers held at a time: 16 MB, whatever the set's size
    for start in range(0, replicates, block):
        draws = range(start, min(start + block, replicates))
        times = np.array([np.bincount(rng.integers(n, size=n), minlength=n) for _ in draws], np.float32)
        scores.append(_weighted(y_true, y_pred, times if groups is None else times[:, member], metric))
    found = np.concatenate(scores, 1)
    if len(y_true) < FEW:  # the same for the same predictions, whose difference is none
        rng = np.random.default_rng([seed, *map(int, (y_pred == y_true).flat)])
        found += rng.normal(0, math.sqrt(1 / len(y_true)), replicates)
    return found


def _luck(p: float, n: int) -> float:
    """Variance of a share p of n images by which images they are: binomial; of fewer than `FEW` as in `resample`."""
    return (p * (1 - p) if n >= FEW else 1) / n


def _weighted(y_true: np.ndarray, y_pred: np.ndarray, times: np.ndarray, metric: str) -> np.ndarray:
    """Scores (S, B) of test sets in which image i occurs times[b, i] times."""
    check_choice("metric", metric, ("accuracy", "macro_f1"))
    if y_true.ndim != 1 or y_pred.ndim != 2 or y_pred.shape[1] != len(y_true) or not y_pred.size:
        raise ValueError(f"y_true {y_true.shape} and y_pred {y_pred.shape}: expected (N,) and (S, N), N and S above 0")
    if metric == "accuracy":
        return (y_pred == y_true).astype(np.float32) @ times.T / times.sum(1, dtype=np.float64)
    classes = np.unique(y_true)
    truth = (y_true[:, None] == classes).astype(np.float32)
    support, found = times @ truth, []
    for predicted in y_pred:
        guess = (predicted[:, None] == classes).astype(np.float32)
        f1 = 2 * (times @ (truth * guess)) / np.maximum(support + times @ guess, 1)
        present = support > 0
        found.append((f1 * present).sum(1) / present.sum(1))
    return np.array(found, np.float64)


def difference(
    scores: Sequence[np.ndarray], resampled: Sequence[np.ndarray], *, seed_std: float = ASSUMED_SEED_STD
) -> Difference:
    """95% interval and p for the difference of two methods, over test images and over seeds.

    scores: (S_a,) and (S_b,), the runs' scores on the test set. resampled: (S_a, B) and (S_b, B) by `resample`.
    seed_std: standard deviation between seeds for a method with a single run, from which none can be had.
    The variance is that of the methods' means over resampled test sets, and for each method that between its runs,
    divided by their number (Bouthillier et al. 2021, arXiv:2103.03098). Which images a run has wrong counts in both:
    the interval is a little too wide. Student's t with Satterthwaite's (1946) degrees of freedom.

    Example:
        difference((score(y, a), score(y, b)), (resample(y, a), resample(y, b)))
    """
    value = float(np.mean(scores[0])) - float(np.mean(scores[1]))
    images = float(np.var(resampled[0].mean(0) - resampled[1].mean(0), ddof=1))
    alike = images == 0 and value == 0  # the same predictions, twice, are no two trainings
    return _judged(value, images, scores, 0.0 if alike else seed_std)


def drop(home: np.ndarray, away: np.ndarray, images: int) -> Difference:
    """Accuracies (S,) of a method's runs elsewhere less those at home, on as many other images or more.

    Each run is compared with itself, so seeds count by how far its drop moves, and not at all where there is one run,
    which is judged as the network that it is. The images' part is binomial: a little too wide for several runs.
    """
    p, q = float(np.mean(home)), float(np.mean(away))
    found = _judged(q - p, _luck(p, images) + _luck(q, images), (np.asarray(away) - home,), 0.0)
    return found._replace(seeds=(len(home), len(away)))


def _judged(value: float, images: float, scores: Sequence[np.ndarray], seed_std: float) -> Difference:
    """A difference whose variance is that by images, and that between the runs of each of `scores`."""
    from scipy import stats

    total, doubt = images, 0.0
    for runs in scores:
        if len(runs) > 1:
            seeds = float(np.var(runs, ddof=1)) / len(runs)
            total, doubt = total + seeds, doubt + seeds**2 / (len(runs) - 1)
        else:
            total += seed_std**2
    std = math.sqrt(total)
    t = stats.t(total**2 / doubt) if doubt else stats.norm()
    half = float(t.ppf((1 + LEVEL) / 2)) * std
    p = float(2 * t.sf(abs(value) / std)) if std else float(value == 0)
    return Difference(value, value - half, value + half, p, tuple(map(len, scores)))


def p_by_cause(scores: Sequence[np.ndarray], resampled: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of the difference of two methods, two-sided p of no difference if luck lay in the test images alone (these
    very networks, the paired bootstrap), and if it lay in the seeds alone (Welch's t test between the runs; NaN where
    a method has one). scores, resampled: as of `difference`, which counts both."""
    over_images = [np.mean(runs, keepdims=True) for runs in scores]
    images = difference(over_images, resampled, seed_std=0.0).p
    value = float(np.mean(scores[0])) - float(np.mean(scores[1]))
    seeds = _judged(value, 0.0, scores, 0.0).p if min(map(len, scores)) > 1 else math.nan
    return images, seeds


def of_scores(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, images: int) -> Difference:
    """`difference` of two accuracies of which no predictions are kept, as in a sweep's table; a, b: one number, or one
    for each seed, of so many test images. The luck of the images is drawn for each as if they were different ones: of
    the same images the interval is a little too wide.

    Example:
        of_scores([0.61, 0.63, 0.6], [0.55, 0.58, 0.56], images=1200)
    """
    rng, runs = np.random.default_rng(0), [np.atleast_1d(np.asarray(x, float)) for x in (a, b)]
    luck = [rng.normal(0, math.sqrt(_luck(x.mean(), images)), REPLICATES) for x in runs]
    return difference(runs, [x[:, None] + e for x, e in zip(runs, luck, strict=True)])


def table(found: Mapping[str, Difference]) -> pd.DataFrame:
    """Differences that answer questions asked together, as lessons show them: in points, with the interval, p as
    `holm` corrects it, and whether that is below 0.05, "yes" or "not shown"."""
    import pandas as pd

    shown = pd.DataFrame([f[:3] for f in found.values()], list(found), ["difference in points", "from", "to"]) * 100
    shown["p, corrected"] = holm([f.p for f in found.values()])
    shown["more than luck?"] = np.where(shown["p, corrected"] < 1 - LEVEL, "yes", "not shown")
    return shown


def interval(scores: np.ndarray, resampled: np.ndarray) -> tuple[float, float]:
    """95% interval for the mean score (S,) of one method, over test images (S, B) and, where S is above 1, seeds."""
    found = difference((scores, np.zeros(1)), (resampled, np.zeros((1, resampled.shape[1]))), seed_std=0.0)
    return max(0.0, found.low), min(1.0, found.high)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) correction: the smallest of m values of p times m, the next times m - 1, and so on, none smaller
    than the one before it. One false alarm among all is then as rare as one was.

    Example:
        holm([0.01, 0.04, 0.03])  # [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def in_words(a: str, b: str, found: Difference, p: float | None = None) -> str:
    """A difference as a sentence: which is ahead, by how much, and whether that is evidence. p: corrected, if it is."""
    p = found.p if p is None else p
    low, high = found.low, found.high
    if found.value < 0:
        a, b, low, high = b, a, -high, -low
    claim = f"{a} is ahead of {b}" if p < 1 - LEVEL else f"no evidence of a difference between {a} and {b}"
    runs = "; of a single run" if min(found.seeds) == 1 else ""
    points = f"{abs(found.value) * 100:.1f} points, interval {low * 100:+.1f} to {high * 100:+.1f}"
    return f"{claim} ({points}, p {p:.2g}{runs})"
