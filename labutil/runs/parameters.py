"""A notebook's parameters: read from its one `parameters` cell, merged with a recipe and the command line, checked.

papermill only logs a parameter that a notebook does not have, and its own reader misses `float | None`; so the cell
is read here, with `ast`, and a wrong name or type stops the run before anything starts.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
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
    cells = [c for c in read_cells(notebook) if "parameters" in c.get("metadata", {}).get("tags", [])]
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
            default = ast.literal_eval(node.value)
            name = node.target.id
        except (AttributeError, ValueError, TypeError):
            default = name = None
        if not isinstance(node, ast.AnnAssign) or name is None:
            raise ParameterError(f"{notebook}: {lines[node.lineno - 1]!r} is not `name: type = literal  # meaning`")
        # The comment starts behind the value, so a '#' inside a string is safe.
        meaning = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip().lstrip("# ")
        found[name] = Parameter(name, ast.unparse(node.annotation), default, meaning)
    return found


def code_cells(notebook: Path) -> list[str]:
    """Source of the code cells, without the one tagged `parameters`: what a run's identity depends on."""
    return [
        "".join(c["source"])
        for c in read_cells(notebook)
        if c["cell_type"] == "code" and "parameters" not in c.get("metadata", {}).get("tags", [])
    ]


def coerce(parameter: Parameter, value: Any) -> Any:
    """A value as text (command line) or from YAML -> the parameter's declared type.

    YAML reads `1e-3` as text and `3` as an integer where a float is meant; both become what the notebook declares.
    Raises ParameterError naming parameter, type and value.
    """
    options = [t.strip() for t in parameter.type.split("|")]
    parsed = value
    if isinstance(value, str) and options != ["str"]:
        with contextlib.suppress(yaml.YAMLError):  # then it stays text, which only a str parameter takes
            parsed = yaml.safe_load(value)
    if parsed is None and "None" in options:
        return None
    for kind in options:
        if kind == "bool" and isinstance(parsed, bool):
            return parsed
        if kind == "int" and isinstance(parsed, int) and not isinstance(parsed, bool):
            return parsed
        if kind == "int" and isinstance(parsed, float) and parsed.is_integer():
            return int(parsed)
        if kind == "float" and not isinstance(parsed, bool):
            try:
                return float(parsed)
            except (TypeError, ValueError):
                continue
        if kind == "str" and isinstance(value, str | int | float):
            return str(value)
        if kind.startswith(("list", "tuple")) and isinstance(parsed, list | tuple):
            return list(parsed)
    raise ParameterError(f"parameter {parameter.name} takes {parameter.type}, not {value!r} ({parameter.meaning})")


def merge(notebook: Path, *layers: dict[str, Any]) -> dict[str, Any]:
    """All of a notebook's parameters: its own values, overridden by each layer in turn (recipe, then command line).

    Raises ParameterError for a name the notebook does not have, naming the nearest one it has.
    """
    declared = read_parameters(notebook)
    merged = {name: p.default for name, p in declared.items()}
    for layer in layers:
        for name, value in layer.items():
            if name not in declared:
                raise ParameterError(
                    f"{notebook.stem} has no parameter {name!r}{did_you_mean(name, declared)}; "
                    f"it has {', '.join(declared)}"
                )
            merged[name] = coerce(declared[name], value)
    return merged


def plan(
    notebook: Path, recipe: str | None, overrides: dict[str, Any], base: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All parameters of a run, checked before anything starts: the notebook's own, `base`, the recipe's, `overrides`.

    Raises ParameterError, or sources.DataError for a data set that there is not.
    """
    layers = [base or {}]
    if recipe is not None:
        settings = read_recipe(notebook.parent / "recipes", recipe, notebook.stem)
        if settings is None:
            raise ParameterError(f"recipe {recipe!r} has no settings for {notebook.stem}")
        layers.append(settings)
    params = merge(notebook, *layers, overrides)
    if "dataset" in params:
        params["dataset"] = sources.resolve(params["dataset"])
    if params.get("runs"):
        params["runs"] = os.path.abspath(os.path.expanduser(params["runs"]))
        if not os.path.isdir(params["runs"]):
            raise ParameterError(f"runs={params['runs']} is no directory: give one that holds runs")
    return params


def read_recipe(folder: Path, recipe: str, notebook: str) -> dict[str, Any] | None:
    """Settings that a recipe holds for a notebook (its `sweep:` block left out), or None when it has none for it.

    folder: the recipes folder. Raises ParameterError for an unknown recipe or a file that is not a mapping.
    """
    if not (folder / recipe).is_dir():
        known = sorted(p.name for p in folder.iterdir() if p.is_dir())
        raise ParameterError(f"no recipe {recipe!r}{did_you_mean(recipe, known)}; there are {', '.join(known)}")
    path = folder / recipe / f"{notebook}.yaml"
    if not path.exists():
        return None
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
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
