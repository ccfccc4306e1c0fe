"""What all command lines share: parsing, and errors as one line with exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tyro

from amco_jax.agents.methods import Method, get_allocator, get_method
from amco_jax.cli import console  # before all that imports JAX
from amco_jax.compile.runtime import check_devices, check_xla_flags, configure
from amco_jax.errors import InputError
from amco_jax.identity import attribute_of
from amco_jax.metrics import Metric
from amco_jax.results.files import FileNames, new_directory
from amco_jax.scenario import Scenario
from amco_jax.scenario.axes import load_with_settings, parse_assignments, parse_settings, parse_value
from amco_jax.study.engines import Execution

Args = TypeVar("Args")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramArguments:
    """Of every script that compiles programs."""

    starts_jax: ClassVar[bool] = True
    """Whether it computes in its own process, and not in others alone"""

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, for the next time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceArguments:
    """The arguments of every script that may play a request log."""

    trace: str | None = None
    """A request log whose arrivals are played: CSV or JSON lines, gzipped or not; a table [trace] in the
    scenario file says which of its columns mean what."""
    trace_unit: str | None = None
    """The unit of its times: s, ms, us, ns or a number of seconds, or a format of dates such as
    "%d.%m.%Y %H:%M"; by default recognised."""
    trace_delimiter: str | None = None
    """The character between its cells, or tab; by default recognised."""
    trace_since: str | None = None
    """Requests before this time, written as in the log, are left out."""
    trace_until: str | None = None
    """Requests after this time are left out."""
    trace_train_share: float | None = None
    """The share of the log, from its beginning, that agents are trained on and nothing is evaluated on; by
    default 0.5."""

    def trace_fields(self) -> dict[str, Any] | None:
        """Fields of `Trace` that are given; None where there are none."""
        given = {
            "file": self.trace,
            "unit": self.trace_unit,
            "delimiter": self.trace_delimiter,
            "since": self.trace_since,
            "until": self.trace_until,
            "train_share": self.trace_train_share,
        }
        return {name: value for name, value in given.items() if value is not None} or None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioArguments(TraceArguments, ProgramArguments):
    """Of every script that simulates a scenario."""

    scenario: str = "default"
    """A preset or a TOML file."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """field=value ..., on top of the scenario."""

    def load_scenario(self) -> Scenario:
        """The scenario that the arguments describe."""
        return load_with_settings(self.scenario, parse_settings(self.set), self.trace_fields())


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputArguments:
    """Of every script that writes results."""

    out: Path | None = None
    """Directory for the results; by default a new one under results/."""
    overwrite: bool = False
    """Replace the results in --out."""
    quiet: bool = False
    """No progress bar and no table."""

    resumes: ClassVar[bool] = False
    """Whether --resume goes on with an interrupted run"""

    def destination(self, name: str) -> Path:
        """The directory for the results of a run by that name, which nobody else has if it is a new one."""
        if self.out is not None:
            return self.out
        name = f"{FileNames().take(name)}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        made = new_directory(Path("results") / name)
        self.__dict__["made"] = made  # as a cached property would; for `running` to know of it
        return made

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Tell how to go on where the run is interrupted, and leave no empty directory behind."""
        try:
            yield
        except KeyboardInterrupt as stop:
            home = self.out or self.__dict__.get("made")
            if self.resumes and home is not None and any(home.glob("*")):
                stop.add_note(f"the same command with --out {home} --resume goes on")
            raise
        finally:
            if (made := self.__dict__.get("made")) is not None:
                with contextlib.suppress(OSError):  # they are not empty
                    made.rmdir()
                    made.parent.rmdir()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments(OutputArguments):
    """The arguments of every script that carries out a study."""

    metrics: tuple[str, ...] = ()
    """Metrics to measure beside the usual: names, or module:attribute for an amco_jax.Metric of your own."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    resumes: ClassVar[bool] = True

    def ends(self, missing: int) -> bool:
        """Whether nothing is left to print; the last shard alone has a result."""
        if missing:
            print(f"{missing} units are not computed yet; the shard that ends last writes the results")
        return self.quiet or missing > 0


def run(
    arguments: type[Args],
    main: Callable[[Args], None],
    description: str,
    words: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the words of a command line, by default the process's, into `arguments`, and call `main` with it.

    Bad input, or surroundings in which the work cannot be done, end the process with one line on stderr and
    exit code 2; Ctrl-C, SIGTERM and SIGHUP with one line and exit code 128 plus the signal's number.
    """
    with console.surroundings() as signals:
        args = _parse(arguments, description, words, prog)
        try:
            with args.running() if isinstance(args, OutputArguments) else contextlib.nullcontext():
                _prepare(args)
                main(args)
        except InputError as error:
            console.fail(str(error))
        except OSError as error:
            console.fail(f"{error.filename or 'file'}: {error.strerror or error}")
        except KeyboardInterrupt as stop:
            print("; ".join(["interrupted", *getattr(stop, "__notes__", [])]), file=sys.stderr)
            sys.exit(128 + (signals or [signal.SIGINT])[0])


def _prepare(args: Any) -> None:
    """Raise InputError where the surroundings do not let the work begin."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError("working directory: it was removed; legal: one that exists") from error
    compiles = isinstance(args, ProgramArguments)
    if compiles:
        check_xla_flags()
    configure(compilation_cache=compiles and args.compilation_cache)
    if compiles and args.starts_jax:
        check_devices()


def load_method(name: str) -> Method:
    """The method of a name, or a user's own `Method` from `module:attribute`; with +allocator if so wished.

    Modules are looked up in the working directory first.

    Raises:
      InputError: no such module or attribute, or not a `Method`.
    """
    if ":" not in name:
        return get_method(name)
    path, plus, allocator = name.partition("+")
    method = _imported("method", path, Method)
    return method.with_allocator(allocator) if plus else method


def load_metrics(names: Sequence[str]) -> list[str | Metric]:
    """Names of metrics as they are, and users' own metrics from `module:attribute`.

    Raises:
      InputError: no such module or attribute, or not a `Metric`.
    """
    return [_imported("metrics", name, Metric) if ":" in name else name for name in names]


def _imported(field: str, name: str, kind: type[T]) -> T:
    """The object that `module:attribute` names, which must be of a kind."""
    found = attribute_of(field, name)
    if not isinstance(found, kind):
        legal = f"an amco_jax.{kind.__name__}"
        raise InputError(f"{field}: '{name}' is a {type(found).__name__}; legal: {legal}")
    return found


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


def _parse(arguments: type[Args], description: str, words: Sequence[str] | None, prog: str | None) -> Args:
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
        console.fail(re.sub(r"[─-╿\s]+", " ", message.getvalue()).strip())
