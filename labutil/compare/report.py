"""`labutil compare`: finished runs as tables, plain text, CSV and one HTML page with its figures inside."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labutil import evaluation, paths, plots, runs
from labutil.compare import encoders, figures, methods, results
from labutil.compare.results import Board, Collection, Method
from labutil.images import stratified_sample
from labutil.paths import DataError
from labutil.runs import parameters

CRITERIA = {"simclr": "InfoNCE", "byol": "BYOL", "barlow_twins": "Barlow Twins", "mse": "MSE", "bce": "BCE"}
STAGES = {"pretrain", "autoencoder", "linear", "head", "fine-tune", "everything"}  # names of fits, in any lesson
MOST_MAPS, MOST_MATRIX = 6, 12  # methods in one figure


def summary_table(board: Board, summary: pd.DataFrame | None = None) -> pd.DataFrame:
    """Report B's table as text: accuracy, macro F1 and macro AUC as mean ± std over seeds. Chance and a random encoder
    come first, the ensemble of all methods last."""
    summary = _tables(board)[0] if summary is None else summary
    columns = ["recipe", "seeds", "accuracy", "95% interval", "macro F1", "macro AUC", "seconds", "parameters"]
    rows: dict[str, list[str]] = {}
    for label, name in (("chance", "chance_accuracy"), ("random encoder, k-NN", "random_encoder_knn_accuracy")):
        value = methods.floor(board, name)
        if value is not None:
            rows[label] = ["", "", f"{value:.4f}", "", "", "", "", ""]
    for label, row in summary.iterrows():
        means = [_plus_minus(row[n], row[f"{n}_std"]) for n in ("accuracy", "macro_f1", "macro_auc")]
        cost = [f"{row[n]:,.{d}f}" if np.isfinite(row[n]) else "" for n, d in (("train_seconds", 1), ("parameters", 0))]
        rows[label] = [row.recipe, str(row.seeds), means[0], f"{row.low:.3f} to {row.high:.3f}", *means[1:], *cost]
    found = methods.ensemble_scores(board)
    if found is not None:
        mean, std = found.mean(), found.std()
        means = [_plus_minus(mean[n], std[n]) for n in ("accuracy", "macro_f1", "macro_auc")]
        rows[f"ensemble of all {len(board.methods)}"] = ["", str(len(found)), means[0], "", *means[1:], "", ""]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def settings_table(board: Board) -> pd.DataFrame:
    """Report A's table as text: a row for each training of a method, its test accuracy on the last of them."""
    rows = []
    for method in board.methods:
        size = method.members[0].record["dataset"].get("image_size")
        tested, tuned = method.metric("test_accuracy"), method.metric("fine_tuned_accuracy")
        fits = [(name, fit, np.array([])) for name, fit in main_fits(method).items()] or [("", {}, tested)]
        if np.isfinite(tuned).all() and not np.array_equal(tuned, tested):
            # lesson 03 tests what validation chose, which need not be the network that it has fine-tuned
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
                "Criterion": criterion(method, name, fit) if fit else "",
                "Test Accuracy": _mean_std(accuracy) if len(accuracy) else "",
            })  # fmt: skip
    return pd.DataFrame(rows).astype(str)


@functools.lru_cache(maxsize=8)
def _tables(board: Board) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`comparison.summary` and `comparison.pairs`, once for text, CSV and page."""
    return methods.summary(board), methods.pairs(board)


def main_fits(method: Method) -> dict[str, dict]:
    """The trainings behind a method's result, by name: not those of a study, nor of networks that were not chosen."""
    record = method.members[0].record
    fits = {k: v for k, v in (record.get("fits") or {}).items() if isinstance(v, dict) and "seed" not in k}
    own = results.NAMES.get(method.notebook, "")
    known = {own: "pretrain", f"linear, {own}": "linear"} | {name: name for name in STAGES}
    if stages := {known[k]: v for k, v in fits.items() if k in known}:
        return stages
    chosen = (record.get("model") or {}).get("encoder")
    others = set(map(str, method.params.get("encoders") or [])) - {chosen}
    return {k: v for k, v in fits.items() if k not in others or len(fits) == 1}


def criterion(method: Method, name: str, fit: dict) -> str:
    """What a training minimised: as recorded, else by lesson and by the training's name."""
    if fit.get("criterion"):
        return str(fit["criterion"])
    if any(word in name.lower() for word in ("pretrain", "pre-train", "autoencoder")):
        key = method.params.get("method") or method.params.get("loss") or method.params.get("criterion")
        own = {"05": "SupCon", "06": "MSE"}.get(method.notebook[:2], "")
        return CRITERIA.get(str(key).lower(), own)
    return "cross-entropy"


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
        found = methods.ensemble_scores(board)
        if found is not None:
            row = {"method": "ensemble", "seeds": len(found)}
            for name in ("accuracy", "macro_f1", "macro_auc"):
                row |= {name: found[name].mean(), f"{name}_std": found[name].std()}
            table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        table.insert(0, "dataset", board.name)
        frames.append(table.assign(fingerprint=board.fingerprint, test_images=len(board.y_true)))
    return pd.concat(frames, ignore_index=True)


