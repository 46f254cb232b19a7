"""LoRA files: read by diffusers and by a reader of kohya's naming rule, within the stated error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import load_file

from erasekit.edits import Edit
from erasekit.errors import EditError
from erasekit.exports.formats import ExportOptions, ExportResult, Layout, Precision, export
from erasekit.exports.lora import factorise, outputs
from erasekit.models.loading import LoadedModel, load_model
from erasekit.models.original_keys import unet_module
from tests.exports.conftest import draw, perturbed
from tests.exports.full_size import full_unet
from tests.tiny import build_folder

READS_ENDS = Version(diffusers.__version__) >= Version("0.42")
"""Older versions know no kohya names for the UNet's ends, such as its time embedding."""


def written(edit: Edit, model: LoadedModel, path: Path, **options: Any) -> ExportResult:
    return export(edit, model, "lora", path, ExportOptions(**{"images": 0, **options}))


def weights_only(name: str) -> bool:
    """Linear and convolution weights: what a LoRA carries."""
    return name.endswith("weight") and "norm" not in name


def in_blocks(name: str) -> bool:
    """Such weights within the UNet's blocks."""
    return weights_only(name) and "_block" in name


def kohya_names(unet: torch.nn.Module, family: str) -> dict[str, str]:
    """By kohya's rule, "lora_unet_" and the module's path with underscores, of its own UNet."""
    place = unet_module(unet.config) if family == "sdxl" else lambda name: name
    return {
        "lora_unet_" + place(name).replace(".", "_"): name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    }


def merge_kohya(path: Path, model: LoadedModel) -> None:
    """Add alpha / rank * up @ down to the weights: all that a reader of kohya's files does."""
    tensors, modules = load_file(path), kohya_names(model.unet, model.family.name)
    seen = set()
    for key in list(tensors):
        if not key.endswith(".lora_down.weight"):
            continue
        stem = key.removesuffix(".lora_down.weight")
        down, up = tensors[key].float(), tensors[f"{stem}.lora_up.weight"].float()
        scale = float(tensors[f"{stem}.alpha"]) / down.shape[0]
        weight = model.unet.get_submodule(modules[stem]).weight
        with torch.no_grad():
            weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        seen |= {key, f"{stem}.lora_up.weight", f"{stem}.alpha"}
    assert seen == set(tensors)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_draws_what_the_edit_draws_from_every_module(
    family: str, layout: Layout, registry, tmp_path: Path
) -> None:
    model = load_model(str(build_folder(tmp_path, family=family)), registry)
    only = weights_only if layout is Layout.DIFFUSERS or READS_ENDS else in_blocks
    edit = perturbed(model, "full", scale=0.3, only=only)
    base = draw(model.pipeline)
    with edit.applied(model):
        wanted = draw(model.pipeline)
    assert np.abs(wanted - base).max() > 0.02
    result = written(edit, model, tmp_path / "out", energy=1.0, layout=layout)
    assert result.report["modules"] == len(edit.tensors)
    assert result.report["weights_error"] < 1e-5
    model.pipeline.load_lora_weights(result.path.parent, weight_name=result.path.name)
    found = draw(model.pipeline)
    assert np.abs(found - wanted).max() < 2e-4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_reader_of_kohyas_rule_gets_the_edits_weights(
    family: str, registry, tmp_path: Path
) -> None:
    model = load_model(str(build_folder(tmp_path, family=family)), registry)
    edit = perturbed(model, "full", rank=3, only=weights_only)
    result = written(edit, model, tmp_path / "out.safetensors", energy=1.0, layout=Layout.KOHYA)
    merge_kohya(result.path, model)
    found = dict(model.unet.named_parameters())
    for name, value in edit.tensors.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    with safe_open(result.path, framework="pt") as file:
        metadata = file.metadata()
        sizes = {file.get_tensor(k).shape[0] for k in file.keys() if "lora_down" in k}  # noqa: SIM118
    assert metadata["ss_network_module"] == "networks.lora"
    version = {"sd1": "sd_v1", "sdxl": "sdxl_base_v1-0"}[family]
    assert metadata["ss_base_model_version"] == version
    assert max(sizes) <= 3 or family == "sdxl"
    assert metadata["ss_network_dim"] == str(max(sizes))


def test_kohya_names_of_the_full_models_are_those_that_readers_know() -> None:
    sd1 = kohya_names(full_unet("sd1"), "sd1")
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k" in sd1
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0" in sd1
    sdxl = kohya_names(full_unet("sdxl"), "sdxl")
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k" in sdxl
    assert "lora_unet_output_blocks_3_1_transformer_blocks_1_ff_net_0_proj" in sdxl
    assert "lora_unet_input_blocks_1_0_in_layers_2" in sdxl
    for names in (sd1, sdxl):
        modules = list(names.values())
        assert len(set(modules)) == len(modules)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([(), (3, 3)]),
    st.floats(0.05, 1),
    st.integers(0, 10_000),
)
def test_the_rank_is_the_least_that_keeps_the_energy(
    rows: int, columns: int, kernel: tuple[int, ...], energy: float, seed: int
) -> None:
    change = torch.randn(rows, columns, *kernel, generator=torch.Generator().manual_seed(seed))
    options = ExportOptions(energy=energy, layout=Layout.KOHYA)
    factor = factorise({"m": change}, options)["m"]
    gap = (change - factor.product()).norm() / change.norm()
    assert gap <= math.sqrt(1 - energy) + 1e-3
    values = torch.linalg.svdvals(change.flatten(1).double()) ** 2
    if factor.rank > 1:
        assert values[: factor.rank - 1].sum() / values.sum() < energy
    wanted = math.sqrt(float(values[factor.rank :].sum() / values.sum()))
    assert float(gap) == pytest.approx(wanted, abs=1e-4)


