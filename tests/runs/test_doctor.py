"""What `labutil doctor` says of a machine that is well, and of one with faults planted."""

from __future__ import annotations

import importlib.metadata
import json

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from jupyter_client import kernelspec

from labutil import checkpoint, cli, losses, paths
from labutil.data import load_dataset, store
from labutil.runs import doctor


def lines(check) -> list[tuple[str, str]]:
    return list(check({}))


def wrong(check) -> list[str]:
    return [text for state, text in lines(check) if state == "wrong"]


def only(monkeypatch, name: str) -> None:
    monkeypatch.setattr(doctor, "EXPECTED", {name: doctor.EXPECTED[name]})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fit_continues_with_as_many_threads_as_it_began_with(threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert wrong(doctor.resuming) == []
    finally:
        torch.set_num_threads(before)


def test_a_machine_that_is_well(tmp_path):
    """All of it, once. Where a network or loss changed on purpose, the message has the new EXPECTED."""
    result = CliRunner().invoke(cli.main, ["doctor", "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "new" / "doctor.json").read_text())
    assert {line["about"] for line in found["lines"]} == {
        "packages", "device", "memory", "disk", "front end", "fonts", "cache", "steps", "resuming", "speed"
    }  # fmt: skip
    assert set(found["steps"]) == set(found["images_per_second"]) == set(doctor.EXPECTED)
    assert min(found["images_per_second"].values()) > 0 and found["make_run_minutes"] > 0
    assert found["resumed_apart"] == 0
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0] or found["packages"]["torch"]
    assert all(line in result.output for line in (entry["text"] for entry in found["lines"]))
    assert not list(paths.runs_dir().glob("*"))


def crooked(x, weight, *args, only=torch.float32, **kwargs):
    """A convolution that mixes up two of its input channels, in one precision."""
    broken = weight.roll(1, 1) if only is None or weight.dtype == only else weight
    return RIGHT(x, broken, *args, **kwargs)


RIGHT = F.conv2d


def test_a_wrong_convolution_is_caught(monkeypatch):
    only(monkeypatch, "cross-entropy")
    monkeypatch.setenv("LABUTIL_PRECISION", "fp32")
    assert not wrong(doctor.steps)
    monkeypatch.setattr(F, "conv2d", crooked)
    (text,) = wrong(doctor.steps)
    assert text.startswith("cross-entropy: cpu fp32 is off by") and "known are" not in text


def test_a_convolution_that_is_wrong_in_float64_too_is_caught(monkeypatch):
    only(monkeypatch, "autoencoder")
    monkeypatch.setattr(F, "conv2d", lambda *args, **kwargs: crooked(*args, only=None, **kwargs))
    (text,) = wrong(doctor.steps)
    assert "float64: losses" in text and "off by" not in text


def test_a_convolution_that_gives_no_numbers_in_bfloat16_is_caught(monkeypatch):
    only(monkeypatch, "SupCon")
    monkeypatch.setenv("LABUTIL_PRECISION", "bf16")

    def convolution(x, weight, *args, **kwargs):
        out = RIGHT(x, weight, *args, **kwargs)
        return out * torch.nan if out.dtype == torch.bfloat16 else out

    monkeypatch.setattr(F, "conv2d", convolution)
    (text,) = wrong(doctor.steps)
    assert "cpu bf16 is off by nan" in text and "fp32 is" not in text


@pytest.mark.parametrize(
    ("name", "function", "bend"),
    [
        ("SimCLR", "info_nce", lambda right: lambda a, b, tau: right(a, b, 2 * tau)),
        ("BYOL", "byol", lambda right: lambda p, z: right(p, z.roll(1, 0))),
        ("Barlow Twins", "barlow_twins", lambda right: lambda a, b, lambd: right(a, b, 0.0)),
        ("SupCon", "sup_con", lambda right: lambda a, b, y, tau: losses.info_nce(a, b, tau)),
        ("autoencoder", "reconstruction_loss", lambda right: lambda p, x: right(p, x.flip(3))),
    ],
)
def test_a_wrong_loss_is_caught(monkeypatch, name, function, bend):
    only(monkeypatch, name)
    monkeypatch.setattr(losses, function, bend(getattr(losses, function)))
    (text,) = wrong(doctor.steps)
    assert text.startswith(f"{name}: float64: losses")


def test_a_step_trains():
    """It is a step down, and from the same weights every time."""
    cpu = torch.device("cpu")
    for name, (before, after) in doctor.EXPECTED.items():
        assert after < before, name
    (first, g), (again, h) = (doctor.one_step("BYOL", cpu, None) for _ in range(2))
    assert first == again and torch.equal(g, h) and g.dtype == torch.float64


def test_a_fit_that_forgets_its_random_states_is_caught(monkeypatch):
    monkeypatch.setattr(checkpoint, "restore_random_states", lambda states: None)
    (text,) = wrong(doctor.resuming)
    assert text.startswith("not so") and "off by" in text


def test_a_python_that_does_not_start_is_caught(monkeypatch, tmp_path):
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho it does not start >&2\nexit 3\n")
    false.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(false))
    (text,) = wrong(doctor.resuming)
    assert "no checkpoint: it does not start" in text


def test_a_broken_cache_is_caught():
    load_dataset("cells:40", image_size=16)
    folders = sorted(paths.data_dir().glob("cache/" + "?" * 32))
    assert len(folders) == 2 and all(map(store.whole, folders))
    assert [state for state, _ in lines(doctor.cache)] == ["ok"]
    images = folders[0] / "images.bin"
    whole = images.read_bytes()
    for damaged in (whole[:-1], whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]):
        images.write_bytes(damaged)
        assert not store.whole(folders[0])
        (state, text), (last, _) = lines(doctor.cache)
        assert (state, last) == ("note", "ok") and folders[0].name in text and text.endswith("delete this folder")
    load_dataset("cells:40"), load_dataset("cells:40", image_size=16)  # which see it, and make it anew
    assert store.whole(folders[0])


