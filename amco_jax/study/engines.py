"""Engines, which compute units in this process or on a Ray cluster, and commit the results to a store."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import jax
import tyro

from amco_jax.compile.runtime import configure
from amco_jax.errors import InputError, check_choice, check_number, check_whole, first_line
from amco_jax.extras import load_package
from amco_jax.identity import code_version
from amco_jax.results.provenance import package_versions
from amco_jax.results.store import Store
from amco_jax.study.agents import AgentStore
from amco_jax.study.chunks import for_this_device
from amco_jax.study.units import Unit, run_unit

ENGINES = ("local", "ray")

UNIT_SECONDS = {"cpu": 120.0, "accelerator": 3600.0}
"""Default nominal duration of a unit on two CPU cores, s; an accelerator needs many seeds to be busy"""


@runtime_checkable
class Engine(Protocol):
    """Computes units, in any order, and commits each to its store."""

    def run(self, todo: Sequence[Work]) -> None:
        """Compute units, until all are committed."""
        ...


class Work(NamedTuple):
    """A unit, the store for its rows, and the store of the agents that it needs."""

    unit: Unit
    store: Store
    agents: AgentStore


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a study is run; none of these options affects its results, except that trained methods round
    differently where a unit has a single core."""

    engine: str = "local"
    """The engine that computes the units of work, local (this process, on all its devices) or ray (a Ray
    cluster)."""
    address: str | None = None
    """Address of the Ray cluster, which is auto for the one on this machine, or of the form
    ray://host:port. By default, a new local cluster is started and stopped with the run, regardless of other
    clusters and RAY_ADDRESS."""
    cpus_per_unit: int = 1
    """Cores that Ray reserves per unit; a unit also reserves a whole GPU if the cluster has any. Trained
    methods round differently with one core than with several."""
    shard: str = "0/1"
    """The part of the units to compute, i/n for the i-th of n parts, from 0. The shard that completes the
    units writes the results."""
    resume: bool = False
    """Continue the run in the output directory."""
    recompute: bool = False
    """When resuming, recompute damaged files in the output directory."""
    unit_seconds: float | None = None
    """Nominal duration of a unit on two CPU cores, which is the most work that a killed process loses. By
    default, it is that of the study that the output directory holds, or else 120, and 3600 on a GPU, which
    is many times as fast."""
    shared_agents: Annotated[Path | None, tyro.conf.arg(name="store")] = None
    """Directory of trained agents that several runs share; by default, each run has its own."""

    def __post_init__(self):
        check_choice("engine", self.engine, ENGINES)
        check_whole("cpus_per_unit", self.cpus_per_unit)
        for name, default in (("address", None), ("cpus_per_unit", 1)):
            if self.engine != "ray" and (value := getattr(self, name)) != default:
                raise InputError(f"{name}: {value!r}; legal with the engine ray alone")
        if self.unit_seconds is not None:
            check_number("unit_seconds", self.unit_seconds)
        self.part()
        if self.recompute and not self.resume:
            raise InputError("recompute: true; legal: with resume")

    def part(self) -> tuple[int, int]:
        """The shard as numbers (i, n).

        Raises:
          InputError: `shard` is not of the form i/n with 0 ≤ i < n.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if found is None or not int(found[1]) < int(found[2]):
            raise InputError(f"shard: {self.shard!r}; legal: i/n with i from 0 to n - 1")
        return int(found[1]), int(found[2])

    def seconds_per_unit(self, begun: float | None) -> float:
        """The nominal duration of a unit on two CPU cores.

        Args:
          begun: that of the study in the output directory, or None if there is none.
        """
        if self.unit_seconds is not None:
            return self.unit_seconds
        if begun is not None and self.joins:
            return begun
        # The nodes of a Ray cluster need not be like this machine.
        return UNIT_SECONDS["cpu"] if self.engine == "ray" else for_this_device(UNIT_SECONDS)

    @property
    def joins(self) -> bool:
        """Whether the output directory may contain units of other processes."""
        return self.resume or self.part()[1] > 1

    def start(self, tell: Callable[[Unit, int], None]) -> Engine:
        """Start the engine; `tell` is called with a unit and a number of episodes whenever they are done.

        Raises:
          InputError: Ray is not installed, or no cluster responds.
        """
        if self.engine == "ray":
            return RayEngine(tell, self.address, self.cpus_per_unit)
        return LocalEngine(tell)


class LocalEngine:
    """Computes units one at a time in this process, each on all local devices."""

    def __init__(self, tell: Callable[[Unit, int], None]):
        self._tell = tell

    def run(self, todo: Sequence[Work]) -> None:
        """Compute units in their order."""
        for work in todo:
            compute(work, functools.partial(self._tell, work.unit))


def compute(work: Work, tell: Callable[[int], None] = lambda episodes: None) -> None:
    """Compute a unit and commit it, unless another process already has."""
    unit, store = work.unit, work.store
    if store.committed(unit.id):
        tell(unit.episodes)
        return
    store.log("started", unit.id)
    store.commit(unit.id, run_unit(unit, work.agents, store.journal(unit.id), tell))
    store.drop_journal(unit.id)
    store.log("committed", unit.id)


class RayEngine:
    """Runs one Ray task per unit, in worker processes that share the file system of the store.

    If a worker or node dies, its tasks run again elsewhere. Only the unit's name is returned through Ray, so
    that a lost object never causes a recomputation.
    """

    def __init__(self, tell: Callable[[Unit, int], None], address: str | None, cpus_per_unit: int):
        self._connected_before = _is_connected()
        self._ray = ray = connect_to_ray(address)
        self._tell = tell
        from ray import cloudpickle

        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        # Unlimited retries are safe, as exceptions are not retried. Calls per worker are unlimited, since on
        # GPUs Ray would otherwise start a worker for each unit, which would compile every program anew.
        task = ray.remote(num_cpus=cpus_per_unit, num_gpus=gpus, max_retries=-1, max_calls=0)
        self._task = task(_ray_task)
        self._dumps: Callable[[list[Work]], bytes] = cloudpickle.dumps  # pyright: ignore[reportPrivateImportUsage]
        self._cpus = cpus_per_unit

    def run(self, todo: Sequence[Work]) -> None:
        """Start a task for each unit, and wait for all of them; then leave the cluster, or stop one's own."""
        try:
            self._run(todo)
        finally:
            if not self._connected_before:
                self._ray.shutdown()

    def _run(self, todo: Sequence[Work]) -> None:
        pickled = self._dumps([*todo])
        tasks = {self._task.remote(pickled, n, self._cpus, _code()): work.unit for n, work in enumerate(todo)}
        while tasks:
            (done,), _ = self._ray.wait(list(tasks), num_returns=1)
            unit = tasks.pop(done)
            try:
                self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError) else error from None
            self._tell(unit, unit.episodes)


