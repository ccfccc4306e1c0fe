"""Settings of all tests, and the fixtures that several files share."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest
from helpers.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # hooks
from helpers.tiny_training import Script, run
from hypothesis import settings

from amco_jax.cli import console
from amco_jax.commands import COLLECTIONS
from amco_jax.compile.runtime import configure
from amco_jax.study import trainer
from amco_jax.study.base import StudyResult
from amco_jax.study.trainer import Trainer

# As the scripts run, and it halves the time to compile.
configure()

# Property tests draw the same examples on every run, so that a failure is everyone's failure.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The garbage collector leaves alone what is imported, and then looks as rarely as in commands."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        gc.set_threshold(*COLLECTIONS)


@pytest.fixture(autouse=True)
def _stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are interrupted in this process do not end it."""
    monkeypatch.setattr(console, "leave", sys.exit)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> Iterator[None]:
    """Compiled programs are dropped at the end of a file: those of all files together take 5 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "out"
    run(out=out)
    return out


@pytest.fixture(scope="session")
def result() -> StudyResult:
    return run()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked: for values of a wrong type, which the package itself must refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


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


@pytest.fixture
def often_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings advance by single episodes, with a checkpoint after each."""
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "EPISODES_PER_CALL", 1)
    monkeypatch.setattr(trainer, "_programs", functools.cache(trainer._programs.__wrapped__))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with one core each, and a head with none."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def pixels() -> np.ndarray:
    """A small image of random colours [32, 48, 3]."""
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def hole() -> np.ndarray:
    """A small mask of that size, true in the hole."""
    mask = np.zeros((32, 48), bool)
    mask[10:14, 20:30] = True
    return mask
