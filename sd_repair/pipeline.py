"""Loading Stable Diffusion 1.5 from a directory, a single file or the hub."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from pathlib import Path
from typing import Any

from amco_jax.errors import InputError, check_choice, first_line
from amco_jax.extras import load_package

HUB_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"
NETWORKS = ("unet", "vae", "text_encoder")
"""Subdirectories of a diffusers directory with the weights that a repair needs."""
DTYPES = ("auto", "float32", "float16", "bfloat16")
_ALIGNMENT = 64
"""Bytes, those of a cache line"""


@dataclasses.dataclass(frozen=True)
class Model:
    """The parts of a pipeline that a repair needs, on one device and in one dtype."""

    tokenizer: Any
    text_encoder: Any
    vae: Any
    unet: Any
    variant: str | None = None
    """The variant of the loaded weights, such as fp16."""

    @property
    def described(self) -> str:
        """A description of variant, dtype and device."""
        variant = "" if self.variant is None else f"variant {self.variant}, "
        return f"{variant}{str(self.dtype).removeprefix('torch.')} on {self.device}"

    @property
    def device(self) -> Any:
        return self.unet.device

    @property
    def dtype(self) -> Any:
        return self.unet.dtype

    @property
    def factor(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def parameters(self) -> dict[str, int]:
        """The number of parameters of each network."""
        networks = {"text_encoder": self.text_encoder, "vae": self.vae, "unet": self.unet}
        return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def load_model(
    source: str = HUB_ID,
    config: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    variant: str | None = None,
) -> Model:
    """Load a model from a diffusers directory, a single .safetensors file, or a hub id.

    Args:
      source: the directory, file or hub id; a path takes precedence over a hub id of the same name.
      config: for a single file, the diffusers directory with its configuration and tokenizer, whose weights
        are not read; by default, the directory next to the file with the same name without suffix.
      device: auto, cpu, cuda, cuda:1, mps ...
      dtype: auto is float16 on a GPU and float32 on a CPU.
      variant: the variant of the weights, for a directory or hub id; see `choose_variant`.

    Raises:
      InputError: the source or the variant does not exist, the model is not a Stable Diffusion 1.5, or the
        extra `sd` is not installed.
    """
    where = check_device(device)
    options = {
        "dtype": check_dtype(dtype, where),
        "safety_checker": None,
        "feature_extractor": None,  # otherwise from_pretrained looks for it if there is no safety checker
    }
    path = Path(source)
    diffusers = load_diffusers()
    try:
        if path.is_file():
            if variant is not None:
                raise InputError(f"variant: {variant}, for a single file; legal: with a directory or hub id")
            pipeline = diffusers.StableDiffusionPipeline.from_single_file(
                str(path), config=str(_config_of(path, config)), local_files_only=True, **options
            )
        else:
            if config is not None:
                raise InputError(f"config: {config}, for a directory or hub id; legal: with a single file")
            directory = path if path.is_dir() else _download(source, variant)
            if not (directory / "model_index.json").is_file():
                raise InputError(f"model: {path} has no model_index.json; legal: a diffusers directory")
            variant = choose_variant(directory, variant)
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                directory, local_files_only=True, variant=variant, **options
            )
    except InputError:
        raise
    except Exception as error:  # the loaders raise many kinds, some defined in their own packages
        raise InputError(f"model: {source} cannot be loaded: {first_line(error)[:200]}") from error
    return dataclasses.replace(prepare(pipeline, where), variant=variant)


def choose_variant(directory: Path, wanted: str | None = None) -> str | None:
    """The variant of the weights to load from a diffusers directory; None means weights without a variant.

    On its own, diffusers does not find weights that exist only as a variant, and silently takes other weights
    if a network lacks the requested variant.

    Raises:
      InputError: not all networks have the variant, or none is given and there is not exactly one choice.
    """
    found = {name: _variants(directory / name) for name in NETWORKS}
    common = set.intersection(*found.values())
    if wanted in common:
        return wanted
    if wanted is None and len(common) == 1:
        return common.pop()
    legal = ", ".join(f"--variant {name}" if name else "no --variant" for name in sorted(common, key=str))
    has = "; ".join(
        f"{name}: {', '.join(sorted(str(variant or 'plain') for variant in variants)) or 'no weights'}"
        for name, variants in found.items()
    )
    given = "none given" if wanted is None else repr(wanted)
    raise InputError(
        f"variant: {given}, for {directory} ({has}); legal: {legal or 'one that all of them have'}"
    )


def _variants(directory: Path) -> set[str | None]:
    """The variants of one network's weights; None means weights without a variant."""
    names = re.compile(r"(?:diffusion_pytorch_|pytorch_)?model(?:\.([\w-]+))?")
    found: set[str | None] = set()
    for file in directory.glob("*model*"):
        if file.suffix in (".safetensors", ".bin"):
            name = names.fullmatch(re.sub(r"-\d{5}-of-\d{5}", "", file.stem))
            if name is not None:
                found.add(name[1])
    return found


