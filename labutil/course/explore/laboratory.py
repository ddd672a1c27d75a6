"""Explorer of the second laboratory: the same cells under another stain, and what a network calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from labutil import plots
from labutil.course.explore.frame import explore, slider
from labutil.course.explore.predictions import verdicts
from labutil.data import cells
from labutil.data.loading import resize
from labutil.images import to_numpy

SHOWN = 8  # cells at a time


def stain(predict: Callable[[Tensor], Any], classes: Sequence[str], *, image_size: int = 48) -> None:
    """Take cells step by step from the home laboratory to the second one (stain, light, focus, noise), and see what a
    network calls them. The cells are drawn anew at each step, themselves the same; they are in no split of `cells`.

    predict: maps images uint8 (n, 3, image_size, image_size) to probabilities (n, K). classes: the K names; a line says
    so where they are not those of `cells`, of which alone it is known how another laboratory would show them.

    Example:
        explore.stain(lambda x: evaluation.predict(model, x).softmax(1), data.classes, image_size=data.image_size)
    """
    if tuple(classes) != cells.CLASSES:
        print("Only of cells is it known how they would look elsewhere: with dataset cells, sliders appear here.")
        return

    def draw(page: int, **shares: float) -> Figure:
        images, y_true = cells.between(range((page - 1) * SHOWN, page * SHOWN), shares)
        x = torch.from_numpy(next(resize(images, image_size)))
        p = to_numpy(predict(x))
        y_pred = p.argmax(1)
        titles, colours = verdicts(y_true, y_pred, classes)
        where = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share) or "all as at home"
        right = f"{(y_pred == y_true).sum()} of {SHOWN} right, mean confidence {p.max(1).mean():.0%}"
        return plots.image_grid(x, titles, columns=4, title=f"{where}: {right}", title_colours=colours)

    alt = "Cells as the chosen laboratory shows them, each with what is predicted of it."
    shares = {name: slider(0.0, 0.0, 1.5, name, step=0.1, form=".0%") for name in cells.PARTS}
    explore(draw, alt=alt, **shares, page=slider(1, 1, 20, "page"))
