"""Figures of a comparison: what they must show."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from planted import board_of, leave_run, some_labels

from labutil.compare import figures, methods

Y = some_labels()


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_pareto_is_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        cost, score = rng.integers(0, 5, 8).astype(float), rng.integers(0, 5, 8).astype(float)
        found = figures.pareto(cost, score)
        for i in range(8):
            beaten = any(
                cost[j] <= cost[i] and score[j] >= score[i] and (cost[j] < cost[i] or score[j] > score[i])
                for j in range(8)
            )
            assert found[i] == (not beaten)
    assert figures.pareto([1, np.nan], [0.5, 0.9]).tolist() == [True, False]


def texts(figure):
    figure.canvas.draw()
    return " ".join(t.get_text() for t in figure.findobj(plt.Text))


def test_figures_show_numbers_and_names(tmp_path):
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed)
        metrics = {"shifted_accuracy": 0.3}
        leave_run(tmp_path, "04_simclr", y_true=Y, seed=seed, params={"method": "simclr"}, share=0.5, metrics=metrics)
    leave_run(tmp_path, "06_autoencoder", y_true=Y, share=0.6)
    board = board_of(tmp_path)
    table, pairs = methods.summary(board), methods.pairs(board)
    shown = texts(figures.intervals(table, chance=0.2, random_encoder=0.25))
    assert f"{table.accuracy.iloc[0]:.3f} ± {table.accuracy_std.iloc[0]:.3f}, 2 seeds" in shown
    assert "1 seed" in shown
    assert "chance, 0.200" in shown
    shown = texts(figures.differences(pairs))
    assert f"{pairs.difference[0] * 100:+.1f}" in shown
    assert f"{-pairs.difference[0] * 100:+.1f}" in shown
    assert shown.count("*") == 1 + 2 * pairs.evidence.sum()
    assert "parameters" in texts(figures.cost(table))
    mean, std = methods.metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"})
    assert "0.300" in texts(figures.grouped(mean, std=std, chance=0.2))
    xy = {m.label: np.random.default_rng(0).random((len(board.y_true), 2)) for m in board.methods}
    assert "autoencoder" in texts(figures.maps(xy, board.y_true, board.classes))
    first = {m.label: m.members[0].probabilities for m in board.methods}
    assert "ECE" in texts(figures.calibrations(board.y_true, first))
    wide = pd.DataFrame(np.random.default_rng(0).random((40, 3)), columns=list("abc"))
    assert "the 20 of 40 rows that differ most" in texts(figures.heat(wide, label="x"))
    row = {"share": 0.1, "seed": 0, "split": "test"}
    curves = pd.DataFrame([row | {"method": m, "labels": n, "accuracy": 0.5} for m in "ab" for n in (10, 100)])
    assert "test accuracy" in texts(figures.label_efficiency(curves))


def test_the_same_point_has_the_same_colour_in_every_map():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 90)
    figure = figures.maps({n: rng.random((90, 2)) for n in "ab"}, labels, [f"class {k}" for k in range(30)])
    (rest, first), (_, second) = (axes.collections for axes in figure.axes[:2])
    assert np.array_equal(first.get_facecolors(), second.get_facecolors())
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == 20
    assert len(first.get_offsets()) == sum(f"class {k}" in names for k in labels) == 90 - len(rest.get_offsets())


def test_dots_stand_where_their_values_are():
    mean = pd.DataFrame({"home": [0.80, 0.84], "shifted": [0.75, np.nan], "noise": [0.70, 0.663]}, index=["a", "b"])
    std = pd.DataFrame({"home": [0.02, np.nan], "shifted": [0.01, np.nan], "noise": [0.03, 0.01]}, index=["a", "b"])
    (axes,) = figures.grouped(mean, std=std, chance=0.1).axes
    drawn = {round(x, 4): y for x, y in np.concatenate([line.get_xydata() for line in axes.lines])}
    for row, column in itertools.product(range(2), range(3)):
        value, spread = mean.iloc[row, column], np.nan_to_num(std.iloc[row, column])
        if np.isfinite(value):
            heights = [drawn[round(value + k * spread, 4)] for k in (-1, 0, 1)]
            assert max(heights) - min(heights) < 1e-9 and round(heights[0]) == row
            (text,) = [t for t in axes.texts if t.get_text() == f"{value:.3f}"]
            assert text.xy == pytest.approx((value + spread, heights[0]))
    assert axes.get_xlim()[0] > 0.6  # fitted to the dots: chance is far away, so it is only named
    assert "chance, 0.100, beyond the axis" in [t.get_text() for t in axes.figure.legends[0].get_texts()]
    assert figures.intervals(pd.DataFrame(
        {"accuracy": [0.5], "accuracy_std": np.nan, "low": 0.4, "high": 0.6, "seeds": 1}, index=["a"]
    ), chance=0.45).axes[0].get_xlim()[0] < 0.45  # fmt: skip
