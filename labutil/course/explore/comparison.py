"""Explorers of lesson 07: confusions and maps of several methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labutil import device, evaluation, plots
from labutil.course.explore.frame import explore, slider
from labutil.images import to_numpy

if TYPE_CHECKING:
    import ipywidgets
    from matplotlib.figure import Figure
    from torch import Tensor


def confusions(
    images: Tensor,
    y_true: Tensor | np.ndarray,
    probabilities: Mapping[str, Tensor | np.ndarray],
    classes: Sequence[str],
    *,
    n: int = 12,
) -> None:
    """Click a cell of a confusion matrix, or choose a true and a predicted class: see the images in it.

    images: uint8 (N, C, H, W). y_true: int (N,). probabilities: {method: float (N, K)}. n: images shown at a time,
    the most confident first. It begins with the first method's commonest mistake.

    Example:
        explore.confusions(images, board.y_true, {"SimCLR": p, "SupCon": q}, board.classes)
    """
    import ipywidgets

    y_true = np.asarray(y_true)
    p = {name: np.asarray(values, np.float32) for name, values in probabilities.items()}
    first = next(iter(p))

    def count(name: str) -> np.ndarray:
        return evaluation.confusion_matrix(y_true, p[name].argmax(1), len(classes))

    worst = evaluation.most_confused(count(first), 1)
    start = (int(worst.true[0]), int(worst.predicted[0])) if len(worst) else (int(y_true[0]), int(y_true[0]))

    def draw(method: str, true_class: int, predicted: int) -> Figure:
        y_pred, sure = p[method].argmax(1), p[method].max(1)
        index = np.flatnonzero((y_true == true_class) & (y_pred == predicted))
        index = index[np.argsort(-sure[index], kind="stable")]
        others = [name for name in p if name != method]
        # what the others say of the same image
        right = [sum(p[name][i].argmax() == true_class for name in others) for i in index[:n]]
        titles = [f"{sure[i]:.0%}\nright: {r} of {len(others)}" for i, r in zip(index[:n], right, strict=True)]
        title = f"{method}: {len(index)} images of {classes[true_class]} that it calls {classes[predicted]}"
        return plots.image_grid(images[index[:n]], titles, columns=6, title=title)

    names = [(name, k) for k, name in enumerate(classes)]
    method = ipywidgets.Dropdown(options=list(p), value=first, description="method")
    true_class = ipywidgets.Dropdown(options=names, value=start[0], description="true")
    predicted = ipywidgets.Dropdown(options=names, value=start[1], description="predicted")

    def choose(row: int, column: int) -> None:
        true_class.value, predicted.value = row, column

    matrix = []
    if len(classes) <= plots.MOST_CLASSES and device.has_front_end():
        grid, fill = _matrix(classes, choose)
        fill(count(first))
        method.observe(lambda change: fill(count(change["new"])), "value")
        matrix = [grid]
    explore(draw, *matrix, method=method, true_class=true_class, predicted=predicted)


def _matrix(
    classes: Sequence[str], choose: Callable[[int, int], None]
) -> tuple[ipywidgets.GridBox, Callable[[np.ndarray], None]]:
    """A confusion matrix of buttons, which call `choose(true, predicted)`; and what writes counts (K, K) on them."""
    import ipywidgets
    import matplotlib as mpl

    blues, small = mpl.colormaps["Blues"], ipywidgets.Layout(width="44px", height="24px", margin="0", padding="0")
    middle = ipywidgets.Layout(width="44px", display="flex", justify_content="center")
    numbers = [ipywidgets.Label(str(k), layout=middle) for k in range(len(classes))]
    cells, children = {}, [ipywidgets.Label("true, down; predicted, across"), *numbers]
    for row, name in enumerate(classes):
        children.append(ipywidgets.Label(f"{row} {name}"))
        for column, other in enumerate(classes):
            button = ipywidgets.Button(layout=small, tooltip=f"{name}, called {other}")
            button.on_click(lambda _, row=row, column=column: choose(row, column))
            cells[row, column] = button
            children.append(button)

    def fill(counts: np.ndarray) -> None:
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        for place, button in cells.items():
            button.description = str(counts[place])
            button.style.button_color = mpl.colors.to_hex(blues(shares[place]))
            button.style.text_color = "white" if shares[place] > 0.5 else "black"

    columns = f"max-content repeat({len(classes)}, 44px)"
    return ipywidgets.GridBox(children, layout=ipywidgets.Layout(grid_template_columns=columns, grid_gap="1px")), fill


def encoders(
    images: Tensor,
    features: Mapping[str, Tensor | np.ndarray],
    labels: Tensor | np.ndarray,
    classes: Sequence[str],
    *,
    n: int = 7,
    start: int = 0,
) -> None:
    """Choose a point of the maps, an image: its nearest neighbours, by cosine, as each encoder sees them.

    images: uint8 (N, C, H, W). features: {encoder: float (N, D)}, of the same images. labels: int (N,). n: neighbours.

    Example:
        explore.encoders(images[sample], {"SimCLR": h, "SupCon": g}, y[sample], classes)
    """
    labels = np.asarray(labels)
    units = {}
    for name, given in features.items():
        h = to_numpy(given).reshape(len(labels), -1)
        units[name] = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    n = min(n, len(labels) - 1)

    def draw(point: int) -> Figure:
        tiles, titles, colours = [], [], []
        for name, unit in units.items():
            near = np.argsort(-(unit @ unit[point]), kind="stable")
            near = near[near != point][:n]
            tiles += [images[point], *(images[int(i)] for i in near)]
            titles += [name, *(classes[labels[i]] for i in near)]
            colours += ["black", *(plots.RIGHT if labels[i] == labels[point] else plots.WRONG for i in near)]
        title = f"image {point}, {classes[labels[point]]}, and its nearest neighbours; blue: of its class"
        return plots.image_grid(tiles, titles, columns=n + 1, title=title, title_colours=colours)

    explore(draw, point=slider(start, 0, len(labels) - 1, "point"))
