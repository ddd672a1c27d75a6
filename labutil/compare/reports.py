"""docs/reports.md: every number and figure of the five reports, the command that does it here, and what came of it.

    python -m labutil.compare.reports        (or `make reports`)

Its rows are those of docs/reports.yaml. What is said to be ours is read from what finished runs have left: sweeps that
come with the workbook (docs/reports, notebooks/sweeps), encoders (notebooks/encoders), figures told in README.md and
docs/measured.md; and, where a row names a metric, the reader's own finished runs of its command.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

import pandas as pd
import yaml

from labutil import encoders, paths, runs
from labutil.paths import DataError
from labutil.runs import parameters

ROOT = paths.project_root()
TABLE, PAGE = ROOT / "docs" / "reports.yaml", ROOT / "docs" / "reports.md"
STATUSES = {
    "reached": "on the report's own data the number is as good; or a thing that it made is made here, too",
    "direction agrees": "on other data the finding is the same",
    "other data": "measured, on data that allow no comparison of numbers",
    "not reached": "measured, and the number is worse, or the finding another",
    "not run": "the command is there, and is run cut short by a test; why it was not run in full stands beside it",
}
FIELDS = ("place", "says", "command", "ours", "status", "why")


def read() -> dict[str, dict[str, Any]]:
    """The table of rows: {"A": {"title": ..., "data": ..., "rows": [{...}, ...]}, ...}. Raises DataError for a row that
    lacks something, or has a status that there is not."""
    reports = yaml.safe_load(TABLE.read_text("utf-8"))
    for letter, report in reports.items():
        for row in report["rows"]:
            if lacking := [field for field in FIELDS if not str(row.get(field) or "").strip()]:
                raise DataError(f"{TABLE.name}, {letter}, {row.get('place')!r}: {', '.join(lacking)} is empty")
            if row["status"] not in STATUSES:
                raise DataError(f"{TABLE.name}, {letter}, {row['place']!r}: status {row['status']!r} is none of these")
    return reports


def fill(text: str) -> str:
    """Text with what is in braces read from files.

    {methods method=simclr knn_accuracy}: of the rows of a committed sweep with this value, a metric's mean ± standard
    deviation. {simclr_long test_knn_accuracy}: a score of a committed encoder. {told "..."}: these very words, which
    README.md or docs/measured.md must hold. Raises DataError where a file, its rows, a metric or the words are missing.
    """
    return re.sub(r"\{([^}]+)\}", lambda found: _value(found[1]), text)


def _value(text: str) -> str:
    name, *words = shlex.split(text)
    if name == "told":
        files = (ROOT / "README.md", ROOT / "docs" / "measured.md")
        if not any(words[0] in " ".join(file.read_text("utf-8").split()) for file in files):
            raise DataError(f"{TABLE.name}: neither README.md nor docs/measured.md says {words[0]!r} (any more)")
        return words[0]
    *conditions, metric = words
    if name in encoders.SHIPPED:
        return number(metric, pd.Series([encoders.facts(name)["scores"][metric]]))
    places = (ROOT / "docs" / "reports", ROOT / "notebooks" / "sweeps")
    file = next((path / f"{name}.csv" for path in places if (path / f"{name}.csv").exists()), None)
    if file is None:
        raise DataError(f"{TABLE.name}: {{{text}}}: no {name}.csv in docs/reports or notebooks/sweeps")
    rows = select(pd.read_csv(file, comment="#"), dict(word.split("=", 1) for word in conditions))
    if metric not in rows or rows[metric].isna().all():
        raise DataError(f"{TABLE.name}: {{{text}}}: {file.name} has no such rows, or no {metric}")
    return number(metric, rows[metric])


def select(table: pd.DataFrame, conditions: dict[str, Any], prefix: str = "") -> pd.DataFrame:
    """The complete runs of a table that have these values, as they are typed."""
    table = table[table.status == "complete"]
    for key, value in conditions.items():
        if prefix + key not in table:
            return table[:0]
        table = table[table[prefix + key].map(_typed) == _typed(value)]
    return table


def _typed(value: Any) -> str:
    """Values that mean the same, alike: 4, 4.0 and "4"; None, "none" and the NaN that pandas makes of it."""
    if value is None or value != value:
        return "none"
    try:
        return str(value).lower() if str(value) in {"True", "False"} else f"{float(value):g}"
    except (TypeError, ValueError):  # text, or a list
        return str(value).lower()


def number(metric: str, values: pd.Series) -> str:
    """A metric's values for people: their mean ± standard deviation, shares in percent."""
    share = re.search("accuracy|precision|recall|f1|auc|top5", metric) is not None
    mean, std = values.mean() * (100 if share else 1), values.std() * (100 if share else 1)
    digits = 1 if share else max(0, 2 - math.floor(math.log10(abs(mean) or 1)))
    spread = f" ± {std:.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{spread}" + ("%" if share else "")


