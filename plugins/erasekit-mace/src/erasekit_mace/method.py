"""MACE: words around a concept refined, attention to it suppressed, the adapters fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from erasekit.diffusion.clean_latents import CleanLatents, GeneratedLatents
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ConfigError
from erasekit.methods.base import ErasureContext, ErasureMethod, MemoryUse, StepOutput
from erasekit.methods.closed_form import MappingConfig, guides_of, words_to_keep
from erasekit_mace.adapters import WEIGHT, Adapters, projections
from erasekit_mace.attention import recording, suppression
from erasekit_mace.closed_form import Solver, fusion_residuals, refinement_residuals
from erasekit_mace.masks import NOISE_LEVELS, attention_masks, read_masks, read_pictures
from erasekit_mace.timesteps import timestep_weights
from erasekit_mace.words import all_placed, read_templates


class MaceConfig(MappingConfig):
    """Hyperparameters of the three stages."""

    prompts: str = Field(
        "{}|a photo of {}|an image of {}|{} in a photo",
        description="templates with {} for the concept, separated by '|'; all words behind it are "
        "refined, the end of the text among them",
    )
    refine_preserve: float = Field(
        0.1, ge=0, description="lambda_1: weight of each kept row while words are refined"
    )
    fuse_preserve: float = Field(
        0.1, ge=0, description="lambda_2: weight of each kept row while adapters are fused"
    )
    ridge: float = Field(
        0.05, gt=0, description="weight of staying near the original projections, in both"
    )
    rank: int = Field(1, gt=0, description="rank of a concept's adapters")
    batch_size: int = Field(4, gt=0, description="rows per step and concept")
    images: int = Field(8, gt=0, description="pictures drawn of each concept before training")
    sampling_steps: int = Field(50, gt=0, description="solver steps of such a picture")
    sampling_guidance: float = Field(6.0, ge=0, description="guidance while drawing them")
    pictures: str = Field(
        "", description="folder with a folder of pictures for each concept; empty: they are drawn"
    )
    masks: str = Field(
        "attention",
        description="where the concept is: attention, whole (everywhere), or a folder as of "
        "pictures with masks of the same names, white where the concept is",
    )
    threshold: float = Field(
        0.35, ge=0, le=1, description="of attention, from least to most, for masks=attention"
    )
    timestep_low: float = Field(0.2, ge=0, lt=1, description="t1 / T of importance sampling")
    timestep_high: float = Field(0.4, gt=0, le=1, description="t2 / T of importance sampling")
    timestep_sharpness: float = Field(0.05, gt=0, description="gamma of importance sampling")


class MassConceptErasure(ErasureMethod):
    """W -> W' -> W' + u_i v_i for each concept i -> W*, in keys and values of cross-attention.

    Lu et al., CVPR 2024. W' maps the words behind a concept to what they map to behind its guide;
    u_i v_i is trained to turn attention away from the concept's tokens; W* gives the rows of each
    concept what its own adapter gives. Each step trains every concept's adapters, by themselves.
    """

    Config = MaceConfig
    config: MaceConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "steps": 100,
        "learning_rate": 1e-2,
        "scope": "xattn-kv",
        "num_concepts": 100,
    }

    def expected_passes(self, context: ErasureContext, steps: int) -> float:
        """Pictures given by the user are taken to be as many as would be drawn."""
        config, erased = self.config, len(context.erasure.erased)
        pictures = config.images * erased
        drawn = 0 if config.pictures else 2 * pictures * config.sampling_steps
        masks = pictures * len(NOISE_LEVELS) if config.masks == "attention" else 0
        return float(drawn + masks + 3 * erased * steps * config.batch_size)

    def expected_memory(self, context: ErasureContext) -> MemoryUse:
        return MemoryUse(len(context.erasure.erased) * self.config.batch_size)

    @contextmanager
    def trained_parameters(
        self, context: ErasureContext, scope: ParameterScope
    ) -> Iterator[dict[str, nn.Parameter]]:
        unet = context.model.unet
        self.selected = scope.select(unet)
        self.layers = projections(unet, scope)
        generators = [
            context.generator(0, f"adapters {concept.text}") for concept in context.erasure.erased
        ]
        self.adapters = Adapters(self.layers, self.config.rank, generators)
        with self.adapters.installed():
            yield self.adapters.parameters

    def prepare(self, context: ErasureContext) -> None:
        """Draw pictures, find masks, and refine the words around each concept.

        Raises:
            ConfigError: a template, a picture or a mask that can't be used, neither one guide nor
                one for each concept, or an empty range of timesteps.
            ConceptError: a concept is both erased and kept, or a prompt is too long.
        """
        self.context, self.family = context, context.family
        low, high = self.config.timestep_low, self.config.timestep_high
        if low >= high:
            raise ConfigError(
                f"Settings timestep_low={low:g} and timestep_high={high:g} leave no timestep; "
                "the first should be the smaller one."
            )
        count = len(self.family.alphas_cumprod)
        self.timestep_weights = timestep_weights(count, low, high, self.config.timestep_sharpness)
        self.templates = read_templates(self.config.prompts)
        concepts = [concept.text for concept in context.erasure.erased]
        self.placed = all_placed(self.family, self.templates, concepts)
        self.embeds = [self.family.embed_prompts([p.text for p in own]) for own in self.placed]
        sources = [self._pictures(number) for number in range(len(concepts))]
        self.sources = [source for source, _ in sources]
        self.masks = [self._masks(number, names) for number, (_, names) in enumerate(sources)]
        self._refine(concepts)

    def training_step(self, step: int) -> StepOutput:
        """One step of each concept's adapters, of which none feels the others.

        Concepts are back-propagated one after another, so that memory does not grow with them; what
        the Trainer gets has their losses' sum as value and as gradient.
        """
        total = torch.zeros((), device=self.family.device)
        losses: list[float] = []
        timesteps: list[int] = []
        for concept in range(len(self.placed)):
            parameters = self.adapters.choose(concept)
            loss, drawn = self._suppression(step, concept)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    product = (parameter * gradient).sum()
                    total = total + product - product.detach()
            total = total + loss.detach()
            losses.append(float(loss.detach()))
            timesteps += drawn.tolist()
        record = {"erase_loss": sum(losses) / len(losses), "timestep": timesteps}
        return StepOutput(total, record)

    def _suppression(self, step: int, concept: int) -> tuple[Tensor, Tensor]:
        """The loss of one concept, scalar, and the timesteps of its rows, [B]."""
        source, prompts = self.sources[concept], self.placed[concept]
        text = self.context.erasure.erased[concept].text
        generator = self.context.generator(step, f"suppress {text}")
        prompt = step % len(prompts)
        of_prompt = (source.prompts == prompt).nonzero().flatten()
        if not len(of_prompt):  # fewer pictures than prompts
            of_prompt = torch.arange(len(source.prompts))
        rows = self.config.batch_size
        images = of_prompt[torch.randint(len(of_prompt), (rows,), generator=generator)]
        timesteps = torch.multinomial(
            self.timestep_weights, rows, replacement=True, generator=generator
        )
        noised = source.draw(images, generator, timesteps)
        places = slice(prompts[prompt].start, prompts[prompt].end)

        def read(unet_pass: Callable[[], Tensor], masks: Tensor) -> Tensor:
            with recording(self.family.unet) as recorded:
                unet_pass()
            return suppression(recorded.maps(), masks, places)

        losses = self.family.read_pass(
            read,
            noised.latents,
            noised.timesteps,
            self.embeds[concept][prompt].expand(rows, -1, -1),
            self.masks[concept][images.to(self.masks[concept].device)],
        )
        return losses.mean(), timesteps

    @torch.no_grad()
    def edited(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W* of each projection, float32; other parameters in scope as they are."""
        tensors = {name: p.detach().float() for name, p in self.selected.items()}
        for name, layer in self.layers.items():
            factors = [
                (self._exact(down), self._exact(up))
                for down, up in self.adapters.factors(name, trained)
            ]
            residuals = fusion_residuals(self.refined[name], factors, self.rows)
            weight = self._exact(layer.weight) + self.fusion.update(residuals)
            tensors[f"{name}{WEIGHT}"] = weight.to(layer.weight.device, torch.float32)
        return tensors

    def _pictures(self, number: int) -> tuple[CleanLatents, list[str]]:
        """Pictures of one concept, and their names where they come from files."""
        family, config = self.family, self.config
        concept = self.context.erasure.erased[number].text
        prompts = len(self.templates)
        if not config.pictures:
            self.context.on_status(f"drawing {config.images} pictures of {concept}")
            drawn = GeneratedLatents(
                family,
                self.embeds[number],
                config.images,
                num_inference_steps=config.sampling_steps,
                guidance_scale=config.sampling_guidance,
                seed=self.context.seed,
                frozen=self.context.frozen,
            )
            return drawn, []
        found = read_pictures(config.pictures, concept, self._size())
        latents = family.encode(np.stack(list(found.values())))
        return CleanLatents(family, latents, torch.arange(len(found)) % prompts), list(found)

    def _masks(self, number: int, names: list[str]) -> Tensor:
        """M of one concept's pictures, [N, 1, h, w]."""
        source, concept = self.sources[number], self.context.erasure.erased[number].text
        size = (source.latents.shape[2], source.latents.shape[3])
        if self.config.masks == "whole":
            return torch.ones(len(source.latents), 1, *size, device=self.family.device)
        if self.config.masks == "attention":
            return attention_masks(
                self.family,
                source,
                self.embeds[number],
                [slice(p.start, p.end) for p in self.placed[number]],
                self.config.threshold,
                self.context.generator(0, f"masks {concept}"),
            )
        if not names:
            raise ConfigError(
                "Masks from a folder belong to pictures from a folder; name it, as in --set "
                "pictures=FOLDER."
            )
        masks = read_masks(self.config.masks, concept, names, self._size(), size)
        return masks.to(self.family.device)

    def _size(self) -> tuple[int, int]:
        """Height and width of the model's pictures."""
        _, height, width = self.family.latents_shape()
        factor = self.family.pipeline.vae_scale_factor
        return height * factor, width * factor

    def _refine(self, concepts: list[str]) -> None:
        """Solve for W', and set up the fusion, which has the same kept rows."""
        config = self.config
        guides = guides_of(self.context, config.guide)
        guided = all_placed(self.family, self.templates, guides)
        found: list[Tensor] = []
        wanted: list[Tensor] = []
        self.rows: list[Tensor] = []
        for own, other in zip(self.placed, guided, strict=True):
            ours = self._token_rows([p.text for p in own])
            theirs = self._token_rows([p.text for p in other])
            for p, q, e, g in zip(own, other, ours, theirs, strict=True):
                count = min(len(e) - p.end, len(g) - q.end)
                found.append(e[p.end : p.end + count])
                wanted.append(g[q.end : q.end + count])
            self.rows.append(torch.cat([e[p.start :] for p, e in zip(own, ours, strict=True)]))
        kept = self._kept_rows()
        self.found, self.wanted, self.kept = torch.cat(found), torch.cat(wanted), kept
        solver = Solver(self.found, kept, config.refine_preserve, config.ridge)
        self.fusion = Solver(torch.cat(self.rows), kept, config.fuse_preserve, config.ridge)
        self.refined: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            weight = self._exact(layer.weight.detach())
            change = solver.update(refinement_residuals(weight, self.found, self.wanted))
            self.refined[name] = change
            self.adapters.refinement[name] = change.to(layer.weight.device, torch.float32)

    def _kept_rows(self) -> Tensor:
        """All rows of the kept words in all templates, [M, D], float64; M may be 0."""
        self.kept_words = words_to_keep(self.context, self.config)
        kept = all_placed(self.family, self.templates, self.kept_words)
        texts = list(dict.fromkeys(p.text for own in kept for p in own))
        width = next(iter(self.layers.values())).in_features
        return self._token_rows(texts).reshape(-1, width)

    def _token_rows(self, prompts: list[str]) -> Tensor:
        """Rows of the text encoder, [P, L, D], float64."""
        width = next(iter(self.layers.values())).in_features
        parts = [self.family.token_embeds(prompts[i : i + 64]) for i in range(0, len(prompts), 64)]
        return torch.cat(
            [self._exact(torch.zeros(0, self.family.max_tokens, width)), *map(self._exact, parts)]
        )

    def _exact(self, values: Tensor) -> Tensor:
        """In float64, where the UNet is; on the CPU where that has no float64 (MPS)."""
        device = self.family.device
        return values.to("cpu" if device.type == "mps" else device).double()
