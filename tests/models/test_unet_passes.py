"""A pass in parts, in a lower precision, or checkpointed gives what the plain pass gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

import erasekit.models.unet_passes
from erasekit.diffusion.scope import FrozenWeights, ParameterScope
from erasekit.errors import ConfigError
from erasekit.models.loading import LoadedModel
from erasekit.models.unet_passes import (
    MAPS_OF_A_PASS,
    Runner,
    autocast_dtype,
    even_parts,
    free_memory,
    idle_parts_offloaded,
    training_passes,
)
from erasekit.testing import tiny_model

ROWS = 5


@contextmanager
def running(model: LoadedModel, **options: Any) -> Iterator[dict[str, torch.nn.Parameter]]:
    """The tiny model with cross-attention in training, its passes run as `options` say."""
    parameters = ParameterScope("xattn").select(model.unet)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    with training_passes(model.family, parameters, **options):
        yield parameters
    assert not model.unet.is_gradient_checkpointing
    assert type(model.family.runner) is Runner


def inputs(model: LoadedModel, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, *model.family.latents_shape(), generator=generator)
    timesteps = torch.randint(1000, (rows,), generator=generator)
    words = ["garbage truck", "church", "banana", "a photo", "bus"]
    return latents, timesteps, model.family.embed_prompts(words[:rows])


Pass = Callable[[Tensor, Tensor, Tensor], Tensor]


def gradients(model: LoadedModel, **options: Any) -> dict[str, Tensor]:
    """Output, and the gradients of its mean square in weights, latents and embeddings."""
    with running(model, **options) as parameters:
        return gradients_of(model.family.predict_noise, model, parameters)


def gradients_of_diffusers(model: LoadedModel) -> dict[str, Tensor]:
    """The same of the UNet itself, with nothing of ours between."""
    parameters = {n: p for n, p in model.unet.named_parameters() if "attn2" in n}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return gradients_of(
        lambda latents, timesteps, embeds: (
            model.unet(latents, timesteps, encoder_hidden_states=embeds).sample
        ),
        model,
        parameters,
    )


def gradients_of(
    predict: Pass, model: LoadedModel, parameters: Mapping[str, torch.nn.Parameter]
) -> dict[str, Tensor]:
    latents, timesteps, embeds = inputs(model)
    latents.requires_grad_(True)
    embeds.requires_grad_(True)
    output = predict(latents, timesteps, embeds)
    output.square().mean().backward()
    found = {name: p.grad for name, p in parameters.items()}
    return {"output": output.detach(), "latents": latents.grad, "embeds": embeds.grad, **found}


def largest_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest distance of a tensor from the expected one, by the expected one's norm."""
    return max(
        float((found[name] - value).norm() / value.norm().clamp_min(1e-8))
        for name, value in expected.items()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"parts": 2},
        {"parts": 9},
        {"gradient_checkpointing": True},
        {"parts": 2, "gradient_checkpointing": True},
    ],
)
def test_parts_and_checkpointing_give_the_gradient_of_the_whole(options: dict[str, object]) -> None:
    plain = gradients(tiny_model())
    found = gradients(tiny_model(), **options)
    assert largest_error(found, plain) < 1e-5


def test_a_runner_with_nothing_to_do_changes_no_bit() -> None:
    plain, found = gradients_of_diffusers(tiny_model()), gradients(tiny_model())
    assert list(found) == list(plain)
    assert len(plain) > 10
    assert all(torch.equal(found[name], value) for name, value in plain.items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near_and_comes_out_as_float32(precision: str) -> None:
    plain = gradients(tiny_model())
    found = gradients(tiny_model(), precision=precision)
    assert {value.dtype for value in found.values()} == {torch.float32}
    error = largest_error(found, plain)
    assert 0 < error < (0.1 if precision == "bf16" else 0.02)


def test_fp16_gradients_too_small_for_fp16_survive() -> None:
    """A loss scaled to 1e-7 would leave nothing but zeros in fp16."""
    model = tiny_model()
    with running(model, precision="fp16") as parameters:
        output = model.family.predict_noise(*inputs(model))
        (output.square().mean() * 1e-7).backward()
        small = {name: p.grad * 1e7 for name, p in parameters.items()}
    expected = gradients(tiny_model())
    assert largest_error(small, {name: expected[name] for name in small}) < 0.02


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"parts": 2},
        {"parts": 2, "gradient_checkpointing": True},
        {"precision": "fp16"},
    ],
)
def test_a_frozen_pass_is_replayed_with_the_frozen_weights(options: dict[str, object]) -> None:
    """Recomputed in the backward pass, when the modules have the trained weights back."""

    def gradient(**options: Any) -> Tensor:
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
    tolerance = 0.1 if "precision" in options else 5e-5
    assert float((gradient(**options) - expected).norm() / expected.norm()) < tolerance


