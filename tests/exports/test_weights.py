"""One file with the changed tensors, read back as the edit it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from erasekit import load_edit
from erasekit.edits import Edit
from erasekit.errors import EditError, OutputError
from erasekit.exports.formats import ExportOptions, export
from erasekit.exports.weights import import_weights
from erasekit.models.loading import LoadedModel
from erasekit.models.original_keys import original_unet


def test_it_is_the_same_edit_again(edit: Edit, tmp_path: Path) -> None:
    result = export(edit, None, "weights", tmp_path, ExportOptions())
    again = load_edit(result.path)
    assert again.info == {"schema": 1, **edit.info}
    assert again.tensors.keys() == edit.tensors.keys()
    assert all(torch.equal(again.tensors[name], edit.tensors[name]) for name in edit.tensors)


def test_safetensors_alone_reads_tensors_and_provenance(edit: Edit, tmp_path: Path) -> None:
    result = export(edit, None, "weights", tmp_path / "mine.safetensors", ExportOptions())
    with safe_open(result.path, framework="pt") as file:
        assert set(file.keys()) == set(edit.tensors)
        metadata = file.metadata()
    assert metadata["base_hash"] == edit.base_hash
    assert json.loads(metadata["edit"])["concepts"] == ["church"]


def test_the_weights_of_a_run_folder_lead_to_its_edit(edit: Edit, tmp_path: Path) -> None:
    edit.save(tmp_path)
    assert load_edit(tmp_path / "edit.safetensors").info["method"] == "none"


def test_files_that_are_no_edit_are_refused(edit: Edit, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(edit.tensors, path)
    with pytest.raises(EditError, match="does not say how it was made"):
        load_edit(path)
    save_file(edit.tensors, path, {"edit": "{"})
    with pytest.raises(EditError, match="is damaged"):
        load_edit(path)
    save_file(edit.tensors, path, {"edit": "[]"})
    with pytest.raises(EditError, match="does not describe an edit"):
        load_edit(path)
    newer = {"schema": 99, **edit.info}
    save_file(edit.tensors, path, {"edit": json.dumps(newer)})
    with pytest.raises(EditError, match="has schema 99"):
        load_edit(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(EditError, match="damaged"):
        load_edit(path)


def test_a_place_that_cannot_be_written_is_one_sentence(edit: Edit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        export(edit, None, "weights", tmp_path / "file" / "x.safetensors", ExportOptions())


# -- weights that others publish -------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "unet.", "module.", "model.diffusion_model."])
@pytest.mark.parametrize("names", ["diffusers", "original"])
@pytest.mark.parametrize("whole", [False, True], ids=["partial", "state dict"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_published_weights_are_the_edit_they_were_written_from(
    edit: Edit, tiny_model: LoadedModel, tmp_path: Path, prefix, names, whole, dtype
) -> None:
    state = {**tiny_model.unet.state_dict(), **edit.tensors} if whole else dict(edit.tensors)
    if names == "original":
        state = original_unet(state, tiny_model.pipeline.unet.config)
    path = tmp_path / "esd-church.safetensors"
    save_file({prefix + k: v.to(dtype).contiguous().clone() for k, v in state.items()}, path)
    found = import_weights(path, tiny_model, ["church"], method="esd-x")
    assert set(found.tensors) == set(edit.tensors)
    for name, value in edit.tensors.items():
        assert torch.equal(found.tensors[name], value.to(dtype).float())
    found.save(tmp_path / "run")
    again = load_edit(tmp_path / "run")
    assert (again.info["method"], again.info["concepts"]) == ("esd-x", ["church"])
    assert again.base_hash == tiny_model.hash
    with again.applied(tiny_model):
        pass


def test_other_files_are_refused_with_the_reason(
    edit: Edit, tiny_model: LoadedModel, tmp_path: Path
) -> None:
    def said(tensors: dict[str, torch.Tensor], concepts: tuple[str, ...] = ("church",)) -> str:
        path = tmp_path / "file.safetensors"
        save_file(tensors, path)
        with pytest.raises(EditError) as caught:
            import_weights(path, tiny_model, concepts)
        return str(caught.value)

    name = next(iter(edit.tensors))
    value = edit.tensors[name]
    assert "is a LoRA" in said({"unet.mid.lora_A.weight": value})
    assert "is a whole model" in said({"first_stage_model.decoder.conv_in.weight": value})
    assert "text encoder" in said({name: value, "text_model.encoder.weight": value.clone()})
    assert "is of another model than" in said({"mid_block.none.weight": value})
    assert "has shape" in said({name: torch.zeros(3, 2)})
    assert "no numbers" in said({name: torch.full_like(value, torch.nan)})
    own = dict(tiny_model.unet.named_parameters())[name].detach().clone()
    assert "changes nothing of" in said({name: own})
    (tmp_path / "esd.pt").write_bytes(b"")
    with pytest.raises(EditError, match=r"is pickled.*esd\.safetensors"):
        import_weights(tmp_path / "esd.pt", tiny_model, ["church"])
    with pytest.raises(EditError, match="There is no"):
        import_weights(tmp_path / "none.safetensors", tiny_model, ["church"])
