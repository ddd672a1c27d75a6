"""Encoders that come with the workbook, trained for long: in `notebooks/encoders/`, each NAME.safetensors (a
classifier, the encoder with a linear head) and NAME.json (how, on what, what it scores). `make encoders` made them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from labutil.paths import DataError, absolute, check_workbook, project_root, read_json

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import Dataset

NAMES = ("supervised_long", "simclr_long", "byol_long", "barlow_twins_long", "supcon_long", "autoencoder_long")
PARAMETERS = ("encoder", "encoder_name")  # of lessons 02 and 03, 04 and 05
OTHERS = ("mnist_classifier",)  # of other images, so in no table: digits, by lesson 06's recipe mnist_cpu
SHIPPED = (*NAMES, *OTHERS)
FOLDER = project_root() / "notebooks" / "encoders"


def find(name: str) -> Path | None:
    """The file of a model whose encoder is meant by a name: one of `SHIPPED`, a complete run's directory, or a
    .safetensors file, such as `labutil export` writes; None for the name of a network.

    A path counts from the current folder or from the project's root. Raises DataError where one of `SHIPPED` has no
    file, and for a path at which there is no model of a complete run.
    """
    if name in SHIPPED:
        path = FOLDER / f"{name}.safetensors"
        if not path.is_file():
            check_workbook()
            raise DataError(f"{name}: {path} is missing: get it from the repository, or make it with make encoders")
        return path
    given = Path(os.path.expanduser(name))
    path = next((p for p in (absolute(given), project_root() / given) if os.path.exists(p)), None)
    if path is not None and path.is_dir() and (path / "run.json").is_file():
        status = (read_json(path / "run.json") or {}).get("status", "damaged")
        if status != "complete":
            raise DataError(f"encoder={name!r}: this run is {status}, not complete: finish it with labutil run")
        if not (path / "model.safetensors").is_file():
            raise DataError(f"encoder={name!r}: this run keeps no model: run it again, or give one of lessons 02 to 06")
        return path / "model.safetensors"
    if path is not None and path.suffix == ".safetensors" and path.is_file():
        return path
    if given.suffix == ".safetensors" or len(given.parts) > 1:
        what = "there is no run.json in it" if path else "there is no such path"
        raise DataError(f"encoder={name!r}: {what}; give a run's directory, a .safetensors file, or a network's name")
    return None


def origin(name: str, pretrained: str | None = "imagenet") -> dict[str, Any]:
    """Where an encoder comes from, as lesson 03 says it. pretrained: that lesson's parameter of this name.

    own: whether this workbook trained it (`find` finds it). weights: what tables call its weights. transfer: what they
    call a method that starts from it. image_size: pixels a side of the square images that it takes, None where that is
    free. dataset: name and fingerprint of what it was trained on, {} where unknown. Of an own one also label and model
    (its settings), and all else of the run.json beside it, or of its own .json.
    Raises DataError as `find`, for a damaged file, and where an own one shall have other weights than its own.
    """
    if (file := find(name)) is None:
        foreign = {"weights": "ImageNet weights", "transfer": "transfer", "image_size": None}
        return foreign | {"own": False, "label": "ImageNet", "dataset": {}}
    if pretrained != "imagenet":
        raise DataError(f"encoder={name!r} has its own weights: leave pretrained as it is, or name a network")
    beside = file.with_name("run.json")
    known = read_json(beside if beside.is_file() else file.with_suffix(".json")) or {}
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
        settings = {**json.loads(header["settings"])} if "settings" in header else known["model"]
        settings.pop("checksum", None)  # of the weights, for `models.load`
        side = settings["image_size"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged or no model file of this workbook: train it again") from error
    side = side[0] if isinstance(side, list) and side[0] == side[1] else side
    label, own = known.get("label") or file.stem, {"own": True, "model": settings}
    own |= {"label": label, "weights": f"{label} weights", "transfer": f"{label}, transfer"}
    own |= {"dataset": known.get("dataset") or {}, "image_size": side if isinstance(side, int) else None}
    return known | own


def at_home(origin: dict[str, Any], data: Dataset) -> bool:
    """Whether an encoder was trained on just these images, at this size and in these splits; a line on standard output
    says so where the splits are others, since it may then have seen test images."""
    trained = origin["dataset"]
    same = trained.get("fingerprint") == data.fingerprint
    if trained.get("name") == data.name and not same:
        print(f"the encoder was trained on other splits of {data.name}: it may know some of these test images")
    return same and origin["image_size"] == data.image_size


def facts(name: str) -> dict[str, Any]:
    """What NAME.json says of one of `NAMES`: as a run's run.json, with `curve` and `scores`. Raises DataError where it
    is missing or damaged."""
    path = FOLDER / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): get it from the repository, or run make encoders") from error


def few_labels() -> pd.DataFrame:
    """What encoders have of the test images with few labels and with all, as far as their .json says so (recipe
    `fine_tuned` of lesson 03): DataFrame(method, labels, seed, accuracy, split), a method "SimCLR, probe", a linear
    layer on the encoder as it is, and "SimCLR, fine-tuned", which began there; `lab.sweeps` has the rival."""
    import pandas as pd

    rows = [
        (f"{f['label']}, {how}", row["labels"], row["seed"], row[key], "test")
        for f in map(facts, present())
        for row in f.get("fine_tuned", ())
        for how, key in (("probe", "probe"), ("fine-tuned", "fine_tuned"))
    ]
    return pd.DataFrame(rows, columns=["method", "labels", "seed", "accuracy", "split"])


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
