"""Explorers: a control that changes what you see. Without a front end (papermill, GitHub) each shows one static figure.

The pattern: a function that draws one figure from plain values, and `_explore`, which connects it with widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from labutil import device, evaluation, plots, policies
from labutil.augment import simclr_views

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from labutil.autoencoders import ConvAutoencoder


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


def interpolation(
    autoencoders: Mapping[str, ConvAutoencoder], images: Tensor, *, first: int = 0, second: int = 1, steps: int = 8
) -> None:
    """Walk from one image to another, in pixels and in the codes of autoencoders: choose the two images.

    autoencoders: {name: trained model}. images: uint8 (N, C, H, W). first, second: where the sliders start.

    Example:
        explore.interpolation({"code of 32": model}, data.val.images)
    """
    import ipywidgets

    from labutil.autoencoders import interpolate

    def draw(first: int, second: int) -> Figure:
        a, b = (images[i].float() / 255 for i in (first, second))
        shares = [i / max(steps - 1, 1) for i in range(steps)]
        rows = {"pixels": [(1 - t) * a + t * b for t in shares]}
        rows |= {name: interpolate(model, a, b, steps) for name, model in autoencoders.items()}
        return plots.image_rows(rows, titles=[f"{t:.0%}" for t in shares])

    last = len(images) - 1
    _explore(
        draw,
        first=ipywidgets.IntSlider(min(first, last), 0, last, description="from", continuous_update=False),
        second=ipywidgets.IntSlider(min(second, last), 0, last, description="to", continuous_update=False),
    )


def code_sizes(autoencoders: Mapping[int, ConvAutoencoder], images: Tensor, *, start: int = 0, n: int = 8) -> None:
    """Reconstructions against the size of the code: choose images, and which sizes are shown.

    autoencoders: {numbers in the code: trained model}. images: uint8 (N, C, H, W). start: the first of n images.

    Example:
        explore.code_sizes({2: small, 32: large}, data.val.images)
    """
    import ipywidgets

    from labutil.evaluation import predict

    def draw(start: int, smallest: int) -> Figure:
        shown = images[start : start + n]
        rows = {"image": shown}
        rows |= {f"{size:,} numbers": predict(m, shown) for size, m in autoencoders.items() if size >= smallest}
        return plots.image_rows(rows)

    sizes = sorted(autoencoders)
    _explore(
        draw,
        start=ipywidgets.IntSlider(start, 0, max(0, len(images) - n), n, description="image", continuous_update=False),
        smallest=ipywidgets.SelectionSlider(options=sizes, value=sizes[0], description="code from"),
    )


def _share(right: np.ndarray) -> str:
    return f"{right.mean():.1%}" if len(right) else "of none"


def _score_slider(scores: np.ndarray, start: float) -> Any:
    import ipywidgets

    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 1.0)
    low, high = min(low, start), max(high, start) + 1e-6
    return ipywidgets.FloatSlider(
        value=start, min=low, max=high, step=(high - low) / 200, description="threshold", continuous_update=False
    )


def strength(images: Tensor, *, size: int | None = None, start: float = 0.5, draws: int = 8) -> None:
    """Move the strength of SimCLR's augmentation: each image with random views of it, the same draws at any strength.

    images: uint8 (N, C, H, W), a few. size: pixels a side of a view; None: the image's. start: where the slider
    begins, 0 (crop and flip only) to 1 (the paper's). draws: views of each image.

    Example:
        explore.strength(data.train.images[:3])
    """
    import ipywidgets

    x = device.to_float(images)
    side = size or min(x.shape[2:])
    originals = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True).cpu()

    def draw(value: float) -> Figure:
        g = torch.Generator(x.device).manual_seed(0)
        views = simclr_views(side, value)(x.repeat_interleave(draws, 0), g).unflatten(0, (len(x), draws)).cpu()
        pictures = [picture for image, row in zip(originals, views, strict=True) for picture in (image, *row)]
        titles = [name for _ in images for name in ("original", *[""] * draws)]
        return plots.image_grid(pictures, titles, columns=draws + 1, title=f"strength {value:.2f}")

    _explore(
        draw,
        value=ipywidgets.FloatSlider(
            value=start, min=0, max=1.5, step=0.05, description="strength", continuous_update=False
        ),
    )


def temperature(images: Tensor, z_a: Tensor, z_b: Tensor, *, anchor: int = 0, start: float = 0.2, n: int = 11) -> None:
    """Move the temperature: how InfoNCE's softmax weighs the views that are most similar to one view, the anchor.

    images: (N, C, H, W), as `plots.image_grid` takes them, a picture for each row of z. z_a, z_b: float (N, D), two
    views' projections. anchor: which first view. start: where the slider begins. n: views shown, most similar first.

    Example:
        explore.temperature(data.val.images[:256], z_a, z_b)
    """
    import ipywidgets

    z = F.normalize(torch.cat([torch.as_tensor(z_a), torch.as_tensor(z_b)]).float(), dim=1)
    total = len(z) // 2

    def draw(image: int, tau: float) -> Figure:
        similarity = z @ z[image]
        similarity[image] = -torch.inf
        p = (similarity / tau).softmax(0)
        order = p.argsort(descending=True, stable=True)[: min(n, len(z) - 1)]
        counted = torch.special.entr(p).sum().exp().item()
        titles = ["anchor", *(f"cos {similarity[j]:.2f}\n{p[j]:.1%}" for j in order)]
        positive = (image + total) % len(z)
        colours = ["black", *(plots.RIGHT if j == positive else "black" for j in order)]
        title = (
            f"tau {tau:.2f}: weights as if {counted:.0f} of {len(z) - 1} views counted; the other view of the same "
            f"image (blue where shown) has {p[positive]:.1%}"
        )
        pictures = [images[int(j) % total] for j in (image, *order)]
        return plots.image_grid(pictures, titles, columns=6, title=title, title_colours=colours)

    _explore(
        draw,
        image=ipywidgets.IntSlider(value=anchor, min=0, max=total - 1, description="image", continuous_update=False),
        tau=ipywidgets.FloatLogSlider(
            value=start, min=-2, max=0.3, step=0.05, description="tau", continuous_update=False
        ),
    )


def neighbours(
    images: Tensor,
    h: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    *,
    queries: tuple[Tensor, Tensor, Tensor] | None = None,
    k: int = 7,
    rows: int = 4,
) -> None:
    """Browse nearest neighbours by cosine: choose a class; each row is a query and the images most like it.

    images, h, labels: the bank: (N, C, H, W), embeddings (N, D), integers (N,). queries: likewise for the images to
    ask about; None: the bank's own, each without itself. k: neighbours. rows: queries shown at a time.

    Example:
        explore.neighbours(data.train.images, h_train, data.train.labels, classes, queries=(data.val.images, h_val, y))
    """
    import ipywidgets

    asked, q, y = queries or (images, h, labels)
    bank, q = (F.normalize(torch.as_tensor(v).float(), dim=1) for v in (h, q))
    labels, y = torch.as_tensor(labels), torch.as_tensor(y)

    def draw(true_class: int, draw_again: int) -> Figure:
        chosen = torch.arange(len(y)) if true_class < 0 else (y == true_class).nonzero()[:, 0]
        g = torch.Generator().manual_seed(draw_again)
        chosen = chosen[torch.randperm(len(chosen), generator=g)[:rows]]
        similarity = q[chosen] @ bank.T
        if queries is None:
            similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(k, len(bank)), dim=1).indices
        pictures, titles, colours = [], [], []
        for i, row in zip(chosen.tolist(), nearest.tolist(), strict=True):
            pictures += [asked[i], *(images[j] for j in row)]
            titles += [f"query:\n{classes[y[i]]}", *(classes[labels[j]] for j in row)]
            colours += ["black", *(plots.RIGHT if labels[j] == y[i] else plots.WRONG for j in row)]
        share = (labels[nearest] == y[chosen][:, None]).float().mean() if len(chosen) else 0.0
        name = "all classes" if true_class < 0 else classes[true_class]
        title = f"queries of {name}: {share:.0%} of the neighbours shown share their class"
        return plots.image_grid(pictures, titles, columns=nearest.shape[1] + 1, title=title, title_colours=colours)

    options = [("all classes", -1), *((name, i) for i, name in enumerate(classes))]
    _explore(
        draw,
        true_class=ipywidgets.Dropdown(options=options, value=-1, description="class"),
        draw_again=ipywidgets.IntSlider(value=0, min=0, max=50, description="draw", continuous_update=False),
    )


def positives(labels: Tensor, *, batch_size: int = 32, views: int = 2) -> None:
    """Change the batch: which pairs of views are positives, without labels (SimCLR) and with them (SupCon).

    labels: integers (N,), of which batches are drawn; a batch is shown sorted by class. batch_size, views: where the
    controls begin.

    Example:
        explore.positives(data.train.labels)
    """
    import ipywidgets

    labels = torch.as_tensor(labels)
    largest = min(128, len(labels))

    def draw(batch_size: int, views: int, draw_again: int) -> Figure:
        g = torch.Generator().manual_seed(draw_again)
        y = labels[torch.randperm(len(labels), generator=g)[:batch_size]].sort().values
        image = torch.arange(len(y)).repeat_interleave(views)
        y = y.repeat_interleave(views)
        masks, own = {}, torch.eye(len(y), dtype=torch.bool)
        for name, values in (("no labels", image), ("labels", y)):
            positive = (values[:, None] == values) & ~own
            count = positive.sum(1)
            words = f"{name}: {count.min()} to {count.max()} positives, {(count == 0).sum()} anchors without"
            masks[words] = positive.float().masked_fill(own, torch.nan)
        title = f"{batch_size} images, {views} view{'s' if views > 1 else ''} each, sorted by class; blue: positives"
        return plots.matrices(masks, limits=(0, 1), title=title)

    _explore(
        draw,
        batch_size=ipywidgets.IntSlider(
            value=min(batch_size, largest), min=2, max=largest, description="batch", continuous_update=False
        ),
        views=ipywidgets.ToggleButtons(options=[1, 2], value=views, description="views"),
        draw_again=ipywidgets.IntSlider(value=0, min=0, max=50, description="draw", continuous_update=False),
    )


def confusions(
    images: Tensor,
    y_true: Tensor | np.ndarray,
    probabilities: Mapping[str, Tensor | np.ndarray],
    classes: Sequence[str],
    *,
    n: int = 12,
) -> None:
    """Choose a cell of a confusion matrix, a method, a true and a predicted class: see the images in it.

    images: uint8 (N, C, H, W). y_true: int (N,). probabilities: {method: float (N, K)}. n: images shown at a time,
    the most confident first. It begins with the first method's commonest mistake.

    Example:
        explore.confusions(images, board.y_true, {"SimCLR": p, "SupCon": q}, board.classes)
    """
    import ipywidgets

    y_true = np.asarray(y_true)
    p = {name: np.asarray(values, np.float32) for name, values in probabilities.items()}
    first = next(iter(p))
    counts = evaluation.confusion_matrix(y_true, p[first].argmax(1), len(classes))
    worst = evaluation.most_confused(counts, 1)
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
    _explore(
        draw,
        method=ipywidgets.Dropdown(options=list(p), value=first, description="method"),
        true_class=ipywidgets.Dropdown(options=names, value=start[0], description="true"),
        predicted=ipywidgets.Dropdown(options=names, value=start[1], description="predicted"),
    )


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
    import ipywidgets

    labels = np.asarray(labels)
    units = {}
    for name, given in features.items():
        h = evaluation.to_numpy(given).reshape(len(labels), -1)
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

    _explore(draw, point=ipywidgets.IntSlider(value=start, min=0, max=len(labels) - 1, continuous_update=False))
