"""Repair with a plain Stable Diffusion 1.5: DDIM, with the known latents blended in at every step.

The encoder sees the corrupted image with its hole filled by mid-grey, never the truth. After each DDIM
step, x ← m·x + (1 − m)·(√ᾱ·z + √(1 − ᾱ)·noise), where z is the encoding of that image, ᾱ belongs to the next
time step (1 after the last one) and m is the max-pooled mask. At the end, the known pixels are restored
exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from amco_jax.errors import InputError, check_number, check_whole
from amco_jax.extras import load_package
from sd_repair.images import Image, Mask, check_image, check_mask, corrupt, paste_known
from sd_repair.masks import pool
from sd_repair.pipeline import Model

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
"""The DDIM schedule of Stable Diffusion 1.5; weight files do not always include it."""

Progress = Callable[[int, int], None]
"""A function that is called with the number of denoising steps done and their total."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a repair; the defaults are those of the published demonstration."""

    prompt: str = "a human face, best quality, extremely detailed"
    negative_prompt: str = "cropped, worst quality, low quality"
    steps: int = 20
    guidance: float = 9.0
    """Scale of classifier-free guidance; up to 1, there is no guidance, and a step costs half."""
    eta: float = 0.0
    """Noise that DDIM adds at each step: 0 for none, 1 for as much as DDPM."""
    strength: float = 1.0
    """Share of the steps that are taken; below 1, they start from the noised corrupted image."""

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, 999)
        check_number("guidance", self.guidance, 0, 100)
        check_number("eta", self.eta, 0, 1)
        check_number("strength", self.strength, 0, 1)
        if self.steps_taken < 1:
            raise InputError(
                f"strength: {self.strength} leaves none of {self.steps} steps; legal: from 1/steps to 1"
            )

    @property
    def steps_taken(self) -> int:
        # Rounded first, as 100 · 0.29 is slightly below 29.
        return int(round(self.steps * self.strength, 9))

    @property
    def guided(self) -> bool:
        return self.guidance > 1


def repair(
    model: Model,
    image: Image,
    mask: Mask,
    seeds: Sequence[int],
    settings: Settings | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "samples height width 3"]:
    """One repaired image per seed, independent of the batch size.

    Args:
      image: uint8, or floats from 0 to 1; its sides must be multiples of the VAE's factor, 8.
      mask: True in the hole.
      seeds: one per image; each draws its own noise on the CPU, the same for all devices and batch sizes.
      batch: number of images denoised at once; more need more memory.

    Raises:
      InputError: the input is bad, or the model overflows in its dtype.
    """
    if not seeds:
        raise InputError("samples: no seed; legal: at least one")
    return repair_images(model, [image], [mask], seeds, settings, batch, progress)


def repair_images(
    model: Model,
    images: Sequence[Image],
    masks: Sequence[Mask],
    seeds: Sequence[int],
    settings: Settings | None = None,
    batch: int = 1,
    progress: Progress | None = None,
) -> UInt8[np.ndarray, "samples height width 3"]:
    """The repaired image of each of some images of the same size, as `repair` repairs it.

    Args:
      images: one for each seed, or one for all.
      masks: one for each image.

    Raises:
      InputError: the input is bad, or the model overflows in its dtype.
    """
    settings = settings or Settings()
    check_whole("batch", batch)
    for seed in seeds:
        check_whole("seed", seed, 0, 2**63 - 1)
    images = [check_image(image) for image in images]
    masks = [check_mask(mask, image) for image, mask in zip(images, masks, strict=True)]
    for mask in masks:
        if any(side % model.factor for side in mask.shape):
            raise InputError(
                f"size: {mask.shape[0]} x {mask.shape[1]} pixels;"
                f" legal: multiples of {model.factor} for this model"
            )
    torch = load_package("torch")
    results, done, total = [], 0, settings.steps_taken * -(-len(seeds) // batch)
    corrupted = [corrupt(image, mask) for image, mask in zip(images, masks, strict=True)]
    with torch.inference_mode():
        texts = encode_prompts(model, settings)
        shared = encode_images(model, corrupted) if len(images) == 1 else None
        for start in range(0, len(seeds), batch):
            some = slice(start, start + batch)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[some]]
            if shared is not None:
                known, holes = shared, masks
            else:
                known, holes = encode_images(model, corrupted[some]), masks[some]
            latents = None
            for latents in denoising(model, known, holes, texts, generators, settings):  # noqa: B007
                done += 1
                if progress is not None:
                    progress(done, total)
            results.append(decode(model, latents))
    repaired = np.concatenate(results)
    own = zip(*(each * len(seeds) if len(images) == 1 else each for each in (images, masks)), strict=True)
    return np.stack([
        paste_known(image, sample, mask) for (image, mask), sample in zip(own, repaired, strict=True)
    ])  # fmt: skip


