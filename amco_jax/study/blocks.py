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
import jax.numpy as jnp
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


def over_blocks(function: Callable[..., Any], accelerator_blocks: int = ACCELERATOR_BLOCKS) -> Any:
    """Map `function(blocked, shared, state)`, written for one block, over blocks on all devices, and jit it.

    A CPU device runs its blocks one at a time, an accelerator `accelerator_blocks` in parallel.

    Blocked inputs, states and all outputs have leaves `[blocks, ...]`, where blocks is a multiple of the
    number of devices. The state is donated. It may be None, or else the function returns (state, values).
    """

    def device(blocked, shared, state):
        if jax.default_backend() != "cpu":
            return lax.map(
                lambda b: function(b[0], shared, b[1]), (blocked, state), batch_size=accelerator_blocks
            )
        if state is None:
            return lax.map(lambda of_block: function(of_block, shared, None), blocked)

        def in_place(state, one):
            # A map would write the states to new memory, whose pages the system would have to provide first.
            number, of_block = one
            own = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, number, keepdims=False), state)
            own, values = function(of_block, shared, own)
            put = lambda x, new: lax.dynamic_update_index_in_dim(x, new, number, 0)  # noqa: E731
            return jax.tree.map(put, state, own), values

        num_blocks = jax.tree.leaves(state)[0].shape[0]
        return lax.scan(in_place, state, (jnp.arange(num_blocks), blocked))

    mesh, spec = _mesh(), PartitionSpec("blocks")
    sharded = jax.shard_map(
        device, mesh=mesh, in_specs=(spec, PartitionSpec(), spec), out_specs=spec, check_vma=False
    )
    split, whole = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    return jax.jit(sharded, in_shardings=(split, whole, split), donate_argnums=2)


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
