"""Near-duplicates: altered copies are found with their originals, nothing else is; each step against a known map."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from labutil import device
from labutil.cleaning import duplicates
from labutil.cleaning.duplicates import near_duplicates
from labutil.data import cells


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cells(n: int, seed: int) -> Tensor:
    return torch.from_numpy(cells.generate(n, seed)[0])


def _noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=_generator(), dtype=torch.uint8)


def _bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def _moved(image: Tensor, right: int = 0, down: int = 0, zoom: float = 1.0) -> Tensor:
    height, width = image.shape[1:]
    theta = torch.tensor([[[1 / zoom, 0, -2 * right / width], [0, 1 / zoom, -2 * down / height]]])
    grid = F.affine_grid(theta, (1, *image.shape), align_corners=False)
    return _bytes(F.grid_sample(image[None].float(), grid, padding_mode="border", align_corners=False)[0])


def _jpeg(image: Tensor, quality: int = 40) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


ALTERED = {
    "moved": lambda image: _moved(image, 6, -4),
    "zoomed": lambda image: _moved(image, zoom=1.15),
    "mirrored": lambda image: image.flip(2),
    "upside down": lambda image: image.flip(1),
    "turned by half": lambda image: image.flip(1, 2),
    "brighter": lambda image: _bytes(image.float() * 1.2),
    "recompressed": _jpeg,
    "noisy": lambda image: _bytes(image + 8 * torch.randn(image.shape, generator=_generator())),
    "gray": lambda image: image.float().mean(0, keepdim=True).expand(3, -1, -1).round().to(torch.uint8),
    "all at once": lambda image: _jpeg(_moved(image, 3, 3, 0.92).flip(2)),
    "the same": lambda image: image,
}


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Candidates by their pixels only, where the network's opinion is not in question: three times as fast."""

    def layouts(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(duplicates._layout(duplicates._small(images)) for images in (x, y))

    monkeypatch.setattr(duplicates, "_embeddings", layouts)


def _scores(*images: Tensor) -> dict[tuple[int, int], float]:
    return _checked(near_duplicates(*images))


def _checked(pairs: pd.DataFrame) -> dict[tuple[int, int], float]:
    assert list(pairs.columns) == ["index", "reference_index", "score"]
    assert list(pairs.dtypes) == [np.int64, np.int64, np.float64] and list(pairs.index) == list(range(len(pairs)))
    assert pairs["score"].between(0, 1).all()
    assert (pairs["score"].diff() > 0).sum() <= 1  # each image's best match, then the rest: both most alike first
    scores = {(i, j): score for i, j, score in pairs.itertuples(index=False)}
    assert len(scores) == len(pairs)  # each pair once
    return scores


def _above(scores: dict[tuple[int, int], float], least: float = 0.5) -> list[tuple[int, int]]:
    return [pair for pair, score in scores.items() if score > least]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """32 cells, then altered copies of every second; and the pairs found among them."""
    images = _cells(32, 2)
    images = torch.cat([images, torch.stack([alter(images[2 * k]) for k, alter in enumerate(ALTERED.values())])])
    with pytest.MonkeyPatch.context() as patch:  # before the folder that every test has of its own
        patch.setenv("LABUTIL_DATA", str(tmp_path_factory.mktemp("data")))
        return images, near_duplicates(images)


def test_altered_copies_are_found_and_nothing_else(planted):
    scores = _checked(planted[1])
    assert all(index > reference for index, reference in scores)
    names = {(32 + k, 2 * k): name for k, name in enumerate(ALTERED)}
    assert {names.get(pair, pair) for pair in _above(scores)} == set(ALTERED)
    same = [pair for pair, score in scores.items() if score == 1]
    assert [names[pair] for pair in same] == ["the same"] and same[0] == next(iter(scores))  # first


def test_two_calls_agree_and_draw_from_no_one_elses_numbers(planted):
    images, pairs = planted
    before, order = torch.get_rng_state(), device.generator("augment").get_state()
    again = near_duplicates(images.numpy())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(device.generator("augment").get_state(), order)
    assert again.equals(pairs)


def test_between_two_sets_of_other_sizes_and_channels():
    reference = _cells(30, 3)
    altered = [ALTERED[name](reference[7 * k]) for k, name in enumerate(("moved", "mirrored", "recompressed"))]
    images = torch.cat([_cells(5, 4), torch.stack(altered)]).float()
    images = _bytes(F.interpolate(images, (64, 80), mode="bilinear", antialias=True).mean(1, keepdim=True))  # gray
    scores = _scores(images, reference)
    assert set(_above(scores)) == {(5, 0), (6, 7), (7, 14)} and max(scores.values()) < 1
    # The other way round the pairs are the same, the other way round.
    assert set(_above(_scores(reference, images))) == {(0, 5), (7, 6), (14, 7)}


def test_equal_images_between_two_sets(no_network):
    reference = _cells(8, 5)
    scores = _scores(torch.cat([_cells(3, 6), reference[[6, 2]]]), reference)
    assert list(scores)[:2] == [pair for pair, score in scores.items() if score == 1] == [(3, 6), (4, 2)]
    # An image is its own copy in a second set, not in its own.
    scores = _scores(reference, reference)
    assert [pair for pair, score in scores.items() if score == 1] == [(i, i) for i in range(8)]


def test_images_that_are_not_square():
    wide = _cells(12, 7)[:, :, 20:80].contiguous()  # 60 by 96
    images = torch.cat([wide, wide[4].flip(2)[None], _moved(wide[9], 4, 2)[None]])
    assert set(_above(_scores(images))) == {(12, 4), (13, 9)}


def test_too_few_images_for_a_pair():
    none, one, two = (_noise(n, 3, 20, 20) for n in (0, 1, 2))
    for images in ([none], [one], [two, none], [none, two]):
        assert _scores(*images) == {}
    assert list(_scores(two)) == [(1, 0)]
    assert list(_scores(one, two[:1].mean(1, keepdim=True, dtype=torch.float).byte())) == [(0, 0)]


def test_every_one_of_many_equal_images_has_a_partner():
    scores = _scores(_noise(1, 1, 16, 16).expand(100, -1, -1, -1))
    assert set(scores.values()) == {1} and {row for pair in scores for row in pair} == set(range(100))
    assert len(scores) <= 4 * 100  # and not 4,950


def test_equal_plain_frames_are_found_among_pictures(no_network):
    plain = torch.full((40, 3, 32, 32), 77, dtype=torch.uint8)
    images = torch.cat([_cells(60, 2)[:, :, ::3, ::3], plain])
    sure = near_duplicates(images).query("score == 1")
    assert set(sure["index"]) | set(sure["reference_index"]) == set(range(60, 100))
    # as they are in another set, one partner each at least
    sure = near_duplicates(images[-3:], images[:-3]).query("score == 1")
    assert set(sure["index"]) == {0, 1, 2} and sure["reference_index"].between(60, 96).all()


def test_plain_frames_of_different_gray_are_no_copies(no_network):
    frames = torch.arange(0, 200, 5, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 24, 24)
    scores = _scores(torch.cat([frames, frames[5:6]]))
    assert _above(scores) == [(40, 5)] and scores[40, 5] == 1
    # and the faint pattern of an almost plain frame is no proof
    pattern = _noise(1, 1, 8, 8).gt(127).byte().repeat_interleave(4, 2).repeat_interleave(4, 3)
    for contrast, found in ((5, False), (60, True)):
        frame = 100 + contrast * pattern
        assert bool(_above(_scores(torch.cat([frame, frame + 1])))) == found


def test_odds_fall_with_the_number_of_rivals(no_network, monkeypatch):
    monkeypatch.setattr(duplicates, "_confirm", lambda x, y, theta: torch.full((len(x),), 1.5))
    images = _cells(5, 9)
    expected = [1 / (1 + k * math.exp(-1.5)) for k in (1, 2, 3, 4)]
    for sets in ((images[:1], images[1:]), (images[1:], images[:1])):
        assert near_duplicates(*sets)["score"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("within", [True, False])
def test_each_images_best_match_comes_before_any_second_best(within, monkeypatch):
    g = _generator(3)
    pairs = torch.randint(0, 9, (60, 2), generator=g).unique(dim=0)
    if within:
        pairs = pairs[pairs[:, 0] > pairs[:, 1]]
    score = torch.rand(len(pairs), generator=g).double()
    monkeypatch.setattr(duplicates, "_examine", lambda *_: (pairs, score))
    images = _noise(9, 1, 4, 4)
    found = near_duplicates(images) if within else near_duplicates(images, images)
    rows = [(i, j, s) for (i, j), s in zip(pairs.tolist(), score.tolist(), strict=True)]

    def best(i, j, s):  # for the one or, within one set, for the other
        rival = max(other for a, _, other in rows if a == i)
        if not within:
            return s == rival
        return any(s == max(t for a, b, t in rows if image in (a, b)) for image in (i, j))

    expected = sorted(rows, key=lambda row: (not best(*row), -row[2]))
    assert list(found.itertuples(index=False, name=None)) == expected
    assert 0 < sum(best(*row) for row in rows) < len(rows)


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (40, 1, 96, 96)])
def test_noise_is_no_copy_of_other_noise(shape, no_network):
    assert max(_scores(_noise(*shape)).values()) < 0.5


