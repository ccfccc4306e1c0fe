"""Several programs for the same results, of which the best one that the device supports runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax

from amco_jax.errors import first_line

log = logging.getLogger(__name__)


def first_that_compiles(name: str, programs: Sequence[Any]) -> Any:
    """The first of several programs for the same results that the device supports, as a jitted function.

    Args:
      name: what the programs compute, for the warning that is logged when only the last one is left.
      programs: jitted functions, the best one first.
    """
    return programs[0] if len(programs) == 1 else _FirstThatCompiles(name, programs)


class _FirstThatCompiles:
    def __init__(self, name: str, programs: Sequence[Any]):
        self._name, self._programs = name, list(programs)

    def _use(self, attempt: Callable[[Any], Any]) -> Any:
        while len(self._programs) > 1:
            try:
                return attempt(self._programs[0])
            except Exception as error:  # an experimental compiler may raise anything
                if "RESOURCE_EXHAUSTED" in str(error):
                    raise
                reason = first_line(error)
                del self._programs[0]
                level = logging.INFO if len(self._programs) > 1 else logging.WARNING
                log.log(level, "%s runs as a scan, as it cannot be one kernel: %s", self._name, reason)
        return attempt(self._programs[0])

    def __call__(self, *inputs: Any) -> Any:
        if len(self._programs) == 1:
            return self._programs[0](*inputs)
        return self._use(lambda program: jax.block_until_ready(program(*inputs)))

    def lower(self, *inputs: Any) -> Any:
        return self._use(lambda program: program.lower(*inputs))
