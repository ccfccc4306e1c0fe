"""The published Q-learning: one implementation for all three methods, and any other that chooses sets."""

from amco_jax.agents.qlearning.learner import QLearning
from amco_jax.agents.qlearning.settings import QSettings

__all__ = ["QLearning", "QSettings"]
