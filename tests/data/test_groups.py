"""Groups: read from names or a table, and never in two splits; against scikit-learn's grouped folds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from labutil import cli
from labutil.data import DataError, groups, load_dataset, splits
from labutil.runs import parameters

PARTS = ("train", "val", "test")


def folder(root: Path, names: list[str]) -> str:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(root / name)
    return f"folder:{root}"


SLIDES = [f"{k}/slide{s}_{i}.png" for k in "ab" for s in range(10) for i in range(3)]


def table(path: Path, rows: list[str], first: str = "path,group") -> str:
    path.write_text("\n".join([first, *rows]) + "\n", encoding="utf-8")
    return str(path)


def apart(data) -> bool:
    seen = [set(getattr(data, part).groups) for part in PARTS]
    return sum(map(len, seen)) == len(set.union(*seen)) and all(seen)


def test_a_pattern_on_names_keeps_slides_whole(tmp_path):
    spec = folder(tmp_path, SLIDES)
    data = load_dataset(spec, groups=r"^(slide\d+)", val_fraction=0.2)
    assert apart(data)
    for part in PARTS:
        images = getattr(data, part)
        assert images.groups == tuple(name.split("/")[1].split("_")[0] for name in images.names)
    assert len(data.test) == 12 and set(data.test.labels.tolist()) == {0, 1}
    assert data.test.labels.sum() == 6  # stratified: every slide has as many of each class
    plain = load_dataset(spec, val_fraction=0.2)
    assert plain.test.groups is None and plain.fingerprint != data.fingerprint
    assert load_dataset(spec, groups=r"slide\d+", val_fraction=0.2).fingerprint == data.fingerprint
    assert load_dataset(spec, groups=r"^(slide\d+)", val_fraction=0.2, data_seed=1).test.groups != data.test.groups
    few = load_dataset(spec, groups=r"^(slide\d+)", val_fraction=0.2, subset=8)
    assert apart(few) and few.fingerprint == data.fingerprint and set(few.train.names) < set(data.train.names)


def test_a_pattern_that_names_do_not_have_is_searched_in_paths(tmp_path):
    spec = folder(tmp_path, [f"{k}/patient{p}/{i}.png" for k in "ab" for p in range(8) for i in range(2)])
    data = load_dataset(spec, groups=r"patient\d+")
    assert apart(data) and set(data.test.groups) <= {f"patient{p}" for p in range(8)}
    own = groups.of_names(r"^\d+", ["a/patient7/3.png", "b/patient8/4.png"])
    assert own == ["3", "4"]  # names before paths


def test_a_table_says_the_same_however_it_is_written(tmp_path):
    spec = folder(tmp_path / "images", SLIDES)
    rows = [f"{name},{name.split('/')[1].split('_')[0]}" for name in SLIDES]
    data = load_dataset(spec, groups=table(tmp_path / "g.csv", [*rows, "a/gone.png,slide0"]))
    assert data.fingerprint == load_dataset(spec, groups=r"^(slide\d+)").fingerprint
    windows = [f"1,{row.replace('/', chr(92))}" for row in reversed(rows)]
    path = table(tmp_path / "w.csv", windows, "\ufeffnumber,path,group")
    assert load_dataset(spec, groups=path).fingerprint == data.fingerprint


@pytest.mark.parametrize("keys", [["images"], ["train_images", "test_images"]])
def test_arrays_take_a_table_by_position(tmp_path, keys):
    rng, arrays, rows = np.random.default_rng(0), {}, []
    for part, key in enumerate(keys):
        arrays[key] = rng.integers(0, 256, (40, 8, 8), np.uint8)
        arrays[key.replace("images", "labels")] = np.arange(40) % 2
        rows += [f"{key}[{i}],{part}-{i // 4}" for i in range(40)]
    np.savez(tmp_path / "a.npz", **arrays)
    spec = f"npz:{tmp_path}/a.npz"
    data = load_dataset(spec, groups=table(tmp_path / "g.csv", rows))
    assert apart(data) and len(data.test) == (8 if len(keys) == 1 else 40)
    with pytest.raises(DataError, match=rf"no file names: give a \.csv of path \({keys[0]}\[0\]\) and group"):
        load_dataset(spec, groups=r"\d+")


def test_unlabelled_images_need_no_group(tmp_path):
    spec = folder(tmp_path, [f"train/{name}" for name in SLIDES] + ["unlabelled/x.png"])
    data = load_dataset(spec, groups=r"^slide\d+")
    assert apart(data) and data.unlabelled.groups is None and len(data.unlabelled) == 1


def test_splits_of_a_folder_are_kept_and_must_not_share_a_group(tmp_path):
    spec = folder(tmp_path, [f"{'test' if '9_' in name else 'train'}/{name}" for name in SLIDES])
    data = load_dataset(spec, groups=r"^(slide\d+)")
    assert apart(data) and set(data.test.groups) == {"slide9"}
    with pytest.raises(DataError, match="train and test share 2 groups, such as a: move all images of a group"):
        load_dataset(spec, groups=r"/([ab])/")


def arrays(**more: np.ndarray) -> dict[str, np.ndarray]:
    """60 images of two classes, from ten slides."""
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 9), np.uint8)
    return {"images": images, "labels": np.arange(60) % 2, "groups": np.arange(60) // 6} | more


def test_an_npz_brings_its_groups(tmp_path):
    """Numbers or text, divided as those of a table are; at any size; and a table given by hand comes first."""
    np.savez(tmp_path / "x.npz", **arrays())
    spec = f"npz:{tmp_path / 'x.npz'}"
    data, small = load_dataset(spec), load_dataset(spec, image_size=8)
    assert apart(data) and len(data.test) == 12
    assert all(getattr(data, part).groups == getattr(small, part).groups for part in PARTS)
    by_row = table(tmp_path / "g.csv", [f"images[{i}],{i // 6}" for i in range(60)])
    assert load_dataset(spec, groups=by_row).fingerprint == load_dataset(spec, groups="").fingerprint
    other = load_dataset(spec, groups=table(tmp_path / "h.csv", [f"images[{i}],{i % 10}" for i in range(60)]))
    assert set(other.train.groups) | set(other.val.groups) | set(other.test.groups) == set("0123456789")
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays().items() if k != "groups"})
    assert load_dataset(spec).test.groups is None
    np.savez(tmp_path / "x.npz", **arrays(groups=np.array([[f"slide {i // 6}"] for i in range(60)])))
    assert set(load_dataset(spec).test.groups) <= {f"slide {s}" for s in range(10)}


def test_parts_of_an_npz_bring_theirs_and_unlabelled_images_need_none(tmp_path):
    whole = arrays()
    parts = {"train": slice(0, 36), "val": slice(36, 48), "test": slice(48, 60)}
    cut = {f"{part}_{k}": v[rows] for part, rows in parts.items() for k, v in whole.items()}
    cut["unlabelled_images"] = whole["images"][:5]
    np.savez(tmp_path / "x.npz", **cut)
    data = load_dataset(f"npz:{tmp_path / 'x.npz'}")
    assert data.test.groups == tuple(str(g) for g in whole["groups"][48:]) and data.unlabelled.groups is None
    del cut["val_groups"]
    np.savez(tmp_path / "x.npz", **cut)
    with pytest.raises(DataError, match=r"x.npz has groups for train, test but not for val: add them"):
        load_dataset(f"npz:{tmp_path / 'x.npz'}")
    np.savez(tmp_path / "x.npz", **cut | {"val_groups": np.full(12, "0")})
    with pytest.raises(DataError, match="train and val share 1 groups, such as 0"):
        load_dataset(f"npz:{tmp_path / 'x.npz'}")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (np.arange(59), r"\(groups\) has 59 groups for 60 images: they must be as many"),
        (np.arange(60) / 2, r"\(groups\) has groups of type float64: save numbers \(groups.astype\(int\)\) or names"),
        (np.array(["a"] * 50 + [""] * 10), r"\(groups\) has no group for image 50: every image needs one"),
        (np.zeros((60, 2), int), r"\(groups\) has 2 groups an image"),
        (np.array([None] * 60), "Python objects"),
    ],
)
def test_groups_of_an_npz_that_are_none(tmp_path, found, says):
    np.savez(tmp_path / "x.npz", **arrays(groups=found))
    with pytest.raises(DataError, match=says) as error:
        load_dataset(f"npz:{tmp_path / 'x.npz'}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("^(slide[0-8])", r"6 of 60 images have no group, the first is a/slide9_0.png: correct '\^\(slide\[0-8\]\)'"),
        ("(", "groups='\\(' is no regular expression"),
        (" ", "must be a regular expression"),
        ("x(y)?", "60 of 60 images have no group"),
        ("no.csv", "no.csv does not exist"),
        ("^[ab]", r"too few groups \(2\) to take test images from"),
        ("slide()", "60 of 60 images have no group"),
    ],
)
def test_what_is_wrong_with_groups_is_said_in_one_line(tmp_path, pattern, says):
    spec = folder(tmp_path, SLIDES)
    with pytest.raises(DataError, match=says) as error:
        load_dataset(spec, groups=pattern)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "first", "says"),
    [
        (["a,1"], "file,group", "must have the columns path and group in its first line, but has file, group"),
        ([], "", "must have the columns"),
        (["a/1.png,1", "a/1.png,2"], "path,group", r"two groups for a/1.png \(1, 2\): keep one"),
        (["a/1.png"], "path,group", "1 of 1 images have no group, the first is a/1.png: correct .*g.csv"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, rows, first, says):
    path = table(tmp_path / "g.csv", rows, first)
    with pytest.raises(DataError, match=says):
        groups.of_names(path, ["a/1.png"])
    (tmp_path / "g.csv").write_bytes(b"path,group\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="save it as CSV in UTF-8"):
        groups.of_names(path, ["a/1.png"])


def planted(seed: int, count: int = 60, classes: int = 5):
    """Groups of 1 to 40 images, each with its own mixture of classes."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 41, count)
    mixtures = rng.dirichlet(np.ones(classes), count)
    labels = np.concatenate([rng.choice(classes, size, p=mix) for size, mix in zip(sizes, mixtures, strict=True)])
    return labels, np.repeat(np.arange(count), sizes).astype(str).astype(object)


