"""Exercise checks of lessons 02 and 03: networks that classify."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import (
    Wrong,
    backpropagates,
    call,
    checked,
    close,
    hidden,
    judge,
    scalar,
    seeded,
    tensor,
)

AUTOGRAD = ("torch.func.grad", "torch.autograd.grad", "torch.autograd.backward", "torch.Tensor.backward")


@checked(refuses=("torch.nn.functional.cross_entropy", "torch.nn.functional.nll_loss"))
def cross_entropy(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, y) -> scalar`: mean of -log softmax(logits)[y]; logits (N, K) float, y (N,) int64."""
    g = seeded(0)
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
        "what is subtracted from the logits is subtracted from z_y, too": expected - logits.amax(1).mean(),
        "of each row its own y: [:, y] takes all of them from every row": -logits.log_softmax(1)[:, y].mean(),
        "that is a mean over the classes as well: sum over them": expected / 5,
    }
    unpacked = {"return_types.max": "max(dim=1) returns values and their places: take .values, or amax"}
    per_image = {(7,): "that is one loss an image; the batch's loss is their mean"}
    judge(call(function, logits, y, raised=unpacked), expected, mistakes, "for a random batch", shapes=per_image)
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
    g = seeded(1)
    logits, y = torch.randn(6, 4, generator=g), torch.randint(0, 4, (6,), generator=g)
    gradient = torch.func.grad(F.cross_entropy)
    expected, p = gradient(logits, y), logits.softmax(1)
    turned = "the sign is turned round: p - onehot(y), since the right logit must rise when the loss falls"
    mistakes = {
        "the loss is a mean over the batch, so the gradient is divided by N": 6 * expected,
        "the loss is a mean over the images, not over the classes": expected / 4,
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
    confusion += hidden(lambda rng: torch.from_numpy(rng.integers(1, 9, (3, 3))), 0)
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


@checked(refuses=("labutil.course.answers.fold",))
def fold(function: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """`function(mean, axes, weight, bias) -> (W, b)`: one linear layer, W (K, D) and b (K,), for what a probe makes of
    x in three steps, weight @ (axes @ (x - mean)) + bias; mean (D,), axes (A, D), weight (K, A), bias (K,)."""
    g = seeded(0)
    shapes = (5,), (4, 5), (3, 4), (3,)
    mean, axes, weight, bias = given = [torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes]
    answer = call(function, *given)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong("return two tensors: W and b")
    product, shift = weight @ axes, weight @ axes @ mean
    turned = {(5, 3): "W is turned round: a row a class, (3, 5), since the layer computes W @ x + b"}
    judge(answer[0], product, {"that is the classifier's weight with its sign turned": -product}, "W", shapes=turned)
    mistakes = {
        "the mean is not in it: what a probe takes from x before, a layer has to take off its bias": bias,
        "the sign is turned round: the mean is taken from x, so what becomes of it is taken from the bias": bias
        + shift,
        "that is what the layer makes of the mean alone; the classifier's own bias is in it as well": (shift, -shift),
    }
    judge(answer[1], bias - shift, mistakes, "W is right, b is not", hint="put x = 0 into the three steps")
    return "Linear steps, one after the other, are one linear step, however many there are."


@checked(refuses=("labutil.course.answers.search_report",))
def search_report(function: Callable[[Tensor, Tensor], float]) -> str:
    """`function(val, test) -> float`: the accuracy to report after a search; val, test (S,): what S settings reach on
    validation and on test images."""
    val = torch.tensor([0.71, 0.83, 0.80, 0.86, 0.78, 0.84])
    test = torch.tensor([0.75, 0.82, 0.88, 0.81, 0.70, 0.85])
    val, test = val + hidden(lambda rng: rng.random() / 10, 0.0), test + hidden(lambda rng: rng.random() / 10, 0.0)
    order = hidden(lambda rng: torch.from_numpy(rng.permutation(6)), torch.arange(6))
    val, test = val[order], test[order]
    best = int(val.argmax())
    seen_by_test = "chosen by the test images, as Report C did: the best of many there is partly luck, and is reported"
    mistakes = {
        seen_by_test: test.max(),
        "the validation images chose it, so it looks better on them than it is: the test images have not": val.max(),
        "the two are exchanged: validation images choose, test images judge": val[test.argmax()],
        "that is which setting to take; what is reported of it?": float(best),
        "only one setting will be used: the mean of all says nothing about it": (test.mean(), val.mean()),
        "then the test images had a say in the choice": test[(val + test).argmax()],
        "that is the worst on validation images": test[val.argmin()],
        "a mean of both is half chosen by": (val[best] + test[best]) / 2,
    }
    judge(call(function, val, test), test[best].item(), mistakes)
    if not close(scalar(call(function, val.flip(0), test)), test.flip(0)[best]):
        raise Wrong("right for one search, and not for another one: val and test come in as arguments")
    return "Whoever reports it has looked at the test images once."


@checked(refuses=("labutil.course.answers.grad_cam",))
def grad_cam(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(maps, gradients) -> (h, w)`: ReLU of the sum of the maps, each weighted by the mean of its gradient
    over the places; maps and gradients (D, h, w)."""
    g = seeded(3)
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
