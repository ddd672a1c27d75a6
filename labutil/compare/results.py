"""Finished runs, read from their directories, as methods that can be compared: same test images, same classes.

Runs that differ in nothing but `seed` are one method. Runs of other data sets, splits or classes are other boards, and
nothing is averaged or compared across boards. What cannot be used is named, with its reason.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labutil import evaluation, paths, runs
from labutil.data import load_dataset
from labutil.paths import DataError
from labutil.runs.predict import load_model

if TYPE_CHECKING:
    from torch import Tensor

NO_METHOD = "no method to compare: it has no label and trained nothing"  # lessons 01 and 07, for example
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "normalize.mean", "normalize.std")


@dataclass(frozen=True, eq=False)
class Member:
    """One run: its directory, its record (run.json), and what it said of the test images, float32 (N, K)."""

    dir: Path
    record: dict[str, Any]
    y_true: np.ndarray
    probabilities: np.ndarray

    @property
    def seed(self) -> Any:
        return self.record["params"].get("seed", 0)


@dataclass(frozen=True, eq=False)
class Method:
    """Runs of one notebook with the same parameters but `seed`, one a seed.

    label: its name in tables and figures, unlike that of any other method of its board.
    """

    label: str
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        """What its notebook calls it, which other methods may share: the label without what tells them apart."""
        return _name(self.members)

    @property
    def notebook(self) -> str:
        return self.members[0].record["notebook"]

    @property
    def recipe(self) -> str:
        return self.members[0].record.get("recipe") or "quick"

    @property
    def params(self) -> dict[str, Any]:
        return self.members[0].record["params"]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of the test images, float32 (S, N, K), by run."""
        return np.stack([m.probabilities for m in self.members])

    @cached_property
    def y_pred(self) -> np.ndarray:
        """Predicted classes (S, N), a row a run."""
        return self.probabilities.argmax(2)

    def metric(self, name: str) -> np.ndarray:
        """A metric of the records, (S,); NaN where a run has none."""
        return np.array([m.record["metrics"].get(name, np.nan) for m in self.members], float)

    def parameters(self) -> float:
        """Numbers that were learned, in the saved models, on average; NaN without a model."""
        counts = [count_parameters(m.dir / "model.safetensors") for m in self.members]
        return float(np.mean(counts))


