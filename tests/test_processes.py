"""Two and three processes against one: losses, batch norms and gradients in float64, whole fits, resumed ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import several
import torch
import torch.nn.functional as F
from torch import nn

from labutil import processes
from labutil.checkpoint import ResumeError

STEPS = """
import sys, torch
from torch import nn, distributed
import torch.nn.functional as F
from labutil import processes
from labutil.losses import barlow_twins, byol, info_nce, sup_con

LOSSES = {
    "cross-entropy": lambda a, b, y: F.cross_entropy(a, y % 4),
    "byol": lambda a, b, y: byol(a, b) + byol(b, a),
    "info_nce": lambda a, b, y: info_nce(a, b, 0.1),
    "sup_con": lambda a, b, y: sup_con(a, b, y, 0.1),
    "sup_con, one view": lambda a, b, y: sup_con(a, None, y, 0.1),
    "barlow_twins": lambda a, b, y: barlow_twins(a, b, 0.01),
}

def train(loss_function, n):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 12, 1, 3, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, 6, (12,), generator=g)  # some images' only positives are with the other process
    torch.manual_seed(0)
    maps = [nn.Conv2d(1, 4, 2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten()]
    network = nn.Sequential(*maps, nn.Linear(24, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh(), nn.Linear(6, 4))
    network.to(torch.float64, memory_format=torch.channels_last)
    network.register_parameter("unused", nn.Parameter(torch.ones(1)))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, weight_decay=0.1)
    seen = []
    for _ in range(3):
        with processes.split(torch.arange(n)) as own:
            z_a, z_b = network(x[:, own].flatten(0, 1)).chunk(2)
            loss = loss_function(z_a, z_b, y[own])
        optimizer.zero_grad()
        (loss * len(own) / n).backward()
        processes.add_gradients(list(network.parameters()))
        seen += [processes.total(loss.detach() * len(own) / n).reshape(1)]
        seen += [p.grad.flatten().clone() for p in network.parameters() if p.grad is not None]
        optimizer.step()
    return torch.cat([*seen, *(v.flatten().double() for v in network.state_dict().values())])
"""
PROCESS = (
    STEPS
    + """
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
results = {f"{n} {name}": train(loss, n) for n in (12, 11) for name, loss in LOSSES.items()}
torch.save(results, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""
)


def test_steps_of_two_processes_equal_those_of_one(tmp_path):
    """Loss, gradients, weights and running statistics in each of three updates, of 12 images and of 11."""
    command = [sys.executable, "-c", PROCESS]
    started = [subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE) for rank in (0, 1)]
    for process in started:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr.decode()
    scope: dict = {}
    exec(STEPS, scope)  # the same text that the processes run
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(first) == 12
    for key, theirs in first.items():
        n, name = key.split(" ", 1)
        assert torch.equal(theirs, second[key]), key
        torch.testing.assert_close(theirs, scope["train"](scope["LOSSES"][name], int(n)), rtol=1e-9, atol=1e-9, msg=key)


def shared(monkeypatch, whole: int, own: slice, function):
    """What `function()` gives to the process that has these rows of a batch."""
    monkeypatch.setattr(processes, "_batch", (whole, own))
    try:
        return function()
    finally:
        monkeypatch.setattr(processes, "_batch", None)


def test_draws_are_those_of_the_whole_batch(monkeypatch):
    def drawn(n):
        return processes.draws(n, lambda m: torch.rand(m, 2, generator=torch.Generator().manual_seed(0)))

    whole = drawn(7)
    for own in (slice(0, 4), slice(4, 7)):
        size = own.stop - own.start
        assert torch.equal(shared(monkeypatch, 7, own, lambda size=size: drawn(size)), whole[own])
        twice = shared(monkeypatch, 7, own, lambda size=size: drawn(2 * size))
        assert torch.equal(twice, drawn(14).unflatten(0, (2, 7))[:, own].flatten(0, 1))
    with pytest.raises(ValueError, match="a step augments its whole batch: 3 images are augmented, of 4 that this"):
        shared(monkeypatch, 7, slice(0, 4), lambda: drawn(3))


