"""Runs become methods and boards: what is averaged, what is kept apart, and what is left out, by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import board_of, guesses, leave_run, some_labels

from labutil import evaluation, models, paths, runs
from labutil.compare import results
from labutil.data import load_dataset
from labutil.runs import predict

Y = some_labels()


def test_runs_that_differ_in_nothing_but_seed_are_one_method(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed, params={"lr": 0.1})
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, params={"lr": 0.01})
    leave_run(tmp_path, "05_supcon", y_true=Y)
    board = board_of(tmp_path)
    assert [(m.label, len(m.members)) for m in board.methods] == [
        ("supervised (lr 0.1)", 3), ("supervised (lr 0.01)", 1), ("SupCon", 1),
    ]  # fmt: skip
    assert [m.label for m in board.find("supervised")] == ["supervised (lr 0.1)", "supervised (lr 0.01)"]
    assert board.find() == board.find("supervised", "SupCon") == list(board.methods)
    assert board.find("transfer") == []


def test_other_data_splits_classes_and_labels_are_boards_of_their_own(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y)
    leave_run(tmp_path, "05_supcon", y_true=Y)
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=1, fingerprint="e" * 16)
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=2, classes=("a", "b", "c", "d"))
    leave_run(tmp_path, "02_supervised_baseline", y_true=(Y + 1) % 4, seed=3)
    leave_run(tmp_path, "06_autoencoder", y_true=Y, dataset="mnist5k", fingerprint="d" * 16)
    found = results.collect(tmp_path)
    assert len(found.boards) == 5
    assert [m.label for m in found.boards[0].methods] == ["supervised", "SupCon"]
    assert all(len(m.members) == 1 for b in found.boards for m in b.methods)
    notes = "\n".join(found.notes)
    assert "5 sets of test images here" in notes
    assert "nothing is averaged or compared across them" in notes
    assert "other images or splits" in notes
    assert "other classes" in notes
    assert "other true labels" in notes
    assert results.collect(found.boards[0].methods[0].members[0].dir).notes == []


def test_labels_name_what_differs_and_recipes(tmp_path):
    for method in ("simclr", "byol", "barlow_twins"):
        leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": method, "tau": 0.1})
    leave_run(tmp_path, "03_transfer_learning", y_true=Y, recipe="smoke", params={"epochs": 1, "lr": 0.1})
    leave_run(tmp_path, "03_transfer_learning", y_true=Y, params={"epochs": 5, "lr": 0.2})
    assert [m.label for m in board_of(tmp_path).methods] == [
        "transfer (smoke)", "transfer (quick)", "SimCLR", "BYOL", "Barlow Twins",
    ]  # fmt: skip
    leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": "simclr", "tau": 0.5})
    leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": "simclr", "tau": 0.5, "blur": True, "study": "x"})
    labels = [m.label for m in board_of(tmp_path).methods if m.notebook == "04_simclr"]
    assert "BYOL" in labels
    assert len(set(labels)) == 5
    assert sum("tau 0.5" in label for label in labels) == 2
    assert not any("study" in label for label in labels)


def test_a_run_without_a_label_is_called_by_its_notebook_if_it_trained_something(tmp_path):
    leave_run(tmp_path, "08_mine", y_true=Y, fits={"anything": {"epochs": 3}})
    leave_run(tmp_path, "09_mine", y_true=Y, model="resnet8")
    leave_run(tmp_path, "10_mine", y_true=Y, label="zero-shot")
    old = leave_run(tmp_path, "02_supervised_baseline", y_true=Y, model="resnet8", label="")
    record = json.loads((old / "run.json").read_text())
    del record["label"]  # as runs were recorded before there were labels
    runs.write_json(old / "run.json", record)
    nothing = leave_run(tmp_path, "11_mine", y_true=Y)
    found = results.collect(tmp_path)
    assert [m.label for m in found.boards[0].methods] == ["02_supervised_baseline", "08_mine", "09_mine", "zero-shot"]
    assert found.left_out == [(nothing, results.NO_METHOD)]


def test_of_runs_that_agree_in_everything_the_newest_counts(tmp_path):
    old = leave_run(tmp_path, "02_supervised_baseline", y_true=Y, share=0.5, started="2026-01-01T00:00:00+00:00")
    new = leave_run(tmp_path, "02_supervised_baseline", y_true=Y, share=0.9, started="2026-01-02T00:00:00+00:00")
    found = results.collect(tmp_path)
    assert [m.dir for m in found.boards[0].methods[0].members] == [new]
    assert found.left_out == [(old, "a newer run has the same settings and seed")]


def change(directory, **facts):
    record = json.loads((directory / "run.json").read_text())
    runs.write_json(directory / "run.json", record | facts)


def test_every_run_that_cannot_be_used_is_named_with_its_reason(tmp_path):
    good = leave_run(tmp_path, "05_supcon", y_true=Y)

    def spoil(how, expected, notebook="02_supervised_baseline"):
        directory = leave_run(tmp_path, notebook, y_true=Y, seed=len(wanted))
        how(directory)
        wanted[directory] = expected

    def rewrite(**arrays):
        def how(directory):
            with np.load(directory / "predictions.npz") as file:
                kept = {k: file[k] for k in file} | arrays
            np.savez(directory / "predictions.npz", **{k: v for k, v in kept.items() if v is not None})

        return how

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

    wanted = {}
    p = guesses(Y, 0.7, 0, k=4)
    spoil(fail, "failed: 02 failed in cell [3]: ValueError: lr")
    spoil(lambda d: change(d, status="running"), "not complete but running")
    spoil(lambda d: (d / "run.json").write_text('{"status": "comp'), "foreign or corrupt")
    spoil(lambda d: (d / "run.json").write_text('{"name": "package"}'), "foreign or corrupt")
    spoil(lambda d: (d / "run.json").write_text('{"status": "complete", "loss": 3}'), "foreign: its run.json")
    spoil(lambda d: change(d, dataset=None), "names no data set")
    spoil(lambda d: change(d, dataset={"name": "cells"}), "names no data set")
    spoil(lambda d: (d / "predictions.npz").unlink(), "no predictions.npz")
    spoil(lambda d: (d / "predictions.npz").write_text("text"), "corrupt predictions.npz")
    spoil(lambda d: (d / "predictions.npz").write_bytes(b""), "corrupt predictions.npz")
    spoil(truncate, "corrupt predictions.npz")
    spoil(garble, "corrupt predictions.npz")
    spoil(rewrite(y_true=None), "corrupt predictions.npz")
    spoil(rewrite(y_true=Y[:-1]), "corrupt predictions.npz")
    spoil(rewrite(index=np.arange(len(Y))[::-1]), "index is not 0 to N - 1")
    spoil(rewrite(probabilities=np.full_like(p, np.nan)), "corrupt predictions.npz")
    spoil(rewrite(probabilities=p * 3), "corrupt predictions.npz")
    spoil(rewrite(probabilities=np.array([{}], object)), "corrupt predictions.npz")
    spoil(rewrite(probabilities=np.c_[p, np.zeros(len(p))]), "5 columns for 4 classes")
    spoil(rewrite(probabilities=np.roll(p, 1, axis=1)), "run.json says")
    spoil(lambda d: None, results.NO_METHOD, notebook="01_data_cleaning")
    spoil(lambda d: None, results.NO_METHOD, notebook="07_comparison")
    found = results.collect(tmp_path)
    assert [m.dir for b in found.boards for method in b.methods for m in method.members] == [good]
    reasons = dict(found.left_out)
    assert set(reasons) == set(wanted)
    for directory, expected in wanted.items():
        assert expected in reasons[directory], reasons[directory]
        assert "\n" not in reasons[directory]


def test_parameters_are_counted_in_the_file(tmp_path):
    directory = leave_run(tmp_path, "02_supervised_baseline", y_true=Y, model="resnet8")
    model = models.rebuild({"encoder": "resnet8", "channels": 3, "image_size": 16, "num_classes": 4})
    counted = results.count_parameters(directory / "model.safetensors")
    assert counted == models.count_parameters(model)
    for content in (b"", b"abc", b"\xff" * 40):
        (directory / "model.safetensors").write_bytes(content)
        assert np.isnan(results.count_parameters(directory / "model.safetensors"))
    assert np.isnan(results.count_parameters(directory / "none"))


def test_images_and_features_are_those_that_the_runs_saw(tmp_path):
    data = load_dataset("cells:120", image_size=16)
    known = dict(y_true=data.test.labels.numpy(), classes=data.classes, fingerprint=data.fingerprint)
    leave_run(tmp_path, "02_supervised_baseline", dataset="cells:120", model="resnet8", **known)
    leave_run(tmp_path, "05_supcon", dataset="cells:120", **known)
    board = board_of(tmp_path)
    assert np.array_equal(results.test_images(board), data.test.images)
    index = np.array([3, 1, 2])
    h = results.features(board, board.methods[0], index)
    model, _ = predict.load_model(board.methods[0].members[0].dir)
    assert np.allclose(h, evaluation.predict(model.encoder, data.test.images[index]), atol=1e-3)
    with pytest.raises(paths.DataError, match="keeps no model"):
        results.features(board, board.methods[1], index)
    leave_run(tmp_path / "other", "05_supcon", dataset="cells:60", **known)
    with pytest.raises(results.DataError, match="cells:60 is no longer what the runs saw"):
        results.test_images(board_of(tmp_path / "other"))
