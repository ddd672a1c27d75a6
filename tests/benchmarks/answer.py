"""Time to an answer: accuracy of k-NN against minutes of training on 10,000 CIFAR-10 images, ours and lightly's.

lightly as its example has it, for so many minutes; ours, a recipe of our own, for a fifth of them. The same encoder,
machine and threads; evaluations do not count. The question is when ours reaches what lightly has in the end.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from dataclasses import replace

import torch
from epochs import ENCODER, Pictures, loader_training
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn

from labutil import device, evaluation, models, representations
from labutil.augment import simclr_views
from labutil.data import load_dataset
from labutil.images import Dataset, stratified_sample
from labutil.losses import info_nce
from labutil.training import fit

Curve = list[tuple[float, float]]  # (minutes, accuracy)


def cifar10_knn_vs_lightly() -> dict:
    minutes = float(os.environ["BENCH_MINUTES"])
    data = load_dataset(os.environ["BENCH_CIFAR10"], image_size=32, subset=10_000)
    ours, peer = our_curve(data, minutes / 5), their_curve(data, minutes)
    reached = next((when for when, accuracy in ours if accuracy >= peer[-1][1]), None)
    return {
        "ours, accuracy (minutes)": _in_words(ours),
        "lightly": _in_words(peer),
        "ours has lightly's last after": "not within its time" if reached is None else f"{reached:.2f} minutes",
    }


def judge(encoder: nn.Module, data: Dataset) -> float:
    """Accuracy of the 20 nearest of all training images, on 2,000 test images."""
    index = torch.as_tensor(stratified_sample(data.test.labels, 2000))
    bank, queries = (evaluation.predict(encoder, x) for x in (data.train.images, data.test.images[index]))
    return representations.knn_accuracy(bank, data.train.labels, queries, data.test.labels[index])


def our_curve(data: Dataset, minutes: float, side: int = 16, batch: int = 128) -> Curve:
    """Views of half the image's side cost a quarter; as many epochs as fit into the minutes."""

    def train(epochs: int, judged: bool = True, **settings: float):
        device.seed_everything(0)
        encoder = models.encoder(ENCODER, image_size=32, mean=data.mean, std=data.std)
        network = nn.Sequential(*device.prepare(encoder, models.mlp_head(encoder.num_features, (512,), 128)))
        views = replace(simclr_views(side, strength=0.5), crop_scale=(0.2, 1.0))

        def step(x: Tensor, y: Tensor) -> Tensor:
            return info_nce(*network(torch.cat([views(x), views(x)])).chunk(2), 0.2)

        with contextlib.redirect_stdout(io.StringIO()):
            return fit(
                step, [network], data.train, epochs=epochs, batch_size=batch, lr=0.004, weight_decay=1e-4,
                schedule="cosine", warmup=epochs / 10, drop_last=True,
                evaluate=lambda: {"knn_accuracy": judge(encoder, data) if judged else 0.0},
            )  # fmt: skip

    speed = train(1, judged=False).images_per_second.iloc[-1]
    epochs = max(1, int(60 * minutes * speed / len(data.train)))
    history = train(epochs)
    passed = (len(data.train) / history.images_per_second).cumsum() / 60
    return list(zip(passed, history.knn_accuracy, strict=True))


def their_curve(data: Dataset, minutes: float, batch: int = 256, marks: int = 5) -> Curve:
    device.seed_everything(0)
    encoder = models.encoder(ENCODER, image_size=32)
    network = nn.Sequential(encoder, SimCLRProjectionHead(encoder.num_features, 512, 128))
    criterion, pictures = NTXentLoss(temperature=0.5), Pictures(data.train, SimCLRTransform(32, gaussian_blur=0.0))
    training = loader_training(pictures, batch, network, lambda x, _: criterion(network(x[0]), network(x[1])), lr=0.06)
    curve, seconds = [(0.0, judge(encoder, data))], 0.0
    next(training)  # starting the workers does not count
    for mark in range(1, marks + 1):
        network.train()
        while seconds < 60 * minutes * mark / marks:
            started = time.perf_counter()
            next(training)
            seconds += time.perf_counter() - started
        curve.append((seconds / 60, judge(encoder, data)))
    training.close()
    return curve


def _in_words(curve: Curve) -> str:
    return ", ".join(f"{accuracy:.3f} ({minutes:.1f})" for minutes, accuracy in curve)
