"""Pytrees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def assert_same_bits(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)
