"""Where a classifier looks: Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.device import evaluation_mode, to_float
from labutil.images import check_images


def grad_cam(
    model: nn.Module, images: Tensor, target: Tensor | Sequence[int] | None = None, *, batch_size: int = 64
) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): which places speak for a class.

    The encoder's last maps are added up, each weighted by the mean gradient of the class's logit over its places, and
    negative sums are cut off; with average pooling and a linear head this is CAM (Zhou et al. 2016).

    model: a `models.Classifier` (or `BasicCNN`) whose encoder has `feature_maps` (N, D, h, w), on its device; run in
    evaluation mode and float32. images: uint8 (N, C, H, W). target: the class to explain for each image, int (N,);
    None: the one that the model predicts.

    Returns float32 (N, H, W) in [0, 1] on the CPU, bilinearly scaled to the image. The largest value of each map is 1
    (so maps of two images cannot be compared), or 0 where no place speaks for the class.
    Raises ValueError for a network without such maps (a vision transformer has tokens), images or targets of another
    kind.
    """
    images = check_images("images", images)
    if target is not None:
        target = torch.as_tensor(target)
        if target.shape != (len(images),) or target.is_floating_point():
            raise ValueError(f"target: expected a class for each image, ({len(images)},), got {tuple(target.shape)}")
    network = _inner(model)
    device = next(model.parameters()).device
    found = [torch.zeros(0, *images.shape[2:])]
    with evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            x = to_float(images[start : start + batch_size], device)
            classes = None if target is None else target[start : start + batch_size].to(device)
            parts = zip(*_watched(model, network, x, classes), strict=True)
            heat = [(maps.detach() * g.mean((2, 3), keepdim=True)).sum(1, keepdim=True) for maps, g in parts]
            # of two, the second is of the mirror image, by `models.Mirrored`
            heat = (heat[0] if len(heat) == 1 else heat[0] + heat[1].flip(3)).relu()
            found.append(F.interpolate(heat, x.shape[2:], mode="bilinear", align_corners=False)[:, 0].cpu())
    heat = torch.cat(found)
    largest = heat.amax((1, 2), keepdim=True) if len(heat) else heat
    return heat / torch.where(largest > 0, largest, 1.0)


def last_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What Grad-CAM is made of: the encoder's last maps, and the gradients of the largest logits on them, both float32
    (N, D, h, w) on the CPU. model, images: as `grad_cam` takes them, in one batch."""
    x = to_float(check_images("images", images), next(model.parameters()).device)
    with evaluation_mode(model):
        maps, gradients = _watched(model, _inner(model), x, None)
    return maps[0].detach().cpu(), gradients[0].cpu()


def _inner(model: nn.Module) -> nn.Module:
    """The network whose maps are wanted: inside a classifier, and inside `Mirrored` and `Resized`."""
    network = model
    while isinstance(inner := getattr(network, "encoder", None), nn.Module):
        network = inner
    if not hasattr(network, "feature_maps"):
        raise ValueError(f"{type(network).__name__} has no feature_maps: choose an encoder that models.encoder makes")
    return network


def _watched(model: nn.Module, network: nn.Module, x: Tensor, target: Tensor | None) -> tuple[Sequence[Tensor], ...]:
    """The network's maps, each time it is asked for them, and the gradients of the targets' logits on each."""
    kept: list[Tensor] = []
    original = network.feature_maps

    def watched(x: Tensor) -> Tensor:
        with torch.no_grad():  # nothing below the maps needs a gradient
            maps = original(x).float().detach()
        if maps.ndim != 4:
            raise ValueError(f"feature_maps of {type(network).__name__} are {tuple(maps.shape)}, not (N, D, h, w)")
        kept.append(maps.requires_grad_(True))
        return maps.clone()  # what follows may work in place

    network.feature_maps = watched
    try:
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            logits = model(x)
            target = logits.argmax(1) if target is None else target
            if int(target.min()) < 0 or int(target.max()) >= logits.shape[1]:
                raise ValueError(f"target: classes must lie between 0 and {logits.shape[1] - 1}")
            return kept, torch.autograd.grad(logits.gather(1, target[:, None]).sum(), kept)
    finally:
        del network.feature_maps  # the class's own method shows again
