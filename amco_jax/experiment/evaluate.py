"""Run trained agents greedily on fresh arrivals, under the scenario of their training or another one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from amco_jax.agents.dqn import init
from amco_jax.agents.methods import Method, get_method
from amco_jax.alloc import ALLOCATORS
from amco_jax.errors import InputError, check_whole
from amco_jax.experiment.blocks import Block, stack_blocks
from amco_jax.experiment.checkpoints import load_tree
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.simulate import simulate
from amco_jax.experiment.train import AGENTS, identity_of
from amco_jax.experiment.trainer import LANES, training_memory
from amco_jax.identity import name_of
from amco_jax.latency import is_shipped
from amco_jax.metrics import EPISODE_METRICS
from amco_jax.params import Shape
from amco_jax.random import Stream, stream
from amco_jax.runtime import own_numerics
from amco_jax.saved import open_run
from amco_jax.scenario import Scenario
from amco_jax.stats import mean_interval, seed_matrix

log = logging.getLogger(__name__)

BASELINES = ("optimal", "randcoedge")


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What `train` left in a directory."""

    method: Method
    scenario: Scenario
    """To evaluate in, if no other is given"""
    trained: Mapping[str, Any]
    """The scenario of the training, as a table"""
    physics: str
    first_seed: int
    num_seeds: int
    episodes: int
    agents: Any
    """Leaves `[num_seeds, num_servers, ...]`"""


@dataclasses.dataclass(frozen=True)
class EvaluateResult:
    """The outcome of an evaluation."""

    results: pd.DataFrame
    """One row per method, seed and episode"""
    summary: pd.DataFrame
    """Columns method, metric, n_seeds, mean, ci_low, ci_high (95 %, over means of seeds)"""
    manifest: dict[str, Any]
    out: Path | None = None


@own_numerics()
def load_run(
    directory: str | Path, method: str | Method | None = None, scenario: Scenario | None = None
) -> TrainedRun:
    """Read a finished training.

    Args:
      directory: what `train` wrote.
      method: of your own, where its name is not one of `METHODS`.
      scenario: in place of that of the training, and needed where that names files, a request log or latency
        tables of one's own: no path that stands in a manifest is followed.

    Raises:
      InputError: no finished training in the directory, a damaged one, an unknown method, another number of
        servers, or no scenario where one is needed.
    """
    saved = open_run(directory, ["train"])
    manifest = saved.manifest
    method = get_method(method or manifest["method"]).with_settings(**manifest["settings"])
    method = _allocating_by(method, manifest["allocator"])
    if (found := identity_of(method).to_dict()) != (trained_with := manifest["depends_on"]):
        changed = _changed(trained_with["modules"], found["modules"]) or "values or functions that it uses"
        log.warning("%s is not as it was when its agents were trained: %s changed", method.name, changed)
    trained = manifest["scenario"]
    if scenario is None:
        if _names_files(trained):
            raise InputError(
                f"scenario: that of {directory} needs a request log or latency tables; "
                "legal: the scenario and the trace given anew"
            )
        scenario = Scenario(**trained)
    servers = trained["num_servers"]
    if scenario.num_servers != servers:
        raise InputError(f"num_servers: {scenario.num_servers}; legal for these agents: {servers}")
    traced = method.require_training().settings.traced(1)
    example = jax.eval_shape(
        lambda: init(method.dqn, traced, servers, stream(jnp.uint32(0), Stream.INIT)).weights
    )
    agents = load_tree(saved.directory / AGENTS, example)
    return TrainedRun(
        method, scenario, trained, manifest["physics"], manifest["first_seed"], manifest["num_seeds"],
        manifest["episodes"], agents,
    )  # fmt: skip


def _allocating_by(method: Method, allocator: str) -> Method:
    """The method with the allocator that its agents were trained with."""
    if (own := name_of(method.allocator)) == allocator:
        return method
    if allocator not in ALLOCATORS:
        raise InputError(f"method: {method.name} allocates by {own}; legal for its agents: {allocator}")
    return method.with_allocator(allocator)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of modules whose source is another one."""
    return ", ".join(sorted(name for name in {*before, *now} if before.get(name) != now.get(name)))


def _names_files(scenario: Mapping[str, Any]) -> bool:
    """Whether a scenario as a table names files of the user's."""
    service = scenario.get("service") or {"tables": []}
    return bool(scenario.get("trace")) or not all(is_shipped(table) for table in service["tables"])


