"""Train one method over many seeds, with curves, checkpoints, and agents to evaluate later."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from amco_jax.agents.methods import Method, get_method
from amco_jax.env import Physics
from amco_jax.errors import check_whole
from amco_jax.experiment.blocks import Block, blocks_of, chunks_of, within_memory
from amco_jax.experiment.checkpoints import Journal, save_tree
from amco_jax.experiment.output import Output
from amco_jax.experiment.progress import progress_bar
from amco_jax.experiment.provenance import provenance
from amco_jax.experiment.trainer import LANES, Cell, OnTheSpot, Trainer
from amco_jax.identity import Identity, code_version, identify, name_of
from amco_jax.params import Shape
from amco_jax.random import check_seeds
from amco_jax.report.figures import convergence_figure
from amco_jax.runtime import own_numerics
from amco_jax.scenario import Scenario
from amco_jax.training import Curve

AGENTS = "agents"
JOURNAL = ".training"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The outcome of a training."""

    curves: pd.DataFrame
    """Columns method, seed, episode, makespan_mean_s, miss_rate, loss, epsilon, mean_servers_used"""
    manifest: dict[str, Any]
    agents: Any = dataclasses.field(repr=False)
    """The networks' parameters, leaves `[seeds, num_servers, ...]`"""
    out: Path | None = None


@own_numerics()
def train(
    method: str | Method,
    seeds: int = 64,
    episodes: int | None = None,
    scenario: Scenario | None = None,
    physics: str = "unified",
    out: str | Path | None = None,
    first_seed: int = 0,
    checkpoint_every: int = 50,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> TrainResult:
    """Train a method, all seeds side by side.

    Args:
      method: a trained method; `Method.with_settings` changes how it learns.
      seeds: number of seeds; each has densities, arrivals, initial weights, exploration and replay draws of
        its own.
      episodes: by default those of the published run.
      scenario: by default the published setting.
      physics: `unified`, or `published` for the method's own published code.
      out: a directory for curves.parquet, the convergence figure, the agents and manifest.json. Checkpoints
        stand there too while the training runs.
      first_seed: the seeds are first_seed, first_seed + 1, ...
      checkpoint_every: episodes between checkpoints.
      resume: go on with the unfinished training in `out`, if there is one; the results are the same as
        those of an unbroken run.
      overwrite: replace what stands in `out`.
      progress: show a bar with the remaining time on stderr.

    Raises:
      InputError: a rule, an unknown name, a value out of range, an unwritable directory, or one that holds
        other results.
    """
    started = time.time()
    method = get_method(method)
    training = method.require_training()
    scenario = scenario or Scenario()
    method.check(scenario.num_servers)
    check_seeds(first_seed, seeds)
    episodes = training.episodes if episodes is None else episodes
    for name, value in (("episodes", episodes), ("checkpoint_every", checkpoint_every)):
        check_whole(name, value)
    identity = identity_of(method)
    job = {
        "kind": "train",
        "method": method.name,
        "allocator": name_of(method.allocator),
        "settings": training.settings.to_dict(),
        "physics": physics,
        "first_seed": first_seed,
        "num_seeds": seeds,
        "episodes": episodes,
        "scenario": scenario.to_dict(),
        "code": code_version(),
        "depends_on": identity.to_dict(),
    }
    row = method.physics(physics)
    with contextlib.ExitStack() as stack:
        journal = output = None
        if out is not None:
            home = Path(out)
            if overwrite:
                shutil.rmtree(home / JOURNAL, ignore_errors=True)
            elif resume and (home / JOURNAL).exists():
                identity.require_seen("resume")
            output = stack.enter_context(Output(home, overwrite))
            journal = stack.enter_context(Journal(home / JOURNAL, job, resume))
        bar = stack.enter_context(progress_bar(progress))
        task = bar.add_task(method.name, total=episodes * seeds)
        curves, agents = _train_chunks(
            method, row, scenario, first_seed, seeds, episodes, checkpoint_every, journal,
            lambda done: bar.update(task, completed=min(bar.tasks[0].completed + done, episodes * seeds)),
        )  # fmt: skip
        frame = _curve_frame(method.name, first_seed, curves)
        manifest = job | provenance(started, scenario)
        if output is not None:
            output.add_rows(frame, "curves.parquet")
            save_tree(output.path(AGENTS), agents)
            output.draw("convergence", lambda: convergence_figure(frame))
            output.finish(manifest)
        if journal is not None:
            journal.remove()
    return TrainResult(frame, manifest, agents, None if out is None else Path(out))


def identity_of(method: Method) -> Identity:
    """What agents of a method depend on beyond its settings, the scenario and the package's code."""
    return identify(method.policy, method.allocator, method.published)


def _train_chunks(
    method: Method,
    physics: Physics,
    scenario: Scenario,
    first_seed: int,
    num_seeds: int,
    episodes: int,
    checkpoint_every: int,
    journal: Journal | None,
    tell: Callable[[int], None],
) -> tuple[Curve, Any]:
    """Curves `[seeds, episodes]` and agents `[seeds, ...]`, on the host."""
    cells = [Cell(scenario, method.require_training().settings)]
    source = OnTheSpot(method, physics, cells, episodes)
    blocks = blocks_of(1, first_seed, num_seeds, LANES)
    chunks = chunks_of(blocks, [scenario.shape()], LANES, source.bytes_per_lane, source.memory)

    def launch(shape: Shape, chunk: Sequence[Block], size: int) -> tuple[Curve, Any]:
        trainer = Trainer(shape, method, physics, cells, chunk, size, episodes)
        return trainer.run(tell, journal, checkpoint_every), trainer.host_agents()

    parts = [trained for _, trained in within_memory(launch, chunks)]
    # [blocks, lanes, ...] of all chunks as [seeds, ...].
    return jax.tree.map(
        lambda *leaves: np.concatenate([x.reshape(-1, *x.shape[2:]) for x in leaves])[:num_seeds], *parts
    )


def _curve_frame(method: str, first_seed: int, curves: Curve) -> pd.DataFrame:
    num_seeds, episodes = curves.loss.shape
    tasks = np.asarray(curves.totals.num_tasks, np.float64)
    tasks[tasks == 0] = np.nan
    columns = {
        "makespan_mean_s": curves.totals.makespan / tasks,
        "miss_rate": curves.totals.missed / tasks,
        "loss": curves.loss,
        "epsilon": curves.epsilon,
        "mean_servers_used": curves.totals.servers_used / tasks,
    }
    return pd.DataFrame(
        {
            "method": method,
            "seed": np.repeat(np.arange(first_seed, first_seed + num_seeds), episodes),
            "episode": np.tile(np.arange(episodes), num_seeds),
        }
        | {name: np.asarray(value, np.float64).ravel() for name, value in columns.items()}
    )
