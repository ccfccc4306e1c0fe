"""The profiler of repairs, on a tiny model with random weights. No test looks at how fast it is."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.tiny_training import Script

from amco_jax.errors import InputError
from amco_jax.extras import load_package
from amco_jax.service.latency import COMPONENTS, check_rows, read_table, services
from sd_repair.pipeline import prepare
from sd_repair.profile import Labels, Plan, describe_device, describe_software, print_profile, profile
from sd_repair.random_weights import random_pipeline

torch = load_package("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
LABELS = Labels("abacus", "sd15-tiny", "random", "float32", "beads 1.0", "counted")


@pytest.fixture(scope="module")
def model():
    return prepare(random_pipeline(tiny=True))


def profiled(model, plan: Plan, lines: list[str] | None = None) -> list[dict[str, Any]]:
    rows = profile(lambda: model, CPU, plan, LABELS, None if lines is None else lines.append)
    check_rows(rows)
    return rows


def test_every_part_of_every_size_and_batch_is_measured(model, capsys):
    plan = Plan(sizes=(16, 32), steps=(9, 1), batches=(1, 2), repeats=2)
    every = profiled(model, plan)
    fitted = {"fixed", "per_step", "fit_residual"}
    measured = {name for name, kind in COMPONENTS.items() if kind != "power"} - fitted
    for size, batch in itertools.product(plan.sizes, plan.batches):
        rows = [row for row in every if (row["resolution"], row["batch"]) == (size, batch)]
        # Times of a busy machine may not grow with the steps, and then there is no line.
        assert measured <= {row["component"] for row in rows} <= measured | fitted
        medians = [row for row in rows if row["component"] == "total" and row["statistic"] == "p50"]
        assert sorted((row["steps"], row["quantity"]) for row in medians) == [
            *itertools.product((1, 9), ("cpu", "wall"))
        ]
        assert {row["steps"] for row in rows if row["component"] == "first_call"} == {1}
    for column in ("device", "model", "weights", "dtype", "software"):
        assert {row[column] for row in every} == {getattr(LABELS, column)}
    parts = [row for row in every if row["component"] not in {"load", "first_call", "peak", *fitted}]
    assert {row["repeats"] for row in parts} == {2}
    assert {row["guided"] for row in every} == {"yes"}
    print_profile(every)
    assert "unet_step" in capsys.readouterr().out


def test_statistics_are_those_that_the_repeats_bear(model):
    few = profiled(model, Plan(sizes=(16,), steps=(1,), repeats=1, guidance=1))
    assert {row["guided"] for row in few} == {"no"}
    assert {row["statistic"] for row in few} == {"p50", "max"}  # the largest memory
    many = profiled(model, Plan(sizes=(16,), steps=(1,), repeats=20))
    wall = {(row["component"], row["statistic"]): row["value"] for row in many if row["quantity"] == "wall"}
    values = [wall["text_encode", statistic] for statistic in ("min", "p50", "p95", "max")]
    assert values == sorted(values)
    assert ("load", "p95") not in wall


def test_calls_are_as_many_as_planned(model, monkeypatch):
    calls = []
    real = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda *a, **k: calls.append(len(a[0])) or real(*a, **k))
    lines: list[str] = []
    profiled(model, Plan(sizes=(16,), steps=(2, 5), batches=(3,), repeats=2, warm_up=2), lines)
    assert calls == [6] * (2 * 2 + 2 + 2 * 2 + 2 * 5)  # warm-up, parts, totals; each twice the batch
    assert lines[0] == "load"


def test_labels_that_no_table_takes_are_refused_before_the_measurements(model):
    labels = dataclasses.replace(LABELS, source="a" * 970)  # a fit's source is longer
    lines: list[str] = []
    with pytest.raises(InputError, match=r"source: .*legal: 1 to 1000 printable"):
        profile(lambda: model, CPU, Plan(sizes=(16,)), labels, lines.append)
    assert not lines


def test_totals_that_do_not_grow_leave_the_measurements(model, monkeypatch):
    def refuse(*_):
        raise InputError("totals fall")

    monkeypatch.setattr("sd_repair.profile.fit_steps", refuse)
    lines: list[str] = []
    rows = profiled(model, Plan(sizes=(16,), steps=(1, 2), repeats=1), lines)
    assert {row["row_kind"] for row in rows} == {"measured"}
    assert lines[-1] == "no fit: totals fall"


@pytest.mark.parametrize(
    ("plan", "word"),
    [
        ({"sizes": ()}, "sizes: none"),
        ({"sizes": (0,)}, "sizes"),
        ({"steps": (1000,)}, "steps"),
        ({"steps": (2, 2)}, "each value once"),
        ({"batches": (-1,)}, "batches"),
        ({"repeats": 0}, "repeats"),
        ({"warm_up": 0}, "warm_up"),
        ({"guidance": float("nan")}, "guidance"),
    ],
)
def test_bad_plans_are_refused(plan, word):
    with pytest.raises(InputError, match=word):
        Plan(**plan)


def test_sizes_that_the_model_cannot_take_are_refused(model):
    for size in (8, 60):
        with pytest.raises(InputError, match="sizes"):
            profiled(model, Plan(sizes=(size,)))


def test_device_and_software_are_named():
    assert describe_device(CPU).endswith(", 1 thread")
    assert f"torch {torch.__version__}" in describe_software()


def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones(10**8)
    program = (
        "from types import SimpleNamespace; from sd_repair.profile import _peak_memory\n"
        "print(_peak_memory(SimpleNamespace(type='cpu')))"  # of the device, only the type matters
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10**7 < int(done.stdout) < 5 * 10**8 < held.nbytes


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/profile_repair.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_script_writes_a_table_that_is_read_back(tmp_path):
    table = tmp_path / "table.csv"
    tiny = ["--tiny", "--sizes", "16", "--steps", "1", "40", "--repeats", "1", "--threads", "1", "--quiet"]
    done = script(*tiny, "--device", "cpu", "--dtype", "bfloat16", "--out", str(table))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (service,) = services(read_table(table))
    assert service.configuration["dtype"] == "bfloat16"
    assert service.configuration["weights"] == "random"
    assert not service.predict(20).extrapolated
    sources = set(read_table(table)["source"])
    command = min(sources, key=len)
    assert command.startswith("scripts/profile_repair.py --tiny --sizes 16 --steps 1 40 ")
    assert command.endswith(" --device cpu --dtype bfloat16 --threads 1")
    assert sources <= {command, f"fit to the medians of the totals; {command}"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "nowhere/table.csv"], "out"),
        (["--out", "table.txt"], "out"),
        (["--out", "t.csv", "--tiny", "--dtype", "float16", "--device", "cpu"], "dtype"),
        (["--out", "t.csv", "--tiny", "--sizes", "20"], "sizes"),
        (["--out", "t.csv", "--tiny", "--steps"], "steps"),
        (["--out", "/proc/t.csv", "--tiny", "--sizes", "20"], "out: /proc/t.csv"),
        (["--out", "t.csv", "--tiny", "--random-weights"], "random-weights: True; legal: without --tiny"),
        (["--out", "t.csv", "--tiny", "--model", "mine"], "model: mine; legal: without"),
        (["--out", "t.csv", "--tiny", "--config", "mine"], "config: mine; legal: without"),
        (["--out", "t.csv", "--tiny", "--variant", "fp16"], "variant: fp16; legal: without"),
    ],
)
def test_script_refuses_bad_input_in_one_line(arguments, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Script(monkeypatch, capsys, "sd_repair").assert_refused([word], "profile_repair", "--quiet", *arguments)
    assert not any(tmp_path.iterdir())
