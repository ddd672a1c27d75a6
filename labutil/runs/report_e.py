"""Report E's two commands: an autoencoder from images, then a classifier on its encoder. Both run notebook 06."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from labutil import paths
from labutil.runs import parameters
from labutil.runs.execute import Overrides, run_and_tell, run_options
from labutil.runs.record import show_path

NOTEBOOK = parameters.NOTEBOOKS / "06_autoencoder.ipynb"
ASKED = ("filters", "kernel_size", "dropout", "epochs", "batch_size")  # by `autoencoder`, if it is given nothing at all
# The lesson's comparisons are left out, unless a recipe or -p asks for them.
ALONE = {"code_sizes": "[]"}


def ask(context: click.Context, option: click.Option, value: str | None) -> str | None:
    """A value that was not given is asked for at a terminal; elsewhere that is an error of one line."""
    if value or context.resilient_parsing:
        return value
    text = f"{option.help[0].lower()}{option.help[1:-1]}"
    if not sys.stdin.isatty():
        raise parameters.ParameterError(f"{option.opts[0]} is missing: {text}; nobody is at the terminal to be asked")
    return click.prompt(text)


@click.option(
    "-d", "--dataset", callback=ask, help="Images (a file in IDX format, gzipped or not, or a data set's name)."
)
@click.option("--filters", help="Channels of each layer, as 16,32 (as many layers as numbers).")
@click.option("--kernel-size", help="Pixels a side of each convolution.")
@click.option("--dropout", help="Probability that a value of the maps is dropped.")
@click.option("--epochs", help="Passes over the training images.")
@click.option("--batch-size", help="Images per step.")
@click.option("-model", "--model", help="The file of an autoencoder to go on from.")
@click.option("-save", "--save", help="Copy the trained autoencoder to this file.")
@run_options
def autoencoder(dataset: str, model: str | None, save: str | None, **options: Any) -> None:
    """Train a convolutional autoencoder on images; labels are not needed.

    With nothing given, it asks for the images and the settings; else only for the images. Leaves
    autoencoder.safetensors in its run directory, for `labutil classification`.
    """
    context = click.get_current_context()
    about = context.params.keys() - {"out", "force"}
    if ParameterSource.COMMANDLINE not in map(context.get_parameter_source, about):
        declared = parameters.read_parameters(NOTEBOOK)
        for name in ASKED:
            options[name] = click.prompt(declared[name].meaning, default=str(declared[name].default).strip("[]"))
        save = click.prompt("copy of the trained autoencoder (a file; nothing: none)", default="", show_default=False)
    file = paths.absolute(dataset)
    images = f"idx:{file}" if file.is_file() and file.suffix != ".npz" else dataset
    params = {"dataset": images, "classifier_epochs": "[0, 0]"} | ({"autoencoder": _file(model)} if model else {})
    target = paths.target(save) if save else None
    directory, record = _run(params, **options)
    trained = directory / "autoencoder.safetensors"
    if target:
        paths.replace_file(target, lambda temporary: temporary.write_bytes(trained.read_bytes()))
    click.echo(f"autoencoder: {show_path(target or trained)}")
    error = record["metrics"]["val_reconstruction_mse"]
    click.echo(f"validation images come back with a squared error of {error:.5f}")


@click.option("-d", "--dataset", callback=ask, help="Training images (a file in IDX format, gzipped or not).")
@click.option("-dl", "--dataset-labels", callback=ask, help="Labels of the training images.")
@click.option("-t", "--test", callback=ask, help="Test images.")
@click.option("-tl", "--test-labels", callback=ask, help="Labels of the test images.")
@click.option("-model", "--model", callback=ask, help="The trained autoencoder (autoencoder.safetensors of a run).")
@click.option("--epochs", "classifier_epochs", help="Passes over the images, of new layers, then of everything: 2,5")
@click.option("--batch-size", "classifier_batch_size", help="Images per step.")
@click.option("--head", help="Nodes of each fully connected layer, as 64.")
@click.option("--dropout", "head_dropout", help="Dropout in them.")
@run_options
def classification(dataset: str, dataset_labels: str, test: str, test_labels: str, model: str, **options: Any) -> None:
    """Put a classifier on a trained autoencoder's encoder, train it, and test it once.

    First the new fully connected layers alone, then everything. Prints the classification report and the number of
    wrong test images.
    """
    files = ",".join(map(_file, (dataset, dataset_labels, test, test_labels)))
    directory, record = _run({"dataset": f"idx:{files}", "autoencoder": _file(model), "epochs": "0"}, **options)
    import numpy as np

    from labutil import evaluation

    with np.load(directory / "predictions.npz") as file:
        y_true, probabilities = file["y_true"], file["probabilities"]
    table = evaluation.class_report(y_true, probabilities, record["dataset"]["classes"])
    click.echo(table.to_string(float_format=lambda value: f"{value:.4f}"))
    errors, accuracy = (record["metrics"][name] for name in ("test_errors", "test_accuracy"))
    click.echo(f"wrong: {errors:,} of {len(y_true):,} (accuracy {accuracy:.4f})")


def _file(text: str) -> str:
    path = paths.absolute(text)
    if not path.is_file():
        raise paths.DataError(f"{path} {'is no file' if path.exists() else 'does not exist'}: check the path")
    return str(path)


def _run(
    params: dict[str, str], recipe: str | None, overrides: Overrides, out: Path | None, force: bool, **given: str | None
) -> tuple[Path, dict[str, Any]]:
    """Check everything, then execute notebook 06, or find that it has been run: (its directory, its record).

    given: parameters as options give them; `16,32`, or one number, is a list where the notebook wants one.
    """
    declared = parameters.read_parameters(NOTEBOOK)
    for name, value in given.items():
        if value:
            params[name] = f"[{value.strip('[]')}]" if "[" in declared[name].type else value
    merged = parameters.plan(NOTEBOOK, recipe, params | dict(overrides), base=ALONE)

    from labutil import models
    from labutil.data import load_dataset

    # The files are read before a kernel starts: a wrong one is the user's mistake, not a failed run.
    data = load_dataset(merged["dataset"], **{key: merged[key] for key in ("image_size", "subset", "data_seed")})
    if merged["autoencoder"]:
        models.load(merged["autoencoder"], kind=models.ConvAutoencoder, image=data.train.images.shape[1:])
    return run_and_tell(NOTEBOOK, merged, recipe=recipe, out=out, force=force)
