"""Every statistic against scipy, statsmodels, a slow loop or a closed form; and what it says of equal methods."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import f1_score
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from labutil.compare import significance as sig


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (90, 100), (3, 7), (8123, 10000)])
def test_wilson_is_statsmodels(right, n):
    low, high = sig.wilson(right, n)
    assert (low, high) == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)
    assert 0 <= low <= right / n <= high <= 1


@pytest.mark.parametrize(("right", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_share(right, n):
    with pytest.raises(ValueError, match=r"\b[kn]\b"):
        sig.wilson(right, n)


def pair(both, only_a, only_b, neither):
    images = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [both, only_a, only_b, neither]))
    return images < 2, images % 2 == 0


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(1, 0), (0, 6), (10, 3), (12, 12), (24, 0), (13, 12), (40, 20), (3, 90)]
)
def test_mcnemar_is_statsmodels(only_a, only_b):
    exact = only_a + only_b < 25
    theirs = their_mcnemar([[30, only_a], [only_b, 9]], exact=exact, correction=True).pvalue
    assert sig.mcnemar(*pair(30, only_a, only_b, 9)) == (only_a, only_b, pytest.approx(theirs, rel=1e-9))


def test_mcnemar_of_those_that_are_alike():
    assert sig.mcnemar(*pair(5, 20, 20, 5))[2] == sig.mcnemar(*pair(5, 0, 0, 5))[2] == 1
    with pytest.raises(ValueError, match="the same images"):
        sig.mcnemar([True], [True, False])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 6), (10, 3), (12, 12), (40, 20), (130, 90)])
def test_mcnemar_with_a_group_an_image_is_the_exact_binomial_test(only_a, only_b):
    a, b = pair(30, only_a, only_b, 9)
    theirs = their_mcnemar([[30, only_a], [only_b, 9]], exact=True).pvalue
    assert sig.mcnemar(a, b, np.arange(len(a))) == (only_a, only_b, pytest.approx(theirs, rel=1e-9))
    if only_a + only_b < 25:
        assert sig.mcnemar(a, b, np.arange(len(a)))[2] == pytest.approx(sig.mcnemar(a, b)[2], rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_mcnemar_of_groups_is_scipy_s_permutation_test(seed):
    """All 2 ** 9 ways to set the signs of nine slides' differences, of very different sizes."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(9), rng.integers(1, 40, 9)))
    a, b = rng.random((2, len(groups))) < np.array([[0.8], [0.65]]) + rng.normal(0, 0.15, 9)[groups]
    lead = np.array([a[groups == g].sum() - b[groups == g].sum() for g in range(9)])
    theirs = stats.permutation_test((lead,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    only_a, only_b, p = sig.mcnemar(a, b, [f"slide {g}" for g in groups])
    assert (only_a, only_b) == ((a & ~b).sum(), (b & ~a).sum()) and p == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_over_images_is_fooled_by_slides_and_over_groups_is_not():
    """Two equal classifiers, one of them better on each slide by chance: 5% false alarms are promised."""
    rng, alarms = np.random.default_rng(0), np.zeros(2)
    groups = np.repeat(np.arange(20), 20)
    for _ in range(200):
        a, b = rng.random((2, 400)) < 0.7 + rng.normal(0, 0.15, (2, 20))[:, groups]
        alarms += sig.mcnemar(a, b)[2] < 0.05, sig.mcnemar(a, b, groups)[2] < 0.05
    over_images, over_groups = alarms / 200
    assert over_groups < 0.1 < 0.15 < over_images
    with pytest.raises(ValueError, match=r"groups \(3,\): expected the same images"):
        sig.mcnemar([True] * 4, [True] * 4, [0, 0, 1])


def test_an_interval_over_groups_is_that_of_cluster_robust_errors():
    """statsmodels' sandwich of a constant, without its correction for few groups."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(150), rng.integers(1, 9, 150))
    right = rng.random(len(groups)) < 0.75 + 0.2 * rng.choice([-1, 1], 150)[groups]
    fit = sm.OLS(right.astype(float), np.ones(len(right)))
    fit = fit.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    assert sig.share(right, groups) == pytest.approx(fit.conf_int()[0], abs=0.005)
    low, high = sig.share(right)
    assert (low, high) == sig.wilson(right.sum(), len(right)) and high - low < 0.8 * np.ptp(fit.conf_int())


def test_an_interval_over_groups_of_one_image_each_is_nearly_wilson_s():
    right = np.arange(400) % 5 > 0
    assert sig.share(right, np.arange(400)) == pytest.approx(sig.share(right), abs=0.005)
    assert sig.share([True] * 30, [0] * 15 + [1] * 15) == sig.wilson(2, 2)  # and not 1 to 1
    assert sig.share([False] * 30, ["a"] * 30) == sig.wilson(0, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 45])
def test_holm_is_statsmodels(n):
    for seed in range(5):
        p = np.random.default_rng(seed).random(n) ** 4
        p[n // 2] = p[0]  # ties
        assert sig.holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)
    assert sig.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand


def some_predictions(n=60, k=4, s=3, share=0.6, seed=0):
    rng = np.random.default_rng(seed)
    y_true = rng.integers(k, size=n)
    y_pred = np.where(rng.random((s, n)) < share, y_true, rng.integers(k, size=(s, n)))
    return y_true, y_pred


def slow_score(y, p, metric):
    if metric == "accuracy":
        return np.mean(y == p)
    return f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_scores_are_sklearn_s_and_resample_a_slow_loop(metric):
    y_true, y_pred = some_predictions()
    assert sig.score(y_true, y_pred, metric) == pytest.approx([slow_score(y_true, p, metric) for p in y_pred], abs=1e-6)
    y_true, y_pred = some_predictions(n=35)
    found = sig.resample(y_true, y_pred, metric=metric, replicates=40, seed=3)
    assert found.shape == (3, 40)
    drawn = np.random.default_rng(3).integers(35, size=(40, 35))
    for s, b in itertools.product(range(3), range(40)):
        assert found[s, b] == pytest.approx(slow_score(y_true[drawn[b]], y_pred[s, drawn[b]], metric), abs=1e-6)


def test_resample_draws_the_same_images_for_all():
    y_true, y_pred = some_predictions()
    whole = sig.resample(y_true, y_pred, replicates=30)
    for s in range(3):
        assert np.array_equal(sig.resample(y_true, y_pred[s : s + 1], replicates=30)[0], whole[s])
    with pytest.raises(ValueError, match=r"metric='acuracy' \(did you mean 'accuracy'\?\)"):
        sig.resample(y_true, y_pred, metric="acuracy")
    with pytest.raises(ValueError, match=r"expected \(N,\) and \(S, N\)"):
        sig.resample(y_true, y_pred[0])


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 29])
def test_so_few_images_show_nothing_that_luck_would_give(n):
    """Of one image every resampled set is that image: no spread, and any difference looked sure."""
    rng = np.random.default_rng(n)
    alarms = 0
    for _ in range(100):
        a, b = (rng.random((1, n)) < 0.7).astype(int), (rng.random((1, n)) < 0.7).astype(int)
        both = [sig.resample(np.ones(n, int), right, replicates=200) for right in (a, b)]
        alarms += sig.difference((a.mean(1), b.mean(1)), both).p < 0.05
        assert sig.difference((a.mean(1),) * 2, (both[0],) * 2).p == 1
    assert alarms <= 5
    right, wrong = np.ones((1, n), int), np.zeros((1, n), int)
    found = sig.difference(([1.0], [0.0]), [sig.resample(np.ones(n, int), x) for x in (right, wrong)])
    assert (found.p < 0.05) == (n >= 8)  # by the sign test from six on
    assert sig.of_scores([1.0], [0.0], 4).p > 0.05 and sig.drop([1.0], [0.0], 2).p > 0.05
    assert sig.of_scores([1.0], [0.0], 16).p < 0.05


def in_groups(sizes, rho, seed):
    """Labels that are all right or all wrong in a group with probability rho, else each on its own; and the groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    whole = rng.random(len(sizes)) < rho
    right = np.where(whole[group], (rng.random(len(sizes)) < 0.7)[group], rng.random(len(group)) < 0.7)
    return np.zeros(len(group), int), 1 - right.astype(int)[None], group


def test_groups_are_drawn_whole_as_in_a_slow_loop():
    y_true, y_pred = some_predictions(n=35)
    group = np.random.default_rng(1).integers(6, size=35)
    drawn = np.random.default_rng(3).integers(6, size=(40, 6))
    for metric in ("accuracy", "macro_f1"):
        names = np.array([f"slide{g}" for g in group])
        found = sig.resample(y_true, y_pred, metric=metric, replicates=40, seed=3, groups=names)
        for s, b in itertools.product(range(3), range(40)):
            rows = np.concatenate([np.flatnonzero(group == g) for g in drawn[b]])
            assert found[s, b] == pytest.approx(slow_score(y_true[rows], y_pred[s, rows], metric), abs=1e-6)
    alone = sig.resample(y_true, y_pred, replicates=40, groups=np.arange(35))
    assert np.array_equal(alone, sig.resample(y_true, y_pred, replicates=40))  # a group an image: as without groups
    with pytest.raises(ValueError, match=r"groups \(34,\): expected one of each of 35 images"):
        sig.resample(y_true, y_pred, groups=group[1:])


def test_the_spread_over_groups_is_that_of_theory():
    """Groups of one size: the variance of a mean of G group means. Of several: that of a ratio (Cochran 1977, 6.4)."""
    y, p, group = in_groups([20] * 50, 0.8, seed=0)
    found = sig.resample(y, p, replicates=8000, groups=group)[0]
    means = (p[0] == 0).reshape(50, 20).mean(1)
    assert found.var() == pytest.approx(means.var() / 50, rel=0.06)
    assert found.var() > 8 * sig.resample(y, p, replicates=8000)[0].var()  # 1 + 19 rho of images that are independent
    sizes = np.random.default_rng(0).integers(5, 60, 80)
    y, p, group = in_groups(sizes, 0.8, seed=1)
    found = sig.resample(y, p, replicates=8000, groups=group)[0]
    right = np.bincount(group, (p[0] == 0))
    left_over = right - right.sum() / sizes.sum() * sizes
    assert found.var() == pytest.approx((left_over**2).sum() / sizes.sum() ** 2, rel=0.08)


def test_intervals_over_groups_hold_what_they_promise_and_those_over_images_do_not():
    """Of 200 test sets of 40 slides, at least 90% of the intervals have the true accuracy inside; over images few."""
    inside = {"groups": 0, "images": 0}
    for seed in range(200):
        y, p, group = in_groups([20] * 40, 0.6, seed)
        for name, members in (("groups", group), ("images", None)):
            low, high = sig.interval(sig.score(y, p), sig.resample(y, p, replicates=400, groups=members))
            inside[name] += low <= 0.7 <= high
    assert inside["groups"] >= 180 and inside["images"] <= 120, inside


def compare(y, a, b, metric="accuracy", replicates=sig.REPLICATES, **options):
    scores = [sig.score(y, p, metric) for p in (a, b)]
    resampled = [sig.resample(y, p, metric=metric, replicates=replicates) for p in (a, b)]
    return sig.difference(scores, resampled, **options)


def test_difference_of_single_runs_has_the_closed_form_of_paired_shares():
    """Without a spread between seeds: standard error sqrt(var(right_a - right_b) / N), normal."""
    y, preds = some_predictions(n=800, s=2)
    found = compare(y, preds[:1], preds[1:], seed_std=0.0)
    d = (preds[0] == y).astype(float) - (preds[1] == y)
    std = d.std() / math.sqrt(len(y))
    assert found.value == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx((d.mean() - 1.96 * std, d.mean() + 1.96 * std), abs=0.003)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(d.mean()) / std), abs=0.02)
    # A spread of two points each adds to the variance.
    wider = compare(y, preds[:1], preds[1:], seed_std=0.02)
    error, of_both = ((d.high - d.low) / 2 / stats.norm.ppf(0.975) for d in (found, wider))
    assert error == pytest.approx(std, rel=0.06)
    assert of_both == pytest.approx(math.sqrt(error**2 + 2 * 0.02**2))


