"""Sensitivity of words to an edit, in noise-prediction space: no images, a few UNet passes a word.

    s_k(c) = || eps_theta'(z_k, t_k, c) - eps_theta(z_k, t_k, c) ||^2

and s(c) is its mean over k. The norm is a mean over elements (MSE), as in the losses. All words
share the same z_k and t_k, so that they differ by their prompt alone; z_k lies on a trajectory of
the frozen model without a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erasekit.diffusion.sampling import initial_noise
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import ddim_scheduler
from erasekit.diffusion.trajectories import trajectory_seed
from erasekit.edits import Edit
from erasekit.errors import ConceptError, ConfigError, EditError
from erasekit.models.families import FamilyAdapter
from erasekit.models.loading import LoadedModel
from erasekit.models.pipeline_state import held_still

BATCH = 32
"""Words of one UNet pass."""


@dataclass(frozen=True)
class Probes:
    """Latents z_k, [K, C, h, w], and timesteps t_k, [K]; 2 i and 2 i + 1 share a timestep."""

    latents: Tensor
    timesteps: Tensor


@torch.no_grad()
def draw_probes(model: LoadedModel, count: int, seed: int = 0) -> Probes:
    """`count` points of un-prompted DDIM trajectories of the frozen model, one on each.

    Two share a timestep, so that what the choice of noises does can be told from what the choice
    of timesteps does; these are spread evenly over the solver's, the noisiest first.

    Raises:
        ConfigError: more than two points per step of the solver, or none.
    """
    steps, strata = model.descriptor.num_inference_steps, (count + 1) // 2
    if not 1 <= strata <= steps:
        raise ConfigError(f"{count} probes are not possible; use 1 to {2 * steps}.")
    family, scheduler = model.family, ddim_scheduler(model.pipeline, steps)
    places = torch.tensor([int((k // 2 + 0.5) * steps / strata) for k in range(count)])
    noise = initial_noise(family, [trajectory_seed(seed, k) for k in range(count)])
    latents = noise * scheduler.init_noise_sigma
    empty = family.unconditional_embeds().expand(count, -1, -1)
    kept = torch.empty_like(latents)
    with held_still(model.pipeline):
        for step, t in enumerate(scheduler.timesteps):
            kept[places == step] = latents[places == step]
            output = family.predict_output(latents, t.expand(count), empty)
            latents = scheduler.step(output, t, latents, return_dict=False)[0]
    return Probes(kept, scheduler.timesteps[places].to(family.device))


@torch.no_grad()
def word_sensitivities(
    model: LoadedModel,
    edit: Edit,
    words: Sequence[str],
    probes: Probes,
    *,
    batch_size: int = BATCH,
    on_words: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float64]:
    """s_k(c) of every word at every probe, [K, W]; exactly 0 where the edit changes nothing.

    Takes 2 K UNet passes a word. A word's value depends on neither the other words nor the batch,
    but for rounding.

    Args:
        model: the model the edit was made from; it is left as it was.
        edit: theta'.
        words: the prompts; "" is what guidance works against.
        probes: from `draw_probes`, of the unedited model.
        batch_size: words of one pass.
        on_words: called with the number of words just done.

    Raises:
        ConceptError: a word is longer than the tokenizer's limit.
        EditError: the edit is of another model, or has an inference part.
    """
    if edit.inference is not None:
        raise EditError(
            f"The spectrum is one of changed weights, and this edit has the inference part "
            f"{edit.inference.name!r}; use erasekit bench, which measures edits of any kind."
        )
    family = model.family
    changed = {n: p for n, p in model.unet.named_parameters() if n in edit.tensors}
    frozen = FrozenWeights(model.unet, changed)
    found = np.empty((len(probes.timesteps), len(words)))
    with held_still(model.pipeline), edit.applied(model):
        for start in range(0, len(words), batch_size):
            chunk = words[start : start + batch_size]
            embeds = _embed(family, chunk)
            for k, (z, t) in enumerate(zip(probes.latents, probes.timesteps, strict=True)):
                inputs = z.expand(len(chunk), *z.shape), t.expand(len(chunk)), embeds
                edited = family.predict_noise(*inputs)
                with frozen.swapped():
                    original = family.predict_noise(*inputs)
                difference = edited.double() - original.double()
                found[k, start : start + len(chunk)] = (
                    difference.square().flatten(1).mean(dim=1).cpu().numpy()
                )
            on_words(len(chunk))
    return found


def fitting_words(model: LoadedModel, words: Iterable[str]) -> list[str]:
    """`words`, each once, without those that are too long for the tokenizer."""

    def fits(word: str) -> bool:
        try:
            model.family.check_prompt(word)
        except ConceptError:
            return False
        return True

    return [word for word in dict.fromkeys(words) if fits(word)]


def _embed(family: FamilyAdapter, words: Sequence[str]) -> Tensor:
    """[W, L, D]; the empty prompt as the model has it, which for SDXL are zeros."""
    embeds = family.embed_prompts(words)
    for i, word in enumerate(words):
        if not word:
            embeds[i] = family.unconditional_embeds()[0]
    return embeds
