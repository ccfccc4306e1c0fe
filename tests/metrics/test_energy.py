"""Metrics of energy and cost, against calculations in plain Python."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import SMALL, arrivals, run

from amco_jax.agents.methods import get_method
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.kernel import Episode
from amco_jax.metrics import METRICS, SlotOutcome, TaskOutcome, choose
from amco_jax.params import Params
from amco_jax.scenario import Scenario
from amco_jax.scenario.fleet import busy_power, hourly_price, idle_power
from amco_jax.study.simulate import simulate

NAMES = (
    "num_in_time", "server_energy_j", "link_energy_j", "task_energy_mean_j", "energy_per_task_in_time_j",
    "cost_usd", "cost_per_task_in_time_usd",
)  # fmt: skip
IDLE, BUSY, PRICE, PER_MBIT = (5.0, 0.0, 30.0), (20.0, 80.0, 35.0), (0.1, 0.0, 2.5), 0.25
# Overloaded, so that tasks are missed and servers are left with work.
FLEET = SMALL.replace(
    arrival_prob=0.9, slot_duration=0.8, power_idle=IDLE, power_busy=BUSY, price_per_hour=PRICE,
    energy_per_mbit=PER_MBIT,
)  # fmt: skip
METHOD = get_method("optimal")
SEEDS = 2


@pytest.fixture(scope="module")
def measured() -> dict[str, np.ndarray]:
    (batch,) = simulate([FLEET], METHOD, UNIFIED, 0, SEEDS, metrics=choose(NAMES))
    return batch.metrics


def by_hand(seed: int, decisions: Any) -> tuple[dict[str, float], float, float]:
    """The metrics of an episode whose decisions are given; J above idle during the episode, and after it."""
    tasks = jax.tree.map(np.asarray, arrivals(FLEET.shape(), FLEET.params(), jnp.uint32(seed)))
    found: dict[str, float] = {name: 0.0 for name in NAMES}
    left, spent, of_tasks, accepted = [0.0] * FLEET.num_servers, 0.0, 0.0, 0
    for t in range(FLEET.num_slots):
        for b in range(FLEET.num_servers):
            for n in range(FLEET.num_tasks):
                if not tasks.present[t, b, n]:
                    continue
                accepted += 1
                found["num_in_time"] += not decisions.missed[t, b, n]
                for i, fraction in enumerate(decisions.fraction[t, b, n].tolist()):
                    seconds = fraction * float(tasks.work[t, b, n]) / FLEET.capacities[i]
                    left[i] += seconds
                    of_tasks += seconds * (BUSY[i] - IDLE[i])
                    if i != b:
                        found["link_energy_j"] += fraction * float(tasks.size[t, b, n]) * PER_MBIT
        for i in range(FLEET.num_servers):
            busy = min(left[i], FLEET.slot_duration)
            left[i] -= busy
            spent += busy * (BUSY[i] - IDLE[i])
            found["server_energy_j"] += busy * BUSY[i] + (FLEET.slot_duration - busy) * IDLE[i]
            found["cost_usd"] += PRICE[i] / 3600 * FLEET.slot_duration
    found["task_energy_mean_j"] = (of_tasks + found["link_energy_j"]) / accepted
    for whole, part in (("server_energy_j", "energy"), ("cost_usd", "cost")):
        unit = whole.rpartition("_")[2]
        found[f"{part}_per_task_in_time_{unit}"] = found[whole] / found["num_in_time"]
    later = sum(rest * (BUSY[i] - IDLE[i]) for i, rest in enumerate(left))
    return found, spent, later


@pytest.mark.parametrize("seed", range(SEEDS))
def test_energy_and_cost_are_those_of_a_calculation_by_hand(seed: int, measured: dict[str, np.ndarray]):
    played: Episode = run(method=METHOD, seed=seed, policy_seed=seed, scenario=FLEET)
    expected, spent, later = by_hand(seed, played.decisions)
    assert 0 < expected["num_in_time"] < measured["num_tasks"][seed]
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name][seed], value, rtol=1e-5, err_msg=name)
    # What tasks need is spent during the episode or left over at its end.
    assert later > 0.01 * spent
    of_tasks = measured["task_energy_mean_j"][seed] * measured["num_accepted"][seed]
    np.testing.assert_allclose(of_tasks - measured["link_energy_j"][seed], spent + later, rtol=1e-5)


def slot_of(params: Params, busy: Any) -> SlotOutcome:
    """A slot of which only the busy shares matter."""
    none = jnp.zeros(params.capacity.shape[0])
    return SlotOutcome(params, jnp.int32(0), none, none, none, none, jnp.asarray(busy, jnp.float32))


def task_of(params: Params, size: float, work: float, fraction: Any, station: int) -> TaskOutcome:
    """A task in time of which only its content and its split matter."""
    fraction = jnp.asarray(fraction, jnp.float32)
    none, no, local = jnp.zeros_like(fraction), jnp.asarray(False), jnp.arange(len(fraction)) == station
    return TaskOutcome(
        params, jnp.int32(0), jnp.int32(station), local, jnp.float32(size), jnp.float32(work), none, none,
        fraction > 0, fraction, jnp.float32(0), jnp.float32(0), no, no,
    )  # fmt: skip


def test_a_task_is_charged_for_what_it_needs_beyond_idle_servers():
    params = FLEET.params()
    task = task_of(params, size=4, work=6, fraction=(0.5, 0.0, 0.5), station=0)
    # Capacities 10, 30 and 50 Gcycles/s: 0.3 s at 15 W, 0.06 s at 5 W, and 2 Mbit sent.
    assert METRICS["task_energy_mean_j"].function(task) == pytest.approx(0.3 * 15 + 0.06 * 5 + 2 * 0.25)
    rejected = task_of(params, size=4, work=6, fraction=(0, 0, 0), station=0)
    assert METRICS["task_energy_mean_j"].function(rejected) == 0


def test_an_idle_fleet_needs_its_idle_power_and_a_busy_one_its_busy_power():
    function, params = METRICS["server_energy_j"].function, FLEET.params()
    for busy, watts in ((0, sum(IDLE)), (1, sum(BUSY)), (0.5, (sum(IDLE) + sum(BUSY)) / 2)):
        assert function(slot_of(params, [busy] * 3)) == pytest.approx(watts * FLEET.slot_duration)


def test_energy_has_gradients_in_powers():
    def energy(power: Any, name: str) -> Any:
        params = dataclasses.replace(FLEET.params(), **{name: power})
        return METRICS["server_energy_j"].function(slot_of(params, [0.25, 0.5, 1.0]))

    for name, shares in (("power_busy", [0.25, 0.5, 1.0]), ("power_idle", [0.75, 0.5, 0.0])):
        gradient = jax.grad(energy)(jnp.asarray(getattr(FLEET.params(), name)), name)
        np.testing.assert_allclose(gradient, np.multiply(shares, FLEET.slot_duration), rtol=1e-6)


def test_default_powers_and_prices_are_those_of_the_published_machines():
    for cores, clock, idle, busy in ((4, 2.933, 41.6, 113), (12, 3.067, 58.4, 222)):
        capacity = np.array([cores * clock])
        assert idle_power(capacity) == pytest.approx(idle, rel=0.002)
        assert busy_power(capacity) == pytest.approx(busy, rel=0.002)
    assert hourly_price(np.array([4 * 3.4])) == pytest.approx(0.34)
    scenario = Scenario(capacity=(10.0, 40.0), power_idle=3.0)
    np.testing.assert_allclose(scenario.params().power_busy, [105.5, 236.0])  # pyright: ignore
    np.testing.assert_allclose(scenario.params().power_idle, [3.0, 3.0])  # pyright: ignore
    np.testing.assert_allclose(scenario.prices_per_hour, [0.25, 1.0])  # pyright: ignore


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"power_idle": -1}, "power_idle: -1; legal: a number from 0"),
        ({"power_busy": (1.0, "x")}, "power_busy: 'x'; legal: a number"),
        ({"power_busy": (1.0, 2.0, 3.0)}, r"power_busy: shape \(3,\); legal: one number or shape \(2,\)"),
        ({"power_idle": 9, "power_busy": (9, 8)}, "power_busy: 8 of server 1; legal: at least .* 9"),
        ({"energy_per_mbit": -0.1}, "energy_per_mbit: -0.1; legal: a number from 0"),
        ({"price_per_hour": float("nan")}, "price_per_hour: nan; legal"),
    ],
)
def test_bad_powers_and_prices_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Scenario(num_servers=2, **fields)
