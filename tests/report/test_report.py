"""Reports from saved results: the numbers, every format, and the page in a real browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.command_lines import command
from helpers.drawn_studies import study_of
from helpers.tiny_training import Script

from amco_jax.errors import InputError
from amco_jax.files import FileNames
from amco_jax.metrics import METRICS, SATURATION, column_entries
from amco_jax.report.analysis import baselines_of, comparisons, distinct, means, medians
from amco_jax.report.page import Report, make_report, write_report
from amco_jax.report.published import write_published
from amco_jax.report.studies import SavedStudy, load_studies
from amco_jax.report.style import method_styles
from amco_jax.report.terminal import print_summary
from amco_jax.report.warnings import warnings_of
from amco_jax.results.saved import write_digests
from amco_jax.scenario import Scenario
from amco_jax.stats import (
    bootstrap_interval,
    holm,
    jain_index,
    mean_interval,
    paired_p_value,
    ratio_interval,
    reduction_interval,
    seed_matrix,
)
from amco_jax.stats.summaries import COUNTS
from amco_jax.study.compare import Comparison
from amco_jax.study.run import run_study
from amco_jax.study.sweep import Sweep

TINY = Scenario(num_servers=3, num_tasks=6, num_slots=5, capacity=(10.0, 20.0, 30.0), link_rate=400.0)
FORMATS = ["html", "md", "latex", "csv"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("saved")
    methods = ["optimal", "randcoedge", "local"]
    run_study(
        Sweep("arrival_prob", values=(0.3, 0.6), methods=methods, seeds=12, scenario=TINY), home / "load"
    )
    run_study(
        Comparison(["optimal", "randcoedge"], seeds=4, episodes=20, last=5, scenario=TINY), home / "episodes"
    )
    return [home / "load", home / "episodes"]


@pytest.fixture(scope="module")
def report(saved: list[Path]) -> Report:
    return make_report(load_studies(saved))


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report in every format."""
    home = tmp_path_factory.mktemp("written")
    write_report(report, home, FORMATS)
    return home


def rows_of(results: pd.DataFrame, method: str, value: float) -> tuple[np.ndarray, np.ndarray]:
    """Makespans and numbers of tasks, `[seeds]` each."""
    rows = results.loc[(results["method"] == method) & (results["value"] == value)].sort_values("seed")
    return rows["makespan_mean_s"].to_numpy(np.float64), rows["num_tasks"].to_numpy(np.float64)


def test_the_numbers_are_those_of_the_statistics(saved: list[Path]):
    studies = load_studies(saved)
    results = pd.read_parquet(saved[0] / "results.parquet")
    keys = ["condition", "method", "metric", "per", "statistic"]
    found = pd.concat([means(studies[0]), medians(studies[0])]).set_index(keys).sort_index()
    makespans, tasks = rows_of(results, "local", 0.6)
    for per, expected in (
        ("task", ratio_interval(makespans * tasks, tasks)),
        ("episode", mean_interval(makespans)),
    ):
        row = found.loc[0.6, "local", "makespan_mean_s", per, "mean"]
        np.testing.assert_allclose(row[["estimate", "ci_low", "ci_high"]].to_numpy(float), expected)
    summary = pd.read_csv(saved[0] / "summary.csv").set_index(["value", "method", "metric", "per"])
    row = found.loc[0.6, "local", "miss_rate", "task", "mean"]
    for name in ("estimate", "ci_low", "ci_high"):
        assert row[name] == pytest.approx(summary.loc[(0.6, "local", "miss_rate", "task"), name], rel=1e-12)
    compared = comparisons(studies)
    row = compared.set_index(["study", "condition", "metric", "method", "baseline"]).sort_index()
    row = row.loc["load", 0.6, "makespan_mean_s", "optimal", "randcoedge"]
    ours, theirs = (np.multiply(*rows_of(results, m, 0.6)) for m in ("optimal", "randcoedge"))
    found = row[["reduction", "reduction_low", "reduction_high"]].to_numpy(float)
    np.testing.assert_allclose(found, reduction_interval(ours, theirs))
    assert row["p"] == pytest.approx(float(paired_p_value(ours, theirs)))
    assert row["n_seeds"] == 12


