"""`make test-browser`: what people see, in Debian's chromium, by hand before a landing; it is no part of `make test`.

Screenshots and times go to tests/browser/pictures/, to be looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PICTURES = HERE / "pictures"
AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
collect_ignore_glob = [] if os.environ.get("LABUTIL_BROWSER") else ["test_*.py"]


@pytest.fixture(autouse=True)
def own_folders() -> None:
    """As a teacher has it: the project's own data, not those of other tests."""


@pytest.fixture(scope="session")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`: playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    PICTURES.mkdir(exist_ok=True)
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-precise-memory-info", "--js-flags=--expose-gc"]
        )
        yield opened
        opened.close()


@contextmanager
def server(command: list[str], pattern: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run a server until it names its address, and end it and all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=os.environ | environment, cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.search(pattern, line):
                break
        else:
            raise AssertionError("no address:\n" + "".join(said))
        threading.Thread(target=lambda: said.extend(process.stdout), daemon=True).start()  # nothing blocks
        yield found[0], process
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def changed(page, look: str, move: Callable[[], None], limit: float = 10.0) -> float:
    """Milliseconds from a move until what the JavaScript `look` returns is another: looked at each frame."""
    watch = f"""(limit) => {{ const before = {look}, began = performance.now();
        window.__redrawn = new Promise((done) => {{ (function again() {{
            const now = performance.now();
            if ({look} !== before || now - began > limit) done({look} !== before ? now - began : null);
            else requestAnimationFrame(again); }})(); }}); }}"""
    page.evaluate(watch, 1000 * limit)
    move()
    taken = page.evaluate("() => window.__redrawn")
    assert taken is not None, "nothing changed"
    return taken


def wait(seconds: float, until: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.1)
