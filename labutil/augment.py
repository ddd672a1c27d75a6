"""Random augmentation of a whole batch on its device: each image draws its own parameters, and each kind of change
costs one pass over the pixels.

Crop, flip, rotation, zoom and translation compose into one affine matrix per image and one `grid_sample`; brightness,
contrast, saturation, hue, grayscale, channel shift and stretch into one 3x4 matrix per image and one `baddbmm`; blur
and white noise follow where asked for. `Augment` draws the parameters; the functions below it apply given ones, in
float32 and without clamping.

Images are float (N, C, H, W) in [0, 1], C = 1 or 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil import device
from labutil.paths import check_choice, check_number, is_number
from labutil.processes import draws

# Largest value of each setting that is one number; the smallest is 0.
_LIMITS = {
    **dict.fromkeys(("flip", "vertical_flip", "jitter_p", "grayscale", "stretch_p", "blur_p"), 1),
    **dict.fromkeys(("crop_padding", "brightness", "contrast", "saturation", "noise"), math.inf),
    **{"rotation": 180, "zoom": 0.99, "translation": 1, "hue": 0.5, "channel_shift": 1},
}
# Largest value of each (low, high) setting; low must be above 0.
_RANGES = {"crop_scale": 1, "blur": math.inf}


@dataclass(frozen=True)
class Augment:
    """Settings of a random augmentation, all off by default; calling it on a batch draws anew for every image.

    Geometry, in this order, resampled once (bilinear, see `warp`):
        crop_scale: (low, high), the share of the image's area that a random resized crop keeps, e.g. (0.08, 1);
            its width / height is drawn log-uniformly between 3/4 and 4/3, among those that fit.
        crop_padding: crop the image's own size out of a copy padded by this many pixels on each side.
        size: side of the square to which a crop or the whole image is resized; None: the input's own height and width.
        flip, vertical_flip: probability of mirroring left-right, top-bottom.
        rotation: largest angle either way, in degrees. zoom: z draws a magnification from [1 - z, 1 + z].
        translation: largest shift either way, as a share of width and height.
        padding_mode: what lies outside the image: "reflection", "zeros" or "border". Mirrored edges have the image's
            own colours and texture; black corners tell a network the angle, and darken the mean that contrast uses.
    Colour, linear, hence one matrix:
        brightness, contrast, saturation: b draws a factor from [max(0, 1 - b), 1 + b], as torchvision's ColorJitter.
        hue: largest rotation either way, in turns. jitter_p: probability that an image gets these four at all.
        grayscale: probability of losing all colour.
        channel_shift: largest value added to or taken from each channel separately.
        stretch: (alpha, beta), pixel -> alpha * pixel + beta, clipped: OpenCV's convertScaleAbs (there beta counts
            in 1/255). stretch_p: probability that an image gets it.
    Then:
        blur: (low, high), standard deviation of a Gaussian in pixels. blur_p: its probability.
        noise: white noise; each image draws its standard deviation from [0, noise].

    On gray images (C = 1) saturation, hue and grayscale do nothing. The result is clamped to [0, 1] once, at the end.
    torchvision applies the four jitter operators in random order and clamps after each. Without clamping they commute
    (saturation and hue keep the luma whose mean contrast uses), so the two differ only where a pixel leaves [0, 1] on
    the way, and in what hue means: `colour_matrices`. Settings out of range raise ValueError.

    Example:
        x = Augment(crop_padding=4, flip=0.5, brightness=0.2)(device.to_float(images))
    """

    crop_scale: tuple[float, float] | None = None
    crop_padding: int = 0
    size: int | None = None
    flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    translation: float = 0.0
    padding_mode: str = "reflection"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter_p: float = 1.0
    grayscale: float = 0.0
    channel_shift: float = 0.0
    stretch: tuple[float, float] | None = None
    stretch_p: float = 1.0
    blur: tuple[float, float] | None = None
    blur_p: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in _LIMITS.items():
            check_number(f"Augment: {name}", getattr(self, name), 0, limit, whole=name == "crop_padding")
        for name, limit in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (_is_pair(value) and 0 < value[0] <= value[1] <= limit):
                bounds = "0 < low <= high" + (f" <= {limit}" if limit < math.inf else "")
                raise ValueError(f"Augment: {name}={value!r} must be (low, high), {bounds}")
        if self.stretch is not None and not _is_pair(self.stretch):
            raise ValueError(f"Augment: stretch={self.stretch!r} must be (alpha, beta), two numbers, e.g. (1.5, 0)")
        check_choice("Augment: padding_mode", self.padding_mode, ("reflection", "zeros", "border"))
        if self.size is not None:
            check_number("Augment: size", self.size, 1, whole=True)
        if self.crop_padding and self.crop_scale:
            raise ValueError(f"Augment: crop_padding={self.crop_padding} and crop_scale both crop: choose one")

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One random version of each image of x, float (N, C, H, W) in [0, 1], C = 1 or 3.

        generator: on x's device; default: the package's own. Returns (N, C, H, W), or with size (N, C, size, size), in
        [0, 1], of x's dtype and memory format; x itself (not a copy) if every setting is off. Raises TypeError for
        images of integers and ValueError for another shape.
        """
        check_images(x)
        size = (self.size, self.size) if self.size else tuple(x.shape[2:])
        if not len(x):
            return x.new_empty(0, x.shape[1], *size)
        g = generator or device.generator("augment", x.device)
        with torch.autocast(x.device.type, enabled=False):
            out = self._apply(x, size, g)
        return x if out is x else clamped_like(out, x)

    def _apply(self, x: Tensor, size: tuple[int, int], g: torch.Generator) -> Tensor:
        leaves = self.crop_padding or self.rotation or self.zoom or self.translation
        if leaves or self.crop_scale or self.flip or self.vertical_flip or size != tuple(x.shape[2:]):
            # Where nothing leaves the image nothing is mirrored, and repeating the edge, the same, is cheaper.
            mode = "border" if self.padding_mode == "reflection" and not leaves else self.padding_mode
            x = warp(x, self._draw_affine(x, size, g), size, mode)
        jitter = self.jitter_p and (self.brightness or self.contrast or self.saturation or self.hue)
        if jitter or self.grayscale or self.channel_shift or (self.stretch and self.stretch_p):
            x = apply_colour(x, *self._draw_colour(x, g))
        if self.blur and self.blur_p:
            sigma = uniform(x, *self.blur, g) * coin(x, self.blur_p, g)
            x = gaussian_blur(x, sigma, 2 * math.ceil(3 * self.blur[1]) + 1)  # 3 sigma hold 99.7% of a Gaussian
        if self.noise:
            x = white_noise(x, uniform(x, 0, self.noise, g), g)
        return x

    # What is off is drawn as well, between equal bounds: it costs microseconds, and the other draws stay as they were.

    def _draw_affine(self, x: Tensor, size: tuple[int, int], g: torch.Generator) -> Tensor:
        return affine_matrices(
            x,
            size,
            **self._draw_crop(x, g),
            flip=coin(x, self.flip, g),
            vertical_flip=coin(x, self.vertical_flip, g),
            angle=uniform(x, -self.rotation, self.rotation, g),
            zoom=uniform(x, 1 - self.zoom, 1 + self.zoom, g),
            shift_x=uniform(x, -self.translation, self.translation, g),
            shift_y=uniform(x, -self.translation, self.translation, g),
        )

    def _draw_crop(self, x: Tensor, g: torch.Generator) -> dict[str, Tensor]:
        n, _, height, width = x.shape
        if not self.crop_scale:
            pad = int(self.crop_padding)
            corners = draws(n, lambda m: torch.randint(-pad, pad + 1, (2, m), generator=g, device=x.device).T)
            return {"left": corners[:, 0], "top": corners[:, 1]}
        area = uniform(x, *self.crop_scale, g)
        # Width / height, counted in those of the image, of a crop that fits lies between area and 1 / area. torchvision
        # draws again until it does, which makes large crops rarer; here the area stays uniform.
        low, high = (math.log(ratio * height / width) for ratio in (3 / 4, 4 / 3))
        lowest, highest = area.log().clamp(min=low), (-area.log()).clamp(max=high)
        aspect = (lowest + (highest - lowest) * uniform(x, 0, 1, g)).clamp(low, high).exp()
        area = torch.minimum(area, torch.minimum(aspect, 1 / aspect))  # where no permitted ratio fits: as much as does
        crop_width, crop_height = width * (area * aspect).sqrt(), height * (area / aspect).sqrt()
        left, top = (width - crop_width) * uniform(x, 0, 1, g), (height - crop_height) * uniform(x, 0, 1, g)
        return {"left": left, "top": top, "crop_width": crop_width, "crop_height": crop_height}

    def _draw_colour(self, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        jittered = coin(x, self.jitter_p, g)

        def factor(amount: float) -> Tensor:
            return 1 + (uniform(x, max(0, 1 - amount), 1 + amount, g) - 1) * jittered

        stretched = coin(x, self.stretch_p if self.stretch else 0, g)
        alpha, beta = self.stretch or (1, 0)
        shift = draws(len(x), lambda n: torch.rand(n, x.shape[1], generator=g, device=x.device))
        return colour_matrices(
            x,
            brightness=factor(self.brightness),
            contrast=factor(self.contrast),
            saturation=factor(self.saturation) * (1 - coin(x, self.grayscale, g)),
            hue=uniform(x, -self.hue, self.hue, g) * jittered,
            channel_shift=self.channel_shift * (2 * shift - 1),
            alpha=1 + (alpha - 1) * stretched,
            beta=beta * stretched,
        )


def simclr_views(size: int, strength: float = 1.0, blur: bool = False) -> Augment:
    """The augmentation of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A); call it twice for a
    pair of views.

    Random resized crop (area 0.08 to 1) to `size`, flip, colour jitter of `strength` with probability 0.8, grayscale
    with probability 0.2, and with `blur` the paper's blur with probability 0.5. The paper blurs images 224 pixels wide
    by 0.1 to 2 pixels, scaled here to `size`, and not at all where images are 32 pixels wide.
    """
    return Augment(
        crop_scale=(0.08, 1.0),
        size=size,
        flip=0.5,
        **dict.fromkeys(("brightness", "contrast", "saturation"), 0.8 * strength),
        hue=0.2 * strength,
        jitter_p=0.8,
        grayscale=0.2,
        blur=(0.1 * size / 224, 2.0 * size / 224) if blur else None,
        blur_p=0.5,
    )


# A parameter of the functions below: one number for all images, or a tensor (N,).
PerImage = float | Tensor


def affine_matrices(
    x: Tensor,
    size: tuple[int, int] | None = None,
    *,
    left: PerImage = 0.0,
    top: PerImage = 0.0,
    crop_height: PerImage | None = None,
    crop_width: PerImage | None = None,
    flip: PerImage = 0.0,
    vertical_flip: PerImage = 0.0,
    angle: PerImage = 0.0,
    zoom: PerImage = 1.0,
    shift_x: PerImage = 0.0,
    shift_y: PerImage = 0.0,
) -> Tensor:
    """The matrices of `warp` that crop, resize to `size`, flip, rotate and magnify about the centre, then shift.

    x: the images (N, C, H, W); only their shape and device are used. size: (height, width) of the result, default that
    of x. left, top, crop_height, crop_width: the crop in pixels of x, not necessarily whole or inside; default all of
    x. flip, vertical_flip: 1 to mirror, 0 not to. angle: degrees, counter-clockwise. zoom: magnification. shift_x,
    shift_y: to the right and down, as shares of the result's width and height.

    Returns float32 (N, 2, 3), from output to input positions, both from -1 to 1 across the image, as `F.affine_grid`.
    """
    n, _, height, width = x.shape
    out_height, out_width = size or (height, width)
    crop_height = height if crop_height is None else crop_height
    crop_width = width if crop_width is None else crop_width

    def columns(*values: PerImage) -> Tensor:
        return torch.stack([per_image(v, x) for v in values], dim=1)

    crop = columns(crop_width, crop_height) / columns(width, height)
    centre = 2 * columns(left, top) / columns(width, height) + crop - 1
    scale = crop * (1 - 2 * columns(flip, vertical_flip))
    angle, zoom = torch.deg2rad(per_image(angle, x)), per_image(zoom, x)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    # Positions count in half widths and half heights, so turning one into the other takes the ratio of the two.
    rotate = torch.stack([cos, -sin * (out_height / out_width), sin * (out_width / out_height), cos], 1)
    linear = scale[:, :, None] * rotate.view(n, 2, 2)
    shift = 2 * columns(shift_x, shift_y)
    return torch.cat([linear, (centre - (linear * shift[:, None, :]).sum(2))[:, :, None]], dim=2)


def warp(x: Tensor, theta: Tensor, size: tuple[int, int] | None = None, padding_mode: str = "reflection") -> Tensor:
    """Sample x (N, C, H, W) at the positions that the affine matrices theta (N, 2, 3) give, bilinearly, in float32.

    size, padding_mode: as in `Augment`; "reflection" repeats the edge pixel, as torchvision's "symmetric" padding.
    Whole-pixel crops and flips reproduce their pixels to the last bits of float32. There is no antialiasing: shrink an
    image to less than half its side before.
    """
    height, width = size or x.shape[2:]
    across, down = ((torch.arange(s, device=x.device) * 2 + 1) / s - 1 for s in (width, height))
    # F.affine_grid without its thin matrix product, which on a CPU takes longer than the sampling does.
    across = theta[:, :, 0, None] * across + theta[:, :, 2, None]
    down = theta[:, :, 1, None] * down
    grid = across[:, :, None, :] + down[:, :, :, None]
    planes = x.float().contiguous()  # copied out of channels-last it is sampled faster, and the same to the last bit
    return F.grid_sample(planes, grid.movedim(1, 3), padding_mode=padding_mode, align_corners=False)


# ITU-R BT.601 luma, rounded as torchvision rounds it, above the two colour axes of YIQ (FCC 1953).
_YIQ = torch.tensor(
    [[0.2989, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=torch.float64
)
_QUARTER_TURN = torch.linalg.inv(_YIQ) @ torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64) @ _YIQ
# Colour matrices are sums of three: keep all, keep luma alone, turn the colours by a quarter.
_COLOUR_BASIS = torch.stack([torch.eye(3, dtype=torch.float64), _YIQ[:1].expand(3, 3), _QUARTER_TURN]).float()


def colour_matrices(
    x: Tensor,
    *,
    brightness: PerImage = 1.0,
    contrast: PerImage = 1.0,
    saturation: PerImage = 1.0,
    hue: PerImage = 0.0,
    channel_shift: PerImage = 0.0,
    alpha: PerImage = 1.0,
    beta: PerImage = 0.0,
) -> tuple[Tensor, Tensor]:
    """The matrix (N, C, C) and offset (N, C), float32, of `apply_colour` for these changes of x (N, C, H, W).

    Brightness multiplies; contrast scales the distance to the mean luma of the image; saturation the distance of a
    pixel to its luma (0: grayscale). These three are those of torchvision, without its clamping. `hue` turns the
    colours about the gray axis in YIQ, by that many turns, and keeps luma; torchvision's turns the hue of HSV, and
    keeps the largest and smallest channel: the same direction, another amount. On gray images (C = 1) saturation and
    hue do nothing. Then `channel_shift`, a number or tensor (N,) or (N, C), is added, and last comes
    alpha * pixel + beta.

    Example:
        vivid = apply_colour(x, *colour_matrices(x, saturation=1.5)).clamp(0, 1)
    """
    n, channels = x.shape[:2]
    brightness, contrast, saturation, alpha, beta = (
        per_image(v, x)[:, None] for v in (brightness, contrast, saturation, alpha, beta)
    )
    mean = x.float().mean((2, 3))
    if channels == 1:
        colour = torch.ones(n, 1, device=x.device)
    else:
        turn = 2 * math.pi * per_image(hue, x)[:, None]
        keep = saturation * turn.cos()
        basis = _COLOUR_BASIS.to(x.device)
        mean = mean @ basis[1, :1].T
        colour = torch.cat([keep, 1 - keep, saturation * turn.sin()], dim=1) @ basis.flatten(1)
    matrix = alpha * brightness * contrast * colour
    shift = torch.as_tensor(channel_shift, device=x.device)
    shift = shift[:, None] if shift.dim() == 1 else shift
    offset = alpha * (brightness * (1 - contrast) * mean + shift) + beta
    return matrix.view(n, channels, channels), offset.expand(n, channels)


def apply_colour(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix @ pixel + offset for every pixel of x (N, C, H, W), with matrix (N, C, C) and offset (N, C)."""
    return torch.baddbmm(offset[:, :, None], matrix, x.float().flatten(2)).unflatten(2, x.shape[2:])


def gaussian_blur(x: Tensor, sigma: PerImage, kernel_size: int) -> Tensor:
    """Convolve each image of x (N, C, H, W) with a Gaussian of its own standard deviation sigma, in pixels (0: none).

    The kernel has `kernel_size` x `kernel_size` taps (odd; 6 sigma + 1 hold nearly all of it), fewer on images smaller
    than that; edges are mirrored. Equals torchvision's gaussian_blur at the same sigma and kernel size.
    """
    n, channels, height, width = x.shape
    radius = min(kernel_size // 2, height - 1, width - 1)  # a mirror shows no more than the image
    taps = torch.arange(-radius, radius + 1, device=x.device)
    sigma = per_image(sigma, x).clamp(min=1e-2)  # so narrow that every tap but the middle one is 0
    kernel = torch.softmax(-((taps / sigma[:, None]) ** 2) / 2, dim=1).repeat_interleave(channels, 0)[:, None, None]
    planes = F.pad(x.float().reshape(1, n * channels, height, width), (radius,) * 4, mode="reflect")
    planes = F.conv2d(planes, kernel, groups=n * channels)  # every plane is a group with its own kernel
    return F.conv2d(planes, kernel.mT, groups=n * channels).view(x.shape)


def white_noise(x: Tensor, std: PerImage, generator: torch.Generator | None = None) -> Tensor:
    """x (N, C, H, W) plus independent Gaussian noise of standard deviation std in every value; not clamped."""
    g = generator or device.generator("augment", x.device)
    noise = draws(len(x), lambda n: torch.randn(n, *x.shape[1:], generator=g, device=x.device))
    return torch.addcmul(x.float(), noise, per_image(std, x)[:, None, None, None])


# What `policies` and `corruptions` share with `Augment`.


def per_image(value: PerImage, x: Tensor) -> Tensor:
    """One value for each image: float32 (N,) on the device of x (N, ...)."""
    if isinstance(value, Tensor):
        return value.to(x.device, torch.float32).expand(len(x))
    return torch.full((len(x),), value, dtype=torch.float32, device=x.device)  # filled there rather than copied there


def uniform(x: Tensor, low: float, high: float, g: torch.Generator) -> Tensor:
    """A number from [low, high) for each image: float32 (N,)."""
    return draws(len(x), lambda n: torch.rand(n, generator=g, device=x.device)) * (high - low) + low


def coin(x: Tensor, probability: float, g: torch.Generator) -> Tensor:
    """1 with the given probability, else 0, for each image: float32 (N,)."""
    return (uniform(x, 0, 1, g) < probability).float()


def cpu_if_mps(g: torch.Generator) -> torch.Generator:
    """g, or on Apple's GPU, which draws neither Gamma nor Poisson, a generator on the CPU seeded from it."""
    if g.device.type != "mps":
        return g
    return torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=g, device=g.device)))


def clamped_like(out: Tensor, images: Tensor) -> Tensor:
    """`out`, clamped to [0, 1] in place, in the dtype and memory format of `images`."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return out.clamp_(0, 1).to(images.dtype).contiguous(memory_format=memory_format)


def check_images(x: Tensor) -> None:
    """Raise TypeError unless x is a float tensor, and ValueError unless it is (N, 1, H, W) or (N, 3, H, W)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = getattr(x, "dtype", type(x).__name__)
        raise TypeError(f"Augment needs a float tensor in [0, 1], not {kind}: convert by labutil.device.to_float(x)")
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"Augment needs images of shape (N, 1, H, W) or (N, 3, H, W), not {tuple(x.shape)}")


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))
