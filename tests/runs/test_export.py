"""`labutil export`: a program and weights that work where this package is not, and that lesson 03 takes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from labutil import cli, encoders, models, paths, representations, runs
from labutil.paths import DataError
from labutil.runs.export import export

torch.set_num_threads(1)
OUTSIDE = """
import sys
sys.modules["labutil"] = None  # importing it raises
import torch
encoder = torch.export.load(sys.argv[1]).module()
images = torch.load(sys.argv[2], weights_only=True)
torch.save([encoder(images[:n]) for n in (1, 2, len(images))], sys.argv[3])
assert not any(name.startswith("labutil.") for name in sys.modules)
"""


def leave(model, notebook="02_supervised_baseline", **more):
    """A finished run with a model, as lessons leave it."""
    directory = paths.runs_dir() / notebook / "0123456789"
    directory.mkdir(parents=True)
    classes = [f"c{i}" for i in range(model.num_classes)]
    record = runs.new_record(notebook, None, {"dataset": "cells:80", "seed": 0}) | {"label": "SimCLR"}
    record["dataset"] = {"name": "cells:80", "fingerprint": "0" * 16, "classes": classes}
    run = runs.Run(directory, record)
    run.save_model(model)
    record |= {"status": "complete"} | more
    run.save()
    return directory


def trained(name, seed=0, **settings):
    """A classifier whose batch norms have seen something, so that evaluation differs from the start."""
    torch.manual_seed(seed)
    model = models.Classifier(models.encoder(name, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1], **settings), 3)
    with torch.no_grad():
        model.train()(torch.rand(8, 3, *[settings["image_size"]] * 2))
    return model.eval()


@torch.no_grad()
def h_of(encoder, x):
    return encoder.eval()(x)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LABUTIL_RUNS", str(tmp_path / "runs"))


def test_where_the_package_is_not(tmp_path):
    model = trained("resnet8", image_size=32)
    folder = export(str(leave(model)))
    (program,) = folder.glob("*.pt2")
    assert folder == paths.runs_dir() / "02_supervised_baseline" / "0123456789" / "export"
    images = torch.rand(5, 3, 32, 32)
    torch.save(images, tmp_path / "x.pt")
    call = [sys.executable, "-c", OUTSIDE, str(program), str(tmp_path / "x.pt"), str(tmp_path / "h.pt")]
    away = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(call, check=True, cwd=tmp_path, env=away)
    with torch.no_grad():
        expected = model.encoder(images)
    for n, h in zip((1, 2, 5), torch.load(tmp_path / "h.pt", weights_only=True), strict=True):
        torch.testing.assert_close(h, expected[:n], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", [32, 224])
def test_torchvision_takes_the_weights_strictly(side):
    model = trained("resnet18", image_size=side)
    folder = export(str(leave(model)))
    facts = json.loads(next(folder.glob("*.json")).read_text())
    page = next(folder.glob("*.md")).read_text()
    lines = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    code = "\n".join(lines[lines.index("import torchvision") :])
    space = {}
    old = os.getcwd()
    os.chdir(folder)
    try:
        exec(code, space)  # as a reader would
    finally:
        os.chdir(old)
    net = space["net"].eval()
    assert isinstance(net, torchvision.models.ResNet) and ("maxpool" in code) == (side == 32)
    mean, std = (torch.tensor(facts["input"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(net((x - mean) / std), model.encoder(x), atol=1e-5, rtol=1e-4)


def test_timm_takes_the_weights():
    import timm

    torch.manual_seed(0)
    name = "tf_efficientnet_lite0"
    model = models.Classifier(models.encoder(name, pretrained=True, image_size=32, input_size=64), 3).eval()
    folder = export(str(leave(model)))
    net = timm.create_model(name, num_classes=0).eval()
    net.load_state_dict(load_file(next(folder.glob("*.safetensors"))))
    facts = json.loads(next(folder.glob("*.json")).read_text())["input"]
    assert (facts["height"], facts["scaled_to"]) == (32, 64)
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = torch.rand(2, 3, 32, 32)
    small = model.encoder.resize(x)
    with torch.no_grad():
        torch.testing.assert_close(net((small - mean) / std), model.encoder(x), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet8", "basic_cnn"])
def test_the_file_comes_back_as_an_encoder(name):
    model = trained(name, image_size=32)
    directory = leave(model)
    (file,) = export(str(directory)).glob("*.safetensors")
    x = torch.rand(4, 3, 32, 32)
    for way in (str(file), str(directory), str(directory / "model.safetensors")):
        again = models.encoder(way, image_size=32)
        torch.testing.assert_close(h_of(again, x), h_of(model.encoder, x))
        origin = encoders.origin(way)
        assert (origin["label"], origin["image_size"]) == ("SimCLR", 32)
        assert origin["dataset"]["fingerprint"] == "0" * 16
    with safe_open(file, framework="pt") as opened:
        assert not any(key.startswith(("normalize", "head", "fc.")) for key in opened.keys())  # noqa: SIM118


def test_an_autoencoders_encoder(tmp_path):
    torch.manual_seed(0)
    whole = models.ConvAutoencoder(channels=1, filters=(4, 8), image_size=14).eval()
    model = models.Classifier(whole.encoder, 3, models.mlp_head(whole.num_features, [5], 3)).eval()
    folder = export(str(leave(model, "06_autoencoder")), tmp_path / "out")
    x = torch.rand(3, 1, 14, 14)
    program = torch.export.load(next(folder.glob("*.pt2"))).module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), whole.encoder(x))
    again = models.encoder(str(next(folder.glob("*.safetensors"))), channels=1, image_size=14)
    torch.testing.assert_close(h_of(again, x), h_of(whole.encoder, x))
    assert json.loads(next(folder.glob("*.json")).read_text())["input"].get("mean") is None


def test_the_command_and_what_it_refuses(tmp_path):
    directory = leave(trained("resnet8", image_size=16))

    def call(*args):
        return CliRunner().invoke(cli.main, ["export", *map(str, args)])

    done = call(directory, "--out", tmp_path / "there")
    assert done.exit_code == 0, done.output
    assert {path.suffix for path in (tmp_path / "there").iterdir()} == {".pt2", ".safetensors", ".json", ".md"}
    (tmp_path / "file").write_text("")
    for args, said in (
        ((tmp_path,), "there is no run.json in it"),
        (("simclr_lang",), "did you mean 'simclr_long'"),
        ((directory, "--out", tmp_path / "file" / "below"), "cannot be made"),
    ):
        done = call(*args)
        assert done.exit_code == 2 and said in done.output and done.output.count("\n") == 1, done.output
    record = runs.read_record(directory)
    runs.write_json(directory / "run.json", record | {"status": "failed"})
    assert "is not complete but failed" in call(directory).output


def test_encoders_that_cannot_be_used(tmp_path):
    """As `labutil run 03 -p encoder` says it, before anything starts: one line, exit code 2."""
    gray = models.Classifier(models.encoder("resnet8", channels=1, image_size=16), 3)
    directory = leave(gray)

    def refused(encoder, said):
        done = CliRunner().invoke(cli.main, ["run", "03", "--recipe", "smoke", "-p", "encoder", str(encoder)])
        assert done.exit_code == 2 and said in done.output and done.output.count("\n") == 1, done.output

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "there is no run.json in it")
    refused("runs/04_simclr/none", "there is no such path")
    refused(tmp_path / "x.safetensors", "there is no such path")
    record = runs.read_record(directory)
    for change, said in (({"status": "running"}, "this run is running, not complete"), ({}, "keeps no model")):
        runs.write_json(directory / "run.json", record | change)
        if not change:
            (directory / "model.safetensors").rename(tmp_path / "kept.safetensors")
        refused(directory, said)
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "kept.safetensors").read_bytes()[:100])
    with pytest.raises(DataError, match="damaged"):
        encoders.origin(str(tmp_path / "half.safetensors"))
    with pytest.raises(ValueError, match="is for gray images, these have 3 channels"):
        models.encoder(str(tmp_path / "kept.safetensors"), channels=3)


def test_a_control_has_random_weights_and_the_same_normalisation():
    encoder = trained("resnet8", image_size=16).encoder
    control = representations.untrained(encoder)
    assert torch.equal(control.normalize.mean, encoder.normalize.mean)
    assert not torch.equal(control.conv1.weight, encoder.conv1.weight)
    assert control.bn1.running_mean.abs().sum() == 0


@pytest.mark.long
def test_lesson_03_finds_what_lesson_04_found(tmp_path):
    """The linear layer of a run of lesson 04, asked in lesson 03 (in fp32: bfloat16 moves one of 120 images); and the
    exported encoder, with which no layer comes."""
    small = ["--recipe", "smoke", "--core", "--out", str(tmp_path / "runs")]

    def run(*args):
        call = [sys.executable, "-m", "labutil", "run", *map(str, args), *small]
        environment = os.environ | {"LABUTIL_PRECISION": "fp32"}
        subprocess.run(call, check=True, capture_output=True, text=True, env=environment)
        (record,) = (tmp_path / "runs").glob(f"{args[0]}*/*/run.json")
        found = json.loads(record.read_text())
        record.parent.rename(tmp_path / f"kept_{len(list(tmp_path.iterdir()))}")
        return found

    first = run("04")
    (directory,) = tmp_path.glob("kept_*")
    for way in (directory, next(export(str(directory)).glob("*.safetensors"))):
        found = run("03", "-p", "encoder", way, "-p", "image_size", "null")
        assert found["label"] == "SimCLR, transfer" and found["dataset"]["image_size"] == 24
        own = first if way == directory else {"metrics": {"linear_accuracy": found["metrics"]["probe_accuracy"]}}
        assert found["metrics"]["linear_accuracy"] == pytest.approx(own["metrics"]["linear_accuracy"], abs=0.005)
        assert found["metrics"]["probe_accuracy"] > found["metrics"]["chance_accuracy"]