def own(row: dict[str, Any]) -> str:
    """What the reader's own finished runs of a row's command came to, in words; "" where there are none."""
    words = shlex.split(row["command"])
    if "metric" not in row or words[1] not in {"run", "sweep"} or "--recipe" not in words:
        return ""
    recipe, where = words[words.index("--recipe") + 1], dict(row.get("where") or {})
    where |= {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
    if words[1] == "sweep":
        folder, prefix = paths.sweeps_dir() / recipe, ""
        if not (folder / "sweep.csv").exists():
            return ""
        found = pd.read_csv(folder / "sweep.csv", dtype={"path": str})
    else:
        folder, prefix, found = paths.runs_dir(), "params.", runs.load_runs()
        if not len(found):
            return ""
        found = found[found.recipe == recipe]
    found = select(found[found.notebook == parameters.find_notebook(words[2]).stem], where, prefix)
    said = []
    for metric in row["metric"].split():
        if metric in found and (values := found[metric].dropna()).size:
            said.append(f"{metric} {number(metric, values)}")
    if not said:
        return ""
    seen = {(runs.read_record(folder / path) or {}).get("dataset", {}).get("name", "?") for path in found.path}
    return f"**yours**, {len(found)} run{'s' * (len(found) > 1)} on {', '.join(sorted(seen))}: {', '.join(said)}"


def page() -> str:
    """The whole page, as Markdown."""
    reports = read()
    lines = [
        "# Every number and figure of the five reports, and what does it here",
        "",
        "Made by `make reports` (`python -m labutil.compare.reports`) from [reports.yaml](reports.yaml) and from what",
        "finished runs have left; do not edit it here. Commands with `--recipe` that you have run yourself are in the",
        "column *ours* as well, as *yours*. ± is the standard deviation over runs. `cells` are this workbook's own",
        "generated blood cells, on which most was measured: so findings of a report can be met, not its numbers.",
        "",
        *(f"- **{name}**: {meaning}." for name, meaning in STATUSES.items()),
        "",
        f"| report | rows | {' | '.join(STATUSES)} |",
        f"|---|---{'|---' * len(STATUSES)}|",
    ]
    for letter, report in reports.items():
        counts = [sum(row["status"] == name for row in report["rows"]) for name in STATUSES]
        lines.append(f"| {letter} | {len(report['rows'])} | {' | '.join(map(str, counts))} |")
    for letter, report in reports.items():
        lines += ["", f"## {letter}. {report['title']}", "", " ".join(report["data"].split()), ""]
        lines += ["| where | what it says | here | ours | status | why |", "|---|---|---|---|---|---|"]
        for row in report["rows"]:
            ours = "; ".join(filter(None, (fill(row["ours"]), own(row))))
            cells = (row["place"], row["says"], f"`{row['command']}`", ours, f"**{row['status']}**", fill(row["why"]))
            lines.append("| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = page()
    paths.replace_file(PAGE, lambda temporary: temporary.write_text(text, "utf-8"))
    print(runs.show_path(PAGE))


if __name__ == "__main__":
    main()
