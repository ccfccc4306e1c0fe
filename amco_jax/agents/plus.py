"""AEQN with prices as its head: Q(s, S) = -(makespan + Σ_i price_i·x_i), with prices that are learnt.

The published AEQN has an output for each of the 2^B - 1 sets, from the backlog at the start of the slot. Here
the agent of base station b has a layer with an output for each server i, the number of later tasks that wait
for that server to finish, and one for its link. Its inputs tell the live waits and what is still to come. The
makespan of a set follows from the live waits, and the best of all sets has a closed form
(`alloc.priced_support`), for fleets of any size.

The outputs are trained end to end, by regression on the exact prices along the agents' own episodes: on
derivatives of the summed makespan through the simulator (`kernel.gradient`). New prices change the decisions
and with them the exact prices, so steps become smaller from episode to episode. Training starts from the
prices of `amco-priced`. Exact prices are too high where many tasks miss, so candidates between these and the
learnt prices play each episode, too, and the one that has cost least is deployed.

Source: AMCoEdge (ICDCS 2024), AEQN, for the agents; Werbos (1992), dual heuristic programming, for training.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from amco_jax.agents.learner import EpisodeLearner, Outcome
from amco_jax.agents.policy import Policy, TaskView, per_task
from amco_jax.agents.pricing import SHIPPED, Fluid, PriceSettings, fluid_of, set_at, weight
from amco_jax.agents.settings import setting
from amco_jax.env import Background, Decision
from amco_jax.params import Params, Shape
from amco_jax.random import Key

_STEPS = (1.0, 0.5, 0.0)
"""How far candidates go from the prices of `amco-priced` to the learnt ones"""
_TINY = 1e-6
"""What keeps a regression without any data solvable"""


class Inputs(NamedTuple):
    """The inputs of a head, or its weights for them; all numbers of tasks."""

    one: Any
    """1"""
    coming: Any
    """Tasks still to come at all base stations"""
    fluid: Any
    """Tasks that would come to the server in a fluid, see `pricing`"""
    waiting: Any
    """Tasks that the server has to finish first"""


class LinkInputs(NamedTuple):
    """The inputs of a head for the price of the link, or its weights for them."""

    fluid: Any
    """Tasks still to come at the base station, as far as a fluid sends them to other servers"""
    coming: Any
    """Tasks still to come at the base station"""


class Heads(NamedTuple):
    """The weights of all agents, and the price of a miss."""

    work: Inputs
    """`[num_servers, num_servers]`, by base station and server"""
    link: LinkInputs
    """`[num_servers]`, by base station"""
    miss: Any
    """The price of a miss, in deadlines, beyond the deadline that its makespan counts as"""


def inputs_of(view: TaskView, fluid: Fluid) -> tuple[Inputs, LinkInputs]:
    """The inputs of the heads for a decision: leaves `[num_servers]`, and numbers that all servers share."""
    here = jnp.sum(jnp.where(view.local, view.coming, 0))
    inputs = Inputs(jnp.ones_like(here), fluid.total, fluid.pace * fluid.left, fluid.pace * fluid.wait)
    return inputs, LinkInputs(fluid.waiting, here)


def outputs_of(
    work: Inputs, link: LinkInputs, view: TaskView, fluid: Fluid
) -> tuple[Float[Array, " num_servers"], Float[Array, ""]]:
    """The outputs of the heads of the view's base station: tasks delayed on each server, and by its link.

    Args:
      work: weights, `[num_servers, num_servers]`.
      link: weights, `[num_servers]`.
    """
    inputs, of_link = inputs_of(view, fluid)
    rows = (jnp.sum(jnp.where(view.local[:, None], each, 0), axis=0) for each in work)
    own = (jnp.sum(jnp.where(view.local, each, 0)) for each in link)
    delayed = sum(row * x for row, x in zip(rows, inputs, strict=True))
    return jnp.asarray(delayed), jnp.asarray(sum(w * x for w, x in zip(own, of_link, strict=True)))


def learnt_set(view: TaskView) -> Bool[Array, " num_servers"]:
    """The set of least makespan plus learnt prices; empty where rejecting the task costs less.

    No server delays more tasks than it can finish before the deadline. Where nothing is still to come, as in
    the first slot, nothing has a price.
    """
    known = jax.tree.map(lambda leaf: leaf[0], view.agent)
    fluid = fluid_of(view, SHIPPED)
    delayed, by_link = outputs_of(known.work, known.link, view, fluid)
    room = fluid.pace * jnp.maximum(view.params.deadline - fluid.wait, 0)
    seconds = jnp.clip(delayed, 0, room) * fluid.relative / fluid.pace
    price = jnp.where(fluid.total > 0, seconds + jnp.maximum(by_link, 0) * fluid.transfer, 0)
    return set_at(price, view, fluid, SHIPPED._replace(miss=known.miss))


LEARNT = per_task(learnt_set, sees_load=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlusSettings(PriceSettings):
    """The settings of the learner of heads, where the ridge penalty is one for leaving the initial weights.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.
    """

    miss_price: float = setting(2.3, 0, 1e6)
    ridge: float = setting(1e-2, 0, 1e3)


class Moments(NamedTuple):
    """Sums of products over decisions, for the regressions of all heads."""

    work_squares: Float[Array, "*stations inputs inputs num_servers"]
    work_prices: Float[Array, "*stations inputs num_servers"]
    link_squares: Float[Array, "*stations inputs inputs"]
    link_prices: Float[Array, "*stations inputs"]


class Learnt(NamedTuple):
    """What is learnt: prices, and how far to go there."""

    heads: Heads
    costs: Float[Array, " candidates"]
    """What makespans and misses have cost the candidates, s"""


class Memory(NamedTuple):
    """What is remembered of earlier episodes, of which each counts less than the next."""

    moments: Moments
    """`[num_servers, ...]`"""
    episodes: Float[Array, ""]
    """Their number"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlusLearner(EpisodeLearner):
    """Learns the heads of all base stations from the exact prices along their own episodes."""

    settings: PlusSettings = dataclasses.field(default_factory=PlusSettings)
    episodes: int = 20

    episode_logs: ClassVar[tuple[str, ...]] = ("price_change",)

    def init(self, settings: PlusSettings, shape: Shape, rows: int, key: Key) -> tuple[Learnt, Memory]:
        """The prices of `amco-priced`."""
        num_servers, k, j = shape.num_servers, len(Inputs._fields), len(LinkInputs._fields)
        sizes = (k, k, num_servers), (k, num_servers), (j, j), (j,)
        empty = Memory(Moments(*(jnp.zeros((num_servers, *size)) for size in sizes)), jnp.zeros(()))
        work, link = _initial(num_servers)
        heads = Heads(work, link, jnp.asarray(settings.miss_price))
        return Learnt(heads, jnp.zeros(len(_STEPS))), empty

    def candidates(self, settings: PlusSettings, params: Params, learnt: Learnt) -> Heads:
        """The learnt prices, and steps towards them."""
        return _on_the_way(learnt.heads, jnp.asarray(_STEPS))

    def deployed(self, settings: PlusSettings, params: Params, learnt: Learnt) -> Heads:
        """The prices of the candidate that has cost least."""
        best = jnp.asarray(_STEPS)[jnp.argmin(learnt.costs)]
        return jax.tree.map(lambda leaf: leaf[0], _on_the_way(learnt.heads, best[None]))

    def keep(self, decision: Decision, view: TaskView) -> Any:
        """The inputs of a decision, and its weight."""
        fluid = fluid_of(view, SHIPPED)
        return inputs_of(view, fluid), jnp.where(fluid.total > 0, weight(view), 0)

    def moments(self, params: Params, kept: Any, price: Background) -> Moments:
        """The products of a decision's inputs and exact prices."""
        (work, link), share = kept
        x = jnp.stack([jnp.broadcast_to(each, price.work.shape) for each in work])
        y = jnp.stack(link)
        return Moments(
            share * x[:, None] * x,
            share * x * (price.work * params.capacity),
            share * y[:, None] * y,
            share * y * price.delay,
        )

    def learn(
        self,
        settings: PlusSettings,
        params: Params,
        learnt: Learnt,
        memory: Memory,
        moments: Moments,
        outcome: Outcome,
    ) -> tuple[Learnt, Memory, dict[str, Array]]:
        """Regress the exact prices of the last episodes on the inputs, and go a part of the way there."""
        sums = jax.tree.map(lambda a, b: settings.forgetting * a + b, memory.moments, moments)
        memory = Memory(sums, memory.episodes + 1)
        start, heads = _initial(sums.work_squares.shape[0]), learnt.heads
        of_servers = jnp.moveaxis(sums.work_squares, -1, 1), jnp.moveaxis(sums.work_prices, -1, 1)
        goals = (
            _regressed(*of_servers, start[0], settings.ridge),
            _regressed(sums.link_squares, sums.link_prices, start[1], settings.ridge),
        )
        work, link = jax.tree.map(lambda a, b: a + (b - a) / memory.episodes, (heads.work, heads.link), goals)
        cost = outcome.makespan + settings.miss_price * params.deadline * outcome.misses
        later = Learnt(heads._replace(work=work, link=link), settings.forgetting * learnt.costs + cost)
        return later, memory, {"price_change": jnp.mean(jnp.abs(work.fluid - heads.work.fluid))}

    def policy(self) -> Policy:
        return LEARNT


