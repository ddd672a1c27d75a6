"""Losses: of two views of an image, which should be alike, while different images are not; and of reconstructions.

Those of two views take projections z, float (N, D), row i of `z_a` and of `z_b` from the same image; normalise them
themselves; compute in float32 (float64 stays) whatever the surrounding autocast; and return a scalar. They raise
ValueError for other shapes, and for a tau below 1e-5, where rounding would decide (cosines are known to 1e-7).

In several processes the losses that compare images with each other (all but `byol`) are, in `fit`'s step, those of the
global batch: rows are gathered from every process, with gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil.paths import check_choice
from labutil.processes import gather


def info_nce(z_a: Tensor, z_b: Tensor, tau: float) -> Tensor:
    """InfoNCE as SimCLR uses it (NT-Xent, Chen et al. 2020, arXiv:2002.05709). Introduced in notebook 04.

        loss_i = -sim(i, j) / tau + log sum_{k != i} exp(sim(i, k) / tau),    averaged over all 2N views i,

    where j is the other view of i's image, k runs over the 2N - 1 other views, and sim is the cosine. tau: temperature,
    above 0. The loss is log(2N - 1) when all projections are the same.
    """
    _check(z_a, z_b, tau)
    with _full_precision(z_a):
        z_a, z_b = gather(torch.stack([_unit(z_a), _unit(z_b)], 1)).unbind(1)
        positive = (z_a * z_b).sum(1).repeat(2) / tau
        return (-positive + _similarities(torch.cat([z_a, z_b]), tau).logsumexp(1)).mean()


def sup_con(z_a: Tensor, z_b: Tensor | None, labels: Tensor, tau: float) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020 (arXiv:2004.11362, equation 2). From notebook 05.

        loss_i = mean_{p in P(i)} [ -sim(i, p) / tau + log sum_{k != i} exp(sim(i, k) / tau) ],

    where P(i), the positives, are all other views of images with i's label. The mean is over the views that have a
    positive; without any the loss is 0. z_b=None: one view each, as report A's variant. labels: integers (N,); -1,
    unlabelled: such an image's only positive is its own other view. Labels that all differ give `info_nce`.
    """
    _check(z_a, z_a if z_b is None else z_b, tau)
    if labels.shape != z_a.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels: expected integers ({len(z_a)},), got {labels.dtype} {tuple(labels.shape)}")
    views = [z_a] if z_b is None else [z_a, z_b]
    with _full_precision(z_a):
        z = torch.cat(gather(torch.stack([_unit(z) for z in views], 1)).unbind(1))
        y = gather(labels.to(z.device))
        same_class = (y[:, None] == y) & (y >= 0)
        same_image = torch.eye(len(y), dtype=torch.bool, device=z.device)
        positives = (same_class | same_image).repeat(len(views), len(views)).fill_diagonal_(False)

        similarity = _similarities(z, tau)
        losses = -similarity + similarity.logsumexp(1, keepdim=True)  # -log of the softmax at every pair
        count = positives.sum(1)
        per_view = losses.masked_fill(~positives, 0).sum(1) / count.clamp(min=1)
        return per_view.sum() / (count > 0).sum().clamp(min=1)


def byol(p: Tensor, z: Tensor) -> Tensor:
    """BYOL's loss for one direction (Grill et al. 2020, arXiv:2006.07733, equation 2): 2 - 2 cos(p, z), averaged.

    p: float (N, D), the predictor's output for one view. z: float (N, D), the target network's for the other; it gets
    no gradient. SimSiam (Chen and He 2021, arXiv:2011.10566): the same loss, with z from the online network itself.
    From 0 (all predicted) to 4. In several processes it stays with the process's own images.

    Example:
        loss = byol(predictor(z_a), target_b) + byol(predictor(z_b), target_a)
    """
    _check(p, z)
    with _full_precision(p):
        return (2 - 2 * (_unit(p) * _unit(z.detach())).sum(1)).mean()


