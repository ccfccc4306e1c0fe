"""Files that are written whole or not at all, safe file names, and reading text files from users.

A file or directory is first written as a draft under a hidden name, and renamed when it is complete.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
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
from pathlib import Path, PurePath

from amco_jax.errors import InputError

_MAX_BYTES = 100
"""The most bytes of a name, which leaves room for a prefix and a suffix within the usual limit of 255"""


def draft_prefix() -> str:
    """The prefix of the names of this process's drafts."""
    return f".unfinished-{socket.gethostname()}-{os.getpid()}-"


def is_hidden(path: PurePath) -> bool:
    """Whether a relative path is, or is within, something hidden, such as a draft of any process."""
    return any(part.startswith(".") for part in path.parts)


def remove_abandoned(directory: Path) -> None:
    """Remove the drafts that dead processes of this machine have left in a directory."""
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
    """Open and lock a directory; the lock is held until the descriptor is closed or the process ends.

    On a file system without locks, every process gets the lock.

    Returns:
      The file descriptor.

    Raises:
      BlockingIOError: another process holds the lock, and `wait` is not set.
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
    """Readable, unique file names for arbitrary texts, such as the names of methods.

    Letters and digits of any script are kept, as are dots and hyphens inside a name; any other run of
    characters becomes a hyphen. A name that would be empty, too long, invalid on the file system, or equal
    to an earlier one up to letter case, ends in a digest of its text.
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
        if len(name.encode("utf-8")) > _MAX_BYTES:
            name = f"{name.encode('utf-8')[: _MAX_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"
        tries = itertools.chain([name] if name else [], [f"{name}-{digest}".strip("-")])
        numbered = (f"{name}-{digest}-{number}".strip("-") for number in itertools.count(2))
        found = next(each for each in itertools.chain(tries, numbered) if _folded(each) not in self._given)
        self._given.add(_folded(found))
        return found


def _folded(name: str) -> str:
    """A normal form in which two names are equal if a case-insensitive file system would confuse them."""
    return unicodedata.normalize("NFC", name.casefold())


def new_directory(path: Path) -> Path:
    """Create a directory that did not exist: `path`, or `path` with -2, -3, ... appended to its name.

    Raises:
      InputError: no directory can be created there.
    """
    for number in itertools.count(1):
        found = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            found.parent.mkdir(parents=True, exist_ok=True)
            found.mkdir()
            return found
        except FileExistsError:
            if not found.is_dir():
                raise InputError(f"out: {found} cannot be created: a file of that name exists") from None
        except OSError as error:
            raise InputError(f"out: {found} cannot be written: {error.strerror or error}") from error
    raise AssertionError("unreachable")


def made(directory: Path) -> Path:
    """The directory, which is created with its parents if it does not exist.

    Raises:
      InputError: it cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {directory} cannot be written: {error.strerror}") from error
    return directory


@contextlib.contextmanager
def adding(directory: Path) -> Iterator[Path]:
    """A temporary path next to `directory`, where the block makes a directory that gets its name at the end.

    If another process has made `directory` by then, that one is kept.

    Raises:
      OSError: the file system reports an error.
    """
    remove_abandoned(directory.parent)
    draft = directory.parent / f"{draft_prefix()}{directory.name}"
    try:
        yield draft
        try:
            draft.rename(directory)
        except OSError as error:
            # Systems report either of these for a directory that is not empty.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path next to `path`, which replaces it when the block ends without an exception.

    Args:
      durable: whether it is then on disk, so that no crash of the machine can take it back.

    Raises:
      InputError: `path` cannot be written.
    """
    temporary = _draft(path)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files private
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise InputError unless `replacing` can write a file there."""
    _draft(path).unlink()


def _draft(path: Path) -> Path:
    """A new empty file next to `path`.

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
    return Path(name)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, as it begins with UTF-16's mark
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def text_of(raw: bytes) -> str:
    """The text of a user's file, in UTF-8 or as its byte order mark says, with all line ends as \\n.

    Raises:
      UnicodeDecodeError: the bytes are not valid in that encoding.
    """
    found = (encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if raw.startswith(mark))
    text = raw.decode(next(found, "utf-8"))
    return text.replace("\r\n", "\n").replace("\r", "\n")
