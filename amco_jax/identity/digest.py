"""Digests of the user's functions, objects and modules, which results depend on beyond this package."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.errors import InputError
from amco_jax.identity.modules import HOME, imports, is_own, source_file, version

_CYCLE = "cycle"
_CONSTANTS = (bool, int, float, complex, str, bytes)


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity of a value and everything that it depends on, as plain data."""

    digest: str
    """Equal for values that behave equally, in every process; it covers `modules` too"""
    modules: dict[str, str]
    """Digests of the source files of the user's own modules, by name"""
    unseen: tuple[str, ...]
    """The names of dependencies that no digest can cover, such as an open file or a lock"""

    def to_dict(self) -> dict[str, Any]:
        """The identity as JSON data, for plans and manifests."""
        return {"digest": self.digest, "modules": self.modules, "unseen": list(self.unseen)}

    def require_seen(self, purpose: str) -> None:
        """Raise InputError if a dependency is unseen, because it may have changed since an earlier run."""
        if self.unseen:
            raise InputError(
                f"{purpose}: results depend on {', '.join(self.unseen)}, whose content cannot be compared "
                "with that of the earlier run; legal: overwrite, or methods without it"
            )


def identify(*values: Any) -> Identity:
    """The identity of some values: functions, classes, arrays, containers, or any other objects.

    A user's function is identified by its code, its defaults, the values in its closure, the globals that it
    names and the source of its module, and likewise for every function that these refer to and every module
    of the user's that its module imports. A function of this package, of the standard library or of an
    installed package is identified by its name and version, its defaults and the values in its closure. An
    object is identified by its class and by the state that `pickle` would save; nothing is pickled.
    """
    walk = _Walk()
    try:
        found = [walk.of(value, "") for value in values]
    except RecursionError:
        found = []
        walk.unseen.append("something nested too deeply")
    modules = dict(sorted(walk.modules.items()))
    return Identity(_digest(found, modules), modules, tuple(dict.fromkeys(walk.unseen)))