def barlow_twins(z_a: Tensor, z_b: Tensor, lambd: float = 5e-3) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230, equation 1). Introduced in notebook 04.

        loss = sum_d (1 - C_dd)^2 + lambd * sum_d sum_{e != d} C_de^2,    C: `cross_correlation`

    The first term makes each feature the same in both views, the second makes features differ from each other. lambd:
    weight of the second term; it sums D (D - 1) numbers, so small projections want a larger one.
    Raises ValueError for fewer than two images.
    """
    c = cross_correlation(z_a, z_b)
    with _full_precision(c):
        off_diagonal = c.masked_fill(torch.eye(len(c), dtype=torch.bool, device=c.device), 0)
        return (1 - c.diagonal()).pow(2).sum() + lambd * off_diagonal.pow(2).sum()


def cross_correlation(z_a: Tensor, z_b: Tensor) -> Tensor:
    """Correlation of every feature of one view with every feature of the other, over the batch: (D, D), in [-1, 1].

    Each feature is centred and scaled over the batch first, as by a batch norm (the variance divided by N, plus 1e-5).
    """
    _check(z_a, z_b)
    with _full_precision(z_a):
        pair = gather(torch.stack([_at_least_float32(z_a), _at_least_float32(z_b)], 1))
        if len(pair) < 2:
            raise ValueError("Barlow Twins correlates over the batch: give it at least two images")
        z_a, z_b = ((pair - pair.mean(0)) / (pair.var(0, unbiased=False) + 1e-5).sqrt()).unbind(1)
        return z_a.mT @ z_b / len(pair)


LOSSES = ("mse", "bce")


def reconstruction_loss(logits: Tensor, x: Tensor, loss: str = "mse", reduction: str = "mean") -> Tensor:
    """How far a reconstruction is from the image: a scalar, the mean over images, channels and pixels; with reduction
    "none" a number for each of them.

    "mse": (p - x)^2, and "bce": -x log p - (1 - x) log(1 - p), both with p = sigmoid(logits). The latter is least,
    though above 0 for a gray pixel, at p = x. logits, x: float (N, C, H, W), x in [0, 1].
    """
    check_choice("loss", loss, LOSSES)
    if loss == "mse":
        return F.mse_loss(logits.sigmoid(), x, reduction=reduction)
    return F.binary_cross_entropy_with_logits(logits, x, reduction=reduction)  # does not overflow


class ReconstructionError(nn.Module):
    """x (N, C, H, W) -> the loss of each image (N,), for `evaluation.predict`, which takes any number of images."""

    def __init__(self, model: nn.Module, loss: str = "mse") -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model.decode(self.model.encode(x))
        return reconstruction_loss(logits, x, self.loss, "none").flatten(1).mean(1)


def _similarities(z: Tensor, tau: float) -> Tensor:
    """Cosines over tau of unit vectors z (M, D): (M, M), -inf for each with itself, which no sum may count."""
    return (z @ z.mT / tau).fill_diagonal_(-torch.inf)


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _unit(z: Tensor) -> Tensor:
    z = _at_least_float32(z)
    huge = z.detach().abs().amax(1, keepdim=True) > 1e18  # whose squares overflow; a power of two changes no bit
    return F.normalize(torch.where(huge, z * 2.0**-80, z), dim=1)


def _full_precision(z: Tensor) -> torch.autocast:
    """At tau = 0.01 bfloat16's eight bits would leave similarities, up to 100, known to a half."""
    return torch.autocast(z.device.type, enabled=False)


def _check(z_a: Tensor, z_b: Tensor, tau: float = 1.0) -> None:
    if z_a.ndim != 2 or z_a.shape != z_b.shape or not len(z_a) or not z_a.is_floating_point():
        got = ", ".join(f"{z.dtype} {tuple(z.shape)}" for z in (z_a, z_b))
        raise ValueError(f"expected two views, each float (N, D), of the same images; got {got}")
    if not 1e-5 <= tau < torch.inf:
        raise ValueError(f"tau={tau} must be above 0: at least 1e-5, and finite")
