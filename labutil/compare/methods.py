"""The methods of a board in numbers: scores with intervals, differences of every two, the images behind them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math

import numpy as np
import pandas as pd

from labutil import evaluation
from labutil.compare import significance
from labutil.compare.results import Board, Method, count_parameters

# What tables give with its standard deviation; the first three on a screen, all of them in the CSV.
MEANS = ("accuracy", "macro_f1", "macro_auc", "macro_precision", "macro_recall")
CURVE = ["method", "share", "labels", "seed", "accuracy", "split"]  # columns of label_efficiency.csv


@functools.lru_cache(maxsize=8)
def resample(board: Board, metric: str, replicates: int) -> dict[Method, tuple[np.ndarray, np.ndarray]]:
    """Scores of each method's runs (S,), and on resampled test sets (S, B), the same sets for all."""
    everything = np.concatenate([m.y_pred for m in board.methods])
    scores = significance.score(board.y_true, everything, metric)
    resampled = significance.resample(
        board.y_true, everything, metric=metric, replicates=replicates, groups=board.groups
    )
    ends = np.cumsum([len(m.dirs) for m in board.methods])[:-1]
    return dict(zip(board.methods, zip(np.split(scores, ends), np.split(resampled, ends), strict=True), strict=True))


@functools.lru_cache(maxsize=8)
def seed_std(board: Board, metric: str = "accuracy") -> tuple[float, bool]:
    """Standard deviation between seeds, pooled over the methods with several runs, and True; where there is none,
    `significance.ASSUMED_SEED_STD` and False."""
    several = [significance.score(board.y_true, m.y_pred, metric) for m in board.methods if len(m.dirs) > 1]
    if not several:
        return significance.ASSUMED_SEED_STD, False
    apart = np.concatenate([s - s.mean() for s in several])
    return float(np.sqrt((apart**2).sum() / (len(apart) - len(several)))), True


def compare(
    board: Board, a: Method, b: Method, *, metric: str = "accuracy", replicates: int = significance.REPLICATES
) -> significance.Difference:
    """`significance.difference` of methods a and b in accuracy or macro F1 (`metric`), over test images and seeds."""
    known = resample(board, metric, replicates)
    scores, resampled = zip(known[a], known[b], strict=True)
    return significance.difference(scores, resampled, seed_std=seed_std(board, metric)[0])


def best(board: Board) -> Method:
    """The method with the most correct predictions."""
    return max(board.methods, key=lambda m: (m.y_pred == board.y_true).mean())


