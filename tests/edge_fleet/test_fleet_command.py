"""The command: runs that are killed and resumed, workers of their own, profiles, and bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from helpers.fleets import ROUNDS, TWO
from helpers.paths import ROOT
from helpers.tiny_training import LEARN

from amco_jax import Training, get_method, load_scenario, run_study
from amco_jax.commands import start
from amco_jax.results.saved import open_run
from amco_jax.service.latency import find_service, read_table
from edge_fleet.journal import FILE, read_journal
from edge_fleet.results import Committed

SMALL = [
    "--fleet",
    "size=64",
    "speed=30",
    "patience=10",
    "--set",
    "num_slots=2",
    "num_tasks=3",
    "arrival_prob=0.7",
]


def fleet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object):
    """Run the command in this process, and return its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["fleet.py", *map(str, words)])
    code = 0
    try:
        start("edge_fleet.commands.fleet")
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def process(*words: object) -> subprocess.Popen[str]:
    """Run the command in another process, which has a group of its own as in a terminal."""
    line = [sys.executable, str(ROOT / "scripts" / "fleet.py"), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
        process_group=0,
    )  # fmt: skip


def wait_for_a_result(scheduler: subprocess.Popen[str], out: Path, moment: random.Random) -> None:
    """Wait until a moment after the next result of a run."""

    def results() -> int:
        return (out / FILE).read_text().count('"kind":"result"') if (out / FILE).exists() else 0

    before, deadline = results(), time.monotonic() + 300
    while results() == before:
        assert scheduler.poll() is None, scheduler.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(moment.uniform(0, 0.15))  # short, as little is left to do in a run that was resumed


def kill_after_a_result(scheduler: subprocess.Popen[str], out: Path, moment: random.Random) -> Committed:
    """Kill a run a moment after its first result, and return what is on disk then."""
    wait_for_a_result(scheduler, out, moment)
    scheduler.kill()
    scheduler.communicate()
    before = Committed(read_journal(out))
    assert before.results
    return before


def cut(before: Committed) -> set[int]:
    """The requests of episode 0 that were under way."""
    begun = {request: len(decisions[0]["images"]) for (_, request), decisions in before.decisions.items()}
    return {request for request, count in begun.items() if len(before.images(0, request)) < count}


def assert_each_image_once(out: Path, before: Committed) -> pd.DataFrame:
    """Assert that a resumed run has every image exactly once, and has kept what was on disk; its images."""
    saved = open_run(out, ["fleet"])
    requests, images = saved.table("requests.parquet"), saved.table("images.parquet")
    after = Committed(read_journal(out))
    assert before.results.items() <= after.results.items()
    assert after.repeated == 0
    asked = zip(requests["request"], requests["images"], strict=True)
    wanted = [(request, image) for request, count in asked for image in range(count)]
    assert sorted(zip(images["request"], images["image"], strict=True)) == sorted(wanted)
    assert {path.name for path in (out / "images").iterdir()} == {Path(name).name for name in images["file"]}
    return images


def test_overwriting_and_resuming_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    code, _, error = fleet(capsys, monkeypatch, "run", *SMALL, "--out", tmp_path, "--overwrite", "--resume")
    assert code == 2
    assert error.startswith("error: overwrite: true; legal: without resume")
    assert error.count("\n") == 1


