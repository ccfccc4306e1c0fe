"""Image services: whole images, against brute force and a calculation by hand; fields, tables, commands."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import image_machines
from helpers.episodes import arrivals, run
from helpers.image_machines import (
    INPUT_MBIT,
    RESULT_MBIT,
    Machine,
    by_hand,
    compositions,
    write_machines,
)
from helpers.tiny_training import Script

from amco_jax import env
from amco_jax.agents.methods import METHODS, REFERENCES, TRAINED, get_method
from amco_jax.agents.policy import TaskView
from amco_jax.alloc import ALLOCATORS
from amco_jax.alloc.whole import whole_items
from amco_jax.errors import InputError
from amco_jax.metrics import METRICS, SlotOutcome
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.scenario.axes import default_values
from amco_jax.scenario.presets import load_scenario
from amco_jax.service import ImageService
from amco_jax.service.latency import write_table

MACHINES = {"slow": Machine(1.5, 0.30), "fast": Machine(0.4, 0.05), "even": Machine(0.0, 0.10)}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A latency table of three machines, each measured at 10 and 20 steps."""
    return write_machines(tmp_path / "machines.csv", MACHINES)


def scenario_of(table: Path, split: str = "whole", **fields: Any) -> Scenario:
    """The three machines as a fleet."""
    return image_machines.scenario_of(table, MACHINES, {"split": split}, **fields)


@pytest.mark.parametrize("num_servers", [1, 3, 4])
def test_rounded_water_filling_is_the_best_of_all_whole_splits(num_servers: int):
    random = np.random.default_rng(num_servers)
    rounded = jax.jit(
        lambda w, c, s, k: whole_items(ALLOCATORS["waterfill"](w, c, s), w, c, s, k), inline=False
    )
    with jax.enable_x64(True):
        for items in (1, 2, 3, 7):
            for _ in range(25):
                wait, cost = random.uniform(0, 3, num_servers), random.uniform(0.5, 9, num_servers)
                selected = random.random(num_servers) < 0.7
                selected[random.integers(num_servers)] = True
                count = np.asarray(rounded(wait, cost, selected, float(items))) * items
                np.testing.assert_allclose(count, np.round(count), atol=1e-9)
                assert round(count.sum()) == items
                assert np.all(count[~selected] == 0)
                ends = [
                    max(w + n * c / items for n, w, c in zip(part, wait, cost, strict=True) if n)
                    for part in compositions(items, num_servers)
                    if not any(n and not s for n, s in zip(part, selected, strict=True))
                ]
                end = np.max(np.where(count > 0.5, wait + count * cost / items, 0))
                assert end == pytest.approx(min(ends), rel=1e-9)


@pytest.mark.parametrize("name", ["best-1", "best-2", "best-3", "best-2-local", "best-9"])
def test_best_k_is_the_best_of_all_whole_splits_over_few_servers(name: str, table: Path):
    k, local = int(name.split("-")[1]), name.endswith("local")
    params, method, random = scenario_of(table).params(np.float64), get_method(name), np.random.default_rng(3)

    @jax.jit
    def outcome(items, wait, cost, here):
        task = env.Task(present=jnp.asarray(True), size=items, work=items)
        view = TaskView(task, wait, cost, here, params, stream(jnp.uint32(0), Stream.POLICY), jnp.int32(0))
        chosen = method.policy.function(view)
        return chosen, env.split(params, method.allocator, items, wait, cost, chosen)[1]

    with jax.enable_x64(True):
        for items in (1, 2, 3, 7):
            for _ in range(25):
                wait, cost = random.uniform(0, 3, 3), random.uniform(0.5, 9, 3)
                here = np.arange(3) == random.integers(3)
                chosen, end = outcome(float(items), wait, cost, here)
                assert chosen.sum() <= k
                assert (chosen & here).any() or not local
                ends = [
                    max(w + n * c / items for n, w, c in zip(part, wait, cost, strict=True) if n)
                    for part in compositions(items, 3)
                    if np.count_nonzero((np.array(part) > 0) | (here & local)) <= k
                ]
                assert end == pytest.approx(min(ends), rel=1e-6)


