"""Grading notebooks: what of them is executed, what crosses over, hidden inputs, messages, and the command."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from labutil import checks, cli
from labutil.course import answering, grading, wire
from labutil.course.checks.frame import unseen
from labutil.course.exercises import exercises
from labutil.paths import DataError
from labutil.runs import parameters

LESSONS = sorted(parameters.NOTEBOOKS.glob("0*.ipynb"))
SOLVED = {e.name: e for lesson in LESSONS for e in exercises(lesson) if e.code}
PLANS = ("fair_sweep", "fair_heads", "temperature_sweep", "fair_views")  # are asked for nothing
linux = pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")


def notebook(*cells, lesson=None):
    cells = [{"cell_type": "code", "metadata": {}, "source": source, "outputs": []} for source in cells]
    named = {"labutil": {"lesson": lesson}} if lesson else {}
    return json.dumps({"cells": cells, "metadata": named, "nbformat": 4, "nbformat_minor": 5})


def copy(lesson, *, solved, predicted=5):
    """A student's copy of a lesson, untouched or with its solutions put in."""
    document = json.loads(lesson.read_text(encoding="utf-8"))
    by_stub = {e.stub: e for e in exercises(lesson)} if solved else {}
    cells = []
    for cell in document["cells"]:
        source = "".join(cell["source"])
        if exercise := by_stub.get(cell["id"]):
            source = exercise.code or source.replace("None", str(predicted))
        if "solution" not in cell["metadata"].get("tags", []):
            cells.append(cell | {"source": source})
    return json.dumps(document | {"cells": cells})


def grade(where, **options):
    try:
        return {Path(record["file"]).stem: record for record in grading.grade(where, **options)}
    except DataError as error:
        if "cannot be contained here" in str(error):
            pytest.skip(str(error))
        raise


def statuses(record):
    return {row["status"] for row in record["exercises"]}


