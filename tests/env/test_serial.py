"""Serial links: hand-written calculations, and a first-in-first-out link event by event."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refused

from amco_jax import Scenario, get_method
from amco_jax.agents.methods import METHODS, PHYSICS
from amco_jax.env import CONSERVING, SERIAL, Queues, Task, site
from amco_jax.kernel.decision import serve_task
from amco_jax.study.simulate import simulate
from edge_fleet.configuration import in_fleet
from edge_fleet.decisions import Decider
from edge_fleet.virtual import run_virtually

JETSONS = ("NVIDIA Jetson AGX Orin", "NVIDIA Jetson Xavier NX", "NVIDIA Jetson AGX Orin")
SERVICE: Any = {"devices": JETSONS}


def served(
    scenario: Scenario, sizes: list[float], work: float, backlog: list[float], link: float
) -> tuple[float, float]:
    """When a task at station 0 with given parts has ended, and what its link has to do then, s."""
    params: Any = jax.tree.map(jnp.asarray, scenario.params())
    total = sum(sizes)
    fraction = jnp.asarray(sizes, jnp.float32) / total
    queues, decision, _, _ = serve_task(
        params, SERIAL, lambda wait, cost, selected: fraction, site(params, SERIAL, jnp.int32(0)),
        jnp.asarray(backlog, jnp.float32), Task(jnp.bool_(True), jnp.float32(total), jnp.float32(work)),
        Queues(jnp.zeros(len(sizes)), jnp.float32(link)), lambda wait, cost: fraction > 0,
    )  # fmt: skip
    return float(decision.finish), float(queues.link_delay)


def test_parts_go_out_one_after_another():
    fleet = Scenario(capacity=(10, 20, 40), link_rate=(100, 50, 20), deadline=100)
    # 6 Mbit of 1 Gcycle each. The link is free after 0.3 s; 2 Mbit at 50 Mbit/s are at server 1 at 0.34 s,
    # and 2 Mbit at 20 Mbit/s at server 2 at 0.44 s. The servers have 0.1, 0.2 and 0.6 s to do, and need 0.2,
    # 0.1 and 0.05 s. So they end at 0.3, 0.34 + 0.1 = 0.44 and 0.6 + 0.05 = 0.65 s.
    assert served(fleet, [2, 2, 2], 6, [1, 4, 24], 0.3) == pytest.approx((0.65, 0.44))
    # Without the backlog of server 2, its part begins when it has arrived.
    assert served(fleet, [2, 2, 2], 6, [1, 4, 0], 0.3) == pytest.approx((0.49, 0.44))
    # A task that stays at its station does not wait for the link.
    assert served(fleet, [6, 0, 0], 6, [1, 4, 24], 5.0) == pytest.approx((0.7, 5.0))


def test_images_go_out_in_turns_and_come_back_after_the_computation():
    # An image takes 2 s to server 1 and 1 s to server 2, and 1 s and 0.5 s back.
    fleet = Scenario(
        service=SERVICE | {"input_mbit": 2, "result_mbit": 1},
        link_rate=(1, 1, 2), deadline=1000, task_size_min=1, task_size_max=4, density_min=20, density_max=20,
    )  # fmt: skip
    # 20 steps take an AGX Orin 3 s and a Xavier NX 20 s.
    assert served(fleet, [0, 0, 1], 20, [0, 0, 0], 0) == pytest.approx((1 + 3 + 0.5, 1.5), rel=1e-3)
    # Server 2 gets its images at 1 and 2 s, and computes from 1 to 7 s.
    assert served(fleet, [0, 0, 2], 40, [0, 0, 0], 0) == pytest.approx((7.5, 3), rel=1e-3)
    # Server 1 gets its image first, at 2 s, and has computed it at 22 s. Server 2 gets its own at 3 and 4 s,
    # and has computed them at 6 and 9 s.
    assert served(fleet, [0, 1, 2], 60, [0, 0, 0], 0) == pytest.approx((23, 6), rel=1e-3)
    # If the link is busy for 21 s, images arrive at 23, 24 and 25 s. That of server 1 comes back at 44 s.
    assert served(fleet, [0, 1, 2], 60, [0, 0, 0], 21) == pytest.approx((44, 27), rel=1e-3)
    # Results that are computed at the same time come back one after the other. The queue of server 2 is such
    # that both have computed at 22 s: the results are back at 22.5 and 23.5 s, in either order.
    steps_per_second = float(fleet.capacities[2])
    waiting = [0, 0, 19 * steps_per_second]
    assert served(fleet, [0, 1, 1], 40, waiting, 0)[0] == pytest.approx(23.5, rel=1e-3)


def test_links_that_take_no_time_change_nothing():
    scenario = Scenario(num_servers=3, num_slots=3, num_tasks=4, link_rate=1e9)
    method = METHODS["optimal"]
    one, other = (next(simulate([scenario], method, row, 0, 16)).metrics for row in (CONSERVING, SERIAL))
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("method", ["optimal", "randcoedge"])
def test_predictions_are_those_of_a_serial_link(method: str):
    fleet = in_fleet(Scenario(
        service=SERVICE, num_slots=10, num_tasks=4, slot_duration=60, deadline=60,
        task_size_min=1, task_size_max=4, density_min=20, density_max=20, link_rate=20,
    ))  # fmt: skip
    decider = Decider(fleet, get_method(method), SERIAL)
    arrivals = decider.arrivals(3, 0)
    ends, choices = run_virtually(decider, 3, 0, arrivals)
    assert len(arrivals) > 20
    serial = [abs(end / choice.finish - 1) for end, choice in zip(ends, choices, strict=True)]
    published = [abs(end / choice.published - 1) for end, choice in zip(ends, choices, strict=True)]
    # What is left are the transfers of other requests in between.
    assert np.quantile(serial, 0.75) < 0.005
    assert np.mean(serial) < 0.4 * np.mean(published)


def test_a_request_alone_is_predicted_exactly():
    for link in (2.0, 20.0, 400.0):
        decider = Decider(
            in_fleet(Scenario(
                service=SERVICE, num_slots=40, num_tasks=1, arrival_prob=0.1, slot_duration=400, deadline=400,
                task_size_min=1, task_size_max=4, density_min=20, density_max=20, link_rate=link,
            )), get_method("all-servers"), SERIAL,
        )  # fmt: skip
        arrivals = decider.arrivals(1, 0)
        ends, choices = run_virtually(decider, 1, 0, arrivals)
        alone = np.diff([a.time for a in arrivals], prepend=-1e3) > 200
        assert alone.sum() >= 3
        predicted = np.array([choice.finish for choice in choices])
        simulated = decider.simulate(1, 0, arrivals).finish
        np.testing.assert_allclose(predicted[alone], ends[alone], rtol=1e-4)
        np.testing.assert_allclose(simulated[alone], ends[alone], rtol=1e-4)


def test_a_lower_bound_is_none_with_serial_links():
    refused(lambda: METHODS["bound"].physics("serial"), "serial", "unified, published, conserving")
    assert "serial" in PHYSICS
