"""Methods and their learners: what a method takes, and which methods share a program."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from amco_jax.agents.methods import METHODS, Method, get_method
from amco_jax.agents.ppo import PPO, PPOSettings
from amco_jax.agents.pricing import PriceLearner, PriceSettings
from amco_jax.agents.settings import Settings, setting
from amco_jax.errors import InputError


def test_the_policy_of_a_trained_method_is_its_learner_s():
    method = Method("mine", training=PPO())
    assert method.policy == PPO().policy() == METHODS["ppo-sets"].policy
    assert method.policy.sees_slot
    assert dataclasses.replace(method, name="other").policy == method.policy


def test_methods_that_differ_in_traced_settings_alone_share_a_program():
    method = Method("mine", training=PPO())
    for same in ({"clip": 0.3}, {"updates": 3}, {"learning_rate": 0.1}):
        assert method.with_settings(**same) == method
        assert hash(method.with_settings(**same)) == hash(method)
    for other in ({"hidden": 8}, {"batch_size": 3}, {"leak": 0}, {"rollout_slots": 7}):
        assert method.with_settings(**other) != method
    assert Method("mine", training=PPO(episodes=7)) == method
    assert method.with_settings(clip=0.3).require_training().settings == PPOSettings(clip=0.3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"training": 3}, "training: int; legal: an amco_jax.Learner or EpisodeLearner"),
        ({"training": PPO(), "policy": get_method("local").policy}, "policy: one beside a learner; legal"),
        ({}, "policy: NoneType; legal: per_task or per_slot"),
    ],
)
def test_methods_take_a_policy_or_a_learner(arguments: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        Method("mine", **arguments)
    assert str(error.value).startswith(words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StaticSettings(PriceSettings):
    order: int = setting(1, 1, 9, static=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordered(PriceLearner):
    settings: StaticSettings = StaticSettings()
    table: Any = None


def test_methods_of_learners_that_share_a_policy_share_no_program():
    method = Method("mine", training=Ordered())
    assert method.policy == METHODS["amco-priced-trained"].policy
    assert method.with_settings(ridge=0.5) == method
    for other in (method.with_settings(order=2), Method("mine", training=PriceLearner())):
        assert other != method
        assert other.policy == method.policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutSeeds(PriceLearner):
    seeds_per_block = 0


WRONG: tuple[Any, ...] = (0, 2.5, "3")


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (Ordered(table=[1]), "training: Ordered cannot be hashed; legal: fields of "),
        (WithoutSeeds(), "seeds_per_block: 0; legal: a whole number from 1"),
        *((Ordered(episodes=n), f"episodes: {n!r}; legal: a whole number from 1") for n in WRONG),
    ],
)
def test_learners_that_make_no_program_are_refused(unchecked: None, learner: Any, words: str):
    with pytest.raises(InputError) as error:
        Method("mine", training=learner)
    assert str(error.value).startswith(words)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Settings):
    width: tuple[int, ...] = setting((3,), 1, 9, static=True)
    rate: float = setting(0.5, 0, 1)
    count: int = setting(2, 0, 7)
    switch: bool = setting(False)
    rule: str = setting("mean", names=("mean", "sum"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 2}, "rate: 2; legal: a number from 0 to 1"),
        ({"count": 1.5}, "count: 1.5; legal: a whole number from 0 to 7"),
        ({"width": (3, 10)}, "width: 10; legal: a whole number from 1 to 9"),
        ({"switch": 1}, "switch: 1; legal: true or false"),
        ({"rule": "max"}, "rule: 'max'; legal: mean, sum"),
        ({"rule": 1}, "rule: 1; legal: mean, sum"),
        ({"other": 1}, "settings: unknown field 'other'; legal: width, rate, count, switch, rule"),
    ],
)
def test_settings_of_one_s_own_are_checked(changes: dict[str, Any], words: str):
    with pytest.raises(InputError) as error:
        Own().replace(**changes)
    assert str(error.value) == words


def test_settings_have_three_forms():
    settings = Own(width=5, count=3)  # pyright: ignore[reportArgumentType]
    assert settings.to_dict() == {"width": [5], "rate": 0.5, "count": 3, "switch": False, "rule": "mean"}
    traced = settings.traced()
    assert (traced.width, traced.rule) == ((5,), "mean")
    assert [type(x).__name__ for x in (traced.rate, traced.count, traced.switch)] == [
        "float32",
        "int32",
        "bool",
    ]
    static = settings.static()
    assert (static.width, static.rate, static.count, static.switch) == ((5,), None, None, None)
    assert static == Own(width=(5,), switch=True).static()
    assert static != settings.replace(rule="sum").static()
