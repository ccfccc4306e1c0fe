"""The wire format: what is sent arrives, and whatever else arrives is refused."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from helpers.refusals import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from amco_jax.errors import InputError
from edge_fleet.wire import MAX_BYTES, MAX_HEADER, decode, encode

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
MASK = IMAGE[..., 0] > 100
MESSAGE = encode({"item": "a", "number": 3}, {"images": IMAGE, "masks": MASK})


def framed(header: object, payload: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack(">4sI", b"AMF1", len(text)) + text + payload


def test_what_is_sent_arrives():
    found = decode(MESSAGE)
    assert (found.text("item"), found.whole("number", 0, 9)) == ("a", 3)
    np.testing.assert_array_equal(found.array("images", "uint8", 4), IMAGE)
    np.testing.assert_array_equal(found.array("masks", "bool", 3), MASK)
    # An eighth of a byte per pixel of a mask, rather than one.
    assert len(MESSAGE) < IMAGE.nbytes + MASK.size // 8 + 300


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes):
    with pytest.raises(InputError):
        decode(data)


@given(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255), st.integers(0, len(MESSAGE)))
def test_damaged_messages_are_refused_or_harmless(place: int, byte: int, end: int):
    damaged = bytearray(MESSAGE)
    damaged[place] = byte
    try:
        found = decode(bytes(damaged[:end] if end > place else damaged))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either outcome is right
    else:
        assert all(array.nbytes <= 2 * len(MESSAGE) * 8 for array in found.arrays.values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
DESCRIBED = st.fixed_dictionaries({
    "name": VALUES | st.just("images"), "dtype": VALUES | st.sampled_from(["uint8", "bool", "object"]),
    "shape": VALUES | st.lists(st.integers(-2, 2**40), max_size=5),
})  # fmt: skip


@settings(max_examples=30)
@given(
    st.fixed_dictionaries({"fields": VALUES, "arrays": VALUES | st.lists(DESCRIBED, max_size=3)}), st.binary()
)
def test_any_header_is_refused_or_harmless(header: object, payload: bytes):
    try:
        found = decode(framed(header, payload))
    except InputError:
        return
    assert sum(array.nbytes for array in found.arrays.values()) <= 8 * len(payload)
    for read in (found.text, lambda name: found.whole(name, 0, 9), lambda name: found.number(name, 0, 1)):
        with pytest.raises(InputError):
            read("no such field")


@pytest.mark.parametrize(
    "data",
    [
        framed(
            {"fields": {}, "arrays": [{"name": "a", "dtype": "uint8", "shape": [8192, 8192, 8192, 8192]}]}
        ),
        framed({"fields": {}, "arrays": [{"name": "a", "dtype": "object", "shape": [1]}]}, b"x"),
        framed({"fields": {}, "arrays": []}, b"x"),
        struct.pack(">4sI", b"AMF1", 2**32 - 1) + b"{}",
        struct.pack(">4sI", b"AMF1", 100_000) + b"[" * 100_000,
        struct.pack(">4sI", b"AMF1", 60_000) + b"[" * 60_000,
        framed({"fields": {"x": 1}, "arrays": []}).replace(b"1}", b"NaN}"),
        b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",  # a pickle
    ],
    ids=["huge", "object", "longer", "header", "header size", "nested", "NaN", "pickle"],
)
def test_hostile_messages_are_refused(data: bytes):
    refused(lambda: decode(data))


def test_packed_bits_have_a_largest_size():
    def bits(*shapes: list[int]) -> bytes:
        described = [{"name": f"{k}", "dtype": "bool", "shape": shape} for k, shape in enumerate(shapes)]
        return framed({"fields": {}, "arrays": described}, bytes(sum(-(-math.prod(s) // 8) for s in shapes)))

    largest = [8192, 8192]
    assert decode(bits(largest)).array("0", "bool", 2).nbytes == MAX_BYTES
    refused(lambda: decode(bits([2, *largest])), f"{2 * MAX_BYTES} bits", "legal: ")
    refused(lambda: decode(bits(largest, [1])), "'1' has 1 bits", "legal: ")


def test_messages_have_a_largest_size():
    refused(lambda: encode({}, {"images": np.zeros(MAX_BYTES, np.uint8)}), "bytes")
    refused(lambda: encode({"text": "x" * MAX_HEADER}), "header")


def test_fields_are_checked():
    found = decode(encode({"text": "a\nb", "list": [1, -1], "number": True}))
    refused(lambda: found.text("text"), "printable")
    refused(lambda: found.wholes("list", 2, 9), "-1")
    refused(lambda: found.wholes("list", 3, 9), "3 whole numbers")
    refused(lambda: found.number("number", 0, 1), "number")
    refused(lambda: found.array("images", "uint8", 4), "images")
