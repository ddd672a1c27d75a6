"""Metrics against scikit-learn and slow loops; predict, sampling and t-SNE on what breaks them."""

import time
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.manifold import trustworthiness
from torch import nn

from labutil import evaluation as ev
from labutil import representations
from labutil.images import stratified_sample


def random_case(seed: int, n: int, k: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which some classes may be absent, and probabilities a little better than chance."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    p = rng.dirichlet(np.full(k, 0.5), n) + 0.2 * np.eye(k)[y]
    p = np.round(p * 4) + 0.5 if ties else p
    return y, p / p.sum(1, keepdims=True)


cases = st.builds(random_case, st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 9), st.booleans())


@settings(max_examples=150, deadline=None)
@given(cases)
def test_metrics_equal_scikit_learn(case):
    y, p = case
    got, predicted, present = ev.classification_metrics(y, p), p.argmax(1), np.unique(y)
    macro = {"labels": present, "average": "macro", "zero_division": 0}
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    assert got["macro_precision"] == pytest.approx(sk.precision_score(y, predicted, **macro))
    assert got["macro_recall"] == pytest.approx(sk.recall_score(y, predicted, **macro))
    assert got["macro_f1"] == pytest.approx(sk.f1_score(y, predicted, **macro))
    areas = [sk.roc_auc_score(y == k, p[:, k]) for k in present] if len(present) > 1 else [0.5]
    assert got["macro_auc"] == pytest.approx(np.mean(areas))
    assert got["errors"] == (predicted != y).sum()
    assert all(type(v) is float and np.isfinite(v) for v in got.values())


@pytest.mark.parametrize("ties", [False, True])
def test_with_every_class_present_macro_values_are_scikit_learns_own(ties):
    y, p = random_case(1, 600, 5, ties)
    got = ev.classification_metrics(y, p)
    assert got["macro_auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"))
    for name, score in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        assert got[f"macro_{name}"] == pytest.approx(score(y, p.argmax(1), average="macro", zero_division=0))


def test_perfect_and_all_wrong():
    y = np.arange(12) % 4
    perfect = ev.classification_metrics(y, np.eye(4)[y])
    ones = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc")
    assert perfect == dict.fromkeys(ones, 1.0) | {"errors": 0.0, "ece": 0.0}
    wrong = ev.classification_metrics(y, np.eye(4)[(y + 1) % 4])
    assert [wrong[k] for k in ones[:4]] == [0, 0, 0, 0]
    assert wrong["macro_auc"] < 0.5 and wrong["errors"] == 12 and wrong["ece"] == 1


def test_absent_class_costs_its_victims_but_gets_no_vote():
    # Class 2 has no image; one image of class 0 is given to it.
    p = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    got = ev.classification_metrics([0, 0, 1, 1], p)
    assert got["macro_recall"] == pytest.approx((0.5 + 1) / 2)
    assert got["macro_precision"] == 1


def test_one_image_and_one_class():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = ev.classification_metrics([1], [[0.25, 0.75]])
        single = ev.classification_metrics([0, 0, 0], np.ones((3, 1)))
    assert (one["accuracy"], one["macro_auc"], one["ece"]) == (1, 0.5, 0.25)
    assert (single["accuracy"], single["macro_auc"], single["ece"]) == (1, 0.5, 0)


def test_bfloat16_and_lists_are_accepted():
    y, p = random_case(2, 300, 7)
    low = torch.from_numpy(p).to(torch.bfloat16)
    assert (low.double().sum(1) - 1).abs().max() > 1e-4  # the rounding that must pass
    got = ev.classification_metrics(torch.from_numpy(y), low)
    assert got == ev.classification_metrics(y.tolist(), low.float().numpy())
    assert got["macro_auc"] == pytest.approx(ev.classification_metrics(y, p)["macro_auc"], abs=1e-3)


