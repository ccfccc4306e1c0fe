"""Scenarios at a given offered load: by closed forms, by what arrives, and refused where it cannot be had."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.drawn import arrivals
from helpers.request_logs import scenario_of, small_rows, write

from amco_jax import ArrivalProcess, InputError, Quantity, Scenario, get_method, load_scenario
from amco_jax.env import UNIFIED
from amco_jax.scenario.axes import get_axis, load_with_settings, parse_settings
from amco_jax.scenario.offered_load import LOADS, default_loads, with_load, with_slot_duration
from amco_jax.study.simulate import simulate

DRAWN = ("bernoulli", "poisson", "bursty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metered(ArrivalProcess):
    """A process with a rate of its own, of which only the host's part is needed here."""

    name = "metered"
    varied = {"rate": Quantity("tasks per second", (1.0, 2.0), tasks_per="second")}  # noqa: RUF012

    rate: float = 2.0

    def __post_init__(self):
        if self.rate > 8:
            raise InputError(f"rate: {self.rate:g}; legal: at most 8")

    def num_positions(self, scenario: Any) -> int:
        return 100

    def moments(self, scenario: Any) -> tuple[float, float]:
        return self.rate * scenario.slot_duration, 0.0


def test_the_load_of_the_default_scenario_is_that_of_pen_and_paper():
    # 5 stations x 50 positions x 0.3, tasks of 3.5 Mbit at 0.2048 Gcycles/Mbit; 150 Gcycles/s; 1 s.
    assert Scenario().offered_load == pytest.approx(5 * 50 * 0.3 * 3.5 * 0.2048 / 150)
    assert Scenario(slot_duration=2.0).offered_load == pytest.approx(Scenario().offered_load / 2)


def test_the_load_of_a_service_is_in_seconds_of_its_devices():
    scenario = load_scenario("jetson-sd15")
    assert scenario.service is not None
    # A device needs (steps + overhead) / capacity for a batch: so many batches a second it can do.
    batches = np.sum(scenario.capacities / (20 + scenario.service.overhead))
    assert scenario.offered_load == pytest.approx(5 * 6 * 0.3 * 2.5 / 60 / batches)
    assert with_load(scenario, 0.9).offered_load == pytest.approx(0.9)


@pytest.mark.parametrize("process", DRAWN)
def test_what_arrives_offers_the_load_that_was_asked_for(process: str):
    base = Scenario(num_servers=2, num_tasks=10, num_slots=200, arrivals=process, capacity=4.0)
    scenario = with_load(base.replace(slot_duration=0.5), 0.8)
    assert scenario.offered_load == pytest.approx(0.8)
    drawn = arrivals(scenario, 100)
    per_slot = np.sum(np.where(drawn.present, drawn.work, 0), axis=(2, 3)).mean(axis=1)
    loads = per_slot / (0.5 * scenario.capacities.sum())
    assert abs(loads.mean() - 0.8) < 4.5 * loads.std(ddof=1) / 10  # of seeds, whose densities differ


def test_a_log_offers_a_load_up_to_one_of_its_slots(tmp_path: Path):
    scenario = scenario_of(write(tmp_path / "log.csv", small_rows(400)), time_scale=20.0)
    for load in (0.01, 0.05):
        found = with_load(scenario, load)
        assert found.offered_load == pytest.approx(load, rel=0.05)
        assert found.time_scale == pytest.approx(20.0 * load / scenario.offered_load)
    with pytest.raises(InputError, match=r"^load: 10; legal: at most [\d.]+ \(num_slots: 6 of "):
        with_load(scenario, 10)
    assert with_slot_duration(scenario, 0.5) == scenario.replace(slot_duration=0.5)


