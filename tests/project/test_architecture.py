"""The order of imports, as docs/architecture.md states it, and the paths and links that files name."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
CONFIGURATION = [".pre-commit-config.yaml", "pyproject.toml", ".ci/*", ".github/workflows/*", "docs/conf.py"]
PARTS = "amco_jax|benchmarks|docs|edge_fleet|scripts|sd_repair|tests"
NAMING = [
    *(path for pattern in CONFIGURATION for path in ROOT.glob(pattern)),
    *(page for page in PAGES if page.name != "CHANGELOG.md"),  # which names what has since been moved
    *(path for part in PARTS.split("|") for path in (ROOT / part).rglob("*.py")),
]
"""The files that name paths of the repository"""
TABLES = {"amco_jax": "| module | holds |", "edge_fleet": "| module of `edge_fleet` | holds |"}
"""The head of the table of each package whose modules have an order"""
USES = {"amco_jax": [], "sd_repair": ["amco_jax"], "edge_fleet": ["amco_jax", "sd_repair"]}
"""The packages of the repository, and those that each may import beside itself"""


@functools.cache
def listed(package: str) -> list[str]:
    """The modules of a table in order; `.name` belongs to the package of the name before it."""
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    table = re.search(rf"{re.escape(TABLES[package])}\n(.*?)\n\n", page, re.S)
    assert table is not None
    names: list[str] = []
    for row in table[1].splitlines()[1:]:
        for name in re.findall(r"`([\w.]+)`", row.split("|")[1]):
            names.append(names[-1].rpartition(".")[0] + name if name.startswith(".") else name)
    return names


@functools.cache
def modules(package: str) -> dict[str, Path]:
    """The files by their names in the table; an `__init__.py` with nothing but a docstring is left out."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        statements = ast.parse(path.read_text("utf-8")).body
        if name and not (parts[-1] == "__init__" and all(isinstance(each, ast.Expr) for each in statements)):
            found[name] = path
    return found


def imported(text: str, home: str) -> set[str]:
    """The modules of the repository that a file imports, whether or not that is on its first lines.

    Args:
      text: the file.
      home: the full name of its package, to which relative imports refer.
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = home.split(".")[: home.count(".") + 2 - node.level] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            names = {f"{origin}.{alias.name}" for alias in node.names} - {"amco_jax.__version__"}
            found |= {name if is_module(name) else origin for name in names}
    return {name for name in found if name.split(".")[0] in USES}


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def forbidden(package: str, name: str, text: str) -> set[str]:
    """The imports of a module of a package that the order does not allow."""
    order = listed(package)
    allowed = {f"{package}.{other}" for other in order[: order.index(name)]}
    home = ".".join(modules(package)[name].relative_to(ROOT).parent.parts)
    return {other for other in imported(text, home) if other.split(".")[0] == package} - allowed


@pytest.mark.parametrize("package", TABLES)
def test_every_module_stands_in_the_table_once(package: str):
    assert sorted(listed(package)) == sorted(modules(package))


@pytest.mark.parametrize(("package", "name"), [(each, name) for each in TABLES for name in modules(each)])
def test_modules_import_from_above(package: str, name: str):
    assert not forbidden(package, name, modules(package)[name].read_text("utf-8"))


@pytest.mark.parametrize("package", USES)
def test_packages_import_only_those_that_they_may(package: str):
    for path in (ROOT / package).rglob("*.py"):
        home = ".".join(path.relative_to(ROOT).parent.parts)
        found = {name.split(".")[0] for name in imported(path.read_text("utf-8"), home)}
        assert found <= {package, *USES[package]}, path


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("errors", "import amco_jax", "amco_jax"),
        ("errors", "import amco_jax.report.figures as figures", "amco_jax.report.figures"),
        ("errors", "from amco_jax import Scenario", "amco_jax"),
        ("errors", "from amco_jax import __version__, study", "amco_jax.study"),
        ("errors", "from amco_jax.scenario import Scenario", "amco_jax.scenario"),
        ("errors", "def later():\n    from .scenario import fields", "amco_jax.scenario.fields"),
        ("errors", "from . import study", "amco_jax.study"),
        ("errors", "from . import Scenario", "amco_jax"),
        ("stats.clusters", "from .summaries import Summary", "amco_jax.stats.summaries"),
        ("stats", "from . import summaries", "amco_jax.stats.summaries"),
        ("stats.clusters", "from ..report import page", "amco_jax.report.page"),
        ("stats.clusters", "from amco_jax.stats import clusters", "amco_jax.stats.clusters"),
    ],
)
def test_every_way_of_importing_from_below_is_found(name: str, line: str, found: str):
    assert forbidden("amco_jax", name, line) == {found}


def test_imports_from_above_and_from_elsewhere_are_allowed():
    lines = "import jax\nfrom amco_jax import __version__\nfrom .intervals import x\nfrom ..errors import y"
    assert not forbidden("amco_jax", "stats.clusters", lines)
    assert imported("import edge_fleet.wire\nfrom sd_repair import images", "amco_jax") == {
        "edge_fleet.wire", "sd_repair.images"
    }  # fmt: skip


def named_paths(text: str) -> set[str]:
    """The paths of the repository in a text, without patterns such as `tests/golden/learn_*`."""
    found = re.findall(rf"(?<![\w/.-])(?:(?:{PARTS})/|\.ci/|\.github/)[\w./-]*+(?![*{{])", text)
    return {path.rstrip(".-/") for path in found}


def test_named_paths_exist():
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in NAMING
        for name in named_paths(path.read_text("utf-8"))
        if not (ROOT / name).exists() and not (ROOT / f"{name}.md").exists()
    }
    assert not missing


def test_pages_import_only_what_the_reference_describes():
    described = set(re.findall(r"automodule:: (amco_jax[\w.]*)", (ROOT / "docs/api.md").read_text("utf-8")))
    for page in PAGES:
        used = re.findall(r"^ *(?:from|import) (amco_jax[\w.]*)", page.read_text("utf-8"), re.M)
        assert set(used) <= described, page


def test_files_of_the_tables_of_changes_exist():
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    for name in re.findall(r"`([\w-]+/[\w/]*\.\w+)`", page):
        assert (ROOT / name).exists() or (ROOT / "amco_jax" / name).exists(), name


def test_paths_are_found_in_texts():
    text = "run docs/files.md, (.ci/run) or `tests/alloc/`. Not a/docs/x, tests/golden/learn_* nor docs/{a,b}"
    assert named_paths(text) == {"docs/files.md", ".ci/run", "tests/alloc"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = page.parent / file if file else page
        assert found.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, (
                target
            )