def test_difference_where_only_seeds_differ_is_welch():
    """Runs that are right on nested sets of images, so many that these explain little: Welch's t test over runs."""
    n = 200_000
    shares = [0.70, 0.78, 0.74], [0.60, 0.66, 0.63, 0.69]
    a, b = (np.array([(np.arange(n) >= share * n).astype(int) for share in part]) for part in shares)
    found = compare(np.zeros(n, int), a, b, replicates=100)
    theirs = stats.ttest_ind(*shares, equal_var=False)
    assert found.p == pytest.approx(theirs.pvalue, rel=0.02)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()), rel=0.02)
    assert found.seeds == (3, 4)


def test_p_by_cause_is_the_paired_bootstrap_and_welchs_test():
    y, preds = some_predictions(n=800, s=6)
    scores = [sig.score(y, p) for p in (preds[:3], preds[3:])]
    resampled = [sig.resample(y, p) for p in (preds[:3], preds[3:])]
    images, seeds = sig.p_by_cause(scores, resampled)
    spread = (resampled[0].mean(0) - resampled[1].mean(0)).std(ddof=1)
    assert images == pytest.approx(2 * stats.norm.sf(abs(scores[0].mean() - scores[1].mean()) / spread))
    assert seeds == pytest.approx(stats.ttest_ind(*scores, equal_var=False).pvalue)
    assert max(images, seeds) <= sig.difference(scores, resampled).p  # which counts both
    assert math.isnan(sig.p_by_cause([scores[0][:1], scores[1]], [resampled[0][:1], resampled[1]])[1])


