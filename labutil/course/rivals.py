"""What other libraries make of the same task, for lessons that compare. Each answers None where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import combinations
from typing import Any

from PIL import Image
from torch import Tensor


def cleanvision_pairs(images: Tensor) -> set[tuple[int, int]] | None:
    """Pairs (i, j), i < j, that cleanvision calls exact or near duplicates: equal bytes, equal hashes of 64 bits.

    images: uint8 (N, C, H, W), C = 1 or 3. None where cleanvision is not installed.
    """
    if find_spec("cleanvision") is None:
        return None
    from cleanvision import Imagelab
    from IPython.utils.capture import capture_output
    from torchvision.datasets import VisionDataset

    class Pictures(VisionDataset):
        """What it asks for: a length, and (picture, label) by number."""

        def __init__(self) -> None:
            self.root = None

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, i: int) -> tuple[Any, int]:
            return Image.fromarray(images[i].permute(1, 2, 0).numpy().squeeze()), 0

    with capture_output():  # it draws progress bars
        lab = Imagelab(torchvision_dataset=Pictures())
        lab.find_issues({"exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
    sets = [members for kind in ("exact", "near") for members in lab.info[f"{kind}_duplicates"]["sets"]]
    return {pair for members in sets for pair in combinations(sorted(members), 2)}
