"""Automatic resets, for learners that are compiled together with the environment."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from amco_jax.rl.base import EnvParams
from amco_jax.rl.decisions import DecisionEnv
from amco_jax.rl.slots import SlotEnv


class AutoReset:
    """An environment that starts a new episode in the same step in which one ends.

    Everything except `step` comes from the wrapped environment. This is the interface of gymnax before
    version 1.0 and of libraries that follow it; for gymnax itself, use `GymnaxEnv`.
    """

    def __init__(self, env: DecisionEnv | SlotEnv):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # of an object that is being copied or unpickled, and has nothing yet
            raise AttributeError(name)
        return getattr(self.env, name)

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, key: Array, state: Any, action: Array, params: EnvParams
    ) -> tuple[Array, Any, Array, Array, dict[str, Array]]:
        """The environment's step; if the episode ends, a new one starts.

        Args:
          key: determines the seed and the number of the new episode.

        Returns:
          The results of the environment's step, but if the episode has ended, with the observation and state
          of the new one. The last observation of the old episode is `final_observation` in the dictionary.
        """
        last, then, reward, over, info = self.env.step(key, state, action, params)
        fresh = self.env.reset(key, params)
        observed, then = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, (last, then))
        return observed, then, reward, over, info | {"final_observation": last}
