"""Drivers of simulators beside ours, each run by the interpreter of its simulator: see `peers.py`.

    INTERPRETER -P benchmarks/peer_drivers.py NAME [WORDS]

A driver prints a line of JSON for each measurement: what was played, the number of decisions (or steps of an
environment), and the seconds by the wall clock and of the processor. It needs nothing but its simulator.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""A measurement is repeated until it has taken as long"""
STEPS = {1: 2000}
"""Steps of a scan by the number of environments in parallel; 64 for all other numbers"""
SETTINGS = {
    "file_log_enabled": "false", "warm_up_period": "0",
    "min_number_of_mobile_devices": "100", "max_number_of_mobile_devices": "100",
    "orchestrator_policies": "RANDOM_FIT", "simulation_scenarios": ",".join(["TWO_TIER_WITH_EO"] * 30),
}  # fmt: skip
"""What is changed in the settings of EdgeCloudSim's first sample application"""


def report(unit: str, simulator: str, setting: str, parallel: int, spent: tuple[int, float, float]) -> None:
    """Print a measurement.

    Args:
      unit: what is counted, "decisions" or "steps".
      spent: the result of `timed`.
    """
    row = {"unit": unit, "simulator": simulator, "setting": setting, "parallel": parallel, "count": spent[0]}
    print(json.dumps(row | {"wall_s": round(spent[1], 4), "processor_s": round(spent[2], 4)}), flush=True)


def timed(
    run: Callable[[Any], int], prepare: Callable[[], Any] = lambda: None, seconds: float = SECONDS
) -> tuple[int, float, float]:
    """The decisions of repeated runs and their seconds by both clocks, after a run that is discarded.

    Args:
      run: is called with what `prepare` returns, whose time is not counted, and returns its decisions.
    """
    run(prepare())
    decisions, wall, processor = 0, 0.0, 0.0
    while wall < seconds:
        given = prepare()
        begun = time.perf_counter(), time.process_time()
        decisions += run(given)
        wall += time.perf_counter() - begun[0]
        processor += time.process_time() - begun[1]
    return decisions, wall, processor


