"""Explorers of lesson 06: walks between codes, and their size."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from labutil import plots
from labutil.course.explore.frame import explore, slider
from labutil.device import evaluation_mode
from labutil.evaluation import predict
from labutil.networks import ConvAutoencoder


def interpolation(
    autoencoders: Mapping[str, ConvAutoencoder], images: Tensor, *, first: int = 0, second: int = 1, steps: int = 8
) -> None:
    """Walk from one image to another, in pixels and in the codes of autoencoders: choose the two images.

    autoencoders: {name: trained model}. images: uint8 (N, C, H, W). first, second: where the sliders start.
    """
    shares = torch.linspace(0, 1, steps)

    def draw(first: int, second: int) -> Figure:
        a, b = (images[i].float() / 255 for i in (first, second))
        rows = {"pixels": [(1 - t) * a + t * b for t in shares]}
        rows |= {name: interpolate(model, a, b, steps) for name, model in autoencoders.items()}
        return plots.image_rows(rows, titles=[f"{t:.0%}" for t in shares])

    last = len(images) - 1
    explore(draw, first=slider(min(first, last), 0, last, "from"), second=slider(min(second, last), 0, last, "to"))


def code_sizes(autoencoders: Mapping[int, ConvAutoencoder], images: Tensor, *, start: int = 0, n: int = 8) -> None:
    """Reconstructions against the size of the code: choose images, and which sizes are shown.

    autoencoders: {numbers in the code: trained model}. images: uint8 (N, C, H, W). start: the first of n images.
    """

    def draw(start: int, smallest: int) -> Figure:
        shown = images[start : start + n]
        rows = {f"{size:,} numbers": predict(m, shown) for size, m in autoencoders.items() if size >= smallest}
        return plots.image_rows({"image": shown} | rows)

    sizes = sorted(autoencoders)
    explore(
        draw,
        start=slider(start, 0, max(0, len(images) - n), "image", step=n),
        smallest=ipywidgets.SelectionSlider(options=sizes, value=sizes[0], description="code from"),
    )


def interpolate(model: ConvAutoencoder, first: Tensor, second: Tensor, steps: int = 8) -> Tensor:
    """Images on the straight line between the codes of two images.

    first, second: (C, H, W), uint8 or float in [0, 1]. Returns float32 (steps, C, H, W) in [0, 1] on the CPU: the
    reconstruction of the first image, what lies between, that of the second.
    """
    x = torch.stack([image / 255 if image.dtype == torch.uint8 else image for image in (first, second)])
    with evaluation_mode(model), torch.no_grad():
        a, b = model.encode(x.to(next(model.parameters()).device))
        t = torch.linspace(0, 1, steps, device=a.device)[:, None]
        return model.decode((1 - t) * a + t * b).sigmoid().cpu()
