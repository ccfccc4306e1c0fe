"""PettingZoo adapter for the parallel API, with one agent per base station."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import gymnasium
import jax
import numpy as np
from pettingzoo import ParallelEnv

from amco_jax.errors import InputError, check_whole
from amco_jax.random import MAX_COORDINATE, MAX_SEED, check_seed
from amco_jax.rl.base import EnvParams, episode_key
from amco_jax.rl.gymnasium import check_action, episode_of, to_gymnasium
from amco_jax.rl.slots import SlotEnv, SlotState


class PettingZooEnv(ParallelEnv[str, np.ndarray, Any]):
    """A `SlotEnv` as a parallel environment of agents `base_station_0`, `base_station_1`, …

    Seeds and episodes of a reset are as in `GymnasiumEnv`. All agents live until the episode is truncated.

    Args:
      env: by default, an environment of the published setting.
      params: by default, those of `env`.
      first_episode: see `GymnasiumEnv`.
    """

    metadata = {"name": "amco_jax_slots", "render_modes": [], "is_parallelizable": True}  # noqa: RUF012

    def __init__(
        self, env: SlotEnv | None = None, *, params: EnvParams | None = None, first_episode: int = 0
    ):
        self.env = SlotEnv() if env is None else env
        self.params = self.env.default_params if params is None else params
        self.first_episode = check_whole("first_episode", first_episode, 0, MAX_COORDINATE)
        self.possible_agents = [f"base_station_{b}" for b in range(self.env.num_servers)]
        self.agents: list[str] = []
        self.render_mode = None
        spaces = (self.env.observation_space(self.params), self.env.action_space(self.params))
        # Each agent has its own space object, because each is seeded separately.
        self.observation_spaces, self.action_spaces = (
            {agent: to_gymnasium(space.part()) for agent in self.possible_agents} for space in spaces
        )
        observed = spaces[0]
        self.state_space = to_gymnasium(dataclasses.replace(observed, shape=(math.prod(observed.shape),)))
        self._state: SlotState | None = None
        self._observed: Any = None

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """The space of one agent's observations."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The space of one agent's actions: a set, or the number of a set, for each of its task positions."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """The agents' first observations, and an empty dictionary for each.

        Raises:
          InputError: the seed is not a whole number from 0 to 2³²-1, or the episode none from 0 to 2³¹-1.
        """
        episode = self.first_episode
        if seed is not None:
            seed = check_seed("seed", seed)
        elif self._state is None:
            seed = int(np.random.default_rng().integers(MAX_SEED + 1))
        else:
            seed, episode = int(self._state.origin.seed), int(self._state.origin.episode) + 1
        key = episode_key(seed, episode_of(options, episode))
        self._observed, self._state = jax.device_get(self.env.reset(key, self.params))
        self.agents = list(self.possible_agents)
        return self._each(self._observed), {agent: {} for agent in self.agents}

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[
        dict[str, np.ndarray],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Decide the tasks of a slot.

        Returns:
          Five dictionaries by agent: observation, reward, False, whether the episode is truncated, and the
          entries of `SlotEnv.step`'s dictionary for the agent's tasks, `[max_tasks]`.

        Raises:
          InputError: an agent's action is missing or not in its space.
        """
        if self._state is None or not self.agents:
            raise gymnasium.error.ResetNeeded("Call reset before the first step of an episode.")
        if missing := [agent for agent in self.agents if agent not in actions]:
            raise InputError(f"actions: none for {missing[0]}; legal: one each for {', '.join(self.agents)}")
        joint = np.stack(
            [check_action(self.action_spaces[a], actions[a], f"action of {a}") for a in self.agents]
        )
        stepped = self.env.step(None, self._state, joint, self.params)
        self._observed, self._state, rewards, over, info = jax.device_get(stepped)
        tasks = {name: info[name] for name in ("present", "makespan", "missed", "rejected", "reward")}
        agents = self.agents
        self.agents = [] if over else agents
        return (
            self._each(self._observed),
            {agent: float(reward) for agent, reward in zip(agents, rewards, strict=True)},
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, bool(over)),
            {agent: {name: x[b] for name, x in tasks.items()} for b, agent in enumerate(agents)},
        )

    def state(self) -> np.ndarray:
        """The observations of all agents in one array, a member of `state_space`, for a central critic."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("Call reset before the first state.")
        return np.array(self._observed).ravel()

    def _each(self, observed: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, np.array(observed), strict=True))
