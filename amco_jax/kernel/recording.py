"""Replay recorded arrivals with recorded or newly selected sets of servers, on the same kernel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from amco_jax.agents.methods import (
    COMMON_PHYSICS,
    METHODS,
    PAPER_METHODS,
    PHYSICS,
    Method,
    get_allocator,
    get_method,
)
from amco_jax.agents.policy import Policy, per_slot
from amco_jax.alloc import Allocator
from amco_jax.compile.runtime import own_numerics
from amco_jax.env import Decision, Physics
from amco_jax.errors import InputError, check_array, check_choice, first_line
from amco_jax.identity import program_cache
from amco_jax.kernel import Episode, rollout
from amco_jax.params import Params, Shape
from amco_jax.random import Stream, check_seed, stream
from amco_jax.scenario import Scenario
from amco_jax.workload import Recorded

PRECISIONS = {"float32": np.float32, "float64": np.float64}


def replay(
    recording: Mapping[str, Any],
    *,
    physics: str = "unified",
    allocator: str | None = None,
    method: str | Method | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Replay one recorded episode.

    Args:
      recording: arrays by name. These are required: `task_mbit` `[T, B, N]`, Mbit, 0 at positions without a
        task; `density_gcycles_per_mbit` `[N]`; `capacity_gcycles_per_s` `[B]`; `rate_mbit_per_s`, a number,
        `[B]` or `[B, B]`; `deadline_s`; and, without `method`, `selected` `[T, B, N, B]`, booleans. An empty
        set in `selected` rejects its task, but trailing slots without any set are not scheduled. `slot_s`
        defaults to 1. `method` and `allocator` name the published code that selected the sets.
      physics: `unified`, `published` for that of the method's published code, `conserving` or `serial`.
      allocator: name of the allocator; by default the recording's `allocator`, or else cwa.
      method: a method without training that selects new sets; by default the recorded sets are used.
      precision: `float32` or `float64`.
      seed: seed of the method's random draws.

    Returns:
      `selected` and `fraction` `[T, B, N, B]`; `makespan_s` (at most the deadline), `missed` and `reward`
      `[T, B, N]`, all 0 at positions without a task; `backlog_gcycles` (start of slot), `slot_load_gcycles`
      and `link_delay_s` (end of slot) `[T, B]`.

    Raises:
      InputError: an array is missing, has the wrong shape or is out of range; a name is unknown; or the
        method is trained.
    """
    check_choice("precision", precision, PRECISIONS)
    check_seed("seed", seed)
    chosen = None if method is None else get_method(method)
    row = chosen.physics(physics) if chosen else _recorded_physics(recording, physics)
    scenario, size, density = _read_tasks(recording)
    selected = _read_sets(recording, size.shape) if chosen is None or "selected" in recording else None
    if selected is not None:
        size = _scheduled_only(size, selected)
    if chosen is not None:
        chosen.check_rule("in a replay")
        chosen.check(scenario.num_servers)
        selected = None
    if allocator is None and chosen is not None:
        allocate = chosen.allocator
    else:
        allocate = get_allocator(allocator or _label(recording, "allocator") or "cwa")
    dtype = PRECISIONS[precision]
    with own_numerics(), jax.enable_x64(precision == "float64"):
        program = _program(scenario.shape(), chosen.policy if chosen else None, allocate)
        workload = Recorded(jnp.asarray(size, dtype), jnp.asarray(density, dtype))
        episode = program(scenario.params(dtype), row, workload, selected, np.uint32(seed))
        return _arrays(episode)


@program_cache(64, lambda shape, policy, allocator: (policy, allocator))
def _program(shape: Shape, policy: Policy | None, allocator: Allocator) -> Any:
    def program(params: Params, physics: Physics, workload: Recorded, selected, seed) -> Episode:
        method = Method("replay", policy or per_slot(lambda view: selected[view.t]), allocator)
        key = stream(seed, Stream.POLICY)
        return rollout(
            shape,
            params,
            physics,
            method=method,
            workload=workload,
            key=key,
            record=lambda decision, _: decision,
            metrics=(),
            keep_queues=True,
        )

    return jax.jit(program)