def test_a_seed_without_a_number_at_one_value_counts_at_the_others():
    makespans = np.random.default_rng(0).uniform(1, 2, (2, 3, 20))  # method, value, seed
    makespans[0, 1, :4] = np.nan  # episodes without a task
    rows = [
        (
            value,
            method,
            seed,
            0 if np.isnan(makespans[place, column, seed]) else 7,
            makespans[place, column, seed],
        )
        for column, value in enumerate((0.1, 0.2, 0.3))
        for place, method in enumerate(("a", "b"))
        for seed in range(20)
    ]
    results = pd.DataFrame(rows, columns=["condition", "method", "seed", "num_tasks", "makespan_mean_s"])
    study = SavedStudy("study", "sweep", {}, "value", (METRICS["makespan_mean_s"],), results)
    for frame in (means(study), medians(study)):
        frame = frame.loc[frame["metric"] == "makespan_mean_s"]
        assert set(frame["n_seeds_all"]) == {20}
        counts = set(frame[["method", "condition", "n_seeds"]].itertuples(index=False, name=None))
        full = {(method, value, 20) for method in "ab" for value in (0.1, 0.2, 0.3)}
        assert counts == full - {("a", 0.2, 20)} | {("a", 0.2, 16)}
    row = comparisons([study], ["b"]).set_index("condition").loc[0.2]
    ours, theirs = makespans[:, 1, 4:]
    assert row["n_seeds"] == 16
    np.testing.assert_allclose(
        row[["reduction", "reduction_low", "reduction_high"]].to_numpy(float),
        reduction_interval(ours, theirs),
    )
    found = medians(study).set_index(["condition", "method", "statistic"]).loc[0.2, "a", "iqm"]
    assert found["estimate"] == pytest.approx(
        bootstrap_interval(ours, np.random.default_rng(0), "iqm").estimate
    )


def test_p_values_are_corrected_over_all_distinct_tests_of_the_report(saved: list[Path]):
    studies = load_studies(saved)
    # Both optimal and randcoedge are baselines, so that their test stands there both ways round.
    frame = comparisons(studies)
    assert baselines_of(studies[0]) == ["randcoedge", "optimal"]
    pair = ["optimal", "randcoedge"]
    both = frame.loc[frame["method"].isin(pair) & frame["baseline"].isin(pair)]
    mirrored = both.groupby(["study", "condition", "metric"])
    assert all(len(rows) == 2 and rows["p_holm"].nunique(dropna=False) == 1 for _, rows in mirrored)
    single = frame.drop(index=both.index[both["method"] == "optimal"])
    np.testing.assert_array_equal(single["p_holm"], holm(single["p"].to_numpy(float)))


@pytest.mark.parametrize(("methods", "seeds"), [(["optimal"], 12), (["optimal", "randcoedge", "local"], 1)])
def test_sweeps_of_one_method_or_one_seed_have_reports(methods: list[str], seeds: int, tmp_path: Path):
    makespans = {
        (value, method): [value * (1 + place) * (1 + seed) for seed in range(seeds)]
        for value in (0.3, 0.6)
        for place, method in enumerate(methods)
    }
    report = make_report([study_of(makespans)])
    write_report(report, tmp_path, FORMATS)
    numbers = report.compared.drop(columns=["study", "condition", "metric", "method", "baseline"])
    assert set(numbers.drop(columns=["n_seeds", "n_clusters"]).dtypes) == {np.dtype(np.float64)}
    text = (tmp_path / "report.md").read_text()
    assert "nan" not in text
    assert ("### Comparisons" in text) == (len(methods) > 1)
    assert "corrected by Holm" not in (tmp_path / "report.html").read_text()  # there is no p


def test_asked_baselines_are_the_only_ones(saved: list[Path]):
    studies = load_studies(saved[:1])
    assert set(comparisons(studies, ["local"])["baseline"]) == {"local"}
    with pytest.raises(InputError, match="baseline: amcoedge is not in load; legal: optimal, randcoedge"):
        make_report(studies, ["amcoedge"])


def test_warnings_say_what_limits_the_results(report: Report):
    text = "\n".join(map(str, report.warnings))
    assert "episodes: fewer than 10 seeds (greedy optimum 4, randcoedge 4)" in text
    assert re.search(r"load: for means to ± 1 % it takes more seeds: up to \d+ with .* \(here 12\)", text)
    assert "cannot be told from chance" in text


