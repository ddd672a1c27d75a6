"""The parameters cell, recipes, and every way to mistype them."""

from __future__ import annotations

import nbformat
import pytest

from labutil.runs.parameters import (
    Parameter,
    ParameterError,
    code_cells,
    coerce,
    find_notebook,
    merge,
    read_parameters,
    read_recipe,
)

CELL = """dataset: str = "cells"  # a name, or a path with # in it
epochs: int = 8  # passes
lr: float = 1e-3  # rate
size: int | None = 48  # pixels
deep: bool = False  # more layers
hash: str = "a#b"  # the '#' is not a comment
filters: list[int] = [128, 256]  # widths"""


def write(path, *cells):
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "02_lesson.ipynb", ("import os", []), (CELL, ["parameters"]), ("print(lr)", []))


def test_reads_names_types_values_and_meanings(notebook):
    found = read_parameters(notebook)
    assert list(found) == ["dataset", "epochs", "lr", "size", "deep", "hash", "filters"]
    assert found["size"] == Parameter("size", "int | None", 48, "pixels")
    assert found["hash"].default == "a#b"
    assert found["hash"].meaning == "the '#' is not a comment"
    assert found["dataset"].meaning == "a name, or a path with # in it"
    assert code_cells(notebook) == ["import os", "print(lr)"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-3", 1e-3),  # YAML reads this as text
        ("lr", "3", 3.0),
        ("epochs", "20", 20),
        ("epochs", 20.0, 20),
        ("size", "null", None),
        ("size", "64", 64),
        ("deep", "true", True),
        ("dataset", "123", "123"),
        ("dataset", "null", "null"),
        ("dataset", "idx:a,b", "idx:a,b"),
        ("filters", "[64, 128]", [64, 128]),
    ],
)
def test_values_take_the_declared_type(notebook, name, text, value):
    answer = merge(notebook, {name: text})[name]
    assert answer == value
    assert type(answer) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("epochs", "3.5"), ("epochs", "true"), ("epochs", "many"), ("epochs", "null"), ("lr", "fast"), ("lr", "true"),
     ("deep", "1"), ("size", "big"), ("filters", "128"), ("epochs", "[1, 2]"), ("epochs", "[1")],
)  # fmt: skip
def test_values_of_another_type_are_refused(notebook, name, text):
    with pytest.raises(ParameterError, match=rf"parameter {name} takes .*, not '?"):
        merge(notebook, {name: text})


def test_later_layers_win(notebook):
    params = merge(notebook, {"epochs": 3, "lr": "1e-2"}, {"epochs": "5"})
    assert (params["epochs"], params["lr"], params["dataset"]) == (5, 0.01, "cells")


def test_an_unknown_name_gets_the_nearest(notebook):
    with pytest.raises(
        ParameterError, match=r"02_lesson has no parameter 'epoch' \(did you mean 'epochs'\?\); it has "
    ):
        merge(notebook, {"epoch": "3"})


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([("x = 1", [])], "has 0 cells tagged"),
        ([("x: int = 1", ["parameters"]), ("y: int = 1", ["parameters"])], "has 2 cells tagged"),
        ([("x = 1", ["parameters"])], "'x = 1' is not"),
        ([("import os", ["parameters"])], "'import os' is not"),
        ([("x: int = 1 + f()", ["parameters"])], r"x: int = 1 \+ f\(\)' is not"),
        ([("x: int = ", ["parameters"])], "is not Python"),
    ],
)
def test_a_cell_that_is_not_literals_is_refused(tmp_path, cells, message):
    with pytest.raises(ParameterError, match=message):
        read_parameters(write(tmp_path / "x.ipynb", *cells))


def test_a_file_that_is_no_notebook(tmp_path):
    (tmp_path / "x.ipynb").write_text("{half")
    with pytest.raises(ParameterError, match=r"x\.ipynb is not a notebook"):
        read_parameters(tmp_path / "x.ipynb")


def test_recipes(tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "02_lesson.yaml").write_text("lr: 1e-3\nsweep:\n  lr: [1, 2]\n")
    assert read_recipe(tmp_path, "smoke", "02_lesson") == {"lr": "1e-3"}
    assert read_recipe(tmp_path, "smoke", "03_other") is None
    with pytest.raises(ParameterError, match=r"no recipe 'smok' \(did you mean 'smoke'\?\); there are smoke"):
        read_recipe(tmp_path, "smok", "02_lesson")
    for text, message in (("a: [1", "is not YAML"), ("just text", "must hold")):
        (tmp_path / "smoke" / "02_lesson.yaml").write_text(text)
        with pytest.raises(ParameterError, match=message):
            read_recipe(tmp_path, "smoke", "02_lesson")


def test_finding_a_notebook(tmp_path, notebook):
    for name in ("02", "02_lesson", "02_lesson.ipynb", str(notebook)):
        assert find_notebook(tmp_path, name) == notebook
    with pytest.raises(ParameterError, match=r"no notebook '02_leson' \(did you mean '02_lesson'\?\)"):
        find_notebook(tmp_path, "02_leson")


def test_coerce_names_what_the_parameter_means():
    with pytest.raises(ParameterError, match=r"epochs takes int, not 'x' \(passes\)"):
        coerce(Parameter("epochs", "int", 1, "passes"), "x")
