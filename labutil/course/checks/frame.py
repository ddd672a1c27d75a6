"""What every exercise check is made of: its result, how it calls a learner's function, and the look-up of mistakes."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

MARKS = {"passed": "✓", "failed": "✗", "not attempted": "○"}


@dataclass(frozen=True)
class Result:
    """What a check found. status: a key of `MARKS`; the notebook shows its mark and the message. function: what was
    examined."""

    exercise: str
    status: str
    message: str
    function: Callable | None = None

    def __repr__(self) -> str:
        return f"{MARKS[self.status]} {self.exercise}: {self.message}"

    def or_use(self, ours: Callable) -> Callable:
        """The learner's function where it passed, else ours; prints what the check found.

        Example:
            info_nce = lab.checks.info_nce(my_info_nce).or_use(losses.info_nce)
        """
        passed = self.status == "passed" and self.function is not None
        print(f"{self!r}\n  From here on the lesson uses {'yours' if passed else 'its own'}.")
        return self.function if passed else ours


unseen: ContextVar[np.random.Generator | None] = ContextVar("unseen", default=None)  # set by course/grading.py


def seeded(seed: int) -> torch.Generator:
    """The generator of a check's random inputs: in a notebook of this seed, in grading of one that nobody knows."""
    secret = unseen.get()
    return torch.Generator().manual_seed(seed if secret is None else int(secret.integers(2**31)))


def hidden(draw: Callable[[np.random.Generator], Any], known: Any = ()) -> Any:
    """An input that is `known` in a notebook, and drawn in grading: no answer can be written down beforehand."""
    secret = unseen.get()
    return known if secret is None else draw(secret)


class Wrong(Exception):
    """The answer is wrong; the text says why."""


def checked(examine: Callable[[Callable], str] | None = None, *, refuses: tuple[str, ...] = ()) -> Callable:
    """Make an examiner, which raises Wrong(reason) or returns a remark, into a check that never raises.

    refuses: full names of library functions that would be the answer; one that the learner's function calls, or is,
    makes the answer wrong. `@checked` alone refuses none.

    Example:
        @checked(refuses=("torch.nn.functional.cross_entropy", "torch.Tensor.backward"))
        def cross_entropy(function): ...
    """
    if examine is None:
        return functools.partial(checked, refuses=refuses)
    exercise = examine.__name__

    def check(function: Callable) -> Result:
        try:
            return Result(exercise, "passed", f"correct. {examine(without(function, refuses))}", function)
        except Wrong as wrong:
            return Result(exercise, "failed", str(wrong), function)
        except Exception as error:  # whatever a learner's code may raise
            if isinstance(error, NotImplementedError) and not str(error):  # torch's own say what they mean
                return Result(exercise, "not attempted", "not attempted yet", function)
            return Result(exercise, "failed", f"your function raised {type(error).__name__}: {error}", function)

    check.__name__, check.__doc__ = exercise, examine.__doc__
    return check


def without(function: Callable, names: tuple[str, ...]) -> Callable:
    """The function, for which library functions of these names raise Wrong while it runs."""
    if remote := getattr(function, "without", None):  # it runs elsewhere: course/grading.py
        return remote(names)

    def guarded(*args: Any) -> Any:
        known = {name: pkgutil.resolve_name(name) for name in names}
        own = inspect.unwrap(function)
        with contextlib.ExitStack() as stack:
            for name, original in known.items():
                refuse = refusal(name)
                if own is original:
                    refuse()
                owner, _, last = name.rpartition(".")
                stack.enter_context(mock.patch.object(pkgutil.resolve_name(owner), last, refuse))
                # Where the learner has imported it by name, perhaps by another one.
                space = getattr(own, "__globals__", {})
                for alias in [key for key, value in space.items() if value is original]:
                    stack.callback(space.__setitem__, alias, original)
                    space[alias] = refuse
            return function(*args)

    return guarded


def refusal(name: str) -> Callable:
    def refuse(*args: Any, **settings: Any) -> None:
        raise Wrong(f"{name} is the answer itself: write out what it does")

    return refuse


def guess(yours: Mapping[str, Any], measured: Mapping[str, Any], *, within: float = 0.0) -> Result:
    """How predictions that were made before a cell ran compare with what came out.

    yours: {what: a number or a word}; None where nothing was predicted. measured: the same names. within: how far off a
    number may be.

    Example:
        lab.checks.guess({"moved": 30}, {"moved": 10}, within=5)   # ✗ guess: moved: you said 30, it is 10
    """
    made = {name: value for name, value in yours.items() if value is not None}
    if not made:
        return Result("guess", "not attempted", "not attempted yet")
    close_to, off = [], []
    for name, value in made.items():
        actual = measured[name]
        try:
            if isinstance(actual, str):
                good = str(value).strip().casefold() == actual.casefold()
            else:
                good = abs(float(value) - float(actual)) <= within
        except (TypeError, ValueError):
            return Result("guess", "failed", f"{name}: {value!r} is no number, such as 12.5")
        shown = actual if isinstance(actual, str) else f"{actual:.3g}"
        (close_to if good else off).append(f"{name}: you said {value}, it is {shown}")
    if off:
        return Result("guess", "failed", "; ".join(off) + ". What did you expect that is not so?")
    return Result("guess", "passed", "; ".join(close_to))


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


def backpropagates(function: Callable, x: Tensor, *others: Any) -> None:
    """Raise Wrong where no gradient of a loss, whose value is right, comes back to x: later cells train by it."""
    try:
        answer = function(x.clone().requires_grad_() * 1, *others)
    except RuntimeError as error:
        if "numpy()" not in str(error):
            raise
        raise Wrong("the value is right, but no gradient passes NumPy: use torch's functions alone") from error
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        raise Wrong("the value is right, but no gradient comes back: return the tensor, without .item() or .detach()")


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
    if torch.as_tensor(answer, dtype=torch.float64).isnan().any():
        hint = "0 times infinity, infinity minus infinity and 0 / 0 are no numbers"
    before, after = f"{case}: " if case else "", f"; {hint}" if hint else ""
    for reason, values in mistakes.items():
        for value in values if isinstance(values, tuple) else (values,):
            if close(answer, value, **tolerance).all():
                raise Wrong(before + reason)
    place = tuple((~right).nonzero()[0].tolist())  # () of a number
    at = f"at {list(place)} " if place else ""
    yours, ours = (torch.as_tensor(v, dtype=torch.float64)[place] for v in (answer, expected))
    raise Wrong(f"{before}{at}{ours:,.8g} is right, yours is {yours:,.8g}{after}")
