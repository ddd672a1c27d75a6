"""Every exercise: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from labutil import checks, losses
from labutil.cleaning import faults
from labutil.compare import significance
from labutil.course import answers


def f1(c):
    """F1, precision and recall of each class; 0 / 0 is NaN."""
    precision, recall = c.diag() / c.sum(0), c.diag() / c.sum(1)
    return 2 * precision * recall / (precision + recall), precision, recall


def solutions():
    """(exercise, function) of every solution in the notebooks."""
    for path in sorted((Path(__file__).parents[2] / "notebooks").glob("0*.ipynb")):
        text = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        for exercise, name in re.findall(r"lab\.checks\.(\w+)\((\w+)\)", text):
            scope = {"math": math, "np": np, "torch": torch, "F": F}
            exec(next(code for code in blocks if f"def {name}(" in code), scope)
            yield exercise, scope[name]


SOLUTIONS = list(solutions())
right = SimpleNamespace(**dict(SOLUTIONS))


def eye(n):
    return torch.eye(n, dtype=torch.bool)


def unit(*z):
    return F.normalize(torch.cat(z), dim=1)


def pairs(n):
    """Which rows of torch.cat([z_a, z_b]) are the other view of each."""
    return eye(2 * n).roll(n, 0)


def nt_xent(z_a, z_b, tau, *, fill=-torch.inf, positive_in_sum=True, rows=None, times=1.0):
    """Written with masks and slices, unlike labutil's."""
    s, positive = unit(z_a, z_b) @ unit(z_a, z_b).T / tau, pairs(len(z_a))
    below = s if fill is None else s.masked_fill(eye(len(s)), fill)
    below = below if positive_in_sum else below.masked_fill(positive, -torch.inf)
    return (below.logsumexp(1) - times * s[positive])[:rows].mean()


def neighbours_paired(z_a, z_b, tau):
    s = (unit(z_a, z_b) @ unit(z_a, z_b).T / tau).masked_fill(eye(2 * len(z_a)), -torch.inf)
    return -s.log_softmax(1)[range(len(s)), [i ^ 1 for i in range(len(s))]].mean()


def overflows(z_a, z_b, tau):
    e = (unit(z_a, z_b) @ unit(z_a, z_b).T / tau).exp()
    return -(e[pairs(len(z_a))] / (e.sum(1) - e.diag())).log().mean()


def one_way(a, b, tau):
    s = unit(a) @ unit(b).T / tau
    return (s.logsumexp(1) - s.diag()).mean()


def cos(p, z):
    return F.cosine_similarity(p, z, dim=1)


def far(p, z):
    return 2 - 2 * cos(p, z)


def l_out(log_p, mask, of_row=lambda log_p: log_p.mean()):
    return -torch.stack([of_row(row[m]) for row, m in zip(log_p, mask, strict=True) if m.any()]).mean()


def eigenvalues(x, correction=0, centre=True):
    x = x - x.mean(0) if centre else x
    return torch.linalg.eigvalsh(x.T @ x / (len(x) - correction))  # rising


def exact(a, b, tails=2, cut=True, tail=True, seen=True, everything=False, which=min):
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = len(a) if everything else only_a + only_b, which(only_a, only_b)
    p = tails * sum(math.comb(n, i) for i in (range(k + seen) if tail else [k])) / 2**n
    return min(1.0, p) if cut else p


def chi_square(a, b):
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return math.erfc(max(0, abs(only_a - only_b) - 1) / math.sqrt(2 * (only_a + only_b)))


def three(*arms):
    return dict(zip(("as it came", "cleaned", "control"), arms, strict=True))


def drawn(rows, n, seed):
    return np.random.default_rng(seed).permutation(rows)[:n]


def steps(p, *, cut=True, running=True, back=True):
    """Holm's correction, or without one of its steps."""
    values = np.sort(p) * np.arange(len(p), 0, -1)
    values = np.minimum(1, values) if cut else values
    values = np.maximum.accumulate(values) if running else values
    return values[np.argsort(np.argsort(p))] if back else values


def surprise(z, y):
    return -z.log_softmax(1)[range(len(y)), y]


def by_backward(z, y):
    z = z.clone().requires_grad_()
    surprise(z, y).mean().backward()
    return z.grad


def update(order, *, reduction="mean", give=lambda loss, again: loss.item()):
    """A training step that calls zero_grad (z), backward (b) and step (s) in this order."""

    def function(model, optimizer, x, y):
        loss = F.cross_entropy(model(x), y, reduction=reduction)
        for call in order:
            {"z": optimizer.zero_grad, "b": loss.backward, "s": optimizer.step}[call]()
        return give(loss, lambda: F.cross_entropy(model(x), y))

    return function


TAUS = {"grid": {"tau": [0.05, 0.1, 0.5]}, "seeds": [0, 1, 2], "objective": "val_knn_accuracy"}
RIVAL = {"start": "random encoder", "seeds": [0, 1, 2]}
GRID = {"grid": {"batch_size": [32, 128], "lr": [0.0005, 0.002, 0.008]}}
VIEWS = {
    "points": [{"views": 2, "epochs": 4}, {"views": 1, "epochs": 8}],
    "seeds": [0, 1, 2],
    "objective": "val_knn_accuracy",
}


def measured_floor(batch_size, k):
    y = torch.arange(batch_size) % k
    corners = F.one_hot(y).float()
    return losses.sup_con(corners, corners, y, 0.01)


HEADS = {
    "grid": {"head": ["probe", "linear"], "lr": [0.0001, 0.0005, 0.002]},
    "seeds": [0, 1, 2],
    "objective": "val_accuracy_fine_tuned",
}


# Written otherwise than the notebooks' solutions.
def runs_each(gap, seed_std, image_std, *, errors=2.8, methods=2, whole=math.ceil, least=2, never=math.inf):
    left = (gap / errors) ** 2 - image_std**2
    return max(least, whole(methods * seed_std**2 / left)) if left > 0 else never