def test_one_rank_for_all_in_diffusers_layout_and_zeros_where_there_are_fewer() -> None:
    generator = torch.Generator().manual_seed(0)
    changes = {
        "wide": torch.randn(8, 8, generator=generator),
        "thin": torch.randn(2, 8, generator=generator),
    }
    kohya = factorise(changes, ExportOptions(energy=1.0, layout=Layout.KOHYA))
    assert {name: factor.rank for name, factor in kohya.items()} == {"wide": 8, "thin": 2}
    peft = factorise(changes, ExportOptions(energy=1.0))
    assert {factor.rank for factor in peft.values()} == {8}
    for name, change in changes.items():
        assert torch.allclose(peft[name].product(), change, atol=1e-5)
    fixed = factorise(changes, ExportOptions(rank=1, layout=Layout.KOHYA))
    assert {factor.rank for factor in fixed.values()} == {1}


@pytest.mark.parametrize("layout", Layout)
def test_the_stated_error_is_what_a_reader_sees(
    layout: Layout, tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    options = {"energy": 0.8, "layout": layout, "allow_loss": True, "images": 2}
    result = written(edit, tiny_model, tmp_path, **options)
    report = result.report
    assert 0.8 <= report["energy_kept"] < 1
    assert report["weights_error"] == pytest.approx(math.sqrt(1 - report["energy_kept"]))
    prompts = ["church", ""]
    base = outputs(tiny_model, prompts, 0)
    with edit.applied(tiny_model):
        wanted = outputs(tiny_model, prompts, 2)
    tiny_model.pipeline.load_lora_weights(tmp_path, weight_name=result.path.name)
    found = outputs(tiny_model, prompts, 2)
    gap = (found.noise_pred - wanted.noise_pred).abs()
    error = report["error"]
    assert float(gap.max()) == pytest.approx(error["noise_max"], rel=0.01)
    assert float(gap.mean()) == pytest.approx(error["noise_mean"], rel=0.01)
    relative = gap.norm() / (wanted.noise_pred - base.noise_pred).norm()
    assert float(relative) == pytest.approx(error["noise_relative"], rel=0.01)
    pixels = np.abs(found.images.astype(int) - wanted.images.astype(int))
    assert abs(int(pixels.max()) - error["pixel_max"]) <= 1
    assert pixels.mean() == pytest.approx(error["pixel_mean"], abs=0.01)


def test_energy_buys_fidelity(tiny_model: LoadedModel, edit: Edit, tmp_path: Path) -> None:
    errors = [
        written(edit, tiny_model, tmp_path, energy=energy, allow_loss=True).report
        for energy in (0.5, 0.9, 0.999)
    ]
    ranks = [report["rank_max"] for report in errors]
    noise = [report["error"]["noise_relative"] for report in errors]
    assert ranks[0] < ranks[1] < ranks[2]
    assert noise[0] > noise[1] > noise[2]


def test_half_precision_is_in_the_stated_error(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    full = written(edit, tiny_model, tmp_path / "a", energy=1.0, allow_loss=True)
    half = written(
        edit, tiny_model, tmp_path / "b", energy=1.0, allow_loss=True, dtype=Precision.FP16
    )
    assert {value.dtype for value in load_file(half.path).values()} == {torch.float16}
    assert full.report["weights_error"] < 1e-6 < 1e-4 < half.report["weights_error"] < 1e-3
    assert half.path.stat().st_size < 0.6 * full.path.stat().st_size


def test_biases_and_norms_are_refused_where_they_matter(
    tiny_model: LoadedModel, tmp_path: Path
) -> None:
    edit = perturbed(tiny_model, "noxattn")
    with pytest.raises(EditError, match=r"\d+ of them \(such as '.+'\) make \d+ % of this edit"):
        written(edit, tiny_model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = written(edit, tiny_model, tmp_path / "out", allow_loss=True)
    assert result.report["left_out"]["share_of_effect"] > 0.1
    assert result.report["error"]["noise_relative"] > 0.1
    assert "biases and norms" in result.notes[-1]


def test_what_does_not_matter_is_left_out_and_said(tiny_model: LoadedModel, tmp_path: Path) -> None:
    edit = perturbed(tiny_model, "xattn", only=weights_only)
    (bias, *_) = (
        name for name, _ in tiny_model.unet.named_parameters() if name.endswith("to_out.0.bias")
    )
    small = tiny_model.unet.get_parameter(bias).detach() + 1e-4
    slightly = Edit({**edit.tensors, bias: small}, edit.info)
    result = written(slightly, tiny_model, tmp_path)
    assert result.report["left_out"]["tensors"] == 1
    assert 0 < result.report["left_out"]["share_of_effect"] < 0.01


def test_tensors_that_did_not_change_are_no_modules(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    name = next(name for name in edit.tensors if weights_only(name))
    one = Edit({n: p.detach().clone() for n, p in tiny_model.unet.named_parameters()}, edit.info)
    one.tensors[name] = edit.tensors[name]
    assert written(one, tiny_model, tmp_path).report["modules"] == 1
    nothing = Edit({}, edit.info)
    with pytest.raises(EditError, match="changes no weight that a LoRA could carry"):
        written(nothing, tiny_model, tmp_path / "none")


def test_the_model_is_left_as_it_was(tiny_model: LoadedModel, edit: Edit, tmp_path: Path) -> None:
    before = draw(tiny_model.pipeline)
    written(edit, tiny_model, tmp_path, allow_loss=True, images=1)
    assert np.array_equal(draw(tiny_model.pipeline), before)
