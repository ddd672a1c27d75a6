"""Shared by all tests: nothing is read from or written to the project's own `data/` and `runs/`, no figure stays."""

import os
import sys
from pathlib import Path

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("ACCELERATE_USE_CPU", "1")  # tests build tensors and models on the CPU, by hand


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh data and runs folders; returns the folder of both. Processes that a test starts inherit them."""
    root = tmp_path_factory.mktemp("project")
    monkeypatch.setenv("LABUTIL_DATA", str(root / "data"))
    monkeypatch.setenv("LABUTIL_RUNS", str(root / "runs"))
    return root


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
