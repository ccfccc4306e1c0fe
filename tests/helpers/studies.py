"""Studies of tests whose options are given all in one."""

from __future__ import annotations

from typing import Any

from amco_jax import Study, StudyResult, run_study

CARRYING_OUT = ("out", "execution", "overwrite", "progress")


def carry_out(kind: type[Study], *arguments: Any, **options: Any) -> StudyResult:
    """Run a study of a kind; the options are its fields and the arguments of `run_study`."""
    carrying_out = {name: options.pop(name) for name in CARRYING_OUT if name in options}
    return run_study(kind(*arguments, **options), **carrying_out)
