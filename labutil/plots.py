"""The figures of the lessons, in one style. Each function returns a matplotlib Figure; `show` shows it and keeps it.

Images are uint8 or float in [0, 1], (N, C, H, W), C = 1 or 3; labels are integers (N,); classes are names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutil import evaluation, style
from labutil.images import to_numpy
from labutil.pictures import class_samples, confused_pairs, heat_maps, image_grid, image_rows, predictions  # noqa: F401
from labutil.style import COLOURS, GRAY, MOST_CLASSES, PALE, WIDTH, legend_below, looks, short, styled, wrap

RIGHT, WRONG, reading, show = style.RIGHT, style.WRONG, style.reading, style.show  # as lessons call them
LINES = {"train": "--", "val": "-", "": "-"}  # others dotted


def _panels(count: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, at most so many side by side; height: inches of each row."""
    rows, columns = -(-count // columns), min(columns, count)
    figure = plt.figure(figsize=(WIDTH, height * rows))
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _name_columns(axes: Axes, places: Any, names: Sequence[str]) -> None:
    """Names along the x axis: slanted, or upright where there are many."""
    slant = {"rotation": 40} if len(names) <= 15 else {"rotation": 90, "va": "center"}
    axes.set_xticks(places, names, ha="right", rotation_mode="anchor", **slant)


@styled
def class_balance(counts: Any, classes: Sequence[str]) -> Figure:
    """Number of images of each class, (K,), such as `labels.bincount(minlength=K)`, in the order of the classes."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8))
    axes.bar(range(len(classes)), to_numpy(counts), color=COLOURS[0])
    axes.set(ylabel="training images", xticks=[])
    if len(classes) > 30:
        axes.set_xlabel(f"{len(classes)} classes, from {short(classes[0])} to {short(classes[-1])}")
    else:
        _name_columns(axes, range(len(classes)), [short(c) for c in classes])
    return figure


@styled
def curves(history: pd.DataFrame | Mapping[str, pd.DataFrame], *, x: str = "epoch", lr: bool = False) -> Figure:
    """Loss and accuracy during training: training dashed, validation solid, what else was measured dotted.

    history: as `training.fit` returns it, or {name: history} to compare several, a colour each. Every column that is
    called, or ends in, `loss`, `accuracy` or `spread` is drawn; values that are missing (NaN) are left out.
    x: "epoch", another column such as "step", or "seconds" for the time spent so far. lr: add the learning rate, on a
        logarithmic axis.
    """
    histories = history if isinstance(history, Mapping) else {"": history}
    drawn: dict[str, list] = {}  # {kind: [(whose history, "train", "val", "knn" or "", values indexed by x), ...]}
    for kind in ("loss", "accuracy", "spread", *["lr"] * lr):
        for name, frame in histories.items():
            at = frame["seconds"].cumsum() if x == "seconds" else frame[x]
            for column in frame.filter(regex=f"^(.+_)?{kind}$"):
                values = frame[column].set_axis(at).dropna().astype(float)
                drawn.setdefault(kind, []).append((name, column.removesuffix(kind).rstrip("_"), values))
    parts = list(dict.fromkeys(part for kind in drawn if kind != "lr" for _, part, _ in drawn[kind]))
    if not parts:
        raise ValueError("history: no column called, or ending in, loss or accuracy")
    several = len(histories) > 1
    hues = list(histories) if several else parts
    styles = dict(zip(hues, looks(hues), strict=True))
    figure, cells = _panels(len(drawn), 2, 2.9)
    for cell, (kind, found) in zip(cells, drawn.items(), strict=True):
        for name, part, values in found:
            look = styles.get(name if several else part, styles[hues[0]])
            cell.plot(values, ls=LINES.get(part, ":"), ms=5, markevery=max(1, len(values) // 10), **look)
        cell.set(xlabel="training time (s)" if x == "seconds" else x, ylabel="learning rate" if kind == "lr" else kind)
        if x == "epoch":
            cell.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if kind == "lr":
            cell.set_yscale("log")
            cell.yaxis.set_major_formatter("{x:g}")
            cell.yaxis.set_minor_formatter("")
    words = {"train": "training", "val": "validation", "val_knn": "k-NN"}
    handles = [
        plt.Line2D([], [], ls=LINES.get(part, ":"), color="black" if several else styles[part]["color"],
               label=words.get(part, part.replace("_", " ")))
        for part in parts if part or not several
    ]  # fmt: skip
    if several:
        handles += [plt.Line2D([], [], label=wrap(short(name, 60), 30), **styles[name]) for name in histories]
    legend_below(figure, handles)
    return figure


@styled
def lines(
    table: pd.DataFrame,
    *,
    std: pd.DataFrame | None = None,
    xlabel: str = "",
    ylabel: str = "",
    log_x: bool = False,
    chance: float | None = None,
) -> Figure:
    """One line a column against the index, each point marked; `std` shades a band, `chance` is a dashed line.

    table: numbers, indexed by what goes along the x axis, columns named as the legend shows them; NaN is left out. Of
    several columns of one method, which share its colour, all but the first are dashed.
    std: same rows and columns; NaN where there was a single run. log_x: logarithmic x axis, each index value a tick.
    """
    import seaborn as sns  # here and below: with scipy.stats, which it brings, the slowest of all imports but torch

    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    drawn: list[str] = []
    for name, look in zip(table, looks(table), strict=True):
        look["ls"] = "--" if look["color"] in drawn else "-"
        drawn.append(look["color"])
        values = table[name].astype(float)
        spread = 0 if std is None else std[name].fillna(0)
        ends = pd.concat([values - spread, values, values + spread])  # the band is from the least to the largest
        label = wrap(short(str(name), 60), 30)
        sns.lineplot(ends, errorbar=("pi", 100), markersize=7, label=label, legend=False, ax=axes, **look)
    if chance is not None:
        axes.axhline(chance, color=GRAY, ls="--", lw=1.5, label="chance")
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
        axes.set_xticks(table.index, [f"{value:g}" for value in table.index])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    legend_below(figure)
    return figure


def _ranking(values: pd.Series, std: pd.Series | None, xlabel: str) -> tuple[Figure, Axes, list[str]]:
    """A figure with a named row an entry, from the top, and each entry's number in words."""
    names = [wrap(str(name), 26) for name in values.index]
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + sum(0.36 + 0.2 * name.count("\n") for name in names)))
    axes.set(xlabel=xlabel, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    form = "{:,.0f}" if np.issubdtype(values.dtype, np.integer) else "{:.3f}"
    spread = [np.nan] * len(values) if std is None else std
    words = [form.format(v) + (f" ± {s:.3f}" if np.isfinite(s) else "") for v, s in zip(values, spread, strict=True)]
    return figure, axes, words


@styled
def bars(values: pd.Series, *, std: pd.Series | None = None, xlabel: str = "") -> Figure:
    """Horizontal bars from zero, one for each entry, with its value; for accuracies that differ by little: `dots`.

    values: numbers, indexed by the names to show. std: error bars; NaN where there was a single run.
    """
    figure, axes, words = _ranking(values, std, xlabel)
    drawn = axes.barh(range(len(values)), values.astype(float), xerr=std, color=COLOURS[4], capsize=4)
    axes.bar_label(drawn, words, padding=5)
    axes.margins(x=0.3)
    return figure


@styled
def dots(
    values: pd.Series, *, std: pd.Series | None = None, xlabel: str = "", chance: float | None = None, zero: str = ""
) -> Figure:
    """A dot for each entry, its interval a line, on an axis that fits them: for values that differ by a few points.

    values: numbers, indexed by the names to show; methods have their colours. std: half the width of the intervals; NaN
    where there is none. chance: a line to compare with; where it lies far from the values it is only named.
    """
    figure, axes, words = _ranking(values, std, xlabel)
    colours = [style.known_colour(str(name)) or COLOURS[0] for name in values.index]
    rows, spread = range(len(values)), 0 if std is None else std.fillna(0)
    axes.hlines(rows, values - spread, values + spread, colors=colours, lw=2.5)
    axes.scatter(values, rows, s=60, c=colours, zorder=3)
    for i, word in enumerate(words):
        axes.annotate(word, (1.02, i), xycoords=("axes fraction", "data"), va="center")
    axes.grid(axis="x", color="0.9")
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)  # names take the room of more
    if zero:
        axes.axvline(0, color=GRAY, ls="--", lw=1.5, zorder=0, label=zero)
    if zero or chance is not None:
        against(axes, {"chance": chance})
    return figure


