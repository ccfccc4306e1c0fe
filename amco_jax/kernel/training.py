"""The one training loop: act, simulate, store, learn, slot by slot, for every trained method.

Written for one seed; callers vmap it. Counters of slots and rows come from the loops themselves, the same
for all seeds: a batched counter would make every slot learn and throw the result away.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.agents.dqn import (
    Acting,
    Learner,
    acting,
    explore,
    greedy,
    greedy_probability,
    init,
    input_scale,
    learn,
)
from amco_jax.agents.methods import Method
from amco_jax.agents.replay import Replay, empty_replay, sample, store
from amco_jax.agents.settings import Hyperparameters
from amco_jax.compile.wide import Wide
from amco_jax.env import Backlog, Decision, Physics
from amco_jax.kernel import slot_step, tasks_of_slot
from amco_jax.metrics import CURVE_METRICS, Metrics, Sums, add_slot, none_of_slots
from amco_jax.params import Params, Shape
from amco_jax.random import Stream, fold_in, stream, uniform
from amco_jax.workload import Tables, Workload, workload_of

FIRST_TRAINING_EPISODE = 1
"""Episode 0 of a seed is kept for evaluation, on draws that no training has seen."""


class TrainingState(NamedTuple):
    """All agents of one seed: leaves `[num_servers, ...]`."""

    learner: Learner
    replay: Replay


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curve:
    """What is told of one episode of training; `wide.on_host` reads its sums."""

    totals: Sums
    """By the name of the metric"""
    loss: Float[Array, ""]
    """Mean over agents and learning steps; NaN where none was made"""
    epsilon: Float[Array, ""]
    """Probability of the greedy action at the end of the episode"""

    @classmethod
    def zero(cls, num_servers: int, dtype: Any, metrics: Metrics) -> Curve:
        """The curve of an episode that has not been trained yet."""
        none = jnp.zeros((), dtype)
        return cls(none_of_slots(metrics, num_servers, dtype), none, none)


def start_training(
    shape: Shape, method: Method, hyper: Hyperparameters, rows: int, seed: UInt32[Array, ""]
) -> TrainingState:
    """New agents with empty replays of `rows` slots."""
    dqn, num_servers = method.dqn, shape.num_servers
    keys = fold_in(stream(seed, Stream.INIT), jnp.arange(num_servers))
    space = dqn.actions(num_servers)
    example = jax.tree.map(lambda a: a[0], space.draw(jnp.zeros((space.num_draws, 1))))

    def agent(key) -> TrainingState:
        replay = empty_replay(rows, shape.max_tasks, num_servers, example, jnp.float32)
        return TrainingState(init(dqn, hyper, num_servers, key), replay)

    return jax.vmap(agent)(keys)


def train_episode(
    shape: Shape,
    params: Params,
    physics: Physics,
    method: Method,
    hyper: Hyperparameters,
    seed: UInt32[Array, ""],
    episode: int | Int[Array, ""],
    state: TrainingState,
    tables: Tables = Tables(),  # noqa: B008  # immutable
    metrics: Metrics = CURVE_METRICS,
) -> tuple[TrainingState, Curve]:
    """One episode of training.

    Args:
      metrics: what to sum up, static; none of them with quantiles.
      episode: from 0; must be the same for all seeds of a batch.
      tables: what the workload takes from the host, see `amco_jax.workload`.

    Source: published code. The target network, exploration and replay follow `agents/dqn.py`.
    """
    dqn, num_servers = method.dqn, shape.num_servers
    space = dqn.actions(num_servers)
    workload = workload_of(shape, params, tables, seed, FIRST_TRAINING_EPISODE + episode, training=True)
    num_positions = workload.num_positions(params)
    step = slot_step(shape, params, physics, method, workload, _keep_reward, metrics)
    scale = input_scale(hyper, params)
    exploration, draws = (
        fold_in(stream(seed, purpose), episode) for purpose in (Stream.EXPLORATION, Stream.REPLAY)
    )
    acting_of = jax.vmap(partial(acting, hyper, params))
    stations = jnp.arange(num_servers)
    local = jnp.eye(num_servers, dtype=bool)

    def act(agents: Acting, sizes: Array, backlog: Array, key_t) -> Any:
        def of_station(agent, size, key_b):
            action = greedy(dqn, agent.weights, size, backlog)
            return explore(dqn, num_servers, agent.epsilon, key_b, action, backlog.dtype)

        return jax.vmap(of_station)(agents, sizes, fold_in(key_t, stations))

    def slot(carry, t):
        backlog, totals, losses, agents, state = carry
        tasks = tasks_of_slot(params, workload, t, num_servers)
        sizes = jnp.where(tasks.present, tasks.size, 0)
        action = act(agents, sizes, backlog.servers, fold_in(exploration, t))
        planned = jax.vmap(space.sets)(action, local)
        next_backlog, served = step(fold_in(exploration, t), t, backlog, planned)

        row_number = episode * (shape.num_slots - 1) + t - 1
        coming = _first_sizes(params, workload, t + 1, num_servers)
        write = jax.vmap(store, in_axes=(0, None, None, None, 0, 0, None, None, 0, 0))
        replay = write(
            state.replay, t > 0, row_number, num_positions, sizes, coming, backlog.servers,
            next_backlog.servers, action, served.decisions,
        )  # fmt: skip

        def learn_once(repeat, changed):
            learners, _, (losses, steps) = changed
            keys = fold_in(fold_in(fold_in(draws, t), repeat), stations)

            def of_station(learner, replay, key):
                uniforms = uniform(key, jnp.arange(dqn.batch_size), backlog.servers.dtype)
                batch, filled = sample(
                    replay, row_number, hyper.replay_rows, num_positions, hyper.replay_capacity, uniforms
                )
                return *learn(dqn, hyper, scale, learner, batch, filled > 0), filled > 0

            learners, loss, made = jax.vmap(of_station)(learners, replay, keys)
            sums = losses.add(jnp.sum(loss)), steps.add(jnp.sum(made, dtype=jnp.int32))
            return learners, acting_of(learners), sums

        slots_done = episode * shape.num_slots + t + 1
        due = (slots_done > hyper.learn_after) & (slots_done % hyper.learn_interval == 0)
        # A loop of no or some rounds, where a conditional would copy what passes through it.
        learner, agents, losses = lax.fori_loop(
            0, jnp.where(due, hyper.learn_repeats, 0), learn_once, (state.learner, agents, losses)
        )
        totals = add_slot(totals, served.totals)
        return (next_backlog, totals, losses, agents, TrainingState(learner, replay)), None

    none = jnp.zeros_like(params.capacity)
    losses = Wide.zero(jnp.zeros((), none.dtype)), Wide.zero(jnp.int32(0))
    totals = none_of_slots(metrics, num_servers, none.dtype)
    carry = Backlog.empty(num_servers, none.dtype), totals, losses, acting_of(state.learner), state
    (_, totals, (loss, made), _, state), _ = lax.scan(slot, carry, jnp.arange(shape.num_slots))
    epsilon = jnp.mean(greedy_probability(hyper, state.learner.steps))
    return state, Curve(totals, loss.rounded(none.dtype) / made.rounded(none.dtype), epsilon)


def _keep_reward(decision: Decision) -> Array:
    return decision.reward


def _first_sizes(
    params: Params, workload: Workload, t: Array, num_servers: int
) -> Float[Array, " num_servers"]:
    """d at position 0 of each base station in slot `t`, Mbit, 0 where it is empty."""

    def of_station(b) -> Array:
        entries, task_at = workload.row(params, t, b)
        task = task_at(jax.tree.map(lambda entry: entry[0], entries))
        return jnp.where(task.present, task.size, 0)

    return jax.vmap(of_station)(jnp.arange(num_servers))
