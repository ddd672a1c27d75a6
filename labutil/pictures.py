"""Figures made of images in rows.

Images are uint8 or float in [0, 1], (N, C, H, W), C = 1 or 3; labels are integers (N,); classes are names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from labutil import evaluation
from labutil.images import to_numpy
from labutil.style import RIGHT, STYLE, WRONG, fit, short, styled, text_width, words, wrap

MOST = 720  # page pixels across a figure
PIXEL_BUDGET = 180_000  # page pixels of a figure's images, so that notebooks stay small
GAP, BETWEEN, LINE = 8, 6, 19  # page pixels between images, between titles, and of a line of text


def _rgb(image: Any) -> np.ndarray:
    """An image (C, H, W) as uint8 (H, W, 3)."""
    array = to_numpy(image)
    if array.ndim != 3 or len(array) not in (1, 3):
        raise ValueError(f"images: expected (N, C, H, W) with C = 1 or 3, got (N, {', '.join(map(str, array.shape))})")
    if array.dtype != np.uint8:
        array = (array.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
    return np.moveaxis(np.broadcast_to(array, (3, *array.shape[1:])), 0, -1)


def _page_size(tile: np.ndarray, side: int) -> tuple[int, int]:
    """Height and width in page pixels: `side` across, twice that down at most; small images are enlarged by a multiple
    of one half, so that their pixels stay sharp on a screen of two pixels a page pixel."""
    longest = max(tile.shape[1], math.ceil(tile.shape[0] / 2))
    scale = side / longest if longest > side else side * 2 // longest / 2
    return max(1, round(scale * tile.shape[0])), max(1, round(scale * tile.shape[1]))


def sheet(
    rows: Sequence[tuple[str, Sequence[Any], Sequence[str]]], *, colours: Sequence[str] = (), title: str = ""
) -> Figure:
    """Rows of (label, images, their titles or none) on whole pixels, in one axes: 64 images take a second.
    colours: of all titles, one after the other."""
    tiles = [[_rgb(image) for image in images] for _, images, _ in rows]
    labels = [fit(label, MOST / 3) for label, *_ in rows]
    widest = math.ceil(max(map(text_width, labels), default=0))
    left = widest + 2 * GAP if widest else 0
    columns = max([1, *map(len, tiles)])
    room = (MOST - left) // columns - GAP
    side = max(32, min(112, room, math.isqrt(PIXEL_BUDGET // max(1, sum(map(len, tiles))))))
    sizes = [[_page_size(tile, side) for tile in row] for row in tiles]
    high, wide = np.max([*itertools.chain(*sizes)] or [(side, side)], axis=0).tolist()
    longest = max((text_width(word) for *_, row in rows for text in row for word in words(text)), default=0)
    room = max(room, min(MOST / 6 - BETWEEN, longest))  # rather than cut a word in two
    titles = [[fit(text, max(wide, min(150, room))) for text in row] for *_, row in rows]
    step = max([wide + GAP, *(math.ceil(text_width(text)) + BETWEEN for row in titles for text in row)])
    width = max(left + columns * step, 480 if title else 0)
    title = fit(title, width - 2 * GAP)
    y = LINE * (title.count("\n") + 1) + GAP if title else 0
    figure = plt.figure(layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    colour_of_next = iter(colours or itertools.repeat("black"))
    for row, texts, shapes, label in zip(tiles, titles, sizes, labels, strict=True):
        y += GAP + LINE * max([text.count("\n") + 1 for text in texts if text], default=0)
        for j, (tile, text, (h, w)) in enumerate(itertools.zip_longest(row, texts, shapes, fillvalue="")):
            x0, y0 = left + j * step + (step - w) // 2, y + (high - h) // 2
            axes.imshow(tile, extent=(x0, x0 + w, y0 + h, y0), interpolation="antialiased")
            if tile.min() > 240:  # a white image on a white page
                axes.add_patch(plt.Rectangle((x0, y0), w, h, fill=False, ec="0.7", lw=0.6))
            axes.text(x0 + w / 2, y - 4, text, ha="center", va="bottom", color=next(colour_of_next))
        if label:
            axes.text(left - GAP, y + high / 2, label, ha="right", va="center")
        y += high
    figure.set_size_inches(width / STYLE["figure.dpi"], (y + GAP) / STYLE["figure.dpi"])
    if title:
        figure.suptitle(title, y=1 - GAP / 2 / (y + GAP), va="top")
    axes.set(xlim=(0, width), ylim=(y + GAP, 0), aspect="auto", xticks=[], yticks=[])  # making ticks takes a third
    axes.axis("off")
    return figure


@styled
def image_grid(
    images: Any,
    titles: Sequence[str] = (),
    *,
    columns: int | None = None,
    title: str = "",
    title_colours: Sequence[str] = (),
) -> Figure:
    """Images in rows, each with its title above it; a wide title is wrapped, then cut.

    images: (N, C, H, W) or a list of (C, H, W). title: of the whole figure. titles, title_colours: one for each image.
    columns: None: up to eight, so few that no word of a title is cut.
    """
    for name, given in (("titles", titles), ("title_colours", title_colours)):
        if len(given) not in (0, len(images)):
            raise ValueError(f"{name}: {len(given)} for {len(images)} images")
    if columns is None:
        longest = max((text_width(word) for text in titles for word in words(text)), default=1)
        columns = int(np.clip(MOST // (longest + 9), 3, 8))
    starts = range(0, len(images), columns)
    rows = [("", images[i : i + columns], titles[i : i + columns]) for i in starts]
    return sheet(rows, colours=title_colours, title=title)


def heat_maps(images: Any, maps: Any, titles: Sequence[str] = (), **settings: Any) -> Figure:
    """Images, and below each the same in gray under a map: dark where it is 0, yellow where it is 1.

    images: (N, C, H, W). maps: (N, H, W) in [0, 1], such as `grad_cam.grad_cam` returns. settings: as for `image_grid`.
    """
    images, maps, pairs = to_numpy(images), to_numpy(maps), []
    if maps.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"maps: {maps.shape} for images {images.shape}; expected (N, H, W)")
    for image, heat in zip(map(_rgb, images), maps, strict=True):
        colour = plt.get_cmap("viridis")(heat.clip(0, 1))[..., :3]
        between = np.ones((1 + heat.shape[0] // 32, heat.shape[1], 3))
        pair = np.concatenate([image / 255, between, (image.mean(-1, keepdims=True) / 255 + colour) / 2])
        pairs.append(np.moveaxis(pair, -1, 0))
    return image_grid(pairs, titles, **settings)


@styled
def image_rows(rows: Mapping[str, Any], *, titles: Sequence[str] = (), title: str = "") -> Figure:
    """Rows of images with a name before each, such as originals and their reconstructions below them.

    rows: {name: images (N, C, H, W)}, as many in every row. titles: one for each column.
    """
    counts = [len(images) for images in rows.values()]
    if {*counts, len(titles) if titles else counts[0]} != {counts[0]}:
        raise ValueError(f"rows: {counts} images; all rows (and titles) must be as many")
    heads = itertools.chain([titles], itertools.repeat(()))
    return sheet([(wrap(name, 18), images, next(heads)) for name, images in rows.items()], title=title)


@styled
def class_samples(images: Any, labels: Any, classes: Sequence[str], *, per_class: int = 6) -> Figure:
    """A row of random images for each class (of more than 12 classes, 12 spread evenly over the list).

    images, labels: (N, C, H, W) and (N,); label -1 is never drawn.
    """
    labels = to_numpy(labels)
    shown = np.unique(np.linspace(0, len(classes) - 1, min(12, len(classes))).round().astype(int))
    rng = np.random.default_rng(0)
    index = {k: rng.permutation(np.flatnonzero(labels == k))[:per_class] for k in shown}
    rows = [(wrap(classes[k], 18), images[index[k]], ()) for k in shown]
    return sheet(rows, title=f"{len(shown)} of {len(classes)} classes" if len(shown) < len(classes) else "")


@styled
def confused_pairs(images: Any, y_true: Any, probabilities: Any, classes: Sequence[str]) -> Figure:
    """The four most confused pairs of classes, a row each: the wrong images of which the model was most sure.

    images, y_true, probabilities: (N, C, H, W), (N,) and (N, K).
    """
    y_true, probabilities, rows = to_numpy(y_true), to_numpy(probabilities), []
    y_pred = probabilities.argmax(1)
    confusion = evaluation.confusion_matrix(y_true, y_pred, len(classes))
    for a, b, count, rate in evaluation.most_confused(confusion, 4).itertuples(index=False):
        index = np.flatnonzero((y_true == a) & (y_pred == b))
        index = index[np.argsort(-probabilities[index, b], kind="stable")][:5]
        label = f"{short(classes[a])}\n→ {short(classes[b])}\n{count} image{'s' * (count > 1)}, {rate:.0%}"
        rows.append((label, images[index], [f"{probability:.0%}" for probability in probabilities[index, b]]))
    return sheet(rows, title="" if rows else "no image is classified wrongly")


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
        titles.append(
            f"✓\u202f{classes[k]}\n{sure}" if right else f"✗\u202f{classes[k]}\n{sure}; it is\n{classes[y_true[i]]}"
        )
        colours.append(RIGHT if right else WRONG)
    return image_grid(images[index], titles, columns=5, title_colours=colours)