def test_a_process_of_ones_own_declares_what_its_load_is_solved_for():
    scenario = Scenario(arrivals=Metered())
    found = with_load(scenario, 2 * scenario.offered_load)
    assert found.process == Metered(rate=4.0)
    with pytest.raises(InputError, match=r"legal: at most .* \(rate: 20; legal: at most 8\)"):
        with_load(scenario, 10 * scenario.offered_load)
    assert with_slot_duration(scenario, 0.5).process == Metered()
    silent = dataclasses.make_dataclass("Silent", [], bases=(Metered,), frozen=True, kw_only=True)
    silent.varied = {}
    for solve in (with_load, with_slot_duration):
        with pytest.raises(InputError, match=r"^param: .* with arrivals = metered, .*; legal: arrivals that"):
            solve(Scenario(arrivals=silent()), 0.5)
    with pytest.raises(InputError, match=r"^tasks_per: 'hour'; legal"):
        Quantity("rate", (1.0,), tasks_per="hour")


def test_loads_that_cannot_be_reached_are_refused_with_the_largest():
    scenario = Scenario()
    largest = 5 * 50 * 3.5 * 0.2048 / 150
    with pytest.raises(InputError) as refused:
        with_load(scenario, 1.25)
    message = str(refused.value)
    assert "\n" not in message
    bound = float(message.partition("at most ")[2].partition(",")[0])
    assert "more with a larger num_tasks" in message
    assert largest - 1e-3 < bound <= largest
    assert with_load(scenario, bound).offered_load == pytest.approx(bound)
    for bad in (0, -1, float("nan"), "much", None):
        with pytest.raises(InputError, match=r"^load: "):
            with_load(scenario, bad)


@pytest.mark.parametrize("process", ["poisson", "bursty"])
def test_rates_reach_any_load(process: str):
    for load in (0.01, 1.2, 3.0):
        found = with_load(Scenario(arrivals=process), load)
        assert found.offered_load == pytest.approx(load)
        assert found.process.moments(found)[0] == pytest.approx(50 * found.arrival_prob)
    many = with_load(Scenario(arrivals=process, num_slots=40), 1.5)
    (batch,) = simulate([many], get_method("local"), UNIFIED, 0, 64)
    expected = 40 * 1.5 * 150 / (3.5 * 0.2048)
    assert np.mean(batch.metrics["num_tasks"]) == pytest.approx(expected, rel=0.02)
    with pytest.raises(InputError, match=r"^load: 1e\+06; legal: at most"):
        with_load(Scenario(arrivals=process), 1e6)


def test_a_scenario_without_tasks_reaches_any_load():
    assert with_load(Scenario(arrival_prob=0.0), 0.4).arrival_prob == pytest.approx(
        with_load(Scenario(), 0.4).arrival_prob
    )


@pytest.mark.parametrize("process", DRAWN)
def test_the_duration_of_slots_keeps_the_load(process: str):
    scenario = Scenario(arrivals=process)
    for duration in (0.125, 1.0, 3.0):
        found = with_slot_duration(scenario, duration)
        assert found.slot_duration == duration
        assert found.offered_load == pytest.approx(scenario.offered_load)
    assert with_slot_duration(scenario, 1.0) == scenario
    if process == "bernoulli":
        with pytest.raises(InputError, match=r"^slot_duration: 4; legal: at most 3.333 at constant load \("):
            with_slot_duration(scenario, 4)
    alone = get_axis("slot_duration_only", scenario).apply(scenario, 4)
    assert alone == scenario.replace(slot_duration=4)
    assert alone.offered_load == pytest.approx(scenario.offered_load / 4)


def test_default_loads_can_be_reached():
    assert default_loads(Scenario()) == LOADS
    idle = Scenario(capacity=1e4)
    loads = default_loads(idle)
    top = idle.replace(arrival_prob=1.0).offered_load
    assert top * 0.99 < loads[-1] <= top
    assert len(set(loads)) == 4
    for load in loads:
        assert with_load(idle, load).offered_load == pytest.approx(load)


def test_the_load_is_set_on_a_command_line_after_the_fields():
    scenario = load_with_settings("default", parse_settings(["load=0.8", "num_servers=3"]))
    assert scenario.num_servers == 3
    assert scenario.offered_load == pytest.approx(0.8)
