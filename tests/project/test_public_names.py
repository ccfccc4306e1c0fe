"""The public names: how they are called."""

from __future__ import annotations

import dataclasses
import inspect

import amco_jax

RECORDS = {
    "Bound", "Context", "Episode", "Experience", "Gradient", "Params", "Physics", "SlotOutcome", "SlotView",
    "StudyResult", "TaskOutcome", "TaskView",
}  # fmt: skip
"""Plain data that users read, or whose fields they name, rather than functions with arguments"""


def test_few_arguments_are_positional():
    many = set()
    for name in amco_jax.__all__:
        value = getattr(amco_jax, name)
        if callable(value) and value is not amco_jax.InputError:
            places = [
                each
                for each in inspect.signature(value).parameters.values()
                if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
            ]
            many |= {name} if len(places) > 3 else set()
    assert many == RECORDS
    for name in RECORDS:
        record = getattr(amco_jax, name)
        assert dataclasses.is_dataclass(record) or issubclass(record, tuple), name
