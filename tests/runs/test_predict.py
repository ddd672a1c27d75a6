"""`labutil predict`: the right class beside the right name for every kind of source, and one line for each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from labutil import cli, evaluation, models, paths, runs
from labutil.data import load_dataset, load_with_others, loading, sources
from labutil.paths import DataError
from labutil.runs.predict import find_run, part_rows

torch.set_num_threads(1)
COLOURS = {"blue": (20, 30, 220), "green": (30, 200, 40), "red": (210, 30, 20)}
GRAYS = {"black": (10,), "gray": (128,), "white": (250,)}
RNG = np.random.default_rng(0)


def picture(colour: str, height: int = 20, width: int = 16) -> np.ndarray:
    """(H, W, 3), or (H, W) of a gray shade, with a little noise."""
    base = np.array((COLOURS | GRAYS)[colour])
    pixels = base + RNG.integers(-5, 6, (height, width, len(base)))
    return pixels.clip(0, 255).astype(np.uint8).squeeze()


def save(path: Path, image: str | np.ndarray, **size: int) -> None:
    """Write an image, or the picture of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(image, **size) if isinstance(image, str) else image).save(path)


def tree(folder: Path, where: dict[str, str]) -> Path:
    """A folder of images: path below it -> colour."""
    for name, colour in where.items():
        save(folder / name, colour)
    return folder


def pictures(colours: list[str], *size: int) -> np.ndarray:
    return np.stack([picture(colour, *size) for colour in colours])


def colour_model(channels: int = 3, encoder: str = "resnet8") -> nn.Module:
    """A model that tells colours (or shades) apart: an untrained encoder, and a last layer solved for, not trained."""
    shades = COLOURS if channels == 3 else GRAYS
    torch.manual_seed(0)
    model = models.Classifier(models.encoder(encoder, channels=channels, image_size=16), 3)
    images = pictures([name for name in shades for _ in range(8)], 16, 16)
    images = torch.from_numpy(images.reshape(24, 16, 16, channels)).permute(0, 3, 1, 2)
    h = evaluation.predict(model.encoder, images, precision="fp32").double()
    h = torch.cat([h, torch.ones(24, 1)], 1)
    target = 10.0 * torch.eye(3).repeat_interleave(8, 0).double()
    weight = torch.linalg.lstsq(h, target, driver="gelsd").solution.float()
    with torch.no_grad():
        model.head.weight.copy_(weight[:-1].T)
        model.head.bias.copy_(weight[-1])
    return model


def make_run(directory: Path, model: nn.Module, classes: Iterable[str] = COLOURS) -> Path:
    """A complete run that holds `model`, as a lesson leaves it."""
    directory.mkdir(parents=True)
    run = runs.Run(directory, runs.new_record(directory.parent.name, None, {}))
    run.record["dataset"] = {"name": "colours", "classes": list(classes)}
    run.save_model(model)
    run.finish()
    return directory


@pytest.fixture(scope="module")
def weights() -> nn.Module:
    return colour_model()


@pytest.fixture
def run(weights: nn.Module) -> Path:
    return make_run(paths.runs_dir() / "99_colours" / "0123456789", weights)


def call(*args: object):
    return CliRunner().invoke(cli.main, ["predict", *map(str, args)])


def refused(result, message: str) -> None:
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output
    assert result.stderr.startswith("labutil: ")
    assert message in result.stderr


def predicted(run: Path, spec: object, out: Path, *args: object) -> pd.DataFrame:
    result = call(run, spec, "--out", out, *args)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 2
    table = pd.read_csv(out, dtype={"name": str, "class": str, "label": str}, keep_default_na=False)
    assert result.stdout.startswith(f"{len(table)} image")
    assert str(out) in result.stdout
    probabilities = table.filter(like="p_")
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    assert (probabilities.idxmax(axis=1).str.removeprefix("p_") == table["class"]).all()
    table.attrs |= {"stdout": result.stdout, "stderr": result.stderr}
    return table


def said(table: pd.DataFrame) -> list[list[str]]:
    """Columns of a table before the probabilities: names, classes and, where there are any, labels."""
    return [table[name].tolist() for name in table if not name.startswith("p_")]


