"""Proximal policy optimisation over sets: one independent coin per server, given that the set is not empty.

For logits l of a task, a non-empty set S has probability exp(Σ_{i∈S} l_i - A), where A is the logarithm of
Π_i (1 + exp l_i) - 1. This is the distribution of independent Bernoulli variables, given that at least one of
them is 1. Sampling is exact, and the log-probability and the entropy have closed forms.

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017); "High-Dimensional Continuous
Control Using Generalized Advantage Estimation" (2016), with slots for time steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from amco_jax.agents.learner import Context, Experience, Learner, Observation
from amco_jax.agents.network import Network, Weights, fold_scale, input_scale, outputs_of_slot
from amco_jax.agents.settings import Settings, setting
from amco_jax.params import Params, Shape
from amco_jax.random import Key, fold_in, uniform
from amco_jax.scenario import Scenario

_MAX_LOGIT = 30.0
_FIRST_LOGITS = 0.01
"""Factor on the last layer of a new policy network, so that all sets are about equally probable at first"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOSettings(Settings):
    """The settings of PPO over sets; docs/methods.md describes how the defaults were found.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.
    """

    hidden: tuple[int, ...] = setting((20, 20, 20), 1, 4096, static=True)
    """Widths of the hidden layers of both the policy and the value network"""
    leak: float = setting(0.3, 0, 1, static=True)
    """Slope of the hidden units for negative inputs"""
    rollout_slots: int = setting(60, 1, 10**6, static=True)
    """Slots between learning steps; each step uses the tasks of all of them, which are then discarded"""
    batch_size: int = setting(256, 1, 65536, static=True)
    """Tasks per minibatch, drawn from the rollout with replacement"""
    updates: int = setting(10, 1, 10**5)
    """Minibatches per learning step; each gives one update of the networks"""
    learning_rate: float = setting(3e-3, 0, 1e3)
    learning_rate_decay: float = setting(0.0, 0, 1e3)
    """c in learning_rate / (1 + c · updates)"""
    discount: float = setting(0.0, 0, 1)
    """γ, per slot"""
    gae_lambda: float = setting(0.95, 0, 1)
    """λ of generalised advantage estimation"""
    clip: float = setting(0.2, 0, 1e3)
    """Relative change of a set's probability beyond which an update brings no further gain"""
    entropy_bonus: float = setting(0.01, 0, 1e3)
    value_weight: float = setting(0.5, 0, 1e3)
    """Weight of the value network's squared error"""
    reward_scale: float = setting(5.0, 1e-9)
    """Factor by which rewards are multiplied for learning"""
    max_gradient_norm: float = setting(0.5, 1e-9)
    """Limit on the global norm of a gradient, which is scaled down if it is longer"""


class Rollout(NamedTuple):
    """The slots since the last learning step, one per row."""

    size: Float[Array, "rows max_tasks"]
    """d, Mbit, 0 at empty positions"""
    backlog: Float[Array, "rows num_servers"]
    """Gcycles"""
    selected: Bool[Array, "rows max_tasks num_servers"]
    reward: Float[Array, "rows max_tasks"]
    next_size: Float[Array, " rows"]
    next_backlog: Float[Array, "rows num_servers"]
    last: Bool[Array, " rows"]
    """Whether the slot was the last of its episode"""


