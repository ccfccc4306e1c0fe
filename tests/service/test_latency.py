"""Latency tables: what is shipped, what is read, and what is predicted from it."""

from __future__ import annotations

import csv
import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers.paths import ROOT
from hypothesis import given
from hypothesis import strategies as st

from amco_jax.errors import InputError
from amco_jax.service.latency import (
    COLUMNS,
    CONFIGURATION,
    Fit,
    Load,
    Power,
    check_rows,
    find_service,
    fit_batches,
    fit_steps,
    read_table,
    services,
    shipped_tables,
    write_table,
)

ROW: dict[str, Any] = {
    "format_version": 1,
    "row_kind": "measured",
    "device": "abacus",
    "model": "sd15",
    "weights": "random",
    "dtype": "float32",
    "resolution": 512,
    "guided": "yes",
    "software": "beads 1.0",
    "batch": 1,
    "steps": 10,
    "component": "total",
    "quantity": "wall",
    "statistic": "p50",
    "value": 12.0,
    "repeats": 3,
    "source": "counted",
}


def totals(seconds: dict[int, float], **values: Any) -> list[dict[str, Any]]:
    """Rows of whole images, by their numbers of steps."""
    return [ROW | values | {"steps": steps, "value": value} for steps, value in seconds.items()]


def line(fixed: Any, per_step: Any, **values: Any) -> list[dict[str, Any]]:
    shared = ROW | {"row_kind": "estimated", "statistic": "point", "steps": "", "repeats": ""} | values
    return [
        shared | {"component": "fixed", "value": fixed},
        shared | {"component": "per_step", "value": per_step},
    ]


def only_service(rows: list[dict[str, Any]], **options: Any):
    return find_service(check_rows(rows), **options)


def test_shipped_tables_say_where_each_number_is_from():
    names = shipped_tables()
    assert {"published", "estimated"} < set(names)
    kinds = {name: set(read_table(name)["row_kind"]) for name in names}
    assert kinds.pop("published") == {"published"}
    assert kinds.pop("estimated") == {"estimated"}
    assert all(kind == {"measured", "derived"} for kind in kinds.values())
    for name in names:
        assert services(read_table(name))


def test_shipped_estimates_lie_within_their_bounds():
    for service in services(read_table("estimated")):
        low, point, high = (
            find_service(read_table("estimated"), bound, device=service.configuration["device"]).predict(20)
            for bound in ("low", "point", "high")
        )
        assert low.seconds < point.seconds < high.seconds
        assert point.extrapolated
        assert point.row_kind == "estimated"


def test_derived_rows_of_shipped_measurements_are_the_fit_of_their_totals():
    measured = [name for name in shipped_tables() if name not in ("published", "estimated")]
    compared = set()
    for name in measured:
        table = read_table(name)
        for service in services(table):
            for batch, fit in service.fits.items():
                if fit.points < 2:
                    continue
                wanted = {**service.configuration, "batch": batch, "row_kind": "derived"}
                derived = {
                    row["component"]: row["value"]
                    for row in table.to_dict("records")
                    if all(row[column] == value for column, value in wanted.items())
                }
                assert derived["fixed"] == pytest.approx(fit.fixed, rel=1e-4)
                assert derived["per_step"] == pytest.approx(fit.per_step, rel=1e-4)
                assert derived["fit_residual"] == pytest.approx(fit.residual, rel=1e-2, abs=1e-5)
                compared.add(name)
    assert compared == set(measured)


def test_a_table_is_read_as_it_was_written(tmp_path):
    rows = totals({10: 12.0, 20: 22.5}) + line(0, 1e-9, device="a, b", source='"quoted"  and\nbroken')
    write_table(rows, tmp_path / "table.csv")
    assert read_table(tmp_path / "table.csv").equals(check_rows(rows))
    shuffled = [[row[column] for column in reversed(COLUMNS)] for row in rows]
    with (tmp_path / "shuffled.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(reversed(COLUMNS))
        writer.writerows(shuffled)
    assert read_table(tmp_path / "shuffled.csv").equals(check_rows(rows))
    wide = (tmp_path / "shuffled.csv").read_text(encoding="utf-8-sig").encode("utf-16")
    (tmp_path / "wide.csv").write_bytes(wide)
    assert read_table(tmp_path / "wide.csv").equals(check_rows(rows))


@given(
    fixed=st.floats(0, 100),
    per_step=st.floats(0.001, 10),
    steps=st.lists(st.integers(1, 200), min_size=2, max_size=6, unique=True),
)
def test_a_line_is_found_again(fixed, per_step, steps):
    fit = fit_steps(steps, [fixed + n * per_step for n in steps])
    assert fit.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-6)
    assert fit.per_step == pytest.approx(per_step, rel=1e-6)
    assert fit.residual < 1e-6
    assert fit.steps == (min(steps), max(steps))


