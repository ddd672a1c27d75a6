"""A notebook's parameters: read from its one `parameters` cell, merged with a recipe and the command line, checked.

papermill only logs a parameter that a notebook does not have, and its own reader misses `float | None`; so the cell
is read here, with `ast`, and a wrong name or type stops the run before anything starts.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from labutil.data import sources
from labutil.paths import did_you_mean


class ParameterError(ValueError):
    """A parameter, recipe or notebook name that does not exist, or a value of the wrong type."""


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str  # as written: "int", "float | None", "str"
    default: Any
    meaning: str


def read_cells(notebook: Path) -> list[dict]:
    """The cells of an .ipynb file. Raises ParameterError when it is not one."""
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ParameterError(f"{notebook} is not a notebook ({type(error).__name__}); restore it from git") from error


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """The parameters a notebook declares, in order, by name.

    Its cell tagged `parameters` holds one `name: type = literal  # meaning` a line, and nothing else.
    """
    cells = [cell for cell in read_cells(notebook) if _declares(cell)]
    if len(cells) != 1:
        raise ParameterError(f"{notebook} has {len(cells)} cells tagged 'parameters'; it needs exactly one")
    source = "".join(cells[0]["source"])
    lines = source.splitlines()
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"{notebook}: the parameters cell is not Python: {error}") from error
    found = {}
    for node in body:
        try:
            name, kind, default = node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value)
        except (AttributeError, ValueError, TypeError):
            line = lines[node.lineno - 1]
            raise ParameterError(f"{notebook}: {line!r} is not `name: type = literal  # meaning`") from None
        # The comment starts behind the value, so a '#' inside a string is safe.
        meaning = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip().lstrip("# ")
        found[name] = Parameter(name, kind, default, meaning)
    return found


def code_cells(notebook: Path) -> list[str]:
    """Source of the code cells, without the one tagged `parameters`: what a run's identity depends on."""
    return ["".join(c["source"]) for c in read_cells(notebook) if c["cell_type"] == "code" and not _declares(c)]


def _declares(cell: dict) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def coerce(parameter: Parameter, value: Any) -> Any:
    """A value as it was typed (command line, recipe), or of Python, as the parameter's declared type.

    Text is read as people mean it: `010` is ten, `1e-3` and `1_000` are numbers, `yes`, `on` and `true` are booleans,
    `null` and `none` are None where that is allowed. `1:30`, a date or `nan` is no number.
    Raises ParameterError naming parameter, type and value.

    Example:
        coerce(Parameter("lr", "float", 0.1, "rate"), "1e-3")  # 0.001
    """
    try:
        return _read(parameter.type, value)
    except ValueError:
        message = f"parameter {parameter.name} takes {parameter.type}, not {value!r} ({parameter.meaning})"
        raise ParameterError(message) from None


_WORDS = {
    "None": {"": None, "~": None, "null": None, "none": None},
    "bool": {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False},
}


def _read(kind: str, value: Any) -> Any:
    """A value as `kind`, a type as Python writes it; as the first that fits of several. Raises ValueError if none does.

    None comes first, since `null` is text too.
    """
    for one in sorted(re.split(r" \| (?![^\[]*\])", kind), key="None".__ne__):
        with contextlib.suppress(ValueError, OverflowError, KeyError, yaml.YAMLError):
            if one in _WORDS:
                return _WORDS[one][str(value).strip().lower()]
            if one == "int" and _number(value) == int(_number(value)):
                return int(_number(value))
            if one == "float":
                return float(_number(value))
            if one == "str" and isinstance(value, str):
                return value
            if one.startswith("list"):
                return _read_list(one[5:-1] or "None | bool | int | float | str", value)
    raise ValueError


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        try:
            return int(value)  # in tens: a leading zero means nothing
        except ValueError:
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return value


def _read_list(kind: str, value: Any) -> list:
    items = yaml.load(value, _AsTyped) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError
    # Among floats a whole number stays one, as in a notebook's own `list[float] = [20, 64, 0.01]`.
    return [_number(item) if kind == "float" else _read(kind, item) for item in items]


class _AsTyped(yaml.SafeLoader):
    """YAML whose words and numbers stay text, but for an unquoted null: what they mean depends on the parameter."""


_AsTyped.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def merge(notebook: Path, *layers: dict[str, Any]) -> dict[str, Any]:
    """All of a notebook's parameters: its own values, overridden by each layer in turn (recipe, then command line).

    Raises ParameterError for a name the notebook does not have, naming the nearest one it has.
    """
    declared = read_parameters(notebook)
    merged = {name: p.default for name, p in declared.items()}
    for name, value in (item for layer in layers for item in layer.items()):
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise ParameterError(f"{notebook.stem} has no parameter {name!r}{hint}; it has {', '.join(declared)}")
        merged[name] = coerce(declared[name], value)
    return merged


def plan(
    notebook: Path, recipe: str | None, overrides: dict[str, Any], base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a run, checked before anything starts: the notebook's own, `base`, the recipe's, `overrides`.

    Raises ParameterError, or sources.DataError for a data set that there is not.
    """
    settings = {}
    if recipe is not None:
        settings = read_recipe(notebook.parent / "recipes", recipe, notebook.stem)
        if settings is None:
            raise ParameterError(f"recipe {recipe!r} has no settings for {notebook.stem}")
    params = merge(notebook, base or {}, settings, overrides)
    if "dataset" in params:
        params["dataset"] = sources.resolve(params["dataset"])
    if params.get("runs"):
        params["runs"] = os.path.abspath(os.path.expanduser(params["runs"]))
        if not os.path.isdir(params["runs"]):
            raise ParameterError(f"runs={params['runs']} is no directory: give one that holds runs")
    return params


def read_recipe(folder: Path, recipe: str, notebook: str) -> dict[str, Any] | None:
    """Settings that a recipe holds for a notebook, as they are typed (its `sweep:` block left out); None: it has none.

    folder: the recipes folder. Raises ParameterError for an unknown recipe or a file that is not a mapping.
    """
    if not (folder / recipe).is_dir():
        known = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise ParameterError(f"no recipe {recipe!r}{did_you_mean(recipe, known)}; there are {', '.join(known)}")
    path = folder / recipe / f"{notebook}.yaml"
    if not path.exists():
        return None
    try:
        settings = yaml.load(path.read_bytes(), _AsTyped) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ParameterError(f"{path} must hold `parameter: value` lines")
    settings.pop("sweep", None)
    return settings


def find_notebook(folder: Path, name: str) -> Path:
    """A notebook by its name, number ("02"), or path. Raises ParameterError with the nearest name."""
    path = Path(name)
    if path.suffix == ".ipynb" and path.exists():
        return path.resolve()
    names = sorted(p.stem for p in folder.glob("[0-9]*.ipynb"))
    stem = path.name.removesuffix(".ipynb")
    matches = [n for n in names if n == stem] or [n for n in names if n.startswith(f"{stem}_")]
    if len(matches) != 1:
        raise ParameterError(f"no notebook {name!r}{did_you_mean(stem, names)}; there are {', '.join(names)}")
    return folder / f"{matches[0]}.ipynb"
