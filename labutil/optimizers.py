"""Optimizers, learning-rate schedules, and `Updates`: all that makes new weights of a loss, for `training.fit`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from labutil import device as dev
from labutil.paths import check_choice

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")
SCHEDULES = ("none", "plateau", "multistep", "step", "cosine")
MILESTONES = (0.6, 0.8)  # multistep: fractions of the run after which the rate drops (report A)


def make_optimizer(
    name: str, parameters: ParamsT, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """sgd (with plain momentum), adam, adamw, or lion (Chen et al. 2023, arXiv:2302.06675; wants a smaller lr).

    weight_decay is for all parameters, biases and norms too.
    """
    from timm.optim import create_optimizer_v2

    check_choice("optimizer", name, OPTIMIZERS)
    name = "momentum" if name == "sgd" else name  # timm's "sgd" is Nesterov's
    return create_optimizer_v2(parameters, name, lr, weight_decay, momentum)


def lr_factor(schedule: str, epoch: float, epochs: int, *, warmup: float, factor: float, step_epochs: int) -> float:
    """What the learning rate is multiplied by at a (fractional) epoch, for the schedules that time alone decides.

    cosine falls from 1 to 0 (Loshchilov & Hutter 2017); multistep multiplies by `factor` after 60% and 80% of the
    epochs; step does so after every `step_epochs`. The first `warmup` epochs rise linearly from 0.
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9)))
    if schedule == "multistep":
        return factor ** sum(epoch >= fraction * epochs for fraction in MILESTONES)
    return factor ** (epoch // step_epochs) if schedule == "step" else 1.0


class Updates:
    """What makes new weights of a loss: the optimizer, the rate of each of its groups, clipping, and fp16's scaling.

    settings: `fit`'s. state: `fit`'s; what a checkpoint left in it goes back to where it came from.
    """

    def __init__(self, modules: Sequence[nn.Module], settings: Mapping[str, Any], state: dict[str, Any]) -> None:
        s = self.settings = settings
        by_scale = _by_scale(modules, s["lr_scale"] or {})
        self.scales, self.parameters = list(by_scale), trainable(modules)
        groups = [{"params": params, "lr": s["lr"] * scale} for scale, params in by_scale.items()]
        self.optimizer = make_optimizer(s["optimizer"], groups, s["lr"], s["weight_decay"], s["momentum"])
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, "min" if lower_is_better(s["monitor"]) else "max", s["factor"], s["patience"]
        )
        self.scaler = torch.amp.GradScaler(dev.get_device().type, enabled=state["precision"] == "fp16")
        self.parts = {"optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}
        for name, part in self.parts.items():
            if saved := state.pop(name, None):
                part.load_state_dict(saved)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def rate(self) -> float:
        """The learning rate of parameters whose scale is 1."""
        return self.optimizer.param_groups[0]["lr"] / self.scales[0]

    def set_rate(self, rate: float) -> None:
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = rate * scale

    def follow_schedule(self, epoch: float, batches: int) -> None:
        """Set the rates for a (fractional) epoch of so many batches; "plateau" follows the metric alone."""
        s = self.settings
        if s["schedule"] != "plateau":
            # The first step of a warm-up would be wasted at a rate of 0.
            epoch = max(epoch, 1 / batches) if s["warmup"] else epoch
            options = {key: s[key] for key in ("warmup", "factor", "step_epochs")}
            self.set_rate(s["lr"] * lr_factor(s["schedule"], epoch, s["epochs"], **options))

    def follow_metric(self, value: float) -> None:
        """Lower the rates when `schedule` is "plateau" and the monitored metric has stood still for too long."""
        if self.settings["schedule"] == "plateau":
            self.plateau.step(value)
            self.set_rate(self.rate())  # torch leaves rates below 1e-8 alone, which would change the ratios

    def apply(self, loss: Tensor) -> None:
        """One update of the weights, along the gradients of a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.settings["clip_norm"] is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"])
        self.scaler.step(self.optimizer)
        self.scaler.update()


def trainable(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """The parameters that learn, in the order of the modules."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _by_scale(modules: Sequence[nn.Module], lr_scale: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
    """The parameters that learn by what their rate is multiplied by: 1 first where there is one, then from the top."""
    named = [pair for module in modules for pair in dev.unwrapped(module).named_parameters()]
    for prefix, scale in lr_scale.items():
        if not 0 < scale < math.inf:
            raise ValueError(f"lr_scale[{prefix!r}]={scale} must be above 0; to freeze, use requires_grad_(False)")
        if not any(name.startswith(prefix) for name, _ in named):
            some = ", ".join(dict.fromkeys(f"{name.split('.')[0]}." for name, _ in named))
            raise ValueError(f"lr_scale: no parameter's name begins with {prefix!r}; they begin with {some}")
    scales, found = {"": 1.0, **lr_scale}, {}
    for name, parameter in named:
        if parameter.requires_grad:
            scale = float(scales[max(filter(name.startswith, scales), key=len)])
            found.setdefault(scale, []).append(parameter)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] != 1, -pair[0])))


def lower_is_better(metric: str) -> bool:
    """Whether a metric of this name is the better the lower it is."""
    return "loss" in metric or "error" in metric
