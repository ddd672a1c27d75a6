"""What all figures share: sizes, colours, letters of any script, and how a figure is shown and kept.

One inch is 96 pixels of a page. Figures are 672 pixels wide and their text 16 high, which is 9 on a phone 390 wide.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import itertools
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import IPython.display
import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from labutil.paths import no_tags

WIDTH = 7.0  # inches
STYLE = {
    "figure.dpi": 96, "font.size": 12, "axes.titlesize": 12, "axes.labelsize": 12, "xtick.labelsize": 12,
    "ytick.labelsize": 12, "legend.fontsize": 12, "legend.title_fontsize": 12, "figure.titlesize": 12,
    "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.0,
    "figure.facecolor": "white",  # its own face, with a margin, on a dark page too
    "figure.constrained_layout.use": True, "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "text.parse_math": False,  # a class may be called "$5 to $10"
}  # fmt: skip
# At least 3:1 on white, and apart from each other (and from gray and black) by 23 units of CIELAB, also as seen by
# people without one of the three kinds of cones (Machado et al. 2009).
COLOURS = ("#0D4EA4", "#964D09", "#00AB58", "#E763C0", "#5581FA", "#B59011", "#473769", "#68492C")
GRAY = "#767676"
# One colour a method, in every lesson and report.
METHODS = {
    "supervised": "#68492C", "transfer": "#964D09", "SimCLR": "#0D4EA4", "BYOL": "#5581FA", "SimSiam": "#473769",
    "Barlow Twins": "#E763C0", "SupCon": "#00AB58", "autoencoder": "#B59011", "ensemble": "#000000",
    "random encoder": GRAY, "chance": GRAY, "pixels": GRAY,
}  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
RIGHT, WRONG, PALE = "#0D4EA4", "#B33C00", "#BBBBBB"  # PALE is for what carries no text
MOST_CLASSES = 20  # more cannot be told apart in one figure

# {font: its characters} that figures are drawn with: matplotlib's own, and what `legible` had to add.
families = {"DejaVu Sans": frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())}
stand_ins: dict[str, str] = {}  # letters that no font has -> what is written instead


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the workbook's style without changing anybody else's, and in letters that this machine can draw."""

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        # Not plt.rc_context: the first figure loads the notebook's backend, which switches interactive mode on, and
        # leaving the context would switch it off again.
        before, known = {key: plt.rcParams[key] for key in STYLE}, len(stand_ins)
        plt.rcParams.update(STYLE)
        try:
            figure = draw(*args, **kwargs)
            for text in figure.findobj(Text):
                text.set(text=legible(text.get_text()), family=list(families))
        finally:
            plt.rcParams.update(before)
        if new := list(stand_ins.items())[known:]:
            words = ", ".join(f"{shown} for {letters}" for letters, shown in new)
            print(f"No installed font has these letters, so figures write {words}. A Noto font would show them.")
        return figure

    return drawn


@functools.cache
def installed_fonts() -> dict[str, frozenset[int]]:
    """The code points that each installed font has."""
    found: dict[str, frozenset[int]] = {}
    for path in sorted({font.fname for font in font_manager.fontManager.ttflist} | set(font_manager.findSystemFonts())):
        try:
            font_manager.fontManager.addfont(path)  # it may be newer than matplotlib's list
            font = font_manager.get_font(path)
        except (OSError, RuntimeError, ValueError):  # a font that matplotlib cannot read
            continue
        if "last" not in font.family_name.lower():  # Last Resort has a box for every letter
            found[font.family_name] = frozenset(font.get_charmap())
    return found


def legible(text: str) -> str:
    """The text as an installed font can draw it: letters that none has become their first code point, "U+732B"."""
    lacking = {ord(c) for c in text if not c.isspace()}.difference(*families.values())
    for family, letters in installed_fonts().items() if lacking else ():
        if lacking & letters:
            families[family] = letters
            lacking -= letters
    if not lacking:
        return text
    text = "".join(c for c in text if ord(c) not in lacking or unicodedata.category(c)[0] != "C")  # no joiners alone

    def stand_in(run: re.Match[str]) -> str:
        form = f"U+{ord(run[0][0]):04X}" + f"…{len(stand_ins) + 1}" * (len(run[0]) > 1)
        return stand_ins.setdefault(run[0], form)

    return re.sub(f"[{re.escape(''.join(map(chr, lacking)))}]+", stand_in, text)


def known_colour(label: str) -> str | None:
    """The colour of the method whose name a label begins with, "SimCLR, 100 epochs"; None: it names no method."""
    return next((METHODS[name] for name in METHODS if re.match(rf"{name}\b", label, re.IGNORECASE)), None)


