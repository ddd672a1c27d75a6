"""Measures of embeddings against scikit-learn, lightly, their papers' code, slow loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from labutil import device, evaluation, models, representations
from labutil.losses import info_nce
from labutil.representations import (
    alignment,
    collapse,
    effective_rank,
    knn_accuracy,
    knn_probabilities,
    retrieval_accuracy,
    uniformity,
)


def toy(n, d=6, classes=4, seed=0):
    """Noisy classes of uneven size, in float32."""
    g = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=g) ** 2 * classes).long()
    centres = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return 5 * (centres[labels] + torch.randn(n, d, generator=g)), labels


@pytest.fixture(params=[2**24, 301])  # all at once; a row or a few at a time
def _chunk(request, monkeypatch):
    monkeypatch.setattr(representations, "CHUNK", request.param)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_equals_lightly_and_scikit_learn(k):
    (bank, y), (queries, labels) = toy(150), toy(60, seed=1)
    p = knn_probabilities(bank, y, queries, 4, k=k, tau=0.1)
    assert p.shape == (60, 4)
    assert p.dtype == torch.float32
    assert torch.allclose(p.sum(1), torch.ones(60))
    ranked = knn_predict(F.normalize(queries), F.normalize(bank).mT, y, 4, knn_k=k, knn_t=0.1)
    assert torch.equal(p.argmax(1), ranked[:, 0])
    assert knn_accuracy(bank, y, queries, labels, k=k) == (ranked[:, 0] == labels).double().mean().item()
    # scikit-learn's cosine distance is 1 - cosine.
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    peer.fit(bank.double().numpy(), y.numpy())
    np.testing.assert_allclose(p, peer.predict_proba(queries.double().numpy()), atol=1e-5)
    even = KNeighborsClassifier(k, metric="cosine").fit(bank.double().numpy(), y.numpy())
    flat = knn_probabilities(bank, y, queries, 4, k=k, tau=1e6)
    np.testing.assert_allclose(flat, even.predict_proba(queries.double().numpy()), atol=1e-5)


@pytest.mark.usefixtures("_chunk")
def test_knn_equals_a_slow_loop():
    (bank, y), (queries, _) = toy(40), toy(9, seed=1)
    expected = np.zeros((9, 5))
    for i, q in enumerate(queries.double().numpy()):
        cosines = [float(q @ b) / np.linalg.norm(q) / np.linalg.norm(b) for b in bank.double().numpy()]
        for j in sorted(range(40), key=lambda j: -cosines[j])[:7]:
            expected[i, y[j]] += math.exp(cosines[j] / 0.3)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(knn_probabilities(bank, y, queries, 5, k=7, tau=0.3), expected, atol=1e-6)


def test_knn_of_small_banks_and_other_types():
    bank, y = toy(5)
    p = knn_probabilities(bank, y, bank, 4, k=20)
    assert torch.equal(p, knn_probabilities(bank.double().numpy(), y.numpy(), bank.tolist(), 4, k=5))
    assert knn_accuracy(bank.numpy(), y.tolist(), bank, y.numpy(), k=1) == 1
    assert knn_probabilities(bank, y, bank[:0], 4).shape == (0, 4)
    assert knn_probabilities(bank, y, bank, 4, tau=1e-4).isfinite().all()  # exp(cosine / tau) alone would overflow
    # A class that the bank lacks is never found, and is no error.
    assert knn_accuracy(bank, torch.zeros(5, dtype=torch.int64), bank, torch.tensor([0, 0, 0, 0, 7])) == 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank_labels": torch.tensor([0, 1, -1, 0])}, "from -1 to 1, outside 0 to 2"),
        ({"bank_labels": torch.tensor([0, 1, 3, 0])}, "from 0 to 3"),
        ({"bank_labels": torch.zeros(3, dtype=torch.int64)}, r"\(4, 2\), its labels \(3,\)"),
        ({"queries": torch.rand(2, 3)}, r"queries \(2, 3\)"),
        ({"queries": torch.rand(2)}, r"queries: expected finite embeddings \(N, D\), got \(2,\)"),
        ({"bank": torch.full((4, 2), torch.nan)}, "bank: .* not all are finite"),
        ({"bank": torch.rand(0, 2), "bank_labels": torch.zeros(0, dtype=torch.int64)}, "M at least 1"),
        ({"k": 0}, "k=0"),
        ({"tau": 0}, "tau=0"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    settings = {"bank": torch.rand(4, 2), "bank_labels": torch.zeros(4, dtype=torch.int64), "queries": torch.rand(2, 2)}
    with pytest.raises(ValueError, match=message):
        knn_probabilities(**settings | {"n_classes": 3} | change)


def slow_retrieval(z_a, z_b, k):
    z = F.normalize(torch.cat([z_a, z_b]).double(), dim=1).numpy()
    n, hits = len(z_a), 0
    for i in range(2 * n):
        others = sorted((j for j in range(2 * n) if j != i), key=lambda j: -float(z[i] @ z[j]))
        hits += (i + n) % (2 * n) in others[:k]
    return hits / (2 * n)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("k", [1, 5, 50])
def test_retrieval_equals_a_slow_loop(k):
    z, _ = toy(30)
    other = z + 3 * torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    found = retrieval_accuracy(z, other, k)
    assert found == pytest.approx(slow_retrieval(z, other, k))
    assert 0.1 < found < (1 if k < 50 else 1.1)


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
    z_a, _ = toy(80)
    z_b = z_a + torch.randn(z_a.shape, generator=torch.Generator().manual_seed(5))
    a, b = (F.normalize(z.double(), dim=1) for z in (z_a, z_b))
    assert alignment(z_a, z_b) == pytest.approx((a - b).norm(dim=1).pow(2).mean().item(), rel=1e-5)
    for t in (2, 0.5):
        assert uniformity(z_a, t) == pytest.approx(np.log(np.exp(-t * pdist(a.numpy()) ** 2).mean()), rel=1e-5)


def test_alignment_and_uniformity_closed_forms():
    z = torch.eye(8)
    assert alignment(z, 3 * z) == 0
    assert alignment(z, -z) == pytest.approx(4)
    assert uniformity(torch.ones(50, 3)) == pytest.approx(0, abs=1e-6)
    assert uniformity(z) == pytest.approx(-4)  # distances of sqrt(2)
    points = torch.randn(2000, 256, generator=torch.Generator().manual_seed(0))
    assert uniformity(points) == pytest.approx(-4, abs=0.05)
    assert math.isfinite(uniformity(torch.tensor([[1.0, 0], [-1, 0]]), t=1e4))
    with pytest.raises(ValueError, match="two embeddings"):
        uniformity(z[:1])


def test_effective_rank():
    g = torch.Generator().manual_seed(0)
    # Orthonormal columns orthogonal to the ones: centred already, all singular values 1.
    q = torch.linalg.qr(torch.cat([torch.ones(40, 1), torch.randn(40, 10, generator=g)], 1))[0][:, 1:]
    assert effective_rank(q + 5) == pytest.approx(10, rel=1e-4)
    line = torch.outer(torch.randn(40, generator=g), torch.randn(7, generator=g)) + 3
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((40, 7), 0.1)) == 0
    for h in (toy(50)[0], toy(4)[0]):  # more rows than columns, and fewer
        s = np.linalg.svd((h - h.mean(0)).double().numpy(), compute_uv=False)
        p = s[s > 1e-5] / s[s > 1e-5].sum()
        assert effective_rank(h) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_collapse_is_told_in_words():
    g = torch.Generator().manual_seed(0)
    h = torch.randn(300, 64, generator=g)
    line = torch.outer(torch.randn(300, generator=g), torch.randn(64, generator=g)) + 0.05 * h
    plane = torch.randn(300, 3, generator=g) @ torch.randn(3, 64, generator=g)
    assert collapse(h) == collapse(plane) == collapse(h.relu() + 2) == ""
    assert "same way" in collapse(torch.ones(300, 64))
    assert "same way" in collapse(torch.zeros(300, 64))
    assert "same way" in collapse(1 + 0.01 * h)
    assert "mean cosine 0.99990" in collapse(1 + 0.01 * h)
    assert "1." in collapse(line) and "of 64 directions" in collapse(line)
    assert "1.0 of 64 directions" in collapse(torch.cat([h[:1], h[1:2]]).repeat(20, 1))  # two classes, two points
    assert collapse(h[:1]) == collapse(h[:, :1]) == ""


def test_untrained_encoders_have_not_collapsed():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    smooth = F.avg_pool2d(images.float(), 9, 1, 4).byte()
    for name in ("resnet8", "basic_cnn"):
        torch.manual_seed(0)
        assert collapse(evaluation.predict(models.encoder(name), smooth)) == ""


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
