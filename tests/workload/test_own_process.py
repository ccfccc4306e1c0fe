"""An arrival process of a user's own, that of docs/workloads.md, goes through everything."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.drawn import arrivals
from helpers.paths import ROOT
from helpers.studies import carry_out
from helpers.tiny_training import METHOD

from amco_jax import (
    ArrivalProcess,
    Evaluation,
    Execution,
    InputError,
    Scenario,
    SlotEnv,
    Sweep,
    Training,
    load_run,
    run_study,
)
from amco_jax.scenario.axes import load_with_settings, parse_settings
from amco_jax.study.grid import Cell
from amco_jax.study.simulate import block_program
from amco_jax.study.units import units_of
from amco_jax.workload.bursty import BurstyArrivals

PAGE = (ROOT / "docs/workloads.md").read_text("utf-8")
(SOURCE,) = re.findall(r"In `diurnal\.py`:\n\n```python\n(.*?)```", PAGE, re.S)
EDITED = SOURCE.replace("np.sin(2", "np.cos(2")
SMALL = Scenario(num_servers=2, num_tasks=4, num_slots=12, arrival_prob=0.6)

Load = Callable[..., ArrivalProcess]


@pytest.fixture
def diurnal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """A function that writes the module, imports it anew, as another process would, and makes a process."""
    home = tmp_path / "own"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])

    def load(source: str = SOURCE, **parameters: Any) -> ArrivalProcess:
        (home / "diurnal.py").write_text(source)
        sys.modules.pop("diurnal", None)
        importlib.invalidate_caches()
        return importlib.import_module("diurnal").Diurnal(**parameters)

    load()
    yield load
    sys.modules.pop("diurnal", None)


def run(process: ArrivalProcess, out: Path | None = None, **changes: Any) -> Any:
    options: dict[str, Any] = {"values": [0.2, 0.9], "methods": ["local"], "seeds": 5} | changes
    scenario = SMALL.replace(arrivals=process)
    return carry_out(Sweep, "amplitude", scenario=scenario, out=out, **options)


def test_its_arrivals_follow_its_law(diurnal: Load):
    scenario = Scenario(num_servers=3, num_tasks=10, num_slots=24, arrivals=diurnal(amplitude=1.0))
    counts = arrivals(scenario, 400).present.sum(axis=-1)
    rates = 3 * (1 + np.sin(2 * np.pi * np.arange(24) / 24))
    errors = counts.mean(axis=(0, 2)) - rates
    np.testing.assert_array_less(np.abs(errors), 4.5 * np.sqrt(rates / 1200) + 1e-9)
    assert scenario.count_moments == pytest.approx((3.0, 3.0))
    assert scenario.offered_load == pytest.approx(scenario.replace(arrivals="poisson").offered_load)
    flat = arrivals(scenario.replace(amplitude=0.0))
    poisson = arrivals(scenario.replace(arrivals="poisson"))
    np.testing.assert_array_equal(flat.present, poisson.present)
    np.testing.assert_array_equal(flat.work, poisson.work)


def test_it_is_swept_over_its_own_parameter_in_one_program(diurnal: Load):
    process = diurnal()
    block_program.cache_clear()
    result = run(process, values=None)
    assert result.rows["value"].unique().tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert block_program.cache_info().misses == 1
    assert result.manifest["param_label"] == "relative amplitude of the rate"
    assert result.manifest["arrivals"].startswith("diurnal arrivals at 4 positions")
    described = result.manifest["scenario"]["arrivals"]
    assert described["process"] == "diurnal.Diurnal"
    assert described["parameters"] == {"amplitude": 0.5, "period": 24.0}
    assert json.loads(json.dumps(described)) == described
    study = Sweep(param="arrivals", methods=["local"], seeds=1, scenario=SMALL.replace(arrivals=process))
    assert study.labels == ["bernoulli", "poisson", "bursty", "diurnal"]
    travelled = pickle.loads(pickle.dumps(study.scenarios[-1]))
    assert travelled.to_dict() == study.scenarios[-1].to_dict()


def test_all_ways_to_name_it_are_one(diurnal: Load, tmp_path: Path):
    wanted = Scenario(arrivals=diurnal(amplitude=0.8), num_tasks=6)
    (tmp_path / "day.toml").write_text('arrivals = "diurnal:PROCESS"\namplitude = 0.8\nnum_tasks = 6\n')
    settings = parse_settings(["amplitude=0.8", "arrivals=diurnal:PROCESS", "num_tasks=6"])
    for found in (
        load_with_settings(str(tmp_path / "day.toml"), {}),
        load_with_settings("default", settings),
        Scenario(arrivals="diurnal:PROCESS", num_tasks=6).replace(amplitude=0.8),
    ):
        assert found.to_dict() == wanted.to_dict()
    bursty = Scenario(arrivals=BurstyArrivals(burst_slots=2))
    assert bursty == Scenario(arrivals="bursty", burst_slots=2)


CLASHING = SOURCE.replace("period", "deadline")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["arrivals=diurnal:PROCESS", "amplitude=2"], "amplitude: 2; legal: a number from 0 to 1"),
        (["arrivals=diurnal:PROCESS", "depth=2"], "unknown field 'depth'; legal: .*amplitude, period"),
        (["amplitude=0.5"], "unknown field 'amplitude'"),
        (["arrivals=diurnal:NONE"], "arrivals: 'diurnal:NONE' cannot be imported: AttributeError"),
        (["arrivals=nowhere:PROCESS"], "arrivals: 'nowhere:PROCESS' cannot be imported: ModuleNotFoundError"),
        (["arrivals=diurnal:Waves"], "'diurnal:Waves' is a type; legal: bernoulli, .* ArrivalProcess"),
        (["arrivals=clashing:PROCESS"], "diurnal has the parameter deadline; legal: another name"),
    ],
)
def test_bad_processes_and_parameters_are_refused(diurnal: Load, settings: list[str], words: str):
    Path("clashing.py").write_text(CLASHING)
    with pytest.raises(InputError, match=words):
        load_with_settings("default", parse_settings(settings))


def test_what_it_does_not_have_is_not_swept(diurnal: Load):
    scenario = SMALL.replace(arrivals=diurnal())
    for param, words in (("burst_slots", "means nothing to arrivals = diurnal"), ("depth", "param: 'depth'")):
        with pytest.raises(InputError, match=words):
            Sweep(param=param, methods=["local"], seeds=1, scenario=scenario)


def test_resuming_an_edited_process_computes_anew(diurnal: Load, tmp_path: Path):
    def commits() -> set[tuple[str, int]]:
        return {(p.name, p.stat().st_mtime_ns) for p in (tmp_path / "out/units").glob("*.sha256")}

    run(diurnal(), tmp_path / "out")
    before = commits()
    run(diurnal(), tmp_path / "out", execution=Execution(resume=True))
    assert commits() == before
    resumed = run(diurnal(EDITED), tmp_path / "out", execution=Execution(resume=True)).rows
    assert not commits() & before
    pd.testing.assert_frame_equal(resumed, run(diurnal(EDITED)).rows)
    scenario = SMALL.replace(arrivals=diurnal(EDITED))
    edited = Sweep(param="amplitude", values=[0.2, 0.9], methods=["local"], seeds=5, scenario=scenario)
    assert not {f"{unit.id}.sha256" for unit in units_of(edited.cells(), 120.0)} & {
        name for name, _ in before
    }


def test_agents_are_trained_on_it_and_evaluated(diurnal: Load, tmp_path: Path):
    scenario = SMALL.replace(arrivals=diurnal(amplitude=0.9))
    options: dict[str, Any] = {"seeds": 1, "episodes": 2, "out": tmp_path / "run"}
    carry_out(Training, METHOD, scenario=scenario, **options)
    with pytest.raises(InputError, match=r"needs .* an arrival process; legal: the scenario .* given anew"):
        load_run(tmp_path / "run")
    trained = load_run(tmp_path / "run", method=METHOD, scenario=scenario)
    assert len(run_study(Evaluation(trained, methods=[])).rows) == 1
    edited = SMALL.replace(arrivals=diurnal(EDITED, amplitude=0.9))
    other = Cell(scenario=edited, method=METHOD, train_episodes=2)
    assert other.training_name(0) not in trained.agents.names
    carry_out(Training, METHOD, scenario=edited, execution=Execution(resume=True), **options)
    again = load_run(tmp_path / "run", method=METHOD, scenario=edited)
    assert other.training_name(0) in again.agents.names


def test_environments_take_its_parameters(diurnal: Load):
    scenario = SMALL.replace(arrivals=diurnal())
    env = SlotEnv(scenario)
    env.params_of(scenario.replace(amplitude=0.1))
    with pytest.raises(InputError, match=r"\(2, \d+, 12, 'bernoulli', .*legal in this .* 'diurnal', "):
        env.params_of(SMALL)


def test_a_command_line_on_one_device_gives_the_same_rows(diurnal: Load, tmp_path: Path):
    words = "--param amplitude --values 0.2 0.9 --methods local --seeds 200 --out out --quiet --set"
    settings = "arrivals=diurnal:PROCESS num_servers=2 num_tasks=4 num_slots=12 arrival_prob=0.6"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/sweep.py", *words.split(), *settings.split()],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(
        pd.read_parquet("out/results.parquet"), run(diurnal(), seeds=200).rows, check_exact=True
    )