def test_a_run_that_is_killed_and_interrupted_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    words = ["run", *SMALL, "--seed", "3", "--out", out]
    killed, moment = process(*words, "--quiet"), random.Random(0)
    before = kill_after_a_result(killed, out, moment)
    disturbed = cut(before)
    (out / "images" / f".unfinished-{socket.gethostname()}-{killed.pid}-x.png").touch()

    code, _, error = fleet(capsys, monkeypatch, *words)
    assert (code, error) == (
        2,
        f"error: out: {out} holds an unfinished fleet; legal: --resume, --overwrite\n",
    )
    code, _, error = fleet(capsys, monkeypatch, *words, "--resume", "--seed", "4")
    assert code == 2
    assert "another plan" in error

    stopped = process(*words, "--quiet", "--resume")
    wait_for_a_result(stopped, out, moment)
    others = psutil.Process(stopped.pid).children(recursive=True)
    assert len(others) == 6  # five workers, and the process that watches over them
    assert all(os.getpgid(each.pid) != stopped.pid for each in others)  # Ctrl-C does not reach them
    os.killpg(stopped.pid, signal.SIGINT)
    _, error = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + signal.SIGINT
    assert error == f"interrupted; to continue, run the same command with --out {out} --resume\n"
    _, alive = psutil.wait_procs(others, timeout=10)
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)
    before = Committed(read_journal(out))
    disturbed |= cut(before)

    code, shown, error = fleet(capsys, monkeypatch, *words, "--resume")
    assert code == 0, error
    assert "simulator alone" in shown

    saved = open_run(out, ["fleet"])
    requests, images = saved.table("requests.parquet"), saved.table("images.parquet")
    assert_each_image_once(out, before)
    found = set(requests.loc[requests["disturbed"], "request"])
    assert disturbed <= found  # and those that have waited longer for them
    stopped_at = [r["time"] for r in read_journal(out) if r["kind"] == "start" and r["time"] > 0]
    assert len(stopped_at) == 2
    assert not np.any(
        requests["disturbed"] & (requests["arrival_s"] + requests["measured_s"] < stopped_at[0])
    )
    assert np.all(requests["measured_s"] > 0)
    assert np.all(np.isfinite(images[["psnr_db", "ssim"]]))
    assert saved.manifest["facts"]["images"] == len(images) == len(list((out / "images").glob("*.png")))
    assert set(pd.read_csv(out / "summary.csv")["measure"]) == {"mean_ratio", "median_error", "p95_error"}

    monkeypatch.setattr(sys, "argv", ["report.py", str(out)])
    start("amco_jax.commands.report")
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert page.count("data:image/png;base64,") == min(12, len(images))
    assert page.count("<svg") == 3
    assert f"{len(requests)} requests, {len(images)} images, {len(found)} requests disturbed" in " ".join(
        page.split()
    )


def test_a_worker_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert fleet(capsys, monkeypatch, "keys", tmp_path / "keys")[0] == 0
    keys = ["--keys", tmp_path / "keys"]
    worker = process("worker", "--listen", "127.0.0.1:0", "--name", "mine", *keys)
    try:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line.startswith("mine listens on 127.0.0.1:"), worker.communicate()
        address = line.split()[-1]
        _, shown, _ = fleet(capsys, monkeypatch, "status", "--workers", address, *keys)
        assert "mine" in shown
        assert "idle" in shown
        _, shown, _ = fleet(capsys, monkeypatch, "status", "--workers", address)
        assert f"{address}: no answer: " in shown
        worker.send_signal(signal.SIGTERM)
        _, error = worker.communicate(timeout=60)
        assert (worker.returncode, error) == (128 + signal.SIGTERM, "interrupted\n")
    finally:
        worker.kill()
        worker.wait()


