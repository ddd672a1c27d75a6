"""Files changed at random, as bytes and by their structure, for readers to be tried on."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

LENGTHS = (0, 1, 2, 7, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1)
VALUES = (
    None,
    True,
    -1,
    0,
    1.5,
    1e308,
    float("nan"),
    10**30,
    "",
    "../..",
    "nan",
    "{x}",
    "\x00",
    "é" * 300,
    [],
    {},
    [[]],
)


def some_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, a cut, a gap, a doubled or a moved piece, noise, or an ending too many."""
    if not data:
        return b"\x00"
    kind, a, b = rng.integers(7), *sorted(rng.integers(len(data) + 1, size=2))
    changed = bytearray(data)
    if kind == 0:
        for place in rng.integers(len(data), size=rng.integers(1, 9)):
            changed[place] ^= 1 << rng.integers(8)
    elif kind == 1:
        del changed[a:]
    elif kind == 2:
        del changed[a:b]
    elif kind == 3:
        changed[b:b] = changed[a : min(b, a + 4096)]
    elif kind == 4:
        changed[a : a + 64] = rng.bytes(len(changed[a : a + 64]))
    elif kind == 5:
        changed[a : a + 4] = struct.pack(">I" if rng.integers(2) else "<I", LENGTHS[rng.integers(len(LENGTHS))])
    else:
        changed += rng.bytes(rng.integers(1, 300))
    return bytes(changed)


def idx(data: bytes, rng: np.random.Generator) -> bytes:
    """A size or the kind in the header of an IDX file replaced."""
    place, value = 4 * rng.integers(4 if data[3] == 3 else 2), LENGTHS[rng.integers(len(LENGTHS))]
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


