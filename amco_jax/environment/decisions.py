"""One agent that serves task after task: one decision per step."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from amco_jax.compile.unroll import unroll
from amco_jax.env import Decision, Queues, Task, close_slot, site, waits
from amco_jax.environment.base import Environment, EnvParams, Origin
from amco_jax.environment.observation import Situation, observation, width
from amco_jax.environment.spaces import Box, Discrete, MultiBinary
from amco_jax.kernel import MAX_UNROLLED_SERVERS, serve_task
from amco_jax.workload import Workload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """A task position, and the system before it is decided."""

    slot: Int[Array, ""]
    base_station: Int[Array, ""]
    position: Int[Array, ""]
    task: Task
    backlog: Float[Array, " num_servers"]
    """Q at the start of the slot, Gcycles"""
    queues: Queues


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecisionState:
    """The state of an episode: where its tasks come from, and the one to be decided."""

    origin: Origin
    at: Place


class DecisionEnv(Environment):
    """Each step decides one task; positions without a task are stepped over.

    Tasks come in the order of slot, base station, position. An episode ends when all tasks of `num_slots`
    slots are decided. That is a time limit, not an end of the system: the episode is truncated, and its last
    observation is that of the first task after it, if one arrives in the slot that follows. The reward of a
    step is that of the model: -makespan in s, and for a missed or rejected task -deadline · miss_penalty.

    The constructor is that of `Environment`. All methods are pure and may be vmapped; `step` draws nothing,
    and takes a key for the sake of the common signature.
    """

    def observation_space(self, params: EnvParams) -> Box:
        """Numbers of at least 0, one array of the features in order."""
        del params
        return Box(0.0, float("inf"), (width(self.observe, self.num_servers, 1),))

    def action_space(self, params: EnvParams) -> Discrete | MultiBinary:
        """A set as `[num_servers]` booleans, or the number of a set."""
        del params
        return self._actions(())

    def action_mask(self, state: DecisionState, params: EnvParams) -> Bool[Array, " choices"]:
        """Which servers, or which numbered sets, are worth a try: no wait of theirs exceeds the deadline.

        A selected server counts with its wait even without work, so that any other set misses the deadline;
        where a service is split in whole items, such a server would miss it or get no work. Where no set is
        left, all are. The rules of the environment forbid none.

        Returns:
          `[num_servers]`, of actions that are sets, or `[num_actions]`.
        """
        at = state.at
        here = site(params.scenario, params.physics, at.base_station)
        hopeless = (
            waits(here, at.backlog, at.queues.slot_load, at.queues.link_delay) > params.scenario.deadline
        )
        if self.sets is None:
            useful = ~hopeless
        else:
            members = self.sets.sets(jnp.arange(self.sets.num_outputs), here.local)
            useful = ~jnp.any(members & hopeless, axis=1)
        return useful | ~jnp.any(useful)

    @functools.partial(jax.jit, static_argnums=0)
    def reset(self, key: Array, params: EnvParams) -> tuple[Array, DecisionState]:
        """The observation of the first task, and the state.

        Args:
          key: of `jax.random`; `jax.random.key(s)` plays the arrivals of the seed s of a sweep, see
            `episode_key`.
        """
        origin, workload = self._begin(key, params)
        none, zero = jnp.zeros_like(params.scenario.capacity), jnp.zeros_like(params.scenario.deadline)
        start = jnp.int32(0)
        empty = Task(jnp.bool_(False), zero, zero)
        at = self._seek(params, workload, Place(start, start, start, empty, none, Queues(none, zero)))
        return self._observe(at, params), DecisionState(origin, at)

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, key: Any, state: DecisionState, action: Array, params: EnvParams
    ) -> tuple[Array, DecisionState, Array, Array, dict[str, Array]]:
        """Decide the task of the state, and go on to the next one.

        Returns:
          Observation, state, reward, whether the episode is over, and a dictionary: `decided` (False only
          where an episode has no task at all), `finish` (s until the last part ends, also beyond the
          deadline), `makespan` (s), `missed`, `rejected`, `selected` and `fraction` `[num_servers]`, the
          `slot`, `base_station` and `position` of the task, and `truncated`.
        """
        del key
        at, local = state.at, jnp.arange(self.num_servers) == state.at.base_station
        queues, decision = self._serve(params, at, self._selected(action, local))
        # After the end nothing is decided, and the search finds the same place again.
        following = dataclasses.replace(
            at, position=at.position + decision.present, task=_absent(at.task), queues=queues
        )
        then = self._seek(params, self._resume(state.origin, params), following)
        state = DecisionState(state.origin, then)
        over = self.is_over(state)
        info = {
            "decided": decision.present,
            "finish": decision.finish,
            "makespan": decision.makespan,
            "missed": decision.missed,
            "rejected": decision.rejected,
            "selected": decision.selected,
            "fraction": decision.fraction,
            "slot": at.slot,
            "base_station": at.base_station,
            "position": at.position,
            "truncated": over,
        }
        return self._observe(then, params), state, decision.reward, over, info

    def is_over(self, state: DecisionState) -> Bool[Array, ""]:
        """Whether all tasks of the episode's slots are decided."""
        return state.at.slot >= self.shape.num_slots

    def _observe(self, at: Place, params: EnvParams) -> Array:
        here = site(params.scenario, params.physics, at.base_station)
        return observation(self.observe, Situation(params.scenario, here, at.task, at.backlog, at.queues))

    def _serve(self, params: EnvParams, at: Place, selected: Array) -> tuple[Queues, Decision]:
        """The queues after the task's decision; all of it is 0 where the episode holds no task."""
        num_slots = self.shape.num_slots

        def serve(params, at, selected):
            here = site(params.scenario, params.physics, at.base_station)

            def decide(queues):
                return serve_task(
                    params.scenario, params.physics, self.allocator, here, at.backlog, at.task, queues,
                    lambda wait, cost: selected,
                )[:2]  # fmt: skip

            nothing = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(decide, at.queues)[1]
            )
            pending = at.task.present & (at.slot < num_slots)
            # A loop of no or one round: XLA compiles it as it does the kernel's, and so to the same bits.
            _, queues, decision = lax.while_loop(
                lambda carry: carry[0],
                lambda carry: (jnp.zeros_like(pending), *decide(carry[1])),
                (pending, at.queues, nothing),
            )
            return queues, decision

        # As in the kernel, whose order of summation it has to keep.
        run = unroll(serve) if self.num_servers <= MAX_UNROLLED_SERVERS else serve
        return run(params, at, selected)

    def _seek(self, params: EnvParams, workload: Workload, start: Place) -> Place:
        """The first task from a place on, up to the slot after the episode; base station by base station."""

        def look(at: Place) -> Place:
            entries, task_at = workload.row(params.scenario, at.slot, at.base_station)
            present = jax.vmap(task_at)(entries).present
            coming = present & (jnp.arange(present.shape[0]) >= at.position)
            found, position = jnp.any(coming), jnp.argmax(coming).astype(jnp.int32)
            task = task_at(jax.tree.map(lambda entry: entry[position], entries))
            ends = ~found & (at.base_station == self.num_servers - 1)
            backlog, _ = close_slot(params.scenario, at.backlog, at.queues.slot_load)
            return Place(
                slot=at.slot + ends,
                base_station=jnp.where(ends, 0, at.base_station + ~found),
                position=jnp.where(found, position, 0),
                task=Task(found, task.size, task.work),
                backlog=jnp.where(ends, backlog, at.backlog),
                queues=Queues(
                    slot_load=jnp.where(ends, 0, at.queues.slot_load),
                    link_delay=jnp.where(found, at.queues.link_delay, 0),
                ),
            )

        return lax.while_loop(lambda at: ~at.task.present & (at.slot <= self.shape.num_slots), look, start)


def _absent(task: Task) -> Task:
    return dataclasses.replace(task, present=jnp.zeros_like(task.present))
