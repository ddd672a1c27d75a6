"""Many runs, and many methods: what is compared is read once, and does not grow with the square of their number."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from planted import leave_run

from labutil.compare import methods, tables


def many_runs(folder: Path, settings: int, seeds: int) -> None:
    """Runs that differ in lr and seed; their predictions are links to ten."""
    made = [leave_run(folder / "made", "02_supervised_baseline", share=0.5 + i / 50, seed=i) for i in range(10)]
    for number in range(settings * seeds):
        source, place = made[number % 10], folder / "runs" / "02_supervised_baseline" / f"{number:010x}"
        place.mkdir(parents=True)
        record = json.loads((source / "run.json").read_text("utf-8"))
        record["params"] |= {"lr": round(0.001 + number // seeds / 1e5, 6), "seed": number % seeds}
        (place / "run.json").write_text(json.dumps(record), "utf-8")
        for name in ("predictions.npz", "model.safetensors"):
            if (source / name).exists():
                os.link(source / name, place / name)
    shutil.rmtree(folder / "made")


def test_of_many_methods_the_best_is_compared_with_each_other(tmp_path):
    many_runs(tmp_path, tables.MANY + 1, 1)
    text, collection = tables.write(tmp_path / "runs")
    (board,) = collection.boards
    assert "corrected for 1830 pairs (Bonferroni)" in text
    found = methods.pairs(board, against=methods.best(board))
    assert len(found) == tables.MANY
    everyone = methods.pairs(board).set_index(["a", "b"])
    assert (found.set_index(["a", "b"]).p_holm >= everyone.p_holm.loc[list(zip(found.a, found.b, strict=True))]).all()
