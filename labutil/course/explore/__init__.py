"""Explorers: a control that changes what you see. Without a front end (papermill, GitHub) each shows one static figure.

The pattern: a function that draws one figure from plain values, and `frame.explore`, which connects it with widgets.
"""

from labutil import on_demand

_NAMES = {
    "cleaning": ("threshold", "pairs", "review"),  # lesson 01
    "predictions": ("errors", "corruptions", "heat_maps", "confusions"),  # 02, 03, 06 and 07
    "contrastive": ("strength", "temperature", "positives", "neighbours", "encoders"),  # 04, 05 and 07
    "laboratory": ("stain",),  # 02
    "siamese": ("collapse",),  # 04
    "autoencoder": ("interpolation", "code_sizes"),  # 06
}
__getattr__, __dir__ = on_demand(__name__, {name: module for module, names in _NAMES.items() for name in names})
