"""Metrics and ensembles against scikit-learn and slow loops; predict and t-SNE on what breaks them."""

import itertools
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.manifold import trustworthiness
from torch import nn

from labutil import evaluation as ev


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
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, predicted))
    for name, score in ("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score):
        expected = score(y, predicted, labels=present, average="macro", zero_division=0)
        assert got[f"macro_{name}"] == pytest.approx(expected)
    areas = [sk.roc_auc_score(y == k, p[:, k]) for k in present] if len(present) > 1 else [0.5]
    assert got["macro_auc"] == pytest.approx(np.mean(areas))
    assert got["errors"] == (predicted != y).sum()
    assert all(type(v) is float and np.isfinite(v) for v in got.values())


@pytest.mark.filterwarnings("error")
def test_one_image_one_class_and_all_wrong():
    one = ev.classification_metrics([1], [[0.25, 0.75]])
    single = ev.classification_metrics([0, 0, 0], np.ones((3, 1)))
    wrong = ev.classification_metrics([0, 1], [[0, 1], [1, 0]])
    assert (one["accuracy"], one["macro_auc"], one["ece"]) == (1, 0.5, 0.25)
    assert (single["accuracy"], single["macro_auc"], single["ece"]) == (1, 0.5, 0)
    assert list(wrong.values()) == [0, 0, 0, 0, 0, 2, 1]


def test_bfloat16_and_lists_are_accepted():
    y, p = random_case(2, 300, 7)
    low = torch.from_numpy(p).bfloat16()
    assert (low.double().sum(1) - 1).abs().max() > 1e-4  # the rounding that must pass
    got = ev.classification_metrics(torch.from_numpy(y), low)
    assert got == ev.classification_metrics(y.tolist(), low.tolist())
    assert got["macro_auc"] == pytest.approx(ev.classification_metrics(y, p)["macro_auc"], abs=1e-3)


def test_macro_auc_of_200_classes_is_fast_and_right():
    rng = np.random.default_rng(0)
    y, p = np.arange(10_000) % 200, rng.dirichlet(np.ones(200), 10_000)
    started = time.perf_counter()
    got = ev.classification_metrics(y, p)["macro_auc"]
    assert time.perf_counter() - started < 2  # 0.1 s measured
    assert got == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))


HALVES = [[0.5, 0.5]] * 2


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], [[2.0, -1.0], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[3.0, 1.0], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[0.5, 0.5]], "2 rows and probabilities 1"),
        ([0, 2], HALVES, "from 0 to 2, outside 0 to 1"),
        ([0, -1], HALVES, "outside 0 to 1; 1 are -1 (unlabelled)"),
        ([0, -2], HALVES, "outside 0 to 1"),
        ([0.0, 1.0], HALVES, "expected integer labels"),
        ([[0], [1]], HALVES, "expected integer labels"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "NaN"),
        ([0, 1], [0.5, 0.5], "probabilities (N, K), got (2,)"),
        (np.zeros(0, int), np.zeros((0, 2)), "N at least 1"),
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
    confidence, right, ece = p.max(1), p.argmax(1) == y, 0.0
    for m, row in enumerate(table.itertuples(index=False), 1):
        # (lower, upper]: a confidence on an edge belongs to the bin below it
        mine = [i for i in range(len(y)) if (m - 1) / bins < min(confidence[i], 1.0) <= m / bins]
        expected = (confidence[mine].mean(), right[mine].mean()) if mine else (np.nan, np.nan)
        assert tuple(row) == pytest.approx((*expected, len(mine)), nan_ok=True)
        ece += len(mine) / len(y) * abs(row.accuracy - row.confidence) if mine else 0
    assert list(table.columns) == ["confidence", "accuracy", "count"] and len(table) == bins
    assert ev.expected_calibration_error(y, p, bins) == pytest.approx(ece)


def test_confidence_on_a_bin_edge_belongs_below_it_and_rounding_above_1_in_the_last():
    table = ev.calibration([0] * 4, [[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [1.002, 0.0]], bins=5)
    assert table["count"].tolist() == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="bins=0"):
        ev.calibration([0], [[1.0]], bins=0)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_confusion_matrix_equals_scikit_learns(case):
    y, p = case
    got = ev.confusion_matrix(torch.from_numpy(y), p.argmax(1), 9)
    assert got.dtype == np.int64
    assert (got == sk.confusion_matrix(y, p.argmax(1), labels=range(9))).all()
    for y, predicted in ([0, -1], [0, 0]), ([0, 1], [0, 2]), ([0], [0, 1]):
        with pytest.raises(ValueError, match=r"y_(true|pred)"):
            ev.confusion_matrix(y, predicted, 2)


def test_most_confused():
    confusion = np.array([[5, 3, 0], [1, 0, 3], [0, 0, 9]])
    got = ev.most_confused(confusion, 2, ["cat", "dog", "fox"])  # equal counts: the higher rate, 3 of 4, first
    assert got.values.tolist() == [["dog", "fox", 3, 0.75], ["cat", "dog", 3, 0.375]]
    assert ev.most_confused(confusion)[["true", "predicted"]].values.tolist() == [[1, 2], [0, 1], [1, 0]]
    assert (confusion == [[5, 3, 0], [1, 0, 3], [0, 0, 9]]).all()  # not changed
    assert len(ev.most_confused(np.diag([4, 2]))) == 0


