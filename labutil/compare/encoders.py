"""The test images that runs were judged on, and what their encoders make of them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from labutil import evaluation
from labutil.compare.results import Board, Method
from labutil.data import load_dataset
from labutil.paths import DataError
from labutil.runs.predict import load_model


def test_images(board: Board, method: Method | None = None) -> Tensor:
    """The board's test images, uint8 (N, C, H, W), of the size that a method (the first, when None) was given.

    Raises DataError when the data set can no longer be read, or is no longer the one that the runs saw.

    Example:
        images = test_images(board)
    """
    method = method or board.methods[0]
    record, params = method.members[0].record, method.params
    size = (record.get("model") or {}).get("image_size") or record["dataset"].get("image_size")
    options = {name: params[name] for name in ("data_seed", "val_fraction") if name in params}
    data = load_dataset(params["dataset"], image_size=size if isinstance(size, int) else None, **options)
    if data.fingerprint != board.fingerprint or len(data.test) != len(board.y_true):
        raise DataError(f"{params['dataset']} is no longer what the runs saw (fingerprint {board.fingerprint})")
    return data.test.images


def features(board: Board, method: Method, index: np.ndarray) -> Tensor:
    """Representations h = encoder(x), float32 (n, D), of some test images, by the first run of a method.

    Raises DataError for images, or a model, that cannot be had.

    Example:
        xy = evaluation.tsne(features(board, board.methods[0], evaluation.stratified_sample(board.y_true, 300)))
    """
    model, _ = load_model(method.members[0].dir)
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise DataError(f"the model of {method.label} has no encoder of its own")
    return evaluation.predict(encoder, test_images(board, method)[index].contiguous()).flatten(1)
