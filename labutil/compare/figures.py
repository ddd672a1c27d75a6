"""Figures that set methods side by side, in the style of `plots`; tables come from `methods`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from labutil import evaluation, plots
from labutil.pictures import sheet
from labutil.style import COLOURS, MARKERS, MOST_CLASSES, PALE, STYLE, WIDTH, legend_below, looks, short, styled, wrap


def pareto(cost: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Which of several choices no other beats: none is as cheap and as good, and better in one. Bool (M,); NaN: no.

    Example:
        pareto(np.array([1, 2, 3]), np.array([0.8, 0.7, 0.9]))  # [True, False, True]
    """
    cost, score = np.asarray(cost, float), np.asarray(score, float)
    as_good = (cost[:, None] <= cost) & (score[:, None] >= score)
    better = (cost[:, None] < cost) | (score[:, None] > score)
    return ~(as_good & better).any(0) & np.isfinite(cost) & np.isfinite(score)


@styled
def intervals(table: pd.DataFrame, *, chance: float, random_encoder: float | None = None) -> Figure:
    """Accuracy of each method, a dot, with its interval, a line, on an axis that fits them. table: as `methods.summary`
    gives it. chance, random_encoder: lines to compare with, only named where they lie far from all dots."""
    ends = [table[[name]].set_axis([""], axis=1) for name in ("low", "accuracy", "high")]
    axes, _ = _dots(*ends)
    for i, row in enumerate(table.itertuples()):
        spread = f" ± {row.accuracy_std:.3f}" if np.isfinite(row.accuracy_std) else ""
        text = f"{row.accuracy:.3f}{spread}, {row.seeds} seed{'s' if row.seeds > 1 else ''}"
        axes.annotate(text, (1.02, i), xycoords=("axes fraction", "data"), va="center")
    axes.set_xlabel("test accuracy, with its 95% interval")
    return plots.against(axes, {"chance": chance, "random encoder, k-NN": random_encoder})


@styled
def grouped(table: pd.DataFrame, *, std: pd.DataFrame, chance: float) -> Figure:
    """Accuracies under each other: a group a row, in its method's colour, a marker a column, each with a line of one
    `std` to either side and its value behind it; NaN has none. table, std: as `methods.metric_table` gives them."""
    low, high = table - std.fillna(0), table + std.fillna(0)
    axes, heights = _dots(low, table, high)
    for name, marker in zip(table, MARKERS, strict=False):
        axes.plot([], [], marker, ms=8, color="black", label=name)
    for i, j in np.argwhere(table.notna().to_numpy()):
        end = (high.iloc[i, j], heights[i, j])
        axes.annotate(f"{table.iloc[i, j]:.3f}", end, (9, 0), textcoords="offset points", va="center")
    for place in range(1, len(table)):
        axes.axhline(place - 0.5, color="0.9", lw=1, zorder=0)
    axes.margins(x=0.17)  # room for the values
    axes.set_xlabel("accuracy")
    return plots.against(axes, {"chance": chance})


def _dots(low: pd.DataFrame, middle: pd.DataFrame, high: pd.DataFrame) -> tuple[Axes, np.ndarray]:
    """A row of dots for each row of three tables alike, each on the line from low to high; and the dots' heights."""
    rows, columns = middle.shape
    axes = plt.subplots(figsize=(WIDTH, 0.9 + rows * (0.2 + 0.24 * columns)))[1]
    apart = (1 - 1 / columns) / 2
    heights = np.arange(rows)[:, None] + np.linspace(-apart, apart, columns)
    colours = [look["color"] for look in _looks(middle.index)]
    for j, (name, marker) in enumerate(zip(middle, MARKERS, strict=False)):
        axes.hlines(heights[:, j], low[name], high[name], colors=colours, lw=2.5)
        axes.scatter(middle[name], heights[:, j], s=60, c=colours, marker=marker, zorder=3)
    axes.set_yticks(range(rows), [wrap(str(name), 26) for name in middle.index])
    axes.set_ylim(rows - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return axes, heights


def _looks(labels: Iterable[Any]) -> list[dict[str, Any]]:
    """Colour and marker of each method: its own, as everywhere; different ones for settings of a single method."""
    found = looks(labels)
    alike = len({look["color"] for look in found}) == 1 < len(found)
    return [look | {"color": COLOURS[i % len(COLOURS)]} for i, look in enumerate(found)] if alike else found


@styled
def cost(table: pd.DataFrame) -> Figure:
    """Accuracy against training time and against parameters, as `methods.summary` gives them, NaN where unknown; a line
    joins the methods that no other beats (Pareto)."""
    figure, cells = plt.subplots(1, 2, figsize=(WIDTH, 3.4), sharey=True)
    costs = {"seconds": "training time (s)", "parameters": "parameters"}
    for cell, (column, label) in zip(cells, costs.items(), strict=True):
        front = table[pareto(table[column], table.accuracy)].sort_values(column, kind="stable")
        line = {"color": PALE, "lw": 4, "marker": "o", "ms": 16, "zorder": 0, "label": "no other is cheaper and better"}
        cell.plot(front[column], front.accuracy, **line)
        for (name, x, y), look in zip(table[[column, "accuracy"]].itertuples(), _looks(table.index), strict=True):
            cell.scatter(x, y, s=80, edgecolors="white", label=wrap(str(name), 30), **look)
        cell.set(xlabel=label, xticks=[])
        known = table[column][table[column] > 0]
        if len(known):
            low, high = known.min(), known.max()
            cell.set_xscale("log")
            if high < 10 * low:  # no power of ten between them: no tick but these
                cell.set(xticks=[low, high] if high > 1.35 * low else [low], xlim=(low / 1.6, high * 1.6))
            cell.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if low >= 10 else "{x:,.1f}"))
            cell.xaxis.set_minor_formatter(NullFormatter())
        cell.margins(0.12)
    cells[0].set_ylabel("test accuracy")
    legend_below(figure)
    return figure


