"""Default values of everything that can be swept: legal around any scenario, and sensible for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.request_logs import HEADER, cuts_of, small_rows, write

from amco_jax import InputError, Method, Scenario, get_method, load_scenario
from amco_jax.scenario.axes import AXES, apply_settings, axes_of, get_axis, load_with_settings
from amco_jax.scenario.presets import PRESETS
from amco_jax.study.sweep import Sweep
from amco_jax.workload import PROCESSES

SERVICE = PRESETS["jetson-sd15"]
SCENARIOS: dict[str, Any] = {
    **PRESETS,
    "one server": {"num_servers": 1},
    "two servers": {"num_servers": 2, "capacity": (1.0, 100.0)},
    "forty servers": {"num_servers": 40},
    "one capacity": {"capacity": 25.0},
    "matrix": {"num_servers": 2, "link_rate": ((1.0, 2.0), (3.0, 4.0))},
    "constant tasks": {"task_size_min": 3.0, "task_size_max": 3.0, "density_min": 0.2, "density_max": 0.2},
    "large tasks": {"task_size_min": 800.0, "task_size_max": 9e8},
    "least values": {"deadline": 1e-8, "slot_duration": 1e-8, "num_tasks": 1, "num_slots": 1},
    "largest values": {"deadline": 1e9, "num_tasks": 10**6, "num_slots": 10**6, "capacity": 1e9},
    "many Poisson tasks": {"arrivals": "poisson", "num_tasks": 10**6, "arrival_prob": 0.9},
    "one device": SERVICE | {"service": {"devices": ("NVIDIA Jetson AGX Orin",)}},
    "one image": SERVICE | {"task_size_max": 1.0, "density_min": 1.0, "density_max": 1.0},
}
FIXED = {
    *(name for name, fields in PRESETS.items() if "service" in fields),
    "one device",
    "one image",
    "two servers",
    "matrix",
    *(p for p in PRESETS if "-10-" in p),
}
"""Their fleets are given server by server"""
POWERS = ("power_idle", "power_busy")


def job(param: str, scenario: Scenario, methods: tuple[str | Method, ...] = ("local",)) -> Sweep:
    """A sweep over the default values, with all its checks, for one seed."""
    return Sweep(param=param, methods=methods, scenario=scenario, seeds=1, episodes=1)


@pytest.mark.parametrize("name", SCENARIOS)
def test_default_values_are_legal_around_any_scenario(name: str):
    fields = {key: value for key, value in SCENARIOS[name].items() if key != "trace"}
    plain = Scenario(**fields)
    bursty = plain.replace(arrivals="bursty", num_tasks=min(plain.num_tasks, 1000))
    params = {param: plain for param in axes_of(plain.process)}
    params |= {param: bursty for param in bursty.process.varied if param not in params}
    for param, base in params.items():
        if param in POWERS and base.powers_idle is None:
            with pytest.raises(InputError, match=f"param: {param} is not known of all devices"):
                job(param, base)
            continue
        if param == "num_servers" and name in FIXED:
            with pytest.raises(
                InputError, match=r"param: num_servers has no values to sweep by default .* as "
            ):
                job(param, base)
            continue
        swept = job(param, base)
        assert len(swept.points) >= (1 if name == "one image" else 2)  # which is the smallest there is
        assert len({json.dumps(s.to_dict()) for s in swept.scenarios}) == len(swept.points)


def test_default_values_of_the_default_scenario_are_the_published_ones():
    values = {
        param: job(param, Scenario()).points
        for param in ("deadline", "num_tasks", "capacity", "task_size_max")
    }
    assert values["deadline"] == [k / 10 for k in range(1, 11)]
    assert values["num_tasks"] == list(range(10, 101, 10))
    assert values["capacity"] == [load_scenario(p).capacity for p in PRESETS if p.startswith("capacity")]
    assert values["task_size_max"] == [2, 3.5, 5, 6.5, 8]


def test_default_values_suit_the_methods_too():
    assert job("num_servers", Scenario()).points == [2, 3, 4, 5, 6, 8, 10]
    small = dataclasses.replace(get_method("local"), name="small", max_servers=4)
    assert job("num_servers", Scenario(num_servers=3), ("local", small)).points == [2, 3, 4]


@pytest.mark.parametrize("preset", ["default", "jetson-sd15"])
@pytest.mark.parametrize("pace", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_time_scales_follow_from_the_span_and_the_load_of_a_log(
    tmp_path: Path, preset: str, pace: float, share: float
):
    lines = [row.replace("2024-11-20 ", "") for row in small_rows(400)]
    start = np.datetime64("2024-11-20T08:00:00")
    seconds = [(np.datetime64(f"2024-11-20T{line[:8]}") - start).astype(float) * pace for line in lines]
    rows = [f"{s:.3f}{line[8:].replace('.0', '')},30" for s, line in zip(seconds, lines, strict=True)]
    path = write(tmp_path / "log.csv", rows, f"{HEADER},num_inference_steps")
    base = load_scenario(preset, {"num_slots": 10}, {"file": str(path), "unit": "s", "train_share": share})
    swept = job("time_scale", base, ("local", "drlcoedge") if share else ("local",))
    loads = [scenario.offered_load for scenario in swept.scenarios]
    stretches = [cuts_of(scenario).num_stretches for scenario in swept.scenarios]
    assert len(swept.points) == 5
    assert 0 < max(loads) < 0.82
    assert max(loads) > 0.7 or stretches[-1] < 20  # as far as the log goes
    assert min(stretches) >= 16


def test_a_log_shorter_than_an_episode_is_played_more_slowly(tmp_path: Path):
    path = write(tmp_path / "log.csv", [f"{k / 10:.1f},g{k % 7}" for k in range(300)], "gmt_create,groupId")
    scenario = Scenario(trace={"file": str(path)})  # pyright: ignore[reportArgumentType]
    assert scenario.time_scale < 0.25
    assert cuts_of(scenario).num_stretches >= 1
    scenario.check_training()
    assert len(job("time_scale", scenario).points) == 5
    assert load_scenario("default").time_scale == 1


def test_a_log_and_settings_are_for_the_arrivals(tmp_path: Path):
    path = str(write(tmp_path / "log.csv", small_rows(400)))
    (tmp_path / "log.toml").write_text(f'arrivals = "poisson"\n[trace]\nfile = "{path}"\n')
    for source, settings, trace, words in (
        (
            "default",
            {"arrivals": "poisson"},
            path,
            "trace: one that would not be played, as arrivals = poisson",
        ),
        (str(tmp_path / "log.toml"), {}, None, "trace: one that would not be played, as arrivals = poisson"),
        ("default", {"arrival_prob": 0.9}, path, "set: arrival_prob means nothing to arrivals = trace"),
        ("default", {"time_scale": 3.0}, None, "set: time_scale means nothing to arrivals = bernoulli"),
    ):
        with pytest.raises(InputError, match=words):
            load_with_settings(source, settings, trace)
        # Among the arrivals of a sweep, some may use them.
        load_with_settings(source, settings, trace, swept="arrivals")
    assert load_with_settings(str(tmp_path / "log.toml"), {}, path).arrivals == "trace"
    with pytest.raises(InputError, match="set: burst_slots means nothing to arrivals = poisson"):
        apply_settings(Scenario(), {"arrivals": "poisson", "burst_slots": 3})


def test_every_field_but_tables_and_the_warm_up_can_be_swept():
    fields = {field.name for field in dataclasses.fields(Scenario)}
    swept = AXES.keys() | {name for process in PROCESSES.values() for name in process.varied}
    assert fields - swept == {"service", "trace", "warmup"}


def test_what_a_sweep_cannot_be_over_is_told():
    with pytest.raises(InputError, match="param: order has no values to sweep by default"):
        job("order", Scenario(timing="continuous"))
    with pytest.raises(InputError, match="time_scale means nothing to arrivals = bernoulli"):
        job("time_scale", Scenario())
    with pytest.raises(InputError, match="burst_slots means nothing to arrivals = poisson"):
        job("burst_slots", Scenario(arrivals="poisson"))
    with pytest.raises(InputError, match="param: 'trace'"):
        get_axis("trace", Scenario())
