"""The report: what is kept of it in a file, what is left of a data set, and which data set it refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from labutil.cleaning import CleaningReport, image_quality, judged_images, plant
from labutil.data import DataError, Dataset, ImageSet, cells, load_dataset


def part(labels: list[int], classes: tuple[str, ...], seed: int, prefix: str | None = None) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 1, 8, 12), np.uint8)
    names = None if prefix is None else tuple(f"{prefix}/{i}.png" for i in range(len(labels)))
    return ImageSet(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64), classes, names)


def small(labels, classes=("a", "b"), *, test=(0, 1), unlabelled=None, named=False) -> Dataset:
    """Training images with these labels, one validation image, test images, so many unlabelled ones: (1, 8, 12)."""
    of = {"train": labels, "val": labels[:1], "test": [*test], "more": [-1] * (unlabelled or 0)}
    parts = [part(of[name], classes, seed, name if named else None) for seed, name in enumerate(of)]
    more = None if unlabelled is None else parts[3]
    return Dataset("small", *parts[:3], more, (0.5,), (0.2,), "0" * 16, classes, 1, (8, 12))


def found(*index: int, score: float | list[float] = 1.0, **columns: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"index": np.array(index, int), "score": score, **columns})


def removing(data: Dataset, *rows: int) -> CleaningReport:
    report = CleaningReport(data)
    report.add("test", found(*rows))
    return report


def content(images: ImageSet) -> list[tuple[bytes, str]]:
    names = [*images.classes, "none"]
    return [(image.numpy().tobytes(), names[label]) for image, label in zip(images.images, images.labels, strict=True)]


@pytest.fixture
def report() -> CleaningReport:
    report = CleaningReport(small([0] * 9, test=(0, 0), unlabelled=1, named=True))
    report.add("outlier", found(1, 3, score=[9, 5]))
    report.add("duplicate", found(9, 3, score=[0.9, 1], reference_index=[2, 0]))
    report.add("leak", found(4, score=0.9, reference_index=[1]), other_in_test=True)
    report.add("label", found(2, score=0.95))
    report.rows.loc[5, "remove"] = False
    return report


def test_a_report_holds_what_was_found_and_names_the_files(report):
    assert report.rows.drop(columns="data_set").to_numpy().tolist() == [
        [1, "train/1.png", "outlier", 9.0, -1, "", True],
        [3, "train/3.png", "outlier", 5.0, -1, "", True],
        [9, "more/0.png", "duplicate", 0.9, 2, "train/2.png", True],
        [3, "train/3.png", "duplicate", 1.0, 0, "train/0.png", True],
        [4, "train/4.png", "leak", 0.9, 1, "test/1.png", True],
        [2, "train/2.png", "label", 0.95, -1, "", False],
    ]
    columns = ["index", "name", "reason", "score", "other", "other_name", "remove", "data_set"]
    assert list(report.rows.columns) == columns and set(report.rows["data_set"]) == {"0" * 16 + "/10"}
    assert list(report.rows.index) == list(range(6)) and report.removed.tolist() == [1, 3, 4, 9]
    report.rows.loc[1, "remove"] = False  # but the other row about image 3 still says so
    assert report.removed.tolist() == [1, 3, 4, 9]
    report.rows.loc[3, "remove"] = False
    assert report.removed.tolist() == [1, 4, 9]
    report.add("dark", image_quality(report.data.train.images[:5]), score="dark")
    assert report.rows["reason"].tolist()[6:] == ["dark"] * 5
    report.add("nothing", found())
    assert len(report.rows) == 11
    bare = removing(small([0, 1]), 1)
    assert bare.rows["name"].tolist() == bare.rows["other_name"].tolist() == [""]
    assert CleaningReport(bare.data).removed.tolist() == []


def test_a_report_survives_a_file(report, tmp_path):
    names = ("null", "NA", "007", "x, y", 'a "b"', "日本", "1e5", "", "-")  # and not what pandas makes of such words
    odd = replace(report.data, train=replace(report.data.train, names=names), fingerprint="12345678901234e5")
    for kept in (report, removing(odd, *range(9)), CleaningReport(odd)):
        path = tmp_path / "new" / "report.csv"
        kept.save(path)
        again = CleaningReport.load(path)
        pd.testing.assert_frame_equal(again.rows, kept.rows)
        assert again.removed.tolist() == kept.removed.tolist()
        again.add("more", found(1, 0))  # it can go on
        assert len(again.rows) == len(kept.rows) + 2
    assert [p.name for p in path.parent.iterdir()] == ["report.csv"]
    removing(replace(odd, train=replace(odd.train, names=("caf\udce9.png",) * 9)), 1).save(path)  # a name in Latin-1
    assert CleaningReport.load(path).rows["name"].tolist() == ["caf\\udce9.png"]


def test_a_report_edited_by_hand(report, tmp_path):
    report.save(tmp_path / "report.csv")
    text = (tmp_path / "report.csv").read_text()
    (tmp_path / "report.csv").write_text(text.replace("outlier", "a stranger") + "6,,ugly,1,-1,,True,\n")
    edited = CleaningReport.load(tmp_path / "report.csv")
    assert edited.removed.tolist() == [1, 3, 4, 6, 9]
    edited.apply(report.data, tmp_path / "cleaned.npz")
    only = edited.rows[edited.rows["reason"] == "ugly"]
    with pytest.raises(DataError, match=r"^the report is about no data set, this one is 0{16}/10 "):
        CleaningReport(None, only).apply(report.data, tmp_path / "cleaned.npz")


HEADER = b"data_set,index,name,reason,score,other,other_name,remove\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00\xff\xfe", b"index,reason\n1,a\n", HEADER.replace(b"data_set,", b""),
        HEADER + b"0/1,x,,a,1,-1,,True\n", HEADER + b"0/1,1,,a,1,-1\n", HEADER + b"0/1,-1,,a,1,-1,,True\n",
        HEADER + b"0/1,1,,a,1,-1,,no\n",  # a word is true for Python, and would remove it
        HEADER + b"0/1,1,,a,1,-1,,False\n0/1,2,,a,1,-1,,nope\n",
    ],
)  # fmt: skip
def test_damaged_reports(content, tmp_path):
    path = tmp_path / "report.csv"
    path.write_bytes(content)
    for wrong in (path, tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=r" is no cleaning report \(.*\): save one with") as error:
            CleaningReport.load(wrong)
        assert str(error.value).startswith(f"{wrong} is") and "\n" not in str(error.value)


@pytest.mark.parametrize(("spec", "subset"), [("cells:60", None), ("mnist5k", 40)])
def test_apply_keeps_exactly_the_rest(spec, subset, tmp_path):
    data = load_dataset(spec, image_size=16, subset=subset)
    before = {part: content(getattr(data, part)) for part in ("train", "val", "test")}
    common = torch.bincount(data.train.labels).argmax()
    gone = torch.where(data.train.labels == common)[0][:2].tolist()
    path = removing(data, *gone, gone[0]).apply(data, tmp_path / "new" / "cleaned.npz")
    assert path == tmp_path / "new" / "cleaned.npz" and [p.name for p in path.parent.iterdir()] == ["cleaned.npz"]
    cleaned = load_dataset(f"npz:{path}")
    kept = [row for i, row in enumerate(before["train"]) if i not in gone]
    assert content(cleaned.train) == kept and len(kept) == len(before["train"]) - 2
    assert content(cleaned.val) == before["val"] and content(cleaned.test) == before["test"]
    assert set(cleaned.classes) == set(data.classes) and cleaned.channels == data.channels
    assert {part: content(getattr(data, part)) for part in before} == before  # the source is as it was
    # nothing to remove: all of it, over the old file
    assert content(load_dataset(f"npz:{CleaningReport(data).apply(data, str(path))}").train) == before["train"]


def test_apply_to_labels_whose_names_are_in_another_order_and_to_none(tmp_path):
    data = small([2, 0, 1, 2, 0, 1, 1], ("zebra", "10", "9"))
    cleaned = load_dataset(f"npz:{removing(data, 1, 3).apply(data, tmp_path / 'a.npz')}")
    assert cleaned.classes == ("9", "10", "zebra") and cleaned.image_size == (8, 12)
    assert [name for _, name in content(cleaned.train)] == ["9", "10", "zebra", "10", "10"]
    bare = small([-1] * 5, (), test=(-1, -1), unlabelled=2)
    cleaned = load_dataset(f"npz:{removing(bare, 4, 5).apply(bare, tmp_path / 'b.npz')}")
    assert torch.equal(cleaned.train.images, bare.train.images[:4]) and (cleaned.train.labels == -1).all()
    assert torch.equal(cleaned.unlabelled.images, bare.unlabelled.images[1:])


@pytest.mark.parametrize("gone", [(), (1, 5, 7), (3, 5, 6, 7)])
def test_unlabelled_images_stay_unless_the_report_says_so(gone, tmp_path):
    data = small([0, 1, 0, -1, 1], unlabelled=3)
    judged = judged_images(data)
    assert torch.equal(judged.images, torch.cat([data.train.images, data.unlabelled.images]))
    assert judged.labels.tolist() == [0, 1, 0, -1, 1, -1, -1, -1] and judged.classes == data.classes
    assert judged_images(small([0, 1])).labels.tolist() == [0, 1]
    cleaned = load_dataset(f"npz:{removing(data, *gone).apply(data, tmp_path / 'a.npz')}")
    keep = [i for i in range(8) if i not in gone]
    expected = content(judged)
    assert content(cleaned.train) == [expected[i] for i in keep if judged.labels[i] >= 0]
    further = [expected[i] for i in keep if judged.labels[i] < 0]  # of the training images, too
    assert (content(cleaned.unlabelled) if cleaned.unlabelled else []) == further
    assert (cleaned.unlabelled is None) == (gone == (3, 5, 6, 7))


def test_apply_refuses(tmp_path):
    classes = ("a", "b", "c")
    data, path = small([0, 0, 1, 1, 2], classes), tmp_path / "cleaned.npz"
    for gone, source, message in (
        ([5], data, "^the report names image 5 of 5: correct its index$"),
        ([0, 1, 2, 3, 4], data, "^the report removes every training image: raise its thresholds$"),
        ([0, 1], small([0, 1], unlabelled=2), "^the report removes every training image: raise"),
        # else test would hold a class that training does not, and nothing could load it
        ([2, 3], data, "^the report removes every training image of b: raise its thresholds$"),
        ([0], small([1, 1, 0], test=(1, -1, -1)), "^2 test images have no label, which an .npz cannot"),
    ):
        with pytest.raises(DataError, match=message):
            removing(source, *gone).apply(source, path)
    assert list(tmp_path.iterdir()) == []
    # what is not asked for later may go
    assert load_dataset(f"npz:{removing(data, 4).apply(data, path)}").classes == ("a", "b")


def test_apply_refuses_another_data_set(tmp_path):
    data = load_dataset("cells:60", image_size=16)
    report = removing(data, 3)
    report.save(tmp_path / "report.csv")
    others = [
        load_dataset("cells:60", image_size=16, data_seed=1), load_dataset("cells:60", image_size=16, subset=30),
        plant(data, {"blank": 0.1}, 0)[0], replace(data, unlabelled=data.test),
    ]  # fmt: skip
    for kept in (report, CleaningReport.load(tmp_path / "report.csv")):
        for other in others:
            with pytest.raises(DataError, match=r"^the report is about [0-9a-f]{16}/43, this one is [0-9a-f]{16}/"):
                kept.apply(other, tmp_path / "cleaned.npz")
        assert not (tmp_path / "cleaned.npz").exists()
        # at another size the images are the same
        path = kept.apply(load_dataset("cells:60", image_size=24), tmp_path / "cleaned.npz")
        assert len(load_dataset(f"npz:{path}").train) == 42
        path.unlink()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("odd"), KeyboardInterrupt()])
def test_no_half_written_file_stays(error, tmp_path, monkeypatch):
    data, path = small([0, 1, 1]), tmp_path / "cleaned.npz"
    path.write_bytes(b"the old one")

    def half(file: io.BufferedWriter, **_: np.ndarray) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(np, "savez", half)
    seen = DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(seen, match=r"cleaned.npz cannot be written \((No space left on device|odd)\)|^$"):
        removing(data, 1).apply(data, path)
    assert [p.name for p in tmp_path.iterdir()] == ["cleaned.npz"] and path.read_bytes() == b"the old one"
    with pytest.raises(DataError, match=r"cannot be written \(.+\): choose another place$"):
        removing(data, 1).save(path / "report.csv")  # a file is no folder


@pytest.mark.long
def test_the_lesson_judges_every_image_of_a_set_and_loses_none(tmp_path):
    """More images than its `subset`, some without a label: a copy, a copy without a label and a blank frame go."""
    pictures, kinds, _ = cells.generate(240, 0)
    pictures = pictures[:, :, ::3, ::3].transpose(0, 2, 3, 1).copy()
    pictures[3], kinds[3], pictures[150], pictures[5] = pictures[0], kinds[0], pictures[1], 255
    parts = dict(zip(("train", "unlabelled", "val", "test"), np.split(np.arange(240), [150, 180, 210]), strict=True))
    arrays = {f"{part}_images": pictures[rows] for part, rows in parts.items()}
    arrays |= {f"{part}_labels": kinds[rows] for part, rows in parts.items() if part != "unlabelled"}
    np.savez(tmp_path / "own.npz", **arrays)
    command = [sys.executable, "-m", "labutil", "run", "01", "--out", tmp_path / "runs"]
    given = ["-p", "dataset", f"npz:{tmp_path / 'own.npz'}", "-p", "planted", "0", "-p", "subset", "60"]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "01_data_cleaning").iterdir()
    removed = set(CleaningReport.load(run / "cleaning_report.csv").removed)
    assert {3, 5, 150} <= removed and not {0, 1} & removed and len(removed) < 25, removed
    cleaned = np.load(run / "cleaned.npz")
    for part, rows in parts.items():
        left = [row for row in rows if row not in removed or part in {"val", "test"}]
        assert np.array_equal(cleaned[f"{part}_images"], pictures[left]), part
        assert part == "unlabelled" or cleaned[f"{part}_labels"].tolist() == [str(kind) for kind in kinds[left]]
    said = "".join((run / "notebook.ipynb").read_text())
    assert "180 images, 30 of them have no label" in said
    assert json.loads((run / "run.json").read_text())["metrics"]["removed_images"] == len(removed)


def test_groups_stay_with_the_images_that_are_left(tmp_path):
    """Also through planting, and back through `load_dataset`; unlabelled images have none."""
    rng, slides = np.random.default_rng(0), np.repeat(np.arange(12), 10)
    pixels = rng.integers(0, 256, (120, 9, 9), np.uint8)
    more = rng.integers(0, 256, (3, 9, 9), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=pixels, train_labels=np.arange(120) % 2, train_groups=slides,
             unlabelled_images=more)  # fmt: skip
    data = load_dataset(f"npz:{tmp_path / 'x.npz'}")
    slide_of = {pixels[i].tobytes(): str(slides[i]) for i in range(120)}
    judged = judged_images(data)
    assert judged.groups == (*data.train.groups, "", "", "")
    gone = [0, 7, len(data.train) + 1]
    left = load_dataset(f"npz:{removing(data, *gone).apply(data, tmp_path / 'left.npz')}")
    assert len(left.train) == len(data.train) - 2 and len(left.unlabelled) == 2
    assert left.test.groups == data.test.groups and left.val.groups == data.val.groups
    for part in (left.train, left.val, left.test):
        assert part.groups == tuple(slide_of[image.numpy().tobytes()] for image in part.images)

    faulty, truth = plant(data, 0.4, 3)
    kinds = {row: (kind, original) for row, kind, original, _ in truth.itertuples(index=False)}
    for row, group in enumerate(faulty.train.groups):
        kind, original = kinds.get(row, ("", -1))
        if kind in {"", "random_label", "lookalike_label"}:
            assert group == slide_of[faulty.train.images[row].numpy().tobytes()]
        elif original >= 0 and kind != "leak":
            assert group == faulty.train.groups[original]
        else:
            assert group == f"planted {kind} {row}"
    assert not set(faulty.train.groups) & (set(data.val.groups) | set(data.test.groups))
    assert {"leak", "near_duplicate", "foreign", "random_label"} <= set(truth["kind"])
    again = load_dataset(f"npz:{removing(faulty, 1).apply(faulty, tmp_path / 'faulty.npz')}")
    assert again.train.groups == faulty.train.groups[:1] + faulty.train.groups[2:]
