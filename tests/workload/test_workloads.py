"""Arrival processes: their laws, their independence, and the same arrivals for all methods.

Statistical tests are at level 1e-3 each, with fixed seeds.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.drawn import arrivals
from helpers.studies import carry_out
from scipy import stats

from amco_jax import Execution, InputError, Scenario, Sweep, get_method, load_scenario
from amco_jax.agents.qlearning.replay import rows_for
from amco_jax.workload import PROCESSES, Parameters, expected_after, tables_of, workload_of
from amco_jax.workload.counts import DRAWS, expected_beyond, positions_for, thresholds
from amco_jax.workload.trace import Traced

LEVEL = 1e-3
POISSON = Scenario(arrivals="poisson", num_servers=3, num_slots=20, num_tasks=10)
BURSTY = POISSON.replace(arrivals="bursty", num_slots=200, burst_slots=4.0, calm_slots=12.0)
QUICK = get_method("drlcoedge").with_settings(hidden=(4,), batch_size=4, learn_after=5)
SMALL = Scenario(num_servers=2, num_tasks=4, num_slots=5, arrival_prob=0.6)


def counts(scenario: Scenario, seeds: int = 50, **options: Any) -> np.ndarray:
    """`[seeds, num_slots, num_servers]`."""
    return np.sum(arrivals(scenario, seeds, **options).present, axis=-1)


def correlation(one: Any, other: Any) -> Any:
    """Pearson's coefficient and its p-value."""
    return stats.pearsonr(np.ravel(one), np.ravel(other))


def two_sided(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.3, 3.0, 15.0, 50.0, 700.0, 1e5])
def test_thresholds_are_the_law_and_leave_nothing_beyond_the_positions(rate: float):
    most = positions_for(rate)
    assert stats.poisson.sf(most, rate) < 1 / DRAWS
    assert most == 1 or stats.poisson.sf(most - 1, rate) >= 1 / DRAWS
    threshold = thresholds(rate, most + 5).astype(float)
    above = (DRAWS - 1 - threshold) / DRAWS
    np.testing.assert_allclose(above, stats.poisson.sf(np.arange(most + 5), rate), atol=1.01 / DRAWS)
    assert np.all(threshold[most:] == DRAWS - 1)  # which no draw exceeds


@pytest.mark.parametrize("prob", [0.05, 0.3, 1.0])
def test_poisson_counts_follow_their_law(prob: float):
    found = counts(POISSON.replace(arrival_prob=prob)).ravel()
    rate = 10 * prob
    edges = stats.poisson.ppf([0.02, 0.98], rate)
    cells = np.clip(found, *edges).astype(int) - int(edges[0])
    inner = stats.poisson.pmf(np.arange(edges[0], edges[1] + 1), rate)
    inner[0], inner[-1] = stats.poisson.cdf(edges[0], rate), stats.poisson.sf(edges[1] - 1, rate)
    assert stats.chisquare(np.bincount(cells, minlength=inner.size), inner * found.size).pvalue > LEVEL
    assert two_sided((found.mean() - rate) / np.sqrt(rate / found.size)) > LEVEL


def test_poisson_counts_are_independent_along_every_coordinate():
    found = counts(POISSON, 200) - 3.0
    pairs = {
        "seeds": (found[1:], found[:-1]),
        "slots": (found[:, 1:], found[:, :-1]),
        "stations": (found[..., 1:], found[..., :-1]),
        "episodes": (found, counts(POISSON, 200, episode=1) - 3.0),
    }
    for name, (a, b) in pairs.items():
        assert correlation(a, b)[1] > LEVEL, name


def test_bursty_counts_have_the_mean_and_the_variance_of_theory():
    found = counts(BURSTY.replace(num_servers=4), 100)
    mean, variance = BURSTY.count_moments
    assert mean == pytest.approx(3.0)
    # The variance of theory is that of long sums: over 200 slots nearly so.
    sums = found.sum(axis=1).ravel()
    assert two_sided((sums.mean() - 200 * mean) / np.sqrt(200 * variance / sums.size)) > LEVEL
    spread = sums.var(ddof=1) / (200 * variance)
    assert stats.chi2.ppf(LEVEL, 399) / 399 < spread * 1.03
    assert spread < stats.chi2.ppf(1 - LEVEL, 399) / 399
    # Of single slots: Poisson within, two rates between.
    calm = 3 / (0.75 + 0.25 * 5)
    single = 3 + 0.25 * 0.75 * (4 * calm) ** 2
    assert found.var() == pytest.approx(single, rel=0.05)
    assert found.var() > 2 * counts(POISSON, 100).var()


