"""Linear classifiers on frozen features: the probe, the head and the layer made of it, and how few labels they need.

Features h are floats (N, D), labels int (N,), 0 to K - 1; torch tensors, NumPy arrays or lists where not said
otherwise. `representations` has the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import device
from labutil.images import ImageSet, stratified_sample, to_numpy
from labutil.models import mlp_head
from labutil.training import fit

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

    from labutil.images import Array


def signed_root(x: np.ndarray) -> np.ndarray:
    """Square root of the size, with the sign: no single large feature decides (Jegou et al. 2012).

    `models.SignedRoot` is the same as a layer, for tensors and their gradients.
    """
    return np.sign(x) * np.sqrt(np.abs(x))


def principal_axes(h: Array, dimensions: int = 512) -> np.ndarray:
    """Signed roots of features on their leading principal axes, as a linear probe sees them, but to one scale.

    h: float (N, D). Returns float (N, min(dimensions, D, N - 1)), centred; the mean squared length is 100 before the
    further axes are left out, so that one `decay` of `logistic_regression` suits all features.

    Example:
        x = principal_axes(h)
        p = logistic_regression(x[train], y[train], decay=0.003).predict_proba(x[val])
    """
    _, x, power = _fit_axes(to_numpy(h), dimensions)
    return x / np.sqrt(power)


def logistic_regression(
    x: np.ndarray, labels: np.ndarray, *, decay: float, power: float = 1.0, sample_weight: np.ndarray | None = None
) -> LogisticRegression:
    """Multinomial logistic regression, fitted: least mean cross-entropy + decay * power * |W|^2 (no penalty of biases).

    x: float (N, D). labels: int (N,), two classes at least. power: the mean squared length of x, in hundreds, so that
    one `decay` suits all features; 1 for `principal_axes`. sample_weight: (N,), which multiplies each row's
    cross-entropy in the mean.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # small products: threads that wait for each other cost more than they bring
        model = LogisticRegression(C=1 / (2 * decay * len(x) * power), max_iter=1000, tol=1e-3)
        return model.fit(x, labels, sample_weight=sample_weight)


def linear_probe(h: Array, labels: Array, *, decay: float = 0.002, dimensions: int = 512) -> Pipeline:
    """A linear classifier on frozen features: how much of the answer is in them in plain sight.

    Signed roots of the features, on their leading principal axes, then multinomial logistic regression with an L2
    penalty: a tenth of a second for a few thousand images, and the same every time. Features are not standardised
    one by one: those that vary little say little (on generated cells that costs three points of accuracy).

    h: float (N, D). labels: int (N,), two classes at least. decay: penalty, for features scaled to a mean squared
    length of 100; 0.001 to 0.01 suits most sets. dimensions: principal axes kept, at most.
    Returns a fitted scikit-learn pipeline: `.predict_proba(h)`, `.score(h, labels)`, `.classes_`; its steps are
    "signed_root", "axes" (PCA) and "classifier". It wants NumPy arrays.

    Example:
        probe = linear_probe(frozen_features(data.train.images), data.train.labels)
        probe.score(frozen_features(data.val.images).numpy(), data.val.labels.numpy())
    """
    from sklearn.pipeline import Pipeline

    axes, x, power = _fit_axes(to_numpy(h), dimensions)
    classifier = logistic_regression(x, to_numpy(labels), decay=decay, power=power)
    return Pipeline([*axes.steps, ("classifier", classifier)])


