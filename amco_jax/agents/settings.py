"""Settings of learners: each is declared once, with its default, its legal range and whether it is static."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np

from amco_jax.errors import InputError, check_number, check_whole

Own = TypeVar("Own", bound="Settings")

_MOST = 10**9


def setting(default: Any, low: float = -_MOST, high: float = _MOST, *, static: bool = False) -> Any:
    """A field of `Settings`, of the type of its default: a switch, a whole number, a number, or some widths.

    Args:
      low: the least legal value; a switch has no range.
      high: the largest one.
      static: whether the value fixes the shapes of arrays. Then each value is a program of its own, while
        any number of values of the other settings train side by side in one program.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high), "static": static})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a learner: the base of a frozen dataclass whose fields are declared by `setting`.

    An object has one of three forms: as the user sets it, with checked numbers; as programs take it
    (`traced`), with arrays in place of what is not static; and as programs are told apart (`static`), with
    None there. It is a pytree, whose leaves are the settings that are not static.

    Raises:
      InputError: a setting of the wrong type or out of its legal range.
    """

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        jax.tree_util.register_pytree_node(cls, lambda own: own._flatten(), cls._unflatten)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, value))

    def replace(self: Own, **changes: Any) -> Own:
        """A copy with some settings changed.

        Raises:
          InputError: an unknown setting, or a value that is not legal.
        """
        legal = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in legal:
                raise InputError(f"settings: unknown field '{name}'; legal fields: {', '.join(legal)}")
        return dataclasses.replace(self, **changes)

    def traced(self: Own) -> Own:
        """The settings as programs take them: NumPy scalars of 32 bits in place of what is not static."""
        dtypes = {int: np.int32, float: np.float32, bool: np.bool_}
        return jax.tree.map(lambda value: dtypes[type(value)](value), self)

    def static(self: Own) -> Own:
        """What is static of the settings, hashable; the others are None, so that no program can use them."""
        return jax.tree.map(lambda _: None, self)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain numbers and lists."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def _names(cls, static: bool) -> list[str]:
        return [field.name for field in dataclasses.fields(cls) if field.metadata["static"] == static]

    def _flatten(self) -> tuple[list[Any], tuple[Any, ...]]:
        leaves, kept = ([getattr(self, name) for name in self._names(static)] for static in (False, True))
        return leaves, tuple(kept)

    @classmethod
    def _unflatten(cls, kept: tuple[Any, ...], leaves: Any) -> Any:
        made = object.__new__(cls)  # without the checks, which only what users give can pass
        for static, values in ((False, leaves), (True, kept)):
            for name, value in zip(cls._names(static), values, strict=True):
                object.__setattr__(made, name, value)
        return made


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    low, high = field.metadata["range"]
    if isinstance(field.default, bool):
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{field.name}: {value!r}; legal: true or false")
        return bool(value)
    if isinstance(field.default, tuple):
        widths = value if isinstance(value, tuple | list) else (value,)
        return tuple(check_whole(field.name, width, low, high) for width in widths)
    check = check_whole if isinstance(field.default, int) else check_number
    return check(field.name, value, low, high)
