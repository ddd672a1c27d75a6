"""Frozen features are the network's own, and their cache never gives another image's; measures of embeddings against
scikit-learn, lightly, their papers' code, slow loops and closed forms."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from labutil import device, evaluation, models, representations
from labutil.losses import info_nce
from labutil.paths import DataError
from labutil.representations import (
    alignment,
    batch_size,
    collapse,
    effective_rank,
    feature_size,
    frozen_features,
    knn_accuracy,
    knn_probabilities,
    retrieval_accuracy,
    uniformity,
)


def _images(n: int = 3, channels: int = 3, side: int = 20, seed: int = 0) -> Tensor:
    shape = (n, channels, side, side + 4)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images the network saw, call by call."""
    seen = []
    predict = evaluation.predict

    def counted(model, images, **settings):
        seen.append(len(images))
        return predict(model, images, **settings)

    monkeypatch.setattr(evaluation, "predict", counted)
    return seen


class _Means(nn.Module):
    """Stands for a network where only the cache is in question."""

    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).expand(-1, 3)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(models, "encoder", lambda *_, **__: _Means())


def _cached() -> list[Path]:
    return sorted((Path(os.environ["LABUTIL_DATA"]) / "cache" / "features").iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_the_networks_own(channels, monkeypatch):
    monkeypatch.setattr(device, "default_precision", lambda *_: "fp32")
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cpu"))
    images = _images(channels=channels)
    model = timm.create_model(representations.DEFAULT, num_classes=0).eval()
    models.load_weights(model, representations.DEFAULT)
    pixels = F.interpolate(images.expand(-1, 3, -1, -1).float(), (96, 96), mode="bicubic").clamp(0, 255)
    with torch.inference_mode():
        expected = model((pixels - 127) / 128)
    h = frozen_features(images)  # 20 by 24 pixels are seen at 96
    assert h.dtype == torch.float32 and h.shape == (3, 1280) and h.device.type == "cpu"
    torch.testing.assert_close(h, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(frozen_features(images), h)
    # an ordinary tensor: a linear probe trains on it
    assert not h.requires_grad and not h.is_inference()


def test_precision_changes_features_little_and_has_its_own_cache(monkeypatch):
    rows = []
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr(device, "default_precision", lambda *_, p=precision: p)
        rows.append(frozen_features(_images(), size=64))
    assert len(_cached()) == 2
    assert not torch.equal(*rows)
    assert float(F.cosine_similarity(*rows).min()) > 0.99


def test_a_second_call_reads_the_file(computed):
    first = frozen_features(_images(), size=32)
    second = frozen_features(_images().numpy(), size=32)  # the same bytes in an array
    assert computed == [3]
    assert torch.equal(first, second) and second.dtype == torch.float32
    assert [path.suffix for path in _cached()] == [".npy"]
    second.add_(1)  # the caller's own: not a view of the file
    assert torch.equal(frozen_features(_images(), size=32), first)


def test_anything_that_changes_features_changes_the_key(quick, computed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images, weights = _images(), tmp_path / "weights.pth"
    weights.write_bytes(b"one")
    moved = images.clone()
    moved[2, 0, 5, 5] += 1
    calls = [
        (images, {}),
        (moved, {}),  # one pixel
        (images[:2], {}),
        (images.flip(0), {}),
        (images.reshape(3, 3, 24, 20), {}),  # the same bytes in another shape
        (images, {"size": 64}),
        (images, {"encoder": "resnet18"}),
        (images, {"weights": weights}),
    ]
    for x, settings in calls * 2:
        frozen_features(x, **settings)
    assert len(_cached()) == len(computed) == len(calls)
    frozen_features(images, size=96)  # what is chosen for them anyway
    frozen_features(images, weights="~/weights.pth")
    frozen_features(images.to(memory_format=torch.channels_last))
    assert len(computed) == len(calls)
    weights.write_bytes(b"another")  # a file is told by its content, wherever it lies
    for given in (weights, "~/weights.pth"):
        frozen_features(images, weights=given)
    assert len(computed) == len(calls) + 1


def test_weights_from_a_file_are_used(tmp_path):
    model = timm.create_model("mobilenetv3_small_050", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "small.pth")
    settings = {"encoder": "mobilenetv3_small_050", "size": 32}
    h = frozen_features(_images(), weights=tmp_path / "small.pth", **settings)
    torch.save({k: -v if k == "conv_head.weight" else v for k, v in model.state_dict().items()}, tmp_path / "other.pth")
    assert h.shape == (3, 1024)
    assert not torch.allclose(h, frozen_features(_images(), weights=tmp_path / "other.pth", **settings))


@pytest.mark.parametrize("left", [0, 3, 100, 140])
def test_a_file_cut_short_is_computed_anew(left, quick, computed):
    h = frozen_features(_images(), size=32)
    (path,) = _cached()
    whole = path.read_bytes()
    assert len(whole) > 140
    path.write_bytes(whole[:left])
    assert torch.equal(frozen_features(_images(), size=32), h)
    assert computed == [3, 3]
    assert path.read_bytes() == whole


def test_without_the_cache_nothing_is_kept(quick, computed, own_folders):
    for _ in range(2):
        frozen_features(_images(), cache=False)
    assert computed == [3, 3]
    assert not (own_folders / "data").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_no_images(channels):
    for _ in "computed", "read":
        h = frozen_features(_images(0, channels), size=32)
        assert h.shape == (0, 1280) and h.dtype == torch.float32


def test_more_images_than_a_batch_keep_their_order(monkeypatch):
    monkeypatch.setattr(device, "default_precision", lambda *_: "fp32")
    images = _images(5)
    at_once = frozen_features(images, size=32, cache=False)
    monkeypatch.setattr(representations, "batch_size", lambda _: 2)
    torch.testing.assert_close(frozen_features(images, size=32, cache=False), at_once, rtol=1e-2, atol=1e-2)
    assert float(torch.cdist(at_once, at_once).fill_diagonal_(9).min()) > 1  # or any order would do


def test_random_numbers_elsewhere_stay_as_they_were():
    before, order = torch.get_rng_state(), device.generator("order").get_state()
    frozen_features(_images(), size=32)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(device.generator("order").get_state(), order)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 3, 8, 8), _images()[0], _images().permute(0, 2, 3, 1), np.zeros((2, 3, 8, 8), np.int64)],
)
def test_images_of_another_type_or_shape(images):
    with pytest.raises(ValueError, match=r"^images: expected uint8 \(N, 1 or 3, H, W\), got torch.\w+ \([\d, ]+\)$"):
        frozen_features(images)


