"""What a disk does: it fills up, refuses, forgets a bit, loses files. Each ends in one line that
names the file, or in a clean new beginning; never in another result, and never at the cost of what was there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from planted import leave_run

from labutil import cli, device, models, paths, representations
from labutil.cleaning import tool
from labutil.compare.results import collect
from labutil.data import ImageSet, load_dataset, store
from labutil.paths import DataError
from labutil.runs.record import image_passes
from labutil.training import fit

resource = pytest.importorskip("resource")  # not on Windows


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@contextlib.contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes; the kernel says so to whatever language writes them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def flips(path: Path, count: int) -> Iterator[int]:
    """A file with one bit flipped, `count` times, spread over it; whole again afterwards."""
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, count).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        yield int(place)
    path.write_bytes(whole)


def photographs(folder: Path, n: int = 24, side: int = 16) -> Path:
    rng = np.random.default_rng(0)
    for i in range(n):
        (folder / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"c{i % 2}" / f"{i:02d}.png")
    return folder


def same(a: object, b: object) -> bool:
    parts = [(getattr(a, part), getattr(b, part)) for part in ("train", "val", "test")]
    facts = [(x.fingerprint, x.classes, x.mean, x.image_size) for x in (a, b)]
    equal = [
        torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) and x.names == y.names for x, y in parts
    ]
    return all(equal) and facts[0] == facts[1]


# Bits


@pytest.mark.parametrize("name", ["*/images.bin", "*/labels.npy", "*/sums.npy", "*/meta.json", "stamps/*"])
def test_a_flipped_bit_in_the_cache_is_noticed(name, tmp_path):
    spec = f"folder:{photographs(tmp_path / 'mine')}"
    known = load_dataset(spec)
    known = SimpleNamespace(**{k: getattr(known, k) for k in vars(known)})
    for part in ("train", "val", "test"):
        copy = getattr(known, part)
        setattr(known, part, ImageSet(copy.images.clone(), copy.labels.clone(), copy.classes, copy.names))
    (file,) = paths.data_dir().glob(f"cache/{name}")
    for place in flips(file, 25):
        assert same(load_dataset(spec), known), place
    assert len(list(paths.data_dir().glob("cache/" + "?" * 32))) == 1  # made anew where it was


def test_of_a_large_cache_some_is_checked(monkeypatch, tmp_path):
    spec = f"folder:{photographs(tmp_path / 'mine', side=32)}"
    monkeypatch.setattr(store, "_CHUNK", 3 * 32 * 32)
    load_dataset(spec)
    (folder,) = paths.data_dir().glob("cache/" + "?" * 32)
    monkeypatch.setattr(store, "_CHECKED", 8 * store._CHUNK)  # every third image
    noticed = []
    whole = (folder / "images.bin").read_bytes()
    for image in range(24):
        place = image * store._CHUNK + 5
        (folder / "images.bin").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        noticed += [image] * (not store.whole(folder))
    assert noticed == list(range(0, 24, 3))


def test_a_flipped_bit_in_cached_features_is_noticed():
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    known = representations.frozen_features(images, encoder="autoencoder_long")
    (file,) = paths.data_dir().glob("cache/features/*.npz")
    for place in flips(file, 25):
        assert torch.equal(representations.frozen_features(images, encoder="autoencoder_long"), known), place


def train(folder: Path, epochs: int = 3, stop: int | None = None) -> torch.Tensor:
    """Weights after a tiny fit in a folder, which continues what is there; it is killed in epoch `stop`."""
    device.seed_everything(0)
    model, seen = torch.nn.Linear(12, 2), []
    data = ImageSet(torch.randn(8, 12), torch.arange(8) % 2, ("a", "b"))

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        if stop and len(seen) > 2 * stop:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(model(torch.nn.functional.dropout(x, 0.1)), y)

    run = SimpleNamespace(dir=folder, resume=True, save_fit=lambda *_: None, save_history=lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt):
        fit(step, [model], data, epochs=epochs, batch_size=4, lr=0.1, precision="fp32", run=run, name="tiny")
    return model.weight.detach().clone()


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, capsys):
    known = train(tmp_path / "whole")
    train(tmp_path / "cut", stop=2)
    file = tmp_path / "cut" / "checkpoints" / "tiny.pt"
    cut, anew = file.read_bytes(), 0
    for place in flips(file, 30):
        assert torch.equal(train(tmp_path / "cut"), known), place
        anew += "is damaged" in capsys.readouterr().out
    assert anew > 15  # the other bits are padding, dates and names
    file.write_bytes(cut[: len(cut) // 2])
    assert torch.equal(train(tmp_path / "cut"), known)


@pytest.mark.parametrize("half", [False, True])
def test_a_flipped_bit_in_a_model_is_noticed(half, tmp_path):
    model = models.Classifier(models.encoder("resnet8", image_size=16), 3)
    file = tmp_path / "model.safetensors"
    models.save(model, file, half=half)
    known = representations.state_hash(models.load(file))
    for place in flips(file, 60):
        with contextlib.suppress(DataError):
            assert representations.state_hash(models.load(file)) == known, place
            assert place < 2000, place  # only what says how it was built can change without a word, as spaces do


def test_a_flipped_bit_in_predictions_is_noticed(tmp_path):
    directory = leave_run(tmp_path, "02_supervised_baseline")
    known = collect(tmp_path).boards[0].methods[0].probabilities
    for place in flips(directory / "predictions.npz", 60):
        found = collect(tmp_path)
        assert found.left_out or np.array_equal(found.boards[0].methods[0].probabilities, known), place


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"fit,epoch\n", b"a,b\n1,2\n", b'fit,epoch\n"x,1\n', b"fit\n\n"]
)
def test_a_damaged_history_ends_nothing(content, tmp_path):
    directory = leave_run(tmp_path, "02_supervised_baseline", fits={"supervised": {"images": 9, "seconds": 1.0}})
    (directory / "history.csv").write_bytes(content)
    assert len(collect(tmp_path).boards) == 1
    record = json.loads((directory / "run.json").read_text())
    assert image_passes(directory, record) == 0
    assert call("compare", tmp_path).exit_code == 0


# Room


def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path):
    target = tmp_path / "kept.csv"
    target.write_text("earlier")
    with small_disk(1000), pytest.raises(OSError, match=re.escape(str(target))):
        paths.replace_file(target, lambda file: file.write_bytes(bytes(5000)))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize("size", [500, 5000])
def test_a_full_disk_ends_commands_in_one_line(size, tmp_path):
    spec, out = f"folder:{photographs(tmp_path / 'mine')}", tmp_path / "out"
    assert call("clean", spec, "--out", out).exit_code == 0
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    run = leave_run(tmp_path / "runs", "02_supervised_baseline").parents[1]
    for command in (
        ("data", "cells:20"), ("clean", spec, "--out", out), ("start", "02", tmp_path / "work"),
        ("clean", "--apply", out / "decisions.csv", "--out", tmp_path / "new"),
        ("compare", run, "--latex", tmp_path / "t.tex"), ("publish", "--zip", tmp_path / "colab.zip"),
    ):  # fmt: skip
        with small_disk(size):
            result = call(*command)
        if result.exit_code:
            last = result.stderr.splitlines()[-1]
            assert result.exit_code == 2 and re.search(r"labutil: /.* cannot be .*: make room", last), (command, last)
    assert {file: file.read_bytes() for file in before} == before or size == 5000
    left = [file.name for file in tmp_path.rglob("*") if re.match(r"\.\d+-|.*\.(tmp|partial)$", file.name)]
    assert not left


def test_a_full_disk_ends_a_checkpoint_and_keeps_the_one_before(tmp_path):
    train(tmp_path, epochs=3, stop=2)
    file = tmp_path / "checkpoints" / "tiny.pt"
    before = file.read_bytes()
    with small_disk(1000), pytest.raises(OSError, match=re.escape(str(file))):
        train(tmp_path, epochs=3)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["tiny.pt"]


def test_room_for_pictures_is_taken_beforehand():
    """Else a disk that fills up while they are written ends the process by a signal."""
    with small_disk(1000), pytest.raises(DataError, match="cannot be written"):
        tool._on_disk((10, 3, 32, 32))


# Rights


RIGHTS = """
import sys
from click.testing import CliRunner
from labutil import cli
for command in sys.argv[1].split("|"):
    result = CliRunner().invoke(cli.main, command.split(";"))
    print(result.exit_code, repr(result.stderr), repr(result.exception))
