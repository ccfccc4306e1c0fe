"""Process-wide JAX settings: those that make programs fast, and those that results depend on."""

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

from amco_jax.errors import InputError, first_line

log = logging.getLogger(__name__)

# Each loop of an episode is compiled into one native function instead of being dispatched operation by
# operation. The option for fusions with several outputs is needed for what XLA does differently with it
# elsewhere. The options for LLVM let it vectorise the resulting wide loops, which need more overlap checks
# than it allows by default, and short loops, such as one over 32 transitions, which it would unroll
# completely instead.
# Together they make CPUs about 5 times faster (docs/architecture.md). On a GPU they make no difference.
_XLA_CPU_OPTIONS = (
    "xla_cpu_small_while_loop_byte_threshold=1000000000",
    "xla_cpu_use_multi_output_fusion",
    "-vectorize-memory-check-threshold=10000",
    "-unroll-full-max-count=8",
)
# The pass that makes these fusions is left out: what a loop writes into several arrays, such as what a
# gradient keeps of each decision, would become one fusion, which writes all of each array in each iteration.
# Trainings by gradients take 5 to 18 times as long with it, and kernels are about as fast as without it.
_XLA_LEFT_OUT = "xla_disable_hlo_passes"
# Vectors as wide as the processor's, where XLA stops at 256 bits by default; this saves another third.
_XLA_VECTOR_WIDTH = "xla_cpu_prefer_vector_width"


def configure(num_cpu_devices: int | None = None, compilation_cache: bool = True) -> None:
    """Tune JAX for the simulator: compiler options, one CPU device per core, a cache of compiled programs.

    Call it before JAX first computes anything in the process; later it has no effect. It changes results by
    no more than rounding.

    Args:
      num_cpu_devices: the number of usable cores by default. `JAX_NUM_CPU_DEVICES` takes precedence.
      compilation_cache: whether compiled programs are cached on disk and reused by later processes, in the
        user's cache directory or in `JAX_COMPILATION_CACHE_DIR`. If it is not writable, a warning is logged
        and there is no cache.
    """
    os.environ["XLA_FLAGS"] = _with_options(os.environ.get("XLA_FLAGS", ""))
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):  # the backend is already running
            jax.config.update("jax_num_cpu_devices", num_cpu_devices or _usable_cores())
    given = getattr(jax.config, "jax_compilation_cache_dir", None)
    directory = given or _cache_directory()
    if compilation_cache and not _can_be_written(directory):
        reason = "there is no home directory" if directory is None else f"{directory} is not writable"
        log.warning("compiled programs are not cached: %s", reason)
        compilation_cache = False
    if not compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif given is None:
        jax.config.update("jax_compilation_cache_dir", directory)
        # Small programs too: a study has dozens, and to read one takes a few milliseconds.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@contextlib.contextmanager
def own_numerics() -> Iterator[None]:
    """Set the JAX options that results depend on to their defaults, whatever the user has set.

    A context manager, which also works as a decorator.
    """
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.default_matmul_precision("highest"),  # GPUs would round the factors to ten binary digits
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
        jax.disable_jit(False),
        jax.debug_nans(False),  # NaN and infinity mark missing numbers
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield


def check_devices() -> None:
    """Initialise JAX's devices.

    Raises:
      InputError: the environment requests a platform or devices that this machine does not have.
    """
    try:
        jax.local_devices()
    except Exception as error:  # of any kind, including assertions
        names = [name for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES") if name in os.environ]
        asked = ", ".join(f"{name}={os.environ[name]}" for name in names)
        raise InputError(
            f"environment: {asked or 'no variable of JAX'}: {first_line(error)}; legal: what this machine "
            "has, such as JAX_PLATFORMS=cpu"
        ) from error


def check_xla_flags() -> None:
    """Try `XLA_FLAGS` in another process, as XLA aborts the process in which it meets an unknown flag.

    Raises:
      InputError: XLA rejects them.
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
    """The flags, with the options of this package added unless the flags set them already."""
    if "xla_backend_extra_options" not in flags:
        flags += f" --xla_backend_extra_options={','.join(_XLA_CPU_OPTIONS)}"
    if _XLA_LEFT_OUT not in flags:
        flags += f" --{_XLA_LEFT_OUT}=cpu_multi_output_fusion"
    if _XLA_VECTOR_WIDTH not in flags:
        flags += f" --{_XLA_VECTOR_WIDTH}=512"
    return flags.strip()


def _can_be_written(directory: str | None) -> bool:
    if directory is None or "://" in directory:  # JAX accepts URLs too
        return directory is not None
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


def _cache_directory() -> str | None:
    """The cache directory for this kind of processor, or None if there is no home directory.

    Machines of different kinds may share a home directory, but not native code.
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
    """The number of cores that this process may run on; on macOS, which has no affinity, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
