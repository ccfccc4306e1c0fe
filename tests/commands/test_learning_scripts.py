"""The scripts that train, evaluate, compare and tune."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import jax
import pandas as pd
import pytest
from helpers.command_lines import command
from helpers.tiny_training import EPISODES, FILES, LEARN_QUICK, QUICK, Script, assert_same_files


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """The same training as a user runs it, in a process of its own with another number of devices."""
    out = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "3" if jax.local_device_count() == 2 else "2")
        line = ["--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--episodes", EPISODES, "--out", out]
        return out, command("train", *line)


def test_a_script_trains(elsewhere: tuple[Path, CompletedProcess[str]], finished: Path):
    out, process = elsewhere
    assert process.returncode == 0, process.stderr
    assert "drlcoedge" in process.stdout
    assert "eta" in process.stderr
    assert {p.name for p in out.iterdir()} == FILES
    here, there = (json.loads((home / "manifest.json").read_text()) for home in (finished, out))
    assert there["command"][0].endswith("train.py")
    assert there["device"]["count"] != here["device"]["count"]
    assert all(here[key] == there[key] for key in ("settings", "scenario", "episodes", "num_seeds"))


def test_a_script_warns_of_nothing(elsewhere: tuple[Path, CompletedProcess[str]]):
    assert "warn" not in elsewhere[1].stderr.lower()


def test_number_of_devices_changes_no_bit(elsewhere: tuple[Path, CompletedProcess[str]], finished: Path):
    """From two devices on; with a single one, XLA compiles matrix products that round otherwise."""
    if jax.local_device_count() > 1:
        assert_same_files(elsewhere[0], finished)
    else:
        ours, theirs = (pd.read_parquet(out / "curves.parquet") for out in (elsewhere[0], finished))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-3)


def test_scripts_evaluate_what_was_trained(script: Script, finished: Path, tmp_path: Path):
    line = ["evaluate", finished, "--methods", "local", "--set", "arrival_prob=0.9", "--episodes", 2]
    assert script(*line, "--quiet", "--out", tmp_path / "quiet") == (0, "", "")
    code, shown, _ = script(*line, "--out", tmp_path / "told")
    assert code == 0
    assert "drlcoedge" in shown
    manifest = json.loads((tmp_path / "told" / "manifest.json").read_text())
    assert (manifest["scenario"]["arrival_prob"], manifest["scenario"]["deadline"]) == (0.9, 1.0)
    quiet, told = (pd.read_parquet(tmp_path / name / "results.parquet") for name in ("quiet", "told"))
    pd.testing.assert_frame_equal(quiet, told, check_exact=True)


def test_scripts_compare_and_tune(script: Script, tmp_path: Path):
    code, shown, _ = script(
        "compare",
        "--methods",
        "local",
        "all-servers",
        *QUICK,
        "--episodes",
        3,
        "--last",
        2,
        "--out",
        tmp_path / "a",
    )
    assert code == 0
    assert "reduction by local" in shown
    assert (tmp_path / "a" / "convergence-unified.pdf").exists()
    code, shown, _ = script(
        "tune", "--method", "drlcoedge", *LEARN_QUICK, "--vary", "discount=0,0.9", *QUICK,
        "--episodes", EPISODES, "--reference", "local", "--out", tmp_path / "b",
    )  # fmt: skip
    assert code == 0
    assert "gap to local in %, by tuning seed" in shown
    summary = pd.read_csv(tmp_path / "b" / "summary.csv")
    assert len(summary) == 2
    best = f"discount={summary.loc[summary['gap_mean'].idxmin(), 'discount']:g}"
    last = shown.splitlines()[-1]
    assert last.startswith(f"Smallest mean gap on the tuning seeds: {best}. To measure it on fresh seeds")
    assert f"train.py --method drlcoedge --learn {' '.join(map(str, LEARN_QUICK[1:]))} {best} " in last


def test_the_last_line_of_a_search_measures_what_it_has_chosen(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "mine.py").write_text(
        "from amco_jax import trained_method\nfrom amco_jax.agents.actions import partners\n"
        "METHOD = trained_method('mine', partners, hidden=8)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ["--method", "mine:METHOD+hecwa", "--vary", "discount=0.5", "--seeds", 2, "--episodes", 2]
    line += [
        "--reference",
        "local",
        "--warmup",
        1,
        "--set",
        "num_servers=2",
        "capacity=[3, 12]",
        "num_slots=6",
    ]
    code, shown, _ = script("tune", *line)
    assert code == 0
    train, evaluate = re.findall(r"(?:train|evaluate)\.py [^\n]*?(?=, then|$)", shown.splitlines()[-1])
    train, evaluate = shlex.split(train), shlex.split(evaluate)
    assert train[-1] == evaluate[1] == "DIR"
    assert script("train", *train[1:], "--seeds", 2)[0] == 0
    assert script("evaluate", *evaluate[1:], "--methods", "local", "--out", "out")[0] == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert (manifest["method"], manifest["settings"]["discount"]) == ("mine+hecwa", 0.5)
    for scenario in (manifest["scenario"], manifest["trained"]["scenario"]):
        names = ("num_servers", "capacity", "num_slots", "warmup")
        assert [scenario[name] for name in names] == [2, [3, 12], 6, 1]


def test_an_interrupted_script_says_so_and_can_go_on(
    script: Script, interrupt: Callable[[int], None], finished: Path, tmp_path: Path
):
    line = ["train", "--method", "drlcoedge", *LEARN_QUICK, *QUICK, "--episodes", EPISODES, "--out", tmp_path]
    line += ["--quiet"]
    interrupt(0)
    assert script(*line) == (
        130,
        "",
        f"interrupted; to continue, run the same command with --out {tmp_path} --resume\n",
    )
    interrupt(-1)
    code, _, error = script(*line)
    assert code == 2
    assert "unfinished" in error
    assert script(*line, "--resume") == (0, "", "")
    assert_same_files(tmp_path, finished)
    interrupt(0)
    shutil.rmtree(tmp_path / "agents")
    code, _, error = script(*line, "--overwrite")
    assert (code, error.endswith(f"--out {tmp_path} --resume and without --overwrite\n")) == (130, True)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("train", ["--seeds", 0], ["seeds: 0"]),
        ("train", ["--episodes", 0], ["episodes: 0", "from 1"]),
        ("train", ["--physics", "x"], ["physics: 'x'", "published"]),
        ("train", ["--allocator", "x"], ["allocator: 'x'", "hecwa"]),
        ("train", ["--learn", "nonsense=1"], ["settings", "nonsense", "batch_size"]),
        ("train", ["--learn", "discount"], ["learn: 'discount'", "field=value"]),
        ("train", ["--learn", "discount=2"], ["discount: 2"]),
        ("train", ["--learn", "hidden=x"], ["hidden: 'x'"]),
        ("train", ["--learn", "discount=0", "discount=1"], ["discount is given twice"]),
        ("train", ["--set", "num_servers=13"], ["num_servers: 13", "12"]),
        (
            "train",
            ["--method", "optimal"],
            ["method: optimal is a rule", "amcoedge", "smcoedge", "drlcoedge"],
        ),
        ("train", ["--out", "/dev/null/x"], ["/dev/null/x"]),
        ("train", ["--resume"], ["out: none", "a directory"]),
        ("compare", ["--shard", "0/2"], ["out: none", "a directory"]),
        ("evaluate", [], ["Missing", "PATH"]),
        ("evaluate", ["/nonexistent"], ["/nonexistent", "train"]),
        ("compare", ["--methods", "best"], ["method: 'best'"]),
        ("compare", ["--last", 1000], ["last: 1000"]),
        ("tune", ["--vary", "nonsense=1"], ["nonsense"]),
        ("tune", ["--vary", "discount"], ["vary: 'discount'"]),
        ("tune", ["--learn", "discount=0", "--vary", "discount=0.5"], ["vary: discount; legal", "--learn"]),
        ("tune", ["--method", "optimal"], ["optimal is a rule"]),
        ("tune", ["--reference", "amcoedge"], ["amcoedge is trained"]),
    ],
)
def test_scripts_refuse_bad_input_in_one_line(
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    arguments: list,
    words: list[str],
):
    monkeypatch.chdir(tmp_path)
    script.assert_refused(words, name, *arguments)
    assert not any(tmp_path.iterdir())
