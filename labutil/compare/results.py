"""Finished runs, read from their directories, as methods that can be compared: same test images, same classes.

Runs that differ in nothing but `seed` are one method. Runs of other data sets, splits or classes are other boards.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from labutil import evaluation, paths, runs
from labutil.data import load_dataset
from labutil.paths import DataError, no_tags
from labutil.runs import locks
from labutil.runs.predict import load_model
from labutil.runs.record import image_passes

if TYPE_CHECKING:
    from torch import Tensor

KINDS = {"notebook": str, "params": dict, "metrics": dict}  # of what every run of this workbook has recorded
NO_METHOD = "no method to compare: it has no label and trained nothing"  # lessons 01 and 07, for example
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "normalize.mean", "normalize.std")


@dataclass(eq=False)
class Method:
    """Runs of one notebook with the same parameters but `seed`, one a seed, S in all: dirs, and records (run.json)."""

    name: str  # what its notebook calls it
    label: str  # the name and what tells it from others of that name on its board
    dirs: Sequence[Path]
    records: Sequence[dict[str, Any]]
    probabilities: np.ndarray  # of the test images, float32 (S, N, K)

    @property
    def params(self) -> dict[str, Any]:
        return self.records[0]["params"]

    @property
    def recipe(self) -> str:
        return self.records[0].get("recipe") or "quick"

    @cached_property
    def y_pred(self) -> np.ndarray:
        """Predicted classes (S, N), a row a run."""
        return self.probabilities.argmax(2)

    def metric(self, name: str) -> np.ndarray:
        """A metric of the records, (S,); NaN where a run has none."""
        return np.array([record["metrics"].get(name, np.nan) for record in self.records], float)


@dataclass(eq=False)
class Board:
    """The methods that were tested on the same images, of the same classes."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    y_true: np.ndarray  # int64 (N,)
    methods: list[Method]
    efforts: pd.DataFrame  # trials, image_passes and hours of all runs of a name, by `Method.name`
    groups: np.ndarray | None = None  # of each image (N,), where the data set has groups

    def find(self, *names: str) -> list[Method]:
        """Methods that have one of these names; all, when none is given."""
        return [m for m in self.methods if not names or m.name in names]


@dataclass
class Collection:
    """What a directory of runs holds."""

    root: Path
    boards: list[Board]
    left_out: list[tuple[Path, str]]  # directory and reason
    notes: list[str]  # what else a reader must know


def collect(root: Path | str | None = None, *others: Path) -> Collection:
    """Read every run below a directory (the project's runs, when None), and below others, and sort them into boards and
    methods. Of runs that agree in everything, the newest counts. What cannot be compared is left out, with a reason."""
    root = Path(root) if root else paths.runs_dir()
    known, left_out = [], []
    for place in (root, *others):
        records, unreadable = runs.read_records(place)
        left_out += [(d, "foreign or corrupt: run.json is not a run record") for d in unreadable]
        foreign = [d for d, r in records if not all(isinstance(r.get(n), kind) for n, kind in KINDS.items())]
        left_out += [(d, "foreign: its run.json is not of this workbook") for d in foreign]
        known += [(d, r) for d, r in records if d not in foreign]
    groups: dict[tuple, dict[str, dict[Any, tuple]]] = {}
    for directory, record in sorted(known, key=lambda found: str(found[1].get("started"))):
        try:
            y_true, probabilities, members = _predictions(directory, record)
        except DataError as error:
            left_out.append((directory, str(error)))
            continue
        by_seed = groups.setdefault((*_images(record), y_true.tobytes(), members), {}).setdefault(
            settings_key(record), {}
        )
        seed = str(record["params"].get("seed", 0)).zfill(9)
        if seed in by_seed:
            left_out.append((by_seed[seed][0], "a newer run has the same settings and seed"))
        by_seed[seed] = directory, record, probabilities
    boards = []
    for (fingerprint, classes, y_true, members), settings in groups.items():
        methods = []
        for by_seed in settings.values():
            dirs, records, probabilities = zip(*(by_seed[seed] for seed in sorted(by_seed)), strict=True)
            name = next((str(r["label"]) for r in records if r.get("label")), records[0]["notebook"])
            methods.append(Method(name, name, dirs, records, np.stack(probabilities)))
        methods.sort(key=lambda m: (m.records[0]["notebook"], str(m.records[0].get("started"))))
        _tell_apart(methods)
        name, truth = methods[0].records[0]["dataset"]["name"], np.frombuffer(y_true, np.int64).copy()
        efforts = _efforts([found for found in known if _images(found[1]) == (fingerprint, classes)])
        boards.append(Board(name, fingerprint, classes, truth, methods, efforts, members and np.array(members)))
    boards.sort(key=lambda b: (-len(b.methods), b.name, b.fingerprint))
    return Collection(root, boards, sorted(left_out), _notes(boards))


