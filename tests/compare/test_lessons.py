"""Lessons that a comparison executes: those that lack a run, and lesson 07 as a page."""

from __future__ import annotations

import re

import nbformat
import pytest
from planted import board_of, leave_run

from labutil import paths, runs
from labutil.compare import lessons, results
from labutil.runs import execute as execute_module

NOTEBOOKS = paths.project_root() / "notebooks"


def test_lacking_lessons_are_those_without_a_run_on_the_board(tmp_path):
    assert [p.stem for p in lessons.lacking(None, ["02", "05"])] == ["02_supervised_baseline", "05_supcon"]
    leave_run(tmp_path, "02_supervised_baseline")
    board = board_of(tmp_path)
    assert [p.stem for p in lessons.lacking(board, ["02", "05_supcon"])] == ["05_supcon"]
    assert lessons.lacking(board, []) == []


@pytest.fixture
def executed(monkeypatch):
    """What `run_notebook` was called with; it leaves a small executed notebook, or fails on a set without images."""
    calls = []

    def execute(notebook, params, *, recipe=None, out):
        calls.append((notebook.stem, params, recipe, out))
        if "broken" in params["dataset"]:
            raise runs.RunError("07 failed in cell [3]: DataError: a.npz holds no images")
        directory = out / notebook.stem / "x"
        directory.mkdir(parents=True, exist_ok=True)
        text = "# Which?\n\n[![badge](https://a.b/c.svg)](https://a.b/c)\n\nWords & $\\sqrt{p}$."
        image = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("secret = 1", outputs=[image])]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), directory / "notebook.ipynb")
        return directory, {"seconds": 3.0}, False

    monkeypatch.setattr(execute_module, "run_notebook", execute)
    return calls


def test_small_runs_keep_their_recipe_and_stand_beside_the_others(tmp_path, executed):
    notebook = NOTEBOOKS / "02_supervised_baseline.ipynb"
    assert lessons.run_small(notebook, tmp_path, "mnist5k", 3, "^s") == 3.0
    ((name, params, recipe, out),) = executed
    assert (name, recipe, out) == ("02_supervised_baseline", "smoke", tmp_path)
    assert (params["dataset"], params["data_seed"], params["subset"]) == ("mnist5k", 3, 400)
    assert params["groups"] == "^s"
    assert params["epochs"] == 1  # the smoke recipe's


def test_pages_hold_what_lesson_07_shows_for_each_board(tmp_path, executed):
    for fingerprint, folder in zip("abc", ("data", "more", "broken"), strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.npz").touch()
        dataset = f"npz:{tmp_path}/{folder}/a.npz"
        leave_run(tmp_path, "05_supcon", dataset=dataset, fingerprint=16 * fingerprint)
    leave_run(tmp_path, "05_supcon", dataset="cells:60", params={"data_seed": 4, "groups": "^s"}, fingerprint="d" * 16)
    with pytest.raises(runs.RunError, match="holds no images"):
        list(lessons.write_pages(results.collect(tmp_path)))
    assert sorted(path.name for path in tmp_path.glob("*.html")) == [
        "compare_a_aaaaaaaa.html",
        "compare_a_bbbbbbbb.html",
        "compare_cells_60.html",
    ]
    params = {call[1]["dataset"]: call[1] for call in executed}["cells:60"]
    assert (params["runs"], params["data_seed"], params["image_size"]) == (str(tmp_path), 4, 16)
    assert params["groups"] == "^s"  # or its splits, and so its fingerprint, would be others
    page = (tmp_path / "compare_cells_60.html").read_text()
    assert 'src="data:image/png;base64,iVBORw0KGgo=' in page
    assert "<title>Which?</title>" in page and 'name="viewport"' in page and "color-scheme:light dark" in page
    assert "secret" not in page and "<script" not in page and "http" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_pages_need_nbconvert(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "find_spec", lambda name: None)
    with pytest.raises(lessons.DataError, match="pip install nbconvert"):
        list(lessons.write_pages(results.collect(tmp_path)))


def test_a_reader_of_runs_is_new_when_they_are(tmp_path):
    tmp_path = tmp_path / "runs"
    notebook = NOTEBOOKS / "07_comparison.ipynb"

    def stamp(root=tmp_path, *out):
        return runs.run_id(notebook, {"runs": root and str(root), "seed": 0}, *out)

    stamps = [stamp()]
    leave_run(tmp_path / "07_comparison" / "smoke", "02_supervised_baseline")
    leave_run(tmp_path, "07_comparison")
    assert stamp() == stamps[0]  # those are its own
    for seed in (0, 1):
        leave_run(tmp_path, "05_supcon", seed=seed)
        stamps.append(stamp())
    leave_run(tmp_path.parent / "sweeps" / "tau" / "runs", "04_simclr")
    stamps.append(stamp())
    assert len(set(stamps)) == 4
    assert stamp(None, tmp_path) != stamp(None)  # None: what lies beside it
