"""Prints constraints.txt: the versions, in this environment, of all that `pip install '.[lab]'` brings."""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def needed() -> list[Requirement]:
    """What the base install and the extra `lab` name."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["lab"]]


def closure(requirements: list[Requirement]) -> dict[str, str]:
    """Installed distributions that these need, and what those need in turn: {name: version}. What only serves a kind of
    GPU is left out: torch's own wheel says which of it fits."""
    found, waiting = {}, list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another system
            continue
        found[name] = distribution.version.partition("+")[0]
        extras = requirement.extras or {""}
        inner = map(Requirement, distribution.requires or [])
        waiting += [r for r in inner if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    print("# Versions with which the tests passed, on", platform.system(), platform.machine(), end=", ")
    print(f"Python {platform.python_version()}. To have just these: pip install -c constraints.txt .")
    print("# torch's is one that was tested; any from 2.4 on should do. Made by `make constraints`.")
    print("\n".join(f"{name}=={version}" for name, version in closure(needed()).items()))
