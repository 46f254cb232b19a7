"""Edits with an inference part: applied and taken back, saved and read, stacked, exported."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import Field

from erasekit.config import Settings
from erasekit.diffusion.guidance import GuidanceTerm, guidance_installed
from erasekit.diffusion.inference_parts import InferencePart, InferenceRecord, Merged
from erasekit.diffusion.sampling import generate
from erasekit.edits import INFO, Edit, load_edit
from erasekit.errors import ConfigError, EditError
from erasekit.exports.formats import ExportOptions, export
from erasekit.plugin.descriptors import InferenceDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import assert_same_tensors, weights

LAYER = "mid_block.attentions.0.proj_out"


class Amount(Settings):
    """How much is added."""

    amount: float = Field(0.0, description="added")


class Bias(InferencePart):
    """Adds to the output of one layer: an adapter that is a change of its bias."""

    Config = Amount
    config: Amount
    kind = "adapter"

    @contextmanager
    def installed(self, family):
        shift = self.tensors["shift"] * self.config.amount
        shift = shift[:, None, None] if self.conv(family) else shift
        layer = family.unet.get_submodule(LAYER)
        handle = layer.register_forward_hook(lambda module, args, output: output + shift)
        try:
            yield
        finally:
            handle.remove()

    def conv(self, family) -> bool:
        return isinstance(family.unet.get_submodule(LAYER), torch.nn.Conv2d)

    def merged(self, parameters):
        name = f"{LAYER}.bias"
        value = parameters[name] + self.tensors["shift"] * self.config.amount
        loss = "A large amount is lost." if self.config.amount > 5 else ""
        return Merged({name: value}, loss)


class Pull(InferencePart):
    """Takes a constant away from the conditional prediction."""

    Config = Amount
    config: Amount

    @contextmanager
    def installed(self, family):
        with guidance_installed(family, Constant(self.config.amount)):
            yield


class Constant(GuidanceTerm):
    """gamma is a constant, growing with the step."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def begin(self):
        return lambda step: torch.full_like(step.noise_cond, self.amount * (1 + step.index))


class Plugin:
    """Registers both."""

    @hookimpl
    def erasekit_register_inference_parts(self):
        return [
            InferenceDescriptor("bias", "adds to a layer", f"{__name__}:Bias"),
            InferenceDescriptor("pull", "takes from guidance", f"{__name__}:Pull"),
        ]


@pytest.fixture
def registry():
    manager = PluginManager()
    manager.register(Plugin(), "erasekit-kinds:test")
    return Registry(manager)


@pytest.fixture
def model(tiny_model):
    return tiny_model


def bias(model, registry, amount: float = 1.0) -> Edit:
    shift = torch.randn(
        model.unet.get_submodule(LAYER).bias.shape, generator=torch.Generator().manual_seed(0)
    )
    return of_part(model, registry, InferenceRecord("bias", {"amount": amount}, {"shift": shift}))


def pull(model, registry, amount: float = 0.05) -> Edit:
    return of_part(model, registry, InferenceRecord("pull", {"amount": amount}))


def of_part(model, registry, record: InferenceRecord) -> Edit:
    base = {"id": model.id, "hash": model.hash}
    info = {"method": "test", "concepts": ["church"], "base_model": base}
    info["inference"] = record.describe(registry)
    return Edit({}, info, inference_tensors=dict(record.tensors), registry=registry)


def delta(model, part: str = "attn2", seed: int = 0) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: p.detach() + torch.randn(p.shape, generator=generator) / 4
        for name, p in model.unet.named_parameters()
        if part in name
    }
    base = {"id": model.id, "hash": model.hash}
    return Edit(tensors, {"method": "test", "concepts": ["church"], "base_model": base})


def draw(model) -> np.ndarray:
    return generate(model, ["church"], [0], num_inference_steps=3, guidance_scale=3.0)


def by_diffusers(model) -> np.ndarray:
    model.pipeline.set_progress_bar_config(disable=True)
    image = model.pipeline(
        "church",
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).images
    return (image * 255).round().astype(np.uint8)


