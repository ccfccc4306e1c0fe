"""The type checker that the pytest options apply to the package's functions."""

from __future__ import annotations

import functools
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

_CONF = BeartypeConf(
    is_pep484_tower=True,  # an int is accepted as a float, as in static type checkers
    # NumPy functions return scalars if no axis is left.
    hint_overrides=FrozenDict({np.ndarray: np.ndarray | np.generic}),
)


_NAMES_ARRAYS = re.compile(r"[aA]rray|\bKey\b|\b(Float|Int|UInt32|Bool)\[")
"""What an annotation contains that jaxtyping checks; `Key` is the package's own name for such an array"""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, wrapped so that it raises if an argument or the result violates its annotation.

    Constructors are not wrapped. The annotations of a pytree describe the data of one episode, but JAX also
    builds pytrees with more axes, or with shapes or other objects in place of arrays. Classes that users
    construct, such as `Scenario`, check their own fields.
    """
    return function if function.__name__ == "__init__" else beartype(conf=_CONF)(function)


def wrap_no_more_than_needed() -> None:
    """Have jaxtyping wrap only functions whose annotations may name arrays, before the package is imported.

    Nothing is checked of functions without annotations. Those with others are checked without jaxtyping,
    which binds the arguments of each call to a signature: a tenth of the time of the tests.
    """
    wrap: Any = jaxtyping.jaxtyped

    def jaxtyped(function: Any = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(jaxtyped, **options)
        if not isinstance(function, types.FunctionType):
            return wrap(function, **options)
        if not function.__annotations__:
            return function
        of_arrays = any(_NAMES_ARRAYS.search(str(hint)) for hint in function.__annotations__.values())
        return wrap(function, **options) if of_arrays else _checked_unless_disabled(function)

    jaxtyping.jaxtyped = jaxtyped


def _checked_unless_disabled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.cache
    def typed() -> Callable[..., Any]:
        try:
            typing.get_type_hints(function)
        except NameError:  # a name that is imported for static type checkers alone
            return function
        return checked(function)

    def either(*args: Any, **options: Any) -> Any:
        call = function if jaxtyping.config.jaxtyping_disable else typed()
        return call(*args, **options)

    # Digests of functions see through the wrappers of jaxtyping's module.
    scope = globals() | {"__name__": jaxtyping.__name__}
    return functools.wraps(function)(types.FunctionType(either.__code__, scope, closure=either.__closure__))
