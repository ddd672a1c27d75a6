"""Seeds, generators, precision and layout."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from labutil import device


def draw():
    return (
        random.random(),
        np.random.rand(),  # noqa: NPY002
        torch.rand(1).item(),
        torch.rand(1, generator=device.generator("order")).item(),
        torch.rand(1, generator=device.generator("augment")).item(),
    )


def test_seed_everything_repeats_and_separates():
    device.seed_everything(3)
    first = draw()
    device.seed_everything(3)
    assert draw() == first
    device.seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    assert len(set(first[2:])) == 3  # three generators, three streams


def test_random_states_go_there_and_back_through_a_file(tmp_path):
    device.seed_everything(0)
    draw()
    torch.save(device.random_states(), tmp_path / "states.pt")
    expected = draw()
    device.seed_everything(9)
    device.restore_random_states(torch.load(tmp_path / "states.pt", weights_only=True))
    assert draw() == expected


def test_generators_do_not_touch_the_global_state():
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    torch.rand(5, generator=device.generator("augment"))
    assert torch.equal(torch.get_rng_state(), expected)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="must lie between"):
            device.seed_everything(seed)


def test_to_float_is_channels_last_and_in_the_unit_interval():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    x = device.to_float(images)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x.cpu(), images / 255)


def test_prepare_returns_what_it_was_given():
    a, b = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)
    assert device.prepare(a) is a
    assert device.prepare(a, b) == (a, b)
    assert a.weight.device.type == device.get_device().type


def test_precision_names():
    assert device.default_precision() in device.PRECISIONS
    linear, x = nn.Linear(4, 4), torch.rand(2, 4)
    with device.autocast("bf16", torch.device("cpu")):
        assert linear(x).dtype == torch.bfloat16
    with device.autocast("fp32", torch.device("cpu")):
        assert linear(x).dtype == torch.float32


def test_a_kernel_of_labutil_run_has_no_front_end(monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "x.ipynb")
    monkeypatch.delenv("LABUTIL_RUN_DIR", raising=False)
    assert device.has_front_end()
    monkeypatch.setenv("LABUTIL_RUN_DIR", "/runs/x")
    assert not device.has_front_end()


@pytest.mark.parametrize("watched", [True, False])
def test_a_progress_bar_is_for_who_watches(monkeypatch, capfd, watched):
    monkeypatch.setattr(device, "person_watches", lambda: watched)
    with device.progress_bar(3000, "reading", "file") as bar:
        bar.update(2000)
        bar.refresh()
    out, err = capfd.readouterr()
    assert ("reading" in out and "2000/3000" in out) == watched and bool(out) == watched and err == ""


def test_labutil_precision_overrides_the_hardware(monkeypatch):
    monkeypatch.setenv("LABUTIL_PRECISION", "fp32")
    assert device.default_precision() == "fp32"
    monkeypatch.setenv("LABUTIL_PRECISION", "fp23")
    with pytest.raises(ValueError, match=r"LABUTIL_PRECISION='fp23'.*fp32"):
        device.default_precision()


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="libgomp's turns are for Linux on x86"
)
@pytest.mark.parametrize(
    ("wish", "first", "turns"),
    [
        ({}, "labutil", "2000"),
        ({"GOMP_SPINCOUNT": "7"}, "labutil", "7"),
        ({"OMP_WAIT_POLICY": "passive"}, "labutil", "0"),
        ({}, "torch", None),  # too late: then neither the library nor the record may say 2000
    ],
)
def test_threads_wait_awake_for_a_short_while_only(wish, first, turns):
    unset = {k: v for k, v in os.environ.items() if k not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    environment = unset | wish | {"OMP_DISPLAY_ENV": "verbose", "ACCELERATE_USE_CPU": "1"}  # libgomp tells what it read
    program = f"import {first}\nfrom labutil import device\nprint(device.describe()['device'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    told = [line.strip() for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    if turns is None:
        assert told[0] != "GOMP_SPINCOUNT = '2000'" and "GOMP" not in done.stdout
    else:
        assert told[0] == f"GOMP_SPINCOUNT = '{turns}'"
        assert ("GOMP_SPINCOUNT=" + turns in done.stdout) == ("OMP_WAIT_POLICY" not in wish)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_freed_memory_is_kept_for_its_next_use():
    """By page faults while 64 MiB are asked for and let go forty times: 16,384 each time where they are not kept."""
    code = """if True:
        import resource, sys, torch
        from labutil import device
        if sys.argv[1] == "kept":
            device.get_device()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(40):
            torch.ones(2**24)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "given back")
    )
    assert given_back > 39 * 2**14
    assert kept < given_back / 3  # not always: a block that begins elsewhere may not fit where the last one was
