"""Explorers of predictions: errors, corruptions, heat maps, and the confusions of several methods."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib as mpl
import numpy as np
import torch
from ipywidgets import Dropdown
from matplotlib.figure import Figure
from torch import Tensor

from labutil import device, evaluation, plots
from labutil.corruptions import CORRUPTIONS, corrupt
from labutil.course.explore.frame import ALL, class_menu, explore, slider
from labutil.images import stratified_sample, to_numpy

SHOWN = 12  # images at a time


def errors(images: Tensor, y_true: Tensor, probabilities: Tensor, classes: Sequence[str]) -> None:
    """Browse predictions: choose a true class, a least confidence, and whether to see wrong or right ones.

    images: uint8 (N, C, H, W). y_true: int (N,). probabilities: float (N, K). The most confident are shown first.
    """
    y_true, p = to_numpy(y_true), to_numpy(probabilities).astype(np.float32)
    y_pred, sure = p.argmax(1), p.max(1)

    def draw(true_class: int, least_confidence: float, show: str) -> Figure:
        index = _surest(_chosen(y_true, y_pred, true_class, show) & (sure >= least_confidence), sure)
        name = [*classes, ALL][true_class]
        title = f"{len(index)} {show} predictions of {name} with confidence {least_confidence:.2f} or more"
        titles = [f"{classes[y_true[i]]}\n→ {classes[y_pred[i]]} {sure[i]:.0%}" for i in index[:SHOWN]]
        return plots.image_grid(images[index[:SHOWN]], titles, columns=6, title=title)

    explore(
        draw,
        true_class=class_menu(classes),
        least_confidence=slider(0.5, 0, 1, "confidence", step=0.05),
        show=ipywidgets.ToggleButtons(options=["wrong", "right"], description="show"),
        alt="Images with their true class, what was predicted, and how confidently.",
    )


def corruptions(images: Tensor, predict: Callable[[Tensor], Any], y_true: Tensor, classes: Sequence[str]) -> None:
    """Choose a corruption and how severe it is: what becomes of the images, of the predictions and of the accuracy.

    images: uint8 (N, C, H, W). predict: maps such images to probabilities (n, K). y_true: int (N,). The accuracy in the
    title is of a stratified sample of at most 300 images. Each setting is computed once.

    Example:
        explore.corruptions(val.images, lambda x: predict(model, x).softmax(1), val.labels, data.classes)
    """
    sample = np.random.default_rng(0).permutation(stratified_sample(y_true, 300, 0))
    pictures, truth = images[torch.from_numpy(sample)], to_numpy(y_true)[sample]

    @functools.cache
    def look(kind: str, severity: int) -> tuple[Tensor, np.ndarray]:
        x = device.to_float(pictures)
        x = corrupt(x, kind, severity, torch.Generator(x.device).manual_seed(0))
        x = x.mul(255).round().to(torch.uint8).cpu()
        return x, to_numpy(predict(x)).argmax(1)

    def draw(kind: str, severity: int) -> Figure:
        clean = look("noise", 0)[1]  # severity 0 of any kind
        x, y_pred = look(kind if severity else "noise", severity)
        what = f"{kind.replace('_', ' ')}, severity {severity}" if severity else "no corruption"
        right, as_they_are = (y_pred == truth).mean(), (clean == truth).mean()
        title = f"{what}: accuracy {right:.1%} of {len(truth)} images, {as_they_are:.1%} as they are"
        titles, colours = verdicts(truth[:SHOWN], y_pred[:SHOWN], classes)
        return plots.image_grid(x[:SHOWN], titles, columns=6, title=title, title_colours=colours)

    explore(
        draw,
        kind=Dropdown(options=list(CORRUPTIONS), value="noise", description="corruption"),
        severity=slider(3, 0, 5, "severity"),
        alt="Images after a corruption, each with what is predicted of it.",
    )


def heat_maps(images: Tensor, maps: Tensor, y_true: Tensor, y_pred: Tensor, classes: Sequence[str]) -> None:
    """Browse images with their heat maps: choose a true class, right or wrong predictions, and page through.

    images: uint8 (N, C, H, W). maps: (N, H, W) in [0, 1], as `grad_cam.grad_cam` returns. y_true, y_pred: int (N,).
    """
    y_true, y_pred, n = to_numpy(y_true), to_numpy(y_pred), SHOWN // 2  # two pictures each

    def draw(true_class: int, show: str, page: int) -> Figure:
        index = np.flatnonzero(_chosen(y_true, y_pred, true_class, show))
        pages = max(1, -(-len(index) // n))
        page = min(page, pages)
        shown = index[(page - 1) * n : page * n]
        what = "images" if show == "all" else f"{show} predictions"
        title = f"{len(index)} {what} of {[*classes, ALL][true_class]}, page {page} of {pages}"
        titles, colours = verdicts(y_true[shown], y_pred[shown], classes)
        return plots.heat_maps(images[shown], maps[shown], titles, columns=n, title=title, title_colours=colours)

    explore(
        draw,
        true_class=class_menu(classes),
        show=ipywidgets.ToggleButtons(options=["all", "wrong", "right"], description="show"),
        page=slider(1, 1, max(1, -(-len(y_true) // n)), "page"),
        alt="Images, and below each the same in gray under its map, yellow where the map is highest.",
    )


def _chosen(y_true: np.ndarray, y_pred: np.ndarray, true_class: int, show: str) -> np.ndarray:
    """Which predictions are of a class (-1: any) and "right", "wrong" or "all": bool (N,)."""
    return ((true_class < 0) | (y_true == true_class)) & ((show == "all") | ((y_pred == y_true) == (show == "right")))


def _surest(chosen: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Indices of the chosen, the most confident first."""
    index = np.flatnonzero(chosen)
    return index[np.argsort(-sure[index], kind="stable")]


