"""Grids carried out: by instant runs, by real processes, by several drivers, interrupted and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time

import pandas as pd
import pytest
import yaml
from conftest import command, sweep

from labutil import runs
from labutil.paths import DataError
from labutil.runs import locks
from labutil.runs.parameters import ParameterError
from labutil.sweeps import command as sweeping
from labutil.sweeps import local, plan, results

GRID = (("lr", "0.1,0.3"), ("kind", "[plain,error]"))


def value(params):
    return {"metrics": {"val_accuracy": 1 - (params["lr"] - 0.3) ** 2 - params["seed"] / 1000}}


def read(notebook, out, *given, **options):
    return plan.read([notebook], None, given, options.pop("searched", ()), name="s", out=out, **options)


def table(out):
    return pd.read_csv(out / "s" / "sweep.csv")


def test_a_grid_leaves_a_table_a_plan_and_the_best_setting(stub, tmp_path, instantly, capsys):
    launcher = instantly(value)
    found = read(stub, tmp_path, ("lr", "0.1,0.3"), ("sizes", "[[4],[8,16]]"), seeds="0,1")
    assert sweeping.sweep(found)
    rows = table(tmp_path)
    assert list(rows) == ["notebook", "setting", "lr", "sizes", "seed", "status", "objective", "value", "val_accuracy",
                          "epochs_run", "image_passes", "seconds", "path", "error"]  # fmt: skip
    assert rows.setting.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows.seed.tolist() == [0, 1] * 4
    assert rows.sizes.tolist() == ["[4]", "[4]", "[8, 16]", "[8, 16]"] * 2
    assert (tmp_path / "s" / rows.path[0] / "run.json").exists()
    saved = yaml.safe_load((tmp_path / "s" / "sweep.yaml").read_text())
    assert saved["notebooks"]["98_stub"]["settings"][3] == {"lr": 0.3, "sizes": [8, 16]}
    said = capsys.readouterr().out.splitlines()
    assert len(launcher.started) == 8
    assert said[-2] == f"the best, whole: labutil run {stub} -p lr 0.3"
    assert said[-1] == f"8 runs: 8 complete; {tmp_path / 's'}"
    assert "0.9995" in said[-6] and said[-6].split()[:3] == ["2", "0.3", "[4]"]
    assert sweeping.sweep(found)  # again: nothing is run
    assert len(launcher.started) == 8


def test_a_setting_that_lacks_a_seed_is_not_judged(stub, tmp_path, instantly, capsys):
    instantly(lambda params: {"status": "diverged"} if (params["lr"], params["seed"]) == (0.3, 1) else value(params))
    assert sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.3"), seeds="0,1"))  # to diverge is an end like others
    out = capsys.readouterr().out
    assert "labutil run" in out and "-p lr 0.3" not in out
    assert out.endswith(f"4 runs: 3 complete, 1 diverged; {tmp_path / 's'}\n")


def test_failed_runs_are_tried_again_by_the_same_command_and_others_are_not(stub, tmp_path, instantly, capsys):
    found = read(stub, tmp_path, ("lr", "0.1,0.2,0.3"))
    broken = lambda params: {"status": {0.1: "failed", 0.2: "diverged"}.get(params["lr"], "complete")}  # noqa: E731
    launcher = instantly(lambda params: value(params) | broken(params))
    assert not sweeping.sweep(found)
    assert len(launcher.started) == 3
    assert "1 complete, 1 diverged, 1 failed" in capsys.readouterr().out
    launcher = instantly(value)
    assert sweeping.sweep(found)
    assert [params["lr"] for params in launcher.started] == [0.1]
    assert table(tmp_path).status.tolist() == ["complete", "diverged", "complete"]


def test_what_another_process_has_is_waited_for_and_not_run_twice(stub, tmp_path, instantly):
    found = read(stub, tmp_path, ("lr", "0.1,0.2,0.3"))
    jobs = sweeping.grid(found, found.studies[0])
    other = jobs[0]
    other.directory.mkdir(parents=True)
    lock = locks.acquire(other.directory)
    runs.write_json(other.directory / "run.json", runs.new_record("98_stub", None, other.params))

    def outcome(params):
        if params["lr"] == 0.3:  # the last that is free: meanwhile the other process fails
            record = runs.new_record("98_stub", None, other.params) | {"status": "failed"}
            runs.write_json(other.directory / "run.json", record)
            lock.release()
        return value(params)

    launcher = instantly(outcome)
    assert not sweeping.sweep(found)
    assert [params["lr"] for params in launcher.started] == [0.2, 0.3]
    assert table(tmp_path).status.tolist() == ["failed", "complete", "complete"]


def test_the_run_of_a_driver_that_died_is_taken_over(stub, tmp_path, instantly):
    found = read(stub, tmp_path, ("lr", "0.1,0.2"))
    job = sweeping.grid(found, found.studies[0])[0]
    job.directory.mkdir(parents=True)
    runs.write_json(job.directory / "run.json", runs.new_record("98_stub", None, job.params))
    assert local.look(job) == "free"
    launcher = instantly(value)
    assert sweeping.sweep(found)
    assert len(launcher.started) == 2


def test_two_notebooks_one_after_the_other_share_a_table(stub, tmp_path, instantly):
    instantly(value)
    other = stub.with_name("97_stub.ipynb")
    other.write_bytes(stub.read_bytes())
    sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2")))
    sweeping.sweep(read(other, tmp_path, ("bend", "false,true")))
    sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2,0.3")))
    rows = table(tmp_path)
    assert rows.notebook.tolist() == ["97_stub"] * 2 + ["98_stub"] * 3
    assert rows.lr.tolist()[2:] == [0.1, 0.2, 0.3]
    assert {*yaml.safe_load((tmp_path / "s" / "sweep.yaml").read_text())["notebooks"]} == {"97_stub", "98_stub"}


@pytest.mark.parametrize("text", ["", "\n", "notebook;setting;seed\n98_stub;0;0\n", 'a,"b\nc', "\xff"])
def test_a_table_that_was_spoilt_is_written_anew_from_the_runs(stub, tmp_path, instantly, text):
    launcher = instantly(value)
    assert sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2")))
    before = table(tmp_path)
    (tmp_path / "s" / "sweep.csv").write_text(text, encoding="latin-1")
    (tmp_path / "s" / "sweep.yaml").write_text("{spoilt: [")
    sweeping.dry_run(read(stub, tmp_path, ("lr", "0.1,0.2")))
    assert sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2")))
    assert len(launcher.started) == 2
    pd.testing.assert_frame_equal(table(tmp_path), before)


def test_dry_run_lists_runs_and_estimates_from_finished_ones(stub, tmp_path, instantly, capsys, monkeypatch):
    found = read(stub, tmp_path, ("lr", "0.1,0.2"))
    sweeping.dry_run(found)
    out = capsys.readouterr().out
    assert "98_stub lr=0.1 seed=0: missing" in out
    assert "time: unknown, without a finished run of 98_stub to judge by" in out
    assert not found.directory.exists()
    # Half as many epochs on the same images as a finished run of 60 s.
    finished = tmp_path / "finished"
    monkeypatch.setenv("LABUTIL_RUNS", str(finished))
    said = (
        (1, 10.0, "about 60 s, from the largest of 1 finished runs, scaled by image passes, so probably less\n"),
        (6, 60.0, "about 60 s, from the largest of 2 finished runs, scaled by image passes\n"),
    )
    for epochs, seconds, words in said:
        record = runs.new_record("98_stub", None, {"epochs": epochs, "seed": 0})
        (finished / "98_stub" / str(epochs)).mkdir(parents=True)
        runs.write_json(
            finished / "98_stub" / str(epochs) / "run.json", record | {"status": "complete", "seconds": seconds}
        )
        sweeping.dry_run(found)
        assert f"2 runs by val_accuracy, 0 of them exist; time: {words}" in capsys.readouterr().out
    instantly(value)
    sweeping.sweep(read(stub, tmp_path, ("lr", "0.1"), seeds="0,1"))
    capsys.readouterr()
    sweeping.dry_run(read(stub, tmp_path, ("lr", "0.1,0.2")))
    out = capsys.readouterr().out
    assert "98_stub lr=0.1 seed=0: complete" in out
    assert "1 of them exist; time: about 1 s, as the finished ones took" in out


def test_dry_run_refuses_what_the_sweep_would_and_adds_up_only_what_is_known(stub, tmp_path, capsys):
    found = read(stub, tmp_path, ("lr", "0.1,0.2"))
    for options, message in (
        ({"storage": "postgresql://me@host/db"}, "a grid divides itself"),
        ({"slurm": ("partiton=gpu",)}, "--slurm"),
    ):
        for answer in (sweeping.dry_run, sweeping.sweep):
            with pytest.raises(ParameterError, match=message):
                answer(found, **options)
    assert not found.directory.exists()
    sweeping.dry_run(found, workers=2)
    assert "in all" not in capsys.readouterr().out


def test_a_metric_that_is_not_logged_is_named_at_once_and_the_right_one_finds_the_runs(
    stub, tmp_path, instantly, capsys
):
    launcher = instantly(lambda params: {"metrics": {"val_accuracy": params["lr"], "val_loss": 1 - params["lr"]}})
    assert not sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2"), objective="val_acuracy"))
    said = capsys.readouterr().out.splitlines()
    assert "complete, but it logs no val_acuracy (did you mean 'val_accuracy'?) in 1.0 s" in said[0]
    figures = {}
    for objective in ("val_accuracy", "val_loss"):
        assert sweeping.sweep(read(stub, tmp_path, ("lr", "0.1,0.2"), objective=objective))
        figures[objective] = (tmp_path / "s" / "figures" / "ranking.png").read_bytes()
    assert len(launcher.started) == 2
    assert figures["val_accuracy"] != figures["val_loss"]


@pytest.mark.parametrize("name", ["x" * 300, "file/s"])
def test_a_folder_that_cannot_be_made_is_one_line(stub, tmp_path, name):
    (tmp_path / "file").touch()
    found = dataclasses.replace(read(stub, tmp_path, ("lr", "0.1,0.2")), directory=tmp_path / name)
    with pytest.raises(DataError, match=r"cannot be made \(.*\): name another folder"):
        sweeping.sweep(found)


def test_workers_share_cores_and_gpus(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local.environments(1, 1) == [{}]
    assert local.environments(3, 1) == [{"OMP_NUM_THREADS": "2"}] * 3
    with pytest.raises(ValueError, match="--gpus-per-run 2: there are 0 here"):
        local.environments(1, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in local.environments(3, 2)] == ["4,5", "6,7", "4,5"]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in local.environments(2, 1)] == ["4", "5"]
    with pytest.raises(ValueError, match="--gpus-per-run 5: there are 4 here"):
        local.environments(1, 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # somebody's own wish
    assert "OMP_NUM_THREADS" not in local.environments(2, 1)[0]


def test_several_gpus_a_run_go_through_torchrun(stub, tmp_path):
    found = read(stub, tmp_path, ("lr", "0.1,0.2"))
    words = local.command(found, sweeping.grid(found, found.studies[0])[0], gpus_per_run=2)
    assert words[1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "labutil", "run", str(stub),
        "--core", "--out", str(tmp_path / "s" / "runs"),
    ]  # fmt: skip


def test_real_runs_that_fail_diverge_or_lose_their_kernel_leave_the_others_alone(stub, tmp_path):
    done = sweep(stub, tmp_path, "-p", "kind", "[plain,error,nonfinite,dead]", "--workers", "2")
    assert done.returncode == 1, done.stderr
    rows = table(tmp_path).set_index("kind")
    assert rows.status.to_dict() == {"plain": "complete", "error": "failed", "nonfinite": "diverged", "dead": "failed"}
    assert "ValueError: asked to fail" in rows.error["error"]
    assert "its kernel died" in rows.error["dead"]
    assert (rows.epochs_run["plain"], rows.image_passes["plain"]) == (3, 30)
    record = json.loads((tmp_path / "s" / rows.path["plain"] / "run.json").read_text())
    assert (record["core"], record["metrics"]) == (
        True,
        {"val_accuracy": rows.value["plain"], "test_accuracy": rows.value["plain"] / 2},
    )
    assert done.stdout.splitlines()[-1] == f"4 runs: 1 complete, 1 diverged, 2 failed; {tmp_path / 's'}"
    again = sweep(stub, tmp_path, "-p", "kind", "[plain,nonfinite]")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == f"2 runs: 1 complete, 1 diverged; {tmp_path / 's'}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_runs_and_the_same_command_goes_on(trainer, tmp_path, number):
    options = ("-p", "lr", "0.1,0.2", "-p", "epochs", "6", "-p", "pause", "0.5")
    log = tmp_path / "log"
    before = signal.signal(number, signal.SIG_DFL)  # in a shell's background Ctrl-C is ignored, which children inherit
    process = subprocess.Popen(
        command(trainer, tmp_path, *options), stderr=subprocess.PIPE, text=True, env=os.environ | {"STUB_LOG": str(log)}
    )
    signal.signal(number, before)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("s/runs/*/*/checkpoints/main.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate(timeout=40)[1]
    assert (process.returncode, error) == (
        130,
        "labutil: interrupted; the same command continues from the last checkpoint\n",
    )
    (directory,) = tmp_path.glob("s/runs/*/*")
    assert runs.read_record(directory)["status"] == "failed"
    assert locks.holder(directory) is None
    reached = len(pd.read_csv(directory / "history.csv"))
    done = sweep(trainer, tmp_path, *options, STUB_LOG=str(log))
    assert done.returncode == 0, done.stderr
    assert 1 <= reached < 6
    assert len(pd.read_csv(directory / "history.csv")) == 6
    assert log.read_text().splitlines() == ["0.1 plain 0", "0.1 plain 0", "0.2 plain 0"]


def test_two_sweeps_on_one_folder_divide_the_grid(stub, tmp_path):
    log = tmp_path / "log"
    options = ("-p", "lr", "0.1,0.2,0.3,0.4,0.5", "-p", "pause", "0.1")
    start = lambda: subprocess.Popen(  # noqa: E731
        command(stub, tmp_path, *options), stdout=subprocess.PIPE, text=True, env=os.environ | {"STUB_LOG": str(log)}
    )
    both = [start(), start()]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(log.read_text().split("\n"))[1:] == [f"{lr} plain 0" for lr in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert all(text.splitlines()[-1].startswith("5 runs: 5 complete") for text in said)
    assert all(text.count("val_accuracy 0.") >= 1 for text in said)  # each has had a share
    assert not any("running in" in text for text in said)  # and tells of no other


def test_no_password_is_kept(stub, tmp_path):
    found = read(stub, tmp_path, ("lr", "0.1,0.2"))
    found.directory.mkdir()
    results.save_plan(found, ["labutil", "sweep", "--storage", "postgresql://me:secret@host/db"])
    saved = yaml.safe_load((found.directory / "sweep.yaml").read_text())
    assert saved["command"] == "labutil sweep --storage postgresql://me:***@host/db"
