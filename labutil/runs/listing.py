"""The images of a source, or of one of its parts, in the source's own order and with names: what to predict.

`load_dataset` divides images and keeps them; this only reads them once. It refuses less: labels and class folders may
be missing, or others than a model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from labutil.data import decoding, folders, loading, published, splits, store
from labutil.data.sources import File, Source, files, stat_file
from labutil.paths import DataError


@dataclass(frozen=True, eq=False)
class Listing:
    """Images in order, not yet decoded or scaled: files, or arrays uint8 (N, C, H, W) with the rows to take of each."""

    source: Source
    part: str  # train, val, test, or all
    names: list[str]  # a file's path inside its folder, or as `test_images[17]`
    labels: list[str]  # names of classes; "": none
    files: list[File]
    arrays: list[tuple[np.ndarray, np.ndarray]]


def list_images(source: Source, part: str | None, data_seed: int, val_fraction: float) -> Listing:
    """The images of a source.

    Args:
        source: as `sources.parse` gives it, or of the kind "image", with one file.
        part: train, val or test: as the source brings it, else drawn as `load_dataset` draws it; "all"; None: "test"
            where the source brings one, else "all".
        data_seed, val_fraction: as for `load_dataset`, for generated images and for parts that are drawn.

    Raises:
        DataError: images that cannot be used, or a part that is neither there nor can be drawn.
    """
    parts, labels = _read(source, data_seed)
    part = part or ("test" if "test" in parts else "all")
    counts = {name: len(images) for name, images in parts.items()}
    rows = _rows(counts, labels, source.name, part, data_seed, val_fraction)
    taken = [labels[i] for i in rows]
    images = list(parts.values())
    if isinstance(images[0], list):
        chosen = [file for found in images for file in found]
        chosen = [chosen[i] for i in rows]
        return Listing(source, part, [file.name for file in chosen], taken, chosen, [])
    starts = np.cumsum([0, *counts.values()])
    arrays = [(x, rows[(rows >= a) & (rows < a + len(x))] - a) for x, a in zip(images, starts, strict=False)]
    alone = list(parts) == ["train"]
    keys = ["images" if alone else f"{name}_images" for name in parts]
    names = [f"{key}[{i}]" for key, (_, mine) in zip(keys, arrays, strict=True) for i in mine]
    return Listing(source, part, names, taken, [], arrays)


def coloured(listing: Listing) -> bool:
    """Whether any image is stored with colour; of files this reads them all."""
    if listing.files:
        return decoding.scan(listing.files)["channels"] == 3
    return listing.arrays[0][0].shape[1] == 3


def chunks(listing: Listing, height: int, width: int, channels: int) -> Iterator[np.ndarray]:
    """The images, cut and scaled as `load_dataset` does it: uint8 (n, channels, height, width), all in order.

    Gray is repeated for three channels, colour becomes gray for one.

    Raises:
        DataError: a file cannot be decoded, or arrays cannot be scaled to a size that is not square.
    """
    if listing.files:
        bits = decoding.scan(listing.files)["bits"]
        yield from decoding.decode(listing.files, height, width, channels, bits)
    for array, rows in listing.arrays:
        shape = array.shape[1:]
        if height != width and shape[1:] != (height, width):
            sizes = f"{shape[2]}x{shape[1]} pixels, and the model takes {width}x{height}"
            raise DataError(f"{listing.source.name} has images of {sizes}: scale them")
        length = store.chunk_length(shape)
        for i in range(0, len(rows), length):
            block = array[rows[i : i + length]]
            for chunk in [block] if shape[1:] == (height, width) else loading.resize(block, height):
                yield _to_channels(chunk, channels)


# Images (files, or uint8 (N, C, H, W)) by part, in the source's order, and the labels of all, one after another
Parts = tuple[dict[str, list[File]] | dict[str, np.ndarray], list[str]]


def _read(source: Source, data_seed: int) -> Parts:
    if source.kind in {"folder", "image", "tiny_imagenet"}:
        return _read_files(source)
    stored = loading.load_source(source, None, data_seed, lenient=True)
    stops = np.cumsum(list(stored.parts.values()))
    images = dict(zip(stored.parts, np.split(stored.images, stops[:-1]), strict=True))
    return images, [stored.classes[i] if i >= 0 else "" for i in stored.labels]


def _read_files(source: Source) -> Parts:
    if source.kind == "tiny_imagenet":
        root = published.tiny_imagenet_folder()
        plan = folders.plan_tiny_imagenet(root, folders.tiny_imagenet_files(root))
    else:
        path = source.paths[0]
        found = files(source) if source.kind == "folder" else [stat_file(path.name, path)]
        plan = folders.plan_tree(path, found)
    stops = np.cumsum(list(plan.parts.values()))
    files_of = {
        part: plan.files[stop - count : stop] for (part, count), stop in zip(plan.parts.items(), stops, strict=True)
    }
    return files_of, [plan.classes[i] if i >= 0 else "" for i in plan.labels]


def _rows(
    counts: dict[str, int], labels: list[str], name: str, part: str, data_seed: int, val_fraction: float
) -> np.ndarray:
    """Which images make up a part; ascending."""
    stops = np.cumsum(list(counts.values()))
    if part == "all":
        return np.arange(stops[-1])
    if part in counts and (part != "train" or {"val", "test"} <= set(counts)):
        stop = stops[list(counts).index(part)]
        return np.arange(stop - counts[part], stop)
    if "train" not in counts:
        raise DataError(f"{name} has no part {part!r}, only {', '.join(counts)}: give another part")
    # What a source lacks of test and val is taken from train, so train is what they leave.
    return splits.split(np.array(labels), counts, name, val_fraction, data_seed)[part]


def _to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, axis=1)
    red, green, blue = np.moveaxis(images.astype(np.uint32), 1, 0)
    # ITU-R 601, rounded as Pillow rounds it, so that arrays and files come out alike
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[:, None]
