"""Settings of the Q-learning."""

from __future__ import annotations

import dataclasses

from amco_jax.agents.settings import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class QSettings(Settings):
    """Everything that can be set about the Q-learning; the defaults are AMCoEdge's, published.

    Raises:
      InputError: a setting of the wrong type or out of its legal range.

    Source: published code of the methods.
    """

    hidden: tuple[int, ...] = setting((20, 20, 20), 1, 4096, static=True)
    """Widths of the hidden layers"""
    batch_size: int = setting(32, 1, 65536, static=True)
    """Transitions per learning step"""
    leak: float = setting(0.0, 0, 1, static=True)
    """Slope of the hidden units below 0. ReLU is 0; with a little more no unit can die."""
    replay_capacity: int = setting(500, 1, 10**7)
    """Tasks"""
    init_std: float = setting(0.3, 0, 1e3)
    """Standard deviation of the initial kernels; biases start at 0.1"""
    learning_rate: float = setting(1e-3, 0, 1e3)
    learning_rate_decay: float = setting(0.0, 0, 1e3)
    """c in learning_rate / (1 + c · learning steps)"""
    discount: float = setting(0.9, 0, 1)
    reward_offset: float = setting(0.0)
    """s, added to every reward: near the negative mean reward, it lets learning begin at the right level"""
    reward_scale: float = setting(1.0, 1e-9)
    """Rewards are learnt in this unit; with Adam, whose steps do not depend on it, a finer resolution"""
    error_limit: float = setting(1e9, 1e-9)
    """Error beyond which the loss grows linearly (Huber), in units of the scaled reward"""
    double_q: bool = setting(False)
    """The next action is chosen by the network itself, and rated by the target network."""
    target_interval: int = setting(100, 1)
    """Learning steps between updates of the target network"""
    target_rate: float = setting(1.0, 0, 1)
    """Share of the network in an update of the target network; 1 copies it"""
    act_with_target: bool = setting(False)
    """Tasks are decided by the target network, which with a small target_rate is a running average."""
    greedy_growth: float = setting(1e-3, 0, 1)
    """Growth of ε, the probability of the greedy action, with each learning step, from 0"""
    greedy_max: float = setting(0.99, 0, 1)
    """The value at which ε stops growing"""
    learn_after: int = setting(200, 0)
    """Slots of the whole run before the first learning step"""
    learn_interval: int = setting(10, 1)
    """Slots between learning steps"""
    learn_repeats: int = setting(1, 1, 1000)
    """Learning steps in one go"""
    scale_inputs: bool = setting(False)
    """Sizes in units of the largest task, and backlogs in slots that the server takes to work them off"""
