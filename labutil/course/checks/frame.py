"""What every exercise check is made of: its result, how it calls a learner's function, and the look-up of mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """What a check found. status: "passed", "failed" or "not attempted"; its text is what the notebook shows."""

    exercise: str
    status: str
    message: str = ""

    def __repr__(self) -> str:
        if self.status == "passed":
            return f"✓ {self.exercise}: correct. {self.message}".rstrip()
        if self.status == "failed":
            return f"✗ {self.exercise}: {self.message}"
        return f"○ {self.exercise}: not attempted yet"


class NotAttempted(Exception):
    """The function is still a stub."""


class Wrong(Exception):
    """The answer is wrong; the text says why."""


def checked(examine: Callable[[Callable], str | None]) -> Callable[[Callable], Result]:
    """Make an examiner, which raises Wrong(reason) or returns a remark, into a check that never raises."""
    exercise = examine.__name__

    def check(function: Callable) -> Result:
        try:
            return Result(exercise, "passed", examine(function) or "")
        except NotAttempted:
            return Result(exercise, "not attempted")
        except Wrong as wrong:
            return Result(exercise, "failed", str(wrong))
        except Exception as error:  # whatever a learner's code may raise
            if isinstance(error, NotImplementedError) and not str(error):  # torch's own say what they mean
                return Result(exercise, "not attempted")
            return Result(exercise, "failed", f"your function raised {type(error).__name__}: {error}")

    check.__name__, check.__doc__ = exercise, examine.__doc__
    return check


def call(function: Callable, *args: Any) -> Any:
    """The function's answer; a stub's None or ... counts as not attempted."""
    answer = function(*args)
    if answer is None or answer is ...:
        raise NotAttempted
    return answer


def scalar(answer: Any) -> float:
    """The answer as one number."""
    try:
        return float(answer)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise Wrong(f"the answer must be one number, yours is {shape}") from error


def tensor(answer: Any, shape: tuple[int, ...]) -> Tensor:
    """The answer as float64, if it is a tensor of this shape."""
    if not isinstance(answer, Tensor):
        raise Wrong(f"the answer must be a tensor, yours is {type(answer).__name__}")
    if tuple(answer.shape) != shape:
        raise Wrong(f"the answer must have shape {shape}, yours has {tuple(answer.shape)}")
    return answer.detach().double()


def equal(answer: Any, value: Any, *, rtol: float = 1e-4, atol: float = 1e-7) -> bool:
    """Are two numbers, or two tensors of one shape, equal but for rounding?"""
    a, b = (torch.as_tensor(v).double() for v in (answer, value))
    return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol)


def look_up(
    answer: Any, mistakes: Mapping[str, Any], case: str = "", *, rtol: float = 1e-4, atol: float = 1e-7
) -> None:
    """Raise Wrong with the first reason that gives this answer.

    mistakes: {reason: what a function with this mistake answers, or a tuple of such}. case: the input, in words.
    """
    for reason, values in mistakes.items():
        for value in values if isinstance(values, tuple) else (values,):
            if equal(answer, value, rtol=rtol, atol=atol):
                raise Wrong(f"{case}: {reason}" if case else reason)


def judge(
    answer: float, expected: float, mistakes: Mapping[str, Any], case: str, *, rtol: float = 1e-4, atol: float = 1e-7
) -> None:
    """Accept a number that is right; of another say which mistake it comes from (`look_up`), or what would be right.

    Example:
        judge(answer, expected, {"divide by N": 7 * expected, "the sign is turned round": -expected}, "a random batch")
    """
    if not equal(answer, expected, rtol=rtol, atol=atol):
        look_up(answer, mistakes, case, rtol=rtol, atol=atol)
        raise Wrong(f"{case}: {expected:,.10g} is right, yours is {answer:,.10g}")
