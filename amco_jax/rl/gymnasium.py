"""Gymnasium adapters: a single environment, and a vector environment in one compiled call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from amco_jax.errors import InputError, check_array, check_list, check_whole
from amco_jax.random import MAX_COORDINATE, MAX_SEED, check_seed
from amco_jax.rl.base import EnvParams, episode_key
from amco_jax.rl.decisions import DecisionEnv, DecisionState
from amco_jax.rl.spaces import Box, Discrete, Space


def to_gymnasium(space: Space) -> gymnasium.Space[Any]:
    """The Gymnasium space of the same arrays; booleans become 8-bit integers."""
    if isinstance(space, Box):
        return gymnasium.spaces.Box(space.low, space.high, space.shape, np.float32)
    if isinstance(space, Discrete):
        if space.shape == ():
            return gymnasium.spaces.Discrete(space.n)
        return gymnasium.spaces.MultiDiscrete(np.full(space.shape, space.n))
    shape = tuple(space.shape)
    return gymnasium.spaces.MultiBinary(shape if len(shape) > 1 else math.prod(shape))


def check_action(space: gymnasium.Space[Any], action: Any, field: str = "action") -> np.ndarray:
    """The action as an array of the space's dtype; InputError unless it is a member of the space."""
    array = check_array(field, action)
    is_number = array.dtype.kind in "biuf"
    cast = array.astype(space.dtype) if is_number else array
    if not is_number or not np.array_equal(cast, array) or not space.contains(cast):
        raise InputError(f"{field}: {' '.join(str(array).split())}; legal: a member of {space}")
    return cast


def episode_of(options: dict[str, Any] | None, default: int) -> int:
    """The episode number in the options of a reset, or the default."""
    return check_whole("episode", (options or {}).get("episode", default), 0, MAX_COORDINATE)


