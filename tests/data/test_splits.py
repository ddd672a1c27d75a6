"""Stratified draws: folds against scikit-learn's, and samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from labutil.data.splits import stratified_folds
from labutil.images import stratified_sample


@pytest.mark.parametrize(("counts", "folds"), [([50, 50], 5), ([33, 7, 61, 12], 5), ([10, 2, 1], 4), ([3] * 30, 10)])
def test_folds_spread_every_class(counts, folds):
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    parts = stratified_folds(y, folds, seed=3)
    assert len(parts) == folds
    assert np.array_equal(np.sort(np.concatenate([val for _, val in parts])), np.arange(len(y)))
    for train, val in parts:
        assert train.dtype == val.dtype == np.int64
        assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(len(y)))
        assert (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    table = np.array([np.bincount(y[val], minlength=len(counts)) for _, val in parts])
    assert np.ptp(table, axis=0).max() <= 1  # of each class
    assert np.ptp(table.sum(1)) <= 1
    if min(counts) >= folds:  # scikit-learn warns about smaller classes
        peer = StratifiedKFold(folds, shuffle=True, random_state=0).split(y, y)
        theirs = np.array([np.bincount(y[val], minlength=len(counts)) for _, val in peer])
        assert np.array_equal(np.sort(table, 0), np.sort(theirs, 0))


def test_draws_depend_on_the_seed_alone():
    y = torch.arange(60) % 3
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = ([val.tolist() for _, val in stratified_folds(y, 4, seed)] for seed in (1, 1, 2))
    assert first == again != other
    first, again, other = (stratified_sample(y, 10, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    train, val = stratified_folds(y, 4, 1)[0]
    assert len(torch.zeros(60, 1)[train]) == 45  # indexes tensors as well
    # The images of a class are dealt out at random, not in their order.
    assert val.tolist() != sorted(i for i in range(60) if i // 3 % 4 == 0)
    with pytest.raises(ValueError, match="n=-1"):
        stratified_sample(y, -1)


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


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-1, 6), min_size=1, max_size=80), st.integers(0, 90), st.integers(0, 9))
def test_stratified_sample_keeps_shares(labels, n, seed):
    y = np.array(labels)
    index = stratified_sample(torch.from_numpy(y), n, seed)
    assert index.dtype == np.int64 and len(index) == min(n, len(y)) == len(set(index.tolist()))
    assert (np.diff(index) > 0).all()
    for k in np.unique(y):
        assert abs((y[index] == k).sum() - min(n, len(y)) * (y == k).mean()) < 1


def test_stratified_sample_gives_the_last_image_to_the_largest_remainder():
    y = np.repeat([0, 1, 2], [7, 2, 1])  # shares of six images: 4.2, 1.2, 0.6
    assert [np.bincount(y[stratified_sample(y, 6, s)]).tolist() for s in range(5)] == [[4, 1, 1]] * 5
