"""A student's function that runs in a contained process, as the checks see it: with gradients, and given a network."""

from __future__ import annotations

import builtins
import functools
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labutil.course import contained, wire
from labutil.course.checks.frame import Wrong
from labutil.runs import RunError

SECONDS = 60  # until a process must have started, on a busy machine too
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{0,60}")


class Remote:
    """A student's function in a contained process. Called, it sends what it is given and returns what comes back; a
    tensor that it returns has the gradients that it has there."""

    def __init__(self, nursery: socket.socket, ends: float) -> None:
        """ends: when the time is up, of time.monotonic()."""
        self.connection, theirs = socket.socketpair()
        self.ends, self.made = ends, []
        socket.send_fds(nursery, [b"x"], [theirs.fileno()])
        theirs.close()
        try:
            wire.receive(self.connection, time.monotonic() + SECONDS)
        except (EOFError, OSError, wire.BadMessage) as error:
            self.close()
            raise RunError("a contained process could not be started: is the machine short of memory?") from error

    def close(self) -> None:
        """Hang up, which ends the process and its children."""
        self.connection.close()

    def load(self, cells: list[str], name: str, *, literal: bool) -> Any:
        """Execute what defines the function. literal: return it, a value."""
        message, arrays = self._talk({"do": "load", "cells": cells, "name": name, "literal": literal}, [])
        return _value(lambda: wire.decode(message["value"], arrays))

    def __call__(self, *args: Any) -> Any:
        return self._ask((), *args)

    def without(self, names: tuple[str, ...]) -> Callable:
        """The function, for which library functions of these names raise Wrong while it runs."""
        return functools.partial(self._ask, names)

    def _ask(self, names: tuple[str, ...], *args: Any) -> Any:
        arrays: list[np.ndarray] = []
        leaves = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad]
        sent = [wire.encode(arg, arrays, functools.partial(self._special, arrays)) for arg in args]
        message, found = self._talk({"do": "ask", "args": sent, "refuses": names}, arrays)

        def graph(tree: dict) -> Tensor | None:
            if tree["kind"] != "graph":
                return None
            value = wire.decode(tree["of"], found)
            if leaves:
                return _Elsewhere.apply(self, tree["number"], value, *leaves)
            return value.requires_grad_()

        def take() -> Any:
            for arg in args:
                if isinstance(arg, nn.Module):
                    given = message["weights"][str(self.made.index(arg))]
                    for own, tree in zip(arg.parameters(), given, strict=True):
                        own.data = wire.decode(tree, found).to(own.dtype).reshape(own.shape)
                if isinstance(arg, torch.optim.Optimizer):  # the check's own, which keeps a list
                    arg.events += [e for e in message["events"][:1000] if e in ("backward", "step", "zero_grad")]
            return wire.decode(message["value"], found, graph)

        return _value(take)

    def _special(self, arrays: list[np.ndarray], value: Any) -> dict | None:
        """How a tensor with gradients, a network and an optimizer are sent: the two are made anew over there, once."""
        if isinstance(value, Tensor) and value.requires_grad:
            return {"kind": "leaf", "inner": not value.is_leaf, "of": wire.encode(value.detach(), arrays)["of"]}
        if not isinstance(value, nn.Module | torch.optim.Optimizer):
            return None
        if value not in self.made:
            self.made.append(value)
        key = str(self.made.index(value))
        if isinstance(value, nn.Module):
            weights = [wire.encode(w.detach().clone(), arrays) for w in value.parameters()]
            return {"kind": "module", "key": key, "layers": [_layer(layer) for layer in value], "weights": weights}
        network = next(i for i, one in enumerate(self.made) if isinstance(one, nn.Module))
        return {"kind": "optimizer", "key": key, "module": str(network), "lr": value.defaults["lr"]}

    def back(self, number: int, outer: Tensor) -> list[Tensor | None]:
        """Gradients of what an answer was made of, for the gradient of the answer."""
        arrays: list[np.ndarray] = []
        message, found = self._talk({"do": "back", "number": number, "gradient": wire.encode(outer, arrays)}, arrays)
        return _value(lambda: [wire.decode(tree, found) for tree in message["value"]])

    def _talk(self, message: dict, arrays: list[np.ndarray]) -> tuple[dict, list[np.ndarray]]:
        """Send a message and return the answer to it. Raises what the function raised, or Wrong."""
        try:
            self.connection.settimeout(max(0.01, self.ends - time.monotonic()))
            wire.send(self.connection, message, arrays)
            said, found = wire.receive(self.connection, self.ends)
        except TimeoutError:
            self.close()
            raise Wrong("your code runs too long and was ended; is there a loop without an end?") from None
        except wire.BadMessage as error:
            self.close()
            raise Wrong(f"what your code answers cannot be judged: {error}") from None
        except (EOFError, OSError):
            limit = f"{contained.MEMORY >> 30} GB of memory, {contained.FILES >> 20} MB a file"
            raise Wrong(f"your code ended its process: it crashed, left Python, or wanted too much ({limit})") from None
        if isinstance(raised := said.get("raised"), list):
            raise _raised(*[str(text) for text in (*raised, "", "")[:2]])
        return said, found


class _Elsewhere(torch.autograd.Function):
    """A tensor that was computed from others in the contained process."""

    @staticmethod
    def forward(ctx: Any, remote: Remote, number: int, value: Tensor, *leaves: Tensor) -> Tensor:
        ctx.remote, ctx.number, ctx.shapes = remote, number, [leaf.shape for leaf in leaves]
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple:
        gradients = ctx.remote.back(ctx.number, outer)
        if any(g is not None and g.shape != shape for g, shape in zip(gradients, ctx.shapes, strict=True)):
            raise Wrong("its gradients have other shapes than its inputs")
        return None, None, None, *gradients


def _layer(layer: nn.Module) -> tuple[str, list, dict]:
    if isinstance(layer, nn.Linear):
        return "Linear", [layer.in_features, layer.out_features], {"bias": layer.bias is not None}
    return type(layer).__name__, [], {}


def _value(take: Callable[[], Any]) -> Any:
    """What a message holds. Raises Wrong where that is not what was asked for: anybody may have written it."""
    try:
        return take()
    except (wire.BadMessage, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise Wrong(f"what your code answers cannot be judged ({error})") from error


def _raised(name: str, text: str) -> Exception:
    """The error of the contained process, as one of ours."""
    kind = getattr(builtins, name, None)
    if name == "Missing":
        return NotImplementedError()
    if name in ("SyntaxError", "IndentationError", "TabError"):
        return Wrong(f"the cell with your answer is no Python: {text}")
    if name == "NameError":
        text += " (graded are only your answer, what it is made of, and imports)"
    if isinstance(kind, type) and issubclass(
        kind, ArithmeticError | LookupError | RuntimeError | TypeError | NameError
    ):
        return kind(text) if text else kind()
    if kind is ValueError:
        return ValueError(text)
    if name == "Wrong" or (isinstance(kind, type) and not issubclass(kind, Exception)):
        return Wrong(text if name == "Wrong" else f"your code left Python by {name}")
    return type(name if NAME.fullmatch(name) else "Error", (RuntimeError,), {})(text)