@styled
def heat(table: pd.DataFrame, *, label: str) -> Figure:
    """A table of shares as colours, with the numbers in %; gray where there is none. Of more than 20 rows, the 20 in
    which the columns differ most (then: the lowest) are drawn."""
    import seaborn as sns  # here and below: slow, for it brings scipy.stats

    if len(table) > MOST_CLASSES:
        spread = table.max(axis=1) - table.min(axis=1)
        kept = np.sort(np.lexsort((table.mean(axis=1), -spread))[:MOST_CLASSES])
        label += f"; the {MOST_CLASSES} of {len(table)} rows that differ most"
        table = table.iloc[kept]
    colours = sns.light_palette(COLOURS[4], as_cmap=True)
    return matrix(table * 100, label, 0.4, fmt=".0f", cmap=colours, vmin=0, vmax=100)


def matrix(table: pd.DataFrame, title: str, cell: float, **look: Any) -> Figure:
    """A heat map with its numbers, in columns of `cell` inches or more; cells without a number are gray."""
    import seaborn as sns

    names, columns = ([wrap(short(str(name), 44), 24) for name in axis] for axis in (table.index, table.columns))
    size = max(WIDTH, 2.6 + cell * len(columns)), 1.9 + sum(0.32 + 0.2 * name.count("\n") for name in names)
    figure, axes = plt.subplots(figsize=size)
    axes.set_facecolor(PALE)
    sns.heatmap(table, annot=True, annot_kws={"color": "black"}, cbar=False, linewidths=0.5, ax=axes, **look)
    axes.set_yticks(axes.get_yticks(), names, rotation=0)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set(xlabel="", ylabel="")
    figure.suptitle(title, fontsize=STYLE["axes.titlesize"], x=0.02, ha="left")
    return figure


@styled
def calibrations(y_true: Any, probabilities: Mapping[str, Any]) -> Figure:
    """Accuracy of predictions by their confidence, a line a method; below the diagonal: too sure. y_true: (N,).
    probabilities: {name: (N, K)}. Of eight bins those with fewer than ten images are left out."""
    import seaborn as sns

    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    axes.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    for (name, p), look in zip(probabilities.items(), _looks(probabilities), strict=True):
        table = evaluation.calibration(y_true, p, 8).query("count >= 10")
        label = f"{wrap(str(name), 26)}, ECE {evaluation.expected_calibration_error(y_true, p):.3f}"
        sns.lineplot(table, x="confidence", y="accuracy", markersize=8, label=label, legend=False, ax=axes, **look)
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    legend_below(figure)
    return figure


@styled
def maps(xy: Mapping[str, np.ndarray], labels: np.ndarray, classes: Sequence[str], *, seed: int = 0) -> Figure:
    """Maps of the same images by several encoders, side by side. xy: {name: (N, 2)}, as `evaluation.tsne` gives them.
    labels: (N,), an image has the same colour in each. seed: which 20 classes are coloured, of more."""
    present = np.unique(labels)
    if len(present) > MOST_CLASSES:
        present = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
    columns = min(3, len(xy))
    rows = math.ceil(len(xy) / columns)
    figure, cells = plt.subplots(rows, columns, figsize=(WIDTH, rows * WIDTH / columns), squeeze=False)
    for cell in cells.flat:
        cell.axis("off")
    for cell, (name, points) in zip(cells.flat, xy.items(), strict=False):
        cell.scatter(*points[~np.isin(labels, present)].T, s=9, color=PALE, lw=0)
        for k, look in zip(present, looks(present), strict=True):
            cell.scatter(*points[labels == k].T, s=24, alpha=0.8, lw=0, label=short(classes[k]), **look)
        cell.set_title(wrap(str(name), 72 // columns))
    legend_below(figure)
    return figure


@styled
def only_right(images: Any, found: Mapping[str, np.ndarray], y_true: Any, classes: Sequence[str]) -> Figure:
    """Images (N, C, H, W) that one method alone has right, five at most in a row a method, with their true classes.
    found: as `methods.only_one_right` gives it; empty ones have no row, and not all may be empty."""
    rows = []
    for name, index in found.items():
        if shown := [int(i) for i in index[:5]]:
            label = f"{wrap(str(name), 24)}\nimages: {len(index)}"
            rows.append((label, [images[i] for i in shown], [short(classes[y_true[i]]) for i in shown]))
    return sheet(rows)


def label_efficiency(curves: pd.DataFrame, *, chance: float | None = None) -> Figure:
    """Accuracy against the number of labels, a line a method; the band is one standard deviation over seeds. curves: as
    `methods.label_curves` gives them; of test and validation accuracies those of which there are more are drawn."""
    split = curves.split.mode().iloc[0]
    accuracies = curves[curves.split == split].groupby(["labels", "method"]).accuracy
    name = {"test": "test accuracy", "val": "validation accuracy"}.get(split, f"{split} accuracy")
    mean, std = accuracies.mean().unstack(), accuracies.std().unstack()
    return plots.lines(mean, std=std, xlabel="labels", ylabel=name, log_x=True, chance=chance)
