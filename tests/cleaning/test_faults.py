"""Planted faults: the truth is checked against the pixels and labels, with nothing of the planting itself."""

import itertools
import math

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from labutil.cleaning import defects, faults
from labutil.cleaning.faults import KINDS, MIX, plant
from labutil.data import cells, load_dataset
from labutil.data.loading import DataError
from labutil.images import Dataset, ImageSet

ALL, FEW = ({kind: share for kind in KINDS} for share in (0.07, 0.05))
DUPLICATES = {"exact_duplicate", "near_duplicate", "conflicting_duplicate"}
DAMAGED = {"blend", "overexposed", "blurred"}
STRANGERS = {"foreign", "photograph", "noise", "blank"}
RELABELLED = {"random_label", "lookalike_label"}


@pytest.fixture(scope="module")
def blood() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """48 training and 12 test images of cells."""
    images, labels, _ = cells.generate(60, 0)
    return images[:48], labels[:48], images[48:], labels[48:]


def shapes(count: int, side: int = 8, channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random images, no two alike, with labels of 5 classes."""
    rng = np.random.default_rng(seed)
    few = rng.integers(20, 230, (count * channels, 4, 4), np.uint8)
    large = [np.asarray(Image.fromarray(x).resize((side, side), Image.BICUBIC)) for x in few]
    return np.stack(large).reshape(count, channels, side, side), rng.integers(0, 5, count)


def planted(
    images: np.ndarray, labels: np.ndarray, rates: dict, test: tuple = (), *, classes: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, pandas.DataFrame]:
    """Images and labels of a data set with faults, and the truth; without `test` it has no test images."""
    names = tuple("abcdefghi"[:classes])
    train, tested = (
        ImageSet(torch.from_numpy(x), torch.from_numpy(y), names)
        for x, y in ((images, labels), test or (images[:0], labels[:0]))
    )
    data = Dataset("planted", train, tested, tested, None, (0.5,), (0.5,), "", names, *images.shape[1:3])
    faulty, truth = plant(data, rates, seed)
    return faulty.train.images.numpy(), faulty.train.labels.numpy(), truth


def rows_of(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def of_kind(truth: pandas.DataFrame, *kinds: str) -> list[tuple[int, str, int, int]]:
    return list(truth[truth["kind"].isin(kinds)].itertuples(index=False, name=None))


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest correlation of two images over all shifts and the four mirrorings, on their means over channels."""
    a, b = (x.mean(0) - x.mean() for x in (a, b))
    spectra = [np.fft.fft2(x).conj() for x in (a, a[::-1], a[:, ::-1], a[::-1, ::-1])]
    return np.fft.ifft2(np.fft.fft2(b) * spectra).real.max() / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9)


@pytest.mark.parametrize("side, channels", [(8, 1), (8, 3), (28, 1), (96, 3)])
def test_truth_agrees_with_pixels_and_labels(side: int, channels: int) -> None:
    images, labels = shapes(100, side, channels)
    test_images, test_labels = shapes(30, side, channels, 1)
    out, given, truth = planted(images, labels, ALL, (test_images, test_labels), seed=3)
    assert out.dtype == np.uint8 and given.dtype == np.int64 and len(out) == len(given) == 100 + 7 * 11
    assert truth["kind"].value_counts().to_dict() == dict.fromkeys(KINDS, 7)
    assert truth["index"].is_monotonic_increasing and truth["index"].is_unique
    assert (truth.dtypes[["index", "original", "true_label"]] == np.int64).all()

    # what is no fault is the input, each image once, with its label
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    clean = sorted(set(range(len(out))) - set(truth["index"]))
    assert all(label_of[out[row].tobytes()] == given[row] for row in clean)
    relabelled = of_kind(truth, *RELABELLED)
    assert rows_of(out[[*clean, *(row for row, *_ in relabelled)]]) == set(label_of) and len(label_of) == 100
    assert len(clean) == 100 - 14
    for row, _, original, true_label in relabelled:
        assert label_of[out[row].tobytes()] == true_label != given[row] and 0 <= given[row] < 5 and original == -1
    for row, kind, original, true_label in of_kind(truth, *DUPLICATES, *DAMAGED):
        assert original in clean and true_label == given[original]
        assert (given[row] == true_label) == (kind != "conflicting_duplicate")
        same = np.array_equal(out[row], out[original])
        assert same if kind == "exact_duplicate" else not same or kind == "conflicting_duplicate"
    for row, _, original, true_label in of_kind(truth, "leak"):
        assert given[row] == true_label == test_labels[original]
    for row, _, original, true_label in of_kind(truth, *STRANGERS):
        assert original == true_label == -1 and 0 <= given[row] < 5
    # no image is the original of two kinds
    used = truth[truth["kind"].isin(DUPLICATES | DAMAGED)].groupby("original")["kind"].nunique()
    assert (used == 1).all()


