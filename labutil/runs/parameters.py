"""A notebook's parameters: read from its one `parameters` cell, merged with a recipe and the command line, checked.

papermill only logs an unknown parameter, and its own reader misses `float | None`; so the cell is read here.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import operator
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from labutil import encoders
from labutil.data import groups, sources
from labutil.paths import DataError, absolute, check_workbook, did_you_mean, is_number, project_root

NOTEBOOKS = project_root() / "notebooks"
FILES = ("autoencoder", "pretrained")  # parameters that may name a file
LIMITS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


class ParameterError(DataError):
    """A parameter, recipe or notebook name that does not exist, or a value of the wrong type."""


class Parameter(NamedTuple):
    type: str  # as written: "int", "float | None", "str"
    default: Any
    meaning: str


def read_cells(notebook: Path) -> list[dict]:
    """The cells of an .ipynb file. Raises ParameterError when it is not one, DataError where there is no workbook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in cells:  # what the rest of this file relies on
            _ = cell["cell_type"] + "".join(cell["source"]), has_tag(cell, "parameters")
        return cells
    except FileNotFoundError:
        check_workbook()
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ParameterError(f"{notebook} is not a notebook ({type(error).__name__}); restore it from git") from error


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters a notebook declares, in order, by name.

    Its cell tagged `parameters` holds one `name: type = literal  # meaning` a line, and nothing else; a meaning that is
    too long goes on in the next line, behind `#   `. What a meaning says of values holds: `at least 1`, `above 0, at
    most 1`, `one of sgd, adam`; of a list, for each of its items, and it may be empty where the meaning has a `[]`. No
    number is below 0.
    """
    cells = ["".join(cell["source"]) for cell in read_cells(notebook) if has_tag(cell, "parameters")]
    if len(cells) != 1:
        raise ParameterError(f"{notebook} has {len(cells)} cells tagged 'parameters'; it needs exactly one")
    found, lines = {}, cells[0].splitlines()
    try:
        body = ast.parse(cells[0]).body
    except SyntaxError as error:
        raise ParameterError(f"{notebook}: the parameters cell is not Python: {error}") from error
    for node in body:
        # The comment starts behind the value, so a '#' inside a string is safe.
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
        more = itertools.takewhile(lambda line: line.startswith("#   "), lines[node.end_lineno :])
        meaning = " ".join(text.strip("# ") for text in (rest, *more))
        try:
            default = ast.literal_eval(node.value)
            default = list(default) if isinstance(default, tuple) else default  # as papermill would pass it on
            found[node.target.id] = Parameter(ast.unparse(node.annotation), default, meaning)
        except (AttributeError, ValueError, TypeError):
            line = lines[node.lineno - 1]
            raise ParameterError(f"{notebook}: {line!r} is not `name: type = literal  # meaning`") from None
    return found


def code_cells(notebook: Path, core: bool = False) -> list[str]:
    """Source of the code cells that are executed, without the one tagged `parameters`: what a run's identity depends
    on. core: as for `in_core`."""
    cells = [c for c in read_cells(notebook) if c["cell_type"] == "code" and not has_tag(c, "parameters")]
    return ["".join(c["source"]) for c in cells if not core or in_core(c)]


def in_core(cell: dict) -> bool:
    """Whether `labutil run --core` and sweeps execute a cell: all but those tagged `lesson`."""
    return not has_tag(cell, "lesson")


def has_tag(cell: dict, tag: str) -> bool:
    return tag in cell.get("metadata", {}).get("tags", [])


def read_value(kind: str, value: Any) -> Any:
    """A value as it was typed (command line, recipe), or of Python, as `kind`: int, float, bool, str, a list (of some
    length: `tuple[int, float]`), or None.

    Text is read as people mean it: `010` is ten, `1e-3` and `1_000` are numbers, `yes`, `on` and `true` are booleans,
    `null` and `none` are None where that is allowed. `1:30`, a date or `nan` is no number. Raises ValueError, KeyError,
    OverflowError or YAMLError where it is no such value.

    Example:
        read_value("int | None", "010")  # 10
    """
    word = str(value).strip().lower()
    if kind.endswith(" | None"):
        return None if word in {"", "~", "null", "none"} else read_value(kind.removesuffix(" | None"), value)
    if kind == "bool":
        return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}[word]
    if kind == "str" and isinstance(value, str):
        return value
    if "[" in kind:
        items = yaml.load(value, yaml.BaseLoader) if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError
        kinds = kind[6:-1].split(", ") if kind.startswith("tuple[") else [kind[5:-1]] * len(items)
        return [read_value(*pair) for pair in zip(kinds, items, strict=True)]
    number = _number(value)
    if kind not in {"int", "float"} or (kind == "int" and number != int(number)):
        raise ValueError
    if kind == "int" and abs(number) >= 2**32:  # more than any count, and than random generators take as seed
        raise ValueError
    return int(number) if kind == "int" else float(number)


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)  # in tens: a leading zero means nothing
        value = float(value)
    if not is_number(value):
        raise ValueError
    return value


def admits(meaning: str, value: Any) -> bool:
    """Whether a parameter may have this value, by what its meaning says of values (`read_parameters`).

    Example:
        admits("smallest share, above 0, at most 1; 0.08: the paper's", 0.5)  # True
    """
    if isinstance(value, list):
        return (bool(value) or "[]" in meaning) and all(admits(meaning, item) for item in value)
    if isinstance(value, str):
        choices = re.search(r"\bone of ([^;:]+)", re.sub(r" \([^)]*\)", "", meaning))
        return value in choices[1].split(", ") if choices else bool(value.strip()) and "\0" not in value
    if not is_number(value):
        return True
    limits = re.findall(rf"\b({'|'.join(LIMITS)}) ([0-9.]*[0-9])", meaning)
    return value >= 0 and all(LIMITS[words](value, float(limit)) for words, limit in limits)


def merge(notebook: Path, *layers: dict[str, Any]) -> dict[str, Any]:
    """All of a notebook's parameters: its own values, overridden by each layer in turn (recipe, then command line).

    Raises ParameterError for a name the notebook does not have, or a value that its meaning or its type rules out.
    """
    declared = read_parameters(notebook)
    merged = {name: default for name, (_, default, _) in declared.items()}
    for name, value in (item for layer in layers for item in layer.items()):
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise ParameterError(f"{notebook.stem} has no parameter {name!r}{hint}; it has {', '.join(declared)}")
        kind, _, meaning = declared[name]
        try:
            merged[name] = read_value(kind, value)
            if not admits(meaning, merged[name]):
                raise ValueError
        except (ValueError, KeyError, OverflowError, RecursionError, yaml.YAMLError):
            number = "int" in kind or "float" in kind
            limits = ", at least 0" if number and not re.search("at least|above", meaning) else ""
            limits += ", below 2**32" if "int" in kind and re.search("[0-9]{10}", str(value)) else ""
            raise ParameterError(f"parameter {name} takes {kind}{limits}, not {value!r} ({meaning})") from None
    return merged


def plan(
    notebook: Path, recipe: str | None, overrides: dict[str, Any], base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a run, checked before anything starts: the notebook's own, `base`, the recipe's, `overrides`.

    Raises ParameterError, or DataError for a data set that there is not.
    """
    settings = read_recipe(notebook, recipe) if recipe is not None else {}
    if settings is None:
        raise ParameterError(f"recipe {recipe!r} has no settings for {notebook.stem}")
    params = merge(notebook, base or {}, settings, overrides)
    if "dataset" in params:
        params["dataset"] = sources.resolve(params["dataset"])
    for key in ("shifted", "ood_dataset"):
        if params.get(key) is not None and not re.match("(auto|none)$|held_out:", params[key]):
            try:
                params[key] = sources.resolve(params[key])
            except DataError as error:
                raise DataError(f"parameter {key}: {error}") from None
    if params.get("groups"):
        params["groups"] = groups.resolve(params["groups"])
    for key in encoders.PARAMETERS:  # a run is known by where it lies, wherever it is asked for
        if params.get(key) not in (None, *encoders.SHIPPED) and (file := encoders.find(params[key])):
            params[key] = str(file.parent if file.with_name("run.json").is_file() else file)
    for key in FILES:
        if params.get(key) not in {None, "imagenet"}:
            params[key] = str(absolute(params[key]))
            if not os.path.isfile(params[key]):
                raise ParameterError(f"{key}={params[key]} is no file ({read_parameters(notebook)[key].meaning})")
    if params.get("runs"):
        params["runs"] = str(absolute(params["runs"]))
        if not os.path.isdir(params["runs"]):
            raise ParameterError(f"runs={params['runs']} is no directory: give one that holds runs")
    return params


