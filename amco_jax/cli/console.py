"""The set-up of a command line: importing JAX, standard streams that cannot fail, and signals.

`cli.arguments` imports this module before any other that imports JAX, because importing JAX fails if one of
its environment variables has a bad value.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from typing import Any, NoReturn

_ASCII = {
    "±": "+/-", "×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "…": "...", "Δ": "Delta", "ε": "eps",
    "µ": "u", "≤": "<=", "≥": ">=", "→": "->", "’": "'", "“": '"', "”": '"',
}  # fmt: skip
_ERRORS = "amco-jax-ascii"


def fail(message: str) -> NoReturn:
    """End the process with one line on stderr and exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def leave(code: int) -> NoReturn:
    """End the process at once, without any of what Python does at exit.

    Threads of XLA may still be computing after Ctrl-C, and a process that frees what they use may crash.
    """
    os._exit(code)


@contextlib.contextmanager
def surroundings() -> Iterator[list[int]]:
    """Make streams that cannot fail, and treat SIGTERM and SIGHUP like Ctrl-C, until the block ends.

    Yields:
      The numbers of the signals received so far; Ray raises a `KeyboardInterrupt` of its own for each.
    """
    received = []

    def stop(number: int, _: Any) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)
        ):  # fmt: skip
            stream = getattr(sys, name) or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stream = stack.enter_context(_Stream.over(stream, name))
            stack.enter_context(redirect(stream))
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
                    signal.signal(number, stop)
                    stack.callback(signal.signal, number, signal.SIG_DFL)
        yield received


class _Stream:
    """A text stream that never fails, since results do not depend on what is printed.

    Characters that its encoding lacks are replaced. Once its reader is gone or its disk is full, it accepts
    everything and writes nothing.
    """

    def __init__(self, stream: Any, name: str):
        self._stream, self._name = stream, name

    @classmethod
    @contextlib.contextmanager
    def over(cls, stream: Any, name: str) -> Iterator[_Stream]:
        """Wrap a stream, which is flushed at the end."""
        before = getattr(stream, "errors", None)
        if before is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)
        found = cls(stream, name)
        try:
            yield found
        finally:
            found.flush()
            if before is not None and hasattr(stream, "reconfigure"):
                with contextlib.suppress(OSError, ValueError):
                    stream.reconfigure(errors=before)

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        # Buffered text would be written again, and fail again, when the interpreter exits.
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        if self._name == "stdout" and not isinstance(error, BrokenPipeError):
            print(f"stdout: {getattr(error, 'strerror', None) or error}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _in_other_characters(error: UnicodeError) -> tuple[str, int]:
    """An error handler for codecs that replaces characters by ASCII equivalents."""
    assert isinstance(error, UnicodeEncodeError)
    found = []
    for character in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        found.append(_ASCII.get(character) or plain or "?")
    return "".join(found), error.end


def _open_descriptors() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no result file gets the number of a stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


codecs.register_error(_ERRORS, _in_other_characters)
_open_descriptors()
try:
    import jax  # noqa: F401
except (ValueError, ImportError, RuntimeError, OSError) as problem:
    fail(f"environment: JAX cannot be imported: {problem}; legal: JAX_ variables that JAX accepts")
