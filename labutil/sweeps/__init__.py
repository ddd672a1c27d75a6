"""Many runs of a notebook, here or on a cluster: what to run, running it, searching, and what came of it."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(__name__, {"load": "committed"})
