"""A classifier's step in fit against the bare step."""

from __future__ import annotations

import bare_step
import torch.nn.functional as F

from labutil import device, models

CASES = (("resnet8", 3, 32), ("basic_cnn", 3, 32), ("basic_cnn", 1, 28))
BATCH, STEPS, ROUNDS = 64, 40, 5


def compare(name: str, channels: int, side: int) -> tuple[float, dict]:
    """`bare_step.compare` for one network and image size."""
    device.seed_everything(0)
    data = bare_step.random_images(BATCH * STEPS, channels, side)
    body = models.encoder(name, channels=channels, image_size=side)
    model = device.prepare(models.Classifier(body, 10))
    return bare_step.compare(lambda x, y: F.cross_entropy(model(x), y), model, data, BATCH, ROUNDS)


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it."""
    found, details = {}, {}
    for case in CASES:
        key = f"fit_vs_bare_step_{case[0]}_{case[1]}x{case[2]}"
        found[key], details[key] = compare(*case)
    return found, details
