"""Figures: class names on them, labelled axes, no overlapping text, nobody else's style changed, no warning."""

from __future__ import annotations

import itertools
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.path import Path
from matplotlib.text import Text

from labutil import evaluation, plots, style


def make(k, n=400, side=28, channels=1, seed=0):
    """Images, labels, probabilities that are often right, and long class names."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    logits = rng.normal(size=(n, k)) + 2.5 * np.eye(k)[y]
    p = torch.tensor(logits).softmax(1).float()
    images = torch.tensor(rng.integers(0, 256, (n, channels, side, side)), dtype=torch.uint8)
    return images, torch.tensor(y), p, [f"class {i:03d} with a long name" if i % 3 else f"c{i}" for i in range(k)]


def figures(k, **kwargs):
    images, y, p, classes = make(k, **kwargs)
    matrix = np.zeros((k, k), int)
    np.add.at(matrix, (y.numpy(), p.argmax(1).numpy()), 1)
    xy = np.random.default_rng(0).normal(size=(len(y), 2))
    yield "class_samples", plots.class_samples(images, y, classes)
    yield "class_balance", plots.class_balance(np.bincount(y, minlength=k), classes)
    yield "confusion", plots.confusion(matrix, classes)
    yield "roc", plots.roc(y, p, classes)
    yield "tsne", plots.tsne(xy, y, classes)
    yield "calibration", plots.calibration(y, p)
    yield "confused_pairs", plots.confused_pairs(images, y, p, classes)
    yield "predictions", plots.predictions(images, y, p, classes)
    values = pd.Series(np.linspace(0.8, 0.9, min(k, 12)), classes[:12])
    for draw in plots.bars, plots.dots:
        yield draw.__name__, draw(values, std=values * 0.01, xlabel="accuracy")
    yield "matrices", plots.matrices({name: np.eye(3) for name in classes[:7]}, label="a label", title="a title")


def drawn(figure):
    """Every text that is drawn: (text, the corners of its box, half a pixel inside)."""
    seen, draw = {}, Text.draw  # an axis has texts that it does not draw

    def spy(self, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            seen[id(self)] = self
        return draw(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", spy)
        figure.canvas.draw()
    found = []
    for text in seen.values():
        box, angle = Text.get_window_extent(text), np.deg2rad(text.get_rotation())
        text.set_rotation(0)
        flat = Text.get_window_extent(text)
        text.set_rotation(np.rad2deg(angle))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) * [flat.width / 2 - 0.5, flat.height / 2 - 0.5]
        found.append((text, [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] + half @ turn))
    return found


def faults(figure):
    """Texts that overlap, leave the figure, or are too small to read."""
    found = drawn(figure)
    pairs = itertools.combinations(found, 2)
    bad = [("overlap", a.get_text(), b.get_text()) for (a, p), (b, q) in pairs if Path(p).intersects_path(Path(q))]
    edge = [figure.bbox.width + 1, figure.bbox.height + 1]
    bad += [("outside", t.get_text()) for t, p in found if (p < -1).any() or (p > edge).any()]
    return bad + [("small", t.get_text()) for t, _ in found if t.get_fontsize() < 12]


@pytest.mark.parametrize("k", [2, 8, 15, 20, 31, 200])
def test_every_figure_at_every_number_of_classes(k):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in figures(k, side=28 if k < 15 else 96, channels=1 if k < 15 else 3):
            assert not faults(figure), (name, faults(figure)[:3])
            assert plt.fignum_exists(figure.number)  # a notebook shows it
            box = figure.get_tightbbox()
            assert box.width * 96 < 780, name  # pixels: text of 16 is more than 8 on a phone 390 wide
            assert figure.get_dpi() == 96
            plt.close(figure)
    assert dict(matplotlib.rcParams) == before


def words(texts):
    return [text.get_text() for text in texts]


def legend(figure):
    return words(figure.legends[0].get_texts())


def test_confusion_is_normalised_by_row_and_leaves_an_absent_class_blank():
    axes = plots.confusion(np.array([[8, 2, 0], [1, 0, 0], [0, 0, 0]]), ["cat", "dog", "fox"]).axes[0]
    assert words(axes.get_yticklabels()) == words(axes.get_xticklabels()) == ["cat", "dog", "fox"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    rates = axes.collections[0].get_array()
    np.testing.assert_allclose(rates[:2], [[80, 20, 0], [100, 0, 0]])
    assert np.ma.getmaskarray(rates).tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert [word for word in words(axes.texts) if word] == ["80", "20", "100"]


def test_confusion_of_many_classes_shows_the_worst():
    matrix = np.eye(100, dtype=int) * 10
    for i in range(40, 60):
        matrix[i, (i + 1) % 100] = 5
    axes = plots.confusion(matrix, [f"c{i}" for i in range(100)]).axes[0]
    shown = words(axes.get_yticklabels())
    assert len(shown) == 20 and set(shown) <= {f"c{i}" for i in range(40, 61)}
    assert "20 of 100" in axes.get_title()
    # Rates are of the whole row, also when only part of it is shown.
    assert np.nanmax(axes.collections[0].get_array()) == pytest.approx(100 * 10 / 15)


def test_roc_names_the_area_of_every_class():
    figure = plots.roc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], ["cat", "dog"])
    assert legend(figure) == ["macro average, 0.750", "cat, 0.750", "dog, 0.750", "guessing, 0.500"]
    assert figure.axes[0].get_xlim()[1] == 1


def test_roc_of_good_predictions_is_drawn_as_large_as_its_worst_curve_allows():
    y, score = np.arange(200) % 2, np.arange(200) % 2 + 0.0
    score[:16] = np.tile([1.0, 0.0], 8)  # of each class 8 of 100 are taken for the other: the curve bends at 0.08
    figure = plots.roc(y, np.stack([1 - score, score], 1), ["cat", "dog"])
    axes = figure.axes[0]
    assert (axes.get_xlim()[1], axes.get_ylim()[0]) == (0.2, 0.8)
    assert all((line.get_xdata() < 0.2).any() and (line.get_ydata() > 0.8).any() for line in axes.lines)
    assert legend(figure)[1:] == ["cat, 0.920", "dog, 0.920"]


def test_roc_curves_of_like_colours_differ_by_their_dashes():
    _, y, p, classes = make(10)
    lines = [line for line in plots.roc(y, p, classes).axes[0].lines if line.get_label()[0] == "c"]
    assert [line.get_linestyle() for line in lines] == ["-"] * 6 + ["-."] * 2 + ["--"] * 2


def test_calibration_says_what_its_dots_and_bars_are():
    _, y, p, _ = make(4)
    wanted = ["as right as confident", "mean confidence and accuracy", "a bin's accuracy"]
    assert legend(plots.calibration(y, p)) == wanted


def test_curves_of_several_histories():
    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [2.1, 1.2], "val_accuracy": [0.1, 0.5]}
    )
    figure = plots.curves({"a": history, "b": history})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 2]
    assert legend(figure) == ["training", "validation", "a", "b"]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[0.1, 0.5]] * 2
    assert {(line.get_linestyle(), line.get_color()) for line in figure.axes[0].lines} == {
        (style, colour) for style in ("--", "-") for colour in plots.COLOURS[:2]
    }


HISTORY = pd.DataFrame(
    {"epoch": [1, 2, 3], "lr": [1e-2, 1e-3, 1e-4], "train_loss": [3.0, 2.0, 1.0], "seconds": [2.0, 2.0, 2.0]}
    | {"knn_accuracy": [0.1, np.nan, 0.3], "images_per_second": [9.0, 9.0, 9.0]}
)


def test_curves_of_other_columns_over_time_with_the_learning_rate():
    figure = plots.curves(HISTORY, x="seconds", lr=True)
    loss, accuracy, lr = figure.axes
    assert [a.get_ylabel() for a in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert {a.get_xlabel() for a in figure.axes} == {"training time (s)"}
    assert loss.lines[0].get_xydata().tolist() == [[2, 3], [4, 2], [6, 1]]
    assert accuracy.lines[0].get_xydata().tolist() == [[2, 0.1], [6, 0.3]]  # measured every second epoch
    assert (lr.lines[0].get_ydata().tolist(), lr.get_yscale()) == ([1e-2, 1e-3, 1e-4], "log")
    assert legend(figure) == ["training", "knn"]
    assert "0.01" in words(lr.get_yticklabels()) and not faults(figure)


def test_curves_of_steps_have_no_empty_name_in_the_legend():
    steps = pd.DataFrame({"step": [1, 2], "loss": [4.0, 3.0], "spread": [0.8, 0.9]})
    figure = plots.curves({"SimCLR": steps, "without predictor": steps}, x="step")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "spread"]
    assert legend(figure) == ["SimCLR", "without predictor"] and not faults(figure)


def test_curves_of_one_epoch_of_nothing_and_of_ten_long_names():
    figure = plots.curves(HISTORY.head(1))
    assert words(t for t, _ in drawn(figure) if t in figure.axes[0].get_xticklabels()) == ["1"] and not faults(figure)
    with pytest.raises(ValueError, match="loss or accuracy"):
        plots.curves(HISTORY[["epoch", "lr"]], lr=True)
    figure = plots.curves({f"ResNet-18, batch size 256, lr {i}e-3": HISTORY for i in range(10)})
    looks = {(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()[2:]}
    assert len(looks) == 10 and not faults(figure)


def test_bars_draw_each_value_once_errors_where_known_and_counts_as_counts():
    values = pd.Series([0.2, 0.5, 0.5], ["cnn", "cnn", "resnet"])
    axes = plots.bars(values, std=pd.Series([0.01, np.nan, 0.02]), xlabel="accuracy").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.5, 0.5]
    assert words(axes.texts) == ["0.200 ± 0.010", "0.500", "0.500 ± 0.020"]
    assert words(plots.bars(pd.Series({"a": 1200, "b": 3}), xlabel="images").axes[0].texts) == ["1,200", "3"]


def test_lines_draw_each_column_with_its_band_and_leave_gaps_out():
    table = pd.DataFrame({"probe": [0.2, 0.5, 0.9], "fine-tuned": [np.nan, 0.4, 0.8]}, index=[0.01, 0.1, 1.0])
    figure = plots.lines(table, std=table * 0.1, xlabel="share", ylabel="accuracy", log_x=True, chance=0.1)
    (axes,) = figure.axes
    probe, tuned = (line.get_xydata() for line in axes.lines[:2])
    np.testing.assert_allclose(probe, [[0.01, 0.2], [0.1, 0.5], [1.0, 0.9]])
    np.testing.assert_allclose(tuned, [[0.1, 0.4], [1.0, 0.8]])
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(0.18), pytest.approx(0.99))
    assert legend(figure) == ["probe", "fine-tuned", "chance"]
    assert words(axes.get_xticklabels()) == ["0.01", "0.1", "1"] and not faults(figure)


def test_lines_of_one_method_share_its_colour_and_all_but_the_first_are_dashed():
    names = ["SimCLR, 4,320 images", "SimCLR, 24,320 images", "supervised"]
    axes = plots.lines(pd.DataFrame(1.0, index=[1, 10], columns=names)).axes[0]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()
    assert [line.get_linestyle() for line in axes.lines[:3]] == ["-", "--", "-"]


def test_tsne_draws_every_point_and_colours_at_most_20_classes():
    y = np.arange(90) % 30
    y[:5] = -1
    figure = plots.tsne(np.random.default_rng(0).normal(size=(90, 2)), y, [f"c{i}" for i in range(30)])
    pale, *coloured = figure.axes[0].collections
    names = legend(figure)
    assert len(names) == len(coloured) == 20 and "20 random classes of 30" in figure.axes[0].get_title()
    assert [len(c.get_offsets()) for c in coloured] == [(y == int(n[1:])).sum() for n in names]
    assert sum(len(c.get_offsets()) for c in (pale, *coloured)) == 90
    looks = {(*c.get_facecolor()[0], *c.get_paths()[0].vertices.ravel()) for c in coloured}
    assert len(looks) == 20


def test_calibration_has_the_bins_of_the_table():
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35]])
    left, right = plots.calibration([0, 1, 0], p).axes
    assert [bar.get_height() for bar in left.patches][6:] == [1, 0, 0, 0.5]
    assert [bar.get_height() for bar in right.patches][6:] == [1, 0, 0, 2]


def test_a_map_of_features_has_a_title_and_too_few_give_none(capsys):
    h, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    figure = plots.feature_map(h, y, ["cat", "dog"], seed=1, title="random weights")
    expected = plots.tsne(evaluation.tsne(h, seed=1), y, ["cat", "dog"])
    for a, b in zip(figure.axes[0].collections, expected.axes[0].collections, strict=True):
        np.testing.assert_array_equal(a.get_offsets(), b.get_offsets())
    assert figure.axes[0].get_title() == "random weights" and legend(figure) == ["cat", "dog"]
    assert capsys.readouterr().out == ""
    assert plots.feature_map(h[:4], y[:4], ["cat", "dog"]) is None
    assert capsys.readouterr().out == "fewer than 5 images: no map\n"


@pytest.mark.parametrize("name", ["_background_", "$5 to $10", "W" * 40, "a\\b^2_{"])
def test_odd_class_names(name):
    images, y, p, _ = make(3, n=60)
    classes = [name, "cat", "dog"]
    shown = [plots.roc(y, p, classes), plots.tsne(np.eye(60)[:, :2], y, classes)]
    shown += [draw(images, y, p, classes) for draw in (plots.predictions, plots.confused_pairs)]
    shown += [plots.image_grid(images[:8], [name] * 8)]
    for figure in shown:
        assert not faults(figure), faults(figure)[:3]
    assert [len(legend(figure)) for figure in shown[:2]] == [4, 3]


def test_dots_lie_on_an_axis_that_fits_them():
    values, std = pd.Series({"SupCon": 0.86, "mine": 0.84, "SimCLR": 0.85}), pd.Series([0.01, np.nan, 0.01])
    axes = plots.dots(values, std=std.set_axis(values.index), chance=0.125).axes[0]
    spans, points = axes.collections
    np.testing.assert_allclose([s[:, 0] for s in spans.get_segments()], [[0.85, 0.87], [0.84] * 2, [0.84, 0.86]])
    assert points.get_offsets()[:, 0].tolist() == values.tolist()
    assert words(axes.texts) == ["0.860 ± 0.010", "0.840", "0.850 ± 0.010"]
    colours = [matplotlib.colors.to_hex(c).upper() for c in points.get_facecolor()]
    assert colours == [style.METHODS["SupCon"], plots.COLOURS[0], style.METHODS["SimCLR"]]
    assert axes.get_xlim()[0] > 0.83 and axes.get_xlim()[1] < 0.88
    assert legend(axes.figure) == ["chance, 0.125, beyond the axis"]
    assert np.isnan(axes.get_lines()[0].get_xdata()).all()
    gains = plots.dots(pd.Series([-0.01, 0.02], ["a", "b"]), zero="no gain")
    assert legend(gains) == ["no gain"] and gains.axes[0].lines[0].get_xdata() == [0, 0]
    near = plots.dots(values, chance=0.83)
    assert near.axes[0].get_lines()[0].get_xdata() == [0.83, 0.83] and not faults(near)


def test_matrices_share_their_colours():
    figure = plots.matrices({"a": np.eye(4), "b": torch.full((2, 4), torch.nan)}, label="correlation")
    a, b, bar = figure.axes
    assert [a.get_title(), b.get_title(), bar.get_xlabel()] == ["a", "b", "correlation"]
    np.testing.assert_array_equal(a.collections[0].get_array(), np.eye(4))
    assert np.ma.getmaskarray(b.collections[0].get_array()).all()
    assert a.collections[0].get_clim() == b.collections[0].get_clim() == (-1, 1)
    assert min(a.collections[0].cmap(0.5)[:3]) > 0.9  # nothing is white
    assert len(plots.matrices({"mask": [[np.nan, 1.0]]}, limits=(0, 1)).axes) == 1
