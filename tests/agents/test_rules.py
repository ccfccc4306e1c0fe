"""The rules that need no training, one decision at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.refusals import refused
from scipy import stats

from amco_jax.agents import rules
from amco_jax.agents.methods import METHODS, REFERENCES, TRAINED, get_method
from amco_jax.agents.policy import Arrived, TaskView
from amco_jax.alloc import cwa, hecwa, waterfill
from amco_jax.env import Task
from amco_jax.errors import InputError
from amco_jax.kernel.reference import waterfill as fill_by_bisection
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario

STATES = 400
LEVEL = 1e-4
"""False-alarm probability of each statistical check; seeds are fixed."""

RULES = set(METHODS) - {*TRAINED, *REFERENCES}


def random_states(num_servers: int) -> tuple[np.ndarray, np.ndarray]:
    """Waits and costs, `[STATES, num_servers]`, s, some of the waits tied."""
    random = np.random.default_rng(num_servers)
    wait = random.uniform(0, 0.5, (STATES, num_servers))
    wait[: STATES // 4] = 0
    return wait, random.uniform(0.02, 0.5, (STATES, num_servers))


def choose(
    rule: Callable[[TaskView], jax.Array], wait: np.ndarray, cost: np.ndarray, **scenario: object
) -> np.ndarray:
    """The sets that a rule picks in many states, in float64; base station and position vary along."""
    num_states, num_servers = wait.shape
    params = Scenario(num_servers=num_servers, **scenario).params(np.float64)  # pyright: ignore
    index = np.arange(num_states)

    def one(wait, cost, n):
        task = Task(present=jnp.asarray(True), size=jnp.float64(3), work=jnp.float64(1))
        local = jnp.arange(num_servers) == n % num_servers
        key = stream(jnp.uint32(1), Stream.POLICY)
        arrived = Arrived(jnp.ones(num_servers), jnp.float64(9), jnp.float64(9))
        load = {"link_delay": jnp.float64(0), "coming": jnp.ones(num_servers), "t": n, "arrived": arrived}
        return rule(TaskView(task, wait, cost, local, jax.tree.map(jnp.asarray, params), key, n, **load))

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(one))(wait, cost, index))


def makespans(wait: np.ndarray, cost: np.ndarray, selected: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        fraction = np.asarray(jax.jit(jax.vmap(cwa))(wait, cost, selected))
    return np.max(np.where(selected, fraction * cost + wait, 0), axis=1)


@pytest.mark.parametrize("num_servers", [1, 2, 5])
def test_optimal_is_never_beaten(num_servers: int):
    wait, cost = random_states(num_servers)
    best = makespans(wait, cost, choose(rules.optimal, wait, cost))
    for name in RULES - {"optimal", "optimal-admission"}:
        theirs = makespans(wait, cost, choose(METHODS[name].policy.function, wait, cost))
        assert (best <= theirs + 1e-12).all()
        beaten = (best < theirs - 1e-6).any()
        assert beaten == (name != "optimal-enumeration" and num_servers > 1)


@pytest.mark.parametrize("num_servers", [1, 2, 5])
def test_optimal_equals_enumeration(num_servers: int):
    wait, cost = random_states(num_servers)
    sets = choose(rules.optimal, wait, cost)
    np.testing.assert_array_equal(sets, choose(rules.optimal_enumeration, wait, cost))
    assert len(np.unique(sets, axis=0)) >= num_servers


def test_admission_rejects_exactly_the_hopeless():
    wait, cost = random_states(5)
    least = np.array([level(dict(enumerate(w)), dict(enumerate(c))) for w, c in zip(wait, cost, strict=True)])
    deadline = float(np.median(least)) + 1e-9
    sets = choose(rules.optimal_admission, wait, cost, deadline=deadline)
    np.testing.assert_array_equal(sets.any(axis=1), least <= deadline)
    admitted = sets.any(axis=1)
    assert 0.4 < admitted.mean() < 0.6
    np.testing.assert_array_equal(sets[admitted], choose(rules.optimal, wait, cost)[admitted])


def level(wait: dict[int, float], cost: dict[int, float]) -> float:
    """The least makespan, from the reference's bisection."""
    x = fill_by_bisection(wait, cost)
    return max(x[i] * cost[i] + wait[i] for i in wait if x[i] > 0)


def least_makespans(wait: np.ndarray, cost: np.ndarray, k: int, with_local: bool) -> np.ndarray:
    """The least makespans of sets of at most k servers, by trying each; a selected server's wait counts."""
    num_states, num_servers = wait.shape
    found = np.full(num_states, np.inf)
    for size in range(1, min(k, num_servers) + 1):
        for members in itertools.combinations(range(num_servers), size):
            i = list(members)
            # Filled in the order of waits, the level is the least of those of the first m.
            order = np.argsort(wait[:, i], axis=1)
            w, r = (np.take_along_axis(x[:, i], order, axis=1) for x in (wait, 1 / cost))
            level = ((1 + np.cumsum(w * r, axis=1)) / np.cumsum(r, axis=1)).min(axis=1)
            makespan = np.maximum(level, w[:, -1])
            allowed = np.isin(np.arange(num_states) % num_servers, i) | (not with_local)
            found = np.where(allowed, np.minimum(found, makespan), found)
    return found


