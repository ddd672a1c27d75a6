"""The five reports' claims about methods, beside what finished runs show: agree, disagree, or not enough evidence.

Claims are judged on the same test images, with the statistics of `significance`: those about one setting by runs that
differ in nothing else, those about methods by whole lessons.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from labutil import comparison, significance
from labutil.results import Board, Method

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "not enough evidence"
ALIKE = 0.03  # methods are called alike when the whole interval of their difference is within three points


def judge(board: Board, *, replicates: int = significance.REPLICATES) -> pd.DataFrame:
    """A row a claim: DataFrame(claim, report, here, verdict). What has no runs says which command makes them.

    Example:
        claims.judge(results.collect().boards[0])
    """
    spread = comparison.seed_std(board)[0]
    known = comparison.resample(board, "accuracy", replicates)

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