def test_half_of_leaks_foreign_and_conflicts_are_byte_identical() -> None:
    images, labels = shapes(400, 32, 3)
    test = shapes(100, 32, 3, 1)
    kinds = ("leak", "foreign", "conflicting_duplicate", "near_duplicate")
    out, _, truth = planted(images, labels, dict.fromkeys(kinds, 0.2), test)
    leaks = [np.array_equal(out[row], test[0][original]) for row, _, original, _ in of_kind(truth, "leak")]
    conflicts = [np.array_equal(out[row], out[o]) for row, _, o, _ in of_kind(truth, "conflicting_duplicate")]
    assert 25 < sum(leaks) < 55 and 25 < sum(conflicts) < 55
    foreign = out[[row for row, *_ in of_kind(truth, "foreign")]]
    pictures, counts = np.unique(foreign, axis=0, return_counts=True)
    assert counts.max() == 40
    assert min(likeness(image, pictures[counts.argmax()]) for image in foreign) > 0.8
    near = rows_of(out[[row for row, *_ in of_kind(truth, "near_duplicate")]])
    assert len(near) == 80 and not near & rows_of(images)
    copies = truth[truth["kind"] == "near_duplicate"]["original"].value_counts()
    assert copies.max() == 3 and copies.min() == 1


def test_near_duplicates_are_more_like_their_original_than_any_other_image(blood: tuple) -> None:
    images, labels, *test = blood
    out, _, truth = planted(images, labels, {"near_duplicate": 0.5, "leak": 0.25}, tuple(test), classes=8)
    for row, kind, original, _ in of_kind(truth, "near_duplicate", "leak"):
        pool, source = (test[0], test[0][original]) if kind == "leak" else (images, out[original])
        scores = [likeness(out[row], image) for image in pool]
        assert np.array_equal(pool[int(np.argmax(scores))], source), (kind, max(scores))
        assert max(scores) > 0.8


def test_damaged_images_are_what_they_are_called(blood: tuple) -> None:
    images, labels, *_ = blood
    rates = {"blend": 0.2, "overexposed": 0.2, "blurred": 0.2, "foreign": 0.02}
    out, given, truth = planted(images, labels, rates, classes=8, seed=1)
    picture = out[of_kind(truth, "foreign")[0][0]].astype(float)
    for row, kind, original, _ in of_kind(truth, *DAMAGED):
        image, source = out[row].astype(float), out[original].astype(float)
        assert given[row] == given[original]
        if kind == "blend":  # least squares finds the share, and nothing is left over
            share = ((image - source) * (picture - source)).sum() / ((picture - source) ** 2).sum()
            assert 0.35 <= share <= 0.65
            assert np.abs(image - (1 - share) * source - share * picture).max() < 1
        elif kind == "overexposed":
            assert (image == 255).mean() > 0.6 and image.min() >= 149 and image.mean() > source.mean()
        else:
            fine = [np.abs(np.diff(x, n=2)).mean() for x in (image, source)]
            coarse = [x.reshape(3, 4, 24, 4, 24).mean((2, 4)) for x in (image, source)]
            assert fine[0] < 0.6 * fine[1]
            assert np.corrcoef(coarse[0].ravel(), coarse[1].ravel())[0, 1] > 0.8


