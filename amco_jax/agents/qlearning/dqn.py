"""Deep Q-learning of one agent, as pure functions without a batch axis.

The three published methods, and any other Q-learning over sets, differ only in their data: the action space
(`agents/actions.py`), the widths, and the settings (`settings.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from amco_jax.agents import network
from amco_jax.agents.actions import ActionSpace
from amco_jax.agents.network import Network, Weights, fold_scale
from amco_jax.agents.qlearning.replay import Batch
from amco_jax.agents.qlearning.settings import QSettings
from amco_jax.params import Params
from amco_jax.random import Key, uniform

_BIAS = 0.1
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclasses.dataclass(frozen=True)
class DQN:
    """The parameters that determine the shapes of an agent's arrays; static under jit."""

    actions: Callable[[int], ActionSpace]
    """A function from the number of servers to the action space"""
    hidden: tuple[int, ...]
    batch_size: int
    leak: float = 0.0

    def network(self, num_servers: int) -> Network:
        """The Q-network for a fleet of this size."""
        return Network(self.hidden, self.actions(num_servers).num_outputs, self.leak)


class Learnt(NamedTuple):
    """The learnt state of one agent, which is its state without the replay."""

    weights: Weights
    target: Weights
    optimiser: optax.OptState
    steps: Int[Array, ""]
    """The number of learning steps made"""


def init(dqn: DQN, settings: QSettings, num_servers: int, key: Key, dtype: Any = jnp.float32) -> Learnt:
    """A new agent: kernels from N(0, init_std²), biases of 0.1, and a copy as the target network."""
    jax_key = jax.random.wrap_key_data(jnp.stack(key))
    example = jnp.zeros(1, dtype), jnp.zeros(num_servers, dtype)
    unit = dqn.network(num_servers).init(jax_key, *example)["params"]
    scales = {"kernel": settings.init_std, "bias": jnp.float32(_BIAS)}
    weights = {
        layer: {name: (value * scales[name]).astype(dtype) for name, value in values.items()}
        for layer, values in unit.items()
    }
    return Learnt(weights, weights, optax.scale_by_adam().init(weights), jnp.int32(0))


def _adam(
    gradient: Weights, moments: optax.OptState, steps: Int[Array, ""], ready: Bool[Array, ""]
) -> tuple[Weights, optax.OptState]:
    """Adam as in the framework of the published code, which adds ε to the root of the uncorrected moment.

    Args:
      gradient: a pytree like the weights.
      moments: the state of `optax.scale_by_adam`.
      steps: the number of learning steps made before.
      ready: whether to make this one.

    Returns:
      The direction, which is meaningless unless `ready`, and the moments, which are then unchanged.
    """
    assert isinstance(moments, optax.ScaleByAdamState)
    # A rate of decay of 1 keeps the moments. To choose between old and new ones instead would write and read
    # all of them once more.
    beta1, beta2 = (jnp.where(ready, beta, 1) for beta in (_BETA1, _BETA2))
    epsilon = _EPSILON / jnp.sqrt(1 - _BETA2 ** (steps + 1))
    direction, new = optax.scale_by_adam(beta1, beta2, epsilon).update(gradient, moments)  # pyright: ignore[reportArgumentType]
    assert isinstance(new, optax.ScaleByAdamState)
    return direction, new._replace(count=jnp.where(ready, new.count, moments.count))


def input_scale(settings: QSettings, params: Params) -> Float[Array, " inputs"]:
    """Factors that scale [d, Q_0..Q_{B-1}]; all 1, as published, unless `scale_inputs` is set."""
    return jnp.where(settings.scale_inputs, network.input_scale(params), 1)


class Acting(NamedTuple):
    """The weights and the ε with which an agent acts between two learning steps."""

    weights: Weights
    """Weights for unscaled observations"""
    epsilon: Float[Array, ""]
    """Probability of the greedy action"""


def acting(settings: QSettings, params: Params, learnt: Learnt) -> Acting:
    """The weights and the ε to act with, given the learnt state."""
    epsilon = greedy_probability(settings, learnt.steps)
    return Acting(fold_scale(learnt.weights, input_scale(settings, params)), epsilon)


def deployed(settings: QSettings, params: Params, learnt: Learnt) -> Weights:
    """The weights of a trained agent, for unscaled observations."""
    weights = jax.tree.map(
        lambda w, target: jnp.where(settings.deploy_target, target, w), learnt.weights, learnt.target
    )
    return fold_scale(weights, input_scale(settings, params))


def greedy_probability(settings: QSettings, steps: Int[Array, "*agents"]) -> Float[Array, "*agents"]:
    """ε, the probability of the greedy action, after a number of learning steps."""
    return jnp.minimum(steps * settings.greedy_growth, settings.greedy_max)


