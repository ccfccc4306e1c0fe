"""Stable-Baselines3 adapter: a vector environment in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv

from amco_jax.errors import InputError
from amco_jax.rl.base import EnvParams
from amco_jax.rl.decisions import DecisionEnv
from amco_jax.rl.gymnasium import GymnasiumVectorEnv


class StableBaselinesEnv(VecEnv):
    """A batch of `DecisionEnv` environments as one `VecEnv`, with the arguments of `GymnasiumVectorEnv`.

    Environments are reset in the same step in which an episode ends, as the library expects. An `info` is
    filled only at the end of an episode, because filling one per environment and step would cost more than
    the simulation.
    """

    def __init__(
        self,
        num_envs: int,
        env: DecisionEnv | None = None,
        *,
        params: EnvParams | None = None,
        first_episode: int = 0,
    ):
        self.vector = GymnasiumVectorEnv(
            num_envs, env, params=params, first_episode=first_episode, autoreset_mode=AutoresetMode.SAME_STEP
        )
        self.render_mode = None
        super().__init__(
            self.vector.num_envs, self.vector.single_observation_space, self.vector.single_action_space
        )
        self._actions: Any = None

    def reset(self) -> np.ndarray:
        """The first observations, for the seeds and options given by the last `seed` and `set_options`.

        Raises:
          InputError: the options of the environments differ.
        """
        given, options = [seed for seed in self._seeds if seed is not None], self._options
        self._reset_seeds()
        self._reset_options()
        if any(each != options[0] for each in options):
            raise InputError(f"options: {options!r:.80}; legal: the same for all environments")
        return self.vector.reset(seed=given or None, options=options[0])[0]

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """See `GymnasiumVectorEnv.step`."""
        observed, reward, _, over, found = self.vector.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(over):
            infos[i] = {"terminal_observation": found["final_obs"][i], "TimeLimit.truncated": True}
        return observed, reward.astype(np.float32), over, infos

    def close(self) -> None:
        """Do nothing; there are no resources to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute, once per requested environment; all share one object."""
        value = self.render_mode if attr_name == "render_mode" else getattr(self.vector, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise NotImplementedError, because the environments cannot be changed separately."""
        raise NotImplementedError("the environments share one object")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Raise NotImplementedError, because a method cannot be called on single environments."""
        raise NotImplementedError("the environments share one object")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for each requested environment; none is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """None for each environment; there is no rendering."""
        return [None] * self.num_envs
