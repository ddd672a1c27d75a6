"""`fit`: one training loop for every method in the workbook, with checkpoints that resume bit for bit.

A lesson writes the step, which is the method; the loop around it is the same for all.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from labutil import device as dev
from labutil.checkpoint import _code_hash, _load, _save
from labutil.paths import check_choice

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import ImageSet
    from labutil.runs import Run

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")
SCHEDULES = ("none", "plateau", "multistep", "step", "cosine")
MILESTONES = (0.6, 0.8)  # multistep: fractions of the run after which the rate drops (report A)


def make_optimizer(
    name: str,
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """sgd (with momentum), adam, adamw, or lion (Chen et al. 2023, arXiv:2302.06675; wants a smaller lr).

    parameters: as torch's optimizers take them: parameters, or groups {"params": [...], "lr": ...}.
    """
    check_choice("optimizer", name, OPTIMIZERS)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    if name == "adam":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)
    from timm.optim import Lion

    return Lion(parameters, lr, weight_decay=weight_decay)


def lr_factor(schedule: str, epoch: float, epochs: int, *, warmup: float, factor: float, step_epochs: int) -> float:
    """What the learning rate is multiplied by at a (fractional) epoch, for the schedules that time alone decides.

    cosine falls from 1 to 0 (Loshchilov & Hutter 2017); multistep multiplies by `factor` after 60% and 80% of the
    epochs; step does so after every `step_epochs`. The first `warmup` epochs rise linearly from 0.

    Example:
        lr_factor("multistep", 7, 10, warmup=0, factor=0.1, step_epochs=20)  # 0.1
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9)))
    if schedule == "multistep":
        return factor ** sum(epoch >= fraction * epochs for fraction in MILESTONES)
    if schedule == "step":
        return factor ** (epoch // step_epochs)
    return 1.0


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Balanced weights of the classes, N / (K n_k), with which each class has the same say in the loss.

    labels: int (N,), 0 to K - 1. Returns float32 (K,) on the CPU; 0 for a class without images, so that a weighted
    mean never divides by it. The weights average 1 over the images when every class has some.
    Raises ValueError for labels outside 0 to K - 1 (-1: unlabelled), or none at all.

    Example:
        weight = class_weights(data.train.labels, len(data.classes)).to(device)
        loss = F.cross_entropy(logits, y, weight=weight)
    """
    labels = torch.as_tensor(labels).cpu()
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= n_classes:
        found = f"they run from {labels.min()} to {labels.max()}" if len(labels) else "there are none"
        raise ValueError(f"labels must lie between 0 and {n_classes - 1}: {found}; leave unlabelled images out")
    counts = labels.bincount(minlength=n_classes).double()
    return torch.where(counts > 0, len(labels) / (n_classes * counts), 0.0).float()


def fit(
    step: Callable[[Tensor, Tensor], Tensor | tuple[Tensor, dict[str, Tensor]]],
    modules: Sequence[nn.Module],
    data: ImageSet,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    optimizer: str = "adamw",
    lr_scale: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    schedule: str = "none",
    warmup: float = 0.0,
    factor: float = 0.1,
    patience: int = 3,
    step_epochs: int = 20,
    clip_norm: float | None = None,
    validate: Callable[[], float | dict[str, float]] | None = None,
    monitor: str = "val_loss",
    early_stopping: int | None = None,
    evaluate: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 1,
    after_step: Callable[[float], None] | None = None,
    drop_last: bool = False,
    precision: str | None = None,
    criterion: str | None = None,
    run: Run | None = None,
    name: str = "fit",
    resume: bool | None = None,
) -> pd.DataFrame:
    """Train the modules by calling `step` on random batches; return one row an epoch.

    step: `step(x, y)` with x float32 (n, C, H, W) in [0, 1] on the device (data of another dtype come as they are) and
        y int64 (n,) -> the loss, a scalar mean over the batch, or (loss, {name: scalar mean}). It runs under autocast.
    modules: what is trained (parameters with requires_grad) and checkpointed; set to train() before each epoch.
    data: has `.images` (N, ...) and `.labels` (N,). It is moved to the device whole when it fits, else batch by batch.
    batch_size: at most so many images a batch, over all batches as even as can be, so that no batch of one is left
        over; with drop_last every batch has exactly this size and each epoch leaves out a random remainder.
    lr, optimizer, weight_decay, momentum: see `make_optimizer`. schedule, warmup (epochs), factor, step_epochs: see
        `lr_factor`; schedule "plateau" multiplies by `factor` after `patience` epochs without improvement.
    lr_scale: discriminative learning rates (Howard & Ruder 2018, arXiv:1801.06146): {beginning of a parameter's name:
        what its rate is multiplied by}, such as {"encoder.": 0.1}; the longest beginning that fits decides, the others
        have 1. Names are those of each module's `named_parameters()`; a schedule keeps the ratios. See
        `models.layerwise_rates`.
    clip_norm: largest gradient norm (Pascanu et al. 2013), None for no clipping.
    validate: called after each epoch; returns the value of `monitor`, or a dict that holds it. Names with "loss" or
        "error" are better when lower, others when higher. early_stopping: so many epochs without improvement end the
        fit; the best epoch's weights are then put back (also when the epochs run out).
    evaluate: called every `evaluate_every` epochs and after the last; recorded, and without influence.
    after_step: called after each update with the progress in (0, 1] (a moving-average target).
    precision: "fp32", "bf16", "fp16"; None decides from the hardware. A resumed fit keeps the precision it began with.
    criterion: what tables call the loss that `step` returns, such as "InfoNCE"; goes into the record of the run.
    run: a run directory: every epoch leaves a checkpoint `checkpoints/<name>.pt` there, and settings and history join
        the record. resume: continue from that checkpoint (a finished one gives its result at once); None means yes
        under `labutil run` and no by hand.

    Returns a DataFrame with columns epoch (from 1), lr (where lr_scale is 1), train_loss, train_<name>, what validate
    and evaluate returned, seconds (of the whole epoch) and images_per_second (of its training steps).
    Raises ValueError for a bad setting, FloatingPointError when the loss is not finite, ResumeError when a checkpoint
    was made with other settings.

    Example:
        history = fit(step, [model], data.train, epochs=10, batch_size=64, lr=1e-3, schedule="cosine")
    """
    import pandas as pd

    check_choice("schedule", schedule, SCHEDULES)
    for key, value in {"epochs": epochs, "batch_size": batch_size, "step_epochs": step_epochs}.items():
        if value < 1:
            raise ValueError(f"{key}={value} must be at least 1")
    if not lr > 0:
        raise ValueError(f"lr={lr} must be above 0")
    if validate is None and (early_stopping is not None or schedule == "plateau"):
        raise ValueError(f"early_stopping and schedule='plateau' need validate=, which returns {monitor!r}")
    n = len(data.images)
    if n < 2 or (drop_last and n < batch_size):
        raise ValueError(f"{n} training images are too few for batch_size={batch_size}")

    device = dev.get_device()
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups, scales = _by_rate(modules, parameters, lr, lr_scale)
    optimiser = make_optimizer(optimizer, groups, lr, weight_decay, momentum)
    mode = "min" if _lower_is_better(monitor) else "max"
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, mode, factor=factor, patience=patience)
    batches = n // batch_size if drop_last else math.ceil(n / batch_size)

    settings = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "weight_decay": weight_decay,
        "lr_scale": None if lr_scale is None else {key: float(scale) for key, scale in lr_scale.items()},
        "momentum": momentum, "schedule": schedule, "warmup": warmup, "factor": factor, "patience": patience,
        "step_epochs": step_epochs, "clip_norm": clip_norm, "monitor": monitor, "early_stopping": early_stopping,
        "evaluate_every": evaluate_every, "drop_last": drop_last, "images": n,
        "parameters": sum(p.numel() for p in parameters), "step": _code_hash(step),
    }  # fmt: skip
    state: dict[str, Any] = {"epoch": 0, "finished": False, "history": [], "best": None, "stale": 0}
    state["precision"] = precision or dev.default_precision(device)
    path = run.dir / "checkpoints" / f"{name}.pt" if run else None
    if path and path.exists() and (run.resume if resume is None else resume):
        state = _load(path, settings, modules)
    scaler = torch.amp.GradScaler(device.type, enabled=state["precision"] == "fp16")
    for part, saved in ((optimiser, "optimizer"), (plateau, "plateau"), (scaler, "scaler")):
        if state.get(saved):
            part.load_state_dict(state[saved])
    if "random" in state:
        dev.restore_random_states(state["random"])

    def set_lr(position: float) -> None:
        """Learning rate at a fractional epoch; plateau keeps its own."""
        if schedule != "plateau":
            # The first step of a warm-up would be wasted at a rate of 0.
            position = max(position, 1 / batches) if warmup else position
            share = lr_factor(schedule, position, epochs, warmup=warmup, factor=factor, step_epochs=step_epochs)
            share_out(lr * share)

    def share_out(rate: float) -> None:
        for group, scale in zip(optimiser.param_groups, scales, strict=True):
            group["lr"] = rate * scale

    def current_lr() -> float:
        """The rate of parameters whose scale is 1."""
        return optimiser.param_groups[0]["lr"] / scales[0]

    def update(x: Tensor, y: Tensor) -> Tensor:
        """One training step: returns the loss and the step's other numbers as one detached vector."""
        with dev.autocast(state["precision"], device):
            loss, extra = _with_extras(step(x, y))
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        if clip_norm is not None:
            scaler.unscale_(optimiser)
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        scaler.step(optimiser)
        scaler.update()
        names[:] = ["loss", *extra]
        return torch.stack([v.detach().float() for v in (loss, *extra.values())])

    names: list[str] = []
    images, labels = _place(data.images, device), data.labels.to(device)
    bar = _progress(name, epochs * batches, state["epoch"] * batches)
    while not state["finished"]:
        started, epoch = time.perf_counter(), state["epoch"]
        for module in modules:
            module.train()
        order = torch.randperm(n, generator=dev.generator("order"))
        chunks = order[: batches * batch_size].split(batch_size) if drop_last else order.tensor_split(batches)
        sums = 0
        for i, index in enumerate(chunks):
            set_lr(epoch + i / batches)
            sums = sums + update(*_batch(images, labels, index, device)) * len(index)
            if after_step:
                after_step((epoch * batches + i + 1) / (epochs * batches))
            bar.update()
        seen = sum(len(index) for index in chunks)
        # Read once an epoch: reading each loss as it comes would make the device wait for the host.
        means = (sums / seen).tolist()
        speed = seen / (time.perf_counter() - started)
        row = {"epoch": epoch + 1, "lr": current_lr()}
        row |= {f"train_{key}": mean for key, mean in zip(names, means, strict=True)}
        if not math.isfinite(row["train_loss"]):
            raise FloatingPointError(
                f"fit {name!r}: train_loss is {row['train_loss']} in epoch {epoch + 1}: lower lr={lr}, or set clip_norm"
            )

        if validate:
            value = validate()
            row |= value if isinstance(value, dict) else {monitor: float(value)}
            _track_best(state, row, monitor, modules, keep=early_stopping is not None)
            if schedule == "plateau":
                plateau.step(row[monitor])
                share_out(current_lr())  # it leaves rates below 1e-8 alone, which would change the ratios
        stop = epoch + 1 == epochs or (early_stopping is not None and state["stale"] >= early_stopping)
        if evaluate and ((epoch + 1) % evaluate_every == 0 or stop):
            row |= evaluate()
        state["history"].append(row | {"seconds": time.perf_counter() - started, "images_per_second": speed})
        state["epoch"] = epoch + 1
        bar.set_postfix({key: f"{value:.3g}" for key, value in row.items() if key.endswith(("loss", "accuracy"))})
        if stop:
            state["finished"] = True
            if early_stopping is not None:
                for module, weights in zip(modules, state["best"].pop("modules"), strict=True):
                    module.load_state_dict(weights)
        if path:
            parts = {"optimizer": optimiser, "plateau": plateau, "scaler": scaler}
            # What follows a finished fit needs its weights and random states, not its optimizer.
            state |= {key: None if stop else part.state_dict() for key, part in parts.items()}
            _save(path, state | {"settings": settings, "random": dev.random_states()}, modules)
            run.save_history(name, pd.DataFrame(state["history"]))
    bar.close()

    history = pd.DataFrame(state["history"])
    last = ", ".join(f"{key} {history[key].iloc[-1]:.3g}" for key in history if key.endswith(("loss", "accuracy")))
    print(
        f"{name}: {len(history)} epochs in {history.seconds.sum():.1f} s "
        f"({history.images_per_second.median():,.0f} images/s, {state['precision']}): {last}"
    )
    if run:
        run.save_history(name, history)
        public = {key: value for key, value in settings.items() if key != "step"}
        facts = {"precision": state["precision"], "epochs_run": len(history), "criterion": criterion}
        run.save_fit(name, public | facts)
    return history


def _by_rate(
    modules: Sequence[nn.Module], parameters: list[nn.Parameter], lr: float, lr_scale: Mapping[str, float] | None
) -> tuple[list[nn.Parameter] | list[dict[str, Any]], list[float]]:
    """What the optimizer is given, and the scale of each of its groups, 1 first where there is one."""
    if lr_scale is None:
        return parameters, [1.0]
    for prefix, scale in lr_scale.items():
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"lr_scale[{prefix!r}]={scale} must be above 0; to freeze, use requires_grad_(False)")
    scaled: dict[float, list[nn.Parameter]] = {}
    unused = set(lr_scale)
    for module in modules:
        for name, parameter in dev.unwrapped(module).named_parameters():
            fitting = [prefix for prefix in lr_scale if name.startswith(prefix)]
            unused -= set(fitting)
            if parameter.requires_grad:
                scale = float(lr_scale[max(fitting, key=len)]) if fitting else 1.0
                scaled.setdefault(scale, []).append(parameter)
    if unused:
        some = ", ".join(dict.fromkeys(f"{name}." for m in modules for name, _ in dev.unwrapped(m).named_children()))
        prefix = next(prefix for prefix in lr_scale if prefix in unused)
        raise ValueError(f"lr_scale: no parameter's name begins with {prefix!r}; they begin with {some}")
    scales = sorted(scaled, key=lambda scale: (scale != 1, -scale))
    return [{"params": scaled[scale], "lr": lr * scale} for scale in scales], scales


