"""Explorers of contrastive learning: views, temperature, positives, and the neighbours that encoders see."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from labutil import device, plots
from labutil.augment import Augment, simclr_views
from labutil.course.explore.frame import ALL, class_menu, explore, grid, slider
from labutil.data import decoding
from labutil.data.sources import File
from labutil.evaluation import predict
from labutil.paths import DataError

LARGEST = 32 << 20  # bytes of a picture that is asked about
NEAREST = 5  # neighbours shown: with the query, as many as fit with their classes


def strength(images: Tensor, *, views: Callable[[float], Augment] | None = None, start: float = 0.5) -> None:
    """Move the strength of SimCLR's augmentation: each image with eight views of it, the same draws at any strength.

    images: uint8 (N, C, H, W), a few. views: the augmentation of a strength; None: SimCLR's, of the image's size.
    start: where the slider begins, 0 (crop and flip only) to 1 (the paper's).
    """
    x = device.to_float(images)
    augmentation = views or (lambda value: simclr_views(min(x.shape[2:]), value))

    def draw(value: float) -> Figure:
        g = torch.Generator(x.device).manual_seed(0)
        drawn = augmentation(value)(x.repeat_interleave(8, 0), g).unflatten(0, (len(x), 8)).cpu()
        originals = F.interpolate(x, size=drawn.shape[3:], mode="bilinear", antialias=True).cpu()
        pictures = torch.cat([originals[:, None], drawn], 1).flatten(0, 1)
        titles = ["original", *[""] * 8] * len(images)
        return plots.image_grid(pictures, titles, columns=9, title=f"strength {value:.2f}")

    alt = "Rows of an image and eight random views of it."
    explore(draw, alt=alt, value=slider(start, 0, 1.5, "strength", step=0.05))


def temperature(images: Tensor, z_a: Tensor, z_b: Tensor, *, start: float = 0.2) -> None:
    """Move the temperature: how InfoNCE's softmax weighs the views that are most similar to one view, the anchor.

    images: (N, C, H, W), as `plots.image_grid` takes them, a picture for each row of z. z_a, z_b: float (N, D), two
    views' projections. start: where the slider begins.
    """
    z = _unit(torch.cat([torch.as_tensor(z_a), torch.as_tensor(z_b)]))
    total = len(z) // 2

    def draw(image: int, tau: float) -> Figure:
        similarity = z @ z[image]
        similarity[image] = -torch.inf
        p = (similarity / tau).softmax(0)
        order = p.argsort(descending=True, stable=True)[: min(11, len(z) - 1)].tolist()
        counted = torch.special.entr(p).sum().exp().item()
        positive = (image + total) % len(z)
        tiles = [(images[image], "anchor", "black")]
        for j in order:
            colour = plots.RIGHT if j == positive else "black"
            tiles.append((images[j % total], f"cos {similarity[j]:.2f}\n{p[j]:.1%}", colour))
        title = (
            f"tau {tau:.2f}: weights as if {counted:.0f} of {len(z) - 1} views counted; the other view of the same "
            f"image (blue where shown) has {p[positive]:.1%}"
        )
        return grid(tiles, 6, title)

    tau = ipywidgets.FloatLogSlider(start, min=-2, max=0.3, step=0.05, description="tau", continuous_update=False)
    alt = "An anchor, and the images of the views most similar to it, each with its cosine and its weight."
    explore(draw, alt=alt, image=slider(0, 0, total - 1, "image"), tau=tau)


def positives(labels: Tensor, *, batch_size: int = 32) -> None:
    """Change the batch: which pairs of views are positives, without labels (SimCLR) and with them (SupCon).

    labels: integers (N,), of which batches are drawn; a batch is shown sorted by class. batch_size: where it begins.
    """
    labels = torch.as_tensor(labels)
    largest = min(128, len(labels))

    def draw(batch_size: int, views: int, draw_again: int) -> Figure:
        g = torch.Generator().manual_seed(draw_again)
        y = labels[torch.randperm(len(labels), generator=g)[:batch_size]].sort().values
        image = torch.arange(len(y)).repeat_interleave(views)
        masks, own = {}, torch.eye(len(image), dtype=torch.bool)
        for name, values in (("no labels", image), ("labels", y[image])):
            positive = (values[:, None] == values) & ~own
            count = positive.sum(1)
            ends = " to ".join(str(n) for n in sorted({count.min().item(), count.max().item()}))
            words = f"{name}; positives of a view: {ends}"
            masks[words] = positive.float().masked_fill(own, torch.nan)
        title = f"{batch_size} images, {views} view{'s' if views > 1 else ''} each, sorted by class; blue: positives"
        return plots.matrices(masks, limits=(0, 1), title=title)

    explore(
        draw,
        alt="Two masks of one batch, views in rows and columns: pairs without labels, with labels a block a class.",
        batch_size=slider(min(batch_size, largest), 2, largest, "batch"),
        views=ipywidgets.ToggleButtons(options=[1, 2], value=2, description="views"),
        draw_again=slider(0, 0, 50, "draw"),
    )


def neighbours(
    images: Tensor, h: Tensor, labels: Tensor, classes: Sequence[str], *, queries: Sequence[Tensor] | None = None
) -> None:
    """Browse nearest neighbours by cosine: choose a class; each row is a query and the images most like it.

    images, h, labels: the bank: (N, C, H, W), embeddings (N, D), integers (N,). queries: likewise for the images to
    ask about; None: the bank's own, each without itself.

    Example:
        explore.neighbours(data.train.images, h_train, data.train.labels, classes, queries=(data.val.images, h_val, y))
    """
    asked, q, y = queries or (images, h, labels)
    bank, q = _unit(h), _unit(q)
    labels, y = torch.as_tensor(labels), torch.as_tensor(y)

    def draw(true_class: int, draw_again: int) -> Figure:
        chosen = torch.arange(len(y)) if true_class < 0 else (y == true_class).nonzero()[:, 0]
        g = torch.Generator().manual_seed(draw_again)
        chosen = chosen[torch.randperm(len(chosen), generator=g)[:4]]
        similarity = q[chosen] @ bank.T
        if queries is None:
            similarity[torch.arange(len(chosen)), chosen] = -torch.inf
        nearest = similarity.topk(min(NEAREST, len(bank)), dim=1).indices
        tiles = []
        for i, row in zip(chosen.tolist(), nearest.tolist(), strict=True):
            tiles.append((asked[i], f"query:\n{classes[y[i]]}", "black"))
            tiles += [(images[j], classes[labels[j]], plots.RIGHT if labels[j] == y[i] else plots.WRONG) for j in row]
        share = (labels[nearest] == y[chosen][:, None]).float().mean() if len(chosen) else 0.0
        title = f"queries of {[*classes, ALL][true_class]}: {share:.0%} of the neighbours shown share their class"
        return grid(tiles, nearest.shape[1] + 1, title)

    alt = "Rows of a query and its nearest images, each with its class."
    explore(draw, alt=alt, true_class=class_menu(classes, "class"), draw_again=slider(0, 0, 50, "draw"))


def encoders(
    images: Tensor,
    features: Mapping[str, Any],
    labels: Any,
    classes: Sequence[str],
    *,
    networks: Mapping[str, nn.Module] | None = None,
) -> None:
    """Choose a point of the maps, an image: its nearest neighbours, by cosine, as each encoder sees them.

    images: uint8 (N, C, H, W). features: {encoder: float (N, D)}, of the same images. labels: int (N,). networks: the
    encoders themselves, by the same names: then a picture of one's own can be asked about, from a file.
    """
    labels = torch.as_tensor(labels)
    units = {name: _unit(torch.as_tensor(h).flatten(1)) for name, h in features.items()}
    many = len(units) > 4
    n = min(3 if many else NEAREST, len(labels) - 1)

    def draw(point: int, own: Any = ()) -> Figure:
        picture, title = images[point], f"image {point}, {classes[labels[point]]}, and its nearest neighbours; blue: of"
        asked, title = {name: unit[point] for name, unit in units.items()}, f"{title} its class"
        own = next(iter(own.values() if isinstance(own, dict) else own), None)  # ipywidgets 7: by name
        if own is not None:
            try:
                picture, title = _decoded(bytes(own["content"]), images.shape[1:]), "your picture, and what is like it"
                asked = {name: _unit(predict(networks[name], picture[None]).flatten(1))[0] for name in units}
            except DataError as error:
                own, title = None, f"{error}; so here is image {point}"
        rows = []
        for name, unit in units.items():
            near = (unit @ asked[name]).argsort(descending=True, stable=True)
            row = [(picture, name, "black")]
            for i in near[near != point][:n].tolist() if own is None else near[:n].tolist():
                right, said = labels[i] == labels[point], classes[labels[i]]
                mark, colour = ("✓\u202f", plots.RIGHT) if right else ("✗\u202f", plots.WRONG)
                row.append((images[i], mark + said, colour) if own is None else (images[i], said, "black"))
            rows.append(row)
        if many:  # side by side, each a column
            rows = [*zip(*rows, strict=True)]
        return grid([tile for row in rows for tile in row], len(rows[0]), title)

    alt = f"An image, and in a {'column' if many else 'row'} for each encoder those nearest to it, each with its class:"
    controls = {"point": slider(0, 0, len(labels) - 1, "point")}
    if networks:
        controls["own"] = ipywidgets.FileUpload(accept="image/*", description="your picture")
    explore(draw, alt=alt, **controls)


def _decoded(content: bytes, shape: Sequence[int]) -> Tensor:
    """A file's picture as a data set of images uint8 (C, H, W) would hold it. Raises DataError for what is none."""
    channels, height, width = shape
    if len(content) > LARGEST:
        raise DataError(f"your picture has {len(content) / 2**20:.0f} MiB, more than {LARGEST >> 20}: make it smaller")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(content)
        file = File("your picture", str(path), len(content), 0, 0)
        try:
            found = decoding.decode_file(file, height, width, channels, decoding.scan([file])["bits"])
        except DataError as error:
            raise DataError(str(error).replace(str(path), "your picture").partition(":")[0]) from error
    return torch.from_numpy(found.copy()).reshape(height, width, channels).permute(2, 0, 1).contiguous()


def _unit(h: Any) -> Tensor:
    """Embeddings (N, D) of length 1, float32 on the CPU."""
    return F.normalize(torch.as_tensor(h).cpu().float(), dim=1)
