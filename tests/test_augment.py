"""Augmentation against torchvision's functions at fixed parameters, and the distributions of what is drawn."""

import itertools
import math

import pytest
import torch
import torchvision.transforms.v2.functional as tv
from sklearn.datasets import load_sample_images
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from labutil import augment
from labutil.augment import Augment, affine_matrices, apply_colour, colour_matrices, gaussian_blur, warp

BILINEAR = InterpolationMode.BILINEAR
SETTINGS = {
    **{"crop_scale": (0.2, 0.9), "crop_padding": 4, "flip": 0.5, "vertical_flip": 0.5},
    **{"rotation": 30, "zoom": 0.3, "translation": 0.2},
    **{"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2, "grayscale": 0.5, "channel_shift": 0.2},
    **{"stretch": (1.5, 0.0), "blur": (0.5, 1.5), "noise": 0.1},
}
COLOUR_ONLY = ("saturation", "hue", "grayscale")
# Stretch at probability 1 is the same for all, so that "each image its own draw" needs a coin.
DRAWN = {name: {name: value, "stretch_p": 0.5} for name, value in SETTINGS.items()}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_images(n: int = 4, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=rng(1))


def smooth_images(n: int = 2, channels: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    """Waves a third of the image long: what two resamplings lose stays small."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = torch.rand(n, channels, 2, 1, 1, generator=rng(2)) * 2 * math.pi
    return 0.5 + 0.25 * (torch.sin(9 * x + phase[:, :, 0]) + torch.sin(9 * y + phase[:, :, 1]))


def mild_images(n: int = 4) -> torch.Tensor:
    """Colours near the middle, which moderate jitter does not push out of [0, 1]."""
    return 0.35 + 0.3 * noise_images(n)


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    photos = torch.stack([torch.tensor(p) for p in load_sample_images().images]).permute(0, 3, 1, 2)
    return tv.resize(photos.float() / 255, [96, 96], antialias=True)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (96, 96), (20, 33)])
def test_identity_and_flips(height, width):
    x = noise_images(height=height, width=width)
    for flip, vertical in itertools.product((0, 1), (0, 1)):
        y = warp(x, affine_matrices(x, flip=flip, vertical_flip=vertical))
        expected = x.flip([d for d, on in ((3, flip), (2, vertical)) if on])
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)
        if height == width == 32:  # positions are exact where the side is a power of two
            assert torch.equal(y, expected)


@pytest.mark.parametrize(("ours", "theirs"), [("zeros", "constant"), ("reflection", "symmetric"), ("border", "edge")])
@pytest.mark.parametrize("side", [32, 28])
def test_padded_crop_equals_torchvision(ours, theirs, side):
    x = noise_images(3, height=side, width=side)
    padded = tv.pad(x, [4], padding_mode=theirs)
    for left, top in [(0, 0), (-4, 4), (3, -1), (4, -4)]:
        y = warp(x, affine_matrices(x, left=left, top=top), padding_mode=ours)
        expected = tv.crop(padded, top + 4, left + 4, side, side)
        torch.testing.assert_close(y, expected, atol=2e-5, rtol=0)
        if side == 32:
            assert torch.equal(y, expected)


def test_views_that_stay_inside_are_those_that_a_mirror_would_give():
    x, views = noise_images(), augment.simclr_views(24)
    views = Augment(crop_scale=views.crop_scale, size=views.size, flip=views.flip)
    mirrored = warp(x, views._draw_affine(x, (24, 24), rng()), (24, 24), padding_mode="reflection")
    torch.testing.assert_close(views(x, rng()), mirrored.clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (20, 45), (80, 64)])
def test_resized_crop_equals_torchvision(size):
    x = noise_images(3, height=40, width=56)
    left, top, height, width = 7, 5, 24, 31
    theta = affine_matrices(x, size, left=left, top=top, crop_height=height, crop_width=width)
    y = warp(x, theta, size)
    expected = tv.resized_crop(x, top, left, height, width, list(size), antialias=False)
    # Within half a pixel of the crop's edge torchvision repeats the edge; we know what is beside the crop.
    inner = [slice(math.ceil(o / i), -math.ceil(o / i)) for o, i in zip(size, (height, width), strict=True)]
    torch.testing.assert_close(y[..., inner[0], inner[1]], expected[..., inner[0], inner[1]], atol=1e-4, rtol=0)
    whole = warp(x, affine_matrices(x, size), size, padding_mode="border")
    torch.testing.assert_close(whole, tv.resize(x, list(size), antialias=False), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize(
    ("angle", "zoom", "right", "down"),
    [(-75, 1, 0, 0), (10, 1, 0, 0), (30, 1, 0, 0), (90, 1, 0, 0), (-20, 1.3, 4, -3), (0, 0.7, -5, 2)],
)
def test_rotation_zoom_and_shift_equal_torchvision(height, width, angle, zoom, right, down):
    x = noise_images(2, height=height, width=width)
    theta = affine_matrices(x, angle=angle, zoom=zoom, shift_x=right / width, shift_y=down / height)
    # torchvision's affine turns the other way than its rotate, and than ours.
    expected = tv.affine(x, -angle, [right, down], zoom, [0.0, 0.0], interpolation=BILINEAR)
    torch.testing.assert_close(warp(x, theta, padding_mode="zeros"), expected, atol=1e-4, rtol=0)
    if zoom == 1:
        torch.testing.assert_close(expected, tv.rotate(x, angle, interpolation=BILINEAR), atol=1e-4, rtol=0)


def test_one_warp_does_what_one_after_the_other_does():
    x = smooth_images(height=64, width=96)
    size = (96, 96)
    crop = {"left": 20.0, "top": 10.0, "crop_height": 40.0, "crop_width": 50.0}
    steps = [{"flip": 1}, {"angle": 25, "zoom": 1.2}, {"shift_x": 0.1, "shift_y": -0.05}]
    at_once = affine_matrices(x, size, **crop, **{k: v for step in steps for k, v in step.items()})
    y = warp(x, affine_matrices(x, size, **crop), size)
    product = with_bottom_row(affine_matrices(x, size, **crop))
    for step in steps:
        theta = affine_matrices(y, **step)
        y, product = warp(y, theta), product @ with_bottom_row(theta)
    torch.testing.assert_close(at_once, product[:, :2], atol=1e-6, rtol=0)
    difference = (warp(x, at_once, size) - y)[..., 24:-24, 24:-24]  # mirrors at the edges differ
    assert difference.abs().max() < 5e-3


def with_bottom_row(theta: torch.Tensor) -> torch.Tensor:
    return torch.cat([theta, torch.tensor([[[0.0, 0, 1]]]).expand(len(theta), 1, 3)], dim=1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_equal_torchvision(name, factor, channels):
    x = mild_images()[:, :channels]
    ours = apply_colour(x, *colour_matrices(x, **{name: factor}))
    theirs = getattr(tv, f"adjust_{name}")(x, factor)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_order_of_torchvisions_jitter_does_not_matter():
    x = mild_images()
    factors = {"brightness": 1.1, "contrast": 0.7, "saturation": 1.3}
    ours = apply_colour(x, *colour_matrices(x, **factors))
    for order in itertools.permutations(factors):
        y = x
        for name in order:
            y = getattr(tv, f"adjust_{name}")(y, factors[name])
        assert y.min() > 0 and y.max() < 1  # nothing was clamped
        torch.testing.assert_close(ours, y, atol=1e-4, rtol=0)  # torchvision's luma weights sum to 0.9999


def test_colour_of_each_image_is_its_own():
    x = noise_images(3)
    values = {name: torch.tensor([0.5, 1.0, 1.7]) for name in ("brightness", "contrast", "saturation")}
    values["hue"] = torch.tensor([0.1, 0.0, -0.3])
    together = apply_colour(x, *colour_matrices(x, **values))
    for i, one in enumerate(x.split(1)):
        alone = apply_colour(one, *colour_matrices(one, **{k: v[i].item() for k, v in values.items()}))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    assert torch.equal(together[1], x[1])


@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.1, 0.5, 1.0])
def test_hue_turns_colours_about_gray(turn):
    x = noise_images()
    y = apply_colour(x, *colour_matrices(x, hue=turn))
    luma = [tv.rgb_to_grayscale(v) for v in (x, y)]
    torch.testing.assert_close(luma[0], luma[1], atol=5e-4, rtol=0)
    gray = noise_images(channels=1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(apply_colour(gray, *colour_matrices(gray, hue=turn)), gray, atol=5e-4, rtol=0)
    if turn in (0.0, 1.0):
        torch.testing.assert_close(y, x, atol=1e-5, rtol=0)
    else:
        assert (y - x).abs().mean() > 0.05
        back = apply_colour(y, *colour_matrices(y, hue=-turn))
        torch.testing.assert_close(back, x, atol=5e-4, rtol=0)


@pytest.mark.parametrize("turn", [-0.1, -0.05, 0.05, 0.1])
def test_small_hue_shifts_point_where_torchvisions_do(photographs, turn):
    ours = apply_colour(photographs, *colour_matrices(photographs, hue=turn))
    theirs = tv.adjust_hue(photographs, turn)
    # HSV's turn changes luma as well, ours does not: compare what happens to the colour beside it.
    ours, theirs, before = (v - tv.rgb_to_grayscale(v, 3) for v in (ours, theirs, photographs))
    change, expected = (ours - before).flatten(1), (theirs - before).flatten(1)
    assert torch.cosine_similarity(change, expected).min() > 0.85
    assert 0.8 < change.norm() / expected.norm() < 1.5


def test_stretch_is_convert_scale_abs(photographs):
    pixels = (photographs * 255).round()
    expected = (pixels * 1.5).clamp(max=255) / 255
    torch.testing.assert_close(Augment(stretch=(1.5, 0.0))(pixels / 255), expected, atol=1e-6, rtol=0)
    shifted = Augment(stretch=(2.0, -0.5))(photographs)
    torch.testing.assert_close(shifted, (2 * photographs - 0.5).clamp(0, 1), atol=1e-6, rtol=0)


def test_channel_shift_adds_one_value_a_channel():
    x = mild_images(64)
    shift = (Augment(channel_shift=0.2)(x, rng()) - x).flatten(2)
    torch.testing.assert_close(shift, shift[:, :, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert shift.abs().max() <= 0.2 + 1e-6 and shift.std() > 0.1
    correlation = torch.corrcoef(shift[:, :, 0].T)
    assert correlation[~torch.eye(3, dtype=torch.bool)].abs().max() < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_equals_torchvision(channels):
    x = noise_images(4, channels, height=24, width=37)
    sigmas = [0.1, 0.5, 1.0, 2.5]
    ours = gaussian_blur(x, torch.tensor(sigmas), kernel_size=9)
    for i, sigma in enumerate(sigmas):
        torch.testing.assert_close(ours[i], tv.gaussian_blur(x[i], [9, 9], [sigma, sigma]), atol=1e-5, rtol=0)
    torch.testing.assert_close(gaussian_blur(x, 0.0, 9), x, atol=1e-6, rtol=0)


def test_blur_of_images_smaller_than_the_kernel_keeps_their_mean_level():
    x = torch.full((2, 3, 5, 4), 0.3)
    torch.testing.assert_close(gaussian_blur(x, 3.0, 21), x)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("flip", {}),
        ("vertical_flip", {}),
        ("grayscale", {}),
        ("jitter_p", {"hue": 0.1, "contrast": 0.5}),
        ("stretch_p", {"stretch": (1.5, -0.1)}),
        ("blur_p", {"blur": (0.5, 1.0)}),
    ],
)
def test_rates(name, change, p):
    x = noise_images(1, height=8, width=8)
    y = Augment(**{name: p}, **change)(x.expand(4000, -1, -1, -1), rng())
    changed = y[((y - x).abs() > 1e-5).flatten(1).any(1)]
    assert len(changed) / 4000 == pytest.approx(p, abs=0.03)
    expected = {"flip": x.flip(3), "vertical_flip": x.flip(2), "grayscale": tv.rgb_to_grayscale(x, 3)}.get(name)
    if expected is not None:
        torch.testing.assert_close(changed, expected.expand_as(changed), atol=1e-5, rtol=0)


def crops(augment: Augment, height: int, width: int, n: int = 2000) -> torch.Tensor:
    """(n, 4): left, top, right, bottom of the crops that were drawn, in pixels."""
    # A ramp from 0 to 1 across and down, so that values are positions: the crop's ends by extrapolation.
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    out = augment(torch.stack([x, y, y]).expand(n, -1, -1, -1), rng(3)).double()
    ends = []
    for values in (out[:, 0, out.shape[2] // 2] * width, out[:, 1, :, out.shape[3] // 2] * height):
        side = values.shape[1]
        quarter = side // 4
        first, last = values[:, quarter], values[:, side - 1 - quarter]
        beyond = (last - first) / (side - 1 - 2 * quarter) * (quarter + 0.5)
        ends.append((first - beyond, last + beyond))
    return torch.stack([end for pair in zip(*ends, strict=True) for end in pair], dim=1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 36)])
def test_resized_crops_keep_to_scale_and_ratio(height, width):
    left, top, right, bottom = crops(Augment(crop_scale=(0.08, 1.0), size=64), height, width).T
    area, ratio = (right - left) * (bottom - top) / (height * width), (right - left) / (bottom - top)
    assert min(left.min(), top.min()) > -0.02
    assert right.max() < width + 0.02 and bottom.max() < height + 0.02
    assert 0.079 < area.min() < 0.1 and ratio.min() > 0.745 and ratio.max() < 1.34
    if height == width:
        assert 0.97 < area.max() < 1.001
        assert area.mean().item() == pytest.approx(0.54, abs=0.015)  # uniform between 0.08 and 1
        assert ratio.log().mean().abs() < 0.01
        assert (left / (width - (right - left)))[area < 0.8].mean().item() == pytest.approx(0.5, abs=0.03)


def test_small_crops_are_distributed_as_torchvisions():
    ours = crops(Augment(crop_scale=(0.1, 0.6), size=64), 32, 32, n=3000)
    image = torch.zeros(3, 32, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = [RandomResizedCrop.get_params(image, [0.1, 0.6], [3 / 4, 4 / 3]) for _ in range(3000)]
    top, left, height, width = torch.tensor(draws).T
    expected = torch.stack([left, top, left + width, top + height], dim=1).double()
    quantiles = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    difference = ours.quantile(quantiles, dim=0) - expected.quantile(quantiles, dim=0)
    assert difference.abs().max() < 1.2  # pixels; torchvision rounds to whole ones


def test_narrow_images_get_the_largest_crop_of_a_permitted_ratio():
    left, top, right, bottom = crops(Augment(crop_scale=(0.9, 1.0), size=64), 16, 64, n=50).T
    torch.testing.assert_close(bottom - top, torch.full_like(top, 16), atol=0.05, rtol=0)
    torch.testing.assert_close(right - left, torch.full_like(top, 16 * 4 / 3), atol=0.05, rtol=0)


def test_padded_crops_are_whole_pixel_shifts_of_every_kind():
    x = noise_images(1, height=16, width=16)
    padded = tv.pad(x, [2])
    windows = torch.stack([padded[0, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)])
    y = Augment(crop_padding=2, padding_mode="zeros")(x.expand(1000, -1, -1, -1), rng())
    which = (y[:, None] == windows).flatten(2).all(2)
    assert (which.sum(1) == 1).all()
    counts = which.sum(0)
    assert counts.min() > 15 and counts.max() < 75  # 40 expected of each of the 25


@pytest.mark.parametrize(
    ("name", "amount", "low", "high"),
    [("brightness", 0.3, 0.7, 1.3), ("contrast", 0.4, 0.6, 1.4), ("saturation", 1.6, 0.0, 2.6)],
)
def test_jitter_factors_fill_their_range(name, amount, low, high):
    x = mild_images(2000)[:, :, :4, :4]
    matrix, _ = Augment(**{name: amount})._draw_colour(x, rng())
    # Brightness and contrast scale the matrix; saturation scales all but luma, which is left with eigenvalue 1.
    trace = matrix.diagonal(dim1=1, dim2=2).sum(1)
    assert_uniform(trace / 3 if name != "saturation" else (trace - 1) / 2, low, high)


def assert_uniform(values: torch.Tensor, low: float, high: float) -> None:
    """The extremes are reached, nearly, and not passed; each quarter of the range holds a quarter of the values."""
    assert low - 2e-4 <= values.min() and values.max() <= high + 2e-4
    quarters = torch.histc(values, 4, low, high) / len(values)
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), atol=0.04, rtol=0)


def test_rotation_zoom_and_translation_fill_their_range():
    x = noise_images(1, height=8, width=12).expand(2000, -1, -1, -1)
    turned, zoomed, moved = (
        Augment(**{name: amount})._draw_affine(x, (8, 12), rng())
        for name, amount in (("rotation", 30), ("zoom", 0.4), ("translation", 0.2))
    )
    assert_uniform(torch.rad2deg(torch.atan2(turned[:, 1, 0] * 8 / 12, turned[:, 0, 0])), -30, 30)
    assert_uniform(1 / zoomed[:, 0, 0], 0.6, 1.4)
    assert_uniform(moved[:, 0, 2] / 2, -0.2, 0.2)
    assert_uniform(moved[:, 1, 2] / 2, -0.2, 0.2)
    assert torch.corrcoef(moved[:, :, 2].T)[0, 1].abs() < 0.1


def test_hue_and_noise_fill_their_range():
    x = noise_images(2000, height=8, width=8)
    matrix, _ = Augment(hue=0.1)._draw_colour(x, rng())
    assert_uniform(((matrix.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos() / (2 * math.pi), 0, 0.1)
    std = (Augment(noise=0.05)(torch.full((2000, 1, 40, 40), 0.5), rng()) - 0.5).flatten(1).std(1)
    assert std.max() < 0.054
    assert std.mean().item() == pytest.approx(0.025, abs=0.001)
    assert std.std().item() == pytest.approx(0.05 / math.sqrt(12), rel=0.1)


@pytest.mark.parametrize("settings", DRAWN.values(), ids=DRAWN)
def test_every_image_has_its_own_draw(settings):
    y = Augment(**settings)(noise_images(1).expand(64, -1, -1, -1), rng())
    distinct = len({image.numpy().tobytes() for image in y})
    coin = any(name in settings for name in ("flip", "vertical_flip", "grayscale", "stretch"))
    assert distinct == 2 if coin else distinct > 40


@pytest.mark.parametrize("shape", [(0, 3, 32, 32), (5, 1, 28, 28), (2, 3, 17, 40), (2, 3, 2, 3)])
def test_sizes(shape):
    for settings in ({"crop_scale": (0.2, 0.9)}, {"crop_padding": 4}, {}):
        y = Augment(**settings, size=24)(noise_images(*shape), rng())
        assert y.shape == (*shape[:2], 24, 24)


@pytest.mark.parametrize("settings", DRAWN.values(), ids=DRAWN)
def test_gray_images(settings):
    x = noise_images(6, channels=1, height=28, width=28)
    y = Augment(**settings)(x, rng())
    unchanged = torch.allclose(y, x, atol=1e-6)
    assert unchanged == any(name in settings for name in COLOUR_ONLY)


def test_nothing_asked_is_nothing_done():
    x = noise_images()
    assert Augment()(x) is x
    assert Augment(size=32, jitter_p=0.0, brightness=0.5)(x) is x


def test_simclr_views_differ_and_keep_the_image_recognisable(photographs):
    views = augment.simclr_views(64, strength=0.5)
    assert views.brightness == views.contrast == views.saturation == 0.4
    assert views.hue == pytest.approx(0.1) and views.size == 64
    a, b = (views(photographs.repeat(8, 1, 1, 1), rng(seed)) for seed in (0, 1))
    assert a.shape == (16, 3, 64, 64) and (a - b).abs().mean() > 0.05
    assert augment.simclr_views(224, blur=True).blur == pytest.approx((0.1, 2.0)) and views.blur is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flip": 1.5}, "flip=1.5 must be a number, at least 0 and at most 1"),
        ({"flip": True}, "flip=True must be a number"),
        ({"brightness": "0.2"}, "brightness='0.2' must be a number"),
        ({"rotation": -1}, "rotation=-1 must be a number, at least 0"),
        ({"noise": math.nan}, "noise=nan must be"),
        ({"padding_mode": "zero"}, r"padding_mode='zero' \(did you mean 'zeros'\?\) is not one of reflection, zeros"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale=\(0.0, 1.0\) must be \(low, high\), 0 < low <= high <= 1"),
        ({"blur": (2, 1)}, "blur=.* must be"),
        ({"blur": (0.1,)}, "blur=.* must be"),
        ({"stretch": 1.5}, "stretch=1.5 must be"),
        ({"size": 0}, "size=0 must be a whole number"),
        ({"crop_padding": 1.5}, "crop_padding=1.5 must be a whole number"),
        ({"crop_padding": 4, "crop_scale": (0.1, 1)}, "crop_padding=4 and crop_scale both crop: choose one"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^Augment: {message}") as error:
        Augment(**settings)
    assert "\n" not in str(error.value)
