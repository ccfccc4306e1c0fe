"""Conversion of a diffusers pipeline to the single-file layout of the Stable Diffusion 1.5 weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from amco_jax.extras import load_package

UNET = [
    (r"^time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"^conv_in", lambda m: "input_blocks.0.0"),
    (r"^conv_norm_out", lambda m: "out.0"),
    (r"^conv_out", lambda m: "out.2"),
    (r"^down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.0"),
    (r"^down_blocks\.(\d)\.attentions\.(\d)", lambda m: f"input_blocks.{3 * int(m[1]) + int(m[2]) + 1}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op"),
    (r"^up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0"),
    (r"^up_blocks\.(\d)\.attentions\.(\d)", lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1"),
    (
        r"^up_blocks\.(\d)\.upsamplers\.0",
        lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{2 if int(m[1]) else 1}",
    ),
    (r"^mid_block\.attentions\.0", lambda m: "middle_block.1"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"\.norm1\.", lambda m: ".in_layers.0."),
    (r"\.conv1\.", lambda m: ".in_layers.2."),
    (r"\.norm2\.", lambda m: ".out_layers.0."),
    (r"\.conv2\.", lambda m: ".out_layers.3."),
    (r"\.time_emb_proj\.", lambda m: ".emb_layers.1."),
    (r"\.conv_shortcut\.", lambda m: ".skip_connection."),
]
VAE = [
    (r"down_blocks\.(\d)\.resnets\.(\d)", lambda m: f"down.{m[1]}.block.{m[2]}"),
    (r"down_blocks\.(\d)\.downsamplers\.0", lambda m: f"down.{m[1]}.downsample"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", lambda m: "mid.attn_1"),
    (r"conv_norm_out", lambda m: "norm_out"),
    (r"conv_shortcut", lambda m: "nin_shortcut"),
    (r"\.group_norm\.", lambda m: ".norm."),
    (r"\.to_([qkv])\.", lambda m: f".{m[1]}."),
    (r"\.to_out\.0\.", lambda m: ".proj_out."),
]


def save_single_file(pipeline: Any, path: Path) -> None:
    """Write all weights of a pipeline into one .safetensors file, under their published names."""
    tensors = {}
    for name, tensor in pipeline.unet.state_dict().items():
        rules = [rule for rule in UNET if "transformer_blocks" not in name or not rule[0].startswith(r"\.")]
        tensors["model.diffusion_model." + _rename(name, rules)] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        renamed = _rename(name, VAE)
        is_projection = ".attn_1." in renamed and tensor.ndim == 2
        tensors["first_stage_model." + renamed] = tensor[..., None, None] if is_projection else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        renamed = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors["cond_stage_model.transformer." + renamed] = tensor
    load_package("safetensors.torch").save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, path
    )


def _rename(name: str, rules: list[tuple[str, Any]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
