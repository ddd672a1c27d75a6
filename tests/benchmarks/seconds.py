"""What people wait for, in plain seconds: near-duplicates of two sets, and the start of a lesson."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path


def duplicates_10k_vs_50k(n: int = 10_000, m: int = 50_000) -> dict:
    """`near_duplicates` of generated pictures against others, 32 px, features computed anew; and the memory."""
    from contest import peak_memory, pictures

    from labutil import cleaning

    images, reference = pictures(n, 32, seed=1), pictures(m, 32)
    started = time.perf_counter()
    cleaning.near_duplicates(images, reference=reference)
    return {"seconds": time.perf_counter() - started, "MiB": peak_memory()}


def start_to_first_cell(rounds: int = 3) -> dict:
    """From `labutil run` to the first cell of lesson 02, and that cell, which imports; in three runs of it alone."""
    from labutil.paths import project_root

    notebook = json.loads((project_root() / "notebooks/02_supervised_baseline.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["cells"] = code[:2]  # imports and parameters; a run that does not finish keeps its notebook all the same
    out = Path(os.environ["LABUTIL_RUNS"])
    lesson = out / "02_supervised_baseline.ipynb"
    out.mkdir(parents=True, exist_ok=True)
    lesson.write_text(json.dumps(notebook), "utf-8")
    waits = []
    for _ in range(rounds):
        begun = time.time()
        command = [sys.executable, "-m", "labutil", "run", str(lesson), "--force"]
        subprocess.run(command, capture_output=True, check=False)  # it ends before run.finish()
        executed = max(out.glob("*/*/notebook.ipynb"), key=lambda path: path.stat().st_mtime)
        cells = json.loads(executed.read_text("utf-8"))["cells"]
        times = next(c for c in cells if "sys.modules" in "".join(c["source"]))["metadata"]["papermill"]
        first = datetime.fromisoformat(times["start_time"]).timestamp()
        waits.append((first - begun, times["duration"]))
    wait, imports = map(statistics.median, zip(*waits, strict=True))
    return {"seconds": wait, "seconds of the imports": imports}
