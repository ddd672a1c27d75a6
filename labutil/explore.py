"""Explorers: a control that changes what you see. Without a front end (papermill, GitHub) each shows one static figure.

The pattern: a function that draws one figure from plain values, and `_explore`, which connects it with widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from labutil import device, evaluation, plots, policies

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor


def _explore(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show `draw(**values)`: with widgets where a person can move them, else once, at the widgets' first values."""
    if not device.has_front_end():
        draw(**{name: control.value for name, control in controls.items()})
        return
    import ipywidgets
    import matplotlib.pyplot as plt
    from IPython.display import display

    def show(**values: Any) -> None:
        figure = draw(**values)
        display(figure)
        plt.close(figure)

    display(ipywidgets.VBox([*controls.values(), ipywidgets.interactive_output(show, controls)]))


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
    import ipywidgets

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

    options = [("all classes", -1), *((name, k) for k, name in enumerate(classes))]
    _explore(
        draw,
        true_class=ipywidgets.Dropdown(options=options, value=-1, description="true class"),
        least_confidence=ipywidgets.FloatSlider(
            value=confidence, min=0, max=1, step=0.05, description="confidence", continuous_update=False
        ),
        show=ipywidgets.ToggleButtons(options=["wrong", "right"], value="wrong", description="show"),
    )


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

    _explore(draw, value=_score_slider(scores, start))


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

    _explore(draw, value=_score_slider(scores, start))


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
    where the controls start, one of `policies.CORRUPTIONS` and 0 to 5. n: images shown. judged: images, at most, that
    the accuracy in the title is of; a stratified sample, drawn once from `seed`. Each setting is computed once.

    Example:
        explore.corruptions(val.images, lambda x: predict(model, x).softmax(1), val.labels, data.classes)
    """
    import ipywidgets

    rng = np.random.default_rng(seed)
    sample = rng.permutation(evaluation.stratified_sample(y_true, judged, seed))
    pictures, truth = images[torch.from_numpy(sample)], evaluation.to_numpy(y_true)[sample]
    known: dict[tuple[str, int], tuple[Tensor, np.ndarray]] = {}

    def look(kind: str, severity: int) -> tuple[Tensor, np.ndarray]:
        key = (kind if severity else "", severity)
        if key not in known:
            x = device.to_float(pictures)
            generator = torch.Generator(x.device).manual_seed(seed)
            x = policies.corrupt(x, kind, severity, generator).mul(255).round().to(torch.uint8).cpu()
            known[key] = (x, evaluation.to_numpy(predict(x)).argmax(1))
        return known[key]

    def draw(kind: str, severity: int) -> Figure:
        x, y_pred = look(kind, severity)
        right, clean = y_pred == truth, look(kind, 0)[1] == truth
        titles, colours = _verdicts(truth[:n], y_pred[:n], classes)
        what = f"{kind.replace('_', ' ')}, severity {severity}" if severity else "no corruption"
        title = f"{what}: accuracy {right.mean():.1%} of {len(truth)} images, {clean.mean():.1%} as they are"
        return plots.image_grid(x[:n], titles, columns=6, title=title, title_colours=colours)

    _explore(
        draw,
        kind=ipywidgets.Dropdown(options=list(policies.CORRUPTIONS), value=kind, description="corruption"),
        severity=ipywidgets.IntSlider(value=severity, min=0, max=5, description="severity", continuous_update=False),
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

    images: uint8 (N, C, H, W). maps: (N, H, W) in [0, 1], as `explanations.grad_cam` returns. y_true, y_pred: int
    (N,). n: images shown at a time.

    Example:
        explore.heat_maps(images, grad_cam(model, images), y_true, y_pred, data.classes)
    """
    import ipywidgets

    y_true, y_pred = evaluation.to_numpy(y_true), evaluation.to_numpy(y_pred)

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

    options = [("all classes", -1), *((name, k) for k, name in enumerate(classes))]
    _explore(
        draw,
        true_class=ipywidgets.Dropdown(options=options, value=-1, description="true class"),
        show=ipywidgets.ToggleButtons(options=["all", "wrong", "right"], value="all", description="show"),
        page=ipywidgets.IntSlider(
            value=1, min=1, max=max(1, -(-len(y_true) // n)), description="page", continuous_update=False
        ),
    )


def _verdicts(y_true: np.ndarray, y_pred: np.ndarray, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """A title and its colour for each prediction: ✓ blue when right, ✗ red with the true class when wrong."""
    right = y_true == y_pred
    titles = [
        f"✓ {classes[b]}" if ok else f"✗ {classes[b]}\nit is {classes[a]}"
        for a, b, ok in zip(y_true, y_pred, right, strict=True)
    ]
    return titles, [plots.RIGHT if ok else plots.WRONG for ok in right]


def _share(right: np.ndarray) -> str:
    return f"{right.mean():.1%}" if len(right) else "of none"


def _score_slider(scores: np.ndarray, start: float) -> Any:
    import ipywidgets

    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    low, high = min(low, start), max(high, start) + 1e-6
    return ipywidgets.FloatSlider(
        value=start, min=low, max=high, step=(high - low) / 200, description="threshold", continuous_update=False
    )
