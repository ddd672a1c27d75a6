"""A sweep's figures: which are drawn of which table, and that they show its numbers."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from labutil import runs
from labutil.sweeps import figures


def plant(root, keys, settings, *, objective="val_accuracy", seeds=(0, 1), ended=None, notebook="02_mine"):
    """A sweep of these settings, with its runs' records and histories; its table. ended: {setting: status}."""
    rows, rng = [], np.random.default_rng(0)
    for (i, values), seed in itertools.product(enumerate(settings), seeds):
        status, value = (ended or {}).get(i, "complete"), rng.random()
        directory = root / "runs" / notebook / f"{i}-{seed}"
        directory.mkdir(parents=True)
        runs.write_json(directory / "run.json", {"status": status, "fits": {"first": {"monitor": "val_loss"}}})
        history = pd.DataFrame({"fit": ["first"] * 3 + ["last"] * 2, "epoch": [1, 2, 3, 1, 2]})
        history["val_loss"], history["val_accuracy"] = [3, 2, 1, 0, 0], [np.nan] * 3 + [value / 2, value]
        history.to_csv(directory / "history.csv", index=False)
        row = {"notebook": notebook, "setting": i, **dict(zip(keys, values, strict=True)), "seed": seed}
        row |= {"status": status, "objective": objective, "value": value if status == "complete" else np.nan}
        rows.append(row | {"path": str(directory.relative_to(root))})
    pd.DataFrame(rows).to_csv(root / "sweep.csv", index=False)
    return pd.read_csv(root / "sweep.csv")  # as the next process finds it


def drawn(root, table, searched=False):
    return dict(figures._figures(root, table, searched))


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(plt.Text)]


GRID = list(itertools.product((32, 64), (0.001, 0.01, 0.1), ("[16, 32]", "[8]")))


@pytest.mark.parametrize(
    ("keys", "settings", "expected"),
    [
        (["lr"], [(0.1,), (0.01,)], "ranking curves"),
        (["filters"], [("[16, 32]",), ("[8]",)], "ranking curves"),
        (["balanced"], [(True,), (False,)], "ranking curves"),
        (["batch_size", "lr"], sorted({g[:2] for g in GRID}), "ranking table curves"),
        (["batch_size", "lr", "filters"], GRID, "ranking importance curves"),
        (["optimizer", "lr"], [("sgd", 0.6), ("adamw", 0.004), ("lion", 0.01)], "ranking curves"),  # no grid
        (["lr"], [(0.1,)], "ranking curves"),
    ],
)
def test_figures_are_those_that_the_parameters_ask_for(tmp_path, keys, settings, expected):
    table = plant(tmp_path, keys, settings)
    files = figures.draw(tmp_path, table)
    assert [file.name for file in files] == [f"{name}.png" for name in expected.split()]
    assert all(file.stat().st_size > 5000 for file in files)
    assert not plt.get_fignums()


def test_a_line_over_numbers_and_a_ranking_of_words_show_means_and_spread(tmp_path):
    table = plant(tmp_path / "line", ["lr"], [(0.1,), (0.001,), (0.01,)], seeds=(0, 1, 2))
    (axes,) = drawn(tmp_path / "line", table)["ranking"].axes
    found = table.groupby("lr").value.agg(["mean", "std"])
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xydata() == pytest.approx(np.c_[found.index, found["mean"]])
    best = found["mean"].idxmax()
    assert f"Best val_accuracy: {found['mean'][best]:.4f} ± {found['std'][best]:.4f} over 3 seeds, lr {best:g}." in (
        texts(axes.figure)
    )
    words = [(f"a{i}",) for i in range(14)]
    table = plant(tmp_path / "dots", ["augmentation"], words, objective="val_mse", seeds=(0,), ended={0: "pruned"})
    (axes,) = drawn(tmp_path / "dots", table)["ranking"].axes
    order = table.sort_values("value").augmentation[:12]  # an error: the least is the best
    assert [t.get_text() for t in axes.get_yticklabels()] == [f"augmentation {word}" for word in order]
    assert "Shown: 12 of 13 settings." in " ".join(texts(axes.figure))


