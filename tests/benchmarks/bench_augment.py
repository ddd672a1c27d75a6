"""SimCLR's views: ours on the batch, against kornia on the batch and torchvision image by image, on the same images.

All do the same: random resized crop, flip, jitter with probability 0.8, grayscale with probability 0.2.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import kornia.augmentation as K
import torch
from torch import Tensor
from torchvision.transforms import v2

from labutil import device
from labutil.augment import simclr_views

CASES = ((32, 256), (96, 64))  # side, images in a batch
ROUNDS, SECONDS = 7, 0.15
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
JITTER = (0.8, 0.8, 0.8, 0.2)


def kornia_views(side: int) -> Callable[[Tensor], Tensor]:
    return K.AugmentationSequential(
        K.RandomResizedCrop((side, side), scale=SCALE, ratio=RATIO),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(*JITTER, p=0.8),
        K.RandomGrayscale(p=0.2),
        data_keys=["input"],
        same_on_batch=False,
    )


def torchvision_views(side: int) -> Callable[[Tensor], Tensor]:
    views = v2.Compose(
        [
            v2.RandomResizedCrop(side, scale=SCALE, ratio=RATIO, antialias=False),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8),
            v2.RandomGrayscale(0.2),
        ]
    )
    return lambda x: torch.stack([views(image) for image in x])  # on a batch it draws once for all images


def speed(views: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Images per second over as many batches as start within `SECONDS`."""
    started, batches = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        views(x)
        batches += 1
        if x.is_cuda:
            torch.cuda.synchronize()
    return batches * len(x) / (time.perf_counter() - started)


def compare(side: int, batch: int) -> tuple[dict[str, float], dict]:
    """Median over rounds of (our images per second) / (the peer's), measured in turn; and the median speeds."""
    x = device.to_float(torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8))
    methods = {"ours": simclr_views(side), "kornia": kornia_views(side), "torchvision": torchvision_views(side)}
    for views in methods.values():
        views(x)
    rounds = [{name: speed(views, x) for name, views in methods.items()} for _ in range(ROUNDS)]
    found = {
        f"augment_vs_{peer}_{side}x{side}": statistics.median(r["ours"] / r[peer] for r in rounds)
        for peer in ("kornia", "torchvision")
    }
    speeds = {f"{name} images/s": round(statistics.median(r[name] for r in rounds)) for name in methods}
    return found, {"batch": batch, **speeds}


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it."""
    found, details = {}, {"device": str(device.get_device()), "threads": torch.get_num_threads()}
    for side, batch in CASES:
        new, details[f"{side}x{side}"] = compare(side, batch)
        found |= new
    return found, details
