"""What a sweep runs: read from recipe and command line into settings or a search, all of it checked beforehand."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from labutil import paths
from labutil.data import sources
from labutil.paths import did_you_mean
from labutil.runs import execute, parameters, read_record
from labutil.runs.parameters import ParameterError

TRIALS = 20
KEYS = ("grid", "points", "search", "seeds", "resplit", "objective", "trials")
# Notebooks that train no method of their own, by the parameter that tells.
NO_METHOD = {"planted": "it looks for faults in data", "runs": "it reads what others have left"}
_stamp = functools.cache(sources.stamp)  # of a large folder it takes a while


class Range(NamedTuple):
    """Numbers that a search may try, both ends included."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Study:
    """What is asked of one notebook.

    plain: its parameters with the recipe alone; base: with what the command fixes, too. settings: values of the swept
    parameters, a dict each; none where `search` says what may be tried instead (a Range, or {as typed: value}).
    """

    notebook: Path
    recipe: str | None
    plain: dict[str, Any]
    base: dict[str, Any]
    settings: list[dict[str, Any]]
    search: dict[str, Range | dict[str, Any]]
    seeds: list[int]
    objective: str
    trials: int
    resplit: bool = False

    def swept(self) -> list[str]:
        return list(self.search or self.settings[0])


@dataclass(eq=False)
class Job:
    """One run: a setting with one seed. directory: where it lives, whether it has begun or not."""

    study: Study
    setting: int
    changed: dict[str, Any]
    params: dict[str, Any]
    directory: Path
    failed_before: str | None = None  # when it was tried last, if it had failed before this sweep began here
    told: dict[str, Any] | None = None  # status and value that a search knows, of a run in another folder

    def remember(self) -> None:
        """Note whether it has failed until now, so that it is tried again, once."""
        record = self.record()
        self.failed_before = record["started"] if record and record["status"] == "failed" else None

    def record(self) -> dict[str, Any] | None:
        """run.json, None when the run has not begun."""
        return read_record(self.directory)

    def words(self) -> str:
        """The setting for people, such as "lr=0.001 optimizer=adamw seed=0"."""
        seed = {"seed": self.params["seed"]} if "seed" in self.params else {}
        return " ".join(f"{key}={spell(value)}" for key, value in (self.changed | seed).items())

    def options(self) -> list[str]:
        """What `labutil run` needs to hear beside the notebook for this very run."""
        plain = self.study.plain
        recipe = ["--recipe", self.study.recipe] if self.study.recipe else []
        changed = [(k, v) for k, v in self.params.items() if (v, type(v)) != (plain[k], type(plain[k]))]
        return recipe + [word for key, value in changed for word in ("-p", key, spell(value))]


@dataclass(frozen=True)
class Plan:
    """A sweep. directory: holds runs/, sweep.csv and all else that it leaves."""

    name: str
    directory: Path
    studies: list[Study]

    @property
    def runs(self) -> Path:
        return self.directory / "runs"

    def jobs(self, study: Study, setting: int, changed: dict[str, Any]) -> Iterator[Job]:
        """The runs of a setting, one a seed."""
        for seed in study.seeds:
            drawn = {"data_seed": seed} if study.resplit else {}
            params = study.base | drawn | changed | ({"seed": seed} if "seed" in study.base else {})
            directory = execute.run_directory(study.notebook, params, self.runs, core=True, stamp=_stamp)
            yield Job(study, setting, changed, params, directory)


def read(
    notebooks: Sequence[Path],
    recipe: str | None = None,
    given: Iterable[tuple[str, str]] = (),
    searched: Iterable[tuple[str, str]] = (),
    *,
    seeds: str | None = None,
    objective: str | None = None,
    trials: int | None = None,
    name: str | None = None,
    out: Path | None = None,
) -> Plan:
    """A sweep as it was typed. given: names and values of -p; searched: of -s. Raises ParameterError, or DataError for
    a data set that there is not, before anything runs."""
    typed = {"seeds": seeds, "objective": objective, "trials": trials}
    typed = {key: value for key, value in typed.items() if value is not None}
    given, searched = tuple(given), tuple(searched)
    _check_doubles(given, searched)
    studies = [_study(notebook, recipe, dict(given), dict(searched), typed) for notebook in dict.fromkeys(notebooks)]
    if name is None and recipe and any(parameters.read_sweep(study.notebook, recipe) for study in studies):
        name = recipe
    if name is None:
        # What a grid is judged by changes none of its runs: asked for by another metric they are found again.
        parts = [[s.notebook.stem, s.base, s.settings, s.search, s.seeds, s.search and s.objective] for s in studies]
        name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    if not re.fullmatch(r"\w[\w.@+ -]{0,99}", name) or name[-1] in ". ":  # a name on every system, and no option
        raise ParameterError(f"--name {name!r}: it is to be a folder's name, of letters, digits and . _ - + @ alone")
    return Plan(name, (paths.absolute(out) if out else paths.sweeps_dir()) / name, studies)


