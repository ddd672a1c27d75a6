"""What cleaning found, row by row, and the data set that is left when it is applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from labutil.images import Dataset, ImageSet
from labutil.paths import DataError, replace_file

_NAMES = ("index", "name", "reason", "score", "other", "other_name", "remove", "data_set")
_COLUMNS = dict.fromkeys(_NAMES, object) | {"index": np.int64, "score": np.float64, "other": np.int64, "remove": bool}


def judged_images(data: Dataset) -> ImageSet:
    """What cleaning looks at: the training images, followed by the unlabelled ones (label -1, group "") where there are
    any.

    Example:
        pairs = near_duplicates(judged_images(data).images)
    """
    if data.unlabelled is None:
        return data.train
    parts = (data.train, data.unlabelled)
    images, labels = (torch.cat([getattr(part, what) for part in parts]) for what in ("images", "labels"))
    names = parts[0].names + parts[1].names if all(part.names for part in parts) else None
    groups = data.train.groups and data.train.groups + ("",) * len(data.unlabelled)
    return ImageSet(images, labels, data.classes, names, groups)


class CleaningReport:
    """What was found among the images of one data set, and what is to go: one row an image and reason.

    data: the data set; None for a report that was read from a file.
    rows: DataFrame(index, name, reason, score, other, other_name, remove, data_set). index: the image's place in
    `judged_images(data)`; name: of its file, "" where images have none. other, other_name: the image that it was
    compared with, -1 and "" where there is none. data_set: the fingerprint and the number of images, "" for a row that
    was written by hand. An image is removed if any of its rows says so.

    Example:
        report = CleaningReport(data)
        report.add("outlier", found[found.score > 4])
        report.save("report.csv")
        report.apply(data, "cleaned.npz")     # any lesson takes it: -p dataset npz:cleaned.npz
    """

    def __init__(self, data: Dataset | None, rows: pd.DataFrame | None = None) -> None:
        self.data = data
        self.rows = pd.DataFrame(columns=list(_COLUMNS)).astype(_COLUMNS) if rows is None else rows

    def add(self, reason: str, found: pd.DataFrame, *, score: str = "score", other_in_test: bool = False) -> None:
        """Add rows of a detector's table, all to be removed, for a reason such as "outlier". score: the column to read.
        A pair's `reference_index` becomes `other`: an image among those that are judged, or `other_in_test`."""
        new = found[["index"]].assign(reason=reason, score=found[score], remove=True)
        new["other"] = found.get("reference_index", -1)
        new["name"] = _names(self.data, new["index"])
        new["other_name"] = _names(self.data, new["other"], in_test=other_in_test)
        new["data_set"] = _identity(self.data) if self.data else ""
        self.rows = pd.concat([self.rows, new[list(_COLUMNS)].astype(_COLUMNS)], ignore_index=True)

    @property
    def removed(self) -> np.ndarray:
        """What goes, ascending, by `index`."""
        return np.unique(self.rows.loc[self.rows["remove"], "index"].to_numpy())

    def save(self, path: str | Path) -> None:
        """Write the report as CSV. Raises DataError when the file cannot be written."""
        # A file name that is not UTF-8 is written with an escape: "caf\\udce9.png".
        _write(path, lambda temporary: self.rows.to_csv(temporary, index=False, errors="backslashreplace"))

    @classmethod
    def load(cls, path: str | Path) -> CleaningReport:
        """Read a report that `save` wrote, perhaps edited by hand. Raises DataError when there is no such file, or
        columns are missing or hold something else."""
        texts = {name: str for name, kind in _COLUMNS.items() if kind is object}
        try:
            rows = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={"score": [""]})[list(_COLUMNS)]
            # As text, "no" and "False" would both count as true.
            if len(rows) and not pd.api.types.is_bool_dtype(rows["remove"]):
                raise ValueError("remove must be True or False in every row")
            rows = rows.astype(_COLUMNS)
            if (rows["index"] < 0).any():
                raise ValueError("index must be 0 or more in every row")
            return cls(None, rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no cleaning report ({error}): save one with CleaningReport.save") from error

    def apply(self, data: Dataset, path: str | Path) -> Path:
        """Write `data` without the removed images as an .npz, validation and test images as they are.

        Labels are written by class name, so that names survive; images without a label, beside others that have one,
        as `unlabelled_images`; groups, where there are some, as `train_groups` and so on, which `load_dataset` reads.
        Returns the path, for `npz:PATH`. Raises DataError when the report is about another data set, no image of a
        class would be left, some validation or test images have no label, or the file cannot be written.
        """
        judged, gone, told = judged_images(data), self.removed, set(self.rows["data_set"]) - {""}
        if len(self.rows) and told != {_identity(data)}:
            raise DataError(
                f"the report is about {' and '.join(sorted(told)) or 'no data set'}, this one is {_identity(data)} "
                "(fingerprint/images): load the one that was judged, with its subset, data_seed and planted faults"
            )
        if len(gone) and gone[-1] >= len(judged):
            raise DataError(f"the report names image {gone[-1]} of {len(judged)}: correct its index")
        keep = np.setdiff1d(np.arange(len(judged)), gone)
        train = judged.labels.numpy()[keep] >= 0 if data.classes else keep < len(data.train)
        if not train.any():
            raise DataError("the report removes every training image: raise its thresholds")
        lost = np.setdiff1d(torch.cat([data.val.labels, data.test.labels]), judged.labels[keep])
        if len(lost := lost[lost >= 0]):
            raise DataError(f"the report removes every training image of {data.classes[lost[0]]}: raise its thresholds")
        parts = {
            name: ImageSet(judged.images[rows], judged.labels[rows], data.classes)
            for name, rows in (("train", keep[train]), ("unlabelled", keep[~train]))
            if len(rows)
        }
        if judged.names is not None:
            side = "x".join(map(str, reversed(judged.images.shape[2:])))
            print(f"note: images are stored at {side} pixels, as loaded; labutil clean keeps files as they are")
        arrays = {}
        for name, part in (parts | {"val": data.val, "test": data.test}).items():
            arrays[f"{name}_images"] = part.images.permute(0, 2, 3, 1).numpy()
            if data.classes and name != "unlabelled":
                if bare := int((part.labels < 0).sum()):
                    raise DataError(f"{bare} {name} images have no label, which an .npz cannot hold beside others")
                arrays[f"{name}_labels"] = np.array(data.classes)[part.labels.numpy()]
            if judged.groups is not None and name != "unlabelled":
                arrays[f"{name}_groups"] = np.array(part.groups or [judged.groups[row] for row in keep[train]])

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:  # savez would add .npz to the temporary name
                np.savez(file, **arrays)

        return _write(path, write)


def _identity(data: Dataset) -> str:
    # The number as well: a subset has its set's fingerprint, and other images in the same places.
    return f"{data.fingerprint}/{len(data.train) + len(data.unlabelled or ())}"


def _names(data: Dataset | None, rows: pd.Series, *, in_test: bool = False) -> list[str]:
    """Of images among those that are judged, or among the test images; "" where they have no name."""
    parts = [] if data is None else [data.test] if in_test else [data.train, data.unlabelled or ()]
    names = [name for part in parts for name in (getattr(part, "names", None) or [""] * len(part))]
    return [names[row] if 0 <= row < len(names) else "" for row in rows]


def _write(path: str | Path, write: Callable[[Path], object]) -> Path:
    path = Path(path).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error
    return path
