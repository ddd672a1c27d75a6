"""A fit's state: on disk, written whole or not at all and refused where a setting has changed; and its best weights."""

from __future__ import annotations

import copy
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from labutil import processes
from labutil.device import random_states, restore_random_states
from labutil.paths import in_memory, lower_is_better, replace_file

if TYPE_CHECKING:
    import pandas as pd


class RunDirectory(Protocol):
    """What `fit` needs of a run: `labutil.runs.Run` has it, and anything else may."""

    dir: Path
    resume: bool

    def save_fit(self, name: str, settings: dict[str, Any]) -> None: ...

    def save_history(self, name: str, history: pd.DataFrame) -> None: ...


class ResumeError(RuntimeError):
    """A checkpoint exists, but was made with other settings."""


def save(path: Path, state: dict[str, Any], settings: dict[str, Any], modules: Sequence[nn.Module]) -> None:
    """Write a fit's state, its settings, the modules' weights and all random states, whole or not at all.

    Of several processes all call it, and the first writes, the random states of the others too.
    """
    random = processes.from_each(random_states())
    if processes.rank():
        return
    weights = [module.state_dict() for module in modules]
    whole = state | {"settings": settings, "random": random, "modules": weights}
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = in_memory(lambda file: torch.save(whole, file))
    replace_file(path, lambda temporary: temporary.write_bytes(saved), sync=True)


def usable(path: Path) -> bool:
    """Whether there is a checkpoint to continue from: not one that has lost a bit, which torch would take as it is."""
    if not path.exists():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises nearly every kind on damaged files
        damaged = str(error)
    if damaged:
        print(f"{path} is damaged ({damaged}): this fit begins anew")
    return not damaged


def load(path: Path, settings: dict[str, Any], modules: Sequence[nn.Module]) -> dict[str, Any]:
    """Put a checkpoint's weights into the modules, and the random states back; returns the state that `save` was given.

    Raises ResumeError, with the first setting that differs, when it was made with others than `settings`.
    """
    first = processes.rank() == 0  # the others may not see its disk
    state = processes.from_first(torch.load(path, map_location="cpu", weights_only=True) if first else {})
    made = state.pop("settings")
    for key, value in settings.items():
        if made.get(key) != value:
            what = "the step's code has changed" if key == "step" else f"{key} was {made.get(key)}, now {value}"
            raise ResumeError(f"{path}: cannot continue, {what}; use the old setting, or start anew (resume=False)")
    for module, weights in zip(modules, state.pop("modules"), strict=True):
        module.load_state_dict(weights)
    restore_random_states(state.pop("random")[processes.rank()])
    return state


def code_hash(function: Callable) -> str:
    """Short hash of a function's byte code and constants, to notice that a step was edited."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    constants = [c.co_code if hasattr(c, "co_code") else c for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:12]


def track_best(
    state: dict[str, Any], row: dict[str, float], monitor: str, modules: Sequence[nn.Module], *, keep: bool
) -> None:
    """Note in the state that this epoch is the best so far (with a copy of its weights: keep), or that it is not."""
    if monitor not in row:
        raise ValueError(f"monitor={monitor!r} is not among what validate returned: {', '.join(row)}")
    value, best = row[monitor], state["best"]
    if best is None or (value < best["value"] if lower_is_better(monitor) else value > best["value"]):
        weights = [copy.deepcopy(module.state_dict()) for module in modules] if keep else None
        state["best"], state["stale"] = {"value": value, "epoch": row["epoch"], "modules": weights}, 0
    else:
        state["stale"] += 1


def put_best_back(state: dict[str, Any], modules: Sequence[nn.Module]) -> None:
    """Give the modules the weights that `track_best` copied last."""
    for module, weights in zip(modules, state["best"].pop("modules"), strict=True):
        module.load_state_dict(weights)