def caveats_of(study: SavedStudy, *baselines: str) -> str:
    return "\n".join(map(str, warnings_of([study], comparisons([study], baselines))))


def test_seeds_are_short_for_a_method_where_its_own_do_not_suffice():
    wide, narrow = [0.9, 1.1] * 250, [0.99, 1.01] * 8  # ± 1 % takes 387 and 7 seeds
    assert "± 1 %" not in caveats_of(study_of({("", "a"): wide, ("", "b"): narrow}, label=""))
    text = caveats_of(study_of({("", "a"): wide[:50], ("", "b"): narrow}, label=""))
    assert re.search(r"study: for means to ± 1 % it takes more seeds: up to 39\d with a \(here 50\)\.", text)


def test_caveats_tell_chance_from_equal_results_and_from_single_seeds():
    found = [0.2, 0.4, 0.6, 0.8]
    makespans = {(1, "local"): found, (1, "same"): found, (1, "near"): [0.21, 0.39, 0.61, 0.8]}
    study = study_of(makespans | {(2, "local"): [0.5], (2, "same"): [0.6]})
    text = caveats_of(study, "local")
    about = "1 of 3 comparisons of mean makespan per task"
    assert (
        f"{about} cannot be told from chance (corrected p of 0.05 or more); their intervals say how" in text
    )
    assert f"{about} found no difference at all: both methods have the same result on every seed." in text
    assert f"{about} could use only a single seed, or stretch of a log, which gives no interval." in text
    assert "fewer than two seeds (local 1, same 1), which give no intervals." in text
    assert "fewer than 10 seeds (near 4): intervals" in text


def test_saturated_servers_are_those_of_methods():
    study = study_of({(v, m): [0.5, 0.6] for v in (1, 2, 3) for m in ("a", "b", "c")})
    busy = (study.results["condition"] > 1) & (study.results["method"] != "c")
    results = study.results.assign(utilisation_0=0.5, utilisation_1=np.where(busy, 1.0, 0.9))
    text = caveats_of(dataclasses.replace(study, columns=(*study.columns, SATURATION), results=results))
    assert "busy for more than 99 % of the time at 2 and 3 with a and b: unless these methods reject" in text


def test_same_results_give_the_same_bytes_in_every_format(saved: list[Path], written: Path, tmp_path: Path):
    write_report(make_report(load_studies(saved)), tmp_path, FORMATS)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(p.name for p in written.iterdir())
    assert {"report.html", "report.md", "estimates.csv", "comparisons.csv", "load-means.tex"} <= set(names)
    assert "load-makespan-mean-s.pdf" in names
    assert "episodes-convergence-published.pdf" in names
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_the_page_says_how_many_comparisons_p_is_corrected_for(report: Report, written: Path):
    page = (written / "report.html").read_text()
    count = np.count_nonzero(~distinct(report.compared)["p"].isna())
    assert f"method over all {count} comparisons of the report (by 4 metrics;" in page
    assert count < len(
        pd.read_csv(written / "comparisons.csv")
    )  # which has those of two baselines both ways round


def test_tables_are_booktabs_and_pipes_with_the_best_in_bold(written: Path):
    latex = (written / "load-means.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    assert re.search(
        r"^0\.3 & greedy optimum & .*12.* tasks.* & .*\\textbf\{0\.\d{4} \$\\pm\$ 0\.\d{4}\}.*per episode",
        latex,
        re.MULTILINE,
    )
    assert not re.search(r"(?<!\\)[%_#]", latex)
    markdown = (written / "report.md").read_text()
    assert re.search(
        r"^\| 0\.3 \| greedy optimum \| 12, \d+ tasks \| \*\*0\.\d{4} ± 0\.\d{4}\*\*, per episode",
        markdown,
        re.MULTILINE,
    )