def test_strangers_are_varied(blood: tuple) -> None:
    images, labels, *_ = blood
    kinds = ("photograph", "noise", "blank")
    out, _, truth = planted(images, labels, dict.fromkeys(kinds, 0.3), classes=8, seed=2)
    frames = {kind: out[[row for row, *_ in of_kind(truth, kind)]] for kind in kinds}
    assert all(len(frame) == 14 == len(rows_of(frame)) for frame in frames.values())
    assert frames["blank"].std((2, 3)).max() < 12 and np.ptp(frames["blank"].mean((1, 2, 3))) > 100
    assert frames["photograph"].std((1, 2, 3)).min() > 10
    assert frames["noise"].std((1, 2, 3)).min() > 10 and np.ptp(frames["noise"].std((1, 2, 3))) > 30
    for a, b in itertools.combinations(frames["photograph"], 2):
        assert not np.array_equal(a, b[..., ::-1])


@pytest.mark.parametrize("channels, side", [(1, 8), (3, 8), (1, 28)])
def test_blank_frames_never_have_the_same_bytes(channels: int, side: int) -> None:
    made = np.stack(list(defects.blanks(300, (channels, side, side), np.random.default_rng(0))))
    assert len(rows_of(made)) == 300


def test_lookalikes_are_the_neighbouring_class_and_random_labels_are_spread() -> None:
    # five shades: 0 and 1 are alike, 2 and 3 are alike, 4 is a little nearer to 3
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    shade = np.array([40, 60, 140, 160, 200])[labels]
    images = (shade[:, None, None, None] + rng.normal(0, 4, (400, 1, 10, 10))).clip(0, 255).astype(np.uint8)
    _, given, truth = planted(images, labels, {"random_label": 0.4, "lookalike_label": 0.4})
    nearest = {0: 1, 1: 0, 2: 3, 3: 2, 4: 3}
    right = [given[row] == nearest[true] for row, _, _, true in of_kind(truth, "lookalike_label")]
    assert len(right) == 160 and np.mean(right) > 0.95
    drawn = np.array([(given[row] - true) % 5 for row, _, _, true in of_kind(truth, "random_label")])
    counts = np.bincount(drawn, minlength=5)
    assert counts[0] == 0 and counts[1:].min() > 160 / 4 - 3 * math.sqrt(160 * 3 / 16)


def test_vary_keeps_size_and_always_changes_something() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 8, 8), (3, 8, 8), (1, 20, 33), (3, 33, 20), (1, 5, 5)):
        for image in (rng.integers(0, 256, shape, np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)):
            for slightly in (False, True):
                before = image.copy()
                for _ in range(30):
                    changed = defects.vary(image, rng, slightly=slightly)
                    assert changed.shape == shape and changed.dtype == np.uint8
                    assert not np.array_equal(changed, image) and np.array_equal(image, before)


def test_same_seed_same_faults_whatever_numpy_draws_and_the_input_stays() -> None:
    given = (*shapes(80, 12, 3), *shapes(20, 12, 3, 1))
    before = [x.copy() for x in given]
    made = []
    for seed in (0, 0, 1):
        np.random.seed(len(made))  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        made.append(planted(*given[:2], ALL, given[2:], seed=seed))
        assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, given, strict=True))
    first, again, other = made
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1]) and first[2].equals(again[2])
    assert not np.array_equal(first[0], other[0]) and not first[2].equals(other[2])


@pytest.mark.parametrize("kind", sorted(STRANGERS | {"random_label", "leak"}))
def test_a_kind_is_the_same_whatever_else_is_planted(kind: str) -> None:
    found = []
    for rates in ({kind: 0.1}, {**ALL, kind: 0.1}):
        out, given, truth = planted(*shapes(60, 12, 3), rates, shapes(20, 12, 3, 1))
        found.append(sorted((out[row].tobytes(), given[row]) for row, *_ in of_kind(truth, kind)))
    assert found[0] == found[1] and len(found[0]) == 6


