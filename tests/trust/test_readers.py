"""Every reader against files that were changed at random: what comes back is an error in one line, or what the file
holds; no other exception, no long wait, no memory out of proportion, and never other pixels than Pillow's."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mutations
import numpy as np
import pytest
import torch
from PIL import Image
from planted import leave_run

from labutil import models, runs
from labutil.cleaning import decisions
from labutil.compare.results import collect
from labutil.data import load_dataset
from labutil.paths import DataError
from labutil.runs import parameters
from labutil.weights import load_weights

resource = pytest.importorskip("resource")  # not on Windows
QUICK, LONG = 15, 150  # changed files a reader, in `make test` and in `make test-long`
CLEAR = (DataError, runs.RunError, parameters.ParameterError)


class Reader(NamedTuple):
    make: Callable[[Path], Path]  # writes whole files into a folder; the one that is changed
    structured: mutations.Mutation
    read: Callable[[Path], object]  # of the changed file


def pictures(n: int = 12, side: int = 12) -> np.ndarray:
    """uint8 (n, side, side, 3)."""
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def gray_idx(folder: Path, packed: bool = False) -> Path:
    images, labels = pictures()[..., 0], np.arange(12) % 3
    write = gzip.compress if packed else bytes
    data = b"".join([bytes.fromhex("00000803"), *(n.to_bytes(4, "big") for n in images.shape), images.tobytes()])
    (folder / "train-images-idx3-ubyte").write_bytes(write(data))
    data = bytes.fromhex("00000801") + len(labels).to_bytes(4, "big") + labels.astype(np.uint8).tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(write(data))
    return folder / "train-images-idx3-ubyte"


def packed_idx(folder: Path) -> Path:
    return gray_idx(folder, packed=True)


def packed_again(data: bytes, rng: np.random.Generator) -> bytes:
    return gzip.compress(mutations.idx(gzip.decompress(data), rng))


def npz(folder: Path) -> Path:
    file = folder / "set.npz"
    labels = np.arange(12) % 3
    np.savez(file, train_images=pictures(), train_labels=labels, test_images=pictures(), test_labels=labels[:, None])
    return file


def image_folder(kind: str, **options: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for i, picture in enumerate(pictures()):
            (folder / f"c{i % 3}").mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / f"c{i % 3}" / f"{i:02d}.{kind}", **options)
        return folder / "c0" / f"00.{kind}"

    return make


def read_folder(file: Path) -> None:
    """What comes of a folder is what Pillow makes of its files, resized where they differ."""
    data = load_dataset(f"folder:{file.parents[1]}", val_fraction=0.2)
    with Image.open(file) as image:
        image.load()
        plain = image.mode in {"RGB", "L"} and not image.getexif() and "transparency" not in image.info
        size = image.size
        theirs = np.asarray(image.convert("RGB"))
    stored = torch.cat([data.train.images, data.val.images, data.test.images])
    if plain and size == (12, 12) and stored.shape[1:] == (3, 12, 12):
        assert (stored == torch.from_numpy(theirs.transpose(2, 0, 1).copy())).all((1, 2, 3)).any()


def model_file(folder: Path) -> Path:
    torch.manual_seed(0)
    file = folder / "model.safetensors"
    models.save(models.Classifier(models.encoder("basic_cnn", channels=1, image_size=12), 3), file)
    return file


def state_dict(folder: Path) -> Path:
    file = folder / "weights.pt"
    torch.save(models.encoder("resnet8", image_size=12).state_dict(), file)
    return file


def run_folder(folder: Path, file: str) -> Path:
    return leave_run(folder, "02_supervised_baseline", fits={"supervised": {"images": 9, "seconds": 1.0}}) / file


def read_runs(file: Path) -> None:
    """Nothing that lies in `runs/` ends the reading of the others."""
    found = collect(file.parents[2])
    runs.load_runs(file.parents[2])
    assert found.boards or found.left_out


def notebook(folder: Path) -> Path:
    source = parameters.find_notebook("02")
    cells = [cell | {"outputs": []} if "outputs" in cell else cell for cell in parameters.read_cells(source)[:8]]
    whole = json.loads(source.read_text("utf-8")) | {"cells": cells}
    file = folder / "02_mine.ipynb"
    file.write_text(json.dumps(whole), "utf-8")
    return file


def recipe(folder: Path) -> Path:
    notebook(folder)
    file = folder / "recipes" / "mine" / "02_mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("epochs: 3\nlr: 1e-3\ndataset: cells\nsweep:\n  grid:\n    lr: [0.1, 0.2]\n  seeds: [0, 1]\n")
    return file


def table(folder: Path) -> Path:
    file = folder / "decisions.csv"
    empty = dict.fromkeys(decisions.COLUMNS, "")
    rows = [empty | {"path": f"c0/{i}.png", "score": "0.5", "decision": "keep"} for i in range(6)]
    file.write_text("\n".join(",".join(row) for row in (empty, *(row.values() for row in rows))))
    return file


READERS = {
    "idx": Reader(gray_idx, mutations.idx, lambda file: load_dataset(f"idx:{file.parent}")),
    "idx.gz": Reader(packed_idx, packed_again, lambda file: load_dataset(f"idx:{file.parent}")),
    "npz": Reader(npz, mutations.archive, lambda file: load_dataset(f"npz:{file}")),
    "png": Reader(image_folder("png"), mutations.png, read_folder),
    "jpg": Reader(image_folder("jpg"), mutations.some_bytes, read_folder),
    "gif": Reader(image_folder("gif"), mutations.some_bytes, read_folder),
    "tif": Reader(image_folder("tif", compression="tiff_lzw"), mutations.some_bytes, read_folder),
    "webp": Reader(image_folder("webp"), mutations.some_bytes, read_folder),
    "bmp": Reader(image_folder("bmp"), mutations.some_bytes, read_folder),
    "model": Reader(model_file, mutations.safetensors, models.load),
    "weights": Reader(
        state_dict, mutations.some_bytes, lambda f: load_weights(models.encoder("resnet8", image_size=12), "resnet8", f)
    ),
    "run.json": Reader(lambda folder: run_folder(folder, "run.json"), mutations.as_json, read_runs),
    "predictions": Reader(lambda folder: run_folder(folder, "predictions.npz"), mutations.archive, read_runs),
    "recipe": Reader(
        recipe, mutations.lines, lambda file: parameters.plan(file.parents[2] / "02_mine.ipynb", "mine", {})
    ),
    "notebook": Reader(notebook, mutations.as_json, lambda file: parameters.plan(file, None, {"epochs": 1})),
    "decisions": Reader(table, mutations.lines, decisions.load),
}


def attack(name: str, folder: Path, count: int) -> list[str]:
    """Change the reader's file `count` times, half of them by its structure; what went wrong, a line each."""
    reader, failures = READERS[name], []
    rng = np.random.default_rng(sum(name.encode()))
    for number in range(count):
        place = folder / f"{number:04d}"
        place.mkdir()
        file = reader.make(place)
        mutation = reader.structured if number % 2 else mutations.some_bytes
        file.write_bytes(mutation(file.read_bytes(), rng))
        started, before, wrong = time.monotonic(), _peak(), ""
        try:
            reader.read(file)
        except CLEAR as error:
            if "\n" in str(error).strip() or len(str(error)) > 1500:
                wrong = f"not one line: {str(error)[:200]!r}"
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:150]}"
        seconds, grown = time.monotonic() - started, _peak() - before
        if seconds > 10 or grown > 1 << 30:
            wrong = wrong or f"{seconds:.0f} s, {grown >> 20} MiB"
        if wrong:
            failures.append(f"{name} {number} ({mutation.__name__}): {wrong}")
    return failures


def _peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_refused_in_one_line_or_read_right(name, tmp_path):
    wrong = attack(name, tmp_path, QUICK)
    assert not wrong, "\n".join(wrong)


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_many_changed_files(name, tmp_path):
    wrong = attack(name, tmp_path, LONG)
    assert not wrong, "\n".join(wrong)
