"""Images and their labels, data sets made of them, and the stratified draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from labutil.paths import check_number

Array = ArrayLike | Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their labels. `images` may lie in a memory-mapped file; changing it changes no file.

    Label -1, unlabelled: a set without any labels, and `Dataset.unlabelled`. Such an image has no class to be judged by
    (metrics refuse it), its other view as only positive in `losses.sup_con`, and stays when data are cleaned.
    """

    images: Tensor  # uint8 (N, C, H, W), C = 1 or 3
    labels: Tensor  # int64 (N,), an index into `classes`; -1: none
    classes: tuple[str, ...]
    names: tuple[str, ...] | None = None  # of the files, below the source's folder; None: images without names
    groups: tuple[str, ...] | None = None  # what each was taken of (a slide, a patient), where `load_dataset` was told

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What `load_dataset` returns. `mean` and `std` are of the training images, per channel, for values in [0, 1]."""

    name: str
    train: ImageSet
    val: ImageSet
    test: ImageSet
    unlabelled: ImageSet | None  # further images that come without labels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str  # 16 hex digits; differs when source, splits (and what decides them), classes or planted faults do
    classes: tuple[str, ...]
    channels: int
    image_size: int | tuple[int, int]  # pixels a side; (height, width) where not square


def to_numpy(values: Array) -> np.ndarray:
    """Any array-like as NumPy; torch's bfloat16, which NumPy lacks, as float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def check_images(name: str, images: Array) -> Tensor:
    """`images` as a tensor, uint8 (N, 1 or 3, H, W), or one clear ValueError that calls them `name`."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"{name}: expected uint8 (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images


def stratified_order(labels: Array, seed: int | Sequence[int] = 0, *, first: float = 0.5) -> np.ndarray:
    """All images at random, so that every beginning of the order holds the classes in their proportions: int64 (N,).

    labels: integers (N,). seed: the same order on any machine, and in any release of NumPy. first: the j-th of a
    class's n images comes at (j + first) / n: with 0.5 beginnings are as proportional as they can be, with 0 one image
    of each class comes before the second of any.
    """
    y = to_numpy(labels)
    # the raw stream of a bit generator is the same in every release of NumPy
    key = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(len(y))
    by_class = np.lexsort((key, y))
    _, start, count = np.unique(y[by_class], return_index=True, return_counts=True)
    rank, size = np.arange(len(y)) - np.repeat(start, count), np.repeat(count, count)
    return by_class[np.lexsort((key[by_class], (rank + first) / size))]


def stratified_sample(labels: Array, n: int, seed: int = 0) -> np.ndarray:
    """Indices of n images in which every class keeps its share, to less than one image: int64 (min(n, N),), rising.

    labels: integers (N,); -1 (unlabelled) is a group like any other. seed: of the function's own generator.

    Example:
        xy = tsne(features[stratified_sample(data.val.labels, 500)])
    """
    y = to_numpy(labels)
    if y.ndim != 1:
        raise ValueError(f"labels: expected (N,), got {y.shape}")
    check_number("n", n, 0, whole=True)
    if n >= len(y):
        return np.arange(len(y), dtype=np.int64)
    rng = np.random.default_rng(seed)
    _, group, counts = np.unique(y, return_inverse=True, return_counts=True)
    # Whole images first (integer arithmetic: exact), then one more for the largest remainders, equals by lot.
    take, remainder = np.divmod(counts * n, len(y))
    take[np.lexsort((rng.random(len(counts)), -remainder))[: n - take.sum()]] += 1
    chosen = [rng.choice(np.flatnonzero(group == g), size=size, replace=False) for g, size in enumerate(take)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
