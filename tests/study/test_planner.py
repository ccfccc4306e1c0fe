"""The clairvoyant planner: its plans are played as they were made, and never worse than no prices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.request_logs import scenario_of, small_rows, write

from amco_jax import (
    Comparison,
    Scenario,
    Sweep,
    get_method,
    gradient,
    load_scenario,
    replay,
    rollout,
    run_study,
)
from amco_jax.agents.reference import Plan
from amco_jax.env import UNIFIED, Background
from amco_jax.errors import InputError
from amco_jax.kernel.gradient import with_prices
from amco_jax.metrics import MAKESPAN
from amco_jax.random import Stream, stream
from amco_jax.study.blocks import blocks_of
from amco_jax.study.planner import Planned
from amco_jax.study.simulate import simulate
from amco_jax.workload import bernoulli

# So many tasks that a price tells what each of them costs the others.
MANY = Scenario(num_servers=3, num_tasks=25, num_slots=2, arrival_prob=0.6)
PLANNER = get_method("planner")
SEEDS = 3


@pytest.fixture(scope="module")
def plans() -> Plan:
    """The plans of some seeds, leaves `[seeds, ...]`."""
    source = Planned([MANY], PLANNER, UNIFIED, 0)
    found = source.agents(MANY.shape(), blocks_of(1, 0, SEEDS, source.seeds_per_block), 1)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0, :SEEDS], found)


def test_it_is_never_worse_than_its_start():
    study = Sweep("deadline", [0.3, 1], methods=["planner", "optimal-admission"], seeds=8, scenario=MANY)
    rows = run_study(study).rows
    table = rows.pivot(index=["value", "seed"], columns="method", values="makespan_mean_s")
    assert np.all(table["planner"] <= table["optimal-admission"] * (1 + 1e-6))
    assert np.all(table["planner"].loc[1] < table["optimal-admission"].loc[1] * 0.97)


@pytest.mark.parametrize(("method", "timing"), [("planner", "slotted"), ("amco-priced", "continuous")])
def test_with_whole_images_no_price_leaves_the_best_whole_images(method: str, timing: str):
    """The planner starts without prices, and with continuous timing `amco-priced` has none."""
    service = {"devices": ("NVIDIA Jetson AGX Orin", "NVIDIA Jetson Xavier NX")}
    few = {"service": service, "num_servers": 2, "num_slots": 10, "num_tasks": 6, "deadline": 8.0}
    scenario = load_scenario("jetson-sd15", few | {"timing": timing})
    study = Sweep("arrival_prob", [0.3], methods=[method, "optimal-admission"], seeds=16, scenario=scenario)
    table = run_study(study).rows.pivot(index="seed", columns="method", values="makespan_mean_s")
    assert np.all(table[method] <= table["optimal-admission"] * (1 + 1e-6))


def test_in_episodes_of_training_it_plans_the_arrivals_of_training(tmp_path: Path):
    # So many requests in a slot that prices matter: those of other arrivals would do harm.
    changes = {"num_servers": 2, "num_slots": 2, "time_scale": 300.0, "deadline": 5.0}
    scenario = scenario_of(write(tmp_path / "log.csv", small_rows()), **changes)
    methods = ["planner", "optimal-admission"]
    study = Comparison(methods, scenario=scenario, physics=["unified"], seeds=8, episodes=2, last=1)
    table = run_study(study).rows.pivot(index=["episode", "seed"], columns="method", values="makespan_mean_s")
    assert np.all(table["planner"] <= table["optimal-admission"] * (1 + 1e-6))


def test_its_sets_replayed_give_its_makespans(plans: Plan):
    seed, params = 1, MANY.params()
    workload, key = jax.jit(_inputs)(params, np.uint32(seed))

    def play(plan: Plan, params: Any, workload: Any, key: Any) -> Any:
        return rollout(
            MANY.shape(), params, UNIFIED, method=PLANNER, workload=workload, key=key, agent=plan,
            record=lambda decision, view: (decision, view.task.size),
        ).decisions  # fmt: skip

    own = jax.tree.map(lambda leaf: leaf[seed], plans)
    decided, size = jax.tree.map(np.asarray, jax.jit(play)(own, params, workload, key))
    replayed = replay(
        {
            "task_mbit": np.where(decided.present, size, 0),
            "density_gcycles_per_mbit": np.asarray(workload.density),
            "capacity_gcycles_per_s": MANY.capacities,
            "rate_mbit_per_s": MANY.link_rates,
            "deadline_s": MANY.deadline,
            "selected": decided.selected.astype(int),
            "allocator": "waterfill",
        }
    )
    makespan = np.where(decided.present, decided.makespan, 0)
    np.testing.assert_allclose(replayed["makespan_s"], makespan, rtol=1e-4)


def test_its_prices_are_those_of_another_derivation():
    """Without prices and late tasks, it is `optimal`, and `gradient` gives the prices of each slot too."""
    scenario = MANY.replace(deadline=50)
    positions = scenario.num_slots, scenario.num_servers, scenario.num_tasks
    none = Plan(np.zeros((*positions, scenario.num_servers), np.float32), np.zeros(positions, np.float32))

    def both(params: Any, seed: Any, plan: Plan) -> Any:
        workload, key = _inputs(params, seed)
        played, prices = with_prices(
            scenario.shape(), params, UNIFIED, method=PLANNER, workload=workload, key=key, agent=plan
        )
        theirs = gradient(
            scenario.shape(), params, UNIFIED, method=get_method("optimal+waterfill"), prices="by_slot",
            workload=lambda given: _inputs(given, seed)[0], key=key,
        )  # fmt: skip
        ours = played.totals[MAKESPAN.name].rounded(np.float32), prices
        return ours, (theirs.total, Background(theirs.work, theirs.delay))

    ours, theirs = jax.jit(both)(scenario.params(), np.uint32(0), none)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    assert np.max(ours[1].work) > 0.1


def _inputs(params: Any, seed: Any) -> Any:
    """The workload of a seed, and the key of its policy; traceable."""
    return bernoulli(params, MANY.num_tasks, seed), stream(seed, Stream.POLICY)


def test_without_a_plan_it_decides_nothing():
    with pytest.raises(InputError, match="planner needs a plan"):
        next(iter(simulate([MANY], PLANNER, UNIFIED, 0, 1)))
