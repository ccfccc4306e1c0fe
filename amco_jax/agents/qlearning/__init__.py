"""The published Q-learning: one implementation for its three methods and for any other action space."""

from amco_jax.agents.qlearning.learner import QLearning
from amco_jax.agents.qlearning.settings import QSettings

__all__ = ["QLearning", "QSettings"]
