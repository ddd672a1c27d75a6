"""Encoders by name, with or without trained weights, the heads that go on them, and classifiers made of both.

Every encoder takes images in [0, 1], float (N, C, H, W), normalises them itself, and returns representations
h (N, `num_features`). A classifier is an encoder and a head. Each knows how it was built, so a file is all it takes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from labutil.device import evaluation_mode, unwrapped
from labutil.networks import RESNETS, BasicCNN, ConvAutoencoder, Mirrored, Resized, ResNet, TimmEncoder, stem_stride
from labutil.paths import DataError, replace_file
from labutil.weights import load_weights, normalisation

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

    name: basic_cnn, resnet8 (0.3 M parameters, for CPUs), resnet18, resnet34, resnet50, or any timm model name.
    image_size: pixels a side, or (height, width); it chooses a ResNet's stem (`stem_stride`). mean, std: normalisation
    per channel, as `Dataset.mean` and `.std` give it; 0.5 and 0.25 when left out.
    pretrained: ImageNet weights: tf_efficientnet_lite0's are installed, others come from timm's hub. weights: a file
    to take them from instead (`load_weights`). Such an encoder has the stem and the normalisation that its weights
    were trained with, and takes gray images as three equal channels.
    input_size: images are first scaled to this many pixels a side, for a network that was trained on larger ones.
    imagenet_stem: begin as an encoder with ImageNet weights does, without having any (for weights that come later).
    Raises ValueError for an unknown name, with the nearest known one, and for weights that cannot be had.

    Example:
        h = encoder("resnet8", channels=1, image_size=28)(torch.rand(8, 1, 28, 28))  # (8, 128)
        h = encoder("tf_efficientnet_lite0", pretrained=True, input_size=64)(torch.rand(8, 3, 32, 32))  # (8, 1280)
    """
    trained = pretrained or weights is not None
    if trained and name in {"basic_cnn", "resnet8"}:
        raise ValueError(f"encoder={name!r} has no pretrained weights: choose resnet18, tf_efficientnet_lite0, ...")
    stem, size = imagenet_stem or trained, input_size or image_size
    inputs = 3 if stem else channels
    mean, std = normalisation(name) if trained else (mean, std)
    if name == "basic_cnn":
        body = BasicCNN(0, inputs, size, mean=mean, std=std)
    elif name in RESNETS:
        side = size if isinstance(size, int) else min(size)
        body = ResNet(*RESNETS[name], inputs, 4 if stem else stem_stride(side), mean, std)
    else:
        body = TimmEncoder(name, inputs, mean, std)
    if trained:
        load_weights(body if name in RESNETS else body.body, name, weights)
    made = Resized(body, input_size) if input_size else body
    made.settings = {"encoder": name, "channels": channels, "image_size": image_size}
    made.settings |= {"input_size": input_size, "imagenet_stem": stem}
    return made


class Classifier(nn.Module):
    """An encoder with a head on it: logits = head(encoder(x)).

    Example:
        model = Classifier(encoder("resnet8"), num_classes=10)
        logits = model(x)                # (N, 10)
        h = model.encoder(x)             # (N, 128), what the t-SNE map shows
    """

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
        """As every module's; but batch norms whose own parameters are all frozen stay in `eval()`, since their running
        statistics belong to the frozen weights."""
        super().train(mode)
        for module in self.modules():
            own = list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and own and not any(p.requires_grad for p in own):
                module.eval()
        return self


