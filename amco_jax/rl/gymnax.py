"""gymnax adapter, for pure JAX libraries that compile environments together with their learners."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from gymnax.environments import environment, spaces
from jax import Array

from amco_jax.agents.actions import nonempty_sets
from amco_jax.errors import InputError
from amco_jax.rl.base import EnvParams
from amco_jax.rl.decisions import DecisionEnv, DecisionState
from amco_jax.rl.spaces import Discrete


class GymnaxEnv(environment.Environment[Any, Any]):
    """A `DecisionEnv` for libraries that use gymnax environments.

    When an episode ends, `step` starts a new one, with a seed and an episode number from its key, and returns
    the last observation as `info["final_observation"]`, as implemented by gymnax's base class.

    Args:
      env: an environment whose actions are numbers of sets, as gymnax has no space of sets; by default, one
        of the published setting with all non-empty sets.

    Raises:
      InputError: the actions of `env` are sets.
    """

    def __init__(self, env: DecisionEnv | None = None):
        super().__init__()
        self.env = DecisionEnv(actions=nonempty_sets) if env is None else env
        if not isinstance(self.env.action_space(self.env.default_params), Discrete):
            raise InputError(
                "actions: sets; legal with gymnax: numbers of sets, such as actions=nonempty_sets"
            )

    @property
    def default_params(self) -> EnvParams:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The parameters of the environment's scenario."""
        return self.env.default_params

    def reset_env(self, key: Array, params: EnvParams) -> tuple[Array, DecisionState]:
        """See `DecisionEnv.reset`."""
        return self.env.reset(key, params)

    def step_env(
        self, key: Array, state: DecisionState, action: Any, params: EnvParams
    ) -> tuple[Array, DecisionState, Array, Array, dict[Any, Any]]:
        """See `DecisionEnv.step`; no episode terminates, and the base class calls `is_truncated`."""
        observed, state, reward, _, info = self.env.step(key, state, action, params)
        return observed, state, reward, self.is_terminated(state, params), info

    def is_terminated(self, state: DecisionState, params: EnvParams) -> Array:
        """Always False, because the system continues after the time limit."""
        del state, params
        return jnp.bool_(False)

    def is_truncated(self, state: DecisionState, params: EnvParams) -> Array:
        """Whether all tasks of the episode's slots have been decided."""
        del params
        return self.env.is_over(state)

    @property
    def name(self) -> str:
        """The name of the wrapped environment."""
        return self.env.name

    @property
    def num_actions(self) -> int:
        """The number of sets to choose from."""
        return self.env.num_actions

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """The space of set numbers."""
        del params
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: EnvParams) -> spaces.Box:
        """See `DecisionEnv.observation_space`."""
        space = self.env.observation_space(params)
        return spaces.Box(space.low, space.high, space.shape, space.dtype)
