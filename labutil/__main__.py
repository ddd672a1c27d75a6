"""`python -m labutil` is the `labutil` command."""

from labutil.cli import main

main(prog_name="labutil")
