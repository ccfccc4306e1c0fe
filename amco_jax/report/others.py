"""Pages of runs of commands that other packages add to `amco-jax`."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

from amco_jax.results.saved import kind_of


def page_writer(directory: Path) -> Callable[[Path, Path], Path] | None:
    """The function that writes the page of a run of another package's command; None for other runs.

    The kind of a run is the name of its command. A package that adds a command may define `write_page` in the
    command's module, which takes the directories of a run and of its page, and returns the path of the page.
    """
    for entry in importlib.metadata.entry_points(group="amco_jax.commands", name=kind_of(directory) or ""):
        return getattr(entry.load(), "write_page", None)
    return None
