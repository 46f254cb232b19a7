"""erasekit as a library, on a pipeline that its owner goes on using."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import erasekit
from erasekit import Erasure, erase, load_edit
from erasekit.concepts import Concept
from erasekit.diffusion.sampling import generate
from erasekit.errors import ConfigError
from erasekit.models.loading import wrap_pipeline
from erasekit.models.pipeline_state import components, held_still
from erasekit.plugin.descriptors import MethodDescriptor, StrategyDescriptor
from erasekit.plugin.hookspecs import hookimpl
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.reporting.card import run_card
from tests.tiny_clip import build_scorer_folder

SMALL = {"steps": 3, "batch_size": 2, "trajectory_steps": 3, "trajectories": 2}


@pytest.fixture
def pipeline(tiny_folder: Path) -> StableDiffusionPipeline:
    """A pipeline in the midst of its owner's own training: odd flags, modes and gradients."""
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(leave=False, desc="mine")
    pipeline.unet.train()
    pipeline.unet.mid_block.eval()
    pipeline.vae.requires_grad_(False)
    pipeline.text_encoder.train().requires_grad_(False)
    pipeline.unet.conv_in.requires_grad_(False)
    pipeline.unet.conv_out.weight.grad = torch.ones_like(pipeline.unet.conv_out.weight)
    attention = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    attention.grad = torch.full_like(attention, 2.0)
    pipeline.scheduler.set_timesteps(7)
    return pipeline


def state(pipeline: Any) -> dict[str, Any]:
    """All that its owner may notice."""
    found: dict[str, Any] = {
        "progress": dict(pipeline._progress_bar_config),
        "scheduler": (dict(pipeline.scheduler.config), pipeline.scheduler.timesteps.tolist()),
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
    }
    for number, component in enumerate(components(pipeline)):
        for name, module in component.named_modules():
            found[f"{number} {name} training"] = module.training
            found[f"{number} {name} hooks"] = (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
            )
        for name, parameter in component.named_parameters():
            gradient = None if parameter.grad is None else parameter.grad.numpy().tobytes()
            values = parameter.detach().numpy().tobytes()
            kind = (id(parameter), parameter.requires_grad, str(parameter.dtype))
            found[f"{number} {name}"] = (*kind, gradient, values)
    return found


