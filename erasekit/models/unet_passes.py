"""How UNet passes are carried out: in which precision, in how many parts, compiled or checkpointed.

`FamilyAdapter.predict_output` hands each pass to its `runner`, so trajectories, the rows of a
training step, ascents and images all follow suit, and no method need know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from erasekit.errors import ConfigError

if TYPE_CHECKING:
    from erasekit.models.families import FamilyAdapter

UNetPass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""latents, timesteps, prompt_embeds -> output; see `FamilyAdapter.predict_output`."""
MAPS_OF_A_PASS = 80
"""Feature maps of the first level's width and size that a pass without gradient takes for a row.

Counted of the UNets of Stable Diffusion 1, 2 and XL: 59 to 79 (`training.memory.measure_row`).
"""
SHARE_OF_FREE = 0.5
"""Of the free memory, what such a pass may take."""
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CONTAINER = Path("/sys/fs/cgroup")
"""Where Linux (cgroup v2) says what memory this container may take, and has taken."""


@dataclass
class PassCount:
    """Batch-weighted UNet passes: a batch of 8 is 8 forward passes.

    Attributes:
        forward: samples that went through the UNet.
        backward: samples whose output was back-propagated.
    """

    forward: int = 0
    backward: int = 0

    @property
    def cost(self) -> int:
        """Forward + 2 backward: the usual estimate of compute in forward passes."""
        return self.forward + 2 * self.backward

    def snapshot(self) -> PassCount:
        """A copy that does not change."""
        return replace(self)

    def __sub__(self, other: PassCount) -> PassCount:
        return PassCount(self.forward - other.forward, self.backward - other.backward)

    def as_dict(self) -> dict[str, int]:
        """As `edit.json` has it."""
        return asdict(self)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on `device`; of a container's limit, what is left."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = int(psutil.virtual_memory().available)
    with suppress(OSError, ValueError):  # no container, or "max": no limit
        limit, used = (int((_CONTAINER / f"memory.{n}").read_text()) for n in ("max", "current"))
        stat = (_CONTAINER / "memory.stat").read_text().split()
        cached = int(stat[stat.index("inactive_file") + 1])  # given back where it is needed
        free = min(free, limit - used + cached)
    return max(0, free)


