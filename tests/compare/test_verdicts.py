"""Claims against what runs show: agrees, disagrees, or not enough evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import leave_run, some_labels

from labutil import paths
from labutil.compare import results, verdicts

Y = some_labels(400)
LESSON = json.loads((paths.project_root() / "notebooks" / "07_comparison.ipynb").read_text())


def lesson_claims():
    """The claims of the five reports, as lesson 07 lists them."""
    (source,) = ["".join(c["source"]) for c in LESSON["cells"] if "claims = [" in "".join(c["source"])]
    scope = {}
    exec(source, scope)
    return scope["claims"]


def judge(root):
    (board,) = results.collect(root).boards
    return verdicts.judge(board, lesson_claims(), replicates=200).set_index("claim")


def verdict(root, claim):
    return judge(root).loc[claim, "verdict"]


def plant(root, notebook, share, seeds=(0, 1, 2), y_true=Y, **options):
    for seed in seeds:
        leave_run(root, notebook, y_true=y_true, share=share, seed=seed, **options)


def test_without_runs_every_claim_says_what_it_needs(tmp_path):
    plant(tmp_path, "02_supervised_baseline", 0.6)
    table = judge(tmp_path)
    assert len(table) == 10
    assert set(table.verdict) == {verdicts.OPEN}
    assert table.here.str.contains("needs").all()
    assert table.here["larger images are better"].endswith("labutil run 02 -p image_size 96")


@pytest.mark.parametrize(
    ("supcon", "expected"), [(0.8, verdicts.AGREES), (0.3, verdicts.DISAGREES), (0.6, verdicts.OPEN)]
)
def test_better_needs_evidence_either_way(tmp_path, supcon, expected):
    plant(tmp_path, "04_simclr", 0.6, params={"method": "simclr"})
    plant(tmp_path, "05_supcon", supcon)
    table = judge(tmp_path)
    assert table.loc["SupCon is better than SimCLR", "verdict"] == expected
    assert "SupCon against SimCLR" in table.loc["SupCon is better than SimCLR", "here"]
    assert "3 and 3 seeds" in table.loc["SupCon is better than SimCLR", "here"]


def test_small_differences_of_single_runs_are_no_evidence_and_large_ones_are(tmp_path):
    plant(tmp_path / "a", "04_simclr", 0.60, seeds=[0], params={"method": "simclr"})
    plant(tmp_path / "a", "05_supcon", 0.63, seeds=[0])
    assert verdict(tmp_path / "a", "SupCon is better than SimCLR") == verdicts.OPEN
    plant(tmp_path / "b", "04_simclr", 0.5, seeds=[0], params={"method": "simclr"})
    plant(tmp_path / "b", "05_supcon", 0.8, seeds=[0])
    assert verdict(tmp_path / "b", "SupCon is better than SimCLR") == verdicts.AGREES


def test_a_smoke_run_speaks_only_where_there_is_no_other_and_never_against_another_recipe(tmp_path):
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "epochs": 9})
    plant(tmp_path, "05_supcon", 0.8, recipe="smoke")
    table = judge(tmp_path)
    assert table.loc["SupCon is better than SimCLR", "verdict"] == verdicts.OPEN
    assert "of different recipes" in table.loc["SupCon is better than SimCLR", "here"]
    plant(tmp_path, "05_supcon", 0.2, seeds=[0], params={"epochs": 9})
    assert verdict(tmp_path, "SupCon is better than SimCLR") == verdicts.DISAGREES


def test_a_change_of_one_parameter_alone_is_compared(tmp_path):
    for size, share in ((16, 0.4), (32, 0.6), (64, 0.8)):
        plant(tmp_path, "02_supervised_baseline", share, params={"image_size": size})
    plant(tmp_path, "02_supervised_baseline", 0.1, params={"image_size": 128, "lr": 9.0})  # differs in two
    (board,) = results.collect(tmp_path).boards
    found = [(a.params["image_size"], b.params["image_size"]) for a, b in verdicts.changes(board, "image_size")]
    assert found == [(16, 32), (16, 64), (32, 64)]
    assert verdict(tmp_path, "larger images are better") == verdicts.AGREES


def test_best_values_layers_and_batches(tmp_path):
    for tau, share in ((0.05, 0.5), (0.1, 0.8), (0.5, 0.5)):
        plant(tmp_path, "04_simclr", share, params={"method": "simclr", "tau": tau, "batch_size": 64})
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "tau": 0.1, "batch_size": 256})
    for dropout in (0.0, 0.2):
        plant(tmp_path, "06_autoencoder", 0.5 - dropout, params={"dropout": dropout, "filters": [8, 16]})
    plant(tmp_path, "06_autoencoder", 0.5, params={"dropout": 0.2, "filters": [8, 16, 32]})
    table = judge(tmp_path)
    assert table.loc["temperature 0.1 is best", "verdict"] == verdicts.AGREES
    assert table.loc["temperature 0.1 is best", "here"].count(";") == 1  # 0.05 against 0.5 says nothing of 0.1
    assert table.loc["larger contrastive batches are better", "verdict"] == verdicts.DISAGREES
    assert table.loc["dropout 0.2 helps the autoencoder", "verdict"] == verdicts.DISAGREES
    assert table.loc["two layers are better than three", "verdict"] == verdicts.DISAGREES


def test_alike_is_a_claim_that_must_be_shown(tmp_path):
    for method, share in (("simclr", 0.6), ("byol", 0.6), ("barlow_twins", 0.6)):
        plant(tmp_path / "few", "04_simclr", share, params={"method": method}, seeds=[0])
        plant(
            tmp_path / "many", "04_simclr", share, params={"method": method}, seeds=range(6), y_true=some_labels(2000)
        )
        plant(tmp_path / "unlike", "04_simclr", share + 0.2 * (method == "byol"), params={"method": method})
    claim = "SimCLR, BYOL and Barlow Twins are alike"
    assert verdict(tmp_path / "few", claim) == verdicts.OPEN
    assert verdict(tmp_path / "many", claim) == verdicts.AGREES
    assert verdict(tmp_path / "unlike", claim) == verdicts.DISAGREES


@pytest.mark.parametrize(
    ("away", "expected"), [(0.4, verdicts.AGREES), (0.95, verdicts.DISAGREES), (0.79, verdicts.OPEN)]
)
def test_home_and_elsewhere(tmp_path, away, expected):
    rng = np.random.default_rng(0)
    y_pred = np.where(rng.random(len(Y)) < 0.8, Y, (Y + 1) % 4)
    p = np.eye(4, dtype=np.float32)[y_pred]
    leave_run(tmp_path, "03_transfer_learning", y_true=Y, probabilities=p, metrics={"shifted_accuracy": away})
    assert verdict(tmp_path, "the home test promises too much") == expected


def test_a_drop_that_seeds_do_not_share_is_no_evidence(tmp_path):
    y_pred = np.where(np.random.default_rng(0).random(len(Y)) < 0.8, Y, (Y + 1) % 4)
    p = np.eye(4, dtype=np.float32)[y_pred]
    for folder, drops in {"alike": (0.10, 0.11, 0.12), "unlike": (0.30, 0.03, 0.0)}.items():  # 0.11 on average
        for seed, drop in enumerate(drops):
            metrics = {"shifted_accuracy": float((y_pred == Y).mean() - drop)}
            settings = {"params": {"seed": seed}, "metrics": metrics}
            leave_run(tmp_path / folder, "03_transfer_learning", y_true=Y, probabilities=p, **settings)
    claim = "the home test promises too much"
    assert verdict(tmp_path / "alike", claim) == verdicts.AGREES
    assert verdict(tmp_path / "unlike", claim) == verdicts.OPEN
