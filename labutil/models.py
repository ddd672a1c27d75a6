"""Encoders by name, the heads that go on them, classifiers made of both, and how each goes to a file and back.

An encoder takes images in [0, 1], float (N, C, H, W), normalises them itself, and returns h (N, `num_features`).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from labutil import encoders
from labutil.networks import (
    RESNETS,
    BasicCNN,
    ConvAutoencoder,
    Mirrored,
    Normalize,
    Resized,
    ResNet,
    TimmEncoder,
    network_of,
)
from labutil.paths import DataError, replace_file
from labutil.weights import check_unchanged, checksum, load_weights, normalisation

if TYPE_CHECKING:
    import pandas as pd


def encoder(
    name: str,
    *,
    channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    input_size: int | None = None,
    imagenet_stem: bool = False,
) -> nn.Module:
    """An encoder: images (N, C, H, W) in [0, 1] -> representations h (N, `encoder.num_features`).

    name: basic_cnn, resnet8 (0.3 M parameters, for CPUs), resnet18, resnet34, resnet50, or any timm model name. Or one
    that this workbook trained: simclr_long and the like (`encoders.SHIPPED`), the directory of a run, or a .safetensors
    file, of a run or of `labutil export`. Such a one brings all it needs: it scales images to the size that it was
    trained on, and takes gray ones as three channels.
    image_size: pixels a side, or (height, width); it chooses a ResNet's stem. mean, std: normalisation per channel; 0.5
    and 0.25 when left out. pretrained: ImageNet weights (tf_efficientnet_lite0's are installed). weights: a file to
    take them from instead, see `weights.load_weights`. Both bring the stem and the normalisation that the weights were
    trained with, and take gray images as three equal channels. input_size: pixels a side that images are first scaled
    to. imagenet_stem: begin as with ImageNet weights, for weights that come later.
    Raises ValueError for an unknown name, with the nearest known one, and for weights that cannot be had.

    Example:
        h = encoder("resnet8", channels=1, image_size=28)(torch.rand(8, 1, 28, 28))  # (8, 128)
    """
    if (file := encoders.find(name)) is not None:
        if weights is not None:
            raise ValueError(f"encoder={name!r} has its own weights: leave weights out, or name a network")
        return _encoder_of(file, channels, image_size, input_size)
    trained = pretrained or weights is not None
    if trained and name in {"basic_cnn", "resnet8"}:
        raise ValueError(f"encoder={name!r} has no pretrained weights: choose resnet18, tf_efficientnet_lite0, ...")
    stem, size = imagenet_stem or trained, input_size or image_size
    inputs = 3 if stem else channels
    mean, std = normalisation(name) if trained else (mean or [0.5] * inputs, std or [0.25] * inputs)
    normalize = Normalize(mean, std)
    if name == "basic_cnn":
        body = BasicCNN(0, inputs, size, mean=mean, std=std)
    elif name in RESNETS:
        side = size if isinstance(size, int) else min(size)
        body = ResNet(name, inputs, 224 if stem else side, normalize)
    else:
        body = TimmEncoder(name, inputs, normalize)
    if trained:
        load_weights(body if name in RESNETS else body.body, name, weights)
    made = Resized(body, input_size) if input_size else body
    made.settings = {
        "encoder": name, "channels": channels, "image_size": image_size, "input_size": input_size, "imagenet_stem": stem
    }  # fmt: skip
    return made


def _encoder_of(file: Path, channels: int, image_size: int | tuple[int, int], input_size: int | None) -> nn.Module:
    """The encoder of the classifier in a file, with the weights that it has there, for images of other sizes, too."""
    body = load(file)
    body = body.encoder if isinstance(body, Classifier | ConvAutoencoder) else body
    own = body.settings
    side, needs = own.get("input_size") or own["image_size"], 3 if own.get("imagenet_stem") else own["channels"]
    if not isinstance(side, int):
        side = side[0] if side[0] == side[1] else tuple(side)
    if channels > needs:
        raise ValueError(f"{file} is for gray images, these have {channels} channels: choose another encoder")
    pools = isinstance(body, ResNet | TimmEncoder)  # over maps of any size
    if input_size not in {None, side} and not pools:
        raise ValueError(f"input_size={input_size}: the encoder in {file} sees images at {side} pixels alone")
    if own.get("input_size") or (image_size == side and input_size in {None, side} and channels == needs):
        return body
    if not isinstance(input_size or side, int):
        raise ValueError(f"{file} is for images of {side} pixels (height, width): set image_size, or choose another")
    made = Resized(body, input_size or side, needs)
    made.settings = own | {"image_size": image_size, "input_size": made.side}
    return made


class Classifier(nn.Module):
    """An encoder with a head on it, a linear layer if none is given: logits (N, num_classes) = head(encoder(x))."""

    def __init__(self, encoder: nn.Module, num_classes: int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.num_classes = encoder, num_classes
        self.head = head or nn.Linear(encoder.num_features, num_classes)

    @property
    def settings(self) -> dict[str, Any]:
        """How to build it again, for `rebuild`; empty where encoder or head is none of this module's."""
        head = None if isinstance(self.head, nn.Linear) else getattr(self.head, "settings", {})
        known = getattr(self.encoder, "settings", {})
        return known | {"num_classes": self.num_classes, "head": head} if known and head != {} else {}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def train(self, mode: bool = True) -> Classifier:
        """Batch norms whose own parameters are all frozen stay in `eval()`: their statistics belong to the weights."""
        super().train(mode)
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and own and not any(p.requires_grad for p in own):
                module.eval()
        return self


def unfreeze_last(encoder: nn.Module, n: int | None) -> list[str]:
    """Freeze an encoder except for its last n layers; returns the names of these, in the order of definition.

    A layer is a module that holds parameters itself. n=0 freezes everything, None nothing. Raises ValueError when there
    are fewer layers, with their number.
    """
    layers = [name for name, module in encoder.named_modules() if list(module.parameters(recurse=False))]
    n = len(layers) if n is None else n
    if not 0 <= n <= len(layers):
        raise ValueError(f"n={n} must lie between 0 and {len(layers)}, the number of layers of this encoder")
    last = layers[len(layers) - n :]
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[0] in last)
    return last


