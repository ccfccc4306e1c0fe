"""How long each part of a repair takes, and how much memory, as rows of a latency table."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from amco_jax.errors import InputError, check_whole
from amco_jax.latency import LEAST_REPEATS_OF_P95, VERSION, check_rows, fit_steps
from sd_repair.masks import box
from sd_repair.packages import load_package
from sd_repair.pipeline import Model
from sd_repair.repair import Settings, decode, encode_image, encode_prompts, repair

Progress = Callable[[str], None]
"""Called with a line that says what is measured next."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure: every size with every batch, and whole repairs with every number of steps."""

    sizes: Sequence[int] = (256, 512)
    steps: Sequence[int] = (2, 4)
    batches: Sequence[int] = (1,)
    repeats: int = 3
    """Of each part, after one that is thrown away; the first call of each size and batch has its own row."""
    guidance: float = 9.0

    def __post_init__(self) -> None:
        for field, values in {"sizes": self.sizes, "steps": self.steps, "batches": self.batches}.items():
            if not values:
                raise InputError(f"{field}: none; legal: at least one")
            for value in values:
                check_whole(field, value, 1)
            if len(set(values)) < len(values):
                raise InputError(f"{field}: {' '.join(map(str, values))}; legal: each once")
        check_whole("repeats", self.repeats, 1, 10_000)
        for steps in self.steps:
            Settings(steps=steps, guidance=self.guidance)


@dataclasses.dataclass(frozen=True)
class Labels:
    """The columns that all rows of a profile share."""

    device: str
    model: str
    weights: str
    dtype: str
    software: str
    source: str


