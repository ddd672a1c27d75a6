"""Encoders by name, with or without trained weights, the heads that go on them, and classifiers made of both.

Every encoder takes images in [0, 1], float (N, C, H, W), normalises them itself, and returns representations
h (N, `num_features`). A classifier is an encoder and a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.autoencoders import ConvAutoencoder
from labutil.device import unwrapped
from labutil.messages import did_you_mean
from labutil.networks import RESNETS, BasicCNN, ResNet, TimmEncoder, stem_stride
from labutil.pretrained import load, normalisation

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


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
        load(body if name in RESNETS else body.body, name, weights)
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


def probe_head(probe: Pipeline, n_classes: int) -> nn.Sequential:
    """A fitted `evaluation.linear_probe` as a head: its softmax is the probe's `predict_proba`.

    Fine-tuning from there (LP-FT: Kumar et al. 2022, arXiv:2202.10054) begins with a head that fits, so its first
    gradients do not distort the features; a random head's do. The principal axes are multiplied into the one linear
    layer. A class that the probe has not seen gets the logit -30, the others' largest is at least about 0.

    probe: of features (N, D). n_classes: K, at least as many as the probe knows.
    Returns Sequential(SignedRoot(), Linear(D, K)), which `rebuild` knows as
    head={"signed_root": True, "sizes": [], "dropout": []}.
    Raises ValueError for a pipeline of other steps, or one whose labels are not among 0 to K - 1.

    Example:
        probe = evaluation.linear_probe(h, data.train.labels)
        model = Classifier(encoder("tf_efficientnet_lite0", pretrained=True), 8, probe_head(probe, 8))
    """
    steps = [step for _, step in probe.steps]
    if [type(step).__name__ for step in steps] != ["FunctionTransformer", "PCA", "LogisticRegression"]:
        raise ValueError("probe: expected the fitted pipeline that evaluation.linear_probe returns")
    axes, regression = steps[1:]
    classes = torch.as_tensor(regression.classes_)
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"n_classes={n_classes}: the probe knows labels from {classes.min()} to {classes.max()}")
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes: one logit, positive for the second; softmax wants their difference
        weight, bias = (torch.as_tensor(v).double().repeat_interleave(2, 0) / 2 for v in (weight, bias))
        weight[0], bias[0] = -weight[0], -bias[0]
    weight = torch.as_tensor(weight).double() @ torch.as_tensor(axes.components_).double()
    bias = torch.as_tensor(bias).double() - weight @ torch.as_tensor(axes.mean_).double()
    head = mlp_head(weight.shape[1], [], n_classes, signed_root=True)
    with torch.no_grad():
        head[1].weight.zero_()[classes] = weight.float()
        head[1].bias.fill_(-30.0)[classes] = bias.float()
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
