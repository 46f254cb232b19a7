"""The tables of a single erasure: what was measured, its history, its adversaries, its settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erasekit.metrics.scores import Estimate, number
from erasekit.reporting.table import Column, Number, Table

Record = Mapping[str, Any]
"""One line of `history.jsonl`; see docs/interface.md."""
NEARLY = 0.05
"""A search whose entropy is short of the uniform one's by less than this share found nothing."""

_COUNT = Number(0)


def measures_tables(measures: Mapping[str, Any]) -> tuple[Table, Table]:
    """What an erasure did to the erased concepts, and what it cost the others.

    Args:
        measures: what `Measured.as_dict` gives, as `measures.json` has it.
    """

    def estimate(row: Record, key: str, limits: str) -> Estimate:
        low, high = map(number, row.get(limits) or (None, None))
        return Estimate(number(row[key]), row["n"], 0, low, high)

    images = Column("n", "images", _COUNT, help="Pairs of images that went in")
    erased = Table(
        "Erased",
        [
            Column("concept"),
            Column(
                "alignment",
                "alignment\nbefore → after",
                Number(1),
                "lower",
                lambda row: (number(row["alignment_before"]), number(row["alignment_after"])),
            ),
            Column(
                "esr1",
                "ESR-1\nbefore → after",
                Number(0, share=True, interval=True),
                "higher",
                lambda row: (number(row.get("esr1_before")), estimate(row, "esr1", "esr1_ci95")),
            ),
            images,
        ],
        measures["erased"],
    )
    mean = {
        "concept": "mean",
        "delta": measures.get("delta_mean"),
        "ci95": measures.get("delta_ci95"),
        "n": sum(row["n"] for row in measures["kept"]),
        "family": "",
        "split": "",
    }
    kept = Table(
        "What it cost",
        [
            Column("concept"),
            Column(
                "delta",
                "delta [95 %]",
                Number(2, sign=True, interval=True),
                "lower",
                lambda row: estimate(row, "delta", "ci95"),
            ),
            images,
            Column("family"),
            Column("split", narrow=(1, None)),
        ],
        [*([mean] if mean["delta"] is not None else []), *measures["kept"]],
        [
            f"alignment: 100 x cosine by {measures['scorer']}. delta: alignment lost at the same "
            "starting noise; 0 is best."
        ],
        pinned=lambda row: row is mean,
    )
    return erased, kept


def settings_table(settings: Mapping[str, Mapping[str, Sequence[str]]]) -> Table:
    """Hyperparameters, a column per method."""
    names = dict.fromkeys(name for own in settings.values() for name in own)
    rows = [
        {"setting": name, **{m: " or ".join(own.get(name, ("-",))) for m, own in settings.items()}}
        for name in names
    ]
    columns = map(Column, ("setting", *settings))
    return Table("Hyperparameters as they were used", list(columns), rows)


@dataclass(frozen=True)
class AdversaryUse:
    """One adversarial concept of one erased concept.

    `word` is the adversarial word; for a free embedding, the word nearest to it. It was chosen in
    `steps` steps, from `first` to `last`.
    """

    erased: str
    word: str
    steps: int
    first: int
    last: int


def adversary_uses(history: Iterable[Record], most: int = 0) -> list[AdversaryUse]:
    """The adversarial concepts of each erased concept, most used first; `most` of each, 0 all."""
    seen: dict[str, dict[str, list[int]]] = {}
    for record in history:
        for entry in record.get("adversary") or ():
            chosen = entry.get("concept") or entry.get("nearest") or ""
            for word in filter(None, chosen.split(", ")):
                own = seen.setdefault(entry["erased"], {})
                own.setdefault(word, []).append(record["step"])
    uses = []
    for erased, words in sorted(seen.items()):
        found = [AdversaryUse(erased, w, len(s), min(s), max(s)) for w, s in words.items()]
        uses += sorted(found, key=lambda use: (-use.steps, use.first))[: most or None]
    return uses