def test_a_folder_of_images_in_any_order_without_labels(run, tmp_path):
    colours = {"2.png": "blue", "10.png": "green", "11.png": "red", "2024/5.png": "blue", "2024/train/1.png": "red"}
    for i, name in enumerate(reversed(colours)):
        save(tmp_path / "new" / name, colours[name], height=12 + 9 * i, width=31)
    (tmp_path / "new" / "notes.txt").write_text("no image")
    table = predicted(run, tmp_path / "new", tmp_path / "out.csv")
    assert table.columns.tolist() == ["name", "class", "p_blue", "p_green", "p_red"]
    assert said(table) == [list(colours), list(colours.values())]
    assert "\n  blue 2, red 2, green 1\n" in table.attrs["stdout"]
    first, second = table.attrs["stderr"].splitlines()
    assert "at least twice as long as wide: 1, of which only the square in the middle is kept" in first
    assert second == "labutil: note: labels that are no classes of the model are not judged: 2024"
    explicit = predicted(run, f"folder:{tmp_path / 'new'}", tmp_path / "again.csv")
    pd.testing.assert_frame_equal(table, explicit)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.csv", "new", "out.csv"]


def test_class_folders_give_labels_and_an_accuracy(run, tmp_path):
    where = {"red/red.png": "red", "red/blue.png": "blue", "green/green.png": "green", "purple/blue.png": "blue"}
    table = predicted(run, tree(tmp_path / "set", where), tmp_path / "out.csv")
    assert table.columns.tolist()[:3] == ["name", "class", "label"]
    assert said(table) == [sorted(where), ["green", "blue", "blue", "red"], ["green", "purple", "red", "red"]]
    assert "accuracy 0.6667 (2 of 3 labelled)" in table.attrs["stdout"]
    assert table.attrs["stderr"] == "labutil: note: labels that are no classes of the model are not judged: purple\n"


def test_parts_of_a_folder(run, tmp_path):
    where = {"train/red/1.png": "red", "train/blue/1.png": "blue", "val/red/2.png": "red", "test/blue/3.png": "blue"}
    where |= {"test/red/10.png": "red", "test/red/9.png": "green", "unlabelled/z.png": "green"}
    folder, out = tree(tmp_path / "set", where), tmp_path / "out.csv"
    table = predicted(run, folder, out)
    assert said(table)[:2] == [["test/blue/3.png", "test/red/9.png", "test/red/10.png"], ["blue", "green", "red"]]
    assert "(2 of 3 labelled)" in table.attrs["stdout"]
    for part, names in {"train": ["train/blue/1.png", "train/red/1.png"], "val": ["val/red/2.png"]}.items():
        assert predicted(run, folder, out, "--part", part).name.tolist() == names
    table = predicted(run, folder, out, "--part", "all")
    assert dict(zip(table.name, table["class"], strict=True)) == where
    assert table.label.tolist()[-1] == ""
    assert "(5 of 6 labelled)" in table.attrs["stdout"]


def test_arrays_by_key_and_position(run, tmp_path):
    names, out = ["red", "blue", "green", "green", "red"], tmp_path / "out.csv"
    images, keys = pictures(names), [f"images[{i}]" for i in range(5)]
    train, test = ([f"{part}_{key}" for key in keys] for part in ("train", "test"))

    def of(arrays, *args):
        np.savez(tmp_path / "x.npz", **arrays)
        return predicted(run, f"npz:{tmp_path}/x.npz", out, *args)

    assert said(of({"images": images})) == [keys, names]
    # Labels for training only, as competitions give them, which no lesson could be tested on.
    arrays = {"train_images": images, "train_labels": np.array(names), "test_images": pictures(names[:1:-1])}
    assert said(of(arrays)) == [test[:3], names[:1:-1]]
    table = of(arrays, "--part", "all")
    assert said(table) == [train + test[:3], names + names[:1:-1], [*names, "", "", ""]]
    assert "accuracy 1.0000 (5 of 5 labelled)" in table.attrs["stdout"]
    table = of({"test_images": images, "test_labels": np.arange(5)})
    assert said(table) == [test, names]  # numbers are no names
    assert "are not judged: 0, 1, 2, ..." in table.attrs["stderr"]
    # A part that is drawn keeps the positions of the whole.
    names *= 5
    for part, count in (("val", 2), ("test", 5)):
        table = of({"images": pictures(names), "labels": np.array(names)}, "--part", part)
        assert table.label.tolist() == [names[int(name[len("images[") : -1])] for name in table.name]
        assert len(table) == count


