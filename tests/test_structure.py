"""What keeps the package thin: imports go one way, notebooks have one parameters cell, nothing names a machine."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import labutil
from labutil.runs import parameters

ROOT = Path(__file__).resolve().parent.parent
# Who may import whom: the core no wing, and each wing those that it builds on.
WINGS = {
    "data": {"core"},
    "cleaning": {"core", "data"},
    "runs": {"core", "data"},
    "compare": {"core", "data", "runs"},
    "sweeps": {"core", "data", "runs", "compare"},
    "course": {"core", "data", "cleaning", "runs", "compare", "sweeps"},
    "cli": {"core", "data", "cleaning", "runs", "compare", "sweeps", "course"},
    "__main__": {"cli"},
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "labutil").rglob("*.py"))


def place(module: str) -> str:
    """The wing that holds a module, "labutil.data.store" -> "data"; or "core"."""
    part = module.split(".")[1] if "." in module else "core"
    return part if part in WINGS else "core"


def imported(path: Path) -> set[str]:
    """labutil's modules that a file imports, anywhere in it but under `if TYPE_CHECKING:`, which never runs."""
    tree = ast.parse(path.read_text())
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    never = {id(n) for g in guarded for n in ast.walk(g)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in never:
            assert not node.level, f"{path.name}: relative import"
            if (node.module or "").split(".")[0] == "labutil":
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in NAMES else node.module for name in inner}
        elif isinstance(node, ast.Import) and id(node) not in never:
            found |= {a.name for a in node.names if a.name.split(".")[0] == "labutil"}
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


@pytest.mark.parametrize("name", NAMES)
def test_wings_stand_on_the_core_and_never_the_other_way(name):
    own = place(name)
    allowed = WINGS.get(own, set()) | {own}
    wrong = {module for module in imported(NAMES[name]) if place(module) not in allowed and module != "labutil"}
    assert not wrong, f"{name} imports {wrong}"


def test_imports_make_no_circles():
    arrows = {name: imported(path) - {name, "labutil"} for name, path in NAMES.items()}
    left = set(arrows)
    while True:
        free = {name for name in left if not arrows[name] & left}
        if not free:
            break
        left -= free
    assert not left, f"these import each other: {sorted(left)}"


def test_the_core_imports_no_wing_and_nothing_heavy_before_it_is_used():
    script = """
import sys
import torch
from labutil import augment, evaluation, losses, models, policies, representations, training
models.Classifier(models.encoder("resnet8", image_size=24), 8)(torch.rand(2, 3, 24, 24))
loaded = set(sys.modules)
heavy = {"pandas", "matplotlib", "sklearn", "seaborn", "scipy.stats", "timm", "torchvision", "accelerate"} & loaded
wings = {m for m in loaded if m.startswith(("labutil.data", "labutil.runs", "labutil.cleaning", "labutil.compare"))}
print(heavy, wings)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()"], done.stdout


@pytest.mark.parametrize(
    ("lessons", "slow"),
    [
        (NOTEBOOKS[:1], {"timm", "torchvision", "seaborn", "accelerate"}),
        (NOTEBOOKS[1:], {"timm", "torchvision", "seaborn", "accelerate", "sklearn", "scipy.stats"}),
    ],
    ids=["01, which imports scikit-learn", "the others"],
)
def test_a_lessons_first_cell_imports_nothing_slow_that_can_wait(lessons, slow):
    """It is what a reader waits for first. Each of these takes a good part of a second, torchvision and timm more."""
    cells = [next(c for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "code") for p in lessons]
    source = re.sub(r"(?m)^(\s+)[!%].*", r"\1pass", "\n".join("".join(c["source"]) for c in cells))
    code = f"{source}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not slow & set(done.stdout.split())


def test_all_of_labutil_imports_where_posix_is_missing():
    """Windows has neither these modules, nor these functions and signals."""
    script = """
import importlib, os, signal, sys
import IPython, filelock, ipywidgets, optuna, psutil, seaborn, torch  # these know where they are
for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty"):
    sys.modules[name] = None
for name in ("fork", "sched_getaffinity", "geteuid", "getuid", "killpg", "setsid", "mkfifo", "uname", "getloadavg"):
    delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT", "SIGHUP", "SIGALRM", "alarm"):
    delattr(signal, name)
for name in sys.argv[1:]:
    importlib.import_module(name)
from labutil.data import store
from labutil.sweeps import local
print(list(store.in_threads(lambda file: file + 1, [1, 2])), local.environments(1, 1))
"""
    names = [name for name in NAMES if name != "labutil.__main__"]
    done = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[2, 3] [{}]"


def test_text_is_read_and_written_as_utf_8():
    """Also where ruff does not know that something is a path."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in {"read_text", "write_text"}:
                assert "'utf-8'" in ast.unparse(node), f"{path.name}: {ast.unparse(node)}"


