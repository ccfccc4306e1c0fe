"""Messages between a scheduler and its workers: a header in JSON, then raw arrays.

    magic (4 bytes) | length of the header (4 bytes, big-endian) | header | arrays, one after the other

The header has the keys `fields`, an object of plain values, and `arrays`, a list of name, dtype and shape. An
array of `bool` is sent as packed bits. Nothing that is received is ever unpickled or evaluated, and sizes are
checked before anything is allocated.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from amco_jax.errors import InputError, check_choice, check_number, check_whole

MAX_BYTES = 64 * 2**20
"""The most bytes of a message: twenty images of 1024 x 1024 pixels, or one of 4096 x 4096"""
LEASE = 10.0
"""s after the last sign of life of a scheduler for which no other one gets the worker"""
MAX_HEADER = 64 * 2**10
MAX_TEXT = 200
"""The most characters of a text in a header"""
MAX_DIMENSIONS, MAX_LENGTH = 4, 8192

_MAGIC = b"AMF1"
_PREFIX = struct.Struct(">4sI")
_DTYPES = ("uint8", "bool")


class Message(NamedTuple):
    """A message; its fields are read by the methods, which check them."""

    fields: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def text(self, name: str) -> str:
        """A text of at most `MAX_TEXT` printable characters.

        Raises:
          InputError: the field is missing, or is no such text.
        """
        value = self._get(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
            raise InputError(f"message: {name}; legal: a text of at most {MAX_TEXT} printable characters")
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """A whole number within bounds; InputError if the field is missing, or is not such a number."""
        return check_whole(name, self._get(name), low, high)

    def number(self, name: str, low: float, high: float) -> float:
        """A number within bounds; InputError if the field is missing, or is not such a number."""
        return check_number(name, self._get(name), low, high)

    def wholes(self, name: str, count: int, high: int) -> list[int]:
        """A list of `count` whole numbers from 0 to `high`; InputError if it is missing, or is not one."""
        value = self._get(name)
        if not isinstance(value, list) or len(value) != count:
            raise InputError(f"message: {name}; legal: a list of {count} whole numbers")
        return [check_whole(name, each, 0, high) for each in value]

    def array(self, name: str, dtype: str, dimensions: int) -> np.ndarray:
        """An array; InputError if it is missing, or has another dtype or number of dimensions."""
        found = self.arrays.get(name)
        if found is None or found.dtype != dtype or found.ndim != dimensions:
            raise InputError(f"message: {name}; legal: {dtype} of {dimensions} dimensions")
        return found

    def _get(self, name: str) -> Any:
        if name not in self.fields:
            raise InputError(f"message: no {name}; use the same version of amco-jax on both sides")
        return self.fields[name]


def encode(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """A message as bytes.

    Raises:
      InputError: it would be too large, or an array has a dtype that cannot be sent.
    """
    described, parts = [], []
    for name, array in (arrays or {}).items():
        check_choice("dtype", array.dtype.name, _DTYPES)
        described.append({"name": name, "dtype": array.dtype.name, "shape": array.shape})
        parts.append((np.packbits(array) if array.dtype == bool else array).tobytes())
    header = json.dumps({"fields": fields, "arrays": described}, allow_nan=False).encode()
    if len(header) > MAX_HEADER:
        raise InputError(f"message: a header of {len(header)} bytes; legal: at most {MAX_HEADER}")
    size = _PREFIX.size + len(header) + sum(map(len, parts))
    if size > MAX_BYTES:
        raise InputError(f"message: {size} bytes; legal: at most {MAX_BYTES}")
    return b"".join([_PREFIX.pack(_MAGIC, len(header)), header, *parts])


def decode(data: bytes) -> Message:
    """The message in bytes that may come from anyone.

    Raises:
      InputError: they are not a message.
    """
    if not _PREFIX.size <= len(data) <= MAX_BYTES:
        raise InputError(f"message: {len(data)} bytes; legal: from {_PREFIX.size} to {MAX_BYTES}")
    magic, length = _PREFIX.unpack_from(data)
    if magic != _MAGIC or length > min(MAX_HEADER, len(data) - _PREFIX.size):
        raise InputError("message: not of this format; use the same version of amco-jax on both sides")
    start = _PREFIX.size + length
    try:
        header = json.loads(data[_PREFIX.size : start], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError("message: its header is not JSON; legal: JSON in UTF-8") from error
    if not isinstance(header, dict) or header.keys() != {"fields", "arrays"}:
        raise InputError("message: its header; legal: an object of fields and arrays")
    fields, described = header["fields"], header["arrays"]
    if not isinstance(fields, dict) or not isinstance(described, list):
        raise InputError("message: its header; legal: an object of fields, a list of arrays")
    arrays, room = {}, MAX_BYTES
    for each in described:
        name, array, start = _array(each, data, start, room)
        arrays[name] = array
        room -= array.size * (array.dtype == bool)
    if start != len(data):
        raise InputError(f"message: {len(data) - start} bytes more than its arrays; legal: none")
    return Message(fields, arrays)


def _array(described: Any, data: bytes, start: int, room: int) -> tuple[str, np.ndarray, int]:
    """The array that begins at a byte, with its name, and the byte at which it ends.

    Args:
      room: how many bytes the bits may take when they are unpacked, a byte each.
    """
    if not isinstance(described, dict) or described.keys() != {"name", "dtype", "shape"}:
        raise InputError("message: an array; legal: name, dtype and shape")
    name, dtype, shape = described["name"], described["dtype"], described["shape"]
    if not isinstance(name, str) or not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise InputError(f"message: an array; legal: a name, and at most {MAX_DIMENSIONS} dimensions")
    check_choice("dtype", dtype if isinstance(dtype, str) else "", _DTYPES)
    shape = [check_whole("shape", length, 1, MAX_LENGTH) for length in shape]
    count = math.prod(shape)
    size = -(-count // 8) if dtype == "bool" else count
    if size > len(data) - start:
        raise InputError(
            f"message: {name[:MAX_TEXT]!r} needs {size} bytes; legal: at most {len(data) - start}"
        )
    if dtype == "bool" and count > room:
        raise InputError(f"message: {name[:MAX_TEXT]!r} has {count} bits; legal: at most {room}")
    raw = np.frombuffer(data, np.uint8, size, start)
    found = np.unpackbits(raw, count=count).view(bool) if dtype == "bool" else raw
    return name, found.reshape(shape), start + size


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)
