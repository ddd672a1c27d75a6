"""Generated blood cells: the same bytes everywhere, and cells that look like what they are called."""

import hashlib
import math

import numpy as np
import pytest
from scipy import ndimage

from labutil.data import cells, sources

# Of generate(24, seed=7), version 1. When a drawing changes on purpose: raise it, then put the new digests here.
DIGESTS = {
    ("home", "known"): "47d1e161a63ab2f7",
    ("home", "unseen"): "840e6fbe207b8812",
    ("shifted", "known"): "e10f7188ce6cdc3b",
    ("shifted", "unseen"): "9b1df4823475a5c4",
}


@pytest.fixture(scope="module")
def home():
    return cells.generate(500, seed=3)


def morphology():
    """By type: nucleus area in square micrometres; its compactness (1: a disc); redness of the cytoplasm.

    Measured on the pixels: of the four dyes the nuclear one alone takes away much red light, even where it is pale.
    """
    measured = {}
    xx, yy = np.meshgrid(*[np.arange(cells.SIZE) - (cells.SIZE - 1) / 2] * 2)
    for kinds, n in (("known", 500), ("unseen", 120)):
        images, labels, classes = cells.generate(n, 5, kinds=kinds)
        light = np.percentile(images, 97, axis=(2, 3), keepdims=True)
        density = -np.log(np.maximum(images, 1) / light)
        nuclei = (density[:, 0] > 0.42) & (np.hypot(xx, yy) < 40)
        cytoplasm = (np.hypot(xx, yy) < 24) & ~nuclei
        for k, name in enumerate(classes):
            rows = []
            for i in np.flatnonzero(labels == k):
                area, x, y = nuclei[i].sum(), xx[nuclei[i]], yy[nuclei[i]]
                compactness = area / (2 * math.pi * (x.var() + y.var())) if area > 50 else np.nan
                pale = cytoplasm[i] if cytoplasm[i].any() else ...
                rows.append((area / 4.4**2, compactness, (density[i, 1] - density[i, 0])[pale].mean()))
            measured[name] = np.nanmedian(rows, axis=0)
    return [dict(zip(measured, column, strict=True)) for column in zip(*measured.values(), strict=True)]


@pytest.mark.parametrize(("laboratory", "kinds"), DIGESTS)
def test_same_bytes_on_every_machine(laboratory, kinds):
    images, labels, _ = cells.generate(24, 7, laboratory, kinds)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()[:16]
    assert sources.CELLS_VERSION == 1 and digest == DIGESTS[laboratory, kinds]


@pytest.mark.parametrize("kinds", cells.KINDS)
def test_an_image_depends_on_its_own_number_alone(kinds, monkeypatch):
    images, labels, _ = cells.generate(50, 11, "home", kinds)
    fewer, fewer_labels, _ = cells.generate(10, 11, "home", kinds)
    np.testing.assert_array_equal(fewer, images[:10])
    np.testing.assert_array_equal(fewer_labels, labels[:10])
    monkeypatch.setattr(cells, "_CHUNK", 7)  # other batches,
    monkeypatch.setattr(cells.os, "cpu_count", lambda: 1)  # one thread
    np.testing.assert_array_equal(cells.generate(50, 11, "home", kinds)[0], images)


def test_shapes_types_and_range(home):
    images, labels, classes = home
    assert images.shape == (500, 3, 96, 96) and images.dtype == np.uint8
    assert labels.shape == (500,) and labels.dtype == np.int64
    assert classes == cells.CLASSES and set(labels) == set(range(8))
    # Dark and light, neither burnt out nor black, and no two alike.
    assert images.min() < 60 and images.max() > 230
    assert (images == 255).mean() < 0.02 and (images == 0).mean() < 0.001
    assert len({image.tobytes() for image in images}) == 500
    unseen = cells.generate(1, 0, kinds="unseen")
    assert unseen[0].shape == (1, 3, 96, 96) and unseen[2] == cells.UNSEEN_CLASSES
    assert not set(cells.UNSEEN_CLASSES) & set(cells.CLASSES)


@pytest.mark.parametrize(("kinds", "n"), [("known", 12_000), ("unseen", 3000)])
def test_class_frequencies(kinds, n):
    uniforms = np.stack([cells._uniforms(cells._stream(0, i, "home", kinds), 2) for i in range(n)])
    observed = np.bincount(cells._choose(uniforms, kinds)[0]) / n
    expected = np.array(cells.FREQUENCIES if kinds == "known" else [1 / 6] * 6)
    assert math.isclose(expected.sum(), 1) and len(observed) == len(expected)
    assert np.all(np.abs(observed - expected) < 4 * np.sqrt(expected * (1 - expected) / n))


