"""Methods as data: a policy, an allocator, and the physics of the published code."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

from amco_jax.agents import rules
from amco_jax.agents.actions import (
    ActionSpace,
    Factorised,
    nonempty_sets,
    partners,
    sets_of,
)
from amco_jax.agents.learner import BaseLearner
from amco_jax.agents.plus import PlusLearner
from amco_jax.agents.policy import Policy, per_task
from amco_jax.agents.ppo import PPO
from amco_jax.agents.pricing import PRICED, PriceLearner
from amco_jax.agents.qlearning import QLearning, QSettings
from amco_jax.agents.reference import PLANNED, UNDECIDED
from amco_jax.alloc import ALLOCATORS, Allocator, check_allocator, cwa, waterfill
from amco_jax.env import CONSERVING, SERIAL, UNIFIED, Physics
from amco_jax.errors import InputError, check_choice, check_list, check_whole
from amco_jax.identity import hashable, name_of

_RAND = Physics(wait_capped=True, link_carries_local=True, link_capped=False, rewarded=False)
_SMC = Physics(wait_capped=True, link_carries_local=True, link_capped=False, miss_penalty=2.0)
_DRL = dataclasses.replace(_SMC, local_waits_for_link=True, local_transfer_in_pair=True)
_OPTIMAL = Physics(link_capped=False, rewarded=False)

PAPER_METHODS = ("amcoedge", "smcoedge", "drlcoedge", "randcoedge", "optimal")
"""The methods of the paper, each of which has a published code"""

COMMON_PHYSICS = {"unified": UNIFIED, "conserving": CONSERVING, "serial": SERIAL}
"""Physics that are the same for all methods"""

PHYSICS = {
    "unified": "one model for all methods",
    "published": "the model of each method's published code",
    "conserving": "the unified model with links that carry over",
    "serial": "the conserving model with links that send one thing after another",
}
"""The variants of the physics, and what they are"""

BOUND = "bound"
"""The name of the lower bound on all methods"""

PLANNER = "planner"
"""The name of the clairvoyant planner"""

REFERENCES = (BOUND, PLANNER)
"""What no one could use in operation, and reports therefore never call best"""


@dataclasses.dataclass(frozen=True)
class Method:
    """A decision method: a given or learnt policy (stage 1) and an allocator (stage 2).

    Raises:
      InputError: there is neither a policy nor a learner, or both; or the allocator is not callable.
    """

    name: str
    policy: Policy = None  # pyright: ignore[reportAssignmentType]  # never None after __post_init__
    """To be omitted for a trained method, whose learner provides it"""
    allocator: Allocator = cwa
    _: dataclasses.KW_ONLY
    published: Physics = UNIFIED
    """The physics row of the `published` variant, that of the method's published code"""
    max_servers: int | None = None
    """The largest fleet that the policy can handle; None for any"""
    is_bound: bool = False
    """Whether it is a lower bound on all methods, of which studies have `study.bound` compute the rows"""
    training: BaseLearner | None = dataclasses.field(default=None, compare=False)
    """The learner and its settings; None for rules. Its static form is compared instead: methods that differ
    only in traced settings share a compiled program."""
    learner: BaseLearner | None = dataclasses.field(default=None, init=False, repr=False)
    """The static form of `training`, which is all of it that a program contains"""

    def __post_init__(self):
        if self.training is not None:
            if not isinstance(self.training, BaseLearner):
                raise InputError(
                    f"training: {name_of(self.training)}; legal: an amco_jax.Learner or EpisodeLearner"
                )
            object.__setattr__(self, "learner", _static(self.training))
            learnt = self.training.policy()
            if self.policy not in (None, learnt):
                raise InputError("policy: one beside a learner; legal with training: none")
            object.__setattr__(self, "policy", learnt)
        if not isinstance(self.policy, Policy):
            raise InputError(
                f"policy: {name_of(self.policy)}; legal: per_task or per_slot of a function that chooses sets"
            )
        object.__setattr__(self, "allocator", hashable("allocator", self.allocator))

    @property
    def takes_long(self) -> bool:
        """Whether a seed takes long: agents are trained, or it is a reference. Sweeps then have fewer."""
        return self.training is not None or self.is_reference

    @property
    def is_reference(self) -> bool:
        """Whether it is one of `REFERENCES`: a lower bound, or a plan of what no one could know."""
        return self.is_bound or self.policy.by_position

    def require_training(self) -> BaseLearner:
        """The learner of a trained method.

        Raises:
          InputError: the method is a rule.
        """
        if self.training is None:
            raise InputError(f"method: {self.name} is a rule; legal: {', '.join(TRAINED)}")
        return self.training

    def check_rule(self, purpose: str) -> None:
        """Raise InputError if it is trained or a bound, for a purpose to which no agents are given."""
        self.check_decides()
        if self.training is not None:
            raise InputError(f"method: {self.name} is trained; legal {purpose}: a method without training")

    def train_episodes(self, episodes: int | None) -> int:
        """The number of training episodes: those given, or by default the learner's own; 0 for a rule."""
        if self.training is None:
            return 0
        return self.training.episodes if episodes is None else episodes

    def check_decides(self) -> None:
        """Raise InputError if it is a lower bound, which decides nothing."""
        if self.is_bound:
            raise InputError(f"method: {self.name} is a lower bound and decides nothing; legal: in a sweep")

    def check_usable(self) -> None:
        """Raise InputError if it is a reference, which no one could use in operation."""
        self.check_decides()
        if self.is_reference:
            raise InputError(f"method: {self.name} knows all arrivals in advance; legal: in a sweep")

    def with_settings(self, **changes: Any) -> Method:
        """The method with some settings of its learner changed.

        Raises:
          InputError: the method is a rule, or a setting is unknown or not legal.
        """
        learner = self.require_training()
        learner = dataclasses.replace(learner, settings=learner.settings.replace(**changes))
        return dataclasses.replace(self, policy=None, training=learner)

    def with_allocator(self, allocator: str) -> Method:
        """The method with another allocator, whose name is appended to the method's name.

        Raises:
          InputError: there is no such allocator, or the method is a reference, which has its own.
        """
        chosen = get_allocator(allocator)
        if self.is_reference:
            raise InputError(f"method: {self.name}+{allocator}; legal: {self.name}")
        name = f"{without_allocator(self.name)}+{allocator}"
        return dataclasses.replace(self, name=name, allocator=chosen)

    def physics(self, variant: str) -> Physics:
        """The physics row of the method under a variant, which is a name in `PHYSICS`.

        Raises:
          InputError: the variant is unknown, or a lower bound is none under it.
        """
        check_choice("physics", variant, PHYSICS)
        row = COMMON_PHYSICS.get(variant, self.published)
        if self.is_bound and row.link_serial:
            legal = ", ".join(name for name in PHYSICS if name != variant)
            raise InputError(f"physics: {variant}; legal for the method {self.name}: {legal}")
        return row

    def check(self, num_servers: int) -> None:
        """Raise InputError if the method cannot handle a fleet of this size, or its allocator is none."""
        if self.max_servers is not None and num_servers > self.max_servers:
            raise InputError(
                f"num_servers: {num_servers}; legal for the method {self.name}: at most {self.max_servers}"
            )
        check_allocator(self.allocator, num_servers)
        if self.training is not None:
            self.training.check(num_servers)


