"""Representations and what is in them: frozen features, nearest neighbours, linear classifiers. Embeddings are finite
floats (N, D), labels integers (N,), 0 to K - 1: torch tensors, NumPy arrays or lists where not said otherwise."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labutil import device, encoders, evaluation, models, processes
from labutil.geometry import CHUNK, check_embeddings
from labutil.images import Array, ImageSet, check_images, stratified_sample, to_numpy
from labutil.paths import DataError, check_number, data_dir, replace_file
from labutil.training import fit

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline

AXES = 512  # principal axes that a linear probe keeps, at most
DEFAULT = "tf_efficientnet_lite0"  # its weights are installed
FORMAT = 1  # part of every name in the cache: raise it when the features of an image change


def knn_probabilities(bank: Array, bank_labels: Array, queries: Array, n_classes: int, *, k: int = 20) -> Tensor:
    """Class probabilities of each query by a vote of its k nearest neighbours (Wu et al. 2018, arXiv:1805.01978).

    Of the images with embeddings `bank` (M, D) and labels `bank_labels` (M,) the k most similar to a query (N, D) by
    cosine vote, with weight exp(cosine / 0.1). Returns float32 (N, K) on the CPU, rows sum to 1.
    """
    bank, queries = F.normalize(check_embeddings("bank", bank)), F.normalize(check_embeddings("queries", queries))
    y = torch.from_numpy(evaluation.check_labels("bank_labels", bank_labels, n_classes)).to(bank.device)
    if bank.shape[1] != queries.shape[1] or len(y) != len(bank):
        shapes = f"{tuple(bank.shape)}, {tuple(y.shape)} and {tuple(queries.shape)}"
        raise ValueError(f"bank, bank_labels and queries must be (M, D), (M,) and (N, D), got {shapes}")
    check_number("k", k, 1, whole=True)
    votes = torch.zeros(len(queries), n_classes, device=bank.device)
    rows = max(1, CHUNK // len(bank))
    for start in range(0, len(queries), rows):
        similarity, nearest = (queries[start : start + rows] @ bank.mT).topk(min(k, len(bank)), dim=1)
        votes[start : start + rows].scatter_add_(1, y[nearest], (similarity / 0.1).softmax(1))
    return (votes / votes.sum(1, keepdim=True)).cpu()


def knn_accuracy(bank: Array, bank_labels: Array, queries: Array, labels: Array, *, k: int = 20) -> float:
    """Share of queries (N, D) whose label `knn_probabilities` finds, in [0, 1]."""
    bank_labels, labels = to_numpy(bank_labels), to_numpy(labels)
    if len(labels) != len(queries) or not len(labels):
        raise ValueError(f"{len(labels)} labels for {len(queries)} queries: give one each, and at least one")
    probabilities = knn_probabilities(bank, bank_labels, queries, int(bank_labels.max(initial=0)) + 1, k=k)
    return float((probabilities.argmax(1).numpy() == labels).mean())


def signed_root(x: np.ndarray) -> np.ndarray:
    """Square root of the size, with the sign, as `models.SignedRoot`: no single large feature decides (Jegou 2012)."""
    return np.sign(x) * np.sqrt(np.abs(x))


def principal_axes(h: Array) -> np.ndarray:
    """Signed roots of features on their leading principal axes, centred, float (N, min(AXES, D, N - 1)). With all axes
    the mean squared length is 100, so that one `decay` of `logistic_regression` suits all features."""
    _, x, scale = _fit_axes(to_numpy(h))
    return x / scale


def logistic_regression(
    x: np.ndarray, labels: np.ndarray, *, decay: float, sample_weight: np.ndarray | None = None, tol: float = 1e-3
) -> LogisticRegression:
    """Multinomial logistic regression, fitted: least mean cross-entropy + decay * |W|^2 (no penalty of biases).

    x: (N, D), of a mean squared length near 100, as `principal_axes`: one `decay` then suits all features, and the
    solver goes equally far. labels: two classes at least. sample_weight: (N,), multiplies each row's cross-entropy.
    tol: the largest gradient that may be left.
    """
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1):  # small products: threads that wait for each other cost more than they bring
        model = LogisticRegression(C=1 / (2 * decay * len(x)), max_iter=1000, tol=tol)
        return model.fit(x, labels, sample_weight=sample_weight)


def linear_probe(h: Array, labels: Array, *, decay: float = 0.002) -> Pipeline:
    """A linear classifier on frozen features: how much of the answer is in them in plain sight.

    Signed roots of the features, on their leading principal axes (not standardised one by one: those that vary little
    say little), then multinomial logistic regression: a tenth of a second for a few thousand images, always the same.

    labels: two classes at least. decay: L2 penalty, for features scaled to a mean squared length of 100; 0.001 to 0.01
    suits most sets. Returns a fitted pipeline, "signed_root", "axes" (PCA) and "classifier", for NumPy arrays.
    """
    probe, x, scale = _fit_axes(to_numpy(h))
    classifier = logistic_regression(x / scale, to_numpy(labels), decay=decay, tol=1e-4)
    classifier.coef_ /= scale  # it gets what the axes give
    probe.steps.append(("classifier", classifier))
    return probe


def _fit_axes(h: np.ndarray) -> tuple[Pipeline, np.ndarray, float]:
    """The first steps of a linear probe, fitted; h as they leave it; by what to divide it for a mean squared length of
    100 (of all its axes, kept or not)."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    n, d = h.shape
    if not np.isfinite(h).all():
        raise ValueError("h: expected finite features (N, D), not all are; did training diverge?")
    solver = "covariance_eigh" if n > d else "full"  # the former is fast, and fails on few images
    axes = PCA(min(AXES, d, max(1, n - 1)), svd_solver=solver)
    steps = Pipeline([("signed_root", FunctionTransformer(signed_root)), ("axes", axes)])
    with threadpool_limits(1), np.errstate(invalid="ignore"):  # the share that an axis has of no variance at all
        return steps, steps.fit_transform(h), np.sqrt(max(signed_root(h).var(0).sum() / 100, 1e-12))


