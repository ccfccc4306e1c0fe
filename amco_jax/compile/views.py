"""Arrays in the memory of a GPU kernel: what of them is read or written, and how they are stored."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.compile.unroll import MAX_SIZE


def stored_dtype(dtype: Any) -> Any:
    """The dtype in memory: a flag takes a whole word, unless it is packed."""
    return jnp.int32 if dtype == jnp.bool_ else dtype


def is_packed(of: Any) -> bool:
    """Whether flags are packed along their last axis, so that the kernel reads a set as one word."""
    return of.dtype == jnp.bool_ and bool(of.shape) and 0 < of.shape[-1] <= 32


def packed_words(flags: Any) -> Any:
    """Flags as words, their last axis as bits."""
    bits = jnp.left_shift(jnp.uint32(1), jnp.arange(flags.shape[-1], dtype=jnp.uint32))
    words = jnp.sum(jnp.where(flags, bits, 0), axis=-1, dtype=jnp.uint32)
    return lax.bitcast_convert_type(words, jnp.int32)


@dataclasses.dataclass(frozen=True)
class Range:
    """A contiguous range along an axis."""

    start: Any
    size: int


class View:
    """A part of an array in memory, with an index or a range per axis; it is read once no axis is left.

    Args:
      of: shape and dtype of one lane's array.
      laned: whether the array has a trailing axis over lanes.
      packed: whether the last axis of `of` is the bits of a word.
    """

    def __init__(self, ref: Any, of: Any, laned: bool, packed: bool = False, index: tuple | None = None):
        self.ref, self.of, self.laned, self.packed = ref, of, laned, packed
        self.index = tuple(Range(0, n) for n in of.shape) if index is None else index

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(i.size for i in self.index if isinstance(i, Range))

    def _replace(self, axis: int, change: Callable[[Range], Any]) -> View:
        position = [k for k, i in enumerate(self.index) if isinstance(i, Range)][axis]
        index = [change(i) if k == position else i for k, i in enumerate(self.index)]  # pyright: ignore
        return self._with(index)

    def _with(self, index: Sequence[Any]) -> View:
        return View(self.ref, self.of, self.laned, self.packed, tuple(index))

    def at(self, i: Any, axis: int = 0) -> View:
        """One element along an axis."""
        return self._replace(axis, lambda r: r.start + i)

    def narrowed(self, starts: Sequence[Any], sizes: Sequence[int]) -> View:
        """A range along each axis."""
        view = self
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True)):
            view = view._replace(axis, lambda r, start=start, size=size: Range(r.start + start, size))
        return view

    def without(self, axes: Sequence[int]) -> View:
        """The view without some axes, each of size 1."""
        view = self
        for axis in sorted(axes, reverse=True):
            view = view.at(0, axis)
        return view

    def load(self) -> Any:
        assert not self.shape
        place = self.index[:-1] if self.packed else self.index
        for axis, i in enumerate(place):
            if np.shape(i):  # pyright: ignore[reportCallIssue, reportArgumentType]
                # A kernel cannot gather, so an index per lane becomes a chain of selects.
                if self.of.shape[axis] > MAX_SIZE:
                    raise NotImplementedError(f"an index per lane into {self.of.shape} in a kernel")
                before, after = self.index[:axis], self.index[axis + 1 :]
                each = [self._with((*before, k, *after)).load() for k in range(self.of.shape[axis])]
                return Row(each).at(i)
        value = self.ref[self._place(place)]
        if self.packed:
            return (value >> self.index[-1]) & 1 != 0
        return value != 0 if self.of.dtype == bool else value

    def store(self, value: Any) -> None:
        assert not self.packed
        self.ref[self._place(self.index)] = value.astype(stored_dtype(self.of.dtype))

    def _place(self, index: tuple) -> tuple:
        return (*index, slice(None)) if self.laned else index


class Row(tuple):
    """A small array whose elements are separate values."""

    def at(self, i: Any) -> Any:
        """Element `i`, as a chain of selects over all elements."""
        return functools.reduce(lambda x, k: jnp.where(i == k, self[k], x), range(1, len(self)), self[0])


def _view_reshape(params, view: View) -> list[View]:
    surplus = len(view.shape) - len(params["new_sizes"])
    reshaped = view.without([axis for axis, n in enumerate(view.shape) if n == 1][: max(surplus, 0)])
    if reshaped.shape != params["new_sizes"]:
        raise NotImplementedError(f"reshape from {view.shape} to {params['new_sizes']} in a kernel")
    return [reshaped]


def _view_slice(params, view: View) -> list[View]:
    if any(step != 1 for step in params["strides"] or ()):
        raise NotImplementedError("a strided slice in a kernel")
    starts, limits = params["start_indices"], params["limit_indices"]
    return [view.narrowed(starts, [limit - start for start, limit in zip(starts, limits, strict=True)])]


def _view_dynamic_slice(params, view: View, *starts) -> list[View]:
    sizes = params["slice_sizes"]
    limits = [n - size for n, size in zip(view.shape, sizes, strict=True)]
    clamped = [
        0 if limit == 0 else jnp.clip(jnp.asarray(start, jnp.int32), 0, limit)
        for start, limit in zip(starts, limits, strict=True)
    ]
    return [view.narrowed(clamped, sizes)]


def _view_unstack(params, view: View) -> list[View]:
    axis = params["axis"]
    return [view.at(i, axis) for i in range(view.shape[axis])]


VIEW_RULES: dict[str, Callable[..., list[View]]] = {
    "reshape": _view_reshape,
    "slice": _view_slice,
    "dynamic_slice": _view_dynamic_slice,
    "squeeze": lambda params, view: [view.without(params["dimensions"])],
    "unstack": _view_unstack,
}
"""The operations that select a part of an array, by the names of their primitives"""
