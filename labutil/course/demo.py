"""`labutil demo 04`: a lesson's explorers alone, large, in a browser; what they are is in `demonstrations`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from labutil import paths
from labutil.paths import DataError


def launch(lesson: str, run: str | None = None, *, port: int = 8866, browser: bool = True) -> None:
    """Serve a lesson's demonstrations on this machine only, behind a token, until it is interrupted.

    lesson: its number, "04". run: a finished run, as `find_run` takes it, whose model is shown in place of ours. Raises
    DataError for an unknown run, and without Voila.
    """
    if run is not None:
        from labutil.runs.predict import find_run, load_model

        load_model(find_run(run))  # or one line that says why not
    if importlib.util.find_spec("voila") is None:
        raise DataError("labutil demo needs Voila, which is not installed: pip install 'labutil[demo]'")
    code = f"from labutil.course import demonstrations\ndemonstrations.show({lesson!r}, {run!r})"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata |= {"title": f"Lesson {lesson}", "kernelspec": {"name": "python3", "display_name": "Python 3"}}
    templates = str(Path(__file__).parent)  # voila/templates/labutil
    path = os.pathsep.join(filter(None, [templates, os.environ.get("JUPYTER_PATH")]))
    with tempfile.TemporaryDirectory(prefix="labutil-demo-") as folder:
        file = Path(folder, f"lesson_{lesson}.ipynb")
        nbformat.write(notebook, file)
        command = [sys.executable, "-m", "voila", str(file), "--token", "--template=labutil", f"--port={port}"]
        command += ["--Voila.ip=127.0.0.1", f"--Voila.connection_dir_root={folder}", *["--no-browser"] * (not browser)]
        # the images and runs that this command would read, though the kernel starts in another folder
        places = {"LABUTIL_DATA": str(paths.data_dir()), "LABUTIL_RUNS": str(paths.runs_dir())}
        with contextlib.suppress(KeyboardInterrupt):  # how a demonstration ends
            done = subprocess.run(command, env=os.environ | places | {"JUPYTER_PATH": path}, check=False)
            if done.returncode > 0:
                raise DataError(f"Voila ended with code {done.returncode}; it says why above. Is port {port} in use?")
