"""Action spaces: which sets of edge servers a Q-network chooses from, and how its outputs rate them.

An action space reads the network's outputs `[num_outputs, tasks]`, features first:

- `greedy(outputs)`: the action of largest value for each task, ties to the first;
- `value(outputs, action)`: the value of one action of each task;
- `draw(uniforms)`: an action at random;
- `sets(action, local)`: the set S of each action, `[tasks, num_servers]` booleans.

Actions are a pytree of arrays with a leading axis over tasks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from amco_jax.errors import InputError

MAX_ENUMERATED_SERVERS = 12
"""2^12-1 outputs for each of 12 agents are about as many as a batch of seeds can hold."""


_MAX_CHAIN = 64


@runtime_checkable
class ActionSpace(Protocol):
    """The protocol above."""

    @property
    def num_outputs(self) -> int: ...
    @property
    def num_draws(self) -> int: ...
    def greedy(self, outputs: Array) -> Any: ...
    def value(self, outputs: Array, action: Any) -> Array: ...
    def draw(self, uniforms: Array) -> Any: ...
    def sets(self, action: Any, local: Array) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Enumerated:
    """One output per set of a list; an action is the set's number in it."""

    members: tuple[tuple[int, ...], ...]
    """The sets, by their servers"""
    num_servers: int
    with_local: bool = False
    """Whether the server at the task's own base station joins each set"""

    num_draws = 1

    @property
    def num_outputs(self) -> int:
        return len(self.members)

    def table(self) -> np.ndarray:
        """`[num_sets, num_servers]` booleans."""
        table = np.zeros((len(self.members), self.num_servers), bool)
        for row, servers in zip(table, self.members, strict=True):
            row[list(servers)] = True
        return table

    def greedy(self, outputs: Float[Array, "sets tasks"]) -> Int[Array, " tasks"]:
        """The first set of largest value."""
        return argmax_first(outputs)

    def value(self, outputs: Float[Array, "sets tasks"], action: Int[Array, " tasks"]) -> Array:
        """`[tasks]`, by a masked sum: its gradient is a product where that of a gather is a scatter."""
        chosen = jnp.arange(self.num_outputs, dtype=jnp.int32)[:, None] == action
        return jnp.sum(jnp.where(chosen, outputs, 0), axis=0)

    def draw(self, uniforms: Float[Array, "1 tasks"]) -> Int[Array, " tasks"]:
        """Uniform over the sets."""
        return (uniforms[0] * self.num_outputs).astype(jnp.int32)

    def sets(self, action: Int[Array, "*tasks"], local: Bool[Array, " num_servers"]) -> Array:
        """`[*tasks, num_servers]`."""
        chosen = jnp.asarray(self.table())[action]
        return chosen | local if self.with_local else chosen


@dataclasses.dataclass(frozen=True)
class Factorised:
    """All non-empty sets from 2·B outputs: Q(s, S) = Σ_{i∈S} u_i(s) + v_{|S|}(s).

    The first B outputs say what each server adds, the others what the size of the set is worth, which is
    where servers help each other less the more there are. For each size k the best set are the k servers
    of largest u, so that the exact maximum costs one sort. An action is the set itself.
    """

    num_servers: int

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_servers

    @property
    def num_draws(self) -> int:
        return self.num_servers

    def greedy(self, outputs: Float[Array, "outputs tasks"]) -> Bool[Array, "tasks num_servers"]:
        """The set of largest value; ties go to the smaller set, then to the first servers."""
        server, size = outputs[: self.num_servers], outputs[self.num_servers :]
        order = jnp.argsort(-server, axis=0, stable=True)
        best_of_size = jnp.cumsum(jnp.take_along_axis(server, order, axis=0), axis=0) + size
        rank = jnp.argsort(order, axis=0)
        return (rank <= argmax_first(best_of_size)).T

    def value(self, outputs: Float[Array, "outputs tasks"], action: Bool[Array, "tasks servers"]) -> Array:
        """`[tasks]`."""
        selected = action.T
        size = jnp.arange(1, self.num_servers + 1)[:, None] == jnp.sum(selected, axis=0)
        return jnp.sum(jnp.where(jnp.concatenate([selected, size]), outputs, 0), axis=0)

    def draw(self, uniforms: Float[Array, "servers tasks"]) -> Bool[Array, "tasks servers"]:
        """Each server with probability 1/2; where that leaves none, all of them."""
        chosen = (uniforms < 0.5).T
        return chosen | ~jnp.any(chosen, axis=1, keepdims=True)

    def sets(self, action: Bool[Array, "*tasks servers"], local: Bool[Array, " servers"]) -> Array:
        """The action as it is."""
        del local
        return action


def argmax_first(values: Float[Array, "rows columns"]) -> Int[Array, " columns"]:
    """The first row of largest value in each column."""
    if values.shape[0] > _MAX_CHAIN:
        return jnp.argmax(values, axis=0).astype(jnp.int32)
    # A chain of selects runs along the columns in vector instructions, as no reduction over pairs does.
    best, index = values[0], jnp.zeros(values.shape[1:], jnp.int32)
    for row in range(1, values.shape[0]):
        wins = values[row] > best
        best, index = jnp.where(wins, values[row], best), jnp.where(wins, row, index)
    return index


@functools.cache
def nonempty_sets(num_servers: int) -> Enumerated:
    """All 2^B-1 non-empty sets, by size, then lexicographically.

    Raises:
      InputError: more than `MAX_ENUMERATED_SERVERS` servers.
    """
    if num_servers > MAX_ENUMERATED_SERVERS:
        raise InputError(
            f"num_servers: {num_servers}, which makes 2^{num_servers}-1 sets; legal: at most "
            f"{MAX_ENUMERATED_SERVERS}, or a method with a factorised network (amcoedge-factorised)"
        )
    sizes = range(1, num_servers + 1)
    sets = itertools.chain.from_iterable(itertools.combinations(range(num_servers), k) for k in sizes)
    return Enumerated(tuple(sets), num_servers)


@functools.cache
def sets_of(size: int) -> Callable[[int], Enumerated]:
    """SMCoEdge, with 3: all sets of that size, lexicographically; of all servers where there are fewer."""

    @functools.cache
    def actions(num_servers: int) -> Enumerated:
        chosen = itertools.combinations(range(num_servers), min(size, num_servers))
        return Enumerated(tuple(chosen), num_servers)

    return actions


@functools.cache
def partners(num_servers: int) -> Enumerated:
    """DRLCoEdge: the local server and one more, which may be the same."""
    return Enumerated(tuple((i,) for i in range(num_servers)), num_servers, with_local=True)