def q_values(dqn: DQN, weights: Weights, size: Float[Array, " tasks"], backlog: Array) -> Any:
    """Network outputs, `[num_outputs, tasks]`; the backlog is `[num_servers]` or `[num_servers, tasks]`."""
    return dqn.network(backlog.shape[0]).apply({"params": weights}, size, backlog)


def greedy(dqn: DQN, weights: Weights, size: Float[Array, " tasks"], backlog: Array) -> Any:
    """The greedy actions, those of largest Q-value, for the tasks of one slot.

    Args:
      weights: weights for unscaled observations, see `Acting`.
      size: `[tasks]`, Mbit.
      backlog: `[num_servers]`, Gcycles.
    """
    num_tasks = size.shape[0]
    values = network.outputs_of_slot(dqn.network(backlog.shape[0]), weights, size, backlog)
    action = dqn.actions(backlog.shape[0]).greedy(values)
    return jax.tree.map(lambda a: a[:num_tasks], action)


def explore(dqn: DQN, num_servers: int, epsilon: Float[Array, ""], key: Key, action: Any, dtype: Any) -> Any:
    """Keep the greedy action of each task with probability ε, or else replace it by a random one."""
    space = dqn.actions(num_servers)
    num_tasks = jax.tree.leaves(action)[0].shape[0]
    # The numbers of a task's draws depend only on its position, so padding after it does not change them.
    draws = jnp.arange(num_tasks) * (space.num_draws + 1) + jnp.arange(space.num_draws + 1)[:, None]
    uniforms = uniform(key, draws, dtype)
    other = space.draw(uniforms[1:])

    def either(a: Array, b: Array) -> Array:
        keep = (uniforms[0] < epsilon).reshape(-1, *[1] * (a.ndim - 1))
        return jnp.where(keep, a, b)

    return jax.tree.map(either, action, other)


def learn(
    dqn: DQN, settings: QSettings, scale: Array, learnt: Learnt, batch: Batch, ready: Bool[Array, ""]
) -> tuple[Learnt, Float[Array, ""]]:
    """One learning step: Adam on mean((target - Q)²) over the batch and all outputs.

    The target equals Q except at the action taken, where it is r + γ · max_a' Q_target(s', a'). With double
    Q-learning, the network selects a', and the target network gives its value. No state is terminal. If an
    update of the target network is due, it comes first.

    Args:
      scale: the result of `input_scale`.
      ready: whether to learn at all; otherwise the learnt state is returned unchanged.

    Returns:
      The learnt state and the loss, which is 0 without a learning step.

    Source: published code; double Q-learning: van Hasselt, Guez and Silver (2016).
    """
    space = dqn.actions(batch.backlog.shape[0])
    # Whatever a meaningless batch contains, its gradient is a number, which then has the weight 0.
    batch = jax.tree.map(lambda entry: jnp.where(ready, entry, jnp.zeros_like(entry)), batch)

    def values(weights: Weights, size: Array, backlog: Array) -> Array:
        return q_values(dqn, fold_scale(weights, scale), size, backlog)

    due = learnt.steps % settings.target_interval == 0
    rate = jnp.where(due & ready, settings.target_rate, 0)
    target = jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, learnt.target, learnt.weights)

    def next_value() -> Array:
        rated = values(target, batch.next_size, batch.next_backlog)
        own = lambda: values(learnt.weights, batch.next_size, batch.next_backlog)  # noqa: E731
        return space.value(rated, space.greedy(lax.cond(settings.double_q, own, lambda: rated)))

    # Conditionals skip the networks whose values are not needed.
    future = lax.cond(settings.discount > 0, next_value, lambda: jnp.zeros_like(batch.reward))
    goal = settings.reward_scale * (batch.reward + settings.reward_offset) + settings.discount * future

    def loss_of(weights: Weights) -> Array:
        taken = space.value(values(weights, batch.size, batch.backlog), batch.action)
        error = goal - taken
        bounded = jnp.clip(error, -settings.error_limit, settings.error_limit)
        # The Huber loss, in a form whose gradient does not suffer from cancellation if the limit is large.
        return jnp.sum(bounded * (2 * error - bounded)) / (goal.shape[0] * space.num_outputs)

    loss, gradient = jax.value_and_grad(loss_of)(learnt.weights)
    direction, optimiser = _adam(gradient, learnt.optimiser, learnt.steps, ready)
    step_size = settings.learning_rate / (1 + settings.learning_rate_decay * learnt.steps)
    weights = jax.tree.map(lambda w, d: w - jnp.where(ready, step_size * d, 0), learnt.weights, direction)
    return Learnt(weights, target, optimiser, learnt.steps + ready), jnp.where(ready, loss, 0)
