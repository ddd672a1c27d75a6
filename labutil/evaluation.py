"""Predictions and what they are worth: accuracy, precision, recall, F1, ROC, calibration, confusions, t-SNE maps.

Labels are integers (N,), 0 to K - 1; probabilities are floats (N, K) whose rows sum to 1. Both may be torch tensors
(any device, any floating type), NumPy arrays or lists. Results are plain NumPy, pandas and Python numbers.
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
    from numpy.typing import ArrayLike

    Array = ArrayLike | torch.Tensor
    Curve = tuple[np.ndarray, np.ndarray, float]


def average(members: Array | Sequence[Array]) -> np.ndarray:
    """Mean of the members' probabilities, float64 (N, K): a deep ensemble's prediction (Lakshminarayanan et al. 2017).

    Raises ValueError when the members are not probabilities (M, N, K), as every function here does.

    Example:
        p = average([predict(model, images).softmax(1) for model in folds])
    """
    return _members(members).mean(axis=0)


def vote_shares(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the members that predict each class, float64 (N, K); rows sum to 1. A member's vote is its most probable
    class, the first of equals."""
    p = _members(members)
    votes = p.argmax(axis=2)
    return (votes[:, :, None] == np.arange(p.shape[2])).mean(axis=0)


def majority_vote(members: Array | Sequence[Array]) -> np.ndarray:
    """The class that most members predict, int64 (N,). Among classes with equally many votes the one with the higher
    average probability wins (then the first).

    Example:
        majority_vote([[[0.6, 0.4]], [[0.1, 0.9]]])  # [1]: one vote each, but the second member is surer
    """
    p = _members(members)
    votes = np.rint(vote_shares(p) * len(p)).astype(np.int64)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, p.mean(axis=0), -1.0).argmax(axis=1).astype(np.int64)


