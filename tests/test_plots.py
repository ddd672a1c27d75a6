"""Figures: class names on them, labelled axes, no overlapping text, nobody else's style changed, no warning."""

from __future__ import annotations

import io
import itertools
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from labutil import explore, plots
from labutil.data import cells

COUNTS = (2, 8, 10, 15, 31, 100, 200)


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
    yield "bars", plots.bars(pd.Series(np.linspace(0, 1, min(k, 12)), classes[:12]), xlabel="accuracy")


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def drawn(figure):
    """Every text that is drawn: (text, its four corners in screen pixels, turned with it)."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw

        def spy(self, *args, **kwargs):
            if self.get_visible() and self.get_text().strip():
                seen[id(self)] = self
            return draw(self, *args, **kwargs)

        patch.setattr(Text, "draw", spy)
        figure.canvas.draw()
    found = []
    for text in seen.values():
        box, angle = Text.get_window_extent(text), np.deg2rad(text.get_rotation())
        text.set_rotation(0)
        flat = Text.get_window_extent(text)
        text.set_rotation(np.rad2deg(angle))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [flat.width / 2, flat.height / 2]
        found.append((text, [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] + half @ turn))
    return found


def meet(p, q):
    """Whether two rectangles share more than a pixel (separating axes)."""
    for corners in (p, q):
        for side in (corners[1] - corners[0], corners[2] - corners[1]):
            a, b = p @ side / np.linalg.norm(side), q @ side / np.linalg.norm(side)
            if min(a.max(), b.max()) - max(a.min(), b.min()) <= 1:
                return False
    return True


def faults(figure):
    """Texts that overlap, leave the figure, or are too small to read."""
    found = drawn(figure)
    pairs = itertools.combinations(found, 2)
    bad = [("overlap", a.get_text(), b.get_text()) for (a, p), (b, q) in pairs if meet(p, q)]
    edge = [figure.bbox.width + 1, figure.bbox.height + 1]
    bad += [("outside", t.get_text()) for t, p in found if (p < -1).any() or (p > edge).any()]
    return bad + [("small", t.get_text()) for t, _ in found if t.get_fontsize() < 7]


def kilobytes(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return len(file.getvalue()) / 1024


@pytest.mark.parametrize("k", COUNTS)
def test_every_figure_at_every_number_of_classes(k):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in figures(k, side=28 if k < 15 else 96, channels=1 if k < 15 else 3):
            assert not faults(figure), (name, faults(figure)[:3])
            assert plt.fignum_exists(figure.number)  # a notebook shows it
            box = figure.get_tightbbox()
            assert box.width < 11, name  # inches: it fits a notebook's column
            assert figure.get_dpi() == plots.STYLE["figure.dpi"]
            plt.close(figure)
    assert dict(matplotlib.rcParams) == before


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(Text)]


def test_confusion_is_normalised_by_row_and_named():
    figure = plots.confusion(np.array([[8, 2], [1, 0]]), ["cat", "dog"])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    np.testing.assert_allclose(axes.images[0].get_array(), [[80, 20], [100, 0]])
    assert [t.get_text() for t in axes.texts] == ["80", "20", "100"]


def test_confusion_of_many_classes_shows_the_worst():
    matrix = np.eye(100, dtype=int) * 10
    for i in range(40, 60):
        matrix[i, (i + 1) % 100] = 5
    figure = plots.confusion(matrix, [f"c{i}" for i in range(100)])
    shown = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert len(shown) == 20
    assert set(shown) <= {f"c{i}" for i in range(40, 61)}
    assert "20 of 100" in figure.axes[0].get_title()
    # Rates are of the whole row, also when only part of it is shown.
    assert np.nanmax(figure.axes[0].images[0].get_array()) == pytest.approx(100 * 10 / 15)


def test_confusion_leaves_the_row_of_an_absent_class_blank():
    figure = plots.confusion(np.array([[8, 2], [0, 0]]), ["cat", "dog"])
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array()).tolist() == [[False, False], [True, True]]
    assert [t.get_text() for t in figure.axes[0].texts] == ["80", "20"]


def test_predictions_mark_right_and_wrong_by_sign_and_colour():
    images, _, _, _ = make(2, n=2)
    figure = plots.predictions(images, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"], n=2)
    titles = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert titles == {"✓ cat\n90%": plots.RIGHT, "✗ cat\n80%; it is\ndog": plots.WRONG}


def test_confused_pairs_show_the_most_confident_first_and_a_perfect_model_says_so():
    images, _, _, _ = make(2, n=3)
    p = [[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]
    figure = plots.confused_pairs(images, [0, 0, 1], p, ["cat", "dog"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["90%", "60%", "cat\n→ dog\n2 images, 100%"]
    np.testing.assert_array_equal(first_pixels(figure), images[[1, 0], 0, 0, 0].int() // 8 * 255 // 31)
    perfect = plots.confused_pairs(images, [1, 1, 1], p, ["cat", "dog"])
    assert "no image is classified wrongly" in texts(perfect)


def test_roc_names_the_area_of_every_class():
    figure = plots.roc([0, 0, 1, 1], [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]], ["cat", "dog"])
    labels = [t.get_text() for t in figure.legends[0].get_texts()]
    assert labels == ["macro average, 0.750", "cat, 0.750", "dog, 0.750", "guessing, 0.500"]


def test_curves_of_several_histories():
    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [2.1, 1.2], "val_accuracy": [0.1, 0.5]}
    )
    figure = plots.curves({"a": history, "b": history})
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [4, 2]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["training", "validation", "a", "b"]
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
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["training", "knn"]
    assert "0.01" in texts(figure) and not faults(figure)


def test_curves_of_one_epoch_and_of_nothing():
    figure = plots.curves(HISTORY.head(1))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1"] and not faults(figure)
    with pytest.raises(ValueError, match="loss or accuracy"):
        plots.curves(HISTORY[["epoch", "lr"]])


def test_curves_of_ten_histories_with_long_names_can_be_told_apart():
    figure = plots.curves({f"ResNet-18, batch size 256, lr {i}e-3": HISTORY for i in range(10)})
    assert not faults(figure)
    looks = [(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()[2:]]
    assert len(set(looks)) == 10


def test_bars_draw_each_value_once_and_errors_where_known():
    values = pd.Series([0.2, 0.5, 0.5], ["cnn", "cnn", "resnet"])
    axes = plots.bars(values, std=pd.Series([0.01, np.nan, 0.02]), xlabel="accuracy", chance=0.1).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.5, 0.5]
    assert [t.get_text() for t in axes.texts] == ["0.200 ± 0.010", "0.500", "0.500 ± 0.020"]
    assert [t.get_text() for t in axes.figure.legends[0].get_texts()] == ["chance, 0.100"]


def test_lines_draw_each_column_with_its_band_and_leave_gaps_out():
    table = pd.DataFrame({"probe": [0.2, 0.5, 0.9], "fine-tuned": [np.nan, 0.4, 0.8]}, index=[0.01, 0.1, 1.0])
    figure = plots.lines(table, std=table * 0.1, xlabel="share", ylabel="accuracy", log_x=True, chance=0.1)
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines[:2]] == [
        [[0.01, 0.2], [0.1, 0.5], [1.0, 0.9]],
        [[0.1, 0.4], [1.0, 0.8]],
    ]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(0.18), pytest.approx(0.99))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["probe", "fine-tuned", "chance"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.01", "0.1", "1"] and not faults(figure)


def test_tsne_draws_every_point_and_colours_at_most_20_classes():
    y = np.arange(90) % 30
    y[:5] = -1
    figure = plots.tsne(np.random.default_rng(0).normal(size=(90, 2)), y, [f"c{i}" for i in range(30)])
    pale, *coloured = figure.axes[0].collections
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(names) == len(coloured) == 20 and "20 random classes of 30" in figure.axes[0].get_title()
    assert [len(c.get_offsets()) for c in coloured] == [(y == int(n[1:])).sum() for n in names]
    assert sum(len(c.get_offsets()) for c in (pale, *coloured)) == 90
    looks = {(tuple(c.get_facecolor()[0]), len(c.get_paths()[0].vertices)) for c in coloured}
    assert len(looks) == 20


def test_calibration_has_the_bins_of_the_table():
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35]])
    left, right = plots.calibration([0, 1, 0], p).axes
    assert [bar.get_height() for bar in left.patches][6:] == [1, 0, 0, 0.5]
    assert [bar.get_height() for bar in right.patches][6:] == [1, 0, 0, 2]


def test_class_balance_of_several_sets():
    figure = plots.class_balance({"train": [8, 2], "test": torch.tensor([3, 1])}, ["cat", "dog"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [8, 2, 3, 1]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["cat", "dog"]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["train", "test"] and not faults(figure)


def test_class_samples_come_from_their_class():
    labels = torch.arange(40) % 4
    labels[:4] = -1
    images = (labels * 60).clamp(min=250 * (labels < 0)).to(torch.uint8)[:, None, None, None].expand(40, 1, 8, 8)
    figure = plots.class_samples(images, labels, ["a", "b", "c", "d"], per_class=3)
    assert first_pixels(figure).tolist() == [int(k * 60) // 8 * 255 // 31 for k in range(4) for _ in range(3)]
    assert [t.get_text() for t in figure.axes[0].texts] == ["a", "b", "c", "d"]
    again = plots.class_samples(images, labels, [str(i) for i in range(30)])
    assert again.get_suptitle() == "12 of 30 classes"


@pytest.mark.parametrize("name", ["_background_", "$5 to $10", "W" * 40, "a\\b^2_{"])
def test_odd_class_names(name):
    images, y, p, _ = make(3, n=60)
    classes = [name, "cat", "dog"]
    shown = [
        plots.roc(y, p, classes),
        plots.tsne(np.eye(60)[:, :2], y, classes),
        plots.predictions(images, y, p, classes),
    ]
    shown += [plots.confused_pairs(images, y, p, classes), plots.image_grid(images[:8], [name] * 8)]
    for figure in shown:
        assert not faults(figure), faults(figure)[:3]
    assert [len(figure.legends[0].get_texts()) for figure in shown[:2]] == [5, 3]


def test_the_style_is_given_back_after_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError):
        plots.roc([0, 1], [[2.0, 1.0], [0.5, 0.5]], ["cat", "dog"])
    assert dict(matplotlib.rcParams) == before


def test_figures_of_photographs_stay_small():
    images = torch.from_numpy(cells.generate(64, 0)[0])
    y, p = torch.arange(64) % 8, torch.eye(8)[(torch.arange(64) + torch.arange(64) // 8) % 8]
    classes = [f"class {i}" for i in range(8)]
    assert kilobytes(plots.class_samples(images, y, classes)) < 180
    assert kilobytes(plots.predictions(images, y, p, classes)) < 140
    assert kilobytes(plots.confused_pairs(images, y, p, classes)) < 180


def first_pixels(figure):
    return np.array([image.get_array()[0, 0, 0] for image in figure.axes[0].images])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_image_grid_enlarges_small_images_pixel_by_pixel(channels, kind):
    images = torch.randint(0, 256, (3, channels, 28, 28), dtype=torch.uint8)
    given = images if kind == "uint8" else images / 255
    figure = plots.image_grid(given, ["a", "b", "c"], columns=2, title_colours=["red", "black", "blue"])
    axes = figure.axes[0]
    assert len(axes.images) == 3 and [t.get_text() for t in axes.texts] == ["a", "b", "c"]
    assert [t.get_color() for t in axes.texts] == ["red", "black", "blue"]
    shown = axes.images[1].get_array()
    expected = images[1].permute(1, 2, 0).expand(28, 28, 3).numpy().repeat(3, 0).repeat(3, 1)
    assert np.abs(shown.astype(int) - expected).max() <= 8  # 32 levels
    left, right, bottom, top = axes.images[1].get_extent()
    assert (right - left, bottom - top) == (84, 84)  # screen pixels, the figure's units


def test_image_grid_averages_large_images_and_keeps_their_shape():
    images = torch.full((2, 3, 120, 240), 255, dtype=torch.uint8)
    images[..., ::2] = 0  # stripes that picking pixels would show as black or white
    axes = plots.image_grid(images).axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (38, 76, 3) and shown.min() > 60 and shown.max() < 190


def test_image_grid_refuses():
    with pytest.raises(ValueError, match="C = 1 or 3"):
        plots.image_grid(torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="titles: 1 for 2 images"):
        plots.image_grid(torch.zeros(2, 1, 8, 8), ["a"])


def test_the_explorer_shows_a_static_figure_without_a_front_end(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    plt.close("all")
    images, y, p, classes = make(3, n=60)
    explore.errors(images, y, p, classes, confidence=0.0)
    (number,) = plt.get_fignums()
    wrong = int((p.argmax(1) != y).sum())
    assert plt.figure(number).get_suptitle().startswith(f"{wrong} wrong predictions of all classes")


def test_the_explorer_has_widgets_with_a_front_end(monkeypatch):
    import IPython.display
    import ipywidgets

    shown = []
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
    images, y, p, classes = make(3, n=60)
    explore.errors(images, y, p, classes)
    (box,) = [w for w in shown if isinstance(w, ipywidgets.VBox)]
    dropdown, slider, buttons, _ = box.children
    titles = []
    original = plots.image_grid
    monkeypatch.setattr(plots, "image_grid", lambda *a, **k: titles.append(k["title"]) or original(*a, **k))
    dropdown.value, slider.value, buttons.value = 1, 0.8, "right"
    assert titles[-1].endswith(f"right predictions of {classes[1]} with confidence 0.80 or more")


def static(monkeypatch, draw):
    """The title of the one figure that an explorer shows where nobody can move its widgets."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    plt.close("all")
    draw()
    (number,) = plt.get_fignums()
    return plt.figure(number).get_suptitle()


