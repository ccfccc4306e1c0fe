"""Shadow prices: what load costs the tasks that come later, and decisions that take it into account.

`optimal` gives each task its least makespan and ignores what that costs the tasks behind it. The rule
`priced` minimises makespan + Σ_i price_i·x_i instead, in closed form (`alloc.priced_support`), with

    price_i = π_i·w + π_link·d/r_{b,i}    ([i≠b] for the second term),

π_i is the price of a Gcycle on server i, and π_link that of a second of b's link. Both are linear in a few
features of what a scheduler sees. f_i·π_i has no unit: it is the number of later tasks that wait for server i
to finish. docs/prices.md tells to which fleets and loads the coefficients carry over, and to which not.

The coefficients are learnt by regression on the exact prices along simulated episodes, the derivatives of the
summed makespan in background load (`kernel.gradient`). The prices then change the decisions and with them the
prices, so learning alternates between the two: dual heuristic programming with exact costates.

Source: Werbos, "Approximate dynamic programming for real-time control and neural modeling" (1992).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from amco_jax.agents.learner import EpisodeLearner
from amco_jax.agents.policy import Policy, TaskView, per_task
from amco_jax.agents.settings import Settings, setting
from amco_jax.alloc import priced_support
from amco_jax.env import Decision
from amco_jax.params import Params, Shape
from amco_jax.random import Key, uniform

NUM_WORK, NUM_LINK = 13, 4
"""The numbers of features of the prices of work and of the link"""

_BEFORE = 2.0
"""The number of slots as which the first guess counts in the estimated number of tasks per slot"""
_GUESS = 3.0
"""The first guess, tasks per base station and slot"""


class Prices(NamedTuple):
    """The coefficients of the prices, which are an agent's knowledge."""

    work: Any
    """`[work_features]`"""
    link: Any
    """`[link_features]`"""
    miss: Any
    """The price of a miss, in deadlines, beyond the deadline that its makespan counts as"""


def priced(view: TaskView) -> Bool[Array, " num_servers"]:
    """The set of least makespan plus prices; empty where rejecting the task costs less, or it would be late.

    The coefficients are those of the view's agents, which are the same at all base stations, or `SHIPPED`.
    The set is the best of those that are in time, and the task is rejected where there is none, or where
    makespan and prices exceed the deadline and the price of a miss.
    """
    known = view.agent
    known = SHIPPED if known is None else jax.tree.map(lambda leaf: leaf[0], known)
    selected, total = least_total(view, *_prices(view, known))
    return selected & (total <= view.params.deadline * (1 + known.miss))


def least_total(
    view: TaskView, of_work: Float[Array, " num_servers"], of_link: Float[Array, ""]
) -> tuple[Bool[Array, " num_servers"], Float[Array, ""]]:
    """The set of least makespan plus prices among those that are in time, and that sum, s.

    Args:
      of_work: `[num_servers]`, s per Gcycle on each server.
      of_link: s per second of the base station's link.
    """
    load, service = view.task.work, view.params.service
    if service is not None:
        load = load + view.task.size * service.overhead
    transfer = jnp.where(view.local, 0, view.cost - load / view.params.capacity)
    price = of_work * load + of_link * transfer
    return priced_support(view.wait, view.cost, price, limit=view.params.deadline)


def _prices(view: TaskView, known: Prices) -> tuple[Array, Array]:
    """π_i per Gcycle on each server, and π_link per second of the link; at least 0."""
    # Term by term, since only short arrays are unrolled.
    of_work = sum(known.work[k] * term for k, term in enumerate(_work_terms(view))) / view.params.capacity
    of_link = jnp.sum(known.link * link_features(view))
    return jnp.maximum(of_work, 0), jnp.maximum(of_link, 0)


