"""One-dimensional adapters: the formulas, and all that erasekit asks of a method and strategy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from erasekit.concepts import Erasure
from erasekit.diffusion.sampling import generate
from erasekit.errors import EditError, ScopeError
from erasekit.exports.formats import ExportOptions, export
from erasekit.plugin.manager import PluginManager
from erasekit.plugin.registry import Registry
from erasekit.testing import MethodTester, StrategyTester, tiny_model
from erasekit.training.erase import erase
from erasekit_spm import hooks
from erasekit_spm.adapters import adapter_output, product
from erasekit_spm.anchoring import anchor_weights
from erasekit_spm.transport import cosines, strengths


class TestSPM(MethodTester):
    """Every test of `MethodTester`."""

    method = "spm"
    plugins = (hooks,)
    scopes = ("xattn-kv", "selfattn")
    settings = {"scope": "xattn", "learning_rate": 1e-2}  # noqa: RUF012
    inference = "spm"


class TestAnchoring(StrategyTester):
    """Every test of `StrategyTester`: the strategy beside changed weights."""

    strategy = "spm-anchor"
    plugins = (hooks,)


def registry() -> Registry:
    manager = PluginManager()
    if not manager.pluggy.is_registered(hooks):
        manager.register(hooks, "under test:spm")
    return Registry(manager)


def trained(model, *concepts: str, **settings):
    chosen = {"scope": "xattn", "learning_rate": 1e-2, **settings}
    return erase(model, Erasure.of(*concepts), "spm", registry=registry(), settings=chosen)


def noise_pred(model, prompts: list[str]) -> torch.Tensor:
    """Predicted noise of the prompts at one z_t, [P, C, h, w]."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *model.family.latents_shape(), generator=generator)
    embeds = model.family.embed_prompts(prompts)
    times = torch.full((len(prompts),), 400)
    with torch.no_grad():
        return model.family.predict_noise(latents.expand(len(prompts), -1, -1, -1), times, embeds)


# -- the adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 5), torch.randn(2, 6, generator=torch.manual_seed(0))),
        (nn.Linear(6, 5), torch.randn(2, 7, 6, generator=torch.manual_seed(1))),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.randn(2, 3, 8, 8)),
    ],
    ids=["linear", "tokens", "conv"],
)
def test_an_adapter_is_a_change_of_the_weight_for_each_row(layer, x) -> None:
    generator = torch.Generator().manual_seed(2)
    shape = layer.weight.shape[1:]
    down = torch.randn(3, *shape, generator=generator)
    up = torch.randn(layer.weight.shape[0], 3, *(1 for _ in shape[1:]), generator=generator)
    opened = torch.rand(2, 3, generator=generator)
    found = layer(x) + adapter_output(layer, x, down, up, opened)
    for row in range(2):
        weight = layer.weight.detach().clone()
        for e in range(3):
            outer = torch.outer(up[:, e].flatten(), down[e].flatten())
            weight += opened[row, e] * outer.reshape(weight.shape)
        if isinstance(layer, nn.Linear):
            expected = nn.functional.linear(x[row], weight, layer.bias)
        else:
            expected = nn.functional.conv2d(x[row : row + 1], weight, layer.bias, 2, 1)[0]
        assert torch.allclose(found[row], expected, atol=1e-5)
    summed = sum(torch.outer(up[:, e].flatten(), down[e].flatten()) for e in range(3))
    assert torch.allclose(product(down, up), summed.reshape(layer.weight.shape), atol=1e-6)


def test_each_layer_in_scope_has_one_dimension_per_concept() -> None:
    model = tiny_model()
    edit = trained(model, "church", "bus", steps=1)
    layers = {n for n, m in model.unet.named_modules() if "attn2" in n and isinstance(m, nn.Linear)}
    assert {name.rpartition(".spm.")[0] for name in edit.inference_tensors} == layers
    for name, value in edit.inference_tensors.items():
        assert value.shape[0 if name.endswith("down") else 1] == 2


def test_a_scope_without_layers_is_one_sentence() -> None:
    with pytest.raises(ScopeError, match="use --scope xattn or full"):
        trained(tiny_model(), "church", scope="re:norm")


# -- transport -------------------------------------------------------------------------------------


def test_strengths_put_cosine_and_overlap_together() -> None:
    cosine = torch.tensor([[0.2, -0.5], [0.9, 0.4]])
    shares = [[0.5, 0.0], None]
    assert torch.allclose(strengths(cosine, shares, "max"), torch.tensor([[0.5, 0.0], [0.9, 0.4]]))
    assert torch.allclose(
        strengths(cosine, shares, "product"), torch.tensor([[0.1, 0.0], [0.9, 0.4]])
    )
    assert torch.equal(strengths(cosine, shares, "none"), torch.ones(2, 2))


