"""Replay a recorded workload through the simulator; see --help."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from amco_jax.cli import load_method, run
from amco_jax.replay import load_recording, replay


@dataclasses.dataclass(frozen=True)
class Arguments:
    recording: Annotated[Path, tyro.conf.Positional]
    """An .npz file of arrays: task_mbit, density_gcycles_per_mbit, capacity_gcycles_per_s, rate_mbit_per_s,
    deadline_s, and selected unless --method is given; see docs/model.md."""
    out: Path
    """The .npz file to write."""
    physics: str = "unified"
    """unified: one model for all methods; published: the method's own published code."""
    allocator: str | None = None
    """cwa, hecwa or waterfill; by default the recording's, or else cwa."""
    method: str | None = None
    """Chooses the sets of servers; by default the recorded ones are used."""
    precision: str = "float32"
    """float32 or float64."""
    seed: int = 0
    """Of the method's random draws."""


def main(args: Arguments) -> None:
    arrays = replay(
        load_recording(args.recording),
        physics=args.physics,
        allocator=args.allocator,
        method=None if args.method is None else load_method(args.method),
        precision=args.precision,
        seed=args.seed,
    )
    # Written beside its destination and then moved: a reader never sees half a file.
    with tempfile.NamedTemporaryFile(dir=args.out.parent, prefix=".unfinished-", delete=False) as file:
        try:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, args.out)
        except BaseException:
            os.unlink(file.name)
            raise


if __name__ == "__main__":
    run(Arguments, main, "Replay recorded arrivals, and recorded or newly chosen sets of servers.")
