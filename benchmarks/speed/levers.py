"""How long a training pass of the model takes: memory layout, attention, threads, compilation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

from benchmarks.speed.runs import Bench

ROWS = (2, 8, 16)
PASSES = 10
"""Timed together."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """Seconds of a pass, forward and backward into cross-attention, in turn (A B A B).

    Returns:
        A row for each way and batch: its seconds by those of the pass as it is, min, median, max.
        That of compilation has the seconds of its first pass too.
    """
    unet = Bench.icons().model.unet
    ways: dict[str, Callable[[nn.Module], AbstractContextManager[Any]]] = {
        "as it is": nullcontext,
        "channels_last": channels_last,
        "attention without SDPA": plain_attention,
        "one thread": one_thread,
    }
    rows = []
    for size in ROWS:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):  # the first warms up
            for name, way in ways.items():
                with way(unet):
                    times[name].append(seconds(unet, unet, size))
        rows += [
            _row(name, size, found[1:], times["as it is"][1:]) for name, found in times.items()
        ]
    return [*rows, *compiled(unet, rounds)]


def compiled(unet: nn.Module, rounds: int) -> Iterator[dict[str, Any]]:
    """The same with `torch.compile`, whose first pass compiles."""
    for size in ROWS[:1]:
        quick = torch.compile(unet, backend="inductor")
        first = PASSES * seconds(unet, quick, size)
        plain, found = [], []
        for _ in range(rounds):
            plain.append(seconds(unet, unet, size))
            found.append(seconds(unet, quick, size))
        yield {**_row("compiled", size, found, plain), "first_pass_seconds": first}


def seconds(unet: nn.Module, call: Callable[..., Any], rows: int) -> float:
    """Seconds of a pass of `rows` rows."""
    generator = torch.Generator().manual_seed(0)
    config: Any = unet.config
    shape = (rows, config.in_channels, config.sample_size, config.sample_size)
    latents = torch.randn(shape, generator=generator)
    embeds = torch.randn(rows, 12, config.cross_attention_dim, generator=generator)
    timesteps = torch.full((rows,), 500)
    scope = [p.requires_grad_(True) for n, p in unet.named_parameters() if "attn2" in n]
    began = time.perf_counter()
    for _ in range(PASSES):
        output: Tensor = call(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)[
            0
        ]
        torch.autograd.grad(output.square().mean(), scope)
    spent = time.perf_counter() - began
    for parameter in scope:
        parameter.requires_grad_(False)
    return spent / PASSES


@contextmanager
def channels_last(unet: nn.Module) -> Iterator[None]:
    """Weights of convolutions in channels-last layout; activations follow."""
    unet.to(memory_format=torch.channels_last)
    yield
    unet.to(memory_format=torch.contiguous_format)


@contextmanager
def plain_attention(unet: Any) -> Iterator[None]:
    """Attention by matrix products, not by `scaled_dot_product_attention`."""
    unet.set_attn_processor(AttnProcessor())
    yield
    unet.set_attn_processor(AttnProcessor2_0())


@contextmanager
def one_thread(unet: nn.Module) -> Iterator[None]:
    """On one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _row(name: str, rows: int, found: list[float], base: list[float]) -> dict[str, Any]:
    ratios = [f / b for f, b in zip(found, base, strict=True)]
    return {
        "way": name,
        "rows": rows,
        "milliseconds": 1000 * statistics.median(found),
        "ratio_min": min(ratios),
        "ratio_median": statistics.median(ratios),
        "ratio_max": max(ratios),
        "first_pass_seconds": "",
    }
