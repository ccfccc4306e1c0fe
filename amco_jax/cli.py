"""What all command lines share: parsing, and errors as one line with exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from amco_jax.agents.methods import Method, get_allocator, get_method
from amco_jax.errors import InputError
from amco_jax.experiment.axes import load_with_settings, parse_assignments, parse_settings, parse_value
from amco_jax.runtime import configure
from amco_jax.scenario import Scenario

Args = TypeVar("Args")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramArguments:
    """Of every script that compiles programs."""

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, for the next time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioArguments(ProgramArguments):
    """Of every script that simulates a scenario."""

    scenario: str = "default"
    """A preset or a TOML file."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value ..., on top of the scenario."""
    trace: str | None = None
    """A request log, CSV or gzipped CSV, whose arrivals are played; a table [trace] in the scenario file says
    which of its columns mean what."""

    def load_scenario(self) -> Scenario:
        """The scenario that the arguments describe."""
        return load_with_settings(self.scenario, parse_settings(self.set), self.trace)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputArguments:
    """Of every script that writes results."""

    out: Path | None = None
    """Directory for the results; by default a new one under results/."""
    overwrite: bool = False
    """Replace the results in --out."""
    quiet: bool = False
    """No progress bar and no table."""

    def destination(self, name: str) -> Path:
        """The directory for the results of a run by that name."""
        return self.out or Path("results") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def run(
    arguments: type[Args],
    main: Callable[[Args], None],
    description: str,
    words: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the words of a command line, by default the process's, into `arguments`, and call `main` with it.

    Bad input ends the process with one line on stderr and exit code 2.
    """
    args = _parse(arguments, description, words, prog)
    configure(compilation_cache=getattr(args, "compilation_cache", False))
    try:
        main(args)
    except InputError as error:
        _exit(str(error))
    except OSError as error:
        _exit(f"{error.filename or 'file'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def load_method(name: str) -> Method:
    """The method of a name, or a user's own `Method` from `module:attribute`.

    Modules are looked up in the working directory first.

    Raises:
      InputError: no such module or attribute, or not a `Method`.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        return get_method(name)
    sys.path.insert(0, "")
    try:
        method = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs the user's code, which may raise anything
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"method: '{name}' cannot be imported: {reason}") from error
    finally:
        sys.path.remove("")
    if not isinstance(method, Method):
        raise InputError(f"method: '{name}' is a {type(method).__name__}; legal: an amco_jax.Method")
    return method


def load_trained_method(name: str, settings: Sequence[str], allocator: str | None = None) -> Method:
    """A trained method with `["discount=0", ...]` in place of its own settings.

    Raises:
      InputError: a rule, or bad settings.
    """
    method = load_method(name)
    if allocator is not None and get_allocator(allocator) is not method.allocator:
        method = method.with_allocator(allocator)
    changes = {key: parse_value(value) for key, value in parse_assignments("learn", settings).items()}
    return method.with_settings(**changes)


def _parse(arguments: type[Args], description: str, words: Sequence[str] | None, prog: str | None) -> Any:
    """Like `tyro.cli`, with the boxed error message pressed into one line."""
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                arguments, prog=prog, description=description, args=words, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _exit(re.sub(r"[─-╿\s]+", " ", message.getvalue()).strip())


def _exit(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
