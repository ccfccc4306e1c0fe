"""Code shared by all command lines: parsing, and errors as one line with exit code 2."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import os
import re
import signal
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tyro

from amco_jax.cli import console  # before anything that imports JAX

# isort: split
from amco_jax.agents.methods import PHYSICS, Method, get_allocator, get_method
from amco_jax.alloc import ALLOCATORS
from amco_jax.compile.runtime import check_devices, check_xla_flags, configure
from amco_jax.errors import InputError
from amco_jax.files import FileNames, new_directory
from amco_jax.identity import attribute_of
from amco_jax.metrics import Metric
from amco_jax.scenario import Scenario
from amco_jax.scenario.axes import load_with_settings, parse_assignments, parse_settings, parse_value
from amco_jax.study.base import Study, StudyResult
from amco_jax.study.engines import Execution
from amco_jax.study.run import run_study

Args = TypeVar("Args")
T = TypeVar("T")


def physics_argument(more: str = "") -> Any:
    """The help of an argument that is a variant of the physics.

    Args:
      more: the end of the help, with the punctuation before it but without the last full stop.
    """
    return tyro.conf.arg(help="; ".join(f"{name}: {words}" for name, words in PHYSICS.items()) + more + ".")


def allocator_argument(by_default: str) -> Any:
    """The help of an argument that is the name of an allocator."""
    return tyro.conf.arg(help=f"{', '.join(ALLOCATORS)}; by default, {by_default}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramArguments:
    """Arguments of every command that compiles programs."""

    starts_jax: ClassVar[bool] = True
    """Whether the command computes in its own process, rather than only in others"""

    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory for later runs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceArguments:
    """Arguments of every command that can replay a request log."""

    trace: str | None = None
    """A request log whose arrivals are replayed: CSV or JSON lines, gzipped or not. A [trace] table in the
    scenario file gives the meaning of its columns."""
    trace_unit: str | None = None
    """The unit of the log's times: s, ms, us, ns or a number of seconds, or a format of dates such as
    "%d.%m.%Y %H:%M". Detected by default."""
    trace_delimiter: str | None = None
    """The character between the log's cells, or tab. Detected by default."""
    trace_since: str | None = None
    """Requests before this time, written as in the log, are left out."""
    trace_until: str | None = None
    """Requests after this time are left out."""
    trace_train_share: float | None = None
    """The share of the log, from its start, that is used for training and never for evaluation; 0.5 by
    default."""

    def trace_fields(self) -> dict[str, Any] | None:
        """The fields of `Trace` that are given, or None if there are none."""
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
class SettingsArguments:
    """Arguments of every command that takes changes to a scenario."""

    set: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
    """Changes to the scenario, as field=value ..."""
    warmup: str | None = None
    """The number of slots at the beginning of each episode that are simulated but that no metric counts; in
    sweeps and evaluations also auto, for what MSER-5 finds in a pilot run of each method. Whenever it is
    given there, even as 0, you are warned if episodes are still not stationary after it."""

    def settings(self) -> dict[str, Any]:
        """The changes as values by name."""
        return parse_settings([*self.set, *([] if self.warmup is None else [f"warmup={self.warmup}"])])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScenarioArguments(SettingsArguments, TraceArguments, ProgramArguments):
    """Arguments of every command that simulates a scenario."""

    scenario: str = "default"
    """A preset or a TOML file."""

    def load_scenario(self, swept: str = "") -> Scenario:
        """The scenario that the arguments describe, of which a quantity may be swept."""
        return load_with_settings(self.scenario, self.settings(), self.trace_fields(), swept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputArguments:
    """Arguments of every command that writes results."""

    out: Path | None = None
    """Directory for the results; by default, a new one under results/."""
    overwrite: bool = False
    """Replace the results in --out."""
    quiet: bool = False
    """Show no progress bar and print no table."""

    resumes: ClassVar[bool] = False
    """Whether --resume continues an interrupted run"""
    made: list[Path] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)
    """The directories that `destination` has created, for `running`"""

    def destination(self, name: str) -> Path:
        """The directory for the results: --out, or a newly created one named after `name` and the time."""
        if self.out is not None:
            return self.out
        name = f"{FileNames().take(name)}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        self.made.append(new_directory(Path("results") / name))
        return self.made[-1]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Say how to resume if the run is interrupted, and leave no empty directory behind."""
        try:
            yield
        except KeyboardInterrupt as stop:
            for home in [self.out] if self.out is not None else self.made:
                if self.resumes and any(home.glob("*")):
                    but = " and without --overwrite" if self.overwrite else ""
                    stop.add_note(to_continue(f"--out {home} --resume{but}"))
            raise
        finally:
            for made in self.made:
                with contextlib.suppress(OSError):  # not empty
                    made.rmdir()
                    made.parent.rmdir()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsArguments:
    """Arguments of every command that takes further metrics."""

    metrics: tuple[str, ...] = ()
    """Metrics in addition to the usual ones: names, or module:attribute for an amco_jax.Metric of your
    own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyArguments(MetricsArguments, OutputArguments):
    """Arguments of every command that runs a study."""

    execution: Execution = dataclasses.field(default_factory=Execution)
    resumes: ClassVar[bool] = True

    def fields_of(self, size: type) -> dict[str, Any]:
        """The arguments, by name, that a study takes as they are: the fields of `size`, a dataclass."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(size)}

    def carry_out(self, study: Study, name: str) -> StudyResult | None:
        """Run the study in a directory named after `name`, unless --out is given.

        Returns:
          The result; None if there is nothing to print, as with --quiet or before the last shard ends.

        Raises:
          InputError: see `run_study`; what resumes or is a shard gets no new directory.
        """
        result = run_study(
            study,
            self.out if self.execution.joins else self.destination(name),
            execution=self.execution,
            overwrite=self.overwrite,
            progress=not self.quiet,
        )
        if result.missing:
            are = "1 unit is" if result.missing == 1 else f"{result.missing} units are"
            print(f"{are} not computed yet; the last shard to finish writes the results")
        return None if self.quiet or result.missing else result


def to_continue(options: str) -> str:
    """What to tell a user who has interrupted a command that can be continued with these options."""
    return f"to continue, run the same command with {options}"


def run(
    arguments: type[Args],
    main: Callable[[Args], None],
    description: str,
    words: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse a command line, by default that of the process, into `arguments`, and call `main` with it.

    If `arguments` has a field `command`, whose type is a union of dataclasses, each of these is a subcommand,
    and `main` is called with its arguments.

    Bad input, or an environment in which the command cannot run, ends the process with one line on stderr and
    exit code 2; Ctrl-C, SIGTERM and SIGHUP end it with one line and exit code 128 plus the signal's number.
    """
    interrupted = 0
    with console.surroundings() as signals:
        args: Any = _parse(arguments, description, words, prog)
        args = getattr(args, "command", args)  # of a command that consists of several
        try:
            with _running(args):
                _prepare(args)
                main(args)
        except InputError as error:
            console.fail(str(error))
        except OSError as error:
            console.fail(f"{error.filename or 'file'}: {error.strerror or error}")
        except KeyboardInterrupt as stop:
            print("; ".join(["interrupted", *getattr(stop, "__notes__", [])]), file=sys.stderr)
            interrupted = 128 + (signals or [signal.SIGINT])[0]
    if interrupted:
        console.leave(interrupted)


