"""Further terms of guidance: what an edit takes away from the conditional prediction.

Classifier-free guidance draws with eps(z_t) + s_g (eps(z_t, c) - eps(z_t)). A term gamma moves the
conditional prediction, so that images are drawn with

    eps(z_t) + s_g (eps(z_t, c) - gamma - eps(z_t)).

Terms are asked in one place, `Drawing.condition`, by erasekit's own sampler and, through a hook on
the UNet, by plain diffusers' pipelines. Several terms are each given the same predictions, and are
added, so their order does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erasekit.models.families import FamilyAdapter

_TERMS = "_erasekit_guidance"
"""Attribute of a UNet that holds the terms installed on it; absent where there are none."""
_HOOK = f"{_TERMS}_hook"


@dataclass(frozen=True)
class GuidanceStep:
    """One step of a drawing.

    Attributes:
        index: the step, from 0.
        noise_uncond: eps(z_t), [B, C, h, w].
        noise_cond: eps(z_t, c), [B, C, h, w].
        predict_noise: eps(z_t, c') at this step for other prompt embeddings c', [1, L, D]: one
            more UNet pass of B rows, [B, C, h, w].
    """

    index: int
    noise_uncond: Tensor
    noise_cond: Tensor
    predict_noise: Callable[[Tensor], Tensor]


Gamma = Callable[[GuidanceStep], Tensor]
"""gamma of one step, [B, C, h, w]; called once for each step of one drawing, in order."""


class GuidanceTerm(ABC):
    """A term gamma."""

    @abstractmethod
    def begin(self) -> Gamma:
        """A drawing begins; what it carries from step to step belongs in what is returned."""


class Drawing:
    """The terms of one UNet over one drawing of a batch."""

    def __init__(self, family: FamilyAdapter) -> None:
        self.family = family
        self._gammas = [term.begin() for term in family.unet.__dict__.get(_TERMS, ())]
        self._index = 0

    def condition(
        self, output_uncond: Tensor, output_cond: Tensor, latents: Tensor, timesteps: Tensor
    ) -> Tensor:
        """The conditional output that guidance is to use, [B, C, h, w].

        Without terms it is `output_cond` itself.

        Args:
            output_uncond: the UNet's output without the prompt, [B, C, h, w].
            output_cond: with it.
            latents: z_t as the UNet was given it, [B, C, h, w].
            timesteps: t, [B].
        """
        if not self._gammas:
            return output_cond
        family = self.family

        def to_noise(output: Tensor) -> Tensor:
            return family.to_noise(output, latents, timesteps.round().long())

        def predict_noise(prompt_embeds: Tensor) -> Tensor:
            embeds = prompt_embeds.to(output_cond).expand(len(latents), -1, -1)
            return to_noise(family.predict_output(latents, timesteps, embeds))

        noise_uncond, noise_cond = to_noise(output_uncond), to_noise(output_cond)
        step = GuidanceStep(self._index, noise_uncond, noise_cond, predict_noise)
        self._index += 1
        gamma = torch.stack([gamma(step) for gamma in self._gammas]).sum(dim=0)
        if family.prediction_type == "v_prediction":  # eps = sqrt(abar_t) v + ..., see to_noise
            alphas = family.alphas_cumprod[timesteps.round().long().to(family.device)]
            gamma = gamma / alphas.sqrt()[:, None, None, None]
        return output_cond - gamma.to(output_cond.dtype)


@contextmanager
def guidance_installed(family: FamilyAdapter, term: GuidanceTerm) -> Iterator[None]:
    """For the block, images are drawn with this term.

    That goes for `erasekit.diffusion.sampling` and for a call of the diffusers pipeline, with
    guidance of more than 1; without guidance there is nothing for a term to change. What methods
    draw in training, and single predictions of noise, have no terms. For SDXL, predictions that a
    term asks for are conditioned on the model's own size, also where the pipeline draws another.
    """
    unet = family.unet
    terms = unet.__dict__.setdefault(_TERMS, [])
    if not terms:  # one hook asks for all terms, so that none sees what another has changed
        hook = _PlainPipeline(family)
        unet.__dict__[_HOOK] = unet.register_forward_hook(hook, with_kwargs=True)
    terms.append(term)
    try:
        yield
    finally:
        del terms[next(i for i, one in enumerate(terms) if one is term)]
        if not terms:
            unet.__dict__.pop(_HOOK).remove()
            del unet.__dict__[_TERMS]


class _PlainPipeline:
    """Asks for the terms within a call of a plain diffusers pipeline.

    Such a pipeline hands the UNet one timestep for all rows (a number, or a tensor without
    dimensions) and, with guidance, the unconditional rows before the conditional ones. erasekit's
    own passes give a timestep per row, and are left alone. A drawing begins at the first timestep
    of the pipeline's scheduler.
    """

    def __init__(self, family: FamilyAdapter) -> None:
        self.family = family
        self.drawing: Drawing | None = None

    def __call__(
        self, unet: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Any:
        latents = kwargs["sample"] if "sample" in kwargs else args[0]
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        pipeline = self.family.pipeline
        if isinstance(timestep, Tensor) and timestep.dim():
            return output
        if not getattr(pipeline, "do_classifier_free_guidance", False):
            return output
        if self.drawing is None or float(timestep) == float(pipeline.scheduler.timesteps[0]):
            self.drawing = Drawing(self.family)
        uncond, cond = output[0].chunk(2)
        halves = latents.chunk(2)[1]
        timesteps = torch.as_tensor(timestep, device=halves.device).expand(len(halves))
        changed = torch.cat([uncond, self.drawing.condition(uncond, cond, halves, timesteps)])
        if isinstance(output, tuple):
            return (changed, *output[1:])
        return type(output)(sample=changed)
