"""BYOL's moving-average target: against lightly, and a fit that was cut off against one that was not."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn

from labutil import device, models
from labutil.augment import simclr_views
from labutil.losses import byol
from labutil.models import byol_momentum, momentum_copy, update_target
from labutil.training import fit


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(models.encoder("resnet8", image_size=16), models.mlp_head(128, (16,), 8))


def weights(module):
    return torch.cat([v.flatten().double() for v in module.state_dict().values()])


def test_the_copy_is_frozen_and_its_own():
    online = network()
    target = momentum_copy(online)
    assert torch.equal(weights(target), weights(online))
    assert not any(p.requires_grad for p in target.parameters()) and all(p.requires_grad for p in online.parameters())
    nn.init.zeros_(next(online.parameters()))
    assert not torch.equal(weights(target), weights(online))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_update_equals_lightlys(momentum):
    target, online = momentum_copy(network(0)), network(1)
    peer = copy.deepcopy(target)
    for _ in range(3):
        update_target(target, online, momentum)
        update_momentum(online, peer, momentum)
    torch.testing.assert_close(weights(target), weights(peer), rtol=1e-6, atol=1e-7)
    if momentum == 0:
        assert all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True))
    if momentum == 1:
        assert torch.equal(weights(target), weights(network(0)))


def test_buffers_stay_the_targets_own():
    target, online = momentum_copy(network()), network()
    online(torch.rand(4, 3, 16, 16))  # moves the online network's batch statistics
    update_target(target, online, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), network().buffers(), strict=True))


def test_momentum_rises_along_a_cosine():
    assert [byol_momentum(0.0), byol_momentum(1.0), byol_momentum(0.0, base=0.9)] == [0.996, 1.0, 0.9]
    for step in range(101):
        assert byol_momentum(step / 100, 0.99) == pytest.approx(cosine_schedule(step, 101, 0.99, 1.0), abs=1e-12)


def train(directory: Path, die_in: int | None = None):
    """A BYOL fit as notebook 04 writes it; resumes from the checkpoint in the directory."""
    device.seed_everything(0)
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 16, 16), generator=g, dtype=torch.uint8)
    data = SimpleNamespace(images=images, labels=torch.zeros(24, dtype=torch.int64))
    online, predictor = device.prepare(network(), models.mlp_head(8, (16,), 8))
    target = momentum_copy(online)
    views, steps = simclr_views(16), []

    def step(x, y):
        steps.append(1)
        if len(steps) == die_in:
            raise InterruptedError
        a, b = views(x), views(x)
        return byol(predictor(online(a)), target(b)) + byol(predictor(online(b)), target(a))

    run = SimpleNamespace(dir=directory, resume=True, save_history=lambda *_: None, save_fit=lambda *_: None)
    fit(
        step, [online, predictor, target], data, epochs=3, batch_size=8, lr=0.05, optimizer="sgd", run=run,
        after_step=lambda progress: update_target(target, online, byol_momentum(progress, base=0.8)),
    )  # fmt: skip
    return online, predictor, target


def test_a_resumed_fit_is_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", die_in=6)  # in the second of three epochs
    resumed = train(tmp_path / "cut")
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(weights(a), weights(b))
    online, _, target = whole
    for other in (online, network()):
        assert not torch.equal(weights(target), weights(other))
    assert not any(p.requires_grad for p in target.parameters())
    assert target.training
