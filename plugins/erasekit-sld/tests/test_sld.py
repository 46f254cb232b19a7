"""Safe latent guidance: the published update, and all that erasekit asks of a method."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from erasekit.diffusion.sampling import generate, initial_noise
from erasekit.errors import ConfigError, EditError
from erasekit.exports.formats import ExportOptions, export
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, tiny_model
from erasekit.training.erase import erase
from erasekit_sld import hooks
from erasekit_sld.guidance import GuidanceConfig, safety_guidance
from erasekit_sld.method import PRESETS

STEPS, SCALE = 4, 4.0
NUMBERS = {
    "safety_scale": 20.0,
    "warmup_steps": 1,
    "threshold": 0.02,
    "momentum_scale": 0.5,
    "momentum_beta": 0.6,
}


class TestSLD(MethodTester):
    """Every test of `MethodTester`."""

    method = "sld"
    plugins = (hooks,)
    seeded = False
    inference = "sld"


def registry() -> Registry:
    manager = PluginManager()
    if not manager.pluggy.is_registered(hooks):
        manager.register(hooks, "under test:sld")
    return Registry(manager)


def steered(model, *concepts: str, **settings):
    """An edit that steers away from the concepts."""
    from erasekit.concepts import Erasure

    chosen = {**NUMBERS, **settings}
    return erase(model, Erasure.of(*concepts), "sld", registry=registry(), settings=chosen)


def by_hand(model, prompt: str, unsafe: str, seed: int, bound: str) -> np.ndarray:
    """The picture as the paper's equations 3 to 9 draw it, written out step by step."""
    family = model.family
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    scheduler.set_timesteps(STEPS)
    z = initial_noise(family, [seed]) * scheduler.init_noise_sigma
    empty, c_p, c_s = (family.embed_prompts([text]) for text in ("", prompt, unsafe))
    nu = torch.zeros_like(z)
    s_s, delta, lam, s_m, beta = NUMBERS.values()
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            eps, eps_p, eps_s = (
                family.unet(scheduler.scale_model_input(z, t), t, c).sample
                for c in (empty, c_p, c_s)
            )
            phi = s_s * (eps_p - eps_s)
            mu = phi.abs().clamp(max=1) if bound == "at-most-1" else phi.abs().clamp(min=1)
            mu[eps_p - eps_s >= lam] = 0
            gamma = mu * (eps_s - eps) + s_m * nu
            nu = beta * nu + (1 - beta) * gamma
            taken = gamma if i >= delta else 0
            guided = eps + SCALE * (eps_p - eps - taken)
            z = scheduler.step(guided, t, z).prev_sample
    return family.decode(z)


@pytest.mark.parametrize("bound", ["at-most-1", "at-least-1"])
def test_erasekit_and_plain_diffusers_draw_what_the_equations_say(bound: str) -> None:
    model = tiny_model()
    edit = steered(model, "church", bound=bound)
    expected = by_hand(model, "a photo of a church", "church", 3, bound).astype(int)
    plain = generate(model, ["a photo of a church"], [3], num_inference_steps=STEPS)
    model.pipeline.set_progress_bar_config(disable=True)
    with edit.applied(model.pipeline):
        drawn = generate(
            model,
            ["a photo of a church"],
            [3],
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
        )
        (image,) = (
            model.pipeline(
                "a photo of a church",
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                generator=torch.Generator("cpu").manual_seed(3),
                output_type="np",
            ).images
            for _ in range(1)
        )
    by_diffusers = (image * 255).round().astype(int)
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert np.abs(by_diffusers - expected).max() <= 1
    assert np.abs(plain.astype(int) - expected).max() > 1


def test_the_concept_itself_as_prompt_is_left_alone_or_drawn_as_the_empty_one() -> None:
    """mu is min(1, 0) or max(1, 0) where eps(c) = eps(c_S)."""
    uncond, unsafe = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    momentum = torch.zeros_like(uncond)
    for bound, expected in (("at-most-1", momentum), ("at-least-1", unsafe - uncond)):
        config = GuidanceConfig(**{**PRESETS["max"], "bound": bound})
        assert torch.equal(safety_guidance(uncond, unsafe, unsafe, momentum, config), expected)


def test_momentum_begins_anew_with_each_drawing() -> None:
    model = tiny_model()
    with steered(model, "church").applied(model):
        first = generate(model, ["church"], [0], num_inference_steps=STEPS)
        again = generate(model, ["church"], [0], num_inference_steps=STEPS)
    np.testing.assert_array_equal(first, again)


def test_without_guidance_nothing_is_changed() -> None:
    model = tiny_model()
    plain = generate(model, ["church"], [0], guidance_scale=1.0)
    with steered(model, "church").applied(model):
        within = generate(model, ["church"], [0], guidance_scale=1.0)
    np.testing.assert_array_equal(within, plain)


def test_two_edits_go_together_in_either_order() -> None:
    model = tiny_model()
    a, b = steered(model, "church"), steered(model, "bus")
    pictures = []
    for outer, inner in ((a, b), (b, a)):
        with outer.applied(model), inner.applied(model):
            pictures.append(generate(model, ["church"], [0]).astype(int))
    with a.applied(model):
        alone = generate(model, ["church"], [0]).astype(int)
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert not np.array_equal(pictures[0], alone)


@pytest.mark.parametrize("form", ["diffusers", "single-file", "lora"])
def test_other_programs_can_not_have_it(form: str, tmp_path: Path) -> None:
    model = tiny_model()
    edit = steered(model, "church")
    for options in (ExportOptions(), ExportOptions(allow_loss=True)):
        with pytest.raises(EditError, match=r"is in no weight.*--to weights"):
            export(edit, model, form, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_presets_are_complete_and_single_numbers_replace_theirs() -> None:
    for numbers in PRESETS.values():
        GuidanceConfig(**numbers)
    edit = steered(tiny_model(), "church", preset="strong", safety_scale=7)
    chosen = edit.info["inference"]["settings"]
    assert chosen["safety_scale"] == 7
    assert chosen["concepts"] == ["church"]


def test_what_it_has_no_use_for_is_refused() -> None:
    from erasekit.concepts import Concept, Erasure

    erasure = Erasure((Concept("church"),), "", ("castle",))
    with pytest.raises(ConfigError, match="drop --keep"):
        erase(tiny_model(), erasure, "sld", registry=registry())
