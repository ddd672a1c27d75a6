"""Frozen features are the network's own, and their cache never gives another image's; neighbours and linear
classifiers against lightly and scikit-learn; an encoder that does not change by a bit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from labutil import device, evaluation, models
from labutil import representations as rep
from labutil.paths import DataError


def pictures(n: int = 3, channels: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, 20, 24), generator=g, dtype=torch.uint8)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images the network saw, call by call."""
    seen, predict = [], evaluation.predict
    monkeypatch.setattr(evaluation, "predict", lambda m, x, **s: (seen.append(len(x)), predict(m, x, **s))[1])
    return seen


@pytest.fixture
def quick(monkeypatch) -> None:
    """A small network where only the cache is in question."""
    monkeypatch.setattr(models, "encoder", lambda *_, **__: nn.AdaptiveAvgPool2d(1))


def cached() -> list[Path]:
    return sorted((Path(os.environ["LABUTIL_DATA"]) / "cache" / "features").iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_the_networks_own(channels, monkeypatch):
    monkeypatch.setattr(device, "default_precision", lambda *_: "fp32")
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cpu"))
    images = pictures(channels=channels)
    model = timm.create_model(rep.DEFAULT, num_classes=0).eval()
    models.load_weights(model, rep.DEFAULT)
    pixels = F.interpolate(images.expand(-1, 3, -1, -1).float(), (96, 96), mode="bicubic").clamp(0, 255)
    with torch.inference_mode():
        expected = model((pixels - 127) / 128)
    h = rep.frozen_features(images)  # 20 by 24 pixels are seen at 96
    assert h.dtype == torch.float32 and h.shape == (3, 1280) and h.device.type == "cpu"
    torch.testing.assert_close(h, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(rep.frozen_features(images), h)
    assert not h.requires_grad and not h.is_inference()  # an ordinary tensor: a linear probe trains on it
    for _ in "computed", "read":
        h = rep.frozen_features(images[:0], size=32)
        assert h.shape == (0, 1280) and h.dtype == torch.float32


def test_folded_batch_norms_change_nothing_but_rounding():
    g = torch.Generator().manual_seed(0)
    network = models.encoder(rep.DEFAULT, pretrained=True, input_size=32)
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    for norm in (mixed[1], mixed[3]):
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            values.data.uniform_(0.5, 2, generator=g)
    for model, left in ((network, 0), (mixed, 1)):  # a batch norm behind no convolution stays
        x = device.to_float(pictures(), torch.device("cpu"))
        with torch.inference_mode():
            expected = model.eval()(x)
        rep.fold_batch_norms(model)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == left
        with torch.inference_mode():
            torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


def test_a_second_call_reads_the_file(computed):
    states = torch.get_rng_state(), device.generator("order").get_state()
    first = rep.frozen_features(pictures(), size=32)
    assert torch.equal(torch.get_rng_state(), states[0])  # random numbers elsewhere stay as they were
    assert torch.equal(device.generator("order").get_state(), states[1])
    second = rep.frozen_features(pictures().numpy(), size=32)  # the same bytes in an array
    assert computed == [3]
    assert torch.equal(first, second) and second.dtype == torch.float32
    assert [path.suffix for path in cached()] == [".npz"]
    second.add_(1)  # the caller's own: not a view of the file
    assert torch.equal(rep.frozen_features(pictures(), size=32), first)


def test_anything_that_changes_features_changes_the_key(quick, computed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images, weights = pictures(), tmp_path / "weights.pth"
    weights.write_bytes(b"one")
    moved = images.clone()
    moved[2, 0, 5, 5] += 1
    # one pixel; fewer; another order; the same bytes in another shape
    calls = [(x, {}) for x in (images, moved, images[:2], images.flip(0), images.reshape(3, 3, 24, 20))]
    calls += [(images, setting) for setting in ({"size": 64}, {"encoder": "resnet18"}, {"weights": weights})]
    for x, settings in calls * 2:
        rep.frozen_features(x, **settings)
    assert len(cached()) == len(computed) == len(calls)
    rep.frozen_features(images, size=96)  # what is chosen for them anyway
    rep.frozen_features(images, weights="~/weights.pth")
    rep.frozen_features(images.to(memory_format=torch.channels_last))
    assert len(computed) == len(calls)
    weights.write_bytes(b"another")  # the same name, another file
    for given in (weights, "~/weights.pth"):
        rep.frozen_features(images, weights=given)
    monkeypatch.setattr(device, "default_precision", lambda *_: "fp16")  # no machine's own
    rep.frozen_features(images)
    assert len(computed) == len(calls) + 2


def test_weights_from_a_file_are_used(tmp_path):
    state, h = timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict(), []
    for sign in (1, -1):
        path = tmp_path / f"{sign}.pth"
        torch.save(state | {"conv_head.weight": sign * state["conv_head.weight"]}, path)
        h.append(rep.frozen_features(pictures(), encoder="mobilenetv3_small_050", size=32, weights=path))
    assert h[0].shape == (3, 1024)
    assert not torch.allclose(*h)


def test_a_file_cut_short_is_computed_anew_and_none_is_kept_without_the_cache(quick, computed, own_folders):
    h = rep.frozen_features(pictures(), cache=False)
    assert not (own_folders / "data").exists()
    rep.frozen_features(pictures())
    (path,) = cached()
    whole = path.read_bytes()
    for left in (0, 3, 100, 140, len(whole) - 1):
        path.write_bytes(whole[:left])
        assert torch.equal(rep.frozen_features(pictures()), h)
        assert path.stat().st_size == len(whole)
    assert computed == [3] * 7 and len(whole) > 141


def test_what_comes_from_the_cache_costs_what_it_cost(quick, computed, monkeypatch):
    times = iter([10.0, 12.5, 50.0, 50.25])
    monkeypatch.setattr(rep.time, "perf_counter", lambda: next(times))  # only computing looks at the clock
    h, seconds = rep.timed_features(pictures())
    for _ in range(2):
        again, told = rep.timed_features(pictures())
        assert torch.equal(again, h) and told == seconds == 2.5
    (path,) = cached()
    np.savez(path, features=h.numpy())  # one that does not know is no answer
    assert [rep.timed_features(pictures())[1] for _ in range(2)] == [0.25, 0.25]
    assert computed == [3, 3]


def test_wrong_images_and_settings_are_named(tmp_path):
    uint8 = r"^images: expected uint8 \(N, 1 or 3, H, W\), got torch.\w+ \([\d, ]+\)$"
    wrong = [torch.zeros(2, 3, 8, 8), pictures()[0], pictures()[:, :2], np.zeros((2, 3, 8, 8), np.int64)]
    cases = [("images", images, uint8) for images in wrong]
    cases += [("size", 0, "^size=0 must be .*at least 1$"), ("encoder", "resnet17", "'resnet17'.*did you mean")]
    for setting, value, message in [*cases, ("weights", tmp_path / "none.pth", r"none\.pth' is no file")]:
        with pytest.raises(ValueError, match=message):
            rep.frozen_features(**{"images": pictures(), setting: value})


@pytest.mark.parametrize("kind", ["a file in its place", "full"])
def test_a_cache_that_cannot_be_written(kind, quick, monkeypatch, own_folders):
    def half(path, **_):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if kind == "a file in its place":
        (own_folders / "data").write_text("not a folder")
    else:
        monkeypatch.setattr(np, "savez", half)
    before = [path for path in own_folders.rglob("*") if path.is_file()]
    with pytest.raises(DataError) as caught:
        rep.frozen_features(pictures())
    assert str(caught.value).startswith(f"{own_folders / 'data' / 'cache' / 'features'} cannot be written (")
    assert str(caught.value).endswith("make room, or set LABUTIL_DATA to another folder")
    assert [path for path in own_folders.rglob("*") if path.is_file()] == before


def test_feature_size_and_batches_that_shrink_as_images_grow(monkeypatch):
    for side, seen in {1: 96, 96: 96, 120: 128, 200: 192, 512: 224}.items():
        assert rep.feature_size((side, 1)) == rep.feature_size((1, side)) == seen
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cpu"))
    assert [rep.batch_size(size) for size in (32, 64, 96, 128, 224)] == [32, 32, 24, 16, 8]
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cuda"))
    assert rep.batch_size(224) == 512


# Neighbours


def blobs(n, k=4, d=6, seed=0, spread=1.0):
    """Noisy classes in float32."""
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=g) ** 2 * k).long()  # of uneven size
    y[:k] = torch.arange(k)
    centres = torch.randn(k, d, generator=torch.Generator().manual_seed(9))
    return centres[y] + spread * torch.randn(n, d, generator=g), y


@pytest.mark.parametrize("chunk", [2**24, 301])  # all at once; a query or two at a time
@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_equals_lightly_and_scikit_learn(k, chunk, monkeypatch):
    monkeypatch.setattr(rep, "CHUNK", chunk)
    (bank, y), (queries, labels) = blobs(150), blobs(60, seed=1)
    p = rep.knn_probabilities(bank, y, queries, 4, k=k)
    assert p.shape == (60, 4) and p.dtype == torch.float32
    assert torch.allclose(p.sum(1), torch.ones(60))
    ranked = knn_predict(F.normalize(queries), F.normalize(bank).mT, y, 4, knn_k=k, knn_t=0.1)
    assert torch.equal(p.argmax(1), ranked[:, 0])
    assert rep.knn_accuracy(bank, y, queries, labels, k=k) == (ranked[:, 0] == labels).double().mean().item()
    bank, queries = bank.double().numpy(), queries.double().numpy()
    # scikit-learn's cosine distance is 1 - cosine.
    peer = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)).fit(bank, y)
    np.testing.assert_allclose(p, peer.predict_proba(queries), atol=1e-5)


