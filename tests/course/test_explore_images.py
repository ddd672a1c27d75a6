"""Explorers that show images: what their titles say is what a count gives, and their controls redraw."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from labutil import explore, plots


def make(k, n=400, side=28, channels=1, seed=0):
    """Images, labels, probabilities that are often right, and long class names."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    logits = rng.normal(size=(n, k)) + 2.5 * np.eye(k)[y]
    p = torch.tensor(logits).softmax(1).float()
    images = torch.tensor(rng.integers(0, 256, (n, channels, side, side)), dtype=torch.uint8)
    return images, torch.tensor(y), p, [f"class {i:03d} with a long name" if i % 3 else f"c{i}" for i in range(k)]


def images(n=5, channels=3, side=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def texts(figure):
    return [t.get_text() for t in figure.axes[0].texts if t.get_text()]


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


def last_title():
    (number,) = plt.get_fignums()
    return plt.figure(number).get_suptitle().replace("\n", " ")


def test_the_corruption_explorer_judges_a_sample(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    x = torch.zeros(40, 1, 16, 16, dtype=torch.uint8)
    y = torch.arange(40) % 2
    x[y == 1] = 200
    calls = []

    def predict(images):
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 16, 16)
        calls.append(images)
        bright = (images.float().mean((1, 2, 3)) > 40).float()
        return torch.stack([1 - bright, bright], 1)

    explore.corruptions(x, predict, y, ["dark", "bright"], severity=0)
    assert last_title() == "no corruption: accuracy 100.0% of 40 images, 100.0% as they are"
    assert len(calls) == 1
    plt.close("all")
    explore.corruptions(x, predict, y, ["dark", "bright"], kind="contrast", severity=5, judged=20, n=4)
    assert last_title().startswith("contrast, severity 5: accuracy 100.0% of 20 images")
    figure = plt.figure(plt.get_fignums()[0])
    assert len(figure.axes[0].images) == 4 and all(t.startswith("✓") for t in texts(figure))
    plt.close("all")
    explore.corruptions(x, lambda images: 1 - predict(images), y, ["dark", "bright"], kind="noise", severity=2)
    assert last_title().startswith("noise, severity 2: accuracy 0.0%")
    figure = plt.figure(plt.get_fignums()[0])
    assert {t.get_color() for t in figure.axes[0].texts} == {plots.WRONG}
    assert any("it is" in t for t in texts(figure))


def test_the_heat_map_explorer_filters(monkeypatch):
    import IPython.display
    import ipywidgets

    shown, titles, original = [], [], plots.heat_maps
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
    monkeypatch.setattr(plots, "heat_maps", lambda *a, **k: titles.append(k["title"]) or original(*a, **k))
    x, maps = images(10), torch.rand(10, 32, 32)
    y_true = torch.arange(10) % 2
    y_pred = torch.zeros(10, dtype=torch.int64)
    explore.heat_maps(x, maps, y_true, y_pred, ["a", "b"], n=4)
    (box,) = [w for w in shown if isinstance(w, ipywidgets.VBox)]
    true_class, show, page = box.children[:3]
    assert titles[-1] == "10 images of all classes, page 1 of 3"
    page.value = 3
    assert titles[-1].endswith("page 3 of 3")
    show.value = "wrong"
    assert titles[-1] == "5 wrong predictions of all classes, page 2 of 2"
    true_class.value = 0  # class a is always right: nothing to show, and no error
    assert titles[-1] == "0 wrong predictions of a, page 1 of 1"
    show.value = "right"
    assert titles[-1] == "5 right predictions of a, page 2 of 2"
