"""The training of agents. In each slot, they act, the slot is simulated, and they observe and learn; or they
learn from the exact prices along a whole episode.

It is written for one seed, and callers vmap it. Counters of slots and rows come from the loops themselves and
are the same for all seeds. With a batched counter, every slot would compute a learning step and discard it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.agents.learner import (
    Context,
    EpisodeLearner,
    Experience,
    Learner,
    Observation,
    Outcome,
    over_stations,
)
from amco_jax.agents.methods import Method
from amco_jax.agents.policy import checked
from amco_jax.compile.unroll import MAX_SIZE, unroll
from amco_jax.compile.wide import Wide
from amco_jax.env import Backlog, Physics
from amco_jax.errors import InputError
from amco_jax.kernel import rollout, slot_step, tasks_of_slot
from amco_jax.kernel.gradient import with_prices
from amco_jax.kernel.slot import Scalarise, SlotStep, ways_to_scalarise
from amco_jax.metrics import (
    CURVE_METRICS,
    MAKESPAN,
    MISS_RATE,
    Metric,
    Metrics,
    Sums,
    add_slot,
    zero_slot_sums,
)
from amco_jax.params import Params, Shape
from amco_jax.random import Key, Stream, fold_in, stream
from amco_jax.workload import Tables, Workload, workload_of

FIRST_TRAINING_EPISODE = 1
"""Episode 0 of a seed is reserved for evaluation, with draws that no training sees."""


_OUTCOME = (MAKESPAN, MISS_RATE)
"""The metrics of an `Outcome`"""


class TrainingState(NamedTuple):
    """The state of all agents of one seed, with leaves `[num_servers, ...]`."""

    learnt: Any
    """Changed only by `Learner.learn`"""
    memory: Any
    """Changed only by `Learner.observe`"""


class Hyper(NamedTuple):
    """The traced settings of a training; a sweep over settings is therefore one program."""

    settings: Any
    """The result of `Settings.traced`"""
    memory_rows: Any
    """The result of `Learner.memory_rows`, int32"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curve:
    """One point of the learning curves, for one training episode; `wide.on_host` reads the sums."""

    totals: Sums
    """Sums by metric name"""
    logs: dict[str, Float[Array, ""]]
    """Means over agents, and for step logs over learning steps (NaN if there are none), by `Learner.logs`"""

    @classmethod
    def zero(cls, num_servers: int, dtype: Any, metrics: Metrics, logs: tuple[str, ...]) -> Curve:
        """The curve of an episode before its first slot."""
        none = jnp.zeros((), dtype)
        return cls(zero_slot_sums(metrics, num_servers, dtype), dict.fromkeys(logs, none))


def start_training(
    shape: Shape, method: Method, hyper: Hyper, rows: int, seed: UInt32[Array, ""]
) -> TrainingState:
    """Create new agents, with empty memories of at least `rows` rows."""
    learner = method.require_training().static()
    if isinstance(learner, EpisodeLearner):
        shared = TrainingState(*learner.init(hyper.settings, shape, rows, stream(seed, Stream.INIT)))
        return _on_all_stations(shape.num_servers, shared)
    keys = fold_in(stream(seed, Stream.INIT), jnp.arange(shape.num_servers))
    return jax.vmap(lambda key: TrainingState(*learner.init(hyper.settings, shape, rows, key)))(keys)


def train_episode(
    shape: Shape,
    params: Params,
    physics: Physics,
    method: Method,
    hyper: Hyper,
    seed: UInt32[Array, ""],
    episode: int | Int[Array, ""],
    state: TrainingState,
    tables: Tables = Tables(),  # noqa: B008  # immutable
    metrics: Metrics = CURVE_METRICS,
    scalarise: Scalarise = unroll,
) -> tuple[TrainingState, Curve]:
    """Train for one episode.

    Args:
      metrics: the metrics to sum up, static; none may have quantiles.
      episode: index of the episode, from 0; must be the same for all seeds of a batch.
      tables: data of the workload from the host, see `amco_jax.workload`.
      scalarise: see `Scalarise`; learners of whole episodes, which differentiate them, do without.
    """
    learner = method.require_training().static()
    number = FIRST_TRAINING_EPISODE + episode
    workload = workload_of(shape, params, tables, seed, number, training=True)
    if isinstance(learner, EpisodeLearner):
        key = fold_in(stream(seed, Stream.POLICY), number)

        def play(function: Callable[..., Any], **options: Any) -> Any:
            return function(shape, params, physics, method=method, workload=workload, key=key, **options)

        return _learn_from_episode(learner, hyper.settings, params, play, state, metrics)
    assert isinstance(learner, Learner)
    step = slot_step(shape, params, physics, method, workload, learner.reward, metrics, scalarise=scalarise)
    exploration, learning = (
        fold_in(stream(seed, purpose), episode) for purpose in (Stream.EXPLORATION, Stream.LEARNING)
    )
    start = Context(
        settings=hyper.settings, memory_rows=hyper.memory_rows, params=params,
        num_positions=workload.num_positions(params), episode=jnp.asarray(episode), t=jnp.int32(0),
        num_slots=shape.num_slots, max_tasks=shape.max_tasks,
    )  # fmt: skip
    return _learn_slot_by_slot(learner, start, workload, step, exploration, learning, state, metrics)


