"""Compare the speed of this checkout with that of another commit, such as the last release.

Both are measured by `scripts/bench.py`, in turns, because the speed of a shared machine drifts: the ratio of
two neighbouring runs is steadier than either of them. The programs are compared, too: XLA's count of the
operations of a kernel depends on no clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.cli.arguments import run
from amco_jax.errors import InputError, check_whole
from amco_jax.stats import t_interval

ROOT = Path(__file__).resolve().parents[1]
QUANTITIES = {
    "methods": {
        "kernel": "rollout_decisions_per_s",
        "whole sweep": "sweep_decisions_per_s",
        "compile time": "compile_s",
        "operations": "operations",
    },
    "training": {"training": "episodes_per_s"},
}
"""The quantities that are compared, and their keys in the rows of a benchmark's manifest"""
SPEEDS = ("kernel", "whole sweep", "training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the comparison."""

    against: str = "HEAD"
    """The commit to compare with; HEAD shows what uncommitted changes do."""
    methods: tuple[str, ...] = ("optimal", "randcoedge", "least-wait", "amcoedge")
    """Names of methods that both commits have."""
    rounds: int = 3
    """Number of pairs of runs, of which every other one begins with the other commit."""
    seeds: int = 4096
    """Number of seeds simulated in parallel."""
    repeats: int = 3
    """Number of repeats of each measurement within a run."""
    tolerance: float = 0.05
    """The share by which a speed may be lower; the exit code is 1 if the 95 % interval of a ratio lies below
    1 minus this."""


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A working tree of a commit, which is removed afterwards.

    Raises:
      InputError: there is no such commit.
    """
    with tempfile.TemporaryDirectory(prefix="paired-") as home:
        tree = Path(home) / "tree"
        made = _git("worktree", "add", "--detach", str(tree), commit)
        if made.returncode:
            raise InputError(f"against: '{commit}' cannot be checked out: {made.stderr.strip()}")
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


def measured(tree: Path, args: Arguments) -> dict[str, Any]:
    """The manifest of a benchmark of a working tree.

    Raises:
      InputError: the benchmark fails.
    """
    with tempfile.TemporaryDirectory(prefix="paired-") as home:
        out = Path(home) / "out"
        line = [
            sys.executable, str(tree / "scripts" / "bench.py"), "--methods", *args.methods,
            "--seeds", str(args.seeds), "--repeats", str(args.repeats), "--quiet", "--out", str(out),
        ]  # fmt: skip
        done = subprocess.run(
            line, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise InputError(f"methods: {tree}: {done.stderr.strip()}")
        return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def quantities(manifest: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The quantities of a manifest by method and name; an older commit may not measure all of them."""
    return {
        (row["method"], name): float(row[key])
        for part, keys in QUANTITIES.items()
        for row in manifest[part]
        for name, key in keys.items()
        if row.get(key)
    }


def ratios_table(pairs: list[tuple[dict[Any, float], dict[Any, float]]]) -> pd.DataFrame:
    """The geometric mean of the ratio new / old over pairs of runs, with a 95 % interval.

    Args:
      pairs: `quantities` of both runs of each pair, the new one first.

    Returns:
      Columns method, quantity, old and new (medians), ratio, low and high.
    """
    rows = []
    for key in [key for key in pairs[0][0] if key in pairs[0][1]]:
        news, olds = zip(*((new[key], old[key]) for new, old in pairs), strict=True)
        ratios = np.exp(t_interval(np.log(np.divide(news, olds))))
        rows.append((*key, statistics.median(olds), statistics.median(news), *ratios))
    return pd.DataFrame(rows, columns=["method", "quantity", "old", "new", "ratio", "low", "high"])


def slower(table: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """The rows of speeds whose whole interval is below the tolerance."""
    return table.loc[table["quantity"].isin(SPEEDS) & (table["high"] < 1 - tolerance)]


def main(args: Arguments) -> None:
    """Measure in turns, and print the ratios."""
    check_whole("rounds", args.rounds)
    pairs = []
    with checked_out(args.against) as other:
        for number in range(args.rounds):
            trees = [ROOT, other] if number % 2 == 0 else [other, ROOT]
            found = {tree: quantities(measured(tree, args)) for tree in trees}
            pairs.append((found[ROOT], found[other]))
            print(f"{number + 1} of {args.rounds} pairs", file=sys.stderr)
    table = ratios_table(pairs)
    print(table.to_string(index=False, float_format="{:.4g}".format))
    if len(worse := slower(table, args.tolerance)):
        names = ", ".join(f"{row['method']} ({row['quantity']})" for row in worse.to_dict("records"))
        print(f"slower than {args.against}: {names}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(Arguments, main, __doc__ or "")
