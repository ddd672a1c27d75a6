"""`labutil autoencoder` and `labutil classification` as a person types them, at a terminal or not."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from labutil import cli, models, networks, paths, runs
from labutil.runs import execute, report_e


def write_idx(path: Path, array: np.ndarray) -> Path:
    magic = (2051 if array.ndim == 3 else 2049).to_bytes(4, "big")
    data = magic + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def files(tmp_path):
    """Small sets in MNIST's format, two of them gzipped; a model; and where a run goes."""
    g = np.random.default_rng(0)
    labels = {"train": np.arange(60) % 2, "test": np.arange(20) % 2}
    images = {part: g.integers(0, 60, (len(y), 12, 12)) + 150 * y[:, None, None] for part, y in labels.items()}
    found = {
        "d": write_idx(tmp_path / "train-images.gz", images["train"]),
        "dl": write_idx(tmp_path / "train-labels", labels["train"]),
        "t": write_idx(tmp_path / "test-images", images["test"]),
        "tl": write_idx(tmp_path / "test-labels.gz", labels["test"]),
        "model": tmp_path / "model.safetensors",
        "run": tmp_path / "run",
    }
    found["run"].mkdir()
    models.save(networks.ConvAutoencoder(1, (2,), 28), found["model"])
    return found


@pytest.fixture
def at_terminal(files, monkeypatch):
    """Calls a command as a person at the terminal does, who answers its questions: (output, what would be run)."""
    ran = []

    def run_notebook(notebook, params, **options):
        ran.append(params)
        models.save(networks.ConvAutoencoder(1, (2,), 12), files["run"] / "autoencoder.safetensors")
        np.savez(files["run"] / "predictions.npz", y_true=[0, 0, 1, 1], probabilities=np.eye(2)[[0, 1, 1, 1]])
        metrics = {"val_reconstruction_mse": 0.02, "test_errors": 1, "test_accuracy": 0.75}
        record = {"metrics": metrics, "dataset": {"classes": ["zero", "one"]}, "seconds": 1.0, "started": ""}
        return files["run"], record, False

    monkeypatch.setattr(execute, "run_notebook", run_notebook)
    monkeypatch.setattr(report_e, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))

    def call(*args, answers=(), code=0):
        typed = "".join(f"{answer}\n" for _, answer in answers)
        result = CliRunner().invoke(cli.main, [*map(str, args)], input=typed)
        assert result.exit_code == code, result.output  # 1 where it asks for more than is answered
        places = [result.output.find(question) for question, _ in answers]
        assert -1 not in places
        assert places == sorted(places)
        return result.output, ran[-1] if ran else None

    return call


def options(files, *names, **changed):
    names = names or ("d", "dl", "t", "tl", "model")
    return [text for name in names for text in (f"-{name}", changed.get(name, files[name]))]


def test_classification_with_everything_given_asks_nothing(files, at_terminal):
    settings = ("--epochs", "1,3", "--head", "32,16", "--dropout", "0.4")
    output, params = at_terminal("classification", *options(files), *settings)
    assert params["dataset"] == "idx:" + ",".join(str(files[name]) for name in ("d", "dl", "t", "tl"))
    assert params["autoencoder"] == str(files["model"])
    assert (params["epochs"], params["classifier_epochs"], params["head"]) == (0, [1, 3], [32, 16])
    assert params["head_dropout"] == 0.4
    assert "precision" in output
    assert re.search(r"zero +1\.0000 +0\.5000", output)
    assert "wrong: 1 of 4 (accuracy 0.7500)" in output
    assert "(a file" not in output


@pytest.mark.parametrize("given", [(), ("d", "t", "model")])
def test_classification_asks_for_what_is_missing(files, at_terminal, given):
    questions = {
        "d": "training images (a file", "dl": "labels of the training images", "t": "test images",
        "tl": "labels of the test images", "model": "the trained autoencoder",
    }  # fmt: skip
    answers = [(question, files[name]) for name, question in questions.items() if name not in given]
    _, params = at_terminal("classification", *(options(files, *given) if given else ()), answers=answers)
    assert params["dataset"] == "idx:" + ",".join(str(files[name]) for name in ("d", "dl", "t", "tl"))
    assert params["autoencoder"] == str(files["model"])


