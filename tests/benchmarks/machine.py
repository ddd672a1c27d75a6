"""What this machine is, and the switches under which it is measured."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform

import torch

from labutil import device

SWITCHES = ("LABUTIL_PRECISION", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
PEERS = ("lightly", "kornia", "pytorch-metric-learning", "scikit-learn", "ImageHash", "pillow")


def environment() -> dict[str, str | int]:
    """Processor, threads, instruction sets, precision, switches and versions, for the results and their heading."""
    has = _flags()
    sets = [flag for flag in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if flag in has]
    facts = device.describe()
    return {
        "processor": facts["processor"],
        "threads": torch.get_num_threads(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "precision": facts["precision"],
        "device": facts["device"],
        "the processor has": " ".join(sets) or "not known",
        "switches": " ".join(f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ) or "none",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
            + [f"{name} {importlib.metadata.version(name)}" for name in PEERS]
        ),
    }


def _flags() -> list[str]:
    """What the first processor can do, as /proc/cpuinfo names it; nothing where there is no such file."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("flags"):
                return line.partition(":")[2].split()
    return []