def through(value):
    """A value as it comes out at the other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrays = []
        wire.send(ours, {"value": wire.encode(value, arrays)}, arrays)
        message, found = wire.receive(theirs, time.monotonic() + 5)
        return wire.decode(message["value"], found)


def test_values_cross_over_as_they_are():
    plain = [None, ..., True, 3, -2.5, float("inf"), "ö\0", (1, [2]), {1, 2}, range(2, 9, 3), {"a": (1,), 2: {}}]
    for value in plain:
        assert through(value) == value and type(through(value)) is type(value)
    for array in (np.arange(6.0).reshape(2, 3), np.zeros((0, 4), bool), np.array(3, np.int32), np.arange(4)[::2]):
        assert np.array_equal(through(array), array) and through(array).dtype == array.dtype
        assert torch.equal(through(torch.from_numpy(array.copy())), torch.from_numpy(array.copy()))
    assert isinstance(through(np.float64(0.5)), np.float64)
    for value in (object(), np.array([object()]), np.array(["text"]), lambda: 0, [object()]):
        with pytest.raises(TypeError, match="cannot be judged"):
            wire.encode(value, [])
    with pytest.raises(TypeError, match="too large"):
        through(np.zeros(wire.LIMIT // 8 + 1))


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack(">II", 2**31, 0),
        struct.pack(">II", 10, 2**31),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">II", 4, 0) + b"nope",
        *(
            struct.pack(">II", len(text), 8) + text + bytes(8)
            for text in (
                b'{"arrays": [["<f8", [1000000000]]], "value": null}',
                b'{"arrays": [["|O", [1]]], "value": null}',
                b'{"arrays": [["<f8", [-1]]], "value": null}',
                b'{"arrays": 3, "value": null}',
                b'{"arrays": [], "value": {"kind": "tensor", "of": 0}}',
                b'{"arrays": [], "value": {"kind": "range", "of": [0, 1000000000000]}}',
                b'{"arrays": [], "value": {"kind": "eval", "of": "1"}}',
                b'{"arrays": [], "value": {"kind": "dict", "of": [[{"kind": "list", "of": []}, 1]]}}',
                b'{"arrays": [], "value": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            )
        ),
    ],
)
def test_a_message_that_lies_is_refused(raw):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(raw)
        with pytest.raises(wire.BadMessage):
            message, found = wire.receive(theirs, time.monotonic() + 5)
            wire.decode(message["value"], found)


def test_only_what_an_answer_is_made_of_is_executed():
    cells = [
        "import torch\nimport numpy as np, math\n%matplotlib inline\n!pip install x",
        "data = load_dataset('cells')\nEPS = 1e-6\nhelper_scale = 2",
        "def unused(): pass\n\ndef helper(x):\n    return scale(x) + EPS",
        "def scale(x):\n    return helper_scale * x  # defined after who uses it",
        "def my_answer(x):\n    return None",
        "print('training'); fit()",
        "WEIGHTS = torch.ones(3)\n\ndef my_answer(x):\n    data = WEIGHTS\n    return helper(x) * math.pi * data\n\n"
        "found = lab.checks.answer(my_answer).or_use(ours)",
        "x = my_answer(data)",
        "this is no Python",
    ]
    text = "\n".join(map(answering.ast.unparse, answering.needed(cells, "my_answer")))
    assert text.splitlines()[:2] == ["import torch", "import numpy as np, math"]
    for wanted in ("EPS = 1e-06", "def helper", "def scale", "helper_scale = 2", "WEIGHTS = torch.ones(3)"):
        assert wanted in text
    for unwanted in ("load_dataset", "unused", "return None", "training", "checks", "x = my_answer"):
        assert unwanted not in text
    space = {}
    exec(text, space)
    assert space["my_answer"](1)[0] == pytest.approx(2.000001 * np.pi)
    later = answering.needed([*cells, "def my_step(x):\n    return found(x)"], "my_step")  # the lesson's own
    assert [answering.ast.unparse(s) for s in later[:-1]] == ["found = ours"]
    with pytest.raises(answering.Missing):
        answering.needed(cells, "my_other")
    with pytest.raises(SyntaxError):
        answering.needed([*cells[:4], "def my_answer(x:\n    return 3"], "my_answer")


def solution(exercise):
    space = {"np": np, "torch": torch, "F": torch.nn.functional}
    exec(exercise.code, space)
    return space[exercise.answer]


@pytest.mark.parametrize("name", [name for name in SOLVED if name not in PLANS])
def test_hidden_inputs_are_fair_and_cannot_be_foreseen(name):
    right, seen, check = solution(SOLVED[name]), [], getattr(checks, name)

    def watched(*args):
        seen.append(right(*args))
        return seen[-1]

    assert check(watched).status == "passed"
    for seed in range(100):
        token = unseen.set(np.random.default_rng(seed))
        try:
            assert check(right).status == "passed", (name, seed, check(right))
            if name != "training_step":  # it is asked for weights as well
                again = iter(seen + seen)
                assert check(lambda *args, again=again: next(again)).status == "failed", (name, seed)
        finally:
            unseen.reset(token)


WRONG = {  # {name: (cells, the exercise, what is said)}
    "sum": (
        "import torch\ndef my_cross_entropy(z, y):\n    return (z.logsumexp(1) - z[range(len(y)), y]).sum()",
        "cross_entropy",
        "that is the sum over the batch; divide by N",
    ),
    "detached": (
        "def my_cross_entropy(z, y):\n    return (z.logsumexp(1) - z[range(len(y)), y]).mean().item()",
        "cross_entropy",
        "no gradient comes back",
    ),
    "library": (
        "import torch.nn.functional as F\ndef my_cross_entropy(z, y): return 1 * F.cross_entropy(z, y)",
        "cross_entropy",
        "torch.nn.functional.cross_entropy is the answer itself",
    ),
    "hidden library": (
        "import torch.nn.functional as F\ndef my_cross_entropy(z, y, loss=F.cross_entropy): return loss(z, y)",
        "cross_entropy",
        "torch.nn.functional.cross_entropy is the answer itself",
    ),
    "no zero_grad": (
        "import torch.nn.functional as F\ndef my_update(model, optimizer, x, y):\n"
        "    loss = F.cross_entropy(model(x), y)\n    loss.backward()\n    optimizer.step()\n    return loss.item()",
        "training_step",
        "zero_grad() is missing",
    ),
    "no python": ("def my_macro_f1(confusion:\n    return 1", "macro_f1", "the cell with your answer is no Python"),
    "unknown name": ("def my_macro_f1(confusion): return K", "macro_f1", "name 'K' is not defined (graded are only"),
    "broken cell": ("X = 1 / 0\ndef my_macro_f1(confusion): return X", "macro_f1", "raised ZeroDivisionError"),
    "raises": (
        "class Odd(Exception): pass\ndef my_macro_f1(c): raise Odd('\\x1b[2Jodd')",
        "macro_f1",
        "Odd: \\x1b[2Jodd",
    ),
    "text": ("def my_macro_f1(confusion): return 'passed'", "macro_f1", "the answer must be one number, yours is str"),
    "object": ("def my_macro_f1(confusion): return print", "macro_f1", "a builtin_function_or_method cannot be judged"),
    "plan": (
        'def my_sweep(): return {"grid": {"lr": list(range(1, 101)), "epochs": list(range(1, 101))}, "seeds": [0]}',
        "fair_sweep",
        "more than a thousand runs",
    ),
    "guess": ("my_guess = {'fc1': 90, 'loss': None, 'drop': None}", "guess", "1 of 3 predicted, not yet"),
    "guessed": ("my_guess = {'fc1': open('x'), 'loss': 1, 'drop': 2}", "guess", "raised FileNotFoundError"),
}


@linux
def test_wrong_answers_get_the_checks_own_message(tmp_path):
    for name, (cell, *_) in WRONG.items():
        (tmp_path / f"{name}.ipynb").write_text(notebook(cell, lesson="02_supervised_baseline"), encoding="utf-8")
    for lesson in (LESSONS[1], LESSONS[3]):
        for solved in (True, False):
            (tmp_path / f"{lesson.stem} {solved}.ipynb").write_text(copy(lesson, solved=solved), encoding="utf-8")
    siamese = "def my_siamese_loss(z_a, z_b, p_a, p_b):\n    import torch.nn.functional as F\n"
    siamese += "    return (4 - 2 * F.cosine_similarity(p_a, z_b) - 2 * F.cosine_similarity(p_b, z_a)).mean()"
    (tmp_path / "=04.ipynb").write_text(notebook(siamese), encoding="utf-8")  # the lesson is told by the names
    (tmp_path / "none.ipynb").write_text("{}")
    (tmp_path / "linked.ipynb").symlink_to(tmp_path / "sum.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    records = grade(tmp_path)
    for name, (_, exercise, said) in WRONG.items():
        row = next(row for row in records[name]["exercises"] if row["exercise"] == exercise)
        assert row["status"] == "failed" and said in row["message"], row
        assert {r["status"] for r in records[name]["exercises"] if r is not row} == {"not attempted"}
    for lesson in (LESSONS[1], LESSONS[3]):
        assert statuses(records[f"{lesson.stem} True"]) == {"passed"}
        assert statuses(records[f"{lesson.stem} False"]) == {"not attempted"}
    assert records["=04"]["lesson"] == "04_simclr"
    assert "a gradient reaches z" in next(r for r in records["=04"]["exercises"] if "siam" in r["answer"])["message"]
    for name, said in (("none", "is no notebook"), ("linked", "no plain file"), ("pipe", "no plain file")):
        assert said in records[name]["error"] and not grading.passed(records[name])
    table = list(csv.reader(io.StringIO(grading.as_csv(list(records.values())))))
    assert not [cell for row in table for cell in row if cell.startswith(("=", "+", "@"))]
    assert json.loads(grading.as_json(list(records.values())))[0]["passed"] is False


def test_what_is_no_notebook_exits_2_with_one_line(tmp_path):
    (tmp_path / "a.ipynb").write_text("no JSON")
    (tmp_path / "deep.ipynb").write_text("[" * 100_000)
    (tmp_path / "cut.ipynb").write_text(notebook("x = 1")[:-9])
    (tmp_path / "other.ipynb").write_text(notebook("x = 1"))
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("a.ipynb", "is no notebook (JSONDecodeError)"),
        ("deep.ipynb", "is no notebook (RecursionError)"),
        ("cut.ipynb", "or a damaged one: save it in Jupyter and hand in that file"),
        ("other.ipynb", "is no copy of a lesson"),
        ("missing.ipynb", "does not exist"),
        ("empty", "holds no notebook"),
    ):
        result = CliRunner().invoke(cli.main, ["grade", str(tmp_path / name)])
        assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_where_nothing_can_be_contained_it_refuses(tmp_path, monkeypatch):
    (tmp_path / "a.ipynb").write_text(copy(LESSONS[3], solved=True), encoding="utf-8")

    def refused(*args):
        raise DataError("nothing was run, since submissions cannot be contained here")

    monkeypatch.setattr(grading.contained, "start", refused)
    result = CliRunner().invoke(cli.main, ["grade", str(tmp_path / "a.ipynb")])
    assert result.exit_code == 2 and "cannot be contained here" in result.stderr


@linux
@pytest.mark.long
def test_every_solution_passes_and_every_stub_is_not_attempted(tmp_path):
    for lesson in LESSONS:
        for solved in (True, False):
            (tmp_path / f"{lesson.stem} {solved}.ipynb").write_text(copy(lesson, solved=solved), encoding="utf-8")
    for confined in (True, False):
        for name, record in grade(tmp_path, confined=confined).items():
            assert statuses(record) == {"passed" if name.endswith("True") else "not attempted"}, record


@linux
@pytest.mark.long
def test_fifty_copies_are_graded(tmp_path):
    for number in range(50):
        text = copy(LESSONS[3], solved=True, predicted=number)
        (tmp_path / f"{number:02}.ipynb").write_text(text, encoding="utf-8")
    began = time.monotonic()
    records = grade(tmp_path)
    print(f"50 copies in {time.monotonic() - began:.0f} s")
    assert len(records) == 50 and all(map(grading.passed, records.values()))
