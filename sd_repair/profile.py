"""Profiling of a repair: time of each part and memory, as rows of a latency table."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from amco_jax.errors import InputError, check_whole
from amco_jax.extras import load_package
from amco_jax.machine import peak_memory, processor
from amco_jax.service.latency import MIN_REPEATS_OF_P95, VERSION, check_rows, fit_steps
from sd_repair.masks import box
from sd_repair.pipeline import Model
from sd_repair.repair import Settings, decode, encode_images, encode_prompts, repair

Reading = tuple[float, float]
"""Wall and CPU time, s."""
Progress = Callable[[str], None]
"""A function that is called with a description of the next measurement."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The measurements: every size with every batch, and whole repairs with every number of steps."""

    sizes: Sequence[int] = (256, 512)
    steps: Sequence[int] = (2, 4)
    batches: Sequence[int] = (1,)
    repeats: int = 3
    """Number of repeats of each part and of each whole repair."""
    warm_up: int = 1
    """Number of whole repairs before the measured ones, per size and batch; the first has its own rows."""
    guidance: float = 9.0

    def __post_init__(self) -> None:
        for field, values in {"sizes": self.sizes, "steps": self.steps, "batches": self.batches}.items():
            if not values:
                raise InputError(f"{field}: none; legal: at least one")
            for value in values:
                check_whole(field, value, 1)
            if len(set(values)) < len(values):
                raise InputError(f"{field}: {' '.join(map(str, values))}; legal: each value once")
        check_whole("repeats", self.repeats, 1, 10_000)
        check_whole("warm_up", self.warm_up, 1, 10_000)
        for steps in self.steps:
            Settings(steps=steps, guidance=self.guidance)


@dataclasses.dataclass(frozen=True)
class Labels:
    """The column values that all rows of a profile share."""

    device: str
    model: str
    weights: str
    dtype: str
    software: str
    source: str


