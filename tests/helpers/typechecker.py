"""The type checker that the pytest options apply to the package's functions."""

from __future__ import annotations

import functools
import types
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


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, wrapped so that it raises if an argument or the result violates its annotation.

    Constructors are not wrapped. The annotations of a pytree describe the data of one episode, but JAX also
    builds pytrees with more axes, or with shapes or other objects in place of arrays. Classes that users
    construct, such as `Scenario`, check their own fields.
    """
    return function if function.__name__ == "__init__" else beartype(conf=_CONF)(function)


def leave_unannotated_functions_alone() -> None:
    """Have jaxtyping wrap only functions with annotations, before the package is imported.

    Nothing is checked of the others, and wrapping them takes time: above all functions within functions,
    which are wrapped anew whenever they are defined.
    """
    wrap: Any = jaxtyping.jaxtyped

    def jaxtyped(function: Any = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(jaxtyped, **options)
        if isinstance(function, types.FunctionType) and not function.__annotations__:
            return function
        return wrap(function, **options)

    jaxtyping.jaxtyped = jaxtyped
