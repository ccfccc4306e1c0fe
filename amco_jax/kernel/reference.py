"""A reference simulator in plain Python loops, written only from the formulas of the model page.

It works task by task in float64 and shares nothing with the rest of the package. Tests compare the kernel's
values with it, and the benchmark its speed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# The table of the model page. Columns: wait capped at D, local wait includes L_b, local cost includes
# d/r_b if |S| = 2, L_b grows by the local share, L_b capped if |S| >= 2, penalty (None: no reward).
PUBLISHED: dict[str, tuple[bool, bool, bool, bool, bool, float | None]] = {
    "amcoedge": (False, False, False, False, True, 10),
    "smcoedge": (True, False, False, True, False, 2),
    "drlcoedge": (True, True, True, True, False, 2),
    "randcoedge": (True, False, False, True, False, None),
    "optimal": (False, False, False, False, False, None),
}
UNIFIED = PUBLISHED["amcoedge"]
CONSERVING = (False, False, False, False, False, 10)
"""The unified row without the cap; links carry over what they have not sent, as they do if they are serial"""
COMMON = {"unified": UNIFIED, "conserving": CONSERVING, "serial": CONSERVING}

Times = dict[int, float]
"""Times in s, by server"""
Split = Callable[[Times, Times], dict[int, float]]
"""`(wait, cost) -> fraction`, each by server of the set"""
Choice = Callable[[int, int, int, Callable[[Sequence[int]], tuple[Times, Times]]], Sequence[int]]
"""`(t, b, n, times) -> S`, where `times(S)` returns the waits and costs of the task on the servers of S"""


def simulate(
    recording: Mapping[str, Any], physics: str, split: Split, choose: Choice | None = None
) -> dict[str, np.ndarray]:
    """Compute the outputs of `amco_jax.replay` task by task.

    Args:
      recording: a recording as for `amco_jax.replay`.
      physics: `published` for that of the recording's `method`, or a name in `COMMON`.
      split: one of the allocators below, of which CWA has two forms.
      choose: the function that selects the set of each task; by default the recorded sets are used.
    """
    capped, link_first, pair, local_share, link_capped, penalty = (
        PUBLISHED[recording["method"]] if physics == "published" else COMMON[physics]
    )
    carried, serial = physics in ("conserving", "serial"), physics == "serial"
    sizes, density, capacity = (
        np.asarray(recording[k]).tolist()  # Python numbers are faster in loops than NumPy scalars
        for k in ("task_mbit", "density_gcycles_per_mbit", "capacity_gcycles_per_s")
    )
    num_slots, num_servers, num_tasks = np.shape(recording["task_mbit"])
    rate = np.broadcast_to(recording["rate_mbit_per_s"], (num_servers, num_servers)).tolist()
    deadline, slot = float(recording["deadline_s"]), float(recording["slot_s"])
    choose = choose or recorded_sets(recording["selected"])

    per_task, per_server = (num_slots, num_servers, num_tasks), (num_slots, num_servers)
    out = {name: np.zeros(per_task) for name in ("makespan_s", "missed", "reward")}
    out |= {name: np.zeros((*per_task, num_servers)) for name in ("selected", "fraction")}
    out |= {name: np.zeros(per_server) for name in ("backlog_gcycles", "slot_load_gcycles", "link_delay_s")}

    backlog, links = [0.0] * num_servers, [0.0] * num_servers

    def times_at(b: int, d: float, work: float, load: list[float], link: float, servers: Sequence[int]):
        wait, cost = {}, {}
        for i in servers:
            wait[i] = (backlog[i] + load[i]) / capacity[i]
            cost[i] = work / capacity[i]
            if i != b or link_first:
                wait[i] = max(wait[i], link) if serial else wait[i] + link
            if i != b or (pair and len(servers) == 2):
                cost[i] += d / rate[b][i]
            if capped:
                wait[i] = min(wait[i], deadline)
        return wait, cost

    def serial_finish(b: int, wait: Times, x: Times, d: float, work: float, link: float) -> float:
        arrived, ends = link, [np.inf] if not x else []
        for i in sorted(i for i in x if x[i] > 0):
            if i != b:
                arrived += x[i] * d / rate[b][i]
            ends.append(max(wait[i], 0 if i == b else arrived) + x[i] * work / capacity[i])
        return max(ends)

    for t in range(num_slots):
        out["backlog_gcycles"][t] = backlog
        load = [0.0] * num_servers
        for b in range(num_servers):
            link = links[b] if carried else 0.0
            for n in range(num_tasks):
                d = sizes[t][b][n]
                if d == 0:
                    continue
                work = d * density[n]
                times = functools.partial(times_at, b, d, work, load, link)
                chosen = choose(t, b, n, times)
                wait, cost = times(chosen)
                x = split(wait, cost)
                if serial:
                    makespan = serial_finish(b, wait, x, d, work, link)
                else:
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
                        link += x[i] * d / rate[b][i]
                if link_capped and len(chosen) >= 2:
                    link = min(link, slot)
            out["link_delay_s"][t, b] = link
            links[b] = max(link - slot, 0)
        out["slot_load_gcycles"][t] = load
        backlog = [max(backlog[i] + load[i] - capacity[i] * slot, 0) for i in range(num_servers)]
    return out


def recorded_sets(selected: np.ndarray) -> Choice:
    """The sets of a recording, `[T, B, N, B]`."""
    return lambda t, b, n, times: np.flatnonzero(selected[t, b, n]).tolist()


def random_pairs(num_servers: int, random: np.random.Generator) -> Choice:
    """RandCoEdge: the local server and a uniformly drawn server."""
    return lambda t, b, n, times: sorted({b, int(random.integers(num_servers))})


def best_sets(num_servers: int, split: Split) -> Choice:
    """Optimal, as published: the set of least makespan, by trying all 2^B-1 sets; ties go to the first."""
    servers = range(num_servers)
    sets = [s for size in servers for s in itertools.combinations(servers, size + 1)]

    def choose(t, b, n, times):
        wait, cost = times(servers)

        def makespan(chosen: Sequence[int]) -> float:
            x = split({i: wait[i] for i in chosen}, {i: cost[i] for i in chosen})
            return max(x[i] * cost[i] + wait[i] for i in chosen)

        return min(sets, key=makespan)

    return choose


def cwa(wait: Times, cost: Times) -> dict[int, float]:
    """Equal finish times in closed form; negative fractions are set to 0 and the others rescaled."""
    if not wait:
        return {}
    finish = (1 + sum(wait[i] / cost[i] for i in wait)) / sum(1 / cost[i] for i in wait)
    return _rescaled({i: (finish - wait[i]) / cost[i] for i in wait})


def cwa_by_solve(wait: Times, cost: Times) -> dict[int, float]:
    """`cwa` as published, by a dense linear solve: finish times are equal, and the fractions sum to 1."""
    servers = list(wait)
    if len(servers) < 2:
        return dict.fromkeys(servers, 1.0)
    matrix, right = np.zeros((len(servers), len(servers))), np.ones(len(servers))
    for row, (i, j) in enumerate(itertools.pairwise(servers)):
        matrix[row, row], matrix[row, row + 1], right[row] = cost[i], -cost[j], wait[j] - wait[i]
    matrix[-1] = 1
    return _rescaled(dict(zip(servers, np.linalg.solve(matrix, right).tolist(), strict=True)))


def hecwa(wait: Times, cost: Times) -> dict[int, float]:
    """Fractions in proportion to 1/cost."""
    return {i: (1 / cost[i]) / sum(1 / c for c in cost.values()) for i in wait}


def waterfill(wait: Times, cost: Times) -> dict[int, float]:
    """Water-filling, by bisection for the level at which the servers have room for exactly one task."""
    if not wait:
        return {}
    low, high = min(wait.values()), max(wait.values()) + sum(cost.values())
    for _ in range(200):
        level = (low + high) / 2
        room = sum(max(level - wait[i], 0) / cost[i] for i in wait)
        low, high = (low, level) if room > 1 else (level, high)
    return _rescaled({i: (high - wait[i]) / cost[i] for i in wait})


def _rescaled(x: dict[int, float]) -> dict[int, float]:
    """Set negative fractions to 0, and scale the others to a sum of 1."""
    x = {i: max(share, 0) for i, share in x.items()}
    total = sum(x.values())
    return {i: share / total for i, share in x.items()}


ALLOCATORS: dict[str, Split] = {"cwa": cwa, "hecwa": hecwa, "waterfill": waterfill}
