"""Gradients through the simulator: against finite differences and formulas, at kinks, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from amco_jax.agents.methods import METHODS, Method, get_method
from amco_jax.agents.policy import per_slot
from amco_jax.env import UNIFIED, Background
from amco_jax.errors import InputError
from amco_jax.kernel import rollout
from amco_jax.kernel.gradient import Gradient, gradient
from amco_jax.metrics import METRICS, Metric
from amco_jax.params import Params
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.scenario.presets import load_scenario
from amco_jax.workload import Recorded, Workload, tables_of, workload_of

# Overloaded, so that backlogs go from slot to slot and some tasks are cut at the deadline.
LOADED = Scenario(
    num_servers=2, num_tasks=4, num_slots=3, arrival_prob=0.8, density_min=1, density_max=4, deadline=1.2,
    capacity=(10, 20), link_rate=(20, 30),
)  # fmt: skip
KEY_SEED = 3
RATES = ("capacity", "link_rate", "deadline", "slot_duration")
DRAWN = ("task_size_min", "task_size_max", "density_min", "density_max")


def drawn(scenario: Scenario) -> Callable[[Params], Workload]:
    """The scenario's own arrivals, whose sizes and densities depend on the params."""
    shape = scenario.shape()
    tables = jax.tree.map(jnp.asarray, tables_of([scenario], shape).of(0))
    return lambda params: workload_of(shape, params, tables, jnp.uint32(1), training=False)


def replayed(scenario: Scenario) -> tuple[Method, Callable[[Params], Workload]]:
    """Recorded tasks with recorded sets of one or two servers."""
    draw = np.random.default_rng(0)
    shape = (scenario.num_slots, scenario.num_servers, scenario.num_tasks)
    selected = draw.random((*shape, scenario.num_servers)) < 0.5
    selected[..., 0] |= ~selected.any(axis=-1)
    method = Method("replayed", per_slot(lambda view: jnp.asarray(selected)[view.t]))
    sizes, densities = draw.uniform(2, 5, shape), draw.uniform(0.5, 1.5, shape[-1:])
    return method, lambda params: Recorded(jnp.asarray(sizes), jnp.asarray(densities))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AtOnce(Recorded):
    """Positions of which two at each base station have the same time, many of them without a task."""

    def times(self, params: Params, t: Any, b: Any) -> Any:
        """The time at each position, as a share of the slot."""
        return jnp.repeat(jnp.array([0.1, 0.6]), 2)


def differences(
    scenario: Scenario, method: Method, workload: Callable[[Params], Workload], step: float = 1e-6
) -> tuple[Gradient, Any]:
    """The gradient of the summed makespan, and central finite differences of the same, in float64."""
    shape, params = scenario.shape(), jax.tree.map(jnp.asarray, scenario.params(np.float64))
    key = stream(jnp.uint32(KEY_SEED), Stream.POLICY)
    names = [*RATES, *DRAWN]
    positions = (scenario.num_slots, scenario.num_servers, scenario.num_positions)
    none = Background(jnp.zeros((*positions, scenario.num_servers)), jnp.zeros(positions))
    flat, restored = ravel_pytree(({name: getattr(params, name) for name in names}, none))

    def total(inputs: Any) -> Any:
        changed, background = restored(inputs)
        given = Params(**(vars(params) | changed))
        sums = rollout(
            shape, given, UNIFIED, method=method, workload=workload(given), key=key,
            metrics=(METRICS["makespan_mean_s"],), background=background,
        ).totals  # fmt: skip
        return sums["makespan_mean_s"].rounded(flat.dtype)

    @jax.jit
    def both() -> Any:
        steps = step * jnp.eye(flat.size)
        ahead, behind = (
            jax.lax.map(lambda d, s=s: total(flat + s * d), steps, batch_size=64) for s in (1, -1)
        )
        exact = gradient(shape, params, UNIFIED, method=method, workload=workload, key=key, prices="by_slot")
        return exact, restored((ahead - behind) / (2 * step))

    return jax.tree.map(np.asarray, both())


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("optimal", {"timing": "continuous"}),
        ("at once", {"timing": "continuous"}),
        ("all-servers", {"order": "turns"}),
        ("least-wait", {}),
        ("replayed", {}),
    ],
)
def test_gradients_and_prices_are_finite_differences(method: str, changes: dict[str, Any]):
    scenario = LOADED.replace(**changes)
    with jax.enable_x64(True):
        if method == "replayed":
            found, (of_params, of_load) = differences(scenario, *replayed(scenario))
        elif method == "at once":
            few = AtOnce(jnp.zeros((3, 2, 4)).at[:, 1].set(0.5), jnp.ones(4))
            found, (of_params, of_load) = differences(scenario, METHODS["all-servers"], lambda params: few)
        else:
            found, (of_params, of_load) = differences(scenario, METHODS[method], drawn(scenario))
    for name, expected in of_params.items():
        np.testing.assert_allclose(getattr(found.params, name), expected, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.work, of_load[0], atol=1e-6)
    np.testing.assert_allclose(found.delay, of_load[1], atol=1e-6)
    assert np.all(found.params.capacity < 0)
    assert np.count_nonzero(found.work) > found.work.size / 4
    assert np.count_nonzero(found.delay) > 0
    assert not found.params.arrival_prob  # whether a task arrives has no derivative
    assert found.params.num_tasks is None


