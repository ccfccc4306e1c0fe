"""Batches of any size and models that are loaded: against counting off every image, and numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import image_machines
from helpers.episodes import arrivals, run
from helpers.image_machines import Machine, by_hand, write_machines

from amco_jax import env
from amco_jax.agents.methods import METHODS, get_method
from amco_jax.env.physics import placed
from amco_jax.errors import InputError
from amco_jax.metrics import METRICS, TaskOutcome
from amco_jax.scenario import Scenario
from amco_jax.scenario.presets import load_scenario

MACHINES = {
    "slow": Machine(0.5, 0.12, 0.6, 0.05, load=0.8),
    "fast": Machine(0.1, 0.03, 0.2, 0.06, load=0.3),
    "even": Machine(0.0, 0.06, 0.0, 0.02, load=1.1),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latency table of the machines, measured with batches of 1, 2 and 4."""
    return write_machines(tmp_path_factory.mktemp("tables") / "machines.csv", MACHINES, (1, 2, 4))


def scenario_of(table: Path, resident: bool) -> Scenario:
    return image_machines.scenario_of(
        table, MACHINES, {"batch": "all", "resident": resident}, arrival_prob=0.3
    )


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("method", ["optimal", "all-servers", "best-2"])
def test_the_kernel_agrees_with_a_calculation_by_hand(table: Path, method: str, resident: bool):
    scenario = scenario_of(table, resident)
    with jax.enable_x64(True):
        tasks = arrivals(scenario.shape(), scenario.params(np.float64), np.uint32(1))
        tasks = jax.tree.map(np.asarray, tasks)
    decisions = run(get_method(method), 1, scenario=scenario, dtype=np.float64).decisions
    present = tasks.present
    machines = [m._replace(load=None) if resident else m for m in MACHINES.values()]
    makespans, least = by_hand(scenario, machines, tasks, decisions)
    np.testing.assert_allclose(decisions.makespan[present], makespans[present], rtol=1e-12)
    assert 0 < decisions.missed[present].mean() < 1
    idle = (decisions.selected & (decisions.fraction == 0))[present]
    if method == "all-servers":
        assert idle.any()  # members that get no image, which only the loading of models can make matter
    elif method == "optimal":  # no set and no split of it, of all there are, ends sooner
        np.testing.assert_allclose(makespans[present], least[present], rtol=1e-12)
        assert not idle.any()
    else:
        assert decisions.selected[present].sum(axis=1).max() == 2
        assert np.all(makespans[present] > least[present] - 1e-9)


def test_idle_members_matter_only_where_they_load_a_model():
    for preset, alike in (("gpu-sd14", True), ("gpu-sd14-loading", False)):
        scenario = load_scenario(preset, {"num_slots": 5})
        both = [run(METHODS[name], scenario=scenario).decisions for name in ("optimal", "all-servers")]
        present = both[0].present
        assert np.all(both[1].selected[present])
        assert not np.all(both[0].selected[present])
        assert np.array_equal(both[0].makespan[present], both[1].makespan[present]) == alike


def test_what_a_task_puts_on_servers_and_needs_by_hand(table: Path):
    params = scenario_of(table, resident=False).replace(power_idle=(1, 2, 3), power_busy=(11, 22, 33))
    params = params.params(np.float64)
    with jax.enable_x64(True):
        # Three images of ten steps: two on the first machine, one on the second, the third only loads.
        size, work, fraction = jnp.float64(3), jnp.float64(30), jnp.array([2 / 3, 1 / 3, 0])
        selected, seconds = jnp.ones(3, bool), np.array([0.8 + 1.1 + 2 * 1.7, 0.3 + 0.8 + 0.4, 1.1])
        load = placed(params, size, work, selected, fraction) / params.capacity
        np.testing.assert_allclose(load, seconds, rtol=1e-12)
        np.testing.assert_allclose(placed(params, size, work, ~selected, fraction * 0), 0)
        start = env.starts(params, size, work)
        assert start is not None
        np.testing.assert_allclose(start, [0.8 + 1.1, 0.3 + 0.8, 1.1 + 0.2], rtol=1e-12)
        zero, no = jnp.float64(0), jnp.array(False)
        outcome = TaskOutcome(
            params, jnp.int32(0), jnp.int32(0), jnp.array([True, False, False]), size, work, jnp.zeros(3),
            jnp.ones(3), selected, fraction, zero, zero, no, no,
        )  # fmt: skip
        links = params.energy_per_mbit * 3 * (1 / 3)
        energy = METRICS["task_energy_mean_j"].function(outcome)
    assert energy == pytest.approx(np.dot([10, 20, 30], seconds) + links)


def test_the_load_of_loading_devices_is_that_of_pen_and_paper(table: Path):
    # A request is of 3 images at 12 steps in the mean; each device by itself does so many of them a second.
    for resident in (True, False):
        seconds = [m.seconds(3, 12) + (0 if resident else m.load or 0) for m in MACHINES.values()]
        offered = scenario_of(table, resident).offered_load
        assert offered == pytest.approx(3 * 3 * 0.3 / 8 / sum(1 / s for s in seconds))


def test_a_manifest_tells_the_fit_over_batches(table: Path):
    service = scenario_of(table, resident=False).service
    assert service is not None
    for images, beyond in ((4, False), (5, True)):
        slow = service.report(10, 20, images)[0]
        assert slow["batches"] == (1, 4)
        assert slow["extrapolated"] == beyond
        parts = [
            slow[name] for name in ("fixed_s", "per_step_s", "start_fixed_s", "start_per_step_s", "load_s")
        ]
        assert parts == pytest.approx(MACHINES["slow"])
        assert slow["batch_residual"] < 1e-9
        assert (slow["row_kind"], slow["load_row_kind"]) == ("derived", "measured")
    assert "load_s" not in scenario_of(table, resident=True).service.report(10, 20, 4)[0]  # pyright: ignore


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"batch": "some"}, "service.batch: 'some'; legal: a whole number from 1 to 100000, or all"),
        ({"resident": 1}, "service.resident: 1; legal: true or false"),
        ({"split": "fluid"}, "service.split: fluid; legal with service.batch = all: whole"),
        ({"batch": 3}, "service.batch: 3 on slow; legal: 1, 2, 4"),
    ],
)
def test_bad_fields_are_refused_in_one_line(table: Path, service: dict[str, Any], message: str):
    with pytest.raises(InputError) as error:
        image_machines.scenario_of(table, MACHINES, {"batch": "all", **service})
    assert str(error.value) == message


def test_tables_without_batch_sizes_or_times_to_load_are_refused(tmp_path: Path):
    bare = {name: machine._replace(load=None) for name, machine in MACHINES.items()}
    table = write_machines(tmp_path / "bare.csv", bare)
    with pytest.raises(
        InputError, match=r"^service.resident: false, but no rows 'load' of slow; legal: true$"
    ):
        scenario_of(table, False)
    with pytest.raises(InputError, match=r"^service.batch: all on slow, batch: \[1\]; legal: at least two"):
        scenario_of(table, True)
