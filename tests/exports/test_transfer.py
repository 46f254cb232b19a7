"""An edit on a fine-tune of the model it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from erasekit.edits import Edit
from erasekit.errors import EditError
from erasekit.exports import transfer
from erasekit.models.loading import LoadedModel, load_model
from tests.cli.conftest import run
from tests.exports.conftest import draw
from tests.images import assert_drawn_alike
from tests.tiny import build_folder

__all__ = ["run"]

Run = Callable[..., Any]


@pytest.fixture
def fine_tune(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with every UNet weight moved a little."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    pipeline.save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.fixture
def run_folder(edit: Edit, tmp_path: Path) -> Path:
    edit.save(tmp_path / "run")
    return tmp_path / "run"


def test_another_model_is_refused_naming_both_hashes_until_asked(
    run: Run, run_folder: Path, fine_tune: Path, edit: Edit, registry, tmp_path: Path
) -> None:
    other = load_model(str(fine_tune), registry)
    refused = run("apply", run_folder, "-m", fine_tune, "-o", tmp_path / "out")
    assert refused.code == 2
    for part in (edit.base_hash[:16], other.hash[:16], "--force"):
        assert part in refused.sentence
    assert not (tmp_path / "out").exists()

    done = run("apply", run_folder, "-m", fine_tune, "-o", tmp_path / "out", "--force")
    assert done.code == 0
    notes = done.err.strip().splitlines()
    assert len(notes) == 2
    for part in (edit.base_hash[:16], other.hash[:16], "what it had learnt there is lost"):
        assert part in notes[0]
    for part in ("Not known", "church", str(fine_tune), "measure them again"):
        assert part in notes[1]

    read = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    parameters = dict(read.unet.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in edit.tensors.items())
    untouched = next(name for name in parameters if name not in edit.tensors)
    assert torch.equal(parameters[untouched], other.unet.get_parameter(untouched))
    with edit.applied(other, force=True):
        assert_drawn_alike(draw(read), draw(other.pipeline))
    facts = json.loads((tmp_path / "out" / "erasekit.json").read_text(encoding="utf-8"))
    assert facts["applied_to"] == {"id": str(fine_tune), "hash": other.hash}
    assert facts["edit"]["base_model"]["hash"] == edit.base_hash
    assert (facts["how"], facts["same_model"]) == ("values", False)


def test_the_difference_keeps_what_the_fine_tune_learnt(
    run: Run, run_folder: Path, fine_tune: Path, edit: Edit, tiny_model: LoadedModel, tmp_path: Path
) -> None:
    arguments = ("-m", fine_tune, "-o", tmp_path / "out", "--force", "--difference", "--json")
    payload = run("apply", run_folder, *arguments).json
    assert payload["how"] == "difference"
    assert "changed by the edit's difference" in payload["unknown"][0]
    read = StableDiffusionPipeline.from_pretrained(tmp_path / "out").unet
    tuned = StableDiffusionPipeline.from_pretrained(fine_tune).unet
    for name, value in edit.tensors.items():
        change = value - tiny_model.unet.get_parameter(name)
        wanted = tuned.get_parameter(name) + change
        assert torch.allclose(read.get_parameter(name), wanted, atol=1e-6)
        assert not torch.allclose(read.get_parameter(name), value, atol=1e-4)


def test_on_its_own_model_nothing_is_unknown_and_nothing_need_be_forced(
    run: Run, run_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    payload = run("apply", run_folder, "-m", tiny_folder, "-o", tmp_path / "out", "--json").json
    assert payload["same_model"] is True
    assert payload["unknown"] == []
    assert payload["folder"] == str(tmp_path / "out")


def test_a_model_of_another_architecture_is_refused_whatever_is_asked(
    run: Run, run_folder: Path, tmp_path: Path
) -> None:
    other = build_folder(tmp_path / "sdxl", family="sdxl")
    result = run("apply", run_folder, "-m", other, "-o", tmp_path / "out", "--force")
    assert "only models of one architecture can share an edit" in result.sentence
    assert not (tmp_path / "out").exists()


def test_the_difference_is_to_the_edits_own_model(
    edit: Edit, tiny_model: LoadedModel, fine_tune: Path, registry
) -> None:
    other = load_model(str(fine_tune), registry)
    with pytest.raises(EditError, match=f"{edit.base_hash[:16]}.*{other.hash[:16]}"):
        transfer.as_difference(edit, other, tiny_model)