def _learn_slot_by_slot(
    learner: Learner,
    start: Context,
    workload: Workload,
    step: SlotStep,
    exploration: Key,
    learning: Key,
    state: TrainingState,
    metrics: Metrics,
) -> tuple[TrainingState, Curve]:
    """Let the agents act, observe and learn in each slot of an episode.

    Args:
      start: the context of the first slot.
    """
    settings, params, num_servers = start.settings, start.params, start.num_servers
    name = type(learner).__name__
    stations = jnp.arange(num_servers)

    def acting_of(learnt: Any) -> Any:
        return jax.vmap(partial(learner.acting, settings, params))(learnt)

    def sets(action: Any, seen: Observation) -> Array:
        shape = (start.max_tasks, num_servers)
        return checked("sets", f"{name}.sets", learner.sets(action, seen), bool, shape)

    def slot(carry, t):
        backlog, totals, logged, acting, state = carry
        context = dataclasses.replace(start, t=t)
        tasks = tasks_of_slot(params, workload, t, num_servers)
        sizes = jnp.where(tasks.present, tasks.size, 0)
        key_t = fold_in(exploration, t)
        act = over_stations(backlog.servers, partial(learner.act, context))
        action = act(acting, sizes, fold_in(key_t, stations))
        planned = over_stations(backlog.servers, sets)(action, sizes)
        next_backlog, served = step(key_t, t, backlog, planned)

        coming = _first_sizes(params, workload, t + 1, num_servers)

        def observe(memory, seen, action, reward, next_size):
            then = next_backlog.servers
            return learner.observe(context, memory, Experience(seen, action, reward, next_size, then))

        memory = over_stations(backlog.servers, observe)(
            state.memory, sizes, action, served.decisions, coming
        )

        def learn_once(repeat, changed):
            learnt, _, (sums, steps) = changed
            keys = fold_in(fold_in(fold_in(learning, t), repeat), stations)
            # Without the barrier, XLA hoists what depends only on the memory out of the loop, and so computes
            # it in every slot. With PPO, that took more time than everything else.
            kept, _ = lax.optimization_barrier((memory, repeat))
            learnt, logs, made = jax.vmap(partial(learner.learn, context))(learnt, kept, keys)
            logs = _logged(f"{name}.learn", logs, "step_logs", learner.step_logs)
            sums = {log: sums[log].add(jnp.sum(values)) for log, values in logs.items()}
            return learnt, acting_of(learnt), (sums, steps.add(jnp.sum(made, dtype=jnp.int32)))

        # A loop of zero or more rounds, because a conditional would copy the weights that pass through it.
        rounds = checked("rounds", f"{name}.rounds", learner.rounds(context), jnp.integer, ())
        learnt, acting, logged = lax.fori_loop(0, rounds, learn_once, (state.learnt, acting, logged))
        totals = add_slot(totals, served.totals)
        return (next_backlog, totals, logged, acting, TrainingState(learnt, memory)), None

    none = jnp.zeros_like(params.capacity)
    sums = {log: Wide.zero(jnp.zeros((), none.dtype)) for log in learner.step_logs}
    logged = sums, Wide.zero(jnp.int32(0))
    totals = zero_slot_sums(metrics, num_servers, none.dtype)
    carry = Backlog.empty(num_servers, none.dtype), totals, logged, acting_of(state.learnt), state
    (_, totals, (sums, steps), _, state), _ = lax.scan(slot, carry, jnp.arange(start.num_slots))
    logs = {log: total.rounded(none.dtype) / steps.rounded(none.dtype) for log, total in sums.items()}
    reports = jax.vmap(partial(learner.report, settings))(state.learnt)
    reports = _logged(f"{name}.report", reports, "episode_logs", learner.episode_logs)
    return state, Curve(totals, logs | {log: jnp.mean(values) for log, values in reports.items()})


