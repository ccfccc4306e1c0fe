"""Deep Q-learning of one agent, on problems whose answer is known."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.trees import assert_same_bits
from scipy import stats

from amco_jax.agents.actions import Factorised, nonempty_sets, partners
from amco_jax.agents.network import fold_scale
from amco_jax.agents.policy import SlotView
from amco_jax.agents.qlearning import QLearning, QSettings
from amco_jax.agents.qlearning import dqn as dqn_module
from amco_jax.agents.qlearning.dqn import (
    DQN,
    Learnt,
    greedy_probability,
    input_scale,
    learn,
)
from amco_jax.agents.qlearning.replay import Batch
from amco_jax.env import Task
from amco_jax.errors import InputError
from amco_jax.random import Key, Stream, stream
from amco_jax.scenario import Scenario

SERVERS = 2
SETS = 3
AGENT = DQN(nonempty_sets, (16,), 6)
FACTORISED = dataclasses.replace(AGENT, actions=Factorised)
UNSCALED = np.ones(1 + SERVERS, np.float32)


def key(number: int = 0) -> Key:
    return stream(jnp.uint32(number), Stream.INIT)


# Compiled as they are in programs, since each operation on its own takes longer to compile than all together.
init = jax.jit(dqn_module.init, static_argnums=(0, 2))
q_values = jax.jit(dqn_module.q_values, static_argnums=0)
explore = jax.jit(dqn_module.explore, static_argnums=(0, 1, 5))
acting = jax.jit(dqn_module.acting)
greedy = jax.jit(dqn_module.greedy, static_argnums=0)


def new_learner(settings: QSettings, dqn: DQN = AGENT, number: int = 0) -> Learnt:
    return init(dqn, settings.traced(), SERVERS, key(number))


@functools.partial(jax.jit, static_argnums=0)
def learnt(dqn: DQN, hyper: Any, scale: Any, learner: Learnt, batch: Batch, ready: Any) -> Any:
    return learn(dqn, hyper, scale, learner, batch, ready)


def one_step(learner: Learnt, batch: Batch, ready: bool = True, **changes: Any) -> tuple[Learnt, float]:
    learner, loss = learnt(AGENT, QSettings(**changes).traced(), UNSCALED, learner, batch, ready)
    return learner, float(loss)


def random_batch(size: int = 6, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    rows = jnp.asarray(random.normal(size=(3 + 2 * SERVERS, size)), jnp.float32)
    actions = jnp.asarray(random.integers(SETS, size=size), jnp.int32)
    return Batch(rows[0], rows[1 : 1 + SERVERS], actions, rows[-2], rows[-1], rows[1 + SERVERS : -2])


# A problem of two states: which one follows depends on the action, and greed does not pay at once.
STATES = np.array([[1.0, 0.0, 2.0], [0.5, 1.5, -1.0]], np.float32)
REWARD = np.array([[-0.1, -0.3, -0.6], [-1.0, -0.4, 0.5]])
FOLLOWING = np.array([[0, 1, 1], [0, 1, 0]])


def true_values(discount: float) -> np.ndarray:
    """Q* by value iteration, `[states, actions]`."""
    values = np.zeros_like(REWARD)
    for _ in range(2000):
        values = REWARD + discount * values.max(axis=1)[FOLLOWING]
    return values


def every_transition(dqn: DQN) -> Batch:
    """Each pair of state and action once."""
    state, action = (x.ravel() for x in np.indices(REWARD.shape))
    now, then = STATES[state].T, STATES[FOLLOWING.ravel()].T
    chosen = action.astype(np.int32) if dqn is AGENT else nonempty_sets(SERVERS).table()[action]
    rows = now[0], now[1:], chosen, REWARD.ravel().astype(np.float32), then[0], then[1:]
    return Batch(*map(jnp.asarray, rows))


@functools.partial(jax.jit, static_argnums=0)
def solved(dqn: DQN, hyper: Any, learner: Learnt, batch: Batch) -> Any:
    scale = jnp.ones(1 + SERVERS)

    def step(_: Any, learner: Learnt) -> Learnt:
        return learn(dqn, hyper, scale, learner, batch, jnp.asarray(True))[0]

    return jax.lax.fori_loop(0, 6000, step, learner)


@pytest.mark.parametrize("discount", [0.5, 0.9])
@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize(
    "target", [{"target_interval": 20}, {"target_interval": 1, "target_rate": 0.05}], ids=["copied", "soft"]
)
@pytest.mark.parametrize("dqn", [AGENT, FACTORISED], ids=["enumerated", "factorised"])
def test_a_known_problem_is_solved(discount: float, double_q: bool, target: dict[str, Any], dqn: DQN):
    settings = QSettings(
        discount=discount, double_q=double_q, learning_rate=0.01, learning_rate_decay=2e-3, **target
    )
    batch = every_transition(dqn)
    learner = solved(dqn, settings.traced(), new_learner(settings, dqn), batch)
    values = dqn.actions(SERVERS).value(
        q_values(dqn, learner.weights, batch.size, batch.backlog), batch.action
    )
    wanted = true_values(discount)
    assert (wanted.argmax(axis=1) != REWARD.argmax(axis=1)).any()  # or looking ahead would not be tested
    np.testing.assert_allclose(np.reshape(values, REWARD.shape), wanted, atol=0.005)


def values_by_hand(weights: Any, size: Any, backlog: Any) -> np.ndarray:
    """The network in float64, `[outputs, tasks]`."""
    x = np.concatenate([np.asarray(size, np.float64)[None], backlog])
    for i in range(len(weights)):
        layer = weights[f"_Layer_{i}"]
        x = np.asarray(layer["kernel"], np.float64) @ x + np.asarray(layer["bias"], np.float64)[:, None]
        x = np.maximum(x, 0) if i + 1 < len(weights) else x
    return x


def errors_by_hand(weights: Any, target: Any, batch: Batch, settings: QSettings) -> np.ndarray:
    rated = values_by_hand(target, batch.next_size, batch.next_backlog)
    chooser = values_by_hand(weights, batch.next_size, batch.next_backlog) if settings.double_q else rated
    each = np.arange(rated.shape[1])
    goal = (
        settings.reward_scale * np.asarray(batch.reward) + settings.discount * rated[chooser.argmax(0), each]
    )
    return goal - values_by_hand(weights, batch.size, batch.backlog)[batch.action, each]


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("error_limit", [1e9, 0.7, 1e-6])
def test_loss_is_the_formula(double_q: bool, error_limit: float):
    """Mean over batch and outputs of e², or beyond the limit of its tangent; no target update is due."""
    settings = QSettings(double_q=double_q, error_limit=error_limit, reward_scale=3.0, discount=0.8)
    batch = random_batch()
    learner = new_learner(settings)._replace(
        target=new_learner(settings, number=1).weights, steps=jnp.int32(1)
    )
    _, loss = one_step(learner, batch, **dataclasses.asdict(settings))
    error = np.abs(errors_by_hand(learner.weights, learner.target, batch, settings))
    single = errors_by_hand(
        learner.weights, learner.target, batch, dataclasses.replace(settings, double_q=True)
    )
    assert double_q or not np.allclose(error, np.abs(single))  # the two choices differ on this batch
    huber = np.where(error <= error_limit, error**2, error_limit * (2 * error - error_limit))
    np.testing.assert_allclose(loss, huber.sum() / (6 * SETS), rtol=1e-5)


def output_gradient(error_limit: float, batch: Batch) -> np.ndarray:
    """The gradient of the loss by the biases of the outputs, read from Adam's first moment after one step."""
    learner = new_learner(QSettings())
    learner, _ = one_step(learner, batch, error_limit=error_limit, discount=0.0)
    moment: Any = learner.optimiser
    return np.asarray(moment.mu["_Layer_1"]["bias"]) / (1 - 0.9)