def test_wrong_input():
    images = _noise(3, 3, 8, 8)
    for wrong, message in (
        ([images.float()], r"^images: expected uint8 \(N, 1 or 3, H, W\), got torch.float32 \(3, 3, 8, 8"),
        ([images, images[0]], r"^reference: expected uint8 .* got torch.uint8 \(3, 8, 8\)$"),
        ([images[:, :2].numpy()], r"^images: .* \(3, 2, 8, 8\)$"),
    ):
        with pytest.raises(ValueError, match=message):
            near_duplicates(*wrong)


# The steps


def test_identical_against_a_double_loop():
    kinds = _noise(4, 1, 2, 2)
    x, y = kinds[[0, 1, 0, 2, 0, 1]], kinds[[3, 1, 0, 1]]
    digests_x, digests_y, oblong = (duplicates._digests(images) for images in (x, y, y.view(4, 1, 1, 4)))
    pairs = duplicates._identical(digests_x, digests_x, within=True).tolist()
    assert all(i > j and torch.equal(x[i], x[j]) for i, j in pairs)
    # one for each image that has an earlier equal
    assert [i for i, _ in pairs] == [i for i in range(6) if any(torch.equal(x[i], x[j]) for j in range(i))]
    pairs = duplicates._identical(digests_x, digests_y, within=False).tolist()
    assert all(torch.equal(x[i], y[j]) for i, j in pairs)
    assert [i for i, _ in pairs] == [i for i in range(6) if any(torch.equal(x[i], image) for image in y)]
    assert duplicates._identical(digests_x, oblong, within=False).shape == (0, 2)


