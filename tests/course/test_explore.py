"""Explorers: what they say is what a slow loop counts, and their controls redraw."""

from __future__ import annotations

import datetime
import io
import math
from types import SimpleNamespace

import IPython
import IPython.display
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from labutil import explore, plots
from labutil.data import cells
from labutil.networks import ConvAutoencoder


@pytest.fixture
def still(monkeypatch):
    """Without a front end: call it, and get the one figure shown."""

    def show(explorer, *args, **kwargs):
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
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
        return {getattr(child, "description", type(child).__name__): child for child in box.children}, titles

    return show


def texts(figure):
    return [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def corners(figure):
    """The first pixel of each image."""
    return [image.get_array()[0, 0].tolist() for image in figure.axes[0].images]


def pictures(n=12, channels=3, side=16):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=g)


@pytest.mark.parametrize("channels", [1, 3])
def test_strength_shows_each_image_with_its_views(still, live, channels):
    images = pictures(2, channels)
    figure = still(explore.strength, images, start=0.25)
    assert len(figure.axes[0].images) == 2 * 9
    assert figure.get_suptitle() == "strength 0.25"
    assert [t for t in texts(figure) if t] == ["original", "original"]
    controls, titles = live(explore.strength, images)
    controls["strength"].value = 1.0
    assert titles == ["strength 0.50", "strength 1.00"]


def test_temperature_weighs_as_the_loss_does(still):
    g = torch.Generator().manual_seed(1)
    z_a, z_b = torch.randn(6, 4, generator=g), torch.randn(6, 4, generator=g)
    figure = still(explore.temperature, pictures(6), z_a, z_b, start=0.5)
    z = torch.cat([z_a, z_b])
    weights = {}
    for j in range(12):  # slowly, without the package
        if j != 0:
            cosine = (z[0] @ z[j] / z[0].norm() / z[j].norm()).item()
            weights[j] = (cosine, math.exp(cosine / 0.5))
    total = sum(w for _, w in weights.values())
    best = sorted(weights.values(), reverse=True)
    assert texts(figure) == ["anchor", *(f"cos {c:.2f} {w / total:.1%}" for c, w in best)]
    counted = math.exp(-sum(w / total * math.log(w / total) for _, w in weights.values()))
    assert f"as if {counted:.0f} of 11 views counted" in title(figure)
    assert f"has {weights[6][1] / total:.1%}" in title(figure)
    blue = [t.get_text() for t in figure.axes[0].texts if t.get_color() == plots.RIGHT]
    assert blue == [f"cos {weights[6][0]:.2f}\n{weights[6][1] / total:.1%}"]


def test_temperature_sharpens(live):
    z = torch.randn(20, 8, generator=torch.Generator().manual_seed(2))
    controls, titles = live(explore.temperature, pictures(20), z, z + 0.1, start=1.0)
    controls["tau"].value = 0.02
    controls["image"].value = 3
    counted = [int(t.split("as if ")[1].split(" ")[0]) for t in titles]
    assert counted[0] > 25 and counted[1] < 5 and len(titles) == 3


def test_neighbours_are_the_nearest(still):
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(8, 0) + 0.1 * torch.eye(16, 2)
    y, classes = torch.arange(16) // 8, ["round", "square"]
    figure = still(explore.neighbours, pictures(16), h, y, classes)
    assert title(figure) == "queries of all classes: 100% of the neighbours shown share their class"
    rows = np.array(texts(figure)).reshape(4, 6).tolist()  # each of its class, without itself
    assert all(row == [f"query: {row[1]}"] + [row[1]] * 5 for row in rows)
    # A query set of its own may find its twin; asked about wrongly, it is told in the other colour.
    queries = (pictures(1), h[:1] * 3, torch.tensor([1]))
    figure = still(explore.neighbours, pictures(16), h, y, classes, queries=queries)
    assert texts(figure) == ["query: square", *["round"] * 5]
    assert {t.get_color() for t in figure.axes[0].texts} == {"black", plots.WRONG}
    assert "0% of" in figure.get_suptitle()


def test_neighbours_follow_the_class(live):
    h, y = torch.randn(30, 5, generator=torch.Generator().manual_seed(3)), torch.arange(30) % 3
    controls, titles = live(explore.neighbours, pictures(30), h, y, ["a", "b", "c"])
    controls["class"].value = 2
    controls["draw"].value = 1
    assert titles[0].startswith("queries of all classes") and titles[1].startswith("queries of c")
    assert len(titles) == 3