def probe_head(probe: Pipeline, n_classes: int) -> nn.Sequential:
    """A fitted `linear_probe` as a head, Sequential(SignedRoot(), Linear(D, K)): its softmax is the `predict_proba`.

    Fine-tuning from there (LP-FT: Kumar et al. 2022, arXiv:2202.10054) begins with a head that fits, so its first
    gradients do not distort the features. A class that the probe has not seen gets the logit -30, the others' largest
    is at least about 0. `rebuild` knows it as head={"signed_root": True, "sizes": [], "dropout": []}.
    """
    axes, classifier, classes = probe["axes"], probe["classifier"], probe.classes_
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"n_classes={n_classes}: the probe knows labels from {classes.min()} to {classes.max()}")
    weight = classifier.coef_.astype(np.float64) @ axes.components_
    bias = classifier.intercept_ - weight @ axes.mean_
    if len(weight) == 1:  # of two classes: one logit, positive for the second; softmax wants their difference
        weight, bias = (np.concatenate([-v, v]) / 2 for v in (weight, bias))
    head = models.mlp_head(weight.shape[1], [], n_classes, signed_root=True)
    with torch.no_grad():
        head[1].weight.zero_()[classes] = torch.as_tensor(weight, dtype=torch.float32)
        head[1].bias.fill_(-30.0)[classes] = torch.as_tensor(bias, dtype=torch.float32)
    return head


def linear_head(name: str) -> nn.Module | None:
    """The linear layer, h -> logits, on an encoder that this workbook trained, as its own lesson left it; None where
    there is none, or more than a layer. name: as `models.encoder` takes it."""
    file = encoders.find(name)
    head = getattr(models.load(file), "head", None) if file else None
    return head if isinstance(head, nn.Linear) or getattr(head, "settings", {}).get("sizes") == [] else None


