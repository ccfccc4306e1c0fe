"""Deep Q-learning of one agent, the one at a base station: pure functions, unbatched.

The three published methods, and any other set-choosing Q-learner, are this code with different data: an
action space (`agents/actions.py`), widths, and settings (`settings.py`).
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
    """What fixes the shapes of an agent: static under jit."""

    actions: Callable[[int], ActionSpace]
    """The action space for a number of servers"""
    hidden: tuple[int, ...]
    batch_size: int
    leak: float = 0.0

    def network(self, num_servers: int) -> Network:
        """The Q-network of a fleet."""
        return Network(self.hidden, self.actions(num_servers).num_outputs, self.leak)


class Learnt(NamedTuple):
    """What one agent has learnt: its state, but for its replay."""

    weights: Weights
    target: Weights
    optimiser: optax.OptState
    steps: Int[Array, ""]
    """Learning steps done"""


def init(dqn: DQN, hyper: QSettings, num_servers: int, key: Key, dtype: Any = jnp.float32) -> Learnt:
    """Kernels ~ N(0, init_std²), biases 0.1; the target network starts as a copy."""
    jax_key = jax.random.wrap_key_data(jnp.stack(key))
    example = jnp.zeros(1, dtype), jnp.zeros(num_servers, dtype)
    unit = dqn.network(num_servers).init(jax_key, *example)["params"]
    scales = {"kernel": hyper.init_std, "bias": jnp.float32(_BIAS)}
    weights = {
        layer: {name: (value * scales[name]).astype(dtype) for name, value in values.items()}
        for layer, values in unit.items()
    }
    return Learnt(weights, weights, _adam(jnp.int32(0)).init(weights), jnp.int32(0))


def _adam(steps: Int[Array, ""]) -> optax.GradientTransformation:
    """Adam as the published code's framework has it: ε beside the root of the uncorrected moment."""
    return optax.scale_by_adam(_BETA1, _BETA2, eps=_EPSILON / jnp.sqrt(1 - _BETA2 ** (steps + 1)))  # pyright: ignore[reportArgumentType]


def input_scale(hyper: QSettings, params: Params) -> Float[Array, " inputs"]:
    """Factors of the observation [d, Q_0..Q_{B-1}]: 1 as published, or those of `scale_inputs`."""
    return jnp.where(hyper.scale_inputs, network.input_scale(params), 1)


class Acting(NamedTuple):
    """What decides the tasks between two learning steps."""

    weights: Weights
    """The inputs are observations as they are, not scaled"""
    epsilon: Float[Array, ""]
    """Probability of the greedy action"""


def acting(hyper: QSettings, params: Params, learner: Learnt) -> Acting:
    """The acting side of a learner."""
    weights = jax.tree.map(
        lambda w, target: jnp.where(hyper.act_with_target, target, w), learner.weights, learner.target
    )
    epsilon = greedy_probability(hyper, learner.steps)
    return Acting(fold_scale(weights, input_scale(hyper, params)), epsilon)


def greedy_probability(hyper: QSettings, steps: Int[Array, "*agents"]) -> Float[Array, "*agents"]:
    """ε after a number of learning steps."""
    return jnp.minimum(steps * hyper.greedy_growth, hyper.greedy_max)


def q_values(dqn: DQN, weights: Weights, size: Float[Array, " tasks"], backlog: Array) -> Any:
    """`[num_outputs, tasks]`; the backlog is `[num_servers]` or `[num_servers, tasks]`."""
    return dqn.network(backlog.shape[0]).apply({"params": weights}, size, backlog)


def greedy(dqn: DQN, weights: Weights, size: Float[Array, " tasks"], backlog: Array) -> Any:
    """The actions of largest Q-value for the tasks of one slot.

    Args:
      weights: for observations as they are, see `Acting`.
      size: `[tasks]`, Mbit.
      backlog: `[num_servers]`, Gcycles.
    """
    num_tasks = size.shape[0]
    values = network.of_slot(dqn.network(backlog.shape[0]), weights, size, backlog)
    action = dqn.actions(backlog.shape[0]).greedy(values)
    return jax.tree.map(lambda a: a[:num_tasks], action)


def explore(dqn: DQN, num_servers: int, epsilon: Float[Array, ""], key: Key, action: Any, dtype: Any) -> Any:
    """Each task's greedy action with probability ε, else one drawn at random."""
    space = dqn.actions(num_servers)
    num_tasks = jax.tree.leaves(action)[0].shape[0]
    # A task's draws are numbered from its position, so that padding behind it changes none of them.
    draws = jnp.arange(num_tasks) * (space.num_draws + 1) + jnp.arange(space.num_draws + 1)[:, None]
    uniforms = uniform(key, draws, dtype)
    other = space.draw(uniforms[1:])

    def either(a: Array, b: Array) -> Array:
        keep = (uniforms[0] < epsilon).reshape(-1, *[1] * (a.ndim - 1))
        return jnp.where(keep, a, b)

    return jax.tree.map(either, action, other)


def learn(
    dqn: DQN, hyper: QSettings, scale: Array, learner: Learnt, batch: Batch, ready: Bool[Array, ""]
) -> tuple[Learnt, Float[Array, ""]]:
    """One learning step: Adam on mean((target - Q)²) over the batch and all outputs.

    The target equals Q except at the action taken, where it is r + γ · max_a' Q_target(s', a'), or, with
    double Q-learning, γ times the target network's value of the network's own next action. No state is
    terminal. The target network is updated first, where its turn is.

    Args:
      scale: from `input_scale`.
      ready: whether to learn at all; where not, the learner comes back as it was.

    Returns:
      The learner and the loss.

    Source: published code; double Q-learning: van Hasselt, Guez and Silver (2016).
    """
    space = dqn.actions(batch.backlog.shape[0])

    def values(weights: Weights, size: Array, backlog: Array) -> Array:
        return q_values(dqn, fold_scale(weights, scale), size, backlog)

    due = learner.steps % hyper.target_interval == 0
    rate = jnp.where(due, hyper.target_rate, 0)
    target = jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, learner.target, learner.weights)

    def next_value() -> Array:
        rated = values(target, batch.next_size, batch.next_backlog)
        own = lambda: values(learner.weights, batch.next_size, batch.next_backlog)  # noqa: E731
        return space.value(rated, space.greedy(lax.cond(hyper.double_q, own, lambda: rated)))

    # Conditionals, so that networks whose value would not count are not computed.
    future = lax.cond(hyper.discount > 0, next_value, lambda: jnp.zeros_like(batch.reward))
    goal = hyper.reward_scale * (batch.reward + hyper.reward_offset) + hyper.discount * future

    def loss_of(weights: Weights) -> Array:
        taken = space.value(values(weights, batch.size, batch.backlog), batch.action)
        error = goal - taken
        bounded = jnp.clip(error, -hyper.error_limit, hyper.error_limit)
        # Huber's loss in a form whose gradient does not cancel where the limit is far away.
        return jnp.sum(bounded * (2 * error - bounded)) / (goal.shape[0] * space.num_outputs)

    loss, gradient = jax.value_and_grad(loss_of)(learner.weights)
    direction, optimiser = _adam(learner.steps).update(gradient, learner.optimiser)
    step_size = hyper.learning_rate / (1 + hyper.learning_rate_decay * learner.steps)
    weights = jax.tree.map(lambda w, d: w - step_size * d, learner.weights, direction)
    learned = Learnt(weights, target, optimiser, learner.steps + 1)
    kept = jax.tree.map(lambda new, old: jnp.where(ready, new, old), learned, learner)
    return kept, jnp.where(ready, loss, 0)