@given(st.lists(st.floats(0.1, 100), min_size=3, max_size=3))
def test_a_fit_is_least_squares_among_lines_that_start_at_zero_or_above(seconds):
    steps = [2, 5, 9]

    def loss(fixed, per_step):
        return sum((fixed + n * per_step - y) ** 2 for n, y in zip(steps, seconds, strict=True))

    try:
        fit = fit_steps(steps, seconds)
    except InputError:
        assert np.polyfit(steps, seconds, 1)[0] <= 1e-12
        return
    assert fit.fixed >= 0
    best = loss(fit.fixed, fit.per_step)
    for more, faster in itertools.product((-1e-3, 0, 1e-3), repeat=2):
        assert loss(max(fit.fixed + more, 0), fit.per_step + faster) >= best * (1 - 1e-9)


def test_residual_is_the_largest_relative_error():
    fit = fit_steps([1, 2, 3], [1.0, 2.2, 3.0])
    predicted = [fit.seconds(n) for n in (1, 2, 3)]
    assert fit.residual == pytest.approx(
        max(abs(p - t) / t for p, t in zip(predicted, (1, 2.2, 3), strict=True))
    )


def test_steps_are_interpolated_and_beyond_them_flagged():
    service = only_service(totals({10: 12.0, 20: 22.0, 40: 42.0}))
    for steps, inside in [(9, False), (10, True), (15, True), (40, True), (41, False)]:
        prediction = service.predict(steps)
        assert prediction.seconds == pytest.approx(2 + steps)
        assert prediction.extrapolated is not inside
        assert prediction.row_kind == "derived"


def test_batches_are_interpolated_and_beyond_them_proportional():
    rows = [
        row
        for batch, factor in [(2, 1), (4, 1.5)]
        for row in totals({10: 12 * factor, 20: 22 * factor}, batch=batch)
    ]
    service = only_service(rows)
    for batch, factor, inside in [
        (1, 0.5, False),
        (2, 1, True),
        (3, 1.25, True),
        (4, 1.5, True),
        (8, 3, False),
    ]:
        prediction = service.predict(15, batch)
        assert prediction.seconds == pytest.approx(17 * factor)
        assert prediction.extrapolated is not inside
    assert service.predict(21, 3).extrapolated


def test_one_total_says_nothing_of_other_steps():
    service = only_service(totals({50: 5.0}, row_kind="published"))
    assert service.predict(50).seconds == pytest.approx(5)
    assert not service.predict(50).extrapolated
    assert service.predict(20).seconds == pytest.approx(2)
    assert service.predict(20).extrapolated
    assert math.isnan(service.fits[1].residual)


def test_the_firmest_rows_and_the_median_are_used():
    rows = line(0, 9) + totals({10: 100.0}, row_kind="published") + totals({10: 12.0, 20: 22.0})
    rows += [row | {"statistic": "mean", "value": 99} for row in totals({10: 0, 20: 0})]
    prediction = only_service(rows).predict(10)
    assert (prediction.seconds, prediction.row_kind) == (pytest.approx(12), "derived")


def test_power_is_that_of_the_firmest_rows_and_of_the_bound():
    def power(component: str, value: float, **values: Any) -> dict[str, Any]:
        given = {"component": component, "quantity": "power", "steps": "", "value": value}
        return ROW | {"row_kind": "estimated", "statistic": "point", "repeats": ""} | given | values

    rows = [power("idle", 5), power("busy", 50), power("busy", 40, statistic="low")]
    assert only_service(totals({10: 12.0})).powers[1] == Power(None, None)
    assert only_service(totals({10: 12.0}) + rows).powers[1] == Power(5, 50)
    assert only_service(totals({10: 12.0}) + rows, bound="low").powers[1] == Power(5, 40)
    measured = power("busy", 30, row_kind="measured", statistic="mean", repeats=3)
    assert only_service([*totals({10: 12.0}), measured, *rows]).powers[1] == Power(5, 30)
    for changes, word in (({"quantity": "wall"}, "quantity: 'wall'; legal: power"), ({"steps": 3}, "steps")):
        with pytest.raises(InputError, match=word):
            check_rows([power("busy", 30, **changes)])