def _check_doubles(given: Sequence[tuple[str, str]], searched: Sequence[tuple[str, str]]) -> None:
    options = [("-p", *pair) for pair in given] + [("-s", *pair) for pair in searched]
    first: dict[str, str] = {}
    for option, key, text in options:
        if key in first:
            raise ParameterError(
                f"{key} is given twice, as {first[key]} and {option} {text}: write all of its values behind one -p, as "
                "-p lr 0.001,0.003 or -p optimizer '[adamw,lion]'; or one -s"
            )
        first[key] = f"{option} {text}"


def _study(
    notebook: Path, recipe: str | None, given: dict[str, str], searched: dict[str, str], typed: dict[str, Any]
) -> Study:
    declared = parameters.read_parameters(notebook)
    for name, why in NO_METHOD.items():
        if name in declared:
            raise ParameterError(f"{notebook.stem} cannot be swept: {why} and trains no method, so none can be best")
    block = (parameters.read_sweep(notebook, recipe) if recipe else None) or {}
    for key in block:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS)
            raise ParameterError(f"recipe {recipe!r}: its sweep has no {key!r}{hint}; it takes {', '.join(KEYS)}")
    block |= typed
    for key, kind, like in (
        ("grid", dict, "{lr: [0.1, 0.01]}"),
        ("points", list, "[{lr: 0.1, epochs: 4}]"),
        ("search", dict, "{lr: 0.001:0.1:log}"),
        ("objective", str, "val_accuracy"),
    ):
        items = block.get(key) or kind()
        if not isinstance(items, kind) or (kind is list and not all(isinstance(point, dict) for point in items)):
            raise ParameterError(f"recipe {recipe!r}: its sweep's {key}: {items}: write it as {like}")
    grid, search, points = dict(block.get("grid") or {}), dict(block.get("search") or {}), block.get("points") or []
    fixed = {}
    for key, text in given.items():
        values = split(declared[key].type, text) if key in declared else [text]
        if key in declared:
            _check_text(key, declared[key].type, text)
        for chosen in (grid, search):
            chosen.pop(key, None)
        (fixed if len(values) == 1 else grid)[key] = values[0] if len(values) == 1 else values
    for key, text in searched.items():
        grid.pop(key, None)
        search[key] = text
    _check_keys(notebook, declared, grid, points, search, fixed)
    # Not planned: the recipe's own data may be missing where the command gives others.
    plain = parameters.merge(notebook, (parameters.read_recipe(notebook, recipe) if recipe else None) or {})
    base = parameters.plan(notebook, recipe, fixed)
    settings = []
    if search:  # what has several values besides is searched, too
        search = {key: _space(notebook, declared[key].type, key, value) for key, value in (search | grid).items()}
    else:
        settings = _settings(notebook, recipe, fixed, grid, points)
    if "trials" in typed and not search:
        raise ParameterError(
            "--trials belongs to a search: give -s KEY LOW:HIGH or -s KEY 'a|b'; a grid has all points"
        )
    seeds = _seeds(notebook, base, block.get("seeds"))
    if not search and len(settings) * len(seeds) == 1:
        raise ParameterError(
            f"nothing to sweep over in {notebook.stem}: give values (-p lr 0.001,0.003), a range "
            "(-s lr 0.001:0.1:log), --seeds 0,1,2, or a recipe with a sweep block"
        )
    objective, trials = _objective(block.get("objective"), base), _trials(block.get("trials", TRIALS))
    resplit = str(block.get("resplit", "false"))
    if resplit not in {"true", "false"} or (resplit == "true" and "data_seed" not in base):
        raise ParameterError(f"recipe {recipe!r}: resplit: {resplit}: true or false, where there is a data_seed")
    again = resplit == "true" and "data_seed" not in fixed  # who fixes it gets the one split
    return Study(notebook, recipe, plain, base, settings, search, seeds, objective, trials, again)


def _check_keys(notebook: Path, declared: dict, grid: dict, points: list[dict], search: dict, fixed: dict) -> None:
    together = {key for point in points for key in point}
    for key in (*grid, *together, *search):
        if key not in declared:
            hint = did_you_mean(key, declared)
            raise ParameterError(f"{notebook.stem} has no parameter {key!r}{hint}; it has {', '.join(declared)}")
        if key == "seed":
            raise ParameterError("seeds are no setting: give --seeds 0,1,2, and a setting is judged by its mean")
    for key in together:
        if key in grid or key in search or key in fixed:
            raise ParameterError(f"{key} is set by the recipe's points, where settings belong together: leave it out")
    if points and search:
        raise ParameterError("points are settings that belong together, which a search would take apart: use a grid")


