"""Frozen features: what a pretrained network says of each image, computed once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labutil import device, evaluation, models
from labutil.paths import DataError, data_dir, replace_file

DEFAULT = "tf_efficientnet_lite0"  # its weights are installed
FORMAT = 1  # part of every name in the cache: raise it when the features of an image change


def frozen_features(
    images: Tensor | np.ndarray,
    *,
    encoder: str = DEFAULT,
    size: int | None = None,
    weights: str | Path | None = None,
    cache: bool = True,
) -> Tensor:
    """Representations of images by a network that was trained on ImageNet, in evaluation mode.

    Kept under `data/cache/features`, by the images' bytes, the network and the size: the second call reads them.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3; N = 0 is allowed.
        encoder: any name that `models.encoder` has pretrained weights for.
        size: pixels a side to which images are scaled first; None: `feature_size` of theirs. Features of larger
            images are better, and cost in proportion to size squared.
        weights: a file of weights, as `models.encoder` takes it.
        cache: False computes anew and keeps nothing.

    Returns:
        float32 (N, D) on the CPU; D = 1280 for the default.

    Raises:
        ValueError: images of another type or shape, a size below 1, weights that cannot be had.
        DataError: the cache cannot be written.

    Example:
        h = frozen_features(data.train.images)
    """
    images = check_images("images", images)
    size = feature_size(images.shape[2:]) if size is None else int(size)
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")

    def compute() -> Tensor:
        with torch.random.fork_rng(devices=[]):  # a new network draws its first weights, though others replace them
            network = models.encoder(encoder, pretrained=True, weights=weights, input_size=size)
        network = network.to(device.get_device(), memory_format=torch.channels_last)
        return evaluation.predict(network, images, batch_size=batch_size(size))

    if not cache:
        return compute()
    path = data_dir() / "cache" / "features" / f"{_key(images, encoder, size, weights)}.npy"
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError):  # none yet, or one that a full disk cut short
        h = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: _save(temporary, h.numpy()))
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot be written ({error.strerror or error}): make room, or set LABUTIL_DATA to another "
            f"folder"
        ) from error
    return h


def check_images(name: str, images: Tensor | np.ndarray) -> Tensor:
    """`images` as a tensor, uint8 (N, 1 or 3, H, W), or one clear ValueError that calls them `name`."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"{name}: expected uint8 (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` that always answers: in single precision it gives up on many equal eigenvalues, as a
    covariance of fewer images than features has, and then takes twice as long in double."""
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(matrix.double())
        return values.to(matrix.dtype), vectors.to(matrix.dtype)


def feature_size(image_shape: tuple[int, int]) -> int:
    """Pixels a side at which a pretrained network sees images of this height and width: the larger of the two, to the
    nearest multiple of 32, from 96 to 224. Networks trained on ImageNet see small images better when enlarged."""
    return min(224, max(96, 32 * round(max(image_shape) / 32)))


def batch_size(size: int) -> int:
    """Images of `size` pixels a side at once. A CPU is fastest when a layer's maps stay in its cache."""
    if device.get_device().type != "cpu":
        return 512
    return max(8, min(64, (64 * 64 * 64) // size**2 // 8 * 8))


def _key(images: Tensor, encoder: str, size: int, weights: str | Path | None) -> str:
    facts = [FORMAT, encoder, size, tuple(images.shape), device.default_precision()]
    if weights is not None:
        path = Path(weights).expanduser()
        status = path.stat() if path.exists() else None
        facts += [str(path), status and (status.st_size, status.st_mtime_ns)]
    total = hashlib.sha256(repr(facts).encode())
    for chunk in images.split(4096):  # memory-mapped images stay on the disk
        total.update(chunk.contiguous().numpy())
    return total.hexdigest()[:32]


def _save(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would add .npy to the temporary name
        np.save(file, values)
