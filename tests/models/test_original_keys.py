"""Our names against diffusers' own converter, over every key of the full-size models."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

from erasekit.errors import EditError
from erasekit.models import original_keys as keys
from tests.exports.full_size import UNETS, full_text, full_unet, full_vae

KNOWN = {
    "sd1": {
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.11.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "out.2.weight": (4, 320, 3, 3),
    },
    "sd2": {
        "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "input_blocks.1.1.proj_in.weight": (320, 320),
    },
    "sdxl": {
        "input_blocks.3.0.op.bias": (320,),
        "input_blocks.8.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
        "label_emb.0.0.weight": (1280, 2816),
        "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.weight": (640, 640, 3, 3),
        "output_blocks.8.0.emb_layers.1.weight": (320, 1280),
    },
}
"""Names and shapes as the published checkpoints have them."""


@pytest.mark.parametrize("family", UNETS)
def test_every_unet_key_comes_back_as_the_very_same_tensor(family: str) -> None:
    unet = full_unet(family)
    ours = dict(unet.state_dict())
    original = keys.original_unet(ours, unet.config)
    assert len(original) == len(ours) == {"sd1": 686, "sd2": 686, "sdxl": 1680}[family]
    for name, shape in KNOWN[family].items():
        assert tuple(original[name].shape) == shape
    back = convert_ldm_unet_checkpoint(
        {keys.UNET + name: value for name, value in original.items()}, unet.config
    )
    assert back.keys() == ours.keys()
    assert all(back[name] is ours[name] for name in ours)


def test_every_vae_key_comes_back_as_a_view_of_the_very_same_tensor() -> None:
    vae = full_vae()
    ours = dict(vae.state_dict())
    original = keys.original_vae(ours, vae.config)
    assert len(original) == len(ours) == 248
    assert tuple(original["encoder.mid.attn_1.q.weight"].shape) == (512, 512, 1, 1)
    assert tuple(original["encoder.mid.attn_1.norm.weight"].shape) == (512,)
    assert tuple(original["encoder.down.2.block.0.nin_shortcut.weight"].shape) == (512, 256, 1, 1)
    assert tuple(original["decoder.up.0.block.0.nin_shortcut.weight"].shape) == (128, 256, 1, 1)
    assert tuple(original["decoder.up.3.upsample.conv.weight"].shape) == (512, 512, 3, 3)
    assert "decoder.up.0.upsample.conv.weight" not in original
    back = convert_ldm_vae_checkpoint(
        {keys.VAE + name: value for name, value in original.items()}, vae.config
    )
    assert back.keys() == ours.keys()
    for name, value in ours.items():
        assert back[name].shape == value.shape
        assert back[name] is value or back[name]._base is value


def test_every_clip_key_gets_the_prefix_of_the_original() -> None:
    ours = dict(full_text("clip-l").state_dict())
    original = keys.original_clip(ours)
    assert len(original) == 196
    assert "text_model.encoder.layers.11.self_attn.q_proj.weight" in original
    back = convert_ldm_clip_checkpoint({keys.CLIP + k: v for k, v in original.items()})
    stripped = {name.removeprefix("text_model."): value for name, value in back.items()}
    bare = {name.removeprefix("text_model."): value for name, value in ours.items()}
    assert stripped.keys() == bare.keys()
    assert all(stripped[name] is bare[name] for name in bare)


@pytest.mark.parametrize(("name", "count"), [("clip-h", 280), ("clip-g", 389)])
def test_every_open_clip_key_comes_back(name: str, count: int) -> None:
    model = full_text(name)
    ours = {k.removeprefix("text_model."): v for k, v in model.state_dict().items()}
    original = keys.original_open_clip(model.state_dict())
    assert len(original) == count
    width = model.config.hidden_size
    fused = original["transformer.resblocks.0.attn.in_proj_weight"]
    assert tuple(fused.shape) == (3 * width, width)
    prefix = keys.XL_OPEN_CLIP if name == "clip-g" else keys.OPEN_CLIP
    back = convert_open_clip_checkpoint(
        model, {prefix + k: v for k, v in original.items()}, prefix=prefix
    )
    found = {k.removeprefix("text_model."): tuple(v.shape) for k, v in back.items()}
    assert found == {k: tuple(v.shape) for k, v in ours.items()}


def test_an_open_clip_keeps_queries_keys_and_values_apart() -> None:
    parts = {
        f"encoder.layers.0.self_attn.{part}_proj.weight": torch.full((2, 2), float(i))
        for i, part in enumerate("qkv")
    }
    fused = keys.original_open_clip({**parts, "text_projection.weight": torch.ones(3, 2)})
    assert fused["transformer.resblocks.0.attn.in_proj_weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert tuple(fused["text_projection"].shape) == (2, 3)


def test_what_the_layout_has_no_place_for_is_refused() -> None:
    place = keys.unet_module(UNETS["sd1"])
    with pytest.raises(EditError, match=r"no place for the UNet's 'class_embedding.linear_1'"):
        place("class_embedding.linear_1")
    with pytest.raises(EditError, match="one number for all blocks"):
        keys.unet_module({**UNETS["sd1"], "layers_per_block": (1, 2, 2, 2)})
