"""Run directories: what a notebook leaves behind, in plain files, and how one is found, resumed, executed and read.

A run lives in `<runs>/<notebook>/<run id>/`. The id is a hash of the notebook's code, its merged parameters and a cheap
stamp of the data source, computed before a kernel starts: the same command finds its own run.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labutil import paths
from labutil.data import sources
from labutil.runs import parameters

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from filelock import BaseFileLock
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from labutil.images import Dataset

KERNEL_LOCK_SECONDS = 60  # a killed run's kernel notices within a second or two that its parent is gone
FILL_IN = "smoke"  # folder, beside the notebooks' own, of runs that notebook 07 makes because they are missing
_held: dict[Path, BaseFileLock] = {}


class RunError(RuntimeError):
    """A run that failed, or that another process is executing. trace: the notebook's traceback, if it has one."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


@dataclass
class Run:
    """An open run: metrics, figures, predictions and the model go through it into its directory.

    dir: the run's directory. record: what run.json holds. resume: whether `fit` continues from checkpoints.
    """

    dir: Path
    record: dict[str, Any]
    resume: bool = False

    def log(self, **metrics: float) -> None:
        """Record metrics by their names (test_accuracy, val_accuracy, train_seconds, ...); values must be finite."""
        for name, value in metrics.items():
            number = float(value)
            if not math.isfinite(number):
                raise ValueError(f"metric {name} is {number}; a record holds finite numbers only")
            self.record["metrics"][name] = int(number) if isinstance(value, int) else number
        self.save()

    def save(self) -> None:
        """Write run.json."""
        write_json(self.dir / "run.json", self.record)

    def save_fit(self, name: str, settings: dict[str, Any]) -> None:
        """Record what a `fit` was run with; notebook 07 makes a table of it."""
        self.record["fits"][name] = settings
        self.save()

    def save_history(self, name: str, history: pd.DataFrame) -> None:
        """Put a fit's history into history.csv: one row an epoch, the fit's name in the first column."""
        import pandas as pd

        path = self.dir / "history.csv"
        frames = [history.assign(fit=name)]
        if path.exists():
            old = pd.read_csv(path)
            frames.insert(0, old[old.fit != name])
        table = pd.concat([f for f in frames if len(f)])
        table = table[["fit", *[c for c in table if c != "fit"]]]
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
        """Keep class probabilities (N, K) of a split, in its order, as <name>.npz (index, y_true, probabilities)."""
        import numpy as np

        y_true, probabilities = np.asarray(y_true, np.int64), np.asarray(probabilities, np.float32)
        index = np.arange(len(y_true))
        path = self.dir / f"{name}.npz"
        paths.replace_file(
            path, lambda t: np.savez_compressed(t, index=index, y_true=y_true, probabilities=probabilities)
        )

    def save_model(self, model: nn.Module, **build: Any) -> None:
        """Keep the weights as model.safetensors, and in the record what `models.rebuild` needs to use them again.

        build: encoder, channels, image_size, num_classes, ..., as `models.rebuild` lists them; without them
        `labutil predict` cannot use this run.

        Example:
            run.save_model(model, encoder="resnet8", channels=3, image_size=48, num_classes=8, head=None)
        """
        from safetensors.torch import save_file

        weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        paths.replace_file(self.dir / "model.safetensors", lambda temporary: save_file(weights, temporary))
        if build:
            self.record["model"] = build
            self.save()

    def finish(self) -> None:
        """Mark the run complete and print its metrics; the last code cell of a lesson."""
        self.record["status"] = "complete"
        self.record["seconds"] = _seconds_since(self.record["started"])
        self.save()
        if not self.resume:
            # Under `labutil run` the checkpoints stay until the last cell has run.
            shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        print(format_metrics(self.record["metrics"]))


def open_run(notebook: str, namespace: dict[str, Any], data: Dataset | None = None, *, label: str | None = None) -> Run:
    """Open the run that this notebook writes to, seed everything, and say on what it runs.

    notebook: its name, as "02_supervised_baseline". namespace: `globals()`, from which the parameters are taken.
    data: the data set, for the record. label: what tables call this run's method. Under `labutil run` the directory
    is the one that the command prepared; by hand it is `<runs>/<notebook>/hand-<id>`, begun afresh.
    Raises RunError when another kernel has it open.

    Example:
        run = open_run("02_supervised_baseline", globals(), data)
    """

    from labutil import device

    prepared = os.environ.get("LABUTIL_RUN_DIR")
    record = read_record(Path(prepared)) if prepared else None
    if record is None:
        path = paths.project_root() / "notebooks" / f"{notebook}.ipynb"
        params = {name: namespace[name] for name in parameters.read_parameters(path)}
        record = new_record(notebook, None, params)
        directory = paths.runs_dir() / notebook / f"hand-{run_id(path, params)}"
        directory.mkdir(parents=True, exist_ok=True)
    else:
        directory = Path(prepared)
    if directory not in _held:
        # Held until the process ends. The kernel of a killed `labutil run` may still be writing for a moment.
        _held[directory] = _acquire(directory / ".kernel.lock", KERNEL_LOCK_SECONDS if prepared else 0)
    device.seed_everything(record["params"].get("seed", 0))
    record["environment"] = device.describe() | {"commit": _commit()}
    record["label"] = label
    if data is not None:
        record["dataset"] = {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "sizes": {split: len(getattr(data, split)) for split in ("train", "val", "test")},
            "classes": list(data.classes),
            "image_size": data.image_size,
        }
    run = Run(directory, record, resume=bool(prepared))
    run.save()
    environment = record["environment"]
    print(f"device: {environment['device']}; precision: {environment['precision']}; torch {environment['torch']}")
    print(f"run: {show_path(directory)}")
    return run


