"""What the user should know about a data set that can be loaded, a line each."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from labutil.data.store import Stored
from labutil.images import Dataset


def of(stored: Stored, rows: dict[str, np.ndarray], names: Sequence[str], *, grouped: bool = False) -> list[str]:
    """On a source and its division into parts (rows as of `splits.split`). names: of its images. grouped: whether
    whole groups were divided."""
    notes = list(stored.notes)
    if "-1" in stored.classes:
        notes.append("-1 is a class like any other: lay images without a label into unlabelled/ or unlabelled_images")
    spelled: dict[str, str] = {}
    for name in stored.classes:
        other = spelled.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), name)
        if other != name:
            notes.append(f"{other!r} and {name!r} are two classes: give them one name if they are the same")
    inner: dict[int, set[str]] = {}
    for name, label in zip(stored.names or (), stored.labels.tolist(), strict=False):
        inner.setdefault(label, set()).add(name.rpartition("/")[0].rpartition("/")[2])
    inner.pop(-1, None)
    below = next(iter(inner.values()), set())
    if len(below) > 1 and all(some == below for some in inner.values()) and not below & set(stored.classes):
        same, some = ", ".join(stored.classes[:3]), ", ".join(sorted(below)[:3])
        notes.append(f"the class folders ({same}, ...) all hold the same folders ({some}, ...): are those the classes?")
    for part in ("val", "test") if grouped else ():
        lacking = np.setdiff1d(stored.labels[rows["train"]], stored.labels[rows[part]])
        if len(lacking):
            some = ", ".join(stored.classes[k] for k in lacking[:3]) + ", ..." * (len(lacking) > 3)
            notes.append(f"{part} has no images of {some}: whole groups allow no better split")
    return notes + [note for part in ("val", "test") if (note := _twins(stored, rows, part, names))]


def contents(data: Dataset) -> str:
    """What is in a data set that was loaded, as `labutil data` shows it."""
    height, width = data.train.images.shape[2:]
    lines = [f"{data.name}: {data.channels} x {height} x {width}, {len(data.classes) or 'no'} classes"]
    for split in ("train", "val", "test", "unlabelled"):
        if (images := getattr(data, split)) is not None:
            whole = f" of {len(set(images.groups))} groups" if images.groups else ""
            lines.append(f"  {split:<10} {len(images):>8,} images{whole}")
    longest = max(map(len, data.classes), default=0)
    for i, name in enumerate(data.classes):
        lines.append(f"    {name:<{longest}}  {(data.train.labels == i).sum():>7,} in train")
    mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (data.mean, data.std))
    return "\n".join([*lines, f"  mean ({mean})  std ({std})  fingerprint {data.fingerprint}"])


def _twins(stored: Stored, rows: dict[str, np.ndarray], part: str, names: Sequence[str]) -> str:
    """On images of val or test that another part holds too, equal in every value; "" where none is."""
    others = [name for name in ("train", "unlabelled", *["val"] * (part == "test")) if name in rows]
    elsewhere = np.concatenate([rows[name] for name in others])
    own = rows[part][np.isin(stored.same[rows[part]], stored.same[elsewhere])]
    if not len(own):
        return ""
    order = elsewhere[np.argsort(stored.same[elsewhere], kind="stable")]
    twin = order[np.searchsorted(stored.same[order], stored.same[own])]
    disputed = ((stored.labels[own] != stored.labels[twin]) & (stored.labels[twin] >= 0)).sum()
    labels = f", {disputed:,} of them with another label" * bool(disputed)
    return (
        f"{len(own):,} of {len(rows[part]):,} {part} images are in {' or '.join(others)} too, equal in every pixel"
        f"{labels} ({names[own[0]]} and {names[twin[0]]} are the first): what is measured on them is memory. "
        "labutil clean finds these and altered copies, as lesson 01 shows"
    )
