"""What closed-form methods share: the projections, the rows of concepts, the least squares.

A closed form edits keys and values of cross-attention, as linear maps of the token that a concept
ends with. To write one, subclass `ClosedFormErasure` and say in `update` what is solved.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from erasekit.config import Settings
from erasekit.diffusion.concept_space import concept_space
from erasekit.errors import ConfigError, ScopeError
from erasekit.methods.base import ErasureContext, ErasureMethod

PROJECTIONS = ("attn2.to_k.weight", "attn2.to_v.weight")


class MappingConfig(Settings):
    """What goes to what, and what stays."""

    guide: tuple[str, ...] = Field(
        (),
        description="concepts that the erased ones are mapped to: one for all, or one for each in "
        "their order; empty: --neutral, which is the empty prompt by default",
    )
    keep: tuple[str, ...] = Field((), description="concepts to keep, beside those of --keep")
    concept_space: str = Field(
        "",
        description="source of further words to keep: a registered one or a file; "
        "empty: the model's own",
    )
    num_concepts: int = Field(
        0,
        ge=0,
        description="keep this many words of it, nearest to the erased concepts, where "
        "no concept to keep is named",
    )


class ClosedFormConfig(MappingConfig):
    """The same, of rows that stand for concepts."""

    tokens: Literal["last", "onward"] = Field(
        "last",
        description="rows of a prompt that stand for its concept: that of its last content token, "
        "or this and all behind it, which a causal text encoder writes the concept into as well",
    )


class ClosedFormErasure(ErasureMethod):
    """Solves for keys and values of cross-attention: each step adds `update` to the weights.

    A concept is the text encoder's row of its last content token, or with `tokens=onward` each row
    from there on, mapped to the guide's rows from its last content token on. A further step starts
    from the weights of the one before.

    Attributes (after `prepare`):
        projections: key and value projections W in scope, [out, D] each, by name.
        erased: rows c_e of the erased concepts, [N, D], float64; N = E with one row each.
        guides: rows that they are mapped to, [N, D], float64.
        kept_words: what is kept.
        kept: rows c_p of what is kept, [M, D], float64; M may be 0.
    """

    Config = ClosedFormConfig
    config: ClosedFormConfig
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "steps": 1,
        "scope": "xattn-kv",
        "num_concepts": 0,
    }

    def expected_passes(self, context: ErasureContext, steps: int) -> float | None:
        return 0.0

    def prepare(self, context: ErasureContext) -> None:
        """Pick the projections in scope, and embed what goes, its guides and what stays.

        Raises:
            ScopeError: there is no key or value projection in scope.
            ConfigError: neither one guide nor one for each erased concept.
            ConceptError: a concept is both erased and kept, or too long for the tokenizer.
        """
        self.context = context
        self.projections = projections_in_scope(context)
        erased = [concept.text for concept in context.erasure.erased]
        self.erased, self.guides = self.pairs(erased, guides_of(context, self.config.guide))
        self.kept_words = words_to_keep(context, self.config)
        self.kept = self.rows(self.kept_words)

    def rows(self, prompts: list[str]) -> Tensor:
        """Rows that stand for the prompts, [M, D], as `exact` gives them."""
        width = next(iter(self.projections.values())).shape[1]
        parts = [torch.zeros(0, width), *(self.rows_of(prompt) for prompt in prompts)]
        return torch.cat([self.exact(part) for part in parts])

    def pairs(self, erased: list[str], guides: list[str]) -> tuple[Tensor, Tensor]:
        """Rows of the erased concepts, and beside each that of its guide, [N, D] both.

        Of two prompts with differently many rows, both have as many as the shorter one.
        """
        sides: tuple[list[Tensor], list[Tensor]] = [], []
        for pair in zip(erased, guides, strict=True):
            parts = [self.exact(self.rows_of(prompt)) for prompt in pair]
            for side, part in zip(sides, parts, strict=True):
                side.append(part[: min(map(len, parts))])
        return torch.cat(sides[0]), torch.cat(sides[1])

    def rows_of(self, prompt: str) -> Tensor:
        """Rows that stand for one prompt, [n, D]."""
        family = self.context.family
        if self.config.tokens == "last":
            return family.last_token_embeds([prompt])
        place = min(family.token_count(prompt), family.max_tokens) - 2
        return family.token_embeds([prompt])[0, place:]

    def exact(self, values: Tensor) -> Tensor:
        """`values` in float64, where the UNet is; on the CPU where that has no float64 (MPS)."""
        device = self.context.family.device
        return values.to("cpu" if device.type == "mps" else device).double()

    @abstractmethod
    def update(self, name: str, weight: Tensor) -> Tensor:
        """W' - W of the projection `name`, whose W is `weight` now, both [out, D], float64."""

    @torch.no_grad()
    def training_step(self, step: int) -> None:
        """Solve for every projection; None tells the Trainer that there is no gradient."""
        for name, parameter in self.projections.items():
            weight = self.exact(parameter)
            parameter.copy_(weight + self.update(name, weight))


