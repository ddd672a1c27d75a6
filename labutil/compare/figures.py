"""Figures that set methods side by side, in the style of `plots`; tables come from `methods`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from labutil import evaluation, plots
from labutil.images import to_numpy
from labutil.pictures import sheet
from labutil.style import (
    COLOURS,
    GRAY,
    MARKERS,
    MOST_CLASSES,
    PALE,
    STYLE,
    WIDTH,
    legend_below,
    looks,
    short,
    styled,
    wrap,
)


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
def intervals(table: pd.DataFrame, *, chance: float | None = None, random_encoder: float | None = None) -> Figure:
    """Accuracy of each method, a dot, with its interval, a line, on an axis that fits them.

    table: as `methods.summary` gives it: accuracy, accuracy_std, low, high, seeds. chance, random_encoder: lines to
    compare with; far from all dots they are only named.

    Example:
        intervals(methods.summary(board), chance=1 / 8)
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(table)))
    ends = [table[[name]].set_axis(["accuracy"], axis=1) for name in ("low", "accuracy", "high")]
    _dots(axes, ends, hue="row", palette=[look["color"] for look in _looks(table.index)])
    for i, row in enumerate(table.itertuples()):
        spread = f" ± {row.accuracy_std:.3f}" if np.isfinite(row.accuracy_std) else ""
        text = f"{row.accuracy:.3f}{spread}, {row.seeds} seed{'s' if row.seeds > 1 else ''}"
        axes.annotate(text, (1.02, i), xycoords=("axes fraction", "data"), va="center")
    axes.set_xlabel("test accuracy, with its 95% interval")
    _references(axes, {"chance": chance, "random encoder, k-NN": random_encoder})
    if axes.get_legend_handles_labels()[0]:
        legend_below(figure)
    return figure


@styled
def grouped(
    table: pd.DataFrame, *, std: pd.DataFrame | None = None, xlabel: str = "accuracy", chance: float | None = None
) -> Figure:
    """Dots under each other: a group a row, a colour a column, each with a line of one `std` to either side and its
    value behind it; NaN has no dot.

    Example:
        grouped(*methods.metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"}))
    """
    rows, columns = table.shape
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + rows * (0.2 + 0.24 * columns)))
    spread = 0 * table if std is None else std.fillna(0)
    colours, apart = [COLOURS[j % len(COLOURS)] for j in range(columns)], 1 - 1 / columns
    _dots(axes, [table - spread, table, table + spread], hue="column", palette=colours, dodge=apart or False)
    offsets = np.linspace(-apart / 2, apart / 2, columns)
    for i, j in np.argwhere(table.notna().to_numpy()):
        end = (table.iloc[i, j] + spread.iloc[i, j], i + offsets[j])
        text = f"{table.iloc[i, j]:.3f}"
        axes.annotate(text, end, (9, 0), textcoords="offset points", va="center")
    for place in range(1, rows):
        axes.axhline(place - 0.5, color="0.9", lw=1, zorder=0)
    axes.margins(x=0.17)  # room for the values
    axes.set_xlabel(xlabel)
    _references(axes, {"chance": chance})
    handles = [Line2D([], [], ls="", marker="o", ms=8, color=c, label=n) for c, n in zip(colours, table, strict=True)]
    legend_below(figure, [*handles, *axes.get_legend_handles_labels()[0]])
    return figure


