"""Command lines in the surroundings that users have: variables, terminals, homes, pipes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from helpers.command_lines import assert_refused
from helpers.kills import start, wait_for_a_unit
from helpers.paths import ROOT
from helpers.tiny_training import TINY, run

from amco_jax import Comparison, InputError, Sweep, run_study
from amco_jax.files import new_directory
from amco_jax.study.base import StudyResult
from amco_jax.study.output import Output

SWEEP = [
    str(ROOT / "scripts" / "sweep.py"), "--param", "deadline", "--values", "0.3", "--methods", "local",
    "--seeds", "1", "--set", "num_servers=2", "num_slots=2", "num_tasks=3",
]  # fmt: skip
FILES = (
    "results.parquet/*", "summary.csv", "makespan.png", "makespan.pdf", "units/plan.json", "units/*.sha256",
)  # fmt: skip


def environment(**changes: str | None) -> dict[str, str]:
    merged = os.environ | {"PYTHONPATH": str(ROOT)} | changes
    return {name: value for name, value in merged.items() if value is not None}


def shell(line: str, cwd: Path, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """Run a line in which $SWEEP is a small sweep; a pipe fails where any part of it does."""
    variables = environment(**changes) | {"SWEEP": " ".join([sys.executable, *SWEEP])}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=cwd, env=variables, capture_output=True, encoding="utf-8", errors="replace", timeout=240,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("plain")
    done = shell("$SWEEP --out out", home)
    assert done.returncode == 0, done.stderr
    return home / "out"


def assert_same(out: Path, plain: Path) -> None:
    """The same numbers, figures and names, so that either can be gone on with in the other's surroundings."""
    for name in FILES:
        found, wanted = (sorted(home.glob(name)) for home in (out, plain))
        assert [p.name for p in found] == [p.name for p in wanted]
        assert [p.read_bytes() for p in found] == [p.read_bytes() for p in wanted], name


def test_numbers_and_figures_depend_on_no_variable_and_no_configuration(plain: Path, tmp_path: Path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: no such font\nsavefig.dpi: 20\n")
    done = shell(
        "$SWEEP --out out", tmp_path, MPLBACKEND="module://matplotlib_inline.backend_inline",
        JAX_ENABLE_X64="1", JAX_NUMPY_DTYPE_PROMOTION="strict", JAX_DEBUG_NANS="1",
        JAX_DEFAULT_PRNG_IMPL="rbg", RAY_ADDRESS="http://127.0.0.1:8265", TMPDIR="/nowhere",
        NO_COLOR="1", TERM="dumb", COLUMNS="20", PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "out", plain)
    assert "estimates with 95 % intervals" in " ".join(done.stdout.split())
    mean = pd.read_csv(plain / "summary.csv").query("metric == 'makespan_mean_s' and per == 'task'")[
        "estimate"
    ]
    assert f"{mean.item():.4f}" in done.stdout  # not cut off in a narrow terminal


def test_a_user_without_name_home_or_cache(plain: Path, tmp_path: Path):
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)
    nobody = "exec setpriv --reuid 12345 --clear-groups"
    done = shell(f"{nobody} $SWEEP --out out", tmp_path, HOME=None, XDG_CACHE_HOME=None)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiled programs are not cached: there is no home directory\n") == 1
    found = tmp_path / "out"
    versions = [json.loads((out / "manifest.json").read_text())["versions"] for out in (found, plain)]
    if versions[0] == versions[1]:
        assert_same(found, plain)
    else:  # a Python that only root may read has another one's library for somebody else
        assert (found / "summary.csv").read_bytes() == (plain / "summary.csv").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("$SWEEP --out out 2>err | head -n 1", ""),
        ("$SWEEP --out out 2>&1 >/dev/null | true", ""),
        ("$SWEEP --out out >&- 2>&- <&-", ""),
        ("$SWEEP --out out >/dev/full", "stdout: No space left on device\n"),
    ],
)
def test_a_reader_that_has_gone_is_no_failure(line: str, words: str, plain: Path, tmp_path: Path):
    done = shell(line, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(words)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "err").exists() or "rror" not in (tmp_path / "err").read_text()
    assert_same(tmp_path / "out", plain)


