"""The adapters, each against its library's own checker, wrappers or learner."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnax.environments import spaces
from gymnax.wrappers.compat import LegacyStepAPIWrapper
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper
from helpers.episodes import SMALL
from helpers.refusals import refused
from pettingzoo.test import parallel_api_test, parallel_seed_test, state_test
from pettingzoo.utils.conversions import parallel_to_aec
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_of_stable_baselines

from amco_jax import (
    DecisionEnv,
    GymnasiumEnv,
    GymnasiumVectorEnv,
    GymnaxEnv,
    InputError,
    PettingZooEnv,
    SlotEnv,
    StableBaselinesEnv,
    get_method,
)
from amco_jax.agents.actions import nonempty_sets, sets_of
from amco_jax.env import UNIFIED
from amco_jax.study.simulate import simulate

SETS = DecisionEnv(SMALL)
NUMBERS = DecisionEnv(SMALL, actions=nonempty_sets, observe=("size", "wait", "cost", "local"))
ENVIRONMENTS = pytest.mark.parametrize("env", [SETS, NUMBERS], ids=["sets", "numbers"])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@ENVIRONMENTS
def test_gymnasium_and_stable_baselines_accept_the_environment(env: DecisionEnv):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Backlogs have no bound, and an environment that is not registered has no spec.
        for harmless in (".*maximum value is infinity.*", ".*not having a spec.*"):
            warnings.filterwarnings("ignore", harmless)
        check_env(GymnasiumEnv(env))
        check_env_of_stable_baselines(GymnasiumEnv(env))


def test_a_seeded_reset_plays_the_episode_of_a_sweep():
    method = get_method("all-servers")
    (batch,) = simulate([SMALL], method, UNIFIED, first_seed=40, num_seeds=3)
    env = GymnasiumEnv(SETS)
    for i, seed in enumerate(batch.seeds):
        env.reset(seed=int(seed))
        makespan, missed, truncated = [], [], False
        while not truncated:
            _, reward, terminated, truncated, info = env.step(np.ones(3, np.int8))
            assert not terminated
            makespan.append(info["makespan"])
            missed.append(info["missed"])
            expected = -10 * SMALL.deadline if info["missed"] else -info["makespan"]
            assert reward == pytest.approx(expected, rel=1e-6)
        assert len(makespan) == batch.metrics["num_tasks"][i]
        np.testing.assert_allclose(np.mean(makespan), batch.metrics["makespan_mean_s"][i], rtol=1e-6)
        assert np.mean(missed) == pytest.approx(batch.metrics["miss_rate"][i])


def test_resets_go_on_to_the_next_episode_of_the_seed():
    def first(env: Any, **options: Any) -> list[float]:
        return env.reset(**options)[0].tolist()

    env, fresh = GymnasiumEnv(SETS), GymnasiumEnv(SETS, first_episode=1)
    zero, one, two = first(env, seed=5), first(env), first(env)
    assert zero != one != two
    assert first(env, seed=5) == zero
    assert first(env, options={"episode": 2}) == two
    assert first(fresh, seed=5) == one
    assert first(GymnasiumEnv(SETS)) != first(GymnasiumEnv(SETS))  # seeds of their own


def test_bad_input_is_refused_in_one_line():
    env, vector, agents = GymnasiumEnv(SETS), GymnasiumVectorEnv(2, SETS), PettingZooEnv(SlotEnv(SMALL))
    for each in (env, vector, agents):
        with pytest.raises(gymnasium.error.ResetNeeded):
            each.step({})
        with pytest.raises(InputError, match=r"^seed: -1; legal: "):
            each.reset(seed=-1)
        for bad in (0.5, 2**31):
            with pytest.raises(InputError, match=rf"^episode: {bad}; legal: "):
                each.reset(seed=1, options={"episode": bad})
        each.reset(seed=1)
    for each in (env, vector):
        with pytest.raises(InputError, match=r"^actions?: 2; legal: a member of "):
            each.step(2)
    with pytest.raises(InputError, match=r"^actions: none for base_station_0; legal: "):
        agents.step({})
    with pytest.raises(InputError, match=r"^seed: 3 seeds; legal: one, or 2"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(InputError, match=r"^autoreset_mode: .*legal: NEXT_STEP, SAME_STEP"):
        GymnasiumVectorEnv(2, SETS, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(InputError, match=r"^num_envs: 0; legal: "):
        GymnasiumVectorEnv(0, SETS)
    with pytest.raises(InputError, match=r"^actions: sets; legal with gymnax: "):
        GymnaxEnv(SETS)


@pytest.mark.parametrize(
    "changes", [{"num_servers": 2}, {"num_tasks": 3}, {"num_slots": 4}, {"arrivals": "poisson"}], ids=str
)
def test_parameters_of_another_shape_are_refused(changes: dict[str, Any]):
    key, many = jax.random.key(0), functools.partial(StableBaselinesEnv, 2)
    kinds: Any = ((DecisionEnv, [GymnasiumEnv, many]), (SlotEnv, [PettingZooEnv]))
    for kind, adapters in kinds:
        each, other = kind(SMALL), kind(SMALL.replace(**changes)).default_params
        words = "params: (", "; legal in this environment: (3, 4, 5, 'bernoulli'"
        refused(lambda: each.reset(key, other), *words)  # noqa: B023
        _, state = each.reset(key, each.default_params)
        action = each.action_space(each.default_params).sample(key)
        refused(lambda: each.step(None, state, action, other), *words)  # noqa: B023
        for adapter in adapters:
            refused(lambda: adapter(each, params=other), *words)  # noqa: B023


def test_actions_are_judged_by_their_numbers():
    env, vector = GymnasiumEnv(SETS), GymnasiumVectorEnv(2, SETS)
    for kind in (bool, np.int64, np.float32, list):
        env.reset(seed=1)
        vector.reset(seed=1)
        action: Any = [1, 0, 1] if kind is list else np.asarray([1, 0, 1], kind)
        assert env.step(action)[4]["selected"].tolist() == [True, False, True]
        assert vector.step([action, action])[4]["selected"].tolist() == [[True, False, True]] * 2
    for bad in ([0.5, 0, 1], [1, 0], ["a", "b", "c"], None, [1, 0, -1]):
        with pytest.raises(InputError, match=r"^action: .*legal: a member of MultiBinary\(3\)"):
            env.step(bad)
    with pytest.raises(
        InputError, match=r"^action: \[\[1\], \[1, 0\]\]; legal: an array, with rows of equal"
    ):
        env.step([[1], [1, 0]])
    agents = PettingZooEnv(SlotEnv(SMALL))
    agents.reset(seed=1)
    with pytest.raises(InputError, match=r"^action of base_station_0: .*; legal: an array"):
        agents.step({agent: [[1], [1, 0]] for agent in agents.agents})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_vector_environment_is_gymnasiums_own_of_single_ones(mode: AutoresetMode):
    single = SyncVectorEnv([lambda: GymnasiumEnv(SETS)] * 3, autoreset_mode=mode)
    vector = GymnasiumVectorEnv(3, SETS, autoreset_mode=mode)
    assert vector.metadata["autoreset_mode"] == mode
    np.testing.assert_array_equal(vector.reset(seed=3)[0], single.reset(seed=3)[0])
    single.action_space.seed(0)
    ended = 0
    for _ in range(100):
        actions = single.action_space.sample()
        *arrays, found = vector.step(actions)
        *expected_arrays, expected = single.step(actions)
        for a, b in zip(arrays, expected_arrays, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert_same_infos(found, expected)
        ended += int(arrays[3].sum())
    assert ended > 5
    np.testing.assert_array_equal(vector.reset(seed=[8, 8, 9])[0], single.reset(seed=[8, 8, 9])[0])
    np.testing.assert_array_equal(vector.reset()[0], single.reset()[0])


def assert_same_infos(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal masks, and equal entries where they say that there are some."""
    assert found.keys() == expected.keys()
    for name in (name for name in expected if not name.startswith("_")):
        mask = expected[f"_{name}"]
        np.testing.assert_array_equal(found[f"_{name}"], mask)
        if name == "final_info":
            assert_same_infos(found[name], expected[name])
        else:
            for a, b in zip(found[name][mask], expected[name][mask], strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("actions", [None, sets_of(2)], ids=["sets", "numbers"])
def test_pettingzoo_accepts_the_agents(actions: Any):
    env = SlotEnv(SMALL, actions=actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Backlogs have no bound.
        warnings.filterwarnings("ignore", ".*maximum state space value is infinity.*")
        parallel_api_test(PettingZooEnv(env), num_cycles=12)
        parallel_seed_test(lambda: PettingZooEnv(env), num_cycles=12)
        with pytest.raises(gymnasium.error.ResetNeeded):
            PettingZooEnv(env).state()
        state_test(parallel_to_aec(PettingZooEnv(env)), PettingZooEnv(env))


def test_the_agents_of_pettingzoo_are_the_base_stations():
    env, agents = SlotEnv(SMALL), PettingZooEnv(SlotEnv(SMALL))
    observed, state = env.reset(jax.random.key(6), env.default_params)
    seen, _ = agents.reset(seed=6)
    truncated: dict[str, bool] = {}
    for _ in range(SMALL.num_slots):
        for b, name in enumerate(agents.possible_agents):
            np.testing.assert_array_equal(seen[name], observed[b])
        np.testing.assert_array_equal(agents.state(), np.ravel(observed))
        chosen = {name: agents.action_space(name).sample() for name in agents.agents}
        joint = np.stack(list(chosen.values()))
        observed, state, rewards, _, info = env.step(None, state, joint, env.default_params)
        seen, got, _, truncated, infos = agents.step(chosen)
        assert list(got.values()) == rewards.tolist()
        for b, name in enumerate(agents.possible_agents):
            np.testing.assert_array_equal(infos[name]["makespan"], info["makespan"][b])
    assert agents.agents == []
    assert truncated == dict.fromkeys(agents.possible_agents, True)


def test_ppo_of_stable_baselines_learns_on_one_environment():
    model = PPO("MlpPolicy", GymnasiumEnv(SETS), n_steps=32, batch_size=32, n_epochs=1, seed=0)
    model.learn(64)
    assert model.num_timesteps == 64


@ENVIRONMENTS
def test_ppo_of_stable_baselines_learns_on_many_environments(env: DecisionEnv):
    vector = StableBaselinesEnv(16, env)
    model = PPO("MlpPolicy", vector, n_steps=16, batch_size=64, n_epochs=2, seed=3)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(512)
    assert model.num_timesteps == 512
    after = list(model.policy.parameters())
    assert all(bool(torch.isfinite(parameter).all()) for parameter in after)
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_the_environments_of_stable_baselines_are_the_single_ones():
    vector: Any = StableBaselinesEnv(2, SETS)
    singles = [GymnasiumEnv(SETS) for _ in range(2)]
    vector.seed(11)
    observed = vector.reset()
    for i, single in enumerate(singles):
        np.testing.assert_array_equal(observed[i], single.reset(seed=11 + i)[0])
    ended = 0
    for _ in range(80):
        actions = np.stack([vector.action_space.sample() for _ in singles])
        observed, rewards, over, infos = vector.step(actions)
        for i, single in enumerate(singles):
            expected, reward, _, truncated, _ = single.step(actions[i])
            assert rewards[i] == np.float32(reward)
            told: Any = infos[i]
            assert over[i] == truncated == told.get("TimeLimit.truncated", False)
            if truncated:
                ended += 1
                np.testing.assert_array_equal(told["terminal_observation"], expected)
                expected, _ = single.reset()
            np.testing.assert_array_equal(observed[i], expected)
    assert ended > 2


def test_the_options_of_stable_baselines_are_passed_on():
    vector, single = StableBaselinesEnv(2, SETS), GymnasiumEnv(SETS)
    vector.seed(11)
    vector.set_options({"episode": 5})
    observed: Any = vector.reset()
    np.testing.assert_array_equal(observed[0], single.reset(seed=11, options={"episode": 5})[0])
    np.testing.assert_array_equal(vector.reset()[0], single.reset()[0])
    vector.set_options([{"episode": 5}, {"episode": 6}])
    refused(vector.reset, "options: [{'episode': 5}, {'episode': 6}]; legal: the same for all environments")


@ENVIRONMENTS
def test_the_masks_have_the_form_of_maskable_ppo(env: DecisionEnv):
    single = GymnasiumEnv(env)
    single.reset(seed=0)
    masks = single.action_masks()
    # An empty system leaves no server out; of each server, both values of its boolean are allowed.
    assert masks.shape == ((6,) if env is SETS else (7,))
    assert masks.dtype == bool
    assert masks.all()


def test_gymnax_runs_the_environment_in_its_wrappers():
    env = GymnaxEnv(NUMBERS)
    params = env.default_params
    space, actions = env.observation_space(params), env.action_space(params)
    assert isinstance(space, spaces.Box)
    assert isinstance(actions, spaces.Discrete)
    assert (env.name, env.num_actions, actions.n) == ("DecisionEnv", 7, 7)
    wrapped = LogWrapper(FlattenObservationWrapper(env))
    key = jax.random.key(0)

    def play(key: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            state, total = carry
            out = wrapped.step(key, state, actions.sample(key), params)
            observed, state, reward, terminated, truncated, info = out
            seen = observed, reward, terminated, truncated, info, state.env_state.origin.seed
            return (state, total + reward), seen

        _, state = wrapped.reset(key, params)
        return jax.lax.scan(step, (state, jnp.float32(0)), jax.random.split(key, 60))

    (_, total), seen = jax.device_get(jax.jit(jax.vmap(play))(jax.random.split(key, 4)))
    observed, reward, terminated, truncated, info, seeds = seen
    assert not terminated.any()
    assert truncated.any(axis=1).all()
    np.testing.assert_array_equal(info["returned_episode"], truncated)
    assert all(len(set(lane.tolist())) > 1 for lane in seeds)  # other arrivals after each end
    np.testing.assert_allclose(total, reward.sum(axis=1), rtol=1e-5)
    last = info["final_observation"]
    assert bool(space.contains(observed))
    np.testing.assert_array_equal(last[~truncated], observed[~truncated])
    assert np.any(last[truncated] != observed[truncated])
    old = LegacyStepAPIWrapper(env)
    _, state = old.reset(key, params)
    assert len(old.step(key, state, 0, params)) == 5
