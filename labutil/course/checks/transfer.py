"""Exercise checks of lesson 03."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from labutil import models
from labutil.course.checks.frame import Wrong, call, checked, judge, number, tensor


@checked
def trainable_parameters(function: Callable[[int, Sequence[int], int], int]) -> str:
    """`function(features, sizes, classes) -> int`: learnable numbers in a head: for each size a linear layer with bias
    and a batch norm, then a linear layer to the classes."""
    for features, sizes, classes in ((10, [], 3), (1280, [512, 256, 128], 8), (7, [5], 2)):
        ours = sum(p.numel() for p in models.mlp_head(features, sizes, classes).parameters())
        answer = number(function, features, sizes, classes)
        case = f"trainable_parameters({features}, {sizes}, {classes})"
        widths = [features, *sizes, classes]
        weights = sum(a * b for a, b in pairwise(widths))
        hidden = sum(sizes)
        if not sizes:
            bias = {"the last layer has a bias for each class": weights}
            judge(answer, ours, bias, f"{case}, one linear layer without hidden ones", rtol=0)
            continue
        every_from_features = (features + 1) * (hidden + classes) + 2 * hidden
        mistakes = {
            "the batch norms are missing: a weight and a bias for each hidden unit": ours - 2 * hidden,
            "a batch norm learns two numbers for each hidden unit, a weight and a bias": ours - hidden,
            "a batch norm's running mean and variance are counted, but they are not learned": ours + 2 * hidden,
            "a batch norm's running statistics are buffers: they are not learned": ours + 2 * hidden + len(sizes),
            "no batch norm follows the last layer": ours + 2 * classes,
            "the linear layers' biases are missing": weights + 2 * hidden,
            "biases and batch norms are missing": weights,
            "the last layer, to the classes, is missing": ours - (sizes[-1] + 1) * classes,
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
        return part * values + (1 - part) * values[order]

    try:
        answer = call(function, x, y, share, order)
    except RuntimeError as error:
        if "must match the size" not in str(error):
            raise
        raise Wrong(
            "share is (5,) and x (5, 3, 4, 4): it lacks x's axes; write share[:, None, None, None], and share[:, None] "
            "for y"
        ) from error
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("return two tensors: the mixed images, the mixed labels")
    new_x, new_y = tensor(answer[0], x.shape), tensor(answer[1], y.shape)
    inverse, reversed_batch = (mixed(x, order=wrong) for wrong in (order.argsort(), torch.arange(4, -1, -1)))
    of_images = {
        "share is what the image keeps, and 1 - share what it takes: yours is turned round": mixed(x, 1 - share),
        "each image has its own share; yours uses the first one's for all": mixed(x, share[:1].expand(5)),
        "the partner of image i is order[i], so x[order]; yours is the permutation's inverse": inverse,
        "the partner of image i is order[i]; yours turns the batch round instead": reversed_batch,
        "they are as they were": x,
    }
    of_labels = {
        "the labels are mixed as well, with the same share": y,
        "the labels must be mixed with the same share as the images": mixed(y, 1 - share),
        "each label has its own image's share, not the mean": mixed(y, share.mean().expand(5)),
    }
    judge(new_x, mixed(x), of_images, "the images are not right", atol=1e-5)
    solution = "share[:, None] * y + (1 - share[:, None]) * y[order]"
    judge(new_y, mixed(y), of_labels, "the images are right, the labels are not", hint=solution, atol=1e-5)
    given = [x.clone(), y.clone()]
    function(*given, share, order)
    if not torch.equal(given[0], x) or not torch.equal(given[1], y):
        raise Wrong("right, but the images or labels that were passed in have changed: make new tensors")
    return "Between two images the model now has to be between two answers."


@checked
def majority_vote(function: Callable[[Tensor, int], Tensor]) -> str:
    """`function(votes, n_classes) -> (N,)`: the class with most votes, of equals the smallest; votes int64 (M, N)."""
    votes = torch.tensor([[2, 1, 0, 0, 3, 3], [2, 4, 4, 1, 3, 1], [1, 4, 2, 1, 0, 1], [0, 4, 4, 0, 0, 3]])  # ties last
    counts = torch.stack([(votes == k).sum(0) for k in range(5)])
    of_models = {(4,): "that is a vote for each model; count over the models (dim 0) for each image"}
    answer, mean = tensor(call(function, votes, 5), (6,), of_models), votes.float().mean(0)
    among_most = ((counts == counts.amax(0)) & (torch.arange(5)[:, None] == answer)).any(0)
    of_names = "that is the mean of the class numbers, but classes are names: between 0 and 4 there is no 2"
    mistakes = {
        "that is how many votes the winner has; which class is it?": counts.amax(0),
        of_names: (mean.round(), mean),
        "that is the median of the class numbers, but classes are names: they have no order": votes.median(0).values,
        "that is the first model's vote": votes[0],
    }
    ties = "right but for ties: of classes with equally many votes the smallest wins" if among_most.all() else ""
    expected = counts.argmax(0)  # of equals the first
    judge(answer, expected, mistakes, ties, hint=f"the votes are {votes.tolist()}")
    if tensor(call(function, torch.tensor([[4, 0, 2]]), 6), (3,)).tolist() != [4, 0, 2]:
        raise Wrong("with a single model its own votes are the answer")
    return "Equal votes are common with few models: say how they are broken."


@checked
def grad_cam(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(maps, gradients) -> (h, w)`: ReLU of the sum of the maps, each weighted by the mean of its gradient
    over the places; maps and gradients (D, h, w)."""
    g = torch.Generator().manual_seed(3)
    maps, gradients = torch.randn(6, 4, 5, generator=g), torch.randn(6, 4, 5, generator=g)
    gradients -= gradients.mean()  # so that some places speak for the class and some against it
    shapes = {
        (6, 4, 5): "that is a map for each channel: add them up",
        (6,): "those are numbers for the channels: the places (h, w) are wanted, so sum over the channels",
    }
    answer = tensor(call(function, maps, gradients), (4, 5), shapes)

    def means(values: Tensor) -> Tensor:
        return values.mean((1, 2), keepdim=True)

    def cam(weights: Tensor, maps: Tensor) -> Tensor:
        return (weights * maps).sum(0).relu()

    weights = means(gradients)
    weighted, expected = weights * maps, cam(weights, maps)
    rescaled = answer.max() * expected / expected.max() if answer.max() > 0 else ()
    before_sum = "the ReLU comes after the sum, not before: channels that speak against the class count too"
    places_first = "the weights are the gradients' means over the places first; yours multiplies place by place"
    exchanged = "maps and gradients are exchanged: the gradients are averaged, the maps keep their places"
    mistakes = {
        "the ReLU is missing: places that speak against the class are cut off": weighted.sum(0),
        "a ReLU sets what is below zero to zero; yours turns it round": weighted.sum(0).abs(),
        before_sum: weighted.relu().sum(0),
        places_first: cam(gradients, maps),
        "the gradients' mean is taken with both signs": cam(means(gradients.relu()), maps),
        "the weights keep their signs: channels that speak against the class count too": cam(weights.relu(), maps),
        "mean over the places (1, 2), not over the channels": cam(gradients.mean(0), maps),
        "the maps are taken with both signs: the ReLU comes last": cam(weights, maps.relu()),
        "the maps are taken with both signs, not their sizes": cam(weights, maps.abs()),
        "right up to a factor: the weight of a channel is the mean of its gradient, not the sum": 20 * expected,
        "right up to a factor: the channels are added up, not averaged": expected / 6,
        "the gradients alone do not say where: multiply the maps by their means": gradients.sum(0).relu(),
        "the maps alone know nothing of the class: weight them by the gradients' means": maps.sum(0),
        exchanged: cam(means(maps), gradients),
        "right up to a factor: take the mean of each gradient, add up the channels, and do not scale": rescaled,
    }
    judge(answer, expected, mistakes, atol=1e-6)
    return "The gradient says which channels matter, the maps say where they are."
