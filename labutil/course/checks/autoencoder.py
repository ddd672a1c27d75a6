"""Exercise checks of lesson 06."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import call, checked, judge


@checked
def conv_size(function: Callable[[int, int, int, int], int]) -> str:
    """`function(n, kernel, stride, padding) -> int`: pixels a side that a convolution makes of n."""
    for n, kernel, stride, padding in ((28, 5, 1, 2), (28, 3, 2, 1), (29, 3, 2, 1), (17, 5, 3, 0), (8, 2, 2, 0)):
        expected = F.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, kernel), stride=stride, padding=padding).shape[2]
        span = n + 2 * padding - kernel
        mistakes = {
            "round down, since a last step that would leave the image is not taken": span / stride + 1,
            "round down, not up": math.ceil(span / stride) + 1,
            "add the 1 after dividing": ((span + 1) // stride, (span + 1) / stride),
            "the kernel also stands at its first place: add 1": (span // stride, span / stride),
            "padding is added on both sides": (n + padding - kernel) // stride + 1,
        }
        case = n, kernel, stride, padding
        judge(call(function, *case), expected, mistakes, f"conv_size{case}", rtol=0)
    return "28 and 27 pixels both become 14: that is why a decoder must be told which of them it owes."


@checked
def decoder_parameters(function: Callable[[Sequence[int], int, int], int]) -> str:
    """`function(filters, channels, kernel) -> int`: learnable numbers of the mirrored decoder, batch norms included."""
    for filters, channels, kernel in (([8, 16, 24], 3, 5), ([128, 256], 1, 3), ([7], 2, 1)):
        chain = [filters[-1], *reversed(filters), channels]
        pairs = [a * b for a, b in pairwise(chain)]
        weights, biases, norms = sum(pairs) * kernel**2, sum(chain[1:]), 2 * sum(filters)
        expected = weights + biases + norms
        first, last = pairs[0] * kernel**2 + filters[-1], pairs[-1] * kernel**2 + channels
        no_first = expected - first, expected - first - 2 * filters[-1]  # with its batch norm, and without
        mistakes = {
            "a kernel has height times width numbers: kernel**2": sum(pairs) * kernel + biases + norms,
            "the biases are missing, one for each output channel": weights + norms,
            "the batch norms are missing: a scale and a shift for each channel": weights + biases,
            "a batch norm learns two numbers a channel, a scale and a shift": expected - norms // 2,
            "running means and variances are not learned (Keras counts them, we do not)": expected + norms,
            "no batch norm follows the last convolution": expected + 2 * channels,
            "the last convolution, which makes the image's channels, is missing": expected - last,
            "the first layer of the decoder keeps the number of channels (256 to 256 in the table): one convolution "
            "for each of the encoder's, and one that makes the image": no_first,
        }
        case = filters, channels, kernel
        judge(call(function, *case), expected, mistakes, f"decoder_parameters{case}", rtol=0)
    return "Three quarters of the reference model are decoder, and thrown away once the encoder is wanted."


@checked
def bce_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, x) -> same shape`: derivative of the mean binary cross-entropy with respect to the logits."""
    g = torch.Generator().manual_seed(0)
    logits, x = 2 * torch.randn(3, 1, 4, 4, generator=g), torch.rand(3, 1, 4, 4, generator=g)
    p = logits.sigmoid()
    total, slope = p - x, p * (1 - p)
    expected = total / x.numel()
    by_p = "that is the derivative with respect to p; the chain rule's p (1 - p) cancels its denominator"
    mistakes = {
        "the loss is a mean over all pixels of all images, so divide by their number": total,
        "divide by the number of pixels in the batch, not by the number of images": total / 3,
        "divide by the number of images as well: the loss is a mean over the batch": total / 16,
        "the sign is turned round: a logit that is too high must fall": -expected,
        by_p: expected / slope,
        "that is MSE's gradient (up to a factor): for cross-entropy the p (1 - p) cancels": expected * slope,
        "p is the sigmoid of the logits": (logits - x) / x.numel(),
    }
    mistakes = {reason: (value, 2 * value) for reason, value in mistakes.items()}
    judge(call(function, logits, x), expected, mistakes, atol=1e-6)
    return "It fades only where p = x. MSE's has the factor p (1 - p) as well, and so fades where p is wrong and sure."


@checked
def pca_error(function: Callable[[Tensor, int], Tensor]) -> str:
    """`function(x, k) -> scalar`: least mean squared error of any linear code of k numbers; x (N, D) float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64) * torch.tensor([80, 60, 10, 8, 1, 0.5]) + 20
    values = torch.linalg.svdvals(x - x.mean(0))
    squares, raw = values**2, torch.linalg.svdvals(x) ** 2
    for k in (2, 4):
        left = squares[k:].sum()
        mistakes = {
            "that is what the code keeps; the error is what it leaves out": squares[:k].sum() / x.numel(),
            "the mean is over the D values as well": left / 40,
            "the mean is over N images, not N - 1": left / (39 * 6),
            "take the mean off first: it costs the code nothing": raw[k:].sum() / x.numel(),
            "squared errors want squared singular values": values[k:].sum() / x.numel(),
            "one component too many is kept": squares[k + 1 :].sum() / x.numel(),
            "that is the error of the mean image, k = 0": squares.sum() / x.numel(),
        }
        judge(call(function, x, k), left / x.numel(), mistakes, f"for k = {k}", rtol=1e-3)  # pca_lowrank is not exact
    return "A linear autoencoder needs no training; what a deep one gains over this line is what its layers are worth."