def test_autoencoders_are_drawn_as_their_controls_say(live, monkeypatch):
    drawn, images = [], pictures(18, 1, 12)
    monkeypatch.setattr(plots, "image_rows", lambda rows, **_: drawn.append(rows) or plt.figure())
    small, large = (ConvAutoencoder(1, (2,), 12, code_size=size) for size in (2, 5))
    controls, _ = live(explore.interpolation, {"two": small}, images, first=3, second=20, drawn="image_rows")
    (rows,) = drawn
    assert list(rows) == ["pixels", "two"] and all(len(row) == 8 for row in rows.values())
    ends = torch.stack([images[3], images[17]]) / 255  # there is no image 20
    torch.testing.assert_close(rows["pixels"][[0, -1]], ends)
    assert small.training
    codes = torch.stack([torch.lerp(*small.eval().encode(ends), k / 7) for k in range(8)])
    torch.testing.assert_close(rows["two"], small.decode(codes).sigmoid())
    assert (controls["from"].max, controls["to"].value) == (17, 17)
    controls, _ = live(explore.code_sizes, {5: large, 2: small}, images, drawn="image_rows")
    assert [len(row) for row in drawn[1].values()] == [8, 8, 8]
    controls["image"].value, controls["code from"].value = 8, 5
    assert list(drawn[-1]) == ["image", "5 numbers"]
    assert torch.equal(drawn[-1]["image"], images[8:16])


def test_positives_counts_pairs(still, live, monkeypatch):
    labels = torch.tensor([0, 0, 0, 1])
    figure = still(explore.positives, labels, batch_size=4)
    words = [cell.get_title().replace("\n", " ") for cell in figure.axes]
    assert words == ["no labels; positives of a view: 1", "labels; positives of a view: 1 to 5"]
    plt.close("all")
    controls, titles = live(explore.positives, labels, batch_size=4, drawn="matrices")
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    controls["views"].value = 1
    words = [cell.get_title().replace("\n", " ") for cell in kept[-1].axes]
    assert words == ["no labels; positives of a view: 0", "labels; positives of a view: 0 to 2"]
    assert titles[-1].startswith("4 images, 1 view each")


def test_errors_are_counted_as_their_controls_say(still, live):
    y = torch.arange(60) % 3
    p = (torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3)[y]).softmax(1)
    args = pictures(60), y, p, ["a", "b", "c"]
    wrong = int(((p.argmax(1) != y) & (p.max(1).values >= 0.5)).sum())
    assert title(still(explore.errors, *args)).startswith(f"{wrong} wrong predictions of all classes")
    controls, titles = live(explore.errors, *args)
    controls["true class"].value, controls["confidence"].value, controls["show"].value = 1, 0.8, "right"
    right = int(((p.argmax(1) == 1) & (y == 1) & (p.max(1).values >= 0.8)).sum())
    assert titles[-1] == f"{right} right predictions of b with confidence 0.80 or more"


def test_the_threshold_counts_recall_and_precision(still, live):
    found = pd.DataFrame({"index": [4, 0, 2, 1, 5, 3], "score": [9.0, 7.0, 5.0, 3.0, 2.0, 1.0]})
    said = title(still(explore.threshold, pictures(6), found, start=4.0, truth=[4, 2, 3, 5]))
    assert said.startswith("3 of 6 images lie above 4.00") and "recall 50.0%, precision 66.7%" in said
    none = still(explore.threshold, pictures(6), found, start=20.0, names=list("abcdef"))
    assert title(none).startswith("0 of 6 images lie above 20.00")
    controls, titles = live(explore.threshold, pictures(6), found, start=4.0)
    controls["threshold"].value = 1.5
    assert titles[0].startswith("3 of 6") and titles[-1].startswith("5 of 6")


def test_pairs_count_precision(still):
    found = pd.DataFrame({"index": [4, 3, 2], "reference_index": [1, 0, 1], "score": [0.9, 0.7, 0.2]})
    said = title(still(explore.pairs, pictures(6), found, truth=[(1, 4), (5, 0)]))
    assert said.startswith("2 pairs lie above 0.50") and said.endswith("precision 50.0%")
    assert title(still(explore.pairs, pictures(6), found, truth=[])).endswith("precision 0.0%")
    assert "precision" not in title(still(explore.pairs, pictures(6), found))
    assert title(still(explore.pairs, pictures(6), found.tail(1), start=0.5)).startswith("0 pairs")
    with pytest.raises(ValueError, match="no pairs"):
        explore.pairs(pictures(6), found.head(0))