ALSO_RIGHT = [
    ("hamming", lambda a, b: a.float() @ (1 - b.float()).T + (1 - a.float()) @ b.float().T),
    ("arms", lambda r, out, s: three(r, np.array([i for i in r if i not in out]), drawn(r, 48, s))),
    ("macro_f1", lambda c: f1(c)[0].nan_to_num().mean()),
    ("training_step", update("bsz")),
    ("training_step", update("zbs", give=lambda loss, again: loss.detach())),
    (
        "fair_sweep",
        lambda: {
            "grid": {"lr": [0.1, 0.01, 0.001], "batch_size": [128, 32]},
            "seeds": (3, 4, 5, 6),
            "objective": "val_accuracy",
        },
    ),
    ("fold", lambda m, a, w, b: (torch.einsum("ka,ad->kd", w, a), b - w @ (a @ m))),
    ("search_report", lambda val, test: float(test[int(np.argmax(val.numpy()))])),
    (
        "fair_heads",
        lambda: HEADS | {"grid": {"lr": [0.01, 0.001, 0.0001], "head": ["linear", "probe"]}, "seeds": range(3)},
    ),
    ("grad_cam", lambda a, g: torch.einsum("d,dhw->hw", g.mean((1, 2)), a).clamp(min=0)),
    ("info_nce", nt_xent),
    ("stop_gradient", lambda a, b, p, q: 2 * 5 * F.mse_loss(unit(p, q), unit(b, a).detach())),
    ("temperature_sweep", lambda: TAUS | {"seeds": (3, 4, 5, 6), "objective": "val_linear_accuracy"}),
    ("l_out", l_out),
    ("lowest_loss", lambda b, k, v: torch.tensor(v * b / k - 1).log()),
    (
        "fair_views",
        lambda: {
            "points": [{}, {"views": 1}, {"views": 1, "epochs": 8}],
            "seeds": range(3, 7),
            "objective": "val_linear_accuracy",
        },
    ),
    ("bce_gradient", lambda z, x: (1 / (1 + (-z).exp())).sub(x).mul(1 / z.numel())),
    ("fair_control", lambda ours: {**ours, "start": "random encoder", "seeds": range(3)}),
    ("fair_control", lambda ours: {**ours, "start": "random encoder", "seeds": list(np.arange(3))}),
    (
        "fair_sweep",
        lambda: (
            GRID
            | {"grid": {"batch_size": [32, 128], "lr": np.geomspace(1e-3, 1e-2, 3)}}
            | {"seeds": [0, 1, 2], "objective": "val_accuracy"}
        ),
    ),
    ("pca_error", lambda x, k: eigenvalues(x)[:-k].sum() / x.shape[1]),
    ("holm", steps),
    ("seeds_needed", runs_each),
]
WRONG = [
    ("cross_entropy", surprise, "their mean"),
    ("cross_entropy", lambda z, y: surprise(z, y).sum(), "divide by N"),
    ("cross_entropy", lambda z, y: -surprise(z, y).mean(), "sign"),
    ("cross_entropy", lambda z, y: surprise(z, y).mean() / math.log(2), "natural logarithm"),
    ("cross_entropy", lambda z, y: -z[range(len(y)), y].mean(), "log sum exp is missing"),
    ("cross_entropy", lambda z, y: -z.softmax(1)[range(len(y)), y].mean(), "logarithm is missing"),
    ("cross_entropy", lambda z, y: surprise(z.softmax(1), y).mean(), "applied twice"),
    ("cross_entropy", lambda z, y: z.exp().sum().log() - z[range(len(y)), y].mean(), "dim=1"),
    ("cross_entropy", lambda z, y: (z.exp().sum(1).log() - z[range(len(y)), y]).mean(), "overflows"),
    (
        "cross_entropy",
        lambda z, y: -z.softmax(1)[range(len(y)), y].log().mean(),
        "but inf .* 500 is right: .*underflows",
    ),
    ("cross_entropy", lambda z, y: -(z.softmax(1) + 1e-12)[range(len(y)), y].log().mean(), "but 13.8155 .*only hides"),
    ("cross_entropy", lambda z, y: surprise(z, y).mean().item(), "no gradient comes back"),
    ("cross_entropy", lambda z, y: torch.tensor(surprise(z, y).mean().numpy()), "no gradient passes NumPy"),
    ("cross_entropy", lambda z, y: z - z.max(1, keepdim=True), r"take \.values, or amax"),
    ("cross_entropy", lambda z, y: surprise(z, y).mean() - z.amax(1).mean(), "subtracted from z_y, too"),
    ("cross_entropy", lambda z, y: -z.log_softmax(1)[:, y].mean(), r"of each row its own y"),
    ("cross_entropy", lambda z, y: -(F.one_hot(y, 5) * z.log_softmax(1)).mean(), "mean over the classes as well"),
    ("cross_entropy", lambda z, y: torch.tensor(0.5), "yours is 0.5"),
    ("cross_entropy", lambda z, y: z @ z, "raised RuntimeError"),
    ("cross_entropy", torch.nn.CrossEntropyLoss(), "cross_entropy is the answer itself"),
    ("cross_entropy", lambda z, y: F.nll_loss(z.log_softmax(1), y), "nll_loss is the answer itself"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) - F.one_hot(y, 4), "divided by N"),
    ("cross_entropy_gradient", lambda z, y: (z.softmax(1) - F.one_hot(y, 4)) / z.numel(), "not over the classes"),
    ("cross_entropy_gradient", lambda z, y: (F.one_hot(y, 4) - z.softmax(1)) / len(y), "sign"),
    ("cross_entropy_gradient", lambda z, y: z.softmax(1) / len(y), "stands alone"),
    ("cross_entropy_gradient", lambda z, y: (z.softmax(1) - F.one_hot(y)) / len(y), "without the highest class"),
    ("cross_entropy_gradient", lambda z, y: z * 0, "start from -logit_y"),
    ("cross_entropy_gradient", lambda z, y: z.sum(0), r"shape \(6, 4\), yours has \(4,\)"),
    ("cross_entropy_gradient", lambda z, y: 3.0, "must be a tensor"),
    ("cross_entropy_gradient", torch.func.grad(F.cross_entropy), "cross_entropy is the answer itself"),
    ("cross_entropy_gradient", lambda z, y: torch.func.grad(lambda q: surprise(q, y).mean())(z), "grad is the answer"),
    ("cross_entropy_gradient", by_backward, "backward is the answer itself"),
    ("training_step", update("bs"), "the second batch: the gradient of the batch before .* zero_grad"),
    ("training_step", update("zs"), "the first batch: no gradient was computed"),
    ("training_step", update("zb"), r"optimizer.step\(\) is missing"),
    ("training_step", update("zsb"), "comes before loss.backward"),
    ("training_step", update("bzs"), "throws the gradient away"),
    ("training_step", update("zbss"), "did not go one step"),
    ("training_step", update("zbs", reduction="sum"), "a step by the sum"),
    ("training_step", update("zbs", give=lambda loss, again: None), "return the loss as well"),
    ("training_step", update("zbs", give=lambda loss, again: loss), "keeps its whole graph"),
    ("training_step", update("zbs", give=lambda loss, again: again().item()), "after the update"),
    ("training_step", update("zbs", give=lambda loss, again: 3.0), "the loss of the first batch: .* yours is 3"),
    ("fair_sweep", lambda: 3, "a dictionary"),
    ("fair_sweep", lambda: GRID | {"seeds": 3}, "a dictionary"),
    ("fair_sweep", lambda: {"grid": {"epoch": [4, 8]}}, "no parameter 'epoch'"),
    ("fair_sweep", lambda: GRID | {"objective": "test_accuracy"}, "metrics of validation images begin with val_"),
    (
        "fair_sweep",
        lambda: {"grid": {"batch_size": [32, 64], "lr": [0.1, 0.01]}},
        "rivals are batches of 32 and of 128",
    ),
    ("fair_sweep", lambda: {"grid": GRID["grid"] | {"epochs": [4, 8]}}, "epochs changes as well"),
    ("fair_sweep", lambda: {"grid": {"batch_size": [32, 128]}, "seeds": [0, 1, 2]}, "let each try three"),
    ("fair_sweep", lambda: {"grid": {"batch_size": [32, 128], "lr": [0.001, 0.002, 0.003]}}, "close together"),
    ("fair_sweep", lambda: GRID, "one seed does not tell"),
    ("fair_sweep", lambda: GRID | {"seeds": [0, 1]}, "two seeds do not tell"),
    ("fair_sweep", lambda: GRID | {"seeds": [0, 1, 2]}, "lesson 02 logs is val_accuracy"),
    ("macro_f1", lambda c: c.diag().sum() / c.sum(), "accuracy"),
    ("macro_f1", lambda c: (f1(c)[0] * c.sum(1) / c.sum()).sum(), "every class counts the same"),
    ("macro_f1", lambda c: f1(c)[1].mean(), "macro precision"),
    ("macro_f1", lambda c: f1(c)[2].mean(), "macro recall"),
    ("macro_f1", lambda c: ((f1(c)[1] + f1(c)[2]) / 2).mean(), "arithmetic mean"),
    ("macro_f1", lambda c: 2 / sum(1 / f1(c)[i].mean() for i in (1, 2)), "each class first"),
    ("macro_f1", lambda c: (2 / (c.sum(1) / c.diag() + c.sum(0) / c.diag())).mean() * 0.5, "yours is"),
    ("macro_f1", lambda c: f1(c)[0].mean(), "divides by zero"),
    ("macro_f1", lambda c: f1(c)[0].nanmean(), "still counts"),
    ("macro_f1", lambda c: (2 * c.diag() / (c.sum(0) + c.sum(1))).mean(), "no image and no prediction"),
    ("macro_f1", lambda c: (2 * c.diag() / (c.sum(0) + c.sum(1))).nanmean(), "count it as 0"),
    ("macro_f1", lambda c: sum(2 * int(c[i, i]) / int(c[i].sum() + c[:, i].sum()) for i in range(3)) / 3, "is 0/0"),
    ("hamming", lambda a, b: (b[:, None] ^ a[None]).sum(2), "turned round"),
    ("hamming", lambda a, b: (a[:, None] == b[None]).sum(2), "bits that agree"),
    ("hamming", lambda a, b: (a[:, None] ^ b[None]).float().mean(2), "share of bits"),
    ("hamming", lambda a, b: (a[:, None] & b[None]).sum(2), "1 in both"),
    ("hamming", lambda a, b: torch.zeros(5, 7), r"at \[0, 0\] 34 is right, yours is 0"),
    ("robust_z", lambda x: (x - x.mean()) / x.std(), "ordinary z-score"),
    ("robust_z", lambda x: (x - x.median()) / (x - x.median()).abs().median(), "1.4826 is missing"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.mean()).abs().median()), "not from the mean"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().mean()), "take their median"),
    ("robust_z", lambda x: right.robust_z(x).abs(), "keep the sign"),
    ("robust_z", lambda x: (x - x.median()) * 1.4826 * (x - x.median()).abs().median(), "do not multiply"),
    ("robust_z", lambda x: 1.4826 * (x - x.median()) / (x - x.median()).abs().median(), "belongs below"),
    ("robust_z", lambda x: (x - x.median()) / 1.4826, "median absolute deviation is missing"),
    ("robust_z", lambda x: (x - x.median()) * (x - x.median()).abs().median() / 1.4826, "x is .9.0, 1.0"),
    ("robust_z", lambda x: (x - x.median()) / (1.4826 * (x - x.median()).abs().median() ** 2), "x is .9.0, 1.0"),
    ("robust_z", lambda x: x, "x is .9.0, 1.0"),
    ("recall_precision", lambda t, f: len(f & t) / len(t), "return two numbers"),
    ("recall_precision", lambda t, f: (len(f & t) / len(f), len(f & t) / len(t)), "exchanged"),
    ("recall_precision", lambda t, f: (len(f & t), len(f & t)), r"3, 4\]: at \[0\] 0.66666667 is right, yours is 2"),
    ("recall_precision", lambda t, f: (len(f & t) / len(t), len(f & t) / len(f)), "divides by zero"),
    ("recall_precision", lambda t, f: (len(f & t) / len(t), len(f & t) / max(1, len(f))), "1 by convention"),
    ("recall_precision", lambda t, f: 2 * faults.score_rows(t, f), "score_rows is the answer itself"),
    ("hamming", lambda a, b: (a != b).sum(1), "every row of a meets every row of b"),
    ("hamming", lambda a, b: (a[:, None] != b[None]).sum(), "over everything"),
    ("hamming", lambda a, b: (a[:, None] != b[None]).sum(1), "over the rows of b"),
    ("hamming", lambda a, b: (a[:, None] != b[None]).sum(0), "over the rows of a"),
    ("robust_z", lambda x: (x - x.median()) / (x - x.median()).median(), "take their sizes"),
    ("robust_z", lambda x: (x - x.median()) / x.std(), "still the ordinary standard deviation"),
    ("hamming", lambda a, b: torch.cdist(a.float(), b.float(), p=0), "cdist is the answer itself"),
    ("robust_z", lambda x: x / stats.median_abs_deviation(x, scale="normal"), "median_abs_deviation is the answer"),
    ("arms", lambda r, out, s: r, "a dictionary with the keys"),
    ("arms", lambda r, out, s: three(r, np.isin(r, out), r), "'cleaned' must hold row numbers, not bool"),
    ("arms", lambda r, out, s: three(np.setdiff1d(r, out), r, r), "'as it came' is what you compare with"),
    ("arms", lambda r, out, s: three(r, np.intersect1d(r, out), r), "keeps what the step removes"),
    ("arms", lambda r, out, s: three(r, r[13:], r), "no more and no fewer"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), r), "as large as the set as it came"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), np.setdiff1d(r, out)), "the cleaned set again"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), drawn(r, len(r) - len(out), s)), "some of `removed` are"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), drawn(r, 30, s)), "48 of 60 here, not 30"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), drawn(np.arange(900), 48, s)), "not in `rows`"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), np.resize(r, 100)), "a row twice"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), r[:48]), "every seed gives the same control"),
    ("arms", lambda r, out, s: three(r, np.setdiff1d(r, out), np.random.permutation(r)[:48]), "gives another control"),  # noqa: NPY002
    ("fold", answers.fold, "is the answer itself"),
    ("fold", lambda m, a, w, b: w @ a, "return two tensors"),
    ("fold", lambda m, a, w, b: ((w @ a).T, b), "turned round: a row a class"),
    ("fold", lambda m, a, w, b: (-w @ a, b), "its sign turned"),
    ("fold", lambda m, a, w, b: (w, b), r"shape \(3, 5\), yours has \(3, 4\)"),
    ("fold", lambda m, a, w, b: (w @ a * 2, b), r"W: at \[0, 0\]"),
    ("fold", lambda m, a, w, b: (w @ a, b), "W is right, b is not: the mean is not in it"),
    ("fold", lambda m, a, w, b: (w @ a, b + w @ a @ m), "the sign is turned round"),
    ("fold", lambda m, a, w, b: (w @ a, -w @ a @ m), "classifier's own bias is in it as well"),
    ("fold", lambda m, a, w, b: (w @ a, w @ a @ m), "classifier's own bias is in it as well"),
    ("fold", lambda m, a, w, b: (w @ a, b - w @ m[:4]), "put x = 0 into the three steps"),
    ("fold", lambda m, a, w, b: (w @ a, b - a @ m), "raised RuntimeError"),
    ("search_report", answers.search_report, "is the answer itself"),
    ("search_report", lambda val, test: test.max(), "as Report C did"),
    ("search_report", lambda val, test: test[test.argmax()], "as Report C did"),
    ("search_report", lambda val, test: val.max(), "the validation images chose it"),
    ("search_report", lambda val, test: val[test.argmax()], "are exchanged"),
    ("search_report", lambda val, test: val.argmax(), "which setting to take"),
    ("search_report", lambda val, test: test.mean(), "only one setting will be used"),
    ("search_report", lambda val, test: test[(val + test).argmax()], "had a say in the choice"),
    ("search_report", lambda val, test: 0.81, "not for another one"),
    ("search_report", lambda val, test: (val.max() + test[val.argmax()]) / 2, "half chosen by"),
    ("search_report", lambda val, test: test[val.argmin()], "worst on validation"),
    ("search_report", lambda val, test: test[3], "not for another one"),
    ("search_report", lambda val, test: 0.5, "0.81 is right, yours is 0.5"),
    ("search_report", lambda val, test: (val, test), "must be one number"),
    ("fair_heads", lambda: HEADS | {"grid": {"head": ["probe", "linear"]}}, "a fitted head wants small steps"),
    ("fair_heads", lambda: HEADS | {"grid": {"lr": HEADS["grid"]["lr"]}}, "the fitted probe and one random layer"),
    ("fair_heads", lambda: HEADS | {"seeds": [0]}, "one seed does not tell"),
    ("fair_heads", lambda: HEADS | {"objective": "val_accuracy"}, "the better of probe and fine-tuned"),
    ("fair_heads", lambda: HEADS | {"objective": "val_loss"}, "lesson 03 logs is val_accuracy_fine_tuned"),
    ("fair_heads", lambda: HEADS | {"objective": "fine_tuned_accuracy"}, "begin with val_"),
    ("fair_heads", lambda: HEADS | {"grid": HEADS["grid"] | {"layers": [15, 60]}}, "layers changes as well"),
    ("grad_cam", answers.grad_cam, "is the answer itself"),
    ("grad_cam", lambda a, g: g.mean((1, 2))[:, None, None] * a, "a map for each channel"),
    ("grad_cam", lambda a, g: (g * a).sum((1, 2)), "the places"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).sum(0), "ReLU is missing"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).sum(0).abs(), "turns it round"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).relu().sum(0), "after the sum"),
    ("grad_cam", lambda a, g: (g * a).sum(0).relu(), "place by place"),
    ("grad_cam", lambda a, g: (g.sum((1, 2))[:, None, None] * a).sum(0).relu(), "not the sum"),
    ("grad_cam", lambda a, g: (g.mean((1, 2))[:, None, None] * a).mean(0).relu(), "not averaged"),
    ("grad_cam", lambda a, g: g.sum(0).relu(), "do not say where"),
    ("grad_cam", lambda a, g: a.sum(0), "know nothing of the class"),
    ("grad_cam", lambda a, g: (a.mean((1, 2))[:, None, None] * g).sum(0).relu(), "exchanged"),
    ("grad_cam", lambda a, g: right.grad_cam(a, g) / right.grad_cam(a, g).max(), "do not scale"),
    ("grad_cam", lambda a, g: right.grad_cam(a.relu(), g), "maps are taken with both signs: the ReLU"),
    ("grad_cam", lambda a, g: right.grad_cam(a.abs(), g), "maps are taken with both signs, not their sizes"),
    ("grad_cam", lambda a, g: right.grad_cam(a, g.relu()), "mean is taken with both signs"),
    ("grad_cam", lambda a, g: (g.mean((1, 2)).relu()[:, None, None] * a).sum(0).relu(), "weights keep their signs"),
    ("grad_cam", lambda a, g: (g.mean(0) * a).sum(0).relu(), "not over the channels"),
    ("grad_cam", lambda a, g: a[0] * 0 + 1, r"at \[0, 0\] 0 is right, yours is 1"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, fill=None), "with itself are still in the sum"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, fill=0.0), r"e\^0 = 1 in the sum: use -inf"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, positive_in_sum=False), "positive belongs into the sum"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) * 12, "sum over the views"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) * 2, "not by N"),
    ("info_nce", lambda a, b, t: -nt_xent(a, b, t), "sign"),
    ("info_nce", one_way, "only the views of z_b"),
    ("info_nce", lambda a, b, t: (one_way(a, b, t) + one_way(b, a, t)) / 2, "same side are negatives"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, 1 / t), "do not multiply"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, 1.0), "tau is not used"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t) / math.log(2), "bits"),
    ("info_nce", lambda a, b, t: torch.zeros(12), "their mean"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t).item(), "no gradient comes back"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, times=t), "divided by tau, too"),
    ("info_nce", lambda a, b, t: nt_xent(a, b, t, rows=6), "over all 2N views"),
    ("info_nce", overflows, "overflows; use logsumexp"),
    ("info_nce", neighbours_paired, r"row i belongs to row i \+ N"),
    ("info_nce", lambda a, b, t: torch.tensor(torch.inf) * 0, "0 times infinity"),
    ("info_nce", lambda a, b, t: 0.3, "yours is 0.3"),
    ("info_nce", losses.info_nce, "losses.info_nce is the answer itself"),
    ("info_nce", lambda a, b, t: losses.sup_con(a, b, torch.arange(6), t), "sup_con is the answer itself"),
    ("info_nce", lambda a, b, t: F.cross_entropy(a @ b.T, torch.arange(6)), "cross_entropy is the answer itself"),
    ("stop_gradient", lambda a, b, p, q: (far(p, a) + far(q, b)).mean(), "the .other. view's z"),
    ("stop_gradient", lambda a, b, p, q: far(p, b.detach()).mean(), "only one direction"),
    ("stop_gradient", lambda a, b, p, q: far(q, a.detach()).mean(), "only one direction"),
    ("stop_gradient", lambda a, b, p, q: right.stop_gradient(a, b, p, q) / 2, "the equation adds them"),
    ("stop_gradient", lambda a, b, p, q: (4 - 2 * (p * b + q * a).sum(1)).mean(), "normalise both first"),
    ("stop_gradient", lambda a, b, p, q: -right.stop_gradient(a, b, p, q), "sign"),
    ("stop_gradient", lambda a, b, p, q: (4 + 2 * cos(p, b) + 2 * cos(q, a)).mean(), "sign"),
    ("stop_gradient", lambda a, b, p, q: (cos(p, b) + cos(q, a)).mean() * 2, "sign"),
    ("stop_gradient", lambda a, b, p, q: -2 * (cos(p, b) + cos(q, a)).mean(), "the cosines alone"),
    ("stop_gradient", lambda a, b, p, q: -(cos(p, b) + cos(q, a)).mean() / 2, "the cosines alone"),
    ("stop_gradient", lambda a, b, p, q: (2 - cos(p, b) - cos(q, a)).mean(), "adds them"),
    ("stop_gradient", lambda a, b, p, q: 2 * far(p, q).mean(), "predictions with each other"),
    ("stop_gradient", lambda a, b, p, q: 2 * far(a, b).mean(), "projections with each other"),
    ("stop_gradient", lambda a, b, p, q: (far(p, b) + far(q, a)).sum(), "sum over the images"),
    ("stop_gradient", lambda a, b, p, q: far(p, b) + far(q, a), "one loss an image"),
    ("stop_gradient", lambda a, b, p, q: (far(p, b) + far(q, a)).mean(), "a gradient reaches z"),
    ("stop_gradient", lambda a, b, p, q: (far(p.detach(), b) + far(q.detach(), a)).mean(), "a gradient reaches z"),
    ("stop_gradient", lambda a, b, p, q: right.stop_gradient(a, b, p, q).detach(), "no gradient comes back to p"),
    ("stop_gradient", lambda a, b, p, q: right.stop_gradient(a, b, p, q).item(), "no gradient comes back to p"),
    (
        "stop_gradient",
        lambda a, b, p, q: (far(p, b.detach()) + far(q.detach(), a.detach())).mean(),
        "detach z, and nothing else",
    ),
    ("stop_gradient", lambda a, b, p, q: losses.byol(p, b) + losses.byol(q, a), "losses.byol is the answer itself"),
    ("stop_gradient", lambda a, b, p, q: (p - b).sum(), "is right, yours is"),
    ("temperature_sweep", lambda: TAUS | {"grid": {"tau": [0.1]}}, "others to compare"),
    ("temperature_sweep", lambda: TAUS | {"grid": {"tau": [0.05, 0.2, 0.5]}}, "let tau take this value"),
    ("temperature_sweep", lambda: TAUS | {"grid": {"tau": [0.1, 0.2, 0.5]}}, "at one end"),
    ("temperature_sweep", lambda: TAUS | {"grid": {"tau": [0.09, 0.1, 0.11]}}, "close to 0.1"),
    ("temperature_sweep", lambda: TAUS | {"grid": TAUS["grid"] | {"lr": [0.1, 0.2]}}, "lr changes as well"),
    ("temperature_sweep", lambda: TAUS | {"grid": {"temperature": [0.1]}}, "no parameter 'temperature'"),
    ("temperature_sweep", lambda: TAUS | {"seeds": [0]}, "one seed does not tell"),
    ("temperature_sweep", lambda: TAUS | {"objective": "val_loss"}, "tau is in the loss"),
    ("temperature_sweep", lambda: TAUS | {"objective": "val_retrieval_top5"}, "what the loss asks for"),
    ("temperature_sweep", lambda: TAUS | {"objective": "test_accuracy"}, "begin with val_"),
    ("temperature_sweep", lambda: TAUS | {"objective": None}, "say what a setting is judged by"),
    ("temperature_sweep", lambda: TAUS | {"objective": "val_coarse_accuracy"}, "none that lesson 04 logs"),
    ("temperature_sweep", lambda: 0.1, "a dictionary"),
    ("positives", lambda y: y[:, None] == y, "each label counts for two rows"),
    ("positives", lambda y: right.positives(y) | eye(10), "clear the diagonal"),
    ("positives", lambda y: pairs(5), "SimCLR's mask"),
    ("positives", lambda y: right.positives(y) & ~pairs(5), "other view of the same image"),
    ("positives", lambda y: ~(right.positives(y) | eye(10)), "marks the negatives"),
    ("positives", lambda y: y.repeat_interleave(2)[:, None].eq(y.repeat_interleave(2)) & ~eye(10), "not interleaved"),
    ("positives", lambda y: ~right.positives(y), "marks the negatives"),
    ("positives", lambda y: right.positives(y).float(), "in numbers"),
    ("positives", answers.positives, "the answer itself"),
    ("positives", lambda y: eye(10) & False, r"at \[0, 4\] 1 is right, yours is 0; the labels are"),
    ("l_out", lambda log_p, mask: -l_out(log_p, mask), "sign"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask, lambda row: row.exp().mean().log()), "L_in"),
    ("l_out", lambda log_p, mask: -log_p[mask].mean(), "large classes more weight"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask) * 5 / 6, "count as 0"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask) * 5, "sum over the anchors"),
    ("l_out", lambda log_p, mask: -log_p.masked_fill(~mask, 0).sum(1)[mask.any(1)].mean(), "divide by the number"),
    ("l_out", lambda log_p, mask: -(log_p.masked_fill(~mask, 0).sum(1) / mask.sum(1)).mean(), "no positive"),
    ("l_out", lambda log_p, mask: -((log_p * mask).sum(1) / mask.sum(1)).nanmean(), "not finite"),
    ("l_out", lambda log_p, mask: l_out(log_p, mask).item(), "no gradient comes back"),
    ("l_out", answers.l_out, "the answer itself"),
    ("l_out", lambda log_p, mask: 1.0, "yours is 1$"),
    ("lowest_loss", answers.lowest_loss, "the answer itself"),
    ("lowest_loss", lambda b, k, v: v * b / k - 1, "the number of positives"),
    ("lowest_loss", lambda b, k, v: math.log(v * b / k), "not its own positive"),
    ("lowest_loss", lambda b, k, v: math.log(b / k - 1), "2 times$"),
    ("lowest_loss", lambda b, k, v: math.log(b / k), "2 times, and a view"),
    ("lowest_loss", lambda b, k, v: math.log(v * (b / k - 1)), "other view of the same image"),
    ("lowest_loss", lambda b, k, v: math.log(v * b - 1), "all classes are one point"),
    ("lowest_loss", lambda b, k, v: 0, "must share it"),
    ("lowest_loss", lambda b, k, v: -math.log(v * b / k - 1), "sign"),
    ("lowest_loss", lambda b, k, v: math.log2(v * b / k - 1), "in bits"),
    ("lowest_loss", lambda b, k, v: math.log(k), "before training"),
    ("lowest_loss", lambda b, k, v: 7.5, "4.1431347 is right, yours is 7.5"),
    ("lowest_loss", lambda b, k, v: measured_floor(b, k), "sup_con is the answer itself"),
    ("fair_views", lambda: [1, 2], "a dictionary"),
    ("fair_views", lambda: VIEWS | {"seeds": 3}, "a dictionary"),
    ("fair_views", lambda: VIEWS | {"points": [1, 2]}, "each point is a dictionary"),
    ("fair_views", lambda: VIEWS | {"grid": {}}, "three keys"),
    ("fair_views", lambda: VIEWS | {"points": [{"view": 1}]}, "no parameter 'view' .did you mean 'views'"),
    ("fair_views", lambda: VIEWS | {"points": [{"views": 1}, {"epochs": "many"}]}, "epochs"),
    ("fair_views", lambda: VIEWS | {"points": [{"views": 1}, {"views": 1, "epochs": 8}]}, "one point of each"),
    ("fair_views", lambda: VIEWS | {"points": [{"views": 1}, {"views": 2}]}, "half the time"),
    ("fair_views", lambda: VIEWS | {"points": [{"views": 2, "epochs": 8}, {"views": 1}]}, "half the time"),
    ("fair_views", lambda: VIEWS | {"points": [{"views": 1, "epochs": 8, "lr": 0.1}, {}]}, "lr changes as well"),
    ("fair_views", lambda: VIEWS | {"seeds": [0, 1]}, "two seeds do not tell"),
    ("fair_views", lambda: VIEWS | {"seeds": [0, 0, 0]}, "one seed does not tell"),
    ("fair_views", lambda: VIEWS | {"objective": "val_loss"}, "the least loss is lower"),
    ("fair_views", lambda: VIEWS | {"objective": "knn_accuracy"}, "validation images that lesson 05 logs"),
    ("bce_gradient", lambda z, x: z.sigmoid() - x, "mean over all pixels"),
    ("bce_gradient", lambda z, x: (z.sigmoid() - x) / 3, "not by the number of images"),
    ("bce_gradient", lambda z, x: (z.sigmoid() - x) / 16, "number of images as well"),
    ("bce_gradient", lambda z, x: (x - z.sigmoid()) / 48, "sign"),
    ("bce_gradient", lambda z, x: ((1 - x) / (1 - z.sigmoid()) - x / z.sigmoid()) / 48, "chain rule"),
    ("bce_gradient", lambda z, x: 2 * (p := z.sigmoid()) * (1 - p) * (p - x) / 48, "MSE's gradient"),
    ("bce_gradient", torch.func.grad(F.binary_cross_entropy_with_logits), "with_logits is the answer itself"),
    ("bce_gradient", torch.func.grad(lambda z, x: losses.reconstruction_loss(z, x, "bce")), "loss is the answer"),
    ("bce_gradient", lambda z, x: torch.func.grad(lambda z: z.sum())(z), "grad is the answer itself"),
    ("bce_gradient", answers.bce_gradient, "is the answer itself"),
    ("bce_gradient", lambda z, x: (z - x) / 48, "sigmoid of the logits"),
    ("bce_gradient", lambda z, x: torch.zeros_like(z), "right, yours is 0$"),
    ("bce_gradient", lambda z, x: z.sum(), "must have shape"),
    ("pca_error", lambda x, k: eigenvalues(x)[-k:].sum() / 6, "what the code keeps"),
    ("pca_error", lambda x, k: eigenvalues(x)[:-k].sum(), "over the D values"),
    ("pca_error", lambda x, k: eigenvalues(x, 1)[:-k].sum() / 6, "not N - 1"),
    ("pca_error", lambda x, k: eigenvalues(x, 0, False)[:-k].sum() / 6, "mean off first"),
    (
        "pca_error",
        lambda x, k: (torch.linalg.svdvals(x - x.mean())[k:] ** 2).sum() / 240,
        "one number for each of the D",
    ),
    ("pca_error", lambda x, k: torch.linalg.svdvals(x - x.mean(0))[k:].sum() / 240, "squared singular"),
    ("pca_error", lambda x, k: eigenvalues(x)[: -k - 1].sum() / 6, "one component too many"),
    ("pca_error", lambda x, k: eigenvalues(x).sum() / 6, "k = 0"),
    ("pca_error", lambda x, k: 1.5, "yours is 1.5"),
    ("pca_error", answers.pca_error, "is the answer itself"),
    ("fair_control", lambda ours: ours | {"seeds": [0, 1, 2]}, "ours once more"),
    ("fair_control", lambda ours: ours | RIVAL | {"start": "SimCLR"}, "which teacher is better"),
    ("fair_control", lambda ours: ours | RIVAL | {"start": "nothing"}, 'start is "random encoder"'),
    ("fair_control", lambda ours: {"labels": 0.1, "epochs": [2, 16], "head": [64]} | RIVAL, "ours has 0.5, the rival"),
    ("fair_control", lambda ours: ours | RIVAL | {"labels": 1.0}, "owed to the labels"),
    ("fair_control", lambda ours: ours | RIVAL | {"epochs": [0, 30]}, "about costs"),
    ("fair_control", lambda ours: ours | RIVAL | {"head": [128]}, "owed to the head"),
    ("fair_control", lambda ours: ours | {"start": "random encoder"}, "1 of the three runs"),
    ("fair_control", lambda ours: ours | RIVAL | {"seeds": [0, 1]}, "2 of the three runs"),
    ("fair_control", lambda ours: ours | RIVAL | {"seeds": [0, 0, 0]}, "the same run twice"),
    ("fair_control", lambda ours: ours | RIVAL | {"seeds": 3}, "seeds is a list"),
    ("fair_control", lambda ours: RIVAL, "with what ours has"),
    ("fair_control", lambda ours: "random encoder", "with what ours has"),
    ("fair_control", answers.fair_control, "is the answer itself"),
    ("mcnemar", lambda a, b: exact(a, b, cut=False), "at most 1"),
    ("mcnemar", lambda a, b: exact(a, b, tails=1), "that is one tail"),
    ("mcnemar", lambda a, b: exact(a, b, tail=False), "the chance of exactly"),
    ("mcnemar", chi_square, "chi-square form"),
    ("mcnemar", lambda a, b: exact(a, b, seen=False), r"the split that was seen counts as well: range\(k \+ 1\)"),
    ("mcnemar", lambda a, b: exact(a, b, seen=False, tails=1), r"range\(k \+ 1\)"),
    ("mcnemar", lambda a, b: exact(a, b, everything=True), "do images enter that both have right"),
    ("mcnemar", lambda a, b: exact(a, b, tail=False, tails=1), "the chance of exactly"),
    ("mcnemar", lambda a, b: exact(a, b, which=max), "k is the smaller"),
    ("mcnemar", lambda a, b: 0.3, "0.21875 is right, yours is 0.3$"),
    ("mcnemar", lambda a, b: exact(a, b) if (a != b).any() else 1 / 0, "p is 1"),
    ("mcnemar", lambda a, b: exact(a, b) if (a != b).any() else 0.0, "1 is right, yours is 0"),
    ("paired_bootstrap", lambda a, b, d: -right.paired_bootstrap(a, b, d), "b minus a"),
    ("paired_bootstrap", lambda a, b, d: (a.float().mean() - b.float().mean()).expand(6), "index with drawn"),
    ("paired_bootstrap", lambda a, b, d: right.paired_bootstrap(a, b, d) * 40, "divide by N"),
    ("paired_bootstrap", lambda a, b, d: (a[d].float() - b[d.roll(1, 0)].float()).mean(1), "the same drawn images"),
    ("paired_bootstrap", lambda *a: right.paired_bootstrap(*a).abs(), "keep the sign: below 0 where b is ahead"),
    ("paired_bootstrap", lambda a, b, d: (a[d] - b[d]).mean(1), "booleans cannot be subtracted: .float.. first"),
    ("paired_bootstrap", lambda a, b, d: a[d].mean(1) - b[d].mean(1), "only floats have a mean: .float.. first"),
    ("paired_bootstrap", lambda a, b, d: torch.ones(2) @ torch.ones(3), "raised RuntimeError"),
    ("paired_bootstrap", lambda a, b, d: right.paired_bootstrap(a, b, d).mean(), r"must have shape \(6,\)"),
    ("paired_bootstrap", lambda a, b, d: torch.zeros(6), r"at \[0\] 0.175 is right, yours is 0; row i"),
    ("mcnemar", lambda a, b: significance.mcnemar(a, b)[2], "significance.mcnemar is the answer itself"),
    ("mcnemar", lambda a, b: stats.binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue, "the answer itself"),
    ("paired_bootstrap", answers.paired_bootstrap, "the answer itself"),
    ("seeds_needed", lambda *a: runs_each(*a, errors=1.96), "half of the experiments find it"),
    ("seeds_needed", lambda *a: runs_each(*a, methods=1), "both methods have runs"),
    ("seeds_needed", lambda gap, s, i: runs_each(gap, s, 0.0), r"take image_std\*\*2 off"),
    ("seeds_needed", lambda gap, s, i: math.ceil(2 * s**2 / (gap / 2.8 - i) ** 2), "standard deviations do not"),
    ("seeds_needed", lambda *a: runs_each(*a, whole=math.floor), "round up"),
    ("seeds_needed", lambda *a: runs_each(*a, whole=float), "round up"),
    ("seeds_needed", lambda *a: runs_each(*a, whole=round), "round up"),
    ("seeds_needed", answers.seeds_needed, "the answer itself"),
    ("seeds_needed", lambda *a: runs_each(*a, least=1), "at least 2"),
    ("seeds_needed", lambda *a: abs(runs_each(*a, never=1e6)), "the answer is math.inf, yours is 1e.06"),
    (
        "seeds_needed",
        lambda gap, s, i: math.ceil(2 * s**2 / max(0.0, (gap / 2.8) ** 2 - i**2)),
        "the answer is math.inf",
    ),
    ("seeds_needed", lambda gap, s, i: 3, "16 is right, yours is 3"),
    ("holm", significance.holm, "significance.holm is the answer itself"),
    ("holm", lambda p: [min(1, len(p) * x) for x in p], "those are Bonferroni's"),
    ("holm", lambda p: steps(p, running=False), "take the running maximum"),
    ("holm", lambda p: steps(p, cut=False), "a probability is at most 1"),
    ("holm", lambda p: steps(p, back=False), "in which they came"),
    ("holm", lambda p: p, r"at \[0\] 0.03 is right, yours is 0.01"),
    ("holm", lambda p: [0.1], "there are 3 corrected ones"),
]


