"""The five reports' claims about methods, beside what finished runs show: agree, disagree, or not enough evidence.

Claims are judged on the same test images, with the statistics of `significance`: those about one setting by runs that
differ in nothing else, those about methods by whole lessons.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from labutil import evaluation
from labutil.compare import significance
from labutil.compare.results import Board, Method

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "not enough evidence"
ALIKE = 0.03  # methods are called alike when the whole interval of their difference is within three points


def judge(board: Board, *, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """A row a claim: DataFrame(claim, report, here, verdict). What has no runs says which command makes them.

    Example:
        claims.judge(results.collect().boards[0])
    """
    spread = seed_std(board)[0]
    known = resample(board, "accuracy", replicates)

    def compare(a: Method, b: Method) -> significance.Difference:
        scores, resampled = zip(known[a.label], known[b.label], strict=True)
        return significance.difference(scores, resampled, seed_std=spread)

    simclr = lambda: pick(board, "04", method="simclr")  # noqa: E731
    byol, barlow = (lambda name=name: pick(board, "04", method=name) for name in ("byol", "barlow_twins"))
    supervised, transfer, supcon = (lambda name=name: pick(board, name) for name in ("02", "03", "05"))
    rows = [
        ("SupCon is better than SimCLR", "A: 87.20 against 86.09%", _better(compare, supcon, simclr, "05, 04")),
        ("SimCLR is better than supervised", "A: 86.09 against 85.50%", _better(compare, simclr, supervised, "04, 02")),
        (
            "pre-trained is much better than from scratch",
            "C: up to 93.27%, without pre-trained weights low",
            _better(compare, transfer, supervised, "03, 02"),
        ),
        (
            "the home test promises too much",
            "C: 93.27% at home, 71% on the hidden test",
            _drop(board),
        ),
        (
            "larger images are better",
            "A: best at 256 px",
            _trend(compare, changes(board, "image_size"), "02 -p image_size 96"),
        ),
        (
            "SimCLR, BYOL and Barlow Twins are alike",
            "D: k-NN 10.72, 10.47, 10.22%",
            _alike(compare, [simclr, byol, barlow], "04 -p method byol"),
        ),
        (
            "temperature 0.1 is best",
            "D: better than 0.05 and 0.5",
            _trend(compare, _towards(board, "tau", "04", 0.1), "04 -p tau 0.1"),
        ),
        (
            "larger contrastive batches are better",
            "D: 256, 512, 1024",
            _trend(compare, changes(board, "batch_size", "04"), "04 -p batch_size 512"),
        ),
        (
            "dropout 0.2 helps the autoencoder",
            "E: chosen from curves",
            _trend(compare, _towards(board, "dropout", "06", 0.2), "06 -p dropout 0"),
        ),
        (
            "two layers are better than three",
            "E: chosen from curves",
            _trend(compare, _fewer(changes(board, "filters", "06")), "06 -p filters [16,32,64]"),
        ),
    ]
    return pd.DataFrame([(*row, *found) for *row, found in rows], columns=["claim", "report", "here", "verdict"])


def pick(board: Board, notebook: str, **params: object) -> Method | None:
    """The method that speaks for a lesson: not at smoke size if there is another, then most seeds, then the newest."""
    found = board.find(notebook=notebook, **params)
    order = lambda m: (m.recipe != "smoke", len(m.members), str(m.members[0].record.get("started")))  # noqa: E731
    return max(found, key=order, default=None)


def changes(board: Board, parameter: str, notebook: str = "") -> list[tuple[Method, Method]]:
    """Pairs of methods of one lesson that differ in one parameter only, (smaller value, larger value)."""
    found = []
    methods = [m for m in board.find(notebook=notebook) if m.params.get(parameter) is not None]
    for i, a in enumerate(methods):
        for b in methods[i + 1 :]:
            alike = a.notebook == b.notebook and _others(a, parameter) == _others(b, parameter)
            if alike and a.params[parameter] != b.params[parameter]:
                found.append((a, b) if _rank(a, parameter) < _rank(b, parameter) else (b, a))
    return found


def _others(method: Method, parameter: str) -> str:
    params = {k: v for k, v in method.params.items() if k not in {"seed", "dataset", parameter}}
    return json.dumps(params, sort_keys=True)


def _rank(method: Method, parameter: str) -> float:
    value = method.params[parameter]
    return len(value) if isinstance(value, list) else float(value)


def _towards(board: Board, parameter: str, notebook: str, best: float) -> list[tuple[Method, Method]]:
    """Pairs that differ in one parameter only, one of them at `best`, that one last."""
    pairs = [sorted(pair, key=lambda m: m.params[parameter] == best) for pair in changes(board, parameter, notebook)]
    return [(a, b) for a, b in pairs if b.params[parameter] == best]


def _fewer(pairs: Sequence[tuple[Method, Method]]) -> list[tuple[Method, Method]]:
    return [(b, a) for a, b in pairs if len(a.params["filters"]) == 2 and len(b.params["filters"]) == 3]


Compare = Callable[[Method, Method], significance.Difference]


def _better(
    compare: Compare, first: Callable[[], Method | None], second: Callable[[], Method | None], lessons: str
) -> tuple[str, str]:
    a, b = first(), second()
    if a is None or b is None:
        return f"needs runs of lessons {lessons}", OPEN
    return _trend(compare, [(b, a)], lessons)


def _trend(compare: Compare, pairs: Sequence[tuple[Method, Method]], command: str) -> tuple[str, str]:
    """The second of each pair should be better. Several pairs: corrected; they must not contradict each other."""
    if not pairs:
        return f"needs a run that differs in this alone: labutil run {command}", OPEN
    found = [compare(better, worse) for worse, better in pairs]
    sure = significance.holm([d.p for d in found]) < 1 - significance.LEVEL
    texts = [_numbers(*pair, d) for pair, d in zip(pairs, found, strict=True)]
    if any(a.recipe != b.recipe for a, b in pairs):
        return "; ".join(texts) + "; of different recipes, so not compared", OPEN
    signs = {np.sign(d.value) for d, s in zip(found, sure, strict=True) if s}
    verdict = {frozenset({1.0}): AGREES, frozenset({-1.0}): DISAGREES}.get(frozenset(signs), OPEN)
    return "; ".join(texts), verdict


def _numbers(worse: Method, better: Method, d: significance.Difference) -> str:
    seeds = f"{d.seeds[0]} and {d.seeds[1]} seeds" if max(d.seeds) > 1 else "one seed each"
    span = f"{d.value * 100:+.1f} points ({d.low * 100:+.1f} to {d.high * 100:+.1f})"
    return f"{better.label} against {worse.label}: {span}, {seeds}"


def _alike(compare: Compare, which: Sequence[Callable[[], Method | None]], command: str) -> tuple[str, str]:
    methods = [m for m in (w() for w in which) if m is not None]
    if len(methods) < len(which):
        return f"needs a run of each: labutil run {command}", OPEN
    pairs = [(a, b) for i, a in enumerate(methods) for b in methods[i + 1 :]]
    if len({m.recipe for m in methods}) > 1:
        return "runs of different recipes, so not compared", OPEN
    found = [compare(b, a) for a, b in pairs]
    text = "; ".join(_numbers(*pair, d) for pair, d in zip(pairs, found, strict=True))
    if (significance.holm([d.p for d in found]) < 1 - significance.LEVEL).any():
        return text, DISAGREES
    return text, AGREES if all(max(-d.low, d.high) < ALIKE for d in found) else OPEN


def _drop(board: Board) -> tuple[str, str]:
    """Accuracy at home less that on shifted images, of every method that was tested on both."""
    found = []
    for method in board.methods:
        at_home, shifted = method.metric("test_accuracy"), method.metric("shifted_accuracy")
        home, away = at_home.mean(), shifted.mean()
        if math.isfinite(away):
            n = len(board.y_true)  # the shifted set may be larger; then this is on the careful side
            by_images = (home * (1 - home) + away * (1 - away)) / n
            by_seeds = np.var(at_home - shifted, ddof=1) / len(shifted) if len(shifted) > 1 else 0.0
            found.append((method.label, home, away, (home - away) / max(math.sqrt(by_images + by_seeds), 1e-9)))
    if not found:
        return "needs a run with a shifted test set: labutil run 03", OPEN
    text = "; ".join(f"{label}: {home:.1%} at home, {away:.1%} shifted" for label, home, away, _ in found)
    z = [z for *_, z in found]
    return text, AGREES if min(z) > 2 else DISAGREES if max(z) < -2 else OPEN


# Figures that put recorded metrics side by side: title, {name of the bars: metric}
METRIC_FIGURES = {
    "At home and elsewhere": {"home": "test_accuracy", "shifted": "shifted_accuracy", "noise": "noise_accuracy"},
    "Ways to read an encoder": {
        "k-NN": "knn_accuracy",
        "linear": "linear_accuracy",
        "whole method": "test_accuracy",
        "other classes, k-NN": "ood_knn_accuracy",
    },
}


def seed_std(board: Board, metric: str = "accuracy") -> tuple[float, bool]:
    """Standard deviation between seeds, pooled over the methods with several runs, and True; where there is none,
    `significance.ASSUMED_SEED_STD` and False."""
    several = [significance.score(board.y_true, m.y_pred, metric) for m in board.methods if len(m.members) > 1]
    if not several:
        return significance.ASSUMED_SEED_STD, False
    squares = sum(np.var(s, ddof=1) * (len(s) - 1) for s in several)
    return float(np.sqrt(squares / sum(len(s) - 1 for s in several))), True


def summary(
    board: Board, *, level: float = significance.LEVEL, replicates: int = significance.REPLICATES
) -> pd.DataFrame:
    """A row a method: mean and std over seeds of accuracy, macro F1 and macro AUC, an interval for the accuracy, cost.

    std is NaN for a single run. low, high: Wilson's interval for a single run (test images only), else over images
    and seeds. train_seconds and parameters: means, NaN where unknown.
    """
    rows, resampled = {}, resample(board, "accuracy", replicates)
    for method in board.methods:
        found = [evaluation.classification_metrics(board.y_true, m.probabilities) for m in method.members]
        row = {"notebook": method.notebook, "recipe": method.recipe, "seeds": len(found)}
        for name in ("accuracy", "macro_f1", "macro_auc"):
            values = np.array([f[name] for f in found])
            row |= {name: values.mean(), f"{name}_std": values.std(ddof=1) if len(values) > 1 else np.nan}
        if len(found) == 1:
            right, n = int((method.y_pred[0] == board.y_true).sum()), len(board.y_true)
            row["low"], row["high"] = significance.wilson(right, n, level)
        else:
            row["low"], row["high"] = significance.interval(*resampled[method.label], level)
        row["train_seconds"], row["parameters"] = method.metric("train_seconds").mean(), method.parameters()
        rows[method.label] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def resample(board: Board, metric: str, replicates: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By each method's label the scores of its runs (S,), and on resampled test sets (S, B), the same sets for all."""
    everything = np.concatenate([m.y_pred for m in board.methods])
    scores = significance.score(board.y_true, everything, metric)
    resampled = significance.resample(board.y_true, everything, metric=metric, replicates=replicates)
    ends = np.cumsum([len(m.members) for m in board.methods])[:-1]
    parts = zip(np.split(scores, ends), np.split(resampled, ends), strict=True)
    return {method.label: part for method, part in zip(board.methods, parts, strict=True)}


