"""Single defective images for `faults`: changed copies, damaged images, and images that belong to no set.

An image is uint8 (C, H, W), C = 1 or 3, of any size; functions return new arrays, and draw from `rng` alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.random import Generator
from PIL import Image, ImageFilter

Shape = tuple[int, int, int]  # channels, height, width
Box = tuple[float, float, float, float]  # left, top, right, bottom
_FOREIGN = ("grace_hopper.jpg", "logo2.png", "Minduka_Present_Blue_Pack.png")  # matplotlib's sample data
_PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # scikit-learn's
_MODES = {1: "L", 3: "RGB"}  # Pillow's, by number of channels


def vary(image: np.ndarray, rng: Generator, *, slightly: bool = False) -> np.ndarray:
    """A copy that a person would call the same picture, never of the same bytes, changed in one to three ways.

    In any order: shifted by up to 8% of a side, zoomed by 0.85 to 1.2 or sampled down and up again, compressed as JPEG
    of quality 20 to 70, lighter or darker or of other contrast by up to 20%, flipped, noisy. `slightly`: shift, light
    and compression only, and of about 40% that strength.
    """
    changes = (_shift, _tone, _jpeg) if slightly else (_shift, _tone, _jpeg, _rescale, _flip, _add_noise)
    strength = 0.4 if slightly else 1.0
    changed = image
    for i in rng.permutation(len(changes))[: rng.integers(1, 4)]:
        changed = changes[i](changed, rng, strength)
    while np.array_equal(changed, image):  # a symmetric image flipped, an even one shifted
        changed = _add_noise(image, rng, strength)
    return changed


def _shift(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    _, height, width = image.shape
    y, x = (rng.uniform(-1, 1) * max(1, 0.08 * strength * side) for side in (height, width))
    if rng.random() < 0.5:
        y, x = round(y), round(x)
    return _window(image, y, x, height, width, rng)


def _rescale(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    _, height, width = image.shape
    if rng.random() < 0.3:
        factor, method = rng.uniform(0.4, 0.75), int(rng.integers(4))  # Pillow numbers its filters
        small = to_pillow(image).resize((max(5, round(factor * width)), max(5, round(factor * height))), method)
        return _resize(small, height, width, method=int(rng.choice([2, 3])))
    zoom = rng.uniform(0.85, 0.95) if rng.random() < 0.5 else rng.uniform(1.05, 1.2)
    h, w = height / zoom, width / zoom
    return _window(image, (height - h) / 2, (width - w) / 2, h, w, rng)


def _jpeg(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=int(rng.integers(20, 71) if strength == 1 else rng.integers(60, 91)))
    return _to_array(Image.open(file))


def _tone(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    brightness, contrast = 1 + strength * rng.choice([-1, 1], 2) * rng.uniform([0.07, 0], 0.2)
    middle = image.mean()
    return _to_uint8((image - middle) * contrast + middle * brightness)


def _flip(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    return np.flip(image, int(rng.integers(1, 3)))


def _add_noise(image: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    return _to_uint8(image + rng.normal(0, rng.uniform(2, 8) * strength, image.shape))


def _window(image: np.ndarray, top: float, left: float, height: float, width: float, rng: Generator) -> np.ndarray:
    """A part of an image at the image's size; what lies outside repeats the edge, or mirrors the image."""
    _, y, x = image.shape
    mode = "edge" if rng.random() < 0.5 else "symmetric"
    padded = np.pad(image, ((0, 0), (y // 3 + 2,) * 2, (x // 3 + 2,) * 2), mode)
    top, left = top + y // 3 + 2, left + x // 3 + 2
    return _resize(to_pillow(padded), y, x, (left, top, left + width, top + height))


def blend(picture: np.ndarray, image: np.ndarray, rng: Generator) -> np.ndarray:
    """An image under another picture, which is 35 to 65% of the result."""
    share = rng.uniform(0.35, 0.65)
    return _to_uint8((1 - share) * image + share * picture.astype(float))


def overexpose(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Gain and offset so that all but the darkest 5 to 35% clip to white, and the darkest value is light."""
    least, most = float(image.min()), float(image.max())
    clip = max(np.quantile(image, rng.uniform(0.05, 0.35)), least + 0.15 * (most - least), least + 1)
    darkest = rng.uniform(150, 235)
    return _to_uint8(255 - (clip - image) * (255 - darkest) / (clip - least))


def blur(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Out of focus by about a tenth of a side: a Gaussian, a box twice, or few pixels scaled up; half noisy."""
    _, height, width = image.shape
    kind, radius = rng.integers(3), rng.uniform(0.07, 0.13) * min(height, width)
    pillow = to_pillow(image)
    if kind == 0:
        blurred = _to_array(pillow.filter(ImageFilter.GaussianBlur(radius)))
    elif kind == 1:
        box = ImageFilter.BoxBlur(1.2 * radius)
        blurred = _to_array(pillow.filter(box).filter(box))
    else:
        few = [max(3, round(side / (2.2 * radius))) for side in (width, height)]
        blurred = _resize(pillow.resize(few, 4), height, width, method=3)  # 4: means over boxes, 3: bicubic
    return _add_noise(blurred, rng, 0.3) if rng.random() < 0.5 else blurred


def foreign_picture(shape: Shape, rng: Generator) -> np.ndarray:
    """A square part, 60 to 100% of the shorter side, of a picture that comes with matplotlib."""
    path = Path(matplotlib.get_data_path()) / "sample_data" / str(rng.choice(_FOREIGN))
    picture = Image.open(path).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(_MODES[shape[0]])
    parts = [_resize(picture, *shape[1:], _box(picture, shape, rng.uniform(0.6, 1), rng)) for _ in range(5)]
    return max(parts, key=np.std)  # rather not the white beside a logo


def photographs(count: int, shape: Shape, rng: Generator) -> Iterator[np.ndarray]:
    """Parts, of several scales, of scikit-learn's two photographs, some of them mirrored; they overlap little."""
    from sklearn.datasets import load_sample_image
    from torchvision.ops import box_iou

    pictures = [Image.fromarray(load_sample_image(name)).convert(_MODES[shape[0]]) for name in _PHOTOGRAPHS]
    taken: list[list[Box]] = [[] for _ in pictures]
    for _ in range(count):
        which = int(rng.integers(len(pictures)))
        boxes = [_box(pictures[which], shape, math.exp(rng.uniform(math.log(0.15), 0)), rng) for _ in range(16)]
        if taken[which]:  # those that overlap least come first
            overlaps = box_iou(*(torch.from_numpy(np.array(some)) for some in (boxes, taken[which])))
            boxes = [boxes[i] for i in overlaps.amax(1).argsort(stable=True)]
        for box in boxes:
            part = _resize(pictures[which], *shape[1:], box)
            if part.std((1, 2)).mean() > 20:  # a piece of bare sky would be a blank frame
                break
        taken[which].append(box)
        yield part[..., ::-1] if rng.random() < 0.3 else part


def noise(shape: Shape, rng: Generator) -> np.ndarray:
    """A frame of uniform, Gaussian, coarse or salt-and-pepper noise; one in three of a colour set in gray."""
    channels, height, width = shape
    kind = rng.integers(4)
    if rng.random() < 1 / 3:
        channels = 1
    if kind == 0:
        frame = rng.integers(0, 256, (channels, height, width))
    elif kind == 1:
        frame = rng.normal(rng.uniform(60, 200), rng.uniform(15, 60), (channels, height, width))
    elif kind == 2:
        grain = rng.integers(2, max(3, min(height, width) // 6) + 1)
        few = rng.integers(0, 256, (channels, -(-height // grain), -(-width // grain)), np.uint8)
        frame = _resize(to_pillow(few), height, width, method=int(rng.choice([0, 2, 3])))
    else:
        frame = rng.uniform(0, 255) + 255 * rng.choice([-1, 0, 1], (channels, height, width), p=[0.15, 0.7, 0.15])
    return np.broadcast_to(_to_uint8(frame), shape)


def blanks(count: int, shape: Shape, rng: Generator) -> Iterator[np.ndarray]:
    """Frames of almost one colour, some with a slow gradient or a sensor's noise; no two have the same bytes."""
    seen = set()
    ramp = np.add.outer(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]))
    for _ in range(count):
        low, high = ((0, 6), (15, 50), (90, 170), (240, 255))[rng.integers(4)]
        frame = rng.uniform(low, high) + rng.uniform(-3, 3, (shape[0], 1, 1)) + np.zeros(shape)
        if rng.random() < 0.25:
            frame += rng.uniform(-6, 6) * ramp
        if rng.random() < 0.5:
            frame += rng.normal(0, rng.uniform(0.7, 4), shape)
        while (image := _to_uint8(frame)).tobytes() in seen:
            frame = frame.clip(2, 253) + rng.normal(0, 2, shape)
        seen.add(image.tobytes())
        yield image


def _box(picture: Image.Image, shape: Shape, share: float, rng: Generator) -> Box:
    """A random part of the proportions of `shape`, whose sides are `share` of the longest that fit."""
    _, height, width = shape
    scale = share * min(picture.width / width, picture.height / height)
    left, top = rng.uniform(0, picture.width - scale * width), rng.uniform(0, picture.height - scale * height)
    # the sums of fractions may exceed the picture by a rounding error
    return left, top, min(left + scale * width, picture.width), min(top + scale * height, picture.height)


def to_pillow(image: np.ndarray) -> Image.Image:
    """A picture of uint8 (C, H, W), C 1 or 3."""
    return Image.fromarray(np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)))


def _to_array(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _resize(picture: Image.Image, height: int, width: int, box: Box | None = None, method: int = 2) -> np.ndarray:
    return _to_array(picture.resize((width, height), method, box))  # 2: bilinear


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