def profile(
    load: Callable[[], Model], plan: Plan, labels: Labels, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The rows of a latency table: parts, whole repairs, memory, and the fit of steps where there are two or more.

    Args:
      load: makes the model; its time is the component `load`.
    """
    report = progress or (lambda line: None)
    report("load")
    watch = Watch(None)
    model = watch.time(load)
    watch.device = model.device
    for size in plan.sizes:
        check_whole("sizes", size, 2 * model.factor)
        if size % model.factor:
            raise InputError(f"sizes: {size}; legal: multiples of {model.factor}")
    rows: list[dict[str, Any]] = []
    for size in plan.sizes:
        for batch in plan.batches:
            shared = dataclasses.asdict(labels) | {
                "format_version": VERSION,
                "resolution": size,
                "guided": plan.guidance > 1,
                "batch": batch,
            }
            if not rows:
                rows += _rows(shared, "load", watch.readings[:1])
            rows += _profile_one(model, watch, plan, shared, report)
    return rows


def describe_device(device: Any) -> str:
    """A device's name as a table shows it: the GPU's, or the processor's with the number of threads."""
    torch = load_package("torch")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()} {device.type}"
    return f"{_processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def describe_software() -> str:
    """Versions of what the speed depends on."""
    packages = [f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers")]
    return "; ".join([*packages, f"python {platform.python_version()}", platform.system().lower()])


def print_profile(rows: Sequence[dict[str, Any]]) -> None:
    """Medians, fits and memory as a table on the terminal."""
    frame = check_rows(rows)
    frame = frame[
        frame["statistic"].isin(["p50", "point", "max"]) & frame["quantity"].isin(["wall", "memory"])
    ]
    frame = frame[(frame["statistic"] != "max") | (frame["component"] == "peak")]
    table = Table("size", "batch", "component", "steps", "value", title=str(frame["device"].iloc[0]))
    for row in frame.to_dict("records"):
        steps = "" if row["component"] not in ("first_call", "total") else str(row["steps"])
        unit = "s" if row["quantity"] == "wall" else "MB"
        value = f"{row['value']:.2%}" if row["component"] == "fit_residual" else f"{row['value']:.4g} {unit}"
        table.add_row(str(row["resolution"]), str(row["batch"]), row["component"], steps, value)
    Console().print(table)


class Watch:
    """Wall and CPU seconds of calls, with the device's queue empty before and after."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.readings: list[tuple[float, float]] = []

    def time(self, call: Callable[[], Any]) -> Any:
        self._synchronise()
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        self._synchronise()
        self.readings.append((time.perf_counter() - wall, time.process_time() - cpu))
        return result

    def repeat(
        self, call: Callable[[], Any], repeats: int, warm_up: bool = True
    ) -> list[tuple[float, float]]:
        """Readings of that many calls, after one that does not count."""
        if warm_up:
            call()
        self.readings = []
        for _ in range(repeats):
            self.time(call)
        return self.readings

    def _synchronise(self) -> None:
        if self.device is not None and self.device.type == "cuda":
            load_package("torch").cuda.synchronize(self.device)
        elif self.device is not None and self.device.type == "mps":
            load_package("torch").mps.synchronize()


def _profile_one(
    model: Model, watch: Watch, plan: Plan, shared: dict[str, Any], report: Progress
) -> list[dict[str, Any]]:
    """All rows of one size and batch."""
    torch = load_package("torch")
    size, batch = shared["resolution"], shared["batch"]
    settings = [Settings(steps=steps, guidance=plan.guidance) for steps in sorted(plan.steps)]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = box(size, 0)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)

    def whole(of: Settings) -> Callable[[], Any]:
        return lambda: repair(model, image, mask, range(batch), of, batch=batch)

    where = f"{size} x {size}, batch {batch}"
    report(f"{where}: first call")
    first = settings[0].steps
    rows = _rows(shared, "first_call", watch.repeat(whole(settings[0]), 1, warm_up=False), steps=first)
    with torch.inference_mode():
        texts = encode_prompts(model, settings[0])
        latents = encode_image(model, image).repeat(batch, 1, 1, 1)
        inputs = latents.repeat(2, 1, 1, 1) if settings[0].guided else latents
        embeddings = texts.repeat_interleave(batch, dim=0)
        parts: dict[str, Callable[[], Any]] = {
            "text_encode": lambda: encode_prompts(model, settings[0]),
            "vae_encode": lambda: encode_image(model, image),
            "unet_step": lambda: (
                model.unet(inputs, torch.tensor(501, device=model.device), embeddings).sample
            ),
            "vae_decode": lambda: decode(model, latents),
        }
        for component, call in parts.items():
            report(f"{where}: {component}")
            rows += _rows(shared, component, watch.repeat(call, plan.repeats))
    totals = []
    for of in settings:
        report(f"{where}: total, {of.steps} steps")
        readings = watch.repeat(
            whole(of), plan.repeats, warm_up=False
        )  # every part has run several times by now
        totals.append(float(np.median([wall for wall, _ in readings])))
        rows += _rows(shared, "total", readings, steps=of.steps)
    rows.append(_row(shared, "measured", "peak", "memory", "max", _peak_memory(model.device), repeats=1))
    if len(settings) > 1:
        fit = fit_steps([of.steps for of in settings], totals)
        span = f"fit to the medians of totals of {' '.join(str(of.steps) for of in settings)} steps"
        fitted = shared | {"source": f"{span}; {shared['source']}"}
        for component, value in {
            "fixed": fit.fixed,
            "per_step": fit.per_step,
            "fit_residual": fit.residual,
        }.items():
            rows.append(_row(fitted, "derived", component, "wall", "point", value))
    return rows


def _rows(
    shared: dict[str, Any], component: str, readings: Sequence[tuple[float, float]], steps: int | None = None
) -> list[dict[str, Any]]:
    rows = []
    for quantity, values in zip(("wall", "cpu"), np.transpose(readings), strict=True):
        statistics = {"p50": np.median(values), "min": np.min(values), "max": np.max(values)}
        if len(values) >= LEAST_REPEATS_OF_P95:
            statistics["p95"] = np.percentile(values, 95)
        for statistic, value in statistics.items():
            value = max(float(value), 1e-6)  # the clock of CPU time may stand still
            rows.append(_row(shared, "measured", component, quantity, statistic, value, steps, len(values)))
    return rows


def _row(
    shared: dict[str, Any],
    row_kind: str,
    component: str,
    quantity: str,
    statistic: str,
    value: float,
    steps: int | None = None,
    repeats: int | None = None,
) -> dict[str, Any]:
    return shared | {
        "row_kind": row_kind,
        "component": component,
        "quantity": quantity,
        "statistic": statistic,
        "value": float(f"{value:.6g}"),
        "steps": "" if steps is None else steps,
        "repeats": "" if repeats is None else repeats,
    }


def _peak_memory(device: Any) -> float:
    """MB: of tensors on a GPU since the start of this size and batch, of the whole process on a CPU since its start."""
    if device.type == "cuda":
        return load_package("torch").cuda.max_memory_allocated(device) / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].replace(",", " ").split())
    return platform.processor() or platform.machine()