def draw(pipeline: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return pipeline("a church", num_inference_steps=3, generator=generator, output_type="np").images


def test_erase_leaves_the_pipeline_as_it_was(pipeline: StableDiffusionPipeline) -> None:
    before = state(pipeline)
    edit = erase(pipeline, "church", "gumbel", settings={**SMALL, "concept_space": "vocabulary"})
    assert state(pipeline) == before
    assert edit.tensors
    assert edit.info["base_model"]["id"] == str(pipeline.name_or_path)


def test_also_where_it_fails(pipeline: StableDiffusionPipeline) -> None:
    before = state(pipeline)
    with pytest.raises(ConfigError):
        erase(pipeline, "church", "none", settings={**SMALL, "steps": 0})
    assert state(pipeline) == before
    with pytest.raises(RuntimeError, match="mine"), held_still(pipeline):
        raise RuntimeError("mine")
    assert state(pipeline) == before


def test_within_the_block_nothing_learns_or_drops_out(pipeline: StableDiffusionPipeline) -> None:
    with held_still(pipeline):
        for part in components(pipeline):
            assert not any(p.requires_grad for p in part.parameters())
            assert not any(m.training for m in part.modules())


def test_an_edit_is_saved_read_and_applied_without_a_registry_or_a_model(
    pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    erasure = Erasure((Concept("church"), Concept("castle")))
    settings = {**SMALL, "learning_rate": 0.05}
    edit = erase(pipeline, erasure, "none", seed=1, settings=settings)
    edit.save(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    before, base = state(pipeline), draw(pipeline)
    again = load_edit(tmp_path)
    with again.applied(pipeline) as same:
        assert same is pipeline
        assert np.abs(draw(pipeline) - base).max() > 0.01
    assert np.array_equal(draw(pipeline), base)
    after = state(pipeline)
    ours = {key for key in before if key not in ("random", "scheduler")}
    assert {key: after[key] for key in ours} == {key: before[key] for key in ours}


def test_wrapping_and_drawing_change_nothing(pipeline: StableDiffusionPipeline) -> None:
    before = state(pipeline)
    model = wrap_pipeline(pipeline)
    images = generate(model, ["a church"], [0], num_inference_steps=2)
    assert images.shape == (1, 16, 16, 3)
    assert state(pipeline) == before


def test_the_snippet_of_the_readme_works_as_it_stands(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a smaller model; every public name that it uses is one."""
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    snippet, _ = re.findall(r"```python\n(.*?)```", page, re.S)
    assert set(re.findall(r"erasekit\.(\w+)", snippet)) <= set(erasekit.__all__)
    small = {**SMALL, "concept_space": "vocabulary"}
    (tmp_path / "scorer").mkdir()
    scorer = f"local-dir:{build_scorer_folder(tmp_path / 'scorer')}"
    described = replace(tiny_model.descriptor, scorer=scorer, defaults={"*": small})
    model = replace(tiny_model, descriptor=described)
    monkeypatch.setattr(erasekit, "load_model", {"icons": model}.__getitem__, raising=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["image"].size == (16, 16)
    assert "value=" in capsys.readouterr().out
    assert load_edit("runs/church").info["concepts"] == ["church"]


def test_the_strategy_of_the_readme_erases(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    _, snippet = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "farthest.py").write_text(snippet, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    class Hooks:
        @hookimpl
        def erasekit_register_strategies(self) -> list[StrategyDescriptor]:
            return [StrategyDescriptor("farthest", "", "farthest:Farthest")]

        @hookimpl
        def erasekit_register_methods(self) -> list[MethodDescriptor]:
            target = "erasekit.methods.gradient:GradientErasure"
            return [MethodDescriptor("farthest", "", target, options={"strategy": "farthest"})]

    manager = PluginManager()
    manager.register(Hooks(), "readme")
    space = tmp_path / "words.txt"
    space.write_text("church\ndog\nhouse\n", encoding="utf-8")
    settings = {**SMALL, "concept_space": str(space)}
    edit = erase(
        tiny_model, Erasure.of("church"), "farthest", settings=settings, registry=Registry(manager)
    )
    kept = {row["concept"] for step in edit.history for row in step["adversary"] or ()}
    assert edit.tensors
    assert len(kept) <= 1


def test_the_snippet_of_a_card_works_as_it_stands(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = erase(tiny_model, Erasure.of("church"), "none", settings=SMALL)
    edit.save(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", run_card(edit.info, None, []), re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert names["images"].shape == (1, 16, 16, 3)


def test_every_public_name_is_there_and_loads_by_itself() -> None:
    for name in erasekit.__all__:
        found = getattr(erasekit, name)
        assert found.__name__ == name
        assert found.__doc__


def test_a_model_is_loaded_by_its_name_alone_and_told_in_a_line(tiny_model) -> None:
    import erasekit

    model = erasekit.load_model("icons")
    assert model.registry.method("gumbel").name == "gumbel"
    assert model.family.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert repr(model) == (
        f"<LoadedModel 'icons': sd1, UNet of 7.14 million parameters, torch.float32 on "
        f"{model.family.device}, hash {model.hash[:16]}>"
    )
    with pytest.raises(ConfigError, match="Unknown device 'gpu'; use auto, cpu"):
        erasekit.load_model("icons", device="gpu")
    info = {"base_model": {"id": "icons", "hash": "0"}, "concepts": ["bus"], "method": "gumbel"}
    edit = erasekit.Edit({"a": torch.zeros(3, 2)}, info)
    assert repr(edit) == "<Edit of 'icons': bus erased by gumbel; weights, 1 tensors of 6 numbers>"
