"""Shadow prices: what load costs the tasks that come later, and decisions that take it into account.

`optimal` gives each task its least makespan and ignores what that costs the tasks behind it. The rule
`priced` minimises makespan + Σ_i price_i·x_i instead, in closed form (`alloc.priced_support`), with

    price_i = π_i·w + π_link·d/r_{b,i}    ([i≠b] for the second term),

π_i is the price of a Gcycle on server i, and π_link that of a second of b's link. f_i·π_i has no unit: it is
the number of later tasks that wait for server i to finish.

If the work that is still to come were a fluid, and links were free, it would fill the servers like connected
vessels up to a level T*, and exactly f_i·(T* - wait_i)/w of the mean work w of a task would come to server i,
each delayed by whatever is added there. Hence π_i = (T* - wait_i)/w. Links let the levels differ, and a few
coefficients say by how much. None of them has a unit, so that they hold for fleets and loads of any size;
docs/prices.md tells how well.

The coefficients that matter most can also be learnt in the scenario at hand, by regression on the exact
prices along simulated episodes, the derivatives of the summed makespan in background load
(`kernel.gradient`). The prices then change the decisions and with them the prices, so learning alternates
between the two: dual heuristic programming with exact costates.

Source: Werbos, "Approximate dynamic programming for real-time control and neural modeling" (1992).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from amco_jax.agents.learner import EpisodeLearner, Outcome
from amco_jax.agents.policy import Policy, TaskView, per_task
from amco_jax.agents.rules import optimal
from amco_jax.agents.settings import Settings, setting
from amco_jax.alloc import priced_support, waterfill
from amco_jax.alloc.cwa import positive
from amco_jax.alloc.waterfill import water_level
from amco_jax.env import Background, Decision, split
from amco_jax.params import Params, Shape
from amco_jax.random import Key

_FEWEST = 1e-3
"""Tasks that are counted on at least, so that the level of the fluid is defined"""
_SPREAD = 0.4
"""The scale of the number of tasks still to come, relative to the square root of its mean"""


class Prices(NamedTuple):
    """The coefficients of the prices, which are an agent's knowledge."""

    work: Any
    """The price of work, as a multiple of that in a fluid"""
    link: Any
    """The price of the link, as a multiple of the number of tasks that would wait for it in a fluid"""
    apart: Any
    """How far the level of a server may exceed the common one, in transfers per task still to come to it"""
    below: Any
    """How far it may fall short of the common one, as a multiple of what it may exceed it by"""
    doubt: Any
    """How little expected tasks count: n of them count as n² / (n + doubt)"""
    displaced: Any
    """The number of later misses per task that no longer fits before the deadline"""
    miss: Any
    """The price of a miss, in deadlines, beyond the deadline that its makespan counts as"""


def priced(view: TaskView) -> Bool[Array, " num_servers"]:
    """The set of least makespan plus prices; empty where rejecting the task costs less, or it would be late.

    The coefficients are those of the view's agents, which are the same at all base stations, or `SHIPPED`.
    The set is that of `cheapest_set`, and the task is rejected where there is none, or where makespan, prices
    and the misses that it would cause exceed the deadline and the price of its own miss.
    """
    known = _known(view)
    fluid = fluid_of(view, known)
    of_link = jnp.maximum(known.link * fluid.waiting, 0)
    price = jnp.maximum(known.work, 0) * fluid.relative * fluid.left + of_link * fluid.transfer
    return set_at(price, view, fluid, known)


def set_at(
    price: Float[Array, " num_servers"], view: TaskView, fluid: Fluid, known: Prices
) -> Bool[Array, " num_servers"]:
    """`cheapest_set`; empty where rejecting the task costs less.

    Args:
      price: `[num_servers]`, s, what the whole task on each server costs others.
    """
    deadline = view.params.deadline
    selected, total = cheapest_set(price, view)
    saved = 1 - known.displaced * _displaced(view, fluid)
    return selected & (total <= deadline * (1 + known.miss * saved))