@pytest.mark.parametrize("allocator", sorted(ALLOCATORS))
@pytest.mark.parametrize("num_servers", [5, 12])
def test_every_split_rounds_to_its_items_and_stays_close(allocator: str, num_servers: int):
    random = np.random.default_rng(7)
    allocate = ALLOCATORS[allocator]
    both = jax.jit(lambda w, c, s, k: (x := allocate(w, c, s), whole_items(x, w, c, s, k)))
    for items in (1, 4, 1000):
        for _ in range(20):
            wait = random.uniform(0, 3, num_servers).astype(np.float32)
            cost = random.uniform(0.5, 9, num_servers).astype(np.float32)
            selected = random.random(num_servers) < 0.6
            fluid, whole = (np.asarray(x) for x in both(wait, cost, selected, np.float32(items)))
            assert round(float(whole.sum() * items)) == (items if selected.any() else 0)
            np.testing.assert_allclose(whole * items, np.round(whole * items), atol=1e-3)
            assert np.all(whole[~selected] == 0)
            assert np.all(whole * items > np.floor(fluid * items) - 0.5)  # nothing taken back


@pytest.mark.parametrize("method", ["optimal", "all-servers", "randcoedge"])
@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_agrees_with_a_calculation_by_hand(table: Path, method: str, seed: int):
    scenario = scenario_of(table)
    with jax.enable_x64(True):
        tasks = arrivals(scenario.shape(), scenario.params(np.float64), np.uint32(seed))
        tasks = jax.tree.map(np.asarray, tasks)
    decisions = run(METHODS[method], seed, scenario=scenario, dtype=np.float64).decisions
    present = tasks.present
    assert present.sum() > 20
    assert set(np.unique(tasks.size)) <= set(range(1, 6))
    assert set(np.unique(np.round(tasks.work / tasks.size, 9))) <= set(range(10, 15))
    makespans, least = by_hand(scenario, [*MACHINES.values()], tasks, decisions)
    np.testing.assert_allclose(decisions.makespan[present], makespans[present], rtol=1e-12)
    assert 0 < decisions.missed[present].mean() < 1
    if method == "optimal":
        np.testing.assert_allclose(decisions.makespan[present], least[present], rtol=1e-12)
        assert np.array_equal(decisions.selected[present], decisions.fraction[present] > 0)


def test_a_fluid_split_is_the_lower_bound_of_a_whole_one(table: Path):
    first = []  # of the first slot, where both start from empty queues and only the first task is the same
    for split in ("whole", "fluid"):
        decisions = run(METHODS["optimal"], scenario=scenario_of(table, split), dtype=np.float64).decisions
        present = np.argwhere(decisions.present)[0]
        first.append(float(decisions.makespan[tuple(present)]))
    assert first[1] < first[0]


def test_the_optimal_of_enumeration_agrees(table: Path):
    scenario = scenario_of(table, arrival_prob=0.3)
    best, enumerated = (
        run(METHODS[name], scenario=scenario, dtype=np.float64).decisions
        for name in ("optimal", "optimal-enumeration")
    )
    np.testing.assert_allclose(best.makespan, enumerated.makespan, rtol=1e-9)


def test_the_fleet_of_the_paper():
    scenario = load_scenario("jetson-sd15")
    assert scenario.num_servers == 5
    low, high = (
        dataclasses.replace(scenario.service, bound=bound).capacity  # pyright: ignore
        for bound in ("low", "high")
    )
    assert np.all(np.asarray(high) < scenario.capacities)
    assert np.all(scenario.capacities < np.asarray(low))
    report = scenario.service.report(20, 20, 4)  # pyright: ignore[reportOptionalMemberAccess]
    assert all(server["row_kind"] == "estimated" and server["extrapolated"] for server in report)
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert Scenario(**json.loads(json.dumps(scenario.to_dict()))).to_dict() == scenario.to_dict()


def test_what_an_image_sends_follows_its_resolution_unless_it_is_given(table: Path):
    rows = pd.read_csv(table, keep_default_na=False).to_dict("records")
    write_table([*rows, *(row | {"resolution": 1024} for row in rows)], table)  # pyright: ignore[reportArgumentType]
    inferred = ImageService(tuple(MACHINES), (str(table),))
    larger = dataclasses.replace(pickle.loads(pickle.dumps(inferred)), resolution=1024)
    assert (inferred.input_mbit, inferred.result_mbit) == (512**2 * 32 / 1e6, 512**2 * 24 / 1e6)
    assert larger == ImageService(tuple(MACHINES), (str(table),), resolution=1024)
    assert larger.batch_mbit == 4 * inferred.batch_mbit
    given = dataclasses.replace(inferred, input_mbit=inferred.input_mbit + 0.0)
    assert dataclasses.replace(given, resolution=1024).batch_mbit == given.input_mbit + larger.result_mbit