def test_settings_out_of_range(tmp_path):
    for size in (0, -32):
        with pytest.raises(ValueError, match=f"^size={size} must be at least 1$"):
            frozen_features(_images(), size=size)
    with pytest.raises(ValueError, match=r"encoder='resnet17'.*did you mean"):
        frozen_features(_images(), encoder="resnet17")
    with pytest.raises(ValueError, match=r"none\.pth' is no file"):
        frozen_features(_images(), weights=tmp_path / "none.pth")


@pytest.mark.parametrize("kind", ["a file in its place", "a folder in its place", "read-only", "full"])
def test_a_cache_that_cannot_be_written(kind, quick, monkeypatch, own_folders):
    def no_folder(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def half(path, _):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if kind == "a file in its place":
        (own_folders / "data").write_text("not a folder")
    elif kind == "a folder in its place":
        frozen_features(_images())
        (path,) = _cached()
        path.unlink()
        path.mkdir()
    else:
        monkeypatch.setattr(*((Path, "mkdir", no_folder) if kind == "read-only" else (np, "save", half)))
    before = sorted(own_folders.rglob("*"))
    with pytest.raises(DataError) as caught:
        frozen_features(_images())
    assert str(caught.value).startswith(f"{own_folders / 'data' / 'cache' / 'features'} cannot be written (")
    assert str(caught.value).endswith("make room, or set LABUTIL_DATA to another folder")
    assert [path for path in own_folders.rglob("*") if path.is_file()] == [path for path in before if path.is_file()]


# Sizes


@pytest.mark.parametrize(
    ("side", "seen"), [(1, 96), (32, 96), (96, 96), (120, 128), (128, 128), (200, 192), (224, 224), (512, 224)]
)
def test_feature_size(side, seen):
    assert feature_size((side, side)) == feature_size((side, 1)) == feature_size((1, side)) == seen


def test_batches_shrink_as_images_grow(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cpu"))
    sizes = [batch_size(size) for size in (16, 32, 48, 64, 96, 128, 160, 192, 224, 512)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 <= n <= 64 and n % 8 == 0 for n in sizes)
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cuda"))
    assert batch_size(224) == 512


# Embeddings


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
        ({"bank": torch.rand(0, 2), "bank_labels": torch.zeros(0, dtype=torch.int64)}, "N at least 1"),
        ({"k": 0}, "k=0"),
        ({"tau": 0}, "tau=0"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    settings = {"bank": torch.rand(4, 2), "bank_labels": torch.zeros(4, dtype=torch.int64), "queries": torch.rand(2, 2)}
    with pytest.raises(ValueError, match=message):
        knn_probabilities(**settings | {"n_classes": 3} | change)


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("k", [1, 5, 50])
def test_retrieval_equals_a_slow_loop(k):
    z_a, _ = toy(30)
    z_b = z_a + 3 * torch.randn(z_a.shape, generator=torch.Generator().manual_seed(5))
    z, hits = F.normalize(torch.cat([z_a, z_b]).double(), dim=1).numpy(), 0
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


# States


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