def _download(source: str, variant: str | None) -> Path:
    """The directory of a hub id in the hub's cache; missing files are downloaded."""
    if Path(source).suffix or source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise InputError(f"model: there is no {source}; legal: a directory, a .safetensors file, or a hub id")
    return Path(
        load_diffusers().StableDiffusionPipeline.download(
            source, variant=variant, safety_checker=None, feature_extractor=None
        )
    )


def prepare(pipeline: Any, device: str = "cpu") -> Model:
    """The networks of a diffusers pipeline, prepared for inference on a device.

    Raises:
      InputError: the UNet does not take four channels, or it does not predict noise.
    """
    channels = pipeline.unet.config.in_channels
    if channels != 4:
        raise InputError(
            f"model: its UNet takes {channels} channels; legal: 4, as in plain Stable Diffusion 1.5"
        )
    prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise InputError(
            f"model: its UNet predicts '{prediction}'; legal: epsilon, as in Stable Diffusion 1.5"
        )
    networks = [
        network.to(device).eval().requires_grad_(False)
        for network in (pipeline.text_encoder, pipeline.vae, pipeline.unet)
    ]
    for network in networks:
        for weights in itertools.chain(network.parameters(), network.buffers()):
            # Weights that are mapped from a file may begin at any address. CPUs compute in another way with
            # those that are not aligned, which rounds differently.
            if weights.data_ptr() % _ALIGNMENT:
                weights.data = weights.data.clone()
    return Model(pipeline.tokenizer, *networks)


def check_device(device: str) -> str:
    """The name of a device, with auto resolved.

    Raises:
      InputError: this machine has no such device.
    """
    torch = load_package("torch")
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # AssertionError, RuntimeError or NotImplementedError, by backend
        raise InputError(f"device: '{device}' cannot be used: {first_line(error)}") from error
    return device


def check_dtype(dtype: str, device: str) -> Any:
    """The torch dtype of a name, with auto resolved.

    Raises:
      InputError: the name is unknown, or it is float16 on a CPU.
    """
    check_choice("dtype", dtype, DTYPES)
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "float16"
    if dtype == "float16" and device == "cpu":
        raise InputError("dtype: 'float16' on a CPU; legal: float32, bfloat16")
    return getattr(load_package("torch"), dtype)


def _config_of(file: Path, config: Path | None) -> Path:
    if file.suffix != ".safetensors":
        raise InputError(f"model: {file}; legal: a .safetensors file, a diffusers directory, or a hub id")
    directory = file.with_suffix("") if config is None else config
    if not (directory / "model_index.json").is_file():
        raise InputError(
            f"config: {directory} is not a directory with a model_index.json; legal: the configuration and"
            f" tokenizer of {file.name}, in diffusers' layout"
        )
    return directory


def load_diffusers() -> Any:
    """Import diffusers and transformers, and silence their progress bars and log messages."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    diffusers = load_package("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    logging = load_package("transformers.utils.logging")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return diffusers
