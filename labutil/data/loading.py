"""A name or a path -> train, validation and test images, the same every time: `load_dataset`.

Behind it: `sources` (what a specification means), `published`, `readers`, `folders`, `decoding`, `cells` (the images
themselves), `store` (decoded once, then memory-mapped) and `splits`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labutil.data import cells, decoding, folders, notes, published, readers, splits, store
from labutil.data.groups import of_names
from labutil.data.sources import CELLS_VERSION, GENERATED, Source, files, parse
from labutil.images import Dataset, ImageSet
from labutil.paths import DataError, check_number, did_you_mean, is_number

_SQUARE = "images at least twice as long as wide: {:,}, of which only the square in the middle is kept"


def load_dataset(
    spec: str,
    *,
    image_size: int | None = None,
    val_fraction: float = 0.1,
    subset: int | None = None,
    data_seed: int = 0,
    unlabelled: int = 0,
    groups: str | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    r"""Load a data set by name or path (the table in `labutil.data.sources`), split and ready.

    The first call decodes into `data/cache`; later ones map that into memory. A split that the source brings is used
    as it is and stays memory-mapped. One that it lacks is drawn from the training images, stratified by label: first
    test (a fifth), then validation; every class keeps an image to train on; above a gigabyte it is mapped, too, from a
    second cache. Order within a split is the source's.

    `folder:PATH`: `train/`, `val/`, `test/`, `unlabelled/` where present; in them, or in PATH itself, one folder a
    class; images without class folders have no label. An image of another size is scaled until its shorter side fits,
    and its centre is kept. One channel if all are stored without colour, else three. A line on standard output says
    where gray values of more than 8 bits were scaled, pages left out, or images of test or val are elsewhere too.

    image_size: 8 to 1024, pixels a side of square images. None: the source's own; for a folder the common size if all
    images have one (of 8 to 1024 pixels), else the median of the shorter sides, at most 224. val_fraction: in (0, 1),
    of the images that are not test. subset: keep at most this many training images, stratified and nested (a smaller
    subset is in every larger one), validation in proportion, as many unlabelled, test whole. data_seed: at least 0;
    drives generated images and the splits. unlabelled: so many further generated cells, without labels, as
    `.unlabelled`: none is in any split of any `cells:N`, and `subset` leaves them whole.

    groups: which images belong together (of one slide, one patient), so that no group is in two of train, val and test;
    splits are then stratified as far as whole groups allow. A regular expression, searched in files' names or, if some
    do not match, in their paths below the folder: its first capture group is the group, else all that matched. Or a
    .csv file with columns path and group; path as `labutil predict` names an image: its path below the folder, or
    `test_images[17]` in arrays. None or "": the groups that an .npz itself holds (`readers.read_npz`), if it does.
    Images of unlabelled/ need no group.

    classes: only images of these, in every part, numbered anew in the source's order; each stays in the part where it
    is without this. `.unlabelled` is None then, since its images may be of any class.

    Raises DataError for a parameter out of range, an unknown name, or data that cannot be used: one line that says
    which file, what is wrong and what to do.

    Example:
        data = load_dataset("cells", image_size=32)
        data = load_dataset("folder:smears", groups=r"^(slide\d+)")  # files slide12_004.png, ...
    """
    if not is_number(val_fraction) or not 0 < val_fraction < 1:
        raise DataError(f"val_fraction={val_fraction!r} must be a number between 0 and 1, such as 0.1")
    try:
        check_number("image_size", 8 if image_size is None else image_size, 8, 1024, whole=True)
        check_number("subset", 1 if subset is None else subset, 1, whole=True)
        check_number("data_seed", data_seed, 0, whole=True)
        check_number("unlabelled", unlabelled, 0, whole=True)
    except ValueError as error:
        raise DataError(str(error)) from error
    image_size, data_seed = image_size and int(image_size), int(data_seed)  # numbers of NumPy are no JSON
    source = parse(spec)
    if unlabelled and source.kind not in GENERATED:
        raise DataError(f"unlabelled={unlabelled}: {source.name} is not generated; lay such images into unlabelled/")
    stored = load_source(source, image_size, data_seed)
    rows, fingerprint, members = divide(stored, source.name, val_fraction, data_seed, groups)
    if classes is not None and set(classes) != set(stored.classes):
        if unlabelled:
            raise DataError(f"unlabelled={unlabelled}: such images may be of classes that are left out; set it to 0")
        stored, rows = _of_classes(stored, rows, source.name, classes)
        fingerprint = class_fingerprint(fingerprint, stored.classes)
    for note in notes.of(stored, rows, image_names(stored), grouped=members is not None):
        print(f"note: {note}")
    if subset is not None:
        rows = splits.take_subset(rows, stored.labels, source.name, subset, data_seed)
    own = store.by_split(stored, rows, source.name)
    sets = {"unlabelled": None} | {k: _image_set(stored, index, members, own.get(k)) for k, index in rows.items()}
    if unlabelled:
        size = image_size and (image_size, image_size)
        more = _load_arrays(replace(source, number=int(unlabelled)), size, data_seed, further=True)
        sets["unlabelled"] = _image_set(more, np.arange(unlabelled))
    channels, height, width = stored.images.shape[1:]
    mean, std = mean_std(sets["train"].images, stored.sums[:, rows["train"]])
    return Dataset(
        name=source.name,
        **sets,
        mean=mean,
        std=std,
        fingerprint=fingerprint,
        classes=stored.classes,
        channels=channels,
        image_size=height if height == width else (height, width),
    )


def load_with_others(spec: str, others: str, **options: Any) -> tuple[Dataset, Dataset | None]:
    """A data set, and images of other classes, to ask what an encoder knows of those; None: there are none.

    others: "auto", `cells_unseen` for `cells`, and nothing for other data; "none"; a specification; or "held_out:0.5":
    that share of the classes of `spec` itself, drawn by data_seed, which the first data set then lacks in every part.
    options: of `load_dataset`, for both; but `unlabelled`, and `groups` of other files, for the first alone. Raises
    DataError as `load_dataset`, and where images of the two have different shapes or fewer than two classes are held
    out or stay.

    Example:
        data, other = load_with_others("tiny_imagenet", "held_out:0.5")  # 100 and 100 classes
    """
    kind, _, share = others.partition(":")
    own = {name: value for name, value in options.items() if name != "unlabelled"}
    if others == "auto":  # "cells:600" has "cells_unseen:600" for a relative
        others = spec.replace("cells", "cells_unseen", 1) if f"{spec}:".startswith("cells:") else "none"
    if kind == "held_out":
        source = parse(spec)
        names = load_source(source, options.get("image_size"), options.get("data_seed", 0)).classes
        held = splits.hold_out(names, share, options.get("data_seed", 0), source.name)
        other = replace(load_dataset(spec, **own, classes=held), name=f"{source.name}, classes held out")
        return load_dataset(spec, **options, classes=[name for name in names if name not in held]), other
    data = load_dataset(spec, **options)
    other = None if others == "none" else load_dataset(others, **own | {"groups": None})  # of other files
    if other and other.train.images.shape[1:] != data.train.images.shape[1:]:
        shapes = (" x ".join(map(str, part.train.images.shape[1:])) for part in (other, data))
        raise DataError("{2} has images of {0}, {3} of {1}: give both an image_size".format(*shapes, others, spec))
    return data, other


def _of_classes(
    stored: store.Stored, rows: dict[str, np.ndarray], name: str, classes: Sequence[str]
) -> tuple[store.Stored, dict[str, np.ndarray]]:
    """What is left of a source and its splits when only these classes stay."""
    if unknown := [c for c in classes if c not in stored.classes]:
        raise DataError(f"{name} has no class {unknown[0]!r}{did_you_mean(unknown[0], stored.classes)}")
    kept = tuple(c for c in stored.classes if c in classes)
    number = np.array([kept.index(c) if c in kept else -1 for c in stored.classes] + [-1])  # label -1: the last
    stored = replace(stored, labels=number[stored.labels], classes=kept)
    rows = {part: index[stored.labels[index] >= 0] for part, index in rows.items() if part != "unlabelled"}
    for part, index in rows.items():
        if not len(index):
            raise DataError(f"{name} has no {part} images of {', '.join(kept[:3])}: take more classes, or other ones")
    return stored, rows


def class_fingerprint(fingerprint: str, classes: Sequence[str]) -> str:
    """The fingerprint of a data set with this one, of which only these classes stay."""
    return hashlib.sha256(json.dumps([fingerprint, *classes]).encode()).hexdigest()[:16]


def divide(
    stored: store.Stored, name: str, val_fraction: float, data_seed: int, groups: str | None = None
) -> tuple[dict[str, np.ndarray], str, np.ndarray | None]:
    """The splits of a source called `name`: `splits.split`'s rows, their fingerprint, and each image's group (None:
    there are none; "": of an unlabelled one). Raises DataError as `load_dataset`."""
    members = None if stored.groups is None else np.array(stored.groups, object)
    if groups not in {None, ""}:
        named = np.repeat(list(stored.parts), list(stored.parts.values())) != "unlabelled"
        names = [known for known, needed in zip(image_names(stored), named, strict=True) if needed]
        members = np.full(len(named), "", object)
        members[named] = of_names(groups, names, files=stored.names is not None)
    rows = splits.split(stored.labels, stored.parts, name, val_fraction, data_seed, members)
    return rows, split_fingerprint(stored.content, data_seed, val_fraction, rows, members), members


def image_names(stored: store.Stored) -> Sequence[str]:
    """A name for each image of a source: its file's path below the source's folder, or as `test_images[17]`, key and
    position."""
    keys = {part: "images" if list(stored.parts) == ["train"] else f"{part}_images" for part in stored.parts}
    return stored.names or [f"{keys[part]}[{i}]" for part, count in stored.parts.items() for i in range(count)]


def _image_set(
    stored: store.Stored, rows: np.ndarray, members: np.ndarray | None = None, images: np.ndarray | None = None
) -> ImageSet:
    """Some rows, ascending: a view where they are a block, so that memory-mapped images stay so; else a copy, unless
    their images are given."""
    index = slice(int(rows[0]), int(rows[-1]) + 1) if store.is_block(rows) else torch.from_numpy(rows)
    images = torch.from_numpy(stored.images)[index] if images is None else torch.from_numpy(images)
    labels = torch.from_numpy(stored.labels)[index]
    names = None if stored.names is None else tuple(stored.names[row] for row in rows)
    groups = None if members is None or not all(members[rows]) else tuple(members[rows])
    return ImageSet(images, labels, stored.classes, names, groups)


def load_source(
    source: Source, image_size: int | tuple[int, int] | None = None, data_seed: int = 0, *, lenient: bool = False
) -> store.Stored:
    """The images of a source, undivided and in its order.

    image_size: pixels a side, or (height, width); None: the source's own, as for `load_dataset`. data_seed: of
    generated images. lenient: for a use that needs no labels, such as a prediction. A folder may then hold images in
    any way (the outermost folder of an image is its class, those in none have label -1), and an .npz any of its keys.
    Raises DataError as `load_dataset`, and for arrays that would have to be scaled to a size that is not square.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    in_files = source.kind in {"folder", "image", "tiny_imagenet"}
    load = _load_files if in_files else partial(_load_arrays, data_seed=data_seed)
    try:
        return load(source, size)
    except DataError:
        if not lenient or source.kind not in {"folder", "npz"}:
            raise
        return load(source, size, lenient=True)


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (N, 1 or 3, H, W) with 1 or 3 channels: gray is repeated, of colour the brightness stays (ITU-R 601)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, axis=1)
    red, green, blue = np.moveaxis(images.astype(np.uint32), 1, 0)
    # rounded as Pillow does, so that arrays and files come out alike
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[:, None]


