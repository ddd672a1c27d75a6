"""Explorers: a control that changes what you see. Without a front end (papermill, GitHub) each shows one static figure.

The pattern: a function that draws one figure from plain values, and `frame.explore`, which connects it with widgets.
"""

from labutil import on_demand

_NAMES = {
    "cleaning": ("threshold", "pairs"),  # lesson 01
    "supervised": ("errors",),  # 02
    "transfer": ("corruptions", "heat_maps"),  # 03
    "contrastive": ("strength", "temperature", "neighbours", "positives"),  # 04 and 05
    "autoencoder": ("interpolation", "code_sizes"),  # 06
    "comparison": ("confusions", "encoders"),  # 07
}
__getattr__, __dir__ = on_demand(__name__, {name: module for module, names in _NAMES.items() for name in names})
