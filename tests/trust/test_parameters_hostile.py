"""Every parameter of every lesson with values that cannot be: of another type, out of range, empty, mistyped."""

from __future__ import annotations

import functools
import re
import shutil

import papermill
import pytest
from click.testing import CliRunner

from labutil import cli, policies
from labutil.paths import DataError
from labutil.runs import parameters
from labutil.sweeps import plan

READ = functools.cache(parameters.read_parameters)  # thousands of values are tried
LESSONS = [parameters.find_notebook(f"{number:02}") for number in range(1, 8)]
DECLARED = {(path, name): found for path in LESSONS for name, found in parameters.read_parameters(path).items()}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    monkeypatch.setattr(parameters, "read_parameters", READ)


each = pytest.mark.parametrize(("path", "name"), DECLARED, ids=lambda v: getattr(v, "stem", v)[:30])
# What YAML 1.1 makes of texts that people type, and what no number is.
NO_NUMBER = ["", "many", "true", "yes", "on", "1:30", "2026-11-26", "1,5", "0x10", "0b1", "1e", "--1", "1 0", "[1]"]
NOT_FINITE = ["nan", ".nan", "inf", "-inf", ".inf", "1e999"]
NO_BOOLEAN = ["", "1", "0", "y", "null", "truth", "[true]"]
NO_LIST = ["", "1", "1,2", "null", "{1: 2}", "[1", "[[1]]", "[null]"]


def beyond(meaning: str, whole: bool) -> list[str]:
    """Numbers just outside what a meaning admits."""
    found = {key: float(limit) for key, limit in re.findall(r"\b(at least|at most|above|below) ([\d.]*\d)", meaning)}
    step = 1 if whole else 0.001
    low = found["at least"] - step if "at least" in found else found.get("above", -step)
    high = [found["at most"] + step] if "at most" in found else [found["below"]] if "below" in found else []
    return [f"{value:.0f}" if whole else f"{value:g}" for value in (low, -1, *high)] + ([str(2**32)] if whole else [])


def wrong_values(kind: str, meaning: str) -> list[str]:
    """Texts that a parameter of this type and meaning must refuse."""
    optional, kind = kind.endswith(" | None"), kind.removesuffix(" | None")
    if kind == "bool":
        return NO_BOOLEAN
    if kind in {"int", "float"}:
        found = NO_NUMBER + NOT_FINITE + beyond(meaning, kind == "int")
        return [text for text in found if text or not optional] + (["2.5", "1e-3"] if kind == "int" else [])
    if kind == "str":
        return ([] if optional else ["", "  "]) + (["no such", "NONE", "a,b", "[a, b]"] if "one of" in meaning else [])
    if kind.startswith("tuple["):
        inner = kind[6:-1].split(", ")
        fewer, more, below = ["1"] * (len(inner) - 1), ["1"] * (len(inner) + 1), ["-1"] + ["1"] * (len(inner) - 1)
        return [*NO_LIST, "[]", *(f"[{', '.join(items)}]" for items in (fewer, more, below))]
    items = wrong_values(kind[5:-1], meaning)
    empty = [] if "[]" in meaning else ["[]"]
    return NO_LIST + empty + [f"['{text}']" for text in items if text not in {"1:30", "[1]"}]


@each
def test_what_cannot_be_is_refused_before_a_kernel_starts(path, name):
    kind, default, meaning = DECLARED[path, name]
    for text in wrong_values(kind, meaning):
        with pytest.raises(parameters.ParameterError) as caught:
            parameters.merge(path, {name: text})
        assert str(caught.value).startswith(f"parameter {name} takes {kind}"), text
        assert meaning in str(caught.value) and "\n" not in str(caught.value)
    for wrong in (object(), {"a": 1}, b"1", [None], float("nan")):
        with pytest.raises(parameters.ParameterError):
            parameters.merge(path, {name: wrong})
    assert parameters.merge(path, {name: default})[name] == default
    for typo in (name.upper(), name + "s", name[:-1]):
        if (path, typo) not in DECLARED:
            with pytest.raises(parameters.ParameterError, match=f"no parameter '{typo}'.*; it has dataset|runs"):
                parameters.merge(path, {typo: default})


@each
def test_the_ends_of_a_range_are_admitted(path, name):
    kind, _, meaning = DECLARED[path, name]
    for limit in re.findall(r"\bat (?:least|most) ([\d.]*\d)", meaning):
        text = f"[{limit}]" if kind.startswith("list") else limit
        if not kind.startswith("tuple"):
            assert parameters.merge(path, {name: text})
    if " | None" in kind:
        assert all(parameters.merge(path, {name: text})[name] is None for text in ("", "~", "null", "None", "NONE"))
    if kind.startswith("int"):
        assert all(
            parameters.merge(path, {name: text})[name] == 10
            for text in ("010", "1e1", "1_0", "10.0")[: 4 if parameters.admits(meaning, 10) else 0]
        )


def test_names_in_a_meaning_are_those_that_the_package_has():
    for number in ("02", "03"):
        meaning = parameters.read_parameters(parameters.find_notebook(number))["augmentation"].meaning
        choices = re.search("one of ([^:]+)", meaning)[1].split(", ")
        assert all(policies.augmentation(name, 3) for name in choices)
        with pytest.raises(ValueError, match="is not one of " + re.escape(", ".join(choices))):
            policies.augmentation("no such", 3)