class _Loaded:
    """The agents of a run as an `AgentSource`."""

    def __init__(self, run: TrainedRun):
        self._run = run
        self.memory = training_memory()

    def bytes_per_lane(self, shape: Shape) -> int:
        del shape
        return sum(leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(self._run.agents))

    def agents(self, shape: Shape, chunk: Sequence[Block], size: int) -> Any:
        del shape
        _, seeds = stack_blocks(chunk, size, LANES, {block.cell: () for block in chunk})
        # Beyond the last seed nothing is kept, so that any agent may stand in.
        lanes = np.minimum(seeds - np.uint32(self._run.first_seed), self._run.num_seeds - 1)
        return jax.tree.map(lambda leaf: leaf[lanes], self._run.agents)


@own_numerics()
def evaluate(
    run: str | Path | TrainedRun,
    scenario: Scenario | None = None,
    methods: Sequence[str | Method] = BASELINES,
    seeds: int | None = None,
    episodes: int = 1,
    physics: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> EvaluateResult:
    """Let the agents of a training decide greedily episodes that they have not seen.

    The agents of a seed keep its task densities, as those drawn for the new scenario, and meet new arrivals.

    Args:
      run: the directory of a finished training, or what `load_run` gives.
      scenario: by default that of the training; the number of servers must be the same.
      methods: rules to run on the same arrivals.
      seeds: by default all that were trained, else the first ones.
      episodes: for each seed.
      physics: by default that of the training.
      out: a directory for results.parquet, summary.csv and manifest.json.
      overwrite: replace the results that stand in `out`.
      progress: show a bar on stderr.

    Raises:
      InputError: no finished training, another number of servers, a trained method among `methods`, or a
        number out of range.
    """
    started = time.time()
    run = run if isinstance(run, TrainedRun) else load_run(run, scenario=scenario)
    scenario, physics = scenario or run.scenario, physics or run.physics
    if scenario.num_servers != run.trained["num_servers"]:
        raise InputError(
            f"num_servers: {scenario.num_servers}; legal for these agents: {run.trained['num_servers']}"
        )
    seeds = check_whole("seeds", run.num_seeds if seeds is None else seeds, 1, run.num_seeds)
    check_whole("episodes", episodes)
    others = [get_method(m) for m in methods]
    for other in others:
        if other.training is not None:
            raise InputError(f"methods: {other.name} is trained; legal: rules, or a run of its own")
    rows = [(method, method.physics(physics)) for method in (run.method, *others)]
    # Episode 0 is kept from training, and so are those after its last.
    numbers = [e and run.episodes + e for e in range(episodes)]
    frames = []
    with contextlib.ExitStack() as stack:
        output = None if out is None else stack.enter_context(Output(out, overwrite))
        bar = stack.enter_context(progress_bar(progress))
        for method, row in rows:
            source = _Loaded(run) if method is run.method else None
            task = bar.add_task(method.name, total=seeds * episodes)
            for count, number in enumerate(numbers):
                for batch in simulate([scenario], method, row, run.first_seed, seeds, source, number):
                    columns = {"method": method.name, "seed": batch.seeds, "episode": count} | batch.metrics
                    frames.append(pd.DataFrame(columns))
                    bar.advance(task, len(batch.seeds))
        results = pd.concat(frames, ignore_index=True)
        summary = _summary(results)
        manifest = {
            "kind": "evaluate",
            "method": run.method.name,
            "settings": run.method.require_training().settings.to_dict(),
            "trained": {"scenario": run.trained, "physics": run.physics, "episodes": run.episodes},
            "methods": [m.name for m in others],
            "physics": physics,
            "first_seed": run.first_seed,
            "num_seeds": seeds,
            "episodes": episodes,
            "scenario": scenario.to_dict(),
        } | provenance(started, scenario)
        if output is not None:
            output.add_rows(results)
            summary.to_csv(output.path("summary.csv"), index=False)
            output.finish(manifest)
    return EvaluateResult(results, summary, manifest, None if out is None else Path(out))


def _summary(results: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for method in dict.fromkeys(results["method"]):
        group = results.loc[results["method"] == method]
        for metric in EPISODE_METRICS:
            values = seed_matrix(group, metric).mean(axis=1)
            rows.append((method, metric, len(values), *mean_interval(values)))
    return pd.DataFrame(rows, columns=["method", "metric", "n_seeds", "mean", "ci_low", "ci_high"])