def read_recipe(notebook: Path, recipe: str) -> dict[str, Any] | None:
    """What `recipes/<recipe>/`, beside a notebook, sets for it, as typed (a `sweep:` block left out); None: nothing.
    A copy of a lesson elsewhere (04_simclr.ipynb, 04_simclr-2.ipynb) has the lesson's recipes.

    Raises ParameterError for an unknown recipe or a file that is not a mapping.
    """
    settings = _read_yaml(notebook, recipe)
    return settings and {name: value for name, value in settings.items() if name != "sweep"}


def read_sweep(notebook: Path, recipe: str) -> dict[str, Any] | None:
    """The `sweep:` block of a recipe, as typed, such as {"grid": {"tau": ["0.1", "0.5"]}}; None: there is none.

    Raises as `read_recipe`.
    """
    block = (_read_yaml(notebook, recipe) or {}).get("sweep")
    if block is not None and not isinstance(block, dict):
        raise ParameterError(f"recipe {recipe!r} of {notebook.stem}: `sweep:` must hold lines such as `grid: {{..}}`")
    return block


def _read_yaml(notebook: Path, recipe: str) -> dict[str, Any] | None:
    folder, stem = notebook.parent / "recipes", notebook.stem
    if not folder.is_dir() and (NOTEBOOKS / f"{stem.partition('-')[0]}.ipynb").exists():
        folder, stem = NOTEBOOKS / "recipes", stem.partition("-")[0]
    known = sorted(path.name for path in folder.glob("*/"))
    if recipe not in known:  # nor a path that leads elsewhere
        if not known:
            raise ParameterError(f"no recipe {recipe!r}: {folder} holds none")
        raise ParameterError(f"no recipe {recipe!r}{did_you_mean(recipe, known)}; there are {', '.join(known)}")
    path = folder / recipe / f"{stem}.yaml"
    if not path.exists():
        return None
    try:
        text = path.read_bytes()
        if twice := _given_twice(yaml.compose(text, yaml.BaseLoader)):
            raise ParameterError(f"{path} has {twice} twice in one place: leave one out")
        settings = yaml.load(text, yaml.BaseLoader) or {}  # all text, as on a command line
    except (yaml.YAMLError, RecursionError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ParameterError(f"{path} must hold `parameter: value` lines")
    return settings


def _given_twice(node: yaml.Node | None) -> str | None:
    """A key that a mapping in or below a node of YAML has twice; of the two, loading drops the first in silence."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        found = next((key for key in keys if keys.count(key) > 1 and isinstance(key, str)), None)
        return found or next(filter(None, (_given_twice(value) for _, value in node.value)), None)
    return next(filter(None, map(_given_twice, node.value)), None) if isinstance(node, yaml.SequenceNode) else None


def find_notebook(name: str) -> Path:
    """A notebook by its name, number ("02", "2"), or path. Raises ParameterError with the nearest name, or DataError
    where there is no workbook."""
    path = Path(name)
    if path.suffix == ".ipynb" and path.exists():
        return path.resolve()
    check_workbook()
    names = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    stem = path.name.removesuffix(".ipynb")
    stem = stem.zfill(2) if stem.isdecimal() else stem
    matches = [n for n in names if n == stem] or [n for n in names if n.startswith(f"{stem}_")]
    if len(matches) != 1:
        raise ParameterError(f"no notebook {name!r}{did_you_mean(stem, names)}; there are {', '.join(names)}")
    return NOTEBOOKS / f"{matches[0]}.ipynb"