def test_error_limit_leaves_small_errors_alone_and_bounds_the_pull_of_large_ones():
    batch, settings = random_batch(1), QSettings(discount=0.0)
    learner = new_learner(settings)
    (error,) = errors_by_hand(learner.weights, learner.weights, batch, settings)
    chosen = np.arange(SETS) == batch.action
    for limit in (0.01, abs(error) / 2, abs(error) * 2, 1e9):
        pull = -2 * np.clip(error, -limit, limit) / SETS
        np.testing.assert_allclose(output_gradient(limit, batch), chosen * pull, rtol=1e-4)
    far = dataclasses.replace(batch, reward=batch.reward + 1e6)
    np.testing.assert_allclose(np.abs(output_gradient(0.5, far)).max(), 2 * 0.5 / SETS, rtol=1e-4)


def test_only_the_action_taken_is_corrected():
    batch = random_batch(1)
    gradient = output_gradient(1e9, batch)
    assert (gradient != 0).tolist() == (np.arange(SETS) == batch.action).tolist()


def test_target_network_is_updated_before_the_weights_at_its_interval_only():
    learner = new_learner(QSettings())._replace(target=new_learner(QSettings(), number=1).weights)
    for step in range(8):
        before = learner
        learner, _ = one_step(before, random_batch(seed=step), target_interval=3)
        assert_same_bits(learner.target, before.weights if step % 3 == 0 else before.target)
        assert any(
            (a != b).any()
            for a, b in zip(*map(jax.tree.leaves, (learner.weights, before.weights)), strict=True)
        )


