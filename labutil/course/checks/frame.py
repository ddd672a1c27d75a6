"""What every exercise check is made of: its result, how it calls a learner's function, and the look-up of mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MARKS = {"passed": "✓", "failed": "✗", "not attempted": "○"}


@dataclass(frozen=True)
class Result:
    """What a check found. status: a key of `MARKS`; the notebook shows its mark and the message."""

    exercise: str
    status: str
    message: str

    def __repr__(self) -> str:
        return f"{MARKS[self.status]} {self.exercise}: {self.message}"


class Wrong(Exception):
    """The answer is wrong; the text says why."""


def checked(examine: Callable[[Callable], str]) -> Callable[[Callable], Result]:
    """Make an examiner, which raises Wrong(reason) or returns a remark, into a check that never raises."""
    exercise = examine.__name__

    def check(function: Callable) -> Result:
        try:
            return Result(exercise, "passed", f"correct. {examine(function)}")
        except Wrong as wrong:
            return Result(exercise, "failed", str(wrong))
        except Exception as error:  # whatever a learner's code may raise
            if isinstance(error, NotImplementedError) and not str(error):  # torch's own say what they mean
                return Result(exercise, "not attempted", "not attempted yet")
            return Result(exercise, "failed", f"your function raised {type(error).__name__}: {error}")

    check.__name__, check.__doc__ = exercise, examine.__doc__
    return check


def call(function: Callable, *args: Any, raised: Mapping[str, str] | None = None) -> Any:
    """The function's answer to copies of the arguments; a stub's None or ... is raised as NotImplementedError.
    raised: {part of "ErrorType: its message": the mistake that raises it}."""
    try:
        answer = function(*deepcopy(args))
    except Exception as error:
        for part, reason in (raised or {}).items():
            if part in f"{type(error).__name__}: {error}":
                raise Wrong(reason) from error
        raise
    if answer is None or answer is ...:
        raise NotImplementedError
    return answer


def scalar(answer: Any, shapes: Mapping[tuple[int, ...], str] | None = None) -> float:
    """The answer as one number. shapes: {a tensor's shape: the mistake that gives it}."""
    shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
    if shapes and shape in shapes:
        raise Wrong(shapes[shape])
    try:
        return float(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"the answer must be one number, yours is {shape}") from error


def tensor(answer: Any, shape: tuple[int, ...], shapes: Mapping[tuple[int, ...], str] | None = None) -> Tensor:
    """The answer as float64, if it is a tensor of this shape. shapes: {another shape: the mistake that gives it}."""
    if not isinstance(answer, Tensor):
        raise Wrong(f"the answer must be a tensor, yours is {type(answer).__name__}")
    given = tuple(answer.shape)
    if given != shape:
        raise Wrong((shapes or {}).get(given, f"the answer must have shape {tuple(shape)}, yours has {given}"))
    return answer.detach().double()


def close(answer: Any, value: Any, *, rtol: float = 1e-4, atol: float = 1e-7) -> Tensor:
    """Where two numbers, or two arrays of one shape, are equal but for rounding."""
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (answer, value))
    return torch.isclose(a, b, rtol=rtol, atol=atol)


def judge(
    answer: Any,
    expected: Any,
    mistakes: Mapping[str, Any],
    case: str = "",
    *,
    hint: str = "",
    shapes: Mapping[tuple[int, ...], str] | None = None,
    **tolerance: float,
) -> None:
    """Accept an answer that is right; of another say which mistake it comes from, or what would be right, and where.

    answer: as the learner's function gave it. expected: a number or tensor, which the answer must be too; or a list or
    array, for an answer whose kind is known. mistakes: {reason: what a function with this mistake answers, or a tuple
    of such}; the first that fits is named. case: the input, in words. hint: advice where no mistake fits. shapes: as of
    `scalar` and `tensor`. tolerance: as of `close`.

    Example:
        judge(answer, expected, {"divide by N": 7 * expected, "the sign is turned round": -expected}, "a random batch")
    """
    if isinstance(expected, Tensor | float | int):
        shape = tuple(torch.as_tensor(expected).shape)
        answer = tensor(answer, shape, shapes) if shape else scalar(answer, shapes)
    right = close(answer, expected, **tolerance)
    if right.all():
        return
    before, after = f"{case}: " if case else "", f"; {hint}" if hint else ""
    for reason, values in mistakes.items():
        for value in values if isinstance(values, tuple) else (values,):
            if close(answer, value, **tolerance).all():
                raise Wrong(before + reason)
    place = tuple((~right).nonzero()[0].tolist())  # () of a number
    at = f"at {list(place)} " if place else ""
    yours, ours = (torch.as_tensor(v, dtype=torch.float64)[place] for v in (answer, expected))
    raise Wrong(f"{before}{at}{ours:,.8g} is right, yours is {yours:,.8g}{after}")
