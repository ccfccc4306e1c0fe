"""Replay recorded arrivals with recorded or newly chosen sets of servers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from amco_jax.cli.arguments import ProgramArguments, allocator_argument, load_method, physics_argument
from amco_jax.files import replacing
from amco_jax.kernel.recording import load_recording, replay


@dataclasses.dataclass(frozen=True)
class Arguments(ProgramArguments):
    recording: Annotated[Path, tyro.conf.Positional]
    """An .npz file with the arrays task_mbit, density_gcycles_per_mbit, capacity_gcycles_per_s,
    rate_mbit_per_s, deadline_s and, unless --method is given, selected; see docs/model.md."""
    out: Path
    """The .npz file to write."""
    physics: Annotated[str, physics_argument()] = "unified"
    allocator: Annotated[str | None, allocator_argument("that of the recording, or else cwa")] = None
    method: str | None = None
    """The method that chooses the sets of servers; by default, the recorded sets are used."""
    precision: str = "float32"
    """float32 or float64."""
    seed: int = 0
    """Seed of the method's random draws."""


def main(args: Arguments) -> None:
    method = None if args.method is None else load_method(args.method)
    recording = load_recording(args.recording)
    with replacing(args.out) as file:
        arrays = replay(
            recording, physics=args.physics, allocator=args.allocator, method=method,
            precision=args.precision, seed=args.seed,
        )  # fmt: skip
        with file.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
