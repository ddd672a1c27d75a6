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
from PIL import Image

from labutil import evaluation
from labutil.images import to_numpy
from labutil.style import RIGHT, STYLE, WRONG, fit, legible, short, styled, text_width, wrap

MOST = 720  # page pixels across a figure
PIXEL_BUDGET = 170_000  # page pixels of a figure's images: noise hardly compresses, and notebooks should stay small


def _tile(image: Any, side: int) -> tuple[np.ndarray, int, int]:
    """uint8 (h, w, 3), and the height and width in page pixels to show it at: `side` across, twice that down at most.

    Small images are enlarged by a whole or a half number, so that their pixels stay sharp on a screen of two pixels a
    page pixel; large ones are averaged down. 32 levels a channel look the same at this size and halve the file.
    """
    array = np.moveaxis(to_numpy(image), 0, -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise ValueError(f"images: expected (N, C, H, W) with C = 1 or 3, got (N, {', '.join(map(str, image.shape))})")
    if array.dtype != np.uint8:
        array = (np.clip(array.astype(np.float32), 0, 1) * 255).round().astype(np.uint8)
    array = np.repeat(array, 3, axis=2) if array.shape[-1] == 1 else array
    longest = max(array.shape[1], math.ceil(array.shape[0] / 2))
    scale = side / longest if longest > side else side * 2 // longest / 2
    high, wide = (max(1, round(length * scale)) for length in array.shape[:2])
    if longest > 2 * side:
        array = np.asarray(Image.fromarray(array).resize((2 * wide, 2 * high), Image.Resampling.BOX))
    return ((array >> 3).astype(np.uint16) * 255 // 31).astype(np.uint8), high, wide


def sheet(
    images: Sequence[Any],
    columns: int,
    *,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Images in rows, on whole pixels; None leaves a place empty. One axes for all: 64 of them take a second."""
    gap, line = 8, 19  # pixels between images, and a line of text
    row_labels = [fit(label, MOST / 3) for label in row_labels or []]
    left = math.ceil(max(map(text_width, row_labels))) + 2 * gap if row_labels else 0
    room = (MOST - left) // columns - gap
    count = max(1, sum(image is not None for image in images))
    longest = max((length for image in images if image is not None for length in image.shape[1:]), default=1)
    side = min(112, room, math.sqrt(2 * PIXEL_BUDGET / count))
    side = int(max(32, side if longest <= side else min(side, math.sqrt(PIXEL_BUDGET / count))))
    tiles = [None if image is None else _tile(image, side) for image in images]
    high, wide = (max((tile[d] for tile in tiles if tile), default=side) for d in (1, 2))
    titles = [fit(t, max(wide, min(150, room))) for t in titles or [""] * len(images)]
    step = max([wide, *(math.ceil(text_width(t)) for t in titles)]) + gap
    width = left + columns * step
    if title is not None:
        width = max(width, 480)
        title = fit(title, width - 2 * gap)
    y = 0 if title is None else line * (title.count("\n") + 1) + gap
    places = []
    for start in range(0, len(tiles), columns):
        y += gap + line * max((t.count("\n") + 1 for t in titles[start : start + columns] if t), default=0)
        places += [(left + j * step + step // 2, y) for j in range(columns)]
        y += high
    dpi = STYLE["figure.dpi"]
    figure = plt.figure(figsize=(width / dpi, (y + gap) / dpi), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (tile, (x, top)) in enumerate(zip(tiles, places, strict=False)):
        if tile is None:
            continue
        array, h, w = tile
        x0, y0 = x - w // 2, top + (high - h) // 2
        sharp = "hanning" if 2 * w % array.shape[1] else "nearest"
        axes.imshow(array, extent=(x0, x0 + w, y0 + h, y0), interpolation=sharp)
        if array.min() > 240:  # a white image on a white page
            axes.plot([x0, x0 + w, x0 + w, x0, x0], [y0, y0, y0 + h, y0 + h, y0], color="0.7", lw=0.6)
        axes.text(x, top - 4, titles[i], ha="center", va="bottom", color=colours[i] if colours else "black")
    for row, label in enumerate(row_labels):
        axes.text(left - gap, places[row * columns][1] + high / 2, label, ha="right", va="center")
    if title is not None:
        figure.suptitle(title, y=1 - gap / 2 / (y + gap), va="top", fontsize=STYLE["font.size"])
    axes.set(xlim=(0, width), ylim=(y + gap, 0), aspect="auto")
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

    images: uint8 or float in [0, 1] (others are clipped), (N, C, H, W) or a list of (C, H, W), C = 1 or 3.
    titles, title_colours: one for each image. title: of the whole figure.
    columns: as many as asked for; None: up to eight, so few that no word of a title is cut.
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

    maps: (N, H, W) in [0, 1], such as `grad_cam.grad_cam` returns. images, titles, and settings (columns, title,
    title_colours): as `image_grid` takes them.
    Raises ValueError for maps of another shape than the images, or titles of another number.

    Example:
        heat_maps(images, grad_cam(model, images), [classes[k] for k in predicted])
    """
    maps = to_numpy(maps)
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(maps) != len(images) or (shapes and shapes != {maps.shape[1:]}):
        raise ValueError(f"maps: {maps.shape} for {len(images)} images of {shapes}; expected (N, H, W) of one size")
    pairs = []
    for given, heat in zip(map(to_numpy, images), maps, strict=True):
        image = given.astype(np.float32) / (255 if given.dtype == np.uint8 else 1)
        colour = np.moveaxis(plt.get_cmap("viridis")(np.clip(heat, 0, 1))[..., :3], -1, 0)
        between = np.ones((3, 1 + heat.shape[0] // 32, heat.shape[1]))
        pairs.append(np.concatenate([np.broadcast_to(image, colour.shape), between, (image.mean(0) + colour) / 2], 1))
    return image_grid(pairs, titles, **settings)


@styled
def image_rows(rows: Mapping[str, Any], *, titles: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """Rows of images with a name before each, such as originals and their reconstructions below them.

    rows: {name: images (N, C, H, W)}, as many in every row. titles: one for each column.

    Example:
        image_rows({"image": x, "reconstruction": model(x)})
    """
    images = [list(row) for row in rows.values()]
    columns = len(images[0])
    if {len(row) for row in images} != {columns} or (titles is not None and len(titles) != columns):
        raise ValueError(f"rows: {[len(row) for row in images]} images; all rows (and titles) must be as many")
    heads = [*(titles or [""] * columns), *[""] * (columns * (len(images) - 1))]
    names = [wrap(name, 18) for name in rows]
    return sheet([i for row in images for i in row], columns, titles=heads, row_labels=names, title=title)


@styled
def class_samples(images: Any, labels: Any, classes: Sequence[str], *, per_class: int = 6, seed: int = 0) -> Figure:
    """A row of random images for each class (of more than 12 classes, 12 spread evenly over the list).

    images, labels: (N, C, H, W) and (N,); label -1 is never drawn. seed: of the function's own generator.

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
def confused_pairs(
    images: Any, y_true: Any, probabilities: Any, classes: Sequence[str], *, pairs: int = 4, per_pair: int = 5
) -> Figure:
    """The most confused pairs of classes, a row each: the wrong images of which the model was most sure.

    images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).

    Example:
        confused_pairs(data.test.images, data.test.labels, probabilities, data.classes)
    """
    y_true, probabilities = to_numpy(y_true), to_numpy(probabilities)
    y_pred = probabilities.argmax(1)
    table = evaluation.most_confused(evaluation.confusion_matrix(y_true, y_pred, len(classes)), pairs)
    if not len(table):
        return sheet([], 1, title="no image is classified wrongly")
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

    images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).
    n: how many. seed: which, of the function's own generator.

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
