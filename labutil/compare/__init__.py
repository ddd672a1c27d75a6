"""Finished runs as methods on boards (those that saw the same images), with statistics, tables and figures."""

from labutil import on_demand

__getattr__, __dir__ = on_demand(__name__, {})
