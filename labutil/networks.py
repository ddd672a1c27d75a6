"""The networks, from images in [0, 1]; `models` builds encoders and classifiers of them."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import encoders
from labutil.paths import check_choice, check_number, did_you_mean


class Normalize(nn.Module):
    """(x - mean) / std per channel, of images in [0, 1]. Inside the model, whose file then holds all that it needs."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        std = [s if s > 0 else 1.0 for s in std]  # a constant channel (all black, say) has nothing to scale
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Dropout(nn.Dropout):
    """torch's dropout, with a mask that is cheap to draw on a CPU.

    There torch draws a number for each value, one after the other: a third of a small autoencoder's step. Here 64
    random bits are for four values, each dropped when its 16 bits, read as a number, lie below p * 65,536 (rounded).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        seed = int(torch.randint(2**63 - 1, ()))  # from torch's own state, which checkpoints hold
        bits = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)
        dropped = min(round(self.p * 2**16), 2**16 - 1)
        kept = torch.from_numpy(bits)[: x.numel()] >= dropped - 2**15
        mask = kept.to(x.dtype).mul_(2**16 / (2**16 - dropped))
        return x * mask.as_strided(x.shape, torch.empty_like(x).stride())  # laid out in memory as x is


class BasicCNN(nn.Module):
    """Three blocks of (3x3 convolution, batch norm, 2x2 max pool, ReLU), then two fully connected layers.

    Pooling before ReLU gives the same values and gradients as after it, and leaves ReLU a quarter of the pixels.
    image_size: pixels a side, or (height, width), at least 8; the last maps of larger images are averaged to about 4x4.
    num_classes=0 leaves out the second fully connected layer: the model returns representations (N, 256).
    """

    def __init__(
        self,
        num_classes: int = 10,
        channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        sides = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(sides) < 8:
            raise ValueError(f"image_size={image_size}: three max pools need at least 8 pixels")
        self.num_features = 256
        rows, columns = (side // 8 for side in sides)
        # Whole windows: not every device has adaptive pooling to any size.
        window = max(1, round(min(rows, columns) / 4))
        self.normalize = Normalize(mean or [0.5] * channels, std or [0.25] * channels)
        layers = []
        for c_in, c_out in pairwise([channels, 32, 64, 128]):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)]
            layers += [nn.MaxPool2d(2), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(window) if window > 1 else nn.Identity()
        self.fc1 = nn.Linear(128 * (rows // window) * (columns // window), 256)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(256, num_classes) if num_classes else nn.Identity()

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last block's maps (N, 128, H // 8, W // 8)."""
        return self.blocks(self.normalize(x))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.feature_maps(x)).flatten(1)
        if pooled.shape[1] != self.fc1.in_features:
            raise ValueError(f"basic_cnn was made for images of another size than {x.shape[2]} x {x.shape[3]} pixels")
        return self.fc2(self.dropout(F.relu(self.fc1(pooled))))


