"""Episodes without end, for learners that are compiled together with the environment."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from amco_jax.environment.base import EnvParams
from amco_jax.environment.decisions import DecisionEnv
from amco_jax.environment.slots import SlotEnv


class AutoReset:
    """An environment that begins a new episode on the step on which one ends.

    Everything but `step` is that of the environment below. This is the form of gymnax before its version 1.0
    and of libraries that follow it; for gymnax itself there is `GymnaxEnv`.
    """

    def __init__(self, env: DecisionEnv | SlotEnv):
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    @functools.partial(jax.jit, static_argnums=0)
    def step(
        self, key: Array, state: Any, action: Array, params: EnvParams
    ) -> tuple[Array, Any, Array, Array, dict[str, Array]]:
        """The environment's step; where it ends the episode, a new one begins.

        Args:
          key: gives the seed and the episode of what begins.

        Returns:
          As the environment's own, but after an end with the observation and the state of the new episode.
          The last observation of the old one is `final_observation` in the dictionary.
        """
        last, then, reward, over, info = self.env.step(key, state, action, params)
        fresh = self.env.reset(key, params)
        observed, then = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, (last, then))
        return observed, then, reward, over, info | {"final_observation": last}