def refused(*args: str) -> str:
    result = CliRunner().invoke(cli.main, args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), (args, result.output)
    return result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "03", "-p", "augmentation", "croop"), "parameter augmentation takes str, not 'croop' (one of none,"),
        (("run", "02", "-p", "Epochs", "3"), "no parameter 'Epochs' (did you mean 'epochs'?)"),
        (("run", "02", "-p", "epochs", "3", "-p", "epochs", "4"), "-p epochs is given twice"),
        (("run", "02", "-p", "shifted", "cels"), "parameter shifted: data set 'cels' is not known"),
        (("run", "04", "-p", "ood_dataset", "None"), "parameter ood_dataset: data set 'None' is not known"),
        (("run", "06", "-p", "autoencoder", "/no/such.safetensors"), "autoencoder=/no/such.safetensors is no file"),
        (("run", "03", "-p", "pretrained", "/"), "pretrained=/ is no file"),
        (("run", "06", "-p", "classifier_epochs", "[1, 2, 3]"), "classifier_epochs takes tuple[int, int], at least 0"),
        (
            ("run", "02", "-p", "seed", str(2**32)),
            "parameter seed takes int, at least 0, below 2**32, not '4294967296'",
        ),
        (("sweep", "02", "-p", "subset", "100,"), "'100,': there is nothing before or behind a comma"),
        (("sweep", "04", "-s", "tau", "0:1"), "parameter tau takes float, not '0' (SimCLR's temperature, above 0)"),
    ],
)
def test_the_command_says_so_in_one_line(args, message):
    assert message in refused(*args)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nepochs: 5", "has epochs twice"),
        ("sweep:\n  grid: {lr: [1, 2]}\n  grid: {tau: [1, 2]}", "has grid twice"),
        ("sweep:\n  points: [{lr: 1, lr: 2}]", "has lr twice"),
        ("sweep: {grid: lr}", "its sweep's grid: lr: write it as"),
        ("sweep: {grid: [lr]}", "its sweep's grid: ['lr']: write it as"),
        ("sweep: {grid: {lr: []}}", "sweep, grid, lr: [] is no list of values"),
        ("sweep: {points: {lr: 1}}", "its sweep's points: {'lr': '1'}: write it as"),
        ("sweep: {points: [lr]}", "its sweep's points: ['lr']: write it as"),
        ("sweep: {search: lr}", "its sweep's search: lr: write it as"),
        ("sweep: {objective: [a], grid: {lr: [1, 2]}}", "its sweep's objective: ['a']: write it as"),
        ("sweep: {grid: {lr: [1:30, 2]}}", "parameter lr takes float, not '1:30'"),
        ("sweep: {grid: {epochs: [no, 2]}}", "parameter epochs takes int, not 'no'"),
        ("sweep: {seeds: 2026-11-26}", "--seeds 2026-11-26: whole numbers"),
    ],
)
def test_recipes_that_yaml_would_read_as_something_else(tmp_path, text, message):
    lesson = tmp_path / LESSONS[3].name
    lesson.write_bytes(LESSONS[3].read_bytes())
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "recipes" / "mine" / f"{lesson.stem}.yaml").write_text(text, encoding="utf-8")
    assert message in refused("sweep", str(lesson), "--recipe", "mine", "--dry-run")


def test_a_sweep_s_values_are_what_was_meant(tmp_path):
    lesson = tmp_path / LESSONS[3].name
    lesson.write_bytes(LESSONS[3].read_bytes())
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    text = "groups: 010\nsweep:\n  grid: {epochs: [010, 1_0, 1e1, 020], lr: [.5, 1e-3], subset: [~, none, 1e2]}\n"
    (tmp_path / "recipes" / "mine" / f"{lesson.stem}.yaml").write_text(text, encoding="utf-8")
    (study,) = plan.read([lesson], "mine").studies
    assert study.base["groups"] == "010"
    found = {tuple(setting.values()) for setting in study.settings}
    assert found == {(e, lr, n) for e in (10, 20) for lr in (0.5, 0.001) for n in (None, 100)}


TEXTS = [
    *(
        "a" * 5000,
        "folder:" + "a" * 5000,
        "folder:",
        "npz:/",
        "idx:a,b,c",
        "folder:/dev/null",
        "a\nb",
        "none\n",
        "\udcff",
    ),
    *("folder:\udcff", "{}", "%s", "cells:-1", "cells:9999999999", "bloodmnist@1@2", "(", "a{99999999999}", "(" * 5000),
    *("\\", "~nobody/x", "simclr_long ", "README.md", "../", "held_out:\n", "IMAGENET", "adamw\u200b", "\0"),
]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_any_text_is_a_value_or_one_line(path):
    for name, found in parameters.read_parameters(path).items():
        for text in TEXTS if found.type.startswith("str") else ():
            try:
                parameters.plan(path, None, {name: text})
            except DataError as error:
                assert str(error).encode() and "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("DataError", "npz:x.npz has too few images (1)", 2),
        ("ValueError", "encoder='nosuch' is none of basic_cnn", 2),
        ("ValueError", "epochs=3 is too few", 2),
        ("ParameterError", "parameter lr takes float, not 'x'", 1),  # of the notebook's own calls: its mistake
        ("ValueError", "expected (N, D), got (3,)", 1),
        ("ValueError", "weights=3 is no parameter of this lesson", 1),
        ("KeyError", "'epochs'", 1),
    ],
)
def test_a_lesson_that_cannot_do_what_was_asked_is_a_usage_error(tmp_path, monkeypatch, name, text, code):
    def execute(source, target, *_, **__):
        shutil.copy(LESSONS[1], target)
        raise papermill.PapermillExecutionError(3, 1, "", name, text, [])

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    result = CliRunner().invoke(cli.main, ["run", "02", "--out", str(tmp_path)])
    assert result.exit_code == code and text in result.stderr and result.stderr.count("\n") == 1
