"""A run of a fleet from its plan to its files, resumable from its journal."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError, check_whole
from amco_jax.files import remove_abandoned
from amco_jax.random import check_seed
from amco_jax.results.provenance import provenance
from amco_jax.results.saved import MANIFEST
from amco_jax.scenario import Scenario
from amco_jax.study.evaluate import load_run
from amco_jax.study.grid import identity_of
from amco_jax.study.output import Output
from edge_fleet.client import check_item
from edge_fleet.columns import KIND
from edge_fleet.configuration import FleetSettings, in_fleet
from edge_fleet.decisions import Arrival, Decider, Simulated, SlotKnowledge, seconds_alone
from edge_fleet.display import show_progress
from edge_fleet.journal import FILE, Journal
from edge_fleet.launching import Crew
from edge_fleet.pictures import Pictures
from edge_fleet.results import Committed, images_table, requests_table, summary_table
from edge_fleet.scheduler import IMAGES, Request, Scheduler
from sd_repair.reading import load_image

NO_LINKS = 1e9
"""Mbit/s of all links if transfers take no time"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does; a run can be resumed only with an equal plan.

    Raises:
      InputError: the scenario cannot be run by a fleet, or a number is out of range.
    """

    scenario: Scenario
    settings: FleetSettings
    method: Method
    physics: str = "serial"
    agent: Any = None
    """Trained agents, leaves `[num_servers, ...]`; None for rules"""
    agents: str = ""
    """Which agents they are"""
    seed: int = 0
    episodes: tuple[int, ...] = (0,)
    """The numbers of the episodes of the seed that are played, one after another"""

    def __post_init__(self):
        scenario = in_fleet(self.scenario)
        # Decisions and predictions count no transfers where the fleet has none.
        scenario = scenario if self.settings.links else scenario.replace(link_rate=NO_LINKS)
        object.__setattr__(self, "scenario", scenario)
        check_seed("seed", self.seed)
        for episode in self.episodes:
            check_whole("episodes", episode, 0, 2**31)
        self.method.check_usable()
        self.method.check(self.scenario.num_servers)
        if self.method.training is not None and self.agent is None:
            raise InputError(f"method: {self.method.name} is trained; legal: --agents DIR, or a rule")

    @classmethod
    def of_agents(
        cls, directory: Path, scenario: Scenario, episodes: int, agent_seed: int | None = None, **others: Any
    ) -> Plan:
        """A plan in which trained agents decide, on arrivals that they have not been trained on.

        Args:
          directory: a finished training.
          agent_seed: the seed of the agents; by default, the first that was trained.

        Raises:
          InputError: the training is unfinished or damaged, or has no such agents for this scenario.
        """
        trained = load_run(directory, scenario=in_fleet(scenario))
        trained.scenario.process.check_unseen(trained.scenario, trained.trained)
        seed, last = trained.first_seed, trained.first_seed + trained.num_seeds - 1
        chosen = check_whole("agent_seed", seed if agent_seed is None else agent_seed, seed, last)
        return cls(
            scenario=trained.scenario, method=trained.method, episodes=trained.unseen(episodes),
            agent=jax.tree.map(lambda leaf: leaf[chosen - seed], trained.weights),
            agents=f"{'.'.join(trained.agents.names)}/{chosen}", **others,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {
            "method": self.method.name,
            "depends_on": identity_of(self.method, self.physics).digest,
            "physics": self.physics,
            "agents": self.agents,
            "seed": self.seed,
            "episodes": list(self.episodes),
            "settings": dataclasses.asdict(self.settings),
            "scenario": self.scenario.to_dict(),
        }

    @property
    def names(self) -> list[str]:
        """Names for workers that are started for the run, by server and device."""
        assert self.scenario.service is not None
        return [f"{i}: {device}" for i, device in enumerate(self.scenario.service.devices)]

    @property
    def side(self) -> int:
        """The side of the images, pixels."""
        assert self.scenario.service is not None
        return self.settings.size or self.scenario.service.resolution


@dataclasses.dataclass(frozen=True)
class Result:
    """The results of a run, see `edge_fleet.results`."""

    requests: pd.DataFrame
    images: pd.DataFrame
    summary: pd.DataFrame
    facts: dict[str, Any]


class _Episodes:
    """The episodes of a plan: their requests, and the simulator's account of them."""

    def __init__(self, plan: Plan, decider: Decider):
        self.arrivals: dict[int, list[Arrival]] = {}
        self.simulated: dict[int, Simulated] = {}
        self.published: dict[int, Simulated] = {}
        other = Decider(plan.scenario, plan.method, UNIFIED, plan.agent)
        for episode in plan.episodes:
            came = self.arrivals[episode] = decider.arrivals(plan.seed, episode)
            self.simulated[episode] = decider.simulate(plan.seed, episode, came)
            self.published[episode] = other.simulate(plan.seed, episode, came)
        assert plan.scenario.service is not None
        batch = plan.scenario.service.batch
        self._per_item = batch if isinstance(batch, int) else 1

    @property
    def num_images(self) -> int:
        """The number of images of all requests."""
        return self._per_item * sum(a.size for came in self.arrivals.values() for a in came)

    def left(self, committed: Committed) -> list[tuple[int, list[Request], float]]:
        """The episodes that are not complete: number, all requests, and where to continue."""
        episodes = []
        for number, came in self.arrivals.items():
            requests = []
            for arrival in came:
                done = committed.images(number, arrival.request)
                decided = len(committed.decisions.get((number, arrival.request), []))
                requests.append(Request.of(arrival, arrival.size * self._per_item, done, decided))
                if committed.rejected(number, arrival.request):
                    requests[-1].missing.clear()
            if any(request.missing for request in requests):
                episodes.append((number, requests, committed.ended.get(number, 0.0)))
        return episodes


