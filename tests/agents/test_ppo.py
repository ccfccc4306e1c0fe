"""PPO over sets: its distribution against enumeration, its advantages against a plain loop, its loss."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from amco_jax.agents.actions import nonempty_sets
from amco_jax.agents.learner import Context
from amco_jax.agents.ppo import (
    PPO,
    PPOSettings,
    Rollout,
    advantages,
    draw,
    entropy,
    log_probability,
    most_probable,
)
from amco_jax.errors import InputError
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario

FLEETS = pytest.mark.parametrize("num_servers", [1, 3, 5])


def random_logits(num_servers: int, tasks: int = 7, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(num_servers).normal(scale=scale, size=(num_servers, tasks))


def enumerated(logits: Any) -> Any:
    """log P of all non-empty sets, `[sets, tasks]`: softmax of the sums of their logits."""
    table = jnp.asarray(nonempty_sets(logits.shape[0]).table(), logits.dtype)
    return jax.nn.log_softmax(table @ logits, axis=0)


def probabilities(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log P of all non-empty sets, and the entropy."""
    table = jnp.asarray(nonempty_sets(logits.shape[0]).table())
    of_set = jax.vmap(lambda row: log_probability(logits, jnp.broadcast_to(row[:, None], logits.shape)))
    return of_set(table), entropy(logits)


def by_hand(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    log_p = enumerated(logits)
    return log_p, -jnp.sum(jnp.exp(log_p) * log_p, axis=0)


@jax.jit
def with_gradients(logits: jax.Array) -> Any:
    return [(function(logits), jax.jacobian(function)(logits)) for function in (probabilities, by_hand)]


@FLEETS
def test_probabilities_entropy_and_gradients_are_those_of_enumeration(num_servers: int):
    found, wanted = with_gradients(jnp.asarray(random_logits(num_servers), jnp.float32))
    np.testing.assert_allclose(np.exp(found[0][0]).sum(axis=0), 1, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=5e-6), found, wanted)


@pytest.mark.parametrize("extreme", [-30.0, 30.0])
def test_bounded_logits_have_finite_numbers(extreme: float):
    logits = jnp.full((5, 1), extreme)
    one = jnp.arange(5)[:, None] == 2
    for function in (lambda x: log_probability(x, one)[0], lambda x: entropy(x)[0]):
        value, gradient = jax.value_and_grad(function)(logits)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
    if extreme < 0:  # then one server it is, each with the same probability
        np.testing.assert_allclose(log_probability(logits, one), -np.log(5), rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, -4.0])
def test_draws_follow_the_distribution(shift: float):
    """The second time most coins show tails, so that the condition matters."""
    num, table = 20_000, nonempty_sets(3).table()
    logits = jnp.asarray(random_logits(3, 1, 1.0) + shift, jnp.float32)
    uniforms = np.random.default_rng(0).random((3, num), np.float32)
    found = np.asarray(draw(jnp.repeat(logits, num, axis=1), jnp.asarray(uniforms))).T
    assert found.any(axis=1).all()
    counts = (found[:, None] == table).all(axis=2).sum(axis=0)
    wanted = np.exp(np.asarray(enumerated(logits))[:, 0], dtype=float)
    assert stats.chisquare(counts, num * wanted / wanted.sum()).pvalue > 1e-3


@FLEETS
def test_the_most_probable_set_is_that_of_enumeration(num_servers: int):
    for shift in (0, -9):
        logits = jnp.asarray(random_logits(num_servers) + shift, jnp.float32)
        wanted = nonempty_sets(num_servers).table()[np.asarray(enumerated(logits)).argmax(axis=0)]
        np.testing.assert_array_equal(most_probable(logits).T, wanted)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.0, 0.9), (0.9, 0.0), (0.9, 0.8), (1.0, 1.0)])
