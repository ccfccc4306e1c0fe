"""Run a fleet of real workers that repair images, and compare it with its simulation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from amco_jax.cli.arguments import (
    OutputArguments,
    ProgramArguments,
    SettingsArguments,
    TraceArguments,
    load_method,
    physics_argument,
)
from amco_jax.errors import InputError, check_whole
from amco_jax.extras import check_package, load_package
from amco_jax.files import check_writable
from amco_jax.scenario.axes import load_with_settings, parse_assignments, parse_value
from amco_jax.service.latency import write_table
from edge_fleet.configuration import FleetSettings, in_fleet, kernel_rates, load_settings
from edge_fleet.engines import EngineSettings, load_engine
from edge_fleet.security import Address, Keys, make_keys, parse_address, read_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrewArguments(SettingsArguments, ProgramArguments):
    """Arguments of the commands that need workers."""

    warmup: Annotated[None, tyro.conf.Fixed, tyro.conf.Suppress] = None
    """Not for fleets, which count all slots"""
    scenario: str = "jetson-sd15"
    """A preset or a TOML file, whose table [fleet] says how workers run."""
    fleet: tuple[str, ...] = ()
    """Changes to that table, as field=value ..., such as engine=tiny speed=20 size=64; see docs/fleet.md."""
    workers: tuple[str, ...] = ()
    """Addresses of workers that are already running, as host:port ..., one for each server. By default, all
    of them are started on this machine, and end with the command."""
    keys: Path | None = None
    """The directory of keys, which workers on other machines need; see the command keys."""
    ray: str | None = None
    """Start the workers on the Ray cluster at this address: auto, or ray://host:port. Needs --keys."""

    def settings_of_fleet(self) -> FleetSettings:
        """The settings that the arguments describe."""
        changes = parse_assignments("fleet", self.fleet)
        return load_settings(self.scenario, {name: parse_value(text) for name, text in changes.items()})

    def crew(
        self, settings: FleetSettings, names: list[str], rates: list[float] | None = None
    ) -> Callable[[], AbstractContextManager[Any]]:
        """A function that starts the workers, or finds them; with `netns`, behind links of these rates."""
        from edge_fleet import launching

        if self.keys is not None and not self.workers and self.ray is None:
            raise InputError(f"keys: {self.keys} without --workers or --ray; legal: with one of them")
        if settings.netns and (self.workers or self.ray is not None):
            raise InputError("netns: with --workers or --ray; legal: with workers on this machine")

        if not self.workers and self.ray is None and settings.engine != "classical":
            check_package("torch")  # long before the workers need it
        keys = None if self.keys is None else read_keys(self.keys, server=self.ray is not None)
        if self.ray is not None:
            if self.workers or keys is None:
                raise InputError("ray: with --workers or without --keys; legal: with --keys alone")
            return lambda: launching.ray_workers(settings.engine_settings, names, self.ray, keys)
        if self.workers:
            crew = launching.crew_at(self.workers, keys, len(names))
            return lambda: contextlib.nullcontext(crew)
        if settings.netns:
            return lambda: launching.workers_in_namespace(
                settings.engine_settings, names, settings.restart, rates or []
            )
        return lambda: launching.local_workers(settings.engine_settings, names, settings.restart)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(CrewArguments, TraceArguments, OutputArguments):
    """Run a method on the fleet, and measure each request beside what was predicted for it."""

    method: str | None = None
    """Name of a method without training, or module:attribute for an amco_jax.Method of your own; by default,
    optimal."""
    agents: Path | None = None
    """The directory of a finished training, whose agents decide instead; see train.py."""
    agent_seed: int | None = None
    """The seed of these agents; by default, the first that was trained."""
    physics: Annotated[
        str,
        physics_argument(
            ". This is the model by which the method decides and times are predicted; the links of the fleet "
            "do not depend on it"
        ),
    ] = "serial"
    seed: int = 0
    """Seed of arrivals and images."""
    episodes: int = 1
    """Number of episodes; five or more give useful intervals."""
    netns: bool = False
    """Links are token buckets of the kernel between network namespaces, which needs Linux and root."""
    resume: bool = False
    """Continue the run in the output directory."""

    resumes: ClassVar[bool] = True

    def carry_out(self) -> None:
        """Run, print and write the results."""
        from edge_fleet.display import print_results
        from edge_fleet.run import Plan, run_fleet

        check_whole("episodes", self.episodes, 1, 10_000)
        if self.agents is None and self.agent_seed is not None:
            raise InputError(f"agent_seed: {self.agent_seed} without --agents; legal: with --agents DIR")
        if self.agents is not None and self.method is not None:
            raise InputError(f"method: {self.method} with --agents; legal: one of them")
        settings = self.settings_of_fleet()
        settings = dataclasses.replace(settings, netns=self.netns or settings.netns)
        scenario = load_with_settings(self.scenario, self.settings(), self.trace_fields())
        common = dict[str, Any]({"settings": settings, "seed": self.seed})
        if self.agents is None:
            method, numbers = load_method(self.method or "optimal"), tuple(range(self.episodes))
            plan = Plan(scenario=scenario, method=method, physics=self.physics, episodes=numbers, **common)
        else:
            plan = Plan.of_agents(
                self.agents, scenario, self.episodes, self.agent_seed, physics=self.physics, **common
            )
        out = self.destination("fleet")
        rates = kernel_rates(plan.scenario, settings) if settings.netns else None
        result = run_fleet(
            plan, self.crew(settings, plan.names, rates), out,
            resume=self.resume, overwrite=self.overwrite, progress=not self.quiet,
        )  # fmt: skip
        if not self.quiet:
            print_results(result.requests, result.images, result.summary, result.facts)
            print(f"Requests, repaired images, summary and manifest are in {out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile(CrewArguments):
    """Measure all workers at once, and write a latency table with a device for each worker."""

    out: Path
    """The latency table to write, a .csv file."""
    steps: tuple[int, ...] = (10, 20)
    """Numbers of denoising steps; two or more give a fit."""
    repeats: int = 5
    """Measured items for each number of steps; 20 or more give a 95th percentile."""

    def carry_out(self) -> None:
        """Measure, write, and say how to use the table."""
        from edge_fleet.profile import check_profile, profile_fleet

        if self.out.suffix != ".csv" or not self.out.parent.is_dir():
            raise InputError(f"out: {self.out}; legal: a .csv file in a directory that exists")
        settings = self.settings_of_fleet()
        scenario = in_fleet(load_with_settings(self.scenario, self.settings(), None))
        service = scenario.service
        assert service is not None
        names = [f"worker {i}" for i in range(scenario.num_servers)]
        measured = {
            "steps": self.steps, "repeats": self.repeats, "side": settings.size or service.resolution
        }  # fmt: skip
        check_profile(scenario, settings, **measured)
        workers = self.crew(settings, names)
        check_writable(self.out)
        with workers() as crew:
            rows = profile_fleet(scenario, settings, crew, **measured)
        write_table(rows, self.out)
        devices = list(dict.fromkeys(row["device"] for row in rows))
        print(f"{self.out}: {len(rows)} rows. To simulate or run this fleet, write into a scenario's file:")
        print(f"[service]\ndevices = {json.dumps(devices)}\ntables = [{json.dumps(str(self.out))}]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """Start one worker, which serves one run at a time until it is stopped."""

    listen: str = "127.0.0.1:7000"
    """host:port to listen on; the port 0 chooses a free one. Other hosts than the loopback address need
    --keys."""
    keys: Path | None = None
    """The directory of keys, made by the command keys."""
    name: str = "worker"
    """The name of the worker in results."""
    settings: EngineSettings = dataclasses.field(default_factory=EngineSettings)

    def carry_out(self) -> None:
        """Serve until interrupted."""
        from edge_fleet import worker as server

        address = parse_address(self.listen)
        keys = None if self.keys is None else read_keys(self.keys, server=True)
        server.check_listening(address, keys)  # before the engine takes its time
        engine = load_engine(self.settings)

        def listening(port: int) -> None:
            print(f"{self.name} listens on {Address(address.host, port)}", flush=True)

        async def serve() -> None:
            worker = server.Worker(engine, self.name, self.settings)
            await server.serve(worker, address, keys, listening)

        asyncio.run(serve())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """Show which workers are alive, what they have to do, and how fast they are."""

    workers: tuple[str, ...]
    """Addresses as host:port ..."""
    keys: Path | None = None
    """The directory of keys."""

    def carry_out(self) -> None:
        """Ask all of them, and print their answers."""
        from edge_fleet.display import print_status

        if not self.workers:
            raise InputError("workers: none; legal: at least one address")
        keys = None if self.keys is None else read_keys(self.keys, server=False)
        addresses = [parse_address(text) for text in self.workers]

        async def ask() -> list[dict[str, Any]]:
            return await asyncio.gather(*(_status(address, keys) for address in addresses))

        print_status(asyncio.run(ask()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeKeys:
    """Make a token and a certificate for workers on other machines."""

    directory: Annotated[Path, tyro.conf.Positional]
    """A directory for them, to be copied to the machines of the workers and of the scheduler, and nowhere
    else."""

    def carry_out(self) -> None:
        """Write the files, and print their paths."""
        for path in make_keys(self.directory):
            print(path)


@dataclasses.dataclass(frozen=True)
class Arguments:
    command: (
        Annotated[Run, tyro.conf.subcommand("run")]
        | Annotated[Profile, tyro.conf.subcommand("profile")]
        | Annotated[Worker, tyro.conf.subcommand("worker")]
        | Annotated[Status, tyro.conf.subcommand("status")]
        | Annotated[MakeKeys, tyro.conf.subcommand("keys")]
    )


def main(args: Run | Profile | Worker | Status | MakeKeys) -> None:
    load_package("grpc")
    args.carry_out()


def write_page(directory: Path, out: Path) -> Path:
    """Write the page of a run, as the command `report` does, and return its path.

    Raises:
      InputError: the run is not finished or damaged, or `out` cannot be written.
    """
    from edge_fleet import page

    return page.write_page(directory, out)


async def _status(address: Address, keys: Keys | None) -> dict[str, Any]:
    from edge_fleet.client import CallError, Client

    client = Client(address, keys)
    try:
        found = dict((await client.call("Status", {}, timeout=3.0)).fields)
    except CallError as error:
        return {"address": address, "state": "–", "trouble": error.reason}
    finally:
        await client.close()
    each = found["computed_s"] / found["done"] if found.get("done") else None
    return {
        "address": address, "worker": f"{found.get('name', '')}, {found.get('engine', '')}",
        "state": "in use" if found.get("held") else "idle", "queue": found.get("queue", ""),
        "done": found.get("done", ""), "s per item": "" if each is None else f"{each:.3g}",
        "overruns": found.get("overruns", ""),
    }  # fmt: skip