def test_macro_auc_of_200_classes_is_fast_and_right():
    rng = np.random.default_rng(0)
    y, p = np.arange(10_000) % 200, rng.dirichlet(np.ones(200), 10_000)
    started = time.perf_counter()
    got = ev.classification_metrics(y, p)["macro_auc"]
    assert time.perf_counter() - started < 2  # 0.1 s measured
    assert got == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[3.0, 1.0], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[0.5, 0.5]], "2 rows and probabilities 1"),
        ([0, 2], [[0.5, 0.5]] * 2, "outside 0 to 1"),
        ([0, -1], [[0.5, 0.5]] * 2, "1 labels are -1"),
        ([0, -2], [[0.5, 0.5]] * 2, "outside 0 to 1"),
        ([0.0, 1.0], [[0.5, 0.5]] * 2, "expected integer labels"),
        ([[0], [1]], [[0.5, 0.5]] * 2, "expected integer labels"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "NaN"),
        ([0, 1], [0.5, 0.5], "expected (N, K)"),
        (np.zeros(0, int), np.zeros((0, 2)), "no labels"),
    ],
)
def test_bad_input_is_one_clear_line(y, p, message):
    with pytest.raises(ValueError) as error:
        ev.classification_metrics(y, p)
    assert message in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(1, 20))
def test_calibration_equals_a_slow_loop(case, bins):
    y, p = case
    table = ev.calibration(y, p, bins)
    assert list(table.columns) == ["confidence", "accuracy", "count"] and len(table) == bins
    ece = 0.0
    for m in range(1, bins + 1):
        # (lower, upper]: a confidence on an edge belongs to the bin below it
        mine = [i for i in range(len(y)) if (m - 1) / bins < min(max(p[i]), 1.0) <= m / bins]
        row = table.iloc[m - 1]
        assert row["count"] == len(mine)
        if not mine:
            assert np.isnan(row.confidence) and np.isnan(row.accuracy)
            continue
        accuracy = sum(int(np.argmax(p[i])) == y[i] for i in mine) / len(mine)
        confidence = sum(max(p[i]) for i in mine) / len(mine)
        assert (row.accuracy, row.confidence) == pytest.approx((accuracy, confidence))
        ece += len(mine) / len(y) * abs(accuracy - confidence)
    assert ev.expected_calibration_error(y, p, bins) == pytest.approx(ece)


def test_confidence_on_a_bin_edge_belongs_below_it_and_rounding_above_1_in_the_last():
    table = ev.calibration([0] * 4, [[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [1.002, 0.0]], bins=5)
    assert table["count"].tolist() == [0, 0, 1, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 8))
def test_confusion_matrix_equals_a_slow_loop(seed, n, k):
    rng = np.random.default_rng(seed)
    y, predicted = rng.integers(0, k, n), rng.integers(0, k, n)
    slow = np.zeros((k, k), int)
    for a, b in zip(y, predicted, strict=True):
        slow[a, b] += 1
    got = ev.confusion_matrix(torch.from_numpy(y), predicted, k)
    assert got.dtype == np.int64 and (got == slow).all()
    assert (got == sk.confusion_matrix(y, predicted, labels=range(k))).all()


@pytest.mark.parametrize(("y", "predicted"), [([0, -1], [0, 0]), ([0, 1], [0, 2]), ([0], [0, 1])])
def test_confusion_matrix_refuses(y, predicted):
    with pytest.raises(ValueError):
        ev.confusion_matrix(y, predicted, 2)


def test_most_confused():
    confusion = np.array([[5, 3, 0], [1, 0, 3], [0, 0, 9]])
    got = ev.most_confused(confusion, 2, ["cat", "dog", "fox"])
    # equal counts: the higher rate, 3 of 4, comes first
    assert got.values.tolist() == [["dog", "fox", 3, 0.75], ["cat", "dog", 3, 0.375]]
    assert ev.most_confused(confusion)[["true", "predicted"]].values.tolist() == [[1, 2], [0, 1], [1, 0]]
    assert (confusion == [[5, 3, 0], [1, 0, 3], [0, 0, 9]]).all()  # not changed
    assert len(ev.most_confused(np.diag([4, 2]))) == 0