def _is_connected() -> bool:
    """Whether this process is connected to a Ray cluster; without an import of Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def connect_to_ray(address: str | None) -> Any:
    """Connect to a Ray cluster, unless this process already has, and return the module of Ray.

    Args:
      address: see `Execution`.

    Raises:
      InputError: Ray is not installed, or no cluster responds.
    """
    # Must be set before Ray is imported, as Ray sends usage statistics to its developers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = load_package("ray")
    # Workers find the user's modules as this process does, and share its cache of compiled programs.
    paths = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    cached = getattr(jax.config, "jax_enable_compilation_cache", True)
    environment = {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": str(cached)}
    if (name := "JAX_COMPILATION_CACHE_DIR") in os.environ:
        environment[name] = os.environ[name]
    if not ray.is_initialized():
        _check_address(address)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            # Without an address, Ray would join a running local cluster, or the one in RAY_ADDRESS.
            ray.init(address=address or "local", runtime_env={"env_vars": environment}, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"address: {address!r} gives no Ray cluster: {first_line(error)}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray replaces the handler
    return ray


def _check_address(address: str | None) -> None:
    """Raise InputError if nothing listens at host:port, where Ray would retry for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"address: {address!r} gives no Ray cluster: {error}") from error


def _ray_task(pickled: bytes, number: int, cpus: int, code: tuple[Any, ...]) -> str:
    if code != _code():
        raise InputError(
            f"engine: {socket.gethostname()} has another version of this package, or of those that it needs; "
            "legal: the same on all nodes"
        )
    configure(cpus)
    work = _unpickled(pickled)[number]
    compute(work)
    return work.unit.id


def _code() -> tuple[Any, ...]:
    """The versions that must be the same on a worker as in the process that named the units."""
    return code_version(), package_versions()


@functools.lru_cache(maxsize=2)  # one object per method and process, so that nothing is compiled twice
def _unpickled(pickled: bytes) -> list[Work]:
    from ray import cloudpickle

    return cloudpickle.loads(pickled)
