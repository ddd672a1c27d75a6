"""Runs that a comparison lacks: which lessons they are of, the command that makes them, and making them, small."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labutil import paths, runs
from labutil.compare.results import NO_METHODS, Board
from labutil.data import sources
from labutil.runs import parameters

RECIPE = "smoke"
SUBSET = 400  # training images, for lessons that take `subset`


def lessons(board: Board | None, wanted: Iterable[str] = ()) -> list[Path]:
    """Notebooks that are there, train something, and have no run on the board; of `wanted` numbers, or all.

    Example:
        missing.lessons(board, ["02", "05"])
    """
    wanted = list(wanted)
    present = {m.notebook for m in board.methods} if board else set()
    found = sorted((paths.project_root() / "notebooks").glob("[0-9]*.ipynb"))
    chosen = [p for p in found if not wanted or any(p.stem.startswith(w) for w in wanted)]
    return [p for p in chosen if p.stem not in present and p.stem not in NO_METHODS]


def command(notebook: Path, dataset: str, data_seed: int) -> str:
    """What to type for a run of its usual length."""
    text = f"labutil run {notebook.stem[:2]} -p dataset {dataset}"
    return text + (f" -p data_seed {data_seed}" if data_seed else "")


def small_params(notebook: Path, dataset: str, data_seed: int) -> dict[str, Any]:
    """The notebook's parameters at smoke size, on this data set, so that its run can stand beside the others."""
    recipe = parameters.read_recipe(notebook, RECIPE) or {}
    declared = parameters.read_parameters(notebook)
    settings = {"dataset": sources.resolve(dataset), "data_seed": data_seed}
    if "subset" in declared:
        settings["subset"] = SUBSET
    return parameters.merge(notebook, recipe, settings)


def make(notebook: Path, base: Path, dataset: str, data_seed: int) -> tuple[Path, float]:
    """Run a notebook at smoke size into a folder of its own below base, or find that run: (directory, seconds).

    Raises runs.RunError when it fails.
    """
    params = small_params(notebook, dataset, data_seed)
    directory, record, _ = runs.run_notebook(notebook, params, recipe=RECIPE, out=base / runs.FILL_IN)
    return directory, record["seconds"]