def against(axes: Axes, values: Mapping[str, float | None]) -> Figure:
    """Upright lines to compare with; one that lies far from what is drawn is only named, so that the axis fits that."""
    low, high = axes.get_xlim()
    for line, (name, value) in zip(("--", ":"), values.items(), strict=False):
        if value is None:
            continue
        near = 2 * low - high < value < 2 * high - low
        label = f"{name}, {value:.3f}" + ("" if near else ", beyond the axis")
        axes.axvline(value if near else np.nan, ls=line, color=GRAY, lw=1.5, zorder=0, label=label)
    legend_below(axes.figure)
    return axes.figure


@styled
def confusion(matrix: Any, classes: Sequence[str]) -> Figure:
    """Confusion matrix, each row (true class) scaled to 100%, with numbers for up to 15 classes.

    matrix: counts (K, K), true classes down, predicted ones across; a class without images has a gray row.
    Of more than 20 classes those 20 with most errors are shown, each still scaled to all its images.
    """
    import seaborn as sns

    matrix = np.asarray(matrix, float)
    total = matrix.sum(1, keepdims=True)
    rates = 100 * np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
    names, title = [short(c) for c in classes], "% of the true class"
    if len(names) > MOST_CLASSES:
        off = matrix - np.diag(matrix.diagonal())
        kept = np.sort(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES])
        title += f"\nthe {MOST_CLASSES} of {len(names)} classes with most errors"
        rates, names = rates[np.ix_(kept, kept)], [names[k] for k in kept]
    k = len(names)
    words = np.where(rates >= 0.5, np.char.mod("%.0f", rates), "") if k <= 15 else False
    figure, axes = plt.subplots(figsize=(WIDTH, 2.6 + 0.3 * k))
    colours = sns.blend_palette(["white", COLOURS[4]], as_cmap=True)  # black numbers can be read on all
    look = {"cmap": colours, "vmin": 0, "vmax": 100, "cbar": k > 15, "annot_kws": {"color": "black"}}
    sns.heatmap(rates, annot=words, fmt="", xticklabels=False, yticklabels=False, rasterized=True, ax=axes, **look)
    _name_columns(axes, np.arange(k) + 0.5, names)
    axes.set_yticks(np.arange(k) + 0.5, names)
    axes.set(xlabel="predicted", ylabel="true", title=title, facecolor=PALE)
    return figure


