"""Run directories: what a notebook leaves behind, in plain files, and how one is found and read.

A run lives in `<runs>/<notebook>/<run id>/`; the id is computed before a kernel starts, so a command finds its own run.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from labutil import encoders, paths
from labutil.data import sources
from labutil.runs import locks, parameters

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from labutil.images import Dataset

# What a run that names its method promises: tables and `labutil predict` need it.
PROMISED = ("test_accuracy", "predictions.npz", "model.safetensors")
KERNEL_LOCK_SECONDS = 60  # a killed run's kernel notices within a second or two that its parent is gone
_held: dict[Path, FileLock] = {}


class RunError(RuntimeError):
    """A run that failed (a note holds the notebook's traceback; diverged: a loss was not finite), or that another
    process is executing."""

    diverged = False


@dataclass
class Run:
    """An open run: metrics, figures, predictions and the model go through it into its directory."""

    dir: Path
    record: dict[str, Any]  # what run.json holds
    resume: bool = False  # whether `fit` continues from checkpoints
    groups: Sequence[str] | None = None  # of the test images, where the data set has groups

    def log(self, **metrics: float) -> None:
        """Record metrics by their names (test_accuracy, val_accuracy, train_seconds, ...); values must be finite."""
        for name, value in metrics.items():
            number = float(value)
            if not math.isfinite(number):
                raise ValueError(f"metric {name} is {number}; a record holds finite numbers only")
            self.record["metrics"][name] = int(number) if isinstance(value, int) else number
        self.save()

    def promise(self, *names: str) -> None:
        """Name metrics, and files of the directory, without which this run is not complete."""
        self.record["promised"] = list(dict.fromkeys([*self.record["promised"], *names]))
        self.save()

    def skip(self, names: str | Sequence[str], reason: str) -> None:
        """Say why something that was promised is not there: its name, or several."""
        self.record["skipped"] |= dict.fromkeys([names] if isinstance(names, str) else names, reason)
        self.save()

    def save(self) -> None:
        """Write run.json."""
        write_json(self.dir / "run.json", self.record)

    def save_fit(self, name: str, settings: dict[str, Any]) -> None:
        """Record what a `fit` was run with: a comparison makes a table of it. What is known already is not written."""
        if self.record["fits"].get(name) != settings:
            self.record["fits"][name] = settings
            self.save()

    def save_history(self, name: str, history: pd.DataFrame) -> None:
        """Put a fit's history into history.csv: one row an epoch, the fit's name in the first column."""
        import pandas as pd

        path, table, old = self.dir / "history.csv", history.assign(fit=name), read_history(self.dir)
        table = pd.concat([frame for frame in (old[old.fit != name], table) if len(frame)])
        table.insert(0, "fit", table.pop("fit"))
        paths.replace_file(path, lambda temporary: table.to_csv(temporary, index=False))

    def save_figure(self, figure: Figure | None, name: str) -> None:
        """Keep a figure as figures/<name>.png (None: nothing); the notebook shows it as usual."""
        if figure is None:
            return
        path = self.dir / "figures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        paths.replace_file(path, lambda temporary: figure.savefig(temporary, dpi=110, bbox_inches="tight"))

    def save_predictions(
        self, y_true: np.ndarray | Tensor, probabilities: np.ndarray | Tensor, name: str = "predictions"
    ) -> None:
        """Keep class probabilities (N, K) of a split, in its order, as <name>.npz (index, y_true, probabilities; of
        "predictions", which are of the test images, also their groups, where there are some). Raises ValueError for
        those of no image, or of others than y_true has."""
        import numpy as np

        if not 0 < len(y_true) == len(probabilities):
            raise ValueError(f"{name}: probabilities of {len(probabilities)} images, labels of {len(y_true)}")
        columns = {"index": np.arange(len(y_true)), "y_true": np.asarray(y_true, np.int64)}
        columns["probabilities"] = np.asarray(probabilities, np.float32)
        if self.groups is not None and name == "predictions":
            columns["groups"] = np.asarray(self.groups, str)
        paths.replace_file(self.dir / f"{name}.npz", lambda temporary: np.savez_compressed(temporary, **columns))

    def save_model(self, model: nn.Module) -> None:
        """Keep a model as model.safetensors, and in the record how it was built, where that is known."""
        from labutil import models

        if settings := models.save(model, self.dir / "model.safetensors"):
            self.record["model"] = settings
            self.save()

    def finish(self) -> None:
        """Mark the run complete and print its metrics; the last code cell of a lesson.

        Raises RunError for one that lacks what it promised, and has not said why (`skip`).
        """
        seconds = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(self.record["started"])
        self.record |= {"seconds": round(seconds.total_seconds(), 3)}
        if lacks := missing(self.dir, self.record):
            self.record |= {"status": "failed", "missing": lacks}
            self.save()
            advice = "log or save it, or say why it is not there by run.skip(name, reason)"
            raise RunError(f"the run promised {', '.join(lacks)}, and has not: {advice}")
        self.record.pop("missing", None)
        # Under `labutil run` it is the command that says so, and checkpoints stay until it has kept the notebook.
        self.record |= {"finished": True} if self.resume else {"status": "complete"}
        self.save()
        if not self.resume:
            shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        print(format_metrics(self.record["metrics"]))


def open_run(notebook: str, namespace: dict[str, Any], data: Dataset | None = None, *, label: str | None = None) -> Run:
    """Open the run that this notebook writes to, seed everything, and say on what it runs.

    namespace: `globals()`, from which the parameters are taken. data: for the record. label: what tables call this
    run's method; a run that has one promises `PROMISED`. Under `labutil run` the directory is the one that the command
    prepared; by hand it is `<runs>/<notebook>/hand-<id>`, begun afresh. Raises RunError when another kernel has it
    open.

    Example:
        run = open_run("02_supervised_baseline", globals(), data)
    """
    from labutil import device

    if prepared := os.environ.get("LABUTIL_RUN_DIR"):
        directory = Path(prepared)
        if (record := read_record(directory)) is None:
            raise RunError(f"{show_path(directory)} holds no run.json: unset LABUTIL_RUN_DIR, which names it")
    else:
        path = parameters.NOTEBOOKS / f"{notebook}.ipynb"
        params = parameters.merge(path, {name: namespace[name] for name in parameters.read_parameters(path)})
        record = new_record(notebook, None, params)
        directory = paths.runs_dir() / notebook / f"hand-{run_id(path, params)}"
        directory.mkdir(parents=True, exist_ok=True)
    if directory not in _held:
        # Held until the process ends. The kernel of a killed `labutil run` may still be writing for a moment.
        lock = FileLock(directory / ".kernel.lock")
        try:
            lock.acquire(timeout=KERNEL_LOCK_SECONDS if prepared else 0)
        except Timeout:
            raise RunError(f"{show_path(directory)} is being run by another process; wait for it, or stop it") from None
        _held[directory] = lock
    device.seed_everything(record["params"].get("seed", 0))
    record["environment"] = device.describe() | {"commit": _commit()}
    record["label"] = label
    record["promised"] = list(PROMISED) if label else []
    if data is not None:
        record["dataset"] = {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "sizes": {split: len(getattr(data, split)) for split in ("train", "val", "test")},
            "classes": list(data.classes),
            "image_size": data.image_size,
        }
    run = Run(directory, record, resume=bool(prepared), groups=data.test.groups if data is not None else None)
    run.save()
    print("device: {device}; precision: {precision}; torch {torch}".format(**record["environment"]))
    print(f"run: {show_path(directory)}")
    if run.groups is not None:
        whole = f"{len(run.groups)} test images are of {len(set(run.groups))} groups"
        print(f"note: {whole}; an interval over images is too narrow, labutil compare draws whole groups")
    return run


def new_record(notebook: str, recipe: str | None, params: dict[str, Any], core: bool = False) -> dict[str, Any]:
    """run.json of a run that begins now."""
    return {
        "notebook": notebook,
        "label": None,
        "recipe": recipe,
        "core": core,
        "status": "running",
        "params": params,
        "dataset": None,
        "metrics": {},
        "fits": {},
        "promised": [],
        "skipped": {},
        "environment": {},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
    }


def missing(directory: Path, record: dict[str, Any]) -> list[str]:
    """What a run promised (`Run.promise`), and neither has nor has said why."""
    known = {*(record.get("metrics") or ()), *(record.get("skipped") or ())}
    return [name for name in record.get("promised") or () if name not in known and not (directory / name).is_file()]


def read_record(directory: Path) -> dict[str, Any] | None:
    """run.json of a directory, None where there is none that can be read."""
    record = paths.read_json(directory / "run.json")
    if record is None or not isinstance(record.get("status"), str):
        return None
    groups = (record.get(name) or {} for name in ("params", "metrics", "dataset", "fits", "skipped"))
    promised = record.get("promised") or []
    names = isinstance(promised, list) and all(isinstance(name, str) for name in promised)
    return record if names and all(isinstance(group, dict) for group in groups) else None


def read_records(root: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[Path]]:
    """Every run below a directory, (its directory, run.json), by path; and directories whose run.json is none."""
    found = [(file.parent, read_record(file.parent)) for file in sorted(root.glob("**/run.json"))]
    return [(d, r) for d, r in found if r is not None], [d for d, r in found if r is None]


def read_history(directory: Path) -> pd.DataFrame:
    """history.csv of a directory; no rows where there is none that can be read."""
    import pandas as pd

    try:
        table = pd.read_csv(directory / "history.csv")
    except (OSError, ValueError):
        table = pd.DataFrame()
    return table if {"fit", "epoch"} <= set(table) else pd.DataFrame(columns=["fit", "epoch"])


def image_passes(directory: Path, record: dict[str, Any]) -> int:
    """Images times epochs, over all fits of a run; of a fit that did not end, the epochs that history.csv has."""
    fits = {k: v for k, v in (record.get("fits") or {}).items() if isinstance(v, dict) and v.get("images")}
    epochs = {name: fit["epochs_run"] for name, fit in fits.items() if "epochs_run" in fit}
    if len(epochs) < len(fits):
        epochs = read_history(directory).fit.value_counts().to_dict() | epochs
    return sum(fit["images"] * epochs.get(name, 0) for name, fit in fits.items())


def run_id(
    notebook: Path,
    params: dict[str, Any],
    out: Path | None = None,
    core: bool = False,
    stamp: Callable[[str], str] = sources.stamp,
) -> str:
    """Ten hex digits for a notebook's code, its merged parameters, its data source and the files that it names.

    core: only the code that `labutil run --core` executes counts. stamp: of a data source; who asks for many ids may
    give one that remembers.

    Of a notebook that reads runs (parameter `runs`; None: those in `out`) also for what others have left there, and in
    the sweeps beside them.
    """
    data = stamp(params["dataset"]) if "dataset" in params else ""
    if "runs" in params:
        root = Path(params["runs"] or out or paths.runs_dir())  # runs in the reader's own folder do not count
        files = [(place, f) for place in (root, root.parent / "sweeps") for f in sorted(place.glob("**/run.json"))]
        others = [(str(f.relative_to(p)), f) for p, f in files if notebook.stem not in f.relative_to(p).parts]
        data += json.dumps([(name, *_size_and_time(file)) for name, file in others])
    texts = [v for k, v in params.items() if k != "dataset" and isinstance(v, str)]
    files = [Path(v) for v in texts if Path(v).is_file()]
    files += filter(None, (encoders.find(params[key]) for key in encoders.PARAMETERS if params.get(key)))
    times = [list(map(_size_and_time, files))] if files else []
    identity = json.dumps([parameters.code_cells(notebook, core), params, data, *times], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:10]


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def load_runs(path: Path | str | None = None) -> pd.DataFrame:
    """Every run below a directory as a table, one row a run, oldest first. A run.json that cannot be read is named.

    Columns: path, notebook, label (what the run calls its method; "" where it names none), recipe, status ("failed" for
    one that was cut off, as by `kill -9`), started, seconds, metrics by their names, parameters as `params.<name>`, and
    `dataset.<name>`.
    """
    import pandas as pd

    records, unreadable = read_records(Path(path) if path else paths.runs_dir())
    for directory in unreadable:
        print(f"left out: {directory / 'run.json'} is not a run record")
    table = pd.DataFrame(
        {"path": str(directory)}
        | {name: record.get(name) for name in ("notebook", "label", "recipe", "status", "started", "seconds")}
        | {"label": record.get("label") or ""}
        | ({"status": "failed"} if record["status"] == "running" and locks.deserted(directory) else {})
        | (record.get("metrics") or {})
        | {f"{group}.{k}": v for group in ("params", "dataset") for k, v in (record.get(group) or {}).items()}
        for directory, record in records
    )
    return table.sort_values("started", ignore_index=True) if len(table) else table


def format_metrics(metrics: dict[str, float]) -> str:
    """Metrics as aligned lines, for a terminal."""
    width = max(map(len, metrics), default=0)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in metrics.items()}
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in shown.items())


def show_path(path: Path) -> str:
    """A path for people: relative to the project where it lies inside."""
    full, root = path.resolve(), paths.project_root()
    return str(full.relative_to(root) if full.is_relative_to(root) else path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; raises ValueError for NaN and infinity, which JSON has not."""
    text = json.dumps(value, indent=1, allow_nan=False)
    paths.replace_file(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def _commit() -> str | None:
    """The project's git commit, with '+' when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=paths.project_root(), capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