def layerwise_rates(encoder: nn.Module, decay: float) -> dict[str, float]:
    """Discriminative learning rates (Howard & Ruder 2018, arXiv:1801.06146), for `fit`'s lr_scale.

    The encoder's blocks have decay, decay ** 2, ... from the top down; the head above them keeps 1. Blocks are the
    stages of a ResNet, the members of a timm network's `blocks`, `stages` or `features`, and what comes before and
    after these; a normalisation belongs to the block before it. decay: above 0, to 1.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay} must be above 0 and at most 1")
    place, _, body = network_of(encoder)
    path, children = f"encoder.{place}", []  # "encoder.": the name that a `Classifier` gives it
    for name, child in body.named_children():
        opened = name in {"blocks", "stages", "features"} and isinstance(child, nn.Sequential)
        children += [(f"{name}.{i}", part) for i, part in child.named_children()] if opened else [(name, child)]
    blocks: list[list[str]] = [[]]
    for name, child in children:
        if shapes := [p.ndim for p in child.parameters()]:
            if max(shapes) > 1 and blocks[-1]:
                blocks.append([])
            blocks[-1].append(f"{path}{name}.")
    blocks[0] += [f"{path}{name}" for name, _ in body.named_parameters(recurse=False)]  # such as a class token
    return {name: decay**depth for depth, block in enumerate(reversed(blocks), start=1) for name in block}


class SignedRoot(nn.Module):
    """sign(x) sqrt(|x|), as `representations.signed_root`: no single large feature decides (Jegou et al. 2012).
    Below 0.0001 its gradient is 100, that of the straight line to the curve: the root's own is infinite at 0."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        line = x / x.abs().clamp(min=1e-4).sqrt()
        return line + (x.sign() * x.abs().sqrt() - line).detach()


def mlp_head(
    features: int, sizes: Sequence[int], outputs: int, dropout: Sequence[float] | float = 0, signed_root: bool = False
) -> nn.Sequential:
    """Fully connected head: for each size (linear, batch norm, ReLU, dropout), then a linear layer.

    features: inputs. sizes: hidden widths, may be empty. dropout: one rate, or one for each hidden layer.
    signed_root: begin with `SignedRoot`.
    """
    rates = [dropout] * len(sizes) if isinstance(dropout, int | float) else list(dropout)
    if len(rates) != len(sizes):
        raise ValueError(f"dropout has {len(rates)} rates for {len(sizes)} hidden layers: give one, or one a layer")
    layers: list[nn.Module] = [SignedRoot()] if signed_root else []
    for size, rate in zip(sizes, rates, strict=True):
        layers += [nn.Linear(features, size), nn.BatchNorm1d(size), nn.ReLU(inplace=True), nn.Dropout(rate)]
        features = size
    head = nn.Sequential(*layers, nn.Linear(features, outputs))
    head.settings = {"sizes": list(sizes), "dropout": rates, "signed_root": signed_root}
    return head


def momentum_copy(module: nn.Module) -> nn.Module:
    """BYOL's target network at the start: a copy whose parameters get no gradient. Keep it among `fit`'s modules."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target towards the online network: each parameter becomes momentum * its own + (1 - momentum) * theirs.
    Buffers stay the target's own, as in BYOL's published code: its batch norms keep statistics of what they see."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


def byol_momentum(progress: float, base: float = 0.996) -> float:
    """Momentum of BYOL's target (Grill et al. 2020): from base to 1 by half a cosine; progress from 0 to 1."""
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