def test_position_tells_nothing() -> None:
    images, labels = shapes(500)
    out, _, truth = planted(images, np.sort(labels), {"blank": 0.5, "near_duplicate": 0.5})
    rows = truth["index"].to_numpy()
    assert abs(rows.mean() / len(out) - 0.5) < 0.05 and abs((rows < len(out) / 4).mean() - 0.25) < 0.06
    distance = (truth["index"] - truth["original"])[truth["original"] >= 0]
    assert abs(distance.abs().mean() / len(out) - 1 / 3) < 0.05  # of two uniform positions


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("classes", [1, 2])
def test_tiny_sets(count: int, classes: int) -> None:
    images, labels = shapes(count)
    labels %= classes
    out, given, truth = planted(images, labels, ALL, (images[:1], labels[:1]), classes=classes)
    kinds = set(truth["kind"])
    assert STRANGERS | {"leak"} <= kinds and ((given >= 0) & (given < classes)).all()
    assert len(out) == count + (~truth["kind"].isin(RELABELLED)).sum()
    assert rows_of(images) <= rows_of(out)
    if classes == 1:
        assert not kinds & (RELABELLED | {"conflicting_duplicate"}) and "exact_duplicate" in kinds


def test_images_without_labels_get_none_and_are_never_relabelled() -> None:
    images, labels = shapes(60)
    none = np.full(60, -1)
    out, given, truth = planted(images, none, ALL, (images[:9], none[:9]))
    assert (given == -1).all() and (truth["true_label"] == -1).all()
    assert set(truth["kind"]) == set(KINDS) - RELABELLED - {"conflicting_duplicate"}
    half = np.where(np.arange(60) < 30, labels, -1)
    rates = dict.fromkeys((*RELABELLED, "conflicting_duplicate", "near_duplicate"), 0.1)
    out, given, truth = planted(images, half, rates)
    label_of = dict(zip((x.tobytes() for x in images), half, strict=True))
    assert len(truth) == 24
    for row, kind, original, true_label in of_kind(truth, *rates):
        assert label_of[out[original if original >= 0 else row].tobytes()] == true_label
        assert true_label >= 0 or kind == "near_duplicate"
    _, given, truth = planted(images, labels, {"leak": 0.05, "blank": 0.1}, (images, none))  # only the test split's
    leaks = of_kind(truth, "leak")
    assert len(leaks) == 3 and all(true == -1 == given[row] for row, _, _, true in leaks)
    assert all(given[row] >= 0 for row, *_ in of_kind(truth, "blank"))


def test_images_run_out_before_the_rates_do() -> None:
    images, labels = shapes(40)
    _, _, truth = planted(images, labels, {"random_label": 0.5, "lookalike_label": 0.49, "near_duplicate": 0.01})
    assert truth["kind"].value_counts().to_dict() == {"random_label": 20, "lookalike_label": 20}
    _, _, truth = planted(images, labels, {"leak": 0.5}, (images[:3], labels[:3]))
    assert sorted(np.bincount(truth["original"])) == [6, 7, 7]
    assert planted(images, labels, {"leak": 0.5})[2].empty


def test_oblong_images_and_classes_that_do_not_occur() -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 3, 10, 23), np.uint8), np.repeat([0, 7], 20)
    out, given, truth = planted(images, labels, ALL, (images[:4], labels[:4]), classes=9)
    assert out.shape[1:] == (3, 10, 23) and set(truth["kind"]) == set(KINDS)
    assert {given[row] for row, *_ in of_kind(truth, "lookalike_label")} <= {0, 7}
    _, given, _ = planted(images, np.zeros(40, int), {"lookalike_label": 0.2}, classes=9)
    assert (given > 0).sum() == 8


