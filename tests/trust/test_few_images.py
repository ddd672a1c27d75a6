"""Lessons on sets that are smaller, or have more classes, than any figure was drawn for: they run to their end, and
what they say is of numbers that there are; or they stop at once and say how many images are needed."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from labutil import runs
from labutil.data import cells
from labutil.runs import parameters

# Images of each class, and channels.
SETS = {
    "ten": ([4, 4, 2], 1),
    "forty": ([10, 10, 10, 10], 3),
    "two": ([20, 20], 1),
    "lone": ([30, 29, 1], 3),
    "many": ([4] * 200, 3),
}
CASES = [(lesson, "ten") for lesson in ("01", "02", "03", "04", "05", "06")]
CASES += [("01", "two"), ("02", "lone"), ("03", "forty"), ("04", "many"), ("05", "lone"), ("06", "many")]


def leave_set(folder, name):
    """An .npz of generated cells, the classes given anew."""
    counts, channels = SETS[name]
    images = cells.generate(sum(counts), seed=3)[0][:, :, ::2, ::2].transpose(0, 2, 3, 1)
    images = images if channels == 3 else images.mean(3).astype(np.uint8)
    np.savez(folder / f"{name}.npz", images=images, labels=np.repeat(np.arange(len(counts)), counts))
    return f"npz:{folder / name}.npz"


def readings(notebook):
    """The sentences in which an executed lesson puts its numbers into words."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "hide-input" in cell["metadata"].get("tags", []):
            for output in cell["outputs"]:
                yield "".join(output.get("data", {}).get("text/markdown", ""))


@pytest.mark.long
@pytest.mark.parametrize(("lesson", "name"), CASES)
def test_a_lesson_ends_on_few_images_or_many_classes(lesson, name, tmp_path):
    notebook = parameters.find_notebook(lesson)
    params = parameters.plan(notebook, "smoke", {"dataset": leave_set(tmp_path, name)})
    directory, record, _ = runs.run_notebook(notebook, params, recipe="smoke", out=tmp_path / "runs")
    assert record["status"] == "complete"
    assert all(math.isfinite(value) for value in record["metrics"].values())
    said = "\n".join(readings(directory / "notebook.ipynb"))
    assert said and not re.search(r"\b(nan|inf|None)\b", said), said


@pytest.mark.long
@pytest.mark.parametrize("lesson", ["02", "03", "04", "05"])
def test_one_image_is_too_few_and_a_lesson_says_so(lesson, tmp_path):
    notebook = parameters.find_notebook(lesson)
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 16, 16), np.uint8), labels=[0])
    params = parameters.plan(notebook, "smoke", {"dataset": f"npz:{tmp_path / 'one.npz'}"})
    with pytest.raises(runs.RunError, match=r"one\.npz") as caught:
        runs.run_notebook(notebook, params, recipe="smoke", out=tmp_path / "runs")
    assert caught.value.asked, caught.value