def test_target_network_takes_a_share_of_the_weights():
    learner = new_learner(QSettings())._replace(target=new_learner(QSettings(), number=1).weights)
    for step in range(4):
        before = learner
        learner, _ = one_step(before, random_batch(seed=step), target_interval=2, target_rate=0.25)
        share = 0.25 if step % 2 == 0 else 0
        wanted = jax.tree.map(lambda t, w, s=share: (1 - s) * t + s * w, before.target, before.weights)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), learner.target, wanted
        )


def test_the_updated_target_network_is_what_rates_in_the_same_step():
    batch, settings = random_batch(), QSettings()
    learner = new_learner(settings)._replace(target=new_learner(settings, number=1).weights)
    _, loss = one_step(learner, batch)
    error = errors_by_hand(learner.weights, learner.weights, batch, settings)
    np.testing.assert_allclose(loss, (error**2).sum() / (6 * SETS), rtol=1e-5)


def test_who_is_not_ready_stays_as_he_is():
    learner = new_learner(QSettings())._replace(target=new_learner(QSettings(), number=1).weights)
    learner, _ = one_step(learner, random_batch())
    for bad in (random_batch(seed=1), jax.tree.map(lambda x: x * np.nan, random_batch())):
        batch = dataclasses.replace(bad, action=random_batch().action)
        same, loss = one_step(learner, batch, ready=False)
        assert_same_bits(same, learner)
        assert loss == 0


@pytest.mark.parametrize("steps", [0, 10])
def test_learning_rate_decays_with_the_steps(steps: int):
    learner, batch = new_learner(QSettings())._replace(steps=jnp.int32(steps)), random_batch()

    def change(**settings: Any) -> Any:
        moved, _ = one_step(learner, batch, **settings)
        return moved.weights["_Layer_0"]["kernel"] - learner.weights["_Layer_0"]["kernel"]

    whole, less = change(learning_rate=0.5), change(learning_rate=0.5, learning_rate_decay=0.2)
    np.testing.assert_allclose(less, whole / (1 + 0.2 * steps), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(change(learning_rate=0.0), 0)


def test_initial_parameters_are_as_published():
    wide = DQN(nonempty_sets, (200, 200), 32)
    learner = init(wide, QSettings(init_std=0.3).traced(), 5, key())
    kernel = np.asarray(learner.weights["_Layer_1"]["kernel"]).ravel()
    assert kernel.size == 200**2
    assert stats.kstest(kernel / 0.3, "norm").pvalue > 1e-4
    layers = learner.weights.values()
    assert [layer["kernel"].shape for layer in layers] == [(200, 6), (200, 200), (31, 200)]
    assert all((layer["bias"] == np.float32(0.1)).all() for layer in layers)
    assert_same_bits(learner.target, learner.weights)
    assert learner.steps == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(learner.optimiser))


def test_initial_kernels_differ_by_key_and_layer_and_scale_with_init_std():
    first, second = (new_learner(QSettings(), number=n).weights["_Layer_0"]["kernel"] for n in (0, 1))
    assert (first != second).all()
    wider = new_learner(QSettings(init_std=0.6)).weights["_Layer_0"]["kernel"]
    np.testing.assert_allclose(wider, 2 * first, rtol=1e-6)
    square = init(DQN(nonempty_sets, (3, 3), 1), QSettings().traced(), SERVERS, key()).weights
    assert (square["_Layer_0"]["kernel"] != square["_Layer_1"]["kernel"]).all()


@pytest.mark.parametrize("scale_inputs", [False, True])
def test_folded_weights_see_observations_as_they_are(scale_inputs: bool):
    settings = QSettings(scale_inputs=scale_inputs)
    params: Any = Scenario(num_servers=SERVERS, capacity=(7, 30), slot_duration=2, task_size_max=4).params()
    scale = np.asarray(input_scale(settings.traced(), params))
    wanted = [1 / 4, 1 / 14, 1 / 60] if scale_inputs else [1, 1, 1]
    np.testing.assert_allclose(scale, wanted, rtol=1e-6)
    weights, batch = new_learner(settings).weights, random_batch()
    folded = q_values(AGENT, fold_scale(weights, jnp.asarray(scale)), batch.size, batch.backlog)
    scaled = q_values(AGENT, weights, batch.size * scale[0], batch.backlog * scale[1:, None])
    np.testing.assert_allclose(folded, scaled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        folded,
        values_by_hand(fold_scale(weights, jnp.asarray(scale)), batch.size, batch.backlog),
        rtol=1e-5,
        atol=1e-6,
    )


