"""The `labutil` command. Nothing heavy is imported before it is needed: a finished run is found at once."""

from __future__ import annotations

import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from labutil import paths, runs
from labutil.data import sources
from labutil.runs import execute, parameters, report_e

# Errors of a disk and of rights to it: nothing is wrong in the program.
_FULL = ("ENOSPC", "EDQUOT", "EFBIG")
_DISK = (*_FULL, "EACCES", "EPERM", "EROFS", "EIO", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "ESTALE")
PATH, FOLDER = click.Path(path_type=Path), click.Path(file_okay=False, path_type=Path)


class OneLineErrors(click.Group):
    """Turns the package's own errors into one line: exit 2 for what the user typed, 1 for a run that failed."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        # Where the locale is plain ASCII, Python could not name a file that is called otherwise: it starts once more.
        if args is None and sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
            os.environ["PYTHONUTF8"] = "1"  # for kernels too
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return super().main(args, *more, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        # Into a file, Windows writes what it has letters for, and fails at others.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except (parameters.ParameterError, sources.DataError, runs.RunError) as error:
            click.echo(f"labutil: {error}", err=True)
            sys.exit(1 if isinstance(error, runs.RunError) and not getattr(error, "asked", False) else 2)
        except click.UsageError as error:
            about = " ".join(filter(None, [ctx.command_path, ctx.invoked_subcommand, "--help"]))
            click.echo(f"labutil: {error.format_message()} (see {about})", err=True)
            sys.exit(error.exit_code)
        except OSError as error:
            if (name := errno.errorcode.get(error.errno)) not in _DISK:
                raise
            where = paths.printable(os.fsdecode(error.filename or "what this prints"))
            advice = "make room" if name in _FULL else "check the path and your right to it"
            click.echo(f"labutil: {where} cannot be read or written ({error.strerror}): {advice}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("labutil: interrupted; the same command continues from the last checkpoint", err=True)
            sys.exit(130)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="labutil")
def main() -> None:
    """An interactive workbook on image representation learning: run its notebooks, read their results."""


@main.command()
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...|all")
@execute.run_options
@click.option("--core", is_flag=True, help="Leave out what only a reader needs: cells tagged `lesson`.")
def run(notebooks: tuple[str, ...], recipe: str | None, overrides: execute.Overrides, **options: Any) -> None:
    """Run notebooks as programs, each leaving one directory with its record, figures and predictions.

    NOTEBOOK is a name (02_supervised_baseline), its number (02), or `all`. The same command again finds its
    finished run; one that was cut off continues.
    """
    if notebooks == ("all",):  # that the recipe has settings for
        from labutil.course import copies

        chosen = [path for path in copies.lessons() if not recipe or parameters.read_recipe(path, recipe) is not None]
    else:
        chosen = [parameters.find_notebook(name) for name in notebooks]
    plans = [(path, parameters.plan(path, recipe, dict(overrides))) for path in chosen]
    for path, params in plans:
        _, record = execute.run_and_tell(path, params, recipe=recipe, **options)
        click.echo(runs.format_metrics(record["metrics"]))


@main.command(context_settings={"max_content_width": 110})
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option("--recipe", help="Settings from notebooks/recipes/NAME, and what its `sweep:` block asks.")
@click.option("-p", "given", nargs=2, multiple=True, metavar="KEY VALUES", help="A parameter's value, or its values.")
@click.option("-s", "searched", nargs=2, multiple=True, metavar="KEY SPACE", help="Search LOW:HIGH[:log] or 'a|b'.")
@click.option("--seeds", help="Run each setting once a seed (0,1,2) and judge it by the mean.")
@click.option("--objective", help="Metric to judge by; default val_accuracy, of 04 and 05 val_knn_accuracy.")
@click.option("--trials", type=click.IntRange(1), help="Settings that a search tries, a notebook.  [default: 20]")
@click.option("--workers", type=click.IntRange(1), help="Runs at a time; cores and GPUs are shared.  [default: 1]")
@click.option("--gpus-per-run", type=click.IntRange(1), default=1, help="GPUs of a run, by torchrun.  [default: 1]")
@click.option("--name", help="Folder of the sweep.  [default: the recipe's name, else a hash]")
@click.option("--storage", metavar="URL", help="postgresql://... in which processes of one search meet.")
@click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="Submit runs to SLURM: partition=gpu, time=120, ...")
@click.option("--dry-run", is_flag=True, help="Show the runs, which of them exist, and the time the rest may take.")
@click.option("--out", type=FOLDER, help="Where sweeps go.  [default: sweeps/]")
def sweep(
    notebooks: tuple[str, ...], given: Any, searched: Any, recipe: str | None, seeds: str | None, objective: str | None,
    trials: int | None, name: str | None, out: Path | None, dry_run: bool, **options: Any,
) -> None:  # fmt: skip
    """Run notebooks many times, changing what you name, and say which setting is best on validation.

    \b
    labutil sweep 02 -p lr 0.001,0.003,0.01 --seeds 0,1,2        a grid: 3 settings, 9 runs
    labutil sweep 02 -p optimizer "[adamw,lion]" -p epochs 4,8  text and lists in brackets: 4 settings
    labutil sweep 04 -s tau 0.05:0.5:log -s batch_size '64|128'  a search: 20 trials, poor ones stopped early
    labutil sweep 04 --recipe tau --dry-run                      a sweep that comes with the workbook

    Every run is one process of the notebook's core (cells tagged `lesson` are left out) in a directory of its own:
    one that fails, diverges or is stopped leaves the others alone. sweeps/NAME/ holds sweep.csv, a row a run, figures,
    and runs/. The same command continues what was interrupted, tries failed runs again, and answers at once when all
    is done. Given on several machines with one shared --out, it divides a grid among them.
    """
    from labutil.sweeps import command, plan

    found = [parameters.find_notebook(notebook) for notebook in notebooks]
    asked = {"seeds": seeds, "objective": objective, "trials": trials, "name": name, "out": out}
    planned = plan.read(found, recipe, given, searched, **asked)
    if dry_run:
        command.dry_run(planned, **options)
    elif not command.sweep(planned, **options):
        sys.exit(1)


@main.command()
@click.argument("spec")
@click.option("--groups", help="What belongs together: a pattern on file names, '^(slide[0-9]+)', or a .csv file.")
def data(spec: str, groups: str | None) -> None:
    """Fetch or check a data set and print what is in it.

    SPEC: cells, mnist5k, mnist, cifar10, bloodmnist@64, folder:PATH, npz:PATH, idx:DIR, ... (see data/README.md).
    """
    spec = sources.resolve(spec)
    from labutil.data import load_dataset, notes

    click.echo(notes.contents(load_dataset(spec, groups=groups)))


@main.command()
@click.argument("spec", required=False)
@click.option("--out", type=PATH, help="Folder to write.  [default: runs/clean/NAME]")
@click.option("--apply", "table", type=PATH, help="Make a new folder by this decisions.csv.")
@click.option("--review", "folder", type=PATH, help="Open the page of such a folder, saving at once.")
def clean(spec: str | None, out: Path | None, table: Path | None, folder: Path | None) -> None:
    """Look for copies, strangers, bad pictures and doubtful labels in a set of your own; what you keep is up to you.

    \b
    labutil clean folder:PATH                  writes decisions.csv, a row a file, and review.html
    labutil clean --review runs/clean/NAME     the page, in your browser: keep, remove, relabel or unsure, by keyboard
    labutil clean --apply .../decisions.csv    writes cleaned/images, a class folder, and cleaned/quarantine beside it

    SPEC: as for `labutil data`. The source is never changed. The same command again keeps what you have decided.
    """
    from labutil.cleaning import command

    if folder:
        command.review(folder)
    elif table:
        command.apply(table, spec, out)
    elif spec:
        command.clean(spec, out)
    else:
        raise click.UsageError("give a data set, --review or --apply")


@main.command()
@click.argument("run_name", metavar="RUN")
@click.argument("spec")
@click.option("--part", help="train, val, test or all; left out: test where SPEC brings its own, else all.")
@click.option("--out", type=PATH, help="The CSV file; left out: one in the run's directory.")
def predict(run_name: str, spec: str, part: str | None, out: Path | None) -> None:
    """Let a finished run's model say what is on images, and write it as CSV: name, class, probabilities.

    RUN: a run's directory, its id or the beginning of one, a notebook (02) for its newest complete run, or an encoder
    that comes with the workbook (simclr_long), whose table goes below runs/.
    SPEC: as for `labutil data`, or the path of a folder of images in any order, or of one image; labels are not needed.
    """
    from labutil.runs.predict import write_table

    click.echo(write_table(run_name, spec, part, out))


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option("--out", type=FOLDER, help="The folder.  [default: RUN/export]")
def export(run_name: str, out: Path | None) -> None:
    """Write a finished run's encoder for use without labutil: a program that torch alone runs, and its weights.

    RUN: as for `labutil predict`; of lessons 02 to 06, or an encoder that comes with the workbook (simclr_long). The
    .md beside the files has the lines that load them.
    """
    from labutil.runs import export as exporting

    folder = exporting.export(run_name, out)
    for path in sorted(folder.glob("*.*")):
        click.echo(f"{runs.show_path(path)}  {path.stat().st_size / 1e6:.2f} MB")


main.command()(report_e.autoencoder)
main.command()(report_e.classification)


@main.command()
@click.argument("directory", required=False, type=PATH)
@click.option("--html", is_flag=True, help="Execute lesson 07 for each data set as well, into compare_NAME.html.")
@click.option("--latex", metavar="FILE", type=PATH, help="Write the table for a paper (booktabs).")
def compare(directory: Path | None, html: bool, latex: Path | None) -> None:
    """Set all finished runs below DIRECTORY (the project's runs, when left out) side by side.

    Prints the table, mean ± std over seeds, and leaves compare_summary.txt and .csv there. A sweep's runs are compared
    when DIRECTORY is the sweep's: labutil compare sweeps/NAME.
    """
    file = latex and paths.target(latex)
    from labutil.compare import lessons, tables

    text, collection = tables.write(directory or paths.runs_dir())
    click.echo(text)
    if file:
        paths.replace_file(file, lambda temporary: temporary.write_text(tables.latex(collection), encoding="utf-8"))
        click.echo(runs.show_path(file))
    for page in lessons.write_pages(collection) if html else ():
        click.echo(runs.show_path(page))


@main.command()
@click.option("--out", type=FOLDER, help="Where doctor.json goes.  [default: runs/]")
def doctor(out: Path | None) -> None:
    """Look at this machine, for at most three minutes, and say what is wrong and what to do.

    Versions, disk, memory, front end, fonts and caches; a training step of each method against the same in float64; a
    fit that is killed and continued; and how long `make run` may take. Exit code 1 where something is wrong.
    """
    from labutil.runs import doctor

    if not doctor.doctor(out and paths.absolute(out), click.echo):
        sys.exit(1)


@main.command()
@click.argument("address", required=False, metavar="OWNER/REPO")
@click.option("--zip", "archive", type=PATH, help="Write a zip for Colab instead.")
def publish(address: str | None, archive: Path | None) -> None:
    """Let every link to the workbook, Colab's buttons too, lead to its public repository on GitHub.

    \b
    labutil publish you/workbook              then commit and push
    labutil publish OWNER/REPOSITORY          undoes it
    labutil publish --zip labutil_colab.zip   without one: upload this to Colab's session, or to your Drive
    """
    from labutil.course import publish

    if archive:
        size = publish.pack(paths.target(archive))
        click.echo(f"{archive}: {size / 1e6:.1f} MB; upload it to the session's files in Colab, or to your Drive")
    elif address:
        links, files = publish.publish(address)
        click.echo(f"{links} links in {files} files changed; all lead to https://github.com/{publish.repository()}")
    else:
        raise click.UsageError("give OWNER/REPO, or --zip FILE")


@main.command()
@click.argument("lesson", metavar="LESSON|all")
@click.argument("directory", metavar="[DIR]", required=False, type=FOLDER)
@click.option("--solutions", is_flag=True, help="A teacher's copy, NAME-solutions.ipynb: solved but for predictions.")
@click.option("--fresh", is_flag=True, help="Where a file has work in it, write NAME-2.ipynb beside it.")
@click.option(
    "--nbgrader", "course", metavar="DIR", type=FOLDER,
    help="An nbgrader assignment instead, source/NAME in this course folder.",
)  # fmt: skip
def start(lesson: str, directory: Path | None, course: Path | None, **options: bool) -> None:
    """Write a copy of a lesson to work in: without solutions and results, hints kept.

    LESSON: a number (04) or name, or `all`. DIR: where the copy goes, work/ when left out. A file with work in it,
    changed or executed, is never written over.
    """
    from labutil.course import assignment, copies

    notebooks = copies.lessons(lesson)
    if course and (directory or any(options.values())):
        raise click.UsageError("--nbgrader takes the course's folder, and neither another one, --solutions nor --fresh")
    if course:
        written = dict.fromkeys(assignment.write(notebooks, paths.absolute(course)), True)
    else:
        written = copies.start(notebooks, paths.absolute(directory or copies.WORK), keep=lesson == "all", **options)
    for path, new in written.items():
        click.echo(runs.show_path(path) + ("" if new else ": has work in it and stays as it is"))


@main.command()
@click.argument("lesson")
@click.option("--run", metavar="RUN", help="A finished run whose model is shown: its directory, id, or notebook.")
@click.option("--port", type=click.IntRange(1, 65535), default=8866, help="Of the page.  [default: 8866]")
@click.option("--no-browser", is_flag=True, help="Print the address, open nothing.")
def demo(lesson: str, run: str | None, port: int, no_browser: bool) -> None:
    """Show a lesson's explorers alone and large, in a browser, on what trained encoders make of test images.

    LESSON: its number, 01 to 07. Nothing is trained beforehand. The page is for this machine only, behind its token.
    """
    number = parameters.find_notebook(lesson).stem[:2]
    from labutil.course import demo

    demo.launch(number, run, port=port, browser=not no_browser)


@main.command()
@click.argument("where", metavar="NOTEBOOK.ipynb|FOLDER", type=PATH)
@click.option("--json", "form", flag_value="json", help="Print JSON alone: a record a notebook.")
@click.option("--csv", "form", flag_value="csv", help="Print a table: a row an exercise.")
@click.option("--unconfined", is_flag=True, help="Run submissions though they cannot be contained on this machine.")
def grade(where: Path, form: str | None, unconfined: bool) -> None:
    """Say which exercises of handed-in notebooks are solved: passed ✓, wrong ✗ and why, not attempted ○.

    Only the answers are executed, each in a process without network, files or rights, for 30 s at most (a notebook: two
    minutes), and judged by what they answer to inputs that nobody has seen; outputs in the notebook count for nothing.
    Exit code 0 when all pass, 1 when not, 2 for a file that is no notebook. Linux; elsewhere only with --unconfined.
    """
    from labutil.course import grading

    if unconfined:
        click.echo(f"labutil: unconfined: {grading.NOT_KEPT}", err=True)
    if not grading.tell(grading.grade(where, confined=not unconfined), form, brief=where.is_dir()):
        sys.exit(1)


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--lesson", help="Open this notebook (02, or its name).")
@click.argument("jupyter_options", nargs=-1, type=click.UNPROCESSED)
def lab(lesson: str | None, jupyter_options: tuple[str, ...]) -> None:
    """Open JupyterLab on your copies of the lessons, in work/ (on this machine only, behind its token).

    Copies that are not there yet are written first, as by `labutil start all`. Other options go to JupyterLab:
    --port 8890, --no-browser, --allow-root in a container.
    """
    from labutil.course import copies

    lessons = copies.lessons()
    chosen = lesson and parameters.find_notebook(lesson)
    if importlib.util.find_spec("jupyterlab") is None:
        raise sources.DataError("JupyterLab is not installed: pip install jupyterlab (VS Code opens notebooks without)")
    copies.start(lessons, copies.WORK, keep=True)
    target = copies.WORK / chosen.name if chosen else copies.WORK
    root = f"--ServerApp.root_dir={paths.project_root()}"
    settings = [root, "--LabApp.news_url=None"]  # or it asks, over the lesson, whether it may fetch news
    command = [sys.executable, "-m", "jupyterlab", *settings, *jupyter_options, str(target)]
    if sys.platform == "win32":  # where exec takes a name with a space for two, and the shell does not wait
        sys.exit(subprocess.call(command))
    os.execv(sys.executable, command)
