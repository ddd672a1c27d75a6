"""Every figure of the workbook, in one style. Each function returns a matplotlib Figure, which a notebook shows once.

Images are uint8 or float in [0, 1], (N, C, H, W), C = 1 or 3; labels are integers (N,); classes are names. Colours
follow Okabe and Ito (2008), which colour-blind readers can tell apart; more than eight classes also differ by marker.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labutil import evaluation

STYLE = {
    "figure.dpi": 80, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True, "image.cmap": "gray", "lines.linewidth": 1.6,
}  # fmt: skip
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D1F", "#000000")
MARKERS = ("o", "^", "s")
RIGHT, WRONG, PALE = "#0072B2", "#D55E00", "#BBBBBB"
MOST_CLASSES = 20  # more cannot be told apart in one figure


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the workbook's style without changing anybody else's."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        # Not plt.rc_context: the first figure loads the notebook's backend, which switches interactive mode on, and
        # leaving the context would switch it off again.
        before = {key: plt.rcParams[key] for key in STYLE}
        plt.rcParams.update(STYLE)
        try:
            return draw(*args, **kwargs)
        finally:
            plt.rcParams.update(before)

    return styled


def reading(text: str) -> None:
    """Show the open figures, then a paragraph (Markdown) that reads them; without a notebook, print the paragraph."""
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        print(text)
        return
    plt.show()
    display(Markdown(text))


def _short(name: str, width: int = 20) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _wrap(text: str, width: int) -> str:
    """Lines of at most `width` characters, each of the text's own lines by itself."""
    lines = [textwrap.wrap(line, width, max_lines=3, placeholder="…") or [""] for line in text.split("\n")]
    return "\n".join(part for line in lines for part in line)


def _show(axes: Axes, image: Any) -> None:
    """One image without ticks; pixels stay square and sharp however small the image is."""
    pixels = np.asarray(image)
    pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    gray = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if gray else pixels, vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


@_styled
def image_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 8,
    title: str | None = None,
    title_colours: Sequence[str] | None = None,
) -> Figure:
    """Images in rows of `columns`, each with its title.

    Example:
        image_grid(data.train.images[:16], [data.classes[y] for y in data.train.labels[:16]])
    """
    n = len(images)
    if title is None:  # a title needs the width
        columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    wrapped = [_wrap(t, 15) for t in titles] if titles is not None else [""] * n
    lines = max((t.count("\n") + 1 for t in wrapped if t), default=0)
    width = max(1.1 * columns, 4)
    figure, axes = plt.subplots(rows, columns, figsize=(width, (1.1 + 0.15 * lines) * rows + 0.3), squeeze=False)
    for i, cell in enumerate(axes.flat):
        if i >= n:
            cell.axis("off")
            continue
        _show(cell, images[i])
        cell.set_title(wrapped[i], fontsize=7, color=title_colours[i] if title_colours else "black")
    if title:
        figure.suptitle(_wrap(title, 16 * columns), fontsize=9)
    return figure


@_styled
def class_samples(images: Any, labels: Any, classes: Sequence[str], *, per_class: int = 8, seed: int = 0) -> Figure:
    """A row of random images for each class (of more than 12 classes, 12 spread evenly over the list)."""
    labels = np.asarray(labels)
    shown = np.unique(np.linspace(0, len(classes) - 1, min(12, len(classes))).round().astype(int))
    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(len(shown), per_class, figsize=(1.5 + 0.8 * per_class, 0.8 * len(shown)), squeeze=False)
    for row, k in zip(axes, shown, strict=True):
        index = rng.permutation(np.flatnonzero(labels == k))[:per_class]
        for j, cell in enumerate(row):
            if j < len(index):
                _show(cell, images[int(index[j])])
            else:
                _show(cell, np.full((1, 1, 1), 255, np.uint8))
        row[0].set_ylabel(_wrap(classes[k], 14), rotation=0, ha="right", va="center")
    return figure


@_styled
def class_balance(counts: Any, classes: Sequence[str]) -> Figure:
    """Number of images of each class, in the order of the classes."""
    counts = np.asarray(counts)
    many = len(classes) > 30
    figure, axes = plt.subplots(figsize=(6.5, 2.2))
    axes.bar(range(len(classes)), counts, color=COLOURS[0])
    axes.set_ylabel("training images")
    if many:
        axes.set_xlabel(f"{len(classes)} classes, from {_short(classes[0])} to {_short(classes[-1])}")
        axes.set_xticks([])
    else:
        axes.set_xticks(
            range(len(classes)), [_short(c) for c in classes], rotation=40, ha="right", rotation_mode="anchor"
        )
    return figure


