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


def class_menu(classes: Sequence[str], description: str = "true class") -> Any:
    """A dropdown of all classes (-1, where it begins) or one (0 to K - 1)."""
    import ipywidgets

    options = [("all classes", -1), *((name, k) for k, name in enumerate(classes))]
    return ipywidgets.Dropdown(options=options, value=-1, description=description)
