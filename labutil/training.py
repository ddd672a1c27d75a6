"""`fit`: one training loop for every method; a lesson writes the step, which is the method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import ParamsT

from labutil import checkpoint, processes
from labutil import device as dev
from labutil.paths import check_choice, check_number, is_number, lower_is_better

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import ImageSet

OPTIMIZERS = ("sgd", "adam", "adamw", "lion")
SCHEDULES = ("none", "plateau", "multistep", "step", "cosine")


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Balanced weights of the classes, N / (K n_k), with which each class has the same say in the loss.

    labels: int (N,), 0 to K - 1. Returns float32 (K,) on the CPU, 0 for a class without images.
    Raises ValueError for labels outside 0 to K - 1 (-1: unlabelled), or none at all.
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
    schedule: str = "none",
    warmup: float = 0.0,
    step_epochs: int = 20,
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
        Of several processes (`torchrun`) each calls it with its rows of the batch, by which its means count.
    modules: what is trained (parameters with requires_grad) and checkpointed; set to train() before each epoch.
    data: has `.images` (N, ...) and `.labels` (N,); on the device whole when half its memory will do, else by batches.
    batch_size: at most so many images a batch, over all batches as even as can be, so that no batch of one is left
        over; with drop_last, or 2, every batch has exactly this size and each epoch leaves out a random remainder.
    optimizer, weight_decay: see `make_optimizer`. schedule, warmup (epochs), step_epochs: see `lr_factor`; "plateau"
        multiplies the rate by 0.1 after 3 epochs without improvement.
    lr_scale: what the rate of some parameters is multiplied by: {beginning of a name in a module's
        `named_parameters()`: scale}, as {"encoder.": 0.1} or `models.layerwise_rates`; the longest that fits decides.
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
    Raises ValueError for a bad setting, FloatingPointError when a loss, a weight or what validate returned is not
    finite, ResumeError when a checkpoint was made with other settings.

    Example:
        history = fit(step, [model], data.train, epochs=10, batch_size=64, lr=1e-3, schedule="cosine")
    """
    n, device = len(data.images), dev.get_device()
    settings = {
        "epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "weight_decay": weight_decay,
        "lr_scale": None if lr_scale is None else {key: float(scale) for key, scale in lr_scale.items()},
        "schedule": schedule, "warmup": warmup, "step_epochs": step_epochs, "monitor": monitor,
        "early_stopping": early_stopping, "evaluate_every": evaluate_every, "drop_last": drop_last, "images": n,
        "parameters": sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad),
        "processes": processes.count(), "step": checkpoint.code_hash(step),
    }  # fmt: skip
    _check(settings, modules, measured=validate is not None)
    processes.begin_alike(modules)
    state = {"epoch": 0, "finished": False, "history": [], "best": None, "stale": 0}
    state["precision"] = precision or dev.default_precision()
    path = run.dir / "checkpoints" / f"{name}.pt" if run else None
    if path and processes.from_first((run.resume if resume is None else resume) and checkpoint.usable(path)):
        state = checkpoint.load(path, settings, modules)
    _record(run, name, settings | {"criterion": criterion}, state)
    batches = n // batch_size if drop_last or batch_size == 2 else math.ceil(n / batch_size)
    updates = _Updates(modules, settings, state)
    images, labels = _place(data.images, device), data.labels.to(device)
    bar = dev.progress_bar(epochs * batches, name, "batch", state["epoch"] * batches)
    while not state["finished"]:
        started, epoch, sums, unread = time.perf_counter(), state["epoch"], 0, []
        nn.ModuleList(modules).train()
        order = torch.randperm(n, generator=dev.generator("order"))[: batches * batch_size]
        for i, index in enumerate(order.tensor_split(batches)):
            updates.follow_schedule(epoch + i / batches, batches)
            with dev.autocast(state["precision"], device), processes.split(index) as own:
                x = images.index_select(0, own.to(images.device))  # several times as fast as images[own]
                x = dev.to_float(x, device) if x.dtype == torch.uint8 else x.to(device)
                result = step(x, labels[own.to(device)])
            loss, others = result if isinstance(result, tuple) else (result, {})
            unread.append(loss.detach().float())
            if device.type == "cpu" or len(unread) == 50 or i + 1 == batches:  # to read one makes a GPU wait
                for at, value in enumerate(processes.total(torch.stack(unread)).tolist(), i + 2 - len(unread)):
                    if not math.isfinite(value):
                        where = f"epoch {epoch + 1}, step {at} of {batches}"
                        raise FloatingPointError(f"fit {name!r}: train_loss is {value} in {where}: lower lr={lr}")
                unread.clear()
            updates.apply(loss, share=len(own) / len(index))
            values = {"loss": loss} | others
            sums = sums + torch.stack([value.detach().float() for value in values.values()]) * len(own)
            if after_step:
                after_step((epoch * batches + i + 1) / (epochs * batches))
            bar.update()
        means = (processes.total(sums) / len(order)).tolist()
        _check_weights(modules, f"fit {name!r}: after epoch {epoch + 1} some weights are not finite: lower lr={lr}")
        row = {"epoch": epoch + 1, "lr": updates.rate()}
        row |= {f"train_{key}": mean for key, mean in zip(values, means, strict=True)}
        speed = len(order) / (time.perf_counter() - started)
        if validate:
            value = processes.from_first(validate())  # all stop, and lower the rate, at the same epoch
            row |= (value := value if isinstance(value, dict) else {monitor: float(value)})
            if wrong := [f"{key} is {number}" for key, number in value.items() if not math.isfinite(number)]:
                raise FloatingPointError(f"fit {name!r}: {wrong[0]} after epoch {epoch + 1}: lower lr={lr}")
            checkpoint.track_best(state, row, monitor, modules, keep=early_stopping is not None)
            updates.follow_metric(row[monitor])
        stop = epoch + 1 == epochs or (early_stopping is not None and state["stale"] >= early_stopping)
        if evaluate and ((epoch + 1) % evaluate_every == 0 or stop):
            row |= processes.from_first(evaluate())
        state["history"].append(row | {"seconds": time.perf_counter() - started, "images_per_second": speed})
        state |= {"epoch": epoch + 1, "finished": stop}
        bar.set_postfix(_measures(row))
        if stop and early_stopping is not None:
            checkpoint.put_best_back(state, modules)
        if path:
            checkpoint.save(path, state if stop else state | updates.state(), settings, modules)
            _record(run, name, settings | {"criterion": criterion}, state)
    bar.close()
    return _told(name, state)