def run_fleet(
    plan: Plan,
    workers: Callable[[], AbstractContextManager[Crew]],
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Result:
    """Run a plan, or continue it, and write its results.

    Args:
      workers: starts the workers, which end with the block.
      overwrite: replace what `out` holds; not with `resume`, which keeps it.
      progress: show the workers and a progress bar on stderr.

    Raises:
      InputError: `out` holds other results or another plan, the workers do not answer, or `overwrite` is set
        with `resume`.
    """
    if overwrite and resume:
        raise InputError("overwrite: true; legal: without resume, which keeps what has been done")
    started = time.time()
    with Output(out, overwrite) as output, contextlib.ExitStack() as stack:
        begun = (out / FILE).exists()
        if begun and not (overwrite or resume):
            raise InputError(f"out: {out} holds an unfinished {KIND}; legal: --resume, --overwrite")
        # Whatever may be refused comes before anything is replaced or written.
        decider = Decider(plan.scenario, plan.method, plan.method.physics(plan.physics), plan.agent)
        episodes = _Episodes(plan, decider)
        _check_items(plan, episodes)
        pictures = Pictures(plan.settings, plan.side, plan.seed)
        if begun and overwrite:
            (out / MANIFEST).unlink(missing_ok=True)  # first, as it vouches for the rows
            (out / FILE).unlink()
            shutil.rmtree(out / IMAGES, ignore_errors=True)
        (out / IMAGES).mkdir(exist_ok=True)
        remove_abandoned(out / IMAGES)
        journal = Journal(out)
        stack.callback(journal.close)
        described = plan.describe() | {"pictures": pictures.digest}
        name = _opened(journal, described)
        _warm_up(decider, episodes)
        committed = intact(journal, out)
        if left := episodes.left(committed):
            with workers() as crew:
                done = len(committed.results)
                begin = functools.partial(
                    Scheduler, decider, plan.settings, crew, pictures, out, journal, name, plan.seed
                )
                asyncio.run(_play(begin, left, episodes.num_images - done, progress))
        committed = Committed(journal.records())
        result = _result(plan, committed, episodes, pictures, out)
        _write(result, output)
        losses = [
            {name: loss[name] for name in ("episode", "time", "worker", "why")} for loss in committed.losses
        ]
        manifest = {"kind": KIND} | described | {"facts": result.facts, "losses": losses}
        output.finish(manifest | provenance(started, plan.scenario), standing=[IMAGES])
    return result


async def _play(
    begin: Callable[[], Scheduler], left: list[tuple[int, list[Request], float]], images: int, progress: bool
) -> None:
    scheduler = begin()  # within the loop that its events belong to
    showing = asyncio.create_task(show_progress(scheduler, images, progress))
    try:
        await scheduler.run(left, patience=30.0)
    finally:
        showing.cancel()


def _opened(journal: Journal, plan: dict[str, Any]) -> str:
    """The name of the run of a plan as plain data; a new journal begins with it.

    Raises:
      InputError: the journal is of another plan.
    """
    first = next(iter(journal.records()), None)
    if first is None:
        first = {"kind": "run", "name": uuid.uuid4().hex, "plan": plan}
        journal.write(first)
        return first["name"]
    if first["kind"] != "run" or first["plan"] != _as_read(plan):
        raise InputError(f"out: {journal.path.parent} holds another plan; legal: the arguments of that run")
    return first["name"]


def intact(journal: Journal, out: Path) -> Committed:
    """What a journal holds, after results whose image can no longer be read have been taken back."""
    committed = Committed(journal.records())
    for (episode, request, image), record in committed.results.items():
        try:
            load_image(out / record["file"])
        except InputError as error:
            gone = {"kind": "gone", "episode": episode, "request": request, "image": image, "why": str(error)}
            journal.write(gone)
    return Committed(journal.records())


def _as_read(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan as it is after it has been written and read, with lists for tuples."""
    return json.loads(json.dumps(plan))


def _check_items(plan: Plan, episodes: _Episodes) -> None:
    """Raise InputError if an item could be too large for a message, or its pace too long for a worker."""
    scenario, service = plan.scenario, plan.scenario.service
    assert service is not None
    came = [arrival for arrivals in episodes.arrivals.values() for arrival in arrivals]
    most = max((arrival.size for arrival in came), default=1)
    images, size = (service.batch, 1) if isinstance(service.batch, int) else (most, most)
    steps = max((arrival.work / arrival.size for arrival in came), default=1.0)
    seconds = seconds_alone(scenario, size, steps).max() if plan.settings.pace else 0.0
    check_item(images, plan.side, float(seconds) / plan.settings.speed)


def _warm_up(decider: Decider, episodes: _Episodes) -> None:
    """Compile the decision before the clock starts."""
    nothing = np.zeros(decider.scenario.num_servers)
    for number, came in episodes.arrivals.items():
        if came:
            knowledge = SlotKnowledge(decider.scenario)
            situation = knowledge.situation(came[0], nothing, nothing, nothing == 0)
            decider.decide(0, number, situation)
            return


def _result(plan: Plan, committed: Committed, episodes: _Episodes, pictures: Pictures, out: Path) -> Result:
    planned = plan.scenario.slot_duration if plan.method.policy.sees_slot else 0.0
    requests = requests_table(
        committed, episodes.arrivals, episodes.simulated, episodes.published, plan.scenario.deadline, planned
    )
    images = images_table(committed, pictures, out)
    facts = {
        "requests": len(requests),
        "images": len(images),
        "repeated": committed.repeated,
        "disturbed": int(np.count_nonzero(requests["disturbed"])),
        "losses": len(committed.losses),
        "overruns": int(np.count_nonzero(np.asarray(images["overrun_s"], float) > 0)),
    }
    return Result(requests, images, summary_table(requests), facts)


def _write(result: Result, output: Output) -> None:
    for name, table in (("requests", result.requests), ("images", result.images)):
        directory = output.path(f"{name}.parquet")
        directory.mkdir()
        table.to_parquet(directory / "0.parquet", index=False)
    result.summary.to_csv(output.path("summary.csv"), index=False)
