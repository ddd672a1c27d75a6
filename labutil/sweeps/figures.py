"""A sweep's figures, drawn from its table: which setting is better, by how much, and how each got there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.api.types import is_numeric_dtype

from labutil import paths, plots, runs
from labutil.compare.figures import matrix
from labutil.paths import lower_is_better
from labutil.runs.record import read_history
from labutil.style import COLOURS, PALE, WIDTH, legend_below, short, styled, wrap
from labutil.sweeps.results import ranked

SHOWN = 12  # settings in a ranking, or with a colour of their own; of more, the value reached is the colour
ENOUGH = 8  # settings, before parameters are said to matter or not


def draw(directory: Path, table: pd.DataFrame) -> list[Path]:
    """Draw a sweep's figures into directory/figures, each with a line that reads it; gives their files.

    table: as sweep.csv holds it, a row a run. For each notebook, as far as there is something to draw: `ranking` (of
    settings; over a single number: the line), `table` (two parameters), `search` (what was tried, in its order),
    `importance` (of parameters), `curves` (all settings, epoch by epoch, in one figure).
    """
    plan = directory / "sweep.yaml"
    searched = (yaml.safe_load(plan.read_bytes()).get("search") or {}) if plan.exists() else {}
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    files = []
    for notebook, rows in table.groupby("notebook", sort=False):
        prefix = f"{notebook}_" if table.notebook.nunique() > 1 else ""
        for name, figure in _figures(directory, rows, notebook in searched):
            files.append(directory / "figures" / f"{prefix}{name}.png")
            paths.replace_file(files[-1], lambda t, f=figure: f.savefig(t, format="png", dpi=110, bbox_inches="tight"))
            plt.close(figure)
    return files


def _figures(directory: Path, rows: pd.DataFrame, searched: bool) -> Iterator[tuple[str, Figure]]:
    objective, columns = rows.objective.iloc[0], list(rows)
    swept = columns[columns.index("setting") + 1 : columns.index("seed")]
    settings = rows.drop_duplicates("setting").set_index("setting")[swept].apply(_numbers)
    settings = settings.loc[:, settings.nunique() > 1]
    words = [", ".join(f"{key} {_word(v)}" for key, v in row.items()) for row in settings.to_dict("index").values()]
    names = pd.Series([text or rows.notebook.iloc[0] for text in words], settings.index)
    found = ranked(rows, objective)
    settings = settings.loc[found.index, settings.loc[found.index].nunique() > 1]
    if len(found):
        best, std, seeds = found.iloc[0]
        spread = f" ± {std:.4f} over {seeds:.0f} seeds" if seeds > 1 else ""
        title = f"Best {objective}: {best:.4f}{spread}, {names[found.index[0]]}."
        yield from _compared(settings, found, names, objective, title)
        if searched:
            tried = found.sort_index()["mean"].to_frame("each setting")
            tried["the best so far"] = tried.agg("cummin" if lower_is_better(objective) else "cummax")
            look = {"xlabel": "setting, in the order in which it was tried", "ylabel": objective}
            yield "search", _read(plots.lines(tried, **look), title)
        if len(settings.columns) > 1 and len(found) >= ENOUGH and found["mean"].nunique() > 1:
            shares = _importance(settings, found["mean"])
            title = f"Of {len(found)} settings: {shares.index[0]} moves {objective} most."
            yield "importance", _read(plots.bars(shares, xlabel=f"share of the variance of {objective}"), title)
    histories = _histories(directory, rows, objective)
    if len(histories):
        ended = rows[rows.value.isna()].drop_duplicates("setting").set_index("setting").status
        names += [f" ({ended[i]})" if i in ended.index else "" for i in names.index]
        title = f"Settings: {histories.setting.nunique()}" + "".join(f"; the best: {names[i]}" for i in found.index[:1])
        yield "curves", _read(_curves(histories, found, names, objective), title)


def _compared(
    settings: pd.DataFrame, found: pd.DataFrame, names: pd.Series, objective: str, title: str
) -> Iterator[tuple[str, Figure]]:
    """What settings came to: a line over one number, else a ranking; and, of two parameters, a table."""
    keys = list(settings)
    several = "mean ± std over seeds" if found.runs.max() > 1 else ""
    if len(keys) == 1 and is_numeric_dtype(settings[keys[0]]):
        line = found.set_axis(settings[keys[0]]).sort_index()
        mean, std = (line[[name]].set_axis([several or "settings"], axis=1) for name in ("mean", "std"))
        look = {"xlabel": keys[0], "ylabel": objective, "log_x": _decades(line.index)}
        yield "ranking", _read(plots.lines(mean, std=std, **look), title)
        return
    top = found[:SHOWN].set_axis(names[found.index[:SHOWN]])
    few = f" Shown: {SHOWN} of {len(found)} settings." if len(found) > SHOWN else ""
    yield "ranking", _read(plots.dots(top["mean"], std=top["std"], xlabel=f"{objective} {several}"), title + few)
    if len(keys) == 2:
        cells = settings.assign(mean=found["mean"]).pivot_table("mean", *keys)
        cells.index, cells.columns = cells.index.map(_word), cells.columns.map(_word)
        if 2 * cells.notna().to_numpy().sum() > cells.size:  # much of a grid, not points or a search
            ends = ["white", COLOURS[4]][:: -1 if lower_is_better(objective) else 1]  # the better, the darker
            title = wrap(f"{title} {keys[0]} down, {keys[1]} across.", 80)
            yield "table", styled(matrix)(cells, title, 0.62, fmt=".4f", cmap=sns.blend_palette(ends, as_cmap=True))


def _importance(settings: pd.DataFrame, values: pd.Series) -> pd.Series:
    """How much of the values' variance the rank of each parameter explains: fANOVA (Hutter et al. 2014), most first."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranks = settings.rank(method="dense").astype(int)
    spaces = {key: optuna.distributions.IntDistribution(1, int(ranks[key].max())) for key in ranks}
    study = optuna.create_study()
    for params, value in zip(ranks.to_dict("records"), values, strict=True):
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return pd.Series(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _histories(directory: Path, rows: pd.DataFrame, objective: str) -> pd.DataFrame:
    """What runs recorded an epoch: DataFrame(setting, panel, column, epoch, value). Panel 0 is what each run's first
    fit monitors, panel 1 the objective, of the last fit that has it, where that is another curve."""
    frames = [pd.DataFrame()]
    for setting, path in zip(rows.setting, rows.path.map(str), strict=True):
        if (history := read_history(directory / path)).empty:  # none yet, or none at all
            continue
        main, record = history.fit.iloc[0], runs.read_record(directory / path) or {}
        chosen = {(main, record.get("fits", {}).get(main, {}).get("monitor")): 0}
        if objective in history and history[objective].notna().any():
            chosen.setdefault((history.fit[history[objective].notna()].iloc[-1], objective), 1)
        for (fit, column), panel in chosen.items():
            if column in history:
                part = history[history.fit == fit].rename(columns={column: "value"})[["epoch", "value"]]
                part = part.apply(pd.to_numeric, errors="coerce").astype(float)
                frames.append(part.assign(setting=setting, panel=panel, column=column).dropna())
    return pd.concat(frames, ignore_index=True)


@styled
def _curves(histories: pd.DataFrame, found: pd.DataFrame, names: pd.Series, objective: str) -> Figure:
    """Curves of all settings, mean (and, of few, std) over seeds: each of its own colour, or of that of its value."""
    shown = histories.setting.unique()
    order = [*found.index[found.index.isin(shown)], *(i for i in shown if i not in found.index)]
    few, limits = len(order) <= SHOWN, Normalize(found["mean"].min(), found["mean"].max())
    if few:
        colours = {i: COLOURS[place % len(COLOURS)] for place, i in enumerate(order)}
        dashes = {i: (3, 1.5) if place >= len(COLOURS) else (1, 0) for place, i in enumerate(order)}
        look = {"style": "setting", "dashes": dashes, "errorbar": "sd"}
    else:
        scale = sns.color_palette("viridis" if lower_is_better(objective) else "viridis_r", as_cmap=True)
        colours = {i: scale(limits(found["mean"][i])) if i in found.index else PALE for i in order}
        look = {"errorbar": None}
    panels = histories.groupby("panel")
    figure, cells = plt.subplots(1, len(panels), figsize=(WIDTH, 3.4 if few else 4.2), squeeze=False)
    for cell, (_, part) in zip(cells.flat, panels, strict=True):
        marker = "o" if part.epoch.max() <= SHOWN else None
        whose = {"hue": "setting", "palette": colours, "legend": False, "marker": marker}
        sns.lineplot(part, x="epoch", y="value", ax=cell, **whose, **look)
        cell.set(xlabel="epoch", ylabel=part["column"].mode()[0])
        cell.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if lower_is_better(cell.get_ylabel()) and _decades(part.value):
            cell.set_yscale("log")
    if few:
        styles = {i: {"color": colours[i], "ls": (0, dashes[i])} for i in order}
        legend_below(figure, [Line2D([], [], label=wrap(short(names[i], 80), 30), **styles[i]) for i in order])
    elif len(found):
        figure.colorbar(ScalarMappable(limits, scale), ax=cells, location="bottom", label=objective, aspect=40)
    return figure


@styled
def _read(figure: Figure, title: str) -> Figure:
    """The figure with a line above it that reads it."""
    title = wrap(title, 80)
    figure.set_figheight(figure.get_figheight() + 0.25 * (1 + title.count("\n")))
    figure.suptitle(title, x=0.02, ha="left")
    return figure


def _numbers(column: pd.Series) -> pd.Series:
    """A column of sweep.csv: numbers where all are, else text."""
    numbers = pd.to_numeric(column, errors="coerce")
    text = column.astype(object).where(column.notna(), "default").astype(str)
    return numbers if numbers.notna().all() and column.dtype != bool else text


def _decades(values: Any) -> bool:
    """Whether positive numbers span a factor of ten or more, which a logarithmic axis shows."""
    return np.min(values) > 0 and np.max(values) >= 10 * np.min(values)


def _word(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
