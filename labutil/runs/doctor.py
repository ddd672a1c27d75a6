"""Is this machine fit for the workbook? What `labutil doctor` looks at, in at most three minutes on two cores.

A check yields lines: "ok", "note" (it works, but know this) or "wrong", and what is so; of the latter two what to do,
too. A training step is held against float64 on the CPU, and that against known numbers: `EXPECTED`.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import io
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import augment, encoders, losses, models, paths
from labutil import device as dev
from labutil.data import cells, store
from labutil.images import ImageSet
from labutil.runs.record import show_path, write_json
from labutil.training import fit

# Losses before and after `one_step` in float64. Where a change on purpose moves them, a test prints the new ones.
EXPECTED = {
    "cross-entropy": (2.10377, 2.010684),
    "SimCLR": (4.765222, 3.823233),
    "BYOL": (4.076296, 3.90573),
    "Barlow Twins": (51.68982, 50.76739),
    "SupCon": (4.584073, 4.268173),
    "autoencoder": (0.05656829, 0.05614407),
}
# How far a gradient may be from float64's, as a share of its length: what rounding does, with room. CUDA cards multiply
# fp32 as TF32, which has fp16's digits: on an H100 off by up to 0.054, where bf16 is by 0.08.
TOLERANCE = {"fp32": 0.05, "tf32": 0.15, "fp16": 0.15, "bf16": 0.4}
# `make run` on two cores of an AMD EPYC (Zen 4, held to AVX2 and fp32): minutes of training and of all else, images/s
# of the methods there (geometric mean), and milliseconds in which a cell is drawn.
TRAINING, ALL_ELSE, SPEED, CELL = 2.3, 4.1, 400.0, 1.2
SIDE, GB = 32, 1e9
ADVICE = "try another torch, or ACCELERATE_USE_CPU=1 and LABUTIL_PRECISION=fp32, and report it with doctor.json"
Lines = Iterator[tuple[str, str]]


def doctor(out: Path | None = None, tell: Callable[[str], object] = print) -> bool:
    """Make all checks, `tell` their lines, and leave doctor.json in `out` (None: where runs lie). True: nothing is
    wrong. A check that fails is wrong itself."""
    began, facts, lines = time.perf_counter(), {"started": datetime.datetime.now(datetime.UTC).isoformat()}, []

    def note(state: str, about: str, text: str) -> None:
        lines.append({"state": state, "about": about, "text": " ".join(text.split())})
        tell(f"{state:<6} {about:<10} {lines[-1]['text']}")

    for check in (packages, device, memory, disk, front_end, fonts, cache, steps, resuming, speed):
        about = check.__name__.replace("_", " ")
        try:
            for state, text in check(facts):
                note(state, about, text)
        except Exception as error:
            note("wrong", about, f"{type(error).__name__}: {str(error)[:300]}; report it with doctor.json")
    facts |= {"seconds": round(time.perf_counter() - began, 1), "lines": lines}
    file = (out or paths.runs_dir()) / "doctor.json"
    try:
        paths.make_folder(file.parent)
        write_json(file, facts)
        tell(f"{facts['seconds']:.0f} s; what to send with a report: {show_path(file)}")
    except (OSError, ValueError) as error:
        note("wrong", "report", f"{error}; name another folder with --out")
    return all(line["state"] != "wrong" for line in lines)


def packages(facts: dict[str, Any]) -> Lines:
    """Python and what is needed, against the lower bounds that the project declares."""
    here = facts["python"] = f"Python {platform.python_version()} on {platform.platform()}"
    if sys.maxsize < 2**32 or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield "note", f"{here} is not what was tested: a 64-bit 3.11 to 3.13 was"
    try:
        needed = [line.split(">=") for line in importlib.metadata.requires("labutil") or [] if ";" not in line]
    except importlib.metadata.PackageNotFoundError:
        yield "note", f"{here}; labutil is not installed, so no versions were checked: pip install it"
        return
    found = facts["packages"] = {}
    for name, least in needed:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
        has, wants = (
            tuple(map(int, re.findall(r"\d+", v.partition("+")[0])[:3])) for v in (found.get(name, ""), least)
        )
        if has < wants:
            yield "wrong", f"{name} is {found.get(name, 'missing')}: pip install '{name}>={least}'"
    yield "ok", f"{here}; {len(found)} packages"


def device(facts: dict[str, Any]) -> Lines:
    """The device, its precisions and instruction sets."""
    facts |= dev.describe() | {"instructions": torch.backends.cpu.get_cpu_capability()}
    kind, rates = dev.get_device(), {}
    side = 512 if kind.type == "cpu" else 4096
    for name, dtype in dev.PRECISIONS.items():
        with contextlib.suppress(RuntimeError, TypeError):  # not every device has every one
            a, times = torch.ones(side, side, device=kind, dtype=dtype), []
            for _ in range(4):
                began = time.perf_counter()
                (a @ a)[0, 0].item()
                times.append(time.perf_counter() - began)
            rates[name] = round(2e-9 * side**3 / min(times), 1)
    facts["gflops"] = rates
    chosen, told = facts["precision"], ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
    yield "ok", f"{facts['device']}; {facts['processor']}, {facts['instructions']}; {chosen}; GFLOP/s: {told}"
    if rates.get(chosen, 0) < 0.8 * rates["fp32"]:
        yield "note", f"{chosen} is slower than fp32 here: set LABUTIL_PRECISION=fp32"
    if (busy := psutil.cpu_percent(0.5)) > 40:
        yield "note", f"other programs keep {busy:.0f}% of the processor busy: all below is slower than it could be"


def memory(facts: dict[str, Any]) -> Lines:
    """What is free of it."""
    found = psutil.virtual_memory()
    facts["memory_gb"] = [round(found.available / GB, 1), round(found.total / GB, 1)]
    text = "{} of {} GB are free".format(*facts["memory_gb"])
    yield ("ok", text) if found.available > 3 * GB else ("note", f"{text}, lessons take up to 2: close other programs")


def disk(facts: dict[str, Any]) -> Lines:
    """Room, and the right to write, where data and runs lie."""
    for name, folder in (("LABUTIL_DATA", paths.data_dir()), ("LABUTIL_RUNS", paths.runs_dir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"doctor")
            free = facts[f"{name}_free_gb"] = round(psutil.disk_usage(str(folder)).free / GB, 1)
        except OSError as error:
            yield "wrong", f"{show_path(folder)} cannot be written ({error.strerror}): set {name} to another folder"
            continue
        advice = f": make room, or set {name} to a folder on another disk" if free < 5 else ""
        state = "ok" if free >= 5 else "note" if free >= 1 else "wrong"
        yield state, f"{show_path(folder)}: {free} GB are free{advice}"


def front_end(facts: dict[str, Any]) -> Lines:
    """The kernel that executes notebooks, and what shows them."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    again = "python -m ipykernel install --sys-prefix"
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield "wrong", f"Jupyter has no kernel python3: {again}"
    else:  # a bare "python" means the one that asks
        if os.path.isabs(program) and not Path(program).exists():
            yield "wrong", f"the kernel python3 is {program}, which is not there: {again}"
        elif os.path.isabs(program) and os.path.abspath(program) != os.path.abspath(sys.executable):
            yield "note", f"the kernel python3 is {program}, and this Python another: {again}"
    if not importlib.util.find_spec("ipywidgets"):
        yield "wrong", "ipywidgets is missing, and explorers with it: pip install ipywidgets"
    elif importlib.util.find_spec("jupyterlab") or dev.has_front_end():
        yield "ok", f"ipywidgets {importlib.metadata.version('ipywidgets')}, and what shows notebooks"
    else:
        yield "note", "JupyterLab is not installed: pip install jupyterlab, or open the notebooks elsewhere"


