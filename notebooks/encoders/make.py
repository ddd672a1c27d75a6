"""Make the encoders of this folder: `make encoders`, or `notebooks/encoders/make.py [NAME...]`.

Each is a run of a lesson's core with its recipe `long`, in sweeps/encoders/runs/ (the same command
continues one that was cut off, and finds one that is complete). Of the run its encoder is kept,
with a linear head on it, and what it scores. It takes hours; the .json files say how many.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import nn

from labutil import device, encoders, evaluation, models, paths, representations, runs
from labutil.data import load_dataset
from labutil.images import Dataset
from labutil.runs import parameters

# name: (lesson, what is set beside the recipe, the fit that trained the encoder, the file with it)
MADE = {
    "supervised_long": ("02", {}, "supervised", "model"),
    "simclr_long": ("04", {"method": "simclr"}, "pretrain", "model"),
    "byol_long": ("04", {"method": "byol"}, "pretrain", "model"),
    "barlow_twins_long": ("04", {"method": "barlow_twins"}, "pretrain", "model"),
    "supcon_long": ("05", {}, "SupCon", "model"),
    "autoencoder_long": ("06", {}, "autoencoder", "autoencoder"),
}


def make(name: str) -> Path:
    """Train an encoder, or find it trained, and leave it in this folder: its .safetensors file."""
    lesson, given, fit, file = MADE[name]
    notebook = parameters.find_notebook(lesson)
    params = parameters.plan(notebook, "long", given)
    out = paths.sweeps_dir() / "encoders" / "runs"
    directory, _ = runs.run_and_tell(notebook, params, recipe="long", out=out, core=True)
    words = [
        f"labutil run {lesson} --recipe long --core",
        *(f"-p {k} {v}" for k, v in given.items()),
    ]
    return export(directory, name, fit=fit, file=file, command=" ".join(words))


def export(directory: Path, name: str, *, fit: str, file: str, command: str) -> Path:
    """The encoder of a run as NAME.safetensors in `encoders.FOLDER`, and NAME.json about it.

    Weights of layers are rounded to float16 before the head, `linear_probe` on all training images,
    is fitted. fit: the name, in the run, of what trained the encoder. file: "model", "autoencoder".
    Raises RunError where the run's images can no longer be had.
    """
    record = runs.read_record(directory)
    shape = {key: record["params"][key] for key in ("image_size", "subset", "data_seed")}
    spec = record["params"]["dataset"]
    data = load_dataset(spec, **shape)
    if data.fingerprint != record["dataset"]["fingerprint"]:
        raise runs.RunError(f"{runs.show_path(directory)} was trained on other images: delete it")
    encoder = models.load(directory / f"{file}.safetensors").encoder
    device.seed_everything(record["params"]["seed"])
    untrained = models.rebuild(encoder.settings)  # with the very weights that the run began with
    untrained.load_state_dict(dict(encoder.named_buffers()) | dict(untrained.named_parameters()))
    for module in untrained.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    start = representations.scores(device.prepare(untrained), data.train, whole=data.val)

    with torch.no_grad():
        for weight in encoder.parameters():
            weight.copy_(weight.half() if weight.ndim > 1 else weight)
    h = evaluation.predict(device.prepare(encoder), data.train.images)
    head = representations.probe_head(
        representations.linear_probe(h, data.train.labels), len(data.classes)
    )
    path = paths.make_folder(encoders.FOLDER) / f"{name}.safetensors"
    settings = models.save(models.Classifier(encoder, len(data.classes), head), path, half=True)

    history = pd.read_csv(directory / "history.csv").query("fit == @fit")
    kept = ("notebook", "label", "recipe", "params", "dataset", "environment", "started", "status")
    facts = {"name": name, "command": command} | {key: record[key] for key in kept}
    facts |= {
        "model": settings,
        "fit": record["fits"][fit],
        "epochs": len(history),
        "minutes": round(history.seconds.sum() / 60, 1),
        "precision": record["fits"][fit]["precision"],
        "parameters": models.count_parameters(encoder),
        "features": encoder.num_features,
        "curve": curve(start, history),
        "scores": scores(path, data, spec.replace("cells", "cells_shifted", 1), shape),
    }  # fmt: skip
    runs.write_json(path.with_suffix(".json"), facts)
    return path


def curve(start: dict[str, float], history: pd.DataFrame) -> list[dict[str, Any]]:
    """Epochs with their k-NN and linear accuracy on validation images, before the first one too."""
    whole = history.dropna(subset=list(start)) if set(start) <= set(history) else history[:0]
    rows = [{"epoch": 0, **start}, *whole[["epoch", *start]].to_dict("records")]
    return [{key.removeprefix("whole_"): value for key, value in row.items()} for row in rows]


def scores(path: Path, data: Dataset, shifted: str, shape: dict[str, Any]) -> dict[str, float]:
    """What the file scores, by neighbours and by its head: val, test and the second laboratory."""
    classifier = device.prepare(models.load(path))
    parts = {"val": data.val, "test": data.test, "shifted": load_dataset(shifted, **shape).test}
    found = representations.scores(classifier.encoder, data.train, **parts)
    for name, part in parts.items():
        right = evaluation.predict(classifier, part.images).argmax(1) == part.labels
        found[f"{name}_linear_accuracy"] = right.float().mean().item()
    return found


if __name__ == "__main__":
    for name in sys.argv[1:] or MADE:
        if name not in MADE:
            near = paths.did_you_mean(name, MADE)
            sys.exit(f"make.py: no encoder {name!r}{near}; there are {', '.join(MADE)}")
        click.echo(f"  {runs.show_path(make(name))}")