def test_a_drop_compares_each_run_with_itself():
    home, away = np.array([0.80, 0.70, 0.75]), np.array([0.71, 0.60, 0.66])
    found = sig.drop(home, away, 10**9)  # so many images that they explain nothing
    theirs = stats.ttest_rel(away, home)
    assert (found.value, found.p) == pytest.approx((-0.28 / 3, theirs.pvalue), rel=1e-3)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-3)
    alone = sig.drop(home[:1], away[:1], 400)  # one network, two sets of images
    error = math.sqrt((0.8 * 0.2 + 0.71 * 0.29) / 400)
    assert alone.p == pytest.approx(2 * stats.norm.sf(0.09 / error)) and alone.seeds == (1, 1)


def test_edge_cases():
    y, preds = some_predictions()
    same = compare(y, preds[:1], preds[:1])
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    perfect, hopeless = y[None].repeat(2, 0), (y[None].repeat(2, 0) + 1) % 4
    all_or_nothing = compare(y, perfect, hopeless)
    assert (all_or_nothing.value, all_or_nothing.p) == (1, 0)
    assert sig.interval(sig.score(y, perfect), sig.resample(y, perfect)) == (1, 1)
    y, preds = some_predictions(n=300, s=6)
    one, other = compare(y, preds[:3], preds[3:]), compare(y, preds[3:], preds[:3])
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p == pytest.approx(other.p)


