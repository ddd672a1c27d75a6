"""What tests/test_processes.py runs on one process and on several: small fits of every kind. Not a test itself.

torchrun ... tests/several.py FOLDER    each process leaves FOLDER/<rank>.pt
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from labutil import corruptions, device, evaluation, losses, models, policies, processes
from labutil.augment import Augment, simclr_views
from labutil.training import fit

SIDE, CLASSES = 12, 3
VIEWS = simclr_views(SIDE, 0.5, blur=True)
METHODS = ("cross-entropy", "simclr", "supcon", "byol", "barlow_twins", "policies")
SIZES = {"even": 48, "uneven": 47}  # images: batches of 16, 16 and 16, or 15


def images(n: int = 47) -> SimpleNamespace:
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, (n,), generator=g)
    pixels = torch.randint(0, 100, (n, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    return SimpleNamespace(images=pixels + (labels * 50).to(torch.uint8)[:, None, None, None], labels=labels)


def convolutions() -> nn.Module:
    """Smooth activations: a ReLU that rounding switches in one run alone would hide behind it what else differs."""
    first = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.GELU(), nn.AvgPool2d(2)]
    second = [nn.Conv2d(16, 32, 3, padding=1), BatchNormAct2d(32, act_layer=nn.GELU, inplace=False)]
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def mlp(inputs: int, outputs: int, dropout: float = 0.0) -> nn.Module:
    middle = [nn.BatchNorm1d(16, affine=False), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Linear(inputs, 16), *middle, nn.Linear(16, outputs))


class Run:
    """What `fit` needs of a run; it notes what it was asked to write."""

    def __init__(self, directory: Path) -> None:
        self.dir, self.resume, self.fits, self.histories = directory, True, [], []

    def save_history(self, name, history):
        self.histories.append(len(history))

    def save_fit(self, name, settings):
        self.fits.append(settings)


def train(method: str, n: int, *, batch_size: int = 16, epochs: int = 3, run=None, die_in=None, dropout=0.0):
    """The weights, buffers too, and the history of a small fit; after `die_in` steps the process is killed."""
    device.seed_everything(0)
    data, steps = images(n), []
    outputs = CLASSES if method in ("cross-entropy", "policies") else 8
    encoder, head, predictor = device.prepare(convolutions(), mlp(32, outputs, dropout), mlp(8, 8))
    online = nn.Sequential(encoder, head)
    target = models.momentum_copy(online)
    modules = [online, target, predictor] if method == "byol" else [online]

    def step(x, y):
        steps.append(1)
        if die_in is not None and len(steps) > die_in:
            os.kill(os.getpid(), signal.SIGKILL)
        if method == "cross-entropy":
            x = Augment(crop_padding=2, flip=0.5, rotation=20, brightness=0.2, channel_shift=0.1, noise=0.05)(x)
            logits = online(x)
            return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}
        if method == "policies":
            x = policies.aug_mix(policies.rand_augment(x))
            x = corruptions.corrupt(corruptions.corrupt(x, "shot_noise", 1), "noise", 1)
            x, soft = policies.mix_up(x, y, CLASSES)
            cut, cut_soft = policies.cut_mix(x, y, CLASSES)
            return F.cross_entropy(online(x), soft) + F.cross_entropy(online(cut), cut_soft)
        z_a, z_b = online(torch.cat([VIEWS(x), VIEWS(x)])).chunk(2)
        if method == "simclr":
            return losses.info_nce(z_a, z_b, 0.2)
        if method == "supcon":
            return losses.sup_con(z_a, z_b, y, 0.2)
        if method == "barlow_twins":
            return losses.barlow_twins(z_a, z_b, 0.02)
        with torch.no_grad():
            t_a, t_b = target(VIEWS(x)), target(VIEWS(x))
        return losses.byol(predictor(z_a), t_b) + losses.byol(predictor(z_b), t_a)

    def follow(progress):
        if method == "byol":
            models.update_target(target, online, 0.9)

    def validate():
        outputs = evaluation.predict(online, data.images)
        return {"val_loss": outputs.square().mean().item()}

    rate = 0.002 if method == "barlow_twins" else 0.05
    history = fit(
        step, modules, data, epochs=epochs, batch_size=batch_size, lr=rate, optimizer="sgd", schedule="cosine",
        warmup=1, validate=validate, early_stopping=5, after_step=follow, precision="fp32", run=run, name=method,
    )  # fmt: skip
    state = nn.ModuleList(modules).state_dict()
    features = evaluation.predict(online, data.images)
    draws = torch.cat([torch.rand(2), torch.rand(2, generator=device.generator("augment"))])  # what comes after
    kept = history.drop(columns=["seconds", "images_per_second"]).to_dict("list")
    return {"state": {k: v.clone() for k, v in state.items()}, "history": kept, "features": features, "draws": draws}


def everything() -> dict:
    return {(method, name): train(method, n) for method in METHODS for name, n in SIZES.items()}


if __name__ == "__main__":
    what, folder, *die_in = sys.argv[1:]
    torch.set_num_threads(1)
    device.get_device()
    path = Path(folder) / f"{processes.rank()}.pt"
    if what == "everything":
        torch.save(everything(), path)
    else:
        run = Run(Path(folder))
        cut = int(die_in[0]) if die_in and processes.rank() else None
        found = train("byol", 47, dropout=0.5, run=run, die_in=cut)
        torch.save(found | {"fits": run.fits, "histories": run.histories}, path)
    torch.distributed.destroy_process_group()
