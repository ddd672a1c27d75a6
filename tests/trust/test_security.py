"""Nothing is let in: no pickle runs, no shell is asked, no page executes a name, no lesson reaches for a network."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import IPython
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from labutil import checkpoint, evaluation, models, paths, representations, style, weights
from labutil.compare import results, tables
from labutil.course import grading
from labutil.data import catalogue, load_dataset, store
from labutil.runs import parameters

ROOT = Path(__file__).resolve().parents[2]
TAGS = ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "</p><svg/onload=alert(1)>", "<!--", "a<b"]


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def bomb(tmp_path):
    """Something that makes a file where it is unpickled; afterwards there must be none."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "it works")))
    assert (tmp_path / "it works").exists()
    yield Payload(tmp_path / "ran")
    assert not (tmp_path / "ran").exists()


def hidden(path: Path, bomb: Payload, kind: str) -> Path:
    """A file that runs the payload for who unpickles it, in the form of its kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array([bomb, None], object)
    if kind == "npy":
        np.save(path, array, allow_pickle=True)
    elif kind == "npz":
        np.savez(path, **dict.fromkeys(("images", "labels", "features", "seconds", "index", "y_true"), array))
    elif kind == "bare":
        path.write_bytes(pickle.dumps({"settings": {}, "epoch": bomb}))
    elif kind == "old":
        torch.save({"weight": bomb}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"weight": bomb}, path)
    return path


@pytest.mark.parametrize("kind", ["zip", "old", "bare"])
def test_no_pickle_in_weights_models_or_checkpoints_runs(bomb, kind, tmp_path):
    file = hidden(tmp_path / "x.pt", bomb, kind)
    net = nn.Linear(2, 2)
    for read in (
        lambda: checkpoint.load(file, {}, [net]),
        lambda: weights._from_file(file),
        lambda: models.encoder("resnet18", pretrained=True, weights=file),
        lambda: models.load(file),
        lambda: models.load(file.rename(file.with_suffix(".safetensors"))),
    ):
        with pytest.raises(Exception):  # noqa: B017 (which one is the business of other tests)
            read()


def test_no_pickle_in_arrays_runs(bomb, tmp_path, monkeypatch):
    with pytest.raises(paths.DataError, match="Python objects"):
        load_dataset(f"npz:{hidden(tmp_path / 'x.npz', bomb, 'npz')}")
    hidden(tmp_path / "run" / "predictions.npz", bomb, "npz")
    with pytest.raises(paths.DataError):
        results._predictions(tmp_path / "run", {"label": "x", "fits": {"a": 1}, "status": "complete", "metrics": {}})
    load_dataset("cells:20", image_size=8)
    ((labels, *_),) = (sorted(paths.data_dir().glob("cache/*/labels.npy")),)
    hidden(labels, bomb, "npy")
    assert store._open(labels.parent) is None
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(representations.models, "encoder", lambda *_, **__: nn.Flatten())
    monkeypatch.setattr(representations, "fold_batch_norms", lambda network: None)
    representations.timed_features(images)
    (cached,) = paths.data_dir().glob("cache/features/*.npz")
    hidden(cached, bomb, "npz")
    assert representations.timed_features(images)[0].shape == (2, 3072)


def calls(text: str):
    """Every call in a source: (dotted name, {keyword: its source})."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node.args


