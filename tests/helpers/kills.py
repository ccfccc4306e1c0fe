"""Commands that are killed in the middle of a unit, and checks of the files that they leave."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amco_jax.agents.methods import Method
from amco_jax.study.compare import Comparison
from amco_jax.study.run import Study
from amco_jax.study.sweep import Sweep
from amco_jax.study.trainer import EPISODES_PER_CALL
from helpers.paths import ROOT
from helpers.tiny_training import LEARN_QUICK, METHOD, QUICK, TINY

KILLS = int(os.environ.get("AMCO_JAX_KILLS", "2"))
PATIENCE = 600
"""Timeout in seconds for steps that take a few seconds on an idle machine"""
OPTIONS = [
    "--param", "arrival_prob", "--values", "0.2", "0.5", "0.8", "--methods", "local", "optimal",
    "--seeds", "640", "--unit-seconds", "0.03", "--set", "num_servers=3", "num_slots=100", "--quiet",
]  # fmt: skip

# One long unit with a checkpoint after every call of the trainer, which prints the episode it continues from.
TRAINING = [
    "--param", "deadline", "--values", "0.5", "--methods", "drlcoedge", "--seeds", "4",
    "--episodes", str(100 * (KILLS + 1)),  # a killed process completes some tens of them
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

# Other commands that compute units, some of rules and some of trainings with checkpoints.
COMMANDS = {
    "train": ["--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--episodes", "100"],
    "compare": [
        "--methods", "drlcoedge-stable", "local", *QUICK, "--episodes", "50", "--last", "5",
        "--physics", "unified",
    ],
    "tune": [
        "--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--vary", "discount=0,0.9", "--episodes", "50",
        "--reference", "local",
    ],
    "evaluate": ["--methods", "local", "optimal", "--episodes", "20"],
    "reproduce": ["--quick", "--format", "md"],
    "sensitivity": ["--methods", "local", "all-servers", *QUICK],
}  # fmt: skip
ALL_COMMANDS = "AMCO_JAX_KILLS" in os.environ
"""Whether all commands are tested, and all ways to lose what computes, rather than a sample of them"""

PAPER_CALLS = 2 if ALL_COMMANDS else 1
"""Calls of the trainer that each training of `tiny_paper` takes: with two, there is a checkpoint between"""


def some_commands(*sample: str) -> list[str]:
    """Names of `COMMANDS`: all of them if `AMCO_JAX_KILLS` is set, else a sample, as all share one engine."""
    return [*COMMANDS] if ALL_COMMANDS else [*sample]


SMALL_COMMANDS = """
import json, sys
from amco_jax.commands import start
from amco_jax.study import reproduce, trainer
sys.path.append(sys.argv[1])
from helpers.kills import tiny_paper
reproduce.studies_of = tiny_paper
trainer.CHECKPOINT_SECONDS = 0.0
for name, *words in json.loads(sys.argv[2]):
    sys.argv = [f"{name}.py", *words]
    start(f"amco_jax.commands.{name}")
"""


def tiny_paper(effort: object, metrics: object = ()) -> dict[str, Study]:
    """Two studies that need the same agents, in place of the paper's studies."""
    del effort, metrics
    methods: list[str | Method] = [METHOD, "randcoedge", "optimal"]
    size: dict[str, Any] = {"seeds": 4, "episodes": PAPER_CALLS * EPISODES_PER_CALL, "scenario": TINY}
    return {
        "convergence": Comparison(methods=methods, last=5, **size),
        "deadline-unified": Sweep(param="deadline", values=[0.5, 1.0], methods=methods, **size),
    }


def words_of(name: str, out: Path, *more: object) -> list[str]:
    """The arguments of a small command in `COMMANDS`, with units as small as possible."""
    return [*map(str, [*COMMANDS[name], *more]), "--unit-seconds", "1e-6", "--quiet", "--out", str(out)]


