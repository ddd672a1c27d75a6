"""The exercises of notebook 07: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from labutil import checks

EXERCISES = ("standard_error", "mcnemar", "paired_bootstrap", "holm")


def exact(a, b, tails=2, cut=True, tail=True, seen=True, everything=False):
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = len(a) if everything else only_a + only_b, min(only_a, only_b)
    p = tails * sum(math.comb(n, i) for i in (range(k + seen) if tail else [k])) / 2**n
    return min(1.0, p) if cut else p


def chi_square(a, b):
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return math.erfc(max(0, abs(only_a - only_b) - 1) / math.sqrt(2 * (only_a + only_b)))


def my_holm(p):
    corrected, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        corrected[i] = largest
    return corrected


def steps(p, *, cut=True, running=True, back=True):
    order = np.argsort(p)
    values = np.sort(p) * np.arange(len(p), 0, -1)
    values = np.minimum(1, values) if cut else values
    values = np.maximum.accumulate(values) if running else values
    return values[np.argsort(order)] if back else values


def share(right, n):
    return right / n


def error(right, n):
    return math.sqrt(share(right, n) * (1 - share(right, n)) / n)


def drawn_difference(a, b, drawn):
    return (a.float() - b.float())[drawn].mean(1)


RIGHT = {
    "standard_error": error,
    "mcnemar": exact,
    "paired_bootstrap": drawn_difference,
    "holm": my_holm,
}
WRONG = [
    ("standard_error", lambda r, n: error(r, n) ** 2, "that is the variance"),
    ("standard_error", lambda r, n: error(r, n) * math.sqrt(n), "the spread of a single image"),
    ("standard_error", lambda r, n: error(r, n) * n, "of the number right, not of the share"),
    ("standard_error", lambda r, n: math.sqrt(share(r, n) / n), "the share of wrong ones is missing"),
    ("standard_error", lambda r, n: 1.96 * error(r, n), "half of a 95% interval"),
    ("standard_error", lambda r, n: error(r, n) * math.sqrt(n / (n - 1)), "with n - 1"),
    ("standard_error", lambda r, n: 100 * error(r, n), "that is in percent"),
    ("standard_error", lambda r, n: 0.5, "0.01235"),
    ("standard_error", lambda r, n: [1, 2], "must be one number"),
    ("mcnemar", lambda a, b: exact(a, b, cut=False), "at most 1"),
    ("mcnemar", lambda a, b: exact(a, b, tails=1), "that is one tail"),
    ("mcnemar", lambda a, b: exact(a, b, tail=False), "the chance of exactly"),
    ("mcnemar", chi_square, "chi-square form"),
    ("mcnemar", lambda a, b: exact(a, b, seen=False), "the split that was seen counts as well: range(k + 1)"),
    ("mcnemar", lambda a, b: exact(a, b, seen=False, tails=1), "range(k + 1)"),
    ("mcnemar", lambda a, b: exact(a, b, everything=True), "do images enter that both have right?"),
    ("mcnemar", lambda a, b: 0.3, "expected 0.2188"),
    ("mcnemar", lambda a, b: exact(a, b) if (a != b).any() else 1 / 0, "p is 1"),
    ("mcnemar", lambda a, b: exact(a, b) if (a != b).any() else 0.0, "expected 1.0000, yours is 0.0000"),
    ("paired_bootstrap", lambda a, b, d: -drawn_difference(a, b, d), "b minus a"),
    ("paired_bootstrap", lambda a, b, d: (a.float().mean() - b.float().mean()).expand(6), "index with drawn"),
    ("paired_bootstrap", lambda a, b, d: drawn_difference(a, b, d) * 40, "divide by N"),
    (
        "paired_bootstrap",
        lambda a, b, d: a[d].float().mean(1) - b[d.roll(1, 0)].float().mean(1),
        "must see the same drawn images",
    ),
    ("paired_bootstrap", lambda a, b, d: drawn_difference(a, b, d).abs(), "keep the sign: below 0 where b is ahead"),
    ("paired_bootstrap", lambda a, b, d: (a[d] - b[d]).mean(1), "booleans cannot be subtracted: .float() first"),
    ("paired_bootstrap", lambda a, b, d: a[d].mean(1) - b[d].mean(1), "only floats have a mean: .float() first"),
    ("paired_bootstrap", lambda a, b, d: torch.ones(2) @ torch.ones(3), "raised RuntimeError"),
    ("paired_bootstrap", lambda a, b, d: drawn_difference(a, b, d).mean(), "must have shape (6,)"),
    ("paired_bootstrap", lambda a, b, d: torch.zeros(6), "the first is"),
    ("holm", lambda p: [min(1, len(p) * x) for x in p], "those are Bonferroni's"),
    ("holm", lambda p: steps(p, running=False), "take the running maximum"),
    ("holm", lambda p: steps(p, cut=False), "a probability is at most 1"),
    ("holm", lambda p: steps(p, back=False), "in which they came"),
    ("holm", lambda p: p, "expected [0.03"),
    ("holm", lambda p: [0.1], "there are 3 corrected ones"),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_untouched_right_and_raising(name):
    check = getattr(checks, name)
    assert "not attempted yet" in repr(check(lambda *args: None))
    assert repr(check(RIGHT[name])).startswith(f"✓ {name}")
    assert "ValueError: oh" in repr(check(lambda *args: (_ for _ in ()).throw(ValueError("oh"))))


@pytest.mark.parametrize(("name", "answer", "reason"), WRONG, ids=[f"{n}-{r[:20]}" for n, _, r in WRONG])
def test_each_mistake_gets_its_reason(name, answer, reason):
    found = repr(getattr(checks, name)(answer))
    assert found.startswith(f"✗ {name}"), found
    assert reason in found


def test_images_that_both_have_right_are_asked_for_only_where_they_matter():
    assert checks.mcnemar(lambda a, b: 0.3).message.endswith("yours is 0.3000")


def test_draws_are_there_on_which_b_is_ahead():
    """Or an answer without its sign would pass."""
    seen = []
    checks.paired_bootstrap(lambda *given: seen.append(drawn_difference(*given)))
    assert seen[0].min() < 0 < seen[0].max()


def test_the_solutions_in_the_notebook_pass():
    import json

    notebook = Path(__file__).parent.parent.parent / "notebooks" / "07_comparison.ipynb"
    cells = ["".join(c["source"]) for c in json.loads(notebook.read_text())["cells"]]
    code = [c for text in cells for c in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)]
    asked = re.findall(r"lab\.checks\.(\w+)\((\w+)\)", "\n".join(cells))
    assert {name for name, _ in asked} == set(EXERCISES)
    for name, function in asked:
        scope = {"math": math, "torch": torch, "np": np}
        (solution,) = [c for c in code if f"def {function}(" in c]
        exec(solution, scope)
        assert repr(getattr(checks, name)(scope[function])).startswith("✓"), name
