"""Image files: what each holds, and decoding a whole set of them alike, with Pillow."""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from labutil.data import store
from labutil.data.sources import File
from labutil.device import progress_bar
from labutil.paths import DataError

_LARGEST = 512 << 20  # bytes of a file that `try_each` reads: films lie among photographs
# Pixels to be decoded. Of more than the first two images are never decoded at once, of more than the second none is:
# that many take up to 800 MB. From there on Pillow warns, on a line of its own for each file.
_MANY, _MOST = 8 << 20, 85 << 20
_ALONE = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Look(NamedTuple):
    digest: bytes
    size: tuple[int, int]  # (width, height) as shown
    gray: bool  # stored without colour
    deep: int | None  # greatest value of an image of one channel that may exceed 255
    colour: int | None  # greatest upper byte of one that has colours of 16 bits
    pages: int


def scan(files: Sequence[File]) -> dict:
    """Read every file once: `{"content": hash, "size": (H, W), "channels": 1 or 3, "bits": 8 to 16, "notes": [...],
    "long": number of images at least twice as long as wide}`.

    size: the common one if there is one of 8 to 1024 pixels, else a square of the median shorter side, 8 to 224. bits:
    as many as the gray values of images with more than 8 need.

    Raises DataError where a file is no image, or one whose values cannot be shown by 0 to 255.
    """
    with progress_bar(len(files), "reading", "file") as bar:
        looks: list[Look] = []
        for found in _advised(files, store.in_threads(look, files)):
            looks.append(found)
            bar.update()
    bits, notes = depth(files, looks)
    coloured = {file.path: look.colour for file, look in zip(files, looks, strict=True) if look.colour is not None}
    if coloured and (used := max(coloured.values()).bit_length()) < 8:
        raise DataError(
            f"{next(iter(coloured))} has 16-bit colours that, as in all such files here, use {8 + used} bits: they "
            f"would be dark, so scale the values to 0 to 255 and save them with 8 bits a channel"
        )
    sizes = [look.size for look in looks]
    width, height = sizes[0]
    if len(set(sizes)) > 1 or min(sizes[0]) < 8 or max(sizes[0]) > 1024:
        width = height = int(np.clip(np.median([min(size) for size in sizes]), 8, 224))
    content = store.combine(zip(files, (look.digest for look in looks), strict=True))
    channels = 1 if all(look.gray for look in looks) else 3
    facts = {"content": content, "size": (height, width), "channels": channels, "bits": bits, "notes": notes}
    return facts | {"long": sum(max(size) >= 2 * min(size) for size in sizes)}


def depth(files: Sequence[File], looks: Sequence[Look]) -> tuple[int, list[str]]:
    """How many bits, 8 to 16, the gray values of images with more than 8 need; and what to say of a set, a line each:
    how those are scaled, and that pages are left out."""
    notes, deep = [], [(look.deep, file.name) for file, look in zip(files, looks, strict=True) if look.deep is not None]
    brightest, name = max(deep, default=(0, ""))
    bits, usual = max(8, brightest.bit_length()), sorted(deep)[len(deep) // 2][0] if deep else 0
    if deep and bits < 16:
        notes.append(
            f"{len(deep):,} of {len(files):,} images have 16 or 32 bits, but values up to {brightest} only: "
            f"0 to {2**bits - 1} become black to white"
        )
    if deep and usual.bit_length() <= bits - 2:
        notes.append(
            f"half of the images with 16 or 32 bits have no value above {usual} and come out dark, since {name} has "
            f"{brightest}: scale the images alike, or move it out of the folder"
        )
    if stacks := [look.pages for look in looks if look.pages > 1]:
        notes.append(
            f"{len(stacks):,} of {len(files):,} files hold several pages or pictures: the first of each is used, the "
            f"other {sum(stacks) - len(stacks):,} are left out; save those as files of their own to use them"
        )
    return bits, notes


def try_each(function: Callable[[File], Any], files: Sequence[File]) -> Iterator[Any]:
    """`function(file)` for each file, in order; where it raises DataError, the error itself."""

    def attempt(file: File) -> Any:
        try:
            if file.size > _LARGEST:
                advice = "convert it, or move it out of the folder"
                raise DataError(f"{file.path} has more than {_LARGEST >> 20} MiB: {advice}")
            return function(file)
        except DataError as error:
            return error

    return store.in_threads(attempt, files)


def look(file: File) -> Look:
    """What a file holds. Raises DataError where it is no image, or one whose values cannot be shown by 0 to 255."""
    with _opened(file) as (data, image):
        # those of orientation 5 to 8 lie on their side
        size = image.size[::-1] if image.getexif().get(Base.Orientation, 1) >= 5 else image.size
        gray, deep, colour = image.mode in {"1", "L", "LA", "La"}, None, None
        bits = [data[24]] if image.format == "PNG" else getattr(image, "tag_v2", {}).get(BITSPERSAMPLE, [8])
        if image.mode == "F":
            raise DataError(f"{file.path} has floating-point values: convert it to 8 or 16 bits a channel")
        if image.mode in {"P", "PA"}:
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
            gray = bool((palette == palette[:, :1]).all())
        elif image.mode.startswith("I"):
            with _room_for(file, image):
                (low, deep), gray = map(int, image.getextrema()), True
            if low < 0 or deep > 65535:
                reach = f"values from {low} to {deep}"
                raise DataError(f"{file.path} has {reach}: convert it to 8 or 16 bits a channel, from 0 upwards")
        elif max(bits) > 8:  # channels of 16, of which Pillow keeps the upper 8
            with _room_for(file, image):
                colour = int(max(image.getchannel(band).getextrema()[1] for band in image.getbands() if band != "A"))
        return Look(hashlib.sha256(data).digest(), size, gray, deep, colour, _pages(data, image))


def _pages(data: bytes, image: Image.Image) -> int:
    """How many pages or pictures a file holds; what is damaged after the first does not matter."""
    if image.format in {"PNG", "WEBP"}:  # which say so at the beginning
        return image.n_frames
    if image.format in {"TIFF", "GIF"}:  # opened anew, since counting moves through the file
        with suppress(Exception), Image.open(io.BytesIO(data)) as again:
            return again.n_frames
    return 1  # those of photographs (MPO) and of layered files are previews and parts


def decode(files: Sequence[File], height: int, width: int, channels: int, bits: int) -> Iterator[np.ndarray]:
    """All images, in chunks uint8 (n, C, H, W). Raises DataError where a file cannot be decoded.

    An image of another size is cut to the target's proportions around its centre and scaled, antialiased. EXIF
    rotation is applied, transparent parts become white, of an animation or several pages the first is taken. Gray
    values of more than 8 bits count from 0 to 2 ** `bits` - 1, of which the upper 8 bits are kept.
    """
    length = store.chunk_length((channels, height, width))
    images = _advised(files, store.in_threads(lambda file: decode_file(file, height, width, channels, bits), files))
    while chunk := list(islice(images, length)):
        yield np.stack(chunk).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)


