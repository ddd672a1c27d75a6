"""SimCLR training, steady state: ours (fit, fused views, resident images) against lightly's example on this machine.

lightly's example: its SimCLRTransform image by image in two loader workers, its projection head and loss, SGD, float32.
Both train the same encoder on the same images in the same batches; ours in the default precision and in float32. The
bare step is ours without views and loop: forward, loss, backward and update on one resident pair of batches.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from labutil import device, models
from labutil.augment import simclr_views
from labutil.losses import info_nce
from labutil.training import fit, make_optimizer

ENCODER, SIDE, BATCH, TAU = "resnet8", 32, 256, 0.5
STEPS, ROUNDS, WORKERS = 8, 3, 2
WARM_UP = 2 * WORKERS + 1  # batches: until the loader's queue is as full as it stays


class Pictures(Dataset):
    """Stored images as Pillow's, through lightly's transform: what torchvision's CIFAR10 class gives its example."""

    def __init__(self, images: torch.Tensor) -> None:
        self.arrays, self.transform = images.permute(0, 2, 3, 1).numpy(), SimCLRTransform(SIDE, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.arrays[index]))


def lightly_speeds(images: torch.Tensor) -> Iterator[float]:
    """lightly's training loop, without end; every next() is the images per second of the next STEPS batches."""
    where = device.get_device()
    encoder = models.encoder(ENCODER, image_size=SIDE)
    model = nn.Sequential(encoder, SimCLRProjectionHead(encoder.num_features, 512, 128)).to(where)
    criterion, optimizer = NTXentLoss(temperature=TAU), torch.optim.SGD(model.parameters(), lr=0.06)
    pictures = Pictures(images)
    # No end, so that the workers' queue is as full after the measured batches as before them.
    endless = RandomSampler(pictures, replacement=True, num_samples=10**6)
    while True:
        # New workers each time: they rest while others are measured.
        for i, (a, b) in enumerate(DataLoader(pictures, BATCH, sampler=endless, drop_last=True, num_workers=WORKERS)):
            if i == WARM_UP:
                started = time.perf_counter()
            if i == WARM_UP + STEPS:
                break
            loss = criterion(model(a.to(where)), model(b.to(where)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        yield STEPS * BATCH / (time.perf_counter() - started)


def ours(data: SimpleNamespace, precision: str) -> float:
    """Images per second of one epoch of `fit`."""
    encoder, projector, views = *networks(), simclr_views(SIDE)

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z_a, z_b = projector(encoder(torch.cat([views(x), views(x)]))).chunk(2)
        return info_nce(z_a, z_b, TAU)

    with contextlib.redirect_stdout(io.StringIO()):
        settings = dict(optimizer="sgd", lr=0.06, drop_last=True, precision=precision, name="bench")
        return fit(step, [encoder, projector], data, epochs=2, batch_size=BATCH, **settings).images_per_second[1]


def bare(x: torch.Tensor, precision: str) -> float:
    encoder, projector = networks()
    optimizer = make_optimizer("sgd", [*encoder.parameters(), *projector.parameters()], 0.06)
    pair = torch.cat([x, x.flip(3)])
    for i in range(STEPS + 1):
        if i == 1:
            started = time.perf_counter()
        with device.autocast(precision):
            loss = info_nce(*projector(encoder(pair)).chunk(2), TAU)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return STEPS * BATCH / (time.perf_counter() - started)


def networks() -> tuple[nn.Module, nn.Module]:
    encoder = models.encoder(ENCODER, image_size=SIDE)
    return device.prepare(encoder, models.mlp_head(encoder.num_features, (512,), 128))


def ratios() -> tuple[dict[str, float], dict]:
    """{name: ours/peer} and the speeds behind it, in views (two an image) per second."""
    device.seed_everything(0)
    images = torch.randint(0, 256, (BATCH * STEPS, 3, SIDE, SIDE), dtype=torch.uint8)
    data = SimpleNamespace(images=images, labels=torch.zeros(len(images), dtype=torch.int64))
    x, lightly = device.to_float(images[:BATCH]), lightly_speeds(images)
    default = device.default_precision()
    rounds = []
    for _ in range(ROUNDS):
        speeds = {"lightly, fp32": next(lightly)}
        for precision in dict.fromkeys((default, "fp32")):
            speeds |= {f"ours, {precision}": ours(data, precision), f"bare step, {precision}": bare(x, precision)}
        rounds.append(speeds)
    found = {"simclr_vs_lightly_fp32": statistics.median(r["ours, fp32"] / r["lightly, fp32"] for r in rounds)}
    if default != "fp32":
        found[f"simclr_{default}_vs_lightly"] = statistics.median(
            r[f"ours, {default}"] / r["lightly, fp32"] for r in rounds
        )
    for precision in dict.fromkeys((default, "fp32")):
        found[f"simclr_vs_bare_step_{precision}"] = statistics.median(
            r[f"ours, {precision}"] / r[f"bare step, {precision}"] for r in rounds
        )
    views = {f"{name}, views/s": round(2 * statistics.median(r[name] for r in rounds)) for name in rounds[0]}
    setting = {"encoder": ENCODER, "side": SIDE, "batch": BATCH, "threads": torch.get_num_threads()}
    return found, setting | views
