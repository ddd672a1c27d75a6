"""What every error message of the package has in common: the nearest name that exists."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`" (did you mean 'epochs'?)"` for a near miss, else `""`: goes behind the wrong name in a message.

    Example:
        did_you_mean("epoch", ["epochs", "lr"])  # " (did you mean 'epochs'?)"
    """
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(word).lower(), lowered, n=1)
    return f" (did you mean {lowered[near[0]]!r}?)" if near else ""


def check_choice(parameter: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError, naming the parameter and the nearest choice, when `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{parameter}={value!r}{did_you_mean(value, choices)} is not one of {', '.join(choices)}")
