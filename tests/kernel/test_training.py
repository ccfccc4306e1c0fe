"""The training loop: what each draw depends on, what is stored, when learning happens, and that it helps."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers.compiled_training import EPISODES, METHOD, compiled_training, hyper_of
from helpers.drawn import tasks_of_slots
from helpers.tiny_training import TINY
from helpers.trees import assert_same_bits

from amco_jax.agents.methods import Method, get_method
from amco_jax.agents.qlearning.learner import QLearning
from amco_jax.agents.qlearning.replay import sample
from amco_jax.agents.settings import Settings
from amco_jax.compile.wide import on_host
from amco_jax.env import UNIFIED
from amco_jax.errors import InputError
from amco_jax.kernel.training import (
    FIRST_TRAINING_EPISODE,
    Curve,
    TrainingState,
)
from amco_jax.metrics import CURVE_METRICS, EPISODE_METRICS, columns_of, row_names
from amco_jax.random import Stream, stream
from amco_jax.scenario import Scenario
from amco_jax.study import trainer as module
from amco_jax.study.agents import AgentStore
from amco_jax.study.blocks import blocks_of, padded_shapes
from amco_jax.study.grid import Cell
from amco_jax.study.run import run_study
from amco_jax.study.simulate import simulate
from amco_jax.study.sweep import Sweep
from amco_jax.study.train import Training
from amco_jax.study.trainer import EPISODES_PER_CALL, Trainer
from amco_jax.study.units import run_unit, units_of
from amco_jax.workload import bernoulli

SEEDS_PER_BLOCK = QLearning.seeds_per_block


def cell_of(scenario: Scenario, settings: Settings) -> Cell:
    method = METHOD.with_settings(**settings.to_dict())
    return Cell(
        scenario=scenario, method=method, num_seeds=SEEDS_PER_BLOCK, metrics=EPISODE_METRICS,
        columns=row_names(columns_of(EPISODE_METRICS), 2), plays=(0,),
        train_episodes=EPISODES,
    )  # fmt: skip


def settings_of(method: Method = METHOD, **changes: Any) -> Settings:
    return method.require_training().settings.replace(**changes)


BASE = cell_of(TINY, settings_of())


class Trained(NamedTuple):
    """One cell's outcome: leaves `[seeds, episodes]` and `[seeds, ...]`."""

    curves: Curve
    state: TrainingState

    def seeds(self, start: int, end: int) -> Trained:
        return jax.tree.map(lambda leaf: leaf[start:end], self)


def train_cells(
    cells: Sequence[Cell], first_seed: int = 0, num_seeds: int = SEEDS_PER_BLOCK, cuts: Sequence[int] = (7,)
) -> list[Trained]:
    """The outcome of each cell; with `BASE` and its like among them, all use the same program."""
    blocks = blocks_of(len(cells), first_seed, num_seeds, SEEDS_PER_BLOCK)
    shape = padded_shapes([cell.scenario for cell in cells])[0]
    trainer = Trainer(shape, cells, blocks, len(blocks))
    parts = [trainer.advance(episodes) for episodes in cuts]
    curves = on_host(jax.tree.map(lambda *x: np.concatenate(x, axis=-1), *parts))
    state = jax.tree.map(np.asarray, trainer.state)

    def of_cell(cell: int, leaf: np.ndarray) -> np.ndarray:
        own = [leaf[i] for i, block in enumerate(blocks) if block.cell == cell]
        return np.concatenate(own)[:num_seeds]

    return [jax.tree.map(functools.partial(of_cell, i), Trained(curves, state)) for i in range(len(cells))]


@pytest.fixture(scope="module")
def base() -> Trained:
    return train_cells([BASE])[0]


def test_all_agents_of_all_seeds_learn(base: Trained):
    assert np.isfinite(base.curves.logs["loss"][:, 1:]).all()
    due = sum(c > 8 and c % 2 == 0 for c in range(1, 7 * TINY.num_slots + 1))
    np.testing.assert_array_equal(base.state.learnt.steps, np.full((SEEDS_PER_BLOCK, 2), due))
    np.testing.assert_allclose(base.curves.logs["epsilon"][:, -1], 0.01 * due, rtol=1e-6)


@pytest.mark.parametrize("cuts", [(1, 2, 4), (6, 1)])
def test_cuts_between_calls_change_no_bit(base: Trained, cuts: tuple[int, ...]):
    assert_same_bits(train_cells([BASE], cuts=cuts)[0], base)