"""


def test_what_may_not_be_written_or_read_is_one_line(tmp_path):
    spec, place = photographs(tmp_path / "mine"), tmp_path / "place"
    run = leave_run(place / "runs", "02_supervised_baseline").parents[1]
    (spec / "c0" / "00.png").chmod(0)
    commands = [
        f"data;folder:{spec}", f"data;folder:{spec}/c1", f"start;02;{place}/work", f"compare;{run}",
        f"clean;folder:{spec};--out;{place}/c", f"publish;--zip;{place}/a.zip", f"run;02;--out;{place}/r",
        f"sweep;02;-p;lr;0.1,0.2;--out;{place}/s", f"predict;{run}/02_supervised_baseline;folder:{spec}/c1",
    ]  # fmt: skip
    before = sorted(place.rglob("*"))
    for folder in (run, place):
        folder.chmod(0o555)
    # root may do anything, unless its capabilities are taken away
    prefix = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if prefix and not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and setpriv is missing")
    command = [*prefix, sys.executable, "-c", RIGHTS, "|".join(commands)]
    environment = os.environ | {"LABUTIL_DATA": str(place / "data")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(commands)
    for asked, line in zip(commands, told, strict=True):
        assert line.startswith("2 ") and line.count("\\n") == 1 and str(tmp_path) in line, (asked, line)
    assert sorted(place.rglob("*")) == before


# Files that come and go


def test_a_cache_that_vanishes(tmp_path):
    spec = f"folder:{photographs(tmp_path / 'mine')}"
    first = load_dataset(spec)
    total = first.train.images.sum(dtype=torch.int64)
    shutil.rmtree(paths.data_dir() / "cache")
    assert first.train.images.sum(dtype=torch.int64) == total  # of an open one the bytes stay
    assert same(load_dataset(spec), first)


def test_a_cache_of_another_version_is_left_alone(monkeypatch, tmp_path):
    spec = f"folder:{photographs(tmp_path / 'mine')}"
    with monkeypatch.context() as patch:
        patch.setattr(store, "FORMAT", store.FORMAT - 1)
        old = load_dataset(spec)
    assert same(load_dataset(spec), old)
    assert len(list(paths.data_dir().glob("cache/" + "?" * 32))) == 2


def test_large_splits_are_mapped_and_the_same(monkeypatch, tmp_path):
    spec = f"folder:{photographs(tmp_path / 'mine')}"
    copied = load_dataset(spec, groups=r"(\d)\.png")
    monkeypatch.setattr(store, "COPIED", 1000)
    for _ in range(2):
        assert same(load_dataset(spec, groups=r"(\d)\.png"), copied)
    assert len(list(paths.data_dir().glob("cache/" + "?" * 32))) == 2


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for memory")
def test_large_splits_take_no_memory(tmp_path):
    code = """
import sys
from labutil.data import load_dataset, store
def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
for store.COPIED in (1 << 20, 1 << 20, 1 << 30):  # made, opened, copied
    before = held()
    data = load_dataset(sys.argv[1])
    print(held() - before)
"""
    np.savez(tmp_path / "large.npz", images=np.zeros((2000, 128, 128, 3), np.uint8), labels=np.arange(2000) % 2)
    command = [sys.executable, "-c", code, f"npz:{tmp_path / 'large.npz'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    _, mapped, copied = map(int, done.stdout.split())  # kB, of 98,000 of images
    assert mapped < 10_000 and copied > 60_000
