"""Assertions that calls raise `InputError`."""

from __future__ import annotations

import pytest

from amco_jax.errors import InputError


def refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