def _initial(num_servers: int) -> tuple[Inputs, LinkInputs]:
    none, single = jnp.zeros((num_servers, num_servers)), jnp.zeros(num_servers)
    work = Inputs(none, none, jnp.full_like(none, SHIPPED.work), none)
    return work, LinkInputs(jnp.full_like(single, SHIPPED.link), single)


def _on_the_way(heads: Heads, steps: Float[Array, " candidates"]) -> Heads:
    """Heads between the prices of `amco-priced` and those given, leaves `[candidates, ...]`."""
    start = Heads(*_initial(heads.work.one.shape[0]), heads.miss)
    return jax.tree.map(lambda a, b: jax.vmap(lambda step: a + step * (b - a))(steps), start, heads)


def _regressed(squares: Array, products: Array, start: Any, ridge: Any) -> Any:
    """The weights of a regression with a penalty for those that differ from `start`."""
    first = jnp.stack(start, axis=-1)
    own = jnp.diagonal(squares, axis1=-2, axis2=-1)
    penalty = (ridge * own + _TINY)[..., None] * jnp.eye(own.shape[-1])
    rest = products - jnp.einsum("...kj,...j->...k", squares, first)
    found = first + jnp.linalg.solve(squares + penalty, rest[..., None])[..., 0]
    return type(start)(*jnp.moveaxis(found, -1, 0))
