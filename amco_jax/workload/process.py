"""Arrival processes: their interface for the host and for compiled programs.

A workload is a pytree with two methods,

    row(params, t, b) -> (positions, task_at)
    num_positions(params) -> M

`positions` is a pytree of arrays with a leading axis over the task positions of base station `b` in slot
`t`, and `task_at` makes the `Task` of one position from its entry. The kernel scans over `positions`. Those
from `M` on are padding and never hold a task. Learning also looks at slot `num_slots`, the one after the end.

An `ArrivalProcess` makes workloads, and provides the host with their properties in advance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt32

from amco_jax.env import Task
from amco_jax.errors import check_choice
from amco_jax.identity import identify, name_of
from amco_jax.params import Params, Shape, Starts
from amco_jax.service import ImageService


@runtime_checkable
class Workload(Protocol):
    """The protocol above."""

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[[Any], Task]]: ...

    def num_positions(self, params: Params) -> Any: ...


@runtime_checkable
class TimedWorkload(Workload, Protocol):
    """A workload that provides the arrival times of its tasks within a slot, such as that of a request log.

    `times(params, t, b)` is the time of each position of base station `b` in slot `t`, as a share of the slot
    in [0, 1).
    """

    def times(self, params: Params, t: Array, b: Array) -> Array: ...


@runtime_checkable
class UnevenWorkload(Workload, Protocol):
    """A workload whose tasks are not spread evenly over the positions of a slot, see `expected_after`."""

    def expected_after(self, params: Params, passed: Array, mean: Array, known: bool) -> Array: ...


@runtime_checkable
class CountedWorkload(Workload, Protocol):
    """A workload of slots that differ much in the number of their tasks, but not in that of their positions.

    `count(t)` is the number of the first positions of slot `t`, at each base station, that may hold a task.
    """

    def count(self, t: Array) -> Array: ...


def expected_after(
    workload: Workload, params: Params, passed: Array, mean: Float[Array, " num_servers"], *, known: bool
) -> Float[Array, " num_servers"]:
    """The expected number of tasks of each base station at the positions of a slot from `passed` on.

    By default, all positions are equally likely to hold a task.

    Args:
      passed: one number, or `[num_servers]`.
      mean: `[num_servers]`, the expected number in a whole slot, as a scheduler estimates it.
      known: whether the last position before is known to hold a task; otherwise nothing is known of the slot.
    """
    if isinstance(workload, UnevenWorkload):
        return workload.expected_after(params, passed, mean, known)
    return mean * jnp.maximum(1 - passed / workload.num_positions(params), 0)


class Tables(NamedTuple):
    """The tables that the host computes for scenarios of one shape."""

    common: Any = None
    """The part that all scenarios share: leaves of any shape"""
    own: Any = None
    """The part that is specific to each scenario: leaves `[scenarios, ...]`"""

    def of(self, index: int | Int[Array, ""]) -> Tables:
        """The tables of one scenario."""
        return Tables(self.common, jax.tree.map(lambda leaf: leaf[index], self.own))


class Segment(NamedTuple):
    """A part of an episode: `num_slots` slots of the shape, starting with slot `first`."""

    first: Int[Array, ""]
    """Must be the same for all seeds of a batch"""
    carried: Any
    """The state of the process at its start, see `ArrivalProcess.before`"""


@runtime_checkable
class ScenarioFields(Protocol):
    """The fields of a scenario that its arrival process may use."""

    @property
    def num_servers(self) -> int: ...
    @property
    def num_tasks(self) -> int: ...
    @property
    def num_slots(self) -> int: ...
    @property
    def slot_duration(self) -> float: ...
    @property
    def arrival_prob(self) -> float: ...
    @property
    def task_size_min(self) -> float: ...
    @property
    def task_size_max(self) -> float: ...
    @property
    def density_min(self) -> float: ...
    @property
    def density_max(self) -> float: ...
    @property
    def capacities(self) -> np.ndarray: ...
    @property
    def service(self) -> ImageService | None: ...


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number that a sweep may vary: a parameter of a process, or the scenario's `arrival_prob`."""

    label: str
    """The label in figures, with the unit"""
    values: Sequence[Any] | Callable[[Any, Any], Sequence[Any]]
    """The values swept by default, or a function of the process and its scenario that returns them. Values
    that are illegal in the scenario are left out"""
    tasks_per: str = ""
    """`slot` or `second` if the mean number of tasks per slot or per second is proportional to the quantity,
    which is then adjusted to reach a given offered load"""

    def __post_init__(self):
        check_choice("tasks_per", self.tasks_per, ("", "slot", "second"))

    def values_for(self, process: ArrivalProcess, scenario: ScenarioFields) -> Sequence[Any]:
        """The values swept by default around a scenario."""
        return self.values(process, scenario) if callable(self.values) else self.values