def test_the_second_laboratory_has_another_look(home):
    def look(images):
        film = np.percentile(images, 90, axis=(2, 3))  # the empty background: the brightest tenth of each image
        corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean(2)
        grain = np.median(np.abs(np.diff(images.astype(int), 2, axis=3)))  # second differences cancel what is smooth
        return film.mean(), (film[:, 0] - film[:, 2]).mean(), (film - corners).mean(), grain

    light, warmth, vignetting, grain = zip(
        look(home[0]), look(cells.generate(300, 3, laboratory="shifted")[0]), strict=True
    )
    assert light[0] > light[1] + 8
    assert warmth[0] > warmth[1] + 8  # cream against grey
    assert vignetting[1] > vignetting[0] + 5
    assert grain[1] > grain[0]


def test_nuclei_and_cytoplasm_are_as_their_type_says():
    area, compact, redness = morphology()
    assert area["platelet"] < 0.25 * area["lymphocyte"]
    assert area["erythroblast"] < area["lymphocyte"] < area["immature granulocyte"] < area["blast"]
    assert area["neutrophil"] < area["monocyte"]
    for name in ("lymphocyte", "neutrophil", "eosinophil", "monocyte"):
        assert 25 < area[name] < 130  # square micrometres
    for round_one in ("lymphocyte", "erythroblast", "blast", "hairy cell"):
        assert compact[round_one] > 0.85
        assert compact["neutrophil"] < compact[round_one] - 0.1
    assert compact["monocyte"] < compact["lymphocyte"]
    assert max(cells.CLASSES, key=redness.get) == "eosinophil"
    assert redness["neutrophil"] > redness["lymphocyte"]


def test_arithmetic_against_the_library():
    turns = np.linspace(-3, 3, 999, dtype=np.float32)
    np.testing.assert_allclose(cells._sine(turns), np.sin(2 * np.pi * turns), atol=0.002)
    np.testing.assert_allclose(cells._cosine(turns), np.cos(2 * np.pi * turns), atol=0.002)
    density = np.linspace(0, 4, 99, dtype=np.float32)
    np.testing.assert_allclose(cells._exp_minus(density), np.exp(-density), atol=0.02)


@pytest.mark.parametrize(("weight", "step"), [(0.2, 1), (-0.05, 1), (0.15, 2)])
def test_blur_equals_scipys(weight, step):
    image = np.random.default_rng(0).random((1, 1, 7, 7)).astype(np.float32)
    kernel = np.zeros(2 * step + 1)
    kernel[[0, step, -1]] = weight, 1 - 2 * weight, weight
    expected = ndimage.correlate1d(ndimage.correlate1d(image, kernel, 2, mode="nearest"), kernel, 3, mode="nearest")
    blurred = cells._blur(image, np.full((1, 1, 1), weight, np.float32), step)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_every_type_is_described():
    for kind in (*cells.CLASSES, *cells.UNSEEN_CLASSES):
        assert math.isclose(sum(share for name, share, _ in cells._TYPES if name == kind), 1)
    for name, _, own in cells._TYPES:
        assert own.keys() <= cells._COMMON.keys(), name
        assert all(low <= high for low, high in own.values()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "n=0 must be a whole number, at least 1"),
        ((1, -1), "seed=-1 must be"),
        ((1, 0, "abroad"), "laboratory='abroad' is not one of home, shifted"),
        ((1, 0, "home", "rare"), "kinds='rare' is not one of known, unseen"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        cells.generate(*arguments)


def test_between_the_laboratories_only_what_is_asked_for_changes():
    home, labels = cells.between(range(4), {})
    further = cells.generate(4, 0, further=True)
    assert np.array_equal(home, further[0]) and np.array_equal(labels, further[1])
    stained, same = cells.between(range(4), {"stain": 1.0})
    assert np.array_equal(same, labels) and not np.array_equal(stained, home)
    assert np.array_equal(cells.between([2], {"stain": 1.0})[0][0], stained[2])
    with pytest.raises(ValueError, match="shares='colour'"):
        cells.between([0], {"colour": 1.0})
