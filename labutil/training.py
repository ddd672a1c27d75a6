"""`fit`: one training loop for every method; a lesson writes the step, which is the method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from labutil import checkpoint
from labutil import device as dev
from labutil.optimizers import SCHEDULES, Updates, trainable
from labutil.paths import check_choice

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import ImageSet


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Balanced weights of the classes, N / (K n_k), with which each class has the same say in the loss.

    labels: int (N,), 0 to K - 1. Returns float32 (K,) on the CPU, 0 for a class without images.
    Raises ValueError for labels outside 0 to K - 1 (-1: unlabelled), or none at all.

    Example:
        loss = F.cross_entropy(logits, y, weight=class_weights(data.train.labels, 10).to(device))
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
    run: checkpoint.RunDirectory | None = None,
    name: str = "fit",
    resume: bool | None = None,
) -> pd.DataFrame:
    """Train the modules by calling `step` on random batches; return one row an epoch.

    step: `step(x, y)` with x float32 (n, C, H, W) in [0, 1] on the device (data of another dtype come as they are) and
        y int64 (n,) -> the loss, a scalar mean over the batch, or (loss, {name: scalar mean}). It runs under autocast.
    modules: what is trained (parameters with requires_grad) and checkpointed; set to train() before each epoch.
    data: has `.images` (N, ...) and `.labels` (N,); on the device whole when it fits, else batch by batch.
    batch_size: at most so many images a batch, over all batches as even as can be, so that no batch of one is left
        over; with drop_last every batch has exactly this size and each epoch leaves out a random remainder.
    lr, optimizer, weight_decay, momentum: see `optimizers.make_optimizer`. schedule, warmup (epochs), factor,
        step_epochs: see `optimizers.lr_factor`; "plateau" multiplies by `factor` after `patience` epochs without
        improvement.
    lr_scale: what the rate of some parameters is multiplied by: {beginning of a name in a module's
        `named_parameters()`: scale}, such as {"encoder.": 0.1}; the longest that fits decides. See
        `models.layerwise_rates`.
    clip_norm: largest gradient norm (Pascanu et al. 2013), None for no clipping.
    validate: called after each epoch; returns the value of `monitor`, or a dict that holds it. Names with "loss" or
        "error" are better when lower, others when higher. early_stopping: so many epochs without improvement end the
        fit; the best epoch's weights are then put back (also when the epochs run out).
    evaluate: called every `evaluate_every` epochs and after the last; recorded, and without influence.
    after_step: called after each update with the progress in (0, 1].
    precision: "fp32", "bf16", "fp16"; None decides from the hardware. A resumed fit keeps the precision it began with.
    criterion: what tables call the loss, such as "InfoNCE".
    run: every epoch leaves a checkpoint `checkpoints/<name>.pt` in its dir; settings and history join its record.
        resume: continue from that checkpoint (a finished one gives its result at once); None: as the run has it.

    Returns a DataFrame with columns epoch (from 1), lr (where lr_scale is 1), train_loss, train_<name>, what validate
    and evaluate returned, seconds (of the whole epoch) and images_per_second (of its training steps).
    Raises ValueError for a bad setting, FloatingPointError when the loss is not finite, ResumeError when a checkpoint
    was made with other settings.

    Example:
        history = fit(step, [model], data.train, epochs=10, batch_size=64, lr=1e-3, schedule="cosine")
    """
    import pandas as pd

    n, device = len(data.images), dev.get_device()
    settings = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "weight_decay": weight_decay,
        "lr_scale": None if lr_scale is None else {key: float(scale) for key, scale in lr_scale.items()},
        "momentum": momentum, "schedule": schedule, "warmup": warmup, "factor": factor, "patience": patience,
        "step_epochs": step_epochs, "clip_norm": clip_norm, "monitor": monitor, "early_stopping": early_stopping,
        "evaluate_every": evaluate_every, "drop_last": drop_last, "images": n,
        "parameters": sum(p.numel() for p in trainable(modules)), "step": checkpoint.code_hash(step),
    }  # fmt: skip
    _check(settings, measured=validate is not None)
    state = {"epoch": 0, "finished": False, "history": [], "best": None, "stale": 0}
    state["precision"] = precision or dev.default_precision()
    path = run.dir / "checkpoints" / f"{name}.pt" if run else None
    if path and path.exists() and (run.resume if resume is None else resume):
        state = checkpoint.load(path, settings, modules)
    batches = n // batch_size if drop_last else math.ceil(n / batch_size)
    updates = Updates(modules, settings, state)
    images, labels = _place(data.images, device), data.labels.to(device)
    bar = dev.progress_bar(epochs * batches, name, "batch", state["epoch"] * batches)
    while not state["finished"]:
        started, epoch, sums = time.perf_counter(), state["epoch"], 0
        nn.ModuleList(modules).train()
        order = torch.randperm(n, generator=dev.generator("order"))[: batches * batch_size]
        for i, index in enumerate(order.tensor_split(batches)):
            updates.follow_schedule(epoch + i / batches, batches)
            with dev.autocast(state["precision"], device):
                result = step(*_batch(images, labels, index, device))
            loss, others = result if isinstance(result, tuple) else (result, {})
            updates.apply(loss)
            values = {"loss": loss} | others
            sums = sums + torch.stack([value.detach().float() for value in values.values()]) * len(index)
            if after_step:
                after_step((epoch * batches + i + 1) / (epochs * batches))
            bar.update()
        row = {"epoch": epoch + 1, "lr": updates.rate()} | _means(name, epoch, values, sums / len(order), lr)
        speed = len(order) / (time.perf_counter() - started)
        if validate:
            value = validate()
            row |= value if isinstance(value, dict) else {monitor: float(value)}
            checkpoint.track_best(state, row, monitor, modules, keep=early_stopping is not None)
            updates.follow_metric(row[monitor])
        stop = epoch + 1 == epochs or (early_stopping is not None and state["stale"] >= early_stopping)
        if evaluate and ((epoch + 1) % evaluate_every == 0 or stop):
            row |= evaluate()
        state["history"].append(row | {"seconds": time.perf_counter() - started, "images_per_second": speed})
        state |= {"epoch": epoch + 1, "finished": stop}
        bar.set_postfix(_measures(row))
        if stop and early_stopping is not None:
            checkpoint.put_best_back(state, modules)
        if path:
            checkpoint.save(path, state if stop else state | updates.state(), settings, modules)
            run.save_history(name, pd.DataFrame(state["history"]))
    bar.close()
    history = pd.DataFrame(state["history"])
    facts = settings | {"precision": state["precision"], "epochs_run": len(history), "criterion": criterion}
    _report(run, name, history, facts)
    return history


def _check(settings: Mapping[str, Any], *, measured: bool) -> None:
    """Raise ValueError for a setting that cannot be. measured: whether `validate` was given."""
    s = settings
    check_choice("schedule", s["schedule"], SCHEDULES)
    for key in ("epochs", "batch_size", "step_epochs", "evaluate_every"):
        if s[key] < 1:
            raise ValueError(f"{key}={s[key]} must be at least 1")
    if not s["lr"] > 0:
        raise ValueError(f"lr={s['lr']} must be above 0")
    if not measured and (s["early_stopping"] is not None or s["schedule"] == "plateau"):
        raise ValueError(f"early_stopping and schedule='plateau' need validate=, which returns {s['monitor']!r}")
    if s["images"] < 2 or (s["drop_last"] and s["images"] < s["batch_size"]):
        raise ValueError(f"{s['images']} training images are too few for batch_size={s['batch_size']}")


def _place(images: Tensor, device: torch.device) -> Tensor:
    """The whole set on the device when it takes at most half of the free memory, else left where it is."""
    fits = device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
    return images.to(device) if fits else images


def _batch(images: Tensor, labels: Tensor, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """The images (n, ...), uint8 ones as floats in [0, 1], and labels (n,) at some positions, on the device."""
    x = images[index.to(images.device)]
    x = dev.to_float(x, device) if x.dtype == torch.uint8 else x.to(device)
    return x, labels[index.to(device)]


def _means(name: str, epoch: int, values: Mapping[str, Tensor], means: Tensor, lr: float) -> dict[str, float]:
    """An epoch's means by name, read once an epoch: to read each loss would make the device wait for the host."""
    found = {f"train_{key}": mean for key, mean in zip(values, means.tolist(), strict=True)}
    if not math.isfinite(loss := found["train_loss"]):
        what = f"train_loss is {loss} in epoch {epoch + 1}"
        raise FloatingPointError(f"fit {name!r}: {what}: lower lr={lr}, or set clip_norm")
    return found


def _measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row, or of a table, a person watches."""
    return {key: row[key] for key in row if key.endswith(("loss", "accuracy"))}


def _report(run: checkpoint.RunDirectory | None, name: str, history: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Say in a line how a fit went, and put it into the run's record."""
    last = ", ".join(f"{key} {values.iloc[-1]:.3g}" for key, values in _measures(history).items())
    speed = f"{history.images_per_second.median():,.0f} images/s, {facts['precision']}"
    print(f"{name}: {len(history)} epochs in {history.seconds.sum():.1f} s ({speed}): {last}")
    if run:
        run.save_history(name, history)
        run.save_fit(name, {key: value for key, value in facts.items() if key != "step"})