def test_kinks_and_jumps_belong_to_one_side():
    """Three tasks of one station under `least-wait`, of 4, 4 and 12 Gcycles, in each of two slots.

    The first is on server 0 and the second on server 1. While 4 / f_0 > 4 / f_1 + 1 / r, the third follows
    the second, and otherwise the first. The makespan jumps there, and each side has its own derivatives.
    """
    scenario = Scenario(
        num_servers=2, num_tasks=3, num_slots=2, capacity=(10, 20), link_rate=10, slot_duration=2
    )
    shape, method, other = scenario.shape(), METHODS["least-wait"], 20.0
    sizes, work = np.zeros((2, 2, 3)), np.array([4.0, 4.0, 12.0])
    sizes[:, 0] = 1
    jump = 4 / (4 / other + 1 / 10)

    def one(capacity: Any, deadline: Any) -> Gradient:
        capacities = jnp.stack([capacity, jnp.full_like(capacity, other)])
        changes = {"capacity": capacities, "deadline": deadline}
        return gradient(
            shape, Params(**(vars(scenario.params(np.float64)) | changes)), UNIFIED, method=method,
            workload=lambda _: Recorded(jnp.asarray(sizes), jnp.asarray(work)),
            key=stream(jnp.uint32(0), Stream.POLICY), prices="summed",
        )  # fmt: skip

    f = np.array([jump * 0.999, jump * 1.001, 10.0])
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(f, np.array([100, 100, 0.4])))
    of_f = found.params.capacity[:, 0]
    np.testing.assert_allclose(of_f[:2], 2 * np.array([-4, -20]) / f[:2] ** 2)
    difference = (found.total[1] - found.total[0]) / (f[1] - f[0])
    assert difference > 10 > 10 * np.abs(of_f).max()
    # A Gcycle or a second after the first task: before the jump, the others meet both on their way.
    np.testing.assert_allclose(found.work[:2, 0, 0], [[0, 4 / other], [2 / f[1], 2 / other]])
    np.testing.assert_allclose(found.delay[:2, 0, 0], [4, 2])
    # At the deadline exactly, the first task is in time; the third is cut, and only the deadline moves it.
    np.testing.assert_allclose(found.total[2], 2 * (0.4 + 0.3 + 0.4))
    np.testing.assert_allclose(of_f[2], -2 * 4 / 10**2)
    np.testing.assert_allclose(found.params.deadline, [0, 0, 2])


@pytest.mark.parametrize(
    ("method", "metric", "words"),
    [
        ("amcoedge", "makespan_mean_s", "method: amcoedge is trained"),
        ("bound", "makespan_mean_s", "method: bound is a lower bound and decides nothing"),
        ("optimal", "miss_rate", "metric: miss_rate; legal for gradients: one sum of real numbers"),
        ("optimal", "makespan_quantiles_s", "metric: makespan_quantiles_s"),
        ("optimal", "utilisation", "metric: utilisation"),
    ],
)
def test_what_has_no_gradient_is_refused(method: str, metric: str, words: str):
    with pytest.raises(InputError, match=words):
        refused(LOADED, get_method(method), METRICS[metric])


def test_whole_images_are_refused():
    with pytest.raises(InputError, match="service: split = whole; legal for gradients: fluid"):
        refused(load_scenario("jetson-sd15"), METHODS["optimal"], METRICS["makespan_mean_s"])


def refused(scenario: Scenario, method: Method, metric: Metric) -> None:
    gradient(
        scenario.shape(), scenario.params(), UNIFIED, method=method, metric=metric, workload=drawn(scenario),
        key=stream(jnp.uint32(0), Stream.POLICY),
    )  # fmt: skip