def test_neighbouring_seeds_change_no_bit(base: Trained):
    """Another place in a block, another block, fewer seeds."""
    shifted = train_cells([BASE], first_seed=5)[0]
    assert_same_bits(shifted.seeds(0, SEEDS_PER_BLOCK - 5), base.seeds(5, SEEDS_PER_BLOCK))
    more = train_cells([BASE], num_seeds=SEEDS_PER_BLOCK + 3)[0]
    assert_same_bits(more.seeds(0, SEEDS_PER_BLOCK), base)
    assert_same_bits(
        more.seeds(SEEDS_PER_BLOCK, SEEDS_PER_BLOCK + 3),
        shifted.seeds(SEEDS_PER_BLOCK - 5, SEEDS_PER_BLOCK - 2),
    )


def test_neighbouring_cells_change_no_bit(base: Trained):
    """Cells beside this one with other settings and scenarios, more positions, and a longer replay."""
    others = [
        cell_of(TINY.replace(num_tasks=6, arrival_prob=0.9, deadline=0.5), settings_of(discount=0.0)),
        cell_of(TINY, settings_of(replay_capacity=40, learn_interval=1, learn_repeats=3, double_q=True)),
        cell_of(TINY.replace(arrival_prob=0.0), settings_of(scale_inputs=True)),
    ]
    busy, beside, longer, empty = train_cells([others[0], BASE, *others[1:]])
    assert_same_bits(beside.curves, base.curves)
    assert_same_bits(beside.state.learnt, base.state.learnt)
    for other in (busy, longer):
        assert np.isfinite(other.curves.logs["loss"][:, 1:]).all()
        assert (other.curves.totals["makespan_mean_s"] != base.curves.totals["makespan_mean_s"]).any()
    assert np.isnan(empty.curves.logs["loss"]).all()
    assert not empty.curves.logs["epsilon"].any()
    assert not empty.curves.totals["num_tasks"].any()


def test_a_sweep_over_traced_settings_compiles_nothing(base: Trained):
    del base  # which compiles the program
    cells = [
        BASE,
        cell_of(
            TINY.replace(deadline=0.3, capacity=(9, 4)),
            settings_of(
                learning_rate=0.1,
                learning_rate_decay=0.1,
                discount=0.2,
                replay_capacity=5,
                init_std=1.0,
                reward_scale=9.0,
                error_limit=1.0,
                double_q=True,
                target_interval=3,
                target_rate=0.5,
                deploy_target=True,
                greedy_growth=0.1,
                greedy_max=0.5,
                learn_after=0,
                learn_interval=1,
                learn_repeats=2,
                scale_inputs=True,
            ),
        ),
    ]
    train_cells([BASE, BASE], cuts=(1,))
    misses, shape = module._programs.cache_info().misses, TINY.shape()
    program = module._programs(shape, METHOD, module.memory_rows(cells, [0, 1]), CURVE_METRICS).advance
    compiled = program._cache_size()
    plain, changed = train_cells(cells, cuts=(1,))
    assert module._programs.cache_info().misses == misses
    assert program._cache_size() == compiled
    assert (plain.curves.logs["epsilon"] != changed.curves.logs["epsilon"]).all()


