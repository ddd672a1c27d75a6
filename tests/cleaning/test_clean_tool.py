"""`labutil clean`: every file is accounted for, a person's decisions stay, and nothing is changed but by --apply."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from labutil import cli, explore
from labutil.cleaning import decisions, defects, review
from labutil.data import DataError, cells, load_dataset, sources

N = 96  # cells, before faults are planted


def call(*args, code=0):
    result = CliRunner().invoke(cli.main, ["clean", *map(str, args)])
    assert result.exit_code == code, result.output + result.stderr + repr(result.exception)
    return result.output if code == 0 else result.stderr


def write(path: Path, image: np.ndarray, side: int = 96, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(path, **options)
    return path


def tree(root: Path) -> dict[str, str]:
    """Every file below a folder, and a hash of its bytes."""
    files = [Path(base, name) for base, _, names in os.walk(root) for name in names]
    return {os.path.relpath(f, root): hashlib.sha256(f.read_bytes()).hexdigest() if f.exists() else "" for f in files}


def planted(root: Path) -> None:
    """Cells of four kinds at sizes of 60 to 200 pixels, and one or more of each fault."""
    rng = np.random.default_rng(0)
    images, labels, classes = cells.generate(2 * N, 0)
    some = np.flatnonzero(labels < 4)[:N]
    for i in some:
        end = "png" if i % 2 else "jpg"
        write(root / classes[labels[i]] / f"{i:03d}.{end}", images[i], int(rng.integers(60, 200)))
    a, b = classes[0], classes[1]
    mine = [sorted((root / name).iterdir()) for name in (a, b)]
    shutil.copy(mine[0][0], root / a / "exact {copy} 1.png")
    index = int(mine[0][1].stem)
    write(root / a / "larger.png", defects.vary(images[index], np.random.default_rng(3), slightly=True), 300)
    shutil.copy(mine[0][2], root / b / ("conflict" + mine[0][2].suffix))
    write(root / a / "black.png", np.zeros((3, 20, 20), np.uint8))
    write(root / b / "stranger.jpg", defects.foreign_picture((3, 96, 96), rng), 150)
    (root / a / "empty.png").touch()
    (root / a / "text.jpg").write_text("no image")
    (root / b / "short.jpg").write_bytes((root / b / "stranger.jpg").read_bytes()[:900])
    (root / b / "link.png").symlink_to("nowhere")
    with contextlib.suppress(OSError, UnicodeError):  # some systems take no such name
        shutil.copy(mine[1][3], os.fsencode(root / b) + b'/caf\xe9, "1".png')
    (root / "notes.txt").write_text("about")
    (root / ".hidden").touch()


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(source, folder of decisions, what was printed): made once, not to be changed."""
    base = tmp_path_factory.mktemp("clean")
    root, out = base / "my {set} of cells", base / "out"
    planted(root)
    before = tree(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABUTIL_DATA", str(base / "data"))
        said = call(f"folder:{root}", "--out", out)
    assert tree(root) == before
    return root, out, said


@pytest.fixture
def copy(judged, tmp_path):
    """A copy of source and decisions that a test may change."""
    root, out = tmp_path / "set", tmp_path / "out"
    shutil.copytree(judged[0], root, symlinks=True)
    shutil.copytree(judged[1], out)
    (out / "source.txt").write_text(f"folder:{root}\n")
    return root, out / "decisions.csv"


def test_every_file_is_accounted_for_and_counts_add_up(judged):
    root, out, said = judged
    table = decisions.load(out / "decisions.csv")
    images = [name for name in tree(root) if name not in {"notes.txt", ".hidden"}]
    assert sorted(table["path"]) == sorted(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
                                           for name in images)  # fmt: skip
    assert f"{len(images):,} files" in said and "note: 2 other files" in said
    rows = [line.split() for line in said.splitlines() if re.search(r"\d$", line) and not line.startswith("note")]
    counts = [[int(word) for word in row if word.isdigit()] for row in rows]
    assert [sum(column) for column in zip(*counts[:-1], strict=True)] == counts[-1]
    assert counts[-1][0] == len(table) == sum(counts[-1][1:])
    bad = table[table["reason"] == "unreadable"].set_index("path")
    names = {Path(path).name: note for path, note in bad["note"].items()}
    assert set(names) == {"empty.png", "text.jpg", "short.jpg", "link.png"}
    assert (
        "not an image" in names["empty.png"]
        and "leads nowhere" in names["link.png"]
        and str(root) not in "".join(names.values())
    )
    assert (table.loc[table["note"] == "", "sha256"].str.len() == 64).all()


def test_planted_faults_are_found_and_doubts_never_go_by_themselves(judged):
    table = (
        decisions.load(judged[1] / "decisions.csv")
        .assign(name=lambda t: t["path"].str.rpartition("/")[2])
        .set_index("name")
    )
    first = table["reason"].str.partition(";")[0]
    assert first["black.png"] == "blank" and first["stranger.jpg"] == "stranger"
    exact = table.loc["exact {copy} 1.png"]
    twins = table[(table["sha256"] == exact["sha256"])]
    assert sorted(twins["decision"]) == ["keep", "remove"] and len(twins) == 2
    larger = table[table["twin"].str.endswith("larger.png")]
    assert list(larger["decision"]) == ["remove"] and table.loc["larger.png", "decision"] == "keep"
    pair = table[
        table["sha256"]
        == table.loc["conflict" + Path(table.index[table.index.str.startswith("conflict")][0]).suffix, "sha256"]
    ]
    assert set(pair["decision"]) == {"unsure"} and pair["label"].nunique() == 2
    assert set(pair["twin"]) == set(pair["path"])
    doubted = table[first == "doubted label"]
    assert set(doubted["decision"]) <= {"unsure"}
    assert set(table["proposed"][first == ""]) == {"keep"}


def test_the_page_needs_nothing_from_elsewhere(judged):
    page = (judged[1] / "review.html").read_text("utf-8")
    data = review.read_page(judged[1])
    table = decisions.load(judged[1] / "decisions.csv")
    assert {item["row"] for item in data["items"]} == set(np.flatnonzero(table["reason"] != ""))
    assert not re.search(r"<[^>]+ (src|href)=|https?:|url\(|@import|import\(", page)
    assert "default-src 'none'" in page and page.count("</script>") == 2
    assert data["rows"] == table.to_numpy().tolist()
    beside = {
        len(item["beside"]) for item in data["items"] if not item["twin"] and str(item["row"]) in data["pictures"]
    }
    assert beside == {3}


def test_the_page_has_a_limit_and_says_so(judged, monkeypatch, tmp_path):
    monkeypatch.setattr(review, "MOST", 3)
    (tmp_path / "out").mkdir()
    shutil.copy(judged[1] / "decisions.csv", tmp_path / "out")
    said = call(f"folder:{judged[0]}", "--out", tmp_path / "out")
    data = review.read_page(tmp_path / "out")
    assert len(data["items"]) == 3 and data["left"] > 0 and f"(3 of {data['left'] + 3} findings" in said


def test_a_rerun_keeps_what_a_person_decided(copy):
    root, file = copy
    table = decisions.load(file)
    usual = table.index[table["reason"] == ""]
    moved, edited, changed = usual[:3]
    copied = table.index[table["reason"] == "duplicate"][0]
    twin = table.index[table["path"] == table["twin"][copied]][0]
    review.decide(table, moved, "unsure")
    review.decide(table, twin, "remove")
    review.decide(table, changed, "remove")
    table.loc[edited, ["decision", "suggested label"]] = "Relabel ", "new"  # by hand, in a spreadsheet
    table.to_csv(file, index=False, sep=";", encoding="utf-8-sig")
    (root / table["path"][moved]).rename(root / "elsewhere.png")
    write(root / table["path"][changed], np.full((3, 9, 9), 77, np.uint8))
    said = call(f"folder:{root}", "--out", file.parent)
    assert "(3 of them yours" in said
    again = decisions.load(file).set_index("path")
    assert again.loc["elsewhere.png", "decision"] == "unsure"
    assert list(again.loc[table["path"][edited], ["decision", "suggested label"]]) == ["relabel", "new"]
    assert again.loc[table["path"][changed], "reviewed"] == ""  # another picture now
    assert again.loc[table["path"][twin], "decision"] == "remove"
    assert again.loc[table["path"][copied], "decision"] == "keep"  # one of the two stays all the same


def test_apply_copies_byte_by_byte_and_leaves_the_source_alone(copy):
    root, file = copy
    table = decisions.load(file)
    usual = table.index[table["reason"] == ""]
    other = next(name for name in sorted(set(table["label"])) if name not in {"", table["label"][usual[0]]})
    review.decide(table, usual[0], "relabel", other)
    review.decide(table, usual[1], "relabel", "a/new one")
    review.decide(table, usual[2], "remove")
    clash = root / other / Path(table["path"][usual[0]]).name
    assert not clash.exists()
    decisions.save(table, file)
    before = tree(root)
    said = call("--apply", file)
    assert tree(root) == before
    images, gone = (tree(file.parent / "cleaned" / name) for name in ("images", "quarantine"))
    assert len(images) + len(gone) == len(table) - 1 and "1 not readable" in said  # the link
    assert "no class before: a/new one" in said
    for name, sha in images.items():
        if not name.startswith("a_new one"):
            assert before.get(name, before[table["path"][usual[0]]]) == sha
    assert images[f"{other}/{Path(table['path'][usual[0]]).name}"] == table["sha256"][usual[0]]
    assert gone[f"by_hand/{table['path'][usual[2]]}"] == table["sha256"][usual[2]]
    assert {name.partition("/")[0] for name in gone} >= {"blank", "duplicate", "unreadable", "by_hand"}
    odd = {name.rpartition("/")[2] for name in before if "caf" in name}
    assert odd <= {name.rpartition("/")[2] for name in [*images, *gone]}
    assert not [name for name in os.listdir(file.parent) if name.endswith(".partial")]
    data = load_dataset(f"folder:{file.parent / 'cleaned' / 'images'}", image_size=32)
    assert "a_new one" in data.classes
    assert "already holds something" in call("--apply", file, code=2)


def test_apply_refuses_and_leaves_nothing_behind(copy, tmp_path, monkeypatch):
    root, file = copy
    before = decisions.load(file)
    assert "lies inside" in call("--apply", file, "--out", root / "new", code=2)
    assert "lies inside" in call(f"folder:{root}", "--out", root, code=2)
    victim = root / before["path"][before.index[before["decision"] == "keep"][-1]]
    data = victim.read_bytes()
    victim.write_bytes(data + b" ")
    assert "has changed since it was judged" in call("--apply", file, "--out", tmp_path / "x", code=2)
    victim.unlink()
    assert "is gone" in call("--apply", file, "--out", tmp_path / "x", code=2)
    victim.write_bytes(data)
    write(root / "late.png", np.zeros((3, 9, 9), np.uint8))
    assert "late.png is new since" in call("--apply", file, "--out", tmp_path / "x", code=2)
    (root / "late.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(decisions, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        call("--apply", file, "--out", tmp_path / "x", code=130)
    assert sorted(os.listdir(tmp_path)) == ["out", "set"]
    (file.parent / "source.txt").unlink()
    assert "say what the decisions are about" in call("--apply", file, code=2)
    call(f"folder:{root}", "--apply", file, "--out", tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(decision="maybe"), "decision 'maybe': is none of keep, remove, relabel, unsure"),
        (lambda t: t.assign(**{"decision": "relabel", "suggested label": " .."}), "needs a suggested label"),
        (lambda t: pd.concat([t, t]), "stands there twice"),
        (lambda t: t.drop(columns="sha256"), "no column 'sha256'"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_in_one_line(judged, tmp_path, change, message):
    change(decisions.load(judged[1] / "decisions.csv")).to_csv(tmp_path / "decisions.csv", index=False)
    said = call("--apply", tmp_path / "decisions.csv", code=2)
    assert message in said and said.count("\n") == 1
    (tmp_path / "decisions.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as a table" in call("--apply", tmp_path / "decisions.csv", code=2)


def test_usage(tmp_path, judged):
    assert "give a data set, --review or --apply" in call(code=2)
    assert "has no review.html" in call("--review", tmp_path, code=2)
    assert "of decisions (No such file or directory): make" in call("--apply", tmp_path / "gone.csv", code=2)
    (tmp_path / "source.txt").write_text("cells\n")
    assert call("--review", tmp_path / "source.txt", code=2).endswith(f"--out {tmp_path}\n")  # a file in the folder
    assert " files: " in call("--apply", judged[1], "--out", tmp_path / "applied")  # the folder of the table
    assert "holds decisions about cells" in call(f"folder:{judged[0]}", "--out", tmp_path, code=2)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_text("no")
    assert "none of the 1 files" in call(f"folder:{tmp_path / 'set'}", "--out", tmp_path / "o", code=2)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("place", ["{}.png", "one/{}.png", "{}/same.png"])
def test_tiny_sets_unlabelled_ones_and_those_of_one_class(tmp_path, place):
    images = cells.generate(10, 0)[0]
    for i in range(3):
        write(tmp_path / "set" / place.format(i), images[i], 50 + i)
    said = call(f"folder:{tmp_path / 'set'}", "--out", tmp_path / "out")
    assert "fewer than 20 images" in said and ("images of two classes" in said) == ("same" not in place)
    table = decisions.load(tmp_path / "out" / "decisions.csv")
    assert list(table["decision"]) == ["keep"] * 3
    call("--apply", tmp_path / "out" / "decisions.csv")
    assert tree(tmp_path / "out" / "cleaned" / "images") == tree(tmp_path / "set")


def test_of_a_picture_in_train_and_test_the_one_in_test_stays(tmp_path):
    images = cells.generate(20, 0)[0]
    for i in range(9):
        write(tmp_path / "set" / ("test" if i > 6 else "train") / "ab"[i % 2] / f"{i}.png", images[i])
    shutil.copy(tmp_path / "set/test/b/7.png", tmp_path / "set/train/b/copy.png")
    shutil.copy(tmp_path / "set/train/a/0.png", tmp_path / "set/train/a/again.png")
    call(f"folder:{tmp_path / 'set'}", "--out", tmp_path / "out")
    table = decisions.load(tmp_path / "out" / "decisions.csv").set_index("path")
    assert list(table.loc["train/b/copy.png", ["reason", "decision", "twin"]]) == ["leak", "remove", "test/b/7.png"]
    assert sorted(table.loc[["train/a/0.png", "train/a/again.png"], "reason"]) == ["", "duplicate"]
    table.loc["test/a/8.png", ["decision", "suggested label"]] = "relabel", "b"
    decisions.save(table.reset_index(), tmp_path / "out" / "decisions.csv")
    call("--apply", tmp_path / "out" / "decisions.csv")
    assert (tmp_path / "out/cleaned/images/test/b/8.png").is_file()


@pytest.mark.parametrize("kind", ["npz", "idx"])
def test_arrays_become_png_files_and_lose_nothing(tmp_path, kind):
    images, labels, _ = cells.generate(12, 0)
    labels = labels % 2
    if kind == "npz":
        images[3] = images[4]
        names = np.array(["a/b", "c"])[labels]
        names[3] = names[4]
        np.savez(tmp_path / "set.npz", images=images, labels=names, groups=np.arange(12) // 2)
        spec = f"npz:{tmp_path / 'set.npz'}"
    else:
        images = images[:, :1, 34:62, 34:62].copy()
        images[3], labels[3] = images[4], labels[4]
        header = bytes.fromhex("00000803") + b"".join(int(n).to_bytes(4, "big") for n in (12, 28, 28))
        (tmp_path / "train-images-idx3-ubyte").write_bytes(header + images.tobytes())
        head = bytes.fromhex("00000801") + (12).to_bytes(4, "big")
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())
        spec = f"idx:{tmp_path}"
    call(spec, "--out", tmp_path / "out")
    table = decisions.load(tmp_path / "out" / "decisions.csv")
    assert list(table["path"][:2]) == ["images[0]", "images[1]"] and (table["decision"] == "remove").sum() == 1
    said = call("--apply", tmp_path / "out" / "decisions.csv")
    assert "PNG files now" in said
    root = tmp_path / "out" / "cleaned" / "images"
    found = {int(path.stem): np.asarray(Image.open(path)) for path in root.rglob("*.png")}
    assert len(found) == 11 and {path.name for path in root.iterdir()} == (
        {"a_b", "c"} if kind == "npz" else {"0", "1"}
    )
    for row, pixels in found.items():
        assert np.array_equal(pixels, images[row].transpose(1, 2, 0).squeeze())
    if kind == "npz":  # of the new files, for `load_dataset`
        groups = pd.read_csv(root.parent / "groups.csv")
        assert {int(Path(path).stem): group for path, group in groups.to_numpy()} == {row: row // 2 for row in found}
        assert all((root / path).is_file() for path in groups["path"])
    else:
        assert not (root.parent / "groups.csv").exists()


def test_the_page_is_served_to_who_knows_its_address_and_saves(copy):
    _, file = copy
    url: list[str] = []
    ready = threading.Event()
    threading.Thread(
        target=review.serve, args=(file.parent, lambda found: (url.append(found), ready.set())), daemon=True
    ).start()
    assert ready.wait(10) and url[0].startswith("http://127.0.0.1:")

    def ask(path, body=None):
        try:
            with urllib.request.urlopen(urllib.request.Request(path, data=body), timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    assert ask(url[0])[1] == (file.parent / "review.html").read_bytes()
    assert ask(url[0] + "decisions.csv")[1] == file.read_bytes()
    assert {
        ask(url[0] + "source.txt")[0],
        ask(url[0][:-3] + "/")[0],
        ask("http://" + url[0].split("/")[2] + "/")[0],
    } == {404}
    table = decisions.load(file)
    review.decide(table, 0, "unsure")
    sent = table.to_csv(index=False).encode()
    assert ask(url[0][:-3] + "/decisions.csv", sent)[0] == 404 and ask(url[0] + "decisions.csv", sent)[0] == 204
    assert decisions.load(file).equals(table)
    assert ask(url[0] + "decisions.csv", sent.partition(b"\n")[2])[0] == 400
    status, why = ask(url[0] + "decisions.csv", table[1:].to_csv(index=False).encode())
    assert status == 400 and b"earlier run" in why and decisions.load(file).equals(table)


def test_the_explorer_decides_as_the_page_does(copy, monkeypatch):
    import IPython.display
    import ipywidgets

    _, file = copy
    shown = []
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
    explore.review(file.parent)
    (box,) = [thing for thing in shown if isinstance(thing, ipywidgets.VBox)]
    at, (keep, _, relabel, _, label) = box.children[0], box.children[1].children
    rows = [item["row"] for item in review.read_page(file.parent)["items"]]
    keep.click()
    relabel.click()  # no label anywhere: nothing happens
    assert at.value == 2
    label.value = "other"
    relabel.click()
    table = decisions.load(file)
    assert list(table.loc[rows[:2], "decision"]) == ["keep", "relabel"] and table["suggested label"][rows[1]] == "other"
    assert at.value == 3 and label.value == ""
    table[1:].to_csv(file, index=False)
    with pytest.raises(DataError, match="another run"):
        explore.review(file.parent)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes among files here")
def test_what_is_no_file_is_left_out_and_said(tmp_path):
    write(tmp_path / "a.png", np.zeros((3, 9, 9), np.uint8))
    os.mkfifo(tmp_path / "pipe")
    skipped: list[tuple[str, str]] = []
    assert [file.name for file in sources.walk(tmp_path, skipped)] == ["a.png"]
    assert skipped == [("pipe", "is neither a file nor a folder: move it away")]
    with pytest.raises(DataError, match="neither a file nor a folder"):
        list(sources.walk(tmp_path))