def test_a_time_to_load_is_that_of_the_firmest_rows_and_of_the_bound():
    def load(kind: str, statistic: str, value: float) -> dict[str, Any]:
        shared = {"row_kind": kind, "steps": "", "repeats": 1, "component": "load"}
        return ROW | shared | {"statistic": statistic, "value": value}

    rows = totals({10: 12.0}) + [
        load("estimated", name, s) for name, s in (("low", 1), ("point", 2), ("high", 5))
    ]
    found = [only_service(rows, bound=bound).load for bound in ("low", "point", "high")]
    assert found == [Load(seconds, "estimated") for seconds in (1, 2, 5)]
    assert only_service([*rows, load("measured", "mean", 9), load("measured", "p50", 8)]).load == Load(
        8, "measured"
    )
    assert only_service(totals({10: 12.0})).load is None


def fits(seconds: dict[int, float], steps: tuple[int, int] | None = (30, 30)) -> dict[int, Fit]:
    """Fits of batch sizes, from their seconds at 30 steps, in proportion to the steps."""
    return {batch: Fit(0.0, s / 30, math.nan, 1, steps, "published") for batch, s in seconds.items()}


def test_batches_that_lie_on_a_line_are_found_again():
    found = fit_batches({b: Fit(2 + b, 0.5 + 0.25 * b, 0, 3, (5, 5 * b), "measured") for b in (1, 2, 4)})
    parts = found.start.fixed, found.start.per_step, found.each.fixed, found.each.per_step
    assert parts == pytest.approx((2, 0.5, 1, 0.25))
    assert found.residual == pytest.approx(0, abs=1e-12)
    assert (found.batches, found.each.steps) == ((1, 4), (5, 5))


def test_a_fit_over_batches_by_pen_and_paper():
    # The V100 of the published table: x̄ = 3.75, ȳ = 5.295, slope 36.175 / 28.75, and of the rest the most is
    # left at a batch of 2, 3.08 s.
    found = fit_batches(fits({1: 1.84, 2: 3.08, 4: 5.62, 8: 10.64}))
    slope = 36.175 / 28.75
    start = 5.295 - 3.75 * slope
    assert (found.start.seconds(30), found.each.seconds(30)) == pytest.approx((start, slope))
    assert found.residual == pytest.approx((start + 2 * slope - 3.08) / 3.08)
    assert (found.each.row_kind, found.each.steps) == ("published", (30, 30))
    # More images than in proportion: no start is negative. Steps that only some sizes tell are not known.
    steep = fit_batches(fits({1: 1.0, 2: 4.0}) | fits({4: 8.0}, None))
    assert (steep.start.per_step, steep.each.steps) == (0, None)
    assert steep.each.seconds(30) == pytest.approx((1 + 8 + 32) / (1 + 4 + 16))


def test_batches_that_make_no_line_are_refused():
    for seconds, message in (
        ({2: 1.0}, r"batch: \[2\]; legal: at least two"),
        ({1: 2.0, 2: 1.0}, "do not grow"),
    ):
        with pytest.raises(InputError, match=message):
            fit_batches(fits(seconds))


def test_services_differ_by_what_is_not_comparable():
    table = check_rows(
        [
            row
            for column in CONFIGURATION
            for row in totals(
                {1: 1.0},
                **{column: {"resolution": 256, "guided": "no", "weights": "trained"}.get(column, "other")},
            )
        ]
    )
    assert len(services(table)) == len(CONFIGURATION)
    assert find_service(table, resolution=256).configuration == {c: ROW[c] for c in CONFIGURATION} | {
        "resolution": 256
    }
    for wanted, word in [
        ({"weights": "random"}, "6 services"),
        ({"device": "none"}, "no services"),
        ({"colour": 1}, "colour"),
    ]:
        with pytest.raises(InputError, match=word):
            find_service(table, **wanted)
    with pytest.raises(InputError, match="bound"):
        services(table, "upper")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("steps", "batch"), [(0, 1), (1, 0), (1.5, 1), (10**400, 1)])
def test_only_whole_numbers_are_predicted_for(steps: Any, batch: int):
    service = find_service(read_table("published"), device="NVIDIA A100-SXM4-80GB")
    with pytest.raises(InputError, match=r"^(steps|batch): "):
        service.predict(steps, batch)


