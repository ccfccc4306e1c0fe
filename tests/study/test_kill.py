"""Commands whose process is killed at random moments, and several processes on one directory."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.kills import (
    KILLS,
    PATIENCE,
    SmallDisk,
    assert_complete,
    ended_well,
    log,
    newest_checkpoint,
    seconds_of_units,
    some_commands,
    start,
    start_commands,
    tiny_paper,
    wait_for_a_unit,
    wait_for_units,
    was_cut_short,
    words_of,
)
from helpers.tiny_training import Script

from amco_jax.study import reproduce
from amco_jax.study.output import Output


@pytest.fixture(scope="module")
def whole_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same long training, undisturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ended_well(start(out, training=True))
    return out


def test_killed_again_and_again_it_ends_as_if_undisturbed(whole: Path, tmp_path: Path):
    rng, out, kills = random.Random(0), tmp_path / "out", 0
    for _ in range(3 * KILLS):
        process = start(out, "--resume")
        before = len(log(out))
        try:
            wait_for_a_unit(out, process, after=before + rng.randrange(8))
        except AssertionError:
            # It came to the end: begin another one.
            ended_well(process)
            assert_complete(out, whole)
            out = tmp_path / f"out-{kills}-{time.monotonic_ns()}"
            continue
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.communicate()
        *_, pid, event, unit = log(out)[-1]
        if event == "started" and was_cut_short(out, int(pid), unit):
            kills += 1
            assert not (out / "manifest.json").exists()
        if kills == KILLS:
            break
    assert kills == KILLS
    ended_well(start(out, "--resume"))
    assert_complete(out, whole)


def test_a_training_killed_within_its_unit_goes_on_from_its_checkpoint(whole_training: Path, tmp_path: Path):
    out, rng, began_at = tmp_path / "out", random.Random(1), [-1]
    for _ in range(KILLS):
        process, before = start(out, "--resume", training=True), newest_checkpoint(out)
        while newest_checkpoint(out) <= before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        process.kill()
        _, errors = process.communicate()
        began_at.append(int(errors.split()[0]))
        *_, pid, _, unit = log(out)[-1]
        assert was_cut_short(out, int(pid), unit)
    ended_well(start(out, "--resume", training=True))
    assert_complete(out, whole_training)
    assert all(one < next_ for one, next_ in itertools.pairwise(began_at))


@pytest.mark.parametrize("training", [False, True])
def test_two_processes_on_one_directory_commit_each_unit_once(
    training: bool, whole: Path, whole_training: Path, tmp_path: Path
):
    out = tmp_path / "out"
    both = [start(out, "--resume", training=training) for _ in range(2)]
    for process in both:
        ended_well(process)
    assert_complete(out, whole_training if training else whole)


@pytest.mark.parametrize(("training", "size"), [(False, "300k"), (True, "150k")])
def test_a_full_disk_is_told_in_one_line_and_resumed_from(
    training: bool, size: str, whole: Path, whole_training: Path, tmp_path: Path
):
    home = tmp_path / "disk"
    if shutil.which("unshare") is None:
        pytest.skip("no namespaces, which Linux has; test_store has a failing write that needs none")
    home.mkdir()
    with SmallDisk(home, size) as disk:
        if not disk.mounted:
            pytest.skip("no right to a namespace; test_store has a failing write that needs none")
        process = start(home / "out", training=training, within=disk.within)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2, errors
        *calls, line = errors.splitlines()
        assert line.startswith("error: ")
        assert "No space left on device" in line
        assert all(call.isdigit() for call in calls)
        assert training or list((disk.seen / "out" / "units").glob("*.sha256"))
        disk.grow("50m")
        ended_well(start(home / "out", "--resume", training=training, within=disk.within))
        assert_complete(disk.seen / "out", whole_training if training else whole)


def test_every_command_that_is_stopped_ends_as_if_undisturbed(
    script: Script, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C, then SIGKILL, at random moments of its units, and each time the same command again."""
    commands = some_commands("train", "tune")
    monkeypatch.setattr(reproduce, "studies_of", tiny_paper)
    given = {name: [finished] if name == "evaluate" else [] for name in commands}
    for name in commands:
        code, _, errors = script(name, *words_of(name, tmp_path / name / "whole", *given[name]))
        assert code == 0, errors

    def words(name: str) -> list[str]:
        resumes = [] if name == "reproduce" else ["--resume"]  # which that one always does
        return words_of(name, tmp_path / name / "out", *given[name], *resumes)

    def stop(name: str) -> int:
        whole, out, rng = tmp_path / name / "whole", tmp_path / name / "out", random.Random(name)
        stopped = 0
        for number in [signal.SIGINT, *[signal.SIGKILL] * max(KILLS // 2, 1)]:
            process = start_commands([name, *words(name)])
            wait_for_units(out, process, before=len(log(out)))
            time.sleep(rng.random() * seconds_of_units(whole))
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE)
            stopped += process.returncode != 0  # else it had come to its end
            if (process.returncode, errors) == (-signal.SIGINT, ""):  # as the interpreter was closing down
                assert_complete(out, whole)
            elif number == signal.SIGINT and process.returncode:
                resume = "" if name == "reproduce" else " --resume"
                line = f"interrupted; to continue, run the same command with --out {out}{resume}\n"
                assert (process.returncode, errors) == (130, line)
        return stopped

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(stop, commands)) >= len(commands)
    for name in commands:
        code, _, errors = script(name, *words(name))
        assert code == 0, errors
        assert_complete(tmp_path / name / "out", tmp_path / name / "whole")
        assert not list((tmp_path / name / "out").rglob(".unfinished-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_benchmarks_that_are_stopped_leave_nothing_behind(number: signal.Signals, tmp_path: Path):
    """They have no units, as a speed is measured in one go: the same command begins anew."""
    out = tmp_path / "out"
    line = ["bench", "--methods", "local", "--seeds", "1", "--repeats", "1", "--quiet", "--out", str(out)]
    process = start_commands([*line, "--set", "num_servers=2", "num_slots=2", "num_tasks=3"])
    while not list(out.glob(".unfinished-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    time.sleep(random.Random(number).random() * 2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    if number == signal.SIGINT:
        assert (process.returncode, errors) == (130, "interrupted\n")
    assert not list(out.glob("[!.]*"))
    with Output(out):
        assert len(list(out.iterdir())) == 1  # this one's own
