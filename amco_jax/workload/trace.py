"""Arrivals from a request log: each seed and episode plays a stretch of it.

Trainings draw their stretches at random from the earlier part of the log. Evaluations play disjoint stretches
of the later part, so that two seeds either play the same stretch or have no request in common.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32

from amco_jax.env import Task
from amco_jax.errors import InputError, check_number
from amco_jax.params import Params
from amco_jax.random import Key, Stream, bits, fold_in, stream, unit
from amco_jax.service import MAX_ITEMS
from amco_jax.traces import RequestLog, Trace, as_trace
from amco_jax.traces.stretches import Stretches, longest_slot
from amco_jax.workload.counts import expected_beyond
from amco_jax.workload.process import ArrivalProcess, MeanTask, Quantity, ScenarioFields, offered_load
from amco_jax.workload.tasks import DrawnTasks

_MAX_LOAD = 0.8
_MIN_STRETCHES = 16


class Requests(NamedTuple):
    """The log in chronological order, followed by as many padding entries as there are positions."""

    user: Int[Array, " requests"]
    size: Float[Array, " requests"] | None
    """Mbit; None if sizes are drawn"""
    density: Float[Array, " requests"] | None
    """Gcycles/Mbit; None if densities are drawn"""
    work: Float[Array, " requests"] | None
    """Gcycles; None if it is size times density"""


class Slots(NamedTuple):
    """The division of the log into the slots of one scenario."""

    num_positions: Int[Array, ""]
    """The largest number of requests in a slot"""
    starts: Int[Array, ""]
    """The number of slots, from slot 0 on, at which a training episode may start"""
    first: Int[Array, ""]
    """The first slot of the first test stretch"""
    num_stretches: Int[Array, ""]
    """The number of test stretches"""
    spacing: Int[Array, ""]
    """The number of slots from the start of a test stretch to that of the next"""
    stride: Int[Array, ""]
    """The number of test stretches from that of a seed to that of the next seed"""
    slot: Int[Array, " requests"]
    """The slot of each request"""
    share: Float[Array, " requests"]
    """The time of each request within its slot, as a share of the slot, followed by as many padding entries
    as there are positions"""


def _time_scales(process: TraceArrivals, scenario: ScenarioFields) -> Sequence[float]:
    """Time scales up to an offered load of 0.8, or up to the largest one that the log's length allows."""
    top = _MAX_LOAD * process.time_scale / offered_load(process, scenario)
    top = min(top, process.largest_time_scale(scenario, _MIN_STRETCHES))
    return [float(f"{top * share:.3g}") for share in (0.125, 0.25, 0.5, 0.75, 1.0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceParameters:
    """The parameters of arrivals from a request log."""

    trace: Trace | None = None
    """A request log, or a table of the fields of `Trace`"""
    time_scale: float = None  # pyright: ignore[reportAssignmentType]  # follows from the scenario
    """Seconds of the trace per second of the simulation; by default 1, or less if the trace is short"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceArrivals(TraceParameters, ArrivalProcess):
    """The requests of a log; the base station of each user is drawn for each seed."""

    name = "trace"
    varied: ClassVar[Mapping[str, Quantity]] = {
        "time_scale": Quantity(
            "seconds of the trace in a second of the simulation", _time_scales, tasks_per="second"
        )
    }
    fuses = False
    has_stretches = True

    def __post_init__(self):
        if self.trace is not None:
            object.__setattr__(self, "trace", as_trace(self.trace))
        if self.time_scale is not None:
            object.__setattr__(self, "time_scale", check_number("time_scale", self.time_scale))

    @property
    def implied(self) -> bool:
        """Whether a log is given, which implies this process."""
        return self.trace is not None

    @property
    def log(self) -> RequestLog:
        """The requests."""
        assert self.trace is not None
        return self.trace.log

    @property
    def num_users(self) -> int:
        """The number of users in the log."""
        return int(np.max(self.log.user, initial=-1)) + 1

    def settled(self, scenario: ScenarioFields) -> TraceArrivals:
        """The process with a time scale of 1, or the largest one that the log allows."""
        if self.time_scale is not None:
            return self
        largest = math.inf if self.trace is None else self.largest_time_scale(scenario)
        return dataclasses.replace(self, time_scale=min(1.0, largest or 1.0))

    def largest_time_scale(self, scenario: ScenarioFields, num_stretches: int = 1) -> float:
        """The largest that fits a training episode and `num_stretches` test stretches, to 3 digits."""
        assert self.trace is not None
        slot = longest_slot(
            self.log.span, scenario.num_slots, self.trace.train_share, self.trace.gap, num_stretches
        )
        scale = slot / scenario.slot_duration
        digits = 10.0 ** (math.floor(math.log10(scale)) - 2) if scale else 1.0
        return math.floor(scale / digits) * digits

    def slot_seconds(self, scenario: ScenarioFields) -> float:
        """The duration of a slot in seconds of the log."""
        return scenario.slot_duration * self.time_scale

    def cuts(self, scenario: ScenarioFields) -> Stretches:
        """The stretches of the log for training and for testing."""
        assert self.trace is not None
        return self.trace.stretches(self.slot_seconds(scenario), scenario.num_slots)

    def split(self, scenario: ScenarioFields) -> dict[str, Any]:
        """The stretches as plain data, for a manifest."""
        assert self.trace is not None
        return self.trace.split(self.slot_seconds(scenario), scenario.num_slots)

    def check(self, scenario: ScenarioFields) -> None:
        """Raise InputError unless the log holds an episode, fewer than 2³⁰ slots, and whole items."""
        if self.trace is None:
            raise InputError(
                "arrivals: 'trace'; legal with a trace: --trace FILE, or a table [trace] with its file"
            )
        length, span = self.slot_seconds(scenario), self.log.seconds[-1]
        if span / length >= 2**30:
            raise InputError(
                f"time_scale: {self.time_scale:g}; legal for this trace: from {span / 2**30 / length:g}"
            )
        if not self.cuts(scenario).num_stretches:
            trace, scale = self.trace, self.largest_time_scale(scenario)
            share = f", of which {1 - trace.train_share:g} is for testing" if trace.train_share else ""
            raise InputError(
                f"num_slots: {scenario.num_slots} of {length:g} s of the trace, which covers {span:g} s"
                f"{share}; legal: fewer, "
                f"{f'a time_scale up to {scale:g}' if scale else 'a longer trace'}, or another train_share"
            )
        for name, column in (("size", self.log.size), ("density", self.log.density)):
            if scenario.service is None or column is None:
                continue
            bad = column[(column % 1 != 0) | (column > MAX_ITEMS)]
            if len(bad):
                raise InputError(
                    f"trace.{name}: {bad[0]:g}; legal with a service: whole numbers up to {MAX_ITEMS}"
                )

    def check_training(self, scenario: ScenarioFields) -> None:
        """Raise InputError unless the training part of the log holds an episode."""
        assert self.trace is not None
        if not self.cuts(scenario).starts(scenario.num_slots):
            raise InputError(
                f"trace.train_share: {self.trace.train_share:g} of {self.log.span:g} s holds no episode of "
                f"{scenario.num_slots} slots of {self.slot_seconds(scenario):g} s; legal for training: "
                "a larger share, fewer slots, or a smaller time_scale"
            )

    def check_unseen(self, scenario: ScenarioFields, trained: Mapping[str, Any]) -> None:
        """Raise InputError if agents would be evaluated on requests that they were trained on."""
        table = trained.get("trace")
        assert self.trace is not None
        if trained["arrivals"] != self.name or not table or table["sha256"] != self.trace.sha256:
            return
        before = as_trace(table | {"file": self.trace.file})
        first = self.log.origin + self.cuts(scenario).first * self.slot_seconds(scenario)
        if first < before.training_end - self.log.error:
            raise InputError(
                f"trace.train_share: {self.trace.train_share:g}, and episodes would begin in what these "
                f"agents were trained on; legal: {before.train_share:g}, with since and until as in the "
                "training"
            )

    def num_positions(self, scenario: ScenarioFields) -> int:
        """The largest number of requests in a slot of the log, over all base stations together."""
        return int(self._counts(scenario).max())

    def moments(self, scenario: ScenarioFields) -> tuple[float, float]:
        """The moments over the slots of the whole log, with all base stations equally likely per request."""
        counts, slots = self._counts(scenario), float(self._slots(scenario)[-1]) + 1
        total = float(counts.sum()) / slots
        spread = float(np.square(counts).sum()) / slots - total**2
        share = 1 / scenario.num_servers
        return total * share, total * share * (1 - share) + spread * share**2

    def mean_task(self, scenario: ScenarioFields) -> MeanTask:
        """The mean over the log; sizes or densities that it lacks have the mean of the scenario."""
        log = self.log
        size: Any = (scenario.task_size_min + scenario.task_size_max) / 2 if log.size is None else log.size
        density: Any = (
            (scenario.density_min + scenario.density_max) / 2 if log.density is None else log.density
        )
        work = size * density if log.work is None else log.work
        return MeanTask(float(np.mean(size)), float(np.mean(work)))

    def _slots(self, scenario: ScenarioFields) -> np.ndarray:
        """`[requests]`, integral floats: the slot of each request, from 0."""
        return np.floor(self.log.in_slots(self.slot_seconds(scenario)))

    def _counts(self, scenario: ScenarioFields) -> np.ndarray:
        """The number of requests in each slot of the log that has any."""
        slots = self._slots(scenario)
        starts = np.flatnonzero(np.diff(slots, prepend=-1.0))
        return np.diff(starts, append=len(slots)).astype(float)

    @classmethod
    def common(
        cls, processes: Sequence[TraceArrivals], scenarios: Sequence[ScenarioFields], max_tasks: int
    ) -> Requests:
        """The log; InputError if the scenarios have different ones."""
        log = processes[0].log
        if any(process.trace != processes[0].trace for process in processes):
            raise InputError("trace: different ones; legal: one in all scenarios that are simulated together")

        def padded(column: np.ndarray | None, dtype: Any) -> Any:
            return None if column is None else np.pad(column.astype(dtype), (0, max_tasks), mode="edge")

        numbers = (padded(column, np.float32) for column in (log.size, log.density, log.work))
        return Requests(padded(log.user, np.int32), *numbers)

    def own(self, scenario: ScenarioFields, max_tasks: int) -> Slots:
        """The division of the log into slots."""
        cuts, place = self.cuts(scenario), self.log.in_slots(self.slot_seconds(scenario))
        slot = np.floor(place)
        # In float32, the end of a slot could otherwise round up to the start of the next one.
        share = np.minimum(place - slot, 1 - 2.0**-24)
        share = np.pad(share.astype(np.float32), (0, max_tasks), mode="edge")
        places = (cuts.starts(scenario.num_slots), cuts.first, cuts.num_stretches, cuts.spacing, cuts.stride)
        num_positions = np.int32(self.num_positions(scenario))
        return Slots(num_positions, *map(np.int32, places), slot.astype(np.int32), share)  # pyright: ignore

    @staticmethod
    def workload(shape, params, tables, seed, episode, segment, training) -> Traced:
        """Users and kinds of requests are drawn once per seed, the stretch anew in each episode."""
        del params
        slots: Slots = tables.own
        key = stream(seed, Stream.TRACE)
        windows, stations, draws = (fold_in(key, purpose) for purpose in range(3))
        fraction = unit(bits(windows, episode), jnp.float32)
        # Beyond 2²⁴ slots, the product may round up to their number.
        window = jnp.minimum((fraction * slots.starts).astype(jnp.int32), slots.starts - 1)
        stretch = stretch_at(slots.num_stretches, slots.stride, seed, episode).astype(jnp.int32)
        start = jnp.where(training, window, slots.first + stretch * slots.spacing)
        since = None if segment is None else segment.first
        edges = start + (0 if since is None else since) + jnp.arange(shape.num_slots + 2)
        return Traced(
            requests=tables.common,
            share=slots.share,
            most=slots.num_positions,
            first=jnp.searchsorted(slots.slot, edges).astype(jnp.int32),
            since=since,
            stations=stations,
            draws=draws,
            tasks=DrawnTasks(stream(seed, Stream.DENSITY)),
            max_tasks=shape.max_tasks,
        )

    def stretches(self, scenario: ScenarioFields, seeds: np.ndarray, episode: int) -> np.ndarray:
        """The stretch of the log that each seed plays in an evaluated episode."""
        cuts = self.cuts(scenario)
        played = stretch_at(cuts.num_stretches, cuts.stride, seeds.astype(np.uint32), episode)
        return np.asarray(played).astype(np.int64)

    @classmethod
    def provenance(
        cls, processes: Sequence[TraceArrivals], scenarios: Sequence[ScenarioFields]
    ) -> dict[str, Any]:
        """How the log was read, and how it is split for each scenario."""
        splits = [p.split(scenario) for p, scenario in zip(processes, scenarios, strict=True)]
        return {"trace": processes[0].log.report | {"splits": splits}}

    def words(self, scenario: ScenarioFields) -> str:
        """The arrivals of a scenario, as a part of a sentence."""
        return f"arrivals of a request log, {self.time_scale:g} s of it in a second"


def stretch_at(count: Any, stride: Any, seed: Any, episode: Any) -> UInt32[Array, "*seeds"]:
    """The number of the test stretch, from 0 to `count` - 1, that a seed plays in an episode.

    Consecutive seeds visit all stretches in steps of `stride` before one repeats. An episode shifts them all.
    """
    count, stride, seed = (jnp.asarray(x).astype(jnp.uint32) for x in (count, stride, seed))
    shift = bits(fold_in(stream(jnp.uint32(0), Stream.TRACE), 3), episode)
    return (seed % count * stride % count + shift % count) % count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Traced:
    """A stretch of a log.

    Each base station has a position for every request of the slot, which stays empty if the request arrives
    at another base station. No request is ever lost, and no array per seed is as long as the log.
    """

    requests: Requests
    share: Float[Array, " requests"]
    """See `Slots`"""
    most: Int[Array, ""]
    """The largest number of requests in a slot"""
    first: Int[Array, " num_slots+2"]
    """The first request of each slot of the episode or segment, and of the two slots after it"""
    since: Int[Array, ""] | None
    """The first slot of the segment; None if that is slot 0"""
    stations: Key
    draws: Key
    tasks: DrawnTasks
    max_tasks: int = dataclasses.field(metadata={"static": True})

    def num_positions(self, params: Params) -> Array:
        """The largest number of requests in a slot of the log."""
        del params
        return self.most

    def expected_after(self, params: Params, passed: Array, mean: Array, known: bool) -> Array:
        """The share of each base station in the expected rest of a Poisson count of all requests.

        All base stations share the positions of a slot. So those that have passed tell of all requests, and
        each of the rest is at a base station with a probability in proportion to its mean.
        """
        del params
        total = jnp.sum(mean)
        share = mean / jnp.where(total > 0, total, 1)
        return expected_beyond(passed, jnp.broadcast_to(total, mean.shape), known) * share

    def count(self, t: Array) -> Int[Array, ""]:
        """The number of requests of slot `t`."""
        here = t if self.since is None else t - self.since
        return self.first[here + 1] - self.first[here]

    def times(self, params: Params, t: Array, b: Array) -> Float[Array, " max_tasks"]:
        """The times of the requests of slot `t`, as shares of it, which are the same at all base stations."""
        del params, b
        first = self.first[t if self.since is None else t - self.since]
        return lax.dynamic_slice(self.share, (first,), (self.max_tasks,))

    def row(self, params: Params, t: Array, b: Array) -> tuple[Any, Callable[..., Task]]:
        """The requests of slot `t` whose users are at base station `b`."""
        here = t if self.since is None else t - self.since
        first, count = self.first[here], self.count(t)
        num_servers = params.capacity.shape[0]
        slot = jax.tree.map(lambda x: lax.dynamic_slice(x, (first,), (self.max_tasks,)), self.requests)

        def task_at(position: tuple[Array, Requests]) -> Task:
            n, request = position
            station = (unit(bits(self.stations, request.user), jnp.float32) * num_servers).astype(jnp.int32)
            size, density = self.tasks.draw(params, bits(self.draws, first + n))
            size = size if request.size is None else request.size
            density = density if request.density is None else request.density
            work = size * density if request.work is None else request.work
            return Task((n < count) & (station == b), size, work, request.user)

        return (jnp.arange(self.max_tasks), slot), task_at