def state(model) -> dict:
    """All that an edit might leave on the UNet beside weights."""
    unet = model.unet
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in unet.modules()]
    return {"hooks": hooks, "attributes": sorted(unet.__dict__), "hash": model.hash}


@pytest.mark.parametrize("make", [bias, pull])
@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_it_is_taken_back_bit_for_bit(model, registry, make, wrapped: bool) -> None:
    edit = make(model, registry)
    before, there, plain = weights(model), state(model), draw(model)
    with edit.applied(model if wrapped else model.pipeline):
        within, outside = draw(model), by_diffusers(model)
        assert_same_tensors(weights(model), before)
    assert_same_tensors(weights(model), before)
    assert state(model) == there
    np.testing.assert_array_equal(draw(model), plain)
    assert not np.array_equal(within, plain)
    assert np.abs(within.astype(int) - outside.astype(int)).max() <= 1
    with pytest.raises(KeyboardInterrupt), edit.applied(model):
        raise KeyboardInterrupt
    assert state(model) == there


def test_the_model_has_another_hash_meanwhile(model, registry) -> None:
    base = model.hash
    hashes = set()
    for edit in (bias(model, registry), bias(model, registry, 2.0), pull(model, registry)):
        with edit.applied(model):
            hashes.add(model.hash)
        assert model.hash == base
    assert len(hashes - {base}) == 3


@pytest.mark.parametrize("make", [bias, pull])
def test_saved_and_read_it_is_the_same(model, registry, make, tmp_path: Path) -> None:
    edit = make(model, registry)
    edit.save(tmp_path)
    info = json.loads((tmp_path / INFO).read_text())
    assert info["schema"] == 2
    assert (info["inference"]["plugin"], info["inference"]["kind"]) == (
        "erasekit-kinds",
        edit.kinds[-1],
    )
    found = load_edit(tmp_path, registry)
    assert_same_tensors(found.inference_tensors, edit.inference_tensors)
    assert found.tensors == {}
    assert found.inference.identity == edit.inference.identity
    path = export(edit, None, "delta", tmp_path / "file", ExportOptions()).path
    for again in (found, load_edit(path, registry)):
        with edit.applied(model):
            expected = draw(model)
        with again.applied(model):
            np.testing.assert_array_equal(draw(model), expected)


def test_a_plain_edit_is_written_as_before(model, tmp_path: Path) -> None:
    delta(model).save(tmp_path)
    info = json.loads((tmp_path / INFO).read_text())
    assert info["schema"] == 1
    assert "inference" not in info


def test_without_its_plugin_it_is_refused_and_the_plugin_named(model, registry, tmp_path) -> None:
    edit = pull(model, registry)
    edit.save(tmp_path)
    needed = r"'pull' of erasekit-kinds, which is not installed; .* pip install erasekit-kinds\."
    with pytest.raises(EditError, match=needed):
        load_edit(tmp_path, Registry())
    edit.registry = Registry()
    with pytest.raises(EditError, match=needed), edit.applied(model):
        pass


@pytest.mark.parametrize("value", [1, {}, {"name": "pull"}, {"name": 1, "settings": {}}])
def test_a_damaged_description_is_refused(model, registry, tmp_path: Path, value) -> None:
    edit = pull(model, registry)
    edit.save(tmp_path)
    info = json.loads((tmp_path / INFO).read_text())
    (tmp_path / INFO).write_text(json.dumps({**info, "inference": value}))
    with pytest.raises(EditError, match="does not describe an edit"):
        load_edit(tmp_path, registry)


def test_settings_of_another_version_are_refused(model, registry) -> None:
    edit = pull(model, registry)
    edit.info["inference"]["settings"] = {"amuont": 1.0}
    with pytest.raises(ConfigError, match=r"amuont.*inference part 'pull'"), edit.applied(model):
        pass


