"""Images as if they came from several slides: what lesson 01 shows a leak with that needs no copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labutil.images import Array, check_images, to_numpy
from labutil.paths import check_number

STAIN, LIGHT = 0.25, 0.1  # standard deviations, of logarithms, between slides
MIX = 0.5  # of the Dirichlet distribution: at 0.5 a slide has mostly a few of the classes, at 10 all alike


def on_slides(images: Array, labels: Array, count: int = 20, seed: int | list[int] = 0) -> tuple[Tensor, np.ndarray]:
    """Deal images to slides at random, and stain each slide in its own way: returns new images, and each one's slide.

    A slide has a mix of classes of its own, as a patient has; amounts of stain, by which the optical density of each
    channel is multiplied (their logarithms have the deviation `STAIN`; Beer-Lambert's law); and a brightness (`LIGHT`).

    images: uint8 (N, C, H, W). labels: integers (N,). count: slides, some of which may stay empty. seed: decides all.
    Returns uint8 (N, C, H, W) and the slides' names (N,), text such as "slide07", for `groups`. Raises ValueError for
    other shapes or numbers.

    Example:
        stained, slides = on_slides(data.train.images, data.train.labels)
    """
    pixels, labels = check_images("images", images).numpy(), to_numpy(labels)
    check_number("count", count, 1, whole=True)
    if labels.shape != (len(pixels),):
        raise ValueError(f"labels {labels.shape}: expected one for each of {len(pixels)} images")
    rng, channels = np.random.default_rng(seed), pixels.shape[1]
    present, y = np.unique(labels, return_inverse=True)
    mix = rng.dirichlet(np.full(len(present), MIX), count) + 1e-12
    until = np.cumsum(mix / mix.sum(0), 0)  # (count, K): of a class, the share on this slide and those before it
    slide = np.minimum((rng.random(len(y)) > until[:, y]).sum(0), count - 1)
    density = np.exp(rng.normal(0, STAIN, (count, channels, 1)))
    light = np.exp(rng.normal(0, LIGHT, (count, 1, 1)))
    levels = light * (np.arange(256) / 255) ** density  # of every slide, channel and value, the new value
    levels = np.rint(255 * levels).clip(0, 255).astype(np.uint8)
    stained = np.empty_like(pixels)
    for s in np.unique(slide):
        for c in range(channels):
            stained[slide == s, c] = levels[s, c][pixels[slide == s, c]]
    digits = len(str(count))
    return torch.from_numpy(stained), np.array([f"slide{s + 1:0{digits}}" for s in slide])
