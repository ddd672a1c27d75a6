"""What a sweep is to run, as it is typed: values, settings, seeds, searches, and everything that is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import COUNT, FINISH, write_notebook
from hypothesis import given
from hypothesis import strategies as st

from labutil import cli, paths
from labutil.paths import DataError
from labutil.runs import execute, parameters
from labutil.runs.parameters import ParameterError, find_notebook
from labutil.sweeps import local, plan
from labutil.sweeps.plan import Range


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        ("float", "0.001,0.003", ["0.001", "0.003"]),
        ("int | None", "none,64", ["none", "64"]),
        ("bool", "true,false", ["true", "false"]),
        ("int", "[1,2]", ["1", "2"]),
        ("str", "[adamw,lion]", ["adamw", "lion"]),
        ("str", "idx:a,b", ["idx:a,b"]),
        ("str", "geometry+stain", ["geometry+stain"]),
        ("list[int]", "[64,128]", ["[64,128]"]),
        ("list[int]", "[[64,128],[128,256]]", [["64", "128"], ["128", "256"]]),
        ("list[int] | None", "[none,[64]]", ["none", ["64"]]),
        ("list[str]", "[[a],[b,c]]", [["a"], ["b", "c"]]),
    ],
)
def test_values_as_they_are_typed(kind, text, values):
    assert plan.split(kind, text) == values


def read(notebook, *given, **options):
    return plan.read([notebook], options.pop("recipe", None), given, options.pop("searched", ()), **options)


def test_a_grid_is_every_combination_in_order_and_none_twice(stub):
    (study,) = read(stub, ("lr", "0.1,0.2,0.10"), ("sizes", "[[4],[8,16]]"), ("kind", "plain")).studies
    settings = [{"lr": a, "sizes": b} for a in (0.1, 0.2) for b in ([4], [8, 16])]
    assert study.settings == settings
    assert study.base["kind"] == "plain"
    assert (study.seeds, study.objective) == ([0], "val_accuracy")


def recipe(stub, text):
    folder = stub.parent / "recipes" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stub.stem}.yaml").write_text(text)
    return "mine"


def test_a_recipe_holds_points_grid_seeds_and_objective(stub):
    text = "epochs: 7\nsweep: {points: [{lr: 1, kind: a}, {lr: 2}], grid: {bend: [no, yes]}, seeds: [0, 3], "
    found = read(stub, recipe=recipe(stub, text + "objective: val_loss}"), out=Path("there"))
    assert (found.name, found.directory) == ("mine", paths.absolute("there/mine"))
    (study,) = found.studies
    assert study.settings == [
        {"lr": lr, "kind": kind, "bend": bend} for lr, kind in ((1.0, "a"), (2.0, "plain")) for bend in (False, True)
    ]
    assert (study.seeds, study.objective, study.base["epochs"]) == ([0, 3], "val_loss", 7)
    (other,) = read(stub, ("bend", "false"), recipe="mine", seeds="1", objective="val_accuracy").studies
    assert [s["lr"] for s in other.settings] == [1.0, 2.0]
    assert (other.seeds, other.objective) == ([1], "val_accuracy")
    jobs = list(found.jobs(study, 0, study.settings[0]))
    assert [job.params["seed"] for job in jobs] == [0, 3]
    assert jobs[1].options() == shlex.split("--recipe mine -p lr 1.0 -p kind a -p seed 3")


def test_a_recipe_may_draw_the_splits_anew_with_every_seed(tmp_path):
    found = plan.read([find_notebook("03")], "five_splits", [("dataset", "cells:600")], out=tmp_path)
    jobs = list(found.jobs(found.studies[0], 0, found.studies[0].settings[0]))
    assert [(job.params["seed"], job.params["data_seed"]) for job in jobs] == [(i, i) for i in range(5)]
    assert {"-p data_seed 4", "-p seed 4"} <= {" ".join(jobs[4].options()[i : i + 3]) for i in range(30)}
    (study,) = plan.read([find_notebook("03")], "five_splits", [("data_seed", "7")], out=tmp_path).studies
    assert not study.resplit and study.base["data_seed"] == 7


def test_a_search_has_ranges_and_choices_and_lists_become_choices(stub):
    searched = [("lr", "0.01:1:log"), ("epochs", "2:9"), ("limit", "none|5")]
    (study,) = read(stub, ("kind", "[a,b]"), ("bend", "true"), searched=searched, trials=5).studies
    assert study.search == {
        "lr": Range(0.01, 1.0, True, False), "epochs": Range(2, 9, False, True), "limit": {"none": None, "5": 5},
        "kind": {"a": "a", "b": "b"},
    }  # fmt: skip
    assert (study.trials, study.settings, study.base["bend"]) == (5, [], True)
    (study,) = read(stub, recipe=recipe(stub, "sweep: {search: {lr: '0.1:1', sizes: [[4], [8]]}, trials: 9}")).studies
    assert study.search == {"lr": Range(0.1, 1.0, False, False), "sizes": {"[4]": [4], "[8]": [8]}}
    assert study.trials == 9


def test_the_name_follows_from_what_is_run_and_from_nothing_else(stub):
    name = read(stub, ("lr", "0.1,0.2")).name
    assert read(stub, ("lr", "0.1,0.20")).name == name
    assert len({name, read(stub, ("lr", "0.1,0.3")).name, read(stub, ("lr", "0.1,0.2"), seeds="1").name}) == 3
    assert read(stub, searched=[("lr", "0:1")], trials=5).name == read(stub, searched=[("lr", "0:1")]).name
    # Judged by another metric a grid's runs are the same, a search's are not.
    assert read(stub, ("lr", "0.1,0.2"), objective="val_loss").name == name
    assert len({read(stub, searched=[("lr", "0:1")], objective=metric).name for metric in ("val_a", "val_b")}) == 2
    assert read(stub, ("lr", "0.1,0.2"), recipe=recipe(stub, "epochs: 2")).name != "mine"  # it sweeps nothing itself


def test_the_lessons_that_choose_and_what_they_choose_by():
    given = [("seed", "1")]
    for number, objective in (("02", "val_accuracy"), ("03", "val_accuracy"), ("04", "val_knn_accuracy"),
                              ("05", "val_knn_accuracy"), ("06", "val_accuracy")):  # fmt: skip
        (study,) = plan.read([find_notebook(number)], None, given, seeds="0,1").studies
        assert study.objective == objective
    for number, why in (("01", "it looks for faults in data"), ("07", "it reads what others have left")):
        with pytest.raises(ParameterError, match=f"cannot be swept: {why}"):
            plan.read([find_notebook(number)], None, given, seeds="0,1")


GRID = (("lr", "0.1,0.2"),)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ((("epoch", "1,2"),), {}, r"98_stub has no parameter 'epoch' \(did you mean 'epochs'\?\)"),
        ((("epoch", "1"), *GRID), {}, r"98_stub has no parameter 'epoch' \(did you mean 'epochs'\?\)"),
        ((), {"searched": [("rl", "0:1")]}, "no parameter 'rl'"),
        ((("lr", "0.1,fast"),), {}, "parameter lr takes float, at least 0, not 'fast'"),
        ((("epochs", "1.5,2"),), {}, "parameter epochs takes int"),
        ((("kind", "[a"),), {}, "nothing to sweep over in 98_stub"),
        ((("lr", "0.1"),), {}, "nothing to sweep over in 98_stub: give values"),
        ((("seed", "0,1"),), {}, "seeds are no setting: give --seeds 0,1,2"),
        (GRID, {"seeds": "a"}, "--seeds a: whole numbers"),
        (GRID, {"trials": 3}, "--trials belongs to a search"),
        (GRID, {"objective": "test_accuracy"}, "begin with val_. Who chooses by test images has trained on them"),
        (
            GRID,
            {"objective": "shifted_accuracy"},
            "--objective shifted_accuracy: metrics of validation",
        ),
        (GRID, {"objective": "ood_knn_accuracy"}, "begin with val_"),
        (GRID, {"objective": "knn_accuracy"}, "begin with val_"),
        (GRID, {"objective": "fine_tuned_accuracy"}, "begin with val_"),
        (GRID, {"objective": "pixel_knn_accuracy"}, "begin with val_"),
        (GRID, {"name": "a/b"}, "--name 'a/b': it is to be a folder's name"),
        (GRID, {"name": ""}, "--name '': it is to be a folder's name"),
        (GRID, {"name": "a\nb"}, "it is to be a folder's name"),
        *(
            (GRID, {"name": name}, "it is to be a folder's name")
            for name in ("a\\b", "-x", "~", "..", "a.", "a\0", 300 * "a")
        ),
        (GRID, {"seeds": "-1,0"}, "--seeds -1,0: a seed lies between 0 and"),
        (GRID, {"seeds": "0,4294967296"}, "a seed lies between 0 and"),
        ((("lr", "0.1"), ("lr", "0.2")), {}, "lr is given twice, as -p 0.1 and -p 0.2: write all of its values"),
        (GRID, {"searched": [("lr", "0.1:1")]}, "lr is given twice, as -p 0.1,0.2 and -s 0.1:1"),
        ((("kind", "a,b"), *GRID), {}, r"-p kind a,b: several values that are text go in brackets: -p kind '\[a,b\]'"),
        ((("kind", "a| b"),), {}, r"-p kind '\[a,b\]'"),
        ((), {"searched": [("lr", "1:0.1")]}, "-s lr 1:0.1: write LOW:HIGH"),
        ((), {"searched": [("lr", "0:1:log")]}, "with LOW above 0"),
        ((), {"searched": [("lr", "0.1:1:lin")]}, "write LOW:HIGH, or LOW:HIGH:log"),
        ((), {"searched": [("epochs", "1:2.5")]}, "parameter epochs takes int, at least 0, not '2.5'"),
        ((), {"searched": [("kind", "adamw")]}, r"-s kind adamw: write choices, as 'a\|b'"),
        ((), {"searched": [("kind", "adamw|")]}, "write choices"),
        ((), {"searched": [("bend", "yes|maybe")]}, "parameter bend takes bool, not 'maybe'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(stub, given, options, message):
    with pytest.raises(ParameterError, match=message):
        read(stub, *given, **options)


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("sweep: {grids: {lr: [1, 2]}}", (), r"its sweep has no 'grids' \(did you mean 'grid'\?\)"),
        ("sweep: {grid: {lr: 1}}", (), "sweep, grid, lr: '1' is no list of values"),
        ("sweep: {grid: {lr: [1, 2]}, points: [{lr: 1}]}", (), "lr is set by the recipe's points"),
        ("sweep: {points: [{lr: 1}, {lr: 2}]}", (("lr", "3"),), "lr is set by the recipe's points"),
        ("sweep: {points: [{lr: 1}], search: {epochs: '1:2'}}", (), "a search would take apart"),
        ("sweep: {points: [{rl: 1}]}", (), "no parameter 'rl'"),
        ("sweep: {grid: {lr: [1, 2]}, resplit: yes}", (), "resplit: yes: true or false"),
        ("sweep: {grid: {lr: [1, 2]}, resplit: true}", (), "where there is a data_seed"),
    ],
)
def test_recipes_that_contradict_themselves(stub, text, given, message):
    with pytest.raises(ParameterError, match=message):
        read(stub, *given, recipe=recipe(stub, text))


def test_text_with_a_comma_is_one_value_where_it_is_a_place_or_in_brackets(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b.safetensors").touch()
    for text, value in (("a,b.safetensors", None), ("folder:a,b", None), ('["a,b"]', "a,b")):
        assert read(stub, ("kind", text), *GRID).studies[0].base["kind"] == (value or text)


def test_a_recipe_of_a_notebook_that_has_none_beside_it(stub):
    with pytest.raises(ParameterError, match=r"no recipe 'smoke': .*recipes holds none"):
        read(stub, *GRID, recipe="smoke")


def test_every_notebook_must_have_what_is_swept(stub):
    other = write_notebook(stub.with_name("97_stub.ipynb"), COUNT, FINISH, parameters="seed: int = 0  # seed")
    with pytest.raises(ParameterError, match="97_stub has no parameter 'lr'"):
        plan.read([stub, other], None, GRID)
    with pytest.raises(DataError, match="does not exist"):
        plan.read([find_notebook("02")], None, [*GRID, ("dataset", "folder:/no/such")])


def test_a_usage_error_is_one_line_and_leaves_nothing():
    for args in (("07", "--seeds", "0,1"), ("02", "-p", "lr", "1,2", "--objective", "test_accuracy")):
        result = CliRunner().invoke(cli.main, ["sweep", *args])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith("labutil: ")
    assert not paths.sweeps_dir().exists()


VALUES = {
    "lr": st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    "kind": st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(
        lambda s: s.strip() and len(plan.split("str", s)) == 1
    ),
    "sizes": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3),
    "bend": st.booleans(),
    "limit": st.none() | st.integers(0, 2**32 - 1),
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return write_notebook(tmp_path_factory.mktemp("notebook") / "98_stub.ipynb", COUNT, FINISH)


@given(values=st.fixed_dictionaries({}, optional=VALUES))
def test_a_runs_command_finds_the_directory_that_the_plan_names(notebook, values):
    """What a run's process makes of its command line is what the plan was made of, for any value."""
    found = plan.read([notebook], None, GRID, name="s", out=Path("out"))
    (job,) = found.jobs(found.studies[0], 0, values)
    words = local.command(found, job)
    at = words.index("--out") + 2
    overrides = {words[i + 1]: words[i + 2] for i in range(at, len(words), 3)}
    params = parameters.plan(notebook, None, overrides)
    assert json.dumps(params) == json.dumps(job.params)
    assert execute.run_directory(notebook, params, found.runs, core=True) == job.directory
