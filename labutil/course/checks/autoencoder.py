"""Exercise checks of lesson 06."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil.course.checks.frame import Wrong, call, checked, judge, look_up, scalar, tensor


@checked
def conv_size(function: Callable[[int, int, int, int], int]) -> str:
    """`function(n, kernel, stride, padding) -> int`: pixels a side that a convolution makes of n."""
    for n, kernel, stride, padding in ((28, 5, 1, 2), (28, 3, 2, 1), (29, 3, 2, 1), (17, 5, 3, 0), (8, 2, 2, 0)):
        expected = F.conv1d(torch.zeros(1, 1, n), torch.zeros(1, 1, kernel), stride=stride, padding=padding).shape[2]
        answer = scalar(call(function, n, kernel, stride, padding))
        if answer == expected:
            continue
        case, span = f"conv_size({n}, {kernel}, {stride}, {padding})", n + 2 * padding - kernel
        if math.isclose(answer, span / stride + 1):
            raise Wrong(f"{case}: round down, since a last step that would leave the image is not taken")
        if answer == math.ceil(span / stride) + 1:
            raise Wrong(f"{case}: round down, not up")
        if stride > 1 and answer in {(span + 1) // stride, (span + 1) / stride}:
            raise Wrong(f"{case}: add the 1 after dividing")
        if answer in {span // stride, span / stride}:
            raise Wrong(f"{case}: the kernel also stands at its first place: add 1")
        if answer == (n + padding - kernel) // stride + 1:
            raise Wrong(f"{case}: padding is added on both sides")
        raise Wrong(f"{case} is {expected}, yours is {answer:g}")
    return "28 and 27 pixels both become 14: that is why a decoder must be told which of them it owes."


@checked
def decoder_parameters(function: Callable[[Sequence[int], int, int], int]) -> str:
    """`function(filters, channels, kernel) -> int`: learnable numbers of the mirrored decoder, batch norms included."""
    for filters, channels, kernel in (((8, 16, 24), 3, 5), ((128, 256), 1, 3), ((7,), 2, 1)):
        chain = [filters[-1], *reversed(filters), channels]
        pairs = list(pairwise(chain))
        weights, biases = sum(a * b * kernel**2 for a, b in pairs), sum(chain[1:])
        norms = 2 * sum(filters)
        expected = weights + biases + norms
        answer = scalar(call(function, list(filters), channels, kernel))
        narrow = sum(a * b * kernel for a, b in pairs)
        first, last = (a * b * kernel**2 + b for a, b in (pairs[0], pairs[-1]))
        no_first = (
            "the first layer of the decoder keeps the number of channels (256 to 256 in the table): one convolution "
            "for each of the encoder's, and one that makes the image"
        )
        mistakes = {
            "a kernel has height times width numbers: kernel**2": narrow + biases + norms,
            "the biases are missing, one for each output channel": weights + norms,
            "the batch norms are missing: a scale and a shift for each channel": weights + biases,
            "a batch norm learns two numbers a channel, a scale and a shift": weights + biases + norms // 2,
            "running means and variances are not learned (Keras counts them, we do not)": weights + biases + 2 * norms,
            "no batch norm follows the last convolution": expected + 2 * channels,
            "the last convolution, which makes the image's channels, is missing": expected - last,
            no_first: (expected - first, expected - first - 2 * filters[-1]),
        }
        judge(answer, expected, mistakes, f"decoder_parameters({list(filters)}, {channels}, {kernel})", rtol=0)
    return "Three quarters of the reference model are decoder, and thrown away once the encoder is wanted."


@checked
def bce_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """`function(logits, x) -> same shape`: derivative of the mean binary cross-entropy with respect to the logits."""
    g = torch.Generator().manual_seed(0)
    logits, x = 2 * torch.randn(3, 1, 4, 4, generator=g), torch.rand(3, 1, 4, 4, generator=g)
    p, count = logits.sigmoid(), x.numel()
    expected = ((p - x) / count).double()
    answer = tensor(call(function, logits.clone(), x.clone()), (3, 1, 4, 4))
    if torch.allclose(answer, expected, atol=1e-6):
        return (
            "It fades only where p = x. MSE's has the factor p (1 - p) as well, and so fades where p is wrong and sure."
        )
    mistakes = {
        "the loss is a mean over all pixels of all images, so divide by their number": (p - x),
        "divide by the number of pixels in the batch, not by the number of images": (p - x) / 3,
        "divide by the number of images as well: the loss is a mean over the batch": (p - x) / 16,
        "the sign is turned round: a logit that is too high must fall": (x - p) / count,
        "that is the derivative with respect to p; the chain rule's p (1 - p) cancels its denominator": (p - x)
        / (p * (1 - p))
        / count,
        "that is MSE's gradient (up to a factor): for cross-entropy the p (1 - p) cancels": (p - x)
        * p
        * (1 - p)
        / count,
        "p is the sigmoid of the logits": (logits - x) / count,
    }
    look_up(answer, {reason: (value, 2 * value) for reason, value in mistakes.items()}, atol=1e-6)
    raise Wrong(f"for the first pixel it is {expected.flatten()[0]:.5f}, yours is {answer.flatten()[0]:.5f}")


@checked
def pca_error(function: Callable[[Tensor, int], Tensor]) -> str:
    """`function(x, k) -> scalar`: least mean squared error of any linear code of k numbers; x (N, D) float64."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, generator=g, dtype=torch.float64) * torch.tensor([80, 60, 10, 8, 1, 0.5]) + 20
    centred = x - x.mean(0)
    squares = torch.linalg.svdvals(centred) ** 2
    for k in (2, 4):
        expected = (squares[k:].sum() / x.numel()).item()
        answer = scalar(call(function, x.clone(), k))
        raw = torch.linalg.svdvals(x) ** 2
        mistakes = {
            "that is what the code keeps; the error is what it leaves out": (squares[:k].sum() / x.numel()).item(),
            "the mean is over the D values as well": (squares[k:].sum() / 40).item(),
            "the mean is over N images, not N - 1": (squares[k:].sum() / (39 * 6)).item(),
            "take the mean off first: it costs the code nothing": (raw[k:].sum() / x.numel()).item(),
            "squared errors want squared singular values": (squares[k:].sqrt().sum() / x.numel()).item(),
            "one component too many is kept": (squares[k + 1 :].sum() / x.numel()).item(),
            "that is the error of the mean image, k = 0": (squares.sum() / x.numel()).item(),
        }
        judge(answer, expected, mistakes, f"for k = {k}", rtol=1e-3)  # torch.pca_lowrank is not exact
    return (
        "So a linear autoencoder needs no training; what a deep one gains over this line is what its layers are worth."
    )