def _load_arrays(
    source: Source, size: tuple[int, int] | None, data_seed: int, *, lenient: bool = False, further: bool = False
) -> store.Stored:
    """further: of a generated source, images of the stream of its own, without labels."""
    content, found = f"{source.kind}:{source.number} version {CELLS_VERSION} seed {data_seed}", []
    content += ", further" * further
    if source.kind not in GENERATED:
        found = files(source) if source.paths else published.published_files(source)
        content = store.content(found)
    key = store.make_key(content, source.kind, *["groups"] * (source.kind == "npz"), *["lenient"] * lenient)

    def read() -> tuple:
        if source.kind in GENERATED:
            drawn, labels, classes = cells.generate(source.number, data_seed, *GENERATED[source.kind], further=further)
            labels = np.full_like(labels, -1) if further else labels
            arrays = readers.Arrays({"train": drawn}, {"train": labels}, classes)
        elif source.kind == "npz":
            arrays = readers.read_npz(source.paths[0], lenient=lenient)
        else:
            arrays = readers.read_idx_parts(found) if source.kind == "idx" else published.read_published(source, found)
        images, labels = list(arrays.images.values()), np.concatenate(list(arrays.labels.values()))
        parts = {part: len(some) for part, some in arrays.images.items()}
        groups = arrays.groups and np.concatenate(list(arrays.groups.values())).tolist()
        return images, (len(labels), *images[0].shape[1:]), labels, parts, arrays.classes, None, groups

    def read_resized() -> tuple:
        shape, same = (*native.images.shape[:2], *size), native
        return resize(native.images, size[0]), shape, same.labels, same.parts, same.classes, None, same.groups

    native = store.stored(key, source.name, read)
    height, width = native.images.shape[2:]
    if size in {None, (height, width)}:
        return replace(native, content=content)
    if size[0] != size[1]:
        sizes = f"{width}x{height} pixels, and {size[1]}x{size[0]} are asked for"
        raise DataError(f"{source.name} has images of {sizes}: scale them")
    cut = [_SQUARE.format(len(native.labels))] * (max(height, width) >= 2 * min(height, width))
    found = store.stored(store.make_key(key, size[0]), source.name, read_resized)
    return replace(found, content=content, notes=(*cut, *found.notes))