def disagreement(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the pairs of members that predict different classes, float64 (N,), in [0, 1]; 0 for a single member.

    The disagreement measure of Skalak (1996) and Ho (1998), averaged over pairs as Kuncheva and Whitaker (2003,
    https://doi.org/10.1023/A:1022859003006) do, for each image by itself.

    Example:
        sure = disagreement(members) == 0  # all members agree
    """
    p = _members(members)
    m = len(p)
    if m == 1:
        return np.zeros(p.shape[1])
    votes = np.rint(vote_shares(p) * m)
    agreeing = (votes * (votes - 1)).sum(axis=1)  # ordered pairs within a class
    return 1 - agreeing / (m * (m - 1))


def mutual_information(members: Array | Sequence[Array]) -> np.ndarray:
    """Entropy of the averaged prediction minus the members' average entropy, in nats, float64 (N,), 0 to log min(M, K).

    High where members are sure of different classes: uncertainty about the model, which more data would lower. 0 where
    all say the same, also if all are unsure: uncertainty in the image itself. (BALD: Houlsby et al. 2011,
    arXiv:1112.5745; for ensembles Lakshminarayanan et al. 2017, arXiv:1612.01474.)

    Example:
        doubtful = mutual_information(members).argsort()[::-1][:12]
    """
    p = _members(members)
    return np.maximum(_entropy(p.mean(axis=0)) - _entropy(p).mean(axis=0), 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _members(members: Array | Sequence[Array]) -> np.ndarray:
    p = np.stack([to_numpy(m) for m in members]) if isinstance(members, list | tuple) else to_numpy(members)
    if p.ndim != 3 or 0 in (p.shape[0], p.shape[2]):
        raise ValueError(f"members: expected probabilities (M, N, K), got {p.shape}")
    p = p.astype(np.float64)
    # 0.01 lets bfloat16 rounding pass and stops logits
    if p.size and not (p.min() >= 0 and np.abs(p.sum(axis=2) - 1).max() <= 0.01):
        raise ValueError("members: every row must be non-negative and sum to 1; logits want .softmax(1) first")
    return p


def predict(
    model: nn.Module, images: torch.Tensor, *, batch_size: int = 512, precision: str | None = None
) -> torch.Tensor:
    """What `model` returns for every image, in evaluation mode and without gradients.

    The model stays on the device where it is, and every submodule gets its training mode back, so that an encoder
    frozen in `eval()` is still in `eval()` afterwards. Under `torchrun` every process computes all images.

    Args:
        model: maps float32 (n, C, H, W) in [0, 1] to a tensor (n, ...), such as logits or features.
        images: uint8 (N, C, H, W) on any device; N = 0 is allowed.
        batch_size: images per forward pass; it changes the result by rounding only.
        precision: "fp32", "bf16" or "fp16" (None: the device's default).

    Returns:
        float32 (N, ...) on the CPU: the model's outputs as they are. Logits want a `.softmax(1)`.

    Raises:
        ValueError: images that are not uint8 (N, C, H, W), or a batch size below 1.

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
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else get_device()
    outputs = []
    with evaluation_mode(model), torch.inference_mode(), autocast(precision, device):
        # max: an empty set still passes through once, and comes out as (0, ...)
        for start in range(0, max(len(images), 1), batch_size):
            outputs.append(model(to_float(images[start : start + batch_size], device)).float().cpu())
    return torch.cat(outputs)  # outside inference mode, so that a linear probe can train on it


def _labels(name: str, labels: Array, n_classes: int) -> np.ndarray:
    """Labels as int64 (N,), or one clear ValueError."""
    y = to_numpy(labels)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name}: expected integer labels (N,), got {y.dtype} {y.shape}")
    if len(y) == 0:
        raise ValueError(f"{name}: no labels, so there is nothing to measure")
    if y.min() == -1:
        raise ValueError(f"{name}: {(y == -1).sum()} labels are -1 (unlabelled); leave those images out")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"{name}: labels run from {y.min()} to {y.max()}, outside 0 to {n_classes - 1}")
    return y.astype(np.int64)


def _checked(y_true: Array, probabilities: Array) -> tuple[np.ndarray, np.ndarray]:
    """(y_true int64 (N,), probabilities float64 (N, K)), or one clear ValueError."""
    p = to_numpy(probabilities)
    if p.ndim != 2 or p.shape[1] == 0:
        raise ValueError(f"probabilities: expected (N, K), got {p.shape}")
    p = p.astype(np.float64)
    y = _labels("y_true", y_true, p.shape[1])
    if len(y) != len(p):
        raise ValueError(f"y_true has {len(y)} rows and probabilities {len(p)}; they must be of the same images")
    if not np.isfinite(p).all():
        raise ValueError("probabilities: some are NaN or infinite; did training diverge?")
    # 0.01 lets bfloat16 rounding pass and stops logits
    if p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 0.01:
        raise ValueError("probabilities: every row must be non-negative and sum to 1; logits want .softmax(1) first")
    return y, p


def confusion_matrix(y_true: Array, y_pred: Array, n_classes: int) -> np.ndarray:
    """Counts, int64 (K, K): row = true class, column = predicted class.

    Raises:
        ValueError: different lengths, no labels, or labels outside 0 to K - 1.

    Example:
        confusion_matrix([0, 0, 1], [0, 1, 1], 2)  # [[1, 1], [0, 1]]
    """
    y, predicted = _labels("y_true", y_true, n_classes), _labels("y_pred", y_pred, n_classes)
    if len(y) != len(predicted):
        raise ValueError(f"y_true has {len(y)} labels and y_pred {len(predicted)}; they must be of the same images")
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def most_confused(confusion: ArrayLike, n: int = 5, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """The n commonest mistakes, most images first (then higher rate, then class order).

    Args:
        confusion: counts (K, K), rows true, as `confusion_matrix` gives them.
        n: number of rows at most; only mistakes that happened are listed.
        classes: K names, to list names rather than numbers.

    Returns:
        DataFrame(true, predicted, count, rate); rate = count / images of the true class, in [0, 1].

    Example:
        most_confused(confusion_matrix(y_true, y_pred, 8), classes=data.train.classes)
    """
    import pandas as pd

    wrong = np.array(confusion)
    support = wrong.sum(axis=1)
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    frame = pd.DataFrame({"true": true, "predicted": predicted, "count": wrong[true, predicted]})
    frame["rate"] = frame["count"] / support[true]
    frame = frame.sort_values(["count", "rate"], ascending=False, kind="stable").head(n).reset_index(drop=True)
    if classes is not None:
        names = np.asarray(classes, dtype=object)
        frame["true"], frame["predicted"] = names[frame["true"]], names[frame["predicted"]]
    return frame


def _precision_recall_f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per class, each (K,); 0 / 0 counts as 0."""
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    # 2 hits / (2 hits + misses + false alarms)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    return precision, recall, f1


def _auc_by_class(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """One-vs-rest area under the ROC curve per class (K,), NaN where the class has no image or every image.

    The area is the chance that an image of the class scores above one of another class, ties counting half (Mann and
    Whitney, 1947): one sort a class, no curve.
    """
    auc = np.full(p.shape[1], np.nan)
    for k in np.unique(y):
        positive = y == k
        n_positive, n_negative = positive.sum(), (~positive).sum()
        if n_negative:
            column, scores = np.sort(p[:, k]), p[positive, k]
            ranks = (np.searchsorted(column, scores, "left") + np.searchsorted(column, scores, "right") + 1) / 2
            auc[k] = (ranks.sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)
    return auc


def classification_metrics(y_true: Array, probabilities: Array) -> dict[str, float]:
    """Every number that a results table shows; the predicted class is the most probable one (the first of equals).

    Macro averages give each class one vote and cover the classes present in `y_true`, as scikit-learn does with
    `labels=np.unique(y_true)`: an absent class has no recall to average, and an image wrongly given to it still
    costs its own class recall. Precision and F1 of a class never predicted are 0. With all classes present they
    equal scikit-learn's `average="macro", zero_division=0`.

    Args:
        y_true: labels (N,).
        probabilities: (N, K).

    Returns:
        All finite: accuracy, macro_precision, macro_recall, macro_f1, macro_auc (one-vs-rest; 0.5, chance, where
        `y_true` holds a single class and no ranking exists), errors (wrong images), ece (see
        `expected_calibration_error`, 15 bins).

    Raises:
        ValueError: no images, different lengths, labels outside 0 to K - 1, or rows that do not sum to 1.

    Example:
        metrics = classification_metrics(data.test.labels, predict(model, data.test.images).softmax(1))
        run.log(**{f"test_{name}": value for name, value in metrics.items()})
    """
    y, p = _checked(y_true, probabilities)
    confusion = confusion_matrix(y, p.argmax(axis=1), p.shape[1])
    present = confusion.sum(axis=1) > 0
    precision, recall, f1 = (values[present].mean() for values in _precision_recall_f1(confusion))
    auc = _auc_by_class(y, p)[present]
    metrics = {
        "accuracy": np.trace(confusion) / len(y),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "macro_auc": auc.mean() if len(auc) > 1 else 0.5,
        "errors": len(y) - np.trace(confusion),
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

    y, p = _checked(y_true, probabilities)
    if len(classes) != p.shape[1]:
        raise ValueError(f"classes: {len(classes)} names for {p.shape[1]} columns of probabilities")
    confusion = confusion_matrix(y, p.argmax(axis=1), p.shape[1])
    precision, recall, f1 = _precision_recall_f1(confusion)
    columns = {"precision": precision, "recall": recall, "f1": f1, "support": confusion.sum(axis=1)}
    return pd.DataFrame({**columns, "auc": _auc_by_class(y, p)}, index=pd.Index(list(classes), name="class"))


def roc_curves(y_true: Array, probabilities: Array) -> list[Curve | None]:
    """One-vs-rest ROC curve of each class: K entries (fpr, tpr, auc), fpr and tpr rising from 0 to 1.

    None for a class without images, or without images of other classes.

    Example:
        fpr, tpr, auc = roc_curves(y_true, probabilities)[0]
    """
    from sklearn.metrics import roc_curve

    y, p = _checked(y_true, probabilities)
    areas = _auc_by_class(y, p)
    return [None if np.isnan(auc) else (*roc_curve(y == k, p[:, k])[:2], float(auc)) for k, auc in enumerate(areas)]


def calibration(y_true: Array, probabilities: Array, bins: int = 15) -> pd.DataFrame:
    """How often the model is right when it is this sure: the reliability diagram as a table.

    Images are sorted by confidence (the highest probability) into `bins` equal intervals ((m - 1) / bins, m / bins],
    a row each (Guo et al., 2017, "On Calibration of Modern Neural Networks", section 2).

    Returns:
        DataFrame(confidence, accuracy, count): means over the images of the bin, in [0, 1]; NaN where count is 0.

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
    """A map of the features in two dimensions by t-SNE (van der Maaten and Hinton, 2008).

    Neighbourhoods can be read off it; distances between clusters, their sizes and the axes mean nothing. Features
    are not standardised: the map shows the distances that a classifier would see.

    Args:
        features: floats (N, ...), flattened to (N, D); N from 5 up. About a second per 500 points.
        seed: of the random parts; the same seed gives the same map.
        perplexity: how many neighbours a point attends to; lowered to (N - 1) / 3 for small N.
        pca: principal components kept before t-SNE, for speed (as its authors do).

    Returns:
        float32 (N, 2).

    Raises:
        ValueError: fewer than 5 points, or features that are NaN or infinite.

    Example:
        plots.tsne(tsne(features), labels, classes)
    """
    x = to_numpy(features)
    if x.ndim < 2 or len(x) < 5:
        raise ValueError(f"features: t-SNE wants (N, D) with at least 5 points, got shape {x.shape}")
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
        model = TSNE(
            perplexity=min(perplexity, (len(x) - 1) / 3),
            init="random" if flat else "pca",
            learning_rate="auto",
            max_iter=500,
            random_state=seed,
        )
        return model.fit_transform(x).astype(np.float32)
