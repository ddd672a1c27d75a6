"""Losses against lightly, pytorch-metric-learning, slow loops and closed forms; values and gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningNTXent
from pytorch_metric_learning.losses import SupConLoss
from scipy.linalg import hadamard

from labutil import device
from labutil.losses import barlow_twins, byol, cross_correlation, info_nce, sup_con

TAUS = (0.01, 0.1, 0.5)
DTYPES = (torch.float32, torch.float64)


def views(n=12, d=8, dtype=torch.float64, seed=0):
    """Two views that are alike, of any length: the losses normalise them."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    noise = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return tuple((3 * (z + 0.7 * e)).to(dtype).requires_grad_() for e in noise)


def random_labels(n, classes, seed=0):
    return torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))


def assert_same(ours, peer, inputs, tolerance=1e-5):
    """Values and the gradients of every input agree to `tolerance`, relative to the largest."""
    assert ours.ndim == 0
    assert abs(ours.item() - peer.item()) < tolerance * max(1, abs(peer.item()))
    mine, theirs = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, peer))
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).abs().max() < tolerance * max(1, b.abs().max())


def slow_sup_con(z, labels, tau):
    """L_out by the book: one anchor, one positive, one term of the sum at a time."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    losses = []
    for i, label in enumerate(labels):
        total = np.logaddexp.reduce([z[i] @ z[k] / tau for k in range(len(z)) if k != i])
        positives = [total - z[i] @ z[p] / tau for p in range(len(z)) if p != i and labels[p] == label]
        losses += [np.mean(positives)] if positives else []
    return np.mean(losses) if losses else 0.0


def stacked(*z):
    return torch.cat([v.detach().double() for v in z]).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (12, 8), (40, 2)])
def test_info_nce_equals_libraries_and_loops(n, d, tau, dtype):
    z_a, z_b = views(n, d, dtype)
    ours = info_nce(z_a, z_b, tau)
    # The peers in double precision: in float32 their own errors at tau = 0.01 pass the tolerance.
    a, b = z_a.double(), z_b.double()
    assert_same(ours, NTXentLoss(temperature=tau)(a, b), [z_a, z_b])
    assert_same(ours, MetricLearningNTXent(tau)(torch.cat([a, b]), torch.arange(n).repeat(2)), [z_a, z_b])
    by_loops = slow_sup_con(stacked(z_a, z_b), np.tile(np.arange(n), 2), tau)
    assert ours.item() == pytest.approx(by_loops, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [1, 2, 5, 30])
@pytest.mark.parametrize("two_views", [True, False])
def test_sup_con_equals_the_library_and_loops(two_views, classes, tau, dtype):
    z_a, z_b = views(16, 6, dtype, seed=classes)
    labels = random_labels(16, classes, seed=classes)  # with 30 classes most have no positive in one view
    inputs = [z_a, z_b] if two_views else [z_a]
    ours = sup_con(z_a, z_b if two_views else None, labels, tau)
    every = labels.repeat(len(inputs))
    assert ours.item() == pytest.approx(slow_sup_con(stacked(*inputs), every.numpy(), tau), rel=1e-5, abs=1e-5)
    if classes > 1:  # with one class the library returns zero: it asks for a negative as well
        peer = SupConLoss(tau)(torch.cat([z.double() for z in inputs]), every)
        assert_same(ours, peer, inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", TAUS)
def test_sup_con_without_shared_labels_is_info_nce(tau, dtype):
    z_a, z_b = views(dtype=dtype)
    for labels in (torch.arange(12) + 5, torch.full((12,), -1), torch.randperm(12).to(torch.int32)):
        assert_same(sup_con(z_a, z_b, labels, tau), info_nce(z_a, z_b, tau), [z_a, z_b], 1e-6)


def test_unlabelled_images_are_their_own_class():
    z_a, z_b = views()
    labels = random_labels(12, 3)
    some = labels.clone()
    some[::3] = -1
    own = torch.where(some < 0, torch.arange(12) + 100, some)
    assert_same(sup_con(z_a, z_b, some, 0.1), sup_con(z_a, z_b, own, 0.1), [z_a, z_b], 1e-12)
    assert not torch.isclose(sup_con(z_a, z_b, some, 0.1), sup_con(z_a, z_b, labels, 0.1))


@pytest.mark.parametrize("n", [2, 5, 64])
@pytest.mark.parametrize("tau", TAUS)
def test_closed_forms(n, tau):
    """Equal projections give the log of what there is to choose from; orthogonal ones are all as far."""
    z, eye = torch.ones(n, 4) * 3, torch.eye(n, dtype=torch.float64)
    assert info_nce(z, z, tau).item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)
    assert sup_con(z, z, random_labels(n, 3), tau).item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)
    assert sup_con(z, None, torch.zeros(n, dtype=torch.int64), tau).item() == pytest.approx(math.log(n - 1), abs=1e-5)
    orthogonal = math.log(1 + (2 * n - 2) * math.exp(-1 / tau))
    assert info_nce(eye, eye, tau).item() == pytest.approx(orthogonal, rel=1e-9, abs=1e-14)


def test_two_classes_by_hand_and_no_positives_cost_nothing():
    """Classes are opposite points, two images each, one view: each anchor has cosines 1, -1, -1."""
    z = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]], dtype=torch.float64, requires_grad=True)
    expected = math.log(1 + 2 * math.exp(-2 / 0.5))
    assert sup_con(z, None, torch.tensor([7, 7, 3, 3]), 0.5).item() == pytest.approx(expected, rel=1e-12)
    alone = sup_con(z, None, torch.arange(4), 0.1)
    assert alone.item() == 0 and not torch.autograd.grad(alone, z)[0].any()


def test_the_same_image_twice_in_a_batch():
    """Rows that repeat share a label: the loss stays finite and equals the loops."""
    z_a, z_b = (torch.cat([z, z]) for z in views(6))
    labels = torch.tensor([0, 1, 2, 0, 1, 2] * 2)
    ours = sup_con(z_a, z_b, labels, 0.01)
    assert ours.item() == pytest.approx(slow_sup_con(stacked(z_a, z_b), labels.repeat(2).numpy(), 0.01), rel=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (12, 8), (64, 16)])
def test_byol_equals_lightly(n, d, dtype):
    p, z = views(n, d, dtype)
    ours, peer = byol(p, z), 2 + 2 * NegativeCosineSimilarity()(p, z.detach())
    assert_same(ours, peer, [p])
    by_loops = [2 - 2 * (a @ b) / np.sqrt((a @ a) * (b @ b)) for a, b in zip(stacked(p), stacked(z), strict=True)]
    assert ours.item() == pytest.approx(np.mean(by_loops), rel=1e-5)


def test_byol_ends_and_stops_at_the_target():
    p, z = views()
    assert byol(p, 5 * p).item() == pytest.approx(0, abs=1e-12) and byol(p, -p).item() == pytest.approx(4)
    assert torch.autograd.grad(byol(p, z), z, allow_unused=True)[0] is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lambd", [0.005, 0.5])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (12, 8), (64, 30)])
def test_barlow_twins_equals_lightly_and_loops(n, d, lambd, dtype):
    z_a, z_b = views(n, d, dtype)
    ours = barlow_twins(z_a, z_b, lambd)
    assert_same(ours, BarlowTwinsLoss(lambd)(z_a.double(), z_b.double()), [z_a, z_b])
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (stacked(z_a), stacked(z_b)))
    by_loops = 0.0
    for i, j in itertools.product(range(d), range(d)):
        c = sum(a[k, i] * b[k, j] for k in range(n)) / n
        by_loops += (1 - c) ** 2 if i == j else lambd * c**2
    assert ours.item() == pytest.approx(by_loops, rel=1e-5)


def test_barlow_twins_closed_forms():
    # Columns of a Hadamard matrix: mean 0, variance 1, uncorrelated.
    z = torch.from_numpy(hadamard(8, dtype=float))[:, 1:] * 100
    assert barlow_twins(z, z + 40, 0.1).item() == pytest.approx(0, abs=1e-12)
    assert torch.allclose(cross_correlation(z, -z), -torch.eye(7, dtype=torch.float64))
    same = z[:, :1].repeat(1, 5)  # one feature five times: every correlation is 1
    assert barlow_twins(same, same, 0.1).item() == pytest.approx(0.1 * 5 * 4)
    constant = torch.ones(8, 3, dtype=torch.float64, requires_grad=True)  # nothing varies: no correlation at all
    loss = barlow_twins(constant, constant, 0.1)
    assert loss.item() == 3
    assert torch.autograd.grad(loss, constant)[0].isfinite().all()


def every_loss(z_a, z_b, tau=0.01):
    labels = random_labels(len(z_a), 3)
    return [info_nce(z_a, z_b, tau), sup_con(z_a, z_b, labels, tau), byol(z_a, z_b), barlow_twins(z_a, z_b, 0.005)]


def test_autocast_changes_nothing_and_low_precision_comes_in():
    z_a, z_b = views(32, 16, torch.float32)
    plain = every_loss(z_a, z_b)
    with device.autocast("bf16", torch.device("cpu")):
        under = every_loss(z_a, z_b)
    assert [loss.dtype for loss in under] == [torch.float32] * 4
    assert torch.equal(torch.stack(plain), torch.stack(under))
    for a, b in zip(plain, under, strict=True):
        assert torch.equal(torch.autograd.grad(a, z_a)[0], torch.autograd.grad(b, z_a)[0])
    # A projector under autocast returns bfloat16: the loss is that of the rounded values, in float32.
    low_a, low_b = (z.detach().bfloat16().requires_grad_() for z in (z_a, z_b))
    for low, exact in zip(every_loss(low_a, low_b), every_loss(low_a.float(), low_b.float()), strict=True):
        assert torch.equal(low, exact)
        assert torch.autograd.grad(low, low_a, retain_graph=True)[0].isfinite().all()


def test_hard_cases_stay_finite():
    g = torch.Generator().manual_seed(0)
    cases = {
        "far from the origin": 1e4 + torch.randn(8, 4, generator=g),
        "tiny": 1e-6 * torch.randn(8, 4, generator=g),
        "huge": 1e15 * torch.randn(8, 4, generator=g),
        "with a row of zeros": torch.cat([torch.zeros(1, 4), torch.randn(7, 4, generator=g)]),
        "opposite": torch.tensor([[1.0, 0]]).repeat(8, 1) * torch.tensor([1.0, -1]).repeat(4)[:, None],
    }
    for name, z in cases.items():
        z.requires_grad_()
        for loss in every_loss(z, z.flip(0)):
            assert loss.isfinite(), name
            assert torch.autograd.grad(loss, z)[0].isfinite().all(), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: info_nce(z, z[:3], 0.1), r"\(12, 8\).*\(3, 8\)"),
        (lambda z: info_nce(z[0], z[0], 0.1), r"\(N, D\)"),
        (lambda z: info_nce(z.long(), z.long(), 0.1), "int64"),
        (lambda z: info_nce(z[:0], z[:0], 0.1), "N, D"),
        (lambda z: info_nce(z, z, 0), "tau=0 must be above 0"),
        (lambda z: sup_con(z, z, torch.arange(12), -0.1), "tau=-0.1"),
        (lambda z: sup_con(z, z, torch.arange(24), 0.1), r"labels: expected integers \(12,\)"),
        (lambda z: sup_con(z, z, torch.rand(12), 0.1), "float32"),
        (lambda z: barlow_twins(z[:1], z[:1]), "at least two"),
        (lambda z: byol(z, z[:, :2]), r"\(12, 2\)"),
    ],
)
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(views()[0])
