"""The autoencoder against an independent writing of it, its losses against slow loops."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from labutil import evaluation, losses, models, networks
from labutil.losses import reconstruction_loss
from labutil.models import layer_table
from labutil.networks import ConvAutoencoder


def test_the_reference_model_has_the_reports_parameters():
    table = layer_table(ConvAutoencoder(), (1, 28, 28))
    assert models.count_parameters(models.ConvAutoencoder(channels=1, filters=(128, 256))) == 1_184_257
    assert table.parameters.sum() == 1_184_257
    # Keras counts running means and variances among the parameters.
    assert table.parameters.sum() + table.statistics.sum() == 1_185_793
    shapes = {(row.layer, row.output) for row in table.itertuples()}
    assert {("Conv2d", "128 x 28 x 28"), ("Conv2d", "256 x 14 x 14"), ("Upsample", "128 x 28 x 28")} <= shapes
    assert table.output.iloc[-1] == "1 x 28 x 28"


@pytest.mark.parametrize("halving", networks.HALVINGS)
@pytest.mark.parametrize("batch_norm", networks.BATCH_NORMS)
@given(
    channels=st.sampled_from([1, 3]),
    filters=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    kernel_size=st.sampled_from([1, 3, 5]),
    code_size=st.none() | st.integers(1, 4),
)
@settings(max_examples=8, deadline=None)
def test_any_size_comes_back(halving, batch_norm, channels, filters, height, width, kernel_size, code_size):
    model = ConvAutoencoder(channels, filters, (height, width), kernel_size, 0.1, batch_norm, halving, code_size)
    x = torch.rand(2, channels, height, width)
    x_hat, h = model(x), model.encode(x)
    assert x_hat.shape == x.shape
    assert 0 <= x_hat.min() <= x_hat.max() <= 1
    assert h.shape == (2, model.num_features)
    assert model.num_features == (code_size or filters[-1] * model.encoder.feature_maps(x)[0, 0].numel())
    widths = [channels, *filters, *filters[::-1], channels]
    expected = sum(a * b * kernel_size**2 + b for a, b in pairwise(widths)) + 4 * sum(filters) * (batch_norm != "none")
    if code_size:
        maps = filters[-1] * model.encoder.feature_maps(x)[0, 0].numel()
        expected += 2 * maps * code_size + code_size + maps
    assert models.count_parameters(model) == expected


@pytest.mark.parametrize("size", [(28, 28), (29, 29), (33, 33), (96, 70)])
@pytest.mark.parametrize("halving", networks.HALVINGS)
def test_odd_sizes_lose_no_pixel(size, halving):
    """A change of any corner of the image reaches the code."""
    torch.manual_seed(0)
    model = ConvAutoencoder(1, (3, 4), size, halving=halving, batch_norm="none").eval()
    with torch.no_grad():
        model.encoder.layers[0].weight.fill_(1.0)
        x = torch.zeros(1, 1, *size)
        h = model.encode(x)
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            changed = x.clone()
            changed[0, 0, corner[0], corner[1]] = 5.0
            assert not torch.equal(model.encode(changed), h)


@pytest.mark.parametrize("batch_norm", networks.BATCH_NORMS)
def test_forward_equals_an_independent_writing(batch_norm):
    torch.manual_seed(0)
    model = ConvAutoencoder(1, (4, 6), 28, dropout=0.3, batch_norm=batch_norm)
    model(torch.rand(16, 1, 28, 28))  # moves the running statistics away from 0 and 1
    model.eval()
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)] or [None] * 4

    def norm(x, m):
        if m is None:
            return x
        mean, var = m.running_mean[:, None, None], m.running_var[:, None, None]
        return m.weight[:, None, None] * (x - mean) / (var + m.eps).sqrt() + m.bias[:, None, None]

    def layer(x, i, resize):
        x = F.conv2d(x, convs[i].weight, convs[i].bias, padding=1)
        if batch_norm == "pool":
            return norm(resize(x.clamp(min=0)), norms[i])
        return resize(norm(x, norms[i]).clamp(min=0))

    def down(x):
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))

    def up(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = torch.rand(3, 1, 28, 28)
    y = x
    for i, resize in enumerate((down, down, up, up)):
        y = layer(y, i, resize)
    y = F.conv2d(y, convs[4].weight, convs[4].bias, padding=1).sigmoid()
    torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filters": []}, "filters="),
        ({"filters": [4, 0]}, "filters="),
        ({"filters": [2] * 6, "image_size": 28}, "too often"),
        ({"kernel_size": 2}, "must be odd"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"code_size": 0}, "code_size=0"),
        ({"channels": 0}, "channels=0"),
        ({"batch_norm": "cnov"}, "did you mean 'conv'"),
        ({"halving": "max"}, "halving='max'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        ConvAutoencoder(**changed)


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_losses_equal_slow_loops_in_value_and_gradient(loss):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 2, 4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    x = torch.rand(3, 2, 4, 5, generator=g, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0, 1
    total, slopes = 0.0, []
    for z, target in zip(logits.flatten().tolist(), x.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        bce = -target * math.log(p) - (1 - target) * math.log(1 - p)
        total += bce if loss == "bce" else (p - target) ** 2
        slopes.append((p - target) * (1 if loss == "bce" else 2 * p * (1 - p)))
    value = reconstruction_loss(logits, x, loss)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(total / x.numel(), rel=1e-9)
    expected = torch.tensor(slopes, dtype=torch.float64).view_as(x) / x.numel()
    torch.testing.assert_close(gradient, expected)


def test_losses_are_safe_and_least_at_the_image():
    extreme, x = torch.tensor([[[[1000.0, -1000.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    assert reconstruction_loss(extreme, x, "bce").item() == pytest.approx(1000)
    assert reconstruction_loss(-extreme, x, "bce").item() == 0
    assert reconstruction_loss(extreme, x, "mse").item() == 1
    gray = torch.full((1, 1, 2, 2), 0.3)
    z = torch.logit(gray).requires_grad_()
    for loss in losses.LOSSES:
        (gradient,) = torch.autograd.grad(reconstruction_loss(z, gray, loss), z)
        assert gradient.abs().max() < 1e-6
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert reconstruction_loss(z, gray, "bce").item() == pytest.approx(entropy, rel=1e-5)
    with pytest.raises(ValueError, match="did you mean 'mse'"):
        reconstruction_loss(z, gray, "mes")


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_reconstruction_error_is_the_loss_of_each_image(loss):
    model = ConvAutoencoder(3, (3, 4), 12).eval()
    images = torch.randint(0, 256, (5, 3, 12, 12), dtype=torch.uint8)
    found = evaluation.predict(losses.ReconstructionError(model, loss), images, batch_size=2, precision="fp32")
    expected = [reconstruction_loss(model.decode(model.encode(x)), x, loss) for x in (images / 255).split(1)]
    torch.testing.assert_close(found, torch.stack(expected).detach())
