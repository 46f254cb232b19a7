"""Nothing in a model's folder is imported, on any version of diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from erasekit.errors import ModelError
from erasekit.models.loading import load_model
from erasekit.plugin.registry import Registry

CODE = """import pathlib
pathlib.Path({flag!r}).touch()
from diffusers import *
from transformers import *
class Evil(CLIPTextModel): pass
"""

PARTS = ("image_encoder", "safety_checker", "feature_extractor", "unet", "vae", "text_encoder")
PARTS += ("tokenizer", "scheduler", "another")


@pytest.fixture
def model(family_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a model with a module of every name that an index could mean, in every place."""
    folder = Path(shutil.copytree(family_folders["sd1"], tmp_path / "model"))
    code = CODE.format(flag=str(folder / "executed"))
    for place in (folder, *(folder / part for part in PARTS)):
        place.mkdir(exist_ok=True)
        for name in ("evil", "stable_diffusion", "pipeline", "e", "modeling", "__init__"):
            (place / f"{name}.py").write_text(code)
    return folder


def loads(folder: Path) -> str:
    """What loading says: "" where it loads. Nothing of the folder has run either way."""
    try:
        load_model(str(folder), Registry())
        said = ""
    except ModelError as error:
        said = str(error)
    assert not (folder / "executed").exists()
    return said


def changed(folder: Path, file: str, values: dict[str, Any]) -> None:
    path = folder / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "value",
    [["evil", "Evil"], ["evil", "Evil", "x"], "eE", {"evil": 1, "Evil": 2}, ["evil.py", "E"]],
)
def test_no_part_is_of_the_folders_own_code(model: Path, part: str, value: Any) -> None:
    changed(model, "model_index.json", {part: value})
    assert repr(part) in loads(model)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
@pytest.mark.parametrize("part", ["unet", "text_encoder", "image_encoder", "scheduler"])
def test_a_module_named_as_a_library_is_not_taken_for_it(
    model: Path, part: str, library: str
) -> None:
    (model / part / f"{library}.py").write_text(CODE.format(flag=str(model / "executed")))
    changed(model, "model_index.json", {part: [library, "Evil"]})
    assert "would run code" in loads(model)


@pytest.mark.parametrize(
    ("part", "name"),
    [("text_encoder", "AutoModel"), ("tokenizer", "AutoTokenizer"), ("unet", "AutoModel")],
)
def test_a_class_that_the_configuration_names_is_refused(
    model: Path, part: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    mapped = {"auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
    for file in ("config.json", "tokenizer_config.json"):
        changed(model, f"{part}/{file}", mapped)
    changed(model, "model_index.json", {part: ["transformers", name]})
    assert name in loads(model)


def test_mapped_classes_of_named_ones_are_not_looked_at(model: Path) -> None:
    for part in ("text_encoder", "tokenizer"):
        for file in ("config.json", "tokenizer_config.json"):
            if (model / part / file).exists():
                changed(model, f"{part}/{file}", {"auto_map": {"AutoModel": "evil.Evil"}})
    assert loads(model) == ""


def test_an_adapter_that_takes_weights_from_elsewhere_is_refused(model: Path) -> None:
    changed(model, "text_encoder/adapter_config.json", {"base_model_name_or_path": "/elsewhere"})
    assert "adapter" in loads(model)


def test_a_custom_pipeline_is_refused(model: Path) -> None:
    changed(model, "model_index.json", {"_class_name": ["pipeline", "Evil"]})
    assert "of no family" in loads(model)


def test_image_encoder_and_safety_checker_of_known_libraries_are_left_out(model: Path) -> None:
    changed(
        model,
        "model_index.json",
        {
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        },
    )
    assert loads(model) == ""
