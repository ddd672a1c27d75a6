"""Executing a notebook as a program, into its run's directory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labutil import paths
from labutil.runs import parameters
from labutil.runs.record import RunError, _acquire, new_record, read_record, run_id, show_path, write_json


def run_notebook(
    notebook: Path,
    params: dict[str, Any],
    *,
    recipe: str | None = None,
    out: Path | None = None,
    force: bool = False,
    progress: bool = False,
) -> tuple[Path, dict[str, Any], bool]:
    """Run a notebook in its run directory, or find that it has been run; return (directory, record, found).

    params: all parameters, merged (`parameters.merge`). out: base directory instead of the project's runs.
    A run that was cut off continues from its checkpoints. force: run anew, even when complete.
    Raises RunError when the notebook raised (its directory then holds the executed notebook and error.txt), or when
    another process is executing this very run.
    """
    directory = ((out or paths.runs_dir()) / notebook.stem / run_id(notebook, params, out)).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    lock = _acquire(directory / ".lock", 0)
    try:
        old = read_record(directory)
        if old and old["status"] == "complete" and not force:
            return directory, old, True
        if force:
            for path in directory.iterdir():
                if path.name not in {".lock", ".kernel.lock"}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        (directory / "error.txt").unlink(missing_ok=True)
        write_json(directory / "run.json", new_record(notebook.stem, recipe, params))
        started = time.monotonic()
        try:
            _papermill(notebook, params, directory, progress)
        except BaseException as error:
            _fail(directory, error, time.monotonic() - started)
            raise
        record = read_record(directory)
        if record["status"] != "complete":
            error = RunError(f"{notebook.name} ended without run.finish(); its last code cell must call it")
            _fail(directory, error, time.monotonic() - started)
            raise error
        record["seconds"] = round(time.monotonic() - started, 3)
        write_json(directory / "run.json", record)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return directory, record, False
    finally:
        lock.release()


def _papermill(notebook: Path, params: dict[str, Any], directory: Path, progress: bool) -> None:
    import logging

    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    output = directory / "notebook.ipynb"
    # The kernel inherits these; file validation only warns about frozen modules, on stderr.
    with _environment(LABUTIL_RUN_DIR=str(directory), PYDEVD_DISABLE_FILE_VALIDATION="1"):
        try:
            papermill.execute_notebook(
                str(notebook), str(output), params, kernel_name="python3", language="python", progress_bar=progress,
                store_widget_state=False, extra_arguments=["--IPKernelApp.log_level=40"],
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            where = f"cell [{error.exec_count}]{_section(output, error.cell_index)}"
            message = " ".join(str(error.evalue).split())
            raise RunError(f"{notebook.stem} failed in {where}: {error.ename}: {message}", trace) from error
        except DeadKernelError as error:
            raise RunError(f"{notebook.stem}: its kernel died, which most often means out of memory") from error


def _section(notebook: Path, index: int) -> str:
    """The heading above a cell, to say where a run failed."""
    for cell in reversed(parameters.read_cells(notebook)[: index + 1]):
        headings = re.findall(r"^#+ (.+)$", "".join(cell["source"]), flags=re.MULTILINE)
        if cell["cell_type"] == "markdown" and headings:
            return f" ({headings[-1]})"
    return ""


def _fail(directory: Path, error: BaseException, seconds: float) -> None:
    record = read_record(directory)
    record |= {"status": "failed", "seconds": round(seconds, 3)}
    write_json(directory / "run.json", record)
    text = f"{error}\n\n{error.trace}" if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
    (directory / "error.txt").write_text(text.strip() + "\n", encoding="utf-8")


def outcome(directory: Path, record: dict[str, Any], found: bool) -> str:
    """What `execute` came to, for a terminal: the notebook, whether it had been run before, and the directory."""
    state = f"already complete ({record['started']})" if found else f"complete in {record['seconds']:.1f} s"
    return f"{directory.parent.name}: {state}\n  {show_path(directory)}"


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