class Learnt(NamedTuple):
    """The learnt state of one agent."""

    policy: Weights
    value: Weights
    optimiser: optax.OptState
    updates: Int[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPO(Learner):
    """PPO with a factorised policy over all non-empty sets, which supports fleets of any size."""

    settings: PPOSettings = dataclasses.field(default_factory=PPOSettings)

    step_logs: ClassVar[tuple[str, ...]] = ("value_loss", "entropy", "clip_fraction")

    def check_training(self, scenario: Scenario, episodes: int, name: str) -> list[str]:
        slots, rollout = episodes * scenario.num_slots, self.settings.rollout_slots
        if slots >= rollout:
            return []
        return [
            f"{name} makes no learning step: its training has {slots} slots, and rollout_slots is {rollout}."
        ]

    def memory_rows(self, scenario: Scenario, episodes: int) -> int:
        """The number of slots of a rollout."""
        return self.settings.rollout_slots

    def warm_up(self, num_slots: int) -> int:
        return -(-self.settings.rollout_slots // num_slots)

    def init(self, settings: PPOSettings, shape: Shape, rows: int, key: Key) -> tuple[Learnt, Rollout]:
        """Kernels from N(0, 1/inputs), with the policy's output kernel scaled by 1/100; biases are 0."""
        n, m = shape.num_servers, shape.max_tasks
        keys = jax.random.split(jax.random.wrap_key_data(jnp.stack(key)))
        example = jnp.zeros(1, jnp.float32), jnp.zeros(n, jnp.float32)
        policy = _scaled(self._policy(n).init(keys[0], *example)["params"])
        value = _scaled(self._value().init(keys[1], *example)["params"])
        policy[_last(policy)]["kernel"] *= _FIRST_LOGITS
        learnt = Learnt(policy, value, _adam(settings).init((policy, value)), jnp.int32(0))
        row = Rollout(
            jnp.zeros(m), jnp.zeros(n), jnp.zeros((m, n), bool), jnp.zeros(m), jnp.zeros(()), jnp.zeros(n),
            jnp.zeros((), bool),
        )  # fmt: skip
        return learnt, jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), row)

    def acting(self, settings: PPOSettings, params: Params, learnt: Learnt) -> Weights:
        """The weights of the policy network for unscaled observations."""
        return fold_scale(learnt.policy, input_scale(params))

    def act(self, context: Context, acting: Weights, seen: Observation, key: Key) -> Array:
        """Sets drawn from the policy, `[max_tasks, num_servers]` booleans."""
        num_tasks, num_servers = seen.size.shape[0], context.num_servers
        # The numbers of a task's draws depend only on its position, so padding after it does not change them.
        draws = jnp.arange(num_tasks) * num_servers + jnp.arange(num_servers)[:, None]
        return draw(self._logits_of_slot(acting, seen), uniform(key, draws, seen.size.dtype)).T

    def sets(self, action: Array, seen: Observation) -> Array:
        return action

    def observe(self, context: Context, memory: Rollout, experience: Experience) -> Rollout:
        seen = experience.seen
        row = Rollout(
            seen.size, seen.backlog, experience.action, experience.reward, experience.next_size,
            experience.next_backlog, context.t == context.num_slots - 1,
        )  # fmt: skip
        here = (context.slots_done - 1) % self.settings.rollout_slots
        return jax.tree.map(lambda kept, new: kept.at[here].set(new), memory, row)

    def rounds(self, context: Context) -> Array:
        return jnp.where(context.slots_done % self.settings.rollout_slots == 0, 1, 0)

    def learn(
        self, context: Context, learnt: Learnt, memory: Rollout, key: Key
    ) -> tuple[Learnt, dict[str, Array], Array]:
        """Make `updates` Adam steps on PPO's clipped loss, each on a minibatch of the rollout's tasks."""
        settings, scale = context.settings, input_scale(context.params)
        rows, num_positions = memory.size.shape
        memory = memory._replace(
            size=memory.size * scale[0], backlog=memory.backlog * scale[1:],
            next_size=memory.next_size * scale[0], next_backlog=memory.next_backlog * scale[1:],
        )  # fmt: skip
        size, selected = memory.size.ravel(), memory.selected.reshape(-1, context.num_servers).T
        backlog = jnp.repeat(memory.backlog.T, num_positions, axis=1)
        before = log_probability(self._logits(learnt.policy, size, backlog), selected)
        values = self._values(learnt.value, size, backlog).reshape(memory.size.shape)
        coming = self._values(learnt.value, memory.next_size, memory.next_backlog.T)

        present = memory.size > 0
        advantage = advantages(
            settings.reward_scale * memory.reward, values, coming, present, memory.last,
            settings.discount, settings.gae_lambda,
        )  # fmt: skip
        goal, advantage = (advantage + values).ravel(), _normalised(advantage, present).ravel()
        count = jnp.sum(present, dtype=jnp.int32)
        tasks = jnp.flatnonzero(present, size=rows * num_positions, fill_value=0)

        def loss_of(networks: tuple[Weights, Weights], drawn: Array) -> tuple[Array, dict[str, Array]]:
            policy, baseline = networks
            logits = self._logits(policy, size[drawn], backlog[:, drawn])
            value = self._values(baseline, size[drawn], backlog[:, drawn])
            ratio = jnp.exp(log_probability(logits, selected[:, drawn]) - before[drawn])
            bounded = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip)
            gain = jnp.mean(jnp.minimum(ratio * advantage[drawn], bounded * advantage[drawn]))
            spread = jnp.mean(entropy(logits))
            error = jnp.mean((value - goal[drawn]) ** 2)
            logs = error, spread, jnp.mean((ratio != bounded).astype(error.dtype))
            loss = settings.value_weight * error - gain - settings.entropy_bonus * spread
            return loss, dict(zip(self.step_logs, logs, strict=True))

        def update(i: Array, carry: tuple[Learnt, dict[str, Array]]) -> tuple[Learnt, dict[str, Array]]:
            learnt, logs = carry
            uniforms = uniform(fold_in(key, i), jnp.arange(self.settings.batch_size), size.dtype)
            drawn = tasks[jnp.minimum((uniforms * count).astype(jnp.int32), count - 1)]
            networks = learnt.policy, learnt.value
            gradient, told = jax.grad(loss_of, has_aux=True)(networks, drawn)
            direction, optimiser = _adam(settings).update(gradient, learnt.optimiser)
            step = settings.learning_rate / (1 + settings.learning_rate_decay * learnt.updates)
            moved = jax.tree.map(lambda w, d: w - step * d, networks, direction)
            logs = jax.tree.map(lambda total, new: total + new / settings.updates, logs, told)
            return Learnt(moved[0], moved[1], optimiser, learnt.updates + 1), logs

        nothing = dict.fromkeys(self.step_logs, jnp.zeros((), size.dtype))
        updated, made = lax.fori_loop(0, settings.updates, update, (learnt, nothing)), count > 0
        learnt, logs = jax.tree.map(lambda new, old: jnp.where(made, new, old), updated, (learnt, nothing))
        return learnt, logs, made

    def deployed(self, settings: PPOSettings, params: Params, learnt: Learnt) -> Weights:
        return self.acting(settings, params, learnt)

    def decide(self, agent: Weights, seen: Observation) -> Array:
        """The most probable set of each task."""
        return most_probable(self._logits_of_slot(agent, seen)).T

    def _policy(self, num_servers: int) -> Network:
        return Network(self.settings.hidden, num_servers, self.settings.leak)

    def _value(self) -> Network:
        return Network(self.settings.hidden, 1, self.settings.leak)

    def _logits(self, weights: Weights, size: Array, backlog: Array) -> Array:
        outputs: Any = self._policy(backlog.shape[0]).apply({"params": weights}, size, backlog)
        return _bounded(outputs)

    def _logits_of_slot(self, weights: Weights, seen: Observation) -> Array:
        outputs = outputs_of_slot(self._policy(seen.backlog.shape[0]), weights, seen.size, seen.backlog)
        return _bounded(outputs[:, : seen.size.shape[0]])

    def _values(self, weights: Weights, size: Array, backlog: Array) -> Array:
        outputs: Any = self._value().apply({"params": weights}, size, backlog)
        return outputs[0]


