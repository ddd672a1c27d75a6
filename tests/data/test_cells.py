"""Generated blood cells: the same bytes everywhere, and cells that look like what they are called."""

import hashlib
import math

import numpy as np
import pytest

from labutil.data import cells

# Of generate(24, seed=7). When a drawing changes on purpose: raise cells.VERSION, then put the new digests here.
DIGESTS = {
    "version": 1,
    ("home", "known"): "47d1e161a63ab2f7",
    ("home", "unseen"): "840e6fbe207b8812",
    ("shifted", "known"): "e10f7188ce6cdc3b",
    ("shifted", "unseen"): "9b1df4823475a5c4",
}


@pytest.fixture(scope="module")
def home():
    return cells.generate(500, seed=3)


@pytest.fixture(scope="module")
def shifted():
    return cells.generate(300, seed=3, laboratory="shifted")


@pytest.fixture(scope="module")
def morphology():
    """By type: nucleus area in square micrometres, its compactness (1: a disc), and redness of the cytoplasm.

    Measured on the pixels: of the four dyes the nuclear one alone takes away much red light, even where it is pale.
    """
    measured = {}
    across = np.arange(cells.SIZE) - (cells.SIZE - 1) / 2
    xx, yy = np.meshgrid(across, across)
    for kinds, n in (("known", 500), ("unseen", 120)):
        images, labels, classes = cells.generate(n, 5, kinds=kinds)
        light = np.percentile(images, 97, axis=(2, 3), keepdims=True)
        density = -np.log(np.maximum(images, 1) / light)
        nuclei = (density[:, 0] > 0.42) & (np.hypot(xx, yy) < 40)
        cytoplasm = (np.hypot(xx, yy) < 24) & ~nuclei
        for k, name in enumerate(classes):
            rows = []
            for i in np.flatnonzero(labels == k):
                area = nuclei[i].sum()
                compactness = np.nan
                if area > 50:
                    x, y = xx[nuclei[i]], yy[nuclei[i]]
                    compactness = area / (2 * math.pi * (x.var() + y.var()))
                pale = cytoplasm[i] if cytoplasm[i].any() else ...
                redness = (density[i, 1] - density[i, 0])[pale].mean()
                rows.append((area / 4.4**2, compactness, redness))
            measured[name] = dict(zip(("area", "compactness", "redness"), np.nanmedian(rows, axis=0), strict=True))
    return measured


@pytest.mark.parametrize("laboratory", cells.LABORATORIES)
@pytest.mark.parametrize("kinds", cells.KINDS)
def test_same_bytes_on_every_machine(laboratory, kinds):
    images, labels, _ = cells.generate(24, 7, laboratory, kinds)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()[:16]
    assert DIGESTS["version"] == cells.VERSION
    assert digest == DIGESTS[laboratory, kinds]


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
    assert images.min() < 60 and images.max() > 230
    # Neither burnt out nor black, and no two alike.
    assert (images == 255).mean() < 0.02 and (images == 0).mean() < 0.001
    assert len({image.tobytes() for image in images}) == 500
    unseen = cells.generate(1, 0, kinds="unseen")
    assert unseen[0].shape == (1, 3, 96, 96) and unseen[2] == cells.UNSEEN_CLASSES
    assert not set(cells.UNSEEN_CLASSES) & set(cells.CLASSES)


def test_labels_without_images(home):
    np.testing.assert_array_equal(cells.generate_labels(500, 3), home[1])
    np.testing.assert_array_equal(
        cells.generate_labels(20, 4, "shifted", "unseen"), cells.generate(20, 4, "shifted", "unseen")[1]
    )


def test_class_frequencies():
    assert math.isclose(sum(cells.FREQUENCIES), 1) and len(cells.FREQUENCIES) == len(cells.CLASSES)
    n = 12_000
    observed = np.bincount(cells.generate_labels(n, 0), minlength=8) / n
    sigma = np.sqrt(np.array(cells.FREQUENCIES) * (1 - np.array(cells.FREQUENCIES)) / n)
    assert np.all(np.abs(observed - cells.FREQUENCIES) < 4 * sigma)
    unseen = np.bincount(cells.generate_labels(3000, 0, kinds="unseen"), minlength=6) / 3000
    assert np.all(np.abs(unseen - 1 / 6) < 0.03)


