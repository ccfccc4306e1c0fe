"""The protocols of learners, which define how the agents of a method learn.

A learner is a frozen dataclass of pure functions. There are two kinds:

- The functions of a `Learner` are written for one agent of one seed. The training loop maps them over base
  stations, which have one agent each, and over seeds. In each slot, all agents act, the slot is simulated,
  each agent observes the outcome of its actions, and, if learning is due, all of them learn.
- An `EpisodeLearner` learns once after each episode, from derivatives of the summed makespan. All base
  stations share one agent.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from amco_jax.agents.policy import Policy, SlotView, TaskView, per_slot
from amco_jax.agents.settings import Settings
from amco_jax.env import Background, Decision
from amco_jax.params import Params, Shape
from amco_jax.random import Key
from amco_jax.scenario import Scenario

Own = TypeVar("Own", bound="BaseLearner")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Data that all agents of a training share in a slot; traced, except for the last two fields."""

    settings: Any
    """The learner's `Settings`, in their traced form"""
    memory_rows: Int[Array, ""]
    """Number of rows of memory that each agent of this training uses, see `Learner.memory_rows`"""
    params: Params
    num_positions: Int[Array, ""]
    """Number of task positions of a base station that may hold a task; positions after them are padding"""
    episode: Int[Array, ""]
    """Index of the training episode, from 0; like `t`, the same for all seeds of a batch"""
    t: Int[Array, ""]
    """Index of the slot in the episode, from 0"""
    num_slots: int = dataclasses.field(metadata={"static": True})
    max_tasks: int = dataclasses.field(metadata={"static": True})

    @property
    def num_servers(self) -> int:
        """B, static."""
        return self.params.capacity.shape[0]

    @property
    def slots_done(self) -> Int[Array, ""]:
        """The number of slots since training began, including this one."""
        return self.episode * self.num_slots + self.t + 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
    """The observation of one agent at the start of a slot, from which it decides all tasks of the slot."""

    size: Float[Array, " max_tasks"]
    """d, Mbit, 0 at positions without a task"""
    backlog: Float[Array, " num_servers"]
    """Q, Gcycles"""
    local: Bool[Array, " num_servers"]
    """One-hot: the server at the agent's base station"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Experience:
    """An agent's observation and actions in a slot, and their outcome."""

    seen: Observation
    action: Any
    """The result of `act`"""
    reward: Float[Array, " max_tasks"]
    """Reward of each task, see `Learner.reward`; meaningless at positions without a task"""
    next_size: Float[Array, ""]
    """d at position 0 in the next slot, Mbit; 0 if it is empty"""
    next_backlog: Float[Array, " num_servers"]
    """Q at the start of the next slot, Gcycles"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseLearner(abc.ABC):
    """What all learners have in common; subclasses are frozen dataclasses.

    The state of an agent consists of two arbitrary pytrees, the *learnt* state and the *memory*. After
    training, `deployed` extracts what is kept of the agent.

    One program trains agents of several settings and scenarios side by side. In compiled programs,
    `self.settings` therefore holds only the static settings; the argument `settings`, or `Context.settings`,
    holds all of them.
    """

    settings: Settings
    episodes: int = 300
    """Default number of training episodes"""

    step_logs: ClassVar[tuple[str, ...]] = ()
    """Names of the values that are logged in each learning step; the first is NaN in episodes without one"""
    episode_logs: ClassVar[tuple[str, ...]] = ()
    """Names of the values that are logged once per episode"""
    any_fleet: ClassVar[bool] = False
    """Whether agents can be evaluated with another number of servers than that of their training"""
    seeds_per_block: ClassVar[int] = 16
    """Number of seeds that a core trains at a time, few enough that their agents stay in its cache, and
    enough to fill its vectors. Results do not depend on it except for rounding, but agents on disk are in
    blocks of so many."""

    @property
    def logs(self) -> tuple[str, ...]:
        """Columns of the learning curves, in addition to the metrics of the episodes."""
        return (*self.step_logs, *self.episode_logs)

    @property
    def max_rounds(self) -> int:
        """The maximum number of learning steps after one slot."""
        return 1

    def check(self, num_servers: int) -> None:
        """Raise InputError if the agents cannot handle a fleet of this size."""
        return

    def check_training(self, scenario: Scenario, episodes: int, name: str) -> list[str]:
        """Warnings that the agents may learn little or nothing in such a training, one sentence each.

        Args:
          name: the name of the method, for use in the warnings.

        Raises:
          InputError: nothing can be learnt at all.
        """
        return []

    def memory_rows(self, scenario: Scenario, episodes: int) -> int:
        """The number of rows of memory that an agent needs in such a training."""
        return 1

    def warm_up(self, num_slots: int) -> int:
        """The number of episodes until learning has begun, for benchmarks."""
        return 0

    @abc.abstractmethod
    def init(self, settings: Any, shape: Shape, rows: int, key: Key) -> tuple[Any, Any]:
        """The initial learnt state of an agent, and its empty memory.

        Args:
          settings: in their traced form.
          rows: number of rows of the memory, at least the result of `memory_rows`.
          key: random key of the agent.
        """

    @abc.abstractmethod
    def deployed(self, settings: Any, params: Params, learnt: Any) -> Any:
        """The trained agent, reduced to what its decisions need; nothing else is kept."""

    def static(self: Own) -> Own:
        """The learner as a cache key of programs: equal for all learners that one program can train."""
        return dataclasses.replace(self, settings=self.settings.static(), episodes=0)

    @abc.abstractmethod
    def policy(self) -> Policy:
        """The policy of trained agents; `agent` in its view has leaves `[num_servers, ...]`."""


class Outcome(NamedTuple):
    """The result of an episode, a leaf for each of the candidates that have played it."""

    makespan: Float[Array, " candidates"]
    """The sum over all tasks, s"""
    misses: Float[Array, " candidates"]
    """The number of tasks that have missed their deadline"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpisodeLearner(BaseLearner):
    """The base class of learners that learn after each episode from the exact prices along it, which are
    derivatives of its summed makespan.

    During an episode, agents decide without exploration, by `policy`.
    """

    seeds_per_block: ClassVar[int] = 32  # there is hardly any memory, and a backward pass needs longer loops

    def deployed(self, settings: Any, params: Params, learnt: Any) -> Any:
        """The trained agent; by default, all that is learnt."""
        return learnt

    def candidates(self, settings: Any, params: Params, learnt: Any) -> Any:
        """The agents that play a training episode, all on the same arrivals, leaves `[candidates, ...]`.

        Learning is from the prices along the episode of the first. By default, the trained agent is alone.
        """
        return jax.tree.map(lambda leaf: leaf[None], self.deployed(settings, params, learnt))

    @abc.abstractmethod
    def keep(self, decision: Decision, view: TaskView) -> Any:
        """What to keep of a decision, a pytree of arrays."""

    @abc.abstractmethod
    def moments(self, params: Params, kept: Any, price: Background) -> Any:
        """What to sum over the decisions of an episode, such as products of inputs and prices.

        Args:
          kept: the result of `keep` for a decision.
          price: its exact prices: what background load right after it adds to the summed makespan, in s per
            unit of the load.

        Returns:
          A pytree of real arrays, which should be small: the sums are computed number by number.
        """

    @abc.abstractmethod
    def learn(
        self, settings: Any, params: Params, learnt: Any, memory: Any, moments: Any, outcome: Outcome
    ) -> tuple[Any, Any, dict[str, Float[Array, ""]]]:
        """Learn from an episode.

        Args:
          params: those of the episode.
          moments: the sums of `moments` over the decisions of each base station, leaves `[num_servers, ...]`.
          outcome: what the candidates reached.

        Returns:
          The new learnt state, the new memory, and the values to log, by the names in `episode_logs`.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner(BaseLearner):
    """The base class of learners that learn slot by slot, with functions for one agent.

    Only `learn` changes the learnt state, and only `observe` changes the memory. `acting` prepares what `act`
    needs until the next learning step, and `decide` makes the decisions of a trained agent. The values in
    `step_logs` come from `learn`, those in `episode_logs` from `report`.
    """

    @abc.abstractmethod
    def acting(self, settings: Any, params: Params, learnt: Any) -> Any:
        """The input of `act`, computed once after each learning step."""

    @abc.abstractmethod
    def act(self, context: Context, acting: Any, seen: Observation, key: Key) -> Any:
        """Choose the actions for all task positions of a slot, with exploration.

        Returns:
          A pytree with leaves `[max_tasks, ...]`, which is passed to `sets` and stored in the `Experience`.
        """

    @abc.abstractmethod
    def sets(self, action: Any, seen: Observation) -> Bool[Array, "max_tasks num_servers"]:
        """The set of servers that each action represents; the empty set rejects the task."""

    def reward(self, decision: Decision, view: TaskView) -> Float[Array, ""]:
        """The reward of a task, computed as soon as it is decided; by default that of the model, -makespan in
        s or the penalty of a miss.

        Training alone uses it, so it may use what agents do not observe.

        Args:
          decision: the outcome.
          view: the task, with the waits and costs that it met.
        """
        return decision.reward

    @abc.abstractmethod
    def observe(self, context: Context, memory: Any, experience: Experience) -> Any:
        """The memory with the experience of a slot added, at an index that is the same for all seeds."""

    @abc.abstractmethod
    def rounds(self, context: Context) -> Int[Array, ""]:
        """The number of learning steps due after this slot, which may depend only on the context."""

    @abc.abstractmethod
    def learn(
        self, context: Context, learnt: Any, memory: Any, key: Key
    ) -> tuple[Any, dict[str, Float[Array, ""]], Bool[Array, ""]]:
        """Make one learning step.

        Args:
          key: random key of this agent and step.

        Returns:
          The new learnt state, the logged values by the names in `step_logs`, and whether a step was made. If
          none was made, the learnt state must be unchanged and the logged values must be 0. Logs are averaged
          over agents and steps.
        """

    def report(self, settings: Any, learnt: Any) -> dict[str, Float[Array, ""]]:
        """Values to log at the end of an episode, by the names in `episode_logs`; averaged over agents."""
        return {}

    @abc.abstractmethod
    def decide(self, agent: Any, seen: Observation) -> Bool[Array, "max_tasks num_servers"]:
        """The sets that a trained agent selects, without exploration."""

    def policy(self) -> Policy:
        """A per-slot policy of `decide`."""
        return per_slot(_Deployed(self.static()))


@dataclasses.dataclass(frozen=True)
class _Deployed:
    """The decisions of trained agents; instances with equal learners are equal."""

    learner: Learner

    def __call__(self, view: SlotView) -> Array:
        sizes = jnp.where(view.tasks.present, view.tasks.size, 0)
        return over_stations(view.backlog, self.learner.decide)(view.agent, sizes)


def over_stations(backlog: Float[Array, " num_servers"], function: Callable[..., Any]) -> Callable[..., Any]:
    """Map `function(state, seen, ...)`, which is written for one agent, over all base stations.

    The result takes task sizes in place of `seen`; all its arguments have leaves `[num_servers, ...]`.
    """
    local = jnp.eye(backlog.shape[0], dtype=bool)

    def mapped(states: Any, sizes: Array, *others: Any) -> Any:
        def of_station(state: Any, size: Array, own: Array, *others: Any) -> Any:
            return function(state, Observation(size, backlog, own), *others)

        return jax.vmap(of_station)(states, sizes, local, *others)

    return mapped
