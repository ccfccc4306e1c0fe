"""What an episode computes: arrivals, conservation of work, totals, and users' own policies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import SMALL, arrivals, run
from scipy import stats

from amco_jax.agents.methods import METHODS, Method
from amco_jax.agents.policy import MAX_DRAWS, Policy, SlotView, TaskView, per_slot, per_task
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.metrics import EPISODE_METRICS, columns
from amco_jax.metrics.quantiles import Kept
from amco_jax.scenario import Scenario
from amco_jax.workload import bernoulli

LEVEL = 1e-4
"""False-alarm probability of each statistical check; seeds are fixed."""


@pytest.mark.parametrize("seed", [0, 1])
def test_arrivals_are_common_to_all_methods_and_physics(seed: int):
    episodes = [
        run(METHODS[method], seed, policy_seed, physics=row)
        for method in ("optimal", "randcoedge", "local", "two-choices")
        for row in (UNIFIED, METHODS["smcoedge"].published)
        for policy_seed in (0, 9)
    ]
    # Nobody rejects here, so the work that a slot brings is the load that it leaves.
    work = [e.slot_load.sum(axis=1) for e in episodes]
    for e, w in zip(episodes, work, strict=True):
        np.testing.assert_array_equal(e.decisions.present, episodes[0].decisions.present)
        np.testing.assert_allclose(w, work[0], rtol=1e-5)
    assert len({e.totals["makespan_mean_s"].item() for e in episodes}) > 4  # yet the methods differ


def test_seeds_of_arrivals_and_of_the_policy_act_on_their_own():
    method = METHODS["randcoedge"]
    one, other_arrivals, other_policy = (run(method, s, p) for s, p in ((1, 1), (2, 1), (1, 2)))
    assert (one.decisions.present != other_arrivals.decisions.present).any()
    both = one.decisions.present & other_arrivals.decisions.present
    np.testing.assert_array_equal(one.decisions.selected[both], other_arrivals.decisions.selected[both])
    np.testing.assert_array_equal(one.decisions.present, other_policy.decisions.present)
    assert (one.decisions.selected != other_policy.decisions.selected).any()


def test_policy_draws_differ_along_every_axis():
    def at_random(view: TaskView) -> jax.Array:
        return jnp.arange(3) == jnp.floor(3 * view.uniform()).astype(int)

    e = run(Method("random", per_task(at_random)), scenario=SMALL.replace(arrival_prob=1))
    server = e.decisions.selected.argmax(axis=-1)
    assert np.bincount(server.reshape(-1)).min() > 10  # of 60 draws
    for axis in range(3):
        assert (np.diff(server, axis=axis) != 0).any()


def test_arrivals_follow_their_distributions():
    scenario = Scenario(num_slots=200)
    tasks = arrivals(scenario.shape(), scenario.params(), np.uint32(0))
    here = np.asarray(tasks.present)
    assert stats.binomtest(here.sum(), here.size, 0.3).pvalue > LEVEL
    assert stats.chisquare(here.sum(axis=(1, 2))).pvalue > LEVEL
    # Given arrival: sizes and arrivals come from one draw each, rehashed.
    assert stats.kstest(np.asarray(tasks.size)[here], stats.uniform(2, 3).cdf).pvalue > LEVEL
    density = [bernoulli(scenario.params(), 50, jnp.uint32(s)).density for s in range(100)]
    uniform = stats.uniform(0.1024, 0.2048).cdf
    assert stats.kstest(np.concatenate(density), uniform).pvalue > LEVEL


def test_densities_are_drawn_once_and_arrivals_anew_per_episode():
    params = SMALL.params()
    first, second, stranger = (bernoulli(params, 4, jnp.uint32(s), e) for s, e in ((1, 0), (1, 1), (2, 0)))
    np.testing.assert_array_equal(first.density, second.density)
    assert (np.asarray(first.density) != np.asarray(stranger.density)).all()
    assert first.arrivals != second.arrivals
    assert ((first.density >= 1) & (first.density <= 4)).all()


def test_raising_the_probability_only_adds_tasks():
    few, many = (run(METHODS["local"], scenario=SMALL.replace(arrival_prob=p)) for p in (0.3, 0.8))
    assert (few.decisions.present <= many.decisions.present).all()
    assert 0 < few.totals["num_tasks"] < many.totals["num_tasks"]


def test_work_is_conserved():
    scenario = SMALL.replace(density_max=6, slot_duration=1.2)
    e = run(METHODS["randcoedge"], seed=4, scenario=scenario, dtype=np.float64)
    tasks = arrivals(scenario.shape(), scenario.params(), np.uint32(4))
    work = np.where(tasks.present, tasks.work, 0).sum(axis=(1, 2))
    np.testing.assert_allclose(e.slot_load.sum(axis=1), work, rtol=1e-5)

    limit = scenario.capacities * 1.2
    served = np.minimum(e.backlog + e.slot_load, limit)
    left = e.backlog + e.slot_load - served
    np.testing.assert_allclose(e.backlog[1:], left[:-1], rtol=1e-12, atol=1e-12)
    assert (left[:-1] > 0).any()
    assert (left[:-1] == 0).any()
    np.testing.assert_allclose(e.slot_load.sum(axis=0), served.sum(axis=0) + left[-1], rtol=1e-12)
    np.testing.assert_allclose(e.totals["utilisation"], (served / limit).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(e.end.backlog.servers, left[-1])
    np.testing.assert_array_equal(e.end.backlog.links, 0)


def test_totals_are_sums_over_the_tasks():
    e = run(METHODS["optimal-admission"], seed=1, scenario=SMALL.replace(density_max=9))
    d, here = e.decisions, e.decisions.present
    assert 0 < e.totals["reject_rate"] < e.totals["num_tasks"] == here.sum()
    assert e.totals["miss_rate"] == d.missed[here].sum()
    assert e.totals["reject_rate"] == d.rejected[here].sum()
    assert e.totals["mean_servers_used"] == d.selected[here].sum()
    assert e.totals["makespan_mean_s"] == pytest.approx(d.makespan[here].sum(), rel=1e-6)
    # Whoever is admitted by the optimal rule meets the deadline; whoever is not loads nothing.
    np.testing.assert_array_equal(d.missed[here], d.rejected[here])
    assert (d.makespan[here & d.rejected] == np.float32(0.4)).all()
    assert (d.fraction[here & d.rejected] == 0).all()


def test_an_episode_without_tasks_has_no_makespan():
    e = run(scenario=SMALL.replace(arrival_prob=0))
    makespans = Kept()
    makespans.add(np.where(e.decisions.present, e.decisions.makespan, np.inf).reshape(1, -1))
    totals = {name: total[None] for name, total in e.totals.items()}
    quantiles = {"makespan_quantiles_s": makespans.quantiles()}
    metrics = columns(EPISODE_METRICS, totals, SMALL.num_slots, quantiles)
    assert metrics["num_tasks"] == 0
    assert metrics["utilisation_0"] == 0
    for name in ("makespan_mean_s", "makespan_p99_s", "miss_rate", "reject_rate", "mean_servers_used"):
        assert np.isnan(metrics[name]).all()


def test_a_user_s_policy_per_task():
    def round_robin_of_large_tasks(view: TaskView) -> jax.Array:
        turn = (jnp.argmax(view.local) + view.n) % view.wait.size
        return (jnp.arange(view.wait.size) == turn) & (view.task.size > 3)

    e = run(Method("mine", per_task(round_robin_of_large_tasks)))
    b, n, i = np.ogrid[:3, :4, :3]
    tasks = arrivals(SMALL.shape(), SMALL.params(), np.uint32(0))
    served = np.asarray(tasks.present & (tasks.size > 3))
    np.testing.assert_array_equal(e.decisions.selected, served[..., None] & (i == (b + n) % 3))
    assert 0 < e.totals["reject_rate"] == e.totals["num_tasks"] - served.sum()


def test_a_user_s_policy_per_slot():
    def large_tasks_to_short_queues(view: SlotView) -> jax.Array:
        idle = view.backlog <= jnp.mean(view.backlog)
        return idle & (view.tasks.size > 3)[..., None]

    scenario = SMALL.replace(density_max=9)
    e = run(Method("mine", per_slot(large_tasks_to_short_queues)), scenario=scenario)
    idle = e.backlog <= e.backlog.mean(axis=1, keepdims=True)
    tasks = arrivals(scenario.shape(), scenario.params(), np.uint32(0))
    served = np.asarray(tasks.present & (tasks.size > 3))
    np.testing.assert_array_equal(e.decisions.selected, served[..., None] & idle[:, None, None])
    assert not idle.all()
    assert 0 < e.totals["reject_rate"] == e.totals["num_tasks"] - served.sum()


def test_both_kinds_of_policy_have_the_same_draws():
    def per_task_draw(view: TaskView) -> jax.Array:
        return jnp.arange(3) <= 3 * view.uniform(5)

    def per_slot_draw(view: SlotView) -> jax.Array:
        return jnp.arange(3) <= 3 * view.uniform(5)[..., None]

    one, other = run(Method("one", per_task(per_task_draw))), run(Method("other", per_slot(per_slot_draw)))
    np.testing.assert_array_equal(one.decisions.selected, other.decisions.selected)
    sizes = one.decisions.selected.sum(axis=-1)[one.decisions.present]
    assert set(sizes) == {1, 2, 3}


@pytest.mark.parametrize(
    "policy",
    [
        per_task(lambda view: view.wait),
        per_task(lambda view: view.local[:-1]),
        per_slot(lambda view: view.backlog > 0),
        per_slot(lambda view: jnp.ones((3, 4, 3))),
    ],
)
def test_what_a_policy_returns_is_checked(policy: Policy):
    with pytest.raises(InputError, match=r"policy: .* returns .*; legal: bool"):
        run(Method("wrong", policy))


@pytest.mark.parametrize("index", [-1, MAX_DRAWS])
def test_draws_are_limited(index: int):
    with pytest.raises(InputError, match=f"index: {index}"):
        run(Method("greedy", per_task(lambda view: view.local & (view.uniform(index) < 1))))
