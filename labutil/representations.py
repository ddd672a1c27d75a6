"""Representations and what is in them: frozen features, k-NN, retrieval, spread, and the linear probes of `probes`.

Embeddings are finite floats (N, D), a row an image; labels are integers (N,). Both may be torch tensors, NumPy arrays
or lists. Anything else raises ValueError, and says what is wrong.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import device, evaluation, models
from labutil.images import to_numpy
from labutil.paths import DataError, data_dir, replace_file
from labutil.probes import (  # noqa: F401
    few_labels,
    label_efficiency,
    linear_layer,
    linear_probe,
    logistic_regression,
    principal_axes,
    probe_head,
    signed_root,
)

if TYPE_CHECKING:
    from labutil.images import Array

CHUNK = 2**24  # similarities held at a time: 64 MiB in float32
DEFAULT = "tf_efficientnet_lite0"  # its weights are installed
FORMAT = 1  # part of every name in the cache: raise it when the features of an image change


def knn_probabilities(
    bank: Array, bank_labels: Array, queries: Array, n_classes: int, *, k: int = 20, tau: float = 0.1
) -> Tensor:
    """Class probabilities of each query by a vote of its k nearest neighbours (Wu et al. 2018, arXiv:1805.01978).

    Neighbours are the most similar by cosine; each votes for its class with weight exp(cosine / tau).

    bank, bank_labels: embeddings (M, D) and labels (M,), 0 to K - 1, of known images, usually the training images.
    queries: (N, D). n_classes: K. k: neighbours that vote; the whole bank where it is smaller. tau: temperature of the
    weights; large ones make all votes equal. Returns float32 (N, K) on the CPU, rows sum to 1.

    Example:
        p = knn_probabilities(h_train, data.train.labels, h_val, K)
    """
    bank, queries = _unit("bank", bank), _unit("queries", queries)
    y = torch.from_numpy(evaluation.check_labels("bank_labels", bank_labels, n_classes)).to(bank.device)
    if bank.shape[1] != queries.shape[1] or len(y) != len(bank):
        raise ValueError(
            f"bank {tuple(bank.shape)}, its labels {tuple(y.shape)} and queries {tuple(queries.shape)} must be (M, D), "
            "(M,) and (N, D)"
        )
    if k < 1 or not tau > 0:
        raise ValueError(f"k={k} must be at least 1 and tau={tau} above 0")
    votes = torch.zeros(len(queries), n_classes, device=bank.device)
    rows = max(1, CHUNK // len(bank))
    for start in range(0, len(queries), rows):
        similarity, nearest = (queries[start : start + rows] @ bank.mT).topk(min(k, len(bank)), dim=1)
        votes[start : start + rows].scatter_add_(1, y[nearest], (similarity / tau).softmax(1))
    return (votes / votes.sum(1, keepdim=True)).cpu()


def knn_accuracy(bank: Array, bank_labels: Array, queries: Array, labels: Array, *, k: int = 20) -> float:
    """Share of queries (N, D) whose label `knn_probabilities` finds, in [0, 1].

    Example:
        knn_accuracy(h_train, data.train.labels, h_val, data.val.labels)
    """
    bank_labels, labels = to_numpy(bank_labels), to_numpy(labels)
    if len(labels) != len(queries) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(queries)} queries: give one each, and at least one")
    probabilities = knn_probabilities(bank, bank_labels, queries, int(bank_labels.max(initial=0)) + 1, k=k)
    return float((probabilities.argmax(1).numpy() == labels).mean())


def retrieval_accuracy(z_a: Array, z_b: Array, k: int = 5) -> float:
    """How often a view finds the other view of its image: SimCLR's top-k accuracy (report A has k = 5).

    Each of the 2N views looks among the 2N - 1 others, of both kinds; the share whose own other view is among the k
    most similar by cosine. Equal similarities count as if drawn by lot, so collapsed embeddings give chance,
    k / (2N - 1). It falls as N grows: compare equal numbers of images. z_a, z_b: (N, D), two views, row by row.

    Example:
        retrieval_accuracy(z_a, z_b, k=1)  # 1.0 when every view's nearest neighbour is its other view
    """
    z_a, z_b = _pair(z_a, z_b)
    n, z = len(z_a), torch.cat([z_a, z_b])
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    found = 0.0
    for own in torch.arange(2 * n, device=z.device).split(max(1, CHUNK // len(z))):
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
    z: (N, D), N >= 2; cost and exactness are those of all pairs.
    """
    z = _unit("z", z)
    if len(z) < 2:
        raise ValueError("uniformity compares pairs: give it at least two embeddings")
    total = -float(len(z))  # each with itself, exp(0), does not count
    for rows in z.split(max(1, CHUNK // len(z))):
        total += (2 * t * (rows @ z.mT - 1)).clamp(max=0).exp().sum(dtype=torch.float64).item()
    return math.log(max(total, 1e-300) / (len(z) * (len(z) - 1)))


def effective_rank(h: Array) -> float:
    """In how many directions embeddings vary: exp of the entropy of the singular values, shares of their sum.

    Of the centred embeddings; from 1, a line, to min(N - 1, D), all directions alike; 0 when nothing varies.
    Source: Roy & Vetterli 2007, "The effective rank"; for embeddings Garrido et al. 2023 (RankMe, arXiv:2210.02885).
    """
    h = _matrix("h", h)
    values = _variances(h).sqrt()
    # What rounding of the mean leaves of equal rows is no direction.
    values = values[values > 1e-6 * h.double().norm()]
    return _directions(values) if len(values) else 0.0


def collapse(h: Array) -> str:
    """A warning in plain words when embeddings have collapsed, wholly or in dimension; "" when they have not.

    Wholly: nearly all point the same way; the mean of 1 - cosine over pairs is below 0.001 (random encoders of this
    package have 0.007 to 0.15, trained ones more; a network that only pulls views together came to 0.00002).
    In dimension: fewer than two directions hold the variance of the directions (exp of the entropy of the covariance's
    eigenvalues, which is 1 for a line, 2 for an even plane; those that learned eight classes had 3 to 20).
    Labels of two classes make a line of good embeddings too, and the warning says so.

    h: embeddings or projections (N, D), N and D at least 2, else "".

    Example:
        print(collapse(z_val) or "no collapse")
    """
    u = _unit("h", h)
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
    wide = len(h) < h.shape[1]
    return torch.linalg.eigvalsh(centred @ centred.mT if wide else centred.mT @ centred).clamp(min=0)


def _directions(weights: Tensor) -> float:
    """exp of the entropy of the weights, as shares of their sum: how many count, if all of them counted alike."""
    return torch.special.entr(weights / weights.sum()).sum().exp().item()


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


def state_hash(module: nn.Module) -> str:
    """16 hex digits of everything in a module's state, parameters and buffers: equal only when all bits are.

    Example:
        before = state_hash(encoder)
    """
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def frozen_features(
    images: Tensor | np.ndarray,
    *,
    encoder: str = DEFAULT,
    size: int | None = None,
    weights: str | Path | None = None,
    cache: bool = True,
) -> Tensor:
    """Representations of images by a network that was trained on ImageNet, in evaluation mode: float32 (N, D), CPU.

    Kept under `data/cache/features`, by the images' bytes, the network and the size: the second call reads them.

    images: uint8 (N, C, H, W), C = 1 or 3; N = 0 is allowed. encoder: any name that `models.encoder` has pretrained
    weights for; D = 1280 for the default. size: pixels a side to which images are scaled first; None: `feature_size`
    of theirs. Features of larger images are better, and cost in proportion to size squared. weights: a file of
    weights, as `models.encoder` takes it. cache: False computes anew and keeps nothing.
    Raises ValueError for images of another type or shape, a size below 1, weights that cannot be had; DataError when
    the cache cannot be written.

    Example:
        h = frozen_features(data.train.images)
    """
    images = check_images("images", images)
    size = feature_size(images.shape[2:]) if size is None else int(size)
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    if cache:
        path = data_dir() / "cache" / "features" / f"{_key(images, encoder, size, weights)}.npy"
        try:
            return torch.from_numpy(np.load(path))
        except (OSError, ValueError, EOFError):  # none yet, or one that a full disk cut short
            pass
    with torch.random.fork_rng(devices=[]):  # a new network draws its first weights, though others replace them
        network = models.encoder(encoder, pretrained=True, weights=weights, input_size=size)
    network = network.to(device.get_device(), memory_format=torch.channels_last)
    h = evaluation.predict(network, images, batch_size=batch_size(size))
    if cache:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda temporary: np.save(temporary, h.numpy()))
        except OSError as error:
            why = f"{path.parent} cannot be written ({error.strerror or error})"
            raise DataError(f"{why}: make room, or set LABUTIL_DATA to another folder") from error
    return h


def check_images(name: str, images: Tensor | np.ndarray) -> Tensor:
    """`images` as a tensor, uint8 (N, 1 or 3, H, W), or one clear ValueError that calls them `name`."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"{name}: expected uint8 (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images


def feature_size(image_shape: tuple[int, int]) -> int:
    """Pixels a side at which a pretrained network sees images of this height and width: the larger of the two, to the
    nearest multiple of 32, from 96 to 224. Networks trained on ImageNet see small images better when enlarged."""
    return min(224, max(96, 32 * round(max(image_shape) / 32)))


def batch_size(size: int) -> int:
    """Images of `size` pixels a side at once. A CPU is fastest when a layer's maps stay in its cache."""
    if device.get_device().type != "cpu":
        return 512
    return max(8, min(64, (64 * 64 * 64) // size**2 // 8 * 8))


def _key(images: Tensor, encoder: str, size: int, weights: str | Path | None) -> str:
    facts = [FORMAT, encoder, size, tuple(images.shape), device.default_precision()]
    if weights is not None:
        path = Path(weights).expanduser()
        status = path.stat() if path.exists() else None
        facts += [str(path), status and (status.st_size, status.st_mtime_ns)]
    total = hashlib.sha256(repr(facts).encode())
    for chunk in images.split(4096):  # memory-mapped images stay on the disk
        total.update(chunk.contiguous().numpy())
    return total.hexdigest()[:32]
