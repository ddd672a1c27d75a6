"""Figures: class names on them, labelled axes, no overlapping text, nobody else's style changed, no warning."""

from __future__ import annotations

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

COUNTS = (2, 8, 10, 15, 31, 100, 200)


def make(k, n=400, side=28, channels=1, seed=0):
    """Images, labels, probabilities that are often right, and long class names."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    logits = rng.normal(size=(n, k)) + 2.5 * np.eye(k)[y]
    p = torch.tensor(logits).softmax(1).float()
    images = torch.tensor(rng.integers(0, 256, (n, channels, side, side)), dtype=torch.uint8)
    return images, torch.tensor(y), p, [f"class {i:03d} with a long name" for i in range(k)]


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


def overlaps(figure):
    """Pairs of texts whose boxes overlap by more than a pixel."""
    figure.canvas.draw()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t.get_rotation() % 90 == 0]
    ticks = {id(t) for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    boxes = [(t.get_text(), t.get_window_extent()) for t in shown if t.axes is None or t.axes.axison or id(t) in ticks]
    return [
        (a, b)
        for (a, box_a), (b, box_b) in itertools.combinations(boxes, 2)
        if min(box_a.x1, box_b.x1) - max(box_a.x0, box_b.x0) > 1
        and min(box_a.y1, box_b.y1) - max(box_a.y0, box_b.y0) > 1
    ]


@pytest.mark.parametrize("k", COUNTS)
def test_every_figure_at_every_number_of_classes(k):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in figures(k, side=28 if k < 15 else 96, channels=1 if k < 15 else 3):
            assert not overlaps(figure), (name, overlaps(figure)[:3])
            box = figure.get_tightbbox()
            assert box.width < 11, name  # inches: it fits a notebook's column
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


def test_predictions_mark_right_and_wrong_by_sign_and_colour():
    images, _, _, _ = make(2, n=2)
    figure = plots.predictions(images, [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"], n=2)
    titles = {axes.get_title(): axes.title.get_color() for axes in figure.axes if axes.get_title()}
    assert titles == {"✓ cat\n90%": plots.RIGHT, "✗ cat\n80%; it is\ndog": plots.WRONG}


def test_confused_pairs_show_the_most_confident_first_and_a_perfect_model_says_so():
    images, _, _, _ = make(2, n=3)
    p = [[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]
    figure = plots.confused_pairs(images, [0, 0, 1], p, ["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes][:3] == ["90%", "60%", ""]
    assert figure.axes[0].get_ylabel() == "cat\n→ dog\n2 images, 100%"
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
    assert "a validation" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(plots.curves(history.head(1)).axes) == 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_image_grid_shows_the_pixels_as_they_are(channels, kind):
    images = torch.randint(0, 256, (3, channels, 8, 8), dtype=torch.uint8)
    given = images if kind == "uint8" else images / 255
    figure = plots.image_grid(given, ["a", "b", "c"], columns=2)
    drawn = figure.axes[1].images[0].get_array()
    expected = images[1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(drawn, expected[..., 0] if channels == 1 else expected)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]


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


def test_reading_prints_where_there_is_no_notebook(capsys):
    plots.reading("One sentence.")
    assert capsys.readouterr().out == "One sentence.\n"