def fonts(facts: dict[str, Any]) -> Lines:
    """Whether a figure can be drawn, with every letter that ours hold."""
    from matplotlib.figure import Figure

    from labutil import style

    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, "aéß±×→≥…½ τλσ", family="DejaVu Sans")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        figure.savefig(io.BytesIO())
    if heard:
        yield "wrong", f"{heard[0].message}: reinstall matplotlib, which brings DejaVu Sans"
    scripts = {"Chinese": "猫", "Korean": "한", "Arabic": "ع", "Devanagari": "क"}
    have = frozenset().union(*style.installed_fonts().values())
    lacking = [name for name, letter in scripts.items() if ord(letter) not in have]
    also = f"; none for class names in {', '.join(lacking)}: a Noto font has them" if lacking else ""
    yield "ok", f"letters of figures are there{also}"


def cache(facts: dict[str, Any]) -> Lines:
    """Decoded data sets, against checksums that were taken when they were written; and encoders that load."""
    folders = [folder for folder in sorted((paths.data_dir() / "cache").glob("?" * 32)) if folder.is_dir()]
    for folder in folders:
        if not store.whole(folder):
            text = "is damaged or of an older version, and will not be used: delete this folder"
            yield "note", f"{show_path(folder)} {text}"
    for name in encoders.NAMES:
        models.load(encoders.find(name))
    yield "ok", f"{len(folders)} decoded data sets looked at, {len(encoders.NAMES)} encoders loaded"


