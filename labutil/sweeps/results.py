"""What a sweep came to: sweep.csv, a row a run; sweep.yaml, the plan; and the best setting."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from labutil import paths
from labutil.runs import locks
from labutil.runs.parameters import NOTEBOOKS
from labutil.runs.record import image_passes
from labutil.sweeps.plan import Job, Plan, Range, Study, lacking, spell

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 10  # settings in the printed table
STATUSES = ("complete", "pruned", "diverged", "failed", "running", "missing")


class Table:
    """The rows of a sweep's runs. What has ended is read once; the file is written seldom enough to cost nothing."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self._ended, self._next = plan, {}, 0.0

    def row(self, job: Job) -> dict[str, Any]:
        """A run's row, in the order of sweep.csv's columns."""
        if job.directory not in self._ended:
            row = _row(self.plan, job)
            if row["status"] in {"running", "missing"}:
                return row
            self._ended[job.directory] = row
        return self._ended[job.directory] | {"setting": job.setting}  # that of the job which was asked after

    def forget(self, job: Job) -> None:
        """Read a run anew: it has been tried again."""
        self._ended.pop(job.directory, None)

    def write(self, jobs: Sequence[Job], now: bool = False) -> None:
        """Write sweep.csv, unless that was done a short while ago (now: in any case)."""
        begun = time.monotonic()
        if not now and begun < self._next:
            return
        table = self.frame(jobs)
        paths.replace_file(self.plan.directory / "sweep.csv", lambda t: table.to_csv(t, index=False))
        self._next = time.monotonic() + 10 + 50 * (time.monotonic() - begun)

    def _old(self) -> pd.DataFrame:
        import pandas as pd

        file, none = self.plan.directory / "sweep.csv", pd.DataFrame({"notebook": []})
        try:
            table = pd.read_csv(file) if file.exists() else none
        except ValueError:  # a spreadsheet, or somebody, has saved it: the runs tell it all again
            return none
        return table if {"notebook", "setting", "seed"} <= set(table) else none

    def written(self, study: Study) -> list[dict[str, Any]]:
        """A study's rows as they were written last."""
        old = self._old()
        return old[old.notebook == study.notebook.stem].to_dict("records")

    def frame(self, jobs: Sequence[Job]) -> pd.DataFrame:
        """The table: of these runs, and of other notebooks that were swept under the same name."""
        import pandas as pd

        table = pd.DataFrame([self.row(job) for job in jobs])
        others = self._old()
        others = others[~others.notebook.isin([study.notebook.stem for study in self.plan.studies])]
        if len(others):
            table = pd.concat([others, table], ignore_index=True)
        first = ["notebook", "setting"]
        between = list(others.loc[:, "setting":"seed"])[1:-1] if len(others) else []
        swept = dict.fromkeys([*between, *(key for study in self.plan.studies for key in study.swept())])
        middle, last = (
            ["seed", "status", "objective", "value"],
            ["epochs_run", "image_passes", "seconds", "path", "error"],
        )
        metrics = [name for name in table if name not in {*first, *swept, *middle, *last}]
        return table[[*first, *swept, *middle, *metrics, *last]]


def _row(plan: Plan, job: Job) -> dict[str, Any]:
    record = job.record() or {"status": "missing", "metrics": {}, "fits": {}, "seconds": None, **(job.told or {})}
    status, error = record["status"], ""
    if status == "running" and locks.holder(job.directory) is None:
        status, error = "failed", "cut off: its process ended without a word, for want of memory or killed"
    if status in {"failed", "diverged"}:
        error = _first_line(job.directory / "error.txt") or error
    if status == "missing" and (job.directory / "log.txt").exists() and locks.holder(job.directory) is None:
        status, error = "failed", _first_line(job.directory / "log.txt", last=True) or "it did not start"
    fits = [fit for fit in record["fits"].values() if "epochs_run" in fit]
    objective, metrics = job.study.objective, record["metrics"]
    value = metrics.get(objective, record.get("value")) if status == "complete" else None
    if status == "complete" and value is None:
        error = f"it {lacking(objective, metrics)}"
    values = {key: value if type(value) in {int, float} else spell(value) for key, value in job.changed.items()}
    return {
        "notebook": job.study.notebook.stem,
        "setting": job.setting,
        **values,
        "seed": job.params.get("seed"),
        "status": status,
        "objective": objective,
        "value": value,
        **{name: value for name, value in metrics.items() if name not in values},
        "epochs_run": fits[0]["epochs_run"] if fits else None,
        "image_passes": image_passes(job.directory, record) or None,
        "seconds": record["seconds"],
        "path": str(job.directory.relative_to(plan.directory.resolve())),
        "error": error,
    }


