"""Exercise checks of lessons 02 and 03: one training step, and plans of experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.course.checks.frame import Wrong, call, checked, close, judge
from labutil.runs.parameters import NOTEBOOKS, ParameterError
from labutil.sweeps import plan

LR = 0.5  # of the training step's optimizer


@checked
def training_step(function: Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor], float]) -> str:
    """`function(model, optimizer, x, y) -> float`: one update by a batch's mean cross-entropy, which it returns.

    x: float (N, C, H, W); y: int64 (N,).
    """
    g, events = torch.Generator().manual_seed(2), []
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    own = model[1].weight
    weight = own.data.copy_(torch.randn(3, 4, generator=g)).clone()
    own.register_hook(lambda _: events.append("backward"))
    optimizer = _Spy(model.parameters(), events)

    def loss_at(w: Tensor) -> Tensor:
        return F.cross_entropy(x.flatten(1) @ w.T, y)

    for batch in ("the first batch", "the second batch"):
        x, y = torch.randn(6, 1, 2, 2, generator=g), torch.randint(0, 3, (6,), generator=g)
        events.clear()
        answer = function(model, optimizer, x.clone(), y.clone())
        if (answer is None or answer is ...) and not events:
            raise NotImplementedError
        before, gradient, start = loss_at(weight), torch.func.grad(loss_at)(weight), weight
        weight = start - LR * gradient
        if not close(own.detach(), weight, atol=1e-6).all():
            raise Wrong(f"{batch}: {_why(events, (start - own.detach()) / LR, gradient)}")
        if answer is None:
            raise Wrong("the weights are right; return the loss as well, as a number: loss.item()")
        if isinstance(answer, Tensor) and answer.requires_grad:
            raise Wrong("return loss.item(): a tensor keeps its whole graph in memory for as long as you keep the loss")
        after = "that is the loss after the update; return the one that the update was made by"
        judge(answer, before.item(), {after: loss_at(weight).item()}, f"the loss of {batch}")
    return "These lines train everything in this workbook."


class _Spy(torch.optim.SGD):
    """Plain gradient descent that notes when it is asked for a step, or to forget gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], events: list[str]) -> None:
        super().__init__(parameters, LR)
        self.events = events

    def step(self, *args: Any) -> None:
        self.events.append("step")
        super().step(*args)

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("zero_grad")
        super().zero_grad(*args, **kwargs)


def _why(events: Sequence[str], used: Tensor, gradient: Tensor) -> str:
    """Why a step moved weights wrongly. events: what was called. used: the gradient it went by, in place of the right
    one."""
    if "backward" not in events:
        return "no gradient was computed: loss.backward() is missing"
    if "step" not in events:
        return "the weights have not moved: optimizer.step() is missing"
    if events.index("step") < events.index("backward"):
        return "optimizer.step() comes before loss.backward(), so it does not see this batch's gradient"
    if "zero_grad" in events[events.index("backward") : events.index("step")]:
        return "zero_grad() stands between backward() and step(), and throws the gradient away before it is used"
    if close(used, 6 * gradient, atol=1e-5).all():
        return "that is a step by the sum over the batch; the loss is its mean"
    if "zero_grad" not in events:
        return "the gradient of the batch before is still there, and backward() adds to it: zero_grad() is missing"
    return "the weights did not go one step against the gradient of the batch's mean cross-entropy"


@checked
def fair_sweep(function: Callable[[], dict[str, Any]]) -> str:
    """`function() -> {"grid": {parameter: [values]}, "seeds": [numbers], "objective": a metric}`: the sweep of lesson
    02 that asks whether batches of 32 train the network better than batches of 128, and is fair to both."""
    why = "a batch four times as large makes a quarter of the steps, each with less noise, and wants another lr"
    return _judge_plan(
        call(function), "02_supervised_baseline", "batches of 32 and of 128", {"batch_size": {32, 128}}, why,
        {"val_accuracy": ""},
    )  # fmt: skip


@checked
def fair_heads(function: Callable[[], dict[str, Any]]) -> str:
    """As `fair_sweep`: the sweep of lesson 03 that asks whether fine-tuning is better when it starts from the fitted
    probe than from one random layer."""
    why = "a fitted head wants small steps, and a random one has everything to learn"
    better = "val_accuracy is that of the better of probe and fine-tuned network, and hides how the second did; "
    return _judge_plan(
        call(function), "03_transfer_learning", "the fitted probe and one random layer", {"head": {"probe", "linear"}},
        why, {"val_accuracy_fine_tuned": "", "val_accuracy": better},
    )  # fmt: skip


def _judge_plan(
    asked: Any, notebook: str, both: str, rivals: dict[str, set], why: str, objectives: dict[str, str]
) -> str:
    """The command of a sweep that is fair to both rivals, {parameter: its two values}; Wrong says of another why not.

    both: the rivals in words. why: they want different learning rates. objectives: the metric that decides, and others
    that one may think of, with what is wrong with them.
    """
    kinds = {"grid": dict, "seeds": list | tuple, "objective": str | None}  # as a recipe's sweep has them
    if (
        not isinstance(asked, dict)
        or "grid" not in asked
        or any(key not in kinds or not isinstance(value, kinds[key]) for key, value in asked.items())
    ):
        raise Wrong('the answer is a dictionary, {"grid": {"epochs": [4, 8]}, "seeds": [0], "objective": "..."}')
    grid = {key: values if isinstance(values, list | tuple) else [values] for key, values in asked["grid"].items()}
    given = [(key, f"[{','.join(map(str, values))}]") for key, values in grid.items()]
    seeds, objective = ",".join(map(str, asked.get("seeds") or [0])), asked.get("objective")
    try:
        (study,) = plan.read([NOTEBOOKS / f"{notebook}.ipynb"], None, given, seeds=seeds, objective=objective).studies
    except ParameterError as error:
        raise Wrong(str(error)) from error
    ((key, wanted),) = rivals.items()
    found, rates = ({(study.base | s)[name] for s in study.settings} for name in (key, "lr"))
    if found != wanted:
        raise Wrong(f"the rivals are {both}: {key} is to take these two, not {sorted(found, key=str)}")
    if more := [name for name in study.swept() if name not in {key, "lr"}]:
        raise Wrong(f"{more[0]} changes as well: a question of its own, which multiplies the runs of this one")
    if len(rates) < 3:
        raise Wrong(f"{why}: with {len(rates)} for both you would measure whom that suits: let each try three or more")
    if max(rates) < 8 * min(rates):
        raise Wrong("the rates lie close together, and the best may lie beyond them: from end to end, a factor of ten")
    if (n := len(study.seeds)) < 3:
        raise Wrong(f"{'one seed does' if n == 1 else 'two seeds do'} not tell how far luck moves a result: take three")
    decides, lesson = next(iter(objectives)), notebook[:2]
    if objective != decides:
        said = objectives.get(objective, "say what a setting is judged by: ")
        raise Wrong(f"{said}the objective that lesson {lesson} logs is {decides}")
    options = " ".join(f'-p {name} "{values}"' for name, values in given)
    return f"It is {len(study.settings) * len(study.seeds)} runs: labutil sweep {lesson} {options} --seeds {seeds}"
