"""Corruptions of test images: the same picture, worse, by five degrees."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil import augment, device
from labutil.paths import check_choice, check_number
from labutil.processes import draws, gather

# Strength at severity 1 to 5, in the unit that `corrupt` states.
CORRUPTIONS = {
    "noise": (0.04, 0.08, 0.12, 0.18, 0.26),
    "shot_noise": (500, 100, 50, 25, 12),
    "blur": (0.005, 0.01, 0.015, 0.02, 0.03),
    "brightness": (1.1, 1.2, 1.3, 1.4, 1.5),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "saturation": (0.8, 0.6, 0.4, 0.2, 0.0),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
}


def corrupt(images: Tensor, kind: str, severity: int, generator: torch.Generator | None = None) -> Tensor:
    """Degrade images by one kind of corruption, after Hendrycks & Dietterich 2019 (https://arxiv.org/abs/1903.12261).

    Severity 0 returns the images themselves, 1 to 5 take the kind's amount from `CORRUPTIONS`. The paper has one set of
    amounts for 32 and one for 224 pixels; these, for sides in between, are neither: compare within this workbook only.
        noise: standard deviation of white Gaussian noise.
        shot_noise: photons that a white pixel collects.
        blur: standard deviation of a Gaussian, as a share of the shorter side.
        brightness: factor; the paper's adds to the value of HSV.
        contrast: factor of the distance to the mean luma; the paper's to the mean of each channel.
        saturation: factor, down to gray (gray images stay as they are); the paper's goes both ways.
        pixelate: share of the side to which the image is shrunk (antialiased) before it is enlarged (nearest pixel).
    Only the two noises draw. Raises ValueError for another kind or severity.
    """
    augment.check_images(images)
    check_choice("kind", kind, CORRUPTIONS)
    check_number("corrupt: severity", severity, 0, 5, whole=True)
    if severity == 0 or not len(images):
        return images
    amount = CORRUPTIONS[kind][int(severity) - 1]
    g, x, sides = generator or device.generator("augment", images.device), images.float(), images.shape[2:]
    with torch.autocast(images.device.type, enabled=False):
        if kind == "noise":
            x = augment.white_noise(x, amount, g)
        elif kind == "shot_noise":
            g = augment.cpu_if_mps(g)
            # How much is drawn depends on every pixel before, hence for the images of all processes.
            photons = draws(len(x), lambda _: torch.poisson((gather(x) * amount).to(g.device), generator=g))
            x = photons.to(x.device) / amount
        elif kind == "blur":
            sigma = amount * min(sides)
            x = augment.gaussian_blur(x, sigma, 2 * math.ceil(3 * sigma) + 1)
        elif kind == "pixelate":
            # Antialiased, not mode="area", whose windows overlap: 0.5 of the side would be sharper than 0.6.
            small = [max(1, round(amount * side)) for side in sides]
            x = F.interpolate(F.interpolate(x, small, mode="bilinear", antialias=True), sides, mode="nearest-exact")
        else:
            x = augment.apply_colour(x, *augment.colour_matrices(x, **{kind: amount}))
        return augment.clamped_like(x, images)
