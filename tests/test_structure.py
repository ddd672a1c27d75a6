"""What keeps the package thin: imports go one way, notebooks have one parameters cell, nothing names a machine."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from labutil import parameters

ROOT = Path(__file__).resolve().parent.parent
# From the command down to the hardware. A module imports only from rows below its own.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["compare_report"],
    ["compare_models", "missing"],
    ["prediction", "report_commands"],
    ["checks", "explore"],
    ["explore_transfer", "explore_contrastive", "explore_autoencoder", "explore_comparison"],
    ["exploring"],
    ["checks_contrastive", "checks_transfer", "checks_autoencoder", "checks_comparison"],
    ["checking"],
    ["compare_plots"],
    ["plots"],
    ["drawing"],
    ["claims"],
    ["comparison"],
    ["results"],
    ["runs"],
    ["cleaning"],
    ["duplicates"],
    ["features", "probing"],
    ["embeddings", "ensembles"],
    ["evaluation"],
    ["significance"],
    ["training"],
    ["policies"],
    ["explanations"],
    ["augment", "models", "listing", "losses"],
    ["pretrained", "networks", "autoencoders"],
    ["datasets"],
    ["published", "folders", "faults"],
    ["readers", "cache", "splits", "defects"],
    ["download"],
    ["device"],
    ["parameters"],
    ["sources"],
    ["cells", "medmnist", "paths", "messages"],
]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "labutil").glob("*.py"))


def imported(path: Path) -> set[str]:
    """labutil's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "labutil":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labutil."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("labutil.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: relative import"
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_go_one_way(path):
    rank = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    if path.stem == "__init__":
        assert not imported(path)
        return
    assert path.stem in rank, f"say where {path.stem} belongs, in LAYERS"
    typing_only = _typing_imports(path)
    wrong = {name for name in imported(path) - typing_only if rank[name] <= rank[path.stem]}
    assert not wrong, f"{path.name} imports {wrong}, which lie above or beside it"


def _typing_imports(path: Path) -> set[str]:
    """Imports under `if TYPE_CHECKING:` never run."""
    found, elsewhere = set(), set()
    tree = ast.parse(path.read_text())
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    inside = {id(n) for g in guarded for n in ast.walk(g)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labutil"):
            names = {a.name for a in node.names} if node.module == "labutil" else {node.module.split(".")[1]}
            (found if id(node) in inside else elsewhere).update(names)
    return found - elsewhere


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_keep_the_contract(path):
    notebook = json.loads(path.read_text())
    declared = parameters.read_parameters(path)  # exactly one cell, literals only
    assert {"dataset", "seed", "data_seed"} <= set(declared)
    assert all(p.meaning for p in declared.values())
    cells = notebook["cells"]
    assert "widgets" not in notebook["metadata"]
    first = "".join(cells[0]["source"])
    assert first.startswith("# ") and "?" in first.splitlines()[0], "the title is a question"
    assert "colab.research.google.com" in first
    code = [c for c in cells if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), "committed executed, in order"
    for cell in code:
        source = "".join(cell["source"])
        assert ".cuda(" not in source
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(source.splitlines()) <= 25, source
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr", output
    assert path.stat().st_size < 1.5e6
    text = "\n".join("".join(c["source"]) for c in cells)
    assert text.count("lab.checks.") >= 3, "three exercises"
    assert text.count("<summary>Hint</summary>") == text.count("<summary>Solution</summary>") >= 3
    assert "lab.explore." in text
    assert "run.finish()" in text
    assert "What the reports found" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_exercises_are_committed_untouched(path):
    """No later cell may use a learner's function: Run All works with every stub as it is."""
    cells = json.loads(path.read_text())["cells"]
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    for i, source in enumerate(code):
        if match := re.search(r"lab\.checks\.\w+\((\w+)\)", source):
            assert re.search(rf"def {match[1]}\(.*\):\n(    #.*\n)*    return None", source), (
                f"{match[1]} is not a stub"
            )
            assert not any(match[1] in later for later in code[i + 1 :])


FILES = [
    *MODULES, *NOTEBOOKS, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile",
    *(ROOT / "tests").rglob("*.py"), *(ROOT / "notebooks" / "recipes").rglob("*.yaml"), ROOT / "data" / "README.md",
]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_names_a_machine(path):
    text = path.read_text()
    found = re.findall(r"(?<![\w.:])/(?:home|root|Users|work|mnt|tmp)/[\w.-]+", text)
    assert not found, f"{path.name} holds the path {found[0]}"
    if path.suffix == ".py" and path.parent.name == "labutil":
        assert ".cuda(" not in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks" / "recipes").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_recipes_fit_their_notebooks(path):
    notebook = ROOT / "notebooks" / f"{path.stem}.ipynb"
    assert notebook.exists()
    settings = parameters.read_recipe(path.parent.parent, path.parent.name, path.stem)
    parameters.merge(notebook, settings)
