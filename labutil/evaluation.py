"""Predictions and what they are worth: accuracy, precision, recall, F1, ROC, calibration, confusions, t-SNE maps.

Labels are integers (N,), 0 to K - 1; probabilities are floats (N, K) whose rows sum to 1 (to 0.01, for bfloat16), and
those of an ensemble's members (M, N, K). All may be torch tensors (any device, any floating type), NumPy arrays or
lists. Results are plain NumPy, pandas and Python numbers. Anything else raises ValueError, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from labutil.device import autocast, evaluation_mode, get_device, to_float, unwrapped
from labutil.images import to_numpy

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import Array

TSNE_MINIMUM = 5  # points that a t-SNE map needs


def predict(
    model: nn.Module, images: torch.Tensor, *, batch_size: int = 512, precision: str | None = None
) -> torch.Tensor:
    """What `model` returns for every image, in evaluation mode and without gradients: float32 (N, ...) on the CPU.

    The model stays on the device where it is, and every submodule gets its training mode back, so that an encoder
    frozen in `eval()` is still in `eval()` afterwards. Under `torchrun` every process computes all images.

    model: maps float32 (n, C, H, W) in [0, 1] to a tensor (n, ...), such as features, or logits (which want a
    `.softmax(1)` afterwards). images: uint8 (N, C, H, W) on any device; N = 0 is allowed. batch_size: images per
    forward pass; it changes the result by rounding only. precision: "fp32", "bf16" or "fp16" (None: the device's
    default). Raises ValueError for images of another type or shape, or a batch size below 1.

    Example:
        probabilities = predict(model, data.test.images).softmax(1)
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images: expected uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}; pass the stored images"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    model = unwrapped(model)  # the wrapper synchronises buffers in every forward pass, so one process would wait
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None) or get_device()
    outputs = []
    with evaluation_mode(model), torch.inference_mode(), autocast(precision, device):
        # max: an empty set still passes through once, and comes out as (0, ...)
        for start in range(0, max(len(images), 1), batch_size):
            outputs.append(model(to_float(images[start : start + batch_size], device)).float().cpu())
    return torch.cat(outputs)  # outside inference mode, so that a linear probe can train on it


def average(members: Array | Sequence[Array]) -> np.ndarray:
    """Mean of the members' probabilities, float64 (N, K): a deep ensemble's prediction (Lakshminarayanan et al. 2017).

    Example:
        p = average([predict(model, images).softmax(1) for model in folds])
    """
    return _probabilities("members", members, "(M, N, K)").mean(axis=0)


def majority_vote(members: Array | Sequence[Array]) -> np.ndarray:
    """The class that most members predict, int64 (N,). Among classes with equally many votes the one with the higher
    average probability wins (then the first); a member votes for its most probable class (the first of equals).

    Example:
        majority_vote([[[0.6, 0.4]], [[0.1, 0.9]]])  # [1]: one vote each, but the second member is surer
    """
    p = _probabilities("members", members, "(M, N, K)")
    votes = _votes(p)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, p.mean(axis=0), -1.0).argmax(axis=1)


