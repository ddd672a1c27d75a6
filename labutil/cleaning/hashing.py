"""Perceptual hashes of many pictures at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labutil.images import Array, check_images

_BYTES = 1 << 19  # of images hashed at once: what they become stays in a core's cache


def perceptual_hash(images: Array) -> Tensor:
    """pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): bool (N, 64).

    Of the gray picture, scaled to 32x32 (Lanczos), the 8x8 lowest frequencies of its cosine transform: which lie above
    their median? Scaling and transform are linear, so each is a matrix, and so are the two together. Where nothing has
    to be scaled the bits are those of `imagehash.phash`; elsewhere about one in a hundred differs, since
    Pillow rounds and clips the small picture. images: uint8 (N, 1 or 3, H, W), else ValueError.

    Example:
        bits = perceptual_hash(data.train.images).float()
        distance = torch.cdist(bits, bits, p=1)  # in how many bits two pictures differ
    """
    images = check_images("images", images)
    rows, columns = (_lowest_frequencies(side) for side in images.shape[2:])
    length = max(1, _BYTES // images[0].numel()) if len(images) else 1
    low = torch.cat([(rows @ (_gray(part) @ columns.T)).flatten(1) for part in images.split(length)])
    return low > low.median(1, keepdim=True).values


def _gray(images: Tensor) -> Tensor:
    """Gray values (n, H, W), whole numbers as Pillow rounds them: products and sums below 2 ** 24 are exact."""
    x = images.float()
    if x.shape[1] == 1:
        return x[:, 0]
    x = x[:, 0].mul_(19595).add_(x[:, 1], alpha=38470).add_(x[:, 2], alpha=7471)
    return x.add_(32768).mul_(1 / 65536).floor_()


def _lowest_frequencies(side: int) -> Tensor:
    """The matrix (8, side) that scales a line of pixels to 32, as Pillow does, and keeps 8 of its cosine transform."""
    scale = side / 32
    reach = max(1.0, scale)  # shrinking, each of the 32 is a mean of more pixels
    centres, pixels = (np.arange(32)[:, None] + 0.5) * scale, np.arange(side) + 0.5
    distance = (pixels - centres) / reach
    lanczos = np.where(abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    lanczos /= lanczos.sum(1, keepdims=True)
    cosines = np.cos(np.pi * np.arange(8)[:, None] * (np.arange(32) + 0.5) / 32)
    return torch.from_numpy(cosines @ lanczos).float()
