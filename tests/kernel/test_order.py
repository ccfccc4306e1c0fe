"""Orders of service and arrivals within the slot: against an event loop in plain Python."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax.agents.methods import METHODS, Method
from amco_jax.agents.policy import per_task
from amco_jax.compile.wide import on_host
from amco_jax.env import CONSERVING, UNIFIED, Physics
from amco_jax.errors import InputError
from amco_jax.kernel import rollout, tasks_of_slot
from amco_jax.kernel.order import Turn, still_to_come
from amco_jax.params import Params, Shape
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.study.simulate import simulate
from amco_jax.workload import Tables, tables_of, workload_of

LOADED = Scenario(
    num_servers=3, num_tasks=6, num_slots=6, arrival_prob=0.7, density_min=0.5, density_max=1.4, deadline=0.6,
    capacity=(10, 20, 30), link_rate=(20, 30, 40),
)  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {}, {"order": "turns"}, {"order": "random"}, {"timing": "continuous"},
    {"timing": "continuous", "arrivals": "poisson"},
]  # fmt: skip


def inputs_of(scenario: Scenario) -> tuple[Shape, Params, Tables]:
    """Shape, params and tables of a scenario, in float64."""
    shape = scenario.shape()
    tables = jax.tree.map(jnp.asarray, tables_of([scenario], shape).of(0))
    params = jax.tree.map(jnp.asarray, scenario.params(np.float64))
    return shape, params, tables


def inputs(scenario: Scenario, seed: int = 0) -> tuple[Any, Any, Any]:
    """Shape, params and workload of a seed's episode, in float64."""
    shape, params, tables = inputs_of(scenario)
    return shape, params, workload_of(shape, params, tables, jnp.uint32(seed), training=False)


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled(
    shape: Shape, method: Method, params: Params, tables: Tables, physics: Physics, seed: Any
) -> Any:
    workload = workload_of(shape, params, tables, seed, training=False)
    return rollout(
        shape, params, physics, method=method, workload=workload, key=stream(seed, Stream.POLICY),
        keep_queues=True, record=lambda decision, _: decision,
    )  # fmt: skip


def play(scenario: Scenario, physics: Physics = UNIFIED, method: str = "optimal", seed: int = 0) -> Any:
    """An episode of the kernel with makespans and fractions kept, in float64."""
    with jax.enable_x64(True):
        shape, params, tables = inputs_of(scenario)
        return on_host(compiled(shape, METHODS[method], params, tables, physics, jnp.uint32(seed)))


