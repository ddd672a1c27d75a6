"""Sweeps that lessons show: those that come with the workbook, in `notebooks/sweeps/`, or the reader's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from labutil import paths

if TYPE_CHECKING:
    import pandas as pd

FOLDER = paths.project_root() / "notebooks" / "sweeps"
NAMES = ("label_efficiency", "hidden_laboratory", "fine_tuning", "labels_scarce", "methods", "equal_time")


def load(name: str) -> pd.DataFrame:
    """The complete runs of a sweep, a row each: `notebook`, what was varied, `seed`, metrics, `seconds`.

    name: one of `NAMES`. A sweep of that name that the reader has made (`labutil sweep ... --recipe NAME`, in
    `sweeps/NAME`) comes first, as far as it is complete; else the one that comes with the workbook. In `attrs` of the
    table: `command`, which made it; `source`, "yours" or "committed"; `minutes` of all runs together; `machine`, in
    words. Raises DataError where neither can be read.

    Example:
        table = lab.sweeps.load("methods")
        table.groupby("method").val_knn_accuracy.agg(["mean", "std"])
    """
    import pandas as pd

    paths.check_choice("sweep", name, NAMES)
    own = paths.sweeps_dir() / name
    try:
        table = pd.read_csv(own / "sweep.csv")
        command = yaml.safe_load((own / "sweep.yaml").read_bytes())["command"]
        if len(table) and (table.status == "complete").all():
            return _told(table, command=command, source="yours", machine="")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        pass  # there is none, or it was changed by hand
    file = FOLDER / f"{name}.csv"
    try:
        with file.open(encoding="utf-8") as lines:
            command, machine = (lines.readline().removeprefix("# ").strip() for _ in range(2))
            table = pd.read_csv(lines)
        return _told(table[table.status == "complete"], command=command, source="committed", machine=machine)
    except (OSError, ValueError, AttributeError) as error:
        paths.check_workbook()
        raise paths.DataError(f"{file} cannot be read ({error}): get it from the repository") from error


def _told(table: pd.DataFrame, **told: str) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    table.attrs = told | {"minutes": round(table.seconds.sum() / 60, 1)}
    return table


def keep(directory: Path, folder: Path | None = None) -> Path:
    """Write a finished sweep as NAME.csv: two lines on how it was made, then its rows.

    directory: the sweep's, named as the file is to be. folder: where; None: `notebooks/sweeps`. Raises DataError where
    a run is not complete.
    """
    import pandas as pd

    from labutil.runs.record import read_record

    table = pd.read_csv(directory / "sweep.csv")
    if (unhappy := table[table.status != "complete"]).size:
        raise paths.DataError(f"{directory}: {len(unhappy)} of {len(table)} runs are not complete")
    command = yaml.safe_load((directory / "sweep.yaml").read_bytes())["command"]
    command = re.sub(r" --out ('[^']*'|\S+)", "", command)  # a place on this machine
    environment = read_record(directory / table.path[0])["environment"]
    machine = "{device}, {processor}, {precision}, torch {torch}".format(**environment)
    table = table.drop(columns=["path", "error"], errors="ignore").round(5)
    folder = folder or FOLDER
    folder.mkdir(exist_ok=True)
    file = folder / f"{directory.name}.csv"
    paths.replace_file(file, lambda t: t.write_text(f"# {command}\n# {machine}\n{table.to_csv(index=False)}", "utf-8"))
    return file