def test_curves_are_those_of_the_first_fit_and_of_the_objective(tmp_path):
    table = plant(tmp_path, ["lr"], [(0.1,), (0.01,)], ended={1: "diverged"})
    first, last = drawn(tmp_path, table)["curves"].axes
    assert (first.get_ylabel(), last.get_ylabel()) == ("val_loss", "val_accuracy")
    assert [line.get_ydata().tolist() for line in first.lines if len(line.get_xdata())] == [[3, 2, 1]] * 2
    mean = table.value[table.setting == 0].mean()
    assert last.lines[0].get_ydata() == pytest.approx([mean / 2, mean])
    names = [t.get_text() for t in first.figure.legends[0].get_texts()]
    assert names == ["lr 0.1", "lr 0.01 (diverged)"]


def test_many_settings_are_coloured_by_their_value(tmp_path):
    table = plant(tmp_path, ["lr", "dropout"], list(np.random.default_rng(1).random((15, 2))), seeds=(0,))
    table = pd.concat([table, plant(tmp_path / "more", ["lr"], [(0.1,), (0.2,)], notebook="06_mine")])
    found = drawn(tmp_path, table[table.notebook == "02_mine"], searched=True)
    assert list(found) == ["ranking", "search", "importance", "curves"]
    *panels, scale = found["curves"].axes
    assert scale.get_xlabel() == "val_accuracy" and not found["curves"].legends
    assert len({tuple(line.get_color()) for line in panels[0].lines}) > 10
    assert found["search"].axes[0].lines[1].get_ydata() == pytest.approx(table.value[:15].cummax())
    runs.write_json(tmp_path / "sweep.yaml", {"search": {"02_mine": {"lr": "0:1"}}})
    names = [file.name for file in figures.draw(tmp_path, table)]  # of each notebook
    assert "02_mine_search.png" in names and "06_mine_search.png" not in names


def test_nothing_that_ended_well_is_no_best(tmp_path):
    table = plant(tmp_path, ["lr"], [(0.1,), (0.01,)], ended={0: "failed", 1: "running"})
    found = drawn(tmp_path, table)
    assert list(found) == ["curves"] and "best" not in " ".join(texts(found["curves"]))
    table["path"] = "nowhere"
    assert figures.draw(tmp_path, table) == []
    many = plant(tmp_path / "many", ["lr"], [(i,) for i in range(14)], ended=dict.fromkeys(range(14), "diverged"))
    first = tmp_path / "many" / many.path[0] / "history.csv"
    pd.read_csv(first).assign(val_accuracy=np.nan).to_csv(first, index=False)
    assert [file.name for file in figures.draw(tmp_path / "many", many)] == ["curves.png"]


def test_what_never_ended_well_is_not_compared(tmp_path):
    table = plant(tmp_path, ["lr", "kind"], [(0.1, "a"), (0.2, "a"), (0.3, "b")], ended={2: "diverged"})
    found = drawn(tmp_path, table)
    assert list(found) == ["ranking", "curves"]  # "kind" is the same in all that have a value
    assert found["ranking"].axes[0].get_xlabel() == "lr"


def test_settings_that_are_all_alike_have_no_importance(tmp_path):
    table = plant(tmp_path, ["batch_size", "lr", "filters"], GRID).assign(value=0.5)
    assert list(drawn(tmp_path, table)) == ["ranking", "curves"]
    table.loc[0, ["value", "status"]] = np.nan, "failed"  # one of two seeds: this setting has no mean to compare
    assert "Shown: 11" not in " ".join(texts(drawn(tmp_path, table)["ranking"]))
    names = [t.get_text() for t in drawn(tmp_path, table)["curves"].legends[0].get_texts()]
    assert names[-1].replace("\n", " ") == "batch_size 32, lr 0.001, filters [16, 32] (failed)"
