"""The figures of the lessons, in one style. Each function returns a matplotlib Figure, which a notebook shows once.

Images are uint8 or float in [0, 1], (N, C, H, W), C = 1 or 3; labels are integers (N,); classes are names.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from PIL import Image

from labutil import evaluation
from labutil.images import to_numpy

STYLE = {
    "figure.dpi": 80, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True, "image.cmap": "gray", "lines.linewidth": 1.6,
    "text.parse_math": False,  # a class may be called "$5 to $10"
}  # fmt: skip
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C6D1F", "#000000")
MARKERS = ("o", "^", "s")
RIGHT, WRONG, PALE = "#0072B2", "#D55E00", "#BBBBBB"
MOST_CLASSES = 20  # more cannot be told apart in one figure
# Image figures are what makes a notebook heavy: noise hardly compresses. So many screen pixels of images a figure.
PIXEL_BUDGET = 110_000


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the workbook's style without changing anybody else's."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        # Not plt.rc_context: the first figure loads the notebook's backend, which switches interactive mode on, and
        # leaving the context would switch it off again.
        before = {key: plt.rcParams[key] for key in STYLE}
        plt.rcParams.update(STYLE)
        try:
            return draw(*args, **kwargs)
        finally:
            plt.rcParams.update(before)

    return drawn


def line_style(i: int) -> dict[str, Any]:
    """Colour of the i-th line, and beyond the eight colours a marker."""
    row = i // len(COLOURS) % (len(MARKERS) + 1)
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[row - 1] if row else None}


def short(name: str, width: int = 26) -> str:
    """A name for an axis or a legend, which skips names that begin with an underscore."""
    name = f" {name}" if name.startswith("_") else name
    return name if len(name) <= width else name[: width - 1] + "…"


def wrap(text: str, width: int, lines: int = 3) -> str:
    """Lines of at most `width` characters, each of the text's own lines by itself."""
    parts = [textwrap.wrap(line, width, max_lines=lines, placeholder="…") or [""] for line in text.split("\n")]
    return "\n".join(part for line in parts for part in line)


def _width(text: str, size: float) -> float:
    """Screen pixels that the widest line of a text takes."""
    renderer, font = RendererAgg(1, 1, STYLE["figure.dpi"]), FontProperties(size=size)
    return max(renderer.get_text_width_height_descent(t, font, False)[0] for t in text.split("\n"))


def _fit(text: str, pixels: float, size: float) -> str:
    """The text wrapped into so many screen pixels, whatever letters it has."""
    if _width(text, size) <= pixels:
        return text
    tries = (wrap(text, width) for width in range(max(map(len, text.split("\n"))), 0, -1))
    return next((t for t in tries if _width(t, size) <= pixels), "")


