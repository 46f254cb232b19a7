"""What each adapter does its own way: predictions, embeddings, limits, decoding, refusals."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from erasekit.diffusion.sampling import generate, initial_noise
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConceptError, ModelError, UnknownNameError
from erasekit.models.families import FamilyAdapter, adapter_for, base
from erasekit.models.families.stable_diffusion import (
    StableDiffusion1,
    pack_pooled,
    unpack_pooled,
)
from erasekit.models.loading import LoadedModel, hash_weights, load_model, wrap_pipeline
from erasekit.models.unet_passes import TrainingRunner
from erasekit.plugin.descriptors import FamilyDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.registry import Registry
from erasekit.testing.tiny import build_tokenizer

Loaded = Callable[[str], LoadedModel]
LONG = "a photo of a garbage truck on the road " * 4


def test_each_family_is_recognised(family_model: LoadedModel, request: Any) -> None:
    family = request.node.callspec.params["family_model"]
    assert family_model.family.name == family_model.descriptor.family == family
    known = Registry().family(family)
    assert family_model.descriptor.guidance_scale == known.guidance_scale
    assert family_model.descriptor.defaults == known.defaults
    encoders = family_model.family.text_encoders()
    assert len(encoders) == (2 if family == "sdxl" else 1)
    assert family_model.hash == hash_weights([*encoders, family_model.unet])


def test_noise_is_had_from_v(loaded: Loaded) -> None:
    """v = sqrt(abar) eps - sqrt(1 - abar) z_0, so eps comes back from v and z_t."""
    model = loaded("sd2")
    assert model.family.prediction_type == "v_prediction"
    generator = torch.Generator().manual_seed(0)
    z0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator)
    t = torch.tensor([1, 500, 999])
    scheduler = diffusers.DDIMScheduler.from_config(model.pipeline.scheduler.config)
    zt, v = scheduler.add_noise(z0, eps, t), scheduler.get_velocity(z0, eps, t)
    assert torch.allclose(model.family.to_noise(v, zt, t), eps, atol=1e-5)
    assert torch.equal(loaded("sd1").family.to_noise(v, zt, t), v)


def test_predict_noise_converts_and_counts_each_row_once(loaded: Loaded) -> None:
    family = loaded("sd2").family
    latents = initial_noise(family, [0, 1]).requires_grad_(True)
    t, embeds = torch.tensor([100, 900]), family.embed_prompts(["church", "bus"])
    output = family.predict_output(latents, t, embeds)
    noise = family.predict_noise(latents, t, embeds)
    assert torch.allclose(noise, family.to_noise(output, latents, t))
    assert not torch.allclose(noise, output, atol=1e-2)
    noise.sum().backward()
    assert (family.passes.forward, family.passes.backward) == (4, 2)


def test_zero_terminal_snr_gives_finite_noise(loaded: Loaded) -> None:
    """Where abar_t is 0, z_t is noise alone, whatever the UNet says."""
    model = loaded("sd2")
    model.pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        model.pipeline.scheduler.config, rescale_betas_zero_snr=True
    )
    v, zt = torch.randn(2, 1, 4, 8, 8)
    assert torch.allclose(model.family.to_noise(v, zt, torch.tensor([999])), zt, atol=1e-4)


PROMPTS = {"": 0, "church": 1, "garbage truck": 2, "a photo of a bus": 5}
"""Each with the place of its last content token; of the empty prompt, of the begin of text."""


def test_the_last_content_token_stands_before_the_end_of_text(family_model: LoadedModel) -> None:
    family = family_model.family
    width = family_model.unet.config.cross_attention_dim
    tokens = family.token_embeds(list(PROMPTS))
    assert tokens.shape == (len(PROMPTS), family.max_tokens, width)
    found = family.last_token_embeds(list(PROMPTS))
    for i, (prompt, place) in enumerate(PROMPTS.items()):
        plain = family_model.pipeline.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        assert torch.equal(tokens[i], plain[0])
        assert torch.equal(found[i], plain[0, place])


def test_the_last_token_of_a_prompt_that_is_cut_is_the_last_one_left(loaded: Loaded) -> None:
    family = loaded("sd1").family
    family.truncate = True
    found = family.last_token_embeds([LONG])
    assert torch.equal(found, family.token_embeds([LONG])[:, family.max_tokens - 2])


def test_each_encoder_of_two_has_its_own_last_token(loaded: Loaded, tmp_path: Path) -> None:
    """With a tokenizer of its own that knows letters alone, "bus" ends one and three rows in."""
    model = loaded("sdxl")
    whole = build_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    model.pipeline.tokenizer_2 = type(whole)(
        str(tmp_path / "vocab.json"),
        str(tmp_path / "merges.txt"),
        model_max_length=whole.model_max_length,
    )
    tokens, found = model.family.token_embeds(["bus"]), model.family.last_token_embeds(["bus"])
    first = model.pipeline.text_encoder.config.hidden_size
    assert torch.equal(found[0, :first], tokens[0, 1, :first])
    assert torch.equal(found[0, first:], tokens[0, 3, first:])


@pytest.mark.parametrize(("size", "width"), [(24, 40), (40, 40), (41, 40), (100, 16)])
def test_pooled_vectors_are_packed_without_loss(size: int, width: int) -> None:
    tokens, pooled = torch.randn(3, 7, width), torch.randn(3, size)
    packed = pack_pooled(tokens, pooled)
    assert packed.shape == (3, 7 - (-size // width), width)
    back = unpack_pooled(packed, size)
    assert torch.equal(back[0], tokens)
    assert torch.equal(back[1], pooled)


def test_sdxl_embeddings_are_the_pipelines(loaded: Loaded) -> None:
    model = loaded("sdxl")
    with torch.no_grad():
        tokens, _, pooled, _ = model.pipeline.encode_prompt(
            "a red bus", device="cpu", do_classifier_free_guidance=False
        )
    packed = model.family.embed_prompts(["a red bus"])
    assert torch.allclose(packed, pack_pooled(tokens, pooled), atol=1e-6)
    assert not model.family.unconditional_embeds().any()
    model.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    assert torch.equal(model.family.unconditional_embeds(), model.family.embed_prompts([""]))


def test_sdxl_mixtures_and_gradients_carry_the_pooled_vector(loaded: Loaded) -> None:
    family = loaded("sdxl").family
    space = family.embed_prompts(["church", "bus", "apple"])
    one_hot = torch.tensor([[0.0, 1.0, 0.0]])
    mixed = torch.einsum("bk,kld->bld", one_hot, space)
    assert torch.equal(mixed, space[1:2])

    latents, t = initial_noise(family, [0]), torch.tensor([500])
    embeds = space[:1].clone().requires_grad_(True)
    family.predict_noise(latents, t, embeds).square().sum().backward()
    size = family.pipeline.text_encoder_2.config.projection_dim
    pooled_row = embeds.grad[0, -1]
    assert pooled_row[:size].abs().min() > 0
    assert not pooled_row[size:].any()
    moved = space[:1].clone()
    moved[:, -1, :size] = space[1, -1, :size]
    plain, other = (family.predict_noise(latents, t, e) for e in (space[:1], moved))
    assert not torch.allclose(plain, other, atol=1e-3)


def test_prompts_that_are_too_long_are_refused_or_cut_by_request(
    family_model: LoadedModel,
) -> None:
    family = family_model.family
    with pytest.raises(ConceptError, match=f"tokens long.* takes {family.max_tokens} "):
        family.embed_prompts([LONG])
    family.truncate = True
    settings: dict[str, Any] = {"num_inference_steps": 2}
    found = generate(family_model, [LONG], [0], guidance_scale=3.0, **settings)
    wanted = family_model.pipeline(
        LONG,
        generator=torch.Generator("cpu").manual_seed(0),
        guidance_scale=3.0,
        output_type="np",
        **settings,
    ).images
    assert np.abs(found.astype(int) - (wanted * 255).round()).max() <= 1


def test_truncation_is_asked_for_when_loading(family_folders: Any) -> None:
    model = load_model(str(family_folders["sdxl"]), Registry(), truncate=True)
    assert model.family.embed_prompts([LONG]).shape[0] == 1


def test_a_vae_that_overflows_in_fp16_decodes_in_float32(family_folders: Any) -> None:
    model = load_model(str(family_folders["sdxl"]), Registry(), dtype=torch.float16)
    vae = model.pipeline.vae
    vae.register_to_config(force_upcast=False)
    latents = initial_noise(model.family, [0, 1])
    assert latents.dtype == vae.dtype == torch.float16
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    seen = []
    vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    model.family.decode(latents)
    vae.register_to_config(force_upcast=True)
    images = model.family.decode(latents)
    assert seen == [torch.float16, torch.float32]
    assert images.dtype == np.uint8
    assert vae.dtype == torch.float16
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())


def test_the_vae_decodes_few_large_pictures_at_once(loaded: Loaded, monkeypatch: Any) -> None:
    model = loaded("sd1")
    latents = initial_noise(model.family, range(5))
    expected = model.family.decode(latents).astype(int)
    monkeypatch.setattr(base, "DECODED_AT_ONCE", 2 * 16 * 16)
    seen = []
    hook = model.pipeline.vae.decoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(len(inputs[0]))
    )
    found = model.family.decode(latents)
    hook.remove()
    assert seen == [2, 2, 1]
    assert np.abs(found - expected).max() <= 1


def test_what_is_no_number_is_no_picture(loaded: Loaded) -> None:
    model = loaded("sd1")
    latents = torch.full((1, 4, 8, 8), torch.nan)
    with pytest.raises(ModelError, match="no numbers"):
        model.family.decode(latents)


def test_fp16_and_fp32_draw_nearly_the_same(family_folders: Any) -> None:
    models = [
        load_model(str(family_folders["sd2"]), Registry(), dtype=dtype)
        for dtype in (torch.float32, torch.float16)
    ]
    full, half = (
        generate(m, ["a church"], [0], num_inference_steps=2, guidance_scale=3.0) for m in models
    )
    assert models[0].hash == models[1].hash
    assert np.abs(full.astype(int) - half).max() < 8


def _changed_unet(**config: Any) -> Callable[[Any], None]:
    return lambda pipeline: pipeline.unet.register_to_config(**config)


def _scheduler(name: str, **config: Any) -> Callable[[Any], None]:
    def change(pipeline: Any) -> None:
        pipeline.scheduler = getattr(diffusers, name)(**config)

    return change


def _without_text_encoder(pipeline: Any) -> None:
    pipeline.text_encoder = None


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("sd1", _changed_unet(in_channels=9), "takes 9 channels"),
        ("sd1", _changed_unet(time_cond_proj_dim=256), "LCM"),
        ("sd2", _scheduler("DDIMScheduler", prediction_type="sample"), "predicts 'sample'"),
        ("sdxl", _scheduler("EDMEulerScheduler"), "no noise schedule"),
        ("sdxl", _scheduler("FlowMatchEulerDiscreteScheduler"), "no noise schedule"),
        ("sdxl", _without_text_encoder, "refiner"),
    ],
)
def test_models_no_adapter_works_on_are_refused_with_the_reason(
    loaded: Loaded, family: str, change: Callable[[Any], None], reason: str
) -> None:
    pipeline = loaded(family).pipeline
    change(pipeline)
    with pytest.raises(ModelError, match=reason) as caught:
        wrap_pipeline(pipeline)
    assert f"not as {family}, for " in str(caught.value)
    assert "erasekit_register_families" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableDiffusion3Pipeline", "transformer"),
        ("FluxPipeline", "transformer"),
        ("StableDiffusionXLInpaintPipeline", "a picture beside the prompt"),
        ("WuerstchenPipeline", r"erasekit works on\. Known"),
    ],
)
def test_unknown_families_name_the_known_ones_and_the_hook(name: str, reason: str) -> None:
    pipeline = type(name, (), {})()
    with pytest.raises(ModelError, match=reason) as caught:
        adapter_for(pipeline, Registry())
    for part in (name, "sd1", "sd2", "sdxl", "erasekit_register_families"):
        assert part in str(caught.value)


class Mirrored(StableDiffusion1):
    """A family of a plugin: draws its pictures mirrored."""

    name = "mirrored"

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        return super().decode(latents)[:, :, ::-1]


class MirroredHooks:
    @hookimpl
    def erasekit_register_families(self) -> list[FamilyDescriptor]:
        target = f"{__name__}:Mirrored"
        return [FamilyDescriptor("mirrored", "mirrored", target, pipelines=("MirrorPipeline",))]


def test_a_plugin_adds_a_family(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.SimpleNamespace(Mirrored=Mirrored)
    monkeypatch.setitem(__import__("sys").modules, __name__, here)
    registry = Registry()
    registry.manager.register(MirroredHooks(), "acme")
    model = loaded("sd1")
    kind = type("MirrorPipeline", (type(model.pipeline),), {})
    pipeline = kind(**model.pipeline.components, requires_safety_checker=False)
    mirrored = wrap_pipeline(pipeline, registry=registry)
    assert isinstance(mirrored.family, FamilyAdapter)
    assert mirrored.descriptor.family == "mirrored"
    images = [
        generate(m, ["bus"], [0], num_inference_steps=2, guidance_scale=3.0)
        for m in (model, mirrored)
    ]
    assert np.array_equal(images[0][:, :, ::-1], images[1])
    with pytest.raises(UnknownNameError, match="family 'mirror'"):
        adapter_for(pipeline, registry, "mirror")


def test_pictures_are_encoded_as_the_vae_does(family_model: LoadedModel) -> None:
    family, vae = family_model.family, family_model.pipeline.vae
    _, height, width = family.latents_shape()
    side = height * family.pipeline.vae_scale_factor, width * family.pipeline.vae_scale_factor
    images = np.random.default_rng(0).integers(0, 256, (2, *side, 3), dtype=np.uint8)
    processed = family.pipeline.image_processor.preprocess(images.astype(np.float32) / 255)
    expected = vae.encode(processed).latent_dist.mean * vae.config.scaling_factor
    torch.testing.assert_close(family.encode(images), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parts", [1, 3])
def test_what_is_read_from_a_pass_has_its_gradient_and_is_counted(
    loaded: Loaded, parts: int
) -> None:
    """A loss on hidden states and a plane of each row, in one piece and in parts."""
    model = loaded("sd1")
    family, unet = model.family, model.unet
    scope = ParameterScope("re:mid_block.*to_q").select(unet)
    for parameter in scope.values():
        parameter.requires_grad_(True)
    (layer,) = (unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_q"),)
    latents, t = initial_noise(family, [0, 1, 2]), torch.tensor([10, 500, 900])
    embeds = family.embed_prompts(["church", "bus", "car"])
    planes = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))

    def read(unet_pass: Callable[[], torch.Tensor], own: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda m, a, output: seen.append(output))
        try:
            unet_pass()
        finally:
            handle.remove()
        return seen[0].square().mean(dim=(1, 2)) * own.sum(dim=(1, 2, 3))

    states: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda m, a, output: states.append(output))
    unet(latents, t, encoder_hidden_states=embeds)
    handle.remove()
    expected = states[0].square().mean(dim=(1, 2)) * planes.sum(dim=(1, 2, 3))
    family.runner = TrainingRunner(unet, scope, parts=parts)
    before = family.passes.snapshot()
    found = family.read_pass(read, latents, t, embeds, planes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    wanted = torch.autograd.grad(expected.mean(), list(scope.values()), allow_unused=True)
    found.mean().backward()
    assert any(gradient is not None for gradient in wanted)
    for parameter, gradient in zip(scope.values(), wanted, strict=True):
        if gradient is not None:
            small = 1e-3 * float(gradient.abs().max())
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=small)
    assert (family.passes - before).as_dict() == {"forward": 3, "backward": 3}


def test_textual_inversions_of_several_vectors_are_read_as_by_diffusers(
    family_model: LoadedModel,
) -> None:
    """A token of three vectors stands for itself, _1 and _2; one of one vector for itself."""
    pipeline, family = copy.deepcopy(family_model.pipeline), family_model.descriptor.family
    pairs = [(pipeline.tokenizer, pipeline.text_encoder)]
    if family == "sdxl":
        pairs.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    for tokenizer, encoder in pairs:
        width = encoder.config.hidden_size
        vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
        load = diffusers.loaders.TextualInversionLoaderMixin.load_textual_inversion
        load(pipeline, vectors, token="<three>", tokenizer=tokenizer, text_encoder=encoder)
        load(pipeline, vectors[:1], token="<one>", tokenizer=tokenizer, text_encoder=encoder)
    model = wrap_pipeline(pipeline)
    prompts = ["a photo of <three>", "<three> church <one>", "a church"]
    assert [model.family.token_count(p) for p in prompts] == [
        2 + len(pairs[0][0].tokenize("a photo of")) + 3,
        2 + 3 + len(pairs[0][0].tokenize("church")) + 1,
        family_model.family.token_count("a church"),
    ]
    for prompt in prompts:
        encode = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        plain = pipeline.encode_prompt(prompt, **encode)
        found = model.family.token_embeds([prompt])
        assert torch.allclose(found, plain[0], atol=1e-5)
