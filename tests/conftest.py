"""Settings of all tests, and the fixtures that several files share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny_training import Script, run

from amco_jax.experiment.train import TrainResult
from amco_jax.experiment.trainer import Trainer
from amco_jax.runtime import configure

ALL_TESTS = os.environ.get("AMCO_JAX_ALL_TESTS") == "1"
"""A test that is skipped fails, unless it needs a GPU"""

# As the scripts run, and it halves the time to compile.
configure()

# Property tests draw the same examples on every run, so that a failure is everyone's failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    return report if item.get_closest_marker("gpu") else without_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    return without_skip((yield))


def without_skip(report: Any) -> Any:
    """The report of a test or a file, a failure where it was skipped and all tests are to run."""
    if ALL_TESTS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"AMCO_JAX_ALL_TESTS=1, but it was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "out"
    run(out=out)
    return out


@pytest.fixture(scope="session")
def result() -> TrainResult:
    return run()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the training be killed when it is about to advance for the given time, from 0."""
    advance = Trainer.advance

    def at(call: int) -> None:
        calls = iter(range(10**6))

        def killed(self: Trainer, episodes: int) -> Any:
            if next(calls) == call:
                raise KeyboardInterrupt
            return advance(self, episodes)

        monkeypatch.setattr(Trainer, "advance", killed)

    return at
