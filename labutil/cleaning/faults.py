"""Plant faults in a clean set of images and know where they are: what a lesson on data cleaning scores itself with.

`MIX` names the kinds. An image has one fault at most, and what copies are made of is free of faults. Kinds do not share
their originals.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.random import Generator

from labutil.cleaning import defects
from labutil.data.loading import mean_std
from labutil.images import Dataset, ImageSet
from labutil.paths import DataError, did_you_mean, is_number

VERSION = 1  # part of fingerprints: raise it when a changed line changes what is planted
# The kinds, and what one number is spread over: the share of each, 1 in all. Labels are right where nothing is said.
MIX = {
    "exact_duplicate": 0.09,  # a copy of an image, byte for byte
    "near_duplicate": 0.14,  # a copy changed in one to three of the ways of `defects.vary`
    "conflicting_duplicate": 0.07,  # either of the two, labelled as another class
    "foreign": 0.12,  # one picture of something else, many times over, half of them the same bytes; random labels
    "blend": 0.08,  # an image mixed with that picture
    "photograph": 0.06,  # crops of natural photographs; random labels
    "noise": 0.05,  # frames of noise, fine or coarse; random labels
    "blank": 0.05,  # frames of almost one colour; random labels
    "overexposed": 0.04,  # an image washed out until most of it clips
    "blurred": 0.04,  # an image so far out of focus that its detail is gone
    "random_label": 0.12,  # an image as it is, labelled as any other class
    "lookalike_label": 0.09,  # the same, as the other class that it resembles most
    "leak": 0.05,  # copies of test images, exact or near
}
KINDS = tuple(MIX)
MOST = 0.5  # of the training images, for one kind, and for all where one number is given
_DUPLICATES = ("exact_duplicate", "near_duplicate", "conflicting_duplicate")
_DAMAGED = ("blend", "overexposed", "blurred")
_STRANGERS = ("foreign", "photograph", "noise", "blank")
_RELABELLED = ("random_label", "lookalike_label")
_WRONG_LABEL = (*_RELABELLED, "conflicting_duplicate")
_EFFECTS, _CHOICE, _PICTURE, _ORDER = range(4)  # each draws its own random numbers


def shares(rates: float | Mapping[str, float] | None) -> dict[str, float]:
    """The share of each kind, in the order of `KINDS`, from the `rates` of `plant`; {} for none. Raises DataError."""
    if rates is None:
        return {}
    many = isinstance(rates, Mapping)
    for kind, share in rates.items() if many else [("", rates)]:
        if many and kind not in MIX:
            raise DataError(f"rates: {kind!r}{did_you_mean(kind, KINDS)} is no kind of fault: {', '.join(KINDS)}")
        if not is_number(share) or not 0 <= share <= MOST:
            raise DataError(
                f"rates{f': {kind}' if many else ''}={share!r} must be a share of the training images from 0 to {MOST}"
                + ("" if many else ", or a dict of kinds and shares such as {'foreign': 0.02}")
            )
    if not many:
        return {kind: float(rates) * share for kind, share in MIX.items()} if rates else {}
    if (total := math.fsum(rates.values())) > 1 + 1e-9:
        raise DataError(f"rates: the shares sum to {total:g}: make them smaller, until it is 1 at most")
    return {kind: float(rates[kind]) for kind in KINDS if rates.get(kind)}


def plant(data: Dataset, rates: float | Mapping[str, float] | None, seed: int = 0) -> tuple[Dataset, pd.DataFrame]:
    """Plant faults among the training images of a data set, `round(rate * N)` of each kind, at least one.

    rates: what share of the N training images to plant, 0 to 0.5, spread over all kinds as `MIX` says; or the share of
    each kind, such as {"near_duplicate": 0.05, "foreign": 0.02}, 0 to 0.5 each, 1 in all. None or 0: none. seed: at
    least 0; decides everything. Fewer are planted where images run out; labels are only changed where there are labels,
    and two classes. Where images have groups, what is made from a training image is of its group, and strangers and
    leaks have one each of their own: no file name would say where they came from.

    Returns the data set, its training images copied into memory, in random order, with the faults among them, and with
    a mean, a deviation and a fingerprint of its own; `data` stays as it is. And the truth, a row a fault: `index`, its
    row in the returned images; `kind`; `original`, the row in them of what it was made from, -1 where there is none,
    and for `leak` the row in the test images; `true_label`, what the label should be, -1 for what belongs to no class.
    Raises DataError when rates are no shares or name an unknown kind.

    Example:
        data, truth = plant(load_dataset("cells"), 0.15)
    """
    rates, n_classes = shares(rates), len(data.classes)
    if not rates:
        return data, _truth([])
    images, labels = data.train.images.numpy(), data.train.labels.numpy()
    n, shape = len(images), images.shape[1:]
    counts = {kind: max(1, round(rate * n)) for kind, rate in rates.items()}
    chosen = _choose(counts, labels, n_classes, seed)
    picture = defects.foreign_picture(shape, np.random.default_rng([seed, _PICTURE]))
    given, added, found = labels.copy(), [], []  # found: (row before shuffling, kind, original, true label)
    for kind, count in counts.items():
        rows, rng = chosen[kind], _rng(seed, _EFFECTS, kind)
        if kind in _RELABELLED:
            given[rows] = _relabel(kind, data.train, rows, rng)
            found += [(row, kind, -1, labels[row]) for row in rows]
            continue
        if kind in _STRANGERS:
            made = _strangers(kind, count, picture, n_classes if (labels >= 0).any() else 0, rng)
        elif kind == "leak":
            rows = np.resize(rng.permutation(len(data.test)), count if len(data.test) else 0)
            made = _altered(kind, data.test, rows, picture, rng)
        else:
            made = _altered(kind, data.train, rows, picture, rng)
        for image, label, original, true_label in made:
            found.append((n + len(added), kind, original, true_label))
            added.append((image, label))

    place = np.random.default_rng([seed, _ORDER]).permutation(n + len(added))  # of each row, its new one
    out, out_labels = np.empty((len(place), *shape), np.uint8), np.empty(len(place), np.int64)
    out[place[:n]], out_labels[place[:n]] = images, given
    for row, (image, label) in zip(place[n:], added, strict=True):
        out[row], out_labels[row] = image, label
    found = [
        (place[row], kind, original if kind == "leak" or original < 0 else place[original], true_label)
        for row, kind, original, true_label in found
    ]

    groups = None
    if data.train.groups is not None:
        groups = np.empty(len(place), object)
        groups[place[:n]] = data.train.groups
        for row, kind, original, _ in found:
            if kind not in _RELABELLED:
                alone = original < 0 or kind == "leak"
                groups[row] = f"planted {kind} {row}" if alone else groups[original]
    train = ImageSet(
        torch.from_numpy(out),
        torch.from_numpy(out_labels),
        data.classes,
        groups=None if groups is None else tuple(groups),
    )
    mean, std = mean_std(train.images)
    # Seed 0 adds nothing: so the fingerprints of what was planted before there were others stay.
    facts = json.dumps([data.fingerprint, VERSION, rates, *([int(seed)] if seed else [])], sort_keys=True)
    fingerprint = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return dataclasses.replace(data, train=train, mean=mean, std=std, fingerprint=fingerprint), _truth(found)


def _truth(rows: list[tuple[int, str, int, int]]) -> pd.DataFrame:
    truth = pd.DataFrame(rows, columns=["index", "kind", "original", "true_label"])
    truth = truth.astype(dict.fromkeys(("index", "original", "true_label"), np.int64))
    return truth.sort_values("index", ignore_index=True)


def duplicate_pairs(truth: pd.DataFrame) -> set[tuple[int, int]]:
    """Every pair (i, j), i < j, of rows that show the same: copies and original; all `foreign`; leaks of one image."""
    groups: dict[object, set[int]] = defaultdict(set)
    for index, kind, original, _ in truth.itertuples(index=False):
        if kind in _DUPLICATES:
            groups[original] |= {original, index}
        elif kind in {"foreign", "leak"}:
            groups[kind, original].add(index)
    return _pairs(groups.values())


def doubtful_pairs(truth: pd.DataFrame) -> set[tuple[int, int]]:
    """Pairs (i, j), i < j, that are neither right nor wrong to call duplicates, and none of `duplicate_pairs`.

    A damaged image and what it was made from; two made from the same, or blended with the same picture, and that
    picture; two blank frames; two parts of photographs, which may overlap.
    """
    groups: dict[object, set[int]] = defaultdict(set)
    for index, kind, original, _ in truth.itertuples(index=False):
        if kind in _DAMAGED:
            groups[original] |= {original, index}
        if kind in {"blank", "photograph", "blend", "foreign"}:
            groups["foreign" if kind == "blend" else kind].add(index)
    return _pairs(groups.values()) - duplicate_pairs(truth)


def score_duplicates(truth: pd.DataFrame, found: Iterable[tuple[int, int]]) -> tuple[float, float]:
    """Recall and precision of pairs (i, j), in any order, that somebody holds for duplicates.

    Recall is over images: of those that have a copy, how many are in a found pair with one. (A picture that is there
    a hundred times makes 4,950 pairs; ninety-nine links find it.) Precision is over pairs, doubtful ones aside; 1 where
    nothing was found.

    Example:
        recall, precision = score_duplicates(truth, [(12, 7), (31, 7)])
    """
    right = duplicate_pairs(truth)
    found = {(min(i, j), max(i, j)) for i, j in found} - doubtful_pairs(truth)
    hits = found & right
    recall, _ = score_rows(itertools.chain(*right), itertools.chain(*hits))
    return recall, len(hits) / len(found) if found else 1.0


def score_rows(truth_rows: Iterable[int], found: Iterable[int]) -> tuple[float, float]:
    """Recall and precision of images, such as `outlier_rows(truth)` against those that a detector found."""
    right, found = set(map(int, truth_rows)), set(map(int, found))
    return len(right & found) / max(1, len(right)), len(right & found) / len(found) if found else 1.0


def outlier_rows(truth: pd.DataFrame) -> np.ndarray:
    """Rows, ascending, of images that belong to no class, or are damaged beyond use."""
    return truth.loc[truth["kind"].isin(_STRANGERS + _DAMAGED), "index"].to_numpy()


def wrong_label_rows(truth: pd.DataFrame) -> np.ndarray:
    """Rows, ascending, of images of the set's own kind that carry a wrong label."""
    return truth.loc[truth["kind"].isin(_WRONG_LABEL), "index"].to_numpy()


