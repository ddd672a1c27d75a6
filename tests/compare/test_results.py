"""Runs become methods and boards: what is averaged, what is kept apart, and what is left out, by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import Y, board_of, guesses, leave_run

from labutil import evaluation, models, paths, runs
from labutil.compare import results
from labutil.data import load_dataset
from labutil.runs import predict


def test_runs_that_differ_in_nothing_but_seed_are_one_method(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed, params={"lr": 0.1})
    leave_run(tmp_path, "02_supervised_baseline", params={"lr": 0.01})
    leave_run(tmp_path, "05_supcon")
    board = board_of(tmp_path)
    assert [(m.label, len(m.dirs)) for m in board.methods] == [
        ("supervised (lr 0.1)", 3), ("supervised (lr 0.01)", 1), ("SupCon", 1),
    ]  # fmt: skip
    assert [m.label for m in board.find("supervised")] == ["supervised (lr 0.1)", "supervised (lr 0.01)"]
    assert board.find() == board.find("supervised", "SupCon") == board.methods
    assert board.find("transfer") == []


def test_other_data_splits_classes_and_labels_are_boards_of_their_own(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline")
    leave_run(tmp_path, "05_supcon")
    leave_run(tmp_path, "02_supervised_baseline", seed=1, fingerprint="e" * 16)
    leave_run(tmp_path, "02_supervised_baseline", seed=2, classes=("a", "b", "c", "d"))
    leave_run(tmp_path, "02_supervised_baseline", y_true=(Y + 1) % 4, seed=3)
    leave_run(tmp_path, "06_autoencoder", dataset="mnist5k", fingerprint="d" * 16)
    found = results.collect(tmp_path)
    assert len(found.boards) == 5
    assert [m.label for m in found.boards[0].methods] == ["supervised", "SupCon"]
    assert all(len(m.dirs) == 1 for b in found.boards for m in b.methods)
    notes = "\n".join(found.notes)
    for words in (
        "5 sets of test images here", "nothing is averaged or compared across them", "other images or splits",
        "other classes", "other true labels",
    ):  # fmt: skip
        assert words in notes
    assert results.collect(found.boards[0].methods[0].dirs[0]).notes == []


def test_labels_name_what_differs_and_recipes(tmp_path):
    for method in ("simclr", "byol", "barlow_twins"):
        leave_run(tmp_path, "04_simclr", params={"method": method, "tau": 0.1})
    leave_run(tmp_path, "03_transfer_learning", recipe="smoke", params={"epochs": 1, "lr": 0.1})
    leave_run(tmp_path, "03_transfer_learning", params={"epochs": 5, "lr": 0.2})
    assert [m.label for m in board_of(tmp_path).methods] == [
        "transfer (smoke)", "transfer (quick)", "SimCLR", "BYOL", "Barlow Twins",
    ]  # fmt: skip
    leave_run(tmp_path, "04_simclr", params={"method": "simclr", "tau": 0.5})
    leave_run(tmp_path, "04_simclr", params={"method": "simclr", "tau": 0.5, "blur": True, "study": "x"})
    assert {m.label for m in board_of(tmp_path).methods[2:]} == {
        "BYOL", "Barlow Twins", "SimCLR (tau 0.1, without blur)", "SimCLR (tau 0.5, without blur)",
        "SimCLR (tau 0.5, blur true)",
    }  # fmt: skip
    for notebook in ("08_mine", "09_mine"):
        leave_run(tmp_path, notebook, label="zero-shot")
    mine = ["zero-shot (notebook 08_mine)", "zero-shot (notebook 09_mine)"]
    assert [m.label for m in board_of(tmp_path).find("zero-shot")] == mine


def test_labels_of_settings_that_are_written_alike_are_numbered(tmp_path):
    """Of a copy under another name, and of rates that agree in six digits: a table of methods has each label once."""
    for notebook in ("02_supervised_baseline", "my_copy"):
        for lr in (0.1, 0.2, 0.20000000001):
            leave_run(tmp_path, notebook, label="supervised", params={"lr": lr, "epochs": 1})
    labels = [m.label for m in board_of(tmp_path).methods]
    assert len(set(labels)) == 6
    assert "supervised (lr 0.1, notebook my_copy, no. 4)" in labels


def change(directory, without=(), **facts):
    record = json.loads((directory / "run.json").read_text()) | facts
    runs.write_json(directory / "run.json", {k: v for k, v in record.items() if k not in without})


def test_a_run_without_a_label_is_called_by_its_notebook_if_it_trained_something(tmp_path):
    leave_run(tmp_path, "08_mine", fits={"anything": {"epochs": 3}})
    leave_run(tmp_path, "09_mine", model="resnet8")
    leave_run(tmp_path, "10_mine", label="zero-shot")
    old = leave_run(tmp_path, "02_supervised_baseline", model="resnet8", label="")
    change(old, without=["label"])  # as runs were recorded before there were labels
    nothing = leave_run(tmp_path, "11_mine")
    found = results.collect(tmp_path)
    assert [m.label for m in found.boards[0].methods] == ["02_supervised_baseline", "08_mine", "09_mine", "zero-shot"]
    assert found.left_out == [(nothing, results.NO_METHOD)]


def test_of_runs_that_agree_in_everything_the_newest_counts(tmp_path):
    new, old = (
        leave_run(tmp_path, "02_supervised_baseline", started=f"2026-01-0{day}T00:00:00+00:00") for day in (2, 1)
    )
    found = results.collect(tmp_path)
    assert list(found.boards[0].methods[0].dirs) == [new]
    assert found.left_out == [(old, "a newer run has the same settings and seed")]


def rewrite(**arrays):
    """Change or (None) leave out arrays of predictions.npz."""

    def how(directory):
        with np.load(directory / "predictions.npz") as file:
            kept = dict(file) | arrays
        np.savez(directory / "predictions.npz", **{k: v for k, v in kept.items() if v is not None})

    return how


def write(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def fail(directory):
    change(directory, status="failed")
    (directory / "error.txt").write_text("02 failed in cell [3]: ValueError: lr\n\nTraceback ...\n")


def truncate(directory):
    path = directory / "predictions.npz"
    path.write_bytes(path.read_bytes()[:-200])


def garble(directory):  # the archive's directory is whole, its content is not
    path = directory / "predictions.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


P = guesses(Y, 0.7, 0)
SPOILED = [
    (fail, "failed: 02 failed in cell [3]: ValueError: lr"),
    (lambda d: change(d, status="failed"), "failed"),
    (lambda d: change(d, status="pruned"), "pruned"),
    (lambda d: change(d, status="running"), "not complete but running"),
    (write("run.json", b'{"status": "comp'), "foreign or corrupt"),
    (write("run.json", b'{"name": "package"}'), "foreign or corrupt"),
    (write("run.json", b'{"status": "complete", "loss": 3}'), "foreign: its run.json"),
    (lambda d: change(d, dataset=None), "names no data set"),
    (lambda d: change(d, dataset={"name": "cells"}), "names no data set"),
    (lambda d: (d / "predictions.npz").unlink(), "no predictions.npz"),
    (write("predictions.npz", b"text"), "corrupt predictions.npz"),
    (write("predictions.npz", b""), "corrupt predictions.npz"),
    (truncate, "corrupt predictions.npz"),
    (garble, "corrupt predictions.npz"),
    (rewrite(y_true=None), "corrupt predictions.npz"),
    (rewrite(y_true=Y[:-1]), "corrupt predictions.npz"),
    (rewrite(index=np.arange(len(Y))[::-1]), "index is not 0 to N - 1"),
    (rewrite(probabilities=np.full_like(P, np.nan)), "corrupt predictions.npz"),
    (rewrite(probabilities=P * 3), "corrupt predictions.npz"),
    (rewrite(probabilities=np.array([{}], object)), "corrupt predictions.npz"),
    (rewrite(probabilities=np.c_[P, np.zeros(len(P))]), "5 columns for 4 classes"),
    (rewrite(groups=np.array(["slide"])), "1 groups for 240 images"),
    (rewrite(probabilities=np.roll(P, 1, axis=1)), "run.json says"),
    (lambda d: change(d, label=None), results.NO_METHOD),
]


def test_every_run_that_cannot_be_used_is_named_with_its_reason(tmp_path):
    good = leave_run(tmp_path, "05_supcon")
    wanted = {}
    for seed, (spoil, reason) in enumerate(SPOILED):
        directory = leave_run(tmp_path, "02_supervised_baseline", seed=seed)
        spoil(directory)
        wanted[directory] = reason
    wanted |= {leave_run(tmp_path, name): results.NO_METHOD for name in ("01_data_cleaning", "07_comparison")}
    found = results.collect(tmp_path)
    assert [list(method.dirs) for board in found.boards for method in board.methods] == [[good]]
    reasons = dict(found.left_out)
    assert set(reasons) == set(wanted)
    for directory, expected in wanted.items():
        assert expected in reasons[directory] and "\n" not in reasons[directory], reasons[directory]


def test_parameters_are_counted_in_the_file(tmp_path):
    path = leave_run(tmp_path, "02_supervised_baseline", model="resnet8") / "model.safetensors"
    model = models.rebuild({"encoder": "resnet8", "channels": 3, "image_size": 16, "num_classes": 4})
    assert results.count_parameters(path) == models.count_parameters(model)
    for content in (b"", b"abc", b"\xff" * 40):
        path.write_bytes(content)
        assert np.isnan(results.count_parameters(path))
    assert np.isnan(results.count_parameters(tmp_path / "none"))


def test_features_are_of_the_images_that_the_runs_saw(tmp_path):
    data = load_dataset("cells:120", image_size=16)
    known = dict(y_true=data.test.labels.numpy(), classes=data.classes, fingerprint=data.fingerprint)
    leave_run(tmp_path, "02_supervised_baseline", dataset="cells:120", model="resnet8", **known)
    leave_run(tmp_path, "05_supcon", dataset="cells:120", **known)
    board = board_of(tmp_path)
    index = np.array([3, 1, 2])
    h = results.features(board, board.methods[0], index)
    model, _ = predict.load_model(board.methods[0].dirs[0])
    assert np.allclose(h, evaluation.predict(model.encoder, data.test.images[index]), atol=1e-3)
    with pytest.raises(paths.DataError, match="keeps no model"):
        results.features(board, board.methods[1], index)
    few = load_dataset("cells:120", image_size=16, classes=data.classes[:4])  # the others were held out
    part = {"y_true": few.test.labels.numpy(), "classes": few.classes, "fingerprint": few.fingerprint}
    leave_run(tmp_path / "held", "04_simclr", dataset="cells:120", model="resnet8", **part)
    board = board_of(tmp_path / "held")
    h = results.features(board, board.methods[0], np.arange(len(few.test)))
    model, _ = predict.load_model(board.methods[0].dirs[0])
    assert np.allclose(h, evaluation.predict(model.encoder, few.test.images), atol=1e-3)
    leave_run(tmp_path / "other", "05_supcon", dataset="cells:60", model="resnet8", **known)
    board = board_of(tmp_path / "other")
    with pytest.raises(results.DataError, match="cells:60 is no longer what the runs saw"):
        results.features(board, board.methods[0], index)