@pytest.mark.parametrize(
    ("learn_after", "learn_interval", "learn_repeats", "episodes"),
    [(200, 10, 1, 45), (0, 1, 1, 2), (8, 4, 1, 4), (9, 1, 2, 3), (10**9, 1, 1, 2)],
)
def test_learning_follows_the_count_of_slots_over_the_whole_run(
    base: Trained, learn_after: int, learn_interval: int, learn_repeats: int, episodes: int
):
    """The first case is the published one: after slot 210, then every 10."""
    del base
    schedule = {
        "learn_after": learn_after,
        "learn_interval": learn_interval,
        "learn_repeats": learn_repeats,
        "greedy_growth": 1e-3,
    }
    cell = cell_of(TINY.replace(arrival_prob=1.0), settings_of(**schedule))
    cuts = [EPISODES_PER_CALL] * (episodes // EPISODES_PER_CALL) + [episodes % EPISODES_PER_CALL]
    _, trained = train_cells([BASE, cell], cuts=cuts)
    slots = np.arange(1, episodes * TINY.num_slots + 1).reshape(episodes, -1)
    # After the very first slot, of which nothing is stored, there is nothing to learn from.
    due = (slots > learn_after) & (slots % learn_interval == 0) & (slots > 1)
    steps = learn_repeats * due.sum(axis=1)
    logs = trained.curves.logs
    np.testing.assert_allclose(
        logs["epsilon"], np.tile(1e-3 * steps.cumsum(), (SEEDS_PER_BLOCK, 1)), rtol=1e-5
    )
    np.testing.assert_array_equal(np.isfinite(logs["loss"]), np.tile(steps > 0, (SEEDS_PER_BLOCK, 1)))
    np.testing.assert_array_equal(trained.state.learnt.steps, steps.sum())


def test_the_published_schedule_is_the_default():
    for name in ("amcoedge", "smcoedge", "drlcoedge"):
        settings: Any = get_method(name).require_training().settings
        assert (settings.learn_after, settings.learn_interval, settings.learn_repeats) == (200, 10, 1)
        assert (settings.greedy_growth, settings.greedy_max) == (1e-3, 0.99)


def test_the_greedy_probability_stops_at_its_limit(base: Trained):
    del base
    _, trained = train_cells([BASE, cell_of(TINY, settings_of(greedy_growth=0.1, greedy_max=0.35))])
    np.testing.assert_allclose(trained.curves.logs["epsilon"][:, -1], 0.35, rtol=1e-6)


def arrivals_of(seed: int, episode: int) -> np.ndarray:
    """Sizes `[num_slots + 1, num_servers, num_tasks]` of an episode of training, 0 where empty."""
    params: Any = TINY.params()
    workload = bernoulli(params, TINY.num_tasks, jnp.uint32(seed), FIRST_TRAINING_EPISODE + episode)

    tasks = tasks_of_slots(params, workload, TINY.num_slots + 1)
    return np.where(tasks.present, tasks.size, 0)


def test_replays_hold_the_slots_of_all_episodes_but_their_first():
    """What follows the last position, the next slot's first task and backlog, is there, also at the end."""
    episodes, each, n = 2, TINY.num_slots - 1, TINY.num_tasks
    replay = train_cells([BASE], cuts=(episodes,))[0].state.memory
    assert replay.reward.shape[2] > episodes * each
    for seed in (0, 7):
        size, backlog, reward = (x[seed] for x in (replay.size, replay.backlog, replay.reward))
        for e in range(episodes):
            rows, wanted = slice(e * each, (e + 1) * each), arrivals_of(seed, e)
            np.testing.assert_allclose(size[:, rows, :n], wanted[1:-1].swapaxes(0, 1), rtol=1e-6)
            np.testing.assert_allclose(size[:, rows, n], wanted[2:, :, 0].T, rtol=1e-6)
            np.testing.assert_array_equal(backlog[:, rows][:, 1:, 0], backlog[:, rows][:, :-1, 1])
        assert (backlog[0] == backlog[1]).all()  # all base stations see the same
        present = size[:, : episodes * each, :n] > 0
        assert (reward[:, : episodes * each][present] < 0).all()
        np.testing.assert_array_equal(replay.stored[seed][:, : episodes * each], present.sum(2).cumsum(1))
        for unused in (size, backlog, reward, replay.stored[seed], replay.present[seed]):
            assert not unused[:, episodes * each :].any()


class Outcome(NamedTuple):
    """The states and draws of two episodes."""

    first: TrainingState
    last: TrainingState
    draws: list[np.ndarray]
    """What each agent drew from its replay, for each learning step"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """One learning step after two episodes; each time, one purpose alone draws as seed 1 does.

    Of `many`, which draws as `none` does, the agents make two steps after each slot but the first ones.
    """
    draws = []

    def overheard(*arguments: Any) -> Any:
        jax.debug.callback(lambda uniforms: draws.append(np.asarray(uniforms)), arguments[-1])
        return sample(*arguments)

    chosen = {p.name: np.arange(len(Stream) + 1) == p for p in Stream}
    chosen |= dict.fromkeys(("none", "many"), np.zeros(len(Stream) + 1, bool))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        # One seed for each purpose, where annotations have a single one.
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        for user in map(importlib.import_module, ("amco_jax.kernel.training", "amco_jax.workload.bernoulli")):
            patch.setattr(user, "stream", lambda seeds, purpose: stream(seeds[purpose], purpose))
        patch.setattr("amco_jax.agents.qlearning.learner.sample", overheard)
        run = compiled_training(METHOD, TINY, 2 * (TINY.num_slots - 1), 2)
        for name, own in chosen.items():
            schedule = {"learn_after": 3, "learn_interval": 1, "learn_repeats": 2}
            if name != "many":
                schedule = {"learn_after": 11, "learn_interval": 12}
            draws.clear()
            first, last, _ = jax.tree.map(
                np.asarray, run(hyper_of(METHOD, **schedule), own.astype(np.uint32))
            )
            jax.effects_barrier()
            found[name] = Outcome(first, last, sorted(draws, key=list))
    return found


def differences(left: Outcome, right: Outcome) -> set[str]:
    """What differs, of what may depend on the seed."""

    def parts(outcome: Outcome) -> dict[str, Any]:
        replay = outcome.last.memory
        return {
            "initial weights": outcome.first.learnt.weights,
            "arrivals": replay.size,
            "explored actions": replay.action,
            "rewards": replay.reward,
            "draws from the replay": outcome.draws,
            "learnt weights": outcome.last.learnt.weights,
        }

    pairs = zip(parts(left).items(), parts(right).values(), strict=True)
    return {
        name
        for (name, one), other in pairs
        if any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    }


@pytest.mark.parametrize(
    ("purpose", "changed"),
    [
        ("DENSITY", {"rewards", "learnt weights"}),
        ("ARRIVAL", {"arrivals", "rewards", "learnt weights"}),
        ("POLICY", set()),
        ("INIT", {"initial weights", "learnt weights"}),
        ("EXPLORATION", {"explored actions", "rewards", "learnt weights"}),
        ("LEARNING", {"draws from the replay", "learnt weights"}),
    ],
)
def test_each_purpose_draws_anew_for_each_seed_on_its_own(
    outcomes: dict[str, Outcome], purpose: str, changed: set[str]
):
    assert differences(outcomes[purpose], outcomes["none"]) == changed


def test_agents_draw_apart_from_each_other(outcomes: dict[str, Outcome]):
    """At other base stations, in other slots and episodes, at other positions."""
    first, last, _ = outcomes["none"]
    for layer in first.learnt.weights.values():
        assert (layer["kernel"][0] != layer["kernel"][1]).all()
    each = TINY.num_slots - 1
    action = last.memory.action[:, : 2 * each]  # behind them is room that was not written
    for one, other in (
        (action[0], action[1]),
        (action[:, 1:], action[:, :-1]),
        (action[:, :each], action[:, each:]),
        (action[:, :, 1:], action[:, :, :-1]),
    ):
        assert 0.4 < (one != other).mean() < 0.95  # 2/3 for independent draws of three sets


def test_every_learning_step_draws_apart_from_all_others(outcomes: dict[str, Outcome]):
    """The draws of each agent, in each slot and episode, and each time that it is repeated."""
    draws = np.stack(outcomes["many"].draws)
    assert draws.shape == (2 * 2 * (2 * TINY.num_slots - 3), 4)
    assert len(np.unique(draws)) == draws.size


def test_episodes_of_one_slot_teach_nothing():
    """Nothing is stored of slot 0; and a fleet of one server has one set to choose."""
    lonely = Scenario(num_servers=1, num_tasks=2, num_slots=1, arrival_prob=1.0)
    run = compiled_training(METHOD, lonely, 3, 5)
    first, last, curve = run(hyper_of(METHOD, learn_after=0, learn_interval=1), np.uint32(0))
    assert np.isnan(curve.logs["loss"])
    assert curve.logs["epsilon"] == 0
    assert curve.totals["num_tasks"] == 2
    assert (last.learnt.steps == 0).all()
    assert not last.memory.stored.any()
    assert_same_bits(last.learnt.weights, first.learnt.weights)


@pytest.mark.parametrize("reward", ["makespan", "regret"])
def test_training_finds_the_fast_server(tmp_path: Path, reward: str):
    """One server is 60 times as fast as the other: greedy decisions before and after, on unseen arrivals."""
    uneven = TINY.replace(capacity=(1, 60))
    quick = settings_of(discount=0.0, learning_rate=0.01, greedy_growth=0.01, reward=reward)
    cells = [cell_of(uneven, quick.replace(learning_rate=0.0)), cell_of(uneven, quick)]
    (unit,) = units_of(cells, 60)
    found = run_unit(unit, AgentStore(tmp_path / "agents"), tmp_path)
    before, after = np.split(np.asarray(found["makespan_mean_s"]), 2)
    (best,) = (b.metrics for b in simulate([uneven], get_method("optimal"), UNIFIED, 0, SEEDS_PER_BLOCK))
    assert np.array_equal(found["num_tasks"][:SEEDS_PER_BLOCK], best["num_tasks"])
    assert after.mean() < 0.8 * before.mean()
    assert after.mean() < 1.5 * best["makespan_mean_s"].mean()


def test_trained_methods_are_swept_beside_rules():
    methods, values = [METHOD, "optimal", "local"], (0.0, 0.6)
    result = run_study(
        Sweep(
            "arrival_prob",
            values=values,
            methods=methods,
            seeds=5,
            scenario=TINY,
            trained_seeds=3,
            episodes=EPISODES,
        )
    )
    table = result.rows
    assert len(table) == 2 * (3 + 5 + 5)
    assert np.isnan(table.query("value == 0")["makespan_mean_s"]).all()  # without tasks, NaN and no crash
    busy = table.query("value == 0.6")
    assert np.isfinite(busy["makespan_mean_s"]).all()
    counts = busy.pivot(index="seed", columns="method", values="num_tasks").dropna()
    np.testing.assert_array_equal(counts["amcoedge"], counts["optimal"])  # the same arrivals
    training = result.manifest["training"]
    assert (training["episodes"], training["num_seeds"]) == ({"amcoedge": EPISODES}, 3)
    assert training["settings"] == {"amcoedge": BASE.settings.to_dict()}
    found = result.summary.query("metric == 'makespan_mean_s' and value == 0.6").set_index("method")
    assert found["n_seeds"].to_dict() == {"amcoedge": 3, "optimal": 5, "local": 5}


def test_training_meets_the_arrivals_that_rules_meet(base: Trained):
    """Episode e of training is episode 1 + e of `simulate`, whose episode 0 no training sees."""
    local = get_method("local")
    for e in range(3):
        (batch,) = simulate([TINY], local, UNIFIED, 0, SEEDS_PER_BLOCK, episode=FIRST_TRAINING_EPISODE + e)
        np.testing.assert_array_equal(base.curves.totals["num_tasks"][:, e], batch.metrics["num_tasks"])
    assert FIRST_TRAINING_EPISODE == 1


def test_factorised_agents_train_in_fleets_that_cannot_be_enumerated():
    fleet = Scenario(num_servers=33, num_tasks=1, num_slots=3, arrival_prob=1.0)
    method = get_method("amcoedge-factorised").with_settings(hidden=(8,), batch_size=4)
    run = compiled_training(method, fleet, 4, 2)
    hyper = hyper_of(method, learn_after=3, learn_interval=1, learn_repeats=1)
    first, last, curve = run(hyper, np.uint32(0))
    assert first.learnt.weights["_Layer_1"]["kernel"].shape == (33, 66, 8)
    assert (last.learnt.steps == 3).all()
    assert np.isfinite(curve.logs["loss"])
    assert curve.totals["num_tasks"] == 33 * 3
    assert (last.memory.action.any(axis=-1) == (last.memory.size[..., :1] > 0)).all()
    with pytest.raises(InputError, match=r"num_servers: 33.*at most 12.*amcoedge-factorised"):
        run_study(Training("amcoedge", seeds=1, episodes=1, scenario=fleet))


@pytest.mark.parametrize("num_servers", [13, 14])
def test_enumerating_methods_refuse_large_fleets_at_once(num_servers: int):
    with pytest.raises(InputError, match=rf"num_servers: {num_servers}.*12") as error:
        run_study(Training("amcoedge", seeds=1, episodes=1, scenario=Scenario(num_servers=num_servers)))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="num_servers"):
        run_study(Sweep("num_servers", values=(3, num_servers), methods=["amcoedge"], seeds=1, episodes=1))


@pytest.mark.usefixtures("unchecked")
def test_logs_of_learners_have_names_of_their_own():
    learner = types.SimpleNamespace(training=types.SimpleNamespace(logs=("loss", "miss_rate")))
    with pytest.raises(InputError, match="logs: miss_rate; legal"):
        module.curve_names([learner], CURVE_METRICS, 2)  # pyright: ignore[reportArgumentType]