MAX_RATE = 1e3
"""The largest p of processes with N·p tasks on average"""

ARRIVAL_PROB = Quantity("arrival probability", tuple(k / 10 for k in range(1, 11)), tasks_per="slot")
"""The quantity of processes with a mean of N·p tasks per base station and slot"""


class MeanTask(NamedTuple):
    """The mean size and the mean work of the tasks that arrive."""

    size: float
    """Mbit, or image batches with a service"""
    work: float
    """Gcycles, or denoising steps with a service"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrivalProcess:
    """Base class of arrival processes, which are frozen dataclasses: their fields are their parameters.

    A process checks its parameters in `__post_init__` and raises `InputError` if one is out of range. The
    methods on instances run on the host, in float64. The static methods are traced by JAX. They do not see
    the parameters, so that one program serves all values of a sweep; they get what they need from `own` and
    `common`.
    """

    name: ClassVar[str]
    """The name in tables and messages"""
    title: ClassVar[str] = ""
    """The name within a sentence, if it is spelled differently there"""
    varied: ClassVar[Mapping[str, Quantity]] = {}
    """The quantities that a sweep may vary: parameters, and `arrival_prob` if the mean is N·p tasks per base
    station and slot"""
    max_arrival_prob: ClassVar[float] = 1.0
    """The largest p that is legal: 1 where it is a probability, more where only the mean N·p matters"""
    fuses: ClassVar[bool] = True
    """Whether an episode with these arrivals can run as one GPU kernel"""
    fuses_segments: ClassVar[bool] = True
    """Whether a segment of an episode can, too"""
    has_stretches: ClassVar[bool] = False
    """Whether seeds may share their arrivals, see `stretches`"""
    recordable: ClassVar[bool] = False
    """Whether each position has one density in all slots and at all base stations, as recordings have"""

    @property
    def num_users(self) -> int:
        """The number of users that tasks have, see `Task.user`; 0 if they have none."""
        return 0

    def num_positions(self, scenario: ScenarioFields) -> int:
        """The largest possible number of tasks per base station and slot."""
        raise NotImplementedError

    def moments(self, scenario: ScenarioFields) -> tuple[float, float]:
        """Mean and variance of the number of tasks per base station and slot; the variance is that of the sum
        over many slots, divided by their number."""
        raise NotImplementedError

    def mean_task(self, scenario: ScenarioFields) -> MeanTask:
        """The mean task that arrives; by default from the sizes and densities of the scenario."""
        size = (scenario.task_size_min + scenario.task_size_max) / 2
        return MeanTask(size, size * ((scenario.density_min + scenario.density_max) / 2))

    @property
    def implied(self) -> bool:
        """Whether these parameters imply this process in a scenario that names none."""
        return False

    def settled(self, scenario: ScenarioFields) -> ArrivalProcess:
        """The process, with parameters that follow from the scenario filled in."""
        del scenario
        return self

    def check(self, scenario: ScenarioFields) -> None:
        """Raise InputError if the scenario cannot be simulated with this process."""

    def check_training(self, scenario: ScenarioFields) -> None:
        """Raise InputError if agents cannot be trained on it."""

    def check_unseen(self, scenario: ScenarioFields, trained: Mapping[str, Any]) -> None:
        """Raise InputError if agents would be evaluated on arrivals that they were trained on.

        Args:
          trained: the scenario of their training, as a table.
        """

    def own(self, scenario: ScenarioFields, max_tasks: int) -> Any:
        """This scenario's part of `Tables.own`: a pytree of arrays whose shapes depend on no parameter.

        Args:
          max_tasks: the number of positions, including padding.
        """

    @classmethod
    def common(cls, processes: Sequence[Any], scenarios: Sequence[ScenarioFields], max_tasks: int) -> Any:
        """`Tables.common` for scenarios that are simulated together."""

    @staticmethod
    def workload(
        shape: Shape,
        params: Params,
        tables: Tables,
        seed: UInt32[Array, ""],
        episode: int | Array,
        segment: Segment | None,
        training: bool | Array,
    ) -> Workload:
        """The workload of a seed's episode, or of a segment of it.

        Args:
          tables: the results of `common` and `own` for the scenario.
          segment: the part of the episode to generate; None for all of it.
          training: whether agents are trained on it.
        """
        raise NotImplementedError

    @staticmethod
    def before(num_servers: int) -> Any:
        """The state that is carried into the first segment of an episode."""

    @staticmethod
    def after(workload: Any) -> Any:
        """The state that the workload of a segment carries into the next one."""

    def stretches(self, scenario: ScenarioFields, seeds: np.ndarray, episode: int) -> np.ndarray:
        """`[seeds]`, numbers from 0: seeds with equal numbers are evaluated on the same arrivals."""
        raise NotImplementedError

    @classmethod
    def provenance(cls, processes: Sequence[Any], scenarios: Sequence[ScenarioFields]) -> dict[str, Any]:
        """The entries of a manifest about the files behind the scenarios of a study."""
        del processes, scenarios
        return {}

    def words(self, scenario: ScenarioFields) -> str:
        """The arrivals of a scenario, as a part of a sentence."""
        load = f", probability {scenario.arrival_prob:g}" if "arrival_prob" in self.varied else ""
        return f"{self.title or self.name} arrivals at {scenario.num_tasks} positions per base station{load}"

    def to_dict(self) -> dict[str, Any]:
        """The class, its parameters and the digest of its code, as plain data."""
        kind = type(self)
        return {
            "process": f"{kind.__module__}.{kind.__qualname__}",
            "digest": identify(self).digest,
            "parameters": {name: _plain(value) for name, value in self.__getstate__().items()},
        }

    def __getstate__(self) -> dict[str, Any]:
        """The parameters alone, without cached values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    """A parameter as plain data for JSON; any other object is given by name, since the digest covers it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return name_of(value)


def offered_load(process: ArrivalProcess, scenario: ScenarioFields) -> float:
    """The offered load ρ: the mean work that arrives per second, divided by the capacity of the whole fleet.

    Work is in Gcycles. With an image service, it is in seconds of device time, including the overhead of each
    image batch, and what one server does to start a task: each further member of a set starts too. Above 1,
    backlogs grow without bound, however tasks are distributed over the servers.
    """
    task, capacities = process.mean_task(scenario), scenario.capacities
    if scenario.service is not None:  # the overhead of an image batch takes the time of some steps
        steps = task.work / task.size
        starts: Any = scenario.service.starts
        whole = steps + scenario.service.overhead
        if starts is not None:
            whole = whole + Starts(*starts).of_task(steps) / task.size
        capacities = capacities * steps / whole
    arriving = process.moments(scenario)[0] * scenario.num_servers / scenario.slot_duration
    return arriving * task.work / float(np.sum(capacities))
