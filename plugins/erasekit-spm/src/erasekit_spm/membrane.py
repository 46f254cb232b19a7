"""The inference part: adapters on the UNet, opened as far as a prompt is like the concept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pydantic import Field
from torch import Tensor

from erasekit.config import Settings
from erasekit.diffusion.inference_parts import InferencePart, Merged
from erasekit.errors import EditError
from erasekit.models.families import FamilyAdapter
from erasekit_spm.adapters import DOWN, UP, adapters_installed, product
from erasekit_spm.transport import (
    KnownTokens,
    Rule,
    concept_tokens,
    cosines,
    overlap,
    strengths,
)


class MembraneConfig(Settings):
    """Settings of the inference part."""

    concepts: tuple[str, ...] = Field(
        min_length=1, description="the erased concepts, in the order of the adapters"
    )
    transport: Rule = Field("max", description="how cosine and token overlap make a strength")


class Membranes(InferencePart):
    """Adapters of one or several concepts."""

    Config = MembraneConfig
    config: MembraneConfig
    kind = "adapter"

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """v and u by the name of their layer."""
        names = [name.removesuffix(DOWN) for name in self.tensors if name.endswith(DOWN)]
        return {name: (self.tensors[name + DOWN], self.tensors[name + UP]) for name in names}

    def check(self, family: FamilyAdapter) -> None:
        """Check that the model has the layers.

        Raises:
            EditError: it has not.
        """
        weights = {name: p.shape for name, p in family.unet.named_parameters()}
        _ = self._changes(weights)

    def _changes(self, weights: Mapping[str, object]) -> dict[str, Tensor]:
        try:
            changes = {f"{n}.weight": product(v, u) for n, (v, u) in self.factors.items()}
        except (KeyError, RuntimeError) as error:
            raise EditError(f"The adapters of this edit are damaged ({error}).") from error
        for name, change in changes.items():
            if weights.get(name) != change.shape:
                raise EditError(
                    f"The adapters of this edit do not fit the model: it has no {name!r} of shape "
                    f"{tuple(change.shape)}; load the model they were made for."
                )
        return changes

    @contextmanager
    def installed(self, family: FamilyAdapter) -> Iterator[None]:
        concepts = family.embed_prompts(self.config.concepts)
        wanted = [concept_tokens(family, concept) for concept in self.config.concepts]
        known = KnownTokens(family)

        def opened(prompt_embeds: Tensor) -> Tensor:
            overlaps = []
            for row in prompt_embeds:
                tokens = known.of(row)
                overlaps.append(None if tokens is None else [overlap(tokens, w) for w in wanted])
            found = cosines(prompt_embeds, concepts[:, : prompt_embeds.shape[1]])
            return strengths(found, overlaps, self.config.transport)

        def placed(v: Tensor, u: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
            pair = v.to(family.device), u.to(family.device)
            return lambda: pair

        factors = {name: placed(v, u) for name, (v, u) in self.factors.items()}
        with known.listening(), adapters_installed(family.unet, factors, opened):
            yield

    def merged(self, parameters: Mapping[str, Tensor]) -> Merged:
        """W + sum_e u_e v_e^T: the adapters wide open for every prompt."""
        changes = self._changes({name: value.shape for name, value in parameters.items()})
        tensors = {
            name: parameters[name].detach().cpu().float() + change.cpu()
            for name, change in changes.items()
        }
        loss = ""
        if self.config.transport != "none":
            loss = (
                "In weights the adapters of this edit are wide open for every prompt, whatever it "
                f"says: the transport {self.config.transport!r} is lost."
            )
        return Merged(tensors, loss)
