"""Runs become methods, boards and tables: what is averaged, what is kept apart, and what is left out, by name."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from planted import CLASSES, guesses, leave_run, some_labels

from labutil import evaluation, models, runs
from labutil.compare import methods, results, significance

Y = some_labels()


def board_of(root):
    (board,) = results.collect(root).boards
    return board


def test_seeds_are_averaged_and_nothing_else(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed, params={"lr": 0.1})
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=0, params={"lr": 0.01})
    leave_run(tmp_path, "05_supcon", y_true=Y, seed=0)
    board = board_of(tmp_path)
    assert [(m.label, len(m.members)) for m in board.methods] == [
        ("supervised (lr 0.1)", 3), ("supervised (lr 0.01)", 1), ("SupCon", 1),
    ]  # fmt: skip
    table = methods.summary(board)
    for method in board.methods:
        accuracies = [(m.probabilities.argmax(1) == Y).mean() for m in method.members]
        f1 = [evaluation.classification_metrics(Y, m.probabilities)["macro_f1"] for m in method.members]
        row = table.loc[method.label]
        assert row.accuracy == pytest.approx(np.mean(accuracies))
        assert row.macro_f1 == pytest.approx(np.mean(f1))
        assert row.low < row.accuracy < row.high
        if len(accuracies) > 1:
            assert row.accuracy_std == pytest.approx(np.std(accuracies, ddof=1))
        else:
            assert np.isnan(row.accuracy_std)
            right = round(accuracies[0] * len(Y))
            assert (row.low, row.high) == pytest.approx(significance.wilson(right, len(Y)))
    assert table.seeds.tolist() == [3, 1, 1]
    assert table.train_seconds.tolist() == [11, 10, 10]


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
    spoil(lambda d: None, "lesson 01 prepares data", notebook="01_data_cleaning")
    spoil(lambda d: None, "lesson 07 compares", notebook="07_comparison")
    found = results.collect(tmp_path)
    assert [m.dir for b in found.boards for method in b.methods for m in method.members] == [good]
    reasons = dict(found.left_out)
    assert set(reasons) == set(wanted)
    for directory, expected in wanted.items():
        assert expected in reasons[directory], reasons[directory]
        assert "\n" not in reasons[directory]


def test_pairs_are_the_statistics_of_every_two(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed, share=0.5)
        leave_run(tmp_path, "04_simclr", y_true=Y, seed=seed, share=0.5, params={"method": "simclr"})
        leave_run(tmp_path, "05_supcon", y_true=Y, seed=seed, share=0.85)
    board = board_of(tmp_path)
    table = methods.pairs(board, replicates=300)
    assert table[["a", "b"]].to_numpy().tolist() == [
        ["supervised", "SimCLR"], ["supervised", "SupCon"], ["SimCLR", "SupCon"],
    ]  # fmt: skip
    assert table.p_holm.to_numpy() == pytest.approx(significance.holm(table.p))
    assert table.evidence.tolist() == [False, True, True]
    assert table.words[0].startswith("no evidence of a difference between")
    assert table.words[2].startswith("SupCon is ahead of SimCLR")
    for row, (a, b) in zip(table.itertuples(), itertools.combinations(board.methods, 2), strict=True):
        alone = methods.compare(board, a, b, replicates=300)
        assert (row.difference, row.low, row.high, row.p) == pytest.approx(
            (alone.value, alone.low, alone.high, alone.p)
        )
        test = significance.mcnemar(a.y_pred[0] == Y, b.y_pred[0] == Y)
        assert (row.only_a, row.only_b, row.p_mcnemar) == (test.only_a, test.only_b, test.p)


def test_spread_between_seeds_is_pooled_or_assumed(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y)
    assert methods.seed_std(board_of(tmp_path)) == (significance.ASSUMED_SEED_STD, False)
    for seed in (0, 1, 2):
        leave_run(tmp_path, "05_supcon", y_true=Y, seed=seed)
    for seed in (0, 1):
        leave_run(tmp_path, "06_autoencoder", y_true=Y, seed=seed)
    board = board_of(tmp_path)
    three, two = (significance.score(Y, m.y_pred) for m in board.methods[1:])
    expected = np.sqrt((2 * three.var(ddof=1) + two.var(ddof=1)) / 3)
    assert methods.seed_std(board) == (pytest.approx(expected), True)


def test_ensemble_averages_one_run_of_every_method(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed)
    assert methods.ensemble(board_of(tmp_path)) is None
    for seed in (0, 1):
        leave_run(tmp_path, "05_supcon", y_true=Y, seed=seed)
    a, b = board_of(tmp_path).methods
    together = methods.ensemble(board_of(tmp_path))
    assert together.shape == (2, len(Y), 4)
    for s in range(2):
        assert np.allclose(together[s], (a.members[s].probabilities + b.members[s].probabilities) / 2)


def test_recall_agreement_and_images_against_slow_loops(tmp_path):
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", y_true=Y, seed=seed, share=0.6)
        leave_run(tmp_path, "04_simclr", y_true=Y, seed=seed, share=0.5, params={"method": "byol"})
    leave_run(tmp_path, "05_supcon", y_true=Y, share=0.7)
    board = board_of(tmp_path)
    recall, same = methods.class_recall(board), methods.agreement(board)
    assert recall.index.tolist() == list(CLASSES)
    for method in board.methods:
        for k, name in enumerate(CLASSES):
            mine = k == Y
            each = [(p[mine] == k).mean() for p in method.y_pred]
            assert recall.loc[name, method.label] == pytest.approx(np.mean(each))
        for other in board.methods:
            values = [
                np.mean(p == q)
                for (i, p), (j, q) in itertools.product(enumerate(method.y_pred), enumerate(other.y_pred))
                if method is not other or i != j
            ]
            expected = np.mean(values) if values else np.nan
            assert same.loc[method.label, other.label] == pytest.approx(expected, nan_ok=True)
    right = methods.right_images(board)
    everyone, alone = methods.hardest(board), methods.only_one_right(board)
    assert set(everyone) == {i for i in range(len(Y)) if not any(r[i] for r in right)}
    for m, method in enumerate(board.methods):
        mine = {i for i in range(len(Y)) if right[m, i] and right[:, i].sum() == 1}
        assert set(alone[method.label]) == mine
    mean = np.mean([np.mean([r.probabilities for r in m.members], 0) for m in board.methods], 0)
    assert np.all(np.diff(mean[everyone, Y[everyone]]) >= 0)


def test_metric_tables_leave_out_what_nobody_recorded(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y, metrics={"knn_accuracy": 0.3})
    for seed in (0, 1):
        metrics = {"shifted_accuracy": 0.4 + seed / 10, "knn_accuracy": 0.5}
        leave_run(tmp_path, "03_transfer_learning", y_true=Y, seed=seed, metrics=metrics)
    columns = {"shifted": "shifted_accuracy", "noise": "noise_accuracy", "k-NN": "knn_accuracy"}
    mean, std = methods.metric_table(board_of(tmp_path), columns)
    assert mean.index.tolist() == ["transfer"]
    assert mean.columns.tolist() == ["shifted", "k-NN"]
    assert mean.loc["transfer", "shifted"] == pytest.approx(0.45)
    assert std.loc["transfer", "shifted"] == pytest.approx(np.std([0.4, 0.5], ddof=1))
    mean, _ = methods.metric_table(board_of(tmp_path), columns | {"neighbours": "knn_accuracy"})
    assert mean.columns.tolist() == ["shifted", "k-NN"]  # the same number, once


def test_label_curves_are_read_where_they_are(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline", y_true=Y)
    one = leave_run(tmp_path, "05_supcon", y_true=Y)
    two = leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": "simclr"})
    bad = leave_run(tmp_path, "03_transfer_learning", y_true=Y)
    row = {"share": 0.1, "labels": 100, "seed": 0, "accuracy": 0.5, "split": "test"}
    pd.DataFrame([row | {"method": "supcon"}]).to_csv(one / "label_efficiency.csv", index=False)
    several = [row | {"method": name} for name in ("linear", "from scratch")]
    pd.DataFrame(several).to_csv(two / "label_efficiency.csv", index=False)
    (bad / "label_efficiency.csv").write_text("a,b\n1,2\n")
    curves = methods.label_curves(board_of(tmp_path))
    assert curves.method.tolist() == ["SimCLR: linear", "SimCLR: from scratch", "SupCon"]
    (two / "label_efficiency.csv").unlink()
    (one / "label_efficiency.csv").unlink()
    assert methods.label_curves(board_of(tmp_path)).empty


def test_parameters_are_counted_in_the_file(tmp_path):

    directory = leave_run(tmp_path, "02_supervised_baseline", y_true=Y, model="resnet8")
    model = models.rebuild({"encoder": "resnet8", "channels": 3, "image_size": 16, "num_classes": 4})
    counted = results.count_parameters(directory / "model.safetensors")
    assert counted == models.count_parameters(model)
    for content in (b"", b"abc", b"\xff" * 40):
        (directory / "model.safetensors").write_bytes(content)
        assert np.isnan(results.count_parameters(directory / "model.safetensors"))
    assert np.isnan(results.count_parameters(directory / "none"))


def test_find_names_methods_by_notebook_and_parameters(tmp_path):
    leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": "byol"})
    leave_run(tmp_path, "04_simclr", y_true=Y, params={"method": "simclr"})
    board = board_of(tmp_path)
    assert [m.label for m in board.find(notebook="04")] == ["BYOL", "SimCLR"]
    assert [m.label for m in board.find(notebook="04", method="byol")] == ["BYOL"]
    assert board.find(notebook="02") == []
    assert board.find(tau=1) == []