def simulate(rng, gain, seeds, n=500, seed_std=0.015, classes=5):
    """Two methods with the same hard and easy images; every run has its own luck, b is better by `gain`."""
    y = rng.integers(classes, size=n)
    ease = np.clip(rng.beta(2, 0.7, n), 0, 1)  # chance of an image to be right, shared by both methods
    out = []
    for shift in (0.0, gain):
        right = rng.random((seeds, n)) < ease + shift + seed_std * rng.standard_normal((seeds, 1))
        out.append(np.where(right, y, (y + rng.integers(1, classes, (seeds, n))) % classes))
    return y, out[0], out[1]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_equal_methods_are_seldom_called_different(seeds, metric):
    """Equal in truth, different seeds: in at least 95% of 200 comparisons there is no evidence of a difference."""
    rng = np.random.default_rng(7)
    called = sum(compare(*simulate(rng, 0.0, seeds), metric, 300).p < 0.05 for _ in range(200))
    assert called <= 10, f"{seeds} seeds, {metric}: {called} of 200"


def test_a_real_difference_is_found():
    rng = np.random.default_rng(8)
    for seeds, least in ((3, 40), (5, 47)):
        found = [compare(*simulate(rng, 0.08, seeds), replicates=300) for _ in range(50)]
        assert sum(d.p < 0.05 and d.value < 0 for d in found) >= least


