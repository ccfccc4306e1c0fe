"""The fenced blocks of the pages, and the environment in which a reader runs them."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from helpers.paths import ROOT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
]
LONG = "<!-- long -->"
"""The line above a block that takes too long for the default suite"""

_BLOCK = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.M | re.S)
_SUFFIXES = {"python": "py", "toml": "toml", "text": "csv", "json": "json", "yaml": "yaml"}
_OPERATORS = {"&&", "||", "|", ";"}


@dataclasses.dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    above: str
    """The paragraph before the block"""
    long: bool
    """Whether the block is excluded from the default suite"""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file in which the page tells readers to save the block."""
        names = re.findall(rf"`([\w-]+\.{_SUFFIXES.get(self.language, '$')})`", self.above)
        return names[-1] if names and self.above.endswith(":") else None

    @property
    def shows_output(self) -> bool:
        """Whether the block is the output of the previous block."""
        return self.language == "" and re.search(r"\bprints:?$", self.above) is not None

    @property
    def is_transcript(self) -> bool:
        """Whether the block is a command after `$`, followed by its output."""
        return self.language == "" and self.text.startswith("$ ")

    @property
    def commands(self) -> list[str]:
        """The shell commands of the block, without comments."""
        if self.is_transcript:
            return [self.text.splitlines()[0].removeprefix("$ ")]
        if self.language == "yaml":
            return re.findall(r"python scripts/.*$", self.text, re.M)
        if self.language not in ("bash", "sh"):
            return []
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = (ROOT / page).read_text("utf-8")
    found = list(_BLOCK.finditer(text))
    assert 2 * len(found) == len(re.findall(r"^\s*(?:```|~~~)", text, re.M)), f"{page} has an indented block"
    before = [text[: block.start()].rstrip() for block in found]
    return [
        Block(
            page,
            text.count("\n", 0, block.start()) + 1,
            block[1],
            block[2],
            above.removesuffix(LONG).rstrip().rpartition("\n\n")[2],
            above.endswith(LONG),
        )
        for block, above in zip(found, before, strict=True)
    ]


def script_calls(command: str) -> Iterator[tuple[str, list[str]]]:
    """The Python scripts that a shell command calls, with their arguments; variables are replaced by 0."""
    words, call = shlex.split(re.sub(r"\$\w+", "0", command)), []
    for word in [*words, ";"]:
        if word in _OPERATORS:
            scripts = [index for index, part in enumerate(call) if part.endswith(".py")]
            if scripts and any("python" in part for part in call[: scripts[0]]):
                yield call[scripts[0]], call[scripts[0] + 1 :]
            call = []
        else:
            call.append(word)


def make_checkout(directory: Path) -> dict[str, str]:
    """Fill a directory with the contents of a reader's checkout, and return the environment variables.

    `python` is the interpreter that runs the tests. Commands that create a virtual environment or install
    packages do nothing, because `.ci/run` does both.
    """
    for name in ("scripts", "tests", "docs", "constraints.txt", "pyproject.toml"):
        (directory / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "benchmarks", directory / "benchmarks")
    bin_directory = directory / ".venv" / "bin"
    bin_directory.mkdir(parents=True)
    (bin_directory / "activate").touch()
    python = (
        f'case "$*" in "-m venv "*|"-m pip install "*) exit 0;; esac\nexec {shlex.quote(sys.executable)} "$@"'
    )
    for name, line in {"python": python, "python3": python, "pip": "exit 0"}.items():
        (bin_directory / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin_directory / name).chmod(0o755)
    for name, make in GIVEN.items():
        make(directory / name)
    return os.environ | {
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "SLURM_ARRAY_TASK_ID": "0",
    }


def run_shell(text: str, directory: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=directory, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _request_log(path: Path) -> None:
    """Write forty days of requests, a hundred per day, with the columns of the log in docs/workloads.md."""
    draw = np.random.default_rng(0)
    log = {
        "gmt_create": _times(draw, days=40),
        "predict_status": "SUCCEED",
        "exec_time_seconds": draw.integers(5, 60, 4000),
        "groupId": draw.integers(0, 30, 4000),
        "num_images_per_prompt": draw.choice([1, 2, 4], 4000),
        "num_inference_steps": 20,
    }
    pd.DataFrame(log).to_csv(path, index=False)


def _token_log(path: Path) -> None:
    """Write two days of requests to a language model, with the columns that docs/workloads.md names."""
    draw = np.random.default_rng(0)
    log = {
        "TIMESTAMP": _times(draw, days=2),
        "tenant": draw.integers(0, 30, 4000),
        "prompt_tokens": draw.integers(1000, 2500, 4000),
        "output_tokens": draw.integers(100, 300, 4000),
    }
    pd.DataFrame(log).to_csv(path, index=False)


def _times(draw: np.random.Generator, days: float) -> pd.Index:
    return pd.Timestamp("2024-11-01") + pd.to_timedelta(np.sort(draw.uniform(0, days, 4000)), unit="D")


def _latency_table(path: Path) -> None:
    """Write a latency table for a device named "my GPU", with the numbers of a shipped device."""
    shipped = pd.read_csv(ROOT / "amco_jax/data/latency/estimated.csv", dtype=str, keep_default_na=False)
    shipped[shipped["device"] == shipped["device"].iloc[0]].assign(device="my GPU").to_csv(path, index=False)


GIVEN = {"requests.csv.gz": _request_log, "requests.csv": _token_log, "my-gpu.csv": _latency_table}
"""Files that a reader is assumed to have, and the functions that write them"""
