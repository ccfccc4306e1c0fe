"""A training that takes a second or two, shared by the tests of the commands around training."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from amco_jax.agents.methods import get_method
from amco_jax.commands import start
from amco_jax.scenario import Scenario
from amco_jax.study.base import StudyResult
from amco_jax.study.evaluate import load_run
from amco_jax.study.simulate import simulate
from amco_jax.study.train import Training
from helpers.studies import carry_out

TINY = Scenario(
    num_servers=2,
    num_tasks=4,
    num_slots=6,
    arrival_prob=0.6,
    capacity=(3, 12),
    density_min=0.2,
    density_max=0.8,
)


LEARN = {
    "hidden": 8,
    "batch_size": 4,
    "replay_capacity": 12,
    "learn_after": 8,
    "learn_interval": 2,
    "greedy_growth": 0.02,
}


METHOD = get_method("drlcoedge").with_settings(**LEARN)


SEEDS, EPISODES = 4, 6


COLUMNS = [
    "method",
    "seed",
    "episode",
    "makespan_mean_s",
    "miss_rate",
    "goodput_per_s",
    "response_mean_s",
    "mean_servers_used",
    "num_tasks",
    "num_accepted",
    "loss",
    "epsilon",
]


FILES = {
    "curves.parquet",
    "convergence.png",
    "convergence.pdf",
    "manifest.json",
    "SHA256SUMS",
    "agents",
    "units",
}


def run(**changes: Any) -> StudyResult:
    options: dict[str, Any] = {"seeds": SEEDS, "episodes": EPISODES, "scenario": TINY}
    options |= {"method": METHOD} | changes
    return carry_out(Training, **options)


def local_metrics(scenario: Scenario, episode: int, first_seed: int = 0) -> dict[str, np.ndarray]:
    local = get_method("local")
    (batch,) = simulate([scenario], local, local.physics("unified"), first_seed, SEEDS, episode=episode)
    return batch.metrics


QUICK = [
    "--set", "num_servers=2", "num_tasks=4", "num_slots=6", "arrival_prob=0.6", "capacity=3-12",
    "density_min=0.2", "density_max=0.8", "--seeds", SEEDS,
]  # fmt: skip


LEARN_QUICK = ["--learn", *(f"{name}={value}" for name, value in LEARN.items())]


class Script:
    """A command that runs in this process, where its programs are already compiled."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str = "amco_jax"
    ):
        self._monkeypatch, self._capsys, self._package = monkeypatch, capsys, package

    def __call__(self, name: str, *arguments: object) -> tuple[int, str, str]:
        """Run the command, and return its exit code, stdout and stderr."""
        self._monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        code, caching = 0, getattr(jax.config, "jax_enable_compilation_cache", True)
        try:
            start(f"{self._package}.commands.{name}")
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:  # which commands that compile nothing turn off
            jax.config.update("jax_enable_compilation_cache", caching)
        out, err = self._capsys.readouterr()
        return code, out, err

    def assert_refused(self, words: Iterable[str], name: str, *arguments: object) -> None:
        """Run a command, and assert that it ends with one line of error that contains the words."""
        code, out, error = self(name, *arguments)
        assert (code, out) == (2, ""), error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        for word in words:
            assert word in error


def assert_same_files(left: Path, right: Path) -> None:
    assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}
    curves = (pd.read_parquet(home / "curves.parquet") for home in (left, right))
    pd.testing.assert_frame_equal(next(curves), next(curves), check_exact=True)
    jax.tree.map(np.testing.assert_array_equal, load_run(left).weights, load_run(right).weights)
