"""Frozen features: those of the network itself, and a cache that never gives another image's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import device, evaluation, models, representations
from labutil.paths import DataError
from labutil.representations import batch_size, feature_size, frozen_features


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
    images = _images()
    rows = {}
    for precision in ("fp32", "bf16"):
        monkeypatch.setattr(device, "default_precision", lambda *_, p=precision: p)
        rows[precision] = frozen_features(images, size=64)
    assert len(_cached()) == 2
    assert not torch.equal(rows["fp32"], rows["bf16"])
    assert float(F.cosine_similarity(rows["fp32"], rows["bf16"]).min()) > 0.99


def test_a_second_call_reads_the_file(computed):
    first = frozen_features(_images(), size=32)
    second = frozen_features(_images().numpy(), size=32)  # the same bytes in an array
    assert computed == [3]
    assert torch.equal(first, second) and second.dtype == torch.float32
    assert [path.suffix for path in _cached()] == [".npy"]
    second.add_(1)  # the caller's own: not a view of the file
    assert torch.equal(frozen_features(_images(), size=32), first)


def test_anything_that_changes_features_changes_the_key(quick, computed, tmp_path):
    images = _images()
    weights = tmp_path / "weights.pth"
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
    for x, settings in calls:
        frozen_features(x, **settings)
    assert len(_cached()) == len(computed) == len(calls)
    for x, settings in calls:
        frozen_features(x, **settings)
    frozen_features(images, size=96)  # what is chosen for them anyway
    frozen_features(images, weights=str(weights))
    frozen_features(images.to(memory_format=torch.channels_last))
    assert len(computed) == len(calls)
    weights.write_bytes(b"another")
    frozen_features(images, weights=weights)
    assert len(computed) == len(calls) + 1


def test_weights_in_the_home_folder_are_told_apart_by_content(quick, computed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for content in (b"one", b"another"):
        (tmp_path / "weights.pth").write_bytes(content)
        frozen_features(_images(), weights="~/weights.pth")
    assert len(computed) == 2


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


def test_no_images():
    for channels in (1, 3):
        h = frozen_features(_images(0, channels), size=32)
        assert h.shape == (0, 1280) and h.dtype == torch.float32
        assert frozen_features(_images(0, channels), size=32).shape == (0, 1280)


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
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        np.zeros((2, 3, 8, 8), np.int64),
    ],
)
def test_images_of_another_type_or_shape(images, own_folders):
    with pytest.raises(ValueError) as caught:
        frozen_features(images)
    kind = str(torch.as_tensor(images).dtype)
    assert str(caught.value) == f"images: expected uint8 (N, 1 or 3, H, W), got {kind} {tuple(images.shape)}"


def test_settings_out_of_range(tmp_path):
    for size in (0, -32):
        with pytest.raises(ValueError, match=f"^size={size} must be at least 1$"):
            frozen_features(_images(), size=size)
    with pytest.raises(ValueError, match=r"encoder='resnet17'.*did you mean"):
        frozen_features(_images(), encoder="resnet17")
    with pytest.raises(ValueError, match=r"none\.pth' is no file"):
        frozen_features(_images(), weights=tmp_path / "none.pth")


# A cache that cannot be written


def _refused(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        frozen_features(_images())
    assert str(caught.value).startswith(f"{folder} cannot be written (")
    assert str(caught.value).endswith("make room, or set LABUTIL_DATA to another folder")


def test_a_file_where_a_folder_should_be(quick, own_folders):
    (own_folders / "data").write_text("not a folder")
    _refused(own_folders / "data" / "cache" / "features")
    assert (own_folders / "data").read_text() == "not a folder"


def test_a_folder_where_the_file_should_be(quick):
    frozen_features(_images())
    (path,) = _cached()
    path.unlink()
    path.mkdir()
    _refused(path.parent)
    assert _cached() == [path]


@pytest.mark.parametrize("kind", ["read-only", "full"])
def test_a_disk_that_takes_no_more(kind, quick, monkeypatch, own_folders):
    def no_folder(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def half(file, _):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if kind == "read-only":
        monkeypatch.setattr(Path, "mkdir", no_folder)
    else:
        monkeypatch.setattr(np, "save", half)
    _refused(own_folders / "data" / "cache" / "features")
    assert not [path for path in own_folders.rglob("*") if path.is_file()]


# Sizes


@pytest.mark.parametrize(
    ("side", "seen"),
    [(1, 96), (28, 96), (32, 96), (64, 96), (96, 96), (120, 128), (128, 128), (200, 192), (224, 224), (512, 224)],
)
def test_feature_size(side, seen):
    assert feature_size((side, side)) == seen
    assert feature_size((side, 1)) == feature_size((1, side)) == seen  # the larger side counts


def test_batches_shrink_as_images_grow(monkeypatch):
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cpu"))
    sizes = [batch_size(size) for size in (16, 32, 48, 64, 96, 128, 160, 192, 224, 512)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(8 <= n <= 64 and n % 8 == 0 for n in sizes)
    monkeypatch.setattr(device, "get_device", lambda: torch.device("cuda"))
    assert batch_size(224) == 512


def test_eigenvectors_of_a_matrix_of_low_rank():
    """Many equal eigenvalues, on which single precision may give up: still an orthonormal basis."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(20, 600, generator=g) @ torch.diag(torch.logspace(1, -4, 600))
    values, vectors = representations.eigenvectors(h.T @ h)
    expected = torch.linalg.svdvals(h.double()).square().flip(0)
    torch.testing.assert_close(values[-20:].double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(600), rtol=0, atol=1e-3)


def test_eigenvectors_falls_back_to_double(monkeypatch):
    eigh = torch.linalg.eigh

    def refuses_singles(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("too many repeated eigenvalues")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", refuses_singles)
    values, vectors = representations.eigenvectors(torch.diag(torch.tensor([3.0, 1.0])))
    assert values.dtype == vectors.dtype == torch.float32
    assert values.tolist() == [1.0, 3.0]