def amco(seeds: str) -> None:
    """Our own rules: the plain loop in Python, the kernel for one seed and for many, and with all metrics."""
    import jax
    import numpy as np

    from amco_jax import Scenario, configure, get_method
    from amco_jax.compile.runtime import own_numerics
    from amco_jax.compile.wide import on_host
    from amco_jax.env import UNIFIED
    from amco_jax.kernel.reference import cwa_by_solve
    from amco_jax.kernel.reference import simulate as simulate_plainly
    from amco_jax.metrics import NUM_TASKS
    from amco_jax.study.measure import PLAIN, PLAIN_SLOTS, arrivals, rollout_program
    from amco_jax.study.simulate import SEEDS_PER_BLOCK, simulate

    configure()
    scenario, many = Scenario(), int(seeds)

    def kernel(rule: str, seeds: int) -> Callable[[Any], int]:
        lanes = min(seeds, SEEDS_PER_BLOCK)
        program, arguments = rollout_program(scenario, get_method(rule), seeds // lanes, lanes)
        compiled = program.lower(*arguments).compile()

        def run(_: Any) -> int:
            (end, _), _ = jax.block_until_ready(compiled(*arguments))
            return int(np.sum(on_host(end.totals)[NUM_TASKS.name]))

        return run

    def with_percentiles(rule: str) -> Callable[[Any], int]:
        method = get_method(rule)

        def run(_: Any) -> int:
            batches = simulate([scenario], method, UNIFIED, 0, many)
            return sum(int(np.sum(batch.metrics[NUM_TASKS.name])) for batch in batches)

        return run

    def plain(rule: str) -> Callable[[Any], int]:
        recording = arrivals(scenario.replace(num_slots=PLAIN_SLOTS), 0)
        choose = PLAIN[rule](scenario.num_servers)

        def run(_: Any) -> int:
            simulate_plainly(recording, "unified", cwa_by_solve, choose)
            return int(np.count_nonzero(recording["task_mbit"]))

        return run

    with own_numerics():
        for rule in ("randcoedge", "optimal"):
            report("decisions", "AMCo-JAX", f"{rule}, plain loop", 1, timed(plain(rule)))
            for number in dict.fromkeys((1, many)):
                report("decisions", "AMCo-JAX", f"{rule}, kernel", number, timed(kernel(rule, number)))
            report("decisions", "AMCo-JAX", f"{rule}, with percentiles", many, timed(with_percentiles(rule)))


def steps(simulator: str, setting: str, env: Any, params: Any, parallel: int, act: Any = None) -> None:
    """Measure an environment in JAX: steps of a scan over environments in parallel, or of a single one.

    Args:
      act: chooses an action by state and key; by default at random.
    """
    import jax

    act = act or (lambda state, key: env.action_space(params).sample(key))
    length = STEPS.get(parallel, 64)

    def step(state, key):
        choosing, stepping = jax.random.split(key)
        result = env.step(stepping, state, act(state, choosing), params)
        return result[1], result[:3:2]  # observation and reward, which a learner needs

    def each(function):  # a single environment without an axis, as batching turns branches into selects
        if parallel == 1:
            return function
        return lambda *args: jax.vmap(function)(*args[:-1], jax.random.split(args[-1], parallel))

    def scan(states, key):
        def body(states, key):
            states, (seen, reward) = each(step)(states, key)
            return states, (seen.sum(), reward.sum())

        return jax.lax.scan(body, states, jax.random.split(key, length))

    key = jax.random.key(0)
    states = jax.jit(each(lambda key: env.reset(key, params)[1]))(key)
    program = jax.jit(scan).lower(states, key).compile()

    def run(_: Any) -> int:
        jax.block_until_ready(program(states, key))
        return length * parallel

    report("steps", simulator, setting, parallel, timed(run))


def amco_environment(*parallel: str) -> None:
    """Our environment, with and without automatic resets."""
    from amco_jax import DecisionEnv, GymnaxEnv, configure
    from amco_jax.agents.actions import nonempty_sets

    configure()
    env = DecisionEnv(actions=nonempty_sets)
    for number in parallel:
        for played in (env, GymnaxEnv(env)):
            steps("AMCo-JAX", type(played).__name__, played, played.default_params, int(number))


def gymnax(*parallel: str) -> None:
    """Two environments of gymnax."""
    make = import_module("gymnax").make
    for number in parallel:
        for name in ("CartPole-v1", "Breakout-MinAtar"):
            env, params = make(name)
            steps(f"gymnax {version('gymnax')}", name, env, params, int(number))


def xlron(checkout: str, *parallel: str) -> None:
    """XLRON's benchmark without a physical layer: lightpaths at random, and the first that fits."""
    sys.path.insert(0, checkout)
    env, params = import_module("xlron.environments.make_env").make(
        {
            "env_type": "rmsa", "topology_name": "nsfnet_deeprmsa_directed", "link_resources": 100, "k": 5,
            "load": 250, "mean_service_holding_time": 25, "continuous_operation": True, "max_requests": 1000,
        },
        log_wrapper=False,
    )  # fmt: skip
    first_fit = import_module("xlron.heuristics.heuristics").ksp_ff

    def choose(state: Any, key: Any) -> Any:
        del key
        return first_fit(state, params)

    for number in parallel:
        steps("XLRON", "NSFNET, at random", env, params, int(number))
        steps("XLRON", "NSFNET, ksp_ff", env, params, int(number), choose)


def edgesimpy(checkout: str, tutorials: str) -> None:
    """The first data set of EdgeSimPy's tutorials for 600 steps, each service moved to the freest server."""
    sys.path.insert(0, checkout)
    package = import_module("edge_sim_py")
    rest = 10
    begun: dict[int, int] = {}
    """The step at which each service was last being moved"""
    moves = 0

    def place(parameters: dict[str, Any]) -> None:
        nonlocal moves
        now = parameters["current_step"]
        for service in package.Service.all():
            if service.being_provisioned:
                begun[service.id] = now
            elif now - begun.get(service.id, -rest) >= rest:
                servers = sorted(package.EdgeServer.all(), key=lambda each: each.cpu_demand - each.cpu)
                others = (each for each in servers if each is not service.server)
                fitting = (each for each in others if each.has_capacity_to_host(service=service))
                if chosen := next(fitting, None):
                    service.provision(target_server=chosen)
                    begun[service.id] = now
                    moves += 1

    def prepare() -> Any:
        simulator = package.Simulator(
            stopping_criterion=lambda model: model.schedule.steps == 600,
            resource_management_algorithm=place,
            dump_interval=float("inf"),
        )
        simulator.initialize(input_file=str(Path(tutorials, "datasets", "sample_dataset1.json")))
        return simulator

    def run(simulator: Any) -> int:
        before = moves
        begun.clear()
        simulator.run_model()
        return moves - before

    report("decisions", "EdgeSimPy", "6 servers, worst fit", 1, timed(run, prepare))


def raycloudsim(checkout: str) -> None:
    """RayCloudSim's smallest benchmark with a few nodes, each task on a node chosen at random."""
    os.chdir(checkout)  # it opens files by paths from here
    sys.path.insert(0, os.getcwd())
    environment, task = import_module("core.env").Env, import_module("core.task").Task
    scenario = import_module("eval.benchmarks.Pakistan.scenario").Scenario
    policy = import_module("policies.demo.demo_random").DemoRandom()
    data = Path("eval/benchmarks/Pakistan/data/Tuple30K")
    with (data / "testset.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    random.seed(0)

    def prepare() -> Any:
        made = scenario(config_file=str(data / "config.json"), flag=data.name)
        return environment(made, config_file="core/configs/env_config_null.json", enable_logging=False)

    def run(env: Any) -> int:
        def advance() -> None:
            # It raises if no link or node has room for a task, which its own examples ignore, too.
            with contextlib.suppress(Exception):
                env.run(until=int(env.now) + 1)

        for row in rows:
            while env.now < float(row["GenerationTime"]):
                advance()
            made = task(
                id=int(row["TaskID"]), task_size=float(row["TaskSize"]),
                cycles_per_bit=float(row["CyclesPerBit"]), trans_bit_rate=float(row["TransBitRate"]),
                ddl=float(row["DDL"]), src_name="e0", task_name=row["TaskName"],
            )  # fmt: skip
            env.process(task=made, dst_name=env.scenario.node_id2name[policy.act(env, made)])
        while env.task_count < len(rows):
            advance()
        return len(rows)

    report("decisions", "RayCloudSim", "8 nodes, at random", 1, timed(run, prepare))


def edgecloudsim(java: str, checkout: str) -> None:
    """EdgeCloudSim's first sample application, 100 devices for half an hour, twenty times after ten."""
    application = Path(checkout, "scripts", "sample_app1", "config")
    lines = (application / "default_config.properties").read_text().splitlines()
    settings = dict(line.split("=") for line in lines if "=" in line) | SETTINGS
    classes = [f"{checkout}/bin", *map(str, Path(checkout, "lib").glob("*.jar"))]
    with tempfile.TemporaryDirectory() as home:
        Path(home, "settings.properties").write_text("\n".join(map("=".join, settings.items())))
        line = [
            java, "-classpath", os.pathsep.join(classes),
            "edu.boun.edgecloudsim.applications.sample_app1.MainApp", f"{home}/settings.properties",
            str(application / "edge_devices.xml"), str(application / "applications.xml"), home, "1",
        ]  # fmt: skip
        tasks, ends = [], []
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
            clock = (~process.pid << 3) | 2  # Linux's clock of the processor time of another process
            for printed in process.stdout or ():
                if printed.startswith("# of tasks"):
                    tasks.append(int(printed.split(":")[1].partition("(")[0]))
                elif printed.startswith("Scenario finished"):
                    ends.append((time.perf_counter(), time.clock_gettime(clock)))
    first = 10  # until then, Java still compiles
    wall, processor = (ends[-1][which] - ends[first - 1][which] for which in (0, 1))
    report("decisions", "EdgeCloudSim", "14 hosts, random fit", 1, (sum(tasks[first:]), wall, processor))


DRIVERS = {
    driver.__name__: driver
    for driver in (amco, amco_environment, gymnax, xlron, edgesimpy, raycloudsim, edgecloudsim)
}

if __name__ == "__main__":
    DRIVERS[sys.argv[1]](*sys.argv[2:])
