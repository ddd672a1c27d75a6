"""Training epochs: ours by `fit`, against other people's loops over a DataLoader, and against the bare step.

A DataLoader's epoch is measured in the middle, when its queue is as full as it stays; starting its workers is not.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from contest import Contest, flops, pictures, synchronize
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms as T

from labutil import device, losses, models
from labutil.augment import Augment, simclr_views
from labutil.images import ImageSet
from labutil.training import fit, make_optimizer

ENCODER, SIDE, STEPS, WORKERS, CLASSES = "resnet8", 32, 4, 2, 10
WARM_UP = 2 * WORKERS + 1  # batches, until the loader's queue is as full as it stays
NORMALIZE = T.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # CIFAR-10's, as the recipes have it


class Pictures(Dataset):
    """Stored images as Pillow's, through a transform, with labels: what torchvision's CIFAR10 class gives."""

    def __init__(self, data: ImageSet, transform: Callable) -> None:
        self.arrays, self.labels = data.images.permute(0, 2, 3, 1).numpy(), data.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def loader_training(pictures: Pictures, batch: int, model: nn.Module, loss: Callable, **sgd: float) -> Iterator[None]:
    """A plain training loop in fp32, without end; every next() is a batch, of other images each time."""
    where = device.get_device()
    optimizer = torch.optim.SGD(model.to(where).parameters(), **sgd)
    endless = RandomSampler(pictures, replacement=True, num_samples=10**7)
    for views, y in DataLoader(pictures, batch, sampler=endless, drop_last=True, num_workers=WORKERS):
        x = [view.to(where) for view in views] if isinstance(views, list) else views.to(where)
        value = loss(x, y.to(where))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        value.item()
        yield


def loader_seconds(*settings: object, **sgd: float) -> Iterator[float]:
    """Every next() is the seconds of STEPS batches of `loader_training`, with new workers, so that none is left to work
    while ours is measured."""
    while True:
        training = loader_training(*settings, **sgd)
        for _ in range(WARM_UP):
            next(training)
        started = time.perf_counter()
        for _ in range(STEPS):
            next(training)
        yield time.perf_counter() - started
        training.close()


def labelled(n: int, side: int = SIDE, channels: int = 3) -> ImageSet:
    return ImageSet(pictures(n, side, channels), torch.arange(n) % CLASSES, tuple(map(str, range(CLASSES))))


def our_epoch(step: Callable, modules: list[nn.Module], data: ImageSet, batch: int, **settings: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        fit(step, modules, data, epochs=1, batch_size=batch, drop_last=True, **settings)


def contrastive(batch: int, views: Augment, head: tuple[int, ...], loss: Callable, peer: Iterator, lr: float, is_: str):
    """A contest of `STEPS` batches of pairs of views; loss(z_a, z_b, y) is ours."""
    device.seed_everything(0)
    data, encoder = labelled(STEPS * batch), models.encoder(ENCODER, image_size=SIDE)
    modules = device.prepare(encoder, models.mlp_head(encoder.num_features, head, 128))
    network = nn.Sequential(*modules)

    def step(x: Tensor, y: Tensor) -> Tensor:
        return loss(*network(torch.cat([views(x), views(x)])).chunk(2), y)

    x, y = device.to_float(data.images[:16]), data.labels[:16].to(device.get_device())
    return Contest(
        lambda: our_epoch(step, list(modules), data, batch, optimizer="sgd", lr=lr),
        lambda: next(peer),
        len(data),
        is_,
        flops=flops(lambda: step(x, y), 16),
    )


def simclr_epoch_vs_lightly(batch: int = 256) -> Contest:
    encoder = models.encoder(ENCODER, image_size=SIDE)
    network = nn.Sequential(encoder, SimCLRProjectionHead(encoder.num_features, 512, 128))
    criterion = NTXentLoss(temperature=0.5)
    peer = loader_seconds(
        Pictures(labelled(STEPS * batch), SimCLRTransform(SIDE, gaussian_blur=0.0)),
        batch, network, lambda x, _: criterion(network(x[0]), network(x[1])), lr=0.06,
    )  # fmt: skip
    is_ = f"its example with this {ENCODER}: SimCLRTransform, NTXentLoss, SGD, fp32, {WORKERS} loader workers"
    ours = lambda a, b, _: losses.info_nce(a, b, 0.5)  # noqa: E731
    return contrastive(batch, simclr_views(SIDE), (512,), ours, peer, 0.06, is_)


class TwoCrops:
    """SupContrast's TwoCropTransform."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, x: Image.Image) -> list[Tensor]:
        return [self.transform(x), self.transform(x)]


