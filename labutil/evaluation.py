"""Predictions and what they are worth. Labels are integers (N,), 0 to K - 1; probabilities floats (N, K), rows sum to
1, of an ensemble's members (M, N, K). Each may be a torch tensor, an array or a list; others raise ValueError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from labutil import processes
from labutil.device import autocast, evaluation_mode, get_device, to_float
from labutil.geometry import check_embeddings
from labutil.images import Array, check_images, to_numpy
from labutil.paths import check_number, no_tags

if TYPE_CHECKING:
    import pandas as pd


def predict(
    model: nn.Module, images: torch.Tensor, *, batch_size: int = 128, precision: str | None = None
) -> torch.Tensor:
    """What `model` returns for every image, in evaluation mode and without gradients: float32 (N, ...) on the CPU.
    Several processes compute a part each, and each gets all.

    model: maps float32 (n, C, H, W) in [0, 1] to a tensor (n, ...); every submodule gets its training mode back.
    images: uint8 (N, C, H, W); N = 0 is allowed. precision: "fp32", "bf16" or "fp16" (None: the device's default).
    """
    images = check_images("images", images)
    check_number("batch_size", batch_size, 1, whole=True)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None) or get_device()

    def outputs(part: torch.Tensor) -> torch.Tensor:
        whole, rows = None, torch.arange(len(part))
        with evaluation_mode(model), autocast(precision, device):
            # an empty set is split into one empty batch, and comes out as (0, ...)
            for batch, own in zip(part.split(batch_size), rows.split(batch_size), strict=True):
                with torch.inference_mode():
                    found = model(to_float(batch, device)).float().cpu()
                if whole is None:  # outside inference mode, so that a linear probe can train on it
                    whole = torch.empty(len(part), *found.shape[1:])
                whole[own] = found  # no list of all batches beside it
        return whole

    return processes.in_parts(outputs, images)


def average(members: Array | Sequence[Array]) -> np.ndarray:
    """Mean probabilities, float64 (N, K): the prediction of a deep ensemble (Lakshminarayanan et al. 2017)."""
    return _probabilities("members", members, "(M, N, K)").mean(axis=0)


def majority_vote(members: Array | Sequence[Array]) -> np.ndarray:
    """The class that most members find most probable, int64 (N,); of equally many votes, the one with the higher
    average probability."""
    p, votes = _votes(members)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, p.mean(axis=0), -1.0).argmax(axis=1)


def disagreement(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the pairs of members that predict different classes, float64 (N,), in [0, 1]; 0 for a single member
    (Skalak 1996; averaged over pairs as Kuncheva and Whitaker 2003, https://doi.org/10.1023/A:1022859003006)."""
    p, votes = _votes(members)
    m, agreeing = len(p), (votes * (votes - 1)).sum(axis=1)  # ordered pairs of members
    return float(m > 1) - agreeing / max(m * (m - 1), 1)


def _votes(members: Array | Sequence[Array]) -> tuple[np.ndarray, np.ndarray]:
    """The members' probabilities, float64 (M, N, K), and how many of them predict each class, int64 (N, K)."""
    p = _probabilities("members", members, "(M, N, K)")
    return p, (p.argmax(axis=2)[:, :, None] == np.arange(p.shape[2])).sum(axis=0)


def confusion_matrix(y_true: Array, y_pred: Array, n_classes: int) -> np.ndarray:
    """Counts, int64 (K, K): row = true class, column = predicted class."""
    y, predicted = check_labels("y_true", y_true, n_classes), check_labels("y_pred", y_pred, n_classes)
    if len(y) != len(predicted):
        raise ValueError(f"y_true has {len(y)} labels and y_pred {len(predicted)}; they must be of the same images")
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def most_confused(confusion: Array, n: int = 5, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """The commonest mistakes in a confusion matrix, at most n: DataFrame(true, predicted, count, rate), most images
    first (then higher rate, then class order); rate = count / images of the true class. classes: names, for numbers."""
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

    Finite numbers: accuracy, macro_precision, macro_recall, macro_f1, macro_auc (one-vs-rest; 0.5, chance,
    where `y_true` holds a single class), errors (wrong images), ece (`expected_calibration_error`, 15 bins). Macro
    averages are over the classes present in `y_true`; precision and F1 of a class never predicted are 0.
    """
    y, p = _checked(y_true, probabilities)
    predicted, present = p.argmax(axis=1), np.unique(y)
    # scikit-learn's say the same, each in milliseconds: a table of thousands of runs would wait for them
    support, named, right = (np.bincount(k, minlength=p.shape[1])[present] for k in (y, predicted, y[predicted == y]))
    metrics = {
        "accuracy": (predicted == y).mean(),
        "macro_precision": (right / np.maximum(named, 1)).mean(),
        "macro_recall": (right / support).mean(),
        "macro_f1": (2 * right / (support + named)).mean(),
        "macro_auc": _auc_by_class(y, p)[present].mean() if len(present) > 1 else 0.5,
        "errors": (predicted != y).sum(),
        "ece": expected_calibration_error(y, p),
    }
    return {name: float(value) for name, value in metrics.items()}


def accuracy(y_true: Array, probabilities: Array) -> float:
    """The first of `classification_metrics` alone, which takes a hundredth of the time of all."""
    y, p = _checked(y_true, probabilities)
    return float((p.argmax(axis=1) == y).mean())


def class_report(y_true: Array, probabilities: Array, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1, support and one-vs-rest AUC of each class, indexed by class name. Where nothing defines
    them precision, recall and F1 are 0, and AUC is NaN (no image of the class, or no other)."""
    import pandas as pd
    from sklearn.metrics import precision_recall_fscore_support

    y, p = _checked(y_true, probabilities)
    scores = precision_recall_fscore_support(y, p.argmax(axis=1), labels=np.arange(p.shape[1]), zero_division=0)
    columns = dict(zip(("precision", "recall", "f1", "support", "auc"), (*scores, _auc_by_class(y, p)), strict=True))
    return pd.DataFrame(columns, index=pd.Index(list(map(no_tags, classes)), name="class"))


def roc_curves(y_true: Array, probabilities: Array) -> dict[int, tuple[np.ndarray, np.ndarray, float]]:
    """One-vs-rest ROC curve of each class that has images, and is not alone: {class: (fpr, tpr, auc)}, from 0 to 1."""
    from sklearn.metrics import roc_curve

    y, p = _checked(y_true, probabilities)
    areas = _auc_by_class(y, p)
    return {k: (*roc_curve(y == k, p[:, k])[:2], float(areas[k])) for k in np.flatnonzero(~np.isnan(areas)).tolist()}


def _auc_by_class(y: np.ndarray, p: np.ndarray) -> np.ndarray:
    """One-vs-rest area under the ROC curve per class (K,), NaN where no image, or every image, is of the class."""
    from scipy.stats import rankdata

    # The chance to score above an image of another class, ties counting half: ranks give it for all classes at once.
    own = y[:, None] == np.arange(p.shape[1])
    n = own.sum(axis=0)
    pairs = n * (len(y) - n)
    above = (rankdata(p, axis=0) * own).sum(axis=0) - n * (n + 1) / 2
    return np.divide(above, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


def calibration(y_true: Array, probabilities: Array, bins: int = 15) -> pd.DataFrame:
    """How often the model is right when it is this sure: the reliability diagram as a table.

    Images are sorted by confidence (the highest probability) into `bins` equal intervals ((m - 1) / bins, m / bins]
    (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2). Returns DataFrame(confidence, accuracy,
    count), a row a bin: means over its images, in [0, 1]; NaN where count is 0.
    """
    import pandas as pd

    confidence, accuracy, count = _binned(y_true, probabilities, bins)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": accuracy})
    return frame.div(np.where(count > 0, count, np.nan), axis=0).assign(count=count)


def _binned(y_true: Array, probabilities: Array, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of `calibration`'s bins the sum of confidences, the number of images that are right, and that of all (bins,)."""
    y, p = _checked(y_true, probabilities)
    check_number("bins", bins, 1, whole=True)
    confidence = p.max(axis=1).clip(max=1)  # rows that sum to 1.001 (bfloat16) belong in the last bin
    index = np.searchsorted(np.arange(1, bins + 1) / bins, confidence, side="left")
    sums = (np.bincount(index, values, minlength=bins) for values in (confidence, p.argmax(axis=1) == y))
    return *sums, np.bincount(index, minlength=bins)


def expected_calibration_error(y_true: Array, probabilities: Array, bins: int = 15) -> float:
    """ECE: |accuracy - confidence| averaged over `calibration`'s bins, weighted by images; 0 is perfect, 1 the worst
    (Naeini et al. 2015; Guo et al. 2017, equation 3)."""
    confidence, right, count = _binned(y_true, probabilities, bins)
    return float(np.abs(right - confidence).sum() / count.sum())


def tsne(features: Array, *, seed: int = 0) -> np.ndarray:
    """A map of features (N, D), N at least 5, by t-SNE (van der Maaten and Hinton 2008): float32 (N, 2).

    Neighbourhoods can be read off it; distances between clusters, their sizes and the axes mean nothing. Perplexity
    30, less for few points; 50 principal components first, as its authors do. About a second per 500 points.
    """
    x = check_embeddings("features", features).cpu().numpy()
    if len(x) < 5:
        raise ValueError(f"features: t-SNE wants at least 5 points, got {len(x)}")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    flat = x.shape[1] < 2 or bool((x.std(axis=0) < 1e-12).all())  # of a collapsed encoder: no principal axes
    # One thread: two are a third faster on idle cores, but three times slower when anything else runs beside them.
    with threadpool_limits(1):
        if not flat and min(x.shape) > 50:
            x = PCA(50, random_state=seed).fit_transform(x)
        # 500 steps (250 of them early exaggeration) reach the trustworthiness of scikit-learn's 1,000
        perplexity, start = min(30, (len(x) - 1) / 3), "random" if flat else "pca"
        model = TSNE(perplexity=perplexity, init=start, max_iter=500, random_state=seed)
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
    p = to_numpy([to_numpy(v) for v in values] if isinstance(values, list | tuple) else values)
    if p.ndim != axes.count(",") + 1 or 0 in (*p.shape[:-2], p.shape[-1]):  # no images are allowed
        raise ValueError(f"{name}: expected probabilities {axes}, got {p.shape}")
    p = p.astype(np.float64)
    if not np.isfinite(p).all():
        raise ValueError(f"{name}: some are NaN or infinite; did training diverge?")
    if (p < 0).any() or (np.abs(p.sum(axis=-1) - 1) > 0.01).any():  # bfloat16 rounding passes, logits do not
        raise ValueError(f"{name}: every row must be non-negative and sum to 1; logits want .softmax(1) first")
    return p


def _checked(y_true: Array, probabilities: Array) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 (N,) and probabilities float64 (N, K), or one clear ValueError."""
    p = _probabilities("probabilities", probabilities, "(N, K)")
    y = check_labels("y_true", y_true, p.shape[1])
    if len(y) != len(p):
        raise ValueError(f"y_true has {len(y)} rows and probabilities {len(p)}; they must be of the same images")
    return y, p
