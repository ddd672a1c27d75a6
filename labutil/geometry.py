"""How embeddings, finite floats (N, D), lie in their space, asked without labels: retrieval of the other view,
alignment, uniformity, effective rank, collapse. They may be torch tensors, NumPy arrays or lists."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.images import Array
from labutil.paths import check_number

CHUNK = 2**24  # similarities held at a time: 64 MiB in float32


def check_embeddings(name: str, values: Array) -> Tensor:
    """`values` as float32 (N, D), all finite; or one clear ValueError that calls them `name`."""
    values = torch.as_tensor(values).detach().float()
    if values.ndim != 2 or not values.isfinite().all():
        what = "not all are finite; did training diverge?" if values.ndim == 2 else f"got {tuple(values.shape)}"
        raise ValueError(f"{name}: expected finite embeddings (N, D), {what}")
    return values


def _pair(z_a: Array, z_b: Array) -> tuple[Tensor, Tensor]:
    """Two views of the same images, on the unit sphere."""
    z_a, z_b = F.normalize(check_embeddings("z_a", z_a)), F.normalize(check_embeddings("z_b", z_b))
    if z_a.shape != z_b.shape or not len(z_a):
        raise ValueError(f"two views of the same images, got {tuple(z_a.shape)} and {tuple(z_b.shape)}")
    return z_a, z_b


def retrieval_accuracy(z_a: Array, z_b: Array, k: int = 5) -> float:
    """How often a view finds the other view of its image among the k most similar by cosine of the 2N - 1 others:
    SimCLR's top-k accuracy, in [0, 1].

    z_a, z_b: the two views (N, D). Equal similarities count as if drawn by lot, so collapsed embeddings give chance,
    k / (2N - 1). It falls as N grows: compare equal numbers of images.
    """
    z, found = torch.cat(_pair(z_a, z_b)), 0.0
    check_number("k", k, 1, whole=True)
    for own in torch.arange(len(z), device=z.device).split(max(1, CHUNK // len(z))):
        similarity = z[own] @ z.mT
        positive = similarity.gather(1, ((own + len(z) // 2) % len(z))[:, None])
        similarity.scatter_(1, own[:, None], -torch.inf)
        nearer = (similarity > positive).sum(1)
        equal = (similarity == positive).sum(1)  # itself among them
        found += ((k - nearer) / equal).clamp(0, 1).sum().item()
    return found / len(z)


def alignment(z_a: Array, z_b: Array) -> float:
    """Mean squared distance of an image's two views on the unit sphere (Wang & Isola 2020, arXiv:2005.10242):
    from 0, views coincide, to 4; 2 for unrelated directions. Small is good only where `uniformity` is low as well."""
    z_a, z_b = _pair(z_a, z_b)
    return (z_a - z_b).double().pow(2).sum(1).mean().item()


def uniformity(z: Array, t: float = 2) -> float:
    """log of the mean of exp(-t d^2) over all pairs of rows, d their distance on the unit sphere (Wang & Isola 2020):
    0 when all are one point; about -2t for many points spread evenly over a sphere of many dimensions."""
    z = F.normalize(check_embeddings("z", z))
    if len(z) < 2:
        return 0.0
    kernels = ((2 * t * (rows @ z.mT - 1)).clamp(max=0).exp() for rows in z.split(max(1, CHUNK // len(z))))
    total = sum((k.sum(dtype=torch.float64).item() for k in kernels), -len(z))  # each with itself does not count
    return math.log(max(total, 1e-300) / (len(z) * (len(z) - 1)))


def effective_rank(h: Array) -> float:
    """In how many directions embeddings vary: exp of the entropy of the centred embeddings' singular values.

    From 1, a line, to min(N - 1, D), all directions alike; 0 when nothing varies. Source: Roy & Vetterli 2007, "The
    effective rank"; for embeddings Garrido et al. 2023 (RankMe, arXiv:2210.02885).
    """
    h = check_embeddings("h", h)
    values = _variances(h).sqrt()
    values = values[values > 1e-6 * h.double().norm()]  # what rounding leaves of equal rows is no direction
    return _directions(values) if len(values) else 0.0


def collapse(h: Array) -> str:
    """A warning in plain words when embeddings have collapsed, wholly or in dimension; "" when they have not.

    Wholly: the mean of 1 - cosine over pairs is below 0.001 (random encoders: 0.007 to 0.15, trained ones more). In
    dimension: exp of the entropy of the covariance's eigenvalues is below 2 (a line: 1; eight classes: 3 to 20).
    """
    u = F.normalize(check_embeddings("h", h))
    if min(u.shape) < 2:
        return ""
    variances = _variances(u)
    difference = variances.sum().item() / (len(u) - 1)  # the mean of 1 - cosine over pairs of different rows
    if difference < 1e-3:
        return (
            f"Collapsed: all embeddings point nearly the same way (mean cosine {1 - difference:.5f}), so they hardly "
            "tell one image from another. Lower the learning rate; BYOL: keep the predictor and the slow target."
        )
    if (directions := _directions(variances)) < 2:
        return (
            f"Collapsed in dimension: the embeddings vary in {directions:.1f} of {u.shape[1]} directions. That is "
            "enough for two classes, not for many: weaken the augmentation, or (Barlow Twins) raise lambd."
        )
    return ""


def _variances(h: Tensor) -> Tensor:
    """Squared singular values of the centred h (N, D), in float64: its sums of squares along its principal axes."""
    centred = (h - h.mean(0)).double()
    centred = centred if len(h) < h.shape[1] else centred.mT
    return torch.linalg.eigvalsh(centred @ centred.mT).clamp(min=0)


def _directions(weights: Tensor) -> float:
    """exp of the entropy of the weights, as shares of their sum: how many count, if all of them counted alike."""
    return torch.special.entr(weights / weights.sum()).sum().exp().item()
