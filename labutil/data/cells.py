"""Generated microscope images of stained blood cells: the workbook's default data set, nothing to download.

Each image is one field of a blood film under oil immersion with the cell of interest near its centre. The cell is
described in micrometres (table `_TYPES`: size, nuclear lobes, chromatin, cytoplasm, granules), stained with four
dyes, and photographed: light that passes a dye is absorbed by the Beer-Lambert law, so cells that overlap darken
each other as on real film. Classes and their frequencies follow the peripheral blood cell set of Acevedo et al.
(2020, doi:10.1016/j.dib.2020.105474), from which BloodMNIST is made; morphology follows haematology atlases.

Every value comes from `+ - * / sqrt floor min max` on float32 and from the raw stream of a PCG64 per image, all of
which are exactly specified: the same arguments give the same bytes on any machine, number of threads or batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from labutil.data import catalogue
from labutil.paths import check_choice, check_number

SIZE = 96  # pixels a side
CLASSES = catalogue.CLASSES["bloodmnist"]  # basophil to platelet
FREQUENCIES = (0.071, 0.182, 0.091, 0.169, 0.071, 0.083, 0.195, 0.138)  # in the order of CLASSES
UNSEEN_CLASSES = ("blast", "giant platelet", "hairy cell", "plasma cell", "reactive lymphocyte", "smudge cell")
LABORATORIES = ("home", "shifted")
KINDS = ("known", "unseen")
# One row a type of cell, every entry a range (low, high) from which each cell draws its own value.
_COMMON = {
    "size": (12, 15),  # diameter, micrometres
    "elongation": (0, 0.12),
    "wobble": (0.1, 0.3),  # irregularity of the outline, micrometres
    "hair": (0, 0),  # length of radial projections, micrometres
    "smear": (0, 0),  # how far the nucleus follows them, 0 to 1
    "lobes": (1, 1),  # of the nucleus, a whole number; they lie on an arc
    "lobe": (0.5, 0.6),  # radius of a lobe, in cell radii, like the next one and `strand`, `offset`
    "spread": (0, 0),  # radius of the arc
    "step": (0.1, 0.1),  # angle from lobe to lobe, in turns
    "strand": (0.1, 0.1),  # half width of what joins two lobes
    "offset": (0, 0.15),  # how far the nucleus lies off the cell's centre
    "folds": (0.1, 0.35),  # irregularity of the nucleus, micrometres
    "chromatin": (0.8, 1.1),  # optical density of the nucleus
    "clumps": (0.1, 0.25),  # contrast of its texture
    "nucleoli": (0, 0),  # paleness of nucleoli
    "blue": (0.1, 0.3),  # cytoplasm: RNA, taken up by the blue dye
    "pink": (0.1, 0.3),  # cytoplasm: protein, taken up by eosin
    "hof": (0, 0),  # pale zone beside the nucleus
    "skirt": (0, 0.2),  # darker rim
    "vacuoles": (0, 0),
    "granules": (0, 0),  # share of the cytoplasm that they cover, 0 to 1
    "grain": (0.7, 0.7),  # distance between neighbouring granules, micrometres
    "ink": (0.5, 0.5),  # their optical density
    "red": (0.5, 0.5),  # eosin (1) or violet (0) granules
    "over": (0.2, 0.2),  # how much of them is seen on top of the nucleus
}
# (class, share of the class, what differs from _COMMON)
_TYPES = [
    ("basophil", 1.0, dict(
        size=(10.5, 14.5), lobes=(2, 3), lobe=(0.36, 0.5), spread=(0.22, 0.4), step=(0.25, 0.42), strand=(0.15, 0.35),
        chromatin=(0.45, 0.9), clumps=(0.05, 0.2), blue=(0.05, 0.3), pink=(0.1, 0.35), granules=(0.3, 0.85),
        grain=(0.8, 1.3), ink=(0.25, 1.1), red=(0, 0.35), over=(0.4, 1))),
    ("eosinophil", 1.0, dict(
        size=(11.5, 15.5), lobes=(2, 3), lobe=(0.3, 0.42), spread=(0.32, 0.45), step=(0.22, 0.45), strand=(0.06, 0.25),
        offset=(0, 0.3), chromatin=(0.6, 1.1), blue=(0, 0.2), pink=(0.1, 0.5), granules=(0.5, 1), grain=(0.65, 1.05),
        ink=(0.2, 0.8), red=(0.65, 1), over=(0.05, 0.5))),
    ("erythroblast", 0.25, dict(  # basophilic
        size=(11, 15), lobe=(0.62, 0.76), chromatin=(0.9, 1.25), clumps=(0.2, 0.45), blue=(0.5, 0.95), pink=(0, 0.2))),
    ("erythroblast", 0.75, dict(  # polychromatic and orthochromatic
        size=(7.5, 11.5), lobe=(0.42, 0.68), offset=(0, 0.28), chromatin=(1.1, 1.6), clumps=(0.05, 0.35),
        blue=(0.1, 0.5), pink=(0.2, 0.75), wobble=(0.05, 0.25))),
    ("immature granulocyte", 0.3, dict(  # promyelocyte
        size=(14, 20), lobe=(0.6, 0.76), offset=(0.05, 0.25), chromatin=(0.6, 0.95), clumps=(0.08, 0.2),
        nucleoli=(0, 0.4), blue=(0.2, 0.55), pink=(0.05, 0.3), hof=(0, 0.4), granules=(0.15, 0.6), grain=(0.6, 0.9),
        ink=(0.3, 0.9), red=(0.2, 0.5), over=(0.2, 0.8))),
    ("immature granulocyte", 0.35, dict(  # myelocyte
        size=(12.5, 18), lobes=(1, 2), lobe=(0.5, 0.66), spread=(0.08, 0.18), step=(0.2, 0.5), strand=(0.4, 0.5),
        offset=(0.1, 0.35), chromatin=(0.7, 1.05), blue=(0.05, 0.3), pink=(0.2, 0.5), granules=(0.1, 0.55),
        grain=(0.5, 0.8), ink=(0.15, 0.6), red=(0.35, 0.7))),
    ("immature granulocyte", 0.35, dict(  # metamyelocyte
        size=(12, 16), lobes=(3, 4), lobe=(0.3, 0.42), spread=(0.3, 0.45), step=(0.1, 0.15), strand=(0.26, 0.38),
        offset=(0.05, 0.25), chromatin=(0.75, 1.1), blue=(0, 0.25), pink=(0.15, 0.45), granules=(0.1, 0.5),
        grain=(0.5, 0.75), ink=(0.1, 0.5), red=(0.4, 0.75))),
    ("lymphocyte", 0.65, dict(  # small
        size=(7.5, 11), lobes=(1, 2), lobe=(0.7, 0.86), spread=(0.03, 0.12), step=(0.2, 0.5), strand=(0.5, 0.6),
        chromatin=(0.95, 1.35), clumps=(0.1, 0.35), blue=(0.2, 0.7), pink=(0, 0.15))),
    ("lymphocyte", 0.35, dict(  # large, some with a few azurophilic granules
        size=(11, 15.5), lobes=(1, 2), lobe=(0.52, 0.74), spread=(0.05, 0.15), step=(0.2, 0.5), strand=(0.4, 0.5),
        offset=(0.05, 0.25), wobble=(0.2, 0.6), chromatin=(0.8, 1.15), blue=(0.15, 0.5), pink=(0, 0.15),
        granules=(0, 0.25), grain=(0.9, 1.3), ink=(0.2, 0.7), red=(0.2, 0.5))),
    ("monocyte", 1.0, dict(
        size=(13, 19.5), wobble=(0.2, 0.8), lobes=(2, 5), lobe=(0.26, 0.42), spread=(0.34, 0.56), step=(0.12, 0.2),
        strand=(0.2, 0.34), offset=(0, 0.2), folds=(0.1, 0.4), chromatin=(0.55, 1), clumps=(0.1, 0.25),
        blue=(0.18, 0.5), pink=(0.05, 0.25), vacuoles=(-0.4, 0.35), granules=(0, 0.5), grain=(0.5, 0.7),
        ink=(0.1, 0.45), red=(0.3, 0.6))),
    ("neutrophil", 0.7, dict(  # segmented
        size=(11, 15), lobes=(2, 5), lobe=(0.22, 0.36), spread=(0.36, 0.55), step=(0.16, 0.28), strand=(0.02, 0.11),
        offset=(0, 0.15), chromatin=(0.85, 1.3), clumps=(0.1, 0.3), blue=(0, 0.15), pink=(0.12, 0.45),
        granules=(0.1, 0.6), grain=(0.5, 0.75), ink=(0.08, 0.45), red=(0.4, 0.8))),
    ("neutrophil", 0.3, dict(  # band
        size=(11.5, 15.5), lobes=(4, 5), lobe=(0.18, 0.28), spread=(0.36, 0.5), step=(0.12, 0.17), strand=(0.16, 0.26),
        offset=(0, 0.15), chromatin=(0.8, 1.2), blue=(0, 0.2), pink=(0.12, 0.45), granules=(0.1, 0.6),
        grain=(0.5, 0.75), ink=(0.08, 0.45), red=(0.4, 0.75))),
    ("platelet", 1.0, dict(
        size=(1.8, 4.5), elongation=(0, 0.4), wobble=(0.1, 0.4), lobes=(0, 0), blue=(0.15, 0.5), pink=(0.15, 0.45),
        granules=(0.5, 0.9), grain=(0.6, 0.9), ink=(0.3, 0.9), red=(0, 0.35))),
    ("blast", 1.0, dict(
        size=(13, 19), lobes=(1, 2), lobe=(0.74, 0.86), spread=(0.03, 0.1), step=(0.2, 0.5), strand=(0.5, 0.6),
        chromatin=(0.55, 0.85), clumps=(0.03, 0.1), nucleoli=(0.3, 0.7), blue=(0.45, 0.9), pink=(0, 0.1))),
    ("giant platelet", 1.0, dict(
        size=(6, 11), elongation=(0, 0.35), wobble=(0.3, 0.8), lobes=(0, 0), blue=(0.15, 0.45), pink=(0.05, 0.25),
        granules=(0.5, 0.85), grain=(0.6, 0.9), ink=(0.3, 0.8), red=(0.05, 0.35))),
    ("hairy cell", 1.0, dict(
        size=(11, 16), hair=(1.2, 2.4), lobes=(1, 3), lobe=(0.45, 0.58), spread=(0.12, 0.25), step=(0.12, 0.18),
        strand=(0.4, 0.5), offset=(0, 0.2), chromatin=(0.7, 1), blue=(0.15, 0.4), pink=(0, 0.15))),
    ("plasma cell", 1.0, dict(
        size=(12, 18), elongation=(0.12, 0.3), lobe=(0.4, 0.52), offset=(0.32, 0.45), chromatin=(0.9, 1.3),
        clumps=(0.3, 0.5), blue=(0.6, 1.1), pink=(0.05, 0.3), hof=(0.5, 0.9), vacuoles=(0, 0.2))),
    ("reactive lymphocyte", 1.0, dict(
        size=(15, 22), wobble=(0.8, 1.6), lobes=(1, 2), lobe=(0.4, 0.52), spread=(0.1, 0.2), step=(0.2, 0.5),
        strand=(0.35, 0.4), offset=(0.05, 0.3), chromatin=(0.7, 1.05), blue=(0.15, 0.4), pink=(0, 0.1),
        skirt=(0.6, 1.4))),
    ("smudge cell", 1.0, dict(
        size=(12, 18), wobble=(0.5, 1), hair=(0.5, 1.5), smear=(1, 1), lobe=(0.75, 1), folds=(0.5, 1.1),
        chromatin=(0.3, 0.65), clumps=(0.15, 0.4), blue=(0, 0.06), pink=(0, 0.06))),
]  # fmt: skip
# Lower and upper end of every property, float32 (rows of _TYPES, entries of _COMMON, 2).
_RANGES = np.array([list((_COMMON | own).values()) for *_, own in _TYPES], np.float32)
_RANGES[:, list(_COMMON).index("lobes"), 1] += 1  # a whole number, drawn as floor(low to high + 1)
# Optical density in red, green and blue of one unit of each dye (haemoglobin: of a red cell's full thickness), the
# light that reaches the empty film, and ranges of everything that varies from photograph to photograph.
_LABORATORIES = {
    "home": dict(
        violet=(0.85, 1.4, 0.42), blue=(0.62, 0.42, 0.1), eosin=(0.1, 0.55, 0.4), haemoglobin=(0.09, 0.34, 0.3),
        light=(0.96, 0.92, 0.88), exposure=(0.86, 1.04), balance=0.04, strength=(0.6, 1.35), tint=0.18,
        zoom=(3.8, 5), shift=1.6, gradient=0.05, vignette=(0, 0.08), blur=(0.1, 0.3), defocus=(0, 0.2),
        noise=(0.008, 0.03), red_cells=(0.3, 1)),
    "shifted": dict(
        violet=(0.8, 1.16, 0.18), blue=(0.62, 0.37, 0.05), eosin=(0.12, 0.6, 0.35), haemoglobin=(0.1, 0.32, 0.41),
        light=(0.86, 0.86, 0.85), exposure=(0.88, 1.06), balance=0.04, strength=(0.6, 1.4), tint=0.18,
        zoom=(3.9, 5.6), shift=2.2, gradient=0.12, vignette=(0.1, 0.25), blur=(-0.05, 0.3), defocus=(0, 0.24),
        noise=(0.012, 0.038), red_cells=(0.3, 1)),
}  # fmt: skip
# What of a laboratory can be changed by itself, for `between`; zoom and framing stay.
PARTS = {
    "stain": ("violet", "blue", "eosin", "haemoglobin", "strength", "tint"),
    "light": ("light", "exposure", "balance", "gradient", "vignette"),
    "focus": ("blur", "defocus"),
    "noise": ("noise",),
}
_DRAWS = 224  # uniform numbers that one image may use
_TILE, _PER_UNIT = 512, 8  # side of a texture, and its samples per unit of length
_CHUNK = 16  # images drawn together: small enough for the processor's cache
Array = np.ndarray
Draw = Callable[[object, object], Array]


def generate(
    n: int, seed: int, laboratory: str = "home", kinds: str = "known", *, further: bool = False
) -> tuple[Array, Array, tuple[str, ...]]:
    """Draw `n` images of blood cells.

    laboratory: `"home"`, or `"shifted"` with other cells, stain, white balance, optics, noise and framing. kinds:
    `"known"` for `CLASSES`, which come with `FREQUENCIES`, or `"unseen"` for `UNSEEN_CLASSES`, equally often. Image and
    label i depend on `seed`, `laboratory`, `kinds`, `further` and i alone, not on `n`. further: from a stream of its
    own, of which no image is among the others, however many those are.

    Returns images uint8 (n, 3, 96, 96), labels int64 (n,), and the class names that labels index. Raises ValueError
    when an argument is out of range.

    Example:
        images, labels, classes = generate(1000, seed=0)
    """
    check_number("n", n, 1, whole=True)
    check_number("seed", seed, 0, whole=True)
    check_choice("laboratory", laboratory, LABORATORIES)
    check_choice("kinds", kinds, KINDS)
    images, labels = np.empty((n, 3, SIZE, SIZE), np.uint8), np.empty(n, np.int64)

    def draw_chunk(start: int) -> None:
        part = range(start, min(start + _CHUNK, n))
        images[start : part.stop], labels[start : part.stop] = _images(
            part, _LABORATORIES[laboratory], seed, laboratory, kinds, further
        )

    _textures()  # once, before the threads ask for it
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        list(pool.map(draw_chunk, range(0, n, _CHUNK)))  # list: raises what a thread raised
    return images, labels, CLASSES if kinds == "known" else UNSEEN_CLASSES


def between(index: Iterable[int], shares: Mapping[str, float]) -> tuple[Array, Array]:
    """Cells on their way from the home laboratory to the shifted one: images uint8 (n, 3, 96, 96), labels (n,).

    index: which of the `further` cells of home, in none of the splits. shares: how far each part of `PARTS` has gone,
    {"stain": 1.0}: 0 home (also what is left out), 1 the shifted laboratory, whose values it then has.
    """
    home, away = _LABORATORIES["home"], _LABORATORIES["shifted"]
    lab = dict(home)
    for part, share in shares.items():
        check_choice("shares", part, PARTS)
        for name in PARTS[part]:
            values = np.asarray(home[name], float) + share * np.subtract(away[name], home[name])
            lab[name] = values.tolist()  # a number where it was one
    return _images(index, lab, 0, "home", "known", True)


def _images(
    index: Iterable[int], lab: dict, seed: int, laboratory: str, kinds: str, further: bool
) -> tuple[Array, Array]:
    """Images and labels of some indices, in one go."""
    streams = [_stream(seed, i, laboratory, kinds, further) for i in index]
    uniforms = np.stack([_uniforms(stream, _DRAWS) for stream in streams])
    labels, row = _choose(uniforms, kinds)
    noise = np.stack([stream.random_raw(2 * 3 * SIZE * SIZE // 8).view(np.uint8) for stream in streams])
    return _draw(uniforms[:, 2:], row, lab, noise), labels


def _stream(seed: int, index: int, laboratory: str, kinds: str, further: bool = False) -> np.random.PCG64:
    """One image's own random numbers; the raw output of a bit generator is the same in every release of NumPy."""
    entropy = (seed, LABORATORIES.index(laboratory), KINDS.index(kinds))
    return np.random.PCG64(np.random.SeedSequence(entropy, spawn_key=(index, 1) if further else (index,)))