def compare(
    board: Board,
    a: Method,
    b: Method,
    *,
    metric: str = "accuracy",
    level: float = significance.LEVEL,
    replicates: int = significance.REPLICATES,
) -> significance.Difference:
    """a minus b, over test images and seeds; see `significance.difference`.

    Example:
        compare(board, *board.find(notebook="05"), *board.find(notebook="04", method="simclr"))
    """
    both = (a.y_pred, b.y_pred)
    scores = tuple(significance.score(board.y_true, p, metric) for p in both)
    resampled = tuple(significance.resample(board.y_true, p, metric=metric, replicates=replicates) for p in both)
    return significance.difference(scores, resampled, level=level, seed_std=seed_std(board, metric)[0])


def pairs(
    board: Board,
    *,
    metric: str = "accuracy",
    level: float = significance.LEVEL,
    replicates: int = significance.REPLICATES,
) -> pd.DataFrame:
    """Every two methods: DataFrame(a, b, difference, low, high, p, p_holm, evidence, only_a, only_b, p_mcnemar, words).

    p_holm is corrected for the number of pairs and decides `evidence`; low and high are of each pair alone. McNemar's
    test is of the first run of either: two networks, whatever their seeds.
    """
    y, spread = board.y_true, seed_std(board, metric)[0]
    known = resample(board, metric, replicates)
    rows, found = [], []
    for a, b in itertools.combinations(board.methods, 2):
        scores, resampled = zip(known[a.label], known[b.label], strict=True)
        d = significance.difference(scores, resampled, level=level, seed_std=spread)
        test = significance.mcnemar(a.y_pred[0] == y, b.y_pred[0] == y)
        found.append(d)
        rows.append((a.label, b.label, d.value, d.low, d.high, d.p, test.only_a, test.only_b, test.p))
    columns = ["a", "b", "difference", "low", "high", "p", "only_a", "only_b", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(6, "p_holm", significance.holm(table.p) if len(table) else [])
    table.insert(7, "evidence", table.p_holm < 1 - level)
    table["words"] = [
        significance.in_words(r.a, r.b, d, r.p_holm, level) for r, d in zip(table.itertuples(), found, strict=True)
    ]
    return table


def ensemble(board: Board) -> np.ndarray | None:
    """Probabilities (S, N, K) of ensembles, each the mean of one run of every method; S: the fewest runs of a method.

    None of fewer than two methods. All methods take part: a choice among them would be one on the test images.
    """
    if len(board.methods) < 2:
        return None
    sets = zip(*(m.members for m in board.methods), strict=False)  # as many as the fewest runs
    return np.stack([evaluation.average([member.probabilities for member in members]) for members in sets])


def ensemble_scores(board: Board) -> pd.DataFrame | None:
    """`evaluation.classification_metrics` of each of the ensembles, a row each; None where there is none."""
    together = ensemble(board)
    if together is None:
        return None
    return pd.DataFrame([evaluation.classification_metrics(board.y_true, p) for p in together])


def label_curves(board: Board) -> pd.DataFrame:
    """The runs' label_efficiency.csv, together: method, share, labels, seed, accuracy, split; empty where none has one.

    A file that compares several ways keeps their names behind the method's.
    """
    frames = []
    for method in board.methods:
        for member in method.members:
            try:
                frame = pd.read_csv(member.dir / "label_efficiency.csv")
                frame = frame[["method", "share", "labels", "seed", "accuracy", "split"]]
            except (OSError, ValueError, KeyError):
                continue
            several = frame.method.nunique() > 1
            own = frame.method.map(lambda name, m=method: f"{m.label}: {name}") if several else method.label
            frames.append(frame.assign(method=own))
    columns = ["method", "share", "labels", "seed", "accuracy", "split"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def floor(board: Board, name: str) -> float | None:
    """A metric that all runs should agree on (chance_accuracy, random_encoder_knn_accuracy), their mean; None: none."""
    values = np.concatenate([m.metric(name) for m in board.methods])
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def metric_table(board: Board, columns: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and standard deviations over seeds of recorded metrics: rows methods, columns as named; NaN where missing.

    What a run has recorded twice (lessons 04 and 05: linear and test accuracy) is kept once. Columns without a value
    are left out, and rows with fewer than two: there is nothing to set side by side.

    Example:
        mean, std = metric_table(board, {"home": "test_accuracy", "shifted": "shifted_accuracy"})
    """
    mean = pd.DataFrame(index=[m.label for m in board.methods], columns=list(columns), dtype=float)
    std = mean.copy()
    for method in board.methods:
        for column, name in columns.items():
            values = method.metric(name)
            if not np.isclose(values.mean(), mean.loc[method.label], rtol=0, atol=1e-6).any():
                mean.loc[method.label, column] = values.mean()
                std.loc[method.label, column] = values.std(ddof=1) if len(values) > 1 else np.nan
    mean = mean[mean.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
    return mean, std.loc[mean.index, mean.columns]


def class_recall(board: Board) -> pd.DataFrame:
    """Share of each class's test images that a method has right, mean over seeds: rows classes, columns methods."""
    present = np.unique(board.y_true)
    columns = {m.label: [(m.y_pred[:, board.y_true == k] == k).mean() for k in present] for m in board.methods}
    return pd.DataFrame(columns, index=[board.classes[k] for k in present])


def agreement(board: Board) -> pd.DataFrame:
    """Share of test images on which two methods name the same class, mean over their runs: methods x methods.

    On the diagonal: of a method with itself, between different seeds; NaN for a single run.
    """
    labels = [m.label for m in board.methods]
    table = pd.DataFrame(np.nan, index=labels, columns=labels)
    for a, b in itertools.combinations_with_replacement(board.methods, 2):
        same = (a.y_pred[:, None] == b.y_pred[None]).mean(2)
        if a is b:
            same = same[~np.eye(len(same), dtype=bool)]
        table.loc[a.label, b.label] = table.loc[b.label, a.label] = same.mean() if same.size else np.nan
    return table


def right_images(board: Board) -> np.ndarray:
    """Whether a method has an image right in more than half of its runs: bool (M, N)."""
    return np.stack([(m.y_pred == board.y_true).mean(0) > 0.5 for m in board.methods])


def hardest(board: Board) -> np.ndarray:
    """Images that every method has wrong, those first whose true class gets the least probability: int64 (n,)."""
    wrong = np.flatnonzero(~right_images(board).any(0))
    truth = np.mean([p.mean(0)[np.arange(len(board.y_true)), board.y_true] for p in _probabilities(board)], axis=0)
    return wrong[np.argsort(truth[wrong], kind="stable")]


def only_one_right(board: Board) -> dict[str, np.ndarray]:
    """Images that a method alone has right, by the method's label: int64 (n,), its surest first; of two methods up."""
    right = right_images(board)
    alone = right & (right.sum(0) == 1) & (len(right) > 1)
    found = {}
    for method, mask, p in zip(board.methods, alone, _probabilities(board), strict=True):
        index = np.flatnonzero(mask)
        found[method.label] = index[np.argsort(-p.mean(0)[index, board.y_true[index]], kind="stable")]
    return found


def _probabilities(board: Board) -> list[np.ndarray]:
    """(S, N, K) of each method."""
    return [np.stack([m.probabilities for m in method.members]) for method in board.methods]