def cheapest_set(
    price: Float[Array, " num_servers"], view: TaskView
) -> tuple[Bool[Array, " num_servers"], Float[Array, ""]]:
    """The set of least makespan plus prices of those that are in time, and this minimum, s.

    They are the empty set and infinity if no set is in time. The sets are the prefixes in order of price, see
    `priced_support`; of tasks that are split into whole images, that set and the one of least makespan.
    """
    deadline, service = view.params.deadline, view.params.service
    selected, total = priced_support(view.wait, view.cost, price, limit=deadline)
    if service is None or not service.whole:
        return selected, total

    def of_images(servers: Array) -> tuple[Array, Array]:
        fraction, makespan = split(view.params, waterfill, view.task.size, view.wait, view.cost, servers)
        in_time = jnp.any(servers) & (makespan <= deadline)
        return fraction > 0, jnp.where(in_time, makespan + jnp.sum(price * fraction), jnp.inf)

    (greedy, of_greedy), (selected, total) = of_images(optimal(view)), of_images(selected)
    total, selected = jnp.minimum(total, of_greedy), jnp.where(total < of_greedy, selected, greedy)
    return selected & jnp.isfinite(total), total


def load_and_transfer(view: TaskView) -> tuple[Array, Float[Array, " num_servers"]]:
    """What the whole task adds to a server, Gcycles, and d/r_{b,i}, s, which is 0 at its own base station.

    With an image service, the former is `[num_servers]`.
    """
    service = view.params.service
    load = view.task.work if service is None else view.task.work + view.task.size * service.overhead
    return load, jnp.where(view.local, 0, view.cost - load / view.params.capacity)


def _known(view: TaskView) -> Prices:
    """The coefficients of the view's agents, or those that are shipped."""
    return SHIPPED if view.agent is None else jax.tree.map(lambda leaf: leaf[0], view.agent)


class Fluid(NamedTuple):
    """The tasks still to come, as a fluid that fills the servers."""

    relative: Float[Array, ""]
    """The task's work relative to the mean of all tasks so far"""
    pace: Float[Array, " num_servers"]
    """Mean tasks that each server does per second"""
    transfer: Float[Array, " num_servers"]
    """d/r_{b,i}, s, of the task; 0 at its own base station"""
    wait: Float[Array, " num_servers"]
    """Waits for the servers alone, s"""
    left: Float[Array, " num_servers"]
    """How much longer each server will be filled, s"""
    waiting: Float[Array, ""]
    """The number of tasks still to come at the base station, each as far as it is sent to other servers"""
    total: Float[Array, ""]
    """The number of tasks still to come"""


def fluid_of(view: TaskView, known: Prices) -> Fluid:
    """The fluid that a decision sees."""
    task, params, coming = view.task, view.params, view.coming
    load, transfer = load_and_transfer(view)
    seconds = load / params.capacity
    mean_work = (view.arrived.work + task.work) / (view.arrived.tasks + 1)
    relative = task.work / mean_work
    pace = params.capacity * (relative / load)
    wait = jnp.maximum(view.wait - jnp.where(view.local, 0, view.link_delay), 0)
    total = jnp.sum(coming)
    counted = jnp.maximum(total * total / positive(total + known.doubt), _FEWEST)
    least = jnp.min(wait)
    level = jnp.minimum(least + water_level(wait - least, pace * (1 / counted)), params.deadline)
    # How far levels differ: stations send nothing away for less than it costs, and attract nothing.
    apart = known.apart * jnp.sum(transfer) / max(wait.shape[0] - 1, 1)
    below = known.below * apart * jnp.sum(coming * coming) / positive(total)
    end = level + jnp.clip(wait + coming * seconds * (1 / relative) - level, -below, apart * coming)
    left = jnp.where(total > 0, jnp.maximum(end - wait, 0), 0)
    here, own = (jnp.sum(jnp.where(view.local, values, 0)) for values in (coming, pace))
    waiting = here * (1 - own / jnp.sum(pace))
    return Fluid(relative, pace, transfer, wait, left, waiting, total)


def _displaced(view: TaskView, fluid: Fluid) -> Array:
    """By how much the task raises the expected number of mean tasks that will find no room in time.

    It is E[max(K - n, 0)] for a number K of tasks still to come, and room for n mean tasks before the
    deadline, less the same without the task. K is taken to have a logistic distribution.
    """
    room = jnp.sum(fluid.pace * jnp.maximum(view.params.deadline - fluid.wait, 0))
    spread = _SPREAD * jnp.sqrt(fluid.total + _FEWEST)

    before = (fluid.total - room) / spread
    after = before + fluid.relative / spread
    # Both are log(1 + exp(·)), less their larger part, which may overflow.
    shares = (1 + jnp.exp(-jnp.abs(after))) / (1 + jnp.exp(-jnp.abs(before)))
    return spread * (jnp.maximum(after, 0) - jnp.maximum(before, 0) + jnp.log(shares))