def program_cache(max_size: int, user_code: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """A cache of the `max_size` most recently used programs that a function builds from hashable arguments.

    A user may change an object, or a global that a function names, after a program was compiled with the old
    value. The key therefore includes the content of user code as well as the arguments.

    Args:
      user_code: a function that selects, from the arguments, the user's functions and objects that the
        program is traced with.
    """

    def decorate(build: Callable[..., Any]) -> Any:
        @functools.lru_cache(max_size)
        def cached(digest: str, *arguments: Any) -> Any:
            del digest
            return build(*arguments)

        @functools.wraps(build)
        def find(*arguments: Any) -> Any:
            return cached(identify(user_code(*arguments)).digest, *arguments)

        find.cache_info, find.cache_clear = cached.cache_info, cached.cache_clear  # pyright: ignore[reportAttributeAccessIssue]
        return find

    return decorate


def name_of(function: Any) -> str:
    """A short name for any callable: a function, a `functools.partial` or an object."""
    if isinstance(function, ByIdentity | functools.partial):
        return name_of(function.func)
    return getattr(function, "__name__", type(function).__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class ByIdentity:
    """A hashable wrapper, compared by identity, around an unhashable callable, such as a dataclass."""

    func: Callable[..., Any]

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.func(*args, **keywords)


def hashable(field: str, function: Any) -> Any:
    """The callable itself if it is hashable, else a hashable wrapper around it, for use as a cache key.

    Raises:
      InputError: it is not callable.
    """
    if not callable(function):
        raise InputError(
            f"{field}: a {type(function).__name__}; legal: a function or another callable object"
        )
    try:
        hash(function)
    except TypeError:
        return ByIdentity(function)
    return function


@functools.cache
def code_version() -> str:
    """A digest of the package's source files."""
    files = {path.relative_to(HOME).as_posix(): path.read_bytes() for path in HOME.rglob("*.py")}
    return _digest([(name, hashlib.sha256(content).hexdigest()) for name, content in sorted(files.items())])


def _unchecked(value: Any) -> Any:
    """A function without the type-checking wrappers of jaxtyping and beartype."""
    while isinstance(value, types.FunctionType) and hasattr(value, "__wrapped__"):
        if str(value.__globals__.get("__name__")).partition(".")[0] not in ("jaxtyping", "beartype"):
            break
        value = value.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    return value


class _Walk:
    """One walk over a value and its dependencies; each becomes a short text, a constant or a digest."""

    def __init__(self):
        self.modules: dict[str, str] = {}
        self.unseen: list[str] = []
        self._found: dict[int, tuple[str, Any]] = {}
        """The text and the object of each id; keeping the object alive prevents its id from being reused"""
        self._open: list[int] = []

    def of(self, value: Any, name: str) -> str:
        """The text of a value; `name` describes it in messages."""
        if value is None or value is Ellipsis or type(value) in _CONSTANTS:
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, ByIdentity):
            return self.of(value.func, name)
        value = _unchecked(value)
        if id(value) in self._open:
            return f"{_CYCLE} {len(self._open) - self._open.index(id(value))}"
        if id(value) not in self._found:
            self._open.append(id(value))
            try:
                text = _digest(type(value).__name__, self._parts(value, name))
            finally:
                self._open.pop()
            self._found[id(value)] = text, value
        return self._found[id(value)][0]

    def _parts(self, value: Any, name: str) -> Any:
        """The texts that make up a value."""
        if isinstance(value, types.ModuleType):
            return self._module(value.__name__)
        if isinstance(value, types.CodeType):
            return self._code(value, name)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.MethodType):
            return [self.of(value.__func__, name), self.of(value.__self__, name)]
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value, name)
        if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
            return [[self.of(k, name), self.of(v, f"{name}[{k!r:.40}]")] for k, v in value.items()]
        if type(value) in (set, frozenset):
            return sorted(self.of(item, name) for item in value)
        if type(value) in (list, tuple):
            return [self.of(item, name) for item in value]
        return self._object(value, name)

    def _array(self, value: Any, name: str) -> Any:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return [str(value.dtype), self.of(jax.random.key_data(value), name)]
        array = np.asarray(value)
        if array.dtype.hasobject:
            return [self.of(item, name) for item in array.ravel().tolist()]
        content = np.ascontiguousarray(array).tobytes()
        return [str(array.dtype), list(array.shape), hashlib.sha256(content).hexdigest()]

    def _function(self, function: types.FunctionType) -> Any:
        # Both describe the code itself: `functools.wraps` copies __module__ and __qualname__ from elsewhere.
        code, module = function.__code__, function.__globals__.get("__name__")
        name = code.co_qualname
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        parts = [
            f"{module}.{name}",
            self.of(function.__defaults__, f"the defaults of {name}"),
            self.of(function.__kwdefaults__, f"the defaults of {name}"),
            {free: self.of(_content(cell), f"{free} in {name}") for free, cell in cells},
        ]
        if not is_own(module):
            return [*parts, version(module)]
        self._module(module)
        return [*parts, self.of(code, name), self._globals(code, function.__globals__, name)]

    def _globals(self, code: types.CodeType, scope: dict[str, Any], name: str) -> dict[str, str]:
        """The globals that a function names, and the attributes that it names of the user's own modules."""
        found, names = {}, _names(code)
        for each in sorted(names & scope.keys()):
            value = scope[each]
            found[each] = self.of(value, f"{each} in {name}")
            if isinstance(value, types.ModuleType) and is_own(value.__name__):
                for inner in sorted(names & vars(value).keys()):
                    found[f"{each}.{inner}"] = self.of(vars(value)[inner], f"{each}.{inner}")
        return found

    def _code(self, code: types.CodeType, name: str) -> Any:
        constants = [self.of(constant, name) for constant in code.co_consts]
        names = list(code.co_names), list(code.co_varnames), list(code.co_freevars)
        return [code.co_code.hex(), code.co_exceptiontable.hex(), constants, names, code.co_flags]

    def _class(self, kind: type) -> Any:
        name, own = f"{kind.__module__}.{kind.__qualname__}", []
        for each in kind.__mro__:
            if is_own(each.__module__):
                self._module(each.__module__)
                # `_abc_` attributes are caches; other double-underscore attributes add no information.
                own += [
                    [attribute, self.of(_plain(value), f"{attribute} of {kind.__qualname__}")]
                    for attribute, value in sorted(vars(each).items())
                    if _is_function(value) or not attribute.startswith(("__", "_abc_"))
                ]
        return [name, own or version(kind.__module__)]

    def _object(self, value: Any, name: str) -> Any:
        """An object's name in an installed module, else what it wraps, else the state pickle would save."""
        home = getattr(value, "__module__", None)
        own_name = getattr(value, "__qualname__", None)
        if isinstance(home, str) and isinstance(own_name, str) and not is_own(home):
            home_of_value = sys.modules.get(home)
            if getattr(home_of_value, own_name, None) is value:
                return [f"{home}.{own_name}", version(home)]
        if callable(value) and (wrapped := getattr(value, "__wrapped__", None)) is not None:
            # For example, a jitted or cached function.
            inside = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("__")}
            return [self.of(wrapped, name), self.of(inside, name)]
        try:
            reduced: Any = value.__reduce_ex__(4)
        except Exception:  # objects may refuse with any exception
            return self._not_seen(name or f"a {type(value).__name__}")
        if isinstance(reduced, str):
            return [reduced, version(home)]
        # The function that makes the object and its arguments, then, optionally, state, items and pairs.
        make, arguments, state, items, pairs, *_ = (*reduced, None, None, None, None)
        parts = (make, arguments, state, list(items or ()), list(pairs or ()))
        return [self.of(part, name or type(value).__name__) for part in parts]

    def _module(self, name: str | None) -> Sequence[str | None]:
        """The name of a module; sources of the user's modules, with their imports, are added to `modules`."""
        if name is None or name in self.modules or not is_own(name):
            return [name, version(name)]
        if (path := source_file(name)) is None:
            return [name]  # typed at a prompt; its functions are covered one by one
        try:
            content = path.read_bytes()
        except OSError:
            return self._not_seen(f"the source of {name}")
        self.modules[name] = hashlib.sha256(content).hexdigest()[:16]
        for imported in imports(name, content):
            self._module(imported)
        return [name]

    def _not_seen(self, name: str) -> list[str]:
        self.unseen.append(name)
        return ["unseen", name]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return {*code.co_names}.union(*inner)


def _is_function(value: Any) -> bool:
    return isinstance(_plain(value), types.FunctionType | tuple)


def _plain(value: Any) -> Any:
    """The function, or the two of a property, behind a descriptor of a class; any other value unchanged."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget, value.fset
    return value.func if isinstance(value, functools.cached_property) else value
