"""Figures made of images in rows: grids, rows, samples of classes, predictions, heat maps over images.

Images are uint8 or float in [0, 1], (N, C, H, W), C = 1 or 3; labels are integers (N,); classes are names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from labutil import evaluation
from labutil.images import to_numpy
from labutil.style import RIGHT, STYLE, WRONG, fit, legible, short, styled, text_width, wrap

MOST = 720  # page pixels across a figure
PIXEL_BUDGET = 180_000  # page pixels of a figure's images, so that notebooks stay small
GAP, LINE = 8, 19  # page pixels between images, and of a line of text


def _rgb(image: Any) -> np.ndarray:
    """An image (C, H, W) as uint8 (H, W, 3)."""
    array = to_numpy(image)
    if array.ndim != 3 or len(array) not in (1, 3):
        raise ValueError(f"images: expected (N, C, H, W) with C = 1 or 3, got (N, {', '.join(map(str, array.shape))})")
    if array.dtype != np.uint8:
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    return np.moveaxis(np.broadcast_to(array, (3, *array.shape[1:])), 0, -1)


def _page_size(tile: np.ndarray, side: int) -> tuple[int, int]:
    """Height and width in page pixels: `side` across, twice that down at most. Small images are enlarged by a whole or
    a half number, so that their pixels stay sharp on a screen of two pixels a page pixel."""
    longest = max(tile.shape[1], math.ceil(tile.shape[0] / 2))
    scale = side / longest if longest > side else side * 2 // longest / 2
    return max(1, round(scale * tile.shape[0])), max(1, round(scale * tile.shape[1]))


def sheet(
    images: Sequence[Any],
    columns: int,
    *,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    row_labels: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Images in rows, on whole pixels; None leaves a place empty. One axes for all: 64 of them take a second."""
    tiles = [None if image is None else _rgb(image) for image in images]
    titles, row_labels = list(titles or [""] * len(tiles)), [fit(label, MOST / 3) for label in row_labels]
    left = math.ceil(max(map(text_width, row_labels))) + 2 * GAP if row_labels else 0
    room = (MOST - left) // columns - GAP
    count = max(1, sum(tile is not None for tile in tiles))
    side = max(32, min(112, room, math.isqrt(PIXEL_BUDGET // count)))
    sizes = [(0, 0) if tile is None else _page_size(tile, side) for tile in tiles]
    high, wide = np.max(sizes or [(side, side)], axis=0).tolist()
    titles = [fit(t, max(wide, min(150, room))) for t in titles]
    step = max([wide, *(math.ceil(text_width(t)) for t in titles)]) + GAP
    width = left + columns * step
    if title is not None:
        width = max(width, 480)
        title = fit(title, width - 2 * GAP)
    y = 0 if title is None else LINE * (title.count("\n") + 1) + GAP
    dpi = STYLE["figure.dpi"]
    figure = plt.figure(layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    for start in range(0, len(tiles), columns):
        row = range(start, min(start + columns, len(tiles)))
        y += GAP + LINE * max(titles[i].count("\n") + 1 if titles[i] else 0 for i in row)
        for i in row:
            if tiles[i] is None:
                continue
            h, w = sizes[i]
            x0, y0 = left + (i - start) * step + (step - w) // 2, y + (high - h) // 2
            axes.imshow(tiles[i], extent=(x0, x0 + w, y0 + h, y0), interpolation="antialiased")
            if tiles[i].min() > 240:  # a white image on a white page
                axes.add_patch(plt.Rectangle((x0, y0), w, h, fill=False, ec="0.7", lw=0.6))
            colour = colours[i] if colours else "black"
            axes.text(x0 + w / 2, y - 4, titles[i], ha="center", va="bottom", color=colour)
        if row_labels:
            axes.text(left - GAP, y + high / 2, row_labels[start // columns], ha="right", va="center")
        y += high
    figure.set_size_inches(width / dpi, (y + GAP) / dpi)
    if title is not None:
        figure.suptitle(title, y=1 - GAP / 2 / (y + GAP), va="top")
    axes.set(xlim=(0, width), ylim=(y + GAP, 0), aspect="auto")
    axes.axis("off")
    return figure


@styled
def image_grid(
    images: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str | None = None,
    title_colours: Sequence[str] | None = None,
) -> Figure:
    """Images in rows, each with its title above it; a wide title is wrapped, then cut.

    images: (N, C, H, W) or a list of (C, H, W); values outside [0, 1] are clipped. title: of the whole figure.
    titles, title_colours: one for each image. columns: None: up to eight, so few that no word of a title is cut.
    Raises ValueError for images of another shape, or titles of another number.

    Example:
        image_grid(data.train.images[:16], [data.classes[y] for y in data.train.labels[:16]])
    """
    for name, given in (("titles", titles), ("title_colours", title_colours)):
        if given is not None and len(given) != len(images):
            raise ValueError(f"{name}: {len(given)} for {len(images)} images")
    if columns is None:
        words = [word for title in titles or [] for word in legible(title).split()]
        columns = int(np.clip(MOST // (max(map(text_width, words), default=1) + 9), 3, 8))
    columns = max(1, min(columns, len(images)))
    return sheet(list(images), columns, titles=titles, colours=title_colours, title=title)


def heat_maps(images: Any, maps: Any, titles: Sequence[str] | None = None, **settings: Any) -> Figure:
    """Images, and below each the same in gray under a map: dark where it is 0, yellow where it is 1.

    maps: (N, H, W) in [0, 1], such as `grad_cam.grad_cam` returns. settings: columns, title, title_colours, as
    `image_grid` takes them. Raises ValueError for maps of another shape than the images, or titles of another number.
    """
    maps, pairs = to_numpy(maps), []
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(maps) != len(images) or (shapes and shapes != {maps.shape[1:]}):
        raise ValueError(f"maps: {maps.shape} for {len(images)} images of {shapes}; expected (N, H, W) of one size")
    for image, heat in zip(map(_rgb, images), maps, strict=True):
        colour = plt.get_cmap("viridis")(heat.clip(0, 1))[..., :3]
        between = np.ones((1 + heat.shape[0] // 32, heat.shape[1], 3))
        pair = np.concatenate([image / 255, between, (image.mean(-1, keepdims=True) / 255 + colour) / 2])
        pairs.append(np.moveaxis(pair, -1, 0))
    return image_grid(pairs, titles, **settings)


@styled
def image_rows(rows: Mapping[str, Any], *, titles: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """Rows of images with a name before each, such as originals and their reconstructions below them.

    rows: {name: images (N, C, H, W)}, as many in every row. titles: one for each column.
    """
    images = [list(row) for row in rows.values()]
    columns = len(images[0])
    if {len(row) for row in images} != {columns} or (titles is not None and len(titles) != columns):
        raise ValueError(f"rows: {[len(row) for row in images]} images; all rows (and titles) must be as many")
    heads = [*(titles or [""] * columns), *[""] * (columns * (len(images) - 1))]
    names = [wrap(name, 18) for name in rows]
    return sheet([i for row in images for i in row], columns, titles=heads, row_labels=names, title=title)


@styled
def class_samples(images: Any, labels: Any, classes: Sequence[str], *, per_class: int = 6) -> Figure:
    """A row of random images for each class (of more than 12 classes, 12 spread evenly over the list).

    images, labels: (N, C, H, W) and (N,); label -1 is never drawn.
    """
    labels = to_numpy(labels)
    shown = np.unique(np.linspace(0, len(classes) - 1, min(12, len(classes))).round().astype(int))
    rng = np.random.default_rng(0)
    per_class = max(1, min(per_class, max(int((labels == k).sum()) for k in shown)))
    tiles: list[Any] = []
    for k in shown:
        index = rng.permutation(np.flatnonzero(labels == k))[:per_class]
        tiles += [images[int(i)] for i in index] + [None] * (per_class - len(index))
    title = f"{len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else None
    return sheet(tiles, per_class, row_labels=[wrap(classes[k], 18) for k in shown], title=title)


@styled
def confused_pairs(images: Any, y_true: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """The four most confused pairs of classes, a row each: the wrong images of which the model was most sure.

    images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).
    """
    y_true, probabilities = to_numpy(y_true), to_numpy(probabilities)
    y_pred = probabilities.argmax(1)
    table = evaluation.most_confused(evaluation.confusion_matrix(y_true, y_pred, len(classes)), 4)
    if not len(table):
        return sheet([], 1, title="no image is classified wrongly")
    columns = min(5, table["count"].max())
    tiles, titles, labels = [], [], []
    for a, b, count, rate in table.itertuples(index=False):
        index = np.flatnonzero((y_true == a) & (y_pred == b))
        index = index[np.argsort(-probabilities[index, b], kind="stable")][:columns]
        tiles += [images[int(i)] for i in index] + [None] * (columns - len(index))
        titles += [f"{probabilities[i, b]:.0%}" for i in index] + [""] * (columns - len(index))
        noun = "image" if count == 1 else "images"
        labels.append(f"{short(classes[a])}\n→ {short(classes[b])}\n{count} {noun}, {rate:.0%}")
    return sheet(tiles, columns, titles=titles, row_labels=labels)


@styled
def predictions(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, n: int = 10, seed: int = 0
) -> Figure:
    """Random images with predicted class and confidence: ✓ blue when right, ✗ red with the true class when wrong.

    images, y_true, probabilities: (N, C, H, W), (N,) and (N, K). n: how many. seed: which ones.
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