def start_commands(*lines: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process that runs commands in turn; trainings write a checkpoint after every call."""
    program = ["-c", SMALL_COMMANDS, str(ROOT / "tests"), json.dumps(lines)]
    return _process([sys.executable, *program], ROOT)


def start(out: Path, *more: str, training: bool = False, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the sweep as a user does, except that the training one writes a checkpoint after every call.

    `within` is a command that runs the command given as its arguments, see `SmallDisk`.
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
    return _process(line, out.parent)


def _process(line: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    pipe: Any = subprocess.PIPE
    return subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=cwd)


class SmallDisk:
    """A separate file system mounted at a directory, in a user namespace, which needs no root privileges.

    Commands prefixed by `within` see it at the directory, and this process sees it at `seen`.
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
        """Change the size of the file system."""
        mount = ["mount", "-o", f"remount,size={size}", str(self._directory)]
        subprocess.run([*self.within, *mount], check=True)

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self._holder.kill()  # the file system disappears with the last process of the namespace
        self._holder.communicate()


def ended_well(process: subprocess.Popen[str]) -> None:
    """Wait for a sweep, and assert that it ends without an error."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def log(out: Path) -> list[list[str]]:
    """The log lines of a study, or of all studies of a reproduction, split into words."""
    paths = [*out.glob("units/log.txt"), *out.glob("*/units/log.txt")]
    return [line.split() for path in paths for line in path.read_text().splitlines()]


def in_progress(out: Path) -> dict[int, str]:
    """Units that have started but not ended, by the process that computes them."""
    running = {}
    for _, _, pid, event, unit in log(out):
        running[int(pid)] = unit if event == "started" else ""
    return {pid: unit for pid, unit in running.items() if unit}


def wait_for_a_unit(out: Path, driver: subprocess.Popen[str], after: int = 6) -> tuple[int, str]:
    """Wait for a process to be in the middle of a unit, once the log has more than `after` lines."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert driver.poll() is None, driver.communicate()
        if len(log(out)) > after and (found := in_progress(out)):
            return next(iter(found.items()))
        time.sleep(0.002)
    raise AssertionError("no unit was seen in progress")


def was_cut_short(out: Path, pid: int, unit: str) -> bool:
    """Whether the process started the unit but never committed it."""
    events = [event for _, _, who, event, what in log(out) if (int(who), what) == (pid, unit)]
    return events == ["started"]


def newest_checkpoint(out: Path) -> int:
    """The episode of the newest checkpoint of the unit in progress; 0 if there is none."""
    found = [int(p.name) for p in (out / "units").glob("*.checkpoints/chunk-*/*") if p.name.isdigit()]
    return max(found, default=0)


def assert_complete(out: Path, whole: Path) -> None:
    """Assert the same names, rows, tables, figures and manifest as in an undisturbed run."""
    found, wanted = contents(out), contents(whole)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name


def contents(home: Path) -> dict[str, Any]:
    """The contents of the files of a run, by name, except for times, the command and the Git commit.

    Trained agents are represented by their names only, because checkpoint files are never identical. Their
    effect is in the rows and curves.
    """
    found = {}
    for path in home.rglob("*"):
        name = path.relative_to(home)
        if any(part.startswith(".") for part in name.parts) or path.name in ("log.txt", "SHA256SUMS"):
            continue
        if "agents" in name.parts[:-1]:
            end = name.parts.index("agents") + 2
            found["/".join(name.parts[:end])] = None
        elif path.name == "manifest.json":
            of_the_day = dict.fromkeys(["started", "wall_time_s", "command", "git_commit"])
            found[str(name)] = json.loads(path.read_text()) | of_the_day
        elif path.suffix == ".md":
            found[str(name)] = [line for line in path.read_text().splitlines() if " s on " not in line]
        elif path.is_file():
            found[str(name)] = path.read_bytes()
    return found


def seconds_of_units(out: Path) -> float:
    """Time from the start of the first unit to the end of the last one, according to the log."""
    times = sorted(datetime.datetime.fromisoformat(when) for when, *_ in log(out))
    return (times[-1] - times[0]).total_seconds()


def wait_for_units(out: Path, process: subprocess.Popen[str], before: int) -> None:
    """Wait until the log has more than `before` lines, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and len(log(out)) <= before:
        assert time.monotonic() < deadline, "no unit was seen in progress"
        time.sleep(0.005)
