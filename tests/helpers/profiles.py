"""Small ICC profiles (version 2), written byte by byte from the specification."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
P3_TO_XYZ = np.array([[0.51512, 0.29198, 0.1571], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
"""The columns are red, green and blue of Display P3, adapted to D50."""
SRGB_TO_XYZ = np.array(
    [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
)


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _curve(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes], kind: bytes) -> bytes:
    text = b"made up\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": _xyz(*D50),
        b"cprt": b"text\0\0\0\0none\0",
    } | tags
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4xI", size, 0x02400000) + kind + space + connection + bytes(12) + b"acsp"
    header += bytes(28) + _fixed(*D50) + bytes(48)
    return header + table + body


def grey_profile(exponent: float) -> bytes:
    """A grey profile in which the light is value ** exponent."""
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _curve(exponent)}, b"mntr")


def rgb_profile(to_xyz: np.ndarray, exponent: float) -> bytes:
    """An RGB profile in which the light in XYZ under D50 is to_xyz @ value ** exponent."""
    tags = {}
    for name, primary in zip((b"r", b"g", b"b"), to_xyz.T, strict=True):
        tags |= {name + b"XYZ": _xyz(*primary), name + b"TRC": _curve(exponent)}
    return _profile(b"RGB ", b"XYZ ", tags, b"mntr")


def cmyk_profile(lightness: Callable[[np.ndarray], float]) -> bytes:
    """A CMYK profile of greys; `lightness` (0 to 1, L* / 100) gives the values at the sixteen corners."""
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += bytes(range(256)) * 4
    for corner in np.ndindex(2, 2, 2, 2):
        table += bytes([round(255 * lightness(np.array(corner))), 128, 128])
    table += bytes(range(256)) * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table}, b"prtr")


def to_srgb(light: np.ndarray) -> np.ndarray:
    """The sRGB values, from 0 to 255, of linear light from 0 to 1."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
