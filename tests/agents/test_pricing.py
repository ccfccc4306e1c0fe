"""Prices and the decisions that they change: by hand, against exact prices, and what agents learn."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from amco_jax.agents.methods import METHODS, Method
from amco_jax.agents.policy import TaskView
from amco_jax.agents.pricing import (
    NUM_LINK,
    NUM_WORK,
    PRICED,
    PriceLearner,
    Prices,
    _weight,
    link_features,
    priced,
    work_features,
)  # fmt: skip
from amco_jax.agents.rules import optimal
from amco_jax.env import UNIFIED, Task
from amco_jax.kernel import rollout
from amco_jax.kernel.gradient import gradient, held_fixed
from amco_jax.metrics import MAKESPAN
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import tables_of, workload_of

FLEET = Scenario(num_servers=2, capacity=(10, 30), num_tasks=4, num_slots=3, arrival_prob=0.9)


def view(wait: Any, known: Prices | None, **changes: Any) -> TaskView:
    """A task of 2 Gcycles and 4 Mbit at base station 0, halfway through slot 3, after 9 tasks in all."""
    params = jax.tree.map(jnp.asarray, FLEET.replace(link_rate=40, **changes).params())
    wait = jnp.asarray(wait, jnp.float32)
    agents = None if known is None else jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), known)
    return TaskView(
        Task(jnp.asarray(True), jnp.float32(4), jnp.float32(2)), wait, jnp.array([0.2, 2 / 30 + 0.1]),
        jnp.array([True, False]), params, stream(jnp.uint32(0), Stream.POLICY), jnp.int32(1),
        jnp.array([0.5, 1.0]), agents, jnp.int32(3), jnp.array([3.0, 6.0]),
    )  # fmt: skip


def known(work: dict[int, float], link: dict[int, float], miss: float = 0.2) -> Prices:
    """Coefficients of 0 but for those given."""
    lists = np.zeros(NUM_WORK, np.float32), np.zeros(NUM_LINK, np.float32)
    for values, given in zip(lists, (work, link), strict=True):
        for place, value in given.items():
            values[place] = value
    work_prices, link_prices = lists
    return Prices(work_prices, link_prices, np.float32(miss))


def test_features_by_hand():
    # The guess of 3 tasks counts as two slots: (4.5 + 6) / 5 = 2.1 tasks per slot and station.
    seen = view([0.2, 1.5], None)
    coming, mean = np.array([1.05, 2.1]), 0.25 * 0.2 + 0.75 * 1.5
    factors = [1, mean, np.array([0.2, 1.5]) - mean, np.array([-0.5, 0.5])]
    groups = [coming, coming[::-1] / 2, np.array([0, 1.05])]
    expected = [np.broadcast_to(group * factor, 2) for group in groups for factor in factors]
    np.testing.assert_allclose(work_features(seen), [*expected, 2.1 * np.array([0, 0.5])], rtol=1e-5)
    np.testing.assert_allclose(
        link_features(seen), 1.05 * np.array([1, mean, 0.2 - mean, 3.15 / 5.15]), rtol=1e-5
    )


def test_without_prices_the_set_is_the_optimal_one():
    for wait in ([0, 0], [0.3, 0.1], [0, 0.9]):
        seen = view(wait, known({}, {}))
        np.testing.assert_array_equal(priced(seen), optimal(seen))


def test_prices_of_work_and_link_keep_a_task_away():
    assert priced(view([0.1, 0], known({}, {}))).tolist() == [True, True]
    assert priced(view([0.1, 0], known({0: 5}, {}))).tolist() == [False, True]
    assert priced(view([0.1, 0], known({8: 5}, {}))).tolist() == [True, False]
    assert priced(view([0.1, 0], known({}, {0: 5}))).tolist() == [True, False]


def test_tasks_are_rejected_that_cost_more_than_a_miss():
    # Alone on server 0 in 0.5 s, at a price of 1.05 · 5 · 2 / 10 = 1.05 s on top.
    for miss, accepted in ((0.0, False), (0.5, False), (0.6, True)):
        seen = view([0.3, 5], known({0: 5}, {}, miss), deadline=1)
        assert priced(seen).tolist() == [accepted, False]
    assert not priced(view([0.9, 5], known({}, {}, 1e6), deadline=1)).any()
    # Alone, the cheap server is too late; with the other one, it is not.
    assert priced(view([0.9, 0.6], known({8: 5}, {}, 1e6), deadline=1)).tolist() == [False, True]


@pytest.mark.parametrize("changes", [{}, {"order": "turns"}, {"timing": "continuous"}])
def test_derivatives_are_features_times_exact_prices(changes: dict[str, Any]):
    scenario = FLEET.replace(**changes)
    shape, learner = scenario.shape(), METHODS["amco-priced-trained"].require_training()
    assert isinstance(learner, PriceLearner)
    tables = jax.tree.map(jnp.asarray, tables_of([scenario], shape).of(0))
    key = stream(jnp.uint32(1), Stream.POLICY)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, scenario.params(np.float64))
        given = {
            "workload": workload_of(shape, params, tables, jnp.uint32(1), training=False), "key": key,
            "method": Method("held", held_fixed(PRICED)),
        }  # fmt: skip

        def total(unknown: Prices) -> tuple[Any, Any]:
            out = rollout(
                shape, params, UNIFIED, **given, metrics=(MAKESPAN,),
                record=lambda decision, view: (*learner.keep(decision, view), _weight(view)),
                probe=Partial(learner.probe, unknown),
            )  # fmt: skip
            return out.totals[MAKESPAN.name].rounded(jnp.float64), out.decisions

        zero = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), learner.unknown())
        found, (work, link, weight) = jax.jit(jax.grad(total, has_aux=True))(zero)
        exact = jax.jit(
            partial(
                gradient, shape, physics=UNIFIED, key=key, prices="by_slot", method=Method("priced", PRICED),
                workload=lambda _: given["workload"],
            )
        )(params)  # fmt: skip
        np.testing.assert_allclose(
            found.work, np.einsum("tbn,tbnki,tbni,i->k", weight, work, exact.work, params.capacity), atol=1e-9
        )
        np.testing.assert_allclose(
            found.link, np.einsum("tbn,tbnk,tbn->k", weight, link, exact.delay), atol=1e-9
        )
    assert np.count_nonzero(found.work) >= 4


def test_a_learner_finds_the_coefficients_that_made_the_prices():
    learner, draw = PriceLearner(), np.random.default_rng(0)
    settings = learner.settings.replace(ridge=0).traced()
    learnt, memory = learner.init(settings, FLEET.shape(), 1, stream(jnp.uint32(0), Stream.INIT))
    work, link = draw.normal(size=(3, 2, 4, NUM_WORK, 2)), draw.normal(size=(3, 2, 4, NUM_LINK))
    true = Prices(draw.normal(size=NUM_WORK), draw.normal(size=NUM_LINK), 0)
    targets = Prices(
        np.einsum("tbnki,k,tbnli->l", work, true.work, work),
        np.einsum("tbnk,k,tbnl->l", link, true.link, link), np.zeros(()),
    )  # fmt: skip
    kept, costates = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), ((work, link), targets))
    learnt, memory, _ = learner.learn(settings, learnt, memory, kept, costates)
    learnt, memory, logs = learner.learn(settings, learnt, memory, kept, costates)
    np.testing.assert_allclose(learnt.work, true.work, atol=1e-2)
    np.testing.assert_allclose(learnt.link, true.link, atol=1e-2)
    assert float(learnt.miss) == settings.miss_price
    assert float(logs["price_change"]) < 1e-2


def test_a_practice_scenario_varies_only_if_asked():
    learner, params = PriceLearner(), jax.tree.map(jnp.asarray, FLEET.params())
    key = stream(jnp.uint32(3), Stream.LEARNING)
    same = learner.practice(learner.settings.traced(), params, key)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), same, params))
    varied = learner.practice(learner.settings.replace(variation=0.5).traced(), params, key)
    ratio = np.log(varied.capacity / params.capacity)
    assert np.all(np.abs(ratio) <= 0.5)
    assert ratio[0] != ratio[1]
    assert 0.9 * np.exp(-0.5) <= varied.arrival_prob <= 1
