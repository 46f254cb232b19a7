"""A pass in parts, in a lower precision, or replayed gives what the plain pass gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor

import erasekit.models.unet_runner
from erasekit.diffusion.frozen_weights import FrozenWeights
from erasekit.diffusion.scope import ParameterScope
from erasekit.models.loading import LoadedModel
from erasekit.models.processes import Processes
from erasekit.models.unet_runner import Runner, SharedRunner, rows_at_once
from erasekit.testing import tiny_model

ROWS = 5


@contextmanager
def running(model: LoadedModel, **options: object) -> Iterator[dict[str, torch.nn.Parameter]]:
    """The tiny model with cross-attention in training, its passes carried out as `options` say."""
    parameters = ParameterScope("xattn").select(model.unet)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    model.family.runner = SharedRunner(model.unet, parameters, **options)  # type: ignore[arg-type]
    if options.get("replay"):
        model.unet.enable_gradient_checkpointing()
    try:
        yield parameters
    finally:
        model.family.runner = Runner()
        model.unet.disable_gradient_checkpointing()


def inputs(model: LoadedModel, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, *model.family.latents_shape(), generator=generator)
    timesteps = torch.randint(1000, (rows,), generator=generator)
    words = ["garbage truck", "church", "banana", "a photo", "bus"]
    return latents, timesteps, model.family.embed_prompts(words[:rows])


def gradients(model: LoadedModel, **options: object) -> dict[str, Tensor]:
    """Output, and the gradients of its mean square in weights, latents and embeddings."""
    with running(model, **options) as parameters:
        latents, timesteps, embeds = inputs(model)
        latents.requires_grad_(True)
        embeds.requires_grad_(True)
        output = model.family.predict_noise(latents, timesteps, embeds)
        output.square().mean().backward()
        found = {name: p.grad for name, p in parameters.items()}
    return {"output": output.detach(), "latents": latents.grad, "embeds": embeds.grad, **found}


def largest_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest distance of a tensor from the expected one, by the expected one's norm."""
    return max(
        float((found[name] - value).norm() / value.norm().clamp_min(1e-8))
        for name, value in expected.items()
    )


@pytest.mark.parametrize("options", [{"parts": 2}, {"parts": 9}, {"replay": True}])
def test_parts_and_checkpointing_give_the_gradient_of_the_whole(options: dict[str, object]) -> None:
    plain = gradients(tiny_model())
    found = gradients(tiny_model(), **options)
    assert largest_error(found, plain) < 1e-5


def test_a_runner_with_nothing_to_do_changes_no_bit() -> None:
    plain, found = gradients(tiny_model()), gradients(tiny_model())
    assert all(torch.equal(found[name], value) for name, value in plain.items())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_lower_precision_is_near_and_comes_out_as_float32(precision: torch.dtype) -> None:
    plain = gradients(tiny_model())
    found = gradients(tiny_model(), autocast=precision)
    assert {value.dtype for value in found.values()} == {torch.float32}
    error = largest_error(found, plain)
    assert 0 < error < (0.1 if precision == torch.bfloat16 else 0.02)


def test_fp16_gradients_too_small_for_fp16_survive() -> None:
    """A loss scaled to 1e-7 would leave nothing but zeros in fp16."""
    model = tiny_model()
    with running(model, autocast=torch.float16) as parameters:
        output = model.family.predict_noise(*inputs(model))
        (output.square().mean() * 1e-7).backward()
        small = {name: p.grad * 1e7 for name, p in parameters.items()}
    expected = gradients(tiny_model())
    assert largest_error(small, {name: expected[name] for name in small}) < 0.02


@pytest.mark.parametrize("options", [{"replay": True}, {"parts": 2}, {"autocast": torch.float16}])
def test_a_frozen_pass_is_replayed_with_the_frozen_weights(options: dict[str, object]) -> None:
    """Recomputed in the backward pass, when the modules have the trained weights back."""

    def gradient(**options: object) -> Tensor:
        model = tiny_model()
        with running(model, **options) as parameters:
            frozen = FrozenWeights(model.unet, parameters)
            with torch.no_grad():
                for parameter in parameters.values():
                    parameter.mul_(3)
            latents, timesteps, embeds = inputs(model)
            embeds.requires_grad_(True)
            with frozen.swapped():
                before = model.family.predict_noise(latents, timesteps, embeds)
            after = model.family.predict_noise(latents, timesteps, embeds)
            (found,) = torch.autograd.grad((before - after).square().mean(), embeds)
            assert list(ParameterScope("xattn").select(model.unet).values()) == list(
                parameters.values()
            )
        return found

    expected = gradient()
    tolerance = 0.1 if "autocast" in options else 1e-5
    assert float((gradient(**options) - expected).norm() / expected.norm()) < tolerance


