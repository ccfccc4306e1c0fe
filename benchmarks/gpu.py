"""Measure several ways to simulate and to train on a GPU, each in a separate process.

`python benchmarks/gpu.py --out h100.json` measures the plain scan, XLA's command buffers around loops, and
the kernels of `amco_jax/compile/fused.py`, for each number of seeds. Each line of a rule also gives the
difference of the totals from those of the first variant.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import tyro

_NO_GPU = 2

EPISODES = 5
"""Training episodes per repeat"""

COMMAND_BUFFERS = "--xla_gpu_enable_command_buffer=+WHILE"

SCAN = {"AMCO_JAX_FUSED": "0"}

VARIANTS: dict[str, dict[str, str]] = {
    "scan": SCAN,
    "scan-command-buffers": SCAN | {"XLA_FLAGS": COMMAND_BUFFERS},
    "kernel": {},
    "kernel-command-buffers": {"XLA_FLAGS": COMMAND_BUFFERS},
}
"""The environment variables that each variant adds to its process."""


def main(
    seeds: tuple[int, ...] = (1_000, 10_000, 100_000),
    methods: tuple[str, ...] = ("randcoedge", "optimal", "amcoedge"),
    variants: tuple[str, ...] = tuple(VARIANTS),
    repeats: int = 5,
    out: Path | None = None,
    anywhere: bool = False,
) -> None:
    """Measure several ways to simulate on a GPU.

    Args:
      seeds: numbers of seeds to simulate in parallel.
      methods: names of rules, which are simulated, and of trained methods, which are trained.
      variants: some of scan, scan-command-buffers, kernel, kernel-command-buffers.
      repeats: number of repeats of each measurement, after a warm-up.
      out: a JSON file to write all results to.
      anywhere: run even without a GPU, to try this script; the results then say nothing about GPUs.
    """
    rows: list[dict[str, Any]] = []
    for variant in variants:
        for row in _measured(variant, seeds, methods, repeats, anywhere):
            rows.append({"variant": variant} | row)
            print(_line(rows[-1], rows), *row.get("warnings", ()), sep="\n    ", flush=True)
    if out is not None:
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _measured(variant: str, seeds: Any, methods: Any, repeats: int, anywhere: bool) -> list[dict[str, Any]]:
    job = {"seeds": seeds, "methods": methods, "repeats": repeats, "anywhere": anywhere}
    changes = dict(VARIANTS[variant])
    flags = f"{os.environ.get('XLA_FLAGS', '')} {changes.pop('XLA_FLAGS', '')}".strip()
    environment = os.environ | changes | {"XLA_FLAGS": flags}
    command = [sys.executable, __file__, "--worker", json.dumps(job)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == _NO_GPU:
        sys.exit(_NO_GPU)
    if done.returncode:
        error = f"its process ended with code {done.returncode}"
        return [{"method": m, "seeds": n, "error": error} for n in seeds for m in methods]
    return json.loads(done.stdout.splitlines()[-1])


def _line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = f"{row['variant']:30} {row['method']:12} {row['seeds']:7}"
    if "error" in row:
        return f"{head}  failed: {row['error']}"
    if "episodes_per_s" in row:
        seconds = [s / row["episodes"] for s in row["train_s"]]
        return (
            f"{head} {row['episodes_per_s']:10.0f} episodes/s, {median(seconds):.4f} s per episode of all "
            f"seeds ({min(seconds):.4f} to {max(seconds):.4f}), compiled in at most {row['first_s']:.1f} s"
        )
    same = [r for r in rows if (r["method"], r["seeds"]) == (row["method"], row["seeds"]) and "totals" in r]
    return (
        f"{head} {row['rollout_decisions_per_s'] / 1e6:10.1f} M decisions/s "
        f"(whole sweep {row['sweep_decisions_per_s'] / 1e6:.1f}), "
        f"{median(row['rollout_s']):.4f} s ({min(row['rollout_s']):.4f} to {max(row['rollout_s']):.4f}), "
        f"compiled in {row['compile_s']:.1f} s, off {same[0]['variant']} by {_difference(row, same[0]):.1e}"
    )


def _difference(row: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest relative difference of the totals over all seeds."""
    pairs = ((row["totals"][name], value) for name, value in other["totals"].items())
    return max(abs(a - b) / max(abs(b), 1) for a, b in pairs)


def _worker(job: dict[str, Any]) -> None:
    import jax

    from amco_jax.agents.methods import get_method
    from amco_jax.compile.runtime import configure
    from amco_jax.errors import first_line
    from amco_jax.scenario import Scenario
    from amco_jax.study.measure import Job, measure

    configure(compilation_cache=False)
    device = jax.local_devices()[0]
    if device.platform != "gpu" and not job["anywhere"]:
        print(
            f"benchmarks/gpu.py: JAX finds no GPU, only {device.device_kind}; nothing is measured",
            file=sys.stderr,
        )
        sys.exit(_NO_GPU)
    scenario = Scenario()
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("amco_jax").addHandler(handler)

    rows = []
    for count in job["seeds"]:
        for name in job["methods"]:
            row: dict[str, Any] = {"method": name, "seeds": count, "device": device.device_kind}
            try:
                row |= measure(Job(name, scenario, count, job["repeats"], EPISODES), get_method)
            except Exception as error:  # the others are still worth measuring
                row["error"] = first_line(error)
            rows.append(row | {"seeds": count, "warnings": list(warnings), "measured": time.time()})
            warnings.clear()
    print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(json.loads(sys.argv[2]))
    else:
        tyro.cli(main)
