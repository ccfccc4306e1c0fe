"""The base of both environments: parameters, keys, action spaces, and the workload of an episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

from amco_jax.agents.actions import ActionSpace, Enumerated
from amco_jax.agents.methods import COMMON_PHYSICS, get_allocator
from amco_jax.alloc import Allocator
from amco_jax.env import Physics
from amco_jax.errors import InputError, check_choice, check_whole
from amco_jax.identity import hashable
from amco_jax.params import ORDERS, TIMINGS, Params, Shape
from amco_jax.random import MAX_COORDINATE, MAX_SEED
from amco_jax.rl.observation import PUBLISHED, check_features
from amco_jax.rl.spaces import Discrete, MultiBinary
from amco_jax.scenario import Scenario
from amco_jax.workload import Tables, Workload, tables_of, workload_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EnvParams:
    """The parameters of an episode, all traced but the shape: one program serves all values of that shape."""

    scenario: Params
    physics: Physics
    tables: Tables
    """The tables of the arrival process, computed on the host"""
    shape: Shape = dataclasses.field(kw_only=True, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Origin:
    """The source of an episode's arrivals."""

    seed: UInt32[Array, ""]
    episode: UInt32[Array, ""]
    drawn: tuple[Array, ...]
    """The leaves of the workload that depend on seed and episode. The others are tables of `EnvParams`, so
    that thousands of environments share one copy of a request log."""


def episode_key(seed: Any, episode: Any = 0) -> Array:
    """The `jax.random` key with which `reset` plays a given episode of a seed.

    Args:
      seed: a whole number from 0 to 2³²-1.
      episode: a whole number from 0 to 2³¹-1. Episode 0 has the arrivals that sweeps simulate with the seed,
        and its key is `jax.random.key(seed)`; episodes from 1 on have the arrivals that `train` learns from.

    Raises:
      InputError: a Python or NumPy number is not such a number; arrays are not checked.
    """
    words = []
    for name, number, most in (("episode", episode, MAX_COORDINATE), ("seed", seed, MAX_SEED)):
        if isinstance(number, int | float | np.number):
            check_whole(name, number, 0, most)
        words.append(jnp.asarray(number, jnp.uint32))
    return jax.random.wrap_key_data(jnp.stack(words), impl="threefry2x32")


def seed_and_episode(key: Array) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
    """The inverse of `episode_key`; a key from `jax.random.split` gives a random seed and episode.

    Raises:
      InputError: the key is not a single `jax.random` key.
    """
    data = key
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(key)
    if getattr(data, "dtype", None) != jnp.uint32 or data.ndim != 1 or data.shape[0] < 2:
        found = f"{type(key).__name__} of shape {np.shape(key)}"
        raise InputError(f"key: {found}; legal: one key of jax.random, such as jax.random.key(0)")
    return data[1], data[0]


def _row(physics: str | Physics) -> Physics:
    if isinstance(physics, Physics):
        return physics
    check_choice("physics", physics, COMMON_PHYSICS)
    return COMMON_PHYSICS[physics]


