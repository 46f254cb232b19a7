"""Loading models by name, folder and hub id; every fault is one sentence."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from erasekit.concepts import Concept
from erasekit.errors import ConceptError, ErasekitError, ModelError, UnknownNameError
from erasekit.models.loading import hash_weights, load_model, wrap_pipeline
from erasekit.plugin.descriptors import ModelConcept, ModelDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def copied(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "dam4ged"))


def refusal(name: str | Path, registry) -> str:
    """The one sentence that loading `name` ends in."""
    with pytest.raises(ErasekitError) as caught:
        load_model(str(name), registry)
    assert isinstance(caught.value, (ModelError, UnknownNameError))
    said = str(caught.value)
    assert "\n" not in said
    assert Path(name).name in said
    return said


def test_a_loaded_model_is_ready_and_still(tiny_folder, registry) -> None:
    model = load_model(str(tiny_folder), registry)
    assert model.id == str(tiny_folder)
    assert model.family.name == "sd1"
    assert model.pipeline.safety_checker is None
    assert len(model.hash) == 64
    assert int(model.hash, 16) >= 0
    assert model.concepts == []
    for part in (model.pipeline.unet, model.pipeline.vae, model.pipeline.text_encoder):
        assert not any(p.requires_grad for p in part.parameters())
        assert not any(module.training for module in part.modules())
        assert all(p.dtype == torch.float32 for p in part.parameters())


def test_a_precision_may_be_asked_for(tiny_folder, registry) -> None:
    model = load_model(str(tiny_folder), registry, dtype=torch.bfloat16)
    assert {p.dtype for p in model.unet.parameters()} == {torch.bfloat16}
    assert model.family.embed_prompts(["church"]).dtype == torch.bfloat16


def test_a_safety_checker_in_the_folder_is_not_loaded(copied, registry) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (copied / "model_index.json").write_text(json.dumps(index))
    assert load_model(str(copied), registry).pipeline.safety_checker is None


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iconz", "a b", "model!"])
def test_an_unknown_name_is_refused(name: str, registry) -> None:
    assert f"Unknown model {name!r}" in refusal(name, registry)


def test_an_unknown_name_names_the_nearest(registry) -> None:
    assert "did you mean 'icons'?" in refusal("iconz", registry)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_refused(name: str, registry) -> None:
    with pytest.raises(ModelError, match="name is empty"):
        load_model(name, registry)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name: str, registry) -> None:
    assert "There is no folder" in refusal(name, registry)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path, registry) -> None:
    assert "no model_index.json" in refusal(tmp_path, registry)


class ModelHooks:
    """Two models: one that lies in a folder, one whose function fails."""

    def __init__(self, descriptor: ModelDescriptor) -> None:
        self.descriptor = descriptor

    @hookimpl
    def erasekit_register_models(self) -> list[ModelDescriptor]:
        broken = ModelDescriptor("broken", "", "erasekit.no_such_module:folder")
        return [broken, self.descriptor]


def test_a_registered_model_and_its_folder_are_one(tiny_folder, monkeypatch) -> None:
    """A plugin's broken model does not get in the way."""
    import types

    module = types.ModuleType("tiny_registration")
    module.folder = lambda: str(tiny_folder)  # type: ignore[attr-defined]
    module.concepts = lambda: [  # type: ignore[attr-defined]
        ModelConcept("church", "object", "buildings", "pool", ("chapel",), ("round",)),
        ModelConcept("nudity", "explicit", "people", "held-out"),
    ]
    monkeypatch.setitem(sys.modules, "tiny_registration", module)
    descriptor = ModelDescriptor(
        "mine",
        "",
        "tiny_registration:folder",
        concepts="tiny_registration:concepts",
        guidance_scale=2.5,
        num_inference_steps=3,
    )
    manager = PluginManager()
    manager.register(ModelHooks(descriptor), "under test")
    registry = Registry(manager)
    by_name, by_folder = (load_model(n, registry) for n in ("mine", str(tiny_folder)))
    assert by_name.hash == by_folder.hash
    for model in (by_name, by_folder):
        assert model.descriptor.guidance_scale == 2.5
        assert [c.name for c in model.concepts] == ["church", "nudity"]
    assert by_name.concept("Chapel") == Concept("Chapel", "object", ("church",))
    assert by_name.concept("nudity").kind == "explicit"
    assert by_name.concept("nudity", "object").kind == "object"
    assert by_name.concept("a banana") == Concept("a banana")
    with pytest.raises(ConceptError, match="tokens long"):
        by_name.concept("church " * 30)


# -- damaged folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4, 500, -1])
@pytest.mark.parametrize("file", [UNET, TEXT])
def test_truncated_weights_are_refused(copied, registry, file: str, size: int) -> None:
    path = copied / file
    path.write_bytes(path.read_bytes()[:size])
    said = refusal(copied, registry)
    assert f"The file {file!r}" in said
    assert said.endswith("fetch it again.")


@pytest.mark.parametrize("file", [UNET, TEXT, "vae/diffusion_pytorch_model.safetensors"])
def test_missing_weights_are_refused(copied, registry, file: str) -> None:
    (copied / file).unlink()
    assert f"has no weights for its {file.split('/')[0]!r}" in refusal(copied, registry)


@pytest.mark.parametrize("file", [UNET, TEXT])
def test_pickled_weights_are_refused(copied, registry, file: str) -> None:
    """They can run code, as this one would; nothing of them is read."""
    path, flag = copied / file, copied / "was-run"
    ending = "diffusion_pytorch_model.bin" if file == UNET else "pytorch_model.bin"
    (path.parent / ending).write_bytes(pickle.dumps(Touches(flag)))
    path.unlink()
    said = refusal(copied, registry)
    assert ending in said
    assert "save_pretrained" in said
    assert not flag.exists()
    pickle.loads((path.parent / ending).read_bytes())
    assert flag.exists()  # so that the line before means something