def _load_files(source: Source, size: tuple[int, int] | None, *, lenient: bool = False) -> store.Stored:
    if source.kind == "tiny_imagenet":
        root, plan_files = published.tiny_imagenet_folder(), folders.plan_tiny_imagenet
        found = folders.tiny_imagenet_files(root)
        facts = {"content": store.content(found), "size": (64, 64), "channels": 3, "bits": 8, "notes": [], "long": 0}
    else:
        root, found = source.paths[0], files(source)
        plan_files = partial(folders.plan_folder, lenient=lenient or source.kind == "image")

        def look() -> dict:
            plan_files(root, found)  # what is wrong with names is told before every file is read
            return decoding.scan(found)

        facts = store.remember(found, look)
    content, channels = facts["content"], facts["channels"]
    height, width = size or facts["size"]

    def read() -> tuple:
        plan = plan_files(root, found)
        names, labels = [file.name for file in plan.files], np.array(plan.labels)
        images = decoding.decode(plan.files, height, width, channels, facts["bits"])
        return images, (len(names), channels, height, width), labels, plan.parts, plan.classes, names

    found = store.stored(
        store.make_key(content, source.kind, height, width, channels, *["lenient"] * lenient), source.name, read
    )
    cut = [_SQUARE.format(facts["long"])] * (height == width and facts["long"] > 0)
    return replace(found, content=content, notes=(*facts["notes"], *cut, *found.notes))


