"""What the reports claimed against what runs show: agree, disagree, open; and what notebook 07 does without runs."""

from __future__ import annotations

import numpy as np
import pytest
from planted import leave_run, some_labels

from labutil import device, explore, plots, runs
from labutil.compare import methods, missing, results
from labutil.runs import execute as execute_module

Y = some_labels(400)


def judge(root):
    (board,) = results.collect(root).boards
    return methods.judge(board, replicates=200).set_index("claim")


def verdict(root, claim):
    return judge(root).loc[claim, "verdict"]


def plant(root, notebook, share, seeds=(0, 1, 2), y_true=Y, **options):
    for seed in seeds:
        leave_run(root, notebook, y_true=y_true, share=share, seed=seed, **options)


def test_without_runs_every_claim_says_what_it_needs(tmp_path):
    plant(tmp_path, "02_supervised_baseline", 0.6)
    table = judge(tmp_path)
    assert len(table) == 10
    assert set(table.verdict) == {methods.OPEN}
    assert table.here.str.contains("needs").all()
    assert table.here["larger images are better"].endswith("labutil run 02 -p image_size 96")


@pytest.mark.parametrize(("supcon", "expected"), [(0.8, methods.AGREES), (0.3, methods.DISAGREES), (0.6, methods.OPEN)])
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
    assert verdict(tmp_path / "a", "SupCon is better than SimCLR") == methods.OPEN
    plant(tmp_path / "b", "04_simclr", 0.5, seeds=[0], params={"method": "simclr"})
    plant(tmp_path / "b", "05_supcon", 0.8, seeds=[0])
    assert verdict(tmp_path / "b", "SupCon is better than SimCLR") == methods.AGREES


def test_a_smoke_run_speaks_only_where_there_is_no_other_and_never_against_another_recipe(tmp_path):
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "epochs": 9})
    plant(tmp_path, "05_supcon", 0.8, recipe="smoke")
    table = judge(tmp_path)
    assert table.loc["SupCon is better than SimCLR", "verdict"] == methods.OPEN
    assert "of different recipes" in table.loc["SupCon is better than SimCLR", "here"]
    plant(tmp_path, "05_supcon", 0.2, seeds=[0], params={"epochs": 9})
    assert verdict(tmp_path, "SupCon is better than SimCLR") == methods.DISAGREES


def test_a_change_of_one_parameter_alone_is_compared(tmp_path):
    for size, share in ((16, 0.4), (32, 0.6), (64, 0.8)):
        plant(tmp_path, "02_supervised_baseline", share, params={"image_size": size})
    plant(tmp_path, "02_supervised_baseline", 0.1, params={"image_size": 128, "lr": 9.0})  # differs in two
    (board,) = results.collect(tmp_path).boards
    found = [(a.params["image_size"], b.params["image_size"]) for a, b in methods.changes(board, "image_size")]
    assert found == [(16, 32), (16, 64), (32, 64)]
    assert verdict(tmp_path, "larger images are better") == methods.AGREES


def test_best_values_layers_and_batches(tmp_path):
    for tau, share in ((0.05, 0.5), (0.1, 0.8), (0.5, 0.5)):
        plant(tmp_path, "04_simclr", share, params={"method": "simclr", "tau": tau, "batch_size": 64})
    plant(tmp_path, "04_simclr", 0.5, params={"method": "simclr", "tau": 0.1, "batch_size": 256})
    for dropout in (0.0, 0.2):
        plant(tmp_path, "06_autoencoder", 0.5 - dropout, params={"dropout": dropout, "filters": [8, 16]})
    plant(tmp_path, "06_autoencoder", 0.5, params={"dropout": 0.2, "filters": [8, 16, 32]})
    table = judge(tmp_path)
    assert table.loc["temperature 0.1 is best", "verdict"] == methods.AGREES
    assert table.loc["temperature 0.1 is best", "here"].count(";") == 1  # 0.05 against 0.5 says nothing of 0.1
    assert table.loc["larger contrastive batches are better", "verdict"] == methods.DISAGREES
    assert table.loc["dropout 0.2 helps the autoencoder", "verdict"] == methods.DISAGREES
    assert table.loc["two layers are better than three", "verdict"] == methods.DISAGREES


def test_alike_is_a_claim_that_must_be_shown(tmp_path):
    for method, share in (("simclr", 0.6), ("byol", 0.6), ("barlow_twins", 0.6)):
        plant(tmp_path / "few", "04_simclr", share, params={"method": method}, seeds=[0])
        plant(
            tmp_path / "many", "04_simclr", share, params={"method": method}, seeds=range(6), y_true=some_labels(2000)
        )
        plant(tmp_path / "unlike", "04_simclr", share + 0.2 * (method == "byol"), params={"method": method})
    claim = "SimCLR, BYOL and Barlow Twins are alike"
    assert verdict(tmp_path / "few", claim) == methods.OPEN
    assert verdict(tmp_path / "many", claim) == methods.AGREES
    assert verdict(tmp_path / "unlike", claim) == methods.DISAGREES


@pytest.mark.parametrize(("away", "expected"), [(0.4, methods.AGREES), (0.95, methods.DISAGREES), (0.79, methods.OPEN)])
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
    assert verdict(tmp_path / "alike", claim) == methods.AGREES
    assert verdict(tmp_path / "unlike", claim) == methods.OPEN


