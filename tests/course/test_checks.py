"""Every exercise: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from labutil import checks


def onehot(y, k):
    return F.one_hot(y, k).float()


def f1_by_class(c):
    hits, true, predicted = c.diag().float(), c.sum(1), c.sum(0)
    precision = torch.where(predicted > 0, hits / predicted, torch.zeros(()))
    recall = torch.where(true > 0, hits / true, torch.zeros(()))
    return torch.where(hits > 0, 2 * precision * recall / (precision + recall), torch.zeros(())), precision, recall


def f1_naive(c):
    precision, recall = c.diag() / c.sum(0), c.diag() / c.sum(1)
    return 2 * precision * recall / (precision + recall)


def head_parameters(d, sizes, k, norm=2, bias=True, last=True):
    widths = [d, *sizes, k][: None if last else -1]
    linear = sum(a * b + b * bias for a, b in itertools.pairwise(widths))
    return linear + norm * sum(sizes)


def mixed(x, y, share_x, share_y, order):
    a, b = share_x[:, None, None, None], share_y[:, None]
    return a * x + (1 - a) * x[order], b * y + (1 - b) * y[order]


def first_of_equals(votes, k):
    return torch.tensor([Counter(c).most_common(1)[0][0] for c in votes.T.tolist()])


def same_inputs(d, sizes, k):
    return sum((d + 1) * w + 2 * w for w in sizes) + (d + 1) * k


def in_place(x, y, s, o):
    new_x, new_y = mixed(x, y, s, s, o)
    return x.copy_(new_x), y.copy_(new_y)


RIGHT = {
    "conv_parameters": lambda i, o, k, bias: o * (i * k * k + bias),
    "cross_entropy": lambda z, y: (z.logsumexp(1) - z[torch.arange(len(y)), y]).mean(),
    "cross_entropy_gradient": lambda z, y: (z.softmax(1) - onehot(y, z.shape[1])) / len(y),
    "macro_f1": lambda c: f1_by_class(c)[0].mean(),
    "hamming": lambda a, b: (a[:, None] ^ b[None]).sum(2),
    "robust_z": lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().median()),
    "recall_precision": lambda f, t: (len(f & t) / len(t), len(f & t) / len(f) if f else 1.0),
    "label_quality": lambda p, y: p.gather(1, y[:, None])[:, 0],
    "trainable_parameters": head_parameters,
    "mix_up": lambda x, y, s, o: mixed(x, y, s, s, o),
    "majority_vote": lambda votes, k: F.one_hot(votes, k).sum(0).argmax(1),
    "grad_cam": lambda a, g: (g.mean((1, 2))[:, None, None] * a).sum(0).clamp(min=0),
}
WRONG = [
    ("conv_parameters", lambda i, o, k, bias: o * i * k * k, "biases are missing"),
    ("conv_parameters", lambda i, o, k, bias: o * (i * k * k + 1), "no biases when bias is False"),
    ("conv_parameters", lambda i, o, k, bias: o * i * k * k + i * bias, "belongs to an output channel"),
    ("conv_parameters", lambda i, o, k, bias: o * (k * k + bias), "a kernel for each input channel"),
    ("conv_parameters", lambda i, o, k, bias: o * (i * k + bias), "height times width"),
    ("conv_parameters", lambda i, o, k, bias: 12345, "2,400 is right, yours is 12,345"),
    ("conv_parameters", lambda i, o, k, bias: [1, 2], "one number"),
    ("cross_entropy", lambda z, y: F.cross_entropy(z, y, reduction="none"), "their mean"),
    ("cross_entropy", lambda z, y: F.cross_entropy(z, y, reduction="sum"), "divide by N"),
    ("cross_entropy", lambda z, y: -F.cross_entropy(z, y), "sign"),
    ("cross_entropy", lambda z, y: F.cross_entropy(z, y) / math.log(2), "natural logarithm"),
    ("cross_entropy", F.nll_loss, "log sum exp is missing"),
    ("cross_entropy", lambda z, y: F.nll_loss(z.softmax(1), y), "logarithm is missing"),
    ("cross_entropy", lambda z, y: F.cross_entropy(z.softmax(1), y), "applied twice"),
    ("cross_entropy", lambda z, y: z.exp().sum().log() - z[range(len(y)), y].mean(), "dim=1"),
    ("cross_entropy", lambda z, y: (z.exp().sum(1).log() - z[range(len(y)), y]).mean(), "overflows"),
    (
        "cross_entropy",
        lambda z, y: -z.softmax(1)[range(len(y)), y].log().mean(),
        "but inf .* 500 is right: .*underflows",
    ),
    ("cross_entropy", lambda z, y: -(z.softmax(1)[range(len(y)), y] + 1e-12).log().mean(), "but 13.8155 .*only hides"),
    ("cross_entropy", lambda z, y: torch.tensor(0.5), "yours is 0.5"),
    ("cross_entropy", lambda z, y: z @ z, "raised RuntimeError"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) - onehot(y, 4), "divided by N"),
    ("cross_entropy_gradient", lambda z, y: (onehot(y, 4) - z.softmax(1)) / len(y), "sign"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) / len(y), "stands alone"),
    ("cross_entropy_gradient", lambda z, y: (z.softmax(1) - F.one_hot(y)) / len(y), "without the highest class"),
    ("cross_entropy_gradient", lambda z, y: z * 0, "differs from autograd"),
    ("cross_entropy_gradient", lambda z, y: z.sum(0), r"shape \(6, 4\), yours has \(4,\)"),
    ("cross_entropy_gradient", lambda z, y: 3.0, "must be a tensor"),
    ("macro_f1", lambda c: c.diag().sum() / c.sum(), "accuracy"),
    ("macro_f1", lambda c: (f1_by_class(c)[0] * c.sum(1) / c.sum()).sum(), "every class counts the same"),
    ("macro_f1", lambda c: f1_by_class(c)[1].mean(), "macro precision"),
    ("macro_f1", lambda c: f1_by_class(c)[2].mean(), "macro recall"),
    ("macro_f1", lambda c: ((f1_by_class(c)[1] + f1_by_class(c)[2]) / 2).mean(), "arithmetic mean"),
    ("macro_f1", lambda c: 2 / sum(1 / f1_by_class(c)[i].mean() for i in (1, 2)), "each class first"),
    ("macro_f1", lambda c: (2 / (c.sum(1) / c.diag() + c.sum(0) / c.diag())).mean() * 0.5, "yours is"),
    ("macro_f1", lambda c: f1_naive(c).mean(), "divides by zero"),
    ("macro_f1", lambda c: f1_naive(c).nanmean(), "still counts"),
    ("macro_f1", lambda c: (2 * c.diag() / (c.sum(0) + c.sum(1))).mean(), "no image and no prediction"),
    ("macro_f1", lambda c: (2 * c.diag() / (c.sum(0) + c.sum(1))).nanmean(), "count it as 0"),
    ("macro_f1", lambda c: sum(2 * int(c[i, i]) / int(c[i].sum() + c[:, i].sum()) for i in range(3)) / 3, "is 0/0"),
    ("hamming", lambda a, b: (b[:, None] ^ a[None]).sum(2), "turned round"),
    ("hamming", lambda a, b: (a[:, None] == b[None]).sum(2), "bits that agree"),
    ("hamming", lambda a, b: (a[:, None] ^ b[None]).float().mean(2), "share of bits"),
    ("hamming", lambda a, b: (a[:, None] & b[None]).sum(2), "1 in both"),
    ("hamming", lambda a, b: torch.zeros(5, 7), "the first two hashes differ in"),
    ("robust_z", lambda x: (x - x.mean()) / x.std(), "ordinary z-score"),
    ("robust_z", lambda x: (x - x.median()) / (x - x.median()).abs().median(), "1.4826 is missing"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.mean()).abs().median()), "not from the mean"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().mean()), "take their median"),
    ("robust_z", lambda x: RIGHT["robust_z"](x).abs(), "keep the sign"),
    ("robust_z", lambda x: (x - x.median()) * 1.4826 * (x - x.median()).abs().median(), "do not multiply"),
    ("robust_z", lambda x: 1.4826 * (x - x.median()) / (x - x.median()).abs().median(), "belongs below"),
    ("robust_z", lambda x: (x - x.median()) / 1.4826, "median absolute deviation is missing"),
    ("robust_z", lambda x: (x - x.median()) * (x - x.median()).abs().median() / 1.4826, "the last value is"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().median() ** 2), "the last value is"),
    ("robust_z", lambda x: x, "the last value is"),
    ("recall_precision", lambda f, t: len(f & t) / len(t), "return two numbers"),
    ("recall_precision", lambda f, t: (len(f & t) / len(f), len(f & t) / len(t)), "exchanged"),
    ("recall_precision", lambda f, t: (len(f & t), len(f & t)), "expected"),
    ("recall_precision", lambda f, t: (len(f & t) / len(t), len(f & t) / len(f)), "divides by zero"),
    ("recall_precision", lambda f, t: (len(f & t) / len(t), len(f & t) / max(1, len(f))), "1 by convention"),
    ("label_quality", lambda p, y: p[:, y], "pair them"),
    ("label_quality", lambda p, y: p.amax(1), "the given label's"),
    ("label_quality", lambda p, y: 1 - RIGHT["label_quality"](p, y), "quality is the probability itself"),
    ("label_quality", lambda p, y: p[:, 0] * 0, "for the first image it is"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, norm=0), "batch norms are missing"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, norm=1), "learns two numbers"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, norm=4), "running mean and variance"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, norm=4) + len(s), "running statistics"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, bias=False), "bias for each class"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, bias=not s), "linear layers' biases"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, 0, not s), "biases and batch norms"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k, last=not s), "the last layer, to the"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k) + 2 * k * bool(s), "no batch norm follows"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k) - k * bool(s), "has a bias for each class"),
    ("trainable_parameters", lambda d, s, k: d, "one linear layer without hidden ones"),
    (
        "trainable_parameters",
        lambda d, s, k: head_parameters(d, s, k) + 7 * bool(s),
        "822,920 is right, yours is 822,927",
    ),
    ("trainable_parameters", same_inputs, "units of the layer before it"),
    ("trainable_parameters", lambda d, s, k: head_parameters(d, s, k) + len(s), "dropout learns nothing"),
    ("mix_up", lambda x, y, s, o: s * x + (1 - s) * x[o], r"write share\[:, None, None, None\]"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s, s, o)[0], "return two tensors"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, 1 - s, 1 - s, o), "yours is turned round"),
    ("mix_up", lambda x, y, s, o: (mixed(x, y, s, s, o)[0], y), "labels are mixed as well"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s, 1 - s, o), "same share as the images"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s, s.mean().expand(5), o), "its own image's share"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s[:1].expand(5), s[:1].expand(5), o), "first one's for all"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s, s, o.argsort()), "inverse"),
    ("mix_up", lambda x, y, s, o: mixed(x, y, s, s, torch.arange(4, -1, -1)), "turns the batch round"),
    ("mix_up", lambda x, y, s, o: (mixed(x, y, s, s, o)[0], y * 0), "the labels are not"),
    ("mix_up", lambda x, y, s, o: (x, mixed(x, y, s, s, o)[1]), "the images are not"),
    ("mix_up", lambda x, y, s, o: (x, y), "differs from the answer"),
    ("mix_up", in_place, "have changed"),
    ("majority_vote", lambda v, k: v.mode(1).values, "a vote for each model"),
    ("majority_vote", lambda v, k: k - 1 - F.one_hot(v, k).sum(0).flip(1).argmax(1), "right but for ties"),
    ("majority_vote", first_of_equals, r"ties: .* the smallest wins, so votes \[3, 3, 0, 0\] give 0, yours is 3"),
    ("majority_vote", lambda v, k: torch.tensor([max(c, key=c.count) for c in v.T.tolist()]), "the smallest wins"),
    ("majority_vote", lambda v, k: F.one_hot(v, k).sum(0).amax(1), "which class is it"),
    ("majority_vote", lambda v, k: v.float().mean(0).round(), "mean of the class numbers"),
    ("majority_vote", lambda v, k: v.median(0).values, "median of the class numbers"),
    ("majority_vote", lambda v, k: v[0], "first model's vote"),
    ("majority_vote", lambda v, k: v[0] * 0, r"votes \[2, 2, 1, 0\] give 2, yours is 0"),
    ("majority_vote", lambda v, k: RIGHT["majority_vote"](v, k) if len(v) > 1 else v[0] * 0, "single model"),
    ("grad_cam", lambda a, g: g.mean((1, 2))[:, None, None] * a, "a map for each channel"),
    ("grad_cam", lambda a, g: (g * a).sum((1, 2)), "the places"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).sum(0), "ReLU is missing"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).sum(0).abs(), "turns it round"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).relu().sum(0), "after the sum"),
    ("grad_cam", lambda a, g: (g * a).sum(0).relu(), "place by place"),
    ("grad_cam", lambda a, g: (g.sum((1, 2))[:, None, None] * a).sum(0).relu(), "not the sum"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).mean(0).relu(), "not averaged"),
    ("grad_cam", lambda a, g: g.sum(0).relu(), "do not say where"),
    ("grad_cam", lambda a, g: a.sum(0), "know nothing of the class"),
    ("grad_cam", lambda a, g: (a.mean((1, 2))[:, None, None] * g).sum(0).relu(), "exchanged"),
    ("grad_cam", lambda a, g: RIGHT["grad_cam"](a, g) / RIGHT["grad_cam"](a, g).max(), "do not scale"),
    ("grad_cam", lambda a, g: RIGHT["grad_cam"](a.relu(), g), "maps are taken with both signs: the ReLU"),
    ("grad_cam", lambda a, g: RIGHT["grad_cam"](a.abs(), g), "maps are taken with both signs, not their sizes"),
    ("grad_cam", lambda a, g: RIGHT["grad_cam"](a, g.relu()), "mean is taken with both signs"),
    ("grad_cam", lambda a, g: (g.mean((1, 2)).relu()[:, None, None] * a).sum(0).relu(), "weights keep their signs"),
    ("grad_cam", lambda a, g: (g.mean(0) * a).sum(0).relu(), "not over the channels"),
    ("grad_cam", lambda a, g: a[0] * 0 + 1, "differs from the answer"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_untouched_and_crashing(name):
    check = getattr(checks, name)
    assert check(RIGHT[name]).status == "passed"
    assert repr(check(RIGHT[name])).startswith(f"✓ {name}: correct.")
    for stub in (lambda *a: None, lambda *a: ...):
        assert repr(check(stub)) == f"○ {name}: not attempted yet"

    def todo(*args):
        raise NotImplementedError

    assert check(todo).status == "not attempted"

    def unsupported(*args):
        raise NotImplementedError("not for bool")

    assert check(unsupported).status == "failed"  # as torch says it: an attempt
    assert check(unsupported).message == "your function raised NotImplementedError: not for bool"
    assert check(lambda: 1).status == "failed"  # wrong number of arguments: said, not raised


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG)
def test_mistakes_are_recognised(name, answer, reason):
    result = getattr(checks, name)(answer)
    assert result.status == "failed"
    assert re.search(reason, result.message), result.message
