"""The model page as plain loops, written from its formulas alone: what the kernel is compared to.

Slow, in float64, and sharing nothing with amco_jax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# The table of the model page. Columns: wait capped at D, local wait includes L_b, local cost includes
# d/r_b where |S| = 2, L_b grows by the local share, L_b capped where |S| >= 2, penalty (None: no reward).
PUBLISHED: dict[str, tuple[bool, bool, bool, bool, bool, float | None]] = {
    "amcoedge": (False, False, False, False, True, 10),
    "smcoedge": (True, False, False, True, False, 2),
    "drlcoedge": (True, True, True, True, False, 2),
    "randcoedge": (True, False, False, True, False, None),
    "optimal": (False, False, False, False, False, None),
}
UNIFIED = PUBLISHED["amcoedge"]


def simulate(recording: Mapping[str, Any], physics: str, allocator: str) -> dict[str, np.ndarray]:
    """The outputs of `amco_jax.replay`, computed task by task."""
    capped, link_first, pair, local_share, link_capped, penalty = (
        PUBLISHED[recording["method"]] if physics == "published" else UNIFIED
    )
    sizes, density, capacity = (
        recording[k] for k in ("task_mbit", "density_gcycles_per_mbit", "capacity_gcycles_per_s")
    )
    num_slots, num_servers, num_tasks = sizes.shape
    rate = np.broadcast_to(recording["rate_mbit_per_s"], (num_servers, num_servers))
    deadline, slot = recording["deadline_s"], recording["slot_s"]

    per_task, per_server = (num_slots, num_servers, num_tasks), (num_slots, num_servers)
    out = {name: np.zeros(per_task) for name in ("makespan_s", "missed", "reward")}
    out |= {name: np.zeros((*per_task, num_servers)) for name in ("selected", "fraction")}
    out |= {name: np.zeros(per_server) for name in ("backlog_gcycles", "slot_load_gcycles", "link_delay_s")}

    backlog = [0.0] * num_servers
    for t in range(num_slots):
        out["backlog_gcycles"][t] = backlog
        load = [0.0] * num_servers
        for b in range(num_servers):
            link = 0.0
            for n in range(num_tasks):
                d = sizes[t, b, n]
                if d == 0:
                    continue
                work, chosen = d * density[n], np.flatnonzero(recording["selected"][t, b, n]).tolist()
                wait, cost = {}, {}
                for i in chosen:
                    wait[i] = (backlog[i] + load[i]) / capacity[i]
                    cost[i] = work / capacity[i]
                    if i != b or link_first:
                        wait[i] += link
                    if i != b or (pair and len(chosen) == 2):
                        cost[i] += d / rate[b, i]
                    if capped:
                        wait[i] = min(wait[i], deadline)
                x = ALLOCATORS[allocator](wait, cost)
                makespan = max((x[i] * cost[i] + wait[i] for i in chosen), default=np.inf)
                missed = makespan > deadline
                makespan = min(makespan, deadline)
                out["makespan_s"][t, b, n] = makespan
                out["missed"][t, b, n] = missed
                if penalty is not None:
                    out["reward"][t, b, n] = -deadline * penalty if missed else -makespan
                for i in chosen:
                    out["selected"][t, b, n, i] = 1
                    out["fraction"][t, b, n, i] = x[i]
                    load[i] += x[i] * work
                    if i != b or local_share:
                        link += x[i] * d / rate[b, i]
                if link_capped and len(chosen) >= 2:
                    link = min(link, slot)
            out["link_delay_s"][t, b] = link
        out["slot_load_gcycles"][t] = load
        backlog = [max(backlog[i] + load[i] - capacity[i] * slot, 0) for i in range(num_servers)]
    return out


def cwa(wait: dict[int, float], cost: dict[int, float]) -> dict[int, float]:
    """Equal finish times; negative fractions are set to 0 and the rest rescaled."""
    if not wait:
        return {}
    finish = (1 + sum(wait[i] / cost[i] for i in wait)) / sum(1 / cost[i] for i in wait)
    x = {i: max((finish - wait[i]) / cost[i], 0) for i in wait}
    return {i: x[i] / sum(x.values()) for i in wait}


def hecwa(wait: dict[int, float], cost: dict[int, float]) -> dict[int, float]:
    """Fractions in proportion to 1/cost."""
    return {i: (1 / cost[i]) / sum(1 / c for c in cost.values()) for i in wait}


def waterfill(wait: dict[int, float], cost: dict[int, float]) -> dict[int, float]:
    """The level at which the servers have room for exactly one task, by bisection."""
    if not wait:
        return {}
    low, high = min(wait.values()), max(wait.values()) + sum(cost.values())
    for _ in range(200):
        level = (low + high) / 2
        room = sum(max(level - wait[i], 0) / cost[i] for i in wait)
        low, high = (low, level) if room > 1 else (level, high)
    x = {i: max(high - wait[i], 0) / cost[i] for i in wait}
    return {i: x[i] / sum(x.values()) for i in wait}


ALLOCATORS = {"cwa": cwa, "hecwa": hecwa, "waterfill": waterfill}