def _first_line(file: Path, last: bool = False) -> str:
    lines = file.read_text("utf-8", "replace").split("\n") if file.exists() else []
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1 if last else 0] if lines else ""


def save_plan(plan: Plan, command: Sequence[str]) -> None:
    """Write sweep.yaml: the plan as merged, of each notebook that was swept under this name, and the command."""
    file = plan.directory / "sweep.yaml"
    try:
        old = (yaml.safe_load(file.read_bytes()) or {}) if file.exists() else {}
    except yaml.YAMLError:  # somebody has changed it: what this command asks is written anew
        old = {}
    words = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", shlex.join(command))  # no password in a file
    new = {"command": words, "search": old.get("search", {}), "notebooks": old.get("notebooks", {})}
    for study in plan.studies:
        space = {key: spell_space(value) for key, value in study.search.items()}
        new["search"].pop(study.notebook.stem, None)  # under this name something else may have been asked before
        new["search"] |= {study.notebook.stem: space} if space else {}
        new["notebooks"][study.notebook.stem] = {
            "objective": study.objective, "seeds": study.seeds, "trials": study.trials if space else None,
            "settings": study.settings, "search": space, "parameters": study.base,
        }  # fmt: skip
    text = yaml.safe_dump(new, sort_keys=False, allow_unicode=True, width=120)
    paths.replace_file(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def spell_space(space: Range | dict[str, Any]) -> str | list[str]:
    return f"{space.low}:{space.high}{':log' * space.log}" if isinstance(space, Range) else list(space)


def ranked(rows: pd.DataFrame, objective: str) -> pd.DataFrame:
    """A notebook's settings by their mean over seeds, the best first: columns mean, std, runs. Those of which a run has
    no value are none."""
    found = rows.groupby("setting").value.agg(["mean", "std", "count", "size"])
    found = found[found["count"] == found["size"]].drop(columns="size").rename(columns={"count": "runs"})
    return found.sort_values("mean", ascending=paths.lower_is_better(objective), kind="stable")


def tell(plan: Plan, table: pd.DataFrame, jobs: Sequence[Job]) -> None:
    """Print the best settings of each notebook, the command that runs the best one whole, and what did not end well."""
    for study in plan.studies:
        stem = study.notebook.stem
        found = ranked(table[table.notebook == stem], study.objective)
        found = found[found.runs == len(study.seeds)]
        if not len(found):
            click.echo(f"{stem}: no setting has all of its runs with a {study.objective}")
            continue
        own = {job.setting: job for job in reversed(jobs) if job.study is study}
        shown = found[:SHOWN].reset_index()
        for key in reversed(study.swept()):
            shown.insert(1, key, [spell(own[setting].changed[key]) for setting in shown.setting])
        shown = shown.drop(columns=[] if len(study.seeds) > 1 else ["std", "runs"])
        more = f", the best {SHOWN} of {len(found)} settings" if len(found) > SHOWN else ""
        click.echo(f"{stem}, {study.objective}{more}:")
        click.echo(shown.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
        best = own[found.index[0]]
        name = stem if study.notebook.parent == NOTEBOOKS else str(study.notebook)
        click.echo(f"the best, whole: labutil run {shlex.join([name, *best.options()])}")
    unhappy = table[table.error.fillna("") != ""]
    for row in unhappy[:SHOWN].itertuples():
        click.echo(f"{row.status}: {row.path}: {row.error}", err=True)
    counts = table.status.value_counts()
    words = ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)
    click.echo(f"{len(table)} runs: {words}; {plan.directory}")
