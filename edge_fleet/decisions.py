"""The decisions of a run, and the simulation of the same arrivals, both by the kernel's own functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.methods import Method
from amco_jax.agents.policy import Arrived, SlotView, TaskView
from amco_jax.compile.runtime import own_numerics
from amco_jax.env import UNIFIED, Backlog, Physics, Task, in_continuous_time, placed, site
from amco_jax.kernel import decide_task, rollout, serve_task
from amco_jax.kernel.order import Turn, queue_of_slot, still_to_come
from amco_jax.params import Params
from amco_jax.random import Key, Stream, fold_in, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import Tables, Workload, tables_of, workload_of


class Arrival(NamedTuple):
    """A request that arrives in an episode."""

    request: int
    """Its number in the order of arrival, from 0"""
    slot: int
    station: int
    position: int
    time: float
    """s since the start of the episode"""
    size: int
    """Image batches, or images if a batch holds all of them"""
    work: float
    """Denoising steps of all batches together"""


class Situation(NamedTuple):
    """What a scheduler knows when it decides."""

    backlog: Backlog
    """What waits now"""
    start: Any
    """`[num_servers]`, what waited on the servers at the start of the slot"""
    known: Task
    """The tasks of the slot that have arrived, fields `[num_servers, max_tasks]`"""
    arrived: Arrived
    """What arrived in earlier slots"""
    available: Any
    """`[num_servers]`, the workers that are alive"""
    slot: Any
    station: Any
    position: Any
    size: Any
    work: Any


class Choice(NamedTuple):
    """A decision, as NumPy arrays."""

    counts: np.ndarray
    """`[num_servers]`, whole image batches for each server; all 0 if the request is rejected"""
    placed: np.ndarray
    """`[num_servers]`, what the request puts on each server, denoising steps with overheads"""
    finish: float
    """s until the last part ends, as the model predicts it from the situation"""
    published: float
    """The same of the same split, if the links were those of the published model"""
    after: Backlog
    """What waits after it"""


class Simulated(NamedTuple):
    """The simulator's own account of the arrivals of an episode, each `[requests, ...]`."""

    selected: np.ndarray
    counts: np.ndarray
    finish: np.ndarray
    """s until the last part of the request ends; 0 if it is rejected"""


@own_numerics()
def work_of(scenario: Scenario, counts: np.ndarray, size: int, steps: float) -> np.ndarray:
    """`[num_servers]`, what a request puts on each server, denoising steps with overheads.

    Args:
      counts: `[num_servers]`, whole image batches of each server, or images if a batch holds all of them.
      size: of them in the request.
      steps: of each of them.
    """
    fraction, whole = jnp.asarray(counts / size, jnp.float32), jnp.float32(size)
    return np.asarray(placed(scenario.params(), whole, whole * steps, fraction > 0, fraction))


def seconds_alone(scenario: Scenario, size: int, steps: float) -> np.ndarray:
    """`[num_servers]`, s that a whole request takes each server; the arguments are those of `work_of`."""
    return work_of(scenario, np.full(scenario.num_servers, size), size, steps) / scenario.capacities


