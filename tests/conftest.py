"""Shared by all tests: nothing is read from or written to the project's own `data/` and `runs/`, no figure stays."""

import inspect
import os
import re
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


# Tests of what Windows has not (POSIX signals, links and modes of files) or torch has not there (several processes).
POSIX = re.compile(r"\bSIG[A-Z]+\d?\b|os\.kill|symlink_to|mkfifo|chmod|\bresource\b|/dev/|/bin/|torchrun")
POSIX_FILES = {f"test_{name}.py" for name in ("kills", "slurm", "processes", "ranks", "locks", "benchmarks")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform == "win32":
        for item in items:
            if item.path.name in POSIX_FILES or POSIX.search(inspect.getsource(item.function)):
                item.add_marker(pytest.mark.skip(reason="needs what Windows, or torch on Windows, has not"))
