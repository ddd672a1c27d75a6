"""Policies and corruptions against torchvision, PIL and slow loops at given draws, and the distributions of what is
drawn; and what holds for every augmentation, `Augment` too: any batch, any dtype, its own generator."""

import copy
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageOps
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode

from labutil import device, policies
from labutil.augment import Augment
from labutil.corruptions import CORRUPTIONS, corrupt
from labutil.data import cells
from labutil.policies import (
    AUG_MIX,
    OPERATIONS,
    RAND_AUGMENT,
    aug_mix,
    augmentation,
    cut_mix,
    mix_up,
    rand_augment,
)

BILINEAR = InterpolationMode.BILINEAR
SHAPES = [(4, 3, 32, 32), (3, 1, 28, 28), (2, 3, 24, 40)]
LABELLED = {"mix_up": mix_up, "cut_mix": cut_mix}
EVERYTHING = Augment(
    crop_scale=(0.2, 0.9), flip=0.5, vertical_flip=0.5, rotation=30, zoom=0.3, translation=0.2, brightness=0.4,
    contrast=0.4, saturation=0.4, hue=0.2, grayscale=0.5, channel_shift=0.2, stretch=(1.5, 0.0), stretch_p=0.5,
    blur=(0.5, 1.5), noise=0.1,
)  # fmt: skip
POLICIES = {
    "augment": EVERYTHING,
    "rand_augment": lambda x, g=None: rand_augment(x, draws=3, magnitude=0.6, generator=g),
    "aug_mix": lambda x, g=None: aug_mix(x, severity=0.6, generator=g),
    "mix_up": lambda x, g=None: mix_up(x, torch.arange(len(x)), len(x) or 1, 1.0, g)[0],
    "cut_mix": lambda x, g=None: cut_mix(x, torch.arange(len(x)), len(x) or 1, 1.0, g)[0],
    "noise": lambda x, g=None: corrupt(x, "noise", 3, g),
    "shot_noise": lambda x, g=None: corrupt(x, "shot_noise", 3, g),
}
CALLS = POLICIES | {
    kind: lambda x, g=None, kind=kind: corrupt(x, kind, 3, g) for kind in CORRUPTIONS if kind not in POLICIES
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(n: int = 4, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    """uint8 with another range of levels in every channel, so that stretching and equalizing them do something."""
    spread = torch.linspace(0.3, 0.8, n * channels).view(n, channels, 1, 1)
    x = torch.rand(n, channels, height, width, generator=rng(1)) ** 2 * spread + 0.15
    return (x * 255).round().to(torch.uint8)


def images(*shape: int) -> Tensor:
    return pixels(*shape).float().div_(255)


def apply_each(x: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    y = x.clone()
    policies.apply_operations(y, operations, amounts)
    return y


def apply(x: Tensor, name: str, amount: float = 0.0) -> Tensor:
    return apply_each(x, torch.full((len(x),), OPERATIONS.index(name)), torch.full((len(x),), float(amount)))


def with_pil(x: Tensor, function) -> Tensor:
    """A function of PIL images on each of x, uint8 (N, C, H, W)."""
    results = [np.array(function(Image.fromarray(np.squeeze(i.permute(1, 2, 0).numpy())))) for i in x]
    return torch.stack([torch.from_numpy(r.reshape(*r.shape[:2], -1)).permute(2, 0, 1) for r in results])


def levels(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8)


def mirrored(x: Tensor, function) -> Tensor:
    """torchvision's function on a copy of x with mirrored surroundings."""
    pad = 22
    height, width = x.shape[2:]
    return tv.crop(function(tv.pad(x, [pad], padding_mode="symmetric")), pad, pad, height, width)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("magnitude", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_geometry_equals_torchvision(shape, magnitude):
    x = images(*shape)
    right, down = (round(150 / 331 * magnitude * side, 6) for side in (shape[3], shape[2]))
    slant = math.degrees(math.atan(0.3 * magnitude))
    for name, (angle, translate, shear) in {
        "rotate": (-30 * magnitude, [0, 0], [0.0, 0.0]),  # torchvision's affine turns the other way than its rotate
        "shear_x": (0, [0, 0], [slant, 0.0]),
        "shear_y": (0, [0, 0], [0.0, slant]),
        "translate_x": (0, [right, 0], [0.0, 0.0]),
        "translate_y": (0, [0, down], [0.0, 0.0]),
    }.items():
        ours = apply(x, name, RAND_AUGMENT[name][1] * magnitude)
        theirs = mirrored(x, lambda p, a=(angle, translate, 1.0, shear): tv.affine(p, *a, interpolation=BILINEAR))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("amount", [-0.9, -0.27, 0.0, 0.27, 0.9])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("color", tv.adjust_saturation),
        ("contrast", tv.adjust_contrast),
        ("brightness", tv.adjust_brightness),
        ("sharpness", tv.adjust_sharpness),
    ],
)
def test_colour_and_sharpness_equal_torchvision(shape, amount, name, theirs):
    x = images(*shape)
    torch.testing.assert_close(apply(x, name, amount), theirs(x, 1 + amount), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_on_levels_equal_pil(shape):
    u = pixels(*shape)
    for bits in range(1, 9):
        expected = with_pil(u, lambda i, b=bits: ImageOps.posterize(i, b))
        assert torch.equal(levels(apply(u / 255, "posterize", bits)), expected)
    for threshold in [0, 1, 100, 179.2, 255, 256]:
        expected = with_pil(u, lambda i, t=threshold: ImageOps.solarize(i, t))
        assert torch.equal(levels(apply(u / 255, "solarize", threshold)), expected)
    assert torch.equal(levels(apply(u / 255, "equalize")), with_pil(u, ImageOps.equalize))
    stretched = apply(u / 255, "autocontrast")
    assert (stretched * 255 - with_pil(u, ImageOps.autocontrast)).abs().max() <= 1  # PIL rounds down
    torch.testing.assert_close(stretched, tv.autocontrast(u / 255))


def test_values_between_levels_and_fractions_of_bits_are_rounded():
    u = pixels(2, 3, 20, 31)
    between = u / 255 + (torch.rand(u.shape, generator=rng()) - 0.5) * 0.9 / 255
    assert torch.equal(levels(apply(between, "equalize")), with_pil(u, ImageOps.equalize))
    assert torch.equal(levels(apply(between, "posterize", 6.8)), tv.posterize(u, 7))
    assert torch.equal(levels(apply(between, "posterize", 6.4)), tv.posterize(u, 6))


def test_each_image_gets_its_own_operation_and_amount():
    n = 3 * len(OPERATIONS)
    x = images(n, 3, 18, 20)  # PIL's equalize leaves images of fewer than 256 pixels alone
    operations = torch.randperm(n, generator=rng(2)) % len(OPERATIONS)
    ends = torch.tensor([RAND_AUGMENT[OPERATIONS[i]] for i in operations])
    amounts = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * torch.rand(n, generator=rng(3))
    together = apply_each(x, operations, amounts)
    for i in range(n):
        alone = apply_each(x[i : i + 1], operations[i : i + 1], amounts[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)
    changed = (together - x).abs().flatten(1).amax(1) > 1e-3
    identity = operations == OPERATIONS.index("identity")
    assert not changed[identity].any() and changed[~identity].sum() > 2.5 * (len(OPERATIONS) - 1)


@pytest.mark.parametrize(("ours", "theirs"), [(RAND_AUGMENT, T.RandAugment), (AUG_MIX, T.AugMix)])
def test_ranges_are_torchvisions(ours, theirs):
    space = theirs._AUGMENTATION_SPACE if theirs is T.RandAugment else theirs._PARTIAL_AUGMENTATION_SPACE
    assert {name.replace("_", "") for name in ours} == {name.lower() for name in space}
    height, width, bins = 662, 331, 31
    for name, (function, signed) in space.items():
        start, end = next(v for k, v in ours.items() if k.replace("_", "") == name.lower())
        magnitudes = function(bins, height, width)
        if magnitudes is None:
            assert start == end == 0
            continue
        unit = {"TranslateX": width, "TranslateY": height, "Solarize": 1 / 256}.get(name, 1)
        expected = torch.linspace(start, end, bins) * unit
        if name == "Posterize":
            if theirs is T.AugMix:
                continue  # goes down to 0 bits there
            expected = expected.round().int()
        torch.testing.assert_close(magnitudes, expected)
        assert signed == (start == 0)


def test_every_operation_and_direction_is_drawn_equally_often():
    """End to end: each result is recognised among those of all 14 operations, both ways."""
    n, magnitude = 2800, 0.4
    x = images(1, 3, 18, 20)
    candidates = []
    for i, (name, (start, end)) in enumerate(RAND_AUGMENT.items()):
        amount = start + (end - start) * magnitude
        for sign in (1, -1) if start == 0 and end else (1,):
            candidates.append((i, sign, apply(x, name, sign * amount)))
    results = rand_augment(x.expand(n, -1, -1, -1), draws=1, magnitude=magnitude, generator=rng())
    match = torch.stack([(results - y).abs().flatten(1).amax(1) < 1e-5 for _, _, y in candidates], dim=1)
    assert (match.sum(1) == 1).all()
    counts = match.sum(0)
    per_operation = torch.zeros(14, dtype=torch.int64)
    per_operation.index_add_(0, torch.tensor([i for i, _, _ in candidates]), counts)
    assert stats.chisquare(per_operation).pvalue > 1e-3
    both_ways = [i for i, (start, end) in enumerate(RAND_AUGMENT.values()) if start == 0 and end]
    assert len(both_ways) == 9
    for i in both_ways:
        up, down = (c.item() for (j, _, _), c in zip(candidates, counts, strict=True) if j == i)
        assert stats.binomtest(up, up + down).pvalue > 1e-3


@pytest.fixture
def drawn(monkeypatch) -> dict[str, list]:
    """What `_draw` and `_dirichlet` return, in order."""
    record = {"_draw": [], "_dirichlet": []}

    def recording(function, calls: list):
        def recorded(*args):
            calls.append(function(*args))
            return copy.deepcopy(calls[-1])

        return recorded

    for name, calls in record.items():
        monkeypatch.setattr(policies, name, recording(getattr(policies, name), calls))
    return record


@pytest.mark.parametrize("shape", SHAPES)
def test_aug_mix_equals_a_loop_over_images_and_chains(drawn, shape):
    x = images(*shape)
    mixed = aug_mix(x, severity=0.8, generator=rng())
    lengths = torch.randint(1, 4, (3 * len(x),), generator=rng())  # the first draw
    beta, dirichlet = drawn["_dirichlet"]
    for i in range(len(x)):
        expected = beta[i, 1] * x[i : i + 1]
        for k in range(3):
            chain, at = x[i : i + 1], k * len(x) + i
            for operations, amounts in drawn["_draw"][: lengths[at]]:
                chain = apply_each(chain, operations[at : at + 1], amounts[at : at + 1])
            expected = expected + beta[i, 0] * dirichlet[i, k] * chain
        torch.testing.assert_close(mixed[i : i + 1], expected, atol=1e-4, rtol=0)


def test_aug_mix_draws_depth_operation_and_magnitude_uniformly(monkeypatch, drawn):
    x = images(2000, 1, 4, 4)
    aug_mix(x, severity=0.5, generator=rng())
    operations, amounts = (torch.cat(parts) for parts in zip(*drawn["_draw"], strict=True))
    counts = operations.bincount(minlength=len(OPERATIONS))
    names = [OPERATIONS[i] for i in counts.nonzero()[:, 0]]
    assert set(names) == set(AUG_MIX) and stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    angles = amounts[operations == OPERATIONS.index("rotate")]
    assert stats.kstest(angles.numpy(), stats.uniform(-15, 30).cdf).pvalue > 1e-3
    thresholds = amounts[operations == OPERATIONS.index("solarize")]
    assert stats.kstest(thresholds.numpy(), stats.uniform(128, 128).cdf).pvalue > 1e-3
    # With an operation that halves and weights of 1 the result tells how many operations a chain had.
    monkeypatch.setattr(policies, "AUG_MIX", {"brightness": (-0.5, -0.5)})
    monkeypatch.setattr(policies, "_dirichlet", lambda n, k, alpha, g: torch.eye(k)[:1].repeat(n, 1))
    depths = -aug_mix(torch.ones(3000, 1, 3, 3), generator=rng())[:, 0, 0, 0].log2()
    assert stats.chisquare(depths.round().long().bincount()[1:]).pvalue > 1e-3
    assert depths.max() == 3 and depths.min() == 1


@pytest.mark.parametrize("shape", [*SHAPES, (1, 3, 8, 8), (40, 1, 7, 12), (30, 3, 1, 5)])
@pytest.mark.parametrize("mix", LABELLED)
def test_mixes_equal_a_loop(mix, shape):
    x, (n, _, height, width) = images(*shape), shape
    labels = torch.arange(n) % 3
    mixed, soft = LABELLED[mix](x, labels, 3, 0.8, rng(4))
    g, share, other = policies._draw_pairs("", x, labels, 3, 0.8, rng(4))
    assert sorted(other.tolist()) == list(range(n))
    rows, columns = (torch.randint(side, (n,), generator=g).tolist() for side in (height, width))
    for i, j in enumerate(other.tolist()):
        kept = share[i].item()
        if mix == "mix_up":
            expected = kept * x[i] + (1 - kept) * x[j]
        else:
            tall, wide = (int(side * math.sqrt(1 - kept)) // 2 for side in (height, width))
            top, bottom = max(0, rows[i] - tall), min(height, rows[i] + tall)
            left, right = max(0, columns[i] - wide), min(width, columns[i] + wide)
            expected = x[i].clone()
            expected[:, top:bottom, left:right] = x[j][:, top:bottom, left:right]
            kept = 1 - (bottom - top) * (right - left) / (height * width)
        torch.testing.assert_close(mixed[i], expected, atol=1e-6, rtol=0)
        weights = torch.zeros(3)
        weights[labels[i]] += kept
        weights[labels[j]] += 1 - kept
        torch.testing.assert_close(soft[i], weights, atol=1e-6, rtol=0)


def test_dirichlet_weights_have_their_mean_and_variance():
    for alpha, k in [(1.0, 3), (0.3, 4), (5.0, 2)]:
        weights = policies._dirichlet(20000, k, alpha, rng(7))
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(1), torch.ones(20000))
        torch.testing.assert_close(weights.mean(0), torch.full((k,), 1 / k), atol=0.01, rtol=0)
        variance = (k - 1) / (k**2 * (k * alpha + 1))
        torch.testing.assert_close(weights.var(0), torch.full((k,), variance), atol=0, rtol=0.05)
        assert stats.kstest(weights[:, 0].numpy(), stats.beta(alpha, (k - 1) * alpha).cdf).pvalue > 1e-3
    smallest = policies._dirichlet(20000, 2, 0.01, rng())[:, 0]
    assert smallest.mean().item() == pytest.approx(0.5, abs=0.015)
    assert smallest.var().item() == pytest.approx(1 / (4 * 1.02), rel=0.01)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_zero_is_the_image_and_more_is_more(kind):
    x = torch.as_tensor(cells.generate(6, 0)[0]).float() / 255
    assert corrupt(x, kind, 0) is x
    change = [(corrupt(x, kind, s, rng()) - x).square().mean().item() for s in range(6)]
    assert change == sorted(set(change)), change
    gray = images(2, 1, 28, 28)
    assert (corrupt(gray, kind, 5, rng()) - gray).abs().max().item() > 0.05 or kind == "saturation"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation", "blur"])
def test_colour_and_blur_equal_torchvision(kind, severity, channels):
    x = images(4, channels, 20, 30)
    amount = CORRUPTIONS[kind][severity - 1]
    if kind == "blur":  # taps beyond 3 sigma hold 0.3% of the Gaussian
        expected, atol = tv.gaussian_blur(x, [11, 11], [amount * 20] * 2), 5e-3
    else:
        expected, atol = getattr(tv, f"adjust_{kind}")(x, amount), 1e-5
    torch.testing.assert_close(corrupt(x, kind, severity), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (3, 1, 64, 16), (2, 3, 32, 128)])  # no pixel is near to two
def test_pixelate_equals_pil(severity, shape):
    u = pixels(*shape)
    height, width = shape[2:]
    small = [round(side * CORRUPTIONS["pixelate"][severity - 1]) for side in (width, height)]

    def shrink_and_enlarge(image: Image.Image) -> Image.Image:
        return image.resize(small, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.NEAREST)

    ours = corrupt(u / 255, "pixelate", severity) * 255
    assert (ours - with_pil(u, shrink_and_enlarge)).abs().max() < 1.05  # PIL rounds twice, across and down


def test_pixelate_of_any_size_has_as_many_pixels_as_asked():
    y = corrupt(torch.rand(1, 1, 37, 50, generator=rng()), "pixelate", 4)[0, 0]  # 0.3 of the side
    assert (y.diff(dim=0).abs().amax(1) > 0).sum() == 11 - 1 and (y.diff(dim=1).abs().amax(0) > 0).sum() == 15 - 1
    assert corrupt(torch.rand(2, 3, 1, 2, generator=rng()), "pixelate", 5).shape == (2, 3, 1, 2)


@pytest.mark.parametrize("severity", range(1, 6))
def test_noises_have_their_mean_and_variance(severity):
    x = torch.full((2, 3, 90, 90), 0.5)
    x[1] = 0.25
    std = CORRUPTIONS["noise"][severity - 1]
    noise = corrupt(x[:1], "noise", severity, rng(1)) - 0.5
    # What is clipped at 0 and 1 is missing from the deviation: little even at severity 5, 1.9 deviations away.
    assert noise.std().item() == pytest.approx(std, rel=0.02 if severity < 5 else 0.06)
    assert noise.mean().abs() < 0.01
    photons = CORRUPTIONS["shot_noise"][severity - 1]
    y = corrupt(x, "shot_noise", severity, rng(2)).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.tensor([0.5, 0.25]), atol=0.01, rtol=0)
    torch.testing.assert_close(y.var(1), torch.tensor([0.5, 0.25]) / photons, atol=0, rtol=0.06)
    counts = y * photons
    clipped = y == 1
    torch.testing.assert_close(counts[~clipped], counts[~clipped].round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("shape", [(0, 3, 16, 16), (1, 3, 33, 17), (1, 1, 28, 28), (5, 3, 2, 3), (3, 1, 1, 1)])
def test_any_shape_range_dtype_and_layout(call, shape):
    x = torch.rand(shape, generator=rng(9))
    before = x.clone()
    y = call(x, rng())
    assert y.shape == x.shape and y.dtype == torch.float32 and y.device == x.device and y.is_contiguous()
    assert torch.equal(x, before)
    if not len(x):
        return
    assert y.isfinite().all() and y.min() >= 0 and y.max() <= 1
    last = call(x.contiguous(memory_format=torch.channels_last), rng())
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bfloat16_autocast_and_inference_mode(call):
    x = (levels(images(8, 3, 20, 24)) // 2 * 2).float() / 256  # 7 bits, which bfloat16 holds
    expected = call(x, rng())
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        y = call(x, rng())
    assert y.dtype == torch.float32 and torch.equal(y, expected)
    low = call(x.bfloat16(), rng())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("call", POLICIES.values(), ids=POLICIES)
def test_reproducible_from_its_generator_and_from_nothing_else(call):
    x, same, before = images(12, 3, 16, 16), rng(5), torch.get_rng_state()
    first = call(x, rng(5))
    assert torch.equal(first, call(x, same))
    assert not torch.equal(first, call(x, same))
    assert not torch.equal(first, call(x, rng(6)))
    assert torch.equal(before, torch.get_rng_state())
    own = []
    for _ in range(2):
        device.seed_everything(3)
        before = torch.get_rng_state()
        own += [call(x), call(x)]
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(own[0], own[2]) and torch.equal(own[1], own[3]) and not torch.equal(own[0], own[1])


@pytest.mark.parametrize("call", [POLICIES[name] for name in ("rand_augment", "aug_mix", "noise", "shot_noise")])
def test_every_image_has_its_own_draw(call):
    y = call(images(1, 3, 16, 16).expand(64, -1, -1, -1), rng())
    assert len({image.numpy().tobytes() for image in y}) > 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: rand_augment(x, draws=0), "rand_augment: draws=0 must be a whole number, at least 1"),
        (lambda x, y: rand_augment(x, draws=1.5), "rand_augment: draws=1.5 must be a whole number"),
        (lambda x, y: rand_augment(x, magnitude=9), "rand_augment: magnitude=9 must be a number, .* at most 1"),
        (lambda x, y: rand_augment(x, magnitude="0.3"), "rand_augment: magnitude='0.3' must be a number"),
        (lambda x, y: aug_mix(x, severity=3), "aug_mix: severity=3 must be"),
        (lambda x, y: mix_up(x, y, 4, alpha=-1), "mix_up: alpha=-1 must be"),
        (lambda x, y: mix_up(x, y, 3), "mix_up: labels from 0 to 3 must be from 0 to n_classes - 1=2"),
        (lambda x, y: mix_up(x, y - 1, 4), "mix_up: labels from -1 to 2 must be"),
        (lambda x, y: cut_mix(x, y[:2], 4), r"cut_mix: labels must be int64 \(4,\), not torch.int64 \(2,\)"),
        (lambda x, y: cut_mix(x, y.float(), 4), r"cut_mix: labels must be int64 \(4,\), not torch.float32"),
        (lambda x, y: corrupt(x, "noises", 1), "kind='noises' \\(did you mean 'noise'\\?\\) is not one of noise, shot"),
        (lambda x, y: corrupt(x, "noise", 6), "corrupt: severity=6 must be a whole number, at least 0 and at most 5"),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        call(images(4, 3, 8, 8), torch.arange(4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_images_are_refused_with_what_to_do(call):
    with pytest.raises(TypeError, match=r"torch.uint8: convert by labutil.device.to_float"):
        call(pixels(2, 3, 8, 8))
    with pytest.raises(TypeError, match="not float64: convert"):
        call(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\) or \(N, 3, H, W\), not"):
        call(torch.zeros(2, 4, 8, 8))


NAMED = {
    "none": Augment(),
    "crop": Augment(crop_padding=4),
    "flip": Augment(crop_padding=4, flip=0.5),
    "geometry": Augment(rotation=180, flip=0.5, vertical_flip=0.5, zoom=0.1),
    "stain": Augment(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    "gray": Augment(grayscale=0.5, brightness=0.4, contrast=0.4),
    "stretch": Augment(stretch=(1.5, 0.0)),
    "rand_augment": lambda x: rand_augment(x, draws=5, magnitude=0.32),
    "aug_mix": lambda x: aug_mix(x, severity=0.5),
    "mix_up": lambda x: mix_up(x, torch.arange(4), 5),
    "cut_mix": lambda x: cut_mix(x, torch.arange(4), 5),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_augmentation_by_name_is_what_it_says(name):
    x, y = images(), torch.arange(4)
    device.seed_everything(3)
    drawn, target = augmentation(name, 5)(x, y)
    device.seed_everything(3)
    expected = NAMED[name](x)
    if isinstance(expected, tuple):
        expected, soft = expected
        assert torch.equal(target, soft)
    else:
        assert target is y
    assert torch.equal(drawn, expected)


def test_augmentations_do_what_their_names_promise():
    x, y = images(), torch.arange(4)
    assert augmentation("none", 5)(x, y)[0] is x
    assert torch.allclose(augmentation("stretch", 5)(x, y)[0], (x * 1.5).clamp(0, 1), atol=1e-6)
    some = x[:1].expand(40, -1, -1, -1)
    gray = (augmentation("gray", 5)(some, y)[0].std(1).amax((1, 2)) < 1e-3).float().mean()
    assert 0.25 < gray < 0.75
    both, stain = (augmentation(name, 5)(some, y)[0] for name in ("geometry+stain", "stain"))
    # The brightest pixel often stays the brightest where only the colour changes, hardly ever where the image turns.
    middle = some.mean(1).flatten(1).argmax(1)[0]
    assert (both.mean(1).flatten(1).argmax(1) == middle).float().mean() < 0.2
    assert (stain.mean(1).flatten(1).argmax(1) == middle).float().mean() > 0.3
    assert torch.equal(augmentation("crop", 5, crop_padding=0)(x, y)[0], x)
    with pytest.raises(ValueError, match=r"^augmentation='stains' \(did you mean 'stain'\?\) is not one of none, crop"):
        augmentation("stains", 5)