def untrained(encoder: nn.Module) -> nn.Module:
    """The same network with random weights and the same normalisation: the control of a trained one."""
    made = models.rebuild(encoder.settings)
    kept = {key: value for key, value in encoder.state_dict().items() if "normalize." in key}
    made.load_state_dict(kept, strict=False)
    return made


def linear_layer(
    h: Tensor, labels: Tensor, h_val: Tensor, labels_val: Tensor, n_classes: int, **settings: Any
) -> tuple[nn.Linear, pd.DataFrame]:
    """Train one linear layer on frozen representations by `training.fit`: (layer, history, a row an epoch).

    It trains on features that are centred, and divided by one number, so that one learning rate suits any encoder; the
    layer that is returned takes h (N, D) as it is. It begins at zero: no seed matters but that of the order.
    settings: as `fit` takes them; epochs, batch_size and lr at least.
    """
    layer = device.prepare(nn.Linear(h.shape[1], n_classes))
    centre, scale = h.mean(0), h.var(0, correction=0).mean().sqrt().clamp(min=1e-6)
    x_val, labels_val = ((h_val - centre) / scale).to(device.get_device()), labels_val.to(device.get_device())
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)

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


def scores(encoder: nn.Module, train: ImageSet, **parts: ImageSet) -> dict[str, float]:
    """What a frozen encoder is worth, by two readers that know the labels of (at most 5,000 of) `train`:
    {"<part>_knn_accuracy", "<part>_linear_accuracy"} for the images of each of `parts`; the second by `linear_probe`.

    Example:
        scores(encoder, data.train, val=data.val)  # {"val_knn_accuracy": 0.62, "val_linear_accuracy": 0.7}
    """
    index, found = torch.as_tensor(stratified_sample(train.labels, 5000)), {}
    bank, y = evaluation.predict(encoder, train.images[index]), train.labels[index]
    probe = linear_probe(bank, y)
    for name, part in parts.items():
        h = evaluation.predict(encoder, part.images)
        found[f"{name}_knn_accuracy"] = knn_accuracy(bank, y, h, part.labels)
        found[f"{name}_linear_accuracy"] = float(probe.score(h.numpy(), to_numpy(part.labels)))
    return found


