"""Stable Diffusion 1.5 with random weights, full-size or tiny, created without any download.

The layers, their order and their shapes are those of the published model, so the full-size one needs the same
time and memory. Its images are noise.
"""

from __future__ import annotations

from typing import Any

from amco_jax.extras import load_package
from sd_repair.pipeline import load_diffusers
from sd_repair.repair import SCHEDULE


def random_pipeline(tiny: bool = False, seed: int = 0, dtype: str = "float32") -> Any:
    """A diffusers pipeline with random weights.

    It has 860 M parameters in the UNet, 84 M in the VAE and 123 M in the text encoder or, with `tiny`, less
    than one million in total. The tokenizer knows only single letters.
    """
    torch, diffusers, transformers = load_package("torch"), load_diffusers(), load_package("transformers")
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = diffusers.UNet2DConditionModel(**_unet(tiny))
            vae = diffusers.AutoencoderKL(**_vae(tiny))
            tokenizer = letter_tokenizer()
            text = transformers.CLIPTextConfig(**_text(tiny, len(tokenizer)))
            text_encoder = transformers.CLIPTextModel(text)
    finally:
        torch.set_default_dtype(default)
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def letter_tokenizer() -> Any:
    """CLIP's tokenizer with a vocabulary of letters, digits and punctuation marks, for up to 77 tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.;:!?'-"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return load_package("transformers").CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def _unet(tiny: bool) -> dict[str, Any]:
    attention, plain = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
    return {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 8 if tiny else 64,
        "layers_per_block": 2,
        "block_out_channels": (16, 16, 32, 32) if tiny else (320, 640, 1280, 1280),
        "down_block_types": (*attention, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *plain),
        "attention_head_dim": 2 if tiny else 8,  # diffusers reads it as the number of heads
        "cross_attention_dim": 32 if tiny else 768,
        "norm_num_groups": 8 if tiny else 32,
    }


def _vae(tiny: bool) -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "sample_size": 64 if tiny else 512,
        "layers_per_block": 2,
        "block_out_channels": (8, 8, 16, 16) if tiny else (128, 256, 512, 512),
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "norm_num_groups": 4 if tiny else 32,
        "scaling_factor": 0.18215,
    }


def _text(tiny: bool, letters: int) -> dict[str, Any]:
    return {
        "vocab_size": letters if tiny else 49408,
        "hidden_size": 32 if tiny else 768,
        "intermediate_size": 64 if tiny else 3072,
        "num_hidden_layers": 2 if tiny else 12,
        "num_attention_heads": 4 if tiny else 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": letters - 2,
        "eos_token_id": letters - 1,
        "pad_token_id": letters - 1,
    }
