"""Process-wide JAX settings for full speed; called by the scripts, never on import."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs

# An episode's loops are compiled into one native function each, instead of being dispatched operation by
# operation, and sibling operations are fused so that nothing is computed twice. The last option lets LLVM
# vectorise the wide loops that result, which need more overlap checks than it allows by default.
# Together about 5 times faster on CPUs (docs/architecture.md); other platforms ignore them.
_XLA_CPU_OPTIONS = (
    "xla_cpu_small_while_loop_byte_threshold=1000000000",
    "xla_cpu_use_multi_output_fusion",
    "-vectorize-memory-check-threshold=10000",
)
# Vectors as wide as the processor has them: XLA stops at 256 bits by default. Another third.
_XLA_VECTOR_WIDTH = "xla_cpu_prefer_vector_width"


def configure(num_cpu_devices: int | None = None, compilation_cache: bool = True) -> None:
    """Tune JAX for the simulator: compiler options, one CPU device per core, a cache of programs.

    Must run before JAX first computes anything in the process; later it changes nothing. Results do not
    depend on it beyond rounding.

    Args:
      num_cpu_devices: by default the number of usable cores. `JAX_NUM_CPU_DEVICES` has precedence.
      compilation_cache: whether compiled programs are kept on disk, and found there by the next process.
        The directory is the user's cache directory, or `JAX_COMPILATION_CACHE_DIR`.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        flags += f" --xla_backend_extra_options={','.join(_XLA_CPU_OPTIONS)}"
    if _XLA_VECTOR_WIDTH not in flags:
        flags += f" --{_XLA_VECTOR_WIDTH}=512"
    os.environ["XLA_FLAGS"] = flags.strip()
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # the backend is already running
            jax.config.update("jax_num_cpu_devices", num_cpu_devices or _usable_cores())
    if not compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(_cache_directory()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _cache_directory() -> Path:
    """One for each kind of processor: home directories are shared between machines, native code cannot be."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        digest = hashlib.sha256(features.encode()).hexdigest()[:12]
        return platformdirs.user_cache_path("amco-jax") / f"{platform.machine()}-{digest}"
    return platformdirs.user_cache_path("amco-jax") / platform.machine()


def _usable_cores() -> int:
    """Cores that this process may run on; macOS does not tell, and has no such restriction."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