def _logged(function: str, logs: Any, field: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What a learner's function logs, in the order of its names; InputError if the names are others."""
    if not isinstance(logs, dict) or logs.keys() != {*names}:
        found = ", ".join(map(str, logs)) if isinstance(logs, dict) else type(logs).__name__
        raise InputError(
            f"{field}: {function} logs {found or 'nothing'}; legal: {', '.join(names) or 'nothing'}"
        )
    return {name: logs[name] for name in names}


def _learn_from_episode(
    learner: EpisodeLearner,
    settings: Any,
    params: Params,
    play: Callable[..., Any],
    state: TrainingState,
    metrics: Metrics,
) -> tuple[TrainingState, Curve]:
    """Let the candidates play an episode, and learn from the exact prices along that of the first.

    Args:
      play: plays the episode by `rollout` or `with_prices`.
    """
    learnt, memory = jax.tree.map(lambda leaf: leaf[0], state)
    num_servers = params.capacity.shape[0]
    agents = jax.vmap(partial(_on_all_stations, num_servers))(learner.candidates(settings, params, learnt))
    first, others = jax.tree.map(lambda leaf: leaf[0], agents), jax.tree.map(lambda leaf: leaf[1:], agents)
    played, prices = play(
        with_prices, agent=first, record=learner.keep, metrics=tuple(dict.fromkeys((*metrics, *_OUTCOME)))
    )
    # One after the other, so that the seeds remain the last axis of all arrays.
    way = ways_to_scalarise(num_servers)[-1]
    beside = lax.map(lambda agent: play(rollout, agent=agent, metrics=_OUTCOME, scalarise=way).totals, others)

    def of_all(metric: Metric) -> Array:
        both = played.totals[metric.name], beside[metric.name]
        return jnp.concatenate([jnp.atleast_1d(total.rounded(params.capacity.dtype)) for total in both])

    moments = sum_by_station(partial(learner.moments, params), played.decisions, prices)
    outcome = Outcome(*map(of_all, _OUTCOME))
    learnt, memory, logs = learner.learn(settings, params, learnt, memory, moments, outcome)
    logs = _logged(f"{type(learner).__name__}.learn", logs, "episode_logs", learner.episode_logs)
    state = _on_all_stations(num_servers, TrainingState(learnt, memory))
    return state, Curve({metric.name: played.totals[metric.name] for metric in metrics}, logs)


def sum_by_station(function: Callable[..., Any], *decisions: Any) -> Any:
    """Sums of `function(*decision)` over the decisions of each base station, leaves `[num_servers, ...]`.

    Args:
      decisions: leaves `[num_slots, num_servers, max_tasks, ...]`.
    """
    num_servers = jax.tree.leaves(decisions)[0].shape[1]
    one = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[0, 0, 0], decisions))
    none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), one)

    def of_slot(decisions: Any) -> Any:
        def of_station(_, decisions: Any) -> Any:
            def add(sums: Any, decision: Any) -> Any:
                return jax.tree.map(jnp.add, sums, function(*decision)), None

            return None, lax.scan(add, none, decisions)[0]

        return lax.scan(of_station, None, decisions)[1]

    scalar = unroll(of_slot) if num_servers <= MAX_SIZE else of_slot

    def with_slot(sums: Any, decisions: Any) -> Any:
        return jax.tree.map(jnp.add, sums, scalar(decisions)), None

    return lax.scan(with_slot, _on_all_stations(num_servers, none), decisions)[0]


def _on_all_stations(num_servers: int, shared: Any) -> Any:
    """A copy of what base stations share for each of them: leaves `[num_servers, ...]`."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_servers, *leaf.shape)), shared)


def _first_sizes(
    params: Params, workload: Workload, t: Array, num_servers: int
) -> Float[Array, " num_servers"]:
    """d at position 0 of each base station in slot `t`, Mbit; 0 if the position is empty."""

    def of_station(b) -> Array:
        entries, task_at = workload.row(params, t, b)
        task = task_at(jax.tree.map(lambda entry: entry[0], entries))
        return jnp.where(task.present, task.size, 0)

    return jax.vmap(of_station)(jnp.arange(num_servers))
