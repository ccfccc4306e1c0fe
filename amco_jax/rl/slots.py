"""A multi-agent environment with one agent per base station, in which each step is a slot."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import TaskView, per_slot
from amco_jax.env import Backlog, Decision, Queues, Task, site
from amco_jax.kernel import slot_step, tasks_of_slot
from amco_jax.random import Stream, stream
from amco_jax.rl.base import Environment, EnvParams, Origin
from amco_jax.rl.observation import Situation, observation, width
from amco_jax.rl.spaces import Box, Discrete, MultiBinary
from amco_jax.workload import Workload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SlotState:
    """The state of an episode between two slots."""

    origin: Origin
    slot: Int[Array, ""]
    backlog: Backlog


class SlotEnv(Environment):
    """An environment in which each step decides all tasks of a slot by the agents' joint action.

    The agents, one per base station, observe the backlog at the start of the slot and the tasks at their own
    base station, but not the load that the slot's decisions add to the queues, as in the published agents.
    Tasks are served in the order of the scenario. An episode is truncated after `num_slots` slots; its last
    observation is that of the following slot. The reward of an agent is the sum of its tasks' rewards.

    The constructor is that of `Environment`. All methods are pure and may be vmapped; `step` draws no random
    numbers, and takes a key only to match the common signature.
    """

    def observation_space(self, params: EnvParams) -> Box:
        """`[num_servers, numbers]`: per agent, the task features position by position, then the others."""
        self._check_shape("params", params.shape)
        numbers = width(self.observe, self.num_servers, self.shape.max_tasks)
        return Box(0.0, float("inf"), (self.num_servers, numbers))

    def action_space(self, params: EnvParams) -> Discrete | MultiBinary:
        """Sets as `[num_servers, max_tasks, num_servers]`, or numbers of sets as `[num_servers, max_tasks]`.

        The choice for a position without a task has no effect.
        """
        self._check_shape("params", params.shape)
        return self._actions((self.num_servers, self.shape.max_tasks))

    @functools.partial(jax.jit, static_argnums=0)
    def reset(self, key: Array, params: EnvParams) -> tuple[Array, SlotState]:
        """The observations `[num_servers, numbers]` of the first slot, and the state.

        Args:
          key: a `jax.random` key; `jax.random.key(s)` plays the arrivals that a sweep simulates with seed s,
            see `episode_key`.
        """
        origin, workload = self._begin(key, params)
        capacity = params.scenario.capacity
        state = SlotState(origin, jnp.int32(0), Backlog.empty(self.num_servers, capacity.dtype))
        return self._observe(state, workload, params), state

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, key: Any, state: SlotState, action: Array, params: EnvParams
    ) -> tuple[Array, SlotState, Array, Array, dict[str, Array]]:
        """Decide the tasks of the current slot, and close the slot.

        Returns:
          Observations `[num_servers, numbers]`, state, rewards `[num_servers]`, whether the episode is over,
          and a dictionary with `present`, `makespan` (s), `missed`, `rejected` and `reward` of each task,
          `[num_servers, max_tasks]`, 0 at empty positions; `utilisation`, the share of the slot in which each
          server was busy, `[num_servers]`; `slot`; and `truncated`.
        """
        del key
        workload = self._resume(state.origin, params)
        selected = jax.vmap(self._selected)(jnp.asarray(action), jnp.eye(self.num_servers, dtype=bool))
        # The sets are given, so the policy is never called and its key is never used.
        method = Method(self.name, per_slot(lambda view: None), self.allocator)  # pyright: ignore
        advance = slot_step(self.shape, params.scenario, params.physics, method, workload, _outcome)
        unused = stream(state.origin.seed, Stream.POLICY)
        backlog, served = advance(unused, state.slot, state.backlog, selected)
        outcome: dict[str, Array] = served.decisions
        then = SlotState(state.origin, state.slot + 1, backlog)
        over = then.slot >= self.shape.num_slots
        info = outcome | {"utilisation": served.busy, "slot": state.slot, "truncated": over}
        rewards = jnp.sum(outcome["reward"], axis=1)
        return self._observe(then, workload, params), then, rewards, over, info

    def _observe(self, state: SlotState, workload: Workload, params: EnvParams) -> Array:
        def of_station(b: Array, tasks: Task) -> Array:
            here = site(params.scenario, params.physics, b)
            idle = Queues(jnp.zeros_like(state.backlog.servers), state.backlog.links[b])

            def of_task(task: Task, *, of_tasks: bool) -> Array:
                now = Situation(params.scenario, here, task, state.backlog.servers, idle)
                return observation(self.observe, now, of_tasks=of_tasks)

            each = jax.vmap(functools.partial(of_task, of_tasks=True))(tasks)
            first = jax.tree.map(lambda field: field[0], tasks)
            return jnp.concatenate([each.ravel(), of_task(first, of_tasks=False)])

        tasks = tasks_of_slot(params.scenario, workload, state.slot, self.num_servers)
        return jax.vmap(of_station)(jnp.arange(self.num_servers), tasks)


def _outcome(decision: Decision, _: TaskView) -> dict[str, Array]:
    """The entries of a step's dictionary for each task; 0 at empty positions."""
    here = decision.present
    return {
        "present": here,
        "makespan": jnp.where(here, decision.makespan, 0),
        "missed": here & decision.missed,
        "rejected": here & decision.rejected,
        "reward": jnp.where(here, decision.reward, 0),
    }