def test_knn_of_small_banks_and_other_types():
    bank, y = blobs(5)
    p = rep.knn_probabilities(bank, y, bank, 4, k=20)
    assert torch.equal(p, rep.knn_probabilities(bank.double().numpy(), y.numpy(), bank.tolist(), 4, k=5))
    assert rep.knn_accuracy(bank.numpy(), y.tolist(), bank, y.numpy(), k=1) == 1
    assert rep.knn_probabilities(bank, y, bank[:0], 4).shape == (0, 4)
    # A class that the bank lacks is never found, and is no error.
    assert rep.knn_accuracy(bank, torch.zeros(5, dtype=torch.int64), bank, torch.tensor([0, 0, 0, 0, 7])) == 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank_labels": torch.tensor([0, 1, -1, 0])}, "from -1 to 1, outside 0 to 2"),
        ({"bank_labels": torch.tensor([0, 1, 3, 0])}, "from 0 to 3"),
        ({"bank_labels": torch.zeros(3, dtype=torch.int64)}, r"bank_labels .*got \(4, 2\), \(3,\) and \(2, 2\)"),
        ({"queries": torch.rand(2, 3)}, r"queries .*\(4,\) and \(2, 3\)"),
        ({"queries": torch.rand(2)}, r"queries: expected finite embeddings \(N, D\), got \(2,\)"),
        ({"bank": torch.full((4, 2), torch.nan)}, "bank: .* not all are finite"),
        ({"bank": torch.rand(0, 2), "bank_labels": torch.zeros(0, dtype=torch.int64)}, "N at least 1"),
        ({"k": 0}, "k=0"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    settings = {"bank": torch.rand(4, 2), "bank_labels": torch.zeros(4, dtype=torch.int64), "queries": torch.rand(2, 2)}
    with pytest.raises(ValueError, match=message):
        rep.knn_probabilities(**settings | {"n_classes": 3} | change)


# Linear classifiers


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
        probe = rep.linear_probe(torch.from_numpy(h), torch.from_numpy(y), decay=decay)
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


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_features_in_another_unit_have_the_same_probe(unit):
    """Small ones must not end the solver early: a random encoder's lie near 0.001."""
    (h, y), (h_val, _) = blobs(300), blobs(100, seed=1)
    probes = [rep.linear_probe(h * factor, y).predict_proba((h_val * factor).numpy()) for factor in (1, unit)]
    np.testing.assert_allclose(*probes, atol=0.01)


def test_linear_probe_keeps_to_its_axes_and_classes(monkeypatch):
    monkeypatch.setattr(rep, "AXES", 4)
    h, y = np.random.default_rng(1).normal(size=(20, 40)), np.repeat([2, 5], 10)
    probe = rep.linear_probe(h, y)
    assert probe.predict_proba(h).shape == (20, 2)
    assert probe.classes_.tolist() == [2, 5]
    assert probe["axes"].n_components_ == 4


@pytest.mark.parametrize("n", [30, 90])  # fewer images than features, and more
def test_principal_axes_keep_what_a_linear_model_sees(n, monkeypatch):
    h = np.random.default_rng(0).normal(size=(n, 40)).astype(np.float32) * 7
    x = rep.signed_root(h)
    x = (x - x.mean(0)) * 10 / np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    every = rep.principal_axes(torch.from_numpy(h))
    assert every.shape == (n, min(40, n - 1))
    np.testing.assert_allclose(every @ every.T, x @ x.T, atol=1e-2)  # the same up to a rotation
    monkeypatch.setattr(rep, "AXES", 3)
    few = rep.principal_axes(h)
    np.testing.assert_allclose((few**2).sum(0), np.linalg.svd(x, compute_uv=False)[:3] ** 2, rtol=1e-4)


def test_weights_of_a_logistic_regression_count_as_repeated_rows():
    (x, y), weight = blobs(60), np.arange(60) % 3
    x, y = 3 * x.numpy(), y.numpy()
    weighted = rep.logistic_regression(x, y, decay=0.1, sample_weight=weight)
    rows = np.repeat(np.arange(60), weight)  # 60 of them as well, so that the penalty weighs the same
    repeated = rep.logistic_regression(x[rows], y[rows], decay=0.1)
    np.testing.assert_allclose(weighted.predict_proba(x), repeated.predict_proba(x), atol=1e-3)


def test_the_layer_starts_at_zero_and_reaches_the_minimum_that_logistic_regression_finds():
    (h, y), (h_val, y_val) = blobs(400), blobs(200, seed=1)
    device.seed_everything(0)
    settings = {"epochs": 1000, "batch_size": 400, "lr": 0.2, "schedule": "cosine"}
    layer, history = rep.linear_layer(h, y, h_val, y_val, 4, **settings)
    oracle = LogisticRegression(C=np.inf, max_iter=5000).fit(h, y)
    theirs = F.cross_entropy(torch.tensor(oracle.decision_function(h)), y).item()
    with torch.no_grad():
        ours, logits = F.cross_entropy(layer(h), y).item(), layer(h_val)
    assert ours == pytest.approx(theirs, abs=2e-3)
    assert history.train_loss.iloc[0] == pytest.approx(np.log(4), abs=1e-5)
    assert history.val_accuracy.iloc[-1] == pytest.approx((logits.argmax(1) == y_val).float().mean().item())
    assert history.val_loss.iloc[-1] == pytest.approx(F.cross_entropy(logits, y_val).item(), rel=1e-5)
    assert {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"} <= set(history)


def test_a_frozen_encoder_does_not_change_by_a_bit():
    device.seed_everything(0)
    encoder = device.prepare(models.encoder("resnet8", image_size=16))
    images = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    encoder.requires_grad_(False).eval()
    before, saved = rep.state_hash(encoder), {k: v.clone() for k, v in encoder.state_dict().items()}
    h, y = evaluation.predict(encoder, images), torch.arange(40) % 2
    rep.linear_layer(h, y, h, y, 2, epochs=2, batch_size=16, lr=0.1)
    assert rep.state_hash(encoder) == before
    assert all(torch.equal(v, saved[k]) for k, v in encoder.state_dict().items())
    encoder.train()(device.to_float(images))  # what would have happened in training mode
    assert rep.state_hash(encoder) != before


def test_the_hash_sees_one_bit_anywhere_in_any_layout():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    hashes = [rep.state_hash(module)]
    assert hashes == [rep.state_hash(module.to(memory_format=torch.channels_last))] and len(hashes[0]) == 16
    for name in ("1.running_mean", "0.bias", "1.num_batches_tracked"):
        value = module.state_dict()[name].view(-1)
        value[0] = torch.nextafter(value[0], torch.tensor(9.0)) if value.is_floating_point() else value[0] + 1
        hashes.append(rep.state_hash(module))
    hashes.append(rep.state_hash(module.bfloat16()))
    assert len(set(hashes)) == 5


@pytest.mark.parametrize("n", [0, 1, 3, 7, 50, 99, 100, 1000])
def test_few_labels_hold_every_class(n):
    y = np.repeat([0, 1, 5], [90, 9, 1])
    index = rep.few_labels(y, n, seed=n)
    assert len(index) == min(max(n, 3), 100) == len(set(index.tolist()))
    assert index.dtype == np.int64 and (np.diff(index) > 0).all()
    assert set(y[index]) == {0, 1, 5}
    assert np.array_equal(index, rep.few_labels(torch.tensor(y), n, seed=n))
    if n == 50:
        assert 43 <= (y[index] == 0).sum() <= 46  # shares are kept
        assert not np.array_equal(index, rep.few_labels(y, n, seed=51))


def test_label_efficiency_is_the_probe_on_those_labels():
    (h, y), (h_val, y_val) = blobs(300, spread=0.8), blobs(200, seed=1, spread=0.8)
    table = rep.label_efficiency(h, y, h_val, y_val, (0.02, 0.1, 1.0), seeds=2)
    assert table.share.tolist() == [0.02, 0.02, 0.1, 0.1, 1.0]
    assert table.labels.tolist() == [6, 6, 30, 30, 300]
    index = rep.few_labels(y, 30, seed=1)
    assert table.accuracy[3] == rep.linear_probe(h[index], y[index]).score(h_val.numpy(), y_val.numpy())
    assert table.accuracy[4] > table.accuracy[:2].mean()
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=f"shares={wrong} must be .* at most 1"):
            rep.label_efficiency(h, y, h_val, y_val, (wrong,))
