"""`labutil clean`, from what a person types to what it prints."""

from __future__ import annotations

from pathlib import Path

import click

from labutil import paths
from labutil.cleaning import decisions, tool
from labutil.cleaning import review as pages
from labutil.data import sources
from labutil.paths import DataError

_SOURCE = "source.txt"  # beside decisions.csv: what the table is about


def clean(spec: str, out: Path | None) -> None:
    """Judge a source, and write decisions.csv, review.html and what they are about."""
    spec = sources.resolve(spec)
    source = sources.parse(spec)
    out = paths.absolute(out or paths.runs_dir() / "clean" / paths.file_name(source.name))
    if source.kind == "folder" and out.resolve().is_relative_to(source.paths[0].resolve()):
        raise DataError(f"{out} lies inside {source.paths[0]}, which is never changed: name another folder with --out")
    table, about = out / "decisions.csv", out / _SOURCE
    if about.is_file() and (earlier := about.read_text("utf-8", "surrogateescape").strip()) != spec:
        raise DataError(f"{out} holds decisions about {earlier}: name another folder with --out")
    judged = tool.clean(source, decisions.load(table) if table.is_file() else None)
    paths.make_folder(out)
    paths.replace_file(about, lambda temporary: temporary.write_text(f"{spec}\n", "utf-8", "surrogateescape"))
    decisions.save(judged.table, table)
    shown = pages.write_page(judged, out / "review.html", f"Review of {source.name}")
    click.echo(
        f"{source.name}: {len(judged.table):,} file{'s' * (len(judged.table) != 1)}\n{decisions.summary(judged.table)}"
    )
    for note in judged.notes:
        click.echo(f"note: {note}")
    kept = (judged.table["reviewed"] == "yes").sum()
    click.echo(f"decisions  {table}" + (f" ({kept:,} of them yours, as before)" if kept else ""))
    findings = (judged.table["reason"] != "").sum()
    some = f" ({shown:,} of {findings:,} findings; the rest when you run this again)" if shown < findings else ""
    click.echo(f"review     labutil clean --review {out}{some}\nthen       labutil clean --apply {table}")


def review(folder: Path) -> None:
    """Serve the review page until it is interrupted."""
    folder = paths.absolute(folder)
    folder = folder.parent if folder.is_file() else folder  # somebody named the table in it
    try:
        pages.serve(folder, lambda url: click.echo(f"{url}\n(for this machine only; Ctrl+C ends it)"))
    except KeyboardInterrupt:
        click.echo(f"\nwhat you decided is in {folder / 'decisions.csv'}")


def apply(table: Path, spec: str | None, out: Path | None) -> None:
    """Make the new folder that a table of decisions says."""
    table = paths.absolute(table)
    table = table / "decisions.csv" if table.is_dir() else table
    chosen, about = decisions.load(table), table.with_name(_SOURCE)
    if not spec and not about.is_file():
        raise DataError(f"{about} is missing: say what the decisions are about, labutil clean SPEC --apply {table}")
    source = sources.parse(spec or about.read_text("utf-8", "surrogateescape").strip())
    target = paths.absolute(out or table.with_name("cleaned"))
    counts = decisions.apply(chosen, source, target)
    click.echo(f"{len(chosen):,} files: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    twins = dict(zip(chosen["path"], chosen["decision"], strict=True))
    copies = decisions.first_reason(chosen).isin(["duplicate", "leak"])
    lost = chosen[copies & (chosen["decision"] == "remove") & (chosen["twin"].map(twins) == "remove")]
    if len(lost):
        click.echo(f"note: {len(lost):,} copies went although their twin went too, as {lost['path'].iloc[0]}")
    if unsure := (chosen["decision"] == "unsure").sum():
        click.echo(f"note: {unsure:,} that are unsure were kept")
    if new := sorted(set(chosen.loc[chosen["decision"] == "relabel", "suggested label"]) - set(chosen["label"])):
        click.echo(f"note: no class before: {', '.join(new)}")
    if source.kind != "folder":
        click.echo("note: the images were in arrays; they are PNG files now, which lose nothing")
    click.echo(f"folder:{target / 'images'}\nremoved: {target / 'quarantine'}")