def test_a_folder_that_cannot_be_written_is_caught(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABUTIL_DATA", str(tmp_path / "file" / "data"))
    (text,) = wrong(doctor.disk)
    assert "cannot be written" in text and "set LABUTIL_DATA" in text
    monkeypatch.setattr(doctor.psutil, "disk_usage", lambda folder: type("Usage", (), {"free": 3e8})())
    assert any("0.3 GB are free: make room" in text for text in wrong(doctor.disk))


def test_a_kernel_that_is_missing_or_another_python_is_caught(monkeypatch, tmp_path):
    def spec(program):
        return lambda self, name: kernelspec.KernelSpec(argv=[program])

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", spec(str(tmp_path / "python")))
    assert "which is not there" in wrong(doctor.front_end)[0]
    (tmp_path / "python").write_text("")
    assert ("note", "another") in [
        (state, "another" if "another" in text else "") for state, text in lines(doctor.front_end)
    ]
    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", spec("python"))
    assert not wrong(doctor.front_end)

    def none(self, name):
        raise kernelspec.NoSuchKernel(name)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    assert "no kernel python3" in wrong(doctor.front_end)[0]


def test_packages_that_are_old_or_missing_are_caught(monkeypatch):
    right = importlib.metadata.version

    def version(name):
        if name == "timm":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.3.1+cpu" if name == "torch" else right(name)

    assert not wrong(doctor.packages)
    monkeypatch.setattr(importlib.metadata, "version", version)
    old, missing = sorted(wrong(doctor.packages), reverse=True)
    assert old.startswith("torch is 2.3.1+cpu: pip install 'torch>=") and missing.startswith(
        "timm is missing: pip install"
    )


def test_a_missing_glyph_is_caught(monkeypatch):
    import matplotlib.figure

    right = matplotlib.figure.Figure.text
    monkeypatch.setattr(
        matplotlib.figure.Figure, "text", lambda self, x, y, s, **k: right(self, x, y, s + "\U00040000", **k)
    )
    assert "reinstall matplotlib" in wrong(doctor.fonts)[0]


def test_what_goes_wrong_is_told_and_written(monkeypatch, tmp_path):
    def memory(facts):
        yield "ok", "so far"
        raise RuntimeError("two\nlines")

    for name in ("packages", "device", "disk", "front_end", "fonts", "cache", "steps", "resuming", "speed"):
        monkeypatch.setattr(doctor, name, type("Nothing", (), {"__name__": name, "__call__": lambda *_: ()})())
    monkeypatch.setattr(doctor, "memory", memory)
    told = []
    assert not doctor.doctor(tmp_path, told.append)
    assert told[:2] == [
        "ok     memory     so far",
        "wrong  memory     RuntimeError: two lines; report it with doctor.json",
    ]
    assert json.loads((tmp_path / "doctor.json").read_text())["lines"][1]["state"] == "wrong"
    (tmp_path / "file").write_text("")
    assert not doctor.doctor(tmp_path / "file", told.append) and "name another folder" in told[-1]
    result = CliRunner().invoke(cli.main, ["doctor", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "wrong  memory" in result.output
