"""The one stratified draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labutil.images import stratified_sample


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


def test_stratified_sample_draws_by_seed_alone():
    y = np.arange(100) % 4
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (stratified_sample(y, 10, seed) for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    with pytest.raises(ValueError, match="n=-1"):
        stratified_sample(y, -1)