def without_allocator(name: str) -> str:
    """The name of a method without the suffix that selects an allocator."""
    own_name, plus, last = name.rpartition("+")
    return own_name if plus and last in ALLOCATORS else name


def _static(learner: BaseLearner) -> BaseLearner:
    """The learner as a part of the keys of programs; InputError if it is not usable as such."""
    check_whole("seeds_per_block", learner.seeds_per_block)
    check_whole("episodes", learner.episodes)
    found = learner.static()
    try:
        hash(found)
    except TypeError as error:
        raise InputError(
            f"training: {name_of(learner)} cannot be hashed; legal: fields of numbers, names, tuples and "
            "functions"
        ) from error
    return found


def _q_learning(
    name: str,
    actions: Callable[[int], ActionSpace],
    episodes: int,
    settings: QSettings,
    published: Physics = UNIFIED,
) -> Method:
    learner = QLearning(actions=actions, settings=settings, episodes=episodes)
    return Method(name, published=published, training=learner)


def trained_method(
    name: str,
    actions: Callable[[int], ActionSpace],
    *,
    episodes: int = 300,
    allocator: str = "cwa",
    **settings: Any,
) -> Method:
    """A custom Q-learning method, with the unified physics.

    Args:
      name: the name in tables and figures.
      actions: a function from the number of servers to the action space. Methods share compiled programs only
        if this is the same function.
      episodes: default number of training episodes.
      allocator: name of the allocator.
      settings: fields of `QSettings`; those not given keep the published values of AMCoEdge.

    Raises:
      InputError: the allocator or a setting is unknown, or a value is out of range.
    """
    method = _q_learning(name, actions, episodes, QSettings().replace(**settings))
    return dataclasses.replace(method, allocator=get_allocator(allocator))


_AEQN = QSettings()
_PAIR = QSettings(hidden=(20, 20), init_std=0.5, replay_capacity=1024, target_interval=200)

_STABLE = {
    "leak": 0.3,
    "discount": 0.0,
    "replay_capacity": 8000,
    "learning_rate": 3e-3,
    "learning_rate_decay": 3e-3,
    "learn_interval": 2,
    "greedy_growth": 5e-4,
    "reward_offset": 0.2,
    "reward_scale": 30.0,
    "scale_inputs": True,
    "target_interval": 1,
    "target_rate": 3e-3,
    "deploy_target": True,
}
"""Found by the search over settings in docs/methods.md."""

_REGRET = _STABLE | {
    "reward": "regret",
    "reward_offset": 0.0,
    "reward_scale": 3.0,
    "learning_rate": 6e-3,
    "learning_rate_decay": 1e-3,
    "learn_interval": 1,
    "greedy_growth": 1e-3,
}
"""Likewise, for trainings of 50 episodes at any load."""

