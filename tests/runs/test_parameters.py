"""The parameters cell, recipes, and every way to mistype them."""

from __future__ import annotations

import nbformat
import pytest

from labutil.runs import parameters
from labutil.runs.parameters import ParameterError, code_cells, find_notebook, merge, read_parameters, read_recipe

CELL = """dataset: str = "cells"  # a name, or a path with # in it
epochs: int = 8  # passes
lr: float = 1e-3  # rate
size: int | None = 48  # pixels
deep: bool = False  # more layers
hash: str = "a#b"  # the '#' is not a comment
filters: list[int] = [128, 256]  # widths, []
second: str | None = "auto"  # another data set
shares: list[float] = [20, 0.5]  # of the labels
names: list[str] = ["a"]  # of lessons or []
pair: tuple[int, float] = (1, 0.5)  # epochs, rate
kind: str = "a b"  # one of a b, c+d, e (the usual),
#   f-1: which is which
share: float = 0.5  # of 3 at most, above 0, at most 1"""


def write(path, *cells):
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture
def notebook(tmp_path):
    return write(tmp_path / "02_lesson.ipynb", ("import os", []), (CELL, ["parameters"]), ("print(lr)", []))


def test_reads_names_types_values_and_meanings(notebook):
    found = read_parameters(notebook)
    assert list(found)[:7] == ["dataset", "epochs", "lr", "size", "deep", "hash", "filters"]
    assert found["size"] == ("int | None", 48, "pixels")
    assert found["hash"].default == "a#b"
    assert found["hash"].meaning == "the '#' is not a comment"
    assert found["dataset"].meaning == "a name, or a path with # in it"
    assert code_cells(notebook) == ["import os", "print(lr)"]


def from_recipe(folder, text):
    """The settings of a recipe with this text."""
    (folder / "recipes" / "mine").mkdir(parents=True, exist_ok=True)
    (folder / "recipes" / "mine" / "02_lesson.yaml").write_text(text)
    return read_recipe(folder / "02_lesson.ipynb", "mine")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-3", 1e-3), ("lr", "3", 3.0), ("lr", "010", 10.0), ("lr", "1_000.5", 1000.5), ("lr", "+.5", 0.5),
        ("lr", "-0", 0.0), ("epochs", "20", 20), ("epochs", "010", 10), ("epochs", "+08", 8), ("epochs", "1_000", 1000),
        ("epochs", "1e3", 1000), ("epochs", "20.0", 20), ("kind", "a b", "a b"), ("kind", "c+d", "c+d"),
        ("kind", "e", "e"), ("kind", "f-1", "f-1"), ("share", "1", 1.0), ("share", "1e-9", 1e-9),
        ("size", "null", None), ("size", "~", None),
        ("size", "None", None), ("size", "", None), ("size", "064", 64), ("second", "none", None),
        ("second", "null", None), ("second", "010", "010"), ("deep", "true", True), ("deep", "yes", True),
        ("deep", "Off", False), ("deep", "NO", False), ("dataset", "123", "123"), ("dataset", "010", "010"),
        ("dataset", "no", "no"), ("dataset", "1:30", "1:30"), ("dataset", "2024-01-31", "2024-01-31"),
        ("dataset", "1_000", "1_000"), ("dataset", "1e3", "1e3"), ("dataset", "idx:a,b", "idx:a,b"),
        ("dataset", "none", "none"), ("filters", "[64, 128]", [64, 128]), ("filters", "[010, 1_6]", [10, 16]),
        ("filters", "[]", []), ("shares", "[180, 0.10, 1e-3]", [180.0, 0.1, 0.001]),
        ("pair", "[010, 1]", [10, 1.0]), ("names", "[]", []),
        ("names", "[02, no, 1:30, 2024-01-31]", ["02", "no", "1:30", "2024-01-31"]),
    ],
)  # fmt: skip
def test_text_is_read_as_people_mean_it_on_the_command_line_and_in_a_recipe(notebook, tmp_path, name, text, value):
    for settings in ({name: text}, from_recipe(tmp_path, f"{name}: {text}")):
        assert repr(merge(notebook, settings)[name]) == repr(value)  # of the same types, in lists too


