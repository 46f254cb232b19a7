"""Observation 2: neutral concepts lie in the middle of the sensitivity spectrum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import percentileofscore

import erasekit
from erasekit.bench.images import SheetScorer
from erasekit.bench.prompts import EvaluatedConcept, pages, paired_pages
from erasekit.bench.records import content_key
from erasekit.bench.store import RecordStore
from erasekit.bench.suite import Suite
from erasekit.bench.suites import NEUTRAL
from erasekit.concepts import Erasure, normalised
from erasekit.diffusion.concept_space import words_for
from erasekit.edits import Edit
from erasekit.errors import ConceptError
from erasekit.files import atomic_write_json
from erasekit.metrics.base import Scorer
from erasekit.metrics.judges.labels import LabelSet
from erasekit.metrics.scores import NAN, Estimate, Paired
from erasekit.metrics.statistics import crossed_interval, spearman
from erasekit.models.loading import LoadedModel
from erasekit.models.tensor_files import checksum
from erasekit.observe.observation import DELTA, Verdict, signed
from erasekit.observe.sensitivity import draw_probes, fitting_words, word_sensitivities
from erasekit.reporting.figures import (
    COLOURS,
    DASHES,
    draw_point,
    dress,
    frame,
    new_figure,
    style,
)
from erasekit.reporting.table import Column, Number, Table, percent

HALVES = 10
"""Pairs of probes up to which all half-samples are taken."""
MIDDLE = (0.25, 0.75)
"""The middle of the spectrum: the central half of the words."""
ENDS = 15
"""Words at either end of a spectrum that are listed."""
OPENINGS = {
    "held": "Held, neutral concepts lie in the middle of the spectrum",
    "not held": "Did not hold, not all neutral concepts lie in the middle of the spectrum",
    "undecided": "Can't be told whether all neutral concepts lie in the middle of the spectrum",
}

_PLACE = Number(0, share=True, interval=True)


@dataclass(frozen=True)
class MarkedWord:
    """A word with its place in the spectrum.

    `quantile` is the share of words that are less sensitive, a tie counts half; `low` and `high`
    are its 95 % limits over other noises at the same timesteps.
    """

    word: str
    sensitivity: float
    quantile: float
    low: float
    high: float

    @property
    def place(self) -> Estimate:
        """The quantile with its limits."""
        return Estimate(self.quantile, 1, 0, self.low, self.high)


@dataclass(frozen=True)
class SampledWord:
    """A word of the spectrum whose images were drawn: its sensitivity beside its delta."""

    word: str
    sensitivity: float
    quantile: float
    delta: Estimate


@dataclass(frozen=True)
class SpectrumResult:
    """Observation 2: the words, least sensitive first, and a `sample` of them with delta.

    `correlation` is Spearman's, of sensitivity and delta over the sample. `reliability` is the
    rank correlation of sensitivities from two halves of the probes, stepped up to the whole.
    """

    erased: str
    words: tuple[str, ...]
    sensitivities: tuple[float, ...]
    neutral: tuple[MarkedWord, ...]
    targets: tuple[MarkedWord, ...]
    sample: tuple[SampledWord, ...]
    correlation: Estimate
    probes: int
    reliability: float
    verdict: Verdict
    sentence: str
    remarks: tuple[str, ...] = ()

    def tables(self) -> list[Table]:
        """The marked words, the sample, and both ends of the spectrum."""

        def sensitivity(key: str = "sensitivity", heading: str = "") -> Column:
            return Column(key, heading, lambda v: "-" if math.isnan(v) else f"{v:.3g}", left=False)

        marked = [
            {
                "word": word.word or '""',
                "nature": nature,
                "sensitivity": word.sensitivity,
                "quantile": word.place,
            }
            for nature, words in (("neutral", self.neutral), ("erased", self.targets))
            for word in words
        ]
        columns = [
            Column("word"),
            sensitivity(),
            Column("quantile", "less sensitive words", _PLACE),
        ]
        pairs = list(zip(self.words, self.sensitivities, strict=True))
        count = min(ENDS, len(pairs))
        ends = [
            Column("most sensitive"),
            sensitivity("of the most", " "),
            Column("least sensitive"),
            sensitivity("of the least", " "),
        ]
        keys = [column.key for column in ends]
        rows = [
            dict(zip(keys, (*most, *least), strict=True))
            for most, least in zip(pairs[::-1][:count], pairs[:count], strict=True)
        ]
        return [
            Table(
                f"Among {len(self.words)} words",
                [columns[0], Column("nature", " "), *columns[1:]],
                marked,
            ),
            Table(
                "A sample along the spectrum", [*columns, Column("delta", write=DELTA)], self.sample
            ),
            Table(f"The {count} most and the {count} least sensitive words", ends, rows),
        ]

    def figure(self) -> Figure:
        """The histogram of sensitivities with its marks, above the sample's deltas."""
        figure = new_figure(8, 7)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes in (upper, lower):
            dress(axes)
        values, size = self.sensitivities, len(self.words)
        bins: Any = min(60, max(10, size // 10))
        if 0 < values[0] < values[-1]:
            upper.set_xscale("log")
            lower.xaxis.set_major_formatter("{x:g}")  # the usual one writes mathematics
            lower.xaxis.set_minor_formatter("{x:g}" if values[-1] < 10 * values[0] else "")
            bins = np.geomspace(values[0], values[-1], bins + 1)
        upper.axvspan(
            values[int(MIDDLE[0] * (size - 1))],
            values[int(MIDDLE[1] * (size - 1))],
            color="0.9",
            label="middle half of the words",
        )
        upper.hist(values, bins=bins, color="0.65", edgecolor="white", linewidth=0.4)
        for kind, marked, width, colour in (
            ("neutral", self.neutral, 2, COLOURS[0]),
            ("erased", self.targets, 3.5, COLOURS[1]),
        ):
            for i, word in enumerate(marked):
                label = f'{kind}: "{word.word}", above {percent(word.quantile)}'
                look = {"linestyle": DASHES[i % len(DASHES)], "linewidth": width}
                upper.axvline(word.sensitivity, color=colour, label=label, **look)
        upper.set_ylabel("words")
        upper.set_title(f"erased: {self.erased}; {size} words", fontsize="medium")
        figure.legend(fontsize="small", loc="outside upper center", ncols=2)
        for drawn in self.sample:
            draw_point(lower, style(0), x=drawn.sensitivity, y=drawn.delta)
            if not math.isnan(drawn.delta.value):
                at = (drawn.sensitivity, drawn.delta.value)
                beside: dict[str, Any] = {"xytext": (4, 3), "textcoords": "offset points"}
                lower.annotate(drawn.word, at, fontsize="x-small", **beside)
        frame(lower, [word.delta.value for word in self.sample], upright=True)
        lower.axhline(0, color="black", linewidth=0.8)
        lower.set_ylabel("delta of its images")
        lower.set_xlabel("sensitivity: mean squared change of the noise prediction")
        return figure


@dataclass(frozen=True)
class SpectrumWords:
    """The words that the spectrum is of, the neutral concepts, and the erased ones."""

    space: tuple[str, ...]
    neutral: tuple[str, ...]
    erased: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """All of them, each once."""
        return [*self.space, *self.neutral, *self.erased]


def spectrum_words(
    model: LoadedModel, edit: Edit, source: str = "", neutral: Sequence[str] = NEUTRAL
) -> SpectrumWords:
    """The words of a spectrum; the space has neither erased nor neutral ones.

    Args:
        model: what the edit was made from.
        edit: whose erased concepts are left out.
        source: of the space, a registered one or a file; "" takes all concepts that the model is
            known to draw, held-out ones too, or its registered source where it has no list.
        neutral: the neutral concepts.

    Raises:
        ConceptError: no word is left, or a neutral one does not fit the tokenizer.
        UnknownNameError: an unknown source.
    """
    erasure = Erasure(tuple(model.concept(text) for text in edit.info["concepts"]))
    if not source and model.concepts:
        words = [concept.name for concept in model.concepts]
    else:
        words = words_for(model, source)
    for word in neutral:
        model.family.check_prompt(word)
    aside = {normalised(word) for word in neutral}
    space = [w for w in fitting_words(model, erasure.excludes(words)) if normalised(w) not in aside]
    if not space:
        raise ConceptError("The spectrum has no words; name another source with --words.")
    return SpectrumWords(
        tuple(space), tuple(dict.fromkeys(neutral)), tuple(c.text for c in erasure.erased)
    )


def edit_key(edit: Edit) -> str:
    """Content hash of an edit: its base model, every bit of its tensors, its inference part."""
    part = edit.inference.identity if edit.inference is not None else ""
    return content_key([edit.base_hash, checksum(edit.tensors), part])


def kept_sensitivities(
    store: RecordStore,
    model: LoadedModel,
    edit: Edit,
    words: Sequence[str],
    probes: int,
    on_words: Callable[[int], None] = lambda count: None,
) -> NDArray[np.float64]:
    """`word_sensitivities` at `probes` probes, [K, W], measured where the store has none.

    Raises: as `draw_probes` and `word_sensitivities`.
    """
    identity = {
        "model": model.hash,
        "edit": edit_key(edit),
        "words": list(words),
        "probes": probes,
        "steps": model.descriptor.num_inference_steps,
        "dtype": str(model.family.dtype),
        "erasekit": erasekit.__version__,
    }
    path = store.root / "sensitivities" / f"{content_key(identity)}.json"
    try:
        found = np.array(json.loads(path.read_text(encoding="utf-8"))["values"], dtype=np.float64)
        if found.shape == (probes, len(words)):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole: it is measured anew
    values = word_sensitivities(model, edit, words, draw_probes(model, probes), on_words=on_words)
    atomic_write_json(path, {"values": values.tolist(), **identity})
    return values


def sample_places(sensitivities: NDArray[np.float64], count: int) -> list[int]:
    """Indices of `count` words spread evenly over the ranks, least sensitive first."""
    order = np.argsort(sensitivities, kind="stable")
    count = min(count, len(order))
    return [int(order[int((i + 0.5) * len(order) / count)]) for i in range(count)]


def drawn_deltas(
    sheets: SheetScorer, edit: Edit, suite: Suite, words: Sequence[str]
) -> list[Paired]:
    """Images of `words` before and after an edit at the same noise, scored; kept in the store.

    Args:
        sheets: draws and scores on the model that the edit was made from.
        edit: the edit.
        suite: the prompt, the labels, and how many images a word has.
        words: what is drawn.
    """
    labels = LabelSet(suite.classes(), suite.label)
    evaluated = []
    for word in words:
        labels = labels.including((word,))
        family, images = suite.family_of([word]), suite.images_per_concept
        evaluated.append(EvaluatedConcept.of(word, "held-out", family, suite.prompt, images))
    laid_out = list(pages(evaluated, suite.images_per_concept))
    base, key = sheets.model.hash, edit_key(edit)
    before = [sheets.scores(sheets.sheet(tuple(page), base), labels) for page in laid_out]
    after = [sheets.scores(sheets.sheet(tuple(page), key), labels, edit) for page in laid_out]
    sheets.finish()
    return list(paired_pages(laid_out, before, after))


def spectrum(
    model: LoadedModel,
    edit: Edit,
    scorer: Scorer,
    store: RecordStore,
    suite: Suite,
    words: SpectrumWords,
    *,
    probes: int,
    sample: int,
    on_words: Callable[[int], None] = lambda count: None,
    on_images: Callable[[int], None] = lambda count: None,
) -> SpectrumResult:
    """The sensitivity of every word, and the delta of a sample of them.

    Args:
        model: what the edit was made from; it is left as it was.
        edit: the edit.
        scorer: scores the sample's images.
        store: what it has is not computed again.
        suite: how images are drawn and scored, and how many a word has.
        words: from `spectrum_words`.
        probes: points that a sensitivity is the mean over.
        sample: words whose images are drawn.
        on_words: called with the number of words just measured.
        on_images: called with the number of images just drawn.

    Raises:
        ConfigError: an impossible number of probes.
        EditError: the edit is of another model.
    """
    store.prepare()
    values = kept_sensitivities(store, model, edit, words.all, probes, on_words)
    size = len(words.space)
    space, means = values[:, :size], values[:, :size].mean(axis=0)
    chosen = sample_places(means, sample)
    sheets = SheetScorer(model, scorer, store, suite, on_images)
    drawn = drawn_deltas(sheets, edit, suite, [words.space[i] for i in chosen])
    sampled = tuple(
        SampledWord(
            words.space[i],
            float(means[i]),
            quantile_of(means[i], means),
            crossed_interval(np.array(paired.deltas)[None, :, None]),
        )
        for i, paired in zip(chosen, drawn, strict=True)
    )
    marked = marked_words(words.all[size:], values[:, size:], space)
    neutral, targets = marked[: len(words.neutral)], marked[len(words.neutral) :]
    verdict, agreement = spectrum_verdict(neutral), reliability(space)
    correlation = spearman([w.sensitivity for w in sampled], [w.delta.value for w in sampled])
    order = np.argsort(means, kind="stable")
    places = ", ".join(f'"{word.word}" {_PLACE.whole(word.place)}' for word in neutral)
    told = "unknown" if math.isnan(agreement) else f"{agreement:.2f}"
    return SpectrumResult(
        "+".join(words.erased),
        tuple(words.space[i] for i in order),
        tuple(float(means[i]) for i in order),
        neutral,
        targets,
        sampled,
        correlation,
        probes,
        agreement,
        verdict,
        f"{OPENINGS[verdict]} (its central half): of {size} words, the share less sensitive is "
        f"{places}.",
        (
            f"Spearman's rank correlation of sensitivity and delta is {signed(correlation)} over "
            f"{correlation.n} words.",
            f"The reliability of the words' ranks over {probes} probes is {told} (1 is best).",
        ),
    )


def quantile_of(value: float, space: NDArray[np.float64]) -> float:
    """Share of `space` below `value`; a tie counts half."""
    return float(percentileofscore(space, value, kind="mean")) / 100


def half_samples(probes: int) -> NDArray[np.float64]:
    """Weights [R, K] of means over half of the probes: of each pair one, with twice its weight.

    All 2^pairs of them, or 1,024 drawn ones. The spread of a linear statistic over them is its
    standard error over pairs (McCarthy, Review of the International Statistical Institute 37,
    1969). An odd last probe stays in all.
    """
    pairs = probes // 2
    if pairs <= HALVES:
        chosen = (np.arange(2**pairs)[:, None] >> np.arange(pairs)) & 1
    else:
        chosen = np.random.default_rng(0).integers(0, 2, size=(2**HALVES, pairs))
    weights = np.ones((len(chosen), probes))
    weights[:, 0 : 2 * pairs : 2] = 2 * chosen
    weights[:, 1 : 2 * pairs : 2] = 2 - 2 * chosen
    return weights


def marked_words(
    words: Sequence[str], values: NDArray[np.float64], space: NDArray[np.float64]
) -> tuple[MarkedWord, ...]:
    """Where words lie among those of the space.

    Limits are over other noises at the same timesteps, from half-samples of the probes.

    Args:
        words: M words.
        values: their s_k(c), [K, M].
        space: of the space's words at the same probes, [K, W].
    """
    probes, pairs = len(space), len(space) // 2
    weights, means = half_samples(probes), space.mean(axis=0)
    halved = weights @ space / probes
    marked = []
    for word, own in zip(words, values.T, strict=True):
        quantile = quantile_of(own.mean(), means)
        low = high = NAN
        if pairs:
            places = weights @ own / probes
            others = np.array([quantile_of(*both) for both in zip(places, halved, strict=True)])
            error = math.sqrt(((others - quantile) ** 2).mean())
            reach = float(stdtrit(pairs, 0.975)) * error
            low, high = max(quantile - reach, 0.0), min(quantile + reach, 1.0)
        marked.append(MarkedWord(word, float(own.mean()), quantile, low, high))
    return tuple(marked)


def reliability(space: NDArray[np.float64]) -> float:
    """Rank correlation of two halves of the probes over the words, stepped up to all of them.

    Halves are every other probe, so that both have all timesteps; 2 r / (1 + r) is the formula
    of Spearman and Brown (1910). NaN with one probe.

    Args:
        space: s_k(c), [K, W].
    """
    if len(space) < 2:
        return NAN
    r = spearman(space[::2].mean(axis=0).tolist(), space[1::2].mean(axis=0).tolist()).value
    return 2 * r / (1 + r) if r > -1 else NAN


def spectrum_verdict(neutral: Sequence[MarkedWord]) -> Verdict:
    """Held where every neutral concept's limits lie in the middle; not, where one's lie outside."""
    low, high = MIDDLE
    if any(word.high < low or word.low > high for word in neutral):
        return "not held"
    if neutral and all(low <= word.low and word.high <= high for word in neutral):
        return "held"
    return "undecided"
