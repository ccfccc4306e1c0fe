"""Sweeps that are killed in the middle of a unit, and what must be left in the end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

KILLS = int(os.environ.get("AMCO_JAX_KILLS", "3"))
OPTIONS = [
    "--param", "arrival_prob", "--values", "0.2", "0.5", "0.8", "--methods", "local", "optimal",
    "--seeds", "640", "--unit-seconds", "0.02", "--set", "num_slots=40", "--quiet",
]  # fmt: skip

# One long unit, with a checkpoint after every call of the trainer, which says from which episode it goes on.
TRAINING = [
    "--param", "deadline", "--values", "0.5", "--methods", "drlcoedge", "--seeds", "4",
    "--episodes", str(200 * (KILLS + 1)),  # of which a killed process makes some tens
    "--set", "num_servers=2", "num_tasks=4", "num_slots=6", "--quiet",
]  # fmt: skip
CHECKPOINTS_AT_ONCE = """
import runpy, sys
from amco_jax.study import trainer
trainer.CHECKPOINT_SECONDS, advance = 0.0, trainer.Trainer.advance
def noisy(self, episodes):
    print(self.episode, file=sys.stderr, flush=True)
    return advance(self, episodes)
trainer.Trainer.advance = noisy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def start(out: Path, *more: str, training: bool = False, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """The sweep as a user runs it; the one that trains differs in how often it keeps checkpoints.

    `within` is a command that runs the one behind it, see `SmallDisk`.
    """
    program = ["-c", CHECKPOINTS_AT_ONCE] if training else []
    options = TRAINING if training else OPTIONS
    line = [
        *within,
        sys.executable,
        *program,
        str(ROOT / "scripts" / "sweep.py"),
        *options,
        "--out",
        str(out),
        *more,
    ]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=out.parent)


class SmallDisk:
    """A file system of its own at a directory, in a namespace of its own, which needs no right of root's.

    It is seen by commands behind `within`, and as `seen` by this process.
    """

    def __init__(self, directory: Path, size: str):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
        hold = ["sh", "-c", f"{shlex.join(mount)} && echo mounted && exec sleep 3600"]
        namespace = ["unshare", "--map-root-user", "--mount", *hold]
        self._directory = directory
        self._holder = subprocess.Popen(namespace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.mounted = self._holder.stdout is not None and self._holder.stdout.readline() == "mounted\n"
        pid = str(self._holder.pid)
        self.within = ["nsenter", "--target", pid, "--user", "--mount", "--preserve-credentials"]
        self.seen = Path(f"/proc/{pid}/root{directory}")

    def grow(self, size: str) -> None:
        """Change its size."""
        mount = ["mount", "-o", f"remount,size={size}", str(self._directory)]
        subprocess.run([*self.within, *mount], check=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self._holder.kill()  # with the last process of the namespace the file system goes
        self._holder.communicate()


def ended_well(process: subprocess.Popen[str]) -> None:
    """Wait for a sweep that must end without an error."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors


def log(out: Path) -> list[list[str]]:
    path = out / "units" / "log.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def in_progress(out: Path) -> dict[int, str]:
    """Units that have started and not ended, by the process that computes them."""
    running = {}
    for _, _, pid, event, unit in log(out):
        running[int(pid)] = unit if event == "started" else ""
    return {pid: unit for pid, unit in running.items() if unit}


def wait_for_a_unit(out: Path, driver: subprocess.Popen[str], after: int = 6) -> tuple[int, str]:
    """A process in the middle of a unit, after some lines of the log."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        if len(log(out)) > after and (found := in_progress(out)):
            return next(iter(found.items()))
        time.sleep(0.002)
    raise AssertionError("no unit was seen in progress")


def was_cut_short(out: Path, pid: int, unit: str) -> bool:
    """Whether the process had started the unit and never committed it."""
    events = [event for _, _, who, event, what in log(out) if (int(who), what) == (pid, unit)]
    return events == ["started"]


def newest_checkpoint(out: Path) -> int:
    """Episodes of the newest checkpoint of the unit that is being computed; 0 without any."""
    found = [int(p.name) for p in (out / "units").glob("*.checkpoints/chunk-*/*") if p.name.isdigit()]
    return max(found, default=0)


def assert_complete(out: Path, whole: Path) -> None:
    """The same rows and tables as an undisturbed run's, every unit once."""
    for name in ("summary.csv", "final.csv", "results.parquet", "curves.parquet"):
        assert (out / name).exists() == (whole / name).exists(), name
        parts = [p for p in sorted((whole / name).glob("*"))] or [whole / name] * (whole / name).is_file()
        for part in parts:
            assert (out / part.relative_to(whole)).read_bytes() == part.read_bytes(), part
        assert {p.name for p in (out / name).glob("*")} == {p.name for p in (whole / name).glob("*")}
    commits = {p.name for p in (out / "units").glob("*.sha256")}
    assert commits == {p.name for p in (whole / "units").glob("*.sha256")}
