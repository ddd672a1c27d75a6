"""Cleaning: each detector against NumPy and SciPy, and against faults planted by other rules than `faults`."""

from __future__ import annotations

import io
import itertools
import math
import warnings

import cleanlab.rank
import imagehash
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import laplace
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from torch import Tensor

from labutil import cleaning
from labutil.cleaning import detectors
from labutil.cleaning.detectors import (
    conflicting_labels,
    copies,
    image_quality,
    label_issues,
    out_of_fold_probabilities,
    outliers,
)
from labutil.cleaning.duplicates import COARSE, near_duplicates
from labutil.data import cells
from labutil.representations import frozen_features, logistic_regression, principal_axes


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _noise(*shape: int) -> Tensor:
    return torch.from_numpy(_rng().integers(0, 256, shape, np.uint8))


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def _checks_ranking(table: pd.DataFrame, n: int) -> np.ndarray:
    """A row an image, worst first; returns the scores in the images' order."""
    assert list(table.columns) == ["index", "score"] and sorted(table["index"]) == list(range(n))
    assert table["score"].is_monotonic_decreasing and np.isfinite(table["score"]).all()
    return table.sort_values("index")["score"].to_numpy()


def _median(x: np.ndarray) -> np.ndarray:
    return np.quantile(x, 0.5, axis=0, method="lower")


def _robust(x: np.ndarray, spread: float = 0.0) -> np.ndarray:
    centred = x - _median(x)
    return centred / (1.4826 * _median(abs(centred)) + spread * x.std(0, ddof=1) + 1e-6)


def _isolation(points: np.ndarray) -> np.ndarray:
    k = max(1, min(len(points) - 1, round(0.07 * len(points))))
    return _robust(np.log(np.sort(cdist(points, points))[:, k] + 1e-4))  # the nearest is itself


@pytest.mark.parametrize("n", [5, 12, 61])
def test_outliers_against_numpy(n, monkeypatch):
    h, statistics = _rng(n).normal(size=(n, 7)), np.exp(_rng(n + 1).normal(size=(n, 4)))
    monkeypatch.setattr(detectors, "frozen_features", lambda *_, **__: torch.from_numpy(h).float())
    monkeypatch.setattr(detectors, "_statistics", lambda _: torch.from_numpy(statistics).float())
    root = np.sign(h) * np.sqrt(abs(h))
    look = root / np.linalg.norm(root, axis=1, keepdims=True)
    expected = 2 * _isolation(look) + _isolation(_robust(statistics, 0.25))
    expected -= _median(expected)
    expected /= np.quantile(-expected[expected < 0], 0.6827)
    score = _checks_ranking(outliers(_noise(n, 1, 8, 8)), n)
    np.testing.assert_allclose(score, expected, rtol=2e-3, atol=2e-3)


def test_neighbours_are_counted_among_few_references(monkeypatch):
    points = torch.from_numpy(_rng().normal(size=(60, 3))).float()
    monkeypatch.setattr(detectors, "_REFERENCES", 30)
    chosen = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:30]
    expected = np.sort(cdist(points, points[chosen]))[:, 2]  # 7% of 30 are 2, after the nearest, which may be itself
    np.testing.assert_allclose(detectors._distance(points), expected + 1e-4, rtol=1e-4)
    few = points[:3]  # fewer than a neighbour: the nearest
    np.testing.assert_allclose(detectors._distance(few), np.sort(cdist(few, few))[:, 1], rtol=1e-3)