def split(kind: str, text: str) -> list[Any]:
    """The values that a text on the command line names, for a parameter of this type.

    Numbers and booleans are set apart by commas; text and lists are one value, unless in brackets of their own.

    Example:
        split("float", "0.001,0.003"); split("str", "[adamw,lion]"); split("list[int]", "[[64,128],[128,256]]")
    """
    kind = kind.removesuffix(" | None")
    if text.strip().startswith("[") and text.strip().endswith("]"):
        try:
            items = yaml.load(text, yaml.BaseLoader)
        except yaml.YAMLError:
            raise ParameterError(f"{text!r} is no list: write [a,b]") from None
        return items if items and _depth(items) > kind.count("[") else [text]
    values = text.split(",") if kind in {"int", "float", "bool"} else [text]
    if len(values) > 1 and not all(map(str.strip, values)):
        raise ParameterError(f"{text!r}: there is nothing before or behind a comma")
    return values


def _check_text(key: str, kind: str, text: str) -> None:
    """Refuse several values of text without their brackets: as one value they would fail in every run."""
    sign = next((sign for sign in ",|" if sign in text), None)
    # With a colon it is the place of data, as folder:a,b.
    single = ":" in text or text.strip().startswith("[") or os.path.exists(os.path.expanduser(text))
    if kind.removesuffix(" | None") == "str" and sign and not single:
        words = ",".join(word.strip() for word in text.split(sign))
        raise ParameterError(f"-p {key} {text}: several values that are text go in brackets: -p {key} '[{words}]'")


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _settings(
    notebook: Path, recipe: str | None, fixed: dict[str, Any], grid: dict[str, Any], points: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Every point with every value of the grid, in the order in which they were written, none twice."""
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"sweep, grid, {key}: {values!r} is no list of values; write [a, b]")
    typed = [p | dict(zip(grid, v, strict=True)) for p in points or [{}] for v in itertools.product(*grid.values())]
    keys = dict.fromkeys(key for setting in typed for key in setting)
    plans = [parameters.plan(notebook, recipe, fixed | setting) for setting in typed]
    settings = [{key: params[key] for key in keys} for params in plans]
    return list({json.dumps(setting): setting for setting in settings}.values())


def _space(notebook: Path, kind: str, key: str, typed: Any) -> Range | dict[str, Any]:
    text = typed if isinstance(typed, str) else ""
    number, parts = kind.removesuffix(" | None") in {"int", "float"}, text.split(":")
    if number and len(parts) > 1 and "|" not in text:
        low, high = (parameters.merge(notebook, {key: part})[key] for part in parts[:2])
        log = parts[2:] == ["log"]
        if low is None or high is None or low >= high or (parts[2:] and not log) or (log and low <= 0):
            raise ParameterError(f"-s {key} {text}: write LOW:HIGH, or LOW:HIGH:log with LOW above 0")
        return Range(low, high, log, kind.startswith("int"))
    choices = text.split("|") if text else list(typed)
    if len(choices) < 2 or (text and "" in choices):
        ranges = "LOW:HIGH, LOW:HIGH:log or " if number else ""
        raise ParameterError(f"-s {key} {text}: write {ranges}choices, as 'a|b'")
    values = [parameters.plan(notebook, None, {key: choice})[key] for choice in choices]
    return {spell(value): value for value in values}


def _seeds(notebook: Path, base: dict[str, Any], typed: str | list | None) -> list[int]:
    if typed is None:
        return [base.get("seed", 0)]
    if "seed" not in base:
        raise ParameterError(f"--seeds: {notebook.stem} has no parameter seed")
    try:
        seeds = [int(word) for word in (typed.split(",") if isinstance(typed, str) else typed)]
    except (ValueError, TypeError):
        raise ParameterError(f"--seeds {typed}: whole numbers, such as 0,1,2") from None
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise ParameterError(f"--seeds {typed}: a seed lies between 0 and 2**32 - 1")
    return list(dict.fromkeys(seeds))


def _trials(typed: Any) -> int:
    if not str(typed).isdecimal() or int(typed) < 1:
        raise ParameterError(f"--trials {typed}: a whole number, at least 1")
    return int(typed)


def _objective(typed: str | None, base: dict[str, Any]) -> str:
    """What a setting is judged by; contrastive methods, which have a temperature, are by nearest neighbours."""
    objective = typed or ("val_knn_accuracy" if "tau" in base else "val_accuracy")
    if not objective.startswith("val_"):
        raise ParameterError(
            f"--objective {objective}: metrics of validation images begin with val_. Who chooses by test images has "
            "trained on them, and reports what new images will not show"
        )
    return objective


def lacking(objective: str, metrics: Iterable[str]) -> str:
    """What is said of a run that has no such metric."""
    own = [name for name in metrics if name.startswith("val_")]
    return f"logs no {objective}{did_you_mean(objective, own)}; it has {', '.join(own) or 'none that begins with val_'}"


def spell(value: Any) -> str:
    """A parameter's value as it can be typed again.

    Example:
        spell(None), spell(True), spell([64, 128]), spell(1e-3)  # "none", "true", "[64, 128]", "0.001"
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
