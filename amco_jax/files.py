"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from amco_jax.errors import InputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends without an exception.

    Raises:
      InputError: `path` cannot be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a directory")
        handle, name = tempfile.mkstemp(prefix=".unfinished-", suffix=path.suffix, dir=path.parent)
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
