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


def test_it_is_the_same_edit_again(edit: Edit, tmp_path: Path) -> None:
    result = export(edit, None, "delta", tmp_path, ExportOptions())
    again = load_edit(result.path)
    assert again.info == {"schema": 1, **edit.info}
    assert again.tensors.keys() == edit.tensors.keys()
    assert all(torch.equal(again.tensors[name], edit.tensors[name]) for name in edit.tensors)


def test_safetensors_alone_reads_tensors_and_provenance(edit: Edit, tmp_path: Path) -> None:
    result = export(edit, None, "delta", tmp_path / "mine.safetensors", ExportOptions())
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
        export(edit, None, "delta", tmp_path / "file" / "x.safetensors", ExportOptions())
