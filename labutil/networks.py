"""The networks themselves: BasicCNN, residual networks with a stem that fits the image size, and any of timm's.

`models` builds encoders and classifiers from them. Each normalises its own input, images in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.paths import check_choice, did_you_mean

HALVINGS = ("pool", "stride")
BATCH_NORMS = ("conv", "pool", "none")


class ConvAutoencoder(nn.Module):
    """x -> h = encode(x) -> decode(h), which has the size of x.

    The encoder repeats (convolution, batch norm, ReLU, halving, dropout) once for each entry of `filters`; the decoder
    mirrors it with doublings, and one more convolution makes the image. It ends in logits: their sigmoid is the
    image, and from logits `reconstruction_loss` does not overflow.

    channels: of the image. filters: output channels of each layer, the first layer first.
    image_size: pixels a side, or (height, width), any. kernel_size: odd.
    dropout: probability that a value of the maps is dropped, after each halving and doubling.
    batch_norm: "conv" (between convolution and ReLU), "pool" (after halving and doubling), or "none".
    halving: "pool" (2x2 max pool; back by repeating pixels) or "stride" (convolutions of stride 2; back by transposed
        ones, which have as many parameters). Odd sides round up, so no pixel is left out, and come back exactly.
    code_size: None, and the representation is the last maps, flattened; or the number of values in a code that one
        linear layer makes of them, and one linear layer turns back.

    `encoder` alone goes under a classifier: h (N, `num_features`).
    Raises ValueError for a setting that cannot be.

    Example:
        model = ConvAutoencoder(channels=1, filters=(128, 256))  # 1,184,257 parameters, report E's
        h = model.encode(x)                                      # (N, 12544) for 28x28 images
        x_hat = model(x)                                         # (N, 1, 28, 28) in [0, 1]
    """

    def __init__(
        self,
        channels: int = 1,
        filters: Sequence[int] = (128, 256),
        image_size: int | Sequence[int] = 28,
        kernel_size: int = 3,
        dropout: float = 0.2,
        batch_norm: str = "conv",
        halving: str = "pool",
        code_size: int | None = None,
    ) -> None:
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        made = _Settings(channels, list(filters), list(sides), kernel_size, dropout, batch_norm, halving, code_size)
        self.settings: dict[str, Any] = dataclasses.asdict(made)
        self.encoder = _Encoder(made)
        self.decoder = _Decoder(made)
        self.num_features = self.encoder.num_features

    def encode(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> representation h (N, num_features)."""
        return self.encoder(x)

    def decode(self, h: Tensor) -> Tensor:
        """h (N, num_features) -> logits (N, C, H, W), float32; their sigmoid is the image."""
        return self.decoder(h)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> its reconstruction (N, C, H, W) in [0, 1]."""
        return self.decode(self.encode(x)).sigmoid()


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What `ConvAutoencoder` was asked for, checked; image_size is [height, width]."""

    channels: int
    filters: list[int]
    image_size: list[int]
    kernel_size: int
    dropout: float
    batch_norm: str
    halving: str
    code_size: int | None

    def __post_init__(self) -> None:
        filters, side = self.filters, min(self.image_size)
        check_choice("batch_norm", self.batch_norm, BATCH_NORMS)
        check_choice("halving", self.halving, HALVINGS)
        if not filters or min(filters) < 1:
            raise ValueError(f"filters={filters} must hold at least one number, each at least 1")
        if 2 ** (len(filters) - 1) >= side:
            raise ValueError(f"filters={filters}: {len(filters)} layers halve a side of {side} pixels too often")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd, so that a convolution has a middle")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.code_size is not None and self.code_size < 1:
            raise ValueError(f"code_size={self.code_size} must be at least 1, or None")
        if self.channels < 1:
            raise ValueError(f"channels={self.channels} must be at least 1")

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the image and after each halving; odd sides round up."""
        height, width = self.image_size
        return [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(self.filters) + 1)]

    def block(self, convolution: nn.Module, resize: list[nn.Module]) -> list[nn.Module]:
        """Convolution, ReLU and what changes the size, with batch norm where it belongs, then dropout."""
        channels = convolution.out_channels
        after_conv = [nn.BatchNorm2d(channels)] if self.batch_norm == "conv" else []
        after_pool = [nn.BatchNorm2d(channels)] if self.batch_norm == "pool" else []
        last = [nn.Dropout(self.dropout)] if self.dropout else []
        return [convolution, *after_conv, nn.ReLU(inplace=True), *resize, *after_pool, *last]


class _Encoder(nn.Module):
    """Images -> representations (N, num_features)."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__()
        filters, kernel_size = settings.filters, settings.kernel_size
        strided = settings.halving == "stride"
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise([settings.channels, *filters]):
            convolution = nn.Conv2d(c_in, c_out, kernel_size, 2 if strided else 1, kernel_size // 2)
            layers += settings.block(convolution, [] if strided else [nn.MaxPool2d(2, ceil_mode=True)])
        self.layers = nn.Sequential(*layers)
        height, width = settings.sizes()[-1]
        maps = filters[-1] * height * width
        self.num_features = settings.code_size or maps
        self.code = nn.Linear(maps, settings.code_size) if settings.code_size else nn.Identity()

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last maps (N, filters[-1], h, w)."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self.feature_maps(x).flatten(1))


class _Decoder(nn.Module):
    """Representations (N, num_features) -> logits of images."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__()
        filters, kernel_size = settings.filters, settings.kernel_size
        sizes, padding = settings.sizes(), kernel_size // 2
        height, width = sizes[-1]
        maps = filters[-1] * height * width
        self.code = nn.Linear(settings.code_size, maps) if settings.code_size else nn.Identity()
        self.unflatten = nn.Unflatten(1, (filters[-1], height, width))
        layers: list[nn.Module] = []
        # Each layer's channels are those that the encoder had at the same place: 256 -> 256, then 256 -> 128.
        backwards = [filters[-1], *reversed(filters)]
        for (c_in, c_out), size in zip(pairwise(backwards), sizes[-2::-1], strict=True):
            if settings.halving == "stride":
                missing = [1 - side % 2 for side in size]  # m pixels become 2m - 1, and an even side is 2m
                convolution = nn.ConvTranspose2d(c_in, c_out, kernel_size, 2, padding, missing)
                layers += settings.block(convolution, [])
            else:
                convolution = nn.Conv2d(c_in, c_out, kernel_size, padding=padding)
                layers += settings.block(convolution, [nn.Upsample(size)])
        self.layers = nn.Sequential(*layers, nn.Conv2d(filters[0], settings.channels, kernel_size, padding=padding))

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(self.unflatten(self.code(h))).float()


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

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last block's maps (N, 4 * width, H // 8, W // 8)."""
        return self.blocks(self.normalize(x))

    def features(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> representation h (N, hidden)."""
        return F.relu(self.fc1(self.pool(self.feature_maps(x)).flatten(1)))

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


class TimmEncoder(nn.Module):
    """Any of timm's networks without its classifier; ValueError, with the nearest name, for one that it lacks."""

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
        return self.body.forward_head(self.feature_maps(x))


def stem_stride(image_size: int) -> int:
    """How much a ResNet's first layers may shrink an image of this size: 1, 2 or 4."""
    if image_size <= 40:
        return 1
    return 2 if image_size <= 112 else 4
