"""Exercise checks of the contrastive lessons, 04 and 05."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, judge, look_up, scalar, tensor


def _mask(answer: object, shape: tuple[int, int]) -> Tensor:
    """A mask as bool, given as one or as zeros and ones."""
    values = tensor(answer, shape)
    if not ((values == 0) | (values == 1)).all():
        raise Wrong("a mask holds True and False only (or 1 and 0)")
    return values.bool()


@checked
def view_pairs(function: Callable[[int], Tensor]) -> str:
    """`function(n) -> bool (2n, 2n)`: True where two rows of torch.cat([z_a, z_b]) are views of one image, not one
    row with itself."""
    for n in (4, 7):
        same_image = torch.eye(n, dtype=torch.bool).repeat(2, 2)
        expected = same_image & ~torch.eye(2 * n, dtype=torch.bool)
        raw = call(function, n)
        if isinstance(raw, Tensor) and raw.shape == (n, n):
            raise Wrong("there are 2n views, so the mask is (2n, 2n)")
        answer = _mask(raw, (2 * n, 2 * n))
        if torch.equal(answer, expected):
            continue
        mistakes = {
            "every view is its own positive in yours: clear the diagonal, or the loss rewards nothing": same_image,
            "the diagonal pairs a view with itself; its positive is the *other* view of the image": torch.eye(2 * n),
            "that marks the negatives; mark the positives": (~expected, ~same_image),
            "only one direction: if j is the positive of i, i is that of j": (expected.triu(), expected.tril()),
        }
        look_up(answer, mistakes)
        if all(answer[2 * i, 2 * i + 1] for i in range(n)):
            raise Wrong("torch.cat([z_a, z_b]) stacks all first views, then all second: row i belongs to row i + n")
        raise Wrong(f"for n = {n} each row has one True, n columns away; yours has {int(answer[0].sum())} in row 0")
    return "One positive a row, 2n - 2 negatives."


def _nt_xent(z_a: Tensor, z_b: Tensor, tau: float) -> Tensor:
    z = F.normalize(torch.cat([z_a, z_b]).double(), dim=1)
    similarity = (z @ z.mT / tau).fill_diagonal_(-math.inf)
    n = len(z_a)
    return F.cross_entropy(similarity, (torch.arange(2 * n) + n) % (2 * n))


@checked
def info_nce(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """`function(z_a, z_b, tau) -> scalar`: NT-Xent over both views of N images; z_a, z_b (N, D), not normalised."""
    g = torch.Generator().manual_seed(0)
    z_a, z_b = (torch.randn(6, 5, generator=g) for _ in range(2))
    z_b, tau, n = z_b + z_a, 0.5, 6
    expected = _nt_xent(z_a, z_b, tau).item()
    raw = call(function, z_a.clone(), z_b.clone(), tau)
    if isinstance(raw, Tensor) and raw.shape in {(n,), (2 * n,)}:
        raise Wrong("that is one loss a view; the batch's loss is their mean")
    answer = scalar(raw)
    a, b = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1)
    z = torch.cat([a, b])
    s, eye = z @ z.mT / tau, torch.eye(2 * n, dtype=torch.bool)
    positive = (a * b).sum(1).repeat(2) / tau
    pairs = torch.eye(n, dtype=torch.bool).repeat(2, 2)
    rows = torch.arange(n)
    one_way = F.cross_entropy(a @ b.mT / tau, rows).item()
    both_ways = (one_way + F.cross_entropy(b @ a.mT / tau, rows).item()) / 2
    raw_z = torch.cat([z_a, z_b])
    plain = (raw_z @ raw_z.mT / tau).fill_diagonal_(-math.inf)

    def below(similarity: Tensor) -> float:
        """The loss with other similarities in the sum below the fraction."""
        return (similarity.logsumexp(1) - positive).mean().item()

    mistakes = {
        "similarities of a view with itself are still in the sum": below(s),
        "0 on the diagonal is still e^0 = 1 in the sum: use -inf": below(s.masked_fill(eye, 0)),
        "the positive belongs into the sum below the fraction too; only the view itself is left out": below(
            s.masked_fill(pairs, -math.inf)
        ),
        "that is the sum over the views; divide by 2N": 2 * n * expected,
        "divide by the 2N views, not by N": 2 * expected,
        "the sign is turned round: similar positives must lower the loss": -expected,
        "only the views of z_b are compared with z_a: all 2N - 1 other views belong into the sum": one_way,
        "views of the same side are negatives too: all 2N - 1 other views belong into the sum": both_ways,
        "divide the similarities by tau, do not multiply": _nt_xent(z_a, z_b, 1 / tau).item(),
        "tau is not used": _nt_xent(z_a, z_b, 1.0).item(),
        "sim is the cosine: normalise z first": F.cross_entropy(plain, (torch.arange(2 * n) + n) % (2 * n)).item(),
        "the similarity of the positive pair is missing": s.masked_fill(eye, -math.inf).logsumexp(1).mean().item(),
        "that is in bits; use the natural logarithm": expected / math.log(2),
    }
    judge(answer, expected, mistakes, f"for a random batch of {n} images")
    cold = scalar(call(function, z_a, z_b, 0.01))
    if not math.isclose(cold, _nt_xent(z_a, z_b, 0.01).item(), rel_tol=1e-3):
        raise Wrong(f"right at tau 0.5, but {cold} at tau 0.01: exp(1 / 0.01) overflows; use logsumexp")
    return "And stable at tau = 0.01."


@checked
def collapsed_loss(function: Callable[[int], float]) -> str:
    """`function(n) -> float`: InfoNCE of n images whose 2n projections are all the same."""
    for n in (16, 256, 1):
        answer, expected = scalar(call(function, n)), math.log(2 * n - 1)
        if math.isclose(answer, expected, rel_tol=1e-4, abs_tol=1e-6):
            continue
        if n == 1:
            raise Wrong(f"one image has two views: only the positive is left in the sum, log 1 = 0, not {answer:.4f}")
        mistakes = {
            "that is the number of answers; the loss is its logarithm": 2 * n - 1,
            "a view is not compared with itself: one less than 2n": math.log(2 * n),
            "the positive is in the sum too, beside 2n - 2 negatives": math.log(2 * n - 2),
            "there are two views of each image": (math.log(n), math.log(n - 1)),
            "that is in bits; use the natural logarithm": math.log2(2 * n - 1),
            "the sign is turned round": -expected,
            "equal to the positive means equal to every negative as well: the softmax is uniform": 0.0,
        }
        look_up(answer, mistakes)
        hint = "if a term with tau remains: -1/tau and 1/tau cancel"
        raise Wrong(f"for n = {n} it is {expected:.4f}, yours is {answer:.4f}; {hint}")
    return "Whatever tau is: it cancels."


@checked
def target_momentum(function: Callable[[float, float], float]) -> str:
    """`function(progress, base) -> float`: 1 - (1 - base) (cos(pi progress) + 1) / 2, progress in [0, 1]."""
    base = 0.96
    points = [0.0, 0.25, 0.5, 1.0]
    answers = [scalar(call(function, p, base)) for p in points]
    shapes = {
        "": lambda p: 1 - (1 - base) * (math.cos(math.pi * p) + 1) / 2,
        "yours falls from 1 to the base: early on the target should follow quickly, later it should rest": lambda p: (
            1 - (1 - base) * (1 - math.cos(math.pi * p)) / 2
        ),
        "that is a straight line; the cosine starts and ends gently": lambda p: base + (1 - base) * p,
        "yours does not change with progress": lambda p: base,
        "the cosine runs from 1 to -1: halve cos + 1": lambda p: 1 - (1 - base) * (math.cos(math.pi * p) + 1),
        "that is the share that changes, 1 - momentum": lambda p: (1 - base) * (math.cos(math.pi * p) + 1) / 2,
    }
    for reason, shape in shapes.items():
        if all(math.isclose(a, shape(p), rel_tol=1e-6, abs_tol=1e-9) for a, p in zip(answers, points, strict=True)):
            if reason:
                raise Wrong(reason)
            return "At the end the target stands still."
    for p, answer in zip(points, answers, strict=True):
        expected = shapes[""](p)
        if not math.isclose(answer, expected, rel_tol=1e-6):
            raise Wrong(f"progress {p}, base {base}: {expected:.4f}, yours is {answer:.4f}")
    raise Wrong("close, but not equal at every progress")


@checked
def off_diagonal(function: Callable[[Tensor], Tensor]) -> str:
    """`function(c) -> scalar`: sum of the squares of all entries of c (D, D) that are not on its diagonal."""
    g = torch.Generator().manual_seed(3)
    c = torch.randn(5, 5, generator=g)
    d = c.diagonal()
    expected = (c.pow(2).sum() - d.pow(2).sum()).item()
    answer = scalar(call(function, c.clone()))
    rest = c - torch.diag(d)
    mistakes = {
        "the diagonal is still in the sum": c.pow(2).sum().item(),
        "that is the diagonal; everything else is wanted": d.pow(2).sum().item(),
        "square each entry: negative correlations are correlations too": rest.sum().item(),
        "squares, not absolute values": rest.abs().sum().item(),
        "square each entry first, then sum": rest.sum().pow(2).item(),
        "only the upper triangle: C is not symmetric, sum both": c.triu(1).pow(2).sum().item(),
        "only the lower triangle: C is not symmetric, sum both": c.tril(-1).pow(2).sum().item(),
        "the sum, not the mean: lambda is chosen for it": (expected / 20, expected / 25),
    }
    judge(answer, expected, mistakes, "for the check's 5x5 matrix")
    return "The diagonal has its own term: (1 - C_dd)^2."


@checked
def positives(function: Callable[[Tensor], Tensor]) -> str:
    """`function(labels) -> bool (2N, 2N)`: True where two rows of torch.cat([z_a, z_b]) have one label, not one row
    with itself; labels (N,)."""
    labels = torch.tensor([2, 0, 1, 0, 2])
    n = len(labels)
    own = torch.eye(2 * n, dtype=torch.bool)
    same = (labels[:, None] == labels).repeat(2, 2)
    raw = call(function, labels.clone())
    if isinstance(raw, Tensor) and raw.shape == (n, n):
        raise Wrong("labels are of images, rows of views: each label counts for two rows (repeat it)")
    answer = _mask(raw, (2 * n, 2 * n))
    if torch.equal(answer, same & ~own):
        return "With labels that all differ it is SimCLR's mask."
    image = torch.eye(n, dtype=torch.bool).repeat(2, 2)
    interleaved = labels.repeat_interleave(2)
    mistakes = {
        "every view is its own positive in yours: clear the diagonal": same,
        "that is SimCLR's mask: images of one class should attract each other too": image & ~own,
        "the other view of the same image is a positive as well": same & ~image,
        "that marks the negatives; mark the positives": ~same,
        "first all z_a, then all z_b: repeat(2), not interleaved": (interleaved[:, None] == interleaved) & ~own,
    }
    look_up(answer, mistakes)
    row = int((answer != (same & ~own)).any(1).nonzero()[0])
    label = int(labels[row % n])
    raise Wrong(
        f"row {row} (label {label}) has {int((same & ~own)[row].sum())} positives, in yours {answer[row].sum()}"
    )


@checked
def l_out(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(log_p, mask) -> scalar`: SupCon's L_out; log_p (M, M) log softmax of the similarities, mask (M, M)
    bool, True at positives. Anchors without positives are left out of the mean."""
    g = torch.Generator().manual_seed(4)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    m = len(labels)
    mask = (labels[:, None] == labels) & ~torch.eye(m, dtype=torch.bool)
    similarity = 3 * torch.randn(m, m, generator=g)
    log_p = (similarity + similarity.mT).fill_diagonal_(-math.inf).log_softmax(1)

    kept, count = mask.any(1), mask.sum(1)
    summed = -log_p.masked_fill(~mask, 0).sum(1)
    losses = (summed / count)[kept]
    expected = losses.mean().item()
    answer = scalar(call(function, log_p.clone(), mask.clone()))
    if not math.isfinite(answer):
        raise Wrong(
            "the answer is not finite: the last image has no positive (0 / 0), or the diagonal's -inf met a 0 (use "
            "torch.where or masked_fill, not a product)"
        )
    l_in = -(log_p.exp().masked_fill(~mask, 0).sum(1) / count)[kept].log().mean().item()
    mistakes = {
        "the sign is turned round: a loss is -log p": -expected,
        "anchors without positives count as 0 in your mean; leave them out": losses.sum().item() / m,
        "that is the sum over the anchors; take the mean": losses.sum().item(),
        "that is L_in, the logarithm of the mean; L_out is the mean of the logarithms": l_in,
        "average each anchor's positives first: yours gives large classes more weight": -log_p[mask].mean().item(),
        "divide by the number of positives, 1 / |P|": summed[kept].mean().item(),
    }
    judge(answer, expected, mistakes, f"for the check's {m} views")
    return "The logarithm stays inside the sum: that is L_out."


@checked
def positives_per_anchor(function: Callable[[int, int, int], float]) -> str:
    """`function(batch_size, k, views) -> number`: positives of a view when k classes share a batch equally."""
    for batch, k, views in ((256, 8, 2), (60, 15, 1), (512, 2, 2)):
        expected = views * batch / k - 1
        answer = scalar(call(function, batch, k, views))
        mistakes = {
            "a view is not its own positive; one less": views * batch / k,
            f"each image is there {views} times": batch / k - 1,
            f"each image is there {views} times, and a view is not its own positive": batch / k,
            "the other view of the same image is a positive too": views * (batch / k - 1),
            "those are the negatives": views * batch - views * batch / k,
            "that is SimCLR; with labels the whole class counts": views - 1,
        }
        judge(
            answer, expected, mistakes, f"batch {batch}, {k} classes, {views} view{'s' if views > 1 else ''}", rtol=1e-6
        )
    return "SimCLR has one, whatever the batch."
