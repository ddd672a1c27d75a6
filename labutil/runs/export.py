"""A finished run's encoder for use without this package: a program that torch runs, its weights, and how to load both.

NAME.pt2 is a `torch.export` program: float images (N, C, H, W) in [0, 1], N of any size -> h (N, D); it normalises them
itself. NAME.safetensors holds the weights under the names that torchvision (resnet18, 34, 50) or timm give the layers,
else under this workbook's own; it normalises nothing. NAME.json has mean, std, sizes and classes; README.md the lines.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from labutil import models, networks, paths
from labutil.runs.predict import find_run, load_model
from labutil.runs.record import write_json

TORCHVISION = ("resnet18", "resnet34", "resnet50")


def export(run: str, out: Path | None = None) -> Path:
    """Write the encoder of a run into a folder, and return the folder.

    run: as `find_run` takes it: a run's directory, id or notebook, or one of `encoders.NAMES`. out: the folder; None:
    `export` in the run's directory, of an encoder of the workbook `runs/NAME/export`. What is written is tried first:
    it gives what the encoder gives. Raises DataError for a run without a usable model, or a folder that cannot be made.
    """
    source = find_run(run)
    classifier, record = load_model(source)
    encoder = classifier.encoder.float().cpu().to(memory_format=torch.contiguous_format).eval()
    named = source.suffix == ".json"
    name = source.stem if named else f"{source.parent.name}_{source.name}"
    folder = out and paths.absolute(out)
    folder = paths.make_folder(folder or (paths.runs_dir() / name if named else source) / "export")
    facts = describe(encoder, name, record)
    program = to_program(encoder, facts["input"])
    state = {"settings": json.dumps(encoder.settings), "exported": json.dumps(_normalisation(encoder))}
    body = networks.network_of(encoder)[2]
    weights = {key: v.contiguous() for key, v in body.state_dict().items() if not key.startswith("normalize.")}
    saved = paths.in_memory(lambda file: torch.export.save(program, file))
    try:
        # each whole or not at all; the .json, without which the others say nothing, comes last
        paths.replace_file(folder / f"{name}.pt2", lambda file: file.write_bytes(saved))
        paths.replace_file(folder / f"{name}.safetensors", lambda file: file.write_bytes(save(weights, state)))
        paths.replace_file(folder / f"{name}.md", lambda file: file.write_text(readme(facts), encoding="utf-8"))
        write_json(folder / f"{name}.json", facts)
    except OSError as error:
        raise paths.DataError(f"{folder} cannot be written ({error}): give another folder with --out") from error
    return folder


def to_program(encoder: nn.Module, takes: dict[str, Any]) -> torch.export.ExportedProgram:
    """An encoder as a `torch.export` program for batches of any size; ValueError if it does not give what that gives.
    takes: channels, height and width of its images."""
    images = torch.rand(3, takes["channels"], takes["height"], takes["width"])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own
        program = torch.export.export(encoder, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        same = [torch.allclose(program.module()(x), encoder(x), atol=1e-5) for x in (images, images[:1])]
    if not all(same):
        raise ValueError("the exported program gives other numbers than the encoder")
    return program


def describe(encoder: nn.Module, name: str, record: dict[str, Any]) -> dict[str, Any]:
    """What NAME.json says. `model`, `label` and `dataset` are what `encoders.origin` reads."""
    settings, network = encoder.settings, networks.network_of(encoder)[1]
    side = settings["image_size"]
    height, width = (side, side) if isinstance(side, int) else side
    names = "timm" if isinstance(network, networks.TimmEncoder) else "labutil"
    return {
        "name": name,
        "label": record.get("label", ""),
        "network": settings["encoder"],
        "layer_names": "torchvision" if settings["encoder"] in TORCHVISION else names,
        "input": {
            "channels": settings["channels"], "height": height, "width": width, "range": [0, 1],
            "scaled_to": settings.get("input_size"), "mirrored": bool(settings.get("mirror")),
        } | _normalisation(encoder),
        "features": encoder.num_features,
        "parameters": models.count_parameters(network, trainable=False),
        "classes": record["dataset"]["classes"],
        "dataset": {key: record["dataset"].get(key) for key in ("name", "fingerprint")},
        "trained_by": {key: record.get(key) for key in ("notebook", "recipe", "params", "started")},
        "model": settings,
        "stem": _stem(network),
        "torch": torch.__version__,
    }  # fmt: skip


def readme(facts: dict[str, Any]) -> str:
    """How to load what lies beside it."""
    name, takes, network = facts["name"], facts["input"], facts["network"]
    mean, std = ([round(value, 4) for value in takes.get(key, ())] for key in ("mean", "std"))
    shape = f"(N, {takes['channels']}, {takes['height']}, {takes['width']})"
    lines = [
        f"# {name}: {network}, {facts['parameters']:,} parameters",
        "",
        f"`{name}.pt2` needs torch alone (made by {facts['torch']}; older ones may refuse it):",
        "",
        "    import torch",
        "",
        f'    encoder = torch.export.load("{name}.pt2").module()',
        f"    h = encoder(images)  # float {shape} in [0, 1], any N -> (N, {facts['features']})",
        "",
        "It normalises images itself and holds no classifier. It runs on the CPU and cannot be trained on.",
        "",
        f"`{name}.safetensors` holds the weights, to train on. Layers have {facts['layer_names']}'s names.",
        f"They expect (images - mean) / std, mean {mean}, std {std}." if mean else "They expect images in [0, 1].",
    ]
    if size := takes["scaled_to"]:
        lines.append(f"Scale images to {size} pixels a side first (bicubic, antialiased); the program does it itself.")
    if takes["mirrored"]:
        lines.append("h is the mean over an image and its mirror image; the program does it itself.")
    lines += ["", *(f"    {line}" for line in _loading(facts))]
    lines += ["", f"Trained on {facts['dataset']['name']}: {', '.join(facts['classes'])}."]
    lines += [f"In the workbook: `labutil run 03 -p encoder {name}.safetensors`."]
    return "\n".join(lines) + "\n"


def _loading(facts: dict[str, Any]) -> list[str]:
    """Lines that load the weights."""
    name, network, takes = facts["name"], facts["network"], facts["input"]
    load = f'load_file("{name}.safetensors")'
    if facts["layer_names"] == "timm":
        channels = 3 if facts["model"].get("imagenet_stem") else takes["channels"]
        made = f'timm.create_model("{network}", in_chans={channels}, num_classes=0)'
        imports = ["import timm", "from safetensors.torch import load_file", ""]
        return [*imports, f"net = {made}", f"net.load_state_dict({load})"]
    if facts["layer_names"] == "labutil":
        return ["from labutil import models", "", f'encoder = models.encoder("{name}.safetensors")  # normalises, too']
    lines = ["import torchvision", "from safetensors.torch import load_file", "from torch import nn", ""]
    lines += [f"net = torchvision.models.{network}()", "net.fc = nn.Identity()  # or strict=False, to keep an fc"]
    channels, kernel, stride = facts["stem"]
    if kernel != 7:
        lines += [
            f"net.conv1 = nn.Conv2d({channels}, 64, {kernel}, {stride}, {kernel // 2}, bias=False)  # for small images",
            "net.maxpool = nn.Identity()",
        ]
    elif channels != 3:
        lines.append(f"net.conv1 = nn.Conv2d({channels}, 64, 7, 2, 3, bias=False)")
    return [*lines, f"net.load_state_dict({load})"]


def _stem(network: nn.Module) -> list[int] | None:
    """Channels, kernel and stride of a ResNet's first convolution."""
    if not isinstance(network, networks.ResNet):
        return None
    return [network.conv1.in_channels, network.conv1.kernel_size[0], network.conv1.stride[0]]


def _normalisation(encoder: nn.Module) -> dict[str, list[float]]:
    """Mean and std a channel, {} of a network that takes images as they are."""
    normalize = getattr(networks.network_of(encoder)[1], "normalize", None)
    return {key: getattr(normalize, key).flatten().tolist() for key in ("mean", "std")} if normalize else {}
