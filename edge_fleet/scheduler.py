"""The scheduler: it decides requests as they arrive, has their images repaired, and keeps every result once.

A request is decided from the ledger of what the workers have not acknowledged yet. If a worker is lost, the
images that it had are decided again, among the workers that are alive.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from amco_jax.errors import InputError
from edge_fleet.client import Client
from edge_fleet.clock import Clock
from edge_fleet.columns import TIMES
from edge_fleet.configuration import FleetSettings
from edge_fleet.decisions import Arrival, Choice, Decider, SlotKnowledge, work_of
from edge_fleet.journal import Journal
from edge_fleet.launching import Crew
from edge_fleet.ledger import Ledger
from edge_fleet.links import Links, Transfer
from edge_fleet.members import Item, Member
from edge_fleet.pictures import Pictures
from edge_fleet.security import Address
from edge_fleet.wire import Message
from sd_repair.images import save_image

IMAGES = "images"
MAX_ATTEMPTS = 20
"""How often the same images are decided before something other than a worker must be wrong"""
UNKNOWN_SECONDS = 60.0
"""How long an item is expected to take a worker that has not done one yet, s, unless its table says more"""


@dataclasses.dataclass(eq=False)
class Request:
    """A request in progress."""

    arrival: Arrival
    missing: set[int]
    """Images without a committed result; none if it was rejected"""
    claimed: set[int]
    """Images with a result, committed or about to be"""
    decisions: int = 0
    """How often it was decided before the run was resumed"""
    finished: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, arrival: Arrival, images: int, committed: set[int], decisions: int = 0) -> Request:
        """A request of some images, of which some are on disk already."""
        return cls(arrival, set(range(images)) - committed, set(committed), decisions)

    def finish_if_complete(self) -> None:
        """Say that it is finished if nothing is missing."""
        if not self.missing:
            self.finished.set()


class Scheduler:
    """One run of a fleet."""

    def __init__(
        self,
        decider: Decider,
        settings: FleetSettings,
        crew: Crew,
        pictures: Pictures,
        out: Path,
        journal: Journal,
        run: str,
        seed: int,
    ):
        """Prepare the run; nothing is sent before `open`.

        Args:
          crew: one worker for each edge server.
          out: directory of the results.
          run: the name of the run, the same after it has been resumed.
        """
        scenario = decider.scenario
        assert scenario.service is not None
        self._decider, self._settings, self._pictures = decider, settings, pictures
        self._out, self._journal, self._seed = out, journal, seed
        self._capacity = scenario.capacities
        batch = scenario.service.batch
        self._batch = batch if isinstance(batch, int) else 0
        self._members = [
            Member(
                i, Client(address, crew.keys), run, settings,
                {
                    station: Client(Address(host, address.port), crew.keys)
                    for station, host in enumerate(crew.stations) if station != i
                },
            )
            for i, address in enumerate(crew.addresses)
        ]  # fmt: skip
        self._someone = asyncio.Event()
        self._tickets = itertools.count()
        self._committed = 0
        self._episode = -1
        self._requests: dict[tuple[int, int], Request] = {}
        self._items: dict[str, Item] = {}
        # One thread, so that the records are in the order of the events.
        self._writing = ThreadPoolExecutor(max_workers=1)
        self._restart_clock(0.0)

    @property
    def members(self) -> list[Member]:
        """The workers."""
        return self._members

    @property
    def committed(self) -> int:
        """The number of images whose result is on disk, of this process."""
        return self._committed

    def backlog(self) -> np.ndarray:
        """`[num_servers]`, s of work that each worker has now."""
        return self._ledger.backlog(self._clock.now()) / self._capacity

    async def run(self, episodes: Iterable[tuple[int, Iterable[Request], float]], patience: float) -> None:
        """Run episodes one after another, each from a time on.

        Args:
          episodes: number, all requests, and the time at which the episode continues.
          patience: s for which to wait for all workers at the beginning.

        Raises:
          InputError: a worker does not answer, or refuses the run.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                keeping = [
                    group.create_task(each.run(self._came, self._lost, self._do)) for each in self._members
                ]
                await self._all_here(patience)
                for number, requests, offset in episodes:
                    await self._play(number, list(requests), offset)
                for task in keeping:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self._writing.shutdown()
            await asyncio.gather(*(member.leave() for member in self._members))

    async def _all_here(self, patience: float) -> None:
        for _ in range(round(patience / 0.05)):
            seen: dict[str, Member] = {}
            for member in self._members:
                if member.process and (other := seen.setdefault(member.process, member)) is not member:
                    raise InputError(
                        f"workers: {other.address} and {member.address} are the same worker; legal: each once"
                    )
            if all(member.alive for member in self._members):
                return
            await asyncio.sleep(0.05)
        absent = [member for member in self._members if not member.alive]
        named = ", ".join(f"{member.name} ({member.trouble})" for member in absent)
        raise InputError(f"workers: no answer from {named}; start them, or check their addresses")

    def _restart_clock(self, offset: float) -> None:
        scenario, settings = self._decider.scenario, self._settings
        self._clock = Clock(settings.speed, offset)
        self._ledger = Ledger(self._capacity)
        self._links = Links(self._clock, scenario.link_rates)
        self._known = SlotKnowledge(scenario)

    async def _play(self, episode: int, requests: list[Request], offset: float) -> None:
        """Run one episode, and wait for all its results."""
        self._requests |= {(episode, request.arrival.request): request for request in requests}
        await self._write({"kind": "start", "episode": episode, "time": offset})
        self._items, self._episode = {}, episode
        self._restart_clock(offset)
        slot, slot_seconds = 0, self._decider.scenario.slot_duration
        for request in sorted(requests, key=lambda request: request.arrival.request):
            while slot < request.arrival.slot:
                slot += 1
                await self._clock.sleep_until(slot * slot_seconds)
                self._known.begin(self._ledger.backlog(self._clock.now()))
            await self._clock.sleep_until(request.arrival.time)
            # In a resumed run, policies that plan a slot or see the load know of complete requests, too.
            self._known.add(request.arrival)
            if request.missing:
                # What has been accepted is not rejected after that.
                await self._assign(request, sorted(request.missing), min(request.decisions, MAX_ATTEMPTS - 1))
            request.finish_if_complete()
        for request in requests:
            await request.finished.wait()

    async def _assign(self, request: Request, images: list[int], attempt: int) -> None:
        """Decide images of a request, and have them sent."""
        if attempt >= MAX_ATTEMPTS:
            trouble = "; ".join(member.trouble for member in self._members)
            raise InputError(
                f"request {request.arrival.request}: not repaired in {attempt} attempts ({trouble}); "
                "mend the workers, and go on with --resume"
            )
        while not any(member.alive for member in self._members):
            self._someone.clear()
            await self._someone.wait()
        now = self._clock.now()
        choice = self._choose(request, len(images), now)
        if not choice.counts.any() and attempt:
            size, each = self._batches(len(images)), request.arrival.work / request.arrival.size
            counts = np.eye(len(self._members), dtype=int)[self._quickest(now)] * size
            placed = work_of(self._decider.scenario, counts, size, each)
            choice = choice._replace(counts=counts, placed=placed)
        counts = choice.counts
        record = {
            "kind": "decision", "episode": self._episode, "request": request.arrival.request,
            "attempt": attempt, "time": now, "arrival": request.arrival.time, "images": images,
            "counts": counts.tolist(), "predicted": choice.finish, "predicted_published": choice.published,
            "alive": [member.alive for member in self._members],
        }  # fmt: skip
        for item in self._cut(request, images, choice, attempt):
            self._items[item.name] = item
            self._ledger.add(item.server, item.name, item.work)
            # Links of the kernel delay it themselves; what is reserved estimates how long they are busy.
            if item.there is None or self._settings.netns:
                self._members[item.server].push(item)
            else:
                self._group.create_task(self._send_at(item, item.there.ended))
        # Not awaited: the next request must not wait for a disk.
        self._group.create_task(self._write(record))
        if not counts.any():  # the policy has rejected it
            request.missing.clear()
            request.finish_if_complete()

    def _choose(self, request: Request, images: int, now: float) -> Choice:
        arrival = request.arrival
        size = self._batches(images)
        rest = arrival._replace(size=size, work=arrival.work * size / arrival.size)
        alive = np.array([member.alive for member in self._members])
        situation = self._known.situation(
            rest, self._ledger.backlog(now), self._links.backlog(now), alive
        )  # fmt: skip
        return self._decider.decide(self._seed, self._episode, situation)

    def _batches(self, images: int) -> int:
        """The size of a request in the unit of the model."""
        return -(-images // self._batch) if self._batch else images

    def _quickest(self, now: float) -> int:
        """The living worker with the shortest queue."""
        waits = self._ledger.backlog(now) / self._capacity
        alive = np.array([member.alive for member in self._members])
        return int(np.argmin(np.where(alive, waits, np.inf)))

    def _cut(self, request: Request, images: list[int], choice: Choice, attempt: int) -> list[Item]:
        """The items of a decision, in the order in which they take the link."""
        left, items, counts = iter(images), [], choice.counts
        arrival, service = request.arrival, self._decider.scenario.service
        assert service is not None
        for server in turns(counts) if self._batch else np.flatnonzero(counts):
            number = self._batch or counts[server]
            these = tuple(itertools.islice(left, int(number)))
            work = float(choice.placed[server]) / (counts[server] if self._batch else 1)
            there = None
            if self._settings.links and server != arrival.station:
                mbit = service.input_mbit * len(these)
                there = self._links.reserve(arrival.station, int(server), mbit)
            items.append(Item(
                _name(self._episode, arrival.request, these), self._episode, arrival.request, these,
                arrival.station, int(server), work, work / float(self._capacity[server]), attempt,
                next(self._tickets), there,
            ))  # fmt: skip
        return items

    async def _send_at(self, item: Item, then: float) -> None:
        await self._clock.sleep_until(then)
        if self._items.get(item.name) is item:  # else its worker was lost meanwhile
            self._members[item.server].push(item)

    async def _do(self, member: Member, item: Item) -> None:
        """Send an item, and take its result."""
        settings, speed = self._settings, self._settings.speed
        item.sent = self._clock.now()
        self._ledger.sent(member.index, item.name, item.sent)
        pictures = [self._pictures.of(item.episode, item.request, image) for image in item.images]
        arrival = self._requests[item.episode, item.request].arrival
        asked = max(round(arrival.work / arrival.size), 1)
        seeds = [self._seed + image for image in item.images]
        # By the table, and by what the worker has shown.
        ahead = max(item.seconds, self.backlog()[member.index]) / speed
        each = UNKNOWN_SECONDS if member.seconds_per_item is None else member.seconds_per_item
        own = each * self._ledger.handed(member.index)
        answer = await member.repair(
            item, settings.steps or asked, item.seconds / speed if settings.pace else 0.0,
            settings.late * max(ahead, own), seeds,
            np.stack([picture.damaged for picture in pictures]),
            np.stack([picture.mask for picture in pictures]),
        )  # fmt: skip
        received = self._clock.now()
        self._ledger.done(member.index, item.name, received)
        self._items.pop(item.name, None)
        self._group.create_task(self._receive(member, item, answer, received))

    async def _receive(self, member: Member, item: Item, answer: Message, received: float) -> None:
        """Bring a result back over its link, and commit the images that are new."""
        service, request = self._decider.scenario.service, self._requests[item.episode, item.request]
        assert service is not None
        there, back = item.there, None
        if there is not None and self._settings.netns:
            there, back = self._by_kernel(item, answer, received)
        elif there is not None:
            mbit = service.result_mbit * len(item.images)
            back = await self._links.transfer(item.station, item.server, mbit)
        ended = self._clock.now()
        for image, repaired in zip(item.images, answer.array("repaired", "uint8", 4), strict=True):
            if image in request.claimed:
                continue
            request.claimed.add(image)
            name = f"{IMAGES}/e{item.episode}-r{item.request:04}-k{image}.png"
            await asyncio.to_thread(save_image, self._out / name, repaired, durable=True)
            await self._write({
                "kind": "result", "episode": item.episode, "request": item.request, "image": image,
                "station": item.station,
                "attempt": item.attempt, "server": item.server, "worker": member.name, "file": name,
                "sent": item.sent, "received": received, "ended": ended, "target_s": item.seconds,
                "there": there, "back": back, "item_images": len(item.images),
                **{each: answer.number(each, 0, 1e9) for each in TIMES},
            })  # fmt: skip
            request.missing.discard(image)
            self._committed += 1
        request.finish_if_complete()

    def _by_kernel(
        self, item: Item, answer: Message, received: float
    ) -> tuple[Transfer, Transfer] | tuple[None, None]:
        """When links of the kernel carried an item and its result, by the clock of this machine."""
        arrived, answered = (self._clock.at(answer.number(each, 0, 1e9)) for each in ("arrived", "answered"))
        if not item.sent <= arrived <= answered <= received:  # a result that was kept from an earlier session
            return None, None
        return Transfer(item.sent, arrived), Transfer(answered, received)

    def _came(self, member: Member) -> None:
        self._someone.set()
        self._tell(member, "up")

    def _lost(self, member: Member) -> None:
        """Decide again what a lost worker had."""
        # It may have been faulty since it began what it has not finished.
        running, now = self._ledger.running(member.index), self._clock.now()
        self._tell(member, "down", why=member.trouble, since=now if running is None else running[1])
        lost: dict[tuple[int, int], list[Item]] = {}
        for name in self._ledger.drop(member.index):
            item = self._items.pop(name)
            lost.setdefault((item.episode, item.request), []).append(item)
        for key, items in lost.items():
            request = self._requests[key]
            images = sorted({image for item in items for image in item.images} - request.claimed)
            attempt = max(item.attempt for item in items) + 1
            if images:
                self._group.create_task(self._assign(request, images, attempt))

    def _tell(self, member: Member, event: str, **more: Any) -> None:
        record = {
            "kind": "worker", "server": member.index, "worker": member.name, "event": event,
            "episode": self._episode, "time": self._clock.now(), **more,
        }  # fmt: skip
        self._group.create_task(self._write(record))

    async def _write(self, record: dict[str, Any]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._writing, self._journal.write, record)


def turns(counts: np.ndarray) -> list[int]:
    """The servers of a request's items, taking turns, so that all of them can begin early."""
    return [int(i) for k in range(max(counts, default=0)) for i in np.flatnonzero(counts > k)]


def _name(episode: int, request: int, images: tuple[int, ...]) -> str:
    """The name of an item, which says all that it consists of."""
    listed = ".".join(map(str, images))
    if len(listed) > 40:
        listed = hashlib.sha256(listed.encode()).hexdigest()[:16]
    return f"e{episode}-r{request}-{listed}"


def _first(errors: BaseExceptionGroup) -> BaseException:
    """The first bad input in a group of errors, or else the first error."""
    found = errors.subgroup(InputError)
    first: BaseException = errors if found is None else found
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
