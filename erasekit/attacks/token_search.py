"""Search for tokens: on the simplex, by the nearest embedding, and by a genetic algorithm.

All searches work on slots: places in prompts whose tokens are free. The slots of all prompts lie in
one row-by-row list of S, so that several prompts are searched as one batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from erasekit.attacks.base import Attack, AttackContext, AttackSettings, Attempt
from erasekit.concepts import Erasure, plain_text
from erasekit.diffusion.clean_latents import NoisedBatch
from erasekit.errors import ConfigError
from erasekit.models.families import ClipFamily


class TokenSettings(AttackSettings):
    """What all searches for tokens have in common."""

    tokens: int = Field(3, gt=0, description="free tokens of a prompt")
    vocabulary: Literal["all", "words"] = Field(
        "all", description="tokens that are searched: all, or whole words alone"
    )


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that may stand in a slot.

    Attributes:
        ids: [W].
        vectors: [W, T].
    """

    ids: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, context: AttackContext, config: TokenSettings) -> Vocabulary:
        """All tokens that `config` allows.

        Raises:
            ConfigError: there are none.
        """
        family = context.clip
        ids = searched_ids(family, context.erasure, config.vocabulary == "words", config.allow_name)
        return cls(ids, family.token_table().cpu().float()[ids])

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, slots: int, generator: torch.Generator) -> Tensor:
        """Random tokens, [S], as places in `ids`."""
        return torch.randint(len(self), (slots,), generator=generator)


def searched_ids(
    family: ClipFamily, erasure: Erasure, words_only: bool = False, allow_name: bool = False
) -> Tensor:
    """Ids of the tokens of a search, [W].

    Without special tokens and, unless `allow_name`, without the tokens that the names of the erased
    concepts consist of, and words that are such a name.

    Args:
        family: whose vocabulary.
        erasure: whose concepts' names are left out.
        words_only: leave out what is no word by itself, such as the pieces of longer ones.
        allow_name: leave the names in.

    Raises:
        ConfigError: nothing is left.
    """
    tokenizer: Any = family.pipeline.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(family.token_table())) if i not in special]
    texts = texts_of(family, [[i] for i in ids])
    if words_only:
        alone = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        whole = [
            text.isalpha() and [i] == own for i, text, own in zip(ids, texts, alone, strict=True)
        ]
        ids = [i for i, keep in zip(ids, whole, strict=True) if keep]
        texts = [text for text, keep in zip(texts, whole, strict=True) if keep]
    if not allow_name:
        names = [name for concept in erasure.erased for name in concept.names]
        named = {i for own in tokenizer(names, add_special_tokens=False).input_ids for i in own}
        other = set(erasure.excludes(texts))
        ids = [i for i, t in zip(ids, texts, strict=True) if i not in named and t in other]
    if not ids:
        raise ConfigError("No token is left to search; use --set vocabulary=all.")
    return torch.tensor(ids)


def texts_of(family: ClipFamily, rows: Sequence[Any]) -> list[str]:
    """Token ids as text, without special tokens."""
    texts = family.pipeline.tokenizer.batch_decode(rows, skip_special_tokens=True)
    return [plain_text(text.replace("</w>", " ")) for text in texts]


def tokens_of(family: ClipFamily, prompt: str) -> list[int]:
    """Ids of a prompt's tokens, without begin and end of text."""
    ids: list[int] = family.token_ids([prompt])[0].tolist()
    return ids[1 : ids.index(family.pipeline.tokenizer.eos_token_id, 1)]


def laid_out(family: ClipFamily, rows: Sequence[Sequence[int | None]]) -> tuple[Tensor, Tensor]:
    """Whole rows of token ids, [N, L], and where they are free, [N, L].

    Args:
        family: whose text encoder reads them.
        rows: tokens without begin and end of text, None where one is free; what is too long loses
            its end.
    """
    tokenizer: Any = family.pipeline.tokenizer
    ids = torch.full((len(rows), family.max_tokens), tokenizer.eos_token_id)
    ids[:, 0] = tokenizer.bos_token_id
    free = torch.zeros_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        for place, token in enumerate(row[: family.max_tokens - 2], start=1):
            free[number, place] = token is None
            ids[number, place] = token or 0
    return ids, free


