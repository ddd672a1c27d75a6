"""Exercise checks of lesson 03."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from labutil import models
from labutil.course.checks.frame import Wrong, call, checked, judge, look_up, scalar, tensor


@checked
def trainable_parameters(function: Callable[[int, Sequence[int], int], int]) -> str:
    """`function(features, sizes, classes) -> int`: learnable numbers in a head: for each size a linear layer with bias
    and a batch norm, then a linear layer to the classes."""
    for features, sizes, classes in ((10, [], 3), (1280, [512, 256, 128], 8), (7, [5], 2)):
        ours = sum(p.numel() for p in models.mlp_head(features, sizes, classes).parameters())
        answer = scalar(call(function, features, list(sizes), classes))
        case = f"trainable_parameters({features}, {list(sizes)}, {classes})"
        widths = [features, *sizes, classes]
        weights = sum(a * b for a, b in pairwise(widths))
        hidden = sum(sizes)
        every_from_features = (features + 1) * (hidden + classes) + 2 * hidden
        if not sizes:
            bias = {"the last layer has a bias for each class": weights}
            judge(answer, ours, bias, f"{case}, one linear layer without hidden ones", rtol=0)
            continue
        mistakes = {
            "the batch norms are missing: a weight and a bias for each hidden unit": ours - 2 * hidden,
            "a batch norm learns two numbers for each hidden unit, a weight and a bias": ours - hidden,
            "a batch norm's running mean and variance are counted, but they are not learned": ours + 2 * hidden,
            "a batch norm's running statistics are buffers: they are not learned": ours + 2 * hidden + len(sizes),
            "no batch norm follows the last layer": ours + 2 * classes,
            "the linear layers' biases are missing": weights + 2 * hidden,
            "biases and batch norms are missing": weights,
            "the last layer, to the classes, is missing": ours - sizes[-1] * classes - classes,
            "the last layer has a bias for each class": ours - classes,
            "dropout learns nothing": ours + len(sizes),
            "a layer's inputs are the units of the layer before it": every_from_features,
        }
        judge(answer, ours, mistakes, case, rtol=0)
    return "Nearly all of it is in the first layer: features times 512."


@checked
def mix_up(function: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """`function(x, y, share, order) -> (mixed x, mixed y)`: image i keeps share[i] of itself and takes the rest from
    image order[i], and so do labels; x (N, C, H, W), y (N, K) one-hot, share (N,) in [0, 1], order (N,)."""
    g = torch.Generator().manual_seed(0)
    x, share = torch.rand(5, 3, 4, 4, generator=g), torch.tensor([0.9, 0.2, 1.0, 0.6, 0.35])
    y, order = torch.eye(3)[[0, 1, 2, 1, 0]], torch.tensor([1, 2, 3, 4, 0])

    def mixed(values: Tensor, share: Tensor = share, order: Tensor = order) -> Tensor:
        part = share.view(-1, *[1] * (values.ndim - 1))
        return (part * values + (1 - part) * values[order]).double()

    given = [value.clone() for value in (x, y, share, order)]
    try:
        answer = call(function, *given)
    except RuntimeError as error:
        if "must match the size" not in str(error):
            raise
        raise Wrong(
            "share is (5,) and x (5, 3, 4, 4): it lacks x's axes; write share[:, None, None, None], and share[:, None] "
            "for y"
        ) from error
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("return two tensors: the mixed images, the mixed labels")
    new_x, new_y = tensor(answer[0], (5, 3, 4, 4)), tensor(answer[1], (5, 3))
    right_x, right_y = (torch.allclose(new, mixed(old), atol=1e-5) for new, old in ((new_x, x), (new_y, y)))
    if right_x and right_y:
        if not torch.equal(given[0], x) or not torch.equal(given[1], y):
            raise Wrong("right, but the images or labels that were passed in have changed: make new tensors")
        return "Between two images the model now has to be between two answers."
    of_images = {
        "share is what the image keeps, and 1 - share what it takes: yours is turned round": mixed(x, 1 - share),
        "each image has its own share; yours uses the first one's for all": mixed(x, share[:1].expand(5)),
        "the partner of image i is order[i], so x[order]; yours is the permutation's inverse": mixed(
            x, share, order.argsort()
        ),
        "the partner of image i is order[i]; yours turns the batch round instead": mixed(
            x, share, torch.arange(4, -1, -1)
        ),
    }
    of_labels = {
        "the labels are mixed as well, with the same share": y,
        "the labels must be mixed with the same share as the images": mixed(y, 1 - share),
        "each label has its own image's share, not the mean": mixed(y, share.mean().expand(5)),
    }
    look_up(new_x, of_images, atol=1e-5)
    if right_x:
        look_up(new_y, of_labels, atol=1e-5)
        raise Wrong("the images are right, the labels are not: share[:, None] * y + (1 - share[:, None]) * y[order]")
    if right_y:
        raise Wrong("the labels are right, the images are not")
    raise Wrong(f"differs from the answer by up to {(new_x - mixed(x)).abs().max():.3f}")


@checked
def majority_vote(function: Callable[[Tensor, int], Tensor]) -> str:
    """`function(votes, n_classes) -> (N,)`: the class with most votes, of equals the smallest; votes int64 (M, N)."""
    votes = torch.tensor([[2, 0, 3, 1, 0, 3], [2, 1, 3, 4, 4, 1], [1, 1, 0, 4, 2, 1], [0, 0, 0, 4, 4, 3]])
    counts = torch.stack([(votes == k).sum(0) for k in range(5)])
    expected = counts.argmax(0).double()  # argmax of equals is the first
    raw = call(function, votes.clone(), 5)
    if isinstance(raw, Tensor) and raw.shape == (4,):
        raise Wrong("that is a vote for each model; count over the models (dim 0) for each image")
    answer = tensor(raw, (6,))
    if torch.equal(answer, expected):
        single = tensor(call(function, torch.tensor([[4, 0, 2]]), 6), (3,))
        if single.tolist() != [4, 0, 2]:
            raise Wrong("with a single model its own votes are the answer")
        return "Equal votes are common with few models: say how they are broken."
    winners = ((counts == counts.amax(0)) & (torch.arange(5)[:, None] == answer)).any(0)
    i = int(((answer != expected) & (~winners | winners.all())).nonzero()[0])  # a tie only if nothing else is wrong
    if winners.all():
        raise Wrong(
            "right but for ties: of classes with equally many votes the smallest wins, so votes "
            f"{votes[:, i].tolist()} give {expected[i]:.0f}, yours is {answer[i]:g}"
        )
    mean = votes.double().mean(0)
    mistakes = {
        "that is how many votes the winner has; which class is it?": counts.amax(0),
        "that is the mean of the class numbers, but classes are names: between 0 and 4 there is no 2": (
            mean.round(),
            mean,
        ),
        "that is the median of the class numbers, but classes are names: they have no order": votes.median(0).values,
        "that is the first model's vote": votes[0],
    }
    look_up(answer, mistakes)
    raise Wrong(f"votes {votes[:, i].tolist()} give {expected[i]:.0f}, yours is {answer[i]:g}")


@checked
def grad_cam(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(maps, gradients) -> (h, w)`: ReLU of the sum of the maps, each weighted by the mean of its gradient
    over the places; maps and gradients (D, h, w)."""
    g = torch.Generator().manual_seed(3)
    maps, gradients = torch.randn(6, 4, 5, generator=g), torch.randn(6, 4, 5, generator=g)
    gradients -= gradients.mean()  # so that some places speak for the class and some against it
    weights = gradients.mean((1, 2), keepdim=True)
    weighted = (weights * maps).sum(0).double()
    expected = weighted.relu()
    raw = call(function, maps.clone(), gradients.clone())
    if isinstance(raw, Tensor) and raw.shape == (6, 4, 5):
        raise Wrong("that is a map for each channel: add them up")
    if isinstance(raw, Tensor) and raw.shape == (6,):
        raise Wrong("those are numbers for the channels: the places (h, w) are wanted, so sum over the channels")
    answer = tensor(raw, (4, 5))
    if torch.allclose(answer, expected, atol=1e-6):
        return "The gradient says which channels matter, the maps say where they are."

    def cam(weights: Tensor, maps: Tensor) -> Tensor:
        return (weights * maps).sum(0).relu()

    mistakes = {
        "the ReLU is missing: places that speak against the class are cut off": weighted,
        "a ReLU sets what is below zero to zero; yours turns it round": weighted.abs(),
        "the ReLU comes after the sum, not before: channels that speak against the class count too": (weights * maps)
        .relu()
        .sum(0),
        "the weights are the gradients' means over the places first; yours multiplies place by place": cam(
            gradients, maps
        ),
        "the gradients' mean is taken with both signs": cam(gradients.relu().mean((1, 2), keepdim=True), maps),
        "the weights keep their signs: channels that speak against the class count too": cam(weights.relu(), maps),
        "mean over the places (1, 2), not over the channels": cam(gradients.mean(0), maps),
        "the maps are taken with both signs: the ReLU comes last": cam(weights, maps.relu()),
        "the maps are taken with both signs, not their sizes": cam(weights, maps.abs()),
        "right up to a factor: the weight of a channel is the mean of its gradient, not the sum": 20 * expected,
        "right up to a factor: the channels are added up, not averaged": expected / 6,
        "the gradients alone do not say where: multiply the maps by their means": gradients.sum(0).relu(),
        "the maps alone know nothing of the class: weight them by the gradients' means": maps.sum(0),
        "maps and gradients are exchanged: the gradients are averaged, the maps keep their places": cam(
            maps.mean((1, 2), keepdim=True), gradients
        ),
    }
    look_up(answer, mistakes, atol=1e-6)
    if torch.allclose(answer / answer.max(), expected / expected.max(), atol=1e-6):
        raise Wrong("right up to a factor: take the mean of each gradient, add up the channels, and do not scale")
    raise Wrong(f"differs from the answer by up to {(answer - expected).abs().max():.3f}")
