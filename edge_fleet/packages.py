"""The packages of the extra `fleet`, imported on first use."""

from __future__ import annotations

import functools
import os

from sd_repair import packages

load_package = functools.partial(packages.load_package, extra="fleet")
"""Import a module by name; InputError if that is not possible."""


def quiet_grpc() -> None:
    """Keep gRPC, before its first use, from printing lines about connections that have ended."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
