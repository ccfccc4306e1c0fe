"""Settings of learners, each declared once with its default, its legal range and whether it is static."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from amco_jax.errors import InputError, check_choice, check_fields, check_number, check_whole

Own = TypeVar("Own", bound="Settings")

_MOST = 10**9


def setting(
    default: Any, low: float = -_MOST, high: float = _MOST, *, static: bool = False, names: Sequence[str] = ()
) -> Any:
    """Declare a field of `Settings`, of its default's type: a boolean, a whole number, a number, widths, or
    one of some names.

    Args:
      low: the smallest legal value; unused for booleans and names.
      high: the largest legal value; unused for booleans and names.
      static: whether the value determines the shapes of arrays. Each value of a static setting needs its own
        compiled program; any number of values of the other settings train side by side in one program.
      names: the legal names. A setting that is a name is always static.
    """
    legal = {"range": (low, high), "static": static or bool(names), "names": tuple(names)}
    return dataclasses.field(default=default, metadata=legal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The base class of a learner's settings; subclasses are frozen dataclasses of fields from `setting`.

    An instance has one of three forms. The user's form has checked numbers. In the traced form (`traced`),
    which programs take, the settings that are not static are arrays. In the static form (`static`), part of
    the cache key of programs, they are None. Instances are pytrees with the non-static settings as leaves.

    Raises:
      InputError: a setting has the wrong type or is out of its legal range.
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
          InputError: a setting is unknown, or a value is not legal.
        """
        check_fields("settings", changes, (field.name for field in dataclasses.fields(self)))
        return dataclasses.replace(self, **changes)

    def traced(self: Own) -> Own:
        """The traced form: settings that are not static become NumPy scalars, numbers of 32 bits."""
        dtypes = {int: np.int32, float: np.float32, bool: np.bool_}
        return jax.tree.map(lambda value: dtypes[type(value)](value), self)

    def static(self: Own) -> Own:
        """The static form, which is hashable; the other settings are None, so no program can use them."""
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
        made = object.__new__(cls)  # not __init__, whose checks reject arrays and None
        for static, values in ((False, leaves), (True, kept)):
            for name, value in zip(cls._names(static), values, strict=True):
                object.__setattr__(made, name, value)
        return made


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    low, high = field.metadata["range"]
    if names := field.metadata["names"]:
        check_choice(field.name, value, names)
        return value
    if isinstance(field.default, bool):
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{field.name}: {value!r}; legal: true or false")
        return bool(value)
    if isinstance(field.default, tuple):
        widths = value if isinstance(value, tuple | list) else (value,)
        return tuple(check_whole(field.name, width, low, high) for width in widths)
    check = check_whole if isinstance(field.default, int) else check_number
    return check(field.name, value, low, high)
