"""What the workbook's notebooks share. Modules load on first use: `import labutil as lab`, then `lab.checks`."""

import importlib
import pkgutil
from types import ModuleType

_MODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"labutil.{name}")
    raise AttributeError(f"module 'labutil' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
