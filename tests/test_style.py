"""One style: given back after use, colours that stay apart, letters of any script, figures shown with their text."""

from __future__ import annotations

import base64
import io
import re
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from labutil import plots, style
from labutil.runs.record import Run

SCRIPTS = ["猫", "犬", "กระต่าย", "กระต่า", "cat"]


@pytest.fixture
def fonts(monkeypatch):
    """Only matplotlib's own font is known, and those that the test says are installed: {name: letters}."""
    monkeypatch.setattr(style, "families", dict(list(style.families.items())[:1]))
    monkeypatch.setattr(style, "stand_ins", {})
    installed = {}
    monkeypatch.setattr(style, "installed_fonts", lambda: installed)
    return installed


def test_the_style_is_given_back_after_an_error():
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError):
        plots.roc([0, 1], [[2.0, 1.0], [0.5, 0.5]], ["cat", "dog"])
    assert dict(matplotlib.rcParams) == before


def luminance(colour):
    c = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def test_colours_can_be_told_from_the_page_and_from_each_other():
    contrast = {c: 1.05 / (luminance(c) + 0.05) for c in (*style.COLOURS, *style.METHODS.values())}
    assert min(contrast.values()) >= 2.99
    assert all(1.05 / (luminance(c) + 0.05) >= 4.5 for c in (style.RIGHT, style.WRONG, style.GRAY, style.COLOURS[1]))
    assert set(style.METHODS.values()) == {*style.COLOURS, style.GRAY, style.METHODS["ensemble"]}
    methods = [name for name in style.METHODS if style.METHODS[name] != style.GRAY]
    assert len({style.METHODS[name] for name in methods}) == len(methods) == 9


def test_a_method_has_one_colour_and_lines_of_a_figure_differ():
    for label in ("SimCLR, 100 epochs", "simclr"):
        assert style.known_colour(label) == style.METHODS["SimCLR"]
    assert style.known_colour("supervision") is None and style.known_colour("random encoder") == style.GRAY
    looks = style.looks(["mine", "SupCon", "yours", "SimCLR", "chance"])
    assert [looks[i]["color"] for i in (1, 3, 4)] == [style.METHODS[m] for m in ("SupCon", "SimCLR", "chance")]
    assert len({look["color"] for look in looks}) == 5
    assert len({tuple(look.values()) for look in style.looks(range(20))}) == 20


def test_without_a_font_each_name_has_a_stand_in_and_a_line_says_so(fonts, capsys):
    images, y = torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10) % 5
    figure = plots.class_samples(images, y, SCRIPTS)
    shown = [t.get_text() for t in figure.axes[0].texts if t.get_text()]
    assert shown[0] == "U+732B" and shown[4] == "cat" and len(set(shown)) == 5
    assert all(name.isascii() or "…" in name for name in shown)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and all(name in printed for name in SCRIPTS[:4])
    balance = plots.class_balance(np.arange(5), SCRIPTS)
    assert [t.get_text() for t in balance.axes[0].get_xticklabels()] == shown  # the same in every figure
    assert capsys.readouterr().out == ""  # said once
    titled = plots.image_grid(images[:1], ["✗ 猫\n90%; it is\n犬"])
    assert "✗ U+732B\n90%; it is\nU+72AC" in [t.get_text() for t in titled.axes[0].texts]
    assert plots.lines(pd.DataFrame({"a": [1.0]}, [1]), xlabel="犬の数").axes[0].get_xlabel().startswith("U+72AC")


def test_a_font_installed_since_matplotlib_looked_is_found_and_drawn_with(tmp_path, monkeypatch):
    ttf = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [ttf / "STIXGeneral.ttf", ttf / "LastResortHE-Regular.ttf", tmp_path / "gone.ttf"]
    monkeypatch.setattr(style, "families", dict(list(style.families.items())[:1]))
    listed = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, paths)))
    style.installed_fonts.cache_clear()
    assert set(style.installed_fonts()) == {"DejaVu Sans", "STIXGeneral"}  # the other has a box for every letter
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a missing glyph
        figure = plots.image_grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), ["ℊ"])
        figure.canvas.draw()
    (title,) = figure.axes[0].texts
    assert title.get_text() == "ℊ" and title.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]
    style.installed_fonts.cache_clear()


