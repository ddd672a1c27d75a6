"""What `labutil grade` and the process that runs a student's code say to each other: JSON, and raw arrays; no pickle.

Whoever reads trusts nothing: lengths, kinds and shapes are checked, and a message that breaks the rules is BadMessage.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

LIMIT, HEAD = 32 * 2**20, 2**20  # bytes of a message's arrays, and of the rest
DTYPES = {np.dtype(code).str for code in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}
SEQUENCES = {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}


class BadMessage(Exception):
    """What came is no message, or too large; the text says so."""


def encode(value: Any, arrays: list[np.ndarray], other: Callable[[Any], dict] | None = None) -> Any:
    """A value as what JSON can hold; its arrays and tensors are added to `arrays`.

    other: what to write for a kind that is not known here. Raises TypeError where nothing can be.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if value is ...:
        return {"kind": "..."}
    for kind, of in SEQUENCES.items():
        if type(value) is of:
            return {"kind": kind, "of": [encode(item, arrays, other) for item in value]}
    if isinstance(value, range):
        return {"kind": "range", "of": [value.start, value.stop, value.step]}
    if isinstance(value, dict):
        return {"kind": "dict", "of": [[encode(part, arrays, other) for part in pair] for pair in value.items()]}
    if (special := other and other(value)) is not None:
        return special
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return {"kind": "tensor", "of": _keep(array, arrays)}
    if isinstance(value, np.ndarray | np.generic):
        return {"kind": "array" if isinstance(value, np.ndarray) else "number", "of": _keep(np.asarray(value), arrays)}
    raise TypeError(f"a {type(value).__name__} cannot be judged: return tensors, arrays, numbers, or lists of them")


def _keep(array: np.ndarray, arrays: list[np.ndarray]) -> int:
    array = array.astype(array.dtype.newbyteorder("=")) if array.dtype.byteorder == ">" else array
    if array.dtype.str not in DTYPES:
        raise TypeError(f"values of kind {array.dtype} cannot be judged: return numbers")
    arrays.append(np.ascontiguousarray(array).reshape(array.shape))
    return len(arrays) - 1


def decode(tree: Any, arrays: list[np.ndarray], other: Callable[[dict], Any] | None = None) -> Any:
    """What `encode` was given. other: what to make of {"kind": ...} that is not known here. Raises BadMessage."""
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if not isinstance(tree, dict) or not isinstance(kind := tree.get("kind"), str):
        raise BadMessage("no value")
    of = tree.get("of")
    try:
        if kind == "...":
            return ...
        if other and (special := other(tree)) is not None:
            return special
        if kind in ("tensor", "array", "number"):
            array = arrays[of]
            return torch.from_numpy(array) if kind == "tensor" else array if kind == "array" else array[()]
        if kind == "range":
            if len(found := range(*of)) > HEAD:
                raise BadMessage("too large")
            return found
        if kind == "dict":
            return {decode(key, arrays, other): decode(value, arrays, other) for key, value in of}
        return SEQUENCES[kind](decode(item, arrays, other) for item in of)
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadMessage("no value") from error


def send(connection: socket.socket, message: dict, arrays: list[np.ndarray] | None = None) -> None:
    """Send a message, which JSON can hold, and arrays. Raises TypeError where they are too large."""
    arrays = arrays or []
    message = message | {"arrays": [[array.dtype.str, list(array.shape)] for array in arrays]}
    head, bodies = json.dumps(message).encode(), [array.tobytes() for array in arrays]
    size = sum(map(len, bodies))
    if size > LIMIT or len(head) > HEAD:
        raise TypeError("that is too large to be judged")
    connection.sendall(b"".join([struct.pack(">II", len(head), size), head, *bodies]))


def receive(connection: socket.socket, deadline: float = math.inf) -> tuple[dict, list[np.ndarray]]:
    """A message and its arrays. deadline: of time.monotonic. Raises BadMessage, TimeoutError, EOFError at the end."""
    length, size = struct.unpack(">II", _read(connection, 8, deadline))
    if size > LIMIT or length > HEAD:
        raise BadMessage("too large")
    head, body = _read(connection, length, deadline), _read(connection, size, deadline)
    arrays, start = [], 0
    try:
        message = json.loads(head)
        for dtype, shape in message["arrays"]:
            if dtype not in DTYPES or not all(type(n) is int and 0 <= n <= LIMIT for n in shape) or len(shape) > 16:
                raise BadMessage("no array")
            count = math.prod(shape)
            array = np.frombuffer(body, dtype, count, start) if count else np.empty(0, dtype)
            arrays.append(array.reshape(shape).copy())  # as it lies there it cannot be written to
            start += array.nbytes
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadMessage("no message") from error
    return message, arrays


def _read(connection: socket.socket, n: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < n:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(None if left == math.inf else left)
        if not (part := connection.recv(min(n - len(parts), 2**20))):
            raise EOFError
        parts += part
    return bytes(parts)