def test_checkpointing_keeps_less() -> None:
    """That diffusers does checkpoint a UNet in eval mode, which is easy to lose in silence."""

    def kept(**options: object) -> int:
        model, sizes = tiny_model(), [0]

        def pack(tensor: Tensor) -> Tensor:
            sizes[0] += tensor.nbytes
            return tensor

        with (
            running(model, **options),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            model.family.predict_noise(*inputs(model))
        return sizes[0]

    assert kept(replay=True) < 0.25 * kept()


def test_an_ascent_asks_for_no_gradient_in_the_weights() -> None:
    model = tiny_model()
    asked: list[int] = []
    real = torch.autograd.grad

    def counting(outputs: object, inputs: object, *args: object, **options: object) -> object:
        asked.append(len(inputs) if isinstance(inputs, list) else 1)
        return real(outputs, inputs, *args, **options)  # type: ignore[arg-type]

    with running(model, parts=2), pytest.MonkeyPatch.context() as patch:
        latents, timesteps, embeds = inputs(model)
        logits = torch.zeros(ROWS, requires_grad=True)
        output = model.family.predict_noise(
            latents, timesteps, embeds * (1 + logits)[:, None, None]
        )
        patch.setattr(torch.autograd, "grad", counting)
        counting(output.square().mean(), [logits])
    assert asked == [1, 1, 1]


def test_backward_may_be_asked_twice() -> None:
    for options in ({"parts": 2}, {"replay": True}):
        model = tiny_model()
        with running(model, **options) as parameters:
            output = model.family.predict_noise(*inputs(model)).square().mean()
            weights = list(parameters.values())
            first = torch.autograd.grad(output, weights, retain_graph=True)
            second = torch.autograd.grad(output, weights)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_weights_changed_between_the_passes_are_noticed() -> None:
    model = tiny_model()
    with running(model, parts=2) as parameters:
        output = model.family.predict_noise(*inputs(model)).square().mean()
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.backward()


@pytest.mark.parametrize("rows", range(9))
def test_shares_are_even_and_cover_all_rows(rows: int) -> None:
    everyone = [Processes(rank, 4) for rank in range(4)]
    owned = [p.own(rows) for p in everyone]
    assert [i for own in owned for i in range(rows)[own]] == list(range(rows))
    shares = everyone[0].share(rows)
    assert max(shares) - min(shares) <= 1
    assert shares == [own.stop - own.start for own in owned]


def test_rows_without_gradient_follow_from_the_size_of_latents() -> None:
    sides = {16: 128, 64: 8, 96: 3, 128: 2, 256: 1}
    assert {side: rows_at_once(side, side) for side in sides} == sides
    assert rows_at_once(64, 64, parts=3) == 2
    assert rows_at_once(128, 128, parts=64) == 1


@pytest.mark.parametrize(
    ("options", "most", "seen"),
    [
        (None, 2, [1, 2, 2]),
        ({}, 2, [1, 2, 2]),
        ({}, ROWS, [ROWS]),
        ({"parts": 2}, 2, [1] * ROWS),
        ({"parts": 2}, 2 * ROWS, [2, 3]),
        ({"autocast": torch.float16}, 2, [1, 2, 2]),
    ],
)
def test_a_pass_without_gradient_has_a_bound_on_rows_and_the_output_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object] | None,
    most: int,
    seen: list[int],
) -> None:
    def output(positions: int) -> tuple[Tensor, list[int]]:
        monkeypatch.setattr(erasekit.models.unet_runner, "POSITIONS_AT_ONCE", positions)
        model = tiny_model()
        rows: list[int] = []
        model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        context = nullcontext() if options is None else running(model, **options)
        with context, torch.no_grad():
            found = model.family.predict_noise(*inputs(model))
        assert model.passes.forward == ROWS
        return found, rows

    found, rows = output(most * 8 * 8)
    expected, whole = output(1 << 15)
    assert rows == seen
    assert len(whole) == (2 if options and "parts" in options else 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_pass_with_gradient_is_never_cut_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part with a gradient is run twice, which nobody pays for without asking."""
    expected = gradients(tiny_model())
    monkeypatch.setattr(erasekit.models.unet_runner, "POSITIONS_AT_ONCE", 1)
    found = gradients(tiny_model())
    assert all(torch.equal(found[name], value) for name, value in expected.items())