class Runner:
    """Runs passes as they are; those without gradient in parts that fit into the free memory.

    Attributes:
        dtype: of latents and embeddings outside the UNet; None: that of the UNet's weights.
        limit: bytes that a pass without gradient may take; None: half of what is free.
        parts: parts that a pass is run in at least, one after another.
    """

    dtype: torch.dtype | None = None
    parts = 1
    limit: int | None = None

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet

    def __call__(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """The output of `run` for all rows, [B, C, h, w]."""
        rows = len(latents)
        if rows < 2 or torch.is_grad_enabled():
            return run(latents, timesteps, prompt_embeds)
        parts = even_parts(rows, min(rows, max(self.parts, -(-rows // self.rows_at_once(latents)))))
        if len(parts) == 1:
            return run(latents, timesteps, prompt_embeds)
        return torch.cat([run(latents[p], timesteps[p], prompt_embeds[p]) for p in parts])

    def rows_at_once(self, latents: Tensor) -> int:
        """Rows of such latents [B, C, h, w] that a pass without gradient runs at once.

        A power of two, so that the same rows go together while the free memory moves a little:
        how many do changes the last bits of their output.
        """
        widths = getattr(getattr(self.unet, "config", None), "block_out_channels", (320,))
        size = next(self.unet.parameters()).element_size()
        row = MAPS_OF_A_PASS * widths[0] * math.prod(latents.shape[2:]) * size
        limit = self.limit
        if limit is None:
            limit = int(SHARE_OF_FREE * free_memory(latents.device))
        return 1 << max(0, (limit // row).bit_length() - 1)


class TrainingRunner(Runner):
    """Runs passes with a gradient in a lower precision and in parts, each computed again backward.

    Args:
        unet: the module.
        parameters: the parameters that are trained, by name.
        autocast: the precision that the UNet computes in; None is that of its weights.
        parts: parts that a pass is run in. Each with a gradient is computed once more in the
            backward pass, so that only one part's activations are kept; those without have the
            same rows, so that where theta' is theta both agree to the last bit.
    """

    def __init__(
        self,
        unet: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        autocast: torch.dtype | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__(unet)
        self.autocast, self.parts = autocast, parts
        self.dtype = torch.float32 if autocast else None
        self._trained = list(parameters.values())
        owners = [name.rpartition(".") for name in parameters]
        self._slots = [(unet.get_submodule(owner), attribute) for owner, _, attribute in owners]

    def __call__(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        inputs = (latents, timesteps, prompt_embeds)
        installed = self._installed()
        if not torch.is_grad_enabled() or not any(
            tensor.requires_grad for tensor in (latents, prompt_embeds, *installed)
        ):
            with torch.no_grad():
                return super().__call__(partial(self._pass, run), *inputs)
        frozen = any(p is not q for p, q in zip(installed, self._trained, strict=True))
        blocks = [m for m in self.unet.modules() if getattr(m, "gradient_checkpointing", False)]
        if self.parts == 1 and not (frozen and blocks):
            return self._pass(run, *inputs)
        versions = [weight._version for weight in installed]

        def part(*inputs: Tensor) -> Tensor:
            """One part, with the weights that the modules have now, also when computed again."""
            if [weight._version for weight in installed] != versions:
                raise RuntimeError("A weight was changed between a pass and its gradient.")
            # Blocks that are checkpointed are computed again later still, when frozen weights are
            # no longer swapped in; so in a frozen pass they are not.
            with self._weights(installed), _no_checkpoints(blocks if frozen else ()):
                return self._pass(run, *inputs)

        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        slices = even_parts(len(latents), min(self.parts, len(latents)))
        return torch.cat([checkpoint(part, *(t[s] for t in inputs), **options) for s in slices])

    def _pass(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """One plain pass in the precision asked for; its output is as precise as the latents."""
        if not self.autocast:
            return run(latents, timesteps, prompt_embeds)
        with torch.autocast(latents.device.type, dtype=self.autocast):
            if self.autocast != torch.float16 or not torch.is_grad_enabled():
                return run(latents, timesteps, prompt_embeds).to(latents.dtype)
            scale = [1.0]
            z, c = _Scale.apply(latents, scale, False), _Scale.apply(prompt_embeds, scale, False)
            with self._weights([_Scale.apply(p, scale, False) for p in self._installed()]):
                output = run(z, timesteps, c).to(latents.dtype)
        scaled: Tensor = _Scale.apply(output, scale, True)
        return scaled

    def _installed(self) -> list[nn.Parameter]:
        """The parameters that the modules have now: the trained ones, or the frozen ones."""
        return [getattr(module, attribute) for module, attribute in self._slots]

    @contextmanager
    def _weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The modules with other weights, for the block."""
        before = self._installed()
        self._install(weights)
        try:
            yield
        finally:
            self._install(before)

    def _install(self, weights: Sequence[Tensor]) -> None:
        for (module, attribute), weight in zip(self._slots, weights, strict=True):
            module._parameters[attribute] = weight  # type: ignore[assignment]


class _Scale(torch.autograd.Function):
    """The identity, whose backward scales a gradient on its way into the UNet and out of it.

    So no gradient vanishes in fp16. The scale is the power of two that brings the largest element
    to about 1/16; it follows from the gradient alone, so nothing of it need be kept.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: list[float], enters: bool) -> Tensor:
        ctx.scale, ctx.enters = scale, enters
        return tensor.view_as(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if not ctx.enters:
            return grad / ctx.scale[0], None, None
        largest = float(grad.abs().max()) if grad.numel() else 0.0
        if 0 < largest < math.inf:
            ctx.scale[0] = 2.0 ** (-4 - round(math.log2(largest)))
        return grad * ctx.scale[0], None, None


@contextmanager
def _no_checkpoints(blocks: Sequence[Any]) -> Iterator[None]:
    """These modules without gradient checkpointing, for the block."""
    for module in blocks:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in blocks:
            module.gradient_checkpointing = True


def even_parts(rows: int, parts: int) -> list[slice]:
    """`rows` in `parts` slices that differ by one row at most."""
    bounds = [rows * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def autocast_dtype(precision: str, device: torch.device, stored: torch.dtype) -> torch.dtype | None:
    """What the UNet computes in, None for float32, with weights that are in `stored`.

    `precision` is fp32, bf16, fp16, or auto: that of the weights.

    Raises:
        ConfigError: the device can't, or the weights are stored in another half precision.
    """
    own = next((name for name, dtype in HALF.items() if dtype == stored), "fp32")
    wanted = own if precision == "auto" else precision
    if own not in ("fp32", wanted):
        raise ConfigError(
            f"The model's weights are in {own}, so it can't be trained in {wanted}; use "
            f"--precision {own}, or load it in fp32."
        )
    if wanted == "fp32":
        return None
    missing = not torch.amp.is_autocast_available(device.type)
    if device.type == "cuda" and wanted == "bf16":
        missing = missing or not torch.cuda.is_bf16_supported()
    if missing:
        raise ConfigError(
            f"The device {device.type!r} can't compute in {wanted}; use --precision fp32."
        )
    return HALF[wanted]


@contextmanager
def training_passes(
    family: FamilyAdapter,
    parameters: Mapping[str, nn.Parameter],
    *,
    precision: str = "auto",
    parts: int = 1,
    gradient_checkpointing: bool = False,
    compile_backend: str = "",
    limit: int | None = None,
) -> Iterator[None]:
    """For the block, UNet passes are run as the arguments say; see `TrainingRunner` and `Runner`.

    Args:
        compile_backend: of `torch.compile`; "" does not compile.

    Raises:
        ConfigError: the device can't compute in that precision, or the UNet can't checkpoint.
    """
    unet: Any = family.unet
    stored = next((p.dtype for p in unet.parameters() if p.dtype in HALF.values()), torch.float32)
    runner = TrainingRunner(
        unet, parameters, autocast_dtype(precision, family.device, stored), parts
    )
    runner.limit = limit
    if gradient_checkpointing and not hasattr(unet, "enable_gradient_checkpointing"):
        raise ConfigError(
            f"A {type(unet).__name__} can't checkpoint; use --set gradient_checkpointing=false."
        )
    with ExitStack() as stack:
        stack.callback(setattr, family, "runner", family.runner)
        stack.callback(setattr, unet, "_compiled_call_impl", unet._compiled_call_impl)
        family.runner = runner
        if gradient_checkpointing and not getattr(unet, "is_gradient_checkpointing", False):
            stack.callback(unet.disable_gradient_checkpointing)
            unet.enable_gradient_checkpointing()
        if compile_backend:
            unet.compile(backend=compile_backend)
        yield


@contextmanager
def idle_parts_offloaded(pipeline: Any, wanted: bool = True) -> Iterator[None]:
    """For the block, VAE and text encoders are on the CPU, where the UNet is not."""
    device = pipeline.unet.device
    parts = [getattr(pipeline, name, None) for name in ("vae", "text_encoder", "text_encoder_2")]
    moved = [p for p in parts if p is not None and wanted and device.type != "cpu"]
    try:
        for part in moved:
            part.to("cpu")
        if moved and device.type == "cuda":
            torch.cuda.empty_cache()
        yield
    finally:
        for part in moved:
            part.to(device)
