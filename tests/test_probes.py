"""Linear classifiers on frozen features against scikit-learn, and an encoder that does not change by a bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from labutil import device, evaluation, models, probes, representations


def blobs(n, k=4, d=6, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    centres = torch.randn(k, d, generator=torch.Generator().manual_seed(9))
    return centres[y] + spread * torch.randn(n, d, generator=g), y


def test_linear_probe_is_the_least_penalised_loss_on_scaled_roots():
    """The same convex problem solved another way: roots and scaling by hand, no principal axes, to the last digit.

    How far a loss with softmax lies above its least value is the mean Kullback-Leibler divergence between the two
    answers, plus the penalty of the difference; so it bounds how far the probabilities differ (Pinsker).
    """
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    h = rng.normal(size=(150, 12)) * 3 + np.eye(3, 12)[y] * 4
    x = np.sign(h) * np.abs(h) ** 0.5
    scale = 10 / np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    x = (x - x.mean(0)) * scale
    best = LogisticRegression(C=1 / (2 * 0.1 * 150), max_iter=5000, tol=1e-8).fit(x, y)

    def loss(p, weight):
        return -np.log(p[np.arange(150), y]).mean() + 0.1 * (weight**2).sum()

    def excess(decay):
        probe = probes.linear_probe(torch.from_numpy(h), torch.from_numpy(y), decay=decay)
        weight = probe["classifier"].coef_ @ probe["axes"].components_ / scale
        return loss(probe.predict_proba(h), weight) - least, probe

    least = loss(best.predict_proba(x), best.coef_)
    above, probe = excess(0.1)
    assert -1e-9 < above < 1e-4 * least
    assert min(excess(0.08)[0], excess(0.125)[0]) > 4e-4 * least  # another penalty does not come so near
    difference = np.abs(probe.predict_proba(h) - best.predict_proba(x)).max(1)
    assert np.sqrt((difference**2).mean()) < np.sqrt(above / 2) + 1e-6
    assert probe.score(h, y) > 0.7
    np.testing.assert_array_equal(excess(0.1)[1].predict_proba(h), probe.predict_proba(h))


def test_linear_probe_keeps_to_its_axes_and_classes():
    rng = np.random.default_rng(1)
    h, y = rng.normal(size=(20, 40)), np.repeat([2, 5], 10)
    probe = probes.linear_probe(h, y, dimensions=4)
    assert probe.predict_proba(h).shape == (20, 2)
    assert probe.classes_.tolist() == [2, 5]
    assert probe["axes"].n_components_ == 4


@pytest.mark.parametrize("n", [30, 90])  # fewer images than features, and more
def test_principal_axes_keep_what_a_linear_model_sees(n):
    h = np.random.default_rng(0).normal(size=(n, 40)).astype(np.float32) * 7
    x = probes.signed_root(h)
    x = (x - x.mean(0)) * 10 / np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    every = probes.principal_axes(torch.from_numpy(h))
    assert every.shape == (n, min(40, n - 1))
    np.testing.assert_allclose(every @ every.T, x @ x.T, atol=1e-2)  # the same up to a rotation
    few = probes.principal_axes(h, 3)
    np.testing.assert_allclose((few**2).sum(0), np.linalg.svd(x, compute_uv=False)[:3] ** 2, rtol=1e-4)


def test_weights_of_a_logistic_regression_count_as_repeated_rows():
    (x, y), weight = blobs(60), np.arange(60) % 3
    x, y = 3 * x.numpy(), y.numpy()
    weighted = probes.logistic_regression(x, y, decay=0.1, sample_weight=weight)
    rows = np.repeat(np.arange(60), weight)  # 60 of them as well, so that the penalty weighs the same
    repeated = probes.logistic_regression(x[rows], y[rows], decay=0.1)
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), atol=1e-3)


def test_the_layer_reaches_the_minimum_that_logistic_regression_finds():
    (h, y), (h_val, y_val) = blobs(400), blobs(200, seed=1)
    device.seed_everything(0)
    settings = dict(epochs=1000, batch_size=400, lr=0.2, schedule="cosine")
    layer, history = probes.linear_layer(h, y, h_val, y_val, 4, **settings)
    oracle = LogisticRegression(C=np.inf, max_iter=5000).fit(h, y)
    theirs = F.cross_entropy(torch.tensor(oracle.decision_function(h)), y).item()
    with torch.no_grad():
        ours = F.cross_entropy(layer(h), y).item()
        accuracy = (layer(h_val).argmax(1) == y_val).float().mean().item()
        loss = F.cross_entropy(layer(h_val), y_val).item()
    assert ours == pytest.approx(theirs, abs=2e-3)
    assert history.val_accuracy.iloc[-1] == pytest.approx(accuracy)
    assert history.val_loss.iloc[-1] == pytest.approx(loss, rel=1e-5)
    assert {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= set(history)


def test_the_layer_starts_at_zero():
    h, y = blobs(64)
    _, history = probes.linear_layer(h, y, h, y, 4, epochs=1, batch_size=64, lr=1e-9)
    assert history.train_loss.iloc[0] == pytest.approx(np.log(4), abs=1e-5)
    again, _ = probes.linear_layer(h, y, h, y, 4, epochs=1, batch_size=64, lr=1e-9)
    assert again.weight.abs().max() < 1e-6


def test_a_frozen_encoder_does_not_change_by_a_bit():
    device.seed_everything(0)
    encoder = device.prepare(models.encoder("resnet8", image_size=16))
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    encoder.requires_grad_(False).eval()
    before, saved = representations.state_hash(encoder), {k: v.clone() for k, v in encoder.state_dict().items()}
    h, y = evaluation.predict(encoder, images), torch.arange(40) % 2
    probes.linear_layer(h, y, h, y, 2, epochs=2, batch_size=16, lr=0.1)
    assert representations.state_hash(encoder) == before
    assert all(torch.equal(v, saved[k]) for k, v in encoder.state_dict().items())
    encoder.train()(device.to_float(images))  # what would have happened in training mode
    assert representations.state_hash(encoder) != before


@pytest.mark.parametrize("n", [0, 1, 3, 7, 50, 99, 100, 1000])
def test_few_labels_hold_every_class(n):
    y = np.repeat([0, 1, 5], [90, 9, 1])
    index = probes.few_labels(y, n, seed=n)
    assert len(index) == min(max(n, 3), 100) == len(set(index.tolist()))
    assert index.dtype == np.int64 and (np.diff(index) > 0).all()
    assert set(y[index]) == {0, 1, 5}
    assert np.array_equal(index, probes.few_labels(torch.tensor(y), n, seed=n))
    if n == 50:
        assert 43 <= (y[index] == 0).sum() <= 46  # shares are kept
        assert not np.array_equal(index, probes.few_labels(y, n, seed=51))


def test_label_efficiency_is_the_probe_on_those_labels():
    (h, y), (h_val, y_val) = blobs(300, spread=0.8), blobs(200, seed=1, spread=0.8)
    table = probes.label_efficiency(h, y, h_val, y_val, (0.02, 0.1, 1.0), seeds=2)
    assert table.share.tolist() == [0.02, 0.02, 0.1, 0.1, 1.0]
    assert table.labels.tolist() == [6, 6, 30, 30, 300]
    index = probes.few_labels(y, 30, seed=1)
    probe = probes.linear_probe(h[index], y[index])
    assert table.accuracy[3] == probe.score(h_val.numpy(), y_val.numpy())
    assert table.accuracy[4] > table.accuracy[:2].mean()
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            probes.label_efficiency(h, y, h_val, y_val, (wrong,))