def steps(facts: dict[str, Any]) -> Lines:
    """A training step of each method as this machine computes it, and what it should be."""
    cpu, facts["steps"] = torch.device("cpu"), {}
    ways = {(kind, precision) for kind in (cpu, dev.get_device()) for precision in ("fp32", dev.default_precision())}
    for name, known in EXPECTED.items():
        truth, gradient = one_step(name, cpu, None)
        found, wrong = facts["steps"].setdefault(name, {"float64": truth}), []
        if not np.allclose(truth, known, rtol=1e-4):
            wrong.append("float64: losses {:.6g}, {:.6g}, known are {:.6g}, {:.6g}".format(*truth, *known))
        for kind, precision in sorted(ways - {(cpu, "fp16")}, key=str):
            error = float((one_step(name, kind, precision)[1] - gradient).norm() / gradient.norm())
            found[f"{kind.type} {precision}"] = float(f"{error:.2g}") if math.isfinite(error) else str(error)
            bound = TOLERANCE["tf32" if (kind.type, precision) == ("cuda", "fp32") else precision]
            if not error <= bound:
                wrong.append(f"{kind.type} {precision} is off by {error:.2g}, rounding by {bound} at most")
        told = ", ".join(f"{way} {error}" for way, error in found.items() if way != "float64")
        yield ("wrong", f"{name}: {'; '.join(wrong)}: {ADVICE}") if wrong else ("ok", f"{name}: off by {told}")


