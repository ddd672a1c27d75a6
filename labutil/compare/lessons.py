"""Lessons that a comparison executes: those that it lacks runs of, small; and lesson 07, as a page to send around."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from labutil import paths, runs
from labutil.compare.results import Board, Collection
from labutil.paths import DataError
from labutil.runs import parameters

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:60rem}}
h1{{font-size:1.5rem}}h2{{font-size:1.2rem;margin-top:2.5rem}}h3{{font-size:1rem}}
a.anchor-link{{display:none}}.output_area{{overflow-x:auto}}pre{{font-size:.85rem}}
table{{border-collapse:collapse;font-size:.85rem}}th,td{{padding:.3rem .6rem;text-align:left;
border-bottom:1px solid #8888}}img{{max-width:100%;height:auto;background:#fff;padding:.4rem;border-radius:.3rem;
box-sizing:border-box}}</style></head><body>{body}</body></html>
"""


def lacking(board: Board | None, lessons: Iterable[str]) -> list[Path]:
    """Notebooks of these lessons, by number or name ("02"), that have a smoke recipe and no run on the board."""
    present = {m.records[0]["notebook"] for m in board.methods} if board else set()
    found = sorted(parameters.NOTEBOOKS.glob("[0-9]*.ipynb"))
    missing = [p for p in found if p.stem.startswith(tuple(lessons)) and p.stem not in present]
    return [p for p in missing if parameters.read_recipe(p, "smoke") is not None]


def run_small(notebook: Path, out: Path, dataset: str, data_seed: int, groups: str | None = None) -> float:
    """Run a notebook at smoke size on this data set, below `out`, or find that run; its seconds. Raises runs.RunError
    when it fails."""
    given = {"dataset": dataset, "data_seed": data_seed, "groups": groups, "subset": 400}  # training images
    known = parameters.read_parameters(notebook)
    params = parameters.plan(notebook, "smoke", {name: value for name, value in given.items() if name in known})
    return runs.run_notebook(notebook, params, recipe="smoke", out=out)[1]["seconds"]


def write_pages(collection: Collection) -> Iterator[Path]:
    """Execute lesson 07 once for every board, and leave compare_<name>.html each in the directory of the runs: its text
    and outputs without code, figures inside, no script, nothing loaded from elsewhere. Gives each path as it is made.

    Raises DataError without nbconvert. Where a board's lesson fails, most often because its images can no longer be
    read, the others get their pages; the first runs.RunError or DataError is raised at the end.
    """
    if find_spec("nbconvert") is None:  # before minutes are spent
        raise DataError("pages are made by nbconvert, which is not installed here: pip install nbconvert")
    notebook = parameters.find_notebook("07")
    names = [re.sub(r"\W+", "_", Path(board.name).stem).strip("_")[:50] for board in collection.boards]
    failed: list[Exception] = []
    for name, board in zip(names, collection.boards, strict=True):
        params, size = board.methods[0].params, board.methods[0].records[0]["dataset"].get("image_size")
        chosen = {"runs": str(collection.root), "dataset": params["dataset"], "data_seed": params.get("data_seed", 0)}
        chosen |= {"image_size": size if isinstance(size, int) else None, "lessons": []}
        chosen |= {"groups": params.get("groups")} if params.get("groups") else {}
        try:
            planned = parameters.plan(notebook, None, chosen)
            directory, _, _ = runs.run_notebook(notebook, planned, out=collection.root)
        except (runs.RunError, DataError) as error:
            failed.append(error)
            continue
        twin = f"_{board.fingerprint[:8]}" if names.count(name) > 1 else ""
        page, text = collection.root / f"compare_{name}{twin}.html", _as_page(directory / "notebook.ipynb")
        paths.replace_file(page, lambda t, text=text: t.write_text(text, encoding="utf-8"))
        yield page
    if failed:
        raise failed[0]


def _as_page(notebook: Path) -> str:
    """An executed notebook as one HTML page: its text and outputs, without code."""
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":  # without linked pictures, which lie elsewhere
            cell.source = re.sub(r"\[!\[.*?\]\(.*?\)\]\(.*?\)", "", cell.source)
    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_output_prompt=True)
    exporter.log.setLevel(logging.ERROR)  # or it warns of every picture without alternative text
    body, _ = exporter.from_notebook_node(content)
    title = re.search(r"<h1[^>]*>(.*?)<", body)
    return PAGE.format(title=title[1] if title else notebook.stem, body=body)
