"""What is decided on each file of a set: a table that a person may change, and the new folder that it makes."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from labutil.cleaning.defects import to_pillow
from labutil.data import folders, loading
from labutil.data.sources import Source, walk
from labutil.device import progress_bar
from labutil.paths import DataError, errors_naming, replace_file

COLUMNS = ("path", "sha256", "label", "reason", "score", "twin", "suggested label", "decision", "proposed", "reviewed",
           "note")  # fmt: skip
# What is proposed for each reason. Of several that an image has, the first here comes first in its row, and decides.
REASONS = {
    "unreadable": "remove", "blank": "remove", "dark": "remove", "bright": "remove", "stranger": "unsure",
    "conflict": "unsure", "leak": "remove", "duplicate": "remove", "blurred": "remove", "doubted label": "unsure",
}  # fmt: skip
DECISIONS = ("keep", "remove", "relabel", "unsure")
_AGAIN = "run labutil clean again, your decisions stay"


def first_reason(table: pd.DataFrame) -> pd.Series:
    """Of all reasons that a row has, the one that decides; "" where there is none."""
    return table["reason"].str.partition(";")[0]


def summary(table: pd.DataFrame) -> str:
    """How many files have each reason, each counted once, by its first one; and what is decided. Both add up."""
    first = first_reason(table).replace("", "nothing found")
    counts = pd.crosstab(first, table["decision"])
    counts = counts.reindex([name for name in [*REASONS, "nothing found"] if name in counts.index])
    counts = counts.reindex(columns=[name for name in DECISIONS if name in counts])
    counts.insert(0, "files", counts.sum(axis=1))
    counts.loc["all"] = counts.sum()
    return counts.rename_axis(index=None, columns=None).to_string(formatters=dict.fromkeys(counts, "{:,}".format))


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a table of decisions, whole or not at all."""
    replace_file(path, lambda temporary: table.to_csv(temporary, index=False, encoding="utf-8"))


def load(path: Path | io.StringIO) -> pd.DataFrame:
    """Read a table of decisions, perhaps changed in a spreadsheet. Raises DataError for anything else."""
    where = path if isinstance(path, Path) else "what was sent"
    try:
        text = path.read_bytes().decode("utf-8-sig") if isinstance(path, Path) else path.getvalue()
        separator = ";" if text.partition("\n")[0].count(";") > 5 else ","
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        wrong = f"cannot be read as a table of decisions ({getattr(error, 'strerror', None) or error})"
        raise DataError(f"{where} {wrong}: make one with labutil clean") from None
    if missing := [name for name in COLUMNS if name not in table]:
        raise DataError(f"{where} has no column {missing[0]!r}: make one with labutil clean")
    table = table[list(COLUMNS)].assign(decision=table["decision"].str.strip().str.lower())
    for what, wrong in (
        (f"is none of {', '.join(DECISIONS)}", ~table["decision"].isin(DECISIONS)),
        ("needs a suggested label", (table["decision"] == "relabel") & (table["suggested label"].map(plain) == "")),
        ("stands there twice", table["path"].duplicated()),
    ):  # fmt: skip
        if wrong.any():
            row = table[wrong].iloc[0]
            raise DataError(f"{where}: {row['path']}, decision {row['decision']!r}: {what}; correct that row")
    return table


def plain(label: str) -> str:
    """A class's name as that of a folder: without what this system has not in names, and not hidden."""
    if sys.platform == "win32":
        return re.sub(r'[<>:"/\\|?*\0-\x1f]', "_", label).strip().strip(".").strip()
    return re.sub(r"[/\\\0]", "_", label).strip().lstrip(".")


