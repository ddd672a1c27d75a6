"""`make bench`: every bench_*.py beside this file, ours against a peer in the same process, into results.json.

{"ratios": {name: ours/peer, above 1 is faster}, "details": {...}}. Timings are no tests: machines differ too much.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the benchmarks named on the command line (bench_fit), or all."""
    sys.path.insert(0, str(HERE))
    names = sys.argv[1:] or sorted(p.stem for p in HERE.glob("bench_*.py"))
    results: dict[str, dict] = {"ratios": {}, "details": {}}
    for name in names:
        ratios, details = importlib.import_module(name).ratios()
        results["ratios"] |= ratios
        results["details"][name] = details
        for key, value in ratios.items():
            print(f"{key:<45} {value:6.2f}", flush=True)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
