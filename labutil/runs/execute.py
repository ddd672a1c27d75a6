"""Executing a notebook as a program, into its run's directory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil

from labutil import paths
from labutil.runs import locks, parameters, ranks
from labutil.runs.record import RunError, missing, new_record, read_record, run_id, show_path, write_json

Overrides = tuple[tuple[str, str], ...]  # names and values of -p


@ranks.lead()
def run_notebook(
    notebook: Path,
    params: dict[str, Any],
    *,
    recipe: str | None = None,
    out: Path | None = None,
    force: bool = False,
    core: bool = False,
) -> tuple[Path, dict[str, Any], bool]:
    """Run a notebook in its run directory, or find that it has been run; return (directory, record, found).

    params: all parameters, merged (`parameters.merge`). out: base directory instead of the project's runs. force: run
    anew, even when complete. core: leave out cells tagged `lesson`. A run that was cut off continues from its
    checkpoints; SIGTERM ends one as Ctrl-C does. Raises RunError when the notebook raised (its directory then holds the
    executed notebook and error.txt), or another process is executing this run.
    """
    if ranks.rank():
        with sigterm_interrupts():
            begun = new_record(notebook.stem, recipe, params, core)
            return ranks.follow(lambda folder: _papermill(notebook, params, folder, core), begun)
    directory = run_directory(notebook, params, out, core)
    paths.make_folder(directory)
    if (lock := locks.acquire(directory, lost=lambda: _abandon(directory))) is None:
        raise RunError(f"{show_path(directory)} is being run by another process; wait for it, or stop it")
    with lock, sigterm_interrupts():
        old = read_record(directory)
        if old and old["status"] == "complete" and not force and not missing(directory, old):
            _tidy(directory)
            return directory, old, True
        if force:
            for path in directory.iterdir():
                if path.name != ".kernel.lock" and path != lock.path:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        error_file = directory / "error.txt"
        error_file.unlink(missing_ok=True)
        begun, ending, started = new_record(notebook.stem, recipe, params, core), {}, time.monotonic()
        write_json(directory / "run.json", begun)
        try:
            try:
                ranks.together(lambda: _papermill(notebook, params, directory, core))
            finally:
                if not lock.held():
                    _abandon(directory)
            if not (read_record(directory) or begun).get("finished"):
                raise RunError(f"{notebook.name} ended without run.finish(); its last code cell must call it")
            ending = {"status": "complete"}
        except BaseException as error:
            ending = {"status": "diverged" if getattr(error, "diverged", False) else "failed"}
            first = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
            text = "\n\n".join([first, *getattr(error, "__notes__", [])]).strip() + "\n"
            paths.replace_file(error_file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            raise
        finally:
            ending["seconds"] = round(time.monotonic() - started, 3)
            record = (read_record(directory) or begun) | ending
            record.pop("finished", None)
            write_json(directory / "run.json", record)
        _tidy(directory)
        return directory, record, False


def _tidy(directory: Path) -> None:
    """Delete what a complete run needs no more: its checkpoints, and files that another machine was killed over."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    for leftover in directory.rglob(paths.TEMPORARY):
        leftover.unlink(missing_ok=True)


def run_directory(notebook: Path, params: dict[str, Any], out: Path | None, core: bool, **options: Any) -> Path:
    """Where a run lives, whether it exists or not. options: of `run_id`."""
    return ((out or paths.runs_dir()) / notebook.stem / run_id(notebook, params, out, core, **options)).resolve()