def unfreeze_last(encoder: nn.Module, n: int | None) -> list[str]:
    """Freeze an encoder except for its last n layers; returns the names of these, in the order of definition.

    A layer is a module that holds parameters itself (a convolution, a batch norm, a linear layer), in the order of
    `encoder.modules()`: an EfficientNet ends in conv_head, bn2, so n=2 trains these. n=0 freezes everything, None
    nothing. `Classifier.train()` then keeps the frozen batch norms in `eval()`.
    Raises ValueError when there are fewer layers, with their number.

    Example:
        model = Classifier(encoder("tf_efficientnet_lite0", pretrained=True), num_classes=8)
        unfreeze_last(model.encoder, 2)  # ["body.conv_head", "body.bn2"]
    """
    layers = [(name, module) for name, module in encoder.named_modules() if list(module.parameters(recurse=False))]
    n = len(layers) if n is None else n
    if not 0 <= n <= len(layers):
        raise ValueError(f"n={n} must lie between 0 and {len(layers)}, the number of layers of this encoder")
    last = layers[len(layers) - n :]
    encoder.requires_grad_(False)
    for parameter in (p for _, module in last for p in module.parameters(recurse=False)):
        parameter.requires_grad_(True)
    return [name for name, _ in last]


def layerwise_rates(encoder: nn.Module, decay: float, prefix: str = "encoder.") -> dict[str, float]:
    """Discriminative learning rates (Howard & Ruder 2018, arXiv:1801.06146), for `fit`'s lr_scale: what lies deeper
    knows more general things and changes less.

    The encoder's blocks have decay, decay ** 2, ... from the top down; the head above them keeps 1. Blocks are the
    stages of a ResNet, the members of a timm network's `blocks`, `stages` or `features`, and what comes before and
    after these; a normalisation belongs to the block before it. decay: above 0, to 1. prefix: of the encoder's
    parameters in the module that `fit` trains.

    Example:
        fit(step, [model], data.train, lr_scale=layerwise_rates(model.encoder, 0.7), epochs=3, batch_size=64, lr=1e-3)
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay={decay} must be above 0 and at most 1")
    body, path = encoder, prefix
    for part in ("encoder", "encoder", "body"):  # of Mirrored, of Resized, and of what timm makes
        if isinstance(inner := getattr(body, part, None), nn.Module):
            body, path = inner, f"{path}{part}."
    children = []
    for name, child in body.named_children():
        opened = name in {"blocks", "stages", "features"} and isinstance(child, nn.Sequential)
        children += [(f"{name}.{i}", part) for i, part in child.named_children()] if opened else [(name, child)]
    blocks: list[list[str]] = [[]]
    for name, child in children:
        shapes = [p.ndim for p in child.parameters()]
        if shapes and max(shapes) > 1 and blocks[-1]:
            blocks.append([])
        blocks[-1] += [f"{path}{name}."] if shapes else []
    blocks[0] += [f"{path}{name}" for name, _ in body.named_parameters(recurse=False)]  # such as a class token
    return {name: decay**depth for depth, block in enumerate(reversed(blocks), start=1) for name in block}


class SignedRoot(nn.Module):
    """sign(x) sqrt(|x|), as `representations.signed_root`: no single large feature decides (Jegou et al. 2012).

    The root's slope is infinite at 0, where the features of a ReLU often lie. Its values are exact; below 0.0001 its
    gradient is that of the straight line from 0 to the curve, 100, and elsewhere the root's own.
    """

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
    Report C's head is `mlp_head(features, (512, 256, 128), classes, (0.5, 0.4, 0.3))`.
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
    """BYOL's target network at the start: a copy of the module whose parameters get no gradient.

    Keep it among `fit`'s modules, so that checkpoints hold it and it is in training mode as the module is.

    Example:
        target = momentum_copy(online)
        follow = lambda progress: update_target(target, online, byol_momentum(progress))
        fit(step, [online, predictor, target], ..., after_step=follow)
    """
    return copy.deepcopy(unwrapped(module)).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target towards the online network: each parameter becomes momentum * its own + (1 - momentum) * theirs.

    Buffers stay the target's own, as in BYOL's published code: in training mode its batch norms normalise by the batch
    and keep statistics of what they see themselves, which fit the target's weights better than the online network's do.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


def byol_momentum(progress: float, base: float = 0.996) -> float:
    """Momentum of BYOL's target (Grill et al. 2020): from base to 1 by half a cosine; progress from 0 to 1.

    A run of a few hundred steps wants a lower base: with 0.996 the target needs about 250 steps to follow.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