class _Load(NamedTuple):
    """What a scheduler knows about the load, on which all features depend."""

    per_slot: Float[Array, ""]
    """Estimated number of tasks per base station and slot"""
    coming: Float[Array, " num_servers"]
    """Expected number of tasks of each base station that the slot still brings"""
    here: Float[Array, ""]
    """The same of the task's own base station"""
    share: Float[Array, " num_servers"]
    """Each server's share of the capacity"""
    wait: Float[Array, " num_servers"]
    """Waits in slots"""
    mean_wait: Float[Array, ""]
    """Their mean, weighted by capacity"""
    crowd: Float[Array, ""]
    """n / (n + B) for n tasks that the slot still brings, in [0, 1)"""


def _load(view: TaskView) -> _Load:
    params = view.params
    arrived = jnp.mean(view.arrived)
    per_slot = (arrived + _BEFORE * _GUESS) / (view.t + _BEFORE)
    coming = per_slot * view.coming
    share = params.capacity / jnp.sum(params.capacity)
    wait = view.wait / params.slot_duration
    here = jnp.sum(jnp.where(view.local, coming, 0))
    total = jnp.sum(coming)
    crowd = total / (total + share.shape[0])
    return _Load(per_slot, coming, here, share, wait, jnp.sum(wait * share), crowd)


def work_features(view: TaskView) -> Float[Array, "work_features num_servers"]:
    """The features of f_i·π_i, see `_work_terms`."""
    return jnp.stack(_work_terms(view))


def _work_terms(view: TaskView) -> list[Array]:
    """The features of f_i·π_i: three groups of tasks that may come to server i, and what a long wait adds.

    Each group, the tasks still to come at the server's own base station, at all others, and at the task's
    station if that is another one, counts as it is and multiplied by the mean wait, by the server's wait
    beyond the mean, and by its capacity relative to the mean.
    """
    load, num_servers = _load(view), view.wait.shape[0]
    others = (jnp.sum(load.coming) - load.coming) / num_servers
    groups = load.coming, others, jnp.where(view.local, 0, load.here)
    beyond, relative = load.wait - load.mean_wait, load.share * num_servers - 1
    factors = jnp.ones_like(load.wait), jnp.full_like(load.wait, load.mean_wait), beyond, relative
    later = jnp.maximum(load.wait - 1, 0) * load.per_slot
    return [*(group * factor for group in groups for factor in factors), later]


def link_features(view: TaskView) -> Float[Array, " link_features"]:
    """The features of π_link: the tasks still to come at the base station, alone and with three factors."""
    load = _load(view)
    local = jnp.sum(jnp.where(view.local, load.wait, 0))
    return load.here * jnp.stack([jnp.ones_like(local), load.mean_wait, local - load.mean_wait, load.crowd])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriceSettings(Settings):
    """The settings of a price learner.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.
    """

    miss_price: float = setting(1.0, 0, 1e6)
    """What a miss costs beyond the deadline that its makespan counts as, in deadlines"""
    forgetting: float = setting(0.9, 0, 1)
    """The weight of all earlier episodes in the regression after each episode"""
    ridge: float = setting(1e-3, 0, 1e3)
    """Ridge penalty of the regression, relative to the mean square of each feature"""
    variation: float = setting(0.0, 0, 10)
    """How much the scenario varies between training episodes: each capacity is multiplied by exp(v·u), u
    drawn from [-1, 1), and the arrival probability is drawn from p·exp(-v) to 1; 0 for the scenario as it
    is"""


