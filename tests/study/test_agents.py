"""Stores of trained agents: shared by processes, and copied whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from amco_jax import Execution, Scenario, Training, run_study
from amco_jax.agents.methods import get_method
from amco_jax.results.saved import is_intact
from amco_jax.study.agents import AgentStore, Trained
from amco_jax.study.run import AGENTS

TINY = Scenario(num_servers=2, num_tasks=4, num_slots=5, arrival_prob=0.6)
QUICK = get_method("drlcoedge").with_settings(hidden=(4,), batch_size=4, learn_after=5)
SOME = Trained([np.zeros((2, 3))], np.ones((2, 4, 1)))


def test_the_block_of_the_first_of_two_processes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also if it appears only after the second one has looked for it."""
    store = AgentStore(tmp_path)
    store.commit("block", SOME)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "block").rglob("*")}
    monkeypatch.setattr(AgentStore, "has", lambda self, name: False)
    store.commit("block", SOME)
    AgentStore(tmp_path).copy_from(store, ["block"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "block").rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["block"]


def test_a_copy_that_is_interrupted_leaves_no_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, copy, real = AgentStore(tmp_path / "store"), AgentStore(tmp_path / "copy"), shutil.copytree
    store.commit("block", SOME)

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            copy.copy_from(store, ["block"])
    assert not copy.has("block")
    copy.copy_from(store, ["block"])
    assert is_intact(tmp_path / "copy" / "block")


@pytest.mark.parametrize("again", [{"resume": True, "recompute": True}, {"overwrite": True}])
@pytest.mark.parametrize("shared", [False, True])
def test_damaged_agents_of_a_finished_training_are_recomputed(
    tmp_path: Path, shared: bool, again: dict[str, bool]
):
    """They are trained again, or copied again from the store that holds them."""
    out, store = tmp_path / "out", tmp_path / "store" if shared else None

    def run(overwrite: bool = False, **execution: Any) -> Any:
        study = Training(QUICK, seeds=3, episodes=3, scenario=TINY)
        how = Execution(shared_agents=store, **execution)
        return run_study(study, out, execution=how, overwrite=overwrite).agents

    first = run()
    path = min((out / AGENTS).rglob("*.ocdbt"))
    path.write_bytes(path.read_bytes()[:-1])
    jax.tree.map(np.testing.assert_array_equal, run(**again), first)
    assert all(map(is_intact, (out / AGENTS).iterdir()))
