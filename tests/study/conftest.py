"""Fixtures that the tests of interrupted studies share."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.kills import ended_well, start


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep of `helpers.kills.start`, undisturbed, in one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended_well(start(out))
    return out
