"""Blocks of seeds: the unit of computation on every device.

A block is a fixed number of consecutive seeds of one cell, which is a scenario and, in training, settings.
Whatever the number of seeds, chunks or devices, a seed's result never depends on what is computed with it.
Cells of the same shape share one compiled program, in which the values of a block's cell are scalars, while
its seeds fill the vector lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.extend.core as jex
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from amco_jax.params import Params, Shape
from amco_jax.scenario import Scenario
from amco_jax.workload import Tables, tables_of

T = TypeVar("T")

ACCELERATOR_BLOCKS = 128
"""Default number of blocks that an accelerator runs in parallel"""


class Block(NamedTuple):
    """Consecutive seeds of one cell."""

    cell: int
    """The index of the cell"""
    start: int
    """The first seed"""


def blocks_of(num_cells: int, first_seed: int, num_seeds: int, seeds_per_block: int) -> list[Block]:
    """All blocks, cell by cell; the last block of a cell may extend beyond the last seed."""
    starts = range(first_seed, first_seed + num_seeds, seeds_per_block)
    return [Block(cell, start) for cell in range(num_cells) for start in starts]


def padded_shapes(scenarios: Sequence[Scenario]) -> list[Shape]:
    """The shapes of scenarios, with positions padded to the maximum over those of otherwise equal shape."""
    shapes = [s.shape() for s in scenarios]
    most: dict[Shape, int] = {}
    for shape in shapes:
        key = shape._replace(max_tasks=0)
        most[key] = max(most.get(key, 0), shape.max_tasks)
    return [shape._replace(max_tasks=most[shape._replace(max_tasks=0)]) for shape in shapes]


class Inputs(NamedTuple):
    """The inputs of programs for scenarios of one shape."""

    cells: dict[int, tuple[Params, Any]]
    """The `Params` of each scenario and its index in the tables, by the index of the scenario"""
    tables: Tables
    """The tables of all scenarios, replicated on all devices, so that each device holds traces only once"""


def inputs_of(scenarios: Sequence[Scenario], used: Iterable[int], shape: Shape) -> Inputs:
    """The inputs for the scenarios of a sequence whose indices are used."""
    used = sorted(set(used))
    cells = {cell: (scenarios[cell].params(), np.int32(place)) for place, cell in enumerate(used)}
    tables = tables_of([scenarios[cell] for cell in used], shape)
    return Inputs(cells, jax.device_put(tables, NamedSharding(_mesh(), PartitionSpec())))


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), ("blocks",))


def padded(items: Sequence[T], size: int) -> list[T]:
    """The items of a chunk, padded to `size` and a multiple of the devices with copies of the last one."""
    num_devices = jax.local_device_count()
    size = -(-size // num_devices) * num_devices
    return [*items, *[items[-1]] * (size - len(items))]


def stack_blocks(
    chunk: Sequence[Block], size: int, seeds_per_block: int, cells: Mapping[int, Any]
) -> tuple[Any, Any]:
    """The inputs of a chunk, `padded` to `size`.

    Returns:
      The cells' pytrees of NumPy arrays, with leaves `[blocks, ...]`, and the seeds, `[blocks, lanes]`.
    """
    blocks = padded(chunk, size)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(cells[block.cell] for block in blocks))
    starts = np.asarray([block.start for block in blocks], np.uint32)
    return stacked, starts[:, None] + np.arange(seeds_per_block, dtype=np.uint32)


def over_blocks(
    function: Callable[..., Any], accelerator_blocks: int = ACCELERATOR_BLOCKS, steps: int | None = None
) -> Any:
    """Map `function(blocked, shared, state)`, written for one block, over blocks on all devices, and jit it.

    A CPU device runs its blocks one at a time, an accelerator `accelerator_blocks` in parallel.

    Blocked inputs, states and all outputs have leaves `[blocks, ...]`, where blocks is a multiple of the
    number of devices. The state is donated. It may be None, or else the function returns (state, values).

    Args:
      steps: how often to call the function for each block, with the number of the step as a fourth argument;
        the values then have leaves `[blocks, steps, ...]`. Needs a state, and on accelerators only 1 is
        supported.
    """

    def device(blocked, shared, state):
        if jax.default_backend() == "cpu":
            if state is None:
                return lax.map(lambda of_block: function(of_block, shared, None), blocked)
            return _in_place(function, blocked, shared, state, steps)
        assert steps in (None, 1)

        def alone(block):
            of_block, own = block
            if steps is None:
                return function(of_block, shared, own)
            own, values = function(of_block, shared, own, 0)
            return own, jax.tree.map(lambda x: x[None], values)

        return lax.map(alone, (blocked, state), batch_size=accelerator_blocks)

    mesh, spec = _mesh(), PartitionSpec("blocks")
    sharded = jax.shard_map(
        device, mesh=mesh, in_specs=(spec, PartitionSpec(), spec), out_specs=spec, check_vma=False
    )
    split, whole = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    return jax.jit(sharded, in_shardings=(split, whole, split), donate_argnums=2)


def _in_place(function: Callable[..., Any], blocked: Any, shared: Any, state: Any, steps: int | None) -> Any:
    """Call the function for each block and step in turn; write states and values straight to their places.

    A map or a scan would fill new memory with zeros first, and copy the values of a block once more.
    """

    def call(of_block: Any, own: Any, step: Any) -> Any:
        return function(of_block, shared, own, *(() if steps is None else (step,)))

    def at(tree: Any, number: Any) -> Any:
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), tree)

    def put(tree: Any, number: Any, new: Any) -> Any:
        return jax.tree.map(lambda x, one: lax.dynamic_update_index_in_dim(x, one, number, 0), tree, new)

    count, num_blocks = steps or 1, jax.tree.leaves(state)[0].shape[0]
    # Tracing takes seconds, so that the program which tells the shapes is also the one that runs.
    closed, shapes = jax.make_jaxpr(call, return_shape=True)(at(blocked, 0), at(state, 0), np.int32(0))
    traced, form = jex.jaxpr_as_fun(closed), jax.tree.structure(shapes)
    places = jax.tree.map(lambda x: lax.empty((num_blocks * count, *x.shape), x.dtype), shapes[1])

    def of_block(number: Any, carried: Any) -> Any:
        state, values = carried
        given = at(blocked, number)

        def of_step(step: Any, carried: Any) -> Any:
            own, values = carried
            own, new = jax.tree.unflatten(form, traced(*jax.tree.leaves((given, own, step))))
            return own, put(values, number * count + step, new)

        own, values = lax.fori_loop(np.int32(0), np.int32(count), of_step, (at(state, number), values))
        return put(state, number, own), values

    state, values = lax.fori_loop(np.int32(0), np.int32(num_blocks), of_block, (state, places))
    axes = (num_blocks,) if steps is None else (num_blocks, steps)
    return state, jax.tree.map(lambda x: x.reshape(*axes, *x.shape[1:]), values)


def host_blocks(tree: Any) -> Iterator[Any]:
    """Yield the blocks of a pytree with leaves `[blocks, ...]`, in order, as pytrees of NumPy arrays."""
    leaves, structure = jax.tree.flatten(tree)
    for of_block in zip(*map(_in_order, leaves), strict=True):
        yield jax.tree.unflatten(structure, of_block)


def _in_order(leaf: jax.Array | np.ndarray) -> Iterator[np.ndarray]:
    if isinstance(leaf, np.ndarray):
        yield from leaf
    else:
        # Shard by shard, as the array as a whole would be a copy.
        for shard in sorted(leaf.addressable_shards, key=lambda s: s.index[0].start or 0):
            yield from np.asarray(shard.data)