def test_what_only_posix_has_is_used_where_it_is_there():
    """Each of these stands where this list says it does: behind a question, or in what is for Linux alone."""
    words = "fcntl|resource|fork|SIGKILL|SIGUSR2|mallopt|/proc/|sched_getaffinity|killpg|execv|start_new_session"
    texts = {path.name: path.read_text("utf-8") for path in MODULES}
    found = {(name, word) for name, text in texts.items() for word in re.findall(rf"\b(?:{words})\b|/proc/", text)}
    assert found == {
        ("cli.py", "execv"), ("device.py", "mallopt"), ("device.py", "/proc/"), ("doctor.py", "SIGKILL"),
        ("local.py", "sched_getaffinity"), ("local.py", "start_new_session"), ("paths.py", "/proc/"),
        ("slurm.py", "SIGUSR2"), ("store.py", "sched_getaffinity"),
        *(("contained.py", word) for word in ["/proc/", "SIGKILL", "fork", "killpg", "resource", "start_new_session"]),
    }  # fmt: skip


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
    assert path.stat().st_size < 3e6
    text = "\n".join("".join(c["source"]) for c in cells)
    assert text.count("lab.checks.") >= 3, "three exercises"
    assert text.count("<summary>Hint</summary>") == text.count("<summary>Solution</summary>") >= 3
    assert "lab.explore." in text
    assert "run.finish()" in text
    assert "What the reports found" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_call_functions_as_they_are(path):
    """Also in cells that a quick run does not reach."""
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    tree = ast.parse(re.sub(r"(?m)^(\s*)[!%].", r"\g<1>0#", "\n".join(cells)))  # what is no Python, left out
    scope = {"lab": labutil}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labutil"):
            exec(compile(ast.Module([node], []), path.name, "exec"), scope)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        words = ast.unparse(call.func)
        if (
            not re.fullmatch(r"[\w.]+", words)
            or words.split(".")[0] not in scope
            or any(isinstance(a, ast.Starred) for a in call.args)
        ):
            continue
        given = {k.arg: None for k in call.keywords if k.arg}
        whole = len(given) == len(call.keywords)  # no **options
        signature = inspect.signature(eval(words, scope))
        (signature.bind if whole else signature.bind_partial)(*[None] * len(call.args), **given)


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def code_lines(cells: list[dict]) -> int:
    return sum(bool(line.strip()) for cell in cells for line in cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_lesson_is_short_and_its_machinery_out_of_sight(path):
    code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    hidden = [c for c in code if "hide-input" in tags(c)]
    shown = [c for c in code if c not in hidden]
    assert code_lines(shown) <= (400 if path.stem[:2] == "03" else 350)
    assert code_lines(hidden) <= (code_lines(shown) + code_lines(hidden)) / 5
    for cell in hidden:
        assert cell["metadata"]["jupyter"]["source_hidden"] and cell["metadata"]["cellView"] == "form"
        assert ".fit(" not in "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_hints_and_solutions_have_cells_of_their_own_after_their_exercise(path):
    cells = json.loads(path.read_text())["cells"]
    for kind in ("Hint", "Solution"):
        marked = [c for c in cells if f"<summary>{kind}</summary>" in "".join(c["source"])]
        assert marked == [c for c in cells if tags(c) == {kind.lower()}]
        for cell in marked:
            text = "".join(cell["source"])
            assert text.startswith("<details>") and text.endswith("</details>") and text.count("<details>") == 1
    exercises = [i for i, c in enumerate(cells) if "exercise" in tags(c)]
    assert 3 <= len(exercises) <= 6
    for i in exercises:
        assert re.search(r"\(\d+ minutes, (easy|medium|hard)\)", "".join(cells[i - 1]["source"])), cells[i]["source"]
        assert tags(cells[i + 1]) == {"hint"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_figure_has_an_alternative_text(path):
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert not {"image/png", "image/jpeg", "image/svg+xml"} & set(data), "shown without plots.show"
            for alt in re.findall(r'<img alt="([^"]*)"', "".join(data.get("text/html", ""))):
                assert len(alt.split()) >= 6, alt


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_exercises_are_committed_untouched(path):
    """A later cell may use a learner's function only by the name that `or_use` gave it: Run All works with each
    stub as it is."""
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
    if path.suffix == ".py" and path in MODULES:
        assert ".cuda(" not in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks" / "recipes").rglob("*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_recipes_fit_their_notebooks(path):
    notebook = ROOT / "notebooks" / f"{path.stem}.ipynb"
    assert notebook.exists()
    settings = parameters.read_recipe(notebook, path.parent.name)
    parameters.merge(notebook, settings)