def _pairs(groups: Iterable[set[int]]) -> set[tuple[int, int]]:
    return {pair for group in groups for pair in itertools.combinations(sorted(map(int, group)), 2)}


def _rng(seed: int, purpose: int, kind: str) -> Generator:
    # A generator for each kind, so that planting another kind too changes as little as it can.
    return np.random.default_rng([seed, purpose, KINDS.index(kind)])


def _choose(counts: dict[str, int], labels: np.ndarray, n_classes: int, seed: int) -> dict[str, np.ndarray]:
    """Rows that each kind is made from, no row for two kinds; what needs a label comes first."""
    free, chosen = np.ones(len(labels), bool), dict.fromkeys(counts, np.empty(0, np.int64))
    for kind in (*_WRONG_LABEL, *_DUPLICATES[:2], *_DAMAGED):
        if kind not in counts or (kind in _WRONG_LABEL and n_classes < 2):
            continue
        count, rng = counts[kind], _rng(seed, _CHOICE, kind)
        order = rng.permutation(len(labels))
        rows = order[free[order] & ((labels[order] >= 0) | (kind not in _WRONG_LABEL))]
        if kind in _DUPLICATES:  # three in ten originals have a second copy, one of them a third
            rows = np.repeat(rows, rng.choice([1, 2, 3], len(order), p=[0.7, 0.2, 0.1])[: len(rows)])
        if kind not in _RELABELLED and 0 < len(rows) < count:
            rows = np.resize(rows, count)
        chosen[kind] = rows[:count]
        free[chosen[kind]] = False
    return chosen


