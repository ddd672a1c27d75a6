"""Published augmentation policies for whole batches on their device: RandAugment and AugMix draw operations for every
image, MixUp and CutMix combine images and their labels.

Images are float (N, C, H, W) in [0, 1], C = 1 or 3; results have their dtype and memory format and are computed in
float32, also under autocast. generator: on the images' device; default: the package's own. Images of another shape
raise ValueError, of integers TypeError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from labutil import augment, device
from labutil.augment import Augment, PerImage, check_images, clamped_like, coin, cpu_if_mps, per_image, uniform
from labutil.paths import check_choice, check_number
from labutil.processes import draws, gather

# Amount of each operation at magnitude 0 and at magnitude 1, in its own unit (`apply_operations`). Amounts that start
# at 0 get a random sign. These are the ranges of AutoAugment, which the paper refers to, as in torchvision.
RAND_AUGMENT = {
    **dict.fromkeys(("identity", "autocontrast", "equalize"), (0, 0)),
    **{"rotate": (0, 30), "shear_x": (0, 0.3), "shear_y": (0, 0.3)},
    **dict.fromkeys(("translate_x", "translate_y"), (0, 150 / 331)),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (0, 0.9)),
    **{"posterize": (8, 4), "solarize": (256, 0)},
}
# The nine operations of AugMix's authors: none that resembles a corruption of their benchmark. They posterize to
# 0 bits, a black image, at magnitude 1.
AUG_MIX = {
    **dict.fromkeys(("autocontrast", "equalize"), (0, 0)),
    **{"rotate": (0, 30), "shear_x": (0, 0.3), "shear_y": (0, 0.3)},
    **dict.fromkeys(("translate_x", "translate_y"), (0, 1 / 3)),
    **{"posterize": (4, 1), "solarize": (256, 0)},
}
OPERATIONS = tuple(RAND_AUGMENT)


def rand_augment(
    images: Tensor, *, draws: int = 2, magnitude: float = 0.3, generator: torch.Generator | None = None
) -> Tensor:
    """RandAugment (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719): every image gets `draws` operations, drawn
    with replacement from the paper's 14, all at `magnitude` (0 to 1), each in a random direction where it has two.

    `RAND_AUGMENT` has what magnitude 1 means. torchvision's RandAugment(draws, 30 * magnitude) has the same ranges, but
    black corners, and shears about the top left corner, which also shifts; here edges are mirrored and the centre
    stays. Raises ValueError for settings out of range.
    """
    check_images(images)
    check_number("rand_augment: draws", draws, 1, whole=True)
    check_number("rand_augment: magnitude", magnitude, 0, 1)
    g = generator or device.generator("augment", images.device)
    x = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    for _ in range(int(draws)):
        apply_operations(x, *_draw(RAND_AUGMENT, x, magnitude, g))
    return clamped_like(x, images)


def aug_mix(images: Tensor, *, severity: float = 0.3, generator: torch.Generator | None = None) -> Tensor:
    """AugMix (Hendrycks et al. 2020, https://arxiv.org/abs/1912.02781): every image is mixed with a mixture of three
    chains of operations on it, with weights from Dirichlet(1, 1, 1), itself weighted by Beta(1, 1).

    A chain has one, two or three operations of `AUG_MIX`. Each draws its magnitude from [0, severity], and a direction.
    severity: 0 to 1; the paper's 3 of 10 is 0.3. The paper also adds a loss: the Jensen-Shannon divergence of the
    predictions for the clean image and two mixed ones. Raises ValueError for a severity out of range.
    """
    check_images(images)
    check_number("aug_mix: severity", severity, 0, 1)
    g = generator or device.generator("augment", images.device)
    x = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    chains = x.repeat(3, 1, 1, 1)  # all chains of all images are one batch
    lengths = draws(len(chains), lambda n: torch.randint(1, 4, (n,), generator=g, device=x.device))
    for step in range(3):
        operations, amounts = _draw(AUG_MIX, chains, uniform(chains, 0, severity, g), g)
        operations[step >= lengths] = OPERATIONS.index("identity")
        apply_operations(chains, operations, amounts)
    share = _dirichlet(len(x), 2, 1.0, g)[:, :1]
    weights = share * _dirichlet(len(x), 3, 1.0, g)
    x *= (1 - share)[:, :, None, None]
    for weight, chain in zip(weights.T, chains.unflatten(0, (3, -1)), strict=True):
        x.addcmul_(weight[:, None, None, None], chain)
    return clamped_like(x, images)


def mix_up(
    images: Tensor, labels: Tensor, n_classes: int, alpha: float = 0.2, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018, https://arxiv.org/abs/1710.09412): share * image + (1 - share) * another image of the
    batch, and their labels likewise.

    The other images are a random permutation of the batch, which may leave an image with itself. Every image draws its
    share from Beta(alpha, alpha); the authors' code draws one for the batch. alpha: at least 0.01; the paper's ImageNet
    models have 0.1 to 0.4. labels: int64 (N,), from 0 to n_classes - 1. Returns images (N, C, H, W) and soft labels,
    float32 (N, n_classes) with rows that sum to 1, which `F.cross_entropy` takes in place of labels.
    Raises ValueError for labels or alpha out of range.
    """
    _, share, other = _draw_pairs("mix_up", images, labels, n_classes, alpha, generator)
    mixed = torch.lerp(gather(images)[other].float(), images.float(), share.view(-1, 1, 1, 1))
    return clamped_like(mixed, images), _soft_labels(labels, other, share, n_classes)


def cut_mix(
    images: Tensor, labels: Tensor, n_classes: int, alpha: float = 1.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899): a box of every image is replaced by the same box of
    another image of the batch, and its label by the other's in the box's share of the area.

    The box has the image's aspect ratio and 1 - share of its area, share drawn from Beta(alpha, alpha) for every image
    (alpha = 1: uniform); its centre is uniform over the image, whose edges cut it off. Labels go by the pixels that
    were really replaced. Otherwise as `mix_up`.
    """
    g, share, other = _draw_pairs("cut_mix", images, labels, n_classes, alpha, generator)

    def inside(length: int) -> Tensor:
        half = (length * (1 - share).sqrt()).long() // 2
        centre = draws(len(share), lambda n: torch.randint(length, (n,), generator=g, device=g.device))
        at = torch.arange(length, device=images.device)
        return (at >= (centre - half)[:, None]) & (at < (centre + half)[:, None])

    box = inside(images.shape[2])[:, None, :, None] & inside(images.shape[3])[:, None, None, :]
    share = 1 - box.float().mean((1, 2, 3))
    mixed = torch.where(box, gather(images)[other], images)
    return clamped_like(mixed, images), _soft_labels(labels, other, share, n_classes)


def apply_operations(x: Tensor, operations: Tensor, amounts: Tensor) -> None:
    """One operation on each image, in place on x, float32 (N, C, H, W), clamped to [0, 1]; what is drawn goes here.

    operations: int64 (N,), positions in `OPERATIONS`. amounts: float32 (N,), in the operation's unit. rotate: degrees,
    counter-clockwise; translate_x, translate_y: shares of the side, to the right, down; shear_x, shear_y: pixels to the
    left (up) for each pixel below (right of) the centre; color, contrast, brightness, sharpness: factor less 1;
    posterize: bits that stay, 1 to 8; solarize: the level, of 256, from which on values are inverted. Others have none.
    Posterize and equalize round to the 256 levels of 8 bits. Each kind of operation is one pass over its images.
    """
    kinds = torch.tensor(_KIND, device=x.device)[operations]
    counts = (kinds[:, None] == torch.arange(len(_KINDS), device=x.device)).sum(0).tolist()
    with torch.autocast(x.device.type, enabled=False):
        for function, rows in zip(_KINDS.values(), kinds.argsort(stable=True).split(counts), strict=True):
            if len(rows) and function:
                x.index_copy_(0, rows, function(x[rows], operations[rows], amounts[rows]).clamp(0, 1))


def _move(x: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    only = _selector(operations, amounts)
    theta = augment.affine_matrices(x, angle=only("rotate"), shift_x=only("translate_x"), shift_y=only("translate_y"))
    height, width = x.shape[2:]
    theta[:, 0, 1] += only("shear_x") * height / width  # as each image has one operation, sums compose
    theta[:, 1, 0] += only("shear_y") * width / height
    return augment.warp(x, theta)


def _colour(x: Tensor, operations: Tensor, amounts: Tensor) -> Tensor:
    only = _selector(operations, amounts)
    brightness, contrast, saturation = (1 + only(name) for name in ("brightness", "contrast", "color"))
    matrices = augment.colour_matrices(x, brightness=brightness, contrast=contrast, saturation=saturation)
    return augment.apply_colour(x, *matrices)


def _selector(operations: Tensor, amounts: Tensor) -> Callable[[str], Tensor]:
    return lambda name: torch.where(operations == OPERATIONS.index(name), amounts, 0)


def _sharpness(x: Tensor, _: Tensor, amounts: Tensor) -> Tensor:
    """PIL's: away from (or towards) the mean of 3 x 3 pixels, the middle one counted 5 times; the rim stays."""
    if min(x.shape[2:]) < 3:
        return x
    inner = x[..., 1:-1, 1:-1]
    smooth = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    smooth = smooth[..., :-2] + smooth[..., 1:-1] + smooth[..., 2:]  # four times as fast as avg_pool2d on a CPU
    return x + F.pad((inner - (smooth + 4 * inner) / 13) * amounts[:, None, None, None], (1, 1, 1, 1))


def _posterize(x: Tensor, _: Tensor, amounts: Tensor) -> Tensor:
    step = 2 ** (8 - amounts.round())[:, None, None, None]
    return (x * 255).round().div(step).floor() * step / 255


def _solarize(x: Tensor, _: Tensor, amounts: Tensor) -> Tensor:
    return (x - (x >= amounts[:, None, None, None] / 255).float()).abs()  # 1 - x, or x


def _autocontrast(x: Tensor, *_: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as tv  # takes a second, for two operations of many

    return tv.autocontrast(x)


def _equalize(x: Tensor, *_: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.equalize((x * 255).round().to(torch.uint8)).float() / 255


# What is computed together, and by what.
_KINDS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None] = {
    "identity": None,
    "rotate shear_x shear_y translate_x translate_y": _move,
    "color contrast brightness": _colour,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
_KIND = [next(i for i, names in enumerate(_KINDS) if name in names.split()) for name in OPERATIONS]


def _draw(
    ranges: dict[str, tuple[float, float]], x: Tensor, magnitude: PerImage, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Operations and amounts for `apply_operations`, one of each per image."""
    drawn = draws(len(x), lambda n: torch.randint(len(ranges), (n,), generator=g, device=x.device))
    start, end = torch.tensor(list(ranges.values()), device=x.device)[drawn].T
    amounts = torch.lerp(start, end, per_image(magnitude, x))
    amounts = torch.where(start == 0, amounts * (2 * coin(x, 0.5, g) - 1), amounts)
    return torch.tensor([OPERATIONS.index(name) for name in ranges], device=x.device)[drawn], amounts


def _draw_pairs(
    function: str, images: Tensor, labels: Tensor, n_classes: int, alpha: float, generator: torch.Generator | None
) -> tuple[torch.Generator, Tensor, Tensor]:
    """The generator, and for each image the share that it keeps and which image of the batch it is combined with."""
    check_images(images)
    check_number(f"{function}: alpha", alpha, 0.01)
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"{function}: labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
    low, high = torch.stack(labels.aminmax()).tolist() if len(labels) else (0, 0)
    if low < 0 or high >= n_classes:
        raise ValueError(f"{function}: labels from {low} to {high} must be from 0 to n_classes - 1={n_classes - 1}")
    g = generator or device.generator("augment", images.device)
    share = _dirichlet(len(images), 2, alpha, g)[:, 0]
    return g, share, draws(len(images), lambda n: torch.randperm(n, generator=g, device=g.device))


def _soft_labels(labels: Tensor, other: Tensor, share: Tensor, n_classes: int) -> Tensor:
    one_hot = F.one_hot(labels, n_classes).float()
    return torch.lerp(gather(one_hot)[other], one_hot, share[:, None])


def _dirichlet(n: int, k: int, alpha: float, g: torch.Generator) -> Tensor:
    """float32 (n, k), rows from Dirichlet(alpha, ..., alpha), whose first column is Beta(alpha, (k - 1) * alpha)."""
    g, target = cpu_if_mps(g), g.device
    # torch.distributions takes no generator; what it calls does. float64, as a Gamma of 0.01 may be below float32.
    alphas = torch.full((k,), alpha, dtype=torch.float64, device=g.device)
    drawn = draws(n, lambda m: torch._sample_dirichlet(alphas.expand(m, k).contiguous(), generator=g))
    return drawn.to(target, torch.float32)


def augmentation(
    name: str, n_classes: int, *, crop_padding: int = 4
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """An augmentation by its name: a function (images, labels) -> (images, target), drawn anew for every image.

    Each claims that something does not decide the class. none: nothing. crop: where exactly, by up to `crop_padding`
    pixels; flip: that, and left or right. geometry: which way up, and how large. stain: how bright, how strongly and in
    which tint it is dyed. gray: colour at all (every second image loses it). stretch: nothing random, all pixels times
    1.5, clipped. rand_augment: five operations of the paper's at magnitude 0.32; aug_mix: its chains at 0.5. mix_up and
    cut_mix combine images and their labels: there the target is float32 (N, n_classes), elsewhere the labels as given.
    Raises ValueError for an unknown name, with the nearest one.

    Example:
        augment = augmentation("geometry+stain", n_classes=8)
        x, target = augment(x, y)
        loss = F.cross_entropy(model(x), target)
    """
    geometry = {"rotation": 180, "flip": 0.5, "vertical_flip": 0.5, "zoom": 0.1}
    stain = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    of_images = {
        "none": Augment(),
        "crop": Augment(crop_padding=crop_padding),
        "flip": Augment(crop_padding=crop_padding, flip=0.5),
        "geometry": Augment(**geometry),
        "stain": Augment(**stain),
        "geometry+stain": Augment(**geometry, **stain),
        "gray": Augment(grayscale=0.5, brightness=0.4, contrast=0.4),
        "stretch": Augment(stretch=(1.5, 0.0)),
        "rand_augment": partial(rand_augment, draws=5, magnitude=0.32),
        "aug_mix": partial(aug_mix, severity=0.5),
    }
    of_pairs = {"mix_up": mix_up, "cut_mix": cut_mix}
    check_choice("augmentation", name, (*of_images, *of_pairs))
    if name in of_pairs:
        return lambda images, labels: of_pairs[name](images, labels, n_classes)
    return lambda images, labels: (of_images[name](images), labels)
