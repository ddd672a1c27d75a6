"""The explorers of lesson 07: the images of a confusion's cell, and the neighbours of a point."""

from __future__ import annotations

import numpy as np
import pytest

from labutil import device, explore, plots


@pytest.mark.parametrize("front_end", [False, True])
def test_explorers_show_the_images_of_a_cell_and_of_a_point(front_end, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(device, "has_front_end", lambda: front_end)
    monkeypatch.setattr("IPython.display.display", shown.append)
    drawn = []
    monkeypatch.setattr(plots, "image_grid", lambda images, titles, **k: drawn.append((images, titles, k)))
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 0, 1, 1, 2])
    p, q = (np.eye(3)[labels] for labels in ([0, 1, 1, 1, 0, 2], [0, 0, 1, 1, 1, 2]))
    images = np.arange(6 * 3 * 4 * 4, dtype=np.uint8).reshape(6, 3, 4, 4)
    explore.confusions(images, y, {"a": p, "b": q}, ["x", "y", "z"])
    assert any("VBox" in type(what).__name__ for what in shown) == front_end
    if front_end:
        (box,) = [what for what in shown if "VBox" in type(what).__name__]
        method, (grid,) = box.children[0], [c for c in box.children if "GridBox" in type(c).__name__]
        buttons = [c for c in grid.children if "Button" in type(c).__name__]
        counted = lambda: np.array([int(b.description) for b in buttons]).reshape(3, 3)  # noqa: E731
        assert np.array_equal(counted(), [[1, 2, 0], [1, 1, 0], [0, 0, 1]])
        buttons[3].click()  # y taken for x
        assert np.array_equal(drawn[-1][0], images[[4]]) and "1 images of y that it calls x" in drawn[-1][2]["title"]
        method.value = "b"
        assert np.array_equal(counted(), [[2, 1, 0], [0, 2, 0], [0, 0, 1]])
        return
    found, titles, options = drawn[-1]
    assert np.array_equal(found, images[[1, 2]])  # the commonest mistake of a: x taken for y
    assert titles == ["100%\nright: 1 of 1", "100%\nright: 0 of 1"]
    assert options["title"] == "a: 2 images of x that it calls y"
    features = {"a": rng.random((6, 5)), "b": rng.random((6, 4))}
    explore.encoders(images, features, y, ["x", "y", "z"], n=2, start=3)
    found, titles, options = drawn[-1]
    assert [titles[0], titles[3]] == ["a", "b"]
    for row, h in enumerate(features.values()):
        cosine = (h @ h[3]) / np.linalg.norm(h, axis=1) / np.linalg.norm(h[3])
        expected = [i for i in np.argsort(-cosine) if i != 3][:2]
        for place, i in enumerate([3, *expected]):
            assert np.array_equal(found[3 * row + place], images[i])
        assert options["title_colours"][3 * row + 1] == (plots.RIGHT if y[expected[0]] == 1 else plots.WRONG)
    plt.close("all")
