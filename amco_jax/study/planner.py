"""Plans of whole episodes, by a planner that knows all arrivals in advance: `agents.reference.planned`.

A plan is a price of work and of delay for each position. It is improved by playing the episode, and moving
the prices towards the exact shadow prices along it (`kernel.gradient`); the best plan of each seed is kept.
That is a local optimum, and no bound on other methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amco_jax.agents.methods import Method
from amco_jax.agents.reference import Plan
from amco_jax.env import Physics
from amco_jax.identity import program_cache
from amco_jax.kernel.gradient import with_prices
from amco_jax.metrics import MAKESPAN
from amco_jax.params import Shape
from amco_jax.random import Stream, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import Block, inputs_of, over_blocks, stack_blocks
from amco_jax.workload import workload_of

SEEDS_PER_BLOCK = 32
"""Seeds per block"""
ROUNDS = 60
"""How often an episode is played to improve its plan"""
_FIRST, _HALVED = 0.5, 20
"""The weight of new prices in the first round, and the round at which it is half of that"""


class Planned:
    """An `AgentSource` that plans the episodes of the seeds that it is asked for."""

    seeds_per_block = SEEDS_PER_BLOCK

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        method: Method,
        physics: Physics,
        episode: int,
        training: bool = False,
    ):
        """Plan one episode of each seed.

        Args:
          episode, training: which arrivals, as in `simulate`.
        """
        self._scenarios, self._method, self._physics = scenarios, method, physics
        self._episode, self._training = episode, training

    def bytes_per_lane(self, shape: Shape) -> int:
        """The size of a plan and of what its improvement needs, in bytes."""
        return 4 * 4 * shape.num_slots * shape.num_servers * shape.max_tasks * (shape.num_servers + 1)

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Plan:
        """The plans of a chunk: leaves `[blocks, lanes, ...]`, padded with copies of the last block."""
        cells, tables = inputs_of(self._scenarios, (block.cell for block in chunk), shape)
        stacked, seeds = stack_blocks(chunk, size, SEEDS_PER_BLOCK, cells)
        shared = self._physics, np.int32(self._episode), tables
        return _plan_program(shape, self._method, self._training)((stacked, seeds), shared, None)


class _Best(NamedTuple):
    plan: Plan
    best: Plan
    total: Any
    """The summed makespan of the best plan, s"""


@program_cache(16, lambda shape, method, training: (shape.arrivals, method.policy, method.allocator))
def _plan_program(shape: Shape, method: Method, training: bool) -> Any:
    """The jitted plans of blocks of seeds, sharded over the local devices."""

    def block(blocked: Any, shared: Any, state: None) -> Plan:
        del state
        ((params, place), seeds), (physics, number, tables) = blocked, shared
        own = tables.of(place)

        def alone(seed: Any) -> Plan:
            workload = workload_of(shape, params, own, seed, number, training=training)
            key = fold_in(stream(seed, Stream.POLICY), number)

            def improve(now: _Best, k: Any) -> tuple[_Best, None]:
                played, prices = with_prices(
                    shape, params, physics, method=method, workload=workload, key=key, agent=now.plan
                )
                total, found = played.totals[MAKESPAN.name].rounded(params.capacity.dtype), Plan(*prices)
                better = total < now.total
                best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now.plan, now.best)
                weight = _FIRST / (1 + k / _HALVED)
                plan = jax.tree.map(lambda old, new: (1 - weight) * old + weight * new, now.plan, found)
                return _Best(plan, best, jnp.minimum(total, now.total)), None

            positions = shape.num_slots, shape.num_servers, shape.max_tasks
            none = Plan(jnp.zeros((*positions, shape.num_servers)), jnp.zeros(positions))
            rounds = jnp.arange(ROUNDS, dtype=jnp.float32)
            return lax.scan(improve, _Best(none, none, jnp.asarray(jnp.inf)), rounds)[0].best

        return jax.vmap(alone)(seeds)

    return over_blocks(block)