def test_a_table_says_what_lies_within_it(table: Path):
    service = scenario_of(table).service
    assert service is not None
    assert service.capacity == pytest.approx([1 / machine.per_step for machine in MACHINES.values()])
    assert service.overhead == pytest.approx([m.fixed / m.per_step for m in MACHINES.values()])
    assert [server["extrapolated"] for server in service.report(10, 20, 5)] == [False] * 3
    assert [server["extrapolated"] for server in service.report(10, 21, 5)] == [True] * 3


def with_power(table: Path, *powers: tuple[str, str, float], batch: int = 1) -> Path:
    """The table with rows of power: device, component, W."""
    rows = pd.read_csv(table, keep_default_na=False).to_dict("records")
    like = rows[0] | {"steps": "", "quantity": "power", "batch": batch}
    rows += [like | {"device": device, "component": name, "value": w} for device, name, w in powers]
    write_table(rows, table)  # pyright: ignore[reportArgumentType]
    return table


def test_a_fleet_takes_its_power_from_its_table(table: Path):
    watts = {"slow": (2.0, 9.0), "fast": (8.0, 60.0), "even": (5.0, 25.0)}
    rows = [(d, name, w) for d, pair in watts.items() for name, w in zip(("idle", "busy"), pair, strict=True)]
    scenario = scenario_of(with_power(table, *rows))
    params = scenario.params(np.float64)
    np.testing.assert_allclose(params.power_idle, [2, 8, 5])  # pyright: ignore
    np.testing.assert_allclose(params.power_busy, [9, 60, 25])  # pyright: ignore
    # A size is a number of images here, each of which is sent there and back.
    assert params.energy_per_mbit == pytest.approx(scenario.energy_per_mbit * (INPUT_MBIT + RESULT_MBIT))
    assert params.price_per_hour is None
    given = scenario.replace(power_busy=100.0, price_per_hour=(1.0, 2.0, 3.0))
    np.testing.assert_allclose(given.params().power_busy, [100] * 3)  # pyright: ignore
    np.testing.assert_allclose(given.params().price_per_hour, [1, 2, 3])  # pyright: ignore


def test_batches_of_any_size_have_a_power_if_it_does_not_depend_on_their_size(tmp_path: Path):
    table = write_machines(tmp_path / "machines.csv", MACHINES, (1, 2, 4))

    def power(batch: int | str) -> tuple[Any, Any]:
        service = ImageService(("slow",), (str(table),), batch=batch)
        return service.power_idle, service.power_busy

    assert power("all") == (None, None)
    with_power(table, ("slow", "idle", 5.0), ("slow", "busy", 200.0), batch=4)
    assert (power(1), power(4), power("all")) == ((None, None), *[((5.0,), (200.0,))] * 2)
    with_power(table, ("slow", "idle", 5.0), ("slow", "busy", 150.0), batch=2)
    assert (power(2), power("all")) == (((5.0,), (150.0,)), ((5.0,), None))


def test_energy_of_devices_of_unknown_power_is_refused(table: Path):
    incomplete = scenario_of(with_power(table, ("slow", "idle", 2.0), ("slow", "busy", 9.0)))
    assert incomplete.powers_idle is None
    assert json.loads(json.dumps(incomplete.to_dict()))["power_busy"] is None
    with pytest.raises(InputError, match=r"param: power_busy is not known .*; legal: values of your own"):
        default_values("power_busy", incomplete, lambda scenario: None)
    slot = SlotOutcome(incomplete.params(), *(jnp.zeros(()),) * 6)
    for name, field in (("server_energy_j", "power_idle and power_busy"), ("cost_usd", "price_per_hour")):
        with pytest.raises(InputError, match=f"metrics: no {field} of all devices .*; legal: to set"):
            METRICS[name].function(slot)


