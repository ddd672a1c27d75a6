"""fit against the bare forward, backward and update on one resident batch: what the loop around a step costs."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from labutil import device
from labutil.images import ImageSet
from labutil.training import fit, make_optimizer


def compare(
    step: Callable[[Tensor, Tensor], Tensor], model: nn.Module, data: ImageSet, batch: int, rounds: int
) -> tuple[float, dict]:
    """Median over rounds of (images per second of fit) / (of the bare step), measured in turn; and both speeds."""
    n = len(data.images)
    x, y = device.to_float(data.images[:batch]), data.labels[:batch].to(device.get_device())
    optimizer = make_optimizer("adamw", list(model.parameters()), 1e-3)

    def bare() -> float:
        model.train()
        started = time.perf_counter()
        total = 0
        for _ in range(n // batch):
            with device.autocast():
                loss = step(x, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total = total + loss.detach()
        total.item()
        return n / (time.perf_counter() - started)

    def ours() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            history = fit(step, [model], data, epochs=1, batch_size=batch, lr=1e-3)
        return history.images_per_second[0]

    bare(), ours()
    pairs = [(ours(), bare()) for _ in range(rounds)]
    fit_speed, bare_speed = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    detail = {
        "fit images/s": round(fit_speed),
        "bare images/s": round(bare_speed),
        "precision": device.default_precision(),
    }
    return statistics.median(a / b for a, b in pairs), detail


def random_images(n: int, channels: int, side: int, n_classes: int = 10) -> ImageSet:
    """uint8 noise with random labels."""
    images = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)
    return ImageSet(images, torch.randint(0, n_classes, (n,)), tuple(map(str, range(n_classes))))