@pytest.mark.parametrize("num_servers", [1, 2, 5, 9])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("local", ["", "-local"])
def test_best_k_equals_enumeration(num_servers: int, k: int, local: str):
    wait, cost = random_states(num_servers)
    wait[::7, 0] = 5.0  # of some states the local server's wait, beyond all others' ends
    sets = choose(get_method(f"best-{k}{local}").policy.function, wait, cost)
    assert (sets.sum(axis=1) <= k).all()
    assert sets.any(axis=1).all()
    if local:
        assert sets[np.arange(STATES), np.arange(STATES) % num_servers].all()
    expected = least_makespans(wait, cost, k, bool(local))
    np.testing.assert_allclose(makespans(wait, cost, sets), expected, rtol=1e-12)
    if k >= num_servers and not local:
        np.testing.assert_array_equal(sets, choose(rules.optimal, wait, cost))


def test_best_1_local_is_local():
    wait, cost = random_states(5)
    local = np.arange(5) == np.arange(STATES)[:, None] % 5
    np.testing.assert_array_equal(choose(get_method("best-1-local").policy.function, wait, cost), local)


@pytest.mark.parametrize("name", ["best-0", "best-", "best-2-", "best-local", "best-2-local-local"])
def test_best_k_needs_a_number(name: str):
    with pytest.raises(InputError, match=r"method: .*legal: .*best-k, best-k-local"):
        get_method(name)


@pytest.mark.parametrize("capacity", [(10, 20, 30, 40, 50), (30, 10, 30, 20, 30), (7, 7, 7, 7, 7)])
def test_fastest_k_picks_the_largest_capacities(capacity: tuple[float, ...]):
    wait, cost = random_states(5)
    order = np.argsort(-np.array(capacity), kind="stable")  # ties to the first
    for k in (1, 2, 3, 4, 5, 6):
        chosen = choose(get_method(f"fastest-{k}").policy.function, wait[:2], cost[:2], capacity=capacity)
        np.testing.assert_array_equal(chosen, [np.isin(np.arange(5), order[:k])] * 2)


@pytest.mark.parametrize(
    "name", ["fastest-0", "fastest-", "fastest--1", "fastest-1.5", "greedy", "", "Optimal "]
)
def test_unknown_methods_are_refused(name: str):
    with pytest.raises(InputError, match=r"method: .*legal: amcoedge, .*randcoedge, .*fastest-k"):
        get_method(name)


@pytest.mark.parametrize("value", [3, None, ["local"], np.array(["local", "optimal"])])
def test_only_names_and_methods_are_methods(value: Any, unchecked):
    refused(lambda: get_method(value), "method: ", "legal: a name, or an amco_jax.Method")


def test_methods_take_an_allocator_along():
    method = get_method("randcoedge+hecwa")
    assert method.policy == METHODS["randcoedge"].policy
    assert method.allocator is hecwa
    assert method is get_method("randcoedge+hecwa")  # so that it compiles once
    assert get_method("fastest-2+waterfill").allocator is waterfill
    for name in REFERENCES:
        assert METHODS[name].is_reference
        assert METHODS[name].takes_long
        with pytest.raises(InputError, match=rf"^method: {name}\+cwa; legal: {name}$"):
            get_method(f"{name}+cwa")
    for name in ("randcoedge+", "randcoedge+greedy", "greedy+cwa", "+cwa", "local+cwa+cwa"):
        with pytest.raises(InputError, match=r"^(method|allocator): .*legal"):
            get_method(name)


def test_simple_rules():
    wait, cost = random_states(5)
    local = np.arange(5) == np.arange(STATES)[:, None] % 5
    np.testing.assert_array_equal(choose(rules.local_only, wait, cost), local)
    assert choose(rules.all_servers, wait, cost).all()
    first_least = np.arange(5) == wait.argmin(axis=1)[:, None]
    np.testing.assert_array_equal(choose(rules.least_wait, wait, cost), first_least)


def test_sets_are_ordered_by_size_then_lexicographically():
    members = [tuple(np.flatnonzero(row)) for row in rules.nonempty_sets(3).table()]
    assert members == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("num_servers", [2, 5, 7])
def test_the_random_partner_is_uniform(num_servers: int):
    shape = 20_000 * num_servers, num_servers
    sets = choose(rules.random_pair, np.zeros(shape), np.ones(shape))
    local = np.arange(num_servers) == np.arange(shape[0])[:, None] % num_servers
    assert (sets & local).any(axis=1).all()
    assert (sets.sum(axis=1) <= 2).all()
    # Counted per base station: partners at equal rates, the local server itself among them.
    for b in range(num_servers):
        partners = (sets & ~local)[local[:, b]]
        counts = partners.sum(axis=0)
        counts[b] = len(partners) - counts.sum()
        assert stats.chisquare(counts).pvalue > LEVEL


@pytest.mark.parametrize("num_servers", [3, 5, 7])
def test_two_choices_takes_the_better_of_two_different_servers(num_servers: int):
    shape = 100_000, num_servers
    rank = np.random.default_rng(0).permuted(np.tile(np.arange(num_servers), (shape[0], 1)), axis=1)
    sets = choose(rules.two_choices, rank.astype(float), np.ones(shape))
    assert (sets.sum(axis=1) == 1).all()
    won = np.bincount(rank[sets], minlength=num_servers)
    # Of all pairs, the server of rank r wins against the B-1-r that are worse; the worst never wins.
    assert won[-1] == 0
    expected = np.arange(num_servers - 1, 0, -1) / (num_servers * (num_servers - 1) / 2)
    assert stats.chisquare(won[:-1], expected * shape[0]).pvalue > LEVEL
    # Nor does the position of a server matter.
    assert stats.chisquare(sets.sum(axis=0)).pvalue > LEVEL


def test_rules_work_with_one_server():
    one = np.zeros((3, 1)), np.ones((3, 1))
    for name in RULES:
        assert choose(METHODS[name].policy.function, *one, deadline=2.0).all()
    assert not choose(rules.optimal_admission, *one, deadline=0.5).any()