def _running(args: object) -> contextlib.AbstractContextManager[Any]:
    return args.running() if isinstance(args, OutputArguments) else contextlib.nullcontext()


def _prepare(args: Any) -> None:
    """Set up JAX; InputError if the command cannot run in this environment."""
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
    """A method by name, or a user's own `Method` as `module:attribute`, either with an optional `+allocator`.

    Modules are looked up in the working directory first.

    Raises:
      InputError: the name is unknown, the module or attribute does not exist, or it is not a `Method`.
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
    """A trained method with some of its settings replaced, given as `["discount=0", ...]`.

    Raises:
      InputError: the method is a rule, or a setting is bad.
    """
    method = load_method(name)
    if allocator is not None and get_allocator(allocator) is not method.allocator:
        method = method.with_allocator(allocator)
    changes = {key: parse_value(value) for key, value in parse_assignments("learn", settings).items()}
    return method.with_settings(**changes)


def _parse(arguments: type[Args], description: str, words: Sequence[str] | None, prog: str | None) -> Args:
    """Like `tyro.cli`, but lists may be given in parts, and its boxed error message is one line."""
    message = io.StringIO()
    try:
        words = _joined(arguments, sys.argv[1:] if words is None else words)
        with contextlib.redirect_stderr(message):
            return tyro.cli(
                arguments, prog=prog, description=description, args=words, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        console.fail(re.sub(r"[─-╿\s]+", " ", message.getvalue()).strip())


def _joined(arguments: type, words: Sequence[str]) -> list[str]:
    """A command line in which an option that takes a list has the values of all its occurrences.

    Of any other option that is repeated, the last occurrence counts, as is usual.
    """
    lists = _list_options(arguments)
    here: list[str] = []
    parts: dict[str | int, list[str]] = {"": here}
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("_", "-")
        if name == option or not name:  # a value
            here.append(word)
        elif name in lists:
            here = parts.setdefault(name, [option])
            here += [value] if equals else []
        else:
            here = parts[place] = [word]
    return [word for part in parts.values() for word in part]


def _list_options(arguments: type) -> set[str]:
    """The names of the options that take several values, also those of parts and of subcommands."""
    found = set()
    for name, hint in typing.get_type_hints(arguments).items():
        for kind in (hint, *typing.get_args(hint)):
            if typing.get_origin(kind) is tuple:
                found.add(name.replace("_", "-"))
            elif dataclasses.is_dataclass(kind) and isinstance(kind, type):
                found |= _list_options(kind)
    return found
