"""The command lines, as a user runs them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.command_lines import command
from helpers.paths import GOLDEN, ROOT
from helpers.tiny_training import Script

from amco_jax import Comparison, Evaluation, Sensitivity, Study, Sweep, Training, Tuning

QUICK = ["--set", "num_servers=2", "num_tasks=5", "num_slots=4", "--seeds", "8"]


def test_import_is_quick_and_touches_no_backend():
    program = (
        "import time; start = time.perf_counter(); import amco_jax; seconds = time.perf_counter() - start;"
        "assert seconds < 2, seconds; import sys; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_help_imports_nothing_slow_that_only_some_studies_need():
    program = (
        "import sys; from amco_jax.commands import start; sys.argv = ['', '--help']\n"
        "try: start('amco_jax.commands.sweep')\n"
        "except SystemExit: pass\n"
        "slow = {'scipy.special', 'scipy.stats', 'matplotlib', 'orbax', 'ray', 'torch'}\n"
        "assert not slow & {*sys.modules}, slow & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("name", "study"),
    [
        ("sweep", Sweep),
        ("train", Training),
        ("compare", Comparison),
        ("tune", Tuning),
        ("evaluate", Evaluation),
        ("sensitivity", Sensitivity),
    ],
)
def test_commands_and_studies_have_the_same_defaults(name: str, study: type[Study]):
    arguments = importlib.import_module(f"amco_jax.commands.{name}").Arguments
    of_command = {field.name: field.default for field in dataclasses.fields(arguments)}
    of_study = {
        field.name: field.default
        for field in dataclasses.fields(study)
        if field.default is not dataclasses.MISSING and field.name in of_command
    }
    del of_study["scenario"]  # of which a command takes the name
    assert {"metrics", "seeds", "physics"} <= of_study.keys()
    assert of_study == {field: of_command[field] for field in of_study}


def test_reproduce_always_resumes(script, tmp_path):
    words = ["error: resume: false; legal: true"]
    script.assert_refused(words, "reproduce", "--no-resume", "--out", tmp_path / "out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--format", "md"], ["--baseline", "local"], ["--published-csv"]])
def test_options_of_reports_of_studies_are_refused_for_other_pages(
    words: list[str], script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("amco_jax.commands.report.page_writer", lambda directory: lambda run, out: out)
    named = words[0].removeprefix("--").replace("-", "_")
    script.assert_refused([named, "legal for studies"], "report", tmp_path, *words)
    assert script("report", tmp_path) == (0, f"{tmp_path / 'report'}\n", "")


def test_sweep_writes_tables_figures_and_manifest(tmp_path):
    out = tmp_path / "out"
    methods = [
        "--methods",
        "optimal-admission",
        "local",
        "drlcoedge",
        "--episodes",
        "2",
        "--trained-seeds",
        "3",
    ]
    run = command("sweep", "--param", "deadline", "--values", "0.1", "0.5", *methods, *QUICK, "--out", out)
    assert run.returncode == 0, run.stderr
    assert "greedy optimum with admission" in " ".join(run.stdout.split())
    assert "trained at each value with 3 seeds: drlcoedge for 2 episodes" in " ".join(run.stdout.split())
    assert "eta" in run.stderr
    assert len(pd.read_parquet(out / "results.parquet")) == 2 * (8 + 8 + 3)
    assert json.loads((out / "manifest.json").read_text())["command"][0].endswith("sweep.py")
    assert (out / "makespan.pdf").read_bytes().startswith(b"%PDF")


def test_sweep_takes_a_scenario_file_and_a_policy_of_the_user(tmp_path):
    (tmp_path / "fleet.toml").write_text("num_servers = 2\ncapacity = [5, 9]\nlink_rate = [[1, 2], [3, 4]]\n")
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\nfrom amco_jax import Method, per_task\n"
        "METHOD = Method('last', per_task(lambda view: jnp.arange(view.wait.size) == view.wait.size - 1))\n"
    )
    run = command(
        "sweep", "--param", "link_rate_scale", "--values", 1, "--scenario", "fleet.toml", *QUICK,
        "--values=2", "--methods", "mine:METHOD", "--set", "deadline=2", "--methods", "local",
        "--set", "order=turns", "--out", "elsewhere", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    results = pd.read_parquet(tmp_path / "out" / "results.parquet")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())  # lists may be given in parts
    assert [manifest["scenario"][name] for name in ("deadline", "order")] == [2, "turns"]
    assert manifest["values"] == [1, 2]
    assert set(results["method"]) == {"last", "local"}
    assert not np.any(results.query("method == 'last'")["utilisation_0"])


def test_quiet_is_quiet(tmp_path):
    run = command(
        "sweep",
        "--param",
        "deadline",
        "--values",
        1,
        *QUICK,
        "--methods",
        "local",
        "--quiet",
        "--out",
        tmp_path,
    )
    assert run.returncode == 0
    assert run.stdout == run.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--param"]),
        (["--param", "speed"], ["param: 'speed'", "arrival_prob"]),
        (["--param", "deadline", "--values", "nan"], ["deadline: nan"]),
        (["--param", "deadline", "--values"], ["values"]),
        (["--param", "deadline", "--methods"], ["methods"]),
        (["--param", "deadline", "--methods", "nowhere:METHOD"], ["nowhere:METHOD"]),
        (["--param", "deadline", "--seeds", "many"], ["--seeds", "many"]),
        (["--param", "deadline", "--set", "num_servers=3", "capacity=1-2"], ["capacity", "(3,)"]),
        (["--param", "deadline", "--set", "num_tasks=3 # 4"], ["num_tasks: '3 # 4'"]),
        (["--param", "deadline", "--set", "burst_slots=3"], ["set: burst_slots means nothing", "= bursty"]),
        (["--param", "deadline", "--trace", ""], ["trace.file: ''; legal: the path of a file"]),
        (["--param", "deadline", "--scenario", "nowhere.toml"], ["nowhere.toml"]),
        (["--param", "deadline", "--out", "/dev/null/x"], ["/dev/null/x"]),
    ],
)
def test_sweep_refuses_bad_input_in_one_line(arguments, words, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.assert_refused(words, "sweep", *arguments)
    assert not any(tmp_path.iterdir())


def test_replay_reproduces_a_recording(tmp_path):
    out = tmp_path / "out.npz"
    run = command(
        "replay", GOLDEN / "randcoedge.npz", "--out", out, "--physics", "published", "--precision", "float64"
    )
    assert run.returncode == 0, run.stderr
    recorded, replayed = np.load(GOLDEN / "randcoedge.npz"), np.load(out)
    for name in (
        "fraction",
        "makespan_s",
        "missed",
        "reward",
        "backlog_gcycles",
        "slot_load_gcycles",
        "link_delay_s",
    ):
        assert replayed[name].shape == recorded[name].shape
        np.testing.assert_allclose(replayed[name], recorded[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_replay_refuses_bad_files_in_one_line(script, tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 junk")
    np.savez(tmp_path / "pickled.npz", task_mbit=np.array([object()]))
    np.savez(tmp_path / "empty.npz")
    np.save(tmp_path / "array.npz", np.zeros(3))
    for name in ("junk.npz", "pickled.npz", "empty.npz", "array.npz.npy", "missing.npz"):
        script.assert_refused(["recording"], "replay", tmp_path / name, "--out", tmp_path / "out")
    good = GOLDEN / "optimal_overload.npz"
    script.assert_refused(["nowhere"], "replay", good, "--out", tmp_path / "nowhere" / "out")
    for option, value, word in (
        ("--allocator", "x", "allocator: 'x'"),
        ("--precision", "half", "precision"),
        ("--seed", -1, "seed: -1"),
    ):
        script.assert_refused([word], "replay", good, "--out", tmp_path / "out", option, value)
    assert not (tmp_path / "out").exists()