def test_one_image_and_the_default_file(run, tmp_path):
    save(tmp_path / "a photo.png", "green", height=40, width=90)
    for text in (run, "0123456789", "0123", "99", "99_colours"):
        result = call(text, tmp_path / "a photo.png")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("1 image: ")
        assert said(pd.read_csv(run / "predictions_a_photo.png.csv")) == [["a photo.png"], ["green"]]
        (run / "predictions_a_photo.png.csv").unlink()


def test_gray_images_for_a_colour_model_are_repeated(run, tmp_path):
    shade, out = picture("gray"), tmp_path / "out.csv"
    for name, image in (("x", shade), ("y", shade[..., None].repeat(3, 2))):
        save(tmp_path / "set" / f"{name}.png", image)
    rows = predicted(run, tmp_path / "set", out).filter(like="p_").to_numpy()
    assert (rows[0] == rows[1]).all()
    images = np.stack([shade[:16], shade[4:]])
    np.savez(tmp_path / "x.npz", images=images)
    np.savez(tmp_path / "y.npz", images=images[..., None].repeat(3, 3))
    tables = [predicted(run, f"npz:{tmp_path / name}.npz", out) for name in "xy"]
    assert tables[0].equals(tables[1])
    assert tables[0].attrs["stderr"] == ""


def test_colour_images_for_a_gray_model_become_gray_with_a_note(tmp_path):
    run = make_run(tmp_path / "runs" / "99_gray" / "a", colour_model(1, "basic_cnn"), GRAYS)
    names = ["white", "black", "gray"]
    pixels = pictures(names, 16, 16)[..., None].repeat(3, 3)
    np.savez(tmp_path / "set.npz", images=pixels)
    for i, image in enumerate(pixels):
        save(tmp_path / "set" / f"{i}.png", image)
    note = "labutil: note: the model was trained on gray images, so the colour of these is left out\n"
    for spec in (f"npz:{tmp_path / 'set.npz'}", tmp_path / "set"):
        table = predicted(run, spec, tmp_path / "out.csv")
        assert table["class"].tolist() == names
        assert table.attrs["stderr"] == note
    # as Pillow does it
    noise = RNG.integers(0, 256, (50, 16, 16, 3)).astype(np.uint8)
    gray = loading.to_channels(noise.transpose(0, 3, 1, 2), 1)[:, 0]
    assert (gray == np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in noise])).all()


@pytest.mark.parametrize("kind", ["cells", "folder", "npz", "divided"])
def test_parts_are_those_of_load_dataset(kind, tmp_path):
    labels = np.arange(40) % 3
    images = RNG.integers(0, 256, (40, 20, 26, 3)).astype(np.uint8)
    for i, image in enumerate(images):
        save(tmp_path / "set" / "abc"[labels[i]] / f"{i}.png", image)
    np.savez(tmp_path / "npz.npz", images=images, labels=labels)
    np.savez(tmp_path / "divided.npz", train_images=images[:30], train_labels=labels[:30],
             test_images=images[30:], test_labels=labels[30:])  # fmt: skip
    spec = {"cells": "cells:40", "folder": f"folder:{tmp_path / 'set'}"}.get(kind, f"npz:{tmp_path / kind}.npz")
    data = load_dataset(spec, image_size=16, data_seed=3, val_fraction=0.2)
    record = {"params": {"data_seed": 3, "val_fraction": 0.2}, "dataset": vars(data)}
    source = sources.parse(spec)
    found = loading.load_source(source, 16, 3, lenient=True)
    for part in ("train", "val", "test"):
        rows, expected = part_rows(found, source, part, record), getattr(data, part)
        assert (found.images[rows] == expected.images.numpy()).all()
        assert (found.labels[rows] == expected.labels.numpy()).all()
        assert expected.names == (found.names and tuple(found.names[row] for row in rows))


