"""What every explorer is made of: widgets where a person can move them, else one static figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import IPython.display
import ipywidgets
from matplotlib.figure import Figure

from labutil import device, plots

ALL = "all classes"


def explore(draw: Callable[..., Figure], *others: ipywidgets.Widget, alt: str, **controls: ipywidgets.Widget) -> None:
    """Show `draw(**values)`: with widgets where a person can move them, else once, at the widgets' first values.

    others: widgets that stand below the controls and move them. alt: what the figures show, for readers who cannot see
    them; a figure's own title is added. Outside a notebook the figure stays open.
    """

    def show(**values: Any) -> None:
        figure = draw(**values)
        said = f"{alt} {figure.get_suptitle()}"
        plots.show(figure, "explorer", f"{said.strip(' .')}.")

    if device.has_front_end():
        output = ipywidgets.interactive_output(show, controls)
        IPython.display.display(ipywidgets.VBox([*controls.values(), *others, output]))
        return
    values = {name: control.value for name, control in controls.items()}
    if IPython.get_ipython() is None:
        draw(**values)
    else:
        show(**values)


def slider(start: float, low: float, high: float, description: str, *, step: float = 1) -> ipywidgets.Widget:
    """A slider from low to high that redraws when it is let go; of whole numbers when start and step are."""
    kind = ipywidgets.IntSlider if isinstance(start, int) and isinstance(step, int) else ipywidgets.FloatSlider
    return kind(start, min=low, max=high, step=step, description=description, continuous_update=False)


def class_menu(classes: Sequence[str], description: str = "true class") -> ipywidgets.Dropdown:
    """A dropdown of all classes (-1, where it begins) or one (0 to K - 1)."""
    options = [(ALL, -1), *((name, k) for k, name in enumerate(classes))]
    return ipywidgets.Dropdown(options=options, value=-1, description=description)


def grid(tiles: Sequence[tuple[Any, str, str]], columns: int, title: str) -> Figure:
    """A grid of (picture, its title, the title's colour)."""
    pictures, titles, colours = ([tile[i] for tile in tiles] for i in range(3))
    return plots.image_grid(pictures, titles, columns=columns, title=title, title_colours=colours)
