"""What the figures share: the style, colours, names cut to fit, and sheets of images on whole screen pixels.

Colours follow Okabe and Ito (2008), which colour-blind readers can tell apart; more than eight classes also differ by
marker.
"""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

from labutil import evaluation

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
    array = np.moveaxis(evaluation.to_numpy(image), 0, -1)
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
