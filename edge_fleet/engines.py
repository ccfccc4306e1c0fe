"""The engines of workers: what repairs the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from amco_jax.errors import InputError, check_choice, check_whole
from amco_jax.extras import load_package
from sd_repair.classical import CLASSICAL, repair_classical
from sd_repair.images import check_image, check_mask
from sd_repair.pipeline import HUB_ID, load_model, prepare
from sd_repair.repair import Settings, repair_images

ENGINES = ("classical", "tiny", "sd15")
"""Inpainting without a trained model, a tiny diffusion model with random weights, Stable Diffusion 1.5"""

Images = UInt8[np.ndarray, "images height width 3"]
Masks = Bool[np.ndarray, "images height width"]
Engine = Callable[[Images, Masks, Sequence[int], int], Images]
"""`(images, masks, seeds, steps) -> repaired`"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The engine of a worker.

    Raises:
      InputError: a name is unknown, or a number is out of range.
    """

    engine: str = "classical"
    """classical, tiny (a small diffusion model with random weights, for trials) or sd15"""
    inpainting: str = "telea"
    """classical: telea, ns or biharmonic"""
    model: str = HUB_ID
    """sd15: a diffusers directory, a single .safetensors file, or a hub id"""
    config: str = ""
    """sd15: the directory of the configuration and tokenizer, if the model is a single file"""
    variant: str = ""
    """sd15: the variant of the weights, if the model is a directory or hub id"""
    device: str = "auto"
    """sd15: auto, cpu, cuda, cuda:1, mps ... Workers on one machine share the weights only with cpu"""
    dtype: str = "auto"
    """sd15: auto, float32, float16 or bfloat16"""
    threads: int = 1
    """CPU threads of each worker"""
    max_batch: int = 4
    """tiny and sd15: how many images of an item are denoised at once at most; more need more memory"""

    def __post_init__(self):
        check_choice("engine", self.engine, ENGINES)
        check_choice("inpainting", self.inpainting, CLASSICAL)
        check_whole("threads", self.threads, 1, 1024)
        check_whole("max_batch", self.max_batch, 1, 64)
        for name in ("model", "config", "variant", "device", "dtype"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name}: {getattr(self, name)!r}; legal: a text")

    @property
    def shareable(self) -> bool:
        """Whether processes can share it after a fork, which no device but the CPU allows."""
        return self.engine == "classical" or self.device == "cpu" or self.engine == "tiny"

    @property
    def words(self) -> str:
        """The engine in a few words."""
        return {"classical": self.inpainting, "tiny": "tiny, random weights"}.get(self.engine, self.model)

    @property
    def labels(self) -> dict[str, str]:
        """What rows of latency tables and the reports of workers say of it: model, weights and dtype."""
        if self.engine == "classical":
            return {"model": f"classical-{self.inpainting}", "weights": "unstated", "dtype": "unstated"}
        if self.engine == "tiny":
            return {"model": "tiny", "weights": "random", "dtype": "float32"}
        dtype = "unstated" if self.dtype == "auto" else self.dtype
        return {"model": self.engine, "weights": "trained", "dtype": dtype}

    def check_worker(self, worker: str, report: Mapping[str, Any]) -> None:
        """Raise InputError unless a worker, by its report, has such an engine."""
        found = ", ".join(str(report.get(name, "unknown")) for name in self.labels)
        if found != (own := ", ".join(self.labels.values())):
            raise InputError(
                f"worker {worker}: model, weights and dtype {found}; legal: {own}, as the table [fleet] or "
                "--fleet says"
            )


def load_engine(settings: EngineSettings) -> Engine:
    """Load an engine, once for all images, and let it repair one, as the first takes longer than the others.

    Raises:
      InputError: the model cannot be loaded, or the extra `sd` is not installed.
    """
    engine = _loaded(settings)
    image, mask = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 64), bool)
    mask[0, 16:32, 16:32] = True
    engine(image, mask, [0], 1)
    return engine


def _loaded(settings: EngineSettings) -> Engine:
    if settings.engine == "classical":
        load_package("cv2").setNumThreads(settings.threads)

        def inpaint(images: Images, masks: Masks, seeds: Sequence[int], steps: int) -> Images:
            pairs = zip(images, masks, strict=True)
            return np.stack([repair_classical(settings.inpainting, image, mask) for image, mask in pairs])

        return inpaint
    load_package("torch").set_num_threads(settings.threads)
    model = _model(settings)

    def diffuse(images: Images, masks: Masks, seeds: Sequence[int], steps: int) -> Images:
        chosen = Settings(steps=steps)
        return repair_images(model, list(images), list(masks), seeds, chosen, settings.max_batch)

    return diffuse


def _model(settings: EngineSettings) -> Any:
    if settings.engine == "tiny":
        from sd_repair.random_weights import random_pipeline

        return prepare(random_pipeline(tiny=True), "cpu")
    config = Path(settings.config) if settings.config else None
    return load_model(settings.model, config, settings.device, settings.dtype, settings.variant or None)


def check_batch(images: Any, masks: Any) -> None:
    """Raise InputError unless each image and its mask can be repaired, see `sd_repair.images`."""
    if len(images) != len(masks):
        raise InputError(f"masks: {len(masks)} for {len(images)} images; legal: one for each")
    for image, mask in zip(images, masks, strict=True):
        check_mask(mask, check_image(image))
