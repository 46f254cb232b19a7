"""What an attack is, and what it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from erasekit.concepts import Concept, Erasure
from erasekit.config import Settings
from erasekit.diffusion.clean_latents import CleanLatents
from erasekit.edits import Edit
from erasekit.errors import ModelError
from erasekit.methods.base import step_generator
from erasekit.models.families import ClipFamily, FamilyAdapter
from erasekit.models.loading import LoadedModel


@dataclass(frozen=True)
class Target:
    """What an attack is to succeed on: one picture of one erased concept.

    Attributes:
        concept: what the picture is to show.
        prompt: what draws it without an attack.
        seed: of its starting noise.
    """

    concept: Concept
    prompt: str
    seed: int


@dataclass(frozen=True)
class Attempt:
    """One picture that an attack asks for.

    Attributes:
        prompt: what is drawn; of an embedding, what stands for it in tables.
        added: the words in it that the attack chose; those that name the concept are counted apart.
        seed: of the starting noise; None: the target's.
        prompt_embeds: drawn in the prompt's place, [L, D].
    """

    prompt: str
    added: str = ""
    seed: int | None = None
    prompt_embeds: Tensor | None = None


class AttackSettings(Settings):
    """What all attacks have in common."""

    pictures: int = Field(50, gt=0, description="pictures drawn for a target at most")
    allow_name: bool = Field(
        False,
        description="draw prompts whose chosen words name the concept, too; where they succeed, "
        "that is counted apart",
    )


@dataclass
class AttackContext:
    """What an attack works on: the erased model theta', and theta within `unerased()`.

    Attributes:
        model: the model; its UNet has the weights of theta'.
        erasure: what was erased.
        targets: one per picture that is to show an erased concept.
        seed: of the search; take random numbers from `generator` alone.
        edit: what makes theta' of theta; None attacks the un-erased model.
        prompts: the user's, each with a seed.
        pictures: a picture of each target's concept as clean latents, [N, C, h, w], by theta.
        draw_pictures: more of them, by concept and number, [n, C, h, w].
        open: targets that no attempt has succeeded on.
        text_passes: prompts that went through the text encoder in searches.
    """

    model: LoadedModel
    erasure: Erasure
    targets: Sequence[Target]
    seed: int
    edit: Edit | None
    prompts: Sequence[tuple[str, int]]
    pictures: Callable[[], Tensor]
    draw_pictures: Callable[[Concept, int], Tensor]
    open: list[int] = field(default_factory=list)
    text_passes: int = 0
    _applied: ExitStack = field(default_factory=ExitStack)

    @property
    def family(self) -> FamilyAdapter:
        """The adapter: `predict_noise`, `embed_prompts`."""
        return self.model.family

    @property
    def clip(self) -> ClipFamily:
        """The adapter of a family whose token vectors can be searched.

        Raises:
            ModelError: the model is of another family.
        """
        if isinstance(self.family, ClipFamily):
            return self.family
        raise ModelError(
            f"The family {self.family.name!r} of {self.model.id} reads prompts by no CLIP text "
            "encoder, so its tokens can't be searched; use seed-search, paraphrase or relearn."
        )

    @property
    def concepts(self) -> list[Concept]:
        """The targets' concepts, each once."""
        return list(dict.fromkeys(target.concept for target in self.targets))

    def open_of(self, concept: Concept) -> list[int]:
        """The open targets of one concept."""
        return [row for row in self.open if self.targets[row].concept == concept]

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Random numbers of one step of the search for one purpose."""
        return step_generator(self.seed, step, purpose)

    def clean_latents(self) -> CleanLatents:
        """Each target's picture, to be noised: image i is of target i."""
        latents = self.pictures()
        return CleanLatents(self.family, latents, torch.arange(len(latents)))

    def embed_tokens(
        self, ids: Tensor, free: Tensor | None = None, vectors: Tensor | None = None
    ) -> Tensor:
        """As `ClipFamily.embed_tokens`, counted."""
        self.text_passes += len(ids)
        return self.clip.embed_tokens(ids, free, vectors)

    @contextmanager
    def erased(self) -> Iterator[None]:
        """The model as theta', for the block; an attack runs within it."""
        self._enter()
        try:
            yield
        finally:
            self._applied.close()

    @contextmanager
    def unerased(self) -> Iterator[None]:
        """Within `erased`, the model as theta, for the block."""
        self._applied.close()
        try:
            yield
        finally:
            self._enter()

    def _enter(self) -> None:
        if self.edit is not None:
            edit = replace(self.edit, registry=self.model.registry)
            self._applied.enter_context(edit.applied(self.model.pipeline, force=True))


class Attack(ABC):
    """A search for what draws a concept that was erased.

    To write one, subclass this and register it by `erasekit_register_attacks`:

        class Shouting(Attack):
            def rounds(self, context):
                for number in range(self.config.pictures):
                    yield {
                        row: Attempt(context.targets[row].prompt + "!" * number)
                        for row in context.open
                    }

    An attack goes in rounds. In each it may compute what it likes, then gives an attempt for each
    target that is still open. The attempts of a round are drawn as one batch and judged; targets
    whose picture shows the concept are closed, and `context.open` is shorter when the attack goes
    on. It ends when no target is open, the attack has no more rounds, or `pictures` rounds are
    over: so attacks and controls of the same budget have drawn as many pictures at most.

    What it needs goes into its registration (`AttackDescriptor.needs`):

    - nothing: it only asks for prompts and seeds, as anybody can who may use the model;
    - "tokens": the text encoder, whose token vectors it searches (`context.clip`);
    - "pictures": the un-erased model's pictures of the concept, or the user's (`clean_latents`);
    - "prompts": a file of the user's (`context.prompts`).

    The UNet's weights are there too (`context.family.predict_noise`, counted in passes). What an
    attempt gives is a prompt, other starting noises, or a prompt embedding. An attack may also
    change weights, if it puts them back when its generator is closed (see `relearn`).

    Prompts whose `added` words name the concept are not drawn, unless `allow_name` is set.

    Class attributes:
        Config: its hyperparameters, a subclass of `AttackSettings` with help on each field; their
            defaults are as published.
    """

    Config: ClassVar[type[AttackSettings]] = AttackSettings

    def __init__(self, config: AttackSettings) -> None:
        self.config = config

    @abstractmethod
    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """Attempts by target, a round at a time, with the model being theta'."""
