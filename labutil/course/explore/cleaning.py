"""Explorers of lesson 01: thresholds of the detectors, and what `labutil clean` found."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from ipywidgets import Button, Combobox, HBox, Widget
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from labutil import plots
from labutil.cleaning import decisions
from labutil.cleaning import review as pages
from labutil.course.explore.frame import explore, grid, slider
from labutil.paths import DataError


def threshold(
    images: Tensor,
    found: pd.DataFrame,
    *,
    start: float,
    truth: Iterable[int] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Move the threshold of a detector: how many images it flags, and the pictures on both sides of it.

    images: uint8 (N, C, H, W). found: a table with `index` and `score`, a row an image. start: where the slider
    begins, in the score's units. truth: indices that should be flagged, where known: shows recall and precision.
    names: (N,) a word for each image, such as its label.

    Example:
        explore.threshold(data.train.images, cleaning.outliers(data.train.images), start=4)
    """
    found = found.sort_values("score", ascending=False, kind="stable")
    rows, scores = found["index"].to_numpy(), found["score"].to_numpy()
    words = [""] * len(images) if names is None else [f" {name}" for name in names]
    right = None if truth is None else np.isin(rows, np.fromiter(truth, np.int64))

    def draw(value: float) -> Figure:
        cut, near = _near(scores, value, 8)
        tiles = [(images[int(rows[i])], f"{scores[i]:.2f}{words[rows[i]]}", colour) for i, colour in near]
        title = f"{cut} of {len(rows)} images lie above {value:.2f}; coloured: the last of them, black: the next"
        if right is not None:
            precision = f"{right[:cut].mean():.1%}" if cut else "of none"
            title += f";\nrecall {right[:cut].sum() / max(1, right.sum()):.1%}, precision {precision}"
        return grid(tiles, 8, title)

    alt = "Two rows of pictures in order of their scores, those just above the threshold and those just below it."
    explore(draw, alt=alt, value=_score_slider(scores, start))


def pairs(
    images: Tensor, found: pd.DataFrame, *, start: float = 0.5, truth: Iterable[tuple[int, int]] | None = None
) -> None:
    """Move the threshold of `near_duplicates`: the pairs just above and just below it, side by side.

    images: uint8 (N, C, H, W), as given to it; found: its table. truth: pairs (i, j) that are duplicates, where known,
    in any order.
    """
    if found.empty:
        raise ValueError("found: no pairs to look at; does the set have two images?")
    found = found.sort_values("score", ascending=False, kind="stable")
    first, second, scores = (found[c].to_numpy() for c in ("index", "reference_index", "score"))
    known = {frozenset(pair) for pair in truth or ()}
    right = np.array([frozenset(pair) in known for pair in zip(first, second, strict=True)])

    def draw(value: float) -> Figure:
        cut, near = _near(scores, value, 4)
        tiles = []
        for i, colour in near:
            tiles += [(images[int(first[i])], f"score {scores[i]:.2f}", colour), (images[int(second[i])], "", colour)]
        title = f"{cut} pairs lie above {value:.2f}; coloured: the last of them, black: the next"
        if truth is not None:
            title += f"; precision {right[:cut].mean():.1%}" if cut else "; precision of none"
        return grid(tiles, 8, title)

    alt = "Two rows of pairs of pictures in order of their scores, just above the threshold and just below it."
    explore(draw, alt=alt, value=_score_slider(scores, start))


def review(folder: str | Path) -> None:
    """Go through what `labutil clean` found, as on its page, and decide; decisions.csv is written at each step.

    folder: where decisions.csv and review.html lie. Without a front end the first finding is shown.
    """
    folder = Path(folder).expanduser()
    page, table = pages.read_page(folder), decisions.load(folder / "decisions.csv")
    if not (items := page["items"]) or list(table["path"]) != [row[0] for row in page["rows"]]:
        raise DataError(f"{folder}: nothing was found, or decisions.csv is of another run: run labutil clean again")

    def picture(row: int) -> np.ndarray:
        if (data := page["pictures"].get(str(row))) is None:
            return np.full((3, 96, 96), 200, np.uint8)  # cannot be read
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).transpose(2, 0, 1)

    def draw(finding: int) -> Figure:
        rows = [items[finding - 1]["row"], *items[finding - 1]["beside"]]
        tiles = [(picture(row), f"{table['label'][row] or 'no label'}\n{table['path'][row]}", "black") for row in rows]
        said = table.loc[rows[0]]
        better = f"; its label may be {said['suggested label']}" if said["suggested label"] else ""
        return grid(
            tiles, 4, f"{said['reason']}{better}\nnow: {said['decision']}, first picture; beside it what is like it"
        )

    at = slider(1, 1, len(items), "finding")
    label = Combobox(options=sorted({*table["label"]} - {""}), description="label", ensure_option=False)

    def decide(button: Button) -> None:
        row = items[at.value - 1]["row"]
        new = label.value.strip() or table["suggested label"][row]
        if button.description == "relabel" and not decisions.plain(new):
            return
        pages.decide(table, row, button.description, new)
        decisions.save(table, folder / "decisions.csv")
        label.value = ""
        at.value = min(at.value + 1, len(items))

    buttons = [Button(description=name) for name in decisions.DECISIONS]
    for button in buttons:
        button.on_click(decide)
    explore(draw, HBox([*buttons, label]), alt="A picture that was found, and those that look like it.", finding=at)


def _near(scores: np.ndarray, value: float, n: int) -> tuple[int, list[tuple[int, str]]]:
    """How many of the falling scores lie above a value; and n rows on each side of it, with their titles' colour."""
    cut = int((scores > value).sum())
    rows = range(max(0, cut - n), min(len(scores), cut + n))
    return cut, [(i, plots.COLOURS[1] if i < cut else "black") for i in rows]


def _score_slider(scores: np.ndarray, start: float) -> Widget:
    low, high = min([*scores, start]), max([*scores, start]) + 1e-6
    return slider(start, low, high, "threshold", step=(high - low) / 200)