def save(model: nn.Module, path: Path | str, *, half: bool = False) -> dict[str, Any]:
    """Write a model into one safetensors file, whole or not at all: its weights and, in the header, how it was built.

    model: a `Classifier`, encoder or `ConvAutoencoder`; of any other the weights alone are kept. half: weights of
    layers as float16, which halves the file; `load` makes float32 of them. Returns the settings, {} where none are
    known. Raises DataError when the file cannot be written.
    """
    settings = getattr(model, "settings", {})
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:  # biases and norms are few, and some of a norm's variances too small for float16
        weights |= {name: weights[name].half() for name, value in model.named_parameters() if value.ndim > 1}
    # One entry: the order of several differs from process to process, and equal models should be equal files.
    header = {"settings": json.dumps(settings | {"checksum": checksum(weights)})} if settings else None
    try:
        # `save_file` would write another temporary file, readable by this user alone, which a kill would leave.
        replace_file(Path(path), lambda temporary: temporary.write_bytes(serialize(weights, header)))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written ({error}): give another file") from error
    return settings


def load(
    path: Path | str,
    *,
    kind: type[nn.Module] = nn.Module,
    image: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model that `save` wrote, on the CPU.

    kind: `ConvAutoencoder` or `Classifier`, where only that will do. image: the shape (C, H, W) of those that it is
    wanted for. settings: for a file that does not hold them.
    Raises DataError, in one line, for a file that is missing, damaged, holds something else, or is for other images.
    """
    path, what = Path(path).expanduser(), "autoencoder" if kind is ConvAutoencoder else "model"
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the {what}.safetensors that a run left")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        settings = {**json.loads(header["settings"])} if "settings" in header else settings
        known = settings.pop("checksum", None) if "settings" in header else None
        model = rebuild(settings) if settings else None
        if isinstance(model, kind):
            weights = load_file(path)
            check_unchanged(weights, known)
            if "exported" in header:  # by `labutil export`: the network alone, what it normalises by in the header
                place, network, _ = network_of(model)
                weights = {f"{place}{key}": value for key, value in weights.items()}
                for key, values in json.loads(header["exported"]).items():
                    known = getattr(network.normalize, key)
                    weights[f"{place.removesuffix('body.')}normalize.{key}"] = torch.tensor(values).view_as(known)
            model.load_state_dict(weights)
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is damaged or no model file ({reason}): train the {what} again") from error
    if not isinstance(model, kind):
        raise DataError(f"{path} holds no {what} of this workbook: give the {what}.safetensors of a run")
    channels, side = (model.settings[key] for key in ("channels", "image_size"))
    made = (channels, side, side) if isinstance(side, int) else (channels, *side)
    if image is not None and made != tuple(image):
        made, wanted = (" x ".join(map(str, numbers)) for numbers in (made, image))
        raise DataError(f"{path} is for images of {made}, these are {wanted}: train one for these, or set image_size")
    return model


def rebuild(settings: Mapping[str, Any]) -> nn.Module:
    """The untrained model whose `settings` these are, for its weights to be loaded into. Nothing is fetched.

    settings: a `ConvAutoencoder`'s arguments; or those of `encoder` for a network (its name as "encoder"), mirror
    (True: inside `Mirrored`), and for a `Classifier` num_classes and head (None: a linear layer; else `mlp_head`'s
    {"sizes": [...], "dropout": [...], "signed_root": True}). The encoder "conv_autoencoder" is that of an autoencoder
    whose settings are in "autoencoder". Raises TypeError or ValueError for settings that cannot be.
    """
    if "filters" in settings:
        return ConvAutoencoder(**settings)
    network = dict(settings)
    outer = ("encoder", "num_classes", "head", "mirror", "autoencoder")
    name, classes, head, mirror, whole = (network.pop(key, None) for key in outer)
    known = ("channels", "image_size", "input_size", "imagenet_stem")
    for key in (*network, "channels", "image_size"):
        if key not in known or key not in network:
            raise ValueError(f"model setting {key!r} is missing, or none of {', '.join(known)}")
    made = ConvAutoencoder(**whole).encoder if whole else encoder(name, **network)
    if whole and network.get("input_size"):
        made = Resized(made, network["input_size"], whole["channels"])
        made.settings = {"encoder": name, "autoencoder": whole, **network}
    layers = mlp_head(made.num_features, outputs=classes, **head) if head else None
    made = Mirrored(made) if mirror else made
    return Classifier(made, classes, layers) if classes else made


def count_parameters(module: nn.Module, trainable: bool = True) -> int:
    """Number of parameters; only trainable ones unless `trainable=False`. Buffers never count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def layer_table(model: nn.Module, image: Sequence[int]) -> pd.DataFrame:
    """What a model is made of: a row a layer, in the order in which an image (C, H, W) passes.

    Returns a DataFrame(layer, output, parameters, statistics): output without the batch, "128 x 14 x 14"; statistics
    are batch norm's running means and variances, which are not trained, but count in Keras's summary.
    """
    import pandas as pd

    rows, model = [], copy.deepcopy(model).eval()

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        statistics = sum(b.numel() for name, b in layer.named_buffers() if name.startswith("running"))
        shape = " x ".join(map(str, output.shape[1:]))
        rows.append((type(layer).__name__, shape, count_parameters(layer, trainable=False), statistics))

    for layer in model.modules():
        if not list(layer.children()) and not isinstance(layer, nn.Identity):
            layer.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, *image, device=next(model.parameters()).device))
    return pd.DataFrame(rows, columns=["layer", "output", "parameters", "statistics"])
