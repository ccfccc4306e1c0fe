"""The order of imports, as docs/architecture.md states it, and the links of all pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

PACKAGE = ROOT / "amco_jax"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]


def listed() -> list[str]:
    """The modules of the table in order; `.name` belongs to the package of the name before it."""
    table = re.search(
        r"\| module \| holds \|\n(.*?)\n\n", (ROOT / "docs/architecture.md").read_text("utf-8"), re.S
    )
    assert table is not None
    names: list[str] = []
    for row in table[1].splitlines()[1:]:
        for name in re.findall(r"`([\w.]+)`", row.split("|")[1]):
            names.append(names[-1].rpartition(".")[0] + name if name.startswith(".") else name)
    return names


def modules() -> dict[str, Path]:
    """The files by their names in the table; packages whose `__init__.py` is empty are left out."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and path.read_text("utf-8"):
            found[name] = path
    return found


def imported(path: Path, names: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, whether or not that is on its first lines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "amco_jax":
            module = (node.module or "").removeprefix("amco_jax").lstrip(".")
            if [alias.name for alias in node.names] == ["__version__"]:
                continue  # a constant of the package itself
            inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names} & names.keys()
            found |= inner or {module}
        elif isinstance(node, ast.Import):
            found |= {name for alias in node.names if (name := alias.name.removeprefix("amco_jax.")) in names}
    return found


def test_every_module_stands_in_the_table_once():
    assert sorted(listed()) == sorted(modules())


@pytest.mark.parametrize("name", modules())
def test_modules_import_from_above(name: str):
    above = listed()[: listed().index(name)]
    assert imported(modules()[name], modules()) <= set(above)


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
