"""`python -m labutil` is the `labutil` command."""

from __future__ import annotations

from labutil.cli import main

main(prog_name="labutil")
