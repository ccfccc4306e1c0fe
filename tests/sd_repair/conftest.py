"""Fixtures that several files share."""

from __future__ import annotations

import pytest

from amco_jax.extras import load_package


@pytest.fixture(scope="module")
def one_thread():
    torch = load_package("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
