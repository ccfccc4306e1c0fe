"""Sphinx settings of the documentation site, which is built from the root of the repository."""

from __future__ import annotations

from sphinx.application import Sphinx

import amco_jax

project = "AMCo-JAX"
release = version = amco_jax.__version__
copyright = author = "the AMCo-JAX authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["*.md", "docs/*.md", "benchmarks/**.md"]
exclude_patterns = [".venv"]
root_doc = "README"
html_theme = "furo"
html_title = project

myst_heading_anchors = 4  # as GitHub links to headings

autodoc_member_order = "groupwise"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
default_role = "py:obj"  # docstrings put code between single backticks

CONTENTS = """
```{toctree}
:hidden:
:glob:
docs/methods
docs/model
docs/adding-a-policy
docs/metrics
docs/adding-a-learner
docs/workloads
docs/files
docs/reports
docs/statistics
docs/*
benchmarks/README
benchmarks/*/*
CONTRIBUTING
CHANGELOG
```
"""


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the table of contents to the README, where GitHub would show it as code."""
    if name == root_doc:
        source[0] += CONTENTS


def keep_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put the first line of an attribute's docstring together again.

    Napoleon takes what stands before a colon in it as the type of the attribute.
    """
    types = [line for line in lines if line.startswith(":type: ")]
    if what in ("attribute", "data", "property") and types:
        lines.remove(types[0])
        lines[0] = f"{types[0].removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", keep_colons, priority=600)  # after Napoleon