def test_the_package_unpickles_nothing_and_asks_no_shell():
    found = []
    for file in [*ROOT.glob("labutil/**/*.py"), *ROOT.glob("notebooks/*.py")]:
        for name, keywords, arguments in calls(file.read_text(encoding="utf-8")):
            last, bad = name.rpartition(".")[2], False
            bad |= name in {
                "eval",
                "os.system",
                "os.popen",
                "subprocess.getoutput",
                "yaml.unsafe_load",
                "yaml.full_load",
            }
            bad |= name.split(".")[0] in {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
            bad |= name == "torch.load" and keywords.get("weights_only") != "True"
            bad |= name == "yaml.load" and "BaseLoader" not in " ".join(map(ast.unparse, arguments))
            bad |= keywords.get("allow_pickle", "False") != "False" or keywords.get("shell", "False") != "False"
            bad |= keywords.get("verify", "True") != "True" or last == "_create_unverified_context"
            bad |= name == "exec" and file.name != "answering.py"  # a submission, in its container
            found += [f"{file.relative_to(ROOT)}: {name}"] if bad else []
    assert found == []


def test_every_download_has_its_checksum():
    assert all(len(sums) == len(catalogue.SIZES) for sums in catalogue.MD5.values())
    every = [md5 for sums in catalogue.MD5.values() for md5 in sums]
    for kind in (torchvision.datasets.MNIST, torchvision.datasets.FashionMNIST, torchvision.datasets.KMNIST):
        every += [md5 for _, md5 in kind.resources]
    every += [
        kind.tgz_md5
        for kind in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100, torchvision.datasets.STL10)
    ]
    assert all(len(md5) == 32 and int(md5, 16) for md5 in every) and len(set(every)) == len(every)
    assert set(catalogue.MD5) == set(catalogue.CLASSES)
    for name, _, arguments in calls((ROOT / "labutil" / "data" / "published.py").read_text(encoding="utf-8")):
        assert name not in {"urlopen", "urlretrieve", "requests.get"}
        assert name not in {"fetch", "_download", "download_url"} or len(arguments) >= 3


@pytest.mark.parametrize("tag", TAGS)
def test_names_of_data_and_runs_are_text_on_pages(tag, monkeypatch):
    shown, figure = [], style.plt.figure(figsize=(1, 1))
    assert tag not in style.as_html(figure, f"\"{tag}' {tag}")
    with monkeypatch.context() as patch:
        patch.setattr(style.plt, "show", lambda: None)
        patch.setattr(style.IPython, "get_ipython", object)
        patch.setattr(IPython.display, "display", lambda *found, **_: shown.extend(found))
        style.reading(f"*{tag}* is taken for *{tag}*, with 5 < 6, <5 and $a < b$")
    assert tag not in shown[0].data and "with 5 < 6, <5 and $a < b$" in shown[0].data
    report = evaluation.class_report([0, 1], np.eye(2), [tag, "age<30"])
    assert tag not in report.style.to_html() and tag not in report.style.format(precision=3).to_html()
    assert report.index[1] == "age<30"
    figure = style.plt.figure(figsize=(1, 1))
    assert tag not in style.as_html(figure, f"\"{tag}' {tag}")


def test_labels_and_settings_of_foreign_runs_are_text_on_pages(monkeypatch):
    method = results.Method(
        TAGS[0], TAGS[0], (), ({"notebook": "x", "params": {}, "recipe": TAGS[1]},), np.zeros((1, 2, 2))
    )
    results._tell_apart([method])
    assert method.label == TAGS[0].replace("<", "‹")
    fits = {TAGS[1]: {"criterion": TAGS[2], "optimizer": TAGS[0]}}
    plain = SimpleNamespace(
        name="x", label=method.label, records=[{"dataset": {"image_size": 8}, "fits": fits}], metric=lambda name: [0.5]
    )
    found = tables.settings_table(SimpleNamespace(methods=[plain])).style.hide().to_html()
    assert not any(tag in found for tag in TAGS)


