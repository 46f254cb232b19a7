"""One erase term, one preservation strategy.

    min_theta'  || eps_theta'(z_t, c_e) - target ||^2  +  lambda * L2

with the target eps_theta(c_n) - g * (eps_theta(c_e) - eps_theta(c_n)) of ESD (Gandikota et al.,
ICCV 2023, eq. 7) and L2 from the strategy (Bui et al., NeurIPS 2024, eq. 1-4). Norms are means
over elements (MSE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.concept_space import ConceptSpace
from erasekit.diffusion.scope import FrozenWeights
from erasekit.diffusion.solvers import DDIM, SOLVERS
from erasekit.diffusion.trajectories import FrozenTrajectories
from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext, MemoryUse, StepOutput, rows_per_step
from erasekit.methods.sampled import SampledConfig, SampledErasure
from erasekit.models.families import FamilyAdapter


class GradientConfig(SampledConfig):
    """Hyperparameters that every method of this family shares."""

    keep_weight: float = Field(1.0, ge=0, description="lambda, the weight of preservation")
    negative_guidance: float = Field(
        1.0,
        ge=0,
        description="g: how far the target lies beyond the neutral concept, away from the erased",
    )
    keep_trajectories: int = Field(2, gt=0, description="trajectories kept per word of R")
    harm_every: int = Field(
        0,
        ge=0,
        description="outer steps between two measurements of the harm that theta' does to every "
        "word of R, which rank what is kept; 4 passes a word each, after 4 trajectories; 0: never",
    )
    keep_guidance: float = Field(
        1.0,
        ge=0,
        description="guidance of the trajectories kept of words of R; 1 is none, at half the "
        "passes",
    )


@dataclass(frozen=True)
class KeepBatch:
    """Rows of one step, beside what the frozen model predicts there.

    As the keep branch, where the trained model should predict `noise_pred`.

    Attributes:
        latents: z_t, [K, C, h, w].
        timesteps: [K], int64.
        prompt_embeds: the concepts, [K, L, D].
        noise_pred: frozen eps(z_t, c), [K, C, h, w].
    """

    latents: Tensor
    timesteps: Tensor
    prompt_embeds: Tensor
    noise_pred: Tensor

    def part(self, rows: slice | Tensor) -> Self:
        """Some of its rows, by a slice or by indices."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[rows] for k, v in values.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class ErasedBatch(KeepBatch):
    """The erase branch of one step: z_t of the erased concepts c_e, and eps(z_t, c_e) there.

    Attributes:
        neutral_noise_pred: frozen eps(z_t, c_n), [B, C, h, w].
        concepts: which erased concept each row is of, [B], int64.
        step: the outer step, from 0.
    """

    neutral_noise_pred: Tensor
    concepts: Tensor
    step: int

    def repeated(self, times: int) -> ErasedBatch:
        """Each row so many times, [times x B, ...]."""
        return self.part(torch.arange(len(self.latents)).repeat_interleave(times))


class PreservationStrategy:
    """What is preserved while the erased concepts go.

    The three questions a strategy answers, in the order they are asked in each step:

    1. `ascend(batch)`: the inner max. Move the adversarial concept; may do nothing.
    2. `keep(batch)`: which rows to keep, or None.
    3. `loss(noise_pred, keep)`: L2. By default the MSE of those rows; a strategy without rows
       overrides it.

    Everything it needs is in `self.task` after `prepare`. A strategy that has rows is given
    their predictions from the same UNet pass as the erase branch.

    Class attributes:
        uses_concept_space: it chooses from R.
        adversarial: what it keeps is searched for as what the erasure harms most.
        state: attributes that a checkpoint must keep, tensors each.

    Attributes:
        space: R, or what embeddings are named by; None where nothing is chosen.
    """

    Config: ClassVar[type[Settings]] = Settings
    uses_concept_space: ClassVar[bool] = False
    adversarial: ClassVar[bool] = False
    state: ClassVar[tuple[str, ...]] = ()
    space: ConceptSpace | None = None

    def __init__(self, config: Settings) -> None:
        self.config = config

    @property
    def rows_kept(self) -> int:
        """Rows of `keep` beside each row of the erase branch."""
        return 0 if type(self).keep is PreservationStrategy.keep else 1

    @property
    def rows_drawn(self) -> int:
        """Rows that z_t are drawn for in a step, beside each row of the erase branch."""
        return self.rows_kept

    def words_searched(self, context: ErasureContext) -> int:
        """Words of R that rows are drawn of; 0 where it keeps no trajectories of words."""
        return 0

    def expected_passes(self, context: ErasureContext, rows: int) -> float:
        """Forward passes of its own in a step of `rows`, beside those of `keep`'s rows.

        On average; a backward pass counts as two. Asked before `prepare`.
        """
        return 0.0

    def prepare(self, task: GradientErasure) -> None:
        """Called once before the first step, with the UNet still being theta."""
        self.task = task

    def ascend(self, batch: ErasedBatch) -> None:
        """The inner max: move the adversarial concepts towards larger L2."""

    def keep(self, batch: ErasedBatch) -> KeepBatch | None:
        """The rows to keep in this step."""
        return None

    def loss(self, noise_pred: Tensor | None, keep: KeepBatch | None) -> Tensor:
        """L2 of this step, a scalar.

        Args:
            noise_pred: eps_theta'(z_t, c) of the kept rows, [K, C, h, w]; None without rows.
            keep: what `keep` returned.
        """
        if noise_pred is None or keep is None:
            return torch.zeros(())
        return self.task.mse(noise_pred, keep.noise_pred, keep.timesteps)

    def describe(self) -> list[dict[str, Any]] | None:
        """For the history, a row per erased concept, as `described` makes it."""
        return None

    def described(self, erased: int, **found: Any) -> dict[str, Any]:
        """A row of `describe`: erased, concept, entropy, shift, nearest; what is not found is None.

        A distribution's `uniform` is the entropy that the uniform one would have.
        """
        unknown = dict.fromkeys(("concept", "entropy", "shift", "nearest"))
        return {"erased": self.task.context.erasure.erased[erased].text, **unknown, **found}

    def adversaries(self) -> Tensor | None:
        """The adversarial concepts now, [E, L, D], or None."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep, such as pi and its optimiser; by default `state`."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; called after `prepare`."""
        for name in self.state:
            setattr(self, name, state[name].to(getattr(self, name)).clone())


