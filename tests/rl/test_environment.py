"""The environments in functional form: the kernel's own decisions, step by step."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.episodes import SMALL

from amco_jax import AutoReset, DecisionEnv, InputError, Method, Scenario, SlotEnv, episode_key, load_scenario
from amco_jax.agents.actions import Factorised, nonempty_sets, partners, sets_of
from amco_jax.agents.methods import METHODS
from amco_jax.agents.policy import per_slot
from amco_jax.compile.wide import on_host
from amco_jax.env import SERIAL, UNIFIED, Physics, starts
from amco_jax.kernel import Episode, rollout, tasks_of_slot
from amco_jax.kernel.training import FIRST_TRAINING_EPISODE
from amco_jax.random import Stream, stream
from amco_jax.rl.base import Environment, seed_and_episode
from amco_jax.workload import workload_of

SEEDS = np.arange(5, dtype=np.uint32)


def _any_set(view: Any) -> Any:
    """Each server with probability 1/2, so that some tasks are rejected."""
    draws = [view.uniform(i) for i in range(view.backlog.size)]
    return jnp.stack(draws, axis=-1) < 0.5


RANDOM = Method("random-sets", per_slot(_any_set))
OPTIMAL = METHODS["optimal"]


def traced(directory: Path) -> Scenario:
    draw = np.random.default_rng(4)
    seconds = np.cumsum(draw.exponential(5.0, 300)).round(1)
    users, sizes = draw.integers(0, 9, 300), draw.uniform(1, 9, 300)
    rows = [f"{s},{u},{d:.2f}" for s, u, d in zip(seconds, users, sizes, strict=True)]
    (directory / "log.csv").write_text("\n".join(["time,user,size", *rows, ""]))
    table: Any = {"file": str(directory / "log.csv"), "time": "time", "user": "user", "size": "size"}
    return SMALL.replace(trace=table, time_scale=30.0)


@functools.cache
def episodes_of(scenario: Scenario, method: Method, physics: Physics = UNIFIED, episode: int = 0) -> Episode:
    """The kernel's episodes of `SEEDS`, with everything recorded."""
    env = DecisionEnv(scenario, physics=physics)

    @functools.partial(jax.vmap, in_axes=(None, 0))
    def run(params: Any, seed: Any) -> Episode:
        workload = workload_of(env.shape, params.scenario, params.tables, seed, episode, training=episode > 0)
        key = stream(seed, Stream.POLICY)
        keep = lambda decision, _: decision  # noqa: E731
        return rollout(
            env.shape,
            params.scenario,
            params.physics,
            method=method,
            workload=workload,
            key=key,
            record=keep,
            keep_queues=True,
        )

    return jax.tree.map(np.asarray, jax.jit(run)(env.default_params, SEEDS))


def begin(env: Any, episode: int = 0) -> Any:
    """The environments of `SEEDS`, reset, and the jitted step of all of them."""
    params = env.default_params
    keys = jax.vmap(lambda seed: episode_key(seed, episode))(SEEDS)
    step = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0, None)))
    return *jax.vmap(env.reset, in_axes=(0, None))(keys, params), lambda *of: step(None, *of, params)


def assert_same_decisions(scenario: Scenario, method: Method, physics: Physics = UNIFIED) -> None:
    kernel = episodes_of(scenario, method, physics)
    found = jax.tree.map(lambda x: np.full_like(x, 0), kernel.decisions)
    _, state, step = begin(DecisionEnv(scenario, physics=physics))
    lanes, over = np.arange(SEEDS.size), np.asarray(state.at.slot) >= scenario.num_slots
    while not over.all():
        at = jax.device_get(state.at)
        place = lanes, np.minimum(at.slot, scenario.num_slots - 1), at.base_station, at.position
        live, where = ~over, tuple(x[~over] for x in place)
        np.testing.assert_array_equal(at.backlog.servers[live], kernel.backlog[where[:2]])
        _, state, reward, ended, info = step(state, kernel.decisions.selected[place])
        assert not found.present[where].any()  # each task is decided once
        found.present[where] = np.asarray(info["decided"])[live]
        found.reward[where] = np.asarray(reward)[live]
        for name in ("selected", "fraction", "finish", "makespan", "missed", "rejected"):
            getattr(found, name)[where] = np.asarray(info[name])[live]
        over |= np.asarray(ended)
    here = kernel.decisions.present
    assert here.sum() > 40
    for name in (field.name for field in dataclasses.fields(found)):
        np.testing.assert_array_equal(
            getattr(found, name)[here], getattr(kernel.decisions, name)[here], err_msg=name
        )
    np.testing.assert_array_equal(found.present, here)


