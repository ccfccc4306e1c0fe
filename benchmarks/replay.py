"""Measure the cost of storing one slot and sampling a batch, for the package's replay and flashbax."""

from __future__ import annotations

import time
from typing import Any

import flashbax  # pyright: ignore[reportMissingImports]  # not among the package's dependencies
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.agents.learner import Experience, Observation
from amco_jax.agents.qlearning.replay import empty_replay, rows_for, sample, store
from amco_jax.scenario import Scenario

SEEDS, SLOTS, REPEATS = 8, 40, 3
CAPACITY, BATCH = 8000, 32
SCENARIO = Scenario()
AGENTS, TASKS = SCENARIO.num_servers, SCENARIO.num_tasks
BACKLOG = jnp.ones(AGENTS)


def total(tree: Any) -> jax.Array:
    """A number that depends on all leaves, so that nothing is optimised away."""
    return sum((jnp.sum(leaf) for leaf in jax.tree.leaves(tree)), jnp.float32(0))


def ours(replay: Any, t: jax.Array, size: jax.Array, key: jax.Array) -> Any:
    """One slot of one agent through `agents/qlearning/replay.py`."""
    seen = Observation(size, BACKLOG, jnp.zeros(AGENTS, bool))
    experience = Experience(seen, size, -size, jnp.float32(0), BACKLOG)
    replay = store(replay, experience, jnp.bool_(True), t, TASKS)  # pyright: ignore
    uniforms = jax.random.uniform(jax.random.wrap_key_data(key), (BATCH,))
    batch, _ = sample(replay, t, rows_for(CAPACITY, SCENARIO), TASKS, CAPACITY, uniforms)  # pyright: ignore
    return replay, total(batch)


BUFFER = flashbax.make_item_buffer(max_length=CAPACITY, min_length=1, sample_batch_size=BATCH)


def item(size: jax.Array, next_size: jax.Array) -> dict[str, jax.Array]:
    """One transition."""
    now = {"size": size, "backlog": BACKLOG, "action": size, "reward": -size}
    return now | {"next_size": next_size, "next_backlog": BACKLOG}


def theirs(state: Any, t: jax.Array, size: jax.Array, key: jax.Array) -> Any:
    """One slot of one agent through flashbax's item buffer, which stores one task at a time."""
    del t
    following = jnp.append(size[1:], 0)

    def add(n, state):
        wanted = item(size[n], following[n])
        return lax.cond(size[n] > 0, lambda s: BUFFER.add(s, wanted), lambda s: s, state)

    state = lax.fori_loop(0, TASKS, add, state)
    return state, total(BUFFER.sample(state, jax.random.wrap_key_data(key)))


def microseconds(slot: Any, empty: Any) -> float:
    """Time per slot and agent, µs, after one warm-up."""
    rng = np.random.default_rng(0)
    shape = SLOTS, SEEDS, AGENTS
    present = rng.random((*shape, TASKS)) < SCENARIO.arrival_prob
    sizes = (present * rng.uniform(10, 40, present.shape)).astype(np.float32)
    keys = rng.integers(0, 2**32, (*shape, 2), dtype=np.uint32)

    def run(state, first):
        def step(state, x):
            t, *inputs = x
            each = jax.vmap(jax.vmap(slot, in_axes=(0, None, 0, 0)), in_axes=(0, None, 0, 0))
            return each(state, t, *inputs)

        return lax.scan(step, state, (first + jnp.arange(SLOTS), sizes, keys))

    program = jax.jit(run, donate_argnums=0)
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (SEEDS, AGENTS, *x.shape)), empty)
    state, _ = jax.block_until_ready(program(state, 0))
    start = time.perf_counter()
    for i in range(REPEATS):
        state, _ = jax.block_until_ready(program(state, (i + 1) * SLOTS))
    return (time.perf_counter() - start) / (REPEATS * SLOTS * SEEDS * AGENTS) * 1e6


if __name__ == "__main__":
    zero = jnp.float32(0)
    replay = empty_replay(rows_for(CAPACITY, SCENARIO), TASKS, AGENTS, zero, jnp.float32)
    print(f"agents/qlearning/replay.py: {microseconds(ours, replay):.1f} µs per slot and agent")
    print(f"flashbax: {microseconds(theirs, BUFFER.init(item(zero, zero))):.1f} µs per slot and agent")
