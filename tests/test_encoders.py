"""Encoders that come with the workbook: those that are there score what they say; a small one goes all their ways."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from labutil import cli, device, encoders, evaluation, models, representations, runs
from labutil.data import load_dataset
from labutil.networks import ConvAutoencoder
from labutil.paths import DataError
from labutil.runs import parameters, predict
from labutil.training import fit

ROOT = Path(__file__).resolve().parent.parent
SPEC, SIDE = "cells:240", 16
PRESENT = encoders.present()


def script():
    """notebooks/encoders/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make_encoders", ROOT / "notebooks" / "encoders" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = script()


# Those that are there.


@pytest.mark.skipif(len(PRESENT) == len(encoders.NAMES), reason="all are there")
def test_encoders_that_are_not_there_are_named():
    missing = [name for name in encoders.NAMES if name not in PRESENT]
    for name in missing:
        with pytest.raises(DataError, match=r"make encoders") as caught:
            models.encoder(name)
        assert name in str(caught.value)
    pytest.skip(f"not trained yet: {', '.join(missing)} (make encoders)")


@pytest.mark.parametrize("path", sorted(encoders.FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_flipped_bit_in_one_that_comes_along_is_noticed(path, tmp_path):
    file, content = tmp_path / path.name, bytearray(path.read_bytes())
    file.write_bytes(content)
    models.load(file)
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="not those that were saved"):
        models.load(file)


@pytest.fixture(scope="module")
def cells_folder(tmp_path_factory):
    """Where 6,000 cells are generated once."""
    return tmp_path_factory.mktemp("cells")


@pytest.mark.parametrize("name", PRESENT)
def test_an_encoder_belongs_to_this_data_and_scores_what_its_file_says(name, cells_folder, monkeypatch):
    monkeypatch.setenv("LABUTIL_DATA", str(cells_folder))
    facts = encoders.facts(name)
    data = load_dataset(facts["dataset"]["name"], image_size=facts["params"]["image_size"])
    assert data.fingerprint == facts["dataset"]["fingerprint"], "make encoders: they were trained on other images"
    model = models.load(encoders.find(name), kind=models.Classifier)
    logits = evaluation.predict(model, data.val.images)
    accuracy = (logits.argmax(1) == data.val.labels).float().mean().item()
    assert accuracy == pytest.approx(facts["scores"]["val_linear_accuracy"], abs=0.01)  # bfloat16 moves a few images
    curve = {row["epoch"]: row for row in facts["curve"]}
    assert {0, 8, 16, 32, 64, facts["epochs"]} <= set(curve)
    end = curve[facts["epochs"]]
    assert end["knn_accuracy"] == pytest.approx(facts["scores"]["val_knn_accuracy"], abs=0.02)
    assert end["linear_accuracy"] > curve[0]["linear_accuracy"]


def test_all_files_together_are_small():
    assert sum(path.stat().st_size for path in encoders.FOLDER.glob("*.*")) < 5e6


@pytest.mark.skipif(make.FINE_TUNED not in PRESENT, reason="not trained yet: make encoders")
def test_what_lessons_show_of_fine_tuning_is_there():
    rows = pd.DataFrame(encoders.facts(make.FINE_TUNED)["fine_tuned"])
    block = parameters.read_sweep(parameters.find_notebook("03"), "fine_tuned")
    assert len(rows) == len(block["points"]) * len(block["seeds"])
    assert set(rows.labels) == {43, 432, 4320} and set(rows.seed) == {0, 1, 2}
    table = encoders.few_labels()
    assert set(table.method) == {"SimCLR, probe", "SimCLR, fine-tuned"} and len(table) == 2 * len(rows)
    assert table.accuracy.between(0.4, 1).all()


@pytest.mark.skipif(not (encoders.FOLDER / "mnist_classifier.safetensors").is_file(), reason="not trained yet")
def test_the_classifier_of_digits_and_its_autoencoder():
    classifier = models.load(encoders.find("mnist_classifier"), kind=models.Classifier, image=(1, 28, 28))
    whole = models.load(encoders.FOLDER / "mnist_autoencoder.safetensors", kind=ConvAutoencoder, image=(1, 28, 28))
    data = load_dataset("mnist5k")  # some of MNIST's training images
    right = evaluation.predict(classifier, data.test.images).argmax(1) == data.test.labels
    assert right.float().mean() > 0.99
    x = device.to_float(data.test.images[:200])
    with torch.no_grad():
        drawn = whole.eval().to(x.device)(x)
    assert F.mse_loss(drawn, x) < 0.02 < x.var()
    assert encoders.facts("mnist_classifier")["scores"]["test_errors"] < 60
    assert models.encoder("mnist_classifier", channels=1, image_size=28).num_features == 2048


def test_what_makes_them_is_what_recipes_hold():
    assert tuple(make.MADE) == encoders.NAMES
    for name, (lesson, given, *_) in make.MADE.items():
        notebook = parameters.find_notebook(lesson)
        params, chosen = parameters.plan(notebook, "long", given), parameters.read_recipe(notebook, "long") | given
        assert params["dataset"] == "cells" and params["epochs"] >= 100, name
        if name in PRESENT:
            made = encoders.facts(name)["params"]
            assert {key: made[key] for key in chosen} == {key: params[key] for key in chosen}, f"{name}: make encoders"


# A small one, by the same way.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with `simclr_long` and `autoencoder_long`, each trained for two epochs; (folder, data, histories)."""
    root, patch = tmp_path_factory.mktemp("encoders"), pytest.MonkeyPatch()
    patch.setenv("LABUTIL_DATA", str(root / "data"))
    patch.setattr(encoders, "FOLDER", root / "made")
    data = load_dataset(SPEC, image_size=SIDE)
    shape = dict(channels=3, image_size=SIDE, mean=data.mean, std=data.std)
    histories = {}
    for name, file in (("simclr_long", "model"), ("autoencoder_long", "autoencoder")):
        params = {"dataset": SPEC, "image_size": SIDE, "subset": None, "data_seed": 0, "seed": 3}
        directory = root / name
        directory.mkdir()
        record = runs.new_record("04_simclr", "long", params) | {
            "label": name.removesuffix("_long"),
            "status": "complete",
        }
        record["environment"] = device.describe()
        record["dataset"] = {"name": SPEC, "fingerprint": data.fingerprint, "classes": list(data.classes)}
        run = runs.Run(directory, record)
        device.seed_everything(3)
        if file == "model":
            model = models.Classifier(models.encoder("resnet8", **shape), len(data.classes))
        else:
            model = ConvAutoencoder(channels=3, filters=(4, 8), image_size=SIDE)
        device.prepare(model)

        def step(x, y, model=model):
            return F.cross_entropy(model(x), y) if isinstance(model, models.Classifier) else F.mse_loss(model(x), x)

        def evaluate(model=model):
            return representations.scores(model.encoder, data.train, whole=data.val)

        histories[name] = fit(step, [model], data.train, epochs=2, batch_size=32, lr=0.01, evaluate=evaluate,
                              run=run, name="pretrain")  # fmt: skip
        models.save(model, directory / f"{file}.safetensors")
        run.save()
        make.export(directory, name, fit="pretrain", file=file, command=f"labutil run {name}")
    yield root / "made", data, histories
    patch.undo()


@pytest.mark.parametrize("name", ["simclr_long", "autoencoder_long"])
def test_the_file_is_a_classifier_in_float16_that_scores_what_is_written(small, name):
    folder, data, histories = small
    held = load_file(folder / f"{name}.safetensors")
    assert {value.dtype for key, value in held.items() if key.endswith("conv1.weight")} <= {torch.float16}
    assert any(value.dtype == torch.float16 for value in held.values())
    model = models.load(folder / f"{name}.safetensors", kind=models.Classifier)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    facts = json.loads((folder / f"{name}.json").read_text())
    away = load_dataset(SPEC.replace("cells", "cells_shifted"), image_size=SIDE).test
    for part, images in {"val": data.val, "test": data.test, "shifted": away}.items():
        right = evaluation.predict(model, images.images).argmax(1) == images.labels
        assert right.float().mean().item() == pytest.approx(facts["scores"][f"{part}_linear_accuracy"])
    # The curve: before the first epoch, with the very weights that training began with; and as `fit` has seen it.
    device.seed_everything(3)
    fresh = models.encoder("resnet8", channels=3, image_size=SIDE, mean=data.mean, std=data.std)
    if name == "autoencoder_long":
        device.seed_everything(3)
        fresh = ConvAutoencoder(channels=3, filters=(4, 8), image_size=SIDE).encoder
    start = representations.scores(device.prepare(fresh), data.train, whole=data.val)
    assert facts["curve"][0] == {"epoch": 0} | {k.removeprefix("whole_"): v for k, v in start.items()}
    assert [row["epoch"] for row in facts["curve"]] == [0, 1, 2]
    assert facts["curve"][2]["linear_accuracy"] == pytest.approx(histories[name].whole_linear_accuracy[1])
    assert facts["curve"][2]["knn_accuracy"] == pytest.approx(facts["scores"]["val_knn_accuracy"], abs=0.05)
    assert facts["minutes"] == round(histories[name].seconds.sum() / 60, 1)
    assert facts["dataset"]["fingerprint"] == data.fingerprint


@torch.inference_mode()
@pytest.mark.parametrize("name", ["simclr_long", "autoencoder_long"])
def test_the_encoder_takes_images_of_any_size_and_gray_ones(small, name):
    folder, data, _ = small
    own = models.load(folder / f"{name}.safetensors").encoder.eval()
    x = device.to_float(data.test.images[:5])
    expected = own(x)
    for size, channels in ((SIDE, 3), (SIDE, 1), (40, 3), (12, 1), ((20, 30), 3)):
        encoder = models.encoder(name, channels=channels, image_size=size).eval()
        torch.testing.assert_close(encoder(x), expected)  # images of its own size come as they are
        height, width = size if isinstance(size, tuple) else (size, size)
        gray = torch.rand(2, 1, height, width)
        if channels == 1:
            torch.testing.assert_close(encoder(gray), encoder(gray.expand(-1, 3, -1, -1)))
        assert encoder(torch.rand(2, channels, height, width)).shape == (2, encoder.num_features)
        assert encoder.feature_maps(torch.rand(2, channels, height, width)).ndim == 4
        again = models.rebuild(models.Classifier(encoder, 4).settings)  # a run can keep it
        again.encoder.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(again.eval().encoder(x), expected)


def test_what_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="leave weights out"):
        models.encoder("simclr_long", weights=tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"input_size=32: the encoder in .* sees images at {SIDE} pixels alone"):
        models.encoder("autoencoder_long", input_size=32)
    with pytest.raises(ValueError, match="did you mean 'simclr_long'"):
        models.encoder("simclr_lang")
    with pytest.raises(DataError, match=r"supcon_long: .* is missing"):
        models.encoder("supcon_long")