@dataclass(frozen=True)
class Slots:
    """Prompts with free places.

    Attributes:
        context: whose text encoder reads them.
        ids: [N, L]; a free place has any token.
        free: [N, L], S of them are true.
    """

    context: AttackContext
    ids: Tensor
    free: Tensor

    @classmethod
    def before(cls, context: AttackContext, count: int) -> Slots:
        """`count` slots before each target's prompt."""
        return cls._laid_out(context, lambda tokens: [*[None] * count, *tokens])

    @classmethod
    def alone(cls, context: AttackContext, count: int) -> Slots:
        """`count` slots in place of each target's prompt."""
        return cls._laid_out(context, lambda tokens: [None] * count)

    @classmethod
    def between(cls, context: AttackContext, every: int) -> Slots:
        """A slot before every `every` tokens of each target's prompt, and one at its end."""

        def row(tokens: list[int]) -> list[int | None]:
            parts = [tokens[i : i + every] for i in range(0, len(tokens), every)]
            laid = [place for part in parts for place in (None, *part)]
            return laid if len(tokens) % every else [*laid, None]

        return cls._laid_out(context, row)

    @classmethod
    def _laid_out(
        cls, context: AttackContext, row: Callable[[list[int]], Sequence[int | None]]
    ) -> Slots:
        """What `row` makes of the tokens of each target's prompt; None is a slot."""
        prompts = [tokens_of(context.clip, target.prompt) for target in context.targets]
        return cls(context, *laid_out(context.clip, [row(tokens) for tokens in prompts]))

    def __len__(self) -> int:
        return int(self.free.sum())

    def of(self, rows: Sequence[int]) -> Tensor:
        """Which of the S slots belong to these rows, [S], bool."""
        chosen = torch.zeros(len(self.ids), dtype=torch.bool)
        chosen[list(rows)] = True
        return chosen.repeat_interleave(self.free.sum(dim=1))

    def embed(self, vectors: Tensor, rows: Sequence[int]) -> Tensor:
        """Prompt embeddings of some rows, [R, L, D], with gradient.

        Args:
            vectors: of all slots, [S, T].
            rows: which, ascending.
        """
        own = list(rows)
        return self.context.embed_tokens(self.ids[own], self.free[own], vectors[self.of(own)])

    def attempts(self, tokens: Tensor, rows: Sequence[int]) -> dict[int, Attempt]:
        """The prompts of some rows as text.

        Args:
            tokens: ids of all slots, [S].
            rows: which.
        """
        ids = self.ids.masked_scatter(self.free, tokens)
        prompts = texts_of(self.context.clip, [ids[row] for row in rows])
        added = texts_of(self.context.clip, [ids[row][self.free[row]] for row in rows])
        return {
            row: Attempt(prompt, words)
            for row, prompt, words in zip(rows, prompts, added, strict=True)
        }


class Search(Protocol):
    """Moves the slots' tokens down a gradient."""

    def vectors(self, generator: torch.Generator) -> Tensor:
        """Vectors of hard tokens, [S, T], whose gradient moves the search."""

    def update(self) -> None:
        """Take a step along the gradient that was accumulated."""

    def tokens(self) -> Tensor:
        """The tokens found so far, [S], ids."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient.clamp(-1, 1)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard`, with a gradient that goes to `soft` as it comes, each element clipped to [-1, 1]."""
    result: Tensor = _StraightThrough.apply(hard, soft)
    return result


def project_simplex(points: Tensor) -> Tensor:
    """The nearest points of the simplex {u >= 0, sum u = 1}, [S, W].

    By sorting (Duchi et al., ICML 2008, figure 1): exact, where bisection stops at a tolerance.
    """
    ordered = points.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - 1
    ranks = torch.arange(1, points.shape[1] + 1, dtype=points.dtype, device=points.device)
    last = (ordered * ranks > excess).sum(dim=1, keepdim=True)
    return (points - excess.gather(1, last - 1) / last).clamp(min=0)


