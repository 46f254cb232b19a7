"""MACE: all that erasekit asks of a method, and one step written out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

from erasekit.concepts import Erasure
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConceptError, ConfigError, ScopeError
from erasekit.methods.base import ErasureContext
from erasekit.models.loading import LoadedModel
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, assert_same_tensors, tiny_model, weights
from erasekit.training.plan import build_method, plan_erasure, resolve_settings
from erasekit_mace import hooks
from erasekit_mace.method import MassConceptErasure

QUICK: dict[str, Any] = {"steps": 6, "images": 2, "sampling_steps": 3}


class TestMace(MethodTester):
    """Every test of `MethodTester`."""

    method = "mace"
    plugins = (hooks,)
    scopes = ("xattn-kv", "xattn")
    settings = QUICK


class Run(MethodTester):
    """Its `erase`, without the tests."""

    __test__ = False
    method = "mace"
    plugins = (hooks,)
    settings = QUICK


@dataclass
class Task:
    """A prepared method with its adapters on the UNet, and a copy of the UNet without."""

    method: MassConceptErasure
    model: LoadedModel
    plain: Any


@contextmanager
def prepared(*concepts: str, scope: str = "xattn-kv", **settings: Any) -> Iterator[Task]:
    manager = PluginManager()
    if not manager.pluggy.is_registered(hooks):
        manager.register(hooks, "under test")
    registry, model = Registry(manager), tiny_model()
    plain, descriptor = copy.deepcopy(model.unet), registry.method("mace")
    plan = resolve_settings(descriptor, registry, model.descriptor, {}, {**QUICK, **settings})
    method = build_method(descriptor, registry, plan)
    assert isinstance(method, MassConceptErasure)
    context = ErasureContext(model, Erasure.of(*concepts), registry, 0, {})
    with method.trained_parameters(context, ParameterScope(scope)) as parameters:
        context.parameters = parameters
        _ = context.frozen
        method.prepare(context)
        yield Task(method, model, plain)


class Seen(AttnProcessor):
    """diffusers' own attention, whose maps are written down."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **rest: Any
    ) -> Any:
        scores = attn.get_attention_scores

        def told(*args: Any) -> Any:
            found = scores(*args)
            self.seen.append(found)
            return found

        attn.get_attention_scores = told
        try:
            return super().__call__(attn, hidden_states, encoder_hidden_states, **rest)
        finally:
            del attn.get_attention_scores


def test_loss_and_gradient_of_a_step() -> None:
    """In a UNet whose weights are W' + u v, by diffusers' attention."""
    with prepared("garbage truck", batch_size=3, rank=2, images=3) as task:
        method, generator = task.method, torch.Generator().manual_seed(3)
        for parameter in method.adapters.parameters.values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        source, drawn = method.sources[0], []
        draw = source.draw

        def told(*args: Any) -> Any:
            drawn.append((args[0], draw(*args)))
            return drawn[-1][1]

        source.draw = told  # type: ignore[method-assign]
        output = method.training_step(1)  # the second prompt, "a photo of garbage truck"
        images, noised = drawn[0]
        assert output.record["timestep"] == noised.timesteps.tolist()
        assert {int(source.prompts[i]) for i in images} == {1}

        leaves = {
            name: p.detach().clone().requires_grad_(True)
            for name, p in method.adapters.parameters.items()
        }
        for name in method.layers:
            layer = task.plain.get_submodule(name)
            change = method.refined[name].float()
            product = leaves[f"{name}.mace.0.up"] @ leaves[f"{name}.mace.0.down"]
            weight = layer.weight.detach() + change + product
            del layer.weight
            layer.weight = weight
        seen: list[Tensor] = []
        for name, module in task.plain.named_modules():
            if name.endswith("attn2"):
                module.set_processor(Seen(seen))
        encode = task.model.pipeline.encode_prompt
        embeds = encode("a photo of garbage truck", "cpu", 3, False)[0]
        task.plain(noised.latents, noised.timesteps, encoder_hidden_states=embeds)
        layers = []
        for attention in seen:  # [3 * heads, positions, L]
            side = int(attention.shape[1] ** 0.5)
            masks = method.masks[0][images]
            mask = torch.nn.functional.avg_pool2d(masks, 8 // side).flatten(1)
            masked = attention.reshape(3, -1, *attention.shape[1:]) * mask[:, None, :, None]
            layers.append((masked[..., 4:6] ** 2).sum(-1).mean())
        expected = torch.stack(layers).mean()
        torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=0.0)
        assert output.record["erase_loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
        asked = [method.adapters.parameters[name] for name in leaves]
        found = torch.autograd.grad(output.loss, asked, allow_unused=True)
        wanted = torch.autograd.grad(expected, list(leaves.values()), allow_unused=True)
        for name, a, b in zip(leaves, found, wanted, strict=True):
            if b is None:  # the values of the last layer do nothing to attention
                assert name.split(".mace")[0].endswith("to_v")
                assert a is None or not bool(a.any())
                continue
            assert bool(b.any()), name
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-8, msg=name)


