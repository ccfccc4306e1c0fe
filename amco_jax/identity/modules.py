"""The user's own modules: which ones they are, where their source is, and what they import."""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HOME = Path(os.path.realpath(__file__)).parents[1]
"""The directory of this package"""


def is_own(name: str | None) -> bool:
    """Whether a module is the user's own: neither built in, nor installed, nor part of this package.

    Code typed at a prompt or in a notebook, which has no file, and code whose module has no name (None) are
    also the user's own.
    """
    if (place := _place(name)) is not None:
        return not _is_installed(place)
    if name is None or name == "__main__":
        return True
    # Frozen and built-in modules have a specification. Modules without one were made by a user or by an
    # extension module. A name without a module comes from code that a user executed.
    by_hand = getattr(sys.modules.get(name), "__spec__", None) is None
    return by_hand and ("." not in name or is_own(name.rpartition(".")[0]))


def source_file(name: str) -> Path | None:
    """The file of a module, imported or not; None if the module has no file or does not exist."""
    place = _place(name)
    return None if place is None or place.is_dir() else place


def _place(name: str | None) -> Path | None:
    """The file of a module, or the directory of a namespace package."""
    if name is None:
        return None
    try:
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else getattr(module, "__spec__", None)
    except Exception:  # finding a submodule imports its package, which may raise anything
        return None
    file = getattr(module, "__file__", None) or (spec.origin if spec and spec.has_location else None)
    places = [file] if file else list((spec and spec.submodule_search_locations) or ())
    return Path(os.path.realpath(places[0])) if places else None


def version(name: str | None) -> str:
    """The version of the installed package that a module belongs to, or an empty string."""
    package = sys.modules.get((name or "").partition(".")[0])
    return str(getattr(package, "__version__", ""))


def imports(name: str, source: bytes) -> Iterator[str]:
    """The modules that a module's source imports anywhere, and the packages that contain them.

    For a module outside the user's code, only its top-level package is given.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # such as an extension module
        return
    package = getattr(sys.modules.get(name), "__package__", None) or name.rpartition(".")[0]
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level == 0 or package):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            found = [f"{base}.{alias.name}" for alias in node.names]  # some may not be modules
        for each in found:
            parts = each.split(".")
            yield parts[0]
            if is_own(parts[0]):
                yield from (".".join(parts[:end]) for end in range(2, len(parts) + 1))


@functools.cache
def _installed() -> tuple[Path, ...]:
    """The directories of the standard library, of installed packages and of this package."""
    of_python = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    sites = [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(os.path.realpath(path)) for path in (*of_python, *sites, HOME))


@functools.cache
def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(directory) for directory in _installed())
