"""Lesson 06's training step in fit against the bare forward, backward and update on one resident batch; and what the
reference model (report E, 28x28) costs: seconds for 54,000 images and floating-point operations an image."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

from labutil import device, models
from labutil.autoencoders import reconstruction_loss
from labutil.training import fit, make_optimizer

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
    """Median over rounds of (images per second of fit) / (of the bare step), measured in turn."""
    device.seed_everything(0)
    n = batch * steps
    data = SimpleNamespace(
        images=torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8), labels=torch.zeros(n, dtype=torch.int64)
    )
    model = device.prepare(models.ConvAutoencoder(1, filters))
    x = device.to_float(data.images[:batch])
    flops = training_flops(model, x[:2])
    optimizer = make_optimizer("adamw", list(model.parameters()), 1e-3)

    def bare() -> float:
        model.train()
        started = time.perf_counter()
        total = 0
        for _ in range(steps):
            with device.autocast():
                loss = reconstruction_loss(model.decode(model.encode(x)), x)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total = total + loss.detach()
        total.item()
        return n / (time.perf_counter() - started)

    def ours() -> float:
        step = lambda x, y: reconstruction_loss(model.decode(model.encode(x)), x)  # noqa: E731
        with contextlib.redirect_stdout(io.StringIO()):
            history = fit(step, [model], data, epochs=1, batch_size=batch, lr=1e-3)
        return history.images_per_second[0]

    bare(), ours()
    pairs = [(ours(), bare()) for _ in range(ROUNDS)]
    fit_speed, bare_speed = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    detail = {
        "fit images/s": round(fit_speed),
        "bare images/s": round(bare_speed),
        "precision": device.default_precision(),
        "training MFLOP an image": round(flops / 1e6, 1),
        "GFLOP/s": round(fit_speed * flops / 1e9),
        f"seconds for {EPOCH:,} images": round(EPOCH / fit_speed, 1),
    }
    return statistics.median(a / b for a, b in pairs), detail


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it."""
    found, details = {}, {}
    for filters, batch, steps in CASES:
        key = f"autoencoder_fit_vs_bare_step_{'_'.join(map(str, filters))}"
        found[key], details[key] = compare(filters, batch, steps)
    return found, details