def _images(record: dict[str, Any]) -> tuple:
    """What tells which images and classes a run saw: fingerprint and names."""
    data = record.get("dataset") or {}
    fingerprint, classes = data.get("fingerprint"), data.get("classes")
    return fingerprint and str(fingerprint), tuple(map(str, classes)) if isinstance(classes, list) else ()


def _efforts(known: Sequence[tuple[Path, dict[str, Any]]]) -> pd.DataFrame:
    """What runs that have ended, well or not, took together, by their method's name."""
    rows = [
        (r.get("label") or r["notebook"], settings_key(r), image_passes(d, r), _seconds(r) / 3600)
        for d, r in known if r["status"] != "running"
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["name", "trials", "image_passes", "hours"])
    return table.groupby("name").agg({"trials": "nunique", "image_passes": "sum", "hours": "sum"})


def _seconds(record: dict[str, Any]) -> float:
    """What a run took, and would have taken more without features in the cache."""
    return (record.get("seconds") or 0) + (record.get("metrics") or {}).get("cached_seconds", 0)


def settings_key(record: dict[str, Any], *without: str) -> str:
    """What two runs must share to be averaged: notebook and parameters, but `seed`, those `without`, and the data set's
    name, whose fingerprint is compared."""
    params = {k: v for k, v in record["params"].items() if k not in {"seed", "dataset", *without}}
    return json.dumps([record["notebook"], params], sort_keys=True)


