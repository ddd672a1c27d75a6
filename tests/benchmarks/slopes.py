"""How time and memory grow with images, their size, and the batch of a contrastive loss: slopes on logarithmic axes.

    python tests/benchmarks/slopes.py [NAME...]

Each point is measured in a fresh copy of the process; the tables go into docs/measured.md. 1: twice as many, twice as
long; 2: four times as long. Memory is counted above that of a process which has imported everything.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from contest import forget_peak, in_fork, peak_memory, pictures
from machine import environment
from run import HERE, MEASURED, title, with_section

from labutil import device, evaluation, losses, models, representations
from labutil.augment import simclr_views
from labutil.data import load_dataset
from labutil.images import ImageSet
from labutil.training import fit

IMAGES, SIDES, BATCHES = (1_000, 3_000, 10_000, 30_000, 100_000), (28, 48, 64, 96, 128, 192), (64, 256, 1024, 4096)
RESULTS = HERE / "slopes.json"
Timed = Callable[[], object]  # built by the functions below, which prepare; called twice, timed the second time


def opening(n: int) -> Timed:
    """Of an .npz that the cache knows, with all its pixels read."""
    file = Path(os.environ["LABUTIL_DATA"]) / f"{n}.npz"
    np.savez(file, images=pictures(n, 32).numpy(), labels=np.arange(n) % 10)
    load_dataset(f"npz:{file}")

    def run() -> torch.Tensor:
        return load_dataset(f"npz:{file}").train.images.sum()

    return run


def features(n: int) -> Timed:
    images, network = pictures(n, 32), device.prepare(models.encoder("resnet8", image_size=32))
    return lambda: evaluation.predict(network, images)


def neighbours(n: int, d: int = 128) -> Timed:
    h, queries = torch.randn(n, d), torch.randn(1000, d)
    return lambda: representations.knn_probabilities(h, torch.arange(n) % 10, queries, 10)


def epoch(n: int, side: int = 32, name: str = "basic_cnn") -> Timed:
    model = device.prepare(models.Classifier(models.encoder(name, image_size=side), 10))
    data = ImageSet(pictures(n, side), torch.arange(n) % 10, tuple("0123456789"))

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            fit(lambda x, y: F.cross_entropy(model(x), y), [model], data, epochs=1, batch_size=64, lr=1e-3)

    return run


def views(side: int) -> Timed:
    x, draw = device.to_float(pictures(256, side)), simclr_views(side)
    return lambda: [draw(x) for _ in range(4)]


def contrastive(loss: Callable, n: int) -> Timed:
    z_a, z_b = (torch.randn(n, 128, requires_grad=True) for _ in range(2))
    return lambda: torch.autograd.grad(loss(z_a, z_b, torch.arange(n) % 10), (z_a, z_b))


STUDIES: dict[str, tuple[str, tuple[int, ...], Callable[[int], Timed]]] = {
    "opening again": ("images", IMAGES, opening),
    "features of resnet8, 32 px": ("images", IMAGES, features),
    "k-NN of 1,000 queries, 128 numbers each": ("images", IMAGES, neighbours),
    "an epoch of BasicCNN, 32 px": ("images", IMAGES, epoch),
    "SimCLR's views, 1,024 images": ("pixels a side", SIDES, views),
    "an epoch of resnet8, 256 images": ("pixels a side", SIDES, lambda side: epoch(256, side, "resnet8")),
    "info_nce": ("images a batch", BATCHES, lambda n: contrastive(lambda a, b, _: losses.info_nce(a, b, 0.5), n)),
    "sup_con": ("images a batch", BATCHES, lambda n: contrastive(lambda a, b, y: losses.sup_con(a, b, y, 0.1), n)),
}


def measure(build: Callable[[int], Timed], n: int) -> tuple[float, float]:
    """Seconds, and MiB at most."""
    run = build(n)
    forget_peak()
    if n < 30_000:
        run()  # the first call warms up; of long ones that is a small part
    started = time.perf_counter()
    run()
    return time.perf_counter() - started, peak_memory()


def row(name: str, points: dict[str, list[float]], base: float) -> str:
    n = np.array([float(key) for key in points])
    seconds, memory = np.array(list(points.values())).T
    above = np.maximum(memory - base, 1)
    slope, slope_memory = (np.polyfit(np.log(n), np.log(values), 1)[0] for values in (seconds, above))
    cells = [f"{s:.3g} s, {m:,.0f} MiB" for s, m in zip(seconds, above, strict=True)]
    return f"| {name} | {' | '.join(cells)} | {slope:.2f} | {slope_memory:.2f} |"


def main() -> None:
    facts = environment()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    results = results if results.get("environment") == facts else {"environment": facts, "studies": {}}
    results["base"] = in_fork(peak_memory)
    for name in sys.argv[1:] or STUDIES:
        _, values, build = STUDIES[name]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LABUTIL_DATA"] = folder
            found = {n: in_fork(lambda n=n, build=build: measure(build, n)) for n in values}
        results["studies"][name] = {str(n): point for n, point in found.items() if point}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        print(row(name, results["studies"][name], results["base"]), flush=True)
    lines = []
    for unit in dict.fromkeys(study[0] for study in STUDIES.values()):
        named = [name for name in results["studies"] if STUDIES[name][0] == unit]
        if named:
            values = [f"{n:,}" for n in STUDIES[named[0]][1]]
            lines += [
                "",
                f"| {unit} | {' | '.join(values)} | slope of time | of memory |",
                "|---" * (len(values) + 3) + "|",
            ]
            lines += [row(name, results["studies"][name], results["base"]) for name in named]
    text = MEASURED.read_text("utf-8")
    MEASURED.write_text(with_section(text, f"Scaling: {title(facts)}", "\n".join(lines)), "utf-8")


if __name__ == "__main__":
    main()