def test_a_service_in_a_scenario_file(tmp_path: Path, table: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'preset = "jetson-sd15"\n[service]\n'
        'devices = ["fast", "NVIDIA Jetson AGX Orin"]\ntables = ["machines.csv", "estimated"]\n'
    )
    scenario = load_scenario(file)
    assert scenario.capacities == pytest.approx([20, 1 / 0.15])
    assert scenario.deadline == 60
    table.write_text(table.read_text().replace("0.9", "0.8"))
    with pytest.raises(InputError, match="SHA-256"):
        Scenario(**scenario.to_dict())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"service": {"devices": []}}, "service.devices: .*at least one"),
        ({"service": {"devices": "fast"}}, "service.devices: "),
        ({"service": {}}, "service: no devices"),
        ({"service": 3}, "service: 3; legal: a table"),
        ({"service": {"devices": ["fast"], "colour": 1}}, "unknown field 'colour'"),
        ({"service": {"devices": ["TPU"]}}, "no services for device=TPU"),
        ({"service": {"devices": ["fast"], "tables": ["no.csv"]}}, "table: .*no.csv"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "batch": 4}}, "service.batch: 4"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "batch": True}}, "service.batch: True"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "split": "half"}}, "service.split: 'half'"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "bound": 1}}, "service.bound: 1"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "dtype": 16}}, "service.dtype: 16"),
        ({"service": {"devices": ["NVIDIA Jetson AGX Orin"], "input_mbit": -1}}, "service.input_mbit: -1"),
        ({"num_servers": 2}, "num_servers: 2; legal: 5"),
        ({"task_size_min": 1.5}, "task_size_min: 1.5; legal with a service: a whole number"),
        ({"density_max": 20.25}, "density_max: 20.25; legal with a service: .*of steps"),
    ],
)
def test_bad_services_are_refused_in_one_line(fields: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message) as error:
        load_scenario("jetson-sd15", fields)
    assert "\n" not in str(error.value)


def test_every_rule_runs_on_a_service(table: Path):
    for name in set(METHODS) - {*TRAINED, *REFERENCES}:
        episode = run(METHODS[name], scenario=scenario_of(table))
        assert episode.totals["num_tasks"] > 0, name
        assert np.all(np.isfinite(episode.backlog)), name


def test_a_learner_trains_on_a_service(script: Script, tmp_path: Path):
    code, _, errors = script(
        "compare", "--scenario", "jetson-sd15", "--methods", "amcoedge", "randcoedge",
        "--seeds", "2", "--episodes", "2", "--set", "num_slots=5", "--last", "1", "--physics", "unified",
        "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, errors


def test_sweeps_of_the_prototype_and_of_a_trace(script: Script, tmp_path: Path):
    code, _, errors = script(
        "sweep", "--scenario", "jetson-sd15", "--param", "arrival_prob", "--values", "0.2", "0.6",
        "--methods", "randcoedge", "local", "--seeds", "40", "--out", tmp_path / "p",
    )  # fmt: skip
    assert code == 0, errors
    summary = pd.read_csv(tmp_path / "p" / "summary.csv")
    assert len(summary)
    manifest = json.loads((tmp_path / "p" / "manifest.json").read_text())
    assert [server["device"] for server in manifest["service"]] == ["NVIDIA Jetson AGX Orin"] * 3 + [
        "NVIDIA Jetson Xavier NX"
    ] * 2

    random = np.random.default_rng(0)
    log = pd.DataFrame(
        {
            "gmt_create": np.cumsum(random.exponential(20, 2000)),
            "predict_status": "SUCCEED",
            "groupId": random.integers(0, 30, 2000),
            "num_images_per_prompt": random.integers(1, 5, 2000),
            "num_inference_steps": random.choice([20, 30], 2000),
        }
    )
    log.to_csv(tmp_path / "log.csv", index=False)
    code, _, errors = script(
        "sweep", "--scenario", "jetson-sd15", "--trace", tmp_path / "log.csv", "--param", "time_scale",
        "--values", "1", "2.5", "--methods", "randcoedge", "--seeds", "20", "--out", tmp_path / "t",
    )  # fmt: skip
    assert code == 0, errors
    assert len(pd.read_csv(tmp_path / "t" / "summary.csv"))
    log["num_images_per_prompt"] = 1.5
    log.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(InputError, match=r"trace.size: 1.5; legal with a service: whole numbers up to"):
        load_scenario("jetson-sd15", trace=str(tmp_path / "log.csv"))