def imbalance(y, rows):
    """How far the shares of the classes in some rows are from those in all, at most, in points; and their share."""
    shares = [np.bincount(part, minlength=y.max() + 1) / len(part) for part in (y, y[rows])]
    return np.abs(shares[0] - shares[1]).max(), len(rows) / len(y)


def test_whole_groups_are_as_well_stratified_as_scikit_learn_s_and_better_than_random_ones():
    ours, theirs, random = [], [], []
    for seed in range(12):
        y, g = planted(seed)
        rows = splits.split(y, {"train": len(y)}, "x", 0.2, seed, g)
        assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(len(y)))
        members = [set(g[rows[part]]) for part in PARTS]
        assert sum(map(len, members)) == len(set(g))
        assert all((np.diff(rows[part]) > 0).all() and len(rows[part]) for part in PARTS)
        ours.append(imbalance(y, rows["test"]))
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(y, y, g)
        theirs.append(np.mean([imbalance(y, test) for _, test in folds], 0))
        shuffled = GroupShuffleSplit(5, test_size=0.2, random_state=seed).split(y, y, g)
        random.append(np.mean([imbalance(y, test) for _, test in shuffled], 0))
        assert abs(ours[-1][1] - 0.2) < 0.03
    ours, theirs, random = (np.mean([found for found, _ in each]) for each in (ours, theirs, random))
    assert ours < 1.1 * theirs and ours < 0.6 * random, (ours, theirs, random)


