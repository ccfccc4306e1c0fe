"""The commands of `amco-jax`, one module each, with `Arguments`, `main` and a docstring for its help.

Other packages can add commands through entry points in the group `amco_jax.commands`.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from amco_jax import __version__

COLLECTIONS = 50_000, 20, 50
"""The thresholds of Python's garbage collector in commands"""


def main() -> None:
    """Run the command that the command line names; `amco-jax --help` lists all commands."""
    name, *words = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(__version__)
    elif name in (modules := command_modules()):
        start(modules[name], words, prog=f"amco-jax {name}")
    else:
        print(f"error: command: {name!r}; legal: {', '.join(modules)}, --help, --version", file=sys.stderr)
        sys.exit(2)


def start(module: str, words: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command in a module.

    Args:
      module: the full name of the module.
      words: the arguments of the command; by default, those of the process.
      prog: the name of the command in its help; by default, that of the file that was started.
    """
    with _importing():
        from amco_jax.cli.arguments import run  # imports JAX, which the list of commands does not need

        command = importlib.import_module(module)
    run(command.Arguments, command.main, command.__doc__ or "", words, prog)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Import with the garbage collector off, freeze what was imported, and collect rarely afterwards.

    Hardly any of what is imported or traced is garbage. Searching the former took a sixth of the time of a
    sweep of 128 seeds on two cores, and searching the latter another tenth.
    """
    first = gc.isenabled() and "jax" not in sys.modules
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
            gc.set_threshold(*COLLECTIONS)


def command_modules() -> dict[str, str]:
    """The modules of all installed commands, by command name."""
    own = {info.name: f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__)}
    others = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=__name__)}
    return dict(sorted((others | own).items()))


def _help() -> str:
    modules = command_modules()
    width = max(map(len, modules))
    lines = [f"  {name:{width}}  {_summary(module)}" for name, module in modules.items()]
    return "\n".join(
        [
            "usage: amco-jax [-h] [--version] COMMAND ...",
            "",
            "Simulate collaborative edge computing for AI-generated-content services.",
            "",
            "commands:",
            *lines,
            "",
            "amco-jax COMMAND --help lists the arguments of a command.",
        ]
    )


def _summary(module: str) -> str:
    """The first line of a module's docstring, read without importing the module, which would import JAX."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