def _dots(axes: Axes, ends: Sequence[pd.DataFrame], **look: Any) -> None:
    """A row of dots for each row of three tables (low, middle, high), each with the line from low to high."""
    rows = range(len(ends[1]))
    long = pd.concat([t.fillna(ends[1]).set_axis(rows).rename_axis("row") for t in ends])
    long = long.melt(ignore_index=False, var_name="column").reset_index().dropna()
    sns.pointplot(
        long, x="value", y="row", order=rows, orient="h", linestyle="none", legend=False, ax=axes,
        estimator="median", errorbar=("pi", 100), **look,  # of three numbers: the middle one, from least to largest
    )  # fmt: skip
    axes.set_yticks(rows, [wrap(str(name), 26) for name in ends[1].index])
    axes.set(ylabel="", ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def _references(axes: Axes, values: Mapping[str, float | None]) -> None:
    """Upright lines to compare with; one that lies far from what is drawn is only named, so that the axis fits that."""
    low, high = axes.get_xlim()
    for line, (name, value) in zip(("--", ":"), values.items(), strict=False):
        if value is None or not math.isfinite(value):
            continue
        look = {"ls": line, "color": GRAY, "lw": 1.5, "zorder": 0, "label": f"{name}, {value:.3f}"}
        if 2 * low - high < value < 2 * high - low:
            axes.axvline(value, **look)
        else:
            axes.plot([], [], **look | {"label": f"{name}, {value:.3f}, beyond the axis"})


def _looks(labels: Iterable[Any]) -> list[dict[str, Any]]:
    """Colour and marker of each method: its own, as everywhere; different ones for settings of a single method."""
    found = looks(labels)
    if len(found) == 1 or len({look["color"] for look in found}) > 1:
        return found
    return [look | {"color": COLOURS[i % len(COLOURS)]} for i, look in enumerate(found)]


@styled
def cost(table: pd.DataFrame) -> Figure:
    """Accuracy against training time and against parameters; a line joins the methods that no other beats (Pareto).

    table: as `methods.summary` gives it: accuracy, train_seconds, parameters; NaN where unknown.

    Example:
        cost(methods.summary(board))
    """
    figure, cells = plt.subplots(1, 2, figsize=(WIDTH, 3.4), sharey=True)
    styles, order = _looks(table.index), range(len(table))
    drawn = {"palette": [look["color"] for look in styles], "markers": [look["marker"] for look in styles], "s": 80}
    for cell, column, label in zip(
        cells, ("train_seconds", "parameters"), ("training time (s)", "parameters"), strict=True
    ):
        x, y = table[column].to_numpy(float), table.accuracy.to_numpy(float)
        front = np.flatnonzero(pareto(x, y))
        front = front[np.argsort(x[front], kind="stable")]
        front_line = Line2D(x[front], y[front], color=PALE, lw=4, marker="o", ms=16, zorder=0)
        cell.add_line(front_line).set_label("no other is cheaper and better")
        sns.scatterplot(x=x, y=y, hue=order, style=order, legend=False, ax=cell, **drawn)
        known = x[np.isfinite(x) & (x > 0)]
        cell.set_xticks([])
        if len(known):
            cell.set_xscale("log")
            if known.max() / known.min() < 10:  # no power of ten between them: no tick but these
                cell.set_xticks([known.min(), known.max()][: 1 + (known.max() > 1.5 * known.min())])
                cell.set_xlim(known.min() / 1.6, known.max() * 1.6)
            cell.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if known.min() >= 10 else "{x:,.1f}"))
            cell.xaxis.set_minor_formatter(NullFormatter())
        cell.set_xlabel(label)
        cell.margins(0.12)
    cells[0].set_ylabel("test accuracy")
    names = [wrap(str(name), 30) for name in table.index]
    handles = [Line2D([], [], ls="", ms=8, label=name, **look) for name, look in zip(names, styles, strict=True)]
    legend_below(figure, [front_line, *handles])
    return figure


@styled
def heat(table: pd.DataFrame, *, label: str) -> Figure:
    """A table of shares as colours, with the numbers in %; gray where there is none.

    Of more than 20 rows, the 20 in which the columns differ most (then: the lowest) are drawn.

    Example:
        heat(methods.class_recall(board), label="% of the class right")
    """
    title = label
    if len(table) > MOST_CLASSES:
        spread = (table.max(axis=1) - table.min(axis=1)).to_numpy()
        kept = np.sort(np.lexsort((table.mean(axis=1), -spread))[:MOST_CLASSES])
        title += f"; the {len(kept)} of {len(table)} rows that differ most"
        table = table.iloc[kept]
    colours = sns.light_palette(COLOURS[4], as_cmap=True)
    return _matrix(table * 100, title, 0.4, fmt=".0f", cmap=colours, vmin=0, vmax=100)


@styled
def differences(pairs: pd.DataFrame) -> Figure:
    """Every method against every other: row minus column, in points; a star where there is evidence of a difference.

    pairs: as `methods.pairs` gives it.

    Example:
        differences(methods.pairs(board))
    """
    names = list(dict.fromkeys([*pairs.a, *pairs.b]))
    table = pd.DataFrame(np.nan, index=names, columns=names)
    words = table.astype(object)
    for row in pairs.itertuples():
        for a, b, sign in ((row.a, row.b, 100), (row.b, row.a, -100)):
            points = round(sign * row.difference, 1) + 0.0  # no -0.0
            table.loc[a, b], words.loc[a, b] = points, f"{points:+.1f}{'*' if row.evidence else ''}"
    most = max(1.0, np.nanmax(np.abs(table.to_numpy()), initial=0.0))
    colours = sns.blend_palette([COLOURS[5], "white", COLOURS[4]], as_cmap=True)  # black numbers can be read on all
    title = "row minus column, in points\n* evidence of a difference, all pairs considered"
    return _matrix(table, title, 0.62, words, fmt="", cmap=colours, vmin=-most, vmax=most)


