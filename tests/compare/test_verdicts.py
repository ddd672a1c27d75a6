"""Claims against what runs show: agrees, disagrees, or not enough evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest
from planted import board_of, leave_run

from labutil import paths
from labutil.compare import results, verdicts
from labutil.compare.verdicts import AGREES, DISAGREES, OPEN

Y = np.arange(400) % 4
LESSON = json.loads((paths.project_root() / "notebooks" / "07_comparison.ipynb").read_text())
BETTER = "SupCon is better than SimCLR"


def judge(root):
    """The claims of the five reports, as lesson 07 lists them, on the runs below root: a row a claim."""
    (source,) = ["".join(c["source"]) for c in LESSON["cells"] if "claims = [" in "".join(c["source"])]
    scope = {"dataset": "cells"}
    exec(source, scope)
    swept = results.collect(root, root.parent / "sweeps").boards[0]
    return verdicts.judge(board_of(root), scope["claims"], swept=swept, replicates=200).set_index("claim")


def plant(root, notebook, share, seeds=3, y_true=Y, **options):
    for seed in range(seeds):
        leave_run(root, notebook, y_true=y_true, share=share, seed=seed, **options)


def test_without_runs_every_claim_says_what_it_needs(tmp_path):
    plant(tmp_path, "02_supervised_baseline", 0.6)
    table = judge(tmp_path)
    assert table.verdict.tolist() == [OPEN] * 10
    assert table.here.str.contains("needs").all()
    assert table.here["larger images are better"].endswith("labutil sweep 02 --recipe image_size")
    assert table.here["two layers are better than three"].endswith("labutil sweep 06 --recipe depth -p dataset cells")


@pytest.mark.parametrize(
    ("simclr", "supcon", "seeds", "expected"),
    [
        (0.6, 0.8, 3, AGREES), (0.6, 0.3, 3, DISAGREES), (0.6, 0.6, 3, OPEN), (0.5, 0.8, 1, AGREES),
        (0.6, 0.63, 1, OPEN),  # a small difference of single runs
    ],
)  # fmt: skip
def test_better_needs_evidence_either_way(tmp_path, simclr, supcon, seeds, expected):
    plant(tmp_path, "04_simclr", simclr, seeds, params={"method": "simclr"})
    plant(tmp_path, "05_supcon", supcon, seeds)
    found = judge(tmp_path).loc[BETTER]
    assert found.verdict == expected
    assert "SupCon against SimCLR" in found.here
    assert ("3 and 3 seeds" if seeds == 3 else "one seed each") in found.here


def test_a_smoke_run_speaks_only_where_there_is_no_other_and_never_against_another_recipe(tmp_path):
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "epochs": 9})
    plant(tmp_path, "05_supcon", 0.8, recipe="smoke")
    found = judge(tmp_path).loc[BETTER]
    assert found.verdict == OPEN
    assert "of different recipes" in found.here
    plant(tmp_path, "05_supcon", 0.2, 1, params={"epochs": 9})
    assert judge(tmp_path).verdict[BETTER] == DISAGREES


def test_a_change_of_one_parameter_alone_is_compared(tmp_path):
    for size, share in ((16, 0.4), (32, 0.6), (64, 0.8)):
        plant(tmp_path, "02_supervised_baseline", share, params={"image_size": size})
    plant(tmp_path, "02_supervised_baseline", 0.1, params={"image_size": 128, "lr": 9.0})  # differs in two
    found = verdicts.changes(board_of(tmp_path), "image_size")
    assert [(a.params["image_size"], b.params["image_size"]) for a, b in found] == [(16, 32), (16, 64), (32, 64)]
    assert judge(tmp_path).verdict["larger images are better"] == AGREES


def test_best_values_layers_and_batches(tmp_path):
    for tau, share in ((0.05, 0.5), (0.1, 0.8), (0.5, 0.5)):
        plant(tmp_path, "04_simclr", share, params={"method": "simclr", "tau": tau, "batch_size": 64})
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "tau": 0.1, "batch_size": 256})
    for dropout in (0.0, 0.2):
        plant(tmp_path, "06_autoencoder", 0.5 - dropout, params={"dropout": dropout, "filters": [8, 16]})
    plant(tmp_path, "06_autoencoder", 0.5, params={"dropout": 0.2, "filters": [8, 16, 32]})
    table = judge(tmp_path)
    assert table.here["temperature 0.1 is best"].count(";") == 1  # 0.05 against 0.5 says nothing of 0.1
    assert table.verdict["temperature 0.1 is best"] == AGREES
    for claim in (
        "larger contrastive batches are better", "dropout 0.2 helps the autoencoder", "two layers are better than three"
    ):  # fmt: skip
        assert table.verdict[claim] == DISAGREES, claim


def test_claims_about_one_setting_look_into_the_sweeps_beside_the_runs(tmp_path):
    home, sweep = tmp_path / "runs", tmp_path / "sweeps" / "image_size" / "runs"
    plant(home, "02_supervised_baseline", 0.4, params={"image_size": 16})
    plant(home, "04_simclr", 0.5, params={"method": "simclr"})
    plant(sweep, "02_supervised_baseline", 0.8, recipe="image_size", params={"image_size": 64})
    plant(sweep, "05_supcon", 0.8, recipe="image_size")  # speaks for no whole lesson
    table = judge(home)
    assert table.verdict["larger images are better"] == AGREES
    assert "image_size 64) against supervised (" in table.here["larger images are better"]
    assert table.verdict[BETTER] == OPEN and "needs runs of lessons 05, 04" in table.here[BETTER]
    for i in range(5):
        plant(sweep, "02_supervised_baseline", 0.8, 1, params={"image_size": 100 + i})
    assert judge(home).here["larger images are better"].endswith("; and 15 more pairs")


@pytest.mark.parametrize(
    ("seeds", "images", "gain", "expected"), [(1, 400, 0, OPEN), (6, 2000, 0, AGREES), (3, 400, 0.2, DISAGREES)]
)
def test_alike_is_a_claim_that_must_be_shown(tmp_path, seeds, images, gain, expected):
    for method in ("simclr", "byol", "barlow_twins"):
        share = 0.6 + gain * (method == "byol")
        plant(tmp_path, "04_simclr", share, seeds, np.arange(images) % 4, params={"method": method})
    assert judge(tmp_path).verdict["SimCLR, BYOL and Barlow Twins are alike"] == expected


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ((0.4,), AGREES), ((-0.15,), DISAGREES), ((0.01,), OPEN), ((0.10, 0.11, 0.12), AGREES),
        ((0.30, 0.03, 0.0), OPEN),  # as large on average, but seeds do not share it
    ],
)  # fmt: skip
def test_home_and_elsewhere(tmp_path, drops, expected):
    y_pred = np.where(np.random.default_rng(0).random(len(Y)) < 0.8, Y, (Y + 1) % 4)
    p = np.eye(4, dtype=np.float32)[y_pred]
    for seed, drop in enumerate(drops):
        metrics = {"shifted_accuracy": float((y_pred == Y).mean() - drop)}
        leave_run(tmp_path, "03_transfer_learning", y_true=Y, seed=seed, probabilities=p, metrics=metrics)
    assert judge(tmp_path).verdict["the home test promises too much"] == expected
