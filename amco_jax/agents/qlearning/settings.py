"""Settings of Q-learning."""

from __future__ import annotations

import dataclasses

from amco_jax.agents.settings import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class QSettings(Settings):
    """The settings of Q-learning; the defaults are the published ones of AMCoEdge.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.

    Source: published code of the methods.
    """

    hidden: tuple[int, ...] = setting((20, 20, 20), 1, 4096, static=True)
    """Widths of the hidden layers"""
    batch_size: int = setting(32, 1, 65536, static=True)
    """Transitions per learning step"""
    leak: float = setting(0.0, 0, 1, static=True)
    """Slope of the hidden units for negative inputs: 0 is ReLU, and a positive slope prevents dead units"""
    replay_capacity: int = setting(500, 1, 10**7)
    """The number of most recent tasks that transitions are drawn from"""
    init_std: float = setting(0.3, 0, 1e3)
    """Standard deviation of the initial kernels; biases start at 0.1"""
    learning_rate: float = setting(1e-3, 0, 1e3)
    learning_rate_decay: float = setting(0.0, 0, 1e3)
    """c in learning_rate / (1 + c · learning steps)"""
    discount: float = setting(0.9, 0, 1)
    reward: str = setting("makespan", names=("makespan", "regret"))
    """`makespan` for the published reward, which is -makespan or the penalty of a miss; `regret` for minus
    the relative excess of the task's makespan over the least that any set would have given it"""
    reward_offset: float = setting(0.0)
    """Added to every reward, in its unit; near the negative mean reward, it makes learning start at the right
    level"""
    reward_scale: float = setting(1.0, 1e-9)
    """Factor on rewards; as Adam's steps do not depend on it, a larger factor gives a finer resolution"""
    error_limit: float = setting(1e9, 1e-9)
    """Error beyond which the loss is linear (Huber loss), in units of the scaled reward"""
    double_q: bool = setting(False)
    """Double Q-learning: the network selects the next action, and the target network gives its value."""
    target_interval: int = setting(100, 1)
    """Learning steps between updates of the target network"""
    target_rate: float = setting(1.0, 0, 1)
    """Weight of the network in an update of the target network; 1 copies it"""
    deploy_target: bool = setting(False)
    """Trained agents decide by the target network, which a small target_rate makes a running average of the
    network; in training, the network itself decides."""
    greedy_growth: float = setting(1e-3, 0, 1)
    """Increase of ε, the probability of the greedy action, per learning step, starting from 0"""
    greedy_max: float = setting(0.99, 0, 1)
    """The largest value of ε"""
    learn_after: int = setting(200, 0)
    """Slots of the whole training before the first learning step"""
    learn_interval: int = setting(10, 1)
    """Slots between learning steps"""
    learn_repeats: int = setting(1, 1, 1000)
    """Learning steps each time that learning is due"""
    scale_inputs: bool = setting(False)
    """Sizes are in units of the largest task, and backlogs in slots that the server needs to process them."""
