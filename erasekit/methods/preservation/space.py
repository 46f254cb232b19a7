"""What the strategies that choose from a concept space R share."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.concept_space import ConceptSpace, words_for
from erasekit.methods.base import ErasureContext
from erasekit.methods.gradient import (
    ErasedBatch,
    GradientErasure,
    KeepBatch,
    PreservationStrategy,
)


class SpaceConfig(Settings):
    """Where R comes from and how it is narrowed."""

    concept_space: str = Field(
        "", description="source of R: a registered one or a file; empty: the model's own"
    )
    num_concepts: int = Field(
        1000, gt=0, description="K: words of R nearest to the erased concepts that are searched"
    )
    centres: int = Field(
        0, ge=0, description="thin R to this many centres of its clusters; 0 keeps all"
    )
    keep_rows: int = Field(
        1, gt=0, description="rows kept beside each row of the erase term, of a word each"
    )


class SpacePreservation(PreservationStrategy):
    """Keeps words of R, each on its own z_t; subclasses say which.

    Attributes (after `prepare`):
        space: the words that are searched.
        chosen: index into `space` of each kept row of this step, [K].
        concepts: which erased concept each kept row stands beside, [K].
    """

    Config = SpaceConfig
    config: SpaceConfig
    uses_concept_space = True
    space: ConceptSpace

    @property
    def rows_kept(self) -> int:
        return self.config.keep_rows

    def words_searched(self, context: ErasureContext) -> int:
        source = self.config.concept_space or context.model.descriptor.concept_space
        named = context.erasure.keep
        words = named or words_for(context.model, source)
        return min(len(words), self.config.num_concepts, self.config.centres or len(words))

    def prepare(self, task: GradientErasure) -> None:
        super().prepare(task)
        context = task.context
        space = context.concept_space(self.config.concept_space)
        space = space.nearest(context.erased_features, self.config.num_concepts)
        self.space = space.centres(self.config.centres) if self.config.centres else space
        config = task.config
        self.source = task.latent_source(
            self.space.prompt_embeds,
            config.keep_trajectories,
            config.keep_guidance if config.latents_from == "frozen" else None,
            with_uncond=False,
        )
        self.chosen = torch.zeros(0, dtype=torch.int64)
        self.concepts = torch.zeros(0, dtype=torch.int64)

    def choose(self, batch: ErasedBatch) -> Tensor:
        """Indices into `space` of the words to keep beside each row, [B], int64."""
        raise TypeError(f"{type(self).__name__} does not say which words it keeps")

    def keep(self, batch: ErasedBatch) -> KeepBatch:
        batch = batch.repeated(self.config.keep_rows)
        self.chosen, self.concepts = self.choose(batch), batch.concepts
        branch = self.task.context.generator(batch.step, "keep")
        drawn = self.source.draw(self.chosen, self.task.latents_generator(batch.step, branch))
        embeds = self.space.prompt_embeds[self.chosen]
        return KeepBatch(drawn.latents, drawn.timesteps, embeds, drawn.noise_pred)

    def describe(self) -> list[dict[str, Any]]:
        rows = []
        for e in range(len(self.task.context.erasure.erased)):
            indices = self.chosen[self.concepts == e].tolist()
            words = list(dict.fromkeys(self.space.words[i] for i in indices))
            found = {"concept": ", ".join(words) or None, "nearest": words[0] if words else None}
            rows.append(self.described(e, **{**found, **self.describe_search(e)}))
        return rows

    def describe_search(self, erased: int) -> dict[str, Any]:
        """What the history says of the search for one erased concept."""
        return {}
