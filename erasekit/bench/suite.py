"""A suite: what is erased, what is drawn beside it, and how it is scored. All of it is data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from erasekit.bench.prompts import PAGE, EvaluatedConcept, pages
from erasekit.concepts import Erasure, Kind, normalised, split_concepts
from erasekit.errors import ConceptError, ConfigError, PluginError
from erasekit.metrics.scores import Split
from erasekit.plugin.descriptors import Descriptor, ModelConcept, ModelDescriptor, SuiteDescriptor

MOST_SEEDS, MOST_IMAGES = 1_000, 10_000
"""Erasure seeds of a sweep, and starting noises of a concept: more are a slip of the hand."""
_OPTIONS = {
    "images_per_concept": ("--images-per-concept", MOST_IMAGES),
    "images_per_erased": ("--images-per-concept", MOST_IMAGES),
    "seeds": ("--seeds", MOST_SEEDS),
    "num_inference_steps": ("--sampling-steps", 1_000),
}


@dataclass(frozen=True)
class Suite:
    """A benchmark. A new version whenever one of its numbers would change.

    Attributes:
        name: what the user types.
        version: stands in every record.
        summary: one line for listings.
        concepts: the world: what the model is known to draw. Their names and aliases are the label
            set of ESR and PSR; their families and splits decide what is evaluated.
        cases: erased sets, each a text for `split_concepts`, as in "bus+car".
        kept: names of what an erased set is evaluated on, for those that have a kept set of their
            own. It is all held out: no method may keep it on purpose.
        labels: names of each class of ESR and PSR; empty takes those of `concepts`.
        spread: names of concepts that are evaluated for every erased set; empty takes them all.
        words: how many words of the model's concept space are evaluated besides; `with_words`
            picks them once the model is loaded.
        near: how many more concepts of an erased one's family are evaluated beside it, per split,
            nearest first in the family's order.
        prompt, label: of a concept and of a class, "{}" stands for its name.
        images_per_concept, images_per_erased: starting noises per kept and per erased concept.
        num_inference_steps, guidance_scale: None takes the model's registered values.
        scorer: a registered scorer; "" takes the model's.
        classifier: what ranks the classes; "", or one whose weights are not at hand, takes the
            scorer.
        measures: further measures of each image.
        optional_measures: the same, but left out, and said so, where their weights or their
            package are not at hand.
        metrics: registered metrics that are computed beside those that every row has.
        probes: prompts that ask for what is erased, each with the seed of its one noise.
        captions: captions of anything for CLIP score and FID, the same way.
        prompts_from, captions_from: whose the user is to name; "" where the suite needs none.
        most_captions: how many of the user's captions are drawn.
        long_prompts: what becomes of a probe or caption with more tokens than the text encoder
            takes: "cut" as diffusers does, or "skip".
        remarks: sentences for the readers of its numbers.
        attacks: registered attacks on every edit, at the small budget.
        methods, seeds: what runs, and how many erasure seeds, where the user says nothing.
        along: fractions of a run, above 0 and below 1, after which it is drawn and scored too, so
            that methods can be compared at the same strength of erasure.
        full: the fields of the full protocol, where they are others than these.
        protocol: "full", or "short" where less is drawn than the full protocol asks for.
    """

    name: str
    version: str
    summary: str
    concepts: tuple[ModelConcept, ...]
    cases: tuple[str, ...] = ()
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: tuple[tuple[str, ...], ...] = ()
    spread: tuple[str, ...] = ()
    words: int = 0
    near: int = 0
    prompt: str = "{}"
    label: str = "{}"
    images_per_concept: int = 4
    images_per_erased: int = 8
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scorer: str = ""
    classifier: str = ""
    measures: tuple[str, ...] = ()
    optional_measures: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    probes: tuple[tuple[str, int], ...] = ()
    prompts_from: str = ""
    captions: tuple[tuple[str, int], ...] = ()
    captions_from: str = ""
    most_captions: int = 30_000
    long_prompts: Literal["cut", "skip"] = "cut"
    remarks: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("none", "neutral", "l2", "pgd", "random", "gumbel")
    seeds: int = 2
    along: tuple[float, ...] = ()
    full: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = "full"

    def evaluate(self, erasure: Erasure) -> list[list[EvaluatedConcept]]:
        """What is drawn for an erased set, in pages that are each drawn as one batch.

        The pages of the spread are the same for every erased set, less what is erased, so that
        most of the base model's images serve all. Where erased sets have kept sets of their own,
        each concept has a page of its own for the same reason.
        """
        images, prompt = self.images_per_erased, self.prompt
        erased = [
            EvaluatedConcept.of(c.text, "erased", self.family_of(c.names), prompt, images)
            for c in erasure.erased
        ]
        last = [
            *_pages("prompt", "probe", self.probes),
            *_pages("caption", "caption", self.captions),
        ]
        if withheld := self.withheld(erasure):
            alone = [replace(self._kept(c), split="held-out") for c in self._named(withheld)]
            return [page for concept in (*erased, *alone) for page in pages([concept], PAGE)] + last
        stays, count = self.stays(erasure), self.images_per_concept
        spread = self._named(self.spread) if self.spread else self.concepts
        free = stays - {concept.name for concept in spread}
        near = self.near_neighbours(erasure, free, self.near)
        kept = [
            [concept for concept in page if concept.concept in stays]
            for own in (spread, near)
            for page in pages([self._kept(concept) for concept in own], count)
        ]
        return [*pages(erased, images), *filter(None, kept), *last]

    def typed(self, erasure: Erasure) -> Erasure:
        """The erasure with the suite's kinds of concepts where the model knows of none.

        The default scope follows from the kind: nudity is not erased as an object is.
        """
        kinds: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
        known = {c.text: self.known([c.text]) for c in erasure.erased if c.kind == "object"}
        found = {text: kinds.get(own.kind, "object") for text, own in known.items() if own}
        erased = (replace(c, kind=found.get(c.text, c.kind)) for c in erasure.erased)
        return replace(erasure, erased=tuple(erased))

    def withheld(self, erasure: Erasure) -> tuple[str, ...]:
        """What this erased set keeps for the evaluation alone; empty in suites without kept sets.

        One that the suite does not list keeps the rest of the world.
        """
        erased = {normalised(concept.text) for concept in erasure.erased}
        for own, names in self.kept.items():
            if set(map(normalised, split_concepts(own))) == erased:
                return names
        stays = self.stays(erasure) if self.kept else set()
        return tuple(concept.name for concept in self.concepts if concept.name in stays)

    def classes(self) -> list[tuple[str, ...]]:
        """The names of each class of ESR and PSR."""
        return list(self.labels) or [(c.name, *c.aliases) for c in self.concepts]

    def fitting(self, check: Callable[[str], None]) -> Suite:
        """A copy without the concepts that `check` refuses by a `ConceptError`.

        And without such probes and captions, where long ones are not cut.
        """

        def fits(prompt: str) -> bool:
            try:
                check(prompt)
            except ConceptError:
                return False
            return True

        concepts = tuple(c for c in self.concepts if fits(self.prompt.format(c.name)))
        cut = self.long_prompts == "cut"
        probes, captions = (
            tuple(one for one in own if cut or fits(one[0])) for own in (self.probes, self.captions)
        )
        return replace(self, concepts=concepts, probes=probes, captions=captions)

    def with_words(self, words: Iterable[str]) -> Suite:
        """A copy with `self.words` of `words` among its concepts, open to every method to keep.

        Picked by a hash of the word, so the choice is arbitrary, the same everywhere, and a word
        more or less moves at most one.
        """
        known = {normalised(name) for c in self.concepts for name in (c.name, *c.aliases)}
        new = dict.fromkeys(word for word in words if normalised(word) not in known)
        found = tuple(
            ModelConcept(word, "object", "words", "pool")
            for word in _by_hash(new, self.name)[: self.words]
        )
        spread = (*self.spread, *(c.name for c in found)) if self.spread else ()
        return replace(self, concepts=(*self.concepts, *found), spread=spread, words=0)

    def scaled(self, **changes: Any) -> Suite:
        """A copy with other numbers, such as `images_per_concept=8`.

        Raises:
            ConfigError: a number that is not positive, or beyond reason.
        """
        for key, (option, most) in _OPTIONS.items():
            if changes.get(key) is not None and not 1 <= changes[key] <= most:
                raise ConfigError(f"{option} is {changes[key]}; give 1 to {most:,}.")
        given = {k: v for k, v in changes.items() if v is not None}
        if any(given[k] < getattr(self, k) for k in _OPTIONS if k in given and getattr(self, k)):
            given["protocol"] = "short"
        return replace(self, **given)

    def _named(self, names: Iterable[str]) -> list[ModelConcept]:
        wanted = set(names)
        return [concept for concept in self.concepts if concept.name in wanted]

    def near_neighbours(self, erasure: Erasure, free: set[str], count: int) -> list[ModelConcept]:
        """Members of the erased concepts' families that are `free`, `count` per split.

        Nearest in the family's order first: near neighbours stand side by side there.
        """
        found: dict[str, ModelConcept] = {}
        for erased in erasure.erased:
            home = self.known(erased.names)
            if home is None:
                continue
            family = [c for c in self.concepts if c.family == home.family]
            place = family.index(home)
            order = sorted(range(len(family)), key=lambda i: abs(i - place))
            for split in ("held-out", "pool"):
                own = [family[i] for i in order if family[i].split == split]
                own = [concept for concept in own if concept.name in free]
                found.update((c.name, c) for c in own[:count])
        return list(found.values())

    def stays(self, erasure: Erasure) -> set[str]:
        """Names of the world that are not erased: not the name, a part of it, nor an alias."""
        gone = {normalised(name) for concept in erasure.erased for name in concept.names}
        free = set(erasure.excludes(concept.name for concept in self.concepts))
        free -= {c.name for c in self.concepts if gone & set(map(normalised, c.aliases))}
        return free

    def known(self, names: Sequence[str]) -> ModelConcept | None:
        """The concept of the world that one of `names` names, by name or alias."""
        wanted = {normalised(name) for name in names}
        found = (c for c in self.concepts if wanted & set(map(normalised, (c.name, *c.aliases))))
        return next(found, None)

    def family_of(self, names: Sequence[str]) -> str:
        """The family of the concept that one of `names` names, or ""."""
        known = self.known(names)
        return known.family if known else ""

    def _kept(self, own: ModelConcept) -> EvaluatedConcept:
        split: Split = "pool" if own.split == "pool" else "held-out"
        images = self.images_per_concept
        return EvaluatedConcept.of(own.name, split, own.family, self.prompt, images)


def _pages(
    name: str, split: Split, prompts: Iterable[tuple[str, int]]
) -> Iterator[list[EvaluatedConcept]]:
    numbered = enumerate(prompts, start=1)
    return pages([EvaluatedConcept(f"{name} {i}", split, "", p, (s,)) for i, (p, s) in numbered], 1)


def build_suite(descriptor: SuiteDescriptor, model: ModelDescriptor, full: bool = False) -> Suite:
    """The suite of `descriptor` at the scale that `model` was registered with, or in full.

    Raises:
        PluginError: the target is no suite, or the model's scale names no field of it.
    """
    target = descriptor.load()
    suite = target if isinstance(target, Suite) else target(model, **descriptor.options)
    if not isinstance(suite, Suite):
        raise PluginError(
            f"The suite {descriptor.name!r} points at {descriptor.target!r}, which gives no Suite; "
            "mend its plugin."
        )
    scale: Mapping[str, Any] = model.suites.get(descriptor.name, {})
    unknown = sorted(set(scale) - {known.name for known in fields(Suite)})
    if unknown:
        raise PluginError(
            f"The model {model.name!r} scales the suite {suite.name!r} by {', '.join(unknown)}, "
            "which a suite does not have; mend its plugin."
        )
    return at_scale(suite, scale, full=full)


def at_scale(suite: Suite, scale: Mapping[str, Any] | None = None, *, full: bool = False) -> Suite:
    """A copy with the fields that a model has otherwise, or of the full protocol."""
    changes = suite.full if full else scale or {}
    short = not full and bool(scale or suite.full)
    return replace(suite, **changes, protocol="short" if short else "full")


def world_of(model: ModelDescriptor) -> tuple[ModelConcept, ...]:
    """The model's list of concepts; empty where it has none."""
    if not model.concepts:
        return ()
    return tuple(Descriptor("concepts", "", model.concepts).load()())


def spread_over_families(concepts: Sequence[ModelConcept], per_split: int, salt: str) -> list[str]:
    """Names of `per_split` held-out and as many pool concepts of each family.

    Picked by a hash of the name, so the choice is arbitrary, the same everywhere, and adding a
    concept moves at most one.
    """
    by_name = {concept.name: concept for concept in concepts}
    taken: dict[tuple[str, str], list[str]] = {}
    for concept in (by_name[name] for name in _by_hash(by_name, salt)):
        group = taken.setdefault((concept.family, concept.split), [])
        if len(group) < per_split:
            group.append(concept.name)
    return [name for group in taken.values() for name in group]


def _by_hash(names: Iterable[str], salt: str) -> list[str]:
    return sorted(names, key=lambda n: hashlib.sha256(f"{salt}/{n}".encode()).hexdigest())