def projections_in_scope(context: ErasureContext) -> dict[str, nn.Parameter]:
    """Key and value projections of cross-attention in scope, [out, D] each, by name.

    Raises:
        ScopeError: there is none.
    """
    found = {name: p for name, p in context.parameters.items() if name.endswith(PROJECTIONS)}
    if not found:
        raise ScopeError(
            "A closed form edits keys and values of cross-attention, and the scope has none; "
            "use --scope xattn-kv."
        )
    return found


def guides_of(context: ErasureContext, guide: tuple[str, ...]) -> list[str]:
    """The prompt that each erased concept is mapped to, [E].

    Raises:
        ConfigError: `guide` has neither none, nor one, nor one for each.
    """
    count = len(context.erasure.erased)
    guides = guide or (context.erasure.neutral,)
    if len(guides) not in (1, count):
        raise ConfigError(
            f"Setting guide={', '.join(guides)!r} names {len(guides)} concepts for {count} erased "
            "ones; name one for all, or one for each."
        )
    return list(guides) * (count // len(guides))


def words_to_keep(context: ErasureContext, config: MappingConfig) -> list[str]:
    """The concepts named by --keep and `keep`, else the nearest `num_concepts` of R; may be empty.

    Raises:
        ConceptError: one is to be erased, none is left of those named, or R is empty.
    """
    named = tuple(dict.fromkeys((*context.erasure.keep, *config.keep)))
    if named:
        erasure = replace(context.erasure, keep=named)  # refuses what is erased
        return concept_space(context.model, erasure).words
    if not config.num_concepts:
        return []
    space = context.concept_space(config.concept_space)
    return space.nearest(context.erased_features, config.num_concepts).words


def mapping_update(
    weight: Tensor,
    erased: Tensor,
    guides: Tensor,
    kept: Tensor,
    *,
    erase_scale: float,
    preserve_scale: float,
    ridge: float,
) -> Tensor:
    """W' - W, where erased rows are mapped to their guides' outputs and kept rows to their own.

    W' = argmin erase_scale sum_e ||W' c_e - W g_e||^2 + preserve_scale sum_p ||W' c_p - W c_p||^2
              + ridge ||W' - W||^2

    (Gandikota et al., WACV 2024, eq. 7). Where every guide is its erased concept, it is zero.

    Args:
        weight: W, [out, D].
        erased: c_e, [E, D].
        guides: g_e, [E, D].
        kept: c_p, [K, D]; K may be 0.
        erase_scale: not negative.
        preserve_scale: not negative.
        ridge: above 0.

    Returns:
        [out, D], float64.
    """
    keys = torch.cat([erased, kept]).double()
    targets = torch.cat([guides, kept]).double()
    weights = torch.cat(
        [keys.new_full((len(erased),), erase_scale), keys.new_full((len(kept),), preserve_scale)]
    )
    return least_squares_update(keys, (targets - keys) @ weight.double().T, ridge, weights)


def least_squares_update(
    keys: Tensor, residuals: Tensor, ridge: float, weights: Tensor | None = None
) -> Tensor:
    """Delta = argmin sum_i w_i ||Delta c_i - r_i||^2 + ridge ||Delta||^2 (Frobenius).

    Args:
        keys: c_i in rows, [N, D].
        residuals: r_i in rows, [N, out].
        ridge: above 0.
        weights: w_i, [N], none negative; None: 1.

    Returns:
        (sum_i w_i r_i c_i^T) (sum_i w_i c_i c_i^T + ridge I)^-1, [out, D], float64. Fewer rows than
        D are solved for in their own number N, which is the same by the push-through identity.
    """
    keys, residuals = keys.double(), residuals.double()
    if weights is not None:
        root = weights.double().sqrt()[:, None]
        keys, residuals = root * keys, root * residuals
    count, width = keys.shape
    identity = torch.eye(min(count, width), dtype=keys.dtype, device=keys.device)
    solution: Tensor
    if count < width:
        solution = residuals.T @ torch.linalg.solve(keys @ keys.T + ridge * identity, keys)
        return solution
    solution = torch.linalg.solve(keys.T @ keys + ridge * identity, keys.T @ residuals)
    return solution.T