def test_pairs_and_rows_for_scoring() -> None:
    out, _, truth = planted(*shapes(60), FEW | {"near_duplicate": 0.3, "leak": 0.15}, shapes(3, seed=1))
    everything = list(itertools.combinations(range(len(out)), 2))
    kind_of = dict(zip(truth["index"], truth["kind"], strict=True))
    copy_of = {row: original for row, _, original, _ in of_kind(truth, *DUPLICATES)}
    copy_of |= dict.fromkeys((row for row, *_ in of_kind(truth, "foreign")), "foreign")
    copy_of |= {row: ("test", original) for row, _, original, _ in of_kind(truth, "leak")}
    pairs = faults.duplicate_pairs(truth)
    assert pairs == {(i, j) for i, j in everything if copy_of.get(i, i) == copy_of.get(j, j)} and len(pairs) > 40
    identical = {(i, j) for i, j in everything if np.array_equal(out[i], out[j])}
    assert identical and identical <= pairs
    assert all(type(i) is int and type(j) is int for i, j in pairs)

    damaged = {row: original for row, _, original, _ in of_kind(truth, *DAMAGED)}
    alike = ({"blank"}, {"photograph"}, {"blend"}, {"blend", "foreign"})
    doubtful = faults.doubtful_pairs(truth)
    assert doubtful == {
        (i, j)
        for i, j in everything
        if {kind_of.get(i), kind_of.get(j)} in alike or damaged.get(i, i) == damaged.get(j, j)
    }
    assert len(doubtful) > 10 and not doubtful & pairs
    for rows, kinds in (
        (faults.outlier_rows(truth), STRANGERS | DAMAGED),
        (faults.wrong_label_rows(truth), RELABELLED | {"conflicting_duplicate"}),
    ):
        assert rows.tolist() == [row for row in range(len(out)) if kind_of.get(row) in kinds]


def test_scores_of_duplicates_against_a_slow_loop() -> None:
    out, _, truth = planted(*shapes(60), FEW | {"near_duplicate": 0.3}, shapes(3, seed=1))
    right, doubtful = faults.duplicate_pairs(truth), faults.doubtful_pairs(truth)
    rng = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.9):
        everything = itertools.combinations(range(len(out)), 2)
        chosen = [pair for pair in everything if rng.random() < (share if pair in right | doubtful else 0.02)]
        turned = [pair[::-1] if rng.random() < 0.5 else pair for pair in chosen]  # in any order, some twice
        hits = sum(pair in right for pair in chosen)
        misses = sum(pair not in right | doubtful for pair in chosen)
        partners = [[pair for pair in right if row in pair] for row in range(len(out))]
        found = sum(any(pair in chosen for pair in mine) for mine in partners)
        assert misses > 0 and 0 < hits < len(right)
        expected = found / sum(map(bool, partners)), hits / (hits + misses)
        assert faults.score_duplicates(truth, turned + chosen[:7]) == pytest.approx(expected)
    assert faults.score_duplicates(truth, right) == faults.score_duplicates(truth, right | doubtful) == (1, 1)
    assert faults.score_duplicates(truth, []) == (0, 1) == faults.score_duplicates(truth, doubtful)
    assert faults.score_duplicates(truth, np.array(sorted(right))) == (1, 1)  # NumPy's numbers are as good
    only = truth[truth["kind"] == "foreign"]  # a chain of links is enough
    assert faults.score_duplicates(only, itertools.pairwise(only["index"])) == (1, 1)
    assert faults.score_duplicates(truth.iloc[:0], [(0, 1)]) == (0, 0)


def test_scores_of_rows_against_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        truth, found = (rng.integers(0, 12, rng.integers(1, 9)) for _ in range(2))  # with repetitions
        hits = [row for row in range(12) if row in truth.tolist() and row in found.tolist()]
        expected = len(hits) / len(set(truth.tolist())), len(hits) / len(set(found.tolist()))
        assert faults.score_rows(truth, found) == pytest.approx(expected)
        assert faults.score_rows(list(truth), pandas.Series(found)) == faults.score_rows(truth, found)
    assert faults.score_rows([1, 2], []) == (0, 1) == faults.score_rows([], [])
    assert faults.score_rows([], [3]) == (0, 0)