def test_learning_sees_scaled_observations():
    batch, scale = random_batch(), np.array([0.5, 3.0, 0.1], np.float32)
    hyper, learner = QSettings().traced(), new_learner(QSettings())
    moved = learnt(AGENT, hyper, scale, learner, batch, True)
    by_hand = dataclasses.replace(
        batch,
        size=batch.size * scale[0],
        next_size=batch.next_size * scale[0],
        backlog=batch.backlog * scale[1:, None],
        next_backlog=batch.next_backlog * scale[1:, None],
    )
    wanted = learnt(AGENT, hyper, UNSCALED, learner, by_hand, True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-6), moved, wanted)


def test_tasks_of_a_slot_share_their_backlog():
    weights, batch = new_learner(QSettings()).weights, random_batch()
    shared = q_values(AGENT, weights, batch.size, batch.backlog[:, 0])
    each = q_values(AGENT, weights, batch.size, jnp.repeat(batch.backlog[:, :1], 6, axis=1))
    np.testing.assert_allclose(shared, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("deploy_target", [False, True])
def test_only_trained_agents_decide_by_the_target_network(deploy_target: bool):
    params: Any = Scenario(num_servers=SERVERS).params()
    learner = new_learner(QSettings())._replace(
        target=new_learner(QSettings(), number=1).weights, steps=jnp.int32(7)
    )
    hyper = QSettings(deploy_target=deploy_target, greedy_growth=0.01, scale_inputs=True).traced()
    training = acting(hyper, params, learner)
    trained = QLearning(actions=nonempty_sets).deployed(hyper, params, learner)
    scale = input_scale(hyper, params)
    assert_same_bits(training.weights, fold_scale(learner.weights, scale))
    assert (training.weights["_Layer_0"]["kernel"] != learner.weights["_Layer_0"]["kernel"]).all()
    assert_same_bits(trained, fold_scale(learner.target if deploy_target else learner.weights, scale))
    np.testing.assert_allclose(training.epsilon, 0.07, rtol=1e-6)


def test_greedy_probability_grows_from_nothing_to_its_limit():
    hyper = QSettings(greedy_growth=0.25, greedy_max=0.6).traced()
    found = [float(greedy_probability(hyper, jnp.int32(s))) for s in (0, 1, 2, 3, 1000)]
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.6, 0.6], rtol=1e-6)


@pytest.mark.parametrize("dqn", [AGENT, FACTORISED], ids=["enumerated", "factorised"])
def test_exploration_keeps_the_greedy_action_with_its_probability(dqn: DQN):
    tasks = 20_000
    space = dqn.actions(SERVERS)
    best: Any = space.greedy(jnp.zeros((space.num_outputs, tasks)))

    def sets(epsilon: float, number: int = 0) -> np.ndarray:
        action = explore(dqn, SERVERS, jnp.float32(epsilon), key(number), best, jnp.float32)
        return np.asarray(space.sets(action, jnp.zeros(SERVERS, bool))) @ [1, 2]

    first, second, both = (sets(0.0) == code for code in (1, 2, 3))
    share = [1 / 3] * 3 if dqn is AGENT else [1 / 4, 1 / 4, 1 / 2]
    assert stats.chisquare([first.sum(), second.sum(), both.sum()], np.multiply(share, tasks)).pvalue > 1e-4
    assert (sets(1.0) == 1).all()  # the first of equals is greedy
    rate = 0.7 + 0.3 * share[0]
    assert stats.binomtest(int((sets(0.7) == 1).sum()), tasks, rate).pvalue > 1e-4
    assert (sets(0.0) != sets(0.0, number=1)).any()


