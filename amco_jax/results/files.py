"""Files: written whole or not at all, as drafts under hidden names first; and the text of those of users."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import glob
import hashlib
import itertools
import os
import re
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from amco_jax.errors import InputError

_MOST_BYTES = 100
"""Of a name, so that with what stands before and behind it, it stays within the 255 of most file systems"""


def draft_prefix() -> str:
    """How the names of this process's drafts begin."""
    return f".unfinished-{socket.gethostname()}-{os.getpid()}-"


def remove_abandoned(directory: Path) -> None:
    """Remove the drafts that processes of this machine which are no more have left in a directory."""
    for left in directory.glob(f".unfinished-{glob.escape(socket.gethostname())}-*"):
        pid = left.name.removeprefix(f".unfinished-{socket.gethostname()}-").partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def lock(directory: Path, wait: bool = False) -> int:
    """Open a directory, and keep others from locking it until the descriptor is closed or the process ends.

    File systems without locks let everyone in.

    Raises:
      BlockingIOError: someone else has locked it, and `wait` is not set.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:
        pass
    return handle


class FileNames:
    """Names of files for texts from wherever, such as those of methods: readable, and each given once.

    Letters and digits of any script stay, and dots and hyphens inside; a run of anything else becomes a
    hyphen. A name that would be empty, too long, no name to the file system, or equal to an earlier one but
    for the case of letters, ends in a digest of its text.
    """

    def __init__(self):
        self._given: set[str] = set()

    def take(self, text: str) -> str:
        """A new name for a text."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = re.sub(r"[^\w.]+|_+", "-", unicodedata.normalize("NFC", text)).strip("-.")
        name = re.sub(r"\.-|-\.|\.\.+", "-", name)
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            name = ""
        if len(name.encode("utf-8")) > _MOST_BYTES:
            name = f"{name.encode('utf-8')[: _MOST_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"
        tries = itertools.chain([name] if name else [], [f"{name}-{digest}".strip("-")])
        numbered = (f"{name}-{digest}-{number}".strip("-") for number in itertools.count(2))
        found = next(each for each in itertools.chain(tries, numbered) if _folded(each) not in self._given)
        self._given.add(_folded(found))
        return found


def _folded(name: str) -> str:
    """What file systems that ignore case take for the same name."""
    return unicodedata.normalize("NFC", name.casefold())


def new_directory(path: Path) -> Path:
    """Make a directory that nobody else has: `path`, or with -2, -3, ... behind its name.

    Raises:
      InputError: none can be made there.
    """
    for number in itertools.count(1):
        found = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            found.parent.mkdir(parents=True, exist_ok=True)
            found.mkdir()
            return found
        except FileExistsError:
            if not found.is_dir():
                raise InputError(f"out: {found} cannot be made: a file is in the way") from None
        except OSError as error:
            raise InputError(f"out: {found} cannot be written: {error.strerror or error}") from error
    raise AssertionError("there is always another number")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an exception.

    Raises:
      InputError: `path` cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        handle, name = tempfile.mkstemp(prefix=draft_prefix(), suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"out: {path} cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp keeps its files private
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def text_of(raw: bytes) -> str:
    """The text of a file that a user hands in: UTF-8, or what its byte order mark says, with newlines as \\n.

    Raises:
      UnicodeDecodeError: the bytes are no such text.
    """
    found = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if raw.startswith(mark))
    text = raw.decode(next(found, "utf-8"))
    return text.replace("\r\n", "\n").replace("\r", "\n")
