"""Run directories: identity, record, locks, and notebooks executed for real (small ones)."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from labutil import runs
from labutil.data import load_dataset
from labutil.runs import execute, locks, parameters

matplotlib.use("Agg")

PARAMETERS = ("seed: int = 0  # seed\nepochs: int = 2  # passes", ["parameters"])
OPEN = "from labutil.runs import open_run\nrun = open_run('99_lesson', globals())"


def write(path, *cells):
    made = [nbformat.v4.new_markdown_cell("# Title\n\n## Training")]
    for source, tags in (PARAMETERS, *[(c, []) for c in cells]):
        made.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture
def run(tmp_path):
    return runs.Run(tmp_path, runs.new_record("99_lesson", None, {"seed": 0}))


def test_metrics_are_finite_numbers(run):
    run.log(test_accuracy=np.float32(0.5), test_errors=7)
    assert runs.read_record(run.dir)["metrics"] == {"test_accuracy": 0.5, "test_errors": 7}
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="metric test_ece is"):
            run.log(test_ece=bad)
    assert "test_ece" not in run.record["metrics"]


def test_history_of_several_fits_and_a_repeated_one(run):
    run.save_history("a", pd.DataFrame({"epoch": [1], "train_loss": [1.0]}))
    run.save_history("b", pd.DataFrame({"epoch": [1, 2], "val_accuracy": [0.1, 0.2]}))
    run.save_history("a", pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5]}))
    table = pd.read_csv(run.dir / "history.csv")
    assert table.columns[0] == "fit"
    assert table.groupby("fit").epoch.apply(list).to_dict() == {"a": [1, 2], "b": [1, 2]}


def test_files_of_a_run(run):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    run.save_model(model)
    weights = load_file(run.dir / "model.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    run.save_predictions(torch.tensor([0, 1]), torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    with np.load(run.dir / "predictions.npz", allow_pickle=False) as file:
        assert {k: (file[k].dtype.name, file[k].shape) for k in file} == {
            "index": ("int64", (2,)), "y_true": ("int64", (2,)), "probabilities": ("float32", (2, 2)),
        }  # fmt: skip
    figure = plt.figure()
    run.save_figure(figure, "empty")
    assert (run.dir / "figures" / "empty.png").read_bytes()[:4] == b"\x89PNG"
    run.finish()
    assert runs.read_record(run.dir)["status"] == "complete"
    assert not [p for p in run.dir.rglob(".*") if p.is_file()]  # no temporary file is left


def test_groups_of_the_test_images_are_kept_with_their_predictions_alone(tmp_path, monkeypatch):
    root = tmp_path / "set"
    for i in range(48):
        path = root / "ab"[i % 2] / f"slide{i // 4}_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(path)
    data = load_dataset(f"folder:{root}", groups=r"^(slide\d+)")
    lesson = parameters.find_notebook("01")
    namespace = {name: p.default for name, p in parameters.read_parameters(lesson).items()}
    monkeypatch.delenv("LABUTIL_RUN_DIR", raising=False)
    run = runs.open_run(lesson.stem, namespace, data)
    p = np.full((len(data.test), 2), 0.5)
    run.save_predictions(data.test.labels, p)
    run.save_predictions(data.test.labels, p, "predictions_shifted")
    with np.load(run.dir / "predictions.npz", allow_pickle=False) as file:
        assert file["groups"].tolist() == list(data.test.groups)
    with np.load(run.dir / "predictions_shifted.npz", allow_pickle=False) as file:
        assert "groups" not in file


def test_an_interrupted_write_leaves_the_old_file(run, monkeypatch):
    run.log(a=1)
    before = (run.dir / "run.json").read_text()
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.log(b=2)
    assert (run.dir / "run.json").read_text() == before
    assert [p.name for p in run.dir.iterdir()] == ["run.json"]


def test_run_id_follows_code_parameters_and_data(tmp_path):
    folder = tmp_path / "set" / "a"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"1")
    params = {"seed": 0, "dataset": f"folder:{folder.parent}"}
    notebook = write(tmp_path / "99_lesson.ipynb", "x = 1")
    first = runs.run_id(notebook, params)
    assert len(first) == 10
    assert runs.run_id(notebook, dict(reversed(params.items()))) == first
    assert runs.run_id(notebook, params | {"seed": 1}) != first
    assert runs.run_id(write(tmp_path / "99_lesson.ipynb", "x = 2"), params) != first
    assert runs.run_id(write(tmp_path / "99_lesson.ipynb", "x = 1"), params) == first
    (folder / "x.png").write_bytes(b"12")
    assert runs.run_id(notebook, params) != first
    # The files that parameters name count too.
    params = {"seed": 0, "weights": str(folder / "x.png")}
    first = runs.run_id(notebook, params)
    assert runs.run_id(notebook, params) == first
    os.utime(folder / "x.png", ns=(1, 1))
    assert runs.run_id(notebook, params) != first


def test_load_runs_reads_what_is_there_and_names_what_is_not(tmp_path, capsys):
    old = runs.new_record("99_lesson", "smoke", {"seed": 1}) | {"metrics": {"val_accuracy": 0.5}}
    del old["label"]
    files = {
        "a": json.dumps(old | {"started": "2026-01-03T00:00:00+00:00"}),
        "b": json.dumps(old | {"started": "2026-01-02T00:00:00+00:00", "label": "SimCLR"}),
        "half": '{"status": "comp', "foreign": '{"name": "package"}', "list": "[1]",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    table = runs.load_runs(tmp_path)
    assert table.path.str[-1].tolist() == ["b", "a"]
    assert table[["val_accuracy", "params.seed"]].to_numpy().tolist() == [[0.5, 1], [0.5, 1]]
    assert table.label.tolist() == ["SimCLR", ""]  # older records have none
    out = capsys.readouterr().out
    assert out.count("left out: ") == 3
    assert all(name in out for name in ("half", "foreign", "list"))
    assert runs.load_runs(tmp_path / "nothing").empty


def test_by_hand_a_run_opens_in_a_directory_of_its_own(monkeypatch, capsys):
    lesson = parameters.find_notebook("01")
    namespace = {name: p.default for name, p in parameters.read_parameters(lesson).items()}
    monkeypatch.delenv("LABUTIL_RUN_DIR", raising=False)
    opened = runs.open_run(lesson.stem, namespace)
    assert opened.dir.name.startswith("hand-")
    assert not opened.resume
    assert runs.open_run(lesson.stem, namespace).dir == opened.dir  # a cell run twice in one kernel
    assert "precision" in capsys.readouterr().out


def test_execute_finds_forces_and_keeps_what_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTIL_RUN_DIR", "of the run that this one is made in")
    out = tmp_path / "out {run} {0} {epochs} {{x}} 100% %s [a-b]* ?#& 'q' 1"  # papermill formats the paths it is given
    notebook = write(tmp_path / "99_lesson.ipynb", OPEN, "run.log(val_accuracy=epochs / 10)", "run.finish()")
    params = {"seed": 0, "epochs": 2}
    directory, record, found = runs.run_notebook(notebook, params, out=out)
    assert not found
    assert (record["status"], record["metrics"]) == ("complete", {"val_accuracy": 0.2})
    assert record["environment"]["precision"] in {"fp32", "bf16", "fp16"}
    assert directory == out / "99_lesson" / directory.name
    assert "widgets" not in nbformat.read(directory / "notebook.ipynb", 4).metadata
    begun = time.monotonic()
    assert runs.run_notebook(notebook, params, out=out)[1:] == (record, True)
    assert time.monotonic() - begun < 1
    (directory / "stale.txt").write_text("old")
    _, again, found = runs.run_notebook(notebook, params, out=out, force=True)
    assert not found
    assert again["started"] > record["started"]
    assert not (directory / "stale.txt").exists()

    bad = write(tmp_path / "99_lesson.ipynb", OPEN, "raise ValueError('two\\nlines')", "run.finish()")
    with pytest.raises(runs.RunError, match=r"99_lesson failed in cell \[4\] \(Training\): ValueError: two lines\n"):
        runs.run_notebook(bad, params, out=out)
    (failed,) = [p.parent for p in out.rglob("error.txt")]
    assert runs.read_record(failed)["status"] == "failed"
    assert "Traceback" in (failed / "error.txt").read_text()
    assert (failed / "notebook.ipynb").exists()

    careless = write(tmp_path / "99_lesson.ipynb", OPEN)
    with pytest.raises(runs.RunError, match=r"ended without run\.finish"):
        runs.run_notebook(careless, params, out=out)
    assert os.environ["LABUTIL_RUN_DIR"] == "of the run that this one is made in"


TRAIN = """
import torch, torch.nn.functional as F
from types import SimpleNamespace
from torch import nn
from labutil import device
from labutil.training import fit
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
data = SimpleNamespace(images=torch.randint(0, 256, (64, 1, 8, 8), generator=g, dtype=torch.uint8),
                       labels=torch.randint(0, 3, (64,), generator=g))
