"""This machine: the name of its processor, and the memory of this process."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path


def processor() -> str:
    """The processor's name if the system reports it, else its architecture."""
    try:
        found = re.search(r"^model name\s*:(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    name = "" if found is None else " ".join(found[1].split())
    return name or platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most memory that this process has held so far, bytes."""
    status = Path("/proc/self/status")
    # On Linux, getrusage also counts the memory that the parent held when it started this process.
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 2**10
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
