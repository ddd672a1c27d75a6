"""Figures that set methods side by side, in the style of `plots`; tables come from `methods`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from labutil import evaluation, plots
from labutil.images import to_numpy
from labutil.plots import COLOURS, MARKERS, MOST_CLASSES, PALE, STYLE, line_style, sheet, short, styled, wrap


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
    """Accuracy of each method, a point, with its interval, a line.

    Args:
        table: as `comparison.summary` gives it: accuracy, accuracy_std, low, high, seeds.
        chance, random_encoder: dashed and dotted lines to compare with.

    Example:
        intervals(comparison.summary(board), chance=1 / 8)
    """
    figure, axes = plt.subplots(figsize=(6.8, 0.8 + 0.36 * len(table)))
    for i, row in enumerate(table.itertuples()):
        axes.plot([row.low, row.high], [i, i], color=COLOURS[0], lw=1.6)
        axes.plot(row.accuracy, i, "o", color=COLOURS[0], ms=5)
        spread = f" ± {row.accuracy_std:.3f}" if np.isfinite(row.accuracy_std) else ""
        text = f"{row.accuracy:.3f}{spread}, {row.seeds} seed{'s' if row.seeds > 1 else ''}"
        axes.annotate(text, (1.01, i), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    for value, line, name in ((chance, "--", "chance"), (random_encoder, ":", "random encoder, k-NN")):
        if value is not None and np.isfinite(value):
            axes.axvline(value, ls=line, color="black", lw=1, zorder=0, label=f"{name}, {value:.3f}")
    axes.set_yticks(range(len(table)), [wrap(str(n), 30) for n in table.index])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("test accuracy, with its 95% interval")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def cost(table: pd.DataFrame) -> Figure:
    """Accuracy against training time and against parameters; a line joins the methods that no other beats (Pareto).

    Args:
        table: as `comparison.summary` gives it: accuracy, train_seconds, parameters; NaN where unknown.

    Example:
        cost(comparison.summary(board))
    """
    figure, cells = plt.subplots(1, 2, figsize=(7.6, 3.0), sharey=True)
    for cell, column, name in zip(
        cells, ("train_seconds", "parameters"), ("training time (s)", "parameters"), strict=True
    ):
        x, y = table[column].to_numpy(float), table.accuracy.to_numpy(float)
        front = np.flatnonzero(pareto(x, y))
        front = front[np.argsort(x[front], kind="stable")]
        look = {"color": PALE, "lw": 4, "marker": "o", "ms": 14, "zorder": 0}
        cell.plot(x[front], y[front], label="no other is cheaper and better", **look)
        for i, method in enumerate(table.index):
            look = line_style(i)
            label = wrap(str(method), 26)
            cell.plot(x[i], y[i], ls="", color=look["color"], marker=look["marker"] or "o", ms=7, label=label)
        known = x[np.isfinite(x) & (x > 0)]
        if len(known):
            cell.set_xscale("log")
            if known.max() / known.min() < 10:  # no power of ten between them: no tick but these
                cell.set_xticks([known.min(), known.max()])
                cell.set_xlim(known.min() / 1.6, known.max() * 1.6)
            cell.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if known.min() >= 10 else "{x:,.1f}"))
            cell.xaxis.set_minor_formatter(NullFormatter())
        cell.set_xlabel(name)
        cell.margins(0.12)
    cells[0].set_ylabel("test accuracy")
    figure.legend(*cells[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


@styled
def heat(table: pd.DataFrame, *, label: str, low: float = 0.0, high: float = 1.0, cmap: str = "Blues") -> Figure:
    """A table of shares as colours, with the numbers in %; gray where there is none.

    Of more than 20 rows, the 20 in which the columns differ most (then: the lowest) are drawn.

    Example:
        heat(comparison.class_recall(board), label="% of the class right")
    """
    title = label
    if len(table) > MOST_CLASSES:
        spread = (table.max(axis=1) - table.min(axis=1)).to_numpy()
        kept = np.sort(np.lexsort((table.mean(axis=1), -spread))[:MOST_CLASSES])
        title += f"; the {len(kept)} of {len(table)} rows that differ most"
        table = table.iloc[kept]
    values = table.to_numpy(float)
    rows, columns = values.shape
    figure, axes = plt.subplots(figsize=(3.2 + 0.62 * columns, 1.5 + 0.3 * rows))
    axes.imshow(values, cmap=plt.get_cmap(cmap).with_extremes(bad=PALE), vmin=low, vmax=high, aspect="auto")
    _name_axes(axes, table)
    for i, j in np.argwhere(np.isfinite(values)):
        shade = (values[i, j] - low) / (high - low)
        colour = "white" if shade > 0.6 else "black"
        axes.text(j, i, f"{values[i, j] * 100:.0f}", ha="center", va="center", fontsize=7, color=colour)
    _title(figure, title)
    return figure


@styled
def differences(pairs: pd.DataFrame) -> Figure:
    """Every method against every other: row minus column, in points; a star where there is evidence of a difference.

    Args:
        pairs: as `comparison.pairs` gives it.

    Example:
        differences(comparison.pairs(board))
    """
    names = list(dict.fromkeys([*pairs.a, *pairs.b]))
    table = pd.DataFrame(np.nan, index=names, columns=names)
    stars = set()
    for row in pairs.itertuples():
        table.loc[row.a, row.b], table.loc[row.b, row.a] = row.difference, -row.difference
        if row.evidence:
            stars |= {(row.a, row.b), (row.b, row.a)}
    values = table.to_numpy(float) * 100
    most = max(1.0, np.nanmax(np.abs(values), initial=0.0))
    figure, axes = plt.subplots(figsize=(3.2 + 0.62 * len(names), 1.8 + 0.36 * len(names)))
    colours = plt.get_cmap("PuOr_r").with_extremes(bad="white")
    axes.imshow(values, cmap=colours, vmin=-1.5 * most, vmax=1.5 * most, aspect="auto")
    _name_axes(axes, table)
    for i, j in np.argwhere(np.isfinite(values)):
        star = "*" if (names[i], names[j]) in stars else ""
        axes.text(j, i, f"{values[i, j]:+.1f}{star}", ha="center", va="center", fontsize=7)
    _title(figure, "row minus column, in points\n* evidence of a difference, all pairs considered")
    return figure


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=STYLE["axes.titlesize"], x=0.02, ha="left")


def _name_axes(axes: Any, table: pd.DataFrame) -> None:
    rows, columns = [[wrap(short(str(n), 44), 24) for n in names] for names in (table.index, table)]
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.spines[:].set_visible(False)


@styled
def grouped(
    table: pd.DataFrame, *, std: pd.DataFrame | None = None, xlabel: str = "accuracy", chance: float | None = None
) -> Figure:
    """Bars beside each other: a group a row, a colour a column, values written at their ends; NaN has no bar.

    Example:
        grouped(*comparison.metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"}))
    """
    rows, columns = table.shape
    figure, axes = plt.subplots(figsize=(6.8, 0.8 + rows * (0.18 + 0.2 * columns)))
    height = 0.84 / columns
    present = table.notna().to_numpy()
    for j, column in enumerate(table):
        errors = std[column] if std is not None else pd.Series(np.nan, table.index)
        drawn = {"color": COLOURS[j % len(COLOURS)], "label": column}
        for i in np.flatnonzero(present[:, j]):
            place = i + (present[i, :j].sum() - (present[i].sum() - 1) / 2) * height
            value, error = table[column].iloc[i], np.nan_to_num(errors.iloc[i])
            axes.barh(place, value, height * 0.92, **drawn)
            drawn["label"] = None  # once in the legend
            if error:
                axes.errorbar(value, place, xerr=error, color="black", capsize=2, lw=0.8)
            end = (value + error, place)
            axes.annotate(f"{value:.3f}", end, (3, 0), textcoords="offset points", va="center", fontsize=7)
    if chance is not None and math.isfinite(chance):
        axes.axvline(chance, ls="--", color="black", lw=1, zorder=0, label="chance")
    axes.set_yticks(range(rows), [wrap(str(n), 28) for n in table.index])
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.12)
    figure.legend(loc="outside upper center", ncols=min(4, columns + 1))
    return figure


@styled
def calibrations(y_true: Any, probabilities: Mapping[str, Any], *, bins: int = 8) -> Figure:
    """Accuracy of predictions by their confidence, a line a method; below the diagonal: too sure.

    Args:
        y_true: (N,). probabilities: {name: (N, K)}. Bins with fewer than ten images are left out.

    Example:
        calibrations(y_true, {"SimCLR": p, "SupCon": q})
    """
    figure, axes = plt.subplots(figsize=(5.6, 3.2))
    axes.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    for i, (name, p) in enumerate(probabilities.items()):
        table = evaluation.calibration(y_true, p, bins)
        table = table[table["count"] >= 10]
        look = line_style(i)
        look["marker"] = look["marker"] or "o"
        ece = evaluation.expected_calibration_error(y_true, p)
        label = f"{wrap(str(name), 26)}, ECE {ece:.3f}"
        axes.plot(table.confidence, table.accuracy, markersize=4, label=label, **look)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    figure.legend(loc="outside right upper")
    return figure


@styled
def maps(
    xy: Mapping[str, Any], labels: Any, classes: Sequence[str], *, seed: int = 0, chosen: int | None = None
) -> Figure:
    """Maps of the same images by several encoders, side by side: the same image has the same colour in each.

    Args:
        xy: {name: (N, 2)}, as `evaluation.tsne` gives them. labels: (N,).
        seed: which 20 classes are coloured, of more. chosen: an image to ring in every map.

    Example:
        maps({"SimCLR": tsne(h), "SupCon": tsne(g)}, y_true, classes)
    """
    labels = to_numpy(labels)
    present = np.unique(labels)
    if len(present) > MOST_CLASSES:
        present = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
    columns = min(6, max(1, len(xy)))
    rows, side = math.ceil(len(xy) / columns), min(2.7, 10 / columns)
    figure, cells = plt.subplots(rows, columns, figsize=(side * columns + 1.4, side * rows + 0.2), squeeze=False)
    for cell in cells.flat:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for cell, (name, given) in zip(cells.flat, xy.items(), strict=False):
        points = to_numpy(given)
        rest = ~np.isin(labels, present)
        cell.scatter(*points[rest].T, s=5, color=PALE, lw=0)
        for i, k in enumerate(present):
            look = {"marker": MARKERS[i // len(COLOURS)], "color": COLOURS[i % len(COLOURS)]}
            label = short(classes[k]) if cell is cells.flat[0] else None
            cell.scatter(*points[labels == k].T, s=11, alpha=0.8, lw=0, label=label, **look)
        if chosen is not None:
            cell.scatter(*points[chosen], s=130, facecolor="none", edgecolor="black", lw=1.6)
        cell.set_title(wrap(str(name), round(12 * side)))
    figure.legend(loc="outside right upper", markerscale=1.4)
    return figure


@styled
def only_right(images: Any, found: Mapping[str, Any], y_true: Any, classes: Sequence[str], *, n: int = 6) -> Figure:
    """Images that one method alone has right, a row a method, its surest first, with their true classes.

    Args:
        images: (N, C, H, W). found: {method: indices}, as `comparison.only_one_right` gives it; empty ones have no row.

    Example:
        only_right(images, comparison.only_one_right(board), board.y_true, board.classes)
    """
    rows = {name: index for name, index in found.items() if len(index)}
    n = min(n, max(map(len, rows.values())))
    tiles, titles = [], []
    for index in rows.values():
        shown = index[:n]
        tiles += [images[int(i)] for i in shown] + [None] * (n - len(shown))
        titles += [short(classes[y_true[i]]) for i in shown] + [""] * (n - len(shown))
    labels = [f"{wrap(str(name), 24)}\nimages: {len(index)}" for name, index in rows.items()]
    return sheet(tiles, n, titles=titles, row_labels=labels)


def label_efficiency(curves: pd.DataFrame, *, chance: float | None = None) -> Figure:
    """Accuracy against the number of labels, a line a method; the band is one standard deviation over seeds.

    Args:
        curves: method, labels, accuracy, split, as `comparison.label_curves` gives them; of test and validation
            accuracies, those that there are more of are drawn, never both on one axis.

    Example:
        label_efficiency(comparison.label_curves(board))
    """
    split = curves.split.mode().iloc[0]
    grouped = curves[curves.split == split].groupby(["labels", "method"]).accuracy
    name = {"test": "test accuracy", "val": "validation accuracy"}.get(split, f"{split} accuracy")
    mean, std = grouped.mean().unstack(), grouped.std().unstack()
    return plots.lines(mean, std=std, xlabel="labels", ylabel=name, log_x=True, chance=chance)
