"""Figures of a comparison: what they must show."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from planted import Y, board_of, leave_run

from labutil.compare import figures, methods


def test_pareto_is_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost, score = rng.integers(0, 5, 8).astype(float), rng.integers(0, 5, 8).astype(float)
        found = figures.pareto(cost, score)
        for c, s, front in zip(cost, score, found, strict=True):
            assert front == (not any(d <= c and t >= s and (d < c or t > s) for d, t in zip(cost, score, strict=True)))
    assert figures.pareto([1, np.nan], [0.5, 0.9]).tolist() == [True, False]


def texts(figure):
    figure.canvas.draw()
    return " ".join(t.get_text() for t in figure.findobj(plt.Text))


def test_figures_show_numbers_and_names(tmp_path):
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed)
        metrics = {"shifted_accuracy": 0.3}
        leave_run(tmp_path, "04_simclr", seed=seed, params={"method": "simclr"}, share=0.5, metrics=metrics)
    leave_run(tmp_path, "06_autoencoder", share=0.6)
    board = board_of(tmp_path)
    table = methods.summary(board)
    shown = texts(figures.intervals(table, chance=0.2, random_encoder=0.25))
    assert f"{table.accuracy.iloc[0]:.3f} ± {table.accuracy_std.iloc[0]:.3f}, 2 seeds" in shown
    assert "1 seed" in shown and "chance, 0.200" in shown and "random encoder, k-NN, 0.250" in shown
    shown = texts(figures.cost(table))
    assert "parameters" in shown and "no other is cheaper and better" in shown and "autoencoder" in shown
    mean, std = methods.metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"})
    assert "0.300" in texts(figures.grouped(mean, std=std, chance=0.2))
    first = {m.label: m.probabilities[0] for m in board.methods}
    assert "ECE" in texts(figures.calibrations(board.y_true, first))
    wide = pd.DataFrame(np.random.default_rng(0).random((40, 3)), columns=list("abc"))
    assert "the 20 of 40 rows that differ most" in texts(figures.heat(wide, label="x"))
    row = {"share": 0.1, "seed": 0, "split": "test"}
    curves = pd.DataFrame([row | {"method": m, "labels": n, "accuracy": 0.5} for m in "ab" for n in (10, 100)])
    assert "test accuracy" in texts(figures.label_efficiency(curves))
    images = np.zeros((len(Y), 1, 16, 16), np.uint8)
    shown = texts(figures.only_right(images, {"a": np.array([5, 2]), "b": np.array([0]), "c": []}, Y, board.classes))
    assert "a\nimages: 2" in shown and "b\nimages: 1" in shown and "c\n" not in shown
    assert [shown.count(name) for name in board.classes] == [1, 1, 1, 0]


def test_the_same_point_has_the_same_colour_in_every_map():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 90)
    figure = figures.maps({n: rng.random((90, 2)) for n in "ab"}, labels, [f"class {k}" for k in range(30)])
    (rest, *first), (_, *second) = (axes.collections for axes in figure.axes[:2])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [group.get_label() for group in first] == [group.get_label() for group in second] == names
    assert len(names) == 20
    for one, other, name in zip(first, second, names, strict=True):
        assert np.array_equal(one.get_facecolors(), other.get_facecolors())
        assert len(one.get_offsets()) == len(other.get_offsets()) == sum(f"class {k}" == name for k in labels)
    assert len(rest.get_offsets()) == sum(f"class {k}" not in names for k in labels)


def test_dots_stand_where_their_values_are():
    mean = pd.DataFrame({"home": [0.80, 0.84], "shifted": [0.75, np.nan], "noise": [0.70, 0.663]}, index=["a", "b"])
    std = pd.DataFrame({"home": [0.02, np.nan], "shifted": [0.01, np.nan], "noise": [0.03, 0.01]}, index=["a", "b"])
    (axes,) = figures.grouped(mean, std=std, chance=0.1).axes
    lines, dots = axes.collections[::2], axes.collections[1::2]
    for row, column in itertools.product(range(2), range(3)):
        value, spread = mean.iloc[row, column], np.nan_to_num(std.iloc[row, column])
        if np.isfinite(value):
            x, height = dots[column].get_offsets()[row]
            assert x == pytest.approx(value) and round(height) == row
            (ends,) = [s for s in lines[column].get_segments() if len(s) and s[0, 1] == height]
            assert ends == pytest.approx(np.array([(value - spread, height), (value + spread, height)]))
            (text,) = [t for t in axes.texts if t.get_text() == f"{value:.3f}"]
            assert text.xy == pytest.approx((value + spread, height))
    one_colour = [{tuple(group.get_facecolors()[i]) for group in dots} for i in range(2)]
    assert [len(colours) for colours in one_colour] == [1, 1] and one_colour[0] != one_colour[1]
    assert axes.get_xlim()[0] > 0.6  # fitted to the dots: chance is far away, so it is only named
    assert "chance, 0.100, beyond the axis" in [t.get_text() for t in axes.figure.legends[0].get_texts()]
    one = pd.DataFrame({"accuracy": [0.5], "accuracy_std": np.nan, "low": 0.4, "high": 0.6, "seeds": 1}, index=["a"])
    assert figures.intervals(one, chance=0.45).axes[0].get_xlim()[0] < 0.45