class SimplexSearch:
    """A distribution over tokens per slot, by Adam and projection on the simplex.

    Zhang et al., ECCV 2024. A token is drawn from each distribution; its gradient goes straight
    through. The token found is the likeliest one.

    Args:
        vocabulary: the tokens W.
        slots: their number S.
        learning_rate: Adam's.
        weight_decay: Adam's, coupled.
    """

    def __init__(
        self, vocabulary: Vocabulary, slots: int, learning_rate: float, weight_decay: float
    ) -> None:
        self.vocabulary = vocabulary
        width = len(vocabulary)
        self.weights = torch.full((slots, width), 1 / width, requires_grad=True)
        self._optimizer = torch.optim.Adam(
            [self.weights], lr=learning_rate, weight_decay=weight_decay
        )

    def vectors(self, generator: torch.Generator) -> Tensor:
        """Vectors of tokens drawn from the distributions, [S, T]."""
        drawn = torch.multinomial(self.weights.detach(), 1, generator=generator)[:, 0]
        hard = nn.functional.one_hot(drawn, len(self.vocabulary)).to(self.weights)
        return straight_through(hard, self.weights) @ self.vocabulary.vectors

    def update(self) -> None:
        """A step of Adam, and back on the simplex."""
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            self.weights.copy_(project_simplex(self.weights))

    def tokens(self) -> Tensor:
        """The likeliest tokens, [S], ids."""
        return self.vocabulary.ids[self.weights.argmax(dim=1)]


class NearestSearch:
    """A free vector per slot, of which the nearest token's is used.

    Wen et al., Hard Prompts Made Easy, NeurIPS 2023. Nearest by cosine; the gradient at the token's
    vector moves the free one, by AdamW.

    Args:
        vocabulary: the tokens W.
        slots: their number S.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        generator: draws the tokens to start from.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        slots: int,
        learning_rate: float,
        weight_decay: float,
        generator: torch.Generator,
    ) -> None:
        self.vocabulary = vocabulary
        start = vocabulary.vectors[vocabulary.draw(slots, generator)]
        self.points = start.clone().requires_grad_()
        self._directions = nn.functional.normalize(vocabulary.vectors, dim=1)
        self._optimizer = torch.optim.AdamW(
            [self.points], lr=learning_rate, weight_decay=weight_decay
        )

    def _nearest(self) -> Tensor:
        points = nn.functional.normalize(self.points.detach(), dim=1)
        return (points @ self._directions.T).argmax(dim=1)

    def vectors(self, generator: torch.Generator) -> Tensor:
        """Vectors of the nearest tokens, [S, T]."""
        nearest = self.vocabulary.vectors[self._nearest()]
        return self.points + (nearest - self.points).detach()

    def update(self) -> None:
        """A step of AdamW."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tokens(self) -> Tensor:
        """The nearest tokens, [S], ids."""
        return self.vocabulary.ids[self._nearest()]


