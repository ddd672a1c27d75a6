"""The committed notebooks, executed: at smoke size by `labutil run` and by nbval, and every recipe, cut short."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image
from planted import criterion_of, label_of, leave_run

from labutil import cli, models, networks, paths, runs
from labutil.compare import reports
from labutil.data import load_dataset
from labutil.runs import parameters
from labutil.sweeps import plan as sweep_plan

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
RECIPES = ROOT / "notebooks" / "recipes"
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)


# What a lesson records beside the metrics of every lesson.
OWN_METRICS = {
    "01": ("duplicate_recall", "duplicate_precision", "outlier_recall", "outlier_precision", "label_issue_auroc"),
    "02": ("random_encoder_knn_accuracy", "pixel_knn_accuracy"),
    "03": (
        "linear_accuracy",
        "probe_accuracy",
        "fine_tuned_accuracy",
        "val_accuracy_probe",
        "val_accuracy_fine_tuned",
        "noise_accuracy",
    ),
    "04": (
        "knn_accuracy",
        "random_encoder_knn_accuracy",
        "linear_accuracy",
        "retrieval_top5",
        "ood_knn_accuracy",
        "val_knn_accuracy",
        "val_linear_accuracy",
        "val_retrieval_top5",
    ),
    "05": (
        "knn_accuracy",
        "random_encoder_knn_accuracy",
        "linear_accuracy",
        "ood_knn_accuracy",
        "val_knn_accuracy",
        "val_linear_accuracy",
        "simclr_linear_accuracy",
        "supervised_accuracy",
    ),
    "06": (
        *("knn_accuracy", "random_encoder_knn_accuracy", "linear_accuracy"),
        *("val_knn_accuracy", "val_reconstruction_mse", "test_reconstruction_mse"),
    ),
    "07": ("methods", "compared_runs"),
}


def runs_to_compare(root):
    """What notebook 07 reads: planted runs of four methods on the data of its smoke recipe, two seeds of each."""
    data = load_dataset("cells:600", image_size=24)
    known = {"y_true": data.test.labels.numpy(), "classes": data.classes, "dataset": "cells:600", "recipe": "smoke"}
    known |= {"fingerprint": data.fingerprint, "image_size": 24}
    fit = {"optimizer": "adamw", "schedule": "cosine", "lr": 0.002, "batch_size": 64, "epochs": 2}
    curve = pd.DataFrame({"labels": [40, 400], "share": [0.1, 1.0], "accuracy": [0.4, 0.6], "split": "test", "seed": 0})
    for seed in (0, 1):
        for notebook, share in (("02_supervised_baseline", 0.6), ("03_transfer_learning", 0.8)):
            leave_run(root, notebook, seed=seed, share=share, fits={"fine-tune": fit}, model="resnet8",
                      metrics={"shifted_accuracy": share - 0.2}, **known)  # fmt: skip
        for method in ("simclr", "byol"):
            directory = leave_run(
                root, "04_simclr", seed=seed, share=0.6, params={"method": method}, model="resnet8",
                fits={"pretrain": fit, "linear": fit}, metrics={"knn_accuracy": 0.5, "linear_accuracy": 0.6}, **known,
            )  # fmt: skip
            curve.assign(method=method).to_csv(directory / "label_efficiency.csv", index=False)
    return root


def needs(notebook, root):
    """Parameters without which a notebook would first have to run other lessons, or would not log all that it can."""
    if notebook.stem[:2] in ("02", "03"):
        return {"shifted": "cells:600", "augmentation": "stretch"}
    return {"runs": str(runs_to_compare(root))} if notebook.stem[:2] == "07" else {}


def lesson_cells(notebook):
    """Sources of the code cells that a core run leaves out."""
    tagged = [c for c in parameters.read_cells(notebook) if "lesson" in c["metadata"].get("tags", [])]
    return ["".join(c["source"]) for c in tagged if c["cell_type"] == "code"]


def command(*args, **environment):
    return subprocess.run(
        [sys.executable, "-m", "labutil", *map(str, args)],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


def check_record(notebook, directory, *, core=False):
    """What every lesson leaves, whoever executed it; returns run.json. core: figures belong to the lesson."""
    record = json.loads((directory / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["label"] == label_of(notebook.stem, record["params"])
    for name, fit in record["fits"].items():
        assert fit["criterion"] == criterion_of(name, record["params"]), name
    assert set(record["dataset"]) == {"name", "fingerprint", "sizes", "classes", "image_size"}
    assert set(record["params"]) == set(parameters.read_parameters(notebook))
    assert {"device", "precision", "commit", "torch"} <= set(record["environment"])
    metrics = record["metrics"]
    promised = {"accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_auc", "errors", "ece"}
    assert {f"test_{name}" for name in promised} <= set(metrics)
    own = () if core else OWN_METRICS.get(notebook.stem[:2], ())  # tests/test_cores.py has those of cores
    assert {"chance_accuracy", "train_seconds", *own} <= set(metrics)
    assert ({"feature_seconds", "cached_seconds"} <= set(metrics)) == notebook.stem.startswith("03")
    assert "val_accuracy" in metrics or notebook.stem[:2] == "07"  # which chooses nothing
    with np.load(directory / "predictions.npz") as file:
        assert file["probabilities"].shape == (record["dataset"]["sizes"]["test"], len(record["dataset"]["classes"]))
        accuracy = (file["probabilities"].argmax(1) == file["y_true"]).mean()
    assert accuracy == pytest.approx(metrics["test_accuracy"])
    if notebook.stem[:2] == "01":
        assert len(pd.read_csv(directory / "cleaning_report.csv")) > 20
        assert not (directory / "cleaned.npz").exists()  # faults were planted
    elif notebook.stem[:2] != "07":  # which trains nothing: its predictions are the ensemble's
        history = pd.read_csv(directory / "history.csv")
        assert {"fit", "epoch", "lr", "train_loss", "val_loss", "seconds"} <= set(history)
        assert (directory / "model.safetensors").exists()
    assert core or len(list((directory / "figures").glob("*.png"))) >= 4
    if record["params"].get("shifted"):
        with np.load(directory / "predictions_shifted.npz") as file:
            accuracy = (file["probabilities"].argmax(1) == file["y_true"]).mean()
        assert accuracy == pytest.approx(metrics["shifted_accuracy"])
    if record["params"].get("augmentation") == "stretch":
        assert {"val_stretched_accuracy", "test_stretched_accuracy"} <= set(metrics)
    return record


def timeless(metrics):
    return {k: v for k, v in metrics.items() if not any(word in k for word in ("seconds", "per_second"))}


@pytest.mark.parametrize(
    "notebook",
    [n if n.stem[:2] == "02" else pytest.param(n, marks=pytest.mark.long) for n in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_the_same_command_finds_its_run_and_force_repeats_it(notebook, tmp_path, tmp_path_factory):
    given = needs(notebook, tmp_path_factory.mktemp("runs"))
    overrides = [word for item in given.items() for word in ("-p", *item)]
    args = ("run", notebook.stem, "--recipe", "smoke", "--out", tmp_path, *overrides)
    done = command(*args)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (directory,) = (tmp_path / notebook.stem).iterdir()
    record = check_record(notebook, directory)
    assert record["recipe"] == "smoke"
    for cell in json.loads((directory / "notebook.ipynb").read_text())["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output
    assert "already complete" in command(*args).stdout
    same = command(*args, "--force")
    assert same.returncode == 0, same.stderr
    repeated = json.loads((directory / "run.json").read_text())
    assert timeless(repeated["metrics"]) == timeless(record["metrics"])
    if left_out := lesson_cells(notebook):
        check_core(notebook, args, left_out, directory)


def check_core(notebook, args, left_out, whole):
    """`--core` leaves out the tagged cells and, for every metric that it logs, agrees with the whole lesson."""
    done = command(*args, "--core")
    assert done.returncode == 0, done.stderr
    (directory,) = set((whole.parent).iterdir()) - {whole}
    core, record = check_record(notebook, directory, core=True), json.loads((whole / "run.json").read_text())
    assert (core["core"], record["core"]) == (True, False)
    executed = ["".join(c["source"]) for c in parameters.read_cells(directory / "notebook.ipynb")]
    assert not set(left_out) & set(executed)
    metrics = timeless(core["metrics"])
    assert metrics == {name: record["metrics"].get(name) for name in metrics}


@each_notebook
def test_nbval_agrees_with_the_committed_outputs(notebook, tmp_path):
    """Cells marked NBVAL_CHECK_OUTPUT print the same at smoke size, in a kernel that papermill did not start."""
    copy = tmp_path / notebook.name
    settings = parameters.plan(notebook, "smoke", needs(notebook, tmp_path / "runs"))
    papermill.execute_notebook(str(notebook), str(copy), settings, prepare_only=True)
    marked = sum("NBVAL_CHECK_OUTPUT" in "".join(c["source"]) for c in json.loads(copy.read_text())["cells"])
    assert marked >= 2
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-kernel-name", "python3", "--nbval-cell-timeout", "300",
         "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, copy],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    (directory,) = (paths.runs_dir() / notebook.stem).glob("hand-*")
    check_record(notebook, directory)


def images(n, side, channels, classes, seed=0):
    g = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    patches = g.integers(0, 100, (n, 6, 6, channels)).repeat(-(-side // 6), 1).repeat(-(-side // 6), 2)
    pixels = patches[:, :side, :side] + g.integers(0, 28, (n, side, side, channels))
    pixels = pixels + (labels % 7 * 18)[:, None, None, None]
    return pixels.astype(np.uint8), labels


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory):
    """Data of the shape that each recipe is for: its name (or the kind of its path) -> a specification."""
    root = tmp_path_factory.mktemp("standins")
    for name, (side, classes) in {
        "cifar10": (32, 10),
        "cifar100": (32, 100),
        "cells": (96, 8),
        "bloodmnist@128": (128, 8),
        "tiny_imagenet": (64, 30),
    }.items():
        pixels, labels = images(4 * max(classes, 20), side, 3, classes)
        np.savez(root / f"{name}.npz", images=pixels, labels=labels)
    pixels, labels = images(80, 28, 1, 10)
    np.savez(root / "mnist.npz", images=pixels, labels=labels)
    pixels, labels = images(75, 200, 3, 15)
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / "scenes" / f"scene{label:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.jpg")
    arrays = {path.stem: f"npz:{path}" for path in root.glob("*.npz")}
    return arrays | {"folder": f"folder:{root}/scenes"}


# What makes a run of any lesson short; a lesson takes those that it has.
CUT = {"epochs": 1, "seeds": 2, "shifted": None}
# And what one lesson needs beside that. The weights of 03's recipes are on a hub; Lite0's are installed.
OWN_CUT = {
    "03": {"encoder": "tf_efficientnet_lite0", "image_size": 64, "finetune_subset": 40},
    "04": {"probe": [2, 64, 0.01]},
    "05": {"probe": [2, 64, 0.01]},
    "06": {"classifier_epochs": [1, 1]},
    "07": {"lessons": ["02"], "replicates": 100, "simulations": 10, "map_points": 40},
}  # fmt: skip


def run_cut(notebook, recipe, stand_ins, out, *, given=(), core=True):
    """A recipe (None: quick values) on stand-in data, cut short; core, of a sweep: its first setting."""
    declared = parameters.read_parameters(notebook)
    settings = parameters.read_recipe(notebook, recipe) if recipe else {}
    if core and recipe and parameters.read_sweep(notebook, recipe):
        (study,) = sweep_plan.read([notebook], recipe, [("dataset", "cells")], out=out).studies
        settings |= next(iter(study.settings), {})
    settings |= dict(given)
    wanted = settings.get("dataset", declared["dataset"].default)
    small = stand_ins.get(wanted.split(":")[0], wanted)  # what comes with the workbook stands for itself
    cut = {k: v for k, v in (CUT | OWN_CUT.get(notebook.stem[:2], {})).items() if k in declared} | {"dataset": small}
    _, record, _ = runs.run_notebook(notebook, parameters.merge(notebook, settings, cut), out=out, core=core)
    assert record["status"] == "complete"
    return record


@pytest.mark.long
@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_recipes_run_cut_to_a_few_steps(path, stand_ins, tmp_path):
    record = run_cut(ROOT / "notebooks" / f"{path.stem}.ipynb", path.parent.name, stand_ins, tmp_path)
    if path.parent.name in {"held_out", "simclr_study"}:  # half of the stand-in's classes are never trained on
        assert len(record["dataset"]["classes"]) in {4, 15}
        assert 0 <= record["metrics"]["ood_knn_accuracy"] <= 1


REPORTS = sorted({row["command"] for report in reports.read().values() for row in report["rows"]})


@pytest.fixture(scope="session")
def idx_files(tmp_path_factory):
    """What the reports' page calls IMAGES, TRAIN, TESTLABELS, FILE, ...: small files in MNIST's format, a model."""
    root, (pixels, labels) = tmp_path_factory.mktemp("idx"), images(60, 12, 1, 2)
    for name, array, magic in (("IMAGES", pixels[..., 0], 2051), ("LABELS", labels, 2049)):
        head = b"".join(n.to_bytes(4, "big") for n in (magic, *array.shape))
        (root / name).write_bytes(head + array.astype(np.uint8).tobytes())
    models.save(networks.ConvAutoencoder(1, (2,), 14), root / "FILE.safetensors")
    found = dict.fromkeys(("IMAGES", "TRAIN", "TEST"), root / "IMAGES")
    found |= dict.fromkeys(("TRAINLABELS", "TESTLABELS"), root / "LABELS")
    return found | {"FILE": root / "FILE.safetensors", "autoencoder.safetensors": root / "saved.safetensors"}


@pytest.mark.long
@pytest.mark.timeout(3600)  # three whole lessons, with a ResNet-18 on photographs, on one thread
@pytest.mark.parametrize("words", [shlex.split(line)[1:] for line in REPORTS], ids=" ".join)
def test_commands_of_the_reports_page_run_cut_to_a_few_steps(words, stand_ins, idx_files, tmp_path):
    """`labutil run`: the whole lesson; `labutil sweep`: the first setting."""
    if words[0] not in {"run", "sweep"}:
        place = [runs_to_compare(tmp_path)] if words[0] == "compare" else ["--recipe", "smoke", "--out", tmp_path]
        done = command(*(idx_files.get(word, word) for word in words), *place)
        assert done.returncode == 0, done.stderr
        return
    with cli.main.commands[words[0]].make_context(words[0], words[1:]) as context:
        asked = context.params
    for name in asked["notebooks"]:
        given, core = asked.get("overrides") or asked.get("given") or (), words[0] == "sweep"
        run_cut(parameters.find_notebook(name), asked["recipe"], stand_ins, tmp_path, given=given, core=core)


SWEEPS = [path for path in sorted(RECIPES.rglob("*.yaml")) if "\nsweep:" in path.read_text()]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_sweeps_name_parameters_and_values_that_there_are(path, tmp_path):
    notebook = ROOT / "notebooks" / f"{path.stem}.ipynb"
    (study,) = sweep_plan.read([notebook], path.parent.name, [("dataset", "cells")], out=tmp_path).studies
    count = len(study.settings) or study.trials
    assert count >= 2 and count * len(study.seeds) <= 42
    assert study.objective.startswith("val_")
    # The sweep does change something: no two of its settings are the same run.
    values = [json.dumps(study.base | setting, sort_keys=True) for setting in study.settings]
    assert len(set(values)) == len(values)


@each_notebook
def test_parameters_are_few(notebook):
    most = {"03": 25, "04": 21, "05": 21, "06": 24}
    assert len(parameters.read_parameters(notebook)) <= most.get(notebook.stem[:2], 20)


@pytest.mark.long
@pytest.mark.parametrize("count", [10, 40])
@pytest.mark.parametrize("notebook", NOTEBOOKS[:6], ids=lambda p: p.stem)
def test_a_lesson_goes_on_with_few_images(notebook, count, tmp_path):
    """A map or a neighbour that so few cannot have is left out; the lesson ends as always."""
    pixels, labels = images(count, 32, 3, 2)
    np.savez(tmp_path / "few.npz", images=pixels, labels=labels)
    own = {"dataset": f"npz:{tmp_path / 'few.npz'}"} | ({"planted": 0} if notebook.stem[:2] == "01" else {})
    _, record, _ = runs.run_notebook(notebook, parameters.plan(notebook, "smoke", own), out=tmp_path)
    assert record["status"] == "complete"


def test_lesson_07_makes_runs_that_are_missing_and_reads_them(tmp_path):
    args = ("run", "07", "--recipe", "smoke", "--out", tmp_path)
    done = command(*args)
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("07_comparison/smoke/02_supervised_baseline/*/run.json")
    record = json.loads(made.read_text())
    assert (record["status"], record["recipe"]) == ("complete", "smoke")
    assert record["params"]["dataset"] == "cells:600"
    (own,) = tmp_path.glob("07_comparison/*/run.json")
    assert json.loads(own.read_text())["metrics"]["compared_runs"] == 1
    assert "no run of 02_supervised_baseline yet" in (own.parent / "notebook.ipynb").read_text()
    # Its own runs do not make it run anew; another run beside it does.
    assert "already complete" in command(*args).stdout
    leave_run(tmp_path, "05_supcon", y_true=np.arange(8) % 4)
    notebook, params = NOTEBOOKS[-1], parameters.plan(NOTEBOOKS[-1], "smoke", {})
    assert runs.run_id(notebook, params, tmp_path) != own.parent.name
