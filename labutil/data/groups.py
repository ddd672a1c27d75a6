"""Which images belong together (of one slide, patient or camera), so that no two splits share them. Imports little."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Sequence

from labutil.paths import DataError, absolute


def resolve(groups: str) -> str:
    """`groups` of `load_dataset` with a table's path made absolute, so that it means the same in any process.

    Raises DataError for a pattern that is none, or a table that does not exist.
    """
    if not isinstance(groups, str) or not groups.strip():
        raise DataError(f"groups={groups!r} must be a regular expression such as '^(slide\\d+)', or a .csv file")
    if groups.lower().endswith(".csv"):
        if not (path := absolute(groups)).is_file():
            raise DataError(f"groups: {path} does not exist: check the path")
        return str(path)
    try:
        re.compile(groups)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(f"groups={groups!r} is no regular expression ({error}): correct it") from None
    return groups


def of_names(groups: str, names: Sequence[str], *, files: bool = True) -> list[str]:
    """The group of each image, by its name: its file's path below the source's folder or, in an array, key and position
    (`test_images[17]`).

    groups: a regular expression, searched in files' own names or, if some do not match, in their paths; the first
    capture group is the group, or else all that matched. Or a .csv file with columns path and group. files: whether
    there are files, whose names a regular expression needs.
    Raises DataError as `resolve`, for a table that is none, and for images without a group: how many, and the first.
    """
    groups = resolve(groups)
    if groups.lower().endswith(".csv"):
        table, source = _read(groups), groups
        found = [table.get(_spelled(name), "") for name in names]
    elif not files:
        raise DataError(
            f"groups={groups!r}: these images have no file names: give a .csv of path ({names[0]}) and group"
        )
    else:
        pattern, source = re.compile(groups), repr(groups)
        ways = [
            [_group(pattern.search(text)) for text in texts] for texts in ([n.rpartition("/")[2] for n in names], names)
        ]
        found = min(ways, key=lambda way: way.count(""))  # of equals the first
    if lacking := [name for name, group in zip(names, found, strict=True) if not group]:
        what = f"{len(lacking):,} of {len(names):,} images have no group, the first is {lacking[0]}"
        raise DataError(f"groups: {what}: correct {source}")
    return found


def _group(match: re.Match | None) -> str:
    return (match[1 if match.re.groups else 0] or "") if match else ""


def _spelled(path: str) -> str:
    """A path as any system writes it."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/").removeprefix("./"))


def _read(path: str) -> dict[str, str]:
    """path -> group of a table."""
    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if not {"path", "group"} <= set(rows.fieldnames or ()):
                has = ", ".join(rows.fieldnames or ()) or "nothing"
                raise DataError(f"{path} must have the columns path and group in its first line, but has {has}")
            for row in rows:
                name, group = _spelled(row["path"] or ""), (row["group"] or "").strip()
                if found.setdefault(name, group) != group:
                    raise DataError(f"{path} has two groups for {name} ({found[name]}, {group}): keep one")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}): save it as CSV in UTF-8") from error
    return found
