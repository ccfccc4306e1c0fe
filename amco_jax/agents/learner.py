"""How the agents of a method learn: the protocol between learners and everything that trains them.

A learner is a frozen dataclass of pure functions for one agent, the one at a base station, of one seed. The
training loop maps them over base stations and seeds. In each slot all agents act, the slot is simulated, and
each observes what came of its actions; then, in the slots in which learning is due, they learn.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from amco_jax.agents.policy import Policy, SlotView, per_slot
from amco_jax.agents.settings import Settings
from amco_jax.params import Params, Shape
from amco_jax.random import Key
from amco_jax.scenario import Scenario

Own = TypeVar("Own", bound="Learner")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What is the same for all agents of a training in a slot. Traced, but for the two sizes at the end."""

    settings: Any
    """The learner's `Settings`, as programs take them"""
    memory: Int[Array, ""]
    """Rows of their memories that the agents of this training use, see `Learner.memory`"""
    params: Params
    num_positions: Int[Array, ""]
    """Task positions of a base station that may hold a task; those behind them are padding"""
    episode: Int[Array, ""]
    """Number of the episode of the training, from 0; the same for all seeds of a batch, as is `t`"""
    t: Int[Array, ""]
    """Number of the slot in the episode, from 0"""
    num_slots: int = dataclasses.field(metadata={"static": True})
    max_tasks: int = dataclasses.field(metadata={"static": True})

    @property
    def num_servers(self) -> int:
        """B, static."""
        return self.params.capacity.shape[0]

    @property
    def slots_done(self) -> Int[Array, ""]:
        """Slots of the whole training up to the end of this one."""
        return self.episode * self.num_slots + self.t + 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
    """What one agent sees at the start of a slot; it decides all tasks of the slot at once."""

    size: Float[Array, " max_tasks"]
    """d, Mbit, 0 at positions without a task"""
    backlog: Float[Array, " num_servers"]
    """Q, Gcycles"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at the agent's own base station"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """What became of an agent's actions in a slot."""

    seen: Observation
    action: Any
    """What `act` returned"""
    reward: Float[Array, " max_tasks"]
    """-makespan of each task, s, or the penalty of a miss; of no meaning at positions without a task"""
    next_size: Float[Array, ""]
    """d at position 0 in the next slot, Mbit, 0 where it is empty"""
    next_backlog: Float[Array, " num_servers"]
    """Gcycles, at the start of the next slot"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner(abc.ABC):
    """A way to learn: the base of a frozen dataclass with functions for one agent.

    The state of an agent has two parts, pytrees of any kind. What is *learnt* is changed by `learn` alone,
    and the *memory* by `observe` alone. `acting` says what the agent acts by until it learns again, and
    `deployed` what is kept of it when the training has ended; `decide` then takes the decisions.

    Within programs, `self.settings` holds the static settings alone. The arguments `settings`, and those of a
    `Context`, hold all of them, as one program trains agents of several settings and scenarios side by side.
    """

    settings: Settings
    episodes: int = 300
    """Episodes of training, unless another number is asked for"""

    step_logs: ClassVar[tuple[str, ...]] = ()
    """Names of what `learn` logs; the first is NaN in episodes without a learning step"""
    episode_logs: ClassVar[tuple[str, ...]] = ()
    """Names of what `report` logs"""

    @property
    def logs(self) -> tuple[str, ...]:
        """Columns of the training's curves beside the metrics of its episodes."""
        return (*self.step_logs, *self.episode_logs)

    @property
    def max_rounds(self) -> int:
        """The most learning steps after one slot."""
        return 1

    def check(self, num_servers: int) -> None:
        """Raise InputError where the agents cannot handle a fleet of that size."""
        return

    def check_training(self, scenario: Scenario, episodes: int, name: str) -> list[str]:
        """Why the agents of a training may end as they began, one sentence each; mostly none.

        Args:
          name: of the method, for these sentences.

        Raises:
          InputError: nothing can be learnt at all.
        """
        return []

    def memory(self, scenario: Scenario, episodes: int) -> int:
        """Rows of the memory of an agent in such a training."""
        return 1

    def warm_up(self, num_slots: int) -> int:
        """Episodes of training until learning has begun, for benchmarks."""
        return 0

    @abc.abstractmethod
    def init(self, settings: Any, shape: Shape, rows: int, key: Key) -> tuple[Any, Any]:
        """What a new agent has learnt, and its empty memory.

        Args:
          settings: as programs take them.
          rows: of the memory, at least those that `memory` asks for.
          key: the agent's own draws.
        """

    @abc.abstractmethod
    def acting(self, settings: Any, params: Params, learnt: Any) -> Any:
        """What the agent acts by until the next learning step, computed once."""

    @abc.abstractmethod
    def act(self, context: Context, acting: Any, seen: Observation, key: Key) -> Any:
        """The actions for all task positions of a slot, exploration included.

        Returns:
          A pytree with leaves `[max_tasks, ...]`; `sets` reads it, and it becomes part of the `Experience`.
        """

    @abc.abstractmethod
    def sets(self, action: Any, seen: Observation) -> Bool[Array, "max_tasks num_servers"]:
        """The sets of servers that actions stand for; the empty one rejects its task."""

    @abc.abstractmethod
    def observe(self, context: Context, memory: Any, experience: Experience) -> Any:
        """The memory after a slot, written at a place that is the same for all seeds."""

    @abc.abstractmethod
    def rounds(self, context: Context) -> Int[Array, ""]:
        """Learning steps that are due after this slot; a function of the context alone."""

    @abc.abstractmethod
    def learn(
        self, context: Context, learnt: Any, memory: Any, key: Key
    ) -> tuple[Any, dict[str, Float[Array, ""]], Bool[Array, ""]]:
        """One learning step.

        Args:
          key: draws of this agent and step.

        Returns:
          What is learnt by now, what is logged by the names of `step_logs`, and whether a step was made at
          all. Where not, what was learnt must come back as it was, and logs must be 0. Logs are averaged over
          agents and steps.
        """

    def report(self, settings: Any, learnt: Any) -> dict[str, Float[Array, ""]]:
        """What is logged at the end of an episode, by the names of `episode_logs`; averaged over agents."""
        return {}

    @abc.abstractmethod
    def deployed(self, settings: Any, params: Params, learnt: Any) -> Any:
        """What is kept of a trained agent: what `decide` needs, and no more."""

    @abc.abstractmethod
    def decide(self, agent: Any, seen: Observation) -> Bool[Array, "max_tasks num_servers"]:
        """The sets that a trained agent selects, without exploration."""

    def static(self: Own) -> Own:
        """The learner as programs are told apart by it: equal for all that one program can train."""
        return dataclasses.replace(self, settings=self.settings.static(), episodes=0)

    def policy(self) -> Policy:
        """The policy of trained agents, whose view's `agent` has leaves `[num_servers, ...]`."""
        return per_slot(_Deployed(self.static()))


@dataclasses.dataclass(frozen=True)
class _Deployed:
    """The decisions of trained agents; equal for learners that are."""

    learner: Learner

    def __call__(self, view: SlotView) -> Array:
        sizes = jnp.where(view.tasks.present, view.tasks.size, 0)
        return over_stations(view.backlog, self.learner.decide)(view.agent, sizes)


def over_stations(backlog: Float[Array, " num_servers"], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(state, seen, ...)` of one agent, as a function for all base stations.

    In place of `seen` it takes sizes; all that it takes has leaves `[num_servers, ...]`.
    """
    local = jnp.eye(backlog.shape[0], dtype=bool)

    def mapped(states: Any, sizes: Array, *others: Any) -> Any:
        def of_station(state: Any, size: Array, own: Array, *others: Any) -> Any:
            return function(state, Observation(size, backlog, own), *others)

        return jax.vmap(of_station)(states, sizes, local, *others)

    return mapped
