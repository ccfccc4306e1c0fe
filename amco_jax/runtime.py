"""Process-wide JAX settings for full speed; called by the scripts, never on import."""

from __future__ import annotations

import contextlib
import os

import jax

# An episode's loops are compiled into one native function each, instead of being dispatched operation by
# operation, and sibling operations are fused so that nothing is computed twice. The last option lets LLVM
# vectorise the wide loops that result, which need more overlap checks than it allows by default.
# Together about 5 times faster on CPUs (benchmarks/README.md); other platforms ignore them.
_XLA_CPU_OPTIONS = (
    "xla_cpu_small_while_loop_byte_threshold=1000000000",
    "xla_cpu_use_multi_output_fusion",
    "-vectorize-memory-check-threshold=10000",
)


def configure(num_cpu_devices: int | None = None) -> None:
    """Tune JAX for the simulator: compiler options, and one CPU device per core.

    Must run before JAX first computes anything in the process; later it changes nothing. Results do not
    depend on it beyond rounding.

    Args:
      num_cpu_devices: by default the number of usable cores. `JAX_NUM_CPU_DEVICES` has precedence.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_extra_options={','.join(_XLA_CPU_OPTIONS)}".strip()
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # the backend is already running
            jax.config.update("jax_num_cpu_devices", num_cpu_devices or _usable_cores())


def _usable_cores() -> int:
    """Cores that this process may run on; macOS does not tell, and has no such restriction."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
