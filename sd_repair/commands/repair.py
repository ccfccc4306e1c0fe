"""Repair a corrupted image with Stable Diffusion 1.5, or without a trained model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from amco_jax.errors import InputError, check_choice, check_whole
from amco_jax.progress import progress_bar
from sd_repair.classical import CLASSICAL, repair_classical
from sd_repair.job import Outputs, read_inputs
from sd_repair.options import refuse_given
from sd_repair.pipeline import HUB_ID, Model, load_model
from sd_repair.repair import Settings, repair


@dataclasses.dataclass(frozen=True)
class Arguments:
    image: Annotated[str, tyro.conf.Positional]
    """An image file, or astronaut for scikit-image's photograph, which is in the public domain."""
    mask: str
    """A mask file, white in the hole and black elsewhere, or a mask generated from --seed: thin, thick or
    box."""
    out: Path
    """The image file to write. Next to it go ...-2, ...-3 (more samples), ...-corrupted and ...-sheet."""
    mask_marks: str | None = None
    """The meaning of the white (or painted) pixels of a mask file: hole or known. By default, the hole; if
    they are more than half of the image, this must be given."""
    method: str = "sd15"
    """sd15, or a method without a trained model: telea, ns (Navier–Stokes) or biharmonic."""
    truth: Path | None = None
    """The undamaged image, for printing PSNR and SSIM over the hole; by default, IMAGE if the mask is
    generated."""
    size: int = 512
    """Side in pixels to which the largest centred square is resampled."""
    seed: int = 0
    """Seed of the mask and of the first sample; further samples have the following seeds."""
    model: str = HUB_ID
    """sd15: a diffusers directory, a single .safetensors file, or a hub id."""
    config: Path | None = None
    """sd15: the directory of the configuration and tokenizer, if --model is a single file."""
    variant: str | None = None
    """sd15: the variant of the weights if --model is a directory or hub id, such as fp16 for files that end
    in .fp16.safetensors; by default, the weights without a variant, or the only variant that exists."""
    samples: int = 3
    """sd15: number of repaired images."""
    steps: int = 20
    """sd15: number of denoising steps."""
    guidance: float = 9.0
    """sd15: scale of classifier-free guidance."""
    eta: float = 0.0
    """sd15: noise that DDIM adds at each step, from 0 to 1."""
    strength: float = 1.0
    """sd15: share of the steps that are taken."""
    prompt: str = Settings.prompt
    """sd15: description of what the image shows."""
    negative_prompt: str = Settings.negative_prompt
    """sd15: description of what the image does not show."""
    batch: int = 1
    """sd15: number of samples denoised at once; the results do not depend on it."""
    device: str = "auto"
    """sd15: auto, cpu, cuda, cuda:1, mps ..."""
    dtype: str = "auto"
    """sd15: auto, float32, float16 or bfloat16; auto is float16 on a GPU and float32 on a CPU."""
    quiet: bool = False
    """Show no progress bar and print no text."""


_OF_MODEL = (
    "model", "config", "variant", "samples", "steps", "guidance", "eta", "strength", "prompt",
    "negative_prompt", "batch", "device", "dtype",
)  # fmt: skip
"""The arguments of sd15, which other methods do not have"""


def main(args: Arguments) -> None:
    check_choice("method", args.method, ("sd15", *CLASSICAL))
    if args.method in CLASSICAL:
        refuse_given(args, _OF_MODEL, f"with --method sd15, not {args.method}")
    settings = Settings(args.prompt, args.negative_prompt, args.steps, args.guidance, args.eta, args.strength)
    check_whole("samples", args.samples, 1, 1000)
    check_whole("batch", args.batch, 1, 1000)
    inputs = read_inputs(args.image, args.mask, args.size, args.seed, args.truth, args.mask_marks)
    outputs = Outputs(args.out, args.samples if args.method == "sd15" else 1)
    outputs.check([args.image, args.mask, args.truth])
    if not args.quiet:
        print("\n".join(inputs.understood), flush=True)
    if args.method in CLASSICAL:
        repaired = repair_classical(args.method, inputs.image, inputs.mask)[None]
    else:
        model = _load_model(args)
        if not args.quiet:
            print(f"model: {args.model}, {model.described}", flush=True)
        seeds = range(args.seed, args.seed + args.samples)
        with progress_bar(not args.quiet, "steps") as bar:
            task = bar.add_task("repair", total=None)
            repaired = repair(
                model, inputs.image, inputs.mask, seeds, settings, args.batch,
                lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    outputs.write(inputs, repaired, args.method)
    if not args.quiet:
        outputs.print(inputs, repaired)


def _load_model(args: Arguments) -> Model:
    try:
        return load_model(args.model, args.config, args.device, args.dtype, args.variant)
    except InputError as error:
        methods = " or ".join(", ".join(CLASSICAL).rsplit(", ", 1))
        raise InputError(f"{error}; without weights, use --method {methods}") from error