def test_corruptions_judge_a_sample_once(still, live):
    y, calls = torch.arange(400) % 2, []
    x = (y * 200).to(torch.uint8)[:, None, None, None].repeat(1, 1, 16, 16)

    def predict(images):
        assert images.dtype == torch.uint8 and images.shape == (300, 1, 16, 16)
        calls.append(images)
        bright = (images.float().mean((1, 2, 3)) > 40).float()
        return torch.stack([1 - bright, bright], 1)

    controls, titles = live(explore.corruptions, x, predict, y, ["dark", "bright"])
    controls["corruption"].value = "contrast"
    controls["severity"].value = 0
    controls["corruption"].value = "noise"
    whats = ["noise, severity 3", "contrast, severity 3", "no corruption", "no corruption"]
    assert titles == [f"{what}: accuracy 100.0% of 300 images, 100.0% as they are" for what in whats]
    assert len(calls) == 3  # as they are, and twice corrupted
    figure = still(explore.corruptions, x, lambda images: 1 - predict(images), y, ["dark", "bright"])
    assert title(figure).startswith("noise, severity 3: accuracy 0.0%") and len(texts(figure)) == 12
    assert {t.get_color() for t in figure.axes[0].texts} == {plots.WRONG}
    assert all(text.startswith("✗") and "it is" in text for text in texts(figure))


def test_heat_maps_are_filtered_and_paged(live):
    args = pictures(16), torch.rand(16, 16, 16), torch.arange(16) % 2, torch.zeros(16, dtype=torch.int64), ["a", "b"]
    controls, titles = live(explore.heat_maps, *args, drawn="heat_maps")
    controls["page"].value = 3
    controls["show"].value = "wrong"
    controls["true class"].value = 0  # class a is always right: nothing to show, and no error
    controls["show"].value = "right"
    assert titles == [
        "16 images of all classes, page 1 of 3",
        "16 images of all classes, page 3 of 3",
        "8 wrong predictions of all classes, page 2 of 2",
        "0 wrong predictions of a, page 1 of 1",
        "8 right predictions of a, page 2 of 2",
    ]


def test_confusions_show_the_images_of_a_cell(still, live):
    images, y = pictures(6), [0, 0, 0, 1, 1, 2]
    p, q = (np.eye(3)[votes] for votes in ([0, 1, 1, 1, 0, 2], [0, 0, 1, 1, 1, 2]))
    args = images, y, {"a": p, "b": q}, ["x", "y", "z"]
    figure = still(explore.confusions, *args)
    assert title(figure) == "a: 2 images of x that it calls y"  # its commonest mistake
    assert texts(figure) == ["100% right: 1 of 1", "100% right: 0 of 1"]
    assert corners(figure) == images[[1, 2], :, 0, 0].tolist()
    controls, titles = live(explore.confusions, *args)
    buttons = [child for child in controls["GridBox"].children if isinstance(child, ipywidgets.Button)]
    assert [button.description for button in buttons] == list("120110001")
    buttons[3].click()
    assert titles[-1] == "a: 1 images of y that it calls x"
    controls["method"].value = "b"
    assert [button.description for button in buttons] == list("210020001")


def test_encoders_show_the_neighbours_of_a_point(still):
    images, y, rng = pictures(9), [0, 0, 0, 1, 1, 2, 0, 1, 2], np.random.default_rng(0)
    features = {"a": rng.random((9, 5)), "b": rng.random((9, 4))}
    figure = still(explore.encoders, images, features, y, ["x", "y", "z"])
    shown = []
    for h in features.values():
        cosine = (h @ h[0]) / np.linalg.norm(h, axis=1)
        shown += [0, *[i for i in np.argsort(-cosine) if i][:5]]
    assert corners(figure) == images[shown, :, 0, 0].tolist()
    said = [f"{'✓' if y[i] == y[0] else '✗'}\u202f{'xyz'[y[i]]}" for i in shown]
    assert texts(figure) == [{0: "a", 6: "b"}.get(place, said[place]) for place in range(len(shown))]
    for place, (i, text) in enumerate(zip(shown, figure.axes[0].texts, strict=True)):
        assert text.get_color() == (plots.RIGHT if y[i] == 0 else plots.WRONG) or place % 6 == 0


