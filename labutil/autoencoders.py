"""The convolutional autoencoder: an encoder that halves and a decoder that mirrors it, its losses, its file.

Images are float (N, C, H, W) in [0, 1] and enter as they are: batch norm after the first convolution does what
normalisation would, and zero, which is what convolutions pad with, stays the black of a digit's background.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import paths
from labutil.device import evaluation_mode
from labutil.messages import check_choice
from labutil.paths import DataError

if TYPE_CHECKING:
    import pandas as pd

HALVINGS = ("pool", "stride")
BATCH_NORMS = ("conv", "pool", "none")
LOSSES = ("mse", "bce")


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


def reconstruction_loss(logits: Tensor, x: Tensor, loss: str = "mse", reduction: str = "mean") -> Tensor:
    """How far a reconstruction is from the image: a scalar, the mean over images, channels and pixels; with reduction
    "none" a number for each of them.

    "mse": (p - x)^2, and "bce": -x log p - (1 - x) log(1 - p), both with p = sigmoid(logits). The latter is least,
    though above 0 for a gray pixel, at p = x; it is computed without overflow. Introduced in notebook 06.

    logits, x: float (N, C, H, W), x in [0, 1].

    Example:
        loss = reconstruction_loss(model.decode(model.encode(x)), x, "bce")
    """
    check_choice("loss", loss, LOSSES)
    if loss == "mse":
        return F.mse_loss(logits.sigmoid(), x, reduction=reduction)
    return F.binary_cross_entropy_with_logits(logits, x, reduction=reduction)


class ReconstructionError(nn.Module):
    """x (N, C, H, W) -> the loss of each image (N,), so that `evaluation.predict` can take any number of images.

    Example:
        evaluation.predict(ReconstructionError(model), data.val.images).mean()  # mean squared error
    """

    def __init__(self, model: nn.Module, loss: str = "mse") -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model.decode(self.model.encode(x))
        return reconstruction_loss(logits, x, self.loss, "none").flatten(1).mean(1)


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


def save(model: ConvAutoencoder, path: Path | str) -> None:
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


def load(path: Path | str, *, channels: int | None = None, size: tuple[int, int] | None = None) -> ConvAutoencoder:
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