def test_missing_lessons_and_how_to_make_them(tmp_path):
    everything = missing.lessons(None)
    names = [p.stem for p in everything]
    assert "02_supervised_baseline" in names
    assert not {"01_data_cleaning", "07_comparison"} & set(names)
    plant(tmp_path, "02_supervised_baseline", 0.6)
    (board,) = results.collect(tmp_path).boards
    assert missing.lessons(board, ["02"]) == []
    assert [p.stem for p in missing.lessons(None, ["02"])] == ["02_supervised_baseline"]
    notebook = missing.lessons(None, ["02"])[0]
    assert missing.command(notebook, "cells", 0) == "labutil run 02 -p dataset cells"
    assert missing.command(notebook, "cells", 3) == "labutil run 02 -p dataset cells -p data_seed 3"
    params = missing.small_params(notebook, "mnist5k", 3)
    assert (params["dataset"], params["data_seed"], params["subset"]) == ("mnist5k", 3, missing.SUBSET)
    assert params["study_epochs"] == 1  # the smoke recipe's


def test_made_runs_lie_apart_and_keep_their_recipe(tmp_path, monkeypatch):
    seen = {}

    def execute(notebook, params, *, recipe, out):
        seen.update(notebook=notebook.stem, recipe=recipe, out=out)
        return out / notebook.stem / "x", {"seconds": 3.0}, False

    monkeypatch.setattr(execute_module, "run_notebook", execute)
    notebook = missing.lessons(None, ["02"])[0]
    assert missing.make(notebook, tmp_path, "cells", 0)[1] == 3.0
    assert seen == {"notebook": notebook.stem, "recipe": "smoke", "out": tmp_path / runs.FILL_IN}


def test_a_reader_of_runs_is_new_when_they_are(tmp_path):
    notebook = missing.paths.project_root() / "notebooks" / "07_comparison.ipynb"
    params = {"runs": str(tmp_path), "seed": 0}
    first = runs.run_id(notebook, params)
    assert runs.run_id(notebook, params) == first
    plant(tmp_path / runs.FILL_IN, "02_supervised_baseline", 0.6, seeds=[0])
    plant(tmp_path, "07_comparison", 0.6, seeds=[0])
    assert runs.run_id(notebook, params) == first  # its own
    plant(tmp_path, "05_supcon", 0.6, seeds=[0])
    second = runs.run_id(notebook, params)
    assert second != first
    plant(tmp_path, "05_supcon", 0.6, seeds=[1])
    assert runs.run_id(notebook, params) != second
    # None: what lies beside it
    assert runs.run_id(notebook, params | {"runs": None}, tmp_path) == runs.run_id(
        notebook, params | {"runs": None}, tmp_path
    )
    assert runs.run_id(notebook, params | {"runs": None}, tmp_path) != runs.run_id(notebook, params | {"runs": None})


@pytest.mark.parametrize("front_end", [False, True])
def test_explorers_show_the_images_of_a_cell_and_of_a_point(front_end, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(device, "has_front_end", lambda: front_end)
    monkeypatch.setattr("IPython.display.display", shown.append)
    drawn = []
    monkeypatch.setattr(plots, "image_grid", lambda images, titles, **k: drawn.append((images, titles, k)))
    rng = np.random.default_rng(0)
    y = np.array([0, 0, 0, 1, 1, 2])
    p, q = (np.eye(3)[labels] for labels in ([0, 1, 1, 1, 0, 2], [0, 0, 1, 1, 1, 2]))
    images = np.arange(6 * 3 * 4 * 4, dtype=np.uint8).reshape(6, 3, 4, 4)
    explore.confusions(images, y, {"a": p, "b": q}, ["x", "y", "z"])
    assert any("VBox" in type(what).__name__ for what in shown) == front_end
    if front_end:
        (box,) = [what for what in shown if "VBox" in type(what).__name__]
        method, (grid,) = box.children[0], [c for c in box.children if "GridBox" in type(c).__name__]
        buttons = [c for c in grid.children if "Button" in type(c).__name__]
        counted = lambda: np.array([int(b.description) for b in buttons]).reshape(3, 3)  # noqa: E731
        assert np.array_equal(counted(), [[1, 2, 0], [1, 1, 0], [0, 0, 1]])
        buttons[3].click()  # y taken for x
        assert np.array_equal(drawn[-1][0], images[[4]]) and "1 images of y that it calls x" in drawn[-1][2]["title"]
        method.value = "b"
        assert np.array_equal(counted(), [[2, 1, 0], [0, 2, 0], [0, 0, 1]])
        return
    found, titles, options = drawn[-1]
    assert np.array_equal(found, images[[1, 2]])  # the commonest mistake of a: x taken for y
    assert titles == ["100%\nright: 1 of 1", "100%\nright: 0 of 1"]
    assert options["title"] == "a: 2 images of x that it calls y"
    features = {"a": rng.random((6, 5)), "b": rng.random((6, 4))}
    explore.encoders(images, features, y, ["x", "y", "z"], n=2, start=3)
    found, titles, options = drawn[-1]
    assert [titles[0], titles[3]] == ["a", "b"]
    for row, h in enumerate(features.values()):
        cosine = (h @ h[3]) / np.linalg.norm(h, axis=1) / np.linalg.norm(h[3])
        expected = [i for i in np.argsort(-cosine) if i != 3][:2]
        for place, i in enumerate([3, *expected]):
            assert np.array_equal(found[3 * row + place], images[i])
        assert options["title_colours"][3 * row + 1] == (plots.RIGHT if y[expected[0]] == 1 else plots.WRONG)
    plt.close("all")