def adversaries_heading(info: Mapping[str, Any]) -> str:
    """What the words that a run has kept are called, by its `edit.json`."""
    return "Adversarial concepts" if info.get("adversarial", True) else "Kept concepts"


def adversaries_table(
    uses: Sequence[AdversaryUse], info: Mapping[str, Any], history: Iterable[Record]
) -> Table:
    """The concepts that a run kept most, and whether a search for them has found any."""
    columns = [
        Column("word", "preserved"),
        Column("erased", "beside"),
        Column("steps", write=_COUNT),
        Column("first", "first step", _COUNT),
        Column("last", "last step", _COUNT),
    ]
    title = f"{adversaries_heading(info)}, preserved beside the erased ones"
    return Table(title, columns, uses, _undecided(history))


def _undecided(history: Iterable[Record]) -> list[str]:
    """A sentence on the erased concepts whose search ended within 5 % of uniform; [] of none."""
    rows = [record["adversary"] for record in history if record.get("adversary")]
    found = [
        f"{entry['erased']!r} (entropy {entry['entropy']:.2f} of at most {entry['uniform']:.2f})"
        for entry in (rows[-1] if rows else ())
        if entry.get("uniform") and entry["entropy"] >= (1 - NEARLY) * entry["uniform"]
    ]
    sentence = (
        f"The search ended within {NEARLY:.0%} of uniform, so that what was kept are nearly random "
        f"words, beside {', '.join(found)}."
    )
    return [sentence] if found else []


def ranks(history: Iterable[Record]) -> list[dict[str, Any]]:
    """Where the harm of R was measured: step, erased, words kept then, and their mean `rank`, the
    share of R that is harmed more."""
    return [
        {
            "step": record["step"],
            "erased": entry["erased"],
            "words": entry["concept"] or entry["nearest"],
            "rank": entry["rank"],
        }
        for record in history
        for entry in record.get("adversary") or ()
        if entry.get("rank") is not None
    ]


def ranks_table(history: Iterable[Record]) -> Table:
    """How much of R was harmed more than what was kept, at the steps where that was measured."""
    return Table(
        "Harm of what was kept, where it was measured",
        [
            Column("step", write=_COUNT),
            Column("words", "preserved"),
            Column("erased", "beside"),
            Column("rank", "of R, harmed more", Number(0, share=True)),
        ],
        ranks(history),
    )


def sampled(history: Sequence[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread, the first and the last among them."""
    if len(history) <= count:
        return list(history)
    if count == 1:
        return [history[-1]]
    stride = (len(history) - 1) / (count - 1)
    return [history[round(i * stride)] for i in range(count)]


def history_table(history: Sequence[Record], count: int = 12, title: str = "") -> Table:
    """The losses and the adversary of `count` steps along a run, a row per erased concept."""
    shown = sampled(history, count)
    nothing: Sequence[Record] = ({},)
    rows = [(record, one) for record in shown for one in record.get("adversary") or nothing]
    several = len({one.get("erased") for _, one in rows}) > 1

    def loss(key: str) -> Column:
        return Column(key, key[:-5] or key, Number(5), value=lambda row: number(row[0][key]))

    def found(key: str, heading: str = "", write: Number | None = None) -> Column:
        def value(row: tuple[Record, Record]) -> Any:
            return number(row[1].get(key)) if write else row[1].get(key) or None

        return Column(key, heading, write or str, value=value, optional=True)

    return Table(
        title or f"{len(shown)} of {len(history)} steps",
        [
            Column("step", write=_COUNT, value=lambda row: row[0]["step"]),
            *map(loss, ("loss", "erase_loss", "preserve_loss")),
            *([found("erased")] if several else []),
            found("concept", "preserved"),
            found("nearest"),
            found("entropy", write=Number(2)),
            found("shift", "moved", Number(1, share=True)),
        ],
        rows,
    )