def test_roc_curves_equal_scikit_learn_and_skip_absent_classes():
    y, p = random_case(3, 80, 4, ties=True)
    y[y == 2] = 1
    curves = ev.roc_curves(y, p)
    assert curves[2] is None
    for k in (0, 1, 3):
        fpr, tpr, auc = curves[k]
        assert np.array_equal(fpr, sk.roc_curve(y == k, p[:, k])[0])
        assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
        assert auc == pytest.approx(sk.auc(fpr, tpr))
    assert ev.roc_curves([0, 0], [[0.5, 0.5]] * 2) == [None, None]


def test_class_report_equals_scikit_learn():
    y, p = random_case(4, 90, 4)
    y[y == 3] = 0
    names = ["a", "b", "c", "d"]
    got = ev.class_report(y, p, names)
    want = sk.classification_report(
        y, p.argmax(1), labels=range(4), target_names=names, output_dict=True, zero_division=0
    )
    assert list(got.index) == names and list(got.columns) == ["precision", "recall", "f1", "support", "auc"]
    for name in names:
        w = want[name]
        assert got.loc[name].tolist()[:4] == pytest.approx([w["precision"], w["recall"], w["f1-score"], w["support"]])
    assert np.isnan(got.auc["d"]) and got.auc["a"] == pytest.approx(sk.roc_auc_score(y == 0, p[:, 0]))
    with pytest.raises(ValueError, match="3 names for 4 columns"):
        ev.class_report(y, p, names[:3])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(-1, 6), min_size=1, max_size=80), st.integers(0, 90), st.integers(0, 9))
def test_stratified_sample_keeps_shares(labels, n, seed):
    y = np.array(labels)
    index = stratified_sample(torch.from_numpy(y), n, seed)
    assert index.dtype == np.int64 and len(index) == min(n, len(y)) == len(set(index.tolist()))
    assert (np.diff(index) > 0).all()
    for k in np.unique(y):
        assert abs((y[index] == k).sum() - min(n, len(y)) * (y == k).mean()) < 1


def test_stratified_sample_gives_the_last_image_to_the_largest_remainder():
    y = np.repeat([0, 1, 2], [7, 2, 1])  # shares of six images: 4.2, 1.2, 0.6
    assert [np.bincount(y[stratified_sample(y, 6, s)]).tolist() for s in range(5)] == [[4, 1, 1]] * 5