def _other_class(label: int, n_classes: int, rng: Generator) -> int:
    return int((label + rng.integers(1, n_classes)) % n_classes)


def _relabel(kind: str, train: ImageSet, rows: np.ndarray, rng: Generator) -> list[int]:
    images, labels, n_classes = train.images.numpy(), train.labels.numpy(), len(train.classes)
    drawn = [_other_class(labels[row], n_classes, rng) for row in rows]
    if kind == "random_label" or not len(rows) or len(np.unique(labels[labels >= 0])) < 2:
        return drawn
    # Linear discriminant analysis with equal priors on small images (Hastie et al., The Elements of Statistical
    # Learning, 2nd ed., section 4.3); a tenth of the identity keeps the covariance well conditioned.
    seen = rng.permutation(np.flatnonzero(labels >= 0))[:5000]
    x, asked, y = _small(images, seen), _small(images, rows), labels[seen]
    centre, scale = x.mean(0), x.std(0) + 1
    x, asked = (x - centre) / scale, (asked - centre) / scale
    counts = np.bincount(y, minlength=n_classes)
    means = np.stack([x[y == c].mean(0) if counts[c] else np.zeros(x.shape[1]) for c in range(n_classes)])
    within = x - means[y]
    weights = np.linalg.solve(within.T @ within / len(x) + 0.1 * np.eye(x.shape[1]), means.T)
    scores = asked @ weights - 0.5 * (means.T * weights).sum(0)
    scores[:, counts == 0] = -np.inf
    scores[np.arange(len(rows)), labels[rows]] = -np.inf
    return [c if np.isfinite(best) else d for c, best, d in zip(scores.argmax(1), scores.max(1), drawn, strict=True)]