def assert_same_slots(scenario: Scenario, method: Method, physics: Physics = UNIFIED) -> None:
    kernel = episodes_of(scenario, method, physics)
    _, state, step = begin(SlotEnv(scenario, physics=physics))
    here, busy = kernel.decisions.present, 0
    for t in range(scenario.num_slots):
        np.testing.assert_array_equal(state.backlog.servers, kernel.backlog[:, t])
        _, state, rewards, over, info = step(state, kernel.decisions.selected[:, t])
        for name in ("makespan", "missed", "rejected", "reward"):
            expected = np.where(here[:, t], getattr(kernel.decisions, name)[:, t], 0)
            np.testing.assert_array_equal(info[name], expected, err_msg=name)
        np.testing.assert_array_equal(info["present"], here[:, t])
        np.testing.assert_allclose(rewards, np.asarray(info["reward"]).sum(-1), rtol=1e-6)
        assert np.all(np.asarray(over) == (t + 1 == scenario.num_slots))
        busy = busy + np.asarray(info["utilisation"])
    np.testing.assert_allclose(
        busy / scenario.num_slots, on_host(kernel.totals)["utilisation"] / scenario.num_slots, rtol=1e-6
    )


SCENARIOS = {
    "bernoulli": SMALL.replace(slot_duration=0.7),
    "poisson": SMALL.replace(arrivals="poisson"),
    "bursty": SMALL.replace(arrivals="bursty"),
    "service": load_scenario("jetson-sd15").replace(num_slots=4),
    "long rows": Scenario(num_servers=3, num_slots=2),
}


@pytest.mark.parametrize("same", [assert_same_decisions, assert_same_slots])
@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_sets_give_the_bits_of_the_kernel(name: str, same: Any):
    same(SCENARIOS[name], OPTIMAL if name == "long rows" else RANDOM)


@pytest.mark.parametrize("same", [assert_same_decisions, assert_same_slots])
def test_traces_and_published_physics_too(tmp_path: Path, same: Any):
    same(traced(tmp_path), RANDOM, METHODS["smcoedge"].published)


def test_a_request_log_is_not_held_by_the_state(tmp_path: Path):
    env = DecisionEnv(traced(tmp_path))
    _, state = env.reset(jax.random.key(0), env.default_params)
    assert max(leaf.size for leaf in jax.tree.leaves(state)) < 20


def test_keys_are_seeds_and_episodes():
    for seed in (0, 7, 2**32 - 1):
        assert tuple(map(int, seed_and_episode(episode_key(seed, 3)))) == (seed, 3)
    assert tuple(map(int, seed_and_episode(jax.random.key(7)))) == (7, 0)
    assert tuple(map(int, seed_and_episode(jax.random.PRNGKey(7)))) == (7, 0)
    seeds, episodes = jax.vmap(seed_and_episode)(jax.random.split(jax.random.key(0), 100))
    assert len(set(seeds.tolist())) == len(set(episodes.tolist())) == 100
    env = DecisionEnv(SMALL)
    for bad in (0, np.float32(1.0), jax.random.split(jax.random.key(0), 2)):
        with pytest.raises(InputError, match=r"^key: .* of shape .*; legal: one key of jax.random"):
            env.reset(bad, env.default_params)
    assert seed_and_episode(episode_key(0, 2**31 - 1))[1] == 2**31 - 1
    for bad in (-1, 2**31, 2**32, 0.5):
        with pytest.raises(InputError, match=r"^episode: "):
            episode_key(0, bad)


def test_episodes_are_those_of_training():
    env = SlotEnv(SMALL, observe=["size"])
    observed, state, step = begin(env, FIRST_TRAINING_EPISODE)
    kernel = episodes_of(SMALL, OPTIMAL, episode=FIRST_TRAINING_EPISODE)
    for t in range(SMALL.num_slots):
        np.testing.assert_array_equal(np.asarray(observed) > 0, kernel.decisions.present[:, t])
        observed, state, *_ = step(state, kernel.decisions.selected[:, t])