class Environment:
    """The part of an environment that is fixed when its programs are compiled.

    Args:
      scenario: the published setting by default. Its values are in `default_params`; those of other scenarios
        with the same shape come from `params_of`.
      physics: `unified`, `conserving` or `serial`, or a row of the physics table.
      allocator: how a task is split over the selected servers, by name or as a function.
      observe: names of features, see `observation.FEATURES`.
      actions: a function from the number of servers to a list of sets (`nonempty_sets`, `sets_of(k)` and
        `partners` of `amco_jax.agents.actions`); an action is then the number of a set in that list. By
        default, an action is the set itself, as one boolean per server.
      reject: whether the empty set rejects a task. If not, the empty set means the server at the task's own
        base station.

    Raises:
      InputError: a name is unknown, the action space has no list of sets, or a request log has no part
        to train on, where episodes from 1 on would be.
    """

    any_order: ClassVar[bool] = True
    """Whether tasks may be served in another order than station by station"""

    def __init__(
        self,
        scenario: Scenario | None = None,
        *,
        physics: str | Physics = "unified",
        allocator: str | Allocator = "cwa",
        observe: Sequence[str] = PUBLISHED,
        actions: Callable[[int], ActionSpace] | None = None,
        reject: bool = True,
    ):
        scenario = Scenario() if scenario is None else scenario
        self.shape = scenario.shape()
        if not (self.any_order or self.shape.by_station):
            raise InputError(
                f"scenario: order = {self.shape.order}, timing = {self.shape.timing}; "
                f"legal in {self.name}: {ORDERS[0]}, {TIMINGS[0]}"
            )
        self.allocator = (
            get_allocator(allocator) if isinstance(allocator, str) else hashable("allocator", allocator)
        )
        self.observe = check_features(observe)
        self.sets = None if actions is None else actions(self.shape.num_servers)
        if self.sets is not None and not isinstance(self.sets, Enumerated):
            raise InputError(
                f"actions: {type(self.sets).__name__}; legal: a list of sets such as nonempty_sets, or none"
            )
        self.reject = reject
        self.physics = _row(physics)
        self.default_params = self.params_of(scenario)

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self).__name__

    @property
    def num_servers(self) -> int:
        """The number of edge servers, and of base stations."""
        return self.shape.num_servers

    @property
    def num_actions(self) -> int:
        """The number of actions for one task."""
        return 2**self.num_servers if self.sets is None else self.sets.num_outputs

    def params_of(self, scenario: Scenario, physics: str | Physics | None = None) -> EnvParams:
        """The parameters of a scenario as NumPy arrays.

        Args:
          physics: by default, that of the environment.

        Raises:
          InputError: the shape of the scenario differs from that of the environment, or its request log has
            no part to train on.
        """
        scenario.check_training()
        shape = scenario.shape(self.shape.max_tasks)
        self._check_shape("scenario", shape)
        physics = self.physics if physics is None else _row(physics)
        row = jax.tree.map(lambda x: np.asarray(x, bool if isinstance(x, bool) else np.float32), physics)
        tables = tables_of([scenario], shape).of(0)  # pyright: ignore[reportArgumentType]
        return EnvParams(scenario.params(), row, tables, shape=shape)

    def _check_shape(self, field: str, shape: Shape) -> None:
        """Raise InputError if the shape of a scenario or of parameters differs from the environment's."""
        if shape != self.shape:
            raise InputError(
                f"{field}: {shape.words()}; legal in this environment: {self.shape.words()} "
                "(num_servers, positions, num_slots, arrivals, order, timing)"
            )

    def _actions(self, tasks: tuple[int, ...]) -> Discrete | MultiBinary:
        """The space of actions for an array of tasks."""
        if self.sets is None:
            return MultiBinary((*tasks, self.num_servers))
        return Discrete(self.sets.num_outputs, tasks)

    def _selected(self, action: Any, local: Bool[Array, " num_servers"]) -> Bool[Array, "*tasks num_servers"]:
        """The sets that actions select for tasks at one base station."""
        if self.sets is not None:
            return self.sets.sets(jnp.asarray(action), local)
        selected = jnp.asarray(action).astype(bool)
        if self.reject:
            return selected
        return selected | (local & ~jnp.any(selected, axis=-1, keepdims=True))

    def _begin(self, key: Array, params: EnvParams) -> tuple[Origin, Workload]:
        """The origin of a new episode's arrivals, which its states keep, and its workload."""
        seed, episode = seed_and_episode(key)
        workload = self._workload(params, seed, episode)
        drawn = tuple(leaf for leaf, is_drawn in _marked(workload, params.tables) if is_drawn)
        return Origin(seed, episode, drawn), workload

    def _workload(self, params: EnvParams, seed: Array, episode: Array) -> Workload:
        """The workload of an episode; episodes from 1 on have the arrivals that `train` learns from."""
        self._check_shape("params", params.shape)
        tables = params.tables
        return workload_of(self.shape, params.scenario, tables, seed, episode, training=episode > 0)

    def _resume(self, origin: Origin, params: EnvParams) -> Workload:
        """The workload of an episode in progress."""
        # Drawn again only for its structure: XLA removes what is unused.
        again = self._workload(params, origin.seed, origin.episode)
        drawn = iter(origin.drawn)
        leaves = [next(drawn) if is_drawn else leaf for leaf, is_drawn in _marked(again, params.tables)]
        return jax.tree.unflatten(jax.tree.structure(again), leaves)


def _marked(workload: Workload, tables: Tables) -> list[tuple[Any, bool]]:
    """The leaves of a workload, and whether each was drawn; the others are leaves of the tables."""
    given = {id(leaf) for leaf in jax.tree.leaves(tables)}
    return [(leaf, id(leaf) not in given) for leaf in jax.tree.leaves(workload)]