def test_the_threshold_explorer_counts_recall_and_precision(monkeypatch):
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    found = pd.DataFrame({"index": [4, 0, 2, 1, 5, 3], "score": [9.0, 7.0, 5.0, 3.0, 2.0, 1.0]})
    title = static(monkeypatch, lambda: explore.threshold(images, found, start=4.0, truth=[4, 2, 3, 5]))
    assert title.startswith("3 of 6 images lie above 4.00")
    assert "recall 50.0%, precision 66.7%" in title.replace("\n", " ")
    none = static(monkeypatch, lambda: explore.threshold(images, found, start=20.0, names=list("abcdef")))
    assert none.startswith("0 of 6 images lie above 20.00")


def test_the_pairs_explorer_counts_precision(monkeypatch):
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    found = pd.DataFrame({"index": [4, 3, 2], "reference_index": [1, 0, 1], "score": [0.9, 0.7, 0.2]})
    title = static(monkeypatch, lambda: explore.pairs(images, found, truth=[(1, 4), (5, 0)]))
    assert title.startswith("2 pairs lie above 0.50") and title.endswith("precision 50.0%")
    other = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert "precision" not in static(monkeypatch, lambda: explore.pairs(images, found, reference=other))
    empty = found.head(0)
    assert static(monkeypatch, lambda: explore.pairs(images, found.tail(1), start=0.5)).startswith("0 pairs")
    with pytest.raises(ValueError, match="no pairs"):
        explore.pairs(images, empty)


def test_moving_a_threshold_redraws(monkeypatch):
    import IPython.display
    import ipywidgets

    shown, titles, original = [], [], plots.image_grid
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
    monkeypatch.setattr(plots, "image_grid", lambda *a, **k: titles.append(k["title"]) or original(*a, **k))
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    explore.threshold(images, pd.DataFrame({"index": range(6), "score": [9.0, 7.0, 5.0, 3.0, 2.0, 1.0]}), start=4.0)
    (box,) = [w for w in shown if isinstance(w, ipywidgets.VBox)]
    box.children[0].value = 1.5
    assert titles[0].startswith("3 of 6") and titles[-1].startswith("5 of 6")


def test_bars_print_counts_as_counts():
    figure = plots.bars(pd.Series({"a": 1200, "b": 3}), xlabel="images")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1,200", "3"]
    figure = plots.bars(pd.Series({"a": 0.5}), std=pd.Series({"a": 0.25}))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.500 ± 0.250"]


def test_reading_prints_where_there_is_no_notebook(capsys):
    plots.reading("One sentence.")
    assert capsys.readouterr().out == "One sentence.\n"
