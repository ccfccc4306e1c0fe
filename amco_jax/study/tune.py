"""Tune a trained method by training combinations of some settings, for many seeds.

The tuning seeds are the seeds from `FIRST_TUNING_SEED` on, which no other study accepts. Combinations are
compared in an episode that none of them was trained on, with arrivals of the kind that agents train on: of a
request log, a stretch of the training part that may overlap with theirs. A search therefore never sees an
episode on which another study evaluates.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.errors import InputError, check_list, check_number, check_whole
from amco_jax.kernel.training import FIRST_TRAINING_EPISODE
from amco_jax.metrics import KEYS, MAKESPAN, TASK, Column, Metrics, Shown, choose, row_names, shown_in
from amco_jax.random import FIRST_TUNING_SEED, Stream, bits, check_seed, stream
from amco_jax.stats.summaries import COUNTS, Episodes, summarise
from amco_jax.study.base import Reduced, Study, check_size
from amco_jax.study.grid import Cell

GAP_PERCENTILES = (50, 90, 99)

MAX_COMBINATIONS = 2**20
"""The largest number of combinations that trials are drawn from"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningSize:
    """The size of a search over settings, and what counts as good."""

    trials: int | None = None
    """Number of combinations to train, drawn at random without replacement; by default, all are trained."""
    trials_seed: int = 0
    """The seed of that draw, which depends on nothing else but the numbers of values."""
    seeds: int = 64
    """Number of tuning seeds for each combination."""
    first_seed: int = 0
    """The tuning seeds are 2^31 + first_seed, 2^31 + first_seed + 1, ...; no other study accepts them."""
    episodes: int = 300
    """Number of training episodes."""
    within: float = 0.03
    """A seed counts as good if its makespan exceeds the reference's by at most this share."""


