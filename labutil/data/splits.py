"""Dividing images into splits: stratified by label, whole groups where there are some, and for one seed the same on any
machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from labutil.images import stratified_order
from labutil.paths import DataError

TEST_FRACTION = 0.2  # of the images, where a source has no test split of its own
_TRIED = 2000  # groups that are looked at in random orders
_TEST, _VAL, _SUBSET, _SUBSET_VAL, _SUBSET_UNLABELLED, _FOLDS, _CLASSES = range(7)  # each draws its own random numbers


def split(
    labels: np.ndarray,
    parts: dict[str, int],
    name: str,
    val_fraction: float,
    data_seed: int,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Row numbers of train, val, test and, where there is one, unlabelled; ascending.

    `parts` are the splits that the source `name` brings, and their sizes, in the order of `labels`. What lacks of test
    and val is taken from train, test first: stratified, one image at least, and of every class one stays in train.
    groups: the group of each image; of none are there images in two of train, val and test.
    Raises DataError where there are too few images or groups, or where splits that the source brings share a group.
    """
    stops = np.cumsum(list(parts.values()))
    rows = {part: np.arange(stop - count, stop) for (part, count), stop in zip(parts.items(), stops, strict=True)}
    if groups is not None:
        _check_apart(rows, groups, name)
    for part, fraction, stream in (("test", TEST_FRACTION, _TEST), ("val", val_fraction, _VAL)):
        if part in rows:
            continue
        train = rows["train"]
        if groups is not None:
            later = part == "test" and "val" not in rows
            held = _take_groups(labels[train], groups[train], fraction, (data_seed, stream), later=later)
            if not len(held):
                few = f"{name} has too few groups ({len(np.unique(groups[train]))}) to take {part} images from"
                raise DataError(f"{few}, as train must keep some of every class: add groups, or divide them further")
            rows |= {"train": np.delete(train, held), part: train[held]}
            continue
        order = stratified_order(labels[train], (data_seed, stream))
        # the last of each class, counted from the end, stays
        _, lasts = np.unique(labels[train][order][::-1], return_index=True)
        held = np.delete(order, len(train) - 1 - lasts)[: max(1, round(fraction * len(train)))]
        if not len(held):
            few = f"{name} has too few images ({len(train)}) to take {part} images from"
            raise DataError(f"{few}, as train keeps one of each class: add some, so that there are {len(lasts) + 1}")
        rows |= {"train": np.delete(train, held), part: np.sort(train[held])}
    return rows


def _check_apart(rows: dict[str, np.ndarray], groups: np.ndarray, name: str) -> None:
    """Raise DataError where two of train, val and test have images of one group."""
    of = {part: set(groups[rows[part]]) for part in ("train", "val", "test") if part in rows}
    for a, b in itertools.combinations(of, 2):
        if shared := sorted(of[a] & of[b]):
            what = f"{name}: {a} and {b} share {len(shared)} groups, such as {shared[0]}"
            raise DataError(f"{what}: move all images of a group into one of them")


def _take_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, seed: tuple[int, ...], *, later: bool
) -> np.ndarray:
    """Rows, ascending, of whole groups that are together about `fraction` of all images and of each class.

    Of every class something stays. later: so much that a group can be taken from it once more. Empty where no groups
    allow this. Some random orders are gone through, each group taken if it brings chi-square of the classes' numbers
    down; the best counts.
    """
    classes, y = np.unique(labels, return_inverse=True)
    names, group = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), np.int64)
    np.add.at(counts, (group, y), 1)
    wanted = fraction * counts.sum(0)
    random = np.random.PCG64(np.random.SeedSequence(seed))  # its raw stream is the same in every release of NumPy

    def allowed(taken: list[int]) -> bool:
        rest = np.delete(counts, taken, 0)
        left = rest.sum(0)
        return bool(left.all() and (not later or (left > rest).all(1).any()))

    def far(held: np.ndarray) -> float:
        return float(((held - wanted) ** 2 / wanted).sum())

    found = [[i] for i in range(len(names))] if len(names) <= _TRIED else []
    for _ in range(max(1, min(20, _TRIED // len(names)))):
        taken, held, left = [], np.zeros_like(wanted), counts.sum(0)
        for i in np.argsort(random.random_raw(len(names)), kind="stable").tolist():
            if (left > counts[i]).all() and far(held + counts[i]) < far(held):
                taken.append(i)
                held, left = held + counts[i], left - counts[i]
        found.append(taken)
    possible = [taken for taken in found if taken and allowed(taken)]
    best = min(possible, key=lambda taken: far(counts[taken].sum(0)), default=[])
    return np.flatnonzero(np.isin(group, best))


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


def hold_out(classes: Sequence[str], share: float | str, seed: int, name: str) -> list[str]:
    """A share of the classes of the source `name`, drawn by seed, in their order: two at least, and two stay. Raises
    DataError where that cannot be.

    Example:
        hold_out(("a", "b", "c", "d"), 0.5, 0, "letters")  # ["b", "c"]
    """
    try:
        count = round(float(share) * len(classes))
    except (ValueError, OverflowError):
        raise DataError(f"held_out:{share}: give a share of the classes between 0 and 1, as held_out:0.5") from None
    if not 2 <= count <= len(classes) - 2:
        raise DataError(f"held_out:{share} of the {len(classes)} classes of {name}: two at least must go, and two stay")
    order = stratified_order(np.zeros(len(classes), int), (seed, _CLASSES))  # of one stratum: at random
    return [classes[i] for i in np.sort(order[:count])]


def stratified_folds(
    labels: np.ndarray, folds: int, seed: int = 0, groups: Sequence[str] | np.ndarray | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cross-validation: (rows to train on, rows to validate on) for each fold, int64, ascending.

    Every row is in one validation part. These hold the same number of images of each class, and in all, or one more.
    labels: int (N,), NumPy or torch. folds: 2 to N. seed: the same folds on any machine. groups: of each row,
    such as its slide; none is in two folds then, which are stratified as far as that allows. Raises ValueError for
    labels of -1 (unlabelled), or too few images or groups.

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
    if groups is not None:
        from sklearn.model_selection import StratifiedGroupKFold

        if len(np.unique(groups)) < folds:
            raise ValueError(f"folds={folds} of {len(np.unique(groups))} groups: take fewer folds, or no groups")
        found = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(y, y, groups)
        return [(rest, asked) for rest, asked in found if len(asked)]  # large groups may fill fewer folds
    # Dealt out like cards, class after class: a class's remainder goes to the folds that the class before has left.
    order = stratified_order(y, (seed, _FOLDS))
    fold = np.empty(len(y), np.int64)
    fold[order[np.argsort(y[order], kind="stable")]] = np.arange(len(y)) % folds
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(folds)]
