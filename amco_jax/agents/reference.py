"""What methods are compared with, and no one could use in operation: a bound, and a clairvoyant planner.

Neither is a rule: studies compute the bound (`study.bound`), and the plan of each episode (`study.planner`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Array, Bool

from amco_jax.agents.policy import Policy, TaskView, per_task
from amco_jax.agents.pricing import cheapest_set, load_and_transfer
from amco_jax.errors import InputError


class Plan(NamedTuple):
    """The prices of an episode by slot, base station and position; in a view, those of one task."""

    work: Any
    """`[num_slots, num_servers, max_tasks, num_servers]`, s/Gcycle on each server right after the decision"""
    delay: Any
    """`[num_slots, num_servers, max_tasks]`, s per second on the link of the base station"""


def planned(view: TaskView) -> Bool[Array, " num_servers"]:
    """The set of least makespan plus the prices of the plan; empty where rejecting the task costs less.

    A miss costs no more than the deadline that its makespan counts as, since a plan is made for the makespan.

    Raises:
      InputError: there is no plan.
    """
    if not isinstance(view.agent, Plan):
        raise InputError("method: planner needs a plan of each drawn episode; legal: in a sweep")
    load, transfer = load_and_transfer(view)
    price = view.agent.work * load + view.agent.delay * transfer
    selected, total = cheapest_set(price, view)
    return selected & (total <= view.params.deadline)


def undecided(view: TaskView) -> Array:
    """Raise InputError; only `rollout` comes here, as studies call `Method.check_decides`."""
    raise InputError("method: bound is a lower bound and decides nothing; legal: in a sweep")


PLANNED = Policy(planned, sees_slot=False, by_position=True)
UNDECIDED = per_task(undecided)
"""Stands for a policy where there is none"""
