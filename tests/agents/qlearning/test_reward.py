"""The rewards that Q-learning learns from: the published one, and the regret."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import SMALL

from amco_jax import Scenario
from amco_jax.agents.actions import nonempty_sets
from amco_jax.agents.methods import METHODS, Method, get_method
from amco_jax.agents.policy import TaskView, per_task
from amco_jax.agents.qlearning import QLearning, QSettings
from amco_jax.alloc import cwa
from amco_jax.env import UNIFIED, Decision, Queues, Task, decide, site
from amco_jax.kernel import reference, rollout
from amco_jax.random import Stream, stream
from amco_jax.workload import bernoulli

PUBLISHED = QLearning(actions=nonempty_sets)
REGRET = QLearning(actions=nonempty_sets, settings=QSettings(reward="regret"))


def outcome(selected: Sequence[bool], wait: Sequence[float]) -> tuple[Decision, TaskView]:
    """The decision and the view of a task that takes 1 s on either of two servers, with a deadline of 1 s."""
    params: Any = Scenario(num_servers=2, deadline=1.0).params()
    task = Task(jnp.asarray(True), jnp.float32(1), jnp.float32(1))
    waits, cost, chosen = jnp.asarray(wait, jnp.float32), jnp.ones(2), jnp.asarray(selected)
    here = site(params, UNIFIED, jnp.int32(0))
    queues = Queues(jnp.zeros(2), jnp.zeros(()))
    _, decision = decide(params, UNIFIED, here, task, waits, cost, chosen, cwa, queues)
    key = stream(jnp.uint32(0), Stream.POLICY)
    return decision, TaskView(task, waits, cost, here.local, params, key, jnp.int32(0))


@pytest.mark.parametrize(
    ("selected", "wait", "regret"),
    [
        # Both servers end at 0.75 s, the first one alone at 1 s, and the second one alone at 1.5 s.
        ((True, True), (0, 0.5), 0),
        ((True, False), (0, 0.5), 1 / 3),
        ((False, True), (0, 0.5), 1),
        # Late anyway, at 3.5 s instead of 3 s: the deadline, at which makespans end, hides no regret.
        ((True, True), (2, 3), 0),
        ((True, False), (2.5, 2.5), 1 / 6),
        # Eleven times as late as necessary, and a rejected task.
        ((False, True), (0, 10), 1),
        ((False, False), (0, 0.5), 1),
    ],
)
def test_the_regret_is_what_the_best_set_would_have_saved(
    selected: Sequence[bool], wait: Sequence[float], regret: float
):
    np.testing.assert_allclose(REGRET.reward(*outcome(selected, wait)), -regret, atol=1e-6)


def test_the_published_reward_is_the_model_s_own():
    """The very same value, so that training with it computes nothing more."""
    decision, view = outcome((True, False), (0, 0.5))
    assert QSettings().reward == "makespan"
    assert PUBLISHED.reward(decision, view) is decision.reward


def test_regrets_of_an_episode_are_those_of_plain_loops():
    """With random sets, also empty ones, and tasks that miss the deadline even on the best set."""

    def any_set(view: TaskView) -> jax.Array:
        return jnp.stack([view.uniform(i) < 0.4 for i in range(view.wait.size)])

    scenario = SMALL.replace(deadline=0.2)
    shape = scenario.shape()
    params: Any = scenario.params()

    @jax.jit
    def run(seed: Any) -> Any:
        workload = bernoulli(params, shape.max_tasks, seed)
        return (
            rollout(
                shape, params, UNIFIED, method=Method("any-set", per_task(any_set)), workload=workload,
                key=stream(seed, Stream.POLICY), metrics=(),
                record=lambda decision, view: (decision, view.task, REGRET.reward(decision, view)),
            ).decisions,
            workload.density,
        )  # fmt: skip

    (decisions, tasks, found), density = jax.tree.map(np.asarray, run(jnp.uint32(3)))
    recording = {
        "task_mbit": np.where(tasks.present, tasks.size, 0),
        "density_gcycles_per_mbit": density,
        "capacity_gcycles_per_s": np.asarray(params.capacity),
        "rate_mbit_per_s": np.asarray(params.link_rate),
        "deadline_s": scenario.deadline,
        "slot_s": scenario.slot_duration,
    }
    servers = range(scenario.num_servers)
    sets = [s for size in servers for s in itertools.combinations(servers, size + 1)]
    wanted = np.zeros(found.shape)

    def ends(times: Any, chosen: Sequence[int]) -> float:
        wait, cost = times(chosen)
        x = reference.cwa(wait, cost)
        return max((x[i] * cost[i] + wait[i] for i in chosen), default=np.inf)

    def recorded(t: int, b: int, n: int, times: Any) -> Sequence[int]:
        chosen = np.flatnonzero(decisions.selected[t, b, n]).tolist()
        least = min(ends(times, each) for each in sets)
        wanted[t, b, n] = min(ends(times, chosen) / least - 1, 1)
        return chosen

    reference.simulate(recording, "unified", reference.cwa, recorded)
    present = tasks.present
    np.testing.assert_allclose(found[present], -wanted[present], atol=1e-4)
    regret = wanted[present]
    empty = ~decisions.selected[present].any(axis=1)
    assert (regret[empty] == 1).all()
    assert empty.any()
    assert (regret == 0).any()
    late = decisions.missed[present] & ~empty
    assert ((regret[late] > 0) & (regret[late] < 1)).any()


def test_another_reward_is_another_program():
    method = get_method("amcoedge-stable")
    assert method.with_settings(reward="makespan") == method
    assert method.with_settings(reward="regret") != method


def test_the_regret_methods_differ_from_the_published_ones_in_settings_alone():
    for name in ("amcoedge", "smcoedge", "drlcoedge"):
        published, regret = METHODS[name], METHODS[f"{name}-regret"]
        before, after = published.require_training(), regret.require_training()
        assert isinstance(before, QLearning)
        assert isinstance(after, QLearning)
        assert (before.settings.reward, after.settings.reward) == ("makespan", "regret")
        assert (before.settings.hidden, before.actions) == (after.settings.hidden, after.actions)
        assert (published.allocator, published.published) == (regret.allocator, regret.published)