for name in ("first", "second"):
    model = device.prepare(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)))
    def step(x, y):
        if name == "second":
            __import__("time").sleep(0.05)
        noise = torch.rand(x.shape, generator=device.generator("augment"))
        return F.cross_entropy(model(x + noise), y)
    fit(step, [model], data, epochs=20, batch_size=16, lr=0.1, run=run, name=name)
run.log(weights=model[2].weight.double().sum().item())
run.save_model(model)
"""


def test_a_killed_run_continues_bit_for_bit(tmp_path):
    """kill -9 of the command while its kernel trains: the same command finishes, equal to a run that was not cut."""
    notebook = write(tmp_path / "99_lesson.ipynb", OPEN, TRAIN, "run.finish()")
    script = (
        "import sys; from pathlib import Path; from labutil import runs\n"
        "runs.run_notebook(Path(sys.argv[1]), {'seed': 0, 'epochs': 2}, out=Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, notebook, tmp_path / "cut"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cut/*/*/checkpoints/second.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (directory,) = (tmp_path / "cut" / "99_lesson").iterdir()
    params = {"seed": 0, "epochs": 2}
    with pytest.raises(runs.RunError, match="is being run by another process"):  # meanwhile
        runs.run_notebook(notebook, params, out=tmp_path / "cut")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert runs.read_record(directory)["status"] == "running"
    reached = len(pd.read_csv(directory / "history.csv"))
    cut = runs.run_notebook(notebook, params, out=tmp_path / "cut")[1]
    whole, record, _ = runs.run_notebook(notebook, params, out=tmp_path / "whole")
    assert reached < 40  # it was cut before the end
    assert runs.read_record(directory) == cut
    assert (cut["status"], cut["metrics"]) == ("complete", record["metrics"])
    assert (directory / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    history = [pd.read_csv(d / "history.csv") for d in (directory, whole)]
    pd.testing.assert_frame_equal(*(table.drop(columns=["seconds", "images_per_second"]) for table in history))
    assert not (directory / "checkpoints").exists()


def command(notebook, out, *options):
    return [sys.executable, "-m", "labutil", "run", str(notebook), "--out", str(out), *options]


def test_core_leaves_out_what_only_a_reader_needs(tmp_path):
    cells = (OPEN, "run.log(val_accuracy=epochs / 10)", "run.log(extra=1)", "run.finish()")
    plain = write(tmp_path / "99_lesson.ipynb", *cells)
    params = {"seed": 0, "epochs": 2}
    assert runs.run_id(plain, params, core=True) == runs.run_id(plain, params)
    notebook = nbformat.read(plain, 4)
    notebook.cells[4].metadata["tags"] = ["lesson"]
    nbformat.write(notebook, plain)
    first = runs.run_id(plain, params, core=True)
    directory, record, _ = runs.run_notebook(plain, params, out=tmp_path, core=True)
    assert directory.name == first != runs.run_id(plain, params)
    assert (record["core"], record["metrics"]) == (True, {"val_accuracy": 0.2})
    assert not any("extra" in cell.source for cell in nbformat.read(directory / "notebook.ipynb", 4).cells)
    whole = runs.run_notebook(plain, params, out=tmp_path)[1]
    assert (whole["core"], whole["metrics"]) == (False, {"val_accuracy": 0.2, "extra": 1})
    notebook.cells[4].source = "run.log(other=1)"
    nbformat.write(notebook, plain)
    assert runs.run_id(plain, params, core=True) == first


def test_a_loss_that_is_not_finite_is_recorded_as_diverged(tmp_path):
    notebook = write(tmp_path / "99_lesson.ipynb", OPEN, "raise FloatingPointError('loss is nan')", "run.finish()")
    with pytest.raises(runs.RunError, match="FloatingPointError: loss is nan"):
        runs.run_notebook(notebook, {"seed": 0, "epochs": 2}, out=tmp_path)
    (file,) = tmp_path.rglob("error.txt")
    assert runs.read_record(file.parent)["status"] == "diverged"


def test_sigterm_ends_a_run_as_an_interrupt_does(tmp_path):
    slow = "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    notebook = write(tmp_path / "99_lesson.ipynb", OPEN, slow, "run.finish()")
    process = subprocess.Popen(command(notebook, tmp_path), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert "interrupted; the same command continues" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    (file,) = tmp_path.rglob("error.txt")
    assert "KeyboardInterrupt" in file.read_text()
    assert runs.read_record(file.parent)["status"] == "failed"
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert locks.holder(file.parent) is None


@pytest.mark.skipif(sys.platform == "win32", reason="kernels are spoken to through ports there")
def test_a_kernel_has_sockets_of_its_own_unless_their_name_is_too_long(tmp_path, monkeypatch):
    with execute._sockets() as one, execute._sockets() as other:
        files = [config.KernelManager.connection_file for config in (one, other)]
        assert one.KernelManager.transport == "ipc"
        assert files[0] != files[1]
        assert all(len(f"{file.removesuffix('.json')}-ipc-5") < 103 for file in files)
    assert not any(os.path.exists(os.path.dirname(file)) for file in files)
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with execute._sockets() as config:
        assert not config
