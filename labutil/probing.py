"""What frozen representations are worth: one linear layer on them, with all labels or with few. From notebook 04."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import device, evaluation
from labutil.datasets import ImageSet
from labutil.training import fit

if TYPE_CHECKING:
    from labutil.evaluation import Array


def state_hash(module: nn.Module) -> str:
    """16 hex digits of everything in a module's state, parameters and buffers: equal only when all bits are.

    Example:
        before = state_hash(encoder)
    """
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def linear_layer(
    h: Tensor, labels: Tensor, h_val: Tensor, labels_val: Tensor, n_classes: int, **settings: Any
) -> tuple[nn.Linear, pd.DataFrame]:
    """Train one linear layer on frozen representations by `training.fit`: (layer, history, a row an epoch).

    It trains on features that are centred, and divided by one number, so that one learning rate suits any encoder; the
    layer that is returned takes h as it is. It begins at zero: its first loss is log K, and no seed matters but that
    of the order.

    Args:
        h, labels: float (N, D) and int64 (N,). h_val, labels_val: to measure val_loss and val_accuracy on.
        settings: as `fit` takes them; epochs, batch_size and lr at least.

    Example:
        layer, history = linear_layer(h, y, h_val, y_val, K, epochs=20, batch_size=64, lr=0.01, schedule="plateau")
    """
    layer = nn.Linear(h.shape[1], n_classes)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    layer = device.prepare(layer)
    centre, scale = h.mean(0), h.var(0, correction=0).mean().sqrt().clamp(min=1e-6)
    x_val, labels_val = ((h_val - centre) / scale).to(device.get_device()), labels_val.to(device.get_device())

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = layer(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}

    @torch.no_grad()
    def validate() -> dict[str, float]:
        loss, accuracy = step(x_val, labels_val)
        return {"val_loss": loss.item(), "val_accuracy": accuracy["accuracy"].item()}

    data = ImageSet((h - centre) / scale, labels, tuple(map(str, range(n_classes))))
    history = fit(step, [layer], data, validate=validate, precision="fp32", **settings)
    with torch.no_grad():  # W (h - centre) / scale + b, as one layer
        layer.weight /= scale.to(layer.weight)
        layer.bias -= layer.weight @ centre.to(layer.weight)
    return layer, history


def few_labels(labels: Array, n: int, seed: int = 0) -> np.ndarray:
    """Indices of n images in which every class keeps its share, and at least one image: int64, rising.

    n: raised to one a class. See `evaluation.stratified_sample`, which leaves rare classes out where n is small.

    Example:
        index = few_labels(data.train.labels, round(0.01 * len(data.train)))
    """
    y = evaluation.to_numpy(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    _, first = np.unique(y[order], return_index=True)
    one_each = order[first]
    if n <= len(one_each):
        return np.sort(one_each)
    rest = np.setdiff1d(np.arange(len(y)), one_each)
    more = rest[evaluation.stratified_sample(y[rest], n - len(one_each), seed)]
    return np.sort(np.concatenate([one_each, more]))


def label_efficiency(
    h: Array, labels: Array, h_val: Array, labels_val: Array, shares: Sequence[float], *, seeds: int = 3
) -> pd.DataFrame:
    """Accuracy of `evaluation.linear_probe` with so many of the labels, each share of them drawn `seeds` times.

    Args:
        h, labels: representations (N, D) and labels (N,) to draw from. h_val, labels_val: to measure on.
        shares: of the labels, in (0, 1].

    Returns: DataFrame(share, labels, seed, accuracy), a row a draw; one draw where all labels are used.

    Example:
        table = label_efficiency(h, data.train.labels, h_val, data.val.labels, (0.01, 0.1, 1.0))
        table.groupby("share").accuracy.agg(["mean", "std"])
    """
    x, y, x_val, y_val = (evaluation.to_numpy(values) for values in (h, labels, h_val, labels_val))
    rows = []
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"shares: {share} must be above 0 and at most 1")
        for seed in range(seeds if share < 1 else 1):
            index = few_labels(y, round(share * len(y)), seed)
            accuracy = evaluation.linear_probe(x[index], y[index]).score(x_val, y_val)
            rows.append((share, len(index), seed, accuracy))
    return pd.DataFrame(rows, columns=["share", "labels", "seed", "accuracy"])
