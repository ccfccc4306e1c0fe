"""The published Q-learning as a learner."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from amco_jax.agents.actions import ActionSpace
from amco_jax.agents.learner import Context, Experience, Learner, Observation
from amco_jax.agents.network import Weights
from amco_jax.agents.policy import TaskView
from amco_jax.agents.qlearning import dqn
from amco_jax.agents.qlearning.dqn import DQN, Acting, Learnt
from amco_jax.agents.qlearning.replay import Replay, empty_replay, rows_for, sample, store
from amco_jax.agents.qlearning.settings import QSettings
from amco_jax.agents.rules import makespan_of, optimal
from amco_jax.env import Decision
from amco_jax.errors import InputError
from amco_jax.identity import hashable
from amco_jax.params import Params, Shape
from amco_jax.random import Key, uniform
from amco_jax.scenario import Scenario


@dataclasses.dataclass(frozen=True, kw_only=True)
class QLearning(Learner):
    """Q-learning over the sets of an action space; each agent has its own replay.

    Source: published code. `dqn.py` and `replay.py` contain the algorithms.
    """

    actions: Callable[[int], ActionSpace]
    """A function from the number of servers to the action space"""
    settings: QSettings = dataclasses.field(default_factory=QSettings)

    step_logs: ClassVar[tuple[str, ...]] = ("loss",)
    episode_logs: ClassVar[tuple[str, ...]] = ("epsilon",)

    def __post_init__(self):
        object.__setattr__(self, "actions", hashable("actions", self.actions))

    @property
    def dqn(self) -> DQN:
        """The parameters that determine the shapes of an agent's arrays."""
        return DQN(self.actions, self.settings.hidden, self.settings.batch_size, self.settings.leak)

    @property
    def max_rounds(self) -> int:
        return self.settings.learn_repeats

    def check(self, num_servers: int) -> None:
        self.actions(num_servers)

    def check_training(self, scenario: Scenario, episodes: int, name: str) -> list[str]:
        if scenario.num_slots < 2:
            raise InputError(
                f"num_slots: {scenario.num_slots}; legal for training {name}: at least 2, since the tasks of "
                "an episode's first slot are never stored"
            )
        settings, slots, found = self.settings, episodes * scenario.num_slots, []
        due = slots // settings.learn_interval - min(settings.learn_after, slots) // settings.learn_interval
        if due == 0:
            found.append(
                f"{name} makes no learning step: its training has {slots} slots, learn_after is "
                f"{settings.learn_after} and learn_interval {settings.learn_interval}."
            )
        stored = scenario.count_moments[0] * (scenario.num_slots - 1) * episodes
        if stored < 1:
            found.append(
                f"{name} has hardly anything to learn from: over the whole training {stored:.2g} tasks are "
                "stored at a base station on average."
            )
        return found

    def memory_rows(self, scenario: Scenario, episodes: int) -> int:
        """The number of slots that hold `replay_capacity` tasks, but at most the number ever stored."""
        stored = max(episodes * (scenario.num_slots - 1), 1)
        return min(rows_for(self.settings.replay_capacity, scenario), stored)

    def warm_up(self, num_slots: int) -> int:
        return 1 + self.settings.learn_after // num_slots

    def init(self, settings: QSettings, shape: Shape, rows: int, key: Key) -> tuple[Learnt, Replay]:
        space = self.actions(shape.num_servers)
        example = jax.tree.map(lambda a: a[0], space.draw(jnp.zeros((space.num_draws, 1))))
        replay = empty_replay(rows, shape.max_tasks, shape.num_servers, example, jnp.float32)
        return dqn.init(self.dqn, settings, shape.num_servers, key), replay

    def acting(self, settings: QSettings, params: Params, learnt: Learnt) -> Acting:
        return dqn.acting(settings, params, learnt)

    def act(self, context: Context, acting: Acting, seen: Observation, key: Key) -> Any:
        action = dqn.greedy(self.dqn, acting.weights, seen.size, seen.backlog)
        dtype = seen.backlog.dtype
        return dqn.explore(self.dqn, context.num_servers, acting.epsilon, key, action, dtype)

    def sets(self, action: Any, seen: Observation) -> Array:
        return self.actions(seen.backlog.shape[0]).sets(action, seen.local)

    def reward(self, decision: Decision, view: TaskView) -> Array:
        """With `reward = regret`, max(1 - T / T*, -1): 0 for a set that is best for the task, else negative.

        T is the time at which the task ends on its set, and T* the one at which it would have ended on the
        best of all non-empty sets, given the same waits; both may exceed the deadline. A rejected task has
        the reward -1. What no action of the agent can change, above all the load that earlier tasks of the
        slot have added, is in both times, and so hardly in the reward.
        """
        if self.settings.reward == "makespan":
            return decision.reward
        regret = decision.finish / makespan_of(view, optimal(view)) - 1
        return -jnp.where(decision.rejected, 1, jnp.minimum(regret, 1))

    def observe(self, context: Context, memory: Replay, experience: Experience) -> Replay:
        return store(memory, experience, context.t > 0, _row_number(context), context.num_positions)

    def rounds(self, context: Context) -> Array:
        settings, done = context.settings, context.slots_done
        due = (done > settings.learn_after) & (done % settings.learn_interval == 0)
        return jnp.where(due, settings.learn_repeats, 0)

    def learn(
        self, context: Context, learnt: Learnt, memory: Replay, key: Key
    ) -> tuple[Learnt, dict[str, Array], Array]:
        settings, params = context.settings, context.params
        uniforms = uniform(key, jnp.arange(self.dqn.batch_size), params.capacity.dtype)
        batch, filled = sample(
            memory, _row_number(context), context.memory_rows, context.num_positions,
            settings.replay_capacity, uniforms,
        )  # fmt: skip
        scale = dqn.input_scale(settings, params)
        learnt, loss = dqn.learn(self.dqn, settings, scale, learnt, batch, filled > 0)
        return learnt, {"loss": loss}, filled > 0

    def report(self, settings: QSettings, learnt: Learnt) -> dict[str, Array]:
        """ε, the probability of the greedy action."""
        return {"epsilon": dqn.greedy_probability(settings, learnt.steps)}

    def deployed(self, settings: QSettings, params: Params, learnt: Learnt) -> Weights:
        return dqn.deployed(settings, params, learnt)

    def decide(self, agent: Weights, seen: Observation) -> Array:
        return self.sets(dqn.greedy(self.dqn, agent, seen.size, seen.backlog), seen)


def _row_number(context: Context) -> Array:
    """The number of rows written before this slot's row; slot 0 of an episode is not stored."""
    return context.episode * (context.num_slots - 1) + context.t - 1
