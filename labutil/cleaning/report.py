"""What cleaning found, row by row, and the data set that is left when it is applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from labutil.cleaning.detectors import _no_rows
from labutil.paths import DataError, replace_file

if TYPE_CHECKING:
    import pandas as pd

    from labutil.images import Dataset


@dataclass
class CleaningReport:
    """What was found and what is to go: one row an image and reason.

    rows: DataFrame(index, reason, score, other, remove). other: the image that it was compared with, -1 where there
    is none. An image is removed if any of its rows says so.

    Example:
        report = CleaningReport()
        report.add("outlier", found, threshold=4)
        report.save("report.csv")
        report.apply(data, "cleaned.npz")     # any lesson takes it: -p dataset npz:cleaned.npz
    """

    rows: pd.DataFrame = field(default_factory=_no_rows)

    def add(
        self, reason: str, found: pd.DataFrame, *, threshold: float = -np.inf, score: str = "score", remove: bool = True
    ) -> None:
        """Add the rows of a detector's table whose score is above the threshold. reason: such as "outlier"; score:
        the column to read. A pair's `reference_index` becomes `other`."""
        import pandas as pd

        chosen = found[found[score] > threshold]
        other = chosen["reference_index"] if "reference_index" in chosen else np.full(len(chosen), -1)
        new = {"index": chosen["index"], "reason": reason, "score": chosen[score], "other": other, "remove": remove}
        new = pd.DataFrame(new).astype(_no_rows().dtypes.to_dict()).reset_index(drop=True)
        self.rows = new if self.rows.empty else pd.concat([self.rows, new], ignore_index=True)

    @property
    def removed(self) -> np.ndarray:
        """Rows of the training images that go, ascending."""
        return np.unique(self.rows.loc[self.rows["remove"], "index"].to_numpy())

    def save(self, path: str | Path) -> None:
        """Write the report as CSV.

        Raises:
            DataError: the file cannot be written.
        """
        _write(path, lambda temporary: self.rows.to_csv(temporary, index=False))

    @classmethod
    def load(cls, path: str | Path) -> CleaningReport:
        """Read a report that `save` wrote, perhaps edited by hand.

        Raises:
            DataError: no such file, columns are missing, or hold something else.
        """
        import pandas as pd

        try:
            rows = pd.read_csv(path)[list(_no_rows().columns)]
            # As text, "no" and "False" would both count as true.
            if len(rows) and not pd.api.types.is_bool_dtype(rows["remove"]):
                raise ValueError("remove must be True or False in every row")
            rows = rows.astype(_no_rows().dtypes.to_dict())
            if (rows["index"] < 0).any():
                raise ValueError("index must be 0 or more in every row")
            return cls(rows)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no cleaning report ({error}): save one with CleaningReport.save") from error

    def apply(self, data: Dataset, path: str | Path) -> Path:
        """Write `data` without the removed training images as an .npz, validation and test images as they are.

        Labels are written by class name, so that names survive. Returns the path, for `npz:PATH`.

        Raises:
            DataError: no image of a class would be left, the report is of other images, or the file cannot be
                written.
        """
        gone = self.removed
        if len(gone) and gone[-1] >= len(data.train):
            raise DataError(f"the report names image {gone[-1]} of {len(data.train)}: it belongs to another data set")
        keep = np.setdiff1d(np.arange(len(data.train)), gone)
        if not len(keep):
            raise DataError("the report removes every training image: raise its thresholds")
        lost = np.setdiff1d(torch.cat([data.val.labels, data.test.labels]), data.train.labels.numpy()[keep])
        if len(lost := lost[lost >= 0]):
            raise DataError(f"the report removes every training image of {data.classes[lost[0]]}: raise its thresholds")
        arrays = {}
        for part in ("train", "val", "test"):
            images = getattr(data, part)
            rows = keep if part == "train" else slice(None)
            labels = images.labels.numpy()[rows]
            arrays[f"{part}_images"] = images.images.numpy()[rows].transpose(0, 2, 3, 1)
            if data.classes and (labels < 0).any():
                raise DataError(
                    f"{(labels < 0).sum()} {part} images have no label, which an .npz cannot hold beside others"
                )
            if data.classes:
                arrays[f"{part}_labels"] = np.array(data.classes)[labels]
        return _write(path, lambda temporary: _save_npz(temporary, arrays))


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
