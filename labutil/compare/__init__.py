"""Finished runs as methods on boards (those that saw the same images), with statistics, tables and figures."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "collect": "results",  # every run below a directory -> boards of methods, and what was left out
        "Board": "results",  # methods that were tested on the same images
        "Method": "results",  # runs that differ in nothing but their seed
    },
)