def _bounded(logits: Array) -> Array:
    return jnp.clip(logits, -_MAX_LOGIT, _MAX_LOGIT)


def log_probability(
    logits: Float[Array, "num_servers tasks"], selected: Bool[Array, "num_servers tasks"]
) -> Float[Array, " tasks"]:
    """log P(S) = Σ_{i∈S} l_i - A, for non-empty sets."""
    return jnp.sum(jnp.where(selected, logits, 0), axis=0) - _log_partition(logits)


def _log_partition(logits: Float[Array, "num_servers tasks"]) -> Float[Array, " tasks"]:
    """A = log(Π_i (1 + exp l_i) - 1)."""
    whole = jnp.sum(jax.nn.softplus(logits), axis=0)
    return whole + jnp.log(-jnp.expm1(-whole))


def entropy(logits: Float[Array, "num_servers tasks"]) -> Float[Array, " tasks"]:
    """-Σ_S P(S) log P(S) = A - Σ_i l_i P(i ∈ S), over all non-empty sets."""
    share = jax.nn.sigmoid(logits) / -jnp.expm1(-jnp.sum(jax.nn.softplus(logits), axis=0))
    return _log_partition(logits) - jnp.sum(logits * share, axis=0)


def draw(
    logits: Float[Array, "num_servers tasks"], uniforms: Float[Array, "num_servers tasks"]
) -> Bool[Array, "num_servers tasks"]:
    """Draw sets from the policy, server by server, each conditioned on the set not ending up empty."""
    plain = jax.nn.sigmoid(logits)
    # -log P(no server from i on); while the set is empty, server i is drawn given that one from i on joins.
    none_left = jnp.cumsum(jax.nn.softplus(logits)[::-1], axis=0)[::-1]
    pressed = plain / -jnp.expm1(-none_left)
    some, chosen = jnp.zeros(logits.shape[1:], bool), []
    for i in range(logits.shape[0]):
        hit = uniforms[i] < jnp.where(some, plain[i], pressed[i])
        hit = hit | ~some if i + 1 == logits.shape[0] else hit  # certain, apart from rounding
        chosen.append(hit)
        some = some | hit
    return jnp.stack(chosen)