def test_every_group_has_its_turn():
    """Over seeds each group is in test at times, and at times not: none is bound to a split by its size or place."""
    y, g = planted(0, count=30, classes=2)
    times = {name: 0 for name in g}
    for seed in range(150):
        rows = splits.split(y, {"train": len(y)}, "x", 0.2, seed, g)
        for name in set(g[rows["test"]]):
            times[name] += 1
    assert min(times.values()) >= 10 and max(times.values()) <= 120, times  # small ones fill gaps, so more often


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 25), st.integers(1, 4), st.sampled_from([0.05, 0.1, 0.3]))
def test_splits_of_groups_hold_what_they_promise(seed, count, classes, fraction):
    y, g = planted(seed, count, classes)
    _, y = np.unique(y, return_inverse=True)
    try:
        rows = splits.split(y, {"train": len(y)}, "x", fraction, seed, g)
    except DataError as error:  # where some class is in two groups at most, or one group has nearly all
        assert "too few groups" in str(error)
        in_groups = [len(set(g[y == k])) for k in range(y.max() + 1)]
        assert min(in_groups) < 3 or count < 8
        return
    assert set(y[rows["train"]]) == set(y)
    assert sum(len(set(g[rows[part]])) for part in PARTS) == len(set(g))
    again = splits.split(y, {"train": len(y)}, "x", fraction, seed, g)
    assert all(np.array_equal(rows[part], again[part]) for part in PARTS)