@pytest.mark.parametrize(
    "file",
    [
        *("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
        *("text_encoder/config.json", "vae/config.json"),
    ],
)
@pytest.mark.parametrize("text", ["", '{"a": ', "[]", "null"])
def test_damaged_configurations_are_refused(copied, registry, file: str, text: str) -> None:
    (copied / file).write_text(text)
    said = refusal(copied, registry)
    assert file in said
    assert said.endswith("fetch it again.")


def test_weights_of_another_shape_are_refused(copied, registry) -> None:
    config = json.loads((copied / "unet/config.json").read_text())
    (copied / "unet/config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))
    said = refusal(copied, registry)
    assert "expected shape" in said
    assert "fetch it again" in said


@pytest.mark.parametrize("part", ["tokenizer", "scheduler", "vae", "unet"])
def test_a_missing_part_is_refused(copied, registry, part: str) -> None:
    shutil.rmtree(copied / part)
    assert repr(part) in refusal(copied, registry)


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        ("StableDiffusion3Pipeline", "transformer"),
        ("FluxPipeline", "transformer"),
        ("StableDiffusionInpaintPipeline", "picture"),
        ("NoSuchPipeline", "NoSuchPipeline"),
    ],
)
def test_a_pipeline_of_another_family_is_refused_with_the_reason(
    copied, registry, pipeline: str, reason: str
) -> None:
    index = json.loads((copied / "model_index.json").read_text())
    index["_class_name"] = pipeline
    (copied / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(str(copied), registry)
    assert "sd1" in str(caught.value)


def test_a_unet_that_takes_a_picture_too_is_refused(tiny_model) -> None:
    pipeline = copy.deepcopy(tiny_model.pipeline)
    config = {**pipeline.unet.config, "in_channels": 9}
    pipeline.unet = UNet2DConditionModel.from_config(config)
    with pytest.raises(ModelError, match="9 channels"):
        wrap_pipeline(pipeline)


def test_what_predicts_neither_noise_nor_v_is_refused(tiny_model) -> None:
    pipeline = copy.deepcopy(tiny_model.pipeline)
    config = {**pipeline.scheduler.config, "prediction_type": "sample"}
    pipeline.scheduler = DDIMScheduler.from_config(config)
    with pytest.raises(ModelError, match="'sample'"):
        wrap_pipeline(pipeline)


# -- the hub without a network --------------------------------------------------------------------

HUB = """
import sys, time
from erasekit.models.loading import load_model
from erasekit.errors import ModelError
from erasekit.plugin.registry import Registry
began = time.perf_counter()
try:
    load_model("no-such-org/no-such-model", Registry())
except ModelError as error:
    print(round(time.perf_counter() - began), error)
"""


@pytest.mark.parametrize(
    "network",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
        {"HF_HUB_OFFLINE": "0", "HTTPS_PROXY": "http://127.0.0.1:9"},
    ],
    ids=["offline", "refused", "no proxy"],
)
def test_a_hub_id_without_a_network_is_refused_soon(tmp_path, network) -> None:
    """Nothing of the client's own noise reaches the user."""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "NO_PROXY": "", **network}
    run = subprocess.run(
        [sys.executable, "-c", HUB],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    seconds, _, said = run.stdout.strip().partition(" ")
    assert "'no-such-org/no-such-model' is not in the local cache" in said
    assert "--model icons" in said
    assert "\n" not in said
    assert int(seconds) < 120, "it should not try again and again"


# -- the hash -------------------------------------------------------------------------------------


def test_the_hash_is_of_the_weights_whatever_the_precision(tiny_folder, copied, registry) -> None:
    first = load_model(str(tiny_folder), registry)
    assert load_model(str(copied), registry).hash == first.hash
    assert load_model(str(tiny_folder), registry, dtype=torch.float16).hash == first.hash
    half = load_model(str(tiny_folder), registry).pipeline.to(torch.float16)
    half.save_pretrained(copied.parent / "half")
    assert load_model(str(copied.parent / "half"), registry).hash == first.hash


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_the_hash_changes_with_one_weight(tiny_model, part: str) -> None:
    pipeline = copy.deepcopy(tiny_model.pipeline)
    weight = list(getattr(pipeline, part).parameters())[-1]
    with torch.no_grad():
        weight.flatten()[0] += 0.01
    assert wrap_pipeline(pipeline).hash != tiny_model.hash


def test_the_hash_knows_names_and_shapes() -> None:
    layer = torch.nn.Linear(2, 3)
    other = torch.nn.Linear(3, 2)
    with torch.no_grad():
        other.weight.copy_(layer.weight.reshape(2, 3))
    layer.bias = other.bias = None
    assert hash_weights([layer]) != hash_weights([other])
    assert hash_weights([layer]) != hash_weights([torch.nn.Sequential(layer)])


def test_the_hash_does_not_depend_on_how_transformers_names_the_text_encoder(tiny_model) -> None:
    """transformers 4 names it text_model.embeddings..., 5 embeddings..."""

    class Text(torch.nn.Module):
        def __init__(self, encoder: torch.nn.Module) -> None:
            super().__init__()
            self.text_model = encoder

    encoder = tiny_model.pipeline.text_encoder
    inner = getattr(encoder, "text_model", encoder)
    assert hash_weights([Text(inner)]) == hash_weights([inner])
