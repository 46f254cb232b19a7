"""Pipelines in memory whose weights are not plain: refused with what to do, and then they work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0

from erasekit.errors import ModelError
from erasekit.models.loading import LoadedModel, wrap_pipeline


@pytest.fixture
def pipeline(tiny_model: LoadedModel) -> Any:
    return copy.deepcopy(tiny_model.pipeline)


def lora(pipeline: Any) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    pipeline.unet.add_adapter(config)
    for name, parameter in pipeline.unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)


def fused_lora(pipeline: Any) -> None:
    lora(pipeline)
    pipeline.unet.fuse_lora()


def without_lora(pipeline: Any) -> None:
    pipeline.unload_lora_weights()


def text_lora(pipeline: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), pipeline.text_encoder)


def compiled(pipeline: Any) -> None:
    pipeline.unet = torch.compile(pipeline.unet)


def compiled_in_part(pipeline: Any) -> None:
    pipeline.unet.mid_block = torch.compile(pipeline.unet.mid_block)


def plain_module(pipeline: Any) -> None:
    pipeline.unet = getattr(pipeline.unet, "_orig_mod", getattr(pipeline.unet, "module", None))


def plain_part(pipeline: Any) -> None:
    pipeline.unet.mid_block = pipeline.unet.mid_block._orig_mod


def parallel(pipeline: Any) -> None:
    pipeline.unet = torch.nn.DataParallel(pipeline.unet)


def hooked(pipeline: Any) -> None:
    """As enable_model_cpu_offload, which asks for a GPU, does it."""
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(pipeline.text_encoder, "cpu")


def sequential(pipeline: Any) -> None:
    """As enable_sequential_cpu_offload does it."""
    from accelerate import cpu_offload

    cpu_offload(pipeline.unet, "cpu")


def unhooked(pipeline: Any) -> None:
    pipeline.remove_all_hooks()


def layerwise(pipeline: Any) -> None:
    if not hasattr(pipeline.unet, "enable_layerwise_casting"):
        pytest.skip("this version of diffusers has no layerwise casting")
    pipeline.unet.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )


def processors(pipeline: Any) -> None:
    class Processor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_k_ip = torch.nn.Linear(2, 2)

    name = next(n for n in pipeline.unet.attn_processors if "attn2" in n)
    pipeline.unet.get_submodule(name.removesuffix(".processor")).processor = Processor()


@pytest.mark.parametrize(
    ("spoil", "mend", "says"),
    [
        (lora, without_lora, "unload_lora_weights"),
        (fused_lora, without_lora, "unload_lora_weights"),
        (text_lora, None, "text_encoder has a LoRA"),
        (lambda p: p.fuse_qkv_projections(), None, "without fuse_qkv_projections"),
        (compiled, plain_module, "_orig_mod"),
        (compiled_in_part, plain_part, "_orig_mod"),
        (parallel, plain_module, "wrapped in a DataParallel"),
        (hooked, unhooked, "remove_all_hooks"),
        (sequential, unhooked, "remove_all_hooks"),
        (layerwise, None, "layerwise casting|quantised"),
        (
            processors,
            lambda p: p.unet.set_attn_processor(AttnProcessor2_0()),
            "attention processors with weights",
        ),
        (lambda p: setattr(p, "vae", None), None, "it has no vae"),
        (lambda p: setattr(p, "text_encoder", None), None, "it has no text_encoder"),
        (lambda p: setattr(p, "tokenizer", None), None, "it has no tokenizer"),
        (lambda p: p.register_modules(scheduler=None), None, "it has no scheduler"),
        (lambda p: setattr(p, "unet", None), None, "it has no unet"),
    ],
)
def test_what_is_not_plain_is_refused_with_what_to_do(
    pipeline: Any, spoil: Callable[[Any], None], mend: Callable[[Any], None] | None, says: str
) -> None:
    names = [name for name, _ in pipeline.unet.named_parameters()]
    spoil(pipeline)
    with pytest.raises(ModelError, match=says):
        wrap_pipeline(pipeline)
    if mend is not None:
        mend(pipeline)
        model = wrap_pipeline(pipeline)
        assert [name for name, _ in model.unet.named_parameters()] == names


def test_zero_terminal_snr_with_noise_prediction_says_so(pipeline: Any) -> None:
    config = {**pipeline.scheduler.config, "rescale_betas_zero_snr": True}
    scheduler = type(pipeline.scheduler).from_config(config)
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.scheduler = scheduler
    with pytest.raises(ModelError, match=r"zero terminal SNR.*prediction_type='v_prediction'"):
        wrap_pipeline(pipeline)
    pipeline.scheduler = type(scheduler).from_config({**config, "prediction_type": "v_prediction"})
    assert wrap_pipeline(pipeline).family.prediction_type == "v_prediction"
