"""What an encoder's embeddings are worth without training anything on them: neighbours, spread, collapse.

Embeddings are floats (N, D), labels integers (N,); torch tensors (any device), NumPy arrays or lists. Directions count,
not lengths: every function but `effective_rank` scales rows to length 1 first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Array = ArrayLike | Tensor

CHUNK = 2**24  # similarities held at a time: 64 MiB in float32


def knn_probabilities(
    bank: Array, bank_labels: Array, queries: Array, n_classes: int, *, k: int = 20, tau: float = 0.1
) -> Tensor:
    """Class probabilities of each query by a vote of its k nearest neighbours (Wu et al. 2018, arXiv:1805.01978).

    Neighbours are the most similar by cosine; each votes for its class with weight exp(cosine / tau).

    Args:
        bank, bank_labels: embeddings (M, D) and labels (M,) of known images, usually the training images.
        queries: embeddings (N, D).
        n_classes: K; labels run from 0 to K - 1.
        k: neighbours that vote; the whole bank where it is smaller.
        tau: temperature of the weights; large ones make all votes equal.

    Returns: float32 (N, K) on the CPU, rows sum to 1.
    Raises: ValueError for shapes that do not fit, an empty bank, or labels outside 0 to K - 1 (-1 is unlabelled).

    Example:
        p = knn_probabilities(h_train, data.train.labels, h_val, K)
    """
    bank, queries, y = _unit("bank", bank), _unit("queries", queries), torch.as_tensor(bank_labels)
    if bank.shape[1] != queries.shape[1] or len(y) != len(bank) or not len(bank):
        raise ValueError(
            f"bank {tuple(bank.shape)}, its labels {tuple(y.shape)} and queries {tuple(queries.shape)} must be (M, D), "
            "(M,) and (N, D), with M at least 1"
        )
    if k < 1 or not tau > 0:
        raise ValueError(f"k={k} must be at least 1 and tau={tau} above 0")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"bank_labels run from {y.min()} to {y.max()}, outside 0 to {n_classes - 1}: leave those out")
    y, k = y.to(bank.device), min(k, len(bank))
    votes = torch.zeros(len(queries), n_classes, device=bank.device)
    rows = max(1, CHUNK // len(bank))
    for start in range(0, len(queries), rows):
        similarity, nearest = (queries[start : start + rows] @ bank.mT).topk(k, dim=1)
        votes[start : start + rows].scatter_add_(1, y[nearest], (similarity / tau).softmax(1))
    return (votes / votes.sum(1, keepdim=True)).cpu()


def knn_accuracy(bank: Array, bank_labels: Array, queries: Array, labels: Array, *, k: int = 20) -> float:
    """Share of queries (N, D) whose label `knn_probabilities` finds, in [0, 1].

    Example:
        knn_accuracy(h_train, data.train.labels, h_val, data.val.labels)
    """
    bank_labels, labels = torch.as_tensor(bank_labels), torch.as_tensor(labels)
    if len(labels) != len(queries) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(queries)} queries: give one each, and at least one")
    probabilities = knn_probabilities(bank, bank_labels, queries, int(bank_labels.max()) + 1, k=k)
    return (probabilities.argmax(1) == labels.cpu()).double().mean().item()


def retrieval_accuracy(z_a: Array, z_b: Array, k: int = 5) -> float:
    """How often a view finds the other view of its image: SimCLR's top-k accuracy (report A has k = 5).

    Each of the 2N views looks among the 2N - 1 others, of both kinds; the share whose own other view is among the k
    most similar by cosine. Equal similarities count as if drawn by lot, so collapsed embeddings give chance,
    k / (2N - 1). It falls as N grows: compare equal numbers of images.

    Args:
        z_a, z_b: (N, D), two views of N images, row by row.

    Example:
        retrieval_accuracy(z_a, z_b, k=1)  # 1.0 when every view's nearest neighbour is its other view
    """
    z_a, z_b = _pair(z_a, z_b)
    n, z = len(z_a), torch.cat([z_a, z_b])
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    found = 0.0
    rows = max(1, CHUNK // len(z))
    for own in torch.arange(2 * n, device=z.device).split(rows):
        similarity = z[own] @ z.mT
        positive = similarity.gather(1, ((own + n) % (2 * n))[:, None])
        similarity.scatter_(1, own[:, None], -torch.inf)
        nearer = (similarity > positive).sum(1)
        equal = (similarity == positive).sum(1)  # itself among them
        found += ((k - nearer) / equal).clamp(0, 1).sum().item()
    return found / (2 * n)


def alignment(z_a: Array, z_b: Array) -> float:
    """Mean squared distance of an image's two views on the unit sphere (Wang & Isola 2020, arXiv:2005.10242).

    From 0, views coincide, to 4; 2 for unrelated directions. Small is good only where `uniformity` is low as well.
    """
    z_a, z_b = _pair(z_a, z_b)
    return (z_a - z_b).double().pow(2).sum(1).mean().item()


def uniformity(z: Array, t: float = 2) -> float:
    """log of the mean of exp(-t d^2) over all pairs, d their distance on the unit sphere (Wang & Isola 2020).

    0 when all embeddings are one point; about -2t for many points spread evenly over a sphere of many dimensions.

    Args:
        z: (N, D), N >= 2; cost and exactness are those of all pairs.
    """
    z = _unit("z", z)
    if len(z) < 2:
        raise ValueError("uniformity compares pairs: give it at least two embeddings")
    total = -float(len(z))  # each with itself, exp(0), does not count
    for rows in z.split(max(1, CHUNK // len(z))):
        total += (2 * t * (rows @ z.mT - 1)).clamp(max=0).exp().sum(dtype=torch.float64).item()
    pairs = len(z) * (len(z) - 1)
    return torch.tensor(max(total, 1e-300) / pairs, dtype=torch.float64).log().item()


def effective_rank(h: Array) -> float:
    """In how many directions embeddings vary: exp of the entropy of the singular values, shares of their sum.

    Of the centred embeddings; from 1, a line, to min(N - 1, D), all directions alike; 0 when nothing varies.
    Source: Roy & Vetterli 2007, "The effective rank"; for embeddings Garrido et al. 2023 (RankMe, arXiv:2210.02885).
    """
    h = _matrix("h", h)
    values = torch.linalg.svdvals((h - h.mean(0)).double())
    # What rounding of the mean leaves of equal rows is no direction.
    values = values[values > 1e-6 * h.double().norm()]
    return torch.special.entr(values / values.sum()).sum().exp().item() if len(values) else 0.0


def _pair(z_a: Array, z_b: Array) -> tuple[Tensor, Tensor]:
    z_a, z_b = _unit("z_a", z_a), _unit("z_b", z_b)
    if z_a.shape != z_b.shape or not len(z_a):
        raise ValueError(f"two views of the same images, got {tuple(z_a.shape)} and {tuple(z_b.shape)}")
    return z_a, z_b


def _unit(name: str, values: Array) -> Tensor:
    return F.normalize(_matrix(name, values), dim=1)


def _matrix(name: str, values: Array) -> Tensor:
    values = torch.as_tensor(values).detach().float()
    if values.ndim != 2 or not values.isfinite().all():
        what = "not all are finite" if values.ndim == 2 else f"got {tuple(values.shape)}"
        raise ValueError(f"{name}: expected finite embeddings (N, D), {what}")
    return values