def test_features_and_tables(small):
    _, data, _ = small
    h = representations.frozen_features(data.test.images, encoder="simclr_long")
    expected = evaluation.predict(models.encoder("simclr_long", image_size=SIDE), data.test.images)
    torch.testing.assert_close(h, expected)
    assert representations.feature_size((96, 96), "simclr_long") == SIDE
    assert representations.feature_size((96, 96), "autoencoder_long") == SIDE
    table = encoders.table()
    assert table.index.tolist() == ["simclr_long", "autoencoder_long"]
    assert table.label.tolist() == ["simclr", "autoencoder"] and table.test_linear_accuracy.between(0, 1).all()
    curves = encoders.curves("knn_accuracy")
    assert curves.index.tolist() == [0, 1, 2] and curves.columns.tolist() == ["simclr", "autoencoder"]
    assert curves.notna().all(axis=None)


def test_predict_by_name(small, tmp_path, own_folders):
    folder, data, _ = small
    assert predict.find_run("simclr_long") == folder / "simclr_long.json"
    for i, image in enumerate(data.test.images[:6]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    done = CliRunner().invoke(cli.main, ["predict", "simclr_long", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (file,) = (own_folders / "runs" / "simclr_long").glob("predictions_*.csv")
    classes = np.array(data.classes)
    model = models.load(folder / "simclr_long.safetensors")
    expected = classes[evaluation.predict(model, data.test.images[:6]).argmax(1).numpy()]
    assert pd.read_csv(file)["class"].tolist() == expected.tolist()
    done = CliRunner().invoke(cli.main, ["predict", "simclr_lung", str(tmp_path)])
    assert done.exit_code == 2 and "did you mean 'simclr_long'" in done.output


def test_a_run_is_known_by_the_encoder_that_it_begins_with(small):
    folder, *_ = small
    notebook = parameters.find_notebook("02")
    params = parameters.plan(notebook, "smoke", {"encoder": "simclr_long"})
    before = runs.run_id(notebook, params)
    file = folder / "simclr_long.safetensors"
    held = file.read_bytes()
    file.write_bytes(held + b" ")
    assert runs.run_id(notebook, params) != before
    file.write_bytes(held)


def test_a_run_on_images_that_are_no_more_is_refused(small, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    record = runs.new_record("04_simclr", "long", {"dataset": SPEC, "image_size": SIDE, "subset": None, "data_seed": 0})
    runs.write_json(run / "run.json", record | {"dataset": {"fingerprint": "0" * 16}})
    with pytest.raises(runs.RunError, match="other images"):
        make.export(run, "byol_long", fit="pretrain", file="model", command="")
    assert not list(encoders.FOLDER.glob("byol*"))


@pytest.mark.long
@pytest.mark.parametrize("name", encoders.NAMES)
def test_each_is_made_by_its_lesson_cut_short(name, tmp_path, monkeypatch):
    """`make` with a recipe of one epoch: every name's lesson, fit and file are right."""
    monkeypatch.setattr(encoders, "FOLDER", tmp_path)
    plan = parameters.plan
    cut = {"dataset": "cells:240", "epochs": 32, "image_size": 16, "subset": 48}
    monkeypatch.setattr(parameters, "plan", lambda notebook, recipe, given: plan(notebook, recipe, cut | given))
    path = make.make(name)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert [row["epoch"] for row in facts["curve"]] == [0, 8, 16, 24, 32]
    assert models.encoder(name, image_size=16)(torch.rand(2, 3, 16, 16)).shape == (2, facts["features"])