def _check_weights(modules: Sequence[nn.Module], message: str) -> None:
    """Raise FloatingPointError where an update has left something that is not finite: no later loss may tell."""
    states = [v for module in modules for v in module.state_dict().values() if v.is_floating_point()]
    if states and not torch.stack([v.isfinite().all() for v in states]).all():
        raise FloatingPointError(message)


def _place(images: Tensor, device: torch.device) -> Tensor:
    """The whole set on a GPU when it takes at most half of the free memory, else left where it is."""
    whole = device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info(device)[0] / 2
    return images.to(device) if whole else images


def _record(run: checkpoint.RunDirectory | None, name: str, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Put into a run's record what a fit is made with, all but the hash of its step, and how far it has come."""
    if run is None or processes.rank():
        return
    import pandas as pd

    facts = {key: value for key, value in settings.items() if key != "step"} | {"precision": state["precision"]}
    run.save_fit(name, facts | ({"epochs_run": state["epoch"]} if state["finished"] else {}))
    if state["history"]:
        run.save_history(name, pd.DataFrame(state["history"]))


def _told(name: str, state: dict[str, Any]) -> pd.DataFrame:
    """A fit's history, after a line that says what it came to."""
    import pandas as pd

    history = pd.DataFrame(state["history"])
    last = ", ".join(f"{key} {column.iloc[-1]:.3g}" for key, column in _measures(history).items())
    speed = f"{history.images_per_second.median():,.0f} images/s, {state['precision']}"
    if processes.rank() == 0:
        print(f"{name}: {len(history)} epochs in {history.seconds.sum():.1f} s ({speed}): {last}")
    return history


def _check(settings: Mapping[str, Any], modules: Sequence[nn.Module], *, measured: bool) -> None:
    """Raise ValueError for a setting that cannot be. measured: whether `validate` was given."""
    s = settings
    check_choice("schedule", s["schedule"], SCHEDULES)
    for key in ("epochs", "batch_size", "step_epochs", "evaluate_every"):
        check_number(key, s[key], 1, whole=True)
    check_number("weight_decay", s["weight_decay"], 0)
    check_number("warmup", s["warmup"], 0)
    if not is_number(s["lr"]) or not 0 < s["lr"] <= 1e6:
        raise ValueError(f"lr={s['lr']!r} must be above 0, and a number, at most 1e6")
    if s["batch_size"] == 1 and any(isinstance(m, nn.BatchNorm1d) for m in nn.ModuleList(modules).modules()):
        raise ValueError("batch_size=1 is too few for a network with BatchNorm1d, which compares images: raise it")
    if not measured and (s["early_stopping"] is not None or s["schedule"] == "plateau"):
        raise ValueError(f"early_stopping and schedule='plateau' need validate=, which returns {s['monitor']!r}")
    if s["images"] < 2 or (s["drop_last"] and s["images"] < s["batch_size"]):
        raise ValueError(f"{s['images']} training images are too few for batch_size={s['batch_size']}")


def _measures(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row, or of a table, a person watches."""
    return {key: row[key] for key in row if key.endswith(("loss", "accuracy"))}


def make_optimizer(name: str, parameters: ParamsT, lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """sgd (with plain momentum 0.9), adam, adamw, or lion (Chen et al. 2023, arXiv:2302.06675; wants a smaller lr).

    weight_decay is for all parameters, biases and norms too.
    """
    check_choice("optimizer", name, OPTIMIZERS)
    if name == "lion":
        from timm.optim import Lion  # timm is slow to import, so the others, which it takes from torch, do without

        return Lion(parameters, lr, weight_decay=weight_decay)
    sgd = partial(torch.optim.SGD, momentum=0.9)
    kind = {"sgd": sgd, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return kind(parameters, lr, weight_decay=weight_decay)


def lr_factor(schedule: str, epoch: float, epochs: int, warmup: float = 0.0, step_epochs: int = 20) -> float:
    """What the learning rate is multiplied by at a (fractional) epoch, for the schedules that time alone decides.

    cosine falls from 1 to 0 (Loshchilov & Hutter 2017); multistep multiplies by 0.1 after 60% and 80% of the epochs;
    step does so after every `step_epochs`. The first `warmup` epochs rise linearly from 0.
    """
    if epoch < warmup:
        return epoch / warmup
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1e-9)))
    drops = {"multistep": sum(epoch >= share * epochs for share in (0.6, 0.8)), "step": epoch // step_epochs}
    return 0.1 ** drops.get(schedule, 0)


class _Updates:
    """What makes new weights of a loss: the optimizer, the rate of each of its groups, and fp16's scaling.

    settings, state: `fit`'s; what a checkpoint left in the state goes back to where it came from.
    """

    def __init__(self, modules: Sequence[nn.Module], settings: Mapping[str, Any], state: dict[str, Any]) -> None:
        s = self.settings = settings
        by_scale = _by_scale(modules, s["lr_scale"] or {})
        self.scales = list(by_scale)
        groups = [{"params": params, "lr": s["lr"] * scale} for scale, params in by_scale.items()]
        self.optimizer = make_optimizer(s["optimizer"], groups, s["lr"], s["weight_decay"])
        better = "min" if lower_is_better(s["monitor"]) else "max"
        self.plateau = ReduceLROnPlateau(self.optimizer, better, factor=0.1, patience=3)
        self.scaler = torch.amp.GradScaler(dev.get_device().type, enabled=state["precision"] == "fp16")
        self.parts = {"optimizer": self.optimizer, "plateau": self.plateau, "scaler": self.scaler}
        for name, part in self.parts.items():
            if saved := state.pop(name, None):
                part.load_state_dict(saved)

    def state(self) -> dict[str, Any]:
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
            self.set_rate(s["lr"] * lr_factor(s["schedule"], epoch, s["epochs"], s["warmup"], s["step_epochs"]))

    def follow_metric(self, value: float) -> None:
        """Lower the rates when `schedule` is "plateau" and the monitored metric has stood still for too long."""
        if self.settings["schedule"] == "plateau":
            self.plateau.step(value)
            self.set_rate(self.rate())  # torch leaves rates below 1e-8 alone, which would change the ratios

    def apply(self, loss: Tensor, share: float) -> None:
        """One update. share: of the batch's rows those that this process has, by which its loss counts."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss if share == 1 else loss * share).backward()
        processes.add_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _by_scale(modules: Sequence[nn.Module], lr_scale: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
    """The parameters that learn by what their rate is multiplied by: 1 first where there is one, then from the top."""
    named = [pair for module in modules for pair in module.named_parameters()]
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