def test_a_scheduler_is_killed_while_its_workers_live_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    scenario, moment = tmp_path / "two.toml", random.Random(os.environ.get("AMCO_JAX_FLEET_SEED", "0"))
    scenario.write_text(TWO)
    workers = [process("worker", "--listen", "127.0.0.1:0", "--name", name) for name in ("one", "two")]
    try:
        addresses = []
        for worker in workers:
            assert worker.stdout is not None
            addresses.append(worker.stdout.readline().split()[-1])
        for number in range(ROUNDS):
            out = tmp_path / str(number)
            words = ["run", "--scenario", scenario, "--fleet", "size=64", "speed=30", "patience=10"]
            words += ["--workers", *addresses, "--seed", number, "--out", out]
            before = kill_after_a_result(process(*words, "--quiet"), out, moment)
            code, _, error = fleet(capsys, monkeypatch, *words, "--resume", "--quiet")
            assert code == 0, error
            images = assert_each_image_once(out, before)
            assert len(images) > len(before.results)  # it was killed before its end
            assert set(images["worker"]) <= {"one", "two"}
        assert all(worker.poll() is None for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


KILLED = """
import os, signal, sys
from amco_jax.commands import start
from edge_fleet.journal import Journal
write, results = Journal.write, 0

def killed(self, record):
    global results
    write(self, record)
    results += record["kind"] == "result"
    if results == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.write = killed
start("edge_fleet.commands.fleet")
"""


def test_a_scheduler_is_killed_around_the_commit_of_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    scenario, out = tmp_path / "two.toml", tmp_path / "run"
    scenario.write_text(TWO)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = ["run", "--scenario", str(scenario), "--out", str(out), "--quiet"]
    words += ["--fleet", "size=64", "speed=60", "patience=10"]
    line = [sys.executable, "-c", KILLED, *words]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # The second result is on disk, and nobody has heard of it. Of the first one, let only the image be there.
    records = (out / FILE).read_text().splitlines(keepends=True)
    first = next(record for record in records if '"kind":"result"' in record)
    (out / FILE).write_text("".join(record for record in records if record != first))
    assert (out / json.loads(first)["file"]).exists()
    before = Committed(read_journal(out))
    assert len(before.results) == 1
    code, _, error = fleet(capsys, monkeypatch, *words, "--resume")
    assert code == 0, error
    assert len(assert_each_image_once(out, before)) > 2


def test_a_profile_is_a_latency_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    table = tmp_path / "fleet.csv"
    words = ["--fleet", "size=64", "speed=30", "--steps", 5, 20, "--repeats", 2, "--out", table]
    code, shown, error = fleet(capsys, monkeypatch, "profile", *words)
    assert code == 0, error
    assert f'tables = ["{table}"]' in shown
    for number, seconds in enumerate([3.0, 3.0, 3.0, 20.0, 20.0]):  # of 20 steps, in the table of the preset
        service = find_service(read_table(table), device=f"worker {number}")
        # A result that is taken late shortens the time to the next one, so this is a loose limit.
        assert service.fits[1].seconds(20) > 0.5 * seconds
    scenario = tmp_path / "mine.toml"
    devices = json.dumps([f"worker {number}" for number in range(5)])
    scenario.write_text(f'preset = "jetson-sd15"\n[service]\ndevices = {devices}\ntables = ["fleet.csv"]\n')
    assert load_scenario(scenario).capacities[3] < load_scenario(scenario).capacities[0]


def test_trained_agents_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    scenario, agents, out = tmp_path / "two.toml", tmp_path / "agents", tmp_path / "run"
    scenario.write_text(TWO)
    fields = {"timing": "continuous", "num_slots": 2}
    method = get_method("drlcoedge").with_settings(**LEARN)
    run_study(Training(method, seeds=2, episodes=2, scenario=load_scenario(scenario, fields)), agents)
    words = ["run", "--scenario", scenario, "--agents", agents, "--agent-seed", 1, "--episodes", 2]
    words += ["--fleet", "size=64", "speed=100", "patience=10", "--out", out]
    code, shown, error = fleet(capsys, monkeypatch, *words)
    assert code == 0, error
    assert "simulator alone" in shown
    saved = open_run(out, ["fleet"])
    assert saved.manifest["method"] == "drlcoedge"
    assert saved.manifest["agents"].endswith("/1")
    assert saved.manifest["episodes"] == [0, 3]  # of which they have not seen the second one
    requests, images = saved.table("requests.parquet"), saved.table("images.parquet")
    assert set(requests["episode"]) == {0, 3}
    assert len(images) == requests["images"].sum() > 4


@pytest.mark.parametrize(
    ("words", "reasons"),
    [
        (["run", "--scenario", "default"], ["service: none", "jetson-sd15"]),
        (["run", "--fleet", "speed=0"], ["speed: 0", "0.001"]),
        (["run", "--fleet", "heartbeat=5"], ["heartbeat: 5", "from 0.05 to 3.33"]),
        (["run", "--fleet", "spead=2"], ["unknown field 'spead'", "speed"]),
        (["run", "--fleet", "images=nowhere"], ["images: nowhere", "directory"]),
        (["run", "--method", "amcoedge"], ["amcoedge is trained", "--agents"]),
        (["run", "--method", "planner"], ["planner knows all arrivals in advance"]),
        (["run", "--workers", "127.0.0.1:1"], ["workers: 1", "legal: 5"]),
        (["run", "--workers", "10.0.0.1:1"], ["10.0.0.1:1", "--keys"]),
        (["run", "--ray", "auto"], ["ray", "--keys"]),
        (["run", "--episodes", "0"], ["episodes: 0"]),
        (["run", "--warmup", "2"], ["--warmup"]),
        (["run", "--set", "warmup=auto"], ["warmup: auto", "none"]),
        (["run", "--agent-seed", "99"], ["agent_seed: 99", "--agents"]),
        (["run", "--agents", "x", "--method", "local"], ["method: local", "one of them"]),
        (["run", "--keys", "x"], ["keys: x", "--workers"]),
        (["run", "--scenario", "gpu-sd14", "--fleet", "size=2048"], ["size: 2048", "67043328 bytes"]),
        (["run", "--fleet", "size=64", "speed=0.001"], ["pace of an item", ": 20000.0; legal", "3600"]),
        (["worker", "--listen", "0.0.0.0:0"], ["0.0.0.0:0", "--keys"]),
        (["worker", "--engine", "magic"], ["engine: 'magic'", "tiny"]),
        (["worker", "--keys", "nowhere"], ["keys: nowhere", "fleet.py keys"]),
        (["status", "--workers", "nowhere"], ["address: 'nowhere'", "host:port"]),
        (["status", "--workers"], ["workers: none", "one address"]),
        (["profile", "--out", "x.txt"], ["out: x.txt", ".csv"]),
        (["profile", "--out", "/proc/x.csv"], ["out: /proc/x.csv cannot be written"]),
        (["profile", "--out", "x.csv", "--trace", "x.csv"], ["--trace"]),
        (["profile", "--out", "x.csv", "--steps"], ["steps: none", "at least one"]),
        (["profile", "--out", "x.csv", "--steps", "10", "10"], ["steps: 10 10", "each once"]),
        (["profile", "--out", "x.csv", "--fleet", "pace=false"], ["steps: 10 20", "one number"]),
        (["profile", "--out", "x.csv", "--fleet", "speed=0.001"], ["pace of an item", "3600"]),
    ],
    ids=lambda value: "-".join(value)[:40],
)
def test_bad_input_is_refused_in_one_line(
    words: list[str], reasons: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    out = ["--out", str(tmp_path / "out")] if words[0] == "run" else []
    if "--workers" in words and words[0] == "run":
        out += ["--set", "num_slots=1", "num_tasks=1", "arrival_prob=1"]
    code, shown, error = fleet(capsys, monkeypatch, *words, *out)
    assert (code, shown) == (2, ""), error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for reason in reasons:
        assert reason in error


@pytest.mark.parametrize("words", [["run", "--out", "out"], ["profile", "--out", "x.csv"]])
def test_an_engine_without_its_extra_is_told_before_anything_starts(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    code, shown, error = fleet(capsys, monkeypatch, *words, "--fleet", "engine=tiny")
    assert (code, shown) == (2, "")
    assert error.startswith("error: torch: cannot be imported (it is not installed)")
    assert error.endswith('".[sd]"\n')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [["run"], ["profile", "--out", "x.csv"], ["worker"], ["status", "--workers", "h:1"], ["keys", "k"]],
)
def test_without_its_extra_every_subcommand_says_what_to_install(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "grpc", None)
    code, shown, error = fleet(capsys, monkeypatch, *words)
    assert (code, shown) == (2, "")
    assert error.startswith("error: grpc: cannot be imported")
    assert error.endswith('".[fleet]"\n')
    assert not list(tmp_path.rglob("*.*"))
