"""Every exercise: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import math
import re

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


RIGHT = {
    "conv_parameters": lambda i, o, k, bias: o * (i * k * k + bias),
    "cross_entropy": lambda z, y: (z.logsumexp(1) - z[torch.arange(len(y)), y]).mean(),
    "cross_entropy_gradient": lambda z, y: (z.softmax(1) - onehot(y, z.shape[1])) / len(y),
    "macro_f1": lambda c: f1_by_class(c)[0].mean(),
    "hamming": lambda a, b: (a[:, None] ^ b[None]).sum(2),
    "robust_z": lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().median()),
    "recall_precision": lambda f, t: (len(f & t) / len(t), len(f & t) / len(f) if f else 1.0),
    "label_quality": lambda p, y: p.gather(1, y[:, None])[:, 0],
}
WRONG = [
    ("conv_parameters", lambda i, o, k, bias: o * i * k * k, "biases are missing"),
    ("conv_parameters", lambda i, o, k, bias: o * (i * k * k + 1), "no biases when bias is False"),
    ("conv_parameters", lambda i, o, k, bias: o * i * k * k + i * bias, "belongs to an output channel"),
    ("conv_parameters", lambda i, o, k, bias: o * (k * k + bias), "a kernel for each input channel"),
    ("conv_parameters", lambda i, o, k, bias: o * (i * k + bias), "height times width"),
    ("conv_parameters", lambda i, o, k, bias: 12345, "is 2400, yours is 12345"),
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
    ("cross_entropy", lambda z, y: torch.tensor(0.5), "yours is 0.5000"),
    ("cross_entropy", lambda z, y: z @ z, "raised RuntimeError"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) - onehot(y, 4), "divided by N"),
    ("cross_entropy_gradient", lambda z, y: (onehot(y, 4) - z.softmax(1)) / len(y), "sign"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) / len(y), "stands alone"),
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
    assert check(lambda: 1).status == "failed"  # wrong number of arguments: said, not raised


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG)
def test_mistakes_are_recognised(name, answer, reason):
    result = getattr(checks, name)(answer)
    assert result.status == "failed"
    assert re.search(reason, result.message), result.message