def test_words_are_refined_towards_the_guide_and_the_edit_is_the_fusion() -> None:
    """W' and W* written out on rows of plain diffusers, by numpy's least squares."""
    template = "a photo of {} car|{}"
    options = {"prompts": template, "guide": "road", "keep": "bus, red apple", "ridge": 0.05}
    with prepared("garbage truck", refine_preserve=0.3, fuse_preserve=0.2, **options) as task:
        method, encode = task.method, task.model.pipeline.encode_prompt

        def rows(prompt: str) -> np.ndarray:
            return np.asarray(encode(prompt, "cpu", 1, False)[0][0].numpy(), dtype=np.float64)

        # the guide is one token shorter: of its rows one is left over at the end
        wanted = np.concatenate([rows("a photo of road car")[5:15], rows("road")[2:15]])
        found = np.concatenate(
            [rows("a photo of garbage truck car")[6:], rows("garbage truck")[3:]]
        )
        wanted = np.concatenate([rows("a photo of road car")[5:15], rows("road")[2:15]])
        texts = ["a photo of bus car", "bus", "a photo of red apple car", "red apple"]
        kept = np.concatenate([rows(t) for t in texts])
        own = np.concatenate([rows("a photo of garbage truck car")[4:], rows("garbage truck")[1:]])
        generator = torch.Generator().manual_seed(3)
        trained = {
            name: torch.randn(p.shape, generator=generator)
            for name, p in method.adapters.parameters.items()
        }
        tensors = method.edited(trained)
        for name in method.layers:
            weight = task.plain.get_parameter(f"{name}.weight").detach().double().numpy()

            def solved(e: Any, y: Any, scale: float, weight: Any = weight) -> Any:
                ridge = np.sqrt(0.05)
                left = [e, np.sqrt(scale) * kept, ridge * np.eye(weight.shape[1])]
                right = [y, np.sqrt(scale) * kept @ weight.T, ridge * weight.T]
                return np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0].T

            refined = solved(found, wanted @ weight.T, 0.3)
            near = {"rtol": 1e-4, "atol": 1e-5 * np.abs(weight).max()}
            np.testing.assert_allclose(weight + method.refined[name].numpy(), refined, **near)
            up, down = (
                trained[f"{name}.mace.0.{part}"].double().numpy() for part in ("up", "down")
            )
            fused = solved(own, own @ (refined + up @ down).T, 0.2)
            np.testing.assert_allclose(
                tensors[f"{name}.weight"].numpy(), fused, rtol=1e-3, atol=1e-4 * np.abs(fused).max()
            )


def test_a_concept_mapped_to_itself_changes_nothing_before_training() -> None:
    model = tiny_model()
    before = weights(model)
    edit = Run().erase(model, guide="garbage truck", learning_rate=1e-20)
    for name, value in edit.tensors.items():
        torch.testing.assert_close(value, before[f"unet.{name}"], rtol=0.0, atol=1e-12)


def test_the_order_of_concepts_is_irrelevant() -> None:
    """Images, adapters and steps of a concept follow from its name, and fusion is a sum."""
    one = Run().erase(tiny_model(), concepts=("church", "bus"))
    other = Run().erase(tiny_model(), concepts=("bus", "church"))
    for name, value in one.tensors.items():
        torch.testing.assert_close(other.tensors[name], value, rtol=1e-2, atol=1e-3)


