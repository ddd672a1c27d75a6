"""Report E's two commands: an autoencoder from images, then a classifier on its encoder. Both run notebook 06.

What is missing is asked for where a person is at the terminal; elsewhere it is an error of one line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from labutil import paths
from labutil.runs import parameters
from labutil.runs.execute import outcome, run_notebook
from labutil.runs.record import show_path

NOTEBOOK = "06_autoencoder"
# What `autoencoder` asks for when it is given nothing at all: parameters of the notebook.
ASKED = ("filters", "kernel_size", "dropout", "epochs", "batch_size")
# The lesson's comparisons are left out, unless a recipe or -p asks for them.
ALONE = {"contrast_epochs": "0", "code_sizes": "[]", "study": "none"}


def _shared(command: click.decorators.FC) -> click.decorators.FC:
    """Options that both commands have."""
    for option in (
        click.option("--force", is_flag=True, help="Run anew, also when this very run is complete."),
        click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where run directories go."),
        click.option(
            "-p", "overrides", nargs=2, multiple=True, metavar="KEY VALUE", help="Any parameter of notebook 06."
        ),
        click.option("--recipe", help="Settings from notebooks/recipes/NAME (mnist_autoencoder, mnist_cpu, ...)."),
    ):
        command = option(command)
    return command


@click.option("-d", "--dataset", help="Images: an IDX file, gzipped or not; or any data set of the workbook.")
@click.option("--filters", help="Channels of each layer, as 16,32 (as many layers as numbers).")
@click.option("--kernel-size", help="Pixels a side of each convolution.")
@click.option("--dropout", help="Probability that a value of the maps is dropped.")
@click.option("--epochs", help="Passes over the training images.")
@click.option("--batch-size", help="Images per step.")
@click.option("-model", "--model", help="The file of an autoencoder to go on from.")
@click.option("-save", "--save", help="Copy the trained autoencoder to this file.")
@_shared
def autoencoder(
    dataset: str | None, model: str | None, save: str | None, recipe: str | None,
    overrides: tuple[tuple[str, str], ...], out: Path | None, force: bool, **given: str | None,
) -> None:  # fmt: skip
    """Train a convolutional autoencoder on images; labels are not needed.

    With nothing given, it asks for the images and the settings; else only for the images. Leaves
    autoencoder.safetensors in its run directory, for `labutil classification`.
    """
    nothing_given = not any((dataset, model, save, recipe, overrides, *given.values()))
    spec = _images_spec(_ask("-d", dataset, "images (a file, or the name of a data set)"))
    if nothing_given:
        declared = parameters.read_parameters(_notebook())
        for name in ASKED:
            default = declared[name].default
            shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
            given[name] = click.prompt(declared[name].meaning, default=shown)
        save = click.prompt("copy of the trained autoencoder (a file; nothing: none)", default="", show_default=False)
    params = _settings(given) | {"dataset": spec, "classifier_epochs": "[0, 0]"}
    params |= {"autoencoder": _file(model)} if model else {}
    target = _target(save) if save else None
    directory, record = _run(params, recipe, overrides, out, force)
    trained = directory / "autoencoder.safetensors"
    if target:
        paths.replace_file(target, lambda temporary: temporary.write_bytes(trained.read_bytes()))
        trained = target
    error = record["metrics"]["val_reconstruction_mse"]
    click.echo(f"autoencoder: {show_path(trained)}\nvalidation images come back with a squared error of {error:.5f}")


@click.option("-d", "--dataset", help="Training images, an IDX file, gzipped or not.")
@click.option("-dl", "--dataset-labels", help="Their labels.")
@click.option("-t", "--test", help="Test images.")
@click.option("-tl", "--test-labels", help="Their labels.")
@click.option("-model", "--model", help="The autoencoder.safetensors that `labutil autoencoder` left.")
@click.option("--epochs", help="Passes over the images, of the new layers and then of everything: 2,6")
@click.option("--batch-size", help="Images per step.")
@click.option("--head", help="Nodes of each fully connected layer, as 64.")
@click.option("--dropout", help="Dropout in them.")
@_shared
def classification(
    dataset: str | None, dataset_labels: str | None, test: str | None, test_labels: str | None, model: str | None,
    epochs: str | None, batch_size: str | None, head: str | None, dropout: str | None, recipe: str | None,
    overrides: tuple[tuple[str, str], ...], out: Path | None, force: bool,
) -> None:  # fmt: skip
    """Put a classifier on a trained autoencoder's encoder, train it, and test it once.

    First the new fully connected layers alone, then everything. Prints the classification report and the number of
    wrong test images.
    """
    files = [
        _ask("-d", dataset, "training images (IDX file)"),
        _ask("-dl", dataset_labels, "labels of the training images"),
        _ask("-t", test, "test images"),
        _ask("-tl", test_labels, "labels of the test images"),
    ]
    weights = _file(_ask("-model", model, "the trained autoencoder (autoencoder.safetensors)"))
    params = {"dataset": f"idx:{','.join(map(_file, files))}", "autoencoder": weights, "epochs": "0"}
    params |= _settings({"classifier_epochs": epochs, "classifier_batch_size": batch_size, "head": head})
    params |= _settings({"head_dropout": dropout})
    directory, record = _run(params, recipe, overrides, out, force)
    click.echo(_report(directory, record))


def _person() -> bool:
    return sys.stdin.isatty()


def _ask(option: str, value: str | None, what: str) -> str:
    """The value, or what a person at the terminal answers; an error where nobody is."""
    if value:
        return value
    if not _person():
        raise parameters.ParameterError(f"{option} is missing: {what}; nobody is at the terminal to be asked")
    return click.prompt(what)


def _images_spec(text: str) -> str:
    """A file is an IDX file; anything else is a data set as the other commands take it."""
    path = Path(text).expanduser()
    return f"idx:{path}" if path.is_file() and path.suffix != ".npz" else text


def _file(text: str) -> str:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if not path.is_file():
        raise paths.DataError(f"{path} {'is no file' if path.exists() else 'does not exist'}: check the path")
    return str(path)


def _target(text: str) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if path.is_dir() or not path.parent.is_dir():
        raise paths.DataError(f"{path} cannot be written: name a file in a folder that exists")
    return path


def _settings(given: dict[str, str | None]) -> dict[str, str]:
    """Values for the notebook; a comma, or one number, is a list where the notebook wants one."""
    declared = parameters.read_parameters(_notebook())
    lists = {name for name, parameter in declared.items() if parameter.type.startswith("list")}
    return {k: f"[{v.strip('[]')}]" if k in lists else v for k, v in given.items() if v}


def _notebook() -> Path:
    return paths.project_root() / "notebooks" / f"{NOTEBOOK}.ipynb"


def _run(
    params: dict[str, Any], recipe: str | None, overrides: tuple[tuple[str, str], ...], out: Path | None, force: bool
) -> tuple[Path, dict[str, Any]]:
    """Check everything, then execute notebook 06, or find that it has been run."""
    merged = parameters.plan(_notebook(), recipe, params | dict(overrides), base=ALONE)
    _check_images(merged)
    progress = sys.stderr.isatty()
    directory, record, found = run_notebook(_notebook(), merged, recipe=recipe, out=out, force=force, progress=progress)
    click.echo(outcome(directory, record, found))
    return directory, record


def _check_images(params: dict[str, Any]) -> None:
    """Read the files before a kernel starts: a wrong one is the user's mistake, not a failed run."""
    from labutil import models
    from labutil.data import load_dataset

    data = load_dataset(params["dataset"], **{key: params[key] for key in ("image_size", "subset", "data_seed")})
    if params["autoencoder"]:
        models.load(params["autoencoder"], kind=models.ConvAutoencoder, image=data.train.images.shape[1:])


def _report(directory: Path, record: dict[str, Any]) -> str:
    """The classification report of a run's predictions, and how many are wrong."""
    import numpy as np

    from labutil import evaluation

    with np.load(directory / "predictions.npz") as file:
        table = evaluation.class_report(file["y_true"], file["probabilities"], record["dataset"]["classes"])
        number = len(file["y_true"])
    metrics = record["metrics"]
    lines = table.to_string(float_format=lambda value: f"{value:.4f}")
    wrong = f"wrong: {metrics['test_errors']:,} of {number:,} (accuracy {metrics['test_accuracy']:.4f})"
    return f"{lines}\n{wrong}"