class Decider:
    """The decisions of one method in one scenario."""

    def __init__(self, scenario: Scenario, method: Method, physics: Physics, agent: Any = None):
        """Prepare the programs, which the first use compiles.

        Args:
          scenario: in continuous time.
          agent: the trained agents, leaves `[num_servers, ...]`; None for rules.
        """
        self.scenario, self.method = scenario, method
        self.shape = scenario.shape()
        self._physics, self._agent = physics, jax.tree.map(jnp.asarray, agent)
        self._params = jax.tree.map(jnp.asarray, scenario.params())
        self._tables: Tables = jax.tree.map(jnp.asarray, tables_of([scenario], self.shape).of(0))
        self._decide = jax.jit(self._decision)
        self._play = jax.jit(self._episode)
        self._arrivals = jax.jit(self._queues)

    @own_numerics()
    def arrivals(self, seed: int, episode: int) -> list[Arrival]:
        """The requests of an episode, in the order of arrival."""
        queue: Turn = jax.tree.map(np.asarray, self._arrivals(np.uint32(seed), np.uint32(episode)))
        slots, turns = np.nonzero(queue.task.present)
        slot_seconds = self.scenario.slot_duration
        return [
            Arrival(
                request, int(t), int(queue.station[t, i]), int(queue.position[t, i]),
                float(t * slot_seconds + queue.time[t, i]), round(float(queue.task.size[t, i])),
                float(queue.task.work[t, i]),
            )
            for request, (t, i) in enumerate(zip(slots, turns, strict=True))
        ]  # fmt: skip

    @own_numerics()
    def decide(self, seed: int, episode: int, situation: Situation) -> Choice:
        """Decide a request."""
        found = self._decide(np.uint32(seed), np.uint32(episode), situation)
        work, fraction, finish, published, after = jax.tree.map(np.asarray, found)
        counts = np.rint(fraction * float(situation.size)).astype(int)
        return Choice(counts, work, float(finish), float(published), after)

    @own_numerics()
    def simulate(self, seed: int, episode: int, arrivals: list[Arrival]) -> Simulated:
        """What the simulator alone predicts for the arrivals of an episode."""
        made = jax.tree.map(np.asarray, self._play(np.uint32(seed), np.uint32(episode)))
        places = tuple(np.array([[a.slot, a.station, a.position] for a in arrivals], int).reshape(-1, 3).T)
        sizes = np.array([a.size for a in arrivals]).reshape(-1, 1)
        counts = np.rint(made.fraction[places] * sizes).astype(int)
        return Simulated(made.selected[places], counts, made.finish[places])

    def _inputs(self, seed: Any, episode: Any) -> tuple[Workload, Key]:
        workload = workload_of(self.shape, self._params, self._tables, seed, episode, training=False)
        return workload, fold_in(stream(seed, Stream.POLICY), episode)

    def _queues(self, seed: Any, episode: Any) -> Turn:
        """The tasks of all slots in the order of service, leaves `[num_slots, turns]`."""
        workload, _ = self._inputs(seed, episode)

        def of_slot(t: Any) -> Turn:
            queue, _ = queue_of_slot(self.shape, self._params, workload, t, None)
            assert queue is not None
            return queue

        return jax.lax.map(of_slot, jnp.arange(self.shape.num_slots))

    def _episode(self, seed: Any, episode: Any) -> Any:
        workload, key = self._inputs(seed, episode)
        return rollout(
            self.shape, self._params, self._physics, method=self.method, workload=workload, key=key,
            agent=self._agent, metrics=(), record=lambda decision, _: decision,
        ).decisions  # fmt: skip

    def _decision(self, seed: Any, episode: Any, now: Situation) -> Any:
        params: Params = self._params
        policy, row = self.method.policy, in_continuous_time(self._physics)
        workload, key = self._inputs(seed, episode)
        here = site(params, row, now.station)
        task = Task(jnp.bool_(True), now.size, now.work)
        key, before = fold_in(key, now.slot), now.backlog.queues_at(now.station)
        planned, coming = None, None
        if policy.sees_slot:
            slot = SlotView(now.slot, now.start, now.known, params, key, self._agent)
            planned = policy.select(slot)[now.station, now.position]
        if policy.sees_load:
            zero = jnp.zeros_like(now.size)
            turn = Turn(now.station, now.position, zero, zero, task, None)
            coming = still_to_come(self.shape, params, workload, turn, now.arrived.recent)

        def view(wait: Any, cost: Any) -> TaskView:
            return TaskView(
                task, wait, cost, here.local, params, fold_in(key, now.station), now.position,
                before.link_delay, coming, None if policy.sees_slot else self._agent, now.slot, now.arrived,
            )  # fmt: skip

        queues, decision, _ = decide_task(
            params, row, self.method, here, now.backlog.servers, task, before, view, planned, now.available
        )
        after = now.backlog.after(now.station, queues)
        published, same = in_continuous_time(UNIFIED), decision.fraction
        _, beside, _, _ = serve_task(
            params, published, lambda wait, cost, selected: same, site(params, published, now.station),
            now.backlog.servers, task, before, lambda wait, cost: decision.selected,
        )  # fmt: skip
        return queues.slot_load, same, decision.finish, beside.finish, after


class SlotKnowledge:
    """What a scheduler keeps for policies that plan a slot, or that see the load."""

    def __init__(self, scenario: Scenario):
        """Start before the first slot."""
        self._places = scenario.num_servers, scenario.num_positions
        none: Any = np.zeros(scenario.num_servers, np.float32)
        self._slot, self._arrived = 0, Arrived(none, none[0], none[0])
        self._clear(none)

    def begin(self, backlog: np.ndarray) -> None:
        """Begin the next slot.

        Args:
          backlog: `[num_servers]`, what waits on the servers.
        """
        count = jnp.asarray(self._present.sum(axis=1), jnp.float32)
        work = jnp.asarray(np.sum(self._work, where=self._present), jnp.float32)
        after = self._arrived.after(jnp.asarray(self._slot), count, work)
        self._arrived = jax.tree.map(np.asarray, after)
        self._slot += 1
        self._clear(backlog)

    def _clear(self, backlog: np.ndarray) -> None:
        self._start = backlog
        self._present = np.zeros(self._places, bool)
        self._size, self._work = np.ones(self._places), np.ones(self._places)

    def add(self, arrival: Arrival) -> None:
        """Note a request that has arrived."""
        place = arrival.station, arrival.position
        self._present[place], self._size[place], self._work[place] = True, arrival.size, arrival.work

    def situation(
        self, arrival: Arrival, servers: np.ndarray, links: np.ndarray, available: np.ndarray
    ) -> Situation:
        """The situation in which a request is decided.

        Args:
          servers: `[num_servers]`, what waits on the servers now, steps.
          links: `[num_servers]`, s for which the link of each base station still has to send.
          available: `[num_servers]`, the workers that are alive.
        """
        f32, i32 = np.float32, np.int32
        known = Task(self._present, self._size.astype(f32), self._work.astype(f32))  # pyright: ignore
        return Situation(
            Backlog(servers.astype(f32), links.astype(f32)),  # pyright: ignore[reportArgumentType]
            self._start.astype(f32), known, self._arrived, available, i32(arrival.slot),
            i32(arrival.station), i32(arrival.position), f32(arrival.size), f32(arrival.work),
        )  # fmt: skip