def _pixels(image: Any, side: int) -> np.ndarray:
    """uint8 (h, w, 3) ready to show at about `side` screen pixels: small images enlarged by a whole number, so that
    their pixels stay square and sharp, large ones averaged down. 32 levels a channel look the same at this size and
    halve the file."""
    array = np.moveaxis(to_numpy(image), 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise ValueError(f"images: expected (N, C, H, W) with C = 1 or 3, got (N, {', '.join(map(str, image.shape))})")
    if array.dtype != np.uint8:
        array = (np.clip(array.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    array = np.repeat(array, 3, axis=2) if array.shape[-1] == 1 else array
    longest = max(array.shape[:2])
    if longest <= side:
        times = max(1, (100 if side > 70 else 66) // longest)  # beyond the budget: repeated pixels compress well
        array = array.repeat(times, 0).repeat(times, 1)
    else:
        size = [max(1, round(length * side / longest)) for length in (array.shape[1], array.shape[0])]
        array = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))
    return ((array >> 3).astype(np.uint16) * 255 // 31).astype(np.uint8)


def sheet(
    images: Sequence[Any],
    columns: int,
    *,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Images in rows, on whole screen pixels; None leaves a place empty. One axes for all: 64 of them take a second."""
    side = int(np.clip(math.sqrt(PIXEL_BUDGET / max(sum(i is not None for i in images), 1)), 40, 76))
    tiles = [None if image is None else _pixels(image, side) for image in images]
    high, wide = (max((t.shape[d] for t in tiles if t is not None), default=side) for d in (0, 1))
    gap, line, size = 8, 12, 8
    step = wide + gap
    if titles:
        most = max(step, min(150, 760 / columns))  # screen pixels for a title
        titles = [_fit(t, most - gap, size) for t in titles]
        step = max(step, math.ceil(max(_width(t, size) for t in titles)) + gap)
    left = 0 if row_labels is None else math.ceil(max(_width(t, size) for t in row_labels)) + 2 * gap
    width = left + columns * step
    if title is not None:
        width = max(width, 400)
        title = _fit(title, width - 2 * gap, STYLE["axes.titlesize"])
    y = 0 if title is None else line * (title.count("\n") + 1) + gap
    places = []
    for start in range(0, len(tiles), columns):
        lines = max((t.count("\n") + 1 for t in (titles or [])[start : start + columns] if t), default=0)
        y += gap + line * lines
        places += [(left + j * step + step // 2, y) for j in range(len(tiles[start : start + columns]))]
        y += high
    dpi = STYLE["figure.dpi"]
    figure = plt.figure(figsize=(width / dpi, (y + gap) / dpi), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (tile, (x, top)) in enumerate(zip(tiles, places, strict=True)):
        if tile is None:
            continue
        x0, y0 = x - tile.shape[1] // 2, top + (high - tile.shape[0]) // 2
        axes.imshow(tile, extent=(x0, x0 + tile.shape[1], y0 + tile.shape[0], y0), interpolation="nearest")
        if tile.min() > 240:  # a white image on a white page
            axes.plot(x0 + np.array([0, 1, 1, 0, 0]) * tile.shape[1], y0 + np.array([0, 0, 1, 1, 0]) * tile.shape[0],
                      color="0.7", lw=0.6)  # fmt: skip
        if titles:
            colour = "black" if colours is None else colours[i]
            axes.text(x, top - 3, titles[i], ha="center", va="bottom", fontsize=size, color=colour)
    for row, label in enumerate(row_labels or []):
        axes.text(left - gap, places[row * columns][1] + high / 2, label, ha="right", va="center", fontsize=size)
    if title is not None:
        figure.suptitle(title, y=1 - gap / 2 / (y + gap), va="top", fontsize=STYLE["axes.titlesize"])
    axes.set(xlim=(0, width), ylim=(y + gap, 0))
    axes.axis("off")
    return figure


LINES = {"train": "--", "val": "-", "": "-"}  # others dotted


def reading(text: str) -> None:
    """Show the open figures, then a paragraph (Markdown) that reads them; without a notebook, print the paragraph."""
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is None:
        print(text)
        return
    plt.show()
    display(Markdown(text))


def _check_titles(count: int, titles: Sequence[str] | None, title_colours: Sequence[str] | None) -> None:
    for name, given in (("titles", titles), ("title_colours", title_colours)):
        if given is not None and len(given) != count:
            raise ValueError(f"{name}: {len(given)} for {count} images")


@styled
def image_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 8,
    title: str | None = None,
    title_colours: Sequence[str] | None = None,
) -> Figure:
    """Images in rows of `columns`, each with its title above it; a wide title is wrapped, then cut.

    Args:
        images: uint8 or float in [0, 1] (others are clipped), (N, C, H, W) or a list of (C, H, W), C = 1 or 3.
        titles, title_colours: one for each image.
        title: of the whole figure.

    Raises:
        ValueError: images of another shape, or titles of another number.

    Example:
        image_grid(data.train.images[:16], [data.classes[y] for y in data.train.labels[:16]])
    """
    _check_titles(len(images), titles, title_colours)
    columns = max(1, min(columns, len(images)))
    return sheet(list(images), columns, titles=titles, colours=title_colours, title=title)


@styled
def heat_maps(
    images: Any,
    maps: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 8,
    title: str | None = None,
    title_colours: Sequence[str] | None = None,
) -> Figure:
    """Images, and below each the same in gray under a map: dark where it is 0, yellow where it is 1.

    Args:
        images: as `image_grid` takes them.
        maps: (N, H, W) in [0, 1], such as `explanations.grad_cam` returns.
        titles, title_colours: one for each image. columns: images side by side. title: of the whole figure.

    Raises:
        ValueError: maps of another shape than the images, or titles of another number.

    Example:
        heat_maps(images, grad_cam(model, images), [classes[k] for k in predicted])
    """
    maps = to_numpy(maps)
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(maps) != len(images) or (shapes and shapes != {maps.shape[1:]}):
        raise ValueError(
            f"maps: {maps.shape} for {len(images)} images of {shapes}; expected (N, H, W) of the same size"
        )
    _check_titles(len(images), titles, title_colours)
    columns = max(1, min(columns, len(images)))
    tiles: list[Any] = []
    words, colours, rows = [], [], []
    for start in range(0, len(images), columns):
        index = range(start, min(start + columns, len(images)))
        empty = columns - len(index)
        tiles += [images[i] for i in index] + [None] * empty
        tiles += [_under(images[i], maps[i]) for i in index] + [None] * empty
        words += [titles[i] if titles else "" for i in index] + [""] * (empty + columns)
        colours += [title_colours[i] if title_colours else "black" for i in index] + ["black"] * (empty + columns)
        rows += ["image", "map"]
    return sheet(
        tiles, columns, titles=words if titles else None, colours=colours, row_labels=rows or None, title=title
    )


def _under(image: Any, heat: np.ndarray) -> np.ndarray:
    """The image in gray, seen through the map in colours: float (3, H, W)."""
    array = to_numpy(image)
    gray = array.astype(np.float32).mean(0) / (255 if array.dtype == np.uint8 else 1)
    colour = plt.get_cmap("viridis")(np.clip(heat, 0, 1))[..., :3]
    return np.moveaxis(0.5 * gray[..., None] + 0.5 * colour, -1, 0)


@styled
def image_rows(rows: Mapping[str, Any], *, titles: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """Rows of images with a name before each, such as originals and their reconstructions below them.

    Args:
        rows: {name: images (N, C, H, W)}, as many in every row. titles: one for each column.

    Example:
        image_rows({"image": x, "reconstruction": model(x)})
    """
    images = [list(row) for row in rows.values()]
    columns = len(images[0])
    if {len(row) for row in images} != {columns} or (titles is not None and len(titles) != columns):
        raise ValueError(f"rows: {[len(row) for row in images]} images; all rows (and titles) must be as many")
    names = [wrap(name, 18) for name in rows]
    heads = None if titles is None else [*titles, *[""] * (columns * (len(images) - 1))]
    return sheet([i for row in images for i in row], columns, titles=heads, row_labels=names, title=title)


@styled
def class_samples(images: Any, labels: Any, classes: Sequence[str], *, per_class: int = 6, seed: int = 0) -> Figure:
    """A row of random images for each class (of more than 12 classes, 12 spread evenly over the list).

    Args:
        images, labels: (N, C, H, W) and (N,); label -1 is never drawn.
        seed: of the function's own generator.

    Example:
        class_samples(data.train.images, data.train.labels, data.classes)
    """
    labels = to_numpy(labels)
    shown = np.unique(np.linspace(0, len(classes) - 1, min(12, len(classes))).round().astype(int))
    rng = np.random.default_rng(seed)
    per_class = max(1, min(per_class, max(int((labels == k).sum()) for k in shown)))
    tiles: list[Any] = []
    for k in shown:
        index = rng.permutation(np.flatnonzero(labels == k))[:per_class]
        tiles += [images[int(i)] for i in index] + [None] * (per_class - len(index))
    title = f"{len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else None
    return sheet(tiles, per_class, row_labels=[wrap(classes[k], 18) for k in shown], title=title)


@styled
def class_balance(counts: Any, classes: Sequence[str]) -> Figure:
    """Number of images of each class, in the order of the classes.

    Args:
        counts: (K,), or {name of a set: (K,)} to draw several side by side.

    Example:
        class_balance(data.train.labels.bincount(minlength=len(data.classes)), data.classes)
    """
    sets = counts if isinstance(counts, Mapping) else {"": counts}
    figure, axes = plt.subplots(figsize=(6.5, 2.4 if len(classes) <= 15 else 3.2))
    for i, (name, values) in enumerate(sets.items()):
        place = np.arange(len(classes)) + 0.8 * ((i + 0.5) / len(sets) - 0.5)
        axes.bar(place, to_numpy(values), 0.8 / len(sets), color=COLOURS[i], label=name)
    axes.set_ylabel("images" if isinstance(counts, Mapping) else "training images")
    if isinstance(counts, Mapping):
        figure.legend(loc="outside upper center", ncols=len(sets))
    if len(classes) > 30:
        axes.set_xlabel(f"{len(classes)} classes, from {short(classes[0])} to {short(classes[-1])}")
        axes.set_xticks([])
    else:
        turned = (
            {"rotation": 40, "ha": "right"} if len(classes) <= 15 else {"rotation": 90, "ha": "right", "va": "center"}
        )
        axes.set_xticks(range(len(classes)), [short(c) for c in classes], rotation_mode="anchor", **turned)
    return figure


@styled
def curves(history: pd.DataFrame | Mapping[str, pd.DataFrame], *, x: str = "epoch", lr: bool = False) -> Figure:
    """Loss and accuracy during training: training dashed, validation solid, what else was measured dotted.

    Args:
        history: as `training.fit` returns it, or {name: history} to compare several, a colour each. Every column
            that is called, or ends in, `loss` or `accuracy` is drawn; values that are missing (NaN) are left out.
        x: "epoch", or "seconds" for the time spent so far.
        lr: add the learning rate, on a logarithmic axis.

    Example:
        curves({"SimCLR": simclr_history, "SupCon": supcon_history}, x="seconds")
    """
    histories = history if isinstance(history, Mapping) else {"": history}
    several = len(histories) > 1
    kinds = [k for k in ("loss", "accuracy") if any(_measured(h, k) for h in histories.values())]
    if not kinds:
        raise ValueError("history: no column called, or ending in, loss or accuracy")
    # what was measured, in the order of the columns: "train", "val", "knn", ...
    parts = list(dict.fromkeys(part for k in kinds for h in histories.values() for part in _measured(h, k)))
    panels = [*kinds, "lr"] if lr else kinds
    names = [wrap(short(name, 60), 24) for name in histories]
    lines = len(parts) + sum(name.count("\n") + 1 for name in names) if several else 0
    size = (3.4 * len(panels) + 0.6, max(2.7, 0.17 * lines + 0.3))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for cell, kind in zip(axes[0], panels, strict=True):
        for i, frame in enumerate(histories.values()):
            at = frame["seconds"].cumsum() if x == "seconds" else frame[x]
            for part in _measured(frame, kind):
                values = frame[f"{part}_{kind}".lstrip("_")].dropna().astype(float)
                look = line_style(i if several else parts.index(part) if part in parts else 0)
                look["marker"] = look["marker"] or ("o" if len(values) < 15 else None)
                fill = "white" if part == "train" else look["color"]
                cell.plot(at[values.index], values, LINES.get(part, ":"), markersize=4, mfc=fill, **look)
        cell.set_xlabel("training time (s)" if x == "seconds" else x)
        cell.set_ylabel("learning rate" if kind == "lr" else kind)
        if x == "epoch":
            cell.xaxis.get_major_locator().set_params(integer=True)
            if all(len(h) == 1 for h in histories.values()):
                cell.set_xticks([1])
        if kind == "lr":
            cell.set_yscale("log")
            cell.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            cell.yaxis.set_minor_formatter(NullFormatter())
    words = {"train": "training", "val": "validation"}
    handles = [
        Line2D([], [], ls=LINES.get(part, ":"), label=words.get(part, part.replace("_", " ")),
               color="black" if several else line_style(i)["color"]) for i, part in enumerate(parts)
    ]  # fmt: skip
    if several:
        handles += [Line2D([], [], label=name, **line_style(i)) for i, name in enumerate(names)]
        figure.legend(handles=handles, loc="outside right upper")
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _measured(frame: pd.DataFrame, kind: str) -> list[str]:
    """Whose loss (accuracy, lr) the columns hold: `train_loss` gives "train", `loss` alone ""."""
    return [c.removesuffix(kind).removesuffix("_") for c in frame if c == kind or c.endswith(f"_{kind}")]


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

    Args:
        table: numbers, indexed by what goes along the x axis, columns named as the legend shows them. Values that are
            missing (NaN) are left out.
        std: same rows and columns; NaN where there was a single run.
        log_x: logarithmic x axis, with each index value as a tick.

    Example:
        lines(accuracy.groupby("labels").mean(), std=accuracy.groupby("labels").std(), xlabel="labels", log_x=True)
    """
    figure, cell = plt.subplots(figsize=(4.6, 2.9))
    x = table.index.to_numpy(float)
    for i, name in enumerate(table):
        values = table[name].to_numpy(float)
        known = np.isfinite(values)
        look = line_style(i)
        look["marker"] = look["marker"] or "o"
        cell.plot(x[known], values[known], markersize=4, label=wrap(short(str(name), 60), 24), **look)
        if std is not None:
            spread = np.nan_to_num(std[name].to_numpy(float))[known]
            low, high = values[known] - spread, values[known] + spread
            cell.fill_between(x[known], low, high, color=look["color"], alpha=0.15, lw=0)
    if chance is not None:
        cell.axhline(chance, color="black", ls="--", lw=1, label="chance")
    if log_x:
        cell.set_xscale("log")
        cell.xaxis.set_minor_formatter(NullFormatter())
        cell.set_xticks(x, [f"{value:g}" for value in x])
    cell.set_xlabel(xlabel)
    cell.set_ylabel(ylabel)
    figure.legend(loc="outside right upper")
    return figure


@styled
def bars(values: pd.Series, *, std: pd.Series | None = None, xlabel: str = "", chance: float | None = None) -> Figure:
    """Horizontal bars, one for each entry, with its value; `std` gives error bars, `chance` a dashed line.

    Args:
        values: numbers, indexed by the names to show.
        std: one for each value; NaN where there was a single run.

    Example:
        bars(table["mean"], std=table["std"], xlabel="test accuracy", chance=1 / 8)
    """
    names, numbers = [wrap(str(n), 26) for n in values.index], values.to_numpy(float)
    counts = np.issubdtype(values.dtype, np.integer)
    errors = np.full(len(names), np.nan) if std is None else std.to_numpy(float)
    figure, axes = plt.subplots(figsize=(6.5, 0.55 + 0.36 * len(names) + (0.3 if chance is not None else 0)))
    axes.barh(range(len(names)), numbers, color=COLOURS[4])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for i, (number, error) in enumerate(zip(numbers, errors, strict=True)):
        known = np.isfinite(error)
        if known:
            axes.errorbar(number, i, xerr=error, color="black", capsize=3, lw=1)
        text = f"{number:,.0f}" if counts else f"{number:.3f}"
        text, end = (f"{text} ± {error:.3f}", number + error) if known else (text, number)
        axes.annotate(text, (end, i), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.22)
    if chance is not None:
        axes.axvline(chance, ls="--", color="black", lw=1, zorder=0, label=f"chance, {chance:.3f}")
        figure.legend(loc="outside upper right")
    return figure


@styled
def confusion(matrix: Any, classes: Sequence[str]) -> Figure:
    """Confusion matrix, each row (true class) scaled to 100%, with numbers for up to 15 classes.

    Of more than 30 classes it shows the 20 with most errors (their images taken for others and others' for them), and
    says so; rows are still shares of all images of the class. The row of a class without images is gray.

    Args:
        matrix: counts (K, K), rows true, as `evaluation.confusion_matrix` gives them.

    Example:
        confusion(evaluation.confusion_matrix(y_true, y_pred, len(classes)), classes)
    """
    matrix = np.asarray(matrix, float)
    rates = np.divide(
        matrix, matrix.sum(1, keepdims=True), out=np.full_like(matrix, np.nan), where=matrix.sum(1, keepdims=True) > 0
    )
    names, note = [short(c) for c in classes], ""
    if len(names) > 30:
        off = matrix - np.diag(matrix.diagonal())
        kept = np.sort(np.argsort(-(off.sum(0) + off.sum(1)), kind="stable")[:MOST_CLASSES])
        note = f"the {MOST_CLASSES} of {len(names)} classes with most errors"
        rates, names = rates[np.ix_(kept, kept)], [names[k] for k in kept]
    k = len(names)
    side = 2.4 + (0.36 if k <= 15 else 0.2) * k
    figure, axes = plt.subplots(figsize=(side + 0.8, side))
    drawn = axes.imshow(rates * 100, cmap=plt.get_cmap("Blues").with_extremes(bad=PALE), vmin=0, vmax=100)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="% of the true class")
    axes.set_xticks(
        range(k),
        names,
        rotation=45 if k <= 15 else 90,
        ha="right",
        va="center" if k > 15 else "top",
        rotation_mode="anchor",
    )
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


@styled
def tsne(xy: Any, labels: Any, classes: Sequence[str], *, seed: int = 0) -> Figure:
    """A map of points coloured by class, legend beside it. Of more than 20 classes, 20 random ones are coloured.

    Args:
        xy: (N, 2), as `evaluation.tsne` gives it.
        labels: (N,); -1 (unlabelled) stays gray.
        seed: which 20 classes.

    Example:
        tsne(evaluation.tsne(h), y_true, classes)
    """
    xy, labels = to_numpy(xy), to_numpy(labels)
    present = np.unique(labels[labels >= 0])
    chosen, title = present, ""
    if len(present) > MOST_CLASSES:
        chosen = np.sort(np.random.default_rng(seed).choice(present, MOST_CLASSES, replace=False))
        title = f"{MOST_CLASSES} random classes of {len(present)} in colour"
    figure, axes = plt.subplots(figsize=(6.6, 4.2))
    rest = ~np.isin(labels, chosen)
    axes.scatter(*xy[rest].T, s=6, color=PALE, lw=0)
    for i, k in enumerate(chosen):
        marker, colour = MARKERS[i // len(COLOURS)], COLOURS[i % len(COLOURS)]
        axes.scatter(*xy[labels == k].T, s=16, marker=marker, color=colour, alpha=0.75, lw=0, label=short(classes[k]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("t-SNE 1")
    axes.set_ylabel("t-SNE 2")
    axes.set_title(title)
    if len(chosen):
        figure.legend(loc="outside right upper", markerscale=1.3)
    return figure


@styled
def roc(y_true: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """ROC curves one against the rest: their macro average, and each class (of more than 10, the five worst).

    Args:
        y_true, probabilities: (N,) and (N, K). Classes without images have no curve.

    Example:
        roc(data.test.labels, probabilities, data.classes)
    """
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
            fpr, tpr, "-" if i < 7 else "--", color=COLOURS[i % 7], lw=1.2, label=f"{short(classes[k])}, {auc:.3f}"
        )
    axes.plot([0, 1], [0, 1], ":", color=PALE, label="guessing, 0.500")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_aspect("equal")
    figure.legend(
        loc="outside right upper", title="area under the curve" + ("" if len(found) <= 10 else ", five worst")
    )
    return figure


@styled
def calibration(y_true: Any, probabilities: Any, *, bins: int = 10) -> Figure:
    """Reliability diagram (Guo et al. 2017): accuracy of predictions by their confidence, and how many there are.

    A bar below the diagonal: the model is too sure of itself.

    Example:
        calibration(data.test.labels, probabilities)
    """
    table = evaluation.calibration(y_true, probabilities, bins)
    middle = (np.arange(bins) + 0.5) / bins
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 2.8))
    left.plot([0, 1], [0, 1], ":", color="black", label="as right as confident")
    left.bar(middle, table.accuracy.fillna(0), width=0.9 / bins, color=COLOURS[4], label="images in the bin")
    left.plot(table.confidence, table.accuracy, "o", color=COLOURS[3], ms=4, label="their mean confidence and accuracy")
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    right.bar(middle, table["count"], width=0.9 / bins, color=COLOURS[0])
    right.set(xlabel="confidence", ylabel="images", xlim=(0, 1))
    right.yaxis.get_major_locator().set_params(integer=True)
    return figure


@styled
def confused_pairs(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, pairs: int = 4, per_pair: int = 5
) -> Figure:
    """The most confused pairs of classes, a row each: the wrong images of which the model was most sure.

    Args:
        images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).

    Example:
        confused_pairs(data.test.images, data.test.labels, probabilities, data.classes)
    """
    y_true, probabilities = to_numpy(y_true), to_numpy(probabilities)
    y_pred = probabilities.argmax(1)
    table = evaluation.most_confused(evaluation.confusion_matrix(y_true, y_pred, len(classes)), pairs)
    if not len(table):
        figure, axes = plt.subplots(figsize=(4, 0.8))
        axes.axis("off")
        axes.text(0.5, 0.5, "no image is classified wrongly", ha="center")
        return figure
    per_pair = min(per_pair, table["count"].max())
    tiles, titles, labels = [], [], []
    for a, b, count, rate in table.itertuples(index=False):
        index = np.flatnonzero((y_true == a) & (y_pred == b))
        index = index[np.argsort(-probabilities[index, b], kind="stable")][:per_pair]
        empty = per_pair - len(index)
        tiles += [images[int(i)] for i in index] + [None] * empty
        titles += [f"{probabilities[i, b]:.0%}" for i in index] + [""] * empty
        noun = "image" if count == 1 else "images"
        labels.append(f"{short(classes[a])}\n→ {short(classes[b])}\n{count} {noun}, {rate:.0%}")
    return sheet(tiles, per_pair, titles=titles, row_labels=labels)


@styled
def predictions(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, n: int = 10, seed: int = 0
) -> Figure:
    """Random images with predicted class and confidence: ✓ blue when right, ✗ red with the true class when wrong.

    Args:
        images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).
        n: how many; seed: which, of the function's own generator.

    Example:
        predictions(data.test.images, data.test.labels, probabilities, data.classes)
    """
    y_true, probabilities = to_numpy(y_true), to_numpy(probabilities)
    index = np.random.default_rng(seed).permutation(len(y_true))[:n]
    titles, colours = [], []
    for i in index:
        k = probabilities[i].argmax()
        right, sure = k == y_true[i], f"{probabilities[i, k]:.0%}"
        titles.append(f"✓ {classes[k]}\n{sure}" if right else f"✗ {classes[k]}\n{sure}; it is\n{classes[y_true[i]]}")
        colours.append(RIGHT if right else WRONG)
    return image_grid([images[int(i)] for i in index], titles, columns=5, title_colours=colours)


@styled
def matrices(
    panels: Mapping[str, Any], *, limits: tuple[float, float] = (-1, 1), label: str = "", title: str = ""
) -> Figure:
    """Matrices side by side as pictures, one title and one scale of colours: correlations, similarities, masks.

    Args:
        panels: {title: (M, N)}, rows down, columns across; NaN is gray.
        limits: values of the darkest colours; with a negative one the scale is red and blue with white at their middle.
        label: of the colours. title: of the whole figure.

    Example:
        matrices({"start": c_random, "trained": c}, label="correlation")
    """
    arrays = [to_numpy(values).astype(float) for values in panels.values()]
    colours = plt.get_cmap("RdBu" if limits[0] < 0 else "Blues").with_extremes(bad=PALE)
    figure, axes = plt.subplots(1, len(arrays), figsize=(2.9 * len(arrays) + 0.9, 3.1), squeeze=False)
    for cell, name, array in zip(axes[0], panels, arrays, strict=True):
        drawn = cell.imshow(array, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        cell.set_title(wrap(name, 34))
        cell.set_xticks([])
        cell.set_yticks([])
    if label:
        figure.colorbar(drawn, ax=axes, shrink=0.8, label=label)
    if title:
        figure.suptitle(wrap(title, 40 * len(arrays) + 10), fontsize=STYLE["axes.titlesize"])
    return figure
