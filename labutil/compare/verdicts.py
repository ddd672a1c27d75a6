"""Claims about methods, beside what finished runs show: agrees, disagrees, or not enough evidence.

Those about one setting are judged by runs that differ in nothing else, those about methods by whole lessons.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from labutil.compare import methods, significance
from labutil.compare.results import Board, Method, settings_key, show
from labutil.paths import no_tags

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "not enough evidence"
ALIKE = 0.03  # methods are called alike when the whole interval of their difference is within three points
SAID = 6  # comparisons that a claim spells out; all are counted
# What a claim of each kind takes; the claim's own `needs` follows.
NEEDS = {
    "better": "runs of lessons",
    "alike": "a run of each: labutil run",
    "larger": "runs that differ in this alone: labutil sweep",
    "change": "runs that differ in this alone: labutil sweep",
    "drop": "a run with a shifted test set: labutil run",
}
Pair = tuple[Method, Method]  # the second is claimed to be better


def judge(
    board: Board, claims: Sequence[tuple], *, swept: Board | None = None, replicates: int = significance.REPLICATES
) -> pd.DataFrame:
    """A row a claim: DataFrame(claim, report, here, verdict). What has no runs says which command makes them.

    claims: (claim, report, needs, kind, *what): the claim and what a report says of it, in words; what to run where it
    cannot be judged; and how it is judged. Names are those of `Method.name`; without any, all methods are meant.
        "better", a, b: a is better than b. "alike", a, b, ...: every two are within `ALIKE` of each other.
        "larger", parameter, *names: a larger value is better, of a list a longer one.
        "change", parameter, before, after, *names: so is `after` (of a list: its length); before None: any value.
        "drop": methods are less accurate on a shifted test set (metric shifted_accuracy) than at home.
    swept: the board with the runs of sweeps on it as well, among which "larger" and "change" look.
    """
    rows = []
    for claim, report, needs, kind, *what in claims:
        place = (swept or board) if kind in {"larger", "change"} else board
        found = _drop(board) if kind == "drop" else _compared(place, kind, what, replicates)
        here, verdict = found or (f"needs {NEEDS[kind]} {needs}", OPEN)
        rows.append((claim, report, no_tags(here), verdict))  # settings, such as a path, go into a styled table
    return pd.DataFrame(rows, columns=["claim", "report", "here", "verdict"])


def changes(board: Board, parameter: str, *names: str) -> list[Pair]:
    """Pairs of methods of one notebook that differ in one parameter only, (smaller value, larger value)."""
    known = [m for m in board.find(*names) if m.params.get(parameter) is not None]
    others = {m: settings_key(m.records[0], parameter) for m in known}
    ordered = itertools.combinations(sorted(known, key=lambda m: _size(m, parameter)), 2)
    return [(a, b) for a, b in ordered if others[a] == others[b] and _size(a, parameter) < _size(b, parameter)]


def _pairs(board: Board, kind: str, *what: Any) -> list[Pair]:
    if kind in {"better", "alike"}:
        # Who speaks for a name: not a method at smoke size if there is another, then most seeds, then the newest.
        weight = lambda m: (m.recipe != "smoke", len(m.dirs), str(m.records[0].get("started")))  # noqa: E731
        speaking = [max(board.find(name), key=weight, default=None) for name in what]
        pairs = [] if None in speaking else list(itertools.combinations(speaking, 2))
        return [(b, a) for a, b in pairs] if kind == "better" else pairs
    if kind == "larger":
        return changes(board, *what)
    parameter, before, after, *names = what
    either_way = [pair for a, b in changes(board, parameter, *names) for pair in ((a, b), (b, a))]
    return [(a, b) for a, b in either_way if _size(b, parameter) == after and before in {None, _size(a, parameter)}]


def _size(method: Method, parameter: str) -> float:
    value = method.params[parameter]
    return len(value) if isinstance(value, list) else float(value)


def _compared(board: Board, kind: str, what: Sequence[Any], replicates: int) -> tuple[str, str] | None:
    """What the runs show, in words, and the verdict; None without pairs. Several are corrected, and must agree."""
    if not (pairs := _pairs(board, kind, *what)):
        return None
    found, texts = [methods.compare(board, b, a, replicates=replicates) for a, b in pairs], []
    for pair, d in zip(pairs, found, strict=True):
        seeds = f"{d.seeds[0]} and {d.seeds[1]} seeds" if max(d.seeds) > 1 else "one seed each"
        span = f"{d.value * 100:+.1f} points ({d.low * 100:+.1f} to {d.high * 100:+.1f})"
        worse, better = (m.label for m in pair)
        if kind in {"larger", "change"}:
            known, differs = pair[0].name, [show(what[0], m.params) for m in pair]
            worse, better = (n if w in n else f"{known} ({w})" for n, w in zip((worse, better), differs, strict=True))
        texts.append(f"{better} against {worse}: {span}, {seeds}")
    text = "; ".join(texts[:SAID]) + (f"; and {len(texts) - SAID} more pairs" if len(texts) > SAID else "")
    if kind in {"better", "alike"} and len({m.recipe for pair in pairs for m in pair}) > 1:
        text = "runs" if kind == "alike" else f"{text};"
        return f"{text} of different recipes, so not compared", OPEN
    sure = significance.holm([d.p for d in found]) < 1 - significance.LEVEL
    if kind == "alike":
        if sure.any():
            return text, DISAGREES
        return text, AGREES if all(max(-d.low, d.high) < ALIKE for d in found) else OPEN
    return text, _verdict({d.value > 0 for d, s in zip(found, sure, strict=True) if s})


def _verdict(better: set[bool | None]) -> str:
    """Of what comparisons have shown: True and False, better and worse, None: neither."""
    return {(True,): AGREES, (False,): DISAGREES}.get(tuple(better), OPEN)


def _drop(board: Board) -> tuple[str, str] | None:
    """Accuracy at home less that on shifted images, of every method that was tested on both; None without any."""
    found = methods.drops(board)
    texts = [f"{label}: {home:.1%} at home, {away:.1%} shifted" for label, home, away in found.iloc[:, :2].itertuples()]
    sure = found.p < 1 - significance.LEVEL
    better = {bool(d < 0) if s else None for d, s in zip(found.difference, sure, strict=True)}
    return ("; ".join(texts), _verdict(better)) if texts else None
