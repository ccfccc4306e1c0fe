"""Hyperparameters of the trained methods, as users set them and as programs take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from amco_jax.errors import InputError, check_number, check_whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """The settings that fix no array's shape: traced, so that a whole sweep of them is one program."""

    replay_capacity: Int[Array, ""]
    replay_rows: Int[Array, ""]
    """Slots, see `replay.rows_for`"""
    init_std: Float[Array, ""]
    learning_rate: Float[Array, ""]
    learning_rate_decay: Float[Array, ""]
    discount: Float[Array, ""]
    reward_offset: Float[Array, ""]
    reward_scale: Float[Array, ""]
    error_limit: Float[Array, ""]
    double_q: Bool[Array, ""]
    target_interval: Int[Array, ""]
    target_rate: Float[Array, ""]
    act_with_target: Bool[Array, ""]
    greedy_growth: Float[Array, ""]
    greedy_max: Float[Array, ""]
    learn_after: Int[Array, ""]
    learn_interval: Int[Array, ""]
    learn_repeats: Int[Array, ""]
    scale_inputs: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set about the learning of a method; the defaults are AMCoEdge's, published.

    Raises:
      InputError: a setting of the wrong type or out of its legal range.

    Source: published code of the methods.
    """

    hidden: tuple[int, ...] = (20, 20, 20)
    """Widths of the hidden layers"""
    batch_size: int = 32
    """Transitions per learning step"""
    leak: float = 0.0
    """Slope of the hidden units below 0. ReLU is 0; with a little more no unit can die."""
    replay_capacity: int = 500
    """Tasks"""
    init_std: float = 0.3
    """Standard deviation of the initial kernels; biases start at 0.1"""
    learning_rate: float = 1e-3
    learning_rate_decay: float = 0.0
    """c in learning_rate / (1 + c · learning steps)"""
    discount: float = 0.9
    reward_offset: float = 0.0
    """s, added to every reward: near the negative mean reward, it lets learning begin at the right level"""
    reward_scale: float = 1.0
    """Rewards are learnt in this unit; with Adam, whose steps do not depend on it, a finer resolution"""
    error_limit: float = 1e9
    """Error beyond which the loss grows linearly (Huber), in units of the scaled reward"""
    double_q: bool = False
    """The next action is chosen by the network itself, and rated by the target network."""
    target_interval: int = 100
    """Learning steps between updates of the target network"""
    target_rate: float = 1.0
    """Share of the network in an update of the target network; 1 copies it"""
    act_with_target: bool = False
    """Tasks are decided by the target network, which with a small target_rate is a running average."""
    greedy_growth: float = 1e-3
    """Growth of ε, the probability of the greedy action, with each learning step, from 0"""
    greedy_max: float = 0.99
    """Where ε stops growing"""
    learn_after: int = 200
    """Slots of the whole run before the first learning step"""
    learn_interval: int = 10
    """Slots between learning steps"""
    learn_repeats: int = 1
    """Learning steps in one go"""
    scale_inputs: bool = False
    """Sizes in units of the largest task, and backlogs in slots that the server takes to work them off"""

    def __post_init__(self):
        hidden = self.hidden if isinstance(self.hidden, tuple | list) else (self.hidden,)
        widths = tuple(check_whole("hidden", w, 1, 4096) for w in hidden)
        object.__setattr__(self, "hidden", widths)
        for name, (check, low, high) in _LEGAL.items():
            object.__setattr__(self, name, check(name, getattr(self, name), low, high))
        for name in ("double_q", "act_with_target", "scale_inputs"):
            value = getattr(self, name)
            if not isinstance(value, bool | np.bool_):
                raise InputError(f"{name}: {value!r}; legal: true or false")

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed.

        Raises:
          InputError: an unknown setting, or a value that `Settings` refuses.
        """
        check_settings(changes)
        return dataclasses.replace(self, **changes)

    def traced(self, replay_rows: int) -> Hyperparameters:
        """The part that fixes no shape, as NumPy scalars."""
        values = dataclasses.asdict(self) | {"replay_rows": replay_rows}
        values = {f.name: values[f.name] for f in dataclasses.fields(Hyperparameters)}
        dtypes = {int: np.int32, float: np.float32, bool: np.bool_}
        return Hyperparameters(**{name: dtypes[type(v)](v) for name, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain numbers and lists."""
        return dataclasses.asdict(self) | {"hidden": list(self.hidden)}


def check_settings(changes: Mapping[str, Any]) -> None:
    """Raise InputError if one of the names is no field of `Settings`."""
    legal = [f.name for f in dataclasses.fields(Settings)]
    for name in changes:
        if name not in legal:
            raise InputError(f"settings: unknown field '{name}'; legal fields: {', '.join(legal)}")


_MOST = 10**9
_LEGAL: dict[str, tuple[Any, Any, Any]] = {
    "leak": (check_number, 0, 1),
    "batch_size": (check_whole, 1, 65536),
    "replay_capacity": (check_whole, 1, 10**7),
    "init_std": (check_number, 0, 1e3),
    "learning_rate": (check_number, 0, 1e3),
    "learning_rate_decay": (check_number, 0, 1e3),
    "discount": (check_number, 0, 1),
    "reward_offset": (check_number, -1e9, 1e9),
    "reward_scale": (check_number, 1e-9, 1e9),
    "error_limit": (check_number, 1e-9, 1e9),
    "target_interval": (check_whole, 1, _MOST),
    "target_rate": (check_number, 0, 1),
    "greedy_growth": (check_number, 0, 1),
    "greedy_max": (check_number, 0, 1),
    "learn_after": (check_whole, 0, _MOST),
    "learn_interval": (check_whole, 1, _MOST),
    "learn_repeats": (check_whole, 1, 1000),
}
