"""The exercises of notebook 06: untouched, right, and each mistake that a check promises to recognise."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from labutil import checks, device, explore, plots
from labutil.course.explore import autoencoder
from labutil.networks import ConvAutoencoder


def forgets_the_first(filters, channels, k):
    """As `decoder`'s first=False, but with every batch norm."""
    return decoder(filters, channels, k, first=False) + 2 * filters[-1]


def line_kernel(filters, channels, k):
    chain = [filters[-1], *filters[::-1], channels]
    return sum(b * (a * k + 1) for a, b in itertools.pairwise(chain)) + 2 * sum(filters)


def lowrank_error(x, k):
    u, s, v = torch.pca_lowrank(x, q=k)
    return (x - x.mean(0) - u * s @ v.T).square().mean()


def decoder(filters, channels, k, *, bias=1, norm=2, first=True, last=True):
    """Counted from the modules that a decoder is made of, unlike the check's formula."""
    chain = [filters[-1], *filters[::-1]] if first else filters[::-1]
    total = 0
    for a, b in itertools.pairwise(chain):
        total += sum(p.numel() for p in nn.Conv2d(a, b, k, bias=bool(bias)).parameters()) + norm * b
    return total + last * (filters[0] * channels * k * k + bias * channels)


def eigenvalues(x, correction=0, centre=True):
    x = x - x.mean(0) if centre else x
    return torch.linalg.eigvalsh(x.T @ x / (len(x) - correction))  # rising


RIGHT = {
    "conv_size": lambda n, k, s, p: len(range(0, n + 2 * p - k + 1, s)),
    "decoder_parameters": decoder,
    "bce_gradient": torch.func.grad(nn.functional.binary_cross_entropy_with_logits),
    "pca_error": lambda x, k: eigenvalues(x)[:-k].sum() / x.shape[1],
}
WRONG = [
    ("conv_size", lambda n, k, s, p: (n + 2 * p - k) / s + 1, "round down, since"),
    ("conv_size", lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1, "not up"),
    ("conv_size", lambda n, k, s, p: (n + 2 * p - k) // s, "add 1"),
    ("conv_size", lambda n, k, s, p: (n + 2 * p - k + 1) // s, "add the 1 after dividing"),
    ("conv_size", lambda n, k, s, p: (n + 2 * p - k + 1) / s, "add the 1 after dividing"),
    ("conv_size", lambda n, k, s, p: (n + p - k) // s + 1, "both sides"),
    ("conv_size", lambda n, k, s, p: 99, "is 28, yours is 99"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, bias=0), "biases are missing"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, norm=0), "batch norms are missing"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, norm=1), "two numbers a channel"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, norm=4), "not learned"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k) + 2 * c, "no batch norm follows"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, last=False), "last convolution"),
    ("decoder_parameters", lambda f, c, k: decoder(f, c, k, first=False), "keeps the number of channels"),
    ("decoder_parameters", forgets_the_first, "keeps the number of channels"),
    ("decoder_parameters", line_kernel, "kernel**2"),
    ("decoder_parameters", lambda f, c, k: 5, "27,947 is right, yours is 5"),
    ("bce_gradient", lambda z, x: z.sigmoid() - x, "mean over all pixels"),
    ("bce_gradient", lambda z, x: (z.sigmoid() - x) / 3, "not by the number of images"),
    ("bce_gradient", lambda z, x: (z.sigmoid() - x) / 16, "number of images as well"),
    ("bce_gradient", lambda z, x: (x - z.sigmoid()) / 48, "sign"),
    ("bce_gradient", lambda z, x: ((1 - x) / (1 - z.sigmoid()) - x / z.sigmoid()) / 48, "chain rule"),
    ("bce_gradient", lambda z, x: torch.func.grad(lambda z: ((z.sigmoid() - x) ** 2).mean())(z), "MSE's gradient"),
    ("bce_gradient", lambda z, x: (z - x) / 48, "sigmoid of the logits"),
    ("bce_gradient", lambda z, x: torch.zeros_like(z), "yours is 0.00000"),
    ("bce_gradient", lambda z, x: z.sum(), "must have shape"),
    ("pca_error", lambda x, k: eigenvalues(x)[-k:].sum() / 6, "what the code keeps"),
    ("pca_error", lambda x, k: eigenvalues(x)[:-k].sum(), "over the D values"),
    ("pca_error", lambda x, k: eigenvalues(x, 1)[:-k].sum() / 6, "not N - 1"),
    ("pca_error", lambda x, k: eigenvalues(x, 0, False)[:-k].sum() / 6, "mean off first"),
    ("pca_error", lambda x, k: torch.linalg.svdvals(x - x.mean(0))[k:].sum() / 240, "squared singular"),
    ("pca_error", lambda x, k: eigenvalues(x)[: -k - 1].sum() / 6, "one component too many"),
    ("pca_error", lambda x, k: eigenvalues(x).sum() / 6, "k = 0"),
    ("pca_error", lambda x, k: 1.5, "yours is 1.5"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass_and_stubs_are_not_attempted(name):
    check = getattr(checks, name)
    assert check(RIGHT[name]).status == "passed", check(RIGHT[name])
    assert check(lambda *_: None).status == "not attempted"


@pytest.mark.parametrize(("name", "answer", "message"), WRONG, ids=[f"{n}-{m}" for n, _, m in WRONG])
def test_mistakes_are_named(name, answer, message):
    result = getattr(checks, name)(answer)
    assert result.status == "failed"
    assert message in result.message


def test_an_approximate_pca_passes():
    for seed in range(20):
        torch.manual_seed(seed)
        assert checks.pca_error(lowrank_error).status == "passed"


def test_explorers_draw_what_their_controls_say(monkeypatch):
    drawn, controls = [], {}
    monkeypatch.setattr(plots, "image_rows", lambda rows, **_: drawn.append(rows) or SimpleNamespace())
    monkeypatch.setattr(device, "has_front_end", lambda: False)
    monkeypatch.setattr(
        autoencoder,
        "explore",
        lambda draw, **c: (controls.update(draw=draw, **c), draw(**{k: v.value for k, v in c.items()})),
    )
    images = torch.randint(0, 256, (9, 1, 12, 12), dtype=torch.uint8)
    small, large = (ConvAutoencoder(1, (2,), 12, code_size=size) for size in (2, 5))
    explore.interpolation({"two": small}, images, first=3, second=20, steps=4)
    rows = drawn.pop()
    assert list(rows) == ["pixels", "two"]
    torch.testing.assert_close(rows["pixels"][0], images[3] / 255)
    torch.testing.assert_close(rows["pixels"][-1], images[8] / 255)  # there is no image 20
    assert all(len(row) == 4 for row in rows.values())
    assert (controls["first"].max, controls["second"].value) == (8, 8)
    explore.code_sizes({5: large, 2: small}, images, n=3)
    assert [len(row) for row in drawn[0].values()] == [3, 3, 3]
    controls["draw"](start=3, smallest=5)
    assert list(drawn[1]) == ["image", "5 numbers"]
    assert torch.equal(drawn[1]["image"], images[3:6])


def test_image_rows():
    x = torch.rand(4, 1, 8, 8)
    figure = plots.image_rows({"a": x, "b": x.repeat(1, 3, 1, 1)}, titles=list("1234"), title="t")
    assert len(figure.axes[0].images) == 8
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert [texts.count(t) for t in ("1", "4", "a", "b")] == [1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"\[4, 3\] images"):
        plots.image_rows({"a": x, "b": x[:3]})
    with pytest.raises(ValueError, match="as many"):
        plots.image_rows({"a": x}, titles=["1"])
