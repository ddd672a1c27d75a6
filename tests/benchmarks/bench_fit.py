"""fit against the bare forward, backward and update on one resident batch: what the loop around a step costs."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from labutil import device, models
from labutil.training import fit, make_optimizer

CASES = (("resnet8", 3, 32), ("basic_cnn", 3, 32), ("basic_cnn", 1, 28))
BATCH, STEPS, ROUNDS = 64, 40, 5


def compare(name: str, channels: int, side: int) -> tuple[float, dict]:
    """Median over rounds of (images per second of fit) / (of the bare step), measured in turn."""
    device.seed_everything(0)
    n = BATCH * STEPS
    images = torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)
    data = SimpleNamespace(images=images, labels=torch.randint(0, 10, (n,)))
    body = models.encoder(name, channels=channels, image_size=side)
    model = device.prepare(models.Classifier(body, 10))
    x, y = device.to_float(images[:BATCH]), data.labels[:BATCH].to(device.get_device())
    optimizer = make_optimizer("adamw", list(model.parameters()), 1e-3)

    def bare() -> float:
        model.train()
        started = time.perf_counter()
        total = 0
        for _ in range(STEPS):
            with device.autocast():
                loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total = total + loss.detach()
        total.item()
        return n / (time.perf_counter() - started)

    def ours() -> float:
        step = lambda x, y: F.cross_entropy(model(x), y)  # noqa: E731
        with contextlib.redirect_stdout(io.StringIO()):
            history = fit(step, [model], data, epochs=1, batch_size=BATCH, lr=1e-3)
        return history.images_per_second[0]

    bare(), ours()
    pairs = [(ours(), bare()) for _ in range(ROUNDS)]
    fit_speed, bare_speed = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    detail = {
        "fit images/s": round(fit_speed),
        "bare images/s": round(bare_speed),
        "precision": device.default_precision(),
    }
    return statistics.median(a / b for a, b in pairs), detail


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it."""
    found, details = {}, {}
    for case in CASES:
        key = f"fit_vs_bare_step_{case[0]}_{case[1]}x{case[2]}"
        found[key], details[key] = compare(*case)
    return found, details
