"""Perceptual hashes against the library imagehash, which computes one after the other."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
import torch
from PIL import Image

from labutil import cleaning
from labutil.data import cells


def _reference(images: torch.Tensor) -> np.ndarray:
    pillow = [Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()) for image in images]
    return np.stack([imagehash.phash(image).hash.flatten() for image in pillow])


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.from_numpy(cells.generate(40, seed=3)[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_unscaled_pictures_have_the_bits_of_imagehash(pictures, channels):
    images = pictures[:, :channels, 30:62, 20:52]
    noise = torch.randint(0, 256, images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for x in (images, noise):
        bits = cleaning.perceptual_hash(x)
        assert bits.dtype == torch.bool and bits.shape == (40, 64)
        assert np.array_equal(bits.numpy(), _reference(x))


@pytest.mark.parametrize("height, width", [(96, 96), (20, 48)])
def test_scaled_pictures_have_nearly_the_bits_of_imagehash(pictures, height, width):
    x = pictures[:, :, :height, :width]
    differ = (cleaning.perceptual_hash(x).numpy() != _reference(x)).sum(1)
    assert differ.mean() < 1 and differ.max() <= 4


def test_hashes_do_not_depend_on_the_rest_of_the_set(pictures):
    bits = cleaning.perceptual_hash(pictures.repeat(3, 1, 1, 1).numpy())  # more than are hashed at once
    assert torch.equal(bits, cleaning.perceptual_hash(pictures).repeat(3, 1))
    assert cleaning.perceptual_hash(pictures[:0]).shape == (0, 64)
    with pytest.raises(ValueError, match="images: expected uint8"):
        cleaning.perceptual_hash(pictures.float())
