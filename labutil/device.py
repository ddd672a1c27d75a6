"""Accelerator, precision, seeds, and whether a person watches: all that is known of where the code runs."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import importlib.metadata
import os
import platform
import random
import sys
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import distributed, nn

from labutil.paths import check_choice

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_seed = 0
_generators: dict[str, torch.Generator] = {}


@functools.cache
def accelerator() -> Accelerator:
    """The process's one `accelerate.Accelerator`: it finds the device and, under `torchrun`, joins the processes."""
    from accelerate import Accelerator

    if "LOCAL_RANK" in os.environ and os.environ["WORLD_SIZE"] != "1" and not torch.distributed.is_initialized():
        # both, as what is gathered may lie on the CPU; hours, as others wait while one fills a cache
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(hours=4))
    _keep_freed_memory()
    found = Accelerator(mixed_precision="no")  # it holds one precision per process; `autocast` chooses per call
    if found.device.type == "cuda":
        torch.backends.cudnn.deterministic = True  # a resumed fit must equal one that was not cut
    return found


def _keep_freed_memory() -> None:
    """Have glibc (most Linuxes) keep freed blocks of up to 256 MiB, and about 1 GiB in all, for their next use.

    By default it gives large ones back at once, and the system fills the maps of the next layer or step with zeros
    anew, page by page: 5% to 20% of a training step.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        m_trim_threshold, m_mmap_threshold = -1, -3  # as malloc.h numbers them
        mallopt(m_mmap_threshold, 2**28) or mallopt(m_mmap_threshold, 2**25)  # the most that older releases take
        mallopt(m_trim_threshold, 2**30)


def get_device() -> torch.device:
    """The device to compute on: cuda, then mps, then cpu (`ACCELERATE_USE_CPU=1` forces the last)."""
    return accelerator().device


def process_count() -> int:
    """How many processes share the work; 1 where none were joined (accelerate joins those on CPUs, but counts 1)."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def default_precision() -> str:
    """`"bf16"` where the hardware has it, `"fp16"` (with gradient scaling) on older CUDA cards, else `"fp32"`.

    The environment variable LABUTIL_PRECISION (fp32, bf16, fp16) overrides it; raises ValueError for anything else.
    """
    if chosen := os.environ.get("LABUTIL_PRECISION"):
        check_choice("LABUTIL_PRECISION", chosen, tuple(PRECISIONS))
        return chosen
    kind = get_device().type
    if kind == "cuda":
        # Cards before Ampere emulate bf16 slowly, and have fp16 tensor cores since Volta.
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    if platform.machine().lower() in {"aarch64", "arm64"}:
        in_hardware = platform.system() == "Linux" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        # an older torch, such as 2.4, cannot tell
        in_hardware = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
    return "bf16" if kind == "cpu" and in_hardware else "fp32"


def autocast(precision: str | None = None, device: torch.device | None = None) -> contextlib.AbstractContextManager:
    """Context in which matrix products and convolutions run in `precision` (None: `default_precision()`)."""
    precision, kind = precision or default_precision(), (device or get_device()).type
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(kind, PRECISIONS[precision])


def to_float(images: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """uint8 (N, C, H, W) -> float32 in [0, 1] on the device, channels last (the layout that convolutions like)."""
    x = images.to(device or get_device(), non_blocking=True)
    return x.to(torch.float32, memory_format=torch.channels_last).div_(255)


def prepare(*modules: nn.Module) -> nn.Module | tuple[nn.Module, ...]:
    """Move modules to the device in channels-last layout; returns one module for one, else a tuple.

    For several processes with a GPU each, batch norms become torch's `SyncBatchNorm`; on CPUs `fit` synchronises them.
    """
    if get_device().type == "cuda" and process_count() > 1:
        from timm.layers import convert_sync_batchnorm  # torch's own would drop the activation in timm's batch norms

        modules = tuple(map(convert_sync_batchnorm, modules))
    prepared = [module.to(get_device(), memory_format=torch.channels_last) for module in modules]
    return prepared[0] if len(prepared) == 1 else tuple(prepared)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back, a frozen encoder its `eval()`."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, torch (initialisation, dropout) and this package's own generators (order, augmentation)."""
    global _seed  # noqa: PLW0603
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed} must lie between 0 and 2**32 - 1")
    _seed = seed
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries that draw from NumPy's global state)
    torch.manual_seed(seed)
    _generators.clear()


def generator(purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The package's own random generator for a purpose ("order", "augment") on a device.

    Separate from torch's global state, so that a figure drawn between two epochs changes nothing.
    """
    device = torch.device(device)
    key = f"{purpose}:{device.type}"
    if key not in _generators:
        # crc32 rather than hash(), which differs between processes
        _generators[key] = torch.Generator(device).manual_seed(zlib.crc32(f"{_seed}:{key}".encode()))
    return _generators[key]


def random_states() -> dict:
    """Every random state that a training step can draw from, in types that `torch.load(weights_only=True)` reads."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    states = {
        "seed": _seed,
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "own": {key: g.get_state() for key, g in _generators.items()},
        "cuda": torch.cuda.get_rng_state_all(),
    }
    return states | ({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {})


def restore_random_states(states: dict) -> None:
    """Undo everything drawn since `random_states()` gave `states`."""
    global _seed  # noqa: PLW0603
    _seed = states["seed"]
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    _generators.clear()
    for key, state in states["own"].items():
        generator(*key.split(":")).set_state(state)
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states.get("cuda", []))
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def has_front_end() -> bool:
    """Whether this kernel belongs to a notebook that a person has open (JupyterLab, Colab, VS Code, Voila)."""
    if "LABUTIL_RUN_DIR" in os.environ:
        return False
    in_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
    if "JPY_SESSION_NAME" in os.environ or "google.colab" in sys.modules or in_voila:
        return True
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


def person_watches() -> bool:
    """Whether a progress bar has a reader: a notebook's front end or a terminal. Of several processes the first has."""
    return os.environ.get("RANK", "0") == "0" and (has_front_end() or sys.stdout.isatty())


def progress_bar(total: int, text: str, unit: str, initial: int = 0) -> tqdm:
    """A bar on standard output (notebooks show standard error as an error) where a person watches, otherwise none.

    total: how many updates make it full. initial: what was done before. It shows after one second and leaves nothing
    behind.
    """
    from tqdm import tqdm

    return tqdm(
        total=total, desc=text, unit=unit, initial=initial, delay=1, mininterval=0.5,
        dynamic_ncols=True, file=sys.stdout, disable=not person_watches(), leave=False,
    )  # fmt: skip


def processor() -> str:
    """What the processor calls itself, such as "AMD Ryzen 5 5500U"."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, str]:
    """Device, processor, precision and versions, for the run record."""
    kind, count = get_device().type, process_count()
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{kind}, {torch.get_num_threads()} threads"
    if kind == "cpu" and (turns := os.environ.get("GOMP_SPINCOUNT")):  # how long threads wait awake: `labutil` sets it
        name += f" (GOMP_SPINCOUNT={turns})"
    return {
        "device": f"{count} x {name}" if count > 1 else name,
        "processor": processor(),
        "precision": default_precision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": importlib.metadata.version("torchvision"),
        "numpy": np.__version__,
    }