class GymnasiumEnv(gymnasium.Env[np.ndarray, Any]):
    """A `DecisionEnv` as a Gymnasium environment.

    `reset(seed=s)` plays episode `first_episode` of seed s, and each further `reset()` plays the next episode
    of that seed, with the same densities and new arrivals. `reset(options={"episode": k})` plays episode k.
    If the first reset has no seed, it draws one.

    Args:
      env: by default, an environment of the published setting.
      params: by default, those of `env`.
      first_episode: episode 0 is the one that sweeps and evaluations simulate. Use 1 for training, so that
        episode 0 stays unseen.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(
        self, env: DecisionEnv | None = None, *, params: EnvParams | None = None, first_episode: int = 0
    ):
        self.env = DecisionEnv() if env is None else env
        self.params = self.env.default_params if params is None else params
        self.first_episode = check_whole("first_episode", first_episode, 0, MAX_COORDINATE)
        self.observation_space = to_gymnasium(self.env.observation_space(self.params))
        self.action_space = to_gymnasium(self.env.action_space(self.params))
        self._state: DecisionState | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observation of an episode, and an empty dictionary.

        Raises:
          InputError: the seed is not a whole number from 0 to 2³²-1, or the episode none from 0 to 2³¹-1.
        """
        super().reset(seed=None if seed is None else check_seed("seed", seed))
        if seed is None and self._state is not None:
            seed, episode = int(self._state.origin.seed), int(self._state.origin.episode) + 1
        else:
            seed = int(self.np_random.integers(MAX_SEED + 1)) if seed is None else seed
            episode = self.first_episode
        observed, self._state = self.env.reset(episode_key(seed, episode_of(options, episode)), self.params)
        return np.array(observed), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one task; the dictionary is that of `DecisionEnv.step`.

        Raises:
          InputError: the action is not in the action space.
        """
        state, action = self._current(), check_action(self.action_space, action)
        stepped = self.env.step(None, state, action, self.params)
        self._state = stepped[1]
        observed, _, reward, _, info = jax.device_get(stepped)
        # A copy, because arrays from a device are read-only, and some learners write into observations.
        return np.array(observed), float(reward), False, bool(info.pop("truncated")), info

    def action_masks(self) -> np.ndarray:
        """`DecisionEnv.action_mask` in the format of MaskablePPO in sb3-contrib.

        Returns:
          `[num_actions]`, or `[2·num_servers]` if actions are sets: for each server, whether it may be left
          out (always True) and whether it may be selected.
        """
        mask = np.asarray(self.env.action_mask(self._current(), self.params))
        return mask if self.env.sets is not None else np.stack([np.ones_like(mask), mask], axis=1).ravel()

    def _current(self) -> DecisionState:
        if self._state is None:
            raise gymnasium.error.ResetNeeded("Call reset before the first step.")
        return self._state


class GymnasiumVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """A batch of `DecisionEnv` environments, stepped together by one compiled call.

    `reset(seed=s)` gives environment i the seed s + i; a list gives one seed per environment. When an episode
    ends, its environment continues with the next episode of its seed, in the next step or in the same one,
    depending on `autoreset_mode`.

    Args:
      num_envs: the number of environments.
      env: by default, an environment of the published setting.
      params: the parameters of all environments; by default, those of `env`.
      first_episode: see `GymnasiumEnv`.
      autoreset_mode: NEXT_STEP, which is Gymnasium's default, or SAME_STEP.

    Raises:
      InputError: a number is out of range, or the mode is another one.
    """

    def __init__(
        self,
        num_envs: int,
        env: DecisionEnv | None = None,
        *,
        params: EnvParams | None = None,
        first_episode: int = 0,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    ):
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise InputError(f"autoreset_mode: {autoreset_mode}; legal: NEXT_STEP, SAME_STEP")
        self.num_envs = check_whole("num_envs", num_envs)
        self.env = DecisionEnv() if env is None else env
        self.params = self.env.default_params if params is None else params
        self.first_episode = check_whole("first_episode", first_episode, 0, MAX_COORDINATE)
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.single_observation_space = to_gymnasium(self.env.observation_space(self.params))
        self.single_action_space = to_gymnasium(self.env.action_space(self.params))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._same_step = autoreset_mode == AutoresetMode.SAME_STEP
        self._programs = jax.jit(self._play), jax.jit(self._next_step), jax.jit(self._at_once)
        self._state: Any = None
        self._over = np.zeros(self.num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The first observations `[num_envs, numbers]`, and an empty dictionary.

        Raises:
          InputError: a seed is not a whole number from 0 to 2³²-1, the episode is none from 0 to 2³¹-1, or
            the number of seeds is wrong.
        """
        seeds, episodes = self._next_episodes(seed, options)
        observed, self._state = self._programs[0](seeds, episodes, self.params)
        self._over = np.zeros(self.num_envs, bool)
        return np.array(observed), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Decide a task in each environment, or start the next episode where one has ended.

        Raises:
          InputError: the actions are not in the action space.
        """
        if self._state is None:
            raise gymnasium.error.ResetNeeded("Call reset before the first step.")
        actions = check_action(self.action_space, actions, "actions")
        if self._same_step:
            stepped = self._programs[2](self._state, actions, self.params)
        else:
            stepped = self._programs[1](self._state, self._over, actions, self.params)
        self._state = stepped[1]
        # Everything but the states, which stay on the device.
        observed, reward, over, info, last = jax.device_get((stepped[0], *stepped[2:]))
        del info["truncated"]
        live, ended = ~self._over, np.zeros(self.num_envs, bool)
        infos = _masked(info, live)
        if self._same_step:
            infos = _final(info, last, over) if over.any() else infos
        else:
            self._over = over
        return np.array(observed), reward.astype(np.float64), ended, over, infos

    def _next_episodes(self, seed: Any, options: dict[str, Any] | None) -> tuple[np.ndarray, np.ndarray]:
        """The seed and the episode of each environment."""
        if seed is None and self._state is not None:
            origin = jax.device_get(self._state.origin)
            seeds, episodes = origin.seed, origin.episode + np.uint32(1)
        else:
            if seed is None:
                seed = int(self.np_random.integers(MAX_SEED + 1))
            if isinstance(seed, int | np.integer):
                super().reset(seed=check_seed("seed", seed))
                seeds = (int(seed) + np.arange(self.num_envs)) % (MAX_SEED + 1)
            else:
                seeds = [check_seed("seed", each) for each in check_list("seed", seed)]
                if len(seeds) != self.num_envs:
                    raise InputError(f"seed: {len(seeds)} seeds; legal: one, or {self.num_envs}")
            episodes = np.full(self.num_envs, self.first_episode)
        if options and "episode" in options:
            episodes = np.full(self.num_envs, episode_of(options, 0))
        return np.asarray(seeds, np.uint32), np.asarray(episodes, np.uint32)

    def _play(self, seeds: Any, episodes: Any, params: EnvParams) -> tuple[Any, DecisionState]:
        return jax.vmap(lambda s, e: self.env.reset(episode_key(s, e), params))(seeds, episodes)

    def _restarted(self, over: Any, observed: Any, state: DecisionState, params: EnvParams) -> Any:
        """Observations and states, with environments that are over reset to their next episode."""

        def begin() -> Any:
            fresh = self._play(state.origin.seed, state.origin.episode + 1, params)
            return jax.tree.map(
                lambda new, old: jnp.where(over.reshape(-1, *[1] * (old.ndim - 1)), new, old),
                fresh,
                (observed, state),
            )

        # Most steps end no episode, and then no new one is drawn.
        return jax.lax.cond(jnp.any(over), begin, lambda: (observed, state))

    def _advance(self, state: Any, actions: Any, params: EnvParams) -> Any:
        return jax.vmap(self.env.step, (None, 0, 0, None))(None, state, actions, params)

    def _next_step(self, state: Any, over: Any, actions: Any, params: EnvParams) -> Any:
        observed, then, reward, done, info = self._advance(state, actions, params)
        observed, then = self._restarted(over, observed, then, params)
        return observed, then, jnp.where(over, 0, reward), done & ~over, info, None

    def _at_once(self, state: Any, actions: Any, params: EnvParams) -> Any:
        last, then, reward, done, info = self._advance(state, actions, params)
        observed, then = self._restarted(done, last, then, params)
        return observed, then, reward, done, info, last


def _masked(info: dict[str, np.ndarray], live: np.ndarray) -> dict[str, Any]:
    """The dictionary in Gymnasium's format: each array has a mask of the environments it is valid for."""
    return info | {f"_{name}": live.copy() for name in info}


def _final(info: dict[str, np.ndarray], last: np.ndarray, over: np.ndarray) -> dict[str, Any]:
    """The dictionary of a step with resets; its `final_` entries describe the episodes that ended."""
    observations = np.full(len(over), None, dtype=object)
    for i in np.flatnonzero(over):
        observations[i] = last[i]
    final = {"final_obs": observations, "final_info": _masked(info, over)}
    return _masked(info, ~over) | _masked(final, over)