_AEQN_REGRET = {"leak": 0.0, "reward_scale": 1.0, "learning_rate": 3e-3, "learning_rate_decay": 0.0}
"""What differs for `amcoedge-regret`; the other two did not gain by it in the same searches."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _q_learning("amcoedge", nonempty_sets, 500, _AEQN),
        _q_learning("smcoedge", sets_of(3), 300, _PAIR, _SMC),
        _q_learning("drlcoedge", partners, 400, _PAIR, _DRL),
        _q_learning("amcoedge-stable", nonempty_sets, 300, _AEQN.replace(**_STABLE)),
        _q_learning("smcoedge-stable", sets_of(3), 300, _PAIR.replace(**_STABLE), _SMC),
        _q_learning("drlcoedge-stable", partners, 300, _PAIR.replace(**_STABLE), _DRL),
        _q_learning("amcoedge-regret", nonempty_sets, 50, _AEQN.replace(**_REGRET | _AEQN_REGRET)),
        _q_learning("smcoedge-regret", sets_of(3), 50, _PAIR.replace(**_REGRET), _SMC),
        _q_learning("drlcoedge-regret", partners, 50, _PAIR.replace(**_REGRET), _DRL),
        _q_learning("amcoedge-factorised", Factorised, 300, _AEQN.replace(**_STABLE)),
        Method("ppo-sets", training=PPO()),
        Method("amcoedge-plus", allocator=waterfill, training=PlusLearner()),
        Method("amco-priced-trained", allocator=waterfill, training=PriceLearner()),
        Method("amco-priced", PRICED, waterfill),
        Method(BOUND, UNDECIDED, is_bound=True),
        Method(PLANNER, PLANNED, waterfill),
        Method("randcoedge", per_task(rules.random_pair), published=_RAND),
        Method("local", per_task(rules.local_only)),
        Method("all-servers", per_task(rules.all_servers)),
        Method("fastest-1", per_task(rules.fastest(1))),
        Method("fastest-3", per_task(rules.fastest(3))),
        Method("least-wait", per_task(rules.least_wait)),
        Method("two-choices", per_task(rules.two_choices)),
        Method("optimal", per_task(rules.optimal), published=_OPTIMAL),
        Method("optimal-admission", per_task(rules.optimal_admission), published=_OPTIMAL),
        Method(
            "optimal-enumeration",
            per_task(rules.optimal_enumeration),
            published=_OPTIMAL,
            max_servers=10,
        ),
    )
}

TRAINED = tuple(name for name, method in METHODS.items() if method.training is not None)


def get_method(method: str | Method) -> Method:
    """A method by name, or the method itself.

    Names are those in `METHODS`, `fastest-k`, `smcoedge-k` and `smcoedge-stable-k` for sets of k servers, and
    `best-k` and `best-k-local` for sets of at most k. A suffix such as `+hecwa` selects another allocator.

    Raises:
      InputError: it is neither a name nor a method, or there is no such method or allocator.

    Example:
      >>> get_method("randcoedge+hecwa").allocator.__name__
      'hecwa'
      >>> get_method("amcoedge").with_settings(discount=0).training.settings.discount
      0.0
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise InputError(f"method: a {type(method).__name__}; legal: a name, or an amco_jax.Method")
    return _named_method(method)


def get_methods(methods: Sequence[str | Method]) -> list[Method]:
    """A list of methods, by name or as objects.

    Raises:
      InputError: the list is empty or names a method twice, or there is no such method or allocator.
    """
    chosen = [get_method(m) for m in check_list("methods", methods)]
    if len({m.name for m in chosen}) < len(chosen):
        raise InputError(f"methods: {', '.join(m.name for m in chosen)}; legal: each method once")
    return chosen


@functools.cache  # the same object for the same name, so that nothing is compiled twice
def _named_method(name: str) -> Method:
    base, plus, allocator = name.partition("+")
    if plus:
        return _named_method(base).with_allocator(allocator)
    if match := re.fullmatch(r"fastest-([1-9]\d{0,5})", name):
        return Method(name, per_task(rules.fastest(int(match[1]))))
    if match := re.fullmatch(r"best-([1-9]\d{0,5})(-local)?", name):
        return Method(name, per_task(rules.best(int(match[1]), match[2] is not None)), published=_OPTIMAL)
    if match := re.fullmatch(r"(smcoedge(?:-stable)?)-([1-9]\d?)", name):
        learner = dataclasses.replace(METHODS[match[1]].require_training(), actions=sets_of(int(match[2])))
        return Method(name, published=_SMC, training=learner)
    if name not in METHODS:
        legal = f"{', '.join(METHODS)}, fastest-k, best-k, best-k-local, smcoedge-k, smcoedge-stable-k"
        raise InputError(f"method: {name!r}; legal: {legal}, and with +allocator")
    return METHODS[name]


def get_allocator(name: str) -> Allocator:
    """An allocator by name.

    Raises:
      InputError: there is no such allocator.
    """
    check_choice("allocator", name, ALLOCATORS)
    return ALLOCATORS[name]
