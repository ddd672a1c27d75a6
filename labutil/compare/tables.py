"""A comparison as tables: data frames of text for a notebook, plain text for a terminal, CSV for a program."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from labutil import paths, runs
from labutil.compare import methods, results
from labutil.compare.results import Board, Collection, Method
from labutil.paths import DataError, no_tags

MANY = 60  # methods, of whose 1,770 pairs all are compared; of more the best with each other one
LESS = """* less effort than another had: fewer trials (settings tried), or less than half the image passes.
Trials, image passes and hours are those of all runs of a name, also of failed and pruned ones."""


def write(root: Path) -> tuple[str, Collection]:
    """Compare the runs below a directory, and leave compare_summary.txt and compare_summary.csv there. Returns the text
    and what was compared. Raises DataError when no run in it can be used, or nothing can be written."""
    if not root.is_dir():
        raise DataError(f"{root} is no directory: give one that holds runs, or make some with labutil run all")
    collection = results.collect(root)
    if not collection.boards:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in collection.left_out[:3])
        reasons = f" ({reasons})" if reasons else ""
        raise DataError(f"{root} holds no run to compare{reasons}: labutil run all makes some")
    blocks, frames = list(collection.notes), []
    for board in collection.boards:
        title, summary = _title(board), methods.summary(board)
        against = methods.best(board) if len(board.methods) > MANY else None
        blocks += [
            f"{title}\n{'=' * len(title)}\n{summary_table(board, summary).to_string()}",
            effort_note(summary),
            settings_table(board).to_string(index=False),
            "\n".join(pair_sentences(board, methods.pairs(board, against=against))),
        ]
        rows = summary.to_dict("index") | _ensemble(board, "ensemble")
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").reset_index()
        table.insert(0, "dataset", board.name)
        frames.append(table.assign(fingerprint=board.fingerprint, test_images=len(board.y_true)))
    if collection.left_out:
        blocks.append("\n".join(["Left out:", *(f"  {runs.show_path(p)}: {why}" for p, why in collection.left_out)]))
    text, table = "\n\n".join(filter(None, blocks)) + "\n", pd.concat(frames)
    try:
        paths.replace_file(root / "compare_summary.txt", lambda t: t.write_text(text, encoding="utf-8"))
        paths.replace_file(root / "compare_summary.csv", lambda t: table.to_csv(t, index=False))
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error}): make room, or copy the runs") from error
    return text, collection


def _title(board: Board) -> str:
    title = f"{board.name}: {len(board.y_true):,} test images of {len(board.classes)} classes"
    return f"{title} (fingerprint {board.fingerprint})"


def latex(collection: Collection) -> str:
    """Each board's table for a paper that uses the package booktabs: a tabular, and under it what its mark means."""
    blocks = []
    for board in collection.boards:
        summary = methods.summary(board)
        table = summary_table(board, summary)
        text = table.to_latex(escape=True, column_format="ll" + "r" * (table.shape[1] - 1)).replace("±", r"$\pm$")
        note = effort_note(summary) and f"\\par\\smallskip{{\\footnotesize {LESS}\\par}}\n"
        blocks.append(f"% {' '.join(_title(board).split())}\n{text}{note}")
    return "\n".join(blocks)


def _less(summary: pd.DataFrame) -> pd.DataFrame:
    """Whether less effort went into a method than into another, by trials and by image passes: bool, rows methods."""
    effort = summary[["trials", "image_passes"]]
    return effort < effort.max() * [1, 0.5]


def effort_note(summary: pd.DataFrame) -> str:
    """What the mark in `summary_table` means; empty where no method has it."""
    return LESS if _less(summary).any(axis=None) else ""


