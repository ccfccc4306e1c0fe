"""Units of work: how a sweep is cut, stopped, gone on with and shared out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.studies import carry_out

from amco_jax import (
    Comparison,
    Evaluation,
    Execution,
    InputError,
    Scenario,
    Study,
    Sweep,
    Training,
    load_run,
    run_study,
)
from amco_jax.agents.actions import partners
from amco_jax.agents.methods import Method, get_method
from amco_jax.agents.qlearning import QLearning
from amco_jax.report.studies import load_studies
from amco_jax.results.checkpoints import Journal, remove_damaged
from amco_jax.results.saved import open_run
from amco_jax.results.store import Store
from amco_jax.study import simulate as simulate_module
from amco_jax.study import trainer as trainer_module
from amco_jax.study.agents import AgentStore
from amco_jax.study.engines import Work
from amco_jax.study.run import AGENTS, UNITS
from amco_jax.study.units import Unit, run_unit, units_of

SMALL = Scenario(num_servers=2, num_tasks=4, num_slots=5, arrival_prob=0.6)
QUICK = get_method("drlcoedge").with_settings(hidden=(4,), batch_size=4, learn_after=5)
STATIONS = ["station_response_s"]
TABLES = ("summary.csv", "makespan.png", "makespan.pdf", "miss_rate.png")


def units(unit_seconds: float = 60, **changes: Any) -> list[Unit]:
    options: dict[str, Any] = {
        "param": "deadline", "values": [0.2, 0.5, 0.9], "methods": ["local", QUICK],
        "scenario": SMALL, "seeds": 150, "trained_seeds": 40, "episodes": 3,
    }  # fmt: skip
    return units_of(Sweep(**(options | changes)).cells(), unit_seconds)


def run(out: Path | None, unit_seconds: float = 1e-6, execution: Execution | None = None, **changes: Any):
    options: dict[str, Any] = {
        "values": [0.2, 0.5, 0.9], "methods": ["local", QUICK], "seeds": 150, "scenario": SMALL,
        "trained_seeds": 40, "episodes": 3,
    }  # fmt: skip
    execution = dataclasses.replace(execution or Execution(), unit_seconds=unit_seconds)
    return carry_out(Sweep, "deadline", out=out, execution=execution, **(options | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep of many units."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(out)
    return out


def assert_same_tables(one: Path, other: Path) -> None:
    for name in (*TABLES, *(f"results.parquet/{p.name}" for p in (other / "results.parquet").iterdir())):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def committed(out: Path) -> list[str]:
    return sorted(p.name for p in (out / UNITS).glob("*.sha256"))


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 1e-3, 60])
def test_units_cover_every_cell_once_in_order(seconds: float):
    found = [
        (cell.method.name, cell.labels["value"], seed)
        for unit in units(seconds)
        for cell in unit.cells
        for seed in range(cell.first_seed, cell.first_seed + cell.num_seeds)
    ]
    wanted = [
        cell
        for method, count in (("local", 150), (QUICK.name, 40))
        for cell in itertools.product([method], [0.2, 0.5, 0.9], range(count))
    ]
    assert found == wanted


def test_units_are_as_long_as_asked_and_whole_blocks():
    default = units(scenario=Scenario(), seeds=1000, trained_seeds=16, episodes=120)
    assert [len(unit.cells) for unit in default] == [3, 3]
    (first, *_, last) = units(scenario=Scenario(), values=[1.0], methods=["local"], seeds=10**6)
    assert first.cells[0].num_seeds % 64 == 0
    assert 50 < first.cells[0].num_seeds * 5 * 50 * 60 / 7e7 <= 60
    assert last.cells[0].first_seed + last.cells[0].num_seeds == 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class InOtherBlocks(QLearning):
    """A learner with blocks that do not divide those of rules."""

    seeds_per_block = 48


def test_parts_of_a_cell_find_their_agents_whatever_the_size_of_blocks(tmp_path: Path):
    settings: Any = QUICK.require_training().settings
    method = Method("mine", training=InOtherBlocks(actions=partners, settings=settings))
    run_study(Training(method, seeds=400, episodes=1, scenario=SMALL), tmp_path)

    def rows(seconds: float) -> Any:
        study = Evaluation(load_run(tmp_path, method=method), methods=[])
        return len(units_of(study.cells(), seconds)), run_study(
            study, execution=Execution(unit_seconds=seconds)
        ).rows

    (few, whole), (many, parts) = rows(60), rows(1e-6)
    assert (few, many) == (1, 2)
    pd.testing.assert_frame_equal(parts, whole)


def test_names_tell_units_apart_and_stay():
    plain = [unit.id for unit in units(1e-6)]
    assert plain == [unit.id for unit in units(1e-6)]
    assert len(set(plain)) == len(plain)
    for change in (
        {"scenario": SMALL.replace(num_tasks=5)}, {"first_seed": 1}, {"param": "slot_duration"},
    ):  # fmt: skip
        assert not set(plain) & {unit.id for unit in units(1e-6, **change)}, change
    for change in (
        {"episodes": 4}, {"physics": "published"}, {"methods": ["local", "optimal+hecwa", QUICK]},
        {"methods": ["local", QUICK.with_settings(discount=0.5)]},
    ):  # fmt: skip
        other = {unit.id for unit in units(1e-6, **change)}
        assert set(plain) & other, change  # of the rules that are the same
        assert set(plain) - other, change


def test_the_cut_changes_no_number(whole: Path, tmp_path: Path):
    run(tmp_path, unit_seconds=60)
    assert len(committed(tmp_path)) == 2 < len(committed(whole))
    one, other = (pd.read_parquet(out / "results.parquet") for out in (tmp_path, whole))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    "study",
    [
        Sweep("num_servers", [2, 3], methods=["local", "bound"], seeds=2, scenario=SMALL, metrics=STATIONS),
        Sweep("deadline", [0.5, 1], methods=["local"], seeds=2, scenario=SMALL),
        Comparison(
            [QUICK, "local"], seeds=2, episodes=2, last=1, scenario=SMALL, physics=["unified"],
            metrics=STATIONS,
        ),
    ],
    ids=["fleets", "values", "curves"],
)  # fmt: skip
def test_columns_have_one_type_in_all_units(study: Study, tmp_path: Path):
    result = run_study(study, tmp_path, execution=Execution(unit_seconds=1e-6))
    parts = sorted((tmp_path / study.file).iterdir())
    assert len(parts) > 1
    for part in parts[1:]:
        assert pq.read_schema(part).equals(pq.read_schema(parts[0])), part
    (found,) = load_studies([tmp_path])
    assert found.manifest == result.manifest
    pd.testing.assert_frame_equal(open_run(tmp_path, [study.kind]).table(study.file), result.rows)
    several = run_study(study, execution=Execution(unit_seconds=60)).rows
    pd.testing.assert_frame_equal(several, result.rows, check_dtype=False)


def test_without_a_directory_the_rows_are_the_same(whole: Path):
    pd.testing.assert_frame_equal(run(None).rows, pd.read_parquet(whole / "results.parquet"))


def test_a_stopped_sweep_goes_on_with_what_is_missing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, done = tmp_path / "out", []

    def stopping(*arguments: Any) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(arguments[0].id)
        return run_unit(*arguments)

    monkeypatch.setattr("amco_jax.study.engines.run_unit", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    assert {p.name for p in out.iterdir()} <= {UNITS, AGENTS, "results.parquet"}
    assert committed(out) == sorted(f"{name}.sha256" for name in done)
    with pytest.raises(InputError, match="unfinished sweep; legal: resume, overwrite"):
        run(out)
    first = {p.name: p.stat().st_mtime_ns for p in (out / UNITS).glob("*.sha256")}
    done.clear()
    monkeypatch.setattr("amco_jax.study.engines.run_unit", lambda *a: done.append(1) or run_unit(*a))
    run(out, execution=Execution(resume=True))
    assert len(done) == len(committed(whole)) - 5
    assert first.items() <= {p.name: p.stat().st_mtime_ns for p in (out / UNITS).glob("*.sha256")}.items()
    assert_same_tables(out, whole)
    run(out, execution=Execution(resume=True))  # of a finished one: the same again
    assert len(done) == len(committed(whole)) - 5
    assert_same_tables(out, whole)


def test_shards_share_the_work_and_the_last_one_writes(whole: Path, tmp_path: Path):
    for i in (2, 0, 1):
        assert not (tmp_path / "manifest.json").exists()
        result = run(tmp_path, execution=Execution(shard=f"{i}/3"))
    assert result.missing == 0
    assert_same_tables(tmp_path, whole)
    starts = [line for line in (tmp_path / UNITS / "log.txt").read_text().splitlines() if "started" in line]
    assert len(starts) == len(committed(whole))


def test_a_shard_tells_what_is_missing(whole: Path, tmp_path: Path):
    result = run(tmp_path, execution=Execution(shard="0/2"))
    assert result.missing == len(committed(whole)) // 2
    assert result.summary.empty


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shard": "2/2"}, "shard: '2/2'"),
        ({"shard": "-1/2"}, "shard"),
        ({"shard": "1"}, "shard"),
        ({"shard": "0/0"}, "shard"),
        ({"engine": "slurm"}, "engine: 'slurm'; legal: local, ray"),
        ({"recompute": True}, "recompute: true; legal: with resume"),
        ({"cpus_per_unit": 0}, "cpus_per_unit: 0"),
        ({"cpus_per_unit": 2}, "cpus_per_unit: 2; legal with the engine ray alone"),
        ({"address": "auto"}, "address: 'auto'; legal with the engine ray alone"),
    ],
)
def test_bad_executions_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Execution(**changes)


def test_resuming_needs_a_directory():
    with pytest.raises(InputError, match="out: none"):
        run(None, execution=Execution(resume=True))


@pytest.mark.parametrize("execution", [Execution(resume=True), Execution(shard="1/2")])
def test_overwriting_is_refused_where_others_may_have_committed_units(tmp_path: Path, execution: Execution):
    run(tmp_path, execution=Execution(shard="0/2"), methods=["local"])
    before = committed(tmp_path)
    with pytest.raises(InputError, match=r"^overwrite: true; legal: without resume and shard"):
        run(tmp_path, execution=execution, methods=["local"], overwrite=True)
    assert committed(tmp_path) == before


def test_a_store_of_other_arguments_or_code_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(InputError, match=r"made for something else: num_seeds = 150, not 151"):
        run(out, execution=Execution(resume=True), seeds=151)
    with pytest.raises(InputError, match=r"scenario\.num_tasks"):
        run(out, execution=Execution(resume=True), scenario=SMALL.replace(num_tasks=5))
    monkeypatch.setattr("amco_jax.study.run.code_version", lambda: "other")
    with pytest.raises(InputError, match="made for something else: code"):
        run(out, execution=Execution(resume=True))
    assert_same_tables(out, whole)


def test_damaged_units_are_named_and_recomputed_only_when_asked(whole: Path, tmp_path: Path):
    out = shutil.copytree(whole, tmp_path / "out")
    hurt = sorted((out / "results.parquet").iterdir())[2]
    content = bytearray(hurt.read_bytes())
    content[len(content) // 2] ^= 1
    hurt.write_bytes(content)
    with pytest.raises(InputError, match=f"{hurt.name} is damaged"):
        run(out, execution=Execution(resume=True))
    assert hurt.read_bytes() == content
    run(out, execution=Execution(resume=True, recompute=True))
    assert_same_tables(out, whole)
    assert hurt.read_bytes() != content


def test_a_plan_of_an_episode_counts_as_hundreds_of_episodes():
    seeds = {"seeds": 10**6, "trained_seeds": 10**6, "values": [0.5]}
    assert len(units(1, methods=["local"], **seeds)) == 1
    assert len(units(1, methods=["planner"], **seeds)) > 100


def test_units_are_larger_on_accelerators_and_those_of_a_study_that_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert Execution().seconds_per_unit(None) == 120
    assert Execution(resume=True).seconds_per_unit(7.0) == 7.0
    assert Execution(shard="0/2").seconds_per_unit(7.0) == 7.0
    assert Execution().seconds_per_unit(7.0) == 120  # which stands there to be overwritten
    assert Execution(resume=True, unit_seconds=9).seconds_per_unit(7.0) == 9
    options: dict[str, Any] = {"methods": ["local"], "values": [0.2, 0.5], "seeds": 150, "scenario": SMALL}
    run(tmp_path, execution=Execution(shard="0/2"), **options)
    more = options | {"trained_seeds": 40, "episodes": 3}
    rest = carry_out(Sweep, "deadline", out=tmp_path, execution=Execution(resume=True), **more)
    pd.testing.assert_frame_equal(rest.rows, run(None, **options).rows)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Execution().seconds_per_unit(None) == 3600
    assert Execution(engine="ray").seconds_per_unit(None) == 120


@pytest.mark.usefixtures("often_saved")
def test_a_long_training_goes_on_within_its_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (unit,) = units(methods=[QUICK], values=[0.5])
    told: list[int] = []

    def compute(number: int) -> pd.DataFrame:
        told.clear()
        store = AgentStore(tmp_path / f"agents-{number}")
        return run_unit(unit, store, tmp_path / "checkpoints", told.append)

    undisturbed = compute(0)
    assert sum(told) == unit.episodes  # without the lanes of padding
    shutil.rmtree(tmp_path / "checkpoints")
    real, calls = trainer_module.Trainer.advance, []

    def advance(self: Any, episodes: int) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, episodes)

    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            compute(1)
    pd.testing.assert_frame_equal(compute(1), undisturbed)
    assert told[:2] == [0, 2 * 40]  # restored
    (sums,) = (tmp_path / "checkpoints").rglob("SHA256SUMS")
    for number, path in enumerate(p for p in sums.parent.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for hurt in (content[: len(content) // 2], content[:9] + bytes([content[9] ^ 4]) + content[10:]):
            path.write_bytes(hurt)
            with pytest.raises(InputError, match=r"checkpoint: .* is damaged"):
                compute(2 + number)
        path.write_bytes(content)
    remove_damaged(tmp_path / "checkpoints")  # which nothing is
    assert sums.exists()
    sums.write_text("")
    remove_damaged(tmp_path / "checkpoints")
    pd.testing.assert_frame_equal(compute(100), undisturbed)
    assert told[:2] == [0, 40]  # from the first episode on


@pytest.mark.usefixtures("often_saved")
def test_a_training_that_another_process_keeps_checkpoints_of_is_computed_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved, save = set(), Journal.save
    monkeypatch.setattr(
        Journal, "save", lambda self, *what: saved.add(self._directory.name) or save(self, *what)
    )
    (unit,) = units(methods=[QUICK], values=[0.5])
    with Journal(tmp_path / "a"):
        busy = run_unit(unit, AgentStore(tmp_path / "one"), tmp_path / "a")
    pd.testing.assert_frame_equal(busy, run_unit(unit, AgentStore(tmp_path / "two"), tmp_path / "b"))
    assert saved == {"b"}


def test_agents_are_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other seeds, studies and directories find them in a common store."""
    counted, real = [], trainer_module.Trainer.advance
    monkeypatch.setattr(
        trainer_module.Trainer, "advance", lambda self, n: counted.append(len(self._chunk)) or real(self, n)
    )
    sharing = Execution(shared_agents=tmp_path / "agents")
    first = run(tmp_path / "one", execution=sharing, methods=[QUICK], trained_seeds=20)
    assert sum(counted) == 6  # two blocks for each value
    counted.clear()
    again = run(tmp_path / "two", execution=sharing, methods=[QUICK, "local"], trained_seeds=40)
    assert sum(counted) == 3  # the third block of each
    common = again.rows.query("method == @QUICK.name and seed < 20").reset_index(drop=True)
    pd.testing.assert_frame_equal(common, first.rows)
    counted.clear()
    trained = run_study(
        Training(QUICK, seeds=40, episodes=3, scenario=SMALL.replace(deadline=0.5)), execution=sharing
    )
    assert not counted
    assert len(trained.rows) == 40 * 3
    run_study(
        Training(
            QUICK.with_settings(discount=0.3), seeds=1, episodes=3, scenario=SMALL.replace(deadline=0.5)
        ),
        execution=sharing,
    )
    assert sum(counted) == 1