def test_autoencoder_with_nothing_asks_for_the_settings_too(files, at_terminal, tmp_path):
    answers = [
        ("images (a file", files["d"]), ("channels of each layer", "4,8"), ("pixels a side", ""),
        ("is dropped", "0.1"), ("of the autoencoder", "3"), ("images per step", ""), ("copy of", tmp_path / "mine"),
    ]  # fmt: skip
    output, params = at_terminal("autoencoder", answers=answers)
    assert params["dataset"] == f"idx:{files['d']}"
    assert (params["filters"], params["kernel_size"], params["dropout"], params["epochs"]) == ([4, 8], 3, 0.1, 3)
    assert params["classifier_epochs"] == [0, 0]
    assert models.load(tmp_path / "mine").settings["filters"] == [2]
    assert "squared error of 0.02000" in output


def test_autoencoder_with_some_asks_for_the_images_alone_and_with_all_for_nothing(files, at_terminal):
    _, params = at_terminal("autoencoder", "--epochs", 2, answers=[("images (a file", "mnist5k")])
    assert (params["dataset"], params["epochs"]) == ("mnist5k", 2)
    _, params = at_terminal("autoencoder", *options(files, "d", "model"), "--kernel-size", 5)
    assert (params["autoencoder"], params["kernel_size"]) == (str(files["model"]), 5)


def test_a_person_s_wrong_answer_is_one_line_as_well(at_terminal):
    output, _ = at_terminal("autoencoder", "--epochs", 1, answers=[("images (a file", "/no/such/file")], code=2)
    assert output.strip().splitlines()[-1].startswith("labutil: data set '/no/such/file'")


def refused(*args):
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.output
    assert result.stderr.startswith("labutil: ")
    assert not paths.runs_dir().exists()
    return result.stderr


def test_nobody_at_the_terminal_is_one_line_and_exit_2(files):
    assert "-d is missing: images" in refused("autoencoder")
    assert "-d is missing: training images" in refused("classification")
    assert "-tl is missing: labels of the test images" in refused("classification", *options(files)[:6])
    assert "-model is missing" in refused("classification", *options(files)[:8])


def test_wrong_files_are_one_line_and_exit_2(files, tmp_path):
    other = tmp_path / "other.safetensors"
    models.save(networks.ConvAutoencoder(3, (2,), 28), other)
    three = write_idx(tmp_path / "three", np.arange(20) % 3)
    cases = {
        ("d", "/no/such/file"): "/no/such/file does not exist", ("d", files["dl"]): "holds labels",
        ("dl", files["d"]): "holds images", ("tl", three): "has the label 2", ("t", tmp_path): "is no file",
        ("model", files["t"]): "is damaged or no model file", ("model", "/no/model"): "/no/model does not exist",
        ("model", other): "is for images of 3 x 28 x 28, these are 1 x 28 x 28",
    }  # fmt: skip
    for (name, wrong), message in cases.items():
        assert message in refused("classification", *options(files, **{name: wrong})), (name, wrong)
    cases = {
        ("idx:/no/such/file",): "does not exist", (files["dl"],): "holds labels",
        ("mnsit5k",): "did you mean 'mnist5k'", (files["d"], "-save", tmp_path / "no" / "file"): "cannot be written",
        (files["d"], "--epochs", "many"): "parameter epochs takes int",
        (files["d"], "-p", "nose", "1"): "did you mean 'noise'", (files["d"], "--recipe", "smoek"): "mean 'smoke'",
    }  # fmt: skip
    for given, message in cases.items():
        assert message in refused("autoencoder", "-d", *given), given


def test_both_commands_run_the_notebook(files, tmp_path):
    """From images without labels to the classification report, through the notebook itself."""
    model = tmp_path / "trained.safetensors"

    def labutil(*args):
        common = ("--recipe", "smoke", "-p", "subset", "null")
        command = [sys.executable, "-m", "labutil", *args, *common, "-p", "code_sizes", "[]"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    labutil("autoencoder", "-d", files["d"], "-save", model, "--filters", "4,8")
    assert models.load(model).settings["filters"] == [4, 8]
    output = labutil("classification", *options(files, model=model))
    records = [record for _, record in runs.read_records(paths.runs_dir())[0]]
    (record,) = [record for record in records if "test_errors" in record["metrics"]]
    assert f"wrong: {record['metrics']['test_errors']} of 20" in output
    assert re.search(r"precision +recall +f1 +support", output)
    assert record["model"]["autoencoder"]["filters"] == [4, 8]
    assert torch.tensor(record["metrics"]["test_accuracy"]).isfinite()
