"""What a data specification means: names, paths, stamps; before torch is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labutil import paths
from labutil.data import catalogue, sources
from labutil.data.sources import NAMES, Source, files, natural, parse, resolve, stamp, walk
from labutil.paths import DataError


@pytest.mark.parametrize(
    ("spec", "source"),
    [
        ("cells", Source("cells", "cells", 6000)),
        ("cells:6000", Source("cells", "cells", 6000)),
        ("cells_shifted:250", Source("cells_shifted", "cells_shifted:250", 250)),
        (" cells_unseen ", Source("cells_unseen", "cells_unseen", 6000)),
        ("mnist5k", Source("mnist5k", "mnist5k")),
        ("cifar100", Source("cifar100", "cifar100")),
        ("bloodmnist", Source("bloodmnist", "bloodmnist", 28)),
        ("bloodmnist@28", Source("bloodmnist", "bloodmnist", 28)),
        ("organcmnist@224", Source("organcmnist", "organcmnist@224", 224)),
    ],
)
def test_names(spec: str, source: Source) -> None:
    assert parse(spec) == source
    assert parse(resolve(spec)) == source


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_its_own_specification(name: str) -> None:
    assert resolve(name) == name
    assert stamp(name).startswith(name)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cifar", "did you mean 'cifar10'"),
        ("MNIST", "did you mean 'mnist'"),
        ("blodmnist@64", "did you mean 'bloodmnist'"),
        ("cell:100", "did you mean 'cells'"),
        ("foldr:/somewhere", "did you mean 'folder'"),
        ("quite something else", "README"),
        ("", "must be a name"),
        (None, "must be a name"),
        ("cells:", "whole number"),
        ("cells:many", "whole number"),
        ("cells:3", "at least 10"),
        ("cells:-5", "whole number"),
        ("cells:2000000000", "whole number"),
        ("bloodmnist@32", "28, 64, 128, 224"),
        ("bloodmnist@", "whole number"),
        ("chestmnist", "several labels"),
        ("chestmnist@64", "several labels"),
        ("cifar10@64", "image_size"),
        ("cells@64", "image_size"),
        ("cifar10:100", "name alone"),
        ("folder:", "folder:PATH"),
        ("npz: ", "npz:PATH"),
        ("idx:a,b,c", "IMAGES"),
        ("idx:a,,b,c", "IMAGES"),
        ("folder:/nowhere/at/all", "/nowhere/at/all does not exist"),
        ("npz:/nowhere.npz", "/nowhere.npz does not exist"),
    ],
)
def test_wrong_specifications_are_one_line(spec: str, says: str) -> None:
    for function in (parse, resolve, stamp):
        with pytest.raises(DataError) as caught:
            function(spec)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


def test_wrong_kinds_of_path(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    for spec, says in (
        (f"folder:{tmp_path / 'a.zip'}", "no folder: unpack it"),
        (f"npz:{tmp_path}", f"folder:{tmp_path}"),
        (f"idx:{tmp_path},{tmp_path}", "not a file"),
        (f"idx:{tmp_path}", "train-images-idx3-ubyte"),
        (str(tmp_path), f"folder:{tmp_path}"),
    ):
        with pytest.raises(DataError, match=says):
            stamp(spec)


def test_resolve_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name in "abcd":
        (tmp_path / "sub" / name).touch()
    monkeypatch.chdir(tmp_path / "sub")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("folder:.") == resolve("folder:../sub/") == resolve("folder:~/sub") == f"folder:{tmp_path}/sub"
    assert resolve("npz:a") == f"npz:{tmp_path}/sub/a"
    assert resolve("idx:a,../sub/b, c ,d") == "idx:" + ",".join(f"{tmp_path}/sub/{name}" for name in "abcd")
    assert parse("folder:.").name == "folder:sub"  # what a run record shows


def test_stamp_of_files_changes_with_them_and_only_then(tmp_path: Path) -> None:
    image = tmp_path / "class" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"123")
    seen = [stamp(f"folder:{tmp_path}")]
    assert stamp(f"folder:{tmp_path}/../{tmp_path.name}") == seen[0]
    (tmp_path / "class" / "notes.txt").write_text("not data")
    (tmp_path / ".hidden.png").write_text("not data")
    assert stamp(f"folder:{tmp_path}") == seen[0]

    for change in (
        lambda: image.write_bytes(b"1234"),
        lambda: os.utime(image, ns=(1, 1)),
        lambda: image.rename(image.with_name("b.png")),
        lambda: image.write_bytes(b"new"),
    ):
        change()
        seen.append(stamp(f"folder:{tmp_path}"))
        assert len(set(seen)) == len(seen)


def test_stamp_of_generated_sets_follows_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamp("cells")
    assert before == stamp("cells:6000") != stamp("cells:7000")
    monkeypatch.setattr(sources, "CELLS_VERSION", sources.CELLS_VERSION + 1)
    assert stamp("cells") != before


def test_stamp_is_the_same_in_another_process_and_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"123")
    code = (
        "import sys; from labutil.data import sources\n"
        "for spec in sys.argv[1:]: print(sources.stamp(sources.resolve(spec)))\n"
        "heavy = {'torch', 'torchvision', 'pandas', 'sklearn', 'PIL', 'mlxtend', 'requests', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    specs = ["cells", "mnist5k", "mnist", "bloodmnist@64", f"npz:{tmp_path}/a.npz"]
    command = [sys.executable, "-c", code, *specs]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [stamp(spec) for spec in specs]


def test_walk_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "2.png").touch()
    (tmp_path / "data" / "a" / "1.png").touch()
    (tmp_path / "data" / "b").symlink_to(tmp_path / "outside")
    (tmp_path / "data" / "c.png").symlink_to(tmp_path / "outside" / "2.png")
    (tmp_path / "data" / "a" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "self").symlink_to(tmp_path / "data" / "a")
    assert sorted(file.name for file in walk(tmp_path / "data")) == ["a/1.png", "b/2.png", "c.png"]
    (tmp_path / "data" / "d.png").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"d\.png is a link that leads nowhere"):
        list(walk(tmp_path / "data"))


def test_walk_leaves_out_what_is_plainly_no_image(tmp_path: Path) -> None:
    kept = ["a/1.PNG", "a/scan", "recycled/1.png", "x.heic"]
    left = ["a/1.csv", "a/Thumbs.db", "README.md", ".git/1.png", "a/._1.png", ".thumbnails/1.png", "a/Icon\r"]
    left += ["__MACOSX/a/1.png", "@eaDir/1.png/SYNOPHOTO_THUMB_S.png", "a/@eaDir/1.png", "$RECYCLE.BIN/1.png"]
    left += ["System Volume Information/1", "lost+found/1.png", ".ipynb_checkpoints/1-checkpoint.png"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert sorted(file.name for file in walk(tmp_path)) == kept


def test_natural_order() -> None:
    names = ["10", "9", "a10b2", "a9b10", "A10b1", "", "a", "001", "1"]
    assert sorted(names, key=natural) == ["", "001", "1", "9", "10", "a", "a9b10", "A10b1", "a10b2"]


@pytest.mark.parametrize("dash", "-.")
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_folder_names(tmp_path: Path, dash: str, end: str) -> None:
    found = {
        "train_images": "train-images?idx3",
        "train_labels": "train-labels?idx1",
        "test_images": "t10k-images?idx3",
    }
    found = {part: f"{name.replace('?', dash)}-ubyte{end}" for part, name in found.items()}
    for name in found.values():
        (tmp_path / name).touch()
    assert {file.name: os.path.basename(file.path) for file in files(parse(f"idx:{tmp_path}"))} == found


def test_medmnist_facts_are_complete() -> None:
    assert len(catalogue.CLASSES) == 11
    assert set(catalogue.MD5) == set(catalogue.CLASSES)
    sums = [md5 for row in catalogue.MD5.values() for md5 in row]
    assert len(set(sums)) == 44 and all(len(bytes.fromhex(md5)) == 16 for md5 in sums)


def test_folders_do_not_depend_on_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parent.parent.parent
    assert paths.project_root() == root
    assert os.environ["LABUTIL_DATA"] == str(paths.data_dir())
    monkeypatch.delenv("LABUTIL_DATA")
    monkeypatch.setenv("LABUTIL_RUNS", "elsewhere/runs")
    assert paths.data_dir() == root / "data"
    assert paths.runs_dir() == root / "elsewhere" / "runs"


@pytest.mark.parametrize("below", ["", "notebooks", "my own/sub folder"])
def test_an_installed_package_finds_the_workbook_that_it_is_run_in(tmp_path: Path, below: str) -> None:
    """As `pip install .` leaves it: the package in one folder, the notebooks in another."""
    package, workbook = tmp_path / "site packages", tmp_path / "a workbook"
    source = Path(paths.__file__).parent
    shutil.copytree(source, package / "labutil", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source.parent / "notebooks" / "recipes" / "smoke", workbook / "notebooks" / "recipes" / "smoke")
    shutil.copy(source.parent / "notebooks" / "02_supervised_baseline.ipynb", workbook / "notebooks")
    (workbook / below).mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LABUTIL_")}
    environment["PYTHONPATH"] = str(package)

    def call(folder: Path, **named: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "labutil", "sweep", "02", "-p", "lr", "0.1,0.2", "--dry-run"]
        settings = {"capture_output": True, "encoding": "utf-8", "env": environment | named}
        return subprocess.run(command, cwd=folder, check=False, **settings)

    for done in (call(workbook / below), call(tmp_path, LABUTIL_ROOT=str(workbook))):
        assert done.returncode == 0 and done.stdout.count(": missing") == 2, done.stderr
    lost = call(tmp_path)
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path} holds no workbook" in lost.stderr and "LABUTIL_ROOT" in lost.stderr