class HarmOfWords:
    """How much theta' harms each of some words, beside the others.

    Harm is || eps_theta'(z_t, c) - eps_theta(z_t, c) ||^2, taken for all words at one timestep and
    from one starting noise, so that they differ by the word alone, relative to their mean there,
    and averaged over `PROBES` noises and timesteps, which are always the same.

    Args:
        family: the adapter.
        prompt_embeds: of the words, [K, L, D].
        frozen: theta.
    """

    PROBES = 4
    STEPS = 8

    def __init__(self, family: FamilyAdapter, prompt_embeds: Tensor, frozen: FrozenWeights) -> None:
        self.family, self.prompt_embeds = family, prompt_embeds
        self.source = FrozenTrajectories(
            family,
            prompt_embeds,
            solver=DDIM(family, self.STEPS),
            guidance_scale=1.0,
            per_prompt=self.PROBES,
            seed=-1,  # no run's
            frozen=frozen,
            with_uncond=False,
        )

    @torch.no_grad()
    def harm(self) -> Tensor:
        """Of the model as it is now, [K]; its mean is 1, or 0 where theta' is theta."""
        generator = torch.Generator().manual_seed(0)
        words = torch.arange(len(self.prompt_embeds))
        total = torch.zeros(len(words))
        for _ in range(self.PROBES):
            drawn = self.source.draw(words, generator, shared_timestep=True)
            noise_pred = self.family.predict_noise(
                drawn.latents, drawn.timesteps, self.prompt_embeds
            )
            errors = (noise_pred - drawn.noise_pred).square().flatten(1).mean(dim=1).cpu()
            total += errors.float() / errors.float().mean().clamp_min(1e-30)
        return total / self.PROBES

    def ranks(self) -> Tensor:
        """Share of the other words that are harmed more, [K]: 0 for the hardest, 1/2 at random."""
        harm = self.harm()
        return (harm[None] > harm[:, None]).sum(dim=1) / max(1, len(harm) - 1)


