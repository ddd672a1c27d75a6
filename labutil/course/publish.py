"""The workbook elsewhere: its public address, which `pyproject.toml` holds, in every link; and one zip for Colab."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from labutil import paths

UNPUBLISHED = "OWNER/REPOSITORY"  # what stands in links while there is no address
LINKED = ("*.md", "*.cff", "docs/**/*.md", "docs/*.py", "docs/*.ipynb", "notebooks/*.ipynb")  # where links may be
PACKED = ("*.ipynb", "*.py", "*.yaml", "recipes/*/*.yaml", "encoders/*.json", "encoders/*.safetensors", "sweeps/*.csv")


def publish(address: str) -> tuple[int, int]:
    """Let every link to the repository on GitHub, Colab's buttons too, lead to `address`; (links, files) changed.

    address: OWNER/REPO, or the URL of its page; `UNPUBLISHED` undoes it. Nothing but these characters of a file is
    touched. Raises DataError for what is no such address, or where there is no clone of the workbook.

    Example:
        publish("you/workbook")
    """
    new = re.sub(r"^https?://(www\.)?github\.com/|(\.git)?/?$", "", address.strip())
    if not re.fullmatch(r"[A-Za-z\d](?:[A-Za-z\d-]*[A-Za-z\d])?/[\w.-]+", new, re.ASCII):
        raise paths.DataError(f"{address!r} is no address of a repository: give OWNER/REPO, as in github.com/you/book")
    root, old = paths.project_root(), repository()
    # OWNER/REPO as a whole, in github.com/OWNER/REPO and colab.research.google.com/github/OWNER/REPO
    link = re.compile(rf"(?<![\w-])(github(?:\.com)?/){re.escape(old)}(?![\w-]|\.(?!git\b)\w)")
    # The file that says which address is the present one comes last: cut off, the same command does the rest.
    files = [*dict.fromkeys(path for pattern in LINKED for path in sorted(root.glob(pattern))), root / "pyproject.toml"]
    changed = {}
    for path in files if new != old else ():
        text, count = link.subn(lambda match: match[1] + new, path.read_bytes().decode())
        if count:
            changed[path] = (text, count)
    for path, (text, _) in changed.items():
        paths.replace_file(path, lambda temporary, text=text: temporary.write_bytes(text.encode()))
    return sum(count for _, count in changed.values()), len(changed)


def repository() -> str:
    """OWNER/REPO of the workbook's public repository, as `pyproject.toml` has it, or `UNPUBLISHED`."""
    path = paths.project_root() / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if (found := re.search(r'^Repository = "https://github\.com/([^/"]+/[^/"]+)"', text, re.MULTILINE)) is None:
        raise paths.DataError(f"{path} has no line Repository = 'https://github.com/...': restore it, work in a clone")
    return found[1]


def pack(path: Path) -> int:
    """Write a zip with all that a Colab session needs: labutil's wheel, notebooks, recipes, encoders and sweeps; its
    bytes. Raises DataError where no wheel can be made."""
    folder = paths.project_root() / "notebooks"
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build_wheel(Path(temporary))

        def write(target: Path) -> None:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                archive.write(wheel, wheel.name)
                for file in (file for pattern in PACKED for file in sorted(folder.glob(pattern))):
                    archive.write(file, Path("notebooks", file.relative_to(folder)).as_posix())

        paths.replace_file(path, write)
    return path.stat().st_size


def build_wheel(folder: Path) -> Path:
    """labutil's wheel, made in `folder` from a copy, since setuptools leaves a `build/` where it works."""
    root, copy = paths.project_root(), folder / "copy"
    if not (root / "pyproject.toml").exists():
        raise paths.DataError(f"{root} holds no pyproject.toml: make the zip in a clone of the workbook")
    try:
        shutil.copytree(root / "labutil", copy / "labutil", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(root / name, copy)
    except OSError as error:  # of a tree it has a list of files, and of each what was wrong
        reason = error.strerror or error.args[0][0][2]
        raise paths.DataError(f"{folder} cannot be written ({reason}): make room, or set TMPDIR") from error
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, copy]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise paths.DataError(f"no wheel could be made ({reason}): is pip there, and a network for setuptools?")
    return next(folder.glob("*.whl"))