def test_advantages_are_those_of_a_plain_loop(discount: float, gae_lambda: float):
    random = np.random.default_rng(0)
    rows, positions = 9, 4
    reward, value = random.normal(size=(2, rows, positions))
    coming, present = random.normal(size=rows), random.random((rows, positions)) < 0.6
    present[3] = present[6] = False
    last = np.arange(rows) == 4
    wanted = np.zeros((rows, positions))
    later_value = later_advantage = 0.0
    for t in reversed(range(rows)):
        if last[t] or t == rows - 1:
            later_value, later_advantage = coming[t], 0.0
        tasks = np.flatnonzero(present[t])
        for k in tasks:
            delta = reward[t, k] + discount * later_value - value[t, k]
            wanted[t, k] = delta + discount * gae_lambda * later_advantage
        if len(tasks):
            later_value, later_advantage = value[t, tasks].mean(), wanted[t, tasks].mean()
        else:
            later_value, later_advantage = discount * later_value, discount * gae_lambda * later_advantage
    rewards, values, coming = (jnp.asarray(x, jnp.float32) for x in (reward, value, coming))
    settings = jnp.float32(discount), jnp.float32(gae_lambda)
    found = advantages(rewards, values, coming, jnp.asarray(present), jnp.asarray(last), *settings)
    np.testing.assert_allclose(np.where(present, found, 0), wanted, rtol=1e-5, atol=1e-5)


LEARNER = PPO(settings=PPOSettings(hidden=(8,), rollout_slots=6, batch_size=16))
LEARN = jax.jit(LEARNER.static().learn)
SCENARIO = Scenario(num_servers=2, num_tasks=4, num_slots=6)


def learnt_once(reward: np.ndarray, present: np.ndarray, **changes: Any) -> Any:
    """One learning step of a new agent on a made-up rollout."""
    settings, params = LEARNER.settings.replace(**changes).traced(), SCENARIO.params()
    learner, key = LEARNER.static(), stream(jnp.uint32(0), Stream.INIT)
    learnt, memory = learner.init(settings, SCENARIO.shape(), 6, key)
    assert isinstance(memory, Rollout)
    random = np.random.default_rng(0)
    memory = memory._replace(
        size=jnp.asarray(np.where(present, random.uniform(2, 5, present.shape), 0), jnp.float32),
        backlog=jnp.asarray(random.uniform(0, 9, (6, 2)), jnp.float32),
        selected=jnp.asarray(random.random((6, 4, 2)) < 0.5).at[..., 0].set(True),
        reward=jnp.asarray(reward, jnp.float32),
    )
    context = Context(
        settings=settings, memory_rows=jnp.int32(6), params=jax.tree.map(jnp.asarray, params),
        num_positions=jnp.int32(4), episode=jnp.int32(0), t=jnp.int32(5), num_slots=6, max_tasks=4,
    )  # fmt: skip
    return learnt, *LEARN(context, learnt, memory, key)


def test_the_first_update_is_that_of_the_policy_gradient():
    """At ratio 1 nothing is clipped, and a new policy is nearly uniform over its three sets."""
    reward, present = np.random.default_rng(1).normal(size=(6, 4)), np.ones((6, 4), bool)
    before, after, logs, made = learnt_once(reward, present, updates=1, learning_rate=0.01)
    assert made
    assert logs["clip_fraction"] == 0
    np.testing.assert_allclose(logs["entropy"], np.log(3), rtol=1e-3)
    assert logs["value_loss"] > 0
    assert after.updates == 1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.policy, before.policy)
    assert 0 < max(jax.tree.leaves(moved)) <= 0.0101  # Adam's first step is the learning rate


def test_who_has_no_tasks_stays_as_he_is():
    before, after, logs, made = learnt_once(np.zeros((6, 4)), np.zeros((6, 4), bool))
    assert not made
    assert not any(float(value) for value in logs.values())
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_what_stands_at_empty_positions_does_not_count():
    present = np.random.default_rng(2).random((6, 4)) < 0.6
    reward = np.random.default_rng(3).normal(size=(6, 4))
    found = [learnt_once(np.where(present, reward, other), present)[1:3] for other in (0.0, 1e6)]
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip": -1}, "clip: -1; legal: a number from 0"),
        ({"rollout_slots": 0}, "rollout_slots: 0; legal: a whole number from 1"),
        ({"nonsense": 1}, "settings: unknown field 'nonsense'; legal: hidden, leak"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        LEARNER.settings.replace(**changes)
    assert str(error.value).startswith(words)