def genetic_search(
    loss: Callable[[Tensor], Tensor],
    vocabulary: Vocabulary,
    length: int,
    *,
    population: int,
    generations: int,
    generator: torch.Generator,
) -> Tensor:
    """Ids of prompts with a small loss, [population, length], the best first.

    Tsai et al., ICLR 2024: the better half survives; with probability 1/2 a parent has two
    children with another, cut at a random place; with 1/4 a member has one token replaced. Unlike
    there the best one is never replaced, so that its loss does not rise.

    Args:
        loss: of prompts, ids [P, length] to [P].
        vocabulary: the tokens.
        length: tokens of a prompt.
        population: prompts of a generation.
        generations: how many.
        generator: draws all.
    """

    def chance(shape: int, probability: float) -> Tensor:
        return torch.rand(shape, generator=generator) < probability

    def draw(high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    width = len(vocabulary)
    members = vocabulary.ids[torch.randint(width, (population, length), generator=generator)]
    for generation in range(generations):
        members = members[loss(members).argsort(stable=True)]
        if generation == generations - 1:
            break
        parents = members[: max(1, population // 2)]
        own = parents[chance(len(parents), 0.5)]
        partners = parents[draw(len(parents), len(own))]
        left = torch.arange(length) < draw(length, len(own))[:, None] + 1
        children = [torch.where(left, own, partners), torch.where(left, partners, own)]
        grown = torch.cat([parents, *children])[:population]
        changed = chance(len(grown), 0.25)
        changed[0] = False
        places = draw(length, int(changed.sum()))
        mutated = grown[changed]
        mutated[torch.arange(len(places)), places] = vocabulary.ids[draw(width, len(places))]
        grown[changed] = mutated
        members = grown
    return members


class GradientSettings(TokenSettings):
    """Of a search for tokens by the UNet's gradient."""

    steps: int = Field(40, gt=0, description="steps of the search before each picture")
    learning_rate: float = Field(0.01, gt=0, description="rate of the search")
    weight_decay: float = Field(0.1, ge=0, description="weight decay of the search")
    batch_size: int = Field(8, gt=0, description="prompts that go through the UNet at once")


class GradientTokenAttack(Attack):
    """Tokens whose noise prediction comes near another one, on noised pictures of the concept.

    Minimises the mean over elements of (eps_theta'(z_t, tau(prompt)) - wanted)^2 for every open
    target at once, and draws what it has found after every `steps` steps.
    """

    Config = GradientSettings
    config: GradientSettings

    @abstractmethod
    def begin(self, context: AttackContext) -> tuple[Slots, Search]:
        """Where the free tokens stand, and how they are searched."""

    def timestep(self, context: AttackContext, number: int) -> int | None:
        """The timestep t of round `number`; None draws it uniformly for each row and step."""
        return None

    @abstractmethod
    def wanted(
        self, context: AttackContext, rows: Sequence[int], batches: Sequence[NoisedBatch]
    ) -> Sequence[Tensor]:
        """What is to be predicted for each batch, [R, C, h, w], a row per open target."""

    def rounds(self, context: AttackContext) -> Iterator[Mapping[int, Attempt]]:
        """`steps` steps, then the prompts as they are."""
        slots, search = self.begin(context)
        clean = context.clean_latents()
        for number in range(self.config.pictures):
            rows, steps = list(context.open), self.config.steps
            t = self.timestep(context, number)
            times = None if t is None else torch.full((len(rows),), t)
            generators = [context.generator(number * steps + s, "search") for s in range(steps)]
            batches = [clean.draw(torch.tensor(rows), g, times) for g in generators]
            wanted = self.wanted(context, rows, batches)
            for generator, batch, target in zip(generators, batches, wanted, strict=True):
                vectors = search.vectors(generator)
                leaf = vectors.detach().requires_grad_()
                for part in torch.split(torch.arange(len(rows)), self.config.batch_size):
                    embeds = slots.embed(leaf, [rows[i] for i in part])
                    search_loss(context, batch, embeds, target, part).backward()  # type: ignore[no-untyped-call]
                torch.autograd.backward(vectors, leaf.grad)
                search.update()
            yield slots.attempts(search.tokens(), rows)


def search_loss(
    context: AttackContext, batch: NoisedBatch, embeds: Tensor, wanted: Tensor, part: Tensor
) -> Tensor:
    """The sum over rows of the mean squared error of a noise prediction, a scalar.

    Args:
        context: whose model predicts.
        batch: noised pictures, R of them.
        embeds: prompt embeddings of the rows in `part`, [P, L, D].
        wanted: what is to be predicted, [R, C, h, w].
        part: which rows, [P].
    """
    noise_pred = context.family.predict_noise(batch.latents[part], batch.timesteps[part], embeds)
    error = noise_pred.float() - wanted[part].float()
    return error.square().flatten(1).mean(dim=1).sum()