def save(model: nn.Module, path: Path | str, **build: Any) -> dict[str, Any]:
    """Write a model into one safetensors file, whole or not at all: its weights and, in the header, how it was built.

    model: a `Classifier`, encoder or `ConvAutoencoder`; of any other the weights alone are kept. build: settings that
    the model does not know itself, as `rebuild` takes them. Returns the settings, {} where none are known.
    Raises DataError when the file cannot be written.

    Example:
        save(model, "model.safetensors")
    """
    settings = getattr(model, "settings", {}) | build
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # One entry: the order of several differs from process to process, and equal models should be equal files.
    header = {"settings": json.dumps(settings)} if settings else None
    try:
        replace_file(Path(path), lambda temporary: save_file(weights, temporary, header))
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
    wanted for, where known. settings: for a file that does not hold them, as those of runs once did not.
    Raises DataError, in one line, for a file that is missing, damaged, holds something else, or is for other images.

    Example:
        model = device.prepare(load("autoencoder.safetensors", kind=ConvAutoencoder))
    """
    path, what = Path(path).expanduser(), "autoencoder" if kind is ConvAutoencoder else "model"
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the {what}.safetensors that a run left")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        settings = json.loads(header["settings"]) if "settings" in header else settings
        model = rebuild(settings) if settings else None
        if isinstance(model, kind):
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

    settings: a `ConvAutoencoder`'s arguments; or those of `encoder` for a network (its name as "encoder"; mean and
    standard deviation are among the weights), mirror (True: inside `Mirrored`), and for a `Classifier` num_classes and
    head (None: a linear layer; else `mlp_head`'s {"sizes": [...], "dropout": [...], "signed_root": True}). For the
    encoder of a `ConvAutoencoder`, encoder is "conv_autoencoder" and autoencoder the whole one's settings.
    Raises TypeError or ValueError for a setting that is missing, unknown or cannot be.
    """
    if "filters" in settings:
        return ConvAutoencoder(**settings)
    network = dict(settings)
    name, classes, head = (network.pop(key, None) for key in ("encoder", "num_classes", "head"))
    mirror, whole = network.pop("mirror", False), network.pop("autoencoder", None)
    known = ("channels", "image_size", "input_size", "imagenet_stem")
    for key in (*network, "channels", "image_size"):
        if key not in known or key not in network:
            raise ValueError(f"model setting {key!r} is missing, or none of {', '.join(known)}")
    made = ConvAutoencoder(**whole).encoder if whole else encoder(name, **network)
    layers = mlp_head(made.num_features, outputs=classes, **head) if head else None
    made = Mirrored(made) if mirror else made
    return Classifier(made, classes, layers) if classes else made


def count_parameters(module: nn.Module, trainable: bool = True) -> int:
    """Number of parameters; only trainable ones unless `trainable=False`. Buffers never count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def layer_table(model: nn.Module, image: Sequence[int]) -> pd.DataFrame:
    """What a model is made of: a row a layer, in the order in which an image (C, H, W) passes.

    Returns a DataFrame(layer, output, parameters, statistics): output without the batch, "128 x 14 x 14"; parameters
    are trained; statistics are batch norm's running means and variances, which are not, and which Keras's summary
    counts as (non-trainable) parameters.

    Example:
        layer_table(ConvAutoencoder(), (1, 28, 28)).parameters.sum()  # 1184257
    """
    import pandas as pd

    rows = []

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        statistics = sum(b.numel() for name, b in layer.named_buffers() if name.startswith("running"))
        parameters = sum(p.numel() for p in layer.parameters())
        shape = " x ".join(str(side) for side in output.shape[1:])
        rows.append((type(layer).__name__, shape, parameters, statistics))

    layers = [m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.Identity)]
    with contextlib.ExitStack() as hooks, evaluation_mode(model), torch.no_grad():
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(note))
        model(torch.zeros(1, *image, device=next(model.parameters()).device))
    return pd.DataFrame(rows, columns=["layer", "output", "parameters", "statistics"])