def _abandon(directory: Path) -> None:
    """End this process and its kernel where they are: the directory is another's now, and not even a `finally` may
    write there."""
    click.echo(f"labutil: {show_path(directory)} was taken over by another process; this one stops", err=True)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """For a while SIGTERM (of a sweep, SLURM, a shutdown) means Ctrl-C, once; the rest is for tidying up."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, which alone may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _papermill(notebook: Path, params: dict[str, Any], directory: Path, core: bool) -> None:
    import logging

    # Where it finds this package, jsonschema, which reads notebooks, spends 1.5 s on a parser of web addresses.
    unused = sys.modules.setdefault("rfc3987_syntax", None)
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    if unused is None:
        del sys.modules["rfc3987_syntax"]
    logging.getLogger("papermill").setLevel(logging.ERROR)
    source = nbformat.read(notebook, 4)
    if core:
        source.cells = [cell for cell in source.cells if parameters.in_core(cell)]
    output = directory / "notebook.ipynb"
    target = str(output).replace("{", "{{").replace("}", "}}")  # papermill takes it for a format string
    # The kernel inherits these; file validation only warns about frozen modules, on stderr.
    inherited = {"LABUTIL_RUN_DIR": str(directory), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    before = {name: os.environ.pop(name, None) for name in inherited}
    os.environ |= inherited
    try:
        with _sockets() as config:
            papermill.execute_notebook(
                source, target, params, kernel_name="python3", language="python",
                progress_bar=sys.stderr.isatty() and not ranks.rank(),
                store_widget_state=False, extra_arguments=["--IPKernelApp.log_level=50"], config=config,
                # All is on the disk; Python's own end, module by module, takes a second or two.
                shutdown_kernel="immediate" if ranks.count() == 1 else "graceful",
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        above = parameters.read_cells(output)[: error.cell_index + 1]
        text = "\n".join("".join(cell["source"]) for cell in above if cell["cell_type"] == "markdown")
        section = "".join(f" ({heading})" for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)[-1:])
        what = f"cell [{error.exec_count}]{section}: {error.ename}: {' '.join(str(error.evalue).split())}"
        failure = RunError(f"{notebook.stem} failed in {what}")
        failure.diverged = error.ename == "FloatingPointError"
        # As `DataError` does, an error that begins with a parameter's name says what was asked for that cannot be.
        named = re.match(r"(?:parameter )?(\w+)\b[=: ]", str(error.evalue))
        failure.asked = error.ename == "DataError" or (error.ename == "ValueError" and named and named[1] in params)
        failure.add_note(re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)))
        raise failure from error
    except DeadKernelError as error:
        raise RunError(f"{notebook.stem}: its kernel died, which most often means out of memory") from error
    finally:
        for name in inherited:
            del os.environ[name]
        os.environ |= {name: value for name, value in before.items() if value is not None}


@contextlib.contextmanager
def _sockets() -> Iterator[Any]:
    """Where the kernel is spoken to: files in a folder of this run alone, where kernels that start at the same moment
    cannot take each other's ports. On Windows, or where the folder's name is too long for a socket, ports."""
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="labutil-", ignore_cleanup_errors=True) as folder:
        files = {"transport": "ipc", "connection_file": os.path.join(folder, "kernel.json")}
        fits = sys.platform != "win32" and len(folder) < 80  # of 107 (Linux) or 103 (macOS)
        yield Config(KernelManager=files) if fits else Config()


def run_and_tell(notebook: Path, params: dict[str, Any], **options: Any) -> tuple[Path, dict[str, Any]]:
    """`run_notebook` as commands call it, which also say what it came to; return (directory, record)."""
    directory, record, found = run_notebook(notebook, params, **options)
    state = f"already complete ({record['started']})" if found else f"complete in {record['seconds']:.1f} s"
    click.echo(f"{notebook.stem}: {state}\n  {show_path(directory)}")
    return directory, record


def _once(context: click.Context, option: click.Parameter, given: Overrides) -> Overrides:
    """What -p gave; of two values of one parameter a dictionary would drop the first in silence."""
    if twice := [name for i, (name, _) in enumerate(given) if name in dict(given[:i])]:
        raise parameters.ParameterError(f"-p {twice[0]} is given twice: leave one out (labutil sweep takes several)")
    return given


def run_options(command: click.decorators.FC) -> click.decorators.FC:
    """Options of every command that runs notebooks."""
    for option in (
        click.option("--force", is_flag=True, help="Run anew, also when this run is complete."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where run directories go."),
        click.option(
            "-p",
            "overrides",
            nargs=2,
            multiple=True,
            metavar="KEY VALUE",
            callback=_once,
            help="Set a parameter; repeatable.",
        ),
        click.option("--recipe", help="Settings from notebooks/recipes/NAME (smoke, full, scenes, ...)."),
    ):
        command = option(command)
    return command
