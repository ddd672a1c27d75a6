"""The exercises of notebooks 04 and 05: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from labutil import checks, losses


def eye(n):
    return torch.eye(n, dtype=torch.bool)


def pairs(n):
    return eye(n).repeat(2, 2) & ~eye(2 * n)


def unit(*z):
    return F.normalize(torch.cat(z), dim=1)


def nt_xent(z_a, z_b, tau, *, own=False, positive_in_sum=True):
    """Written with masks and slices, unlike labutil's."""
    n = len(z_a)
    s = unit(z_a, z_b) @ unit(z_a, z_b).T / tau
    left_out = torch.zeros_like(s, dtype=torch.bool) if own else eye(2 * n)
    left_out = left_out if positive_in_sum else left_out | pairs(n)
    return (s.masked_fill(left_out, -torch.inf).logsumexp(1) - s[pairs(n)]).mean()


def zero_diagonal(z_a, z_b, tau):
    z = unit(z_a, z_b)
    similarity = (z @ z.T / tau).fill_diagonal_(0)
    return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(z_a)))


def overflows(z_a, z_b, tau):
    e = (unit(z_a, z_b) @ unit(z_a, z_b).T / tau).exp()
    return -(e[pairs(len(z_a))] / (e.sum(1) - e.diag())).log().mean()


def one_way(a, b, tau):
    return F.cross_entropy(unit(a) @ unit(b).T / tau, torch.arange(len(a)))


def schedule(p, base):
    return 1 - (1 - base) * (math.cos(math.pi * p) + 1) / 2


def same_class(y):
    y = y.repeat(2)
    return (y[:, None] == y) & ~eye(len(y))


def l_out(log_p, mask):
    rows = [-row[m].mean() for row, m in zip(log_p, mask, strict=True) if m.any()]
    return torch.stack(rows).mean()


def l_in(log_p, mask):
    return torch.stack([-row[m].exp().mean().log() for row, m in zip(log_p, mask, strict=True) if m.any()]).mean()