def _advised(files: Sequence[File], results: Iterator[Any]) -> Iterator[Any]:
    """What comes of files, in order; the error of the first bad one of several says how to find the others."""
    try:
        yield from results
    except DataError as error:
        raise DataError(f"{error}{'; labutil clean lists all such files' * (len(files) > 1)}") from error


def decode_file(file: File, height: int, width: int, channels: int, bits: int) -> np.ndarray:
    """One image as `decode` does it: uint8 (H, W) for one channel, else (H, W, 3)."""
    with _opened(file) as (_, image):
        if width == height and min(image.size) >= 4 * width:
            # a JPEG gives a half, quarter or eighth of its size for less work; twice the target loses nothing seen
            scale = min(image.size) / (2 * width)
            image.draft(None, (int(image.size[0] / scale), int(image.size[1] / scale)))
        # Pillow inverts 8 bits by itself, but not 16
        inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC_INTERPRETATION) == 0  # white is zero
        with _room_for(file, image):
            return _prepared(image, height, width, "L" if channels == 1 else "RGB", bits, inverted)


def _prepared(image: Image.Image, height: int, width: int, mode: str, bits: int, inverted: bool) -> np.ndarray:
    if image.getexif().get(Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or "transparency" in image.info or image.mode in {"LA", "PA", "RGBA"}:
        # in strips, since what lies between takes several times as much as the image
        whole, image = image, Image.new(mode, image.size)
        for top in range(0, image.height, 512):
            box = (0, top, image.width, min(top + 512, image.height))
            image.paste(_opaque(whole.crop(box), bits, inverted).convert(mode), box)
        del whole
    elif image.mode != mode:
        image = image.convert(mode)
    if image.size != (width, height):
        scale = min(image.size[0] / width, image.size[1] / height)
        cut_width, cut_height = round(width * scale), round(height * scale)
        left, top = (image.size[0] - cut_width) // 2, (image.size[1] - cut_height) // 2
        image = image.crop((left, top, left + cut_width, top + cut_height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _opaque(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    """With 8 bits a channel, and transparent parts white."""
    if image.mode.startswith("I"):
        values, clear = np.asarray(image), image.info.get("transparency")
        shown = (values >> (bits - 8)).astype(np.uint8)
        shown = 255 - shown if inverted else shown
        return Image.fromarray(shown if clear is None else np.where(values == clear, 255, shown).astype(np.uint8))
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _room_for(file: File, image: Image.Image) -> AbstractContextManager:
    """For the time in which an image is decoded: a large one waits for others. Raises DataError for one too large."""
    pixels = image.width * image.height
    if pixels > _MOST:
        what = f"has {image.width:,} x {image.height:,} pixels, more than {_MOST:,}"
        raise DataError(f"{file.path} {what}: scale it down, or move it out of the folder")
    return _ALONE if pixels > _MANY else nullcontext()


@contextmanager
def _opened(file: File) -> Iterator[tuple[bytes, Image.Image]]:
    """The bytes of a file and its image, not yet decoded; whatever goes wrong with it names the file."""
    try:
        data = Path(file.path).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            yield data, image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        advice = "repair it, or move it out of the folder"
        raise DataError(f"{file.path} is not an image that Pillow can read: {advice}") from error
    except Exception as error:  # Pillow's readers raise nearly every kind on damaged files
        advice = "repair or convert it, or move it out of the folder"
        raise DataError(f"{file.path} cannot be decoded ({error}): {advice}") from error
