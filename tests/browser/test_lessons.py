"""JupyterLab opens a student's copy of each lesson, runs it at smoke size, and a person moves, types and sees."""

from __future__ import annotations

import re
import subprocess
import sys

import nbformat
import pytest
from conftest import PICTURES, ROOT, changed, server

from labutil.runs import parameters

ADDRESS = r"http://(127\.0\.0\.1|localhost):\d+/lab\S*token=\w+"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


def student_copy(notebook, folder):
    """The copy that `labutil start` makes, where it is there, with the smoke recipe in its parameters; no outputs."""
    done = subprocess.run(
        [sys.executable, "-m", "labutil", "start", notebook.stem[:2], str(folder)], check=False, capture_output=True
    )
    found = sorted(folder.glob("*.ipynb"))
    cells = nbformat.read(found[0] if done.returncode == 0 and found else notebook, 4)
    smoke = parameters.plan(notebook, "smoke", {})
    solutions = [c.source for c in nbformat.read(notebook, 4).cells if "solution" in c.metadata.get("tags", [])]
    for cell in cells.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in smoke.items():
                pattern, text = rf"(?m)^({name}\b[^=\n]*=) .*?(  #|$)", repr(value)
                cell.source = re.sub(pattern, lambda m, text=text: f"{m[1]} {text}{m[2]}", cell.source)
    path = folder / notebook.name
    nbformat.write(cells, path)
    return path, solutions


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_student_runs_moves_and_types(browser, notebook, tmp_path):
    path, solutions = student_copy(notebook, tmp_path)
    places = {"LABUTIL_RUNS": str(tmp_path / "runs")}
    command = ["jupyterlab", "--no-browser", "--port=8990", f"--ServerApp.root_dir={tmp_path}", "--allow-root"]
    command += ["--LabApp.news_url=None"]  # as `labutil lab` starts it
    with server(command, ADDRESS, **places) as (url, _):
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.goto(re.sub(r"/lab\S*\?", f"/lab/tree/{path.name}?", url))
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_selector(".jp-NotebookPanel-toolbar", timeout=30_000)
        page.evaluate(
            "() => { const none = document.querySelector('.jp-Dialog .jp-mod-reject'); none && none.click(); }"
        )
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=20_000)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        indicator = ".jp-Notebook-ExecutionIndicator[data-status='{}']"
        page.wait_for_selector(indicator.format("busy"), timeout=30_000, state="attached")
        page.wait_for_selector(indicator.format("idle"), timeout=300_000, state="attached")
        page.keyboard.press("Control+s")
        page.wait_for_timeout(2000)
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        errors = [f"{o.ename}: {o.evalue}" for o in outputs if o.output_type == "error"]
        assert not errors, errors
        page.screenshot(path=PICTURES / f"lesson_{notebook.stem[:2]}_end.png")
        scroll_to(page, ".explorer")
        explorer = page.locator(".explorer").first
        explorer.scroll_into_view_if_needed()
        handle = explorer.locator(".noUi-handle").first
        look = "document.querySelector('.explorer img')?.src"
        if handle.count():
            changed(page, look, lambda: handle.press("ArrowRight"), 20)
        else:
            menu = explorer.locator("select:has(option:nth-child(2))").first
            other = menu.evaluate("menu => (menu.selectedIndex + 1) % menu.options.length")
            changed(page, look, lambda: menu.select_option(index=other), 20)
        page.screenshot(path=PICTURES / f"lesson_{notebook.stem[:2]}_explorer.png")
        solve(page, path, solutions)
        page.screenshot(path=PICTURES / f"lesson_{notebook.stem[:2]}_exercise.png")
        page.close()


def scroll_to(page, selector: str) -> None:
    """JupyterLab makes cells when they come into sight: go down until something is there."""
    area = page.locator(".jp-WindowedPanel-outer").first
    area.evaluate("area => { area.scrollTop = 0; }")
    area.hover()
    for _ in range(200):
        if page.locator(selector).count():
            return
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(60)
    raise AssertionError(f"{selector} is nowhere in the notebook")


def solve(page, path, solutions: list[str]) -> None:
    """Type the solution of the first exercise that is a function, run its cell, and see a tick."""
    answers = [m[1] for text in solutions if (m := re.search(r"```python\n(def my_.*?)```", text, re.DOTALL))]
    if not answers:
        return
    name = re.match(r"def (\w+)", answers[0])[1]
    scroll_to(page, f".jp-CodeCell:has-text('def {name}')")
    cell = page.locator(f".jp-CodeCell:has-text('def {name}')").first
    source = next(c.source for c in nbformat.read(path, 4).cells if f"def {name}" in c.source and c.cell_type == "code")
    after = re.split(r"\n+(?=[^\s#])", source)[1:]  # what stands below the stub: its check
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("\n".join([answers[0], *after]))
    page.keyboard.press("Control+Enter")  # the cell stays in sight
    page.wait_for_timeout(4000)
    page.screenshot(path=PICTURES / f"exercise_{name}.png")
    cell.locator(".jp-OutputArea-output:has-text('✓')").first.wait_for(timeout=20_000)