def summary_table(board: Board, summary: pd.DataFrame) -> pd.DataFrame:
    """`methods.summary` as text, mean ± std over seeds. Chance and a random encoder come first, the ensemble of all
    methods last. Trials and image passes have a mark, *, where another method had more."""
    floors = {"chance": "chance_accuracy", "random encoder, k-NN": "random_encoder_knn_accuracy"}
    rows = {label: {"accuracy": methods.floor(board, name)} for label, name in floors.items()}
    rows |= summary.to_dict("index") | _ensemble(board, f"ensemble of all {len(board.methods)}")
    table = pd.DataFrame.from_dict(rows, orient="index").dropna(subset="accuracy")

    def text(form: str, *columns: str) -> list[str]:
        return [form.format(*v) if np.isfinite(v).all() else "" for v in table[list(columns)].to_numpy(float)]

    accuracy, f1, auc = (list(map(_plus_minus, table[n], table[f"{n}_std"])) for n in methods.MEANS[:3])
    shown = pd.DataFrame({
        "recipe": table.recipe.fillna(""), "seeds": text("{:.0f}", "seeds"), "accuracy": accuracy,
        "95% interval": text("{:.3f} to {:.3f}", "low", "high"), "macro F1": f1, "macro AUC": auc,
        "seconds": text("{:,.1f}", "seconds"), "parameters": text("{:,.0f}", "parameters"),
        "trials": text("{:.0f}", "trials"), "image passes": text("{:,.0f}", "image_passes"),
        "hours": text("{:,.3f}", "hours"),
    }, index=table.index)  # fmt: skip
    marks = _less(summary).set_axis(["trials", "image passes"], axis=1).map({True: "* ", False: ""}.get)
    return marks.reindex(index=shown.index, columns=shown.columns, fill_value="") + shown


def _ensemble(board: Board, label: str) -> dict[str, dict[str, float]]:
    together = methods.ensemble(board)
    return {} if together is None else {label: methods.scores_of(board, together)}


def settings_table(board: Board) -> pd.DataFrame:
    """How methods were trained, as text: a row for each training of a method, its test accuracy in the last of them.

    Trainings are those that have named what they minimise, `fit(criterion=...)`: rivals do not.
    """
    rows = []
    for method in board.methods:
        size = method.records[0]["dataset"].get("image_size")
        tested, tuned = (pd.Series(method.metric(f"{name}_accuracy")) for name in ("test", "fine_tuned"))
        fits = [*_trainings(method).items()] or [("", {})]
        accuracies = [pd.Series([np.nan])] * (len(fits) - 1) + [tested]
        if tuned.notna().all() and not np.allclose(tuned, tested, rtol=0, atol=1e-6):  # one went through float32
            # What validation chose was tested, which need not be the network that was fine-tuned.
            fits, accuracies = [fits[-1], ("linear probe on frozen features", {})], [tuned, tested]
        for (name, fit), accuracy in zip(fits, accuracies, strict=True):
            stage = f", {name}" if name and (len(fits) > 1 or name not in method.label) else ""
            rate = fit.get("lr", "")
            rows.append({
                "Model": f"{method.label}{stage}",
                "Optimizer": fit.get("optimizer", ""),
                "Scheduler": fit.get("schedule", ""),
                "Start LR": f"{rate:g}" if isinstance(rate, float) else rate,
                "Image Size": "x".join(map(str, size)) if isinstance(size, list) else size,
                "Batch Size": fit.get("batch_size", ""),
                "Epochs": fit.get("epochs_run", fit.get("epochs", "")),
                "Criterion": fit.get("criterion", ""),
                "Test Accuracy": _plus_minus(accuracy.mean(), accuracy.std()),
            })  # fmt: skip
    return pd.DataFrame(rows).astype(str).map(no_tags)


def pair_sentences(board: Board, pairs: pd.DataFrame) -> list[str]:
    """Which method is ahead of which, or that there is no evidence: all of `methods.pairs` for up to five methods, of
    more the best against each other one. Corrected for all pairs in any case."""
    if not len(pairs):
        return []
    shown = pairs
    if len(board.methods) > 5:
        best = methods.best(board).label
        shown = pairs[(pairs.a == best) | (pairs.b == best)]
    words = [*shown.words]
    count = math.comb(len(board.methods), 2)
    way = "Holm" if len(pairs) == count else "Bonferroni"
    words.append(f"Intervals: each pair alone, over test images and seeds. p: corrected for {count} pairs ({way}).")
    if any(len(m.dirs) == 1 for m in board.methods):
        spread, measured = methods.seed_std(board)
        source = "as measured where there are several" if measured else "assumed, as in the reports"
        words.append(f"Where a method has one run, seeds are taken to move it by {spread * 100:.1f} points ({source}).")
    return words


def _trainings(method: Method) -> dict[str, dict]:
    """The trainings behind a method's result, by their stage."""
    own, fits = method.name, method.records[0].get("fits") or {}
    stages = {own: "pretrain", f"linear, {own}": "linear"} if f"linear, {own}" in fits else {}
    return {stages.get(k, k): v for k, v in fits.items() if isinstance(v, dict) and v.get("criterion")}


def _plus_minus(mean: float, std: float) -> str:
    """What is NaN, as std is of a single run, is left out."""
    return f"{mean:.4f} ± {std:.4f}".removesuffix(" ± nan").removeprefix("nan")
