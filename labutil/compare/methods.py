"""The methods of a board in numbers: scores with intervals, differences of every two, the images behind them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from labutil import evaluation
from labutil.compare import significance
from labutil.compare.results import Board, Method


def seed_std(board: Board, metric: str = "accuracy") -> tuple[float, bool]:
    """Standard deviation between seeds, pooled over the methods with several runs, and True; where there is none,
    `significance.ASSUMED_SEED_STD` and False."""
    several = [significance.score(board.y_true, m.y_pred, metric) for m in board.methods if len(m.members) > 1]
    if not several:
        return significance.ASSUMED_SEED_STD, False
    squares = sum(np.var(s, ddof=1) * (len(s) - 1) for s in several)
    return float(np.sqrt(squares / sum(len(s) - 1 for s in several))), True


def summary(board: Board, *, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """A row a method: mean and std over seeds of accuracy, macro F1 and macro AUC, an interval for the accuracy, cost.

    Columns: notebook, recipe, seeds; accuracy, macro_f1, macro_auc in [0, 1], each with its _std, NaN for a single run;
    low and high, of the accuracy: Wilson's 95% interval for a single run (test images only), else over images and
    seeds; train_seconds and parameters: means, NaN where unknown.
    """
    rows, resampled = {}, resample(board, "accuracy", replicates)
    for method in board.methods:
        row = {"notebook": method.notebook, "recipe": method.recipe, "seeds": len(method.members)}
        row |= _mean_and_std(board, method.probabilities)
        if len(method.members) == 1:
            right, n = int((method.y_pred[0] == board.y_true).sum()), len(board.y_true)
            row["low"], row["high"] = significance.wilson(right, n)
        else:
            row["low"], row["high"] = significance.interval(*resampled[method.label])
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


def comparer(
    board: Board, *, metric: str = "accuracy", replicates: int = significance.REPLICATES
) -> Callable[[Method, Method], significance.Difference]:
    """A function of two methods of the board: the first minus the second in accuracy or macro F1 (`metric`), over test
    images and seeds; see `significance.difference`. All its pairs share the same resampled test sets.

    Example:
        compare = comparer(board)
        compare(*board.find("SupCon"), *board.find("SimCLR")).p
    """
    known, spread = resample(board, metric, replicates), seed_std(board, metric)[0]

    def compare(a: Method, b: Method) -> significance.Difference:
        scores, resampled = zip(known[a.label], known[b.label], strict=True)
        return significance.difference(scores, resampled, seed_std=spread)

    return compare


def pairs(board: Board, *, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """Accuracies of every two methods: DataFrame(a, b, difference, low, high, p, p_holm, evidence, only_a, only_b,
    p_mcnemar, words).

    p_holm is corrected for the number of pairs and decides `evidence`; low and high are of each pair alone. McNemar's
    test is of the first run of either: two networks, whatever their seeds.
    """
    compare, y = comparer(board, replicates=replicates), board.y_true
    rows, found = [], []
    for a, b in itertools.combinations(board.methods, 2):
        d = compare(a, b)
        test = significance.mcnemar(a.y_pred[0] == y, b.y_pred[0] == y)
        found.append(d)
        rows.append((a.label, b.label, d.value, d.low, d.high, d.p, test.only_a, test.only_b, test.p))
    columns = ["a", "b", "difference", "low", "high", "p", "only_a", "only_b", "p_mcnemar"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(6, "p_holm", significance.holm(table.p) if len(table) else [])
    table.insert(7, "evidence", table.p_holm < 1 - significance.LEVEL)
    table["words"] = [
        significance.in_words(r.a, r.b, d, r.p_holm) for r, d in zip(table.itertuples(), found, strict=True)
    ]
    return table


def ensemble(board: Board) -> np.ndarray | None:
    """Probabilities (S, N, K) of ensembles, each the mean of one run of every method; S: the fewest runs of a method.

    None of fewer than two methods. All methods take part: a choice among them would be one on the test images.
    """
    if len(board.methods) < 2:
        return None
    sets = zip(*(m.probabilities for m in board.methods), strict=False)  # as many as the fewest runs
    return np.stack([evaluation.average(members) for members in sets])


def ensemble_summary(board: Board) -> dict[str, float] | None:
    """Of the ensembles what `summary` says of a method: seeds, accuracy, macro_f1, macro_auc, and each one's _std."""
    together = ensemble(board)
    if together is None:
        return None
    return {"seeds": len(together)} | _mean_and_std(board, together)


def _mean_and_std(board: Board, probabilities: np.ndarray) -> dict[str, float]:
    """Means and standard deviations over runs (S, N, K) of the three main metrics; std is NaN for a single run."""
    found = pd.DataFrame([evaluation.classification_metrics(board.y_true, p) for p in probabilities])
    names = ["accuracy", "macro_f1", "macro_auc"]
    return {key: value for n in names for key, value in ((n, found[n].mean()), (f"{n}_std", found[n].std()))}


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
    everyone = np.mean([m.probabilities.mean(0) for m in board.methods], axis=0)
    truth = everyone[np.arange(len(board.y_true)), board.y_true]
    return wrong[np.argsort(truth[wrong], kind="stable")]


def only_one_right(board: Board) -> dict[str, np.ndarray]:
    """Images that a method alone has right, by the method's label: int64 (n,), its surest first; of two methods up."""
    right = right_images(board)
    alone = right & (right.sum(0) == 1) & (len(right) > 1)
    found = {}
    for method, mask in zip(board.methods, alone, strict=True):
        index = np.flatnonzero(mask)
        sure = method.probabilities.mean(0)[index, board.y_true[index]]
        found[method.label] = index[np.argsort(-sure, kind="stable")]
    return found
