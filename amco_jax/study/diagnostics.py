"""Diagnostics of a study: trainings without a learning step, missing prices, and episodes with a trend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from amco_jax.study.grid import Cell
from amco_jax.study.pilot import Pilot, drifting, pilot_entries, pilots_in, rows_by_cell
from amco_jax.study.units import Unit

MAX_NAMED = 5
"""The number of cells that the warning about episodes names; the manifest lists all of them"""


def place_of(cell: Cell) -> list[str]:
    """The cell's place in the grid, in words; empty if the study has only one."""
    labels = {name: value for name, value in cell.labels.items() if name != "method"}
    if "param" in labels:
        labels = {labels["param"]: labels["value"]}
    return [", ".join(f"{name} = {value}" for name, value in labels.items())] if labels else []


def _not_stationary(found: Sequence[tuple[Cell, Pilot]], tested: int) -> str:
    """One sentence about all cells whose episodes are not stationary, out of those tested."""
    named = [
        f"{', '.join([*place_of(cell), cell.method.name])} (warm-up {pilot.warmup}, p = {pilot.trend_p:.1g})"
        for cell, pilot in found[:MAX_NAMED]
    ]
    more = [f"{len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return (
        f"Episodes are not stationary in {len(found)} of {tested} cases, so results depend on num_slots: "
        "after the warm-up, the mean makespans or response times of their two halves differ for "
        f"{'; '.join([*named, *more])}."
    )


class Diagnostics:
    """What the rows of a study say about its conduct, collected unit by unit."""

    def __init__(self):
        self._idle: dict[str, list[bool]] = {}
        self._pilots: dict[int, tuple[Cell, Pilot]] = {}
        self._unforeseen: dict[str, None] = {}

    def observe(self, unit: Unit, frame: pd.DataFrame) -> None:
        """Take in the rows of the next unit."""
        first = unit.cells[0]
        learner = first.method.training
        steps = () if learner is None else learner.step_logs
        if steps and steps[0] in frame:
            for cell, rows in rows_by_cell(unit.cells, frame):
                name = ": ".join([*place_of(cell), unit.method])
                self._idle.setdefault(name, []).extend(rows.groupby("seed")[steps[0]].count() == 0)
        if first.method.policy.sees_load and first.scenario.timing == "continuous":
            self._unforeseen[unit.method] = None
        if first.has_pilot:
            # Parts of a cell share its labels, and have the same pilot.
            self._pilots |= {id(c.labels): (c, pilot) for c, pilot in pilots_in(unit.cells, frame)}

    def warnings(self) -> list[str]:
        """One sentence per fault."""
        unlearned = [
            f"{name} made no learning step in {sum(seeds)} of {len(seeds)} seeds."
            for name, seeds in self._idle.items()
            if any(seeds)
        ]
        pilots = [*self._pilots.values()]
        found = drifting(pilots)
        unforeseen = [
            f"{name}: with continuous timing, no task is expected to follow, so nothing has a price."
            for name in self._unforeseen
        ]
        return unlearned + unforeseen + ([_not_stationary(found, len(pilots))] if found else [])

    def manifest_entries(self) -> dict[str, Any]:
        """The entries of the manifest that hold the pilot runs, if there were any."""
        return {"pilots": pilot_entries([*self._pilots.values()])} if self._pilots else {}
