"""The kernel beside a hand-written vectorised C++ loop of the same arithmetic, on the same cores in turn.

    python benchmarks/hand_written.py

It compiles `episode.cpp` for this processor with g++, checks that both find the same totals, and prints the
median decisions per second of each and their ratio. `XLA_FLAGS=--xla_cpu_max_isa=AVX2` and `--isa avx2`
restrict both to shorter vectors.

It also prints a roofline: the operations and divisions of the kernel's innermost loop for a position, by
XLA's optimised program, and the time that the slower of the two would take at this processor's speed for such
operations on whole vectors, as a share of the kernel's time. What a loop reads and writes stays in a core's
first cache.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from amco_jax import Scenario, configure, get_method
from amco_jax.compile.runtime import own_numerics
from amco_jax.compile.wide import on_host
from amco_jax.study.measure import rollout_program
from amco_jax.study.simulate import SEEDS_PER_BLOCK

RULES = ("all-servers", "local", "randcoedge", "optimal")
"""In the order of `Rule` in episode.cpp"""

SUMS = (
    *("num_tasks", "miss_rate", "mean_servers_used", "makespan_mean_s"),
    *("response_mean_s", "tardiness_mean_s", "goodput_gcycles_per_s"),
)
"""Metrics whose sums both compute; those of the loop are in this order, then that of the utilisation"""

ISAS = {"native": ["-march=native"], "avx2": ["-march=x86-64-v3", "-DWIDTH=8"]}

COLUMNS = ("rule", "kernel", "loop", "loop / kernel", "operations", "divisions", "share of peak")

_NO_OPERATIONS = {"parameter", "constant", "broadcast", "bitcast", "copy", "fusion", "get-tuple-element"}

_COUNTS = ("num_tasks", "num_slots")
_NUMBERS = (
    *("slot_duration", "arrival_prob", "deadline", "task_size_min", "task_size_max"),
    *("density_min", "density_max"),
)


class _Scenario(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in _COUNTS] + [(name, ctypes.c_float) for name in _NUMBERS]


class Loop:
    """The functions of episode.cpp, compiled for this processor."""

    def __init__(self, isa: str):
        source = Path(__file__).with_name("episode.cpp")
        self._threads = len(os.sched_getaffinity(0))
        with tempfile.TemporaryDirectory() as directory:
            library = Path(directory, "episode.so")
            flags = ["-O3", *ISAS[isa], "-std=c++20", "-shared", "-fPIC", "-pthread", "-Wno-psabi"]
            subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
            self._library = ctypes.CDLL(str(library))
        self._library.operate.restype = ctypes.c_double

    def peak(self, divide: bool, rounds: int = 10**7) -> float:
        """Operations, or divisions, per second of all cores, the best of three runs."""

        def speed() -> float:
            begun = time.perf_counter()
            done = self._library.operate(ctypes.c_long(rounds), ctypes.c_int(divide), self._threads)
            return done / (time.perf_counter() - begun)

        return max(speed() for _ in range(3))

    def play(self, scenario: Scenario, rule: str, seeds: int) -> np.ndarray:
        """The sums of a rule over the seeds from 0 on, in the order of `SUMS`."""
        params, sums = scenario.params(), np.zeros(len(SUMS) + 1)
        numbers = (float(getattr(params, name)) for name in _NUMBERS)
        given = _Scenario(scenario.num_positions, scenario.num_slots, *numbers)
        arrays = [np.ascontiguousarray(x, np.float32) for x in (params.capacity, params.link_rate)]
        capacity, link_rate = (x.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for x in arrays)
        code = self._library.play(
            *(ctypes.byref(given), scenario.num_servers, RULES.index(rule), capacity, link_rate),
            *(seeds // self._library.width(), self._threads),
            sums.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        )
        assert code == 0, "episode.cpp has no such rule or number of servers"
        return sums[: len(SUMS)]


def kernel(scenario: Scenario, rule: str, seeds: int) -> tuple[Callable[[], np.ndarray], Counter[str]]:
    """A function that returns the same sums from the package's kernel, and the operations for a position."""
    program, arguments = rollout_program(scenario, get_method(rule), seeds // SEEDS_PER_BLOCK)
    compiled = program.lower(*arguments).compile()

    def run() -> np.ndarray:
        (end, _), _ = jax.block_until_ready(compiled(*arguments))
        totals = on_host(end.totals)
        return np.array([np.sum(totals[name], dtype=float) for name in SUMS])

    return run, operations(compiled.as_text())


def operations(program: str) -> Counter[str]:
    """The operations on whole vectors in the innermost loop of an optimised HLO program, by name."""
    lines: dict[str, list[str]] = {}
    name = ""
    for line in program.splitlines():
        if begun := re.match(r"(?:ENTRY )?(%[\w.-]+) .*\{$", line):
            name = begun[1]
        lines.setdefault(name, []).append(line)

    def called(name: str, by: str) -> list[str]:
        return [found for line in lines[name] for found in re.findall(rf"(?:{by})=(%[\w.-]+)", line)]

    def loops_within(name: str) -> int:
        return len(called(name, "body")) + sum(map(loops_within, called(name, "body|calls|to_apply")))

    def count(name: str) -> Counter[str]:
        vectors = (
            re.match(rf"\s*(?:ROOT )?\S+ = \w+\[{SEEDS_PER_BLOCK}\]\S* ([\w-]+)\(", line)
            for line in lines[name]
        )
        found = Counter(vector[1] for vector in vectors if vector)
        return sum(map(count, called(name, "calls")), found)

    (innermost,) = {body for name in lines for body in called(name, "body") if not loops_within(body)}
    return Counter({name: n for name, n in count(innermost).items() if name not in _NO_OPERATIONS})


@own_numerics()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4096, help="number of seeds; default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turn; default %(default)s")
    parser.add_argument("--isa", choices=ISAS, default="native", help="the instructions of the loop")
    args = parser.parse_args()
    scenario, loop = Scenario(), Loop(args.isa)
    most, most_divisions = loop.peak(False), loop.peak(True)
    print(f"{most / 1e9:.0f} billion operations/s, {most_divisions / 1e9:.1f} billion divisions/s\n")
    print("|", " | ".join(COLUMNS), "|\n" + "| --- " * len(COLUMNS) + "|")
    positions = args.seeds * scenario.num_slots * scenario.num_servers * scenario.num_positions
    for rule in RULES:
        ours, done = kernel(scenario, rule, args.seeds)
        by_hand = functools.partial(loop.play, scenario, rule, args.seeds)
        np.testing.assert_array_equal(ours()[0], by_hand()[0])
        np.testing.assert_allclose(ours(), by_hand(), rtol=1e-4)
        times: list[list[float]] = [[], []]
        for _ in range(args.repeats):
            for run, spent in zip((ours, by_hand), times, strict=True):
                begun = time.perf_counter()
                run()
                spent.append(time.perf_counter() - begun)
        ours_s, loop_s = map(statistics.median, times)
        divisions, others = done["divide"], done.total() - done["divide"]
        share = positions * max(others / most, divisions / most_divisions) / ours_s
        speeds = (f"{ours()[0] / seconds / 1e6:.0f}" for seconds in (ours_s, loop_s))
        row = rule, *speeds, f"{ours_s / loop_s:.2f}", str(others), str(divisions), f"{share:.2f}"
        print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    configure()
    main()
