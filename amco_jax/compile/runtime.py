"""Process-wide JAX settings for full speed, called by the scripts, and those that numbers depend on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import platformdirs

from amco_jax.errors import InputError

log = logging.getLogger(__name__)

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
        The directory is the user's cache directory, or `JAX_COMPILATION_CACHE_DIR`. Where it cannot be
        written, a warning says so, and there is no cache.
    """
    os.environ["XLA_FLAGS"] = _with_options(os.environ.get("XLA_FLAGS", ""))
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # the backend is already running
            jax.config.update("jax_num_cpu_devices", num_cpu_devices or _usable_cores())
    given = getattr(jax.config, "jax_compilation_cache_dir", None)
    directory = given or _cache_directory()
    if compilation_cache and not _can_be_written(directory):
        reason = "there is no home directory" if directory is None else f"{directory} cannot be written"
        log.warning("compiled programs are not kept: %s", reason)
        compilation_cache = False
    if not compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif given is None:
        jax.config.update("jax_compilation_cache_dir", directory)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@contextlib.contextmanager
def own_numerics() -> Iterator[None]:
    """JAX's options that numbers depend on at their defaults, whatever the user has set. Also a decorator."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_matmul_precision(None),  # pyright: ignore[reportArgumentType]
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.disable_jit(False),
        jax.debug_nans(False),  # NaN and infinity stand where there is no number
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield


def check_devices() -> None:
    """Start JAX.

    Raises:
      InputError: the environment asks for a platform or for devices that this machine does not have.
    """
    try:
        jax.local_devices()
    except Exception as error:  # of any kind, assertions among them
        names = [name for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES") if name in os.environ]
        asked = ", ".join(f"{name}={os.environ[name]}" for name in names)
        reason = next(iter(str(error).splitlines()), "") or "there is no such device"
        raise InputError(
            f"environment: {asked or 'no variable of JAX'}: {reason}; legal: what this machine has, such as "
            "JAX_PLATFORMS=cpu"
        ) from error


def check_xla_flags() -> None:
    """Let another process read `XLA_FLAGS`, as XLA aborts the one in which it meets an unknown flag.

    Raises:
      InputError: XLA does not take them.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags in ("", _with_options("")):
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import jax; jax.local_devices()"],
            env=environment | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError:  # no process can be started here
        return
    if tried.returncode:
        reason = next((line for line in tried.stderr.splitlines() if "] " in line), "").partition("] ")[2]
        raise InputError(f"environment: XLA_FLAGS={flags}: {reason}; legal: flags of XLA")


def _with_options(flags: str) -> str:
    """The flags, and the options of this package where the flags do not say otherwise."""
    if "xla_backend_extra_options" not in flags:
        flags += f" --xla_backend_extra_options={','.join(_XLA_CPU_OPTIONS)}"
    if _XLA_VECTOR_WIDTH not in flags:
        flags += f" --{_XLA_VECTOR_WIDTH}=512"
    return flags.strip()


def _can_be_written(directory: str | None) -> bool:
    if directory is None or "://" in directory:  # JAX takes addresses too
        return directory is not None
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _cache_directory() -> str | None:
    """One for each kind of processor: home directories are shared between machines, native code cannot be.

    None where there is no home directory.
    """
    try:
        home = platformdirs.user_cache_path("amco-jax")
    except RuntimeError:
        return None
    kind = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        kind += f"-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
    return str(home / kind) if home.is_absolute() else None


def _usable_cores() -> int:
    """Cores that this process may run on; macOS does not tell, and has no such restriction."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
