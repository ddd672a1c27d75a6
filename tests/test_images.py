"""The stratified order, which splits, subsets and folds are drawn from."""

import numpy as np
import pytest
import torch

from labutil.images import stratified_order


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
