"""Measures of embeddings against their papers' code, slow loops and closed forms; collapse is told in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from torch import nn

from labutil import device, geometry
from labutil.geometry import alignment, collapse, effective_rank, retrieval_accuracy, uniformity
from labutil.losses import info_nce


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[2**24, 301])  # all at once; a row or a few at a time
def _chunk(request, monkeypatch):
    monkeypatch.setattr(geometry, "CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("k", [1, 5, 50])
def test_retrieval_equals_a_slow_loop(k):
    z_a = 5 * normal(30, 6)
    z_b = z_a + 5 * normal(30, 6, seed=5)
    z, hits = F.normalize(torch.cat([z_a, z_b]).double()).numpy(), 0
    for i in range(60):
        others = sorted((j for j in range(60) if j != i), key=lambda j: -float(z[i] @ z[j]))
        hits += (i + 30) % 60 in others[:k]
    assert retrieval_accuracy(z_a, z_b, k) == pytest.approx(hits / 60)
    assert 0.1 < hits / 60 < (1 if k < 50 else 1.1)


def test_retrieval_closed_forms():
    z = torch.eye(10)
    assert retrieval_accuracy(z, z, 1) == 1
    assert retrieval_accuracy(torch.ones(10, 4), torch.ones(10, 4), 5) == pytest.approx(5 / 19)  # collapsed: chance
    assert retrieval_accuracy(torch.ones(2, 4), torch.ones(2, 4), 5) == 1
    # Two groups of equal points: the other view is one of nine in its own group.
    groups = torch.eye(2).repeat_interleave(5, 0)
    assert retrieval_accuracy(groups, groups, 3) == pytest.approx(3 / 9)
    with pytest.raises(ValueError, match=r"\(10, 10\) and \(9, 10\)"):
        retrieval_accuracy(z, z[1:])


@pytest.mark.usefixtures("_chunk")
def test_alignment_and_uniformity_as_in_their_paper():
    """Its appendix A: (x - y).norm(dim=1).pow(2).mean() and torch.pdist(x).pow(2).mul(-t).exp().mean().log()."""
    z_a = normal(80, 6)
    z_b = z_a + normal(80, 6, seed=5) / 5
    a, b = (F.normalize(z.double()) for z in (z_a, z_b))
    assert alignment(z_a, z_b) == pytest.approx((a - b).norm(dim=1).pow(2).mean().item(), rel=1e-5)
    for t in (2, 0.5):
        assert uniformity(z_a, t) == pytest.approx(np.log(np.exp(-t * pdist(a.numpy()) ** 2).mean()), rel=1e-5)


def test_alignment_and_uniformity_closed_forms():
    z = torch.eye(8)
    assert alignment(z, 3 * z) == 0
    assert alignment(z, -z) == pytest.approx(4)
    assert uniformity(torch.ones(50, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(z) == pytest.approx(-4)  # distances of sqrt(2)
    assert uniformity(normal(2000, 256)) == pytest.approx(-4, abs=0.05)
    assert math.isfinite(uniformity(torch.tensor([[1.0, 0], [-1, 0]]), t=1e4))
    assert uniformity(z[:1]) == 0  # one point


def test_effective_rank():
    # Orthonormal columns orthogonal to the ones: centred already, all singular values 1.
    q = torch.linalg.qr(torch.cat([torch.ones(40, 1), normal(40, 10)], 1))[0][:, 1:]
    assert effective_rank(q + 5) == pytest.approx(10, rel=1e-4)
    assert effective_rank(torch.outer(normal(40), normal(7, seed=1)) + 3) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((40, 7), 0.1)) == 0
    for h in normal(50, 6), normal(4, 6):  # more rows than columns, and fewer
        s = np.linalg.svd((h - h.mean(0)).double().numpy(), compute_uv=False)
        p = s[s > 1e-5] / s[s > 1e-5].sum()
        assert effective_rank(h) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_collapse_is_told_in_words():
    h = normal(300, 64)
    line = torch.outer(normal(300, seed=1), normal(64, seed=2)) + 0.05 * h
    plane = normal(300, 3, seed=3) @ normal(3, 64, seed=4)
    assert collapse(h) == collapse(plane) == collapse(h.relu() + 2) == ""
    for same in torch.ones(300, 64), torch.zeros(300, 64), 1 + 0.01 * h:
        assert "same way" in collapse(same)
    assert "mean cosine 0.99990" in collapse(1 + 0.01 * h)
    assert "1." in collapse(line) and "of 64 directions" in collapse(line)
    assert "1.0 of 64 directions" in collapse(h[:2].repeat(20, 1))  # two classes, two points
    assert collapse(h[:1]) == collapse(h[:, :1]) == ""


@pytest.mark.parametrize("rule", ["attract", "contrast"])
def test_views_that_only_attract_collapse(rule):
    """Without negatives, predictor or target a projector soon maps everything to one point; InfoNCE does not."""
    device.seed_everything(0)
    x = torch.randn(64, 10)
    network = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(150):
        z_a, z_b = (network(x + torch.randn(x.shape, generator=device.generator("augment"))) for _ in "ab")
        loss = (2 - 2 * F.cosine_similarity(z_a, z_b)).mean() if rule == "attract" else info_nce(z_a, z_b, 0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert bool(collapse(network(x))) == (rule == "attract")