@dataclass(frozen=True, eq=False)
class Board:
    """The methods that were tested on the same images, y_true int64 (N,), of the same classes."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    y_true: np.ndarray
    methods: tuple[Method, ...]

    def find(self, *names: str) -> list[Method]:
        """Methods that have one of these names; all, when none is given.

        Example:
            board.find("SimCLR", "BYOL")
        """
        return [m for m in self.methods if not names or m.name in names]


@dataclass(frozen=True)
class Collection:
    """What a directory of runs holds. left_out: (directory, reason). notes: what else a reader must know."""

    root: Path
    boards: list[Board] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(root: Path | str | None = None) -> Collection:
    """Read every run below a directory (the project's runs, when None) and sort them into boards and methods.

    Of runs that agree in everything, the newest counts. Failed, running, foreign and corrupt runs are left out.

    Example:
        board = collect("runs").boards[0]
    """
    root = Path(root) if root else paths.runs_dir()
    records, unreadable = runs.read_records(root)
    left_out = [(d, "foreign or corrupt: run.json is not a run record") for d in unreadable]
    groups: dict[tuple, dict[str, list[Member]]] = {}
    for directory, record in records:
        member = _read(directory, record)
        if isinstance(member, str):
            left_out.append((directory, member))
            continue
        facts = record["dataset"]
        board = (facts["fingerprint"], tuple(facts["classes"]), member.y_true.tobytes())
        groups.setdefault(board, {}).setdefault(settings_key(record), []).append(member)
    boards = []
    for (fingerprint, classes, _), methods in groups.items():
        kept = []
        for members in methods.values():
            newest = {m.seed: m for m in sorted(members, key=lambda m: str(m.record.get("started")))}
            kept.append(tuple(sorted(newest.values(), key=lambda m: str(m.seed).zfill(9))))
            left_out += [(m.dir, "a newer run has the same settings and seed") for m in members if m not in kept[-1]]
        kept.sort(key=lambda members: (members[0].record["notebook"], str(members[0].record.get("started"))))
        labelled = tuple(Method(label, members) for label, members in zip(_labels(kept), kept, strict=True))
        first = kept[0][0]
        boards.append(Board(first.record["dataset"]["name"], fingerprint, classes, first.y_true, labelled))
    boards.sort(key=lambda b: (-len(b.methods), b.name, b.fingerprint))
    return Collection(root, boards, sorted(left_out), list(_notes(boards)))


def settings_key(record: dict[str, Any], *without: str) -> str:
    """What two runs must share to be averaged: the notebook and its parameters, but `seed` and those `without`.

    The data set is compared by its fingerprint, not by its name.
    """
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


def test_images(board: Board, method: Method | None = None) -> Tensor:
    """The board's test images, uint8 (N, C, H, W), of the size that a method (the first, when None) was given.

    Raises DataError when the data set can no longer be read, or is no longer the one that the runs saw.

    Example:
        images = test_images(board)
    """
    method = method or board.methods[0]
    record, params = method.members[0].record, method.params
    size = (record.get("model") or {}).get("image_size") or record["dataset"].get("image_size")
    options = {name: params[name] for name in ("data_seed", "val_fraction") if name in params}
    data = load_dataset(params["dataset"], image_size=size if isinstance(size, int) else None, **options)
    if data.fingerprint != board.fingerprint or len(data.test) != len(board.y_true):
        raise DataError(f"{params['dataset']} is no longer what the runs saw (fingerprint {board.fingerprint})")
    return data.test.images


def features(board: Board, method: Method, index: np.ndarray) -> Tensor:
    """Representations h = encoder(x), float32 (n, D), of some test images, by the first run of a method.

    Raises DataError for images or a model that cannot be had.

    Example:
        xy = evaluation.tsne(features(board, board.methods[0], stratified_sample(board.y_true, 300)))
    """
    model, _ = load_model(method.members[0].dir)
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise DataError(f"the model of {method.label} has no encoder of its own")
    return evaluation.predict(encoder, test_images(board, method)[index].contiguous()).flatten(1)


def _read(directory: Path, record: dict[str, Any]) -> Member | str:
    """A run that can be compared, or why not."""
    facts = {name: record.get(name) for name in ("params", "metrics")}
    if not isinstance(record.get("notebook"), str) or not all(isinstance(v, dict) for v in facts.values()):
        return "foreign: its run.json is not of this workbook"
    if record["status"] == "failed":
        return "failed" + _first_line(directory / "error.txt")
    if record["status"] != "complete":
        return f"not complete but {record['status']}: its command, given again, continues it"
    if not (record.get("label") or record.get("fits") or (directory / "model.safetensors").exists()):
        return NO_METHOD
    data = record.get("dataset")
    if not isinstance(data, dict) or not {"name", "fingerprint", "classes"} <= set(data):
        return "its record names no data set"
    try:
        with np.load(directory / "predictions.npz", allow_pickle=False) as file:
            index, y, p = file["index"], file["y_true"], file["probabilities"]
        metrics = evaluation.classification_metrics(y, p)  # checks shapes, labels and sums
    except FileNotFoundError:
        return "it has no predictions.npz"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return f"corrupt predictions.npz ({' '.join(str(error).split())[:100]})"
    if not np.array_equal(index, np.arange(len(y))):
        return "corrupt predictions.npz (index is not 0 to N - 1)"
    if p.shape[1] != len(data["classes"]):
        return f"corrupt predictions.npz ({p.shape[1]} columns for {len(data['classes'])} classes)"
    recorded = record["metrics"].get("test_accuracy")
    if not isinstance(recorded, int | float) or abs(recorded - metrics["accuracy"]) > 2 / len(y):
        return f"predictions.npz has an accuracy of {metrics['accuracy']:.4f}, run.json says {recorded}"
    return Member(directory, record, y.astype(np.int64), p.astype(np.float32))


def _first_line(path: Path) -> str:
    try:
        return f": {path.read_text(encoding='utf-8').splitlines()[0][:160]}"
    except (OSError, UnicodeDecodeError, IndexError):
        return ""


def _name(members: Sequence[Member]) -> str:
    """The label that a notebook gave its runs; of runs without one, the notebook's name."""
    return next((str(m.record["label"]) for m in members if m.record.get("label")), members[0].record["notebook"])


def _labels(groups: Sequence[tuple[Member, ...]]) -> list[str]:
    """A short name for each method: what it is and, of methods that would have the same name, what differs."""
    names = [_name(members) for members in groups]
    for name in set(names):
        same = [i for i, other in enumerate(names) if other == name]
        if len(same) > 1:
            for i, text in zip(same, _differences([groups[i][0].record for i in same]), strict=True):
                names[i] = f"{name} ({text})"
    return names


def _differences(records: Sequence[dict[str, Any]]) -> list[str]:
    """For each of several runs, the fewest settings that tell it from the others; its recipe, where that does."""
    recipes = [record.get("recipe") or "quick" for record in records]
    if len(set(recipes)) == len(recipes):
        return recipes
    keys = dict.fromkeys(k for r in records for k in r["params"] if k not in {"seed", "dataset"})
    values = {k: [_show(k, r["params"]) for r in records] for k in keys}
    differing = sorted(
        (k for k in keys if len(set(values[k])) > 1), key=lambda k: (k.startswith("study"), -len(set(values[k])))
    )
    chosen: list[str] = []
    for key in differing:
        before = len(set(zip(*(values[k] for k in chosen), strict=True))) if chosen else 1
        if len(set(zip(*(values[k] for k in [*chosen, key]), strict=True))) > before:
            chosen.append(key)
    return [", ".join(values[k][i] for k in chosen) or f"no. {i + 1}" for i in range(len(records))]


def _show(key: str, params: dict[str, Any]) -> str:
    if key not in params:
        return f"without {key}"
    value = params[key]
    if isinstance(value, bool) or value is None:
        return f"{key} {str(value).lower()}"
    if isinstance(value, list):
        value = "+".join(map(str, value))
    if key in {"encoder", "encoders"}:
        return str(value)
    return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"


def _notes(boards: Sequence[Board]) -> Iterator[str]:
    """What is on which board, when there are several, and why boards of one name are kept apart."""
    if len(boards) < 2:
        return
    yield (
        f"{len(boards)} sets of test images here: each has a table of its own, and nothing is averaged or compared "
        "across them"
    )
    for i, board in enumerate(boards):
        for other in boards[:i]:
            if board.name != other.name and board.fingerprint != other.fingerprint:
                continue
            reason = "other images or splits (data_seed, or the source changed)"
            if board.fingerprint == other.fingerprint:
                reason = "other classes" if board.classes != other.classes else "other true labels"
            yield f"{other.name} and {board.name} (fingerprints {other.fingerprint}, {board.fingerprint}) have {reason}"