def profile(
    load: Callable[[], Model], device: Any, plan: Plan, labels: Labels, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The rows of a latency table: parts, whole repairs, memory and, for two or more numbers of steps, a fit.

    Args:
      load: a function that loads the model; its time is the component `load`.
      device: the torch device of the loaded model.

    Raises:
      InputError: the model does not support one of the sizes, or the labels are not those of a table.
    """
    configurations = [
        dataclasses.asdict(labels) | {
            "format_version": VERSION,
            "row_kind": "measured",
            "resolution": size,
            "guided": "yes" if plan.guidance > 1 else "no",
            "batch": batch,
        }
        for size in plan.sizes
        for batch in plan.batches
    ]  # fmt: skip
    # A row of each, with the longest source, so that nothing is measured that the table would refuse.
    samples = [_row(_derived(shared), "fixed", "wall", "point", 1) for shared in configurations]
    check_rows(samples, "to be written")
    report = progress or (lambda line: None)
    report("load")
    model, loading = _time(load, device)
    for size in plan.sizes:
        check_whole("sizes", size, 2 * model.factor)
        if size % model.factor:
            raise InputError(f"sizes: {size}; legal: multiples of {model.factor}")
    rows: list[dict[str, Any]] = []
    for shared in configurations:
        rows += _profile_one(model, plan, loading, shared, report)
    return rows


def describe_device(device: Any) -> str:
    """The name of a device in tables: the GPU's, or the processor's with the number of threads."""
    torch = load_package("torch")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return f"{platform.machine()} {device.type}"
    name = " ".join(processor().replace(",", " ").split())  # a comma ends it in the device's name
    return f"{name}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def describe_software() -> str:
    """The versions of the software that the speed depends on."""
    packages = [f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers")]
    return "; ".join([*packages, f"python {platform.python_version()}", platform.system().lower()])


def print_profile(rows: Sequence[dict[str, Any]]) -> None:
    """Print medians, fits and memory as a table on the terminal."""
    table = Table("size", "batch", "component", "steps", "value", title=rows[0]["device"])
    units = {"wall": " s", "memory": " MB", "share": ""}
    for row in rows:
        if row["quantity"] in units and (row["statistic"] in ("p50", "point") or row["component"] == "peak"):
            value = f"{row['value']:.4g}{units[row['quantity']]}"
            columns = ("resolution", "batch", "component", "steps")
            table.add_row(*(str(row[column]) for column in columns), value)
    Console().print(table)


def _profile_one(
    model: Model, plan: Plan, load: Reading, shared: dict[str, Any], report: Progress
) -> list[dict[str, Any]]:
    """All rows of one size and batch."""
    torch = load_package("torch")
    size, batch = shared["resolution"], shared["batch"]
    settings = [Settings(steps=steps, guidance=plan.guidance) for steps in sorted(plan.steps)]
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = box(size, 0)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)

    def measure(what: str, call: Callable[[], Any], times: int) -> list[Reading]:
        report(f"{size} x {size}, batch {batch}: {what}")
        return [_time(call, model.device)[1] for _ in range(times)]

    def whole(of: Settings) -> Callable[[], Any]:
        return lambda: repair(model, image, mask, range(batch), of, batch=batch)

    rows = _rows(shared, "load", [load])
    warm_up = measure("first call", whole(settings[0]), plan.warm_up)
    rows += _rows(shared, "first_call", warm_up[:1], settings[0].steps)
    with torch.inference_mode():
        texts = encode_prompts(model, settings[0])
        latents = encode_images(model, [image]).repeat(batch, 1, 1, 1)
        inputs = latents.repeat(len(texts), 1, 1, 1)
        embeddings = texts.repeat_interleave(batch, dim=0)
        timestep = torch.tensor(501, device=model.device)
        parts: dict[str, Callable[[], Any]] = {
            "text_encode": lambda: encode_prompts(model, settings[0]),
            "vae_encode": lambda: encode_images(model, [image]),
            "unet_step": lambda: model.unet(inputs, timestep, embeddings),
            "vae_decode": lambda: decode(model, latents),
        }
        for component, call in parts.items():
            rows += _rows(shared, component, measure(component, call, plan.repeats))
    totals = []
    for of in settings:
        readings = measure(f"total, steps {of.steps}", whole(of), plan.repeats)
        rows += _rows(shared, "total", readings, of.steps)
        totals.append(float(np.median([wall for wall, _ in readings])))
    rows.append(_row(shared, "peak", "memory", "max", _peak_memory(model.device) / 1e6, repeats=1))
    if len(settings) > 1:
        rows += _fit_rows(shared, [of.steps for of in settings], totals, report)
    return rows


def _time(call: Callable[[], Any], device: Any) -> tuple[Any, Reading]:
    """The result of a call and its time, with the device synchronised before and after."""
    _synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    _synchronise(device)
    return result, (time.perf_counter() - wall, time.process_time() - cpu)


def _synchronise(device: Any) -> None:
    if device.type != "cpu":
        load_package("torch").accelerator.synchronize(device)


def _rows(
    shared: dict[str, Any], component: str, readings: Sequence[Reading], steps: int | None = None
) -> list[dict[str, Any]]:
    rows = []
    for quantity, values in zip(("wall", "cpu"), np.asarray(readings, np.float64).T, strict=True):
        rows += rows_of(shared, component, quantity, values, steps)
    return rows


def rows_of(
    shared: dict[str, Any], component: str, quantity: str, values: Any, steps: int | None = None
) -> list[dict[str, Any]]:
    """The rows of repeated readings, s: their median and, if there are enough of them, further statistics."""
    statistics = {"p50": np.median(values)}
    if len(values) > 1:
        statistics |= {"min": np.min(values), "max": np.max(values)}
    if len(values) >= MIN_REPEATS_OF_P95:
        statistics["p95"] = np.percentile(values, 95)
    # The CPU clock may not advance.
    return [
        _row(shared, component, quantity, statistic, max(float(value), 1e-6), steps, len(values))
        for statistic, value in statistics.items()
    ]


def _fit_rows(
    shared: dict[str, Any], steps: Sequence[int], totals: Sequence[float], report: Progress
) -> list[dict[str, Any]]:
    """The rows of a linear fit to the totals; none if they do not grow with the steps."""
    try:
        fit = fit_steps(steps, totals)
    except InputError as error:
        report(f"no fit: {error}")
        return []
    fitted = _derived(shared)
    return [
        _row(fitted, "fixed", "wall", "point", fit.fixed),
        _row(fitted, "per_step", "wall", "point", fit.per_step),
        _row(fitted, "fit_residual", "share", "point", fit.residual),
    ]


def _derived(shared: dict[str, Any]) -> dict[str, Any]:
    """The values that the rows of a fit share."""
    source = f"fit to the medians of the totals; {shared['source']}"
    return shared | {"row_kind": "derived", "source": source}


def _row(
    shared: dict[str, Any],
    component: str,
    quantity: str,
    statistic: str,
    value: float,
    steps: int | None = None,
    repeats: int | None = None,
) -> dict[str, Any]:
    return shared | {
        "component": component,
        "quantity": quantity,
        "statistic": statistic,
        "value": float(f"{value:.6g}"),
        "steps": "" if steps is None else steps,
        "repeats": "" if repeats is None else repeats,
    }


def _peak_memory(device: Any) -> float:
    """Peak memory, bytes: of the tensors for this size and batch on a GPU, else of the process so far."""
    if device.type == "cuda":
        return load_package("torch").cuda.max_memory_allocated(device)
    return peak_memory()