@pytest.mark.parametrize("n", [2, 3, 16, 17])
@pytest.mark.parametrize("several_of_them", [1, 2, 3])
def test_rows_cover_a_batch_evenly(monkeypatch, n, several_of_them):
    monkeypatch.setattr(processes, "count", lambda: several_of_them)
    found = []
    for rank in range(several_of_them):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        found.append(torch.arange(n)[processes.rows(n)].tolist())
    assert [row for rows in found for row in rows] == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_more_processes_than_images_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="a batch of 2 images cannot be shared by 3 processes: raise batch_size"):
        processes.split(torch.arange(2)).__enter__()


def torchrun(count: int, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"LABUTIL_PRECISION": "fp32", "OMP_NUM_THREADS": "1"}
    program = [*command, str(several.__file__), *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=280, env=environment, check=False)


@pytest.fixture
def exactly(monkeypatch):
    """As the processes of `torchrun` compute: in float32, with a thread."""
    monkeypatch.setenv("LABUTIL_PRECISION", "fp32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def equal(a: dict, b: dict) -> bool:
    """Whether two processes, or two runs, came to the same, bit for bit."""
    same_state = all(torch.equal(value, b["state"][name]) for name, value in a["state"].items())
    rest = all(torch.equal(a[key], b[key]) for key in ("features", "draws"))
    return same_state and rest and a["history"] == b["history"]


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3])
def test_fits_of_several_processes_equal_those_of_one(tmp_path, exactly, count):
    """Losses within 1e-4, weights and running statistics within 1e-3; the processes among each other exactly."""
    done = torchrun(count, "everything", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" epochs in ") == 12, "the first process alone prints"
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)]
    for key, alone in several.everything().items():
        first, *others = (result[key] for result in results)
        assert all(equal(first, other) for other in others), key
        for column, values in alone["history"].items():
            assert first["history"][column] == pytest.approx(values, abs=1e-4), (key, column)
        for name, value in alone["state"].items():
            torch.testing.assert_close(first["state"][name], value, rtol=0, atol=1e-3, msg=f"{key} {name}")
        torch.testing.assert_close(first["features"], alone["features"], rtol=0, atol=1e-3)
        assert torch.equal(first["draws"], alone["draws"])


@pytest.mark.long
def test_a_killed_fit_of_two_processes_continues_bit_for_bit(tmp_path, exactly):
    """With dropout, which each process draws for itself. Another number of processes refuses."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert torchrun(2, "fit", whole).returncode == 0
    killed = torchrun(2, "fit", cut, 5)  # of three steps an epoch
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert not list(cut.glob("*.pt"))
    message = r"cut.checkpoints.byol\.pt: cannot continue, processes was 2, now 1; use the old setting"
    with pytest.raises(ResumeError, match=message):
        several.train("byol", 47, dropout=0.5, run=several.Run(cut))
    done = torchrun(2, "fit", cut)
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        a, b = (torch.load(folder / f"{rank}.pt") for folder in (whole, cut))
        assert equal(a, b)
        # Of the first process alone anything is recorded: at the beginning, and after each epoch that it ran.
        assert [fit.get("epochs_run") for fit in b["fits"]] == ([None, None, 3] if rank == 0 else [])
        assert b["histories"] == ([1, 2, 3] if rank == 0 else [])
    assert not equal(torch.load(whole / "0.pt"), several.train("byol", 47)), "there was dropout"


def test_batch_norms_of_bfloat16_have_float32_statistics(monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_gather", lambda every, own: [e.copy_(own) for e in every])
    x = torch.randn(16, 4, 5, 5).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    ours, torchs = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    with processes._SharedBatchNorm():
        found = ours(x)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, torchs(x))
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    with processes._SharedBatchNorm():
        assert torch.equal(F.batch_norm(x, ours.running_mean, ours.running_var), ours.eval()(x))