@_styled
def curves(history: pd.DataFrame | Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and accuracy by epoch: training dashed, validation solid; one colour for each history.

    history: as `training.fit` returns it, or {name: history} to compare several.
    """
    histories = history if isinstance(history, Mapping) else {"": history}
    kinds = [
        k for k in ("loss", "accuracy") if any(f"{s}_{k}" in h for h in histories.values() for s in ("train", "val"))
    ]
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds), 2.7), squeeze=False)
    for cell, kind in zip(axes[0], kinds, strict=True):
        for i, (name, frame) in enumerate(histories.items()):
            for split, line in (("train", "--"), ("val", "-")):
                if f"{split}_{kind}" in frame:
                    values = frame[f"{split}_{kind}"].dropna()
                    label = f"{name} {'training' if split == 'train' else 'validation'}".strip()
                    style = {"color": COLOURS[i % len(COLOURS)], "marker": "." if len(values) < 15 else None}
                    cell.plot(frame.epoch[values.index], values, line, label=label, **style)
        cell.set_xlabel("epoch")
        cell.set_ylabel(kind)
        cell.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, 2 * len(histories)))
    return figure


@_styled
def bars(values: pd.Series, *, std: pd.Series | None = None, xlabel: str = "", chance: float | None = None) -> Figure:
    """Horizontal bars, one for each entry, with its value; `std` gives error bars, `chance` a dashed line."""
    names, numbers = [_wrap(str(n), 26) for n in values.index], values.to_numpy(float)
    errors = None if std is None else std.to_numpy(float)
    figure, axes = plt.subplots(figsize=(6.5, 0.45 + 0.36 * len(names)))
    axes.barh(names, numbers, xerr=errors, color=COLOURS[4], error_kw={"capsize": 3, "lw": 1})
    axes.invert_yaxis()
    for i, number in enumerate(numbers):
        spread = "" if errors is None else f" ± {errors[i]:.3f}"
        axes.annotate(f"{number:.3f}{spread}", (number + (0 if errors is None else errors[i]), i), (4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axes.set_xlabel(xlabel)
    axes.margins(x=0.22)
    if chance is not None:
        axes.axvline(chance, ls="--", color="black", lw=1)
    return figure


@_styled
def confusion(matrix: Any, classes: Sequence[str]) -> Figure:
    """Confusion matrix, each row (true class) scaled to 100%. Of more than 30 classes, the 20 with most errors."""
    matrix = np.asarray(matrix, float)
    names, note = [_short(c) for c in classes], ""
    if len(names) > 30:
        off = matrix - np.diag(matrix.diagonal())
        kept = np.sort(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES])
        note = f"the {MOST_CLASSES} of {len(names)} classes with most errors"
        rates = _row_rates(matrix)[np.ix_(kept, kept)]
        names = [names[k] for k in kept]
    else:
        rates = _row_rates(matrix)
    k = len(names)
    side = 2.4 + 0.36 * k
    figure, axes = plt.subplots(figsize=(side + 0.8, side))
    drawn = axes.imshow(rates * 100, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="% of the true class")
    axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(note)
    axes.spines[:].set_visible(False)
    if k <= 15:
        for i, j in np.argwhere(rates >= 0.005):
            axes.text(j, i, f"{rates[i, j] * 100:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if rates[i, j] > 0.55 else "black")  # fmt: skip
    return figure


def _row_rates(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.maximum(matrix.sum(1, keepdims=True), 1)


@_styled
def tsne(xy: Any, labels: Any, classes: Sequence[str], *, seed: int = 0) -> Figure:
    """A map of points coloured by class, legend beside it. Of more than 20 classes, 20 random ones are coloured."""
    xy, labels = np.asarray(xy), np.asarray(labels)
    present = np.unique(labels)
    chosen, title = present, ""
    if len(present) > MOST_CLASSES:
        chosen = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
        title = f"{MOST_CLASSES} random classes of {len(present)} in colour"
    figure, axes = plt.subplots(figsize=(6.6, 4.2))
    rest = ~np.isin(labels, chosen)
    axes.scatter(*xy[rest].T, s=6, color=PALE, lw=0)
    for i, k in enumerate(chosen):
        marker, colour = MARKERS[i // len(COLOURS)], COLOURS[i % len(COLOURS)]
        axes.scatter(*xy[labels == k].T, s=16, marker=marker, color=colour, alpha=0.75, lw=0, label=_short(classes[k]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")
    axes.set_title(title)
    figure.legend(loc="outside right upper", markerscale=1.3)
    return figure


@_styled
def roc(y_true: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """ROC curves one against the rest: their macro average, and each class (of more than 10, the five worst)."""
    found = [(k, c) for k, c in enumerate(evaluation.roc_curves(y_true, probabilities)) if c is not None]
    figure, axes = plt.subplots(figsize=(6.6, 3.6))
    grid = np.linspace(0, 1, 201)
    if found:
        mean = np.mean([np.interp(grid, fpr, tpr) for _, (fpr, tpr, _) in found], axis=0)
        area = np.mean([auc for _, (_, _, auc) in found])
        axes.plot([0, *grid], [0, *mean], color="black", lw=2.2, label=f"macro average, {area:.3f}")
    shown = found if len(found) <= 10 else sorted(found, key=lambda item: item[1][2])[:5]
    for i, (k, (fpr, tpr, auc)) in enumerate(shown):
        axes.plot(
            fpr, tpr, "-" if i < 7 else "--", color=COLOURS[i % 7], lw=1.2, label=f"{_short(classes[k])}, {auc:.3f}"
        )
    axes.plot([0, 1], [0, 1], ":", color=PALE, label="guessing, 0.500")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_aspect("equal")
    figure.legend(
        loc="outside right upper", title="area under the curve" + ("" if len(found) <= 10 else ", five worst")
    )
    return figure


@_styled
def calibration(y_true: Any, probabilities: Any, *, bins: int = 10) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy of predictions by their confidence, and how many there are."""
    table = evaluation.calibration(y_true, probabilities, bins)
    filled = table[table["count"] > 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.8))
    left.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    left.bar(filled.confidence, filled.accuracy, width=0.8 / bins, color=COLOURS[4], label="predictions")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    right.bar(filled.confidence, filled["count"], width=0.8 / bins, color=COLOURS[0])
    right.set(xlabel="confidence", ylabel="predictions", xlim=(0, 1))
    return figure


