"""Explorer of lesson 02: predictions, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labutil import plots
from labutil.course.explore.frame import class_menu, explore, slider, toggle

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def errors(
    images: Tensor,
    y_true: Tensor,
    probabilities: Tensor,
    classes: Sequence[str],
    *,
    n: int = 12,
    confidence: float = 0.5,
) -> None:
    """Browse predictions: choose a true class, a least confidence, and whether to see wrong or right ones.

    images: uint8 (N, C, H, W). y_true: int (N,). probabilities: float (N, K). n: images shown at a time, the most
    confident first. confidence: where the slider starts, in [0, 1].

    Example:
        explore.errors(data.test.images, data.test.labels, probabilities, data.classes)
    """
    y_true, probabilities = np.asarray(y_true), np.asarray(probabilities, np.float32)
    y_pred, sure = probabilities.argmax(1), probabilities.max(1)

    def draw(true_class: int, least_confidence: float, show: str) -> Figure:
        chosen = (y_pred == y_true) == (show == "right")
        chosen &= sure >= least_confidence
        if true_class >= 0:
            chosen &= y_true == true_class
        index = np.flatnonzero(chosen)
        index = index[np.argsort(-sure[index], kind="stable")]
        name = "all classes" if true_class < 0 else classes[true_class]
        title = f"{len(index)} {show} predictions of {name} with confidence {least_confidence:.2f} or more"
        titles = [f"{classes[y_true[i]]}\n→ {classes[y_pred[i]]} {sure[i]:.0%}" for i in index[:n]]
        return plots.image_grid(images[index[:n]], titles, columns=6, title=title)

    explore(
        draw,
        true_class=class_menu(classes),
        least_confidence=slider(confidence, 0, 1, "confidence", step=0.05),
        show=toggle(["wrong", "right"], "show"),
    )
