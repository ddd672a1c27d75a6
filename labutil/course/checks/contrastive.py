"""Exercise checks of the contrastive lessons, 04 and 05."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import (
    Wrong,
    backpropagates,
    call,
    checked,
    close,
    hidden,
    judge,
    scalar,
    seeded,
    tensor,
)


def _eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.bool)


def _mask(answer: object, n: int, of_images: str) -> Tensor:
    """A mask of 2n views, given as bool or as zeros and ones. of_images: what is wrong with one of n rows."""
    values = tensor(answer, (2 * n, 2 * n), {(n, n): of_images})
    if not ((values == 0) | (values == 1)).all():
        raise Wrong("a mask holds True and False only (or 1 and 0)")
    return values.bool()


def _nt_xent(z_a: Tensor, z_b: Tensor, tau: float) -> Tensor:
    z = F.normalize(torch.cat([z_a, z_b]).double(), dim=1)
    return F.cross_entropy((z @ z.mT / tau).fill_diagonal_(-math.inf), torch.arange(len(z)).roll(len(z_a)))


@checked(
    refuses=(
        *("torch.nn.functional.cross_entropy", "torch.nn.functional.nll_loss"),
        *("labutil.losses.info_nce", "labutil.losses.sup_con"),
    )
)
def info_nce(function: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """`function(z_a, z_b, tau) -> scalar`: NT-Xent over both views of N images; z_a, z_b (N, D), not normalised."""
    g = seeded(0)
    z_a, z_b = (torch.randn(6, 5, generator=g) for _ in range(2))
    z_b, tau, n = z_b + z_a, 0.5, 6
    expected = _nt_xent(z_a, z_b, tau)
    a, b, z = F.normalize(z_a, dim=1), F.normalize(z_b, dim=1), torch.cat([z_a, z_b])
    s, own = F.normalize(z, dim=1) @ F.normalize(z, dim=1).mT / tau, _eye(2 * n)
    positive, others = (a * b).sum(1).repeat(2) / tau, s.masked_fill(own, -math.inf)
    rows = torch.arange(n)
    one_way = F.cross_entropy(a @ b.mT / tau, rows)
    both_ways = (one_way + F.cross_entropy(b @ a.mT / tau, rows)) / 2
    plain = F.cross_entropy((z @ z.mT / tau).fill_diagonal_(-math.inf), torch.arange(2 * n).roll(n))

    def below(similarity: Tensor) -> Tensor:
        """The loss with other similarities in the sum below the fraction."""
        return (similarity.logsumexp(1) - positive).mean()

    without_positive = below(s.masked_fill(_eye(n).repeat(2, 2), -math.inf))
    mistakes = {
        "similarities of a view with itself are still in the sum": below(s),
        "0 on the diagonal is still e^0 = 1 in the sum: use -inf": below(s.masked_fill(own, 0)),
        "the positive belongs into the sum below the fraction too; only the view itself is left out": without_positive,
        "that is the sum over the views; divide by 2N": 2 * n * expected,
        "divide by the 2N views, not by N": 2 * expected,
        "the sign is turned round: similar positives must lower the loss": -expected,
        "only the views of z_b are compared with z_a: all 2N - 1 other views belong into the sum": one_way,
        "views of the same side are negatives too: all 2N - 1 other views belong into the sum": both_ways,
        "divide the similarities by tau, do not multiply": _nt_xent(z_a, z_b, 1 / tau),
        "tau is not used": _nt_xent(z_a, z_b, 1.0),
        "the similarity of the positive pair is divided by tau, too": below(others) + (1 - tau) * positive.mean(),
        "views of z_b are asked as well: the mean is over all 2N views": (others.logsumexp(1) - positive)[:n].mean(),
        "sim is the cosine: normalise z first": plain,
        "of the views in torch.cat([z_a, z_b]) row i belongs to row i + N": others.logsumexp(1).mean()
        - others[range(2 * n), [i ^ 1 for i in range(2 * n)]].mean(),
        "the similarity of the positive pair is missing": others.logsumexp(1).mean(),
        "that is in bits; use the natural logarithm": expected / math.log(2),
    }
    per_view = dict.fromkeys([(n,), (2 * n,)], "that is one loss a view; the batch's loss is their mean")
    judge(call(function, z_a, z_b, tau), expected, mistakes, f"for a random batch of {n} images", shapes=per_view)
    cold = scalar(call(function, z_a, z_b, 0.01))
    if not close(cold, _nt_xent(z_a, z_b, 0.01), rtol=1e-3, atol=1e-3):  # it may be near 0
        raise Wrong(f"right at tau 0.5, but {cold} at tau 0.01: exp(1 / 0.01) overflows; use logsumexp")
    backpropagates(function, z_a, z_b, tau)
    return "And stable at tau = 0.01."


@checked(refuses=("labutil.losses.byol",))
def stop_gradient(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """`function(z_a, z_b, p_a, p_b) -> scalar`: SimSiam's loss of two views' projections z and predictions p, each
    (N, D): 2 - 2 cos(p, the other view's z), both directions added, the mean over images. No gradient reaches z."""
    g = seeded(5)
    z_a, z_b, p_a, p_b = given = [torch.randn(6, 5, generator=g).requires_grad_() for _ in range(4)]

    def apart(p: Tensor, z: Tensor) -> Tensor:
        return 2 - 2 * F.cosine_similarity(p, z, dim=1)

    def ours() -> Tensor:
        return (apart(p_a, z_b.detach()) + apart(p_b, z_a.detach())).mean()

    answer, expected = call(lambda: function(*given)), ours().item()
    own_view = (apart(p_a, z_a) + apart(p_b, z_b)).mean().item()
    one_way = (apart(p_a, z_b).mean().item(), apart(p_b, z_a).mean().item())
    dots = (4 - 2 * (p_a * z_b).sum(1) - 2 * (p_b * z_a).sum(1)).mean().item()
    predictions, projections = (2 * apart(x, y).mean().item() for x, y in ((p_a, p_b), (z_a, z_b)))
    mistakes = {
        "a prediction is compared with the *other* view's z: p_a with z_b, p_b with z_a": own_view,
        "only one direction: each view predicts the other": one_way,
        "that is the mean of the two directions; the equation adds them": expected / 2,
        "sim is the cosine: normalise both first": dots,
        "the sign is turned round: the more alike, the lower the loss": (-expected, 8 - expected, 4 - expected),
        "that compares the predictions with each other; compare them with z": predictions,
        "that compares the projections with each other; p is the prediction": projections,
        "the cosines alone: the loss is 2 - 2 cos for each direction": (
            expected - 4,
            2 - expected / 2,
            expected / 4 - 1,
        ),
        "that is the sum over the images; take their mean": 6 * expected,
    }
    per_image = {(6,): "that is one loss an image; the batch's loss is their mean"}
    value = answer.detach() if isinstance(answer, Tensor) else answer
    judge(value, expected, mistakes, "for a random batch of 6 images", shapes=per_image)
    if not isinstance(answer, Tensor) or not answer.requires_grad:
        raise Wrong("the value is right, but no gradient comes back to p: return a tensor, and do not detach p")
    found = torch.autograd.grad(answer, given, allow_unused=True)
    if any(gradient is not None and gradient.any() for gradient in found[:2]):
        raise Wrong("the value is right, but a gradient reaches z, which would walk towards its prediction: z.detach()")
    right = torch.autograd.grad(ours(), given[2:])
    if any(mine is None or not close(mine, own).all() for mine, own in zip(found[2:], right, strict=True)):
        raise Wrong("the value is right, but the gradient of p is not: detach z, and nothing else")
    return "The network moves towards the target, and the target does not move towards it."


@checked(refuses=("labutil.course.answers.positives",))
def positives(function: Callable[[Tensor], Tensor]) -> str:
    """`function(labels) -> bool (2N, 2N)`: True where two rows of torch.cat([z_a, z_b]) have one label, not one row
    with itself; labels (N,)."""
    labels = hidden(lambda rng: torch.from_numpy(rng.permutation([2, 0, 1, 0, 2, 1, 3])), torch.tensor([2, 0, 1, 0, 2]))
    n = len(labels)
    own, image, interleaved = _eye(2 * n), _eye(n).repeat(2, 2), labels.repeat_interleave(2)
    same = (labels[:, None] == labels).repeat(2, 2)
    mistakes = {
        "every view is its own positive in yours: clear the diagonal": same,
        "that is SimCLR's mask: images of one class should attract each other too": image & ~own,
        "the other view of the same image is a positive as well": same & ~image,
        "that marks the negatives; mark the positives": (~same, ~same | own),
        "first all z_a, then all z_b: repeat(2), not interleaved": (interleaved[:, None] == interleaved) & ~own,
    }
    of_images = "labels are of images, rows of views: each label counts for two rows (repeat it)"
    answer = _mask(call(function, labels), n, of_images)
    judge(answer, same & ~own, mistakes, hint=f"the labels are {labels.tolist()}")
    if function(labels).dtype != torch.bool:
        raise Wrong("right, but in numbers; later cells ask for True and False: combine comparisons by & and ~")
    return "With labels that all differ it is SimCLR's mask."


@checked(refuses=("labutil.course.answers.l_out",))
def l_out(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(log_p, mask) -> scalar`: SupCon's L_out; log_p (M, M) log softmax of the similarities, mask (M, M)
    bool, True at positives. Anchors without positives are left out of the mean."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    m = len(labels)
    mask = (labels[:, None] == labels) & ~_eye(m)
    similarity = 3 * torch.randn(m, m, generator=seeded(4))
    log_p = (similarity + similarity.mT).fill_diagonal_(-math.inf).log_softmax(1)
    answer = scalar(call(function, log_p, mask))
    if not math.isfinite(answer):
        raise Wrong(
            "the answer is not finite: the last image has no positive (0 / 0), or the diagonal's -inf met a 0 (use "
            "torch.where or masked_fill, not a product)"
        )
    kept, count = mask.any(1), mask.sum(1)
    summed = -log_p.masked_fill(~mask, 0).sum(1)
    losses = (summed / count)[kept]
    expected = losses.mean()
    mean_p = (log_p.exp().masked_fill(~mask, 0).sum(1) / count)[kept]
    mistakes = {
        "the sign is turned round: a loss is -log p": -expected,
        "anchors without positives count as 0 in your mean; leave them out": losses.sum() / m,
        "that is the sum over the anchors; take the mean": losses.sum(),
        "that is L_in, the logarithm of the mean; L_out is the mean of the logarithms": -mean_p.log().mean(),
        "average each anchor's positives first: yours gives large classes more weight": -log_p[mask].mean(),
        "divide by the number of positives, 1 / |P|": summed[kept].mean(),
    }
    judge(answer, expected, mistakes, f"for the check's {m} views")
    backpropagates(function, log_p, mask)
    return "The logarithm stays inside the sum: that is L_out."


def _batches(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Three cases: images in a batch, classes, views."""
    return [(int(k * rng.integers(4, 40)), int(k), int(rng.integers(1, 4))) for k in rng.integers(2, 20, 3)]


@checked(refuses=("labutil.losses.sup_con", "labutil.course.answers.lowest_loss"))
def lowest_loss(function: Callable[[int, int, int], float]) -> str:
    """`function(batch_size, k, views) -> number`: SupCon's loss when k classes share a batch equally, the views of a
    class are one point, and other classes are too far away to count."""
    for batch, k, views in ((256, 8, 2), (60, 15, 1), (512, 2, 2), *hidden(_batches)):
        of_class = views * batch / k
        expected = math.log(of_class - 1)
        mistakes = {
            "that is the number of positives; what is the probability of each, and -log of it": of_class - 1,
            "a view is not its own positive; one less": math.log(of_class),
            f"each image is there {views} times": math.log(batch / k - 1),
            f"each image is there {views} times, and a view is not its own positive": math.log(batch / k),
            "the other view of the same image is a positive too": math.log(views * (batch / k - 1)),
            "that is the loss when all views of all classes are one point": math.log(views * batch - 1),
            "no: the softmax sums to 1, so the positives must share it, and -log of a share is above 0": 0.0,
            "the sign is turned round": -expected,
            "that is in bits; use the natural logarithm": math.log2(of_class - 1),
            "that is cross-entropy with K classes before training; here the answer is another view": math.log(k),
        }
        judge(call(function, batch, k, views), expected, mistakes, f"batch {batch}, {k} classes, views: {views}")
    return "SimCLR's is log 1 = 0: one positive shares with nobody."