def load_recording(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, without ever unpickling anything.

    Raises:
      InputError: the file is not a readable .npz file of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an .npz archive")
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise a dozen types on malformed files
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"recording: {path} is not a readable .npz file: {reason}") from error


def _read_tasks(recording: Mapping[str, Any]) -> tuple[Scenario, np.ndarray, np.ndarray]:
    size = _array(recording, "task_mbit", ndim=3)
    num_slots, num_servers, num_tasks = size.shape
    density = _array(recording, "density_gcycles_per_mbit", shape=(num_tasks,))
    _check(size >= 0, "task_mbit", size, "numbers ≥ 0")
    _check(density > 0, "density_gcycles_per_mbit", density, "numbers > 0")
    scenario = Scenario(
        num_servers=num_servers,
        num_tasks=num_tasks,
        num_slots=num_slots,
        capacity=tuple(_array(recording, "capacity_gcycles_per_s", shape=(num_servers,)).tolist()),
        link_rate=_array(recording, "rate_mbit_per_s").tolist(),
        deadline=_array(recording, "deadline_s", shape=()).item(),
        slot_duration=_array(recording, "slot_s", shape=()).item() if "slot_s" in recording else 1.0,
    )
    return scenario, size, density


def _read_sets(recording: Mapping[str, Any], tasks_shape: tuple[int, ...]) -> np.ndarray:
    shape = (*tasks_shape, tasks_shape[1])
    selected = _array(recording, "selected", shape=shape)
    _check((selected == 0) | (selected == 1), "selected", selected, "booleans")
    return selected.astype(bool)


def _scheduled_only(size: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """Task sizes, set to 0 in trailing slots in which no task has a set.

    The published code records one more slot than it schedules, because it looks up the task after the last.
    """
    scheduled = np.flatnonzero(selected.any(axis=(1, 2, 3)))
    end = scheduled[-1] + 1 if scheduled.size else len(size)
    return np.where(np.arange(len(size))[:, None, None] < end, size, 0)


def _recorded_physics(recording: Mapping[str, Any], variant: str) -> Physics:
    """The physics of the method that selected the recorded sets."""
    check_choice("physics", variant, PHYSICS)
    if variant in COMMON_PHYSICS:
        return COMMON_PHYSICS[variant]
    name = _label(recording, "method")
    if name not in PAPER_METHODS:
        legal = ", ".join(PAPER_METHODS)
        raise InputError(f"method: {name!r} in the recording; legal under published physics: {legal}")
    return METHODS[name].published


def _label(recording: Mapping[str, Any], name: str) -> str | None:
    return str(np.asarray(recording[name])).lower() if name in recording else None


def _array(
    recording: Mapping[str, Any], name: str, shape: tuple[int, ...] | None = None, ndim: int | None = None
) -> np.ndarray:
    if name not in recording:
        raise InputError(f"{name}: missing in the recording")
    array = check_array(name, recording[name])
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: dtype {array.dtype}; legal: numbers")
    if (
        (shape is not None and array.shape != shape)
        or (ndim is not None and array.ndim != ndim)
        or 0 in array.shape
    ):
        legal = f"{ndim} axes, none empty" if shape is None else shape
        raise InputError(f"{name}: shape {array.shape}; legal: {legal}")
    _check(np.isfinite(array), name, array, "finite numbers")
    return array.astype(np.float64)


def _check(fine: np.ndarray | np.bool_, name: str, values: np.ndarray, legal: str) -> None:
    if not np.all(fine):
        raise InputError(f"{name}: {values[~np.asarray(fine)].flat[0]:g}; legal: {legal}")


def _arrays(episode: Episode) -> dict[str, np.ndarray]:
    decisions: Decision = episode.decisions
    arrays = {
        "selected": decisions.selected,
        "fraction": decisions.fraction,
        "makespan_s": jnp.where(decisions.present, decisions.makespan, 0),
        "missed": decisions.present & decisions.missed,
        "reward": jnp.where(decisions.present, decisions.reward, 0),
        "backlog_gcycles": episode.backlog,
        "slot_load_gcycles": episode.slot_load,
        "link_delay_s": episode.link_delay,
    }
    return {name: np.asarray(array) for name, array in arrays.items()}
