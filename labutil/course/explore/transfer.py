"""Explorers of lesson 03: corruptions and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from labutil import device, plots
from labutil.corruptions import CORRUPTIONS, corrupt
from labutil.course.explore.frame import class_menu, explore, slider, toggle
from labutil.images import stratified_sample, to_numpy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def corruptions(
    images: Tensor,
    predict: Callable[[Tensor], Any],
    y_true: Tensor,
    classes: Sequence[str],
    *,
    kind: str = "noise",
    severity: int = 3,
    n: int = 12,
    judged: int = 300,
    seed: int = 0,
) -> None:
    """Choose a corruption and how severe it is: what becomes of the images, of the predictions and of the accuracy.

    images: uint8 (N, C, H, W). predict: maps such images to probabilities (n, K). y_true: int (N,). kind, severity:
    where the controls start, one of `corruptions.CORRUPTIONS` and 0 to 5. n: images shown. judged: images, at most,
    that the accuracy in the title is of; a stratified sample, drawn once from `seed`. Each setting is computed once.

    Example:
        explore.corruptions(val.images, lambda x: predict(model, x).softmax(1), val.labels, data.classes)
    """
    import ipywidgets

    rng = np.random.default_rng(seed)
    sample = rng.permutation(stratified_sample(y_true, judged, seed))
    pictures, truth = images[torch.from_numpy(sample)], to_numpy(y_true)[sample]
    known: dict[tuple[str, int], tuple[Tensor, np.ndarray]] = {}

    def look(kind: str, severity: int) -> tuple[Tensor, np.ndarray]:
        key = (kind if severity else "", severity)
        if key not in known:
            x = device.to_float(pictures)
            generator = torch.Generator(x.device).manual_seed(seed)
            x = corrupt(x, kind, severity, generator).mul(255).round().to(torch.uint8).cpu()
            known[key] = (x, to_numpy(predict(x)).argmax(1))
        return known[key]

    def draw(kind: str, severity: int) -> Figure:
        x, y_pred = look(kind, severity)
        right, clean = y_pred == truth, look(kind, 0)[1] == truth
        titles, colours = _verdicts(truth[:n], y_pred[:n], classes)
        what = f"{kind.replace('_', ' ')}, severity {severity}" if severity else "no corruption"
        title = f"{what}: accuracy {right.mean():.1%} of {len(truth)} images, {clean.mean():.1%} as they are"
        return plots.image_grid(x[:n], titles, columns=6, title=title, title_colours=colours)

    explore(
        draw,
        kind=ipywidgets.Dropdown(options=list(CORRUPTIONS), value=kind, description="corruption"),
        severity=slider(severity, 0, 5, "severity"),
    )


def heat_maps(
    images: Tensor,
    maps: Tensor,
    y_true: Tensor,
    y_pred: Tensor,
    classes: Sequence[str],
    *,
    n: int = 6,
) -> None:
    """Browse images with their heat maps: choose a true class, right or wrong predictions, and page through.

    images: uint8 (N, C, H, W). maps: (N, H, W) in [0, 1], as `grad_cam.grad_cam` returns. y_true, y_pred: int
    (N,). n: images shown at a time.

    Example:
        explore.heat_maps(images, grad_cam(model, images), y_true, y_pred, data.classes)
    """
    y_true, y_pred = to_numpy(y_true), to_numpy(y_pred)

    def draw(true_class: int, show: str, page: int) -> Figure:
        chosen = np.ones(len(y_true), bool) if show == "all" else (y_pred == y_true) == (show == "right")
        if true_class >= 0:
            chosen &= y_true == true_class
        index = np.flatnonzero(chosen)
        pages = max(1, -(-len(index) // n))
        page = min(page, pages)
        shown = index[(page - 1) * n : page * n]
        titles, colours = _verdicts(y_true[shown], y_pred[shown], classes)
        name = "all classes" if true_class < 0 else classes[true_class]
        what = "images" if show == "all" else f"{show} predictions"
        title = f"{len(index)} {what} of {name}, page {page} of {pages}"
        rows = torch.from_numpy(shown)
        return plots.heat_maps(images[rows], maps[rows], titles, columns=n, title=title, title_colours=colours)

    explore(
        draw,
        true_class=class_menu(classes),
        show=toggle(["all", "wrong", "right"], "show"),
        page=slider(1, 1, max(1, -(-len(y_true) // n)), "page"),
    )


def _verdicts(y_true: np.ndarray, y_pred: np.ndarray, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """A title and its colour for each prediction: ✓ blue when right, ✗ red with the true class when wrong."""
    right = y_true == y_pred
    titles = [
        f"✓ {classes[b]}" if ok else f"✗ {classes[b]}\nit is {classes[a]}"
        for a, b, ok in zip(y_true, y_pred, right, strict=True)
    ]
    return titles, [plots.RIGHT if ok else plots.WRONG for ok in right]
