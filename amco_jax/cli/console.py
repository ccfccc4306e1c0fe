"""What a command line needs before it can start: JAX, standard streams that cannot fail, and signals.

`cli` imports this module before all others that import JAX, which stops at bad values of its variables.
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


@contextlib.contextmanager
def surroundings() -> Iterator[list[int]]:
    """Streams that cannot fail, and SIGTERM and SIGHUP as Ctrl-C, until the block ends.

    Yields:
      The numbers of those that have come: Ray raises a `KeyboardInterrupt` of its own for each.
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
                if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and so do we then
                    signal.signal(number, stop)
                    stack.callback(signal.signal, number, signal.SIG_DFL)
        yield received


class _Stream:
    """A text stream that never fails: what it shows is for people, and results do not depend on it.

    Characters that its encoding lacks are written in others. Once its reader has gone, or its disk is full,
    it takes everything and writes nothing.
    """

    def __init__(self, stream: Any, name: str):
        self._stream, self._name = stream, name

    @classmethod
    @contextlib.contextmanager
    def over(cls, stream: Any, name: str) -> Iterator[_Stream]:
        """The stream as one that never fails, flushed in the end."""
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
        # What is buffered would be written again, and fail again, when the interpreter ends.
        with contextlib.suppress(OSError, ValueError):
            number, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        if self._name == "stdout" and not isinstance(error, BrokenPipeError):
            print(f"stdout: {getattr(error, 'strerror', None) or error}", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _in_other_characters(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: what ASCII, or nearly so, has for the characters."""
    assert isinstance(error, UnicodeEncodeError)
    found = []
    for character in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        found.append(_ASCII.get(character) or plain or "?")
    return "".join(found), error.end


def _open_descriptors() -> None:
    """Have something behind descriptors 0, 1 and 2, lest a file of results get the number of a stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest free number


codecs.register_error(_ERRORS, _in_other_characters)
_open_descriptors()
try:
    import jax  # noqa: F401
except (ValueError, ImportError, RuntimeError, OSError) as problem:
    fail(f"environment: JAX cannot be imported: {problem}; legal: JAX_ variables with values that JAX takes")
