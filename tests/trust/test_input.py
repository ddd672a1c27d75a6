"""Inputs by name: what real folders and arrays hold beside good pictures is read right, or told in one line."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from labutil import cli
from labutil.cleaning import CleaningReport, command, decisions
from labutil.data import load_dataset, loading, sources
from labutil.paths import DataError, file_name, printable

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def folder(root: Path, *classes: str, count: int = 6, side: int = 12) -> Path:
    for name in classes:
        for i in range(count):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(side, side, 3)).save(root / name / f"{i}.png", "PNG")
    return root


def npz(place: Path, **arrays: np.ndarray) -> str:
    np.savez(place / "set.npz", **arrays)
    return f"npz:{place}/set.npz"


def notes(spec: str, capsys: pytest.CaptureFixture, **options: object) -> list[str]:
    capsys.readouterr()
    load_dataset(spec, **options)
    return capsys.readouterr().out.splitlines()


# Identical images in two parts


def test_images_of_test_that_are_in_train_too_are_told_at_every_opening(tmp_path, capsys):
    images, labels = noise(40, 9, 9, 3), np.arange(40) % 2
    tests, told = np.concatenate([images[:5], noise(3, 9, 9, 3)]), np.arange(8) % 2
    told[0] = 1 - told[0]
    spec = npz(tmp_path, train_images=images, train_labels=labels, test_images=tests, test_labels=told)
    for options in ({}, {}, {"image_size": 8}, {"subset": 4}):
        (line,) = notes(spec, capsys, **options)
        assert "5 of 8 test images are in train or val too" in line
        assert "1 of them with another label" in line
        assert "labutil clean" in line
    spec = npz(tmp_path, train_images=images, train_labels=labels, test_images=noise(8, 9, 9, 3), test_labels=told)
    assert notes(spec, capsys) == []


def test_copies_in_a_folder_that_is_divided_here(tmp_path, capsys):
    root = folder(tmp_path / "set", "a", "b", count=10)
    for i in range(10):
        (root / "b" / f"copy{i}.png").write_bytes((root / "a" / f"{i}.png").read_bytes())
    lines = notes(f"folder:{root}", capsys)
    data = load_dataset(f"folder:{root}")
    known = {image.numpy().tobytes() for part in (data.train, data.val) for image in part.images}
    leaked = sum(image.numpy().tobytes() in known for image in data.test.images)
    assert leaked
    assert any(f"{leaked} of {len(data.test)} test images" in line for line in lines)


# The container's depth, and shapes


@pytest.mark.parametrize("greatest", [1, 15, 127, 128])
def test_dark_sets_are_told(tmp_path, capsys, greatest):
    images = noise(20, 9, 9) % (greatest + 1)
    images[0, 0, 0] = greatest
    lines = notes(npz(tmp_path, images=images.astype(np.int32), labels=np.arange(20) % 2), capsys)
    assert lines == [f"note: no value is above {greatest} of 255, so these images are dark as stored: "
                     "scale them if that is wrong"] * (greatest < 128)  # fmt: skip


def test_one_bright_file_does_not_darken_the_others_in_silence(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for i in range(10):
        Image.fromarray(noise(9, 9).astype(np.uint16) * (257 if i == 3 else 16)).save(tmp_path / "a" / f"{i}.tif")
    assert any("come out dark, since a/3.tif has" in line for line in notes(f"folder:{tmp_path}", capsys))


@pytest.mark.parametrize(("low", "high", "says"), [(0, 1, "(255 * images).round()"), (0, 255, "save images.round()"),
                                                   (-1, 1, "scale them"), (0, 4095, "scale them")])  # fmt: skip
def test_advice_on_floats_fits_their_range(tmp_path, low, high, says):
    images = np.linspace(low, high, 20 * 81, dtype=np.float32).reshape(20, 9, 9)
    with pytest.raises(DataError, match="float32 values from") as caught:
        load_dataset(npz(tmp_path, images=images, labels=np.arange(20) % 2))
    assert says in str(caught.value)
    images[0, 0, 0] = np.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        load_dataset(npz(tmp_path, images=images, labels=np.arange(20) % 2))


def test_long_images_lose_their_ends_with_a_note(tmp_path, capsys):
    folder(tmp_path, "a", "b")
    Image.fromarray(noise(12, 60, 3)).save(tmp_path / "a" / "long.png")
    assert notes(f"folder:{tmp_path}", capsys)[0].startswith("note: images at least twice as long as wide: 1, of which")


# Names


def test_names_steer_no_terminal_and_break_no_table(tmp_path):
    names = (
        "a\rb",
        "a\nb",
        "\x1b[31mred",
        "\u202eabc",
        "{a}",
        "50%",
        "$x$",
        "<b>",
        "it's",
        "-dash",
        "--help",
        "=1",
        "nan",
    )
    shown = CliRunner().invoke(cli.main, ["data", f"folder:{folder(tmp_path / 'more', *names)}"])
    assert shown.exit_code == 0
    assert not {"\r", "\x1b", "\u202e"} & set(shown.output)
    root = folder(tmp_path / "set", *names, count=1)
    command.clean(f"folder:{root}", tmp_path / "out")
    command.apply(tmp_path / "out" / "decisions.csv", None, None)
    kept = sorted((tmp_path / "out" / "cleaned" / "images").glob("*/*.png"))
    assert [(p.parent.name, p.read_bytes()) for p in kept] == [
        (p.parent.name, p.read_bytes()) for p in sorted(root.glob("*/*.png"))
    ]
    assert printable("caf\udce9 \ud800") == "caf\\xe9 \\ud800"


def test_labels_of_bytes_stay_apart_and_empty_ones_are_refused(tmp_path):
    images, y = noise(20, 9, 9), np.arange(20) % 2
    data = load_dataset(npz(tmp_path, images=images, labels=np.array([b"caf\xe9", b"caf\xe8"])[y]))
    assert data.classes == ("caf\\xe8", "caf\\xe9")
    with pytest.raises(DataError, match="no label for image 0"):
        load_dataset(npz(tmp_path, images=images, labels=np.array(["", "a"])[y]))


def test_classes_that_look_alike_are_told(tmp_path, capsys):
    spec = npz(tmp_path, images=noise(20, 9, 9), labels=np.array(["Cat", "cat ", "-1", "dog"])[np.arange(20) % 4])
    said = "\n".join(notes(spec, capsys))
    assert "'cat ' and 'Cat' are two classes" in said or "'Cat' and 'cat ' are two classes" in said
    assert "-1 is a class like any other" in said


def test_long_names_of_sets_make_names_of_files_that_fit(tmp_path):
    for name in ("n" * 255, "\u732b" * 85):
        assert len(f"predictions_{file_name('folder:' + name)}_train.csv".encode()) <= 255
    root = folder(tmp_path / ("n" * 255), "a", "b")
    assert CliRunner().invoke(cli.main, ["clean", f"folder:{root}"]).exit_code == 0


def test_under_an_ascii_locale_the_command_starts_once_more(monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "labutil", "--version"])
    monkeypatch.setattr(sys, "argv", ["labutil", "--version"])
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    for _ in range(2):  # and not for ever
        with pytest.raises(SystemExit):
            cli.main()
    assert started == [(sys.executable, [sys.executable, "-m", "labutil", "--version"])]
    assert os.environ["PYTHONUTF8"] == "1"


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="locales")
def test_an_ascii_locale_names_files_all_the_same(tmp_path):
    root = folder(tmp_path / "\u732b", "\u72ac", "b")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LABUTIL_RUNS": str(tmp_path / "runs")}
    call = [sys.executable, "-m", "labutil", "clean", f"folder:{root}"]
    done = subprocess.run(call, env=os.environ | plain, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "clean" / "folder_\u732b" / "decisions.csv").is_file()


# Somebody else's files


SYSTEMS = ("@eaDir", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", ".Trash-1000", "_vti_cnf", "__MACOSX",
           ".ipynb_checkpoints", "lost+found", ".git", "@__thumb", "x.lrdata")  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
def test_folders_of_systems_are_neither_classes_nor_images(tmp_path, name):
    root = folder(tmp_path / "set", "a", "b", f"{name}", f"a/{name}", f"a/{name}/deep")
    for file in ("Thumbs.db", ".DS_Store", "._0.png", "desktop.ini"):
        (root / "a" / file).write_bytes(b"no image")
    data = load_dataset(f"folder:{root}")
    assert data.classes == ("a", "b")
    assert sum(map(len, (data.train, data.val, data.test))) == 12


def test_folders_that_are_one_level_off(tmp_path, capsys):
    data = load_dataset(f"folder:{folder(tmp_path / 'blank', 'train /a', 'train /b', 'Test /a', 'Test /b')}")
    assert data.classes == ("a", "b")
    assert len(data.test) == 12
    root = folder(tmp_path / "two", "set1/a", "set1/b", "set2/a", "set2/b")
    assert any("all hold the same folders (a, b, ...)" in line for line in notes(f"folder:{root}", capsys))


# Bombs and lying sizes


def big_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes(side * (1 + side // 8)), 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    folder(tmp_path, "a", "b")
    (tmp_path / "a" / "big.png").write_bytes(big_png(12000))
    with pytest.raises(DataError, match=r"big\.png has 12,000 x 12,000 pixels"):
        load_dataset(f"folder:{tmp_path}")


def test_a_packed_file_is_read_no_further_than_its_header_says(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(bytes([0, 0, 8, 3]) + struct.pack(">III", 20, 10, 10))
        for _ in range(600):
            file.write(bytes(1 << 20))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="20 x 10 x 10 in its header, but more bytes follow"):
        load_dataset(f"idx:{tmp_path}")
    whole = gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">III", 1 << 20, 1 << 10, 1 << 10))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(whole)
    with pytest.raises(DataError, match="but fewer bytes follow"):
        load_dataset(f"idx:{tmp_path}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


# What leaves the program


def test_a_cleaned_file_says_at_what_size_images_are_stored(tmp_path, capsys):
    data = load_dataset(f"folder:{folder(tmp_path / 'set', 'a', 'b', side=24)}", image_size=16)
    CleaningReport(data).apply(data, tmp_path / "cleaned.npz")
    assert "stored at 16x16 pixels" in capsys.readouterr().out


def test_classes_of_arrays_share_no_folder_and_are_no_splits(tmp_path):
    images, y = noise(16, 12, 12), np.arange(16) % 2
    for names in (["cat", "cat "], ["a/b", "a_b"], ["..", "b"], ["Cat", "cat"]):
        spec = npz(tmp_path, images=images, labels=np.array(names)[y])
        with pytest.raises(DataError, match="no folder's name of its own"):
            decisions._opened_arrays(sources.parse(spec))
    spec = npz(tmp_path, images=images, labels=np.array(["train", "bus"])[y])
    command.clean(spec, tmp_path / "out")
    command.apply(tmp_path / "out" / "decisions.csv", None, None)
    again = load_dataset(f"folder:{tmp_path}/out/cleaned/images")
    assert again.classes == ("bus", "train")
    assert loading.load_source(sources.parse(spec)).classes == ("bus", "train")