def test_stratified_sample_draws_by_seed_alone():
    y = np.arange(100) % 4
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    a, b, c = (stratified_sample(y, 10, seed) for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    with pytest.raises(ValueError, match="n=-1"):
        stratified_sample(y, -1)


class Net(nn.Module):
    """Batch norm, dropout and a linear layer: all that training mode would change."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.drop(self.encoder(x).flatten(1)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    model.encoder[1].running_mean.uniform_()
    return model.to(ev.get_device())


IMAGES = torch.randint(0, 256, (11, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_predict_equals_a_slow_loop_in_any_batch_size(net):
    net.eval()
    with torch.no_grad():
        slow = torch.stack([net(x[None].to(ev.get_device()).float() / 255)[0].cpu() for x in IMAGES])
    net.train()
    for batch_size in (1, 4, 512):
        got = ev.predict(net, IMAGES, batch_size=batch_size, precision="fp32")
        assert got.dtype == torch.float32 and got.device.type == "cpu"
        torch.testing.assert_close(got, slow, rtol=1e-4, atol=1e-5)


def test_predict_changes_nothing_in_the_model(net):
    net.train()
    net.encoder.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ev.predict(net, IMAGES)
    assert net.training and net.drop.training and not net.encoder.training and not net.encoder[1].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    with pytest.raises(RuntimeError):
        ev.predict(net, IMAGES[:, :1])  # the wrong number of channels
    assert net.training and not net.encoder.training


def test_a_probe_trains_on_predicted_features(net):
    h = ev.predict(net, IMAGES)
    assert not h.requires_grad and not h.is_inference()
    weight = torch.zeros(5, requires_grad=True)
    (h @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, h.sum(0))


def test_predict_in_bfloat16_gives_float32_near_the_exact_values(net):
    low, exact = (ev.predict(net, IMAGES, precision=p) for p in ("bf16", "fp32"))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.05, atol=0.05)


def test_predict_of_no_images_and_of_wrong_ones(net):
    assert ev.predict(net, IMAGES[:0]).shape == (0, 5)
    assert ev.predict(nn.Flatten(), IMAGES).shape == (11, 243)  # a module without weights
    for images in (IMAGES.float(), IMAGES[0]):
        with pytest.raises(ValueError, match="expected uint8"):
            ev.predict(net, images)
    with pytest.raises(ValueError, match="batch_size=0"):
        ev.predict(net, IMAGES, batch_size=0)


def test_tsne_keeps_neighbours_and_repeats():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 30)
    x = rng.normal(size=(90, 64)) + 6 * rng.normal(size=(3, 64))[labels]
    xy = ev.tsne(torch.from_numpy(x))
    assert xy.dtype == np.float32 and xy.shape == (90, 2)
    assert trustworthiness(x, xy, n_neighbors=10) > 0.9
    distance = ((xy[:, None] - xy[None]) ** 2).sum(-1) + 1e9 * np.eye(90)
    assert (labels[distance.argmin(1)] == labels).all()
    assert np.array_equal(xy, ev.tsne(x)) and np.array_equal(xy, ev.tsne(x, seed=0))


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=(5, 3)),  # the fewest points
        np.arange(7.0)[:, None],  # one feature
        np.random.default_rng(0).normal(size=(8, 2, 3)),  # flattened
        np.full((9, 4), 3.0),  # a collapsed encoder
        torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).bfloat16(),
    ],
    ids=["5 points", "1 feature", "maps", "collapsed", "bfloat16"],
)
def test_tsne_of_odd_features_is_finite_and_silent(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xy = ev.tsne(x)
    assert xy.shape == (len(x), 2) and np.isfinite(xy).all() and np.array_equal(xy, ev.tsne(x))


def test_tsne_refuses():
    with pytest.raises(ValueError, match="at least 5 points"):
        ev.tsne(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="NaN"):
        ev.tsne(np.full((9, 3), np.nan))


def test_linear_probe_equals_logistic_regression_on_scaled_roots():
    """The same convex problem solved another way: roots and scaling by hand, no principal axes."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    h = rng.normal(size=(150, 12)) * 3 + np.eye(3, 12)[y] * 4
    probe = representations.linear_probe(torch.from_numpy(h), torch.from_numpy(y), decay=0.003)
    x = np.sign(h) * np.abs(h) ** 0.5
    x = (x - x.mean(0)) * 10 / np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    slow = LogisticRegression(C=1 / (2 * 0.003 * 150), max_iter=5000, tol=1e-8).fit(x, y)
    np.testing.assert_allclose(probe.predict_proba(h), slow.predict_proba(x), atol=5e-3)
    assert probe.score(h, y) > 0.7
    again = representations.linear_probe(torch.from_numpy(h), torch.from_numpy(y), decay=0.003)
    np.testing.assert_array_equal(again.predict_proba(h), probe.predict_proba(h))


def test_linear_probe_keeps_to_its_axes_and_classes():
    rng = np.random.default_rng(1)
    h, y = rng.normal(size=(20, 40)), np.repeat([2, 5], 10)
    probe = representations.linear_probe(h, y, dimensions=4)
    assert probe.predict_proba(h).shape == (20, 2)
    assert probe.classes_.tolist() == [2, 5]
    assert probe[1].n_components_ == 4
