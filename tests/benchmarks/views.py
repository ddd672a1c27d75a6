"""Two random views of an image as SimCLR draws them, and image hashes: ours on the batch, against others."""

from __future__ import annotations

import imagehash
import kornia.augmentation as K
import numpy as np
import torch
from contest import Contest, pictures
from lightly.transforms import SimCLRTransform
from PIL import Image

from labutil import cleaning, device
from labutil.augment import simclr_views

CASES = {"32 px": (32, 256), "96 px": (96, 64)}  # side, images


def views_vs_lightly(side: int = 32, n: int = 256) -> Contest:
    images, ours, peer = pictures(n, side), simclr_views(side), SimCLRTransform(side, gaussian_blur=0.0)
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def our_pair() -> None:
        x = device.to_float(images)
        ours(x), ours(x)

    def their_pair() -> None:
        pairs = [peer(image) for image in pillow]
        torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs])

    return Contest(our_pair, their_pair, n, "SimCLRTransform(32, gaussian_blur=0.0), one process", "pairs of views")


def views_vs_kornia() -> dict[str, Contest]:
    return {name: _kornia(*case) for name, case in CASES.items()}


def _kornia(side: int, n: int) -> Contest:
    x, ours = device.to_float(pictures(n, side)), simclr_views(side)
    peer = K.AugmentationSequential(
        K.RandomResizedCrop((side, side), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        K.RandomGrayscale(p=0.2),
        data_keys=["input"],
        same_on_batch=False,
    )

    def run(views):
        return lambda: views(x)

    return Contest(run(ours), run(peer), n, f"the same four changes, batches of {n}, as many threads as ours", "views")


def hashing_vs_imagehash() -> dict[str, Contest]:
    return {name: _imagehash(side) for name, (side, _) in CASES.items()}


def _imagehash(side: int, n: int = 2000) -> Contest:
    images = pictures(n, side)
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

    def ours() -> None:
        cleaning.perceptual_hash(images)

    def peer() -> None:
        np.stack([imagehash.phash(image).hash.flatten() for image in pillow])

    return Contest(ours, peer, n, "phash, 64 bits, image by image, one process")
