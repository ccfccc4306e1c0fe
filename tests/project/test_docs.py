"""Every command and program of the pages, run as printed.

A block is run unless something here says otherwise, so that no new one is forgotten:

- `<!-- long -->` above a block keeps it out of the default suite. `python -m pytest -m docs_long` runs the
  pages that have such blocks, from top to bottom.
- `NOT_RUN` lists commands that cannot be run, with the reason. Their options are checked all the same.
- A block is saved, not run, where the paragraph above names its file and ends in a colon: "In `mine.py`:".
- A block without a language is a command after `$` with what it prints; or it is what the block above it
  prints, and the paragraph between them ends in "prints".
- Decimals in a comment behind a `print` are compared with what is printed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tyro
from helpers.documented import PAGES, ROOT, Block, blocks, make_checkout, run_shell, script_calls

from amco_jax import get_method, load_scenario
from amco_jax.agents.methods import METHODS

CHECKS = "`.ci/run` runs it, and this test is part of it"
CLUSTER = "needs a cluster; tests/study/test_ray.py starts one of its own"

NOT_RUN = {
    'python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[dev]"'
    " && .venv/bin/python -m pytest": CHECKS,
    "python -m ruff check .": CHECKS,
    "python -m ruff format --check .": CHECKS,
    "python -m pyright": CHECKS,
    "python -m sphinx -W -c docs . build/site": CHECKS,
    "python -m pytest": CHECKS,
    "pre-commit install": "changes the repository's hooks",
    "python scripts/sweep.py --param arrival_prob --out results/big --engine ray --address auto": CLUSTER,
    "python scripts/sweep.py --param arrival_prob --seeds 100000 --out results/big"
    " --engine ray --address auto": CLUSTER,
    "python scripts/sweep.py --param arrival_prob --seeds 100000 --out results/big"
    " --shard $SLURM_ARRAY_TASK_ID/8": "is a batch script of many processors for a day",
    "python scripts/profile_repair.py --random-weights --repeats 20 --steps 5 10 20"
    " --out my-gpu.csv": "takes hours",
    "python scripts/profile_repair.py --model my-weights.safetensors --batches 1 2 4 --out my-gpu.csv":
        "needs trained weights",
    "python scripts/reproduce.py": "takes hours",
    "python scripts/bench.py --growth randcoedge optimal amcoedge-factorised --out benchmarks/cpu-2-cores"
    " --overwrite": "takes twenty minutes of a machine that does nothing else",
    "pip install --no-deps flashbax==0.1.3 && JAX_NUM_CPU_DEVICES=1 taskset -c 0 python benchmarks/replay.py":
        "needs a package that nothing else needs",
    "python benchmarks/paired.py --against HEAD~1 --methods optimal randcoedge least-wait amcoedge":
        "takes minutes of a machine that does nothing else",
    "python benchmarks/peers.py --edgesimpy edgesimpy/bin/python EdgeSimPy edgesimpy-tutorials"
    " --raycloudsim raycloudsim/bin/python RayCloudSim --edgecloudsim java EdgeCloudSim"
    " --xlron xlron/bin/python XLRON --out benchmarks/peers.csv": "needs other simulators",
    "python benchmarks/gpu.py --out h100.json": "needs a GPU",
    "python benchmarks/fleet.py compare --out results/fleet-compare":
        "takes an hour; tests/edge_fleet/test_virtual.py does the same in virtual time",
    "python scripts/fleet.py run --netns --fleet size=64 speed=20 --set num_slots=2 link_rate=100":
        "needs root; tests/edge_fleet/test_namespaces.py runs such a fleet where it can",
    "python scripts/fleet.py worker --listen 0.0.0.0:7000 --keys fleet-keys --engine sd15 --name orin-1":
        "runs until it is stopped",
    "python scripts/fleet.py run --scenario mine.toml --workers 10.0.0.1:7000 10.0.0.2:7000"
    " --keys fleet-keys": "needs other machines",
    "python benchmarks/fleet.py errors --methods optimal randcoedge --agents results/agents"
    " --out results/fleet-errors":
        "takes half an hour of a machine that does nothing else",
    "python scripts/tune.py --method drlcoedge-stable --vary learning_rate=0.001,0.002,0.003,0.006,0.01"
    " learning_rate_decay=0.001,0.002,0.003,0.006 learn_interval=1,2,4 reward_scale=3,10,30,100"
    " replay_capacity=2000,8000,16000 greedy_growth=0.0002,0.0005,0.001"
    " --trials 24 --learn deploy_target=false --seeds 32 --episodes 100":
        "takes five minutes, as does the search for each other method",
    "python scripts/sweep.py --param arrival_prob --values 0.3 --methods optimal amcoedge-stable --seeds 1000"
    " --trained-seeds 1000 --episodes 300 --first-seed 8000000 --no-percentiles": "takes ten minutes",
}  # fmt: skip
"""Commands that are not run, each with the reason."""

RUN_ON = {
    ("docs/reproducing-the-paper.md", "python scripts/reproduce.py --quick"): "README.md",
    ("docs/reproducing-the-paper.md", "python scripts/compare.py --seeds 32 --episodes 300"): "README.md",
    (
        "docs/scaling-out.md",
        "python scripts/sweep.py --param arrival_prob --out results/big --resume",
    ): "README.md",
}
"""Long commands that are run on another page."""

LOOKED_AT = {"yaml", "json", "text", "latex", "{eval-rst}"}
"""Languages of blocks that need not be run."""

COMMANDS = [
    pytest.param(command, id=f"{block.name}-{number}")
    for page in PAGES
    for block in blocks(page)
    for number, command in enumerate(block.commands, 1)
]
RELATIVE = 2e-3
"""Tolerance of printed numbers: processors differ in the last digits, and queues amplify that."""


@pytest.mark.parametrize("page", PAGES)
def test_quick_blocks_run_as_printed(page: str, tmp_path: Path):
    read([block for block in blocks(page) if not block.long], tmp_path)


@pytest.mark.docs_long
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.long for block in blocks(page))])
def test_pages_run_as_printed(page: str, tmp_path: Path):
    read(blocks(page), tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_commands_exist(command: str):
    for extra in re.findall(r'"\.\[(\w+)\]"', command):
        assert (
            extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        )
    for script, arguments in script_calls(command):
        parse(ROOT / script, arguments)


def test_only_commands_of_the_pages_are_left_out():
    commands = {page: {command for block in blocks(page) for command in block.commands} for page in PAGES}
    assert NOT_RUN.keys() <= set.union(*commands.values())
    for (page, command), other in RUN_ON.items():
        assert command in commands[page] & commands[other]
        assert not_run(other, command) is None


def test_unknown_options_are_found():
    for script in ("scripts/sweep.py", "benchmarks/gpu.py"):
        with pytest.raises(pytest.fail.Exception, match="--speed"):
            parse(ROOT / script, ["--speed", "1"])


def read(page: list[Block], directory: Path) -> None:
    """Do with the blocks what a reader does, in order."""
    environment = make_checkout(directory)
    printed = ""
    for block in page:
        if block.file is not None:
            (directory / block.file).write_text(block.text)
        elif block.language == "toml":
            (directory / "block.toml").write_text(block.text)
            load_scenario(str(directory / "block.toml"))
        elif block.language == "python":
            (directory / "block.py").write_text(block.text)
            printed = succeed(block, "python block.py", directory, environment)
            for line in re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.M):
                assert_printed(re.findall(r"-?\d+\.\d+", line), printed, block)
        elif block.is_transcript:
            done = run_shell(block.commands[0], directory, environment)
            printed = done.stdout + done.stderr
            assert printed.split() == block.text.split("\n", 1)[1].split(), block.name
        elif block.shows_output:
            assert_same(block, printed)
        elif block.language in ("bash", "sh"):
            left = [command for command in block.commands if not_run(block.page, command) is None]
            succeed(block, block.text if left == block.commands else "\n".join(left), directory, environment)
        else:
            assert block.language in LOOKED_AT, f"{block.name}: nothing says what to do with this block"


def not_run(page: str, command: str) -> str | None:
    """Why a command is not run on a page, None if it is."""
    return NOT_RUN.get(command, RUN_ON.get((page, command)))


def succeed(block: Block, text: str, directory: Path, environment: dict[str, str]) -> str:
    """The standard output of shell commands that must not fail."""
    done = run_shell(text, directory, environment)
    assert done.returncode == 0, f"{block.name}: exit code {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


def assert_printed(numbers: list[str], printed: str, block: Block) -> None:
    found = [float(number) for number in re.findall(r"-?\d+\.\d+", printed)]
    for number in numbers:
        assert any(close(number, other) for other in found), f"{block.name}: no {number} in\n{printed}"


def assert_same(block: Block, printed: str) -> None:
    """The words of a block are what was printed, and numbers agree."""
    expected, actual = block.text.split(), printed.split()
    assert len(expected) == len(actual), f"{block.name}:\n{printed}"
    for word, other in zip(expected, actual, strict=True):
        try:
            same = close(word.strip("[],"), float(other.strip("[],")))
        except ValueError:
            same = word == other
        assert same, f"{block.name}: {word} is now {other} in\n{printed}"


def close(number: str, other: float) -> bool:
    """Whether a number agrees with a printed one, to a unit of its last digit or the tolerance."""
    digits = len(number.partition(".")[2])
    return abs(float(number) - other) <= max(1.01 * 10**-digits * (digits > 0), RELATIVE * abs(other))


def parse(script: Path, arguments: list[str]) -> None:
    """Fail unless a script understands its arguments; nothing runs.

    Scripts start a command, or hand what they accept to `run` of `amco_jax.cli.arguments`, or a function to
    `tyro.cli`.
    """
    parser, message = tyro.cli, io.StringIO()

    def parse_only(accepted: Any, *_: Any, **__: Any) -> None:
        config = (tyro.conf.OmitArgPrefixes,)
        if not isinstance(accepted, type):
            accepted, config = functools.wraps(accepted)(lambda **_: None), ()
        with contextlib.redirect_stderr(message):
            parser(accepted, args=arguments, config=config)

    text = script.read_text("utf-8")
    if "cli" not in text and "start(" not in text:
        assert not arguments, f"{script.name} takes no arguments"
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script)])
        patch.setattr("amco_jax.cli.arguments.run", parse_only)
        patch.setattr(tyro, "cli", parse_only)
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit:
            pytest.fail(f"{script.name} {' '.join(arguments)}: {message.getvalue()}")


def test_the_table_of_trained_methods_is_complete():
    section = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition("## The trained methods")[2]
    rows = re.findall(r"^\| (`.*?) \|.* \| (\d+) \|$", section.partition("\n\nThe last column")[0], re.M)
    listed = {name: int(episodes) for names, episodes in rows for name in re.findall(r"`([^`]+)`", names)}
    trained = {m.name: m.training.episodes for m in METHODS.values() if m.training is not None}
    assert trained.items() <= listed.items()
    others = [name.replace("-k", "-2") for name in listed if name not in trained]
    assert all(get_method(name).train_episodes(None) == 300 for name in others)
