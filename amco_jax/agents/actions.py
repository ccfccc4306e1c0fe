"""Action spaces: the sets of edge servers that a Q-network chooses from, and their values in its outputs.

An action space interprets the network's outputs, `[num_outputs, tasks]`:

- `greedy(outputs)`: the action of largest value for each task; ties go to the first;
- `value(outputs, action)`: the value of the given action of each task;
- `draw(uniforms)`: a random action for each task;
- `sets(action, local)`: the set S of each action, `[tasks, num_servers]` booleans.

Actions are a pytree of arrays with a leading axis over tasks.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from amco_jax.errors import InputError

MAX_ENUMERATED_SERVERS = 12
"""A batch of seeds has room for little more than 2^12-1 outputs for each of 12 agents."""

MAX_SETS = 2**16
"""The most sets of one size. A network with an output for each is then far larger than those that have been
trained, and a list of more would soon fill the memory."""

_MAX_CHAIN = 64


@runtime_checkable
class ActionSpace(Protocol):
    """The protocol described at the top of this module."""

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
    """One output per set in a list; an action is the index of a set in this list.

    Raises:
      InputError: the list is empty, or a set has a server twice or one that does not exist.
    """

    members: tuple[tuple[int, ...], ...]
    """The servers of each set"""
    num_servers: int
    with_local: bool = False
    """Whether the local server is added to each set"""

    num_draws = 1

    def __post_init__(self):
        if not self.members:
            raise InputError(f"actions: none with num_servers = {self.num_servers}; legal: at least one set")
        servers = {*range(self.num_servers)}
        for each in self.members:
            if not {*each} <= servers or len({*each}) < len(each):
                raise InputError(f"actions: {each}; legal: sets of the servers 0 to {self.num_servers - 1}")

    @property
    def num_outputs(self) -> int:
        return len(self.members)

    def table(self) -> np.ndarray:
        """The sets as booleans, `[num_sets, num_servers]`."""
        table = np.zeros((len(self.members), self.num_servers), bool)
        for row, servers in zip(table, self.members, strict=True):
            row[list(servers)] = True
        return table

    def greedy(self, outputs: Float[Array, "sets tasks"]) -> Int[Array, " tasks"]:
        """The set of largest value; ties go to the first."""
        return argmax_first(outputs)

    def value(self, outputs: Float[Array, "sets tasks"], action: Int[Array, " tasks"]) -> Array:
        """The value of each action."""
        return _row_of_each(outputs, action)

    def draw(self, uniforms: Float[Array, "1 tasks"]) -> Int[Array, " tasks"]:
        """A uniformly drawn set for each task."""
        return (uniforms[0] * self.num_outputs).astype(jnp.int32)

    def sets(self, action: Int[Array, "*tasks"], local: Bool[Array, " num_servers"]) -> Array:
        """The set of each action, `[*tasks, num_servers]` booleans."""
        chosen = jnp.asarray(self.table())[action]
        return chosen | local if self.with_local else chosen


@dataclasses.dataclass(frozen=True)
class Factorised:
    """All non-empty sets with only 2·B outputs: `Q(s, S) = Σ_{i∈S} u_i(s) + v_{|S|}(s)`.

    The first B outputs u are the contributions of the servers, and the other B outputs v depend on the size
    of the set, because each further server helps less. The best set of size k consists of the k servers of
    largest u, so the exact maximum takes one sort. An action is the set itself.
    """

    num_servers: int

    @property
    def num_outputs(self) -> int:
        return 2 * self.num_servers

    @property
    def num_draws(self) -> int:
        return self.num_servers

    def greedy(self, outputs: Float[Array, "outputs tasks"]) -> Bool[Array, "tasks num_servers"]:
        """The set of largest value; ties go to the smallest set, then to the first servers."""
        server, size = outputs[: self.num_servers], outputs[self.num_servers :]
        order = jnp.argsort(-server, axis=0, stable=True)
        best_of_size = jnp.cumsum(jnp.take_along_axis(server, order, axis=0), axis=0) + size
        rank = jnp.argsort(order, axis=0)
        return (rank <= argmax_first(best_of_size)).T

    def value(self, outputs: Float[Array, "outputs tasks"], action: Bool[Array, "tasks servers"]) -> Array:
        """The value of each action, `[tasks]`."""
        selected = action.T
        size = jnp.arange(1, self.num_servers + 1)[:, None] == jnp.sum(selected, axis=0)
        return jnp.sum(jnp.where(jnp.concatenate([selected, size]), outputs, 0), axis=0)

    def draw(self, uniforms: Float[Array, "servers tasks"]) -> Bool[Array, "tasks servers"]:
        """Each server with probability 1/2, and all servers if none is drawn."""
        chosen = (uniforms < 0.5).T
        return chosen | ~jnp.any(chosen, axis=1, keepdims=True)

    def sets(self, action: Bool[Array, "*tasks servers"], local: Bool[Array, " servers"]) -> Array:
        """The actions themselves."""
        del local
        return action


@jax.custom_vjp
def _row_of_each(values: Float[Array, "rows columns"], row: Int[Array, " columns"]) -> Array:
    """The entry of each column in its given row; its gradient is a select, where a gather's is a scatter."""
    return jnp.take_along_axis(values, row[None], axis=0)[0]


def _row_of_each_forward(values: Array, row: Array) -> tuple[Array, tuple[int, Array]]:
    return _row_of_each(values, row), (values.shape[0], row)


def _row_of_each_backward(saved: tuple[int, Array], gradient: Array) -> tuple[Array, None]:
    num_rows, row = saved
    chosen = jnp.arange(num_rows, dtype=jnp.int32)[:, None] == row
    return jnp.where(chosen, gradient, 0), None


_row_of_each.defvjp(_row_of_each_forward, _row_of_each_backward)


def argmax_first(values: Float[Array, "rows columns"]) -> Int[Array, " columns"]:
    """The index of the largest value in each column; ties go to the first."""
    if values.shape[0] > _MAX_CHAIN:
        return jnp.argmax(values, axis=0).astype(jnp.int32)
    # XLA vectorises a chain of selects along the columns, but not a reduction over (value, index) pairs.
    best, index = values[0], jnp.zeros(values.shape[1:], jnp.int32)
    for row in range(1, values.shape[0]):
        wins = values[row] > best
        best, index = jnp.where(wins, values[row], best), jnp.where(wins, row, index)
    return index


@functools.cache
def nonempty_sets(num_servers: int) -> Enumerated:
    """All 2^B-1 non-empty sets, ordered by size, then lexicographically.

    Raises:
      InputError: there are more than `MAX_ENUMERATED_SERVERS` servers.
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
    """All sets of `size` servers, in lexicographic order; the set of all servers if the fleet is smaller.

    SMCoEdge uses 3. The function that it returns raises InputError where there are more than `MAX_SETS` sets.
    """

    @functools.cache
    def actions(num_servers: int) -> Enumerated:
        number = math.comb(num_servers, min(size, num_servers))
        if number > MAX_SETS:
            raise InputError(
                f"num_servers: {num_servers}, which makes {number:,} sets of {size}; legal: at most "
                f"{MAX_SETS:,} sets, or a method with a factorised network (amcoedge-factorised)"
            )
        chosen = itertools.combinations(range(num_servers), min(size, num_servers))
        return Enumerated(tuple(chosen), num_servers)

    return actions


@functools.cache
def partners(num_servers: int) -> Enumerated:
    """DRLCoEdge: the local server and one selected server, which may be the same."""
    return Enumerated(tuple((i,) for i in range(num_servers)), num_servers, with_local=True)
