"""Exercise check of lesson 02: one training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.course.checks.frame import Wrong, checked, close, judge, seeded

LR = 0.5  # of the training step's optimizer


@checked
def training_step(function: Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor], float]) -> str:
    """`function(model, optimizer, x, y) -> float`: one update by a batch's mean cross-entropy, which it returns.

    x: float (N, C, H, W); y: int64 (N,).
    """
    g, events = seeded(2), []
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