def test_a_step_gives_each_concept_the_gradient_that_it_has_alone() -> None:
    with prepared("church", "bus") as task:
        method, adapters = task.method, task.method.adapters
        for p in adapters.parameters.values():
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        output = method.training_step(4)
        alone = []
        for concept in (0, 1):
            parameters = adapters.choose(concept)
            assert not {id(p) for p in parameters} & {id(p) for p, _ in alone}
            loss, _ = method._suppression(4, concept)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            alone += zip(parameters, gradients, strict=True)
            output.loss.detach().sub_(loss.detach())
        assert len(alone) == len(adapters.parameters)
        assert output.loss.item() == pytest.approx(0, abs=1e-7)
        assert len(output.record["timestep"]) == 2 * method.config.batch_size
        output.loss.backward()
        for parameter, gradient in alone:
            if gradient is None:
                assert parameter.grad is None
            else:
                assert bool(gradient.any())
                torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("setting", [{"accumulate": 2}, {"gradient_checkpointing": True}])
def test_a_pass_in_parts_or_run_again_gives_the_same_edit(setting: dict[str, Any]) -> None:
    whole = Run().erase(tiny_model(), concepts=("church", "bus"), batch_size=4)
    other = Run().erase(tiny_model(), concepts=("church", "bus"), batch_size=4, **setting)
    for name, value in whole.tensors.items():
        torch.testing.assert_close(other.tensors[name], value, rtol=1e-2, atol=1e-3)
    for a, b in zip(other.history, whole.history, strict=True):
        assert a["erase_loss"] == pytest.approx(b["erase_loss"], rel=1e-3)


@pytest.mark.parametrize("masks", ["attention", "whole"])
def test_the_expected_passes_are_those_that_are_counted(masks: str) -> None:
    edit = Run().erase(tiny_model(), concepts=("church", "bus"), masks=masks)
    passes = edit.info["unet_passes"]
    settings, registry = {**Run.settings, "masks": masks}, Run().registry()
    plan = plan_erasure(
        tiny_model(), Erasure.of("church", "bus"), "mace", settings, registry=registry
    )
    expected = plan.expected_passes()
    assert passes["forward"] + 2 * passes["backward"] == expected


def test_masks_from_attention_are_of_the_frozen_model_and_leave_no_hook() -> None:
    with prepared("church", threshold=0.5) as task:
        (masks,) = task.method.masks
        assert masks.shape == (2, 1, 8, 8)
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        hooked = [n for n, m in task.model.unet.named_modules() if m._forward_hooks]
        assert hooked == list(task.method.layers)


def test_pictures_and_masks_of_the_user(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        for kind in ("pictures", "masks"):
            (tmp_path / kind / "church").mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / "church" / f"{name}.png")
        mask = np.zeros((16, 16), dtype=np.uint8)
        mask[: 8 if name == "a" else 4] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / "church" / f"{name}.png")
    given = {"pictures": str(tmp_path / "pictures"), "masks": str(tmp_path / "masks")}
    with prepared("church", **given) as task:
        (source,), (masks,) = task.method.sources, task.method.masks
        assert masks.mean(dim=(1, 2, 3)).tolist() == [0.5, 0.25]
        assert source.latents.shape == (2, *task.model.family.latents_shape())
        assert task.model.passes.forward == 0
    with (
        pytest.raises(ConfigError, match="belong to pictures from a folder"),
        prepared("church", masks=given["masks"]),
    ):
        pass
    with pytest.raises(ConfigError, match="no pictures of 'bus'"), prepared("bus", **given):
        pass


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families(family: str) -> None:
    model = tiny_model(family)
    before = weights(model) if family == "sd2" else None
    edit = Run().erase(model, masks="attention")
    moved = [n for n, v in edit.tensors.items() if not torch.equal(v, model.unet.get_parameter(n))]
    assert moved == list(ParameterScope("xattn-kv").select(model.unet))
    if before:
        assert_same_tensors(weights(model), before)


def test_what_can_not_be_done_is_one_sentence() -> None:
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ConfigError, "should have {} once", {"prompts": "a photo"}),
        (ConfigError, "leave no timestep", {"timestep_low": 0.5}),
        (ConfigError, "names 2 concepts for 1 erased", {"guide": "road, car"}),
        (ConceptError, "both erased and kept", {"keep": "church"}),
        (ScopeError, "use --scope xattn-kv", {"scope": "selfattn"}),
    ]
    for kind, words, options in cases:
        with pytest.raises(kind, match=words.replace("{}", r"\{\}")), prepared("church", **options):
            pass