@pytest.mark.parametrize(("name", "answer"), [*SOLUTIONS, *ALSO_RIGHT])
def test_right_answers_pass_and_untouched_and_crashing_ones_are_told(name, answer):
    check = getattr(checks, name)
    assert check(answer).status == "passed"
    assert repr(check(answer)).startswith(f"✓ {name}: correct. ")
    assert check.__doc__

    def todo(*args):
        raise NotImplementedError

    for stub in (lambda *a: None, lambda *a: ..., todo):
        assert check(stub).status == "not attempted"
        assert repr(check(stub)) == f"○ {name}: not attempted yet"

    def unsupported(*args):
        raise NotImplementedError("not for bool")

    assert check(unsupported).status == "failed"  # as torch says it: an attempt
    assert check(unsupported).message == "your function raised NotImplementedError: not for bool"
    assert check(lambda: 1).status == "failed"  # wrong number of arguments: said, not raised


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG, ids=[f"{name}-{reason}" for name, _, reason in WRONG])
def test_mistakes_are_recognised(name, answer, reason):
    result = getattr(checks, name)(answer)
    assert repr(result) == f"✗ {name}: {result.message}" and result.status == "failed"
    assert re.search(reason, result.message), result.message


def test_every_exercise_has_its_solution_and_its_mistakes():
    offered = {name for name in dir(checks) if callable(getattr(checks, name))} - {"guess"}
    assert offered == {name for name, _ in SOLUTIONS} == {name for name, *_ in WRONG}