def archive(data: bytes, rng: np.random.Generator) -> bytes:
    """A member of an .npz renamed, doubled, left out, or with an array of another shape, kind or header."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    names = list(members)
    name, other = names[rng.integers(len(names))], names[rng.integers(len(names))]
    kind, content = rng.integers(8), members[name]
    if kind == 0:
        del members[name]
    elif kind == 1:
        members["../" + name] = members.pop(name)
    elif kind == 2:
        members[name] = members[other]
    elif kind == 3:
        members[name] = _saved(_any_array(rng))
    elif kind == 4:
        members[name] = content[: rng.integers(len(content))]
    elif kind == 5:
        words = (
            b"False",
            b"'<i8'",
            b"'|O'",
            b"'|S9'",
            b"(9999999999,)",
            b"(-1,)",
            b"()",
            b"'descr'",
            b"True",
            b"'<f8'",
        )
        old, new = words[rng.integers(len(words))], words[rng.integers(len(words))]
        members[name] = content.replace(old, new).replace(b"|u1", (b"<u4", b"|b1", b"<M8", b"|V1")[rng.integers(4)])
    elif kind == 6:
        members[name] = some_bytes(content, rng)
    else:
        members[name] = _header(content, rng)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as target:
        for key, value in members.items():
            target.writestr(key, value)
    result = bytearray(written.getvalue())
    if rng.integers(8) == 0:  # a compression that is not there, or a password that nobody knows
        place = result.rfind(b"PK\x01\x02")
        result[place + 10 if rng.integers(2) else place + 8] = (1, 9, 12, 14, 99)[rng.integers(5)]
    return bytes(result)


def _header(content: bytes, rng: np.random.Generator) -> bytes:
    """The .npy of an array with a shape that is far larger than what follows."""
    shapes = ("(4000000000, 8, 8)", "(2, 1000000000000)", "(99999999999999999999,)", "(-3, 8, 8)", "(1.5,)", "('a',)")
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shapes[rng.integers(len(shapes))]}, }}\n".encode()
    return content[:8] + struct.pack("<H", len(text)) + text + content[-64:]


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _any_array(rng: np.random.Generator) -> np.ndarray:
    shape = [(), (0,), (5,), (5, 1), (5, 3), (5, 9, 9), (5, 9, 9, 3), (5, 0, 9), (1, 1, 1, 1, 1)][rng.integers(9)]
    kinds = ("u1", "i1", "i8", "u8", "f4", "f8", "c8", "?", "U3", "S3", "M8[s]", "O")
    array = rng.integers(0, 5, size=shape).astype(kinds[rng.integers(len(kinds))])
    if array.dtype.kind == "f" and array.size:
        array.flat[0] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    return np.asarray(array)


def png(data: bytes, rng: np.random.Generator) -> bytes:
    """A field of a PNG's header, the length or the name of a chunk replaced; checksums are right again."""
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append([data[place + 4 : place + 8], bytearray(data[place + 8 : place + 8 + length])])
        place += 12 + length
    kind = rng.integers(4)
    if kind == 0:
        side = 4 * rng.integers(2)
        chunks[0][1][side : side + 4] = struct.pack(">I", LENGTHS[rng.integers(len(LENGTHS))])
    elif kind == 1:
        chunks[0][1][8 + rng.integers(5)] = rng.integers(256)
    elif kind == 2:
        chunks[rng.integers(len(chunks))][0] = (b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"zzzz")[rng.integers(6)]
    else:
        chunk = chunks[rng.integers(len(chunks))]
        chunk[1] = bytearray(some_bytes(bytes(chunk[1]), rng))
    pieces = [struct.pack(">I", len(c)) + n + bytes(c) + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return data[:8] + b"".join(pieces)


def safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Something in the header of a safetensors file replaced, or its length, or bytes added after the last tensor."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = rng.integers(6)
    if kind == 0:
        lengths = (0, 1, length - 1, length + 1, 2**40, 2**63 - 1, 2**64 - 1)
        return struct.pack("<Q", lengths[rng.integers(len(lengths))]) + data[8:]
    if kind == 1:
        return data + bytes(rng.integers(1, 100))
    if kind == 2:
        settings = json.loads(header["__metadata__"]["settings"])
        header["__metadata__"]["settings"] = json.dumps(replaced(settings, rng))
    elif kind == 3:
        names = [name for name in header if name != "__metadata__"]
        entry = header[names[rng.integers(len(names))]]
        entry["data_offsets"] = [int(LENGTHS[i]) for i in rng.integers(len(LENGTHS), size=2)]
    else:
        header = replaced(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def as_json(data: bytes, rng: np.random.Generator) -> bytes:
    """A value somewhere in a JSON file replaced, left out or renamed."""
    return json.dumps(replaced(json.loads(data), rng)).encode()


def replaced(value: Any, rng: np.random.Generator) -> Any:
    """A copy of lists and dictionaries in which one thing, at any depth, is another, missing or renamed."""
    places: list[tuple[Any, Any]] = []

    def collect(inner: Any) -> None:
        for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
            places.append((inner, key))
            if isinstance(inner[key], (dict, list)):
                collect(inner[key])

    value = json.loads(json.dumps(value))
    if isinstance(value, (dict, list)):
        collect(value)
    if not places:
        return VALUES[rng.integers(len(VALUES))]
    inner, key = places[rng.integers(len(places))]
    kind = rng.integers(5)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, dict):
        inner[str(key) + "_"] = inner.pop(key)
    else:
        inner[key] = VALUES[rng.integers(len(VALUES))]
    return value


def lines(data: bytes, rng: np.random.Generator) -> bytes:
    """A line of a text file changed: its value (YAML), a cell (CSV), left out, doubled or indented."""
    rows = data.decode().splitlines()
    place, kind = rng.integers(len(rows)), rng.integers(5)
    words = (
        "[",
        "{",
        "010",
        "1:30",
        "yes",
        "1_000",
        "2024-01-01",
        "~",
        "!!python/object:os.system x",
        "&a *a",
        "nan",
        "'",
    )
    if kind == 0:
        del rows[place]
    elif kind == 1:
        rows.insert(place, rows[place])
    elif kind == 2:
        rows[place] = "   " + rows[place]
    else:
        cut = ":" if ":" in rows[place] else ","
        head = rows[place].split(cut)
        head[rng.integers(len(head))] = " " + words[rng.integers(len(words))]
        rows[place] = cut.join(head)
    return "\n".join(rows).encode()
