"""Scenarios: defaults, the forms of a fleet, and every way of getting a field wrong."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.refusals import refused
from helpers.request_logs import scenario_of, small_rows, write

from amco_jax.errors import InputError
from amco_jax.params import Params
from amco_jax.scenario import Scenario, vary
from amco_jax.scenario.axes import get_axis
from amco_jax.scenario.presets import PRESETS, load_scenario
from amco_jax.workload import PROCESSES

INTEGERS = ("num_servers", "num_tasks", "num_slots")
POSITIVE = (
    "slot_duration",
    "deadline",
    "task_size_min",
    "task_size_max",
    "density_min",
    "density_max",
)
NUMBERS = (*POSITIVE, "arrival_prob")
FLEETS = ("capacity", "link_rate")
NAN, INF = float("nan"), float("inf")
NO_NUMBERS = ["5", "", b"5", True, [], {}, {"a": 1.0}, (1.0, 2.0), 1j, object]


def assert_refused(text: str, **fields: Any) -> None:
    """One line that names the field and what would be legal."""
    with pytest.raises(InputError) as refused:
        Scenario(**fields)
    message = str(refused.value)
    assert message.startswith(f"{text}: ")
    assert "legal: " in message
    assert "\n" not in message


def assert_equal(a: Params, b: Params) -> None:
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_defaults_are_the_published_setting():
    scenario = Scenario()
    assert scenario.shape() == (5, 50, 60, PROCESSES["bernoulli"], "stations", "slotted")
    params = scenario.params(np.float64)
    np.testing.assert_array_equal(params.capacity, [10, 20, 30, 40, 50])
    np.testing.assert_array_equal(params.link_rate, [[400, 425, 450, 475, 500]] * 5)
    densities = params.density_min, params.density_max
    np.testing.assert_allclose(densities, (0.1024, 0.3072))
    rest = (
        params.arrival_prob,
        params.deadline,
        params.slot_duration,
        params.task_size_min,
        params.task_size_max,
    )
    assert rest == (0.3, 1, 1, 2, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_leaves_have_one_precision(dtype: type):
    leaves = jax.tree.leaves(dataclasses.replace(Scenario().params(dtype), num_tasks=None, warmup=None))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(dtype)}
    assert Scenario().params(dtype).num_tasks.dtype == np.int32


def test_link_rates_are_a_number_a_vector_or_a_matrix():
    matrix = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    np.testing.assert_array_equal(Scenario(num_servers=3, link_rate=7).link_rates, np.full((3, 3), 7))
    # One rate per receiving server: r[b, i] = r_i.
    np.testing.assert_array_equal(Scenario(num_servers=3, link_rate=(1, 2, 3)).link_rates, [[1, 2, 3]] * 3)
    for given in (matrix, np.array(matrix), tuple(map(tuple, matrix))):
        np.testing.assert_array_equal(Scenario(num_servers=3, link_rate=given).link_rates, matrix)  # pyright: ignore


def test_the_number_of_servers_follows_the_capacities():
    assert Scenario(capacity=(1, 2, 3)).num_servers == 3
    assert Scenario(capacity=np.array([1.0, 2.0])).num_servers == 2  # pyright: ignore
    assert Scenario(capacity=7).num_servers == 5
    np.testing.assert_array_equal(Scenario(capacity=7).capacities, np.full(5, 7))
    np.testing.assert_array_equal(Scenario(num_servers=3).capacities, [10, 30, 50])
    assert Scenario(num_servers=1).params().link_rate.shape == (1, 1)


def test_scenarios_are_hashable_values():
    listed = Scenario(capacity=[1, 2, 3], link_rate=[4, 5, 6])  # pyright: ignore
    assert listed == Scenario(num_servers=3, capacity=(1.0, 2.0, 3.0), link_rate=(4.0, 5.0, 6.0))
    assert len({listed, Scenario(capacity=(1, 2, 3), link_rate=(4, 5, 6)), Scenario()}) == 2


@pytest.mark.parametrize(
    "value", [NAN, INF, -INF, -1, 0, 2.5, 10**7, *NO_NUMBERS], ids=lambda v: repr(v)[:15]
)
@pytest.mark.parametrize("name", INTEGERS)
def test_sizes_are_positive_integers(name: str, value: Any):
    assert_refused(name, **{name: value})


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, 1e12, None, *NO_NUMBERS], ids=lambda v: repr(v)[:15])
@pytest.mark.parametrize("name", NUMBERS)
def test_quantities_are_finite_numbers(name: str, value: Any):
    assert_refused(name, **{name: value})


@pytest.mark.parametrize("name", POSITIVE)
def test_quantities_are_positive(name: str):
    for value in (0, 0.0, -0.0, 1e-12):
        assert_refused(name, **{name: value})


def test_only_the_number_of_servers_may_be_left_out():
    assert Scenario(num_servers=None).num_servers == 5  # pyright: ignore[reportArgumentType]
    for name in ("num_tasks", "num_slots"):
        assert_refused(name, **{name: None})


def test_probabilities_end_at_zero_and_one():
    assert (Scenario(arrival_prob=0).arrival_prob, Scenario(arrival_prob=1).arrival_prob) == (0, 1)
    assert_refused("arrival_prob", arrival_prob=1 + 1e-9)


def test_ranges_are_not_upside_down():
    assert_refused("task_size_max", task_size_min=3, task_size_max=2.9)
    assert_refused("density_max", density_min=0.3, density_max=0.2)
    assert Scenario(task_size_min=3, task_size_max=3).task_size_max == 3  # a constant is a range


@pytest.mark.parametrize(
    "value", [NAN, INF, -1, 0, "5", True, {}, 1j, "12345", np.array(["a"] * 5)], ids=lambda v: repr(v)[:15]
)
@pytest.mark.parametrize("name", FLEETS)
def test_fleets_are_positive_numbers(name: str, value: Any):
    assert_refused(name, **{name: value})
    assert_refused(name, **{name: [1, 2, value, 4, 5]})


@pytest.mark.parametrize(
    "value", [[], [[]], [1, 2], [1] * 6, [[1] * 5] * 4, [[[1] * 5] * 5] * 5, [[1], [1, 2]]]
)
@pytest.mark.parametrize("name", FLEETS)
def test_fleets_have_one_number_per_server(name: str, value: list):
    assert_refused(name, num_servers=5, **{name: value})


def test_ragged_and_nested_fleets_are_refused():
    assert_refused("link_rate", num_servers=2, link_rate=[[1, 2], [3]])
    assert_refused("link_rate", num_servers=2, link_rate=[[1, 2], 3])
    assert_refused("capacity", num_servers=2, capacity=[[1, 2], [3, 4]])
    assert_refused("capacity", capacity=[[1, 2], [3, 4]])


def test_an_empty_fleet_without_a_size_is_the_fleet_s_fault():
    assert_refused("capacity", capacity=[])


@pytest.mark.parametrize("name", ["num_tasks", "deadline", "arrival_prob"])
def test_arrays_are_refused_in_one_line(name: str):
    assert_refused(name, **{name: np.eye(3)})


def test_numbers_too_long_to_print_are_refused():
    assert_refused("num_tasks", num_tasks=10**5000)
    assert_refused("deadline", deadline=10**5000)


def test_replace_changes_some_fields():
    changed = Scenario().replace(arrival_prob=0.5, num_servers=3)
    assert (changed.arrival_prob, changed.num_tasks) == (0.5, 50)
    np.testing.assert_array_equal(changed.capacities, [10, 30, 50])
    with pytest.raises(InputError, match="unknown field 'speed'"):
        Scenario().replace(speed=0.5)
    with pytest.raises(InputError, match="deadline: -1"):
        Scenario().replace(deadline=-1)


def test_replace_infers_anew_what_was_left_out(tmp_path: Path):
    log = {"file": str(write(tmp_path / "log.csv", small_rows()))}
    with_log = Scenario().replace(trace=log)
    assert with_log.arrivals == "trace"
    assert with_log == Scenario(trace=log)  # pyright: ignore[reportArgumentType]
    assert with_log.replace(trace=None) == Scenario()
    for num_slots in (30, 30_000):  # the log has about an hour
        fresh = Scenario(trace=log, num_slots=num_slots)  # pyright: ignore[reportArgumentType]
        assert with_log.replace(deadline=0.5).replace(num_slots=num_slots, deadline=1.0) == fresh
    assert Scenario(trace=log, num_slots=30_000).time_scale < with_log.time_scale  # pyright: ignore[reportArgumentType]
    assert pickle.loads(pickle.dumps(with_log)).replace(num_slots=30_000).time_scale < with_log.time_scale
    assert Scenario().replace(capacity=(10, 20)).num_servers == 2
    process = with_log.process
    assert Scenario(arrivals=process).replace(num_slots=30).process == process
    # What was given stays.
    given = Scenario(trace=log, time_scale=1, num_servers=5)  # pyright: ignore[reportArgumentType]
    refused(lambda: given.replace(num_slots=30_000), "num_slots: 30000")
    refused(lambda: given.replace(capacity=(10, 20)), "capacity")
    refused(
        lambda: Scenario(arrivals="poisson").replace(trace=log), "trace: one that would not be", "= poisson"
    )
    assert Scenario(arrivals="poisson").replace(trace=log, arrivals="trace") == with_log


def test_a_sweep_changes_nothing_else(tmp_path: Path):
    scenario = scenario_of(write(tmp_path / "log.csv", small_rows()), num_slots=30, time_scale=None)
    assert vary(scenario, num_slots=20).time_scale == scenario.time_scale
    refused(lambda: get_axis("num_slots", scenario).apply(scenario, 30_000), "num_slots: 30000")
    refused(lambda: get_axis("slot_duration", scenario).apply(scenario, 3000.0), "num_slots: 30 of 3000 s")


def test_a_dictionary_makes_the_same_scenario():
    own = Scenario(num_servers=3, link_rate=9, density_min=0.01)
    for scenario in (*map(load_scenario, PRESETS), own):
        written = scenario.to_dict()
        assert set(written) == {f.name for f in dataclasses.fields(Scenario)}
        assert json.loads(json.dumps(written)).keys() == written.keys()
        again = Scenario(**written)
        assert again.shape() == scenario.shape()
        assert_equal(again.params(np.float64), scenario.params(np.float64))
