"""A comparison as tables: data frames of text for a notebook, plain text for a terminal, CSV for a program."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labutil import paths, runs
from labutil.compare import methods, results
from labutil.compare.results import Board, Collection, Method
from labutil.paths import DataError


def summary_table(board: Board, summary: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row a method, as text: accuracy, macro F1 and macro AUC as mean ± std over seeds. Chance and a random encoder
    come first, the ensemble of all methods last."""
    summary = _tables(board)[0] if summary is None else summary
    columns = ["recipe", "seeds", "accuracy", "95% interval", "macro F1", "macro AUC", "seconds", "parameters"]
    rows: dict[str, list[str]] = {}
    for label, name in (("chance", "chance_accuracy"), ("random encoder, k-NN", "random_encoder_knn_accuracy")):
        value = methods.floor(board, name)
        if value is not None:
            rows[label] = ["", "", f"{value:.4f}", "", "", "", "", ""]
    for label, row in summary.iterrows():
        cost = [f"{row[n]:,.{d}f}" if np.isfinite(row[n]) else "" for n, d in (("train_seconds", 1), ("parameters", 0))]
        rows[label] = [row.recipe, *_means(row, f"{row.low:.3f} to {row.high:.3f}"), *cost]
    if together := methods.ensemble_summary(board):
        rows[f"ensemble of all {len(board.methods)}"] = ["", *_means(together, ""), "", ""]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def settings_table(board: Board) -> pd.DataFrame:
    """How methods were trained, as text: a row for each training of a method, its test accuracy in the last of them.

    Trainings are those that have named what they minimise, `fit(criterion=...)`: studies and rivals do not.
    """
    rows = []
    for method in board.methods:
        size = method.members[0].record["dataset"].get("image_size")
        tested, tuned = method.metric("test_accuracy"), method.metric("fine_tuned_accuracy")
        fits = [(name, fit, np.array([])) for name, fit in _trainings(method).items()] or [("", {}, tested)]
        if np.isfinite(tuned).all() and not np.array_equal(tuned, tested):
            # What validation chose was tested, which need not be the network that was fine-tuned.
            fits = [(*fits[-1][:2], tuned), ("linear or other head on frozen features", {}, tested)]
        fits[-1] = (*fits[-1][:2], tested)
        for name, fit, accuracy in fits:
            stage = f", {name}" if len(fits) > 1 or name not in method.label else ""
            rate = fit.get("lr", "")
            rows.append({
                "Model": f"{method.label}{stage}" if name else method.label,
                "Optimizer": fit.get("optimizer", ""),
                "Scheduler": fit.get("schedule", ""),
                "Start LR": f"{rate:g}" if isinstance(rate, float) else rate,
                "Image Size": "x".join(map(str, size)) if isinstance(size, list) else size,
                "Batch Size": fit.get("batch_size", ""),
                "Epochs": fit.get("epochs_run", fit.get("epochs", "")),
                "Criterion": fit.get("criterion", ""),
                "Test Accuracy": _mean_std(accuracy) if len(accuracy) else "",
            })  # fmt: skip
    return pd.DataFrame(rows).astype(str)


def as_text(collection: Collection) -> str:
    """The whole comparison for a terminal."""
    blocks = list(collection.notes)
    for board in collection.boards:
        title = board_title(board)
        blocks.append(f"{title}\n{'=' * len(title)}\n{summary_table(board).to_string()}")
        blocks.append(settings_table(board).to_string(index=False))
        if sentences := pair_sentences(board):
            blocks.append("\n".join(sentences))
    if collection.left_out:
        lines = [f"  {runs.show_path(path)}: {reason}" for path, reason in collection.left_out]
        blocks.append("\n".join(["Left out:", *lines]))
    return "\n\n".join(blocks) + "\n"


def board_title(board: Board) -> str:
    images = f"{len(board.y_true):,} test images of {len(board.classes)} classes"
    return f"{board.name}: {images} (fingerprint {board.fingerprint})"


