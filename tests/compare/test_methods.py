"""The methods of a board in numbers, against slow loops."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from planted import CLASSES, Y, board_of, leave_run

from labutil import evaluation
from labutil.compare import methods, results, significance


def plant(root, **seeds):
    """The board of runs of lessons 02, 05 and 06, of so many seeds each."""
    notebooks = {"supervised": "02_supervised_baseline", "supcon": "05_supcon", "autoencoder": "06_autoencoder"}
    for name, count in seeds.items():
        for seed in range(count):
            leave_run(root, notebooks[name], seed=seed)
    return board_of(root)


def test_summary_is_mean_and_spread_over_seeds(tmp_path):
    board = plant(tmp_path, supervised=3, supcon=1)
    table = methods.summary(board)
    for method in board.methods:
        accuracies = [(p.argmax(1) == Y).mean() for p in method.probabilities]
        f1 = [evaluation.classification_metrics(Y, p)["macro_f1"] for p in method.probabilities]
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
    assert table.seeds.tolist() == [3, 1]
    assert table.train_seconds.tolist() == table.seconds.tolist() == [11, 10]
    assert table.feature_seconds.isna().all()


def test_features_are_charged_and_what_only_some_runs_say_is_unknown(tmp_path):
    for seed, seconds in enumerate((40.0, 50.0)):
        leave_run(tmp_path, "03_transfer_learning", seed=seed, metrics={"feature_seconds": seconds})
    assert methods.summary(board_of(tmp_path)).seconds.tolist() == [10.5 + 45]
    leave_run(tmp_path, "03_transfer_learning", seed=2)  # of a version that did not say
    assert methods.summary(board_of(tmp_path)).seconds.isna().all()


def test_pairs_are_the_statistics_of_every_two(tmp_path):
    for seed in (0, 1, 2):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed, share=0.5)
        leave_run(tmp_path, "04_simclr", seed=seed, share=0.5, params={"method": "simclr"})
        leave_run(tmp_path, "05_supcon", seed=seed, share=0.85)
    board = board_of(tmp_path)
    table = methods.pairs(board, replicates=300)
    assert list(zip(table.a, table.b, strict=True)) == [
        ("supervised", "SimCLR"), ("supervised", "SupCon"), ("SimCLR", "SupCon"),
    ]  # fmt: skip
    assert table.p_holm.to_numpy() == pytest.approx(significance.holm(table.p))
    assert table.evidence.tolist() == [False, True, True]
    assert table.words[0].startswith("no evidence of a difference between")
    assert table.words[2].startswith("SupCon is ahead of SimCLR")
    for row, (a, b) in zip(table.itertuples(), itertools.combinations(board.methods, 2), strict=True):
        scores = [significance.score(Y, m.y_pred) for m in (a, b)]
        resampled = [significance.resample(Y, m.y_pred, replicates=300) for m in (a, b)]
        alone = significance.difference(scores, resampled, seed_std=methods.seed_std(board)[0])
        assert (row.difference, row.low, row.high, row.p) == pytest.approx(alone[:4])
        assert (row.p_images, row.p_seeds) == pytest.approx(significance.p_by_cause(scores, resampled))


def test_spread_between_seeds_is_pooled_or_assumed(tmp_path):
    assert methods.seed_std(plant(tmp_path, supervised=1)) == (significance.ASSUMED_SEED_STD, False)
    board = plant(tmp_path, supcon=3, autoencoder=2)
    three, two = (significance.score(Y, m.y_pred) for m in board.methods[1:])
    expected = np.sqrt((2 * three.var(ddof=1) + two.var(ddof=1)) / 3)
    assert methods.seed_std(board) == (pytest.approx(expected), True)


def test_where_images_come_in_groups_intervals_are_over_groups(tmp_path):
    slides = [f"slide{i // 24}" for i in range(240)]
    plain, grouped = tmp_path / "plain", tmp_path / "grouped"
    for root, groups in ((plain, None), (grouped, slides)):
        for name, seeds in (("02_supervised_baseline", 1), ("05_supcon", 2)):
            for seed in range(seeds):
                # all of every third slide is wrong
                y = np.where(np.arange(240) // 24 % 3 == seed, (Y + 1) % 4, Y)
                leave_run(root, name, seed=seed, probabilities=np.eye(4)[y], groups=groups)
    over_images, over_groups = board_of(plain), board_of(grouped)
    assert over_images.groups is None and over_groups.groups.tolist() == slides
    a, b = (methods.summary(board).loc["supervised"] for board in (over_images, over_groups))
    assert (a.low, a.high) == significance.wilson(144, 240)
    resampled = significance.resample(Y, over_groups.methods[0].y_pred, groups=np.array(slides))
    assert (b.low, b.high) == significance.interval(np.array([0.6]), resampled)
    assert b.high - b.low > 3 * (a.high - a.low)
    ours, theirs = (methods.compare(board, *board.methods) for board in (over_groups, over_images))
    assert ours.value == theirs.value and ours.high - ours.low > theirs.high - theirs.low
    (note,) = results.collect(grouped).notes
    assert (
        note == "cells: intervals are over 10 groups of test images, not over images, so few that they are too narrow"
    )
    assert results.collect(plain).notes == []


def test_ensemble_averages_one_run_of_every_method(tmp_path):
    assert methods.ensemble(plant(tmp_path, supervised=3)) is None
    board = plant(tmp_path, supcon=2)
    a, b = board.methods
    assert methods.ensemble(board) == pytest.approx((a.probabilities[:2] + b.probabilities) / 2)


def test_recall_agreement_and_images_against_slow_loops(tmp_path):
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed, share=0.6)
        leave_run(tmp_path, "04_simclr", seed=seed, share=0.5, params={"method": "byol"})
    leave_run(tmp_path, "05_supcon", share=0.7)
    board = board_of(tmp_path)
    recall, same = methods.class_recall(board), methods.agreement(board)
    assert recall.index.tolist() == list(CLASSES)
    for method in board.methods:
        for k, name in enumerate(CLASSES):
            each = [(p[k == Y] == k).mean() for p in method.y_pred]
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
        assert set(alone[method.label]) == {i for i in range(len(Y)) if right[m, i] and right[:, i].sum() == 1}
    mean = np.mean([m.probabilities.mean(0) for m in board.methods], 0)
    assert np.all(np.diff(mean[everyone, Y[everyone]]) >= 0)


def test_metric_tables_leave_out_what_nobody_recorded(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline", metrics={"knn_accuracy": 0.3})
    for seed in (0, 1):
        metrics = {"shifted_accuracy": 0.4 + seed / 10, "knn_accuracy": 0.5}
        leave_run(tmp_path, "03_transfer_learning", seed=seed, metrics=metrics)
    columns = {"shifted": "shifted_accuracy", "noise": "noise_accuracy", "k-NN": "knn_accuracy"}
    for again in ({}, {"neighbours": "knn_accuracy"}):  # the same number, once
        mean, std = methods.metric_table(board_of(tmp_path), columns | again)
        assert mean.index.tolist() == ["transfer"]
        assert mean.columns.tolist() == ["shifted", "k-NN"]
        assert mean.loc["transfer", "shifted"] == pytest.approx(0.45)
        assert std.loc["transfer", "shifted"] == pytest.approx(np.std([0.4, 0.5], ddof=1))


def test_drops_are_of_methods_that_were_tested_elsewhere(tmp_path):
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed)
        leave_run(tmp_path, "05_supcon", seed=seed, metrics={"shifted_accuracy": 0.4 + seed / 10})
    board = board_of(tmp_path)
    table, supcon = methods.drops(board), board.find("SupCon")[0]
    assert table.index.tolist() == ["SupCon"]
    home = supcon.metric("test_accuracy")
    expected = significance.drop(home, np.array([0.4, 0.5]), len(Y))
    assert table.loc["SupCon", ["home", "away"]].tolist() == pytest.approx([home.mean(), 0.45])
    assert tuple(table.iloc[0, 2:6]) == pytest.approx(expected[:4])
    assert methods.drops(plant(tmp_path / "none", supervised=1)).empty


def test_label_curves_are_read_where_they_are(tmp_path):
    leave_run(tmp_path, "02_supervised_baseline")
    one, two, three, bad = (
        leave_run(tmp_path, name, params={"method": "simclr"})
        for name in ("05_supcon", "04_simclr", "06_autoencoder", "03_transfer_learning")
    )
    (bad / "label_efficiency.csv").write_text("a,b\n1,2\n")
    assert methods.label_curves(board_of(tmp_path)).empty
    row = {"share": 0.1, "labels": 100, "seed": 0, "accuracy": 0.5, "split": "test"}
    for place, names in ((one, ["layer"]), (two, ["from scratch", "SimCLR"]), (three, ["SimCLR", "pixels"])):
        frame = pd.DataFrame([row | {"method": name, "labels": 100 + i} for i, name in enumerate(names)])
        frame.to_csv(place / "label_efficiency.csv", index=False)
    curves = methods.label_curves(board_of(tmp_path))
    assert curves.method.tolist() == ["SimCLR", "SupCon"]
    assert curves.labels.tolist() == [101, 100]  # the one with the method's name, and the only one
