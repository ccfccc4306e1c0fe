"""Learning steps of the published code, repeated from its weights on its replay and its draws."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.paths import TESTS

from amco_jax.agents.methods import METHODS
from amco_jax.agents.qlearning import QLearning, QSettings
from amco_jax.agents.qlearning.dqn import DQN, Learnt, greedy_probability, learn, q_values
from amco_jax.agents.qlearning.replay import Batch

FILES = {
    file.stem: file
    for home in (TESTS.parents[1] / "shared" / "golden", TESTS / "golden")
    for file in sorted(home.glob("learn_*.npz"))
}
OWN_BAR = 5e-6
"""Largest difference of a weight; 5e-4 is asked for, and float32 rounding makes 2e-6."""


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FILES[name]) as file:
        return dict(file)


def published(name: str) -> QLearning:
    learner = METHODS[str(recorded(name)["method"])].require_training()
    assert isinstance(learner, QLearning)
    return learner


def weights(name: str, stage: str) -> Any:
    """The recorded layers in the order of the network, under our names and with our kernels."""
    golden = recorded(name)
    kernels = [key for key in golden if key.startswith(f"{stage}/") and "_w" in key]
    return {
        f"_Layer_{i}": {
            "kernel": jnp.asarray(golden[key].T),
            "bias": jnp.asarray(golden[key.replace("_w", "_b")][0]),
        }
        for i, key in enumerate(kernels)
    }


def batch(golden: dict[str, np.ndarray], rows: np.ndarray) -> Batch:
    inputs = 1 + golden["action_sets"].shape[1]
    drawn = golden["replay"][rows].astype(np.float32)
    now, reward, then = drawn[:, :inputs], drawn[:, -inputs - 1], drawn[:, -inputs:]
    action = golden["replay_action_index"][rows].astype(np.int32)
    return Batch(*map(jnp.asarray, (now[:, 0], now[:, 1:].T, action, reward, then[:, 0], then[:, 1:].T)))


@functools.cache
def relearnt(name: str) -> tuple[DQN, Learnt, np.ndarray]:
    """The agent after all recorded steps, and the loss of each."""
    golden, training = recorded(name), published(name)
    dqn, hyper = training.dqn, training.settings.traced()
    before = weights(name, "before")
    # Step 0 copies the network to the target network, so that it does not matter what stands there.
    nothing = jax.tree.map(jnp.zeros_like, before)
    learner = Learnt(before, nothing, optax.scale_by_adam().init(before), jnp.int32(0))
    scale = jnp.ones(1 + golden["action_sets"].shape[1])
    step = jax.jit(lambda learner, rows: learn(dqn, hyper, scale, learner, rows, jnp.asarray(True)))
    losses = []
    for rows in golden["sample_index"]:
        learner, loss = step(learner, batch(golden, rows))
        losses.append(loss)
    return dqn, learner, np.asarray(losses)


every_recording = pytest.mark.parametrize("name", FILES)


def test_all_trained_methods_of_the_paper_are_recorded():
    assert {str(recorded(name)["method"]) for name in FILES} == {"amcoedge", "smcoedge", "drlcoedge"}


@every_recording
def test_published_settings_are_those_of_the_recording(name: str):
    golden, settings = recorded(name), published(name).settings
    hidden = tuple(len(layer["bias"]) for layer in weights(name, "before").values())[:-1]
    assert settings == QSettings(
        hidden=hidden,
        batch_size=golden["sample_index"].shape[1],
        replay_capacity=len(golden["replay"]),
        init_std=settings.init_std,
        learning_rate=float(golden["learning_rate"]),
        discount=float(golden["discount"]),
        target_interval=int(golden["replace_target_every"]),
    )


@every_recording
def test_action_sets_stand_in_the_recorded_order(name: str):
    golden = recorded(name)
    space: Any = published(name).actions(golden["action_sets"].shape[1])
    np.testing.assert_array_equal(space.table(), golden["action_sets"])


@every_recording
def test_losses_are_the_recorded_ones(name: str):
    _, _, losses = relearnt(name)
    np.testing.assert_allclose(losses, recorded(name)["loss"], rtol=1e-4)


@every_recording
def test_weights_end_where_the_recorded_ones_do(name: str):
    _, learner, _ = relearnt(name)
    for layer, wanted in weights(name, "after").items():
        for part in ("kernel", "bias"):
            difference = np.abs(learner.weights[layer][part] - wanted[part]).max()
            assert difference <= OWN_BAR, f"{layer} {part}"
            moved = np.abs(wanted[part] - weights(name, "before")[layer][part]).max()
            assert moved > 100 * OWN_BAR  # or the recording would show nothing


@every_recording
def test_values_of_unseen_states_are_the_recorded_ones(name: str):
    golden = recorded(name)
    dqn, learner, _ = relearnt(name)
    size, *backlog = jnp.asarray(golden["probe_state"].T)
    found = q_values(dqn, learner.weights, size, jnp.stack(backlog)).T
    wanted = golden["probe_q_after"]
    # A value near zero is a difference of large terms, each rounded to float32.
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


@every_recording
def test_exploration_ends_where_the_recorded_one_does(name: str):
    golden = recorded(name)
    _, learner, _ = relearnt(name)
    hyper = published(name).settings.traced()
    assert int(learner.steps) == len(golden["loss"])
    np.testing.assert_allclose(greedy_probability(hyper, learner.steps), golden["epsilon_after"], rtol=1e-6)
