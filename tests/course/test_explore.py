"""Explorers: what they say is what a slow loop counts, and their controls redraw."""

from __future__ import annotations

import math

import matplotlib

matplotlib.use("Agg")

import IPython.display
import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from labutil import explore, plots
from labutil.networks import ConvAutoencoder


@pytest.fixture
def still(monkeypatch):
    """Without a front end: call it, and get the one figure shown."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)

    def show(explorer, *args, **kwargs):
        plt.close("all")
        explorer(*args, **kwargs)
        (number,) = plt.get_fignums()
        return plt.figure(number)

    yield show
    plt.close("all")


@pytest.fixture
def live(monkeypatch):
    """With a front end: call it, and get the controls by name and a list that grows by a title a drawing."""

    def show(explorer, *args, drawn="image_grid", **kwargs):
        shown, titles, original = [], [], getattr(plots, drawn)
        monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
        monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
        monkeypatch.setattr(plots, drawn, lambda *a, **k: titles.append(k.get("title")) or original(*a, **k))
        explorer(*args, **kwargs)
        (box,) = [w for w in shown if isinstance(w, ipywidgets.VBox)]
        return {child.description: child for child in box.children if hasattr(child, "description")}, titles

    return show


def texts(figure):
    return [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]


def pictures(n=12, channels=3, side=16):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_shows_each_image_with_its_views(still, live, channels):
    images = pictures(2, channels)
    figure = still(explore.strength, images, draws=4, start=0.25)
    assert len(figure.axes[0].images) == 2 * 5
    assert figure.get_suptitle() == "strength 0.25"
    assert [t for t in texts(figure) if t] == ["original", "original"]
    controls, titles = live(explore.strength, images, draws=2)
    controls["strength"].value = 1.0
    assert titles == ["strength 0.50", "strength 1.00"]


def test_temperature_weighs_as_the_loss_does(still):
    g = torch.Generator().manual_seed(1)
    z_a, z_b = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g)
    figure = still(explore.temperature, pictures(6), z_a, z_b, anchor=2, start=0.5, n=11)
    z = torch.cat([z_a, z_b])
    weights = {}
    for j in range(12):  # slowly, without the package
        if j != 2:
            cosine = (z[2] @ z[j] / z[2].norm() / z[j].norm()).item()
            weights[j] = (cosine, math.exp(cosine / 0.5))
    total = sum(w for _, w in weights.values())
    best = sorted(weights.values(), reverse=True)
    assert texts(figure) == ["anchor", *(f"cos {c:.2f} {w / total:.1%}" for c, w in best)]
    counted = math.exp(-sum(w / total * math.log(w / total) for _, w in weights.values()))
    title = figure.get_suptitle().replace("\n", " ")
    assert f"as if {counted:.0f} of 11 views counted" in title
    assert f"has {weights[8][1] / total:.1%}" in title
    blue = [t.get_text() for t in figure.axes[0].texts if t.get_color() == plots.RIGHT]
    assert blue == [f"cos {weights[8][0]:.2f}\n{weights[8][1] / total:.1%}"]


def test_temperature_sharpens(live):
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    controls, titles = live(explore.temperature, pictures(20), z, z + 0.1, start=1.0)
    controls["tau"].value = 0.02
    controls["image"].value = 3
    counted = [int(t.split("as if ")[1].split(" ")[0]) for t in titles]
    assert counted[0] > 25 and counted[1] < 5 and len(titles) == 3


def test_neighbours_are_the_nearest(still):
    h = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    y, classes = torch.tensor([0, 0, 1, 1]), ["round", "square"]
    figure = still(explore.neighbours, pictures(4), h, y, classes, k=1, rows=4)
    title = figure.get_suptitle().replace("\n", " ")
    assert title == "queries of all classes: 100% of the neighbours shown share their class"
    assert sorted(texts(figure)) == ["query: round"] * 2 + ["query: square"] * 2 + ["round"] * 2 + ["square"] * 2
    # A query set of its own may find its twin; asked about wrongly, it is told in the other colour.
    queries = (pictures(1), h[:1] * 3, torch.tensor([1]))
    figure = still(explore.neighbours, pictures(4), h, y, classes, queries=queries, k=2)
    assert texts(figure) == ["query: square", "round", "round"]
    assert {t.get_color() for t in figure.axes[0].texts} == {"black", plots.WRONG}
    assert "0% of" in figure.get_suptitle()


def test_neighbours_follow_the_class(live):
    h, y = torch.randn(30, 5, generator=torch.Generator().manual_seed(3)), torch.arange(30) % 3
    controls, titles = live(explore.neighbours, pictures(30), h, y, ["a", "b", "c"])
    controls["class"].value = 2
    controls["draw"].value = 1
    assert titles[0].startswith("queries of all classes") and titles[1].startswith("queries of c")
    assert len(titles) == 3


def test_pairs_of_which_none_is_true(still):
    found = pd.DataFrame({"index": [1], "reference_index": [0], "score": [0.9]})
    assert still(explore.pairs, pictures(2), found, truth=[]).get_suptitle().split()[-2:] == ["precision", "0.0%"]


def test_autoencoders_are_drawn_as_their_controls_say(live, monkeypatch):
    drawn, images = [], pictures(9, 1, 12)
    monkeypatch.setattr(plots, "image_rows", lambda rows, **_: drawn.append(rows) or plt.figure())
    small, large = (ConvAutoencoder(1, (2,), 12, code_size=size) for size in (2, 5))
    controls, _ = live(explore.interpolation, {"two": small}, images, first=3, second=20, steps=4, drawn="image_rows")
    (rows,) = drawn
    assert list(rows) == ["pixels", "two"] and all(len(row) == 4 for row in rows.values())
    torch.testing.assert_close(rows["pixels"][0], images[3] / 255)
    torch.testing.assert_close(rows["pixels"][-1], images[8] / 255)  # there is no image 20
    assert (controls["from"].max, controls["to"].value) == (8, 8)
    controls, _ = live(explore.code_sizes, {5: large, 2: small}, images, n=3, drawn="image_rows")
    assert [len(row) for row in drawn[1].values()] == [3, 3, 3]
    controls["image"].value, controls["code from"].value = 3, 5
    assert list(drawn[-1]) == ["image", "5 numbers"]
    assert torch.equal(drawn[-1]["image"], images[3:6])


def test_image_rows():
    x = torch.rand(4, 1, 8, 8)
    figure = plots.image_rows({"a": x, "b": x.repeat(1, 3, 1, 1)}, titles=list("1234"), title="t")
    assert len(figure.axes[0].images) == 8
    assert [texts(figure).count(t) for t in ("1", "4", "a", "b")] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"\[4, 3\] images"):
        plots.image_rows({"a": x, "b": x[:3]})
    with pytest.raises(ValueError, match="as many"):
        plots.image_rows({"a": x}, titles=["1"])


def test_positives_counts_pairs(still, live):
    labels = torch.tensor([0, 0, 0, 1])
    figure = still(explore.positives, labels, batch_size=4)
    words = [cell.get_title().replace("\n", " ") for cell in figure.axes]
    assert words == ["no labels: 1 to 1 positives, 0 anchors without", "labels: 1 to 5 positives, 0 anchors without"]
    figure = still(explore.positives, labels, batch_size=4, views=1)
    words = [cell.get_title().replace("\n", " ") for cell in figure.axes]
    assert words == ["no labels: 0 to 0 positives, 4 anchors without", "labels: 0 to 2 positives, 1 anchors without"]
    controls, titles = live(explore.positives, labels, batch_size=4, drawn="matrices")
    controls["views"].value = 1
    assert titles[-1].startswith("4 images, 1 view each")
