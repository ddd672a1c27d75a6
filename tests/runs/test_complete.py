"""A run is complete only when what it promised is there, or it has said why not."""

from __future__ import annotations

import json

import nbformat
import numpy as np
import pytest

from labutil import runs
from labutil.compare import results
from labutil.paths import DataError
from labutil.runs import execute, predict
from labutil.runs.record import PROMISED

PARAMS = {"seed": 0}
LABELLED = "from labutil.runs import open_run\nrun = open_run('99_lesson', globals(), label='mine')"
PLAIN = LABELLED.replace(", label='mine'", "")
SAVE = "run.save_predictions([0, 1], [[0.9, 0.1], [0.2, 0.8]])\n(run.dir / 'model.safetensors').write_text('')"


@pytest.fixture
def here(monkeypatch):
    """Notebooks are executed in this process, without a kernel: cell for cell."""

    def papermill(notebook, params, directory, core):
        monkeypatch.setenv("LABUTIL_RUN_DIR", str(directory))
        scope = dict(params)
        for cell in nbformat.read(notebook, 4).cells:
            exec(cell.source, scope)

    monkeypatch.setattr(execute, "_papermill", papermill)


def write(folder, *cells):
    made = [nbformat.v4.new_code_cell("seed: int = 0  # seed", metadata={"tags": ["parameters"]})]
    path = folder / "99_lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*made, *map(nbformat.v4.new_code_cell, cells)]), path)
    return path


@pytest.mark.parametrize(
    ("cells", "lacks"),
    [
        ([LABELLED], list(PROMISED)),
        ([LABELLED, "run.log(test_accuracy=0.5)"], ["predictions.npz", "model.safetensors"]),
        ([LABELLED, SAVE], ["test_accuracy"]),
        ([LABELLED, SAVE, "run.log(test_accuracy=0.5)"], []),
        ([LABELLED, "run.skip('model.safetensors', 'too large')", "run.log(test_accuracy=1)"], ["predictions.npz"]),
        ([LABELLED, f"run.skip({PROMISED}, 'no labels')"], []),
        ([PLAIN], []),
        ([PLAIN, "run.promise('val_accuracy', 'table.csv')", "run.log(val_accuracy=1)"], ["table.csv"]),
        ([PLAIN, "run.promise('shifted_accuracy')", SAVE, "run.log(test_accuracy=1)"], ["shifted_accuracy"]),
    ],
)
def test_what_was_promised_is_there_or_named(tmp_path, here, cells, lacks):
    notebook = write(tmp_path, *cells, "run.finish()")
    directory = execute.run_directory(notebook, PARAMS, tmp_path, False)
    if not lacks:
        record = runs.run_notebook(notebook, PARAMS, out=tmp_path)[1]
        assert record["status"] == "complete" and "finished" not in record
        assert runs.run_notebook(notebook, PARAMS, out=tmp_path)[2], "found again"
        return
    with pytest.raises(runs.RunError, match=", ".join(lacks)):
        runs.run_notebook(notebook, PARAMS, out=tmp_path)
    record = runs.read_record(directory)
    assert (record["status"], record["missing"]) == ("failed", lacks)
    said = (directory / "error.txt").read_text()
    assert all(name in said for name in lacks) and "run.skip" in said
    with pytest.raises(DataError, match="not complete but failed"):
        predict.load_model(directory)
    (left_out,) = results.collect(tmp_path).left_out
    assert left_out[0] == directory and lacks[0] in left_out[1]


def test_the_command_says_what_is_missing_and_exits_1(tmp_path, here):
    from click.testing import CliRunner

    from labutil.cli import main

    notebook = write(tmp_path, LABELLED, "run.log(test_accuracy=0.5)", "run.finish()")
    done = CliRunner().invoke(main, ["run", str(notebook), "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "promised predictions.npz, model.safetensors, and has not" in done.output


def test_a_complete_run_that_has_lost_a_file_is_run_anew(tmp_path, here):
    notebook = write(tmp_path, LABELLED, SAVE, "run.log(test_accuracy=0.5)", "run.finish()")
    directory = runs.run_notebook(notebook, PARAMS, out=tmp_path)[0]
    (directory / "predictions.npz").unlink()
    assert not runs.run_notebook(notebook, PARAMS, out=tmp_path)[2]
    assert (directory / "predictions.npz").exists()


def test_by_hand_too(tmp_path, monkeypatch):
    monkeypatch.delenv("LABUTIL_RUN_DIR", raising=False)
    lesson = runs.record.parameters.find_notebook("01")
    namespace = {name: p.default for name, p in runs.record.parameters.read_parameters(lesson).items()}
    run = runs.open_run(lesson.stem, namespace, label="mine")
    run.log(test_accuracy=0.5)
    with pytest.raises(runs.RunError, match=r"promised predictions\.npz, model\.safetensors"):
        run.finish()
    assert runs.read_record(run.dir)["status"] == "failed"
    run.skip(["predictions.npz", "model.safetensors"], "a sketch")
    run.finish()
    record = runs.read_record(run.dir)
    assert record["status"] == "complete" and "missing" not in record
    assert record["skipped"] == {"predictions.npz": "a sketch", "model.safetensors": "a sketch"}


@pytest.mark.parametrize("shape", [(0, 2), (3, 2)])
def test_predictions_of_no_image_or_of_others_are_refused(tmp_path, shape):
    run = runs.Run(tmp_path, runs.new_record("99_lesson", None, {}))
    with pytest.raises(ValueError, match=f"predictions: probabilities of {shape[0]} images"):
        run.save_predictions(np.zeros(shape[0] and 2, int), np.zeros(shape))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"promised": None}, {"promised": 5}, {"promised": [None]}, {"promised": "x"}, {"skipped": ["x"]}]
)
def test_a_record_that_somebody_has_changed_is_none_or_promises_nothing(tmp_path, here, wrong):
    notebook = write(tmp_path, PLAIN, "run.finish()")
    directory, record, _ = runs.run_notebook(notebook, PARAMS, out=tmp_path)
    (directory / "run.json").write_text(json.dumps(record | wrong))
    assert runs.run_notebook(notebook, PARAMS, out=tmp_path)[2] == (wrong == {"promised": None})


def test_lessons_excuse_by_a_name_that_is_there():
    assert runs.PROMISED is PROMISED  # 06 without a classifier