def test_parts_of_a_set_whose_classes_were_in_part_held_out(tmp_path):
    """All images of a part, of unknown classes too; the model was trained on none of test."""
    labels = np.arange(60) % 4
    pixels = np.arange(60, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels)
    spec = f"npz:{tmp_path / 'a.npz'}"
    data, other = load_with_others(spec, "held_out:0.5", data_seed=2)
    record = {"params": {"data_seed": 2, "dataset": spec}, "dataset": vars(data)}
    found = loading.load_source(sources.parse(spec), lenient=True)
    rows = part_rows(found, sources.parse(spec), "test", record)
    tested = sorted(x[0, 0, 0].item() for part in (data.test, other.test) for x in part.images)
    assert rows.tolist() == tested
    record["dataset"] = vars(data) | {"classes": data.classes[:1]}  # not what that run's fingerprint is of
    with pytest.raises(DataError, match="no longer as the run saw it"):
        part_rows(found, sources.parse(spec), "test", record)


def test_parts_of_groups_are_those_of_load_dataset(tmp_path):
    for i in range(72):
        save(tmp_path / "set" / "abc"[i % 3] / f"slide{i // 6}_{i}.png", RNG.integers(0, 256, (16, 16, 3), np.uint8))
    spec, groups = f"folder:{tmp_path / 'set'}", r"^slide\d+"
    data = load_dataset(spec, data_seed=3, groups=groups)
    record = {"params": {"data_seed": 3, "dataset": spec, "groups": groups}, "dataset": vars(data)}
    found = loading.load_source(sources.parse(spec), lenient=True)
    for part in ("train", "val", "test"):
        rows = part_rows(found, sources.parse(spec), part, record)
        assert tuple(found.names[row] for row in rows) == getattr(data, part).names
    record["params"]["groups"] = r"^slide\d"  # other groups are other splits
    with pytest.raises(DataError, match="no longer as the run saw it"):
        part_rows(found, sources.parse(spec), "test", record)


def test_a_folder_that_grew_since_the_run_has_no_known_test_images(run, tmp_path):
    """Drawn anew, test would hold images that the model was trained on."""
    folder = tree(tmp_path / "grows", {f"{colour}/{i}.png": colour for i in range(12) for colour in COLOURS})
    data = load_dataset(f"folder:{folder}", data_seed=5)
    record, out = runs.read_record(run), tmp_path / "out.csv"
    record["params"] = {"data_seed": 5, "dataset": f"folder:{folder}"}
    record["dataset"] |= {"name": data.name, "fingerprint": data.fingerprint}
    runs.write_json(run / "run.json", record)
    assert predicted(run, folder, out, "--part", "test").name.tolist() == list(data.test.names)
    another = tree(tmp_path / "other" / "grows", {f"{colour}/{i}.png": colour for i in range(6) for colour in COLOURS})
    assert len(predicted(run, another, out, "--part", "test")) == 4  # of that name, but not the run's
    assert predicted(run, another, out).attrs["stderr"] == ""
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "grows")  # the same images are known anywhere
    assert predicted(run, moved, out, "--part", "test").name.tolist() == list(data.test.names)
    save(moved / "red" / "new.png", "red")
    for part in ("train", "val", "test"):
        refused(call(run, moved, "--part", part), "folder:grows is no longer as the run saw it")
    table = predicted(run, moved, out)
    assert len(table) == 37
    assert "--part test has none of those" in table.attrs["stderr"]
    (moved / "red" / "new.png").unlink()
    assert predicted(run, moved, out, "--part", "test").name.tolist() == list(data.test.names)


