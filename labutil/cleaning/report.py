"""What cleaning found, row by row, and the data set that is left when it is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from labutil.images import Dataset, ImageSet
from labutil.paths import DataError, replace_file

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("name", "reason", "other_name", "data_set")
_TYPES = {"index": np.int64, "score": np.float64, "other": np.int64, "remove": bool} | dict.fromkeys(_TEXTS, object)
_JUDGED = ("train", "unlabelled")  # parts of a data set
_COLUMNS = ["index", "name", "reason", "score", "other", "other_name", "remove", "data_set"]


def judged_images(data: Dataset) -> ImageSet:
    """What cleaning looks at: the training images, followed by the unlabelled ones (label -1) where there are any.

    Example:
        pairs = near_duplicates(judged_images(data).images)
    """
    if data.unlabelled is None:
        return data.train
    parts = (data.train, data.unlabelled)
    images, labels = (torch.cat([getattr(part, what) for part in parts]) for what in ("images", "labels"))
    named = all(part.names for part in parts)
    return ImageSet(images, labels, data.classes, parts[0].names + parts[1].names if named else None)


def _no_rows() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=_COLUMNS).astype(_TYPES)


@dataclass
class CleaningReport:
    """What was found among the images of one data set, and what is to go: one row an image and reason.

    data: the data set; None for a report that was read from a file.
    rows: DataFrame(index, name, reason, score, other, other_name, remove, data_set). index: the image's place in
    `judged_images(data)`; name: of its file, "" where images have none. other, other_name: the image that it was
    compared with, -1 and "" where there is none. data_set: the fingerprint and the number of images, "" for a row that
    was written by hand. An image is removed if any of its rows says so.

    Example:
        report = CleaningReport(data)
        report.add("outlier", found, threshold=4)
        report.save("report.csv")
        report.apply(data, "cleaned.npz")     # any lesson takes it: -p dataset npz:cleaned.npz
    """

    data: Dataset | None
    rows: pd.DataFrame = field(default_factory=_no_rows)

    def add(
        self,
        reason: str,
        found: pd.DataFrame,
        *,
        threshold: float = -np.inf,
        score: str = "score",
        remove: bool = True,
        other_in_test: bool = False,
    ) -> None:
        """Add the rows of a detector's table whose score is above the threshold. reason: such as "outlier"; score:
        the column to read. A pair's `reference_index` becomes `other`: an image among those that are judged, or
        `other_in_test`."""
        import pandas as pd

        chosen = found[found[score] > threshold]
        new = chosen[["index"]].assign(reason=reason, score=chosen[score], remove=remove)
        new["other"] = chosen.get("reference_index", -1)
        new["name"] = _names(self.data, new["index"], _JUDGED)
        new["other_name"] = _names(self.data, new["other"], ("test",) if other_in_test else _JUDGED)
        new["data_set"] = _identity(self.data) if self.data else ""
        new = new[_COLUMNS].astype(_TYPES)
        self.rows = pd.concat([self.rows, new], ignore_index=True) if len(self.rows) else new.reset_index(drop=True)

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
        import pandas as pd

        try:
            rows = pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str), keep_default_na=False)[_COLUMNS]
            # As text, "no" and "False" would both count as true.
            if len(rows) and not pd.api.types.is_bool_dtype(rows["remove"]):
                raise ValueError("remove must be True or False in every row")
            rows = rows.astype(_TYPES)
            if (rows["index"] < 0).any():
                raise ValueError("index must be 0 or more in every row")
            return cls(None, rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no cleaning report ({error}): save one with CleaningReport.save") from error

    def apply(self, data: Dataset, path: str | Path) -> Path:
        """Write `data` without the removed images as an .npz, validation and test images as they are.

        Labels are written by class name, so that names survive; images without a label, beside others that have one,
        as `unlabelled_images`. Returns the path, for `npz:PATH`. Raises DataError when the report is about another
        data set, no image of a class would be left, some validation or test images have no label, or the file cannot
        be written.
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
        arrays = {"train_images": _pixels(judged, keep[train])}
        if not train.all():
            arrays["unlabelled_images"] = _pixels(judged, keep[~train])
        labels = {"train": judged.labels[keep[train]], "val": data.val.labels, "test": data.test.labels}
        for part in ("val", "test"):
            arrays[f"{part}_images"] = _pixels(getattr(data, part), slice(None))
            if data.classes and (bare := int((labels[part] < 0).sum())):
                raise DataError(f"{bare} {part} images have no label, which an .npz cannot hold beside others")
        if data.classes:
            arrays |= {f"{part}_labels": np.array(data.classes)[given.numpy()] for part, given in labels.items()}
        return _write(path, lambda temporary: _save_npz(temporary, arrays))


def _identity(data: Dataset) -> str:
    # The number as well: a subset has its set's fingerprint, and other images in the same places.
    return f"{data.fingerprint}/{len(data.train) + len(data.unlabelled or ())}"


def _names(data: Dataset | None, rows: pd.Series, parts: tuple[str, ...]) -> list[str]:
    """Of images that are counted through some parts of a data set, "" where they have no name."""
    sets = [images for part in parts if (images := getattr(data, part, None)) is not None]
    names = [name for images in sets for name in images.names or [""] * len(images)]
    return [names[row] if 0 <= row < len(names) else "" for row in rows]


def _pixels(images: ImageSet, rows: np.ndarray | slice) -> np.ndarray:
    return images.images.numpy()[rows].transpose(0, 2, 3, 1)


def _write(path: str | Path, write: Callable[[Path], object]) -> Path:
    path = Path(path).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, write)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): choose another place") from error
    return path


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # savez would add .npz to the temporary name
        np.savez(file, **arrays)