def test_roc_curves_and_class_report_equal_scikit_learn():
    y, p = random_case(3, 80, 4, ties=True)
    y[y == 3] = 1
    names = ["a", "b", "c", "d"]
    got, curves = ev.class_report(y, p, names), ev.roc_curves(y, p)
    for k, (fpr, tpr, auc) in curves.items():
        assert np.array_equal(fpr, sk.roc_curve(y == k, p[:, k])[0])
        assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
        assert got.auc.iloc[k] == auc == pytest.approx(sk.auc(fpr, tpr))
    assert list(curves) == [0, 1, 2] and np.isnan(got.auc["d"])
    assert ev.roc_curves([0, 0], HALVES) == {}
    want = sk.precision_recall_fscore_support(y, p.argmax(1), labels=range(4), zero_division=0)
    assert list(got.columns) == ["precision", "recall", "f1", "support", "auc"]
    assert got.iloc[:, :4].to_numpy() == pytest.approx(np.transpose(want))
    assert list(got.index) == names


def members(shape):
    return torch.tensor(np.random.default_rng(0).normal(size=shape) * 2).softmax(2)


@pytest.mark.parametrize("shape", [(5, 40, 4), (1, 7, 3), (2, 30, 2), (4, 25, 2), (7, 20, 10), (3, 0, 3)])
def test_ensembles_equal_slow_loops(shape):
    p = members(shape).numpy()
    _, n, k = shape
    average, voted, apart = (f(p) for f in (ev.average, ev.majority_vote, ev.disagreement))
    assert (average.shape, voted.shape, apart.shape, voted.dtype) == ((n, k), (n,), (n,), np.int64)
    for i in range(n):
        votes, mean = p[:, i].argmax(1).tolist(), sum(p[:, i]) / len(p)
        assert average[i] == pytest.approx(mean)
        assert voted[i] == max(range(k), key=lambda c: (votes.count(c), mean[c]))
        pairs = list(itertools.combinations(votes, 2))
        assert apart[i] == pytest.approx(sum(a != b for a, b in pairs) / len(pairs) if pairs else 0)


def test_ties_go_to_the_more_probable_of_the_tied():
    first = [[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.5, 0.5, 0.0]]
    second = [[0.1, 0.8, 0.1], [0.1, 0.9, 0.0], [0.5, 0.5, 0.0]]
    # One vote each; then exactly equal averages: the first class; then two members that cannot decide.
    assert ev.majority_vote([first, second]).tolist() == [1, 0, 0]
    for kind in (torch.tensor([first, second]), torch.tensor([first, second]).bfloat16(), [np.array(first), second]):
        assert ev.average(kind) == pytest.approx(np.mean([first, second], 0), abs=0.01)
        assert ev.majority_vote(kind).tolist()[1:] == [0, 0]
    # The highest average may belong to a class without a majority, or without a vote: votes count.
    for p, best in (
        ([[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]], 1),
        ([[[0.5, 0.0, 0.45, 0.05]], [[0.0, 0.5, 0.45, 0.05]]], 2),
    ):
        assert ev.majority_vote(np.array(p)).tolist() == [0]
        assert ev.average(p).argmax(1).tolist() == [best]


def test_members_that_are_not_probabilities_are_refused():
    shapes = {f"probabilities (M, N, K), got {shape}": np.zeros(shape) for shape in ((3, 4), (0, 3, 4), (0,))}
    values = {"logits want": members((2, 3, 4)) * 2, "some are NaN": np.full((2, 3, 4), np.nan)}
    for reason, bad in (shapes | values).items():
        for function in ev.average, ev.majority_vote, ev.disagreement:
            with pytest.raises(ValueError, match=f"members: .*{re.escape(reason)}"):
                function(bad)


@pytest.fixture
def net():
    """An encoder and a head with batch norm and dropout: all that training mode would change."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder[1].running_mean.uniform_()
    return nn.Sequential(encoder, nn.Dropout(0.5), nn.Linear(4, 5)).to(ev.get_device())


IMAGES = torch.randint(0, 256, (11, 3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_predict_equals_a_slow_loop_in_any_batch_size(net):
    net.eval()
    with torch.no_grad():
        slow = torch.stack([net(x[None].to(ev.get_device()).float() / 255)[0].cpu() for x in IMAGES])
    net.train()
    for batch_size in (1, 4, 512):
        got = ev.predict(net, IMAGES, batch_size=batch_size, precision="fp32")
        assert got.dtype == torch.float32 and got.device.type == "cpu"
        assert not got.requires_grad and not got.is_inference()  # a probe can train on it
        torch.testing.assert_close(got, slow, rtol=1e-4, atol=1e-5)
    low = ev.predict(net, IMAGES, precision="bf16")
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, slow, rtol=0.05, atol=0.05)


def test_predict_changes_nothing_in_the_model(net):
    net[0].eval()
    before, modes = {k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()]
    ev.predict(net, IMAGES)
    assert modes == [m.training for m in net.modules()] and len(set(modes)) == 2
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    with pytest.raises(RuntimeError):
        ev.predict(net, IMAGES[:, :1])  # the wrong number of channels
    assert modes == [m.training for m in net.modules()]


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


@pytest.mark.filterwarnings("error")
def test_tsne_of_odd_features_is_finite_and_silent():
    normal, one_feature, collapsed = np.random.default_rng(0).normal, np.arange(7.0)[:, None], np.full((9, 4), 3.0)
    for x in normal(size=(5, 3)), normal(size=(8, 6)), one_feature, collapsed, torch.rand(12, 8).bfloat16():
        xy = ev.tsne(x)
        assert xy.shape == (len(x), 2) and np.isfinite(xy).all() and np.array_equal(xy, ev.tsne(x))
    with pytest.raises(ValueError, match="at least 5 points, got 4"):
        ev.tsne(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"features: .* not all are finite"):
        ev.tsne(np.full((9, 3), np.nan))
