"""Machines that repair images: latency tables of them, and their makespans, calculated event by event."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from amco_jax.scenario import Scenario
from amco_jax.service.latency import write_table

INPUT_MBIT, RESULT_MBIT = 8.0, 6.0


class Machine(NamedTuple):
    """A batch of n images takes start + steps · start_per_step + n · (fixed + steps · per_step) s."""

    fixed: float
    per_step: float
    start: float = 0.0
    start_per_step: float = 0.0
    load: float | None = None
    """s to load the model; None if no table tells it"""

    def seconds(self, images: int, steps: int) -> float:
        return self.start + steps * self.start_per_step + images * (self.fixed + steps * self.per_step)


def write_machines(path: Path, machines: Mapping[str, Machine], batches: Sequence[int] = (1,)) -> Path:
    """A latency table of the machines, each measured at 10 and 20 steps."""
    common = {
        "format_version": 1, "row_kind": "measured", "model": "sd15", "weights": "random", "dtype": "float16",
        "resolution": 512, "guided": "yes", "software": "none", "quantity": "wall", "statistic": "p50",
        "repeats": 3, "source": "made up",
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for device, machine in machines.items():
        for batch in batches:
            of_batch = common | {"device": device, "batch": batch}
            rows += [
                of_batch | {"component": "total", "steps": steps, "value": machine.seconds(batch, steps)}
                for steps in (10, 20)
            ]
            if machine.load is not None:
                rows.append(of_batch | {"component": "load", "steps": "", "value": machine.load})
    write_table(rows, path)
    return path


def scenario_of(
    table: Path, machines: Mapping[str, Machine], service: Mapping[str, Any], **fields: Any
) -> Scenario:
    """The machines as a fleet, loaded so that queues build up and drain."""
    values: dict[str, Any] = {
        "num_tasks": 3, "num_slots": 12, "slot_duration": 8.0, "deadline": 5.0, "arrival_prob": 0.5,
        "link_rate": (20.0, 30.0, 40.0), "task_size_min": 1.0, "task_size_max": 5.0,
        "density_min": 10.0, "density_max": 14.0,
        "service": {
            "devices": [*machines], "tables": [str(table)],
            "input_mbit": INPUT_MBIT, "result_mbit": RESULT_MBIT, **service,
        },
    }  # fmt: skip
    return Scenario(**values | fields)


def compositions(items: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to hand out so many items."""
    return [c for c in itertools.product(range(items + 1), repeat=parts) if sum(c) == items]


def by_hand(
    scenario: Scenario, machines: Sequence[Machine], tasks: Any, decisions: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Makespans of the decided splits, and the least of all whole splits, by counting off every image.

    A selected machine first loads its model, and starts a batch if it gets images; both keep it from later
    requests too.
    """
    rates, mbit = scenario.link_rates[0], INPUT_MBIT + RESULT_MBIT
    free = [0.0] * len(machines)  # when each machine has done what it has taken on
    makespans, least = np.zeros(tasks.size.shape), np.zeros(tasks.size.shape)
    for t in range(scenario.num_slots):
        now = t * scenario.slot_duration
        for b in range(len(machines)):
            link_free = now
            for n in range(scenario.num_tasks):
                if not tasks.present[t, b, n]:
                    continue
                images = round(float(tasks.size[t, b, n]))
                steps = round(float(tasks.work[t, b, n]) / images)

                def end(i, count, steps=steps, link_free=link_free, b=b, now=now):
                    clock = max(free[i], now) + (machines[i].load or 0.0)
                    clock += machines[i].start + steps * machines[i].start_per_step
                    if i != b:  # the queue of the link, then its own images' way there and back
                        clock += (link_free - now) + count * mbit / rates[i]
                    for _ in range(count):
                        clock += machines[i].fixed
                        for _ in range(steps):
                            clock += machines[i].per_step
                    return clock - now

                counts = [round(float(x) * images) for x in decisions.fraction[t, b, n]]
                makespans[t, b, n] = max(end(i, count) for i, count in enumerate(counts) if count)
                least[t, b, n] = min(
                    max(end(i, count) for i, count in enumerate(split) if count)
                    for split in compositions(images, len(machines))
                )
                for i, count in enumerate(counts):
                    free[i] = max(free[i], now)
                    if decisions.selected[t, b, n, i]:
                        free[i] += machines[i].load or 0.0
                    if count:
                        free[i] += machines[i].seconds(count, steps)
                    link_free += count * mbit / rates[i] if i != b else 0
                if decisions.selected[t, b, n].sum() > 1:
                    link_free = min(link_free, now + scenario.slot_duration)
    return np.minimum(makespans, scenario.deadline), np.minimum(least, scenario.deadline)
