"""The original layout, read by diffusers' `from_single_file` with a local configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from erasekit.edits import Edit
from erasekit.errors import EditError
from erasekit.exports.formats import ExportOptions, Precision, export
from erasekit.models.loading import LoadedModel, load_model
from erasekit.models.original_keys import original_state
from tests.exports.conftest import draw, draw_elsewhere, perturbed
from tests.images import assert_drawn_alike
from tests.tiny import build_folder


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_draws_the_same_images_from_it(family: str, registry, tmp_path: Path) -> None:
    folder = build_folder(tmp_path, family=family)
    model = load_model(str(folder), registry)
    edit = perturbed(model, "full", scale=0.2)
    with edit.applied(model):
        wanted = draw(model.pipeline)
    result = export(edit, model, "single-file", tmp_path / "out", ExportOptions())
    assert result.path == tmp_path / "out" / "model.safetensors"
    kind = type(model.pipeline)
    without = {} if family == "sdxl" else {"safety_checker": None}
    read = kind.from_single_file(result.path, config=str(folder), local_files_only=True, **without)
    with edit.applied(model):
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if not hasattr(model.pipeline, name):
                continue
            ours = getattr(model.pipeline, name).state_dict()
            theirs = getattr(read, name).state_dict()
            assert theirs.keys() == ours.keys()
            assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    assert_drawn_alike(draw(read), wanted)
    assert bool(result.notes) == (family == "sd2")
    assert f'"{result.path}", config="{folder}")' in result.load_with


def test_another_process_reads_it(
    tiny_model: LoadedModel, edit: Edit, tiny_folder: Path, tmp_path: Path
) -> None:
    with edit.applied(tiny_model):
        wanted = draw(tiny_model.pipeline)
    result = export(edit, tiny_model, "single-file", tmp_path, ExportOptions())
    load = (
        f"cls.from_single_file({str(result.path)!r}, config={str(tiny_folder)!r}, "
        "local_files_only=True, safety_checker=None)"
    )
    assert_drawn_alike(draw_elsewhere(tmp_path, load), wanted)


def test_fp16_and_provenance(tiny_model: LoadedModel, edit: Edit, tmp_path: Path) -> None:
    options = ExportOptions(dtype=Precision.FP16)
    result = export(edit, tiny_model, "single-file", tmp_path, options)
    with safe_open(result.path, framework="pt") as file:
        names = list(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.float16}
        metadata = file.metadata()
    assert metadata["erasekit.base_hash"] == edit.base_hash
    assert {name.split(".")[0] for name in names} == {
        "model",
        "first_stage_model",
        "cond_stage_model",
    }
    assert tiny_model.family.dtype == torch.float32


def test_another_model_or_family_is_refused(
    tiny_model: LoadedModel, edit: Edit, tmp_path: Path
) -> None:
    other = Edit(edit.tensors, {**edit.info, "base_model": {"id": "x", "hash": "0" * 64}})
    with pytest.raises(EditError, match="0000000000000000"):
        export(other, tiny_model, "single-file", tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()
    with pytest.raises(EditError, match="family 'flux'"):
        original_state(tiny_model.pipeline, "flux")