def load(rates: object = None, seed: int = 0) -> tuple[Dataset, pandas.DataFrame]:
    return plant(load_dataset("mnist5k", subset=300), rates, seed)


def test_faults_are_planted_in_train_only() -> None:
    clean, none = load()
    before = clean.train.images.clone()
    faulty, truth = plant(clean, {"near_duplicate": 0.1, "leak": 0.05, "random_label": 0.1}, 0)
    assert none.empty and list(none.columns) == list(truth.columns)
    assert truth["kind"].value_counts().to_dict() == {"near_duplicate": 30, "random_label": 30, "leak": 15}
    assert len(faulty.train) == 345 and faulty.train.classes == clean.train.classes
    assert faulty.val is clean.val and faulty.test is clean.test and torch.equal(clean.train.images, before)
    assert rows_of(clean.train.images.numpy()) <= rows_of(faulty.train.images.numpy())
    for row, _, original, true_label in of_kind(truth, "leak"):
        assert faulty.test.labels[original] == true_label == faulty.train.labels[row]
    x = faulty.train.images.numpy() / 255
    np.testing.assert_allclose(faulty.mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(faulty.std, x.std((0, 2, 3)), rtol=1e-12)
    assert faulty.mean != clean.mean
    for nothing in (None, 0, 0.0, {}, {"blank": 0}, np.float32(0)):
        data, truth = plant(clean, nothing, 0)
        assert data is clean and truth.empty


def test_fingerprint_and_faults_follow_rates_and_seed() -> None:
    choices = [None, 0.1, 0.2, {"blank": 0.1}, {"blank": 0.2}, {"noise": 0.1}, {"blank": 0.1, "noise": 0.1}]
    assert len({load(choice)[0].fingerprint for choice in choices}) == len(choices)
    one, truth = load(choices[-1])
    same, again = load({"noise": np.float64(0.1), "blank": 0.1, "leak": 0}, np.int64(0))
    other, another = load(choices[-1], 1)
    assert one.fingerprint == same.fingerprint and truth.equals(again)
    assert torch.equal(one.train.images, same.train.images)
    assert not truth.equals(another) and other.fingerprint != one.fingerprint


def test_a_number_is_spread_over_all_kinds() -> None:
    assert math.isclose(math.fsum(MIX.values()), 1) and tuple(MIX) == KINDS
    counts = load(0.3)[1]["kind"].value_counts()
    assert counts.to_dict() == {kind: max(1, round(0.3 * share * 300)) for kind, share in MIX.items()}
    assert abs(counts.sum() - 90) <= 3
    tenths = dict.fromkeys(KINDS[:10], 0.1)  # shares that sum to one are taken
    assert faults.shares(tenths) == tenths
    assert faults.shares(0.5)["foreign"] == 0.06


@pytest.mark.parametrize(
    "value, message",
    [
        (-0.1, "rates=-0.1 must be a share of the training images from 0 to 0.5, or a dict of"),
        (0.51, "rates=0.51 must be"),
        (1, "rates=1 must be"),
        (float("nan"), "rates=nan must be"),
        (True, "rates=True must be"),
        ("0.1", "rates='0.1' must be"),
        ([0.1], "rates=[0.1] must be"),
        (np.complex128(0.1), f"rates={np.complex128(0.1)!r} must be"),
        ({"near_duplicates": 0.1}, "rates: 'near_duplicates' (did you mean 'near_duplicate'?) is no kind of fault: "),
        ({3: 0.1}, "rates: 3 is no kind of fault: exact_duplicate, "),
        ({"blank": -0.1}, "rates: blank=-0.1 must be a share of the training images from 0 to 0.5"),
        ({"blank": float("inf")}, "rates: blank=inf must be"),
        ({"blank": np.True_}, f"rates: blank={np.True_!r} must be"),
        ({"blank": None}, "rates: blank=None must be"),
        ({"blank": 0.5, "noise": 0.5, "leak": 0.1}, "rates: the shares sum to 1.1: make them smaller"),
    ],
)
def test_errors(value: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        faults.shares(value)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