def pairs(board: Board, *, against: Method | None = None, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """Accuracies of every two methods: DataFrame(a, b, difference, low, high, p, p_images, p_seeds, p_holm, evidence,
    words). p counts images and seeds, p_images and p_seeds only one of them. p_holm is p corrected for the number of
    pairs and decides `evidence`; low and high are of each pair alone. against: the method whose pairs alone are
    looked at; p_holm is then p times the number of all pairs (Bonferroni), which is stricter."""
    both = [pair for pair in itertools.combinations(board.methods, 2) if against is None or against in pair]
    found = [compare(board, a, b, replicates=replicates) for a, b in both]
    table = pd.DataFrame([(a.label, b.label, *d[:4]) for (a, b), d in zip(both, found, strict=True)],
                         columns=["a", "b", "difference", "low", "high", "p"])  # fmt: skip
    known = resample(board, "accuracy", replicates)
    causes = [significance.p_by_cause(*zip(known[a], known[b], strict=True)) for a, b in both]
    table[["p_images", "p_seeds"]] = np.reshape(causes, (-1, 2))
    every = math.comb(len(board.methods), 2)
    table["p_holm"] = significance.holm(table.p) if against is None else (table.p * every).clip(upper=1)
    table["evidence"] = table.p_holm < 1 - significance.LEVEL
    table["words"] = list(map(significance.in_words, table.a, table.b, found, table.p_holm))
    return table


def summary(board: Board, *, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """A row a method: notebook, recipe, seeds; accuracy, macro_f1, macro_auc in [0, 1], means over seeds, each with its
    _std, NaN for a single run; low and high, the accuracy's 95% interval over images (or groups of them, where there
    are some) and seeds, for a single run `significance.share`'s (no seeds); train_seconds, feature_seconds (of
    frozen features, when they were computed) and parameters, means, NaN where unknown; seconds, of training and
    features together; trials, image_passes and hours, of all runs of its name."""
    rows = {}
    for method, (scores, resampled) in resample(board, "accuracy", replicates).items():
        alone = significance.share(method.y_pred[0] == board.y_true, board.groups)
        ends = alone if len(scores) == 1 else significance.interval(scores, resampled)
        rows[method.label] = {
            "notebook": method.records[0]["notebook"],
            "recipe": method.recipe,
            **scores_of(board, method.probabilities),
            "low": ends[0],
            "high": ends[1],
            **_costs(method),
            "parameters": np.mean([count_parameters(d / "model.safetensors") for d in method.dirs]),
            **board.efforts.loc[method.name],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _costs(method: Method) -> dict[str, float]:
    """Of a method's runs the means of train_seconds and feature_seconds, and their sum, `seconds`, which is unknown
    where some of the runs charge for features and others do not say."""
    trained, features = method.metric("train_seconds"), method.metric("feature_seconds")
    used = 0.0 if np.isnan(features).all() else features  # most methods compute none
    names = ("train_seconds", "feature_seconds", "seconds")
    return dict(zip(names, (trained.mean(), features.mean(), (trained + used).mean()), strict=True))


def scores_of(board: Board, probabilities: np.ndarray) -> dict[str, float]:
    """Of runs (S, N, K) the number, seeds, and means of what `MEANS` names and their _std, NaN for S = 1."""
    found = [evaluation.classification_metrics(board.y_true, p) for p in probabilities]
    values = np.array([[metrics[name] for name in MEANS] for metrics in found])
    std = values.std(0, ddof=1) if len(values) > 1 else np.full(len(MEANS), np.nan)
    rows: dict[str, float] = {"seeds": len(probabilities)}
    for name, mean, spread in zip(MEANS, values.mean(0), std, strict=True):
        rows |= {name: mean, f"{name}_std": spread}
    return rows


def ensemble(board: Board) -> np.ndarray | None:
    """Probabilities (S, N, K) of ensembles, each the mean of one run of every method (a choice among them would be one
    on the test images); S: the fewest runs of a method. None of fewer than two methods."""
    if len(board.methods) < 2:
        return None
    sets = zip(*(m.probabilities for m in board.methods), strict=False)  # as many as the fewest runs
    return np.stack([evaluation.average(members) for members in sets])


def label_curves(board: Board) -> pd.DataFrame:
    """The runs' label_efficiency.csv, together, with the columns CURVE; empty where none has one. A method has one
    line: of a file that compares several ways only the one with the method's name counts."""
    frames = [pd.DataFrame(columns=CURVE)]
    for name, label, directory in ((m.name, m.label, d) for m in board.methods for d in m.dirs):
        with contextlib.suppress(OSError, ValueError, KeyError):
            frame = pd.read_csv(directory / "label_efficiency.csv")[CURVE]
            own = (frame.method == name) | (frame.method.nunique() == 1)
            frames.append(frame[own].assign(method=label))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def floor(board: Board, name: str) -> float | None:
    """A metric that all runs should agree on (chance_accuracy, random_encoder_knn_accuracy), their mean; None: none."""
    mean = pd.Series(np.concatenate([m.metric(name) for m in board.methods])).mean()
    return None if np.isnan(mean) else float(mean)


def metric_table(board: Board, columns: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means and standard deviations over seeds of recorded metrics: rows methods, columns as named, NaN where missing.
    What is recorded twice (lessons 04 and 05: linear and test accuracy) is kept once. Columns without a value are left
    out, and rows with fewer than two: there is nothing to set side by side."""
    mean = pd.DataFrame(index=[m.label for m in board.methods], columns=list(columns), dtype=float)
    std = mean.copy()
    for method, (column, name) in itertools.product(board.methods, columns.items()):
        values = method.metric(name)
        if not np.isclose(values.mean(), mean.loc[method.label], rtol=0, atol=1e-6).any():
            mean.loc[method.label, column], std.loc[method.label, column] = values.mean(), pd.Series(values).std()
    mean = mean[mean.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
    return mean, std.loc[mean.index, mean.columns]


def drops(board: Board) -> pd.DataFrame:
    """Accuracy at home and on shifted images (metric shifted_accuracy), a row for each method that has both:
    DataFrame(home, away, difference, low, high, p, seeds), by `significance.drop`."""
    known = {m.label: (m.metric("test_accuracy"), m.metric("shifted_accuracy")) for m in board.methods}
    rows = {
        label: (home.mean(), away.mean(), *significance.drop(home, away, len(board.y_true)))
        for label, (home, away) in known.items()
        if np.isfinite(away).all()
    }
    names = ["home", "away", "difference", *significance.Difference._fields[1:]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names)


def class_recall(board: Board) -> pd.DataFrame:
    """Share of each class's test images that a method has right, mean over seeds: rows classes, columns methods."""
    present = np.unique(board.y_true)
    columns = {m.label: [(m.y_pred[:, board.y_true == k] == k).mean() for k in present] for m in board.methods}
    return pd.DataFrame(columns, index=[board.classes[k] for k in present])


def agreement(board: Board) -> pd.DataFrame:
    """Share of test images on which two methods name the same class, mean over their runs: methods x methods. On the
    diagonal: of a method with itself, between different seeds; NaN for a single run."""
    table = pd.DataFrame(index=(labels := [m.label for m in board.methods]), columns=labels, dtype=float)
    for a, b in itertools.product(board.methods, repeat=2):
        same = (a.y_pred[:, None] == b.y_pred).mean(2)
        if a is b:
            same = same[~np.eye(len(same), dtype=bool)]
        table.loc[a.label, b.label] = same.mean() if same.size else np.nan
    return table


def right_images(board: Board) -> np.ndarray:
    """Whether a method has an image right in more than half of its runs: bool (M, N)."""
    return np.stack([(m.y_pred == board.y_true).mean(0) > 0.5 for m in board.methods])


def hardest(board: Board) -> np.ndarray:
    """Images that every method has wrong, those first whose true class gets the least probability: int64 (n,)."""
    wrong = np.flatnonzero(~right_images(board).any(0))
    everyone = np.mean([m.probabilities.mean(0) for m in board.methods], axis=0)
    return wrong[np.argsort(everyone[wrong, board.y_true[wrong]], kind="stable")]


def only_one_right(board: Board) -> dict[str, np.ndarray]:
    """Images that a method alone has right, by the method's label: int64 (n,), its surest first; of two methods up."""
    right = right_images(board)
    alone = right & (right.sum(0) == 1) & (len(right) > 1)
    sure = [m.probabilities.mean(0)[np.arange(len(board.y_true)), board.y_true] for m in board.methods]
    orders = (np.argsort(-p, kind="stable") for p in sure)
    return {m.label: o[mask[o]] for m, o, mask in zip(board.methods, orders, alone, strict=True)}