def _matrix(table: pd.DataFrame, title: str, cell: float, words: Any = True, **look: Any) -> Figure:
    """A heat map with its numbers, in columns of `cell` inches or more; cells without a number are gray."""
    names = [wrap(short(str(name), 44), 24) for name in table.index]
    size = max(WIDTH, 2.6 + cell * len(table.columns)), 1.9 + sum(0.32 + 0.2 * name.count("\n") for name in names)
    figure, axes = plt.subplots(figsize=size)
    axes.set_facecolor(PALE)
    sns.heatmap(table, annot=words, annot_kws={"color": "black"}, cbar=False, linewidths=0.5, ax=axes, **look)
    axes.set_yticks(axes.get_yticks(), names, rotation=0)
    columns = [wrap(short(str(name), 44), 24) for name in table.columns]
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set(xlabel="", ylabel="")
    figure.suptitle(title, fontsize=STYLE["axes.titlesize"], x=0.02, ha="left")
    return figure


@styled
def calibrations(y_true: Any, probabilities: Mapping[str, Any]) -> Figure:
    """Accuracy of predictions by their confidence, a line a method; below the diagonal: too sure.

    y_true: (N,). probabilities: {name: (N, K)}. Of eight bins those with fewer than ten images are left out.

    Example:
        calibrations(y_true, {"SimCLR": p, "SupCon": q})
    """
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    axes.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    for (name, p), look in zip(probabilities.items(), _looks(probabilities), strict=True):
        table = evaluation.calibration(y_true, p, 8)
        table = table[table["count"] >= 10]
        look["label"] = f"{wrap(str(name), 26)}, ECE {evaluation.expected_calibration_error(y_true, p):.3f}"
        sns.lineplot(table, x="confidence", y="accuracy", errorbar=None, markersize=8, legend=False, ax=axes, **look)
    axes.set(xlim=(0, 1), ylim=(0, 1.03))
    legend_below(figure)
    return figure


@styled
def maps(xy: Mapping[str, Any], labels: Any, classes: Sequence[str], *, seed: int = 0) -> Figure:
    """Maps of the same images by several encoders, side by side: the same image has the same colour in each.

    xy: {name: (N, 2)}, as `evaluation.tsne` gives them. labels: (N,). seed: which 20 classes are coloured, of more.

    Example:
        maps({"SimCLR": tsne(h), "SupCon": tsne(g)}, y_true, classes)
    """
    labels = to_numpy(labels)
    present = np.unique(labels)
    if len(present) > MOST_CLASSES:
        present = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
    styles = [(COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS)]) for i in range(len(present))]
    colours, markers = ([style[j] for style in styles] for j in (0, 1))
    columns = min(3, max(1, len(xy)))
    rows = math.ceil(len(xy) / columns)
    figure, cells = plt.subplots(rows, columns, figsize=(WIDTH, rows * WIDTH / columns), squeeze=False)
    for cell in cells.flat:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    coloured = np.isin(labels, present)
    for cell, (name, given) in zip(cells.flat, xy.items(), strict=False):
        points, shown = to_numpy(given), labels[coloured]
        cell.scatter(*points[~coloured].T, s=9, color=PALE, lw=0)
        sns.scatterplot(x=points[coloured, 0], y=points[coloured, 1], hue=shown, style=shown, hue_order=present,
                        style_order=present, palette=colours, markers=markers, s=24, alpha=0.8, linewidth=0,
                        legend=False, ax=cell)  # fmt: skip
        cell.set_title(wrap(str(name), 72 // columns))
    names = [short(classes[k]) for k in present]
    legend_below(figure, [
        Line2D([], [], ls="", color=c, marker=m, label=name) for (c, m), name in zip(styles, names, strict=True)
    ])  # fmt: skip
    return figure


@styled
def only_right(images: Any, found: Mapping[str, Any], y_true: Any, classes: Sequence[str], *, n: int = 6) -> Figure:
    """Images that one method alone has right, a row a method, its surest first, with their true classes.

    images: (N, C, H, W). found: {method: indices}, as `methods.only_one_right` gives it; empty ones have no row.

    Example:
        only_right(images, methods.only_one_right(board), board.y_true, board.classes)
    """
    rows = []
    for name, index in found.items():
        if shown := [int(i) for i in index[:n]]:
            label = f"{wrap(str(name), 24)}\nimages: {len(index)}"
            rows.append((label, [images[i] for i in shown], [short(classes[y_true[i]]) for i in shown]))
    return sheet(rows)


def label_efficiency(curves: pd.DataFrame, *, chance: float | None = None) -> Figure:
    """Accuracy against the number of labels, a line a method; the band is one standard deviation over seeds.

    curves: method, labels, accuracy, split, as `methods.label_curves` gives them; of test and validation accuracies,
    those that there are more of are drawn, never both on one axis.

    Example:
        label_efficiency(methods.label_curves(board))
    """
    split = curves.split.mode().iloc[0]
    accuracies = curves[curves.split == split].groupby(["labels", "method"]).accuracy
    name = {"test": "test accuracy", "val": "validation accuracy"}.get(split, f"{split} accuracy")
    mean, std = accuracies.mean().unstack(), accuracies.std().unstack()
    return plots.lines(mean, std=std, xlabel="labels", ylabel=name, log_x=True, chance=chance)
