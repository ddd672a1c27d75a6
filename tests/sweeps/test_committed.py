"""Sweeps that come with the workbook: what lessons read of them, and that they are what their commands would make."""

import shlex

import pandas as pd
import pytest
import yaml

import labutil as lab
from labutil import encoders, paths, runs
from labutil.runs import parameters
from labutil.sweeps import committed, plan

SHOWN = {  # the columns that lessons read
    "label_efficiency": ["subset", "epochs", "val_accuracy", "test_accuracy", "shifted_accuracy"],
    "hidden_laboratory": ["augmentation", "fine_tuned_accuracy", "shifted_accuracy_fine_tuned"],
    "fine_tuning": ["layers", "frozen_statistics", "val_accuracy_fine_tuned", "fine_tuned_accuracy"],
    "labels_scarce": ["unlabelled", "epochs", "val_linear_1_percent_accuracy", "linear_1_percent_accuracy"],
    "methods": ["method", "knn_accuracy", "val_knn_accuracy", "linear_accuracy"],
    "equal_time": ["tau", "views", "label_share", "linear_accuracy", "knn_accuracy", "ood_knn_accuracy"],
}  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTIL_RUNS", str(tmp_path / "runs"))
    return tmp_path / "sweeps"


def test_there_are_at_most_six_and_all_are_small():
    files = sorted(committed.FOLDER.iterdir())
    assert [file.stem for file in files] == sorted(committed.NAMES) and len(files) <= 6
    assert sum(file.stat().st_size for file in files) < 100_000


@pytest.mark.parametrize("name", committed.NAMES)
def test_a_committed_sweep_is_what_its_command_asks_for(name, elsewhere):
    table = lab.sweeps.load(name)
    assert table.attrs["source"] == "committed" and "torch" in table.attrs["machine"]
    assert table.attrs["minutes"] == pytest.approx(table.seconds.sum() / 60, abs=0.05)
    assert set(SHOWN[name]) <= set(table) and table[SHOWN[name][-1]].between(0, 1).all()
    labutil, sweep, lesson, *words = shlex.split(table.attrs["command"])
    assert (labutil, sweep) == ("labutil", "sweep") and words[:2] == ["--recipe", name]
    given = [tuple(words[i + 1 : i + 3]) for i, word in enumerate(words) if word == "-p"]
    notebook = parameters.find_notebook(lesson)
    study = plan.read([notebook], name, given, out=elsewhere).studies[0]
    assert len(table) == len(study.settings) * len(study.seeds) <= 12
    assert set(table.seed) == set(study.seeds) and set(table.objective) == {study.objective}


def make_own(folder, status="complete"):
    folder.mkdir(parents=True)
    rows = [
        {"notebook": "04_simclr", "method": "byol", "seed": 0, "status": s, "seconds": 30.0}
        for s in ["complete", status]
    ]
    pd.DataFrame(rows).to_csv(folder / "sweep.csv", index=False)
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"command": "labutil sweep 04 --recipe methods -p method byol"}))


def test_ones_own_sweep_comes_first_once_it_is_complete(elsewhere):
    make_own(elsewhere / "methods")
    table = lab.sweeps.load("methods")
    assert table.attrs["source"] == "yours" and list(table.method) == ["byol"] * 2 and table.attrs["minutes"] == 1


@pytest.mark.parametrize("spoil", ["running", "csv", "yaml"])
def test_a_sweep_of_ones_own_that_is_not_whole_is_passed_over(elsewhere, spoil):
    make_own(elsewhere / "methods", "running" if spoil == "running" else "complete")
    if spoil != "running":
        (elsewhere / "methods" / f"sweep.{spoil}").write_bytes(b"\xff{[")
    assert lab.sweeps.load("methods").attrs["source"] == "committed"


def test_what_is_not_there_is_named(elsewhere, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'methods'"):
        lab.sweeps.load("method")
    monkeypatch.setattr(committed, "FOLDER", tmp_path)
    with pytest.raises(paths.DataError, match=r"methods\.csv cannot be read"):
        lab.sweeps.load("methods")
    (tmp_path / "methods.csv").write_text("# one line\n")
    with pytest.raises(paths.DataError, match=r"methods\.csv cannot be read"):
        lab.sweeps.load("methods")


def test_only_a_finished_sweep_is_kept(tmp_path):
    make_own(tmp_path / "methods", "failed")
    with pytest.raises(paths.DataError, match="1 of 2 runs are not complete"):
        committed.keep(tmp_path / "methods")
    folder = tmp_path / "done"
    make_own(folder)
    pd.read_csv(folder / "sweep.csv").assign(path="run").to_csv(folder / "sweep.csv", index=False)
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump({"command": "labutil sweep 04 -p tau 1,2 --out 'a b' --name done"})
    )
    machine = {"device": "cpu", "processor": "one", "precision": "fp32", "torch": "2"}
    (folder / "run").mkdir()
    runs.write_json(folder / "run" / "run.json", runs.new_record("04_simclr", None, {}) | {"environment": machine})
    file = committed.keep(folder, tmp_path / "kept")
    assert file == tmp_path / "kept" / "done.csv"
    assert file.read_text().startswith("# labutil sweep 04 -p tau 1,2 --name done\n# cpu, one, fp32, torch 2\n")
    assert len(pd.read_csv(file, comment="#")) == 2


def test_where_there_is_no_workbook_it_says_so_and_not_that_a_file_is_missing(elsewhere, tmp_path, monkeypatch):
    """A lesson's copy, opened where only the package is installed, asks for what comes with the workbook."""
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    monkeypatch.setattr(committed, "FOLDER", tmp_path / "notebooks" / "sweeps")
    monkeypatch.setattr(encoders, "FOLDER", tmp_path / "notebooks" / "encoders")
    for ask in (lambda: lab.sweeps.load("methods"), lambda: encoders.find("simclr_long")):
        with pytest.raises(paths.DataError, match=r"holds no workbook: .* LABUTIL_ROOT"):
            ask()