def test_totals_that_do_not_grow_make_no_line():
    falling = totals({10: 12.0, 20: 11.0}, batch=2)
    table = check_rows([*falling, *totals({10: 12.0}, device="sand clock")])
    for read in (services, lambda table: find_service(table, device="abacus")):
        with pytest.raises(InputError, match=r"^table: abacus, sd15, .*, batch 2, total: .* do not grow"):
            read(table)
    assert find_service(table, device="sand clock").predict(10).seconds == pytest.approx(12)
    with pytest.raises(
        InputError, match=r"no services for device=none; legal: one of abacus, .*; sand clock"
    ):
        find_service(table, device="none")
    with pytest.raises(InputError, match="two different"):
        fit_steps([3, 3], [1.0, 2.0])


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format_version": 2}, "format_version"),
        ({"row_kind": "guessed"}, "row_kind"),
        ({"device": ""}, "device"),
        ({"source": "  "}, "source"),
        ({"source": "a" * 1001}, "source"),
        ({"software": "\x1b[2J"}, "software"),
        ({"weights": "mine"}, "weights"),
        ({"guided": "True"}, "guided"),
        ({"resolution": 0}, "resolution"),
        ({"resolution": "9" * 5000}, "resolution"),
        ({"resolution": "٥"}, "resolution"),
        ({"batch": 1.5}, "batch"),
        ({"batch": "1_0"}, "batch"),
        ({"steps": ""}, "steps"),
        ({"component": "unet_step"}, "steps"),
        ({"component": "lunch"}, "component"),
        ({"component": "peak", "steps": ""}, "quantity"),
        ({"quantity": "memory"}, "quantity"),
        ({"statistic": "p99"}, "statistic"),
        ({"statistic": "p95"}, "repeats of a p95: 3; legal: a whole number from 20"),
        ({"repeats": ""}, "repeats"),
        ({"value": "nan"}, "value"),
        ({"value": "inf"}, "value"),
        ({"value": "1e10"}, "value"),
        ({"value": "1e999"}, "value"),
        ({"value": "-1"}, "value"),
        ({"value": "0"}, "value"),
        ({"value": "fast"}, "value"),
        ({"value": ""}, "value"),
    ],
)
def test_bad_rows_are_refused_by_line_and_column(changes, word, tmp_path):
    rows = [ROW | {"steps": 5}, ROW | changes]
    with pytest.raises(InputError, match=word):
        check_rows(rows)
    with (tmp_path / "bad.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(InputError, match="line 3: ") as caught:
        read_table(tmp_path / "bad.csv")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


HEADER = ",".join(COLUMNS)
GOOD = ",".join(str(ROW[column]) for column in COLUMNS)
FILES = {
    "empty": (b"", "columns"),
    "header only": (f"{HEADER}\n".encode(), "no rows"),
    "blank lines only": (f"{HEADER}\n\n\n".encode(), "no rows"),
    "no UTF-8": (f"{HEADER}\n{GOOD}\xff\n".encode("latin-1"), "UTF-8"),
    "UTF-16 without its mark": (f"{HEADER}\n{GOOD}\n".encode("utf-16-le"), "columns"),
    "zeros": (b"\0" * 1000, "columns"),
    "missing column": (f"{HEADER[:-7]}\n{GOOD[:-8]}\n".encode(), "source"),
    "extra column": (f"{HEADER},colour\n{GOOD},red\n".encode(), "colour"),
    "column twice": (f"{HEADER},value\n{GOOD},1\n".encode(), "value"),
    "too few cells": (f"{HEADER}\n{GOOD[:-8]}\n".encode(), "line 2: 16 cells"),
    "too many cells": (f"{HEADER}\n{GOOD},1\n".encode(), "line 2: 18 cells"),
    "open quote": (f'{HEADER}\n"{GOOD}\n'.encode(), "not CSV in"),
    "endless cell": (f"{HEADER}\n{GOOD}{'a' * 200_000}\n".encode(), "not CSV in"),
    "the same twice": (f"{HEADER}\n{GOOD}\n{GOOD}\n".encode(), "line 3: the same number as in line 2"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_in_one_line(name, tmp_path):
    content, word = FILES[name]
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(InputError, match=word) as caught:
        read_table(tmp_path / "bad.csv")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["", "nowhere.csv", "/", "a" * 5000, "nul\0", "../latency/published", "."])
def test_bad_names_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").mkdir()
    for bad in (name, "table.csv", tmp_path):
        with pytest.raises(InputError, match=r"legal: a CSV file, or one of .*estimated.*published"):
            read_table(bad)


@given(column=st.sampled_from(COLUMNS), text=st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_text_is_read_or_refused_in_one_line(column, text):
    message = ""
    try:
        check_rows([ROW | {column: text}])
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_tables_need_no_torch():
    code = (
        "import sys, amco_jax.service.latency as latency; latency.read_table('published');"
        "print({'torch', 'sd_repair'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