def tasks(env: Environment, seed: int, slot: int) -> Any:
    params = env.default_params
    workload = workload_of(env.shape, params.scenario, params.tables, jnp.uint32(seed), training=False)
    return jax.device_get(tasks_of_slot(params.scenario, workload, jnp.int32(slot), env.num_servers))


def test_decisions_are_observed_as_the_published_agents_see_them():
    env = DecisionEnv(SMALL)
    params, key = env.default_params, jax.random.key(1)
    observed, state = env.reset(key, params)
    over, info = False, {}
    for slot in range(SMALL.num_slots):
        coming = tasks(env, 1, slot)
        for size in coming.size[coming.present]:
            assert int(state.at.slot) == slot
            np.testing.assert_allclose(observed, [size, *state.at.backlog.servers], rtol=1e-6)
            observed, state, _, over, info = env.step(key, state, np.ones(3, bool), params)
    # The time limit cuts the episode; what follows is observed as if it went on.
    assert bool(over)
    assert bool(info["truncated"])
    following = tasks(env, 1, SMALL.num_slots)
    np.testing.assert_allclose(observed[0], following.size[following.present][0], rtol=1e-6)
    assert env.observation_space(params).contains(observed)
    again, unchanged, reward, over, info = env.step(key, state, np.ones(3, bool), params)
    jax.tree.map(np.testing.assert_array_equal, (again, unchanged), (observed, state))
    assert (bool(over), float(reward), bool(info["decided"])) == (True, 0, False)


@pytest.mark.parametrize("kind", [DecisionEnv, SlotEnv])
def test_a_request_log_without_a_training_part_is_refused(tmp_path: Path, kind: Any):
    scenario = traced(tmp_path)
    unseen = scenario.replace(trace=dataclasses.replace(scenario.trace, train_share=0))  # pyright: ignore
    refused = r"^trace.train_share: 0 of .* holds no episode of 5 slots of .*; legal for training: "
    with pytest.raises(InputError, match=refused):
        kind(unseen)
    env = kind(scenario)
    with pytest.raises(InputError, match=refused):
        env.params_of(unseen)


@pytest.mark.parametrize("deadline", [20.0, 2.1, 1.0])
def test_starts_are_observed_and_masked(deadline: float):
    """In an empty system, a server that needs longer than the deadline to load the model is never in time."""
    env = DecisionEnv(load_scenario("gpu-sd14-loading", {"deadline": deadline}), observe=["start", "wait"])
    params = env.default_params
    observed, state = env.reset(jax.random.key(0), params)
    start = np.asarray(observed)[:5]
    needed: Any = starts(params.scenario, state.at.task.size, state.at.task.work)
    np.testing.assert_allclose(start, needed)
    np.testing.assert_array_equal(observed[5:], 0)
    in_time = start <= deadline
    assert in_time.sum() == {20.0: 5, 2.1: 3, 1.0: 0}[deadline]
    mask = np.asarray(env.action_mask(state, params))
    np.testing.assert_array_equal(mask, in_time | ~in_time.any())
    missed = [bool(env.step(None, state, one, params)[4]["missed"]) for one in np.eye(5, dtype=bool)]
    assert np.all(np.asarray(missed)[~in_time])


def test_all_features_of_a_decision():
    names = ["local", "size", "work", "cost", "start", "wait", "slot_load", "link_delay", "backlog"]
    env = DecisionEnv(SMALL, observe=names)
    params = env.default_params
    observed, state, step = begin(env)
    for _ in range(12):
        observed, state, *_ = step(state, np.ones((SEEDS.size, 3), bool))
    for lane in range(SEEDS.size):
        at = jax.tree.map(lambda x, lane=lane: np.asarray(x)[lane], state.at)
        b, scenario = int(at.base_station), params.scenario
        remote = np.arange(3) != b
        wait = (at.backlog.servers + at.queues.slot_load) / scenario.capacity + remote * at.queues.link_delay
        cost = at.task.work / scenario.capacity + remote * at.task.size / scenario.link_rate[b]
        parts = [~remote, [at.task.size], [at.task.work], cost, np.zeros(3), wait, at.queues.slot_load]
        expected = np.concatenate([*parts, [at.queues.link_delay], at.backlog.servers])
        np.testing.assert_allclose(observed[lane], expected, rtol=1e-5)
        assert env.observation_space(params).shape == observed[lane].shape


