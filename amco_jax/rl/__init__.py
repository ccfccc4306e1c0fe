"""Reinforcement learning environments over the kernel's own decisions: one task or one slot per step.

The adapters for Gymnasium, PettingZoo, gymnax and Stable-Baselines3 are separate modules, because those
packages are optional.
"""

from amco_jax.rl.autoreset import AutoReset
from amco_jax.rl.base import EnvParams, episode_key
from amco_jax.rl.decisions import DecisionEnv, DecisionState
from amco_jax.rl.slots import SlotEnv, SlotState

__all__ = ["AutoReset", "DecisionEnv", "DecisionState", "EnvParams", "SlotEnv", "SlotState", "episode_key"]
