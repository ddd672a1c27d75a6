"""Encoders that come with the workbook, trained for long: in `notebooks/encoders/`, each NAME.safetensors (a
classifier, the encoder with a linear head) and NAME.json (how, on what, what it scores). `make encoders` made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labutil.paths import DataError, project_root

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("supervised_long", "simclr_long", "byol_long", "barlow_twins_long", "supcon_long", "autoencoder_long")
FOLDER = project_root() / "notebooks" / "encoders"


def find(name: str) -> Path | None:
    """The file of a classifier whose encoder is meant by a name: one of `NAMES`, a .safetensors file, or a run's
    directory; None for any other name. Raises DataError where one of `NAMES` has no file."""
    if name in NAMES:
        path = FOLDER / f"{name}.safetensors"
        if not path.is_file():
            raise DataError(f"{name}: {path} is missing: get it from the repository, or make it with make encoders")
        return path
    path = Path(name).expanduser()
    path = path / "model.safetensors" if path.is_dir() else path
    return path if path.suffix == ".safetensors" and path.is_file() else None


def facts(name: str) -> dict[str, Any]:
    """What NAME.json says of one of `NAMES`: as a run's run.json, with `curve` and `scores`. Raises DataError where it
    is missing or damaged."""
    path = FOLDER / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): get it from the repository, or run make encoders") from error


def present() -> list[str]:
    """Those of `NAMES` that are there."""
    return [name for name in NAMES if (FOLDER / f"{name}.safetensors").is_file()]


def table() -> pd.DataFrame:
    """The encoders that are there, a row each, by name: label (as other tables call the method), epochs, minutes and
    precision of their training, parameters, numbers in h, and what they score: `val_`, `test_` and `shifted_`
    knn_accuracy and linear_accuracy, in [0, 1]."""
    import pandas as pd

    keys = ("label", "epochs", "minutes", "precision", "parameters", "features")
    found = {name: facts(name) for name in present()}
    rows = {name: {key: f[key] for key in keys} | f["scores"] for name, f in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def curves(measure: str = "linear_accuracy") -> pd.DataFrame:
    """How good the encoders were on validation images while they were trained: a row an epoch (0: before the first), a
    column an encoder, by its label; NaN where one was not measured. measure: linear_accuracy or knn_accuracy.

    Example:
        plots.lines(encoders.curves().loc[[8, 16, 32, 64, 128, 200]], xlabel="epochs", log_x=True)
    """
    import pandas as pd

    found = [facts(name) for name in present()]
    return pd.DataFrame({f["label"]: pd.DataFrame(f["curve"]).set_index("epoch")[measure] for f in found}).sort_index()
