"""One linear layer on frozen features: against scikit-learn, and an encoder that does not change by a bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from labutil import device, evaluation, models, representations


def blobs(n, k=4, d=6, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    centres = torch.randn(k, d, generator=torch.Generator().manual_seed(9))
    return centres[y] + spread * torch.randn(n, d, generator=g), y


def test_the_layer_reaches_the_minimum_that_logistic_regression_finds():
    (h, y), (h_val, y_val) = blobs(400), blobs(200, seed=1)
    device.seed_everything(0)
    settings = dict(epochs=1000, batch_size=400, lr=0.2, schedule="cosine")
    layer, history = representations.linear_layer(h, y, h_val, y_val, 4, **settings)
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
    _, history = representations.linear_layer(h, y, h, y, 4, epochs=1, batch_size=64, lr=1e-9)
    assert history.train_loss.iloc[0] == pytest.approx(np.log(4), abs=1e-5)
    again, _ = representations.linear_layer(h, y, h, y, 4, epochs=1, batch_size=64, lr=1e-9)
    assert again.weight.abs().max() < 1e-6


def test_a_frozen_encoder_does_not_change_by_a_bit():
    device.seed_everything(0)
    encoder = device.prepare(models.encoder("resnet8", image_size=16))
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    encoder.requires_grad_(False).eval()
    before, saved = representations.state_hash(encoder), {k: v.clone() for k, v in encoder.state_dict().items()}
    h, y = evaluation.predict(encoder, images), torch.arange(40) % 2
    representations.linear_layer(h, y, h, y, 2, epochs=2, batch_size=16, lr=0.1)
    assert representations.state_hash(encoder) == before
    assert all(torch.equal(v, saved[k]) for k, v in encoder.state_dict().items())
    encoder.train()(device.to_float(images))  # what would have happened in training mode
    assert representations.state_hash(encoder) != before


@pytest.mark.parametrize("name", ["1.running_mean", "0.weight", "1.num_batches_tracked"])
def test_the_hash_sees_one_bit_anywhere(name):
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(memory_format=torch.channels_last)
    before = representations.state_hash(module)
    assert before == representations.state_hash(module) and len(before) == 16
    value = module.state_dict()[name].view(-1)
    value[0] = value[0] + 1 if not value.is_floating_point() else torch.nextafter(value[0], torch.tensor(9.0))
    assert representations.state_hash(module) != before


def test_the_hash_reads_bfloat16_and_any_layout():
    convolution = nn.Conv2d(3, 4, 3)
    before = representations.state_hash(convolution)
    assert representations.state_hash(convolution.to(memory_format=torch.channels_last)) == before
    assert representations.state_hash(convolution.bfloat16()) != before


@pytest.mark.parametrize("n", [0, 1, 3, 7, 50, 99, 100, 1000])
def test_few_labels_hold_every_class(n):
    y = np.repeat([0, 1, 5], [90, 9, 1])
    index = representations.few_labels(y, n, seed=n)
    assert len(index) == min(max(n, 3), 100) == len(set(index.tolist()))
    assert index.dtype == np.int64 and (np.diff(index) > 0).all()
    assert set(y[index]) == {0, 1, 5}
    assert np.array_equal(index, representations.few_labels(torch.tensor(y), n, seed=n))
    if n == 50:
        assert 43 <= (y[index] == 0).sum() <= 46  # shares are kept
        assert not np.array_equal(index, representations.few_labels(y, n, seed=51))


def test_label_efficiency_is_the_probe_on_those_labels():
    (h, y), (h_val, y_val) = blobs(300, spread=0.8), blobs(200, seed=1, spread=0.8)
    table = representations.label_efficiency(h, y, h_val, y_val, (0.02, 0.1, 1.0), seeds=2)
    assert table.share.tolist() == [0.02, 0.02, 0.1, 0.1, 1.0]
    assert table.labels.tolist() == [6, 6, 30, 30, 300]
    index = representations.few_labels(y, 30, seed=1)
    probe = representations.linear_probe(h[index], y[index])
    assert table.accuracy[3] == probe.score(h_val.numpy(), y_val.numpy())
    assert table.accuracy[4] > table.accuracy[:2].mean()
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            representations.label_efficiency(h, y, h_val, y_val, (wrong,))
