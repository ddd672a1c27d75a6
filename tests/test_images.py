"""The stratified order, which splits, subsets and folds are drawn from, and the stratified sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labutil.images import stratified_order, stratified_sample


@pytest.mark.parametrize("first", [0, 0.5])
@pytest.mark.parametrize("counts", [[50, 50, 50], [100, 7, 30, 1], [5]])
def test_every_beginning_holds_the_classes_in_their_proportions(counts: list[int], first: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) - 1, counts))
    order = stratified_order(torch.from_numpy(labels), 3, first=first)
    assert sorted(order) == list(range(len(labels)))
    shares = np.array(counts) / len(labels)
    held = np.cumsum(labels[order][:, None] == np.arange(len(counts)) - 1, axis=0)
    assert np.abs(held - np.arange(1, len(labels) + 1)[:, None] * shares).max() < 2
    if first == 0:
        assert (held[len(counts) - 1] == 1).all()


def test_an_order_is_the_same_on_any_machine() -> None:
    labels, order = np.arange(12) % 3, [11, 3, 1, 2, 6, 7, 8, 0, 4, 10, 5, 9]
    assert stratified_order(labels).tolist() == stratified_order(labels, (0,)).tolist() == order
    assert stratified_order(labels, (0, 1)).tolist() != order


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
