"""Ensembles against slow loops, and folds against scikit-learn's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold

from labutil import evaluation
from labutil.data.splits import stratified_folds

SHAPES = [(5, 40, 4), (1, 7, 3), (2, 30, 2), (4, 25, 2), (7, 20, 10), (3, 0, 3)]


def members(shape, seed=0, sharpness=2.0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape) * sharpness).softmax(2)


@pytest.mark.parametrize("shape", SHAPES)
def test_against_slow_loops(shape):
    p = members(shape).numpy()
    m, n, k = shape
    average, shares = evaluation.average(p), evaluation.vote_shares(p)
    voted, apart, information = (
        f(p) for f in (evaluation.majority_vote, evaluation.disagreement, evaluation.mutual_information)
    )
    assert average.shape == shares.shape == (n, k)
    assert voted.shape == apart.shape == information.shape == (n,)
    assert voted.dtype == np.int64
    for i in range(n):
        rows = [p[j, i].tolist() for j in range(m)]
        votes = [row.index(max(row)) for row in rows]
        mean = [sum(row[c] for row in rows) / m for c in range(k)]
        assert average[i] == pytest.approx(mean)
        assert shares[i] == pytest.approx([votes.count(c) / m for c in range(k)])
        best = max(range(k), key=lambda c: (votes.count(c), mean[c]))
        assert voted[i] == best
        pairs = list(itertools.combinations(votes, 2))
        assert apart[i] == pytest.approx(sum(a != b for a, b in pairs) / len(pairs) if pairs else 0)
        total = -sum(q * math.log(q) for q in mean)
        each = sum(-sum(q * math.log(q) for q in row) for row in rows) / m
        assert information[i] == pytest.approx(total - each, abs=1e-12)


def test_ties_go_to_the_more_probable_of_the_tied():
    p = np.array(
        [
            [[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.5, 0.5, 0.0]],
            [[0.1, 0.8, 0.1], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]],
        ]
    )
    # One vote each; then exactly equal averages: the first class; then two members that cannot decide.
    assert evaluation.majority_vote(p).tolist() == [1, 0, 0]
    # The highest average may belong to a class without a majority: the majority counts.
    p = np.array([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]])
    assert evaluation.majority_vote(p).tolist() == [0]
    assert evaluation.average(p).argmax(1).tolist() == [1]
    # ... and one with the highest average but no vote among the tied does not win.
    p = np.array([[[0.5, 0.0, 0.45, 0.05]], [[0.0, 0.5, 0.45, 0.05]]])
    assert evaluation.average(p).argmax(1).tolist() == [2]
    assert evaluation.majority_vote(p).tolist() == [0]


def test_limits_of_disagreement_and_information():
    eye = np.eye(3)
    apart = eye[:, None]  # three members, each sure of its own class
    assert evaluation.disagreement(apart).tolist() == [1.0]
    assert evaluation.mutual_information(apart) == pytest.approx([math.log(3)])
    unsure = np.full((4, 1, 3), 1 / 3)
    assert evaluation.disagreement(unsure).tolist() == [0.0]
    assert evaluation.mutual_information(unsure) == pytest.approx([0.0], abs=1e-12)
    same = np.repeat(members((1, 50, 6)).numpy(), 5, axis=0)
    assert evaluation.disagreement(same).max() == 0
    information = evaluation.mutual_information(same)
    assert information.min() >= 0 and information.max() < 1e-12


def test_any_kind_of_array():
    p = members((3, 8, 4)).float()
    for given in (p, p.numpy(), list(p), [q.numpy() for q in p], p.bfloat16(), p.tolist()):
        got = evaluation.average(given)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, p.mean(0).numpy(), atol=0.01)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((3, 4)), r"expected probabilities \(M, N, K\), got \(3, 4\)"),
        (np.zeros((0, 3, 4)), r"got \(0, 3, 4\)"),
        (np.random.default_rng(0).normal(size=(2, 3, 4)), "logits want"),
        (np.full((2, 3, 4), np.nan), "logits want"),
    ],
)
def test_what_is_not_probabilities_is_refused(bad, reason):
    for function in ("average", "vote_shares", "majority_vote", "disagreement", "mutual_information"):
        with pytest.raises(ValueError, match=reason):
            getattr(evaluation, function)(bad)


# Folds


@pytest.mark.parametrize(("counts", "folds"), [([50, 50], 5), ([33, 7, 61, 12], 5), ([10, 2, 1], 4), ([3] * 30, 10)])
def test_folds_spread_every_class(counts, folds):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified_folds(y, folds, seed=3)
    assert len(parts) == folds
    every = np.concatenate([val for _, val in parts])
    assert np.array_equal(np.sort(every), np.arange(len(y)))
    for train, val in parts:
        assert train.dtype == val.dtype == np.int64
        assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(y)))
        assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    table = np.array([np.bincount(y[val], minlength=len(counts)) for _, val in parts])
    assert (table.max(0) - table.min(0)).max() <= 1  # of each class
    sizes = table.sum(1)
    assert sizes.max() - sizes.min() <= 1
    if min(counts) >= folds:  # scikit-learn warns about smaller classes
        peer = StratifiedKFold(folds, shuffle=True, random_state=0).split(y, y)
        theirs = np.array([np.bincount(y[val], minlength=len(counts)) for _, val in peer])
        assert np.array_equal(np.sort(table, 0), np.sort(theirs, 0))


def test_folds_depend_on_the_seed_alone():
    y = torch.arange(60) % 3
    first, again, other = (stratified_folds(y, 4, seed) for seed in (1, 1, 2))
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert all(np.array_equal(a, b) for x, z in zip(first, again, strict=True) for a, b in zip(x, z, strict=True))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=True))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    images = torch.zeros(60, 1)
    assert len(images[first[0][0]]) == 45  # indexes tensors as well
    # The images of a class are dealt out at random, not in their order.
    assert first[0][1].tolist() != sorted(i for i in range(60) if i // 3 % 4 == 0)


@pytest.mark.parametrize(
    ("labels", "folds", "reason"),
    [
        ([0, 1, -1, 0], 2, "1 are -1"),
        ([0, 1, 0], 1, "folds=1 must lie between 2 and 3"),
        ([0, 1, 0], 4, "folds=4"),
        ([[0, 1]], 2, "expected integers"),
        ([0.5, 1.0], 2, "expected integers"),
    ],
)
def test_bad_folds_are_named(labels, folds, reason):
    with pytest.raises(ValueError, match=reason):
        stratified_folds(np.array(labels), folds)