def _uniforms(stream: np.random.PCG64, count: int) -> Array:
    """float32 in [0, 1), 24 random bits each."""
    return (stream.random_raw(count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _choose(uniforms: Array, kinds: str) -> tuple[Array, Array]:
    """Label and row of `_TYPES` for each image, from its first two numbers."""
    classes, frequencies = (CLASSES, FREQUENCIES) if kinds == "known" else (UNSEEN_CLASSES, [1 / 6] * 6)
    edges = np.cumsum(frequencies)[:-1]
    labels = np.searchsorted(edges, uniforms[:, 0].astype(np.float64), side="right")
    row = np.empty(len(labels), np.int64)
    for i, label in enumerate(labels):
        rows = [k for k, (name, *_) in enumerate(_TYPES) if name == classes[label]]
        shares = np.cumsum([_TYPES[k][1] for k in rows])[:-1]
        row[i] = rows[np.searchsorted(shares, float(uniforms[i, 1]), side="right")]
    return labels, row


# Drawing, B images at once: x (B, 1, 96) and y (B, 96, 1) are micrometres from the cell's centre, properties (B, 1, 1).
# A distance is negative inside a shape. Every call of `draw` takes the next column of the uniform numbers: none may be
# skipped because of what else is in the batch.


def _draw(uniforms: Array, row: Array, lab: dict, noise: Array) -> Array:
    """uint8 (B, 3, 96, 96): cells of the given rows of `_TYPES` on a film, stained and photographed by a laboratory."""
    columns = iter(uniforms.T)

    def draw(low: object, high: object) -> Array:
        return (low + (high - low) * next(columns))[:, None, None]

    cell = {name: draw(*_RANGES[row, k].T) for k, name in enumerate(_COMMON)}
    zoom = draw(*lab["zoom"])  # pixels a micrometre
    place = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) / zoom
    x = place + draw(-lab["shift"], lab["shift"])
    y = place.transpose(0, 2, 1) + draw(-lab["shift"], lab["shift"])
    soft = zoom / draw(1, 2)  # 1 / width of an edge

    violet, blue, eosin, inside = _cell(cell, draw, x, y, soft)
    red = _red_cells(cell["size"] / 2, lab, draw, x, y, soft) * (1 - inside)
    specks = _stray_platelets(cell["size"] / 2, draw, x, y, soft) * (1 - inside)
    dyes = {"violet": violet + 0.6 * specks, "blue": blue + 0.3 * specks, "eosin": eosin, "haemoglobin": red}
    density = 0.06 + 0.03 * _texture("smooth", 2, draw, x, y)[:, None]  # a trace of stain on the glass
    for name, amount in dyes.items():
        strength = draw(*lab["strength"])
        colour = [strength * c * draw(1 - lab["tint"], 1 + lab["tint"]) for c in lab[name]]
        density = density + np.stack(colour, 1) * amount[:, None]
    return _photograph(density, place, lab, draw, noise)


def _photograph(density: Array, place: Array, lab: dict, draw: Draw, noise: Array) -> Array:
    """uint8 (B, 3, 96, 96) from optical density: uneven light, absorption, focus, sensor noise (random bytes)."""
    light = np.stack([draw(1 - lab["balance"], 1 + lab["balance"]) * c for c in lab["light"]], 1)
    turns, slope, across, down = draw(0, 1), draw(0, lab["gradient"]) / 12, place, place.transpose(0, 2, 1)
    even = 1 + slope * (_cosine(turns) * across + _sine(turns) * down)
    even = (even - draw(*lab["vignette"]) / 256 * (across * across + down * down)) * draw(*lab["exposure"])
    image = light * even[:, None] * _exp_minus(density)
    image = _blur(_blur(image, draw(*lab["blur"]), 1), draw(*lab["defocus"]), 2)
    first, second = noise.reshape(len(image), 2, *image.shape[1:]).transpose(1, 0, 2, 3, 4)
    grain = (first.astype(np.float32) + second - 255) * np.float32(1 / 104)  # triangular, unit variance
    image = image + draw(*lab["noise"])[:, None] * grain
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _cell(cell: dict[str, Array], draw: Draw, x: Array, y: Array, soft: Array) -> tuple[Array, ...]:
    """Amounts of violet, blue and eosin in the cell of interest, and its mask."""
    radius = cell["size"] / 2
    rough, fine = _texture("smooth", 1.7, draw, x, y), _texture("fine", 1, draw, x, y)
    outline = _ellipse(radius, cell["elongation"], draw(0, 1), x, y) + cell["wobble"] * rough
    hair = cell["hair"] * np.maximum(_rays(draw, x, y), 0)
    nucleus = _nucleus(cell, radius, draw, x, y) + cell["folds"] * _texture("smooth", 0.8, draw, x, y)
    outline, nucleus = outline - hair, nucleus - cell["smear"] * hair
    inside, dna = _fill(outline, soft), _fill(nucleus, soft)
    inside = np.maximum(inside, dna)
    plasm = inside - dna

    chromatin = cell["chromatin"] * dna * np.maximum(1 + cell["clumps"] * _texture("fine", 1.5, draw, x, y), 0.55)
    chromatin = chromatin * (1 - cell["nucleoli"] * _spots(0.45, 4.5, draw, x, y))
    rim = np.clip(1 + outline / (0.3 * radius), 0, 1)
    hof = np.clip(1 - np.maximum(nucleus, 0) / (0.35 * radius), 0, 1)
    ground = plasm * (1 + 0.12 * fine + cell["skirt"] * rim) * (1 - cell["hof"] * hof)
    ground = ground * (1 - 0.9 * _spots(cell["vacuoles"], 1.6, draw, x, y))
    granules = _spots(cell["granules"], cell["grain"], draw, x, y) * (plasm + cell["over"] * dna) * cell["ink"]
    violet = chromatin + (1 - cell["red"]) * granules
    eosin = cell["pink"] * ground + 1.6 * cell["red"] * granules + 0.15 * chromatin
    return violet, cell["blue"] * ground, eosin, inside


def _nucleus(cell: dict[str, Array], radius: Array, draw: Draw, x: Array, y: Array) -> Array:
    """Distance from a chain of up to five lobes on an arc, neighbours joined by strands."""
    count, start, away = np.floor(cell["lobes"]), draw(0, 1), draw(0, 1)
    lobes = []
    for j in range(5):
        turns = start + (j - (count - 1) / 2) * cell["step"] + draw(-0.03, 0.03)
        reach = cell["spread"] * radius * draw(0.85, 1.15)
        lobes.append((_cosine(turns) * reach, _sine(turns) * reach))
    # The lobes' centre of mass lies `offset` off the centre of the cell.
    shift = cell["offset"] * radius
    cx = shift * _cosine(away) - sum(a * (j < count) for j, (a, _) in enumerate(lobes)) / np.maximum(count, 1)
    cy = shift * _sine(away) - sum(b * (j < count) for j, (_, b) in enumerate(lobes)) / np.maximum(count, 1)

    far = np.float32(99)
    blend, distance = 0.6 * cell["strand"] * radius + 0.15, far
    for j, (a, b) in enumerate(lobes):
        dx, dy, absent = x - (cx + a), y - (cy + b), (j >= count) * far
        size = cell["lobe"] * radius * draw(0.85, 1.15)
        distance = _union(distance, np.sqrt(dx * dx + dy * dy) - size + absent, blend)
        if j > 0:
            ax, ay = lobes[j - 1][0] - a, lobes[j - 1][1] - b
            along = np.clip((dx * ax + dy * ay) / (ax * ax + ay * ay + 1e-3), 0, 1)
            ex, ey = dx - along * ax, dy - along * ay
            distance = _union(distance, np.sqrt(ex * ex + ey * ey) - cell["strand"] * radius + absent, blend)
    return distance


def _red_cells(radius: Array, lab: dict, draw: Draw, x: Array, y: Array, soft: Array) -> Array:
    """Thickness of the red cells, flat discs with a pale centre, in two rings around the cell of interest."""
    thickness, crowd, start, common = 0, draw(*lab["red_cells"]), draw(0, 1), draw(3.3, 3.9)
    rough, pale = _texture("smooth", 1, draw, x, y), draw(0.35, 0.95)
    for ring, count in ((0, 6), (1, 5)):
        for j in range(count):
            size = common * draw(0.88, 1.1)
            reach = radius + size * draw(0.95, 1.5) + ring * 2.1 * common
            turns = start + (j + draw(-0.45, 0.45)) / count + ring * 0.1
            across, along = x - reach * _cosine(turns), y - reach * _sine(turns)
            distance = _ellipse(size, draw(0, 0.18), draw(0, 1), across, along) + 0.2 * rough
            centre = np.maximum(1 - 2.2 * np.square(1 + distance / size), 0)
            thickness = thickness + _fill(distance, soft) * (1 - pale * centre) * (draw(0, 1) < crowd)
    return thickness


def _stray_platelets(radius: Array, draw: Draw, x: Array, y: Array, soft: Array) -> Array:
    """Up to two platelets that happen to lie in the field."""
    amount, rough = 0, _texture("fine", 1, draw, x, y)
    for _ in range(2):
        turns, reach = draw(0, 1), radius + draw(1.8, 8)
        across, along = x - reach * _cosine(turns), y - reach * _sine(turns)
        distance = _ellipse(draw(0.7, 1.5), draw(0, 0.3), draw(0, 1), across, along) + 0.3 * rough
        amount = amount + _fill(distance, soft) * (0.8 + 0.3 * rough) * (draw(0, 1) < 0.2)
    return amount


def _ellipse(radius: Array, elongation: Array, turns: Array, x: Array, y: Array) -> Array:
    """Distance (near the edge) from an ellipse with axes radius * (1 ± elongation)."""
    c, s, a, b = _cosine(turns), _sine(turns), 1 / np.square(1 + elongation), 1 / np.square(1 - elongation)
    xx, yy, xy = a * c * c + b * s * s, a * s * s + b * c * c, 2 * (a - b) * c * s
    return np.sqrt(xx * x * x + yy * y * y + (xy * x) * y) - radius


def _rays(draw: Draw, x: Array, y: Array) -> Array:
    """Noise that depends on the direction from the centre alone: it turns an outline into hairs."""
    below = y < 0
    along = x / (np.abs(x) + np.abs(y) + 1e-3) * (1 - 2 * below.astype(np.float32)) + 2 * below
    # One turn, 4 units of `along`, takes the whole texture: no seam.
    return _texture("smooth", 4 * _PER_UNIT / _TILE, draw, along, np.zeros_like(along))


def _fill(distance: Array, soft: Array) -> Array:
    return np.clip(0.5 - distance * soft, 0, 1)


def _union(a: Array, b: Array, blend: Array) -> Array:
    """Distance from two shapes together, the notch between them rounded over the length `blend`."""
    return np.minimum(a, b) - np.square(np.maximum(blend - np.abs(a - b), 0)) / (4 * blend)


def _sine(turns: Array) -> Array:
    """sin(2 pi turns) after Bhaskara I, within 0.002: libraries differ in the last bit of theirs."""
    half = 2 * turns - np.floor(2 * turns)
    hump = half * (1 - half)
    return 16 * hump / (5 - 4 * hump) * (1 - 2 * (np.floor(2 * turns) - 2 * np.floor(turns)))


def _cosine(turns: Array) -> Array:
    return _sine(turns + 0.25)


def _exp_minus(density: Array) -> Array:
    """(1 - d / 16) ** 16, close to exp(-d), by multiplication alone."""
    value = np.maximum(1 - density * np.float32(1 / 16), 0)
    for _ in range(4):
        value = value * value
    return value


def _blur(image: Array, weight: Array, step: int) -> Array:
    """Rows, then columns, weighted (w, 1 - 2 w, w) over neighbours `step` pixels away; a negative w sharpens."""
    for axis in (2, 3):
        n, w = image.shape[axis], weight[:, None]
        index = np.arange(n)
        before, after = np.maximum(index - step, 0), np.minimum(index + step, n - 1)
        image = image * (1 - 2 * w) + w * (image.take(before, axis) + image.take(after, axis))
    return image


def _texture(name: str, pitch: Array | float, draw: Draw, x: Array, y: Array) -> Array:
    """A window of a texture at a random place, stretched by `pitch`."""
    ix, iy = (np.floor(v / pitch * _PER_UNIT + draw(0, _TILE)).astype(np.intp) % _TILE for v in (x, y))
    return _textures()[name].take(iy * _TILE + ix)


def _spots(cover: Array | float, pitch: Array | float, draw: Draw, x: Array, y: Array) -> Array:
    """Round spots `pitch` micrometres apart; a smaller `cover` (0 to 1) leaves fewer and smaller ones."""
    return np.clip((_texture("spots", pitch, draw, x, y) - (1 - cover)) * 4, 0, 1)


@cache
def _textures() -> dict[str, Array]:
    """Three square textures that repeat seamlessly: two noises of unit variance, and spots between 0 and 1."""
    stream = np.random.PCG64(np.random.SeedSequence(0))

    def noise(width: int) -> Array:
        field = (stream.random_raw(_TILE * _TILE) >> np.uint64(48)).astype(np.int64).reshape(_TILE, _TILE)
        for axis in (0, 1, 0, 1):
            field = sum(np.roll(field, shift, axis) for shift in range(width)) // width
        field = field - field.sum() // field.size
        return (field / np.sqrt((field * field).sum() / field.size)).astype(np.float32).ravel()

    cells = _TILE // _PER_UNIT
    px, py, rank = (_uniforms(stream, cells * cells).reshape(cells, cells) for _ in range(3))
    grid = np.arange(_TILE, dtype=np.float32) / _PER_UNIT
    own = (grid // 1).astype(np.int64)
    spots = np.zeros((_TILE, _TILE), np.float32)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            i, j = np.ix_((own + di) % cells, (own + dj) % cells)
            dy, dx = (grid - own)[:, None] - di - py[i, j], (grid - own)[None] - dj - px[i, j]
            spots = np.maximum(spots, (0.3 + 0.7 * rank[i, j]) * (1 - 2.5 * (dx * dx + dy * dy)))
    return {"smooth": noise(16), "fine": noise(5), "spots": spots.ravel()}