def _fit_axes(h: np.ndarray, dimensions: int) -> tuple[Pipeline, np.ndarray, float]:
    """The first steps of a linear probe, fitted; h as they leave it; the mean squared length of its roots / 100."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer
    from threadpoolctl import threadpool_limits

    n, d = h.shape
    solver = "covariance_eigh" if n > d else "full"  # the former is fast, and fails on few images
    axes = PCA(min(dimensions, d, max(1, n - 1)), svd_solver=solver)
    steps = Pipeline([("signed_root", FunctionTransformer(signed_root)), ("axes", axes)])
    with threadpool_limits(1):
        return steps, steps.fit_transform(h), max(signed_root(h).var(0).sum() / 100, 1e-12)


def probe_head(probe: Pipeline, n_classes: int) -> nn.Sequential:
    """A fitted `linear_probe` as a head: its softmax is the probe's `predict_proba`.

    Fine-tuning from there (LP-FT: Kumar et al. 2022, arXiv:2202.10054) begins with a head that fits, so its first
    gradients do not distort the features; a random head's do. The principal axes are multiplied into the one linear
    layer. A class that the probe has not seen gets the logit -30, the others' largest is at least about 0.

    probe: of features (N, D). n_classes: K, at least as many as the probe knows.
    Returns Sequential(SignedRoot(), Linear(D, K)), which `rebuild` knows as
    head={"signed_root": True, "sizes": [], "dropout": []}.
    Raises ValueError for a pipeline of other steps, or one whose labels are not among 0 to K - 1.

    Example:
        probe = linear_probe(h, data.train.labels)
        model = Classifier(encoder("tf_efficientnet_lite0", pretrained=True), 8, probe_head(probe, 8))
    """
    if list(probe.named_steps) != ["signed_root", "axes", "classifier"]:
        raise ValueError("probe: expected the fitted pipeline that `linear_probe` returns")
    axes, classifier, classes = probe["axes"], probe["classifier"], probe.classes_
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"n_classes={n_classes}: the probe knows labels from {classes.min()} to {classes.max()}")
    weight = classifier.coef_.astype(np.float64) @ axes.components_
    bias = classifier.intercept_ - weight @ axes.mean_
    if len(weight) == 1:  # of two classes: one logit, positive for the second; softmax wants their difference
        weight, bias = (np.concatenate([-v, v]) / 2 for v in (weight, bias))
    head = mlp_head(weight.shape[1], [], n_classes, signed_root=True)
    with torch.no_grad():
        head[1].weight.zero_()[classes] = torch.as_tensor(weight, dtype=torch.float32)
        head[1].bias.fill_(-30.0)[classes] = torch.as_tensor(bias, dtype=torch.float32)
    return head


def linear_layer(
    h: Tensor, labels: Tensor, h_val: Tensor, labels_val: Tensor, n_classes: int, **settings: Any
) -> tuple[nn.Linear, pd.DataFrame]:
    """Train one linear layer on frozen representations by `training.fit`: (layer, history, a row an epoch).

    It trains on features that are centred, and divided by one number, so that one learning rate suits any encoder; the
    layer that is returned takes h as it is. It begins at zero: its first loss is log K, and no seed matters but that
    of the order.

    h, labels: float (N, D) and int64 (N,). h_val, labels_val: to measure val_loss and val_accuracy on. settings: as
    `fit` takes them; epochs, batch_size and lr at least.

    Example:
        layer, history = linear_layer(h, y, h_val, y_val, K, epochs=20, batch_size=64, lr=0.01, schedule="plateau")
    """
    layer = device.prepare(nn.Linear(h.shape[1], n_classes))
    centre, scale = h.mean(0), h.var(0, correction=0).mean().sqrt().clamp(min=1e-6)
    x_val, labels_val = ((h_val - centre) / scale).to(device.get_device()), labels_val.to(device.get_device())
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = layer(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}

    @torch.no_grad()
    def validate() -> dict[str, float]:
        loss, accuracy = step(x_val, labels_val)
        return {"val_loss": loss.item(), "val_accuracy": accuracy["accuracy"].item()}

    data = ImageSet((h - centre) / scale, labels, tuple(map(str, range(n_classes))))
    history = fit(step, [layer], data, validate=validate, precision="fp32", **settings)
    layer = device.unwrapped(layer)
    with torch.no_grad():  # W (h - centre) / scale + b, as one layer
        layer.weight /= scale.to(layer.weight)
        layer.bias -= layer.weight @ centre.to(layer.weight)
    return layer, history


def few_labels(labels: Array, n: int, seed: int = 0) -> np.ndarray:
    """Indices of n images in which every class keeps its share, and at least one image: int64, rising.

    n: raised to one a class. See `images.stratified_sample`, which leaves rare classes out where n is small.

    Example:
        index = few_labels(data.train.labels, round(0.01 * len(data.train)))
    """
    y = to_numpy(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    _, first = np.unique(y[order], return_index=True)
    one_each = order[first]
    rest = np.setdiff1d(np.arange(len(y)), one_each)
    more = rest[stratified_sample(y[rest], max(0, n - len(one_each)), seed)]
    return np.sort(np.concatenate([one_each, more]))


def label_efficiency(
    h: Array, labels: Array, h_val: Array, labels_val: Array, shares: Sequence[float], *, seeds: int = 3
) -> pd.DataFrame:
    """Accuracy of `linear_probe` with so many of the labels, each share of them drawn `seeds` times.

    h, labels: representations (N, D) and labels (N,) to draw from. h_val, labels_val: to measure on. shares: of the
    labels, in (0, 1]. Returns DataFrame(share, labels, seed, accuracy), a row a draw; one draw where all are used.

    Example:
        table = label_efficiency(h, data.train.labels, h_val, data.val.labels, (0.01, 0.1, 1.0))
        table.groupby("share").accuracy.agg(["mean", "std"])
    """
    import pandas as pd

    x, y, x_val, y_val = (to_numpy(values) for values in (h, labels, h_val, labels_val))
    rows = []
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"shares: {share} must be above 0 and at most 1")
        for seed in range(seeds if share < 1 else 1):
            index = few_labels(y, round(share * len(y)), seed)
            rows.append((share, len(index), seed, linear_probe(x[index], y[index]).score(x_val, y_val)))
    return pd.DataFrame(rows, columns=["share", "labels", "seed", "accuracy"])