class Moments(NamedTuple):
    """Sums over decisions and servers, in which earlier episodes count less and less."""

    work_work: Float[Array, "work_features work_features"]
    """Products of features"""
    work_price: Float[Array, " work_features"]
    """Products of features and exact prices"""
    link_link: Float[Array, "link_features link_features"]
    link_price: Float[Array, " link_features"]


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
        work, link = jnp.zeros(NUM_WORK), jnp.zeros(NUM_LINK)
        moments = Moments(jnp.zeros((NUM_WORK, NUM_WORK)), work, jnp.zeros((NUM_LINK, NUM_LINK)), link)
        return Prices(work, link, jnp.asarray(settings.miss_price)), moments

    def practice(self, settings: PriceSettings, params: Params, key: Key) -> Params:
        """The scenario of an episode, varied by random factors."""
        num_servers = params.capacity.shape[0]
        draws = uniform(key, jnp.arange(num_servers + 1), params.capacity.dtype)
        factors = jnp.exp(settings.variation * (2 * draws[1:] - 1))
        low = params.arrival_prob * jnp.exp(-settings.variation)
        drawn = low + (jnp.maximum(params.arrival_prob, 1) - low) * draws[0]
        varied = dataclasses.replace(
            params, capacity=params.capacity * factors,
            arrival_prob=jnp.where(settings.variation > 0, drawn, params.arrival_prob),
        )  # fmt: skip
        return varied

    def unknown(self) -> Prices:
        """Coefficients of 0, in which `probe` has derivatives."""
        return Prices(jnp.zeros(NUM_WORK), jnp.zeros(NUM_LINK), jnp.zeros(()))

    def probe(self, unknown: Prices, view: TaskView) -> tuple[Array, Array]:
        """Load in proportion to the features: its derivatives are sums of features times exact prices."""
        work, link = jax.lax.stop_gradient((work_features(view), link_features(view)))
        here = _weight(view) ** 2
        load = jnp.sum(unknown.work[:, None] * work, axis=0) * view.params.capacity
        return load * here, jnp.sum(unknown.link * link) * here

    def keep(self, decision: Decision, view: TaskView) -> tuple[Array, Array]:
        """The features of a decision, weighted; 0 without a task."""
        here = _weight(view)
        return work_features(view) * here, link_features(view) * here

    def learn(
        self, settings: PriceSettings, learnt: Prices, memory: Moments, kept: Any, costates: Prices
    ) -> tuple[Prices, Moments, dict[str, Array]]:
        """Regress the exact prices of all episodes so far on the features, and forget a part of them."""
        work, link = kept
        new = Moments(
            jnp.einsum("...ki,...li->kl", work, work), costates.work,
            jnp.einsum("...k,...l->kl", link, link), costates.link,
        )  # fmt: skip
        memory = jax.tree.map(lambda old, new: settings.forgetting * old + new, memory, new)
        found = Prices(
            regression(memory.work_work, memory.work_price, settings.ridge),
            regression(memory.link_link, memory.link_price, settings.ridge),
            learnt.miss,
        )
        change = jnp.linalg.norm(found.work - learnt.work) / (jnp.linalg.norm(found.work) + 1e-9)
        return found, memory, {"price_change": change}

    def deployed(self, settings: PriceSettings, params: Params, learnt: Prices) -> Prices:
        return learnt

    def policy(self) -> Policy:
        return PRICED


def _weight(view: TaskView) -> Array:
    """The square root of a decision's weight in the regression; 0 without a task.

    Prices grow with the number of tasks to come. Without weights, only those of high loads would be right.
    """
    return jnp.where(view.task.present, 1 / (1 + jnp.sum(_load(view).coming)), 0)


def regression(products: Array, targets: Array, ridge: Any) -> Array:
    """The coefficients of ridge regression; 0 for features that are always 0."""
    scale = jnp.sqrt(jnp.diag(products))
    scale = jnp.where(scale > 0, scale, 1)
    normal = products / (scale[:, None] * scale) + ridge * jnp.eye(scale.size)
    return jnp.linalg.solve(normal, targets / scale) / scale


PRICED = per_task(priced, sees_load=True)

SHIPPED = Prices(
    np.array(
        [0.872, -0.528, -0.8, 0.299, 0.46, 0.128, -0.026, 0.763, 0.043, -0.117, -0.223, -0.087, -0.062],
        np.float32,
    ),
    np.array([0.397, -0.272, 0.287, -0.004], np.float32),
    np.float32(1.0),
)
"""What `amco-priced` knows, from `python benchmarks/prices.py train`"""