@pytest.mark.parametrize("start", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", " =1"])
def test_no_cell_of_a_grading_table_is_a_formula(start):
    row = {"exercise": "a", "title": start, "status": "failed", "message": start}
    text = grading.as_csv([{"file": start, "lesson": "02", "exercises": [row], "error": ""}])
    cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
    assert not any(cell.lstrip()[:1] in {"=", "+", "-", "@"} for cell in cells)


@pytest.mark.parametrize("recipe", ["..", ".", "/etc", "smoke/", "../smoke", "", "smoke\n", "smoke\0"])
def test_recipes_lie_where_recipes_lie(recipe):
    with pytest.raises(parameters.ParameterError, match="no recipe"):
        parameters.read_recipe(parameters.find_notebook("02"), recipe)


@pytest.mark.parametrize(
    "text", ["[" * 3000 + "]" * 3000, "&a [*a]", "!!python/object/apply:os.system [echo]", "{a: 1}"]
)
def test_yaml_that_is_no_list_of_numbers_is_none(text):
    with pytest.raises(parameters.ParameterError, match="filters takes list"):
        parameters.merge(parameters.find_notebook("06"), {"filters": text})


ALONE = """
    import os, sys

    HERE = {"localhost", "", None, "0.0.0.0", "::1", "::"}

    def refuse(event, arguments):
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        if host not in HERE and not str(host).startswith("127."):
            with open(os.environ["REACHED"], "a") as file:
                file.write(f"{event} {host}\\n")
            raise PermissionError(f"{event} {host}: no network here")

    sys.addaudithook(refuse)
    open(os.environ["REACHED"] + f".{os.getpid()}", "w").close()
"""


def without_network(here: Path, *command: str) -> tuple[subprocess.CompletedProcess, str, int]:
    """A command that reaches this machine alone, as do its Pythons: what it tried beyond, and how many they were."""
    (here / "alone").mkdir()
    (here / "alone" / "sitecustomize.py").write_text(textwrap.dedent(ALONE), encoding="utf-8")
    search = os.pathsep.join([str(here / "alone"), str(ROOT)])
    known = {"PYTHONPATH": search, "REACHED": str(here / "reached"), "LABUTIL_DATA": str(here / "data")}
    done = subprocess.run(command, env=os.environ | known, capture_output=True, encoding="utf-8", check=False)
    tried = (here / "reached").read_text(encoding="utf-8") if (here / "reached").exists() else ""
    return done, tried, len(list(here.glob("reached.*")))


def test_the_guard_sees_what_reaches_out(tmp_path):
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done, tried, _ = without_network(tmp_path, sys.executable, "-c", code)
    assert done.returncode and "192.0.2.1" in tried


@pytest.mark.long
@pytest.mark.parametrize("lesson", ["01", "02", "03", "04", "05", "06", "07"])
def test_no_lesson_reaches_beyond_this_machine(tmp_path, lesson):
    run = [sys.executable, "-m", "labutil", "run", lesson, "--recipe", "smoke", "--out", str(tmp_path / "runs")]
    done, tried, processes = without_network(tmp_path, *run)
    assert done.returncode == 0, done.stderr
    assert tried == "" and processes >= 2  # the command, and its kernel


@pytest.mark.long
def test_a_data_set_whose_names_are_tags_writes_no_tag_into_a_notebook(tmp_path):
    data, arrays = load_dataset("cells:200", image_size=24), {}
    names = np.array([f"<img src=x onerror=alert({k})>" for k in range(len(data.classes))])
    for part in ("train", "val", "test"):
        found = getattr(data, part)
        arrays |= {f"{part}_images": found.images.numpy(), f"{part}_labels": names[found.labels.numpy()]}
    np.savez(tmp_path / "<b onclick=alert(1)>.npz", **arrays)
    run = [sys.executable, "-m", "labutil", "run", "02", "06", "--recipe", "smoke", "--out", str(tmp_path / "runs")]
    subprocess.run([*run, "-p", "dataset", f"npz:{tmp_path / '<b onclick=alert(1)>.npz'}"], check=True)
    compare = [sys.executable, "-m", "labutil", "compare", "--html", str(tmp_path / "runs")]
    subprocess.run(compare, check=True)
    written = 0
    for file in tmp_path.glob("runs/*/*/notebook.ipynb"):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                for kind in ("text/html", "text/markdown"):
                    text = "".join(output.get("data", {}).get(kind, ""))
                    assert "<img src=x" not in text and "<b onclick" not in text, (file, cell["id"])
                    written += "onerror" in text
    assert written > 3
    assert all("<img src=x" not in page.read_text(encoding="utf-8") for page in tmp_path.glob("runs/*.html"))


def test_archives_are_read_without_their_links_leading_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("../../out.npy", b"x")
    with pytest.raises(paths.DataError):
        load_dataset(f"npz:{tmp_path / 'x.npz'}")
    assert not (tmp_path.parent.parent / "out.npy").exists()
