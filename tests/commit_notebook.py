"""Put an executed run's notebook in the place of its source, without what only that run needs.

    python tests/commit_notebook.py notebooks/02_supervised_baseline.ipynb .executed

Removes papermill's injected cell and metadata, widget state, execution times, absolute paths' owners, addresses and
tables' random names, so that the committed file differs only where the lesson does. Runs that used other values than
the notebook's own are passed over.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor

from labutil.runs import parameters

_TABLE = re.compile(r"\bT_[0-9a-f]{5}(?![0-9a-f])")


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop everything that is not lesson, code or output."""
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = tables = 0
    for cell in cells:
        kept = {"tags", "jupyter", "cellView", "slideshow"}
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in kept and v}
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)  # what is printed at once may come in parts
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
                if "text/plain" in output.get("data", {}):  # where an object lay in memory says nothing
                    output.data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", output.data["text/plain"])
                if drawn := _TABLE.search(output.get("data", {}).get("text/html", "")):  # pandas' name for a table
                    html, tables = output.data["text/html"], tables + 1
                    output.data["text/html"] = html.replace(drawn[0], f"T_{tables:05d}")
    notebook.cells = cells
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main(source: str, runs: str) -> None:
    """Find the newest complete run of the notebook below `runs` and write its cleaned copy over the source."""
    path = Path(source)
    own, found = parameters.merge(path), []
    for record in (Path(runs) / path.stem).glob("*/run.json"):
        run = json.loads(record.read_text())
        if run["status"] == "complete" and run["params"] == own:
            found.append((run["started"], record.parent / "notebook.ipynb"))
    if not found:
        sys.exit(f"no complete run of {path.stem} with its own values below {runs}")
    notebook = clean(nbformat.read(max(found)[1], as_version=4))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" or output.get("name") == "stderr":
                sys.exit(f"{path.name} printed to stderr or raised: {str(output)[:300]}")
    nbformat.write(notebook, path)
    size = path.stat().st_size
    print(f"{path}: {len(notebook.cells)} cells, {size / 1e6:.2f} MB")
    if size > 3e6:
        sys.exit(f"{path} is over 3 MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
