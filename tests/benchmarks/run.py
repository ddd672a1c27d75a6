"""`make bench`: ours against others, each workload in a fresh process, into results.json and docs/measured.md.

    python tests/benchmarks/run.py [NAME...] [--cifar10 folder:PATH] [--minutes 5]

results.json: {"ratios": {name: ours / peer, above 1 is faster}, "details": {...}, "environment": {...}}. Of a workload
with several cases the ratio is the smallest. Timings are no tests: machines differ too much.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS, MEASURED = HERE / "results.json", HERE.parent.parent / "docs" / "measured.md"
WORKLOADS = {  # name: the module beside this file that holds it
    "views_vs_lightly": "views",
    "views_vs_kornia": "views",
    "simclr_epoch_vs_lightly": "epochs",
    "supcon_epoch_vs_supcontrast_recipe": "epochs",
    "supervised_epoch_vs_torchvision": "epochs",
    "fit_vs_bare_step": "epochs",
    "features_vs_bare_forward": "parts",
    "info_nce_vs_lightly": "parts",
    "sup_con_vs_pml": "parts",
    "hashing_vs_imagehash": "views",
    "knn_vs_sklearn": "parts",
    "dataset_open_vs_imagefolder": "parts",
    "duplicates_10k_vs_50k": "seconds",
    "start_to_first_cell": "seconds",
    "cifar10_knn_vs_lightly": "answer",  # with --cifar10 alone
}


def main() -> None:
    """Run the workloads named on the command line, or all; those measured earlier on this machine are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--cifar10", metavar="folder:PATH", help="also k-NN accuracy against minutes on these images")
    parser.add_argument("--minutes", type=float, default=5, help="that the peer trains there; ours gets a fifth")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - {*WORKLOADS, "environment"}:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}")
    if options.child:
        print(json.dumps(measure(options.names[0])))
        return
    names = options.names or [name for name in WORKLOADS if options.cifar10 or name != "cifar10_knn_vs_lightly"]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # nothing is read from caches, and nothing stays
        places = {"LABUTIL_DATA": f"{folder}/data", "LABUTIL_RUNS": f"{folder}/runs"}
        places |= {"BENCH_CIFAR10": options.cifar10 or "", "BENCH_MINUTES": str(options.minutes)}
        environment = child("environment", places)
        results = {"ratios": {}, "details": {}, "environment": environment}
        if RESULTS.exists() and json.loads(RESULTS.read_text("utf-8")).get("environment") == environment:
            results = json.loads(RESULTS.read_text("utf-8"))
        print(f"{title(environment)}")
        for name in names:
            found = child(name, places)
            results["details"][name] = found
            if ratios := [case["ratio"] for case in cases(found).values() if "ratio" in case]:
                results["ratios"][name] = min(ratios)
            for case, row in cases(found).items():
                print(f"{name:<36}{case:<24}{told(row)}", flush=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    text = MEASURED.read_text("utf-8") if MEASURED.exists() else "# What was measured\n"
    MEASURED.write_text(with_section(text, title(environment), section(results)), "utf-8")
    print(f"{time.perf_counter() - started:.0f} s; written: {RESULTS.name} and docs/{MEASURED.name}")


def child(name: str, places: dict[str, str]) -> dict:
    """`measure(name)` in a process of its own; what failed is a result too."""
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(command, env=os.environ | places, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"failed": f"exit {done.returncode}; its messages are above"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str) -> dict:
    """One workload, in this process: {case: what was found}, or what was found."""
    sys.path.insert(0, str(HERE))
    if name == "environment":
        from machine import environment

        return environment()
    function = getattr(importlib.import_module(WORKLOADS[name]), name)
    if WORKLOADS[name] in {"seconds", "answer"}:
        return function()
    from contest import compare, forget_peak, in_fork, peak_memory

    def memory(side: str) -> float:
        built = function()
        contest = next(iter(built.values())) if isinstance(built, dict) else built
        forget_peak()  # that of the preparations
        getattr(contest, side)()
        return peak_memory()

    # in fresh copies of this process, before anything but the imports is in it
    peaks = {f"MiB, {side}": in_fork(lambda side=side: memory(side)) for side in ("ours", "peer")}
    built = function()
    found = {case: compare(contest) for case, contest in built.items()} if isinstance(built, dict) else compare(built)
    next(iter(cases(found).values())).update(peaks)
    return found


def cases(found: dict) -> dict[str, dict]:
    """What was found, by case; a workload without cases has one, called ""."""
    return found if all(isinstance(value, dict) for value in found.values()) else {"": found}


def title(environment: dict) -> str:
    return "{processor}, {threads} threads, {instruction set}, {precision}".format(**environment)


def told(row: dict) -> str:
    """A case's result in one line."""
    if "ratio" not in row:
        return ", ".join(
            f"{key} {value:.1f}" if isinstance(value, float) else f"{key}: {value}" for key, value in row.items()
        )
    share = f"  {row['GFLOP/s']:.0f} GFLOP/s, {row['share']:.2f} of the matrix product" if "share" in row else ""
    return f"{row['ratio']:8.2f}  {row['ours']:,.0f} against {row['peer']:,.0f} {row['unit']}{share}"


def section(results: dict) -> str:
    """A machine's part of docs/measured.md: what it is, and a row a case."""
    facts = "; ".join(f"{key}: {value}" for key, value in results["environment"].items())
    rows = ["| workload | ours | peer | ratio | GFLOP/s | share | MiB, ours and peer | the peer |", "|---" * 8 + "|"]
    plain = []
    for name, found in results["details"].items():
        for case, row in cases(found).items():
            label = f"`{name}`" + (f" {case}" if case else "")
            if "ratio" not in row:
                plain.append(f"- {label}: {told(row)}")
                continue
            work = [f"{row['GFLOP/s']:.0f}", f"{row['share']:.2f}"] if "share" in row else ["", ""]
            memory = [f"{row[key]:,.0f}" for key in ("MiB, ours", "MiB, peer") if row.get(key)]
            speeds = [f"{row['ours']:,.0f} {row['unit']}", f"{row['peer']:,.0f}"]
            cells = [label, *speeds, f"**{row['ratio']:.2f}**", *work, ", ".join(memory), row["peer is"]]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([facts + ".", "", *rows, "", *plain])


def with_section(text: str, heading: str, body: str) -> str:
    """The Markdown text with the section `## heading` replaced, or put before the first section that no machine has."""
    parts = [part for part in text.split("\n## ")]
    new = f"{heading}\n\n{body.strip()}\n"
    for i, part in enumerate(parts[1:], 1):
        if part.split("\n", 1)[0] == heading:
            parts[i] = new
            break
    else:
        parts.insert(1, new)
    return "\n## ".join(part.rstrip("\n") + "\n" for part in parts)


if __name__ == "__main__":
    main()
