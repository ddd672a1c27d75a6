"""`labutil compare`: tables, text and CSV."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from planted import board_of, leave_run

from labutil import cli, paths
from labutil.compare import methods, results, tables


def call(*args):
    return CliRunner().invoke(cli.main, list(map(str, args)))


def fit_of(**changes):
    return {"epochs": 5, "batch_size": 64, "lr": 0.002, "optimizer": "adamw", "schedule": "cosine"} | changes


@pytest.fixture
def planted_runs(tmp_path):
    """Three methods, of two, two and one seed."""
    fits, metrics = {"rival": fit_of(), "supervised": fit_of(epochs_run=3)}, {"random_encoder_knn_accuracy": 0.25}
    for seed in (0, 1):
        leave_run(tmp_path, "02_supervised_baseline", seed=seed, model="resnet8", fits=fits, metrics=metrics)
        leave_run(
            tmp_path, "04_simclr", seed=seed, params={"method": "simclr"}, share=0.5,
            fits={"pretrain": fit_of(lr=0.1), "linear": fit_of(schedule="plateau", optimizer="sgd")},
        )  # fmt: skip
    leave_run(tmp_path, "06_autoencoder", share=0.6, fits={"autoencoder": fit_of()}, params={"loss": "bce"})
    return tmp_path


def test_compare_prints_and_writes_text_and_csv(planted_runs):
    done = call("compare", planted_runs)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    text = (planted_runs / "compare_summary.txt").read_text()
    assert text in done.stdout
    board = board_of(planted_runs)
    accuracies = (board.methods[0].y_pred == board.y_true).mean(1)
    assert f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}" in text
    rows = ["chance", "random encoder, k-NN", "supervised", "SimCLR", "autoencoder", "ensemble of all 3"]
    assert re.findall(rf"^({'|'.join(rows)})  ", text, re.M) == rows
    assert "is ahead of" in text or "no evidence of a difference" in text
    assert "Where a method has one run, seeds are taken to move it by" in text
    frame = pd.read_csv(planted_runs / "compare_summary.csv")
    assert frame.method.tolist() == ["supervised", "SimCLR", "autoencoder", "ensemble"]
    assert frame.accuracy[0] == pytest.approx(np.mean(accuracies))
    assert frame.seeds.tolist() == [2, 2, 1, 1]
    assert set(frame.fingerprint) == {board.fingerprint}
    assert call("compare", planted_runs).stdout == done.stdout  # again, with its own files lying there


def test_effort_is_that_of_all_runs_of_a_name_and_unequal_effort_is_marked(tmp_path):
    fits = {"pretrain": {"images": 1000, "epochs_run": 5}, "linear": {"images": 100, "epochs_run": 10}}
    for tau, seeds in ((0.1, 2), (0.5, 1)):
        for seed in range(seeds):
            leave_run(tmp_path, "04_simclr", seed=seed, params={"method": "simclr", "tau": tau}, fits=fits)
    leave_run(tmp_path, "05_supcon", fits={"SupCon": {"images": 1000, "epochs_run": 8}})
    ends = [("failed", {}), ("pruned", {"images": 1000}), ("diverged", {"images": 9}), ("running", {"images": 500})]
    for i, (status, fit) in enumerate(ends):
        directory = leave_run(tmp_path, "05_supcon", params={"lr": 10.0**i}, fits={"SupCon": fit})
        record = json.loads((directory / "run.json").read_text()) | {"status": status, "seconds": 1800.0}
        (directory / "run.json").write_text(json.dumps(record))
        pd.DataFrame({"fit": ["SupCon"] * 3, "epoch": [1, 2, 3]}).to_csv(directory / "history.csv", index=False)
    board = board_of(tmp_path)
    summary = methods.summary(board)
    assert summary[["trials", "image_passes", "hours"]].to_numpy().tolist() == [
        [2, 18000, 0], [2, 18000, 0], [4, 8000 + 3000 + 27, 1.5],
    ]  # fmt: skip
    leave_run(tmp_path / "cached", "03_transfer_learning", metrics={"feature_seconds": 40.0, "cached_seconds": 36.0})
    assert methods.summary(board_of(tmp_path / "cached")).hours.tolist() == [0.01]
    table = tables.summary_table(board, summary)
    assert table.loc["chance", "trials"] == table.iloc[-1].trials == ""
    assert table["trials"].tolist()[1:4] == ["* 2", "* 2", "4"]
    assert table["image passes"].tolist()[1:4] == ["18,000", "18,000", "11,027"]  # not as little as half
    assert tables.LESS in tables.write(tmp_path)[0]
    assert "Left out" in tables.write(tmp_path)[0] and "pruned" in tables.write(tmp_path)[0]


def test_a_paper_gets_a_table_that_latex_reads(tmp_path, planted_runs):
    for i, dataset in enumerate(("npz:/a_50%&b.npz", "cells")):
        leave_run(planted_runs, "05_supcon", fits={"SupCon": fit_of(images=100, epochs_run=i)})
        leave_run(planted_runs, "08_mine", label=f"50%_of_#{i}", dataset=dataset, fingerprint=16 * f"{i}")
    done = call("compare", planted_runs, "--latex", tmp_path / "table.tex")
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "table.tex").read_text()
    assert [text.count(word) for word in (r"\begin{tabular}", r"\end{tabular}", r"\midrule")] == [3] * 3
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert not re.search(r"(?<!\\)[%_#]|±", "\n".join(lines))
    columns = len(re.search(r"begin{tabular}{(\w+)}", text)[1])
    rows = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
    accuracy = tables.summary_table(board := results.collect(planted_runs).boards[0], methods.summary(board)).accuracy
    assert all(value.replace("±", r"$\pm$") in text for value in accuracy)
    assert r"50\%\_of\_\#0 & quick" in text and r"95\% interval" in text
    assert r"\footnotesize * less effort" in text  # of one board, under it


def test_a_sweep_is_compared_when_it_is_asked_for(tmp_path):
    leave_run(tmp_path / "runs", "02_supervised_baseline")
    for lr in (0.1, 0.01):
        leave_run(tmp_path / "sweeps" / "lr" / "runs", "02_supervised_baseline", params={"lr": lr}, recipe="lr")
    assert "lr 0.1" not in call("compare", tmp_path / "runs").stdout
    text = call("compare", tmp_path / "sweeps" / "lr").stdout
    assert re.findall(r"^supervised \((lr [\d.]+)\)", text, re.M)[:2] == ["lr 0.1", "lr 0.01"]


def test_compare_draws_nothing(planted_runs):
    """Tables come in seconds: no figure, no notebook."""
    code = (
        "import sys; from labutil import cli; cli.main(['compare', sys.argv[1]], standalone_mode=False); "
        "drawn = {'matplotlib', 'seaborn', 'papermill', 'nbconvert'} & set(sys.modules); "
        "sys.exit(str(drawn) if drawn else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, planted_runs], capture_output=True, text=True, check=False)
    assert not done.stderr


def test_settings_table_is_report_a_s(planted_runs):
    table = tables.settings_table(board_of(planted_runs))
    accuracy = table.pop("Test Accuracy")
    assert table.to_dict("list") == {
        "Model": ["supervised", "SimCLR, pretrain", "SimCLR, linear", "autoencoder"],
        "Optimizer": ["adamw", "adamw", "sgd", "adamw"],
        "Scheduler": ["cosine", "cosine", "plateau", "cosine"],
        "Start LR": ["0.002", "0.1", "0.002", "0.002"],
        "Image Size": ["16"] * 4,
        "Batch Size": ["64"] * 4,
        "Epochs": ["3", "5", "5", "5"],
        "Criterion": ["cross-entropy", "InfoNCE", "cross-entropy", "BCE"],
    }
    assert accuracy[1] == ""
    assert ["±" in cell for cell in accuracy] == [True, False, True, False]


def test_settings_of_lessons_that_name_their_trainings_otherwise(tmp_path):
    fits = {"SupCon": fit_of(), "SimCLR": fit_of(), "linear, SimCLR": fit_of(), "linear, SupCon": fit_of(epochs=20)}
    leave_run(tmp_path, "05_supcon", fits=fits)
    fits = {"BasicCNN, 10% of labels, seed 0": fit_of(), "fine-tune": fit_of(lr=0.001), "head 3": fit_of()}
    leave_run(tmp_path, "03_transfer_learning", fits=fits, metrics={"fine_tuned_accuracy": 0.25})
    leave_run(tmp_path, "08_mine", fits={"anything": fit_of()})  # names no criterion
    board = board_of(tmp_path)
    table = tables.settings_table(board)
    tested = [f"{m.metric('test_accuracy')[0]:.4f}" for m in board.methods]
    assert table[["Model", "Test Accuracy", "Criterion", "Epochs", "Batch Size"]].to_numpy().tolist() == [
        ["transfer, fine-tune", "0.2500", "cross-entropy", "5", "64"],
        ["transfer, linear probe on frozen features", tested[0], "", "", ""],
        ["SupCon, pretrain", "", "SupCon", "5", "64"],
        ["SupCon, linear", tested[1], "cross-entropy", "20", "64"],
        ["08_mine", tested[2], "", "", ""],
    ]
    chosen = {"fine_tuned_accuracy": float(np.float32(board.methods[0].metric("test_accuracy")[0]))}
    leave_run(tmp_path / "one", "03_transfer_learning", fits={"fine-tune": fit_of()}, metrics=chosen)
    assert tables.settings_table(board_of(tmp_path / "one"))["Model"].tolist() == ["transfer, fine-tune"]


def test_several_data_sets_have_tables_of_their_own(tmp_path):
    for fingerprint, dataset in (("a" * 16, "npz:/a.npz"), ("b" * 16, "npz:/b.npz")):
        leave_run(tmp_path, "05_supcon", fingerprint=fingerprint, dataset=dataset)
    text = call("compare", tmp_path).stdout
    assert "2 sets of test images here" in text
    assert len(re.findall(r"^=+$", text, re.M)) == 2
    assert "ensemble" not in text  # of one method


def test_usage_errors_are_one_line_and_exit_2(tmp_path):
    (tmp_path / "bad" / "x").mkdir(parents=True)
    (tmp_path / "bad" / "x" / "run.json").write_text("{}")
    for args, message in (
        (("compare", tmp_path / "none"), "is no directory"),
        (("compare", tmp_path / "bad"), "holds no run to compare (x: foreign or corrupt"),
        (("compare", tmp_path, "--latex", tmp_path / "no" / "a.tex"), "is no folder to write into"),
        (("compare",), "is no directory"),  # the project's runs, of which there are none yet
    ):
        done = call(*args)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.startswith("labutil: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "bad" / "compare_summary.txt").exists()
    paths.runs_dir().mkdir()
    assert "holds no run to compare: labutil run all" in call("compare").stderr


def test_many_methods_many_classes_and_strange_names(tmp_path):
    """What a sweep leaves: fourteen settings, 30 classes, names with markup and underscores."""
    known = dict(y_true=np.arange(300) % 30, classes=[f"_<b>${k}" for k in range(30)], dataset="npz:/none.npz")
    for i in range(14):
        leave_run(tmp_path, "02_supervised_baseline", params={"lr": 10.0**-i}, share=0.3 + i / 30, **known)
    done = call("compare", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert len(re.findall(r"is ahead of|no evidence", done.stdout)) == 13  # the best against each other one