def test_images_that_were_trained_on_are_known_under_any_name(run, tmp_path):
    folder = tree(tmp_path / "own", {f"{colour}/{i}.png": colour for i in range(12) for colour in COLOURS})
    data = load_dataset(f"folder:{folder}", image_size=16)
    record, out = runs.read_record(run), tmp_path / "out.csv"
    record["params"] = {"dataset": f"folder:{folder}"}
    record["dataset"] |= {"name": data.name, "fingerprint": data.fingerprint}
    runs.write_json(run / "run.json", record)
    for i, name in enumerate([*data.train.names[:5], *data.test.names[:2]]):
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / f"{i}.png").write_bytes((folder / name).read_bytes())
    assert "5 of these 7 images are, pixel for pixel," in predicted(run, tmp_path / "copy", out).attrs["stderr"]
    save(folder / "red" / "new.png", "red")  # no longer what the run saw
    assert predicted(run, tmp_path / "copy", out).attrs["stderr"] == ""


def test_a_test_folder_into_which_images_may_have_moved_is_used_with_a_note(run, tmp_path):
    files = {f"{part}/{colour}/{i}.png": colour for part in ("train", "test") for i in range(8) for colour in COLOURS}
    folder = tree(tmp_path / "divided", files)
    data = load_dataset(f"folder:{folder}")
    record, out = runs.read_record(run), tmp_path / "out.csv"
    record["dataset"] |= {"name": data.name, "fingerprint": data.fingerprint}
    runs.write_json(run / "run.json", record)
    assert predicted(run, folder, out).attrs["stderr"] == ""
    (folder / "train" / "red" / "0.png").rename(folder / "test" / "red" / "moved.png")
    table = predicted(run, folder, out)
    assert len(table) == 25
    assert "folder:divided is no longer as the run saw it" in table.attrs["stderr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chanels": 3}, "model setting 'chanels' is missing, or none of channels"),
        ({"encoder": "basic_cnn"}, "Error(s) in loading state_dict"),
        ({"head": {"sizes": [4], "dropouts": 0}}, "unexpected keyword argument 'dropouts'"),
        ({"num_classes": 4}, "names 3 classes, but its model has 4"),
    ],
)
def test_models_that_cannot_be_rebuilt(change, message, run, tmp_path):
    """Files once held weights alone, and run.json how the model was built."""
    save(tmp_path / "x.png", "red")
    save_file(load_file(run / "model.safetensors"), run / "model.safetensors")
    assert len(predicted(run, tmp_path / "x.png", tmp_path / "out.csv")) == 1
    record = runs.read_record(run)
    runs.write_json(run / "run.json", record | {"model": record["model"] | change})
    refused(call(run, tmp_path / "x.png"), message)


def test_runs_that_cannot_be_used(run, tmp_path, weights):
    save(tmp_path / "x.png", "red")
    image, base = tmp_path / "x.png", paths.runs_dir() / "99_colours"
    refused(call("98", image), "no run '98'")
    refused(call("99_colour", image), "no run '99_colour' (did you mean '99_colours'?)")
    refused(call(tmp_path, image), "there is no run.json in it")
    second = make_run(base / "0199999999", weights)
    refused(call("01", image), "run '01' may be 0123456789, 0199999999: write more of its id")
    record = runs.read_record(second)

    def change(directory, **facts):
        runs.write_json(directory / "run.json", record | facts)

    # The newest complete run of a notebook, whatever the order of ids.
    for started, newest in (("2030-01-01", second), ("2020-01-01", run)):
        change(second, started=started)
        assert find_run("99") == find_run("99_colours.ipynb") == newest
    change(second, started="2030-01-01", status="failed")
    assert find_run("99") == run
    refused(call("019", image), "is not complete but failed")
    change(run, status="running")
    refused(call("99", image), "no run of 99_colours in")
    change(second, model=None)
    refused(call(second, image), "keeps no model that can be rebuilt")
    change(second)
    (second / "model.safetensors").write_bytes(b"half")
    refused(call(second, image), "cannot be rebuilt")
    (second / "model.safetensors").unlink()
    refused(call(second, image), "keeps no model")
    (second / "run.json").write_text("{")
    refused(call(second, image), "has no run.json that can be read")
    assert not list(base.rglob("*.csv"))