def test_exploration_is_independent_of_the_action_explored():
    """Whether a task explores, and what it then draws, are two draws."""
    tasks = 20_000
    best = jnp.full(tasks, -1, jnp.int32)
    action = np.asarray(explore(AGENT, SERVERS, jnp.float32(0.5), key(), best, jnp.float32))
    counts = np.bincount(action[action >= 0], minlength=SETS)
    assert stats.chisquare(counts).pvalue > 1e-4
    assert stats.binomtest(int((action < 0).sum()), tasks, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("dqn", [AGENT, FACTORISED], ids=["enumerated", "factorised"])
def test_a_task_explores_alike_whatever_positions_follow_its_own(dqn: DQN):
    """Positions that only pad a scenario to the size of another one must not change its draws."""

    def explored(positions: int) -> np.ndarray:
        best: Any = dqn.actions(SERVERS).greedy(jnp.zeros((dqn.actions(SERVERS).num_outputs, positions)))
        return np.asarray(explore(dqn, SERVERS, jnp.float32(0.3), key(), best, jnp.float32))

    np.testing.assert_array_equal(explored(50)[:40], explored(40))


def test_trained_policies_decide_by_each_station_s_own_agent():
    """The sets of `partners` at all stations, by hand from each one's outputs."""
    fleet, positions = 3, 4
    dqn = DQN(partners, (16,), 6)
    random = np.random.default_rng(0)
    backlog = jnp.asarray(random.uniform(0, 9, fleet), jnp.float32)
    size = jnp.asarray(random.uniform(2, 5, (fleet, positions)), jnp.float32)
    present = jnp.asarray(random.random((fleet, positions)) < 0.7)
    learners = [init(dqn, QSettings(init_std=1.0).traced(), fleet, key(b)).weights for b in range(fleet)]
    params: Any = Scenario(num_servers=fleet).params()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *learners)
    view = SlotView(jnp.int32(3), backlog, Task(present, size, size), params, key(), stacked)
    learner = QLearning(actions=partners, settings=QSettings(hidden=dqn.hidden))
    sets = np.asarray(learner.policy().select(view))
    assert sets.shape == (fleet, positions, fleet)
    for b in range(fleet):
        values = values_by_hand(learners[b], size[b], np.repeat(backlog[:, None], positions, axis=1))
        best = values.argmax(axis=0)
        np.testing.assert_array_equal(greedy(dqn, learners[b], size[b], backlog), best)
        for n in np.flatnonzero(present[b]):
            assert set(np.flatnonzero(sets[b, n])) == {b, best[n]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nonsense": 1}, "settings: unknown field 'nonsense'; legal: hidden, batch_size"),
        ({"hidden": (20, 0)}, "hidden: 0; legal: a whole number from 1"),
        ({"hidden": (2.5,)}, "hidden: 2.5"),
        ({"hidden": "wide"}, "hidden: 'wide'"),
        ({"hidden": 5000}, "hidden: 5000"),
        ({"batch_size": 0}, "batch_size: 0; legal: a whole number from 1 to 65536"),
        ({"batch_size": 3.5}, "batch_size: 3.5"),
        ({"batch_size": True}, "batch_size: True"),
        ({"replay_capacity": 0}, "replay_capacity: 0"),
        ({"learning_rate": -1}, "learning_rate: -1; legal: a number from 0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast'"),
        ({"discount": 1.1}, "discount: 1.1; legal: a number from 0 to 1"),
        ({"target_rate": -0.1}, "target_rate: -0.1"),
        ({"greedy_max": 2}, "greedy_max: 2"),
        ({"greedy_growth": None}, "greedy_growth: None"),
        ({"error_limit": 0}, "error_limit: 0"),
        ({"reward": "profit"}, "reward: 'profit'; legal: makespan, regret"),
        ({"reward_scale": 0}, "reward_scale: 0"),
        ({"learn_interval": 0}, "learn_interval: 0"),
        ({"learn_after": -1}, "learn_after: -1; legal: a whole number from 0"),
        ({"learn_repeats": 1001}, "learn_repeats: 1001"),
        ({"target_interval": 0}, "target_interval: 0"),
        ({"double_q": 1}, "double_q: 1; legal: true or false"),
        ({"scale_inputs": "yes"}, "scale_inputs: 'yes'; legal: true or false"),
    ],
)
def test_bad_settings_are_refused_by_name_value_and_range(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        QSettings().replace(**changes)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_settings_take_whole_numbers_and_single_widths():
    settings = QSettings(hidden=8, discount=1, learning_rate=np.float32(0.5))  # pyright: ignore
    assert settings.hidden == (8,)
    assert settings.replace(hidden=[4, 2]).hidden == (4, 2)
    assert isinstance(settings.discount, float)
    assert settings.to_dict()["hidden"] == [8]
    assert QSettings(**settings.to_dict()) == settings
    traced = settings.traced()
    assert {np.asarray(x).dtype.name for x in jax.tree.leaves(traced)} == {"int32", "float32", "bool"}
    assert jax.tree.leaves(settings.static()) == []
    assert hash(settings.static()) == hash(settings.replace(discount=0.5).static())
    assert settings.static() != settings.replace(hidden=9).static()
