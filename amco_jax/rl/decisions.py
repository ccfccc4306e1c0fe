"""A single-agent environment in which each step decides one task."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from amco_jax.compile.unroll import MAX_SIZE, unroll
from amco_jax.env import Backlog, Decision, Queues, Task, close_slot, site
from amco_jax.kernel import serve_task
from amco_jax.rl.base import Environment, EnvParams, Origin
from amco_jax.rl.observation import Situation, observation, width
from amco_jax.rl.spaces import Box, Discrete, MultiBinary
from amco_jax.workload import Workload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """A task position, and the state of the system before its task is decided."""

    slot: Int[Array, ""]
    base_station: Int[Array, ""]
    position: Int[Array, ""]
    task: Task
    backlog: Backlog
    """At the start of the slot"""
    slot_load: Float[Array, " num_servers"]
    """q, Gcycles put on each server so far within the slot"""
    links: Float[Array, " num_servers"]
    """L of each base station, s"""

    @property
    def queues(self) -> Queues:
        """What a decision at the base station sees."""
        return Queues(self.slot_load, self.links[self.base_station])

    def after(self, queues: Queues) -> Place:
        """The same place with what a decision there has changed."""
        here = jnp.arange(self.links.shape[0]) == self.base_station
        links = jnp.where(here, queues.link_delay, self.links)
        return dataclasses.replace(self, slot_load=queues.slot_load, links=links)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecisionState:
    """The state of an episode: the origin of its arrivals, and the task to be decided next."""

    origin: Origin
    at: Place


class DecisionEnv(Environment):
    """An environment in which each step decides one task; positions without a task are skipped.

    Tasks are ordered by slot, base station and position. An episode ends when all tasks of `num_slots` slots
    have been decided. This is a time limit, not a terminal state: the episode is truncated, and its last
    observation is that of the first task of the following slot, if there is one. The reward of a step is that
    of the model: -makespan in s, or -deadline · miss_penalty for a missed or rejected task.

    The constructor is that of `Environment`; scenarios with another order of service or with continuous
    timing are refused. All methods are pure and may be vmapped; `step` draws no random numbers, and takes a
    key only to match the common signature.
    """

    any_order = False

    def observation_space(self, params: EnvParams) -> Box:
        """One array of the features in order, with entries of at least 0."""
        self._check_shape("params", params.shape)
        return Box(0.0, float("inf"), (width(self.observe, self.num_servers, 1),))

    def action_space(self, params: EnvParams) -> Discrete | MultiBinary:
        """The space of sets as `[num_servers]` booleans, or of numbers of sets."""
        self._check_shape("params", params.shape)
        return self._actions(())

    def action_mask(self, state: DecisionState, params: EnvParams) -> Bool[Array, " choices"]:
        """Mask of the servers, or of the numbered sets, that can meet the deadline.

        No wait in them exceeds it, with the start of a batch and the load of a model of an image service.

        The wait of a selected server counts even if it gets no work, so any other set misses the deadline.
        With a service that splits into whole items, a masked server would miss the deadline or get no work.
        If nothing would be left, nothing is masked. The environment also accepts masked actions.

        Returns:
          `[num_servers]` if actions are sets, else `[num_actions]`.
        """
        now = self._situation(state.at, params)
        hopeless = now.wait + now.start > params.scenario.deadline
        if self.sets is None:
            useful = ~hopeless
        else:
            members = self.sets.sets(jnp.arange(self.sets.num_outputs), now.site.local)
            useful = ~jnp.any(members & hopeless, axis=1)
        return useful | ~jnp.any(useful)

    @functools.partial(jax.jit, static_argnums=0)
    def reset(self, key: Array, params: EnvParams) -> tuple[Array, DecisionState]:
        """The observation of the first task, and the state.

        Args:
          key: a `jax.random` key; `jax.random.key(s)` plays the arrivals that a sweep simulates with seed s,
            see `episode_key`.
        """
        origin, workload = self._begin(key, params)
        none, zero = jnp.zeros_like(params.scenario.capacity), jnp.zeros_like(params.scenario.deadline)
        start = jnp.int32(0)
        empty = Task(jnp.bool_(False), zero, zero)
        first = Place(start, start, start, empty, Backlog(none, none), none, none)
        at = self._seek(params, workload, first)
        return self._observe(at, params), DecisionState(origin, at)

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, key: Any, state: DecisionState, action: Array, params: EnvParams
    ) -> tuple[Array, DecisionState, Array, Array, dict[str, Array]]:
        """Decide the current task, and move on to the next one.

        Returns:
          Observation, state, reward, whether the episode is over, and a dictionary with `decided` (False only
          if no task was left), `finish` (s until the last part ends, also beyond the deadline),
          `makespan` (s), `missed`, `rejected`, `selected` and `fraction`, each `[num_servers]`, the `slot`,
          `base_station` and `position` of the task, and `truncated`.
        """
        del key
        workload = self._resume(state.origin, params)
        at, local = state.at, jnp.arange(self.num_servers) == state.at.base_station
        queues, decision = self._serve(params, at, self._selected(action, local))
        # After the end of an episode nothing is decided, and the search returns the same place.
        following = dataclasses.replace(
            at.after(queues), position=at.position + decision.present, task=_absent(at.task)
        )
        then = self._seek(params, workload, following)
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
        """Whether all tasks of the episode's slots have been decided."""
        return state.at.slot >= self.shape.num_slots

    def _situation(self, at: Place, params: EnvParams) -> Situation:
        here = site(params.scenario, params.physics, at.base_station)
        return Situation(params.scenario, here, at.task, at.backlog.servers, at.queues)

    def _observe(self, at: Place, params: EnvParams) -> Array:
        return observation(self.observe, self._situation(at, params))

    def _serve(self, params: EnvParams, at: Place, selected: Array) -> tuple[Queues, Decision]:
        """Queues and outcome of the task's decision; without a task, unchanged queues and an outcome of 0."""
        num_slots = self.shape.num_slots

        def serve(params, at, selected):
            here = site(params.scenario, params.physics, at.base_station)

            def decide(queues):
                return serve_task(
                    params.scenario, params.physics, self.allocator, here, at.backlog.servers, at.task,
                    queues, lambda wait, cost: selected,
                )[:2]  # fmt: skip

            nothing = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(decide, at.queues)[1]
            )
            pending = at.task.present & (at.slot < num_slots)
            # A loop of at most one iteration: XLA compiles it like the kernel's loop, hence to the same bits.
            _, queues, decision = lax.while_loop(
                lambda carry: carry[0],
                lambda carry: (jnp.zeros_like(pending), *decide(carry[1])),
                (pending, at.queues, nothing),
            )
            return queues, decision

        # Unrolled as in the kernel, so that the order of summation is the same.
        run = unroll(serve) if self.num_servers <= MAX_SIZE else serve
        return run(params, at, selected)

    def _seek(self, params: EnvParams, workload: Workload, start: Place) -> Place:
        """The first task at or after a place, up to and including the slot after the episode."""

        def look(at: Place) -> Place:
            entries, task_at = workload.row(params.scenario, at.slot, at.base_station)
            present = jax.vmap(task_at)(entries).present
            coming = present & (jnp.arange(present.shape[0]) >= at.position)
            found, position = jnp.any(coming), jnp.argmax(coming).astype(jnp.int32)
            task = task_at(jax.tree.map(lambda entry: entry[position], entries))
            ends = ~found & (at.base_station == self.num_servers - 1)
            left, _ = close_slot(params.scenario, params.physics, at.backlog, at.slot_load, at.links)
            backlog = jax.tree.map(lambda new, old: jnp.where(ends, new, old), left, at.backlog)
            return Place(
                slot=at.slot + ends,
                base_station=jnp.where(ends, 0, at.base_station + ~found),
                position=jnp.where(found, position, 0),
                task=Task(found, task.size, task.work),
                backlog=backlog,
                slot_load=jnp.where(ends, 0, at.slot_load),
                links=jnp.where(ends, backlog.links, at.links),
            )

        return lax.while_loop(lambda at: ~at.task.present & (at.slot <= self.shape.num_slots), look, start)


def _absent(task: Task) -> Task:
    return dataclasses.replace(task, present=jnp.zeros_like(task.present))
