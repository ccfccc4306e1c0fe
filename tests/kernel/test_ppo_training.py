"""PPO in the training loop: it learns, and no neighbour, cut or interruption changes a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.tiny_training import TINY
from helpers.trees import assert_same_bits

from amco_jax.agents.methods import Method, get_method
from amco_jax.agents.ppo import PPO, PPOSettings
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED
from amco_jax.metrics import CURVE_METRICS, EPISODE_METRICS, columns_of, row_names
from amco_jax.results.checkpoints import Journal, Saved
from amco_jax.scenario import Scenario
from amco_jax.study.agents import AgentStore
from amco_jax.study.blocks import blocks_of, padded_shapes
from amco_jax.study.grid import Cell
from amco_jax.study.run import run_study
from amco_jax.study.simulate import simulate
from amco_jax.study.train import Training
from amco_jax.study.trainer import Trainer, curve_columns
from amco_jax.study.units import run_unit, units_of

SETTINGS = PPOSettings(
    hidden=(8,), rollout_slots=8, batch_size=16, updates=4, learning_rate=0.01, discount=0.5
)
METHOD = Method("tiny-ppo", training=PPO(settings=SETTINGS))
SEEDS_PER_BLOCK = PPO.seeds_per_block
EPISODES = 7
"""Episodes of 6 slots: rollouts of 8 slots begin and end inside of episodes."""


def cell_of(scenario: Scenario = TINY, episodes: int = EPISODES, **changes: Any) -> Cell:
    return Cell(
        scenario=scenario, method=METHOD.with_settings(**changes), num_seeds=SEEDS_PER_BLOCK,
        columns=row_names(columns_of(EPISODE_METRICS), 2), plays=(0,), train_episodes=episodes,
    )  # fmt: skip


def trainer_of(cells: list[Cell], first_seed: int = 0) -> Trainer:
    blocks = blocks_of(len(cells), first_seed, SEEDS_PER_BLOCK, SEEDS_PER_BLOCK)
    return Trainer(padded_shapes([cell.scenario for cell in cells])[0], cells, blocks, len(blocks))


def trained(cells: list[Cell], first_seed: int = 0, cuts: tuple[int, ...] = (EPISODES,)) -> list[Any]:
    """Agents and curves of each cell, leaves `[seeds, ...]`."""
    trainer = trainer_of(cells, first_seed)
    parts = [on_host(trainer.advance(episodes)) for episodes in cuts]
    curves = jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *parts)
    agents = trainer.host_agents()
    return [jax.tree.map(lambda leaf, i=i: leaf[i], (agents, curves)) for i in range(len(cells))]


@pytest.fixture(scope="module")
def base() -> Any:
    return trained([cell_of()])[0]


def test_learning_steps_come_after_each_rollout(base: Any):
    """Rollouts of 8 slots over episodes of 6: none ends in the first episode, nor in the fifth."""
    _, curves = base
    ends = {slot // 6 for slot in range(7, EPISODES * 6, 8)}
    learnt = np.isfinite(curves.logs["value_loss"])
    np.testing.assert_array_equal(
        learnt, np.tile(np.isin(np.arange(EPISODES), list(ends)), (SEEDS_PER_BLOCK, 1))
    )
    assert (curves.logs["entropy"][learnt] > 0).all()


def test_cuts_between_calls_and_other_seeds_change_no_bit(base: Any):
    assert_same_bits(trained([cell_of()], cuts=(1, 4, 2))[0], base)
    shifted = trained([cell_of()], first_seed=5)[0]
    common = jax.tree.map(lambda x: x[: SEEDS_PER_BLOCK - 5], shifted), jax.tree.map(lambda x: x[5:], base)
    assert_same_bits(*common)
    kernels = base[0]["_Layer_0"]["kernel"]
    assert len(np.unique(kernels)) == kernels.size  # all agents of all seeds differ


def test_neighbouring_cells_change_no_bit(base: Any):
    """One with more positions and other settings, one without any task."""
    others = [
        cell_of(TINY.replace(num_tasks=6, arrival_prob=0.9), updates=9, clip=0.1),
        cell_of(TINY.replace(arrival_prob=0.0)),
    ]
    busy, beside, empty = trained([others[0], cell_of(), others[1]])
    assert_same_bits(beside, base)
    assert np.isfinite(busy[1].logs["value_loss"]).any()
    assert np.isnan(empty[1].logs["value_loss"]).all()


def test_a_training_goes_on_from_its_checkpoint(base: Any, tmp_path: Path):
    with Journal(tmp_path) as journal:
        first = trainer_of([cell_of()])
        curves = curve_columns(CURVE_METRICS, first.advance(3), TINY.num_slots)
        journal.save("chunk", Saved(3, first.state, curves))
        second = trainer_of([cell_of()])
        told: list[int] = []
        columns = second.run(told.append, name="chunk", journal=journal)
    assert told == [3, EPISODES - 3]  # restored, and the rest
    assert_same_bits(jax.tree.map(lambda leaf: leaf[0], second.host_agents()), base[0])
    np.testing.assert_array_equal(columns["entropy"][0], base[1].logs["entropy"].astype(np.float64))


def test_training_finds_the_fast_server(tmp_path: Path):
    """One server is 60 times as fast as the other: decisions before and after, on unseen arrivals."""
    uneven, quick = TINY.replace(capacity=(1, 60)), {"discount": 0.0, "updates": 20}
    cells = [cell_of(uneven, 30, learning_rate=0.0, **quick), cell_of(uneven, 30, **quick)]
    (unit,) = units_of(cells, 60)
    found = run_unit(unit, AgentStore(tmp_path / "agents"), tmp_path)
    before, after = np.split(np.asarray(found["makespan_mean_s"]), 2)
    (best,) = (b.metrics for b in simulate([uneven], get_method("optimal"), UNIFIED, 0, SEEDS_PER_BLOCK))
    assert after.mean() < 0.8 * before.mean()
    assert after.mean() < 1.5 * best["makespan_mean_s"].mean()


def test_trainings_too_short_for_a_rollout_are_told():
    result = run_study(Training(METHOD, seeds=1, episodes=1, scenario=TINY))
    told = result.manifest["warnings"]
    assert told[0] == ("tiny-ppo makes no learning step: its training has 6 slots, and rollout_slots is 8.")
    assert told[1] == "tiny-ppo made no learning step in 1 of 1 seeds."
    assert result.manifest["logs"] == ["value_loss", "entropy", "clip_fraction"]