# -- several at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_an_inference_part_goes_with_everything_in_either_order(model, registry, wrapped) -> None:
    target = model if wrapped else model.pipeline
    before, there = weights(model), state(model)
    for a, b in (
        (delta(model), pull(model, registry)),
        (delta(model), bias(model, registry)),
        (bias(model, registry), pull(model, registry)),
        (pull(model, registry), pull(model, registry, 0.02)),
    ):
        pictures = []
        for outer, inner in ((a, b), (b, a)):
            with outer.applied(target), inner.applied(target):
                pictures.append(draw(model).astype(int))
        assert np.abs(pictures[0] - pictures[1]).max() <= 1
        with a.applied(target):
            assert not np.array_equal(draw(model), pictures[0])
        assert_same_tensors(weights(model), before)
        assert state(model) == there


def test_terms_of_guidance_add_up(model, registry) -> None:
    with pull(model, registry, 0.02).applied(model), pull(model, registry, 0.03).applied(model):
        two = draw(model).astype(int)
        diffusers = by_diffusers(model).astype(int)
    with pull(model, registry, 0.05).applied(model):
        one = draw(model).astype(int)
    assert np.abs(two - one).max() <= 1
    assert np.abs(diffusers - one).max() <= 1


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_two_deltas_of_the_same_parameters_are_refused_by_name(model, registry, wrapped) -> None:
    target = model if wrapped else model.pipeline
    outer, inner = delta(model), delta(model, seed=1)
    name = next(iter(inner.tensors))
    with outer.applied(target), pull(model, registry).applied(target):
        before = weights(model)
        with pytest.raises(EditError) as caught, inner.applied(target):
            pass
        assert f"the same {len(inner.tensors)} parameters" in str(caught.value)
        assert repr(name) in str(caught.value)
        assert_same_tensors(weights(model), before)
        with inner.applied(target, force=True):
            assert torch.equal(weights(model)[f"unet.{name}"], inner.tensors[name])
        assert_same_tensors(weights(model), before)


def test_another_model_is_refused(model, registry) -> None:
    edit = pull(model, registry)
    edit.info["base_model"]["hash"] = "0" * 64
    with pytest.raises(EditError, match="made from a model with hash 0000"), edit.applied(model):
        pass
    with edit.applied(model, force=True):
        pass


def test_for_good(model, registry) -> None:
    edit, base = bias(model, registry), model.hash
    with edit.applied(model):
        expected = draw(model)
    edit.apply(model)
    np.testing.assert_array_equal(draw(model), expected)
    assert model.hash != base


# -- exports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["diffusers", "single-file", "lora"])
def test_a_hook_is_in_no_weight(model, registry, form: str, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=r"is in no weight.*--to weights"):
        export(pull(model, registry), model, form, tmp_path / "out", ExportOptions())
    with pytest.raises(EditError, match="is in no weight"):
        pull(model, registry).export_diffusers(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_merged(model, registry, tmp_path: Path) -> None:
    edit = bias(model, registry)
    export(edit, model, "diffusers", tmp_path, ExportOptions())
    with edit.applied(model):
        expected = by_diffusers(model).astype(int)
    from erasekit.models.loading import load_model

    written = load_model(str(tmp_path), registry)
    assert np.abs(by_diffusers(written).astype(int) - expected).max() <= 1


def test_what_merging_loses_must_be_allowed(model, registry, tmp_path: Path) -> None:
    edit = bias(model, registry, 6.0)
    with pytest.raises(EditError, match=r"A large amount is lost.*--allow-loss"):
        export(edit, model, "diffusers", tmp_path, ExportOptions())
    result = export(edit, model, "diffusers", tmp_path, ExportOptions(allow_loss=True))
    assert "A large amount is lost." in result.notes


def test_the_spectrum_is_of_changed_weights(model, registry) -> None:
    from erasekit.observe.sensitivity import draw_probes, word_sensitivities

    probes = draw_probes(model, 2)
    with pytest.raises(EditError, match="inference part 'pull'; use erasekit bench"):
        word_sensitivities(model, pull(model, registry), ["bus"], probes)