def test_bursts_last_as_long_as_said_and_begin_in_equilibrium():
    shape = BURSTY.shape()
    tables = tables_of([BURSTY], shape).of(0)
    seeds = jnp.arange(300, dtype=jnp.uint32)
    make = jax.vmap(lambda seed: workload_of(shape, BURSTY.params(), tables, seed, training=False).burst)  # pyright: ignore
    burst = np.asarray(make(seeds))
    assert burst.shape == (300, 201, 3)
    for at in (0, 100, 200):
        assert stats.binomtest(int(burst[:, at].sum()), 900, 0.25).pvalue > LEVEL
    before, after = burst[:, :-1], burst[:, 1:]
    ends, begins = int((before & ~after).sum()), int((~before & after).sum())
    assert stats.binomtest(ends, int(before.sum()), 1 / 4).pvalue > LEVEL
    assert stats.binomtest(begins, int((~before).sum()), 1 / 12).pvalue > LEVEL
    across = [burst[..., 0].mean(axis=1), burst[..., 1].mean(axis=1)]
    assert correlation(*across)[1] > LEVEL
    assert correlation(burst[1:, :, 0].mean(axis=1), burst[:-1, :, 0].mean(axis=1))[1] > LEVEL


def test_bursts_of_no_intensity_are_poisson():
    even = BURSTY.replace(burst_intensity=1.0, num_slots=20)
    for one, other in zip(*map(jax.tree.leaves, (arrivals(even), arrivals(POISSON))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_scenarios_hold_the_parameters_of_all_processes():
    for kind in PROCESSES.values():
        assert {f.name for f in dataclasses.fields(kind)} <= {f.name for f in dataclasses.fields(Parameters)}


def test_all_processes_bring_the_same_load():
    base = Scenario(num_servers=2, num_slots=60)
    means = {}
    for name in ("bernoulli", "poisson", "bursty"):
        tasks = arrivals(base.replace(arrivals=name), 200)
        present = tasks.present
        means[name] = (tasks.work * present).sum(axis=(1, 2, 3)), tasks.size[present].mean()
    for name in ("poisson", "bursty"):
        # Seed by seed, as the densities are the same.
        ratio = means[name][0] / means["bernoulli"][0]
        assert two_sided((ratio.mean() - 1) / stats.sem(ratio)) > LEVEL
        assert means[name][1] == pytest.approx(3.5, abs=0.01)
    assert correlation(means["poisson"][0], means["bernoulli"][0])[0] > 0.5


@pytest.mark.parametrize("name", ["poisson", "bursty"])
def test_more_load_adds_tasks_and_other_coordinates_change_none(name: str):
    base = POISSON.replace(arrivals=name)
    few, many = arrivals(base), arrivals(base.replace(arrival_prob=0.6))
    room = few.present.shape[-1]
    assert np.all(many.present[..., :room] >= few.present)
    assert many.present.sum() > few.present.sum()
    np.testing.assert_array_equal(few.size, many.size[..., :room])
    np.testing.assert_array_equal(few.work, many.work[..., :room])
    padded = arrivals(base, max_tasks=room + 7)
    assert not padded.present[..., room:].any()
    np.testing.assert_array_equal(padded.present[..., :room], few.present)
    longer = arrivals(base.replace(num_slots=25, num_servers=4))
    np.testing.assert_array_equal(longer.present[:, :20, :3], few.present)
    assert (few.present != arrivals(base, episode=1).present).any()


def run(out: Any = None, execution: Execution | None = None, **changes: Any):
    options: dict[str, Any] = {
        "param": "arrivals", "values": ["poisson", "bursty"], "seeds": 70, "trained_seeds": 10,
        "methods": ["local"], "scenario": SMALL, "episodes": 3,
    }  # fmt: skip
    return carry_out(Sweep, out=out, execution=execution or Execution(), **(options | changes))


def test_methods_meet_the_same_arrivals_whatever_is_swept():
    """Also trained ones, whose replays must know the positions of each value from the padding."""
    rows = run(values=["poisson"], methods=["local", "all-servers", QUICK]).rows
    table = rows.pivot(index="seed", columns="method", values="num_tasks")
    np.testing.assert_array_equal(table["local"], table["all-servers"])
    trained = table.dropna()
    assert len(trained) == 10
    np.testing.assert_array_equal(trained["local"], trained[QUICK.name])
    busier = run(
        param="arrival_prob", values=[0.6, 1.0], scenario=SMALL.replace(arrivals="poisson"), methods=[QUICK]
    ).rows
    for column in ("num_tasks", "makespan_mean_s", "utilisation_0"):
        wanted = rows.loc[rows["method"] == QUICK.name, column]
        np.testing.assert_array_equal(busier.loc[busier["value"] == 0.6, column], wanted)


def test_shards_and_resuming_change_no_number(tmp_path: Any):
    whole = run().rows
    for part in ("0/2", "1/2"):
        run(tmp_path, Execution(shard=part, unit_seconds=1e-6))
    found = run(tmp_path, Execution(resume=True, unit_seconds=1e-6))
    assert found.missing == 0
    assert found.rows.equals(whole)
    with pytest.raises(InputError, match=r"made for something else: scenario\.burst_slots"):
        run(tmp_path, Execution(resume=True, unit_seconds=1e-6), scenario=SMALL.replace(burst_slots=3))


def test_rows_of_the_replay_hold_what_they_should():
    for scenario in (POISSON, BURSTY):
        rows = rows_for(100, scenario.replace(num_slots=300))
        assert rows > rows_for(100, scenario.replace(arrivals="bernoulli"))
        assert counts(scenario.replace(num_slots=rows), 100).sum(axis=1).min() >= 100


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arrivals": "uniform"}, "arrivals: 'uniform'; legal: bernoulli, poisson, bursty, trace"),
        ({"arrivals": ["poisson"]}, "arrivals"),
        ({"arrivals": "trace"}, "legal with a trace: --trace FILE"),
        ({"burst_intensity": 0.5}, "burst_intensity: 0.5; legal: a number from 1 to"),
        ({"burst_slots": 0}, "burst_slots"),
        ({"calm_slots": float("nan")}, "calm_slots"),
        ({"time_scale": 0}, "time_scale"),
        ({"arrivals": "poisson", "num_tasks": 1_000_000, "arrival_prob": 1}, "legal: 1000000 at most"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Scenario(**fields)


@pytest.mark.parametrize(("param", "name"), [("burst_slots", "poisson"), ("time_scale", "bernoulli")])
def test_what_means_nothing_is_not_swept(param: str, name: str):
    with pytest.raises(InputError, match=f"param: {param} means nothing to arrivals = {name}"):
        run(param=param, values=None, scenario=SMALL.replace(arrivals=name))


def test_scenarios_come_back_from_files_and_manifests(tmp_path: Any):
    path = tmp_path / "bursty.toml"
    path.write_text(
        'num_servers = 2\narrivals = "bursty"\nburst_intensity = 8\nburst_slots = 2.5\ncalm_slots = 30\n'
    )
    scenario = load_scenario(path)
    assert (scenario.arrivals, scenario.burst_intensity, scenario.calm_slots) == ("bursty", 8.0, 30.0)
    assert Scenario(**scenario.to_dict()).to_dict() == scenario.to_dict()
    manifest = run(
        param="burst_slots", values=[2.5, 5], scenario=scenario, methods=["local"], seeds=2
    ).manifest
    assert manifest["scenario"]["arrivals"] == "bursty"


@pytest.mark.parametrize("rate", [0.5, 3.0, 10.0, 30.0])
def test_the_tasks_expected_beyond_some_are_about_the_mean_excess(rate: float):
    passed = np.arange(int(1.8 * rate) + 2)
    excess = np.array([stats.poisson.sf(np.arange(n, 400), rate).sum() for n in passed])  # E[max(K - n, 0)]
    known = expected_beyond(jnp.asarray(passed, jnp.float32), jnp.full(len(passed), rate), True)
    exact = excess / stats.poisson.sf(passed - 1, rate)
    assert np.all(known <= 1.05 * exact)
    assert np.all(known >= 0.55 * exact)
    assert np.all((known >= 0.8 * exact)[passed <= rate])
    unknown = expected_beyond(jnp.asarray(passed, jnp.float32), jnp.full(len(passed), rate), False)
    np.testing.assert_allclose(unknown, excess, atol=0.08 * np.sqrt(rate), rtol=0.05)
    assert known[0] == unknown[0] == rate


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("mean", "passed"), [((0, 0, 10, 0), 10), ((1, 2, 6), 4), ((4, 4, 4), 12), ((0, 0), 2)]
)
def test_requests_to_come_are_shared_by_the_means_of_base_stations(
    mean: tuple[float, ...], passed: int, known: bool
):
    """Requests are drawn one by one, each with its base station; those after the first ones are counted."""
    total, draw = float(np.sum(mean)), np.random.default_rng(passed)
    left = np.maximum(draw.poisson(total, 100_000) - passed, -1 if known else 0)
    left = left[left >= 0]
    station = draw.choice(len(mean), int(left.sum()), p=np.divide(mean, total) if total else None)
    exact = np.bincount(station, minlength=len(mean)) / max(len(left), 1)
    workload = Traced(*(None,) * 8, max_tasks=1)  # pyright: ignore[reportArgumentType]  # unused
    found = expected_after(workload, SMALL.params(), jnp.float32(passed), jnp.array(mean, float), known=known)
    np.testing.assert_allclose(found, exact, rtol=0.2, atol=0.08 * np.sqrt(total))


def test_positions_are_equally_likely_to_hold_a_task_by_default():
    params = SMALL.params()
    mean = jnp.array([1.0, 2.0])
    alone = expected_after(PerStation(), params, jnp.float32(3), mean, known=True)
    np.testing.assert_allclose(alone, mean * (1 - 3 / 4))


class PerStation:
    """A workload with four equally likely positions."""

    def row(self, params: Any, t: Any, b: Any) -> Any:
        raise NotImplementedError

    def num_positions(self, params: Any) -> int:
        return 4