def test_what_cannot_work_is_told_in_one_line(tmp_path: Path):
    cases = [
        ("$SWEEP", {"JAX_NUM_CPU_DEVICES": "two"}, ('"two"', "jax_num_cpu_devices")),
        ("$SWEEP", {"JAX_NUM_CPU_DEVICES": "0"}, ("JAX_NUM_CPU_DEVICES=0",)),
        ("$SWEEP", {"JAX_ENABLE_X64": "perhaps"}, ("perhaps",)),
        ("$SWEEP", {"JAX_PLATFORMS": "cuda"}, ("JAX_PLATFORMS=cuda", "legal: ")),
        ("$SWEEP", {"XLA_FLAGS": "--nonsense"}, ("XLA_FLAGS", "--nonsense")),
        ("mkdir gone && cd gone && rmdir ../gone && $SWEEP", {}, ("working directory",)),
    ]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda case: shell(case[0], tmp_path, **case[1]), cases))
    for (_, _, words), done in zip(cases, runs, strict=True):
        assert_refused(done, *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_the_way_to_go_on_is_told(number: signal.Signals, tmp_path: Path):
    process = start(tmp_path / "out", "--seeds", "6400")
    wait_for_a_unit(tmp_path / "out", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    resume = f"--out {tmp_path / 'out'} --resume"
    assert errors == f"interrupted; to continue, run the same command with {resume}\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"units", "results.parquet"}


def test_trainings_round_as_ever_whatever_jax_is_set_to(result: StudyResult):
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
        jax.default_prng_impl("rbg"),
        jax.default_matmul_precision("bfloat16"),
    ):
        other = run()
    pd.testing.assert_frame_equal(other.rows, result.rows)
    jax.tree.map(np.testing.assert_array_equal, other.agents, result.agents)


def test_results_stand_where_a_figure_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: object) -> None:
        raise RuntimeError("no font\nat all")

    for name in ("study.sweep.sweep_figure", "report.figures.convergence_figure"):
        monkeypatch.setattr(f"amco_jax.{name}", broken)
    run_study(Sweep("deadline", values=[0.5], methods=["local"], seeds=1, scenario=TINY), tmp_path / "sweep")
    run_study(
        Comparison(["local"], seeds=1, episodes=1, last=1, scenario=TINY, physics=["unified"]),
        tmp_path / "compare",
    )
    for name in ("sweep", "compare"):
        assert (tmp_path / name / "manifest.json").exists()
        assert not list((tmp_path / name).glob("*.p[nd][gf]"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{name} could not be drawn and is left out of the results: no font"
        for name in ("makespan", "miss_rate", "goodput_per_s", "response_mean_s", "convergence-unified")
    ]


def test_a_directory_is_one_run_s_alone(tmp_path: Path):
    with (
        Output(tmp_path / "out"),
        pytest.raises(InputError, match=r"another process is writing to .*out; legal: "),
    ):
        run_study(
            Sweep("deadline", values=[0.5], methods=["local"], seeds=1, scenario=TINY), tmp_path / "out"
        )
    run_study(Sweep("deadline", values=[0.5], methods=["local"], seeds=1, scenario=TINY), tmp_path / "out")


def test_new_directories_are_each_one_s_own(tmp_path: Path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_directory(tmp_path / "results" / "sweep-1"), range(16)))
    assert {path.name for path in made} == {"sweep-1", *(f"sweep-1-{n}" for n in range(2, 17))}


def test_runs_without_out_get_directories_of_their_own_and_leave_none_behind(tmp_path: Path):
    clock = time.strftime("%Y")
    assert_refused(shell("$SWEEP --seeds 0", tmp_path), "seeds: 0")
    assert not any(tmp_path.iterdir())
    done = shell("$SWEEP --quiet & other=$!; $SWEEP --quiet && wait $other", tmp_path)
    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "results").iterdir())
    assert len(made) == 2
    assert all(
        path.name.startswith(f"deadline-{clock}") and (path / "manifest.json").exists() for path in made
    )
