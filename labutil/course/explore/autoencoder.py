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

SHOWN = 8  # images a row


def interpolation(
    autoencoders: Mapping[str, ConvAutoencoder], images: Tensor, *, first: int = 0, second: int = 1
) -> None:
    """Walk from one image to another, in pixels and in the codes of autoencoders: choose the two images.

    autoencoders: {name: trained model}. images: uint8 (N, C, H, W). first, second: where the sliders start.
    """

    def draw(first: int, second: int) -> Figure:
        x = torch.stack([images[first], images[second]]).float() / 255
        rows = {"pixels": _line(x)}
        for name, model in autoencoders.items():
            with evaluation_mode(model), torch.no_grad():
                h = model.encode(x.to(next(model.parameters()).device))
                rows[name] = model.decode(_line(h)).sigmoid().cpu()
        return plots.image_rows(rows, titles=[f"{t:.0%}" for t in torch.linspace(0, 1, SHOWN)])

    last = len(images) - 1
    explore(
        draw,
        first=slider(min(first, last), 0, last, "from"),
        second=slider(min(second, last), 0, last, "to"),
        alt="Steps on the line between two images: a row for pixels, then one for each code, from small to large.",
    )


def code_sizes(autoencoders: Mapping[int, ConvAutoencoder], images: Tensor) -> None:
    """Reconstructions against the size of the code: choose images, and which sizes are shown.

    autoencoders: {numbers in the code: trained model}. images: uint8 (N, C, H, W).
    """

    def draw(start: int, smallest: int) -> Figure:
        shown = images[start : start + SHOWN]
        rows = {f"{size:,} numbers": predict(m, shown) for size, m in autoencoders.items() if size >= smallest}
        return plots.image_rows({"image": shown} | rows)

    sizes = sorted(autoencoders)
    explore(
        draw,
        start=slider(0, 0, max(0, len(images) - SHOWN), "image", step=SHOWN),
        smallest=ipywidgets.SelectionSlider(options=sizes, value=sizes[0], description="code from"),
        alt="Images, and below each what is drawn from codes of growing size.",
    )


def _line(ends: Tensor) -> Tensor:
    """Points on the straight line between two, the ends among them: (2, ...) -> (SHOWN, ...)."""
    t = torch.linspace(0, 1, SHOWN, device=ends.device).view(-1, *[1] * (ends.ndim - 1))
    return (1 - t) * ends[0] + t * ends[1]