@_styled
def confused_pairs(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, pairs: int = 4, per_pair: int = 5
) -> Figure:
    """The most confused pairs of classes, a row each: the wrong images of which the model was most sure."""
    y_true, probabilities = np.asarray(y_true), np.asarray(probabilities, np.float32)
    y_pred = probabilities.argmax(1)
    table = evaluation.most_confused(evaluation.confusion_matrix(y_true, y_pred, len(classes)), pairs)
    if not len(table):
        figure, axes = plt.subplots(figsize=(4, 0.8))
        axes.axis("off")
        axes.text(0.5, 0.5, "no image is classified wrongly", ha="center")
        return figure
    figure, axes = plt.subplots(len(table), per_pair, figsize=(2 + per_pair, 1.15 * len(table)), squeeze=False)
    for row, (a, b, count, rate) in zip(axes, table[["true", "predicted", "count", "rate"]].to_numpy(), strict=True):
        index = np.flatnonzero((y_true == a) & (y_pred == b))
        index = index[np.argsort(-probabilities[index, int(b)], kind="stable")]
        for j, cell in enumerate(row):
            _show(cell, images[int(index[j])] if j < len(index) else np.full((1, 1, 1), 255, np.uint8))
            cell.set_title(f"{probabilities[index[j], int(b)]:.0%}" if j < len(index) else "", fontsize=7)
        names = f"{_short(classes[int(a)])}\n→ {_short(classes[int(b)])}\n{int(count)} images, {rate:.0%}"
        row[0].set_ylabel(names, rotation=0, ha="right", va="center", fontsize=8)
    return figure


@_styled
def predictions(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, n: int = 10, seed: int = 0
) -> Figure:
    """Random images with predicted class and confidence: ✓ blue when right, ✗ red with the true class when wrong."""
    y_true, probabilities = np.asarray(y_true), np.asarray(probabilities, np.float32)
    index = np.random.default_rng(seed).permutation(len(y_true))[:n]
    y_pred = probabilities.argmax(1)
    titles = [
        f"✓ {classes[y_pred[i]]}\n{probabilities[i].max():.0%}"
        if y_pred[i] == y_true[i]
        else f"✗ {classes[y_pred[i]]}\n{probabilities[i].max():.0%}; it is\n{classes[y_true[i]]}"
        for i in index
    ]
    colours = [RIGHT if y_pred[i] == y_true[i] else WRONG for i in index]
    return image_grid([images[int(i)] for i in index], titles, columns=5, title_colours=colours)
