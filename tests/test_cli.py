"""The command as a user types it: exit codes, one-line errors, and nothing heavy imported before it is needed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from labutil import cli, paths, runs
from labutil.runs import execute, parameters

HEAVY = {"torch", "pandas", "papermill", "nbformat", "matplotlib", "sklearn", "numpy", "scipy", "PIL", "accelerate"}


def call(*args):
    return CliRunner().invoke(cli.main, list(args))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "02", "-p", "epoch", "3"), "no parameter 'epoch' (did you mean 'epochs'?)"),
        (("run", "02", "-p", "epochs", "x"), "parameter epochs takes int, not 'x'"),
        (("run", "02_supervized_baseline"), "(did you mean '02_supervised_baseline'?)"),
        (("run", "02", "--recipe", "smoek"), "(did you mean 'smoke'?)"),
        (("run", "02", "-p", "dataset", "cifar11"), "did you mean 'cifar1"),
        (("run", "02", "-p", "dataset", "folder:/no/such/folder"), "/no/such/folder does not exist"),
        (("data", "folder:/no/such/folder"), "/no/such/folder does not exist"),
        (("run", "all", "-p", "epoch", "3"), "no parameter 'epoch'"),
        (("run", "07", "-p", "runs", "/no/such/folder"), "runs=/no/such/folder is no directory"),
        (("lab", "--lesson", "99"), "no notebook '99'"),
    ],
)
def test_usage_errors_exit_2_with_one_line_and_run_nothing(args, message):
    result = call(*args)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
    assert result.stderr.startswith("labutil: ")
    assert not paths.runs_dir().exists()


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [(runs.RunError("02 failed"), 1, "labutil: 02 failed\n"), (KeyboardInterrupt(), 130, "labutil: interrupted; ")],
)
def test_a_failed_run_exits_1_and_an_interrupted_one_130(monkeypatch, raised, code, message):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(execute, "run_notebook", fail)
    result = call("run", "02")
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert result.stderr.startswith(message)


def test_click_refuses_what_it_does_not_know():
    for args in (("runn",), ("run",), ("run", "02", "--recpie", "x"), ("run", "02", "-p", "epochs"), ("clean",)):
        result = call(*args)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith("labutil: ") and result.stderr.endswith(" --help)\n")


def test_data_prints_what_is_in_a_set_or_what_is_wrong_with_it(tmp_path):
    result = call("data", "cells:60")
    assert result.exit_code == 0, result.output
    assert all(text in result.output for text in ("3 x 96 x 96, 8 classes", "basophil", "fingerprint"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"not an image")
    result = call("data", f"folder:{tmp_path}")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "broken.png" in result.stderr


def test_the_command_line_imports_nothing_heavy():
    """A finished run must be found at once, so torch, pandas and papermill wait until a run starts."""
    code = "import sys; from labutil import cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("notebook", ["01", "03", "06"])
def test_a_finished_run_is_found_without_anything_heavy(notebook):
    path = parameters.find_notebook(notebook)
    directory = execute.run_directory(path, parameters.plan(path, None, {}), None, core=False)
    directory.mkdir(parents=True)
    record = runs.new_record(path.stem, None, {}) | {"status": "complete", "metrics": {"test_accuracy": 0.875}}
    runs.write_json(directory / "run.json", record)
    code = f"""import sys; from labutil import cli
cli.main(["run", "{notebook}"], standalone_mode=False)
print(*sys.modules)"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "already complete" in told and "0.8750" in told
    assert not HEAVY & set(told.split())


def test_a_full_disk_is_one_line(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "out.csv")

    monkeypatch.setattr("labutil.runs.predict.find_run", full)
    result = call("predict", "02", "cells:60")
    wrong = "labutil: out.csv cannot be read or written (No space left on device): make room\n"
    assert (result.exit_code, result.stderr) == (2, wrong)


def test_lab_becomes_jupyterlab_on_copies(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(os, "execv", lambda path, command: started.append((path, command)))
    monkeypatch.setattr("labutil.course.copies.WORK", tmp_path / "work")
    assert call("lab", "--lesson", "02", "--no-browser", "--port=8890").exit_code == 0
    mine = tmp_path / "work" / "02_supervised_baseline.ipynb"
    mine.write_text("work")
    assert call("lab").exit_code == 0
    (path, command), (_, all_of_them) = started
    assert path == sys.executable
    assert (command[1:3], command[5:]) == (["-m", "jupyterlab"], ["--no-browser", "--port=8890", str(mine)])
    assert all_of_them[5:] == [str(tmp_path / "work")]
    assert mine.read_text() == "work"
    assert len(list((tmp_path / "work").iterdir())) == 7


def test_python_m_labutil_is_the_command():
    done = subprocess.run([sys.executable, "-m", "labutil", "--version"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("labutil, version ")


def test_lab_says_how_to_get_jupyterlab_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    result = call("lab", "--lesson", "02")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "pip install jupyterlab" in result.stderr


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_lab_starts_jupyterlab_on_the_lesson(monkeypatch, tmp_path, system):
    started = []
    monkeypatch.setattr("labutil.course.copies.WORK", tmp_path / "work")
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    monkeypatch.setattr(subprocess, "call", lambda command: started.append(command) or 0)
    assert call("lab", "--lesson", "02", "--no-browser").exit_code == 0
    (command,) = started
    root, news, *rest = command[3:]
    assert news == "--LabApp.news_url=None"
    assert command[1:3] == ["-m", "jupyterlab"] and root == f"--ServerApp.root_dir={paths.project_root()}"
    assert rest == ["--no-browser", str(tmp_path / "work" / "02_supervised_baseline.ipynb")]


def test_output_goes_into_files_that_have_no_letters_for_it(tmp_path):
    """As on Windows, where a redirected output is cp1252."""
    for name in ("äß", "日本"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (i * 50, 9, 9)).save(tmp_path / "set" / name / f"{i}.png")
    command = [sys.executable, "-m", "labutil", "data", f"folder:{tmp_path / 'set'}"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "cp1252"}, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode("cp1252")
    assert "äß" in said and r"\u65e5\u672c" in said
