"""Several models, one answer: averages, votes, and what their disagreement says about uncertainty.

Members' probabilities are float (M, N, K): M models, N images, K classes, rows that sum to 1; torch tensors, NumPy
arrays or lists of (N, K). Results are NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labutil.evaluation import to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labutil.evaluation import Array


def average(members: Array | Sequence[Array]) -> np.ndarray:
    """Mean of the members' probabilities, float64 (N, K): a deep ensemble's prediction (Lakshminarayanan et al. 2017).

    Raises ValueError when the members are not probabilities (M, N, K), as every function here does.

    Example:
        p = average([predict(model, images).softmax(1) for model in folds])
    """
    return _checked(members).mean(axis=0)


def vote_shares(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the members that predict each class, float64 (N, K); rows sum to 1. A member's vote is its most probable
    class, the first of equals."""
    p = _checked(members)
    votes = p.argmax(axis=2)
    return (votes[:, :, None] == np.arange(p.shape[2])).mean(axis=0)


def majority_vote(members: Array | Sequence[Array]) -> np.ndarray:
    """The class that most members predict, int64 (N,). Among classes with equally many votes the one with the higher
    average probability wins (then the first).

    Example:
        majority_vote([[[0.6, 0.4]], [[0.1, 0.9]]])  # [1]: one vote each, but the second member is surer
    """
    p = _checked(members)
    votes = np.rint(vote_shares(p) * len(p)).astype(np.int64)
    tied = votes == votes.max(axis=1, keepdims=True)
    return np.where(tied, p.mean(axis=0), -1.0).argmax(axis=1).astype(np.int64)


def disagreement(members: Array | Sequence[Array]) -> np.ndarray:
    """Share of the pairs of members that predict different classes, float64 (N,), in [0, 1]; 0 for a single member.

    The disagreement measure of Skalak (1996) and Ho (1998), averaged over pairs as Kuncheva and Whitaker (2003,
    https://doi.org/10.1023/A:1022859003006) do, for each image by itself.

    Example:
        sure = disagreement(members) == 0  # all members agree
    """
    p = _checked(members)
    m = len(p)
    if m == 1:
        return np.zeros(p.shape[1])
    votes = np.rint(vote_shares(p) * m)
    agreeing = (votes * (votes - 1)).sum(axis=1)  # ordered pairs within a class
    return 1 - agreeing / (m * (m - 1))


def mutual_information(members: Array | Sequence[Array]) -> np.ndarray:
    """Entropy of the averaged prediction minus the members' average entropy, in nats, float64 (N,), 0 to log min(M, K).

    High where members are sure of different classes: uncertainty about the model, which more data would lower. 0 where
    all say the same, also if all are unsure: uncertainty in the image itself. (BALD: Houlsby et al. 2011,
    arXiv:1112.5745; for ensembles Lakshminarayanan et al. 2017, arXiv:1612.01474.)

    Example:
        doubtful = mutual_information(members).argsort()[::-1][:12]
    """
    p = _checked(members)
    return np.maximum(_entropy(p.mean(axis=0)) - _entropy(p).mean(axis=0), 0.0)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _checked(members: Array | Sequence[Array]) -> np.ndarray:
    p = np.stack([to_numpy(m) for m in members]) if isinstance(members, list | tuple) else to_numpy(members)
    if p.ndim != 3 or 0 in (p.shape[0], p.shape[2]):
        raise ValueError(f"members: expected probabilities (M, N, K), got {p.shape}")
    p = p.astype(np.float64)
    # 0.01 lets bfloat16 rounding pass and stops logits
    if p.size and not (p.min() >= 0 and np.abs(p.sum(axis=2) - 1).max() <= 0.01):
        raise ValueError("members: every row must be non-negative and sum to 1; logits want .softmax(1) first")
    return p
