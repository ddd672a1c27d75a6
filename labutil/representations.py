"""Representations and what is in them: frozen features, k-NN, linear probes, retrieval, spread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labutil import device, evaluation, models
from labutil.images import ImageSet, stratified_sample, to_numpy
from labutil.models import mlp_head
from labutil.paths import DataError, data_dir, replace_file
from labutil.training import fit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from threadpoolctl import threadpool_limits

    Array = ArrayLike | torch.Tensor

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

    Args:
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


def signed_root(x: np.ndarray) -> np.ndarray:
    """Square root of the size, with the sign: no single large feature decides (Jegou et al. 2012).

    `models.SignedRoot` is the same as a layer, for tensors and their gradients.
    """
    return np.sign(x) * np.sqrt(np.abs(x))


def principal_axes(h: Array, dimensions: int = 512) -> np.ndarray:
    """Signed roots of features on their leading principal axes, as a linear probe sees them, but to one scale.

    h: float (N, D). Returns float (N, min(dimensions, D, N - 1)), centred; the mean squared length is 100 before the
    further axes are left out, so that one `decay` of `logistic_regression` suits all features.

    Example:
        x = principal_axes(h)
        model = logistic_regression(x[train], y[train], decay=0.003)
        model.predict_proba(x[val])
    """
    x = to_numpy(h)
    with _one_thread():
        return _roots_on_axes(x, dimensions).fit_transform(x) / np.sqrt(_power(x))


def logistic_regression(
    x: np.ndarray, labels: np.ndarray, *, decay: float, sample_weight: np.ndarray | None = None
) -> LogisticRegression:
    """Multinomial logistic regression, fitted: least mean cross-entropy + decay * |W|^2 (the bias has no penalty).

    x: float (N, D), best with a mean squared length of about 100, as `principal_axes` gives it. labels: int (N,), two
    classes at least. sample_weight: (N,), which multiplies each row's cross-entropy in the mean.
    """
    from sklearn.linear_model import LogisticRegression

    with _one_thread():
        model = LogisticRegression(C=1 / (2 * decay * len(x)), max_iter=1000, tol=1e-3)
        return model.fit(x, labels, sample_weight=sample_weight)


def linear_probe(h: Array, labels: Array, *, decay: float = 0.002, dimensions: int = 512) -> Pipeline:
    """A linear classifier on frozen features: how much of the answer is in them in plain sight.

    Signed roots of the features, on their leading principal axes, then multinomial logistic regression with an L2
    penalty: a tenth of a second for a few thousand images, and the same every time. Features are not standardised
    one by one: those that vary little say little (on generated cells that costs three points of accuracy).

    h: float (N, D). labels: int (N,), two classes at least. decay: penalty, for features scaled to a mean squared
    length of 100; 0.001 to 0.01 suits most sets. dimensions: principal axes kept, at most.
    Returns a fitted scikit-learn pipeline: `.predict_proba(h)`, `.score(h, labels)`, `.classes_`; its steps are
    "signed_root", "axes" (PCA) and "classifier". It wants NumPy arrays.

    Example:
        probe = linear_probe(frozen_features(data.train.images), data.train.labels)
        probe.score(frozen_features(data.val.images).numpy(), data.val.labels.numpy())
    """
    from sklearn.pipeline import Pipeline

    x = to_numpy(h)
    axes = _roots_on_axes(x, dimensions)
    with _one_thread():
        on_axes = axes.fit_transform(x)
    classifier = logistic_regression(on_axes, to_numpy(labels), decay=decay * _power(x))
    return Pipeline([*axes.steps, ("classifier", classifier)])


def _roots_on_axes(x: np.ndarray, dimensions: int) -> Pipeline:
    """The first two steps of a linear probe of x (N, D), not yet fitted."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    solver = "covariance_eigh" if len(x) > x.shape[1] else "full"  # the former is fast, and fails on few images
    axes = PCA(min(dimensions, x.shape[1], max(1, len(x) - 1)), svd_solver=solver)
    return Pipeline([("signed_root", FunctionTransformer(signed_root)), ("axes", axes)])


def _power(x: np.ndarray) -> float:
    """Mean squared length of the centred signed roots of x (N, D), in hundreds."""
    return max(float(signed_root(x).var(0).sum()) / 100, 1e-12)