def test_curves_are_exported_as_the_authors_files(saved: list[Path], tmp_path: Path):
    paths = write_published(load_studies(saved), tmp_path)
    name = "AveMakeSpan_RandCoEdge_tasks6_prob0.3_deadline1.0_f10-30_episode20.csv"
    path = tmp_path / "episodes" / "published" / name
    assert path in paths
    lines = path.read_text().splitlines()
    curves = pd.read_parquet(saved[1] / "curves.parquet")
    curves = curves.loc[(curves["physics"] == "published") & (curves["method"] == "randcoedge")]
    makespans, tasks = (seed_matrix(curves, name) for name in ("makespan_mean_s", "num_tasks"))
    means = (makespans * tasks).sum(axis=0) / tasks.sum(axis=0)
    assert lines == [f"{mean:.4f}" for mean in means]
    with pytest.raises(InputError, match="published_csv: no episodes of training"):
        write_published(load_studies(saved[:1]), tmp_path)


def test_names_in_results_of_others_lead_nowhere(saved: list[Path], tmp_path: Path):
    home = shutil.copytree(saved[1], tmp_path / "theirs")
    curves = pd.read_parquet(home / "curves.parquet")
    shutil.rmtree(home / "curves.parquet")
    curves["physics"] = curves["physics"].replace({"published": "../../up", "unified": ".."})
    curves["method"] = curves["method"].replace({"optimal": "/over/there"})
    (home / "curves.parquet").mkdir()
    curves.to_parquet(home / "curves.parquet" / "0.parquet")
    write_digests(home)
    out = tmp_path / "one" / "two"
    for path in write_published(load_studies([home]), out):
        assert path.resolve().is_relative_to(out / "theirs")
        assert path.exists()


