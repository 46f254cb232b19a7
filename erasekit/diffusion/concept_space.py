"""The concept space R: words, their prompt embeddings, and which lie near a concept."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from erasekit.concepts import Erasure, normalised
from erasekit.errors import (
    ConceptError,
    ConfigError,
    EditError,
    MissingExtraError,
    OutputError,
    UnknownNameError,
)
from erasekit.models.loading import LoadedModel, hash_weights
from erasekit.models.tensor_files import load_tensors, save_tensors

CACHE_VARIABLE = "ERASEKIT_CACHE"
WORTH_KEEPING = 256
"""Words from which on reading a file is quicker than the text encoder on a CPU."""
_NAME = "features"


class ConceptSpace:
    """Words of one pipeline with their prompt embeddings.

    Attributes:
        words: [K].
        features: unit vectors that nearness is measured by, [K, F].

    Args:
        prompt_embeds: [K, L, D], or what embeds words when they are first asked for: narrowing
            R needs features alone, and 3,000 embeddings take 0.7 GiB on Stable Diffusion 1.
    """

    def __init__(
        self,
        words: Sequence[str],
        prompt_embeds: Tensor | Callable[[Sequence[str]], Tensor],
        features: Tensor,
    ) -> None:
        self.words, self.features = list(words), features
        self._embeds = prompt_embeds

    @property
    def prompt_embeds(self) -> Tensor:
        """Prompt embeddings of the words, [K, L, D], frozen."""
        if not isinstance(self._embeds, Tensor):
            self._embeds = self._embeds(self.words)
        return self._embeds

    @classmethod
    def embed(cls, model: LoadedModel, words: Sequence[str]) -> ConceptSpace:
        """The space of `words`; those too long for the tokenizer are left out.

        Raises:
            ConceptError: no word is left.
        """
        fitting = []
        for word in dict.fromkeys(words):
            with suppress(ConceptError):
                model.family.check_prompt(word)
                fitting.append(word)
        if not fitting:
            raise ConceptError("The concept space is empty; name a source with words in it.")
        return cls(fitting, model.family.embed_prompts, word_features(model, fitting))

    def __len__(self) -> int:
        return len(self.words)

    def subset(self, indices: Sequence[int]) -> ConceptSpace:
        """The words at `indices`, in that order."""
        chosen = list(indices)
        embeds = self._embeds[chosen] if isinstance(self._embeds, Tensor) else self._embeds
        return ConceptSpace([self.words[i] for i in chosen], embeds, self.features[chosen])

    def similarities(self, features: Tensor) -> Tensor:
        """Cosine of every word with vectors [E, F]: [E, K]."""
        return features @ self.features.T

    def nearest(self, features: Tensor, k: int) -> ConceptSpace:
        """The k words nearest to any of the vectors [E, F], nearest first, each once."""
        best = self.similarities(features).max(dim=0).values
        order = torch.argsort(best, descending=True, stable=True)
        return self.subset(order[:k].tolist())

    def centres(self, n: int, iterations: int = 20) -> ConceptSpace:
        """n words that stand for all: each is nearest to a centre of k-means on their features.

        Spherical k-means, started farthest-first from the word nearest the mean, so the same
        words give the same centres. May give fewer than n where centres share a word.
        """
        if n >= len(self):
            return self
        chosen = [int((self.features @ self.features.mean(0)).argmax())]
        for _ in range(n - 1):
            closest = (self.features @ self.features[chosen].T).max(dim=1).values
            chosen.append(int(closest.argmin()))
        centres = self.features[chosen]
        for _ in range(iterations):
            owner = (self.features @ centres.T).argmax(dim=1)
            sums = torch.zeros_like(centres).index_add_(0, owner, self.features)
            moved = torch.nn.functional.normalize(sums, dim=-1)
            alone = torch.bincount(owner, minlength=len(centres)) == 0
            centres = torch.where(alone[:, None], centres, moved)
        picked = (self.features @ centres.T).argmax(dim=0).tolist()
        return self.subset(sorted(set(picked)))

    def nearest_word(self, prompt_embeds: Tensor) -> str:
        """The word whose prompt embedding lies nearest to one embedding [L, D] (Euclidean)."""
        distances = (self.prompt_embeds - prompt_embeds).flatten(1).norm(dim=1)
        return self.words[int(distances.argmin())]


def words_for(model: LoadedModel, source: str = "") -> list[str]:
    """Words of a registered source, or of a text file with one word a line and "#" comments.

    `source` "" takes the model's registered source.

    Raises:
        UnknownNameError: neither registered nor a file.
        ConfigError: the file can't be read as text.
    """
    source, registry = source or model.descriptor.concept_space, model.registry
    if source in registry.concept_spaces():
        return list(registry.concept_space(source).load()(model))
    path = Path(source).expanduser()
    if not path.is_file():
        raise UnknownNameError(
            "concept space", source, registry.concept_spaces(), "Or name a file, one word a line."
        )
    try:
        words = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The concept space {source!r} can't be read as text: {error}."
        ) from error
    return [word for word in words if word and not word.startswith("#")]


def concept_space(model: LoadedModel, erasure: Erasure, source: str = "") -> ConceptSpace:
    """R for an erasure: the user's kept words where there are any, else the source's.

    Never contains an erased concept or an alias of one, be it the erasure's or one the model is
    known by: keeping it would cancel its erasure. Nor a concept that the evaluation has withheld.
    """
    words = list(erasure.keep) or words_for(model, source)
    names = [name for c in erasure.erased for name in c.names] + list(erasure.withheld)
    known = (model.known_concept(name) for name in names)
    aliases = [name for c in known if c is not None for name in (c.name, *c.aliases)]
    return ConceptSpace.embed(model, erasure.excludes(words, [*aliases, *erasure.withheld]))


def model_words(model: LoadedModel) -> list[str]:
    """Source "model": the concepts the model is known to draw, without the held-out ones.

    Those are for the evaluation alone; keeping them on purpose would flatter a method.
    """
    words = [concept.name for concept in model.concepts if concept.split == "pool"]
    if not words:
        raise ConfigError(
            f"The model {model.id!r} has no list of concepts; use --set concept_space=vocabulary."
        )
    return words


def english_words(model: LoadedModel, count: int = 3000) -> list[str]:
    """Source "english": the most frequent English words that are not function words."""
    try:
        from wordfreq import top_n_list
    except ImportError as error:
        raise MissingExtraError("The concept space 'english'", "english") from error
    words = [w for w in top_n_list("en", 2 * count) if w.isascii() and w.isalpha() and len(w) > 3]
    return words[:count]


def vocabulary_words(model: LoadedModel, count: int = 3000) -> list[str]:
    """Source "vocabulary": the most frequent whole words that the tokenizer has a token for.

    A byte-pair vocabulary is in the order of its merges, frequent ones first. It marks what ends a
    word, and endings are among that ("tion"): what ends more of its words than it begins is left
    out.
    """
    vocabulary = model.pipeline.tokenizer.get_vocab()
    tokens = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
    ended = [token.removesuffix("</w>") for token in tokens if token.endswith("</w>")]
    words = [w for w in ended if w.isascii() and w.isalpha() and len(w) > 2 and normalised(w) == w]
    begun = Counter(word[:i] for word in words for i in range(3, len(word)))
    closed = Counter(word[i:] for word in words for i in range(1, len(word) - 2))
    words = [word for word in words if begun[word] >= closed[word]][:count]
    if not words:
        raise ConfigError(
            f"The tokenizer of {model.id!r} does not mark where words end; use "
            "--set concept_space=english, or name a file, one word a line."
        )
    return words


# -- features of many words, kept on disk ----------------------------------------------------------


def cache_folder() -> Path:
    """Where they are kept: `ERASEKIT_CACHE`, or the system's place for caches."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("erasekit")


def word_features(model: LoadedModel, words: Sequence[str]) -> Tensor:
    """`FamilyAdapter.word_features` of `words`, [K, F], from the cache where they are in it.

    A file is named by all that the features follow from: the weights of the text encoders, the
    family, the words, precision, device, and the libraries' versions. So models that share their
    text encoders share files. A damaged file is written anew; a folder that can't be written, or a
    full disk, costs the time alone.
    """
    if len(words) < WORTH_KEEPING:
        return model.family.word_features(words)
    path = cache_folder() / _NAME / f"{_key(model, words)}.safetensors"
    with suppress(EditError):  # none yet, or damaged
        kept, _ = load_tensors(path)
        if len(kept.get(_NAME, ())) == len(words):
            return kept[_NAME].to(model.family.device)
    features = model.family.word_features(words)
    with suppress(OutputError, OSError):
        save_tensors(path, {_NAME: features})
    return features


def _key(model: LoadedModel, words: Sequence[str]) -> str:
    family = model.family
    facts = [hash_weights(family.text_encoders()), family.name, family.max_tokens, family.dtype]
    facts += [family.device.type, version("torch"), version("transformers"), *words]
    return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()