def looks(labels: Iterable[Any]) -> list[dict[str, Any]]:
    """Colour and marker of lines in one figure: methods have their own colours, others those that are left."""
    known = [known_colour(str(label)) for label in labels]
    others = itertools.cycle([c for c in COLOURS if c not in known] or COLOURS)
    return [{"color": c or next(others), "marker": MARKERS[(i + i // 8) % 8]} for i, c in enumerate(known)]


def short(name: str, width: int = 26) -> str:
    """A name for an axis or a legend; with a space before an underscore, as legends skip names that begin with one."""
    name = legible(f" {name}" if name.startswith("_") else name)
    return name if len(name) <= width else name[: width - 1] + "…"


def wrap(text: str, width: int) -> str:
    """For each of the text's own lines at most three of `width` characters."""
    lines = legible(text).split("\n")
    return "\n".join(textwrap.fill(line, width, max_lines=3, placeholder="…") for line in lines)


def words(text: str) -> list[str]:
    """What a text may be broken into: a mark and the name that it belongs to stay on one line ("✓\u202fcat")."""
    return re.split(r"[ \n]+", legible(text).strip())


def text_width(text: str) -> float:
    """Pixels that the widest line of a text takes."""
    return max(_line_width(line, tuple(families)) for line in text.split("\n"))


@functools.lru_cache(4096)  # an explorer asks for the same names at each move: half of what drawing costs
def _line_width(line: str, fonts: tuple[str, ...]) -> float:
    font = font_manager.FontProperties(family=list(fonts), size=STYLE["font.size"])
    return RendererAgg(1, 1, STYLE["figure.dpi"]).get_text_width_height_descent(line, font, False)[0]


def fit(text: str, pixels: float) -> str:
    """The text wrapped into so many pixels, whatever letters it has."""
    text = legible(text)
    tries = itertools.chain([text], (wrap(text, width) for width in range(len(text), 0, -1)))
    return next((t for t in tries if text_width(t) <= pixels), "")


def legend_below(figure: Figure, handles: Sequence[Any] | None = None, title: str = "") -> None:
    """A legend under the panels, in as many columns as there is room for, and the figure that much higher."""
    handles = handles or figure.axes[0].get_legend_handles_labels()[0]
    labels = [handle.get_label() for handle in handles]
    room = figure.get_figwidth() * STYLE["figure.dpi"] - 20
    columns = max(1, min(len(labels), int(room / (max(map(text_width, labels)) + 70))))
    rows = -(-len(labels) // columns) * (1 + max(label.count("\n") for label in labels))
    figure.set_figheight(figure.get_figheight() + 0.22 * (rows + bool(title)) + 0.1)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, title=title)


def as_html(figure: Figure, alt: str, *, once: bool = False) -> str:
    """A figure as an HTML image with its alternative text. Images are JPEG, all else SVG with a PNG for viewers that
    refuse SVG (JupyterLab in notebooks that it does not trust, GitHub), at two by two pixels a page pixel. once: for a
    picture that the next move replaces: PNG alone, in a third of the time."""

    def data_url(kind: str, **settings: Any) -> str:
        file = io.BytesIO()
        figure.savefig(file, format=kind.removesuffix("+xml"), dpi=2 * STYLE["figure.dpi"], **settings)
        if kind == "png" and not once:  # lines need few colours
            picture, file = Image.open(file).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE), io.BytesIO()
            picture.save(file, "png", optimize=True)
        return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"

    alt = html.escape(" ".join(alt.split()))
    has_images = any(axes.images for axes in figure.axes)
    picture = data_url("jpeg", pil_kwargs={"quality": 85}) if has_images else data_url("png")
    image = f'<img alt="{alt}" width="{figure.bbox.width:.0f}" src="{picture}">'
    if has_images or once:
        return image
    with plt.rc_context({"svg.hashsalt": "labutil"}):  # the same figure gives the same text
        vector = data_url("svg+xml", metadata={"Date": None, "Title": alt})
    return f'<picture><source type="image/svg+xml" srcset="{vector}">{image}</picture>'


def show(figure: Figure | None, name: str, alt: str, run: Any = None) -> None:
    """Show a figure with its alternative text, keep it in the run as figures/<name>.png, and close it; None: nothing.

    alt: what the figure shows, for a reader who cannot see it; ValueError when it says no more than the name. run: what
    `runs.open_run` returns.
    """
    if figure is None:
        return
    alt = " ".join(alt.split())
    if alt in ("", name):
        raise ValueError(f"alt: {alt!r} says no more than the figure's name {name!r}; say what the figure shows")
    if run is not None:
        run.save_figure(figure, name)
    if IPython.get_ipython() is not None:
        shown = {"text/html": as_html(figure, alt), "text/plain": alt}
        IPython.display.display(shown, metadata={"alt": alt}, raw=True)
    plt.close(figure)


def reading(text: str) -> None:
    """Show the open figures, then a paragraph (Markdown) that reads them; without a notebook, print the paragraph."""
    if IPython.get_ipython() is None:
        print(text)
    else:
        plt.show()
        IPython.display.display(IPython.display.Markdown(no_tags(text)))