def test_slots_are_observed_by_each_agent():
    env = SlotEnv(SMALL, observe=["size", "local", "cost", "backlog"])
    params, key = env.default_params, jax.random.key(2)
    observed, state = env.reset(key, params)
    for slot in range(SMALL.num_slots + 1):
        coming = tasks(env, 2, slot)
        assert observed.shape == env.observation_space(params).shape
        for b in range(3):
            # Position by position its size and costs, and then what all positions share.
            of_tasks, of_station = observed[b, :16].reshape(4, 4), observed[b, 16:]
            np.testing.assert_allclose(of_tasks[:, 0], coming.present[b] * coming.size[b], rtol=1e-6)
            cost = coming.work[b, :, None] / params.scenario.capacity
            cost += (np.arange(3) != b) * coming.size[b, :, None] / params.scenario.link_rate[b]
            np.testing.assert_allclose(of_tasks[:, 1:], coming.present[b, :, None] * cost, rtol=1e-5)
            np.testing.assert_allclose(of_station, [*(np.arange(3) == b), *state.backlog.servers], rtol=1e-6)
        if slot < SMALL.num_slots:
            observed, state, *_ = env.step(key, state, np.ones((3, 4, 3), bool), params)


def selected_by(env: Any, action: Any, seed: int = 0) -> Any:
    params = env.default_params
    _, state = env.reset(jax.random.key(seed), params)
    assert env.action_space(params).contains(jnp.asarray(action))
    info = env.step(None, state, action, params)[4]
    return np.asarray(info["selected"]).tolist(), int(info["base_station"]), bool(info["rejected"])


def test_actions_are_sets_or_numbers_of_sets():
    members = nonempty_sets(3).table()
    for number in range(7):
        env = DecisionEnv(SMALL, actions=nonempty_sets)
        assert selected_by(env, number)[0] == members[number].tolist()
    selected, b, _ = selected_by(DecisionEnv(SMALL, actions=partners), 2)
    assert selected == [i in (2, b) for i in range(3)]
    assert DecisionEnv(SMALL, actions=sets_of(2)).num_actions == 3
    assert DecisionEnv(SMALL).num_actions == 8
    with pytest.raises(InputError, match=r"^actions: Factorised; legal: "):
        DecisionEnv(SMALL, actions=Factorised)


def test_the_empty_set_rejects_unless_told_otherwise():
    nobody = np.zeros(3, bool)
    assert selected_by(DecisionEnv(SMALL), nobody)[::2] == ([False] * 3, True)
    selected, b, rejected = selected_by(DecisionEnv(SMALL, reject=False), nobody)
    assert (selected, rejected) == ([i == b for i in range(3)], False)
    env = SlotEnv(SMALL, reject=False)
    _, state = env.reset(jax.random.key(0), env.default_params)
    local = np.broadcast_to(np.eye(3, dtype=bool)[:, None], (3, 4, 3))
    for action in (np.zeros((3, 4, 3), bool), local):
        stepped = env.step(None, state, action, env.default_params)
        assert not np.asarray(stepped[4]["rejected"]).any()
    np.testing.assert_array_equal(
        stepped[4]["makespan"], env.step(None, state, np.zeros((3, 4, 3)), env.default_params)[4]["makespan"]
    )


def test_numbered_joint_actions_are_the_sets_that_they_number():
    by_number, by_set = SlotEnv(SMALL, actions=partners), SlotEnv(SMALL)
    params = by_set.default_params
    _, state = by_set.reset(jax.random.key(5), params)
    action = by_number.action_space(params).sample(jax.random.key(0))
    sets = (np.arange(3) == np.asarray(action)[..., None]) | np.eye(3, dtype=bool)[:, None]
    found, expected = (env.step(None, state, a, params) for env, a in ((by_number, action), (by_set, sets)))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_mask_leaves_out_sets_that_must_miss():
    scenario = SMALL.replace(deadline=0.15)
    for actions in (None, nonempty_sets):
        env = DecisionEnv(scenario, actions=actions)
        params = env.default_params
        _, state = env.reset(jax.random.key(0), params)
        masks = []
        for k in range(12):
            masks.append(np.asarray(env.action_mask(state, params)))
            everything = np.eye(3, dtype=bool) if actions is None else np.arange(7)
            missed = [bool(env.step(None, state, a, params)[4]["missed"]) for a in everything]
            assert np.all(np.asarray(missed)[~masks[-1]])
            state = env.step(None, state, everything[k % len(everything)], params)[1]
        assert 0 < np.mean(masks) < 1


