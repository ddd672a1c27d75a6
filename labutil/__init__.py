"""What the workbook's notebooks share: a small core, which is what the lessons teach, and wings around it.

Nothing is imported before it is used: `import labutil as lab`, then `lab.losses`, `lab.checks`, `lab.explore`, ...
"""

import importlib
import os
import pkgutil
import platform
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Threads that share an operation wait for each other at its end. libgomp, which torch brings on Linux, lets them turn
# in a loop 300,000 times (10 ms) before they sleep, which beside one other busy program makes two threads slower than
# one, up to ten times. 2,000 turns still bridge the gaps between operations. It is read when torch is loaded, here and
# in every process that is started from here. Elsewhere a turn has another length (ARM), or nobody knows the name.
if platform.machine() == "x86_64" and "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def on_demand(package: str, offered: dict[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports what it offers when it is first asked for.

    package: its `__name__`. offered: {name: the module that holds it, below the package}; a package's own modules are
    always offered.
    """
    modules = frozenset(module.name for module in pkgutil.iter_modules(sys.modules[package].__path__))

    def get(name: str) -> Any:
        if name in offered:
            return getattr(importlib.import_module(f"{package}.{offered[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted({*offered, *modules})


_modules, _names = on_demand(__name__, {})


def __getattr__(name: str) -> ModuleType:
    if name in {"checks", "explore"}:  # short names of what lessons call most
        return importlib.import_module(f"labutil.course.{name}")
    return _modules(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_names(), "checks", "explore"})
