"""Exercise checks of lessons 02 and 03: networks that classify."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil import models
from labutil.course.checks.frame import Wrong, backpropagates, call, checked, close, judge, scalar, tensor

AUTOGRAD = ("torch.func.grad", "torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward")


@checked(refuses=("torch.nn.functional.cross_entropy", "torch.nn.functional.nll_loss"))
def cross_entropy(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> scalar`: mean of -log softmax(logits)[y]; logits (N, K) float, y (N,) int64."""
    g = torch.Generator().manual_seed(0)
    logits, y = torch.randn(7, 5, generator=g), torch.randint(0, 5, (7,), generator=g)
    expected, p = F.cross_entropy(logits, y), logits.softmax(1)
    mistakes = {
        "that is the sum over the batch; divide by N, or the learning rate depends on the batch size": 7 * expected,
        "the sign is wrong: a loss is -log p, and at least 0": -expected,
        "that is in bits; use the natural logarithm": expected / math.log(2),
        "the log sum exp is missing: logits are not yet log-probabilities": F.nll_loss(logits, y),
        "that is -p of the right class, the logarithm is missing": F.nll_loss(p, y),
        "softmax is applied twice": F.cross_entropy(p, y),
        "sum over the classes (dim=1), not everything": logits.exp().sum().log() - logits[range(7), y].mean(),
        "classes are in dim 1, images in dim 0": F.cross_entropy(logits.T[:, :5], y[:5]),
    }
    per_image = {(7,): "that is one loss an image; the batch's loss is their mean"}
    judge(call(function, logits, y), expected, mistakes, "for a random batch", shapes=per_image)
    large = scalar(call(function, torch.tensor([[1000.0, 0.0], [0.0, -1000.0]]), torch.tensor([1, 0])))
    if not close(large, 500):
        raise Wrong(
            f"right for small logits, but {large:g} where a logit is 1000, and 500 is right: exp(1000) overflows "
            "(subtract each row's largest logit first), or p of the right class underflows to 0 (a small constant only "
            "hides that): never form p, compute -z_y + log sum exp z"
        )
    backpropagates(function, logits, y)
    return "And stable: it survives logits of 1000."


@checked(refuses=("torch.nn.functional.cross_entropy", *AUTOGRAD))
def cross_entropy_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> (N, K)`: the derivative of the mean cross-entropy with respect to the logits."""
    g = torch.Generator().manual_seed(1)
    logits, y = torch.randn(6, 4, generator=g), torch.randint(0, 4, (6,), generator=g)
    gradient = torch.func.grad(F.cross_entropy)
    expected, p = gradient(logits, y), logits.softmax(1)
    turned = "the sign is turned round: p - onehot(y), since the right logit must rise when the loss falls"
    mistakes = {
        "the loss is a mean over the batch, so the gradient is divided by N": 6 * expected,
        turned: (-expected, -6 * expected),
        "that is the part of log sum exp; the right class's logit also stands alone in the loss": (p, p / 6),
    }
    judge(call(function, logits, y), expected, mistakes, hint="start from -logit_y + logsumexp", atol=1e-5)
    few = y.clamp(max=2)  # nobody is of class 3
    try:
        complete = close(tensor(call(function, logits, few), (6, 4)), gradient(logits, few), atol=1e-5).all()
    except (IndexError, RuntimeError, ValueError, Wrong):
        complete = False
    if not complete:
        raise Wrong(
            "right, but not for a batch without the highest class: F.one_hot(y) lacks its column then, so say how many "
            "classes there are: F.one_hot(y, logits.shape[1])"
        )
    return "Each row sums to 0: what the right class gains, the others lose."


@checked(refuses=("sklearn.metrics.f1_score", "sklearn.metrics.precision_recall_fscore_support"))
def macro_f1(function: Callable[[Tensor], float]) -> str:
    """`function(confusion) -> float`: mean over classes of F1; confusion (K, K) int64, rows true, columns predicted."""
    confusion = torch.tensor([[50, 3, 2], [4, 10, 1], [6, 0, 4]])
    f1, hits, support = _f1(confusion), confusion.diag(), confusion.sum(1)
    recall, precision = hits / support, hits / confusion.sum(0)
    of_means = 2 / (1 / recall.mean() + 1 / precision.mean())
    by_support, accuracy = (f1 * support).sum() / support.sum(), hits.sum() / support.sum()
    mistakes = {
        "that weights each class by how often it occurs; macro means every class counts the same": by_support,
        "that is the accuracy (micro F1): sum over classes comes after the ratio, not before": accuracy,
        "that is macro recall; F1 is the harmonic mean of precision and recall": recall.mean(),
        "that is macro precision; F1 is the harmonic mean of precision and recall": precision.mean(),
        "that is the arithmetic mean of precision and recall": (precision + recall).mean() / 2,
        "take F1 for each class first, then the mean over classes": of_means,
    }
    judge(call(function, confusion), f1.mean(), mistakes, "for the check's 3x3 matrix")
    for last, reason in (
        (2, "a class that is never predicted divides by zero; its F1 is 0, and still counts in the mean"),
        (0, "a class with no image and no prediction is 0/0; count it as 0"),
    ):
        confusion = torch.tensor([[5, 0, 0], [1, 3, 0], [last, 0, 0]])
        if not close(scalar(call(function, confusion, raised={"ZeroDivisionError": reason})), _f1(confusion).mean()):
            raise Wrong(reason)
    return "A class nobody predicts costs as much as a common one."


def _f1(confusion: Tensor) -> Tensor:
    """F1 of each class, (K,)."""
    return 2 * confusion.diag() / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)


@checked
def trainable_parameters(function: Callable[[int, Sequence[int], int], int]) -> str:
    """`function(features, sizes, classes) -> int`: learnable numbers in a head: for each size a linear layer with bias
    and a batch norm, then a linear layer to the classes."""
    one_layer = "trainable_parameters(10, [], 3), one linear layer without hidden ones"
    judge(call(function, 10, [], 3), 33, {"the last layer has a bias for each class": 30}, one_layer, rtol=0)
    for features, sizes, classes in ((1280, [512, 256, 128], 8), (7, [5], 2)):
        ours = sum(p.numel() for p in models.mlp_head(features, sizes, classes).parameters())
        widths = [features, *sizes, classes]
        weights = sum(a * b for a, b in pairwise(widths))
        hidden = sum(sizes)
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
        case = features, sizes, classes
        judge(call(function, *case), ours, mistakes, f"trainable_parameters{case}", rtol=0)
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

    axes = "share (5,) lacks axes of x (5, 3, 4, 4): write share[:, None, None, None], and share[:, None] for y"
    answer = call(function, x, y, share, order, raised={"must match the size": axes})
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
