"""A folder that diffusers alone loads, and that draws what the edit draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from erasekit.edits import Edit
from erasekit.errors import ConfigError, EditError
from erasekit.exports.formats import ExportOptions, Precision, export
from erasekit.models.loading import LoadedModel, load_model
from tests.exports.conftest import draw, draw_elsewhere
from tests.images import assert_drawn_alike
from tests.tiny import build_folder


def test_another_process_draws_the_same_images(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    base = draw(tiny_model.pipeline)
    with edit.applied(tiny_model):
        wanted = draw(tiny_model.pipeline)
    assert np.abs(wanted - base).max() > 0.05
    result = export(edit, tiny_model, "diffusers", tmp_path / "model", ExportOptions())
    found = draw_elsewhere(tmp_path, f"cls.from_pretrained({str(result.path)!r})")
    assert_drawn_alike(found, wanted)
    assert np.array_equal(draw(tiny_model.pipeline), base)
    assert result.load_with == f'StableDiffusionPipeline.from_pretrained("{tmp_path / "model"}")'


def test_fp16_folders_hold_the_edit_rounded_and_leave_the_model_alone(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    before = {name: p.clone() for name, p in tiny_model.unet.state_dict().items()}
    options = ExportOptions(dtype=Precision.FP16)
    result = export(edit, tiny_model, "diffusers", tmp_path / "model", options)
    assert len(result.files) == 3
    for path in result.files:
        for name, value in load_file(path).items():
            assert value.dtype == torch.float16 or "position_ids" in name
    after = tiny_model.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["conv_in.weight"].dtype == torch.float32

    read = StableDiffusionPipeline.from_pretrained(result.path, torch_dtype=torch.float16)
    tiny_model.pipeline.to(torch.float16)
    with edit.applied(tiny_model):
        wanted = draw(tiny_model.pipeline)
    assert_drawn_alike(draw(read), wanted, atol=5e-3)


def test_large_models_are_sharded_and_an_earlier_export_leaves_nothing_behind(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    sharded = ExportOptions(max_shard_size="50KB")
    result = export(edit, tiny_model, "diffusers", tmp_path / "model", sharded)
    shards = list((result.path / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    assert (result.path / "unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    with edit.applied(tiny_model):
        wanted = draw(tiny_model.pipeline)
    assert_drawn_alike(draw(StableDiffusionPipeline.from_pretrained(result.path)), wanted)

    nothing = Edit({}, edit.info)
    export(nothing, tiny_model, "diffusers", tmp_path / "model", ExportOptions())
    assert [p.name for p in (result.path / "unet").glob("*.safetensors*")] == [
        "diffusion_pytorch_model.safetensors"
    ]
    base = draw(tiny_model.pipeline)
    assert_drawn_alike(draw(StableDiffusionPipeline.from_pretrained(result.path)), base)


@pytest.mark.parametrize("size", ["much", "12", "2GiB", "-1GB"])
def test_a_shard_size_that_is_none_is_refused(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path, size: str
) -> None:
    options = ExportOptions(max_shard_size=size)
    with pytest.raises(ConfigError, match="500MB"):
        export(edit, tiny_model, "diffusers", tmp_path / "model", options)
    assert not (tmp_path / "model").exists()


def test_another_model_is_refused_unless_forced(edit: Edit, registry, tmp_path: Path) -> None:
    other = load_model(str(build_folder(tmp_path / "other", seed=1)), registry)
    with pytest.raises(EditError, match=f"{edit.base_hash[:16]}.*{other.hash[:16]}"):
        export(edit, other, "diffusers", tmp_path / "model", ExportOptions())
    export(edit, other, "diffusers", tmp_path / "model", ExportOptions(force=True))
    read = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    name = next(iter(edit.tensors))
    assert torch.equal(read.unet.state_dict()[name], edit.tensors[name])