def test_damaged_agents_are_trained_again_only_when_asked(whole: Path, tmp_path: Path):
    out = shutil.copytree(whole, tmp_path / "out")
    shutil.rmtree(out / UNITS)
    shutil.rmtree(out / "results.parquet")
    path = min((out / AGENTS).rglob("*.ocdbt"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"checkpoint: .*agents.* is damaged"):
        run(out, execution=Execution(resume=True))
    run(out, execution=Execution(resume=True, recompute=True))
    assert_same_tables(out, whole)


def test_out_of_device_memory_goes_on_with_less(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    real, sizes = simulate_module.block_program, []

    def small(*arguments: Any) -> Any:
        program = real(*arguments)

        def limited(blocked: Any, *more: Any) -> Any:
            sizes.append(len(blocked[1]))
            if sizes[-1] > 2 * jax.local_device_count():
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
            return program(blocked, *more)

        return limited

    monkeypatch.setattr(simulate_module, "block_program", small)
    with caplog.at_level(logging.WARNING):
        run(tmp_path, unit_seconds=60)
    assert "out of device memory with" in caplog.text
    assert sizes.count(max(sizes)) < len(sizes) / 2
    results = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(results, pd.read_parquet(whole / "results.parquet"))


def test_other_errors_of_the_device_are_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(simulate_module, "block_program", lambda *a: broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(None, methods=["local"])


def test_units_that_others_have_committed_are_left_alone(whole: Path, tmp_path: Path):
    """Also when they were committed after this process had made its list."""
    out = shutil.copytree(whole, tmp_path / "out")
    store = Store(out / UNITS, out / "results.parquet")
    before = (out / UNITS / "log.txt").read_text()
    told = []
    engine = Execution().start(lambda unit, done: told.append(unit.id))
    engine.run([Work(unit, store, AgentStore(out / AGENTS)) for unit in units(1e-6)])
    assert len(told) == len(committed(out))
    assert (out / UNITS / "log.txt").read_text() == before


def test_rows_of_a_killed_process_that_no_commit_names_are_removed(whole: Path, tmp_path: Path):
    out = shutil.copytree(whole, tmp_path / "out")
    part = min((out / "results.parquet").iterdir())
    shutil.copy(part, part.with_name(part.name.replace("-", "-0", 2)))
    run(out, execution=Execution(resume=True))
    assert_same_tables(out, whole)
    assert len(pd.read_parquet(out / "results.parquet")) == len(pd.read_parquet(whole / "results.parquet"))


def test_rows_do_not_depend_on_the_seeds_beside_them(whole: Path):
    rows = pd.read_parquet(whole / "results.parquet").query("method == 'local' and value == 0.5")
    alone = run(None, methods=["local"], values=[0.5], seeds=3, first_seed=70).rows
    np.testing.assert_array_equal(alone["makespan_mean_s"], rows.query("70 <= seed < 73")["makespan_mean_s"])


@pytest.mark.parametrize(
    "study",
    [
        Sweep("num_servers", [2, 3], methods=["local"], seeds=2, scenario=SMALL, metrics=["station_tasks"]),
        Comparison(
            [QUICK, "local"], seeds=2, episodes=3, last=1, scenario=SMALL, metrics=["station_tasks"],
            physics=["unified"],
        ),
    ],
    ids=["fleets of two sizes", "trained methods and rules"],
)  # fmt: skip
def test_counts_of_servers_have_the_same_type_in_all_units(study: Any, tmp_path: Path):
    run_study(study, tmp_path / "out", execution=Execution(unit_seconds=1e-6))
    run = open_run(tmp_path / "out", ["sweep", "compare"])
    rows = run.arrow(study.file)
    counts = [field for field in rows.schema if field.name.startswith("station_tasks_")]
    assert counts
    assert all(str(field.type) == "int64" for field in counts)