def disagreement(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the pairs of members that predict different classes, float64 (N,), in [0, 1]; 0 for a single member.

    The disagreement measure of Skalak (1996) and Ho (1998), averaged over pairs as Kuncheva and Whitaker (2003,
    https://doi.org/10.1023/A:1022859003006) do, for each image by itself.

    Example:
        sure = disagreement(members) == 0  # all members agree
    """
    p = _probabilities("members", members, "(M, N, K)")
    m = len(p)
    return (m**2 - (_votes(p) ** 2).sum(axis=1)) / max(m * (m - 1), 1)


def _votes(p: np.ndarray) -> np.ndarray:
    """How many members predict each class, int64 (N, K)."""
    return (p.argmax(axis=2)[:, :, None] == np.arange(p.shape[2])).sum(axis=0)


def confusion_matrix(y_true: Array, y_pred: Array, n_classes: int) -> np.ndarray:
    """Counts, int64 (K, K): row = true class, column = predicted class.

    Raises ValueError for different lengths, no labels, or labels outside 0 to K - 1.

    Example:
        confusion_matrix([0, 0, 1], [0, 1, 1], 2)  # [[1, 1], [0, 1]]
    """
    y, predicted = check_labels("y_true", y_true, n_classes), check_labels("y_pred", y_pred, n_classes)
    if len(y) != len(predicted):
        raise ValueError(f"y_true has {len(y)} labels and y_pred {len(predicted)}; they must be of the same images")
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def most_confused(confusion: Array, n: int = 5, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """The commonest mistakes that happened, at most n, most images first (then higher rate, then class order).

    confusion: counts (K, K), rows true, as `confusion_matrix` gives them. classes: K names, to list instead of numbers.
    Returns DataFrame(true, predicted, count, rate); rate = count / images of the true class, in [0, 1].

    Example:
        most_confused(confusion_matrix(y_true, y_pred, 8), classes=data.train.classes)
    """
    import pandas as pd

    wrong = np.array(confusion)
    support = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    count = wrong[true, predicted]
    names = np.arange(len(wrong)) if classes is None else np.asarray(classes, dtype=object)
    columns = {"true": names[true], "predicted": names[predicted], "count": count, "rate": count / support[true]}
    return pd.DataFrame(columns).sort_values(["count", "rate"], ascending=False).head(n).reset_index(drop=True)


def classification_metrics(y_true: Array, probabilities: Array) -> dict[str, float]:
    """Every number that a results table shows; the predicted class is the most probable one (the first of equals).

    Macro averages give each class one vote and cover the classes present in `y_true`, as scikit-learn does with
    `labels=np.unique(y_true)`: an absent class has no recall to average, and an image wrongly given to it still
    costs its own class recall. Precision and F1 of a class never predicted are 0.

    Returns finite numbers: accuracy, macro_precision, macro_recall, macro_f1, macro_auc (one-vs-rest; 0.5, chance,
    where `y_true` holds a single class and no ranking exists), errors (wrong images), ece (see
    `expected_calibration_error`, 15 bins).
    Raises ValueError for no images, different lengths, labels outside 0 to K - 1, or rows that do not sum to 1.

    Example:
        metrics = classification_metrics(data.test.labels, predict(model, data.test.images).softmax(1))
        run.log(**{f"test_{name}": value for name, value in metrics.items()})
    """
    from sklearn.metrics import precision_recall_fscore_support

    y, p = _checked(y_true, probabilities)
    predicted, present = p.argmax(axis=1), np.unique(y)
    macro = precision_recall_fscore_support(y, predicted, labels=present, average="macro", zero_division=0)
    metrics = {
        "accuracy": (predicted == y).mean(),
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "macro_f1": macro[2],
        "macro_auc": _auc_by_class(y, p)[present].mean() if len(present) > 1 else 0.5,
        "errors": (predicted != y).sum(),
        "ece": expected_calibration_error(y, p),
    }
    return {name: float(value) for name, value in metrics.items()}


def class_report(y_true: Array, probabilities: Array, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1, support and one-vs-rest AUC of each class, indexed by class name.

    Precision, recall and F1 are 0 where nothing defines them; AUC is then NaN (no image of the class, or no other).

    Example:
        class_report(data.test.labels, probabilities, data.test.classes).sort_values("f1")
    """
    import pandas as pd
    from sklearn.metrics import precision_recall_fscore_support

    y, p = _checked(y_true, probabilities)
    if len(classes) != p.shape[1]:
        raise ValueError(f"classes: {len(classes)} names for {p.shape[1]} columns of probabilities")
    scores = precision_recall_fscore_support(y, p.argmax(axis=1), labels=np.arange(p.shape[1]), zero_division=0)
    columns = dict(zip(("precision", "recall", "f1", "support", "auc"), (*scores, _auc_by_class(y, p)), strict=True))
    return pd.DataFrame(columns, index=pd.Index(list(classes), name="class"))


def roc_curves(y_true: Array, probabilities: Array) -> list[tuple[np.ndarray, np.ndarray, float] | None]:
    """One-vs-rest ROC curve of each class: K entries (fpr, tpr, auc), fpr and tpr rising from 0 to 1.

    None for a class without images, or without images of other classes.

    Example:
        fpr, tpr, auc = roc_curves(y_true, probabilities)[0]
    """
    from sklearn.metrics import roc_curve

    y, p = _checked(y_true, probabilities)
    areas = _auc_by_class(y, p)
    return [None if np.isnan(auc) else (*roc_curve(y == k, p[:, k])[:2], float(auc)) for k, auc in enumerate(areas)]


def _auc_by_class(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """One-vs-rest area under the ROC curve per class (K,), NaN where the class has no image or every image.

    The area is the chance that an image of the class scores above one of another class, ties counting half (Mann and
    Whitney, 1947): ranks give it for all classes at once, without the curves.
    """
    from scipy.stats import rankdata

    own = y[:, None] == np.arange(p.shape[1])
    n = own.sum(axis=0)
    pairs = n * (len(y) - n)
    above = (rankdata(p, axis=0) * own).sum(axis=0) - n * (n + 1) / 2
    return np.divide(above, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


def calibration(y_true: Array, probabilities: Array, bins: int = 15) -> pd.DataFrame:
    """How often the model is right when it is this sure: the reliability diagram as a table.

    Images are sorted by confidence (the highest probability) into `bins` equal intervals ((m - 1) / bins, m / bins],
    a row each (Guo et al., 2017, "On Calibration of Modern Neural Networks", section 2).
    Returns DataFrame(confidence, accuracy, count): means over the images of the bin, in [0, 1]; NaN where count is 0.

    Example:
        calibration(y_true, probabilities).query("count > 0")
    """
    import pandas as pd

    y, p = _checked(y_true, probabilities)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    # rows that sum to 1.001 (bfloat16) belong in the last bin
    confidence, right = p.max(axis=1).clip(max=1), p.argmax(axis=1) == y
    index = np.searchsorted(np.arange(1, bins + 1) / bins, confidence, side="left")
    count = np.bincount(index, minlength=bins)
    sums = {"confidence": confidence, "accuracy": right}
    frame = pd.DataFrame({name: np.bincount(index, v, minlength=bins) for name, v in sums.items()})
    return frame.div(np.where(count > 0, count, np.nan), axis=0).assign(count=count)


def expected_calibration_error(y_true: Array, probabilities: Array, bins: int = 15) -> float:
    """ECE: |accuracy - confidence| averaged over `calibration`'s bins, weighted by images; 0 is perfect, 1 the worst.

    Source: Naeini et al., 2015; Guo et al., 2017, equation 3. It depends on `bins`: compare like with like.

    Example:
        expected_calibration_error([0, 0], [[0.9, 0.1], [0.9, 0.1]])  # 0.1: right always, sure to 0.9
    """
    table = calibration(y_true, probabilities, bins)
    return float(((table.accuracy - table.confidence).abs() * table["count"]).sum() / table["count"].sum())


def tsne(features: Array, *, seed: int = 0, perplexity: float = 30, pca: int = 50) -> np.ndarray:
    """A map of the features in two dimensions by t-SNE (van der Maaten and Hinton, 2008): float32 (N, 2).

    Neighbourhoods can be read off it; distances between clusters, their sizes and the axes mean nothing. Features
    are not standardised: the map shows the distances that a classifier would see. The same seed gives the same map.

    features: floats (N, ...), flattened to (N, D); N from `TSNE_MINIMUM` up. About a second per 500 points.
    perplexity: how many neighbours a point attends to; lowered to (N - 1) / 3 for small N. pca: principal components
    kept before t-SNE, for speed (as its authors do).
    Raises ValueError for fewer points (ask first where that can happen), and for features that are NaN or infinite.

    Example:
        if len(features) >= TSNE_MINIMUM:
            plots.tsne(tsne(features), labels, classes)
    """
    x = to_numpy(features)
    if x.ndim < 2 or len(x) < TSNE_MINIMUM:
        raise ValueError(f"features: t-SNE wants (N, D) with at least {TSNE_MINIMUM} points, got shape {x.shape}")
    x = x.reshape(len(x), -1).astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("features: some are NaN or infinite; did training diverge?")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # A collapsed encoder maps all images to one point: no principal axes to start from.
    flat = x.shape[1] < 2 or bool((x.std(axis=0) < 1e-12).all())
    # One thread: two are a third faster on idle cores, but three times slower when anything else runs beside them.
    # 500 steps (250 of them early exaggeration) reach the trustworthiness of scikit-learn's 1,000.
    with threadpool_limits(1):
        if not flat and min(x.shape) > pca:
            x = PCA(pca, random_state=seed).fit_transform(x)
        neighbours, start = min(perplexity, (len(x) - 1) / 3), "random" if flat else "pca"
        model = TSNE(perplexity=neighbours, init=start, max_iter=500, random_state=seed)
        return model.fit_transform(x).astype(np.float32)


def check_labels(name: str, labels: Array, n_classes: int) -> np.ndarray:
    """Labels as int64 (N,), N at least 1, from 0 to n_classes - 1; or one clear ValueError that calls them `name`."""
    y = to_numpy(labels)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or not len(y):
        raise ValueError(f"{name}: expected integer labels (N,), N at least 1, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= n_classes:
        without = f"; {(y == -1).sum()} are -1 (unlabelled): leave those images out" if y.min() == -1 else ""
        raise ValueError(f"{name}: labels run from {y.min()} to {y.max()}, outside 0 to {n_classes - 1}{without}")
    return y.astype(np.int64)


def _probabilities(name: str, values: Array | Sequence[Array], axes: str) -> np.ndarray:
    """Probabilities with as many axes as "(N, K)" or "(M, N, K)" names, float64, or one clear ValueError."""
    sequence = isinstance(values, list | tuple) and len(values)
    p = np.stack([to_numpy(v) for v in values]) if sequence else to_numpy(values)
    if p.ndim != axes.count(",") + 1 or 0 in p.shape[:-2] + p.shape[-1:]:
        raise ValueError(f"{name}: expected probabilities {axes}, got {p.shape}")
    p = p.astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError(f"{name}: some are NaN or infinite; did training diverge?")
    # 0.01 lets bfloat16 rounding pass and stops logits
    if p.size and (p.min() < 0 or np.abs(p.sum(axis=-1) - 1).max() > 0.01):
        raise ValueError(f"{name}: every row must be non-negative and sum to 1; logits want .softmax(1) first")
    return p


def _checked(y_true: Array, probabilities: Array) -> tuple[np.ndarray, np.ndarray]:
    """(y_true int64 (N,), probabilities float64 (N, K)), or one clear ValueError."""
    p = _probabilities("probabilities", probabilities, "(N, K)")
    y = check_labels("y_true", y_true, p.shape[1])
    if len(y) != len(p):
        raise ValueError(f"y_true has {len(y)} rows and probabilities {len(p)}; they must be of the same images")
    return y, p
