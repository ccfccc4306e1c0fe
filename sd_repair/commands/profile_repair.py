"""Measure the time of each part of a repair with Stable Diffusion 1.5."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

from amco_jax.errors import InputError, check_whole
from amco_jax.extras import load_package
from amco_jax.files import check_writable
from amco_jax.service.latency import write_table
from sd_repair.options import refuse_given
from sd_repair.pipeline import HUB_ID, Model, check_device, check_dtype, load_diffusers, load_model, prepare
from sd_repair.profile import Labels, Plan, describe_device, describe_software, print_profile, profile


@dataclasses.dataclass(frozen=True)
class Arguments:
    out: Path
    """The latency table to write, a .csv file; see docs/latency-tables.md."""
    model: str = HUB_ID
    """A diffusers directory, a single .safetensors file, or a hub id."""
    config: Path | None = None
    """The directory of the configuration and tokenizer, if --model is a single file."""
    variant: str | None = None
    """The variant of the weights, such as fp16, if --model is a directory or hub id; by default, the weights
    without a variant, or the only variant that exists."""
    random_weights: bool = False
    """Use random weights of full size instead of --model; times are the same, and the table says so."""
    tiny: bool = False
    """Use a tiny model with random weights, to try the command."""
    sizes: tuple[int, ...] = (256, 512)
    """Sides of the square images in pixels."""
    steps: tuple[int, ...] = (2, 4)
    """Numbers of denoising steps of whole repairs; two or more give a fit."""
    batches: tuple[int, ...] = (1,)
    """Batch sizes: images denoised at once."""
    guidance: float = 9.0
    """Scale of classifier-free guidance; up to 1, there is no guidance, and a step costs half."""
    repeats: int = 3
    """Number of repeats of each part and of each whole repair; 20 or more give a 95th percentile."""
    warm_up: int = 1
    """Number of whole repairs before the measured ones, for each size and batch; the first has its own
    rows."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    dtype: str = "auto"
    """auto, float32, float16 or bfloat16; auto is float16 on a GPU and float32 on a CPU."""
    threads: int | None = None
    """Number of CPU threads; by default, PyTorch's choice."""
    quiet: bool = False
    """Show no progress and print no table."""


def main(args: Arguments) -> None:
    if args.out.suffix != ".csv" or not args.out.parent.is_dir():
        raise InputError(f"out: {args.out}; legal: a .csv file in a directory that exists")
    check_writable(args.out)
    if args.tiny:
        refuse_given(args, ["random_weights"], "without --tiny")
    random = args.random_weights or args.tiny
    if random:
        refuse_given(args, ("model", "config", "variant"), "without --random-weights and --tiny")
    plan = Plan(args.sizes, args.steps, args.batches, args.repeats, args.warm_up, args.guidance)
    torch = load_package("torch")
    if args.threads is not None:
        torch.set_num_threads(check_whole("threads", args.threads, 1, 1024))
    device = check_device(args.device)
    dtype = str(check_dtype(args.dtype, device)).removeprefix("torch.")
    load_diffusers().StableDiffusionPipeline  # noqa: B018  imported here, so that `load` times only the loading

    def load() -> Model:
        if not random:
            return load_model(args.model, args.config, device, dtype, args.variant)
        from sd_repair.random_weights import random_pipeline

        return prepare(random_pipeline(args.tiny, dtype=dtype), device)

    where = torch.device(device)
    labels = Labels(
        device=describe_device(where),
        model="sd15-tiny" if args.tiny else "sd15",
        weights="random" if random else "trained",
        dtype=dtype,
        software=describe_software(),
        source=_command(dataclasses.replace(args, device=device, dtype=dtype)),
    )
    report = None if args.quiet else lambda line: print(line, file=sys.stderr, flush=True)
    rows = profile(load, where, plan, labels, report)
    write_table(rows, args.out)
    if not args.quiet:
        print_profile(rows)


def _command(args: Arguments) -> str:
    """The command line that measures the same, on the device that was chosen."""
    words = ["scripts/profile_repair.py"]
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        if field.name in ("out", "quiet") or value is None or value is False:
            continue
        if field.name == "model" and (args.random_weights or args.tiny):
            continue
        values = () if value is True else value if isinstance(value, tuple) else (value,)
        words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)