def test_an_episode_without_a_task_is_over_at_once():
    env = DecisionEnv(SMALL.replace(arrival_prob=0.0))
    params = env.default_params
    observed, state = env.reset(jax.random.key(0), params)
    np.testing.assert_array_equal(observed, 0)
    assert bool(env.is_over(state))
    _, _, reward, over, info = env.step(None, state, np.ones(3, bool), params)
    assert (bool(over), float(reward), bool(info["decided"])) == (True, 0, False)


def test_one_program_serves_many_scenarios():
    env = DecisionEnv(SMALL)
    loads = [SMALL.replace(arrival_prob=p) for p in (0.2, 0.9)]
    many = jax.tree.map(lambda *x: np.stack(x), *map(env.params_of, loads))
    _, together = jax.vmap(env.reset, in_axes=(None, 0))(jax.random.key(3), many)
    for i, scenario in enumerate(loads):
        _, alone = env.reset(jax.random.key(3), env.params_of(scenario))
        assert int(alone.at.position) == int(together.at.position[i])
    published = DecisionEnv(SMALL, physics=METHODS["smcoedge"].published)
    assert published.params_of(SMALL).physics.miss_penalty == 2
    assert published.params_of(SMALL, UNIFIED).physics.miss_penalty == 10
    with pytest.raises(InputError, match=r"^scenario: .*legal in this environment"):
        env.params_of(SMALL.replace(num_slots=9))
    assert DecisionEnv(SMALL, physics="serial").physics is SERIAL
    assert published.params_of(SMALL, "unified").physics.miss_penalty == 10
    refused: list[tuple[dict[str, Any], str]] = [
        ({"observe": ["waits"]}, "observe: 'waits'; legal: "),
        ({"physics": "published"}, "physics: 'published'; legal: unified, conserving, serial"),
        ({"allocator": "fair"}, "allocator: 'fair'; legal: cwa"),
        ({"allocator": 3}, "allocator: "),
    ]
    for arguments, words in refused:
        with pytest.raises(InputError, match=f"^{words}"):
            DecisionEnv(SMALL, **arguments)


def test_samples_lie_in_their_spaces():
    key, params = jax.random.key(0), DecisionEnv(SMALL).default_params
    for env in (DecisionEnv(SMALL), SlotEnv(SMALL), SlotEnv(SMALL, actions=partners)):
        for space in (env.action_space(params), env.observation_space(params)):
            sample = space.sample(key)
            assert sample.shape == space.shape
            assert sample.dtype == space.dtype
            assert space.contains(sample)
            assert not space.contains(sample - 5.0)
            assert not space.contains(sample[None])


@pytest.mark.parametrize("kind", [DecisionEnv, SlotEnv])
def test_autoreset_begins_the_next_episode_and_keeps_the_last_observation(kind: Any):
    env = kind(SMALL)
    endless, params = AutoReset(env), env.default_params
    assert (endless.name, endless.num_actions) == (env.name, env.num_actions)
    assert copy.copy(endless).env is env
    assert copy.deepcopy(endless).num_actions == pickle.loads(pickle.dumps(endless)).num_actions
    with pytest.raises(AttributeError):
        _ = endless.unknown
    _, state = endless.reset(jax.random.key(1), params)
    action = jnp.ones(env.action_space(params).shape, bool)
    ended = 0
    for i in range(60):
        key = jax.random.fold_in(jax.random.key(9), i)
        plain = env.step(key, state, action, params)
        observed, state, reward, over, info = endless.step(key, state, action, params)
        np.testing.assert_array_equal(info["final_observation"], plain[0])
        np.testing.assert_array_equal(reward, plain[2])
        expected = env.reset(key, params) if over else plain[:2]
        jax.tree.map(np.testing.assert_array_equal, (observed, state), expected)
        ended += int(over)
    assert ended