def count_parameters(path: Path) -> float:
    """Numbers in a .safetensors file, without statistics that were not learned; NaN where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if not name.endswith(_BUFFERS)]  # noqa: SIM118 (no mapping)
            return float(sum(np.prod(file.get_slice(name).get_shape(), dtype=np.int64) for name in names))
    except (OSError, SafetensorError):
        return float("nan")


def features(board: Board, method: Method, index: np.ndarray) -> Tensor:
    """Representations h = encoder(x), float32 (n, D), of the test images `index`, by the first run of a method. Raises
    DataError without a model, or when the images are no longer those that the runs saw."""
    model, _ = load_model(method.dirs[0])
    if not hasattr(model, "encoder"):
        raise DataError(f"the model of {method.label} has no encoder of its own")
    record, params = method.records[0], method.params
    size = (record.get("model") or {}).get("image_size") or record["dataset"].get("image_size")
    options = {name: params[name] for name in ("data_seed", "val_fraction", "groups") if name in params}
    options |= {"image_size": size if isinstance(size, int) else None, "classes": board.classes}  # some may be held out
    data = load_dataset(params["dataset"], **options)
    if data.fingerprint != board.fingerprint or len(data.test) != len(board.y_true):
        raise DataError(f"{params['dataset']} is no longer what the runs saw (fingerprint {board.fingerprint})")
    return evaluation.predict(model.encoder, data.test.images[index].contiguous()).flatten(1)


def _predictions(directory: Path, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """True labels int64 (N,), probabilities float32 (N, K), and groups (None: there are none). Raises DataError for a
    run that cannot be compared."""
    status, data = record["status"], record.get("dataset")
    if status in {"failed", "pruned", "diverged"}:
        error = directory / "error.txt"
        first = error.read_text("utf-8", "replace").splitlines()[:1] if error.is_file() else []
        raise DataError(": ".join([status, *first])[:168])
    if status != "complete":
        status = "cut off" if locks.deserted(directory) else status
        raise DataError(f"not complete but {status}: its command, given again, continues it")
    if not (record.get("label") or record.get("fits") or (directory / "model.safetensors").exists()):
        raise DataError(NO_METHOD)
    if not isinstance(data, dict) or not {"name", "fingerprint", "classes"} <= set(data):
        raise DataError("its record names no data set")
    try:
        with np.load(directory / "predictions.npz", allow_pickle=False) as file:
            index, y, p = file["index"], file["y_true"], file["probabilities"]
            members = tuple(map(str, file["groups"])) if "groups" in file else None
        accuracy = evaluation.accuracy(y, p)  # checks shapes, labels and sums
        if not np.array_equal(index, np.arange(len(y))):
            raise ValueError("index is not 0 to N - 1")
        if members is not None and len(members) != len(y):
            raise ValueError(f"{len(members)} groups for {len(y)} images")
        if p.shape[1] != len(data["classes"]):
            raise ValueError(f"{p.shape[1]} columns for {len(data['classes'])} classes")
    except FileNotFoundError:
        raise DataError("it has no predictions.npz") from None
    except Exception as error:  # NumPy and zipfile raise nearly every kind on damaged files
        raise DataError(f"corrupt predictions.npz ({' '.join(str(error).split())[:100]})") from error
    recorded = record["metrics"].get("test_accuracy")
    if not isinstance(recorded, int | float) or abs(recorded - accuracy) > 2 / len(y):
        raise DataError(f"predictions.npz has an accuracy of {accuracy:.4f}, run.json says {recorded}")
    return y.astype(np.int64), p.astype(np.float32), members


def _tell_apart(methods: Sequence[Method]) -> None:
    """Add to labels of methods of one name the recipe or the fewest settings that tell each from the others."""
    for name in {m.name for m in methods}:
        same = [m for m in methods if m.name == name]
        words = [m.recipe for m in same]
        if len(set(words)) < len(same):
            all_params = [m.params | {"notebook": m.records[0]["notebook"]} for m in same]  # a copy may have a name
            keys = dict.fromkeys(k for p in all_params for k in p if k not in {"seed", "dataset"})
            shown = pd.DataFrame({k: [show(k, p) for p in all_params] for k in keys}, index=range(len(same)))
            chosen, told = [], 1
            for key in sorted(shown, key=lambda k: (-shown[k].nunique(), k == "notebook")):
                apart = len(shown[[*chosen, key]].drop_duplicates())
                if apart > told:
                    chosen, told = [*chosen, key], apart
            alike = told < len(same)  # numbers that differ after their sixth digit
            words = [", ".join([*row, *[f"no. {i}"] * alike]) for i, row in enumerate(shown[chosen].to_numpy(), 1)]
        for method, text in zip(same, words, strict=True):
            method.label = no_tags(method.label + f" ({text})" * (len(same) > 1))


def show(key: str, params: dict[str, Any]) -> str:
    """A parameter as labels name it: "tau 0.1", "filters 16+32"."""
    if key not in params:
        return f"without {key}"
    value = params[key]
    if isinstance(value, bool) or value is None:
        value = str(value).lower()
    elif isinstance(value, list):
        value = "+".join(map(str, value))
    elif isinstance(value, float):
        value = f"{value:g}"
    return value if key == "encoder" else f"{key} {value}"


def _notes(boards: Sequence[Board]) -> list[str]:
    """What is on which board, when there are several, and why boards of one name are kept apart."""
    apart = "each has a table of its own, and nothing is averaged or compared across them"
    notes = [f"{len(boards)} sets of test images here: {apart}"] if len(boards) > 1 else []
    for board in boards:
        if board.groups is not None:
            count = len(np.unique(board.groups))
            rough = ", so few that they are too narrow" if count < 20 else ""
            notes.append(f"{board.name}: intervals are over {count} groups of test images, not over images{rough}")
    for a, b in itertools.combinations(boards, 2):
        reason = "other images or splits (data_seed, or the source changed)"
        if a.fingerprint == b.fingerprint:
            reason = "other classes" if a.classes != b.classes else "other true labels"
        if a.fingerprint == b.fingerprint or a.name == b.name:
            notes.append(f"{a.name} and {b.name} (fingerprints {a.fingerprint}, {b.fingerprint}) have {reason}")
    return notes