def few_labels(labels: Array, n: int, seed: int = 0) -> np.ndarray:
    """Indices of n images in which every class keeps its share and at least one image (`images.stratified_sample`
    leaves rare classes out where n is small): int64, rising."""
    y = to_numpy(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    one_each = order[np.unique(y[order], return_index=True)[1]]
    rest = np.setdiff1d(np.arange(len(y)), one_each)
    more = rest[stratified_sample(y[rest], max(0, n - len(one_each)), seed)]
    return np.sort(np.concatenate([one_each, more]))


def label_efficiency(
    h: Array, labels: Array, h_val: Array, labels_val: Array, shares: Sequence[float], *, seeds: int = 3
) -> pd.DataFrame:
    """Accuracy on h_val of `linear_probe` with shares of the labels, in (0, 1], each drawn `seeds` times (all labels
    once): DataFrame(share, labels, seed, accuracy), a row a draw."""
    import pandas as pd

    x, y, x_val, y_val = (to_numpy(values) for values in (h, labels, h_val, labels_val))
    rows = []
    for share in shares:
        check_number("shares", share, 1e-9, 1)
        for seed in range(seeds if share < 1 else 1):
            index = few_labels(y, round(share * len(y)), seed)
            rows.append((share, len(index), seed, linear_probe(x[index], y[index]).score(x_val, y_val)))
    return pd.DataFrame(rows, columns=["share", "labels", "seed", "accuracy"])


def state_hash(module: nn.Module) -> str:
    """16 hex digits of everything in a module's state, parameters and buffers: equal only when all bits are."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def frozen_features(images: Array, **settings: Any) -> Tensor:
    """The features of `timed_features` alone: float32 (N, D), CPU. settings: as it takes them."""
    return timed_features(images, **settings)[0]


def timed_features(
    images: Array,
    *,
    encoder: str = DEFAULT,
    size: int | None = None,
    weights: str | Path | None = None,
    cache: bool = True,
) -> tuple[Tensor, float]:
    """Representations of images by a network that was trained before, in evaluation mode: float32 (N, D), CPU; and the
    seconds that computing them took, also where they come from the cache.

    images: uint8 (N, C, H, W), C = 1 or 3; N = 0 is allowed. encoder: any that `models.encoder` has pretrained weights
    for, those of this workbook too; D = 1280 for the default. size: pixels a side to which images are scaled first
    (None: `feature_size`); larger ones give better features, at a cost like size squared. weights: a file, as
    `models.encoder` takes it. cache: keep them under `data/cache/features` and read them next time; DataError when that
    cannot be written.
    """
    images = check_images("images", images)
    size = feature_size(images.shape[2:], encoder) if size is None else int(size)
    check_number("size", size, 1, whole=True)
    if cache:
        path, found = data_dir() / "cache" / "features" / f"{_key(images, encoder, size, weights)}.npz", None
        # none yet, or one that was cut short or damaged, of which NumPy and zipfile raise nearly every kind
        with suppress(Exception), np.load(path) as file:
            found = torch.from_numpy(file["features"]), float(file["seconds"])
        if all(processes.from_each(found is not None)):  # else all processes compute them together
            return found
    with torch.random.fork_rng(devices=[]):  # a new network draws its first weights, though others replace them
        shape = {"channels": images.shape[1], "image_size": tuple(images.shape[2:])}
        network = models.encoder(encoder, pretrained=True, weights=weights, input_size=size, **shape)
    if encoder == DEFAULT:  # which lists its layers as it applies them
        fold_batch_norms(network)
    network = network.to(device.get_device(), memory_format=torch.channels_last)
    began = time.perf_counter()
    h = evaluation.predict(network, images, batch_size=batch_size(size))
    seconds = time.perf_counter() - began
    if cache and processes.rank() == 0:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda temporary: np.savez(temporary, features=h.numpy(), seconds=seconds))
        except OSError as error:
            why = f"{path.parent} cannot be written ({error.strerror or error})"
            raise DataError(f"{why}: make room, or set LABUTIL_DATA to another folder") from error
    return h, seconds


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each batch norm into the convolution listed before it, in place: for evaluation the same function, up to
    rounding, with a pass over the maps less. The network has to apply its layers in the order in which it lists them.
    """
    network.eval()
    for module in network.modules():
        for (name, conv), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, getattr(norm, "act", nn.Identity()))  # timm's batch norms activate as well


def feature_size(image_shape: tuple[int, int], encoder: str = DEFAULT) -> int:
    """Pixels a side at which a pretrained network sees images of this height and width: the larger of the two, to the
    nearest multiple of 32, from 96 (small images are seen better enlarged) to 224. One that this workbook trained sees
    all images at the size that it was trained on."""
    own = encoders.origin(encoder)
    if own["own"]:
        side = own["model"].get("input_size") or own["model"]["image_size"]
        return side if isinstance(side, int) else side[0]
    return min(224, max(96, 32 * round(max(image_shape) / 32)))


def batch_size(size: int) -> int:
    """Images of `size` pixels a side at once. A CPU is fastest when a layer's maps stay in its cache."""
    if device.get_device().type != "cpu":
        return 512
    return max(8, min(32, (64 * 64 * 64) // size**2 // 8 * 8))


def _key(images: Tensor, encoder: str, size: int, weights: str | Path | None) -> str:
    facts = [FORMAT, encoder, size, tuple(images.shape), device.default_precision()]
    weights = weights or encoders.find(encoder)
    if weights is not None:
        file = Path(weights).expanduser()
        facts += [str(file), file.exists() and (file.stat().st_size, file.stat().st_mtime_ns)]
    total = hashlib.sha256(repr(facts).encode())
    for chunk in images.split(4096):  # memory-mapped images stay on the disk
        total.update(chunk.contiguous().numpy())
    return total.hexdigest()[:32]
