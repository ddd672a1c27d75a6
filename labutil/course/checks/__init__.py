"""Exercise checks: `checks.NAME(your_function)` answers with a tick, the reason for a wrong answer, or "not attempted".

A check calls the function on inputs it has chosen, compares with an independent answer, and looks for the mistakes that
people make, so that its message says what is wrong and not only that something is. A stub returns None (or raises
an empty NotImplementedError); a check never raises, so a notebook runs through with every exercise untouched. Library
functions that would be the answer raise while a check runs. `checks.NAME(yours).or_use(ours)` is what later cells call:
yours where it passed. `checks.guess` is for what a learner predicts before a cell runs.
"""

from labutil import on_demand

_NAMES = {
    "frame": ("guess",),
    "cleaning": ("hamming", "recall_precision", "robust_z", "arms"),  # lesson 01
    "classification": (
        *("cross_entropy", "cross_entropy_gradient", "macro_f1"),  # 02
        *("fold", "search_report", "grad_cam"),  # 03
    ),
    "training": ("training_step",),  # 02
    "plans": ("fair_sweep", "fair_heads", "temperature_sweep", "fair_views"),  # 02 to 05
    "contrastive": (
        *("info_nce", "stop_gradient"),  # 04
        *("positives", "l_out", "lowest_loss"),  # 05
    ),
    "autoencoder": ("bce_gradient", "pca_error", "fair_control"),  # 06
    "comparison": ("mcnemar", "paired_bootstrap", "holm", "seeds_needed"),  # 07
}
__getattr__, __dir__ = on_demand(__name__, {name: module for module, names in _NAMES.items() for name in names})
