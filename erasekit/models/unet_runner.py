"""How a UNet pass is carried out: in which precision, in how many parts, by which processes.

A pass without gradient (trajectories, images, scorings) may have many rows, and nothing but speed
hangs on how many are run at once; so its memory is bounded here for all of them.

`FamilyAdapter.predict_output` hands each pass to its `runner`. So trajectories, the erase and
keep rows of a step, ascents and scorings all follow suit, and no method need know.

What makes it work is that a pass is one node of the autograd graph, whose backward gives the
gradient of *all* rows in the parameters and in the prompt embeddings, on every process. Losses
and what follows from them are the same everywhere, also where a loss has terms beside the UNet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from erasekit.models.processes import Processes

UNetPass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""latents, timesteps, prompt_embeds -> output; see `FamilyAdapter.predict_output`."""

POSITIONS_AT_ONCE = 1 << 15
"""Positions of latents, rows x height x width, that a pass without gradient runs at once."""
_SCALINGS = 12


def rows_at_once(*size: int, parts: int = 1) -> int:
    """Rows of latents, each of height and width `size`, that a pass without gradient runs at once.

    8 of Stable Diffusion's 64x64, 2 of SDXL's 128x128. Fewer where a batch is to be run in
    `parts`; at least one.
    """
    return max(1, POSITIONS_AT_ONCE // math.prod(size) // parts)


def _even(start: int, count: int, parts: int) -> list[slice]:
    """`count` rows from `start` on in `parts` slices that differ by one row at most."""
    bounds = [start + count * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if b > a]


class Runner:
    """Carries passes out as they are; without gradient, `rows_at_once`."""

    dtype: torch.dtype | None = None
    """What latents and embeddings are in outside the UNet; None: what the UNet's weights are."""

    def __call__(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """The output of `run` for all rows, [B, C, h, w]."""
        rows, most = len(latents), rows_at_once(*latents.shape[2:])
        if torch.is_grad_enabled() or rows <= most:
            return run(latents, timesteps, prompt_embeds)
        parts = _even(0, rows, -(-rows // most))
        return torch.cat([run(latents[p], timesteps[p], prompt_embeds[p]) for p in parts])


@dataclass
class SharedRunner(Runner):
    """Carries passes out in parts, in a lower precision, and by several processes.

    Attributes:
        unet: the module.
        parameters: the parameters in scope, by name. No other parameter gets a gradient.
        processes: who shares the rows.
        autocast: the precision that the UNet computes in; None is that of its weights.
        parts: parts that a pass is run in, one after another, so that the memory of one part is
            enough. A part with a gradient is run once more in the backward pass. A pass without
            gradient is run in more parts where `rows_at_once` asks for them.
        replay: the pass has to be run again in the backward pass (gradient checkpointing), which
            must find the weights that it had.
    """

    unet: nn.Module
    parameters: Mapping[str, nn.Parameter]
    processes: Processes = field(default_factory=Processes)
    autocast: torch.dtype | None = None
    parts: int = 1
    replay: bool = False

    def __post_init__(self) -> None:
        self.dtype = torch.float32 if self.autocast else None
        self._slots = [
            (self.unet.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name in self.parameters
        ]

    def __call__(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        alone = self.processes.count == 1 and self.parts == 1
        few = len(latents) <= rows_at_once(*latents.shape[2:])
        parameters = self.installed()
        wanted = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in (latents, prompt_embeds, *parameters)
        )
        arranged = self.replay or self.autocast == torch.float16 if wanted else not few
        if alone and not arranged:
            return self.run(run, latents, timesteps, prompt_embeds)
        job = _Job(self, run)
        if not wanted:
            return job.forward(latents, timesteps, prompt_embeds, graph=False)
        output: Tensor = _Pass.apply(job, timesteps, latents, prompt_embeds, *parameters)
        return output

    def run(
        self, run: UNetPass, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor
    ) -> Tensor:
        """One plain pass in the precision asked for; its output is as precise as the latents."""
        context: AbstractContextManager[Any] = nullcontext()
        if self.autocast:
            context = torch.autocast(latents.device.type, dtype=self.autocast)
        with context:
            output = run(latents, timesteps, prompt_embeds)
        return output.to(latents.dtype)

    def installed(self) -> list[nn.Parameter]:
        """The parameters that the modules have now: the trained ones, or the frozen ones."""
        return [getattr(module, attribute) for module, attribute in self._slots]

    @contextmanager
    def reinstalled(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """The modules with the parameters of an earlier pass, for the block."""
        before = self.installed()
        self._install(parameters)
        try:
            yield
        finally:
            self._install(before)

    def _install(self, parameters: Sequence[Tensor]) -> None:
        for (module, attribute), parameter in zip(self._slots, parameters, strict=True):
            module._parameters[attribute] = parameter  # type: ignore[assignment]


@dataclass
class _Job:
    """One pass of this process's rows.

    Attributes:
        graphs: what each part's gradient can be taken from: its inputs and its output.
    """

    runner: SharedRunner
    pass_: UNetPass
    graphs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def slices(self, rows: int, most: int = 0) -> list[slice]:
        """The rows of each part of this process, at least one row each.

        Args:
            rows: of all processes.
            most: of a part; 0 is no limit.
        """
        own = self.runner.processes.own(rows)
        count = own.stop - own.start
        parts = max(1, min(self.runner.parts, count))
        return _even(own.start, count, max(parts, -(-count // most) if most else 0))

    def forward(
        self, latents: Tensor, timesteps: Tensor, prompt_embeds: Tensor, *, graph: bool
    ) -> Tensor:
        """All rows' output, [B, C, h, w]; with `graph`, one part keeps what backward needs."""
        rows = len(latents)
        most = 0 if graph else rows_at_once(*latents.shape[2:], parts=self.runner.parts)
        slices = self.slices(rows, most)
        keep = graph and len(slices) == 1
        outputs = []
        for part in slices:
            wanted = (latents.requires_grad, prompt_embeds.requires_grad)
            with torch.set_grad_enabled(keep):
                inputs = _leaves(latents[part], prompt_embeds[part], wanted) if keep else None
                z, c = inputs or (latents[part], prompt_embeds[part])
                output = self.runner.run(self.pass_, z, timesteps[part], c)
            if inputs:
                self.graphs.append((*inputs, output))
            outputs.append(output.detach())
        own = torch.cat(outputs) if outputs else latents.new_zeros(0, *latents.shape[1:])
        return self.runner.processes.gather_rows(own, rows)

    def gradients(
        self,
        grad: Tensor,
        latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: Tensor,
        parameters: Sequence[Tensor],
        wanted: Sequence[bool],
        retain: bool,
    ) -> list[Tensor | None]:
        """Gradients in latents, embeddings and parameters; None where not wanted.

        Args:
            grad: of all rows' output.
            wanted: for latents, embeddings and each parameter.
            retain: the graph will be asked again.
        """
        processes, rows = self.runner.processes, len(latents)
        of_weights = [p for p, needed in zip(parameters, wanted[2:], strict=True) if needed]
        totals = [torch.zeros_like(p) for p in of_weights] if len(self.slices(rows)) != 1 else None
        of_inputs: list[list[Tensor]] = [[], []]
        for number, part in enumerate(self.slices(rows)):
            with self.runner.reinstalled(parameters):
                if self.graphs:
                    z, c, output = self.graphs[number]
                else:
                    with torch.enable_grad():
                        z, c = _leaves(latents[part], prompt_embeds[part], wanted)
                        output = self.runner.run(self.pass_, z, timesteps[part], c)
                asked = [t for t, needed in zip((z, c), wanted, strict=False) if needed]
                found = self._scaled(output, [*asked, *of_weights], grad[part], retain)
            for place in (0, 1):
                if wanted[place]:
                    of_inputs[place].append(found.pop(0))
            if totals is None:
                totals = found
            else:
                for total, one in zip(totals, found, strict=True):
                    total.add_(one)
        if not retain:
            self.graphs.clear()
        weights = totals or []
        processes.total(weights)
        gradients: list[Tensor | None] = []
        for place, whole in enumerate((latents, prompt_embeds)):
            parts = of_inputs[place]
            own = torch.cat(parts) if parts else whole.new_zeros(0, *whole.shape[1:])
            gradients.append(processes.gather_rows(own, rows) if wanted[place] else None)
        left = iter(weights)
        return [*gradients, *(next(left) if needed else None for needed in wanted[2:])]

    def _scaled(
        self, output: Tensor, inputs: Sequence[Tensor], grad: Tensor, retain: bool
    ) -> list[Tensor]:
        """Gradients of `output` in `inputs`; in fp16 scaled on the way, so that none vanishes.

        The scale is the power of two that brings the largest element of `grad` to about 1, and is
        lowered where a gradient overflows. It follows from `grad` alone, so nothing of it
        need be kept, and no step is skipped.
        """
        half = self.runner.autocast == torch.float16
        scale = _power_of_two(grad) if half else 1.0
        for attempt in range(_SCALINGS if half else 1):
            again = retain or (half and attempt < _SCALINGS - 1)
            gradients = torch.autograd.grad(
                output,
                inputs,
                grad * scale if half else grad,
                retain_graph=again or None,
                allow_unused=True,
            )
            found = [
                torch.zeros_like(x) if g is None else g.div_(scale) if half else g
                for g, x in zip(gradients, inputs, strict=True)
            ]
            if not half or all(bool(g.isfinite().all()) for g in found):
                break
            scale /= 16
        return found


class _Pass(torch.autograd.Function):
    """A pass as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        job: _Job,
        timesteps: Tensor,
        latents: Tensor,
        prompt_embeds: Tensor,
        *parameters: nn.Parameter,
    ) -> Tensor:
        ctx.job = job
        ctx.save_for_backward(timesteps, latents, prompt_embeds, *parameters)
        return job.forward(latents, timesteps, prompt_embeds, graph=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        timesteps, latents, prompt_embeds, *parameters = ctx.saved_tensors
        wanted = [
            needed and _engine_wants(function)
            for needed, (function, _) in zip(
                ctx.needs_input_grad[2:], ctx.next_functions[1:], strict=True
            )
        ]
        retain = torch._C._autograd._get_current_graph_task_keep_graph()
        return (
            None,
            None,
            *ctx.job.gradients(grad, latents, timesteps, prompt_embeds, parameters, wanted, retain),
        )


def _engine_wants(function: Any) -> bool:
    """Whether the backward pass under way wants this input's gradient.

    `torch.autograd.grad(gain, pi)` wants none in the weights, which is most of the work. The
    engine does not say so of a leaf that it is asked for, and raises.
    """
    try:
        return bool(torch._C._will_engine_execute_node(function))
    except RuntimeError:
        return True


def _leaves(
    latents: Tensor, prompt_embeds: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """Both without their past; those that are wanted, as leaves that gradients can be taken in."""
    return (
        latents.detach().requires_grad_(wanted[0]),
        prompt_embeds.detach().requires_grad_(wanted[1]),
    )


def _power_of_two(grad: Tensor) -> float:
    largest = float(grad.abs().max()) if grad.numel() else 0.0
    if not 0 < largest < math.inf:
        return 1.0
    return float(2.0 ** -round(math.log2(largest)))
