"""What every explorer is made of: widgets where a person can move them, else one static figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from labutil import device

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explore(draw: Callable[..., Figure], *others: Any, **controls: Any) -> None:
    """Show `draw(**values)`: with widgets where a person can move them, else once, at the widgets' first values.

    others: widgets that stand below the controls and move them.
    """
    if not device.has_front_end():
        draw(**{name: control.value for name, control in controls.items()})
        return
    import ipywidgets
    import matplotlib.pyplot as plt
    from IPython.display import display

    def show(**values: Any) -> None:
        figure = draw(**values)
        display(figure)
        plt.close(figure)

    display(ipywidgets.VBox([*controls.values(), *others, ipywidgets.interactive_output(show, controls)]))


def slider(start: float, low: float, high: float, description: str, *, step: float = 1) -> Any:
    """A slider from low to high that redraws when it is let go; of whole numbers when start and step are."""
    import ipywidgets

    kind = ipywidgets.IntSlider if isinstance(start, int) and isinstance(step, int) else ipywidgets.FloatSlider
    return kind(start, min=low, max=high, step=step, description=description, continuous_update=False)


def toggle(options: Sequence[Any], description: str, start: Any = None) -> Any:
    """Buttons of which one is pressed, at first `start` (None: the first)."""
    import ipywidgets

    value = options[0] if start is None else start
    return ipywidgets.ToggleButtons(options=options, value=value, description=description)


def class_menu(classes: Sequence[str], description: str = "true class") -> Any:
    """A dropdown of all classes (-1, where it begins) or one (0 to K - 1)."""
    import ipywidgets

    options = [("all classes", -1), *((name, k) for k, name in enumerate(classes))]
    return ipywidgets.Dropdown(options=options, value=-1, description=description)