def apply(table: pd.DataFrame, source: Source, target: Path) -> dict[str, int]:
    """Write `target`/images, a class folder of what is not removed, and `target`/quarantine, a folder a reason.

    Files are copied byte by byte, at their own sizes and under their own names; images out of arrays become PNG, which
    loses nothing, and groups that an .npz brings `target`/groups.csv, for `groups` of `load_dataset`. Returns how many
    were kept, relabelled, quarantined and could not be copied. Raises DataError, and leaves nothing behind, where
    the target holds something or lies inside the source, or the source is no longer what the table says.
    """
    root = source.paths[0] if source.kind == "folder" else None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} already holds something: name a new folder with --out")
    if root and target.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{target} lies inside {root}, which is never changed: name another folder with --out")
    copy, place_of, own, groups = _opened_folder(source) if root else _opened_arrays(source)
    bare = set(table.loc[table["sha256"] == "", "path"])
    if changed := sorted((own ^ set(table["path"])) - bare):
        what = "is new since it was judged" if changed[0] in own else "is gone"
        raise DataError(f"{source.name}: {changed[0]} {what}: {_AGAIN}")
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    counts, taken = dict.fromkeys(("kept", "relabelled", "quarantined", "not readable, left out"), 0), set()
    grouped = []  # path and group
    try:
        with errors_naming(target, temporary), progress_bar(len(table), "copying", "file") as bar:
            (temporary / "images").mkdir(parents=True)
            rows = table.assign(first=first_reason(table)).to_dict("records")
            for row in sorted(rows, key=lambda row: row["decision"] == "relabel"):
                bar.update()
                path, label, new = row["path"], row["label"], plain(row["suggested label"])
                if not row["sha256"]:
                    counts["not readable, left out"] += 1
                    continue
                what = {"remove": "quarantined", "relabel": "relabelled"}.get(row["decision"], "kept")
                if new == plain(label) and what == "relabelled":
                    what = "kept"
                reason = row["first"].replace(" ", "_") or "by_hand"
                top = f"quarantine/{reason}" if what == "quarantined" else "images"
                place = _free(f"{top}/{place_of(path, new if what == 'relabelled' else None)}", taken)
                (temporary / place).parent.mkdir(parents=True, exist_ok=True)
                if copy(path, temporary / place) != row["sha256"]:
                    raise DataError(f"{path} has changed since it was judged: {_AGAIN}")
                counts[what] += 1
                if groups.get(path) and top == "images":
                    grouped.append((place.removeprefix("images/"), groups[path]))
            if grouped:
                rows = pd.DataFrame(grouped, columns=["path", "group"])
                rows.to_csv(temporary / "groups.csv", index=False, encoding="utf-8")
            save(table, temporary / "decisions.csv")
            if target.exists():
                target.rmdir()
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return counts


def _free(place: str, taken: set[str]) -> str:
    """A place that no file has yet, also where capitals and small letters are one."""
    stem, dot, end = place.rpartition(".") if "." in place.rpartition("/")[2] else (place, "", "")
    found, number = place, 2
    while found.casefold() in taken:
        found, number = f"{stem}_{number}{dot}{end}", number + 1
    taken.add(found.casefold())
    return found


# copy(path, target) -> sha256; its place in a class folder, perhaps of another class; all paths; the groups of some
_Opened = tuple[Callable[[str, Path], str], Callable[[str, str | None], str], set[str], dict[str, str]]


def _opened_folder(source: Source) -> _Opened:
    root = source.paths[0]
    plan = folders.plan_folder(root, [*walk(root, [])], lenient=True)
    files = {file.name: (file.path, label) for file, label in zip(plan.files, plan.labels, strict=True)}
    divided = all("/" in name and folders.split_of(name.partition("/")[0]) for name in files)
    tops = sorted({name.partition("/")[0] for name in files}) if divided else []
    train = [top for top in tops if folders.split_of(top) == "train"] or ["train"]
    spelled = {}  # a class's name -> its folder's, perhaps in other bytes

    def pieces(name: str) -> tuple[list[str], list[str], list[str]]:
        """Split, class, and what lies below it."""
        path, label = files[name]
        parts = os.path.relpath(path, root).split(os.sep)
        middle = divided + (label >= 0)
        return parts[:divided], parts[divided:middle], parts[middle:]

    for name, (_, label) in files.items():
        if label >= 0:
            spelled.setdefault(plan.classes[label], pieces(name)[1][0])

    def place_of(name: str, new: str | None) -> str:
        split, label, below = pieces(name)
        if new:
            # an unlabelled image that gets a label is one to train on
            split = train if split and folders.split_of(split[0]) == "unlabelled" else split
            label = [spelled.get(new, new)]
        return "/".join([*split, *label, *below])

    def copy(name: str, target: Path) -> str:
        total = hashlib.sha256()
        with open(files[name][0], "rb") as original, open(target, "wb") as copied:
            while chunk := original.read(1 << 20):
                total.update(chunk)
                copied.write(chunk)
        return total.hexdigest()

    return copy, place_of, set(files), {}


def _opened_arrays(source: Source) -> _Opened:
    found = loading.load_source(source, lenient=True)
    places = {plain(name).casefold(): name for name in found.classes}
    if "" in places or len(places) < len(found.classes):
        lost = next(name for name in found.classes if places.get(plain(name).casefold() or None) != name)
        raise DataError(f"{source.name}: class {lost!r} has no folder's name of its own: rename it")
    wrapped = len(found.parts) > 1 or any(folders.split_of(name) for name in found.classes)  # a class called train
    row_of = {name: row for row, name in enumerate(loading.image_names(found))}
    parts = np.repeat(list(found.parts), list(found.parts.values()))

    def place_of(name: str, new: str | None) -> str:
        row = row_of[name]
        own = found.classes[found.labels[row]] if found.labels[row] >= 0 else ""
        split, label = str(parts[row]), new or plain(own)
        split = "train" if new and split == "unlabelled" else split
        return "/".join([*[split] * wrapped, *[label] * bool(label), f"{row:06d}.png"])

    def copy(name: str, target: Path) -> str:
        image = found.images[row_of[name]]
        to_pillow(image).save(target)
        return hashlib.sha256(image.tobytes()).hexdigest()

    return copy, place_of, set(row_of), dict(zip(row_of, found.groups or (), strict=False))
