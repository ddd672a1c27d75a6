"""Networks: a plain convolutional classifier, residual encoders, and the heads that go on them.

Every encoder takes images in [0, 1], float (N, C, H, W), normalises them itself, and returns representations
h (N, `num_features`). A classifier is an encoder and a head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.autoencoders import ConvAutoencoder
from labutil.messages import did_you_mean
from labutil.pretrained import load, normalisation

RESNETS = {
    # name: (block, blocks per stage, channels per stage)
    "resnet8": ("basic", (1, 1, 1), (32, 64, 128)),
    "resnet18": ("basic", (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": ("basic", (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": ("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512)),
}


class Normalize(nn.Module):
    """(x - mean) / std per channel. Inside the model, so that a saved model needs no further numbers to be used.

    mean, std: one value a channel, in the units of images in [0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if any(s <= 0 for s in std):
            # A constant channel (all black, say) has nothing to scale.
            std = [s if s > 0 else 1.0 for s in std]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BasicCNN(nn.Module):
    """Three blocks of (3x3 convolution, batch norm, ReLU, 2x2 max pool), then two fully connected layers.

    channels: of the image (1 or 3). image_size: pixels a side, or (height, width), at least 8; the last maps of larger
    images are averaged to about 4x4, so that the first fully connected layer does not grow with the image.
    width: channels of the first block (then 2x, 4x). num_classes=0 leaves out the second fully connected layer, and
    the model returns representations (N, hidden). Introduced in notebook 02.

    Example:
        logits = BasicCNN(num_classes=10, channels=3, image_size=32)(torch.rand(8, 3, 32, 32))  # (8, 10)
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        width: int = 32,
        hidden: int = 256,
        dropout: float = 0.5,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        height, image_width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, image_width) < 8:
            raise ValueError(f"image_size={image_size}: three max pools need at least 8 pixels")
        self.num_features = hidden
        rows, columns = height // 8, image_width // 8
        # Whole windows: not every device has adaptive pooling to any size.
        window = max(1, round(min(rows, columns) / 4))
        positions = (rows // window) * (columns // window)
        self.normalize = Normalize(mean or [0.5] * channels, std or [0.25] * channels)
        self.blocks = nn.Sequential(
            *_conv_block(channels, width), *_conv_block(width, 2 * width), *_conv_block(2 * width, 4 * width)
        )
        self.pool = nn.AvgPool2d(window)
        self.fc1 = nn.Linear(4 * width * positions, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, num_classes) if num_classes else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> representation h (N, hidden)."""
        x = self.pool(self.blocks(self.normalize(x)))
        return F.relu(self.fc1(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.features(x)))


def _conv_block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    ]


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _shortcut(channels_in, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Residual network (He et al. 2016, arXiv:1512.03385) without its classifier.

    Layers carry torchvision's names, so its ImageNet weights load as they are (with `stem_stride=4` and 3 channels).
    stem_stride: 1 (a 3x3 convolution, for images to 40 pixels), 2 (a 3x3 convolution, to 112), or 4 (the original
    7x7 convolution and max pool). The last of four stages then still sees 3x3 positions or more.
    """

    def __init__(
        self,
        block: str,
        blocks: Sequence[int],
        widths: Sequence[int],
        channels: int = 3,
        stem_stride: int = 4,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        make = _BasicBlock if block == "basic" else _Bottleneck
        self.normalize = Normalize(mean or [0.5] * channels, std or [0.25] * channels)
        if stem_stride == 4:
            self.conv1 = nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False)
            self.maxpool = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv2d(channels, widths[0], 3, stem_stride, 1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(widths[0])
        previous = widths[0]
        self.stages = []
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = nn.Sequential()
            for j in range(count):
                stage.append(make(previous, width, stride=2 if i > 1 and j == 0 else 1))
                previous = width * make.expansion
            self.add_module(f"layer{i}", stage)
            self.stages.append(f"layer{i}")
        self.num_features = previous
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last stage's maps (N, num_features, h, w)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(self.normalize(x))), inplace=True))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_maps(x).mean((2, 3))


class _TimmEncoder(nn.Module):
    def __init__(self, name: str, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        import timm

        if name not in timm.list_models():
            known = ["basic_cnn", *RESNETS]
            hint = did_you_mean(name, [*known, *timm.list_models()])
            raise ValueError(f"encoder={name!r}{hint} is none of {', '.join(known)}, nor a timm model")
        self.body = timm.create_model(name, in_chans=channels, num_classes=0)
        self.num_features = getattr(self.body, "head_hidden_size", self.body.num_features)
        self.normalize = Normalize(mean or [0.5] * channels, std or [0.25] * channels)

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last maps before pooling (N, D, h, w)."""
        return self.body.forward_features(self.normalize(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.normalize(x))


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


def stem_stride(image_size: int) -> int:
    """How much a ResNet's first layers may shrink an image of this size: 1, 2 or 4."""
    if image_size <= 40:
        return 1
    return 2 if image_size <= 112 else 4


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
    return _TimmEncoder(name, channels, mean, std)


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


def mlp_head(features: int, sizes: Sequence[int], outputs: int, dropout: Sequence[float] | float = 0.0) -> nn.Module:
    """Fully connected head: for each size (linear, batch norm, ReLU, dropout), then a linear layer.

    features: inputs. sizes: hidden widths, may be empty. dropout: one rate, or one for each hidden layer.
    Report C's head is `mlp_head(features, (512, 256, 128), classes, (0.5, 0.4, 0.3))`.
    """
    rates = [dropout] * len(sizes) if isinstance(dropout, int | float) else list(dropout)
    if len(rates) != len(sizes):
        raise ValueError(f"dropout has {len(rates)} rates for {len(sizes)} hidden layers: give one, or one a layer")
    layers: list[nn.Module] = []
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
    return copy.deepcopy(_unwrapped(module)).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move the target towards the online network: each parameter becomes momentum * its own + (1 - momentum) * theirs.

    Buffers stay the target's own, as in BYOL's published code: in training mode its batch norms normalise by the batch
    and keep statistics of what they see themselves, which fit the target's weights better than the online network's do.
    """
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


def _unwrapped(module: nn.Module) -> nn.Module:
    """Without the wrapper that `prepare` puts on under `torchrun`."""
    return module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module


def byol_momentum(progress: float, base: float = 0.996) -> float:
    """Momentum of BYOL's target (Grill et al. 2020): from base to 1 by half a cosine; progress from 0 to 1.

    A run of a few hundred steps wants a lower base: with 0.996 the target needs about 250 steps to follow.
    """
    return 1 - (1 - base) * (math.cos(math.pi * progress) + 1) / 2


def rebuild(settings: Mapping[str, Any]) -> nn.Module:
    """The untrained `Classifier` that `Run.save_model(model, **settings)` described, for its weights to be loaded into.

    settings: encoder (a name as `encoder` takes it), channels, image_size, num_classes; and where they apply head
    (None: a linear layer; else `mlp_head`'s {"sizes": [...], "dropout": [...]}), input_size, and imagenet_stem (True
    for an encoder that began with pretrained weights: its first layers are theirs; nothing is fetched). Mean and
    standard deviation are among the weights. For the encoder of a `ConvAutoencoder`, encoder is "conv_autoencoder" and
    autoencoder its settings, as `ConvAutoencoder.settings` holds them.
    Raises ValueError for a setting that is missing or unknown.

    Example:
        settings = {"encoder": "resnet8", "channels": 3, "image_size": 48, "num_classes": 8, "head": None}
        model = rebuild(settings)
        model.load_state_dict(safetensors.torch.load_file("model.safetensors"))
    """
    needed = ("encoder", "channels", "image_size", "num_classes")
    optional = ("head", "input_size", "imagenet_stem", "autoencoder")
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
    return Classifier(Resized(body, side) if side else body, classes, layers)


def count_parameters(module: nn.Module, trainable: bool = True) -> int:
    """Number of parameters; only trainable ones unless `trainable=False`. Buffers never count."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
