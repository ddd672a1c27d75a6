"""What all exercise checks share: what passed is used, library functions are refused, predictions are compared."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import cross_entropy as imported_by_name

from labutil.course.checks import guess
from labutil.course.checks.frame import call, checked, judge

REFUSED = ("torch.nn.functional.cross_entropy", "torch.func.grad", "torch.Tensor.logsumexp")


@checked(refuses=REFUSED)
def loss(function):
    z, y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])
    judge(call(function, z, y), F.cross_entropy(z, y), {})
    return "Well done."


def mine(z, y):
    return (z.exp().sum(1).log() - z[range(3), y]).mean()


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (F.cross_entropy, "cross_entropy"),
        (lambda z, y: 1 * F.cross_entropy(z, y), "cross_entropy"),
        (lambda z, y: 1 * imported_by_name(z, y), "cross_entropy"),
        (torch.nn.CrossEntropyLoss(), "cross_entropy"),  # which calls it
        (lambda z, y: 1 * torch.func.grad(F.cross_entropy)(z, y), "func.grad"),
        (lambda z, y: (z.logsumexp(1) - z[range(3), y]).mean(), "Tensor.logsumexp"),
    ],
)
def test_a_library_function_that_is_the_answer_is_refused(answer, named):
    result = loss(answer)
    assert result.status == "failed"
    assert f"{named} is the answer itself: write out what it does" in result.message


def test_after_a_check_all_library_functions_are_as_they_were():
    def raises(z, y):
        raise RuntimeError

    for answer in (mine, raises, F.cross_entropy, lambda z, y: None):
        loss(answer)
        assert F.cross_entropy is imported_by_name and F.cross_entropy.__name__ == "cross_entropy"
        assert "logsumexp" not in vars(torch.Tensor)  # inherited, as it was
        assert torch.zeros(2, 1).logsumexp(1).tolist() == [0, 0]


def test_later_cells_use_what_passed(capsys):
    assert loss(mine).or_use(F.cross_entropy) is mine
    assert capsys.readouterr().out == "✓ loss: correct. Well done.\n  From here on the lesson uses yours.\n"
    for answer, said in ((lambda *a: None, "not attempted yet"), (lambda z, y: z.sum(), "is right, yours is")):
        assert loss(answer).or_use(F.cross_entropy) is F.cross_entropy
        out = capsys.readouterr().out
        assert said in out and out.endswith("\n  From here on the lesson uses its own.\n")


@pytest.mark.parametrize(
    ("yours", "measured", "shown"),
    [
        ({"bits": None}, {"bits": 3}, "○ guess: not attempted yet"),
        ({"bits": 2, "more": None}, {"bits": 3.0, "more": 9}, "✓ guess: bits: you said 2, it is 3"),
        ({"bits": 9}, {"bits": 3}, "✗ guess: bits: you said 9, it is 3. What did you expect that is not so?"),
        ({"who": "simclr"}, {"who": "SimCLR"}, "✓ guess: who: you said simclr, it is SimCLR"),
        ({"who": "linear"}, {"who": "linear"}, "✓ guess: who: you said linear, it is linear"),
        ({"a": 3, "b": "x"}, {"a": 3, "b": "y"}, "✗ guess: b: you said x, it is y. What did you"),
        ({"bits": "many"}, {"bits": 3}, "✗ guess: bits: 'many' is no number"),
    ],
)
def test_predictions_are_compared_with_what_came_out(yours, measured, shown):
    assert repr(guess(yours, measured, within=1)).startswith(shown)