def pair_sentences(board: Board, table: pd.DataFrame | None = None) -> list[str]:
    """Which method is ahead of which, or that there is no evidence: all pairs of up to five methods, of more the best
    against each other one. Corrected for all pairs in any case."""
    table = _tables(board)[1] if table is None else table
    if len(board.methods) > 5:
        best = _tables(board)[0].accuracy.idxmax()
        table = table[(table.a == best) | (table.b == best)]
    several = all(len(m.members) > 1 for m in board.methods)
    words, count = [*table.words], len(board.methods) * (len(board.methods) - 1) // 2
    if words:
        words.append(f"Intervals: each pair alone, over test images and seeds. p: corrected for {count} pairs (Holm).")
    if words and not several:
        spread, measured = methods.seed_std(board)
        source = "as measured where there are several" if measured else "assumed, as in the reports"
        words.append(f"Where a method has one run, seeds are taken to move it by {spread * 100:.1f} points ({source}).")
    return words


def as_csv(collection: Collection) -> pd.DataFrame:
    """A row for each method and each board's ensemble, numbers as they are."""
    frames = []
    for board in collection.boards:
        table = _tables(board)[0].rename_axis("method").reset_index()
        if together := methods.ensemble_summary(board):
            table = pd.concat([table, pd.DataFrame([{"method": "ensemble"} | together])], ignore_index=True)
        table.insert(0, "dataset", board.name)
        frames.append(table.assign(fingerprint=board.fingerprint, test_images=len(board.y_true)))
    return pd.concat(frames, ignore_index=True)


def write(root: Path) -> tuple[str, Collection]:
    """Compare the runs below a directory, and leave compare_summary.txt and compare_summary.csv there.

    Returns the text and what was compared. Raises DataError when no run in it can be used, or nothing can be written.
    """
    collection = results.collect(root)
    if not collection.boards:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in collection.left_out[:3])
        raise DataError(
            f"{root} holds no run to compare{f' ({reasons})' if reasons else ''}: labutil run all makes some"
        )
    text, table = as_text(collection), as_csv(collection)
    try:
        paths.replace_file(root / "compare_summary.txt", lambda t: t.write_text(text, encoding="utf-8"))
        paths.replace_file(root / "compare_summary.csv", lambda t: table.to_csv(t, index=False))
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error}): make room, or copy the runs") from error
    return text, collection


@functools.lru_cache(maxsize=8)
def _tables(board: Board) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`methods.summary` and `methods.pairs`, once for text and CSV."""
    return methods.summary(board), methods.pairs(board)


def _trainings(method: Method) -> dict[str, dict]:
    """The trainings behind a method's result, by their stage, without networks that validation did not choose."""
    record, own = method.members[0].record, method.name
    fits = {k: v for k, v in (record.get("fits") or {}).items() if isinstance(v, dict) and v.get("criterion")}
    stages = {own: "pretrain", f"linear, {own}": "linear"} if f"linear, {own}" in fits else {}
    others = set(map(str, method.params.get("encoders") or [])) - {(record.get("model") or {}).get("encoder")}
    return {stages.get(k, k): v for k, v in fits.items() if k not in others or len(fits) == 1}


def _means(row: Mapping[str, Any], interval: str) -> list[str]:
    """Cells of a row of scores: seeds, accuracy, the given interval, macro F1, macro AUC."""
    accuracy, *others = (_plus_minus(row[n], row[f"{n}_std"]) for n in ("accuracy", "macro_f1", "macro_auc"))
    return [str(row["seeds"]), accuracy, interval, *others]


def _plus_minus(mean: float, std: float) -> str:
    return f"{mean:.4f} ± {std:.4f}" if np.isfinite(std) else f"{mean:.4f}"


def _mean_std(values: np.ndarray) -> str:
    return _plus_minus(values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan)