class GradientErasure(SampledErasure):
    """The erase term, with a preservation strategy by name.

    Args:
        config: see `GradientConfig`.
        strategy: a built strategy.
    """

    Config = GradientConfig
    config: GradientConfig
    data_parallel = True

    def __init__(self, config: GradientConfig, strategy: PreservationStrategy) -> None:
        super().__init__(config)
        self.strategy = strategy

    def expected_passes(self, context: ErasureContext, steps: int) -> float:
        rows = rows_per_step(self.config.batch_size, len(context.erasure.erased))
        per_step = 3.0 * rows * self.strategy.rows_kept
        per_step += self.strategy.expected_passes(context, rows)
        words, guidance = self.strategy.words_searched(context), self.config.keep_guidance
        trajectories, drawn = words * self.config.keep_trajectories, rows * self.strategy.rows_drawn
        sampled = self.drawn_passes(trajectories, drawn, steps, guidance) if words else 0.0
        return super().expected_passes(context, steps) + steps * per_step + sampled

    def expected_memory(self, context: ErasureContext) -> MemoryUse:
        erase, words = super().expected_memory(context), self.strategy.words_searched(context)
        looks_back = SOLVERS[self.config.trajectory_solver].looks_back
        both = looks_back and self.config.keep_guidance != 1
        kept = self.kept_bytes(context, words * self.config.keep_trajectories, both)
        room = int(self.config.trajectory_memory * 2**30)
        return MemoryUse(erase.rows * (1 + self.strategy.rows_kept), min(erase.kept + kept, room))

    def prepare(self, context: ErasureContext) -> None:
        """Sample and keep the trajectories of the erased concepts.

        Raises:
            ConfigError: concepts to keep were named, and the strategy has no use for them.
        """
        super().prepare(context)
        if context.erasure.keep and not self.strategy.uses_concept_space:
            raise ConfigError(
                f"The strategy {type(self.strategy).__name__!r} chooses nothing from a list; drop "
                "--keep, or use --method random, nearest or gumbel."
            )
        self.erased_source = self.concept_source(context.erased_embeds)
        self.strategy.prepare(self)
        self._harm: HarmOfWords | None = None

    def training_step(self, step: int) -> StepOutput:
        batch = self.erased_batch(step)
        self.strategy.ascend(batch)
        keep = self.strategy.keep(batch)
        target = self.target(batch)
        own = self.context.own_rows(len(batch.latents))  # of this process; all where it is alone
        latents, timesteps = batch.latents[own], batch.timesteps[own]
        rows, embeds = len(latents), batch.prompt_embeds[own]
        if keep is None:
            noise_pred, kept_pred = self.family.predict_noise(latents, timesteps, embeds), None
        else:
            keep = keep.part(self.context.own_rows(len(keep.latents)))
            both = self.family.predict_noise(
                torch.cat([latents, keep.latents]),
                torch.cat([timesteps, keep.timesteps]),
                torch.cat([embeds, keep.prompt_embeds]),
            )
            noise_pred, kept_pred = both[:rows], both[rows:]
        erase_loss = self.mse(noise_pred, target[own], timesteps)
        preserve_loss = self.strategy.loss(kept_pred, keep)
        loss = erase_loss + self.config.keep_weight * preserve_loss
        adversary = self.strategy.describe()
        every = self.config.harm_every
        if adversary and every and step and step % every == 0:
            self._rank(adversary)
        return StepOutput(
            loss,
            {
                "erase_loss": float(erase_loss.detach()),
                "preserve_loss": float(preserve_loss.detach()),
                "timestep": [int(t) for t in batch.timesteps],
                "adversary": adversary,
            },
        )

    @property
    def adversarial(self) -> bool:
        return self.strategy.adversarial

    def _rank(self, adversary: Sequence[dict[str, Any]]) -> None:
        """Write down where the words that each row names stand in R, by harm."""
        space = self.strategy.space
        if space is None:
            return
        if self._harm is None:
            self._harm = HarmOfWords(self.family, space.prompt_embeds, self.context.frozen)
        ranks = dict(zip(space.words, self._harm.ranks().tolist(), strict=True))
        for row in adversary:
            named = (row["concept"] or row["nearest"] or "").split(", ")
            found = [ranks[word] for word in named if word in ranks]
            row["rank"] = sum(found) / len(found) if found else None

    def adversaries(self) -> Tensor | None:
        return self.strategy.adversaries()

    def state_dict(self) -> dict[str, Tensor]:
        return {**super().state_dict(), **self.strategy.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.strategy.load_state_dict(state)

    def erased_batch(self, step: int) -> ErasedBatch:
        """The rows of the erase term at a step, with the frozen predictions; the same each time."""
        generator = self.context.generator(step, "erase")
        concepts = self.rows(step, generator)
        drawn = self.erased_source.draw(concepts, self.latents_generator(step, generator))
        neutral = drawn.unconditional_noise_pred()
        if self.context.erasure.neutral:
            embeds = self.context.neutral_embeds.expand(len(concepts), -1, -1)
            neutral = self.frozen_noise(drawn.latents, drawn.timesteps, embeds)
        embeds = self.context.erased_embeds[concepts]
        rows = (drawn.latents, drawn.timesteps, embeds, drawn.noise_pred)
        return ErasedBatch(*rows, neutral, concepts, step)

    def target(self, batch: ErasedBatch) -> Tensor:
        """What eps_theta'(z_t, c_e) is to become, [B, C, h, w], without gradient.

        Asked for after the strategy's `ascend` and `keep`. A method that maps the erased concepts
        to something else than the neutral one overrides this.
        """
        away = batch.noise_pred - batch.neutral_noise_pred
        return batch.neutral_noise_pred - self.config.negative_guidance * away