def test_checkpointing_keeps_less() -> None:
    """That diffusers does checkpoint a UNet in eval mode, which is easy to lose in silence."""

    def kept(**options: Any) -> int:
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

    assert kept(gradient_checkpointing=True) < 0.25 * kept()


def test_backward_may_be_asked_twice() -> None:
    for options in ({"parts": 2}, {"gradient_checkpointing": True}):
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
        with pytest.raises(RuntimeError, match="weight was changed between"):
            output.backward()


@pytest.mark.parametrize("rows", range(1, 9))
def test_parts_are_even_and_cover_all_rows(rows: int) -> None:
    for parts in range(1, rows + 1):
        slices = even_parts(rows, parts)
        assert [i for part in slices for i in range(rows)[part]] == list(range(rows))
        sizes = [part.stop - part.start for part in slices]
        assert len(sizes) == parts
        assert max(sizes) - min(sizes) <= 1


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Say how many rows of the tiny model the free memory has room for."""

    def rows(count: float) -> None:
        row = MAPS_OF_A_PASS * 16 * 8 * 8 * 4
        monkeypatch.setattr(
            erasekit.models.unet_passes, "free_memory", lambda _: int(2 * count * row)
        )

    return rows


@pytest.mark.parametrize(
    ("options", "room", "seen"),
    [
        (None, 2, [1, 2, 2]),
        (None, 3.9, [1, 2, 2]),
        (None, 0.1, [1] * ROWS),
        (None, 8, [ROWS]),
        ({}, 2, [1, 2, 2]),
        ({}, 8, [ROWS]),
        ({"parts": 2}, 8, [2, 3]),
        ({"parts": 2}, 1, [1] * ROWS),
        ({"precision": "fp16"}, 2, [1, 2, 2]),
        ({"limit": 1}, 8, [1] * ROWS),
    ],
)
def test_a_pass_without_gradient_fits_the_free_memory_and_has_the_output_of_the_whole(
    free: Callable[[float], None], options: dict[str, object] | None, room: float, seen: list[int]
) -> None:
    def output(options: dict[str, object] | None) -> tuple[Tensor, list[int]]:
        model = tiny_model()
        rows: list[int] = []
        model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
        context = nullcontext() if options is None else running(model, **options)
        with context, torch.no_grad():
            found = model.family.predict_noise(*inputs(model))
        assert model.passes.forward == ROWS
        return found, rows

    free(room)
    found, rows = output(options)
    free(100)
    precision = {k: v for k, v in (options or {}).items() if k == "precision"}
    expected, whole = output(precision)
    assert rows == seen
    assert whole == [ROWS]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_pass_with_gradient_is_never_cut_unasked(free: Callable[[float], None]) -> None:
    """A part with a gradient is run twice, which nobody pays for without asking."""
    expected = gradients(tiny_model())
    free(0)
    found = gradients(tiny_model())
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_free_memory_is_that_of_the_machine_or_of_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    plain = free_memory(cpu)
    assert 0 < plain <= psutil.virtual_memory().total
    for name, text in (
        ("memory.max", "1000000"),
        ("memory.current", "900000"),
        ("memory.stat", "anon 1\ninactive_file 50000\n"),
    ):
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(erasekit.models.unet_passes, "_CONTAINER", tmp_path)
    assert free_memory(cpu) == 150_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu) > 150_000


def test_what_a_device_can_t_compute_is_refused() -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu, torch.float32) is None
    assert autocast_dtype("auto", cpu, torch.bfloat16) == torch.bfloat16
    assert autocast_dtype("fp16", cpu, torch.float32) == torch.float16
    with pytest.raises(ConfigError, match="'meta' can't compute in bf16; use --precision fp32"):
        autocast_dtype("bf16", torch.device("meta"), torch.float32)
    with pytest.raises(ConfigError, match="weights are in fp16, so it can't be trained in fp32"):
        autocast_dtype("fp32", cpu, torch.float16)


class _Part(torch.nn.Module):
    """Says where it was moved; there is one device here."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.places = torch.device(device), []

    def to(self, device: Any) -> _Part:  # type: ignore[override]
        self.places.append(str(device))
        return self


class _Pipeline:
    def __init__(self, device: str) -> None:
        self.unet = _Part(device)
        self.vae, self.text_encoder = _Part(device), _Part(device)
        self.text_encoder_2 = None


def test_idle_parts_wait_on_the_cpu_and_come_back() -> None:
    pipeline = _Pipeline("mps:0")
    with idle_parts_offloaded(pipeline, True):
        assert pipeline.vae.places == pipeline.text_encoder.places == ["cpu"]
    assert pipeline.vae.places == pipeline.text_encoder.places == ["cpu", "mps:0"]
    assert pipeline.unet.places == []
    for device, wanted in (("cpu", True), ("mps:0", False)):
        pipeline = _Pipeline(device)
        with idle_parts_offloaded(pipeline, wanted):
            assert pipeline.vae.places == []
