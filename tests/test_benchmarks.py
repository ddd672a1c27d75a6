"""What `make bench` makes of its results; the timings themselves are no tests."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
ENVIRONMENT = {"processor": "A Chip", "threads": 2, "instruction set": "AVX2", "precision": "fp32", "switches": "none"}
CASE = {"ratio": 2.5, "ours": 1000.0, "peer": 400.0, "unit": "images/s", "peer is": "its example"}


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_workload_is_a_function_of_its_module(bench):
    for name, module in bench.WORKLOADS.items():
        tree = ast.parse((FOLDER / f"{module}.py").read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_a_section_has_a_row_a_case(bench):
    work = {"GFLOP/s": 50.0, "share": 0.5, "MiB, ours": 700.0, "MiB, peer": None}
    details = {
        "one": CASE,
        "two": {"32 px": CASE | work, "96 px": CASE},
        "wait": {"seconds": 2.25},
        "gone": {"failed": "exit 1"},
    }
    text = bench.section({"environment": ENVIRONMENT, "details": details})
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[0] == "| `one` | 1,000 images/s | 400 | **2.50** |  |  |  | its example |"
    assert rows[1] == "| `two` 32 px | 1,000 images/s | 400 | **2.50** | 50 | 0.50 | 700 | its example |"
    assert len(rows) == 3 and all(row.count("|") == 9 for row in rows)
    assert "- `wait`: seconds 2.2" in text and "- `gone`: failed: exit 1" in text


def test_a_machine_replaces_its_own_section_and_no_other(bench):
    title = bench.title(ENVIRONMENT)
    assert title == "A Chip, 2 threads, AVX2, fp32"
    text = "# Measured\n\nHow.\n\n## Another, 8 threads\n\nold\n\n## By hand\n\nwords\n"
    first = bench.with_section(text, title, "new")
    assert first.index("How.") < first.index(f"## {title}\n\nnew\n") < first.index("## By hand")
    again = bench.with_section(first, title, "newer\n")
    assert again == first.replace("\n\nnew\n", "\n\nnewer\n")
    assert again.replace(f"## {title}\n\nnewer\n\n", "") == text