@styled
def tsne(xy: Any, labels: Any, classes: Sequence[str], *, seed: int = 0, title: str = "") -> Figure:
    """A map of points coloured by class, legend beside it. Of more than 20 classes, 20 random ones are coloured.

    xy: (N, 2), such as `evaluation.tsne` gives. labels: (N,); -1 (unlabelled) stays gray. seed: which 20 classes.
    """
    import seaborn as sns

    xy, labels = to_numpy(xy), to_numpy(labels)
    chosen = present = np.unique(labels[labels >= 0])
    if len(present) > MOST_CLASSES:
        chosen = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
        title = f"{title}\n{MOST_CLASSES} random classes of {len(present)} in colour".strip()
    figure, axes = plt.subplots(figsize=(WIDTH, max(4.4, 0.4 + 0.25 * len(chosen))))
    rest = ~np.isin(labels, chosen)
    axes.scatter(*xy[rest].T, s=9, color=PALE, lw=0, rasterized=True)
    for k, look in zip(chosen, looks(chosen), strict=True):
        x, y = xy[labels == k].T
        look |= {"s": 32, "alpha": 0.8, "lw": 0, "rasterized": True}
        sns.scatterplot(x=x, y=y, label=short(classes[k]), legend=False, ax=axes, **look)
    axes.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2", title=wrap(title, 44))
    if len(chosen):
        figure.legend(loc="outside right upper", markerscale=1.5)
    return figure


def feature_map(features: Any, labels: Any, classes: Sequence[str], *, seed: int = 0, title: str = "") -> Figure | None:
    """The t-SNE map of features (N, D), as `tsne` draws it; for too few of them a line that says so, and None."""
    if len(features) < 5:  # what evaluation.tsne wants
        print("fewer than 5 images: no map")
        return None
    return tsne(evaluation.tsne(features, seed=seed), labels, classes, seed=seed, title=title)