RIGHT = {
    "view_pairs": pairs,
    "info_nce": nt_xent,
    "collapsed_loss": lambda n: math.log(2 * n - 1),
    "target_momentum": schedule,
    "off_diagonal": lambda c: c[~eye(len(c))].pow(2).sum(),
    "positives": same_class,
    "l_out": l_out,
    "positives_per_anchor": lambda batch, k, views: views * batch / k - 1,
}
WRONG = [
    ("view_pairs", eye, r"\(2n, 2n\)"),
    ("view_pairs", lambda n: eye(n).repeat(2, 2), "clear the diagonal"),
    ("view_pairs", lambda n: eye(2 * n), "pairs a view with itself"),
    ("view_pairs", lambda n: ~pairs(n), "marks the negatives"),
    ("view_pairs", lambda n: eye(n).repeat_interleave(2, 0).repeat_interleave(2, 1) & ~eye(2 * n), "row i \\+ n"),
    ("view_pairs", lambda n: pairs(n).triu(), "only one direction"),
    ("view_pairs", lambda n: torch.rand(2 * n, 2 * n), "True and False only"),
    ("view_pairs", lambda n: pairs(n).roll(1, 0), "each row has one True"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, own=True), "with itself are still in the sum"),
    ("info_nce", zero_diagonal, r"e\^0 = 1 in the sum: use -inf"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, positive_in_sum=False), "positive belongs into the sum"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) * 12, "sum over the views"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) * 2, "not by N"),
    ("info_nce", lambda a, b, t: -nt_xent(a, b, t), "sign"),
    ("info_nce", one_way, "only the views of z_b"),
    ("info_nce", lambda a, b, t: (one_way(a, b, t) + one_way(b, a, t)) / 2, "same side are negatives"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, 1 / t), "do not multiply"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, 1.0), "tau is not used"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) / math.log(2), "bits"),
    ("info_nce", lambda a, b, t: torch.zeros(12), "their mean"),
    ("info_nce", overflows, "overflows; use logsumexp"),
    ("info_nce", lambda a, b, t: 0.3, "yours is 0.3"),
    ("collapsed_loss", lambda n: math.log(2 * n - 1) if n > 1 else 0.7, "only the positive is left"),
    ("collapsed_loss", lambda n: math.log(2 * n), "not compared with itself"),
    ("collapsed_loss", lambda n: 2 * n - 1, "the number of answers; the loss is its logarithm"),
    ("collapsed_loss", lambda n: math.log(2 * n - 1) - 1 / 0.2, "-1/tau and 1/tau cancel"),
    ("collapsed_loss", lambda n: math.log(2 * n - 1) + 1 / 0.2, "-1/tau and 1/tau cancel"),
    ("collapsed_loss", lambda n: n - 1 and math.log(2 * n), "not compared with itself"),
    ("collapsed_loss", lambda n: n - 1 and math.log(2 * n - 2), "the positive is in the sum too"),
    ("collapsed_loss", math.log, "two views of each image"),
    ("collapsed_loss", lambda n: math.log2(2 * n - 1), "bits"),
    ("collapsed_loss", lambda n: 0.0, "uniform"),
    ("collapsed_loss", lambda n: -math.log(2 * n - 1), "sign"),
    ("collapsed_loss", lambda n: n - 1, "for n = 16 it is 3.4340, yours is 15"),
    ("target_momentum", lambda p, base: 1 - (1 - base) * (1 - math.cos(math.pi * p)) / 2, "falls from 1"),
    ("target_momentum", lambda p, base: base + (1 - base) * p, "straight line"),
    ("target_momentum", lambda p, base: base, "does not change"),
    ("target_momentum", lambda p, base: 1 - (1 - base) * (math.cos(math.pi * p) + 1), "halve"),
    ("target_momentum", lambda p, base: 1 - schedule(p, base), "share that changes"),
    ("target_momentum", lambda p, base: 0.5, "progress 0.0, base 0.96: 0.9600, yours is 0.5000"),
    ("off_diagonal", lambda c: c.pow(2).sum(), "diagonal is still"),
    ("off_diagonal", lambda c: c.diag().pow(2).sum(), "that is the diagonal"),
    ("off_diagonal", lambda c: c[~eye(5)].sum(), "square each entry: negative"),
    ("off_diagonal", lambda c: c[~eye(5)].abs().sum(), "not absolute"),
    ("off_diagonal", lambda c: c[~eye(5)].sum() ** 2, "first, then sum"),
    ("off_diagonal", lambda c: c.triu(1).pow(2).sum(), "upper"),
    ("off_diagonal", lambda c: c.tril(-1).pow(2).sum(), "lower"),
    ("off_diagonal", lambda c: c[~eye(5)].pow(2).mean(), "not the mean"),
    ("off_diagonal", lambda c: 1.0, "yours is 1$"),
    ("positives", lambda y: y[:, None] == y, "each label counts for two rows"),
    ("positives", lambda y: same_class(y) | eye(10), "clear the diagonal"),
    ("positives", lambda y: pairs(5), "SimCLR's mask"),
    ("positives", lambda y: same_class(y) & ~pairs(5), "other view of the same image"),
    ("positives", lambda y: ~(same_class(y) | eye(10)), "marks the negatives"),
    ("positives", lambda y: y.repeat_interleave(2)[:, None].eq(y.repeat_interleave(2)) & ~eye(10), "not interleaved"),
    ("positives", lambda y: eye(10) & False, "row 0 .label 2. has 3 positives, in yours 0"),
    ("l_out", lambda log_p, mask: -l_out(log_p, mask), "sign"),
    ("l_out", l_in, "L_in"),
    ("l_out", lambda log_p, mask: -log_p[mask].mean(), "large classes more weight"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask) * 5 / 6, "count as 0"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask) * 5, "sum over the anchors"),
    ("l_out", lambda log_p, mask: -log_p.masked_fill(~mask, 0).sum(1)[mask.any(1)].mean(), "divide by the number"),
    ("l_out", lambda log_p, mask: -(log_p.masked_fill(~mask, 0).sum(1) / mask.sum(1)).mean(), "no positive"),
    ("l_out", lambda log_p, mask: -((log_p * mask).sum(1) / mask.sum(1)).nanmean(), "not finite"),
    ("l_out", lambda log_p, mask: 1.0, "yours is 1$"),
    ("positives_per_anchor", lambda b, k, v: v * b / k, "not its own positive"),
    ("positives_per_anchor", lambda b, k, v: b / k - 1, "2 times"),
    ("positives_per_anchor", lambda b, k, v: b / k, "2 times, and"),
    ("positives_per_anchor", lambda b, k, v: v * (b / k - 1), "other view of the same image"),
    ("positives_per_anchor", lambda b, k, v: v * b - v * b / k, "negatives"),
    ("positives_per_anchor", lambda b, k, v: v - 1, "that is SimCLR"),
    ("positives_per_anchor", lambda b, k, v: 7.5, "63 is right, yours is 7.5"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_untouched_and_crashing(name):
    check = getattr(checks, name)
    assert repr(check(RIGHT[name])).startswith(f"✓ {name}: correct.")
    for stub in (lambda *a: None, lambda *a: ...):
        assert repr(check(stub)) == f"○ {name}: not attempted yet"
    assert check(lambda: 1).status == "failed"  # wrong number of arguments: said, not raised
    assert check.__doc__


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG)
def test_mistakes_are_recognised(name, answer, reason):
    result = getattr(checks, name)(answer)
    assert result.status == "failed"
    assert re.search(reason, result.message), result.message


def test_the_packages_own_functions_pass():
    """What the lessons import does what their exercises ask for."""
    assert checks.info_nce(losses.info_nce).status == "passed"