def test_cosines_are_of_whole_embeddings() -> None:
    a, b = torch.randn(2, 4, 3), torch.randn(3, 4, 3)
    expected = [[torch.cosine_similarity(x.flatten(), y.flatten(), 0) for y in b] for x in a]
    assert torch.allclose(cosines(a, b), torch.tensor(expected), atol=1e-6)
    assert torch.equal(cosines(torch.zeros(1, 4, 3), b), torch.zeros(1, 3))


@pytest.mark.parametrize("wrapped", [True, False], ids=["LoadedModel", "pipeline"])
def test_a_prompt_without_the_concepts_tokens_is_left_alone_with_product(wrapped: bool) -> None:
    model = tiny_model()
    edit = trained(model, "garbage truck", transport="product")
    prompts = ["garbage truck", "a garbage truck", "truck", "church"]
    before = noise_pred(model, prompts)
    with edit.applied(model if wrapped else model.pipeline):
        moved = (noise_pred(model, prompts) - before).flatten(1).norm(dim=1)
    assert moved[3] == 0
    assert all(moved[:3] > 0)


def test_concepts_open_their_own_adapters() -> None:
    """Half of the adapters taken away, the other concept is drawn as before."""
    model = tiny_model()
    both = trained(model, "garbage truck", "church", transport="product")
    before = noise_pred(model, ["garbage truck", "church"])
    for name, value in both.inference_tensors.items():
        if name.endswith("up"):
            value[:, 1] = 0
    with both.applied(model):
        moved = (noise_pred(model, ["garbage truck", "church"]) - before).flatten(1).norm(dim=1)
    assert moved[0] > 0
    assert moved[1] == 0


def test_edits_of_several_concepts_add_up() -> None:
    """Each opens for its own prompts, as it does alone."""
    model = tiny_model()
    a = trained(model, "garbage truck", transport="product")
    b = trained(model, "church", transport="product")
    prompts = ["garbage truck", "church"]
    with a.applied(model):
        truck = noise_pred(model, prompts)
    with b.applied(model):
        church = noise_pred(model, prompts)
    for outer, inner in ((a, b), (b, a)):
        with outer.applied(model), inner.applied(model):
            found = noise_pred(model, prompts)
        assert torch.allclose(found[0], truck[0], atol=1e-6)
        assert torch.allclose(found[1], church[1], atol=1e-6)


# -- anchoring -------------------------------------------------------------------------------------


def test_anchors_are_weighted_by_distance() -> None:
    similar = torch.tensor([[0.9, 0.5, -0.5]])
    expected = torch.tensor([[0.1, 0.5, 1.5]]).double() ** 2
    assert torch.allclose(anchor_weights(similar, 2.0), expected / expected.sum(), atol=1e-6)
    assert torch.allclose(anchor_weights(similar, 0.0), torch.full((1, 3), 1 / 3).double())


# -- exports ---------------------------------------------------------------------------------------


def test_without_transport_the_merged_weights_draw_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    edit = trained(model, "church", transport="none", scope="full")
    merged, loss = edit.merged(model)
    assert (loss, merged.kinds) == ("", ("weights",))
    with edit.applied(model):
        adapted = noise_pred(model, ["church", "bus"])
    with merged.applied(model):
        assert torch.allclose(noise_pred(model, ["church", "bus"]), adapted, atol=1e-4)
    result = export(edit, model, "lora", tmp_path, ExportOptions(images=0))
    assert result.report["rank_max"] == 1
    assert result.report["error"]["noise_relative"] < 1e-2


@pytest.mark.parametrize("form", ["diffusers", "single-file", "lora"])
def test_transport_is_lost_in_weights_only_where_that_is_allowed(form, tmp_path: Path) -> None:
    model = tiny_model()
    edit = trained(model, "church", steps=2)
    with pytest.raises(EditError, match=r"transport 'max' is lost.*--allow-loss"):
        export(edit, model, form, tmp_path / "out", ExportOptions())
    assert not (tmp_path / "out").exists()
    result = export(edit, model, form, tmp_path / "out", ExportOptions(allow_loss=True))
    assert any("is lost" in note for note in result.notes)


def test_a_delta_file_carries_the_adapters(tmp_path: Path) -> None:
    from erasekit.edits import load_edit

    model = tiny_model()
    edit = trained(model, "church", steps=2)
    path = export(edit, None, "delta", tmp_path, ExportOptions()).path
    with edit.applied(model):
        expected = generate(model, ["church"], [0])
    with load_edit(path, registry()).applied(model):
        assert (generate(model, ["church"], [0]) == expected).all()


def test_adapters_for_another_model_are_refused() -> None:
    model = tiny_model()
    edit = trained(model, "church", steps=1)
    name = next(n for n in edit.inference_tensors if n.endswith("down"))
    edit.inference_tensors[name] = edit.inference_tensors[name][:, 1:]
    with pytest.raises(EditError, match="adapters of this edit do not fit"), edit.applied(model):
        pass