def encode_prompts(model: Model, settings: Settings) -> Any:
    """Embeddings [1 or 2, 77, width]: of the negative prompt if there is guidance, then of the prompt.

    Raises:
      InputError: a prompt has more tokens than the model reads.
    """
    torch = load_package("torch")
    prompts = {"prompt": settings.prompt}
    if settings.guided:
        prompts = {"negative-prompt": settings.negative_prompt} | prompts
    length = model.tokenizer.model_max_length
    for field, prompt in prompts.items():
        tokens = len(model.tokenizer(prompt).input_ids)
        if tokens > length:
            raise InputError(f"{field}: {tokens - 2} tokens; legal: at most {length - 2}")
    ids = model.tokenizer(list(prompts.values()), padding="max_length", max_length=length).input_ids
    return model.text_encoder(torch.tensor(ids, device=model.device))[0]


def encode_images(model: Model, images: Sequence[Image]) -> Any:
    """Scaled latents [images, 4, rows, columns]: the mode of the VAE's distribution, not a sample."""
    torch = load_package("torch")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    latents = model.vae.encode(pixels.to(model.device, model.dtype)).latent_dist.mode()
    return latents * model.vae.config.scaling_factor


def denoising(
    model: Model, known: Any, masks: Sequence[Mask], texts: Any, generators: Sequence[Any], settings: Settings
) -> Any:
    """The latents [batch, 4, rows, columns] after each step; one CPU generator per image of the batch.

    Args:
      known: from `encode_images`, of each image of the batch, or of one for all.
      masks: one for each of them.
    """
    torch = load_package("torch")
    scheduler = load_package("diffusers").DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(settings.steps, device=model.device)
    times = scheduler.timesteps[settings.steps - settings.steps_taken :]
    holes = np.stack([pool(mask, model.factor) for mask in masks])
    hole = torch.from_numpy(holes).to(model.device, model.dtype)[:, None]

    def draw() -> Any:
        shape = (1, *known.shape[1:])
        draws = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators]
        return torch.cat(draws).to(model.device, model.dtype)

    noise = draw()
    # As usual for Stable Diffusion, pure noise is taken as the noisiest image.
    latents = noise if settings.strength == 1 else scheduler.add_noise(known, noise, times[:1])
    texts = texts.repeat_interleave(len(generators), dim=0)
    for index, time in enumerate(times):
        if settings.guided:
            without, towards = model.unet(torch.cat([latents, latents]), time, texts).sample.chunk(2)
            predicted = without + settings.guidance * (towards - without)
        else:
            predicted = model.unet(latents, time, texts).sample
        variance = draw() if settings.eta > 0 else None
        latents = scheduler.step(
            predicted, time, latents, eta=settings.eta, variance_noise=variance
        ).prev_sample
        is_last = index == len(times) - 1
        blended = known if is_last else scheduler.add_noise(known, noise, times[index + 1 : index + 2])
        latents = hole * latents + (1 - hole) * blended
        yield latents


def decode(model: Model, latents: Any) -> UInt8[np.ndarray, "batch height width 3"]:
    """Decode scaled latents to images.

    Raises:
      InputError: pixels are not finite, as sometimes happens in half precision.
    """
    torch = load_package("torch")
    pixels = model.vae.decode(latents / model.vae.config.scaling_factor).sample.to(torch.float32)
    if not bool(torch.isfinite(pixels).all()):
        raise InputError(f"dtype: {model.dtype} overflowed in this model; legal: float32, or bfloat16")
    pixels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
