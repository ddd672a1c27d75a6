"""docs/reports.md: its commands parse, no status is empty, and it is what the generator makes of committed files."""

import shlex
from itertools import pairwise, takewhile

import pandas as pd
import pytest
import yaml

from labutil import cli, paths, runs
from labutil.compare import reports
from labutil.paths import DataError
from labutil.runs import parameters
from labutil.sweeps import plan

ROWS = [(letter, row) for letter, report in reports.read().items() for row in report["rows"]]
COMMANDS = sorted({row["command"] for _, row in ROWS})


def test_the_committed_page_is_what_the_generator_makes_of_committed_files(own_folders):
    assert reports.PAGE.read_text("utf-8") == reports.page(), "run `make reports`"


def test_every_report_has_rows_and_none_is_empty():
    assert {letter for letter, _ in ROWS} == set("ABCDE")
    for letter, row in ROWS:
        assert all(str(row[field]).strip() for field in reports.FIELDS), (letter, row["place"])
        assert row["status"] in reports.STATUSES
        # What is said to be measured shows a number or names what is made; what was not run says why.
        assert row["status"] == "not run" or row["ours"] != "no value", (letter, row["place"])
    assert len({(letter, row["place"]) for letter, row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_and_name_recipes_and_parameters_that_there_are(command, tmp_path):
    program, name, *words = shlex.split(command)
    assert program == "labutil"
    with cli.main.commands[name].make_context(name, words) as context:
        options = context.params
    for notebook in options.get("notebooks", ()):
        path, given = parameters.find_notebook(notebook), dict(options.get("overrides") or options.get("given") or ())
        given.setdefault("dataset", "cells")  # the recipe's own may have to be placed by hand
        if name == "run":
            parameters.plan(path, options["recipe"], given)
        else:
            (study,) = plan.read([path], options["recipe"], list(given.items()), out=tmp_path).studies
            assert study.settings or study.search


@pytest.mark.parametrize(("letter", "row"), [pair for pair in ROWS if "where" in pair[1]], ids=lambda x: str(x)[:20])
def test_settings_that_rows_ask_for_are_swept(letter, row, tmp_path):
    _, name, notebook, *words = shlex.split(row["command"])
    assert name == "sweep" and words[0] == "--recipe"
    (study,) = plan.read([parameters.find_notebook(notebook)], words[1], [("dataset", "cells")], out=tmp_path).studies
    same = [
        all(reports._typed(setting.get(key)) == reports._typed(value) for key, value in row["where"].items())
        for setting in study.settings
    ]
    assert any(same), (letter, row["place"])


def test_values_are_read_from_files_and_words_must_be_there(tmp_path, monkeypatch):
    table = pd.read_csv(parameters.NOTEBOOKS / "sweeps" / "methods.csv", comment="#")
    found = 100 * table.knn_accuracy[table.method == "byol"]
    said = f"{found.mean():.1f} ± {found.std():.1f}%"
    assert reports.fill("k-NN {methods method=byol knn_accuracy}.") == f"k-NN {said}."
    assert reports.fill("{simclr_long test_knn_accuracy}").endswith("%")
    for text, why in (
        ("{methods method=byoll knn_accuracy}", "no such rows"),
        ("{methods method=byol knn}", "or no knn"),
        ("{method method=byol knn_accuracy}", "no method.csv"),
        ('{told "a figure that nobody measured"}', "neither README.md nor"),
    ):
        with pytest.raises(DataError, match=why):
            reports.fill(text)
    wrong = {"A": {"title": "t", "data": "d", "rows": [{"place": "p", "says": "s", "command": "c", "ours": "o"}]}}
    monkeypatch.setattr(reports, "TABLE", tmp_path / "reports.yaml")
    for status, why in ((None, "status, why is empty"), ("fine", "status 'fine' is none")):
        wrong["A"]["rows"][0] |= {"status": status} | ({"why": "w"} if status else {})
        reports.TABLE.write_text(yaml.safe_dump(wrong))
        with pytest.raises(DataError, match=why):
            reports.read()


def test_numbers_of_all_kinds_for_people():
    assert reports.number("test_errors", pd.Series([39, 31, 37])) == "35.7 ± 4.2"
    assert reports.number("train_seconds", pd.Series([1234.5])) == "1234"
    assert reports.number("test_macro_auc", pd.Series([0.975])) == "97.5%"
    assert reports._typed([64]) == reports._typed("[64]") and reports._typed(4.0) == reports._typed("4")
    assert reports._typed(None) == reports._typed(float("nan")) == reports._typed("none") != reports._typed(0)


def leave_own(folder, recipe, dataset="cifar100", **metrics):
    folder.mkdir(parents=True)
    params = parameters.merge(parameters.find_notebook("02"), {"dataset": "cells"})
    record = runs.new_record("02_supervised_baseline", recipe, params) | {"status": "complete", "metrics": metrics}
    runs.write_json(folder / "run.json", record | {"dataset": {"name": dataset}})


def test_the_readers_own_finished_runs_stand_in_the_page():
    row = {"command": "labutil run 02 --recipe cifar100", "metric": "test_accuracy test_errors"}
    assert reports.own(row) == ""
    for i, accuracy in enumerate((0.5, 0.6)):
        leave_own(paths.runs_dir() / "02_supervised_baseline" / f"a{i}", "cifar100", test_accuracy=accuracy)
    leave_own(paths.runs_dir() / "02_supervised_baseline" / "b", "full", test_accuracy=0.9)
    assert reports.own(row) == "**yours**, 2 runs on cifar100: test_accuracy 55.0 ± 7.1%"
    assert "**yours**, 2 runs on cifar100" in reports.page()
    assert reports.own(row | {"command": row["command"] + " -p lr 3"}) == ""
    folder = paths.sweeps_dir() / "cifar100"
    leave_own(folder / "runs" / "c", "cifar100", "mine", test_accuracy=0.7)
    head = {"notebook": "02_supervised_baseline", "status": "complete", "test_accuracy": 0.7, "path": "runs/c"}
    pd.DataFrame([head | {"encoder": "basic_cnn"}, head | {"encoder": "resnet8"}]).to_csv(folder / "sweep.csv")
    swept = row | {"command": "labutil sweep 02 --recipe cifar100", "where": {"encoder": "resnet8"}}
    assert reports.own(swept) == "**yours**, 1 run on mine: test_accuracy 70.0%"


@pytest.mark.parametrize("file", sorted((reports.ROOT / "docs" / "reports").glob("*.csv")), ids=lambda path: path.stem)
def test_kept_sweeps_are_what_their_commands_ask_for(file, tmp_path):
    command, machine = file.read_text("utf-8").splitlines()[:2]
    words = shlex.split(command.removeprefix("# labutil sweep "))
    notebooks = list(takewhile(lambda word: not word.startswith("-"), words))
    recipe, named = (dict(pairwise(words)).get(option) for option in ("--recipe", "--name"))
    assert file.stem == (named or recipe) and "torch" in machine and "/" not in command
    given = [tuple(words[i + 1 : i + 3]) for i, word in enumerate(words) if word == "-p"]
    studies = plan.read([parameters.find_notebook(name) for name in notebooks], recipe, given, out=tmp_path).studies
    table = pd.read_csv(file, comment="#")
    assert len(table) == sum(len(study.settings) * len(study.seeds) for study in studies) <= 32
    assert (table.status == "complete").all() and set(table.seed) == {seed for study in studies for seed in study.seeds}
