"""Explorer of collapse: a small network without negatives, trained while you look, its precautions as switches."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from labutil import device, plots
from labutil.augment import simclr_views
from labutil.course.explore.frame import explore
from labutil.images import stratified_sample
from labutil.style import styled

IMAGES, SIDE, VIEWS, D = 256, 16, 8, 32  # pictures, pixels a side, views of each, numbers in z
WARM, STEPS, SHOWN = 100, 10, 160  # steps before the first picture, of each move, and in a picture that cannot move


def collapse(images: Tensor, labels: Tensor) -> None:
    """Train SimSiam (Chen and He 2021) on 256 small images, ten steps a move, and switch its precautions off and on.

    Left, each image's z, of length 1, in two directions drawn once at random; right, over the steps, the spread of z
    (root of the mean squared distance from the centre) and its rank, exp of the entropy of z's singular values, not
    centred (RankMe, Garrido et al. 2023): in how many directions z points, 1 when all are one. It begins with 100 steps
    that have both precautions; without a front end 160 more follow without predictor.

    images: uint8 (N, C, H, W). labels: int (N,), for colours alone.
    """
    chosen = torch.as_tensor(stratified_sample(labels, IMAGES))
    y, g = torch.as_tensor(labels)[chosen], torch.Generator().manual_seed(0)
    views = replace(simclr_views(SIDE, 0.3), crop_scale=(0.4, 1.0), vertical_flip=0.5)
    x = device.to_float(images[chosen], torch.device("cpu"))
    pool = torch.stack([views(x, g).flatten(1) for _ in range(VIEWS)])  # drawn once, so that a step takes a few ms
    pool = (pool - pool.mean((0, 1))) / pool.std()
    plane = torch.linalg.qr(torch.randn(D, 2, generator=g)).Q
    state = _start(pool)

    def draw(predictor: bool, stop_gradient: bool, step: int) -> Figure:
        nonlocal state
        if step < len(state.noted) - 1:  # the beginning again
            state = _start(pool)
        while len(state.noted) <= step:
            healthy = len(state.noted) < WARM
            _one_step(state, pool, predictor or healthy, stop_gradient or healthy)
        return _figure(state.noted, (_z(state, pool[0]) @ plane).numpy(), y.numpy(), predictor, stop_gradient)

    live = device.has_front_end()
    step = ipywidgets.Play(value=WARM if live else WARM + SHOWN, min=WARM, max=10_000, step=STEPS, interval=400)
    step.description = "train"
    alt = "Projections of images in two directions; beside it their spread and rank over the steps."
    explore(
        draw, alt=alt, predictor=_switch(live, "predictor"), stop_gradient=_switch(True, "stop-gradient"), step=step
    )


def _switch(value: bool, description: str) -> ipywidgets.ToggleButtons:
    return ipywidgets.ToggleButtons(options=[("on", True), ("off", False)], value=value, description=description)


def _start(pool: Tensor) -> SimpleNamespace:
    """Networks as they are before training, and what is noted of each step: (loss, spread, rank, both precautions)."""
    with torch.random.fork_rng(devices=[]):  # the lesson's own random numbers stay as they are
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(pool.shape[2], 128), nn.BatchNorm1d(128), nn.Tanh(), nn.Linear(128, D))
        predictor = nn.Sequential(nn.Linear(D, 2 * D), nn.BatchNorm1d(2 * D), nn.ReLU(), nn.Linear(2 * D, D))
    sgd = torch.optim.SGD([*encoder.parameters(), *predictor.parameters()], lr=0.3, momentum=0.9)
    return SimpleNamespace(encoder=encoder, predictor=predictor, sgd=sgd, g=torch.Generator().manual_seed(0), noted=[])


def _one_step(state: SimpleNamespace, pool: Tensor, predictor: bool, stop_gradient: bool) -> None:
    """One step of lesson 04's siamese loss, halved: with an ideal answer it is 0."""
    a, b = torch.randperm(len(pool), generator=state.g)[:2]
    rows = torch.randperm(pool.shape[1], generator=state.g)[: max(2, pool.shape[1] // 2)]
    z_a, z_b = state.encoder(pool[a, rows]), state.encoder(pool[b, rows])
    p_a, p_b = (state.predictor(z_a), state.predictor(z_b)) if predictor else (z_a, z_b)
    t_a, t_b = (z_a.detach(), z_b.detach()) if stop_gradient else (z_a, z_b)
    loss = 1 - (F.cosine_similarity(p_a, t_b) + F.cosine_similarity(p_b, t_a)).mean() / 2
    state.sgd.zero_grad()
    loss.backward()
    state.sgd.step()
    z = F.normalize(z_a.detach())
    share = (values := torch.linalg.svdvals(z)) / values.sum()
    spread, rank = z.var(0, correction=0).sum().sqrt().item(), torch.special.entr(share).sum().exp().item()
    state.noted.append((loss.item(), spread, rank, predictor and stop_gradient))


@torch.no_grad()
def _z(state: SimpleNamespace, x: Tensor) -> Tensor:
    """Projections of length 1, (N, D)."""
    with device.evaluation_mode(state.encoder):
        return F.normalize(state.encoder(x))


@styled
def _figure(noted: list[tuple], xy: Any, y: Any, predictor: bool, stop_gradient: bool) -> Figure:
    figure = plt.figure(figsize=(plots.WIDTH, 4), layout="none")  # a constrained layout takes as long as the drawing
    left = figure.add_axes((0.02, 0.09, 0.5, 0.76))
    upper, lower = figure.add_axes((0.62, 0.53, 0.36, 0.32)), figure.add_axes((0.62, 0.15, 0.36, 0.32))
    left.scatter(*xy.T, s=22, c=[plots.COLOURS[k % len(plots.COLOURS)] for k in y], lw=0)
    left.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), xticks=[], yticks=[], xlabel="z of each image, colour: class")
    lost = [i for i, row in enumerate(noted) if not row[3]]
    for axes, k, name, top in ((upper, 1, "spread", 1.05), (lower, 2, "rank", D)):
        axes.plot([row[k] for row in noted], color=plots.COLOURS[0])
        axes.plot(lost, [noted[i][k] for i in lost], ".", ms=4, color=plots.WRONG)
        axes.set(ylabel=name, ylim=(0, top))
    upper.set(xticklabels=[])
    lower.set(xlabel="step (red: one is off)")
    words = [
        f"{name} {'on' if on else 'OFF'}" for name, on in (("predictor", predictor), ("stop-gradient", stop_gradient))
    ]
    loss, spread, rank, _ = noted[-1]
    figure.suptitle(f"{', '.join(words)}; loss {loss:.3f}, spread {spread:.2f}, rank {rank:.1f}", y=0.97, va="top")
    return figure
