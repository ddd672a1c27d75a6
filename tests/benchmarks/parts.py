"""Losses, frozen features, nearest neighbours, and the opening of a folder, each against a library that does it too."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from contest import Contest, flops, pictures
from lightly.loss import NTXentLoss
from PIL import Image
from pytorch_metric_learning.losses import SupConLoss
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from labutil import device, losses, models, representations
from labutil.data import load_dataset

BATCHES = (256, 1024)  # images, two views each


def info_nce_vs_lightly() -> dict[str, Contest]:
    peer = NTXentLoss(temperature=0.5)
    ours = lambda a, b, _: losses.info_nce(a, b, 0.5)  # noqa: E731
    return {f"batch {n}": _losses(ours, lambda a, b, _: peer(a, b), n, "NTXentLoss") for n in BATCHES}


def sup_con_vs_pml() -> dict[str, Contest]:
    peer = SupConLoss(temperature=0.1)
    ours = lambda a, b, y: losses.sup_con(a, b, y, 0.1)  # noqa: E731
    theirs = lambda a, b, y: peer(torch.cat([a, b]), y.repeat(2))  # noqa: E731
    return {f"batch {n}": _losses(ours, theirs, n, "SupConLoss") for n in BATCHES}


def _losses(ours, theirs, n: int, name: str) -> Contest:
    """Forward and backward on projections (n, 128) of two views."""
    g, where = torch.Generator().manual_seed(0), device.get_device()
    z_a, z_b = (torch.randn(n, 128, generator=g).to(where).requires_grad_() for _ in range(2))
    y = (torch.arange(n) % 10).to(where)

    def same() -> None:
        torch.testing.assert_close(ours(z_a, z_b, y), theirs(z_a, z_b, y))

    def side(loss):
        return lambda: torch.autograd.grad(loss(z_a, z_b, y), (z_a, z_b))

    operations = flops(lambda: ours(z_a, z_b, y), n)
    return Contest(
        side(ours), side(theirs), n, f"{name}, fp32, as many threads", flops=operations, precision="fp32", same=same
    )


def features_vs_bare_forward(n: int = 2000) -> Contest:
    images, size = pictures(n, 96), 96
    network = models.encoder(representations.DEFAULT, pretrained=True, input_size=size)
    network = network.to(device.get_device(), memory_format=torch.channels_last).eval()
    batches = device.to_float(images).split(representations.batch_size(size))

    @torch.inference_mode()
    def forward(x: Tensor) -> Tensor:
        with device.autocast():
            return network(x)

    return Contest(
        lambda: representations.frozen_features(images, cache=False),
        lambda: [forward(x) for x in batches],
        n,
        f"EfficientNet-Lite0 at {size} px on resident batches of {len(batches[0])}, same precision and threads",
        flops=flops(lambda: forward(batches[0]), len(batches[0])),
    )


def knn_vs_sklearn(bank: int = 10_000, n: int = 2000, d: int = 128) -> Contest:
    """As many numbers an image as resnet8 gives, around ten centres; k = 20, votes weighed by exp(cosine / 0.1)."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(bank + n) % 10
    h = torch.randn(10, d, generator=g)[y] + 3 * torch.randn(bank + n, d, generator=g)
    arrays = h[:bank].numpy(), y[:bank].numpy(), h[bank:].numpy()

    def ours() -> Tensor:
        return representations.knn_probabilities(h[:bank], y[:bank], h[bank:], 10)

    def peer() -> np.ndarray:
        weigh = lambda distance: np.exp((1 - distance) / 0.1)  # noqa: E731
        knn = KNeighborsClassifier(20, metric="cosine", weights=weigh).fit(*arrays[:2])
        return knn.predict_proba(arrays[2])

    def same() -> None:
        np.testing.assert_allclose(ours().numpy(), peer(), atol=1e-4)

    is_ = "KNeighborsClassifier(20, metric='cosine', weights=...), NumPy arrays, its own threads"
    return Contest(ours, peer, n, is_, "queries", 2 * bank * d, "fp32", same)


def dataset_open_vs_imagefolder(n: int = 2000, side: int = 64) -> Contest:
    folder = Path(os.environ["LABUTIL_DATA"]) / "classes"
    for i, image in enumerate(pictures(n, side)):
        (folder / str(i % 10)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(i % 10) / f"{i}.jpg")

    def ours() -> Tensor:
        data = load_dataset(f"folder:{folder}", image_size=side)
        return torch.cat([part.images for part in (data.train, data.val, data.test)])

    def peer() -> Tensor:
        return torch.stack([image for image, _ in ImageFolder(str(folder), PILToTensor())])

    def same() -> None:
        assert F.mse_loss(ours().float().mean(0), peer().float().mean(0)) < 1e-6

    ours()  # the first opening decodes
    is_ = f"ImageFolder with PILToTensor, all {n:,} JPEG of {side} px decoded, one process"
    return Contest(ours, peer, n, is_, same=same)
