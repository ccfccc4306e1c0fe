"""Prices and the decisions that they change: by hand, against exact prices, and what agents learn."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amco_jax.agents.learner import Outcome
from amco_jax.agents.methods import METHODS, Method
from amco_jax.agents.policy import Arrived, TaskView
from amco_jax.agents.pricing import (
    _SPREAD,
    PRICED,
    Moments,
    PriceLearner,
    Prices,
    _displaced,
    fluid_of,
    link_feature,
    priced,
    work_feature,
)  # fmt: skip
from amco_jax.agents.rules import optimal
from amco_jax.env import UNIFIED, Task
from amco_jax.kernel.gradient import gradient, with_prices
from amco_jax.kernel.training import sum_by_station
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import tables_of, workload_of

FLEET = Scenario(num_servers=2, capacity=(10, 30), num_tasks=4, num_slots=3, arrival_prob=0.9)
PLAIN = Prices(*map(np.float32, (1, 0, 1, 1, 2, 0, 1)))


def view(
    wait: Any, known: Prices | None, coming: tuple[float, float] = (6, 12), deadline: float = 2.0
) -> TaskView:
    """A task of 2 Gcycles and 4 Mbit at base station 0, where the mean task, itself included, has 1 Gcycle.

    A mean task takes 0.1 s on server 0 and 1/30 s on server 1, and this one 0.1 s to send; what is sent waits
    for 0.1 s.
    """
    params = jax.tree.map(jnp.asarray, FLEET.replace(link_rate=40, deadline=deadline).params())
    agents = None if known is None else jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), known)
    arrived = Arrived(jnp.array([9.0, 12.0]), jnp.float32(9), jnp.float32(8))
    return TaskView(
        Task(jnp.asarray(True), jnp.float32(4), jnp.float32(2)), jnp.asarray(wait, jnp.float32),
        jnp.array([0.2, 2 / 30 + 0.1]), jnp.array([True, False]), params,
        stream(jnp.uint32(0), Stream.POLICY), jnp.int32(1), jnp.float32(0.1),
        jnp.asarray(coming, jnp.float32), agents, jnp.int32(3), arrived,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("coming", "apart", "below", "level"),
    [
        # 18 tasks, of which 18²/20 = 16.2 count: 10·(T - 0.2) + 30·(T - 0.4) = 16.2. Alone, both end at 0.8.
        ((6, 12), 1, 1, (0.8, 0.8)),
        # 0.1 s to send, so at most 0.05·0.1·6 and 0.05·0.1·12 above T.
        ((6, 12), 0.05, 1, (0.755 + 0.03, 0.8)),
        # 144/14 of 12 tasks count. Server 0 gets none of its own, and is at most 0.5·0.1·0.1·12 below T.
        ((0, 12), 0.1, 0.5, ((144 / 14 + 14) / 40 - 0.06, (144 / 14 + 14) / 40 + 0.12)),
    ],
)  # fmt: skip
def test_features_by_hand(coming: Any, apart: float, below: float, level: Any):
    known = PLAIN._replace(apart=np.float32(apart), below=np.float32(below))
    seen = view([0.2, 0.5], known, coming)
    expected = [10 * (level[0] - 0.2), 30 * (level[1] - 0.4)]
    np.testing.assert_allclose(work_feature(seen), expected, rtol=1e-5)
    np.testing.assert_allclose(link_feature(seen), coming[0] * 30 / 40, rtol=1e-6)


def test_without_prices_the_set_is_the_optimal_one():
    for wait in ([0.0, 0.1], [0.3, 0.2], [0.0, 0.9]):
        seen = view(wait, PLAIN._replace(work=np.float32(0)))
        np.testing.assert_array_equal(priced(seen), optimal(seen))
        # Nor are there prices where nothing is still to come.
        np.testing.assert_array_equal(priced(view(wait, None, (0, 0))), optimal(seen))


def test_prices_of_work_and_link_keep_a_task_away():
    none = PLAIN._replace(work=np.float32(0))
    assert priced(view([0.1, 0.1], none)).tolist() == [True, True]
    # Server 1 gets more of the 12 tasks of its own station than of the 0 of server 0.
    assert priced(view([0.1, 0.1], PLAIN, (0, 12))).tolist() == [True, False]
    assert priced(view([0.1, 0.1], PLAIN, (12, 0))).tolist() == [False, True]
    assert priced(view([0.1, 0.1], none._replace(link=np.float32(1)), (12, 0))).tolist() == [True, False]


def test_tasks_are_rejected_that_cost_more_than_a_miss():
    # Alone on server 0, the task ends at 0.3 s, and 2 mean tasks wait for 0.8 - 0.1 s as they do alone.
    for miss, accepted in ((0.2, False), (0.5, True)):
        seen = view([0.1, 2.5], PLAIN._replace(miss=np.float32(miss)), (7, 0), deadline=1.2)
        assert bool(priced(seen).any()) == accepted
    assert not priced(view([1.1, 5], PLAIN._replace(work=np.float32(0)), deadline=1)).any()


def test_a_task_displaces_as_many_others_as_find_no_room():
    def displaced(coming: Any) -> float:
        seen = view([0.2, 0.5], PLAIN, coming, deadline=1.0)
        return float(_displaced(seen, fluid_of(seen, PLAIN)))

    # There is room for 10·0.8 + 30·0.6 = 26 mean tasks, of which the task takes 2.
    assert displaced((0, 2)) < 1e-6
    assert displaced((100, 100)) == pytest.approx(2, abs=1e-5)
    scale = _SPREAD * np.sqrt(25)
    assert displaced((5, 20)) == pytest.approx(
        scale * (np.logaddexp(0, 1 / scale) - np.logaddexp(0, -1 / scale)), rel=1e-3
    )


@pytest.mark.parametrize("changes", [{"order": "turns"}, {"timing": "continuous"}])
def test_moments_are_sums_of_features_times_exact_prices(changes: dict[str, Any]):
    scenario = FLEET.replace(**changes)
    shape, learner = scenario.shape(), METHODS["amco-priced-trained"].require_training()
    assert isinstance(learner, PriceLearner)
    tables = jax.tree.map(jnp.asarray, tables_of([scenario], shape).of(0))
    key, method = stream(jnp.uint32(1), Stream.POLICY), Method("priced", PRICED)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, scenario.params(np.float64))
        workload = workload_of(shape, params, tables, jnp.uint32(1), training=False)

        @jax.jit
        def both(params: Any) -> Any:
            played, prices = with_prices(
                shape, params, UNIFIED, method=method, workload=workload, key=key, record=learner.keep
            )
            sums = sum_by_station(partial(learner.moments, params), played.decisions, prices)
            exact = gradient(
                shape, params, UNIFIED, method=method, workload=lambda _: workload, key=key, prices="by_slot"
            )
            return sums, played.decisions, exact

        found, (work, link, share), exact = both(params)
    work, link, share, capacity = map(np.asarray, (work, link, share, params.capacity))
    for of, expected in (
        (found.work_work, np.einsum("tbn,tbni,tbni->b", share, work, work)),
        (found.work_price, np.einsum("tbn,tbni,tbni,i->b", share, work, np.asarray(exact.work), capacity)),
        (found.link_link, np.einsum("tbn,tbn,tbn->b", share, link, link)),
        (found.link_price, np.einsum("tbn,tbn,tbn->b", share, link, np.asarray(exact.delay))),
    ):
        np.testing.assert_allclose(of, expected, atol=1e-9)
    assert (np.asarray(found.work_price).sum() > 0) == (scenario.timing == "slotted")


def test_a_learner_finds_the_coefficients_that_made_the_prices():
    learner, draw = PriceLearner(), np.random.default_rng(0)
    settings = learner.settings.replace(ridge=0).traced()
    learnt, memory = learner.init(settings, FLEET.shape(), 1, stream(jnp.uint32(0), Stream.INIT))
    work, link = draw.uniform(1, 2, size=(2, 2))  # sums of squares at two base stations
    moments = Moments(*(jnp.asarray(each, jnp.float32) for each in (work, 0.9 * work, link, 0.4 * link)))
    given = FLEET.params(), Outcome(jnp.zeros(1), jnp.zeros(1))
    learnt, memory, _ = learner.learn(settings, given[0], learnt, memory, moments, given[1])
    learnt, memory, logs = learner.learn(settings, given[0], learnt, memory, moments, given[1])
    np.testing.assert_allclose([learnt.work, learnt.link], [0.9, 0.4], rtol=1e-5)
    assert float(learnt.miss) == settings.miss_price
    assert float(logs["price_change"]) < 1e-5
