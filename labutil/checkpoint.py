"""A fit's state on disk: written whole or not at all, and refused where a setting has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn


class ResumeError(RuntimeError):
    """A checkpoint exists, but was made with other settings."""


def _code_hash(function: Callable) -> str:
    """Short hash of a function's byte code and constants, to notice that a step was edited."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function).__name__
    constants = [c.co_code if hasattr(c, "co_code") else c for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:12]


def _save(path: Path, checkpoint: dict, modules: Sequence[nn.Module]) -> None:
    """Write the checkpoint beside its place, then move it there: at any moment a whole one lies at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(checkpoint | {"modules": [module.state_dict() for module in modules]}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _load(path: Path, settings: dict, modules: Sequence[nn.Module]) -> dict:
    """Put a checkpoint's weights into the modules and return the rest of it."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    made = checkpoint.pop("settings")
    for key, value in settings.items():
        if made.get(key) != value:
            what = "the step's code has changed" if key == "step" else f"{key} was {made.get(key)}, now {value}"
            raise ResumeError(f"{path}: cannot continue, {what}; use the old setting, or start anew (resume=False)")
    for module, weights in zip(modules, checkpoint.pop("modules"), strict=True):
        module.load_state_dict(weights)
    return checkpoint