@dataclasses.dataclass(frozen=True)
class Tuning(TuningSize, Study):
    """Train with combinations of some settings, and evaluate each seed greedily on an unseen episode.

    Combinations with the same static settings share one program. The seeds are tuning seeds, and the episode
    is the one after the last that agents were trained on. The numbers serve to choose settings. To measure
    those that were chosen, train and evaluate them with the seeds of another study.

    The result has a row per combination and seed with the settings, the seed, the columns of the metrics, and
    the gap, which is makespan / makespan of the reference - 1 in the same episode. Its summary has a row per
    combination with the settings, `summaries.COUNTS`, the mean of each metric that tables show, and, over the
    seeds with tasks, the gap's mean, percentiles (gap_p50, ...), maximum, and share of at most `within`. A
    metric's mean is per task if possible, followed by the mean per episode in a column whose name ends in
    `_per_episode`.

    Raises:
      InputError: the method is a rule, the reference is trained or not for such a fleet, a setting is
        unknown, a value is out of range or repeated, or a column would have the name of another one.
    """

    kind = "tune"
    file = "results.parquet"

    method: str | Method
    """A trained method, whose other settings are unchanged."""
    settings: Mapping[str, Sequence[Any]]
    """The values to try, by the name of a setting of the learner."""
    _: dataclasses.KW_ONLY
    physics: str = "unified"
    """The variant of the physics, a name in `PHYSICS`."""
    reference: str | Method = "optimal"
    """The rule that gaps are relative to."""

    def __post_init__(self):
        _ = self.measured
        if self.target.training is not None:
            raise InputError(f"reference: {self.target.name} is trained; legal: a rule")
        self.target.check_decides()
        self.target.check(self.base.num_servers)
        check_size(self.first_seed, self.seeds, self.episodes)
        check_seed("trials_seed", self.trials_seed)
        self.chosen.check(self.base.num_servers)
        self.chosen.physics(self.physics)
        _ = self.variants  # checks the settings
        check_number("within", self.within, 0)
        own = {*KEYS, *COUNTS, "gap", *_statistics(np.zeros(0), self.within)}
        measured = {*row_names(self.columns, self.base.num_servers), *_weightings(self.columns)}
        for field, names, others in (
            ("settings", {*self.settings}, own),
            ("metrics", measured, own | {*self.settings}),
        ):
            if taken := names & others:
                raise InputError(
                    f"{field}: {', '.join(sorted(taken))}; legal: names that no other column has"
                )

    @functools.cached_property
    def chosen(self) -> Method:
        """The method to tune."""
        return get_method(self.method)

    @functools.cached_property
    def target(self) -> Method:
        """The reference."""
        return get_method(self.reference)

    @functools.cached_property
    def grid(self) -> list[dict[str, Any]]:
        """The combinations of the settings to try; the values of the last setting change first."""
        choices = [self._choices(name) for name in check_list("settings", self.settings)]
        number = math.prod(map(len, choices))
        check_whole("settings: number of combinations", number, 1, MAX_COMBINATIONS)
        tried = np.ones(number, bool)
        if self.trials is not None:
            trials = check_whole("trials", self.trials, 1, number)
            drawn = np.asarray(bits(stream(jnp.uint32(self.trials_seed), Stream.TRIALS), np.arange(number)))
            # There are no ties, as the bits are a permutation of the counter.
            tried = drawn <= np.sort(drawn)[trials - 1]
        combinations = itertools.compress(itertools.product(*choices), tried)
        return [dict(zip(self.settings, values, strict=True)) for values in combinations]

    def _choices(self, name: str) -> list[Any]:
        """The values of a setting; InputError if one is repeated, in whatever type."""
        values = check_list(name, self.settings[name])
        if len({tuple(np.ravel(value).tolist()) for value in values}) < len(values):
            raise InputError(f"{name}: {', '.join(map(str, values))}; legal: each value once")
        return values

    @functools.cached_property
    def variants(self) -> list[Method]:
        """The method with each combination of the settings."""
        return [self.chosen.with_settings(**changes) for changes in self.grid]

    @functools.cached_property
    def measured(self) -> Metrics:
        """The metrics."""
        return choose(self.metrics, Shown.TABLES)

    def cells(self) -> list[Cell]:
        """The reference, then the combinations, with those that share a program next to each other."""

        def cell(method: Method, changes: Mapping[str, Any]) -> Cell:
            return Cell(
                labels={"method": method.name} | {name: str(changes.get(name, "")) for name in self.settings},
                scenario=self.base,
                method=method,
                physics=self.physics,
                first_seed=FIRST_TUNING_SEED + self.first_seed,
                num_seeds=self.seeds,
                metrics=self.measured,
                columns=row_names(self.columns, self.base.num_servers),
                plays=(FIRST_TRAINING_EPISODE + self.episodes,),
                plays_training=True,
                train_episodes=self.episodes if method.training else 0,
            )

        by_shape = sorted(range(len(self.grid)), key=lambda i: str(self.variants[i].learner))
        return [cell(self.target, {}), *(cell(self.variants[i], self.grid[i]) for i in by_shape)]

    def describe(self) -> dict[str, Any]:
        """The tuning as plain data."""
        return {
            "kind": self.kind,
            "method": self.chosen.name,
            "base_settings": self.chosen.require_training().settings.to_dict(),
            "settings": {name: list(map(str, values)) for name, values in self.settings.items()},
            "trials": self.trials,
            "trials_seed": self.trials_seed,
            "physics": self.physics,
            "reference": self.target.name,
            "within": self.within,
            "first_seed": FIRST_TUNING_SEED + self.first_seed,
            "num_seeds": self.seeds,
            "episodes": self.episodes,
            "scenario": self.base.to_dict(),
        }

    def reduce(self, frames: Iterable[pd.DataFrame]) -> Reduced:
        """The gap of each seed to the reference in the same episode, and its summary by combination."""
        rows = pd.concat(list(frames), ignore_index=True)
        names = list(self.settings)
        is_reference = np.arange(len(rows)) < self.seeds
        target = rows.loc[is_reference].set_index("seed")[MAKESPAN.name]
        found = rows.loc[~is_reference].drop(columns=["method", "episode"])
        found["gap"] = np.asarray(found[MAKESPAN.name]) / np.asarray(target.loc[found["seed"]]) - 1
        tables = []
        for changes in self.grid:
            chosen = np.ones(len(found), bool)
            for name in names:
                chosen &= np.asarray(found[name] == str(changes[name]))
            tables.append(found.loc[chosen])
        columns = shown_in(self.columns, Shown.TABLES)
        summary = [
            _summarise(changes, table, columns, self.within)
            for changes, table in zip(self.grid, tables, strict=True)
        ]
        results = pd.concat(tables, ignore_index=True)
        return Reduced({"summary.csv": pd.DataFrame(summary)}, rows=results)


def _summarise(
    changes: Mapping[str, Any], table: pd.DataFrame, columns: Sequence[Column], within: float
) -> dict[str, Any]:
    rows = summarise([((), Episodes.of(table))], (), columns).set_index(["metric", "per"])
    gap = np.asarray(table["gap"])
    return {
        **{name: str(value) for name, value in changes.items()},
        **{name: rows.loc[(MAKESPAN.name, TASK), name] for name in COUNTS},
        **{name: rows.loc[key, "estimate"] for name, key in _weightings(columns).items()},
        **_statistics(gap[~np.isnan(gap)], within),  # a seed without tasks has no gap
    }


def _weightings(columns: Iterable[Column]) -> dict[str, tuple[str, str]]:
    """The metric and the weighting of each mean, by the name of its column in the summary."""
    return {
        f"{column.name}{suffix}": (column.name, per)
        for column in columns
        for per, suffix in zip(column.weightings, ("", "_per_episode"), strict=False)
    }


def _statistics(gap: np.ndarray, within: float) -> dict[str, Any]:
    """The statistics of the gaps of some seeds, by the names of their columns in the summary."""
    known = gap if len(gap) else np.array([np.nan])
    return {
        "gap_mean": np.mean(known),
        **{f"gap_p{q}": np.percentile(known, q) for q in GAP_PERCENTILES},
        "gap_max": np.max(known),
        f"within_{within:g}": np.mean(gap <= within) if len(gap) else np.nan,
    }