def test_images_and_files_that_cannot_be_used(run, tmp_path):
    save(tmp_path / "set" / "a.png", "red")
    (tmp_path / "set" / "b.png").write_bytes((tmp_path / "set" / "a.png").read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "test.npz", test_images=np.ones((3, 16, 16, 3), np.uint8))
    np.savez(tmp_path / "other.npz", pixels=np.ones((3, 16, 16, 3), np.uint8))
    (tmp_path / "no.png").write_text("no image")
    out = tmp_path / "out.csv"
    out.write_text("as before")
    for spec, message in {
        str(tmp_path / "set"): "b.png cannot be decoded",
        f"folder:{tmp_path / 'set'}": "move it out of the folder; labutil clean lists all such files",
        str(tmp_path / "empty"): "holds no images",
        f"npz:{tmp_path / 'other.npz'}": "must have the key 'train_images' or 'images', but holds pixels",
        str(tmp_path / "test.npz"): "is a path without its kind",
        str(tmp_path / "no.png"): "no.png is not an image",
        "cels": "data set 'cels' is not known (did you mean 'cells'?)",
        "gone.png": "data set 'gone.png' is not known, and no such path exists",
    }.items():
        refused(call(run, spec, "--out", out), message)
    refused(call(run, tmp_path / "set", "--part", "tset"), "part 'tset' (did you mean 'test'?) is not one of")
    refused(call(run, f"npz:{tmp_path / 'test.npz'}", "--part", "val"), "has no part 'val', only test")
    refused(call(run, tmp_path / "set" / "a.png", "--part", "val"), "too few images (1)")
    refused(call(run, tmp_path / "set" / "a.png", "--out", tmp_path), "is a folder")
    refused(call(run, tmp_path / "set" / "a.png", "--out", tmp_path / "none" / "x.csv"), "is no folder")
    assert out.read_text() == "as before"
    assert not [p for p in (*tmp_path.iterdir(), *run.iterdir()) if p.suffix == ".csv" and p != out]


def test_a_size_that_is_not_square(tmp_path):
    run = make_run(tmp_path / "99" / "a", models.Classifier(models.encoder("resnet8", image_size=(16, 24)), 3))
    save(tmp_path / "set" / "a.png", "red", height=100, width=100)
    assert len(predicted(run, tmp_path / "set", tmp_path / "out.csv")) == 1
    np.savez(tmp_path / "fits.npz", images=np.zeros((2, 16, 24, 3), np.uint8))
    assert len(predicted(run, f"npz:{tmp_path / 'fits.npz'}", tmp_path / "out.csv")) == 2
    np.savez(tmp_path / "other.npz", images=np.zeros((2, 24, 24, 3), np.uint8))
    refused(call(run, f"npz:{tmp_path / 'other.npz'}"), "24x24 pixels, and 24x16 are asked for")


def test_a_lessons_run_gives_its_own_predictions_again(tmp_path):
    """The first notebook that saves a model, run for real: on its test split the command says what the run recorded."""
    options = ["-p", "dataset", "cells:200"]
    command = [sys.executable, "-m", "labutil", "run", "02", "--recipe", "smoke", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    table = predicted("02", "cells:200", tmp_path / "out.csv", "--part", "test")
    assert table.attrs["stderr"] == ""
    directory = find_run("02")
    record = runs.read_record(directory)
    with np.load(directory / "predictions.npz") as file:
        # bfloat16, and other batches
        np.testing.assert_allclose(table.filter(like="p_").to_numpy(), file["probabilities"], atol=0.02)
        assert table.label.tolist() == [record["dataset"]["classes"][i] for i in file["y_true"]]
    assert abs((table.label == table["class"]).mean() - record["metrics"]["test_accuracy"]) < 0.06
    result = call("02", "cells:200", "--out", tmp_path / "out.csv")
    assert "200 images" in result.stdout
    assert "--part test has none of those" in result.stderr
    # More of the same generated images: the first ones are those of the run.
    told = call("02", "cells:300", "--part", "test").stderr
    assert "cells:300 is not cells:200 as the run saw it" in told and "use cells:200, or give --part all" in told
