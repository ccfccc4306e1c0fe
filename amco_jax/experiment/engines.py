"""Where units are computed: in this process, or on a Ray cluster. Results go to the store."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax

from amco_jax.errors import InputError, check_choice, check_whole
from amco_jax.experiment.store import Store
from amco_jax.experiment.units import Job, Unit, run_unit
from amco_jax.runtime import configure

ENGINES = ("local", "ray")


@runtime_checkable
class Engine(Protocol):
    """Computes units, in any order, and commits each to the store."""

    def submit(self, unit: Unit) -> None:
        """Ask for a unit."""
        ...

    def as_completed(self) -> Iterator[Unit]:
        """Yield the units asked for, each once it is committed."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a sweep is carried out; nothing of it changes a result."""

    engine: str = "local"
    """local: in this process, on all its devices; ray: on a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster: auto, or ray://host:port; by default a new one on this machine."""
    cpus_per_unit: int = 1
    """Cores that Ray sets aside for a unit; a unit takes a whole GPU where the cluster has some."""
    shard: str = "0/1"
    """i/n: compute the i-th of n parts, from 0, of the units. Who finds all units done writes the results."""
    resume: bool = False
    """Go on with what stands in the output directory."""
    recompute: bool = False
    """With resume: compute anew what is damaged in the output directory."""

    def __post_init__(self):
        check_choice("engine", self.engine, ENGINES)
        check_whole("cpus_per_unit", self.cpus_per_unit)
        self.part()
        if self.recompute and not self.resume:
            raise InputError("recompute: true; legal: with resume")

    def part(self) -> tuple[int, int]:
        """The shard as numbers (i, n).

        Raises:
          InputError: it is no shard.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.shard)
        if found is None or not int(found[1]) < int(found[2]):
            raise InputError(f"shard: {self.shard!r}; legal: i/n with i from 0 to n - 1")
        return int(found[1]), int(found[2])

    @property
    def joins(self) -> bool:
        """Whether it may find the units of others in the output directory."""
        return self.resume or self.part()[1] > 1

    def start(self, job: Job, store: Store, tell: Callable[[Unit, int], None]) -> Engine:
        """The engine; `tell` is called with a unit and a number of episodes each time that some are done.

        Raises:
          InputError: Ray is not installed, or no cluster answers.
        """
        if self.engine == "ray":
            return RayEngine(job, store, tell, self.address, self.cpus_per_unit)
        return LocalEngine(job, store, tell)


class LocalEngine:
    """One unit after the other in this process, each on all local devices."""

    def __init__(self, job: Job, store: Store, tell: Callable[[Unit, int], None]):
        self._job, self._store, self._tell = job, store, tell
        self._units: list[Unit] = []

    def submit(self, unit: Unit) -> None:
        """Ask for a unit."""
        self._units.append(unit)

    def as_completed(self) -> Iterator[Unit]:
        """Compute the units in the order in which they were asked for."""
        while self._units:
            unit = self._units.pop(0)
            compute(self._job, unit, self._store, functools.partial(self._tell, unit))
            yield unit


def compute(job: Job, unit: Unit, store: Store, tell: Callable[[int], None] = lambda episodes: None) -> None:
    """Compute a unit and commit it, unless another process has by now."""
    if store.committed(unit.id):
        tell(unit.episodes)
        return
    store.log("started", unit.id)
    store.commit(unit.id, run_unit(job, unit, store.journal(unit.id), tell))
    store.drop_journal(unit.id)
    store.log("committed", unit.id)


class RayEngine:
    """One Ray task per unit, in worker processes that share the store's file system.

    A task whose worker or node dies is run again on another. Only the unit's name comes back through Ray, so
    that a lost object never leads to a recomputation.
    """

    def __init__(
        self,
        job: Job,
        store: Store,
        tell: Callable[[Unit, int], None],
        address: str | None,
        cpus_per_unit: int,
    ):
        # Before Ray is imported: it would report its usage to the makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
            from ray import cloudpickle
        except ImportError as error:
            raise InputError(
                "engine: ray is not installed; legal: local, or install amco-jax[ray]"
            ) from error
        self._ray, self._tell = ray, tell
        # Workers find the user's own modules as this process does, and share its cache of compiled programs.
        paths = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        cached = getattr(jax.config, "jax_enable_compilation_cache", True)
        environment = {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": str(cached)}
        if (name := "JAX_COMPILATION_CACHE_DIR") in os.environ:
            environment[name] = os.environ[name]
        if not ray.is_initialized():
            _check_address(address)
            try:
                ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise InputError(f"address: {address!r} gives no Ray cluster: {reason}") from error
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        # Retries without end: a unit that cannot be computed raises, which is not retried.
        self._task = ray.remote(num_cpus=cpus_per_unit, num_gpus=gpus, max_retries=-1)(_ray_task)
        pickled: bytes = cloudpickle.dumps(job)  # pyright: ignore[reportPrivateImportUsage]
        self._common = pickled, str(store.directory.resolve()), cpus_per_unit
        self._units: dict[Any, Unit] = {}

    def submit(self, unit: Unit) -> None:
        """Ask for a unit."""
        self._units[self._task.remote(*self._common, unit)] = unit

    def as_completed(self) -> Iterator[Unit]:
        """Yield units as their tasks end."""
        while self._units:
            (done,), _ = self._ray.wait(list(self._units), num_returns=1)
            unit = self._units.pop(done)
            try:
                self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError) else error from None
            self._tell(unit, unit.episodes)
            yield unit


def _check_address(address: str | None) -> None:
    """Raise InputError where nothing listens at host:port; Ray would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"address: {address!r} gives no Ray cluster: {error}") from error


def _ray_task(pickled: bytes, directory: str, cpus: int, unit: Unit) -> str:
    configure(cpus)
    compute(_job(pickled), unit, Store(Path(directory)))
    return unit.id


@functools.lru_cache(maxsize=2)  # one job object per process, so that nothing is compiled twice
def _job(pickled: bytes) -> Job:
    from ray import cloudpickle

    return cloudpickle.loads(pickled)
