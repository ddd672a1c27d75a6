"""`labutil sweep`: a plan carried out, or shown; progress, and what it came to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from labutil import paths, runs
from labutil.runs import execute
from labutil.runs.parameters import ParameterError
from labutil.sweeps import local, results
from labutil.sweeps.plan import Job, Plan, Study


def sweep(
    plan: Plan,
    *,
    workers: int | None = None,
    gpus_per_run: int = 1,
    storage: str | None = None,
    slurm: Sequence[str] = (),
) -> bool:
    """Carry out a plan, or what is left of it; say and keep what it came to. Returns whether every run ended well,
    those that are complete with the metric that settings are judged by.

    workers: runs at a time; None: one, or with SLURM, which has a queue, all of a grid. storage: a PostgreSQL that
    searches share. slurm: options of its jobs.
    """
    grids = {study.notebook: grid(plan, study) for study in plan.studies if not study.search}
    launcher, each = _means(plan, grids, workers, gpus_per_run, storage, slurm)
    paths.make_folder(plan.directory)
    file = plan.directory / "sweep.csv"
    written = file.read_bytes() if file.exists() else b""
    sources: list[Any] = []
    for study in plan.studies:
        if study.search:
            from labutil.sweeps.search import Search

            sources.append(Search(plan, study, len(each), storage))
        else:
            sources.append(local.Grid(grids[study.notebook]))
    results.save_plan(plan, ["labutil", *sys.argv[1:]])
    table, progress = results.Table(plan), _Progress(plan, grids, len(each))

    def jobs() -> list[Job]:
        return [job for source in sources for job in source.jobs()]

    def tell(job: Job) -> None:
        table.forget(job)
        progress.tell(job, table.row(job))
        table.write(jobs())

    before = {job.directory: table.row(job)["status"] for job in jobs()}
    progress.start(sum(status in local.ENDS for status in before.values()))
    try:
        with execute.sigterm_interrupts():
            local.drive(plan, sources, launcher, each, gpus_per_run, tell)
    except KeyboardInterrupt:
        if launcher.outlives:
            click.echo("the jobs stay in SLURM's queue (scancel takes them out); the same command finds them", err=True)
        raise
    finally:
        progress.close()
        for source in sources:
            source.close()
        for job in jobs():  # others may have been at work, too
            if before.get(job.directory) not in local.ENDS:
                table.forget(job)
        table.write(jobs(), now=True)
    frame = table.frame(jobs())
    changed = file.read_bytes() != written or not (plan.directory / "figures").exists()
    if changed and frame.value.notna().any():
        from labutil.sweeps import figures

        figures.draw(plan.directory, frame)
    results.tell(plan, frame, jobs())
    unjudged = (frame.status == "complete") & frame.value.isna()
    return not (unjudged | (frame.status == "failed")).any()


def _means(
    plan: Plan,
    grids: dict[Path, list[Job]],
    workers: int | None,
    gpus_per_run: int = 1,
    storage: str | None = None,
    slurm: Sequence[str] = (),
) -> tuple[local.Launcher, list[dict[str, str]]]:
    """What starts the runs, and an environment for each of those that go on at a time. Leaves nothing on the disk.
    Raises ParameterError for options that cannot be."""
    searched = any(study.search for study in plan.studies)
    if storage and not searched:
        raise ParameterError("--storage is where searches meet; a grid divides itself by the shared --out alone")
    if storage:
        from labutil.sweeps.search import check_url

        check_url(storage)
    if not slurm:
        return local.Processes(), local.environments(workers or 1, gpus_per_run)
    from labutil.sweeps.slurm import Array

    return Array(slurm, plan.directory / "slurm"), [{}] * (workers or sum(map(len, grids.values())) or 1)


def grid(plan: Plan, study: Study) -> list[Job]:
    """The runs of a study's settings, in order."""
    return [job for i, changed in enumerate(study.settings) for job in plan.jobs(study, i, changed)]