def verdicts(y_true: np.ndarray, y_pred: np.ndarray, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """A title and its colour for each prediction: ✓ blue when right, ✗ red with the true class when wrong."""
    pairs = list(zip(y_true, y_pred, strict=True))
    titles = [f"✓\u202f{classes[b]}" if a == b else f"✗\u202f{classes[b]}\nit is {classes[a]}" for a, b in pairs]
    return titles, [plots.RIGHT if a == b else plots.WRONG for a, b in pairs]


def confusions(images: Tensor, y_true: Any, probabilities: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Click a cell of a confusion matrix, or choose a true and a predicted class: see the images in it.

    images: uint8 (N, C, H, W). y_true: int (N,). probabilities: {method: float (N, K)}. It begins with the first
    method's commonest mistake; the most confident are shown first.

    Example:
        explore.confusions(images, board.y_true, {"SimCLR": p, "SupCon": q}, board.classes)
    """
    y_true = np.asarray(y_true)
    p = {name: np.asarray(values, np.float32) for name, values in probabilities.items()}
    votes = {name: values.argmax(1) for name, values in p.items()}
    first = next(iter(p))

    def count(name: str) -> np.ndarray:
        return evaluation.confusion_matrix(y_true, votes[name], len(classes))

    worst = evaluation.most_confused(count(first), 1)
    start = (int(worst.true[0]), int(worst.predicted[0])) if len(worst) else (int(y_true[0]), int(y_true[0]))

    def draw(method: str, true_class: int, predicted: int) -> Figure:
        sure = p[method].max(1)
        index = _surest((y_true == true_class) & (votes[method] == predicted), sure)
        others = [votes[name] == true_class for name in p if name != method]
        titles = [f"{sure[i]:.0%}\nright: {sum(right[i] for right in others)} of {len(others)}" for i in index[:SHOWN]]
        title = f"{method}: {len(index)} images of {classes[true_class]} that it calls {classes[predicted]}"
        return plots.image_grid(images[index[:SHOWN]], titles, columns=6, title=title)

    names = [(name, k) for k, name in enumerate(classes)]
    method = Dropdown(options=list(p), value=first, description="method")
    true_class = Dropdown(options=names, value=start[0], description="true")
    predicted = Dropdown(options=names, value=start[1], description="predicted")

    clickable = len(classes) <= plots.MOST_CLASSES and device.has_front_end()
    matrix = [_matrix(classes, count, method, true_class, predicted)] if clickable else []
    alt = "Images of one true and one predicted class, each with the confidence, and how many other methods are right:"
    explore(draw, *matrix, alt=alt, method=method, true_class=true_class, predicted=predicted)


def _matrix(classes: Sequence[str], count: Callable[[str], np.ndarray], *menus: Dropdown) -> ipywidgets.GridBox:
    """The method's confusion matrix, counts (K, K), as buttons that choose a true and a predicted class."""
    method, true_class, predicted = menus
    small = ipywidgets.Layout(width="44px", height="24px", margin="0", padding="0")
    middle = ipywidgets.Layout(width="44px", display="flex", justify_content="center")
    numbers = [ipywidgets.Label(str(k), layout=middle) for k in range(len(classes))]
    cells, children = {}, [ipywidgets.Label("true, down; predicted, across"), *numbers]

    def choose(row: int, column: int) -> None:
        true_class.value, predicted.value = row, column

    for row, name in enumerate(classes):
        children.append(ipywidgets.Label(f"{row} {name}"))
        for column, other in enumerate(classes):
            button = ipywidgets.Button(layout=small, tooltip=f"{name}, called {other}")
            button.on_click(lambda _, row=row, column=column: choose(row, column))
            cells[row, column] = button
            children.append(button)

    def fill(name: str) -> None:
        counts = count(name)
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        for place, button in cells.items():
            button.description = str(counts[place])
            button.style.button_color = mpl.colors.to_hex(mpl.colormaps["Blues"](shares[place]))
            button.style.text_color = "white" if shares[place] > 0.5 else "black"

    fill(method.value)
    method.observe(lambda change: fill(change["new"]), "value")
    columns = f"max-content repeat({len(classes)}, 44px)"
    return ipywidgets.GridBox(children, layout=ipywidgets.Layout(grid_template_columns=columns, grid_gap="1px"))
