"""What all workloads share: ours and a peer by turns, medians of five; the matrix product beside them; peak memory."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from labutil import device

ROUNDS, SECONDS = 5, 0.25
Side = Callable[[], object]
T = TypeVar("T")


@dataclass
class Contest:
    """A piece of work that both sides do, a call each time. A float that a call returns are the seconds that count."""

    ours: Side
    peer: Side
    items: int  # that a call handles
    peer_is: str  # its settings and threads
    unit: str = "images"
    flops: float | None = None  # of ours for an item, forward and backward, two for a multiplication and addition
    precision: str | None = None  # of ours; None: the default
    same: Callable[[], None] | None = None  # raises unless both sides come to the same


def compare(contest: Contest) -> dict:
    """The ratio of speeds, ours / peer, and what is behind it: medians of rounds in which each has its turn."""
    if contest.same:
        contest.same()
    contest.ours(), contest.peer()
    precision = contest.precision or device.default_precision()
    rounds = []
    for _ in range(ROUNDS):
        ours, peer = (contest.items / _seconds(side) for side in (contest.ours, contest.peer))
        rounds.append((ours / peer, ours, peer, matrix_product(precision) if contest.flops else 0))
    ratio, ours, peer, product = map(statistics.median, zip(*rounds, strict=True))
    found = {"ratio": ratio, "ours": ours, "peer": peer, "unit": f"{contest.unit}/s", "precision": precision}
    if contest.flops:
        found |= {"GFLOP/s": ours * contest.flops / 1e9, "matrix product": product}
        found["share"] = found["GFLOP/s"] / product
    return found | {"peer is": contest.peer_is}


def _seconds(side: Side) -> float:
    """What a call takes, the mean of as many as begin within SECONDS."""
    total, calls, started = 0.0, 0, time.perf_counter()
    while not calls or time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        counted = side()
        synchronize()
        total += counted if isinstance(counted, float) else time.perf_counter() - before
        calls += 1
    return total / calls


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matrix_product(precision: str, side: int = 2048) -> float:
    """GFLOP/s of a product of two square matrices on this machine: what nothing here can exceed by much."""
    a = torch.randn(side, side, device=device.get_device(), dtype=device.PRECISIONS[precision])
    a @ a
    synchronize()
    started = time.perf_counter()
    for _ in range(2):
        a @ a
    synchronize()
    return 2 * 2 * side**3 / (time.perf_counter() - started) / 1e9


def flops(step: Callable[[], Tensor], images: int) -> float:
    """Floating-point operations an image of a step on so many images; where its result has gradients, with backward."""
    with FlopCounterMode(display=False) as counter:
        result = step()
        if result.requires_grad:
            result.backward()
    return counter.get_total_flops() / images


def in_fork(function: Callable[[], T]) -> T | None:
    """What a function returns in a copy of this process, which leaves this one as it is; None where it fails, which it
    says, and where processes cannot be copied."""
    if not hasattr(os, "fork"):
        return None
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=lambda: sender.send(function()))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def forget_peak() -> None:
    """Let `peak_memory` count from now on: what was freed goes back to Linux, and its record is reset."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """MiB that this process has had at most: on a GPU of torch's memory there, else resident (without its children)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def pictures(n: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth random pictures, uint8 (n, channels, side, side), each with its own layout: nothing to download."""
    coarse = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    parts = [torch.nn.functional.interpolate(part, size=(side, side), mode="bicubic") for part in coarse.split(2048)]
    return torch.cat([part.clamp_(0, 1).mul_(255).to(torch.uint8) for part in parts])