def resize(images: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """uint8 (N, C, H, W) as chunks (n, C, side, side): the shorter side is scaled to fit, the centre is kept."""
    count, channels, height, width = images.shape
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    length = store.chunk_length((channels, max(side, cut), max(side, cut)))
    for i in range(0, count, length):
        square = images[i : i + length, :, top : top + cut, left : left + cut]
        x = torch.from_numpy(np.ascontiguousarray(square))
        yield F.interpolate(x, size=(side, side), mode="bilinear", antialias=True).numpy()


def split_fingerprint(
    content: str, data_seed: int, val_fraction: float, rows: dict[str, np.ndarray], members: np.ndarray | None = None
) -> str:
    """16 hex digits that differ when images (by a hash of their content), the seed, the splits drawn from it, or the
    images' groups do."""
    total = hashlib.sha256(json.dumps([content, data_seed, float(val_fraction)]).encode())
    for part in ("train", "val", "test"):
        total.update(part.encode() + rows[part].astype("<i8").tobytes())
        if members is not None:
            total.update(json.dumps(list(members[rows[part]])).encode())
    return total.hexdigest()[:16]


def mean_std(images: Tensor, sums: np.ndarray | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of uint8 images (N, C, H, W), a channel each, of values in [0, 1]: exact.

    sums: as `store.image_sums`, where they are known. The deviation is one gray level at least, so that it divides.
    """
    if sums is None:
        sums = np.concatenate([store.image_sums(part) for part in store.chunks(images.numpy())], 1)
    count = len(images) * math.prod(images.shape[2:])
    pairs = [(int(s), int(q)) for s, q in sums.sum(1).T]  # whole numbers of any length
    mean = tuple(s / (255 * count) for s, _ in pairs)
    return mean, tuple(max(1.0, math.sqrt(count * q - s * s) / count) / 255 for s, q in pairs)