@pytest.mark.parametrize("within", [True, False])
def test_nearest_against_a_sort(within):
    a, b = (F.normalize(torch.randn(n, 6, generator=_generator(n)), dim=1) for n in (9, 14))
    b = a if within else b
    order = (a @ b.T - 3 * within * torch.eye(9, len(b))).argsort(1, descending=True)
    expected = {(i, j) for i, row in enumerate(order.tolist()) for j in row[:3]}
    assert {tuple(pair) for pair in duplicates._nearest(a, b, 3, within).tolist()} == expected
    assert len(duplicates._nearest(a, b, 99, within)) == len(a) * (len(b) - within)


def test_eigenvectors_answer_where_single_precision_gives_up(monkeypatch):
    eigh = torch.linalg.eigh

    def refuses_singles(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("too many repeated eigenvalues")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", refuses_singles)
    h = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    values, vectors = duplicates._eigenvectors(h.T @ h)
    assert values.dtype == vectors.dtype == torch.float32
    torch.testing.assert_close(values[-20:], torch.linalg.svdvals(h).square().flip(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(60))


def test_rank_against_a_slow_loop():
    g = _generator()
    log_odds = torch.randint(0, 12, (60,), generator=g).double()  # with ties: the earlier pair first
    of = torch.randint(0, 9, (60,), generator=g)
    expected = []
    for k in range(60):
        others = [j for j in range(60) if of[j] == of[k]]
        expected.append(1 + sum(log_odds[j] > log_odds[k] or (log_odds[j] == log_odds[k] and j < k) for j in others))
    assert duplicates._rank(log_odds, of).tolist() == expected


def _scene(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth picture to cut from: uint8 (3, height, width)."""
    rough = torch.rand(1, 3, height // 4, width // 4, generator=_generator(seed))
    return _bytes(255 * F.interpolate(rough, (height, width), mode="bicubic")[0])


@pytest.mark.parametrize("mirror", [(), (1,), (2,), (1, 2)], ids=["none", "upside down", "left-right", "both"])
@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-4, 5)])
def test_coarse_finds_a_shift_and_a_mirroring(shift, mirror):
    scenes = torch.stack([_scene(64, 64, seed) for seed in range(3)])
    right, down = shift  # in pixels of half the size
    x = scenes[:, :, 16:48, 16:48]
    y = scenes.flip(*(d + 1 for d in mirror)) if mirror else scenes
    y = y[:, :, 16 - 2 * down : 48 - 2 * down, 16 - 2 * right : 48 - 2 * right]
    pairs = torch.tensor([(0, 0), (1, 1), (2, 2), (0, 1)])
    theta, correlation = duplicates._coarse(duplicates._half(x), duplicates._half(y), pairs)
    sx, sy = (-1 if 2 in mirror else 1), (-1 if 1 in mirror else 1)
    # y at p shows x at (sx px, sy py) less the shift; a pixel of the half-size picture is 1/8 wide
    expected = torch.tensor([[sx, 0, -sx * right / 8], [0, sy, -sy * down / 8]], dtype=torch.float32)
    torch.testing.assert_close(theta[:3], expected.expand(3, -1, -1))
    assert float(correlation[:3].min()) > 0.4 > float(correlation[3])


def _hills(theta: Tensor) -> Tensor:
    """A smooth picture, known at any place, seen through a map: float (1, 1, 32, 32) in [0, 1]."""
    axis = (torch.arange(32) * 2 + 1) / 32 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u, v = (torch.stack([x, y, torch.ones_like(x)], -1) @ theta.T).unbind(-1)
    z = torch.sin(5 * u + 1) + torch.sin(6 * v) + torch.sin(4 * u + 5 * v) + torch.cos(7 * u - 3 * v + 2)
    return (z / 8 + 0.5)[None, None]


@pytest.mark.parametrize(
    ("angle", "zoom", "right", "down"), [(0, 1, 0.1, -0.06), (6, 1, 0, 0), (0, 1.1, 0, 0), (-5, 0.93, 0.05, 0.08)]
)
def test_refine_recovers_an_affine_map(angle, zoom, right, down):
    c, s = math.cos(math.radians(angle)) * zoom, math.sin(math.radians(angle)) * zoom
    truth, start = torch.tensor([[c, -s, right], [s, c, down]]), torch.eye(3)[:2]
    p = _hills(start)
    for gain, offset in ((1, 0), (0.8, 0.15)):  # light does not pull at it
        q = gain * _hills(truth) + offset
        theta = duplicates._refine(p, q, start[None])[0]
        assert float((theta - truth).abs().max()) < 0.02 < float((start - truth).abs().max())

        def left(theta, q=q, gain=gain, offset=offset):
            change = gain * duplicates._warp(p, theta[None]) + offset - q
            return float(change[..., 6:-6, 6:-6].square().mean().sqrt())

        assert left(theta) < 0.02 and left(theta) < 0.2 * left(start)


def test_log_odds_of_the_same_picture_another_and_a_plain_sky():
    same = torch.eye(3)[None, :2]
    p, other = (_scene(32, 32, seed)[None].float().mean(1, keepdim=True) / 255 for seed in (0, 1))
    sky = torch.linspace(0.5, 0.6, 32).view(1, 1, 32, 1).expand(-1, -1, -1, 32)
    odds = [float(duplicates._log_odds(p, q, same)) for q in (p, 0.8 * p + 0.1, other, sky)]
    assert odds[0] > odds[1] > 2 and max(odds[2:]) < -5
    # a map that mirrors undoes a mirrored picture
    mirrored = duplicates._log_odds(p, p.flip(3), same * torch.tensor([-1.0, 1.0, 1.0]))
    assert float(mirrored) == pytest.approx(odds[0], 0.01)


def test_colours_speak_where_there_are_some():
    same = torch.eye(3)[None, :2]
    p, other = (_scene(32, 32, seed)[None] for seed in (0, 1))
    gray = p.float().mean(1, keepdim=True).byte().expand(-1, 3, -1, -1)
    for x, y in ((p, gray), (gray, p), (gray, gray)):
        assert duplicates._colours(x, y, same).tolist() == [[0, 0]]
    (change, alike), (unlike_change, unlike) = (duplicates._colours(p, q, same)[0].tolist() for q in (p, other))
    assert change == pytest.approx(-1.8) and alike > 0.5 > 0.2 > unlike and unlike_change > change
    # of a tinted copy the mean changes, and not where colours lie
    tint = torch.tensor([20.0, 0, -20]).view(1, 3, 1, 1)
    tinted = duplicates._colours(p, _bytes(p * 0.7 + 38 + tint), same)[0]
    assert tinted[0] - change == pytest.approx(math.log1p(math.hypot(20, 20)), abs=0.3)
    assert float(tinted[1]) == pytest.approx(alike, abs=0.1)
    # a mirrored copy has its colours elsewhere, unless the map says so
    mirror = same * torch.tensor([-1.0, 1.0, 1.0])
    assert duplicates._colours(p, p.flip(3), mirror)[0].tolist() == pytest.approx([change, alike], abs=1e-4)
    assert float(duplicates._colours(p, p.flip(3), same)[0, 1]) < alike - 0.2


@pytest.mark.parametrize(
    ("linear", "expected"),
    [
        ([[1, 0], [0, 1]], 0),
        (
            [[0.8 * math.cos(0.2), -0.8 * math.sin(0.2)], [0.8 * math.sin(0.2), 0.8 * math.cos(0.2)]],
            0,
        ),  # a zoom, a turn
        ([[-1, 0], [0, 1]], -2),
        ([[-1, 0], [0, -1]], -2),
        ([[1.3, 0], [0, 1]], -3.7 * math.log(1.3)),
    ],
)
def test_maps_that_copying_seldom_makes(linear, expected):
    theta = torch.cat([torch.tensor(linear, dtype=torch.float32), torch.ones(2, 1)], 1)[None]
    assert duplicates._unlikeliness(theta).tolist() == pytest.approx([expected], abs=1e-5)