def method(name: str) -> tuple[list[nn.Module], Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """A small network for a method: modules, and the loss of two views of a batch and its labels."""
    if name == "autoencoder":
        auto = models.ConvAutoencoder(3, (16, 32), SIDE, dropout=0.0)
        return [auto], lambda a, b, y: losses.reconstruction_loss(auto.decode(auto.encode(a)), a)
    encoder = models.encoder("resnet8", image_size=SIDE)
    if name == "cross-entropy":
        classifier = models.Classifier(encoder, len(cells.CLASSES))
        return [classifier], lambda a, b, y: F.cross_entropy(classifier(a), y)
    online, predictor = nn.Sequential(encoder, models.mlp_head(128, [256], 64)), models.mlp_head(64, [256], 64)
    target = models.momentum_copy(online)

    def loss(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        views = torch.cat([a, b])
        z_a, z_b = online(views).chunk(2)
        if name == "BYOL":
            t_a, t_b = target(views).chunk(2)
            return losses.byol(predictor(z_a), t_b) + losses.byol(predictor(z_b), t_a)
        if name == "Barlow Twins":
            return losses.barlow_twins(z_a, z_b, lambd=1 / 32)
        return losses.info_nce(z_a, z_b, 0.2) if name == "SimCLR" else losses.sup_con(z_a, z_b, y, 0.2)

    return [online, predictor, target] if name == "BYOL" else [online], loss


def one_step(name: str, kind: torch.device, precision: str | None) -> tuple[tuple[float, ...], Tensor]:
    """A step of SGD from known weights on known images, in a precision (None: float64): the losses before and after it,
    and the gradient, on the CPU."""
    modules, loss = method(name)
    random, dtype = np.random.PCG64(0), torch.float32 if precision else torch.float64
    for key, p in nn.ModuleList(modules).named_parameters():
        if p.ndim > 1:  # of a raw stream, which is the same in every release
            uniform = (random.random_raw(p.numel()) >> np.uint64(11)).astype(np.float64) / 2**52 - 1
            p.data = torch.from_numpy(uniform * math.sqrt(6 / p[0].numel())).float().view(p.shape)
        elif key.endswith("bias"):
            p.data.zero_()
    modules = [module.to(kind, dtype, memory_format=torch.channels_last) for module in modules]
    x, y = known_images(32)
    x, y = (x.float() / 255).to(kind), y.to(kind)
    a = augment.warp(x, augment.affine_matrices(x, angle=20.0, zoom=1.2, shift_x=0.1))
    b = augment.apply_colour(x.flip(3), *augment.colour_matrices(x, brightness=0.8, contrast=1.2, hue=0.1))
    trained, values = [p for module in modules for p in module.parameters() if p.requires_grad], []
    for _ in range(2):
        with dev.autocast(precision or "fp32", kind):
            value = loss(a.clamp(0, 1).to(dtype), b.clamp(0, 1).to(dtype), y)
        values.append(value.item())
        if len(values) == 1:  # times 1024, as fp16 has no small numbers
            gradients = [g / 1024 for g in torch.autograd.grad(1024 * value, trained)]
            with torch.no_grad():
                torch._foreach_sub_(trained, gradients, alpha=0.01)
    return tuple(values), torch.cat([g.flatten().cpu().double() for g in gradients])


def known_images(n: int, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Generated cells, the same on any machine, uint8 (n, 3, side, side), and their labels."""
    images, labels, _ = cells.generate(n, 0)
    return F.avg_pool2d(torch.from_numpy(images).float(), cells.SIZE // side).byte(), torch.from_numpy(labels)


def resuming(facts: dict[str, Any]) -> Lines:
    """A tiny fit that is killed and continued, against one that is not."""
    code = (  # with as many threads as here: another number adds in another order
        f"import sys, pathlib, torch; torch.set_num_threads({torch.get_num_threads()}); "
        "from labutil.runs import doctor; doctor.tiny_fit(pathlib.Path(sys.argv[1]), kill=True)"
    )
    search = os.pathsep.join([str(paths.project_root()), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        settings = {"env": os.environ | {"PYTHONPATH": search}, "capture_output": True, "text": True, "timeout": 120}
        done = subprocess.run([sys.executable, "-c", code, folder], check=False, **settings)
        if not done.returncode or not Path(folder, "checkpoints", "tiny.pt").exists():
            last = (done.stderr.strip().splitlines() or ["not killed"])[-1]
            yield "wrong", f"a fit in a process of its own left no checkpoint: {last[:300]}; report it with doctor.json"
            return
        resumed = tiny_fit(Path(folder))
    apart = facts["resumed_apart"] = float((resumed - tiny_fit(None)).abs().max())
    what = "a fit that was killed and continued has the weights of one that was not"
    if apart < 1e-4:
        yield ("note", f"{what} to {apart:.0e} only: tables may differ in the last digit") if apart else ("ok", what)
    else:
        yield "wrong", f"not so: {what} (off by {apart:.2g}): report it with doctor.json"


def tiny_fit(folder: Path | None, kill: bool = False) -> Tensor:
    """Weights after four epochs, with dropout and random views. folder: of checkpoints, from which it continues. kill:
    in the third epoch the process dies as by `kill -9`."""
    dev.seed_everything(0)
    data = ImageSet(*known_images(48, side=16), cells.CLASSES)
    model = dev.prepare(models.Classifier(models.encoder("basic_cnn", image_size=16), len(cells.CLASSES)))
    views, count = augment.simclr_views(16), iter(range(100))

    def step(x: Tensor, y: Tensor) -> Tensor:
        if next(count) == 7 and kill:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows the latter is as hard
        return F.cross_entropy(model(views(x)), y)

    run = folder and SimpleNamespace(dir=folder, resume=True, save_fit=print, save_history=print)
    with contextlib.redirect_stdout(io.StringIO()):
        fit(step, [model], data, epochs=4, batch_size=16, lr=0.01, schedule="cosine", run=run, name="tiny")
    return torch.cat([value.flatten().double().cpu() for value in model.state_dict().values()])


def speed(facts: dict[str, Any]) -> Lines:
    """Images a second of each method, as they are trained here, and what `make run` may take with that."""
    began = time.perf_counter()
    data = ImageSet(*known_images(256 if dev.get_device().type == "cpu" else 1024), cells.CLASSES)
    cell = facts["cell_ms"] = round((time.perf_counter() - began) / len(data) * 1000, 3)
    views, found = augment.simclr_views(SIDE, 0.5), facts.setdefault("images_per_second", {})
    for name in EXPECTED:
        dev.seed_everything(0)
        modules, loss = method(name)
        modules, two = [dev.prepare(module) for module in modules], name not in {"cross-entropy", "autoencoder"}
        with contextlib.redirect_stdout(io.StringIO()):
            step = lambda x, y, loss=loss, two=two: loss(views(x), views(x) if two else x, y)  # noqa: E731
            found[name] = fit(step, modules, data, epochs=3, batch_size=64, lr=0.001).images_per_second.max().round(1)
    mean = math.exp(sum(math.log(rate) for rate in found.values()) / len(found))
    minutes = facts["make_run_minutes"] = round(TRAINING * SPEED / mean + ALL_ELSE * cell / CELL, 1)
    yield "ok", ", ".join(f"{name} {rate:,.0f}" for name, rate in found.items()) + " images/s"
    yield "ok", f"`make run` may take about {minutes:.0f} minutes"
