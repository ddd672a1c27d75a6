"""Explorers of lesson 01: thresholds of the detectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labutil import plots
from labutil.course.explore.frame import explore, slider

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor


def threshold(
    images: Tensor,
    found: pd.DataFrame,
    *,
    start: float,
    truth: Iterable[int] | None = None,
    names: Sequence[str] | None = None,
    score: str = "score",
    n: int = 8,
) -> None:
    """Move the threshold of a detector: how many images it flags, and the pictures on both sides of it.

    images: uint8 (N, C, H, W). found: a table with `index` and `score`, a row an image. start: where the slider
    begins, in the score's units. truth: indices that should be flagged, where known: shows recall and precision.
    names: (N,) a word for each image, such as its label. n: pictures on each side.

    Example:
        explore.threshold(data.train.images, cleaning.outliers(data.train.images), start=4)
    """
    found = found.sort_values(score, ascending=False, kind="stable")
    rows, scores = found["index"].to_numpy(), found[score].to_numpy()
    right = None if truth is None else np.isin(rows, np.fromiter(truth, np.int64))

    def draw(value: float) -> Figure:
        cut = int((scores > value).sum())
        shown = range(max(0, cut - n), min(len(rows), cut + n))
        titles = [f"{scores[i]:.2f}" + (f" {names[rows[i]]}" if names is not None else "") for i in shown]
        colours = [plots.COLOURS[1] if i < cut else "black" for i in shown]
        title = f"{cut} of {len(rows)} images lie above {value:.2f}; coloured: the last of them, black: the next"
        if right is not None:
            title += f"\nrecall {right[:cut].sum() / max(1, right.sum()):.1%}, precision {_share(right[:cut])}"
        pictures = [images[int(rows[i])] for i in shown]
        return plots.image_grid(pictures, titles, columns=n, title=title, title_colours=colours)

    explore(draw, value=_score_slider(scores, start))


def pairs(
    images: Tensor,
    found: pd.DataFrame,
    *,
    reference: Tensor | None = None,
    start: float = 0.5,
    truth: Iterable[tuple[int, int]] | None = None,
    n: int = 4,
) -> None:
    """Move the threshold of `near_duplicates`: the pairs just above and just below it, side by side.

    images, reference: uint8 (N, C, H, W), as given to it; found: its table. truth: pairs (i, j) that are duplicates,
    where known, in any order. n: pairs on each side.

    Example:
        explore.pairs(data.train.images, cleaning.near_duplicates(data.train.images))
    """
    if found.empty:
        raise ValueError("found: no pairs to look at; does the set have two images?")
    first, second, scores = (found[c].to_numpy() for c in ("index", "reference_index", "score"))
    known = None if truth is None else {(min(i, j), max(i, j)) for i, j in truth}
    right = known and np.array([(min(i, j), max(i, j)) in known for i, j in zip(first, second, strict=True)])
    others = images if reference is None else reference

    def draw(value: float) -> Figure:
        cut = int((scores > value).sum())
        shown = range(max(0, cut - n), min(len(scores), cut + n))
        pictures = [picture for i in shown for picture in (images[int(first[i])], others[int(second[i])])]
        titles = [text for i in shown for text in (f"score {scores[i]:.2f}", "")]
        colours = [plots.COLOURS[1] if i < cut else "black" for i in shown for _ in range(2)]
        title = f"{cut} pairs lie above {value:.2f}; coloured: the last of them, black: the next"
        if known is not None:
            title += f"; precision {_share(right[:cut])}"
        return plots.image_grid(pictures, titles, columns=2 * n, title=title, title_colours=colours)

    explore(draw, value=_score_slider(scores, start))


def _share(right: np.ndarray) -> str:
    return f"{right.mean():.1%}" if len(right) else "of none"


def _score_slider(scores: np.ndarray, start: float) -> Any:
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    low, high = min(low, start), max(high, start) + 1e-6
    return slider(start, low, high, "threshold", step=(high - low) / 200)