def test_seeds_and_laboratories_give_other_cells():
    drawn = [cells.generate(6, *a)[0] for a in ((0,), (1,), (0, "shifted"), (0, "home", "unseen"), (2**40,))]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert not any(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


def test_the_second_laboratory_has_another_look(home, shifted):
    def film(images):  # the empty background: the brightest tenth of each image
        return np.percentile(images, 90, axis=(2, 3))

    def vignetting(images):
        corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        return (film(images) - corners.mean(2)).mean()

    def grain(images):  # second differences cancel everything that is smooth
        return np.median(np.abs(np.diff(images.astype(int), 2, axis=3)))

    at_home, away = film(home[0]), film(shifted[0])
    assert at_home.mean() > away.mean() + 8
    warmth = (at_home[:, 0] - at_home[:, 2]).mean(), (away[:, 0] - away[:, 2]).mean()
    assert warmth[0] > warmth[1] + 8  # cream against grey
    assert vignetting(shifted[0]) > vignetting(home[0]) + 5
    assert grain(shifted[0]) > grain(home[0])


def test_nuclei_are_as_large_as_their_type_says(morphology):
    area = {name: m["area"] for name, m in morphology.items()}
    assert area["platelet"] < 0.25 * area["lymphocyte"]
    assert area["erythroblast"] < area["lymphocyte"] < area["immature granulocyte"] < area["blast"]
    assert area["neutrophil"] < area["monocyte"]
    for name in ("lymphocyte", "neutrophil", "eosinophil", "monocyte"):
        assert 25 < area[name] < 130  # square micrometres


def test_nuclei_are_lobed_or_round(morphology):
    compact = {name: m["compactness"] for name, m in morphology.items()}
    for round_one in ("lymphocyte", "erythroblast", "blast", "hairy cell"):
        assert compact[round_one] > 0.85
        assert compact["neutrophil"] < compact[round_one] - 0.1
    assert compact["monocyte"] < compact["lymphocyte"]


def test_eosinophils_are_the_reddest(morphology):
    redness = {name: morphology[name]["redness"] for name in cells.CLASSES}
    assert max(redness, key=redness.get) == "eosinophil"
    assert redness["neutrophil"] > redness["lymphocyte"]


def test_arithmetic_against_the_library():
    turns = np.linspace(-3, 3, 999, dtype=np.float32)
    np.testing.assert_allclose(cells._sine(turns), np.sin(2 * np.pi * turns), atol=0.002)
    np.testing.assert_allclose(cells._cosine(turns), np.cos(2 * np.pi * turns), atol=0.002)
    density = np.linspace(0, 4, 99, dtype=np.float32)
    np.testing.assert_allclose(cells._exp_minus(density), np.exp(-density), atol=0.02)


@pytest.mark.parametrize(("weight", "step"), [(0.2, 1), (-0.05, 1), (0.15, 2)])
def test_blur_against_a_loop(weight, step):
    image = np.random.default_rng(0).random((1, 1, 7, 7)).astype(np.float32)

    def rows_blurred(a):
        out = np.empty_like(a)
        for i in range(7):
            out[i] = (1 - 2 * weight) * a[i] + weight * (a[max(i - step, 0)] + a[min(i + step, 6)])
        return out

    expected = rows_blurred(rows_blurred(image[0, 0]).T).T
    blurred = cells._blur(image, np.full((1, 1, 1), weight, np.float32), step)
    np.testing.assert_allclose(blurred[0, 0], expected, atol=1e-6)


def test_every_type_is_described():
    for kind in (*cells.CLASSES, *cells.UNSEEN_CLASSES):
        assert math.isclose(sum(share for name, share, _ in cells._TYPES if name == kind), 1)
    for name, _, own in cells._TYPES:
        assert own.keys() <= cells._COMMON.keys(), name
        assert all(low <= high for low, high in own.values()), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "n=0 must be at least 1"),
        ((-3, 0), "n=-3"),
        ((1, -1), "seed=-1"),
        ((1, 0, "abroad"), "laboratory='abroad' must be one of home, shifted"),
        ((1, 0, "home", "rare"), "kinds='rare' must be one of known, unseen"),
    ],
)
def test_bad_arguments(arguments, message):
    for function in (cells.generate, cells.generate_labels):
        with pytest.raises(ValueError, match=message):
            function(*arguments)
