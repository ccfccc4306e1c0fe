"""Whole trainings in one compiled call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from amco_jax.agents.methods import Method, get_method
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED
from amco_jax.kernel.training import (
    Curve,
    Hyper,
    TrainingState,
    start_training,
    train_episode,
)
from amco_jax.scenario import Scenario

METHOD = get_method("amcoedge").with_settings(
    hidden=(8,), batch_size=4, replay_capacity=12, learn_after=8, learn_interval=2, greedy_growth=0.01
)


EPISODES = 100
"""The number of episodes that sets the length of every replay, so that all trainings share one program"""


def compiled_training(method: Method, scenario: Scenario, rows: int, episodes: int) -> Any:
    """A compiled function of one seed: `hyper, seed -> initial state, final state, last curve`."""
    shape, params = scenario.shape(), jax.tree.map(jnp.asarray, scenario.params())

    def run(hyper: Any, seed: Any) -> tuple[TrainingState, TrainingState, Curve]:
        def one(episode: Any, state: TrainingState) -> tuple[TrainingState, Curve]:
            return train_episode(shape, params, UNIFIED, method, hyper, seed, episode, state)

        first = start_training(shape, method, hyper, rows, seed)
        empty = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: one(0, first))[1])
        state, curve = lax.fori_loop(0, episodes, lambda e, carry: one(e, carry[0]), (first, empty))
        return first, state, curve

    compiled = jax.jit(run)

    def run_on_host(hyper: Any, seed: Any) -> tuple[TrainingState, TrainingState, Curve]:
        first, state, curve = compiled(hyper, seed)
        return first, state, on_host(curve)

    return run_on_host


def hyper_of(method: Method, **changes: Any) -> Hyper:
    """The traced settings, with a memory of `EPISODES` rows."""
    return Hyper(method.require_training().settings.replace(**changes).traced(), jnp.int32(EPISODES))