def test_accuracies_alone_are_compared_as_if_of_different_images():
    a, b, n = [0.70, 0.78, 0.74], [0.60, 0.66, 0.63, 0.69], 1200
    found = sig.of_scores(a, b, n)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b)) and found.seeds == (3, 4)
    images = sum(np.mean(x) * (1 - np.mean(x)) / n for x in (a, b))
    seeds = [np.var(x, ddof=1) / len(x) for x in (a, b)]
    std = math.sqrt(images + sum(seeds))
    freedom = std**4 / (seeds[0] ** 2 / 2 + seeds[1] ** 2 / 3)
    assert found.high - found.value == pytest.approx(stats.t(freedom).ppf(0.975) * std, rel=0.02)
    assert sig.of_scores(pd.Series(a), 0.5, n).seeds == (3, 1)
    single = sig.of_scores(0.7, 0.6, n)  # two points between seeds are assumed
    assert single.high - single.value == pytest.approx(1.96 * math.sqrt(0.21 / n + 0.24 / n + 2 * 0.02**2), rel=0.02)
    # Never narrower than of the predictions themselves.
    y, preds = some_predictions(n=800, s=2)
    of_images = compare(y, preds[:1], preds[1:])
    alone = sig.of_scores(*(sig.score(y, preds[i : i + 1]) for i in (0, 1)), len(y))
    assert alone.value == pytest.approx(of_images.value)
    assert alone.high - alone.low > 0.98 * (of_images.high - of_images.low)


def test_a_table_of_differences_corrects_p_and_says_what_is_shown():
    table = sig.table({"a less b": sig.of_scores([0.7, 0.71, 0.72], [0.6, 0.61, 0.6], 1200),
                       "a less c": sig.of_scores(0.7, 0.69, 1200)})  # fmt: skip
    assert table.index.tolist() == ["a less b", "a less c"]
    assert table["difference in points"].tolist() == pytest.approx([100 * (0.71 - 1.81 / 3), 1.0])
    alone = [sig.of_scores([0.7, 0.71, 0.72], [0.6, 0.61, 0.6], 1200).p, sig.of_scores(0.7, 0.69, 1200).p]
    assert table["p, corrected"].tolist() == pytest.approx(sig.holm(alone))
    assert table["more than luck?"].tolist() == ["yes", "not shown"]
    assert (table["from"] < table["to"]).all()


def test_in_words():
    found = sig.Difference(-0.031, -0.052, -0.010, 0.004, (3, 3))
    assert sig.in_words("A", "B", found) == "B is ahead of A (3.1 points, interval +1.0 to +5.2, p 0.004)"
    assert sig.in_words("A", "B", found, p=0.2).startswith("no evidence of a difference between B and A (3.1 points")
    single = sig.in_words("A", "B", sig.Difference(0.002, -0.03, 0.034, 0.9, (1, 3)))
    assert "no evidence of a difference" in single and "of a single run" in single
