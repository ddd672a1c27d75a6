"""What every explorer is made of: widgets where a person can move them, else one static figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import IPython.display
import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from labutil import device, plots, style

ALL = "all classes"


def explore(draw: Callable[..., Figure], *others: ipywidgets.Widget, alt: str, **controls: ipywidgets.Widget) -> None:
    """Show `draw(**values)`: with widgets where a person can move them, else once, at the widgets' first values.

    others: widgets that stand below the controls and move them. alt: what the figures show, for readers who cannot see
    them; a figure's own title is added. Outside a notebook the figure stays open.
    """
    start = {name: control.value for name, control in controls.items()}

    def described(figure: Figure) -> str:
        return f"{f'{alt} {figure.get_suptitle()}'.strip(' .')}."

    if not device.has_front_end():
        figure = draw(**start)
        if IPython.get_ipython() is not None:
            plots.show(figure, "explorer", described(figure))
        return
    picture, reset, moving = ipywidgets.HTML(), ipywidgets.Button(description="reset"), []

    def redraw(*_: Any) -> None:
        if not moving:
            figure = draw(**{name: control.value for name, control in controls.items()})
            picture.value = style.as_html(figure, described(figure), once=True)
            plt.close(figure)

    def go_back(_: Any) -> None:
        moving.append(True)  # one picture, not one a control
        for name, control in controls.items():
            control.value = start[name]
        moving.clear()
        redraw()

    for control in controls.values():
        control.observe(redraw, "value")
    reset.on_click(go_back)
    redraw()
    box = ipywidgets.VBox([*controls.values(), *others, reset, picture])
    IPython.display.display(box.add_class("explorer"))


def slider(
    start: float, low: float, high: float, description: str, *, step: float = 1, form: str | None = None
) -> ipywidgets.Widget:
    """A slider from low to high that redraws when it is let go; of whole numbers when start and step are. form: how it
    shows its number, ".0%"."""
    kind = ipywidgets.IntSlider if isinstance(start, int) and isinstance(step, int) else ipywidgets.FloatSlider
    shown = {"readout_format": form} if form else {}
    return kind(start, min=low, max=high, step=step, description=description, continuous_update=False, **shown)


def class_menu(classes: Sequence[str], description: str = "true class") -> ipywidgets.Dropdown:
    """A dropdown of all classes (-1, where it begins) or one (0 to K - 1)."""
    options = [(ALL, -1), *((name, k) for k, name in enumerate(classes))]
    return ipywidgets.Dropdown(options=options, value=-1, description=description)


def grid(tiles: Sequence[tuple[Any, str, str]], columns: int, title: str) -> Figure:
    """A grid of (picture, its title, the title's colour)."""
    pictures, titles, colours = ([tile[i] for tile in tiles] for i in range(3))
    return plots.image_grid(pictures, titles, columns=columns, title=title, title_colours=colours)