def supcon_epoch_vs_supcontrast_recipe(batch: int = 256) -> Contest:
    encoder = models.encoder(ENCODER, image_size=SIDE)
    d, criterion = encoder.num_features, SupConLoss(temperature=0.07)
    network = nn.Sequential(encoder, nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 128))
    transform = T.Compose(
        [
            T.RandomResizedCrop(SIDE, scale=(0.2, 1.0)),
            T.RandomHorizontalFlip(),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.ToTensor(),
            NORMALIZE,
        ]
    )
    peer = loader_seconds(
        Pictures(labelled(STEPS * batch), TwoCrops(transform)), batch, network,
        lambda x, y: criterion(F.normalize(network(torch.cat(x))), y.repeat(2)), lr=0.05, momentum=0.9,
        weight_decay=1e-4,
    )  # fmt: skip
    is_ = f"its two views, head and SGD with this {ENCODER}, loss of pytorch-metric-learning, fp32, {WORKERS} workers"
    views = Augment(
        crop_scale=(0.2, 1.0), size=SIDE, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
        jitter_p=0.8, grayscale=0.2,
    )  # fmt: skip
    ours = lambda a, b, y: losses.sup_con(a, b, y, 0.07)  # noqa: E731
    return contrastive(batch, views, (d,), ours, peer, 0.05, is_)


def supervised_epoch_vs_torchvision() -> dict[str, Contest]:
    return {name: _supervised(name) for name in ("resnet8", "basic_cnn")}


def _supervised(name: str, batch: int = 128) -> Contest:
    """The augmentation of lesson 02's `stain` and a crop: what keeps two workers busy."""
    device.seed_everything(0)
    data, build = labelled(2 * STEPS * batch), lambda: models.Classifier(models.encoder(name, image_size=SIDE), CLASSES)
    theirs, model = build(), device.prepare(build())
    transform = T.Compose(
        [
            T.RandomCrop(SIDE, padding=4, padding_mode="reflect"),
            T.RandomHorizontalFlip(),
            T.ColorJitter(0.2, 0.2, 0.2, 0.05),
            T.ToTensor(),
            NORMALIZE,
        ]
    )
    sgd = dict(lr=0.1, momentum=0.9, weight_decay=5e-4)
    peer = loader_seconds(Pictures(data, transform), batch, theirs, lambda x, y: F.cross_entropy(theirs(x), y), **sgd)
    augment = Augment(crop_padding=4, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    step = lambda x, y: F.cross_entropy(model(augment(x)), y)  # noqa: E731
    x, y = device.to_float(data.images[:16]), data.labels[:16].to(device.get_device())
    return Contest(
        lambda: our_epoch(step, [model], data, batch, optimizer="sgd", lr=0.1, weight_decay=5e-4),
        lambda: 2 * next(peer),
        len(data),
        f"DataLoader, Pillow transforms (crop, flip, colour jitter), {WORKERS} workers, SGD, fp32",
        flops=flops(lambda: step(x, y), 16),
    )


def fit_vs_bare_step() -> dict[str, Contest]:
    return {
        "resnet8": _bare_classifier("resnet8"),
        "basic_cnn": _bare_classifier("basic_cnn"),
        "autoencoder (32, 64)": _bare_autoencoder((32, 64), 256),
        "autoencoder (128, 256)": _bare_autoencoder((128, 256), 64),
    }


def _bare_classifier(name: str) -> Contest:
    device.seed_everything(0)
    model = device.prepare(models.Classifier(models.encoder(name, image_size=SIDE), CLASSES))
    return _bare(lambda x, y: F.cross_entropy(model(x), y), model, labelled(64 * 16), 64)


def _bare_autoencoder(filters: tuple[int, ...], batch: int) -> Contest:
    device.seed_everything(0)
    model = device.prepare(models.ConvAutoencoder(1, filters))
    step = lambda x, _: losses.reconstruction_loss(model.decode(model.encode(x)), x)  # noqa: E731
    return _bare(step, model, labelled(4 * batch, 28, 1), batch)


def _bare(step: Callable, model: nn.Module, data: ImageSet, batch: int) -> Contest:
    """The peer: forward, loss, backward and update on one resident batch, as often as `fit` does."""
    x, y = device.to_float(data.images[:batch]), data.labels[:batch].to(device.get_device())
    optimizer = make_optimizer("adamw", list(model.parameters()), 1e-3)

    def bare() -> None:
        model.train()
        for _ in range(len(data) // batch):
            with device.autocast():
                loss = step(x, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        loss.item()
        synchronize()

    is_ = f"forward, loss, backward and AdamW on one resident batch of {batch}, same precision and threads"
    ours = lambda: our_epoch(step, [model], data, batch, lr=1e-3)  # noqa: E731
    return Contest(ours, bare, len(data), is_, flops=flops(lambda: step(x[:16], y[:16]), 16))
