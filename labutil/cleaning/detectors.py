"""What is wrong with a data set, each fault with a score: copies, contradictions, strangers, bad pictures and labels.

Every detector returns a table with a score for which higher is worse, and decides nothing: thresholds are the
caller's (`THRESHOLDS` are sensible ones). `CleaningReport` collects the decisions; the source is never changed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from labutil.cleaning.duplicates import COARSE
from labutil.data.splits import stratified_folds
from labutil.device import to_float
from labutil.images import check_images, to_numpy
from labutil.representations import frozen_features, logistic_regression, principal_axes, signed_root

# Where a score begins to mean something, in its own units: probability, robust standard deviations, shares.
THRESHOLDS = {"duplicate": 0.8, "outlier": 4.0, "dark": 0.8, "bright": 0.6, "blank": 0.6, "blurred": 4.0}
_NEIGHBOURS = 0.07  # an image is judged by its distance to this share of the others: more than any one fault fills
_REFERENCES = 10_000  # others to compare with, at most
_DECAYS = (0.001, 0.003, 0.01, 0.03)  # penalties of the linear model that labels are judged by


def outliers(images: Tensor | np.ndarray) -> pd.DataFrame:
    """How unlike most of the set each image is, in what it shows and in how its pixels are spread.

    Two distances to the k-th nearest image (Ramaswamy et al. 2000, doi:10.1145/342009.335437), k 7% of the set, so
    that a hundred copies of one foreign picture are not each other's alibi: by frozen ImageNet features, and by
    simple statistics of the pixels. Their logarithms, in robust standard deviations, are added.

    images: uint8 (N, C, H, W), C = 1 or 3; else ValueError. Returns DataFrame(index, score), worst first, a row an
    image; score in robust standard deviations of the set, 0 for a typical image; above 4 is rare in clean sets.

    Example:
        found = outliers(data.train.images)
        strangers = found[found.score > 4]["index"]
    """
    images = torch.as_tensor(images)
    h = frozen_features(images).numpy()
    if len(images) < 3:
        return _ranked(np.zeros(len(images)))
    # Without the root a few large features would decide, and the many that are near 0 would not matter.
    look = F.normalize(torch.from_numpy(signed_root(h)), dim=1)
    score = 2 * _robust(_distance(look).log()) + _robust(_distance(_robust(_statistics(images), 0.25)).log())
    score = score - score.median()
    below = -score[score < 0]
    # Faults lie above the median: what is normal is read off below it.
    return _ranked((score / (below.quantile(0.6827) if len(below) else 1.0)).double().numpy())


def _ranked(score: np.ndarray) -> pd.DataFrame:
    order = np.argsort(-score, kind="stable")
    return pd.DataFrame({"index": order, "score": score[order]})


def _robust(values: Tensor, spread: float = 0.0) -> Tensor:
    """Less the median, over the median absolute deviation as a standard deviation, plus a share of the ordinary one."""
    centred = values - values.median(0).values
    return centred / (1.4826 * centred.abs().median(0).values + spread * values.std(0) + 1e-6)


def _distance(points: Tensor) -> Tensor:
    """Euclidean distance (N,) from each row to its k-th nearest, at least a little more than 0."""
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_REFERENCES]
    others = points[chosen]
    k = max(1, min(len(others) - 1, round(_NEIGHBOURS * len(others))))  # of k + 1, since one may be itself
    near = [torch.cdist(part, others).topk(k + 1, largest=False).values[:, k] for part in points.split(512)]
    return torch.cat(near) + 1e-4


def _statistics(images: Tensor) -> Tensor:
    """Brightness, contrast, colours, sharpness and clipping: float (N, 10 + 2 C)."""
    return torch.cat([_statistics_of(to_float(part, "cpu")) for part in images.split(512)])


def _statistics_of(x: Tensor) -> Tensor:
    gray = x.mean(1)
    levels = torch.quantile(gray.flatten(1), torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98]), dim=1).T
    laplacian = _laplacian(gray).abs()
    steps = (gray[:, :, 1:] - gray[:, :, :-1]).abs().flatten(1)
    sharpness = torch.stack([laplacian.mean(1), laplacian.median(1).values, steps.quantile(0.95, dim=1)], 1)
    clipped = torch.stack([mask.flatten(1).float().mean(1) for mask in (x >= 250 / 255, x <= 5 / 255)], 1)
    return torch.cat([levels, x.mean((2, 3)), x.std((2, 3)), (sharpness + 1e-3).log(), clipped], 1)


def _laplacian(gray: Tensor) -> Tensor:
    inner = gray[:, 1:-1, 1:-1]
    return (4 * inner - gray[:, :-2, 1:-1] - gray[:, 2:, 1:-1] - gray[:, 1:-1, :-2] - gray[:, 1:-1, 2:]).flatten(1)


def image_quality(images: Tensor | np.ndarray) -> pd.DataFrame:
    """How bad each picture is as a picture.

    images: uint8 (N, C, H, W), C = 1 or 3; else ValueError. Returns DataFrame(index, dark, bright, blank, blurred), in
    the images' order. dark: 1 less the 95th percentile of brightness; bright: share of pixels that are white; blank: 1
    for one colour all over, 0.5 for a contrast of 5 levels, in the channel that has most; all in [0, 1]. blurred: how
    much less sharp than the set's typical image (logarithm of the Laplacian's size over the contrast), in robust
    standard deviations.

    Example:
        quality = image_quality(data.train.images)
        quality[quality.dark > 0.8]
    """
    images = check_images("images", images)
    parts = [_quality_of(to_float(part, "cpu")) for part in images.split(512) if len(part)]
    dark, bright, blank, flat, sharpness = torch.cat(parts).T if parts else torch.zeros(5, 0)
    detailed = flat <= 0.5  # else there is nothing to be sharp
    blurred = torch.zeros(len(images))
    if detailed.sum() > 1:  # one alone is typical
        blurred[detailed] = -_robust(sharpness[detailed], 0.1)
    scores = torch.stack([dark, bright, blank, blurred], 1).double().numpy()
    return pd.DataFrame(scores, columns=["dark", "bright", "blank", "blurred"]).reset_index()


def _quality_of(x: Tensor) -> Tensor:
    gray = x.mean(1)
    dark = 1 - gray.flatten(1).quantile(0.95, dim=1)
    bright = (gray >= 250 / 255).flatten(1).float().mean(1)
    # Contrast after averaging, since a sensor's noise shows nothing; of the gray picture and of each channel, since
    # different colours may be equally bright.
    rough = F.avg_pool2d(torch.cat([gray[:, None], x], 1), 4, ceil_mode=True, count_include_pad=False)
    contrast = rough.flatten(2).std(2, unbiased=False)
    flat = torch.exp2(-contrast * 255 / 5)
    sharpness = ((_laplacian(gray).std(1) + 1e-3) / (contrast[:, 0] + 1e-2)).log()
    return torch.stack([dark, bright, flat[:, 1:].amin(1), flat[:, 0], sharpness], 1)


def copies(pairs: pd.DataFrame, n: int, threshold: float = THRESHOLDS["duplicate"]) -> np.ndarray:
    """Which of n images show the same picture: int (n,), for each image the least index in its group.

    Two images are in one group where a pair of them scores above the threshold, or where a chain of such pairs leads
    from one to the other. pairs: what `near_duplicates` returned for images of one set.

    Example:
        group = copies(near_duplicates(images), len(images))
        first = group == np.arange(len(images))     # one of each picture
    """
    sure = pairs[pairs["score"] > threshold]
    ends = (sure["index"].to_numpy(), sure["reference_index"].to_numpy())
    _, component = connected_components(coo_matrix((np.ones(len(sure)), ends), shape=(n, n)), directed=False)
    _, first, member = np.unique(component, return_index=True, return_inverse=True)
    return first[member]


def conflicting_labels(
    pairs: pd.DataFrame, labels: Tensor | np.ndarray, threshold: float = THRESHOLDS["duplicate"]
) -> pd.DataFrame:
    """Pairs that show the same picture under two labels: one of the two at least is wrong.

    pairs: what `near_duplicates` returned for images of one set; those that score above the threshold count. labels:
    int (N,); -1: none. Returns DataFrame(index, reference_index, score, label, reference_label), most alike first.

    Example:
        conflicts = conflicting_labels(near_duplicates(images), labels)
    """
    labels = np.asarray(labels)
    sure = pairs[pairs["score"] > threshold].sort_values("score", ascending=False, kind="stable")
    sure = sure.assign(label=labels[sure["index"]], reference_label=labels[sure["reference_index"]])
    return sure.query("label >= 0 and reference_label >= 0 and label != reference_label").reset_index(drop=True)


def label_features(images: Tensor | np.ndarray) -> Tensor:
    """What labels are judged by: frozen features (N, 2560) of images at two sizes, coarse and fine, side by side."""
    return torch.cat([frozen_features(images, size=size) for size in (COARSE, None)], 1)


def out_of_fold_probabilities(
    h: Tensor | np.ndarray, labels: Tensor | np.ndarray, *, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """What a linear model says of each image without having seen its label.

    Five stratified folds of logistic regression on 512 principal axes. A model that has learned wrong labels is worse
    at finding them; so in a second round labels that are doubted count less: by their probability over the mean
    probability of those with that label (confident learning's threshold, Northcutt et al. 2021, arXiv:1911.00068). The
    strength of the penalty is the one that predicts held-out labels best, as they are.

    h: float (N, D) features, such as `label_features(images)`. labels: int (N,), 0 to K - 1; -1 for none. A class of
    fewer than five images has folds without it. seed: divides the folds. groups: of each image, such as its slide,
    text (N,): none is then in two folds, as images of one slide would vouch for each other. A single one is as none.
    Returns float (N, K): rows sum to 1; a class without any image has 0. Raises ValueError for labels of fewer than
    two classes, or not as many as features.

    Example:
        p = out_of_fold_probabilities(label_features(images), labels)
    """
    h, labels = to_numpy(h).astype(np.float32), np.asarray(labels)
    if len(h) != len(labels):
        raise ValueError(f"{len(h)} rows of features for {len(labels)} labels: they must be of the same images")
    labelled, unlabelled = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    present, y = np.unique(labels[labelled], return_inverse=True)
    if len(present) < 2:
        raise ValueError(f"labels hold {len(present)} classes: label issues need two at least")
    members = None if groups is None else np.asarray(groups)[labelled]
    if members is None or (most := len(np.unique(members))) < 2:
        members, most = None, len(y)
    axes = principal_axes(h)
    x, folds, alike = axes[labelled], stratified_folds(y, min(5, most), seed, members), np.ones(len(y))

    def surprise(decay: float) -> float:
        asked = folds[0][1]
        p = _out_of_fold(x, y, folds[:1], decay, alike)
        return -np.log(np.maximum(p[asked, y[asked]], 1e-9)).mean()

    decay = min(_DECAYS, key=surprise)
    own = _out_of_fold(x, y, folds, decay, alike)[np.arange(len(y)), y]
    usual = np.array([own[y == k].mean() for k in range(len(present))])[y]
    # Of a class with one image nothing is known when that image is held out: no reason to doubt it.
    weight = np.clip(np.divide(own, usual, out=np.ones_like(own), where=usual > 0), 0.01, 1)
    probabilities = np.zeros((len(h), labels.max() + 1))
    # Half the penalty: less is left to learn noise from.
    probabilities[np.ix_(labelled, present)] = _out_of_fold(x, y, folds, decay / 2, weight)
    if len(unlabelled):
        model = logistic_regression(x, y, decay=decay, sample_weight=weight)
        probabilities[np.ix_(unlabelled, present)] = model.predict_proba(axes[unlabelled])
    return probabilities


def _out_of_fold(
    x: np.ndarray, y: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]], decay: float, weight: np.ndarray
) -> np.ndarray:
    """Probabilities (N, K) of each row by the model of the fold that holds it out."""
    p = np.zeros((len(y), y.max() + 1))
    for rest, asked in folds:
        if len(np.unique(y[rest])) < 2:  # a handful of images
            p[asked, y[rest][0]] = 1
            continue
        model = logistic_regression(x[rest], y[rest], decay=decay, sample_weight=weight[rest])
        p[np.ix_(asked, model.classes_)] = model.predict_proba(x[asked])
    return p


def label_issues(
    images: Tensor | np.ndarray, labels: Tensor | np.ndarray, probabilities: np.ndarray | None = None
) -> pd.DataFrame:
    """How likely each image's label is wrong.

    The score is the probability that a model which has not seen the label gives to any other class: 1 less the label's
    self-confidence, as in `cleanlab.rank`. The model is linear, on frozen ImageNet features, unless `probabilities` of
    a better one are given.

    images: uint8 (N, C, H, W), C = 1 or 3; not looked at if probabilities are given. labels: int (N,), 0 to K - 1; -1
    for none: their score is 0. probabilities: float (N, K), out of fold.
    Returns DataFrame(index, score), worst first, a row an image; score in [0, 1]. Raises ValueError for probabilities
    that do not fit the labels; without them, for labels of fewer than two classes, or not as many as images.

    Example:
        label_issues(data.train.images, data.train.labels).head(20)
    """
    labels = np.asarray(labels)
    if probabilities is None:
        probabilities = out_of_fold_probabilities(label_features(images), labels)
    p = np.asarray(probabilities, np.float64)
    if len(p) != len(labels):
        raise ValueError(f"{len(p)} rows of probabilities for {len(labels)} labels: they must be of the same images")
    if p.ndim != 2 or p.shape[1] <= labels.max(initial=-1) or not ((p > -1e-6) & (p < 1 + 1e-6)).all():
        raise ValueError(
            f"probabilities of shape {p.shape} must be from 0 to 1, with a column a class: labels go to {labels.max()}"
        )
    score = np.zeros(len(labels))
    labelled = np.flatnonzero(labels >= 0)
    score[labelled] = 1 - p[labelled, labels[labelled]]
    return _ranked(score.clip(0, 1))
