"""Installs the workbook in a Colab session: the lessons' first cell runs this file, which it has
unpacked from labutil_colab.zip (`make colab` makes that) or cloned. What Colab brings keeps its
version, so that nothing has to be restarted."""

import importlib
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the folder that holds `notebooks/`


def main() -> None:
    """Install `labutil` (a wheel in ROOT, else ROOT itself) and what it needs, where it is missing.

    Raises RuntimeError, with pip's reason, where that could only be done by changing what is here.
    """
    os.environ["LABUTIL_ROOT"] = str(ROOT)  # for `!labutil run 02` too
    if util.find_spec("labutil"):
        return
    from packaging.version import VERSION_PATTERN

    readable = re.compile(VERSION_PATTERN, re.VERBOSE | re.IGNORECASE)  # Debian's are not all
    here = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    lines = (f"{n}=={v}\n" for n, v in here.items() if n and v and readable.fullmatch(v))
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "kept.txt")
        constraints.write_text("".join(lines), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints]
        source = next(ROOT.glob("labutil*.whl"), ROOT)
        done = subprocess.run([*pip, source], check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"the workbook could not be installed: {done.stderr.strip()[-2000:]}")
    importlib.invalidate_caches()
    print("The workbook is installed.")


if __name__ == "__main__":
    main()