def page_figures(board: Board) -> Iterator[tuple[str, Figure | str]]:
    """(title, figure) of everything that the board's runs allow; a figure that cannot be drawn is a sentence."""
    summary, together = _tables(board)
    chance = methods.floor(board, "chance_accuracy")
    yield "Accuracy with intervals", figures.intervals(summary, chance=chance)
    if len(board.methods) > 1 and len(board.methods) <= MOST_MATRIX:
        yield "Every method against every other", figures.differences(together)
    yield "Accuracy against cost", figures.cost(summary)
    curves = methods.label_curves(board)
    if len(curves):
        yield "How many labels?", figures.label_efficiency(curves)
    most = summary.accuracy.nlargest(MOST_MATRIX).index  # more columns cannot be read
    recall, label = methods.class_recall(board), "% of the class right"
    if len(most) < len(summary):
        recall, label = recall[most], f"{label}, the {len(most)} most accurate methods"
    yield "Accuracy by class", figures.heat(recall, label=label)
    if 1 < len(board.methods) <= MOST_MATRIX:
        yield "Agreement", figures.heat(methods.agreement(board), label="% of images named alike")
    shown = board.methods[: len(plots.COLOURS)]
    first = {m.label: m.members[0].probabilities for m in shown}
    yield "Calibration", figures.calibrations(board.y_true, first)
    for title, columns in methods.METRIC_FIGURES.items():
        mean, std = methods.metric_table(board, columns)
        if len(mean):
            yield title, figures.grouped(mean, std=std)
    yield from _figures_with_images(board)


def _figures_with_images(board: Board) -> Iterator[tuple[str, Figure | str]]:
    try:
        images = encoders.test_images(board)
    except (DataError, KeyError, ValueError, OSError) as error:
        yield "Images", f"no images here: {error}"
        return
    names, hard = board.classes, methods.hardest(board)
    if len(hard):
        said = [board.methods[0].members[0].probabilities[i].argmax() for i in hard[:16]]
        titles = [f"{names[board.y_true[i]]}\nnot {names[k]}" for i, k in zip(hard[:16], said, strict=True)]
        yield f"Wrong by every method: {len(hard)} images", plots.image_grid(images[hard[:16]], titles, columns=8)
    alone = dict(list(methods.only_one_right(board).items())[:MOST_MAPS])
    if any(map(len, alone.values())):
        yield "Right by one method alone", figures.only_right(images, alone, board.y_true, names)
    sample, xy, reasons = stratified_sample(board.y_true, 300), {}, []
    for method in board.methods[:MOST_MAPS]:
        try:
            xy[method.label] = evaluation.tsne(encoders.features(board, method, sample))
        except (DataError, parameters.ParameterError, ValueError) as error:
            reasons.append(f"{method.label}: {error}")
    if xy:
        yield "The same images as each encoder sees them", figures.maps(xy, board.y_true[sample], names)
    if reasons:
        yield "No map", "; ".join(reasons)


STYLE = """:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:60rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}h3{font-size:1rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;white-space:nowrap}th,td{padding:.3rem .6rem;text-align:left;
border-bottom:1px solid #8888}img{max-width:100%;height:auto;background:#fff;padding:.4rem;border-radius:.3rem;
box-sizing:border-box}li{overflow-wrap:anywhere}"""


def as_html(collection: Collection) -> str:
    """One page: tables, sentences and figures; nothing is loaded from elsewhere, no script runs."""
    body = ["<h1>Which is best, by how much, and at what cost?</h1>"]
    body += [f"<p>{html.escape(note)}.</p>" for note in collection.notes]
    for board in collection.boards:
        body.append(f"<h2>{html.escape(board_title(board))}</h2>")
        body.append(_html_table(summary_table(board)))
        body.append(f"<h3>How they were trained</h3>{_html_table(settings_table(board), index=False)}")
        body.append(f"<h3>Is it more than luck?</h3>{_html_list(pair_sentences(board))}")
        for title, figure in page_figures(board):
            body.append(f"<h3>{html.escape(title)}</h3>")
            body.append(f"<p>{html.escape(figure)}</p>" if isinstance(figure, str) else _html_image(figure, title))
    if collection.left_out:
        lines = [f"{runs.show_path(path)}: {reason}" for path, reason in collection.left_out]
        body.append(f"<h2>Left out</h2>{_html_list(lines)}")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>Comparison of methods</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _html_table(table: pd.DataFrame, index: bool = True) -> str:
    return f'<div class="wide">{table.to_html(border=0, index=index, escape=True)}</div>'


def _html_list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>" if lines else "<p>One method.</p>"


def _html_image(figure: Figure, title: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def write(root: Path | str | None = None) -> tuple[str, Path]:
    """Compare the runs below a directory and leave compare_summary.txt, .csv and .html there: (the text, the page).

    Raises DataError when there is no such directory, no run in it can be used, or nothing can be written there.
    """
    root = Path(root) if root else paths.runs_dir()
    if not root.is_dir():
        raise DataError(f"{root} is no directory: give one that holds runs, or make some with labutil run all")
    collection = results.collect(root)
    if not collection.boards:
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in collection.left_out[:3])
        raise DataError(
            f"{root} holds no run to compare{f' ({reasons})' if reasons else ''}: labutil run all makes some"
        )
    text, page = as_text(collection), root / "compare_summary.html"
    table = as_csv(collection)
    try:
        paths.replace_file(root / "compare_summary.txt", lambda t: t.write_text(text, encoding="utf-8"))
        paths.replace_file(root / "compare_summary.csv", lambda t: table.to_csv(t, index=False))
        content = as_html(collection)
        paths.replace_file(page, lambda t: t.write_text(content, encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror or error}): make room, or copy the runs") from error
    return text, page


def _plus_minus(mean: float, std: float) -> str:
    return f"{mean:.4f} ± {std:.4f}" if np.isfinite(std) else f"{mean:.4f}"


def _mean_std(values: np.ndarray) -> str:
    return _plus_minus(values.mean(), values.std(ddof=1) if len(values) > 1 else np.nan)