def test_the_command_writes_next_to_the_results_and_refuses_in_a_line(
    saved: list[Path], script: Script, tmp_path: Path
):
    home = tmp_path / "load"
    shutil.copytree(saved[0], home)
    done = command("report", home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(home / "report" / "report.html")
    next((home / "results.parquet").iterdir()).write_bytes(b"PAR1")
    for arguments, words in (
        ((home,), "has changed since it was written"),
        ((tmp_path,), "holds no finished results"),
        ((saved[0], "--format", "docx"), "format: 'docx'"),
        ((saved[0], saved[0]), "given twice"),
        ((), "run: (); legal: a list of at least one entry"),
    ):
        script.assert_refused([words], "report", *arguments)


def test_jain_s_index_of_known_shares():
    shares = np.array([[0.5, 0.5, np.nan], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(jain_index(shares), [1, 1 / 3, np.nan])


SORT_AND_FILTER = """<script>
  for (const details of document.querySelectorAll("details")) details.open = true;
  const table = document.querySelector("section.full table"), column = 3;
  const shown = () => [...table.tBodies[0].rows].map(row => parseFloat(row.cells[column].textContent));
  const button = table.tHead.rows[0].cells[column].querySelector("button");
  button.click(); const up = shown(); button.click(); const down = shown();
  const ordered = (xs, sign) => xs.every((x, i) => i === 0 || sign * (x - xs[i - 1]) >= 0);
  const select = document.querySelectorAll("select")[1];
  select.value = "local"; select.dispatchEvent(new Event("change"));
  const rows = [...document.querySelector(".filtered table").tBodies[0].rows].filter(row => !row.hidden);
  const filtered = rows.length > 0 && rows.every(row => row.cells[1].textContent === "local");
  document.title = `up ${ordered(up, 1)} down ${ordered(down, -1)} filtered ${filtered}`;
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_works_in_a_browser(written: Path, tmp_path: Path):
    page = (written / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(["']?http""", page)
    trial = tmp_path / "trial.html"
    trial.write_text(page.replace("</body>", f"{SORT_AND_FILTER}</body>"))
    line = [
        CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", trial.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<title>up true down true filtered true</title>" in done.stdout
    for words in ("mean makespan per task [s]", "arrival probability", "episode"):
        assert re.search(rf"<text[^>]*>{re.escape(words)}</text>", done.stdout), words


def test_names_in_any_script_give_files_of_their_own(saved: list[Path], tmp_path: Path):
    names = ["方法", "実験", "--", "a_b", "A-B"]
    report = make_report(load_studies([shutil.copytree(saved[1], tmp_path / name) for name in names]))
    write_report(report, tmp_path / "out", ["latex"])
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert {"方法-means.tex", "実験-means.tex", "means.tex", "a-b-means.tex"} <= set(written)
    for item in ("means", "comparisons", "convergence-published", "convergence-unified"):
        assert len({name.casefold() for name in written if item in name}) == len(names)


def test_file_names_are_readable_and_each_given_once():
    names = FileNames()
    texts = [
        "méthode",
        "方法",
        "cdf-0.3",
        "a/b",
        "a b",
        "A-B",
        "..",
        "",
        "x" * 300,
        "x" * 300,
        "../up",
        "a/b",
    ]
    given = [names.take(text) for text in texts]
    assert given[:4] == ["méthode", "方法", "cdf-0.3", "a-b"]
    assert len({name.casefold() for name in given}) == len(texts)
    for name in given:
        assert re.fullmatch(r"\w([\w.-]*\w)?", name)
        assert ".." not in name
        assert len(name.encode()) < 130
    other = FileNames()
    assert [other.take(text) for text in texts] == given


def test_the_terminal_tells_bounds_seeds_and_tasks(capsys: pytest.CaptureFixture[str]):
    rows = [
        ("local", 0.3, "makespan_mean_s", "task", 30, 32, 14400, 7, 0.2, 0.19, 0.21),
        ("local", 0.3, "miss_rate", "task", 30, 32, 14400, 7, 0.0, 0.0, 0.109),
        ("local", 0.3, "miss_rate", "episode", 30, 32, 14400, 7, 0.5, 0.4, 0.6),
        ("optimal", 0.3, "makespan_mean_s", "task", 32, 32, 14400, 32, 0.1, 0.09, 0.11),
        ("optimal", 0.3, "miss_rate", "task", 32, 32, 14400, 32, 3e-6, 2e-6, 4e-6),
    ]
    columns = ["method", "value", "metric", "per", *COUNTS, "estimate", "ci_low", "ci_high"]
    manifest = {
        "param": "arrival_prob", "physics": "unified", "values": [0.3], "methods": ["local", "optimal"],
        "training": {"settings": {}}, "device": {"count": 1, "kind": "cpu"}, "wall_time_s": 1.0,
        "metrics": column_entries(METRICS[name] for name in ("makespan_mean_s", "miss_rate")),
    }  # fmt: skip
    print_summary(pd.DataFrame(rows, columns=columns), manifest)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if "local" in line or "greedy optimum" in line]
    for text in ("30 of 32 on 7 stretches", "14,400", "0.2000 ± 0.0100", "0.0000 [0.0000, 0.1090]"):
        assert text in lines[0], out
    for text in ("│ 32 ", "0.000003 ± 0.000001"):
        assert text in lines[1], out


def test_stretches_of_a_log_are_counted_and_few_of_them_warned_of():
    rng, rows = np.random.default_rng(0), []
    for method, scale in (("optimal", 1.0), ("local", 1.2)):
        rows += [
            (method, 600, seed, seed % 4, 0 if seed == 5 else 50, scale * rng.uniform(1, 2), 0.1)
            for seed in range(20)
        ]
    columns = ["method", "condition", "seed", "stretch", "num_tasks", "makespan_mean_s", "miss_rate"]
    results = pd.DataFrame(rows, columns=columns)
    results.loc[results["num_tasks"] == 0, ["makespan_mean_s", "miss_rate"]] = np.nan
    manifest = {"training": {"settings": {}, "episodes": 1}}
    measured = METRICS["makespan_mean_s"], METRICS["miss_rate"]
    study = SavedStudy("log", "sweep", manifest, "time scale", measured, results)
    row = comparisons([study], ["local"]).iloc[0]
    assert (row["n_seeds"], row["n_clusters"]) == (19, 4)
    assert row["improvement_low"] <= 0.4  # Wilson's, of four
    text = caveats_of(study, "local")
    assert "19 of 20 seeds had tasks at 600" in text
    assert "from 4 distinct stretches of the log" in text
    assert "fewer than 10 stretches of the log (greedy optimum 4, local 4)" in text


def test_methods_that_are_shown_together_have_colours_of_their_own():
    styles = method_styles(["best-2", "optimal", "local", "randcoedge", "mine", "least-wait"])
    assert len({style["color"] for style in styles.values()}) == 6
    assert styles["local"] == method_styles(["local"])["local"]
