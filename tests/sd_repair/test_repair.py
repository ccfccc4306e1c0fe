"""Repair with Stable Diffusion 1.5: the real code on a tiny model with random weights."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.checkpoints import save_single_file
from helpers.refusals import refused

from amco_jax.errors import InputError
from amco_jax.extras import load_package
from sd_repair.classical import CLASSICAL, repair_classical
from sd_repair.images import astronaut, corrupt, to_square
from sd_repair.masks import MASKS, make_mask, pool
from sd_repair.pipeline import choose_variant, load_model, prepare
from sd_repair.quality import measure
from sd_repair.random_weights import random_pipeline
from sd_repair.repair import (
    SCHEDULE,
    Settings,
    denoising,
    encode_images,
    encode_prompts,
    repair,
    repair_images,
)

torch = load_package("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = Settings(prompt="a face", negative_prompt="blur", steps=4)
SIDE = 64


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline(tiny=True)


@pytest.fixture(scope="module")
def model(pipeline):
    return prepare(pipeline)


@pytest.fixture(scope="module")
def image():
    return to_square(astronaut(), SIDE)


@pytest.fixture(scope="module")
def mask():
    return make_mask("thick", SIDE)


def test_samples_differ_and_known_pixels_do_not(model, image, mask):
    repaired = repair(model, image, mask, [0, 1], QUICK)
    assert repaired.shape == (2, SIDE, SIDE, 3)
    assert repaired.dtype == np.uint8
    np.testing.assert_array_equal(repaired[:, ~mask], np.stack([image[~mask]] * 2))
    assert (repaired[0, mask] != repaired[1, mask]).any()
    assert (repaired[0, mask] != image[mask]).any()


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_sample_is_a_function_of_its_seed_alone(model, image, mask, eta):
    settings = Settings("a face", "blur", steps=3, eta=eta)
    single = np.concatenate([repair(model, image, mask, [seed], settings) for seed in (5, 6, 7)])
    for batch in (2, 3, 8):
        batched = repair(model, image, mask, [5, 6, 7], settings, batch=batch)
        # Matrix products of other shapes may round otherwise.
        assert np.abs(batched.astype(int) - single).max() <= 1
    np.testing.assert_array_equal(repair(model, image, mask, [6], settings)[0], single[1])


@pytest.mark.parametrize(("guidance", "eta"), [(9.0, 0.0), (1.0, 0.7)])
def test_different_images_of_a_batch_are_repaired_as_alone(model, image, guidance, eta, monkeypatch):
    settings, seeds = Settings("a face", "blur", 3, guidance, eta), [5, 6, 7]
    images = [image, image[::-1].copy(), image[:, ::-1].copy()]
    masks = [make_mask(name, SIDE, 1) for name in ("thick", "thin", "box")]
    tasks = zip(images, masks, seeds, strict=True)
    alone = np.concatenate([repair(model, image, mask, [seed], settings) for image, mask, seed in tasks])
    calls, forward = [], model.unet.forward

    def counted(latents, *others):
        calls.append(len(latents))
        return forward(latents, *others)

    monkeypatch.setattr(model.unet, "forward", counted)
    for batch, sizes in ((1, [1, 1, 1]), (2, [2, 1]), (8, [3])):
        calls.clear()
        found = repair_images(model, images, masks, seeds, settings, batch)
        assert np.abs(found.astype(int) - alone).max() <= (batch > 1)
        assert calls == [size * (1 + settings.guided) for size in sizes for _ in range(3)]
    refused(lambda: repair_images(model, images, [mask[:, :32] for mask in masks], seeds), "mask: ")


def test_the_truth_is_never_seen(model, image, mask):
    other = image.copy()
    other[mask] = 255 - other[mask]
    np.testing.assert_array_equal(
        repair(model, image, mask, [0], QUICK)[0, mask], repair(model, other, mask, [0], QUICK)[0, mask]
    )


@pytest.mark.parametrize(
    ("guidance", "eta", "strength", "steps"),
    [(9, 0, 1, 5), (1, 0, 1, 3), (7.5, 0, 0.5, 6), (3, 0.6, 1, 4), (9, 1, 0.8, 7)],
)
def test_latents_equal_those_of_the_stock_pipeline(pipeline, model, image, guidance, eta, strength, steps):
    from PIL import Image

    diffusers: Any = importlib.import_module("diffusers")
    mask = make_mask("thin", SIDE, 2)
    settings = Settings("a face", "blur", steps, guidance, eta, strength)
    corrupted = corrupt(image, mask)
    stock = diffusers.StableDiffusionInpaintPipeline(
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        unet=pipeline.unet,
        scheduler=diffusers.DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    stock.set_progress_bar_config(disable=True)
    # The stock pipeline draws from the encoder's distribution and keeps the nearest pixel of the mask. With
    # the mode and a mask that is constant on each latent, it is the same algorithm.
    stock._encode_vae_image = lambda image, generator: (
        pipeline.vae.encode(image).latent_dist.mode() * pipeline.vae.config.scaling_factor
    )
    blocks = np.kron(pool(mask, 8), np.ones((8, 8), np.uint8)) * 255
    theirs = stock(
        prompt=settings.prompt,
        negative_prompt=settings.negative_prompt,
        image=Image.fromarray(corrupted),
        mask_image=Image.fromarray(blocks),
        height=SIDE,
        width=SIDE,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=eta,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    with torch.inference_mode():
        known = encode_images(model, [corrupted])
        texts = encode_prompts(model, settings)
        *_, ours = denoising(model, known, [mask], texts, [torch.Generator().manual_seed(3)], settings)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_known_latents_end_as_encoded(model, image, mask):
    with torch.inference_mode():
        known = encode_images(model, [corrupt(image, mask)])
        texts = encode_prompts(model, QUICK)
        *_, latents = denoising(model, known, [mask], texts, [torch.Generator().manual_seed(0)], QUICK)
    outside = ~torch.from_numpy(pool(mask, 8))
    torch.testing.assert_close(latents[..., outside], known[..., outside])


def test_progress_counts_every_step(model, image, mask):
    seen = []
    repair(
        model, image, mask, [0, 1, 2], QUICK, batch=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(n, 8) for n in range(1, 9)]


def test_bfloat16_repairs_too(image, mask):
    model = prepare(random_pipeline(tiny=True, dtype="bfloat16"))
    assert model.dtype == torch.bfloat16
    repaired = repair(model, image, mask, [0], QUICK)
    np.testing.assert_array_equal(repaired[0, ~mask], image[~mask])


def test_full_size_has_the_published_numbers_of_parameters():
    with torch.device("meta"):
        model = prepare(random_pipeline(), "meta")
    assert model.parameters == {"text_encoder": 123_060_480, "vae": 83_653_863, "unet": 859_520_964}


def state(model):
    networks = (model.text_encoder, model.vae, model.unet)
    return [tensor for network in networks for _, tensor in sorted(network.state_dict().items())]


@pytest.mark.parametrize("kind", ["directory", "file", "file-config"])
def test_loads_what_was_saved(kind, pipeline, model, image, mask, tmp_path):
    directory = tmp_path / "tiny"
    pipeline.save_pretrained(directory)
    source, config = str(directory), None
    if kind != "directory":
        source = str(tmp_path / "tiny.safetensors")
        save_single_file(pipeline, tmp_path / "tiny.safetensors")
        for weights in directory.rglob("*.safetensors"):
            weights.unlink()
    if kind == "file-config":
        config = Path(shutil.move(directory, tmp_path / "elsewhere"))
    loaded = load_model(source, config, device="cpu")
    for ours, theirs in zip(state(loaded), state(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    np.testing.assert_array_equal(
        repair(loaded, image, mask, [0], QUICK), repair(model, image, mask, [0], QUICK)
    )


def test_weights_are_aligned_wherever_they_come_from(image, mask):
    pipeline = random_pipeline(tiny=True)
    expected = repair(prepare(pipeline), image, mask, [0], QUICK)
    for weights in pipeline.unet.parameters():
        shifted = torch.empty(weights.numel() + 1)[1:].reshape(weights.shape).copy_(weights.data)
        assert shifted.data_ptr() % 64
        weights.data = shifted
    model = prepare(pipeline)
    assert all(weights.data_ptr() % 64 == 0 for weights in state(model))
    np.testing.assert_array_equal(repair(model, image, mask, [0], QUICK), expected)


def test_weights_of_one_variant_are_found(pipeline, model, tmp_path):
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    for variant in (None, "fp16"):
        loaded = load_model(str(tmp_path / "half"), device="cpu", variant=variant)
        assert loaded.variant == "fp16"
        assert loaded.described == "variant fp16, float32 on cpu"
        for ours, theirs in zip(state(loaded), state(model), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_of_two_variants_the_wanted_one_is_loaded(pipeline, model, tmp_path):
    pipeline.save_pretrained(tmp_path / "both")
    random_pipeline(tiny=True, seed=1).save_pretrained(tmp_path / "both", variant="fp16")
    plain, half = (load_model(str(tmp_path / "both"), device="cpu", variant=name) for name in (None, "fp16"))
    assert plain.variant is None
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(plain), state(model), strict=True))
    assert not any(
        torch.equal(ours, theirs)
        for ours, theirs in zip(half.unet.parameters(), model.unet.parameters(), strict=True)
        if ours.std() > 0
    )


def test_variants_that_some_network_lacks_are_refused(tmp_path):
    names = {
        "unet": ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
        "vae": ["diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "diffusion_pytorch_model.ema.bin"],
        "text_encoder": ["model.fp16.safetensors", "pytorch_model.ema.bin", "model.safetensors"],
    }
    for network, files in names.items():
        (tmp_path / network).mkdir()
        for file in files:
            (tmp_path / network / file).touch()
    assert choose_variant(tmp_path) == "fp16"
    with pytest.raises(InputError, match=r"variant: 'ema', .*unet: fp16, plain; .*legal: --variant fp16"):
        choose_variant(tmp_path, "ema")
    (tmp_path / "unet" / "diffusion_pytorch_model.ema.bin").touch()
    with pytest.raises(InputError, match=r"variant: none given, .*legal: --variant ema, --variant fp16"):
        choose_variant(tmp_path)
    (tmp_path / "text_encoder" / "pytorch_model.ema.bin").unlink()
    (tmp_path / "text_encoder" / "model.fp16.safetensors").unlink()
    with pytest.raises(InputError, match="text_encoder: plain"):
        choose_variant(tmp_path)


def test_bad_sources_are_refused_in_one_line(pipeline, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.ckpt").touch()
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    pipeline.save_pretrained(tmp_path / "tiny")
    (tmp_path / "bare").mkdir()
    shutil.copy(tmp_path / "tiny" / "model_index.json", tmp_path / "bare")
    nine = random_pipeline(tiny=True)
    nine.unet.register_to_config(in_channels=9)
    for source, config, word in [
        (tmp_path / "empty", None, "model_index.json"),
        (tmp_path / "weights.ckpt", None, ".safetensors"),
        (tmp_path / "weights.safetensors", None, "config"),
        (tmp_path / "weights.safetensors", tmp_path / "tiny", "cannot be loaded"),
        (tmp_path / "bare", None, "unet: no weights"),
        (tmp_path / "nowhere", None, "there is no"),
        ("nowhere", None, "there is no"),
    ]:
        with pytest.raises(InputError, match=word) as caught:
            load_model(str(source), config, device="cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="variant: fp16, for a single file"):
        load_model(str(tmp_path / "weights.safetensors"), device="cpu", variant="fp16")
    with pytest.raises(InputError, match=r"config: .*, for a directory or hub id"):
        load_model(str(tmp_path / "tiny"), tmp_path / "tiny", device="cpu")
    with pytest.raises(InputError, match="9 channels"):
        prepare(nine)
    with pytest.raises(InputError, match="float16"):
        load_model(str(tmp_path / "tiny"), device="cpu", dtype="float16")
    with pytest.raises(InputError, match="device: 'abacus'"):
        load_model(str(tmp_path / "tiny"), device="abacus")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": 1000}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"eta": 1.5}, "eta"),
        ({"strength": 0.1, "steps": 5}, "strength"),
        ({"strength": 2}, "strength"),
        ({"steps": 49, "strength": 0.999 / 49}, "leaves none of 49 steps"),
    ],
)
def test_bad_settings_are_refused(settings, word):
    with pytest.raises(InputError, match=word):
        Settings(**settings)


def test_a_share_of_the_steps_is_not_rounded_down_by_a_rounding_error():
    for steps in range(1, 1000):
        for taken in range(1, steps + 1, 7):
            assert Settings(steps=steps, strength=taken / steps).steps_taken == taken
    assert [Settings(steps=n, strength=s).steps_taken for n, s in ((100, 0.29), (50, 0.58), (20, 0.99))] == [
        29, 29, 19,
    ]  # fmt: skip


def test_bad_calls_are_refused(model, image, mask):
    for arguments, word in [
        ((image, mask, []), "samples"),
        ((image, mask, [-1]), "seed"),
        ((image, ~np.zeros_like(mask), [0]), "mask"),
        ((image[:60], mask[:60], [0]), "multiples of 8"),
        ((np.full(image.shape, np.nan), mask, [0]), "not finite"),
    ]:
        with pytest.raises(InputError, match=word):
            repair(model, *arguments, settings=QUICK)  # pyright: ignore[reportCallIssue]
    with pytest.raises(InputError, match="prompt: 200 tokens; legal: at most 75"):
        repair(model, image, mask, [0], Settings(prompt="a" * 200, steps=1))


def test_numbers_that_overflow_are_named(image, mask):
    model = prepare(random_pipeline(tiny=True))
    model.vae.decoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(InputError, match="overflowed"):
        repair(model, image, mask, [0], QUICK)


@pytest.mark.parametrize("method", CLASSICAL)
@pytest.mark.parametrize("name", MASKS)
def test_classical_repairs_keep_known_pixels_and_beat_the_fill(method, name):
    image = to_square(astronaut(), 128)
    mask = make_mask(name, 128, 1)
    repaired = repair_classical(method, image, mask)
    np.testing.assert_array_equal(repaired[~mask], image[~mask])
    assert measure(image, repaired, mask).psnr > measure(image, corrupt(image, mask), mask).psnr


def test_quality_looks_at_the_hole_alone(image, mask):
    same = measure(image, image, mask)
    assert same.psnr == np.inf
    assert same.ssim == pytest.approx(1)
    off = image.copy()
    off[mask] ^= 1  # an error of one grey level
    assert measure(image, off, mask).psnr == pytest.approx(20 * np.log10(255))
    outside = image.copy()
    outside[~mask] ^= 1
    assert measure(image, outside, mask).psnr == np.inf