class _Progress:
    """A bar over runs where a person watches, else a line a run, both with the time that is left."""

    def __init__(self, plan: Plan, grids: dict[Path, list[Job]], workers: int) -> None:
        planned = sum(study.trials * len(study.seeds) for study in plan.studies if study.search)
        self.total, self.workers = planned + sum(map(len, grids.values())), workers
        self.done, self.seconds = 0, []

    def start(self, done: int) -> None:
        self.done = done
        self.bar = tqdm(
            total=self.total, initial=done, unit="run", dynamic_ncols=True, file=sys.stdout, leave=False,
            disable=not sys.stdout.isatty(),
        )  # fmt: skip

    def tell(self, job: Job, row: dict[str, Any]) -> None:
        self.done += 1
        self.seconds.append(row["seconds"] or 0.0)
        self.bar.update()
        left = (self.total - self.done) * sum(self.seconds) / len(self.seconds) / self.workers
        lacks = f", but {row['error'].split(';')[0]}" if row["status"] == "complete" else ""
        shown = f"{row['objective']} {row['value']:.4f}" if row["value"] is not None else row["status"] + lacks
        took = f"{row['seconds'] or 0:.1f} s"
        line = f"[{self.done}/{self.total}] {row['notebook']} {job.words()}: {shown} in {took}; {duration(left)} left"
        self.bar.set_postfix_str(shown) if not self.bar.disable else click.echo(line)

    def close(self) -> None:
        self.bar.close()


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def dry_run(plan: Plan, *, workers: int | None = None, **options: Any) -> None:
    """Print the runs that a plan would make, those that exist, and the time that the rest may take. Options as for
    `sweep`, which are refused here, too."""
    grids = {study.notebook: grid(plan, study) for study in plan.studies}
    _means(plan, grids, workers, **options)
    table, left, known, workers = results.Table(plan), 0.0, True, workers or 1
    for study in plan.studies:
        jobs, stem = grids[study.notebook], study.notebook.stem
        rows = [table.row(job) for job in jobs] or table.written(study)
        for job, row in zip(jobs, rows, strict=False):
            click.echo(f"{stem} {job.words()}: {row['status']}")
        for key, space in study.search.items():
            click.echo(f"{stem} searches {key} in {results.spell_space(space)}")
        planned = study.trials * len(study.seeds) if study.search else len(jobs)
        finished = sum(row["status"] in local.ENDS for row in rows)
        each, source = _estimate(study, jobs, rows)
        words = f"about {duration(each * (planned - finished))}, {source}" if each else source
        click.echo(f"{stem}: {planned} runs by {study.objective}, {finished} of them exist; time: {words}")
        left += each * (planned - finished)
        known = known and (each > 0 or planned == finished)
    if known and (len(plan.studies) > 1 or workers > 1):
        click.echo(f"in all about {duration(left / workers)} with {workers} at a time")
    click.echo(f"nothing was run; it would go to {plan.directory}")


def _estimate(study: Study, jobs: Sequence[Job], rows: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Seconds a run of a study, and where that is known from; 0 where nothing is known."""
    own = [row["seconds"] for row in rows if row["status"] == "complete"]
    if own:
        return sum(own) / len(own), "as the finished ones took"
    records = [record for _, record in runs.read_records(paths.runs_dir() / study.notebook.stem)[0]]
    records = [record for record in records if record["status"] == "complete" and record["seconds"]]
    # Of runs of the core, where there are any: the rest of a lesson takes its time, too.
    records = [record for record in records if record.get("core")] or records
    if not records:
        return 0.0, f"unknown, without a finished run of {study.notebook.stem} to judge by"
    # The largest: what a run takes before and after training counts least there.
    largest = max(records, key=lambda record: _passes(record["params"], record))
    planned = [_passes(params, largest) for params in ([job.params for job in jobs] or [study.base])]
    scale = sum(planned) / len(planned) / _passes(largest["params"], largest)
    source = f"from the largest of {len(records)} finished runs, scaled by image passes"
    return scale * largest["seconds"], source + ", so probably less" * (scale >= 3)


def _passes(params: dict[str, Any], record: dict[str, Any]) -> float:
    """Images that a run's main fit is to look at, with data like those of a finished run's record."""
    images = ((record.get("dataset") or {}).get("sizes") or {}).get("train") or 1
    return (params.get("epochs") or 1) * min(params.get("subset") or images, images)