def _one_thread() -> threadpool_limits:
    """For small matrix products, where threads that wait for each other cost more than they bring."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


DEFAULT = "tf_efficientnet_lite0"  # its weights are installed
FORMAT = 1  # part of every name in the cache: raise it when the features of an image change


def frozen_features(
    images: Tensor | np.ndarray,
    *,
    encoder: str = DEFAULT,
    size: int | None = None,
    weights: str | Path | None = None,
    cache: bool = True,
) -> Tensor:
    """Representations of images by a network that was trained on ImageNet, in evaluation mode.

    Kept under `data/cache/features`, by the images' bytes, the network and the size: the second call reads them.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3; N = 0 is allowed.
        encoder: any name that `models.encoder` has pretrained weights for.
        size: pixels a side to which images are scaled first; None: `feature_size` of theirs. Features of larger
            images are better, and cost in proportion to size squared.
        weights: a file of weights, as `models.encoder` takes it.
        cache: False computes anew and keeps nothing.

    Returns:
        float32 (N, D) on the CPU; D = 1280 for the default.

    Raises:
        ValueError: images of another type or shape, a size below 1, weights that cannot be had.
        DataError: the cache cannot be written.

    Example:
        h = frozen_features(data.train.images)
    """
    images = check_images("images", images)
    size = feature_size(images.shape[2:]) if size is None else int(size)
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")

    def compute() -> Tensor:
        with torch.random.fork_rng(devices=[]):  # a new network draws its first weights, though others replace them
            network = models.encoder(encoder, pretrained=True, weights=weights, input_size=size)
        network = network.to(device.get_device(), memory_format=torch.channels_last)
        return evaluation.predict(network, images, batch_size=batch_size(size))

    if not cache:
        return compute()
    path = data_dir() / "cache" / "features" / f"{_key(images, encoder, size, weights)}.npy"
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError):  # none yet, or one that a full disk cut short
        h = compute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: _save(temporary, h.numpy()))
    except OSError as error:
        raise DataError(
            f"{path.parent} cannot be written ({error.strerror or error}): make room, or set LABUTIL_DATA to another "
            f"folder"
        ) from error
    return h


def check_images(name: str, images: Tensor | np.ndarray) -> Tensor:
    """`images` as a tensor, uint8 (N, 1 or 3, H, W), or one clear ValueError that calls them `name`."""
    images = torch.as_tensor(images)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in {1, 3}:
        raise ValueError(f"{name}: expected uint8 (N, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    return images


def eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` that always answers: in single precision it gives up on many equal eigenvalues, as a
    covariance of fewer images than features has, and then takes twice as long in double."""
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:
        values, vectors = torch.linalg.eigh(matrix.double())
        return values.to(matrix.dtype), vectors.to(matrix.dtype)


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


def _save(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would add .npy to the temporary name
        np.save(file, values)


def probe_head(probe: Pipeline, n_classes: int) -> nn.Sequential:
    """A fitted `linear_probe` as a head: its softmax is the probe's `predict_proba`.

    Fine-tuning from there (LP-FT: Kumar et al. 2022, arXiv:2202.10054) begins with a head that fits, so its first
    gradients do not distort the features; a random head's do. The principal axes are multiplied into the one linear
    layer. A class that the probe has not seen gets the logit -30, the others' largest is at least about 0.

    probe: of features (N, D). n_classes: K, at least as many as the probe knows.
    Returns Sequential(SignedRoot(), Linear(D, K)), which `rebuild` knows as
    head={"signed_root": True, "sizes": [], "dropout": []}.
    Raises ValueError for a pipeline of other steps, or one whose labels are not among 0 to K - 1.

    Example:
        probe = linear_probe(h, data.train.labels)
        model = Classifier(encoder("tf_efficientnet_lite0", pretrained=True), 8, probe_head(probe, 8))
    """
    if list(probe.named_steps) != ["signed_root", "axes", "classifier"]:
        raise ValueError("probe: expected the fitted pipeline that representations.linear_probe returns")
    axes, regression = probe["axes"], probe["classifier"]
    classes = torch.as_tensor(regression.classes_)
    if classes.min() < 0 or classes.max() >= n_classes:
        raise ValueError(f"n_classes={n_classes}: the probe knows labels from {classes.min()} to {classes.max()}")
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes: one logit, positive for the second; softmax wants their difference
        weight, bias = (torch.as_tensor(v).double().repeat_interleave(2, 0) / 2 for v in (weight, bias))
        weight[0], bias[0] = -weight[0], -bias[0]
    weight = torch.as_tensor(weight).double() @ torch.as_tensor(axes.components_).double()
    bias = torch.as_tensor(bias).double() - weight @ torch.as_tensor(axes.mean_).double()
    head = mlp_head(weight.shape[1], [], n_classes, signed_root=True)
    with torch.no_grad():
        head[1].weight.zero_()[classes] = weight.float()
        head[1].bias.fill_(-30.0)[classes] = bias.float()
    return head


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
    y = to_numpy(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    _, first = np.unique(y[order], return_index=True)
    one_each = order[first]
    if n <= len(one_each):
        return np.sort(one_each)
    rest = np.setdiff1d(np.arange(len(y)), one_each)
    more = rest[stratified_sample(y[rest], n - len(one_each), seed)]
    return np.sort(np.concatenate([one_each, more]))


def label_efficiency(
    h: Array, labels: Array, h_val: Array, labels_val: Array, shares: Sequence[float], *, seeds: int = 3
) -> pd.DataFrame:
    """Accuracy of `linear_probe` with so many of the labels, each share of them drawn `seeds` times.

    Args:
        h, labels: representations (N, D) and labels (N,) to draw from. h_val, labels_val: to measure on.
        shares: of the labels, in (0, 1].

    Returns: DataFrame(share, labels, seed, accuracy), a row a draw; one draw where all labels are used.

    Example:
        table = label_efficiency(h, data.train.labels, h_val, data.val.labels, (0.01, 0.1, 1.0))
        table.groupby("share").accuracy.agg(["mean", "std"])
    """
    x, y, x_val, y_val = (to_numpy(values) for values in (h, labels, h_val, labels_val))
    rows = []
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"shares: {share} must be above 0 and at most 1")
        for seed in range(seeds if share < 1 else 1):
            index = few_labels(y, round(share * len(y)), seed)
            accuracy = linear_probe(x[index], y[index]).score(x_val, y_val)
            rows.append((share, len(index), seed, accuracy))
    return pd.DataFrame(rows, columns=["share", "labels", "seed", "accuracy"])
