"""Lesson 06's training step in fit against the bare step; and what the reference model (report E, 28x28) costs: seconds
for 54,000 images and floating-point operations an image."""

from __future__ import annotations

import bare_step
import torch
from torch.utils.flop_counter import FlopCounterMode

from labutil import device, models
from labutil.losses import reconstruction_loss

# filters, batch, steps; the last is the reference model
CASES = (((16, 32), 64, 40), ((32, 64), 256, 8), ((128, 256), 64, 4))
ROUNDS, EPOCH = 5, 54_000


def training_flops(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Floating-point operations (two for a multiplication and addition) of one image, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        reconstruction_loss(model.decode(model.encode(x)), x).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(x)


def compare(filters: tuple[int, ...], batch: int, steps: int) -> tuple[float, dict]:
    """`bare_step.compare` for one autoencoder, and its operations."""
    device.seed_everything(0)
    data = bare_step.random_images(batch * steps, 1, 28)
    model = device.prepare(models.ConvAutoencoder(1, filters))
    flops = training_flops(model, device.to_float(data.images[:2]))
    step = lambda x, _: reconstruction_loss(model.decode(model.encode(x)), x)  # noqa: E731
    ratio, detail = bare_step.compare(step, model, data, batch, ROUNDS)
    speed = detail["fit images/s"]
    detail |= {
        "training MFLOP an image": round(flops / 1e6, 1),
        "GFLOP/s": round(speed * flops / 1e9),
        f"seconds for {EPOCH:,} images": round(EPOCH / speed, 1),
    }
    return ratio, detail


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it."""
    found, details = {}, {}
    for filters, batch, steps in CASES:
        key = f"autoencoder_fit_vs_bare_step_{'_'.join(map(str, filters))}"
        found[key], details[key] = compare(filters, batch, steps)
    return found, details
