"""The core of a lesson, its cells without those tagged `lesson`: it stands by itself, and logs the same values."""

from __future__ import annotations

import ast
import builtins
import copy
import re
import symtable
from collections.abc import Iterator
from pathlib import Path

import pytest

from labutil import runs
from labutil.runs import parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0[2-6]_*.ipynb"))
# Lesson 01 trains no method, but has a core too.
LESSONS = sorted((ROOT / "notebooks").glob("0[1-6]_*.ipynb"))
each_notebook = pytest.mark.parametrize("notebook", LESSONS, ids=lambda p: p.stem)
GIVEN = {*dir(builtins), "__name__"}
CONTRASTIVE = ("knn_accuracy", "random_encoder_knn_accuracy", "linear_accuracy", "retrieval_top5", "ood_knn_accuracy")
# What a core logs beside what every run that trains a method does.
OWN_METRICS = {
    "04": (*CONTRASTIVE, "val_knn_accuracy", "val_linear_accuracy", "val_retrieval_top5"),
    "05": (*(set(CONTRASTIVE) - {"retrieval_top5"}), "val_knn_accuracy", "val_linear_accuracy"),
    "06": ("knn_accuracy", "linear_accuracy", "val_knn_accuracy", "val_reconstruction_mse", "test_reconstruction_mse"),
}


def code(notebook: Path) -> Iterator[tuple[bool, str]]:
    """(whether it is tagged `lesson`, source) of every code cell, shell commands and magics left out."""
    for cell in parameters.read_cells(notebook):
        if cell["cell_type"] == "code":
            text = re.sub(r"^( *)[!%].*", r"\1pass", "".join(cell["source"]), flags=re.M)
            yield "lesson" in cell["metadata"].get("tags", []), text


def inner_reads(table: symtable.SymbolTable) -> set[str]:
    """Globals that functions, lambdas and comprehensions below a scope read."""
    found = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_global() and s.is_referenced()}
        found |= inner_reads(child)
    return found


class AsGenerators(ast.NodeTransformer):
    """Comprehensions as generator expressions, which keep a scope of their own from Python 3.12 on as well."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)


def names(node: ast.AST) -> tuple[set[str], set[str], set[str]]:
    """Globals that a statement or expression reads, those of them that a function in it reads, and those it binds."""
    table = symtable.symtable(ast.unparse(AsGenerators().visit(copy.deepcopy(node))), "cell", "exec")
    functions = inner_reads(table)
    read = {s.get_name() for s in table.get_symbols() if s.is_referenced()} | functions
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    return read, functions, bound


def needs(statements: list[ast.stmt], bound: set[str]) -> set[str]:
    """Globals that statements read before they bind them; `bound` gains what they bind."""
    found = set()
    for statement in statements:
        if isinstance(statement, ast.If | ast.For | ast.While | ast.With):
            bodies = [statement.body, getattr(statement, "orelse", [])]
            heads = [n for field, n in ast.iter_fields(statement) if field in {"test", "iter"}]
            heads += [item.context_expr for item in getattr(statement, "items", [])]
            found |= set().union(*(names(head)[0] for head in heads)) - bound
            if isinstance(statement, ast.For):
                bound |= {n.id for n in ast.walk(statement.target) if isinstance(n, ast.Name)}
            for body in bodies:
                found |= needs(body, bound)
        else:
            read, _, binds = names(statement)
            found |= read - bound
            bound |= binds
    return found


@each_notebook
def test_a_core_uses_nothing_that_a_lesson_cell_makes(notebook):
    core = ast.parse("\n".join(source for lesson, source in code(notebook) if not lesson))
    read, _, bound = names(core)
    assert sorted(read - bound - GIVEN) == []


@each_notebook
def test_no_lesson_cell_changes_what_the_core_reads_afterwards(notebook):
    cells = list(code(notebook))
    long_lived = set().union(*(names(ast.parse(source))[1] for lesson, source in cells if not lesson))
    own, changed, wrong = set(), set(), []  # names that core cells have bound; that lesson cells have, since
    for lesson, source in cells:
        tree, bound = ast.parse(source), set()
        needed = needs(tree.body, bound)
        if lesson:
            changed |= bound
            wrong += sorted(bound & long_lived & own)
        else:
            wrong += sorted(needed & changed)
            own |= bound
            changed -= bound
    assert wrong == []


@pytest.mark.parametrize(
    "notebook",
    [n if n.stem[:2] == "04" else pytest.param(n, marks=pytest.mark.long) for n in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_a_core_logs_what_the_whole_lesson_does(notebook, tmp_path):
    own = {"shifted": "cells:200"} if notebook.stem[:2] in ("02", "03") else {}  # theirs is for `cells` alone
    params = parameters.plan(notebook, "smoke", {"dataset": "cells:200", "image_size": 24} | own)
    metrics = {}
    for core in (False, True):
        directory, record, _ = runs.run_notebook(notebook, params, out=tmp_path, core=core)
        metrics[core] = {k: v for k, v in record["metrics"].items() if "second" not in k}
        assert {"train_seconds", "images_per_second"} <= set(record["metrics"])
    assert record["core"]
    own = metrics[True]
    assert own == {name: metrics[False][name] for name in own}
    expected = {"test_accuracy", "test_macro_f1", "test_ece", "val_accuracy", "shifted_accuracy", "chance_accuracy"}
    assert sorted((expected | set(OWN_METRICS.get(notebook.stem[:2], ()))) - set(own)) == []
    for file in ("predictions.npz", "predictions_shifted.npz", "model.safetensors", "history.csv"):
        assert (directory / file).exists(), file


@pytest.mark.long
def test_an_autoencoder_of_no_epochs_is_the_control_of_one_that_was_trained(tmp_path):
    """Same head, same labels, random weights: `labutil sweep 06 -p epochs 0,4` compares the two."""
    notebook = ROOT / "notebooks" / "06_autoencoder.ipynb"
    params = parameters.plan(notebook, "smoke", {"dataset": "cells:200", "image_size": 24, "epochs": 0})
    _, record, _ = runs.run_notebook(notebook, params, out=tmp_path, core=True)
    assert set(record["fits"]) == {"head", "everything"}
    assert record["metrics"]["knn_accuracy"] == record["metrics"]["random_encoder_knn_accuracy"]