def test_in_a_notebook_a_figure_says_what_it_shows(monkeypatch):
    said = []
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(user_ns={}))
    monkeypatch.setattr(plots, "show", lambda figure, name, alt: said.append(alt))
    found = pd.DataFrame({"index": [2, 0, 1], "score": [5.0, 3.0, 1.0]})
    explore.threshold(pictures(3), found, start=4.0)
    assert said[0].startswith("Two rows of pictures in order of their scores, ")
    assert "1 of 3 images lie above 4.00" in said[0]
    explore.threshold(pictures(3), found, start=4.0, truth=[2])
    assert said[1].replace("\n", " ").endswith("black: the next; recall 100.0%, precision 100.0%.")
    plt.close("all")


def test_reset_goes_back_with_one_picture(live):
    controls, titles = live(explore.corruptions, pictures(6), lambda x: torch.eye(2)[torch.zeros(len(x)).long()],
                            torch.zeros(6).long(), ["a", "b"])  # fmt: skip
    controls["severity"].value, controls["corruption"].value = 5, "blur"
    drawn = len(titles)
    controls["reset"].click()
    assert (controls["severity"].value, controls["corruption"].value) == (3, "noise")
    assert len(titles) == drawn + 1 and titles[-1] == titles[0]
    assert controls[""].value.startswith('<img alt="Images after a corruption')


def test_stain_asks_about_cells_of_no_split_and_only_of_cells(still, live, capsys):
    seen = []

    def predict(x):
        seen.append(x)
        return torch.eye(8)[torch.zeros(len(x)).long()]  # all basophils

    figure = still(explore.stain, predict, cells.CLASSES, image_size=24)
    assert seen[0].shape == (8, 3, 24, 24) and seen[0].dtype == torch.uint8
    assert title(figure).startswith("all as at home: ")
    controls, titles = live(explore.stain, predict, cells.CLASSES, image_size=24)
    controls["stain"].value = 1.0
    assert titles[-1].startswith("stain 100%: ") and not seen[-1].equal(seen[0])
    plt.close("all")
    explore.stain(predict, ["cat", "dog"])
    assert "Only of cells" in capsys.readouterr().out and not plt.get_fignums()


def test_collapse_says_what_each_of_its_axes_shows(still):
    images, labels = cells.generate(64, 0)[:2]
    left, upper, lower = still(explore.collapse, torch.from_numpy(images), torch.from_numpy(labels)).axes
    assert (left.get_xlabel(), upper.get_ylabel()) == ("z of each image, colour: class", "spread")
    assert (lower.get_xlabel(), lower.get_ylabel()) == ("step (red: one is off)", "rank")


def test_collapse_loses_its_spread_without_predictor_and_finds_some_again(live):
    images, labels = cells.generate(64, 0)[:2]
    controls, _ = live(explore.collapse, torch.from_numpy(images), torch.from_numpy(labels))

    def spread():
        return float(controls[""].value.split("spread ")[-1].split(",")[0])

    assert spread() > 0.8
    controls["train"].value = 110
    said = controls[""].value.split("loss")[-1].split('"')[0]
    controls["predictor"].value = False  # what was trained stays
    assert controls[""].value.split("loss")[-1].split('"')[0] == said
    controls["train"].value = 400
    assert "predictor OFF" in controls[""].value and spread() < 0.2
    controls["predictor"].value = True
    controls["train"].value = 500
    assert spread() > 0.3
    state = torch.get_rng_state()
    controls["reset"].click()
    assert spread() > 0.8 and torch.get_rng_state().equal(state)


def test_neighbours_of_ones_own_picture(live):
    images = pictures(5)
    network = torch.nn.Flatten()
    controls, titles = live(
        explore.encoders, images, {"pixels": images.flatten(1).float()}, torch.arange(5) % 2, ["a", "b"],
        networks={"pixels": network},
    )  # fmt: skip
    buffer = io.BytesIO()
    Image.fromarray(images[3].permute(1, 2, 0).numpy()).save(buffer, "png")
    (upload,) = [w for name, w in controls.items() if name.startswith("your picture")]
    upload.value = ({"name": "me.png", "content": memoryview(buffer.getvalue()), "type": "", "size": 1,
                     "last_modified": datetime.datetime.now(datetime.UTC)},)  # fmt: skip
    assert titles[-1] == "your picture, and what is like it"
    upload.value = ({"name": "me.png", "content": memoryview(b"<html>"), "type": "", "size": 1,
                     "last_modified": datetime.datetime.now(datetime.UTC)},)  # fmt: skip
    assert titles[-1] == "your picture is not an image that Pillow can read; so here is image 0"
    controls["reset"].click()
    assert titles[-1] == titles[0]
