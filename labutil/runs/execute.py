"""Executing a notebook as a program, into its run's directory."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from labutil import paths
from labutil.runs import parameters
from labutil.runs.record import RunError, lock_file, new_record, read_record, run_id, show_path, write_json

Overrides = tuple[tuple[str, str], ...]  # names and values of -p


def run_notebook(
    notebook: Path,
    params: dict[str, Any],
    *,
    recipe: str | None = None,
    out: Path | None = None,
    force: bool = False,
) -> tuple[Path, dict[str, Any], bool]:
    """Run a notebook in its run directory, or find that it has been run; return (directory, record, found).

    params: all parameters, merged (`parameters.merge`). out: base directory instead of the project's runs. force: run
    anew, even when complete. A run that was cut off continues from its checkpoints. Raises RunError when the notebook
    raised (its directory then holds the executed notebook and error.txt), or another process is executing this run.
    """
    directory = ((out or paths.runs_dir()) / notebook.stem / run_id(notebook, params, out)).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with lock_file(directory / ".lock"):
        old = read_record(directory)
        if old and old["status"] == "complete" and not force:
            return directory, old, True
        if force:
            for path in directory.iterdir():
                if path.name not in {".lock", ".kernel.lock"}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        error_file = directory / "error.txt"
        error_file.unlink(missing_ok=True)
        begun, ending, started = new_record(notebook.stem, recipe, params), {}, time.monotonic()
        write_json(directory / "run.json", begun)
        try:
            _papermill(notebook, params, directory)
            if (read_record(directory) or begun)["status"] != "complete":
                raise RunError(f"{notebook.name} ended without run.finish(); its last code cell must call it")
        except BaseException as error:
            ending = {"status": "failed"}
            first = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            text = "\n\n".join([first, *getattr(error, "__notes__", [])]).strip() + "\n"
            paths.replace_file(error_file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            raise
        finally:
            ending["seconds"] = round(time.monotonic() - started, 3)
            record = (read_record(directory) or begun) | ending
            write_json(directory / "run.json", record)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return directory, record, False


def _papermill(notebook: Path, params: dict[str, Any], directory: Path) -> None:
    import logging

    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    output = directory / "notebook.ipynb"
    # papermill takes both paths for format strings.
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output))
    # The kernel inherits these; file validation only warns about frozen modules, on stderr.
    inherited = {"LABUTIL_RUN_DIR": str(directory), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    before = {name: os.environ.pop(name, None) for name in inherited}
    os.environ |= inherited
    try:
        papermill.execute_notebook(
            source, target, params, kernel_name="python3", language="python", progress_bar=sys.stderr.isatty(),
            store_widget_state=False, extra_arguments=["--IPKernelApp.log_level=40"],
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        above = parameters.read_cells(output)[: error.cell_index + 1]
        text = "\n".join("".join(cell["source"]) for cell in above if cell["cell_type"] == "markdown")
        section = "".join(f" ({heading})" for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)[-1:])
        what = f"cell [{error.exec_count}]{section}: {error.ename}: {' '.join(str(error.evalue).split())}"
        failure = RunError(f"{notebook.stem} failed in {what}")
        failure.add_note(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)))
        raise failure from error
    except DeadKernelError as error:
        raise RunError(f"{notebook.stem}: its kernel died, which most often means out of memory") from error
    finally:
        for name in inherited:
            del os.environ[name]
        os.environ |= {name: value for name, value in before.items() if value is not None}


def run_and_tell(notebook: Path, params: dict[str, Any], **options: Any) -> tuple[Path, dict[str, Any]]:
    """`run_notebook` as commands call it, which also say what it came to; return (directory, record)."""
    directory, record, found = run_notebook(notebook, params, **options)
    state = f"already complete ({record['started']})" if found else f"complete in {record['seconds']:.1f} s"
    click.echo(f"{notebook.stem}: {state}\n  {show_path(directory)}")
    return directory, record


def run_options(command: click.decorators.FC) -> click.decorators.FC:
    """Options of every command that runs notebooks."""
    for option in (
        click.option("--force", is_flag=True, help="Run anew, also when this run is complete."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where run directories go."),
        click.option(
            "-p", "overrides", nargs=2, multiple=True, metavar="KEY VALUE", help="Set a parameter; repeatable."
        ),
        click.option("--recipe", help="Settings from notebooks/recipes/NAME (smoke, full, scenes, ...)."),
    ):
        command = option(command)
    return command