def test_three_groups_are_enough_and_two_are_not():
    y = np.tile([0, 1], 15)
    for sizes in ([10, 10, 10], [2, 4, 24], [26, 2, 2]):
        g = np.repeat(np.array(["a", "b", "c"], object), sizes)
        rows = splits.split(y, {"train": 30}, "x", 0.1, 0, g)
        assert sorted(len(rows[part]) for part in PARTS) == sorted(sizes)
        assert len(rows["train"]) == max(sizes)
    with pytest.raises(DataError, match=r"x has too few groups \(2\) to take test images from"):
        splits.split(y, {"train": 30}, "x", 0.1, 0, np.repeat(np.array(["a", "b"], object), 15))


def test_a_group_an_image_is_a_plain_split():
    y = np.repeat([0, 1, 2], [3000, 900, 100])
    rows = splits.split(y, {"train": 4000}, "x", 0.1, 0, np.arange(4000).astype(str).astype(object))
    assert np.bincount(y[rows["test"]]).tolist() == [600, 180, 20]
    assert np.bincount(y[rows["val"]]).tolist() == [240, 72, 8]


def test_a_class_that_no_split_can_share_is_told(tmp_path, capsys):
    spec = folder(tmp_path, [*SLIDES, "c/slide3_9.png", "c/slide3_8.png"])
    data = load_dataset(spec, groups=r"^(slide\d+)")
    assert "slide3" in data.train.groups
    told = capsys.readouterr().out
    assert "note: val has no images of c: whole groups allow no better split" in told
    assert "note: test has no images of c" in told


def test_a_run_gets_the_table_by_its_whole_path(tmp_path, monkeypatch):
    notebook = tmp_path / "x.ipynb"
    cell = {
        "cell_type": "code",
        "metadata": {"tags": ["parameters"]},
        "source": "groups: str | None = None  # a table\n",
    }
    notebook.write_text(json.dumps({"cells": [cell]}))
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "g.csv", ["a,1"])
    assert parameters.plan(notebook, None, {"groups": "g.csv"}) == {"groups": str(tmp_path / "g.csv")}
    assert parameters.plan(notebook, None, {"groups": "^a"}) == {"groups": "^a"}
    assert parameters.plan(notebook, None, {}) == {"groups": None}
    with pytest.raises(DataError, match=r"h\.csv does not exist"):
        parameters.plan(notebook, None, {"groups": "h.csv"})


def test_the_data_command_counts_groups(tmp_path):
    spec = folder(tmp_path, SLIDES)
    result = CliRunner().invoke(cli.main, ["data", spec, "--groups", r"^(slide\d+)"])
    assert result.exit_code == 0 and "test             12 images of 2 groups" in result.output, result.output
    result = CliRunner().invoke(cli.main, ["data", spec, "--groups", "("])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