def test_values_of_python(notebook):
    given = {"epochs": 20.0, "lr": 3, "deep": True, "second": None, "filters": (1, 2.0), "dataset": "null"}
    answer = merge(notebook, given)
    assert {name: repr(answer[name]) for name in given} == {
        "epochs": "20", "lr": "3.0", "deep": "True", "second": "None", "filters": "[1, 2]", "dataset": "'null'",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epochs", "3.5"), ("epochs", "true"), ("epochs", "many"), ("epochs", "null"), ("epochs", "[1, 2]"),
        ("epochs", "1:30"), ("epochs", "2024-01-31"), ("epochs", "1,000"), ("epochs", "inf"), ("epochs", "1e999"),
        ("lr", "fast"), ("lr", "true"), ("lr", "1:30"), ("lr", "nan"), ("lr", ".inf"), ("lr", "9" * 400),
        ("deep", "1"), ("deep", "y"), ("deep", "null"), ("size", "big"), ("filters", "128"), ("filters", "64,128"),
        ("filters", "[a]"), ("filters", "[1:30]"), ("filters", "[0.5]"), ("filters", "{1: 2}"), ("shares", "[yes]"),
        ("shares", "[nan]"), ("names", "[[a]]"), ("names", "['']"), ("shares", "[]"), ("shares", "[0.5, -1]"),
        ("pair", "[1]"), ("pair", "[1, 2, 3]"), ("pair", "[0.5, 1]"), ("pair", "[1, -2]"), ("epochs", "-1"),
        ("epochs", str(2**32)), ("lr", "-1e-3"), ("share", "0"), ("share", "1.01"), ("kind", "A b"), ("kind", "a"),
        ("kind", "c"), ("kind", "the usual"), ("kind", "a b, c+d"), ("dataset", ""),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(notebook, tmp_path, name, text):
    for settings in ({name: text}, from_recipe(tmp_path, f"{name}: {text}")):
        with pytest.raises(ParameterError, match=rf"^parameter {name} takes .*, not .* \(.+\)$"):
            merge(notebook, settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": "[1"}, r"parameter epochs takes int, at least 0, not '\[1' \(passes\)"),
        ({"filters": "[1"}, r"parameter filters takes list\[int\], at least 0, not '\[1'"),
        ({"dataset": None}, "parameter dataset takes str, not None"),
        ({"epochs": True}, "parameter epochs takes int, at least 0, not True"),
        ({"epoch": "3"}, r"02_lesson has no parameter 'epoch' \(did you mean 'epochs'\?\); it has "),
    ],
)
def test_what_only_a_command_line_or_python_can_say(notebook, given, message):
    with pytest.raises(ParameterError, match=message):
        merge(notebook, given)


def test_later_layers_win(notebook):
    params = merge(notebook, {"epochs": 3, "lr": "1e-2"}, {"epochs": "5"})
    assert (params["epochs"], params["lr"], params["dataset"]) == (5, 0.01, "cells")


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
    (tmp_path / "x.ipynb").write_text("{half")
    with pytest.raises(ParameterError, match=r"x\.ipynb is not a notebook"):
        read_parameters(tmp_path / "x.ipynb")


def test_recipes(tmp_path):
    assert from_recipe(tmp_path, "lr: 1e-3\nsweep:\n  lr: [1, 2]\n") == {"lr": "1e-3"}
    lesson = tmp_path / "02_lesson.ipynb"
    assert parameters.read_sweep(lesson, "mine") == {"lr": ["1", "2"]}
    for text in ("sweep: 3", "sweep:"):
        assert from_recipe(tmp_path, text) == {}
        with pytest.raises(ParameterError, match="recipe 'mine' of 02_lesson: `sweep:` must hold"):
            parameters.read_sweep(lesson, "mine")
    assert from_recipe(tmp_path, "") == {} and parameters.read_sweep(lesson, "mine") is None
    other = tmp_path / "03_other.ipynb"
    assert read_recipe(other, "mine") is None and parameters.read_sweep(other, "mine") is None
    with pytest.raises(ParameterError, match=r"no recipe 'mien' \(did you mean 'mine'\?\); there are mine"):
        read_recipe(lesson, "mien")
    for text, message in (("a: [1", "is not YAML"), ("just text", "must hold")):
        with pytest.raises(ParameterError, match=message):
            from_recipe(tmp_path, text)
    (tmp_path / "recipes" / "mine" / "02_lesson.yaml").write_bytes(b"lr: \xe9")
    with pytest.raises(ParameterError, match="is not YAML"):
        read_recipe(lesson, "mine")


def test_finding_a_notebook(notebook):
    assert find_notebook(str(notebook)) == notebook
    for name in ("04", "4", "04_simclr", "04_simclr.ipynb"):
        assert find_notebook(name) == parameters.NOTEBOOKS / "04_simclr.ipynb"
    with pytest.raises(ParameterError, match=r"no notebook '04_simclf' \(did you mean '04_simclr'\?\)"):
        find_notebook("04_simclf")