def _small(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Means over a grid of at most 12 x 12: float (n, features)."""
    ys, xs = (np.unique(np.arange(12) * side // 12) for side in images.shape[2:])
    area = np.outer(*(np.diff(np.append(cut, side)) for cut, side in zip((ys, xs), images.shape[2:], strict=True)))
    parts = np.split(rows, range(256, len(rows), 256))  # a few at a time: they may be large
    sums = [np.add.reduceat(np.add.reduceat(images[part], ys, 2, np.int64), xs, 3) for part in parts]
    return (np.concatenate(sums) / area).reshape(len(rows), -1)


# An image, its label, the row that it was made from, and its true label.
_Made = Iterator[tuple[np.ndarray, int, int, int]]


def _altered(kind: str, source: ImageSet, rows: np.ndarray, picture: np.ndarray, rng: Generator) -> _Made:
    images, labels, n_classes = source.images.numpy(), source.labels.numpy(), len(source.classes)
    damage = {"blend": partial(defects.blend, picture), "overexposed": defects.overexpose, "blurred": defects.blur}
    change = damage.get(kind, defects.vary)
    for row in rows:
        exact = kind == "exact_duplicate" or (kind in {"conflicting_duplicate", "leak"} and rng.random() < 0.5)
        image = images[row] if exact else change(images[row], rng)
        label = _other_class(labels[row], n_classes, rng) if kind == "conflicting_duplicate" else labels[row]
        yield image, label, row, labels[row]


def _strangers(kind: str, count: int, picture: np.ndarray, n_classes: int, rng: Generator) -> _Made:
    if kind == "foreign":
        changed = rng.permutation(count) < count // 2
        made = (defects.vary(picture, rng, slightly=True) if c else picture for c in changed)
    elif kind == "noise":
        made = (defects.noise(picture.shape, rng) for _ in range(count))
    else:
        made = (defects.photographs if kind == "photograph" else defects.blanks)(count, picture.shape, rng)
    for image in made:
        yield image, int(rng.integers(n_classes)) if n_classes else -1, -1, -1