def new_record(notebook: str, recipe: str | None, params: dict[str, Any]) -> dict[str, Any]:
    """run.json of a run that begins now."""
    return {
        "notebook": notebook,
        "label": None,
        "recipe": recipe,
        "status": "running",
        "params": params,
        "dataset": None,
        "metrics": {},
        "fits": {},
        "environment": {},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
    }


def read_record(directory: Path) -> dict[str, Any] | None:
    """run.json of a directory, None where there is none that can be read."""
    try:
        record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) and "status" in record else None


def read_records(root: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[Path]]:
    """Every run below a directory, (its directory, run.json), by path; and directories whose run.json is none."""
    found = [(file.parent, read_record(file.parent)) for file in sorted(root.glob("**/run.json"))]
    return [(d, r) for d, r in found if r is not None], [d for d, r in found if r is None]


def run_id(notebook: Path, params: dict[str, Any], out: Path | None = None) -> str:
    """Ten hex digits for a notebook's code, its merged parameters, its data source and the files that it names.

    Of a notebook that reads runs (parameter `runs`; None: those beside its own, in `out`) also for what is there.
    """
    stamp = sources.stamp(params["dataset"]) if "dataset" in params else ""
    if "runs" in params:
        stamp += _runs_stamp(Path(params["runs"] or out or paths.runs_dir()), notebook.stem)
    parts = [parameters.code_cells(notebook), params, stamp]
    files = [Path(v) for k, v in params.items() if k != "dataset" and isinstance(v, str) and Path(v).is_file()]
    if files:
        parts.append([(file.stat().st_size, file.stat().st_mtime_ns) for file in files])
    identity = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:10]


def _runs_stamp(root: Path, reader: str) -> str:
    """Changes when a run below root is added or finishes, other than the reader's own and those it makes itself."""
    found = []
    for file in sorted(root.glob("**/run.json")):
        if not {reader, FILL_IN} & set(file.relative_to(root).parts):
            status = file.stat()
            found.append((str(file.relative_to(root)), status.st_size, status.st_mtime_ns))
    return json.dumps(found)


def load_runs(path: Path | str | None = None) -> pd.DataFrame:
    """Every run below a directory as a table, one row a run, oldest first.

    Columns: path, notebook, recipe, status, started, seconds, metrics by their names, parameters as `params.<name>`,
    and `dataset.<name>`. A run.json that cannot be read is named and left out.
    """
    import pandas as pd

    records, unreadable = read_records(Path(path) if path else paths.runs_dir())
    for directory in unreadable:
        print(f"left out: {directory / 'run.json'} is not a run record")
    rows = []
    for directory, record in records:
        row = {"path": str(directory)}
        row |= {k: record.get(k) for k in ("notebook", "recipe", "status", "started", "seconds")}
        row |= record.get("metrics") or {}
        row |= {f"params.{k}": v for k, v in (record.get("params") or {}).items()}
        row |= {f"dataset.{k}": v for k, v in (record.get("dataset") or {}).items()}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.sort_values("started", ignore_index=True) if rows else table


def format_metrics(metrics: dict[str, float]) -> str:
    """Metrics as aligned lines, for a terminal."""
    width = max((len(name) for name in metrics), default=0)
    return "\n".join(
        f"  {name:<{width}}  {value:.4f}" if isinstance(value, float) else f"  {name:<{width}}  {value}"
        for name, value in metrics.items()
    )


def show_path(path: Path) -> str:
    """A path for people: relative to the project where it lies inside."""
    try:
        return str(path.resolve().relative_to(paths.project_root()))
    except ValueError:
        return str(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never half of one."""
    text = json.dumps(value, indent=1, allow_nan=False)
    paths.replace_file(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def _acquire(path: Path, timeout: float) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise RunError(f"{show_path(path.parent)} is being run by another process; wait for it, or stop it") from None
    return lock


def _seconds_since(started: str) -> float:
    return round((datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(started)).total_seconds(), 3)


def _commit() -> str | None:
    """The project's git commit, with '+' when files differ from it; None outside a checkout."""
    git = ["git", "-C", str(paths.project_root())]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout else "")
