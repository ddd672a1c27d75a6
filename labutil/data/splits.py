"""Dividing images into splits: stratified by label, and for one seed the same on any machine."""

from __future__ import annotations

import numpy as np

from labutil.images import stratified_order
from labutil.paths import DataError

TEST_FRACTION = 0.2  # of the images, where a source has no test split of its own
_TEST, _VAL, _SUBSET, _SUBSET_VAL, _SUBSET_UNLABELLED, _FOLDS = range(6)  # each draws its own random numbers


def split(
    labels: np.ndarray, parts: dict[str, int], name: str, val_fraction: float, data_seed: int
) -> dict[str, np.ndarray]:
    """Row numbers of train, val, test and, where there is one, unlabelled; ascending.

    `parts` are the splits that the source `name` brings, and their sizes, in the order of `labels`. What lacks of test
    and val is taken from train, test first: stratified, one image at least, and of every class one stays in train.
    Raises DataError where there are too few images.
    """
    stops = np.cumsum(list(parts.values()))
    rows = {part: np.arange(stop - count, stop) for (part, count), stop in zip(parts.items(), stops, strict=True)}
    for part, fraction, stream in (("test", TEST_FRACTION, _TEST), ("val", val_fraction, _VAL)):
        if part in rows:
            continue
        train = rows["train"]
        order = stratified_order(labels[train], (data_seed, stream))
        # the last of each class, counted from the end, stays
        _, lasts = np.unique(labels[train][order][::-1], return_index=True)
        held = np.delete(order, len(train) - 1 - lasts)[: max(1, round(fraction * len(train)))]
        if not len(held):
            raise DataError(f"{name} has too few images ({len(train)}) to take {part} images from: add some")
        rows |= {"train": np.delete(train, held), part: np.sort(train[held])}
    return rows


def take_subset(
    rows: dict[str, np.ndarray], labels: np.ndarray, name: str, subset: int, data_seed: int
) -> dict[str, np.ndarray]:
    """`rows` with at most `subset` for train, val in proportion, at most `subset` unlabelled, test whole. Each is
    stratified, and holds what any smaller subset holds. Raises DataError where `subset` is less than the classes."""
    present = len(np.unique(labels[rows["train"]]))
    if subset < present:
        raise DataError(f"subset={subset} must be at least {present}: one image for each class of {name}")
    val = max(1, round(len(rows["val"]) * min(1, subset / len(rows["train"]))))
    sizes = {"train": (subset, _SUBSET), "val": (val, _SUBSET_VAL), "unlabelled": (subset, _SUBSET_UNLABELLED)}
    taken = dict(rows)
    for part, (size, stream) in sizes.items():
        if part in rows and size < len(rows[part]):
            order = stratified_order(labels[rows[part]], (data_seed, stream), first=0)
            taken[part] = np.sort(rows[part][order[:size]])
    return taken


def stratified_folds(labels: np.ndarray, folds: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cross-validation: (rows to train on, rows to validate on) for each fold, int64, ascending.

    Every row is in one validation part. These hold the same number of images of each class, and in all, or one more.
    labels: int (N,), NumPy or torch. folds: 2 to N. seed: the same folds on any machine. Raises ValueError for labels
    of -1 (unlabelled), or too few images.

    Example:
        for train, val in stratified_folds(data.train.labels, folds=5):
    """
    y = np.asarray(labels)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels: expected integers (N,), got {y.dtype} {y.shape}")
    if (y == -1).any():
        raise ValueError(f"labels: {(y == -1).sum()} are -1 (unlabelled); leave those images out")
    if not 2 <= folds <= len(y):
        raise ValueError(f"folds={folds} must lie between 2 and {len(y)}, the number of images")
    # Dealt out like cards, class after class: a class's remainder goes to the folds that the class before has left.
    order = stratified_order(y, (seed, _FOLDS))
    fold = np.empty(len(y), np.int64)
    fold[order[np.argsort(y[order], kind="stable")]] = np.arange(len(y)) % folds
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(folds)]
