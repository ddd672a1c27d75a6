"""Shared by all tests: nothing is read from or written to the project's own `data/` and `runs/`."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh data and runs folders; returns the folder of both. Processes that a test starts inherit them."""
    root = tmp_path_factory.mktemp("project")
    monkeypatch.setenv("LABUTIL_DATA", str(root / "data"))
    monkeypatch.setenv("LABUTIL_RUNS", str(root / "runs"))
    return root