def test_lessons_go_on_with_what_the_solutions_answer():
    a, b = (torch.rand(n, 64, generator=torch.Generator().manual_seed(n)) < 0.5 for n in (5, 7))
    assert answers.hamming(a, b).equal(right.hamming(a, b))
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert answers.robust_z(x).allclose(right.robust_z(x))
    drawn = torch.randint(50, (6, 50), generator=torch.Generator().manual_seed(0))
    assert answers.paired_bootstrap(x > 0.3, x > 0.6, drawn).allclose(right.paired_bootstrap(x > 0.3, x > 0.6, drawn))
    rows, removed = np.arange(40), np.array([3, 5, 99])
    for ours, theirs in zip(*(f(rows, removed, 1).values() for f in (answers.arms, right.arms)), strict=True):
        assert np.array_equal(ours, theirs)
    g = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=g) for shape in ((5,), (4, 5), (3, 4), (3,))]
    for ours, theirs in zip(answers.fold(*given), right.fold(*given), strict=True):
        torch.testing.assert_close(ours, theirs)
    val, test = torch.rand(2, 6, generator=g)
    assert answers.search_report(val, test) == right.search_report(val, test)
    maps, gradients = torch.randn(2, 6, 4, 5, generator=g)
    torch.testing.assert_close(answers.grad_cam(maps, gradients), right.grad_cam(maps, gradients))
    z, target = torch.randn(2, 3, 4), torch.rand(2, 3, 4)
    assert answers.bce_gradient(z, target).allclose(torch.func.grad(F.binary_cross_entropy_with_logits)(z, target))
    x = torch.randn(9, 6, dtype=torch.float64)
    assert answers.pca_error(x, 2).allclose(right.pca_error(x, 2))
    given = {"start": "autoencoder", "seeds": [0], "labels": 0.3}
    assert answers.fair_control(given) == right.fair_control(given)


def test_lesson_05_goes_on_with_what_its_solutions_answer():
    y = torch.tensor([2, 0, 1, 0, 2])
    mask = right.positives(y)
    assert answers.positives(y).equal(mask)
    log_p = torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    for answer in (answers.l_out, right.l_out):
        assert answer(log_p, mask).isclose(l_out(log_p, mask))
    assert answers.lowest_loss(64, 8, 2) == pytest.approx(right.lowest_loss(64, 8, 2)) == pytest.approx(math.log(15))


def test_an_approximate_pca_passes():
    def lowrank_error(x, k):
        u, s, v = torch.pca_lowrank(x, q=k)
        return (x - x.mean(0) - u * s @ v.T).square().mean()

    for seed in range(20):
        torch.manual_seed(seed)
        assert checks.pca_error(lowrank_error).status == "passed"


def test_draws_are_there_on_which_b_is_ahead():
    """Or an answer without its sign would pass."""
    seen = []
    checks.paired_bootstrap(lambda *given: seen.append(right.paired_bootstrap(*given)))
    assert seen[0].min() < 0 < seen[0].max()