def best_split(wait: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """The fractions of least makespan over all servers, by bisection."""
    low, high = wait.min(), (wait + cost).max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (low, level) if np.maximum((level - wait) / cost, 0).sum() > 1 else (level, high)
    return np.maximum((high - wait) / cost, 0)


def oracle(scenario: Scenario, physics: Physics, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Makespans of `optimal`, NaN without a task, and the busy share of each server."""
    _, params, workload = inputs(scenario, seed)
    num_servers, delta, deadline = scenario.num_servers, scenario.slot_duration, scenario.deadline
    capacity, rate = scenario.capacities, scenario.link_rates
    continuous = scenario.timing == "continuous"
    queue, link = np.zeros(num_servers), np.zeros(num_servers)
    found = np.full((scenario.num_slots, num_servers, scenario.num_positions), np.nan)
    busy = np.zeros(num_servers)
    for t in range(scenario.num_slots):
        tasks = jax.tree.map(np.asarray, tasks_of_slot(params, workload, jnp.int32(t), num_servers))
        places = [(b, n) for b in range(num_servers) for n in range(scenario.num_positions)]
        times: dict[Any, float] = dict.fromkeys(places, 0.0)
        shares: Any = None
        if scenario.order == "turns":
            places.sort(key=lambda place: (place[1], place[0]))
        elif scenario.order == "random" or continuous:
            shares = [
                np.asarray(workload.times(params, jnp.int32(t), jnp.int32(b))) for b in range(num_servers)
            ]
            places.sort(key=lambda place: shares[place[0]][place[1]])
            if continuous:
                times = {(b, n): shares[b][n] * delta for b, n in places}
        clock = 0.0
        for b, n in places:
            if not tasks.present[b, n]:
                continue
            elapsed = times[b, n] - clock
            busy += np.minimum(queue / capacity, elapsed)
            queue, link = np.maximum(queue - capacity * elapsed, 0), np.maximum(link - elapsed, 0)
            clock = times[b, n]
            remote = np.arange(num_servers) != b
            transfer = remote * tasks.size[b, n] / rate[b]
            wait = queue / capacity + remote * link[b]
            cost = tasks.work[b, n] / capacity + transfer
            fraction = best_split(wait, cost)
            used = fraction > 1e-12
            found[t, b, n] = min(np.max((fraction * cost + wait)[used]), deadline)
            queue = queue + fraction * tasks.work[b, n]
            link[b] += np.sum(fraction * transfer)
            if physics.link_capped and not continuous and np.count_nonzero(used) >= 2:
                link[b] = min(link[b], delta)
        busy += np.minimum(queue / capacity, delta - clock)
        queue = np.maximum(queue - capacity * (delta - clock), 0)
        link = np.maximum(link - (delta - clock), 0) if physics.link_carried or continuous else 0 * link
    return found, busy / (scenario.num_slots * delta)


@pytest.mark.parametrize("physics", [UNIFIED, CONSERVING], ids=["unified", "conserving"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()) or "stations")
def test_the_kernel_is_the_event_loop(kind: dict[str, Any], physics: Physics):
    scenario = LOADED.replace(**kind)
    episode = play(scenario, physics)
    with jax.enable_x64(True):
        expected, busy = oracle(scenario, physics)
    decisions, present = episode.decisions, ~np.isnan(expected)
    np.testing.assert_array_equal(decisions.present, present)
    np.testing.assert_allclose(decisions.makespan[present], expected[present], atol=1e-9)
    np.testing.assert_allclose(episode.totals["utilisation"] / scenario.num_slots, busy, atol=1e-6)
    assert np.unique(decisions.makespan[present]).size > 30  # few are cut at the deadline


def test_orders_serve_the_same_tasks():
    """What arrives is the same in all orders, and so is the work that is done where nothing is left over."""
    quiet = LOADED.replace(arrival_prob=0.2)
    episodes = [play(quiet.replace(**kind)) for kind in KINDS[:4]]
    for episode in episodes[1:]:
        np.testing.assert_array_equal(episode.decisions.present, episodes[0].decisions.present)
        assert not np.array_equal(episode.decisions.makespan, episodes[0].decisions.makespan)
        work = (each.slot_load.sum(axis=1) for each in (episode, episodes[0]))
        np.testing.assert_allclose(*work, rtol=1e-9)


def test_per_slot_policies_keep_their_places():
    """A planned set belongs to its position, wherever in the queue that is."""
    from amco_jax.agents.policy import per_slot

    def plan(view: Any) -> Any:
        stations, positions = jnp.indices(view.tasks.present.shape)
        return jax.nn.one_hot((stations + positions) % 3, 3, dtype=bool)

    method = dataclasses.replace(METHODS["optimal"], name="planned", policy=per_slot(plan))
    for kind in KINDS[:4]:
        shape, params, workload = inputs(LOADED.replace(**kind))
        episode = jax.jit(
            lambda s=shape, p=params, w=workload: rollout(
                s, p, UNIFIED, method=method, workload=w, key=stream(jnp.uint32(0), Stream.POLICY),
                record=lambda decision, _: (decision.present, decision.selected),
            )
        )()  # fmt: skip
        present, selected = map(np.asarray, episode.decisions)
        _, b, n = np.nonzero(present)
        np.testing.assert_array_equal(np.argmax(selected[present], axis=-1), (b + n) % 3)


def test_continuous_timing_converges_as_slots_get_shorter():
    """The same load in slots of a half and an eighth of a second: slotted makespans are those of the slot."""

    def mean(timing: str, num_tasks: int, slot_duration: float) -> float:
        scenario = LOADED.replace(
            timing=timing, arrivals="poisson", num_tasks=num_tasks, arrival_prob=0.25 * num_tasks,
            slot_duration=slot_duration, num_slots=round(20 / slot_duration), deadline=5.0,
        )  # fmt: skip
        batches = list(simulate([scenario], METHODS["optimal"], CONSERVING, 0, 128))
        return float(np.mean(np.concatenate([batch.metrics["makespan_mean_s"] for batch in batches])))

    # Two positions that hold a task with probability 1/2, or one with 1/4: 2 tasks per second and station.
    long, short = mean("continuous", 2, 0.5), mean("continuous", 1, 0.125)
    assert long == pytest.approx(short, rel=0.03)
    assert mean("slotted", 2, 0.5) > 1.1 * long


def test_bad_orders_are_refused():
    for changes, words in (
        ({"order": "lifo"}, "order: 'lifo'; legal: stations, turns, random"),
        ({"timing": "real"}, "timing: 'real'; legal: slotted, continuous"),
        (
            {"timing": "continuous", "order": "turns"},
            "order: turns; legal with timing = continuous: stations",
        ),
    ):
        with pytest.raises(InputError, match=words):
            LOADED.replace(**changes)


@pytest.mark.parametrize("kind", [{"order": "random"}, {"timing": "continuous"}], ids=str)
@pytest.mark.parametrize("arrivals", ["bernoulli", "bursty"])
def test_an_episode_in_segments_is_the_whole_episode(
    kind: dict[str, Any], arrivals: str, monkeypatch: pytest.MonkeyPatch
):
    """What links, servers and chains of bursts carry goes from one segment to the next."""
    # Links are so slow that they have something left at the end of a slot.
    scenario = LOADED.replace(arrivals=arrivals, link_rate=2.0, **kind)

    def makespans(physics: Physics = CONSERVING) -> np.ndarray:
        (batch,) = simulate([scenario], METHODS["all-servers"], physics, 0, 8)
        return batch.metrics["makespan_mean_s"]

    whole = makespans()
    if scenario.timing == "slotted":  # in continuous time, links always carry
        assert (whole != makespans(Physics(link_capped=False))).any()
    monkeypatch.setattr("amco_jax.study.simulate.segments_of", lambda slots, most: [(0, 3), (3, 3)])
    np.testing.assert_array_equal(makespans(), whole)


@pytest.mark.parametrize("changes", KINDS[:4])
def test_what_is_still_to_come_does_not_depend_on_padding(changes: dict[str, Any]):
    scenario = Scenario(num_servers=2, num_tasks=3, num_slots=2, arrival_prob=0.9, **changes)
    method = Method("looking", per_task(lambda view: view.local, sees_load=True))

    def seen(max_tasks: int) -> list[np.ndarray]:
        shape, params, workload = inputs(scenario)
        out = rollout(
            shape._replace(max_tasks=max_tasks), params, UNIFIED, method=method, workload=workload,
            metrics=(), key=stream(jnp.uint32(0), Stream.POLICY),
            record=lambda _, view: (view.coming, view.arrived.recent),
        )  # fmt: skip
        return [np.asarray(kept)[:, :, :3] for kept in out.decisions]

    with jax.enable_x64(True):
        (coming, arrived), padded = seen(3), seen(5)
    np.testing.assert_array_equal(coming, padded[0])
    np.testing.assert_array_equal(arrived, padded[1])
    assert (coming.max() > 0) == (scenario.timing == "slotted")
    assert arrived[1].sum() > 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # At position 2 of 6, in the middle one of three stations.
        ({}, [0, 4 * 3 / 6, 6]),
        ({"order": "turns"}, [2 * 3 / 6, 4 * 3 / 6, 6 * 4 / 6]),
        ({"order": "random"}, [2 * 0.75, 4 * 0.75, 6 * 0.75]),
        ({"timing": "continuous"}, [0, 0, 0]),
        # A Poisson count of mean 4, of which 3 have come: m² - 0.571·m = 12 / 6.99.
        ({"arrivals": "poisson"}, [0, 1.6268, 6]),
    ],
)
def test_what_is_still_to_come(changes: dict[str, Any], expected: list[float]):
    shape, params, workload = inputs(LOADED.replace(**changes))
    turn = Turn(jnp.int32(1), jnp.int32(2), jnp.float32(0.25), jnp.float32(0), None, None)  # pyright: ignore
    shape = shape._replace(max_tasks=shape.max_tasks + 5)
    found = still_to_come(shape, params, workload, turn, jnp.array([2.0, 4.0, 6.0]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