def parsed(figure, alt='Loss falls: 2 < 3 & "rises" again'):
    text = style.as_html(figure, alt)
    (image,) = re.findall(r"<img .*?>", text)
    assert 'alt="Loss falls: 2 &lt; 3 &amp; &quot;rises&quot; again"' in image
    kind, data = re.search(r'src="data:image/(\w+);base64,(.*?)"', image).groups()
    return text, Image.open(io.BytesIO(base64.b64decode(data))), kind, int(re.search(r'width="(\d+)"', image)[1])


def test_lines_are_svg_with_a_picture_for_viewers_that_refuse_it():
    table = pd.DataFrame({"a": [1.0, 2.0]}, [1, 2])
    text, picture, kind, width = parsed(plots.lines(table))
    assert (kind, width, picture.width) == ("png", 672, 1344)
    (vector,) = re.findall(r'<source type="image/svg\+xml" srcset="data:image/svg\+xml;base64,(.*?)">', text)
    root = ET.fromstring(base64.b64decode(vector))
    assert root.tag.endswith("svg") and root.get("width") == "504pt"  # 672 pixels
    assert parsed(plots.lines(table))[0] == text  # nothing of the time or the machine in it


def test_a_picture_for_viewers_that_refuse_svg_has_the_colours_of_thin_lines_and_pale_cells():
    y, p = np.arange(64) % 8, np.full((64, 8), 1 / 8)  # eight curves on top of each other: a few pixels in the legend
    matrix = plots.confusion([[97, 3], [0, 100]], ["cat", "dog"])
    pale = matrix.axes[0].collections[0].to_rgba(3)[:3]
    for figure, colours, error in ((plots.roc(y, p, list("abcdefgh")), style.COLOURS, 8), (matrix, [pale], 1)):
        pixels = np.asarray(parsed(figure)[1].convert("RGB")).astype(int)
        for colour in colours:
            wanted = (255 * np.array(matplotlib.colors.to_rgb(colour))).round()
            assert (np.abs(pixels - wanted).max(-1) <= error).sum() > 50, colour


def test_images_are_jpeg_with_two_pixels_a_page_pixel():
    text, picture, kind, width = parsed(plots.image_grid(torch.rand(4, 3, 48, 48)))
    assert kind == "jpeg" and "<source" not in text and picture.width == 2 * width


def test_a_shown_figure_is_kept_and_closed(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda data, **settings: shown.append((data, settings)))
    run = Run(tmp_path, {})
    run.save_figure(None, "map")
    plots.show(None, "map", "Nothing to draw", run)
    assert not shown and not any(tmp_path.iterdir())
    figure = plots.bars(pd.Series({"a": 3}))
    plots.show(figure, "counts", "Three of a", run)
    assert (tmp_path / "figures" / "counts.png").exists() and not plt.fignum_exists(figure.number)
    ((data, settings),) = shown
    assert 'alt="Three of a"' in data["text/html"] and data["text/plain"] == "Three of a"
    assert settings == {"metadata": {"alt": "Three of a"}, "raw": True}
    for alt in (" ", "counts"):
        with pytest.raises(ValueError, match="says no more than"):
            plots.show(plots.bars(pd.Series({"a": 3})), "counts", alt)


def test_without_a_notebook_nothing_is_shown_and_readings_are_printed(capsys):
    plots.show(plots.bars(pd.Series({"a": 3})), "counts", "Three of a")
    plots.reading("One sentence.")
    assert capsys.readouterr().out == "One sentence.\n" and not plt.get_fignums()