def most_probable(logits: Float[Array, "num_servers tasks"]) -> Bool[Array, "num_servers tasks"]:
    """The most probable set: all servers with positive logits, or else the first with the largest logit."""
    best = jnp.arange(logits.shape[0])[:, None] == jnp.argmax(logits, axis=0)
    return (logits > 0) | best


def advantages(
    reward: Float[Array, "rows max_tasks"],
    value: Float[Array, "rows max_tasks"],
    coming: Float[Array, " rows"],
    present: Bool[Array, "rows max_tasks"],
    last: Bool[Array, " rows"],
    discount: Float[Array, ""],
    gae_lambda: Float[Array, ""],
) -> Float[Array, "rows max_tasks"]:
    """Generalised advantage estimates of the tasks of a rollout, with slots as time steps.

    The advantage of a task is r - V + γ·V' + γλ·A', where V' and A' are the means of V and A over the agent's
    tasks in the next slot. A slot without tasks passes both on: its V is γ·V' and its A is γλ·A'. After the
    last slot of an episode or of the rollout, V' is the value of the first observation that followed, and
    A' is 0. No state is terminal.

    Args:
      coming: V of the first observation after each slot.
      last: whether the slot was the last of its episode.

    Returns:
      `[rows, max_tasks]`, meaningless at empty positions.
    """
    own = reward - value
    count = _row_sums(present.astype(value.dtype))
    mean_own, mean_value = (_row_sums(jnp.where(present, x, 0)) / jnp.maximum(count, 1) for x in (own, value))
    ends = last.at[-1].set(True)

    def backwards(later: tuple[Array, Array], row: Any) -> tuple[tuple[Array, Array], Array]:
        own, value, count, coming, ends = row
        next_value = discount * jnp.where(ends, coming, later[0])
        next_advantage = discount * gae_lambda * jnp.where(ends, 0, later[1])
        busy = count > 0
        here = (
            jnp.where(busy, value, next_value),
            jnp.where(busy, own + next_value, 0) + next_advantage,
        )
        return here, next_value + next_advantage

    none = jnp.zeros((), value.dtype)
    rows = mean_own, mean_value, count, coming, ends
    _, added = lax.scan(backwards, (none, none), rows, reverse=True)
    return own + added[:, None]


def _row_sums(x: Float[Array, "rows positions"]) -> Float[Array, " rows"]:
    """Sums over positions in sequence, so that empty positions at the end do not change a bit."""
    return lax.scan(lambda total, column: (total + column, None), jnp.zeros(x.shape[0], x.dtype), x.T)[0]


def _normalised(x: Float[Array, "rows positions"], present: Bool[Array, "rows positions"]) -> Array:
    """`x`, shifted and scaled to mean 0 and variance 1 over the tasks present."""
    count = jnp.maximum(jnp.sum(present, dtype=jnp.int32), 1).astype(x.dtype)
    centred = x - jnp.sum(_row_sums(jnp.where(present, x, 0))) / count
    variance = jnp.sum(_row_sums(jnp.where(present, centred**2, 0))) / count
    return centred / jnp.sqrt(variance + 1e-8)


def _adam(settings: PPOSettings) -> optax.GradientTransformation:
    clipped = optax.clip_by_global_norm(settings.max_gradient_norm)
    return optax.chain(clipped, optax.scale_by_adam(eps=1e-5))


def _scaled(weights: Any) -> dict[str, dict[str, Array]]:
    return {
        name: {
            "kernel": layer["kernel"] / jnp.sqrt(jnp.float32(layer["kernel"].shape[1])),
            "bias": jnp.zeros_like(layer["bias"]),
        }
        for name, layer in weights.items()
    }


def _last(weights: Weights) -> str:
    return f"_Layer_{len(weights) - 1}"