def work_feature(view: TaskView) -> Float[Array, " num_servers"]:
    """f_i·π_i in a fluid: the mean tasks that will come to each server."""
    fluid = fluid_of(view, _known(view))
    return fluid.pace * fluid.left


def link_feature(view: TaskView) -> Float[Array, ""]:
    """π_link in a fluid."""
    return fluid_of(view, _known(view)).waiting


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriceSettings(Settings):
    """The settings of a price learner.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.
    """

    miss_price: float = setting(2.83, 0, 1e6)
    """What a miss costs beyond the deadline that its makespan counts as, in deadlines"""
    forgetting: float = setting(0.9, 0, 1)
    """The weight of all earlier episodes in the regression after each episode"""
    ridge: float = setting(1e-3, 0, 1e3)
    """Ridge penalty of the regression, relative to the mean square of the feature"""


class Moments(NamedTuple):
    """Sums over decisions and servers, in which earlier episodes count less and less."""

    work_work: Float[Array, ""]
    """Squares of the feature"""
    work_price: Float[Array, ""]
    """Products of the feature and exact prices"""
    link_link: Float[Array, ""]
    link_price: Float[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriceLearner(EpisodeLearner):
    """Learns the coefficients of `priced` from the exact prices along its own episodes.

    All base stations share what they learn, so that agents do not depend on the number of servers.
    """

    settings: PriceSettings = dataclasses.field(default_factory=PriceSettings)
    episodes: int = 40

    any_fleet: ClassVar[bool] = True
    episode_logs: ClassVar[tuple[str, ...]] = ("price_change",)

    def init(self, settings: PriceSettings, shape: Shape, rows: int, key: Key) -> tuple[Prices, Moments]:
        """No prices at all."""
        none, shape_of = jnp.zeros(()), jax.tree.map(jnp.asarray, SHIPPED)
        learnt = shape_of._replace(work=none, link=none, miss=jnp.asarray(settings.miss_price))
        return learnt, Moments(none, none, none, none)

    def keep(self, decision: Decision, view: TaskView) -> tuple[Array, Array, Array]:
        """The features of a decision, and its weight."""
        return work_feature(view), link_feature(view), weight(view)

    def moments(self, params: Params, kept: tuple[Array, Array, Array], price: Background) -> Moments:
        """The products of a decision's features and exact prices."""
        work, link, share = kept
        return Moments(
            share * jnp.sum(work * work),
            share * jnp.sum(work * price.work * params.capacity),
            share * link * link,
            share * link * price.delay,
        )

    def learn(
        self,
        settings: PriceSettings,
        params: Params,
        learnt: Prices,
        memory: Moments,
        moments: Moments,
        outcome: Outcome,
    ) -> tuple[Prices, Moments, dict[str, Array]]:
        """Regress the exact prices of all episodes so far on the features, and forget a part of them."""
        memory = jax.tree.map(lambda old, new: settings.forgetting * old + jnp.sum(new), memory, moments)
        more = 1 + settings.ridge
        found = learnt._replace(
            work=memory.work_price / positive(memory.work_work * more),
            link=memory.link_price / positive(memory.link_link * more),
        )
        return found, memory, {"price_change": jnp.abs(found.work - learnt.work)}

    def policy(self) -> Policy:
        return PRICED


def weight(view: TaskView) -> Array:
    """A decision's weight in the regression; 0 without a task.

    Prices grow with the number of tasks to come. Without weights, only those of high loads would be right.
    """
    return jnp.where(view.task.present, 1 / (1 + jnp.sum(view.coming)) ** 2, 0)


PRICED = per_task(priced, sees_load=True)

SHIPPED = Prices(
    *map(np.float32, (1.0, 0.77, 0.3, 2.0, 8.0, 0.71, 2.83)),
)
"""What `amco-priced` knows, from `python benchmarks/prices.py train`"""
