"""Slips in a user's learner, which are refused in one line when it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest
from helpers.refusals import refused
from helpers.tiny_training import METHOD, TINY, run

from amco_jax.agents.learner import BaseLearner
from amco_jax.agents.methods import Method, get_method

SLOTS = METHOD.require_training()
EPISODES = get_method("amco-priced-trained").require_training()


def faulty(learner: BaseLearner, name: str, change: Callable[[Any], Any]) -> Method:
    """A method whose learner is the given one, but for what a function returns."""
    right = getattr(type(learner), name)

    def wrong(*arguments: Any) -> Any:
        return change(right(*arguments))

    kind: Any = dataclasses.dataclass(frozen=True, kw_only=True)(
        type("Faulty", (type(learner),), {name: wrong})
    )
    fields = {field.name: getattr(learner, field.name) for field in dataclasses.fields(learner)}
    return Method("faulty", training=kind(**fields))


@pytest.mark.parametrize(
    ("learner", "name", "change", "words"),
    [
        (
            SLOTS, "sets", lambda sets: 2 * sets.astype(jnp.int32),
            "sets: Faulty.sets returns int32[4, 2]; legal: bool[4, 2]",
        ),
        (SLOTS, "sets", lambda sets: sets[0], "sets: Faulty.sets returns bool[2]; legal: bool[4, 2]"),
        (SLOTS, "sets", lambda sets: None, "sets: Faulty.sets returns NoneType; legal: bool[4, 2]"),
        (
            SLOTS, "rounds", lambda rounds: rounds.astype(jnp.float32),
            "rounds: Faulty.rounds returns float32[]; legal: integer[]",
        ),
        (
            SLOTS, "learn", lambda found: (found[0], {}, found[2]),
            "step_logs: Faulty.learn logs nothing; legal: loss",
        ),
        (
            SLOTS, "learn", lambda found: (found[0], found[1] | {"more": found[1]["loss"]}, found[2]),
            "step_logs: Faulty.learn logs loss, more; legal: loss",
        ),
        (SLOTS, "report", lambda logs: {}, "episode_logs: Faulty.report logs nothing; legal: epsilon"),
        (SLOTS, "report", lambda logs: None, "episode_logs: Faulty.report logs NoneType; legal: epsilon"),
        (
            EPISODES, "learn", lambda found: (*found[:2], {}),
            "episode_logs: Faulty.learn logs nothing; legal: price_change",
        ),
        (
            SLOTS, "check_training", lambda found: None,
            "check_training: Faulty.check_training returns None; legal: a list of sentences",
        ),
        (
            SLOTS, "check_training", lambda found: "nothing",
            "check_training: Faulty.check_training returns 'nothing'; legal: a list of sentences",
        ),
        (SLOTS, "memory_rows", lambda rows: 2.5, "memory_rows: 2.5; legal: a whole number from 1"),
    ],
)  # fmt: skip
def test_wrong_results_are_refused(learner: Any, name: str, change: Callable[[Any], Any], words: str):
    method = faulty(learner, name, change)
    refused(lambda: run(method=method, scenario=TINY, seeds=1, episodes=1), words)
