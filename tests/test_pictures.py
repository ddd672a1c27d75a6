"""Figures of images: each in its place with its title, sharp where small, averaged where large, small as files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from labutil import plots, style
from labutil.data import cells


def noise(n, channels=3, side=32):
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)


def words(figure):
    return [t.get_text() for t in figure.axes[0].texts if t.get_text()]


def first_pixels(figure):
    return [int(image.get_array()[0, 0, 0]) for image in figure.axes[0].images]


def page(figure, image):
    """What a screen of two pixels a page pixel shows of an image: int (h, w, 3)."""
    file = io.BytesIO()
    figure.savefig(file, dpi=2 * 96)
    left, right, bottom, top = (2 * round(edge) for edge in image.get_extent())
    return np.asarray(Image.open(file).convert("RGB")).astype(int)[top:bottom, left:right]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_small_images_are_enlarged_pixel_by_pixel(channels, kind):
    images = noise(3, channels, 28)
    given = images if kind == "uint8" else images / 255
    figure = plots.image_grid(given, ["a", "b", "c"], columns=2, title_colours=["red", "black", "blue"])
    axes = figure.axes[0]
    assert words(figure) == ["a", "b", "c"] and len(axes.images) == 3
    assert [t.get_color() for t in axes.texts] == ["red", "black", "blue"]
    np.testing.assert_array_equal(axes.images[1].get_array(), images[1].permute(1, 2, 0).expand(28, 28, 3))
    left, right, bottom, top = axes.images[1].get_extent()
    assert (right - left, bottom - top) == (112, 112)  # page pixels, the figure's units: four times
    squares = page(figure, axes.images[1]).reshape(28, 8, 28, 8, 3)  # each pixel is one of eight by eight
    assert np.abs(squares - axes.images[1].get_array()[:, None, :, None].astype(int)).max() <= 1


def test_large_images_are_averaged_and_keep_their_shape():
    images = torch.full((2, 3, 240, 480), 255, dtype=torch.uint8)
    images[..., ::2] = 0  # stripes that picking pixels would show as black or white
    figure = plots.image_grid(images)
    image = figure.axes[0].images[0]
    left, right, bottom, top = image.get_extent()
    assert (right - left, bottom - top) == (112, 56)
    shown = page(figure, image)
    assert shown.shape == (112, 224, 3)  # for screens of two pixels a page pixel
    assert shown[:, 2:-2].min() > 60 and shown[:, 2:-2].max() < 190


def test_so_few_columns_that_no_word_is_cut():
    titles = ["immature granulocyte", "erythroblast"] * 8
    assert words(plots.image_grid(noise(16), titles))[0] == "immature\ngranulocyte"
    rows = {text.get_position()[1] for text in plots.image_grid(noise(16), ["a"] * 16).axes[0].texts}
    assert len(rows) == 2  # eight a row where titles are short
    eight = plots.image_grid(noise(16), titles, columns=8)
    assert len({t.get_position()[1] for t in eight.axes[0].texts}) == 2
    assert set(words(eight)) == {"immature\ngranulocyte", "erythroblast"}  # rather a wider figure


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid(torch.zeros(2, 4, 8, 8)), "C = 1 or 3"),
        (lambda: plots.image_grid(noise(2), ["a"]), "titles: 1 for 2 images"),
        (lambda: plots.image_grid(noise(2), title_colours=["red"]), "title_colours: 1 for 2 images"),
        (lambda: plots.heat_maps(noise(3), torch.rand(3, 16, 16)), "maps:"),
        (lambda: plots.heat_maps(noise(3), torch.rand(3, 32, 32), ["a"]), "titles: 1 for 3"),
        (lambda: plots.image_rows({"image": noise(2), "reconstruction": noise(3)}), r"\[2, 3\] images"),
        (lambda: plots.image_rows({"image": noise(2)}, titles=["1"]), "as many"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_rows_have_names_and_columns_titles():
    x = torch.rand(4, 1, 8, 8)
    figure = plots.image_rows({"a": x, "b": x.repeat(1, 3, 1, 1)}, titles=list("1234"), title="t")
    assert len(figure.axes[0].images) == 8 and words(figure) == [*"1234", "a", "b"]


def test_a_white_image_has_an_edge():
    images = torch.stack([torch.full((1, 8, 8), 255), torch.zeros(1, 8, 8)]).to(torch.uint8)
    (edge,) = plots.image_grid(images).axes[0].patches
    assert edge.get_extents().width == pytest.approx(112)


def test_heat_maps_show_each_image_above_its_map():
    x = torch.full((1, 1, 40, 40), 128, dtype=torch.uint8)
    x[..., :20] = 0
    maps = torch.zeros(1, 40, 40)
    maps[:, :20] = 1
    figure = plots.heat_maps(x, maps, ["name"], columns=6, title="where")
    assert words(figure) == ["name"] and figure.get_suptitle() == "where"
    shown = figure.axes[0].images[0].get_array().astype(int)
    assert shown[10, 30].tolist() == [128] * 3 and shown[10, 10].max() == 0  # the image, then its map
    high_dark, high_bright, low_dark, low_bright = (shown[r, c].sum() for r in (52, 72) for c in (10, 30))
    assert high_dark > low_dark + 100 and high_bright > low_bright + 100
    assert high_bright > high_dark + 100 and low_bright > low_dark + 100
    assert shown.shape == (82, 40, 3)


def test_class_samples_come_from_their_class():
    labels = torch.arange(40) % 4
    labels[:4] = -1
    images = (labels * 60).clamp(min=250 * (labels < 0)).to(torch.uint8)[:, None, None, None].expand(40, 1, 8, 8)
    figure = plots.class_samples(images, labels, ["a", "b", "c", "d"], per_class=3)
    assert first_pixels(figure) == [k * 60 for k in range(4) for _ in range(3)]
    assert words(figure) == ["a", "b", "c", "d"]
    again = plots.class_samples(images, labels, [str(i) for i in range(30)])
    assert again.get_suptitle() == "12 of 30 classes"


def test_a_mark_stays_beside_its_name():
    figure = plots.image_grid(noise(6), ["✗\u202fimmature granulocyte\nit is lymphocyte"] * 6, columns=6)
    first = {text.get_text().split("\n")[0] for text in figure.axes[0].texts}
    assert first == {"✗\u202fimmature"}


def test_predictions_mark_right_and_wrong_by_sign_and_colour():
    figure = plots.predictions(noise(2), [0, 1], [[0.9, 0.1], [0.8, 0.2]], ["cat", "dog"], n=2)
    titles = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert titles == {"✓\u202fcat\n90%": plots.RIGHT, "✗\u202fcat\n80%; it is\ndog": plots.WRONG}


def test_confused_pairs_show_the_most_confident_first_and_a_perfect_model_says_so():
    images, p = noise(3), [[0.4, 0.6], [0.1, 0.9], [0.3, 0.7]]
    figure = plots.confused_pairs(images, [0, 0, 1], p, ["cat", "dog"])
    assert words(figure) == ["90%", "60%", "cat\n→ dog\n2 images, 100%"]
    assert first_pixels(figure) == images[[1, 0], 0, 0, 0].tolist()
    perfect = plots.confused_pairs(images, [1, 1, 1], p, ["cat", "dog"])
    assert perfect.get_suptitle() == "no image is classified wrongly"


def test_figures_of_photographs_stay_small():
    images = torch.from_numpy(cells.generate(64, 0)[0])
    y, p = torch.arange(64) % 8, torch.eye(8)[(torch.arange(64) + torch.arange(64) // 8) % 8]
    classes = [f"class {i}" for i in range(8)]
    shown = [plots.class_samples(images, y, classes), plots.predictions(images, y, p, classes)]
    shown += [plots.confused_pairs(images, y, p, classes), plots.image_grid(images)]
    sizes = [len(style.as_html(figure, "alt")) / 1024 for figure in shown]  # as they lie in a notebook
    assert max(sizes) < 420 and sum(sizes) < 1100, sizes