RESNETS = {  # name: (block, blocks per stage, channels per stage)
    "resnet8": ("basic", (1, 1, 1), (32, 64, 128)),
    "resnet18": ("basic", (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": ("basic", (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": ("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512)),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input, or to what `shortcut` makes of it.

    As torchvision's, with its names, but at hand: importing torchvision takes every process two seconds.
    """

    expansion = 1

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        change = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        change += x if self.downsample is None else self.downsample(x)
        return self.relu(change)


class ResNet(nn.Module):
    """Residual network (He et al. 2016, arXiv:1512.03385) of blocks as torchvision's, without its classifier.

    Layers carry torchvision's names, so its ImageNet weights load as they are (with side=224 and 3 channels).
    name: of `RESNETS`. side: of the images; up to 112 pixels they get a 3x3 convolution (of stride 2 above 40) instead
    of the original 7x7 and max pool, so that the last stage sees 3x3 positions or more.
    """

    def __init__(self, name: str, channels: int, side: int, normalize: Normalize) -> None:
        super().__init__()
        kind, blocks, widths = RESNETS[name]
        make = BasicBlock
        if kind == "bottleneck":
            from torchvision.models.resnet import Bottleneck as make
        self.normalize = normalize
        original, stride = side > 112, 1 if side <= 40 else 2
        kernel = 7 if original else 3
        self.conv1 = nn.Conv2d(channels, widths[0], kernel, stride, kernel // 2, bias=False)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if original else nn.Identity()
        self.bn1 = nn.BatchNorm2d(widths[0])
        previous, self.stages = widths[0], len(blocks)
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = nn.Sequential()
            for j in range(count):
                stride, out = 2 if i > 1 and j == 0 else 1, width * make.expansion
                shortcut = None
                if stride > 1 or previous != out:
                    shortcut = nn.Sequential(nn.Conv2d(previous, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                stage.append(make(previous, width, stride, shortcut))
                previous = out
            self.add_module(f"layer{i}", stage)
        self.num_features = previous
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last stage's maps (N, num_features, h, w)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(self.normalize(x))), inplace=True))
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_maps(x).mean((2, 3))


class TimmEncoder(nn.Module):
    """Any of timm's networks without its classifier; ValueError, with the nearest name, for one that it lacks."""

    def __init__(self, name: str, channels: int, normalize: Normalize) -> None:
        super().__init__()
        import timm

        if name not in timm.list_models():
            ours = ["basic_cnn", *RESNETS, *encoders.NAMES]
            hint = did_you_mean(name, [*ours, *timm.list_models()])
            raise ValueError(f"encoder={name!r}{hint} is none of {', '.join(ours)}, nor a timm model")
        self.body = timm.create_model(name, in_chans=channels, num_classes=0)
        self.num_features = getattr(self.body, "head_hidden_size", self.body.num_features)
        self.normalize = normalize

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last maps before pooling (N, D, h, w)."""
        try:
            return self.body.forward_features(self.normalize(x))
        except AssertionError as error:  # a transformer's patches
            size, name = " x ".join(map(str, x.shape[2:])), self.body.default_cfg["architecture"]
            raise ValueError(f"encoder={name!r} does not take images of {size} pixels: {error}") from error

    def forward(self, x: Tensor) -> Tensor:
        return self.body.forward_head(self.feature_maps(x))


class Resized(nn.Module):
    """An encoder that first scales images to `side` pixels a side (bicubic), as a pretrained one expects them.
    channels: 3 for one that needs them, of gray images too."""

    def __init__(self, encoder: nn.Module, side: int, channels: int = 1) -> None:
        super().__init__()
        self.encoder, self.side, self.num_features, self.channels = encoder, side, encoder.num_features, channels

    def resize(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> (N, C or 3, side, side)."""
        if x.shape[1] < self.channels:
            x = x.expand(-1, self.channels, -1, -1)
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
    """An encoder whose representation is the mean of those of the image and of its mirror image."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.num_features = encoder, encoder.num_features
        self.settings = getattr(encoder, "settings", {}) and encoder.settings | {"mirror": True}

    def forward(self, x: Tensor) -> Tensor:
        return (self.encoder(x) + self.encoder(x.flip(3))) / 2


def network_of(encoder: nn.Module) -> tuple[str, nn.Module, nn.Module]:
    """The network inside an encoder, past scaling and mirroring: the path of what others published of it ("encoder."),
    the network, which normalises, and what others published, whose layers have its publisher's names."""
    path = ""
    while isinstance(encoder, Mirrored | Resized):
        encoder, path = encoder.encoder, f"{path}encoder."
    return (f"{path}body.", encoder, encoder.body) if isinstance(encoder, TimmEncoder) else (path, encoder, encoder)


HALVINGS = ("pool", "stride")
BATCH_NORMS = ("conv", "pool", "none")


class ConvAutoencoder(nn.Module):
    """x -> h = encode(x) -> decode(h), logits of the size of x; their sigmoid is the image.

    The encoder repeats (convolution, batch norm, halving, ReLU, dropout) once for each entry of `filters`; the decoder
    mirrors it with doublings, which follow ReLU, and one more convolution makes the image. (Max pooling before ReLU
    gives the same as after it, see `BasicCNN`.)

    filters: output channels of each layer, the first layer first. image_size: pixels a side, or (height, width), any.
    kernel_size: odd. dropout: probability that a value of the maps is dropped, after each halving and doubling.
    batch_norm: "conv" (between convolution and ReLU), "pool" (after halving and doubling), or "none".
    halving: "pool" (2x2 max pool; back by repeating pixels) or "stride" (convolutions of stride 2; back by transposed
        ones, which have as many parameters). Odd sides round up, so no pixel is left out, and come back exactly.
    code_size: None, and the representation is the last maps, flattened; or the number of values in a code that one
        linear layer makes of them, and one linear layer turns back.
    `encoder` alone goes under a classifier. Raises ValueError for a setting that cannot be.

    Example:
        model = ConvAutoencoder(channels=1, filters=(128, 256))  # 1,184,257 parameters, report E's
        h = model.encode(x)                                      # (N, 12544) for 28x28 images
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
        filters, sides = list(filters), [image_size] * 2 if isinstance(image_size, int) else list(image_size)
        self.settings: dict[str, Any] = {
            "channels": channels, "filters": filters, "image_size": sides, "kernel_size": kernel_size,
            "dropout": dropout, "batch_norm": batch_norm, "halving": halving, "code_size": code_size,
        }  # fmt: skip
        _check(self.settings)
        # (height, width) of the image and after each halving; odd sides round up
        sizes = [tuple(-(-side // 2**i) for side in sides) for i in range(len(filters) + 1)]
        maps, pool, padding = (filters[-1], *sizes[-1]), halving == "pool", kernel_size // 2

        def block(convolution: nn.Module, halve: Sequence[nn.Module] = (), double: Sequence[nn.Module] = ()) -> list:
            norm = [nn.BatchNorm2d(convolution.out_channels)] if batch_norm != "none" else []
            early, late = (norm, []) if batch_norm == "conv" else ([], norm)
            drop = [Dropout(dropout)] if dropout else []
            return [convolution, *early, *halve, nn.ReLU(inplace=True), *double, *late, *drop]

        layers: list[nn.Module] = []
        for c_in, c_out in pairwise([channels, *filters]):
            convolution = nn.Conv2d(c_in, c_out, kernel_size, 1 if pool else 2, padding)
            layers += block(convolution, halve=[nn.MaxPool2d(2, ceil_mode=True)] if pool else [])
        code = nn.Linear(math.prod(maps), code_size) if code_size else nn.Identity()
        self.encoder = _Encoder(OrderedDict(layers=nn.Sequential(*layers), code=code))
        self.num_features = self.encoder.num_features = code_size or math.prod(maps)
        shape = {"channels": channels, "image_size": sides}
        self.encoder.settings = {"encoder": "conv_autoencoder", **shape, "autoencoder": self.settings}
        code = nn.Linear(code_size, math.prod(maps)) if code_size else nn.Identity()
        layers = []
        # Each layer's channels are those that the encoder had at the same place: 256 -> 256, then 256 -> 128.
        for (c_in, c_out), size in zip(pairwise([filters[-1], *reversed(filters)]), sizes[-2::-1], strict=True):
            if pool:
                convolution = nn.Conv2d(c_in, c_out, kernel_size, padding=padding)
                layers += block(convolution, double=[nn.Upsample(size)])
            else:
                missing = [1 - side % 2 for side in size]  # m pixels become 2m - 1, and an even side is 2m
                layers += block(nn.ConvTranspose2d(c_in, c_out, kernel_size, 2, padding, missing))
        layers.append(nn.Conv2d(filters[0], channels, kernel_size, padding=padding))
        self.decoder = _Decoder(OrderedDict(code=code, unflatten=nn.Unflatten(1, maps), layers=nn.Sequential(*layers)))

    def encode(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> representation h (N, num_features)."""
        return self.encoder(x)

    def decode(self, h: Tensor) -> Tensor:
        """h (N, num_features) -> logits (N, C, H, W), float32; their sigmoid is the image."""
        return self.decoder(h)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) -> its reconstruction (N, C, H, W) in [0, 1]."""
        return self.decode(self.encode(x)).sigmoid()


def _check(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of an autoencoder that cannot be."""
    s, filters, side = settings, settings["filters"], min(settings["image_size"])
    check_choice("batch_norm", s["batch_norm"], BATCH_NORMS)
    check_choice("halving", s["halving"], HALVINGS)
    if not filters or min(filters) < 1:
        raise ValueError(f"filters={filters} must hold at least one number, each at least 1")
    if 2 ** (len(filters) - 1) >= side:
        raise ValueError(f"filters={filters}: {len(filters)} layers halve a side of {side} pixels too often")
    if s["kernel_size"] < 1 or s["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size={s['kernel_size']} must be odd, so that a convolution has a middle")
    if not 0 <= s["dropout"] < 1:
        raise ValueError(f"dropout={s['dropout']} must be at least 0 and below 1")
    for key in ("code_size", "channels"):
        if s[key] is not None:
            check_number(key, s[key], 1, whole=True)


class _Encoder(nn.Sequential):
    """Images -> representations (N, num_features): the maps of some layers, flattened, or a code made of them."""

    def feature_maps(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in [0, 1] -> the last maps (N, filters[-1], h, w)."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self.layers(x).flatten(1))


class _Decoder(nn.Sequential):
    """Representations (N, num_features) -> logits of images, float32 under autocast too, float64 of float64."""

    def forward(self, h: Tensor) -> Tensor:
        logits = super().forward(h)
        return logits if logits.dtype == torch.float64 else logits.float()
