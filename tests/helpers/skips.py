"""Hooks that make a skipped test fail if `AMCO_JAX_ALL_TESTS=1`, unless it needs a GPU."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

ALL_TESTS = os.environ.get("AMCO_JAX_ALL_TESTS") == "1"

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Report, Report]:
    report = yield
    return report if item.get_closest_marker("gpu") else _without_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    return _without_skip((yield))


def _without_skip(report: Report) -> Report:
    if ALL_TESTS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with AMCO_JAX_ALL_TESTS=1: {report.longrepr}"
    return report