def test_statistics_of_pixels_against_numpy():
    images = torch.cat([_noise(2, 3, 9, 13), torch.full((1, 3, 9, 13), 255, dtype=torch.uint8)])
    for found, image in zip(detectors._statistics(images), images.numpy() / 255, strict=True):
        gray = image.mean(0)
        edges = abs(laplace(gray)[1:-1, 1:-1]).ravel()
        sharpness = [edges.mean(), _median(edges), np.quantile(abs(np.diff(gray, axis=1)), 0.95)]
        expected = [
            *np.quantile(gray, [0.02, 0.25, 0.5, 0.75, 0.98]), *image.mean((1, 2)), *image.std((1, 2), ddof=1),
            *np.log(np.array(sharpness) + 1e-3), (image >= 250 / 255).mean(), (image <= 5 / 255).mean(),
        ]  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def _text(side: int, seed: int) -> np.ndarray:
    page = Image.new("RGB", (side, side), (248, 248, 248))
    words = "".join(chr(c) for c in _rng(seed).integers(97, 123, 400))
    for row in range(side // 10):
        ImageDraw.Draw(page).text((1, 10 * row), words[20 * row : 20 * row + 20], fill=(10, 10, 10))
    return np.asarray(page).transpose(2, 0, 1)


def _checkerboard(square: int) -> np.ndarray:
    y, x = np.indices((96, 96)) // square
    return np.repeat(((x + y) % 2 * 200 + 30)[None], 3, 0)


@pytest.fixture(scope="module")
def blood() -> tuple[Tensor, np.ndarray]:
    images, labels, _ = cells.generate(400, 0)
    return torch.from_numpy(images), labels


def test_planted_strangers_come_first(blood):
    """Noise, flat frames, checkerboards, pages of text; and one page twenty times over, 5% of the set."""
    rng = _rng()
    strangers = [
        *rng.integers(0, 256, (4, 3, 96, 96)),
        *(np.full((3, 96, 96), level) + rng.integers(0, 3, (3, 96, 96)) for level in (10, 128, 240)),
        *(_checkerboard(square) for square in (4, 12, 24)),
        *(_text(96, seed) for seed in range(3)),
        *[_text(96, 9)] * 20,
    ]
    images = torch.cat([blood[0], torch.from_numpy(np.stack(strangers).astype(np.uint8))])
    found = outliers(images)
    score = _checks_ranking(found, len(images))
    assert set(found["index"][: len(strangers)]) == set(range(400, len(images)))
    assert score[400:].min() > cleaning.THRESHOLDS["outlier"] > np.quantile(score[:400], 0.99)
    assert found.equals(outliers(images.numpy()))  # and the same every time


def test_a_clean_set_and_unseen_kinds_of_its_images_hold_few_strangers(blood):
    unseen = torch.from_numpy(cells.generate(40, 1, kinds="unseen")[0])
    score = _checks_ranking(outliers(torch.cat([blood[0], unseen])), 440)
    assert (score > cleaning.THRESHOLDS["outlier"]).mean() < 0.02


def test_strangers_in_gray_images_that_are_not_square():
    digits = np.stack([np.pad(_text(40, seed)[:1, :20, 5:35], ((0, 0), (2, 2), (0, 0))) for seed in range(60)])
    images = torch.cat([torch.from_numpy(digits), _noise(2, 1, 24, 30)])
    assert set(outliers(images)["index"][:2]) == {60, 61}


@pytest.mark.parametrize(
    "images", [*(_noise(n, 3, 16, 16) for n in range(3)), _noise(1, 1, 16, 16).expand(40, 1, -1, -1)]
)
def test_few_images_and_identical_ones_are_all_typical(images):
    assert (_checks_ranking(outliers(images), len(images)) == 0).all()
    table = image_quality(images)
    assert len(table) == len(images) and np.isfinite(table).all(axis=None)
    assert len(images) == 2 or (table["blurred"] == 0).all()


@pytest.mark.parametrize("detector", [outliers, image_quality])
def test_images_must_be_bytes(detector):
    for images in (torch.rand(4, 3, 8, 8), _noise(3, 8, 8), _noise(2, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"^images: expected uint8 \(N, 1 or 3, H, W\), got "):
            detector(images)


def _photograph(seed: int, side: int = 48) -> np.ndarray:
    """Blobs and fine detail, gray: float (side, side) in 20 to 230."""
    rough = Image.fromarray(_rng(seed).integers(40, 210, (6, 6), np.uint8)).resize((side, side), Image.BICUBIC)
    fine = Image.fromarray(_rng(seed + 99).integers(0, 60, (side // 2, side // 2), np.uint8)).resize((side, side))
    return np.clip(np.asarray(rough, float) + np.asarray(fine) - 30, 20, 230)


def test_quality_of_constructed_images():
    plain = [_photograph(seed) for seed in range(12)]
    blurred = np.asarray(Image.fromarray(_bytes(plain[0])).filter(ImageFilter.GaussianBlur(3)))
    noise = _rng(5).normal(0, 3, (48, 48))
    frames = {"black": np.zeros((48, 48)), "white": np.full((48, 48), 255), "gray": np.full((48, 48), 128),
              "noisy gray": 128 + noise, "blurred": blurred, "dark": plain[1] * 0.12}  # fmt: skip
    images = np.stack([_bytes(x)[None] for x in (*plain, *frames.values())])
    table = image_quality(images)
    assert list(table.columns) == ["index", "dark", "bright", "blank", "blurred"]
    assert table["index"].tolist() == list(range(len(images))) and np.isfinite(table).all(axis=None)
    assert table[["dark", "bright", "blank"]].stack().between(0, 1).all()
    table.index = [*range(12), *frames]
    expected = {"dark": {"black", "dark"}, "bright": {"white"}, "blank": {"black", "white", "gray", "noisy gray"}}
    for fault, names in (expected | {"blurred": {"blurred"}}).items():
        assert set(table.index[table[fault] > cleaning.THRESHOLDS[fault]]) == names, fault
    black, white, gray = (table.loc[name] for name in ("black", "white", "gray"))
    assert (black["dark"], white["dark"], white["bright"]) == (1, 0, 1)
    assert black["blank"] == white["blank"] == gray["blank"] == 1
    assert gray["dark"] == pytest.approx(1 - 128 / 255) and gray["blurred"] == 0
    # colours that are equally bright are a picture
    colours = np.full((3, 48, 48), 110)
    colours[:, 10:30, 10:30] = np.array([220, 60, 50])[:, None, None]
    assert image_quality(colours[None].astype(np.uint8)).loc[0, "blank"] < 0.01
    # a copy in three channels is as good or bad
    np.testing.assert_allclose(image_quality(np.repeat(images, 3, 1)), table, atol=1e-4)


def test_quality_against_numpy():
    images = np.stack([_bytes(_photograph(seed, 50))[None, :, :42] for seed in range(9)])  # windows cut by the edge
    expected = []
    for x in images[:, 0] / 255:
        contrast = np.std([[x[r : r + 4, c : c + 4].mean() for c in range(0, 42, 4)] for r in range(0, 50, 4)])
        sharpness = math.log((laplace(x)[1:-1, 1:-1].std(ddof=1) + 1e-3) / (contrast + 0.01))
        expected.append([1 - np.quantile(x, 0.95), (x >= 250 / 255).mean(), 2 ** (-contrast * 51), sharpness])
    expected = np.array(expected)
    table = image_quality(images).to_numpy()
    np.testing.assert_allclose(table[:, 1:3], expected[:, :2], atol=1e-5)
    np.testing.assert_allclose(table[:, 3], expected[:, 2], rtol=1e-3)
    np.testing.assert_allclose(table[:, 4], -_robust(expected[:, 3], 0.1), rtol=1e-3, atol=1e-3)


def _pairs(*rows: tuple[int, int, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["index", "reference_index", "score"])
    return table.astype({"index": int, "reference_index": int, "score": float})


@pytest.mark.parametrize("seed", range(5))
def test_copies_against_a_slow_loop(seed):
    rng, n = _rng(seed), 40
    ends = rng.integers(0, n, (45, 2))
    pairs = _pairs(*((max(a, b), min(a, b), s) for (a, b), s in zip(ends, rng.random(45), strict=True) if a != b))
    least = np.arange(n)
    for _ in range(n):  # until the least index has gone from hand to hand through the longest chain
        for i, j in pairs.loc[pairs["score"] > 0.4, ["index", "reference_index"]].to_numpy():
            least[[i, j]] = least[[i, j]].min()
    assert np.array_equal(copies(pairs, n, threshold=0.4), least)


def test_copies_of_nothing_and_at_the_threshold():
    assert copies(_pairs(), 3).tolist() == [0, 1, 2] and copies(_pairs(), 0).tolist() == []
    pairs = _pairs((2, 0, 0.5), (1, 0, 0.51))
    assert copies(pairs, 3, threshold=0.5).tolist() == [0, 0, 2]
    just_above = _pairs((1, 0, cleaning.THRESHOLDS["duplicate"] + 0.005), (2, 0, cleaning.THRESHOLDS["duplicate"]))
    assert copies(just_above, 3).tolist() == [0, 0, 2]
    assert conflicting_labels(just_above, np.arange(3))["index"].tolist() == [1]


def test_conflicting_labels():
    labels = torch.tensor([0, 1, 1, -1, 2])
    pairs = _pairs((2, 1, 1.0), (1, 0, 0.9), (3, 0, 0.8), (4, 3, 0.7), (4, 0, 0.6), (4, 1, 0.5), (2, 0, 0.1))
    found = conflicting_labels(pairs, labels, threshold=0.5)
    assert list(found.columns) == ["index", "reference_index", "score", "label", "reference_label"]
    assert found.to_numpy().tolist() == [[1, 0, 0.9, 1, 0], [4, 0, 0.6, 2, 0]]
    assert len(conflicting_labels(pairs, labels.numpy(), threshold=0)) == 4
    assert conflicting_labels(_pairs(), labels).empty and conflicting_labels(pairs, -torch.ones(5).long()).empty


def test_every_pair_of_equal_perceptual_hashes_is_found(blood):
    """Zauner's pHash (2010), as the library imagehash computes it, is an independent opinion on copies."""
    rng = _rng(3)
    images = [*blood[0][:40].numpy()]
    images += [images[row].copy() for row in (3, 3, 11, 20, 20, 20)]  # byte for byte
    for row in (5, 9, 14, 26, 31):  # recompressed, or a little darker: some keep their hash
        file = io.BytesIO()
        Image.fromarray(images[row].transpose(1, 2, 0)).save(file, "JPEG", quality=90)
        images += [np.asarray(Image.open(file)).transpose(2, 0, 1), _bytes(images[row] * rng.uniform(0.93, 0.97))]
    hashes = [imagehash.phash(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
    equal = {(j, i) for i, j in itertools.combinations(range(len(images)), 2) if hashes[i] - hashes[j] == 0}
    assert len(equal) >= 13 and any(j >= 46 for j, _ in equal)
    pairs = near_duplicates(np.stack(images))
    sure = pairs[pairs["score"] > 0.5]
    group = copies(pairs, len(images), threshold=0.5)
    assert equal <= set(zip(sure["index"], sure["reference_index"], strict=True))
    assert all(group[j] == group[i] for j, i in equal)


def _clusters(n: int = 300, k: int = 4, apart: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Features that separate k classes, and the classes."""
    rng = _rng()
    labels = rng.integers(0, k, n)
    return rng.normal(size=(n, 12)) + apart * rng.normal(size=(k, 12))[labels], labels


def test_out_of_fold_probabilities_know_separate_classes():
    h, labels = _clusters()
    p = out_of_fold_probabilities(torch.from_numpy(h), torch.from_numpy(labels))
    assert p.shape == (300, 4) and p.min() >= 0
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (p.argmax(1) == labels).mean() > 0.97
    assert np.array_equal(p, out_of_fold_probabilities(h, labels))  # deterministic
    assert not np.array_equal(p, out_of_fold_probabilities(h, labels, seed=1))


def test_no_image_is_judged_by_a_model_that_saw_its_label():
    """Labels without any meaning, and more features than images: whoever has seen a label knows it."""
    hits = []
    for seed in range(4):
        h, labels = _rng(seed).normal(size=(160, 400)), _rng(seed + 50).permutation(np.arange(160) % 4)
        p = out_of_fold_probabilities(h, labels, seed=seed)
        hits.append((p.argmax(1) == labels).mean())
        x = principal_axes(h.astype(np.float32))
        assert logistic_regression(x, labels, decay=0.001).score(x, labels) == 1
    assert abs(np.mean(hits) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 640)


def test_one_label_changed_changes_only_what_other_folds_say():
    h, labels = _clusters(120, 3)
    fold, weight = np.arange(120) % 5, np.ones(120)
    folds = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)]
    changed = labels.copy()
    changed[7] = (labels[7] + 1) % 3
    before, after = (detectors._out_of_fold(principal_axes(h), y, folds, 0.001, weight) for y in (labels, changed))
    same = np.isclose(before, after, rtol=0, atol=1e-12).all(1)
    assert same[fold == fold[7]].all() and not same[fold != fold[7]].any()


def test_second_opinions_on_many_wrong_labels_are_better(monkeypatch):
    h, labels = _clusters(400, 4, apart=1.2)
    wrong = _rng(1).random(400) < 0.35
    given = np.where(wrong, (labels + _rng(2).integers(1, 4, 400)) % 4, labels)
    opinions, one = [], detectors._out_of_fold
    monkeypatch.setattr(detectors, "_out_of_fold", lambda *args: opinions.append(one(*args)) or opinions[-1])
    assert np.array_equal(out_of_fold_probabilities(h, given), opinions[-1])
    first, second = (roc_auc_score(wrong, 1 - p[range(400), given]) for p in opinions[-2:])
    assert second > first > 0.8


@pytest.mark.parametrize("rare", [1, 2, 4])
def test_classes_with_hardly_any_images_and_some_with_none(rare):
    h, labels = _clusters(150, 3)
    labels[:rare] = 5  # and none of 3 or 4
    p = out_of_fold_probabilities(h, labels)
    assert p.shape == (150, 6) and (p[:, 3:5] == 0).all()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (p[rare:].argmax(1) == labels[rare:]).mean() > 0.95
    assert rare > 1 or p[0, 5] == 0  # nothing to learn it from


def test_images_without_a_label_are_judged_too():
    h, labels = _clusters()
    given = labels.copy()
    given[::7] = -1
    p = out_of_fold_probabilities(h, given)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    assert (p.argmax(1) == labels)[::7].mean() > 0.95
    rest = out_of_fold_probabilities(h[given >= 0], given[given >= 0])  # and teach nothing, but for the axes
    assert (p[given >= 0].argmax(1) == rest.argmax(1)).mean() > 0.98


def test_two_classes_two_images_and_features_that_say_nothing():
    h, labels = _clusters(80, 2)
    p = out_of_fold_probabilities(h, labels)
    assert p.shape == (80, 2) and (p.argmax(1) == labels).mean() > 0.95
    assert out_of_fold_probabilities(h[:2], [0, 1]).tolist() == [[0, 1], [1, 0]]
    three = out_of_fold_probabilities(h[:3], [0, 1, 1])
    assert np.isfinite(three).all() and three[0].tolist() == [0, 1]
    with warnings.catch_warnings(action="error"):
        warnings.simplefilter("ignore", DeprecationWarning)  # scikit-learn 1.6 on SciPy 1.16
        constant = out_of_fold_probabilities(np.ones((90, 5)), np.repeat([0, 1], [30, 60]))
    np.testing.assert_allclose(constant, np.tile([1 / 3, 2 / 3], (90, 1)), atol=0.02)


@pytest.mark.parametrize("labels", [[0] * 6, [-1] * 6, [3, 3, -1, -1, 3, 3]])
def test_one_class_has_no_issues_to_find(labels):
    with pytest.raises(ValueError, match=r"classes: label issues need two at least$"):
        out_of_fold_probabilities(_rng().normal(size=(6, 2)), labels)
    with pytest.raises(ValueError, match=r"^6 rows of features for 5 labels"):
        out_of_fold_probabilities(_rng().normal(size=(6, 2)), labels[:5])


def test_out_of_fold_probabilities_of_fewer_images_than_features():
    """Features of noise images, nearly all alike: single precision gives up on their covariance."""
    labels = np.arange(60) % 3
    noise = torch.randn(60, 2560, generator=torch.Generator().manual_seed(0))
    p = out_of_fold_probabilities(0.01 * noise + torch.eye(3, 2560)[labels], labels)
    assert (p.argmax(1) == labels).mean() > 0.9


def test_label_issues_are_cleanlabs():
    labels = _rng().integers(0, 5, 70)
    p = _rng(1).dirichlet(np.ones(5), 70)
    score = _checks_ranking(label_issues(None, torch.from_numpy(labels), p), 70)
    quality = cleanlab.rank.get_label_quality_scores(labels, p, method="self_confidence")
    np.testing.assert_allclose(score, 1 - quality, atol=1e-12)
    # a class that no label names keeps its probability; images without a label have no issue
    fewer = np.where(labels == 3, -1, labels)
    score = _checks_ranking(label_issues(None, fewer, p), 70)
    np.testing.assert_allclose(score, np.where(fewer < 0, 0, 1 - p[range(70), fewer]), atol=1e-12)
    assert (_checks_ranking(label_issues(None, np.full(70, -1), p), 70) == 0).all()
    assert label_issues(None, labels[:0], p[:0]).empty


def test_probabilities_must_fit_the_labels():
    labels, p = np.array([0, 1, 2]), np.full((3, 3), 1 / 3)
    for wrong, message in (
        (p[:2], "^2 rows of probabilities for 3 labels: they must be of the same images$"),
        (p[:, :2], r"^probabilities of shape \(3, 2\) must be from 0 to 1, with a column a class: labels go to 2$"),
        (p[:, 0], r"^probabilities of shape \(3,\) must"),
        (np.full((3, 3), np.nan), "must be from 0 to 1"),
        (7 * p, "must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            label_issues(None, labels, wrong)
    with pytest.raises(ValueError, match=r"^2 rows of features for 3 labels"):
        label_issues(_noise(2, 1, 8, 8), labels)


def test_wrong_labels_of_pictures(blood):
    images, labels = blood
    h = cleaning.label_features(images[:5].numpy())  # of two sizes
    assert torch.equal(h, torch.cat([frozen_features(images[:5], size=size) for size in (COARSE, 96)], 1))
    given, wrong = labels.copy(), _rng(4).permutation(400)[:32]
    given[wrong] = (labels[wrong] + _rng(5).integers(1, 8, 32)) % 8
    score = _checks_ranking(label_issues(images, given), 400)
    assert roc_auc_score(np.isin(np.arange(400), wrong), score) > 0.9
