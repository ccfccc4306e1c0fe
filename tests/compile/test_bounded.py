"""Scans that skip what no lane of a batch needs, and the slots of request logs, which are served by them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.request_logs import HEADER, write

from amco_jax import Scenario, get_method
from amco_jax.compile.bounded import most_of_lanes, scan_first
from amco_jax.compile.unroll import unroll
from amco_jax.env import UNIFIED
from amco_jax.kernel import rollout, slot
from amco_jax.random import Stream, fold_in, stream
from amco_jax.traces import Trace
from amco_jax.workload import tables_of, workload_of


def fill(outputs: Any) -> Any:
    return jax.tree.map(lambda x: jnp.full(x.shape, -1, x.dtype), outputs)


def summed(xs: Any, count: Any, scalarise: Any = lambda fn: fn) -> Any:
    """The sum of the first `count` entries of a lane, the steps that were computed, and the partial sums."""

    def run(xs: Any, count: Any, most: Any) -> Any:
        def body(carry: Any, place: Any) -> Any:
            (total, steps), (i, x) = carry, place
            total = total + jnp.where(i < count, x * x, 0)
            return (total, steps + 1), total

        start = jnp.zeros(2), jnp.int32(0)
        return scan_first(body, start, (jnp.arange(len(xs)), xs), most, fill)

    return scalarise(run)(xs, count, most_of_lanes(count))


@pytest.mark.parametrize("scalarise", [lambda fn: fn, unroll])
def test_as_many_steps_are_computed_as_the_longest_lane_needs(scalarise: Any):
    xs = jnp.arange(40, dtype=jnp.float32).reshape(2, 10, 2)
    (total, steps), partial_sums = jax.vmap(partial(summed, scalarise=scalarise))(xs, jnp.array([1, 4]))
    np.testing.assert_array_equal(steps, [4, 4])
    np.testing.assert_array_equal(total, [(xs[0, :1] ** 2).sum(0), (xs[1, :4] ** 2).sum(0)])
    assert np.all(partial_sums[:, 4:] == -1)
    np.testing.assert_array_equal(partial_sums[0, :4], np.broadcast_to(total[0], (4, 2)))


def test_derivatives_pass_through_in_reverse():
    xs = jnp.arange(20, dtype=jnp.float32).reshape(10, 2)
    gradient = jax.vmap(jax.grad(lambda xs, count: jnp.sum(summed(xs, count)[0][0])))(
        jnp.stack([xs, xs]), jnp.array([0, 3])
    )
    np.testing.assert_array_equal(gradient[0], np.zeros_like(xs))
    np.testing.assert_array_equal(gradient[1], np.where(np.arange(10)[:, None] < 3, 2 * xs, 0))


@pytest.fixture(scope="module")
def spiky(tmp_path_factory: Any) -> Scenario:
    """A request every eight seconds, and now and then a dozen in one."""
    rows = [
        f"2024-11-20 0{8 + s // 3600}:{s // 60 % 60:02}:{s % 60:02},T,SUCCEED,7,G{(s * 7 + k) % 23},1"
        for s in range(0, 4000, 8)
        for k in range(12 if s % 328 == 0 else 1)
    ]
    path: Path = tmp_path_factory.mktemp("spiky") / "log.csv"
    return Scenario(
        trace=Trace(str(write(path, [HEADER, *rows]))), num_servers=3, time_scale=10.0, num_slots=40
    )


@pytest.mark.parametrize("changes", [{}, {"order": "turns"}, {"order": "random"}], ids=str)
def test_slots_of_a_log_are_served_as_if_nothing_were_skipped(
    spiky: Scenario, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    scenario = spiky.replace(**changes)
    shape, params = scenario.shape(), scenario.params()
    tables = tables_of([scenario], shape).of(0)

    def one(seed: Any) -> Any:
        workload = workload_of(shape, params, tables, seed, training=False)
        return rollout(
            shape, params, UNIFIED, method=get_method("optimal"), workload=workload,
            key=fold_in(stream(seed, Stream.POLICY), 0), record=lambda decision, view: decision.present,
        )  # fmt: skip

    def conditionals() -> int:
        return str(jax.make_jaxpr(jax.vmap(lambda seed: one(seed)))(seeds)).count("cond[")

    # Lanes with different stretches of the log.
    seeds = jnp.arange(4, dtype=jnp.uint32)
    found = jax.jit(jax.vmap(one))(seeds)
    before = conditionals()
    monkeypatch.setattr(slot, "most_positions", lambda *_: None)
    assert before > conditionals()
    expected = jax.jit(jax.vmap(lambda seed: one(seed)))(seeds)
    assert int(np.sum(found.decisions)) > 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
