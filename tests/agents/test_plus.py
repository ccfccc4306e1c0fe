"""AEQN with prices as its head: what it starts from, what it is taught, and what it learns."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.learner import Outcome
from amco_jax.agents.methods import METHODS, Method
from amco_jax.agents.plus import LEARNT, Moments, PlusLearner
from amco_jax.agents.policy import per_task
from amco_jax.agents.pricing import PRICED, SHIPPED
from amco_jax.alloc import waterfill
from amco_jax.compile.runtime import own_numerics
from amco_jax.env import UNIFIED
from amco_jax.kernel import rollout
from amco_jax.kernel.gradient import gradient, with_prices
from amco_jax.kernel.training import sum_by_station
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.study.blocks import Block
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import simulate
from amco_jax.study.trainer import Trainer
from amco_jax.workload import tables_of, workload_of

LEARNER = PlusLearner()
FLEET = Scenario(num_servers=3, capacity=(10, 20, 30), num_tasks=4, num_slots=3, arrival_prob=0.9)


def episode_of(scenario: Scenario, precision: Any = np.float32) -> dict[str, Any]:
    shape = scenario.shape()
    tables = jax.tree.map(jnp.asarray, tables_of([scenario], shape).of(0))
    params = jax.tree.map(jnp.asarray, scenario.params(precision))
    workload = workload_of(shape, params, tables, jnp.uint32(1), training=False)
    key = stream(jnp.uint32(1), Stream.POLICY)
    return {"shape": shape, "params": params, "physics": UNIFIED, "workload": workload, "key": key}


def agents_of(scenario: Scenario) -> tuple[Any, Any, Any]:
    """The settings, the initial agents and their copies for all base stations."""
    settings = LEARNER.settings.traced()
    key = stream(jnp.uint32(0), Stream.INIT)
    learnt, memory = LEARNER.init(settings, scenario.shape(), 1, key)
    heads = learnt.heads
    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (scenario.num_servers, *x.shape)), heads)
    return (settings, memory), learnt, copies


@own_numerics()
def test_it_starts_as_amco_priced():
    scenario = Scenario(num_servers=3, num_slots=5, arrival_prob=0.4)
    _, _, agent = agents_of(scenario)
    agent = agent._replace(miss=jnp.full(scenario.num_servers, SHIPPED.miss))

    def sets(method: Method, agent: Any) -> Any:
        record = lambda decision, view: decision.selected  # noqa: E731
        return rollout(**episode_of(scenario), method=method, agent=agent, record=record).decisions

    learnt = jax.jit(partial(sets, Method("plus", LEARNT, waterfill)))(agent)
    np.testing.assert_array_equal(learnt, jax.jit(lambda: sets(Method("p", PRICED, waterfill), None))())
    assert 0 < np.mean(learnt) < 0.6


def test_moments_are_sums_of_inputs_times_exact_prices():
    scenario = FLEET.replace(order="turns")
    _, _, agent = agents_of(scenario)
    with jax.enable_x64(True):
        given = episode_of(scenario, np.float64)
        params = given.pop("params")
        agent = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), agent)
        knowing = per_task(
            lambda view: LEARNT.function(dataclasses.replace(view, agent=agent)), sees_load=True
        )

        @jax.jit
        def both(params: Any) -> Any:
            played, prices = with_prices(
                params=params, **given, method=Method("plus", LEARNT), agent=agent, record=LEARNER.keep
            )
            sums = sum_by_station(partial(LEARNER.moments, params), played.decisions, prices)
            drawn = {**given, "workload": lambda _: given["workload"]}
            exact = gradient(params=params, method=Method("plus", knowing), prices="by_slot", **drawn)
            return sums, played.decisions, exact

        found, ((x, y), share), exact = both(params)
    x = np.stack([np.broadcast_to(np.asarray(each).T, exact.work.T.shape).T for each in x])
    y = np.stack(y)
    for of, expected in (
        (found.work_squares, np.einsum("tbn,jtbni,ktbni->bjki", share, x, x)),
        (found.work_prices, np.einsum("tbn,ktbni,tbni,i->bki", share, x, exact.work, params.capacity)),
        (found.link_squares, np.einsum("tbn,jtbn,ktbn->bjk", share, y, y)),
        (found.link_prices, np.einsum("tbn,ktbn,tbn->bk", share, y, exact.delay)),
    ):
        np.testing.assert_allclose(of, expected, atol=1e-9)
    assert np.all(np.abs(found.work_prices[:, 2]).max(axis=1) > 0)
    assert not np.any(share[0])  # nothing is known in the first slot
    assert np.any(share[1])


def test_a_learner_finds_the_weights_that_made_the_prices():
    (settings, memory), learnt, _ = agents_of(FLEET)
    draw = np.random.default_rng(0)
    start = learnt.heads.work, learnt.heads.link
    true = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), start)
    x, y = draw.normal(size=(4, 90, 3, 3)), draw.normal(size=(2, 90, 3))  # [input, decision, station, ...]
    share = draw.uniform(size=(90, 3))
    price, delay = np.einsum("kbi,knbi->nbi", true[0], x), np.einsum("kb,knb->nb", true[1], y)
    moments = Moments(
        np.einsum("nb,jnbi,knbi->bjki", share, x, x), np.einsum("nb,knbi,nbi->bki", share, x, price),
        np.einsum("nb,jnb,knb->bjk", share, y, y), np.einsum("nb,knb,nb->bk", share, y, delay),
    )  # fmt: skip
    moments = jax.tree.map(lambda each: jnp.asarray(each, jnp.float32), moments)
    params, logs, played = FLEET.params(), {}, outcome([1, 2, 3], [0, 0, 0])
    for number in range(60):
        learnt, memory, logs = LEARNER.learn(settings, params, learnt, memory, moments, played)
        if number == 0:  # a whole step
            np.testing.assert_allclose(learnt.heads.work.waiting, true[0].waiting, atol=0.2)
    found = learnt.heads.work, learnt.heads.link
    jax.tree.map(partial(np.testing.assert_allclose, atol=0.05), found, true)
    assert float(learnt.heads.miss) == np.float32(settings.miss_price)
    assert float(logs["price_change"]) < 1e-3


def test_agents_go_as_far_towards_the_learnt_prices_as_has_cost_least():
    (settings, memory), learnt, _ = agents_of(FLEET)
    params = FLEET.params()
    start = learnt.heads.work.fluid
    there = learnt.heads._replace(work=learnt.heads.work._replace(fluid=start + 1))
    learnt = learnt._replace(heads=there)
    candidates = LEARNER.candidates(settings, params, learnt)
    np.testing.assert_allclose(candidates.work.fluid - start, np.ones(start.shape) * [[[1]], [[0.5]], [[0]]])
    price = float(settings.miss_price) * FLEET.deadline
    for makespans, misses, step in (
        ([1, 2, 3], [0, 0, 0], 1),
        ([3, 1, 2], [0, 0, 0], 0.5),
        ([1, 2, 3], [4, 4, 0], 0),
    ):
        costs = np.array(makespans) + price * np.array(misses)
        deployed = LEARNER.deployed(settings, params, learnt._replace(costs=jnp.asarray(costs)))
        np.testing.assert_allclose(deployed.work.fluid, start + step)
    moments = jax.tree.map(jnp.zeros_like, memory.moments)
    after, memory, _ = LEARNER.learn(settings, params, learnt, memory, moments, outcome([1, 2, 3], [5, 0, 0]))
    np.testing.assert_allclose(after.costs, [1 + 5 * price, 2, 3], rtol=1e-6)
    last = outcome([0, 0, 1], [0, 0, 0])
    after, _, _ = LEARNER.learn(settings, params, after, memory, moments, last)
    expected = settings.forgetting * np.array([1 + 5 * price, 2, 3]) + [0, 0, 1]
    np.testing.assert_allclose(after.costs, expected, rtol=1e-6)


def outcome(makespan: list[float], misses: list[float]) -> Outcome:
    return Outcome(jnp.asarray(makespan, jnp.float32), jnp.asarray(misses, jnp.float32))


@own_numerics()
def test_trained_agents_beat_the_prices_that_they_start_from():
    """Where stations take turns, on arrivals of their own that training has not seen."""
    scenario = FLEET.replace(order="turns", num_tasks=20, num_slots=8, arrival_prob=0.8, deadline=3)
    method = METHODS["amcoedge-plus"]
    cell = Cell(scenario=scenario, method=method, train_episodes=6, num_seeds=32)
    trainer = Trainer(scenario.shape(), [cell], [Block(0, 0)], 1)
    trainer.advance(6)

    class Trained:
        seeds_per_block = 32

        def bytes_per_lane(self, shape: Any) -> int:
            return 1

        def agents(self, shape: Any, chunk: Any, size: int) -> Any:
            found = trainer.host_agents()
            return jax.tree.map(lambda x: np.concatenate([x] * jax.local_device_count()), found)

    def makespans(method: Method, source: Any = None) -> np.ndarray:
        (batch,) = simulate([scenario], method, UNIFIED, 0, 32, source)
        return batch.metrics["makespan_mean_s"]

    learnt, priced = makespans(method, Trained()), makespans(METHODS["amco-priced"])
    assert np.mean(learnt < priced) > 0.9
    assert np.mean(learnt) < 0.995 * np.mean(priced)
