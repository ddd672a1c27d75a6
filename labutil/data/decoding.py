"""Image files: what each holds, and decoding a whole set of them alike, with Pillow."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from labutil.data import store
from labutil.data.sources import File
from labutil.paths import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_MIN_SIDE, _MAX_SIDE, _MAX_DEFAULT = 8, 1024, 224
_ORIENTATION = 0x0112  # EXIF tag
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second


class _Look(NamedTuple):
    """What reading a file found out."""

    digest: bytes
    size: tuple[int, int]  # (width, height) as shown
    gray: bool  # stored without colour
    deep: int | None  # greatest value of an image of one channel that may exceed 255
    colour: int | None  # greatest upper byte of one that has colours of 16 bits
    pages: int


def scan(files: Sequence[File]) -> dict:
    """Read every file once: `{"content": hash, "size": (H, W), "channels": 1 or 3, "bits": 8 to 16, "notes": [...]}`:
    the size to store if none is asked for, and as many bits as the gray values of images with more than 8 need.

    Raises DataError where a file is no image, or one whose values cannot be shown by 0 to 255.
    """
    looks = []
    with store.progress(len(files), "reading", "file") as bar:
        for look in store.in_threads(_look, files):
            looks.append(look)
            bar.update()
    deep = [look.deep for look in looks if look.deep is not None]
    bits = max(8, max(deep, default=0).bit_length())
    notes = []
    if deep and bits < 16:
        notes.append(
            f"{len(deep):,} of {len(files):,} images have 16 or 32 bits, but values up to {max(deep)} only: "
            f"0 to {2**bits - 1} become black to white"
        )
    if stacks := [look.pages for look in looks if look.pages > 1]:
        notes.append(
            f"{len(stacks):,} of {len(files):,} files hold several pages or pictures: the first of each is used, the "
            f"other {sum(stacks) - len(stacks):,} are left out; save those as files of their own to use them"
        )
    coloured = {file.path: look.colour for file, look in zip(files, looks, strict=True) if look.colour is not None}
    if coloured and (used := max(coloured.values()).bit_length()) < 8:
        raise DataError(
            f"{next(iter(coloured))} and {len(coloured) - 1} more have 16-bit colours that use {8 + used} bits, and "
            f"would be dark: scale the values to 0 to 255, and save them with 8 bits a channel"
        )
    width, height = _default_size([look.size for look in looks])
    content = store.combine(zip(files, (look.digest for look in looks), strict=True))
    channels = 1 if all(look.gray for look in looks) else 3
    return {"content": content, "size": (height, width), "channels": channels, "bits": bits, "notes": notes}


def _default_size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The common (width, height) if there is one; else a square of the median shorter side, 8 to 224."""
    if len(set(sizes)) == 1 and all(_MIN_SIDE <= side <= _MAX_SIDE for side in sizes[0]):
        return sizes[0]
    side = int(np.clip(np.median([min(size) for size in sizes]), _MIN_SIDE, _MAX_DEFAULT))
    return side, side


def _look(file: File) -> _Look:
    with _opened(file) as (data, image):
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) >= 5  # 5 to 8 lie on their side
        # the other pictures of photographs (MPO) and of layered files are previews and parts, not images
        pages = image.n_frames if image.format in {"TIFF", "GIF", "WEBP", "PNG"} else 1
        deep = colour = None
        if image.mode == "F":
            raise DataError(f"{file.path} has floating-point values: convert it to 8 or 16 bits a channel")
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() < 0 or values.max() > 65535:
                reach = f"values from {values.min()} to {values.max()}"
                raise DataError(f"{file.path} has {reach}: convert it to 8 or 16 bits a channel, from 0 upwards")
            deep = int(values.max())
        elif _has_wide_colour(data, image):
            colour = int(np.asarray(image.convert("RGB")).max())
        if image.mode in {"P", "PA"}:
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
            gray = bool((palette == palette[:, :1]).all())
        else:
            gray = image.mode in {"1", "L", "LA", "La"} or deep is not None
        size = (height, width) if turned else (width, height)
        return _Look(hashlib.sha256(data).digest(), size, gray, deep, colour, pages)


def _has_wide_colour(data: bytes, image: Image) -> bool:
    """Whether channels have 16 bits, of which Pillow keeps the upper 8."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (8,))) > 8
    return image.format == "PNG" and data[24] > 8


def decode(files: Sequence[File], height: int, width: int, channels: int, bits: int = 16) -> Iterator[np.ndarray]:
    """All images, in chunks uint8 (n, C, H, W).

    An image of another size is cut to the target's proportions around its centre and scaled, antialiased. EXIF
    rotation is applied, transparent parts become white, of an animation or several pages the first is taken. Gray
    values of more than 8 bits count from 0 to 2 ** `bits` - 1, of which the upper 8 bits are kept.

    Raises DataError where a file cannot be decoded.
    """
    length = store.chunk_length((channels, height, width))
    images = store.in_threads(lambda file: _decode(file, height, width, channels, bits), files)
    while chunk := list(islice(images, length)):
        yield np.stack(chunk).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def _decode(file: File, height: int, width: int, channels: int, bits: int) -> np.ndarray:
    from PIL import Image, ImageOps

    with _opened(file) as (_, stored):
        image = stored
        if width == height and min(image.size) >= 4 * width:
            # a JPEG gives a half, quarter or eighth of its size for less work; twice the target loses nothing seen
            scale = min(image.size) / (2 * width)
            image.draft(None, (int(image.size[0] / scale), int(image.size[1] / scale)))
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            # Pillow inverts 8 bits by itself, but not 16
            inverted = getattr(stored, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            image = _to_eight_bits(image, bits, inverted)
        if "transparency" in image.info or image.mode in {"LA", "PA", "RGBA"}:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            scale = min(image.size[0] / width, image.size[1] / height)
            cut_width, cut_height = round(width * scale), round(height * scale)
            left, top = (image.size[0] - cut_width) // 2, (image.size[1] - cut_height) // 2
            image = image.crop((left, top, left + cut_width, top + cut_height))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _to_eight_bits(image: Image, bits: int, inverted: bool) -> Image:
    from PIL import Image

    values = np.asarray(image)
    shown = (values >> (bits - 8)).astype(np.uint8)
    if inverted:
        shown = 255 - shown
    if (clear := image.info.get("transparency")) is not None:
        shown[values == clear] = 255
    return Image.fromarray(shown)


@contextmanager
def _opened(file: File) -> Iterator[tuple[bytes, Image]]:
    """The bytes of a file and its image, not yet decoded; whatever goes wrong with it names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open(file.path, "rb") as handle:
            data = handle.read()
        with Image.open(io.BytesIO(data)) as image:
            yield data, image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{file.path} is not an image that Pillow can read: repair it, or move it out of the folder"
        ) from error
    except Exception as error:  # Pillow's readers raise nearly every kind on damaged files
        raise DataError(
            f"{file.path} cannot be decoded ({error}): repair or convert it, or move it out of the folder"
        ) from error