def _place(images: Tensor, device: torch.device) -> Tensor:
    """The whole set on the device when it takes at most half of the free memory, else left where it is."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return images.to(device) if images.nbytes < free / 2 else images
    return images


def _batch(images: Tensor, labels: Tensor, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    x = images[index.to(images.device)]
    x = dev.to_float(x, device) if x.dtype == torch.uint8 else x.to(device)
    return x, labels[index.to(device)]


def _with_extras(result: Tensor | tuple[Tensor, dict[str, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    return result if isinstance(result, tuple) else (result, {})


def _lower_is_better(metric: str) -> bool:
    return "loss" in metric or "error" in metric


def _track_best(state: dict, row: dict, monitor: str, modules: Sequence[nn.Module], *, keep: bool) -> None:
    """Note the best epoch so far (and its weights), or that one more brought no improvement."""
    if monitor not in row:
        raise ValueError(f"monitor={monitor!r} is not among what validate returned: {', '.join(row)}")
    value, best = row[monitor], state["best"]
    if best is None or (value < best["value"] if _lower_is_better(monitor) else value > best["value"]):
        weights = [copy.deepcopy(module.state_dict()) for module in modules] if keep else None
        state["best"], state["stale"] = {"value": value, "epoch": row["epoch"], "modules": weights}, 0
    else:
        state["stale"] += 1


def _progress(name: str, total: int, initial: int) -> tqdm:
    """A bar for whoever watches, on stdout (notebooks show stderr as an error); otherwise none."""
    return tqdm(
        desc=name, total=total, initial=initial, file=sys.stdout, leave=False, dynamic_ncols=True,
        disable=not dev.person_watches(), mininterval=0.5,
    )  # fmt: skip
