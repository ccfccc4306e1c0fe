"""The type checker that `conftest.py` puts around the package's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype

_CONF = BeartypeConf(
    is_pep484_tower=True,  # as for static checkers, an int is a float
    # NumPy's functions return scalars where no axis is left.
    hint_overrides=FrozenDict({np.ndarray: np.ndarray | np.generic}),
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises if an argument or its result is not what the annotation says.

    Constructors stay as they are. Annotations of a pytree state what one episode holds, and JAX rebuilds
    pytrees with more axes, shapes or anything else in place of the arrays. What users construct, such as a
    `Scenario`, checks its fields by itself.
    """
    return function if function.__name__ == "__init__" else beartype(conf=_CONF)(function)