@styled
def roc(y_true: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """ROC curves one against the rest: their macro average, and each class that has images (of more than 10, the five
    worst). Of good curves only the upper left corner is drawn, as much of it as all of them pass through the middle of.

    y_true, probabilities: (N,) and (N, K).
    """
    found = list(evaluation.roc_curves(y_true, probabilities).items())
    figure, axes = plt.subplots(figsize=(WIDTH, 4))
    grid = np.linspace(0, 1, 201)
    if found:
        mean = np.mean([np.interp(grid, fpr, tpr) for _, (fpr, tpr, _) in found], axis=0)
        area = np.mean([auc for _, (_, _, auc) in found])
        axes.plot([0, *grid], [0, *mean], color="black", lw=3, label=f"macro average, {area:.3f}")
    shown = found if len(found) <= 10 else sorted(found, key=lambda item: item[1][2])[:5]
    for i, (k, (fpr, tpr, auc)) in enumerate(shown):
        # the last two colours resemble others; after them colours come again
        dashes, label = ("-", "-.", "--")[(i >= 6) + (i >= len(COLOURS))], f"{short(classes[k])}, {auc:.3f}"
        axes.plot(fpr, tpr, dashes, color=COLOURS[i % len(COLOURS)], lw=1.5, label=label)
    # Where as many images are missed as raise a false alarm: there a curve bends, and the worst shall be in sight.
    middle = max((fpr[np.argmax(fpr + tpr >= 1)] for _, (fpr, tpr, _) in shown), default=1)
    side = min(1, math.ceil(20 * middle) / 10)
    if side > 0.5:  # else it lies elsewhere
        axes.plot([0, 1], [0, 1], ":", color=GRAY, label="guessing, 0.500")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(-0.02 * side, side), ylim=(1 - side, 1 + 0.02 * side))
    legend_below(figure, title="area under the curve" + ("" if len(found) <= 10 else ", five worst"))
    return figure


@styled
def calibration(y_true: Any, probabilities: Any, *, bins: int = 10) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy of predictions by their confidence, and how many there are. A dot
    below the diagonal: the model is too sure of itself."""
    table = evaluation.calibration(y_true, probabilities, bins)
    middle, width = (np.arange(bins) + 0.5) / bins, 0.9 / bins
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
    left.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    left.bar(middle, table.accuracy.fillna(0), width=width, color=COLOURS[4], label="a bin's accuracy")
    left.plot(table.confidence, table.accuracy, "o", color=COLOURS[1], ms=6, label="mean confidence and accuracy")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    right.bar(middle, table["count"], width=width, color=COLOURS[0])
    right.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    right.yaxis.get_major_locator().set_params(integer=True)
    legend_below(figure)
    return figure


@styled
def matrices(
    panels: Mapping[str, Any], *, limits: tuple[float, float] = (-1, 1), label: str = "", title: str = ""
) -> Figure:
    """Matrices side by side as pictures, one title and one scale of colours: correlations, similarities, masks.

    panels: {title: (M, N)}, rows down, columns across; NaN is gray. label: of the colours. title: of the whole figure.
    limits: values of the darkest colours; with a negative one the scale is red and blue with white at their middle.
    """
    columns = min(3, len(panels))
    figure, cells = _panels(len(panels), 3, min(6.6 / columns, 4) + (1.3 if label else 0.5))
    look = {"vmin": limits[0], "vmax": limits[1], "cmap": "RdBu" if limits[0] < 0 else "Blues", "rasterized": True}
    for cell, (name, values) in zip(cells, panels.items(), strict=True):
        cell.pcolormesh(to_numpy(values).astype(float), **look)  # seaborn's heatmap draws the whole figure once more
        cell.set(title=wrap(name, 60 // columns), facecolor=PALE, aspect="equal", xticks=[], yticks=[])
        cell.invert_yaxis()
        cell.spines[:].set_visible(False)
    if label:
        bar = {"location": "bottom", "shrink": 0.6, "aspect": 40, "ticks": np.linspace(*limits, 5), "label": label}
        figure.colorbar(cells[0].collections[0], ax=cells, **bar)
    if title:
        figure.suptitle(wrap(title, 70))
    return figure
